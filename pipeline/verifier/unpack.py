"""Unpack a node tarball into a new folder: files and folders alone, from one open file that is hashed on the way.

Whatever is no such archive is refused: links, devices, extended headers, a name twice or out of the folder, set-id
bits, more bytes than allowed. What was unpacked of an archive that is refused is removed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import IO, cast

from pipeline.verifier.encoding import Refused
from pipeline.verifier.folder import PIECE, open_plain, other_content

MAX_MEMBERS = 10_000
MAX_UNPACKED = 4 << 30
"""Bytes of all members."""
_MEMBER = re.compile(r"([A-Za-z0-9][A-Za-z0-9._+@-]{0,200}/){0,16}[A-Za-z0-9][A-Za-z0-9._+@-]{0,200}/?")


class _Plain(tarfile.TarInfo):
    """A header that stands for a file or a folder and for nothing else."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Plain:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or info.type not in (tarfile.REGTYPE, tarfile.DIRTYPE):
            raise tarfile.ReadError(f"{info.name[:80]!r} is neither a file nor a folder")
        return info


class _Hashed:
    """An open file whose bytes are hashed while they are read."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.total = hashlib.sha256()

    def read(self, size: int = PIECE) -> bytes:
        data = os.read(self.descriptor, size if size >= 0 else PIECE)
        self.total.update(data)
        return data


def unpack(archive: Path, target: Path, sha256: str) -> list[str]:
    """Unpack `archive`, whose digest has to be `sha256`, into the new folder `target`; returns what was written.

    Raises Refused; `target` is gone then.
    """
    what = archive.name
    with open_plain(archive, what) as descriptor:
        first = _Hashed(descriptor)
        while first.read():
            pass
        if first.total.hexdigest() != sha256:
            raise other_content(what, sha256, first.total.hexdigest())
        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            target.mkdir()
            target.chmod(0o755)
        except OSError as error:
            raise Refused(str(target), f"cannot be made, to unpack into: {error.strerror}") from error
        try:
            again = _Hashed(descriptor)
            names = _extract(again, target, what)
            if again.total.hexdigest() != sha256:
                raise other_content(what, sha256, again.total.hexdigest())
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
    return names


def _extract(source: _Hashed, target: Path, what: str) -> list[str]:
    names: list[str] = []
    total = 0
    try:
        with gzip.GzipFile(fileobj=cast("IO[bytes]", source), mode="rb") as plain:
            with tarfile.open(fileobj=plain, mode="r|", errorlevel=2, tarinfo=_Plain, encoding="utf-8") as tar:
                for info in tar:
                    total += info.size
                    _check_member(info, names, what)
                    if len(names) >= MAX_MEMBERS or total > MAX_UNPACKED:
                        raise Refused(what, "holds too much", f"{MAX_MEMBERS} members, {MAX_UNPACKED} bytes")
                    names.append(info.name.rstrip("/"))
                    _write(tar, info, target / info.name)
            while plain.read(PIECE):
                total += PIECE
                if total > MAX_UNPACKED:
                    raise Refused(what, "holds too much behind its end")
    except (tarfile.TarError, EOFError, ValueError, OverflowError, zlib.error, gzip.BadGzipFile) as error:
        raise Refused(what, f"is not an archive as it should be: {error}") from error
    except OSError as error:
        raise Refused(str(target), f"cannot be unpacked into: {error.strerror or error}") from error
    while source.read():
        pass
    return names


def _check_member(info: tarfile.TarInfo, seen: list[str], what: str) -> None:
    name = info.name.rstrip("/")
    if not _MEMBER.fullmatch(info.name):
        raise Refused(what, "holds a member that leads out of it, or is hidden", "", info.name[:200])
    if name in seen:
        raise Refused(what, "holds a member twice", "", name)
    if "/" in name and name.rpartition("/")[0] not in seen:
        raise Refused(what, "holds a member before the folder that it is in", "", name)
    if info.mode & ~0o777 or info.mode & 0o022:
        raise Refused(what, f"holds {name} with a mode that no file of ours has", "0755 or 0644", oct(info.mode))


def _write(tar: tarfile.TarFile, info: tarfile.TarInfo, path: Path) -> None:
    if info.isdir():
        path.mkdir()
        path.chmod(0o755)
        return
    content = tar.extractfile(info)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file, contextlib.closing(cast("IO[bytes]", content)) as source:
        shutil.copyfileobj(source, file, PIECE)
        file.flush()
        os.fchmod(file.fileno(), 0o755 if info.mode & 0o111 else 0o644)
        os.fsync(file.fileno())
