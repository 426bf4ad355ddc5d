"""What SBOMs are made of: frozen values, exact from locks and bytes. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.lock import Package
from pipeline.model import Digest, Module
from pipeline.sbom.licences import Licence


@dataclass(frozen=True, order=True)
class File:
    """A regular file of an image or archive."""

    path: str
    """Relative to the root."""
    sha1: str
    """SPDX requires it of files; nothing here relies on it."""
    sha256: str
    size: int


@dataclass(frozen=True)
class GoModule:
    """A Go module that is compiled into a program."""

    module: Module
    licence: Licence


@dataclass(frozen=True)
class Origin:
    """What a component is compiled from, where that is no Go module of the lock."""

    name: str
    version: str
    purl: str
    download: str
    """A git or archive URL as the definition has it."""
    digest: Digest
    """Of the archive, or of the commit's files as one canonical archive."""
    licence: Licence


@dataclass(frozen=True)
class SystemPackage:
    """A package of a distribution: its pin, and what its file says of itself."""

    pin: Package
    family: str
    distribution: str
    """Name of the base, such as `debian-13`."""
    architecture: str
    """As the distribution writes it: `amd64`, `all`, `noarch`."""
    source: str
    source_version: str
    """Of the source package; for rpm `source` is the name of its file, and this is empty."""
    supplier: str
    maintainer: str
    homepage: str
    licence: Licence
    files: frozenset[str]
    """Paths that the package lists."""


@dataclass(frozen=True)
class Toolchain:
    """The Go distribution whose standard library is in each of its programs."""

    version: str
    """`1.20.14`."""
    module: GoModule


@dataclass(frozen=True)
class Component:
    """One unit of a release with everything that is linked into its programs."""

    unit: str
    name: str
    version: str
    licence: str
    """SPDX expression of the component's definition."""
    source: GoModule | Origin | None
    """None: a folder of the project itself."""
    modules: tuple[GoModule, ...] = ()
    toolchain: Toolchain | None = None
    libraries: tuple[SystemPackage, ...] = ()
    """Packages whose archives are linked statically."""
    programs: tuple[str, ...] = ()
    """Paths of its programs."""
    deviations: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReleaseFacts:
    """What all documents of a release have in common."""

    version: str
    date: str
    """RFC 3339: the release date, never the clock's."""
    tool: str
    """`rfo-pipeline-…`: what wrote the document."""


@dataclass(frozen=True)
class Subject:
    """What one document describes: an image of one platform, or an archive."""

    name: str
    version: str
    purl: str
    purpose: str
    """SPDX's primary purpose: CONTAINER, ARCHIVE."""
    digest: Digest
    """Of the image's manifest, or of the archive."""
    licence: str
    files: tuple[File, ...]
    packages: tuple[SystemPackage, ...] = ()
    components: tuple[Component, ...] = ()
    base: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
