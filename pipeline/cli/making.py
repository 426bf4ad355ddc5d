"""Commands that make releases and what they are made from."""

import time
from typing import Any

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import ARCH, BASE, COMPONENT, DEBUG, MIRROR, OFFLINE, SOURCE, VERSION, make_context, reporting


@task(
    positional=[],
    iterable=["arch", "component", "action", "source", "mirror"],
    help={
        "version": VERSION,
        "base": BASE,
        "arch": ARCH,
        "component": COMPONENT,
        "action": "Run just this action and what it needs (names: --dry-run); may be repeated.",
        "jobs": "Actions at once (default: half the cores, at least 2; memory is watched besides).",
        "executor": "What runs the steps: bwrap (default), or docker: containers of the daemon that DOCKER_HOST names.",
        "keep-going": "After a failure go on with what does not depend on it (default).",
        "dry-run": "Say what would run, and run nothing (a missing lock is made all the same).",
        "offline": OFFLINE,
        "locked": "Refuse to write a missing lock (for CI).",
        "source": SOURCE,
        "mirror": MIRROR,
        "log-json": "Append progress events as JSON lines to this file (- for standard output).",
        "json": "Print the result as JSON on standard output.",
        "debug": DEBUG,
    },
)
def release(
    c: Context,
    version: str = "",
    base: str = "",
    arch: Any = None,
    component: Any = None,
    action: Any = None,
    jobs: str = "0",
    executor: str = "bwrap",
    keep_going: bool = True,
    dry_run: bool = False,
    offline: bool = False,
    locked: bool = False,
    source: Any = None,
    mirror: Any = None,
    log_json: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Make a release: compile, check and pack every component for every architecture, into dist/VERSION."""
    from pipeline.context import parse_count, parse_executor
    from pipeline.release import release as make
    from pipeline.report.summary import say_summary

    with reporting(debug):
        started = time.monotonic()
        context = make_context(
            log_json,
            source,
            mirror,
            version=version,
            base=base or None,
            arches=tuple(arch or ()),
            components=tuple(component or ()),
            actions=tuple(action or ()),
            jobs=parse_count(jobs, "--jobs"),
            executor=parse_executor(executor),
            offline=offline,
            locked=locked,
            keep_going=keep_going,
            dry_run=dry_run,
        )
        say_summary(make(context), context, time.monotonic() - started, as_json=json)


@task(
    positional=[],
    iterable=["arch", "source", "mirror"],
    help={
        "version": VERSION,
        "base": BASE,
        "arch": ARCH,
        "update": "Renew existing locks and print what changed.",
        "source": SOURCE,
        "mirror": MIRROR,
        "debug": DEBUG,
    },
)
def lock(
    c: Context,
    version: str = "",
    base: str = "",
    arch: Any = None,
    update: bool = False,
    source: Any = None,
    mirror: Any = None,
    debug: bool = False,
) -> None:
    """Pin every input of a release by digest: write a missing lock; renew one only with --update."""
    from pipeline.locks import make_locks

    with reporting(debug):
        make_locks(
            make_context("", source, mirror, version=version, base=base or None, arches=tuple(arch or ())),
            update=update,
        )


@task(
    positional=[],
    optional=["bundle"],
    iterable=["arch", "component", "source", "mirror"],
    help={
        "version": VERSION,
        "base": BASE,
        "arch": ARCH,
        "component": "Only the sources of this component; may be repeated.",
        "bundle": "Write all of it to one archive as well: to this path, or dist/VERSION/rfo-sources.tar.zst.",
        "from-bundle": "Take every pin from this archive; asks no network.",
        "source": SOURCE,
        "mirror": MIRROR,
        "debug": DEBUG,
    },
)
def fetch(
    c: Context,
    version: str = "",
    base: str = "",
    arch: Any = None,
    component: Any = None,
    bundle: Any = None,
    from_bundle: str = "",
    source: Any = None,
    mirror: Any = None,
    debug: bool = False,
) -> None:
    """Bring every pin of a release into the store, so that `inv release --offline` needs no network."""
    from pathlib import Path

    from pipeline.errors import UsageError

    with reporting(debug):
        context = make_context(
            "",
            source,
            mirror,
            version=version,
            base=base or None,
            arches=tuple(arch or ()),
            components=tuple(component or ()),
            offline=bool(from_bundle),
        )
        if from_bundle and bundle:
            raise UsageError("--bundle and --from-bundle exclude each other", "import first, then write another one")
        if from_bundle:
            from pipeline.bundle.read import fetch_from_bundle

            fetch_from_bundle(Path(from_bundle).absolute(), context)
        elif bundle:
            from pipeline.bundle.write import make_bundle

            make_bundle(context, None if bundle is True else Path(bundle).absolute())
        else:
            from pipeline.locks import fetch_all

            fetch_all(context)


@task(positional=[], help={"json": "Print as JSON."})
def releases(c: Context, json: bool = False) -> None:
    """List the defined releases, oldest first."""
    from pipeline.report.summary import say_releases

    with reporting(debug=False):
        say_releases(as_json=json)
