"""A release's folder as a place to copy from, with its signatures attached to its images."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from pipeline.attest.oci import signatures_of
from pipeline.model import Digest
from pipeline.publish.published import Published
from pipeline.registry.content import made_file
from pipeline.registry.layout import Layout
from pipeline.registry.oci import Descriptor, Manifest
from pipeline.registry.place import Name


class SignedLayout(Layout):
    """The images of a release, and what its `provenance/` says about them."""

    def __init__(self, published: Published) -> None:
        super().__init__(published.folder)
        self.signatures = signatures_of(published.folder, published.manifest.date)

    def resolve(self, name: Name) -> Manifest | None:
        """What a name stands for, also one of the tags that older clients look for."""
        return super().resolve(name) or self.signatures.tagged(name)

    def manifest(self, repository: str, wanted: Descriptor) -> Manifest:
        """A manifest by its digest."""
        made = self.signatures.manifests.get(wanted.digest)
        return made if made else super().manifest(repository, wanted)

    def attached(self, repository: str, subject: Digest) -> list[Descriptor]:
        """The manifests that have this one as their subject."""
        found = super().attached(repository, subject)
        known, image = {d.digest for d in found}, self._images.get(subject)
        made = self.signatures.referrers(image) if image else []
        return found + [m.descriptor for m in made if m.digest not in known]

    @contextmanager
    def file(self, repository: str, blob: Descriptor) -> Iterator[Path]:
        """A blob as a file for a while."""
        if made := self.signatures.blobs.get(blob.digest):
            with made_file(made, blob) as path:
                yield path
            return
        with super().file(repository, blob) as path:
            yield path

    @cached_property
    def _images(self) -> dict[Digest, Descriptor]:
        """What may be signed: manifests with a name, and those that they are made of."""
        roots = [m for n in self.names if (m := super(SignedLayout, self).resolve(n))]
        return {d.digest: d for m in roots for d in (m.descriptor, *m.children)}
