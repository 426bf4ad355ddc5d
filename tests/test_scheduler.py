"""The scheduler: order, memory, failures, damage and interruption, on a real store."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from conftest import MemoryExecutor, action, writes

from pipeline.context import CHECKOUT
from pipeline.errors import BuildError, HostError, Interrupted, PipelineError, StoreError
from pipeline.graph import Graph, Ref, Work
from pipeline.model import Digest
from pipeline.report.progress import Progress
from pipeline.sandbox import Sandbox
from pipeline.scheduler import REPAIRS, Result, Scheduler, available_memory, default_jobs
from pipeline.store import Store

STEP = 300.0
"""Seconds after which a test that waits for another thread gives up."""


def fails(work: Work) -> None:
    work.log.write(b"what it said\n")
    raise BuildError(f"{work.name}: broken")


def text(store: Store, result: Result, name: str) -> str:
    path = store.use(result.outputs[name]["file"].digest)
    assert path is not None
    return path.read_text()


def diamond(**runs: Callable[[Work], None]) -> Graph:
    """`top` from `left` and `right`, both from `base`."""
    base = Ref("base", "file")
    return Graph(
        [
            action("top", runs.get("top"), {"l": Ref("left", "file"), "r": Ref("right", "file")}),
            action("left", runs.get("left"), {"in": base}),
            action("right", runs.get("right"), {"in": base}),
            action("base", runs.get("base")),
        ]
    )


def test_outputs_are_inputs_of_what_follows(scheduler: Scheduler) -> None:
    result = scheduler.run(diamond())
    assert text(scheduler.store, result, "top") == "baseleftbaserighttop"
    assert (sorted(result.ran), result.failures, result.skipped) == (["base", "left", "right", "top"], [], {})


def test_a_second_run_runs_nothing(scheduler: Scheduler) -> None:
    first = scheduler.run(diamond())
    again = scheduler.run(diamond(base=fails, top=fails))
    assert again.ran == []
    assert again.outputs == first.outputs


def test_what_an_unchanged_output_feeds_is_not_run_again(scheduler: Scheduler) -> None:
    scheduler.run(diamond())
    graph = diamond()
    graph.actions["base"] = action("base", writes("base"), flag="new")
    assert scheduler.run(graph).ran == ["base"]


def test_the_longest_path_starts_first(scheduler: Scheduler) -> None:
    scheduler.jobs = 1
    graph = Graph(
        [
            action("a", seconds=5),
            action("b", seconds=1),
            action("c", after=("b",), seconds=9),
            action("d", seconds=7),
        ]
    )
    assert scheduler.run(graph).ran == ["b", "c", "d", "a"]


class Together:
    """Counts how many actions run at once, and what they declare together."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.memory = self.most_memory = self.count = self.most = 0

    def run(self, memory: int, wait: threading.Event) -> Callable[[Work], None]:
        def work(work: Work) -> None:
            with self.lock:
                self.count += 1
                self.memory += memory
                self.most, self.most_memory = max(self.most, self.count), max(self.most_memory, self.memory)
            wait.wait(0.02)
            with self.lock:
                self.count -= 1
                self.memory -= memory
            (work.out / "file").write_text(work.name)

        return work


def test_running_actions_stay_within_memory_and_jobs(scheduler: Scheduler) -> None:
    together, never = Together(), threading.Event()
    scheduler.jobs, scheduler.memory = 3, 100
    sizes = [60, 50, 40, 30, 20, 10, 5, 5, 1000]
    graph = Graph([action(f"a{i}", together.run(min(m, 100), never), memory=m) for i, m in enumerate(sizes)])
    assert len(scheduler.run(graph).ran) == len(sizes)
    assert together.most_memory <= 100
    assert together.most <= 3


def test_a_recorded_peak_takes_the_place_of_what_is_declared(scheduler: Scheduler) -> None:
    def uses(work: Work) -> None:
        work.peak = 400 << 20

    graph = Graph([action("a", uses)])
    assert scheduler.memory_of(graph.actions["a"]) == 1 << 20
    scheduler.run(graph)
    assert scheduler.memory_of(graph.actions["a"]) == 500 << 20
    scheduler.memory = 300 << 20
    assert scheduler.memory_of(graph.actions["a"]) == 300 << 20


