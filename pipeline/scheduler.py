"""Run a graph on all cores: longest known path first, within memory, resumable after any interruption.

One failure does not stop what does not depend on it. All decisions are made on the calling thread; workers only
run actions.
"""

import os
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import BuildError, Interrupted, PipelineError
from pipeline.graph import Action, Graph, Ref, Work, cached, estimate
from pipeline.model import Digest
from pipeline.report.progress import Progress
from pipeline.sandbox import Executor
from pipeline.store import Output, Record, Store

MARGIN = 1.25
"""A recorded peak is taken this much larger: the next run may do a little more at once."""
TICK = 0.5
"""Seconds between progress updates."""


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
        priority = graph.critical_seconds(self.store)
        finished: queue.SimpleQueue[tuple[str, Record | PipelineError, Path | None]] = queue.SimpleQueue()
        running: dict[str, int] = {}
        waiting = set(todo)
        stop = False
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="action") as pool:
            try:
                while waiting or running:
                    self._skip(graph, waiting, result)
                    ready = [] if stop else [n for n in waiting if all(d in result.outputs for d in graph.actions[n].dependencies)]
                    for name in sorted(ready, key=lambda n: (-priority[n], n)):
                        need = self.memory_of(graph.actions[name])
                        if len(running) >= self.jobs or (running and sum(running.values()) + need > self.memory):
                            continue
                        waiting.discard(name)
                        running[name] = need
                        pool.submit(self._work, graph.actions[name], dict(result.outputs), finished)
                        self.progress.start(name)
                    if not running:
                        break
                    try:
                        name, outcome, log = finished.get(timeout=TICK)
                    except queue.Empty:
                        self.progress.tick()
                        continue
                    del running[name]
                    if isinstance(outcome, Record):
                        result.records[name] = outcome
                        result.outputs[name] = dict(outcome.outputs)
                        result.ran.append(name)
                        self.progress.done(name, outcome)
                    elif isinstance(outcome, DamagedInput):
                        result.outputs.pop(outcome.maker, None)
                        waiting |= {name, outcome.maker}
                        self.progress.again(outcome.maker, name)
                    else:
                        result.failures.append(Failure(name, outcome, log))
                        self.progress.fail(name, outcome)
                        stop = stop or not self.keep_going
            except KeyboardInterrupt:
                self.cancel.set()
                self.progress.end()
                raise Interrupted("stopped; finished actions are kept", "run the same command to go on where it stopped") from None
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

    def _skip(self, graph: Graph, waiting: set[str], result: Result) -> None:
        lost = {f.name: f.name for f in result.failures} | result.skipped
        for name in [n for n in graph.order if n in waiting]:
            cause = next((lost[d] for d in graph.actions[name].dependencies if d in lost), None)
            if cause:
                waiting.discard(name)
                lost[name] = result.skipped[name] = cause

    def _work(self, action: Action, outputs: dict[str, dict[str, Output]], finished: Any) -> None:
        log: Path | None = None
        outcome: Record | PipelineError
        try:
            outcome, log = self._run(action, outputs)
        except PipelineError as error:
            outcome, log = error, getattr(error, "log", None)
        except Exception as error:  # an engine fault still ends as one failed action, with its place
            outcome = BuildError(f"{action.name}: the engine failed: {type(error).__name__}: {error}")
            outcome.__cause__ = error
        finished.put((action.name, outcome, log))

    def _run(self, action: Action, outputs: dict[str, dict[str, Output]]) -> tuple[Record, None]:
        key, parts, _ = cached(action, outputs, self.store)
        with self.store.exclusive(f"action-{key.hex}"):
            if record := self.store.record(key):  # another process was faster
                return record, None
            inputs = self._inputs(parts["inputs"], action)
            started = time.monotonic()
            with self.store.workspace() as folder, (folder / "log").open("w+b") as log:
                work = Work(action.name, inputs, folder, log, self.executor, self.cancel, self.share_of(action))
                try:
                    action.run(work)
                    log.flush()
                except OSError as error:
                    raise self._failed(BuildError(f"{action.name}: {error}"), action, folder) from error
                except PipelineError as error:
                    log.flush()
                    raise self._failed(error, action, folder) from error
                seconds = time.monotonic() - started
                made = {p.relative_to(work.out).as_posix(): self.store.add(p) for p in _files(work.out, action.name)}
                log_digest = self.store.add(folder / "log").digest
            record = Record(action.name, made, seconds, work.cpu, work.peak, log_digest, parts)
            self.store.remember(key, record)
            return record, None

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

    def _failed(self, error: PipelineError, action: Action, folder: Path) -> PipelineError:
        """Keep the log of a failed action where the user can read it."""
        kept = self.store.root / "logs" / f"{action.name.replace('/', '_')}.log"
        kept.parent.mkdir(exist_ok=True)
        (folder / "log").replace(kept)
        error.log = kept  # type: ignore[attr-defined]
        return error


def _files(folder: Path, action: str) -> list[Path]:
    """The regular files an action left; anything else there is its fault."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BuildError(f"{action}: {path.name} in /out is neither a file nor a folder")
        if path.is_file():
            found.append(path)
    return found


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
