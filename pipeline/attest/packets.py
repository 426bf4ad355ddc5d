"""What OpenPGP is made of: packets, subpackets, numbers, ASCII armor. Standard library, no I/O.

Formats: RFC 4880, sections named below.
"""

import base64
import binascii
import re
from collections.abc import Collection, Iterator, Sequence

CERTIFICATE, SIGNATURE = "PUBLIC KEY BLOCK", "SIGNATURE"
"""Kinds of armor."""
_LINE = 64
_BLOCK = re.compile(
    rb"-----BEGIN PGP ([A-Z ]{1,30})-----\r?\n(?:[A-Za-z]+: [^\r\n]*\r?\n)*\r?\n"
    rb"([A-Za-z0-9+/=\r\n]*?)(?:=([A-Za-z0-9+/]{4})\r?\n)?-----END PGP \1-----"
)


def armor(data: bytes, kind: str) -> bytes:
    """ASCII armor (6.2) without headers: one form for the same bytes."""
    text = base64.b64encode(data)
    lines = b"".join(text[i : i + _LINE] + b"\n" for i in range(0, len(text), _LINE))
    check = base64.b64encode(_crc24(data).to_bytes(3, "big"))
    return f"-----BEGIN PGP {kind}-----\n\n".encode() + lines + b"=" + check + f"\n-----END PGP {kind}-----\n".encode()


def dearmor(text: bytes, kind: str = SIGNATURE) -> bytes:
    """What the blocks of a kind in a text hold, one after the other; empty if there is none, or one is damaged."""
    found = b""
    for block in _BLOCK.finditer(text):
        try:
            data = base64.b64decode(block[2].replace(b"\r", b"").replace(b"\n", b""), validate=True)
        except binascii.Error:
            return b""
        if block[1] == kind.encode():
            if block[3] and base64.b64decode(block[3]) != _crc24(data).to_bytes(3, "big"):
                return b""
            found += data
    return found


def write_packet(tag: int, body: bytes) -> bytes:
    """A packet with the old header (4.2.1), which every reader knows. Raises ValueError for one of 64 KiB or more."""
    if len(body) < 256:
        return bytes([0x80 | tag << 2, len(body)]) + body
    if len(body) >= 1 << 16:
        raise ValueError(f"an OpenPGP packet of {len(body)} bytes")
    return bytes([0x81 | tag << 2]) + len(body).to_bytes(2, "big") + body


def read_packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and body of each packet (4.2), no partial ones. Raises ValueError."""
    position = 0
    while position < len(data):
        head = data[position]
        if not head & 0x80:
            raise ValueError("expected an OpenPGP packet")
        if head & 0x40:
            tag, (size, position) = head & 0x3F, _length(data, position + 1)
        elif (wide := 1 << (head & 3)) < 8:
            tag, size = head >> 2 & 0xF, int.from_bytes(data[position + 1 : position + 1 + wide], "big")
            position += 1 + wide
        else:
            raise ValueError("an OpenPGP packet of indeterminate length")
        if position + size > len(data):
            raise ValueError("an OpenPGP packet is cut off")
        yield tag, data[position : position + size]
        position += size


def read_subpackets(area: bytes, known: Collection[int]) -> dict[int, bytes]:
    """Subpackets by type (5.2.3.1), with 128 added if one is critical and its type not `known`.

    Raises ValueError if one is cut off or stands twice.
    """
    found: dict[int, bytes] = {}
    position = 0
    while position < len(area):
        size, position = _length(area, position, partial=False)
        if not 0 < size <= len(area) - position:
            raise ValueError("a subpacket is cut off")
        kind = area[position] & 0x7F if area[position] & 0x7F in known else area[position]
        if kind in found:
            raise ValueError(f"a subpacket of type {kind} stands twice")
        found[kind] = area[position + 1 : position + size]
        position += size
    return found


def _length(data: bytes, position: int, *, partial: bool = True) -> tuple[int, int]:
    """A length and where what it is of begins (4.2.2; 5.2.3.1 for subpackets, which are never partial)."""
    first = data[position] if position < len(data) else 0
    if first < 192:
        return first, position + 1
    if first == 255:
        return int.from_bytes(data[position + 1 : position + 5], "big"), position + 5
    if first >= 224 and partial:
        raise ValueError("an OpenPGP packet in parts")
    second = data[position + 1] if position + 1 < len(data) else 0
    return ((first - 192) << 8) + second + 192, position + 2


def write_subpackets(found: Sequence[tuple[int, bytes]]) -> bytes:
    """Subpackets as type and content, with the length of all of them."""
    body = b"".join(bytes([1 + len(data), kind]) + data for kind, data in found)
    return len(body).to_bytes(2, "big") + body


def write_mpi(value: int) -> bytes:
    """A number with its length in bits (3.2)."""
    return value.bit_length().to_bytes(2, "big") + value.to_bytes((value.bit_length() + 7) // 8, "big")


def read_mpi(data: bytes) -> tuple[int, bytes]:
    """A number in front of other data, and that. Raises ValueError."""
    bits = int.from_bytes(data[:2], "big")
    end = 2 + (bits + 7) // 8
    value = int.from_bytes(data[2:end], "big")
    if len(data) < end or value.bit_length() != bits:
        raise ValueError("a number has another length than it says")
    return value, data[end:]


def _crc24(data: bytes) -> int:
    """The checksum of armor (6.1)."""
    value = 0xB704CE
    for byte in data:
        value ^= byte << 16
        for _ in range(8):
            value <<= 1
            if value & 0x1000000:
                value ^= 0x1864CFB
    return value
