"""The scripts, units and data of install/, run against hosts made of directories."""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
INSTALL = CHECKOUT / "install"
SCRIPTS = sorted((INSTALL / "bin").iterdir())
SHELLS = [shell for shell in ("dash", "busybox sh") if shutil.which(shell.split()[0])] or ["sh"]

MOUNTS = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
PROGRAM = (
    "bin/rfo",
    "bin/rfo-killall.sh",
    "bin/rfo-uninstall.sh",
    "lib/systemd/system/rfo-server.service",
    "lib/systemd/system/rfo-server.env",
    "lib/systemd/system/rfo-agent.service",
    "lib/systemd/system/rfo-agent.env",
    "share/rfo/LICENSE.txt",
    "share/rfo/rfo-cis-sysctl.conf",
    "share/rfo/THIRD-PARTY-NOTICES.txt",
)


class Host:
    """A host below a directory, whose tools only write down what they were asked."""

    def __init__(self, root: Path, shell: str, prefix: str = "/usr/local") -> None:
        self.root, self.shell, self.prefix = root, shell.split(), prefix
        self.data_dir: str | None = None
        self.write("/proc/self/mountinfo", MOUNTS)
        for name in PROGRAM:
            self.write(f"{prefix}/{name}", "")
        for script in SCRIPTS:
            shutil.copy(script, self.path(f"{prefix}/bin/{script.name}"))

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def write(self, name: str, text: str = "", mode: int = 0o644) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def link(self, name: str, target: str) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    def tool(self, name: str, script: str = "") -> None:
        """A program that appends its command line to `log`."""
        self.write(f"/tools/{name}", f'#!/bin/sh\necho "{name} $*" >>"$RFO_ROOT/log"\n{script}\n', 0o755)

    def log(self) -> list[str]:
        log = self.path("log")
        return log.read_text().splitlines() if log.exists() else []

    def has(self, name: str) -> bool:
        return os.path.lexists(self.path(name))

    def process(self, pid: int, *arguments: str) -> None:
        """A row of a made-up /proc; only its command line can be read."""
        self.write(f"/proc/{pid}/cmdline", "\0".join([*arguments, ""]))
        self.write(f"/proc/{pid}/status", "Name:\tx\nPPid:\t1\n")

    def run(self, script: str, *arguments: str, program: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.path('tools')}:/usr/sbin:/usr/bin:/sbin:/bin", "RFO_ROOT": str(self.root)}
        if self.data_dir:
            environment["RFO_DATA_DIR"] = self.data_dir
        program = program or f"{self.prefix}/bin/rfo-{script}.sh"
        command = [*self.shell, str(self.path(program)), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)

    def snapshot(self) -> list[tuple[str, int, str]]:
        found = []
        for path in sorted(self.root.rglob("*")):
            text = path.read_text() if path.is_file() and not path.is_symlink() else ""
            found.append((str(path), path.lstat().st_mode, text))
        return found


