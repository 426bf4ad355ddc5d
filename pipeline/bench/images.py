"""Images: assembling all of them, packing one changed program again, and writing a bundle."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

from pipeline.context import Context, Options
from pipeline.errors import BuildError, HostError
from pipeline.graph import Graph, Ref, Work
from pipeline.image.layer import BLOB
from pipeline.model import Digest
from pipeline.pack.compress import ZSTD
from pipeline.process import run
from pipeline.release import make_graph, make_scheduler
from pipeline.report.progress import Progress
from pipeline.scheduler import Result, Scheduler
from pipeline.store import Store

RUNS = 3
LAYOUT = "layout/images"


@dataclass(frozen=True)
class Made:
    """A whole release on all of its architectures: what is packed in it, and what came of that."""

    context: Context
    graph: Graph
    result: Result


@dataclass(frozen=True)
class Repacked:
    """What packing a release again came to, one of whose programs has other bytes."""

    layers: int
    """Of programs and of the base."""
    expected: int
    """Those that hold the program; several images may share one."""
    charts: int
    """Layers of charts, which name images by digest."""
    seconds: float


def made_before(context: Context) -> Made:
    """The whole release, as far as compiling goes from the store alone; what is not packed yet is packed.

    Raises PipelineError if the store lacks a compiled program.
    """
    options = Options(context.options.version, context.options.base, offline=True, locked=True)
    whole = Context(options, Progress(stream=StringIO()), context.checkout)
    whole.store = context.store
    everything = make_graph(whole).without_checks()
    wanted = [n for n in everything.order if n == LAYOUT or n.startswith(("bundle/all/", "signed-metadata/"))]
    graph, scheduler, done = everything.closure(wanted), make_scheduler(whole), Result()
    scheduler.replay(graph, done)
    if missing := [n for n in graph.order if n.startswith(("build/", "generate/")) and n not in done.outputs]:
        named = f" --base {options.base}" if options.base else ""
        raise HostError(
            f"{len(missing)} programs are not compiled, such as {missing[0]}",
            f"./inv release --version {options.version}{named}",
        )
    return Made(whole, graph, run_graph(scheduler, graph))


def assembling(made: Made) -> float:
    """Seconds of making all images of all architectures from layers that are in the store, the least of three."""
    return min(_assemble(made, {})[1] for _ in range(RUNS))


def repacking(made: Made, build: str) -> Repacked:
    """The same where the action `build` made a program that has one more byte."""
    program = min(made.result.outputs[build])
    changed = {(build, program): used(made, build, program).read_bytes() + b"\n"}
    ran, seconds = _assemble(made, changed)
    layers = [n for n in ran if n.startswith("layer/")]
    charts = [n for n in layers if _reads(made.graph, n, "chart/")]
    expected = {_key(made, n) for n in made.graph.order if n.startswith("layer/") and _reads(made.graph, n, build)}
    return Repacked(len(layers) - len(charts), len(expected), len(charts), seconds)


def doubled(made: Made) -> int:
    """How many layers were compressed although another one has the same content; equal keys are one run."""
    layers = [n for n in made.graph.order if n.startswith("layer/")]
    return len({_key(made, n) for n in layers}) - len({made.result.outputs[n][BLOB].digest for n in layers})


def bundling(made: Made, arch: str) -> tuple[float, float]:
    """Seconds of writing the bundle of all images, and of zstd over the same plain archive, the least of three each.

    Both read files that are in memory, and end when what they wrote is on disk. Raises HostError without zstd.
    """
    zstd = shutil.which("zstd")
    if not zstd:
        raise HostError("there is no zstd to compare with", "dnf install zstd, or apt-get install zstd")
    action = made.graph.actions[f"bundle/all/{arch}"]
    inputs = {n: used(made, r.action, r.output) for n, r in action.inputs.items() if isinstance(r, Ref)}
    scheduler = make_scheduler(made.context)
    ours, theirs = [], []
    with made.context.store.workspace() as folder, (folder / "log").open("w+b") as log:
        for attempt in range(RUNS):
            mine = folder / str(attempt)
            mine.mkdir()
            work = Work(
                action.name, inputs, mine, log, scheduler.executor, threading.Event(), scheduler.share_of(action)
            )
            started = time.monotonic()
            action.run(work)
            (bundle,) = work.out.glob("*.tar.zst")
            run(["sync", str(bundle)])
            ours.append(time.monotonic() - started)
            plain = folder / "plain.tar"
            if not plain.exists():
                run([zstd, "--quiet", "--decompress", str(bundle), "-o", str(plain)])
                run(["sync", str(plain)])
            target = folder / "theirs"
            started = time.monotonic()
            run([zstd, *ZSTD[1:3], "--quiet", str(plain), "-o", str(target)])
            run(["sync", str(target)])
            theirs.append(time.monotonic() - started)
            target.unlink()
            bundle.unlink()
    return min(ours), min(theirs)


def only(made: Made, arch: str) -> Graph:
    """What is packed of the release for one architecture, where it is made for that one alone."""
    context = Context(replace(made.context.options, arches=(arch,)), Progress(stream=StringIO()), made.context.checkout)
    context.store = made.context.store
    return make_graph(context).without_checks()


def used(made: Made, action: str, output: str) -> Path:
    """A file that an action made, checked. Raises BuildError if it was damaged."""
    path = made.context.store.use(made.result.outputs[action][output].digest)
    if path is None:
        raise BuildError(f"{output} of {action} was damaged in the store and has been removed", "run the command again")
    return path


def _assemble(made: Made, changed: Mapping[tuple[str, str], bytes]) -> tuple[list[str], float]:
    """Make the layout in a store that has programs and layers alone; the actions that ran, and seconds."""
    graph = made.graph.closure([LAYOUT])
    with remembering(made, graph, lambda n: n.startswith(("build/", "generate/", "layer/")), changed) as scheduler:
        started = time.monotonic()
        result = run_graph(scheduler, graph)
        return result.ran, time.monotonic() - started


@contextlib.contextmanager
def remembering(
    made: Made, graph: Graph, keep: Callable[[str], bool], changed: Mapping[tuple[str, str], bytes] | None = None
) -> Iterator[Scheduler]:
    """A scheduler on a store of its own, which has what the actions made that `keep` takes, some of it `changed`.

    `changed` are other bytes, by action and output.
    """
    with made.context.store.workspace() as work:
        store = Store(work)
        for name in filter(keep, graph.order):
            record, outputs = made.result.records[name], dict(made.result.outputs[name])
            for output in outputs.values():
                _link(made.context.store.blob(output.digest), store.blob(output.digest))
            for (action, file), data in (changed or {}).items():
                if action == name:
                    outputs[file] = store.add_bytes(data)
            key, _ = graph.actions[name].key(made.result.outputs)
            store.remember(key, replace(record, outputs=outputs))
        yield replace(make_scheduler(made.context), store=store)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.link(source, target)


def _key(made: Made, name: str) -> Digest:
    key, _ = made.graph.actions[name].key(made.result.outputs)
    return key


def _reads(graph: Graph, name: str, prefix: str) -> bool:
    """Whether an action reads what one whose name begins with `prefix` made."""
    return any(isinstance(r, Ref) and r.action.startswith(prefix) for r in graph.actions[name].inputs.values())


def run_graph(scheduler: Scheduler, graph: Graph) -> Result:
    """Run a graph; raises the first failure."""
    result = scheduler.run(graph)
    if result.failures:
        raise result.failures[0].error
    return result
