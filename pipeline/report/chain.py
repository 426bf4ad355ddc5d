"""What `inv explain` prints for people: the chain from a file to its pins, as a tree."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.report.progress import size
from pipeline.sandbox import INPUTS

MEANING = {
    "definition": "the release, its components and the base are defined otherwise here",
    "sources.lock": "other sources are locked here",
    "engine": "steps are those of this engine, the file was made by another state of pipeline/",
    "tree": "a folder of this repository that is compiled has other files here",
    "install": "install/ has other files here",
}
"""What it means that an input of the release is another one in this checkout."""

SHOWN = 6
"""Things in a layer that are named; --json has all."""


@dataclass
class Branch:
    """A line with what belongs to it."""

    text: str
    below: list["Branch"] = field(default_factory=list)

    def add(self, text: str) -> "Branch":
        """A new line below; returned, so that it can be given some itself."""
        self.below.append(Branch(text))
        return self.below[-1]

    def lines(self) -> Iterator[str]:
        """The tree as text. What cannot be printed, as foreign input may hold, becomes a question mark."""
        yield "".join(c if c.isprintable() else "?" for c in self.text)
        for number, branch in enumerate(self.below, 1):
            last = number == len(self.below)
            for count, line in enumerate(branch.lines()):
                yield ("   " if last else "│  ") + line if count else ("└─ " if last else "├─ ") + line


def say_chain(facts: dict[str, Any], *, full: bool, as_json: bool) -> None:
    """The end of `inv explain`."""
    print(json.dumps(facts, indent=2) if as_json else render_chain(facts, full=full), flush=True)


def render_chain(facts: dict[str, Any], *, full: bool) -> str:
    """The facts of `pipeline.trace.explain.explain` as text; modules and packages are counted unless `full`."""
    top = Branch(_title(facts["file"]))
    _release(top, facts)
    _images(top, facts)
    done: set[str] = set()
    maker, packer = facts["made_by"], facts["file"].get("packed_by")
    if source := facts["file"].get("from"):
        top.add(f"file of this checkout  {source['path']}  ({_sameness(source)})")
    if package := facts["file"].get("package"):
        top.add(f"package  {package['name']} {package['version']} {package['digest']}{_at(package['at'])}")
    if maker:
        _action(top, maker, facts, done, full=full)
    if packer and packer != maker:
        _action(top, packer, facts, done, full=full, inputs=False)
    if not facts["actions"]:
        for name, unit in facts["units"].items():
            _unit(top, name, unit, full=full)
        for root in facts["roots"].values():
            _root(top, root, full=full)
    _deviations(top, facts, full=full)
    return "\n".join(top.lines())


def _title(file: dict[str, Any]) -> str:
    place = f" in {file['archive']}" if file["archive"] else ""
    return f"{file['name']}{place}  {size(file['size'])}  {file['digest']}"


def _sameness(source: dict[str, Any]) -> str:
    if source["same"]:
        return "the same bytes"
    if source["filled"]:
        return "with the release's version and images written into it"
    return f"OTHER BYTES here: {source['digest']}"


def _images(top: Branch, facts: dict[str, Any]) -> None:
    """The images that hold the file, each with its layers on the platforms that count."""
    lines: dict[str, Branch] = {}
    for image in facts["images"]:
        name = image["name"]
        if name not in lines:
            lines[name] = top.add(f"image  {name}  {', '.join(image['references'])}  index {image['digest']}")
        held = f"  (this is its {image['role']})" if image["role"] not in ("", "index") else ""
        on = lines[name].add(f"{image['platform']}  {size(image['size'])}  manifest {image['manifest']}{held}")
        for number, layer in enumerate(image["layers"], 1):
            made_by = layer["made_by"] or layer["step"]
            on.add(f"layer {number}  {made_by}  {size(layer['size'])}  {layer['digest']}{_inside(layer, facts)}")


def _inside(layer: dict[str, Any], facts: dict[str, Any]) -> str:
    """What a layer holds, in a few words."""
    root = facts["roots"].get(layer["root"])
    found = [f"{len(root['packages'])} packages of {root['base']}"] if root else []
    found += [f"{p['path']} of {p['unit']}" for p in layer["programs"]]
    found += [f"{f['path']} of {f['made_by']}" for f in layer["files"]]
    shown = found[:SHOWN] + [f"and {len(found) - SHOWN} more"] * (len(found) > SHOWN)
    return f": {', '.join(shown)}" if shown else ""


def _release(top: Branch, facts: dict[str, Any]) -> None:
    release, checkout = facts["release"], facts["checkout"]
    target = f" for {release['platform']} on {release['base']}" if release["platform"] else ""
    stand_in = " (a stand-in: for development only)" if release["stand_in"] else ""
    line = top.add(f"{release['version']}{target}{stand_in}  {release['folder']}/release.json names this digest")
    if release["also_in"]:
        line.add(f"the same bytes are in {', '.join(release['also_in'])}")
    if checkout["reason"]:
        line.add(checkout["reason"])
    elif not checkout["differs"]:
        line.add("made from the inputs that this checkout has")
    else:
        warning = line.add("NOT made from the inputs that this checkout has:")
        for name, found in checkout["differs"].items():
            meaning = MEANING.get(name, "other packages of the base" if name.endswith(".lock") else "it differs")
            warning.add(f"{name}: {meaning}  (made from {found['made_from']}, here {found['here']})")
    if facts["units"] and not facts["actions"]:
        line.add("what ran cannot be told from here; below stands what the release tells of itself")


def _action(
    above: Branch, name: str, facts: dict[str, Any], done: set[str], *, full: bool, inputs: bool = True
) -> None:
    step = facts["actions"][name]
    line = above.add(f"{name}" + (f"  key {step['key']}" if step["key"] else ""))
    if name in done:
        line.add("as above")
        return
    if not full and _is_aside(name, facts):
        line.add("of another platform, which the index names; all of it: --full")
        return
    done.add(name)
    _parameters(line, step["parameters"], facts, full=full)
    unit = name.split("/")[1]
    if unit in facts["units"]:
        _unit(line, unit, facts["units"][unit], full=full, done=done)
    for output, source in step["inputs"].items() if inputs else ():
        if source["action"] not in facts["actions"]:
            line.add(f"input  {output}  {source['digest']}")
    for maker in _nearest(step, facts["actions"]) if inputs else ():
        _action(line, maker, facts, done, full=full)
    if step["checked_by"]:
        line.add(f"checked by  {', '.join(step['checked_by'])}")


def _parameters(line: Branch, parameters: dict[str, Any], facts: dict[str, Any], *, full: bool) -> None:
    """What else than inputs decides what an action makes."""
    single = [parameters["command"]] if "command" in parameters else []
    for command in parameters.get("commands", single):
        line.add(f"command  {shlex.join(command)}")
    if shown := {k: v for k, v in parameters.get("environment", {}).items() if v and INPUTS not in v and v != "off"}:
        line.add(f"environment  {' '.join(f'{k}={v}' for k, v in shown.items())}")
    if code := parameters.get("code"):
        line.add(f"code  of this engine for the step, {code}")
    for root in (facts["roots"][v] for v in parameters.values() if isinstance(v, str) and v in facts["roots"]):
        _root(line, root, full=full)
    if files := parameters.get("files"):
        chart = "packing" in parameters
        packed = line.add(f"files  {len(files)} of {'the chart' if chart else 'install/'}")
        for path, pinned in files.items() if full else ():
            packed.add(f"{path}  {pinned if chart else '  '.join(pinned)}")


def _nearest(step: dict[str, Any], actions: dict[str, Any]) -> list[str]:
    """The actions whose outputs a step reads, but for those that stand below another one of them anyway."""
    makers = list(dict.fromkeys(s["action"] for s in step["inputs"].values() if s["action"] in actions))
    seen: set[str] = set()
    pending = [s["action"] for m in makers for s in actions[m]["inputs"].values()]
    while pending:
        name = pending.pop()
        if name in actions and name not in seen:
            seen.add(name)
            pending += [s["action"] for s in actions[name]["inputs"].values()]
    return [m for m in makers if m not in seen]


def _is_aside(name: str, facts: dict[str, Any]) -> bool:
    """Whether an action makes an image for another platform than the file's."""
    kind, *_, arch = name.split("/")
    return kind == "image" and facts["release"]["platform"] not in (None, f"linux/{arch}")


