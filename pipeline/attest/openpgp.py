"""OpenPGP as packages need it: certificates of RSA keys, version 4 signatures, ASCII armor. Standard library, no I/O.

rpm and dnf accept certificates and signatures of this form only. Whoever has the RSA operation signs; it may be a key
in a file, a security module or a service. Signatures hold no random value: the same message, time and key give the same
bytes. Formats: RFC 4880 (sections named below), with the issuer's fingerprint of RFC 9580, 5.2.3.35.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.attest.packets import (
    CERTIFICATE,
    SIGNATURE,
    armor,
    dearmor,
    read_mpi,
    read_packets,
    read_subpackets,
    write_mpi,
    write_packet,
    write_subpackets,
)

__all__ = [
    "CERTIFICATE",
    "SIGNATURE",
    "Certificate",
    "Public",
    "armor",
    "certificate",
    "created",
    "dearmor",
    "fingerprint",
    "signature",
]

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
_OVER_BYTES, _CERTIFICATIONS, _REVOCATION, _NAME_REVOCATION = 0x00, range(0x10, 0x14), 0x20, 0x30
_POSITIVE = 0x13
_TIME, _ENDS_AFTER, _EXPIRES_AFTER, _ISSUER, _NOTATION, _HASHES, _PRIMARY, _FLAGS, _SIGNER, _FINGERPRINT = (
    2, 3, 9, 16, 20, 21, 25, 27, 28, 33,
)  # fmt: skip
_MAY_CERTIFY, _MAY_SIGN = 1, 2
_KNOWN = frozenset((_TIME, _ENDS_AFTER, _EXPIRES_AFTER, _ISSUER, _HASHES, _PRIMARY, _FLAGS, _FINGERPRINT))
"""What may be critical."""
_HASHED = frozenset((_TIME, _ISSUER, _NOTATION, _SIGNER, _FINGERPRINT))
"""What a signature that was made elsewhere may hold."""
_DIGESTS = {
    _SHA256: ("sha256", bytes.fromhex("3031300d060960864801650304020105000420")),
    9: ("sha384", bytes.fromhex("3041300d060960864801650304020205000430")),
    10: ("sha512", bytes.fromhex("3051300d060960864801650304020305000440")),
}
"""Hash algorithms, each with the DER that says so in front of a digest (RFC 8017, 9.2)."""


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
        return head + write_mpi(self.modulus) + write_mpi(self.exponent)

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
    """Its packets: the key, the name, and the key's signature over both."""


@dataclass(frozen=True)
class Signature:
    """A signature packet that was parsed, not verified."""

    kind: int
    time: int
    issuers: tuple[str, ...]
    """All fingerprints, and ends of them, that the packet names as whose it is."""
    hashed: dict[int, bytes]
    """Subpackets that are covered, by type; critical ones that are not known have another number."""
    unhashed: dict[int, bytes]
    algorithm: int
    """Of the hash."""
    head: bytes
    """What of the packet is covered."""
    left: bytes
    """The first two bytes of the digest, as the packet has them."""
    value: int

    @property
    def trailer(self) -> bytes:
        """What is hashed after the message (5.2.4)."""
        return self.head + b"\x04\xff" + len(self.head).to_bytes(4, "big")


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
    return write_packet(_PUBLIC_KEY, public.body) + write_packet(_USER_ID, name) + binding


def signature(public: Public, sign: Sign, message: bytes, time: int) -> bytes:
    """The packet of a detached signature over bytes, made at `time` as far as it says."""
    return _signature(public, sign, _OVER_BYTES, message, [(_TIME, time.to_bytes(4, "big"))])


