"""Read a release's folder back: `release.json` as foreign input, and the files it names by their digests.

Anybody may have written it: its size and shape are checked, and a name that could lead out of the folder is refused.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.attest.places import is_signature
from pipeline.errors import PipelineError, SourceError, UsageError
from pipeline.model import Digest, ReleaseVersion
from pipeline.publish.dist import PUBLISHED
from pipeline.publish.manifest import SCHEMA
from pipeline.strict import parsed_by

MAX_MANIFEST = 64 << 20
"""Bytes of a release.json; one of 130 artifacts has 0.1 MiB."""

Sha256 = Annotated[str, parsed_by(Digest.parse)]


class _Read(BaseModel):
    """Part of a manifest: what another engine adds is not an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Artifact(_Read):
    """A published file."""

    name: Annotated[str, Field(pattern=rf"^{PUBLISHED.pattern}$")]
    digest: Sha256
    size: Annotated[int, Field(ge=0)]
    platform: str | None = None
    """None: of the whole release."""

    @property
    def template(self) -> str:
        """Its name as an action publishes what is called by its own digest."""
        return self.name.replace(Digest.parse(self.digest).hex, "{hex}")


class Binary(_Read):
    """A compiled program."""

    name: str
    digest: Sha256
    size: Annotated[int, Field(ge=0)]
    platform: str
    component: str
    unit: str


class Source(_Read):
    """Where a unit's source comes from: a module with its sum, a commit, an archive, or a folder of the repository."""

    unit: str
    version: str
    platforms: list[str]
    go: str | None = None
    module: str | None = None
    sum: str | None = None
    git: str | None = None
    tag: str | None = None
    commit: str | None = None
    archive: str | None = None
    digest: str | None = None
    files: str | None = None
    """Of git and archive: digest of the canonical tar archive."""
    tree: str | None = None
    time: str | None = None


class Component(_Read):
    """One upstream project of the release."""

    name: str
    license: str
    sources: list[Source]


class Image(_Read):
    """An image of the release."""

    name: str
    references: list[str]
    digest: Sha256
    """Of its index."""
    platforms: dict[str, Sha256]
    """Platform to the digest of its manifest."""


class Difference(_Read):
    """A deviation from upstream."""

    component: str | None = None
    what: str
    why: str


class Manifest(_Read):
    """What release.json says."""

    form: Annotated[Literal[SCHEMA], Field(alias="schema")]  # type: ignore[valid-type]
    version: Annotated[str, parsed_by(ReleaseVersion.parse)]
    upstream: str
    date: str
    stand_in: bool
    platforms: list[str]
    bases: dict[str, str]
    inputs: dict[str, dict[str, str] | str] = Field(default_factory=dict)
    """Platform to what its files were made from, by name and digest."""
    components: list[Component]
    deviations: list[Difference]
    binaries: list[Binary]
    images: list[Image] = Field(default_factory=list)
    artifacts: list[Artifact]


class Published:
    """One release's folder."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.artifacts = {a.name: a for a in manifest.artifacts}

    @property
    def name(self) -> str:
        """As the folder of dist/ is called: VERSION or VERSION@BASE."""
        return self.folder.name

    def file(self, name: str) -> Path:
        """The published file called `name`, its bytes checked.

        Raises SourceError if release.json does not name it, or if it is missing, a link, or not what is named.
        """
        artifact = self.artifacts.get(name)
        if artifact is None:
            raise SourceError(f"{self.folder}/release.json names no file {name}")
        path = self.folder / name
        if path.is_symlink() or not path.is_file():
            raise SourceError(f"{path} is missing or no plain file, and release.json names it", "copy it again")
        refuse_other(path, Digest.of_file(path), artifact.digest)
        return path

    def content(self, name: str, limit: int) -> bytes:
        """What a small file holds, its bytes checked; nothing if release.json does not name it.

        Raises SourceError, also for one of more than `limit` bytes.
        """
        artifact = self.artifacts.get(name)
        if artifact is None:
            return b""
        if artifact.size > limit:
            raise SourceError(f"{self.folder / name} is larger than {limit} bytes")
        return self.file(name).read_bytes()


def refuse_other(path: Path, found: Digest, expected: str) -> None:
    """Raise SourceError if a published file has not the digest that release.json gives."""
    if str(found) != expected:
        raise SourceError(
            f"{path} is not what its release.json names: it was changed after it was made, or damaged\n"
            f"  expected {expected}\n  found    {found}",
            "do not use it; get the file again, or make it again with ./inv release",
        )


def read_published(folder: Path) -> Published:
    """The release in `folder`; raises UsageError if there is none, SourceError if its release.json is malformed."""
    path = folder / "release.json"
    try:
        with path.open("rb") as file:
            text = file.read(MAX_MANIFEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{folder} holds no release: it has no release.json", "name a folder below dist/") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    try:
        if len(text) > MAX_MANIFEST:
            raise SourceError(f"larger than {MAX_MANIFEST} bytes")
        manifest = Manifest.model_validate_json(text)
        if len({a.name for a in manifest.artifacts}) != len(manifest.artifacts):
            raise SourceError("an artifact stands twice")
        if odd := [a.name for a in manifest.artifacts if is_signature(a.name)]:
            raise SourceError(f"{odd[0]} is named, where only signatures stand")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, first['loc'])) or 'whole file'}: {first['msg']}"
        raise SourceError(f"{path} is not the manifest of a release: {reason}", "get the folder again") from error
    except PipelineError as error:
        raise SourceError(f"{path} is not the manifest of a release: {error.reason}", "get the folder again") from error
    return Published(folder, manifest)
