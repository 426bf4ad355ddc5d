"""Unpack foreign archives safely: bounded size, no escape from the root, no devices, no surprises.

Used for Debian packages, RPM payloads, root file systems and source archives. Nothing outside `root` is ever
written, whatever the archive says: names are checked as text, and the directories on the way to each member are
checked on disk not to be links that lead elsewhere.
"""

import errno
import os
import re
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import IO, Protocol, Self, cast

from pipeline.errors import SourceError, StoreError
from pipeline.model import CHUNK, RootedPath

MAX_BYTES = 4 << 30
"""Total unpacked size of one archive: a bomb is refused before it fills a disk."""
MAX_MEMBERS = 300_000
MAX_HEADER = 1 << 20
"""Bytes of one extended header (long name, pax): tarfile reads it into memory as a whole."""
MAX_LINKS = 40
"""Links followed on the way to one path, as in Linux."""
EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
"""Members that only say more about the next one."""
READ = 1 << 16
"""Bytes per read of the tar stream: tarfile copies the rest of its buffer for every header."""


class Readable(Protocol):
    """What is asked of an archive: to be read once, from start to end."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; nothing at the end."""


def extract_tar(
    stream: Readable, root: Path, *, what: str, drop: Iterable[str] = (), max_bytes: int = MAX_BYTES
) -> int:
    """Unpack an uncompressed tar `stream` below `root`; returns the bytes written.

    Modes are kept (set-id and sticky bits are dropped), owners and times are not, and the umask has no say. A member
    path that passes through a directory link is followed only if the link stays inside the root (merged /usr in
    distributions). A file that stood at `root` before is replaced; one that the archive names twice is an error.
    `drop` are the patterns of `dropper`. `what` names the archive in errors. Raises SourceError for
    what is wrong with the archive, StoreError if `root` cannot be written.
    """
    dropped = dropper(drop)
    written = 0
    try:
        bounded = cast(IO[bytes], _Bounded(stream, 2 * max_bytes, what))  # a stream is only read
        with tarfile.open(fileobj=bounded, mode="r|", errorlevel=2, bufsize=READ, tarinfo=_BoundedInfo) as tar:
            unpacker = _Unpacker(tar, root, what)
            for count, member in enumerate(tar):
                if count >= MAX_MEMBERS:
                    raise SourceError(f"{what}: more than {MAX_MEMBERS} members")
                name = _member_name(member.name, what)
                if not name.relative or dropped(name.relative):
                    continue
                written += max(member.size, 0) if member.isreg() else 0
                if written > max_bytes:
                    raise SourceError(f"{what}: unpacks to more than {max_bytes} bytes (decompression bomb?)")
                unpacker.write(member, name)
            unpacker.finish()
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise SourceError(f"{what}: not a readable tar archive ({error})") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            raise SourceError(f"{what}: a name that cannot be written ({error})") from error
        raise StoreError(f"{what} cannot be unpacked to {root}: {error}") from error
    return written


def dropper(patterns: Iterable[str]) -> Callable[[str], bool]:
    """A predicate that tells whether a relative path is left out.

    A pattern names a file or a whole directory; `*` stands for any text inside one component. The last pattern that
    matches decides, and one that starts with `!` keeps what an earlier one dropped (as in a .gitignore).
    """
    return _dropper(tuple(patterns))


