"""ASN.1 in DER (X.690) and X.509 certificates (RFC 5280), read strictly, as far as signatures by certificate go."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.verifier.encoding import Refused

INTEGER, OCTETS, OBJECT, UTF8, SEQUENCE, SET = 0x02, 0x04, 0x06, 0x0C, 0x30, 0x31
GENERALIZED_TIME = 0x18
_BOOLEAN, _TRUE = 0x01, b"\xff"
_VERSION_TAG, _EXTENSIONS_TAG = 0xA0, 0xA3
"""Tags of a certificate's fields [0] and [3]."""


@dataclass(frozen=True)
class Element:
    """One value with its tag."""

    tag: int
    content: bytes
    raw: bytes
    """With tag and length."""


@dataclass(frozen=True)
class Certificate:
    """An X.509 certificate of version 3. Nothing about it has been checked."""

    raw: bytes
    serial: bytes
    """INTEGER, with tag and length, as are the next two."""
    issuer: bytes
    spki: bytes
    """SubjectPublicKeyInfo."""
    extensions: dict[str, tuple[bool, bytes]]
    """By object identifier (its content in hexadecimal digits): whether it is critical, and its value."""
    fields: tuple[Element, ...]
    """Of the part that is signed."""

    def signed_without(self, extension: str) -> bytes:
        """The part that is signed, as it would be without an extension (RFC 6962, section 3.2)."""
        (wrapped,) = read_elements(self.fields[-1].content, "extensions")
        kept = [e.raw for e in read_elements(wrapped.content, "extensions") if _object(e) != extension]
        others = [f.raw for f in self.fields[:-1]]
        return encode(SEQUENCE, *others, encode(_EXTENSIONS_TAG, encode(SEQUENCE, *kept)))


def encode(tag: int, *parts: bytes) -> bytes:
    """A value of some parts in DER."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def read_elements(data: bytes, what: str) -> list[Element]:
    """All values that stand in `data` one after the other. Raises Refused, naming `what`, for another form than DER."""
    found = []
    at = 0
    while at < len(data):
        element = _read_one(data, at, what)
        found.append(element)
        at += len(element.raw)
    return found


def _read_one(data: bytes, at: int, what: str) -> Element:
    tag, start = data[at], at + 2
    size = data[at + 1] if at + 1 < len(data) else 0xFF
    if size >= 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[at + 2 : start], "big")
    element = Element(tag, data[start : start + size], data[at : start + size])
    # Written again it is the same, unless it was cut off or its length is spelled in another way.
    if tag & 0x1F == 0x1F or encode(tag, element.content) != element.raw:
        raise Refused(what, "is not in the encoding DER")
    return element


def read_children(element: Element, tag: int, what: str) -> list[Element]:
    """The values in a value, which has to have a tag. Raises Refused, naming `what`."""
    return read_elements(expect_tag(element, tag, what), what)


def expect_tag(element: Element, tag: int, what: str) -> bytes:
    """The content of a value, which has to have a tag. Raises Refused, naming `what`."""
    if element.tag != tag:
        raise Refused(what, "has another ASN.1 type than expected", f"{tag:#04x}", f"{element.tag:#04x}")
    return element.content


def read_one(data: bytes, tag: int, what: str) -> Element:
    """The only value that stands in `data`, which has to have a tag. Raises Refused, naming `what`."""
    found = read_elements(data, what)
    if len(found) != 1:
        raise Refused(what, "holds another number of ASN.1 values than expected", "1", str(len(found)))
    expect_tag(found[0], tag, what)
    return found[0]


def read_certificate(data: bytes, what: str) -> Certificate:
    """A certificate of version 3 with extensions. Raises Refused, naming `what`."""
    parts = read_children(read_one(data, SEQUENCE, what), SEQUENCE, what)
    fields = read_children(parts[0], SEQUENCE, what) if len(parts) == 3 else []
    # version, serial number, algorithm, issuer, validity, subject, key, extensions
    if len(fields) != 8 or fields[0].tag != _VERSION_TAG or fields[7].tag != _EXTENSIONS_TAG:
        raise Refused(what, "is no certificate of version 3 as it should be")
    extensions: dict[str, tuple[bool, bytes]] = {}
    for item in read_children(read_one(fields[7].content, SEQUENCE, what), SEQUENCE, what):
        name, critical, value = _read_extension(item, what)
        if name in extensions:
            raise Refused(what, "has an extension twice")
        extensions[name] = critical, value
    return Certificate(data, fields[1].raw, fields[3].raw, fields[6].raw, extensions, tuple(fields))


def _read_extension(item: Element, what: str) -> tuple[str, bool, bytes]:
    parts = read_children(item, SEQUENCE, what)
    critical = len(parts) == 3
    if len(parts) not in (2, 3) or (critical and (parts[1].tag, parts[1].content) != (_BOOLEAN, _TRUE)):
        raise Refused(what, "has a malformed extension")
    return expect_tag(parts[0], OBJECT, what).hex(), critical, expect_tag(parts[-1], OCTETS, what)


def _object(extension: Element) -> str:
    return read_elements(extension.content, "an extension")[0].content.hex()
