"""Compare a candidate with what a proof made of its sources: every artifact, by bytes, with a score for each kind."""

import fnmatch
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.compare.compare import compare
from pipeline.compare.difference import MISSING, Difference
from pipeline.context import Context
from pipeline.graph import Graph
from pipeline.model import Digest
from pipeline.plan import plan
from pipeline.proof.candidate import Candidate
from pipeline.proof.exceptions import Excepted, find_exception
from pipeline.proof.prover import Attempt

KINDS = {
    "rfo-sources.tar.zst": "sources",
    "rfo-images*.tar.zst": "bundle",
    "rfo-images*.txt": "image list",
    "charts/*": "chart",
    "rpm/*.rpm": "package",
    "rpm/*": "repository",
    "images/*": "layout",
    "sbom/*": "sbom",
    "*.tar.gz": "tarball",
    "sha256sum-*.txt": "checksums",
    "*.lock": "lock",
    "*.md": "notes",
    "release.json": "manifest",
}
"""Kinds of published files by their names; the first pattern that matches counts."""
BLOBS = "images/blobs/"
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
    output: str | None = None
    """Which of that step's outputs it is."""
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

    `at_hand` finds the candidate's binaries, which are published inside archives and layers only: without one its
    difference is told by digests alone.
    """
    judged = _binaries(candidate, attempt, context, at_hand)
    if not context.options.components:
        graph = plan(context.release, context.units, context.inputs, context.packs)
        judged += _images(candidate, attempt, context, graph)
        judged += _files(candidate, attempt, context, graph)
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
        judged.append(Judged(full, "binary", f"linux/{arch}", expected, found, action, name, differences))
    return judged


def _images(candidate: Candidate, attempt: Attempt, context: Context, graph: Graph) -> list[Judged]:
    """Each image on each platform by its manifest, which names configuration and layers.

    Those are compared if it differs. Of some platforms only, what depends on all of them is left out.
    """
    whole, blobs = _is_whole(candidate, context), Path("images/blobs/sha256")
    claimed = {
        (image.name, arch): digest
        for image in candidate.published.manifest.images
        for platform, digest in image.platforms.items()
        if (arch := platform.removeprefix("linux/")) in context.arches
    }
    made = {
        (image, arch): str(files["manifest.json"].digest)
        for action, files in attempt.outputs.items()
        if action.startswith("image/")
        for _, image, arch in [action.split("/")]
    }
    late = graph.after("index/")
    judged = []
    for image, arch in sorted(claimed | made):
        action = f"image/{image}/{arch}"
        if action in late and not whole:
            continue
        expected, found = claimed.get((image, arch)), made.get((image, arch))
        differences: list[Difference] = []
        if expected != found:
            name = f"{image}/{arch}"
            differences.append(_by_digest(name, expected, found))
            if expected and found:
                sides = (candidate.published.folder / blobs, attempt.dist / blobs)
                for part, theirs, mine in _parts(*sides, Digest.parse(expected), Digest.parse(found)):
                    differences += _compare(theirs, mine, f"{name}/{part}", context)
        judged.append(
            Judged(action, "image", f"linux/{arch}", expected, found, action, "manifest.json", tuple(differences))
        )
    return judged


def _parts(theirs: Path, mine: Path, expected: Digest, found: Digest) -> Iterator[tuple[str, Path, Path]]:
    """What two manifests name otherwise: configurations, and layers by their places, as (name, file, file)."""
    ours, other = (json.loads((f / d.hex).read_bytes()) for f, d in ((mine, found), (theirs, expected)))
    pairs = [("config.json", other["config"], ours["config"])]
    pairs += [(f"layer{n}.tar.gz", *p) for n, p in enumerate(zip(other["layers"], ours["layers"], strict=False))]
    for name, left, right in pairs:
        if left["digest"] != right["digest"]:
            files = (theirs / Digest.parse(left["digest"]).hex, mine / Digest.parse(right["digest"]).hex)
            if all(f.is_file() for f in files):
                yield name, *files


def _is_whole(candidate: Candidate, context: Context) -> bool:
    return set(context.arches) == {p.arch for p in candidate.platforms}


def _files(candidate: Candidate, attempt: Attempt, context: Context, graph: Graph) -> list[Judged]:
    """Published files; those of the whole release only if all of its platforms were built.

    The layout's content is judged image by image: what is reached from its index.json, which is a file here.
    """
    folder, whole = candidate.published.folder, _is_whole(candidate, context)
    platforms, late = {f"linux/{a}" for a in context.arches}, graph.after("index/")
    places = {
        template: (action.name, output)
        for action in graph.actions.values()
        for output, template in action.publish.items()
    }
    of = {n: a.platform or ALL for n, a in candidate.published.artifacts.items() if not n.startswith(BLOBS)}
    names = {n for n, platform in of.items() if platform in platforms or (whole and platform == ALL)}
    made = {p.relative_to(attempt.dist).as_posix() for p in attempt.dist.rglob("*") if p.is_file()}
    if whole:
        names |= {"release.json", *(n for n in made if not n.startswith(BLOBS))}
    judged = []
    for name in sorted(names):
        known = candidate.published.artifacts.get(name)
        action, output = places.get(known.template if known else name, (None, None))
        if action in late and not whole:
            continue
        theirs, mine = folder / name, attempt.dist / name
        expected = candidate.published.artifacts[name].digest if name in of else None
        if name == "release.json":
            expected = str(candidate.digest)
        found = str(Digest.of_file(mine)) if name in made else None
        differences: tuple[Difference, ...] = ()
        if expected != found:
            both = expected and found
            differences = _compare(theirs, mine, name, context) if both else (_by_digest(name, expected, found),)
        judged.append(Judged(name, kind_of(name), of.get(name, ALL), expected, found, action, output, differences))
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
