"""What people do with a trust root: make it, sign what waits, replace a key, renew what expires, change the policy.

Each step stages metadata; `sign_pending` adds the signatures of the keys at hand and publishes what waits, all of it
together, once each file has enough of them. A root that replaces another is signed by as many keys of the old one as
it asked for, and by as many of its own. Stopped anywhere, the same step or `refresh` goes on.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.attest.keys import parse_public, read_public
from pipeline.attest.layout import LAYOUT_TARGET, compile_layout
from pipeline.attest.root import read_root
from pipeline.errors import TrustError, UsageError
from pipeline.trust.envelopes import RELEASE, Ring, describe, read_root_file, read_targets_file, release_ring, root_ring
from pipeline.trust.policy import compile_policy, published_policy
from pipeline.trust.repository import NAME_FIELD, ONLINE, RELEASE_PATHS, TrustRepository
from pipeline.trust.rotation import new_public, read_given, retire
from pipeline.verifier.encoding import Refused
from pipeline.verifier.instance import MAX_INSTANCE, read_instance
from pipeline.verifier.policy import read_policy
from pipeline.verifier.tuf import POLICY_TARGET

if TYPE_CHECKING:
    from securesystemslib.signer import Key, SSlibKey
    from tuf.api.metadata import Root

SIGSTORE_TARGET = "trusted_root.json"
"""The roots of the Sigstore instance whose certificates the policy names."""
SINGLE = ("targets", *ONLINE)
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
    with repository.writing():
        return init_held(repository, name, sources)


def init_held(repository: TrustRepository, name: str, sources: Sources) -> Outcome:
    """The same for a caller that holds the repository."""
    from tuf.api.metadata import Role, Root

    if repository.version("root"):
        raise UsageError(f"{repository.folder} holds a trust root; it is not replaced", "./inv trust status")
    public = {role: read_public(role, repository.keys) for role in (*root_roles(repository), *SINGLE)}
    refuse_shared(public.items())
    roles = {role: Role([str(public[role].keyid)], 1) for role in SINGLE}
    roles["root"] = Role([str(public[r].keyid) for r in root_roles(repository)], repository.settings.root.threshold)
    keys: dict[str, Key] = {str(k.keyid): k for k in public.values()}
    root = Root(1, expires=repository.expiry("root"), keys=keys, roles=roles, consistent_snapshot=True)
    root.unrecognized_fields[NAME_FIELD] = name
    stage_targets(repository, sources, root)
    repository.stage("root", root)
    return sign_held(repository)


def refuse_shared(keys: "Iterable[tuple[str, Key]]") -> None:
    """Raise TrustError for a key that stands under two names."""
    seen: dict[str, str] = {}
    for role, key in sorted(keys, key=lambda k: k[0]):
        other = seen.setdefault(str(key.keyval["public"]), role)
        if other != role:
            raise TrustError(f"{other} and {role} have one key", "give each role a key of its own")


def stage_targets(repository: TrustRepository, sources: Sources, root: "Root", *, always: bool = False) -> bool:
    """Stage targets for the policy and layout as they stand; returns whether they differ from what is published.

    `root` is the one that will be in force; no key of it may stand in the policy too.
    """
    from tuf.api.metadata import DelegatedRole, Delegations

    policy = compile_policy(sources.policy, sources.checkout, lambda role: read_public(role, repository.keys))
    keys = _keys_of(policy, repository)
    refuse_shared(_named(repository, root, keys))
    layout = compile_layout(sources.layout, {r: keys[r] for r in POLICY_ROLES if r != RELEASE})
    files = {POLICY_TARGET: policy, LAYOUT_TARGET: layout}
    if sources.trusted_root:
        files[SIGSTORE_TARGET] = _read_instance(sources.trusted_root)
    named = {path: repository.keep_target(path, data) for path, data in files.items()}
    if repository.version("targets") and not sources.trusted_root:
        kept = repository.read_targets("targets").targets
        named |= {SIGSTORE_TARGET: kept[SIGSTORE_TARGET]} if SIGSTORE_TARGET in kept else {}
    releasing = {str(k.keyid): k for k in keys[RELEASE]}
    role = DelegatedRole(RELEASE, sorted(releasing), 1, terminating=True, paths=RELEASE_PATHS)
    targets = repository.new_targets("targets", named)
    targets.delegations = Delegations(dict(releasing), roles={RELEASE: role})
    waiting = repository.pending / f"{targets.version}.targets.json"
    if waiting.is_file():
        same = read_targets_file(waiting)
        if (same.targets, same.delegations) == (targets.targets, targets.delegations):
            return True  # it keeps the signatures that it has
    elif repository.version("targets") and not always:
        old = repository.read_targets("targets")
        if (old.targets, old.delegations) == (targets.targets, targets.delegations):
            return False
    repository.stage("targets", targets)
    return True


def _read_instance(path: Path) -> bytes:
    """A Sigstore instance's roots, as verifiers will read them. Raises UsageError, TrustError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_INSTANCE + 1)
        read_instance(data, str(path))
    except OSError as error:
        raise UsageError(f"--trusted-root {path}: {error.strerror}") from error
    except Refused as refused:
        raise TrustError(str(refused), "take the trustedRoot of the instance's trust configuration") from refused
    return data


