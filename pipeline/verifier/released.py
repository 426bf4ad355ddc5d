"""`release.json`: what a release consists of, read strictly. What a newer engine adds to it is left alone."""

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass
from typing import Any

from pipeline.verifier.clock import read_time
from pipeline.verifier.encoding import Refused, parse
from pipeline.verifier.policy import Policy, read_text
from pipeline.verifier.versions import read_version

SCHEMA = "https://rfolabs.github.io/rfo/release/v1"
MANIFEST_NAME = "release.json"
MAX_MANIFEST = 64 << 20
PLACE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._+@-]{0,127}/){0,4}[A-Za-z0-9][A-Za-z0-9._+@-]{0,127}")
"""Paths of files in a release's folder: none leads out of it."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PLATFORM = re.compile(r"linux/[a-z0-9]{1,16}")


@dataclass(frozen=True)
class Item:
    """Something that a policy is asked about, by the name that statements give it."""

    name: str
    digest: str
    """SHA-256 in hexadecimal digits."""
    kind: str
    platform: str = ""
    """Empty: of the whole release, or of several."""
    size: int = 0


@dataclass(frozen=True)
class Released:
    """What release.json says, as far as verifying needs it."""

    version: str
    date: int
    """Seconds since 1970: the release's own time."""
    folder: str
    """What the release's folder is called: VERSION, or VERSION@BASE of one made on a stand-in."""
    bases: dict[str, str]
    """By platform."""
    deviations: tuple[Any, ...]
    """As they stand, each with `what` and `why`."""
    artifacts: dict[str, Item]
    """Published files by path; their kinds are not known here."""
    binaries: tuple[Item, ...]
    images: tuple[Item, ...]
    references: dict[str, str]
    """Every name under which images are published, to the digest of the index."""


def read_released(data: bytes) -> Released:
    """The manifest in its one spelling: sorted, indented by two. Raises Refused."""
    what = MANIFEST_NAME
    value = parse(data, what, MAX_MANIFEST)
    if (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode() != data:
        raise Refused(what, "is not in the form that it is written in: some of its bytes were changed")
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise Refused(what, "is not the manifest of a release", SCHEMA)
    read_version(value.get("version"), what)
    bases = _mapping(value, "bases")
    platforms = [read_text(p, what) for p in _list(value, "platforms")]
    if sorted(bases) != sorted(platforms) or not all(map(_PLATFORM.fullmatch, platforms)) or not platforms:
        raise Refused(what, "does not name one base for each platform")
    if not isinstance(value.get("stand_in"), bool):
        raise Refused(what, "does not say whether its base stands in for another one")
    names = "+".join(sorted({read_text(b, what) for b in bases.values()}))
    artifacts = [_read_artifact(a) for a in _list(value, "artifacts")]
    if len({a.name for a in artifacts}) != len(artifacts):
        raise Refused(what, "names a file twice")
    images, references = _read_images(_list(value, "images"))
    return Released(
        value["version"],
        read_time(value.get("date"), what),
        f"{value['version']}@{names}" if value["stand_in"] else value["version"],
        bases,
        tuple(_read_deviation(d) for d in _list(value, "deviations")),
        {a.name: a for a in artifacts},
        tuple(_read_binary(b) for b in _list(value, "binaries")),
        images,
        references,
    )


def check_terms(released: Released, policy: Policy, bases: frozenset[str], allowed: frozenset[str]) -> list[Refused]:
    """What speaks against a release as a whole: too old, on a base or with a deviation that the policy does not allow.

    `bases` are those that count; `allowed` those that the caller accepts besides the policy's.
    """
    found = []
    if read_version(released.version, MANIFEST_NAME) < read_version(policy.minimum_version, "policy.json"):
        reason = "is older than the policy accepts"
        found.append(Refused(released.version, reason, f"{policy.minimum_version} or later", released.version))
    for base in sorted(bases - allowed):
        if not _matched(base, policy.bases):
            reason = "is a base that the policy does not accept"
            found.append(Refused(base, reason, ", ".join(policy.bases), "accept it with --allow-base if you mean it"))
    for deviation in released.deviations:
        if not _matched(deviation["what"], policy.deviations):
            reason = "is a deviation from upstream that the policy does not allow"
            found.append(Refused(deviation["what"][:200], reason, ", ".join(policy.deviations)[:500]))
    return found


def _matched(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)


def _read_artifact(value: Any) -> Item:
    name = _field(value, "name")
    if not PLACE.fullmatch(name):
        raise Refused(MANIFEST_NAME, "names a file outside of the release", "", name[:200])
    platform = value.get("platform") or ""
    if platform and (not isinstance(platform, str) or not _PLATFORM.fullmatch(platform)):
        raise Refused(MANIFEST_NAME, f"has a malformed platform for {name}")
    return Item(name, _digest(value, "digest"), "", platform, _size(value))


def _read_binary(value: Any) -> Item:
    platform = _field(value, "platform")
    if not _PLATFORM.fullmatch(platform):
        raise Refused(MANIFEST_NAME, "has a binary for no platform", "", platform[:60])
    name = f"binary/{_field(value, 'unit')}/{platform.partition('/')[2]}/{_field(value, 'name')}"
    return Item(name, _digest(value, "digest"), "binary", platform, _size(value))


def _read_images(values: list[Any]) -> tuple[tuple[Item, ...], dict[str, str]]:
    """Each index and its platforms' manifests; and the images' names."""
    found: list[Item] = []
    references: dict[str, str] = {}
    for value in values:
        name, index = f"image/{_field(value, 'name')}", _digest(value, "digest")
        found.append(Item(name, index, "image"))
        for platform in sorted(_mapping(value, "platforms")):
            if not _PLATFORM.fullmatch(platform):
                raise Refused(MANIFEST_NAME, f"has {name} for no platform", "", platform[:60])
            arch = platform.partition("/")[2]
            found.append(Item(f"{name}/{arch}", _digest(value["platforms"], platform), "image", platform))
        for reference in _list(value, "references"):
            if references.setdefault(read_text(reference, MANIFEST_NAME), index) != index:
                raise Refused(MANIFEST_NAME, f"gives two images the name {reference}")
    if len({i.name for i in found}) != len(found):
        raise Refused(MANIFEST_NAME, "names an image twice")
    return tuple(found), references


def _read_deviation(value: Any) -> Any:
    _field(value, "what")
    return value


def _field(value: Any, name: str) -> str:
    if not isinstance(value, dict):
        raise Refused(MANIFEST_NAME, f"has something else where {name} is expected")
    return read_text(value.get(name), MANIFEST_NAME)


def _digest(value: Any, name: str) -> str:
    text = _field(value, name)
    if not _DIGEST.fullmatch(text):
        raise Refused(MANIFEST_NAME, "has a malformed digest", "sha256: and 64 hexadecimal digits", text[:100])
    return text.partition(":")[2]


def _size(value: Any) -> int:
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Refused(MANIFEST_NAME, "has a malformed size", "", str(size)[:60])
    return size


def _list(value: dict[str, Any], name: str) -> list[Any]:
    found = value.get(name)
    if not isinstance(found, list):
        raise Refused(MANIFEST_NAME, f"has no list of {name}")
    return found


def _mapping(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    if not isinstance(found, dict):
        raise Refused(MANIFEST_NAME, f"has no {name}")
    return found
