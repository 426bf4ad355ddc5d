"""Signatures under the tags `sha256-HEX.sig` and `.att`, where clients before OCI 1.1 look: one manifest for all.

Format: cosign's SIGNATURE_SPEC.md. Each signature is a layer, whose bytes are what was signed or a DSSE envelope.
"""

from collections.abc import Sequence

from pipeline.model import Digest
from pipeline.registry.oci import MANIFESTS, Descriptor, Manifest, read_manifest
from pipeline.verifier.encoding import canonical

SIGNED_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
ENVELOPE = "application/vnd.dsse.envelope.v1+json"
SIGNATURE_KEY = "dev.cosignproject.cosign/signature"
"""Annotation of a layer: the signature over its bytes in base64; empty for an envelope, which holds its own."""
PREDICATE_KEY = "predicateType"
"""Annotation of an envelope's layer."""
CONFIG = "application/vnd.oci.image.config.v1+json"


def legacy_manifest(layers: Sequence[Descriptor]) -> tuple[Manifest, bytes]:
    """The manifest that holds these signatures, and its configuration, which says nothing but that they are layers."""
    root = {"type": "layers", "diff_ids": [str(layer.digest) for layer in layers]}
    config = canonical({"architecture": "", "os": "", "config": {}, "rootfs": root})
    described = {"mediaType": CONFIG, "digest": str(Digest.of_bytes(config)), "size": len(config)}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFESTS[0],
        "config": described,
        "layers": [layer.render() for layer in layers],
    }
    return read_manifest(canonical(manifest), MANIFESTS[0], "signatures"), config


def join(there: Manifest, ours: Manifest) -> tuple[Manifest, bytes] | None:
    """A manifest with the signatures of both, and its configuration: nobody's are lost.

    It is `there` as it is if that has all of ours. None if one of the two holds something else than signatures.
    """
    if not (_holds_signatures(there) and _holds_signatures(ours)):
        return None
    known = {_identity(d) for d in there.blobs[1:]}
    new = [d for d in ours.blobs[1:] if _identity(d) not in known]
    return legacy_manifest([*there.blobs[1:], *new]) if new else (there, b"")


def _holds_signatures(manifest: Manifest) -> bool:
    layers = manifest.blobs[1:]
    return bool(layers) and all(d.media_type in (SIGNED_PAYLOAD, ENVELOPE) for d in layers)


def _identity(layer: Descriptor) -> tuple[Digest, str]:
    """Several may sign the same bytes."""
    return layer.digest, (layer.annotations or {}).get(SIGNATURE_KEY, "")
