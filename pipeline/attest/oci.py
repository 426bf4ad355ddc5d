"""The signatures of a release as OCI objects, to be attached to its images and charts: referrers, and older tags.

Formats: cosign's BUNDLE_SPEC.md and SIGNATURE_SPEC.md; simple signing of containers/image (docs/atomic-signature.md).
Only signatures that the release's folder holds are used; nothing is signed here.
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.attest.places import BUNDLE as SUFFIX
from pipeline.attest.places import IMAGE_SIGNATURES, LEGACY_SIGNATURES, RELEASE_PROVENANCE
from pipeline.errors import SourceError
from pipeline.image.names import REGISTRY
from pipeline.model import Digest
from pipeline.registry.content import open_plain
from pipeline.registry.layout import Layout
from pipeline.registry.legacy import ENVELOPE, PREDICATE_KEY, SIGNATURE_KEY, SIGNED_PAYLOAD, legacy_manifest
from pipeline.registry.oci import MANIFESTS, Descriptor, Manifest, read_manifest
from pipeline.registry.place import Name
from pipeline.verifier.bundle import BUNDLE, MAX_BUNDLE, read_bundle
from pipeline.verifier.encoding import Refused, canonical, decode64, parse_canonical
from pipeline.verifier.statement import IMAGE_SIGNATURE

EMPTY = "application/vnd.oci.empty.v1+json"
NOTHING = b"{}"
"""The configuration of an artifact without one (image-spec, manifest.md, "Guidance for an Empty Descriptor")."""
CONTENT_KEY = "dev.sigstore.bundle.content"
PREDICATE_TYPE_KEY = "dev.sigstore.bundle.predicateType"
CREATED_KEY = "org.opencontainers.image.created"
MAX_LEGACY = 4 << 20
"""Bytes of the file with the signatures of the older form: 0.3 KiB for each image and architecture."""
ATTACHED = (
    IMAGE_SIGNATURES,
    RELEASE_PROVENANCE,
    *(f"provenance/{role}-*/{kind}{SUFFIX}" for role in ("builder", "rebuilder") for kind in ("image", "chart")),
    f"provenance/builder-*/sbom/*{SUFFIX}",
)
"""Patterns of the bundles that go with the images and charts that they name."""
Made = Callable[[], bytes]


@dataclass(frozen=True)
class Found:
    """A bundle of a release's folder."""

    path: Path
    digest: Digest
    size: int
    predicate_type: str
    subjects: frozenset[str]
    """SHA-256, hexadecimal."""
    keyed: bool
    """Signed with a key, not by a certificate."""
    envelope: Digest
    """Of the DSSE envelope in it, as it stands there."""
    envelope_size: int


@dataclass
class Signatures:
    """The OCI objects for all images of a release."""

    date: str
    """The release's: nothing tells when it was signed."""
    bundles: list[Found] = field(default_factory=list)
    legacy: dict[tuple[str, str], list[tuple[bytes, str]]] = field(default_factory=dict)
    """What was signed in the older form, and the signature in base64, by repository and the manifest's SHA-256."""
    blobs: dict[Digest, Made] = field(default_factory=dict)
    """Content that the objects refer to, read or made when it is needed."""
    manifests: dict[Digest, Manifest] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.bundles or self.legacy)

    def referrers(self, subject: Descriptor) -> list[Manifest]:
        """The manifests to attach to another one."""
        found = [b for b in self.bundles if subject.digest.hex in b.subjects]
        return [self._keep(_referrer(b, subject, self.date)) for b in found]

    def tagged(self, name: Name) -> Manifest | None:
        """What stands under a tag `sha256-HEX.sig` or `.att`; None if there is nothing to put there."""
        tag, _, suffix = name.tag.partition(".")
        subject = tag.removeprefix("sha256-")
        layers = list(self._signed(name.repository, subject) if suffix == "sig" else self._attested(subject))
        if not layers or suffix not in ("sig", "att"):
            return None
        manifest, config = legacy_manifest(layers)
        self.blobs[manifest.blobs[0].digest] = lambda: config
        return self._keep(manifest)

    def _signed(self, repository: str, subject: str) -> Iterator[Descriptor]:
        for payload, signature in self.legacy.get((repository, subject), ()):
            digest = Digest.of_bytes(payload)
            self.blobs[digest] = partial(bytes, payload)
            yield _describe(SIGNED_PAYLOAD, digest, len(payload), {SIGNATURE_KEY: signature})

    def _attested(self, subject: str) -> Iterator[Descriptor]:
        """Attestations by key; of one by certificate, the older form has no place for what proves it."""
        for bundle in self.bundles:
            if bundle.keyed and bundle.predicate_type != IMAGE_SIGNATURE and subject in bundle.subjects:
                about = {SIGNATURE_KEY: "", PREDICATE_KEY: bundle.predicate_type}
                yield _describe(ENVELOPE, bundle.envelope, bundle.envelope_size, about)

    def _keep(self, manifest: Manifest) -> Manifest:
        return self.manifests.setdefault(manifest.digest, manifest)


