"""Run a graph on all cores: longest known path first, within memory, resumable after any interruption.

One failure does not stop what does not depend on it. All decisions are made on the calling thread; workers only
run actions.
"""

import contextlib
import errno
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pipeline.errors import BuildError, Interrupted, PipelineError, StoreError
from pipeline.graph import Action, Graph, Ref, Work, cached, estimate
from pipeline.model import Digest
from pipeline.process import DISK_FULL
from pipeline.report.progress import Progress
from pipeline.sandbox import Executor
from pipeline.store import FULL, Output, Record, Store, store_error

MARGIN = 1.25
"""A recorded peak is taken this much larger: the next run may do a little more at once."""
TICK = 0.5
"""Seconds between progress updates."""
SAID = 1 << 16
"""Bytes at the end of a log in which the reason of a failure is looked for."""
REPAIRS = 3
"""How often one action's inputs are made again in a run; a store that damages more than that is broken."""


class DamagedInput(BuildError):
    """An input was damaged in the store and has been removed; `maker` can make it again."""

    def __init__(self, reason: str, maker: str) -> None:
        super().__init__(reason)
        self.maker = maker


@dataclass(frozen=True)
class Failure:
    """An action that failed, or could not run because of one that did."""

    name: str
    error: PipelineError
    log: Path | None


