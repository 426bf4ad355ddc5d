"""Free the store by age and size: what costs least to have again goes first, what locks pin goes never.

| order | what | to have it again |
|---|---|---|
| 1 | left by runs that were killed; logs | - |
| 2 | roots | seconds: assembled from packages in the store |
| 3 | entries of compile caches | time, and only where something is compiled anew |
| 4 | what nothing known here refers to | another checkout may want it: fetched |
| 5 | records of actions with their outputs | the action runs |
| 6 | pins, only if asked for | fetched, if the origin still serves it |

Within each, what was not used for longest goes first. Killed at any moment, it leaves nothing by halves that could be
taken for whole: a record goes before its outputs, and a folder is moved away before it is emptied.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline.care.inventory import Item, record_of, take_inventory
from pipeline.care.pins import Pins, read_pins
from pipeline.care.removal import remove, sweep_trash
from pipeline.errors import StoreError, UsageError
from pipeline.report.progress import Progress, size
from pipeline.store import ABANDONED, Record, Store
from pipeline.strict import parse_size

ORDER = ("leftovers", "logs", "trees", "compile caches", "unreferenced", "records", "pins")
EXTRACTED = re.compile(r"gomod/(?!cache/)(?P<path>[^@]+)@(?P<version>[^@/]+)")
ZIPPED = re.compile(r"gomod/cache/download/(?P<path>[^@]+)/@v/(?P<version>[^@/]+)\.(zip|ziphash)")
SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
AGE = "30d"
"""The age that is meant if none is said."""


@dataclass(frozen=True)
class Limits:
    """What a store may keep."""

    age: float
    """Seconds without use."""
    size: int | None = None
    """Bytes of the whole store on disk; None sets no limit."""
    pins: bool = False
    """Whether pins may go as well."""

    @classmethod
    def parse(cls, max_size: str = "", max_age: str = AGE, *, pins: bool = False) -> "Limits":
        """From the command line: `20GiB` or empty, `30d`, `12h` or `2w`. Raises UsageError."""
        match = re.fullmatch(r"([0-9]{1,4})([hdw])", max_age)
        if not match:
            raise UsageError(f"--max-age {max_age!r}: expected hours, days or weeks, such as 12h, 30d or 2w")
        try:
            limit = parse_size(max_size) if max_size else None
        except ValueError as error:
            raise UsageError(f"--max-size: {error}") from error
        return cls(int(match[1]) * SECONDS[match[2]], limit, pins)


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that can go, with all that goes with it."""

    kind: str
    """One of ORDER."""
    name: str
    """As a person knows it: an action, or a path below the store."""
    paths: tuple[str, ...]
    """Below the store, in the order in which they go."""
    size: int
    used: float
    """Seconds since 1970."""


