"""What tests of the engine share: a store, small checkouts, and runs of the engine in this or another process.

The store persists between test runs, so that only the first one fetches; a cold one fetches by itself.
"""

import argparse
import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).parent.parent
sys.path.insert(0, str(REPO))  # when it runs as a program

from pipeline.attest.places import is_signature  # noqa: E402
from pipeline.context import Context, Options, host_arch  # noqa: E402
from pipeline.errors import PipelineError  # noqa: E402
from pipeline.graph import Action, Graph, Work  # noqa: E402
from pipeline.inputs import Inputs  # noqa: E402
from pipeline.lock import SourcesLock, Toolchain, write_atomically  # noqa: E402
from pipeline.model import Digest  # noqa: E402
from pipeline.plan import plan  # noqa: E402
from pipeline.release import Summary, release  # noqa: E402
from pipeline.report.progress import Progress  # noqa: E402
from pipeline.sandbox import Executor, Sandbox, Usage  # noqa: E402
from pipeline.sandbox.bwrap import Bwrap  # noqa: E402
from pipeline.scheduler import Result, Scheduler  # noqa: E402
from pipeline.store import Store, remove_tree  # noqa: E402
from pipeline.units import lock_subject  # noqa: E402

BASE = "debian-13"
REAL = "v1.25.4+rfor1"
"""The real release whose small components are built."""
SMALL = "v1.0.0+rfor1"
"""The release of synthetic checkouts."""
GO = "1.20.14"
HOST = host_arch()
SIGNATURE = re.compile(rb'"sig":"[^"]+"')
ARCHES = ("amd64", "arm64", "riscv64")
HELLO = """package main

import (
	"fmt"
	"os"
	"time"
)

var version = "unset"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "hang" {
		time.Sleep(time.Hour)
	}
	if len(os.Args) > 1 && os.Args[1] == "fail" {
		os.Exit(3)
	}
	fmt.Println("hello", version)
}
"""


