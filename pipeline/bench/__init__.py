"""`inv bench`: the pipeline against the plain tools, both measured in one run on one host; ratios are what counts.

Compiling starts with sources on disk and empty compile caches on both sides. The plain side calls `go build` by hand
with the flags of the pipeline's own action and one shared compile cache; it checks nothing and keeps nothing.

Images are measured with what a whole release compiled and the store still has. What cannot be measured on this host is
skipped, and said.
"""

import contextlib
import json
import resource
import sys
import time
from typing import Any

from pipeline.bench.builders import against_docker, against_ko
from pipeline.bench.compiling import pipeline_build, plain_build, proof_build
from pipeline.bench.files import comparing, copying, hashing
from pipeline.bench.images import assembling, bundling, doubled, made_before, repacking
from pipeline.bench.packages import packaging
from pipeline.bench.scale import growth
from pipeline.bench.verify import verifying
from pipeline.context import CHECKOUT, Context
from pipeline.errors import HostError, PipelineError, UsageError
from pipeline.pack.compress import ZSTD
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
    "images": 3.0,
    "bundle": 1.11,
    "image": 1.0,
    "packages": 1.2,
    "verify": 1.25,
}
"""Ratios of wall time, pipeline to plain (80 % of a speed is a ratio of 1.25); seconds; MiB."""

Row = tuple[str, Any, str]
"""What was measured, the figure, and its unit with the bar."""


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
    images, image_rows = _images(context)
    verified, verify_row = _verifying(context)
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
        print(json.dumps(facts | images | verified | {"components": names, "arches": list(context.arches)}, indent=2))
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
    for what, figure, unit in (*rows, *image_rows, verify_row):
        say(f"  {what:<18} {figure:>8}  {unit}")


def _images(context: Context) -> tuple[dict[str, Any], list[Row]]:
    """Facts and rows about images; what this host lacks is a row that says so."""
    facts: dict[str, Any] = {}
    rows: list[Row] = []
    try:
        made = made_before(context)
    except PipelineError as error:
        return facts, [("images", "skipped", error.render())]
    component, arch = context.units[0].component, context.arches[0]
    facts["images_seconds"] = round(assembling(made), 2)
    again = repacking(made, context.units[0].action("build", arch))
    facts |= {"repacked_layers": again.layers, "repacked_seconds": round(again.seconds, 2)}
    facts["doubled_layers"] = doubled(made)
    rows += [
        ("all images", facts["images_seconds"], f"s from layers that are there, no checks  (bar {BARS['images']})"),
        (
            "one new program",
            again.layers,
            f"of all layers packed again  (bar {again.expected}), {again.charts} of charts, {again.seconds:.1f} s",
        ),
        ("layers doubled", facts["doubled_layers"], "compressed although another has the same content  (bar 0)"),
    ]
    try:
        ours, plain = bundling(made, arch)
        facts["bundle_ratio"] = round(ours / plain, 3)
        rows.append(("write a bundle", facts["bundle_ratio"], f"of zstd {' '.join(ZSTD[1:3])}  (bar {BARS['bundle']})"))
    except HostError as error:
        rows.append(("write a bundle", "skipped", error.render()))
    try:
        ours, plain = against_ko(made, component)
        facts["ko_ratio"] = round(ours / plain, 3)
        rows.append(
            ("image, pure Go", facts["ko_ratio"], f"of ko build, sources checked before  (bar {BARS['image']})")
        )
    except HostError as error:
        rows.append(("image, pure Go", "skipped", error.render()))
    try:
        name, ours, plain, saved = against_docker(made)
        facts |= {"docker_ratio": round(ours / saved, 3), "docker_uncompressed_ratio": round(ours / plain, 3)}
        note = f"of docker build and save | gzip for {name}  (bar {BARS['image']}); {ours / plain:.2f} of docker build"
        rows.append(("image, packages", facts["docker_ratio"], f"{note}, which compresses nothing"))
    except HostError as error:
        rows.append(("image, packages", "skipped", error.render()))
    try:
        ours, plain, together = packaging(made)
        facts |= {"packages_ratio": round(ours / plain, 3), "packages_all_cores_ratio": round(ours / together, 3)}
        note = f"of rpmbuild and createrepo_c by hand, {ours:.1f} s  (bar {BARS['packages']})"
        note += f"; {ours / together:.2f} of them on all cores"
        rows.append(("all packages", facts["packages_ratio"], note))
    except HostError as error:
        rows.append(("all packages", "skipped", error.render()))
    return facts, rows


def _verifying(context: Context) -> tuple[dict[str, Any], Row]:
    """Fact and row about verifying the release in dist/, if it was promoted."""
    try:
        seconds, wall, processor = verifying(context.dist)
    except HostError as error:
        return {}, ("verify a release", "skipped", error.render())
    ratio = round(wall, 3)
    unit = f"of openssl dgst -sha256 on all cores, {seconds:.2f} s, {processor:.2f} of its processor time"
    return {"verify_ratio": ratio, "verify_processor_ratio": round(processor, 3)}, (
        "verify a release", ratio, f"{unit}  (bar {BARS['verify']})"
    )  # fmt: skip


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
