"""Which file of which release is meant: by path, by member of an archive or image, by digest, or by name.

Only the file that is asked for is hashed, and every archive that has to be opened is checked first.
"""

import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.errors import PipelineError, SourceError, UsageError
from pipeline.image.layer import PUBLISHED
from pipeline.image.names import REGISTRY
from pipeline.model import PLATFORMS, Digest, ReleaseVersion
from pipeline.pack.members import SUFFIXES, Member, read_members
from pipeline.publish.published import Artifact, Binary, Image, Published, read_published, refuse_other
from pipeline.sbom.files import read_files
from pipeline.trace.layout import Build, Layout

FORMS = (
    "name a file, a member (rfo.linux-amd64.tar.gz:bin/rfo), a digest (sha256:HEX), a program and its architecture "
    "(kubelet@arm64), an image (rfolabs/pause:3.6) or a file in one (pause@arm64:pause); options: ./inv explain --help"
)
BLOBS, CHART, BUNDLE = "images/blobs/", ".tgz", "rfo-images"
"""What the names of layers and other parts of images begin with, those of charts end with, those of bundles begin."""
SBOMS, SBOM = "sbom/", ".spdx.json"
MAX_SBOM = 64 << 20
"""Bytes of an SBOM; one of 3,000 files has 1.5 MiB."""
LISTED = 40
"""Members of an archive that are named if the one that is asked for is not there."""
DEPTH = 5
"""Folders between a published file and its release.json, at most."""


@dataclass(frozen=True)
class Found:
    """A file that a release names."""

    release: Published
    kind: Literal["artifact", "binary", "member", "image"]
    name: str
    """Of the artifact, program or image; of a member its path in the archive."""
    digest: Digest
    size: int
    """Bytes."""
    platform: str | None
    """None: of the whole release."""
    archive: str = ""
    """The artifact that a member stands in."""
    unit: str = ""
    """What a program was compiled from."""
    image: str = ""
    """The image that was named, as its recipe is called."""
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
    archive, _, member = text.rpartition(":")
    if archive and Path(archive).is_file():
        return _member(_by_path(Path(archive), dist, named), member)
    return _by_name(text, _releases(dist, named))


def _by_name(text: str, releases: Sequence[Published]) -> Found:
    """What releases call `text`: an artifact or a member of one, a program, an image or a file in one."""
    archive, _, member = text.rpartition(":")
    if holders := [r for r in releases if archive in r.artifacts]:
        return _member(_only(holders, archive, lambda r: _artifact(r, archive)), member)
    if found := [r for r in releases if text in r.artifacts]:
        return _only(found, text, lambda r: _artifact(r, text))
    name, _, arch = text.rpartition("@")
    if arch in PLATFORMS and (found := [r for r in releases if _binary_named(r, name, arch)]):
        return _only(found, text, lambda r: _of_binary(r, _binary_named(r, name, arch)[0]))
    if images := {id(r): image for r in releases if (image := _image_named(r, text))}:
        return _only([r for r in releases if id(r) in images], text, lambda r: _of_image(r, *images[id(r)]))
    if name and arch in PLATFORMS:
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
    place = Path(os.path.abspath(path))
    for folder in list(place.parents)[:DEPTH] if not named else ():
        if (folder / "release.json").is_file():
            release = read_published(folder)
            if artifact := release.artifacts.get(place.relative_to(folder).as_posix()):
                refuse_other(path, digest, artifact.digest)
                return replace(_of_artifact(release, artifact), path=path)
            break
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
    """What holds the file: tarballs, then charts and layers; bundles hold what is published by itself.

    Tarballs and images are not opened if their SBOM, which lists all files by digest, does not have it.
    """
    whole = [a for a in release.manifest.artifacts if not a.name.startswith(BUNDLE)]
    tarballs = [a for a in whole if a.name.endswith(SUFFIXES)]
    builds = [b for b in Layout(release).builds if _may_hold(release, sbom_of(b), digest)]
    layers = {la.digest: None for b in builds for la in b.layers}
    for artifact in (
        *(a for a in tarballs if _may_hold(release, f"{SBOMS}{a.name.partition('.tar.')[0]}{SBOM}", digest)),
        *(a for a in whole if a.name.endswith(CHART)),
        *(_blob(release, Digest.parse(la)) for la in layers),
    ):
        for member in _members(release, artifact, release.file(artifact.name)):
            if member.digest == digest:
                yield _of_member(release, artifact, member)
                break


def sbom_of(build: Build) -> str:
    """Where the SBOM of an image on one platform stands in a release's folder."""
    return f"{SBOMS}{build.image.name}.{build.platform.replace('/', '-')}{SBOM}"


def _may_hold(release: Published, sbom: str, digest: Digest) -> bool:
    """Whether an SBOM names the file, or is none that could be asked."""
    artifact = release.artifacts.get(sbom)
    if artifact is None or artifact.size > MAX_SBOM:
        return True
    return digest.hex.encode() in release.file(sbom).read_bytes()


