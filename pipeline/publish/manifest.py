"""`release.json`: what a release consists of, by digest. No wall clock, no host: equal releases have equal bytes."""

import json
from typing import Any

from pipeline.context import Context
from pipeline.graph import canonical
from pipeline.model import Digest, Platform, platform
from pipeline.scheduler import Result
from pipeline.store import Output

SCHEMA = "https://rfolabs.github.io/rfo/release/v1"
"""Names the format; it is an identifier, not a place."""


def describe_release(context: Context, result: Result, arches: list[str]) -> dict[str, Any]:
    """The manifest of what was made for `arches`; the texts that go with it are added by the writer."""
    release, lock = context.release, context.sources.lock
    targets = [platform(a) for a in arches]
    return {
        "schema": SCHEMA,
        "version": release.version,
        "upstream": release.upstream,
        "date": release.date.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "stand_in": context.stand_in,
        "inputs": {
            "sources.lock": str(Digest.of_bytes(lock.render().encode())),
            "definition": str(Digest.of_bytes(canonical(release.model_dump(mode="json")))),
            **{f"{n}.lock": str(Digest.of_bytes(b.render().encode())) for n, b in context.base_locks.items()},
        },
        "platforms": sorted(str(t) for t in targets),
        "bases": {str(t): context.bases[t.arch].name for t in targets},
        "components": [_component(context, name) for name in sorted(release.components)],
        "deviations": [d.model_dump(exclude_none=True) for d in release.deviations],
        "binaries": [b for t in targets for b in _binaries(context, result, t)],
        "artifacts": [
            {"name": n, "digest": str(o.digest), "size": o.size, "platform": str(t)}
            for t in targets
            for n, o in artifacts_of(result, t.arch).items()
        ],
    }


def artifacts_of(result: Result, arch: str) -> dict[str, Output]:
    """The published files of one architecture, by name."""
    return {n: o for action, made in result.outputs.items() if action == f"tarball/{arch}" for n, o in made.items()}


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
    return {"tree": str(tree)}


def _binaries(context: Context, result: Result, target: Platform) -> list[dict[str, Any]]:
    found = []
    for unit in context.all_units:
        for name, output in result.outputs.get(unit.action("build", target.arch), {}).items():
            facts = {"name": name, "component": unit.component, "unit": unit.name, "platform": str(target)}
            found.append({**facts, "digest": str(output.digest), "size": output.size})
    return sorted(found, key=lambda b: (b["component"], b["name"], b["platform"]))