def armor_certificates(found: list[Certificate]) -> bytes:
    """Certificates in one file, each in an armor of its own: rpm reads only one of each."""
    return b"".join(armor(c.data, CERTIFICATE) for c in found)


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
    packets = list(read_packets(dearmor(data, CERTIFICATE) or data))
    starts = [i for i, (tag, _) in enumerate(packets) if tag == _PUBLIC_KEY]
    if not starts or starts[0]:
        raise ValueError("expected OpenPGP certificates")
    for start, end in zip(starts, [*starts[1:], len(packets)], strict=True):
        found.append(_certificate(packets[start:end]))
    if len({c.public.fingerprint for c in found}) != len(found):
        raise ValueError("a certificate stands twice")
    return found


def checked_packet(packet: bytes, public: Public, message: bytes) -> tuple[bytes, int]:
    """A signature that was made elsewhere, in the form that this module writes, and the time it says.

    Raises ValueError unless it is one packet by that key over the message, without subpackets that mean more
    than time and issuer.
    """
    found = list(read_packets(packet)) if len(packet) <= MAX_SIGNATURE else []
    if [tag for tag, _ in found] != [_SIGNATURE]:
        raise ValueError("expected one OpenPGP signature packet")
    parsed = _read_signature(found[0][1])
    if (parsed.kind, parsed.algorithm) != (_OVER_BYTES, _SHA256):
        form = f"its type is 0x{parsed.kind:02x}, its hash algorithm {parsed.algorithm}"
        raise ValueError(f"{form}; expected 0x00, a detached signature of binary data, and 8, SHA-256")
    if not parsed.issuers or not _is_by(parsed, public):
        raise ValueError(f"it is by key {' or '.join(parsed.issuers) or '(unknown)'}; expected {public.fingerprint}")
    if other := (set(parsed.hashed) - _HASHED) | (set(parsed.unhashed) - {_ISSUER, _FINGERPRINT}):
        raise ValueError(f"it has subpackets of the types {sorted(other)}")
    if not _verifies(public, message, parsed):
        raise ValueError(f"it is not a signature of {public.fingerprint} over what was to be signed")
    return write_packet(_SIGNATURE, parsed.head + _tail(public, parsed.left, parsed.value)), parsed.time


def _certificate(packets: list[tuple[int, bytes]]) -> Certificate:
    """From the packets of one; of them the key, and the name that it signed last, are kept."""
    public, covered = _read_public(packets[0][1]), b""
    newest: Signature | None = None
    name, kept = b"", (b"", b"")
    for tag, body in packets[1:]:
        if tag == _USER_ID:
            name = body
            covered = public.hashed + b"\xb4" + len(name).to_bytes(4, "big") + name
        elif tag != _SIGNATURE:
            covered = b""  # of a subkey: what follows binds it
        elif (own := _own(public, body)) is not None:
            if own.kind == _REVOCATION:
                raise ValueError(f"the key {public.fingerprint} was revoked")
            if own.kind == _NAME_REVOCATION:
                raise ValueError(f"a name of the key {public.fingerprint} was revoked: export it without that name")
            over_name = own.kind in _CERTIFICATIONS and covered and _verifies(public, covered, own)
            if over_name and (newest is None or own.time >= newest.time):
                newest, kept = own, (name, body)
    if newest is None:
        raise ValueError(f"the key {public.fingerprint} has no user id that it signed with SHA-2")
    if not any(flags & _MAY_SIGN for flags in newest.hashed.get(_FLAGS, b"")[:1]):
        raise ValueError(f"the key {public.fingerprint} is not made for signing: its flags do not say so")
    lasts = [(public.created, _EXPIRES_AFTER), (newest.time, _ENDS_AFTER)]
    ends = [start + after for start, kind in lasts if (after := int.from_bytes(newest.hashed.get(kind, b""), "big"))]
    parts = ((_PUBLIC_KEY, packets[0][1]), (_USER_ID, kept[0]), (_SIGNATURE, kept[1]))
    data = b"".join(write_packet(tag, body) for tag, body in parts)
    return Certificate(public, _shown(kept[0]), min(ends, default=None), data)


