"""Unpack cpio archives ("newc", the payload of RPM packages) as safely as `pipeline.extract` does tar. Writes files.

Format: https://man.freebsd.org/cgi/man.cgi?query=cpio&sektion=5, "New ASCII Format": a header of text, the name and
the content, each padded to 4 bytes. Of several hard links only the last carries the content (so does rpm).
"""

import io
import os
import shutil
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from pipeline.errors import SourceError
from pipeline.extract import (
    MAX_BYTES,
    MAX_MEMBERS,
    Readable,
    check_link,
    dropper,
    make_directory,
    resolve_inside,
    write_file,
)
from pipeline.model import CHUNK, RootedPath

MAGICS = (b"070701", b"070702")
"""Without and with a checksum, which is not looked at: the payload's SHA-256 was checked."""
TRAILER = "TRAILER!!!"
MAX_NAME = 4096
"""Bytes of a name or link target: Linux's own limit for paths."""
MAX_COMPONENT = 255
"""Bytes of one component of a path, the limit of every file system that Linux builds on."""


def extract_cpio(
    stream: Readable, root: Path, *, what: str, drop: Iterable[str] = (), max_bytes: int = MAX_BYTES
) -> int:
    """Unpack an uncompressed cpio `stream` below `root`; returns the bytes written.

    Modes are kept (set-id and sticky bits are dropped), owners and times are not, and the umask has no say. `drop`
    are the patterns of `pipeline.extract.dropper`. Raises SourceError for what leaves `root`, devices, names that
    stand twice, an archive that is cut off, and more than `max_bytes` of content.
    """
    unpacker = _Unpacker(_Exact(stream, what), root, what, max_bytes)
    left_out = dropper(drop)
    while (member := unpacker.next()) is not None:
        unpacker.handle(member, kept=not left_out(member.name.relative))
    unpacker.finish()
    return unpacker.written


@dataclass(frozen=True)
class _Member:
    name: RootedPath
    mode: int
    size: int
    inode: tuple[int, int, int]
    """(device major, minor, inode): equal for hard links of one file."""
    links: int


class _Exact:
    """Reads of an exact size, so that a cut-off archive is noticed; counts for the padding."""

    def __init__(self, stream: Readable, what: str) -> None:
        self._stream, self._what, self.position = stream, what, 0

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._stream.read(size - len(data))
            if not part:
                raise SourceError(f"{self._what}: the cpio archive ends too early")
            data = data + part if data else part
        self.position += size
        return data

    def align(self) -> None:
        self.read(-self.position % 4)

    def drain(self) -> None:
        """After the trailer nothing but zeros may follow."""
        while data := self._stream.read(CHUNK):
            if data.strip(b"\0"):
                raise SourceError(f"{self._what}: data follows the cpio archive")


class _Content:
    """The content of one member, as a file that is read once."""

    def __init__(self, source: _Exact, size: int) -> None:
        self._source, self._left = source, size

    def read(self, size: int = -1) -> bytes:
        size = self._left if size < 0 else min(size, self._left)
        self._left -= size
        return self._source.read(size)


