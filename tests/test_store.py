"""The store never serves what is not what its name says, and survives whatever ends a process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.context import CHECKOUT
from pipeline.errors import Interrupted, StoreError
from pipeline.model import Digest
from pipeline.store import ABANDONED, Output, Record, Store, remove_tree

KEY = Digest.of_bytes(b"key")


def add(store: Store, data: bytes = b"content") -> Output:
    return store.add_bytes(data)


def flip(path: Path) -> None:
    time.sleep(0.02)  # the clock of files may be as coarse as the kernel's tick
    path.chmod(0o644)
    with path.open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))


def flip_and_hide(path: Path) -> None:
    """As a disk would do it: size and time stay."""
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 3)


def extend(path: Path) -> None:
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"more")


def replace_by_link(path: Path) -> None:
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    path.unlink()
    path.symlink_to(copy)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = [flip, flip_and_hide, truncate, extend, replace_by_link, replace_by_folder, replace_by_pipe]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_removed_when_it_is_used(store: Store, damage: Callable[[Path], None]) -> None:
    output = add(store)
    assert store.use(output.digest) == store.blob(output.digest)
    damage(store.blob(output.digest))
    assert store.use(output.digest) is None
    assert not os.path.lexists(store.blob(output.digest))
    assert add(store) == output
    assert store.use(output.digest) is not None


@pytest.mark.parametrize("damage", DAMAGES)
def test_adding_mends_a_damaged_file(store: Store, damage: Callable[[Path], None]) -> None:
    output = add(store)
    damage(store.blob(output.digest))
    assert add(store) == output
    path = store.use(output.digest)
    assert path is not None
    assert path.read_bytes() == b"content"


def test_a_file_in_the_store_is_named_by_its_content_and_read_only(store: Store) -> None:
    output = add(store)
    assert output == Output(Digest.of_bytes(b"content"), 7)
    assert store.blob(output.digest).stat().st_mode & 0o777 == 0o555
    assert store.has(output.digest, 7)
    assert not store.has(output.digest, 8)
    assert not store.has(KEY)
    assert store.use(KEY) is None


def test_a_file_that_nobody_may_read_is_added_all_the_same(store: Store) -> None:
    with store.workspace() as work:
        (work / "file").write_bytes(b"content")
        (work / "file").chmod(0)
        assert store.add(work / "file").digest == Digest.of_bytes(b"content")


def record(store: Store, data: bytes = b"content") -> Record:
    return Record("build/x/amd64", {"x": add(store, data)}, 1.25, 2.5, 1 << 20, None, {"inputs": {}, "list": ["a"]})


def test_a_record_is_read_as_it_was_written(store: Store) -> None:
    store.remember(KEY, record(store))
    assert store.record(KEY) == record(store)
    assert store.history("build/x/amd64") == record(store)
    assert Store(store.root).record(KEY) == record(store)


def test_a_record_whose_content_is_gone_counts_as_none(store: Store) -> None:
    store.remember(KEY, record(store))
    store.blob(Digest.of_bytes(b"content")).unlink()
    assert store.record(KEY) is None
    assert store.history("build/x/amd64") is not None


def test_a_record_whose_content_is_truncated_counts_as_none(store: Store) -> None:
    store.remember(KEY, record(store))
    truncate(store.blob(Digest.of_bytes(b"content")))
    assert store.record(KEY) is None


def test_a_flipped_bit_anywhere_in_a_record_is_noticed(store: Store) -> None:
    store.remember(KEY, record(store))
    path = store.root / "records" / f"{KEY.hex}.json"
    good = path.read_bytes()
    for index in range(len(good)):
        path.write_bytes(good[:index] + bytes([good[index] ^ 1]) + good[index + 1 :])
        assert store.record(KEY) in (None, record(store)), index
    for end in range(len(good)):
        path.write_bytes(good[:end])
        assert store.record(KEY) is None
    path.write_bytes(good)
    assert store.record(KEY) == record(store)


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "1", '"x"', '{"outputs": 5}', "[" * 100000, "\x00", "\xff"])
def test_what_is_no_record_counts_as_none(store: Store, text: str) -> None:
    for folder, name in (("records", KEY.hex), ("history", "a")):
        (store.root / folder / f"{name}.json").write_text(text, encoding="latin-1")
    assert store.record(KEY) is None
    assert store.history("a") is None


def test_a_record_with_a_wrong_type_counts_as_none(store: Store) -> None:
    data = record(store).to_json()
    del data["check"]
    for change in (
        {"peak": "much"},
        {"seconds": None},
        {"outputs": {"x": ["sha256:0", 1]}},
        {"parts": 5},
        {"extra": 1},
    ):
        (store.root / "records" / f"{KEY.hex}.json").write_text(json.dumps({**data, **change}))
        assert store.record(KEY) is None


@pytest.mark.parametrize("inside", ["", "blobs", "file"])
def test_a_store_that_cannot_be_is_an_error_with_its_path(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" if inside == "file" else tmp_path / "store"
    if inside == "blobs":
        root.mkdir()
        (root / "blobs").write_text("")
    elif not inside:
        root.symlink_to("/proc/nowhere")
    with pytest.raises(StoreError) as caught:
        Store(root)
    assert str(tmp_path) in caught.value.reason


def in_namespace(setup: str, script: str, store: Path) -> str:
    """What a Python script prints in a mount namespace of its own, after `setup`; RFO_STORE names the store."""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", f'{setup} && exec "$0" -c "$1"', sys.executable]
    done = subprocess.run(
        [*command, script],
        env={**os.environ, "STORE": str(store), "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "unshare" in done.stderr:
        pytest.fail(f"no user namespaces: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


PREAMBLE = """
import os
from pathlib import Path
from pipeline.errors import StoreError
from pipeline.model import Digest
from pipeline.store import Record, Store
store = Store(Path(os.environ["STORE"]))
def attempt(what):
    try:
        return what()
    except StoreError as error:
        print(error.reason.rpartition(": ")[2], "|", error.hint)
