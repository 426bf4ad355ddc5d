"""Read what people write: components, releases and bases, from YAML to strict frozen models.

Unknown keys are refused, and an error names file, key, what was expected and what stands there. What differs
between versions of a component is a `ranges` entry in its file; nothing here knows any component or version.
"""

from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, StrictInt, field_validator, model_validator

from pipeline.bases import Base
from pipeline.errors import DefinitionError
from pipeline.model import ReleaseVersion
from pipeline.recipes import ImageRecipe
from pipeline.strict import Arch, Inside, Name, Strict, Text, parse_size, parsed_by, read_yaml, validate
from pipeline.versions import Constraint

GoVersion = Annotated[str, Field(pattern=r"^1\.[0-9]+(\.[0-9]+)?$")]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}$")]
GitUrl = Annotated[str, Field(pattern=r"^(https|ssh|git|file)://[^\s]+$")]
Mirror = Annotated[str, Field(pattern=r"^(https?://[A-Za-z0-9][A-Za-z0-9.:/_~+-]*[A-Za-z0-9_])?$")]
FileUrl = Annotated[str, Field(pattern=r"^(https?|file)://[^\s?#]+/[^\s?#/]+$")]


class Replace(Strict):
    """How a local `replace X => ./dir` of a go.mod is rewritten: the directory is not part of the module's zip."""

    module: str
    """The replaced module's path; a trailing `*` matches any rest."""
    version: str | None = None
    """Template of the version that takes its place, under the same path."""
    drop: StrictBool = False
    """Remove the line and the requirement: nothing that is compiled imports the module."""

    @model_validator(mode="after")
    def _one_effect(self) -> Self:
        if (self.version is None) == (not self.drop):
            raise ValueError("expected exactly one of version and drop")
        return self


class Source(Strict):
    """Where a component's source comes from; exactly one kind."""

    go: Text | None = None
    """Path of the Go module whose zip becomes the main module."""
    replace: tuple[Replace, ...] = ()
    git: GitUrl | None = None
    """URL template of a git repository; the release names the commit."""
    tag: Annotated[str, Field(pattern=r"^[A-Za-z0-9{][A-Za-z0-9._/+{}-]*$")] | None = None
    """git: template of the tag that must point at the commit; the version if none is named."""
    archive: FileUrl | None = None
    """URL template of a tar or zip archive; the release names its sha256."""
    mirrors: tuple[FileUrl, ...] = ()
    """archive: URL templates of other places that serve it, in the order in which they are asked."""
    tree: Inside | None = None
    """A folder of this repository."""
    component: Name | None = None
    """The source of another component of the release."""

    @property
    def kind(self) -> str:
        """go, git, archive, tree or component."""
        return next(k for k in ("go", "git", "archive", "tree", "component") if getattr(self, k) is not None)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [k for k in ("go", "git", "archive", "tree", "component") if getattr(self, k) is not None]
        if len(kinds) != 1:
            raise ValueError(f"expected exactly one of go, git, archive, tree, component; found {kinds or 'none'}")
        if self.replace and kinds[0] not in ("go", "git", "archive"):
            raise ValueError("replace belongs to a go, git or archive source")
        if self.tag and not self.git:
            raise ValueError("tag belongs to a git source")
        if self.mirrors and not self.archive:
            raise ValueError("mirrors belong to an archive source")
        return self


class Generate(Strict):
    """A Go file that the source needs and does not have: written by a program of the unit's own locked modules."""

    tool: Inside
    """The program's package."""
    args: tuple[str, ...]
    """It runs in the source, with /out to write to; `{inputs}` becomes the inputs joined by commas."""
    inputs: tuple[str, ...] = ()
    writes: Inside
    """What it writes, below /out."""
    file: Inside
    """Where that stands for the compiler, relative to the source."""


class Build(Strict):
    """One invocation of a compiler: one Go module or one set of C files."""

    name: Name | None = None
    source: Source | None = None
    compiler: Literal["go", "c"] = "go"
    binaries: dict[Name, Inside] = Field(min_length=1)
    """Binary name to package path (go) or file (c), relative to the source."""
    tags: tuple[str, ...] = ()
    stamp: dict[str, str] = Field(default_factory=dict)
    """Go variable to template of its value (`-X` of the linker)."""
    cgo: StrictBool | tuple[Arch, ...] = False
    libraries: tuple[Name, ...] = ()
    """pkg-config names that must be in the target's sysroot."""
    flags: tuple[str, ...] = ()
    memory: str = "2GiB"
    """Declared peak of the whole invocation, for the scheduler; a recorded peak takes its place."""

    @field_validator("memory")
    @classmethod
    def _memory(cls, value: str) -> str:
        parse_size(value)
        return value

    def uses_cgo(self, arch: str) -> bool:
        """Whether C is compiled and linked for this architecture."""
        return self.compiler == "c" or (self.cgo if isinstance(self.cgo, bool) else arch in self.cgo)


