"""`inv bench`: the pipeline against the plain tools, both measured in one run on one host; ratios are what counts.

Both sides start with sources on disk and empty compile caches. The plain side calls `go build` by hand with the flags
of the pipeline's own action and one shared compile cache; it checks nothing and keeps nothing.
"""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.context import CHECKOUT, Context
from pipeline.errors import HostError, UsageError
from pipeline.inputs import Inputs
from pipeline.model import Digest
from pipeline.plan import plan
from pipeline.process import run
from pipeline.release import release
from pipeline.report.progress import Progress
from pipeline.sandbox import INPUTS
from pipeline.store import Store
from pipeline.units import Unit

SHARED = ("blobs", "trees", "gomod", "locks-of-bases")
"""What a cold run may find: sources. Records and compile caches start empty."""
HASHED = 1 << 30
"""Bytes of the file that is hashed and copied."""
BARS = {"build": 1.0, "hash": 1.25, "store": 1.25, "compare": 1.25, "noop": 1.0, "peak": 200}
"""Ratios of wall time, pipeline to plain (80 % of a speed is a ratio of 1.25); seconds; MiB."""


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds of one side."""

    wall: float
    cpu: float


def run_bench(context: Context, *, as_json: bool) -> None:
    """Measure compiling the context's components, a run with nothing to do, hashing and copying; print the ratios."""
    say = (lambda _: None) if as_json else print
    units = [u for u in context.units if u.build.compiler == "go" and not any(map(u.build.uses_cgo, context.arches))]
    if not units:
        raise UsageError("nothing to compare: plain `go build` needs a component without C")
    with contextlib.redirect_stdout(sys.stderr):
        release(context)  # sources, roots and the reference result are in place
    names = ", ".join(u.name for u in units)
    say(f"cold build of {names} for {', '.join(context.arches)}")
    plain = _plain_build(units, context)
    say(f"  plain go build  {plain.wall:7.1f} s wall  {plain.cpu:7.1f} s CPU")
    ours = _pipeline_build(context)
    say(f"  inv release     {ours.wall:7.1f} s wall  {ours.cpu:7.1f} s CPU")
    noop = _noop(context)
    hashed, digest = _hashing(context.store)
    stored, copied = _copying(context.store)
    compared, once = _comparing(context.store)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    facts = {
        "build_ratio": round(ours.wall / plain.wall, 3),
        "build_cpu_ratio": round(ours.cpu / plain.cpu, 3),
        "noop_seconds": round(noop, 2),
        "hash_ratio": round(hashed / digest, 3),
        "store_ratio": round(stored / copied, 3),
        "compare_ratio": round(compared / once, 3),
        "engine_peak_mib": peak >> 20,
    }
    if as_json:
        print(json.dumps(facts | {"components": names, "arches": list(context.arches)}, indent=2))
        return
    rows = (
        ("cold build, wall", facts["build_ratio"], f"of plain go build  (bar {BARS['build']})"),
        ("cold build, CPU", facts["build_cpu_ratio"], "of plain go build"),
        ("nothing to do", facts["noop_seconds"], f"s wall, Python start included  (bar {BARS['noop']})"),
        ("hash 1 GiB", facts["hash_ratio"], f"of openssl dgst -sha256  (bar {BARS['hash']})"),
        ("store 1 GiB", facts["store_ratio"], f"of openssl dgst -sha256, sync and mv  (bar {BARS['store']})"),
        ("compare 1 GiB", facts["compare_ratio"], f"of hashing one of two equal files  (bar {BARS['compare']})"),
        ("engine peak", facts["engine_peak_mib"], f"MiB  (bar {BARS['peak']})"),
    )
    for what, figure, unit in rows:
        say(f"  {what:<18} {figure:>8}  {unit}")


@contextlib.contextmanager
def _timed(into: list[Cost]) -> Iterator[None]:
    def cpu() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in used)

    wall, before = time.monotonic(), cpu()
    yield
    into.append(Cost(time.monotonic() - wall, cpu() - before))


