"""Progress: plain lines in a log, a live view on a terminal, JSON lines for programs."""

import contextlib
import json
import os
import pty
from io import StringIO
from pathlib import Path

import pytest

from pipeline.errors import BuildError, UsageError
from pipeline.report.progress import Progress, duration, open_events, size
from pipeline.store import Record

RECORD = Record("b", {}, 61.0, 5.0, 1 << 20, None)


def play(progress: Progress) -> None:
    progress.step("compiling")
    progress.begin({"a": 10.0, "b": 20.0, "c": 1.0}, 5)
    progress.start("a")
    progress.start("b")
    progress.tick()
    progress.done("b", RECORD)
    progress.fail("a", BuildError("a: broken\nat length"))
    progress.start("c")
    progress.wait("c")
    progress.again("b", "c")
    progress.end()


def test_a_log_has_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.report.progress.time.monotonic", lambda: 100.0)
    stream = StringIO()
    play(Progress(stream=stream))
    assert stream.getvalue().splitlines() == [
        "compiling",
        "3 of 5 actions to run, about 31s",
        "  start a",
        "  start b",
        "  done  b  1m01s  [3/5, 11s left]",
        "  FAILED a: a: broken",
        "  start c",
        "  damaged output of b in the store; it is made again",
    ]


def test_the_same_events_are_json_lines() -> None:
    events = StringIO()
    play(Progress(stream=StringIO(), events=events))
    found = [json.loads(line) for line in events.getvalue().splitlines()]
    assert [e["event"] for e in found] == ["step", "begin", "start", "start", "done", "failed", "start", "again"]
    assert found[1] | {"time": 0} == {"time": 0, "event": "begin", "total": 5, "cached": 2, "estimate": 31}
    assert found[4] | {"time": 0} == {
        "time": 0,
        "event": "done",
        "action": "b",
        "seconds": 61.0,
        "cpu": 5.0,
        "peak": 1 << 20,
    }
    assert found[5]["reason"] == "a: broken\nat length"


def on_terminal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What a terminal gets."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        play(Progress(stream=stream))
    got = b""
    with contextlib.suppress(OSError):  # EIO: everything was read and nobody writes any more
        while piece := os.read(leader, 1 << 16):
            got += piece
    os.close(leader)
    return got.decode()


def test_a_terminal_has_a_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    got = on_terminal(monkeypatch)
    assert "\x1b[J" in got
    assert "\x1b[31mFAILED\x1b[0m a" in got
    assert "  start a" not in got


def test_a_terminal_without_colour_or_cursor_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[31m" not in on_terminal(monkeypatch, NO_COLOR="1")
    assert "\x1b" not in on_terminal(monkeypatch, TERM="dumb")


def test_the_time_left_is_shared_by_the_workers_but_never_less_than_one_action() -> None:
    progress = Progress(stream=StringIO(), jobs=4)
    progress.begin({"a": 10.0, "b": 10.0, "c": 10.0, "d": 10.0}, 4)
    assert progress.remaining() == 10.0
    progress.begin({"a": 10.0, "b": 50.0}, 2)
    assert progress.remaining() == 50.0
    progress.begin({}, 0)
    assert progress.remaining() == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3599.4, "59m59s"), (3600, "1h00m")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1.0 MiB"), (5 << 40, "5120.0 GiB")]
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert size(count) == text


def test_events_are_appended_to_a_file(tmp_path: Path) -> None:
    for _ in range(2):
        with open_events(str(tmp_path / "log")) as events:
            Progress(stream=StringIO(), events=events).step("x")
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_a_place_where_events_cannot_go_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--log-json .*No such file"):
        open_events(str(tmp_path / "gone" / "log"))
