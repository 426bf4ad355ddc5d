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
class Entry:
    """One regular file of an archive; the directories above it are added."""

    path: RootedPath
    mode: int
    """Permission bits; set-id bits are refused."""
    time: int
    """Seconds since 1970."""
    content: Path | bytes | Callable[[], AbstractContextManager[Path]]
    """A callable makes the file when its turn comes: an archive of many large ones need not have all at once."""


def write_tar(target: Path | IO[bytes], entries: Iterable[Entry], *, time: int) -> None:
    """Write `entries` to a file or stream; directories get mode 755 and `time`. Raises DefinitionError for a collision.

    A file and a stream get the same bytes.
    """
    files: dict[str, Entry] = {}
    directories: set[str] = set()
    for entry in entries:
        name = entry.path.relative
        if not name or entry.mode & ~0o777:
            raise DefinitionError(f"archive entry {name!r} with mode {entry.mode:o}: expected a named, plain file")
        if files.setdefault(name, entry) is not entry:
            raise DefinitionError(f"archive entry {name} stands twice")
        parts = name.split("/")
        directories |= {"/".join(parts[:i]) for i in range(1, len(parts))}
    if both := sorted(directories & set(files)):
        raise DefinitionError(f"archive entry {both[0]} is a file and a directory")
    names = sorted([*directories, *files])
    folded: dict[str, str] = {}
    for name in names:
        if folded.setdefault(name.casefold(), name) != name:
            raise DefinitionError(f"archive entries {folded[name.casefold()]} and {name} differ only in case")
    try:
        with _open(target) as tar:
            for name in names:
                _add(tar, name, files.get(name), time)
    except ValueError as error:  # a name, size or time that the format has no room for
        raise DefinitionError(f"archive entry does not fit into ustar: {error}") from error


def _open(target: Path | IO[bytes]) -> tarfile.TarFile:
    # Without its encoding said, tarfile takes the one of the locale.
    if isinstance(target, Path):
        return tarfile.open(target, "w", format=tarfile.USTAR_FORMAT, encoding="utf-8", errors="strict")
    return tarfile.open(None, "w|", target, format=tarfile.USTAR_FORMAT, encoding="utf-8", errors="strict")


def _add(tar: tarfile.TarFile, name: str, entry: Entry | None, time: int) -> None:
    info = tarfile.TarInfo(name)
    if entry is None:
        info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, time
        tar.addfile(info)
        return
    info.mode, info.mtime = entry.mode, entry.time
    if isinstance(entry.content, bytes):
        info.size = len(entry.content)
        tar.addfile(info, io.BytesIO(entry.content))
        return
    made = nullcontext(entry.content) if isinstance(entry.content, Path) else entry.content()
    with made as path, path.open("rb") as file:
        info.size = os.fstat(file.fileno()).st_size
        tar.addfile(info, file)
