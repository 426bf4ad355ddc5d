"""The docker executor beyond what test_sandbox.py asks of both: same bytes and keys, its daemon, what it leaves."""

import os
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from dockerd import docker, socket
from engine import (
    BASE,
    HOST,
    REAL,
    REPO,
    SMALL,
    Box,
    builder_root,
    contents,
    digests,
    hello,
    make_context,
    real_checkout,
    shared_store,
    small_checkout,
)

from images import PLAIN, image_checkout
from pipeline.context import parse_executor
from pipeline.errors import BuildError, UsageError
from pipeline.release import release
from pipeline.sandbox import INPUTS, Mount, Sandbox
from pipeline.sandbox.daemon import daemon
from pipeline.sandbox.docker import LEASE, STORE, Docker
from pipeline.store import Store

FOREIGN = "arm64" if HOST != "arm64" else "riscv64"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path, docker())


@pytest.fixture
def client() -> Iterator[Any]:
    socket()
    with daemon() as connected:
        yield connected


def test_bytes_and_keys_are_those_of_bwrap(tmp_path: Path) -> None:
    """A program in Go, and one in C for another architecture, which is run by emulation."""
    socket()
    asked: list[tuple[Path, dict[str, Any]]] = [
        (small_checkout(tmp_path / "small"), {"components": ("hello",), "arches": (HOST, FOREIGN)}),
        (
            real_checkout(tmp_path / "real"),
            {"version": REAL, "base": BASE, "components": ("pause",), "arches": (HOST,)},
        ),
    ]
    with forgetful_store() as other:
        for checkout, options in asked:
            usual = make_context(checkout, **options)
            release(usual)
            context = make_context(checkout, Store(other), executor="docker", **options)
            made = release(context)
            assert (made.ran, made.cached) == (len(digests(usual)), 0)
            assert digests(context) == digests(usual)
            for record in context.store.histories():
                log = context.store.use(record.log) if record.log else None
                assert log
                assert log.read_bytes().startswith(b"$ docker run ")
            again = release(make_context(checkout, Store(other), **options))
            assert (again.ran, again.cached) == (0, made.ran)


def test_images_are_the_same_under_both(tmp_path: Path) -> None:
    """Archives go into a container through a pipe; an image's own tree becomes the root of what starts in it."""
    socket()
    checkout = image_checkout(tmp_path / "images", PLAIN)
    release(make_context(checkout, arches=(HOST,)))
    usual = contents(checkout / "dist" / SMALL)
    shutil.rmtree(checkout / "dist")
    with forgetful_store() as other:
        assert release(make_context(checkout, Store(other), executor="docker", arches=(HOST,))).cached == 0
    assert contents(checkout / "dist" / SMALL) == usual


@contextmanager
def forgetful_store() -> Iterator[Path]:
    """The tests' store without a record of what ran."""
    first = shared_store().root
    with tempfile.TemporaryDirectory(prefix="rfo-test-", dir=first.parent) as folder:
        for name in ("blobs", "trees", "gomod", "locks-of-bases"):
            Path(folder, name).symlink_to(first / name)
        yield Path(folder)


