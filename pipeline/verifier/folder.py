"""A release's folder as foreign input: plain files alone, read without following links, hashed on all cores."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from pipeline.verifier.encoding import Refused

PIECE = 1 << 20
"""Bytes per read: from there on `hashlib` is as fast as openssl."""
MAX_FILES = 100_000
MAX_LEVELS = 16
Hashed = Callable[[], "dict[str, str | Refused]"]
"""Waits for digests by path; what could not be read has the reason in place of one."""
Digester = Callable[[str], str]
"""The SHA-256 of what is at a path, in hexadecimal digits. Raises Refused."""


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
        if below.count("/") > MAX_LEVELS:
            raise Refused(below[:200], "is nested deeper than anything in a release")
        try:
            with os.scandir(self.root / below) as entries:
                found = sorted(entries, key=lambda e: e.name)
        except OSError as error:
            raise Refused(below or str(self.root), f"cannot be listed: {error.strerror}") from error
        for entry in found:
            path = below + entry.name
            if entry.is_dir(follow_symlinks=False):
                self._list(path + "/")
            elif entry.is_file(follow_symlinks=False):
                self.sizes[path] = entry.stat(follow_symlinks=False).st_size
            else:
                self.odd.append(Refused(path, "is a link or a special file; a release has plain files alone"))
            if len(self.sizes) + len(self.odd) > MAX_FILES:
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
        return digest_plain(self.root / path, path)

    def hashing(self, paths: Iterable[str]) -> Hashed:
        """Begin to hash files, on every core; the call that is returned waits for the digests."""
        return begin_hashing(self.digest, {path: self.sizes[path] for path in paths})


def digest_plain(path: Path, what: str) -> str:
    """SHA-256 of a plain file, in hexadecimal digits, in constant memory. Raises Refused, naming `what`."""
    total, buffer = hashlib.sha256(), bytearray(PIECE)
    with open_plain(path, what) as descriptor, open(descriptor, "rb", 0, closefd=False) as file:
        while count := file.readinto(buffer):
            total.update(memoryview(buffer)[:count])
    return total.hexdigest()


def begin_hashing(digest: Digester, sizes: Mapping[str, int]) -> Hashed:
    """Begin to hash files of so many bytes, on every core; the call that is returned waits for the digests.

    What cannot be read has the reason in its place.
    """
    shares = split_evenly(sizes, cores())
    if threading.active_count() == 1:
        workers = [Worker(digest, share) for share in shares]
        return lambda: {path: found for worker in workers for path, found in worker.digests().items()}
    from concurrent.futures import ThreadPoolExecutor  # late: it is slow to load

    pool = ThreadPoolExecutor(cores())  # a process with threads must not be forked
    running = [pool.submit(_digests, digest, share) for share in shares]
    pool.shutdown(wait=False)
    return lambda: {path: found for share in running for path, found in share.result().items()}


def _digests(digest: Digester, paths: Iterable[str]) -> dict[str, str | Refused]:
    found: dict[str, str | Refused] = {}
    for path in paths:
        try:
            found[path] = digest(path)
        except Refused as refused:
            found[path] = refused
    return found


class Worker:
    """A process of its own that hashes files, so that this one can judge meanwhile: in Python, threads take turns."""

    def __init__(self, digest: Digester, paths: list[str]) -> None:
        self.paths = paths
        self.output, end = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                os.close(self.output)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                found = _digests(digest, paths)
                plain = {p: f if isinstance(f, str) else [f.subject, f.reason] for p, f in found.items()}
                with os.fdopen(end, "w", encoding="utf-8", errors="surrogateescape") as file:
                    json.dump(plain, file)
            finally:
                os._exit(0)
        os.close(end)

    def digests(self) -> dict[str, str | Refused]:
        """What came of it, once it is done; files of which nothing came are refused."""
        with os.fdopen(self.output, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
        os.waitpid(self.process, 0)
        try:
            found = json.loads(text)
        except ValueError:  # it was killed
            found = {}
        failed = {path: Refused(path, "cannot be hashed") for path in self.paths}
        return {**failed, **{p: f if isinstance(f, str) else Refused(*f) for p, f in found.items()}}


def split_evenly(sizes: Mapping[str, int], parts: int) -> list[list[str]]:
    """Files in as many lists of about equal size: the largest first, each into the list that has least."""
    lists: list[list[str]] = [[] for _ in range(parts)]
    filled = [0] * parts
    for path in sorted(sizes, key=lambda p: -sizes[p]):
        least = filled.index(min(filled))
        lists[least].append(path)
        filled[least] += sizes[path]
    return [found for found in lists if found]


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
