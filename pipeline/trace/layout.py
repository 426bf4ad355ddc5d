"""The images and charts of a release's folder, as the layout in it has them. Reads documents; no layer is opened.

What release.json names is followed down, from an index to manifests, configurations and layers
(https://github.com/opencontainers/image-spec, v1.1.0). Each document has to be one that release.json names, and is
read with its digest checked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.chart.artifact import CONFIG as CHART
from pipeline.errors import SourceError
from pipeline.image.assemble import MANIFEST
from pipeline.image.layer import PUBLISHED
from pipeline.model import Digest
from pipeline.publish.published import Image, Published, refuse_other
from pipeline.registry.oci import MAX_MANIFEST, Manifest, read_index, read_manifest
from pipeline.strict import parsed_by

INDEX = "images/index.json"
STEP = "rfo: "
"""What a configuration's history writes before the name of each layer."""
TITLE, VERSION = "org.opencontainers.image.title", "org.opencontainers.image.version"


class _Read(BaseModel):
    """Part of a document: what is not needed here is not looked at."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class _Layers(_Read):
    diff_ids: list[Annotated[str, parsed_by(Digest.parse)]]


class _Step(_Read):
    created_by: str = ""


class _Config(_Read):
    rootfs: _Layers
    history: list[_Step] = Field(default_factory=list)


@dataclass(frozen=True)
class Layer:
    """One layer of an image."""

    digest: str
    size: int
    """Bytes, compressed."""
    diff_id: str
    """The digest of the plain archive."""
    step: str
    """As the action that makes it is called between `layer/` and the architecture; empty if nobody says it."""


@dataclass(frozen=True)
class Build:
    """An image on one platform."""

    image: Image
    platform: str
    manifest: str
    config: str
    layers: tuple[Layer, ...]
    """The lowest first."""

    @property
    def size(self) -> int:
        """Bytes of all layers, compressed."""
        return sum(layer.size for layer in self.layers)

    def role(self, digest: str) -> str:
        """What the content with this digest is to the image: `index`, `manifest`, `config`, `layer N`; or nothing."""
        named = {layer.digest: f"layer {n}" for n, layer in enumerate(self.layers, 1)}
        named |= {self.config: "config", self.manifest: "manifest", self.image.digest: "index"}
        return named.get(digest, "")


@dataclass(frozen=True)
class PackedChart:
    """A chart of the release."""

    name: str
    version: str
    manifest: str
    config: str
    digest: str
    """Of the .tgz."""
    size: int


class Layout:
    """The layout of one release; raises SourceError for what is missing, damaged or malformed when it is asked for."""

    def __init__(self, release: Published) -> None:
        self._release = release

    @cached_property
    def builds(self) -> list[Build]:
        """Every image on every platform."""
        return [self._build(i, p) for i in self._release.manifest.images for p in sorted(i.platforms)]

    @cached_property
    def charts(self) -> list[PackedChart]:
        """Every chart that stands in the layout, by name."""
        return sorted(self._charts(), key=lambda c: c.name)

    def of(self, image: Image) -> list[Build]:
        """One image on its platforms."""
        return [b for b in self.builds if b.image == image]

    def holders(self, digest: str) -> list[Build]:
        """The images that hold this content."""
        return [b for b in self.builds if b.role(digest)]

    def _build(self, image: Image, platform: str) -> Build:
        manifest = self._manifest(image.platforms[platform])
        config, *layers = manifest.blobs
        about = self._config(str(config.digest))
        plain, steps = about.rootfs.diff_ids, [s.created_by.removeprefix(STEP) for s in about.history]
        if len(plain) != len(layers):
            raise SourceError(f"{self._release.folder}: {image.name} for {platform} has other layers than it says")
        steps = steps if len(steps) == len(layers) else [""] * len(layers)
        found = zip(layers, plain, steps, strict=True)
        return Build(
            image, platform, str(manifest.digest), str(config.digest),
            tuple(Layer(str(la.digest), la.size, diff_id, step) for la, diff_id, step in found),
        )  # fmt: skip

    def _charts(self) -> Iterator[PackedChart]:
        if INDEX not in self._release.artifacts:
            return
        for entry in read_index(self._read(INDEX), INDEX):
            if entry.media_type != MANIFEST:
                continue
            manifest = self._manifest(str(entry.digest))
            config, *content = manifest.blobs
            if config.media_type == CHART and len(content) == 1:
                about = manifest.descriptor.annotations or {}
                named = about.get(TITLE, ""), about.get(VERSION, "")
                tgz = content[0]
                yield PackedChart(*named, str(manifest.digest), str(config.digest), str(tgz.digest), tgz.size)

    def _manifest(self, digest: str) -> Manifest:
        place, data = self._blob(digest)
        return read_manifest(data, MANIFEST, f"{self._release.folder}/{place}")

    def _config(self, digest: str) -> _Config:
        place, data = self._blob(digest)
        try:
            return _Config.model_validate_json(data)
        except ValidationError as error:
            raise SourceError(f"{self._release.folder}/{place}: not the configuration of an image") from error

    def _blob(self, digest: str) -> tuple[str, bytes]:
        """A document that another one names by its digest, and where it stands."""
        place = PUBLISHED.format(hex=Digest.parse(digest).hex)
        data = self._read(place)
        refuse_other(self._release.folder / place, Digest.of_bytes(data), digest)
        return place, data

    def _read(self, place: str) -> bytes:
        """A document that release.json names."""
        artifact, path = self._release.artifacts.get(place), self._release.folder / place
        if artifact is None:
            raise SourceError(f"{self._release.folder}/release.json names no file {place}")
        try:
            if path.is_symlink() or not path.is_file():
                raise SourceError(f"{path} is missing or no plain file, and release.json names it", "copy it again")
            with path.open("rb") as file:
                data = file.read(MAX_MANIFEST + 1)
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}") from error
        if len(data) > MAX_MANIFEST:
            raise SourceError(f"{path}: larger than {MAX_MANIFEST} bytes, which no document of an image is")
        refuse_other(path, Digest.of_bytes(data), artifact.digest)
        return data
