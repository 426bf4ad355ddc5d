"""Import a source bundle into a store: each member is checked against the locks before it is put in its place.

Nothing is taken on the bundle's word, but for the lock of a floating base, which nobody else has. What was imported
before a failure stays, as it was checked; the next run goes on from there.
"""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import IO, BinaryIO

from pipeline.baselocks import base_lock_path, base_subject, read_base_lock, write_base_lock
from pipeline.bases import Base
from pipeline.bundle.index import (
    INDEX,
    MAX_TEXT,
    Index,
    Member,
    Pin,
    base_lock_name,
    describe,
    licence_name,
    pins_of,
    sums_of,
)
from pipeline.bundle.ustar import Content, read_ustar
from pipeline.context import Context
from pipeline.errors import DefinitionError, SourceError, StoreError, UsageError
from pipeline.lock import BaseLock, Package, Snapshot, lock_text, write_atomically
from pipeline.locks import fetch_all
from pipeline.model import CHUNK, Digest, Module
from pipeline.report.progress import size
from pipeline.sources.archive import unpack
from pipeline.sources.given import MAX_ZIP
from pipeline.sources.gocache import DiskGo, hash_mod
from pipeline.store import store_error

RESERVE = 1 << 30
"""Bytes that stay free."""
MAX_MODS = 256 << 20
"""Bytes of all go.mod files, which are kept in memory until the end; a release has 2 MiB."""
MODULES, LICENCES, BASE_LOCKS = "modules/", "licences/", "locks/bases/"
KNOWN = (LICENCES, "locks/", MODULES, "packages/", "snapshots/")


def fetch_from_bundle(path: Path, context: Context) -> None:
    """Import the bundle at `path`, and see that nothing is missing to build what `context` asks for offline."""
    import_bundle(path, context)
    fetch_all(context)


def import_bundle(path: Path, context: Context) -> None:
    """Bring the pins in the bundle at `path` into the store, for the release and architectures of `context`.

    Afterwards the locks are complete as well: the store has the lock of a floating base. It asks no network.
    Raises UsageError if it cannot be read or is for something else than was asked for, SourceError that names the
    member if it is malformed, damaged or not what the locks say, StoreError if the store has no room or another lock.
    """
    with _open(path) as file:
        context.progress.step(f"importing {path}")
        try:
            with context.store.exclusive("import"), context.store.workspace() as work:
                _Import(context, path.name).run(file, work)
        except OSError as error:
            raise store_error(error, context.store.root) from error
        except SourceError as error:
            error.hint = error.hint or "get the bundle again, or fetch with network; what was imported so far is kept"
            raise
    context.progress.say(f"every member of {path.name} is what the locks of {context.options.version} say")


def _open(path: Path) -> BinaryIO:
    try:
        if not path.is_file():
            raise UsageError(f"{path} is no file" if path.exists() else f"{path} does not exist")
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


