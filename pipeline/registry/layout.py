"""A folder as a place to copy from and to: an OCI image layout, read as foreign input, written content first.

Format: OCI image-spec 1.1, image-layout. Names are annotations of index.json's entries; what is attached to a manifest
is an entry without a name whose manifest has it as its subject, as oras writes it.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self

from pipeline.errors import PipelineError, SourceError, StoreError, UsageError
from pipeline.image.names import REGISTRY
from pipeline.lock import write_atomically
from pipeline.model import CHUNK, Digest
from pipeline.registry.content import damaged, open_plain, same, write_checked
from pipeline.registry.meter import Track
from pipeline.registry.oci import (
    IMAGE_NAME,
    INDEXES,
    MAX_INDEX,
    MAX_MANIFEST,
    REF_NAME,
    Descriptor,
    Manifest,
    read_index,
    read_manifest,
    render_index,
)
from pipeline.registry.place import Name, referrers_tag

LAYOUT = {"imageLayoutVersion": "1.0.0"}
MAX_LAYOUT = 4096
"""Bytes of the file `oci-layout`."""


class Saves(Protocol):
    """Where blobs can be had."""

    def save(self, repository: str, blob: Descriptor, target: Path, track: Track) -> None:
        """Write a blob to a file, its digest checked; what the file has of it already may stay."""


class Layout:
    """The images of one folder."""

    def __init__(self, folder: Path, *, make: bool = False) -> None:
        """Open the layout in `folder`, or in its folder `images` if it is of a release; `make` a missing one.

        Raises UsageError if there is none, SourceError if it is malformed.
        """
        inner = folder / "images"
        self.folder = inner if not (folder / "oci-layout").exists() and (inner / "oci-layout").exists() else folder
        self._lock = -1
        self._entries: list[Descriptor] = []
        self._names: dict[Name, Descriptor] = {}
        self._attached: dict[Digest, Manifest] = {}
        self._tags: dict[Name, Manifest] = {}
        if not make or not self._may_become_one():
            self._read()

    def __str__(self) -> str:
        return str(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock >= 0:
            os.close(self._lock)

    def hold(self) -> None:
        """Make the folder if it is missing, and let nobody else write it until the end. Raises UsageError."""
        with _failing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"another run writes to {self.folder}", "wait for its end") from None

    @property
    def names(self) -> dict[Name, Digest]:
        """Every image by name; not the tags under which older clients keep what is attached to one."""
        return {n: d.digest for n, d in sorted(self._names.items()) if not n.tag.startswith("sha256-")}

    def place(self, name: Name) -> str:
        """How people write an image that is here."""
        return f"{self.folder}:{name}"

    # --- to copy from

    def resolve(self, name: Name) -> Manifest | None:
        """What a name stands for; None if it is not there. Raises SourceError."""
        if written := self._tags.get(name):
            return written
        entry = self._names.get(name)
        return self.manifest(name.repository, entry) if entry else None

    def manifest(self, repository: str, wanted: Descriptor) -> Manifest:
        """A manifest by its digest. Raises SourceError if it is missing or damaged."""
        del repository  # a layout keeps all content together
        path = self._path(wanted.digest)
        data = _read_file(path, MAX_MANIFEST)
        if Digest.of_bytes(data) != wanted.digest or len(data) != wanted.size:
            raise damaged(path, wanted)
        return read_manifest(data, wanted.media_type, str(path))

    def attached(self, repository: str, subject: Digest) -> list[Descriptor]:
        """The manifests that have this one as their subject."""
        found = self._subjects.get(subject, [])
        listed = self.resolve(Name(repository, referrers_tag(subject)))
        if listed is None:
            return found
        if listed.descriptor.media_type not in INDEXES:
            raise SourceError(f"{self.folder}: {referrers_tag(subject)} is no index of referrers")
        known = {d.digest for d in found}
        return found + [d for d in read_index(listed.data, str(self.folder)) if d.digest not in known]

    def save(self, repository: str, blob: Descriptor, target: Path, track: Track) -> None:
        """Write a blob to a file, its digest checked. Raises SourceError if it is missing or damaged."""
        with self.file(repository, blob) as path, open_plain(path) as file:
            write_checked(target, blob, iter(lambda: file.read(CHUNK), b""), str(path), track)
        if not same(target, blob):
            target.unlink()
            raise damaged(path, blob)

    @contextmanager
    def file(self, repository: str, blob: Descriptor) -> Iterator[Path]:
        """A blob as a file; whoever reads it checks its digest."""
        del repository
        path = self._path(blob.digest)
        if not path.exists():
            raise SourceError(f"{path} is missing, and a manifest names it", "make or copy the folder again")
        yield path

    # --- to copy to

    def lacks(self, blob: Descriptor, repositories: Sequence[str]) -> list[str]:
        """All of the repositories if the blob is not there: a layout keeps all content together."""
        return [] if same(self._path(blob.digest), blob) else list(repositories)

    def mount_blob(self, repository: str, blob: Descriptor, held_by: str) -> bool:
        """Nothing is to be done: what one repository has, all have."""
        del repository, blob, held_by
        return True

    def put_blob(self, repository: str, blob: Descriptor, source: Saves, track: Track) -> None:
        """Bring a blob into the layout; what a killed run has left of it is continued."""
        target = self._path(blob.digest)
        part = target.with_name(f".{target.name}.part")
        with _failing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if part.is_symlink():
                part.unlink()
            source.save(repository, blob, part, track)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.rename(target)

    def has_manifest(self, repository: str, manifest: Manifest) -> bool:
        """Whether these bytes are there; in the folder, which is not to say that index.json leads to them."""
        del repository
        return same(self._path(manifest.digest), manifest.descriptor)

    def put_manifest(self, repository: str, manifest: Manifest) -> None:
        """Write a manifest under its digest."""
        del repository
        with _failing(self.folder):
            write_atomically(self._path(manifest.digest), manifest.data)

    def tagged(self, name: Name) -> Digest | None:
        """What a name stands for now."""
        entry = self._names.get(name)
        return entry.digest if entry else None

    def put_tag(self, name: Name, manifest: Manifest) -> None:
        """Let a name stand for a manifest, once the layout is finished."""
        self._tags[name] = manifest

    def attach(self, repository: str, subject: Manifest, referrers: Sequence[Manifest]) -> None:
        """Let manifests be found by their subject, once the layout is finished.

        Where the subject has no name it is listed too: oras looks up digests in index.json only.
        """
        del repository
        self._attached.update({m.digest: m for m in (subject, *referrers)})

    def finish(self) -> None:
        """Make visible what was written: index.json with the new entries beside those it has."""
        names = self._names | {n: m.descriptor for n, m in self._tags.items()}
        unnamed = {d.digest: d for d in self._entries if _name_of(d, self.folder) is None}
        unnamed |= {d: m.descriptor for d, m in self._attached.items()}
        known = {d.digest for d in names.values()}
        entries = [d.render({IMAGE_NAME: f"{REGISTRY}/{n}", REF_NAME: n.tag}) for n, d in sorted(names.items())]
        entries += [d.render() for digest, d in sorted(unnamed.items()) if digest not in known]
        with _failing(self.folder):
            write_atomically(self.folder / "oci-layout", json.dumps(LAYOUT).encode() + b"\n")
            write_atomically(self.folder / "index.json", render_index(entries))

    def _may_become_one(self) -> bool:
        """Whether the folder is missing, empty, or what a killed run has left."""
        if not self.folder.exists():
            return True
        found = {n for n in os.listdir(self.folder) if not n.startswith((".oci-layout.", ".index.json."))}
        return found <= {"blobs", "oci-layout"}

    def _path(self, digest: Digest) -> Path:
        return self.folder / "blobs" / "sha256" / digest.hex

    def _read(self) -> None:
        try:
            version = json.loads(_read_file(self.folder / "oci-layout", MAX_LAYOUT))
            index = _read_file(self.folder / "index.json", MAX_INDEX)
        except FileNotFoundError:
            raise UsageError(
                f"{self.folder} holds no images: it has no oci-layout and index.json",
                "name a release's folder, an OCI image layout, or (to write one) an empty folder",
            ) from None
        except (ValueError, RecursionError):
            version = None
        if version != LAYOUT:
            raise SourceError(f"{self.folder}/oci-layout: expected {json.dumps(LAYOUT)}")
        self._entries = read_index(index, f"{self.folder}/index.json")
        self._names = {}
        for entry in self._entries:
            name = _name_of(entry, self.folder)
            if name and self._names.setdefault(name, entry).digest != entry.digest:
                raise SourceError(f"{self.folder}/index.json: {name} stands for two images")

    @cached_property
    def _subjects(self) -> dict[Digest, list[Descriptor]]:
        """The entries without a name, by the manifest that they are attached to."""
        found: dict[Digest, list[Descriptor]] = {}
        for entry in self._entries:
            if entry.is_manifest and _name_of(entry, self.folder) is None:
                subject = self.manifest("", entry).subject
                if subject:
                    found.setdefault(subject, []).append(entry)
        return found


def _name_of(entry: Descriptor, folder: Path) -> Name | None:
    """The name of an entry of index.json; None if it has only a tag, or nothing."""
    text = (entry.annotations or {}).get(IMAGE_NAME)
    try:
        return Name.parse(text) if text is not None else None
    except PipelineError as error:
        raise SourceError(f"{folder}/index.json: {error.reason}") from error


def _read_file(path: Path, limit: int) -> bytes:
    """A small file of a foreign folder. Raises SourceError; FileNotFoundError."""
    with open_plain(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise SourceError(f"{path}: larger than {limit} bytes")
    return data


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    """What the disk says, as a StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{error.filename or path}: {error.strerror}", "free some space, or name another folder"
        ) from error
