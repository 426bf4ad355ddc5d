"""What a proof is about: a published candidate, its files checked, and this checkout set to build the same release."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.attest.openpgp import MAX_CERTIFICATES, dearmor
from pipeline.baselocks import base_lock_path
from pipeline.bases import Base
from pipeline.context import Context, Options
from pipeline.errors import ProofError, SourceError, UsageError
from pipeline.lock import BaseLock
from pipeline.model import PLATFORMS, Digest, Platform
from pipeline.publish.manifest import describe_inputs
from pipeline.publish.published import Published, read_published
from pipeline.report.progress import Progress
from pipeline.rpm.package import signature_of
from pipeline.rpm.signatures import FOLDER, METADATA_SIGNATURE, PACKAGE, Given, Signer, certificates_of


@dataclass(frozen=True)
class Candidate:
    """A release as it was published."""

    published: Published
    locks: dict[str, bytes]
    """The base locks that it ships, by base."""

    @property
    def version(self) -> str:
        """`vX.Y.Z+rforN`."""
        return self.published.manifest.version

    @cached_property
    def digest(self) -> Digest:
        """Of its release.json, which names everything else."""
        return Digest.of_file(self.published.folder / "release.json")

    @cached_property
    def packets(self) -> dict[str, bytes]:
        """The signatures of packages and of their repositories' metadata, by place; what is malformed has none."""
        found = {}
        for name in self.published.artifacts:
            path = self.published.folder / name
            if name.startswith(f"{FOLDER}/") and name.endswith(PACKAGE):
                with contextlib.suppress(SourceError):
                    found[name] = signature_of(path)
            elif name.startswith(f"{FOLDER}/") and name.endswith(f"/{METADATA_SIGNATURE}"):
                found[name] = dearmor(self.published.content(name, MAX_CERTIFICATES))
        return {name: packet for name, packet in found.items() if packet}

    @property
    def signer(self) -> Signer:
        """Who signed its packages: the certificates that it ships, with the signatures that it has."""
        known = certificates_of(self.published)
        return Signer(known, Given(known, self.packets))

    @property
    def platforms(self) -> list[Platform]:
        """Those it was made for."""
        return [PLATFORMS[p.removeprefix("linux/")] for p in self.published.manifest.platforms]


def read_candidate(folder: Path) -> Candidate:
    """The candidate in `folder`, every file checked against release.json.

    Raises UsageError if there is none, SourceError naming the file that is missing or was changed.
    """
    published = read_published(folder)
    if unknown := [p for p in published.manifest.platforms if p.removeprefix("linux/") not in PLATFORMS]:
        raise UsageError(f"{folder} was made for {unknown[0]}, which this engine does not know")
    paths = {name: published.file(name) for name in published.artifacts}
    locks = {b: paths[f"{b}.lock"].read_bytes() for b in published.manifest.bases.values() if f"{b}.lock" in paths}
    return Candidate(published, locks)


def context_of(
    candidate: Candidate, progress: Progress, checkout: Path, *, arches: Sequence[str], components: Sequence[str],
    jobs: int = 0, offline: bool = False,
) -> Context:  # fmt: skip
    """A run of this checkout for what the candidate was made from. Raises UsageError, ProofError."""
    manifest = candidate.published.manifest
    made_for = [p.arch for p in candidate.platforms]
    if missing := [a for a in arches if a not in made_for]:
        raise UsageError(f"the candidate was not made for {missing[0]}", f"it was made for: {', '.join(made_for)}")
    bases = set(manifest.bases.values())
    if manifest.stand_in and len(bases) != 1:
        raise UsageError(f"the candidate stands on several bases that its definition does not name: {sorted(bases)}")
    options = Options(
        version=candidate.version,
        base=bases.pop() if manifest.stand_in else None,
        arches=tuple(arches or made_for),
        components=tuple(components),
        jobs=jobs,
        offline=offline,
        locked=True,
    )
    context = Context(options, progress, checkout, signer=candidate.signer)
    context.base_locks = {b.name: _lock(b, candidate, context) for b in context.bases.values()}
    return context


def _lock(base: Base, candidate: Candidate, context: Context) -> BaseLock:
    """The lock that the candidate ships; one that is committed must be the same."""
    where = f"{candidate.published.folder}/{base.name}.lock"
    text = candidate.locks.get(base.name)
    if text is None:
        raise ProofError(f"the candidate ships no {base.name}.lock, so that nobody can build it again")
    if not base.floating:
        committed = base_lock_path(base, candidate.version, context.definitions, context.store)
        if not committed.is_file() or committed.read_bytes() != text:
            raise ProofError(
                f"{where} is not the lock that this checkout has for {candidate.version}",
                f"check out the commit that made {candidate.published.name}",
            )
    try:
        return BaseLock.parse(text.decode(), where)
    except UnicodeDecodeError as error:
        raise ProofError(f"{where} is not text") from error


def refuse_other_inputs(candidate: Candidate, context: Context) -> None:
    """Raise ProofError if this checkout would make another release: other definitions, locks, sources or code."""
    claimed = candidate.published.manifest.inputs
    for arch in context.arches:
        said, here = claimed.get(f"linux/{arch}"), describe_inputs(context, arch)
        if said == here:
            continue
        names = sorted(n for n in {*here, *(said or {})} if not isinstance(said, dict) or said.get(n) != here.get(n))
        raise ProofError(
            f"the candidate was made from another {', another '.join(names)} than this checkout has",
            f"check out the commit that made {candidate.published.name}, without local changes, and run it again",
        )