def _unit(above: Branch, name: str, unit: dict[str, Any], *, full: bool, done: set[str] | None = None) -> None:
    where = _at(unit.get("chosen"))
    line = above.add(f"component  {unit['component']} {unit['version']}, {unit['license']}{where}")
    if done is not None and f"unit {name}" in done:
        line.add("sources as above")
        return
    if done is not None:
        done.add(f"unit {name}")
    line.add(f"source  {_source(unit)}{_at(unit.get('at'))}")
    if toolchain := unit.get("toolchain"):
        line.add(f"toolchain  {toolchain['module']} {toolchain['sum']}{_at(toolchain['at'])}")
    elif unit.get("go"):
        line.add(f"toolchain  go {unit['go']}")
    if overlay := unit.get("overlay"):
        line.add(f"overlay  {overlay['digest']}  ({', '.join(overlay['files'])})")
    if modules := unit.get("modules"):
        listed = line.add(f"modules  {len(modules)}, each by its h1" + ("" if full else "; list them: --full"))
        for module in modules if full else ():
            listed.add(f"{module['module']} {module['sum']}{_at(module['at'])}")


def _source(unit: dict[str, Any]) -> str:
    if "module" in unit:
        return f"module {unit['module']} {unit.get('sum', '')}"
    if "git" in unit:
        return f"git {unit['git']} {unit.get('tag', '')} commit {unit.get('commit', '')}, files {unit.get('files', '')}"
    if "archive" in unit:
        return f"archive {unit['archive']} {unit.get('digest', '')}, files {unit.get('files', '')}"
    return f"folder {unit.get('tree')} of this repository {unit.get('files', '')}"


def _root(above: Branch, root: dict[str, Any], *, full: bool) -> None:
    packages = root["packages"]
    text = f"{root['role']} root  {len(packages)} packages of {root['base']} for {root['arch']}, each by its sha256"
    line = above.add(text + ("" if full else "; list them: --full"))
    for package in packages if full else ():
        line.add(f"{package['name']} {package['version']} {package['digest']}{_at(package['at'])}")


def _deviations(top: Branch, facts: dict[str, Any], *, full: bool) -> None:
    general = [d for d in facts["deviations"] if not d["component"]]
    for deviation in facts["deviations"]:
        if deviation["component"] or full:
            subject = f"{deviation['component']}: " if deviation["component"] else ""
            top.add(f"deviation  {subject}{deviation['what']}{_at(deviation['at'])}").add(f"why  {deviation['why']}")
    if general and not full:
        top.add(f"deviations  {len(general)} of the whole release; list them: --full")


def _at(place: str | None) -> str:
    return f"  ({place})" if place else ""
