"""Write a source bundle: every pin of a release, checked, as one zstd-compressed tar archive.

Modules are packed twice, once to know their digests and once into the archive, so that no more than a few of them lie
on the disk at a time.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.bases import Base
from pipeline.bundle.index import (
    FILE,
    INDEX,
    SCHEMA,
    Index,
    Member,
    Pin,
    describe,
    licence_name,
    pins_of,
    sums_of,
)
from pipeline.bundle.licences import package_licence, source_licence
from pipeline.context import Context
from pipeline.errors import SourceError, StoreError
from pipeline.inputs import Inputs
from pipeline.lock import Package, Snapshot
from pipeline.locks import fetch_all
from pipeline.model import Digest, Module, RootedPath
from pipeline.pack.tar import Entry, write_tar
from pipeline.pack.zstd import compress
from pipeline.report.progress import size
from pipeline.sources.gocache import DiskGo, hash_mod, pack_module
from pipeline.store import Output, Store, store_error

WORKERS = min(4, os.cpu_count() or 1)
"""Threads that pack and hash."""
RESERVE = 1 << 30
"""Bytes that stay free; modules that are being packed lie there meanwhile."""

Content = Path | bytes | Callable[[], AbstractContextManager[Path]]


@dataclass(frozen=True)
class Part:
    """A member, and where its bytes come from."""

    member: Member
    content: Content


def make_bundle(context: Context, target: Path | None) -> Path:
    """Fetch every pin of the chosen components and architectures and write them to `target`; returns where it is.

    Without `target` it stands in the release's folder. Raises NetworkError, SourceError for what cannot be had,
    StoreError if there is no room.
    """
    fetch_all(context)
    target = target or context.dist / FILE
    if target.is_dir():
        target /= FILE
    try:
        with context.store.exclusive(f"bundle-{Digest.of_bytes(os.fsencode(target)).hex}"):
            made = write_bundle(context, target)
    except OSError as error:
        raise store_error(error, target) from error
    context.progress.say(f"{target}: {size(made.size)}, {made.digest}")
    return target


def write_bundle(context: Context, target: Path) -> Output:
    """Write what is in the store to `target`, beside it first. Raises SourceError, StoreError, OSError."""
    context.progress.step(f"packing the sources of {context.options.version}")
    parts = sorted(_parts(context), key=lambda p: p.member.name)
    index = Index(
        schema=SCHEMA,
        version=context.options.version,
        components=tuple(sorted({u.component for u in context.units})),
        bases={a: i.roots.base.name for a, i in sorted(context.inputs.items())},
        members=tuple(p.member for p in parts),
    )
    epoch = context.release.epoch
    contents: dict[str, Content] = {INDEX: index.render(), **{p.member.name: p.content for p in parts}}
    entries = [Entry(RootedPath.parse(n), 0o644, epoch, c) for n, c in contents.items()]
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _refuse_small_disk(target.parent, sum(p.member.size for p in parts))
        with partial.open("wb") as file:
            with compress(file) as stream:
                write_tar(stream, entries, time=epoch)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        made = Output(Digest.of_file(partial), partial.stat().st_size)
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return made


def _refuse_small_disk(folder: Path, content: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < content + RESERVE:
        raise StoreError(
            f"{folder}: up to {size(content + RESERVE)} are needed for a source bundle and {size(free)} are free",
            "free some space, or write it elsewhere: --bundle PATH",
        )


def _parts(context: Context) -> list[Part]:
    """Every member but the list itself; what it holds was compared with its pin just before."""
    inputs = next(iter(context.inputs.values()))  # modules do not depend on the base
    pins = pins_of(context)
    inputs.go.ensure([p for p in pins.values() if isinstance(p, Module)])
    graph = read_graph(context, inputs)
    inputs.go.ensure(list(graph.zips.values()))
    pins |= {f"modules/{n}": m for n, m in graph.zips.items()}
    parts = [_part(f"modules/{n}", f"go.mod {n} {hash_mod(data)}", data) for n, data in graph.mods.items()]
    collector = _Collector(context, inputs)
    with ThreadPoolExecutor(WORKERS) as pool:
        for found in pool.map(lambda item: collector.collect(*item), pins.items()):
            parts += found
    return parts


@dataclass(frozen=True)
class Graph:
    """What go reads besides the locked modules to resolve the units' packages, by the names that proxies give."""

    mods: dict[str, bytes]
    """go.mod files: of versions that are not selected, too."""
    zips: dict[str, Module]
    """Modules that could have had a package by its path, and have not."""


