"""The images in a chart's values: written when it is packed, and found again in what was packed."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.base.archives import Decompressed, Gzip
from pipeline.chart.definition import IMAGE_KEYS, PACKING, Chart, find_images
from pipeline.draft.yamledit import Document
from pipeline.errors import DefinitionError, SourceError
from pipeline.extract import extract_tar
from pipeline.image.names import Image, Reference
from pipeline.model import CHUNK, Digest
from pipeline.strict import Strict, parsed_by, read_yaml, validate
from pipeline.versions import fill

MAX_CHART = 8 << 20
"""Bytes that a packed chart may unpack to: a HelmChart manifest with it must fit into etcd's 1.5 MiB."""


@dataclass(frozen=True)
class Pinned:
    """An image as a packed chart names it."""

    reference: Reference
    digest: Digest
    """Of its index: one for all architectures."""

    def __str__(self) -> str:
        return f"{self.reference}@{self.digest}"


class ImageValues(Strict):
    """The values of one image; the template puts them together."""

    repository: Annotated[str, Field(min_length=1)]
    tag: Annotated[str, Field(min_length=1)]
    digest: Annotated[str, parsed_by(Digest.parse)]
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(alias="pullPolicy")


def images_for(chart: Chart, images: Mapping[str, Image]) -> dict[str, Image]:
    """The images of a chart by path in its values, out of those of the release. Raises DefinitionError.

    The first one is that whose version the chart has as its appVersion.
    """
    found = {}
    for path, name in chart.packing.images.items():
        if name not in images:
            raise DefinitionError(
                f"{chart.path(PACKING)}: key images.{path}: the release has no image {name}",
                f"it has: {', '.join(sorted(images)) or 'none'}",
            )
        found[path] = images[name]
    return found


def fill_chart(chart: Chart, version: str, images: Mapping[str, Image], digests: Mapping[str, Digest]) -> Chart:
    """The chart as it is packed: with `version`, and in its values the images and digests of the same paths."""
    app = fill(chart.file.app_version, next(iter(images.values())).version, {})
    head = Document(chart.files["Chart.yaml"].decode(), str(chart.path("Chart.yaml")))
    head.replace(("version",), version)
    head.replace(("appVersion",), app)
    values = Document(chart.files["values.yaml"].decode(), str(chart.path("values.yaml")))
    for path, image in images.items():
        pinned = (image.reference.repository, image.reference.tag, str(digests[path]))
        for key, value in zip(IMAGE_KEYS, pinned, strict=True):
            values.replace((*path.split("."), key), value)
    file = chart.file.model_copy(update={"version": version, "app_version": app})
    edited = {"Chart.yaml": head.render().encode(), "values.yaml": values.render().encode()}
    return Chart(chart.folder, file, chart.packing, {**chart.files, **edited})


def chart_images(tgz: Path) -> dict[str, Pinned]:
    """Every image that a packed chart needs with its own values, by path in them.

    Nothing is rendered: the templates take images from there and from nowhere else, which a test shows with Helm.
    Raises SourceError for what is no packed chart, or one whose images are not pinned.
    """
    with tempfile.TemporaryDirectory() as folder, tgz.open("rb") as file:
        plain = Decompressed(file, Gzip(), tgz.name, MAX_CHART)
        extract_tar(plain, Path(folder), what=tgz.name, max_bytes=MAX_CHART)
        while plain.read(CHUNK):  # the checksum stands behind the end of the archive
            pass
        found = sorted(Path(folder).glob("*/values.yaml"))
        if len(found) != 1:
            raise SourceError(f"{tgz.name}: expected one folder with a values.yaml, found {len(found)}")
        try:
            return {path: _pinned(value, path, found[0]) for path, value in find_images(read_yaml(found[0]))}
        except DefinitionError as error:
            raise SourceError(f"{tgz.name}: {error.reason.replace(f'{folder}/', '')}") from error


def _pinned(value: Mapping[str, Any], path: str, where: Path) -> Pinned:
    image = validate(ImageValues, dict(value), where.with_name(f"{where.name}: {path}"))
    return Pinned(Reference(image.repository, image.tag), Digest.parse(image.digest))