class _Import:
    """One run over a bundle, from its first byte to its last."""

    def __init__(self, context: Context, what: str) -> None:
        self.context = context
        self.store = context.store
        self.what = what
        self.go = DiskGo(context.store)
        self.locks: dict[str, bytes] = {}
        """Locks of bases, as the bundle has them, by member name."""
        self.mods: dict[str, bytes] = {}
        """go.mod files: go.sum files tell whether they are right, and some of those come with the modules."""
        self.zips: dict[str, Path] = {}
        """Modules that go.sum files name and the lock does not, put aside until then."""

    def run(self, file: IO[bytes], work: Path) -> None:
        """Read the bundle open in `file`; `work` is an empty folder on the store's file system."""
        self.work = work
        members = read_ustar(file, self.what)
        self.index = self._read_index(members)
        listed = {m.name: m for m in self.index.members}
        folders = {parent for name in listed for parent in _parents(name)}
        for name, length, content in members:
            if content is None and name in folders:
                folders.remove(name)
                continue
            member = listed.pop(name, None)
            if content is None or member is None:
                raise SourceError(f"{self.what}: member {name[:200]!r} is not in its list, or stands twice")
            if length != member.size:
                raise SourceError(f"{self.what}: member {name} has {length} bytes, its list says {member.size}")
            self._take(member, content)
        if listed:
            raise SourceError(f"{self.what}: {_names(listed)} are missing: its list has them, the archive has not")
        self._finish()

    # --- what the bundle says of itself

    def _read_index(self, members: Iterator[tuple[str, int, Content | None]]) -> Index:
        name, length, content = next(members, ("", 0, None))
        if name != INDEX or content is None or length > MAX_TEXT:
            raise SourceError(f"{self.what}: expected {INDEX} as its first member, found {name[:200]!r}")
        index = Index.parse(_text(content), self.what)
        if index.version != self.context.options.version:
            raise UsageError(f"{self.what} has the sources of {index.version}", f"--version {index.version}")
        asked = {a: b.name for a, b in self.context.bases.items()}
        if lacking := sorted(set(asked) - set(index.bases)):
            chosen = " ".join(f"--arch {a}" for a in index.bases)
            raise UsageError(f"{self.what} has no sources for {', '.join(lacking)}", f"name what it has: {chosen}")
        if other := next((a for a, name in asked.items() if index.bases[a] != name), None):
            found = index.bases[other]
            raise UsageError(f"{self.what} is for base {found}, not {asked[other]}", f"name it: --base {found}")
        if lacking := sorted({u.component for u in self.context.units} - set(index.components)):
            chosen = " ".join(f"--component {c}" for c in index.components)
            raise UsageError(f"{self.what} has no sources of {', '.join(lacking)}", f"name what it has: {chosen}")
        if strange := sorted({*index.bases} - {*self.context.release.bases}) or sorted(
            {*index.components} - {*self.context.release.components}
        ):
            raise SourceError(f"{self.what}: {INDEX}: the release has no {strange[0][:80]!r}")
        return index

    # --- what the locks say

    @cached_property
    def scope(self) -> Context:
        """A run for exactly what the bundle was made for, with its locks of bases."""
        options = replace(
            self.context.options, arches=tuple(self.index.bases), components=self.index.components, offline=True
        )
        scope = replace(self.context, options=options)
        scope.store = self.store
        scope.base_locks = {base.name: self._base_lock(base) for base in scope.bases.values()}
        return scope

    def _base_lock(self, base: Base) -> BaseLock:
        name = base_lock_name(base.name)
        text = self.locks.get(name)
        if text is None:
            raise SourceError(f"{self.what}: member {name} is missing, or stands after what it names")
        try:
            lock = BaseLock.parse(text.decode(), f"{self.what}: {name}")
        except (DefinitionError, ValueError) as error:
            raise SourceError(f"{self.what}: member {name} is no lock: {error}") from error
        if lock.base != base.name or lock.definition != base_subject(base):
            raise SourceError(
                f"{self.what}: {name} was made from another definition of {base.name}",
                "use the checkout that the bundle was made from",
            )
        path = base_lock_path(base, self.context.options.version, self.context.definitions, self.store)
        known = read_base_lock(path, base)
        if known is None and not base.floating:
            raise DefinitionError(f"{path} is missing", "use the checkout that the bundle was made from")
        if known is not None and lock_text(known) != text:
            raise StoreError(
                f"{path} pins other packages than {name} of {self.what}",
                f"import into an empty store (RFO_STORE=/path), or remove {path}"
                if base.floating
                else "use the checkout that the bundle was made from",
            )
        return lock

    @cached_property
    def pins(self) -> dict[str, Pin]:
        """What the locks call for; raises SourceError unless the bundle lists all of it and little more."""
        pins = pins_of(self.scope)
        listed = {m.name for m in self.index.members}
        if missing := [f"{n} ({describe(n, pins[n])})" for n in sorted(set(pins) - listed)]:
            raise SourceError(f"{self.what}: members are missing: {_names(missing)}")
        terms = {licence_name(n) for n in listed}
        if extra := [n for n in sorted(listed - set(pins) - terms) if not n.startswith(MODULES)]:
            raise SourceError(f"{self.what}: it has members that no lock names: {_names(extra)}")
        self._refuse_small_disk(pins)
        return pins

    def _refuse_small_disk(self, pins: dict[str, Pin]) -> None:
        """Nothing large was written yet; what an earlier run brought counts no more."""
        need = sum(m.size for m in self.index.members if not self._seems_there(pins.get(m.name))) + RESERVE
        free = shutil.disk_usage(self.store.root).free
        if free < need:
            raise StoreError(
                f"{self.store.root}: {size(need)} are needed to import {self.what} and {size(free)} are free",
                "free some space or choose another store: RFO_STORE=/path",
            )

    def _seems_there(self, pin: Pin | None) -> bool:
        if isinstance(pin, Module):
            return (self.store.gomod / pin.directory).is_dir()
        return isinstance(pin, Package | Snapshot) and self.store.has(_digest(pin))

    # --- members

    def _take(self, member: Member, content: Content) -> None:
        """Check one member and put it in its place."""
        name = member.name
        if not name.startswith(KNOWN):
            raise SourceError(f"{self.what}: it has a member that no lock names: {name}")
        pin = None if name.startswith((LICENCES, BASE_LOCKS)) else self.pins.get(name)
        aside = pin is None and name.startswith(MODULES) and name.endswith(".zip")
        limit = _limit(pin, aside)
        if member.size > limit:
            raise SourceError(f"{self.what}: member {name} has {member.size} bytes; at most {limit} were expected")
        if isinstance(pin, Module | Package | Snapshot):
            if self._has(pin):
                self._compare(member, content.finish())
            else:
                with self.store.workspace() as work:
                    self._install(name, pin, self._spool(member, content, work / "member"), work)
            return
        if aside:
            target = self.work / str(len(self.zips))
            self.zips[name.removeprefix(MODULES)] = self._spool(member, content, target)
            return
        text = _text(content)
        self._compare(member, content.finish())
        if name.startswith(BASE_LOCKS):
            self.locks[name] = text
        elif isinstance(pin, bytes) and text != pin:
            raise SourceError(
                f"{self.what}: member {name} differs from the checkout's",
                "use the checkout that the bundle was made from",
            )
        elif name.startswith(MODULES):
            self.mods[name.removeprefix(MODULES)] = text
            if sum(map(len, self.mods.values())) > MAX_MODS:
                raise SourceError(f"{self.what}: more than {MAX_MODS} bytes of go.mod files")

    def _compare(self, member: Member, found: Digest) -> None:
        if str(found) != member.digest:
            raise SourceError(f"{self.what}: member {member.name} is altered: expected {member.digest}, found {found}")

    def _has(self, pin: Module | Package | Snapshot) -> bool:
        """Whether the store has it intact."""
        return self.go.has(pin) if isinstance(pin, Module) else self.store.use(_digest(pin)) is not None

    def _spool(self, member: Member, content: Content, target: Path) -> Path:
        with target.open("wb") as file:
            found = content.copy(file)
        self._compare(member, found)
        return target

    def _install(self, name: str, pin: Module | Package | Snapshot, file: Path, work: Path, keep: bool = False) -> None:
        """Check `file` against its pin and put it in its place; of a module the zip file itself as well with `keep`."""
        where = f"{self.what}: member {name}"
        if isinstance(pin, Module):
            tree = work / "tree"
            tree.mkdir()
            unpack(file, tree, where, max_bytes=MAX_ZIP)
            self.go.adopt(pin, tree / str(pin), where, file if keep else None)
        elif (found := Digest.of_file(file)) != _digest(pin):
            raise SourceError(f"{where}: the lock says {_digest(pin)}, found {found}")
        else:
            self.store.add(file)

    # --- the end

    def _finish(self) -> None:
        """What could only be judged once everything else was there."""
        _ = self.pins  # a bundle without any is told here
        sums = sums_of(self.scope)
        for name, data in self.mods.items():
            if sums.mods.get(name) != hash_mod(data):
                raise SourceError(
                    f"{self.what}: member {MODULES}{name}: no go.sum of the release names a go.mod like it"
                )
        if strange := sorted(set(self.zips) - set(sums.zips)):
            raise SourceError(f"{self.what}: no lock and no go.sum names the member {MODULES}{strange[0]}")
        for name, file in self.zips.items():
            if not self.go.has(sums.zips[name], archive=True):
                with self.store.workspace() as work:
                    self._install(f"{MODULES}{name}", sums.zips[name], file, work, keep=True)
        for name, data in self.mods.items():
            place = self.store.gomod / "cache" / "download" / name
            if not place.is_file() or place.read_bytes() != data:
                write_atomically(place, data)
        for base in {b.name: b for b in self.scope.bases.values()}.values():
            path = base_lock_path(base, self.context.options.version, self.context.definitions, self.store)
            write_base_lock(path, self.scope.base_locks[base.name], self.context.progress)


def _limit(pin: Pin | None, aside: bool) -> int:
    """The most bytes that a member may have; zip files that are not compressed are a little larger than their files."""
    if isinstance(pin, Package | Snapshot):
        return pin.size
    return 2 * MAX_ZIP if aside or isinstance(pin, Module) else MAX_TEXT


def _digest(pin: Package | Snapshot) -> Digest:
    return pin.digest if isinstance(pin, Package) else pin.tar


def _text(content: Content) -> bytes:
    data = b""
    while piece := content.read(CHUNK):
        data += piece
    return data


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(n[:200] for n in listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