"""


def test_a_full_disk_is_an_error_with_a_remedy_and_does_no_harm(store: Store) -> None:
    script = PREAMBLE + (
        "small = store.add_bytes(b'x' * 1000)\n"
        "attempt(lambda: store.add_bytes(b'y' * (3 << 20)))\n"
        "large = Record('a', {'x': small}, 1, 1, 1, None, {'z': 'z' * (3 << 20)})\n"
        "attempt(lambda: store.remember(small.digest, large))\n"
        "print(store.use(small.digest) is not None, store.record(small.digest), os.listdir(store.root / 'tmp'))\n"
        "print([p for p in (store.root / 'records').iterdir()])\n"
        "print(store.add_bytes(b'z' * 1000).size)\n"
    )
    printed = in_namespace('mount -t tmpfs -o size=2m none "$STORE"', script, store.root)
    full = "No space left on device | free some space or choose another store: RFO_STORE=/path"
    assert printed.splitlines() == [full, full, "True None []", "[]", "1000"]


def test_a_read_only_store_serves_what_is_right_and_says_what_it_cannot_do(store: Store) -> None:
    good, bad = add(store), add(store, b"damaged")
    store.remember(KEY, record(store))
    flip(store.blob(bad.digest))
    script = PREAMBLE + (
        f"print(store.use(Digest('{good.digest.hex}')) is not None, store.record(Digest('{KEY.hex}')) is not None)\n"
        f"attempt(lambda: store.use(Digest('{bad.digest.hex}')))\n"
        "attempt(lambda: store.add_bytes(b'new'))\n"
        "attempt(lambda: store.remember(Digest('0' * 64), Record('a', {}, 1, 1, 1, None)))\n"
        "attempt(lambda: store.exclusive('x').__enter__())\n"
    )
    setup = 'mount --bind "$STORE" "$STORE" && mount -o remount,bind,ro "$STORE"'
    printed = in_namespace(setup, script, store.root)
    refused = "Read-only file system | choose a writable store: RFO_STORE=/path"
    assert printed.splitlines() == ["True True", *[refused] * 4]


ADDER = """
import sys
from pathlib import Path
from pipeline.store import Record, Store
from pipeline.model import Digest
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for round in range(int(sys.argv[2])):
    data = str(round % 50).encode() * 3000
    output = store.add_bytes(data)
    key = Digest.of_bytes(b"key" + data)
    with store.exclusive(key.hex):
        store.remember(key, Record("add", {"x": output}, 1, 1, 1, None, {"round": str(round % 50)}))