@pytest.fixture(params=SHELLS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return Host(tmp_path.resolve() / "root", request.param)


def test_scripts_are_clean() -> None:
    assert [s.name for s in SCRIPTS] == ["rfo-killall.sh", "rfo-uninstall.sh"]
    assert all(os.access(s, os.X_OK) for s in SCRIPTS)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--shell=sh", *SCRIPTS], check=True)
        return
    assert "CI" not in os.environ, "CI needs shellcheck"
    for script in SCRIPTS:
        subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.parametrize("name", ["killall", "uninstall"])
def test_help_and_usage(host: Host, name: str) -> None:
    before = host.snapshot()
    answer = host.run(name, "--help")
    assert answer.returncode == 0
    assert answer.stdout.startswith(f"Usage: rfo-{name}.sh")
    assert host.run(name, "--frobnicate").returncode == 64
    for data in ("relative", "/", "/data", "/a/../b", "/a//b", "/./a/b"):
        host.data_dir = data
        assert host.run(name).returncode == 64, data
    assert host.snapshot() == before


# ---- rfo-killall.sh


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def child_of(pid: int) -> int:
    for _ in range(1200):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.05)
    raise AssertionError("the shim started nothing")


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid: int) -> bool:
    """Whether a process that was killed ends; a busy host takes its time."""
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def test_killall_knows_processes_by_path(host: Host, started: list[subprocess.Popen[bytes]]) -> None:
    shutil.rmtree(host.path("/proc"))
    host.link("/proc", "/proc")  # real processes, of programs below the root

    def start(name: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        path = host.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(program, path)
        started.append(subprocess.Popen([path, *arguments], start_new_session=True))
        return started[-1]

    own = "/var/lib/rancher/rfo/data/v1.25.4-rfor1/bin"
    containerd = start(f"{own}/containerd", "/bin/sleep", "1000")
    shim = start(f"{own}/containerd-shim-runc-v2", "/bin/dash", "-c", "sleep 1000 & wait")
    container = child_of(shim.pid)
    others = start("/var/lib/other/bin/containerd-shim-runc-v2", "/bin/dash", "-c", "sleep 1000 & wait")
    neighbour = start("/usr/bin/containerd", "/bin/sleep", "1000")

    answer = host.run("killall")
    assert answer.returncode == 0, answer.stderr
    assert containerd.wait(60) == -15
    assert shim.wait(60) == -9, "killed after the child that it waits for"
    assert ends(container)
    assert alive(others.pid)
    assert alive(child_of(others.pid))
    assert alive(neighbour.pid)


RFO_MOUNTS = [
    "/run/rfo/containerd/a\\040b/rootfs",
    "/var/lib/rancher/rfo/agent/containerd/tmpmounts/x",
    "/var/lib/kubelet/pods/1/volumes/v",
    "/var/lib/kubelet/pods/1/volumes/v/sub",
    "/run/netns/cni-1",
    "/run/k3s/containerd/shm",
]
ADMIN_MOUNTS = ["/var/lib/rancher/rfo", "/var/lib/rancher/rfo/server/db", "/var/lib/kubelet", "/run/rfofoo/x", "/home"]


def mountinfo() -> str:
    rows = [f"5 1 0:9 / {path} rw - ext4 /dev/sdb1 rw\n" for path in ADMIN_MOUNTS]
    return (
        MOUNTS + "".join(rows) + "".join(f"6 1 0:7 / {path} rw shared:2 - overlay overlay rw\n" for path in RFO_MOUNTS)
    )


def test_killall_unmounts_only_its_own(host: Host) -> None:
    host.write("/proc/self/mountinfo", mountinfo())
    host.tool("umount")
    assert host.run("killall").returncode == 0
    expected = [f"umount {host.root}{path.replace(chr(92) + '040', ' ')}" for path in reversed(RFO_MOUNTS)]
    assert host.log() == expected


def test_killall_falls_back_to_a_lazy_unmount(host: Host) -> None:
    host.write("/proc/self/mountinfo", MOUNTS + "6 1 0:7 / /run/rfo/x rw - tmpfs tmpfs rw\n")
    host.tool("umount", '[ "$1" = -l ]')
    assert host.run("killall").returncode == 0
    host.tool("umount", "false")
    answer = host.run("killall")
    assert answer.returncode == 1
    assert "cannot unmount /run/rfo/x" in answer.stderr


RULES = """\
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:FLANNEL-POSTRTG - [0:0]
:SITE - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A PREROUTING -p tcp -m comment --comment "not about MY-KUBE-HOST" -j SITE
COMMIT
"""
KEPT = """\
*nat
:PREROUTING ACCEPT [0:0]
:SITE - [0:0]
-A PREROUTING -p tcp -m comment --comment "not about MY-KUBE-HOST" -j SITE
COMMIT
"""


def with_network(host: Host) -> None:
    for device in ("lo", "eth0", "cni0", "flannel.1", "cali0123456789a", "calibre0", "docker0"):
        host.path(f"/sys/class/net/{device}").mkdir(parents=True)
    host.write("/run/netns/cni-1")
    host.write("/run/netns/mine")
    host.tool("ip")
    host.write("/rules", RULES)
    host.tool("iptables-save", 'cat "$RFO_ROOT/rules"')
    host.tool("iptables-restore", 'cat >"$RFO_ROOT/restored"')
    host.tool("ip6tables-save", "exit 1")
    host.tool("ip6tables-restore", 'cat >"$RFO_ROOT/restored6"')


def test_killall_clears_the_pod_network(host: Host) -> None:
    with_network(host)
    assert host.run("killall").returncode == 0
    deleted = [line.split()[-1] for line in host.log() if line.startswith("ip ")]
    assert deleted == ["cali0123456789a", "cni0", "flannel.1"]
    assert not host.has("/run/netns/cni-1")
    assert host.has("/run/netns/mine")
    assert host.path("/restored").read_text() == KEPT
    assert not host.has("/restored6"), "an unreadable table must not be replaced by an empty one"


def test_killall_leaves_foreign_rules_untouched(host: Host) -> None:
    host.tool("iptables-save", "printf '*nat\\n:SITE - [0:0]\\nCOMMIT\\n'")
    host.tool("iptables-restore")
    assert host.run("killall").returncode == 0
    assert host.log() == ["iptables-save "]


def test_killall_removes_empty_pod_cgroups(host: Host) -> None:
    v1, v2 = "/sys/fs/cgroup/memory/kubepods/burstable/pod1/c1", "/sys/fs/cgroup/kubepods.slice/pod2.slice"
    nested = "/sys/fs/cgroup/memory/docker/0123/kubepods/pod3"
    for path in (v1, v2, nested, "/sys/fs/cgroup/memory/system.slice"):
        host.path(path).mkdir(parents=True)
    assert host.run("killall").returncode == 0
    assert not host.has("/sys/fs/cgroup/memory/kubepods")
    assert not host.has("/sys/fs/cgroup/kubepods.slice")
    assert host.has(nested)
    assert host.has("/sys/fs/cgroup/memory/system.slice")


@pytest.mark.parametrize(
    "arguments",
    [
        ("/usr/bin/kubelet", "--config=x"),
        ("/usr/local/bin/k3s", "server"),
        ("/var/lib/k3s/containerd-shim-runc-v2", "-namespace", "k8s.io", "-id", "1"),
    ],
)
def test_killall_leaves_shared_things_to_a_neighbour(host: Host, arguments: tuple[str, ...]) -> None:
    with_network(host)
    host.process(777, *arguments)
    host.write("/proc/self/mountinfo", mountinfo())
    host.tool("umount")
    host.path("/sys/fs/cgroup/memory/kubepods").mkdir(parents=True)
    answer = host.run("killall")
    assert answer.returncode == 0, answer.stderr
    assert "another Kubernetes" in answer.stdout
    assert [line.split(f"{host.root}")[1] for line in host.log()] == [
        "/var/lib/rancher/rfo/agent/containerd/tmpmounts/x",
        "/run/rfo/containerd/a b/rootfs",
    ]
    assert host.has("/sys/fs/cgroup/memory/kubepods")
    assert host.has("/run/netns/cni-1")


def test_killall_is_not_confused_by_other_containers(host: Host) -> None:
    host.process(777, "/usr/bin/containerd-shim-runc-v2", "-namespace", "moby", "-id", "1")
    host.process(778, "/usr/bin/vi", "/etc/kubelet")
    assert "another Kubernetes" not in host.run("killall").stdout


def test_killall_dry_run_does_nothing(host: Host) -> None:
    with_network(host)
    host.tool("systemctl")
    host.tool("umount")
    host.write("/proc/self/mountinfo", mountinfo())
    host.path("/sys/fs/cgroup/memory/kubepods/pod1").mkdir(parents=True)
    before = host.snapshot()
    answer = host.run("killall", "--dry-run")
    assert answer.returncode == 0, answer.stderr
    for part in (
        "stop rfo-server.service",
        "/run/rfo/containerd/a b/rootfs",
        "link delete cni0",
        "-j KUBE-SERVICES",
        "pod1",
    ):
        assert part in answer.stdout
    assert host.log() == ["iptables-save ", "ip6tables-save "]
    host.path("log").unlink()
    assert host.snapshot() == before


# ---- rfo-uninstall.sh

STATE = (
    "/etc/rancher/rfo/config.yaml",
    "/etc/systemd/system/rfo-server.service.d/own.conf",
    "/run/rfo/x",
    "/var/lib/cni/networks/x",
    "/var/lib/kubelet/config.yaml",
    "/var/lib/rancher/rfo/server/node-token",
    "/var/lib/rfo/cache/x",
    "/var/lib/rfo/.hidden",
)
KEPT_STATE = (
    "/etc/cni/net.d/10-site.conflist",
    "/etc/default/rfo-agent",
    "/etc/sysconfig/rfo-server",
    "/opt/cni/bin/bridge",
    "/usr/local/bin/other",
    "/usr/local/lib/systemd/system/other.service",
    "/var/lib/rfo/trust/root.json",
)


def with_state(host: Host) -> None:
    for name in (*STATE, *KEPT_STATE):
        host.write(name)
    host.link(
        "/etc/systemd/system/multi-user.target.wants/rfo-server.service",
        "/usr/local/lib/systemd/system/rfo-server.service",
    )
    host.tool("systemctl")


def left(host: Host, names: tuple[str, ...], prefix: str = "") -> list[str]:
    return [name for name in names if host.has(prefix + name)]


def test_uninstall_removes_a_release(host: Host) -> None:
    with_state(host)
    answer = host.run("uninstall")
    assert answer.returncode == 0, answer.stderr
    assert left(host, STATE) == []
    assert left(host, PROGRAM, "/usr/local/") == []
    assert left(host, KEPT_STATE) == list(KEPT_STATE)
    for name in (
        "/usr/local/share/rfo",
        "/etc/rancher",
        "/var/lib/rancher",
        "/etc/systemd/system/rfo-server.service.d",
    ):
        assert not host.has(name), name
    assert not host.has("/etc/systemd/system/multi-user.target.wants/rfo-server.service")
    assert [line for line in host.log() if "disable" in line or "daemon-reload" in line] == [
        "systemctl disable rfo-server.service rfo-agent.service",
        "systemctl daemon-reload",
    ]


def test_uninstall_purge(host: Host) -> None:
    with_state(host)
    assert host.run("uninstall", "--purge").returncode == 0
    gone = ("/var/lib/rfo", "/etc/default/rfo-agent", "/etc/sysconfig/rfo-server")
    assert left(host, gone) == []
    assert host.has("/opt/cni/bin/bridge")


def test_uninstall_other_prefix_leaves_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path.resolve() / "root", SHELLS[0], "/opt/rfo")
    assert host.run("uninstall").returncode == 0
    assert not host.has("/opt/rfo")
    assert host.has("/opt")


