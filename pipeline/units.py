"""What a release compiles: each build entry of each component at its version, for the architectures that share it.

Pure: definitions in, units out.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.definitions import Build, Component, ComponentChoice, Definitions, Generate, Release, Smoke, Source
from pipeline.errors import DefinitionError
from pipeline.model import Digest
from pipeline.versions import fill


@dataclass(frozen=True)
class Unit:
    """One invocation of a compiler, for one or more architectures."""

    name: str
    """`component`, `component.build` where there are several, `…@VERSION` where an architecture has another one."""
    component: str
    version: str
    license: str
    go: str
    """Version of the Go toolchain; also named for C, where nothing uses it."""
    build: Build
    generate: tuple[Generate, ...]
    """Files that are written before it compiles."""
    source: Source
    """Followed to its origin: never of kind component."""
    source_version: str
    sum: str | None
    """The main module's h1, where the definition names it."""
    commit: str | None
    sha256: str | None
    smoke: dict[str, Smoke]
    arches: tuple[str, ...]

    @property
    def module(self) -> str:
        """`path@version` of a Go source."""
        return f"{self.source.go}@{self.source_version}"

    @property
    def facts(self) -> dict[str, Any]:
        """All that definitions say of it, as plain values."""
        models = {
            "build": self.build.model_dump(mode="json"),
            "source": self.source.model_dump(mode="json"),
            "generate": [g.model_dump(mode="json") for g in self.generate],
            "smoke": {name: s.model_dump(mode="json") for name, s in self.smoke.items()},
        }
        return {**vars(self), **models}

    @property
    def packages(self) -> list[str]:
        """The Go packages that are compiled: the binaries' own and the generators'."""
        return sorted({*self.build.binaries.values(), *(g.tool for g in self.generate)})

    def action(self, step: str, arch: str) -> str:
        """The name of one of its actions."""
        return f"{step}/{self.name}/{arch}"

    def fill(self, template: str, values: Mapping[str, str]) -> str:
        """A template of the component's file with this unit's version and the release's `values`."""
        return fill(template, self.version, values)


def units_of(release: Release, definitions: Definitions) -> list[Unit]:
    """Every unit of a release, by name."""
    units: dict[str, Unit] = {}
    for name, choice in sorted(release.components.items()):
        for index, (version, go, total, commit, sha256, arches) in enumerate(_variants(release, choice)):
            component = definitions.component(name, version)
            for build in component.build:
                source, source_version, owner = _follow(build, component, version, release, definitions)
                if owner and any(a in owner.platforms and owner.platforms[a].version for a in arches):
                    reason = f"{name} takes its source from a component that has another version on some architectures"
                    raise DefinitionError(
                        f"release {release.version}: {reason}", f"name a source in the file of {name}"
                    )
                unit_name = name + ("" if build.name in (None, name) else f".{build.name}")
                unit_name += f"@{version}" if index else ""
                unit_name += f"-go{go}" if unit_name in units else ""
                if unit_name in units:
                    raise DefinitionError(f"release {release.version}: two builds are called {unit_name}")
                units[unit_name] = Unit(
                    name=unit_name,
                    component=name,
                    version=version,
                    license=component.license,
                    go=go,
                    build=build,
                    generate=component.generate.get(build.name or name, ()),
                    source=source,
                    source_version=source_version,
                    sum=owner.sum if owner else None if build.source else total,  # it is of one module
                    commit=owner.commit if owner else commit,
                    sha256=owner.sha256 if owner else sha256,
                    smoke={b: component.smoke[b] for b in build.binaries},
                    arches=arches,
                )
    return list(units.values())


_Variant = tuple[str, str, str | None, str | None, str | None]
"""Version, Go, and the sum, commit and sha256 that the release names."""


def _variants(release: Release, choice: ComponentChoice) -> Iterable[tuple[*_Variant, tuple[str, ...]]]:
    """Each group of architectures that share a variant, the default first."""
    version = choice.version or release.version
    go = choice.go or release.toolchains.go
    default: _Variant = (version, go, choice.sum, choice.commit, choice.sha256)
    groups: dict[_Variant, list[str]] = {default: []}
    for arch in release.bases:
        key = default
        if own := choice.platforms.get(arch):
            shared = choice if own.version is None else own  # another version has other content
            pins = (own.commit or shared.commit, own.sha256 or shared.sha256)
            key = (own.version or version, own.go or go, own.sum or shared.sum, *pins)
        groups.setdefault(key, []).append(arch)
    return [(*key, tuple(sorted(arches))) for key, arches in groups.items() if arches]


def _follow(
    build: Build, component: Component, version: str, release: Release, definitions: Definitions
) -> tuple[Source, str, ComponentChoice | None]:
    """A build's source followed to its origin, its version, and the component's choice that it was followed to."""
    owner = None
    source = build.source or component.source
    if build.source and build.source.go and not build.source.replace:
        source = build.source.model_copy(update={"replace": component.source.replace})
    while source.component is not None:
        owner = release.components[source.component]
        version = owner.version or release.version
        source = definitions.component(source.component, version).source
    return source, version, owner


def lock_subject(units: Sequence[Unit]) -> Digest:
    """What a sources lock was made from: everything about the units that decides which sources are read."""
    facts = [
        {
            "unit": u.name,
            "source": u.source.model_dump(mode="json", exclude={"mirrors"}),  # another place for the same bytes
            "version": u.source_version,
            "go": u.go,
            "compiler": u.build.compiler,
            "packages": u.packages,
            "tags": sorted(u.build.tags),
            "cgo": [a for a in u.arches if u.build.uses_cgo(a)],
            "arches": u.arches,
            "pins": [u.sum, u.commit, u.sha256],
        }
        for u in units
    ]
    return Digest.of_bytes(json.dumps(facts, sort_keys=True).encode())