def _keys_of(policy: bytes, repository: TrustRepository) -> "dict[str, list[SSlibKey]]":
    """The keys of those who sign releases, by role: those of the policy; of who signs by certificate, ROLE.pub here."""
    signers = read_policy(policy, POLICY_TARGET).signers
    found = {r: [parse_public(s.key.pem.encode()) for s in signers if s.role == r and s.key] for r in POLICY_ROLES}
    return {role: keys or [read_public(role, repository.keys)] for role, keys in found.items()}


def _named(repository: TrustRepository, root: "Root", keys: "dict[str, list[SSlibKey]]") -> "Iterable[tuple[str, Key]]":
    """Every key with a name for messages."""
    names = repository.names()
    for role, found in root.roles.items():
        yield from ((names.get(k, f"{role} {k[:8]}"), root.keys[k]) for k in found.keyids)
    for role, each in keys.items():
        yield from ((f"{role} of the policy", key) for key in each)


def sign_pending(repository: TrustRepository, only: str = "") -> Outcome:
    """Sign what waits with the keys at hand, or the one of the role `only`; publish once there are enough."""
    with repository.writing():
        return sign_held(repository, only)


def sign_file(repository: TrustRepository, path: Path, role: str) -> list[str]:
    """Sign one staged file, on a machine that holds a key and no repository. Raises TrustError, UsageError."""
    if not path.is_file():
        raise UsageError(f"--metadata {path}: there is no such file")
    describe(path)
    return repository.add_signatures(path, {str(read_public(role, repository.keys).keyid)})


def rotate(
    repository: TrustRepository, role: str, sources: Sources, passphrase: str = "", public: Path | None = None
) -> Outcome:
    """Replace the key of a role, and stage the metadata that say so. Doing it again goes on with the same new key.

    The new key is made here, or elsewhere, and `public` is its public part. The old one's files stay, as
    ROLE-KEYID8: the next root needs its signature. Raises UsageError, TrustError, DefinitionError.
    """
    known = (*root_roles(repository), *SINGLE, *POLICY_ROLES)
    if role not in known:
        raise UsageError(f"--role {role}: expected one of {', '.join(known)}")
    if not repository.version("root"):
        raise TrustError(f"{repository.folder} holds no trust root", "./inv trust init")
    with repository.writing():
        place = "root" if role.startswith("root-") else role
        if role in POLICY_ROLES:
            signers = published_policy(repository).signers
            current = {str(parse_public(s.key.pem.encode()).keyid) for s in signers if s.role == role and s.key}
        else:
            current = set(repository.ring(place).keys)
        given = read_given(role, repository.keys, repository.names(), current, public) if public else None
        old = retire(role, repository.keys, current, every=place != "root")
        new = new_public(role, repository.keys, passphrase, given)
        root = _next_root(repository)
        if role in POLICY_ROLES:
            _adopt(role, new, sources)
            stage_targets(repository, sources, root)
            return sign_held(repository)
        for keyid in old & set(root.roles[place].keyids):
            root.revoke_key(keyid, place)
        if str(new.keyid) not in root.roles[place].keyids:
            root.add_key(new, place)
        stage_targets(repository, sources, root, always=role == "targets")
        repository.stage("root", root)
        return sign_held(repository)


def _adopt(role: str, new: "SSlibKey", sources: Sources) -> None:
    """Write a new public key where the policy's source looks for it. Raises UsageError if that is not one place."""
    from pipeline.lock import write_atomically
    from pipeline.trust.policy import read_source

    named = [s for s in read_source(sources.policy).signers if s.role == role]
    if len(named) != 1 or named[0].identity:
        raise UsageError(
            f"{sources.policy} does not name one key for {role}", "put the new key there, then: ./inv trust refresh"
        )
    if named[0].key:
        write_atomically(sources.checkout / named[0].key, str(new.keyval["public"]).encode())


