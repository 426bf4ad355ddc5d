"""Packages of RFO on a host with a systemd and a dnf of its own: from rfo-release to nothing."""

from collections.abc import Iterator
from pathlib import Path

import dnf
import pytest
from dnf import BASE, KEY, made, release_folder
from nspawn import System, require_nspawn

pytestmark = pytest.mark.full
MIRROR = "/srv/mirror"
SERVICE = "rfo-server.service"


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """A host that has what RFO requires, in the eyes of dnf, and a mirror with one release on its disk."""
    require_nspawn()
    with System(tmp_path, writable=True) as system:
        system.write("/etc/dnf/vars/releasever", "22.03\n")
        system.write("/etc/systemd/system-preset/99-default-disable.preset", "disable *\n")  # as openEuler has it
        keys = made().host.repositories["base"][1]
        for path in (made().folder / "base").rglob("*"):
            if path.is_file():
                copy(path, system.root / "srv/base" / path.relative_to(made().folder / "base"))
        copy(keys, system.root / "srv/base" / keys.name)
        repository = f"[base]\nname=base\nbaseurl=file:///srv/base\ngpgcheck=1\ngpgkey=file:///srv/base/{keys.name}\n"
        system.write("/etc/yum.repos.d/base.repo", repository)
        yield system


def copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(path.read_bytes())


def mirror(system: System, folder: Path, version: str) -> None:
    """Let the mirror have this release."""
    found = release_folder(folder, version)
    for path in found.rglob("*"):
        if path.is_file():
            copy(path, system.root / MIRROR[1:] / "rpm" / path.relative_to(found))


def state(system: System, verb: str, service: str = SERVICE) -> str:
    return system.run("systemctl", verb, service, check=False).stdout.strip()


def program(system: System) -> str:
    return system.run("rfo").stdout.split()[-1]


def test_from_the_repository_package_to_nothing(system: System, tmp_path: Path) -> None:
    mirror(system, tmp_path / "old", dnf.OLD)
    system.run("rpmkeys", "--import", f"{MIRROR}/rpm/{KEY}")
    package = f"{MIRROR}/rpm/{BASE}/x86_64/rfo-release-{dnf.OLD}-1.oe2203sp4.noarch.rpm"
    system.run("dnf", "-y", "--setopt=localpkg_gpgcheck=1", "install", package)
    assert "rfo" not in system.run("dnf", "repolist", "--enabled").stdout.split(), "nobody has said where it is"
    system.write("/etc/dnf/vars/rfo_mirror", f"file://{MIRROR}\n")
    configuration = system.root / "etc/yum.repos.d/rfo.repo"
    configuration.write_text(configuration.read_text().replace("enabled=0", "enabled=1"))

    system.run("dnf", "-y", "install", "rfo-server", "rfo-agent")
    assert program(system) == dnf.OLD
    assert (state(system, "is-enabled"), state(system, "is-active")) == ("disabled", "inactive")
    verified = system.run("systemd-analyze", "verify", "--man=no", SERVICE, "rfo-agent.service", check=False)
    assert not [line for line in verified.stderr.splitlines() if "rfo" in line]
    system.run("systemctl", "enable", "--now", SERVICE)
    assert state(system, "is-active") == "active"
    started = system.run("systemctl", "show", "-P", "MainPID", SERVICE).stdout
    assert "sleep" in system.run("cat", f"/proc/{started.strip()}/comm").stdout

    # What runs goes on, edited files stay, and the service is known as it is now.
    system.write("/etc/sysconfig/rfo-server", "MINE=1\n")
    mirror(system, tmp_path / "new", dnf.NEW)
    system.run("dnf", "-y", "--refresh", "upgrade")
    assert program(system) == dnf.NEW
    assert system.run("systemctl", "show", "-P", "MainPID", SERVICE).stdout == started
    assert system.run("systemctl", "show", "-P", "NeedDaemonReload", SERVICE).stdout == "no\n"
    assert (system.root / "etc/sysconfig/rfo-server").read_text() == "MINE=1\n"
    assert configuration.read_text().count("enabled=1") == 1
    system.run("systemctl", "restart", SERVICE)
    pid = system.run("systemctl", "show", "-P", "MainPID", SERVICE).stdout.strip()
    assert "MINE=1" in system.run("cat", f"/proc/{pid}/environ").stdout

    system.run("systemctl", "start", "rfo-agent.service")
    assert state(system, "is-active") in ("inactive", "deactivating"), "they conflict"
    assert state(system, "is-active", "rfo-agent") == "active"

    system.run("dnf", "-y", "remove", "rfo-server", "rfo-agent", "rfo-common")
    assert system.run("rpm", "-qa", "--queryformat", "%{NAME}", "rfo*").stdout == "rfo-release"
    assert system.run("pgrep", "sleep", check=False).stdout == "", "what ran was stopped"
    assert (state(system, "is-enabled") or "not-found") == "not-found"
    assert not (system.root / "etc/systemd/system/multi-user.target.wants/rfo-server.service").is_symlink()
    assert (system.root / "etc/sysconfig/rfo-server.rpmsave").read_text() == "MINE=1\n"