@dataclass
class Plan:
    """What goes, and what that leaves."""

    removals: list[Removal]
    before: int
    """Bytes of the store."""
    pinned: int
    """Bytes of pins that stay."""
    over: int = 0
    """Bytes above the limit that stay all the same: nothing else may go."""
    kinds: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By kind: how many things go, and their bytes."""

    def __post_init__(self) -> None:
        for kind in ORDER:
            if sizes := [r.size for r in self.removals if r.kind == kind]:
                self.kinds[kind] = (len(sizes), sum(sizes))

    @property
    def freed(self) -> int:
        """Bytes that become free."""
        return sum(r.size for r in self.removals)


def collect(store: Store, checkout: Path, limits: Limits, progress: Progress, *, dry_run: bool) -> Plan:
    """Remove what is beyond the limits; the checkout's locks say what stays. Raises StoreError if a run uses the store.

    A dry run only tells, whoever uses the store.
    """
    progress.step(f"looking through {store.root}")
    if dry_run:
        return plan_gc(store, take_inventory(store), read_pins(checkout, store), limits)
    with store.alone():
        sweep_trash(store)
        plan = plan_gc(store, take_inventory(store), read_pins(checkout, store), limits)
        if plan.removals:
            progress.step(f"removing {len(plan.removals)} things, {size(plan.freed)}, from {store.root}")
        names = [p for r in plan.removals for p in r.paths]
        if any(name.startswith("gomod/") for name in names):
            names.insert(0, "gomod/fetched")  # stamps that say that the module cache is complete
        remove(store, names)
    return plan


def plan_gc(store: Store, items: Sequence[Item], pins: Pins, limits: Limits) -> Plan:
    """What would go. Reads records; changes nothing."""
    if linked := [i.name for i in items if i.type == "link" and i.kind != "other" and "/" not in i.name]:
        raise StoreError(
            f"{store.root / linked[0]} is a link; links in the store are not followed", "./inv store repair"
        )
    candidates = sorted(_candidates(store, items, pins), key=lambda r: (ORDER.index(r.kind), r.used, r.paths[0]))
    chosen: list[Removal] = []
    left: list[Removal] = []
    oldest = time.time() - limits.age
    before = sum(i.size for i in items)
    pinned = sum(r.size for r in candidates if r.kind == "pins")
    for removal in candidates:
        if removal.kind != "pins" or limits.pins:
            (chosen if removal.used < oldest or removal.kind == "leftovers" else left).append(removal)
    over = before - sum(r.size for r in chosen) - (before if limits.size is None else limits.size)
    for removal in left:
        if over <= 0:
            break
        chosen.append(removal)
        over -= removal.size
    pinned -= sum(r.size for r in chosen if r.kind == "pins")
    chosen += _emptied_caches(items, chosen)
    return Plan(chosen, before, pinned, max(over, 0))


def _candidates(store: Store, items: Sequence[Item], pins: Pins) -> Iterator[Removal]:
    """Everything that may ever go; links and what is no file stay for a repair."""
    by_kind: dict[str, list[Item]] = {}
    for item in items:
        if item.type in ("file", "folder"):
            by_kind.setdefault(item.kind, []).append(item)
    leftovers = [i for k in ("records", "trees", "locks of bases") for i in by_kind.get(k, ()) if _is_temporary(i)]
    leftovers += [i for i in by_kind.get("tmp", ()) if time.time() - i.used > ABANDONED]
    yield from (_whole("leftovers", i) for i in leftovers)
    yield from (_whole("logs", i) for i in by_kind.get("logs", ()))
    yield from (_whole("unreferenced", i) for i in by_kind.get("given", ()))
    yield from _trees(by_kind.get("trees", ()))
    yield from (_whole("compile caches", i) for i in by_kind.get("gocache", ()) if i.name.count("/") == 3)
    yield from _modules(by_kind.get("modules", ()), pins)
    yield from _records(
        store, by_kind.get("records", ()), {Path(i.name).name: i for i in by_kind.get("blobs", ())}, pins
    )


def _whole(kind: str, item: Item) -> Removal:
    return Removal(kind, item.name, (item.name,), item.size, item.used)


def _is_temporary(item: Item) -> bool:
    """Whether a writer that was killed left it: see `write_atomically`."""
    return item.type == "file" and Path(item.name).name.startswith(".")


def _emptied_caches(items: Sequence[Item], chosen: Sequence[Removal]) -> list[Removal]:
    """The compile caches that no entry is left in: what Go keeps at their top, with the folders."""
    gone = {path for r in chosen if r.kind == "compile caches" for path in r.paths}
    rest: dict[str, list[Item]] = {"/".join(path.split("/")[:2]): [] for path in gone}
    for item in items:
        cache = "/".join(item.name.split("/")[:2])
        if item.name not in gone and cache in rest:
            rest[cache].append(item)
    return [
        Removal("compile caches", cache, (cache,), sum(i.size for i in left), max((i.used for i in left), default=0.0))
        for cache, left in rest.items()
        if all(i.type == "file" and i.name.count("/") == 2 for i in left)
    ]


def _trees(items: Iterable[Item]) -> Iterator[Removal]:
    """Each root with the files beside it, of which its stamp tells when it was used."""
    beside: dict[str, list[Item]] = {}
    for item in items:
        if not _is_temporary(item):
            beside.setdefault(item.name.partition(".")[0], []).append(item)
    for name, found in beside.items():
        found.sort(key=lambda i: (i.type != "folder", i.name))
        used = max((i.used for i in found if i.type == "file"), default=0.0)
        yield Removal(
            "trees", f"root {Path(name).name[:12]}", tuple(i.name for i in found), sum(i.size for i in found), used
        )


def _modules(items: Iterable[Item], pins: Pins) -> Iterator[Removal]:
    """Each module's files with its zip. The go.mod files of all stay: they are small, and a module graph reads many.

    What is not pinned may be needed all the same: go looks for a package in each module whose path could hold it.
    """
    parts: dict[str, list[Item]] = {}
    for item in items:
        if item.name.startswith("gomod/cache/vcs/"):
            yield _whole("unreferenced", item)
        elif match := EXTRACTED.fullmatch(item.name) or ZIPPED.fullmatch(item.name):
            parts.setdefault(f"{match['path']}@{match['version']}", []).append(item)
    pinned = {m.directory for m in pins.modules}
    paths = {name.rpartition("@")[0] for name in pinned}
    around = {parent for path in paths for parent in _parents(path)}
    for name, found in parts.items():
        found.sort(key=lambda i: (i.type != "folder", i.name))
        path = name.rpartition("@")[0]
        needed = name in pinned or path in around or not paths.isdisjoint(_parents(path))
        kind = "pins" if needed else "unreferenced"
        size_, used = sum(i.size for i in found), max(i.used for i in found)
        yield Removal(kind, f"module {name}", tuple(i.name for i in found), size_, used)


def _parents(path: str) -> list[str]:
    """The paths of modules that could hold it as a folder: of `a/b/c` they are `a/b` and `a`."""
    return [p.as_posix() for p in PurePosixPath(path).parents][:-1]


def _records(store: Store, items: Sequence[Item], blobs: Mapping[str, Item], pins: Pins) -> Iterator[Removal]:
    """Each record with those of its files that no record used later has; what an action cost if it has no record; the
    files that nothing refers to, and the pinned ones.
    """
    free = dict(blobs)
    pinned = [free.pop(d.hex) for d in pins.blobs if d.hex in free]
    actions = set()
    for item in sorted(items, key=lambda i: (i.used, i.name), reverse=True):
        if item.name.startswith("records/") and not _is_temporary(item):
            record = record_of(store, item)
            parts = [item, *(free.pop(h) for h in _files_of(record) if h in free)]
            name = record.name if record else item.name
            actions.add(name.replace("/", "_"))
            yield Removal("records", name, tuple(p.name for p in parts), sum(p.size for p in parts), item.used)
    for item in items:
        action = Path(item.name).name.removesuffix(".json").removesuffix(".previous")
        if item.name.startswith("history/") and not _is_temporary(item) and action not in actions:
            yield _whole("records", item)
    yield from (_whole("unreferenced", b) for b in free.values())
    yield from (_whole("pins", b) for b in pinned)


def _files_of(record: Record | None) -> list[str]:
    """The digests of all that a record names: outputs and log."""
    if record is None:
        return []
    return sorted({d.hex for d in (*(o.digest for o in record.outputs.values()), record.log) if d})
