"""Everything that a signer states of a release, derived from its release.json, definitions, locks and plan. No keys."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pipeline.attest.places import UNTRACKED, kind_of
from pipeline.context import Context
from pipeline.errors import SourceError
from pipeline.graph import Graph, Ref
from pipeline.image.index import NAME
from pipeline.image.layer import layer_roots
from pipeline.lock import Package
from pipeline.model import Digest, Module
from pipeline.plan import plan
from pipeline.publish.published import Artifact, Manifest, Published
from pipeline.roots import Root
from pipeline.rpm.spec import SPECS
from pipeline.sbom.purl import of_module, purl
from pipeline.units import Unit
from pipeline.verifier.encoding import Refused, parse

WRITER = "writer"
"""In place of an action: what is written while a release is published, from what the actions made."""
TREE = "https://rfolabs.github.io/rfo/tree/v1/"
"""Before the path of a folder of this repository; its digest is over paths, modes and contents of tracked files."""
LOCK = "https://rfolabs.github.io/rfo/lock/v1/"
"""Before the name of a lock."""
LAYOUT_INDEX = "images/index.json"
MAX_LAYOUT = 16 << 20
"""Bytes of a layout's index.json."""
CHART_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class Subject:
    """One thing that is signed."""

    name: str
    """As statements and links call it: `binary/UNIT/ARCH/NAME`, `image/NAME[/ARCH]`, `chart/NAME`, or a file's path."""
    digest: Digest
    kind: str
    platform: str | None
    """`linux/ARCH`; None for what belongs to the whole release."""
    action: str
    """The step that makes it, or WRITER; empty for blobs of the layout, which several steps may make."""
    output: str = ""
    """Which of the action's outputs it is."""


@dataclass(frozen=True)
class Facts:
    """A release as its signers see it."""

    published: Published
    context: Context
    """A run of this checkout for the whole release."""
    graph: Graph
    subjects: Mapping[str, Subject]

    @property
    def manifest(self) -> Manifest:
        """What release.json says."""
        return self.published.manifest

    @cached_property
    def locks(self) -> dict[str, Digest]:
        """Of `sources.lock` and each `BASE.lock`, as their canonical text."""
        found = {"sources.lock": self.context.sources.lock.render()}
        found |= {f"{name}.lock": lock.render() for name, lock in self.context.base_locks.items()}
        return {name: Digest.of_bytes(text.encode()) for name, text in sorted(found.items())}

    def kinds(self) -> list[str]:
        """The kinds that provenance is about, sorted."""
        return sorted({s.kind for s in self.subjects.values()} - {UNTRACKED})

    def of_kind(self, kind: str) -> dict[str, Subject]:
        """The subjects of a kind."""
        return {name: s for name, s in sorted(self.subjects.items()) if s.kind == kind}

    def only(self, names: Iterable[str]) -> "Facts":
        """The same about some subjects."""
        chosen = set(names)
        return replace(self, subjects={n: s for n, s in self.subjects.items() if n in chosen})

    def dependencies(self, kind: str) -> list[dict[str, Any]]:
        """What the subjects of a kind were made from: locks, and the pins of every action that their bytes come from.

        ResourceDescriptors of in-toto (spec/v1/resource_descriptor.md), sorted. A Go module's digest is the hash in
        its `h1:` sum, which in-toto's digest set calls `dirHash1`.
        """
        actions = self._closure({s.action for s in self.of_kind(kind).values()})
        found = [_pin(f"{LOCK}{name}", digest.hex, name=name) for name, digest in self.locks.items()]
        units = {u.name: u for u in self.context.all_units}
        for name in sorted({n.split("/")[1] for n in actions if n.startswith(("build/", "generate/"))} & set(units)):
            found += self._pins_of(units[name])
        keys = {v for a in actions for v in _texts(self.graph.actions[a].parameters)}
        for key, root in self._roots.items():
            if key in keys:
                found += [_package(p, root) for p in root.packages]
        inputs = next(iter(self.manifest.inputs.values()), None)
        for tree, prefix in (("install", "tarball/"), (SPECS, "rpm/")):
            if any(a.startswith(prefix) for a in actions) and isinstance(inputs, dict) and tree in inputs:
                found.append(_pin(f"{TREE}{tree}", Digest.parse(inputs[tree]).hex, name=tree))
        unique = {(d["uri"], *d["digest"].values()): d for d in found}
        return [unique[key] for key in sorted(unique)]

    def _closure(self, names: Iterable[str]) -> set[str]:
        """Actions whose bytes reach the outputs of `names`; all of them for what WRITER writes. Checks do not."""
        wanted, pending = set(), [n for n in names if n in self.graph.actions]
        if WRITER in names:
            pending = list(self.graph.actions)
        while pending:
            name = pending.pop()
            if name not in wanted:
                wanted.add(name)
                pending += [r.action for r in self.graph.actions[name].inputs.values() if isinstance(r, Ref)]
        return wanted

    @cached_property
    def _roots(self) -> dict[str, Root]:
        """The roots of all architectures, by the key that actions name them with."""
        roots: list[Root] = []
        for arch, inputs in self.context.inputs.items():
            roots += [inputs.roots.find(r, arch) for r in inputs.roots.base.roots if r != "engine"]
            roots += [r for layer in inputs.roots.base.layers for r in [layer_roots(layer, arch, inputs)[0]]]
        return {str(r.key): r for r in roots}

    def _pins_of(self, unit: Unit) -> list[dict[str, Any]]:
        lock = self.context.sources.lock
        found = []
        if main := lock.mains.get(unit.name):
            found.append(_module(main.module))
        if pin := lock.snapshots.get(unit.name):
            git = pin.kind == "git"
            uri = f"git+{pin.origin[0]}@{pin.origin[2]}" if git else pin.origin[0]
            found.append(_pin(uri, pin.tar.hex, name=unit.name))
        if unit.source.tree:
            identity = next(iter(self.context.inputs.values())).identity(unit)
            found.append(_pin(f"{TREE}{unit.source.tree}", Digest.parse(identity["tree"]).hex, name=unit.name))
        if unit.build.compiler == "go":
            found += [_module(lock.toolchains[unit.go].module), *map(_module, lock.modules_of(unit.name))]
        if overlay := self.context.sources.overlays.get(unit.name):
            found.append(_pin(f"{LOCK}overlay/{unit.name}", overlay.digest.hex, name=f"overlay/{unit.name}"))
        return found


