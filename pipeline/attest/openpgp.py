"""OpenPGP as packages need it: certificates of RSA keys, version 4 signatures, ASCII armor. Standard library, no I/O.

rpm and dnf accept certificates and signatures of this form only. Whoever has the RSA operation signs; it may be a key
in a file, a security module or a service. Signatures hold no random value: the same message, time and key give the same
bytes. Formats: RFC 4880 (sections named below), with the issuer's fingerprint of RFC 9580, 5.2.3.35.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

CERTIFICATE, SIGNATURE = "PUBLIC KEY BLOCK", "SIGNATURE"
"""Kinds of armor."""
MAX_CERTIFICATES = 1 << 18
"""Bytes of a file with certificates."""
MAX_SIGNATURE = 4096
"""Bytes of a signature packet; one by RSA-3072 has about 420."""
MIN_BITS, MAX_BITS = 2048, 8192
"""Of an RSA key."""
DAY = 86400
Sign = Callable[[bytes], bytes]
"""Gives the RSA signature of a message: PKCS#1 v1.5 over its SHA-256 (RFC 8017, 8.2)."""

# Packet tags (4.3), algorithms (9.1, 9.4), types of signatures (5.2.1), and their subpackets (5.2.3.1).
_SIGNATURE, _PUBLIC_KEY, _USER_ID = 2, 6, 13
_RSA, _SHA256 = 1, 8
_OVER_BYTES, _CERTIFICATIONS, _REVOCATION = 0x00, range(0x10, 0x14), 0x20
_POSITIVE = 0x13
_TIME, _EXPIRES_AFTER, _ISSUER, _NOTATION, _HASHES, _PRIMARY, _FLAGS, _SIGNER, _FINGERPRINT = (
    2, 9, 16, 20, 21, 25, 27, 28, 33,
)  # fmt: skip
_MAY_CERTIFY, _MAY_SIGN = 1, 2
_HASHED = frozenset((_TIME, _ISSUER, _NOTATION, _SIGNER, _FINGERPRINT))
"""What a signature that was made elsewhere may hold."""
_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
"""DER of what says SHA-256 in front of the digest (RFC 8017, 9.2)."""
_LINE = 64
_BLOCK = re.compile(
    rb"-----BEGIN PGP ([A-Z ]{1,30})-----\r?\n(?:[A-Za-z]+: [^\r\n]*\r?\n)*\r?\n"
    rb"([A-Za-z0-9+/=\r\n]*?)(?:=([A-Za-z0-9+/]{4})\r?\n)?-----END PGP \1-----"
)


@dataclass(frozen=True)
class Public:
    """The public part of a key."""

    modulus: int
    exponent: int
    created: int
    """Seconds since 1970; part of the key's identity."""

    @property
    def body(self) -> bytes:
        """Of its packet (5.5.2)."""
        head = b"\x04" + self.created.to_bytes(4, "big") + bytes([_RSA])
        return head + _mpi(self.modulus) + _mpi(self.exponent)

    @property
    def hashed(self) -> bytes:
        """As fingerprints and signatures cover it (5.2.4, 12.2)."""
        return b"\x99" + len(self.body).to_bytes(2, "big") + self.body

    @property
    def fingerprint(self) -> str:
        """40 hexadecimal digits, upper case."""
        return hashlib.sha1(self.hashed, usedforsecurity=False).hexdigest().upper()


@dataclass(frozen=True)
class Certificate:
    """A key with its owner's name, as the key itself signed it."""

    public: Public
    user_id: str
    expires: int | None
    """Seconds since 1970, or None if it does not expire."""
    data: bytes
    """All of its packets."""


@dataclass(frozen=True)
class Signature:
    """A signature packet that was parsed, not verified."""

    kind: int
    time: int
    issuer: str
    """Fingerprint, or the end of it; empty if the packet does not say."""
    hashed: dict[int, bytes]
    """Subpackets that are covered, by type."""
    unhashed: dict[int, bytes]
    trailer: bytes
    """What is hashed after the message (5.2.4)."""
    left: bytes
    """The first two bytes of the digest, as the packet has them."""
    value: int


def certificate(public: Public, sign: Sign, user_id: str, days: int = 0) -> bytes:
    """The certificate of a key that certifies and signs; with `days` it expires so long after the key was made."""
    name = user_id.encode()
    hashed = [
        (_TIME, public.created.to_bytes(4, "big")),
        (_FLAGS, bytes([_MAY_CERTIFY | _MAY_SIGN])),
        (_HASHES, bytes([_SHA256])),
        (_PRIMARY, b"\x01"),
    ]
    if days:
        hashed.append((_EXPIRES_AFTER, (days * DAY).to_bytes(4, "big")))
    covered = public.hashed + b"\xb4" + len(name).to_bytes(4, "big") + name
    binding = _signature(public, sign, _POSITIVE, covered, hashed)
    return _packet(_PUBLIC_KEY, public.body) + _packet(_USER_ID, name) + binding


