"""The pins of a release as facts: roots with their packages, units with sources, modules and toolchains."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError
from pipeline.image.layer import layer_roots
from pipeline.lock import Package
from pipeline.model import Module
from pipeline.publish.published import Published
from pipeline.roots import Root
from pipeline.trace.planned import LockedBase, Places, Planned
from pipeline.units import Unit

HOST_ROOTS = ("builder", "emulator", "packer")
"""Roots of the machine that builds: a lock has them for several, and does not say which one it was."""


def find_roots(made: Planned) -> dict[str, Root]:
    """The roots of all architectures, by the key that actions name them with."""
    found: list[Root] = []
    for arch, inputs in made.context.inputs.items():
        roots = inputs.roots
        found += [roots.find(role, arch) for role in roots.base.roots if role != "engine"]
        found += [layer_roots(role, arch, inputs)[0] for role in roots.base.layers]
    return {str(r.key): r for r in found}


def describe_root(root: Root, made: Planned) -> dict[str, Any]:
    """A root with its packages, each with the line of the published lock."""
    path = next(b.path for b in made.bases.values() if b.lock.base == root.base.name)
    packages = [_package(p, path, made.places) for p in root.packages]
    return {"base": root.base.name, "role": root.role, "arch": root.arch, "packages": packages}


def _package(package: Package, lock: Path, places: Places) -> dict[str, Any]:
    return {
        "name": package.name,
        "version": package.version,
        "path": package.path,
        "size": package.size,
        "digest": str(package.digest),
        "at": places.of(lock, package.line()),
    }


def recorded_unit(published: Published, name: str) -> dict[str, Any]:
    """What release.json tells of a unit."""
    for component in published.manifest.components:
        for source in component.sources:
            if source.unit == name:
                told = source.model_dump(exclude={"unit", "platforms"}, exclude_none=True)
                return {"component": component.name, "license": component.license, **told}
    raise SourceError(f"{published.folder}/release.json tells nothing of unit {name}")


def describe_pins(unit: Unit, made: Planned) -> dict[str, Any]:
    """Every pin of a unit, and where it stands."""
    locked, places, path = made.context.sources, made.places, made.folder / "sources.lock"
    lock = locked.lock
    pin = lock.mains.get(unit.name) or lock.snapshots.get(unit.name)
    pins: dict[str, Any] = {
        "definition": places.name(made.context.checkout / "components" / unit.component / "component.yaml"),
        "chosen": places.beginning(made.folder / "release.yaml", f"{unit.component}:", after="components:"),
        "at": places.of(path, pin.line()) if pin else None,
        "toolchain": None,
        "overlay": None,
        "modules": [],
    }
    if unit.source.tree:
        pins["files"] = next(iter(made.context.inputs.values())).identity(unit)["tree"]
    if unit.build.compiler == "go":
        toolchain = lock.toolchains[unit.go]
        pins["toolchain"] = _module(toolchain.module, places.of(path, toolchain.line()))
        pins["modules"] = [
            _module(m, places.of(path, f"module {m.path} {m.version} {m.sum}")) for m in lock.modules_of(unit.name)
        ]
    if overlay := locked.overlays.get(unit.name):
        files = [places.name(made.folder / "overlay" / unit.name / n) for n in ("go.mod", "go.sum")]
        pins["overlay"] = {"digest": str(overlay.digest), "files": files}
    return pins


def _module(module: Module, at: str) -> dict[str, str]:
    return {"module": str(module), "sum": module.sum, "at": at}


def published_pins(
    published: Published, units: Iterable[str], bases: Mapping[str, LockedBase], places: Places
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The units and roots of some platforms as release.json and the published locks tell them, without the checkout."""
    roots: dict[str, Any] = {}
    for platform, base in bases.items():
        arch = platform.removeprefix("linux/")
        for role, owner in sorted({(p.root, p.arch) for p in base.lock.packages}):
            if role != "engine" and (role in HOST_ROOTS or owner == arch) and f"{role}/{owner}" not in roots:
                packages = [_package(p, base.path, places) for p in base.lock.root(role, owner)]
                roots[f"{role}/{owner}"] = {"base": base.lock.base, "role": role, "arch": owner, "packages": packages}
    return {u: recorded_unit(published, u) for u in sorted(set(units))}, roots
