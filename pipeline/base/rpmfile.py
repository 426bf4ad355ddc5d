"""Read RPM packages (format versions 3 and 4) without rpm: check digests and signature, unpack. Reads files only.

A package is a lead, a signature header, the main header and a compressed cpio archive. The signature covers the main
header, whose PAYLOADDIGEST covers the archive: once both are checked, every byte that is used is the signer's.
Format: https://rpm-software-management.github.io/rpm/manual/format_v4.html and .../tags.html.
"""

import bz2
import hashlib
import io
import lzma
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from pipeline.base.archives import MAX_DECODER_MEMORY, Decoder, Decompressed, Gzip, open_zstd
from pipeline.base.cpio import extract_cpio
from pipeline.base.openpgp import Keyring
from pipeline.errors import SourceError
from pipeline.extract import MAX_BYTES

LEAD = b"\xed\xab\xee\xdb"
LEAD_BYTES = 96
HEADER = b"\x8e\xad\xe8\x01\x00\x00\x00\x00"
MAX_ENTRIES = 4096
"""Index entries of a header; rpm itself writes fewer than 200."""
MAX_STORE = 64 << 20
"""Bytes of a header's data; the largest packages of a distribution (tens of thousands of files) have 10 MB."""

# Tags, https://rpm-software-management.github.io/rpm/manual/tags.html; the first group is in the signature header.
DSA_HEADER, RSA_HEADER, SHA256_HEADER, LONG_SIZE, SIZE = 267, 268, 273, 270, 1000
REGION = 63
NAME, VERSION, RELEASE, EPOCH, ARCH = 1000, 1001, 1002, 1003, 1022
PAYLOAD_FORMAT, PAYLOAD_COMPRESSOR, PAYLOAD_DIGEST, PAYLOAD_DIGEST_ALGORITHM = 1124, 1125, 5092, 5093
INT32, INT64, STRING, BINARY, STRINGS = 4, 5, 6, 7, 8


@dataclass(frozen=True)
class Header:
    """One header structure: typed values by tag."""

    raw: bytes
    """The whole structure as it lies in the file: what digests and signatures are over."""
    store: bytes
    index: dict[int, tuple[int, int, int]]
    """Tag to (type, offset into `store`, count)."""

    def text(self, tag: int) -> str:
        """A string value, or the first of several; "" if the tag is missing. Raises ValueError."""
        kind, offset, count = self.index.get(tag, (STRING, -1, 0))
        if offset < 0:
            return ""
        if kind not in (STRING, STRINGS) or not count:
            raise ValueError(f"tag {tag} is no text")
        return self.store[offset : self.store.index(b"\0", offset)].decode("utf-8")

    def number(self, tag: int) -> int | None:
        """An integer value; None if the tag is missing. Raises ValueError."""
        if tag not in self.index:
            return None
        kind, offset, _ = self.index[tag]
        if kind not in (INT32, INT64):
            raise ValueError(f"tag {tag} is no number")
        return int.from_bytes(self.store[offset : offset + (4 if kind == INT32 else 8)], "big")

    def binary(self, tag: int) -> bytes:
        """A binary value; empty if the tag is missing. Raises ValueError."""
        kind, offset, count = self.index.get(tag, (BINARY, 0, 0))
        if kind != BINARY or offset + count > len(self.store):
            raise ValueError(f"tag {tag} is no binary value")
        return self.store[offset : offset + count]


@dataclass(frozen=True)
class Rpm:
    """A package whose digests were checked by `read_rpm`."""

    name: str
    evr: str
    """`[EPOCH:]VERSION-RELEASE`."""
    arch: str
    header: Header
    signatures: tuple[bytes, ...]
    """OpenPGP packets over the main header."""
    payload: int
    """Offset of the compressed archive in the file."""
    compressor: str


def read_rpm(file: BufferedReader, what: str) -> Rpm:
    """Parse the package open in `file` and check header and payload digest; raises SourceError.

    Digests tell damage; only `check_signature` tells who made it.
    """
    try:
        return _read(file)
    except (ValueError, IndexError, struct.error) as error:
        raise SourceError(f"{what}: malformed RPM package ({error})") from error


def check_signature(rpm: Rpm, keys: Keyring, what: str) -> str:
    """Check the signature over the main header; returns the signing certificate's fingerprint.

    Raises SourceError if there is none, or it is not by one of `keys`.
    """
    if not rpm.signatures:
        raise SourceError(f"{what}: the package is not signed (it has no OpenPGP signature over its header)")
    signers = [keys.verify(rpm.header.raw, signature, what) for signature in rpm.signatures]
    return signers[0]


