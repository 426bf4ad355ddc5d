"""Unpack foreign archives safely: bounded size, no escape from the root, no devices, no surprises.

Used for Debian packages, RPM payloads, root file systems and source archives. Nothing outside `root` is ever
written, whatever the archive says: names are checked as text, and the directories on the way to each member are
checked on disk not to be links that lead elsewhere.
"""

import os
import shutil
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from pipeline.errors import SourceError
from pipeline.model import CHUNK, RootedPath

MAX_BYTES = 4 << 30
"""Total unpacked size of one archive: a bomb is refused before it fills a disk."""
MAX_MEMBERS = 300_000


def extract_tar(
    stream: IO[bytes], root: Path, *, what: str, drop: Iterable[str] = (), max_bytes: int = MAX_BYTES
) -> int:
    """Unpack an uncompressed tar `stream` below `root`; returns the bytes written.

    Modes are kept (set-id bits are dropped), owners and times are not. A member path that passes through a
    directory link is followed only if the link stays inside the root (merged /usr in distributions).
    `drop` lists path prefixes that are left out. `what` names the archive in errors. Raises SourceError.
    """
    dropped = tuple(p.rstrip("/") + "/" for p in drop)
    written = 0
    directories: list[tuple[Path, int]] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|", errorlevel=2) as tar:
            for count, member in enumerate(tar):
                if count >= MAX_MEMBERS:
                    raise SourceError(f"{what}: more than {MAX_MEMBERS} members")
                name = _member_name(member.name, what)
                if f"{name.relative}/".startswith(dropped) and dropped:
                    continue
                written += member.size if member.isreg() else 0
                if written > max_bytes:
                    raise SourceError(f"{what}: unpacks to more than {max_bytes} bytes (decompression bomb?)")
                _write_member(tar, member, name, root, what, directories)
    except (tarfile.TarError, EOFError) as error:
        raise SourceError(f"{what}: not a readable tar archive ({error})") from error
    for path, mode in reversed(directories):
        path.chmod(mode)
    return written


def _member_name(name: str, what: str) -> RootedPath:
    try:
        return RootedPath.parse(name)
    except SourceError as error:
        raise SourceError(f"{what}: {error.reason}") from error


def _write_member(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    name: RootedPath,
    root: Path,
    what: str,
    directories: list[tuple[Path, int]],
) -> None:
    if not name.relative:
        return
    target = resolve_inside(root, name, what)
    mode = member.mode & 0o777
    if member.isdir():
        if not target.is_dir():
            target.mkdir()
        directories.append((target, mode | 0o700))
        return
    if target.is_dir() and not target.is_symlink():
        raise SourceError(f"{what}: {name} is a directory and something else")
    if member.issym():
        check_link(name, member.linkname, what)
        target.unlink(missing_ok=True)
        target.symlink_to(member.linkname)
    elif member.islnk():
        source = resolve_inside(root, _member_name(member.linkname, what), what)
        if not source.is_file() or source.is_symlink():
            raise SourceError(f"{what}: {name} is a hard link to {member.linkname}, which is not in the archive")
        if source != target:
            target.unlink(missing_ok=True)
            os.link(source, target)
    elif member.isreg():
        content = tar.extractfile(member)
        if content is None:
            raise SourceError(f"{what}: {name} has no content")
        write_file(target, content, mode)
    else:
        raise SourceError(f"{what}: {name} is a device, pipe or unknown member")


def write_file(target: Path, content: IO[bytes], mode: int) -> None:
    """Write a new file in place of whatever stands at `target`; never writes through a link."""
    target.unlink(missing_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(content, file, CHUNK)
        os.fchmod(file.fileno(), mode)


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


def resolve_inside(root: Path, name: RootedPath, what: str) -> Path:
    """The place of `name` on disk, its parents made, directory links followed inside the root only.

    An absolute link target is taken as starting at `root`, as it would inside a container.
    """
    current: list[str] = []
    pending = [p for p in name.relative.split("/") if p][::-1]
    hops = 0
    while len(pending) > 1:
        part = pending.pop()
        if part == "..":
            if not current:
                raise SourceError(f"{what}: {name} leaves the root through a link")
            current.pop()
            continue
        path = root.joinpath(*current, part)
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            path.mkdir(mode=0o755)
            current.append(part)
            continue
        if stat.S_ISLNK(mode):
            hops += 1
            if hops > 40:
                raise SourceError(f"{what}: too many links on the way to {name}")
            link = os.readlink(path)
            if link.startswith("/"):
                current = []
            pending.extend([p for p in link.split("/") if p not in ("", ".")][::-1])
        elif stat.S_ISDIR(mode):
            current.append(part)
        else:
            raise SourceError(f"{what}: {name} lies below a file")
    if not pending or pending[0] == "..":
        raise SourceError(f"{what}: {name} leaves the root through a link")
    return root.joinpath(*current, pending[0])
