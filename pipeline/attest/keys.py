"""Signing keys by role: ECDSA P-256 in files of a folder, or wherever a securesystemslib signer URI points.

ROLE.key is PKCS#8 in PEM, encrypted if it has a passphrase, and ROLE.pub the public key. ROLE.uri, if it is there,
names a signer in place of ROLE.key, such as `hsm:2?label=rfo`. Only the process that signs reads a private key. The key
for packages is of another kind: `pipeline.attest.packages`.
"""

import base64
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import TrustError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes as PrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes as PublicKey
    from securesystemslib.signer import Signer, SSlibKey

ROLES = ("builder", "rebuilder", "release", "root-1", "root-2", "root-3", "targets", "snapshot", "timestamp")
"""The roles that a trust root knows; a folder of one host holds only what is signed there."""
PACKAGES = "packages"
"""The role whose key is of another kind."""
DEVELOPMENT_ID = "https://rfolabs.github.io/rfo/builders/development-"
"""What builder ids of keys begin with that nobody has to trust; the role follows."""
_ROLE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_ID = re.compile(r"https://[!-~]{1,500}")
_MAX_ID = 1000
Secret = Callable[[str], str]
"""Gives the passphrase of the key with some name."""


@dataclass(frozen=True)
class Signing:
    """A key that can sign."""

    role: str
    key: "SSlibKey"
    """The public key; its `keyid` is securesystemslib's, which in-toto and TUF use."""
    signer: "Signer"

    def sign(self, message: bytes) -> bytes:
        """The signature of a message over its SHA-256: ECDSA in DER, or RSA, PKCS#1 v1.5. Raises TrustError."""
        try:
            return bytes.fromhex(self.signer.sign(message).signature)
        except Exception as error:  # each kind of signer has errors of its own
            raise TrustError(f"the key of {self.role} cannot sign: {error}") from error


def keys_folder() -> Path:
    """RFO_KEYS, else the user's configuration folder."""
    named = os.environ.get("RFO_KEYS")
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(named).absolute() if named else Path(config) / "rfo" / "keys"


def new_key(role: str, folder: Path, passphrase: str = "", builder: str = "") -> "SSlibKey":
    """Make a key of mode 0600 in a folder of mode 0700; raises UsageError if there is one for the role.

    `builder` is the id to sign under, a URI; ROLE.id holds it.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from securesystemslib.signer import SSlibKey

    if not _ROLE.fullmatch(role) or role == PACKAGES:
        raise UsageError(f"{role[:60]!r} is no name for a key of this kind", f"roles are: {', '.join(ROLES)}")
    if builder and not _ID.fullmatch(builder):
        raise UsageError(f"{builder[:200]!r} is no id of a builder", "it is a URI: https://example.org/builders/a")
    private = ec.generate_private_key(ec.SECP256R1())
    public = SSlibKey.from_crypto(private.public_key())
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(folder / f"{role}.key", private, passphrase)
        if builder:
            (folder / f"{role}.id").write_text(f"{builder}\n")
        (folder / f"{role}.pub").write_text(str(public.keyval["public"]))
    except FileExistsError:
        raise UsageError(f"{folder}/{role}.key exists; it is not replaced", "move it away, or rotate it") from None
    except OSError as error:
        raise TrustError(f"{folder}: the key of {role} cannot be written: {error.strerror}") from error
    return public


def write_private(path: Path, private: "PrivateKey", passphrase: str) -> None:
    """Write a private key for its owner alone. Raises FileExistsError, OSError."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
    )

    lock: KeySerializationEncryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
        file.flush()
        os.fsync(file.fileno())


def read_public(role: str, folder: Path) -> "SSlibKey":
    """The public key of a role. Raises TrustError."""
    path = folder / f"{role}.pub"
    try:
        return parse_public(path.read_bytes())
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror}", f"make a key: ./inv keys new --role {role}") from error
    except ValueError as error:
        raise TrustError(f"{path} is no public key that is accepted: {error}") from error


def read_id(role: str, folder: Path) -> str:
    """The builder id of a role's key. Raises TrustError if there is none."""
    path = folder / f"{role}.id"
    try:
        with path.open("rb") as file:
            name = file.read(_MAX_ID + 1).decode().removesuffix("\n")
    except (OSError, ValueError) as error:
        raise TrustError(
            f"{path} cannot be read, and says which builder the key is for: {error}",
            f"write the URI there that the policy binds to the key: echo URI > {path}",
        ) from error
    if not _ID.fullmatch(name):
        raise TrustError(f"{path}: {name[:200]!r} is no id of a builder", "it is one line with a URI")
    return name


def parse_public(pem: bytes) -> "SSlibKey":
    """A public key in PEM; raises ValueError for any but ECDSA P-256."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        key = load_pem_public_key(pem)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("expected ECDSA on the curve P-256, which every openssl verifies")
    return SSlibKey.from_crypto(key)


def public_of(key: "SSlibKey") -> "PublicKey":
    """A public key as `cryptography` has it."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return load_pem_public_key(str(key.keyval["public"]).encode())


def spki_of(key: "SSlibKey") -> bytes:
    """A public key's SubjectPublicKeyInfo in DER."""
    return base64.b64decode("".join(str(key.keyval["public"]).split("-----")[2].split()))


def load_signing(role: str, folder: Path, secret: Secret | None = None, public: "SSlibKey | None" = None) -> Signing:
    """The key of a role, ready to sign; `public` is its public part, if that is not ROLE.pub.

    Raises TrustError: there is none, others can read it, it does not belong to the public one, the passphrase is wrong.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner
    from securesystemslib.signer import Signer as Signers

    path, named = folder / f"{role}.key", folder / f"{role}.uri"
    public = public or read_public(role, folder)
    secret = secret or ask
    try:
        if named.is_file():
            return Signing(role, public, Signers.from_priv_key_uri(named.read_text().strip(), public, secret))
        text = path.read_bytes()
        if path.stat().st_mode & 0o077:
            raise TrustError(f"{path} can be read by others", f"chmod 600 {path}; consider it lost if they could")
        locked = b"ENCRYPTED" in text.partition(b"\n")[0]
        private = load_pem_private_key(text, secret(role).encode() if locked else None)
        if private.public_key() != public_of(public):
            raise TrustError(f"{path} does not belong to the public key of {role}", "put the right pair there")
        return Signing(role, public, CryptoSigner(private, public))
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror}", f"make a key: ./inv keys new --role {role}") from error
    except TrustError:
        raise
    except Exception as error:  # each kind of signer has errors of its own
        raise TrustError(
            f"the key of {role} in {folder} cannot be used: {error}", "is the passphrase right?"
        ) from error


def ask(name: str) -> str:
    """A passphrase: RFO_PASSPHRASE, else what is typed. Raises TrustError where nobody can type."""
    known = os.environ.get("RFO_PASSPHRASE")
    if known is not None:
        return known
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))  # the signer's standard input is its request
    except OSError as error:
        reason = f"the key {name} has a passphrase, and nobody can be asked"
        raise TrustError(reason, "set RFO_PASSPHRASE") from error
    return getpass(f"passphrase of {name}: ")
