"""Copy images with all that is attached to them: blobs, then manifests, then tags, so that a name never leads nowhere.

What is there already is not sent again; so an interrupted transfer goes on where it stopped when it is repeated.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from pipeline.errors import NetworkError, SourceError
from pipeline.model import Digest
from pipeline.registry.content import Memory
from pipeline.registry.legacy import join
from pipeline.registry.meter import Meter, Stopped, Track
from pipeline.registry.oci import Descriptor, Manifest
from pipeline.registry.place import LEGACY, Name, referrers_tag

MAX_MANIFESTS = 20_000
"""Manifests of one repository; a release has 4 of each image and as many signatures."""
WRITES = 5
"""Attempts to write a tag that others write too."""
MAX_DEPTH = 8
"""Indexes in indexes, and signatures of signatures."""
POLL = 0.25
"""Seconds between two looks at the threads."""


class Blobs(Protocol):
    """Where content comes from."""

    def file(self, repository: str, blob: Descriptor) -> AbstractContextManager[Path]:
        """A blob as a file for a while; whoever reads it checks its digest."""

    def save(self, repository: str, blob: Descriptor, target: Path, track: Track) -> None:
        """Write a blob to a file, its digest checked; what the file has of it already may stay."""


class Source(Blobs, Protocol):
    """Where images come from."""

    def place(self, name: Name) -> str:
        """How people write an image that is here."""

    def resolve(self, name: Name) -> Manifest | None:
        """What a name stands for."""

    def manifest(self, repository: str, wanted: Descriptor) -> Manifest:
        """A manifest by its digest, its bytes checked."""

    def attached(self, repository: str, subject: Digest) -> list[Descriptor]:
        """The manifests that have this one as their subject."""


class Target(Protocol):
    """Where images go to."""

    def place(self, name: Name) -> str:
        """How people write an image that is here."""

    def lacks(self, blob: Descriptor, repositories: Sequence[str]) -> list[str]:
        """Those of the repositories that have not got a blob."""

    def mount_blob(self, repository: str, blob: Descriptor, held_by: str) -> bool:
        """Have a blob from another repository of the same place; whether that is possible."""

    def put_blob(self, repository: str, blob: Descriptor, source: Blobs, track: Track) -> None:
        """Bring a blob of the source's repository of this name into a repository, its digest checked."""

    def has_manifest(self, repository: str, manifest: Manifest) -> bool:
        """Whether these bytes are there."""

    def put_manifest(self, repository: str, manifest: Manifest) -> None:
        """Write a manifest under its digest."""

    def attach(self, repository: str, subject: Manifest, referrers: Sequence[Manifest]) -> None:
        """Make manifests that are there known as attached to their subject."""

    def resolve(self, name: Name) -> Manifest | None:
        """What a name stands for, or will when the transfer is finished."""

    def tagged(self, name: Name) -> Digest | None:
        """What a name stands for now."""

    def put_tag(self, name: Name, manifest: Manifest) -> None:
        """Let a name stand for a manifest."""


@dataclass(frozen=True)
class Image:
    """One name of the transfer."""

    place: str
    """Where it is now, as people write it."""
    digest: Digest
    before: Digest | None
    """What stood there under this name."""


@dataclass
class Result:
    """What a transfer did, or would do."""

    images: list[Image] = field(default_factory=list)
    attached: int = 0
    """Manifests that others have as their subject, and tags of older clients."""
    blobs: int = 0
    """Blobs in all repositories."""
    sent: int = 0
    """Of these, sent."""
    mounted: int = 0
    """Of these, taken from another repository of the registry."""
    bytes: int = 0
    """Size of those that were sent."""
    manifests: int = 0
    """Manifests that were written."""


@dataclass
class _Repository:
    """What of one repository is to be copied."""

    name: str
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    """In an order in which each stands behind what it refers to."""
    referrers: dict[Digest, list[Manifest]] = field(default_factory=dict)
    tags: dict[Name, Manifest] = field(default_factory=dict)
    legacy: dict[Name, Manifest] = field(default_factory=dict)


