"""Packages of RFO with the real dnf: installed, upgraded, not downgraded by accident, and away again."""

import shutil
import subprocess
from pathlib import Path

import pytest
from dnf import EPOCH, NEW, OLD, Host, index, key_file, made, new_signer, node_packages, publish
from engine import hello, inputs
from rpm_mirror import serve

from pipeline.model import PLATFORMS

CONFIGURATION = "etc/rancher/rfo/config.yaml"
ENVIRONMENT = "etc/sysconfig/rfo-server"
UNITS = "usr/lib/systemd/system"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with OLD, whose operator has edited a file and made data."""
    host = made().fresh(tmp_path / "host", made().old)
    host.dnf("install", "rfo-server", "rfo-agent")
    (host.root / CONFIGURATION).write_text("token: mine\n")
    data = host.root / "var/lib/rancher/rfo/server/node-token"
    data.parent.mkdir(parents=True)
    data.write_text("secret\n")
    return host


def only(host: Host, version: str) -> None:
    """All of RFO on this host is of one version."""
    assert set(host.installed().values()) == {version}
    assert host.version() == version


def test_install_from_files(host: Host) -> None:
    assert sorted(host.installed()) == ["rfo-agent", "rfo-common", "rfo-server"]
    only(host, OLD)
    differing = host.rpm("--verify", "rfo-common", "rfo-server", "rfo-agent")
    assert [line.split()[-1] for line in differing] == [f"/{CONFIGURATION}"], "what the operator edited, and no more"
    assert (host.root / CONFIGURATION).stat().st_mode & 0o777 == 0o600
    assert not list((host.root / "etc/systemd").rglob("*")), "neither enabled nor started"


def test_install_from_a_server(tmp_path: Path) -> None:
    with serve(made().folder) as server:
        host = made().fresh(tmp_path, f"{server.url}old/")
        said = host.dnf("install", "rfo-agent")
        asked = [path.rpartition("/")[2] for path, _ in server.requests]
    assert sorted(host.installed()) == ["rfo-agent", "rfo-common"]
    assert f"rfo-agent-{OLD}-1.oe2203sp4.x86_64.rpm" in asked, "its name has a +"
    assert "repomd.xml.asc" in asked
    fingerprint = made().signer.certificate.public.fingerprint
    assert fingerprint in said.replace(" ", ""), "what an operator compares before the key is taken"


def test_a_key_is_taken_only_when_told(tmp_path: Path) -> None:
    host = made().fresh(tmp_path, made().old)
    said = host.dnf("--setopt=assumeyes=0", "--assumeno", "install", "rfo-agent", status=1)
    assert "Importing GPG key" in said
    assert host.installed() == {}


def test_upgrade_keeps_what_was_edited(host: Host) -> None:
    host.trust("rfo", made().new, made().keys)
    said = host.dnf("upgrade")
    only(host, NEW)
    assert f"/{CONFIGURATION} created as /{CONFIGURATION}.rpmnew" in said
    assert (host.root / CONFIGURATION).read_text() == "token: mine\n"
    assert NEW in (host.root / f"{CONFIGURATION}.rpmnew").read_text()
    assert NEW in (host.root / ENVIRONMENT).read_text(), "nobody had edited it"
    assert not (host.root / f"{ENVIRONMENT}.rpmnew").exists()
    assert host.rpm("--query", "--docfiles", "rfo-common") == []
    assert "Nothing to do" in host.dnf("upgrade")


def test_an_older_version_only_when_told(host: Host, tmp_path: Path) -> None:
    host.trust("rfo", made().new, made().keys)
    host.dnf("upgrade")
    host.trust("rfo", made().old, made().keys)
    older = sorted(made().old.glob("*.rpm"))
    for command in (["upgrade"], ["upgrade", *older], ["install", "rfo-server", "rfo-agent"]):
        assert "Nothing to do" in host.dnf(*command)
        only(host, NEW)

    # Each of these names an older version, or says that any will do; both packages and what they share go together.
    told: list[list[object]] = [
        ["downgrade", "rfo-server"],
        ["install", f"rfo-server-{OLD}"],
        ["install", *older],
        ["distro-sync"],
        ["distro-sync", "rfo*"],
    ]
    for number, command in enumerate(told):
        copy = host.copy(tmp_path / f"told-{number}")
        assert "Downgrading:" in copy.dnf(*command)
        only(copy, OLD)
        assert (copy.root / CONFIGURATION).read_text() == "token: mine\n"


def test_packages_of_two_versions_do_not_mix(host: Host, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(made().old, mixed)
    shutil.copy(next(made().new.glob("rfo-server-*.rpm")), mixed)
    index(mixed, made().signer)
    host.trust("rfo", mixed, made().keys)
    said = host.dnf("upgrade")
    assert f"nothing provides rfo-common = {NEW}-1.oe2203sp4" in said
    only(host, OLD)


def test_erased_but_for_data(host: Host) -> None:
    wanted = host.root / "etc/systemd/system/multi-user.target.wants/rfo-server.service"
    wanted.parent.mkdir(parents=True)
    wanted.symlink_to(f"/{UNITS}/rfo-server.service")
    host.dnf("remove", "rfo-server", "rfo-agent", "rfo-common")
    assert host.files() == {
        f"{CONFIGURATION}.rpmsave": "token: mine\n",
        "var/lib/rancher/rfo/server/node-token": "secret\n",
    }
    assert not wanted.is_symlink(), "what enabled it"
    assert not (host.root / "usr/share/rfo").exists()


def test_erased_without_a_trace(tmp_path: Path) -> None:
    host = made().fresh(tmp_path, made().old)
    before = host.files()
    host.dnf("install", "rfo-server")
    assert host.files() != before
    host.dnf("remove", "rfo-server", "rfo-common")
    assert host.files() == before
    assert not (host.root / "etc/rancher").exists()


def test_units(host: Host) -> None:
    shutil.copytree("/usr/lib/systemd/system", host.root / UNITS, dirs_exist_ok=True, symlinks=True)
    modprobe = host.root / "usr/sbin/modprobe"
    modprobe.write_text("#!/bin/sh\n")
    modprobe.chmod(0o755)
    for service in ("rfo-server.service", "rfo-agent.service"):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--root", host.root, service],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        about = [line for line in done.stderr.splitlines() if "rfo" in line]
        assert (done.returncode, about) == (0, []), done.stderr
        assert f"ExecStart=/usr/bin/rfo {service[4:-8]}\n" in (host.root / UNITS / service).read_text()


@pytest.mark.parametrize("arch", ["arm64", "riscv64"])
def test_another_architecture(arch: str, tmp_path: Path) -> None:
    platform, roots = PLATFORMS[arch], inputs().roots
    packages = node_packages(tmp_path, arch=arch, program=hello(arch))
    host = made().fresh(tmp_path / "host", publish(tmp_path / arch, packages, made().signer))
    said = host.dnf("install", "rfo-server", arch=platform.rpm_arch)
    assert f" {platform.rpm_arch} " in said
    queried = host.rpm("--query", "--queryformat", "%{NAME} %{ARCH}\n", "rfo-common", "rfo-server")
    assert queried == [f"{name} {platform.rpm_arch}" for name in ("rfo-common", "rfo-server")]
    program = host.root / "usr/bin/rfo"
    assert program.read_bytes() == hello(arch), "as it was in the tarball"
    emulator = roots.path(roots.find("emulator", arch)) / "usr/bin" / f"qemu-{platform.qemu}"
    done = subprocess.run([emulator, program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("hello v")

    refused = (
        made().fresh(tmp_path / "other", made().old).dnf("install", "rfo-server", arch=platform.rpm_arch, status=1)
    )
    assert "does not have a compatible architecture" in refused


# --- a new key


def test_packages_of_the_old_and_the_new_key(host: Host, tmp_path: Path) -> None:
    new = new_signer("RFO packages (new)", created=EPOCH + 1000)
    both = key_file(tmp_path / "RPM-GPG-KEY-rfo", new, made().signer)
    repository = publish(tmp_path / "repository", sorted(made().old.glob("*.rpm")), new, sign=False)
    publish(repository, node_packages(tmp_path, NEW), new)

    other = made().fresh(tmp_path / "other", repository, both)
    other.dnf("install", f"rfo-server-{OLD}")
    only(other, OLD)
    other.dnf("upgrade")
    only(other, NEW)

    # Whoever has the old key only gets nothing by the new one; the new file is all that it takes.
    host.trust("rfo", repository, made().keys)
    assert "Bad GPG signature" in host.dnf("upgrade", status=1)
    only(host, OLD)
    host.trust("rfo", repository, both)
    host.dnf("upgrade")
    only(host, NEW)
