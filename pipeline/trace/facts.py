"""What a release consists of, as plain facts that can be compared: from its folder, or from definitions and locks.

A published release is taken at what its release.json says and at files whose digests it gives. A checkout's lock is
used for it only if it is the one that the release was made from. Reads files; opens no store and no network.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.definitions import Definitions, Release
from pipeline.errors import DefinitionError, UsageError
from pipeline.graph import canonical
from pipeline.image.names import images_of
from pipeline.lock import BaseLock, SourcesLock, read_lock
from pipeline.locking import Overlay, lock_folder
from pipeline.model import Digest, ReleaseVersion, platform
from pipeline.publish.published import Manifest, Published, Source, read_published
from pipeline.trace.find import BLOBS, BUNDLE
from pipeline.trace.layout import Build, Layout
from pipeline.units import Unit, lock_subject, units_of

Facts = dict[str, dict[str, Any]]
"""Name to fields. A field that is None is not known."""


@dataclass(frozen=True)
class Side:
    """One of two releases that are compared."""

    name: str
    """VERSION or VERSION@BASE."""
    published: Published | None
    """Its folder, if it was made."""
    sections: dict[str, Facts] = field(default_factory=dict)
    """By kind of fact; a kind that is not here is not known."""
    notes: list[str] = field(default_factory=list)
    """What is not known, and why, for people."""


def read_side(text: str, definitions: Definitions) -> Side:
    """The release that `text` means: VERSION or VERSION@BASE of this checkout, or a folder that holds a release.

    Raises UsageError if it is neither, DefinitionError or SourceError for what is malformed or damaged.
    """
    version, _, base = text.partition("@")
    try:
        ReleaseVersion.parse(version)
    except DefinitionError:
        if not Path(text).is_dir():
            reason = f"{text!r} is neither a release version nor a folder"
            raise UsageError(reason, "list versions with ./inv releases; folders stand below dist/") from None
        return published_side(read_published(Path(text).resolve()), definitions)
    folder = definitions.root / "dist" / text
    if (folder / "release.json").exists():
        return published_side(read_published(folder), definitions)
    return defined_side(definitions.release(version), definitions, base, text)


def published_side(release: Published, definitions: Definitions) -> Side:
    """The facts of a folder."""
    manifest = release.manifest
    side = Side(release.name, release)
    side.sections["release"] = _head(manifest.upstream, manifest.date, manifest.bases) | {
        "stand-in": {"value": manifest.stand_in}
    }
    side.sections["components"] = {
        f"{source.unit.partition('@')[0]} {target}": _of_manifest(source)
        for component in manifest.components
        for source in component.sources
        for target in source.platforms
    }
    lock = _lock_of(manifest, definitions)
    if lock is None:
        named = f"releases/{manifest.version}/sources.lock"
        side.notes.append(f"{side.name}: {named} is missing or not the one that it was made from: no modules")
    else:
        side.sections["modules"] = _modules(lock)
    side.sections["toolchains"] = _toolchains(
        lock, {s.go for c in manifest.components for s in c.sources if s.go is not None}
    )
    bases = sorted(set(manifest.bases.values()))
    side.sections["packages"] = {}
    locks = {}
    for base in bases:
        path = release.file(f"{base}.lock")
        locks[base] = BaseLock.parse(read_lock(path) or "", str(path))
        side.sections["packages"] |= _packages(locks[base])
    side.sections["deviations"] = _deviations((d.component, d.what, d.why) for d in manifest.deviations)
    side.sections["binaries"] = {
        f"{b.component}/{b.name} {b.platform}": {"digest": b.digest, "size": b.size} for b in manifest.binaries
    }
    _add_shipped(side, release, {p: locks[b] for p, b in manifest.bases.items()})
    return side


def _add_shipped(side: Side, release: Published, locks: Mapping[str, BaseLock]) -> None:
    """Images by name and platform, charts by name, bundles and other files by where they stand."""
    layout = Layout(release)
    sizes = {a.name: {"digest": a.digest, "size": a.size} for a in release.manifest.artifacts}
    charts = {c.digest for c in layout.charts}
    side.sections["images"] = {f"{b.image.name} {b.platform}": _image(b, locks.get(b.platform)) for b in layout.builds}
    side.sections["charts"] = {
        c.name: {"version": c.version, "digest": c.digest, "size": c.size} for c in layout.charts
    }
    bundles = {n: facts for n, facts in sizes.items() if n.startswith(BUNDLE) and n.endswith(".tar.zst")}
    side.sections["bundles"] = bundles
    side.sections["artifacts"] = {
        n: facts
        for n, facts in sizes.items()
        if not n.startswith(BLOBS) and n not in bundles and facts["digest"] not in charts
    }


def _image(build: Build, lock: BaseLock | None) -> dict[str, Any]:
    """An image on one platform: its layers by the step that makes each, and the packages of those that the base has."""
    arch = build.platform.removeprefix("linux/")
    steps = {layer.step for layer in build.layers}
    packages = {p.name: p.version for p in (lock.packages if lock else ()) if p.root in steps and p.arch == arch}
    return {
        "references": build.image.references,
        "digest": build.manifest,
        "size": build.size,
        "layers": {la.step or f"number {n}": la.digest for n, la in enumerate(build.layers, 1)},
        "packages": packages,
    }


def defined_side(release: Release, definitions: Definitions, base: str, name: str) -> Side:
    """The facts of a release that was not made yet; `base` takes the place of its bases if it is not empty."""
    side = Side(name, None, notes=[f"{name} was not made here (no dist/{name}): definitions and locks are compared"])
    if base:
        definitions.base(base)
    bases = {str(platform(a)): base or own for a, own in release.bases.items()}
    side.sections["release"] = _head(release.upstream, release.values["date"], bases)
    units = units_of(release, definitions)
    folder = lock_folder(definitions, release.version)
    text = read_lock(folder / "sources.lock")
    lock = SourcesLock.parse(text, str(folder / "sources.lock")) if text else None
    if lock and lock.definition != lock_subject(units):
        lock = None
    side.sections["components"] = {
        f"{unit.name.partition('@')[0]} {platform(arch)}": _of_unit(unit, lock)
        for unit in units
        for arch in unit.arches
    }
    side.sections["toolchains"] = _toolchains(lock, {u.go for u in units if u.build.compiler == "go"})
    if lock:
        side.sections["modules"] = _modules(lock)
    else:
        why = "its sources.lock was made for another definition" if text else "it has no sources.lock"
        hint = f"./inv lock --version {release.version}" + (" --update" if text else "")
        side.notes.append(f"{name}: {why} ({hint}): no modules")
    _add_packages(side, folder, sorted(set(bases.values())))
    side.sections["deviations"] = _deviations((d.component, d.what, d.why) for d in release.deviations)
    marker = base if base and any(own != base for own in release.bases.values()) else None
    side.sections["images"] = {
        f"{image.name} {target}": {"references": [str(r) for r in image.references]}
        for image in images_of(release, definitions, marker)
        for target in bases
    }
    side.sections["charts"] = {chart: {} for chart in sorted(release.charts)}
    return side


def _add_packages(side: Side, folder: Path, bases: Iterable[str]) -> None:
    """Packages of committed locks; of none if one is missing, since its packages would look as if they were gone."""
    texts = {base: read_lock(folder / f"{base}.lock") for base in bases}
    side.notes.extend(f"{side.name}: base {b} has no committed lock: no packages" for b, t in texts.items() if not t)
    if all(texts.values()):
        packages = side.sections.setdefault("packages", {})
        for base, text in texts.items():
            packages |= _packages(BaseLock.parse(text or "", str(folder / f"{base}.lock")))


def _head(upstream: str, date: str, bases: Mapping[str, str]) -> Facts:
    return {
        "upstream": {"value": upstream},
        "date": {"value": date},
        **{f"base {target}": {"value": base} for target, base in bases.items()},
    }


def _of_manifest(source: Source) -> dict[str, Any]:
    if source.module:
        origin = source.module
    elif source.git:
        origin = f"{source.git} {source.commit}"
    else:
        origin = f"{source.archive} {source.digest}" if source.archive else f"folder {source.tree}"
    return {"version": source.version, "go": source.go, "source": origin, "sum": source.sum or source.files}


def _of_unit(unit: Unit, lock: SourcesLock | None) -> dict[str, Any]:
    total: str | None = None
    main, pin = (lock.mains.get(unit.name), lock.snapshots.get(unit.name)) if lock else (None, None)
    if main:
        origin, total = str(main.module), main.module.sum
    elif pin:
        origin, total = f"{pin.origin[0]} {pin.origin[-1]}", str(pin.tar)
    elif unit.source.go:
        origin, total = unit.module, unit.sum
    elif unit.source.git:
        origin = f"{unit.fill(unit.source.git, {})} {unit.commit}"
    elif unit.source.archive:
        origin = f"{unit.fill(unit.source.archive, {})} sha256:{unit.sha256}"
    else:
        origin = f"folder {unit.source.tree}"
    go = unit.go if unit.build.compiler == "go" else None
    return {"version": unit.version, "go": go, "source": origin, "sum": total}


def _lock_of(manifest: Manifest, definitions: Definitions) -> SourcesLock | None:
    """The checkout's sources lock of a published release, if the release says that it was made from it."""
    folder = lock_folder(definitions, manifest.version)
    text = read_lock(folder / "sources.lock")
    if text is None:
        return None
    lock = SourcesLock.parse(text, str(folder / "sources.lock"))
    overlays = {}
    for mod in sorted((folder / "overlay").glob("*/go.mod")):
        overlay = Overlay(read_lock(mod) or "", read_lock(mod.with_suffix(".sum")) or "")
        overlays[mod.parent.name] = str(overlay.digest)
    digest = str(Digest.of_bytes(canonical([lock.render(), overlays])))  # as pipeline.publish.manifest says it
    made_from = {i.get("sources.lock") for i in manifest.inputs.values() if isinstance(i, dict)}
    return lock if made_from == {digest} else None


def _toolchains(lock: SourcesLock | None, versions: Iterable[str]) -> Facts:
    known = {t.version: t.sum for t in lock.toolchains.values()} if lock else {}
    return {f"go {version}": {"sum": known.get(version)} for version in sorted(versions)}


def _modules(lock: SourcesLock) -> Facts:
    """By path: a release may have several versions of one module."""
    facts: Facts = {}
    for module in sorted(lock.modules):
        entry = facts.setdefault(module.path, {"versions": [], "sums": []})
        entry["versions"].append(module.version)
        entry["sums"].append(module.sum)
    return facts


def _packages(lock: BaseLock) -> Facts:
    return {
        f"{lock.base} {p.root} {p.name} {platform(p.arch)}": {"version": p.version, "digest": str(p.digest)}
        for p in lock.packages
    }


def _deviations(found: Iterable[tuple[str | None, str, str]]) -> Facts:
    return {f"{component}: {what}" if component else what: {"why": why} for component, what, why in found}