def _shown(name: bytes) -> str:
    """A user id that cannot steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in name.decode("utf-8", "replace"))


def _own(public: Public, body: bytes) -> Signature | None:
    """A signature in a certificate, if it is by the key itself and of a form that counts."""
    try:
        parsed = _read_signature(body)
    except ValueError:
        return None
    critical = any(kind & 0x80 for kind in parsed.hashed)
    return parsed if parsed.issuers and _is_by(parsed, public) and not critical else None


def _is_by(parsed: Signature, public: Public) -> bool:
    """Whether nothing in a signature says that it is by another key."""
    return all(public.fingerprint.endswith(issuer) for issuer in parsed.issuers)


def _read_public(body: bytes) -> Public:
    if len(body) < 10 or body[0] != 4 or body[5] != _RSA:
        raise ValueError("expected a version 4 RSA key")
    modulus, rest = read_mpi(body[6:])
    exponent, rest = read_mpi(rest)
    if rest or not MIN_BITS <= modulus.bit_length() <= MAX_BITS or not 65537 <= exponent < 1 << 32:
        raise ValueError(f"expected an RSA key of {MIN_BITS} to {MAX_BITS} bits")
    return Public(modulus, exponent, int.from_bytes(body[1:5], "big"))


def _read_signature(body: bytes) -> Signature:
    """A signature, RSA over SHA-2 (5.2.3). Raises ValueError for any other."""
    if len(body) < 10 or body[0] != 4 or body[2] != _RSA or body[3] not in _DIGESTS:
        raise ValueError("expected a version 4 signature, RSA over SHA-256")
    end = 6 + int.from_bytes(body[4:6], "big")
    hashed, after = read_subpackets(body[6:end], _KNOWN), end + 2 + int.from_bytes(body[end : end + 2], "big")
    unhashed = read_subpackets(body[end + 2 : after], _KNOWN)
    value, rest = read_mpi(body[after + 2 :])
    if rest or len(hashed.get(_TIME, b"")) != 4:
        raise ValueError("malformed signature")
    left, time = body[after : after + 2], int.from_bytes(hashed[_TIME], "big")
    issuers = [area[_FINGERPRINT][1:] for area in (hashed, unhashed) if _FINGERPRINT in area]
    issuers += [area[_ISSUER] for area in (hashed, unhashed) if _ISSUER in area]
    named = tuple(i.hex().upper() for i in issuers)
    return Signature(body[1], time, named, hashed, unhashed, body[3], body[:end], left, value)


def _signature(public: Public, sign: Sign, kind: int, covered: bytes, hashed: list[tuple[int, bytes]]) -> bytes:
    own = bytes.fromhex(public.fingerprint)
    head = bytes([4, kind, _RSA, _SHA256]) + write_subpackets([*hashed, (_FINGERPRINT, b"\x04" + own)])
    message = covered + head + b"\x04\xff" + len(head).to_bytes(4, "big")
    value = int.from_bytes(sign(message), "big")
    return write_packet(_SIGNATURE, head + _tail(public, hashlib.sha256(message).digest()[:2], value))


def _tail(public: Public, left: bytes, value: int) -> bytes:
    """What of a signature is not covered."""
    return write_subpackets([(_ISSUER, bytes.fromhex(public.fingerprint)[-8:])]) + left + write_mpi(value)


def _verifies(public: Public, covered: bytes, parsed: Signature) -> bool:
    """RSASSA-PKCS1-v1_5 (RFC 8017, 8.2.2): the whole encoded message is compared."""
    size = (public.modulus.bit_length() + 7) // 8
    name, told = _DIGESTS[parsed.algorithm]
    digest = hashlib.new(name, covered + parsed.trailer).digest()
    told += digest
    expected = b"\x00\x01" + b"\xff" * (size - len(told) - 3) + b"\x00" + told
    if parsed.value >= public.modulus or parsed.left != digest[:2]:
        return False
    return pow(parsed.value, public.exponent, public.modulus).to_bytes(size, "big") == expected
