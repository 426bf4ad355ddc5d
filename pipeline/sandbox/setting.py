"""The circumstances of a sandbox: what surrounds a command without being its input, and must not reach its output.

A release uses the usual ones; a proof runs the same commands in others. Pure; no I/O.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.sandbox import INPUTS

PLACES = ("inputs", "build", "out")
"""Folders of a sandbox whose paths a setting chooses."""
USUAL = {"inputs": INPUTS, "build": "/build", "out": "/out"}
_PATH = re.compile(r"(?<![\w./+-])/(rfo-in|build|out)(?=[/\s:;,'\"]|$)")
"""A usual path in a command or variable: at its start or after a separator, and whole."""
PRELOADED = "clock/libfaketime.so.1"
"""Where the library that shifts the clock stands below the inputs."""


@dataclass(frozen=True)
class Setting:
    """Paths, user, names and variables that a command in a sandbox meets."""

    inputs: str = USUAL["inputs"]
    build: str = USUAL["build"]
    out: str = USUAL["out"]
    uid: int = 1000
    gid: int = 1000
    umask: int = 0o022
    host: str = "build"
    """Host name."""
    home: str = USUAL["build"]
    zone: str = "UTC"
    """TZ."""
    locale: str = "C.UTF-8"
    """LC_ALL."""
    noise: Mapping[str, str] = field(default_factory=dict)
    """Variables that no program has a use for."""
    fewer_processors: bool = False
    """One processor less than there are, where there are several."""
    clock: str = ""
    """How far the clock is off, as libfaketime reads it (`+400d`); only programs with a dynamic loader see it."""
    clock_library: Path | None = None
    """libfaketime on the host."""

    def place(self, text: str) -> str:
        """A command's word or a variable's value with the usual paths replaced by those of this setting."""
        return _PATH.sub(lambda m: {"rfo-in": self.inputs, "build": self.build, "out": self.out}[m[1]], text)

    @property
    def environment(self) -> dict[str, str]:
        """What every command has in its environment."""
        shifted = {
            "LD_PRELOAD": f"{self.inputs}/{PRELOADED}",
            "FAKETIME": self.clock,
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        usual = {
            "PATH": "/usr/sbin:/usr/bin",
            "HOME": self.home,
            "TMPDIR": self.build,
            "TZ": self.zone,
            "LC_ALL": self.locale,
        }
        return {**self.noise, **usual, **(shifted if self.clock and self.clock_library else {})}