def transfer(
    source: Source,
    target: Target,
    names: Mapping[Name, Digest | None],
    *,
    jobs: int,
    meter: Meter,
    dry_run: bool = False,
) -> Result:
    """Copy every image of `names`, which must have the digest that is given there, with all that is attached to it.

    Raises SourceError if an image is missing, another, or damaged; NetworkError, StoreError. What was copied by then
    is there, under no name.
    """
    result = Result()
    meter.step(f"reading {len(names)} names")
    repositories = [_Repository(r) for r in sorted({n.repository for n in names})]
    _all([partial(_Reader(source, r).read, names) for r in repositories], jobs, meter)
    meter.step("copying content")
    _copy_blobs(source, target, repositories, result, jobs, meter, dry_run=dry_run)
    meter.step("writing manifests")
    written = list[Digest]()
    _all([partial(_write_manifests, target, r, written, dry_run=dry_run) for r in repositories], jobs, meter)
    result.manifests = len(written)
    meter.step("writing names")
    if not dry_run:  # what is attached comes first
        _all([partial(_write_legacy, target, r) for r in repositories], jobs, meter)
    _all([partial(_write_tags, target, r.tags, result.images, dry_run=dry_run) for r in repositories], jobs, meter)
    result.images.sort(key=lambda i: i.place)
    result.attached = sum(len(r.legacy) + sum(map(len, r.referrers.values())) for r in repositories)
    return result


class _Reader:
    """Reads from a source what belongs to the images of one repository."""

    def __init__(self, source: Source, repository: _Repository) -> None:
        self._source = source
        self._repository = repository

    def read(self, names: Mapping[Name, Digest | None]) -> None:
        """Fill the repository with those of the names that are in it."""
        for name, expected in sorted(names.items()):
            if name.repository != self._repository.name:
                continue
            root = self._source.resolve(name)
            if root is None:
                raise SourceError(f"{self._source.place(name)} does not exist", "check the name, or the release")
            if expected not in (None, root.digest):
                place = self._source.place(name)
                raise SourceError(
                    f"{place} is not the release's:\n  expected {expected}\n  found    {root.digest}",
                    "it was moved or replaced there; find out by whom before you use it",
                )
            self._repository.tags[name] = root
            self._walk(root, 0)

    def _walk(self, manifest: Manifest, depth: int) -> None:
        repository = self._repository
        if manifest.digest in repository.manifests:
            return
        if depth > MAX_DEPTH:
            raise SourceError(f"{repository.name}@{manifest.digest}: over {MAX_DEPTH} manifests in each other")
        for child in manifest.children:
            if child.digest not in repository.manifests:
                self._walk(self._source.manifest(repository.name, child), depth + 1)
        if len(repository.manifests) >= MAX_MANIFESTS:
            raise SourceError(f"{repository.name}: over {MAX_MANIFESTS} manifests belong to its images")
        repository.manifests[manifest.digest] = manifest
        for entry in self._source.attached(repository.name, manifest.digest):
            referrer = self._source.manifest(repository.name, entry)
            if referrer.subject != manifest.digest:
                raise SourceError(
                    f"{repository.name}@{referrer.digest} is listed as attached to {manifest.digest}, "
                    f"and says itself that it belongs to {referrer.subject or 'nothing'}"
                )
            repository.referrers.setdefault(manifest.digest, []).append(referrer)
            self._walk(referrer, depth + 1)
        for suffix in LEGACY:
            name = Name(repository.name, f"{referrers_tag(manifest.digest)}.{suffix}")
            if found := self._source.resolve(name):
                repository.legacy[name] = found
                self._walk(found, depth + 1)


