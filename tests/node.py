"""A node for tests: processes with namespaces and control groups of their own, without a network, on this host's files.

The host's root file system is read-only for it; `/var/lib`, `/var/log` and `/run` are its own, and so are the settings
of the kernel that a kubelet writes. Its first process ends with the process that started it, and everything in it
with that, as when a machine loses power. Needs root and control groups of version 1 (also the hybrid hierarchy).
"""

import contextlib
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

ENTER = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'
"""Moves a process into control groups, then becomes a command."""
INIT = """
set -eu
read -r pid _ </proc/self/stat  # as the host counts
folder=$1
shift
mount --bind "$folder" "$folder"
mount -o remount,bind,ro /
mount --bind "$folder/lib" /var/lib
mount --bind "$folder/log" /var/log
mount -t tmpfs run /run
mount -t proc proc /proc
(cd "$folder/kernel" && for name in */*; do mount --bind "$name" "/proc/sys/$name"; done)
mount -t sysfs sysfs /sys
mount -t tmpfs cgroups /sys/fs/cgroup
while [ $# -gt 0 ]; do
  mkdir -p "$1"
  mount -t cgroup -o "$2" cgroup "$1"
  shift 2
done
mount --make-rshared /
ip link set lo up
echo "$pid"
exec sleep infinity >/dev/null 2>&1
"""
KERNEL = {
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxbytes": "25000000",
    "kernel/keys/root_maxkeys": "1000000",
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
}
"""What a kubelet sets, for the whole host, unless it is set already."""
CONTAINERD = """
version = 2
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{sandbox}"
restrict_oom_score_adj = true  # a lower score takes a capability that containers, as of CI, do not have
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{networks}"
"""
COUNT = itertools.count()


def require_node() -> None:
    """Skip the test where there can be no node."""
    lacking = [p for p in ("ip", "nsenter", "setpriv", "unshare", "zstd") if not shutil.which(p)]
    if lacking:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {lacking[0]}; .ci/run installs what tests use")
    if os.geteuid():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("a node needs root")
    if "memory" not in " ".join(hierarchies().values()):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("a node needs control groups of version 1")


@cache
def hierarchies() -> dict[str, str]:
    """The control group hierarchies of version 1: where they are mounted, and their options."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        kind, _, options = source.split(" ")
        if kind == "cgroup":
            found[fields.split(" ")[4]] = ",".join(o for o in options.split(",") if o not in ("rw", "ro", "xattr"))
    return found


class Node:
    """One node; its files are in `folder`, which must not be on an overlay for the snapshotter of that name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = os.environ["PATH"]
        self._name = f"rfo-test-{os.getpid()}-{next(COUNT)}"
        self._started: list[subprocess.Popen[bytes]] = []
        self._pid = ""

    def __enter__(self) -> Self:
        for name in ("lib", "log", "scratch"):
            (self.folder / name).mkdir(parents=True)
        for name, value in KERNEL.items():
            path = self.folder / "kernel" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
        try:
            _sweep()
            self._boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def groups(self) -> list[Path]:
        """Its control groups, one in each hierarchy."""
        return [Path(place, self._name) for place in hierarchies()]

    def _boot(self) -> None:
        for group in self.groups:
            group.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group, which then takes no process
                if (group / name).exists():
                    (group / name).write_text((group.parent / name).read_text())
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        command = [
            "setpriv", "--pdeathsig", "KILL", "unshare", *spaces, "--fork", "--kill-child", "sh", "-c", INIT, "sh",
            str(self.folder), *(text for pair in hierarchies().items() for text in pair),
        ]  # fmt: skip
        process = subprocess.Popen(
            self._grouped(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._started.append(process)
        assert process.stdout
        self._pid = process.stdout.readline().decode().strip()
        assert self._pid.isdecimal(), f"{self._pid}\n{process.stdout.read().decode()}"

    def _grouped(self, command: Sequence[str]) -> list[str]:
        return ["sh", "-c", ENTER, "sh", *map(str, self.groups), "--", *command]

    def inside(self, *command: object) -> list[str]:
        """The command that runs `command` in the node."""
        enter = ["nsenter", "--target", self._pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        variables = [f"PATH={self.path}", f"TMPDIR={self.folder}/scratch", "HOME=/run"]
        return self._grouped([*enter, "env", "-i", *variables, *map(str, command)])

    def run(self, *command: object, check: bool = True) -> str:
        """Run a command to its end; what it printed, and on its error stream as well if it may fail."""
        merged = subprocess.PIPE if check else subprocess.STDOUT
        done = subprocess.run(
            self.inside(*command), stdout=subprocess.PIPE, stderr=merged, text=True, check=False, timeout=900
        )
        assert not check or done.returncode == 0, f"{command}: {done.stderr[-3000:]}"
        return done.stdout

    def start(self, name: str, *command: object) -> Path:
        """Start a program that stays; its log."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as file:
            self._started.append(
                subprocess.Popen(self.inside(*command), stdout=file, stderr=file, start_new_session=True)
            )
        return log

    def start_containerd(
        self, runtime: Path | None = None, *, sandbox: str = "none", snapshotter: str = "native"
    ) -> Path:
        """Start containerd and wait for it: that of `runtime`, a folder with programs, or the host's; its log."""
        if runtime:
            self.path = f"{runtime}:{self.path}"
        networks = self.folder / "networks"
        config = self.folder / "containerd.toml"
        config.write_text(
            CONTAINERD.format(sandbox=sandbox, snapshotter=snapshotter, plugins=runtime or "/none", networks=networks)
        )
        log = self.start("containerd", "containerd", "--config", config)
        self.wait(lambda: "Server:" in self.run("ctr", "version", check=False), log)
        return log

    def wait(self, done: Callable[[], object], log: Path, seconds: float = 120) -> None:
        """Wait until `done`; fails with the end of `log`."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                pytest.fail(f"it did not happen:\n{log.read_text()[-4000:]}")
            time.sleep(0.2)

    def import_bundle(self, bundle: Path, snapshotter: str = "native") -> None:
        """Import a bundle as operators are told to: ctr takes plain archives only."""
        with subprocess.Popen(["zstd", "-dc", bundle], stdout=subprocess.PIPE) as plain:
            command = self.inside("ctr", "-n", "k8s.io", "images", "import", "--snapshotter", snapshotter, "-")
            done = subprocess.run(command, stdin=plain.stdout, capture_output=True, text=True, check=False, timeout=900)
        assert (plain.returncode, done.returncode) == (0, 0), done.stderr

    def _end(self) -> None:
        for process in self._started[:1]:  # the others end with it
            process.kill()
        for process in self._started:
            process.wait()
            if process.stdout:
                process.stdout.close()
        for group in self.groups:
            _remove(group)


def _remove(group: Path) -> None:
    """Remove a control group and those in it; processes that were killed leave it a moment later."""
    for _ in range(1200):
        for parent, _folders, _files in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(parent)
        if not group.exists():
            return
        time.sleep(0.05)
    pytest.fail(f"{group} cannot be removed")


def _sweep() -> None:
    """Remove the control groups of a test process that was killed."""
    for place in hierarchies():
        for group in Path(place).glob("rfo-test-*-*"):
            gone = not Path("/proc", group.name.split("-")[2]).exists()
            with contextlib.suppress(OSError):  # another worker has removed it meanwhile
                if gone and not (group / "cgroup.procs").read_text():  # else another container's
                    _remove(group)