def test_uninstall_own_data_directory(host: Host) -> None:
    host.data_dir = "/srv/rfo"
    host.write("/srv/rfo/server/db/x")
    host.write("/var/lib/rancher/rfo/old")
    assert host.run("uninstall").returncode == 0
    assert not host.has("/srv/rfo")
    assert host.has("/var/lib/rancher/rfo/old")


@pytest.mark.parametrize(
    "data", ["/var/lib/rancher", "/var/lib/rfo", "/var/lib", "/usr/local", "/etc/rancher", "/home/me", "/opt/rfo"]
)
def test_uninstall_refuses_a_dangerous_data_directory(tmp_path: Path, data: str) -> None:
    host = Host(tmp_path.resolve() / "root", SHELLS[0], "/opt/rfo")
    with_state(host)
    host.data_dir = data
    before = host.snapshot()
    assert host.run("uninstall").returncode == 64
    assert host.snapshot() == before


def test_uninstall_follows_the_manifest(host: Host) -> None:
    host.write(
        "/usr/local/share/rfo/manifest.txt", "# installed by test\n\n" + "\n".join((*PROGRAM, "share/man/man8/rfo.8"))
    )
    host.write("/usr/local/share/man/man8/rfo.8")
    host.write("/usr/local/share/rfo/own-notes.txt")
    assert host.run("uninstall").returncode == 0
    assert left(host, PROGRAM, "/usr/local/") == []
    assert not host.has("/usr/local/share/man/man8/rfo.8")
    assert not host.has("/usr/local/share/rfo/manifest.txt")
    assert host.has("/usr/local/share/rfo/own-notes.txt")


