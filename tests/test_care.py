"""What is removed from a store is what should go, and only that; what is damaged is found; and a run never notices."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path

import pytest
from conftest import VERSION, MemoryExecutor, action, writes
from engine import HOST, SMALL, contents, make_context, run_process, second_store
from test_store import DAMAGES, flip, in_namespace, replace_by_link

from images import PLAIN, image_checkout
from pipeline.base.assemble import tree_digest
from pipeline.care.gc import Limits, Plan, collect
from pipeline.care.inventory import take_inventory, totals
from pipeline.care.verify import Report, refuse_damage, repair, verify
from pipeline.cli import keeping
from pipeline.context import CHECKOUT
from pipeline.errors import StoreError, UsageError
from pipeline.graph import Graph, Ref
from pipeline.lock import BaseLock, Package, SourcesLock
from pipeline.model import Digest, Module
from pipeline.release import release
from pipeline.report.care import say_gc, say_status, say_verify
from pipeline.report.progress import Progress
from pipeline.roots import Roots
from pipeline.scheduler import Result, Scheduler
from pipeline.sources.go import hash_tree
from pipeline.store import ABANDONED, Output, Store, remove_tree

DAY = 86400.0
ALL = Limits(age=0.0)
"""Everything that may go."""
BIG = "x" * 100_000


def quiet() -> Progress:
    return Progress(stream=StringIO())


def gc(store: Store, checkout: Path, limits: Limits = ALL, *, dry_run: bool = False) -> Plan:
    return collect(store, checkout, limits, quiet(), dry_run=dry_run)


def graph(*names: str) -> Graph:
    """Actions whose outputs are large, and one after them that reads all."""
    made = [action(f"build/{n}/amd64", writes(n + BIG), text=n) for n in names]
    inputs = {n: Ref(f"build/{n}/amd64", "file") for n in names}
    return Graph([*made, action("tarball/amd64", writes("end"), inputs)])


def build(scheduler: Scheduler, *names: str) -> Result:
    result = scheduler.run(graph(*names))
    assert result.failures == []
    return result


def files(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below a folder, with what a change of it would change."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        found[str(path)] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def grow_old(path: Path, days: float) -> None:
    """As if it had been used so long ago."""
    then = time.time() - days * DAY
    for item in [*path.rglob("*"), path]:
        os.utime(item, (then, then), follow_symlinks=False)


def record_file(store: Store, name: str) -> Path:
    return next(p for p in (store.root / "records").glob("*.json") if json.loads(p.read_bytes())["name"] == name)


def put(path: Path, text: str = BIG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def plant_root(store: Store, name: str, files: int = 0) -> Path:
    """A root with its stamp, as `Roots` leaves it."""
    tree = store.root / "trees" / Digest.of_bytes(name.encode()).hex
    for number in range(files):
        put(tree / "etc" / str(number), "")
    put(tree / "usr" / "bin" / "sh")
    (tree / "bin").symlink_to("usr/bin")
    tree.with_suffix(".digest").write_text(str(tree_digest(tree)))
    tree.with_suffix(".lock").write_text("")
    return tree


def plant_cache(store: Store, cache: str, *entries: str) -> list[Path]:
    """Entries of a compile cache."""
    put(store.root / "gocache" / cache / "README", "")
    return [put(store.root / "gocache" / cache / e[:2] / f"{e}-d") for e in entries]


def plant_module(store: Store, path: str) -> Module:
    """A module as `go mod download` leaves it."""
    module = Module(path, "v1.0.0", f"h1:{'A' * 43}=")
    put(store.gomod / module.directory / "main.go")
    for suffix in ("zip", "ziphash", "mod", "info"):
        put(store.gomod / "cache" / "download" / path / "@v" / f"v1.0.0.{suffix}")
    return Module(path, "v1.0.0", hash_tree(store.gomod / module.directory, str(module)))


def pin(checkout: Path, *modules: Module, packages: Sequence[Output] = (), where: str = f"releases/{VERSION}") -> None:
    """Locks of a release that pin these."""
    lock = SourcesLock(VERSION, Digest.of_bytes(b""), modules={m: frozenset({"rfo"}) for m in modules})
    put(checkout / "releases" / VERSION / "sources.lock", lock.render())
    if packages:
        pins = [Package("builder", "amd64", f"p{n}", "1", "pool/p", p.size, p.digest) for n, p in enumerate(packages)]
        put(checkout / where / "tiny.lock", BaseLock("tiny", tuple(pins), ()).render())


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose locks pin nothing yet."""
    pin(tmp_path / "checkout")
    return tmp_path / "checkout"


