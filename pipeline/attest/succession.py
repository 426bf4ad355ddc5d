"""How keys for packages come after one another, so that hosts know each before it signs; stopped anywhere, it goes on.

The next key is made as packages-next.*, its certificate last, which says that the rest is whole. Announcing puts that
certificate behind the one that signs, into packages.asc: what is released from then on carries both. Rotating gives the
next key's files the names of those in force, then puts its certificate first, then removes packages-next.asc.
"""

import fcntl
import os
import time as clock
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.attest.keys import PACKAGES, Secret, load_signing, write_private
from pipeline.attest.openpgp import MAX_BITS, MIN_BITS, Certificate, Public, armor_certificates, certificate
from pipeline.attest.openpgp import read_certificates as parse_certificates
from pipeline.attest.packages import (
    CERTIFICATES,
    NEXT,
    PRIVATE,
    Packager,
    command_signer,
    known_certificates,
    parse_file,
    read_file,
    sslib_key,
)
from pipeline.errors import TrustError, UsageError
from pipeline.lock import write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

USER_ID = "RFO packages"
BITS = 3072
MAX_DAYS = 36500


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


def new_packages_key(folder: Path, wanted: Wanted, secret: Secret | None = None) -> Certificate:
    """Make the key for packages; raises UsageError if there is one, TrustError.

    One that a call did not finish is finished, as it was wanted then.
    """
    with _alone(folder):
        known, unfinished = known_certificates(folder), announced(folder)
        own = [] if unfinished else [f"{PACKAGES}.{suffix}" for suffix in PRIVATE]
        for name in own if known in ([], [unfinished]) else [CERTIFICATES]:
            if (folder / name).exists():
                remedy = "another key in its place: ./inv keys rotate --role packages"
                raise UsageError(f"{folder}/{name} exists; it is not replaced", remedy)
        new = _prepare(folder, wanted, [], secret)
        return _put_in_force(folder, new, [])[0]


def announce_packages_key(folder: Path, wanted: Wanted, secret: Secret | None = None) -> list[Certificate]:
    """Make the next key for packages, and name it behind the one that signs; returns all certificates.

    One that is there already stays as it was wanted then. Raises UsageError, TrustError.
    """
    with _alone(folder):
        known = _known(folder)
        if announced(folder) == known[0]:  # a rotation was stopped at its end
            (folder / f"{NEXT}.asc").unlink()
        new = _prepare(folder, wanted, known, secret)
        found = [known[0], new, *_without(new, known[1:])]
        write_atomically(folder / CERTIFICATES, armor_certificates(found))
        return found


def rotate_packages_key(
    folder: Path, wanted: Wanted, *, keep: bool = True, secret: Secret | None = None
) -> list[Certificate]:
    """Put the next key for packages in place of the one there is; returns all certificates, the new one first.

    One that was announced is taken, as it was wanted then, and the old certificates stay behind it. With `keep` false
    they do not, and an announced key goes as well: it lay beside the one that nobody is to trust any more.
    What signed with the old key is kept as packages-FPR8.*. Raises UsageError, TrustError.
    """
    with _alone(folder):
        known = _known(folder)
        if announced(folder) in known[1:]:
            if not keep:
                (folder / f"{NEXT}.asc").unlink()
            elif replace(wanted, passphrase="") != Wanted():
                raise UsageError(
                    "the next key was announced, and is taken as it was wanted then",
                    "./inv keys rotate --role packages, without --id, --days, --uri, --command and --public",
                )
        new = _prepare(folder, wanted, known, secret)
        return _put_in_force(folder, new, _without(new, known) if keep else [])


def announced(folder: Path) -> Certificate | None:
    """The certificate of the next key, if there is one. Raises TrustError."""
    path = folder / f"{NEXT}.asc"
    return parse_file(path)[0] if path.exists() else None


def _known(folder: Path) -> list[Certificate]:
    known = known_certificates(folder)
    if not known:
        raise UsageError(f"there is no key for packages in {folder}", "make one: ./inv keys new --role packages")
    return known


def _without(new: Certificate, known: list[Certificate]) -> list[Certificate]:
    return [c for c in known if c.public != new.public]


def _prepare(folder: Path, wanted: Wanted, known: list[Certificate], secret: Secret | None) -> Certificate:
    """The next key, made now if it was not before."""
    if made := announced(folder):
        return made
    _discard(folder)  # of a call that was stopped: nothing was signed with it
    try:
        made = _commanded(folder, wanted) if wanted.command else _certified(folder, wanted, secret)
        if _without(made, known) != known:
            raise UsageError(f"{made.public.fingerprint} is in {folder}/{CERTIFICATES} already", "give another key")
        write_atomically(folder / f"{NEXT}.asc", armor_certificates([made]))
    except BaseException:
        _discard(folder)
        raise
    return made


def _discard(folder: Path) -> None:
    for path in (folder / f"{NEXT}.{suffix}" for suffix in PRIVATE):
        if path.exists():
            path.unlink()


def _put_in_force(folder: Path, new: Certificate, others: list[Certificate]) -> list[Certificate]:
    """Let the next key's files take their places, those of the old key aside. Done again, it goes on."""
    known = known_certificates(folder)
    staged = [suffix for suffix in PRIVATE if (folder / f"{NEXT}.{suffix}").exists()]
    for suffix in PRIVATE if staged and known else ():
        path = folder / f"{PACKAGES}.{suffix}"
        if path.exists():
            path.rename(folder / f"{PACKAGES}-{known[0].public.fingerprint[:8]}.{suffix}")
    for suffix in staged:
        (folder / f"{NEXT}.{suffix}").rename(folder / f"{PACKAGES}.{suffix}")
    found = [new, *others]
    write_atomically(folder / CERTIFICATES, armor_certificates(found))
    (folder / f"{NEXT}.asc").unlink()
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
    signing = load_signing(NEXT, folder, known, sslib_key(public))
    data = certificate(public, signing.sign, name, wanted.days)
    return parse_certificates(data)[0]


def _commanded(folder: Path, wanted: Wanted) -> Certificate:
    """The certificate of a key that a command signs with, which it proves now."""
    if wanted.public is None or wanted.user_id or wanted.days or wanted.passphrase:
        raise UsageError(
            "a key that a command signs with has its certificate already: name, expiry and passphrase are its own",
            "./inv keys new --role packages --command LINE --public CERTIFICATE",
        )
    found = parse_file(wanted.public)
    if len(found) != 1:
        raise UsageError(f"{wanted.public} holds {len(found)} certificates; expected the one that the command signs by")
    path = folder / f"{NEXT}.command"
    write_atomically(path, f"{wanted.command}\n".encode())
    Packager(found[0], command_signer(path, found[0])).sign(b"a test\n", int(clock.time()))
    return found[0]


def _numbers(path: Path | None) -> "rsa.RSAPublicNumbers":
    """The public RSA key in a PEM file. Raises UsageError, TrustError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if path is None:
        raise UsageError("a signer URI needs the public key, in PEM", "--public FILE")
    try:
        key = load_pem_public_key(read_file(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError(f"{path} is no public key in PEM: {error}") from error
    if not isinstance(key, rsa.RSAPublicKey) or not MIN_BITS <= key.key_size <= MAX_BITS:
        raise TrustError(f"{path}: expected an RSA key of {MIN_BITS} to {MAX_BITS} bits, which every rpm verifies")
    return key.public_numbers()


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
