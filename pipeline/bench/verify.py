"""Verifying a promoted release, against hashing the same files with openssl on all cores."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.attest.standalone import render_verifier
from pipeline.errors import HostError
from pipeline.verifier.folder import Folder, cores, split_evenly
from pipeline.verifier.sealed import STATEMENT_PATH

RUNS = 3
ROOT = "trust/metadata/1.root.json"


def verifying(dist: Path) -> tuple[float, float]:
    """Seconds of `rfo-verify` as a program, start included, and of openssl over the same files; the least of three.

    Both read files that are in memory. Raises HostError where there is no promoted release or no openssl.
    """
    openssl = shutil.which("openssl")
    if not openssl:
        raise HostError("there is no openssl to verify with", "dnf install openssl, or apt-get install openssl")
    if not (dist / STATEMENT_PATH).is_file() or not (dist / ROOT).is_file():
        raise HostError(f"{dist} is no promoted release", f"./inv promote --from {dist}")
    with tempfile.TemporaryDirectory(prefix="rfo-bench-") as name:
        program = Path(name, "rfo-verify")
        program.write_bytes(render_verifier())
        verify = [sys.executable, "-I", str(program), "--release", str(dist), "--root", str(dist / ROOT)]
        shares = split_evenly(Folder(dist).sizes, cores())
        plain = [[openssl, "dgst", "-sha256", *(str(dist / path) for path in share)] for share in shares]
        ours, theirs = [], []
        for _ in range(RUNS):
            theirs.append(_seconds(plain))
            ours.append(_seconds([[*verify, "--state", f"{name}/state"]]))
    return min(ours), min(theirs)


def _seconds(commands: list[list[str]]) -> float:
    """Of commands that run side by side. Raises HostError if one fails."""
    started = time.monotonic()
    running = [
        (command[0], subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        for command in commands
    ]
    for name, process in running:
        _, said = process.communicate()
        if process.returncode:
            raise HostError(f"{Path(name).name} failed: {said.strip()[-500:]}")
    return time.monotonic() - started