def unpack_rpm(path: Path, root: Path, what: str, drop: Iterable[str], *, max_bytes: int = MAX_BYTES) -> int:
    """Unpack the files of a package below `root`; returns the bytes written.

    No scriptlet runs; owners, times, set-id and sticky bits and file capabilities are dropped. `drop` are the
    patterns of `pipeline.extract.dropper`. Raises SourceError for anything that would leave `root`, for devices, and
    for a package whose digests do not fit.
    """
    with path.open("rb") as file:
        rpm = read_rpm(file, what)
        file.seek(rpm.payload)
        # Twice: headers and padding of many small members do not count for `max_bytes`.
        stream = Decompressed(file, decoder(rpm.compressor, what), what, 2 * max_bytes)
        return extract_cpio(stream, root, what=what, drop=drop, max_bytes=max_bytes)


def decoder(compressor: str, what: str) -> Decoder:
    """A fresh decompressor with bounded memory, called as in RPM headers; raises SourceError for an unknown one."""
    match compressor:
        case "xz":
            return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_DECODER_MEMORY)
        case "zstd":
            return open_zstd()
        case "gzip":
            return Gzip()
        case "bzip2":
            return bz2.BZ2Decompressor()
    raise SourceError(f"{what}: compressed as {compressor!r}: expected xz, zstd, gzip or bzip2")


def _read(file: BufferedReader) -> Rpm:
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    lead = file.read(LEAD_BYTES)
    if len(lead) != LEAD_BYTES or lead[:4] != LEAD:
        raise ValueError("it does not begin with the lead of an RPM package")
    if lead[4] not in (3, 4) or struct.unpack(">HH", lead[6:8] + lead[78:80]) != (0, 5):
        raise ValueError("expected a binary package of format version 3 or 4 with a header-style signature")
    signature = _read_header(file, "signature header")
    file.seek(-file.tell() % 8, io.SEEK_CUR)
    start = file.tell()
    header = _read_header(file, "main header")
    _check_region(header)
    payload = file.tell()
    for tag in (SIZE, LONG_SIZE):
        if (size := signature.number(tag)) is not None and size != end - start:
            raise ValueError(f"cut off or extended: expected {size} bytes of header and payload, found {end - start}")
    if (digest := hashlib.sha256(header.raw).hexdigest()) != (expected := signature.text(SHA256_HEADER)):
        raise ValueError(f"SHA-256 of the header: expected {expected or 'one in the package'}, found {digest}")
    if header.number(PAYLOAD_DIGEST_ALGORITHM) != 8:  # 8 is SHA-256 in OpenPGP's numbering
        raise ValueError("its header has no SHA-256 of the payload: packages of rpm older than 4.14 are not supported")
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != (expected := header.text(PAYLOAD_DIGEST)):
        raise ValueError(f"SHA-256 of the payload: expected {expected}, found {digest}")
    if (form := header.text(PAYLOAD_FORMAT)) != "cpio":
        raise ValueError(f"payload format {form!r}: expected cpio")
    epoch = header.number(EPOCH)
    evr = f"{header.text(VERSION)}-{header.text(RELEASE)}"
    return Rpm(
        name=header.text(NAME),
        evr=evr if epoch is None else f"{epoch}:{evr}",
        arch=header.text(ARCH),
        header=header,
        signatures=tuple(s for tag in (RSA_HEADER, DSA_HEADER) if (s := signature.binary(tag))),
        payload=payload,
        compressor=header.text(PAYLOAD_COMPRESSOR) or "gzip",
    )


def _read_header(file: BufferedReader, kind: str) -> Header:
    intro = file.read(16)
    if len(intro) != 16 or intro[:8] != HEADER:
        raise ValueError(f"the {kind} does not begin as one")
    entries, length = struct.unpack(">II", intro[8:])
    if not 0 < entries <= MAX_ENTRIES or length > MAX_STORE:
        raise ValueError(f"the {kind} has {entries} entries and {length} bytes: more than is reasonable, or none")
    raw = file.read(16 * entries + length)
    if len(raw) != 16 * entries + length:
        raise ValueError(f"the {kind} is cut off")
    store = raw[16 * entries :]
    index: dict[int, tuple[int, int, int]] = {}
    for tag, form, offset, count in struct.iter_unpack(">IIiI", raw[: 16 * entries]):
        if tag in index:
            raise ValueError(f"tag {tag} stands twice in the {kind}")
        if not 0 <= offset <= length or count > length:
            raise ValueError(f"tag {tag} of the {kind} lies outside of it")
        index[tag] = (form, offset, count)
    return Header(intro + raw, store, index)


def _check_region(header: Header) -> None:
    """The region says which entries the signer's rpm wrote; anything outside of it is somebody's later addition."""
    form, offset, count = header.index.get(REGION, (0, 0, 0))
    trailer = header.store[offset : offset + 16]
    if (form, count, len(trailer)) != (BINARY, 16, 16):
        raise ValueError("the main header has no region")
    tag, _, covered, _ = struct.unpack(">IIiI", trailer)
    if (tag, covered, offset + 16) != (REGION, -16 * len(header.index), len(header.store)):
        raise ValueError("the main header has entries outside of its region")
