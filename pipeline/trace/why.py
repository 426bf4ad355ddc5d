"""Why an action ran, or would run now: which parts of its key changed. `inv why-rebuilt`. Reads; runs nothing.

The store keeps the key's parts of the last two runs that differed. With a release's definitions at hand, the key that
they give now is compared as well.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.context import Context
from pipeline.errors import PipelineError, UsageError
from pipeline.graph import Action, Graph, Ref
from pipeline.image.layer import layer_roots
from pipeline.lock import BaseLock, Package, read_lock
from pipeline.model import Digest
from pipeline.release import make_graph, make_scheduler
from pipeline.scheduler import Result
from pipeline.store import Record, Store
from pipeline.trace.meaning import meaning_of

ROOTS = ("root", "sysroot", "emulator", "packer", "below")
"""Parameters that hold the key of a root, or the keys of several."""
Packages = Mapping[str, Package]
"""Of one root, by name."""


@dataclass(frozen=True)
class Item:
    """One module, package or word of a list; None where a side lacks it."""

    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Change:
    """One part of a key that differs."""

    path: str
    """Where it stands in the parts: `parameters.sources.toolchain`, `inputs.rfo`."""
    kind: Literal["value", "words", "modules", "root", "input", "code"]
    old: Any
    new: Any
    items: tuple[Item, ...] = ()
    """What differs in it, for words, modules and the packages of a root."""
    made_by: str = ""
    """The action that makes an input."""
    note: str = ""
    meaning: str = ""
    """What the part is, in words, if its path does not say it."""


@dataclass(frozen=True)
class Now:
    """What a run with the definitions as they are would do."""

    version: str
    state: Literal["kept", "runs", "waits", "gone"]
    """kept: its outputs are in the store. waits: actions before it run first, so that its inputs are not known yet.
    gone: the release has no such action."""
    changes: tuple[Change, ...] = ()
    """Against the last run."""
    waits_for: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    """Outputs of the last run that the store has no longer."""


@dataclass(frozen=True)
class Reasons:
    """All that is known of why an action ran."""

    action: str
    runs: int
    """How many runs with different keys are remembered: 0, 1 or 2."""
    seconds: float | None
    """Of the last run."""
    changes: tuple[Change, ...]
    """From the run before to the last one."""
    now: Now | None

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return asdict(self)


@dataclass
class _Compare:
    """Compares the parts of two keys, with what helps to tell them."""

    action: str
    store: Store
    roots: dict[str, Packages] = field(default_factory=dict)
    """Those of the definitions as they are, by key."""
    makers: Mapping[str, str] = field(default_factory=dict)
    """Input to the action that makes it."""

    def changes(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
        """What differs, in the order of the paths."""
        before, after = dict(_flatten(old)), dict(_flatten(new))
        return tuple(
            replace(self._change(path, before.get(path), after.get(path)), meaning=meaning_of(self.action, path))
            for path in sorted({*before, *after})
            if before.get(path) != after.get(path)
        )

    def _change(self, path: str, old: Any, new: Any) -> Change:
        top, _, name = path.partition(".")
        if top == "inputs":
            return Change(path, "input", old, new, made_by=self.makers.get(name) or self._maker(new or old))
        if name in ROOTS:
            return self._root(path, old, new)
        if name == "code":
            return Change(path, "code", old, new)
        if name == "sources.modules":
            return Change(path, "modules", old, new, _items(_modules(old), _modules(new)))
        if isinstance(old or new, list):
            return Change(path, "words", old, new, tuple(_words(old or [], new or [])))
        return Change(path, "value", old, new)

    def _maker(self, digest: str) -> str:
        """The action whose last run made this content."""
        for record in self.store.histories():
            if any(str(o.digest) == digest for o in record.outputs.values()):
                return record.name
        return ""

    def _root(self, path: str, old: Any, new: Any) -> Change:
        before, after = self._packages(old), self._packages(new)
        if before is None or after is None:
            return Change(
                path, "root", old, new, note="its packages are not remembered: the root was removed or not made"
            )
        items = _items(*({n: f"{p.version} {p.digest}" for n, p in side.items()} for side in (before, after)))
        note = "" if items else "the same packages: the base's recipe for it, or the code that assembles it, changed"
        return Change(path, "root", old, new, items, note=note)

    def _packages(self, key: Any) -> Packages | None:
        if isinstance(key, list):
            known = [p for k in key if (p := self._packages(k)) is not None]
            return {n: p for packages in known for n, p in packages.items()} if len(known) == len(key) else None
        if not key:
            return {}
        if key in self.roots:
            return self.roots[key]
        try:
            text = read_lock(self.store.root / "trees" / f"{Digest.parse(str(key)).hex}.lock")
            return None if text is None else {p.name: p for p in BaseLock.parse(f"base -\n{text}", "trees").packages}
        except PipelineError:  # not a root's key, or a file that somebody changed
            return None


def existing_store(folder: Path) -> Store:
    """The store in `folder`; raises UsageError if there is none: looking must not make one."""
    if not (folder / "history").is_dir():
        raise UsageError(f"there is no store at {folder}: nothing ever ran on it", "name another: RFO_STORE=/path")
    return Store(folder)


def why_rebuilt(name: str, store: Store, context: Context | None) -> Reasons:
    """Why the action `name` ran last on `store`, and with a `context` also whether it would run now and why.

    Raises UsageError, with names that are close, if neither the store nor the release knows it.
    """
    last, before = store.history(name), store.previous(name)
    graph = make_graph(context) if context else Graph([])
    if last is None and name not in graph.actions:
        refuse_unknown(name, store, graph)
    compare = _Compare(name, store)
    changes = compare.changes(before.parts, last.parts) if before and last else ()
    now = _now(name, last, context, graph) if context else None
    runs = sum(1 for r in (last, before) if r)
    return Reasons(name, runs, last.seconds if last else None, changes, now)


def refuse_unknown(name: str, store: Store, graph: Graph) -> None:
    """Raise UsageError for an action that nobody knows."""
    known = sorted({r.name for r in store.histories()} | set(graph.actions))
    close = difflib.get_close_matches(name, known, n=3)
    hint = (
        f"did you mean {' or '.join(close)}?" if close else "list the actions of a release: --dry-run of ./inv release"
    )
    place = "the release has no such action, and " if graph.actions else ""
    raise UsageError(f"{name}: {place}none of this name ever ran on the store {store.root}", hint)


def _now(name: str, last: Record | None, context: Context, graph: Graph) -> Now:
    """What a run would do with the action, against what it did last."""
    version = context.options.version
    action = graph.actions.get(name)
    if action is None:
        return Now(version, "gone")
    done = Result()
    make_scheduler(context).replay(graph.closure([name]), done)
    waits = {r.action for r in action.inputs.values() if isinstance(r, Ref)} - set(done.outputs)
    parts = _parts(action, done, waits)
    if not waits and context.store.record(action.key(done.outputs)[0]):
        return Now(version, "kept")
    compare = _Compare(name, context.store, _current_roots(context), _makers(action))
    known = last.parts if last else {}
    if waits:  # an input that is not known yet cannot be told from the last one
        inputs = {n: d for n, d in known.get("inputs", {}).items() if n in parts["inputs"]}
        known = {**known, "inputs": inputs}
    changes = compare.changes(known, parts) if last else ()
    lost = () if changes or waits or not last else _lost(last, context.store)
    return Now(version, "waits" if waits else "runs", changes, tuple(sorted(waits)), lost)


def _parts(action: Action, done: Result, waits: set[str]) -> dict[str, Any]:
    """The parts of the action's key as far as they are known, lists as a record holds them."""
    inputs = {n: r for n, r in action.inputs.items() if not (isinstance(r, Ref) and r.action in waits)}
    known = Action(action.name, action.parameters, action.run, inputs)
    return known.key(done.outputs)[1]


