"""The engine is killed at random moments of every stage; the next run ends with what an undisturbed one makes."""

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from engine import toolchain
from faults import MAIN, STAGES, Place

from pipeline.store import remove_tree

SEED = int(os.environ.get("RFO_TEST_SEED") or 4)
"""Of the moments; another one looks elsewhere."""
KILLS = 5
"""For each stage."""
SIGNS = {
    "lock": "locking",
    "fetch": "fetching",
    "assemble": "assembling",
    "build": "start build/",
    "check": "start check/",
    "pack": "start tarball/",
}
"""What a run prints when a stage begins; publishing is seen by its folder."""
SPANS = {"lock": 1.5, "fetch": 0.3, "assemble": 0.2, "build": 1.0, "check": 0.4, "pack": 0.2, "publish": 0.02}
"""Seconds from the beginning of a stage within which the engine is killed; it is there that they mostly end."""
LEFT = {"check": 3, "pack": 2, "publish": 0}
"""How many of the five actions are left to do at most: what was finished before a kill is not done again."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run makes that nobody kills."""
    place = Place.make(tmp_path_factory.mktemp("undisturbed"))
    place.run()
    return place.made()


@pytest.fixture(scope="module")
def place(undisturbed: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Where the killed runs happen, one after the other: what each leaves behind is there for the next."""
    made = Place.make(tmp_path_factory.mktemp("killed"))
    made.run()
    assert made.made() == undisturbed
    return made


def begun(place: Place, stage: str, printed: Path) -> bool:
    """Whether a stage has begun."""
    return place.dist.exists() if stage == "publish" else SIGNS[stage] in printed.read_text()


def kill_during(place: Place, stage: str, delay: float) -> bool:
    """Run the release and kill the engine `delay` seconds after a stage began; false if it ended before."""
    printed = place.store.parent / "printed"
    with printed.open("w") as output:  # no pipe: what outlives the engine would hold it open
        engine = subprocess.Popen(place.command(), stdout=output, stderr=output)
    while engine.poll() is None and not begun(place, stage, printed):
        time.sleep(0.001)
    time.sleep(delay)
    engine.send_signal(signal.SIGKILL)
    status = engine.wait()
    assert status in (0, -signal.SIGKILL), printed.read_text()
    return status != 0


def assert_no_sandbox_is_left(place: Place) -> None:
    for _ in range(200):
        if not place.sandboxed():
            return
        time.sleep(0.05)
    raise AssertionError(f"processes of sandboxes outlived the engine: {place.sandboxed()}")


def runs(place: Place, program: str) -> bool:
    """Whether a sandbox has a process of this name."""
    for process in place.sandboxed():
        with contextlib.suppress(OSError):  # it ended meanwhile
            if Path(f"/proc/{process}/comm").read_text().strip() == program:
                return True
    return False


@pytest.mark.parametrize("number", range(KILLS))
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_after_a_kill_ends_as_an_undisturbed_one(
    stage: str, number: int, place: Place, undisturbed: dict[str, str]
) -> None:
    moment = random.Random(f"{SEED} {stage} {number}").uniform(0, SPANS[stage])  # noqa: S311
    print(f"RFO_TEST_SEED={SEED}: {stage} is killed after {moment:.3f} s")
    for attempt in range(8):
        place.undo(stage)
        if kill_during(place, stage, moment / 2**attempt):  # a fast host may be through already
            break
    else:
        pytest.fail("the engine was never met alive")
    assert_no_sandbox_is_left(place)
    summary = place.run()
    assert summary.ran <= LEFT.get(stage, 5)
    assert place.made() == undisturbed


def test_a_run_after_a_kill_while_the_toolchain_is_fetched_ends_as_an_undisturbed_one(
    place: Place, undisturbed: dict[str, str]
) -> None:
    module = toolchain().module
    place.undo("fetch")
    remove_tree(place.store / "gomod" / module.directory)
    # Its zip stays, so that `go` extracts at once; what it had extracted when it was killed is not taken for all.
    assert kill_during(place, "fetch", 0.5) or kill_during(place, "fetch", 0.1)
    place.run()
    assert place.made() == undisturbed


def test_a_sandbox_that_would_go_on_for_minutes_ends_with_the_engine(place: Place, undisturbed: dict[str, str]) -> None:
    source = place.checkout / "components/rfo/src/main.go"
    source.write_text(MAIN.replace("answer()) }", "answer()); for {} }"))
    with (place.store.parent / "printed").open("w") as output:
        engine = subprocess.Popen(place.command(), stdout=output, stderr=output)
    while not runs(place, "rfo"):
        assert engine.poll() is None
        time.sleep(0.01)
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    assert_no_sandbox_is_left(place)
    source.write_text(MAIN)
    place.run()
    assert place.made() == undisturbed
