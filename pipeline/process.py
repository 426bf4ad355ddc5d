"""Run host programs: list arguments, an environment that is said, errors that show what the program printed."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import HostError, PipelineError, StoreError

TAIL = 2000
"""Characters of a failed program's output that an error shows."""
DISK_FULL = re.compile(rb"no space left on device|disk quota exceeded", re.IGNORECASE)
"""How programs say ENOSPC and EDQUOT."""


class CommandFailed(PipelineError):
    """A host program ended with a failure."""

    def __init__(self, command: Sequence[str], status: int, output: str) -> None:
        super().__init__(f"`{shlex.join(command)[:300]}` failed with status {status}:\n{output[-TAIL:].rstrip()}")
        self.status = status
        self.output = output


class TimedOut(HostError):
    """A host program was still running after its time, and was ended."""


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    timeout: float = 3600,
    check: bool = True,
) -> subprocess.CompletedProcess[bytes]:
    """Run `command` to its end and return what it printed.

    `env` replaces the whole environment; None keeps the caller's. Raises CommandFailed unless `check` is false,
    HostError if the program does not exist, TimedOut if it does not end within `timeout` seconds, StoreError if it
    says that the disk is full, also where `check` is false.
    """
    try:
        done = subprocess.run(
            list(command), env=env, cwd=cwd, input=stdin, capture_output=True, timeout=timeout, check=False
        )
    except FileNotFoundError as error:
        if cwd and not cwd.is_dir():
            raise HostError(f"the folder {cwd} does not exist") from error
        raise HostError(f"the program {command[0]} is not installed") from None
    except OSError as error:
        raise HostError(f"`{shlex.join(command)[:300]}` cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise TimedOut(f"`{shlex.join(command)[:300]}` did not end within {timeout:.0f} s") from None
    output = done.stderr + done.stdout if done.returncode else b""
    if full := DISK_FULL.search(output):
        line = output[output.rfind(b"\n", 0, full.start()) + 1 : full.end()].decode(errors="replace").strip()
        raise StoreError(
            f"{cwd or 'a disk'}: no space is left, says `{shlex.join(command)[:300]}`: {line[-300:]}",
            "free some space or choose another store: RFO_STORE=/path",
        )
    if check and done.returncode:
        raise CommandFailed(command, done.returncode, output.decode(errors="replace"))
    return done


def find_program(name: str, *, packages: str) -> str:
    """The path of a host program; a HostError says which `packages` bring it."""
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        raise HostError(f"the program {name} is needed and was not found", f"install it: {packages}")
    return path
