"""OpenPGP: whether bytes carry a detached signature by a key that a base names. No I/O.

Sequoia's standard policy decides what counts as a signature: SHA-1, MD5 and version 3 signatures do not. A key must
have been valid when the signature was made, so an old release stays verifiable after its key has expired.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

from pipeline.errors import SourceError

if TYPE_CHECKING:
    from pysequoia import Cert
    from pysequoia.packet import Packet

MAX_SIGNATURES = 8
"""Signatures looked at in one place: a few keys may sign during a change of keys, hundreds are an attack."""
WEAK = ("MD5", "SHA1", "RipeMD")
"""Hash algorithms with practical collisions, as Sequoia names them."""
_ARMOR = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"


@dataclass(frozen=True)
class Keyring:
    """The certificates that may sign for a base; each has a fingerprint that the base names."""

    certs: tuple["Cert", ...]

    @classmethod
    def load(cls, data: bytes, allowed: Collection[str], what: str) -> Self:
        """Read a key file, armored or binary, with one or several keys.

        `allowed` are fingerprints of primary keys, 40 upper-case hexadecimal digits; other keys in the file are left
        out, and a file that has none of the allowed is refused. `what` names the file. Raises SourceError.
        """
        from pysequoia import Cert

        blocks = [_ARMOR + b for b in data.split(_ARMOR)[1:]] or [data]
        try:
            found = [cert for block in blocks for cert in Cert.split_bytes(block)]
        except Exception as error:
            raise SourceError(f"{what}: not an OpenPGP key file ({_first_line(error)})") from error
        certs = tuple(c for c in found if c.fingerprint.upper() in allowed)
        if not certs:
            raise SourceError(
                f"{what}: none of its keys is one that the base names; expected {' or '.join(sorted(allowed))}; "
                f"found {', '.join(c.fingerprint.upper() for c in found) or 'no key'}",
                "a key is added to the base's `keys` only after its fingerprint was checked on another way",
            )
        return cls(certs)

    def verify(self, data: bytes, signature: bytes, what: str) -> str:
        """Check a detached signature over `data`; returns the fingerprint of the signing certificate, upper case.

        Of several signatures one by a key of this ring is enough. Raises SourceError, which says why each was not.
        """
        from pysequoia import Sig, verify

        refused = []
        for packet in _signatures(signature, what):
            try:
                result = verify(bytes=data, store=lambda _: list(self.certs), signature=Sig.from_bytes(bytes(packet)))
            except Exception as error:
                refused.append(self._say_why(packet, error))
                continue
            for valid in result.valid_sigs:
                if any(valid.certificate == cert.fingerprint for cert in self.certs):
                    return str(valid.certificate).upper()
            refused.append(self._say_why(packet, None))
        raise SourceError(f"{what}: the signature is refused: {'; '.join(refused) or 'the file holds no signature'}")

    @cached_property
    def _key_ids(self) -> frozenset[str]:
        """Of every primary key and subkey: a signature names the subkey that made it."""
        from pysequoia.packet import PacketPile

        packets = (p for cert in self.certs for p in PacketPile.from_bytes(bytes(cert)))
        return frozenset(p.key_id for p in packets if p.key_id)

    @cached_property
    def _weak(self) -> bool:
        """Whether a certificate is held together by nothing better than SHA-1: Sequoia then trusts none of its keys."""
        from pysequoia.packet import PacketPile, Tag

        piles = (PacketPile.from_bytes(bytes(cert)) for cert in self.certs)
        return any(all(_algorithm(p) in WEAK for p in pile if p.tag == Tag.Signature) for pile in piles)

    def _say_why(self, packet: "Packet", error: Exception | None) -> str:
        """The explanation, or that there is none: Sequoia's getters raise for algorithms that it does not know."""
        try:
            return self._explain(packet, error)
        except Exception as another:
            return f"it cannot be read ({_first_line(error or another)})"

    def _explain(self, packet: "Packet", error: Exception | None) -> str:
        issuer = (packet.issuer_key_id or "").lower() or (packet.issuer_fingerprint or "unknown").lower()[-16:]
        if issuer not in self._key_ids:
            names = ", ".join(c.fingerprint.upper() for c in self.certs)
            return f"made by key {issuer.upper()}, which is not a key of {names}"
        if packet.signature_version == 3:
            return f"key {issuer.upper()} made it in OpenPGP version 3, which no longer counts as a signature"
        if _algorithm(packet) in WEAK:
            return f"key {issuer.upper()} made it with {_algorithm(packet)}, which no longer counts as a signature"
        if self._weak:
            return f"key {issuer.upper()} is bound to its certificate with SHA1 or MD5 only, which no longer counts"
        reason = f"; {_first_line(error)}" if error else ""
        return (
            f"key {issuer.upper()} did not sign these bytes, or was not valid when it did "
            f"(hash: {_algorithm(packet)}{reason})"
        )


def _algorithm(packet: "Packet") -> str:
    try:
        return str(packet.hash_algorithm).rpartition(".")[2]
    except Exception:  # Sequoia does not know it (SM3, say)
        return "unknown"


def _signatures(data: bytes, what: str) -> list["Packet"]:
    from pysequoia.packet import PacketPile, Tag

    try:
        packets = list(PacketPile.from_bytes(data))
    except Exception as error:
        raise SourceError(f"{what}: not an OpenPGP signature ({_first_line(error)})") from error
    if len(packets) > MAX_SIGNATURES or any(p.tag != Tag.Signature for p in packets):
        raise SourceError(f"{what}: expected 1 to {MAX_SIGNATURES} OpenPGP signatures and nothing else")
    return packets


def _first_line(error: Exception) -> str:
    """Sequoia's errors carry a stack trace below their message."""
    return str(error).partition("\n")[0][:200]
