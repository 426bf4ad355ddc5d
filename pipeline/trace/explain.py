"""The chain from a published file, or a member of one, back to every pin: `inv explain`.

What ran is told by the graph itself, planned from this checkout and from the base's lock that was published with the
file; nothing is fetched, run or written, and the store is not asked. Where this checkout has other inputs than the
file was made from, only what release.json and the images say of themselves is told.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import BuildError, SourceError
from pipeline.graph import Action, Graph, Ref
from pipeline.pack.members import SUFFIXES, read_members
from pipeline.store import Output
from pipeline.trace.find import BLOBS, BUNDLE, CHART, Found, find
from pipeline.trace.images import Outputs, concerned, describe_builds, known_outputs, owner_of
from pipeline.trace.layout import Build, Layout
from pipeline.trace.pins import describe_pins, describe_root, find_roots, published_pins, recorded_unit
from pipeline.trace.planned import LockedBase, Places, Planned, locked_bases, plan_published

FILLED = ("Chart.yaml", "values.yaml")
"""Files of a chart that packing writes the release's version and images into."""
ITSELF = "the release writes it about itself; no action makes it"


def explain(text: str, checkout: Path, release: str = "") -> dict[str, Any]:
    """Everything that is known of how the file that `text` means came to be, as JSON values.

    `release` is the folder of a release or its name below dist/; without it every release there is looked at.
    `actions` are the steps that lead to the file (`made_by` is the last), `images` those that hold it, are it or are
    named in it, `units` and `roots` the pins that all of them use. Where `checkout` differs from what the file was made
    from, there are no steps, and only the pins that release.json and the published lock name. Raises UsageError if
    nothing is meant, SourceError if it is not as its release says.
    """
    found = find(text, checkout / "dist", release)
    places = Places(checkout)
    facts: dict[str, Any] = {
        "file": _file(found),
        "release": _release(found, places),
        "checkout": {"differs": {}, "reason": ""},
        "made_by": None,
        "images": [],
        "actions": {},
        "units": {},
        "roots": {},
    }
    manifest = found.release.manifest
    if found.platform is None and not manifest.images:
        facts["checkout"]["reason"] = ITSELF
    else:
        _tell(facts, found, places)
    facts["deviations"] = _deviations(facts, found, checkout, places)
    return facts


def _tell(facts: dict[str, Any], found: Found, places: Places) -> None:
    """Fill in what made the file, as far as it can be told."""
    manifest = found.release.manifest
    own = [found.platform] if found.platform else sorted(manifest.platforms)
    # An image's index is of all platforms, and bundles and charts name it.
    bases = locked_bases(found.release, sorted({*own, *(manifest.platforms if manifest.images else ())}))
    layout = Layout(found.release)
    made = plan_published(found.release, bases, own, places, facts["checkout"])
    builds = concerned(found, layout, made)
    facts["images"] = describe_builds(found, builds, made)
    if made:
        _tell_steps(facts, found, made, layout)
        _tell_package(facts, found, builds)
    else:
        _tell_pins(facts, found, builds, {p: bases[p] for p in own}, places)


def _file(found: Found) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "name": found.name,
        "archive": found.archive or None,
        "digest": str(found.digest),
        "size": found.size,
        "read": str(found.path) if found.path else None,
    }


def _release(found: Found, places: Places) -> dict[str, Any]:
    manifest = found.release.manifest
    return {
        "version": manifest.version,
        "upstream": manifest.upstream,
        "date": manifest.date,
        "folder": places.name(found.release.folder.absolute()),
        "platform": found.platform,
        "base": manifest.bases.get(found.platform or ""),
        "stand_in": manifest.stand_in,
        "also_in": list(found.also_in),
    }


def _deviations(facts: dict[str, Any], found: Found, checkout: Path, places: Places) -> list[dict[str, Any]]:
    """Those of the whole release, and of the components that the file is made of."""
    manifest = found.release.manifest
    components = {unit["component"] for unit in facts["units"].values()}
    path = checkout / "releases" / manifest.version / "release.yaml"
    return [
        {**d.model_dump(), "at": places.beginning(path, f"what: {d.what}") if path.is_file() else ""}
        for d in manifest.deviations
        if d.component is None or d.component in components
    ]


def _tell_steps(facts: dict[str, Any], found: Found, made: Planned, layout: Layout) -> None:
    """Fill in the actions that lead to the file, and every pin that they use."""
    outputs = known_outputs(found.release, layout, made)
    maker, packer = _makers(facts["file"], found, made, outputs)
    if maker is None and packer is None:
        facts["checkout"] = {"differs": {}, "reason": ITSELF}
        return
    actions = dict(made.graph.closure([maker]).actions) if maker else {}
    if packer:
        facts["file"]["packed_by"] = packer
        actions[packer] = made.graph.actions[packer]
    facts["made_by"] = maker
    roots = find_roots(made)
    for name, action in sorted(actions.items()):
        facts["actions"][name] = _step(action, outputs, made.graph)
        for key in action.parameters.values():
            if isinstance(key, str) and key in roots and key not in facts["roots"]:
                facts["roots"][key] = describe_root(roots[key], made)
        unit = name.split("/")[1]
        if name.startswith(("build/", "notices/")) and unit not in facts["units"]:
            facts["units"][unit] = recorded_unit(found.release, unit) | describe_pins(made.unit(unit), made)
    differs = facts["checkout"]["differs"]
    if not any(name.startswith("tarball/") for name in actions):
        differs.pop("install", None)  # it holds what the tarball's packer packs
    if not any(unit.get("tree") for unit in facts["units"].values()):
        differs.pop("tree", None)


