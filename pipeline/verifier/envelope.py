"""DSSE envelopes with several signatures: TUF metadata. A signature that counts for nothing is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.verifier.bundle import pae
from pipeline.verifier.encoding import Refused, decode64, parse_canonical
from pipeline.verifier.openssl import PublicKey, verifies

MAX_SIGNATURES = 32


@dataclass(frozen=True)
class Envelope:
    """A signed payload; whose signatures they are has yet to be found out."""

    payload: bytes
    kind: str
    """The payload's type, which is signed with it."""
    signatures: dict[str, bytes]
    """By keyid, which is not signed: it tells which key to try, and nothing else."""


@dataclass(frozen=True)
class Keyring:
    """Who may sign something, and how many of them have to."""

    keys: dict[str, PublicKey]
    """By keyid."""
    threshold: int

    @property
    def contents(self) -> frozenset[PublicKey]:
        """The keys, each once."""
        return frozenset(self.keys.values())


def read_envelope(data: bytes, what: str, limit: int, kind: str) -> Envelope:
    """The envelope in a file of ours; raises Refused for another form, type, or a keyid that stands twice."""
    value = parse_canonical(data, what, limit)
    if not isinstance(value, dict) or set(value) != {"payload", "payloadType", "signatures"}:
        raise Refused(what, "is not an envelope as it should be")
    if value["payloadType"] != kind:
        raise Refused(what, "holds another type of payload", kind, str(value["payloadType"])[:200])
    found: dict[str, bytes] = {}
    signatures = value["signatures"]
    if not isinstance(signatures, list) or not 0 < len(signatures) <= MAX_SIGNATURES:
        raise Refused(what, "has no signatures, or too many", f"1 to {MAX_SIGNATURES}")
    for signature in signatures:
        if not isinstance(signature, dict) or set(signature) != {"keyid", "sig"}:
            raise Refused(what, "has a signature that is not a keyid and a signature")
        keyid = signature["keyid"]
        if not isinstance(keyid, str) or keyid in found:
            raise Refused(what, "has a signature that stands twice", "one of each key", str(keyid)[:100])
        found[keyid] = decode64(signature["sig"], what)
    return Envelope(decode64(value["payload"], what), kind, found)


def signers_of(envelope: Envelope, keys: Mapping[str, PublicKey], what: str) -> frozenset[PublicKey]:
    """The keys that signed. Raises Refused if a signature is by another key, wrong, or a second one of its key."""
    message = pae(envelope.kind, envelope.payload)
    found: set[PublicKey] = set()
    for keyid, signature in envelope.signatures.items():
        key = keys.get(keyid)
        if key is None:
            raise Refused(what, "has a signature by a key that is not trusted for it", _named(keys), keyid[:100])
        if key in found:
            raise Refused(what, "has two signatures by one key", "one of each key", keyid)
        if not verifies(key, message, signature):
            raise Refused(what, "was changed after it was signed, or is signed by somebody else", "", f"key {keyid}")
        found.add(key)
    return frozenset(found)


def require_signers(found: frozenset[PublicKey], ring: Keyring, what: str) -> None:
    """Raise Refused unless as many of the ring's keys signed as have to."""
    count = len(found & ring.contents)
    if count < ring.threshold:
        needed = f"{ring.threshold} of {len(ring.contents)} keys"
        raise Refused(what, "is signed by too few of the keys that are trusted for it", needed, str(count))


def _named(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys))[:500]