# --- sizes


def test_sizes_are_those_on_disk_and_links_lead_nowhere(store: Store, tmp_path: Path) -> None:
    put(tmp_path / "outside" / "big", BIG * 10)
    entry = plant_cache(store, "go1", "aa")[0]
    (entry.parent / "ab-d").hardlink_to(entry)
    (entry.parent / "link").symlink_to(tmp_path / "outside")
    (store.root / "records" / "link").symlink_to(tmp_path / "outside")
    (store.root / "fetched").symlink_to(tmp_path / "outside")
    found = {t.kind: t for t in totals(take_inventory(store))}
    assert 0 <= found["gocache/go1"].size - entry.stat().st_blocks * 512 < 8192
    assert found["gocache/go1"].files == 4
    assert found["records"].size + found["other"].size <= 8192


def test_totals_are_what_du_counts_but_for_the_folders_of_the_layout(store: Store, scheduler: Scheduler) -> None:
    build(scheduler, "a", "b")
    plant_root(store, "root")
    plant_module(store, "example.org/m")
    counted = sum(t.size for t in totals(take_inventory(store)))
    folders = sum(p.lstat().st_blocks * 512 for p in [store.root, *store.root.rglob("*")] if p.is_dir())
    du = subprocess.run(["du", "-sB1", str(store.root)], capture_output=True, text=True, check=True)
    assert int(du.stdout.split()[0]) - folders <= counted <= int(du.stdout.split()[0])


# --- limits


@pytest.mark.parametrize("text", ["", "x", "30", "d", "-1d", "3x", "1.5d", "30d ", "99999d", "٣d"])
def test_an_age_has_a_unit(text: str) -> None:
    with pytest.raises(UsageError, match="--max-age"):
        Limits.parse("", text)


@pytest.mark.parametrize("text", ["x", "20", "20GB", "-1GiB", "0GiB", "1.5GiB"])
def test_a_size_has_a_unit(text: str) -> None:
    with pytest.raises(UsageError, match="--max-size"):
        Limits.parse(text)


def test_limits_are_read_as_they_are_written() -> None:
    assert Limits.parse() == Limits(30 * DAY, None)
    assert Limits.parse("20GiB", "12h", pins=True) == Limits(DAY / 2, 20 << 30, pins=True)
    assert Limits.parse("512MiB", "2w") == Limits(14 * DAY, 512 << 20)


# --- gc


def test_what_was_not_used_for_long_goes_and_the_rest_stays(store: Store, scheduler: Scheduler, checkout: Path) -> None:
    old, new = build(scheduler, "old"), build(scheduler, "new")
    for name in ("build/old/amd64", "tarball/amd64"):
        path = next(p for p in (store.root / "records").iterdir() if json.loads(p.read_bytes())["name"] == name)
        grow_old(path, 40)
    roots = [plant_root(store, n) for n in ("old", "new")]
    entries = plant_cache(store, "go1", "aa", "bb")
    logs = [put(store.root / "logs" / f"{n}.log") for n in ("old", "new")]
    for path in (roots[0].with_suffix(".digest"), roots[0].with_suffix(".lock"), entries[0], logs[0]):
        grow_old(path, 40)
    grow_old(store.root / "blobs", 40)
    plan = gc(store, checkout, Limits.parse())
    assert not store.has(old.outputs["build/old/amd64"]["file"].digest)
    assert store.has(new.outputs["build/new/amd64"]["file"].digest)
    assert [p.exists() for p in (*roots, *entries, *logs)] == [False, True] * 3
    assert [p.name for p in (store.root / "trees").iterdir() if roots[0].name in p.name] == []
    assert {k: n for k, (n, _) in plan.kinds.items()} == {"logs": 1, "trees": 1, "compile caches": 1, "records": 2}
    assert gc(store, checkout, Limits.parse()).removals == []
    assert verify(store, checkout, quiet()).damages == []


