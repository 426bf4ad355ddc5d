"""Roots on disk: assembled once from a base's locked packages, kept in the store, checked before use."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.base import family
from pipeline.base.assemble import assemble, tree_digest
from pipeline.bases import Base, RootRecipe
from pipeline.engine import code_digest
from pipeline.errors import DefinitionError, SourceError, StoreError
from pipeline.graph import canonical
from pipeline.lock import BaseLock, Package, write_atomically
from pipeline.model import PLATFORMS, Digest
from pipeline.report.progress import Progress
from pipeline.store import Store, remove_tree, touch


@dataclass(frozen=True)
class Root:
    """One root of a base, by content."""

    base: Base
    role: str
    arch: str
    recipe: RootRecipe
    packages: tuple[Package, ...]

    @property
    def key(self) -> Digest:
        """Over all that decides its content: packages, recipe, and the code that assembles it."""
        parts = {
            "packages": [[p.name, str(p.digest)] for p in self.packages],
            "recipe": self.recipe.model_dump(mode="json"),
            "family": self.base.family,
            "arch": self.arch,
            "code": str(
                code_digest("base/archives.py", "base/assemble.py", "base/cpio.py", "base/rpmfile.py", "extract.py")
            ),
        }
        return Digest.of_bytes(canonical(parts))


class Roots:
    """The roots of one base lock."""

    def __init__(
        self,
        base: Base,
        lock: BaseLock,
        store: Store,
        host: str,
        *,
        origin: str | None,
        offline: bool,
        progress: Progress,
    ) -> None:
        self.base = base
        self.lock = lock
        self.store = store
        self.host = host
        self.origin = origin
        self.offline = offline
        self.progress = progress
        self._ready: dict[Digest, Path] = {}

    def find(self, role: str, arch: str) -> Root:
        """The root for a role; host roots serve every target. Raises DefinitionError if the base has none."""
        recipe = self.base.recipes.get(role)
        if recipe is None:
            raise DefinitionError(f"base {self.base.name} has no root {role}")
        owner = self.host if recipe.per == "host" else arch
        packages = self.lock.root(role, owner)
        if not packages and recipe.packages:
            raise DefinitionError(
                f"the lock of base {self.base.name} has no {role} for {owner}",
                f"./inv lock --version VERSION --base {self.base.name} --update",
            )
        return Root(self.base, role, owner, recipe, packages)

    def path(self, root: Root) -> Path:
        """The assembled root on disk, fetched, made or mended if need be; checked once per process."""
        if root.key in self._ready:
            return self._ready[root.key]
        target = self.store.root / "trees" / root.key.hex
        with self.store.exclusive(f"tree-{root.key.hex}"):
            stamp = target.with_suffix(".digest")
            if not is_intact(target, stamp):
                remove_tree(target)
                self.fetch(root.packages)
                self.progress.step(
                    f"assembling {root.base.name} {root.role} for {root.arch} ({len(root.packages)} packages)"
                )
                with self.store.workspace() as work:
                    made = work / "root"
                    made.mkdir()
                    assemble(
                        root.base,
                        root.recipe,
                        root.packages,
                        files=self.file,
                        root=made,
                        platform=PLATFORMS[root.arch],
                    )
                    digest = tree_digest(made)
                    made.rename(target)
                    write_atomically(stamp, str(digest).encode())
            touch(stamp)
            _tell_packages(target, root.packages)
        self._ready[root.key] = target
        return target

    def fetch(self, packages: Sequence[Package]) -> None:
        """Bring packages into the store; raises NetworkError naming each that cannot be had."""
        missing = [p for p in packages if not self.store.has(p.digest, p.size)]
        if not missing:
            return
        if self.offline:
            from pipeline.errors import NetworkError

            names = "".join(f"\n  {p.name} {p.version}" for p in missing[:20])
            what = f"{len(missing)} packages of {self.base.name}"
            raise NetworkError(
                f"{what} are not in the store, and --offline forbids fetching:{names}",
                "run `./inv fetch` with network first",
            )
        self.progress.step(f"fetching {len(missing)} packages of {self.base.name}")
        with self.store.workspace() as work:
            family(self.base.family).fetch(self.base, missing, origin=self.origin, work=work, deliver=self._deliver)

    def _deliver(self, package: Package, file: Path) -> None:
        with self.store.workspace() as work:
            copy = work / "package"
            copy.write_bytes(file.read_bytes())
            made = self.store.add(copy)
        if made.digest != package.digest:
            raise SourceError(
                f"package {package.name}: the lock says {package.digest}, the origin serves {made.digest}"
            )

    def file(self, package: Package) -> Path:
        """The checked file of a package, fetched if need be. Raises SourceError, NetworkError."""
        path = self.store.use(package.digest)
        if path is None:
            self.fetch([package])
            path = self.store.use(package.digest)
        if path is None:
            raise SourceError(
                f"package {package.name} {package.version} was damaged in the store and could not be fetched again"
            )
        return path


def _tell_packages(tree: Path, packages: Sequence[Package]) -> None:
    """Write what a tree is made of beside it, so that a changed key can be told as changed packages."""
    path = tree.with_suffix(".lock")
    with contextlib.suppress(
        OSError
    ):  # it explains and decides nothing: a read-only store serves its trees all the same
        if not path.exists():
            write_atomically(path, "".join(f"{p.line()}\n" for p in sorted(packages)).encode())


def is_intact(tree: Path, stamp: Path) -> bool:
    """Whether a tree is as it was made; one that cannot be read is not."""
    try:
        return tree.is_dir() and str(tree_digest(tree)) == stamp.read_text()
    except (OSError, ValueError, StoreError):
        return False