def facts_of(published: Published, context: Context) -> Facts:
    """The facts of a published release; `context` is a run of this checkout for all that it was made for.

    Raises SourceError for a release.json whose files no action here makes, or whose layout is malformed.
    """
    manifest = published.manifest
    graph = plan(context.release, context.all_units, context.inputs, context.packs)
    places = {t: (a.name, o) for a in graph.actions.values() for o, t in sorted(a.publish.items())}
    subjects = [*_binaries(published), *_images(published), *_charts(published)]
    written = {"release.json", "NOTES.md", *(f"{base}.lock" for base in manifest.bases.values())}
    whole = Artifact(
        name="release.json", digest=str(Digest.of_file(published.folder / "release.json")), size=0, platform=None
    )
    for artifact in [*manifest.artifacts, whole]:
        name, kind = artifact.name, kind_of(artifact.name)
        place = name if name in places or kind == UNTRACKED else artifact.template
        action, output = places.get(place, (WRITER, "") if name in written else ("", ""))
        if not action and kind != UNTRACKED:
            raise SourceError(f"no action of this checkout makes {name}, which {published.folder}/release.json names")
        subjects.append(Subject(name, Digest.parse(artifact.digest), kind, artifact.platform, action, output))
    found = {s.name: s for s in subjects}
    if len(found) != len(subjects):
        raise SourceError(f"{published.folder}/release.json names something twice")
    return Facts(published, context, graph, dict(sorted(found.items())))


def _binaries(published: Published) -> list[Subject]:
    return [
        Subject(
            f"binary/{b.unit}/{_arch(b.platform)}/{b.name}", Digest.parse(b.digest), "binary", b.platform,
            f"build/{b.unit}/{_arch(b.platform)}", b.name,
        )
        for b in published.manifest.binaries
    ]  # fmt: skip


def _images(published: Published) -> list[Subject]:
    found = []
    for image in published.manifest.images:
        name = f"image/{image.name}"
        found.append(Subject(name, Digest.parse(image.digest), "image", None, f"index/{image.name}", "index.json"))
        for platform, digest in image.platforms.items():
            action = f"{name}/{_arch(platform)}"
            found.append(Subject(action, Digest.parse(digest), "image", platform, action, "manifest.json"))
    return found


def _charts(published: Published) -> list[Subject]:
    """The charts' OCI manifests, which stand in the layout beside the images' indexes."""
    if LAYOUT_INDEX not in published.artifacts:
        return []
    path = published.file(LAYOUT_INDEX)
    try:
        with path.open("rb") as file:
            entries = parse(file.read(MAX_LAYOUT + 1), LAYOUT_INDEX, MAX_LAYOUT)["manifests"]
        named = [
            (str(e["annotations"][NAME]).rpartition("/")[2].partition(":")[0], Digest.parse(e["digest"]))
            for e in entries
            if e["mediaType"] == CHART_MANIFEST
        ]
    except (Refused, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{path} is no index of a layout: {error}") from error
    return [
        Subject(f"chart/{name}", digest, "chart", None, f"chart/{name}", "manifest.json")
        for name, digest in sorted(set(named))
    ]


def _pin(uri: str, sha256: str, name: str) -> dict[str, Any]:
    return {"uri": uri, "digest": {"sha256": sha256}, "name": name}


def _module(module: Module) -> dict[str, Any]:
    total = base64.b64decode(module.sum.removeprefix("h1:")).hex()
    return {"uri": of_module(module), "digest": {"dirHash1": total}, "name": str(module)}


def _package(package: Package, root: Root) -> dict[str, Any]:
    vendor = root.base.name.partition("-")[0]
    facts = {"distro": root.base.name}
    if root.base.family == "deb":
        uri = purl("deb", f"{vendor}/{package.name}", package.version, facts)
    else:
        epoch, found, rest = package.version.rpartition(":")
        uri = purl("rpm", f"{vendor}/{package.name}", rest, facts | {"epoch": epoch if found else ""})
    return _pin(uri, package.digest.hex, name=package.path)


def _texts(value: Any) -> Iterable[str]:
    """Every text in nested parameters."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts(item)


def _arch(platform: str) -> str:
    return platform.removeprefix("linux/")
