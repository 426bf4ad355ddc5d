"""What a distribution package says of itself: the record that a package database keeps of it. Reads package files.

Nothing is installed by dpkg or rpm here, so nothing wrote their databases. Images get the forms that exist for such
content and that scanners read: `/var/lib/dpkg/status.d/NAME` (Debian control paragraphs, as in distroless images) and
`/var/lib/rpmmanifest/container-manifest-2` (one line per package, as in distroless images of RPM distributions).
"""

import io
import lzma
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, cast

from pipeline.base.archives import MAX_DECODER_MEMORY, Decoder, Decompressed, Gzip, open_zstd
from pipeline.base.rpmfile import EPOCH, Rpm, read_rpm
from pipeline.errors import SourceError
from pipeline.lock import Package

MAX_CONTROL = 16 << 20
"""Bytes of an unpacked control archive; the largest of a distribution have 3 MB of checksums."""
MANIFEST = "var/lib/rpmmanifest/container-manifest-2"
SIZE, BUILD_TIME, VENDOR, SOURCE_RPM = 1009, 1006, 1011, 1044
"""Tags, https://rpm-software-management.github.io/rpm/manual/tags.html."""


def database(family: str, packages: Iterable[tuple[Package, Path]]) -> dict[str, bytes]:
    """Path to content of the files that record `packages`, given with their checked files. Raises SourceError."""
    ordered = sorted(packages)
    if family == "deb":
        return {f"var/lib/dpkg/status.d/{p.name}": control_of(file, p.name) for p, file in ordered}
    return {MANIFEST: "".join(_manifest_line(file, p.name) for p, file in ordered).encode()}


def control_of(file: Path, what: str) -> bytes:
    """The control paragraph of a .deb, ending with one line break (deb-control(5)). Raises SourceError."""
    with file.open("rb") as opened:
        member, content = _control_member(opened, what)
    decoders = {"control.tar.gz": Gzip, "control.tar.zst": open_zstd, "control.tar.xz": _xz}
    if member not in decoders:
        raise SourceError(f"{what}: {member}: unknown compression")
    plain = Decompressed(io.BytesIO(content), decoders[member](), what, MAX_CONTROL)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], plain), mode="r|") as tar:
            for info in tar:
                if info.name.removeprefix("./") == "control" and info.isreg() and (text := tar.extractfile(info)):
                    return text.read(MAX_CONTROL).rstrip(b"\n") + b"\n"
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise SourceError(f"{what}: malformed control archive ({error})") from error
    raise SourceError(f"{what}: its control archive has no control file")


def _xz() -> Decoder:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_DECODER_MEMORY)


def _control_member(file: IO[bytes], what: str) -> tuple[str, bytes]:
    """Name and compressed content of the second `ar` member; `archives.open_data` has checked the whole before."""
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


def _manifest_line(file: Path, what: str) -> str:
    """NAME, VERSION-RELEASE, INSTALLTIME, BUILDTIME, VENDOR, nothing, SIZE, ARCH, EPOCHNUM, SOURCERPM, by tabs.

    The time of installation is that of the package's build: nothing here has a wall clock.
    """
    with file.open("rb") as opened:
        rpm = read_rpm(opened, what)
    try:
        fields = _fields(rpm)
    except ValueError as error:
        raise SourceError(f"{what}: malformed RPM package ({error})") from error
    if any("\t" in f or "\n" in f for f in fields):
        raise SourceError(f"{what}: a field of its header has a tab or line break")
    return "\t".join(fields) + "\n"


def _fields(rpm: Rpm) -> list[str]:
    header = rpm.header
    epoch = header.number(EPOCH)
    evr = rpm.evr.partition(":")[2] or rpm.evr
    built = str(header.number(BUILD_TIME) or 0)
    return [
        rpm.name, evr, built, built, header.text(VENDOR) or "(none)", "(none)", str(header.number(SIZE) or 0),
        rpm.arch, "0" if epoch is None else str(epoch), header.text(SOURCE_RPM) or "(none)",
    ]  # fmt: skip
