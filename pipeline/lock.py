"""Locks: every input by digest, one pin per line, sorted. Reading and writing text; no network.

`sources.lock` pins modules and toolchains; `BASE.lock` pins a base's packages. Fields are separated by single
spaces, so that a lock parses in milliseconds and a change of one input is a change of one line in review.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Self

from pipeline.errors import DefinitionError, PipelineError, SourceError
from pipeline.model import Digest, Module, RootedPath


@dataclass(frozen=True, order=True)
class Package:
    """One distribution package in one root: a pin."""

    root: str
    """Role: builder, sysroot, emulator."""
    arch: str
    """The RFO architecture the root is for (host roots: the machine that builds)."""
    name: str
    version: str
    path: str
    """Where it lies below the base's origin, percent-decoded; the durable name is the digest."""
    size: int
    digest: Digest

    def line(self) -> str:
        """The pin as it stands in a lock."""
        return f"package {self.root} {self.arch} {self.name} {self.version} {self.path} {self.size} {self.digest}"


@dataclass(frozen=True, order=True)
class Suite:
    """Which suite (deb) or repository (rpm) an architecture's packages came from, for provenance."""

    arch: str
    name: str
    date: str
    """Date of its signed metadata, RFC 3339."""
    digest: Digest
    """Of the signed metadata: InRelease or repomd.xml."""

    def line(self) -> str:
        """The pin as it stands in a lock."""
        return f"suite {self.arch} {self.name} {self.date} {self.digest}"


@dataclass(frozen=True)
class BaseLock:
    """What a base's roots are made of."""

    base: str
    packages: tuple[Package, ...]
    suites: tuple[Suite, ...]
    missing: tuple[tuple[str, str], ...] = ()
    """(architecture, reason) of those that could not be locked."""
    definition: Digest | None = None
    """Of what the lock was made from; another definition needs another lock."""

    def root(self, role: str, arch: str) -> tuple[Package, ...]:
        """The packages of one root, in the order in which they are extracted."""
        return tuple(p for p in self.packages if p.root == role and p.arch == arch)

    def render(self) -> str:
        """The lock's text; equal locks have equal text."""
        lines = [p.line() for p in sorted(self.packages)] + [s.line() for s in sorted(self.suites)]
        head = f"base {self.base}" + (f" {self.definition}" if self.definition else "")
        return f"{head}\n" + "".join(f"{line}\n" for line in sorted(lines))

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read a lock; `where` names it in errors."""
        base, definition, packages, suites = "", None, [], []
        for number, fields in _lines(text, where):
            with _line_of(where, number):
                match fields:
                    case ["base", name, *digests] if not base and len(digests) < 2:
                        base = name
                        definition = Digest.parse(digests[0]) if digests else None
                    case ["package", root, arch, name, version, path, size, digest]:
                        RootedPath.parse(path)
                        packages.append(Package(root, arch, name, version, path, _count(size), Digest.parse(digest)))
                    case ["suite", arch, name, date, digest]:
                        suites.append(Suite(arch, name, date, Digest.parse(digest)))
                    case _:
                        raise ValueError(fields[0])
        if not base:
            raise DefinitionError(f"{where}: the line 'base NAME DIGEST' is missing")
        return cls(base, tuple(sorted(packages)), tuple(sorted(suites)), definition=definition)


@dataclass(frozen=True, order=True)
class MainModule:
    """The module that a build unit compiles."""

    unit: str
    """`component`, or `component.build` where it has several; `@VERSION` where an architecture has another."""
    module: Module
    time: str
    """The module's own time (RFC 3339, from its origin), the times of its compiled files."""

    def line(self) -> str:
        """The pin as it stands in a lock."""
        return f"main {self.unit} {self.module.path} {self.module.version} {self.module.sum} {self.time}"


@dataclass(frozen=True, order=True)
class Toolchain:
    """A Go toolchain for the machine that builds."""

    version: str
    """`1.20.14`."""
    arch: str
    sum: str
    """`h1:` of the toolchain module."""

    @property
    def module(self) -> Module:
        """Toolchains are served as versions of one module (https://go.dev/doc/toolchain)."""
        return Module("golang.org/toolchain", f"v0.0.1-go{self.version}.linux-{self.arch}", self.sum)

    def line(self) -> str:
        """The pin as it stands in a lock."""
        return f"toolchain go {self.version} {self.arch} {self.sum}"


ORIGINS = {"git": 3, "archive": 2}
"""Kinds of snapshots, and how many words name an origin of each."""


@dataclass(frozen=True, order=True)
class Snapshot:
    """The files of a git commit or of an archive, as one canonical tar archive: a pin."""

    unit: str
    kind: str
    origin: tuple[str, ...]
    """git: URL, tag, commit. archive: URL, digest of the file that it serves."""
    size: int
    tar: Digest
    """Of the canonical archive: what builds see."""
    time: str
    """Of the commit, or of the newest file (RFC 3339): the times of its compiled files."""

    def line(self) -> str:
        """The pin as it stands in a lock."""
        return f"{self.kind} {self.unit} {' '.join(self.origin)} {self.size} {self.tar} {self.time}"


