"""Actions: pure steps from named input digests and parameters to named output digests. Planning; no scheduling.

The key of an action is the SHA-256 of canonical JSON over everything that can reach its outputs. Inputs that other
actions produce enter by content, not by the key of their maker: a step whose output did not change changes nothing
after it.
"""

import json
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from pipeline.errors import BuildError, DefinitionError
from pipeline.model import Digest
from pipeline.sandbox import Executor, Sandbox, Usage
from pipeline.store import Output, Record, Store

CAPTURED = 4 << 20
"""Bytes kept of what a captured command prints."""
DEFAULT_SECONDS = 5.0
"""Estimate for an action that never ran here and whose maker gives none."""


@dataclass(frozen=True)
class Ref:
    """An output of another action, by names."""

    action: str
    output: str


@dataclass
class Work:
    """What a running action works with: its inputs as checked files, and empty folders."""

    name: str
    inputs: Mapping[str, Path]
    folder: Path
    log: IO[bytes]
    executor: Executor
    cancel: threading.Event
    memory: int
    """Bytes it may plan with."""
    limit: int = 0
    """Bytes beyond which a sandbox is ended that says nothing of its own; 0 means none."""
    cpu: float = 0.0
    peak: int = 0

    def __post_init__(self) -> None:
        for path in (self.out, self.build):
            path.mkdir()

    @property
    def out(self) -> Path:
        """Each file here becomes an output, named by its path below."""
        return self.folder / "out"

    @property
    def build(self) -> Path:
        """Scratch space."""
        return self.folder / "build"

    def digest(self, name: str) -> Digest:
        """The digest of an input: the store calls files by theirs."""
        return Digest(self.inputs[name].name)

    def execute(self, sandbox: Sandbox) -> None:
        """Run a sandbox; raises BuildError if it fails."""
        usage = self.attempt(sandbox)
        if usage.stopped:
            raise BuildError(f"{self.name}: {usage.stopped}")
        if usage.status:
            raise BuildError(f"{self.name}: the command ended with status {usage.status}")

    def attempt(self, sandbox: Sandbox) -> Usage:
        """Run a sandbox and return how it ended."""
        return self._run(sandbox, self.log)

    def _run(self, sandbox: Sandbox, log: IO[bytes]) -> Usage:
        usage = self.executor.run(replace(sandbox, memory=sandbox.memory or self.limit), log, self.cancel)
        self.cpu += usage.cpu
        self.peak = max(self.peak, usage.peak)
        return usage

    def capture(self, sandbox: Sandbox) -> tuple[Usage, str]:
        """Run a sandbox and return how it ended and what it printed, which the log gets as well."""
        with tempfile.TemporaryFile(dir=self.folder) as output:
            usage = self._run(sandbox, output)
            output.seek(0)
            printed = output.read(CAPTURED)
        self.log.write(printed)
        _, _, text = printed.partition(b"\n")  # the first line is the command
        return usage, text.decode(errors="replace")


@dataclass(frozen=True)
class Action:
    """One step."""

    name: str
    """Unique in the graph: `build/coredns/arm64`."""
    parameters: Mapping[str, Any]
    """Everything besides the inputs that can reach the outputs; canonical JSON values."""
    run: Callable[[Work], None]
    inputs: Mapping[str, Digest | Ref] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    """Actions that must succeed first although no output of theirs is read (checks)."""
    judges: bool = False
    """Whether it only judges what others made: nothing is made of its outputs."""
    publish: Mapping[str, str] = field(default_factory=dict)
    """Outputs that a release publishes, and where in its folder; `{hex}` stands for the output's SHA-256."""
    memory: int = 256 << 20
    """Bytes it needs at its peak."""
    disk: int = 64 << 20
    """Bytes that its outputs and what it leaves in compile caches take, where no record tells."""
    seconds: float = DEFAULT_SECONDS
    """Estimated wall time on an idle host."""

    @property
    def dependencies(self) -> tuple[str, ...]:
        """The actions that must be done before it."""
        refs = [r.action for r in self.inputs.values() if isinstance(r, Ref)]
        return tuple(sorted({*refs, *self.after}))

    def key(self, outputs: Mapping[str, Mapping[str, Output]]) -> tuple[Digest, dict[str, Any]]:
        """Key and its parts, given the outputs of the actions before it."""
        inputs = {n: str(resolve(r, outputs)) for n, r in self.inputs.items()}
        parts = {"inputs": inputs, "parameters": dict(self.parameters)}
        return Digest.of_bytes(canonical(parts)), parts