class Smoke(Strict):
    """How a binary proves its version: it is run, and what it prints is searched."""

    args: tuple[str, ...]
    prints: str
    exit: StrictInt = 0
    env: dict[str, str] = Field(default_factory=dict)
    """Variables it needs to start at all."""


class Component(Strict):
    """One upstream project at one version, ranges applied."""

    name: Name
    license: str
    source: Source
    build: tuple[Build, ...] = Field(min_length=1)
    generate: dict[Name, tuple[Generate, ...]] = Field(default_factory=dict)
    """Build name to the files that are written before it compiles."""
    smoke: dict[Name, Smoke]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [b.name or self.name for b in self.build]
        if len(set(names)) != len(names):
            raise ValueError("build entries need different names")
        if unknown := sorted(set(self.generate) - {b.name or self.name for b in self.build if b.compiler == "go"}):
            raise ValueError(f"generate: there is no Go build called {unknown[0]}")
        binaries = [b for build in self.build for b in build.binaries]
        if len(set(binaries)) != len(binaries):
            raise ValueError("a binary is built twice")
        if missing := sorted(set(binaries) ^ set(self.smoke)):
            raise ValueError(f"smoke and binaries must name the same programs; differs: {', '.join(missing)}")
        return self


class PlatformChoice(Strict):
    """What one architecture has otherwise."""

    version: Version | None = None
    go: GoVersion | None = None
    sum: str | None = None
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class ComponentChoice(PlatformChoice):
    """Which version of a component a release has, and with which Go."""

    platforms: dict[Arch, PlatformChoice] = Field(default_factory=dict)


class Deviation(Strict):
    """A recorded difference from what upstream RKE2 shipped, with its reason."""

    component: str | None = None
    what: str
    why: str


class Toolchains(Strict):
    """Default toolchain versions."""

    go: GoVersion


class Release(Strict):
    """What a release consists of."""

    version: Annotated[str, parsed_by(ReleaseVersion.parse)]
    upstream: Text
    date: datetime
    bases: dict[Arch, Name] = Field(min_length=1)
    toolchains: Toolchains
    components: dict[Name, ComponentChoice] = Field(min_length=1)
    images: tuple[Name, ...] = ()
    charts: tuple[Name, ...] = ()
    mirror: Mirror = ""
    """URL that the folder of the repositories of packages, `rpm`, is served below; where none is known, it is empty."""
    deviations: tuple[Deviation, ...] = ()

    @field_validator("date", mode="before")
    @classmethod
    def _utc(cls, value: Any) -> Any:
        offset = value.utcoffset() if isinstance(value, datetime) else None
        if offset is None or offset.total_seconds() != 0 or value.microsecond:
            raise ValueError("expected a UTC time in whole seconds, such as 2022-11-18T00:00:00Z")
        return value

    @field_validator("components", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: {"version": v} if isinstance(v, str) else v for k, v in value.items()}

    @property
    def values(self) -> dict[str, str]:
        """What templates may name of the release."""
        return {"release": self.version, "date": self.date.strftime("%Y-%m-%dT%H:%M:%SZ")}

    @property
    def epoch(self) -> int:
        """The release date in seconds since 1970."""
        return int(self.date.timestamp())


