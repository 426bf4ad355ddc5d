"""The key for packages: RSA, which every rpm verifies, with an OpenPGP certificate; kept as the other keys are.

In the folder of keys, packages.asc holds the certificates, in the form of RPM-GPG-KEY-rfo: the first one's key signs,
the others did before, so that older releases stay verifiable. Its private part is packages.key (PKCS#8 in PEM), or it
is elsewhere: packages.uri is a securesystemslib signer URI, packages.command a line that is run for each signature,
with what is to be signed on its standard input; it prints a binary OpenPGP signature. `{time}` in it stands for the
seconds since 1970 that the signature has to say, as in `gpg --faked-system-time {time}! --detach-sign …`.

A new key is made as packages-new.* and is in force once packages.asc is replaced, so that it can be stopped anywhere.
"""

import fcntl
import os
import shlex
import subprocess
import time as clock
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.attest.keys import PACKAGES, Secret, Signing, keys_folder, load_signing, write_private
from pipeline.attest.openpgp import (
    MAX_BITS,
    MAX_CERTIFICATES,
    MAX_SIGNATURE,
    MIN_BITS,
    Certificate,
    Public,
    armor_certificates,
    certificate,
    checked_packet,
    signature,
)
from pipeline.attest.openpgp import read_certificates as parse_certificates
from pipeline.errors import TrustError, UsageError
from pipeline.lock import write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from securesystemslib.signer import SSlibKey

    from pipeline.context import Context

CERTIFICATES = f"{PACKAGES}.asc"
NEXT = f"{PACKAGES}-new"
"""What files of a key begin with that is not in force yet."""
PRIVATE = ("key", "uri", "command")
"""Suffixes of what signs."""
USER_ID = "RFO packages"
BITS = 3072
SCHEME = "rsa-pkcs1v15-sha256"
MAX_DAYS = 36500
COMMAND_SECONDS = 300
"""A person may have to touch a token or type a PIN."""
TOLERANCE = 60
"""Seconds that the clock of who signs elsewhere may be ahead."""


@dataclass(frozen=True)
class Packager:
    """The key for packages, ready to sign."""

    certificate: Certificate
    make: Callable[[bytes, int], bytes]

    def sign(self, message: bytes, time: int) -> bytes:
        """The packet of a detached signature that says it was made at `time`. Raises TrustError."""
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
        return self.make(message, time)


@dataclass(frozen=True)
class Wanted:
    """What a new key is to be."""

    user_id: str = ""
    days: int = 0
    """Until it expires; 0: never."""
    passphrase: str = ""
    uri: str = ""
    """Of a signer that holds the private key, whose public part is in the PEM file `public`."""
    command: str = ""
    """That signs, with a key whose certificate is in the file `public`."""
    public: Path | None = None


def read_certificates(folder: Path) -> bytes:
    """The content of packages.asc, which becomes RPM-GPG-KEY-rfo; empty if there is none. Raises TrustError."""
    return _read(folder / CERTIFICATES) if known_certificates(folder) else b""


def known_certificates(folder: Path) -> list[Certificate]:
    """Those of packages.asc, the one that signs first; none if there is no such file. Raises TrustError."""
    path = folder / CERTIFICATES
    return _parse(_read(path), path) if path.exists() else []


def load_packager(folder: Path, secret: Secret | None = None) -> Packager:
    """The key for packages. Raises TrustError: there is none, others can read it, it is not the certificate's, …"""
    found = folder / CERTIFICATES
    if (folder / f"{NEXT}.asc").exists():
        raise TrustError(f"a change of the key for packages in {folder} was stopped", f"go on: {_resume(folder)}")
    if not found.exists():
        raise TrustError(f"there is no key for packages in {folder}", "make one: ./inv keys new --role packages")
    own = _parse(_read(found), found)[0]
    command = folder / f"{PACKAGES}.command"
    if command.exists():
        return Packager(own, _by_command(_read_command(command), own))
    signing = load_signing(PACKAGES, folder, secret, _sslib_key(own.public))
    return Packager(own, _by_key(signing, own.public))


