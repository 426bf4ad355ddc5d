"""A release's folder as foreign input: plain files alone, read without following links, hashed on all cores."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.verifier.encoding import Refused

PIECE = 1 << 20
"""Bytes per read: from there on `hashlib` is as fast as openssl."""
MAX_FILES = 100_000


class Missing(Refused):
    """A file that has to be there and is not: the caller may get it, and ask again."""

    def __init__(self, path: str, limit: int) -> None:
        super().__init__(path, "is missing")
        self.limit = limit
        """Bytes that the file may have."""


class Folder:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        """List the files; raises Refused if the folder cannot be read."""
        self.root = root
        self.sizes: dict[str, int] = {}
        """Bytes by path below the folder."""
        self.odd: list[Refused] = []
        """Links, devices and other things that no release has."""
        if not root.is_dir():
            raise Refused(str(root), "is no folder")
        self._list("")

    def _list(self, below: str) -> None:
        with os.scandir(self.root / below) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                path = below + entry.name
                if entry.is_dir(follow_symlinks=False):
                    self._list(path + "/")
                elif entry.is_file(follow_symlinks=False):
                    self.sizes[path] = entry.stat(follow_symlinks=False).st_size
                else:
                    self.odd.append(Refused(path, "is a link or a special file; a release has plain files alone"))
                if len(self.sizes) > MAX_FILES:
                    raise Refused(str(self.root), "holds too many files", f"at most {MAX_FILES}")

    def read(self, path: str, limit: int) -> bytes:
        """A file's content. Raises Missing, or Refused for more than `limit` bytes."""
        if path not in self.sizes:
            raise Missing(path, limit)
        with open_plain(self.root / path, path) as descriptor:
            data = bytearray()
            while len(data) <= limit and (piece := os.read(descriptor, PIECE)):
                data += piece
        if len(data) > limit:
            raise Refused(path, "is too large", f"at most {limit} bytes")
        return bytes(data)

    def read_named(self, path: str, limit: int, sha256: str) -> bytes:
        """A file's content, if it is the one that a signed statement names; raises Refused else."""
        data = self.read(path, limit)
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise other_content(path, sha256, found)
        return data

    def digest(self, path: str) -> str:
        """A file's SHA-256, in hexadecimal digits, in constant memory. Raises Refused."""
        total, buffer = hashlib.sha256(), bytearray(PIECE)
        with open_plain(self.root / path, path) as descriptor, open(descriptor, "rb", 0, closefd=False) as file:
            while count := file.readinto(buffer):
                total.update(memoryview(buffer)[:count])
        return total.hexdigest()

    def digests(self, paths: Iterable[str]) -> dict[str, str | Refused]:
        """Those of many files, the largest first, one thread per core; what cannot be read has its reason instead."""

        def one(path: str) -> str | Refused:
            try:
                return self.digest(path)
            except Refused as refused:
                return refused

        ordered = sorted(paths, key=lambda p: -self.sizes[p])
        with ThreadPoolExecutor(cores()) as pool:
            running = {path: pool.submit(one, path) for path in ordered}
            return {path: future.result() for path, future in running.items()}


def other_content(path: str, expected: str, found: str) -> Refused:
    """The refusal of a file with other bytes than are named."""
    return Refused(path, "was changed after it was signed, or is damaged", f"sha256:{expected}", f"sha256:{found}")


@contextlib.contextmanager
def open_plain(path: Path, what: str) -> Iterator[int]:
    """A descriptor of a plain file that no link leads to. Raises Refused, naming `what`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(what, f"cannot be opened: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refused(what, "is no plain file")
        yield descriptor
    except OSError as error:
        raise Refused(what, f"cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def cores() -> int:
    """How many this process may use."""
    return max(1, len(os.sched_getaffinity(0)))