def test_a_hit_is_a_use(store: Store, scheduler: Scheduler, checkout: Path) -> None:
    build(scheduler, "a")
    grow_old(store.root / "records", 40)
    grow_old(store.root / "blobs", 40)
    assert build(scheduler, "a").ran == []
    assert gc(store, checkout, Limits.parse()).removals == []
    assert build(scheduler, "a").ran == []


def test_to_a_size_the_cheapest_goes_first_and_of_it_the_least_used(
    store: Store, scheduler: Scheduler, checkout: Path
) -> None:
    first, second = build(scheduler, "first"), build(scheduler, "second")
    loose = store.add_bytes(b"loose" + BIG.encode())
    kept = store.add_bytes(b"pinned" + BIG.encode())
    pin(checkout, packages=[kept])
    things = {
        "log": put(store.root / "logs" / "x.log"),
        "old root": plant_root(store, "old"),
        "new root": plant_root(store, "new"),
        "old entry": plant_cache(store, "go1", "aa")[0],
        "new entry": plant_cache(store, "go2", "bb")[0],
        "loose": store.blob(loose.digest),
        "first": store.blob(first.outputs["build/first/amd64"]["file"].digest),
        "second": store.blob(second.outputs["build/second/amd64"]["file"].digest),
        "pinned": store.blob(kept.digest),
    }
    grow_old(things["old root"].with_suffix(".digest"), 1)
    grow_old(things["old root"].with_suffix(".lock"), 1)
    grow_old(things["old entry"], 1)
    grow_old(record_file(store, "build/first/amd64"), 1)
    gone: list[str] = []
    while True:
        size = sum(t.size for t in totals(take_inventory(store)))
        plan = gc(store, checkout, Limits(DAY * 30, size - 1))
        lost = [n for n in things if n not in gone and not things[n].exists()]
        if plan.over:
            break
        gone += lost
    assert gone == [n for n in things if n != "pinned"]
    assert plan.pinned == things["pinned"].stat().st_blocks * 512
    gc(store, checkout, Limits(DAY * 30, size - 1, pins=True))
    assert not things["pinned"].exists()
    assert build(scheduler, "first", "second").outputs["build/first/amd64"] == first.outputs["build/first/amd64"]


def test_what_locks_pin_stays(store: Store, scheduler: Scheduler, checkout: Path) -> None:
    build(scheduler, "a")
    committed, shipped, floating, loose = (
        store.add_bytes(n.encode()) for n in ("committed", "shipped", "own", "loose")
    )
    pinned, other = plant_module(store, "example.org/pinned"), plant_module(store, "example.org/other")
    above, below = plant_module(store, "example.org"), plant_module(store, "example.org/pinned/v2")
    stamp = put(store.gomod / "fetched" / "stamp", "")
    pin(checkout, pinned, packages=[committed])
    pin(checkout, pinned, packages=[shipped], where=f"dist/{VERSION}@tiny")
    pin(store.root, packages=[floating], where="locks-of-bases")
    gc(store, checkout, Limits(0.0, 1 << 20))
    assert [store.has(o.digest) for o in (committed, shipped, floating, loose)] == [True, True, True, False]
    assert hash_tree(store.gomod / pinned.directory, str(pinned)) == pinned.sum
    assert not (store.gomod / other.directory).exists()
    assert all((store.gomod / m.directory).exists() for m in (above, below))
    assert not stamp.exists()  # go has to say again whether the module cache is complete
    kept = {p.name for p in (store.gomod / "cache" / "download" / "example.org" / "other" / "@v").iterdir()}
    assert kept == {"v1.0.0.mod", "v1.0.0.info"}  # a module graph reads them, also of versions that nothing selects
    gc(store, checkout, Limits(0.0, None, pins=True))
    assert not any(store.has(o.digest) for o in (committed, shipped, floating))
    assert not (store.gomod / pinned.directory).exists()


