"""The one module that writes tar archives: equal entries give equal bytes on any host.

Entries are sorted, owners are root by number only, modes and times are said and never inherited, and the format is
plain ustar (POSIX.1-1988), which has no header that a library might add on its own.
"""

import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.errors import DefinitionError
from pipeline.model import CHUNK, RootedPath


@dataclass(frozen=True)
class Folder:
    """A directory whose mode matters; any other that a file needs is added with mode 755."""

    path: RootedPath
    mode: int
    """Permission bits and the sticky bit."""
    time: int


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    path: RootedPath
    to: str
    time: int


@dataclass(frozen=True)
class Entry:
    """One regular file of an archive; the directories above it are added."""

    path: RootedPath
    mode: int
    """Permission bits; set-id bits are refused."""
    time: int
    """Seconds since 1970."""
    content: Path | bytes | Callable[[], AbstractContextManager[Path]]
    """A callable makes the file when its turn comes: an archive of many large ones need not have all at once."""


Member = Entry | Folder | Link


def write_tar(target: Path | IO[bytes], entries: Iterable[Member], *, time: int, fold: bool = True) -> None:
    """Write `entries` to a file or stream; directories get mode 755 and `time`. Raises DefinitionError for a collision.

    With `fold`, two names that differ only in case are one. A file and a stream get the same bytes.
    """
    members: dict[str, Member] = {}
    for entry in entries:
        name = entry.path.relative
        allowed = 0o1777 if isinstance(entry, Folder) else 0o777
        if not name or (not isinstance(entry, Link) and entry.mode & ~allowed):
            raise DefinitionError(f"archive entry {name!r}: expected a named, plain file, folder or link")
        if members.setdefault(name, entry) is not entry:
            raise DefinitionError(f"archive entry {name} stands twice")
    for name in list(members):
        parts = name.split("/")
        for above in ("/".join(parts[:i]) for i in range(1, len(parts))):
            if not isinstance(members.setdefault(above, Folder(RootedPath(above), 0o755, time)), Folder):
                raise DefinitionError(f"archive entry {above} is a file and a directory")
    folded: dict[str, str] = {}
    for name in sorted(members):
        if fold and folded.setdefault(name.casefold(), name) != name:
            raise DefinitionError(f"archive entries {folded[name.casefold()]} and {name} differ only in case")
    with target.open("wb") if isinstance(target, Path) else nullcontext(target) as out:
        size = sum(_add(out, name, members[name]) for name in sorted(members)) + 2 * tarfile.BLOCKSIZE
        out.write(tarfile.NUL * (2 * tarfile.BLOCKSIZE + -size % tarfile.RECORDSIZE))


def _add(out: IO[bytes], name: str, entry: Member) -> int:
    """Write one member; returns the bytes that it takes."""
    info = tarfile.TarInfo(name)
    info.mtime = entry.time
    if isinstance(entry, Link | Folder):
        if isinstance(entry, Folder):
            info.type, info.mode = tarfile.DIRTYPE, entry.mode
        else:
            info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, entry.to
        out.write(_header(info))
        return tarfile.BLOCKSIZE
    info.mode = entry.mode
    with _opened(entry.content) as content:
        info.size = content.seek(0, os.SEEK_END)
        content.seek(0)
        out.write(_header(info))
        _copy(content, out, info.size)
    padding = -info.size % tarfile.BLOCKSIZE
    out.write(tarfile.NUL * padding)
    return tarfile.BLOCKSIZE + info.size + padding


def _header(info: tarfile.TarInfo) -> bytes:
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError as error:  # a name, size or time that the format has no room for
        raise DefinitionError(f"archive entry does not fit into ustar: {error}") from error


@contextmanager
def _opened(content: Path | bytes | Callable[[], AbstractContextManager[Path]]) -> Iterator[IO[bytes]]:
    if isinstance(content, bytes):
        yield io.BytesIO(content)
        return
    with nullcontext(content) if isinstance(content, Path) else content() as path, path.open("rb") as file:
        yield file


def _copy(content: IO[bytes], out: IO[bytes], size: int) -> None:
    """Copy `size` bytes: between files inside the kernel, which takes a tenth of the time. Raises OSError."""
    # A compressor has a descriptor too, that of the file behind it.
    if isinstance(out, io.BufferedWriter) and isinstance(content, io.BufferedReader):
        out.flush()
        done = 0
        while done < size and (sent := os.sendfile(out.fileno(), content.fileno(), done, size - done)):
            done += sent
        size -= done
    else:
        while size and (data := content.read(min(size, CHUNK))):
            out.write(data)
            size -= len(data)
    if size:
        raise OSError(f"a file became shorter by {size} bytes while it was packed")
