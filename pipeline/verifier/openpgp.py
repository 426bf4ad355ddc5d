"""OpenPGP as RPM uses it: certificates of RSA keys, and detached signatures of version 4, in files or in packages.

Read strictly, as far as packages and repositories of ours go: what is not understood counts for nothing, or is refused.
Numbers in brackets are sections of RFC 9580; RFC 4880 has the same formats. openssl does the arithmetic.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.verifier.clock import render_time
from pipeline.verifier.der import INTEGER, OBJECT, SEQUENCE, encode
from pipeline.verifier.encoding import Refused
from pipeline.verifier.openssl import PublicKey, verifies

MAX_KEY_FILE = 1 << 18
MAX_ARMORED = 64 << 10
"""Bytes of a file with a signature."""
MAX_PACKETS = 256
"""Of all certificates in a file."""
PGP_SIGNATURES = 4
"""Signatures looked at in one place: two keys may sign while one replaces the other."""
PGP_BITS = range(2048, 8193)
"""Of a modulus."""

_CERTIFICATES, _DETACHED = "PUBLIC KEY BLOCK", "SIGNATURE"
_SIGNATURE_PACKET, _KEY_PACKET, _NAME_PACKET, _SUBKEY_PACKET = 2, 6, 13, 14
_RSA_KEY = 1
_PGP_HASHES = {8: "sha256", 9: "sha384", 10: "sha512"}
"""[9.5]; others do not count."""
_OF_BYTES, _CERTIFYING, _DIRECT, _REVOKING = 0x00, range(0x10, 0x14), 0x1F, (0x20, 0x30)
"""Types of signatures [5.2.1]."""
_MADE, _SIGNATURE_ENDS, _KEY_ENDS, _KEY_ID, _FLAGS, _FINGERPRINT = 2, 3, 9, 16, 27, 33
"""Types of subpackets [5.2.3.7]; of others none may be critical."""
_MAY_SIGN = 0x02
"""Key flag [5.2.3.29]."""
_RSA_ALGORITHM = encode(SEQUENCE, encode(OBJECT, bytes.fromhex("2a864886f70d010101")), b"\x05\x00")
"""rsaEncryption, without parameters (RFC 8017, A.1)."""
_BIT_STRING = 0x03
_ARMORED = re.compile(
    rb"-----BEGIN PGP ([A-Z ]{1,30})-----\n\n"
    rb"((?:[A-Za-z0-9+/=]{1,76}\n)+?)(?:=([A-Za-z0-9+/]{4})\n)?-----END PGP \1-----\n"
)


@dataclass(frozen=True)
class RsaKey:
    """The numbers of a key."""

    key: PublicKey
    octets: int
    """Of the modulus, and of every signature."""


@dataclass(frozen=True)
class PgpKey:
    """A primary key that may sign, as its own signatures describe it."""

    rsa: RsaKey
    fingerprint: str
    """40 hexadecimal digits, upper case [5.5.4.2]."""
    created: int
    """Seconds since 1970."""
    expires: int | None
    """The same; None if it does not."""


@dataclass(frozen=True)
class PgpSignature:
    """A signature that was read; whose it is has yet to be found out."""

    kind: int
    made: int
    """Seconds since 1970."""
    ends: int | None
    issuer: str
    """Fingerprint, or the last 16 digits of it."""
    digest: str
    """Which SHA-2, as openssl calls it."""
    covered: bytes
    """What is hashed after the message [5.2.4]."""
    left: bytes
    """The first two bytes of the digest."""
    value: bytes
    hashed: dict[int, bytes]
    """Subpackets that are signed, by type."""


def read_pgp_keys(data: bytes, what: str) -> list[PgpKey]:
    """The certificates in an armored file, in its order. Raises Refused for one that cannot be relied on."""
    packets = [p for block in _unarmored(data, _CERTIFICATES, what) for p in _read_packets(block, what)]
    starts = [i for i, (tag, _) in enumerate(packets) if tag == _KEY_PACKET]
    if not starts or starts[0] or len(packets) > MAX_PACKETS:
        raise Refused(what, "holds no certificates, or too much else")
    ends = [*starts[1:], len(packets)]
    found = [_read_pgp_key(packets[start : ends[i]], what) for i, start in enumerate(starts)]
    if len({k.fingerprint for k in found}) != len(found):
        raise Refused(what, "holds a certificate twice")
    return found


def verify_armored(message: bytes, data: bytes, keys: Iterable[PgpKey], what: str) -> tuple[PgpKey, PgpSignature]:
    """Who of `keys` made the detached signature in an armored file. Raises Refused, naming `what` was signed."""
    (block, *others) = _unarmored(data, _DETACHED, what)
    if others:
        raise Refused(what, "has a file of signatures that is not as it should be")
    return verify_pgp(message, block, keys, what)


def verify_pgp(message: bytes, packets: bytes, keys: Iterable[PgpKey], what: str) -> tuple[PgpKey, PgpSignature]:
    """Who of `keys` made a detached signature, at a time at which the key was valid; of several one is enough.

    Raises Refused, naming `what` was signed, with the reason of the last one.
    """
    found = _read_packets(packets, what)
    if not found or len(found) > PGP_SIGNATURES or any(tag != _SIGNATURE_PACKET for tag, _ in found):
        raise Refused(what, "has something else where signatures are expected", f"1 to {PGP_SIGNATURES} signatures")
    known = {key.fingerprint: key for key in keys}
    refused = Refused(what, "is not signed")
    for _, body in found:
        try:
            signature = _read_signature(body, what)
            return _signed_by(signature, message, known, what), signature
        except Refused as reason:
            refused = reason
    raise refused


def _signed_by(signature: PgpSignature, message: bytes, known: dict[str, PgpKey], what: str) -> PgpKey:
    key = next((k for k in known.values() if k.fingerprint.endswith(signature.issuer)), None)
    if key is None:
        raise Refused(what, "is signed by a key that is not trusted for it", ", ".join(known), signature.issuer)
    if signature.kind != _OF_BYTES or not _covers(signature, message, key.rsa):
        raise Refused(what, "was changed after it was signed, or is signed by somebody else", key.fingerprint)
    ends = min((e for e in (key.expires, signature.ends) if e is not None), default=signature.made + 1)
    if not key.created <= signature.made < ends:
        limits = f"{render_time(key.created)} to {render_time(ends)}"
        reason = f"is signed at a time at which the key {key.fingerprint} was not valid"
        raise Refused(what, reason, limits, render_time(signature.made))
    return key


def _covers(signature: PgpSignature, message: bytes, rsa: RsaKey) -> bool:
    data = message + signature.covered
    if hashlib.new(signature.digest, data).digest()[:2] != signature.left or len(signature.value) > rsa.octets:
        return False
    # A multiprecision integer has no zeros in front; RFC 8017, 8.2.2 wants them.
    return verifies(rsa.key, data, signature.value.rjust(rsa.octets, b"\0"), signature.digest)


def _read_pgp_key(packets: list[tuple[int, bytes]], what: str) -> PgpKey:
    """A certificate [10.1]: its newest signature over itself or a name says what it is for, and for how long.

    Subkeys, and what others sign about the key, count for nothing.
    """
    body = packets[0][1]
    rsa, created = _read_rsa(body, what)
    hashed = b"\x99" + len(body).to_bytes(2, "big") + body
    fingerprint = hashlib.sha1(hashed, usedforsecurity=False).hexdigest().upper()
    newest: PgpSignature | None = None
    covered = b""  # of the name before a signature
    for tag, content in packets[1:]:
        if tag == _SUBKEY_PACKET:
            break  # whatever follows is about subkeys
        if tag == _NAME_PACKET:
            covered = b"\xb4" + len(content).to_bytes(4, "big") + content
        elif tag == _SIGNATURE_PACKET:
            own = _read_signature(content, what)
            if not fingerprint.endswith(own.issuer):
                continue
            if own.kind in _REVOKING:
                raise Refused(what, f"holds the key {fingerprint}, which was revoked")
            about = b"" if own.kind == _DIRECT else covered
            known = own.kind == _DIRECT or (own.kind in _CERTIFYING and covered)
            if not known or not _covers(own, hashed + about, rsa):
                raise Refused(what, f"holds the key {fingerprint} with a signature of its own that is not good")
            if newest is None or own.made >= newest.made:
                newest = own
        else:
            raise Refused(what, "holds packets that no certificate of ours has", "", f"tag {tag}")
    if newest is None or not int.from_bytes(newest.hashed.get(_FLAGS, b"")[:1], "big") & _MAY_SIGN:
        raise Refused(what, f"holds the key {fingerprint}, which does not say itself that it may sign")
    seconds = int.from_bytes(newest.hashed.get(_KEY_ENDS, b""), "big")
    ends = [e for e in (created + seconds if seconds else None, newest.ends) if e is not None]
    return PgpKey(rsa, fingerprint, created, min(ends, default=None))


def _read_rsa(body: bytes, what: str) -> tuple[RsaKey, int]:
    """A public key of version 4 [5.5.2] as openssl reads it, and when it was made."""
    if body[:1] != b"\x04" or body[5:6] != bytes([_RSA_KEY]):
        raise Refused(what, "holds a key of another kind", "RSA, version 4", body[:6].hex())
    numbers = _read_numbers(body[6:], 2, what)
    modulus, exponent = (int.from_bytes(n, "big") for n in numbers)
    if modulus.bit_length() not in PGP_BITS or not modulus & exponent & 1 or not 65537 <= exponent < 1 << 32:
        raise Refused(what, "holds an RSA key that nobody should use", "2048 to 8192 bits", str(modulus.bit_length()))
    inner = encode(SEQUENCE, *(encode(INTEGER, b"\0" * (n[0] >> 7) + n) for n in numbers))
    spki = encode(SEQUENCE, _RSA_ALGORITHM, encode(_BIT_STRING, b"\0" + inner))
    return RsaKey(PublicKey(spki), len(numbers[0])), int.from_bytes(body[1:5], "big")


def _read_signature(body: bytes, what: str) -> PgpSignature:
    """A signature packet of version 4, RSA over SHA-2 [5.2.3]. Raises Refused for any other."""
    digest = _PGP_HASHES.get(int.from_bytes(body[3:4], "big"), "")
    if body[:1] != b"\x04" or body[2:3] != bytes([_RSA_KEY]) or not digest:
        raise Refused(what, "has a signature that does not count", "version 4, RSA, SHA-256 or better", body[:4].hex())
    end = 6 + int.from_bytes(body[4:6], "big")
    rest = end + 2 + int.from_bytes(body[end : end + 2], "big")
    hashed, other = _read_subpackets(body[6:end], what), _read_subpackets(body[end + 2 : rest], what)
    if len(body) < rest + 2 or len(hashed.get(_MADE, b"")) != 4 or set(other) - {_KEY_ID, _FINGERPRINT}:
        raise Refused(what, "has a malformed signature")
    made = int.from_bytes(hashed[_MADE], "big")
    seconds = int.from_bytes(hashed.get(_SIGNATURE_ENDS, b""), "big")
    (value,) = _read_numbers(body[rest + 2 :], 1, what)
    return PgpSignature(
        body[1],
        made,
        made + seconds if seconds else None,
        _issuer_of(hashed, other, what),
        digest,
        body[:end] + b"\x04\xff" + end.to_bytes(4, "big"),
        body[rest : rest + 2],
        value,
        hashed,
    )


def _issuer_of(hashed: dict[int, bytes], other: dict[int, bytes], what: str) -> str:
    """Who a signature says that it is by; a hint that is not signed must agree with one that is."""
    prints = {p[_FINGERPRINT][1:].hex().upper() for p in (hashed, other) if _FINGERPRINT in p}
    ids = {p[_KEY_ID].hex().upper() for p in (hashed, other) if _KEY_ID in p} | {p[-16:] for p in prints}
    if len(ids) != 1 or len(prints) > 1 or any(len(i) != 16 for i in ids) or any(len(p) != 40 for p in prints):
        raise Refused(what, "has a signature that does not say, in one voice, whose it is")
    return next(iter(prints or ids))


def _read_subpackets(data: bytes, what: str) -> dict[int, bytes]:
    """Subpackets by type [5.2.3.7]. Raises Refused for a type that stands twice, or is critical and unknown."""
    known = {_MADE, _SIGNATURE_ENDS, _KEY_ENDS, _KEY_ID, _FLAGS, _FINGERPRINT}
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        size, start = _length_at(data, at, 255)
        content = data[start : start + size]
        if not size or len(content) != size:
            raise Refused(what, "has a signature that was cut off")
        kind = content[0] & 0x7F
        if kind in found if kind in known else content[0] & 0x80:
            raise Refused(what, "has a signature with a condition that is not known here", "", f"subpacket {kind}")
        found[kind] = content[1:]
        at = start + size
    return found


def _read_numbers(data: bytes, count: int, what: str) -> list[bytes]:
    """So many multiprecision integers [3.2], without zeros in front, and nothing behind them."""
    found = []
    at = 0
    for _ in range(count):
        bits = int.from_bytes(data[at : at + 2], "big")
        number = data[at + 2 : at + 2 + (bits + 7) // 8]
        if not number or int.from_bytes(number, "big").bit_length() != bits:
            raise Refused(what, "has a malformed number in a key or a signature")
        found.append(number)
        at += 2 + len(number)
    if at != len(data):
        raise Refused(what, "has more in a key or a signature than belongs there")
    return found


def _read_packets(data: bytes, what: str) -> list[tuple[int, bytes]]:
    """Packets as tag and body [4.2], of both formats, with lengths that are known. Raises Refused."""
    found = []
    at = 0
    while at < len(data):
        head = data[at]
        if head & 0xC0 == 0xC0:
            tag = head & 0x3F
            size, start = _length_at(data, at + 1, 224)
        else:
            tag, start = head >> 2 & 0x0F, at + {0: 2, 1: 3, 2: 5}.get(head & 3, 1)
            size = int.from_bytes(data[at + 1 : start], "big")
        body = data[start : start + size]
        if not head & 0x80 or not body or len(body) != size:
            raise Refused(what, "has OpenPGP packets that are malformed or cut off")
        found.append((tag, body))
        at = start + size
    return found


def _length_at(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A length of one, two or five octets, and where it ends; two of them begin below `end` [4.2.1, 5.2.3.7].

    The length is 0 for any other form, which nothing has.
    """
    first = int.from_bytes(data[at : at + 1], "big")
    if first < 192:
        return first, at + 1
    if first < end:
        return (first - 192 << 8) + int.from_bytes(data[at + 1 : at + 2], "big") + 192, at + 2
    return int.from_bytes(data[at + 1 : at + 5], "big") if first == 255 else 0, at + 5


def _unarmored(data: bytes, label: str, what: str) -> list[bytes]:
    """What the blocks of a file hold [6.2]; it has nothing besides them, and their sums are right. Raises Refused."""
    limit = MAX_KEY_FILE if label == _CERTIFICATES else MAX_ARMORED
    found, at = [], 0
    while at < len(data) <= limit and (match := _ARMORED.match(data, at)):
        try:
            block = binascii.a2b_base64(match[2])
        except binascii.Error:
            break
        text, check = match[2].replace(b"\n", b""), base64.b64encode(_crc24(block))
        if match[1] != label.encode() or base64.b64encode(block) != text or match[3] not in (None, check):
            break
        found.append(block)
        at = match.end()
    if not found or at != len(data):
        raise Refused(what, f"has no OpenPGP armor as it should be: PGP {label}, without headers")
    return found


def _crc24(data: bytes) -> bytes:
    """The checksum of armor [6.1.1]."""
    value = 0xB704CE
    for byte in data:
        value ^= byte << 16
        for _ in range(8):
            value = value << 1 ^ (0x1864CFB if value & 0x800000 else 0)
    return value.to_bytes(3, "big")
