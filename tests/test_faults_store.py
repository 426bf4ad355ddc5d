"""What hosts do to a store: damage, full and read-only disks, two runs at once, clocks that go back."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine import HOST, toolchain
from faults import STAGES, TINY, Place, own_mounts

from pipeline.errors import StoreError
from pipeline.model import Digest
from pipeline.store import ABANDONED, Store

FREE = {
    "lock": (0, 1 << 16, 1 << 20),
    "fetch": (4096, 1 << 16),
    "assemble": (0, 1 << 20),
    "build": (0, 1 << 16, 1 << 20),
    "check": (0, 4096),
    "pack": (4096, 1 << 20),
    "publish": (0, 1 << 16),
}
"""Bytes that are left when a stage begins: so that it fails at several of its steps."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A release that is made; each test leaves it as it was."""
    made = Place.make(tmp_path_factory.mktemp("faults"))
    made.run()
    return made


@pytest.fixture(scope="module")
def undisturbed(place: Place) -> dict[str, str]:
    return place.made()


# --- damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    replace(path, bytes(data))


def cut(path: Path) -> None:
    replace(path, path.read_bytes()[:-1])


def link(path: Path) -> None:
    """The very content, but elsewhere, where somebody else may change it."""
    other = elsewhere(path)
    path.rename(other)
    path.symlink_to(other)


def elsewhere(path: Path) -> Path:
    """A place for it on the same disk that is no part of the release."""
    root = next(p for p in path.parents if (p / "store").is_dir())
    return root / "elsewhere"


def lose(path: Path) -> None:
    path.unlink()


def replace(path: Path, data: bytes) -> None:
    """Not in place: it may be linked with another store's."""
    mode = path.stat().st_mode
    path.unlink()
    path.write_bytes(data)
    path.chmod(mode)


def output(place: Place, undisturbed: dict[str, str]) -> Path:
    return Store(place.store).blob(Digest.parse(undisturbed[f"build/rfo/{HOST}:rfo"]))


def package(place: Place, _: dict[str, str]) -> Path:
    lock = (place.store / "locks-of-bases" / f"{TINY}.lock").read_text()
    line = next(x for x in lock.splitlines() if x.startswith("package "))
    return Store(place.store).blob(Digest.parse(next(f for f in line.split() if f.startswith("sha256:"))))


def of_tree(place: Place, _: dict[str, str]) -> Path:
    return next((place.store / "trees").glob("*/usr/bin/gzip"))


def of_toolchain(place: Place, _: dict[str, str]) -> Path:
    return place.store / "gomod" / toolchain().module.directory / "VERSION"


def record(place: Place, _: dict[str, str]) -> Path:
    records = (place.store / "records").glob("*.json")
    return next(p for p in records if json.loads(p.read_bytes())["name"] == f"build/rfo/{HOST}")


def published(place: Place, _: dict[str, str]) -> Path:
    return place.dist / f"rfo.linux-{HOST}.tar.gz"


DAMAGES = (flip, cut, link, lose)
CASES = [
    (what, damage, stage)
    for what, stage, damages in (
        (output, "check", DAMAGES),
        (package, "assemble", DAMAGES),
        (of_tree, "pack", DAMAGES),
        (record, "publish", DAMAGES),
        (published, "", DAMAGES),
        (of_toolchain, "build", (link,)),  # all of it is fetched again: the others are tried on a small module
    )
    for damage in damages
]
"""What is damaged, how, and the first stage that the next run has to do all the same: one that uses it."""


@pytest.mark.parametrize(
    ("what", "damage", "stage"), CASES, ids=[f"{what.__name__}-{damage.__name__}" for what, damage, _ in CASES]
)
def test_what_is_damaged_is_made_again(
    what: Callable[[Place, dict[str, str]], Path],
    damage: Callable[[Path], None],
    stage: str,
    place: Place,
    undisturbed: dict[str, str],
) -> None:
    if stage:
        place.undo(stage)
    path = what(place, undisturbed)
    good = path.read_bytes()
    damage(path)
    place.run()
    assert place.made() == undisturbed
    assert what is record or path.read_bytes() == good  # a record also says how long it took
    assert not path.is_symlink()
    if damage is link:
        assert elsewhere(path).read_bytes() == good