@lru_cache(maxsize=64)
def _dropper(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    if not patterns:
        return lambda _: False
    rules = []
    for pattern in patterns:
        text = re.escape(pattern.removeprefix("!").rstrip("/")).replace(r"\*", "[^/]*")
        rules.append((re.compile(f"{text}(/|$)"), not pattern.startswith("!")))
    rules.reverse()

    def left_out(path: str) -> bool:
        return next((drop for rule, drop in rules if rule.match(path)), False)

    return left_out


class _BoundedInfo(tarfile.TarInfo):
    """A header whose extensions cannot exhaust memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in EXTENSIONS and info.size > MAX_HEADER):
            raise tarfile.ReadError("a header of unreasonable size")
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("sparse files are not expected here")
        return info


class _Bounded:
    """A stream that ends with an error after `limit` bytes, or when its reader does not notice the end.

    The second guards against loops in tarfile, which reads on for pax sparse maps that never end.
    """

    def __init__(self, stream: Readable, limit: int, what: str) -> None:
        self._stream, self._left, self._what, self._ends = stream, limit, what, 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        self._ends += not data
        if self._left < 0 or self._ends > 100:
            raise SourceError(f"{self._what}: the tar stream does not end (decompression bomb?)")
        return data


def _member_name(name: str, what: str) -> RootedPath:
    try:
        return RootedPath.parse(name)
    except SourceError as error:
        raise SourceError(f"{what}: {error.reason}") from error


class _Unpacker:
    """Writes the members of one archive, and remembers what it wrote."""

    def __init__(self, tar: tarfile.TarFile, root: Path, what: str) -> None:
        self._tar, self._root, self._what = tar, root, what
        self._seen: set[Path] = set()
        self._directories: dict[Path, int] = {}

    def write(self, member: tarfile.TarInfo, name: RootedPath) -> None:
        what = self._what
        if member.isdir():
            target = resolve_inside(self._root, name, what, last=True)
            make_directory(target, what, name)
            self._directories[target] = (member.mode & 0o777) | 0o700
            return
        target = resolve_inside(self._root, name, what)
        if target in self._seen:
            raise SourceError(f"{what}: {name} is in the archive twice")
        if target.is_dir() and not target.is_symlink():
            raise SourceError(f"{what}: {name} is a directory and something else")
        if member.issym():
            check_link(name, member.linkname, what)
            target.unlink(missing_ok=True)
            target.symlink_to(member.linkname)
        elif member.islnk():
            source = resolve_inside(self._root, _member_name(member.linkname, what), what)
            if source not in self._seen or source.is_symlink():
                raise SourceError(f"{what}: {name} is a hard link to {member.linkname}, no earlier file of the archive")
            target.unlink(missing_ok=True)
            target.hardlink_to(source)
        elif member.isreg() and not member.sparse and (content := self._tar.extractfile(member)) is not None:
            write_file(target, content, member.mode & 0o777)
        else:
            raise SourceError(f"{what}: {name} is a device, pipe or unknown member")
        self._seen.add(target)

    def finish(self) -> None:
        """Directories get their modes last: one may forbid to write into it."""
        for path, mode in self._directories.items():
            path.chmod(mode)


def write_file(target: Path, content: IO[bytes], mode: int) -> None:
    """Write a new file in place of whatever stands at `target`; never writes through a link."""
    target.unlink(missing_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(content, file, CHUNK)
        os.fchmod(file.fileno(), mode)


def make_directory(target: Path, what: str, name: RootedPath) -> None:
    """Make the directory `target` (a place that `resolve_inside` returned) unless it stands there, mode 0755."""
    try:
        if not stat.S_ISDIR(target.lstat().st_mode):
            raise SourceError(f"{what}: {name} is a directory and something else")
    except FileNotFoundError:
        target.mkdir()
        target.chmod(0o755)  # mkdir's own mode would be cut by the umask


def check_link(name: RootedPath, link: str, what: str) -> None:
    """Refuse a symbolic link that would lead outside the root; an absolute one means the root itself."""
    parts = [] if link.startswith("/") else [p for p in name.parent.relative.split("/") if p]
    for part in link.split("/"):
        if part == "..":
            if not parts:
                raise SourceError(f"{what}: link {name} -> {link} leaves the root")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)


def resolve_inside(root: Path, name: RootedPath, what: str, *, last: bool = False) -> Path:
    """The place of `name` on disk, its parents made (mode 0755), directory links followed inside the root only.

    An absolute link target is taken as starting at `root`, as it would inside a container. With `last`, `name`
    itself is followed too if it is a link. Raises SourceError for what leaves the root or lies below a file.
    """
    current: list[str] = []
    pending = [p for p in name.relative.split("/") if p][::-1]
    hops = 0
    while pending:
        part = pending.pop()
        if part == "..":
            if not current:
                raise SourceError(f"{what}: {name} leaves the root through a link")
            current.pop()
            continue
        path = root.joinpath(*current, part)
        if not pending and not last:
            return path
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            if pending:
                path.mkdir()
                path.chmod(0o755)
            current.append(part)
            continue
        if stat.S_ISLNK(mode):
            hops += 1
            if hops > MAX_LINKS:
                raise SourceError(f"{what}: too many links on the way to {name}")
            link = os.readlink(path)
            if link.startswith("/"):
                current = []
            pending.extend([p for p in link.split("/") if p not in ("", ".")][::-1])
        elif stat.S_ISDIR(mode) or not pending:
            current.append(part)
        else:
            raise SourceError(f"{what}: {name} lies below a file")
    return root.joinpath(*current)
