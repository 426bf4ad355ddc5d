"""Make and read a release's `sources.lock` and its overlays: the only place where versions become digests.

Overlays are the go.mod and go.sum of a module whose own pair cannot be used outside its repository (local
replacements) or lacks sums; they stand beside the lock, native and reviewable.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.definitions import Definitions, Release
from pipeline.errors import DefinitionError, HostError, NetworkError, PipelineError, SourceError
from pipeline.lock import MainModule, SourcesLock, Toolchain, lock_text, read_lock, write_atomically
from pipeline.model import Digest, Module
from pipeline.report.progress import Progress
from pipeline.sources.go import GoSources, Refusal
from pipeline.sources.gomod import read_sums, rewrite_replaces
from pipeline.sources.snapshot import KINDS, Snapshots
from pipeline.units import Unit, lock_subject


@dataclass(frozen=True)
class Overlay:
    """A go.mod and go.sum in place of the module's own."""

    mod: str
    sum: str

    @property
    def digest(self) -> Digest:
        """Over both."""
        return Digest.of_bytes(f"{Digest.of_bytes(self.mod.encode())}\n{Digest.of_bytes(self.sum.encode())}".encode())


@dataclass(frozen=True)
class LockedSources:
    """A lock and its overlays by unit."""

    lock: SourcesLock
    overlays: dict[str, Overlay]


def lock_folder(definitions: Definitions, version: str) -> Path:
    """Where a release's locks stand."""
    return definitions.root / "releases" / version


def read_sources(definitions: Definitions, release: Release, units: Sequence[Unit]) -> LockedSources | None:
    """The committed lock, or None if there is none; raises DefinitionError if it is of another definition."""
    folder = lock_folder(definitions, release.version)
    path = folder / "sources.lock"
    text = read_lock(path)
    if text is None:
        return None
    lock = SourcesLock.parse(text, str(path))
    if lock.release != release.version or lock.definition != lock_subject(units):
        raise DefinitionError(
            f"{path} does not match its definition: the release or a component was changed after it was made",
            f"review the change and renew it: ./inv lock --version {release.version} --update",
        )
    overlays = {}
    for unit in units:
        pins = lock.mains if unit.source.go else lock.snapshots if unit.source.kind in KINDS else (unit.name,)
        if unit.name not in pins:
            raise DefinitionError(
                f"{path}: unit {unit.name} is missing", f"./inv lock --version {release.version} --update"
            )
        mod, sums = (read_lock(folder / "overlay" / unit.name / n) for n in ("go.mod", "go.sum"))
        if (mod is None) != (sums is None):
            raise DefinitionError(f"{folder}/overlay/{unit.name}: go.mod and go.sum belong together; one is missing")
        if mod is not None and sums is not None:
            overlays[unit.name] = Overlay(mod, sums)
    return LockedSources(lock, overlays)


def write_sources(definitions: Definitions, locked: LockedSources) -> None:
    """Write a lock: overlays first, the lock that names them last."""
    folder = lock_folder(definitions, locked.lock.release)
    text = lock_text(locked.lock)
    try:
        for stale in (folder / "overlay").glob("*/go.*"):
            if stale.parent.name not in locked.overlays:
                stale.unlink()
        for name, overlay in locked.overlays.items():
            write_atomically(folder / "overlay" / name / "go.mod", overlay.mod.encode())
            write_atomically(folder / "overlay" / name / "go.sum", overlay.sum.encode())
        write_atomically(folder / "sources.lock", text)
    except OSError as error:
        raise HostError(f"{error.filename or folder} cannot be written: {error.strerror}") from error


def preflight(release: Release, units: Sequence[Unit], go: GoSources, host: str) -> None:
    """Ask every origin before anything is fetched or built; raises NetworkError that lists all that refuse."""
    toolchains = [_toolchain(v, host) for v in sorted({u.go for u in units})]
    _refuse(release, go.probe([*sorted({u.module for u in units if u.source.go}), *toolchains]), units, go)


