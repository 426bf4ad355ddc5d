"""What tests of offline bundles share: a release's folder, and how programs of its images are started."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import HOST, REAL, REPO, make_context

from pipeline.context import Context
from pipeline.model import Digest

FOUND = sorted(p.parent for p in REPO.glob(f"dist/{REAL}*/rfo-images.linux-{HOST}.tar.zst"))
"""The real release, where it was made in this checkout."""


@dataclass(frozen=True)
class Start:
    """How to start a program of an image."""

    program: str
    arguments: Sequence[str]
    prints: str
    default: bool
    """Whether the image starts it by itself."""

    @property
    def container(self) -> dict[str, Any]:
        """The same for a pod."""
        return {"args": self.arguments} if self.default else {"command": [self.program, *self.arguments]}


@dataclass(frozen=True)
class Made:
    """A release's folder, and what its definitions say of its images."""

    dist: Path
    context: Context

    @property
    def bundle(self) -> Path:
        """The archive of all images for this host."""
        return self.dist / f"rfo-images.linux-{HOST}.tar.zst"

    @property
    def names(self) -> dict[str, str]:
        """All names, NAME:TAG, with their digests."""
        return self.listed(self.bundle)

    def listed(self, bundle: Path) -> dict[str, str]:
        """The names in a bundle with their digests, as its list has them."""
        lines = bundle.with_name(bundle.name.replace(".tar.zst", ".txt")).read_text().splitlines()
        return {name: digest for name, _, digest in (line.partition("@") for line in lines)}

    def manifest(self, index: str) -> dict[str, Any]:
        """The manifest for this host's architecture, of an index by its digest, with its own digest."""
        (digest,) = (m["digest"] for m in self.read(index)["manifests"] if m["platform"]["architecture"] == HOST)
        return {**self.read(digest), "digest": digest}

    def blob(self, digest: str) -> Path:
        return self.dist / "images" / "blobs" / "sha256" / Digest.parse(digest).hex

    def read(self, digest: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.blob(digest).read_bytes())
        return document

    def start(self, reference: str) -> Start:
        """How to start a program of an image so that it ends: the one that it is named after, or its first one."""
        (image,) = (i for i in self.context.images if reference in map(str, i.references))
        units = [u for u in self.context.units if HOST in u.arches]
        found = {
            name: (Path("/", group.to, name), unit)
            for group in image.recipe.programs
            for unit in units
            if unit.component == group.component
            for name in unit.build.binaries
            if name in (group.only or unit.build.binaries)
        }
        path, unit = found.get(image_name(reference)) or next(iter(found.values()))
        smoke, values = unit.smoke[path.name], self.context.release.values
        arguments = [unit.fill(a, values) for a in smoke.args]
        return Start(str(path), arguments, unit.fill(smoke.prints, values), bool(image.recipe.entrypoint))


def image_name(reference: str) -> str:
    return reference.rpartition("/")[2].partition(":")[0]


def real(dist: Path) -> Made:
    return Made(dist, make_context(REPO, version=REAL, base=dist.name.partition("@")[2] or None))
