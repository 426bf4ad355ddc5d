"""Make in-toto Statements v1 and the Sigstore bundles that carry them; their bytes are written once."""

import base64
from collections.abc import Mapping
from typing import Any

from pipeline.model import Digest
from pipeline.verifier.bundle import BUNDLE, hint_of, read_bundle
from pipeline.verifier.encoding import canonical
from pipeline.verifier.statement import PAYLOAD_TYPE, STATEMENT, read_statement


def make_statement(subjects: Mapping[str, Digest], predicate_type: str, predicate: Mapping[str, Any]) -> bytes:
    """The bytes of a statement, which verifiers accept as they stand. Raises Refused for what they would refuse."""
    payload = canonical(
        {
            "_type": STATEMENT,
            "subject": [{"name": n, "digest": {"sha256": d.hex}} for n, d in sorted(subjects.items())],
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )
    read_statement(payload, predicate_type)
    return payload


def keyed_bundle(payload: bytes, signature: bytes, spki: bytes) -> bytes:
    """The file of a bundle whose signature was made with a key; `spki` is the public one in DER.

    The envelope's `keyid` is left out: it is not signed, and cosign refuses a bundle with one.
    """
    bundle = canonical(
        {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": hint_of(spki)}},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(signature).decode()}],
            },
        }
    )
    read_bundle(bundle + b"\n", "a bundle of ours")
    return bundle + b"\n"