def test_one_failure_does_not_stop_what_does_not_depend_on_it(scheduler: Scheduler) -> None:
    result = scheduler.run(diamond(left=fails))
    assert [f.name for f in result.failures] == ["left"]
    assert result.skipped == {"top": "left"}
    assert sorted(result.ran) == ["base", "right"]
    log = result.failures[0].log
    assert log is not None
    assert log.read_bytes() == b"what it said\n"
    assert scheduler.run(diamond()).ran == ["left", "top"]


def test_every_failure_is_listed(scheduler: Scheduler) -> None:
    result = scheduler.run(diamond(left=fails, right=fails))
    assert sorted(f.name for f in result.failures) == ["left", "right"]
    assert list(result.skipped) == ["top"]


def test_without_keep_going_nothing_starts_after_a_failure(scheduler: Scheduler) -> None:
    scheduler.keep_going, scheduler.jobs = False, 1
    graph = Graph([action("a", fails, seconds=9), *(action(f"b{i}") for i in range(5))])
    result = scheduler.run(graph)
    assert [f.name for f in result.failures] == ["a"]
    assert result.ran == []


@pytest.mark.parametrize("names", [["base"], ["left"], ["base", "left", "right"]])
@pytest.mark.parametrize("jobs", [1, 4])
def test_a_damaged_input_is_made_again_in_the_same_run(scheduler: Scheduler, names: list[str], jobs: int) -> None:
    scheduler.jobs = jobs
    first = scheduler.run(diamond())
    for name in names:
        path = scheduler.store.blob(first.outputs[name]["file"].digest)
        path.chmod(0o644)
        path.write_bytes(b"x" * path.stat().st_size)
    graph = diamond()
    for name in ("left", "right", "top"):  # so that each reads its inputs
        graph.actions[name] = action(name, writes(name), graph.actions[name].inputs, changed="yes")
    result = scheduler.run(graph)
    assert result.failures == []
    assert text(scheduler.store, result, "top") == "baseleftbaserighttop"


def test_an_input_that_stays_damaged_ends_as_a_failure(scheduler: Scheduler) -> None:
    store = scheduler.store
    attempts: list[str] = []

    class Broken(Store):
        def use(self, digest: Digest) -> Path | None:
            attempts.append(digest.hex)
            self.blob(digest).unlink(missing_ok=True)
            return None

    scheduler.store = Broken(store.root)
    result = scheduler.run(Graph([action("a"), action("b", None, {"in": Ref("a", "file")})]))
    assert [f.name for f in result.failures] == ["b"]
    assert "was damaged in the store" in result.failures[0].error.reason
    assert len(attempts) <= 4 * (REPAIRS + 1)


def test_an_input_without_maker_that_is_damaged_is_a_failure(scheduler: Scheduler) -> None:
    graph = Graph([action("a", None, {"in": Digest.of_bytes(b"gone")})])
    assert "was damaged in the store" in scheduler.run(graph).failures[0].error.reason


def interrupt_when(ready: threading.Event) -> None:
    assert ready.wait(STEP)
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_run_keeps_what_was_finished(scheduler: Scheduler) -> None:
    ready = threading.Event()

    def stuck(work: Work) -> None:
        ready.set()
        assert work.cancel.wait(STEP)
        raise BuildError("stopped")

    threading.Thread(target=interrupt_when, args=[ready]).start()
    with pytest.raises(Interrupted, match="finished actions are kept"):
        scheduler.run(diamond(left=stuck, top=fails))
    scheduler.cancel.clear()
    assert "base" not in scheduler.run(diamond()).ran


def test_waiting_for_another_process_can_be_interrupted(scheduler: Scheduler) -> None:
    graph = Graph([action("a")])
    key, _ = graph.actions["a"].key({})
    ready = threading.Event()
    start = scheduler.progress.start
    scheduler.progress.start = lambda name: (start(name), ready.set())[0]  # type: ignore[method-assign, func-returns-value]
    threading.Thread(target=interrupt_when, args=[ready]).start()
    with scheduler.store.exclusive(f"action-{key.hex}"), pytest.raises(Interrupted):
        scheduler.run(graph)


OTHER = """
import sys
sys.path.insert(0, sys.argv[2])
from io import StringIO
from pathlib import Path
from conftest import MemoryExecutor, action
from pipeline.graph import Graph
from pipeline.report.progress import Progress
from pipeline.scheduler import Scheduler
from pipeline.store import Store
folder = Path(sys.argv[1])
def run(work):
    with (folder / "runs").open("a") as file:
        file.write("x")
    work.cancel.wait(0.2)
    (work.out / "file").write_text("made")
print("ready", flush=True)
sys.stdin.readline()
scheduler = Scheduler(Store(folder / "store"), MemoryExecutor(), Progress(stream=StringIO()), 1, 1 << 30)
result = scheduler.run(Graph([action("a", run)]))
print(result.ran, list(result.outputs))
"""