def signature(public: Public, sign: Sign, message: bytes, time: int) -> bytes:
    """The packet of a detached signature over bytes, made at `time` as far as it says."""
    return _signature(public, sign, _OVER_BYTES, message, [(_TIME, time.to_bytes(4, "big"))])


def armor(data: bytes, kind: str) -> bytes:
    """ASCII armor (6.2) without headers: one form for the same bytes."""
    text = base64.b64encode(data)
    lines = b"".join(text[i : i + _LINE] + b"\n" for i in range(0, len(text), _LINE))
    check = base64.b64encode(_crc24(data).to_bytes(3, "big"))
    return f"-----BEGIN PGP {kind}-----\n\n".encode() + lines + b"=" + check + f"\n-----END PGP {kind}-----\n".encode()


def armor_certificates(found: list[Certificate]) -> bytes:
    """Certificates in one file, each in an armor of its own: rpm reads only one of each."""
    return b"".join(armor(c.data, CERTIFICATE) for c in found)


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


def created(certificates: bytes) -> int:
    """When the first key of a file with certificates was made. Raises ValueError."""
    return read_certificates(certificates)[0].public.created


def fingerprint(certificates: bytes) -> str:
    """Of the first key of a file with certificates. Raises ValueError."""
    return read_certificates(certificates)[0].public.fingerprint


def read_certificates(data: bytes) -> list[Certificate]:
    """The certificates in a file, armored or binary, the one that signs first.

    Raises ValueError if there is none, or for any that is not an RSA key which certifies and signs by itself.
    """
    if len(data) > MAX_CERTIFICATES:
        raise ValueError(f"larger than {MAX_CERTIFICATES} bytes")
    found: list[Certificate] = []
    packets = list(_packets(dearmor(data, CERTIFICATE) or data))
    starts = [i for i, (tag, _) in enumerate(packets) if tag == _PUBLIC_KEY]
    if not starts or starts[0]:
        raise ValueError("expected OpenPGP certificates")
    for start, end in zip(starts, [*starts[1:], len(packets)], strict=True):
        found.append(_certificate(packets[start:end]))
    if len({c.public.fingerprint for c in found}) != len(found):
        raise ValueError("a certificate stands twice")
    return found


def read_signature(packet: bytes) -> Signature:
    """Parse one signature packet, RSA over SHA-256 (5.2.3). Raises ValueError for anything else."""
    found = list(_packets(packet)) if len(packet) <= MAX_SIGNATURE else []
    if len(found) != 1 or found[0][0] != _SIGNATURE:
        raise ValueError("expected one OpenPGP signature packet")
    return _read_signature(found[0][1])


def checked_packet(packet: bytes, public: Public, message: bytes) -> tuple[bytes, int]:
    """A signature that was made elsewhere, in the form that this module writes, and the time it says.

    Raises ValueError unless it is one packet by that key over the message, without subpackets that mean more
    than time and issuer.
    """
    parsed = read_signature(packet)
    if parsed.kind != _OVER_BYTES:
        raise ValueError(f"its type is 0x{parsed.kind:02x}; expected 0x00, a detached signature of binary data")
    if not parsed.issuer or not public.fingerprint.endswith(parsed.issuer):
        raise ValueError(f"it is by key {parsed.issuer or '(unknown)'}; expected {public.fingerprint}")
    if other := (set(parsed.hashed) - _HASHED) | (set(parsed.unhashed) - {_ISSUER, _FINGERPRINT}):
        raise ValueError(f"it has subpackets of the types {sorted(other)}")
    if not _verifies(public, message, parsed):
        raise ValueError(f"it is not a signature of {public.fingerprint} over what was to be signed")
    return _packet(_SIGNATURE, next(_packets(packet))[1]), parsed.time


def _certificate(packets: list[tuple[int, bytes]]) -> Certificate:
    """From the packets of one; user ids and subkeys that the key did not sign are not looked at."""
    public, user_id, covered = _read_public(packets[0][1]), "", b""
    newest: Signature | None = None
    name = b""
    for tag, body in packets[1:]:
        if tag == _USER_ID:
            name = body
            covered = public.hashed + b"\xb4" + len(name).to_bytes(4, "big") + name
        elif tag != _SIGNATURE:
            covered = b""  # of a subkey: what follows binds it
        elif (own := _own(public, body)) is not None:
            if own.kind == _REVOCATION:
                raise ValueError(f"the key {public.fingerprint} was revoked")
            over_name = own.kind in _CERTIFICATIONS and covered and _verifies(public, covered, own)
            if over_name and (newest is None or own.time >= newest.time):
                newest, user_id = own, _shown(name)
    if newest is None:
        raise ValueError(f"the key {public.fingerprint} has no user id that it signed with SHA-256")
    if (newest.hashed.get(_FLAGS, b"\0")[0]) & _MAY_SIGN == 0:
        raise ValueError(f"the key {public.fingerprint} is not made for signing: its flags do not say so")
    lasts = int.from_bytes(newest.hashed.get(_EXPIRES_AFTER, b""), "big")
    data = b"".join(_packet(tag, body) for tag, body in packets)
    return Certificate(public, user_id, public.created + lasts if lasts else None, data)