def _toolchain(version: str, host: str) -> str:
    return f"golang.org/toolchain@v0.0.1-go{version}.linux-{host}"


def _refuse(release: Release, refused: Sequence[Refusal], units: Sequence[Unit], go: GoSources) -> None:
    """Raise NetworkError if modules or toolchains are refused: for whom each is, what was asked, what there is."""
    if not refused:
        return
    # Where components share a module, the one that compiles it as Go is the one to name.
    owners = {u.module: u for u in sorted(units, key=lambda u: u.build.compiler == "go") if u.source.go}
    lines, hints = [], []
    for refusal in refused:
        unit = owners.get(refusal.module)
        what = f"component {unit.component}" if unit else "toolchain"
        lines.append(f"{what}: origin go module {refusal.module}: {refusal.reason}")
        if unit:
            lines += [f"  {near}" for near in [go.near(refusal.module)] if near]
            hints.append(f"--source {unit.component}=FILE")
    given = f"give the module zip: {' '.join(dict.fromkeys(hints))} (checked against its h1); or " if hints else ""
    raise NetworkError(
        f"{len(refused)} sources of {release.version} cannot be had:\n  " + "\n  ".join(lines),
        f"{given}use another origin (GOPROXY of this host), or another version in the definition",
    )


def make_sources(
    release: Release, units: Sequence[Unit], definitions: Definitions, go: GoSources, snapshots: Snapshots, host: str,
    progress: Progress,
) -> LockedSources:  # fmt: skip
    """Resolve every source of a release to digests. Raises NetworkError, SourceError, DefinitionError."""
    preflight(release, units, go, host)
    names = {v: _toolchain(v, host) for v in sorted({u.go for u in units})}
    progress.step(f"locking: {len(units)} units, Go {', '.join(names)}")
    got, bad = go.download(sorted({u.module for u in units if u.source.go} | set(names.values())))
    _refuse(release, bad, units, go)
    by_name = {str(d.module): d for d in got}
    pins = snapshots.lock(units, release.epoch)
    lock = SourcesLock(release.version, lock_subject(units), snapshots=pins)
    for version, name in names.items():
        lock.toolchains[version] = Toolchain(version, host, by_name[name].module.sum)
    overlays: dict[str, Overlay] = {}

    failures: list[PipelineError] = []

    def resolve(unit: Unit) -> tuple[Unit, Overlay | None, set[Module]]:
        try:
            return unit, *find(unit)
        except (DefinitionError, NetworkError, SourceError) as error:  # others may fail as well: all are said at once
            failures.append(_of(unit, error))
            return unit, None, set()

    def find(unit: Unit) -> tuple[Overlay | None, set[Module]]:
        toolchain = go.toolchain(lock.toolchains[unit.go].module)
        if unit.build.compiler != "go":
            overlay, modules = None, set[Module]()
        elif pin := pins.get(unit.name):
            with snapshots.folder(unit, pin) as source:
                overlay, modules = _resolve(unit, source, go, toolchain)
        else:
            source = by_name[unit.module].folder if unit.source.go else definitions.root / str(unit.source.tree)
            overlay, modules = _resolve(unit, source, go, toolchain)
        progress.say(f"  locked {unit.name}: {len(modules)} modules" + (", overlay" if overlay else ""))
        return overlay, modules

    dependencies: dict[Module, set[str]] = {}
    with ThreadPoolExecutor(2) as pool:
        for unit, overlay, modules in pool.map(resolve, units):
            if unit.source.go:
                main = by_name[unit.module]
                if unit.sum and unit.sum != main.module.sum:
                    found = f"the definition says {unit.sum}, the origin serves {main.module.sum}"
                    raise SourceError(f"component {unit.component}: {found}")
                lock.mains[unit.name] = MainModule(
                    unit.name, main.module, main.time or release.date.strftime("%Y-%m-%dT%H:%M:%SZ")
                )
            if overlay:
                overlays[unit.name] = overlay
            for module in modules:
                dependencies.setdefault(module, set()).add(unit.name)
    _refuse_failures(release, failures)
    lock.modules.update({m: frozenset(u) for m, u in dependencies.items()})
    return LockedSources(lock, overlays)


