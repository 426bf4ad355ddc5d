"""A chart as people write it: Chart.yaml, which Helm reads too, and packing.yaml, which says what a release adds.

Reads files; knows no release.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool

from pipeline.errors import DefinitionError
from pipeline.sources.tree import tracked_files
from pipeline.strict import MAX_FILE, Name, Strict, Text, read_yaml, validate

FOLDER = "charts"
"""Where charts are in a checkout."""
PACKING = "packing.yaml"
"""The one file of a chart's folder that is not part of the chart."""
NEEDED = ("Chart.yaml", "README.md", "values.schema.json", "values.yaml", "templates/NOTES.txt")
"""What a chart cannot be without: values that no schema checks fail late, in the cluster."""
IMAGE_KEYS = ("repository", "tag", "digest")
"""What packing writes of an image."""


class Maintainer(Strict):
    """Who answers for a chart."""

    name: Text
    email: str | None = None
    url: str | None = None


class ChartFile(Strict):
    """Chart.yaml (https://helm.sh/docs/topics/charts/#the-chartyaml-file), as far as our charts use it.

    There are no dependencies: a chart is what stands in its folder.
    """

    api_version: Literal["v2"] = Field(alias="apiVersion")
    name: Name
    description: Text
    type: Literal["application"]
    version: Text
    """A placeholder in the checkout: the packed chart has the release's version."""
    app_version: str = Field(alias="appVersion", pattern=r"^\{(version|number)\}$")
    """In the checkout a template of the version of the program in its first image: with or without `v`, as upstream."""
    kube_version: Text = Field(alias="kubeVersion")
    home: str | None = None
    sources: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    maintainers: tuple[Maintainer, ...] = ()


class Packing(Strict):
    """packing.yaml: what a release puts into a chart, and how it is installed."""

    bootstrap: StrictBool
    """Whether it is installed on a node that is not ready yet: pods need it (`spec.bootstrap` of a HelmChart)."""
    images: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9]+(\.[A-Za-z0-9]+)*$")], Name] = Field(min_length=1)
    """Path in values.yaml to the recipe of the image whose repository, tag and digest are written there."""


@dataclass(frozen=True)
class Chart:
    """One chart of the checkout."""

    folder: Path
    file: ChartFile
    packing: Packing
    files: dict[str, bytes]
    """What it consists of: path to content."""

    @property
    def name(self) -> str:
        """As its folder is called."""
        return self.file.name

    def path(self, name: str) -> Path:
        """One of its files, for messages."""
        return self.folder / name


def read_chart(checkout: Path, name: str) -> Chart:
    """The chart called `name`: the tracked files of its folder. Raises DefinitionError."""
    folder = checkout / FOLDER / name
    names = tracked_files(checkout, f"{FOLDER}/{name}")
    if missing := [n for n in (*NEEDED, PACKING) if n not in names]:
        raise DefinitionError(f"{folder / missing[0]} is missing", "write it, and `git add` it")
    path = folder / "Chart.yaml"
    file = validate(ChartFile, read_yaml(path), path)
    if file.name != name:
        raise DefinitionError(f"{path}: key name: expected {name}, as its folder is called; found {file.name}")
    packing = validate(Packing, read_yaml(folder / PACKING), folder / PACKING)
    _refuse_other_images(packing, folder)
    return Chart(folder, file, packing, {n: _read(folder / n) for n in names if n != PACKING})


def find_images(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each mapping below `values` that is an image's, which is one with a `repository`, with its path."""
    for key, value in values.items():
        if isinstance(value, dict):
            path = f"{above}{key}"
            if "repository" in value:
                yield path, value
            yield from find_images(value, f"{path}.")


def _refuse_other_images(packing: Packing, folder: Path) -> None:
    """The images in values.yaml are those that packing.yaml names: one that it does not name would have no digest."""
    values = folder / "values.yaml"
    standing = dict(find_images(read_yaml(values)))
    for path in sorted({*packing.images, *standing}):
        if path not in standing:
            raise DefinitionError(
                f"{folder / PACKING}: key images.{path}: {values} has no image there",
                f"an image is a mapping with {', '.join(IMAGE_KEYS)}",
            )
        if path not in packing.images:
            raise DefinitionError(
                f"{values}: key {path} is an image that {PACKING} does not name", f"name its recipe: {path}: RECIPE"
            )
        if missing := [k for k in IMAGE_KEYS if k not in standing[path]]:
            raise DefinitionError(f"{values}: key {path}.{missing[0]} is missing: packing writes it")


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise DefinitionError(f"{path}: larger than {MAX_FILE} bytes")
    return data
