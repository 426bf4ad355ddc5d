"""The command line: each task parses its arguments, makes one call and says what came of it. No logic."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

VERSION = "Release to work on, as vX.Y.Z+rforN; defined under releases/."
BASE = "Use this base instead of the definition's, for all architectures (debian-13 needs no openEuler mirror)."
ARCH = "Only this architecture (amd64, arm64, riscv64); may be repeated."
COMPONENT = "Only this component: compile and check it, write no dist/; may be repeated."
MIRROR = "BASE=URI: fetch the base's packages from this mirror; may be repeated."
SOURCE = (
    "COMPONENT=PATH: take its module zip, archive or git clone from here, checked like a download; may be repeated."
)
OFFLINE = "Fetch nothing; fail if anything is missing."
DEBUG = "Show the traceback of a failure."


@contextmanager
def _reporting(debug: bool) -> Iterator[None]:
    """Turn failures into a message and an exit code; a traceback only when asked for."""
    from pipeline.errors import Interrupted, PipelineError

    try:
        yield
    except PipelineError as error:
        if debug:
            raise
        print(error.render(), file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        fault = PipelineError(f"the engine failed: {type(error).__name__}: {error}", "see where: add --debug")
        print(fault.render(), file=sys.stderr)
        sys.exit(fault.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(Interrupted.exit_code)


def _context(log_json: str = "", sources: Any = None, mirrors: Any = None, **options: Any) -> Any:
    from pathlib import Path

    from pipeline.context import Context as Run
    from pipeline.context import Options, parse_pairs
    from pipeline.errors import UsageError
    from pipeline.report.progress import Progress, open_events

    if not options["version"]:
        raise UsageError("which release? --version is missing", "list them with ./inv releases")
    given = {k: Path(v).absolute() for k, v in parse_pairs(sources or (), "--source").items()}
    chosen = Options(sources=given, mirrors=parse_pairs(mirrors or (), "--mirror"), **options)
    return Run(chosen, Progress(events=open_events(log_json) if log_json else None))


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
    from pipeline.context import parse_count
    from pipeline.release import release as make
    from pipeline.report.summary import say_summary

    with _reporting(debug):
        started = time.monotonic()
        context = _context(
            log_json,
            source,
            mirror,
            version=version,
            base=base or None,
            arches=tuple(arch or ()),
            components=tuple(component or ()),
            actions=tuple(action or ()),
            jobs=parse_count(jobs, "--jobs"),
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

    with _reporting(debug):
        make_locks(
            _context("", source, mirror, version=version, base=base or None, arches=tuple(arch or ())), update=update
        )


@task(
    positional=[],
    iterable=["arch", "component", "source", "mirror"],
    help={
        "version": VERSION,
        "base": BASE,
        "arch": ARCH,
        "component": COMPONENT,
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
    source: Any = None,
    mirror: Any = None,
    debug: bool = False,
) -> None:
    """Bring every pin of a release into the store, so that `inv release --offline` needs no network."""
    from pipeline.locks import fetch_all

    with _reporting(debug):
        fetch_all(
            _context(
                "",
                source,
                mirror,
                version=version,
                base=base or None,
                arches=tuple(arch or ()),
                components=tuple(component or ()),
            )
        )


@task(positional=[], help={"json": "Print as JSON."})
def releases(c: Context, json: bool = False) -> None:
    """List the defined releases, oldest first."""
    from pipeline.report.summary import say_releases

    with _reporting(debug=False):
        say_releases(as_json=json)


@task(
    positional=[],
    help={
        "k": "Only tests whose name matches (pytest -k).",
        "full": "Also the long tests that compile large components.",
    },
)
def test(c: Context, k: str = "", full: bool = False) -> None:
    """Run the tests: linters, types, unit tests, and real builds of small components for three architectures."""
    from pipeline.development import run_tests

    with _reporting(debug=False):
        sys.exit(run_tests(k, full=full))


@task(
    positional=[],
    iterable=["arch", "component"],
    help={
        "version": VERSION,
        "base": BASE,
        "component": "Component to compile; may be repeated (default coredns).",
        "arch": "Architecture; may be repeated (default arm64).",
        "json": "Print as JSON.",
    },
)
def bench(
    c: Context,
    version: str = "v1.25.4+rfor1",
    base: str = "debian-13",
    component: Any = None,
    arch: Any = None,
    json: bool = False,
) -> None:
    """Measure the pipeline against the plain tools, both in this run; prints ratios."""
    from pipeline.bench import run_bench

    with _reporting(debug=False):
        run_bench(
            _context(
                "",
                version=version,
                base=base,
                arches=tuple(arch or ["arm64"]),
                components=tuple(component or ["coredns"]),
            ),
            as_json=json,
        )


_TASKS: list[Callable[..., Any]] = [release, lock, fetch, releases, test, bench]
ns = Collection(*_TASKS)
