"""The one module that writes tar archives: equal entries give equal bytes on any host.

Entries are sorted, owners are root by number only, modes and times are said and never inherited, and the format is
plain ustar (POSIX.1-1988), which has no header that a library might add on its own.
"""

import io
import os
import tarfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.errors import DefinitionError
from pipeline.model import RootedPath


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
    try:
        with _open(target) as tar:
            for name in sorted(members):
                _add(tar, name, members[name])
    except ValueError as error:  # a name, size or time that the format has no room for
        raise DefinitionError(f"archive entry does not fit into ustar: {error}") from error


def _open(target: Path | IO[bytes]) -> tarfile.TarFile:
    # Without its encoding said, tarfile takes the one of the locale.
    if isinstance(target, Path):
        return tarfile.open(target, "w", format=tarfile.USTAR_FORMAT, encoding="utf-8", errors="strict")
    return tarfile.open(None, "w|", target, format=tarfile.USTAR_FORMAT, encoding="utf-8", errors="strict")


def _add(tar: tarfile.TarFile, name: str, entry: Member) -> None:
    info = tarfile.TarInfo(name)
    info.mtime = entry.time
    if isinstance(entry, Folder):
        info.type, info.mode = tarfile.DIRTYPE, entry.mode
        tar.addfile(info)
        return
    if isinstance(entry, Link):
        info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, entry.to
        tar.addfile(info)
        return
    info.mode = entry.mode
    if isinstance(entry.content, bytes):
        info.size = len(entry.content)
        tar.addfile(info, io.BytesIO(entry.content))
        return
    made = nullcontext(entry.content) if isinstance(entry.content, Path) else entry.content()
    with made as path, path.open("rb") as file:
        info.size = os.fstat(file.fileno()).st_size
        tar.addfile(info, file)
