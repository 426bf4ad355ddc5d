"""Sigstore bundles v0.3 around one DSSE envelope, read strictly.

Formats: sigstore/protobuf-specs sigstore_bundle.proto; DSSE v1.0.2 protocol.md. The file is canonical JSON.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from pipeline.verifier.encoding import Refused, decode64, parse_canonical
from pipeline.verifier.statement import MAX_STATEMENT, PAYLOAD_TYPE, Statement, read_statement

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_BUNDLE = 2 * MAX_STATEMENT
"""Bytes of a bundle: base64 of a statement, and what proves its signature."""
MAX_TIMESTAMPS = 4


@dataclass(frozen=True)
class Proof:
    """What proves a signature by certificate; nothing of it has been looked into."""

    certificate: str
    """DER in base64, as are the next."""
    timestamps: tuple[str, ...]
    """Replies of timestamp authorities (RFC 3161), over the signature."""
    entry: Any
    """Of a transparency log."""


@dataclass(frozen=True)
class Bundle:
    """A signed statement. Whether the signature is good, and whose it is, has yet to be found out."""

    payload: bytes
    """The statement's exact bytes."""
    statement: Statement
    signature: bytes
    """ECDSA over SHA-256 of the envelope's PAE, in DER."""
    hint: str | None
    """Base64 of the SHA-256 of the public key (SubjectPublicKeyInfo, DER); None if there is a certificate."""
    proof: Proof | None
    """None if there is a hint."""

    @property
    def message(self) -> bytes:
        """The bytes that are signed."""
        return pae(PAYLOAD_TYPE, self.payload)


def pae(kind: str, body: bytes) -> bytes:
    """DSSE's pre-authentication encoding of a payload and its type."""
    text = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(text), text, len(body), body)


def hint_of(spki: bytes) -> str:
    """What a bundle names a public key by; `spki` is its DER form."""
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()


def read_bundle(data: bytes, what: str, document: dict[str, Any] | None = None) -> Bundle:
    """The bundle in a file. Raises Refused, naming `what`. `document` is what its predicate is expected to be."""
    bundle = parse_canonical(data, what, MAX_BUNDLE)
    _expect(bundle, {"mediaType", "verificationMaterial", "dsseEnvelope"}, what, "a bundle")
    if bundle["mediaType"] != BUNDLE:
        raise Refused(what, "is of another media type", BUNDLE, str(bundle["mediaType"])[:200])
    envelope, material = bundle["dsseEnvelope"], bundle["verificationMaterial"]
    _expect(envelope, {"payload", "payloadType", "signatures"}, what, "an envelope")
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise Refused(what, "holds another type of payload", PAYLOAD_TYPE, str(envelope["payloadType"])[:200])
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise Refused(what, "does not have exactly one signature")
    _expect(signatures[0], {"sig"}, what, "a signature")
    payload = decode64(envelope["payload"], what)
    if not isinstance(material, dict):
        raise Refused(what, "has nothing that its signature could be checked with")
    hint, proof = None, None
    if "publicKey" in material:
        _expect(material, {"publicKey"}, what, "the material of a signature by key")
        _expect(material["publicKey"], {"hint"}, what, "a public key")
        hint = material["publicKey"]["hint"]
        if len(decode64(hint, what)) != hashlib.sha256().digest_size:
            raise Refused(what, "names its key in another way than by SHA-256")
    else:
        proof = _read_proof(material, what)
    return Bundle(payload, read_statement(payload, what, document), decode64(signatures[0]["sig"], what), hint, proof)


def _read_proof(material: dict[str, Any], what: str) -> Proof:
    _expect(material, {"certificate", "tlogEntries", "timestampVerificationData"}, what, "what proves a signature")
    _expect(material["certificate"], {"rawBytes"}, what, "a certificate")
    _expect(material["timestampVerificationData"], {"rfc3161Timestamps"}, what, "a list of timestamps")
    entries, stamps = material["tlogEntries"], material["timestampVerificationData"]["rfc3161Timestamps"]
    if not isinstance(entries, list) or len(entries) != 1:
        raise Refused(what, "does not have exactly one log entry")
    if not isinstance(stamps, list) or not 0 < len(stamps) <= MAX_TIMESTAMPS:
        raise Refused(what, "has no timestamp, or too many", f"1 to {MAX_TIMESTAMPS}")
    for stamp in stamps:
        _expect(stamp, {"signedTimestamp"}, what, "a timestamp")
    return Proof(material["certificate"]["rawBytes"], tuple(s["signedTimestamp"] for s in stamps), entries[0])


def _expect(value: Any, keys: set[str], what: str, kind: str) -> None:
    if not isinstance(value, dict) or set(value) != keys:
        found = ", ".join(sorted(value))[:200] if isinstance(value, dict) else type(value).__name__
        raise Refused(what, f"is not {kind} as it should be", ", ".join(sorted(keys)), found)