class _Unpacker:
    """Writes the members of one archive, and remembers what it wrote."""

    def __init__(self, source: _Exact, root: Path, what: str, max_bytes: int) -> None:
        self._source, self._root, self._what, self._max = source, root, what, max_bytes
        self.written = 0
        self._count = 0
        self._names: set[str] = set()
        self._seen: set[Path] = set()
        self._directories: dict[Path, int] = {}
        self._waiting: dict[tuple[int, int, int], list[_Member]] = {}
        """Hard links whose content has not come yet."""
        self._linked: dict[tuple[int, int, int], Path] = {}
        """Hard links whose content has come."""

    def next(self) -> _Member | None:
        """The next member's header; None at the end."""
        header = self._source.read(110)
        if header[:6] not in MAGICS:
            more = " (packages with files over 4 GiB are not supported)" if header[:6] == b"07070X" else ""
            raise SourceError(f"{self._what}: not a cpio archive of the new ASCII format{more}")
        try:
            fields = struct.unpack(">13I", bytes.fromhex(header[6:].decode("ascii")))
        except (ValueError, struct.error) as error:
            raise SourceError(f"{self._what}: malformed cpio header ({error})") from error
        inode, mode, _, _, links, _, size, major, minor, _, _, length, _ = fields
        if not 1 < length <= MAX_NAME:
            raise SourceError(f"{self._what}: a member's name has {length} bytes; expected 2 to {MAX_NAME}")
        raw = self._source.read(length)
        self._source.align()
        name = os.fsdecode(raw[:-1])
        if name == TRAILER:
            self._source.drain()
            return None
        self._count += 1
        if raw[-1:] != b"\0" or self._count > MAX_MEMBERS:
            raise SourceError(f"{self._what}: a name without end, or more than {MAX_MEMBERS} members")
        try:
            path = RootedPath.parse(name)
        except SourceError as error:
            raise SourceError(f"{self._what}: {error.reason}") from error
        if any(len(os.fsencode(part)) > MAX_COMPONENT for part in path.relative.split("/")):
            raise SourceError(f"{self._what}: a file name of more than {MAX_COMPONENT} bytes")
        if path.relative in self._names:
            raise SourceError(f"{self._what}: {path} is in the archive twice")
        self._names.add(path.relative)
        return _Member(path, mode, size, (major, minor, inode), links)

    def handle(self, member: _Member, *, kept: bool) -> None:
        """Write one member, or pass over its content."""
        kind = stat.S_IFMT(member.mode)
        if kind == stat.S_IFREG:
            self._regular(member, kept=kept)
        elif not kept:
            self._skip(member)
        elif kind == stat.S_IFDIR:
            self._skip(member)
            if member.name.relative:
                target = resolve_inside(self._root, member.name, self._what, last=True)
                make_directory(target, self._what, member.name)
                self._directories[target] = member.mode & 0o777 | 0o700
        elif kind == stat.S_IFLNK and 0 < member.size <= MAX_NAME:
            link = os.fsdecode(self._source.read(member.size))
            if "\0" in link:
                raise SourceError(f"{self._what}: the link {member.name} holds a zero byte")
            check_link(member.name, link, self._what)
            target = self._place(member)
            target.unlink(missing_ok=True)
            target.symlink_to(link)
        else:
            raise SourceError(f"{self._what}: {member.name} is a device, pipe or unknown member")
        self._source.align()

    def finish(self) -> None:
        """Write the hard links that never got content (empty files), then the directories' modes."""
        for members in self._waiting.values():
            self._write(members, io.BytesIO())
        for path, mode in self._directories.items():
            path.chmod(mode)

    def _regular(self, member: _Member, *, kept: bool) -> None:
        self.written += member.size
        if self.written > self._max:
            raise SourceError(f"{self._what}: unpacks to more than {self._max} bytes (decompression bomb?)")
        names = [member] if kept else []
        if member.links > 1:
            if (first := self._linked.get(member.inode)) is not None:
                if member.size:
                    raise SourceError(f"{self._what}: the hard link {member.name} has its content twice")
                for later in names:
                    self._link(later, first)
                return
            if not member.size:
                self._waiting.setdefault(member.inode, []).extend(names)
                return
            names = [*self._waiting.pop(member.inode, []), *names]
        if not names:
            self._skip(member)
            return
        place = self._write(names, cast(IO[bytes], _Content(self._source, member.size)))
        if member.links > 1:
            self._linked[member.inode] = place

    def _write(self, members: list[_Member], content: IO[bytes]) -> Path:
        first, *others = members
        target = self._place(first)
        write_file(target, content, first.mode & 0o777)
        for other in others:
            self._link(other, target)
        return target

    def _link(self, member: _Member, source: Path) -> None:
        target = self._place(member)
        target.unlink(missing_ok=True)
        target.hardlink_to(source)

    def _place(self, member: _Member) -> Path:
        """Where a member goes; it may not be a place that this archive has written already, by a link for instance."""
        target = resolve_inside(self._root, member.name, self._what)
        if target in self._seen:
            raise SourceError(f"{self._what}: {member.name} is in the archive twice")
        if target.is_dir() and not target.is_symlink():
            raise SourceError(f"{self._what}: {member.name} is a directory and something else")
        self._seen.add(target)
        return target

    def _skip(self, member: _Member) -> None:
        shutil.copyfileobj(_Content(self._source, member.size), _Nowhere(), CHUNK)


class _Nowhere:
    def write(self, data: bytes, /) -> int:
        return len(data)