def _shown(name: bytes) -> str:
    """A user id that cannot steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in name.decode("utf-8", "replace"))


def _own(public: Public, body: bytes) -> Signature | None:
    """A signature in a certificate, if it is by the key itself and of a form that counts."""
    try:
        parsed = _read_signature(body)
    except ValueError:
        return None
    return parsed if parsed.issuer and public.fingerprint.endswith(parsed.issuer) else None


def _read_public(body: bytes) -> Public:
    if len(body) < 10 or body[0] != 4 or body[5] != _RSA:
        raise ValueError("expected a version 4 RSA key")
    modulus, rest = _read_mpi(body[6:])
    exponent, rest = _read_mpi(rest)
    if rest or not MIN_BITS <= modulus.bit_length() <= MAX_BITS or not 2 < exponent < 1 << 64 or exponent % 2 == 0:
        raise ValueError(f"expected an RSA key of {MIN_BITS} to {MAX_BITS} bits")
    return Public(modulus, exponent, int.from_bytes(body[1:5], "big"))


def _read_signature(body: bytes) -> Signature:
    if len(body) < 10 or body[0] != 4 or body[2] != _RSA or body[3] != _SHA256:
        raise ValueError("expected a version 4 signature, RSA over SHA-256")
    end = 6 + int.from_bytes(body[4:6], "big")
    hashed, after = _subpackets(body[6:end]), end + 2 + int.from_bytes(body[end : end + 2], "big")
    unhashed = _subpackets(body[end + 2 : after])
    value, rest = _read_mpi(body[after + 2 :])
    if rest or len(hashed.get(_TIME, b"")) != 4:
        raise ValueError("malformed signature")
    named = {**unhashed, **hashed}
    issuer = named[_FINGERPRINT][1:] if _FINGERPRINT in named else named.get(_ISSUER, b"")
    time = int.from_bytes(hashed[_TIME], "big")
    trailer = body[:end] + b"\x04\xff" + end.to_bytes(4, "big")
    left = body[after : after + 2]
    return Signature(body[1], time, issuer.hex().upper(), hashed, unhashed, trailer, left, value)


def _signature(public: Public, sign: Sign, kind: int, covered: bytes, hashed: list[tuple[int, bytes]]) -> bytes:
    own = bytes.fromhex(public.fingerprint)
    head = bytes([4, kind, _RSA, _SHA256]) + _area([*hashed, (_FINGERPRINT, b"\x04" + own)])
    message = covered + head + b"\x04\xff" + len(head).to_bytes(4, "big")
    value = int.from_bytes(sign(message), "big")
    tail = _area([(_ISSUER, own[-8:])]) + hashlib.sha256(message).digest()[:2]
    return _packet(_SIGNATURE, head + tail + _mpi(value))


def _verifies(public: Public, covered: bytes, parsed: Signature) -> bool:
    """RSASSA-PKCS1-v1_5 (RFC 8017, 8.2.2): the whole encoded message is compared."""
    size = (public.modulus.bit_length() + 7) // 8
    digest = hashlib.sha256(covered + parsed.trailer).digest()
    told = _DIGEST_INFO + digest
    expected = b"\x00\x01" + b"\xff" * (size - len(told) - 3) + b"\x00" + told
    if parsed.value >= public.modulus or parsed.left != digest[:2]:
        return False
    return pow(parsed.value, public.exponent, public.modulus).to_bytes(size, "big") == expected


def _packet(tag: int, body: bytes) -> bytes:
    """With the old header (4.2.1), which every reader knows."""
    if len(body) < 256:
        return bytes([0x80 | tag << 2, len(body)]) + body
    return bytes([0x81 | tag << 2]) + len(body).to_bytes(2, "big") + body


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
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


def _subpackets(area: bytes) -> dict[int, bytes]:
    """Subpackets by type (5.2.3.1). Raises ValueError if one stands twice."""
    found: dict[int, bytes] = {}
    position = 0
    while position < len(area):
        size, position = _length(area, position, partial=False)
        if not 0 < size <= len(area) - position:
            raise ValueError("a subpacket is cut off")
        kind = area[position] & 0x7F
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


def _area(subpackets: list[tuple[int, bytes]]) -> bytes:
    body = b"".join(bytes([1 + len(data), kind]) + data for kind, data in subpackets)
    return len(body).to_bytes(2, "big") + body


def _mpi(value: int) -> bytes:
    """A number with its length in bits (3.2)."""
    return value.bit_length().to_bytes(2, "big") + value.to_bytes((value.bit_length() + 7) // 8, "big")


def _read_mpi(data: bytes) -> tuple[int, bytes]:
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
