"""What a store holds, thing by thing, with its size on disk and when it was last used. Reads names and sizes only."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.store import Record, Store, read_record

BLOCK = 512
"""Bytes of a block as `st_blocks` counts them, whatever the file system's own are (POSIX)."""
MAX_RECORD = 64 << 20
"""Bytes of a record that is read."""
KINDS = {
    "blobs": "blobs",
    "records": "records",
    "history": "records",
    "trees": "trees",
    "gomod": "modules",
    "gocache": "gocache",
    "given": "given",
    "logs": "logs",
    "runs": "logs",
    "tmp": "tmp",
    "locks": "locks",
    "locks-of-bases": "locks of bases",
}
"""Folders of a store and what they hold; everything else is `other` and is left alone."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something in a store that can go as a whole: a file, or a folder with all that is in it."""

    kind: str
    name: str
    """Its path below the store's folder."""
    type: str
    """`file`, `folder`, `link` or `special`."""
    size: int
    """Bytes on disk, as blocks that are taken; of hard links one counts."""
    length: int
    """Bytes that reading it takes."""
    files: int
    used: float
    """The newest modification in it, seconds since 1970: records, stamps of roots and entries of compile caches note
    their use so; files of a root have one fixed time.
    """


@dataclass
class Total:
    """All items of one kind."""

    kind: str
    size: int = 0
    files: int = 0
    oldest: float | None = None
    """When the one that was not used for longest was used, seconds since 1970."""
    newest: float | None = None

    def add(self, item: Item) -> None:
        """Count one more."""
        self.size += item.size
        self.files += item.files
        if item.kind != "trees" or item.type == "file":
            self.oldest = min(item.used, self.oldest or item.used)
            self.newest = max(item.used, self.newest or item.used)


def take_inventory(store: Store) -> list[Item]:
    """Everything below the store's folder. What vanishes meanwhile, or may not be read, is not counted."""
    return list(_Inventory(str(store.root)).items())


def record_of(store: Store, item: Item) -> Record | None:
    """The record that an item is; None if it is damaged, or no plain file of a record's size."""
    return read_record(store.root / item.name) if item.type == "file" and item.length <= MAX_RECORD else None


def totals(items: list[Item]) -> list[Total]:
    """The items of each kind together, compile caches one by one; the largest first."""
    found: dict[str, Total] = {}
    for item in items:
        kind = "/".join(item.name.split("/")[:2]) if item.kind == "gocache" else item.kind
        found.setdefault(kind, Total(kind)).add(item)
    return sorted(found.values(), key=lambda t: (-t.size, t.kind))


def _is_opened(name: str) -> bool:
    """Whether the folder called `name` is a part of the store's own layout, and no item."""
    top, *below = name.split("/")
    if top == "gomod":
        if below[:2] == ["cache", "download"]:
            return True
        return below[:2] != ["cache", "vcs"] and not any("@" in part for part in below)
    # blobs/sha256/ab/HEX, gocache/KEY/ab/ENTRY; a folder of the others holds items
    return len(below) < {"blobs": 3, "gocache": 3}.get(top, 1)


@dataclass
class _Inventory:
    root: str
    seen: set[tuple[int, int]] = field(default_factory=set)
    """Device and inode of files with several names."""

    def items(self) -> Iterator[Item]:
        for entry in _entries(self.root):
            kind = KINDS.get(entry.name, "other")
            yield from self._below(entry, kind, _is_opened if kind != "other" else lambda _: False)

    def _below(self, entry: "os.DirEntry[str]", kind: str, opens: Callable[[str], bool]) -> Iterator[Item]:
        """The item that an entry is, or those in it."""
        name = entry.path[len(self.root) + 1 :]
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            return
        if stat.S_ISDIR(status.st_mode) and opens(name):
            for inner in _entries(entry.path):
                yield from self._below(inner, kind, opens)
        else:
            yield self._item(entry.path, name, kind, status)

    def _item(self, path: str, name: str, kind: str, status: os.stat_result) -> Item:
        mode = status.st_mode
        if not stat.S_ISDIR(mode):
            form = "file" if stat.S_ISREG(mode) else "link" if stat.S_ISLNK(mode) else "special"
            return Item(kind, name, form, self._blocks(status) * BLOCK, status.st_size, 1, status.st_mtime)
        blocks, length, files, used = status.st_blocks, 0, 0, status.st_mtime
        folders = [path]
        while folders:
            for entry in _entries(folders.pop()):
                with contextlib.suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        blocks += found.st_blocks
                        folders.append(entry.path)
                    else:
                        blocks += self._blocks(found)
                        length += found.st_size
                        files += 1
                        used = max(used, found.st_mtime)
        return Item(kind, name, "folder", blocks * BLOCK, length, files, used)

    def _blocks(self, status: os.stat_result) -> int:
        if status.st_nlink > 1:
            if (status.st_dev, status.st_ino) in self.seen:
                return 0
            self.seen.add((status.st_dev, status.st_ino))
        return status.st_blocks


def _entries(folder: str) -> Iterator["os.DirEntry[str]"]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        yield from entries
