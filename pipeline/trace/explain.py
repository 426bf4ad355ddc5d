"""The chain from a published file, or a member of one, back to every pin: `inv explain`.

What ran is told by the graph itself, planned from this checkout and from the base's lock that was published with the
file; nothing is fetched, run or written, and the store is not asked. Where this checkout has other inputs than the
file was made from, only what release.json tells is told.
"""

from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from pipeline.context import Context, Options
from pipeline.definitions import Definitions
from pipeline.errors import BuildError, PipelineError, SourceError
from pipeline.graph import Action, Graph, Ref
from pipeline.image.layer import layer_roots
from pipeline.lock import BaseLock, Package, read_lock
from pipeline.model import Digest, Module
from pipeline.pack.members import SUFFIXES, read_members
from pipeline.plan import plan
from pipeline.publish.manifest import describe_inputs
from pipeline.publish.published import Published
from pipeline.report.progress import Progress
from pipeline.roots import Root
from pipeline.store import Output, Store
from pipeline.trace.find import Found, find
from pipeline.units import Unit

DECISIVE = ("definition", "sources.lock")
"""Inputs without which this checkout cannot tell what ran; the lock of the base comes with the release."""

MAX_LOCK = 16 << 20
"""Bytes of a published lock; one of 180 packages has 32 KiB."""


class _NoStore(Store):
    """A store that is neither there nor made: planning only names it."""

    def __init__(self) -> None:
        self.root = Path("/nonexistent")


class Places:
    """Where pins stand: the lines of lock files and definitions, as `FILE:LINE` or, if not found, just `FILE`."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self._lines: dict[Path, dict[str, int]] = {}

    def name(self, path: Path) -> str:
        """A path as a user types it in the checkout."""
        return str(path.relative_to(self.checkout)) if path.is_relative_to(self.checkout) else str(path)

    def of(self, path: Path, pin: str) -> str:
        """The line that is `pin`, or is it but for its last word."""
        if path not in self._lines:
            lines = enumerate((read_lock(path) or "").split("\n"), 1)
            self._lines[path] = {key: n for n, line in lines for key in (line, line.rpartition(" ")[0])}
        return self._at(path, self._lines[path].get(pin))

    def beginning(self, path: Path, text: str, after: str = "") -> str:
        """The first line that begins with `text`, blanks and list markers aside, below the one that is `after`."""
        below = not after
        for number, line in enumerate((read_lock(path) or "").split("\n"), 1):
            if below and line.lstrip(" -").startswith(text):
                return self._at(path, number)
            below = below or line.rstrip() == after
        return self._at(path, None)

    def _at(self, path: Path, number: int | None) -> str:
        return self.name(path) + (f":{number}" if number else "")


@dataclass(frozen=True)
class _Plan:
    """What this checkout says of one architecture of a release."""

    context: Context
    graph: Graph
    arch: str
    base_lock: Path
    places: Places

    @property
    def folder(self) -> Path:
        """Of the release's definition and locks."""
        return self.context.checkout / "releases" / self.context.options.version

    def unit(self, name: str) -> Unit:
        """The unit called `name`; the manifest was made from the same definition."""
        found = next((u for u in self.context.all_units if u.name == name), None)
        if found is None:
            raise SourceError(f"release.json names a unit {name}, which its own definition does not have")
        return found


def explain(text: str, checkout: Path, release: str = "") -> dict[str, Any]:
    """Everything that is known of how the file that `text` means came to be, as JSON values.

    `release` is the folder of a release or its name below dist/; without it every release there is looked at.
    `actions` are the steps that lead to the file (`made_by` is the last), `units` and `roots` the pins that they use.
    Where `checkout` differs from what the file was made from, there are no steps, and only the pins that release.json
    and the published lock name. Raises UsageError if nothing is meant, SourceError if it is not as its release says.
    """
    found = find(text, checkout / "dist", release)
    places = Places(checkout)
    facts: dict[str, Any] = {
        "file": _file(found),
        "release": _release(found, places),
        "checkout": {"differs": {}, "reason": ""},
        "made_by": None,
        "actions": {},
        "units": {},
        "roots": {},
    }
    if found.platform is None:
        facts["checkout"]["reason"] = "the release writes it about itself; no action makes it"
    else:
        lock_path, lock = _base_lock(found.release, found.platform)
        made = _plan(found, lock, lock_path, places, facts["checkout"])
        if made:
            _tell_steps(facts, found, made)
        else:
            _tell_pins(facts, found, lock, lock_path, places)
    facts["deviations"] = _deviations(facts, found, checkout, places)
    return facts


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


