"""What a run was asked for, and what it has made of it: the store, the definitions, locks and inputs."""

import os
import platform as host_platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline.baselocks import have_base_lock
from pipeline.bases import Base
from pipeline.chart.definition import read_chart
from pipeline.definitions import Definitions, Release
from pipeline.errors import DefinitionError, HostError, UsageError
from pipeline.image.names import Image, images_of
from pipeline.inputs import Inputs
from pipeline.lock import BaseLock
from pipeline.locking import LockedSources, make_sources, read_sources, write_sources
from pipeline.model import PLATFORMS
from pipeline.plan import NODE, Packs
from pipeline.report.progress import Progress
from pipeline.roots import Roots
from pipeline.rpm.signatures import Signer
from pipeline.sources.go import GoSources
from pipeline.sources.snapshot import Snapshots
from pipeline.store import Store
from pipeline.units import Unit, units_of

CHECKOUT = Path(__file__).parent.parent
"""The repository this code stands in."""


EXECUTORS = ("bwrap", "docker")


@dataclass(frozen=True)
class Options:
    """What the user asked for; nothing else."""

    version: str
    base: str | None = None
    """Another base than the definition's, for all architectures."""
    arches: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    jobs: int = 0
    executor: str = "bwrap"
    """What runs sandboxes: one of EXECUTORS."""
    offline: bool = False
    locked: bool = False
    keep_going: bool = True
    dry_run: bool = False
    sources: Mapping[str, Path] = field(default_factory=dict)
    """Component to a file given in place of its origin."""
    mirrors: Mapping[str, str] = field(default_factory=dict)
    """Base to the URI of a mirror."""


def store_folder() -> Path:
    """RFO_STORE, else the user's cache folder."""
    named = os.environ.get("RFO_STORE")
    return Path(named).absolute() if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rfo"


def host_arch() -> str:
    """The architecture of the machine that builds; raises HostError if roots cannot be made for it."""
    machine = host_platform.machine()
    arch = next((p.arch for p in PLATFORMS.values() if machine in (p.rpm_arch, p.arch)), None)
    if arch is None:
        raise HostError(f"builds do not run on {machine}", f"use a host of {', '.join(PLATFORMS)}")
    return arch