def _plain_build(units: list[Unit], context: Context) -> Cost:
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
    from pipeline.build.go import go_action

    action = go_action(unit, arch, context.release.values, inputs)
    out = work / "out" / f"{unit.name}-{arch}"
    out.mkdir()
    with inputs.source(unit) as source, inputs.modfile(unit, source) as modfile:
        places = {
            f"{INPUTS}/go": inputs.toolchain(unit),
            f"{INPUTS}/gomod": inputs.store.gomod,
            f"{INPUTS}/gocache": work / "cache",
            f"{INPUTS}/overlay": modfile.parent,
            "/out": out,
        }

        def host(text: str) -> str:
            for inside, outside in sorted(places.items(), reverse=True):  # "/rfo-in/go" also begins "/rfo-in/gomod"
                text = text.replace(inside, str(outside))
            return text

        environment = {k: host(v) for k, v in action.parameters["environment"].items()}
        environment |= {"PATH": os.defpath, "HOME": str(work), "TMPDIR": str(work / "tmp")}
        run([host(word) for word in action.parameters["command"]], env=environment, cwd=source)


def _pipeline_build(context: Context) -> Cost:
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
        names = plan(cold.release.values, cold.units, cold.inputs, packs=False).order
        sandboxed = sum(record.cpu for name in names if (record := cold.store.history(name)))
    return Cost(costs[0].wall, costs[0].cpu + sandboxed)


def _noop(context: Context) -> float:
    """Seconds of `./inv release` with everything in the store: the smallest of five, as other load only adds."""
    options = context.options
    command = [str(CHECKOUT / "inv"), "release", "--version", options.version, "--base", str(options.base)]
    command += [f"--arch={a}" for a in options.arches] + [f"--component={c}" for c in options.components]
    times = []
    for _ in range(5):
        started = time.monotonic()
        run(command)
        times.append(time.monotonic() - started)
    return min(times)


def _hashing(store: Store) -> tuple[float, float]:
    """Seconds of our hash and of openssl's over the same file, the smaller of three each, in turn."""
    ours, theirs = [], []
    with store.workspace() as work:
        file = _big_file(work)
        for _ in range(3):
            started = time.monotonic()
            Digest.of_file(file)
            ours.append(time.monotonic() - started)
            started = time.monotonic()
            run(["openssl", "dgst", "-sha256", str(file)])
            theirs.append(time.monotonic() - started)
    return min(ours), min(theirs)


def _copying(store: Store) -> tuple[float, float]:
    """Seconds of bringing a file into a store and of the plain tools that do the same: hash, then sync."""
    with store.workspace() as work:
        small = Store(work / "store")
        file = _big_file(work / "store" / "tmp")
        os.sync()
        started = time.monotonic()
        small.add(file)
        ours = time.monotonic() - started
        other = _big_file(work)
        os.sync()
        started = time.monotonic()
        run(["openssl", "dgst", "-sha256", str(other)])
        run(["sync", str(other)])
        run(["mv", str(other), str(work / "moved")])
        theirs = time.monotonic() - started
    return ours, theirs


def _comparing(store: Store) -> tuple[float, float]:
    """Seconds of comparing two equal files and of our hash over one of them, the smaller of three each, in turn."""
    from pipeline.proof.compare import compare

    ours, hashing = [], []
    with store.workspace() as work:
        file = _big_file(work)
        other = shutil.copyfile(file, work / "copy")
        for _ in range(3):
            started = time.monotonic()
            if compare(file, other, "big"):
                raise HostError("a copy of a file differs from it", "check the disk of this host")
            ours.append(time.monotonic() - started)
            started = time.monotonic()
            Digest.of_file(file)
            hashing.append(time.monotonic() - started)
    return min(ours), min(hashing)


def _big_file(folder: Path) -> Path:
    file = folder / "big"
    block = os.urandom(1 << 20)
    with file.open("wb") as out:
        for _ in range(HASHED >> 20):
            out.write(block)
    subprocess.run(["cat", str(file)], stdout=subprocess.DEVNULL, check=True)  # both sides read from memory
    return file
