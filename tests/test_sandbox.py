"""The sandbox lets nothing in and nothing out: each promise of pipeline.sandbox, tried from inside."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from dockerd import docker
from engine import REPO, Box, builder_root

from pipeline.errors import HostError
from pipeline.sandbox import INPUTS, Mount
from pipeline.sandbox.bwrap import Bwrap, arguments
from pipeline.sandbox.watch import sample


@pytest.fixture(params=["bwrap", "docker"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Box:
    return Box(tmp_path, docker() if request.param == "docker" else None)


def test_there_is_no_network(box: Box) -> None:
    usage, text = box.run("bash", "-c", "cat /proc/net/dev; echo > /dev/tcp/192.0.2.1/80")
    assert usage.status != 0
    assert "unreachable" in text
    interfaces = [line.split(":")[0].strip() for line in text.splitlines() if "0    0" in line]
    assert interfaces == ["lo"]


def test_a_server_on_the_hosts_loopback_cannot_be_reached(box: Box) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        usage, text = box.run("bash", "-c", f"echo > /dev/tcp/127.0.0.1/{port}")
    assert usage.status != 0
    assert "refused" in text or "unreachable" in text


def test_no_host_path_is_visible(box: Box, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    script = f"ls / /root /home /run 2>/dev/null; ls {tmp_path} {REPO} && exit 9; ls -A /sys"
    usage, text = box.sh(script)
    assert usage.status == 0
    assert text.endswith("No such file or directory\n")  # nothing of /sys
    names = text.split("\n\n")[0].split()
    assert set(names) <= {
        "/:", "bin", "boot", "build", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt", "opt",
        "out", "proc", "rfo-in", "root", "run", "sbin", "srv", "sys", "tmp", "usr", "var",
    }  # fmt: skip


def test_root_and_inputs_are_read_only(box: Box, tmp_path: Path) -> None:
    tool = tmp_path / "input"
    tool.mkdir()
    (tool / "file").write_text("as it was")
    tries = ("touch /usr/x", "touch /x", f"echo x > {INPUTS}/a/file", f"touch {INPUTS}/a/new", f"touch {INPUTS}/new",
             f"mkdir {INPUTS}/d", f"chmod 777 {INPUTS}/a/file", f"rm -f {INPUTS}/a/file")  # fmt: skip
    for attempt in tries:
        usage, text = box.sh(attempt, mounts=(Mount(tool, f"{INPUTS}/a"),))
        assert usage.status != 0, attempt
        assert "Read-only file system" in text, attempt
    assert (tool / "file").read_text() == "as it was"
    assert sorted(p.name for p in tool.iterdir()) == ["file"]
    assert not (builder_root() / "usr" / "x").exists()


def test_identity_environment_and_umask_are_fixed(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFO_LEAK", "1")
    monkeypatch.setenv("TZ", "Pacific/Chatham")
    old = os.umask(0o077)
    try:
        _, text = box.sh("id -u; id -g; uname -n; umask; env; touch /out/f", environment={"EXTRA": "a b"})
    finally:
        os.umask(old)
    lines = text.splitlines()
    assert lines[:4] == ["1000", "1000", "build", "0022"]
    assert sorted(lines[4:]) == [
        "EXTRA=a b", "HOME=/build", "LC_ALL=C.UTF-8", "PATH=/usr/sbin:/usr/bin", "PWD=/build", "TMPDIR=/build",
        "TZ=UTC",
    ]  # fmt: skip
    assert (box.out / "f").stat().st_mode & 0o777 == 0o644


def test_build_out_and_tmp_are_writable_and_empty(box: Box) -> None:
    usage, text = box.sh("ls -A /build /out /tmp; echo made > /out/a && echo b > /build/b && echo c > /tmp/c")
    assert usage.status == 0
    assert [line for line in text.splitlines() if line and not line.endswith(":")] == []
    assert (box.out / "a").read_text() == "made\n"


def test_only_its_own_processes_are_visible(box: Box) -> None:
    _, text = box.sh("ls -d /proc/[0-9]*")
    assert len(text.split()) <= 4


def test_the_hosts_kernel_cannot_be_changed_even_if_root_started_it(box: Box) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_bytes()
    # Writing back what is there: a test that fails must not change the host.
    value = before.decode().strip()
    usage, text = box.sh(f"printf '%s' '{value}' > /proc/sys/kernel/core_pattern")
    assert usage.status != 0
    assert "core_pattern" in text
    _, text = box.sh(
        "ls -A /proc/sys /proc/fs; "
        "find /proc -path '/proc/[0-9]*' -prune -o -type f -exec test -f {} -a -w {} ';' -print"
    )
    assert "kernel" not in text
    assert [line for line in text.splitlines() if line.startswith("/proc/") and not line.endswith(":")] == []


def test_devices_of_the_host_are_not_there(box: Box) -> None:
    _, text = box.sh("ls /dev")
    assert set(text.split()) - {"core", "mqueue"} == {  # a link to a hidden file; a folder for the sandbox's own queues
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero",
    }  # fmt: skip


def test_it_ends_at_its_timeout_and_leaves_nothing(box: Box) -> None:
    started = time.monotonic()
    usage, _ = box.sh("(while :; do date > /out/f; done) & sleep 600", timeout=1)
    assert usage.stopped == "still running after 1 s"
    assert time.monotonic() - started < 300
    assert_idle(box)


def test_a_leftover_background_process_is_gone_when_it_returns(box: Box) -> None:
    usage, _ = box.sh("(while :; do echo x >> /out/f; done) & exit 0")
    assert usage.status == 0
    assert not usage.stopped
    assert_idle(box)


def assert_idle(box: Box) -> None:
    """Nothing writes to /out any more, from the moment on at which the sandbox returned."""
    before = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in box.out.iterdir()]
    time.sleep(0.2)
    assert [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in box.out.iterdir()] == before


def test_too_much_memory_ends_it(box: Box) -> None:
    script = "x=$(head -c 400000000 /dev/zero | tr '\\0' x); sleep 60"
    usage, _ = box.run("bash", "-c", script, memory=128 << 20, timeout=120)
    assert "of memory; the limit is 128 MiB" in usage.stopped
    assert usage.peak > 128 << 20


def test_a_fork_bomb_ends_it(box: Box) -> None:
    usage, _ = box.run("bash", "-c", "for i in $(seq 200); do sleep 60 & done; wait", processes=100, timeout=60)
    assert "processes; the limit is 100" in usage.stopped
    assert_idle(box)


def test_endless_output_ends_it(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sandbox.watch.MAX_LOG", 1 << 20)
    usage, _ = box.run("yes", timeout=60)
    assert usage.stopped == "it printed more than 1 MiB"


def test_cancel_ends_it(box: Box) -> None:
    threading.Timer(0.5, box.cancel.set).start()
    started = time.monotonic()
    usage, _ = box.sh("sleep 600")
    assert usage.stopped == "interrupted"
    assert time.monotonic() - started < 300


def test_the_status_of_the_command_is_told(box: Box) -> None:
    assert box.sh("exit 7")[0].status == 7
    assert box.sh("kill -9 $$")[0].status == 128 + 9
    usage, text = box.run("/no/such/program")
    assert usage.status != 0
    assert "No such file" in text


def test_what_it_cost_is_measured_with_all_children(box: Box) -> None:
    usage, text = box.sh("bash -c 'for ((i = 0; i < 4000000; i++)); do :; done; times'")
    minutes, seconds = text.split()[0].rstrip("s").split("m")  # of the child, in user mode
    assert usage.cpu > 0.6 * (60 * int(minutes) + float(seconds))
    assert usage.cpu > 0.2
    assert usage.peak > 1 << 20


def test_it_dies_with_the_engine(tmp_path: Path) -> None:
    script = (
        "import sys, threading; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path; from engine import Box\n"
        "Box(Path(sys.argv[3])).sh('while :; do echo x >> /out/f; sleep 0.01; done')\n"
    )
    folder = tmp_path / "other"
    folder.mkdir()
    command = [sys.executable, "-c", script, str(REPO), str(REPO / "tests"), str(folder)]
    engine = subprocess.Popen(command)
    written = folder / "box-out" / "f"
    for _ in range(600):
        if written.exists():
            break
        time.sleep(0.1)
    engine.kill()
    engine.wait()
    for _ in range(200):  # its processes end one after the other
        size = written.stat().st_size
        time.sleep(0.3)
        if written.stat().st_size == size:
            return
    pytest.fail("it still writes")


def test_equal_sandboxes_have_equal_lines(tmp_path: Path) -> None:
    from pipeline.sandbox import Sandbox
    from pipeline.sandbox.setting import Setting

    mounts = tuple(Mount(tmp_path, f"{INPUTS}/{n}") for n in "bca")
    one = Sandbox(tmp_path, ("x",), tmp_path, tmp_path, environment={"B": "1", "A": "2"}, mounts=mounts)
    two = Sandbox(tmp_path, ("x",), tmp_path, tmp_path, environment={"A": "2", "B": "1"}, mounts=mounts[::-1])
    assert arguments(one, Setting()) == arguments(two, Setting())


def test_a_sample_of_a_process_that_is_gone_is_empty() -> None:
    assert sample(2**22 + 1).processes == 0
    assert sample(os.getpid()).processes >= 1


def test_a_host_without_user_namespaces_is_told_the_remedies() -> None:
    if shutil.which("unshare") is None:
        pytest.fail("unshare is not installed: apt-get install util-linux")
    probe = "from pipeline.sandbox.bwrap import Bwrap\nfrom pipeline.errors import HostError\n"
    probe += "try: Bwrap().check()\nexcept HostError as e: print(e.render())"
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" -c "$1"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", script, sys.executable, probe]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert "does not let bubblewrap make a sandbox" in done.stdout
    for remedy in ("user.max_user_namespaces", "apparmor_restrict_unprivileged_userns", "seccomp=unconfined"):
        assert remedy in done.stdout


def test_a_program_that_cannot_run_is_the_hosts_fault(tmp_path: Path) -> None:
    executor = Bwrap()
    executor.program = str(tmp_path / "missing")
    with pytest.raises(HostError, match="cannot be run"):
        executor.check()


def test_a_mount_that_does_not_exist_fails_with_its_name(box: Box, tmp_path: Path) -> None:
    usage, text = box.sh("true", mounts=(Mount(tmp_path / "gone", f"{INPUTS}/gone"),))
    assert usage.status != 0
    assert "gone" in text
