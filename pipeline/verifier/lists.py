"""Files that name other files: sums, lists of images, and the OCI layout. They agree with what is signed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.verifier.encoding import Refused, parse
from pipeline.verifier.folder import Folder
from pipeline.verifier.policy import read_text
from pipeline.verifier.released import Item, Released

LAYOUT_INDEX = "images/index.json"
BLOBS = "images/blobs/sha256/"
MAX_LIST = 1 << 20
MAX_LAYOUT = 16 << 20
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_NAME = "io.containerd.image.name"
"""Annotation with an image's whole reference."""
_SUM = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._+@/-]*)")
_LISTED = re.compile(r"([^\s@]{1,512})@sha256:([0-9a-f]{64})")
_SUMS = re.compile(r"sha256sum-[a-z0-9]+\.txt")
_IMAGES = re.compile(r"rfo-images[A-Za-z0-9._-]*\.txt")


def check_lists(folder: Folder, named: Mapping[str, str], released: Released, paths: list[str]) -> list[Refused]:
    """What is wrong with the lists among `paths`; `named` are the signed digests of all files."""
    found = []
    for path in paths:
        try:
            if _SUMS.fullmatch(path):
                _check_sums(path, _lines(folder, path, named), named)
            elif _IMAGES.fullmatch(path):
                _check_images(path, _lines(folder, path, named), released)
            elif path.startswith(BLOBS) and path != BLOBS + named[path]:
                raise Refused(path, "is called by another digest than it has", named[path])
        except Refused as refused:
            found.append(refused)
    return found


def read_layout(folder: Folder, named: Mapping[str, str], released: Released) -> list[Item]:
    """The charts in the OCI layout. Raises Refused if the layout's images are not those of release.json."""
    value = parse(folder.read_named(LAYOUT_INDEX, MAX_LAYOUT, named[LAYOUT_INDEX]), LAYOUT_INDEX, MAX_LAYOUT)
    manifests = value.get("manifests") if isinstance(value, dict) else None
    if not isinstance(manifests, list):
        raise Refused(LAYOUT_INDEX, "is no index of a layout")
    images: dict[str, str] = {}
    charts: dict[str, Item] = {}
    for entry in manifests:
        kind, digest, reference = _read_entry(entry)
        if BLOBS + digest not in named:
            raise Refused(LAYOUT_INDEX, f"names {reference}, whose content the release has not", "", digest)
        if kind == OCI_INDEX:
            images[reference] = digest
        else:
            chart = f"chart/{reference.rpartition('/')[2].partition(':')[0]}"
            if charts.setdefault(chart, Item(chart, digest, "chart")).digest != digest:
                raise Refused(LAYOUT_INDEX, f"names {chart} with two digests")
    if images != released.references:
        odd = sorted(set(images.items()) ^ set(released.references.items()))
        raise Refused(LAYOUT_INDEX, "has other images than release.json", "", ", ".join(n for n, _ in odd)[:500])
    return list(charts.values())


def _read_entry(entry: Any) -> tuple[str, str, str]:
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    if not isinstance(annotations, dict) or entry.get("mediaType") not in (OCI_INDEX, OCI_MANIFEST):
        raise Refused(LAYOUT_INDEX, "has an entry that is neither an image nor a chart with a name")
    digest = read_text(entry.get("digest"), LAYOUT_INDEX)
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise Refused(LAYOUT_INDEX, "has a malformed digest", "", digest[:100])
    return entry["mediaType"], digest.partition(":")[2], read_text(annotations.get(OCI_NAME), LAYOUT_INDEX)


def _check_sums(path: str, lines: list[str], named: Mapping[str, str]) -> None:
    for line in lines:
        match = _SUM.fullmatch(line)
        if not match:
            raise Refused(path, "has a malformed line", "64 hexadecimal digits, two spaces, a name", line[:200])
        if named.get(match[2]) != match[1]:
            raise Refused(path, f"gives another sum for {match[2]} than is signed", str(named.get(match[2])), match[1])


def _check_images(path: str, lines: list[str], released: Released) -> None:
    for line in lines:
        match = _LISTED.fullmatch(line)
        if not match or released.references.get(match[1]) != match[2]:
            raise Refused(path, "lists an image that the release has not, or with another digest", "", line[:300])


def _lines(folder: Folder, path: str, named: Mapping[str, str]) -> list[str]:
    data = folder.read_named(path, MAX_LIST, named[path])
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise Refused(path, "is not plain text") from error
    if not text.endswith("\n"):
        raise Refused(path, "does not end with a line's end")
    return text[:-1].split("\n")