def test_it_has_no_privilege(box: Box) -> None:
    _, text = box.sh("cat /proc/self/status; ls /run /var/run")
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert {fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert "docker" not in text


def test_what_it_wrote_belongs_to_the_engines_user_and_stays_for_the_next_command(box: Box) -> None:
    (box.build / "given").write_text("as sent\n")
    usage, text = box.sh(
        "cat given; stat -c %u given . /out; rm given; mkdir d; printf '#!/bin/sh\\necho ran' > d/tool;"
        "chmod 755 d/tool; ln -s d/tool link; install -m 640 d/tool /out/private; mkdir /out/d; touch /out/d/empty"
    )
    assert (usage.status, text) == (0, "as sent\n1000\n1000\n1000\n")
    assert sorted(p.name for p in box.build.iterdir()) == ["d", "link"]
    made = {p.relative_to(box.out).as_posix(): p.stat() for p in box.out.rglob("*")}
    assert set(made) == {"private", "d", "d/empty"}
    assert {s.st_uid for s in made.values()} == {os.geteuid()}
    assert made["private"].st_mode & 0o777 == 0o640
    assert box.sh("./link")[1] == "ran\n"


def test_what_no_folder_of_the_host_can_hold_is_the_commands_fault(box: Box) -> None:
    with pytest.raises(BuildError, match=r"/out: .*pipe is a device, pipe"):
        box.sh("mkfifo /out/pipe")
    with pytest.raises(BuildError, match="leaves the root"):
        box.sh("ln -s ../etc/passwd /out/link")
    assert list(box.out.iterdir()) == []


def test_a_cache_is_kept_by_the_daemon(box: Box, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    mounts = (Mount(cache, f"{INPUTS}/cache", writable=True),)
    assert box.sh(f"echo kept > {INPUTS}/cache/entry", mounts=mounts)[0].status == 0
    assert box.sh(f"cat {INPUTS}/cache/entry", mounts=mounts)[1] == "kept\n"
    assert list(cache.iterdir()) == []


def test_a_workspace_that_is_private_can_be_read(box: Box, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "file").write_text("seen\n")
    assert box.sh(f"cat {INPUTS}/a/file", mounts=(Mount(private, f"{INPUTS}/a"),))[1] == "seen\n"


def test_nothing_is_left_but_images_and_caches(box: Box, client: Any) -> None:
    box.sh("touch /out/a")
    box.sh("sleep 60", timeout=0.5)
    assert left(client, shared_store().root) == ([], [])


def left(client: Any, store: Path) -> tuple[list[str], list[str]]:
    """Containers and volumes of runs on a store."""
    labels = {"label": [f"{STORE}={store}", LEASE]}
    containers = [c["Id"] for c in client.containers(all=True, filters=labels)]
    return containers, sorted(v["Name"] for v in client.volumes(filters=labels)["Volumes"] or ())


def test_what_a_killed_engine_left_is_ended_by_the_next_run(client: Any, store: Store, tmp_path: Path) -> None:
    script = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path; from engine import Box; from pipeline.sandbox.docker import Docker\n"
        "Box(Path(sys.argv[3]), Docker(Path(sys.argv[4]))).sh('sleep 600')\n"
    )
    builder_root()
    command = [sys.executable, "-c", script, str(REPO), str(REPO / "tests"), str(tmp_path), str(store.root)]
    engine = subprocess.Popen(command)
    try:
        for _ in range(6000):
            assert engine.poll() is None, "it ended too early"
            if any(c["State"] == "running" for c in client.containers(filters={"label": f"{STORE}={store.root}"})):
                break
            time.sleep(0.1)
        before = left(client, store.root)
        assert list(map(len, before)) == [1, 2]
        Docker(store.root).check()
        assert left(client, store.root) == before  # of an engine that lives
    finally:
        engine.kill()
        engine.wait()
    assert left(client, store.root) == before
    (lease,) = (store.root / "locks").glob("docker-*")
    Docker(store.root).check()
    assert left(client, store.root) == ([], [])
    assert not lease.exists()


def test_the_image_of_a_root_that_one_step_made_goes_with_its_engine(client: Any, store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "a $tree"
    tree.mkdir()
    (tree / "hello").write_bytes(hello(HOST))
    (tree / "hello").chmod(0o755)
    executor, box = Docker(store.root), Box(tmp_path)
    for _ in range(2):
        with box.log.open("w+b") as log:
            assert executor.run(Sandbox(tree, ("/hello",), box.build, box.out), log, box.cancel).status == 0
        assert "\nhello " in box.log.read_text()
    labels = {"label": [f"{STORE}={store.root}", LEASE]}
    assert len(client.images(filters=labels)) == 1
    del executor
    Docker(store.root).check()
    assert client.images(filters=labels) == []
    assert list((store.root / "locks").glob("docker-*")) == []


# --- daemons that cannot be used


def refused(store: Path, first: str = "", prefix: tuple[str, ...] = (), **variables: str) -> str:
    """What an engine on `store` says of its daemon, in a process of its own, after `first`."""
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "import docker, docker.utils, requests  # while it can read them\n"
        "from pathlib import Path; from pipeline.errors import HostError; from pipeline.sandbox.docker import Docker\n"
        f"{first}\n"
        "try: Docker(Path(sys.argv[2])).check()\n"
        "except HostError as error: print(error.render())"
    )
    command = [*prefix, sys.executable, "-c", script, str(REPO), str(store)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **variables}).stdout


def test_no_daemon(tmp_path: Path) -> None:
    said = refused(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert said.startswith(f"host: no Docker daemon answers at unix://{tmp_path}/none.sock")
    assert "systemctl start docker" in said


def test_a_daemon_that_one_may_not_use(tmp_path: Path) -> None:
    socket()
    said = refused(tmp_path, "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)")
    assert said.startswith("host: you may not use the Docker daemon")
    assert "usermod -aG docker" in said


class _Old(BaseHTTPRequestHandler):
    """A daemon of 2019: what it answers when it is asked for its version."""

    def do_GET(self) -> None:
        answer = b'{"Version": "19.03.15", "ApiVersion": "1.40", "MinAPIVersion": "1.12"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_daemon_that_is_too_old(tmp_path: Path) -> None:
    with socketserver.UnixStreamServer(f"{tmp_path}/old.sock", _Old) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = refused(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/old.sock")
        server.shutdown()
    assert said.startswith("host: the Docker daemon's API is 1.40; expected 1.41 or later")


def test_a_daemon_elsewhere(tmp_path: Path) -> None:
    """As one on another host: in the store's place it sees something else."""
    socket()
    hide = 'mount -t tmpfs none "$0" && mkdir "$0/locks" && exec "$@"'
    said = refused(tmp_path, prefix=("unshare", "--mount", "sh", "-c", hide, str(tmp_path)))
    assert said.startswith("host: the Docker daemon does not see this host's files")
    assert "DOCKER_HOST" in said


def test_an_executor_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="expected bwrap or docker"):
        parse_executor("podman")
