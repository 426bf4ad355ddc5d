"""What `inv why-rebuilt` prints for people."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.report.progress import duration

if TYPE_CHECKING:
    from pipeline.trace.why import Change, Item, Now, Reasons

SHOWN = 20
"""Modules or packages of one change that are listed; --json has all."""


def say_reasons(reasons: "Reasons", *, as_json: bool) -> None:
    """The end of `inv why-rebuilt`."""
    print(json.dumps(reasons.to_json(), indent=2) if as_json else render_reasons(reasons), flush=True)


def render_reasons(reasons: "Reasons") -> str:
    """The reasons as text."""
    name = reasons.action
    took = f" and took {duration(reasons.seconds)}" if reasons.seconds is not None else ""
    if reasons.runs == 0:
        lines = [f"{name} never ran on this store"]
    elif reasons.runs == 1:
        lines = [
            f"{name} ran{took}; no run of it with another key is remembered: nothing of it was in the store before"
        ]
    else:
        lines = [f"{name} ran again{took}, since its key changed:", *_changes(reasons.changes)]
    if reasons.now:
        lines += _now(reasons.now)
    return "\n".join(lines)


def _now(now: "Now") -> Iterator[str]:
    head = f"with the definitions of {now.version} as they are"
    if now.state == "gone":
        yield f"{head} there is no such action"
    elif now.state == "kept":
        yield f"{head} it would not run: its outputs are in the store"
    elif now.lost:
        yield f"{head} it would run: its key is that of the last run, but the store has lost {', '.join(now.lost)}"
    else:
        waits = f", after {', '.join(now.waits_for)}, whose outputs are not known yet" if now.waits_for else ""
        yield f"{head} it would run{waits}" + (", and differs from the last run in:" if now.changes else "")
        yield from _changes(now.changes)


def _changes(changes: "tuple[Change, ...]") -> Iterator[str]:
    for change in changes:
        yield f"  {change.path}{_about(change)}" + (f"  ({change.meaning})" if change.meaning else "")
        if change.kind == "words":
            for item in change.items:
                yield from (f"    {sign} {text}" for sign, text in (("-", item.old), ("+", item.new)) if text)
            continue
        for item in change.items[:SHOWN]:
            yield f"    {item.name}  {_step(item)}"
        if len(change.items) > SHOWN:
            yield f"    and {len(change.items) - SHOWN} more; list them: --json"


def _about(change: "Change") -> str:
    match change.kind:
        case "code":
            return "  the engine's own code for this step, or requirements.lock, changed"
        case "modules":
            return f"  {_count(change, 'module')}"
        case "root":
            return f"  {change.note or _count(change, 'package')}"
        case "input":
            maker = f", made by {change.made_by}" if change.made_by else ""
            return f"  {change.old} -> {change.new}{maker}"
        case "value":
            return f"  {_text(change.old)} -> {_text(change.new)}"
    return ""


def _count(change: "Change", what: str) -> str:
    return f"{len(change.items)} {what}" + ("" if len(change.items) == 1 else "s")


def _step(item: "Item") -> str:
    """Versions, and their hashes only where the versions do not tell them apart."""
    old, new = ((text or "").split(" ", 1) for text in (item.old, item.new))
    if item.old and item.new and old[0] == new[0]:
        return f"{item.old} -> {item.new}"
    return f"{old[0] or 'none'} -> {new[0] or 'none'}"


def _text(value: object) -> str:
    return "none" if value is None else str(value) or "''"
