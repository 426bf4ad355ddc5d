"""Where actions run: one small protocol, and interchangeable executors behind it.

A sandbox sees a read-only root, read-only inputs below /rfo-in, an empty writable /build and /out, and nothing
else: no network, no host path, no variable that is not listed, a fixed user and host name.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

INPUTS = "/rfo-in"
"""Where inputs are mounted: a name that no source contains, so that a leaked path is recognised in a binary."""


@dataclass(frozen=True)
class Mount:
    """A host file or folder at a fixed path inside."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Sandbox:
    """One command and all that it can see."""

    root: Path
    """The tree that becomes /, read-only."""
    command: tuple[str, ...]
    build: Path
    """Host folder that becomes the writable /build."""
    out: Path
    """Host folder that becomes the writable /out."""
    directory: str = "/build"
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to that of the setting."""
    mounts: tuple[Mount, ...] = ()
    timeout: float = 3 * 3600
    """Seconds until it is ended."""
    memory: int = 0
    """Bytes that all its processes may use together; 0 means no limit."""
    processes: int = 4096


@dataclass(frozen=True)
class Usage:
    """How a command ended and what it cost."""

    status: int
    """Exit status; negative for a signal."""
    seconds: float
    cpu: float
    peak: int
    """Bytes, all processes together, sampled."""
    stopped: str = ""
    """Why it was ended from outside, if it was."""


class Executor(Protocol):
    """A place that runs sandboxes."""

    name: str

    def check(self) -> None:
        """Raise HostError, with remedies, if this host cannot run sandboxes."""

    def run(self, sandbox: Sandbox, log: IO[bytes], cancel: threading.Event) -> Usage:
        """Run to the end, output to `log`; end it early when `cancel` is set. Raises HostError."""