@dataclass
class Context:
    """One run: options, and everything derived from them when first needed."""

    options: Options
    progress: Progress
    checkout: Path = CHECKOUT
    output: Path | None = None
    """Where the release is written, if not to the checkout's dist/."""
    go_root: str = "builder"
    """The role of the root that pure Go is compiled in."""
    signer: Signer = field(default_factory=Signer)
    """Who signs packages."""

    @cached_property
    def store(self) -> Store:
        """The store of this host."""
        return Store(store_folder(), self.progress.say)

    @cached_property
    def definitions(self) -> Definitions:
        """The checkout's definitions."""
        return Definitions(self.checkout)

    @cached_property
    def release(self) -> Release:
        """The release asked for."""
        return self.definitions.release(self.options.version)

    @cached_property
    def all_units(self) -> list[Unit]:
        """Every unit of the release: what its lock is about."""
        return units_of(self.release, self.definitions)

    @cached_property
    def units(self) -> list[Unit]:
        """The units of the components asked for."""
        wanted = self.options.components
        if unknown := sorted(set(wanted) - set(self.release.components)):
            raise UsageError(
                f"{self.options.version} has no component {unknown[0]}",
                f"it has: {', '.join(sorted(self.release.components))}",
            )
        return [u for u in self.all_units if not wanted or u.component in wanted]

    @cached_property
    def arches(self) -> tuple[str, ...]:
        """The architectures asked for."""
        for arch in self.options.arches:
            if arch not in self.release.bases:
                raise UsageError(
                    f"{self.options.version} is not made for {arch}", f"it is made for: {', '.join(self.release.bases)}"
                )
        return tuple(a for a in self.release.bases if not self.options.arches or a in self.options.arches)

    @cached_property
    def bases(self) -> dict[str, Base]:
        """The base of each architecture."""
        known = self.definitions.bases()
        for flag, name in [("--base", self.options.base), *(("--mirror", m) for m in self.options.mirrors)]:
            if name is not None and name not in known:
                raise UsageError(f"{flag}: there is no base {name}", f"choose one of: {', '.join(known)}")
        chosen = {a: self.definitions.base(self.options.base or self.release.bases[a]) for a in self.arches}
        for arch, base in chosen.items():
            if arch not in base.suites:
                raise DefinitionError(
                    f"base {base.name} does not exist for {arch}: unsupported",
                    f"it exists for: {', '.join(base.suites)}",
                )
        return chosen

    @property
    def stand_in(self) -> bool:
        """Whether another base than the definition's is used."""
        return any(self.bases[a].name != self.release.bases[a] for a in self.arches)

    @cached_property
    def images(self) -> list[Image]:
        """The images of the release; on a base that stands in, their tags say so."""
        return images_of(self.release, self.definitions, self.options.base if self.stand_in else None)

    @cached_property
    def packs(self) -> Packs:
        """What is made of the compiled programs, besides tarballs. Raises DefinitionError."""
        charts = [read_chart(self.checkout, name) for name in sorted(set(self.release.charts))]
        marker = f".{self.options.base}" if self.stand_in else ""
        return Packs(self.images, charts, f"{self.release.version.removeprefix('v')}{marker}", self.signer)

    @cached_property
    def packaged(self) -> bool:
        """Whether the release has RPM packages, which are made of a node and its images on bases that can."""
        node = any(u.component == NODE for u in self.all_units)
        return node and bool(self.images) and any(base.dist for base in self.bases.values())

    @property
    def dist(self) -> Path:
        """Where the release is written."""
        if self.output:
            return self.output
        marker = f"@{self.options.base}" if self.stand_in else ""
        return self.checkout / "dist" / f"{self.options.version}{marker}"

    @cached_property
    def go(self) -> GoSources:
        """The Go sources, with what the user gave by file."""
        from pipeline.sources.given import add_given_modules

        go = GoSources(self.store, offline=self.options.offline)
        if zips := {c: f for c, f in self.options.sources.items() if c not in self.snapshots.given}:
            add_given_modules(go, zips, self.all_units, self.release.date)
        return go

    @cached_property
    def snapshots(self) -> Snapshots:
        """The git and archive sources, with what the user gave by path."""
        of_these_kinds = {u.component for u in self.all_units if u.source.git or u.source.archive}
        given = {c: p for c, p in self.options.sources.items() if c in of_these_kinds}
        return Snapshots(self.store, offline=self.options.offline, given=given)

    @cached_property
    def sources(self) -> LockedSources:
        """The sources lock; a missing one is written, unless that is forbidden."""
        found = read_sources(self.definitions, self.release, self.all_units)
        hint = f"./inv lock --version {self.options.version}"
        if found:
            other = next((t.arch for t in found.lock.toolchains.values() if t.arch != host_arch()), None)
            if other:
                raise DefinitionError(
                    f"the lock of {self.options.version} has toolchains for {other}; this host is {host_arch()}",
                    f"build on {other}, or lock for this host: {hint} --update",
                )
            return found
        if self.options.locked or self.options.offline:
            reason = "--offline" if self.options.offline else "--locked"
            raise DefinitionError(f"{self.options.version} has no sources.lock, and {reason} forbids making one", hint)
        made = make_sources(
            self.release, self.all_units, self.definitions, self.go, self.snapshots, host_arch(), self.progress
        )
        write_sources(self.definitions, made)
        self.progress.say(f"  wrote releases/{self.options.version}/sources.lock; review and commit it")
        return made

    @cached_property
    def base_locks(self) -> dict[str, BaseLock]:
        """The lock of each base in use, by name."""
        locks = {}
        for base in {b.name: b for b in self.bases.values()}.values():
            locks[base.name] = have_base_lock(
                base, [a for a in self.arches if self.bases[a].name == base.name], host_arch(), self.options.version,
                self.definitions, self.store, self.progress, origin=self.options.mirrors.get(base.name),
                offline=self.options.offline, locked=self.options.locked,
            )  # fmt: skip
        return locks

    @cached_property
    def inputs(self) -> dict[str, Inputs]:
        """The inputs of each architecture whose base is locked for it."""
        bases = self.bases  # first: a typing mistake is said before anything is asked of a network
        sources = self.sources  # next: a source that cannot be had is said before a base is resolved
        by_base: dict[str, Inputs] = {}
        for base in bases.values():
            if base.name not in by_base:
                roots = Roots(
                    base, self.base_locks[base.name], self.store, host_arch(),
                    origin=self.options.mirrors.get(base.name), offline=self.options.offline, progress=self.progress,
                )  # fmt: skip
                by_base[base.name] = Inputs(
                    self.checkout, self.store, sources, roots, self.go, self.snapshots, self.release.epoch, self.go_root
                )
        found = {a: by_base[self.bases[a].name] for a in self.arches}
        return {a: i for a, i in found.items() if a not in self.unavailable}

    def add(self, arch: str) -> None:
        """Make an architecture besides those asked for."""
        self.arches = tuple(a for a in self.release.bases if a in (*self.arches, arch))
        for derived in ("bases", "base_locks", "inputs", "unavailable"):
            vars(self).pop(derived, None)

    def lose(self, arch: str, reason: str) -> None:
        """Go on without an architecture, and say why at the end."""
        self.inputs.pop(arch)
        self.unavailable[arch] = reason

    @cached_property
    def unavailable(self) -> dict[str, str]:
        """Architectures that cannot be built here, with the reason; the others are built all the same."""
        reasons = {}
        for arch in self.arches:
            base = self.bases[arch]
            lock = self.base_locks[base.name]
            if not all(lock.root(role, arch) for role in base.targets):
                reasons[arch] = dict(lock.missing).get(arch, f"the lock of base {base.name} lacks it")
            elif arch not in base.compilers and any(u.build.uses_cgo(arch) for u in self.units if arch in u.arches):
                reasons[arch] = f"base {base.name} names no C compiler for it on this host"
            elif arch != host_arch() and "emulator" not in base.roots:
                reasons[arch] = f"base {base.name} has no emulator to run its programs with on a {host_arch()} host"
        return reasons


def parse_count(text: str, flag: str) -> int:
    """A number without sign; raises UsageError."""
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise UsageError(f"{flag} {text!r}: expected a number")
    return int(text)


def parse_executor(text: str) -> str:
    """The name of an executor; raises UsageError."""
    if text not in EXECUTORS:
        raise UsageError(f"--executor {text!r}: expected {' or '.join(EXECUTORS)}")
    return text


def parse_pairs(values: Sequence[str], flag: str) -> dict[str, str]:
    """`NAME=VALUE` arguments; raises UsageError."""
    pairs = {}
    for value in values:
        name, found, rest = value.partition("=")
        if not found or not name or not rest:
            raise UsageError(f"{flag} {value!r}: expected NAME=VALUE")
        if name in pairs:
            raise UsageError(f"{flag}: {name} is given twice")
        pairs[name] = rest
    return pairs
