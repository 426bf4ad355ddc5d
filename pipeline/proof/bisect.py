"""Which variation makes an artifact differ: builds of just that artifact, under halves of the variations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.proof.variations import Variation

Builds = Callable[[Sequence[Variation]], str]
"""Builds the artifact under some variations; returns its digest."""


@dataclass(frozen=True)
class Cause:
    """Why an artifact of the candidate was not made again."""

    artifact: str
    kind: str
    """`variation`: its bytes depend on these circumstances. `chance`: they differ without any variation, from run to
    run. `candidate`: every rebuild agrees, and the candidate is something else."""
    variations: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """A sentence for people."""
        if self.kind == "variation":
            several = "these together" if len(self.variations) > 1 else "this"
            return f"{self.artifact} depends on {several}: {', '.join(self.variations)}"
        if self.kind == "chance":
            return (
                f"{self.artifact} differs from run to run, also without any variation: its build is not deterministic"
            )
        return (
            f"{self.artifact} comes out the same whatever is varied, and the candidate has other bytes: "
            "it was not made from these sources (a poisoned compile cache, another toolchain, or a change by hand)"
        )


def find_cause(artifact: str, expected: str, found: str, possible: Sequence[Variation], build: Builds) -> Cause:
    """Search the smallest set of variations under which `artifact` is not `expected`.

    `found` is its digest under all of them. One variation alone is found with one build per halving; if it does not
    make the difference alone after all, the search starts over for several that do so together.
    """
    usual = build(())
    if usual != expected:
        return Cause(artifact, "candidate" if usual == found else "chance")

    def differs(chosen: Sequence[Variation]) -> bool:
        return build(chosen) != expected

    suspects = list(possible)
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        suspects = half if differs(half) else suspects[len(half) :]
    guilty = suspects if differs(suspects) else _narrow(list(possible), [], differs)
    return Cause(artifact, "variation", tuple(v.name for v in possible if v in guilty))


def _narrow(
    suspects: list[Variation], fixed: list[Variation], differs: Callable[[list[Variation]], bool]
) -> list[Variation]:
    """Those of `suspects` that are needed, together with all of `fixed`, for a difference (delta debugging)."""
    if len(suspects) == 1:
        return suspects
    half = len(suspects) // 2
    first, second = suspects[:half], suspects[half:]
    if differs([*fixed, *first]):
        return _narrow(first, fixed, differs)
    if differs([*fixed, *second]):
        return _narrow(second, fixed, differs)
    left = _narrow(first, [*fixed, *second], differs)
    return left + _narrow(second, [*fixed, *left], differs)
