"""Compiling cold: by hand with `go build`, by the pipeline, and by a proof; each in its own compile cache."""

import contextlib
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.context import Context
from pipeline.inputs import Inputs
from pipeline.plan import plan
from pipeline.process import run
from pipeline.proof.prover import Prover
from pipeline.release import release
from pipeline.report.progress import Progress
from pipeline.sandbox import INPUTS
from pipeline.store import Store
from pipeline.units import Unit

SHARED = ("blobs", "trees", "gomod", "locks-of-bases")
"""What a cold run may find: sources and roots. Records and compile caches start empty."""


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds of one side."""

    wall: float
    cpu: float


@contextlib.contextmanager
def _timed(into: list[Cost]) -> Iterator[None]:
    def cpu() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in used)

    wall, before = time.monotonic(), cpu()
    yield
    into.append(Cost(time.monotonic() - wall, cpu() - before))


def plain_build(units: list[Unit], context: Context) -> Cost:
    """Each unit for each architecture by hand, one after the other, as a person with a script would."""
    costs: list[Cost] = []
    with context.store.workspace() as work:
        for folder in ("cache", "tmp", "out"):
            (work / folder).mkdir()
        with _timed(costs):
            for arch in context.arches:
                for unit in units:
                    _by_hand(unit, arch, context.inputs[arch], context, work)
    return costs[0]


def _by_hand(unit: Unit, arch: str, inputs: Inputs, context: Context, work: Path) -> None:
    out = work / "out" / f"{unit.name}-{arch}"
    out.mkdir()
    with on_host(unit, arch, context, inputs, cache=work / "cache", out=out) as (command, environment, source):
        run(command, env={**environment, "HOME": str(work), "TMPDIR": str(work / "tmp")}, cwd=source)


@contextlib.contextmanager
def on_host(
    unit: Unit, arch: str, context: Context, inputs: Inputs, *, cache: Path, out: Path
) -> Iterator[tuple[list[str], dict[str, str], Path]]:
    """The command, environment and folder of the pipeline's own action, as they are outside of a sandbox."""
    from pipeline.build.go import go_action

    action = go_action(unit, arch, context.release.values, inputs)
    with inputs.source(unit) as source, inputs.modfile(unit, source) as modfile:
        places = {
            f"{INPUTS}/go": inputs.toolchain(unit),
            f"{INPUTS}/gomod": inputs.store.gomod,
            f"{INPUTS}/gocache": cache,
            f"{INPUTS}/overlay": modfile.parent,
            "/out": out,
        }

        def host(text: str) -> str:
            for inside, outside in sorted(places.items(), reverse=True):  # "/rfo-in/go" also begins "/rfo-in/gomod"
                text = text.replace(inside, str(outside))
            return text

        environment = {k: host(v) for k, v in action.parameters["environment"].items()}
        yield [host(word) for word in action.parameters["command"]], environment | {"PATH": os.defpath}, source


def pipeline_build(context: Context) -> Cost:
    """The same through the pipeline, in a store that has the sources and nothing else."""
    costs: list[Cost] = []
    with context.store.workspace() as work:
        for name in SHARED:
            (work / "store").mkdir(exist_ok=True)
            (work / "store" / name).symlink_to(context.store.root / name)
        cold = Context(replace(context.options), Progress(stream=(work / "log").open("w")), context.checkout)
        cold.store = Store(work / "store")
        with _timed(costs):
            release(cold)
        # What runs in a sandbox is not this process's child; its record has what it used.
        names = plan(cold.release, cold.units, cold.inputs, packs=None).order
        sandboxed = sum(record.cpu for name in names if (record := cold.store.history(name)))
    return Cost(costs[0].wall, costs[0].cpu + sandboxed)


def proof_build(context: Context) -> Cost:
    """The same as a proof does it: every circumstance varied, from sources and roots that are on disk."""
    costs: list[Cost] = []
    prover = Prover(context, {name: lock.render().encode() for name, lock in context.base_locks.items()})
    chosen, _ = prover.possible()
    with _timed(costs), prover.attempt(chosen, ready=True) as attempt:
        pass
    return Cost(costs[0].wall, attempt.cpu)
