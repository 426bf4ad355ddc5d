"""The client of the trust root (TUF specification 1.0, section 5), on the snapshot that a release carries.

Roots chain from the one that the host trusts; each other role is checked against the newest. Expiry is not decided
here: what has expired is listed, since the caller may have been told to accept it.
"""

from __future__ import annotations

import fnmatch
import hashlib
from dataclasses import dataclass, field

from pipeline.verifier.encoding import Refused
from pipeline.verifier.envelope import Envelope, Keyring, read_envelope, require_signers, signers_of
from pipeline.verifier.folder import Folder, Missing
from pipeline.verifier.metadata import (
    TUF_PAYLOAD,
    FileFacts,
    RootFacts,
    Signed,
    read_delegations,
    read_meta,
    read_root,
    read_signed,
    read_targets,
)
from pipeline.verifier.state import State

METADATA = "trust/metadata/"
TARGETS = "trust/targets/"
MAX_ROOT = 512 << 10
MAX_TIMESTAMP = 64 << 10
MAX_NAMED = 8 << 20
"""Bytes of any other file of the trust root."""
MAX_ROOTS = 1024
POLICY_TARGET = "policy.json"
NEEDED = (POLICY_TARGET, "trusted_root.json")
"""Targets that judging takes; the second one only where the trust root names it."""
ROOT_HINT = "x-rfo-root"
"""Field of the timestamp: the version of the newest root, so that a client knows that it has to ask for it."""


class NewerRoot(Refused):
    """Metadata that the newest root at hand does not vouch for; one that replaced its keys may."""

    def __init__(self, refused: Refused, path: str) -> None:
        super().__init__(refused.subject, refused.reason, refused.expected, refused.found)
        self.path = path
        """Of the next root."""


@dataclass
class Trust:
    """What the trust root says, checked down to its targets."""

    root: RootFacts
    root_file: bytes
    timestamp_file: bytes = b""
    versions: dict[str, int] = field(default_factory=dict)
    """Of the metadata, by role."""
    expires: dict[str, int] = field(default_factory=dict)
    """Seconds since 1970, by role."""
    targets: dict[str, FileFacts] = field(default_factory=dict)
    """What the offline role names."""
    releases: dict[str, FileFacts] = field(default_factory=dict)
    """What the roles that it delegates to name."""
    delegated: dict[str, Keyring] = field(default_factory=dict)
    """The keys of those roles."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Content of targets that were read, by name."""
    known: set[str] = field(default_factory=set)
    """Paths below the release's folder that were checked."""

    @property
    def development(self) -> bool:
        """Whether nobody should rely on this root."""
        return self.root.name == "development"


def read_trust(folder: Folder, given: bytes, state: State) -> Trust:
    """The trust root's metadata and policy in a release's folder, as far as roots lead there from a trusted one.

    `given` is the root that the caller trusts; the newer one that `state` has goes before it. Raises Refused.
    """
    trust, old = _roots(folder, given, state)
    _timestamp_and_snapshot(folder, trust, old, state)
    if POLICY_TARGET not in trust.targets:
        raise Refused(f"{METADATA}{trust.versions['targets']}.targets.json", f"does not name {POLICY_TARGET}")
    for name, facts in sorted(trust.targets.items()):
        path = f"{TARGETS}{facts.sha256}.{name}"
        if name in NEEDED or path in folder.sizes:
            trust.files[name] = read_file(folder, path, facts)
            trust.known.add(path)
    return trust


def find_release(trust: Trust, name: str) -> FileFacts:
    """How the trust root names the statement of the release whose folder is called `name`. Raises Refused."""
    path = f"releases/{name}/release.sigstore.json"
    facts = trust.targets.get(path) or trust.releases.get(path)
    if facts is None:
        raise Refused(path, "is not named by the trust root: this is no release, or its metadata are older")
    return facts


def read_file(folder: Folder, path: str, facts: FileFacts) -> bytes:
    """A file that metadata name by length and digest. Raises Refused."""
    limit = min(facts.length, MAX_NAMED) if path.startswith("trust/") else facts.length
    data = folder.read(path, limit)
    check_named(data, facts, path)
    return data


def check_named(data: bytes, facts: FileFacts, what: str) -> None:
    """Raise Refused for other bytes than metadata name."""
    found = hashlib.sha256(data).hexdigest()
    if len(data) != facts.length or found != facts.sha256:
        raise Refused(what, "is not the file that the trust root names", facts.sha256, found)