def new_packages_key(folder: Path, wanted: Wanted, secret: Secret | None = None) -> Certificate:
    """Make the key for packages; raises UsageError if there is one, TrustError.

    One that a call did not finish is finished, as it was wanted then.
    """
    with _alone(folder):
        if not (folder / CERTIFICATES).exists() and (folder / f"{NEXT}.asc").exists():
            return _put_in_force(folder)[0]
        for name in (CERTIFICATES, *(f"{PACKAGES}.{suffix}" for suffix in PRIVATE)):
            if (folder / name).exists():
                remedy = "another key in its place: ./inv keys rotate --role packages"
                raise UsageError(f"{folder}/{name} exists; it is not replaced", remedy)
        _prepare(folder, wanted, [], secret)
        return _put_in_force(folder)[0]


def rotate_packages_key(
    folder: Path, wanted: Wanted, *, keep: bool = True, secret: Secret | None = None
) -> list[Certificate]:
    """Put another key in place of the one for packages; returns all certificates, the new one first.

    The old certificates stay behind it, unless `keep` is false. What signed with the old key is kept as
    packages-FPR8.*. A rotation that was stopped is finished, as it was wanted then. Raises UsageError, TrustError.
    """
    with _alone(folder):
        path = folder / CERTIFICATES
        if not path.exists():
            raise UsageError(f"there is no key for packages in {folder}", "make one: ./inv keys new --role packages")
        if not (folder / f"{NEXT}.asc").exists():
            _prepare(folder, wanted, _parse(_read(path), path) if keep else [], secret)
        return _put_in_force(folder)


def have_packages_key(context: "Context") -> None:
    """Make a development key for packages if there is none at all, and say so. Raises UsageError, TrustError.

    A host without any key gets a whole trust root for development.
    """
    folder = keys_folder()
    if (folder / CERTIFICATES).is_file():
        return
    with context.store.exclusive("keys"):
        from pipeline.engine import HERE
        from pipeline.trust.development import ensure_development, make_packages_key

        if not any(folder.glob("*.pub")):
            ensure_development(HERE.parent, context.progress)
        if make_packages_key(folder):
            context.progress.say(f"  made a DEVELOPMENT key for packages in {folder}: it proves nothing to others")


def _prepare(folder: Path, wanted: Wanted, retired: Sequence[Certificate], secret: Secret | None) -> None:
    """Make the next key's files; the one with certificates last, since it says that the others are whole."""
    for suffix in PRIVATE:  # of a call that was stopped: nothing was signed with them
        (folder / f"{NEXT}.{suffix}").unlink(missing_ok=True)
    try:
        made = _commanded(folder, wanted) if wanted.command else _certified(folder, wanted, secret)
        if made.public.fingerprint in {c.public.fingerprint for c in retired}:
            raise UsageError(f"{made.public.fingerprint} is in {folder}/{CERTIFICATES} already", "give another key")
        write_atomically(folder / f"{NEXT}.asc", armor_certificates([made, *retired]))
    except BaseException:
        for suffix in PRIVATE:
            (folder / f"{NEXT}.{suffix}").unlink(missing_ok=True)
        raise


def _put_in_force(folder: Path) -> list[Certificate]:
    """Let the next key's files take their places, those of the old key aside. Done again, it goes on."""
    ready, current = folder / f"{NEXT}.asc", folder / CERTIFICATES
    found = _parse(_read(ready), ready)
    staged = [suffix for suffix in PRIVATE if (folder / f"{NEXT}.{suffix}").exists()]
    if staged and current.exists():
        aside = f"{PACKAGES}-{_parse(_read(current), current)[0].public.fingerprint[:8]}"
        for suffix in PRIVATE:
            if (folder / f"{PACKAGES}.{suffix}").exists():
                (folder / f"{PACKAGES}.{suffix}").rename(folder / f"{aside}.{suffix}")
    for suffix in staged:
        (folder / f"{NEXT}.{suffix}").rename(folder / f"{PACKAGES}.{suffix}")
    ready.rename(current)
    return found