def read_graph(context: Context, inputs: Inputs) -> Graph:
    """Ask go what it reads: no more and no less.

    The fetch step runs once more, on a module cache that has the locked modules alone, asks the store's own and nobody
    else. So every bundle shows that it is complete. Raises SourceError if a module is read that no go.sum names.
    """
    with inputs.store.workspace() as work:
        apart = Store(work)
        go = DiskGo(apart, inputs.store.gomod / "cache" / "download")
        for module in sorted({m for u in context.units for m in inputs.modules(u)}):
            go.link(module, inputs.store.gomod / module.directory)
        replace(inputs, store=apart, go=go).fetch(context.units)
        cache = apart.gomod / "cache" / "download"
        mods = {p.relative_to(cache).as_posix(): p.read_bytes() for p in sorted(cache.rglob("*.mod"))}
        names = [p.relative_to(cache).as_posix() for p in sorted(cache.rglob("*.zip"))]
    known = sums_of(context).zips if names else {}
    if unknown := next((n for n in names if n not in known), None):
        raise SourceError(
            f"a build reads the module {unknown}, which neither sources.lock nor a go.sum names",
            f"./inv lock --version {context.options.version} --update",
        )
    return Graph(mods, {n: known[n] for n in names})


class _Collector:
    """Makes the members that serve one pin: its content, and its terms."""

    def __init__(self, context: Context, inputs: Inputs) -> None:
        self._store = context.store
        self._inputs = inputs
        self._bases: dict[str, Base] = {b.name: b for b in context.bases.values()}
        self._units = {p.tar: u for u in context.units if (p := inputs.locked.lock.snapshots.get(u.name))}

    def collect(self, name: str, pin: Pin) -> list[Part]:
        title = describe(name, pin)
        if isinstance(pin, bytes):
            return [_part(name, title, pin)]
        content, terms = self._read(name, title, pin)
        return [_part(name, title, content), _part(licence_name(name), title, terms)]

    def _read(self, name: str, title: str, pin: Module | Package | Snapshot) -> tuple[Content, bytes]:
        if isinstance(pin, Module):
            tree = self._store.gomod / pin.directory
            return lambda: self._zip(pin, tree), source_licence(title, tree)
        if isinstance(pin, Snapshot):
            with self._inputs.snapshots.folder(self._units[pin.tar], pin) as folder:
                return self._use(pin.tar, title), source_licence(title, folder)
        file = self._use(pin.digest, title)
        with self._store.workspace() as work:
            return file, package_licence(title, file, self._bases[name.split("/")[1]], work / "root")

    @contextmanager
    def _zip(self, module: Module, tree: Path) -> Iterator[Path]:
        with self._store.workspace() as work:
            pack_module(module, tree, work / "zip")
            yield work / "zip"

    def _use(self, digest: Digest, title: str) -> Path:
        path = self._store.use(digest)
        if path is None:
            raise SourceError(f"{title} was damaged in the store and has been removed", "run the same command again")
        return path


def _part(name: str, pin: str, content: Content) -> Part:
    if isinstance(content, bytes):
        found = Digest.of_bytes(content), len(content)
    elif isinstance(content, Path):
        found = Digest.of_file(content), content.stat().st_size
    else:
        with content() as file:
            found = Digest.of_file(file), file.stat().st_size
    return Part(Member(name=name, digest=str(found[0]), size=found[1], pin=pin), content)