def _roots(folder: Folder, given: bytes, state: State) -> tuple[Trust, RootFacts]:
    """The newest root, and the one of last time; also checks roots that are older than the host's."""
    start = state.root or given
    envelope = read_envelope(start, "the root that this host trusts", MAX_ROOT, TUF_PAYLOAD)
    old = newest = _self_signed(envelope, "the root that this host trusts")
    payloads = {newest.signed.version: envelope.payload}
    trust = Trust(newest, start)
    _older_roots(folder, trust, payloads)
    while _root_path(newest.signed.version + 1) in folder.sizes:
        path = _root_path(newest.signed.version + 1)
        data = folder.read(path, MAX_ROOT)
        envelope = read_envelope(data, path, MAX_ROOT, TUF_PAYLOAD)
        newest = _successor(newest, envelope, path)
        payloads[newest.signed.version] = envelope.payload
        trust.root, trust.root_file = newest, data
        trust.known.add(path)
        if newest.signed.version > MAX_ROOTS:
            raise Refused(path, "is one root too many")
    trust.versions["root"], trust.expires["root"] = newest.signed.version, newest.signed.expires
    if state.root:
        _same_root(given, payloads)
    return trust, old


def _older_roots(folder: Folder, trust: Trust, payloads: dict[int, bytes]) -> None:
    """Check the roots up to the host's, which nothing rests on: they are files of the release like any other."""
    own, own_payload = trust.root.signed.version, payloads[trust.root.signed.version]
    before: RootFacts | None = None
    for version in range(1, own + 1):
        path = _root_path(version)
        if path not in folder.sizes:
            if before:
                raise Refused(path, "is missing between other roots")
            continue
        envelope = read_envelope(folder.read(path, MAX_ROOT), path, MAX_ROOT, TUF_PAYLOAD)
        before = _successor(before, envelope, path) if before else _self_signed(envelope, path)
        if before.signed.version != version:
            raise Refused(path, "has another version than its name", str(version), str(before.signed.version))
        if version == own and envelope.payload != own_payload:
            raise Refused(path, "is another root than the one that this host trusts")
        payloads[version] = envelope.payload
        trust.known.add(path)


def _self_signed(envelope: Envelope, what: str) -> RootFacts:
    """A root that its own keys have signed; where one may have come before it, perhaps also those. Raises Refused."""
    root = read_root(envelope, what)
    ring = root.rings["root"]
    first = root.signed.version == 1
    known = {k: v for k, v in envelope.signatures.items() if first or k in ring.keys}
    require_signers(signers_of(Envelope(envelope.payload, envelope.kind, known), ring.keys, what), ring, what)
    return root


def _successor(before: RootFacts, envelope: Envelope, what: str) -> RootFacts:
    """The next root, signed by the keys of both. Raises Refused."""
    root = read_root(envelope, what)
    if root.signed.version != before.signed.version + 1:
        expected = str(before.signed.version + 1)
        raise Refused(what, "does not follow the root before it", expected, str(root.signed.version))
    old, new = before.rings["root"], root.rings["root"]
    found = signers_of(envelope, {**old.keys, **new.keys}, what)
    require_signers(found, old, what)
    require_signers(found, new, what)
    return root


def _same_root(given: bytes, payloads: dict[int, bytes]) -> None:
    """Refuse a root that was given and is none of the chain that leads to what this host trusts."""
    envelope = read_envelope(given, "the root that was given", MAX_ROOT, TUF_PAYLOAD)
    root = _self_signed(envelope, "the root that was given")
    if payloads.get(root.signed.version, envelope.payload) != envelope.payload:
        raise Refused("the root that was given", "is not of the trust root that this host has accepted before")


def _timestamp_and_snapshot(folder: Folder, trust: Trust, old: RootFacts, state: State) -> None:
    path = f"{METADATA}timestamp.json"
    trust.timestamp_file = folder.read(path, MAX_TIMESTAMP)
    timestamp = _checked(trust, "timestamp", path, trust.timestamp_file)
    named = read_meta(timestamp, ("snapshot.json",), path)["snapshot.json"]
    _refuse_older(trust, old, state, timestamp, named, path)
    hint = timestamp.body.get(ROOT_HINT, 1)
    if not isinstance(hint, int) or hint > trust.root.signed.version:
        raise Missing(_root_path(trust.root.signed.version + 1), MAX_ROOT)
    snapshot = _named_metadata(folder, trust, "snapshot", named)
    meta_path = f"{METADATA}{named.version}.snapshot.json"
    names = ("targets.json", "release.json") if "release.json" in snapshot.body.get("meta", {}) else ("targets.json",)
    meta = read_meta(snapshot, names, meta_path)
    fresh = _rotated(trust.root, old, "snapshot")
    for name, facts in meta.items():
        if facts.version < state.metadata.get(name, 0) and not fresh:
            raise Refused(meta_path, f"leads back to an older {name}", str(state.metadata[name]), str(facts.version))
    targets = _named_metadata(folder, trust, "targets", meta["targets.json"])
    trust.targets = read_targets(targets, f"{METADATA}{meta['targets.json'].version}.targets.json")
    _delegated(folder, trust, targets, meta)


