"""What this checkout says of a published release: its graph, planned from definitions and from the published locks.

Nothing is fetched, run or written, and the store is not asked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from pipeline.context import Context, Options
from pipeline.definitions import Definitions, Release
from pipeline.errors import PipelineError, SourceError
from pipeline.graph import Graph
from pipeline.lock import BaseLock, read_lock
from pipeline.plan import plan
from pipeline.publish.manifest import describe_inputs
from pipeline.publish.published import Published
from pipeline.report.progress import Progress
from pipeline.rpm.signatures import Signer, certificates_of
from pipeline.store import Store
from pipeline.units import Unit

DECISIVE = ("definition", "sources.lock")
"""Inputs without which this checkout cannot tell what ran; the lock of the base comes with the release."""
MAX_LOCK = 16 << 20
"""Bytes of a published lock; one of 600 packages has 0.1 MiB."""


class _NoStore(Store):
    """A store that is neither there nor made: planning only names it."""

    def __init__(self) -> None:
        self.root = Path("/nonexistent")


class Places:
    """Where pins stand: the lines of lock files and definitions, as `FILE:LINE` or, if not found, just `FILE`."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self._lines: dict[Path, dict[str, int]] = {}

    def name(self, path: Path) -> str:
        """A path as a user types it in the checkout."""
        return str(path.relative_to(self.checkout)) if path.is_relative_to(self.checkout) else str(path)

    def of(self, path: Path, pin: str) -> str:
        """The line that is `pin`, or is it but for its last word."""
        if path not in self._lines:
            lines = enumerate((read_lock(path) or "").split("\n"), 1)
            self._lines[path] = {key: n for n, line in lines for key in (line, line.rpartition(" ")[0])}
        return self._at(path, self._lines[path].get(pin))

    def beginning(self, path: Path, text: str, after: str = "") -> str:
        """The first line that begins with `text`, blanks and list markers aside, below the one that is `after`."""
        below = not after
        for number, line in enumerate((read_lock(path) or "").split("\n"), 1):
            if below and line.lstrip(" -").startswith(text):
                return self._at(path, number)
            below = below or line.rstrip() == after
        return self._at(path, None)

    def _at(self, path: Path, number: int | None) -> str:
        return self.name(path) + (f":{number}" if number else "")


@dataclass(frozen=True)
class LockedBase:
    """A base as a release was made on it: the lock that was published, and where it stands."""

    path: Path
    lock: BaseLock


@dataclass(frozen=True)
class Planned:
    """What this checkout says of a release."""

    context: Context
    graph: Graph
    bases: Mapping[str, LockedBase]
    """By platform."""
    places: Places

    @property
    def folder(self) -> Path:
        """Of the release's definition and locks."""
        return self.context.checkout / "releases" / self.context.options.version

    def unit(self, name: str) -> Unit:
        """The unit called `name`; the manifest was made from the same definition."""
        found = next((u for u in self.context.all_units if u.name == name), None)
        if found is None:
            raise SourceError(f"release.json names a unit {name}, which its own definition does not have")
        return found


def locked_bases(published: Published, platforms: Sequence[str]) -> dict[str, LockedBase]:
    """The locks that were published with a release, by platform, their bytes checked. Raises SourceError."""
    by_name: dict[str, LockedBase] = {}
    found = {}
    if not platforms:
        raise SourceError(f"{published.folder}/release.json names no platform")
    for platform in platforms:
        name = published.manifest.bases.get(platform)
        if name is None:
            raise SourceError(f"{published.folder}/release.json names no base for {platform}")
        if name not in by_name:
            by_name[name] = _locked_base(published, name)
        found[platform] = by_name[name]
    return found


def _locked_base(published: Published, name: str) -> LockedBase:
    if (entry := published.artifacts.get(f"{name}.lock")) and entry.size > MAX_LOCK:
        raise SourceError(f"{published.folder}/{name}.lock is larger than {MAX_LOCK} bytes")
    path = published.file(f"{name}.lock")
    lock = BaseLock.parse(read_lock(path) or "", str(path))
    if lock.base != name:
        raise SourceError(f"{path} is the lock of {lock.base}, not of {name}")
    return LockedBase(path.absolute(), lock)


def plan_published(
    published: Published, bases: Mapping[str, LockedBase], of: Iterable[str], places: Places, verdict: dict[str, Any]
) -> Planned | None:
    """The release's graph for the platforms in `bases`; None if this checkout cannot tell what ran.

    `verdict` gets the inputs that differ for the platforms `of`, and the reason if there is another one.
    """
    told = {p: published.manifest.inputs.get(p) for p in of}
    recorded = {p: inputs for p, inputs in told.items() if isinstance(inputs, dict)}
    if len(recorded) != len(told):
        verdict["reason"] = "release.json is of another engine and does not say what the file was made from"
        return None
    try:
        context = _context(published, bases, places.checkout)
        here = {p: describe_inputs(context, _arch(p)) for p in recorded}
        for platform in bases:
            if _arch(platform) not in context.inputs:
                raise SourceError(f"{platform} cannot be built here: {context.unavailable[_arch(platform)]}")
        graph = plan(context.release, context.units, context.inputs, context.packs)
    except PipelineError as error:
        verdict["reason"] = error.reason
        return None
    for platform, made_from in recorded.items():
        for name in sorted({*here[platform], *made_from}):
            sides = {"made_from": made_from.get(name), "here": here[platform].get(name)}
            if sides["made_from"] != sides["here"]:
                verdict["differs"].setdefault(name, sides)
    locks = {f"{bases[p].lock.base}.lock" for p in recorded}
    if {*DECISIVE, *locks} & set(verdict["differs"]):
        return None
    return Planned(context, graph, bases, places)


def _context(published: Published, bases: Mapping[str, LockedBase], checkout: Path) -> Context:
    """A run that would make the release, and that has neither store nor network."""
    definitions = Definitions(checkout)
    release = definitions.release(published.manifest.version)
    arches = tuple(map(_arch, bases))
    options = Options(release.version, base=_stand_in(release, bases), arches=arches, offline=True, locked=True)
    signer = Signer(certificates_of(published))
    context = Context(options, Progress(stream=StringIO()), checkout, signer=signer)
    context.definitions, context.release = definitions, release  # read once
    context.store = _NoStore()
    context.base_locks = {b.lock.base: b.lock for b in bases.values()}
    return context


def _stand_in(release: Release, bases: Mapping[str, LockedBase]) -> str | None:
    """The base that takes the place of the definition's, if one does."""
    if all(release.bases.get(_arch(p)) == b.lock.base for p, b in bases.items()):
        return None
    names = sorted({b.lock.base for b in bases.values()})
    if len(names) > 1:
        raise SourceError(f"it was made on {' and '.join(names)}, which its definition here does not name")
    return names[0]


def _arch(platform: str) -> str:
    return platform.removeprefix("linux/")
