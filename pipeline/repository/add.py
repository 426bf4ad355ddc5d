"""`inv repo add`: a release's packages become part of a repository. Can be repeated, and killed at any moment.

Published are packages, evidence and keys, then the metadata of each folder, repomd.xml last; what falls out is removed
when no metadata name it any more. Everything before is decided without writing.
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.attest.keys import keys_folder
from pipeline.attest.openpgp import SIGNATURE, Public, armor
from pipeline.attest.packages import known_certificates
from pipeline.attest.signing import PackagesKey
from pipeline.baselocks import have_base_lock
from pipeline.context import Context, host_arch
from pipeline.errors import SourceError, StoreError, TrustError
from pipeline.lock import write_atomically
from pipeline.model import CHUNK
from pipeline.publish.dist import TEMPORARY
from pipeline.report.progress import size
from pipeline.repository.incoming import Wanted, accepted, refuse_unaccepted
from pipeline.repository.index import MAX_REVISION, make_index, sync, write_index
from pipeline.repository.kept import (
    RELEASES,
    REPODATA,
    TRASH,
    Package,
    Release,
    Repository,
    find_repository,
    locked,
)
from pipeline.repository.merge import Merge, plan_merge, refuse_unsigned
from pipeline.roots import Roots
from pipeline.rpm.packages import ROLE
from pipeline.rpm.signatures import FOLDER, KEYS, METADATA_SIGNATURE
from pipeline.store import remove_tree, store_error

RESERVE = 16 << 20
"""Bytes that evidence and metadata may take besides packages."""


@dataclass(frozen=True)
class Changed:
    """One folder of packages."""

    folder: str
    packages: int
    revision: int
    """Of its metadata, after it."""
    written: bool
    """Whether its metadata are new."""


@dataclass(frozen=True)
class Added:
    """What was done, or would be."""

    release: str
    """That was added; empty where releases were taken out."""
    repository: Path
    dry_run: bool
    folders: tuple[Changed, ...]
    added: tuple[str, ...]
    """Places of packages."""
    removed: tuple[str, ...]
    gone: tuple[str, ...]
    """Releases without packages, whose evidence was removed."""
    evidence: tuple[str, ...]
    """Files of evidence and keys that were written."""
    unknown: tuple[str, ...]
    """Files that belong to nothing."""


def add(wanted: Wanted, context: Context) -> Added:
    """Merge a release into a repository. Raises PipelineError; the same call goes on where it was stopped."""
    repository = find_repository(wanted.repository, new=True)
    release = accepted(wanted, context.progress)
    try:
        if context.options.dry_run:
            return describe(decide(wanted, repository, release), repository)
        key = signing_key()
        with locked(repository):
            remove_unfinished(repository)
            merge = decide(wanted, repository, release)
            refuse_unsigned(merge, repository, key.fingerprint)
            refuse_small_disk(merge, repository)
            return publish(merge, repository, key, context)
    except OSError as error:
        raise store_error(error, wanted.repository) from error


def decide(wanted: Wanted, repository: Repository, release: Release) -> Merge:
    """What becomes of the repository, whose own evidence is judged too: what is signed now is all of it."""
    if not wanted.candidate:
        refuse_unaccepted(repository, wanted.root, incoming=release.name)
    return plan_merge(repository, release, wanted.keep)


def signing_key() -> Public:
    """The key that signs metadata on this host. Raises TrustError: none is made, as releases have to name it."""
    known = known_certificates(keys_folder())
    if not known:
        raise TrustError(
            f"there is no key for packages in {keys_folder()}: the one that signed the packages signs metadata too",
            "run this where the release was made, or bring its key: RFO_KEYS=FOLDER",
        )
    return known[0].public


def describe(merge: Merge, repository: Repository) -> Added:
    """What would be done; nothing is written."""
    key = signing_key().fingerprint
    refuse_unsigned(merge, repository, key)
    folders = tuple(
        Changed(f, len(p), _revision(merge, f, key), not _holds(merge, f, key)) for f, p in merge.folders.items()
    )
    return _added(merge, repository, folders, tuple(n for n, _ in _evidence(merge, repository)), dry_run=True)


def publish(merge: Merge, repository: Repository, key: Public, context: Context) -> Added:
    """Bring a repository to what was planned, in an order in which whoever reads it finds it whole."""
    if merge.added:
        context.progress.step(f"copying {len(merge.added)} packages, {size(sum(p.size for p in merge.added))}")
    place_packages(merge, repository)
    evidence = place_evidence(merge, repository)
    folders = tuple(renew(merge, folder, repository, key, context) for folder in merge.folders)
    for place in merge.removed:
        (repository.root / place).unlink(missing_ok=True)
    for name in merge.gone:
        if (repository.root / RELEASES / name).exists():
            trash = repository.root / RELEASES / f".removed-{name}"
            (repository.root / RELEASES / name).rename(trash)
            remove_tree(trash)
    return _added(merge, repository, folders, evidence, dry_run=False)


def remove_unfinished(repository: Repository) -> None:
    """Remove what a run that was killed left on its way."""
    for path in sorted(repository.root.rglob(".*")):
        if TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink()
        elif TRASH.fullmatch(path.name) and path.parent == repository.root / RELEASES:
            remove_tree(path)


def refuse_small_disk(merge: Merge, repository: Repository) -> None:
    """Raise StoreError, before anything is written, if the packages do not fit."""
    need = sum(p.size for p in merge.added) + RESERVE
    free = shutil.disk_usage(repository.root).free
    if free < need:
        raise StoreError(
            f"{repository.root}: about {size(need)} are needed and {size(free)} are free",
            "free some space; --keep N lets older versions fall out, but only after the new ones are there",
        )


def place_packages(merge: Merge, repository: Repository) -> None:
    """Copy packages that are not there yet, each checked on the way. Raises SourceError."""
    for package in merge.added:
        target = repository.root / package.place
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(merge.incoming.published.folder / FOLDER / package.place, target, package, merge.epochs[package.place])
    for folder in merge.folders:
        sync(repository.root / folder)


def place_evidence(merge: Merge, repository: Repository) -> tuple[str, ...]:
    """Write what judging the release takes, and RPM-GPG-KEY-rfo; returns what was written.

    The first time it appears in one step; later, when metadata of the trust root are renewed, file by file.
    """
    written = _evidence(merge, repository)
    target = repository.root / RELEASES / merge.incoming.name
    if not target.exists():
        staged = Path(tempfile.mkdtemp(prefix=f".new-{merge.incoming.name}-", dir=_folder(target.parent)))
        staged.chmod(0o755)
        for name, data in written:
            if name != KEYS:
                write_atomically(staged / name.removeprefix(f"{RELEASES}/{merge.incoming.name}/"), data)
        staged.rename(target)
        sync(target.parent)
    for name, data in written:
        path = repository.root / name
        if not path.is_file() or path.read_bytes() != data:
            write_atomically(path, data)
    mine = {f"{RELEASES}/{merge.incoming.name}/{n}" for n in merge.incoming.evidence()}
    for path in sorted(target.rglob("*"), reverse=True):  # metadata that newer ones replace
        if path.is_file() and path.relative_to(repository.root).as_posix() not in mine:
            path.unlink()
    return tuple(name for name, _ in written)


def renew(merge: Merge, folder: str, repository: Repository, key: Public, context: Context) -> Changed:
    """Make, sign and publish the metadata of a folder, if those that are there are not of what it now holds."""
    packages = merge.folders[folder]
    revision = _revision(merge, folder, key.fingerprint)
    if _holds(merge, folder, key.fingerprint):
        return Changed(folder, len(packages), revision, False)
    context.progress.step(f"metadata of {folder}: {len(packages)} packages")
    if revision >= MAX_REVISION:
        raise SourceError(
            f"{folder}: revision {revision} of its metadata is no time", "restore its repodata from a copy"
        )
    place, epochs = repository.root / folder, {p.file: merge.epochs[p.place] for p in packages}
    made = make_index(place, packages, epochs, revision, packages_root(folder, merge, context), context.store)
    signer = PackagesKey(context.store.root, "", max(revision, key.created))
    blob = context.store.blob(context.store.add_bytes(made.repomd).digest)
    name = f"{folder}/{REPODATA}/{METADATA_SIGNATURE}"
    write_index(place, made, armor(signer.sign({name: blob})[name], SIGNATURE))
    return Changed(folder, len(packages), revision, True)


def packages_root(folder: str, merge: Merge, context: Context) -> Path:
    """The root that has createrepo_c, of the base that a folder is called after."""
    base, host = context.definitions.base(folder.partition("/")[0]), host_arch()
    origin = context.options.mirrors.get(base.name)
    version = max(r.version for r in merge.releases.values() if any(p.folder == folder for p in r.packages))
    lock = have_base_lock(
        base, (), host, str(version), context.definitions, context.store, context.progress,
        origin=origin, offline=context.options.offline, locked=True,
    )  # fmt: skip
    roots = Roots(
        base, lock, context.store, host, origin=origin, offline=context.options.offline, progress=context.progress
    )
    return roots.path(roots.find(ROLE, host))


def _holds(merge: Merge, folder: str, signer: str) -> bool:
    index = merge.indexes[folder]
    return index is not None and index.holds(merge.folders[folder], signer)


def _revision(merge: Merge, folder: str, signer: str) -> int:
    """Of the metadata that a folder has or will have: never lower than before."""
    index = merge.indexes[folder]
    if index and _holds(merge, folder, signer):
        return index.repomd.revision
    newest = max(merge.epochs[p.place] for p in merge.folders[folder])
    return max(newest, index.repomd.revision + 1 if index else 0)


def _evidence(merge: Merge, repository: Repository) -> list[tuple[str, bytes]]:
    """Files of evidence and keys that are not there as they should be: paths below the repository, with content."""
    source = merge.incoming.published.folder
    files = {f"{RELEASES}/{merge.incoming.name}/{n}": source / n for n in merge.incoming.evidence()}
    wanted = {name: path.read_bytes() for name, path in files.items()} | {KEYS: merge.keys}
    there = {n: p.read_bytes() for n in wanted if (p := repository.root / n).is_file()}
    return [(name, data) for name, data in wanted.items() if there.get(name) != data]


def _copy(source: Path, target: Path, package: Package, epoch: int) -> None:
    """Copy a package beside its place, then move it there. Raises SourceError if it is not what the release names."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        digest = hashlib.sha256()
        with os.fdopen(descriptor, "wb") as copy, source.open("rb") as file:
            while data := file.read(CHUNK):
                digest.update(data)
                copy.write(data)
            copy.flush()
            os.fchmod(copy.fileno(), 0o644)
            os.fsync(copy.fileno())
        if digest.hexdigest() != package.digest.hex:
            raise SourceError(
                f"{source} is not what its release.json names\n  expected {package.digest}\n  found    sha256:"
                f"{digest.hexdigest()}",
                "get the release again",
            )
        os.utime(name, (epoch, epoch))
        Path(name).rename(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _added(
    merge: Merge, repository: Repository, folders: tuple[Changed, ...], evidence: tuple[str, ...], *, dry_run: bool
) -> Added:
    return Added(
        merge.incoming.name, repository.root, dry_run, folders, tuple(p.place for p in merge.added), merge.removed,
        merge.gone, evidence, merge.unknown,
    )  # fmt: skip
