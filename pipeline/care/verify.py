"""Look at everything in a store, byte by byte, and remove what is damaged so that the next run has it again."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipeline.care.inventory import Item, record_of, take_inventory
from pipeline.care.pins import read_sources_pins
from pipeline.care.removal import remove, sweep_trash
from pipeline.errors import DefinitionError, StoreError
from pipeline.graph import canonical
from pipeline.lock import BaseLock, read_lock
from pipeline.model import Digest, Module
from pipeline.report.progress import Progress, duration, size
from pipeline.roots import is_intact
from pipeline.sources.go import hash_tree
from pipeline.store import Record, Store

SAID = 10.0
"""Seconds between lines that say how far a verification is."""
SHOWN = 20
"""Damaged things that an error names."""
REMEDY = "remove what is damaged, so that the next run makes or fetches it again: ./inv store repair"


@dataclass(frozen=True)
class Damage:
    """Something that is not what it should be."""

    what: str
    """For a person: the kind of thing and its name."""
    reason: str
    paths: tuple[str, ...]
    """What to remove, below the store, in this order."""


@dataclass
class Report:
    """What a verification found."""

    damages: list[Damage] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    """By kind: how many things were looked at."""
    size: int = 0
    """Bytes that were read."""
    seconds: float = 0.0
    absent: int = 0
    """Pinned modules that are not in the store: a run fetches them when it needs them."""


def refuse_damage(store: Store, report: Report) -> None:
    """Raise StoreError that names what is damaged."""
    if found := report.damages:
        lines = [f"{d.what}: {d.reason}" for d in found[:SHOWN]]
        lines += [f"and {len(found) - SHOWN} more: --json names all"] if len(found) > SHOWN else []
        raise StoreError(f"{len(found)} things in {store.root} are damaged:\n  " + "\n  ".join(lines), REMEDY)


def repair(store: Store, checkout: Path, progress: Progress) -> Report:
    """Verify, then remove what is damaged, and say each. Raises StoreError if a run uses the store."""
    with store.alone():
        report = verify(store, checkout, progress)
        sweep_trash(store)
        remove(store, [p for d in report.damages for p in d.paths])
    return report


def verify(store: Store, checkout: Path, progress: Progress) -> Report:
    """Check files and roots against their digests, records, and modules against the locks. Changes nothing.

    Compile caches, logs and what is on its way are not checked: nothing is served from them unseen.
    """
    started = time.monotonic()
    items = take_inventory(store)
    report = Report()
    report.damages += _misplaced(items)
    plain = [i for i in items if i.type in ("file", "folder")]
    records = _read_records(store, [i for i in plain if i.name.startswith(("records/", "history/"))], report)
    report.damages += _base_locks(store, plain, report)
    checks = [*_blobs(store, plain, records, report), *_trees(store, plain, report)]
    checks += _modules(store, checkout, plain, report)
    report.size = sum(c.size for c in checks)
    report.damages += _run(checks, progress)
    bad = {p for d in report.damages for p in d.paths}
    unserved = [d for path, record in records.items() if (d := _unserved(path, record, store, bad))]
    report.damages[:0] = unserved  # a record goes before the files that it names
    report.seconds = time.monotonic() - started
    return report


@dataclass(frozen=True)
class _Check:
    size: int
    """Bytes to read."""
    run: Callable[[], Damage | None]


def _run(checks: Sequence[_Check], progress: Progress) -> list[Damage]:
    """Run checks on all cores, the largest first, and say at times how far they are."""
    total = sum(c.size for c in checks)
    progress.step(f"verifying {len(checks)} files, roots and modules, {size(total)}")
    found, done = [], 0
    started = said = time.monotonic()
    ordered = sorted(checks, key=lambda c: -c.size)
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        try:
            for check, damage in zip(ordered, pool.map(lambda c: c.run(), ordered), strict=True):
                found += [damage] if damage else []
                done += check.size
                now = time.monotonic()
                if now - said > SAID and done:
                    said = now
                    left = (now - started) * (total - done) / done
                    progress.say(f"  {size(done)} of {size(total)}, {len(found)} damaged, {duration(left)} left")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return sorted(found, key=lambda d: d.what)


def _misplaced(items: Sequence[Item]) -> Iterator[Damage]:
    """Links and other things that are no files, where the store has files and folders of its own."""
    for item in items:
        free = item.kind == "other" or (item.kind in ("tmp", "logs") and "/" in item.name)  # anybody may leave anything
        if item.type not in ("file", "folder") and not free:
            form = "a link, which is not followed" if item.type == "link" else "neither file nor folder"
            yield Damage(f"{item.kind} {item.name}", form, (item.name,))


def _read_records(store: Store, items: Sequence[Item], report: Report) -> dict[str, Record]:
    """The records that can be served, by their paths; what is none goes to the report."""
    served = {}
    names = [i for i in items if not Path(i.name).name.startswith(".")]
    report.checked["records"] = len(names)
    for item in names:
        record = record_of(store, item)
        if record is None:
            if (store.root / item.name).exists():  # else a run replaced it
                report.damages.append(Damage(f"record {item.name}", "it is damaged", (item.name,)))
        elif item.name.startswith("records/"):
            if Path(item.name).stem == _key(record):
                served[item.name] = record
            else:
                reason = f"it is that of another action, {record.name}"
                report.damages.append(Damage(f"record {item.name}", reason, (item.name,)))
    return served


def _key(record: Record) -> str:
    try:
        return Digest.of_bytes(canonical(record.parts)).hex
    except TypeError:
        return ""


def _unserved(path: str, record: Record, store: Store, bad: set[str]) -> Damage | None:
    """A record whose outputs are not there as it says: it is never served, and explains nothing."""
    for name, output in record.outputs.items():
        blob = store.blob(output.digest)
        lost = not store.has(output.digest, output.size)
        if lost or blob.relative_to(store.root).as_posix() in bad:
            return Damage(f"record of {record.name}", f"its output {name} is {'gone' if lost else 'damaged'}", (path,))
    return None


def _base_locks(store: Store, items: Sequence[Item], report: Report) -> Iterator[Damage]:
    locks = [i for i in items if i.kind == "locks of bases" and not Path(i.name).name.startswith(".")]
    report.checked["locks of bases"] = len(locks)
    for item in locks:
        try:
            BaseLock.parse(read_lock(store.root / item.name) or "", item.name)
        except DefinitionError as error:
            yield Damage(f"lock {item.name}", error.reason, (item.name,))


def _blobs(store: Store, items: Sequence[Item], records: dict[str, Record], report: Report) -> Iterator[_Check]:
    users = {o.digest.hex: f"{n} of {r.name}" for r in records.values() for n, o in r.outputs.items()}

    def check(item: Item) -> Damage | None:
        path = store.root / item.name
        what = f"file {item.name}" + (f" ({users[path.name]})" if path.name in users else "")
        named = re.fullmatch(r"[0-9a-f]{64}", path.name) and store.blob(Digest(path.name)) == path
        if item.type != "file" or not named:
            return Damage(what, "it is not a file that is named by its digest", (item.name,))
        try:
            found = Digest.of_file(path)
        except FileNotFoundError:
            return None  # a run found the damage, and removed it
        except OSError as error:
            return Damage(what, f"it cannot be read: {error.strerror}", (item.name,))
        return None if found.hex == path.name else Damage(what, f"its content is {found}", (item.name,))

    blobs = [i for i in items if i.kind == "blobs"]
    report.checked["files"] = len(blobs)
    return (_Check(i.length, partial(check, i)) for i in blobs)


def _trees(store: Store, items: Sequence[Item], report: Report) -> Iterator[_Check]:
    def check(item: Item) -> Damage | None:
        tree = store.root / item.name
        stamp = tree.with_suffix(".digest")
        if is_intact(tree, stamp):
            return None
        with contextlib.suppress(StoreError), store.exclusive(f"tree-{tree.name}"):  # a run may be making it
            if is_intact(tree, stamp) or not tree.exists():
                return None
        reason = "it is not what its stamp says" if stamp.is_file() else "it has no stamp: it was not finished"
        return Damage(f"root {item.name}", reason, (item.name, f"{item.name}.digest"))

    trees = [i for i in items if i.kind == "trees" and i.type == "folder"]
    report.checked["roots"] = len(trees)
    return (_Check(i.length, partial(check, i)) for i in trees)


def _modules(store: Store, checkout: Path, items: Sequence[Item], report: Report) -> Iterator[_Check]:
    """Those that locks pin: of others nobody knows what they should be."""
    there = {i.name: i for i in items if i.kind == "modules"}

    def check(module: Module) -> Damage | None:
        path, _, version = module.directory.rpartition("@")
        download = f"gomod/cache/download/{path}/@v/{version}"
        try:
            found = hash_tree(store.gomod / module.directory, str(module))
        except OSError as error:
            found = f"what cannot be read: {error.strerror}"
        if found in (module.sum, "") or (store.root / f"{download}.partial").exists():
            return None  # or it went, or comes, meanwhile
        paths = (f"gomod/{module.directory}", f"{download}.ziphash", f"{download}.zip")
        return Damage(f"module {module}", f"the lock says {module.sum}, found {found}", paths)

    pinned = sorted(read_sources_pins(checkout).modules)
    present = [m for m in pinned if f"gomod/{m.directory}" in there]
    report.absent = len(pinned) - len(present)
    report.checked["modules"] = len(present)
    return (_Check(there[f"gomod/{m.directory}"].length, partial(check, m)) for m in present)
