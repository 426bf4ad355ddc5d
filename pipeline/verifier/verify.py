"""Verifying as one function: trust root, release statement, every digest, and what the policy asks of each artifact.

`verify` is what rfo-verify, the installer and `inv verify` call; `judge_candidate` the part that needs no release role,
for `inv promote`; `wanted` says which files are still to be downloaded.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.verifier.bundle import MAX_BUNDLE, Bundle
from pipeline.verifier.certificate import verify_certified
from pipeline.verifier.clock import DAY, check_clock, render_time
from pipeline.verifier.encoding import Refused
from pipeline.verifier.evidence import EVIDENCE, Certified, read_evidence
from pipeline.verifier.folder import Folder, Hashed, Missing, other_content
from pipeline.verifier.instance import read_instance
from pipeline.verifier.judge import check_subjects, judge
from pipeline.verifier.lists import LAYOUT_INDEX, check_lists, read_layout
from pipeline.verifier.policy import Policy, read_policy
from pipeline.verifier.released import MANIFEST_NAME, MAX_MANIFEST, Item, Released, check_terms, read_released
from pipeline.verifier.report import Report
from pipeline.verifier.scope import Scope
from pipeline.verifier.sealed import STATEMENT_PATH, Sealed, check_added, check_manifest, read_sealed
from pipeline.verifier.state import State
from pipeline.verifier.tuf import MAX_ROOT, TARGETS, NewerRoot, Trust, read_trust
from pipeline.verifier.versions import compare_versions, read_version

WARN_DAYS = 60
"""A note says so when metadata expire within these."""
MAX_ADDED = 8 << 20
"""Bytes of a file that promoting adds, other than bundles."""


@dataclass(frozen=True)
class Options:
    """What the caller asks for and allows."""

    scope: Scope = field(default_factory=Scope)
    trust: Trust | None = None
    """The trust root, where a release is judged by a newer one than it carries."""
    state: State = field(default_factory=State)
    now: int = field(default_factory=lambda: int(time.time()))
    """The host's clock, in seconds since 1970."""
    as_of: int | None = None
    """The time that counts in its place."""
    allow_stale: bool = False
    allow_bases: frozenset[str] = frozenset()
    allow_downgrade: bool = False
    allow_yanked: bool = False
    expect_version: str = ""
    installed_version: str = ""


def verify(folder: Path, root: bytes, options: Options) -> Report:
    """Judge the release in a folder. `root` is the metadata of the root that the caller trusts.

    Raises HostLacks where openssl is missing; everything else is in the report.
    """
    report = Report()
    try:
        _verify(Folder(folder), root, options, report)
    except Refused as refused:
        report.refused.append(refused)
    return report


def judge_candidate(
    folder: Path, policy: Policy, trusted_root: bytes | None = None, allow_bases: frozenset[str] = frozenset()
) -> Report:
    """Judge what builders and rebuilders signed, of a release that has not been promoted yet.

    Its files have to be those of release.json; below provenance/ anything may lie, of which only statements by the
    policy's signers count. `trusted_root` is that of a Sigstore instance, for signatures by certificate.
    """
    report = Report(policy=policy.name, development=policy.development)
    try:
        _judge_candidate(Folder(folder), policy, trusted_root, allow_bases, report)
    except Refused as refused:
        report.refused.append(refused)
    return report


def wanted(folder: Path, root: bytes, options: Options) -> list[tuple[str, int]]:
    """Files that are still missing, each with the bytes that it may have; empty when `verify` can judge.

    Raises Refused as soon as something that is there cannot be accepted.
    """
    place = Folder(folder)
    try:
        trust = read_trust(place, root, options.state)
        policy = _policy_of(trust)
        sealed = read_sealed(place, trust, policy, _certified(trust.files.get("trusted_root.json")))
        released = read_released(place.read_named(MANIFEST_NAME, MAX_MANIFEST, _manifest_digest(sealed.named)))
    except Missing as missing:
        return [(missing.subject, missing.limit)]
    except NewerRoot as newer:
        return [(newer.path, MAX_ROOT)]
    names = [*options.scope.artifacts(sealed.named), *options.scope.evidence(sealed.named, policy)]
    targets = [f"{TARGETS}{f.sha256}.{n}" for n, f in trust.targets.items() if options.scope.whole]
    limits = {n: released.artifacts[n].size for n in names if n in released.artifacts}
    default = {n: MAX_BUNDLE if n.endswith(".sigstore.json") else MAX_ADDED for n in [*names, *targets]}
    return [(n, limits.get(n, default[n])) for n in sorted(default) if n not in place.sizes]


