"""How a proof ends, for people and for programs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ProofError
from pipeline.proof.judge import Score
from pipeline.report.progress import Progress, duration

if TYPE_CHECKING:
    from pipeline.proof.result import Proof

SHOWN = 10
"""Artifacts whose differences are shown; the result file has all."""


def say_proof(proof: "Proof", progress: Progress, path: Path, seconds: float, *, as_json: bool) -> None:
    """The end of `inv rebuild`: differences, scores, and a ProofError if something differs that is not excused."""
    if as_json:
        print(json.dumps(proof.to_json(), indent=2))
    for item in [j for j in proof.judged if j.differences][:SHOWN]:
        excuse = f"  (excepted until {item.excepted.expires}: {item.excepted.reason})" if item.excepted else ""
        for difference in item.differences:
            progress.say(f"  differs: {difference.render()}{excuse}".replace("\n", "\n  "))
    for cause in proof.causes:
        progress.say(f"  cause: {cause.text}")
    for name, reason in proof.not_varied.items():
        progress.say(f"  not varied: {name} ({reason})")
    for line in table(proof.scores):
        progress.say(f"  {line}")
    equal, compared = sum(s.equal for s in proof.scores), sum(s.compared for s in proof.scores)
    progress.say(f"{equal} of {compared} artifacts are equal ({percent(equal, compared)}); {duration(seconds)}")
    progress.say(f"result: {path}")
    if proof.failed:
        names = ", ".join(j.name for j in proof.failed[:5]) + (", ..." if len(proof.failed) > 5 else "")
        raise ProofError(
            f"{len(proof.failed)} of {compared} artifacts differ from their rebuild: {names}",
            f"the differences stand in {path}",
        )


def table(scores: list[Score]) -> list[str]:
    """Kinds down, platforms across; each cell `equal/compared`."""
    platforms = sorted({s.platform for s in scores})
    cells = {(s.kind, s.platform): f"{s.equal}/{s.compared}" for s in scores}
    lines = [f"{'':<10}" + "".join(f"{p:>15}" for p in platforms)]
    for kind in sorted({s.kind for s in scores}):
        lines.append(f"{kind:<10}" + "".join(f"{cells.get((kind, p), '-'):>15}" for p in platforms))
    return lines


def percent(equal: int, compared: int) -> str:
    """A score that is never rounded up to a whole one."""
    return f"{int(1000 * equal / compared) / 10:g} %" if compared else "nothing was compared"
