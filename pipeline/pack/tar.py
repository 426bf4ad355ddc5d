"""The one module that writes tar archives: equal entries give equal bytes on any host.

Entries are sorted, owners are root by number only, modes and times are said and never inherited, and the format is
plain ustar (POSIX.1-1988), which has no header that a library might add on its own.
"""

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

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
    content: Path | bytes


def write_tar(target: Path, entries: Iterable[Entry], *, time: int) -> None:
    """Write `entries` to `target`; directories get mode 755 and `time`. Raises DefinitionError for a collision."""
    files = {e.path.relative: e for e in entries}
    files_given = sorted(files)
    folded: dict[str, str] = {}
    directories: set[str] = set()
    for name in files_given:
        if folded.setdefault(name.casefold(), name) != name:
            raise DefinitionError(f"archive entries {folded[name.casefold()]} and {name} differ only in case")
        parts = name.split("/")
        directories |= {"/".join(parts[:i]) for i in range(1, len(parts))}
    if both := sorted(directories & set(files)):
        raise DefinitionError(f"archive entry {both[0]} is a file and a directory")
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted([*directories, *files]):
            entry = files.get(name)
            info = tarfile.TarInfo(name)
            if entry is None:
                info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, time
                tar.addfile(info)
                continue
            if entry.mode & ~0o777:
                raise DefinitionError(f"archive entry {name} has mode {entry.mode:o}")
            info.mode, info.mtime = entry.mode, entry.time
            if isinstance(entry.content, bytes):
                info.size = len(entry.content)
                tar.addfile(info, io.BytesIO(entry.content))
            else:
                info.size = entry.content.stat().st_size
                with entry.content.open("rb") as file:
                    tar.addfile(info, file)
