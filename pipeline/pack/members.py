"""Read the members of a published archive: plain ustar as `pack.tar` writes it, compressed with gzip or zstd.

Whatever is no such archive is refused: extended headers, links, devices, a name twice, more bytes than allowed.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self, cast

from pipeline.base.archives import Decoder, Decompressed, Gzip, open_zstd
from pipeline.errors import SourceError
from pipeline.extract import MAX_BYTES, MAX_MEMBERS, READ
from pipeline.model import CHUNK, Digest, RootedPath

SUFFIXES = (".tar.gz", ".tar.zst")
"""What the names of published archives end with."""


@dataclass(frozen=True)
class Member:
    """A regular file in an archive."""

    name: str
    digest: Digest
    size: int


class _Plain(tarfile.TarInfo):
    """A header that stands for a file or a folder and for nothing else."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or info.type not in (tarfile.REGTYPE, tarfile.DIRTYPE):
            raise tarfile.ReadError(f"{info.name[:80]!r} is neither a file nor a folder")
        return info


def read_members(archive: Path, *, max_bytes: int = MAX_BYTES) -> Iterator[Member]:
    """Each regular file of `archive`, hashed, in its order. Raises SourceError for what is no published archive."""
    decoder: Decoder = open_zstd() if archive.name.endswith(".zst") else Gzip()
    seen: set[str] = set()
    try:
        with archive.open("rb") as file:
            plain = cast(IO[bytes], Decompressed(file, decoder, archive.name, max_bytes))  # a stream is only read
            with tarfile.open(
                fileobj=plain, mode="r|", errorlevel=2, bufsize=READ, tarinfo=_Plain, encoding="utf-8"
            ) as tar:
                for info in tar:
                    name = _name(info.name, archive)
                    if name in seen or len(seen) >= MAX_MEMBERS:
                        raise SourceError(f"{archive}: member {name} stands twice, or there are too many")
                    seen.add(name)
                    if info.isreg() and (content := tar.extractfile(info)):
                        total = hashlib.sha256()
                        while piece := content.read(CHUNK):
                            total.update(piece)
                        yield Member(name, Digest(total.hexdigest()), info.size)
            while plain.read(CHUNK):  # the checksum of a compressed stream stands behind the end of the archive
                pass
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise SourceError(f"{archive}: not an archive of a release ({error})") from error
    except OSError as error:
        raise SourceError(f"{archive} cannot be read: {error.strerror or error}") from error


def _name(name: str, archive: Path) -> str:
    try:
        return RootedPath.parse(name).relative
    except SourceError as error:
        raise SourceError(f"{archive}: {error.reason}") from error
