"""`inv lock` and `inv fetch`: pin every input, and bring every pin into the store."""

import difflib

from pipeline.baselocks import base_lock_path, read_base_lock, resolve_base, write_base_lock
from pipeline.context import Context, host_arch
from pipeline.errors import DefinitionError, NetworkError
from pipeline.locking import describe_change, make_sources, read_sources, write_sources


def make_locks(context: Context, *, update: bool) -> None:
    """Write what is missing; with `update` renew what is there and print what changed."""
    if not update:
        kept = ", ".join(["sources.lock", *context.base_locks])
        context.sources  # noqa: B018 - making it is the effect
        context.progress.say(f"{context.options.version} is locked ({kept}); renew with --update")
        return
    release, units = context.release, context.all_units
    try:
        old = read_sources(context.definitions, release, units)
    except DefinitionError:
        old = None  # made for another definition: that is what --update is for
    if context.options.base is None or old is None:
        made = make_sources(
            release, units, context.definitions, context.go, context.snapshots, host_arch(), context.progress
        )
        write_sources(context.definitions, made)
        for line in describe_change(old.lock, made.lock) if old else ["sources.lock is new"]:
            context.progress.say(line)
    for base in {b.name: b for b in context.bases.values()}.values():
        path = base_lock_path(base, release.version, context.definitions, context.store)
        before = read_base_lock(path, base)
        arches = [a for a in context.arches if context.bases[a].name == base.name]
        after = resolve_base(
            base, arches, host_arch(), context.store, context.progress, origin=context.options.mirrors.get(base.name)
        )
        write_base_lock(path, after, context.progress)
        old_lines = before.render().splitlines() if before else []
        for line in difflib.unified_diff(old_lines, after.render().splitlines(), lineterm="", n=0):
            if line[0] in "+-" and not line.startswith(("+++", "---")):
                context.progress.say(line)


def fetch_all(context: Context) -> None:
    """Have every module, toolchain and package of the chosen architectures in the store. Raises NetworkError."""
    for inputs in {i.roots.base.name: i for i in context.inputs.values()}.values():
        context.progress.step(f"fetching the sources of {context.options.version}")
        inputs.fetch(context.units)
    for arch, inputs in context.inputs.items():
        for role in inputs.roots.base.roots:
            inputs.roots.path(inputs.roots.find(role, arch))
    if lost := context.unavailable:
        raise NetworkError("\n  ".join(f"linux/{a}: {reason}" for a, reason in lost.items()))
    context.progress.say(
        f"every pin of {context.options.version} for {', '.join(context.arches)} is in {context.store.root}"
    )
