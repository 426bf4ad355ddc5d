"""What becomes of a repository when releases come into it or leave: decided before anything is written. Reads only."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.errors import SourceError, TrustError, UsageError
from pipeline.model import Digest
from pipeline.repository.index import Index, read_index, read_keys
from pipeline.repository.kept import Package, Release, Repository
from pipeline.rpm.signatures import FOLDER, KEYS
from pipeline.verifier.encoding import Refused
from pipeline.verifier.openpgp import PgpKey
from pipeline.verifier.package import read_package, verify_package


@dataclass(frozen=True)
class Merge:
    """What a repository will hold."""

    incoming: Release
    releases: dict[str, Release]
    """Those that keep packages in it, by name."""
    folders: dict[str, tuple[Package, ...]]
    """Packages by folder."""
    epochs: dict[str, int]
    """When packages were built, by their places."""
    indexes: dict[str, Index | None]
    """The metadata before, by folder."""
    added: tuple[Package, ...]
    """Those that are not there yet."""
    removed: tuple[str, ...]
    """Places of packages that fall out."""
    gone: tuple[str, ...]
    """Releases that fall out."""
    keys: bytes
    """The new RPM-GPG-KEY-rfo."""
    unknown: tuple[str, ...] = field(default=())
    """Files that belong to nothing; they are left alone."""


def plan_removal(repository: Repository, leaving: Collection[str]) -> Merge:
    """Take releases out of a repository, by name: as if the newest of the others came again, and they fell out.

    Raises UsageError if they are not there or nothing would be left, SourceError for a repository that is damaged.
    """
    releases = repository.releases()
    if strangers := sorted(set(leaving) - set(releases)):
        raise UsageError(
            f"{repository.root} has no release {strangers[0]}",
            f"it has {', '.join(sorted(releases)) or 'none'}: name one of them as it stands there",
        )
    rest = [r for r in releases.values() if r.name not in leaving]
    if not rest:
        raise UsageError(
            f"{repository.root} has no other release: hosts that read it would find nothing",
            "add another one first; or, if no host reads it any more, remove the folder",
        )
    merge = plan_merge(repository, newest(rest), None, leaving)
    if merge.added:
        raise SourceError(f"{repository.root / merge.added[0].place} is damaged", f"add {merge.incoming.name} again")
    return merge


def plan_merge(
    repository: Repository, incoming: Release, keep: int | None, leaving: Collection[str] = frozenset()
) -> Merge:
    """Merge a release into a repository that keeps the newest `keep` versions in each folder, or all.

    Those called `leaving` fall out, whatever their versions; then nothing comes that is not there. Raises TrustError
    for another package of a name that is there, UsageError if the release itself or a whole folder would fall out,
    SourceError for a repository that is damaged.
    """
    before = repository.releases()
    if incoming.name in before:
        refuse_other(before[incoming.name], incoming)
    releases = {**before, incoming.name: incoming}
    known = read_keys(path.read_bytes(), KEYS) if (path := repository.root / KEYS).is_file() else []
    named = _by_folder(releases.values())
    arriving = "" if leaving else incoming.name
    indexes = {f: _index(repository, f, known) for f in sorted({*named, *repository.folders()})}
    folders: dict[str, tuple[Package, ...]] = {}
    removed: list[str] = []
    stays: set[str] = set()
    broken: set[str] = set()
    for folder, owners in named.items():
        there = repository.packages(folder)
        present = {
            r: _present(p, there, None if r in leaving else indexes[folder], fresh=r == arriving)
            for r, p in owners.items()
        }
        broken |= _broken(repository, owners.get(incoming.name, []), there, repairable=incoming.name in before)
        present = {r: p for r, p in present.items() if p}
        if not present:  # all of them fell out before
            continue
        staying = sorted((n for n in present if n not in leaving), key=lambda name: (releases[name].version, name))
        if not staying:
            raise UsageError(
                f"{repository.root / folder} has nothing else: hosts that read it would find nothing",
                f"add another release for them first; or, if none shall read it: rm -r {repository.root / folder}",
            )
        kept = staying[-keep if keep else 0 :]
        if incoming.name in present and incoming.name not in kept:
            raise UsageError(
                f"{incoming.name} is older than the newest {keep} in {repository.root / folder}: it would not be kept",
                "add it with a larger --keep, or not at all",
            )
        folders[folder] = _distinct([p for name in kept for p in present[name]])
        stays |= set(kept)
        files = {p.file for p in folders[folder]}
        removed += [p.place for name in present for p in present[name] if p.file not in files and p.file in there]
    merged = {name: releases[name] for name in sorted(stays)}
    belonging = {p.place for packages in folders.values() for p in packages} | set(removed)
    return Merge(
        incoming=incoming,
        releases=merged,
        folders=folders,
        epochs={p.place: r.epoch for r in merged.values() for p in r.packages},
        indexes=indexes,
        added=tuple(
            p for f, ps in folders.items() for p in ps if p.place in broken or p.file not in repository.packages(f)
        ),
        removed=tuple(sorted(set(removed))),
        gone=tuple(sorted(set(releases) - stays)),
        keys=newest_keys(merged),
        unknown=tuple(repository.unknown(belonging, releases)) if repository.root.is_dir() else (),
    )


def newest(releases: Iterable[Release]) -> Release:
    """Of one version the one whose base comes last by name, so that it is always the same."""
    return max(releases, key=lambda r: (r.version, r.name))


def newest_keys(releases: dict[str, Release]) -> bytes:
    """RPM-GPG-KEY-rfo of the newest release: it has its own key and those before it. Raises SourceError."""
    return newest(releases.values()).key_file()


def refuse_other(before: Release, incoming: Release) -> None:
    """Raise TrustError unless everything that a release's evidence names is in what comes under its name too."""
    mine = {p.place: p for p in incoming.packages}
    for package in before.packages:
        if mine.get(package.place, package) != package:
            raise _replaced(package, mine[package.place].digest)
        if package.place not in mine:
            raise TrustError(
                f"{package.place} is in the repository by {before.name}, and this {incoming.name} does not have it",
                "a release is not replaced by another of its name: give it another version",
            )


