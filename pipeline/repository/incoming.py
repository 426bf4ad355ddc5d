"""Which releases come into a repository, and stay in it: those that its users will accept. Reads only."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.accept import Asked, accept
from pipeline.attest.root import read_root, trust_folder
from pipeline.errors import HostError, SourceError, TrustError
from pipeline.promote import grouped
from pipeline.publish.published import read_published
from pipeline.report.progress import Progress
from pipeline.repository.kept import RELEASES, Release, Repository
from pipeline.rpm.signatures import FOLDER
from pipeline.verifier.openssl import HostLacks
from pipeline.verifier.report import ACCEPTED
from pipeline.verifier.repository import PACKAGES_APART
from pipeline.verifier.tuf import Trust
from pipeline.verifier.verify import Options, verify


@dataclass(frozen=True)
class Wanted:
    """What is to be done."""

    source: Path
    """Folder of the release."""
    repository: Path
    keep: int | None = None
    """Versions that each folder keeps; None: all."""
    candidate: bool = False
    """Whether a release that nobody promoted is taken, for development."""
    root: Path | None = None
    """Metadata of the root that is trusted; None: the newest of this host's trust repository."""


def accepted(wanted: Wanted, progress: Progress) -> Release:
    """The release in a folder, if it is one that its users will accept. Raises TrustError, UsageError, SourceError."""
    folder = wanted.source
    release = Release(read_published(folder))
    if wanted.candidate:
        progress.say(
            f"CANDIDATE: nobody judged {folder.name}; rfo-verify refuses a repository with it until it is promoted"
        )
        for package in release.packages:
            release.published.file(f"{FOLDER}/{package.place}")
        return release
    progress.step(f"judging {folder.name}")
    report = accept(Asked(str(folder), wanted.root), progress)
    if report.exit_code != ACCEPTED:
        lines = [*grouped(report.reasons), *report.stale]
        raise TrustError(
            f"{folder.name} is not accepted, and was not added:\n  " + "\n  ".join(lines),
            f"see everything: ./inv verify --release {folder}",
        )
    if report.development:
        progress.say("DEVELOPMENT: keys and policy are for development; nobody should rely on what they sign")
    if read_published(folder).manifest != release.published.manifest:
        raise SourceError(f"{folder} was changed while it was judged", "run the same command again")
    return release


def refuse_unaccepted(
    repository: Repository, root: Path | None, *, incoming: str = "", leaving: Sequence[str] = ()
) -> None:
    """Raise TrustError if a release in the repository is none, as far as its evidence goes, or was taken back since.

    Those that come or go are not looked at. The others are judged by the trust root of this host, which knows all
    releases; by a named `root` with what came with it.
    """
    trusted, trust = (root.read_bytes(), None) if root else _own_trust()
    refused: dict[str, str] = {}
    for name in sorted(set(repository.releases()) - {incoming, *leaving}):
        try:
            report = verify(
                repository.root / RELEASES / name,
                trusted,
                Options(scope=PACKAGES_APART, trust=trust, allow_stale=True),
            )
        except HostLacks as error:
            raise HostError(str(error)) from error
        if report.reasons:
            refused[name] = "\n  ".join(grouped(report.reasons))
    if refused:
        name, lines = next(iter(refused.items()))
        options = " ".join(f"--release {n}" for n in (*leaving, *refused))
        raise TrustError(
            f"{name} is in {repository.root}, and is not accepted any more:\n  {lines}",
            f"add it again, if it was promoted; else take it out: ./inv repo remove {options} --repo {repository.root}",
        )


def _own_trust() -> tuple[bytes, Trust]:
    found = read_root(trust_folder())
    return found.trust.root_file, found.trust
