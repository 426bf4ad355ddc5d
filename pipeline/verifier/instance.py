"""Sigstore instances: whose certificates, logs and timestamps count.

Format of the file: TrustedRoot in sigstore/protobuf-specs sigstore_trustroot.proto.
"""

from __future__ import annotations

import base64
import calendar
import hashlib
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pipeline.verifier.der import Certificate, read_certificate
from pipeline.verifier.encoding import Refused, decode64, parse
from pipeline.verifier.openssl import P256, PublicKey

TRUSTED_ROOT = "application/vnd.dev.sigstore.trustedroot+json;version="
MAX_INSTANCE = 1 << 20
_FOREVER = 1 << 62
_RFC3339 = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]{1,9})?(?:Z|\+00:00)")
_ED25519 = bytes.fromhex("302a300506032b6570032100")
"""What the DER form of such a key begins with (RFC 8410, section 4); the 32 bytes of the key follow."""


@dataclass(frozen=True)
class Window:
    """When something may have been used, in seconds since 1970."""

    start: int
    end: int

    def __contains__(self, moment: int) -> bool:
        return self.start <= moment <= self.end


@dataclass(frozen=True)
class Authority:
    """An authority that issues certificates, or one that issues timestamps."""

    chain: tuple[Certificate, ...]
    """From the issuer of the signer's certificate, or from that of the timestamps, up to the root."""
    window: Window


@dataclass(frozen=True)
class LogKey:
    """The key of a transparency log."""

    key: PublicKey
    """ECDSA P-256 or Ed25519."""
    id: bytes
    """What entries and certificates name the log by."""
    origin: str
    """What checkpoints name the log by."""
    window: Window

    @property
    def is_ed25519(self) -> bool:
        """Whether it is not of the usual kind; only OpenSSL 3 verifies it."""
        return self.key.spki.startswith(_ED25519)


@dataclass(frozen=True)
class Instance:
    """All that is trusted of a Sigstore instance."""

    authorities: tuple[Authority, ...]
    timestamps: tuple[Authority, ...]
    logs: tuple[LogKey, ...]
    """Of signatures."""
    certificate_logs: tuple[LogKey, ...]


def read_instance(data: bytes, what: str) -> Instance:
    """The instance in a trusted root. Raises Refused, naming `what`, also for keys under ids that are not theirs."""
    value = _object_of(parse(data, what, MAX_INSTANCE), what)
    if not str(value.get("mediaType")).startswith(TRUSTED_ROOT):
        raise Refused(what, "is no trusted root of Sigstore", TRUSTED_ROOT, str(value.get("mediaType"))[:100])
    return Instance(
        tuple(_read_authority(v, what, 1) for v in _items(value, "certificateAuthorities", what)),
        tuple(_read_authority(v, what, 2) for v in _items(value, "timestampAuthorities", what)),
        _read_logs(value, "tlogs", what),
        _read_logs(value, "ctlogs", what),
    )


def _read_authority(value: dict[str, Any], what: str, least: int) -> Authority:
    chain = _items(_object_of(value.get("certChain"), what), "certificates", what)
    if len(chain) < least:
        raise Refused(what, "has an authority with too few certificates", str(least), str(len(chain)))
    certificates = tuple(read_certificate(decode64(c.get("rawBytes"), what), what) for c in chain)
    return Authority(certificates, _read_window(value.get("validFor"), what))


def _read_logs(value: dict[str, Any], name: str, what: str) -> tuple[LogKey, ...]:
    """The logs in a list; those with keys of other kinds count for nothing. Raises Refused if none is left."""
    found = tuple(k for v in _items(value, name, what) if (k := _read_log(v, what, noted=name == "tlogs")))
    if not found:
        raise Refused(what, f"has only logs in {name} whose keys are of kinds that are not accepted", "ECDSA P-256")
    return found


def _read_log(value: dict[str, Any], what: str, noted: bool) -> LogKey | None:
    """A log. `noted`: its checkpoints are signed notes, and its id is that of their keys (C2SP signed-note.md)."""
    public = _object_of(value.get("publicKey"), what)
    key = PublicKey(decode64(public.get("rawBytes"), what))
    origin = urlsplit(str(value.get("baseUrl"))).hostname or ""
    found = decode64(_object_of(value.get("logId"), what).get("keyId"), what)
    if key.spki[: len(P256)] == P256 and len(key.spki) == len(P256) + 64:
        expected = hashlib.sha256(key.spki).digest()
    elif noted and key.spki[:-32] == _ED25519:
        expected = hashlib.sha256(origin.encode() + b"\n\x01" + key.spki[-32:]).digest()
    else:
        return None
    if found != expected:
        wanted, given = base64.b64encode(expected).decode(), base64.b64encode(found).decode()
        raise Refused(what, f"names the log {origin} by an id that does not belong to its key", wanted, given)
    return LogKey(key, expected, origin, _read_window(public.get("validFor"), what))


def _read_window(value: Any, what: str) -> Window:
    given = _object_of(value, what)
    end = _seconds(given["end"], what) if given.get("end") is not None else _FOREVER
    return Window(_seconds(given.get("start"), what), end)


def _seconds(text: Any, what: str) -> int:
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    try:
        if match:
            return calendar.timegm(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        pass
    raise Refused(what, "has a malformed time", "YYYY-MM-DDThh:mm:ssZ", str(text)[:60])


def _object_of(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(what, "has something else where an object is expected", "", str(value)[:60])
    return value


def _items(value: dict[str, Any], name: str, what: str) -> list[dict[str, Any]]:
    found = value.get(name)
    if not isinstance(found, list) or not 0 < len(found) <= 100:
        raise Refused(what, f"has no list {name} with something in it")
    return [_object_of(v, what) for v in found]
