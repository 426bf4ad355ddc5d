"""`release.json`: what a release consists of, by digest. No wall clock, no host: equal releases have equal bytes."""

import json
from collections.abc import Sequence
from typing import Any

from pipeline.baselocks import base_lock_path, read_base_lock
from pipeline.bases import Base
from pipeline.context import Context
from pipeline.engine import code_digest
from pipeline.graph import Graph, canonical
from pipeline.lock import BaseLock
from pipeline.model import PLATFORMS, Digest, Platform, platform
from pipeline.pack.tarball import installed_files
from pipeline.rpm.spec import SPECS
from pipeline.scheduler import Result
from pipeline.sources.tree import tree_digest
from pipeline.store import Output

SCHEMA = "https://rfolabs.github.io/rfo/release/v1"
"""Names the format; it is an identifier, not a place."""


def describe_release(context: Context, graph: Graph, result: Result, arches: Sequence[str]) -> dict[str, Any]:
    """The manifest of what was made for `arches`; the texts that go with it are added by the writer."""
    release = context.release
    targets = [platform(a) for a in arches]
    return {
        "schema": SCHEMA,
        "version": release.version,
        "upstream": release.upstream,
        "date": release.date.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "stand_in": context.stand_in,
        "inputs": {str(t): describe_inputs(context, t.arch) for t in targets},
        "platforms": sorted(str(t) for t in targets),
        "bases": {str(t): context.bases[t.arch].name for t in targets},
        "components": [_component(context, name) for name in sorted(release.components)],
        "deviations": [d.model_dump(exclude_none=True) for d in release.deviations],
        "binaries": [b for t in targets for b in _binaries(context, result, t)],
        "images": _images(context, result, arches),
        "artifacts": [
            {"name": n, "digest": str(o.digest), "size": o.size} | ({"platform": platform} if platform else {})
            for n, (o, platform) in artifacts_of(graph, result, arches).items()
        ],
    }


def describe_inputs(context: Context, arch: str) -> dict[str, str]:
    """Digests of all that the files of one architecture are made from; empty if its base is not locked.

    Of a base's lock only what the architecture uses counts: another one may come in later.
    """
    base = context.definitions.base(context.options.base or context.release.bases[arch])
    lock = find_base_lock(context, base)
    if lock is None:
        return {}
    packages = [p.line() for p in lock.packages if p.root not in base.targets or p.arch == arch]
    units, sources = context.all_units, context.sources
    facts = {
        "definition": [
            context.release.model_dump(mode="json"),
            [u.facts for u in units],
            base.model_dump(mode="json"),
            [i.recipe.model_dump(mode="json") for i in context.images],
            {c.name: {n: str(Digest.of_bytes(d)) for n, d in c.files.items()} for c in context.packs.charts},
        ],
        "sources.lock": [sources.lock.render(), {n: str(o.digest) for n, o in sources.overlays.items()}],
        f"{base.name}.lock": packages + [s.line() for s in lock.suites if s.arch == arch],
        "tree": {u.source.tree: str(tree_digest(context.checkout, u.source.tree)) for u in units if u.source.tree},
        "install": {
            path: [mode, str(Digest.of_bytes(data))]
            for path, (mode, data) in installed_files(context.checkout / "install").items()
        },
        "engine": str(code_digest(".")),
    }
    if context.packaged:
        facts[SPECS] = str(tree_digest(context.checkout, SPECS))
    return {name: str(Digest.of_bytes(canonical(fact))) for name, fact in facts.items()}


def find_base_lock(context: Context, base: Base) -> BaseLock | None:
    """The lock of a base, of this run or as it stands; never made here."""
    if base.name in context.base_locks:
        return context.base_locks[base.name]
    return read_base_lock(base_lock_path(base, context.release.version, context.definitions, context.store), base)


def artifacts_of(graph: Graph, result: Result, arches: Sequence[str]) -> dict[str, tuple[Output, str | None]]:
    """The published files of `arches`, by their places in the release's folder, each with its platform.

    What belongs to no architecture, or to several, has none.
    """
    found: dict[str, tuple[Output, str | None]] = {}
    for action in graph.actions.values():
        arch = architecture_of(action.name)
        if not action.publish or action.name not in result.outputs or (arch and arch not in arches):
            continue
        for name, template in action.publish.items():
            output = result.outputs[action.name][name]
            place = template.replace("{hex}", output.digest.hex)
            owner = str(platform(arch)) if arch else None
            same = found.setdefault(place, (output, owner))
            if same != (output, owner):
                found[place] = (output, None)
    return dict(sorted(found.items()))


def architecture_of(action: str) -> str | None:
    """The architecture that an action is for, as its name ends with it; None if it is for all."""
    last = action.rpartition("/")[2]
    return last if last in PLATFORMS else None


def _images(context: Context, result: Result, arches: Sequence[str]) -> list[dict[str, Any]]:
    """Each image by the digest of its index, with its manifests; none for a run that made none."""
    found = []
    for image in context.images:
        index = result.outputs.get(f"index/{image.name}")
        if index:
            made = {a: result.outputs[f"image/{image.name}/{a}"]["manifest.json"] for a in sorted(arches)}
            found.append(
                {
                    "name": image.name,
                    "references": [str(r) for r in image.references],
                    "digest": str(index["index.json"].digest),
                    "platforms": {str(platform(a)): str(o.digest) for a, o in made.items()},
                }
            )
    return found


def render_manifest(manifest: dict[str, Any]) -> bytes:
    """The bytes of release.json."""
    return (json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode()


def _component(context: Context, name: str) -> dict[str, Any]:
    units = [u for u in context.all_units if u.component == name]
    return {
        "name": name,
        "license": units[0].license,
        "sources": [
            {
                "unit": u.name,
                "version": u.version,
                "platforms": [str(platform(a)) for a in u.arches],
                "go": u.go if u.build.compiler == "go" else None,
                **_origin(context, u.name, u.source.tree),
            }
            for u in units
        ],
    }


def _origin(context: Context, unit: str, tree: str | None) -> dict[str, str]:
    main = context.sources.lock.mains.get(unit)
    if main:
        return {"module": str(main.module), "sum": main.module.sum, "time": main.time}
    if pin := context.sources.lock.snapshots.get(unit):
        names = {"git": ("git", "tag", "commit"), "archive": ("archive", "digest")}[pin.kind]
        return {**dict(zip(names, pin.origin, strict=True)), "files": str(pin.tar), "time": pin.time}
    return {"tree": str(tree)}


def _binaries(context: Context, result: Result, target: Platform) -> list[dict[str, Any]]:
    found = []
    for unit in context.all_units:
        for name, output in result.outputs.get(unit.action("build", target.arch), {}).items():
            facts = {"name": name, "component": unit.component, "unit": unit.name, "platform": str(target)}
            found.append({**facts, "digest": str(output.digest), "size": output.size})
    return sorted(found, key=lambda b: (b["component"], b["name"], b["platform"]))
