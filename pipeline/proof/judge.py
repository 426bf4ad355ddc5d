"""Compare a candidate with what a proof made of its sources: every artifact, by bytes, with a score for each kind."""

import fnmatch
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.compare.compare import compare
from pipeline.compare.difference import MISSING, Difference
from pipeline.context import Context
from pipeline.model import Digest
from pipeline.proof.candidate import Candidate
from pipeline.proof.exceptions import Excepted, find_exception
from pipeline.proof.prover import Attempt

KINDS = {
    "rfo-sources.tar.zst": "sources",
    "*.tar.gz": "tarball",
    "sha256sum-*.txt": "checksums",
    "*.lock": "lock",
    "*.md": "notes",
    "release.json": "manifest",
}
"""Kinds of published files by their names; the first pattern that matches counts."""
ALL = "all"
"""In place of a platform, for what belongs to the whole release."""
Finder = Callable[[Digest], Path | None]
"""Gives the file with some content, if it is at hand."""


@dataclass(frozen=True)
class Judged:
    """One artifact, compared."""

    name: str
    kind: str
    platform: str
    expected: str | None
    """Digest in the candidate; None if it has no such file."""
    found: str | None
    """Digest of what the proof made."""
    action: str | None
    """Which step makes it."""
    differences: tuple[Difference, ...] = ()
    excepted: Excepted | None = None

    @property
    def equal(self) -> bool:
        """Whether both are the same bytes."""
        return self.expected is not None and self.expected == self.found


@dataclass(frozen=True)
class Score:
    """How many artifacts of a kind and platform are equal."""

    kind: str
    platform: str
    equal: int
    compared: int


def kind_of(name: str) -> str:
    """The kind of a published file."""
    return next((k for pattern, k in KINDS.items() if fnmatch.fnmatchcase(name, pattern)), "file")


def judge(
    candidate: Candidate, attempt: Attempt, context: Context, exceptions: Sequence[Excepted], at_hand: Finder
) -> list[Judged]:
    """Compare every binary of what was asked for and, unless that was only some components, every published file.

    `at_hand` finds the candidate's binaries, which are published inside archives only: without one its difference
    is told by digests alone.
    """
    judged = _binaries(candidate, attempt, context, at_hand)
    if not context.options.components:
        judged += _files(candidate, attempt, context)
    return [_excuse(j, exceptions) for j in judged]


def scores(judged: Sequence[Judged]) -> list[Score]:
    """A score for each kind and platform, sorted."""
    compared = Counter((j.kind, j.platform) for j in judged)
    equal = Counter((j.kind, j.platform) for j in judged if j.equal)
    return [Score(*key, equal[key], count) for key, count in sorted(compared.items())]


def _binaries(candidate: Candidate, attempt: Attempt, context: Context, at_hand: Finder) -> list[Judged]:
    platforms = {f"linux/{a}" for a in context.arches}
    units = {u.name for u in context.units}
    claimed = {
        (f"build/{b.unit}/{b.platform.removeprefix('linux/')}", b.name): b.digest
        for b in candidate.published.manifest.binaries
        if b.platform in platforms and b.unit in units
    }
    made = {(a, n): o for a, files in attempt.outputs.items() if a.startswith("build/") for n, o in files.items()}
    judged = []
    for action, name in sorted(claimed | made):
        expected, output = claimed.get((action, name)), made.get((action, name))
        found = str(output.digest) if output else None
        _, unit, arch = action.split("/")
        full = f"{unit}/{arch}/{name}"
        differences: tuple[Difference, ...] = ()
        if expected != found:
            mine = attempt.store.use(output.digest) if output else None
            theirs = at_hand(Digest.parse(expected)) if expected else None
            if mine and theirs:
                differences = _compare(theirs, mine, full, context)
            else:
                differences = (_by_digest(full, expected, found),)
        judged.append(Judged(full, "binary", f"linux/{arch}", expected, found, action, differences))
    return judged


def _files(candidate: Candidate, attempt: Attempt, context: Context) -> list[Judged]:
    """Published files; those of the whole release only if all of its platforms were built."""
    folder, platforms = candidate.published.folder, {f"linux/{a}" for a in context.arches}
    whole = platforms == {str(p) for p in candidate.platforms}
    of = {name: a.platform or ALL for name, a in candidate.published.artifacts.items()}
    names = {n for n, platform in of.items() if platform in platforms or (whole and platform == ALL)}
    made = {p.name for p in attempt.dist.iterdir()}
    if whole:
        names |= {"release.json", *made}
    makers = {n: a for a, files in attempt.outputs.items() if not a.startswith("build/") for n in files}
    judged = []
    for name in sorted(names):
        theirs, mine = folder / name, attempt.dist / name
        expected = candidate.published.artifacts[name].digest if name in of else None
        if name == "release.json":
            expected = str(candidate.digest)
        found = str(Digest.of_file(mine)) if name in made else None
        differences: tuple[Difference, ...] = ()
        if expected != found:
            both = expected and found
            differences = _compare(theirs, mine, name, context) if both else (_by_digest(name, expected, found),)
        platform = of.get(name, ALL)
        judged.append(Judged(name, kind_of(name), platform, expected, found, makers.get(name), differences))
    return judged


def _compare(theirs: Path, mine: Path, name: str, context: Context) -> tuple[Difference, ...]:
    with context.store.workspace() as work:
        return tuple(compare(theirs, mine, name, work=work))


def _by_digest(name: str, expected: str | None, found: str | None) -> Difference:
    return Difference(name, (), "", None, expected or MISSING, found or MISSING)


def _excuse(judged: Judged, exceptions: Sequence[Excepted]) -> Judged:
    if judged.equal or not (entry := find_exception(judged.name, exceptions)):
        return judged
    return replace(judged, excepted=entry)
