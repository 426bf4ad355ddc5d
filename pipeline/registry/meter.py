"""How far a transfer is: bytes, rate and time left, on top of the engine's progress."""

import shutil
import threading
import time
from dataclasses import dataclass, field

from pipeline.report.progress import QUIET, Progress, duration, size


class Stopped(Exception):
    """Another part of the transfer failed, or the user ended it."""


@dataclass
class Meter:
    """Counts the bytes of all blobs. Threads count; only the main thread says something."""

    progress: Progress
    _total: int = 0
    _done: int = 0
    _moved: int = 0
    """Of `_done`: bytes that went over the line, which is what the rate is made of."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _began: float = 0.0
    _said: float = 0.0
    _drawn: bool = False

    def step(self, text: str) -> None:
        """Announce a stage."""
        self._erase()
        self.progress.step(text)

    def begin(self, total: int) -> None:
        """Blobs of `total` bytes are about to be looked at and, where missing, moved."""
        self._total, self._done, self._moved = total, 0, 0
        self._began = self._said = time.monotonic()

    def skip(self, count: int) -> None:
        """Bytes that need not be moved."""
        with self._lock:
            self._done += count

    def track(self) -> "Track":
        """Where a blob's own position is told."""
        return Track(self)

    def tick(self) -> None:
        """Time passed."""
        now = time.monotonic()
        if not self._total:
            return
        if self.progress.live:
            self._erase()
            width = shutil.get_terminal_size().columns
            print(f"  {self.state()}"[: width - 1], end="", file=self.progress.stream, flush=True)
            self._drawn = True
        elif now - self._said > QUIET:
            self._said = now
            self.progress.say(f"  ...   {self.state()}")

    def end(self) -> None:
        """No blob moves any more."""
        self._erase()
        self._total = 0

    def state(self) -> str:
        """`1.5 GiB of 3.0 GiB, 12.0 MiB/s, 2m08s left`."""
        elapsed = time.monotonic() - self._began
        rate = self._moved / elapsed if elapsed > 0 else 0
        text = f"{size(self._done)} of {size(self._total)}"
        if rate:
            text += f", {size(rate)}/s, {duration((self._total - self._done) / rate)} left"
        return text

    def stop(self) -> None:
        """Whatever moves ends at its next part."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether the transfer is over before its end."""
        return self._stopped.is_set()

    def add(self, count: int) -> None:
        """Bytes went over the line; a negative count takes some back, which have to go again."""
        if self.stopped:
            raise Stopped
        with self._lock:
            self._done += count
            self._moved += count

    def _erase(self) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=self.progress.stream)
            self._drawn = False


class Track:
    """The position in one blob, which goes back where a part has to be sent again; without meter nobody counts."""

    def __init__(self, meter: Meter | None = None) -> None:
        self._meter = meter
        self.offset = 0

    def at(self, offset: int) -> None:
        """So many bytes have arrived."""
        if self._meter:
            self._meter.add(offset - self.offset)
        self.offset = offset