def _tell_package(facts: dict[str, Any], found: Found, builds: Sequence[Build]) -> None:
    """Tell which package of the base a file in an image's layer is of, with its pin."""
    step = facts["actions"].get(facts["made_by"], {"parameters": {}})
    root = facts["roots"].get(step["parameters"].get("root"))
    if found.archive.startswith(BLOBS) and facts["file"].get("packed_by") == facts["made_by"] and root:
        owner = owner_of(found, builds)
        facts["file"]["package"] = next((p for p in root["packages"] if (p["name"], p["version"]) == owner), None)


def _makers(file: dict[str, Any], found: Found, made: Planned, outputs: Outputs) -> tuple[str | None, str | None]:
    """The action whose output the file is, and for a member the one that packed it; `file` gets where it comes from."""
    build = f"build/{found.unit}/{str(found.platform).removeprefix('linux/')}" if found.unit else None
    packer = _maker(found.archive, found, made, outputs) if found.kind == "member" else None
    if build or packer is None:
        return build or (None if found.kind == "member" else _maker(found.name, found, made, outputs)), packer
    action = made.graph.actions[packer]
    maker: str | None = packer
    if found.archive.startswith(BUNDLE) and found.name.startswith("blobs/"):
        maker = _maker("", found, made, outputs) or packer
    elif found.archive.startswith(BLOBS) and isinstance(source := action.inputs.get(found.name), Ref):
        maker = source.action
    elif found.archive.endswith(CHART):
        name = found.name.partition("/")[2]
        _note_source(file, f"charts/{packer.partition('/')[2]}", name, action.parameters["files"].get(name), found)
    elif not found.archive.startswith((BLOBS, BUNDLE)):
        maker = _maker_of_member(file, found, action)
    return maker, packer


def _maker_of_member(file: dict[str, Any], found: Found, action: Action) -> str | None:
    """The action whose output a tarball's member is; None if it is a file of this checkout, which `file` then names."""
    if entry := action.parameters["files"].get(found.name):
        _note_source(file, "install", found.name, entry[1], found)
        return None
    programs = {b.unit for b in found.release.manifest.binaries}
    makers = [r.action for r in action.inputs.values() if isinstance(r, Ref)]
    others = [m for m in makers if not (m.startswith("build/") and m.split("/")[1] in programs)]
    if len(others) != 1:
        raise SourceError(f"{found.archive}: member {found.name} is neither a program of the release nor a file of it")
    return others[0]


def _maker(place: str, found: Found, made: Planned, outputs: Outputs) -> str | None:
    """The action that makes what is published at `place`, or else the file's own content."""
    by_name = [n for n, a in made.graph.actions.items() if place in a.publish.values()]
    hexes = place.rpartition("/")[2] if place.startswith(BLOBS) else found.digest.hex
    by_content = [n for n, files in outputs.items() for o in files.values() if o.digest.hex == hexes]
    by_content.sort(key=lambda n: not n.startswith(f"layer/{found.image}."))  # of equal layers the one that was named
    return next((n for n in [*by_name, *by_content] if n in made.graph.actions), None)


def _note_source(file: dict[str, Any], folder: str, name: str, digest: str | None, found: Found) -> None:
    """Tell which file of this checkout a member is."""
    if digest:
        same = digest == str(found.digest)
        filled = found.archive.endswith(CHART) and name in FILLED
        file["from"] = {"path": f"{folder}/{name}", "digest": digest, "same": same, "filled": filled}


def _step(action: Action, outputs: Outputs, graph: Graph) -> dict[str, Any]:
    """An action: its parameters but for the sources, which stand with their unit, and where its inputs come from."""
    try:
        key: str | None = str(action.key(outputs)[0])
    except BuildError:
        key = None  # an input is nothing that release.json or an image names
    inputs = {}
    for name, source in sorted(action.inputs.items()):
        known = outputs.get(source.action, {}).get(source.output) if isinstance(source, Ref) else Output(source, 0)
        inputs[name] = {
            "action": source.action if isinstance(source, Ref) else None,
            "output": source.output if isinstance(source, Ref) else None,
            "digest": str(known.digest) if known else None,
        }
    readers = [n for n, a in graph.actions.items() if action.name in a.dependencies]
    return {
        "key": key,
        "parameters": {k: v for k, v in action.parameters.items() if k != "sources"},
        "inputs": inputs,
        "checked_by": sorted(n for n in readers if n.startswith("check/")),
    }


def _tell_pins(
    facts: dict[str, Any], found: Found, builds: Sequence[Build], bases: dict[str, LockedBase], places: Places
) -> None:
    """Fill in what release.json, images and the published locks tell without this checkout."""
    units = {found.unit} - {""}
    if found.kind == "artifact" and found.name.endswith(SUFFIXES) and not found.name.startswith(BUNDLE):
        programs = {b.digest: b.unit for b in found.release.manifest.binaries}
        members = read_members(found.path or found.release.file(found.name))
        units = {programs[d] for m in members if (d := str(m.digest)) in programs}
    elif not units:
        platforms = {b.platform for b in builds}
        steps = {(b.image.name, la.step) for b in builds for la in b.layers}
        units = {
            b.unit
            for b in found.release.manifest.binaries
            if b.platform in platforms and any(f"{s}.".startswith(f"{i}.{b.component}.") for i, s in steps)
        }
    facts["units"], facts["roots"] = published_pins(found.release, units, bases, places)