"""


def start_adder(store: Store, rounds: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", ADDER, str(store.root), str(rounds)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def go(adder: subprocess.Popen[bytes]) -> None:
    assert adder.stdin is not None
    assert adder.stdout is not None
    assert adder.stdout.readline() == b"ready\n"
    adder.stdin.write(b"\n")
    adder.stdin.flush()


def assert_whole(store: Store) -> None:
    """Every file is what its name says, and every record names what is there."""
    for blob in (store.root / "blobs").rglob("*"):
        assert blob.is_dir() or Digest.of_file(blob).hex == blob.name
    for path in (store.root / "records").glob("[!.]*"):
        assert store.record(Digest(path.stem)) is not None


def test_two_processes_may_add_the_same_files(store: Store) -> None:
    adders = [start_adder(store, 100) for _ in range(3)]
    for adder in adders:
        go(adder)
    for adder in adders:
        adder.communicate()
        assert adder.returncode == 0
    assert_whole(Store(store.root))
    assert len(list((store.root / "records").iterdir())) == 50
    assert list((store.root / "tmp").iterdir()) == []


def test_a_process_that_is_killed_leaves_a_usable_store(store: Store) -> None:
    for delay in (0.002, 0.01, 0.02, 0.03, 0.05, 0.08):
        adder = start_adder(store, 100000)
        go(adder)
        time.sleep(delay)
        adder.send_signal(signal.SIGKILL)
        adder.communicate()
        assert_whole(Store(store.root))
    survivor = start_adder(store, 50)
    go(survivor)
    survivor.communicate()
    assert survivor.returncode == 0
    assert len(list((store.root / "records").glob("[!.]*"))) == 50


def test_workspaces_of_killed_runs_are_swept_and_no_others(store: Store) -> None:
    old = time.time() - ABANDONED - 60
    left = store.root / "tmp" / "left"
    (left / "deep").mkdir(parents=True)
    (store.root / "tmp" / "fresh").mkdir()
    with store.workspace() as used:
        for path in (left, used):
            os.utime(path, (old, old))
        Store(store.root).sweep()
        assert sorted(p.name for p in (store.root / "tmp").iterdir()) == sorted(["fresh", used.name])


def test_a_lock_is_held_against_threads_and_given_back(store: Store) -> None:
    order: list[str] = []

    def other() -> None:
        with store.exclusive("x"):
            order.append("other")

    with store.exclusive("x"):
        thread = threading.Thread(target=other)
        thread.start()
        with store.exclusive("y"):
            thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_waiting_for_a_lock_can_be_given_up(store: Store) -> None:
    cancel = threading.Event()
    cancel.set()
    with (
        store.exclusive("x"),
        pytest.raises(Interrupted, match="while another process held x"),
        store.exclusive("x", cancel),
    ):
        pass
    with store.exclusive("x", cancel):
        pass


def test_a_workspace_is_gone_afterwards_whatever_is_in_it(store: Store) -> None:
    with store.workspace() as work:
        (work / "a" / "b").mkdir(parents=True)
        (work / "a" / "b" / "file").write_text("")
        (work / "link").symlink_to("/")
        (work / "a" / "b").chmod(0)
        (work / "a").chmod(0o500)
    assert list((store.root / "tmp").iterdir()) == []


def test_folders_that_may_not_be_entered_are_removed_without_privileges(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "closed" / "inner").mkdir(parents=True)
    (tree / "closed" / "inner" / "file").write_text("")
    (tree / "link").symlink_to("closed")
    for path, mode in ((tree / "closed" / "inner", 0o500), (tree / "closed", 0)):
        path.chmod(mode)
    script = "from pathlib import Path; from pipeline.store import remove_tree; remove_tree(Path('tree'))"
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    subprocess.run([*drop, sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    assert not tree.exists()


def test_a_link_to_a_folder_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    remove_tree(tmp_path / "link")
    remove_tree(tmp_path / "missing")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