def _copy_blobs(
    source: Source,
    target: Target,
    repositories: Sequence[_Repository],
    result: Result,
    jobs: int,
    meter: Meter,
    *,
    dry_run: bool,
) -> None:
    wanted: dict[Digest, tuple[Descriptor, dict[str, None]]] = {}
    for repository in repositories:
        for manifest in repository.manifests.values():
            for blob in manifest.blobs:
                known, holders = wanted.setdefault(blob.digest, (blob, {}))
                if known.size != blob.size:
                    raise SourceError(f"{repository.name}: manifests disagree about the size of {blob.digest}")
                holders[repository.name] = None
    lock = threading.Lock()

    def copy(blob: Descriptor, holders: Sequence[str]) -> None:
        lacking = target.lacks(blob, holders)
        held_by = next((h for h in holders if h not in lacking), None)
        mounted = 0
        for repository in lacking:
            if held_by and (dry_run or target.mount_blob(repository, blob, held_by)):
                mounted += 1
            elif not dry_run:
                target.put_blob(repository, blob, source, Track() if held_by else meter.track())
            held_by = held_by or repository
        sent = len(lacking) - mounted
        if not sent:
            meter.skip(blob.size)
        with lock:
            result.blobs += len(holders)
            result.sent += sent
            result.mounted += mounted
            result.bytes += sent * blob.size

    largest_first = sorted(wanted.values(), key=lambda w: (-w[0].size, w[0].digest))
    meter.begin(sum(blob.size for blob, _ in largest_first))
    try:
        _all([partial(copy, blob, list(holders)) for blob, holders in largest_first], jobs, meter)
    finally:
        meter.end()


def _write_manifests(target: Target, repository: _Repository, written: list[Digest], *, dry_run: bool) -> None:
    for manifest in repository.manifests.values():
        if target.has_manifest(repository.name, manifest):
            continue
        if not dry_run:
            target.put_manifest(repository.name, manifest)
        written.append(manifest.digest)
    for subject, referrers in repository.referrers.items():
        if not dry_run:
            target.attach(repository.name, repository.manifests[subject], referrers)


def _write_legacy(target: Target, repository: _Repository) -> None:
    """Let the tags of older clients stand for what is attached here, and what others had under them.

    Two writers at once would take away each other's: what was written is read again until it is there.
    """
    for name, ours in repository.legacy.items():
        for _ in range(WRITES):
            there = target.resolve(name)
            if there and there.digest == ours.digest:
                break
            joint, config = (join(there, ours) if there else None) or (ours, b"")
            if there and joint.digest == there.digest:
                break
            if config:
                target.put_blob(name.repository, joint.blobs[0], Memory(config), Track())
            target.put_tag(name, joint)
        else:
            raise NetworkError(f"{target.place(name)}: somebody else writes it at the same time", "push again later")


def _write_tags(target: Target, tags: Mapping[Name, Manifest], written: list[Image], *, dry_run: bool) -> None:
    for name, manifest in tags.items():
        before = target.tagged(name)
        if before != manifest.digest and not dry_run:
            target.put_tag(name, manifest)
        written.append(Image(target.place(name), manifest.digest, before))


def _all(tasks: Sequence[Callable[[], object]], jobs: int, meter: Meter) -> None:
    """Run all tasks, `jobs` at once; the first failure ends the others at their next step, and is raised."""
    queue, failures = deque(tasks), list[BaseException]()

    def work() -> None:
        while not meter.stopped:
            try:
                task = queue.popleft()
            except IndexError:
                return
            try:
                task()
            except BaseException as error:
                failures.append(error)
                meter.stop()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(jobs, len(tasks)))]
    for thread in threads:
        thread.start()
    try:
        while any(t.is_alive() for t in threads):
            for thread in threads:
                thread.join(POLL / len(threads))
            meter.tick()
    except BaseException:  # Ctrl-C: threads that wait for the network end with the process
        meter.stop()
        raise
    for failure in failures:
        if not isinstance(failure, Stopped):
            raise failure
