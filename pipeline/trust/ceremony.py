"""What people do with a trust root: make it, sign what waits, replace a key, renew what expires, change the policy.

Each step stages metadata; `sign_pending` adds the signatures of the keys at hand and publishes what has enough of them.
A root that replaces another is signed by as many keys of the old one as it asked for, and by as many of its own.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.attest.keys import new_key, read_public
from pipeline.attest.layout import LAYOUT_TARGET, compile_layout
from pipeline.errors import TrustError, UsageError
from pipeline.lock import write_atomically
from pipeline.trust.policy import compile_policy
from pipeline.trust.repository import NAME_FIELD, RELEASE, RELEASE_PATHS, TrustRepository, read_envelope, signed_root
from pipeline.verifier.tuf import POLICY_TARGET

if TYPE_CHECKING:
    from securesystemslib.signer import Key, SSlibKey
    from tuf.api.metadata import Root

SIGSTORE_TARGET = "trusted_root.json"
"""The roots of the Sigstore instance whose certificates the policy names."""
SINGLE = ("targets", "snapshot", "timestamp")
"""Roles of the root metadata that have one key."""
POLICY_ROLES = ("builder", "rebuilder", RELEASE)
"""Roles whose keys stand in policy and layout."""


@dataclass
class Outcome:
    """What a step came to."""

    signed: dict[str, list[str]] = field(default_factory=dict)
    """Staged file to the keys that signed it now."""
    published: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    """Staged file to what it lacks."""


@dataclass(frozen=True)
class Ring:
    """Keys by keyid, of which as many as `threshold` have to sign."""

    keys: "dict[str, Key]"
    threshold: int


@dataclass(frozen=True)
class Sources:
    """What the offline targets are made from."""

    policy: Path
    layout: Path
    checkout: Path
    trusted_root: Path | None = None


def root_roles(repository: TrustRepository) -> list[str]:
    """The names of the root's keys: root-1, root-2, …"""
    return [f"root-{n}" for n in range(1, repository.settings.root.keys + 1)]


def init(repository: TrustRepository, name: str, sources: Sources) -> Outcome:
    """Stage root 1 and targets 1 from the public keys at hand. Raises UsageError if there is a trust root already."""
    from tuf.api.metadata import Role, Root

    if repository.exists or repository.version("root"):
        raise UsageError(f"{repository.folder} holds a trust root; it is not replaced", "./inv trust status")
    with repository.writing():
        public = {role: read_public(role, repository.keys) for role in (*root_roles(repository), *SINGLE)}
        refuse_shared({**public, **_policy_keys(repository)})
        roles = {role: Role([str(public[role].keyid)], 1) for role in SINGLE}
        roles["root"] = Role([str(public[r].keyid) for r in root_roles(repository)], repository.settings.root.threshold)
        keys: dict[str, Key] = {str(k.keyid): k for k in public.values()}
        root = Root(1, expires=repository.expiry("root"), keys=keys, roles=roles, consistent_snapshot=True)
        root.unrecognized_fields[NAME_FIELD] = name
        repository.stage("root", root)
        stage_targets(repository, sources)
        return _sign_pending(repository)


def refuse_shared(keys: "dict[str, SSlibKey]") -> None:
    """Raise TrustError for a key that stands under two roles."""
    seen: dict[str, str] = {}
    for role, key in sorted(keys.items()):
        other = seen.setdefault(str(key.keyval["public"]), role)
        if other != role:
            raise TrustError(f"{other} and {role} have one key", "give each role a key of its own")


def _policy_keys(repository: TrustRepository) -> "dict[str, SSlibKey]":
    return {r: read_public(r, repository.keys) for r in POLICY_ROLES if (repository.keys / f"{r}.pub").is_file()}


def stage_targets(repository: TrustRepository, sources: Sources) -> bool:
    """Stage targets for the policy and layout as they stand; returns whether they differ from what is published."""
    from tuf.api.metadata import DelegatedRole, Delegations

    def public(role: str) -> "SSlibKey":
        return read_public(role, repository.keys)

    files = {
        POLICY_TARGET: compile_policy(sources.policy, sources.checkout, public),
        LAYOUT_TARGET: compile_layout(sources.layout, {r: public(r) for r in ("builder", "rebuilder")}),
    }
    if sources.trusted_root:
        files[SIGSTORE_TARGET] = sources.trusted_root.read_bytes()
    named = {path: repository.keep_target(path, data) for path, data in files.items()}
    key = public(RELEASE)
    role = DelegatedRole(RELEASE, [str(key.keyid)], 1, terminating=True, paths=RELEASE_PATHS)
    targets = repository.new_targets("targets", named)
    targets.delegations = Delegations({str(key.keyid): key}, roles={RELEASE: role})
    if repository.version("targets"):
        old = repository.read_targets("targets")
        if SIGSTORE_TARGET in old.targets and not sources.trusted_root:
            targets.targets[SIGSTORE_TARGET] = old.targets[SIGSTORE_TARGET]
        if (old.targets, old.delegations) == (targets.targets, targets.delegations):
            return False
    repository.stage("targets", targets)
    return True


def sign_pending(repository: TrustRepository, only: str = "") -> Outcome:
    """Sign what waits with the keys at hand, or the one of the role `only`; publish what has enough signatures."""
    with repository.writing():
        return _sign_pending(repository, only)