@dataclass(frozen=True)
class SourcesLock:
    """Every source of a release."""

    release: str
    definition: Digest
    """Of what the lock was made from; another definition needs another lock."""
    mains: dict[str, MainModule] = field(default_factory=dict)
    """By unit."""
    modules: dict[Module, frozenset[str]] = field(default_factory=dict)
    """Dependencies, with the units that compile them."""
    toolchains: dict[str, Toolchain] = field(default_factory=dict)
    """By version."""
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    """By unit."""

    def modules_of(self, unit: str) -> list[Module]:
        """The dependencies of one unit, sorted."""
        return sorted(m for m, units in self.modules.items() if unit in units)

    def render(self) -> str:
        """The lock's text; equal locks have equal text."""
        lines = [m.line() for m in self.mains.values()] + [t.line() for t in self.toolchains.values()]
        lines += [s.line() for s in self.snapshots.values()]
        lines += [f"module {m.path} {m.version} {m.sum} {','.join(sorted(u))}" for m, u in self.modules.items()]
        return f"release {self.release} {self.definition}\n" + "".join(f"{line}\n" for line in sorted(lines))

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read a lock; `where` names it in errors."""
        lock: Self | None = None
        for number, fields in _lines(text, where):
            with _line_of(where, number):
                match fields:
                    case ["release", version, digest] if lock is None:
                        lock = cls(version, Digest.parse(digest))
                    case ["main", unit, path, version, total, time] if lock and unit not in lock.mains:
                        lock.mains[unit] = MainModule(unit, Module(path, version, total), _time(time))
                    case ["module", path, version, total, units] if lock:
                        module = Module(path, version, total)
                        if module in lock.modules:
                            raise ValueError("the module stands twice")
                        lock.modules[module] = frozenset(units.split(","))
                    case ["toolchain", "go", version, arch, total] if lock and version not in lock.toolchains:
                        lock.toolchains[version] = Toolchain(version, arch, total)
                    case [("git" | "archive") as kind, unit, *origin, size, tar, time] if (
                        lock and unit not in lock.snapshots and len(origin) == ORIGINS[kind]
                    ):
                        pin = Snapshot(unit, kind, tuple(origin), _count(size), Digest.parse(tar), _time(time))
                        lock.snapshots[unit] = pin
                    case _:
                        raise ValueError(fields[0])
        if lock is None:
            raise DefinitionError(f"{where}: the line 'release VERSION DIGEST' is missing")
        return lock


def _lines(text: str, where: str) -> Iterable[tuple[int, list[str]]]:
    seen = set()
    for number, line in enumerate(text.split("\n"), 1):
        if line and not line.startswith("#"):
            if line in seen:
                raise DefinitionError(f"{where}: line {number} stands twice", _REMEDY)
            seen.add(line)
            fields = line.split(" ")
            if not all(fields):
                raise DefinitionError(f"{where}: line {number} is not a pin: it has empty fields", _REMEDY)
            yield number, fields


_REMEDY = "a lock is written by `inv lock`; restore it from git or renew it with --update"


@contextlib.contextmanager
def _line_of(where: str, number: int) -> Iterator[None]:
    try:
        yield
    except (PipelineError, ValueError) as error:
        raise DefinitionError(f"{where}: line {number} is not a pin: {error}", _REMEDY) from error


def _count(text: str) -> int:
    if str(int(text)) != text or text.startswith("-"):
        raise ValueError(f"size {text!r}")
    return int(text)


def _time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"time {text!r} names no zone")
    return text


def lock_text(lock: BaseLock | SourcesLock) -> bytes:
    """A lock's text for its file. Raises SourceError if it would not be read back as it is.

    Names, versions and paths come from origins: one with a space or a line break would change other pins.
    """
    text = lock.render()
    meant = lock
    if isinstance(lock, BaseLock):
        meant = replace(lock, packages=tuple(sorted(lock.packages)), suites=tuple(sorted(lock.suites)), missing=())
    try:
        found = type(lock).parse(text, "the new lock")
    except DefinitionError as error:
        raise SourceError(f"what the origin serves cannot be locked: {error.reason}") from error
    if found != meant:
        raise SourceError("what the origin serves cannot be locked: a name, version or path holds a line break")
    return text.encode()


def read_lock(path: Path) -> str | None:
    """The text of a lock or overlay, None if there is no such file; raises DefinitionError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DefinitionError(f"{path} cannot be read: {error}", _REMEDY) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step: a reader sees the old or the new file, never a part. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path, data) as made:
        made.rename(path)


@contextlib.contextmanager
def written_beside(path: Path, data: bytes) -> Iterator[Path]:
    """A file with `data`, on the disk, beside the place that it is for; gone afterwards unless it was renamed."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
