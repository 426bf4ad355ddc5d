"""A release, from definition to dist/: the pipeline as one function, in the order in which data flows."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

from pipeline.attest.signing import packages_signer, sign_release
from pipeline.context import Context, Options
from pipeline.errors import BuildError, NetworkError, PipelineError, SourceError, StoreError, TrustError, UsageError
from pipeline.graph import Graph, estimate
from pipeline.plan import plan
from pipeline.publish.dist import DamagedOutput, published_platforms, write_dist
from pipeline.publish.manifest import architecture_of
from pipeline.report.progress import Progress, duration, size
from pipeline.sandbox import Executor
from pipeline.sandbox.bwrap import Bwrap
from pipeline.scheduler import Result, Scheduler, available_memory, default_jobs
from pipeline.unchanged import note, read_all, recall

BUILDS = ("builder", "sysroot", "emulator")
"""Roots that compile and check; the others are needed for images, charts and packages."""
PACKS = ("layer/", "bundle/", "chart/", "rpm/", "repository/")
"""What actions begin with that work in them."""
RESERVE = 1 << 30
"""Bytes that stay free: a host whose disk is full fails in worse ways than a build."""


@dataclass(frozen=True)
class Summary:
    """What a run came to."""

    ran: int
    cached: int
    dist: Path | None
    """Where the files stand; None if the run made none."""
    changed: tuple[str, ...] = ()
    """Files of dist that were written."""
    binaries: tuple[tuple[str, Path], ...] = ()
    """Of a run that writes no dist: what was compiled, `component/architecture/name`, and where it stands."""


def release(context: Context) -> Summary:
    """Make what the options ask for. Raises PipelineError; what was finished before stays in the store."""
    whole = not context.options.components and not context.options.actions
    subject = read_all(context) if whole else None
    if subject and (known := recall(context, subject)) is not None:
        return Summary(0, *known)
    if not context.options.components and context.packaged and context.inputs:  # a key is made for nothing less
        context.signer = packages_signer(context)
    if whole:
        take_along(context)
    graph = make_graph(context)
    scheduler = make_scheduler(context)
    if context.options.dry_run:
        return describe(graph, scheduler, context)
    if prepare_sources(graph, scheduler, context):
        graph = make_graph(context)
    result = run_all(graph, scheduler, context)
    try:
        summary = hand_over(context, graph, result, whole=whole)
    except DamagedOutput:  # it was removed from the store, so that its maker runs again
        result = run_all(graph, scheduler, context)
        summary = hand_over(context, graph, result, whole=whole)
    refuse_failures(result, context)
    if whole:
        summary = replace(summary, changed=(*summary.changed, *sign_release(context)))
    if subject:
        note(context, subject, result)
    return summary


def take_along(context: Context) -> None:
    """Add to the run what the folder holds of other architectures, as far as the store still has what was compiled.

    An image's index names all of its platforms, and charts and bundles name that index: they are made together.
    """
    others = published_platforms(context.dist) - set(context.arches) if context.images else set()
    for arch in sorted(others & set(context.release.bases)):
        alone = replace(context.options, arches=(arch,), offline=True, locked=True)
        other = replace(context, options=alone, progress=Progress(stream=StringIO()))
        other.store = context.store
        try:
            graph, done = make_graph(other), Result()
            make_scheduler(other).replay(graph, done)
        except PipelineError:
            continue
        if all(n in done.outputs for n in graph.order if n.startswith(("build/", "check/", "notices/"))):
            context.add(arch)


def run_all(graph: Graph, scheduler: Scheduler, context: Context) -> Result:
    """Run a graph; if an architecture fails, what is made of all of them is made of the others.

    The graph's actions are then those of the others.
    """
    result = scheduler.run(graph)
    if any(isinstance(f.error, TrustError) for f in result.failures):  # a key is no architecture's
        refuse_failures(result, context)
    broken = {a for f in result.failures if (a := architecture_of(f.name))}
    asked = context.options.components or context.options.actions
    if asked or not context.images or not broken or not broken < set(context.inputs):
        return result
    for arch in broken:
        context.inputs.pop(arch)
    graph.narrow(make_graph(context))
    rest = scheduler.run(graph)
    return replace(
        rest, ran=[*result.ran, *rest.ran], failures=[*result.failures, *rest.failures], skipped=result.skipped
    )


def hand_over(context: Context, graph: Graph, result: Result, *, whole: bool) -> Summary:
    """Write dist, or name the binaries of a partial run. Raises DamagedOutput."""
    ran, cached = len(result.ran), len(result.outputs) - len(result.ran)
    if whole:
        return Summary(ran, cached, context.dist, tuple(write_dist(context, graph, result)))
    made = []
    for action, outputs in sorted(result.outputs.items()):
        for name, output in sorted(outputs.items()):
            if action.startswith("build/"):
                path = context.store.use(output.digest)
                if path is None:
                    raise DamagedOutput(name)
                made.append((f"{action.partition('/')[2]}/{name}", path))
    return Summary(ran, cached, None, binaries=tuple(made))


def make_graph(context: Context) -> Graph:
    """The actions that the options ask for, on the architectures that can be built."""
    chosen = context.options.actions
    packs = bool(chosen) or not context.options.components
    graph = plan(context.release, context.units, context.inputs, context.packs if packs else None)
    if unknown := [a for a in chosen if a not in graph.actions]:
        raise UsageError(f"there is no action {unknown[0]}", "list them with --dry-run")
    return graph.closure(list(chosen)) if chosen else graph


def make_scheduler(context: Context, executor: Executor | None = None) -> Scheduler:
    """A scheduler with what this host has."""
    jobs = context.options.jobs or default_jobs()
    context.progress.jobs = jobs
    runs = executor or make_executor(context)
    return Scheduler(context.store, runs, context.progress, jobs, available_memory(), context.options.keep_going)


def make_executor(context: Context) -> Executor:
    """What sandboxes run in."""
    if context.options.executor == "docker":
        from pipeline.sandbox.docker import Docker

        return Docker(context.store.root)
    return Bwrap()


def prepare_sources(graph: Graph, scheduler: Scheduler, context: Context) -> bool:
    """Have the sources of everything that will run, before anything runs: a missing pin costs no build time.

    Returns whether an architecture was lost because packages of its own root cannot be had; the others go on.
    """
    done = Result()
    scheduler.replay(graph, done)
    todo = [n for n in graph.order if n not in done.outputs]
    if not todo:
        return False
    refuse_small_disk(graph, todo, context)
    pending = {n.split("/")[1] for n in todo}
    anyone = next(iter(context.inputs.values()))  # modules do not depend on the base
    units = [u for u in context.units if u.name in pending]
    if units:
        context.progress.step(f"sources of {len(units)} units: fetching what the store lacks")
    anyone.fetch(units)
    scheduler.executor.check()
    before = len(context.inputs)
    packs = any(n.startswith(PACKS) for n in todo)
    for arch, inputs in list(context.inputs.items()):
        for role, recipe in inputs.roots.base.recipes.items():
            if role == "engine" or (role not in BUILDS and not packs):  # only a proof uses the first
                continue
            try:
                root = inputs.roots.find(role, arch)
                if role in inputs.roots.base.layers:
                    inputs.roots.fetch(root.packages)
                else:
                    inputs.roots.path(root)
            except NetworkError as error:
                if recipe.per == "host" or len(context.inputs) == 1:
                    raise
                context.lose(arch, error.reason)
                break
    return len(context.inputs) < before


def refuse_small_disk(graph: Graph, todo: Sequence[str], context: Context, *, cold: bool = False) -> None:
    """Raise StoreError, before any time is spent, if what will run needs more space than there is.

    With `cold` the compile caches are empty, so that what an action once left in them comes on top of its outputs.
    """
    need = RESERVE
    for name in todo:
        last = context.store.history(name)
        need += sum(2 * o.size for o in last.outputs.values()) if last else 0
        need += graph.actions[name].disk if not last or (cold and name.startswith("build/")) else 0
    free = shutil.disk_usage(context.store.root).free
    if free < need:
        raise StoreError(
            f"{context.store.root}: about {size(need)} are needed and {size(free)} are free",
            "free some space, choose another store (RFO_STORE=/path), or build less at once (--arch, --component)",
        )


def describe(graph: Graph, scheduler: Scheduler, context: Context) -> Summary:
    """Say what would run, and run nothing."""
    done = Result()
    scheduler.replay(graph, done)
    todo = [n for n in graph.order if n not in done.outputs]
    for name in todo:
        context.progress.say(f"  would run {name}  (about {duration(estimate(graph.actions[name], context.store))})")
    context.progress.say(f"{len(todo)} of {len(graph.actions)} actions would run; nothing was done")
    return Summary(0, len(done.outputs), None)


def refuse_failures(result: Result, context: Context) -> None:
    """Raise one BuildError that lists every failure with its log and the command that repeats it."""
    lost = context.unavailable
    if not result.failures and not lost:
        return
    lines = []
    again = f"./inv release --version {context.options.version}"
    again += f" --base {context.options.base}" if context.options.base else ""
    again += f" --executor {context.options.executor}" if context.options.executor != Options.executor else ""
    for failure in result.failures:
        lines.append(f"{failure.name}: {failure.error.reason}")
        lines += [f"    log: {failure.log}"] if failure.log else []
        lines += [f"    -> {failure.error.hint}"] if failure.error.hint else []
        lines.append(f"    repeat: {again} --action {failure.name}")
    lines += [f"linux/{arch}: not built: {reason}" for arch, reason in lost.items()]
    skipped = f"; {len(result.skipped)} more could not run without them" if result.skipped else ""
    kinds = {type(f.error) for f in result.failures}
    raised = kinds.pop() if len(kinds) == 1 and not lost else BuildError  # one kind of fault keeps its exit code
    raise (raised if raised in (NetworkError, SourceError, StoreError, TrustError) else BuildError)(
        f"{len(result.failures) + len(lost)} failed{skipped}:\n  " + "\n  ".join(lines),
        "what succeeded is kept; the next run goes on from there",
    )
