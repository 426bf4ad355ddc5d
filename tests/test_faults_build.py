"""What a build may try: reach out, stay behind, take everything, never end; and a compile cache that lies."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from engine import HOST, builder_root, fails, given, run_actions
from faults import MAIN, RIGHT, WRONG, Place, poison_compile_cache, sandboxed

from pipeline.errors import BuildError
from pipeline.graph import Action, Work
from pipeline.model import Digest
from pipeline.sandbox import Sandbox
from pipeline.scheduler import Result
from pipeline.store import Store, remove_tree


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def build(script: str, *, timeout: float = 60, memory: int = 0, processes: int = 4096) -> Action:
    """An action whose command is a shell script in the sandbox of a build."""

    def run(work: Work) -> None:
        command = ("bash", "-c", script)
        limits = {"timeout": timeout, "memory": memory, "processes": processes}
        work.execute(Sandbox(builder_root(), command, work.build, work.out, **limits))  # type: ignore[arg-type]

    return Action(name="build/it", parameters={"script": script}, run=run)


def texts(store: Store, result: Result) -> dict[str, str]:
    """The outputs of the build, read and checked."""
    assert result.failures == []
    found = {}
    for name, output in result.outputs["build/it"].items():
        path = store.use(output.digest)
        assert path is not None
        found[name] = path.read_text()
    return found


def assert_nothing_is_left(store: Store) -> None:
    """No process of a sandbox, and nothing of its folders."""
    for _ in range(100):
        if not sandboxed(store.root):
            break
        time.sleep(0.05)
    assert sandboxed(store.root) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_a_build_that_tries_the_network_reaches_nobody(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"exec 2>&1; echo > /dev/tcp/127.0.0.1/{port} || echo > /dev/tcp/192.0.2.1/80 || echo alone > /out/f"
        result = run_actions(store, [build(script)])
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert texts(store, result) == {"f": "alone\n"}


def test_what_a_build_writes_outside_out_is_refused_or_gone(store: Store) -> None:
    places = ("/usr/f", "/etc/f", "/f", "/rfo-in/f", "/proc/sys/kernel/hostname", "/sys/f")
    script = f"for place in {' '.join(places)}; do echo bad > $place && echo $place >> /out/bad; done; "
    script += "echo x > /build/f; echo x > /tmp/f; mkdir /out/sub; echo good > /out/sub/../f; ln -s f /build/l"
    assert texts(store, run_actions(store, [build(script)])) == {"f": "good\n"}
    assert not any((builder_root() / place.lstrip("/")).exists() for place in ("/usr/f", "/etc/f", "/f"))
    assert_nothing_is_left(store)


def test_a_process_that_is_left_behind_cannot_change_what_was_taken(store: Store) -> None:
    """It holds its output open, and writes to it without end."""
    script = "echo start > /out/f; for i in 1 2 3 4; do (while :; do echo x >> /out/f; done) & done; sleep 0.1"
    result = run_actions(store, [build(script)])
    assert_nothing_is_left(store)
    (output,) = result.outputs["build/it"].values()
    blob = store.blob(output.digest)
    assert blob.stat().st_size == output.size
    assert Digest.of_file(blob) == output.digest


HOSTILE: dict[str, tuple[Callable[[], Action], str]] = {
    "memory": (lambda: build("x=$(head -c 300000000 /dev/zero | tr '\\0' x); sleep 60", memory=64 << 20), "of memory"),
    "forks": (lambda: build("f() { sleep 60 & f; }; f", processes=50), "processes; the limit is 50"),
    "prints": (
        lambda: build("while :; do echo 0123456789; done"),
        "it printed more than 1 MiB",
    ),  # slower than the disk
    "time": (lambda: build("trap '' TERM INT HUP; while :; do :; done", timeout=1), "still running after 1 s"),
    "stopped": (lambda: build("kill -STOP $$; sleep 60", timeout=1), "still running after 1 s"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_build_that_takes_everything_is_ended_and_harms_no_other(
    name: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sandbox.watch.MAX_LOG", 1 << 20)
    action, reason = HOSTILE[name]
    result = run_actions(store, [action(), given("other", {"f": b"good"})])
    (failure,) = result.failures
    assert failure.name == "build/it"
    assert isinstance(failure.error, BuildError)
    assert reason in failure.error.reason
    assert failure.log is not None
    assert failure.log.stat().st_size < 64 << 20
    assert set(result.outputs) == {"other"}
    assert len(list((store.root / "records").iterdir())) == 1
    assert_nothing_is_left(store)


# --- a whole release


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place.make(tmp_path_factory.mktemp("build"))
    made.run()
    return made


def test_a_program_that_never_ends_publishes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = place.made()
    source = place.checkout / "components/rfo/src/main.go"
    source.write_text(MAIN.replace("answer()) }", "answer()); for {} }"))
    monkeypatch.setattr("pipeline.build.check.SMOKE_SECONDS", 1)
    error = fails(place.run)
    assert isinstance(error, BuildError)
    assert "check/rfo" in error.reason
    assert "still running after 1 s" in error.reason
    assert place.sandboxed() == []
    source.write_text(MAIN)
    assert place.run().ran == 0
    assert place.made() == before


def test_a_poisoned_compile_cache_gives_other_bytes_that_no_check_sees(place: Place) -> None:
    """cmd/go believes its cache: that is why only a proof, which ignores it, makes bytes fit for promotion."""
    right = place.made()
    program = f"build/rfo/{HOST}:rfo"
    assert poison_compile_cache(place.store) > 0
    place.undo("build")
    place.run()
    wrong = place.made()
    assert wrong[program] != right[program]
    data = Store(place.store).blob(Digest.parse(wrong[program])).read_bytes()
    assert WRONG in data
    assert RIGHT not in data
    remove_tree(place.store / "gocache")
    place.undo("build")
    place.run()
    assert place.made() == right