def test_files_that_records_share_stay_as_long_as_one_is_used(
    store: Store, scheduler: Scheduler, checkout: Path
) -> None:
    first = scheduler.run(Graph([action("one", writes("same"), of="1")]))
    scheduler.run(Graph([action("two", writes("same"), of="2")]))
    grow_old(store.root / "blobs", 40)
    grow_old(record_file(store, "one"), 40)
    gc(store, checkout, Limits.parse())
    assert store.has(first.outputs["one"]["file"].digest)
    assert scheduler.run(Graph([action("two", writes("same"), of="2")])).ran == []


def test_what_killed_runs_left_goes(store: Store, checkout: Path) -> None:
    left = [put(store.root / "records" / ".x.json.abcdefgh"), put(store.root / "tmp" / "gc" / "folder" / "file")]
    work = put(store.root / "tmp" / "old" / "file")
    grow_old(work.parent, ABANDONED / DAY + 1)
    young = put(store.root / "tmp" / "young" / "file")
    gc(store, checkout, Limits.parse())
    assert [p.exists() for p in (*left, work, young)] == [False, False, False, True]


def test_a_dry_run_changes_nothing(store: Store, scheduler: Scheduler, checkout: Path) -> None:
    build(scheduler, "a")
    plant_root(store, "root")
    before = files(store.root)
    plan = gc(store, checkout, ALL, dry_run=True)
    assert plan.freed > 2 * len(BIG)
    assert files(store.root) == before
    assert gc(store, checkout, ALL).freed == plan.freed
    left = sum(t.size for t in totals(take_inventory(store)))
    assert left == plan.before - plan.freed


def test_a_lock_that_cannot_be_read_stops_it(store: Store, scheduler: Scheduler, checkout: Path) -> None:
    build(scheduler, "a")
    put(store.root / "locks-of-bases" / "x.lock", "base x\nnonsense\n")
    before = files(store.root)
    with pytest.raises(Exception, match=r"x\.lock: line 2 is not a pin"):
        gc(store, checkout)
    (store.root / "locks-of-bases" / "x.lock").unlink()
    replace_by_link(put(store.root / "locks-of-bases" / "x.lock", "base x\n"))
    with pytest.raises(StoreError, match="is not a file"):
        gc(store, checkout)
    assert {p for p in before if "/records/" in p or "/blobs/" in p} <= set(files(store.root))