def signatures_of(folder: Path, date: str) -> Signatures:
    """What the folder of a release of this date holds for its images. Raises SourceError if it is malformed."""
    found = Signatures(date, blobs={Digest.of_bytes(NOTHING): lambda: NOTHING})
    try:
        for path in sorted(p for pattern in ATTACHED for p in folder.glob(pattern)):
            bundle = _read(path)
            found.bundles.append(bundle)
            found.blobs[bundle.digest] = partial(_bytes, path, MAX_BUNDLE)
            found.blobs[bundle.envelope] = partial(_envelope, path)
        path = folder / LEGACY_SIGNATURES
        if path.exists() or path.is_symlink():
            found.legacy = _legacy(path)
    except Refused as error:
        raise SourceError(f"{folder}: {error}", "get the folder again, or sign it again") from error
    return found


def simple_signing(reference: str, digest: Digest) -> bytes:
    """What is signed of a manifest in the older form; `reference` is the name that it is published under.

    cosign ignores the reference. containers/image insists on the repository, and by default on the tag.
    """
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": str(digest)},
        "type": "cosign container image signature",
    }
    return canonical({"critical": critical, "optional": None})


def legacy_subjects(layout: Layout) -> list[tuple[str, Digest]]:
    """What is signed in the older form: every name in full, with the digests of the manifests that are behind it."""
    found = set()
    for name in layout.names:
        root = layout.resolve(name)
        digests = [root.digest, *(child.digest for child in root.children)] if root else []
        found |= {(f"{REGISTRY}/{name}", digest) for digest in digests}
    return sorted(found)


def render_legacy(signatures: Mapping[tuple[str, Digest], bytes]) -> bytes:
    """The file with signatures of the older form: by name and digest, over `simple_signing` of the two."""
    entries = [
        {"reference": reference, "digest": str(digest), "signature": base64.b64encode(signature).decode()}
        for (reference, digest), signature in sorted(signatures.items())
    ]
    return canonical({"signatures": entries}) + b"\n"


def _referrer(bundle: Found, subject: Descriptor, date: str) -> Manifest:
    about = {
        CONTENT_KEY: "dsse-envelope",
        PREDICATE_TYPE_KEY: bundle.predicate_type,
        CREATED_KEY: date,
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFESTS[0],
        "artifactType": BUNDLE,
        "config": _describe(EMPTY, Digest.of_bytes(NOTHING), len(NOTHING)).render(),
        "layers": [_describe(BUNDLE, bundle.digest, bundle.size).render()],
        "subject": _describe(subject.media_type, subject.digest, subject.size).render(),
        "annotations": about,
    }
    return read_manifest(canonical(manifest), MANIFESTS[0], str(bundle.path))


def _describe(kind: str, digest: Digest, size: int, annotations: Mapping[str, str] | None = None) -> Descriptor:
    fields: dict[str, Any] = {"mediaType": kind, "digest": digest, "size": size}
    return Descriptor.model_validate(fields | ({"annotations": dict(annotations)} if annotations else {}))


def _read(path: Path) -> Found:
    data = _bytes(path, MAX_BUNDLE)
    bundle = read_bundle(data, path.name)
    envelope = _envelope_in(data, path)
    return Found(
        path,
        Digest.of_bytes(data),
        len(data),
        bundle.statement.predicate_type,
        frozenset(bundle.statement.subjects.values()),
        bundle.hint is not None,
        Digest.of_bytes(envelope),
        len(envelope),
    )


def _envelope(path: Path) -> bytes:
    return _envelope_in(_bytes(path, MAX_BUNDLE), path)


def _envelope_in(data: bytes, path: Path) -> bytes:
    return canonical(parse_canonical(data, path.name, MAX_BUNDLE)["dsseEnvelope"])


def _legacy(path: Path) -> dict[tuple[str, str], list[tuple[bytes, str]]]:
    data = parse_canonical(_bytes(path, MAX_LEGACY), path.name, MAX_LEGACY)
    found: dict[tuple[str, str], list[tuple[bytes, str]]] = {}
    try:
        for entry in data["signatures"]:
            digest, reference, signature = Digest.parse(entry["digest"]), entry["reference"], entry["signature"]
            decode64(signature, path.name)
            place = (Name.parse(reference).repository, digest.hex)
            found.setdefault(place, []).append((simple_signing(reference, digest), signature))
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused(path.name, "is no list of signatures, each with reference, digest and signature") from error
    return found


def _bytes(path: Path, limit: int) -> bytes:
    with open_plain(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise SourceError(f"{path}: larger than {limit} bytes")
    return data