class Graph:
    """Actions by name; every dependency exists and there is no cycle."""

    def __init__(self, actions: list[Action]) -> None:
        self.actions = {a.name: a for a in actions}
        if len(self.actions) != len(actions):
            names = [a.name for a in actions]
            raise DefinitionError(f"two actions are called {next(n for n in names if names.count(n) > 1)}")
        self.order = self._sort()

    def _sort(self) -> list[str]:
        """A topological order, stable for equal graphs."""
        done: dict[str, bool] = {}
        order: list[str] = []

        def visit(name: str, path: tuple[str, ...]) -> None:
            if name not in self.actions:
                raise DefinitionError(f"action {path[-1]} depends on {name}, which does not exist")
            if name in done:
                if not done[name]:
                    raise DefinitionError(f"actions depend on each other: {' -> '.join([*path, name])}")
                return
            done[name] = False
            for dependency in self.actions[name].dependencies:
                visit(dependency, (*path, name))
            done[name] = True
            order.append(name)

        for name in sorted(self.actions):
            visit(name, ())
        return order

    def closure(self, names: list[str]) -> "Graph":
        """The graph of `names` and all that they depend on."""
        wanted, pending = set(), list(names)
        while pending:
            name = pending.pop()
            if name not in wanted:
                wanted.add(name)
                pending += self.actions[name].dependencies
        return Graph([a for n, a in self.actions.items() if n in wanted])

    def after(self, prefix: str) -> set[str]:
        """The actions whose names begin with `prefix`, and all that depend on them."""
        found: set[str] = set()
        for name in self.order:
            if name.startswith(prefix) or not found.isdisjoint(self.actions[name].dependencies):
                found.add(name)
        return found

    def narrow(self, other: "Graph") -> None:
        """Become `other`, which has fewer actions."""
        self.actions, self.order = other.actions, other.order

    def without_checks(self) -> "Graph":
        """The same without the actions that only judge."""
        return Graph([replace(a, after=()) for a in self.actions.values() if not a.judges])

    def critical_seconds(self, store: Store) -> dict[str, float]:
        """For each action its time and the longest that must follow it: the order in which to start."""
        follow: dict[str, float] = dict.fromkeys(self.actions, 0.0)
        for name in reversed(self.order):
            follow[name] += estimate(self.actions[name], store)
            for dependency in self.actions[name].dependencies:
                follow[dependency] = max(follow[dependency], follow[name])
        return follow


def estimate(action: Action, store: Store) -> float:
    """Seconds the action will take: as recorded when it last ran here, else as its maker says."""
    last = store.history(action.name)
    return last.seconds if last else action.seconds


def resolve(reference: Digest | Ref, outputs: Mapping[str, Mapping[str, Output]]) -> Digest:
    """The digest of an input."""
    if isinstance(reference, Digest):
        return reference
    try:
        return outputs[reference.action][reference.output].digest
    except KeyError:
        raise BuildError(f"{reference.action} did not produce {reference.output}") from None


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and no floats: equal values have equal bytes. Raises TypeError for others."""
    _refuse_ambiguous(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _refuse_ambiguous(value: Any) -> None:
    """Floats and keys that are not text have no one spelling in JSON."""
    if isinstance(value, dict):
        if not all(isinstance(k, str) for k in value):
            raise TypeError(f"a key that is not text: {next(k for k in value if not isinstance(k, str))!r}")
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _refuse_ambiguous(item)
    elif not isinstance(value, str | int | None):
        raise TypeError(f"{type(value).__name__} in what becomes a key: {value!r:.80}")


def cached(
    action: Action, outputs: Mapping[str, Mapping[str, Output]], store: Store
) -> tuple[Digest, dict[str, Any], Record | None]:
    """The action's key, its parts and its record if there is one."""
    key, parts = action.key(outputs)
    record = store.record(key)
    if record and canonical(record.parts) != canonical(parts):  # the record of another action under this key
        record = None
    return key, parts, record
