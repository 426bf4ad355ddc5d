"""install-rfo.sh on a fresh host under a real systemd: from a mirror, from a folder, by packages, and away again."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dnf
import pytest
from dnf import BASE
from engine import REPO
from installer import NEW, OLD, Releases, installer_of, two_releases
from nspawn import System, require_nspawn
from registry_server import Authority
from trusted import STATEMENT, promoted

pytestmark = pytest.mark.full
SERVE = """
import sys
from pathlib import Path
from installer import serve
folder, certificate, key = map(Path, sys.argv[1:])
with serve({p.name: p for p in folder.iterdir()}, certificate, key) as mirror:
    print(mirror.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return two_releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    require_nspawn()
    with System(tmp_path) as system:
        yield system


def install(system: System, script: bytes, check: bool = True, **settings: str) -> subprocess.CompletedProcess[str]:
    """`curl … | VARIABLES sh -` on the host."""
    own = [f"{n if n.islower() else f'INSTALL_RFO_{n}'}={v}" for n, v in settings.items()]
    return system.run("env", *own, "sh", "-", data=script, check=check)


@contextmanager
def served(system: System, folder: Path, authority: Authority) -> Iterator[str]:
    """The address of a mirror on the host's own loopback device."""
    command = [sys.executable, "-c", SERVE, str(folder), str(authority.certificate), str(authority.key)]
    with subprocess.Popen(
        system.on_network(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPO / "tests", text=True,
        env={"PYTHONPATH": f"{REPO}:{REPO / 'tests'}", "PATH": "/usr/bin:/bin"},
    ) as process:  # fmt: skip
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.communicate()


def enabled(system: System, name: str) -> str:
    """The unit's state, also that of none, for which systemd before 253 has no word."""
    return system.run("systemctl", "is-enabled", name, check=False).stdout.strip() or "not-found"


def test_install_upgrade_and_uninstall(releases: Releases, system: System, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    shutil.copy(authority.root, system.root / "etc/mirror.pem")
    with served(system, releases.old.dist.parent, authority) as url:
        done = install(system, installer_of(releases.old, url), VERSION=OLD, CA="/etc/mirror.pem")
        place = f"{url}/v1.0.0%2Brfor9"
        assert done.stdout.splitlines() == [
            f"[INFO]  using {OLD} as release",
            f"[INFO]  downloading checksums at {place}/sha256sum-amd64.txt",
            f"[INFO]  downloading tarball  at {place}/rfo.linux-amd64.tar.gz",
            "[INFO]  verifying tarball",
            "[INFO]  unpacking tarball file to /usr/local",
        ]
    assert OLD in system.run("rfo").stdout
    for name in ("rfo-server.service", "rfo-agent.service"):
        assert enabled(system, name) == "disabled", "known, without being told again"
    system.run("systemctl", "enable", "rfo-server.service")
    assert enabled(system, "rfo-server.service") == "enabled"
    assert "/usr/local/bin/rfo" in system.run("systemctl", "show", "-p", "ExecStart", "rfo-server").stdout

    shutil.copytree(releases.new.dist, system.root / "srv" / NEW)
    folder = f"/srv/{NEW}"
    assert install(system, releases.installer, VERIFY_ONLY="1", ARTIFACT_PATH=folder).returncode == 0
    assert OLD in system.run("rfo").stdout
    done = install(system, releases.installer, TYPE="agent", ARTIFACT_PATH=folder)
    assert "rfo-server is enabled here, and conflicts with rfo-agent" in done.stderr
    assert NEW in system.run("rfo").stdout
    assert enabled(system, "rfo-server.service") == "enabled", "as it was"
    assert not system.run("systemctl", "show", "-p", "NeedDaemonReload", "rfo-server").stdout.endswith("yes\n")
    bundle = system.root / "var/lib/rancher/rfo/agent/images/rfo-images.linux-amd64.tar.zst"
    assert bundle.read_bytes() == (releases.new.dist / bundle.name).read_bytes()

    done = install(system, releases.installer, check=False, ARTIFACT_PATH=folder, VERSION=OLD)
    assert done.returncode == 10

    system.run("rfo-uninstall.sh")
    assert system.run("find", "/usr/local", "-type", "f").stdout == ""
    assert enabled(system, "rfo-server.service") == "not-found"
    assert not bundle.exists()
    assert (system.root / "var/lib/rfo/trust/state.json").exists()
    install(system, releases.installer, ARTIFACT_PATH=folder)
    system.run("rfo-uninstall.sh", "--purge")
    assert not (system.root / "var/lib/rfo").exists()


def test_another_prefix(releases: Releases, system: System) -> None:
    shutil.copytree(releases.new.dist, system.root / "srv" / NEW)
    install(system, releases.installer, ARTIFACT_PATH=f"/srv/{NEW}", TAR_PREFIX="/opt/rfo")
    system.run("systemctl", "enable", "rfo-agent.service")
    assert "/opt/rfo/bin/rfo" in system.run("systemctl", "show", "-p", "ExecStart", "rfo-agent").stdout
    system.run("/opt/rfo/bin/rfo-uninstall.sh")
    assert not (system.root / "opt/rfo").exists()
    assert enabled(system, "rfo-agent.service") == "not-found"


SLEEPING = "[Service]\nExecStart=/usr/bin/sleep infinity\nExecReload=/usr/bin/touch /run/reloaded\n"


def test_what_the_quick_start_asks_of_the_host(releases: Releases, system: System) -> None:
    shutil.copytree(releases.new.dist, system.root / "srv" / NEW)
    for name in ("NetworkManager", "firewalld"):
        system.write(f"/etc/systemd/system/{name}.service", SLEEPING + "[Install]\nWantedBy=multi-user.target\n")
    system.write("/etc/NetworkManager/conf.d/own.conf", "[main]\n")
    system.run("systemctl", "daemon-reload")
    system.run("systemctl", "enable", "--now", "NetworkManager", "firewalld")
    written = system.root / "etc/NetworkManager/conf.d/rfo.conf"

    done = install(system, releases.installer, ARTIFACT_PATH=f"/srv/{NEW}")
    assert "NetworkManager manages the interfaces of pods" in done.stderr
    assert "firewalld is active" in done.stderr
    assert not written.exists()
    assert enabled(system, "firewalld") == "enabled"

    done = install(system, releases.installer, ARTIFACT_PATH=f"/srv/{NEW}", PREPARE_HOST="1")
    expected = "[keyfile]\nunmanaged-devices=interface-name:cali*;interface-name:flannel*\n"
    assert written.read_text() == expected
    assert (system.root / "etc/NetworkManager/conf.d/own.conf").read_text() == "[main]\n"
    assert system.run("ls", "/run/reloaded").returncode == 0
    assert enabled(system, "firewalld") == "disabled"
    assert system.run("systemctl", "is-active", "firewalld", check=False).stdout == "inactive\n"

    done = install(system, releases.installer, ARTIFACT_PATH=f"/srv/{NEW}")
    assert "NetworkManager" not in done.stderr
    assert "firewalld" not in done.stderr


# --- packages


def test_packages(tmp_path: Path) -> None:
    require_nspawn()
    old, new = f"v{dnf.OLD}", f"v{dnf.NEW}"
    more: dict[str, Any] = {"stand_in": False, "base": BASE}
    made = promoted(tmp_path / "made", version=old, packages=dnf.release_folder(tmp_path / "old", dnf.OLD), **more)
    rpm = dnf.release_folder(tmp_path / "new", dnf.NEW)
    newer = promoted(tmp_path / "made", version=new, packages=rpm, versions=dict(made.versions), **more)
    with System(tmp_path, writable=True) as system:
        for release in (made, newer):
            shutil.copytree(release.dist, system.root / "srv" / release.version)
        for package in (dnf.made().folder / "base").glob("*.rpm"):
            shutil.copy(package, system.root / "srv")
        system.run("sh", "-c", "rpm -i /srv/*.rpm")
        by_package: dict[str, Any] = {"METHOD": "rpm", "TYPE": "agent"}
        done = install(system, installer_of(made), ARTIFACT_PATH=f"/srv/{old}", **by_package)
        assert f"[INFO]  installing packages for {BASE}" in done.stdout
        listed = system.run("rpm", "-qa", "rfo*").stdout.split()
        suffix = f"{dnf.OLD}-1.oe2203sp4.x86_64"
        assert sorted(listed) == [f"rfo-{p}-{suffix}" for p in ("agent", "common", "images")]
        assert (system.root / "var/lib/rfo/trust/rfo-verify").exists()
        assert (system.root / "var/lib/rancher/rfo/agent/images/rfo-images.linux-amd64.tar.zst").exists()
        system.run("systemctl", "start", "rfo-agent")
        assert "/usr/bin/rfo" in system.run("systemctl", "show", "-p", "ExecStart", "rfo-agent").stdout

        install(system, installer_of(made), ARTIFACT_PATH=f"/srv/{old}", **by_package)
        assert sorted(system.run("rpm", "-qa", "rfo*").stdout.split()) == sorted(listed), "once more"
        done = install(system, installer_of(made), check=False, ARTIFACT_PATH=f"/srv/{old}")
        assert done.returncode == 1
        assert "RFO was installed by packages here" in done.stderr

        done = install(system, installer_of(made), ARTIFACT_PATH=f"/srv/{new}", **by_package)
        assert "rfo-agent still runs the version from before: systemctl restart rfo-agent" in done.stderr
        assert new.removeprefix("v") in system.run("rfo").stdout
        assert system.run("systemctl", "is-active", "rfo-agent").stdout == "active\n"


def test_the_release_in_dist(system: System) -> None:
    found = sorted(path.parents[2] for path in (REPO / "dist").glob(f"*/{STATEMENT}"))
    if not found:
        pytest.skip("no promoted release in dist/: inv release, rebuild, promote")
    for dist in found:
        shutil.copytree(dist, system.root / "srv" / dist.name, ignore=shutil.ignore_patterns("images", "rfo-images*"))
        bases = " ".join(json.loads((dist / "release.json").read_bytes())["bases"].values())
        script = (dist / "install-rfo.sh").read_bytes()
        install(system, script, ARTIFACT_PATH=f"/srv/{dist.name}", ALLOW_BASE=bases)
        version = system.run("rfo", "--version").stdout
        assert dist.name.partition("@")[0] in version
        system.run("systemctl", "enable", "rfo-server")
        system.run("rfo-uninstall.sh", "--purge")