def _of(unit: Unit, error: PipelineError) -> PipelineError:
    """What went wrong with one unit, in the words of its definition."""
    if newer := re.search(r"requires go >= (1\.[0-9]+(?:\.[0-9]+)?)", error.reason):
        return DefinitionError(
            f"component {unit.component}: {unit.version} requires Go {newer[1]}; the definition gives it {unit.go}",
            f"give it another toolchain, {unit.component}: {{version: {unit.version}, go: {newer[1]}}}, or version",
        )
    if error.reason.startswith("component "):
        return error
    return type(error)(f"component {unit.component}: {error.reason}", error.hint)


def _refuse_failures(release: Release, failures: Sequence[PipelineError]) -> None:
    """Raise one error for all units that cannot be locked; one kind of fault keeps its exit code."""
    lines = {e.reason + (f"\n    -> {e.hint}" if e.hint else "") for e in failures}
    if len(lines) == 1:
        raise failures[0]
    if not failures:
        return
    kinds = {type(e) for e in failures}
    raise (kinds.pop() if len(kinds) == 1 else SourceError)(
        f"{len(lines)} units of {release.version} cannot be locked:\n  " + "\n  ".join(sorted(lines)),
        f"mend releases/{release.version}/release.yaml or the component's file, and lock again",
    )


def _resolve(unit: Unit, source: Path, go: GoSources, toolchain: Path) -> tuple[Overlay | None, set[Module]]:
    """The overlay a Go unit needs, if any, and the modules that its packages import on any of its architectures."""
    if not (source / "go.mod").exists():
        raise SourceError(f"component {unit.component}: its source has no go.mod at the top")
    # A module zip has its own files only; a repository may hold what a replacement names.
    tree = source if unit.source.kind in KINDS else None
    own_mod = (source / "go.mod").read_text()
    own_sum = (source / "go.sum").read_text() if (source / "go.sum").exists() else ""
    rules = [(r.module, None if r.drop else unit.fill(r.version or "", {})) for r in unit.source.replace]
    with go.store.workspace() as work:
        modfile = work / "go.mod"
        modfile.write_text(rewrite_replaces(own_mod, rules, f"component {unit.component}", tree=tree))
        modfile.with_suffix(".sum").write_text(own_sum)
        pairs: set[tuple[str, str]] = set()
        for arch in unit.arches:
            pairs |= go.imported(
                toolchain, source, modfile, unit.packages, unit.build.tags, arch,
                cgo=unit.build.uses_cgo(arch), update=unit.source.tree is None,
            )  # fmt: skip
        pairs = {(path, version) for path, version in pairs if version}  # the others are directories of the source
        made = Overlay(modfile.read_text(), modfile.with_suffix(".sum").read_text())
    sums = read_sums(made.sum)
    if missing := sorted(p for p in pairs if p not in sums):
        raise SourceError(f"component {unit.component}: go.sum lacks {missing[0][0]}@{missing[0][1]}")
    modules = {Module(path, version, sums[path, version]) for path, version in pairs}
    return (None if _same(made, own_mod, own_sum) else made), modules


def _same(made: Overlay, mod: str, sums: str) -> bool:
    """Whether go's rewriting left the module's own pair as it was, blank space aside."""

    def lines(text: str) -> list[str]:
        return [re.sub(r"\s+", " ", line).strip() for line in text.splitlines() if line.strip()]

    return lines(made.mod) == lines(mod) and sorted(lines(made.sum)) == sorted(lines(sums))


def describe_change(old: SourcesLock, new: SourcesLock) -> list[str]:
    """What differs between two locks, one line each, for `--update`."""
    before, after = set(old.render().splitlines()[1:]), set(new.render().splitlines()[1:])
    return [f"- {line}" for line in sorted(before - after)] + [f"+ {line}" for line in sorted(after - before)]