@pytest.mark.parametrize(
    "line", ["../../etc/passwd", "/etc/passwd", "bin/../../../etc/passwd", "bin", "./bin/rfo", "bin//rfo", ".."]
)
def test_uninstall_refuses_a_bad_manifest(host: Host, line: str) -> None:
    with_state(host)
    host.write("/etc/passwd")
    host.write("/usr/local/share/rfo/manifest.txt", f"bin/rfo\n{line}\n")
    before = host.snapshot()
    assert host.run("uninstall").returncode == 64
    assert host.snapshot() == before


@pytest.mark.parametrize(
    "prefix", ["/", "/usr", "/opt", "/home/me", "usr/local", "/usr/local/../..", "/usr/local/", "", "/opt/absent"]
)
def test_uninstall_refuses_other_prefixes(host: Host, prefix: str) -> None:
    with_state(host)
    before = host.snapshot()
    assert host.run("uninstall", "--prefix", prefix).returncode == 64
    assert host.snapshot() == before


def test_uninstall_removes_what_the_installer_left_elsewhere(host: Host) -> None:
    bundle = "/srv/images/rfo-images.linux-amd64.tar.zst"
    host.write("/usr/local/share/rfo/images.txt", f"{bundle}\n")
    installed = (bundle, "/etc/NetworkManager/conf.d/rfo.conf", "/usr/local/.rfo-install/new/bin/rfo")
    kept = ("/srv/images/own.tar.zst", "/etc/NetworkManager/conf.d/own.conf")
    for name in (*installed, *kept):
        host.write(name)
    assert host.run("uninstall").returncode == 0
    assert left(host, installed) == []
    assert left(host, kept) == list(kept)


