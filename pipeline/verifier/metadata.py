"""The metadata of The Update Framework (specification 1.0, section 4): what is read of each role, strictly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pipeline.verifier.clock import read_time
from pipeline.verifier.encoding import Refused, parse
from pipeline.verifier.envelope import Envelope, Keyring
from pipeline.verifier.openssl import PublicKey, read_key

TUF_PAYLOAD = "application/vnd.tuf+json"
ROLES = ("root", "timestamp", "snapshot", "targets")
MAX_METADATA = 8 << 20
"""Bytes of a file of metadata."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileFacts:
    """How metadata name a file."""

    length: int
    sha256: str
    version: int = 0
    """Of metadata; 0 of a target."""
    yanked: str = ""
    """Of a release: why it was taken back."""
    release: str = ""
    """Of a release: its version."""


@dataclass(frozen=True)
class Signed:
    """What all roles have, and the rest of the payload."""

    version: int
    expires: int
    """Seconds since 1970."""
    body: dict[str, Any]


@dataclass(frozen=True)
class RootFacts:
    """Whom a root trusts."""

    signed: Signed
    rings: dict[str, Keyring]
    """By role."""
    name: str
    """Whose root it is; `development` of one that nobody should rely on."""


@dataclass(frozen=True)
class Delegation:
    """Whom the targets role lets name some of the targets."""

    name: str
    ring: Keyring
    paths: tuple[str, ...]
    terminating: bool


def read_signed(envelope: Envelope, kind: str, what: str) -> Signed:
    """The payload of a role. Raises Refused."""
    body = parse(envelope.payload, what, MAX_METADATA)
    if not isinstance(body, dict) or body.get("_type") != kind:
        found = body.get("_type") if isinstance(body, dict) else body
        raise Refused(what, "is metadata of another role", kind, str(found)[:60])
    if not str(body.get("spec_version")).startswith("1."):
        raise Refused(what, "follows another specification", "1.*", str(body.get("spec_version"))[:60])
    return Signed(read_count(body.get("version"), what), read_time(body.get("expires"), what), body)


def read_root(envelope: Envelope, what: str) -> RootFacts:
    """A root: four roles with their keys, each key once. Raises Refused."""
    signed = read_signed(envelope, "root", what)
    if signed.body.get("consistent_snapshot") is not True:
        raise Refused(what, "is not of a repository with consistent snapshots")
    roles = signed.body.get("roles")
    if not isinstance(roles, dict) or set(roles) != set(ROLES):
        raise Refused(what, "does not have the four roles", ", ".join(ROLES))
    keys = _read_keys(signed.body.get("keys"), what)
    name = signed.body.get("x-rfo-name")
    return RootFacts(
        signed, {r: _read_ring(v, keys, what) for r, v in roles.items()}, name if isinstance(name, str) else ""
    )


def read_named(value: Any, what: str, *, metadata: bool) -> FileFacts:
    """How metadata name another file; length and SHA-256 are never left out here. Raises Refused."""
    hashes = value.get("hashes") if isinstance(value, dict) else None
    digest = hashes.get("sha256") if isinstance(hashes, dict) else None
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise Refused(what, "names a file without its SHA-256")
    custom = value.get("custom", {})
    if not isinstance(custom, dict):
        raise Refused(what, "has malformed facts about a target")
    yanked, release = custom.get("yanked", ""), custom.get("version", "")
    if not isinstance(yanked, str) or not isinstance(release, str) or ("yanked" in custom and not yanked):
        raise Refused(what, "has malformed facts about a target")
    version = read_count(value.get("version"), what) if metadata else 0
    return FileFacts(read_count(value.get("length"), what), digest, version, yanked, release)


def read_meta(signed: Signed, names: tuple[str, ...], what: str) -> dict[str, FileFacts]:
    """What timestamp and snapshot name: exactly `names`. Raises Refused."""
    meta = signed.body.get("meta")
    if not isinstance(meta, dict) or set(meta) != set(names):
        found = ", ".join(sorted(meta)) if isinstance(meta, dict) else ""
        raise Refused(what, "does not name the metadata that it should", ", ".join(names), found[:200])
    return {name: read_named(value, what, metadata=True) for name, value in meta.items()}


def read_targets(signed: Signed, what: str) -> dict[str, FileFacts]:
    """The targets that a role names. Raises Refused."""
    targets = signed.body.get("targets")
    if not isinstance(targets, dict):
        raise Refused(what, "names no targets")
    return {name: read_named(value, what, metadata=False) for name, value in targets.items()}


def read_delegations(signed: Signed, what: str) -> list[Delegation]:
    """Whom the targets role delegates to, in its order. Raises Refused."""
    value = signed.body.get("delegations")
    if value is None:
        return []
    if not isinstance(value, dict) or not isinstance(value.get("roles"), list):
        raise Refused(what, "has malformed delegations")
    keys = _read_keys(value.get("keys"), what)
    found = []
    for role in value["roles"]:
        paths = role.get("paths") if isinstance(role, dict) else None
        if (
            not isinstance(paths, list)
            or not all(isinstance(p, str) for p in paths)
            or not isinstance(role.get("name"), str)
        ):
            raise Refused(what, "has a delegation without a name or paths")
        found.append(
            Delegation(role["name"], _read_ring(role, keys, what), tuple(paths), role.get("terminating") is True)
        )
    if len({d.name for d in found}) != len(found):
        raise Refused(what, "delegates to one role twice")
    return found


def read_count(value: Any, what: str) -> int:
    """A whole number from 1. Raises Refused."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 53:
        raise Refused(what, "has a malformed number", "a whole number from 1", str(value)[:60])
    return value


def _read_keys(value: Any, what: str) -> dict[str, PublicKey]:
    if not isinstance(value, dict):
        raise Refused(what, "has no keys")
    keys = {keyid: read_key(key, what) for keyid, key in value.items()}
    if len(set(keys.values())) != len(keys):
        raise Refused(what, "has one key under two names, which would count twice")
    return keys


def _read_ring(value: Any, keys: dict[str, PublicKey], what: str) -> Keyring:
    names = value.get("keyids") if isinstance(value, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n in keys for n in names):
        raise Refused(what, "has a role without keys, or with one that it does not hold")
    if len(set(names)) != len(names):
        raise Refused(what, "has a role that names a key twice")
    threshold = read_count(value.get("threshold"), what)
    if threshold > len(names):
        raise Refused(
            what, "has a role that needs more signatures than it has keys", f"at most {len(names)}", str(threshold)
        )
    return Keyring({n: keys[n] for n in names}, threshold)