def _lost(last: Record, store: Store) -> tuple[str, ...]:
    return tuple(n for n, o in sorted(last.outputs.items()) if not store.has(o.digest, o.size))


def _makers(action: Action) -> dict[str, str]:
    return {n: r.action for n, r in action.inputs.items() if isinstance(r, Ref)}


def _current_roots(context: Context) -> dict[str, Packages]:
    found: dict[str, Packages] = {}
    for arch, inputs in context.inputs.items():
        roots = [inputs.roots.find(role, arch) for role in inputs.roots.base.roots]
        roots += [layer_roots(role, arch, inputs)[0] for role in inputs.roots.base.layers]
        found |= {str(root.key): {p.name: p for p in root.packages} for root in roots}
    return found


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value with its path; tuples become lists, as they are in a record."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        yield path, _plain(value)
    else:
        yield path, value


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _modules(text: Any) -> dict[str, str]:
    """Module path to version and sum, of what `Inputs.identity` wrote; a path may stand in two versions."""
    fields = str(text or "").split(" ")
    found: dict[str, str] = {}
    for module, total in zip(fields[::2], fields[1::2], strict=False):
        path, _, version = module.rpartition("@")
        found[path] = f"{found[path]}, {version} {total}" if path in found else f"{version} {total}"
    return found


def _items(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[Item, ...]:
    names = sorted(n for n in {*old, *new} if old.get(n) != new.get(n))
    return tuple(Item(n, old.get(n), new.get(n)) for n in names)


def _words(old: list[Any], new: list[Any]) -> Iterator[Item]:
    """The words that differ, in order: of a command, or of several."""
    before, after = _split(old), _split(new)
    for tag, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            yield Item("", " ".join(before[a:b]) or None, " ".join(after[c:d]) or None)


def _split(value: Any) -> list[str]:
    """`-ldflags=-s -X a=b` holds several words, and only one of them may differ."""
    if isinstance(value, list):
        return [word for item in value for word in _split(item)]
    return str(value).split(" ")
