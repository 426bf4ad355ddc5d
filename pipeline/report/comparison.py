"""What `inv diff` prints: grouped and aligned for people, everything as JSON for programs."""

import json
import sys
from typing import Any

from pipeline.compare.difference import printable, show_value
from pipeline.model import PLATFORMS
from pipeline.report.progress import Progress, size
from pipeline.trace.diff import Changes, ReleaseDiff, to_json

FILES = ("binaries", "images", "charts", "bundles", "artifacts")
"""Kinds of facts that are bytes."""
MOST = 40
"""Lines of one kind for people; `--json` has all."""
HIDDEN = {"components": ("sum", "source"), "modules": ("sums",), "packages": ("digest",)}
"""Fields that only follow from another field of the same line: said when they alone differ."""


def say_diff(diff: ReleaseDiff, *, as_json: bool) -> None:
    """Print what two releases differ in on standard output."""
    if as_json:
        print(json.dumps(to_json(diff), indent=2))
        return
    out = Progress(stream=sys.stdout)
    out.step(f"{printable(diff.before.name)} -> {printable(diff.after.name)}")
    for note in dict.fromkeys([*diff.before.notes, *diff.after.notes]):
        out.say(f"  note: {printable(note)}")
    for section, changes in diff.sections.items():
        out.step(f"{section}: {_count(section, changes)}")
        lines = _lines(section, changes)
        width = min(max((len(subject) for _, subject, _ in lines), default=0), 60)
        for sign, subject, detail in lines[:MOST]:
            out.say(printable(f"  {sign} {subject:<{width}}  {detail}".rstrip()))
        if len(lines) > MOST:
            out.say(f"    … and {len(lines) - MOST} more; --json prints all")
    if again := diff.again:
        out.step(
            f"shipped again: {again.files} of {again.all_files} files are in both, by digest: "
            f"{size(again.size)} of {size(again.all_size)}"
        )
    if diff.files is not None:
        out.step(f"bytes: {len(diff.files)} files of both releases differ")
        for found in diff.files.values():
            for difference in found:
                out.say("  " + difference.render().replace("\n", "\n  "))


def _count(section: str, changes: Changes) -> str:
    both = changes.same + len(changes.changed)
    parts = [f"{changes.same} of {both} {'are' if both != 1 else 'is'} {_equal(section)}"]
    parts += [f"{len(changes.added)} added"] * bool(changes.added)
    parts += [f"{len(changes.removed)} removed"] * bool(changes.removed)
    return ", ".join(parts)


def _equal(section: str) -> str:
    return "identical" if section in FILES else "the same"


def _lines(section: str, changes: Changes) -> list[tuple[str, str, str]]:
    """Sign, subject and detail of each change; one line for all architectures on which the same happens."""
    entries = [("~", name, _changed(section, fields)) for name, fields in changes.changed.items()]
    entries += [("+", name, _present(fields)) for name, fields in changes.added.items()]
    entries += [("-", name, _present(fields)) for name, fields in changes.removed.items()]
    groups: dict[tuple[str, str, str], list[str]] = {}
    for sign, name, detail in entries:
        subject, _, target = name.rpartition(" ")
        if not subject or target.removeprefix("linux/") not in PLATFORMS:
            subject, target = name, ""
        groups.setdefault((sign, subject, detail), []).append(target)
    lines = []
    for (sign, subject, detail), targets in groups.items():
        arches = ", ".join(sorted(t.removeprefix("linux/") for t in targets if t))
        lines.append((sign, f"{subject} ({arches})" if arches else subject, detail))
    return lines


def _changed(section: str, fields: dict[str, tuple[Any, Any]]) -> str:
    if section == "images":
        return _changed_image(fields)
    if "digest" in fields and section in ("binaries", "bundles", "artifacts"):
        return _grown(*fields["size"]) if "size" in fields else "other bytes, same size"
    if section == "charts":
        versions = fields.get("version")
        return f"{versions[0]} -> {versions[1]}" if versions else "other content, same version"
    hidden = HIDDEN.get(section, ())
    told = {f: v for f, v in fields.items() if f not in hidden} or fields
    return "; ".join(
        ("" if f in ("value", "version", "versions") else f"{f} ") + f"{_show(old)} -> {_show(new)}"
        for f, (old, new) in told.items()
    )


def _changed_image(fields: dict[str, tuple[Any, Any]]) -> str:
    """Which layers and packages of an image changed."""
    told = []
    if names := fields.get("references"):
        old, new = (sorted({str(r).rpartition(":")[2] for r in side}) for side in names)
        told.append(f"{', '.join(old)} -> {', '.join(new)}")
    if "digest" in fields:
        layers = [f"{sign}{name}" for sign, name, _, _ in _entries(*fields.get("layers", ({}, {})))]
        told.append(f"layers {', '.join(layers)}" if layers else "only its configuration")
    if packages := fields.get("packages"):
        told.append(f"packages {', '.join(_step(*entry) for entry in _entries(*packages))}")
    told += [_grown(*sizes)] if (sizes := fields.get("size")) else []
    return "; ".join(told)


def _entries(old: dict[str, str], new: dict[str, str]) -> list[tuple[str, str, str, str]]:
    """Sign, name and both values of each entry that differs."""
    names = [n for n in {**old, **new} if old.get(n) != new.get(n)]
    return [
        ("" if n in old and n in new else "+" if n in new else "-", n, old.get(n, ""), new.get(n, "")) for n in names
    ]


def _step(sign: str, name: str, old: str, new: str) -> str:
    return f"{sign}{name} {old or new}" if sign else f"{name} {old} -> {new}"


def _grown(old: int, new: int) -> str:
    percent = f", {100 * (new - old) / old:+.1f} %" if old else ""
    return f"{size(old)} -> {size(new)} ({new - old:+d} bytes{percent})"


def _present(fields: dict[str, Any]) -> str:
    """What is worth saying of something that only one side has."""
    if "size" in fields:
        return size(fields["size"])
    return next((_show(fields[f]) for f in ("version", "versions", "value") if fields.get(f)), "")


def _show(value: Any) -> str:
    return show_value(", ".join(map(str, value)) if isinstance(value, list) else value)
