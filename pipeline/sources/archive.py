"""Source archives named by URL and sha256: tar (plain, gzip, xz or zstd) and zip. Reads files, writes below one folder.

The format is told by content, as names lie. An archive that wraps all it holds in one folder is taken as that
folder, which is how forges and release tarballs are made.
"""

import errno
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from pipeline.base.archives import Decompressed
from pipeline.base.rpmfile import decoder
from pipeline.errors import SourceError, StoreError, UsageError
from pipeline.extract import MAX_MEMBERS, Readable, extract_tar, make_directory, resolve_inside, write_file
from pipeline.model import CHUNK, Digest, RootedPath

MAX_ARCHIVE = 1 << 30
"""Bytes of an archive as it is served."""
MAX_FILES_BYTES = 2 << 30
"""Bytes of all files of one source: Kubernetes has 0.3 GiB, the Linux kernel 1.5 GiB."""
MAX_TIME = (1 << 33) - 1
"""The latest time of a tar header; a later one is a mistake."""
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_ZIP = b"PK\x03\x04"
_TAR = slice(257, 262)


def check_given(file: Path, digest: Digest) -> Path:
    """A file that the user names in place of an origin; raises UsageError, or SourceError if it is another one."""
    try:
        found = Digest.of_file(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    if found != digest:
        raise SourceError(f"{file}: the definition says {digest}, found {found}")
    return file


def unpack(file: Path, root: Path, what: str, *, max_bytes: int = MAX_FILES_BYTES) -> tuple[Path, int]:
    """Unpack an archive below the empty folder `root`; returns the folder of its files, and the time of the newest.

    That time is 0 if the archive has no plausible one. Raises SourceError for anything that `pipeline.extract`
    would refuse, and for an unknown format.
    """
    with file.open("rb") as content:
        head = content.read(512)
    if head.startswith(_ZIP):
        newest = _unpack_zip(file, root, what, max_bytes)
    else:
        with _open_tar(file, head, what, max_bytes) as stream:
            extract_tar(stream, root, what=what, max_bytes=max_bytes)
            while stream.read(CHUNK):  # the checksum of a compressed stream stands behind the end of the archive
                pass
        newest = _newest(file, head, what, max_bytes)
    entries = list(root.iterdir())
    single = len(entries) == 1 and entries[0].is_dir() and not entries[0].is_symlink()
    return (entries[0] if single else root), newest if 0 <= newest <= MAX_TIME else 0


@contextmanager
def _open_tar(file: Path, head: bytes, what: str, max_bytes: int) -> Iterator[Readable]:
    compression = next((c for magic, c in _COMPRESSIONS.items() if head.startswith(magic)), None)
    if compression is None and head[_TAR] != b"ustar":
        raise SourceError(
            f"{what}: expected a tar (plain, gzip, xz or zstd) or zip archive; it starts with {head[:16]!r}"
        )
    with file.open("rb") as content:
        # Twice: headers and padding of many small members do not count for `max_bytes`.
        yield Decompressed(content, decoder(compression, what), what, 2 * max_bytes) if compression else content


def _newest(file: Path, head: bytes, what: str, max_bytes: int) -> int:
    """The time of the newest file of a tar archive, which has been unpacked and so is known to be sound."""
    with _open_tar(file, head, what, max_bytes) as stream, tarfile.open(fileobj=_as_file(stream), mode="r|") as tar:
        return max((int(m.mtime) for m in tar if m.isreg()), default=0)


def _as_file(stream: Readable) -> BinaryIO:
    return stream  # type: ignore[return-value]  # tarfile only reads a stream


def _unpack_zip(file: Path, root: Path, what: str, max_bytes: int) -> int:
    seen: set[str] = set()
    written = newest = 0
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                name = _member_name(info.filename, what)
                mode = info.external_attr >> 16
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise SourceError(f"{what}: {name} is a link, device or pipe; sources hold plain files only")
                written += info.file_size
                if len(seen) >= MAX_MEMBERS or written > max_bytes:
                    raise SourceError(
                        f"{what}: unpacks to more than {max_bytes} bytes or {MAX_MEMBERS} members (decompression bomb?)"
                    )
                if info.is_dir():
                    if name.relative:
                        make_directory(resolve_inside(root, name, what, last=True), what, name)
                    continue
                target = resolve_inside(root, name, what)
                if name.relative in seen or target.is_dir():
                    raise SourceError(f"{what}: {name} is in the archive twice")
                seen.add(name.relative)
                with archive.open(info) as content:
                    write_file(target, content, 0o755 if mode & 0o100 else 0o644)
                newest = max(newest, _zip_time(info))
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError) as error:
        # RuntimeError: an encrypted member, or (as NotImplementedError) an unknown compression.
        raise SourceError(f"{what}: not a readable zip archive ({error})") from error
    except OSError as error:
        if error.errno in (None, errno.ENAMETOOLONG, errno.EINVAL):  # None: bzip2's word for damaged data
            raise SourceError(f"{what}: a member that cannot be written ({error})") from error
        raise StoreError(f"{what} cannot be unpacked to {root}: {error}") from error
    return newest


def _member_name(name: str, what: str) -> RootedPath:
    try:
        return RootedPath.parse(name)
    except SourceError as error:
        raise SourceError(f"{what}: {error.reason}") from error


def _zip_time(info: zipfile.ZipInfo) -> int:
    """Taken as UTC: the format has no time zone, and that of the host must not matter."""
    try:
        return int(datetime(*info.date_time, tzinfo=UTC).timestamp())
    except ValueError:
        return 0
