"""`inv test`: what has to hold before a change lands, as one command."""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.context import CHECKOUT
from pipeline.errors import HostError

LOCK = CHECKOUT / "requirements-dev.lock"
WORKERS = ("-n", "2", "--dist", "loadfile")
"""Tests mostly wait for programs that they start. Those of a file share what they made, so they stay in one process."""


def run_tests(match: str, *, full: bool) -> int:
    """Install the pinned development tools if need be and run pytest; returns its exit status."""
    stamp = Path(sys.prefix) / LOCK.name
    if not stamp.exists() or stamp.read_bytes() != LOCK.read_bytes():
        print("installing the test tools (once) ...", file=sys.stderr)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        if subprocess.run([*command, "--only-binary", ":all:", "-r", str(LOCK)], check=False).returncode:
            raise HostError(
                f"the packages of {LOCK.name} could not be installed", "run the command again; it starts over safely"
            )
        stamp.write_bytes(LOCK.read_bytes())
    command = [sys.executable, "-m", "pytest", *(["-k", match] if match else []), *([] if full else ["-m", "not full"])]
    command += [] if match or full else WORKERS
    return subprocess.run(command, cwd=CHECKOUT, env=os.environ, check=False).returncode
