"""A repository as it lies in a folder: what belongs to it, which releases it has, what their packages are.

    RPM-GPG-KEY-rfo                    of the newest release
    BASE/RPM_ARCH/*.rpm, repodata/     packages, and metadata that are derived from them; BASE/source likewise
    releases/VERSION[@BASE]/           evidence: what judging a release takes, without anything large
    .rfo-repository                    the mark of a repository, and the lock of who writes it

The evidence says what belongs to a repository: packages that a release names, by digest. Reads only, but for the lock.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from pipeline.errors import SourceError, UsageError
from pipeline.model import Digest, ReleaseVersion
from pipeline.publish.dist import TEMPORARY
from pipeline.publish.published import Published, read_published
from pipeline.rpm.signatures import FOLDER, KEYS
from pipeline.store import store_error

MARK = ".rfo-repository"
RELEASES = "releases"
REPODATA = "repodata"
SOURCE = "source"
_PLACE = re.compile(
    rf"{FOLDER}/(?P<folder>[a-z0-9][a-z0-9.-]{{0,63}}/(?:x86_64|aarch64|riscv64|{SOURCE}))/"
    r"(?P<file>[A-Za-z0-9][A-Za-z0-9._+-]{0,250}\.rpm)"
)
"""Of packages in a release."""
_FOLDER = re.compile(rf"[a-z0-9][a-z0-9.-]{{0,63}}/(x86_64|aarch64|riscv64|{SOURCE})")
_METADATA = re.compile(r"repomd\.xml(\.asc)?|[0-9a-f]{64}-(primary|filelists|other)\.xml\.gz")
_EVIDENCE = re.compile(
    rf"release\.json|{FOLDER}/{KEYS}|trust/.+|"
    r"provenance/(layout\.json|release/.+|[^/]+/(rpm|document|rebuild)\.sigstore\.json)"
)
"""Of a release what judging its packages takes, besides them."""
TRASH = re.compile(r"\.(new|removed)-.+")
"""What a folder of evidence is called on its way in or out."""
MAX_FILES = 100_000


@dataclass(frozen=True)
class Package:
    """A package as a release names it."""

    folder: str
    """BASE/RPM_ARCH or BASE/source."""
    file: str
    digest: Digest
    size: int

    @property
    def place(self) -> str:
        """Below the repository."""
        return f"{self.folder}/{self.file}"


class Release:
    """A release with packages: one in dist/, or the evidence of one in a repository."""

    def __init__(self, published: Published) -> None:
        """Raises UsageError if it has no packages, SourceError."""
        manifest = published.manifest
        self.published = published
        self.version = ReleaseVersion.parse(manifest.version)
        self.name = manifest.version
        if manifest.stand_in:
            self.name += f"@{sorted(set(manifest.bases.values()))[0]}"
        places = [(_PLACE.fullmatch(a.name), a) for a in manifest.artifacts]
        self.packages = tuple(Package(m["folder"], m["file"], Digest.parse(a.digest), a.size) for m, a in places if m)
        where = published.folder
        if not self.packages:
            raise UsageError(
                f"{where} has no packages: it was made before there were any, or on a base without `dist`",
                f"make it anew: ./inv release --version {manifest.version}",
            )
        if f"{FOLDER}/{KEYS}" not in published.artifacts:
            raise SourceError(
                f"{where}/release.json names packages, but no {FOLDER}/{KEYS} with the keys to check them"
            )
        marked = f"-{manifest.version.removeprefix('v')}-"
        if odd := [p.place for p in self.packages if marked not in p.file]:
            raise SourceError(f"{where}/release.json names {odd[0]}, which is no package of {manifest.version}")

    @cached_property
    def epoch(self) -> int:
        """Its date: when its packages were built, as they say, in seconds since 1970. Raises SourceError."""
        try:
            return int(datetime.fromisoformat(self.published.manifest.date.replace("Z", "+00:00")).timestamp())
        except ValueError as error:
            raise SourceError(f"{self.published.folder}/release.json: {error}") from error

    @property
    def keys(self) -> Digest:
        """Of its RPM-GPG-KEY-rfo."""
        return Digest.parse(self.published.artifacts[f"{FOLDER}/{KEYS}"].digest)

    def key_file(self) -> bytes:
        """What its RPM-GPG-KEY-rfo holds, the bytes checked. Raises SourceError."""
        return self.published.file(f"{FOLDER}/{KEYS}").read_bytes()

    def evidence(self) -> list[str]:
        """The files that judging its packages takes, by their paths below it. Raises SourceError for a link."""
        found = files_below(self.published.folder, ("provenance", "trust", FOLDER))
        return ["release.json", *(n for n in found if _EVIDENCE.fullmatch(n))]


class Repository:
    """The folder of a repository."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def releases(self) -> dict[str, Release]:
        """The releases that it has evidence of, by name. Raises SourceError for evidence that cannot be read."""
        folder = self.root / RELEASES
        found = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.name.startswith(".") or not path.is_dir():
                continue
            try:
                release = Release(read_published(path))
            except UsageError as error:
                raise SourceError(f"{path}: {error.reason}", "remove it, and add that release again") from error
            if release.name != path.name:
                raise SourceError(f"{path} holds the evidence of {release.name}", "call it so, or remove it")
            found[release.name] = release
        return found

    def folders(self) -> list[str]:
        """Its folders with packages, as BASE/RPM_ARCH."""
        found = [p.relative_to(self.root).as_posix() for p in self.root.glob("*/*") if p.is_dir()]
        return sorted(f for f in found if _FOLDER.fullmatch(f))

    def packages(self, folder: str) -> dict[str, int]:
        """The package files in a folder: sizes in bytes by name."""
        return {p.name: p.stat().st_size for p in (self.root / folder).glob("*.rpm") if not p.name.startswith(".")}

    def unknown(self, packages: set[str], releases: dict[str, Release]) -> list[str]:
        """Files that belong to nothing, by paths; `packages` are the places of those that belong to it."""
        found = []
        for name in files_below(self.root, ("",)):
            folder, _, file = name.rpartition("/")
            top, _, rest = name.partition("/")
            known = name in (MARK, KEYS) or name in packages
            if folder.endswith(f"/{REPODATA}") and _FOLDER.fullmatch(folder.removesuffix(f"/{REPODATA}")):
                known |= _METADATA.fullmatch(file) is not None
            release, _, evidence = rest.partition("/")
            known |= top == RELEASES and release in releases and _EVIDENCE.fullmatch(evidence) is not None
            known |= TEMPORARY.fullmatch(file) is not None
            if not known:
                found.append(name)
        return sorted(found)