# --- full and read-only disks


def alone(command: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command that makes mounts of its own."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.fail(f"no user namespaces: {done.stderr.strip()}")
    return done


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory, undisturbed: dict[str, str]) -> list[dict[str, Any]]:
    """What came of runs that met a full disk, all in one process on disks of its own."""
    place = Place.make(tmp_path_factory.mktemp("full"))
    modules = place.store.parent / "gomod"
    (place.store / "gomod").rename(modules)
    (place.checkout / "dist").mkdir()
    mounts = own_mounts(
        f"mount -t tmpfs -o size=128m none {place.store}",
        f"mkdir {place.store}/gomod",
        f"mount --bind {modules} {place.store}/gomod",
        f"mount -t tmpfs -o size=16m none {place.checkout}/dist",
    )
    asked = [f"--full={stage}={free}" for stage in STAGES for free in FREE[stage]]
    done = alone(place.command(*asked, prefix=mounts))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["expected"] == undisturbed
    return [m | {"store": str(place.store), "dist": str(place.dist)} for m in found["met"]]


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_named_and_with_space_the_same_run_succeeds(stage: str, met: list[dict[str, Any]]) -> None:
    for found in (m for m in met if m["stage"] == stage):
        assert found["kind"] == "StoreError", found
        assert found["dist" if stage == "publish" else "store"] in found["reason"]
        assert "free some space" in found["hint"] + found["reason"]
        assert not found["published"]
        assert found["same"]


def test_on_a_read_only_store_what_writes_nothing_works_and_what_writes_is_refused(
    place: Place, undisturbed: dict[str, str]
) -> None:
    mounts = own_mounts(f"mount --bind {place.store} {place.store}", f"mount -o remount,bind,ro {place.store}")
    done = alone(place.command("--component", "rfo", prefix=mounts))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ran"] == 0
    for stage in ("publish", "build"):
        place.undo(stage)
        done = alone(place.command(prefix=mounts))
        assert done.returncode == StoreError.exit_code
        assert "Read-only file system" in done.stderr
        assert str(place.store) in done.stderr
        assert "choose a writable store" in done.stderr
        assert not place.dist.exists() or not list(place.dist.iterdir())
        place.run()
        assert place.made() == undisturbed


# --- two runs at once


@pytest.mark.parametrize("stage", ["lock", "build"])
def test_two_releases_at_once_share_the_work_and_end_with_the_same_bytes(
    stage: str, place: Place, undisturbed: dict[str, str]
) -> None:
    place.undo(stage)
    runs = [subprocess.Popen(place.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    said = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    found = [json.loads(out) for out, _ in said]
    assert [f["ran"] + f["cached"] for f in found] == [5, 5]
    assert sum(f["ran"] for f in found) == 5  # each action once, by whichever came first
    assert place.made() == undisturbed


# --- clocks


def test_a_clock_that_was_set_back_changes_nothing(place: Place, undisturbed: dict[str, str]) -> None:
    """All that the store and dist/ hold is then of the future."""
    future = time.time() + 10 * 365 * 86400
    for folder, folders, files in os.walk(place.store.parent):
        if "toolchain@" in folder:  # linked with the tests' own
            folders.clear()
            continue
        for name in [*folders, *files]:
            os.utime(Path(folder, name), (future, future), follow_symlinks=False)
    assert place.run().ran == 0
    assert place.made() == undisturbed
    place.undo("assemble")
    assert place.run().ran == 5
    assert place.made() == undisturbed


def test_a_workspace_of_the_future_is_kept_and_so_is_one_in_use(place: Place, undisturbed: dict[str, str]) -> None:
    """The clock was set back, or on: in either case only what nobody holds and is old goes."""
    store = Store(place.store)
    left = store.root / "tmp" / "left"
    left.mkdir()
    with store.workspace() as used:
        os.utime(used, (0, 0))
        os.utime(left, (time.time() + ABANDONED * 30,) * 2)
        place.undo("pack")
        place.run()
        assert used.is_dir()
        assert left.is_dir()
        os.utime(left, (0, 0))
        place.undo("pack")
        place.run()
        assert used.is_dir()
        assert not left.exists()
    assert place.made() == undisturbed
