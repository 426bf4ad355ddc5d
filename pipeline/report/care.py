"""What the commands that take care of the store print, for people and as JSON."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.care.gc import Limits, Plan, plan_gc
from pipeline.care.inventory import Item, Total, take_inventory, totals
from pipeline.care.pins import read_pins
from pipeline.care.verify import Damage, Report, refuse_damage, repair, verify
from pipeline.errors import PipelineError
from pipeline.report.progress import Progress, duration, size
from pipeline.store import Store

LISTED = 40
"""Things that `gc` names for people."""
AGAIN = "the next ./inv release makes or fetches it again"


def say_status(store: Store, checkout: Path, progress: Progress, *, as_json: bool) -> None:
    """`inv store status`."""
    progress.step(f"looking through {store.root}")
    items = take_inventory(store)
    found, free = totals(items), shutil.disk_usage(store.root).free
    gc = _describe_gc(store, checkout, items)
    if as_json:
        facts = {
            "store": str(store.root),
            "size": sum(t.size for t in found),
            "files": sum(t.files for t in found),
            "free": free,
            "kinds": [vars(t) for t in found],
            "gc": gc,
        }
        print(json.dumps(facts, indent=2))
        return
    progress.say(f"{size(sum(t.size for t in found))} are in it, {size(free)} are free on its disk")
    for total in found:
        progress.say(_line(total))
    if "error" in gc:
        progress.say(f"gc cannot tell what to keep: {gc['error']}")
    else:
        progress.say(f"./inv gc would free {size(gc['frees'])}; pins of known releases take {size(gc['pinned'])}")


def _line(total: Total) -> str:
    used = f"used {_ago(total.oldest)} to {_ago(total.newest)} ago" if total.oldest and total.newest else ""
    return f"  {size(total.size):>10}  {total.files:>7} files  {total.kind:<34} {used}".rstrip()


def _ago(then: float) -> str:
    seconds = max(time.time() - then, 0)
    return duration(seconds) if seconds < 2 * 86400 else f"{seconds / 86400:.0f}d"


def _describe_gc(store: Store, checkout: Path, items: Sequence[Item]) -> dict[str, Any]:
    """What `inv gc` would do without options; a lock or link that stops it is said there, and stops no status."""
    try:
        plan = plan_gc(store, items, read_pins(checkout, store), Limits.parse())
    except PipelineError as error:
        return {"error": error.reason}
    return {"frees": plan.freed, "pinned": plan.pinned}


def say_gc(plan: Plan, store: Store, progress: Progress, dry_run: bool, *, as_json: bool) -> None:
    """The end of `inv gc`."""
    named = [r for r in plan.removals if r.kind != "compile caches"]
    if as_json:
        facts = {
            "store": str(store.root),
            "dry_run": dry_run,
            "before": plan.before,
            "freed": plan.freed,
            "over": plan.over,
            "pinned": plan.pinned,
            "kinds": {k: {"things": n, "size": s} for k, (n, s) in plan.kinds.items()},
            "removed": [{"kind": r.kind, "name": r.name, "size": r.size, "used": r.used} for r in named],
        }
        print(json.dumps(facts, indent=2))
        return
    for removal in sorted(named, key=lambda r: -r.size)[:LISTED]:
        progress.say(f"  {size(removal.size):>10}  {removal.kind}: {removal.name}, used {_ago(removal.used)} ago")
    for kind, (number, bytes_) in plan.kinds.items():
        progress.say(f"  {size(bytes_):>10}  {kind}, {number} in all")
    left = size(plan.before - plan.freed)
    progress.say(f"{'would free' if dry_run else 'freed'} {size(plan.freed)}; {left} stay in {store.root}")
    if plan.over:
        what = f"pins of known releases take {size(plan.pinned)}; --pins frees them as well" if plan.pinned else ""
        progress.say(f"{size(plan.over)} more than --max-size allows: {what or 'nothing else may go'}")


def say_verify(store: Store, checkout: Path, progress: Progress, *, as_json: bool) -> None:
    """`inv store verify`; raises StoreError if anything is damaged."""
    report = verify(store, checkout, progress)
    if as_json:
        print(json.dumps(_describe(store, report), indent=2))
    else:
        _say_checked(report, progress)
    refuse_damage(store, report)


def say_repair(store: Store, checkout: Path, progress: Progress, *, as_json: bool) -> None:
    """`inv store repair`."""
    report = repair(store, checkout, progress)
    if as_json:
        print(json.dumps(_describe(store, report), indent=2))
        return
    _say_checked(report, progress)
    for damage in report.damages:
        progress.say(f"  removed {damage.what}: {damage.reason}")
    progress.say(f"removed {len(report.damages)} damaged things; {AGAIN}" if report.damages else "nothing is damaged")


def _describe(store: Store, report: Report) -> dict[str, Any]:
    return {
        "store": str(store.root),
        "checked": report.checked,
        "size": report.size,
        "seconds": round(report.seconds, 2),
        "absent_modules": report.absent,
        "damaged": [_describe_damage(d) for d in report.damages],
    }


def _describe_damage(damage: Damage) -> dict[str, Any]:
    return {"what": damage.what, "reason": damage.reason, "paths": list(damage.paths)}


def _say_checked(report: Report, progress: Progress) -> None:
    counts = ", ".join(f"{n} {kind}" for kind, n in report.checked.items())
    progress.say(f"checked {counts}: {size(report.size)} in {duration(report.seconds)}")
