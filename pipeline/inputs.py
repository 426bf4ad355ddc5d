"""Everything that builds read: locked sources and roots, brought into place and checked when they are needed."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pipeline.graph import canonical
from pipeline.lock import write_atomically
from pipeline.locking import LockedSources
from pipeline.model import Digest, Module
from pipeline.roots import Roots
from pipeline.sandbox import INPUTS, Mount
from pipeline.sources.go import GoSources
from pipeline.sources.snapshot import Snapshots
from pipeline.sources.tree import export_tree, tree_digest
from pipeline.store import Store
from pipeline.units import Unit


@dataclass(frozen=True)
class Inputs:
    """The inputs of one release on one base."""

    checkout: Path
    store: Store
    locked: LockedSources
    roots: Roots
    go: GoSources
    snapshots: Snapshots
    epoch: int
    """The release date."""
    go_root: str = "builder"
    """The root that pure Go is compiled in: any will do, which a proof shows by taking another."""
    trees: dict[str, Digest] = field(default_factory=dict)
    """Digests of folders of the checkout as they were first seen: what the keys of this run say."""

    def identity(self, unit: Unit) -> dict[str, str]:
        """What names a unit's sources in an action's key: by content only."""
        facts = {}
        if unit.source.go:
            facts["main"] = str(self.locked.lock.mains[unit.name].module.sum)
        elif unit.source.tree:
            facts["tree"] = str(self._tree(unit.source.tree))
        else:
            facts["files"] = str(self.locked.lock.snapshots[unit.name].tar)
        if unit.build.compiler == "go":
            facts["toolchain"] = self.locked.lock.toolchains[unit.go].sum
            facts["modules"] = " ".join(f"{m} {m.sum}" for m in self.locked.lock.modules_of(unit.name))
            if overlay := self.locked.overlays.get(unit.name):
                facts["overlay"] = str(overlay.digest)
        return facts

    def _tree(self, tree: str) -> Digest:
        if tree not in self.trees:
            self.trees[tree] = tree_digest(self.checkout, tree)
        return self.trees[tree]

    def source_epoch(self, unit: Unit) -> int:
        """The time of a unit's compiled files: the source's own, so that what did not change is not shipped again."""
        lock = self.locked.lock
        pin = lock.mains.get(unit.name) or lock.snapshots.get(unit.name)
        if pin is None:
            return self.epoch
        return int(datetime.fromisoformat(pin.time.replace("Z", "+00:00")).timestamp())

    def modules(self, unit: Unit) -> list[Module]:
        """Every module a unit's build reads, its toolchain first."""
        lock = self.locked.lock
        found = [lock.toolchains[unit.go].module] if unit.build.compiler == "go" else []
        found += [lock.mains[unit.name].module] if unit.source.go else []
        return found + lock.modules_of(unit.name)

    def fetch(self, units: Sequence[Unit]) -> None:
        """Bring the files and modules of `units` into the store, and complete the module cache's metadata."""
        self.snapshots.fetch(units, self.locked.lock.snapshots)
        modules = sorted({m for u in units for m in self.modules(u)})
        self.go.fetch(modules)
        for unit in units:
            self._complete(unit)

    def _complete(self, unit: Unit) -> None:
        """Let go resolve the unit's packages once with network, so that it can do so without one later.

        The module graph reads go.mod files of versions that are not selected; only go knows which. A stamp in the
        module cache spares the next run, and is gone when the cache is.
        """
        if unit.build.compiler != "go":
            return
        stamp = self.store.gomod / "fetched" / Digest.of_bytes(canonical([self.identity(unit), unit.arches])).hex
        if stamp.exists():
            return
        with self.source(unit) as source, self.modfile(unit, source) as modfile:
            for arch in unit.arches:
                self.go.imported(
                    self.toolchain(unit), source, modfile, unit.packages, unit.build.tags,
                    arch, cgo=unit.build.uses_cgo(arch), update=False,
                )  # fmt: skip
        write_atomically(stamp, b"")

    def ensure(self, unit: Unit) -> None:
        """Have a unit's modules in place and equal to their pins; what was tampered with is fetched again once."""
        self.go.ensure(self.modules(unit))

    def toolchain(self, unit: Unit) -> Path:
        """GOROOT of a unit's toolchain."""
        return self.go.toolchain(self.locked.lock.toolchains[unit.go].module)

    @contextlib.contextmanager
    def source(self, unit: Unit) -> Iterator[Path]:
        """The folder with a unit's source."""
        if unit.source.go:
            yield self.store.gomod / self.locked.lock.mains[unit.name].module.directory
            return
        if pin := self.locked.lock.snapshots.get(unit.name):
            with self.snapshots.folder(unit, pin) as folder:
                yield folder
            return
        with self.store.workspace() as work:
            tree = str(unit.source.tree)
            export_tree(self.checkout, tree, work / "src", self._tree(tree))
            yield work / "src"

    @contextlib.contextmanager
    def modfile(self, unit: Unit, source: Path) -> Iterator[Path]:
        """A go.mod with its go.sum beside it: the overlay, or a copy of the source's own pair."""
        with self.store.workspace() as work:
            overlay = self.locked.overlays.get(unit.name)
            own_sum = source / "go.sum"
            mod = overlay.mod if overlay else (source / "go.mod").read_text(encoding="utf-8")
            sums = overlay.sum if overlay else own_sum.read_text(encoding="utf-8") if own_sum.exists() else ""
            (work / "go.mod").write_text(mod, encoding="utf-8")
            (work / "go.sum").write_text(sums, encoding="utf-8")
            yield work / "go.mod"

    def go_mounts(self, unit: Unit, source: Path, modfile: Path) -> tuple[Mount, ...]:
        """What a Go build sees of its sources."""
        return (
            Mount(self.toolchain(unit), f"{INPUTS}/go"),
            Mount(self.store.gomod, f"{INPUTS}/gomod"),
            Mount(source, f"{INPUTS}/src"),
            Mount(modfile.parent, f"{INPUTS}/overlay"),
        )