@pytest.mark.parametrize(
    "line", ["/etc/passwd", "/srv/../etc/rfo-images.linux-amd64.txt", "rfo-images.linux-a.txt", ""]
)
def test_uninstall_refuses_a_bad_list_of_images(host: Host, line: str) -> None:
    with_state(host)
    host.write("/etc/passwd")
    host.write("/usr/local/share/rfo/images.txt", f"{line}\n")
    before = host.snapshot()
    assert host.run("uninstall").returncode == 64
    assert host.snapshot() == before


def test_uninstall_refuses_to_take_its_place_for_the_prefix(host: Host) -> None:
    host.write("/root/bin/rfo-uninstall.sh", (INSTALL / "bin/rfo-uninstall.sh").read_text())
    host.write("/root/bin/rfo", "mine")
    answer = host.run("uninstall", program="/root/bin/rfo-uninstall.sh")
    assert answer.returncode == 64
    assert "--prefix" in answer.stderr
    assert host.has("/root/bin/rfo")


def test_uninstall_does_not_go_through_links(host: Host) -> None:
    host.write("/precious/rfo/config.yaml")
    host.link("/etc/rancher", "../precious")
    answer = host.run("uninstall")
    assert answer.returncode == 1
    assert "/etc/rancher/rfo stays" in answer.stderr
    assert host.has("/precious/rfo/config.yaml")
    assert host.has("/usr/local/bin/rfo-uninstall.sh"), "it must be there to be run again"
    host.path("/etc/rancher").unlink()
    assert host.run("uninstall").returncode == 0
    assert host.has("/precious/rfo/config.yaml")
    assert not host.has("/usr/local/bin/rfo-uninstall.sh")


def test_uninstall_removes_links_and_not_their_targets(host: Host) -> None:
    host.write("/precious/db/x")
    host.write("/precious/unit")
    host.link("/var/lib/rancher/rfo", "/precious")
    host.link("/etc/systemd/system/rfo-agent.service", str(host.path("/precious/unit")))
    host.link("/var/lib/kubelet/pods", str(host.path("/precious")))
    host.link("/var/lib/rfo/cache", str(host.path("/precious")))
    assert host.run("uninstall").returncode == 0
    assert not host.has("/var/lib/rancher/rfo")
    assert not host.has("/var/lib/kubelet")
    assert not host.has("/var/lib/rfo/cache")
    assert host.has("/precious/db/x")
    assert host.has("/precious/unit")


