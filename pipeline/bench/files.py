"""Files: hashing, storing and comparing against the plain tools."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from pipeline.compare.compare import compare
from pipeline.errors import HostError
from pipeline.model import Digest
from pipeline.process import run
from pipeline.store import Store

HASHED = 1 << 30
"""Bytes of the file that is hashed, copied and compared."""


def hashing(store: Store) -> tuple[float, float]:
    """Seconds of our hash and of openssl's over the same file, the smaller of three each, in turn."""
    ours, theirs = [], []
    with store.workspace() as work:
        file = _big_file(work)
        for _ in range(3):
            started = time.monotonic()
            Digest.of_file(file)
            ours.append(time.monotonic() - started)
            started = time.monotonic()
            run(["openssl", "dgst", "-sha256", str(file)])
            theirs.append(time.monotonic() - started)
    return min(ours), min(theirs)


def copying(store: Store) -> tuple[float, float]:
    """Seconds of bringing a file into a store and of the plain tools that do the same: hash, then sync."""
    with store.workspace() as work:
        small = Store(work / "store")
        file = _big_file(work / "store" / "tmp")
        os.sync()
        started = time.monotonic()
        small.add(file)
        ours = time.monotonic() - started
        other = _big_file(work)
        os.sync()
        started = time.monotonic()
        run(["openssl", "dgst", "-sha256", str(other)])
        run(["sync", str(other)])
        run(["mv", str(other), str(work / "moved")])
        theirs = time.monotonic() - started
    return ours, theirs


def comparing(store: Store) -> tuple[float, float]:
    """Seconds of comparing two equal files and of our hash over one of them, the smaller of three each, in turn."""
    ours, theirs = [], []
    with store.workspace() as work:
        file = _big_file(work)
        other = shutil.copyfile(file, work / "copy")
        for _ in range(3):
            started = time.monotonic()
            if compare(file, other, "big"):
                raise HostError("a copy of a file differs from it", "check the disk of this host")
            ours.append(time.monotonic() - started)
            started = time.monotonic()
            Digest.of_file(file)
            theirs.append(time.monotonic() - started)
    return min(ours), min(theirs)


def _big_file(folder: Path) -> Path:
    file = folder / "big"
    block = os.urandom(1 << 20)
    with file.open("wb") as out:
        for _ in range(HASHED >> 20):
            out.write(block)
    subprocess.run(["cat", str(file)], stdout=subprocess.DEVNULL, check=True)  # both sides read from memory
    return file