def _certified(folder: Path, wanted: Wanted, secret: Secret | None) -> Certificate:
    """A certificate for a key that is made here, or for that of a signer URI."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    name = wanted.user_id or USER_ID
    if not name.isprintable() or not 0 < len(name.encode()) <= 200:
        raise UsageError(f"{name[:100]!r} is no name for a key", 'a line such as "RFO packages"')
    if not 0 <= wanted.days <= MAX_DAYS:
        raise UsageError(f"a key for {wanted.days} days: expected 1 to {MAX_DAYS}, or 0 for one that does not expire")
    if wanted.uri:
        numbers = _numbers(wanted.public)
        write_atomically(folder / f"{NEXT}.uri", f"{wanted.uri}\n".encode())
    else:
        private = rsa.generate_private_key(65537, BITS)
        numbers = private.public_key().public_numbers()
        write_private(folder / f"{NEXT}.key", private, wanted.passphrase)
    public = Public(numbers.n, numbers.e, int(clock.time()))
    known = secret if wanted.uri else lambda _: wanted.passphrase
    signing = load_signing(NEXT, folder, known, _sslib_key(public))
    data = certificate(public, signing.sign, name, wanted.days)
    return _parse(data, folder / f"{NEXT}.asc")[0]


def _commanded(folder: Path, wanted: Wanted) -> Certificate:
    """The certificate of a key that a command signs with, which it proves now."""
    if wanted.public is None or wanted.user_id or wanted.days or wanted.passphrase:
        raise UsageError(
            "a key that a command signs with has its certificate already: name, expiry and passphrase are its own",
            "./inv keys new --role packages --command LINE --public CERTIFICATE",
        )
    found = _parse(_read(wanted.public), wanted.public)
    if len(found) != 1:
        raise UsageError(f"{wanted.public} holds {len(found)} certificates; expected the one that the command signs by")
    path = folder / f"{NEXT}.command"
    write_atomically(path, f"{wanted.command}\n".encode())
    Packager(found[0], _by_command(_read_command(path), found[0])).sign(b"a test\n", int(clock.time()))
    return found[0]


def _by_key(signing: Signing, public: Public) -> Callable[[bytes, int], bytes]:
    return lambda message, time: signature(public, signing.sign, message, time)


def _by_command(words: Sequence[str], own: Certificate) -> Callable[[bytes, int], bytes]:
    """Signs by running a command, whose output is believed only as far as it verifies."""
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
        words = shlex.split(_read(path).decode())
    except ValueError as error:
        raise TrustError(f"{path} is no command line: {error}") from error
    if not words:
        raise TrustError(f"{path} is empty", "it is one line: what signs standard input")
    return words


def _numbers(path: Path | None) -> "rsa.RSAPublicNumbers":
    """The public RSA key in a PEM file. Raises UsageError, TrustError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if path is None:
        raise UsageError("a signer URI needs the public key, in PEM", "--public FILE")
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError(f"{path} is no public key in PEM: {error}") from error
    if not isinstance(key, rsa.RSAPublicKey) or not MIN_BITS <= key.key_size <= MAX_BITS:
        raise TrustError(f"{path}: expected an RSA key of {MIN_BITS} to {MAX_BITS} bits, which every rpm verifies")
    return key.public_numbers()


def _sslib_key(public: Public) -> "SSlibKey":
    from cryptography.hazmat.primitives.asymmetric import rsa
    from securesystemslib.signer import SSlibKey

    key = rsa.RSAPublicNumbers(public.exponent, public.modulus).public_key()
    return SSlibKey.from_crypto(key, scheme=SCHEME)


def _parse(data: bytes, path: Path) -> list[Certificate]:
    try:
        return parse_certificates(data)
    except ValueError as error:
        raise TrustError(f"{path} does not hold the certificate of a key for packages: {error}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_CERTIFICATES + 1)
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror}") from error


def _resume(folder: Path) -> str:
    verb = "rotate" if (folder / CERTIFICATES).exists() else "new"
    return f"./inv keys {verb} --role packages"


def _date(time: int) -> str:
    return clock.strftime("%Y-%m-%dT%H:%M:%SZ", clock.gmtime(time))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else changes the key for packages in this folder meanwhile. Raises TrustError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise TrustError(f"{folder}: the key for packages cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    except OSError as error:
        raise TrustError(f"{folder}: the key for packages cannot be written: {error.strerror}") from error
    finally:
        os.close(descriptor)