@pytest.mark.parametrize("name", ["blobs", "trees", "gomod", "gocache", "logs", "records"])
def test_a_link_in_place_of_a_folder_is_never_followed(store: Store, checkout: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    put(outside / "sha256" / "ab" / ("ab" * 32))
    grow_old(outside, 100)
    (store.root / name / "sha256").rmdir() if name == "blobs" else None
    (store.root / name).rmdir() if (store.root / name).exists() else None
    (store.root / name).symlink_to(outside)
    before = files(outside)
    with pytest.raises(StoreError, match="is a link"):
        gc(store, checkout)
    assert [d.paths for d in verify(store, checkout, quiet()).damages] == [(name,)]
    repair(store, checkout, quiet())
    assert not (store.root / name).exists()
    assert files(outside) == before


def test_after_everything_went_the_same_bytes_are_made_without_network(tmp_path: Path) -> None:
    checkout = image_checkout(tmp_path / "c", PLAIN)
    release(make_context(checkout, arches=(HOST,)))
    dist = checkout / "dist" / SMALL
    expected = contents(dist)
    with second_store() as root:
        store = Store(root)
        layers = {r: roots_of(checkout).find(r, HOST) for r in ("minimal", "packer")}
        assert all((root / "trees" / r.key.hex).exists() for r in layers.values())
        collect(store, checkout, ALL, quiet(), dry_run=False)
        assert list((root / "trees").iterdir()) == []
        assert all(store.has(p.digest) for r in layers.values() for p in r.packages)
        remove_tree(dist)
        run_process(checkout, root, "--arch", HOST, "--offline")
        assert contents(dist) == expected

        report = verify(store, checkout, quiet())
        assert report.damages == [] and report.checked["roots"] >= len(layers)
        made = store.history(f"layer/minimal/{HOST}")
        assert made
        blob = store.blob(made.outputs["layer.tar.gz"].digest)
        assert blob.stat().st_nlink == 1, "not the other store's"
        flip(blob)
        (root / "trees" / layers["minimal"].key.hex / "etc" / "passwd").write_text("root::0:0:::\n")
        named = damaged(repair(store, checkout, quiet()))
        assert any(f"(layer.tar.gz of layer/minimal/{HOST})" in what for what in named)
        assert f"record of layer/minimal/{HOST}" in named
        assert f"root trees/{layers['minimal'].key.hex}" in named


def roots_of(checkout: Path) -> Roots:
    return make_context(checkout, arches=(HOST,)).inputs[HOST].roots


FULL = """
import os
from io import StringIO
from pathlib import Path
from pipeline.care.gc import Limits, collect
from pipeline.report.progress import Progress
from pipeline.store import Store
root = Path(os.environ["STORE"])
tree = root / "trees" / ("0" * 64)
(Store(root).root / "logs").mkdir()
(tree / "usr").mkdir(parents=True)
(tree / "usr" / "file").write_bytes(b"x" * 500000)
try:
    for number in range(1000):
        (root / "logs" / f"{number}.log").write_bytes(b"x" * 10000)
except OSError as error:
    print(error.strerror)
print(collect(Store(root), root, Limits(0.0), Progress(StringIO()), dry_run=False).freed > 1 << 20)
print(sorted(os.listdir(root / "logs") + os.listdir(root / "trees") + os.listdir(root / "tmp")))
"""


@pytest.mark.parametrize("limit", ["size=2m", "nr_inodes=80"])
def test_a_full_disk_is_freed(store: Store, limit: str) -> None:
    printed = in_namespace(f'mount -t tmpfs -o {limit} none "$STORE"', FULL, store.root)
    assert printed.splitlines() == ["No space left on device", "True", "[]"]


# --- beside a run

RUN = """
import sys
from pathlib import Path
from pipeline.store import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
"""


def start(store: Path, script: str, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", script, str(store), *arguments],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("change", [gc, lambda store, checkout: repair(store, checkout, quiet())])
def test_nothing_is_removed_while_a_run_uses_the_store(
    store: Store, scheduler: Scheduler, checkout: Path, change: Callable[[Store, Path], object]
) -> None:
    build(scheduler, "a")
    with start(store.root, RUN) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        before = files(store.root)
        with pytest.raises(StoreError, match=f"in use by process {run.pid}") as caught:
            change(store, checkout)
        assert "has ended" in caught.value.hint
        assert files(store.root) == before
        assert gc(store, checkout, dry_run=True).freed > 0
        assert verify(store, checkout, quiet()).damages == []
        run.communicate(b"\n")
    change(store, checkout)


def test_a_run_that_starts_meanwhile_waits_and_is_told(store: Store) -> None:
    said: list[str] = []
    opened = threading.Event()

    def run() -> None:
        Store(store.root, said.append)
        opened.set()

    with store.alone():
        thread = threading.Thread(target=run)
        thread.start()
        for _ in range(600):
            if said:
                break
            time.sleep(0.05)
        assert not opened.wait(0.3)
        assert len(said) == 1
        assert f"cleaned {store.root}" in said[0]
    thread.join()
    assert opened.is_set()
    Store(store.root, said.append)
    assert len(said) == 1


def test_an_attempt_that_failed_leaves_the_store_held(store: Store) -> None:
    other = Store(store.root)
    with pytest.raises(StoreError), store.alone():
        pass
    del other
    third = Store(store.root)
    with pytest.raises(StoreError), third.alone():
        pass


# --- verify and repair


def damaged(report: Report) -> list[str]:
    return [d.what for d in report.damages]


def test_a_whole_store_is_whole_and_verifying_changes_nothing(
    store: Store, scheduler: Scheduler, checkout: Path
) -> None:
    build(scheduler, "a", "b")
    plant_root(store, "root")
    pin(checkout, plant_module(store, "example.org/m"), Module("example.org/absent", "v1.0.0", f"h1:{'A' * 43}="))
    before = files(store.root)
    report = verify(store, checkout, quiet())
    refuse_damage(store, report)
    assert report.damages == []
    assert report.checked["roots"] == report.checked["modules"] == report.absent == 1
    assert report.checked["records"] == 6
    assert report.size > 5 * len(BIG)
    after = files(store.root)
    del before[str(store.root / "locks")], after[str(store.root / "locks")]
    assert after == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_made_again(
    store: Store, scheduler: Scheduler, checkout: Path, damage: Callable[[Path], None]
) -> None:
    made = build(scheduler, "a", "b")
    blob = store.blob(made.outputs["build/a/amd64"]["file"].digest)
    damage(blob)
    for copy in blob.parent.glob("*.copy"):
        copy.rename(store.root.parent / "copy")
        blob.unlink()
        blob.symlink_to(store.root.parent / "copy")
    before = files(store.root)
    report = verify(store, checkout, quiet())
    assert damaged(report)[0] == "record of build/a/amd64"
    assert any(blob.name in what for what in damaged(report))
    assert len(report.damages) == 2
    with pytest.raises(StoreError, match=blob.name) as caught:
        refuse_damage(store, report)
    assert "./inv store repair" in caught.value.hint
    assert files(store.root) == before
    assert damaged(repair(store, checkout, quiet())) == damaged(report)
    assert not os.path.lexists(blob)
    assert verify(store, checkout, quiet()).damages == []
    again = build(scheduler, "a", "b")
    assert again.ran == ["build/a/amd64"]
    assert again.outputs == made.outputs


def test_a_record_whose_content_is_missing_is_named_and_made_again(
    store: Store, scheduler: Scheduler, checkout: Path
) -> None:
    made = build(scheduler, "a")
    store.blob(made.outputs["build/a/amd64"]["file"].digest).unlink()
    assert [(d.what, d.reason) for d in repair(store, checkout, quiet()).damages] == [
        ("record of build/a/amd64", "its output file is gone")
    ]
    assert build(scheduler, "a").outputs == made.outputs


def test_a_record_that_is_damaged_or_of_another_action_is_named(
    store: Store, scheduler: Scheduler, checkout: Path
) -> None:
    made = build(scheduler, "a")
    flip(record_file(store, "build/a/amd64"))
    other = store.root / "records" / f"{'0' * 64}.json"
    other.write_bytes(record_file(store, "tarball/amd64").read_bytes())
    (store.root / "records" / f"{'1' * 64}.json").symlink_to(other)
    (store.root / "history" / "build_a_amd64.json").write_text("{}")
    report = repair(store, checkout, quiet())
    assert len(report.damages) == 4
    assert "it is that of another action, tarball/amd64" in [d.reason for d in report.damages]
    assert verify(store, checkout, quiet()).damages == []
    assert build(scheduler, "a").outputs == made.outputs


def change_content(tree: Path) -> None:
    flip(tree / "usr" / "bin" / "sh")


def add_file(tree: Path) -> None:
    put(tree / "usr" / "new")


def lose_stamp(tree: Path) -> None:
    tree.with_suffix(".digest").unlink()


def lead_elsewhere(tree: Path) -> None:
    (tree / "bin").unlink()
    (tree / "bin").symlink_to("/bin")


def become_link(tree: Path) -> None:
    tree.rename(tree.parent.parent / "elsewhere")
    tree.symlink_to(tree.parent.parent / "elsewhere")


@pytest.mark.parametrize("damage", [change_content, add_file, lose_stamp, lead_elsewhere, become_link])
def test_a_changed_root_is_named_and_removed(store: Store, checkout: Path, damage: Callable[[Path], None]) -> None:
    good, bad = plant_root(store, "good"), plant_root(store, "bad")
    damage(bad)
    report = repair(store, checkout, quiet())
    assert len(report.damages) == 1
    assert bad.name in report.damages[0].what
    assert not os.path.lexists(bad)
    assert good.is_dir()
    assert verify(store, checkout, quiet()).damages == []


def test_a_changed_module_is_named_and_removed_with_its_zip(store: Store, checkout: Path) -> None:
    good, bad, begun, loose = (plant_module(store, f"example.org/{n}") for n in ("good", "bad", "begun", "loose"))
    pin(checkout, good, bad, begun)
    for module in (bad, begun, loose):
        put(store.gomod / module.directory / "more.go")
    download = store.gomod / "cache" / "download" / "example.org"
    put(download / "begun" / "@v" / "v1.0.0.partial", "")
    assert damaged(repair(store, checkout, quiet())) == [f"module {bad}"]
    assert not (store.gomod / bad.directory).exists()
    assert {p.name for p in (download / "bad" / "@v").iterdir()} == {"v1.0.0.mod", "v1.0.0.info"}
    assert all((store.gomod / m.directory).exists() for m in (good, begun, loose))


def test_a_damaged_lock_of_a_base_is_removed_so_that_it_can_be_made_again(store: Store, checkout: Path) -> None:
    path = put(store.root / "locks-of-bases" / "x.lock", "nonsense")
    assert damaged(repair(store, checkout, quiet())) == ["lock locks-of-bases/x.lock"]
    assert not path.exists()


def test_a_report_names_no_more_than_can_be_read(store: Store, scheduler: Scheduler, checkout: Path) -> None:
    for number in range(30):
        flip(store.blob(store.add_bytes(str(number).encode()).digest))
    with pytest.raises(StoreError) as caught:
        refuse_damage(store, verify(store, checkout, quiet()))
    assert caught.value.reason.startswith("30 things")
    assert "and 10 more" in caught.value.reason


# --- what hosts do

KILLED = """
import sys
from io import StringIO
from pathlib import Path
from pipeline.care.gc import Limits, collect
from pipeline.care.verify import repair
from pipeline.report.progress import Progress
from pipeline.store import Store
store, quiet = Store(Path(sys.argv[1])), Progress(stream=StringIO())
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[3] == "gc":
    collect(store, Path(sys.argv[2]), Limits(0.0), quiet, dry_run=False)
else:
    repair(store, Path(sys.argv[2]), quiet)
"""


def opened(root: Path) -> tuple[Store, Scheduler]:
    """A store that is held only as long as this is used."""
    store = Store(root)
    return store, Scheduler(store, MemoryExecutor(), quiet(), jobs=2, memory=1 << 30)


def fill(root: Path, names: Sequence[str], *, hurt: bool) -> dict[str, dict[str, Output]]:
    """Have everything there, whole or damaged; returns what the actions made."""
    store, scheduler = opened(root)
    made = build(scheduler, *names)
    for name in names:
        remove_tree(store.root / "trees" / Digest.of_bytes(name.encode()).hex)
        tree = plant_root(store, name, files=1000)
        if hurt:
            change_content(tree)
            flip(store.blob(made.outputs[f"build/{name}/amd64"]["file"].digest))
    return made.outputs


@pytest.mark.parametrize("what", ["gc", "repair"])
def test_who_is_killed_leaves_a_usable_store(tmp_path: Path, checkout: Path, what: str) -> None:
    root, names = tmp_path / "store", [f"n{i}" for i in range(8)]
    made = fill(root, names, hurt=False)
    stopped = set()
    for left in (7, 4, 1):
        fill(root, names, hurt=what == "repair")
        with start(root, KILLED, str(checkout), what) as killed:
            assert killed.stdout is not None
            assert killed.stdin is not None
            assert killed.stdout.readline() == b"ready\n"
            killed.stdin.write(b"\n")
            killed.stdin.flush()
            while killed.poll() is None and sum(p.is_dir() for p in (root / "trees").iterdir()) > left:
                pass
            killed.send_signal(signal.SIGKILL)
        stopped.add(killed.returncode)
        if what == "gc":
            assert verify(Store(root), checkout, quiet()).damages == []
        repair(Store(root), checkout, quiet())
        assert verify(Store(root), checkout, quiet()).damages == []
        assert fill(root, names, hurt=False) == made
    assert -signal.SIGKILL in stopped
    gc(Store(root), checkout)
    assert list((root / "tmp").iterdir()) == []


READ_ONLY = """
import os
from io import StringIO
from pathlib import Path
from pipeline.care.gc import Limits, collect
from pipeline.care.inventory import take_inventory
from pipeline.care.verify import repair, verify
from pipeline.errors import StoreError
from pipeline.report.progress import Progress
from pipeline.store import Store
store, checkout, quiet = Store(Path(os.environ["STORE"])), Path(os.environ["STORE"]).parent / "c", Progress(StringIO())
print(len(take_inventory(store)) > 3, len(verify(store, checkout, quiet).damages))
print(collect(store, checkout, Limits(0.0), quiet, dry_run=True).freed > 0)
free = lambda: collect(store, checkout, Limits(0.0), quiet, dry_run=False)
for call in (free, lambda: repair(store, checkout, quiet)):
    try:
        call()
    except StoreError as error:
        print(error.reason.rpartition(": ")[2], "|", error.hint)
"""


def test_a_read_only_store_is_looked_at_and_not_changed(store: Store, scheduler: Scheduler, checkout: Path) -> None:
    build(scheduler, "a")
    change_content(plant_root(store, "bad"))
    setup = 'mount --bind "$STORE" "$STORE" && mount -o remount,bind,ro "$STORE"'
    refused = "Read-only file system | choose a writable store: RFO_STORE=/path"
    assert in_namespace(setup, READ_ONLY, store.root).splitlines() == ["True 1", "True", refused, refused]


# --- as a user types it


def inv(store: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "invoke", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "RFO_STORE": str(store)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_commands_say_what_they_found_and_did(tmp_path: Path) -> None:
    root = tmp_path / "store"
    store, scheduler = opened(root)
    made = build(scheduler, "a")
    flip(store.blob(made.outputs["build/a/amd64"]["file"].digest))
    done = inv(root, "store", "repair")
    assert (done.returncode, f"in use by process {os.getpid()}" in done.stderr) == (8, True)
    del store, scheduler, made
    status = json.loads(inv(root, "store", "status", "--json").stdout)
    assert status["store"] == str(root)
    assert {"blobs", "records"} < {k["kind"] for k in status["kinds"]}
    assert (status["gc"], status["size"] > 2 * len(BIG)) == ({"frees": 0, "pinned": 0}, True)
    done = inv(root, "store", "verify", "--json")
    assert (done.returncode, len(json.loads(done.stdout)["damaged"])) == (8, 2)
    assert "store: 2 things" in done.stderr
    done = inv(root, "store", "repair")
    assert done.returncode == 0, done.stderr
    assert "removed 2 damaged things; the next ./inv release" in done.stderr
    done = inv(root, "gc", "--max-age", "0d", "--json")
    removed = json.loads(done.stdout)["removed"]
    assert [r["name"] for r in removed if r["kind"] == "records"] == ["history/build_a_amd64.json", "tarball/amd64"]


def test_people_are_told_what_the_store_holds_and_what_went(
    store: Store, scheduler: Scheduler, checkout: Path, tmp_path: Path
) -> None:
    build(scheduler, "a")
    plant_cache(store, "go1", "aa")
    kept = store.add_bytes(BIG.encode())
    pin(checkout, packages=[kept])
    told = quiet()
    say_status(store, checkout, told, as_json=False)
    say_gc(gc(store, checkout, Limits(0.0, 1)), store, told, False, as_json=False)
    say_verify(store, checkout, told, as_json=False)
    assert isinstance(told.stream, StringIO)
    lines = told.stream.getvalue().splitlines()
    assert "free on its disk" in lines[1]
    for words in (
        "gocache/go1",
        "./inv gc would free 0 B; pins of known releases take 100.0 KiB",
        "build/a/amd64, used",
    ):
        assert any(words in line for line in lines), words
    assert any("compile caches, 2 in all" in line for line in lines)
    assert list((store.root / "gocache").iterdir()) == []
    assert any("more than --max-size allows: pins of known releases take 100.0 KiB; --pins" in line for line in lines)
    assert any(line.startswith("checked 2 records, 0 locks of bases, 1 files, 0 roots") for line in lines)


@pytest.mark.parametrize("call", [lambda: keeping.store.body(None, "mend"), lambda: keeping.gc.body(None, "much")])
def test_a_mistake_is_a_usage_error(call: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        call()
    assert capsys.readouterr().err.startswith("usage: ")
