"""The statements of builders and rebuilders, from facts: SLSA provenance, SBOM attestations, results of rebuilds.

Formats: SLSA provenance v1 (https://slsa.dev/provenance/v1), in-toto's SPDX predicate (spec/predicates/spdx.md).
No clock and no host is stated: two builders that made the same bytes differ in their ids and signatures alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.attest.facts import Facts
from pipeline.attest.places import provenance_place, rebuild_place, sbom_place
from pipeline.attest.statement import make_statement
from pipeline.errors import SourceError, TrustError
from pipeline.model import Digest
from pipeline.sbom.actions import FOLDER, RELEASE
from pipeline.verifier.encoding import Refused, parse
from pipeline.verifier.statement import MAX_STATEMENT, PROVENANCE, REBUILD, SPDX

BUILD_TYPE = "https://rfolabs.github.io/rfo/build/v1"
"""Names what `externalParameters` and `internalParameters` mean; docs/verify.md says it."""
SUFFIX = ".spdx.json"


@dataclass(frozen=True)
class Witness:
    """Who states something, and with which engine."""

    role: str
    """builder or rebuilder."""
    id: str
    """The URI that the policy binds to the key."""
    keyid: str
    engine: Digest
    """Over the engine's own code."""
    dirty: bool
    """Whether the engine's files are other ones than its commit has."""


@dataclass(frozen=True)
class Proved:
    """What a rebuild varied, and what came out otherwise."""

    variations: Sequence[str]
    not_varied: Mapping[str, str]
    different: Sequence[str]
    """Names of subjects."""


def provenance_statements(facts: Facts, witness: Witness) -> dict[str, bytes]:
    """A statement for each kind of which there are subjects, by its place. Raises TrustError."""
    return {
        provenance_place(witness.role, witness.keyid, kind): _checked(
            {n: s.digest for n, s in facts.of_kind(kind).items()}, PROVENANCE, _provenance(facts, kind, witness)
        )
        for kind in facts.kinds()
    }


def sbom_statements(facts: Facts, witness: Witness) -> dict[str, bytes]:
    """A statement for each SBOM of the facts: the document, about what it describes. Raises SourceError, TrustError."""
    found = {}
    for name in sorted(facts.subjects):
        folder, _, file = name.partition("/")
        if folder == FOLDER and file.endswith(SUFFIX):
            subject = described_by(file, facts)
            path = facts.published.folder / name
            with path.open("rb") as stream:
                data = stream.read(MAX_STATEMENT + 1)
            if Digest.of_bytes(data) != facts.subjects[name].digest:
                raise SourceError(f"{path} was changed while it was signed")
            try:
                document = parse(data, name, MAX_STATEMENT)
            except Refused as refused:
                raise TrustError(f"{path} cannot be attested: {refused}") from refused
            place = sbom_place(witness.role, witness.keyid, file)
            found[place] = _checked({subject: facts.subjects[subject].digest}, SPDX, document)
    return found


def described_by(document: str, facts: Facts) -> str:
    """The name of what `NAME.spdx.json` describes: the release, an archive, or an image on one architecture.

    Raises TrustError if the release has no such thing.
    """
    name = document.removesuffix(SUFFIX)
    image, _, arch = name.partition(".linux-")
    options = ["release.json"] if document == RELEASE else [f"{name}.tar.gz", f"image/{image}/{arch}"]
    found = next((o for o in options if o in facts.subjects), None)
    if found is None:
        raise TrustError(f"{FOLDER}/{document} describes nothing that release.json names")
    return found


def rebuild_statement(equal: Facts, witness: Witness, proved: Proved) -> dict[str, bytes]:
    """What a rebuilder found: the subjects of `equal` are those that came out with the same bytes. Raises TrustError.

    Where nothing did, there is no statement, since in-toto has none without subjects.
    """
    predicate = {
        "rebuilder": {"id": witness.id},
        "candidate": {"sha256": Digest.of_file(equal.published.folder / "release.json").hex},
        "release": equal.manifest.version,
        "variations": sorted(proved.variations),
        "notVaried": dict(proved.not_varied),
        "different": sorted(proved.different),
    }
    subjects = {n: s.digest for kind in equal.kinds() for n, s in equal.of_kind(kind).items()}
    return {rebuild_place(witness.keyid): _checked(subjects, REBUILD, predicate)} if subjects else {}


def _provenance(facts: Facts, kind: str, witness: Witness) -> dict[str, Any]:
    manifest, chosen = facts.manifest, facts.of_kind(kind)
    platforms = sorted({s.platform for s in chosen.values() if s.platform} or manifest.platforms)
    if any(s.platform is None for s in chosen.values()):
        platforms = sorted(manifest.platforms)
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "release": manifest.version,
                "kind": kind,
                "platforms": platforms,
                "bases": {p: manifest.bases[p] for p in platforms},
                "deviations": json.loads((facts.published.folder / "release.json").read_bytes())["deviations"],
            },
            "internalParameters": {
                "actions": {name: s.action for name, s in chosen.items()},
                "engine": witness.engine.hex,
                "dirty": witness.dirty,
            },
            "resolvedDependencies": facts.dependencies(kind),
        },
        "runDetails": {"builder": {"id": witness.id}},
    }


def _checked(subjects: Mapping[str, Digest], predicate_type: str, predicate: Mapping[str, Any]) -> bytes:
    try:
        return make_statement(subjects, predicate_type, predicate)
    except (Refused, TypeError, ValueError) as error:
        raise TrustError(f"a statement would not be accepted by any verifier: {error}") from error
