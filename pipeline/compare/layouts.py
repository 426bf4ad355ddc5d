"""Pair the blobs of two archives that are OCI layouts by what they are: a digest in a name pairs only what is equal.

What pairs is an image under the same name, its manifest for the same platform, its configuration, and its layers in
their order (https://github.com/opencontainers/image-spec, v1.1.0: image-layout.md, annotations.md). Reads spans; trusts
nothing: what cannot be followed keeps its name, and what it costs is bounded.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.compare.span import Span

INDEX, LAYOUT, BLOBS = "index.json", "oci-layout", "blobs/sha256/"
NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
"""Annotations that name an entry of a layout, the whole name before the tag alone."""
MAX_DOCUMENT = 4 << 20
"""Bytes of a manifest or index; registries take no larger ones."""
MAX_DOCUMENTS = 64 << 20
"""Bytes of all of them."""
MAX_STEPS = 50_000
"""Descriptors that are followed; a release's bundle has 100."""
MAX_TITLE = 256
"""Characters of an image's name."""


def name_blobs(members: Mapping[str, Span]) -> dict[str, str]:
    """The blobs of a layout by what they are, such as `docker.io/rfolabs/pause linux/amd64 layer 1`.

    A blob has a name for each image that it is part of. What a document names by digest comes before the document: it
    is the cause of all that differs there. Empty if `members` are none of a layout.
    """
    if INDEX not in members or LAYOUT not in members:
        return {}
    named: dict[str, str] = {}
    for name, member in _Walk(members).names():
        named.setdefault(name, member)
    return named


class _Walk:
    """Follows descriptors as long as there is budget."""

    def __init__(self, members: Mapping[str, Span]) -> None:
        self._members = members
        self._steps, self._bytes = MAX_STEPS, MAX_DOCUMENTS

    def names(self) -> Iterator[tuple[str, str]]:
        """Name and member of each blob, from the entries of index.json down."""
        titles: dict[str, dict[str, str]] = {}
        for descriptor in _objects(self._document(INDEX), "manifests"):
            annotations = _object(descriptor, "annotations")
            full = next((n for key in NAMES if isinstance(n := annotations.get(key), str)), "")[:MAX_TITLE]
            member = self._member(descriptor)
            if member and full and "@" not in full:
                titles.setdefault(_repository(full), {}).setdefault(member, full)
        for title, found in titles.items():
            for member, full in found.items():
                # Tags differ from release to release: they only count where a repository has several images.
                yield from self._image(title if len(found) == 1 else full, member)

    def _image(self, title: str, member: str) -> Iterator[tuple[str, str]]:
        """An index with its manifests, or a manifest."""
        document = self._document(member)
        if not _objects(document, "manifests"):
            yield from self._parts(title, member, document)
            return
        for inner in _objects(document, "manifests"):
            words = [_object(inner, "platform").get(key) for key in ("os", "architecture", "variant")]
            platform = "/".join(w[:MAX_TITLE] for w in words if isinstance(w, str))
            if found := self._member(inner):
                yield from self._parts(f"{title} {platform}", found, self._document(found))
        yield f"{title} index", member

    def _parts(self, title: str, member: str, document: Any) -> Iterator[tuple[str, str]]:
        parts = {f"layer {n}": layer for n, layer in enumerate(_objects(document, "layers"), 1)}
        for part, descriptor in {**parts, "config": _object(document, "config")}.items():
            if found := self._member(descriptor):
                yield f"{title} {part}", found
        yield f"{title} manifest", member

    def _member(self, descriptor: Mapping[str, Any]) -> str | None:
        """The member that holds a descriptor's content, if there is one."""
        self._steps -= 1
        digest = descriptor.get("digest")
        if self._steps < 0 or not isinstance(digest, str):
            return None
        member = f"{BLOBS}{digest.removeprefix('sha256:')}"
        return member if member in self._members else None

    def _document(self, member: str) -> Any:
        """What a member says as JSON; None if it is something else or too large."""
        span = self._members[member]
        self._bytes -= span.size
        if span.size > MAX_DOCUMENT or self._bytes < 0 or self._steps < 0:
            return None
        try:
            return json.loads(span.read(0, span.size))
        except (ValueError, RecursionError):
            return None


def _repository(name: str) -> str:
    """A reference without its tag."""
    host, slash, last = name.rpartition("/")
    return f"{host}{slash}{last.partition(':')[0]}"


def _object(document: Any, key: str) -> dict[str, Any]:
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, dict) else {}


def _objects(document: Any, key: str) -> list[dict[str, Any]]:
    values = document.get(key) if isinstance(document, dict) else None
    return [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []
