"""RPM packages of format 4, as far as their signature goes: what a package is called, and the header that is signed.

Read strictly, and nothing of the payload. Format: https://rpm-software-management.github.io/rpm/manual/format_v4.html
and .../tags.html.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.verifier.encoding import Refused
from pipeline.verifier.folder import open_plain
from pipeline.verifier.openpgp import PgpKey, PgpSignature, verify_pgp

MAX_HEADER = 64 << 20
"""Bytes of a header's values."""
MAX_HEADER_TAGS = 4096
_LEAD, _LEAD_BYTES = b"\xed\xab\xee\xdb\x03", 96
_HEADER_MAGIC = b"\x8e\xad\xe8\x01\x00\x00\x00\x00"
_RSA_HEADER = 268
"""In the signature header: an OpenPGP signature over the main header, whose digests cover the payload."""
_TAG_NAME, _TAG_VERSION, _TAG_RELEASE, _TAG_EPOCH, _TAG_ARCH, _TAG_SOURCE_OF, _TAG_SOURCE = (
    1000,
    1001,
    1002,
    1003,
    1022,
    1044,
    1106,
)
_INT32, _STRING, _BINARY = 4, 6, 7
_Values = dict[int, tuple[int, bytes]]
"""By tag: the type, and the values from the first of the tag's on."""


@dataclass(frozen=True, order=True)
class Nevra:
    """What a package is called."""

    name: str
    epoch: int
    version: str
    release: str
    arch: str
    """`src` of a source package."""

    def __str__(self) -> str:
        """As rpm prints it."""
        epoch = f"{self.epoch}:" if self.epoch else ""
        return f"{self.name}-{epoch}{self.version}-{self.release}.{self.arch}"


@dataclass(frozen=True)
class SignedHeader:
    """What is signed of a package; whether the signature is good has yet to be found out."""

    nevra: Nevra
    header: bytes
    """With its magic, as it lies in the file."""
    signature: bytes
    """OpenPGP packets; empty if there is none."""


def read_package(path: Path, what: str) -> SignedHeader:
    """Name and signed part of a package. Raises Refused, naming `what`, for another form."""
    with open_plain(path, what) as descriptor:
        lead = os.read(descriptor, _LEAD_BYTES)
        if len(lead) != _LEAD_BYTES or not lead.startswith(_LEAD):
            raise Refused(what, "is no RPM package")
        raw, values = _read_header(descriptor, what)
        os.read(descriptor, -len(raw) % 8)
        header, main = _read_header(descriptor, what)
    kind, signature = values.get(_RSA_HEADER, (_BINARY, b""))
    if kind != _BINARY:
        raise Refused(what, "has a signature that is no signature")
    source = _TAG_SOURCE in main or _TAG_SOURCE_OF not in main
    nevra = Nevra(
        _text_of(main, _TAG_NAME, what),
        _number_of(main, _TAG_EPOCH, what),
        _text_of(main, _TAG_VERSION, what),
        _text_of(main, _TAG_RELEASE, what),
        "src" if source else _text_of(main, _TAG_ARCH, what),
    )
    return SignedHeader(nevra, header, signature)


def verify_package(package: SignedHeader, keys: Iterable[PgpKey], what: str) -> tuple[PgpKey, PgpSignature]:
    """Who signed a package, at a time at which the key was valid. Raises Refused, naming `what`."""
    if not package.signature:
        raise Refused(what, "is not signed: its header has no RSA signature")
    return verify_pgp(package.header, package.signature, keys, what)


def _read_header(descriptor: int, what: str) -> tuple[bytes, _Values]:
    """A header: its bytes, and values by tag."""
    intro = os.read(descriptor, 16)
    count, size = struct.unpack(">II", intro[8:]) if len(intro) == 16 else (0, 0)
    if not intro.startswith(_HEADER_MAGIC) or not 0 < count <= MAX_HEADER_TAGS or size > MAX_HEADER:
        raise Refused(what, "is no RPM package as it should be: a header is malformed, or larger than any of ours")
    data = bytearray()
    while len(data) < 16 * count + size and (piece := os.read(descriptor, 16 * count + size - len(data))):
        data += piece
    values, store = bytes(data[16 * count :]), memoryview(data)[16 * count :]
    found: _Values = {}
    for tag, kind, offset, items in struct.iter_unpack(">IIII", bytes(data[: len(data) // 16 * 16][: 16 * count])):
        if tag in found or offset + items * (kind == _BINARY) > len(store):
            raise Refused(what, "is no RPM package as it should be: a tag stands twice, or outside of its header")
        found[tag] = kind, b""
        if tag in (_RSA_HEADER, _TAG_NAME, _TAG_VERSION, _TAG_RELEASE, _TAG_EPOCH, _TAG_ARCH):
            found[tag] = kind, values[offset : offset + items] if kind == _BINARY else values[offset : offset + 512]
    if len(data) != 16 * count + size:
        raise Refused(what, "is no RPM package as it should be: it was cut off")
    return intro + bytes(data), found


def _text_of(values: _Values, tag: int, what: str) -> str:
    kind, data = values.get(tag, (0, b""))
    text, end, _ = data.partition(b"\0")
    if kind != _STRING or not end or not text.isascii():
        raise Refused(what, "is no RPM package as it should be: it has no name, version, release or architecture")
    return text.decode()


def _number_of(values: _Values, tag: int, what: str) -> int:
    """A number; 0 without one."""
    kind, data = values.get(tag, (_INT32, b"\0" * 4))
    if kind != _INT32 or len(data) < 4:
        raise Refused(what, "is no RPM package as it should be: its epoch is no number")
    return int.from_bytes(data[:4], "big")