class Definitions:
    """The definitions in one checkout; everything is read when first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._components: dict[tuple[str, str], Component] = {}
        self._component_data = cache(lambda name: read_yaml(self._component_file(name)))  # YAML is slow to parse

    def release(self, version: str) -> Release:
        """The release called `version`, with every component and base it names known to exist."""
        ReleaseVersion.parse(version)
        path = self.root / "releases" / version / "release.yaml"
        if not path.exists():
            known = ", ".join(self.releases()) or "none"
            raise DefinitionError(
                f"release {version} is not defined (defined: {known})", f"write {path.relative_to(self.root)}"
            )
        release = validate(Release, read_yaml(path), path)
        if release.version != version:
            raise DefinitionError(
                f"{path}: key version: expected {version}, as its folder is called; found {release.version}"
            )
        for name, choice in release.components.items():
            file = self._component_file(name)
            if not file.exists():
                raise DefinitionError(
                    f"{path}: key components.{name}: unknown component; {file.relative_to(self.root)} does not exist"
                )
            tree = isinstance(source := self._component_data(name).get("source"), dict) and "tree" in source
            if tree == (choice.version is not None):
                raise DefinitionError(
                    f"{path}: key components.{name}: "
                    + (
                        "a tree of this repository has the release's version; remove it"
                        if tree
                        else "a version is missing"
                    )
                )
        if unknown := sorted({d.component for d in release.deviations if d.component} - set(release.components)):
            raise DefinitionError(f"{path}: key deviations: unknown component {', '.join(map(str, unknown))}")
        self._refuse_cycles(release, path)
        return release

    def releases(self) -> list[str]:
        """Every defined release, oldest first."""
        folders = [p.parent.name for p in (self.root / "releases").glob("*/release.yaml")]
        return sorted((f for f in folders if f.startswith("v")), key=ReleaseVersion.parse)

    def component(self, name: str, version: str) -> Component:
        """A component at one version: its file with the matching ranges merged in, in order."""
        if (name, version) not in self._components:
            self._components[name, version] = self._read_component(name, version)
        return self._components[name, version]

    def _read_component(self, name: str, version: str) -> Component:
        path = self._component_file(name)
        data = dict(self._component_data(name))
        ranges = data.pop("ranges", [])
        if not isinstance(ranges, list) or not all(isinstance(r, dict) for r in ranges):
            raise DefinitionError(f"{path}: key ranges: expected a list of mappings")
        for index, entry in enumerate(ranges):
            constraint = entry.get("versions")
            if not isinstance(constraint, str):
                raise DefinitionError(f"{path}: key ranges.{index}.versions: expected text such as '>=1.30'")
            if unknown := sorted(set(entry) - {"versions", *Component.model_fields}, key=str):
                raise DefinitionError(f"{path}: key ranges.{index}.{unknown[0]}: unknown key")
            if Constraint.parse(constraint, where=f"{path}: key ranges.{index}.versions").matches(version):
                data = _merge(data, {k: v for k, v in entry.items() if k != "versions"})
        component = validate(Component, data, path)
        if component.name != name:
            raise DefinitionError(f"{path}: key name: expected {name}, as its folder is called; found {component.name}")
        return component

    def bases(self) -> list[str]:
        """Every defined base."""
        return sorted(p.stem for p in (self.root / "images" / "openeuler" / "bases").glob("*.yaml"))

    def base(self, name: str) -> Base:
        """The base called `name`; raises DefinitionError."""
        path = self.root / "images" / "openeuler" / "bases" / f"{name}.yaml"
        if name not in self.bases():
            raise DefinitionError(f"unknown base {name!r}", f"choose one of: {', '.join(self.bases())}")
        base = validate(Base, read_yaml(path), path)
        if base.name != name:
            raise DefinitionError(f"{path}: key name: expected {name}, as its file is called; found {base.name}")
        return base

    def image(self, name: str) -> ImageRecipe:
        """The image recipe called `name`; raises DefinitionError."""
        path = self.root / "images" / "openeuler" / f"{name}.yaml"
        recipe = validate(ImageRecipe, read_yaml(path), path)
        if recipe.name != name:
            raise DefinitionError(f"{path}: key name: expected {name}, as its file is called; found {recipe.name}")
        return recipe

    def _component_file(self, name: str) -> Path:
        return self.root / "components" / name / "component.yaml"

    def _refuse_cycles(self, release: Release, path: Path) -> None:
        """A component may take another's source, but a chain of them must end."""
        owners = {}
        for name, choice in release.components.items():
            versions = {c.version or choice.version or release.version for c in (choice, *choice.platforms.values())}
            found = [self.component(name, v) for v in sorted(versions)]
            owners[name] = self.component(name, choice.version or release.version).source.component
            for owner in {s.component for c in found for s in (c.source, *(b.source for b in c.build)) if s} - {None}:
                if owner not in release.components:
                    raise DefinitionError(
                        f"{path}: component {name} takes the source of {owner}, which the release does not have"
                    )
        for start in owners:
            seen = [start]
            while owner := owners[seen[-1]]:
                if owner in seen:
                    chain = " -> ".join([*seen, owner])
                    raise DefinitionError(f"{path}: components take their source from each other: {chain}")
                seen.append(owner)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; a list or scalar replaces what was there; null removes a key."""
    result = dict(base)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _merge(result[key], value)
        else:
            result[key] = value
    return result
