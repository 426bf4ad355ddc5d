"""What builders and rebuilders have signed about a release: each statement checked, its signer found in the policy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.verifier.bundle import MAX_BUNDLE, Bundle, hint_of, read_bundle
from pipeline.verifier.encoding import Refused, parse
from pipeline.verifier.folder import Folder
from pipeline.verifier.openssl import verifies
from pipeline.verifier.policy import Policy, Signer
from pipeline.verifier.released import Released
from pipeline.verifier.statement import PROVENANCE, REBUILD, Statement

BUILD_TYPE = "https://rfolabs.github.io/rfo/build/v1"
EVIDENCE = re.compile(
    r"provenance/(?!release/|links/)[A-Za-z0-9.-]{1,80}/(?:sbom/)?([A-Za-z0-9._+@-]{1,120})\.sigstore\.json"
)
"""Paths of what builders and rebuilders sign; the group is what it is about."""
Certified = Callable[[Bundle, str, str, str], None]
"""Checks a signature by certificate, for an identity, an issuer, and a name of the thing. Raises Refused."""


@dataclass(frozen=True)
class Claim:
    """A statement whose signature is good, and who made it."""

    path: str
    signer: Signer
    statement: Statement


@dataclass
class Evidence:
    """Claims by what they say; each has been checked against release.json."""

    provenance: list[Claim] = field(default_factory=list)
    rebuilt: list[Claim] = field(default_factory=list)
    attested: list[Claim] = field(default_factory=list)
    """Of other types, such as SBOMs."""
    refused: list[Refused] = field(default_factory=list)


def find_signer(bundle: Bundle, policy: Policy, certified: Certified, what: str) -> Signer:
    """Who of the policy's signers signed. Raises Refused if none did."""
    for signer in policy.signers:
        if signer.key and bundle.hint == hint_of(signer.key.spki):
            if not verifies(signer.key, bundle.message, bundle.signature):
                raise Refused(what, "was changed after it was signed, or is signed by somebody else", signer.id)
            return signer
    reasons = []
    for signer in policy.signers if bundle.hint is None else ():
        if signer.key is None:
            try:
                certified(bundle, signer.identity, signer.issuer, what)
                return signer
            except Refused as refused:
                reasons.append(refused)
    if reasons:
        raise reasons[0]
    found = f"a key with the hint {bundle.hint}" if bundle.hint else "a certificate"
    raise Refused(what, "is signed by nobody whom the policy names", _known(policy), found)


def read_evidence(
    folder: Folder,
    paths: Iterable[str],
    named: Mapping[str, str],
    policy: Policy,
    released: Released,
    manifest: str,
    certified: Certified,
) -> Evidence:
    """Check the statements at `paths`, whose digests are `named`; `manifest` is the digest of release.json.

    What is refused is listed and counts for nothing.
    """

    evidence = Evidence()
    for path in sorted(paths):
        try:
            document = _document(folder, path, named)
            bundle = read_bundle(folder.read_named(path, MAX_BUNDLE, named[path]), path, document)
            if document is not None and bundle.statement.predicate is not document:
                raise Refused(path, "holds another document than the one in sbom/")
            claim = Claim(path, find_signer(bundle, policy, certified, path), bundle.statement)
            _check_claim(claim, released, manifest)
        except Refused as refused:
            evidence.refused.append(refused)
            continue
        kind = claim.statement.predicate_type
        lists = {PROVENANCE: evidence.provenance, REBUILD: evidence.rebuilt}
        lists.get(kind, evidence.attested).append(claim)
    return evidence


def _document(folder: Folder, path: str, named: Mapping[str, str]) -> dict[str, Any] | None:
    """The SBOM that an attestation is about, if it lies in the folder."""
    match = EVIDENCE.fullmatch(path)
    name = f"sbom/{match[1]}.spdx.json" if match and "/sbom/" in path else ""
    if name not in named or name not in folder.sizes:
        return None
    document = parse(folder.read_named(name, MAX_BUNDLE, named[name]), name, MAX_BUNDLE)
    return document if isinstance(document, dict) else None


def _check_claim(claim: Claim, released: Released, manifest: str) -> None:
    """Raise Refused for a claim about another release, or by another builder than its signer is."""
    kind, predicate = claim.statement.predicate_type, claim.statement.predicate
    if claim.signer.role not in ("builder", "rebuilder"):
        raise Refused(claim.path, "is signed by a role that builds nothing", "builder or rebuilder", claim.signer.role)
    if kind == PROVENANCE:
        _check_provenance(claim, predicate, released)
    elif kind == REBUILD:
        _check_rebuild(claim, predicate, released, manifest)


def _check_provenance(claim: Claim, predicate: dict[str, Any], released: Released) -> None:
    what = claim.path
    _same(what, "builder id", claim.signer.id, _at(predicate, "runDetails", "builder", "id"))
    _same(what, "build type", BUILD_TYPE, _at(predicate, "buildDefinition", "buildType"))
    asked = _at(predicate, "buildDefinition", "externalParameters")
    names = {"release", "kind", "platforms", "bases", "deviations"}
    if not isinstance(asked, dict) or set(asked) != names:
        raise Refused(what, "was built with other parameters", ", ".join(sorted(names)), str(asked)[:200])
    _same(what, "release", released.version, asked["release"])
    platforms = asked["platforms"]
    if not isinstance(platforms, list) or not platforms or not all(p in released.bases for p in platforms):
        raise Refused(what, "is about other platforms", ", ".join(sorted(released.bases)), str(platforms)[:200])
    _same(what, "bases", {p: released.bases[p] for p in platforms}, asked["bases"])
    _same(what, "deviations", list(released.deviations), asked["deviations"])
    if not isinstance(asked["kind"], str):
        raise Refused(what, "is about no kind of artifact")
    actions = _at(predicate, "buildDefinition", "internalParameters", "actions")
    if not isinstance(actions, dict) or set(actions) != set(claim.statement.subjects):
        raise Refused(what, "does not say for each of its subjects which step made it")
    sources = _at(predicate, "buildDefinition", "resolvedDependencies")
    if not isinstance(sources, list) or not sources:
        raise Refused(what, "names nothing that its subjects were made from")


def _check_rebuild(claim: Claim, predicate: dict[str, Any], released: Released, manifest: str) -> None:
    what = claim.path
    if claim.signer.role != "rebuilder":
        raise Refused(what, "is the result of a rebuild by somebody else", "a rebuilder", claim.signer.id)
    _same(what, "builder id", claim.signer.id, _at(predicate, "rebuilder", "id"))
    _same(what, "release", released.version, predicate.get("release"))
    _same(what, "candidate", manifest, _at(predicate, "candidate", "sha256"))
    different = predicate.get("different")
    if not isinstance(different, list) or not all(isinstance(d, str) for d in different):
        raise Refused(what, "does not say what came out differently")


def _same(what: str, name: str, expected: Any, found: Any) -> None:
    if type(found) is not type(expected) or found != expected:
        raise Refused(what, f"states another {name}", str(expected)[:300], str(found)[:300])


def _at(value: Any, *names: str) -> Any:
    """What is found in nested mappings; None if one is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _known(policy: Policy) -> str:
    return ", ".join(f"{s.id} ({hint_of(s.key.spki) if s.key else s.identity})" for s in policy.signers)[:800]