def _verify(folder: Folder, root: bytes, options: Options, report: Report) -> None:
    report.refused += folder.odd
    hashed: Hashed = folder.hashing(folder.sizes) if options.scope.whole else dict
    named: dict[str, str] = {}
    try:
        trust = options.trust or read_trust(folder, root, options.state)
        policy = _policy_of(trust)
        report.policy, report.root = policy.name, trust.root.name
        report.development = trust.development or policy.development
        certified = _certified(trust.files.get("trusted_root.json"))
        sealed = read_sealed(folder, trust, policy, certified)
        report.version, report.folder, report.named = sealed.version, sealed.folder, sealed.named
        report.refused += _check_version(sealed, options, report)
        judged = [*options.scope.artifacts(sealed.named), *options.scope.evidence(sealed.named, policy)]
        named = {n: sealed.named[n] for n in judged if options.scope.here(n)}
        if not options.scope.whole:
            hashed = folder.hashing(n for n in named if n in folder.sizes)
        if options.scope.whole:
            report.refused += _check_listing(folder, sealed, trust)
        released = read_released(folder.read_named(MANIFEST_NAME, MAX_MANIFEST, _manifest_digest(sealed.named)))
        report.refused += check_manifest(sealed, released)
        _check_time(trust, released, options, report)
        items = _judge(folder, sealed.named, released, policy, certified, options, report)
        if options.scope.whole:
            report.refused += check_added(folder, sealed, policy, items, certified)
        report.state = _next_state(trust, sealed, released, options)
    finally:
        _compare(named, hashed(), report)
        report.files, report.size = len(named), sum(folder.sizes.get(n, 0) for n in named)


def _judge_candidate(
    folder: Folder, policy: Policy, trusted_root: bytes | None, bases: frozenset[str], report: Report
) -> None:
    report.refused += folder.odd
    released = read_released(folder.read(MANIFEST_NAME, MAX_MANIFEST))
    report.version, report.folder = released.version, released.folder
    named = {name: item.digest for name, item in released.artifacts.items()}
    digests = folder.hashing(folder.sizes)()
    _compare(named, digests, report)
    for name in folder.sizes:
        if name == MANIFEST_NAME or EVIDENCE.fullmatch(name):
            digest = digests[name]
            if isinstance(digest, Refused):
                raise digest
            named[name] = digest
    _judge(folder, named, released, policy, _certified(trusted_root), Options(allow_bases=bases), report)


def _judge(
    folder: Folder,
    named: Mapping[str, str],
    released: Released,
    policy: Policy,
    certified: Certified,
    options: Options,
    report: Report,
) -> list[Item]:
    """The policy's judgement; returns everything that statements may be about."""
    scope = options.scope
    platforms = [p for p in released.bases if not scope.arch or p == f"linux/{scope.arch}"]
    bases = frozenset(released.bases[p] for p in platforms)
    report.refused += check_terms(released, policy, bases, options.allow_bases)
    if released.folder != released.version:
        report.notes.append(f"made on {', '.join(sorted(bases))}, which stands in for the base of the release")
    judged = set(scope.artifacts(named))
    files = [_file_item(n, named, released, policy) for n in sorted(named) if not EVIDENCE.fullmatch(n)]
    items = [*files, *released.binaries, *released.images]
    if scope.whole:
        if LAYOUT_INDEX in named:
            items += read_layout(folder, named, released)
        elif released.images:
            raise Refused(LAYOUT_INDEX, "is missing")
    evidence = read_evidence(
        folder,
        [p for p in scope.evidence(named, policy) if p in folder.sizes],
        named,
        policy,
        released,
        named[MANIFEST_NAME],
        certified,
    )
    report.refused += evidence.refused
    if scope.whole:
        report.refused += check_subjects(items, evidence)
    report.rows = judge([i for i in items if scope.whole or i.name in judged], policy, evidence)
    report.refused += check_lists(folder, named, released, sorted(n for n in judged if n in folder.sizes))
    return items


def _file_item(path: str, named: Mapping[str, str], released: Released, policy: Policy) -> Item:
    known = released.artifacts.get(path)
    kind = policy.kind_of(path).name
    return Item(path, named[path], kind, known.platform if known else "", known.size if known else 0)


def _compare(named: Mapping[str, str], digests: Mapping[str, str | Refused], report: Report) -> None:
    """Refuse by name what is not there or has another digest than is signed."""
    for name, expected in named.items():
        found = digests.get(name)
        if found is None:
            report.refused.append(Refused(name, "is missing", f"sha256:{expected}"))
        elif isinstance(found, Refused):
            report.refused.append(found)
        elif found != expected:
            report.refused.append(other_content(name, expected, found))


