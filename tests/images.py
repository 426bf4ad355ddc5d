"""A small release with images, which tests of images share: one static program on each layer of the base."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from engine import ARCHES, BASE, REPO, SMALL, lock_small, make_context, write_checkout

from pipeline.context import Context
from pipeline.release import release

COMPONENT: dict[str, Any] = {
    "name": "hello",
    "license": "Apache-2.0",
    "source": {"tree": "components/hello/src"},
    "build": [{"binaries": {"hello": "."}, "stamp": {"main.version": "{release}"}}],
    "smoke": {"hello": {"args": [], "prints": "hello {release}"}},
}
MAIN = """package main

var version = "unset"

func main() { println("hello", version) }
"""
"""It imports nothing, so that a cold build of it is quick."""
FILES = {
    "components/hello/src/main.go": MAIN,
    "components/hello/src/go.mod": "module example.org/hello\n\ngo 1.20\n",
    "install/bin/rfo-killall.sh": "#!/bin/sh\n",
}
PLAIN: dict[str, Any] = {
    "name": "plain",
    "title": "A program without a system",
    "component": "hello",
    "tag": "{release}-build{build}",
    "also": [{"name": "other", "tag": "{release}"}],
    "set": "core",
    "node": True,
    "layer": "minimal",
    "programs": [{"component": "hello", "to": "usr/local/bin"}],
    "entrypoint": ["/usr/local/bin/hello"],
    "user": "65532:65532",
    "budget": "20MiB",
}
TOOLS = PLAIN | {
    "node": False,
    "name": "tools",
    "title": "A program with the tools of the network",
    "also": [],
    "set": "more",
    "layer": "network",
    "user": "0:0",
}
EMPTY = PLAIN | {"name": "empty", "title": "A program alone", "also": [], "layer": None, "start": False}
CHART = "rfo-metrics-server"
"""Of the repository's own; here it installs the image `tools`."""


def add_chart(folder: Path) -> Path:
    """Give a checkout whose images are PLAIN, TOOLS and EMPTY a chart, which the last one carries."""
    shutil.copytree(REPO / "charts" / CHART, folder / "charts" / CHART)
    (folder / "charts" / CHART / "packing.yaml").write_text("bootstrap: false\nimages: {image: tools}\n")
    (folder / "images/openeuler/empty.yaml").write_text(json.dumps(EMPTY | {"charts": "charts"}))
    path = folder / "releases" / SMALL / "release.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"charts": [CHART]}))
    return folder


def add_node(folder: Path) -> Path:
    """Give a checkout with images a node, so that its release has a tarball and packages."""
    source = folder / "components" / "rfo" / "src"
    source.mkdir(parents=True)
    (source / "main.go").write_text(MAIN)
    (source / "go.mod").write_text("module example.org/rfo\n\ngo 1.20\n")
    node = {
        "name": "rfo", "source": {"tree": "components/rfo/src"},
        "build": [{"binaries": {"rfo": "."}, "stamp": {"main.version": "{release}"}}],
        "smoke": {"rfo": {"args": [], "prints": "hello {release}"}},
    }  # fmt: skip
    (source.parent / "component.yaml").write_text(yaml.safe_dump(COMPONENT | node))
    add_packaging(folder)
    path = folder / "releases" / SMALL / "release.yaml"
    release = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(release | {"components": release["components"] | {"rfo": {}}}))
    lock_small(folder)
    return folder


def add_packaging(folder: Path) -> None:
    """Give a checkout what the repository's node is packed with: units, scripts and specs."""
    for name in ("install", "rpm"):
        shutil.copytree(REPO / name, folder / name, dirs_exist_ok=True)


def image_checkout(folder: Path, *recipes: dict[str, Any], files: dict[str, str] | None = None, **more: Any) -> Path:
    """A checkout whose release has the images `recipes`; `more` is merged over the release."""
    chosen = recipes or (PLAIN, TOOLS, EMPTY)
    texts = {f"images/openeuler/{r['name']}.yaml": json.dumps(r) for r in chosen}
    write_checkout(folder, {"hello": COMPONENT}, FILES | texts | (files or {}), {"hello": {}})
    path = folder / "releases" / SMALL / "release.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"images": [r["name"] for r in chosen]} | more))
    return folder


@cache
def made(folder: Path) -> Context:
    """The images of a checkout made for all architectures, and published in its dist/."""
    context = make_context(folder, arches=ARCHES)
    release(context)
    return context


__all__ = [
    "BASE", "CHART", "EMPTY", "MAIN", "PLAIN", "REPO", "TOOLS", "add_chart", "add_node", "add_packaging",
    "image_checkout", "made",
]  # fmt: skip