def _base_lock(published: Published, platform: str) -> tuple[Path, BaseLock]:
    """The lock that was published with the release, its bytes checked."""
    name = published.manifest.bases.get(platform)
    if name is None:
        raise SourceError(f"{published.folder}/release.json names no base for {platform}")
    if (entry := published.artifacts.get(f"{name}.lock")) and entry.size > MAX_LOCK:
        raise SourceError(f"{published.folder}/{name}.lock is larger than {MAX_LOCK} bytes")
    path = published.file(f"{name}.lock")
    lock = BaseLock.parse(read_lock(path) or "", str(path))
    if lock.base != name:
        raise SourceError(f"{path} is the lock of {lock.base}, not of {name}")
    return path.absolute(), lock


def _plan(found: Found, lock: BaseLock, lock_path: Path, places: Places, verdict: dict[str, Any]) -> _Plan | None:
    """The release's graph for the file's architecture; None if this checkout cannot tell what ran.

    `verdict` gets the inputs that differ, and the reason if there is another one.
    """
    manifest, platform, checkout = found.release.manifest, str(found.platform), places.checkout
    arch = platform.removeprefix("linux/")
    recorded = manifest.inputs.get(platform)
    if not isinstance(recorded, dict):
        verdict["reason"] = "release.json is of another engine and does not say what the file was made from"
        return None
    try:
        definitions = Definitions(checkout)
        release = definitions.release(manifest.version)
        base = None if release.bases.get(arch) == lock.base else lock.base
        options = Options(manifest.version, base=base, arches=(arch,), offline=True, locked=True)
        context = Context(options, Progress(stream=StringIO()), checkout)
        context.definitions, context.release = definitions, release  # read once
        context.store = _NoStore()
        context.base_locks = {lock.base: lock}
        here = describe_inputs(context, arch)
        if arch not in context.inputs:
            raise SourceError(f"{platform} cannot be built here: {context.unavailable[arch]}")
        alone = found.kind == "binary"
        units = [u for u in context.units if u.name == found.unit or not alone]
        graph = plan(release, units, context.inputs, packs=None if alone else context.packs)
    except PipelineError as error:
        verdict["reason"] = error.reason
        return None
    differs = sorted(n for n in {*here, *recorded} if here.get(n) != recorded.get(n))
    verdict["differs"] = {n: {"made_from": recorded.get(n), "here": here.get(n)} for n in differs}
    if {*DECISIVE, f"{lock.base}.lock"} & set(differs):
        return None
    return _Plan(context, graph, arch, lock_path, places)


def _tell_steps(facts: dict[str, Any], found: Found, made: _Plan) -> None:
    """Fill in the actions that lead to the file, and every pin that they use."""
    packer = f"tarball/{made.arch}"
    maker: str | None = packer
    if found.unit:
        maker = made.unit(found.unit).action("build", made.arch)
    elif found.kind == "member":
        maker = _maker_of_member(facts["file"], found, made, packer)
    actions = dict(made.graph.closure([maker]).actions) if maker else {}
    if found.kind == "member":
        facts["file"]["packed_by"] = packer
        actions[packer] = made.graph.actions[packer]
    facts["made_by"] = maker
    outputs = _known_outputs(found, made)
    roots = _roots(made)
    for name, action in sorted(actions.items()):
        facts["actions"][name] = _step(action, outputs, made.graph)
        for key in action.parameters.values():
            if isinstance(key, str) and key in roots and key not in facts["roots"]:
                facts["roots"][key] = _root(roots[key], made.base_lock, made.places)
        if "sources" in action.parameters and (unit := name.split("/")[1]) not in facts["units"]:
            facts["units"][unit] = _recorded_unit(found.release, unit) | _pins(made.unit(unit), made)
    differs = facts["checkout"]["differs"]
    if packer not in actions:
        differs.pop("install", None)  # it holds what the packer packs
    if not any(unit.get("tree") for unit in facts["units"].values()):
        differs.pop("tree", None)


