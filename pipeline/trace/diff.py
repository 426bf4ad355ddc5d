"""`inv diff`: what two releases differ in. Facts are compared by name, files byte for byte."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.compare.difference import Difference
from pipeline.definitions import Definitions
from pipeline.errors import UsageError
from pipeline.publish.published import Published
from pipeline.trace.facts import Facts, Side, read_side

SECTIONS = ("release", "components", "toolchains", "modules", "packages", "deviations", "binaries", "artifacts")
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
class ReleaseDiff:
    """What two releases differ in."""

    before: Side
    after: Side
    sections: dict[str, Changes]
    """Kinds of facts that both sides know."""
    files: dict[str, list[Difference]] | None
    """Artifacts of both sides with other bytes, looked into; None if that was not asked for."""


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
    return ReleaseDiff(one, other, sections, _look_inside(one, other, sections) if look_inside else None)


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


def _look_inside(before: Side, after: Side, sections: dict[str, Changes]) -> dict[str, list[Difference]]:
    from pipeline.compare.compare import compare

    old, new = _files_of(before), _files_of(after)
    return {
        name: compare(old.file(name), new.file(name), name)
        for name, fields in sections["artifacts"].changed.items()
        if "digest" in fields
    }


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
        "bytes": None
        if diff.files is None
        else {name: [d.to_json() for d in found] for name, found in diff.files.items()},
    }


def _describe(side: Side) -> dict[str, Any]:
    folder = str(side.published.folder) if side.published else None
    return {"name": side.name, "folder": folder, "notes": side.notes}
