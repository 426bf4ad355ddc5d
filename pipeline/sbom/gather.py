"""Find what is linked into a program: from the lock, the verified module trees and the base's packages. Reads files.

A lock says which modules are compiled for a unit, a Go program which of them it holds: a unit of many programs compiles
more than each needs. A program that names anything that the lock does not have is an error.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from pipeline.definitions import Release
from pipeline.errors import BuildError, SourceError
from pipeline.inputs import Inputs
from pipeline.lock import Snapshot
from pipeline.model import Digest, Module, platform
from pipeline.pack.notices import licence_files, read_terms
from pipeline.sbom.buildinfo import read_build_info
from pipeline.sbom.facts import Component, GoModule, Origin, SystemPackage, Toolchain
from pipeline.sbom.licences import Licence, combine, identify
from pipeline.sbom.packages import system_packages
from pipeline.sbom.purl import purl
from pipeline.units import Unit

_LICENCE_NAMES = re.compile(r"(licen[cs]e|copying)([._-](?!.*\.(go|csv)$).*)?", re.IGNORECASE)
"""Of the files that hold a module's terms, those with a licence: notices and patent grants come on top of one."""


def component(unit: Unit, arch: str, programs: Mapping[str, Path], inputs: Inputs, release: Release) -> Component:
    """A unit with all that is linked into `programs`, which it builds for `arch`: path in the image to the file.

    Raises SourceError, and BuildError for a program that holds what the lock does not have.
    """
    inputs.ensure(unit)
    lock = inputs.locked.lock
    is_go = unit.build.compiler == "go"
    main = lock.mains.get(unit.name)
    toolchain = lock.toolchains[unit.go] if is_go else None
    return Component(
        unit=unit.name,
        name=unit.component,
        version=unit.version,
        licence=unit.license,
        source=go_module(main.module, inputs) if main else _snapshot(unit, inputs),
        modules=tuple(go_module(m, inputs) for m in linked_modules(unit, programs, inputs)) if is_go else (),
        toolchain=Toolchain(toolchain.version, go_module(toolchain.module, inputs)) if toolchain else None,
        libraries=tuple(static_libraries(unit, arch, inputs)) if unit.build.uses_cgo(arch) and programs else (),
        programs=tuple(sorted(programs)),
        deviations=deviations(release, unit.component),
    )


def linked_modules(unit: Unit, programs: Mapping[str, Path], inputs: Inputs) -> list[Module]:
    """The locked modules that Go programs of `unit` hold. Raises BuildError for one that holds another, SourceError."""
    locked = {(m.path, m.version): m for m in inputs.locked.lock.modules_of(unit.name)}
    found = set()
    for name, file in programs.items():
        version, modules = read_build_info(file, name)
        if version != f"go{unit.go}":
            raise BuildError(f"{name}: built with {version}; the release says go{unit.go}")
        for path, module_version, total in modules:
            if path.startswith(("./", "../")) and unit.source.go is None:
                continue  # a folder of the source itself
            module = locked.get((path, module_version))
            if module is None or module.sum != total:
                raise BuildError(f"{name}: holds {path} {module_version} {total}, which the lock does not have")
            found.add(module)
    return sorted(found)


def deviations(release: Release, name: str | None) -> tuple[str, ...]:
    """What a release records of one component, or with None of the release as a whole."""
    return tuple(f"{d.what}: {d.why}" for d in release.deviations if d.component == name)


def go_module(module: Module, inputs: Inputs) -> GoModule:
    """A module with the licence that its verified tree has."""
    return GoModule(module, folder_licence(inputs.store.gomod / module.directory, str(module)))


@lru_cache(maxsize=8192)  # one module is in many programs
def folder_licence(folder: Path, what: str) -> Licence:
    """The licence at the top of an unpacked source; raises SourceError if a file of it is too large to be one."""
    name = what.partition("@")[0].rpartition("/")[2]
    texts = [read_terms(f, what) for f in licence_files(folder) if _LICENCE_NAMES.fullmatch(f.name)]
    found = combine(identify(name, text) for text in texts if text)
    return found if texts else Licence(comment="There is no file with its terms at the top of its source.")


def static_libraries(unit: Unit, arch: str, inputs: Inputs) -> list[SystemPackage]:
    """The packages whose archives a C compiler links into programs of `unit`. Raises SourceError if one has none.

    Of the target's sysroot the C library and what the unit asks for by pkg-config name, which begins with `lib` as the
    files do; of the builder the compiler's own runtime, which it has for each of several targets.
    """
    libraries = ["c", *(name.removeprefix("lib") for name in unit.build.libraries)]
    system = [re.compile(rf".*/lib{re.escape(name)}\.a") for name in libraries]
    runtime = [re.compile(rf"usr/lib/gcc[^/]*/{platform(arch).rpm_arch}-[^/]+/[^/]+/libgcc\.a")]
    found: dict[Digest, SystemPackage] = {}
    for role, patterns in (("sysroot", system), ("builder", runtime)):
        locked = inputs.roots.find(role, arch).packages
        packages = system_packages(locked, inputs, terms=False)
        owners = {p.pin for pattern in patterns for p in _owners(packages, pattern, unit, inputs)}
        found |= {p.pin.digest: p for p in system_packages(sorted(owners), inputs, others=locked)}
    return sorted(found.values(), key=lambda p: p.pin)


def origin(name: str, version: str, pin: Snapshot, licence: Licence) -> Origin:
    """A snapshot as SPDX and package URLs write it: `git+URL@COMMIT`, or the archive's URL."""
    if pin.kind == "git":
        url, _, commit = pin.origin
        location = f"{url if url.startswith('git:') else f'git+{url}'}@{commit}"
        return Origin(name, version, purl("generic", name, version, {"vcs_url": location}), location, pin.tar, licence)
    url, digest = pin.origin
    locator = purl("generic", name, version, {"download_url": url, "checksum": digest})
    return Origin(name, version, locator, url, Digest.parse(digest), licence)


def _owners(
    packages: Sequence[SystemPackage], pattern: re.Pattern[str], unit: Unit, inputs: Inputs
) -> list[SystemPackage]:
    found = [p for p in packages if any(pattern.fullmatch(f) for f in p.files)]
    if not found:
        name = pattern.pattern.rpartition("/")[2].replace("\\", "")
        raise SourceError(f"{unit.name}: {name}: no locked package of base {inputs.roots.base.name} has it")
    return found


def _snapshot(unit: Unit, inputs: Inputs) -> Origin | None:
    pin = inputs.locked.lock.snapshots.get(unit.name)
    if pin is None:
        return None
    with inputs.source(unit) as folder:
        licence = folder_licence.__wrapped__(folder, unit.name)  # a folder for this once
    return origin(unit.component, unit.source_version, pin, licence)