def _check_listing(folder: Folder, sealed: Sealed, trust: Trust) -> list[Refused]:
    """The way back: what lies in the folder and nobody signed, and what of the trust root is not there."""
    found = []
    for path in sorted(set(folder.sizes) - set(sealed.named) - trust.known - {STATEMENT_PATH}):
        reason = "is no part of the trust root" if path.startswith("trust/") else "was added: nobody signed it"
        found.append(Refused(path, reason))
    for name, facts in trust.targets.items():
        if f"{TARGETS}{facts.sha256}.{name}" not in folder.sizes:
            found.append(Refused(f"{TARGETS}{facts.sha256}.{name}", "is missing"))
    return found


def _check_version(sealed: Sealed, options: Options, report: Report) -> list[Refused]:
    """Downgrades, a release that was taken back, and another release than was asked for."""
    found = []
    if options.expect_version and sealed.version != options.expect_version:
        reason = "is another release than was asked for"
        found.append(Refused(sealed.folder, reason, options.expect_version, sealed.version))
    for version, what in (
        (options.installed_version, "is installed"),
        (options.state.installed, "is installed"),
        (options.state.highest_version, "was accepted on this host before"),
    ):
        if version and compare_versions(sealed.version, version) < 0:
            if options.allow_downgrade:
                report.notes.append(f"a downgrade: {version} {what}")
            else:
                found.append(
                    Refused(sealed.version, f"is older than what {what}", f"{version} or later", sealed.version)
                )
    if sealed.target.yanked:
        if options.allow_yanked:
            report.notes.append(f"this release was taken back: {sealed.target.yanked}")
        else:
            found.append(Refused(sealed.folder, "was taken back", "", sealed.target.yanked))
    return found


def _check_time(trust: Trust, released: Released, options: Options, report: Report) -> None:
    """The clock, and what has expired or will soon."""
    now = options.now if options.as_of is None else options.as_of
    try:
        check_clock(now, released.date, "the date of this release")
        check_clock(now, options.state.last_time, "the time at which this host accepted a release before")
    except Refused as refused:
        report.refused.append(refused)
        return
    for role, expires in sorted(trust.expires.items()):
        left = (expires - now) // DAY
        if expires <= now:
            age = (now - expires) // DAY
            line = f"{role} {trust.versions[role]} of the trust root: expired {age} days ago, at {render_time(expires)}"
            (report.notes if options.allow_stale else report.stale).append(line)
        elif left < WARN_DAYS:
            report.notes.append(f"{role} of the trust root expires in {left} days, at {render_time(expires)}")
    if options.as_of is not None:
        days = (options.now - options.as_of) // DAY
        report.notes.append(f"judged as of {render_time(options.as_of)}, {days} days before this host's clock")


def _next_state(trust: Trust, sealed: Sealed, released: Released, options: Options) -> State:
    """What the host remembers once it accepts: nothing in it becomes older."""
    old = options.state
    trusted_clock = options.as_of is None and not options.allow_stale
    versions = [v for v in (old.highest_version, sealed.version) if v]
    metadata = {
        **old.metadata,
        **{f"{r}.json": trust.versions[r] for r in ("targets", "release") if r in trust.versions},
    }
    return replace(
        old,
        root=trust.root_file,
        timestamp=trust.timestamp_file,
        highest_version=max(versions, key=lambda v: read_version(v, v)),
        installed=options.installed_version or old.installed,
        last_time=max(old.last_time, released.date, options.now if trusted_clock else 0),
        metadata=metadata,
    )


def _policy_of(trust: Trust) -> Policy:
    return read_policy(trust.files["policy.json"], f"{TARGETS}{trust.targets['policy.json'].sha256}.policy.json")


def _manifest_digest(named: Mapping[str, str]) -> str:
    if MANIFEST_NAME not in named:
        raise Refused(STATEMENT_PATH, f"does not name {MANIFEST_NAME}")
    return named[MANIFEST_NAME]


def _certified(trusted_root: bytes | None) -> Certified:
    """How signatures by certificate are checked: against the Sigstore instance that the trust root names."""

    def refuse(bundle: Bundle, identity: str, issuer: str, what: str) -> None:
        del bundle, identity, issuer
        raise Refused(what, "is signed by certificate, and the trust root names no Sigstore instance")

    if trusted_root is None:
        return refuse
    instance = read_instance(trusted_root, "trusted_root.json")
    return lambda bundle, identity, issuer, what: verify_certified(bundle, instance, identity, issuer, what)