def refuse_unsigned(merge: Merge, repository: Repository, signer: str) -> None:
    """Raise TrustError for a key of this host, or of a package, that readers of the repository would not know.

    `signer` is the fingerprint of the key that will sign the metadata; empty if that is not known yet.
    """
    keys = read_keys(merge.keys, KEYS)
    known = {key.fingerprint for key in keys}
    last = newest(merge.releases.values()).name
    if signer and signer not in known:
        raise TrustError(
            f"the key for packages of this host, {signer}, is not in {KEYS} of {last}: who reads the repository "
            "would not know it",
            "add a release that was made with this key, or sign with the key of that one (RFO_KEYS)",
        )
    fresh = {p.place for p in merge.added}
    for package in (p for packages in merge.folders.values() for p in packages):
        folder = merge.incoming.published.folder / FOLDER if package.place in fresh else repository.root
        try:
            verify_package(read_package(folder / package.place, package.place), keys, package.place)
        except Refused as refused:
            facts = "".join(
                f"\n  {n} {t}" for n, t in (("expected", refused.expected), ("found   ", refused.found)) if t
            )
            raise TrustError(
                f"{refused}{facts}\n  the keys are those in {KEYS} of {last}",
                "make the release again on a host with a key for packages; if an old key was withdrawn, let its "
                "packages fall out: --keep N",
            ) from refused


def _by_folder(releases: Iterable[Release]) -> dict[str, dict[str, list[Package]]]:
    """Folder to release to packages."""
    found: dict[str, dict[str, list[Package]]] = {}
    for release in releases:
        for package in release.packages:
            found.setdefault(package.folder, {}).setdefault(release.name, []).append(package)
    return dict(sorted(found.items()))


def _present(packages: Sequence[Package], there: dict[str, int], index: Index | None, *, fresh: bool) -> list[Package]:
    """Those of a release's packages in a folder that are there, or come now. Raises SourceError."""
    found = []
    for package in packages:
        if package.file not in there and not fresh:
            if index and package.file in index.packages:
                raise SourceError(
                    f"{package.place} is missing, and the metadata name it", "add the release that it is from again"
                )
            continue  # it fell out before
        found.append(package)
    return found


def _broken(
    repository: Repository, packages: Sequence[Package], there: dict[str, int], *, repairable: bool
) -> set[str]:
    """Places of a release's packages that are there and damaged. Raises TrustError where nothing says that they are."""
    found = set()
    for package in packages:
        path = repository.root / package.place
        if package.file in there and (there[package.file], Digest.of_file(path)) != (package.size, package.digest):
            if not repairable:
                raise _replaced(package, Digest.of_file(path))
            found.add(package.place)
    return found


def _distinct(packages: Sequence[Package]) -> tuple[Package, ...]:
    """Each package once. Raises TrustError if two releases have another one under the same name."""
    found: dict[str, Package] = {}
    for package in packages:
        if found.setdefault(package.file, package) != package:
            raise _replaced(found[package.file], package.digest)
    return tuple(found[name] for name in sorted(found))


def _replaced(known: Package, found: Digest) -> TrustError:
    return TrustError(
        f"{known.place} would be replaced by another package of the same name and version\n"
        f"  expected {known.digest}\n  found    {found}",
        "a package that was published does not change: give the release another version",
    )


def _index(repository: Repository, folder: str, keys: Sequence[PgpKey]) -> Index | None:
    """The metadata of a folder. Raises SourceError for those that cannot be read: what hosts have seen is not known."""
    try:
        return read_index(repository.root / folder, keys, folder)
    except Refused as refused:
        raise SourceError(
            f"{repository.root}: {refused}",
            f"restore {folder}/repodata from a copy; or remove it, if no host has read the repository yet",
        ) from refused
