"""Verifying a promoted release, against hashing the same files with openssl on all cores."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.attest.standalone import render_verifier
from pipeline.errors import HostError
from pipeline.verifier.folder import Folder, cores, split_evenly
from pipeline.verifier.sealed import STATEMENT_PATH

RUNS = 5
"""Pairs; an odd number."""
ROOT = "trust/metadata/1.root.json"


def verifying(dist: Path) -> tuple[float, float, float]:
    """Seconds of `rfo-verify` as a program, start included, and its ratios to openssl over the same files.

    They run in turns, so that other load meets both, and read files that are in memory: the least seconds, and of the
    ratios of each pair the median, in wall time and in processor time. Raises HostError where there is no promoted
    release or no openssl.
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
        _measure(plain)  # reads the files into memory
        pairs = []
        for turn in range(RUNS):
            both = {"ours": [[*verify, "--state", f"{name}/state"]], "theirs": plain}
            spent = {who: _measure(both[who]) for who in sorted(both, reverse=bool(turn % 2))}
            pairs.append((spent["ours"], spent["theirs"]))
    wall, processor = (statistics.median(ours[i] / theirs[i] for ours, theirs in pairs) for i in range(2))
    return min(ours[0] for ours, _ in pairs), wall, processor


def _measure(commands: list[list[str]]) -> tuple[float, float]:
    """Seconds of commands that run side by side, and of processors that they took. Raises HostError if one fails."""
    started, before = time.monotonic(), os.times()
    running = [
        (command[0], subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        for command in commands
    ]
    for name, process in running:
        _, said = process.communicate()
        if process.returncode:
            raise HostError(f"{Path(name).name} failed: {said.strip()[-500:]}")
    wall, after = time.monotonic() - started, os.times()
    children = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, children