def files_below(root: Path, starts: tuple[str, ...]) -> list[str]:
    """Paths of the files below folders of `root`. Raises SourceError for links and special files, and for too many."""
    found: list[str] = []
    for start in starts:
        for folder, names, files in os.walk(root / start):
            for name in sorted([*names, *files]):
                path = Path(folder, name)
                if path.is_symlink() or not (path.is_dir() or path.is_file()):
                    raise SourceError(f"{path} is a link or a special file", "put a plain file or folder in its place")
            names.sort()
            found += [Path(folder, n).relative_to(root).as_posix() for n in sorted(files)]
            if len(found) > MAX_FILES:
                raise SourceError(f"{root} holds more than {MAX_FILES} files")
    return found


def find_repository(root: Path, *, new: bool = False) -> Repository:
    """The repository in a folder; with `new` it may be empty or missing.

    Raises UsageError for anything else, SourceError for links in it.
    """
    if not root.exists() and new:
        return Repository(root)
    if not root.is_dir():
        raise UsageError(f"{root} is no folder", "name the folder of a repository: --repo DIR")
    if (root / MARK).is_file() or ((root / KEYS).is_file() and (root / RELEASES).is_dir()):
        files_below(root, ("",))
        return Repository(root)
    if any(root.iterdir()):
        raise UsageError(
            f"{root} is no repository, and not empty: it has neither {MARK} nor {KEYS} and {RELEASES}/",
            "name the folder of a repository, or one that is empty or not there yet",
        )
    if not new:
        raise UsageError(f"{root} is empty", f"./inv repo add --from dist/VERSION --repo {root}")
    return Repository(root)


@contextmanager
def locked(repository: Repository) -> Iterator[None]:
    """Be the only one who writes a repository, which is made if need be. Raises UsageError, StoreError."""
    mark = repository.root / MARK
    try:
        repository.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise store_error(error, mark) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(
            f"another `inv repo` is at work in {repository.root}", "run the same command again when it has ended"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
