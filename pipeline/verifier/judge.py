"""Whether what was signed is what the policy asks for: who built each artifact, and who agrees on its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.verifier.encoding import Refused
from pipeline.verifier.evidence import Claim, Evidence
from pipeline.verifier.policy import Policy
from pipeline.verifier.released import Item


@dataclass(frozen=True)
class Row:
    """The judgement on one artifact."""

    item: Item
    builders: tuple[str, ...]
    """Ids of those whose provenance names it with its digest."""
    rebuilders: tuple[str, ...]
    """Ids of those who made it again with the same bytes and say so."""
    refused: tuple[Refused, ...]


def judge(items: Iterable[Item], policy: Policy, evidence: Evidence) -> list[Row]:
    """One row for each artifact. Raises Refused for one of a kind that the policy does not know."""
    return [_judge_one(item, policy, evidence) for item in sorted(items, key=lambda i: (i.kind, i.name))]


def _judge_one(item: Item, policy: Policy, evidence: Evidence) -> Row:
    kind = policy.kind(item.kind, item.name)
    made = _agreeing(item, evidence.provenance)
    again = _agreeing(item, evidence.rebuilt)
    builders = sorted({c.signer.id for c in made if c.signer.role == "builder"})
    rebuilders = sorted({c.signer.id for c in made if c.signer.role == "rebuilder"} & {c.signer.id for c in again})
    refused = [*_disagreeing(item, evidence)]
    if len(builders) < kind.builders:
        reason = "has provenance of too few builders"
        refused.append(Refused(item.name, reason, str(kind.builders), _counted(builders)))
    if len(rebuilders) < kind.rebuilders:
        reason = "was made again, with the same bytes, by too few rebuilders"
        refused.append(Refused(item.name, reason, str(kind.rebuilders), _counted(rebuilders)))
    for wanted in kind.requires:
        if not any(c.statement.predicate_type == wanted for c in _agreeing(item, evidence.attested)):
            refused.append(Refused(item.name, "has no attestation that the policy asks for", wanted, "none"))
    return Row(item, tuple(builders), tuple(rebuilders), tuple(refused))


def check_subjects(items: Iterable[Item], evidence: Evidence) -> list[Refused]:
    """Claims about what the release has not, or under another kind: they are of another release, or renamed."""
    known = {item.name: item for item in items}
    found = []
    for claim in [*evidence.provenance, *evidence.rebuilt, *evidence.attested]:
        kind = _kind_of(claim) if claim in evidence.provenance else None
        for name in claim.statement.subjects:
            if name not in known:
                found.append(Refused(claim.path, f"is about {name[:200]}, which this release has not"))
            elif kind is not None and known[name].kind != kind:
                found.append(Refused(claim.path, f"is about {name}, of another kind", known[name].kind, kind))
    for claim in evidence.rebuilt:
        for name in claim.statement.predicate["different"]:
            if name not in known:
                found.append(Refused(claim.path, f"found a difference in {name[:200]}, which this release has not"))
    return found


def _agreeing(item: Item, claims: Iterable[Claim]) -> list[Claim]:
    return [c for c in claims if c.statement.subjects.get(item.name) == item.digest]


def _disagreeing(item: Item, evidence: Evidence) -> list[Refused]:
    """Whoever signed something else about the artifact: one such voice is enough."""
    found = []
    for claim in [*evidence.provenance, *evidence.rebuilt, *evidence.attested]:
        digest = claim.statement.subjects.get(item.name, item.digest)
        if digest != item.digest:
            reason = f"has another digest according to {claim.signer.id} in {claim.path}"
            found.append(Refused(item.name, reason, f"sha256:{item.digest}", f"sha256:{digest}"))
    for claim in evidence.rebuilt:
        if item.name in claim.statement.predicate["different"]:
            reason = f"came out with other bytes when {claim.signer.id} made it again"
            found.append(Refused(item.name, reason, "", claim.path))
    return found


def _kind_of(claim: Claim) -> str:
    parameters: Mapping[str, str] = claim.statement.predicate["buildDefinition"]["externalParameters"]
    return parameters["kind"]


def _counted(names: list[str]) -> str:
    return f"{len(names)}" + (f": {', '.join(names)}" if names else "")
