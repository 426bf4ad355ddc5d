"""The key for packages: RSA, which every rpm verifies, with an OpenPGP certificate; kept as the other keys are.

In the folder of keys, packages.asc holds the certificates, in the form of RPM-GPG-KEY-rfo: the first one's key signs,
the others did before, so that older releases stay verifiable. Its private part is packages.key (PKCS#8 in PEM), or it
is elsewhere: packages.uri is a securesystemslib signer URI, packages.command a line that is run for each signature,
with what is to be signed on its standard input; it prints a binary OpenPGP signature. `{time}` in it stands for the
seconds since 1970 that the signature has to say, as in `gpg --faked-system-time {time}! --detach-sign …`.

How one comes after another: `pipeline.attest.succession`.
"""

import shlex
import subprocess
import time as clock
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.attest.keys import DEVELOPMENT_ID, PACKAGES, Secret, Signing, keys_folder, load_signing, read_id
from pipeline.attest.openpgp import (
    MAX_CERTIFICATES,
    MAX_SIGNATURE,
    Certificate,
    Public,
    checked_packet,
    signature,
)
from pipeline.attest.openpgp import read_certificates as parse_certificates
from pipeline.errors import TrustError

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

    from pipeline.context import Context

CERTIFICATES = f"{PACKAGES}.asc"
NEXT = f"{PACKAGES}-next"
"""What files of a key begin with that is not in force yet."""
PRIVATE = ("key", "uri", "command")
"""Suffixes of what signs."""
SCHEME = "rsa-pkcs1v15-sha256"
COMMAND_SECONDS = 300
"""A person may have to touch a token or type a PIN."""
WARN_SECONDS = 60 * 86400
"""Before a key expires."""
TOLERANCE = 60
"""Seconds that the clock of who signs elsewhere may be ahead."""


@dataclass(frozen=True)
class Packager:
    """The key for packages, ready to sign."""

    certificate: Certificate
    make: Callable[[bytes, int], bytes]

    def sign(self, message: bytes, time: int) -> bytes:
        """The packet of a detached signature that says it was made at `time`. Raises TrustError."""
        self.refuse_unable(time)
        return self.make(message, time)

    def refuse_unable(self, time: int) -> None:
        """Raise TrustError if the key may not sign now, or not with that time."""
        public, expires = self.certificate.public, self.certificate.expires
        now = int(clock.time())
        if public.created > now:
            raise TrustError(
                f"the key for packages was made at {_date(public.created)}, and here it is {_date(now)}",
                "set the host's clock",
            )
        if time < public.created:
            raise TrustError(f"signature time {_date(time)} is before the key was made, {_date(public.created)}")
        if expires is not None and max(now, time) >= expires:
            raise TrustError(
                f"the key for packages expired at {_date(expires)}",
                "make another one, which leaves old packages verifiable: ./inv keys rotate --role packages",
            )


def read_certificates(folder: Path) -> bytes:
    """The content of packages.asc, which becomes RPM-GPG-KEY-rfo; empty if there is none. Raises TrustError."""
    return read_file(folder / CERTIFICATES) if known_certificates(folder) else b""


def known_certificates(folder: Path) -> list[Certificate]:
    """Those of packages.asc, the one that signs first; none if there is no such file. Raises TrustError."""
    path = folder / CERTIFICATES
    return parse_file(path) if path.exists() else []


def load_packager(folder: Path, secret: Secret | None = None) -> Packager:
    """The key for packages. Raises TrustError: there is none, others can read it, it is not the certificate's, …"""
    known = known_certificates(folder)
    stopped = (folder / f"{NEXT}.asc").exists()
    if not known:
        remedy = "go on" if stopped else "make one"
        raise TrustError(f"there is no key for packages in {folder}", f"{remedy}: ./inv keys new --role packages")
    command = folder / f"{PACKAGES}.command"
    try:
        if command.exists():
            return Packager(known[0], command_signer(command, known[0]))
        signing = load_signing(PACKAGES, folder, secret, sslib_key(known[0].public))
    except TrustError as error:
        if stopped:
            error.hint += "; if a change of the key was stopped, go on: ./inv keys rotate --role packages"
        raise
    return Packager(known[0], key_signer(signing, known[0].public))


