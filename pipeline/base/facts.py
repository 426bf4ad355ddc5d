"""What a distribution package says of itself: the record that a package database keeps of it. Reads package files.

Nothing is installed by dpkg or rpm here, so nothing wrote their databases. Images get what scanners read of them, name,
version, licence and source of each package: `/var/lib/dpkg/status.d/NAME` (Debian control paragraphs, one file each, as
in distroless images) and `/var/lib/rpm/Packages.db`, rpm's own database in the one of its formats whose bytes depend on
nothing but the packages. The list that distroless images of RPM distributions have instead
(`/var/lib/rpmmanifest/container-manifest-2`) knows no licence, and no distribution.
"""

import io
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, cast

from pipeline.base.archives import MAX_DECODER_MEMORY, Decoder, Decompressed, Gzip, open_data, open_zstd
from pipeline.base.rpmfile import read_rpm
from pipeline.errors import SourceError
from pipeline.extract import READ
from pipeline.lock import Package

MAX_CONTROL = 16 << 20
"""Bytes of an unpacked control archive; the largest of a distribution have 3 MB of checksums."""
RPM_DATABASE = "var/lib/rpm/Packages.db"
MAGIC_BYTES = 8
"""Of a header in a package."""
BLOCK, BLOB_HEAD, BLOB_TAIL, SLOTS = 16, 16, 12, 256
"""Of rpm's database: bytes of a block and of what stands around a blob; slots of a page."""
GENERATION = 1
"""How often the database was written."""


def database(
    family: str, packages: Iterable[tuple[Package, Path]], below: Iterable[tuple[Package, Path]] = ()
) -> dict[str, bytes]:
    """Path to content of the files that record `packages`, given with their checked files. Raises SourceError.

    `below` are those of the layers that it stands on: rpm has one file for all, which hides the one below.
    """
    if family == "deb":
        return {f"var/lib/dpkg/status.d/{p.name}": control_of(file, p.name) for p, file in sorted(packages)}
    return {RPM_DATABASE: _rpm_database([_header_of(file, p.name) for p, file in sorted([*packages, *below])])}


def control_of(file: Path, what: str) -> bytes:
    """The control paragraph of a .deb, ending with one line break (deb-control(5)). Raises SourceError."""
    return control_files(file, what)["control"].rstrip(b"\n") + b"\n"


def control_files(file: Path, what: str) -> dict[str, bytes]:
    """The files of a .deb's control archive, by name; `control` is one of them. Raises SourceError."""
    with file.open("rb") as opened:
        open_data(opened, what)  # checks all three members of the `ar` archive
        member, content = _control_member(opened, what)
    if member not in DECODERS:
        raise SourceError(f"{what}: {member}: unknown compression")
    decoder = DECODERS[member]
    packed = io.BytesIO(content)
    plain = packed if decoder is None else cast(IO[bytes], Decompressed(packed, decoder(), what, MAX_CONTROL))
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=plain, mode="r|") as tar:
            for info in tar:
                if info.isreg() and (text := tar.extractfile(info)):
                    found[info.name.removeprefix("./")] = text.read(MAX_CONTROL)
        while plain.read(READ):  # padding; only at its end a compressed stream tells that it is whole
            pass
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise SourceError(f"{what}: malformed control archive ({error})") from error
    if "control" not in found:
        raise SourceError(f"{what}: its control archive has no control file")
    return found


def _xz() -> Decoder:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_DECODER_MEMORY)


DECODERS: Mapping[str, Callable[[], Decoder] | None] = {
    "control.tar": None,
    "control.tar.gz": Gzip,
    "control.tar.xz": _xz,
    "control.tar.zst": open_zstd,
}


def _control_member(file: IO[bytes], what: str) -> tuple[str, bytes]:
    """Name and compressed content of the second `ar` member of a checked archive."""
    file.seek(8)
    for _ in range(2):
        header = file.read(60)
        name, digits = header[:16].decode("latin-1").rstrip().removesuffix("/"), header[48:58].rstrip()
        if len(header) != 60 or not digits.isdigit() or int(digits) > MAX_CONTROL:
            raise SourceError(f"{what}: not a Debian package")
        if name.startswith("control.tar"):
            return name, file.read(int(digits))
        file.seek(int(digits) + int(digits) % 2, io.SEEK_CUR)
    raise SourceError(f"{what}: not a Debian package: it has no control archive")


def _header_of(file: Path, what: str) -> bytes:
    """The main header of an .rpm as rpm's databases hold it: without its magic number."""
    with file.open("rb") as opened:
        return read_rpm(opened, what).header.raw[MAGIC_BYTES:]


def _rpm_database(headers: Sequence[bytes]) -> bytes:
    """A database of the "ndb" backend with `headers`: pages of slots, then the blobs that they point to.

    Format: lib/backend/ndb/rpmpkg.c of rpm; numbers are little-endian, places are in blocks of 16 bytes.
    """
    pages = -(-(len(headers) + 2) // SLOTS)  # the file's own header takes the place of two slots
    place, slots, blobs = pages * SLOTS, [], []
    for index, header in enumerate(headers, 1):
        blocks = -(-(BLOB_HEAD + len(header) + BLOB_TAIL) // BLOCK)
        blob = (struct.pack("<4s3I", b"BlbS", index, GENERATION, len(header)) + header).ljust(
            blocks * BLOCK - BLOB_TAIL, b"\0"
        )
        blobs.append(blob + struct.pack("<2I4s", zlib.adler32(blob), len(header), b"BlbE"))
        slots.append(struct.pack("<4s3I", b"Slot", index, place, blocks))
        place += blocks
    slots += [struct.pack("<4s3I", b"Slot", 0, 0, 0)] * (pages * SLOTS - 2 - len(slots))
    start = struct.pack("<4s7I", b"RpmP", 0, GENERATION, pages, len(headers) + 1, 0, 0, 0)
    return b"".join([start, *slots, *blobs])
