"""Read a source bundle as a stream: strictly what `pack.tar` and `pack.zstd` write, and nothing else."""

import hashlib
import tarfile
from collections.abc import Iterator
from typing import IO

from pipeline.base.archives import Decompressed, open_zstd
from pipeline.errors import SourceError
from pipeline.extract import Readable
from pipeline.model import CHUNK, Digest

MAX_BYTES = 64 << 30
"""Of a whole archive, unpacked; a reader refuses much less, by the list of members."""
_ENDING = tarfile.RECORDSIZE
"""Bytes of zeros that may stand at the end: archives are filled up to a record."""


class Content:
    """The bytes of one member, hashed while they are read."""

    def __init__(self, stream: Readable, size: int, what: str) -> None:
        self._stream, self._what, self._left, self._padding = stream, what, size, -size % tarfile.BLOCKSIZE
        self._total = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; nothing at the end. Raises SourceError if the archive ends first."""
        data = self._stream.read(min(size, self._left)) if self._left else b""
        if self._left and not data:
            raise SourceError(f"{self._what}: the archive ends too early")
        self._left -= len(data)
        self._total.update(data)
        return data

    def finish(self) -> Digest:
        """Read what is left, and say what all of it was."""
        while self.read(CHUNK):
            pass
        if self._padding:
            _exactly(self._stream, self._padding, self._what)
            self._padding = 0
        return Digest(self._total.hexdigest())

    def copy(self, target: IO[bytes]) -> Digest:
        """Write all of it to `target`."""
        while data := self.read(CHUNK):
            target.write(data)
        return self.finish()


def read_ustar(file: IO[bytes], what: str) -> Iterator[tuple[str, int, Content | None]]:
    """Name, size and content of each member of the archive open in `file`; directories have no content.

    A content is read before the next member is asked for, or skipped. Raises SourceError for what is not such an
    archive: links, devices, extended headers, damage, and bytes after its end.
    """
    stream = Decompressed(file, open_zstd(), what, MAX_BYTES)
    while any(block := _exactly(stream, tarfile.BLOCKSIZE, what)):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise SourceError(f"{what}: damaged archive header ({error})") from error
        if info.size < 0 or info.type not in (tarfile.REGTYPE, tarfile.DIRTYPE) or (info.isdir() and info.size):
            raise SourceError(f"{what}: member {info.name[:200]!r} is neither a file nor a folder")
        content = Content(stream, info.size, what)
        yield info.name, info.size, content if info.isreg() else None
        content.finish()
    ending = b""
    while data := stream.read(CHUNK):
        ending += data
        if len(ending) > _ENDING or any(data):
            raise SourceError(f"{what}: data follows the end of the archive")


def _exactly(stream: Readable, size: int, what: str) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.read(size - len(data))
        if not piece:
            raise SourceError(f"{what}: the archive ends too early")
        data += piece
    return data
