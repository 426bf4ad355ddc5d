"""Which file of which release is meant: by path, by member of an archive, by digest, or by name and architecture.

Only the file that is asked for is hashed, and every archive that has to be opened is checked first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.errors import PipelineError, SourceError, UsageError
from pipeline.model import PLATFORMS, Digest, ReleaseVersion
from pipeline.pack.members import SUFFIXES, Member, read_members
from pipeline.publish.published import Artifact, Binary, Published, read_published, refuse_other

FORMS = (
    "name a file, a member (rfo.linux-amd64.tar.gz:bin/rfo), a digest (sha256:HEX), or a program and its architecture "
    "(kubelet@arm64); options: ./inv explain --help"
)


@dataclass(frozen=True)
class Found:
    """A file that a release names."""

    release: Published
    kind: Literal["artifact", "binary", "member"]
    name: str
    """Of the artifact or program; of a member its path in the archive."""
    digest: Digest
    size: int
    """Bytes."""
    platform: str | None
    """None: of the whole release."""
    archive: str = ""
    """The artifact that a member stands in."""
    unit: str = ""
    """What a program was compiled from."""
    path: Path | None = None
    """Where it was read, if it was."""
    also_in: tuple[str, ...] = ()
    """Other releases below dist/ that name the same bytes."""


def find(text: str, dist: Path, named: str = "") -> Found:
    """The file that `text` means: in the release `named` (a folder, or its name below `dist`), else in any of `dist`.

    Raises UsageError if nothing or more than one thing is meant, SourceError for what is not as its release says.
    """
    if text.startswith("sha256:"):
        return _by_digest(_parse_digest(text), text, None, _releases(dist, named))
    path = Path(text)
    if path.is_file():
        return _by_path(path, dist, named)
    archive, colon, member = text.rpartition(":")
    if colon and Path(archive).is_file():
        return _member(_by_path(Path(archive), dist, named), member)
    releases = _releases(dist, named)
    if colon and (holders := [r for r in releases if archive in r.artifacts]):
        return _member(_only(holders, archive, lambda r: _artifact(r, archive)), member)
    if found := [r for r in releases if text in r.artifacts]:
        return _only(found, text, lambda r: _artifact(r, text))
    name, at, arch = text.rpartition("@")
    if at and arch in PLATFORMS:
        if found := [r for r in releases if _binary_named(r, name, arch)]:
            return _only(found, text, lambda r: _of_binary(r, _binary_named(r, name, arch)[0]))
        known = sorted({b.name for r in releases for b in r.manifest.binaries})
        raise UsageError(f"no release has a program {name} for {arch}", f"programs: {', '.join(known) or 'none'}")
    raise UsageError(f"there is no file {text}", FORMS)


def _releases(dist: Path, named: str) -> list[Published]:
    """The releases to look in, the newest first; those below dist/ that cannot be read are left out."""
    if named:
        folder = Path(named)
        return [read_published(folder if folder.is_dir() or "/" in named else dist / named)]
    found = []
    for folder in dist.glob("*"):
        try:
            found.append(read_published(folder))
        except PipelineError:
            continue  # of another engine, or no release: what it names cannot be known
    if not found:
        raise UsageError(
            f"there is no release in {dist}", "make one (./inv release), or name its folder: --release DIST"
        )
    return sorted(found, key=lambda r: (ReleaseVersion.parse(r.manifest.version), r.name), reverse=True)


def _by_path(path: Path, dist: Path, named: str) -> Found:
    """A file on disk: of the folder it stands in, if that is a release's, else whatever names its digest."""
    try:
        digest = Digest.of_file(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if path.name == "release.json":
        raise UsageError(f"{path} is what the other files are explained from", FORMS)
    if (path.parent / "release.json").is_file() and not named:
        release = read_published(path.parent)
        if artifact := release.artifacts.get(path.name):
            refuse_other(path, digest, artifact.digest)
            return replace(_of_artifact(release, artifact), path=path)
    return _by_digest(digest, str(path), path, _releases(dist, named))


def _by_digest(digest: Digest, text: str, path: Path | None, releases: Sequence[Published]) -> Found:
    """What names `digest`: artifacts and programs by release.json alone, then members of archives by reading them."""
    matches = [found for r in releases for found in _named_so(r, digest)]
    matches = matches or [found for r in releases for found in _members_so(r, digest)]
    if not matches:
        near = next((f for r in releases for f in _called_so(r, path.name if path else "")), None)
        hint = "name the release it came from: --release DIST"
        if near:
            hint = (
                f"{near.name} of {near.release.name} is {near.digest}: this one was changed, or is of another release"
            )
        where = ", ".join(r.name for r in releases)
        raise SourceError(f"{text} is in none of the releases {where}\n  found    {digest}", hint)
    others = tuple(sorted({f.release.name for f in matches[1:]} - {matches[0].release.name}))
    return replace(matches[0], path=path, also_in=others)


def _named_so(release: Published, digest: Digest) -> Iterator[Found]:
    yield from (_of_artifact(release, a) for a in release.manifest.artifacts if a.digest == str(digest))
    yield from (_of_binary(release, b) for b in release.manifest.binaries if b.digest == str(digest))


def _called_so(release: Published, name: str) -> Iterator[Found]:
    yield from (_of_artifact(release, a) for a in release.manifest.artifacts if a.name == name)
    yield from (_of_binary(release, b) for b in release.manifest.binaries if b.name == name)


def _members_so(release: Published, digest: Digest) -> Iterator[Found]:
    for artifact in release.manifest.artifacts:
        if artifact.name.endswith(SUFFIXES):
            for member in read_members(release.file(artifact.name)):
                if member.digest == digest:
                    yield _of_member(release, artifact, member)
                    break


def _member(archive: Found, name: str) -> Found:
    """The member `name` of a published archive."""
    artifact = archive.release.artifacts.get(archive.name)
    if artifact is None or not artifact.name.endswith(SUFFIXES):
        raise UsageError(f"{archive.name} is no archive", FORMS)
    path = archive.path or archive.release.file(artifact.name)
    wanted = name.strip("/").removeprefix("./")
    names = []
    for member in read_members(path):
        names.append(member.name)
        if member.name == wanted:
            return replace(_of_member(archive.release, artifact, member), path=path, also_in=archive.also_in)
    raise UsageError(f"{artifact.name} has no member {name}", f"it has: {', '.join(names)}")


def _only(releases: Sequence[Published], text: str, look: Callable[[Published], Found]) -> Found:
    """What `text` means if all `releases` that have it agree about its bytes."""
    found = [look(r) for r in releases]
    if len({f.digest for f in found}) > 1:
        raise UsageError(
            f"{len(found)} releases have {text}: {', '.join(f.release.name for f in found)}",
            f"name one: --release {found[0].release.folder}",
        )
    return replace(found[0], also_in=tuple(f.release.name for f in found[1:]))


def _artifact(release: Published, name: str) -> Found:
    return replace(_of_artifact(release, release.artifacts[name]), path=release.file(name))


def _of_artifact(release: Published, artifact: Artifact) -> Found:
    digest = Digest.parse(artifact.digest)
    return Found(release, "artifact", artifact.name, digest, artifact.size, artifact.platform)


def _of_binary(release: Published, binary: Binary) -> Found:
    digest = Digest.parse(binary.digest)
    return Found(release, "binary", binary.name, digest, binary.size, binary.platform, unit=binary.unit)


def _of_member(release: Published, artifact: Artifact, member: Member) -> Found:
    """A member; if it is a program of the release, with the unit it was compiled from."""
    binary = next((b for b in release.manifest.binaries if b.digest == str(member.digest)), None)
    return Found(
        release, "member", member.name, member.digest, member.size, artifact.platform,
        archive=artifact.name, unit=binary.unit if binary else "",
    )  # fmt: skip


def _binary_named(release: Published, name: str, arch: str) -> list[Binary]:
    return [b for b in release.manifest.binaries if b.name == name and b.platform == str(PLATFORMS[arch])]


def _parse_digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except SourceError as error:
        raise UsageError(error.reason, "write it as sha256: and 64 hexadecimal digits") from error
