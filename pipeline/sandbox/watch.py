"""What every executor watches of a running sandbox: its processes' memory and number, its time, and what it prints."""

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pipeline.sandbox import Sandbox

POLL = 1.0
"""Seconds between looks at a running sandbox's memory and time; its end is noticed at once."""
FIRST_POLL = 0.02
"""Seconds until the first look; it grows to POLL, so that short commands are measured too."""
LINGER = 30.0
"""Seconds that the kernel gets to end killed processes."""
MAX_LOG = 256 << 20
"""Bytes that a command may print: one that prints for ever must not fill the disk."""
HIDDEN_FOLDERS = ("acpi", "asound", "dynamic_debug", "fs", "pressure", "scsi", "sys")
HIDDEN_FILES = ("kcore", "keys", "kmsg", "latency_stats", "mtrr", "sched_debug", "sysrq-trigger", "timer_list")
"""Of /proc: they show or change the host. Root on the host owns them inside a user namespace too, so that a build
started by root could write /proc/sys/kernel/core_pattern and with it run a program outside."""
PAGE = os.sysconf("SC_PAGE_SIZE")
THREADS = 16
"""Threads per process that the kernel's limit allows for: it counts them all."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """What a process and all below it use at one moment."""

    memory: int = 0
    """Resident bytes."""
    cpu: float = 0.0
    """Seconds, of processes that ended and were waited for as well."""
    processes: int = 0


def sample(root: int) -> Sample:
    """Look at a process and all below it; processes that vanish meanwhile count nothing."""
    memory, ticks, count, pending = 0, 0, 0, [root]
    while pending:
        pid = pending.pop()
        try:
            # After the name in parentheses (proc_pid_stat(5)): utime, stime, cutime, cstime are 14 to 17, rss is 24.
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            memory += int(fields[21]) * PAGE
            ticks += sum(map(int, fields[11:15]))
            count += 1
            for task in Path(f"/proc/{pid}/task").iterdir():
                pending += map(int, (task / "children").read_text().split())
        except (OSError, IndexError, ValueError):
            continue
    return Sample(memory, ticks / TICKS, count)


@dataclass
class Watch:
    """One run of a sandbox: what it has used so far, and when that is too much."""

    sandbox: Sandbox
    log: IO[bytes]
    cancel: threading.Event
    peak: int = 0
    """Bytes."""
    cpu: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    @property
    def pause(self) -> float:
        """Seconds until the next look."""
        return min(POLL, FIRST_POLL + self.seconds / 10)

    def reason_to_end(self, seen: Sample) -> str:
        """Take note of a sample; why the sandbox has to be ended now, or nothing."""
        sandbox = self.sandbox
        self.peak, self.cpu = max(self.peak, seen.memory), max(self.cpu, seen.cpu)
        if self.cancel.is_set():
            return "interrupted"
        if self.seconds > sandbox.timeout:
            return f"still running after {sandbox.timeout:.0f} s"
        if sandbox.memory and seen.memory > sandbox.memory:
            return too_much_memory(seen.memory, sandbox.memory)
        if seen.processes > sandbox.processes:
            return f"it had {seen.processes} processes; the limit is {sandbox.processes}"
        if os.fstat(self.log.fileno()).st_size > MAX_LOG:
            return f"it printed more than {MAX_LOG >> 20} MiB"
        return ""


def too_much_memory(taken: int, limit: int) -> str:
    """How it is said that all processes of a sandbox together went over their limit, both in bytes."""
    return f"its processes took {taken >> 20} MiB of memory; the limit is {limit >> 20} MiB"