def _members(release: Published, artifact: Artifact, path: Path) -> Iterator[Member]:
    """The regular files in a published archive. Raises UsageError if it is none."""
    if artifact.name.endswith(SUFFIXES):
        yield from read_members(path)
        return
    layers = {la.digest for b in Layout(release).builds for la in b.layers} | {c.digest for c in Layout(release).charts}
    if artifact.digest not in layers:
        raise UsageError(f"{artifact.name} is no archive", FORMS)
    for file in read_files([path], artifact.name):
        yield Member(file.path, Digest(file.sha256), file.size)


def _member(archive: Found, name: str) -> Found:
    """The member `name` of a published archive."""
    artifact = archive.release.artifacts.get(archive.name)
    if artifact is None:
        raise UsageError(f"{archive.name} is no archive", FORMS)
    path = archive.path or archive.release.file(artifact.name)
    wanted = name.strip("/").removeprefix("./")
    names = []
    for member in _members(archive.release, artifact, path):
        names.append(member.name)
        if member.name == wanted:
            return replace(_of_member(archive.release, artifact, member), path=path, also_in=archive.also_in)
    raise UsageError(f"{artifact.name} has no member {name}", _near(wanted, names))


def _near(wanted: str, names: Sequence[str]) -> str:
    """What a name that an archive does not have may have meant."""
    close = difflib.get_close_matches(wanted, names, n=3) or [n for n in names if n.endswith(f"/{wanted}")]
    if len(names) <= LISTED:
        return f"it has: {', '.join(names)}"
    links = "a link is not listed: name the file that it leads to"
    return f"did you mean {' or '.join(close[:3])}?" if close else f"it has {len(names)} files; {links}"


def _image_named(release: Published, text: str) -> tuple[Image, str, str] | None:
    """The image, architecture and file that a text such as `rfolabs/pause:3.6@arm64:pause` means; both may be empty."""
    cuts = [len(text), *(i for i in range(len(text) - 1, 0, -1) if text[i] == ":")]
    for cut in cuts:
        head, member = text[:cut], text[cut + 1 :]
        name, _, last = head.rpartition("@")
        for asked, arch, digest in ((head, "", ""), (name, last, ""), (name, "", last)):
            for image in release.manifest.images if asked and (not arch or arch in PLATFORMS) else ():
                named = asked in (image.name, *image.references) or f"{REGISTRY}/{asked}" in image.references
                if named and digest in ("", image.digest):
                    return image, arch, member
    return None


def _of_image(release: Published, image: Image, arch: str, member: str) -> Found:
    """An image, its manifest for one architecture, or a file in one. Raises UsageError, SourceError."""
    targets = {t.removeprefix("linux/"): t for t in image.platforms}
    if arch and arch not in targets:
        raise UsageError(f"{release.name} has no {image.name} for {arch}", f"it has: {', '.join(targets)}")
    if not member:
        platform = targets.get(arch)
        digest = Digest.parse(image.platforms[platform] if platform else image.digest)
        artifact = _blob(release, digest)
        name = image.references[0] if image.references else image.name
        return Found(release, "image", name, digest, artifact.size, platform, image=image.name)
    if not arch and len(targets) != 1:
        raise UsageError(
            f"{image.name} is an image for {' and '.join(targets)}", f"name one: {image.name}@{min(targets)}:{member}"
        )
    return _in_image(release, image, targets[arch or next(iter(targets))], member)


def _blob(release: Published, digest: Digest) -> Artifact:
    """The published part of an image that has this digest."""
    artifact = release.artifacts.get(PUBLISHED.format(hex=digest.hex))
    if artifact is None or artifact.digest != str(digest):
        raise SourceError(f"{release.folder}/release.json names no file with {digest}, which an image consists of")
    return artifact


def _in_image(release: Published, image: Image, platform: str, member: str) -> Found:
    """A file in an image: of the uppermost layer that has it."""
    (build,) = (b for b in Layout(release).of(image) if b.platform == platform)
    wanted, names = member.strip("/").removeprefix("./"), []
    for layer in reversed(build.layers):
        artifact = _blob(release, Digest.parse(layer.digest))
        path = release.file(artifact.name)
        for found in _members(release, artifact, path):
            names.append(found.name)
            if found.name == wanted:
                return replace(_of_member(release, artifact, found), platform=platform, path=path, image=image.name)
    raise UsageError(f"{image.name} for {platform} has no file {member}", _near(wanted, names))


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
    platform = artifact.platform or (binary.platform if binary else None)
    return Found(
        release, "member", member.name, member.digest, member.size, platform,
        archive=artifact.name, unit=binary.unit if binary else "",
    )  # fmt: skip


def _binary_named(release: Published, name: str, arch: str) -> list[Binary]:
    return [b for b in release.manifest.binaries if b.name == name and b.platform == str(PLATFORMS[arch])]


def _parse_digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except SourceError as error:
        raise UsageError(error.reason, "write it as sha256: and 64 hexadecimal digits") from error