def _delegated(folder: Folder, trust: Trust, targets: Signed, meta: dict[str, FileFacts]) -> None:
    """What the one delegated role names, of the paths that it may name."""
    what = f"{METADATA}{targets.version}.targets.json"
    for delegation in read_delegations(targets, what):
        name = f"{delegation.name}.json"
        if name not in meta:
            raise Refused(what, f"delegates to {delegation.name}, which the snapshot does not name")
        facts, trust.delegated[delegation.name] = meta[name], delegation.ring
        path = f"{METADATA}{facts.version}.{name}"
        envelope = read_envelope(read_file(folder, path, facts), path, MAX_NAMED, TUF_PAYLOAD)
        require_signers(signers_of(envelope, delegation.ring.keys, path), delegation.ring, path)
        signed = read_signed(envelope, "targets", path)
        _note(trust, delegation.name, signed, facts.version, path)
        for target, found in read_targets(signed, path).items():
            if not any(_matches(target, pattern) for pattern in delegation.paths):
                raise Refused(path, f"names {target}, which it may not", ", ".join(delegation.paths))
            trust.releases.setdefault(target, found)


def _matches(target: str, pattern: str) -> bool:
    """TUF's patterns of paths: part by part, so that a wildcard matches no slash."""
    parts, patterns = target.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _named_metadata(folder: Folder, trust: Trust, role: str, facts: FileFacts) -> Signed:
    path = f"{METADATA}{facts.version}.{role}.json"
    signed = _checked(trust, role, path, read_file(folder, path, facts))
    _note(trust, role, signed, facts.version, path)
    return signed


def _checked(trust: Trust, role: str, path: str, data: bytes) -> Signed:
    """Metadata that the keys of a role in the newest root have signed. Raises Refused; NewerRoot if one may help."""
    envelope = read_envelope(data, path, MAX_NAMED, TUF_PAYLOAD)
    ring = trust.root.rings[role]
    try:
        require_signers(signers_of(envelope, ring.keys, path), ring, path)
    except Refused as refused:
        raise NewerRoot(refused, _root_path(trust.root.signed.version + 1)) from refused
    signed = read_signed(envelope, role, path)
    _note(trust, role, signed, signed.version, path)
    return signed


def _note(trust: Trust, role: str, signed: Signed, version: int, path: str) -> None:
    if signed.version != version:
        raise Refused(path, "has another version than it is named by", str(version), str(signed.version))
    trust.versions[role], trust.expires[role] = signed.version, signed.expires
    trust.known.add(path)


def _refuse_older(trust: Trust, old: RootFacts, state: State, timestamp: Signed, named: FileFacts, path: str) -> None:
    """Refuse metadata older than what this host has seen, unless their keys were replaced since (fast-forward)."""
    if state.timestamp is None or _rotated(trust.root, old, "timestamp") or _rotated(trust.root, old, "snapshot"):
        return
    what = "the timestamp that this host has accepted"
    envelope = read_envelope(state.timestamp, what, MAX_TIMESTAMP, TUF_PAYLOAD)
    before = read_signed(envelope, "timestamp", what)
    last = read_meta(before, ("snapshot.json",), what)["snapshot.json"]
    if timestamp.version < before.version or named.version < last.version:
        raise Refused(
            path,
            "is older than what this host has accepted before",
            f"version {before.version} or later, of snapshot {last.version} or later",
            f"version {timestamp.version}, of snapshot {named.version}",
        )
    if timestamp.version == before.version and (named, timestamp.expires) != (last, before.expires):
        raise Refused(path, "is another one than was accepted before under the same version")


def _rotated(new: RootFacts, old: RootFacts, role: str) -> bool:
    return new.rings[role].contents != old.rings[role].contents


def _root_path(version: int) -> str:
    return f"{METADATA}{version}.root.json"
