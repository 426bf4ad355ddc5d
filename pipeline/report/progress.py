"""Progress of a run: a live view on a terminal, plain lines elsewhere, the same events as JSON lines for programs."""

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pipeline.errors import PipelineError, UsageError
from pipeline.store import Record

QUIET = 30.0
"""Seconds after which a plain log says again what is still running."""


def duration(seconds: float) -> str:
    """`75.2` to `1m15s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


@dataclass
class Progress:
    """Writes to `stream` for people and, if given, to `events` for programs."""

    stream: IO[str] = field(default_factory=lambda: sys.stderr)
    events: IO[str] | None = None
    jobs: int = 1
    _estimates: dict[str, float] = field(default_factory=dict)
    _running: dict[str, float] = field(default_factory=dict)
    _total: int = 0
    _finished: int = 0
    _drawn: int = 0
    _said: float = 0.0

    def __post_init__(self) -> None:
        self.live = self.stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        self.colour = self.live and "NO_COLOR" not in os.environ

    def say(self, text: str) -> None:
        """One line that stays."""
        self._erase()
        print(text, file=self.stream, flush=True)
        self._draw()

    def step(self, text: str) -> None:
        """Announce a stage of the run."""
        self.event("step", text=text)
        self.say(self._paint("1", text))

    def event(self, kind: str, **fields: Any) -> None:
        """One JSON line for programs: `time` (seconds since 1970), `event`, and its fields."""
        if self.events:
            print(json.dumps({"time": round(time.time(), 3), "event": kind, **fields}), file=self.events, flush=True)

    def begin(self, estimates: dict[str, float], total: int) -> None:
        """Actions are about to run: `estimates` in seconds for each that has to, of `total` in the graph."""
        self._said = time.monotonic()
        self._estimates, self._total, self._finished = dict(estimates), total, total - len(estimates)
        self.event("begin", total=total, cached=self._finished, estimate=round(self.remaining()))
        self.say(f"{len(estimates)} of {total} actions to run, about {duration(self.remaining())}")

    def start(self, name: str) -> None:
        """An action started."""
        self._running[name] = time.monotonic()
        self.event("start", action=name)
        if not self.live:
            self.say(f"  start {name}")
        self.tick()

    def done(self, name: str, record: Record) -> None:
        """An action succeeded."""
        self._stop(name)
        self.event("done", action=name, seconds=record.seconds, cpu=record.cpu, peak=record.peak)
        left = f"[{self._finished}/{self._total}, {duration(self.remaining())} left]"
        self.say(f"  {self._paint('32', 'done')}  {name}  {duration(record.seconds)}  {left}")

    def fail(self, name: str, error: PipelineError) -> None:
        """An action failed; the run's end says it in full."""
        self._stop(name)
        self.event("failed", action=name, reason=error.reason)
        self.say(f"  {self._paint('31', 'FAILED')} {name}: {error.reason.splitlines()[0]}")

    def wait(self, name: str) -> None:
        """An action that started has to wait for an input."""
        self._running.pop(name, None)

    def again(self, maker: str, wanted_by: str) -> None:
        """An output was damaged in the store and is made again."""
        self._finished -= 1
        self.event("again", action=maker, wanted_by=wanted_by)
        self.say(f"  {self._paint('33', 'damaged')} output of {maker} in the store; it is made again")

    def tick(self) -> None:
        """Time passed."""
        if self.live:
            self._erase()
            self._draw()
        elif time.monotonic() - self._said > QUIET and self._running:
            self._said = time.monotonic()
            running = ", ".join(f"{n} {duration(time.monotonic() - t)}" for n, t in self._running.items())
            left = f"[{self._finished}/{self._total}, {duration(self.remaining())} left]"
            print(f"  ...   {running}  {left}", file=self.stream, flush=True)

    def end(self) -> None:
        """No action runs any more."""
        self._erase()
        self._running.clear()

    def remaining(self) -> float:
        """Seconds until the end: what is left of all estimates, shared by the workers."""
        now = time.monotonic()
        left = [max(s - (now - self._running[n]), 0) if n in self._running else s for n, s in self._estimates.items()]
        return max([sum(left) / self.jobs, *left], default=0.0)

    def _stop(self, name: str) -> None:
        self._running.pop(name, None)
        self._estimates.pop(name, None)
        self._finished += 1
        self._said = time.monotonic()

    def _draw(self) -> None:
        if not self.live or not self._running:
            return
        width = shutil.get_terminal_size().columns
        now = time.monotonic()
        lines = [f"  {self._finished}/{self._total} done, {duration(self.remaining())} left"]
        lines += [f"  {duration(now - since):>6}  {name}" for name, since in self._running.items()]
        for line in lines:
            print(line[: width - 1], file=self.stream)
        self._drawn = len(lines)
        self.stream.flush()

    def _erase(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}A\x1b[J", end="", file=self.stream)
            self._drawn = 0

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text


def open_events(target: str) -> IO[str]:
    """Where `--log-json` writes: a file, or `-` for standard output."""
    try:
        return sys.stdout if target == "-" else Path(target).open("a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--log-json {target}: {error.strerror}") from error
