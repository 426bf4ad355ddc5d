"""Module caches that are filled from disk alone: what a source bundle is made from, and what it becomes.

A module is packed as the zip file that module proxies serve, uncompressed and with fixed times: equal modules give
equal bytes, which the zip of an origin does not promise (`h1` is over the files, not over the zip).
"""

import base64
import hashlib
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.lock import write_atomically
from pipeline.model import Module, escape_module
from pipeline.sources.go import GoSources, hash_tree
from pipeline.store import Store, remove_tree, store_error

ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""The first time that the format can say."""


class DiskGo(GoSources):
    """A module cache that asks a proxy on this disk, if one is named, and nobody else."""

    def __init__(self, store: Store, proxy: Path | None = None) -> None:
        super().__init__(store, offline=True)
        self.proxy = proxy

    def environment(self, **extra: str) -> dict[str, str]:
        """For `go` on the host. Sums are not asked for: each h1 is compared with the lock, each go.mod by go.sum."""
        return super().environment(**extra) | ({"GOPROXY": self.proxy.as_uri()} if self.proxy else {})

    def link(self, module: Module, tree: Path) -> None:
        """Have an extracted module by a link to it."""
        self._mark(module)
        place = self.store.gomod / module.directory
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(tree)

    def has(self, module: Module, *, archive: bool = False) -> bool:
        """Whether the module is in place and equal to its pin, with `archive` its zip file too; damage is removed."""
        if not self._present(module) or self.verify([module]):
            return False
        if archive and not self._download(module, "zip").is_file():
            return False
        self._mark(module)
        return True

    def adopt(self, module: Module, tree: Path, what: str, archive: Path | None = None) -> None:
        """Move an extracted module into the cache; raises SourceError, naming `what` brought it, if its h1 differs.

        With `archive` its zip file goes there as well, for another cache that asks this one.
        """
        if (found := hash_tree(tree, str(module))) != module.sum:
            raise SourceError(f"{what}: the lock says {module.sum}, found {found or 'another module'}")
        place = self.store.gomod / module.directory
        try:
            self._mark(module)
            if archive:
                archive.rename(self._download(module, "zip"))
            place.parent.mkdir(parents=True, exist_ok=True)
            remove_tree(place)
            tree.rename(place)
            self._download(module, "partial").unlink(missing_ok=True)
        except OSError as error:
            raise store_error(error, place) from error

    def _mark(self, module: Module) -> None:
        """Note the h1 beside the download, without which go takes a module for half extracted."""
        mark = self._download(module, "ziphash")
        if not mark.is_file() or mark.read_text() != module.sum:
            write_atomically(mark, module.sum.encode())


def hash_mod(data: bytes) -> str:
    """The `h1` of a go.mod file as go.sum has it."""
    line = f"{hashlib.sha256(data).hexdigest()}  go.mod\n"
    return "h1:" + base64.b64encode(hashlib.sha256(line.encode()).digest()).decode()


@dataclass
class GoSums:
    """What go.sum files say, by the names that proxies and caches give to files: `PATH/@v/VERSION.mod` and `.zip`."""

    mods: dict[str, str] = field(default_factory=dict)
    """To the h1 of the go.mod."""
    zips: dict[str, Module] = field(default_factory=dict)

    def add(self, go_sum: str) -> None:
        """Take in the text of one go.sum. Raises DefinitionError for a line that is no module's."""
        for line in go_sum.splitlines():
            path, version, total = (*line.split(), "", "", "")[:3]
            name = f"{escape_module(path)}/@v/{escape_module(version.removesuffix('/go.mod'))}"
            if version.endswith("/go.mod"):
                self.mods[f"{name}.mod"] = total
            elif total:
                self.zips[f"{name}.zip"] = Module(path, version, total)


def pack_module(module: Module, tree: Path, target: Path) -> None:
    """Write the zip file of an extracted module (https://go.dev/ref/mod#zip-files)."""
    names = sorted(
        os.path.relpath(os.path.join(folder, file), tree) for folder, _, files in os.walk(tree) for file in files
    )
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            info = zipfile.ZipInfo(f"{module}/{name}", ZIP_TIME)
            info.create_system, info.external_attr = 3, 0o644 << 16  # Unix, on any host
            archive.writestr(info, (tree / name).read_bytes())
