"""`inv diff`: what two releases differ in. Facts are compared by name, files byte for byte."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.compare.difference import Difference
from pipeline.definitions import Definitions
from pipeline.errors import UsageError
from pipeline.image.layer import PUBLISHED
from pipeline.model import Digest
from pipeline.publish.published import Published
from pipeline.trace.facts import Facts, Side, read_side
from pipeline.trace.find import CHART
from pipeline.trace.layout import Build, Layout

SECTIONS = (
    "release", "components", "toolchains", "modules", "packages", "deviations", "binaries", "images", "charts",
    "bundles", "artifacts",
)  # fmt: skip
"""Kinds of facts, in the order in which they are said."""


@dataclass(frozen=True)
class Changes:
    """What differs between two sets of named facts."""

    added: Facts
    removed: Facts
    changed: dict[str, dict[str, tuple[Any, Any]]]
    """Name to the fields that differ, before and after."""
    same: int
    """Names of which nothing differs."""


@dataclass(frozen=True)
class Shipped:
    """How much of a release the one before it had as well: files with equal digests, each counted once."""

    files: int
    size: int
    """Bytes."""
    all_files: int
    all_size: int


@dataclass(frozen=True)
class ReleaseDiff:
    """What two releases differ in."""

    before: Side
    after: Side
    sections: dict[str, Changes]
    """Kinds of facts that both sides know."""
    again: Shipped | None
    """What the later one ships again; None if one of them was not made."""
    files: dict[str, list[Difference]] | None
    """Files of both sides with other bytes, looked into, by what both call them; None if that was not asked for."""


def diff_releases(before: str, after: str, checkout: Path, *, look_inside: bool) -> ReleaseDiff:
    """Compare two releases, each named by version, VERSION@BASE or folder; `checkout` has the definitions and locks.

    With `look_inside` files of both sides that have other bytes are compared member by member; their digests are
    checked first. Raises UsageError for what is no release or was not made, SourceError for damaged files.
    """
    definitions = Definitions(checkout)
    one, other = read_side(before, definitions), read_side(after, definitions)
    sections = {
        name: find_changes(one.sections[name], other.sections[name])
        for name in SECTIONS
        if name in one.sections and name in other.sections
    }
    files = _look_inside(one, other, sections) if look_inside else None
    return ReleaseDiff(one, other, sections, _shipped_again(one, other), files)


def find_changes(before: Facts, after: Facts) -> Changes:
    """What differs; a field that one side does not know (None, or not there) does not."""
    changed = {}
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        fields = [f for f in old if old[f] is not None and new.get(f) is not None and old[f] != new[f]]
        if fields:
            changed[name] = {f: (old[f], new[f]) for f in fields}
    return Changes(
        added={n: after[n] for n in sorted(after.keys() - before.keys())},
        removed={n: before[n] for n in sorted(before.keys() - after.keys())},
        changed=dict(sorted(changed.items())),
        same=len(before.keys() & after.keys()) - len(changed),
    )


def _shipped_again(before: Side, after: Side) -> Shipped | None:
    if before.published is None or after.published is None:
        return None
    old = {a.digest for a in before.published.manifest.artifacts}
    new = {a.digest: a.size for a in after.published.manifest.artifacts}
    again = [size for digest, size in new.items() if digest in old]
    return Shipped(len(again), sum(again), len(new), sum(new.values()))


def _look_inside(before: Side, after: Side, sections: dict[str, Changes]) -> dict[str, list[Difference]]:
    from pipeline.compare.compare import compare

    old, new = _files_of(before), _files_of(after)
    pairs = {name: (name, name) for name, fields in sections["artifacts"].changed.items() if "digest" in fields}
    pairs |= dict(_parts_of_charts(sections["charts"], old, new))
    pairs |= dict(_parts_of_images(old, new))
    return {name: compare(old.file(one), new.file(other), name) for name, (one, other) in pairs.items()}


_Pair = tuple[str, tuple[str, str]]
"""What a file is called on both sides, and where it stands on each."""


def _parts_of_charts(charts: Changes, old: Published, new: Published) -> Iterator[_Pair]:
    """Charts pair by name: their files are called by version too."""
    places = [{a.digest: a.name for a in side.manifest.artifacts if a.name.endswith(CHART)} for side in (old, new)]
    for name, fields in charts.changed.items():
        one, other = (place.get(digest) for place, digest in zip(places, fields.get("digest", ("", "")), strict=True))
        if one and other:
            yield f"charts/{name}", (one, other)


def _parts_of_images(old: Published, new: Published) -> Iterator[_Pair]:
    """Parts of images pair by image and platform, layers by the step that makes them; each pair stands once.

    Bundles consist of them, so that nothing is left to be looked into in those.
    """
    sides = [{(b.image.name, b.platform): b for b in Layout(side).builds} for side in (old, new)]
    seen: set[tuple[str, str]] = set()
    for key in sorted(sides[0].keys() & sides[1].keys()):
        parts = [_parts(side[key]) for side in sides]
        for part in [p for p in parts[0] if p in parts[1]]:
            pair = (parts[0][part], parts[1][part])
            if pair[0] != pair[1] and pair not in seen:
                seen.add(pair)
                yield f"{' '.join(key)}: {part}", pair


def _parts(build: Build) -> dict[str, str]:
    """Where the parts of an image stand."""
    named = {"manifest": build.manifest, "config": build.config}
    named |= {f"layer {la.step or n}": la.digest for n, la in enumerate(build.layers, 1)}
    return {part: PUBLISHED.format(hex=Digest.parse(digest).hex) for part, digest in named.items()}


def _files_of(side: Side) -> Published:
    if side.published is None:
        version, _, base = side.name.partition("@")
        make = f"./inv release --version {version}" + (f" --base {base}" if base else "")
        raise UsageError(f"--bytes needs the files of both releases; {side.name} has none here", f"make it: {make}")
    return side.published


def to_json(diff: ReleaseDiff) -> dict[str, Any]:
    """All of it, as JSON has it."""
    return {
        "before": _describe(diff.before),
        "after": _describe(diff.after),
        "sections": {name: asdict(changes) for name, changes in diff.sections.items()},
        "unknown": [name for name in SECTIONS if name not in diff.sections],
        "again": asdict(diff.again) if diff.again else None,
        "bytes": None
        if diff.files is None
        else {name: [d.to_json() for d in found] for name, found in diff.files.items()},
    }


def _describe(side: Side) -> dict[str, Any]:
    folder = str(side.published.folder) if side.published else None
    return {"name": side.name, "folder": folder, "notes": side.notes}
