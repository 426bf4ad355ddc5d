"""RPM packages of our own: what of them is signed, and how a signature gets into and out of one. Reads, writes files.

A signature is over the main header alone, whose PAYLOADDIGEST covers the rest. It stands in the signature header before
it, which nothing protects; so that header may hold a closed list of tags only, written as rpm writes them, and nothing
between them. Then a package without its signature has one form, and two that are made alike can be compared.
Format: https://rpm-software-management.github.io/rpm/manual/format_v4.html.
"""

import io
import shutil
import struct
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pipeline.attest.openpgp import MAX_SIGNATURE
from pipeline.base.rpmfile import (
    BINARY,
    HEADER,
    INT32,
    INT64,
    LEAD,
    LEAD_BYTES,
    LONG_SIZE,
    RSA_HEADER,
    SHA256_HEADER,
    SIZE,
    STRING,
    Rpm,
    read_rpm,
)
from pipeline.errors import SourceError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

KIND = (6, 7)
"""Bytes of the lead that hold 0, or 1 for a source package."""
SOURCE_PACKAGE = 1106
"""A tag of the main header."""
REGION, SHA1_HEADER, LONG_ARCHIVE_SIZE, MD5, PAYLOAD_SIZE, RESERVED_SPACE = 62, 269, 271, 1004, 1007, 1008
TYPES = {
    RSA_HEADER: BINARY,
    SHA1_HEADER: STRING,
    LONG_SIZE: INT64,
    LONG_ARCHIVE_SIZE: INT64,
    SHA256_HEADER: STRING,
    SIZE: INT32,
    MD5: BINARY,
    PAYLOAD_SIZE: INT32,
    RESERVED_SPACE: BINARY,
}
"""Tags that a signature header may hold, with their types, in the order in which they stand."""
WIDTHS = {INT32: 4, INT64: 8}
"""Bytes of a number, which is also how it is aligned."""
MAX_SIGNATURE_HEADER = 64 << 10
"""Bytes; rpm writes 4.4 KiB."""
INTRO = 16
"""Bytes of a header before its index, and of each entry of the index."""


class _AnyKind(io.FileIO):
    """A package whose lead does not tell source packages from others, as rpm's own reader asks the header alone."""

    def readinto(self, buffer: "Buffer", /) -> int | None:
        """See `io.RawIOBase`."""
        start, count = self.tell(), super().readinto(buffer)
        view = memoryview(buffer)
        for place in KIND:
            if start <= place < start + (count or 0):
                view[place - start] = 0
        return count


def read_package(package: Path, what: str) -> Rpm:
    """A package of either kind whose digests fit; raises SourceError."""
    with BufferedReader(_AnyKind(package)) as file:
        return read_rpm(cast("BufferedReader", file), what)


def is_source(rpm: Rpm) -> bool:
    """Whether it is a source package."""
    return SOURCE_PACKAGE in rpm.header.index


def main_header(package: Path) -> bytes:
    """What the signature of a package is over, from a package whose digests fit; raises SourceError."""
    return read_package(package, package.name).header.raw


def signature_of(package: Path) -> bytes | None:
    """The OpenPGP packet that a package is signed with, None if it is not signed. Digests are not checked.

    Raises SourceError if the signature header holds anything else than ours do.
    """
    with package.open("rb") as file:
        return _signature_header(file, package.name)[0].get(RSA_HEADER)


def add_signature(unsigned: Path, signature: bytes, target: Path) -> None:
    """Write `unsigned` to `target` with an OpenPGP packet over its main header; other bytes stay, and where they are.

    The same bytes as rpmsign's, given the same packet. Raises SourceError if the package is signed already, or is
    no package whose digests fit.
    """
    if not 0 < len(signature) <= MAX_SIGNATURE:
        raise SourceError(f"{unsigned.name}: a signature of {len(signature)} bytes, expected 1 to {MAX_SIGNATURE}")
    rpm = read_package(unsigned, unsigned.name)
    with unsigned.open("rb") as file:
        values, length = _signature_header(file, unsigned.name)
        if RSA_HEADER in values:
            raise SourceError(f"{unsigned.name}: the package is signed already")
        header = _render({**values, RSA_HEADER: signature}, length)
        with target.open("wb") as out:
            file.seek(0)
            out.write(file.read(LEAD_BYTES) + header + bytes(-len(header) % 8) + rpm.header.raw)
            file.seek(rpm.payload)
            shutil.copyfileobj(file, out, 1 << 20)


def _signature_header(file: BufferedReader, what: str) -> tuple[dict[int, bytes], int]:
    """The values of a package's signature header by tag, and its length in bytes; raises SourceError."""
    lead = file.read(LEAD_BYTES)
    intro = file.read(INTRO)
    if len(intro) != INTRO or not lead.startswith(LEAD) or not intro.startswith(HEADER):
        raise SourceError(f"{what}: no RPM package")
    entries, length = struct.unpack(">II", intro[8:])
    if not 0 < entries <= len(TYPES) + 1 or length > MAX_SIGNATURE_HEADER:
        raise SourceError(f"{what}: a signature header of {entries} entries and {length} bytes: more than rpm writes")
    raw = intro + file.read(INTRO * entries + length)
    try:
        values = _values(raw, entries)
    except (ValueError, struct.error) as error:
        raise SourceError(f"{what}: malformed signature header ({error})") from error
    if _render(values, len(raw)) != raw or any(file.read(-len(raw) % 8)):
        raise SourceError(f"{what}: its signature header is not as rpm writes it: something may be hidden there")
    return values, len(raw)


def _values(raw: bytes, entries: int) -> dict[int, bytes]:
    """The value of each tag besides the region; raises ValueError for tags that are not in the list."""
    store = raw[INTRO * (1 + entries) :]
    values = {}
    for tag, form, offset, count in struct.iter_unpack(">IIiI", raw[2 * INTRO : INTRO * (1 + entries)]):
        if TYPES.get(tag) != form:
            raise ValueError(f"tag {tag} of type {form} has no place in it")
        end = store.index(b"\0", max(0, offset)) + 1 if form == STRING else offset + count * WIDTHS.get(form, 1)
        values[tag] = store[offset:end]
    return values


def _render(values: Mapping[int, bytes], length: int) -> bytes:
    """A signature header as rpm writes it: sorted, all in one region, and filled up to `length` by reserved space.

    Where `values` has no reserved space, or there is not enough of it, the header is as long as it needs to be.
    """
    store = b""
    index: list[bytes] = []
    for tag, form in TYPES.items():
        if tag not in values:
            continue
        store += bytes(-len(store) % WIDTHS.get(form, 1))
        value = values[tag]
        if tag == RESERVED_SPACE:  # the last one; its own entry, the region, its trailer and the intro are to come
            value = bytes(max(0, length - INTRO * (len(index) + 4) - len(store)))
            if not value:
                continue
        index.append(struct.pack(">IIiI", tag, form, len(store), len(value) if form == BINARY else 1))
        store += value
    region = struct.pack(">IIiI", REGION, BINARY, len(store), INTRO)
    trailer = struct.pack(">IIiI", REGION, BINARY, -INTRO * (len(index) + 1), INTRO)
    intro = HEADER + struct.pack(">II", len(index) + 1, len(store) + len(trailer))
    return intro + region + b"".join(index) + store + trailer
