"""What a proof came to, as a value and as JSON: the facts that an attestation carries. No wall clock, no host."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.proof.bisect import Cause
from pipeline.proof.candidate import Candidate
from pipeline.proof.judge import Judged, Score, scores
from pipeline.proof.variations import Variation

SCHEMA = "https://rfolabs.github.io/rfo/proof/v1"
"""Names the format; it is an identifier, not a place."""


@dataclass(frozen=True)
class Proof:
    """Every artifact compared, under which variations, and why what differs does."""

    candidate: Candidate
    asked: Mapping[str, Sequence[str]]
    """Architectures and components that it was limited to; empty for all."""
    varied: Sequence[Variation]
    not_varied: Mapping[str, str]
    """Variation to the reason."""
    judged: Sequence[Judged]
    causes: Sequence[Cause]

    @property
    def scores(self) -> list[Score]:
        """For each kind and platform."""
        return scores(self.judged)

    @property
    def failed(self) -> list[Judged]:
        """What differs and is not excused."""
        return [j for j in self.judged if not j.equal and not j.excepted]

    def to_json(self) -> dict[str, Any]:
        """The machine-readable result."""
        excused = [j for j in self.judged if j.excepted and not j.equal]
        return {
            "schema": SCHEMA,
            "version": self.candidate.version,
            "candidate": {"name": self.candidate.published.name, "release.json": str(self.candidate.digest)},
            "limited_to": {k: list(v) for k, v in self.asked.items()},
            "equal": not self.failed,
            "variations": [{"name": v.name, "usual": v.usual, "varied": v.varied} for v in self.varied],
            "not_varied": dict(self.not_varied),
            "scores": [vars(s) for s in self.scores],
            "artifacts": [
                {"name": j.name, "kind": j.kind, "platform": j.platform, "expected": j.expected, "found": j.found}
                for j in self.judged
            ],
            "differences": [d.to_json() for j in self.judged for d in j.differences],
            "exceptions": [
                {"artifact": j.name, "reason": e.reason, "owner": e.owner, "expires": e.expires.isoformat()}
                for j in excused
                if (e := j.excepted)
            ],
            "causes": [{**vars(c), "variations": list(c.variations), "text": c.text} for c in self.causes],
        }
