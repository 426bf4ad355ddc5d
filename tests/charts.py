"""What tests of charts share: those of the repository, as a release packs them, and Helm."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from engine import REPO
from tools import tool

from pipeline.chart.definition import Chart, read_chart
from pipeline.chart.images import fill_chart, images_for
from pipeline.definitions import Definitions
from pipeline.image.names import Image, images_of
from pipeline.model import Digest

CHARTS = ("rfo-coredns", "rfo-flannel", "rfo-metrics-server")
IMAGES = ("hardened-coredns", "hardened-flannel", "hardened-k8s-metrics-server")
INDEXES = {name: json.dumps({"index of": name}).encode() for name in IMAGES}
"""In place of the indexes of images: their digests are what matters."""
DIGESTS = {name: Digest.of_bytes(data) for name, data in INDEXES.items()}


@cache
def release_images(release: str) -> dict[str, Image]:
    """The images that charts use, as a real release calls them, by recipe."""
    definitions = Definitions(REPO)
    defined = definitions.release(release).model_copy(update={"images": IMAGES})
    return {i.name: i for i in images_of(defined, definitions, None)}


def packed(name: str, release: str, folder: Path) -> Path:
    """A chart of the repository as `release` packs it, as files below `folder`."""
    chart = read_chart(REPO, name)
    used = images_for(chart, release_images(release))
    filled = fill_chart(chart, release.removeprefix("v"), used, {p: DIGESTS[i.name] for p, i in used.items()})
    return write(filled, folder / name)


def write(chart: Chart, folder: Path) -> Path:
    """The files of a chart in `folder`."""
    for path, data in chart.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def helm(*arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run Helm with a home of its own."""
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    command = [tool("helm"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)


def template(chart: Path, values: Mapping[str, Any], home: Path, version: str = "v1.25.4") -> list[dict[str, Any]]:
    """The objects that Helm renders of a chart for a Kubernetes version, with `values` over its own."""
    file = home / "values.yaml"
    file.write_text(yaml.safe_dump(dict(values)))
    done = helm(
        "template", "release", chart, "-n", "kube-system", "--kube-version", version, "-f", file, home=home
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [o for o in yaml.safe_load_all(done.stdout) if o is not None]


def images_in(value: Any) -> Iterator[str]:
    """Every image that rendered objects name."""
    if isinstance(value, dict):
        if isinstance(value.get("image"), str):
            yield value["image"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from images_in(item)
