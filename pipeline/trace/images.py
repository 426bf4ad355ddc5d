"""Images as facts: what holds a file, layer by layer, with the step that made each and what is inside."""

import json
from collections.abc import Iterable
from typing import Any

from pipeline.errors import SourceError
from pipeline.graph import Action, Ref
from pipeline.image.layer import BLOB, FACTS
from pipeline.model import Digest
from pipeline.publish.published import Published
from pipeline.store import Output
from pipeline.trace.find import BLOBS, BUNDLE, CHART, MAX_SBOM, SBOMS, Found, sbom_of
from pipeline.trace.layout import Build, Layer, Layout
from pipeline.trace.planned import Planned

MAX_LIST = 1 << 20
"""Bytes of a bundle's list of images."""
Outputs = dict[str, dict[str, Output]]
"""Of actions, as far as a release tells them."""


def concerned(found: Found, layout: Layout, made: Planned | None) -> list[Build]:
    """The images that are the file, hold it, or, for a chart, are named in it."""
    if found.kind == "image":
        return [b for b in layout.builds if b.image.name == found.image and found.platform in (None, b.platform)]
    if found.unit:
        return [b for b in layout.builds if b.platform == found.platform and _program_layers(found, b, made)]
    place = found.archive or found.name
    if place.startswith(BUNDLE):
        inside = [b for b in layout.holders(str(found.digest)) if b.platform == found.platform]
        return inside or _bundled(found, place, layout)
    if place.startswith(BLOBS):
        digest = str(Digest(place.rpartition("/")[2]))
        charts = {c.digest for c in layout.charts}
        return _in_chart(found, place, layout) if digest in charts else layout.holders(digest)
    if place.startswith(SBOMS):
        return [b for b in layout.builds if sbom_of(b) == place]
    return _in_chart(found, place, layout) if place.endswith(CHART) else []


def _program_layers(found: Found, build: Build, made: Planned | None) -> list[int]:
    """Which layers of an image have the program, by number from 0."""
    actions = layer_actions(build, made)
    name = next((b.name for b in found.release.manifest.binaries if b.digest == str(found.digest)), "")
    wanted = Ref(f"build/{found.unit}/{_arch(build.platform)}", name)
    return [n for n, action in enumerate(actions) if wanted in action.inputs.values()]


def _bundled(found: Found, place: str, layout: Layout) -> list[Build]:
    """The images of a bundle: those that the list beside it names by the digests of their indexes."""
    listed = f"{place.removesuffix('.txt').removesuffix('.tar.zst')}.txt"
    artifact = found.release.artifacts.get(listed)
    if artifact is None or artifact.size > MAX_LIST:
        return []
    lines = found.release.file(listed).read_text(encoding="utf-8", errors="replace").split()
    digests = {line.rpartition("@")[2] for line in lines}
    return [b for b in layout.builds if b.image.digest in digests and b.platform == found.platform]


def _in_chart(found: Found, place: str, layout: Layout) -> list[Build]:
    from pipeline.chart.images import chart_images

    digests = {str(p.digest) for p in chart_images(found.release.file(place)).values()}
    return [b for b in layout.builds if b.image.digest in digests]