def test_one_key_in_several_processes_runs_once(tmp_path: Path) -> None:
    others = [
        subprocess.Popen(
            [sys.executable, "-c", OTHER, str(tmp_path), str(Path(__file__).parent)],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for other in others:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
    for other in others:
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.flush()
    printed = sorted(other.communicate()[0] for other in others)
    assert printed == ["['a'] ['a']\n", "[] ['a']\n", "[] ['a']\n"]
    assert (tmp_path / "runs").read_text() == "x"


def link(work: Work) -> None:
    (work.out / "file").symlink_to("/etc/passwd")


def link_to_folder(work: Work) -> None:
    (work.out / "folder").symlink_to("/etc")


def pipe(work: Work) -> None:
    os.mkfifo(work.out / "pipe")


@pytest.mark.parametrize("run", [link, link_to_folder, pipe])
def test_an_output_that_is_no_file_is_refused(scheduler: Scheduler, run: Callable[[Work], None]) -> None:
    def talks(work: Work) -> None:
        work.log.write(b"said")
        run(work)

    failure = scheduler.run(Graph([action("a", talks)])).failures[0]
    assert "in /out is neither a file nor a folder" in failure.error.reason
    assert failure.log is not None
    assert failure.log.read_bytes() == b"said"


def test_outputs_are_named_by_their_path(scheduler: Scheduler) -> None:
    def nested(work: Work) -> None:
        (work.out / "b" / "empty").mkdir(parents=True)
        (work.out / "b" / "c").write_text("c")
        (work.out / "a").write_text("a")

    result = scheduler.run(Graph([action("a", nested)]))
    assert list(result.outputs["a"]) == ["a", "b/c"]


def crashes(work: Work) -> None:
    raise RuntimeError("a bug")


def exits(work: Work) -> None:
    sys.exit(3)


def missing(work: Work) -> None:
    (work.folder / "gone").read_text()


def no_space(work: Work) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("run", "kind", "match"),
    [
        (crashes, BuildError, "a: the engine failed: RuntimeError: a bug"),
        (exits, BuildError, "a: the engine failed: SystemExit: 3"),
        (missing, BuildError, "No such file"),
        (no_space, StoreError, "No space left on device"),
        (fails, BuildError, "a: broken"),
    ],
)
def test_whatever_an_action_raises_is_one_failure(
    scheduler: Scheduler, run: Callable[[Work], None], kind: type[PipelineError], match: str
) -> None:
    result = scheduler.run(Graph([action("a", run), action("b")]))
    assert isinstance(result.failures[0].error, kind)
    assert match in result.failures[0].error.reason
    assert result.ran == ["b"]
    assert list((scheduler.store.root / "tmp").iterdir()) == []


def test_a_host_that_cannot_run_sandboxes_is_said_before_anything_runs(scheduler: Scheduler) -> None:
    class NoHost(MemoryExecutor):
        def check(self) -> None:
            raise HostError("no user namespaces")

    scheduler.executor = NoHost()
    with pytest.raises(HostError):
        scheduler.run(Graph([action("a")]))


def test_a_sandboxs_cost_is_recorded(scheduler: Scheduler) -> None:
    def sandboxed(work: Work) -> None:
        work.execute(Sandbox(work.folder, ("true",), work.build, work.out))

    result = scheduler.run(Graph([action("a", sandboxed)]))
    assert result.records["a"].log is not None
    assert scheduler.store.history("a") is not None


def test_the_host_has_memory_and_cores() -> None:
    assert available_memory() > 1 << 20
    assert default_jobs() >= 2


def test_a_run_says_what_it_does(store: Store) -> None:
    stream = StringIO()
    scheduler = Scheduler(store, MemoryExecutor(), Progress(stream=stream), jobs=1, memory=1)
    scheduler.run(diamond(left=fails))
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("4 of 4 actions to run, about ")
    assert lines[1] == "  start base"
    assert any(re.match(r"  done  base  \d+s  \[1/4, ", line) for line in lines)
    assert "  FAILED left: left: broken" in lines
