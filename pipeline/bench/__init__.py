"""`inv bench`: the pipeline against the plain tools, both measured in one run on one host; ratios are what counts.

Both sides start with sources on disk and empty compile caches. The plain side calls `go build` by hand with the flags
of the pipeline's own action and one shared compile cache; it checks nothing and keeps nothing.
"""

import contextlib
import json
import resource
import sys
import time

from pipeline.bench.compiling import pipeline_build, plain_build, proof_build
from pipeline.bench.files import comparing, copying, hashing
from pipeline.bench.scale import growth
from pipeline.context import CHECKOUT, Context
from pipeline.errors import UsageError
from pipeline.process import run
from pipeline.release import release

MANY = 10
"""How many times as many components the synthetic checkout has."""
BARS = {
    "build": 1.0,
    "hash": 1.25,
    "store": 1.25,
    "compare": 1.25,
    "proof": 1.15,
    "noop": 1.0,
    "growth": 2.0,
    "peak": 200,
}
"""Ratios of wall time, pipeline to plain (80 % of a speed is a ratio of 1.25); seconds; MiB."""


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
    plain = plain_build(units, context)
    say(f"  plain go build  {plain.wall:7.1f} s wall  {plain.cpu:7.1f} s CPU")
    ours = pipeline_build(context)
    say(f"  inv release     {ours.wall:7.1f} s wall  {ours.cpu:7.1f} s CPU")
    proof = proof_build(context)
    say(f"  inv rebuild     {proof.wall:7.1f} s wall  {proof.cpu:7.1f} s CPU")
    noop = _noop(context)
    one, many = growth(context, MANY)
    hashed, digest = hashing(context.store)
    stored, copied = copying(context.store)
    compared, once = comparing(context.store)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    facts = {
        "build_ratio": round(ours.wall / plain.wall, 3),
        "build_cpu_ratio": round(ours.cpu / plain.cpu, 3),
        "proof_ratio": round(proof.wall / ours.wall, 3),
        "proof_cpu_ratio": round(proof.cpu / ours.cpu, 3),
        "noop_seconds": round(noop, 2),
        "noop_growth": round(many / one, 2),
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
        ("proof, wall", facts["proof_ratio"], f"of the pipeline's cold build  (bar {BARS['proof']})"),
        (
            "proof, CPU",
            facts["proof_cpu_ratio"],
            "of the pipeline's; each sandbox has a processor less, so name several",
        ),
        ("nothing to do", facts["noop_seconds"], f"s wall, Python start included  (bar {BARS['noop']})"),
        (f"{MANY} x components", facts["noop_growth"], f"of its time with nothing to do  (bar {BARS['growth']})"),
        ("hash 1 GiB", facts["hash_ratio"], f"of openssl dgst -sha256  (bar {BARS['hash']})"),
        ("store 1 GiB", facts["store_ratio"], f"of openssl dgst -sha256, sync and mv  (bar {BARS['store']})"),
        ("compare 1 GiB", facts["compare_ratio"], f"of hashing one of two equal files  (bar {BARS['compare']})"),
        ("engine peak", facts["engine_peak_mib"], f"MiB  (bar {BARS['peak']})"),
    )
    for what, figure, unit in rows:
        say(f"  {what:<18} {figure:>8}  {unit}")


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