@dataclass
class Result:
    """What came of a graph."""

    outputs: dict[str, dict[str, Output]] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Action to the failed action it needed."""


@dataclass
class _State:
    """A graph on its way."""

    graph: Graph
    result: Result
    waiting: set[str]
    running: dict[str, int] = field(default_factory=dict)
    """Action to the memory reserved for it."""
    repairs: Counter[str] = field(default_factory=Counter)

    def is_ready(self, name: str) -> bool:
        """Whether all that it depends on is there."""
        return all(d in self.result.outputs for d in self.graph.actions[name].dependencies)


@dataclass
class Scheduler:
    """Runs graphs against one store."""

    store: Store
    executor: Executor
    progress: Progress
    jobs: int
    memory: int
    """Bytes that running actions may need together."""
    keep_going: bool = True
    cancel: threading.Event = field(default_factory=threading.Event)

    def run(self, graph: Graph) -> Result:
        """Run what has no record. Raises Interrupted; failures are in the result."""
        result = Result()
        self.replay(graph, result)
        todo = [n for n in graph.order if n not in result.outputs]
        if not todo:
            return result
        self.progress.begin({n: estimate(graph.actions[n], self.store) for n in todo}, len(graph.actions))
        self.executor.check()
        self.store.sweep()
        priority = graph.critical_seconds(self.store)
        finished: queue.SimpleQueue[tuple[str, Record | PipelineError, bool]] = queue.SimpleQueue()
        state = _State(graph, result, set(todo))
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="action") as pool:
            try:
                while state.waiting or state.running:
                    self._skip(state)
                    for name in self._startable(state, priority):
                        state.waiting.discard(name)
                        state.running[name] = self.memory_of(graph.actions[name])
                        pool.submit(self._work, graph.actions[name], dict(result.outputs), finished)
                        self.progress.start(name)
                    if not state.running:
                        break
                    try:
                        self._settle(state, *finished.get(timeout=TICK))
                    except queue.Empty:
                        self.progress.tick()
            except KeyboardInterrupt:
                self.cancel.set()
                self.progress.end()
                reason = "stopped; finished actions are kept"
                raise Interrupted(reason, "run the same command to go on where it stopped") from None
            except BaseException:
                self.cancel.set()
                raise
        self.progress.end()
        return result

    def replay(self, graph: Graph, result: Result) -> None:
        """Take every action whose record is there; what depends on a missing one waits."""
        for name in graph.order:
            action = graph.actions[name]
            if all(d in result.outputs for d in action.dependencies):
                _, _, record = cached(action, result.outputs, self.store)
                if record:
                    result.outputs[name] = dict(record.outputs)
                    result.records[name] = record

    def memory_of(self, action: Action) -> int:
        """Bytes to reserve: the recorded peak where there is one, but never more than is there at all."""
        last = self.store.history(action.name)
        need = int(last.peak * MARGIN) if last and last.peak else action.memory
        return min(need, self.memory)

    def share_of(self, action: Action) -> int:
        """Bytes an action may plan with: never more than all jobs together may take, never less than it declares."""
        return max(action.memory, self.memory // self.jobs)

    def _startable(self, state: "_State", priority: Mapping[str, float]) -> list[str]:
        """What can start now beside what runs: the longest first, as far as workers and memory go."""
        if state.result.failures and not self.keep_going:
            return []
        chosen: list[str] = []
        used = sum(state.running.values())
        for name in sorted(filter(state.is_ready, state.waiting), key=lambda n: (-priority[n], n)):
            count, need = len(state.running) + len(chosen), self.memory_of(state.graph.actions[name])
            if count < self.jobs and (count == 0 or used + need <= self.memory):
                chosen.append(name)
                used += need
        return chosen

    def _settle(self, state: "_State", name: str, outcome: Record | PipelineError, ran: bool) -> None:
        """Take note of how an action ended."""
        result = state.result
        del state.running[name]
        if isinstance(outcome, Record):
            result.records[name] = outcome
            result.outputs[name] = dict(outcome.outputs)
            result.ran += [name] if ran else []
            self.progress.done(name, outcome)
        elif isinstance(outcome, DamagedInput) and state.repairs[name] < REPAIRS:
            state.repairs[name] += 1
            state.waiting.add(name)
            self.progress.wait(name)
            made = result.outputs.get(outcome.maker, {})
            if not all(self.store.has(o.digest, o.size) for o in made.values()):  # else another needed it and said so
                del result.outputs[outcome.maker]
                state.waiting.add(outcome.maker)
                self.progress.again(outcome.maker, name)
        else:
            result.failures.append(Failure(name, outcome, outcome.log))
            self.progress.fail(name, outcome)

    def _skip(self, state: "_State") -> None:
        lost = {f.name: f.name for f in state.result.failures} | state.result.skipped
        for name in [n for n in state.graph.order if n in state.waiting]:
            cause = next((lost[d] for d in state.graph.actions[name].dependencies if d in lost), None)
            if cause:
                state.waiting.discard(name)
                lost[name] = state.result.skipped[name] = cause

    def _work(self, action: Action, outputs: dict[str, dict[str, Output]], finished: Any) -> None:
        outcome: Record | PipelineError
        ran = False
        try:
            outcome, ran = self._run(action, outputs)
        except PipelineError as error:
            outcome = error
        except BaseException as error:  # an engine fault still ends as one failed action, with its place
            outcome = BuildError(f"{action.name}: the engine failed: {type(error).__name__}: {error}")
            outcome.__cause__ = error
        finished.put((action.name, outcome, ran))

    def _run(self, action: Action, outputs: dict[str, dict[str, Output]]) -> tuple[Record, bool]:
        """The action's record, and whether it ran for it here."""
        key, _ = action.key(outputs)
        with self.store.exclusive(f"action-{key.hex}", self.cancel):
            _, parts, record = cached(action, outputs, self.store)
            if record:  # another process was faster
                return record, False
            inputs = self._inputs(parts["inputs"], action)
            with self.store.workspace() as folder, (folder / "log").open("w+b") as log:
                started = time.monotonic()
                try:
                    share = self.share_of(action)
                    work = Work(action.name, inputs, folder, log, self.executor, self.cancel, share, self.memory)
                    action.run(work)
                    seconds = time.monotonic() - started
                    files = _files(work.out, action.name)
                    made = {p.relative_to(work.out).as_posix(): self.store.add(p) for p in files}
                except OSError as error:
                    fault = store_error(error, folder) if error.errno in FULL else BuildError(f"{action.name}: {error}")
                    raise self._failed(fault, action, log) from error
                except PipelineError as error:
                    raise self._failed(self._blamed(error, log), action, log) from error
                log.flush()
                log_digest = self.store.add(folder / "log").digest
            record = Record(action.name, made, seconds, work.cpu, work.peak, log_digest, parts)
            self.store.remember(key, record)
            return record, True

    def _inputs(self, wanted: dict[str, str], action: Action) -> dict[str, Path]:
        inputs = {}
        for name, text in wanted.items():
            path = self.store.use(Digest.parse(text))
            if path is None:
                maker = action.inputs[name]
                reason = f"{action.name}: input {name} ({text}) was damaged in the store and has been removed"
                raise DamagedInput(reason, maker.action) if isinstance(maker, Ref) else BuildError(reason)
            inputs[name] = path
        return inputs

    def _blamed(self, error: PipelineError, log: IO[bytes]) -> PipelineError:
        """The error of a failed command, or a StoreError if the command says that the disk was full."""
        log.flush()
        log.seek(max(log.seek(0, os.SEEK_END) - SAID, 0))
        if not isinstance(error, BuildError) or not DISK_FULL.search(log.read(SAID)):
            return error
        full = store_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), self.store.root)
        return StoreError(f"{error.reason}; {full.reason}", full.hint)

    def _failed(self, error: PipelineError, action: Action, log: IO[bytes]) -> PipelineError:
        """Keep the log of a failed action where the user can read it, if the disk still takes it."""
        kept = self.store.root / "logs" / f"{action.name.replace('/', '_')}.log"
        with contextlib.suppress(OSError):
            log.flush()
            kept.parent.mkdir(exist_ok=True)
            Path(log.name).replace(kept)
            error.log = kept
        return error


def _files(folder: Path, action: str) -> list[Path]:
    """The regular files an action left; anything else there is its fault, and so is a folder that cannot be read."""

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        for path in (Path(parent, n) for n in [*folders, *files]):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise BuildError(f"{action}: {path.name} in /out is neither a file nor a folder")
        found += [Path(parent, n) for n in files]
    return sorted(found)


def available_memory() -> int:
    """Bytes that can be given to actions: nine tenths of what is free, within the control group's limit."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(limit).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            free = min(free, int(text))
    return free * 9 // 10


def default_jobs() -> int:
    """Actions at once: compilers use all cores by themselves, so half as many, and two to overlap links."""
    return max(2, len(os.sched_getaffinity(0)) // 2)