def _next_root(repository: TrustRepository) -> "Root":
    """The root after the published one: what waits of it, else a copy."""
    number = repository.version("root") + 1
    waiting = repository.pending / f"{number}.root.json"
    root = read_root_file(waiting) if waiting.is_file() else repository.read_root()
    root.version, root.expires = number, repository.expiry("root")
    return root


def refresh(repository: TrustRepository, sources: Sources) -> Outcome:
    """Renew what is signed online, and stage targets if policy or layout have changed, a root if it expires soon."""
    if not repository.version("root") and not repository.staged():
        raise TrustError(f"{repository.folder} holds no trust root", "./inv trust init")
    with repository.writing():
        soon = datetime.now(UTC) + timedelta(days=repository.settings.warn.days)
        if repository.exists:
            root = repository.read_root()
            if root.expires < soon and not any(p.name.endswith(".root.json") for p in repository.staged()):
                repository.stage("root", _next_root(repository))
            stage_targets(repository, sources, root, always=repository.read("targets").expires < soon)
        outcome = sign_held(repository)
        if repository.exists and not outcome.published:
            repository.require_online(repository.online_rings())
            repository.renew_release()
            repository.publish_online()
            outcome.published.append("timestamp.json")
        return outcome


def sign_held(repository: TrustRepository, only: str = "") -> Outcome:
    """`sign_pending` for a caller that holds the repository."""
    outcome = Outcome()
    wanted = str(read_public(only, repository.keys).keyid) if only else ""
    staged = _staged(repository)
    for path, rings in staged.items():
        keyids = {keyid for ring in rings for keyid in ring.keys}
        for ring in rings:
            ring.signers(path)  # before a changed file gets another signature
        if signed := repository.add_signatures(path, keyids & {wanted} if only else keyids):
            outcome.signed[path.name] = signed
        lacks = {_lack(repository, ring, path): ring.lacking(path) for ring in rings}
        if more := [text for text, count in lacks.items() if count]:
            outcome.waiting[path.name] = " and ".join(more)
    if not outcome.waiting:
        if staged:
            repository.require_online(_online_after(repository, list(staged)))
        for path, rings in staged.items():
            repository.publish_staged(path, {keyid for ring in rings for keyid in ring.keys})
            outcome.published.append(path.name)
    if repository.version("targets") and not repository.is_current():
        repository.publish_online()
        outcome.published.append("timestamp.json")
    if outcome.published:
        read_root(repository.folder)  # as hosts will judge it
    return outcome


def _staged(repository: TrustRepository) -> dict[Path, list[Ring]]:
    """What waits, and whose signatures each file needs. What a killed run has published already is removed."""
    found: dict[Path, list[Ring]] = {}
    root = repository.read_root() if repository.version("root") else None
    for path in repository.staged():
        number, role = int(path.name.split(".")[0]), path.name.split(".")[1]
        if number <= repository.version(role):
            path.unlink()
            continue
        if number != repository.version(role) + 1:
            raise TrustError(f"{path} does not follow what is published", f"remove it: rm {path}")
        if role == "root":
            before, root = root, read_root_file(path)
            found[path] = [root_ring(r, "root") for r in (root, before) if r]
        elif root:
            found[path] = [root_ring(root, "targets")]
    return found


def _lack(repository: TrustRepository, ring: Ring, path: Path) -> str:
    """How many signatures are missing, and by whom."""
    names, signed = repository.names(), ring.signers(path)
    left = sorted(names.get(k, k[:8]) for k in set(ring.keys) - signed)
    return f"{ring.threshold - len(signed)} more of {', '.join(left)}"


def _online_after(repository: TrustRepository, staged: list[Path]) -> dict[str, Ring]:
    """Who will sign what goes with every release, once what waits is published."""
    roots = [read_root_file(p) for p in staged if p.name.endswith(".root.json")]
    targets = [read_targets_file(p) for p in staged if p.name.endswith(".targets.json")]
    root = roots[0] if roots else repository.read_root()
    rings = {role: root_ring(root, role) for role in ONLINE}
    return {RELEASE: release_ring(targets[0] if targets else repository.read_targets("targets")), **rings}
