"""OCI descriptors and manifests as foreign input: bounded, and read only as far as copying needs.

Formats: OCI image-spec 1.1 (descriptor, manifest, image-index) and Docker's image manifest schema 2.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from pipeline.errors import PipelineError, SourceError
from pipeline.model import Digest

MAX_MANIFEST = 4 << 20
"""Bytes of a manifest; registries take no larger ones (distribution-spec)."""
MAX_INDEX = 16 << 20
"""Bytes of a layout's index.json; one of a release has 0.05 MiB."""
MAX_BLOB = 64 << 30
"""Bytes of a layer."""
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
INDEXES = (IMAGE_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
IMAGE_NAME = "io.containerd.image.name"
"""Annotation of an entry of index.json: the full name."""
REF_NAME = "org.opencontainers.image.ref.name"
"""Annotation of an entry of index.json: the tag (image-spec, annotations)."""


def _digest(value: object) -> Digest:
    try:
        return value if isinstance(value, Digest) else Digest.parse(str(value))
    except PipelineError as error:
        raise ValueError(error.reason) from error


class _Read(BaseModel):
    """Part of a document of others: what is not needed here is not looked at."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Descriptor(_Read):
    """A reference to content."""

    media_type: Annotated[str, Field(alias="mediaType", pattern=r"^[A-Za-z0-9!#$&^_.+/-]{1,255}$")]
    digest: Annotated[Digest, PlainValidator(_digest)]
    size: Annotated[int, Field(ge=0, le=MAX_BLOB)]
    artifact_type: Annotated[str | None, Field(alias="artifactType")] = None
    annotations: dict[str, str] | None = None

    @property
    def is_manifest(self) -> bool:
        """Whether it refers to a manifest or index, which may refer further."""
        return self.media_type in INDEXES + MANIFESTS

    def render(self, annotations: dict[str, str] | None = None) -> dict[str, Any]:
        """As JSON, with other annotations if given."""
        fields = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
            "artifactType": self.artifact_type,
            "annotations": self.annotations if annotations is None else annotations,
        }
        return {k: v for k, v in fields.items() if v or k == "size"}


class _Document(_Read):
    """A manifest or an index."""

    schema_version: Annotated[int, Field(alias="schemaVersion", ge=2, le=2)]
    media_type: Annotated[str | None, Field(alias="mediaType")] = None
    artifact_type: Annotated[str | None, Field(alias="artifactType")] = None
    config: Descriptor | None = None
    layers: list[Descriptor] = Field(default_factory=list)
    manifests: list[Descriptor] | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None


@dataclass(frozen=True)
class Manifest:
    """A manifest or index: its exact bytes, and what they refer to."""

    descriptor: Descriptor
    data: bytes
    children: tuple[Descriptor, ...]
    """Manifests of an index."""
    blobs: tuple[Descriptor, ...]
    subject: Digest | None
    """The manifest that this one is attached to."""

    @property
    def digest(self) -> Digest:
        """Of its bytes."""
        return self.descriptor.digest


def read_manifest(data: bytes, media_type: str, place: str) -> Manifest:
    """What the bytes of a manifest say; `place` names them in errors. Raises SourceError."""
    is_index = media_type in INDEXES
    if not is_index and media_type not in MANIFESTS:
        raise SourceError(f"{place}: {media_type[:120]!r} is no manifest of an image or artifact")
    document = _parsed(data, place)
    if document.media_type not in (None, media_type) or is_index != (document.manifests is not None):
        raise SourceError(f"{place}: it says of itself that it is another kind of document than {media_type}")
    if not is_index and document.config is None:
        raise SourceError(f"{place}: a manifest without config")
    entries = tuple(document.manifests or ())
    content = (document.config, *document.layers) if document.config and not is_index else ()
    kind = document.artifact_type or (document.config.media_type if document.config and not is_index else None)
    return Manifest(
        descriptor=Descriptor.model_validate(
            {
                "mediaType": media_type,
                "digest": Digest.of_bytes(data),
                "size": len(data),
                "artifactType": kind,
                "annotations": document.annotations,
            }
        ),
        data=data,
        children=tuple(d for d in entries if d.is_manifest),
        blobs=content + tuple(d for d in entries if not d.is_manifest),
        subject=document.subject.digest if document.subject else None,
    )


def read_index(data: bytes, place: str) -> list[Descriptor]:
    """The entries of an index that is a list for others: a layout's index.json, the referrers of a manifest."""
    found = _parsed(data, place).manifests
    if found is None:
        raise SourceError(f"{place}: it is no image index")
    return found


def render_index(entries: list[dict[str, Any]]) -> bytes:
    """An image index with these entries; the same ones give the same bytes."""
    index = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": entries}
    return json.dumps(index, indent=1, ensure_ascii=False).encode() + b"\n"


def _parsed(data: bytes, place: str) -> _Document:
    try:
        return _Document.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "whole document"
        raise SourceError(f"{place}: not an OCI manifest or index: {key}: {first['msg']}") from error
