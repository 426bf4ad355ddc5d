"""Bytes of blobs on disk: read with their digest checked on the way, written only when it is right."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.errors import SourceError, StoreError
from pipeline.model import CHUNK, Digest
from pipeline.registry.meter import Track
from pipeline.registry.oci import Descriptor


def open_plain(path: Path) -> IO[bytes]:
    """Open a file of a foreign folder, which is neither a link nor a device that would never end.

    Raises SourceError; FileNotFoundError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SourceError(f"{path} cannot be read, or is a link: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SourceError(f"{path} is no plain file")
    return os.fdopen(descriptor, "rb")


class Content:
    """What a request sends of a blob: its bytes from `start`, again from there at every iteration.

    Iterating raises SourceError, before the end is reached, if the file is not what its descriptor says.
    """

    def __init__(self, path: Path, blob: Descriptor, start: int, track: Track) -> None:
        self._path, self._blob, self._start, self._track = path, blob, start, track

    def __len__(self) -> int:
        return self._blob.size - self._start

    def __iter__(self) -> Iterator[bytes]:
        hasher, offset = hashlib.sha256(), 0
        try:
            with open_plain(self._path) as file:
                while offset < self._blob.size:
                    until = self._blob.size if offset >= self._start else self._start
                    part = file.read(min(CHUNK, until - offset))
                    hasher.update(part)
                    offset += len(part)
                    ended = offset == self._blob.size
                    if not part or (ended and (file.read(1) or hasher.hexdigest() != self._blob.digest.hex)):
                        raise damaged(self._path, self._blob)
                    if offset > self._start:
                        yield part
                        self._track.at(offset)
        except OSError as error:  # the client must not take it for one of the connection
            raise SourceError(f"{self._path} cannot be read: {error.strerror}") from error


def damaged(path: Path, blob: Descriptor) -> SourceError:
    """The error about a file that has other bytes than its name says."""
    return SourceError(
        f"{path} does not hold {blob.digest} ({blob.size} bytes): it is damaged, or was changed",
        "make or copy the folder again",
    )


def write_checked(
    path: Path, blob: Descriptor, parts: Iterable[bytes], place: str, track: Track, start: int = 0
) -> None:
    """Write the parts of a blob as they come, from byte `start` on. Raises SourceError if there are too many."""
    with path.open("ab") as file:
        file.truncate(start)
        track.at(start)
        for part in parts:
            if file.tell() + len(part) > blob.size:
                raise SourceError(f"{place}: more than the {blob.size} bytes that its descriptor says")
            file.write(part)
            track.at(file.tell())


def same(path: Path, blob: Descriptor) -> bool:
    """Whether the file is there with a blob's bytes."""
    plain = path.is_file() and not path.is_symlink()
    return plain and path.stat().st_size == blob.size and Digest.of_file(path) == blob.digest


@contextmanager
def made_file(made: Callable[[], bytes], blob: Descriptor) -> Iterator[Path]:
    """Content that is made when it is needed, as a file for a while. Raises SourceError if it came out otherwise."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="rfo-signatures-")
    except OSError as error:
        raise StoreError(f"{tempfile.gettempdir()}: {error.strerror}", "name another folder: TMPDIR") from error
    with folder as name:
        path = Path(name) / "blob"
        path.write_bytes(made())
        if not same(path, blob):
            raise damaged(path, blob)
        yield path


class Memory:
    """Blobs that are held in memory, as a place to copy from."""

    def __init__(self, *contents: bytes) -> None:
        self._contents = {Digest.of_bytes(c): c for c in contents}

    @contextmanager
    def file(self, repository: str, blob: Descriptor) -> Iterator[Path]:
        """A blob as a file for a while."""
        del repository
        with made_file(lambda: self._contents[blob.digest], blob) as path:
            yield path

    def save(self, repository: str, blob: Descriptor, target: Path, track: Track) -> None:
        """Write a blob to a file."""
        del repository, track
        target.write_bytes(self._contents[blob.digest])