def store_root() -> Path:
    """Where the tests' own store is; never the user's."""
    named = os.environ.get("RFO_TEST_STORE")
    return Path(named or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rfo-test").absolute()


@cache
def shared_store() -> Store:
    return Store(store_root())


def make_context(checkout: Path, store: Store | None = None, **options: Any) -> Context:
    """A run's context on the tests' store, silent."""
    options.setdefault("version", SMALL)
    context = Context(Options(**options), Progress(stream=StringIO()), checkout=checkout)
    context.store = store or shared_store()
    return context


def said(context: Context) -> str:
    """What a run printed."""
    stream = context.progress.stream
    assert isinstance(stream, StringIO)
    return stream.getvalue()


# --- checkouts


def real_checkout(folder: Path) -> Path:
    """The repository's definitions and locks, apart from the repository."""
    for name in ("charts", "components", "releases", "images", "rpm"):
        shutil.copytree(REPO / name, folder / name)
    return folder


def small_checkout(folder: Path, *, main: str = HELLO, component: dict[str, Any] | None = None, **more: Any) -> Path:
    """A checkout with one Go component `hello` without dependencies, locked without network.

    `component` is merged over hello's definition, `more` over its build entry.
    """
    build = {"binaries": {"hello": "."}, "stamp": {"main.version": "{release}"}} | more
    definition: dict[str, Any] = {
        "name": "hello",
        "license": "Apache-2.0",
        "source": {"tree": "components/hello/src"},
        "build": [build],
        "smoke": {"hello": {"args": [], "prints": "hello {release}"}},
    }
    files = {
        "components/hello/src/main.go": main,
        "components/hello/src/go.mod": "module example.org/hello\n\ngo 1.20\n",
    }
    return write_checkout(folder, {"hello": definition | (component or {})}, files, {"hello": {}})


def write_checkout(
    folder: Path, components: dict[str, Any], files: dict[str, str], choices: dict[str, Any], *, lock: bool = True
) -> Path:
    """A checkout with a release `SMALL` of the given components."""
    shutil.copytree(REPO / "images" / "openeuler" / "bases", folder / "images" / "openeuler" / "bases")
    for name, definition in components.items():
        path = folder / "components" / name / "component.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(definition))
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    path = folder / "releases" / SMALL / "release.yaml"
    path.parent.mkdir(parents=True)
    chosen = {"bases": dict.fromkeys(ARCHES, BASE), "toolchains": {"go": GO}, "components": choices}
    head = {"version": SMALL, "upstream": "v1.0.0+rke2r1", "date": datetime(2022, 11, 18, tzinfo=UTC)}
    path.write_text(yaml.safe_dump(head | chosen))
    if lock:
        lock_small(folder)
    return folder


def lock_small(folder: Path) -> None:
    """Lock a release without modules: the toolchain is the one that the real release pins."""
    toolchain = real_lock().toolchains[GO]
    lock = SourcesLock(SMALL, lock_subject(make_context(folder).all_units), toolchains={GO: toolchain})
    write_atomically(folder / "releases" / SMALL / "sources.lock", lock.render().encode())


@cache
def real_lock() -> SourcesLock:
    path = REPO / "releases" / REAL / "sources.lock"
    return SourcesLock.parse(path.read_text(), str(path))


def toolchain() -> Toolchain:
    """The toolchain of small checkouts."""
    return real_lock().toolchains[GO]


# --- runs


def run(checkout: Path, store: Store | None = None, **options: Any) -> Summary:
    return release(make_context(checkout, store, **options))


def digests(context: Context) -> dict[str, str]:
    """Every output that the store has for what the options ask for, as ACTION:NAME to digest."""
    graph = plan(context.release, context.units, context.inputs, packs=None)
    result = Result()
    Scheduler(context.store, Bwrap(), context.progress, 1, 1 << 30).replay(graph, result)
    return {f"{a}:{n}": str(o.digest) for a, made in sorted(result.outputs.items()) for n, o in sorted(made.items())}


def contents(dist: Path) -> dict[str, str]:
    """Digests of a release's files by place; of a signature's file without the signatures in it, which are random."""
    found = {}
    for path in sorted(p for p in dist.rglob("*") if p.is_file()):
        name, data = path.relative_to(dist).as_posix(), path.read_bytes()
        found[name] = str(Digest.of_bytes(SIGNATURE.sub(b"", data) if is_signature(name) else data))
    return found


def run_actions(store: Store, actions: Sequence[Action]) -> Result:
    """Run actions without a release around them."""
    scheduler = Scheduler(store, Bwrap(), Progress(stream=StringIO()), 2, 4 << 30)
    return scheduler.run(Graph(list(actions)))


def given(name: str, files: dict[str, bytes]) -> Action:
    """An action in place of a build: its outputs are `files`."""

    def write(work: Work) -> None:
        for file, data in files.items():
            (work.out / file).write_bytes(data)

    facts = {file: str(Digest.of_bytes(data)) for file, data in files.items()}
    return Action(name=name, parameters={"files": facts}, run=write)


def process(
    checkout: Path, store: Path, *arguments: str, prefix: Sequence[str] = (), env: dict[str, str] | None = None
) -> list[str]:
    """The command that runs the engine in its own process and prints what `digests` says as JSON."""
    named = ["--store", str(store), "--checkout", str(checkout), *arguments]
    variables = [f"{k}={v}" for k, v in (env or {}).items()]
    return [*prefix, "env", *variables, sys.executable, str(Path(__file__)), *named]


def run_process(*arguments: Any, **options: Any) -> dict[str, str]:
    """Run the engine in its own process; returns its digests."""
    done = subprocess.run(process(*arguments, **options), capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, str] = json.loads(done.stdout)
    return found


@contextmanager
def second_store(*, modules: bool = False) -> Iterator[Path]:
    """Another store with what was fetched, but nothing that was built, and no compile cache.

    Of Go modules it has the toolchain of small checkouts alone, or all: there are tens of thousands of files.
    """
    first = shared_store()
    path = Path(tempfile.mkdtemp(prefix="rfo-test-second-", dir=first.root.parent))
    names = ["gomod"] if modules else ["gomod/cache", f"gomod/{toolchain().module.directory}"]
    try:
        for name in ("blobs", "trees", "locks-of-bases", *names):
            if (first.root / name).exists():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                link(first.root / name, path / name)
        yield path
    finally:
        remove_tree(path)


def link(source: Path, target: Path) -> None:
    """Link a folder's files, without those that vanish meanwhile: they are what others are writing there."""
    copy, env = ["cp", "-al", str(source), str(target)], {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(copy, capture_output=True, text=True, check=False, env=env)
    others = [line for line in done.stderr.splitlines() if "No such file or directory" not in line]
    assert target.exists() and not others, done.stderr[-2000:]


@cache
def small() -> Context:
    """A small checkout for the whole test run, its sources fetched."""
    folder = Path(tempfile.mkdtemp(prefix="rfo-test-"))
    atexit.register(remove_tree, folder)
    context = make_context(small_checkout(folder), components=("hello",))
    context.inputs[HOST].fetch(context.units)
    return context


def inputs() -> Inputs:
    """Those of the small checkout."""
    return small().inputs[HOST]


@cache
def hello(arch: str) -> bytes:
    """The small checkout's program, built and checked."""
    context = make_context(small().checkout, components=("hello",), arches=(arch,))
    release(context)
    return output(digests(context)[f"build/hello/{arch}:hello"])


def output(digest: str) -> bytes:
    """A file of the shared store."""
    path = shared_store().use(Digest.parse(digest))
    assert path is not None
    return path.read_bytes()


@cache
def builder_root() -> Path:
    """The assembled root of the base, for running commands in."""
    roots = inputs().roots
    return roots.path(roots.find("builder", HOST))


class Box:
    """Runs commands in a sandbox on the base's root."""

    def __init__(self, folder: Path, executor: Executor | None = None) -> None:
        self.executor = executor or Bwrap()
        self.build, self.out, self.log = folder / "box-build", folder / "box-out", folder / "box-log"
        self.build.mkdir()
        self.out.mkdir()
        self.cancel = threading.Event()

    def run(self, *command: str, **options: Any) -> tuple[Usage, str]:
        """How it ended and what it printed."""
        sandbox = Sandbox(builder_root(), command, self.build, self.out, **options)
        with self.log.open("w+b") as log:
            usage = self.executor.run(sandbox, log, self.cancel)
            log.seek(0)
            return usage, log.read().decode(errors="replace").partition("\n")[2]

    def sh(self, script: str, **options: Any) -> tuple[Usage, str]:
        """Run a script; what it says on both streams is one text in order, which Docker alone does not promise."""
        return self.run("sh", "-c", f"exec 2>&1; {script}", **options)


def fails(call: Callable[[], Any]) -> PipelineError:
    """The error that `call` ends with."""
    try:
        call()
    except PipelineError as error:
        return error
    raise AssertionError("it succeeded")


@contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """The process's environment with some variables set, or removed if None."""
    old = {name: os.environ.get(name) for name in variables}
    try:
        for name, value in variables.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        yield
    finally:
        for name, value in old.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def main() -> None:
    """Run a release and print its digests."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--version", default=SMALL)
    parser.add_argument("--base")
    parser.add_argument("--component", action="append", default=[])
    parser.add_argument("--arch", action="append", default=[])
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--umask", default="22")
    asked = parser.parse_args()
    os.umask(int(asked.umask, 8))
    options = Options(
        version=asked.version, base=asked.base, components=tuple(asked.component), arches=tuple(asked.arch),
        offline=asked.offline,
    )  # fmt: skip
    context = Context(options, Progress(), checkout=asked.checkout)
    context.store = Store(asked.store)
    try:
        release(context)
    except PipelineError as error:
        print(error.render(), file=sys.stderr)
        sys.exit(error.exit_code)
    json.dump(digests(context), sys.stdout)


if __name__ == "__main__":
    main()