def _maker_of_member(file: dict[str, Any], found: Found, made: _Plan, packer: str) -> str | None:
    """The action whose output a member is; None if it is a file of this checkout, which `file` then names."""
    action = made.graph.actions[packer]
    if entry := action.parameters["files"].get(found.name):
        file["from"] = {"path": f"install/{found.name}", "digest": entry[1], "same": entry[1] == str(found.digest)}
        return None
    programs = {b.unit for b in found.release.manifest.binaries}
    makers = [r.action for r in action.inputs.values() if isinstance(r, Ref)]
    others = [m for m in makers if not (m.startswith("build/") and m.split("/")[1] in programs)]
    if len(others) != 1:
        raise SourceError(f"{found.archive}: member {found.name} is neither a program of the release nor a file of it")
    return others[0]


def _known_outputs(found: Found, made: _Plan) -> dict[str, dict[str, Output]]:
    """What release.json tells of the outputs of actions: the programs."""
    outputs: dict[str, dict[str, Output]] = {}
    for binary in found.release.manifest.binaries:
        if binary.platform == found.platform:
            name = f"build/{binary.unit}/{made.arch}"
            outputs.setdefault(name, {})[binary.name] = Output(Digest.parse(binary.digest), binary.size)
    return outputs


def _step(action: Action, outputs: dict[str, dict[str, Output]], graph: Graph) -> dict[str, Any]:
    """An action: its parameters but for the sources, which stand with their unit, and where its inputs come from."""
    try:
        key: str | None = str(action.key(outputs)[0])
    except BuildError:
        key = None  # an input is no program, so that release.json does not name it
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


def _roots(made: _Plan) -> dict[str, Root]:
    """The roots of the architecture, by the key that actions name them with."""
    inputs = made.context.inputs[made.arch]
    roots = inputs.roots
    found = [roots.find(role, made.arch) for role in roots.base.roots if role != "engine"]
    found += [layer_roots(role, made.arch, inputs)[0] for role in roots.base.layers]
    return {str(r.key): r for r in found}


def _root(root: Root, lock: Path, places: Places) -> dict[str, Any]:
    packages = [_package(p, lock, places) for p in root.packages]
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


def _recorded_unit(published: Published, name: str) -> dict[str, Any]:
    """What release.json tells of a unit."""
    for component in published.manifest.components:
        for source in component.sources:
            if source.unit == name:
                told = source.model_dump(exclude={"unit", "platforms"}, exclude_none=True)
                return {"component": component.name, "license": component.license, **told}
    raise SourceError(f"{published.folder}/release.json tells nothing of unit {name}")


def _pins(unit: Unit, made: _Plan) -> dict[str, Any]:
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
        pins["files"] = made.context.inputs[made.arch].identity(unit)["tree"]
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


def _tell_pins(facts: dict[str, Any], found: Found, lock: BaseLock, lock_path: Path, places: Places) -> None:
    """Fill in what release.json and the published lock tell without this checkout."""
    units = {found.unit} - {""}
    if found.kind == "artifact" and found.name.endswith(SUFFIXES):
        programs = {b.digest: b.unit for b in found.release.manifest.binaries}
        members = read_members(found.path or found.release.file(found.name))
        units = {programs[d] for m in members if (d := str(m.digest)) in programs}
    facts["units"] = {u: _recorded_unit(found.release, u) for u in sorted(units)}
    arch = str(found.platform).removeprefix("linux/")
    for role, owner in sorted({(p.root, p.arch) for p in lock.packages}):
        if role != "engine" and (owner == arch or role != "sysroot"):
            packages = [_package(p, lock_path, places) for p in lock.root(role, owner)]
            name = f"{role}/{owner}"
            facts["roots"][name] = {"base": lock.base, "role": role, "arch": owner, "packages": packages}
