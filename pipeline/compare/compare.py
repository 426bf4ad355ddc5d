"""The comparer: are two artifacts equal byte for byte, and if not, where do they part. Reads files; spools to a folder.

Whether artifacts are equal is decided by their bytes alone and takes one pass. Only unlike ones are looked into:
compressed streams are unpacked to temporary files, archives are matched member by member, down to a section, line or
value. All of that is bounded, and what cannot be looked into differs at an offset of its own bytes: unequal
artifacts always have a difference.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.compare.difference import MISSING, Difference, Differences
from pipeline.compare.span import Span, first_difference
from pipeline.errors import SourceError

LIMIT = 20
"""Differences of one artifact that are explained; the others are counted."""
MAX_FILES = 200_000
"""Files and folders below one that is compared."""


def compare(expected: Path, found: Path, artifact: str, *, work: Path | None = None) -> list[Difference]:
    """The differences of two regular files; an empty list if and only if their bytes are equal.

    `artifact` is what differences call the file. `work` is where content is unpacked, by default the system's folder
    for temporary files. Of many differences the first 20 are explained, and a last entry counts the others. Raises
    SourceError if one is no regular file or cannot be read.
    """
    with _opened(expected) as left, _opened(found) as right:
        offset = first_difference(left, right)
        if offset is None:
            return []
        from pipeline.compare.explainer import Explainer

        differences = Differences(artifact, LIMIT)
        Explainer(differences, work).explain((), left, right, offset)
        return differences.close()


def compare_folders(
    expected: Path, found: Path, *, ignore: frozenset[str] = frozenset(), work: Path | None = None
) -> list[Difference]:
    """The differences of all files of two folders, by relative path; also those that only one of them has.

    Paths in `ignore` and all below them are left out. Names and bytes count; modes, times and empty folders do not.
    Raises SourceError for a link, a device, or what cannot be read.
    """
    left, right = _files(expected, ignore), _files(found, ignore)
    differences = []
    for name in sorted(left | right):
        if name in left and name in right:
            differences += compare(expected / name, found / name, name, work=work)
        else:
            sizes = [f"{s[name]} bytes" if name in s else MISSING for s in (left, right)]
            differences.append(Difference(name, (), "", None, *sizes))
    return differences


@contextmanager
def _opened(path: Path) -> Iterator[Span]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f"{path} cannot be compared: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SourceError(f"{path} cannot be compared: expected a regular file")
        yield Span.of(descriptor)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _files(root: Path, ignore: frozenset[str]) -> dict[str, int]:
    """Relative path to size of every file below `root`."""
    found: dict[str, int] = {}
    pending = [""]
    try:
        while pending:
            folder = pending.pop()
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    name = f"{folder}{entry.name}"
                    if name in ignore:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{name}/")
                    elif entry.is_file(follow_symlinks=False):
                        found[name] = entry.stat(follow_symlinks=False).st_size
                    else:
                        raise SourceError(f"{root / name} cannot be compared: it is a link or a device")
                    if len(found) + len(pending) > MAX_FILES:
                        raise SourceError(f"{root} cannot be compared: it has more than {MAX_FILES} files")
    except OSError as error:
        raise SourceError(f"{error.filename or root} cannot be compared: {error.strerror}") from error
    return found