def have_packages_key(context: "Context") -> None:
    """Make a development key for packages if there is none at all, and say so. Raises UsageError, TrustError.

    A host without any key gets a whole trust root for development. Of a key that expires soon it says so.
    """
    folder = keys_folder()
    if known := known_certificates(folder):
        expires = known[0].expires
        if expires is not None and expires < clock.time() + WARN_SECONDS:
            remedy = "./inv keys announce --role packages, see docs/trust.md"
            context.progress.say(f"  warning: the key for packages expires at {_date(expires)}: {remedy}")
        return
    if (folder / "builder.id").exists() and not read_id("builder", folder).startswith(DEVELOPMENT_ID):
        raise TrustError(
            f"there is no key for packages in {folder}, whose builder is none for development",
            "make one: ./inv keys new --role packages, see docs/trust.md",
        )
    with context.store.exclusive("keys"):
        from pipeline.engine import HERE
        from pipeline.trust.development import ensure_development, make_packages_key

        if not any(folder.glob("*.pub")):
            ensure_development(HERE.parent, context.progress)
        if make_packages_key(folder):
            context.progress.say(f"  made a DEVELOPMENT key for packages in {folder}: it proves nothing to others")


def key_signer(signing: Signing, public: Public) -> Callable[[bytes, int], bytes]:
    """Signs by a key, and looks whether it did: a signer that is elsewhere may have another key or padding."""

    def make(message: bytes, time: int) -> bytes:
        try:
            return checked_packet(signature(public, signing.sign, message, time), public, message)[0]
        except ValueError as error:
            raise TrustError(f"what the signer of packages gave is refused: {error}") from error

    return make


def command_signer(path: Path, own: Certificate) -> Callable[[bytes, int], bytes]:
    """Signs by the command in a file, whose output is believed only as far as it verifies. Raises TrustError."""
    words = _read_command(path)
    timed = any("{time}" in word for word in words)

    def make(message: bytes, time: int) -> bytes:
        line = [word.replace("{time}", str(time)) for word in words]
        shown = shlex.join(line)[:200]
        try:
            done = subprocess.run(
                line, input=message, stdout=subprocess.PIPE, timeout=COMMAND_SECONDS, check=False
            )  # what it says to a person goes to standard error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TrustError(f"the command that signs packages cannot be run: {shown}: {error}") from error
        if done.returncode:
            raise TrustError(f"the command that signs packages ended with status {done.returncode}: {shown}")
        try:
            packet, told = checked_packet(done.stdout[: MAX_SIGNATURE + 1], own.public, message)
        except ValueError as error:
            raise TrustError(f"what the command that signs packages gave is refused: {error}\n  {shown}") from error
        if told != time and (timed or not time <= told <= clock.time() + TOLERANCE):
            raise TrustError(
                f"the command that signs packages gave a signature of {_date(told)}; expected {_date(time)}\n  {shown}",
                "let it say the time that {time} in the line stands for",
            )
        return packet

    return make


def _read_command(path: Path) -> list[str]:
    """The words of a command line that only its owner can change. Raises TrustError."""
    if path.stat().st_mode & 0o022:
        raise TrustError(f"{path} can be changed by others", f"chmod 600 {path}, after a look at what it says")
    try:
        words = shlex.split(read_file(path).decode())
    except ValueError as error:
        raise TrustError(f"{path} is no command line: {error}") from error
    if not words:
        raise TrustError(f"{path} is empty", "it is one line: what signs standard input")
    if "/" in words[0] and not words[0].startswith("/"):
        raise TrustError(f"{path}: {words[0]} depends on the folder that signing happens in", "name its whole path")
    return words


def sslib_key(public: Public) -> "SSlibKey":
    """A public key as signers have it."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from securesystemslib.signer import SSlibKey

    key = rsa.RSAPublicNumbers(public.exponent, public.modulus).public_key()
    return SSlibKey.from_crypto(key, scheme=SCHEME)


def parse_file(path: Path) -> list[Certificate]:
    """The certificates in a file. Raises TrustError."""
    try:
        return parse_certificates(read_file(path))
    except ValueError as error:
        raise TrustError(f"{path} does not hold the certificate of a key for packages: {error}") from error


def read_file(path: Path) -> bytes:
    """What is in a file, up to a byte more than certificates may have. Raises TrustError."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_CERTIFICATES + 1)
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror}") from error


def _date(time: int) -> str:
    return clock.strftime("%Y-%m-%dT%H:%M:%SZ", clock.gmtime(time))
