"""A fresh host under a real systemd: a container with the machine's /usr, read-only, and everything else its own.

Its network is a loopback device and nothing else. It boots in about two seconds and ends with the block that it is
made for. Needs root and systemd-nspawn.
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

COUNT = itertools.count()
OS_RELEASE = 'NAME="openEuler"\nID="openEuler"\nVERSION="22.03 (LTS-SP4)"\nVERSION_ID="22.03"\n'
ENTER = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'
"""Moves a process into control groups, then becomes a command."""
SECONDS = 600
"""How long booting or halting may take."""


def require_nspawn() -> None:
    """Skip the test where no system can be booted."""
    if os.geteuid():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("a system of its own needs root")
    lacking = [p for p in ("systemd-nspawn", "nsenter", "systemctl") if not shutil.which(p)]
    if lacking or not Path("/usr/lib/systemd/systemd").exists():
        reason = "no systemd-nspawn: apt-get install systemd-container"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def groups(name: str) -> list[Path]:
    """A control group of this name in each hierarchy, of version 1 and 2."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, rest = line.partition(" - ")
        if rest.split(" ")[0] in ("cgroup", "cgroup2"):
            found.append(Path(place.split(" ")[4]) / name)
    return found


class System:
    """One such host; `root` is its root directory, seen from outside. With `writable` packages go to its /usr, too."""

    def __init__(self, folder: Path, *, writable: bool = False) -> None:
        self.root = folder / "root"
        self._usr = folder / "usr" if writable else None
        self._groups = groups(f"rfo-nspawn-{os.getpid()}-{next(COUNT)}")
        self._log = folder / "nspawn.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = ""

    def write(self, path: str, text: str) -> None:
        """Write a file of the host's; below /usr there is nothing to write to."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def __enter__(self) -> Self:
        for name in ("usr", "var/lib", "run", "tmp", "proc", "sys", "dev", "root", "etc"):
            (self.root / name).mkdir(parents=True)
        for link in ("bin", "sbin", "lib", "lib64"):
            if Path("/", link).is_symlink():
                (self.root / link).symlink_to(f"usr/{link}")
        for path, text in {
            "/etc/os-release": OS_RELEASE,
            "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
            "/etc/group": "root:x:0:\n",
            "/etc/machine-id": "",
        }.items():
            self.write(path, text)
        shutil.copy("/etc/ld.so.cache", self.root / "etc")
        default = self.root / "etc/systemd/system/default.target"
        default.parent.mkdir(parents=True)
        default.symlink_to("/usr/lib/systemd/system/multi-user.target")
        try:
            self._boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _boot(self) -> None:
        for group in self._groups:
            group.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group, which then takes no process
                if (group / name).exists() and (group.parent / name).exists():
                    (group / name).write_text((group.parent / name).read_text())
        usr = ["--bind-ro=/usr"]
        if self._usr:
            self._usr.mkdir()
            usr = [f"--overlay=/usr:{self._usr}:/usr"]
        command = [
            "setpriv", "--pdeathsig", "TERM", "systemd-nspawn", "--quiet", f"--directory={self.root}", "--boot",
            "--register=no", "--keep-unit", "--private-network", *usr, "--tmpfs=/usr/local:mode=755", "--console=pipe",
        ]  # fmt: skip
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", ENTER, "sh", *map(str, self._groups), "--", *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + SECONDS
        while not self._booted():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, f"it does not boot: {self._log.read_text()}"
            time.sleep(0.1)

    def _booted(self) -> bool:
        assert self._process
        pid = self._process.pid
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    self._pid = child
        if not self._pid:
            return False
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def _end(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)  # it halts
            try:
                self._process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for group in self._groups:
            for folder in [*sorted(group.rglob("*"), reverse=True), group]:
                if folder.is_dir():
                    with contextlib.suppress(OSError):
                        folder.rmdir()

    def inside(self, *command: object) -> list[str]:
        """The command that runs `command` on it."""
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid"]
        clean = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]
        return ["nsenter", "--target", self._pid, *spaces, *clean, *map(str, command)]

    def on_network(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` here, but on its network."""
        return ["nsenter", "--target", self._pid, "--net", *command]

    def run(self, *command: object, check: bool = True, data: bytes | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command on it to its end."""
        done = subprocess.run(self.inside(*command), input=data, capture_output=True, check=False, timeout=900)
        result = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
        assert not check or result.returncode == 0, f"{command}: {result.stdout[-2000:]}{result.stderr[-3000:]}"
        return result
