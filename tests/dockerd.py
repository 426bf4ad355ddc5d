"""A Docker daemon for tests, started once per test process with its own containerd, folders and socket.

It makes no bridge and no firewall rule, and serves no port. It ends with the process that started it, whatever happens.
"""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from socket import AF_UNIX
from socket import socket as Socket

import pytest
from engine import shared_store

from pipeline.sandbox.docker import Docker
from pipeline.store import remove_tree

# Negative scores (the default) need a capability that containers, as of CI, do not have.
CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
oom_score = 0
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{folder}/containerd.sock"
"""
DOCKERD = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
           "--oom-score-adjust=0"]  # fmt: skip


@cache
def docker() -> Docker:
    """An executor on the tests' store and daemon."""
    socket()
    executor = Docker(shared_store().root)
    executor.check()
    return executor


@cache
def socket() -> Path:
    """The daemon's socket, which DOCKER_HOST names from now on; skips where there can be no daemon, but not in CI."""
    lacking = [p for p in ("dockerd", "containerd", "runc", "docker-init") if not shutil.which(p)]
    reason = "no dockerd: apt-get install docker.io" if lacking else "dockerd needs root" if os.geteuid() else ""
    if reason:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    folder = Path(tempfile.mkdtemp(prefix="rfo-dockerd-"))
    started: list[subprocess.Popen[bytes]] = []
    atexit.register(_stop, folder, started)
    (folder / "containerd.toml").write_text(CONTAINERD.format(folder=folder))
    (folder / "dockerd.json").write_text("{}")
    started.append(_start(folder, "containerd", "--config", str(folder / "containerd.toml")))
    _wait_for(folder / "containerd.sock", folder / "containerd.log", started[-1])
    named = {"config-file": "dockerd.json", "data-root": "data", "exec-root": "exec", "pidfile": "dockerd.pid",
             "containerd": "containerd.sock"}  # fmt: skip
    options = [f"--{option}={folder / name}" for option, name in named.items()]
    started.append(_start(folder, "dockerd", f"--host=unix://{folder}/docker.sock", *options, *DOCKERD))
    os.environ["DOCKER_HOST"] = f"unix://{folder}/docker.sock"
    _wait_for(folder / "docker.sock", folder / "dockerd.log", started[-1])
    return folder / "docker.sock"


def _start(folder: Path, *command: str) -> "subprocess.Popen[bytes]":
    with (folder / f"{command[0]}.log").open("wb") as log:
        # In a session of its own: Ctrl-C is for the tests, which end it after their containers.
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command], stdout=log, stderr=log, start_new_session=True
        )


def _wait_for(path: Path, log: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        with Socket(AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"nothing listens at {path.name}:\n{log.read_text()[-2000:]}")


def _stop(folder: Path, started: "list[subprocess.Popen[bytes]]") -> None:
    """End the daemons, the last one first, and remove what they have mounted and written."""
    for process in reversed(started):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if f" {folder}/" in line]
    for place in reversed(mounted):
        subprocess.run(["umount", "--lazy", place], check=False)
    remove_tree(folder)