def owner_of(found: Found, builds: Iterable[Build]) -> tuple[str, str]:
    """Name and version of what has a file in an image, as the image's SBOM says; empty if none says it."""
    for build in builds:
        artifact = found.release.artifacts.get(sbom_of(build))
        if artifact is None or artifact.size > MAX_SBOM:
            continue
        try:
            document = json.loads(found.release.file(artifact.name).read_bytes())
            files = {f["SPDXID"] for f in document["files"] if f["fileName"].removeprefix("./") == found.name}
            holders = {r["spdxElementId"] for r in document["relationships"] if r["relatedSpdxElement"] in files}
            named = [p for p in document["packages"] if p["SPDXID"] in holders]
            return next(((str(p["name"]), str(p["versionInfo"])) for p in named), ("", ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SourceError(f"{found.release.folder}/{artifact.name}: not an SPDX document: {error!r}") from error
    return "", ""


def layer_actions(build: Build, made: Planned | None) -> list[Action]:
    """The actions that make an image's layers, the lowest first; none if the graph has other ones."""
    image = made.graph.actions.get(f"image/{build.image.name}/{_arch(build.platform)}") if made else None
    if made is None or image is None or len(image.inputs) != len(build.layers):
        return []
    return [made.graph.actions[r.action] for _, r in sorted(image.inputs.items()) if isinstance(r, Ref)]


def known_outputs(release: Published, layout: Layout, made: Planned) -> Outputs:
    """The outputs of actions as release.json and the layout tell them."""
    outputs: Outputs = {}
    for binary in release.manifest.binaries:
        name = f"build/{binary.unit}/{_arch(binary.platform)}"
        outputs.setdefault(name, {})[binary.name] = Output(Digest.parse(binary.digest), binary.size)
    artifacts = {a.template: a for a in release.artifacts.values() if not a.name.startswith(BLOBS)}
    for action in made.graph.actions.values():
        for output, place in action.publish.items():
            if artifact := artifacts.get(place):
                outputs.setdefault(action.name, {})[output] = Output(Digest.parse(artifact.digest), artifact.size)
    for build in layout.builds:
        image = f"image/{build.image.name}/{_arch(build.platform)}"
        outputs[f"index/{build.image.name}"] = {"index.json": _output(build.image.digest)}
        outputs[image] = {"manifest.json": _output(build.manifest), "config.json": _output(build.config)}
        for layer, action in zip(build.layers, layer_actions(build, made), strict=False):
            outputs[action.name] = {BLOB: Output(Digest.parse(layer.digest), layer.size), FACTS: _facts(layer)}
    for chart in layout.charts:
        files = {"manifest.json": chart.manifest, "config.json": chart.config, "layer.tgz": chart.digest}
        outputs.setdefault(f"chart/{chart.name}", {}).update({n: _output(d) for n, d in files.items()})
    return outputs


def _output(digest: str) -> Output:
    return Output(Digest.parse(digest), 0)


def _facts(layer: Layer) -> Output:
    """The output of a layer's action that no release publishes: it says what manifests say too."""
    facts = {"digest": layer.digest, "size": layer.size, "diff_id": layer.diff_id}
    data = (json.dumps(facts, sort_keys=True) + "\n").encode()
    return Output(Digest.of_bytes(data), len(data))


def describe_builds(found: Found, builds: Iterable[Build], made: Planned | None) -> list[dict[str, Any]]:
    """Images as JSON values: their layers with what is known to be in each."""
    digest = str(Digest(found.archive.rpartition("/")[2])) if found.archive.startswith(BLOBS) else str(found.digest)
    described = []
    for build in builds:
        actions = layer_actions(build, made)
        programs = _program_layers(found, build, made) if found.unit else []
        described.append(
            {
                "name": build.image.name,
                "references": build.image.references,
                "digest": build.image.digest,
                "platform": build.platform,
                "manifest": build.manifest,
                "config": build.config,
                "size": build.size,
                "role": ", ".join(f"layer {n + 1}" for n in programs) or build.role(digest),
                "layers": [
                    _layer(layer, actions[n] if actions else None, found.release)
                    for n, layer in enumerate(build.layers)
                ],
            }
        )
    return described


def _layer(layer: Layer, action: Action | None, release: Published) -> dict[str, Any]:
    """A layer: its packages by the key of their root, its programs with their units, its files by their makers."""
    inputs = {p: r for p, r in action.inputs.items() if isinstance(r, Ref)} if action else {}
    digests = {(b.unit, b.name, b.platform): b.digest for b in release.manifest.binaries}
    programs, files = [], []
    for path, ref in sorted(inputs.items()):
        kind, unit, *arch = ref.action.split("/")
        if kind == "build":
            digest = digests.get((unit, ref.output, f"linux/{''.join(arch)}"))
            programs.append({"path": path, "name": ref.output, "unit": unit, "digest": digest})
        else:
            files.append({"path": path, "made_by": ref.action})
    return {
        "digest": layer.digest,
        "size": layer.size,
        "diff_id": layer.diff_id,
        "step": layer.step,
        "made_by": action.name if action else None,
        "root": action.parameters.get("root") if action else None,
        "programs": programs,
        "files": files,
    }


def _arch(platform: str) -> str:
    return platform.removeprefix("linux/")