def sign_file(repository: TrustRepository, path: Path, role: str) -> list[str]:
    """Sign one staged file, on a machine that holds a key and no repository. Raises TrustError, UsageError."""
    if not path.is_file():
        raise UsageError(f"--metadata {path}: there is no such file")
    return repository.add_signatures(path, {str(read_public(role, repository.keys).keyid)})


def rotate(repository: TrustRepository, role: str, sources: Sources, passphrase: str = "") -> Outcome:
    """Replace the key of a role by a new one, and stage the metadata that say so.

    The old key's files stay, as ROLE-KEYID8: the next root needs its signature. Raises UsageError, TrustError.
    """
    known = (*root_roles(repository), *SINGLE, *POLICY_ROLES)
    if role not in known:
        raise UsageError(f"--role {role}: expected one of {', '.join(known)}")
    if not repository.exists:
        raise TrustError(f"{repository.folder} holds no trust root", "./inv trust init")
    with repository.writing():
        old = read_public(role, repository.keys)
        for suffix in ("key", "uri", "pub"):
            path = repository.keys / f"{role}.{suffix}"
            if path.exists():
                path.rename(path.with_name(f"{role}-{str(old.keyid)[:8]}.{suffix}"))
        new = new_key(role, repository.keys, passphrase)
        if role in POLICY_ROLES:
            stage_targets(repository, sources)
            return _sign_pending(repository)
        root = repository.read_root()
        place = "root" if role.startswith("root-") else role
        root.revoke_key(str(old.keyid), place)
        root.add_key(new, place)
        root.version, root.expires = root.version + 1, repository.expiry("root")
        repository.stage("root", root)
        if role == "targets":
            repository.stage("targets", repository.new_targets("targets"))
        return _sign_pending(repository)


def refresh(repository: TrustRepository, sources: Sources) -> Outcome:
    """Renew what is signed online, and stage targets if policy or layout have changed, a root if it expires soon."""
    if not repository.exists and not repository.staged():
        raise TrustError(f"{repository.folder} holds no trust root", "./inv trust init")
    with repository.writing():
        soon = datetime.now(UTC) + timedelta(days=repository.settings.warn.days)
        if repository.exists:
            root = repository.read_root()
            if root.expires < soon:
                root.version, root.expires = root.version + 1, repository.expiry("root")
                repository.stage("root", root)
            if not stage_targets(repository, sources) and repository.read("targets").expires < soon:
                repository.stage("targets", repository.new_targets("targets"))
        outcome = _sign_pending(repository)
        if repository.exists and not outcome.published:
            repository.renew_release()
            repository.publish_online()
            outcome.published.append("timestamp.json")
        return outcome


def _sign_pending(repository: TrustRepository, only: str = "") -> Outcome:
    outcome = Outcome()
    for path in repository.staged():
        is_root = path.name.endswith(".root.json")
        rings = _root_rings(repository, path) if is_root else [_targets_ring(repository)]
        allowed = {keyid for ring in rings for keyid in ring.keys}
        if only:
            allowed &= {str(read_public(only, repository.keys).keyid)}
        if signed := repository.add_signatures(path, allowed):
            outcome.signed[path.name] = signed
        lacking = max(ring.threshold - _count(path, ring) for ring in rings)
        if lacking > 0:
            outcome.waiting[path.name] = f"{lacking} more signature" + ("s" if lacking > 1 else "")
        elif any(name.endswith(".root.json") for name in outcome.waiting):
            outcome.waiting[path.name] = "the root before it"
        else:
            repository.metadata.mkdir(exist_ok=True)
            write_atomically(repository.metadata / path.name, path.read_bytes())
            path.unlink()
            outcome.published.append(path.name)
    if outcome.published and repository.version("targets") and not outcome.waiting:
        repository.publish_online()
        outcome.published.append("timestamp.json")
    return outcome


def _root_rings(repository: TrustRepository, path: Path) -> list[Ring]:
    """Whose signatures a staged root needs: its own keys', and those of the one before."""
    roots = [signed_root(read_envelope(path))]
    if repository.version("root"):
        roots.append(repository.read_root())
    return [_ring(root, "root") for root in roots]


def _targets_ring(repository: TrustRepository) -> Ring:
    """Whose signatures targets need: by the root that waits, if one does."""
    staged = [p for p in repository.staged() if p.name.endswith(".root.json")]
    return _ring(signed_root(read_envelope(staged[-1])) if staged else repository.read_root(), "targets")


def _ring(root: "Root", role: str) -> Ring:
    found = root.roles[role]
    return Ring({k: root.keys[k] for k in found.keyids}, found.threshold)


def _count(path: Path, ring: Ring) -> int:
    """How many of a ring's keys have signed a file. Raises TrustError for a signature that is not good."""
    from securesystemslib.exceptions import UnverifiedSignatureError

    envelope = read_envelope(path)
    signed = [k for k in envelope.signatures if k in ring.keys]
    for keyid in signed:
        try:
            ring.keys[keyid].verify_signature(envelope.signatures[keyid], envelope.pae())
        except UnverifiedSignatureError as error:
            raise TrustError(f"{path}: the signature of {keyid[:8]} is not good", "stage it again") from error
    return len(signed)