@pytest.mark.parametrize("point", ["/var/lib/rancher/rfo", "/var/lib/rancher/rfo/my\\040disk", "/var/lib/kubelet/x"])
def test_uninstall_does_not_delete_across_mounts(host: Host, point: str) -> None:
    with_state(host)
    host.write("/var/lib/rancher/rfo/my disk/x")
    host.write("/proc/self/mountinfo", f"{MOUNTS}5 1 0:9 / {point} rw - nfs4 server:/x rw\n")
    answer = host.run("uninstall")
    assert answer.returncode == 1
    assert "is mounted in it" in answer.stderr
    kept = "/var/lib/kubelet/config.yaml" if "kubelet" in point else "/var/lib/rancher/rfo/my disk/x"
    assert host.has(kept)


def test_uninstall_deletes_nothing_if_mounts_are_unknown(host: Host) -> None:
    with_state(host)
    host.path("/proc/self/mountinfo").unlink()
    assert host.run("uninstall").returncode == 1
    assert host.has("/var/lib/rancher/rfo/server/node-token")


def test_uninstall_leaves_shared_directories_to_a_neighbour(host: Host) -> None:
    with_state(host)
    host.write("/etc/rancher/rke2/config.yaml")
    host.write("/etc/rancher/node/password")
    assert host.run("uninstall").returncode == 0
    assert host.has("/var/lib/kubelet/config.yaml")
    assert host.has("/etc/rancher/node/password")
    assert not host.has("/etc/rancher/rfo")


def test_uninstall_stops_if_killall_fails(host: Host) -> None:
    with_state(host)
    host.write("/usr/local/bin/rfo-killall.sh", "exit 1")
    answer = host.run("uninstall")
    assert answer.returncode == 1
    assert left(host, STATE) == list(STATE)


def test_uninstall_dry_run_removes_nothing(host: Host) -> None:
    with_state(host)
    before = host.snapshot()
    answer = host.run("uninstall", "--dry-run", "--purge")
    assert answer.returncode == 0, answer.stderr
    for name in ("/etc/rancher/rfo", "/var/lib/rancher/rfo", "/var/lib/rfo/trust", "/usr/local/bin/rfo"):
        assert f"{host.root}{name}\n" in answer.stdout
    assert host.log() == []
    assert host.snapshot() == before


# ---- units and data


@pytest.mark.parametrize(("role", "other"), [("server", "agent"), ("agent", "server")])
def test_units(role: str, other: str) -> None:
    folder = INSTALL / "lib/systemd/system"
    unit = (folder / f"rfo-{role}.service").read_text()
    settings = [line for line in unit.splitlines() if "=" in line and not line.startswith("#")]
    assert f"ExecStart=/usr/local/bin/rfo {role}" in settings
    assert f"Conflicts=rfo-{other}.service" in settings
    assert {"KillMode=process", "Delegate=yes", "LimitNOFILE=1048576", "WantedBy=multi-user.target"} <= set(settings)
    assert [s for s in settings if s.startswith("EnvironmentFile")] == [
        f"EnvironmentFile=-/usr/local/lib/systemd/system/rfo-{role}.env",
        f"EnvironmentFile=-/etc/default/rfo-{role}",
        f"EnvironmentFile=-/etc/sysconfig/rfo-{role}",
    ]
    assert "HOME=/root" in (folder / f"rfo-{role}.env").read_text().splitlines()
    twin = (folder / f"rfo-{other}.service").read_text()
    swapped = unit.replace(role, "\0").replace(other, role).replace("\0", other)
    assert swapped == twin


def test_cis_settings_are_those_the_program_checks() -> None:
    text = (INSTALL / "share/rfo/rfo-cis-sysctl.conf").read_text()
    settings = re.findall(r"^([a-z_.]+)=(\d+)$", text, re.MULTILINE)
    source = (CHECKOUT / "components/rfo/src/internal/check/sysctl.go").read_text()
    table = source.partition("var cisSysctls")[2].partition("\n}\n")[0]
    assert settings == re.findall(r'\{"([a-z_.]+)", (\d+)\}', table)


def test_licence_is_the_standard_text() -> None:
    digest = hashlib.sha256((INSTALL / "share/rfo/LICENSE.txt").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
