"""Find what is linked into a program: from the lock, the verified module trees and the base's packages. Reads files.

A lock says for each unit which modules it compiles. Go's build information in a binary may name fewer of them where
a unit has several programs; the check of each binary shows that it never names another one.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from pipeline.definitions import Release
from pipeline.errors import SourceError
from pipeline.inputs import Inputs
from pipeline.lock import Package, Snapshot
from pipeline.model import Digest, Module, platform
from pipeline.pack.notices import licence_files, read_terms
from pipeline.sbom.facts import Component, GoModule, Origin, SystemPackage, Toolchain
from pipeline.sbom.licences import Licence, combine, identify
from pipeline.sbom.packages import system_packages
from pipeline.sbom.purl import purl
from pipeline.units import Unit

_LICENCE_NAMES = re.compile(r"(licen[cs]e|copying)([._-](?!.*\.(go|csv)$).*)?", re.IGNORECASE)
"""Of the files that hold a module's terms, those with a licence: notices and patent grants come on top of one."""


def component(
    unit: Unit, arch: str, paths: Sequence[str], inputs: Inputs, release: Release, *, linked: bool = True
) -> Component:
    """A unit whose programs for `arch` stand at `paths`, with all that is `linked` into them. Raises SourceError."""
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
        source=go_module(main.module, inputs) if main else _origin(unit, inputs),
        modules=tuple(go_module(m, inputs) for m in lock.modules_of(unit.name)) if is_go and linked else (),
        toolchain=Toolchain(toolchain.version, go_module(toolchain.module, inputs)) if toolchain else None,
        libraries=tuple(static_libraries(unit, arch, inputs)) if unit.build.uses_cgo(arch) and linked else (),
        programs=tuple(sorted(paths)),
        deviations=deviations(release, unit.component),
    )


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
    """The packages whose archives a C compiler links into programs of `unit`. Raises SourceError if one has none."""
    wanted = {name: re.compile(rf".*/lib{re.escape(name)}\.a") for name in ("c", *_library_names(unit))}
    sysroot = inputs.roots.find("sysroot", arch).packages
    builder = inputs.roots.find("builder", arch).packages
    # The compiler's own runtime; a builder for several targets has one for each.
    compiler = {"gcc": re.compile(rf"usr/lib/gcc[^/]*/{platform(arch).rpm_arch}-[^/]+/[^/]+/libgcc\.a")}
    found = {}
    for packages, patterns in ((sysroot, wanted), (builder, compiler)):
        owners = {
            package.name
            for name, pattern in patterns.items()
            for package in _owners(packages, pattern, f"{unit.name}: lib{name}.a", inputs)
        }
        group = [p for p in packages if p.name in owners]
        # Others may hold the terms that these share.
        for package in system_packages(_with_relatives(group, packages, inputs), inputs):
            if package.pin.name in owners:
                found[package.pin.digest] = package
    return sorted(found.values(), key=lambda p: p.pin)


def _library_names(unit: Unit) -> list[str]:
    """What `-l` says: pkg-config names of C libraries begin with `lib` as their files do."""
    return [name.removeprefix("lib") for name in unit.build.libraries]


def _owners(packages: Sequence[Package], pattern: re.Pattern[str], what: str, inputs: Inputs) -> list[Package]:
    found = [
        p.pin for p in system_packages(packages, inputs, terms=False) if any(pattern.fullmatch(f) for f in p.files)
    ]
    if not found:
        raise SourceError(f"{what}: no locked package of base {inputs.roots.base.name} has it")
    return found


def _with_relatives(group: Sequence[Package], packages: Sequence[Package], inputs: Inputs) -> list[Package]:
    """`group` and what is built from the same sources."""
    everything = system_packages(packages, inputs, terms=False)
    sources = {p.source for p in everything if p.pin in group}
    return [p.pin for p in everything if p.source in sources]


def _origin(unit: Unit, inputs: Inputs) -> Origin | None:
    pin: Snapshot | None = inputs.locked.lock.snapshots.get(unit.name)
    if pin is None:
        return None
    with inputs.source(unit) as folder:
        licence = folder_licence.__wrapped__(folder, unit.name)
    name = unit.source.component or unit.component
    if pin.kind == "git":
        url, _, commit = pin.origin
        location = url if url.startswith("git://") else f"git+{url}"
        qualifiers = {"vcs_url": f"{location}@{commit}"}
        return Origin(name, unit.source_version, purl("generic", name, unit.source_version, qualifiers),
                      f"{location}@{commit}", pin.tar, licence)  # fmt: skip
    url, digest = pin.origin
    qualifiers = {"download_url": url, "checksum": digest}
    return Origin(name, unit.source_version, purl("generic", name, unit.source_version, qualifiers), url,
                  Digest.parse(digest), licence)  # fmt: skip
