"""install-rfo.sh on hosts that are folders: what it prints, what it leaves, and what it is told by variables."""

import json
import subprocess
from pathlib import Path

import pytest
from installer import ADDED, GONE, NEW, OLD, SHELLS, Host, Releases, installer_of, serve, two_releases, write_tool
from registry_server import Authority
from trusted import promoted

from pipeline.errors import DefinitionError
from pipeline.pack.installer import TEMPLATE, render_installer

SUMS, TARBALL, BUNDLE = "sha256sum-amd64.txt", "rfo.linux-amd64.tar.gz", "rfo-images.linux-amd64"


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return two_releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def host(releases: Releases, tmp_path: Path) -> Host:
    host = Host(tmp_path, releases.installer, tools=tmp_path / "tools")
    on(host, "x86_64")
    return host


def on(host: Host, machine: str) -> None:
    """Let the host be another machine."""
    assert host.tools
    write_tool(host.tools, "uname", f"echo {machine}")


# --- the script itself


def test_the_script_is_clean(releases: Releases, tmp_path: Path) -> None:
    script = tmp_path / "install-rfo.sh"
    script.write_bytes(releases.installer)
    for file in (TEMPLATE, script):
        subprocess.run(["shellcheck", "--shell=sh", file], check=True)
    assert releases.installer.endswith(b'\nmain "$@"\n')


@pytest.mark.parametrize("shell", SHELLS)
def test_it_carries_the_verifier_and_the_root_unchanged(releases: Releases, host: Host, shell: str) -> None:
    host.shell = shell
    assert host.call("write_verifier").encode() == (releases.new.dist / "rfo-verify").read_bytes()
    assert host.call("write_root").encode() == releases.new.root.read_bytes()


@pytest.mark.parametrize(
    ("verifier", "root", "mirror"),
    [
        (b"no end of line", b"{}\n", ""),
        (b"RFO_VERIFIER_ENDS_HERE\n", b"{}\n", ""),
        (b"\n", b"RFO_ROOT_ENDS_HERE\n", ""),
        (b"\r\n", b"{}\n", ""),
        (b"\0\n", b"{}\n", ""),
        (b"\n", b"{}\n", "https://host/'; reboot; '"),
        (b"\n", b"{}\n", "ftp://host/path"),
    ],
)
def test_what_the_script_cannot_carry(verifier: bytes, root: bytes, mirror: str) -> None:
    with pytest.raises(DefinitionError):
        render_installer(verifier, root, mirror)


def test_what_it_carries_is_not_taken_for_a_place_to_fill() -> None:
    text = render_installer(b"@ROOT@ @MIRROR@\n", b"@VERIFIER@\n", "https://host/path/")
    assert b"\n@ROOT@ @MIRROR@\nRFO_VERIFIER_ENDS_HERE\n" in text
    assert b"\n@VERIFIER@\nRFO_ROOT_ENDS_HERE\n" in text
    assert b"DEFAULT_MIRROR='https://host/path'\n" in text


OPENEULER = 'NAME="openEuler"\nVERSION="{}"\nID="{}"\nVERSION_ID="{}"\nPRETTY_NAME="openEuler"\n'


@pytest.mark.parametrize(
    ("text", "base"),
    [
        (OPENEULER.format("22.03 (LTS-SP1)", "openEuler", "22.03"), "openeuler-22.03-lts-sp1"),
        (OPENEULER.format("22.03 LTS", "openEuler", "22.03"), "openeuler-22.03-lts"),
        (OPENEULER.format("24.03 (LTS SP2)", "OPENEULER", "24.03"), "openeuler-24.03-lts-sp2"),
        (OPENEULER.format("23.09", "openeuler", "23.09"), "openeuler-23.09"),
        ("ID=debian\nVERSION_ID='13'\nVERSION='13 (trixie)'\n", "debian-13"),
        ("ID=arch\n", "arch"),
        ("", "unknown"),
    ],
)
def test_what_the_host_is_called(host: Host, tmp_path: Path, text: str, base: str) -> None:
    (tmp_path / "os-release").write_text(text)
    assert host.call("host_base", str(tmp_path / "os-release")) == f"{base}\n"


# --- installing


@pytest.mark.parametrize("shell", SHELLS)
def test_the_quick_start(releases: Releases, host: Host, authority: Authority, shell: str) -> None:
    host.shell = shell
    with serve({NEW: releases.new.dist}, authority.certificate, authority.key) as mirror:
        host.installer = installer_of(releases.new, mirror.url)
        done = host.run(VERSION=NEW, CA=str(authority.root), AGENT_IMAGES_DIR="")
        url = f"{mirror.url}/v1.0.0%2Brfor10"
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"[INFO]  using {NEW} as release",
        f"[INFO]  downloading checksums at {url}/sha256sum-amd64.txt",
        f"[INFO]  downloading tarball  at {url}/rfo.linux-amd64.tar.gz",
        "[INFO]  verifying tarball",
        f"[INFO]  unpacking tarball file to {host.prefix}",
    ]
    assert "DEVELOPMENT" in done.stderr
    assert host.version() == NEW
    assert all("%2B" in path for path in mirror.asked)
    assert not any("arm64" in path or "images" in path for path in mirror.asked), "what this host does not need"
    assert len(mirror.asked) == len(set(mirror.asked)), "everything once"


def test_what_is_there_afterwards(releases: Releases, host: Host) -> None:
    host.install(releases.new.dist)
    found = host.files()
    assert sorted(found) == [
        "opt/rfo/bin/rfo",
        "opt/rfo/bin/rfo-killall.sh",
        "opt/rfo/bin/rfo-uninstall.sh",
        "opt/rfo/lib/systemd/system/rfo-agent.env",
        "opt/rfo/lib/systemd/system/rfo-agent.service",
        "opt/rfo/lib/systemd/system/rfo-server.env",
        "opt/rfo/lib/systemd/system/rfo-server.service",
        "opt/rfo/share/rfo/LICENSE.txt",
        "opt/rfo/share/rfo/images.txt",
        "opt/rfo/share/rfo/manifest.txt",
        f"opt/rfo/{ADDED}",
        f"srv/images/{BUNDLE}.tar.zst",
        f"srv/images/{BUNDLE}.txt",
        "var/lib/rfo/trust/rfo-verify",
        "var/lib/rfo/trust/rfo-verify.sha256",
        "var/lib/rfo/trust/root.json",
        "var/lib/rfo/trust/timestamp.json",
    ]
    assert not (host.prefix / ".rfo-install").exists()
    assert all(found[name].startswith("100755") for name in found if "/bin/" in name)
    assert all(found[name].startswith("100644") for name in found if "/bin/" not in name)
    assert "ExecStart=@/opt/rfo/bin/rfo server" in found["opt/rfo/lib/systemd/system/rfo-server.service"]
    assert "/usr/local" not in "".join(v for k, v in found.items() if "systemd" in k)
    listed = found["opt/rfo/share/rfo/manifest.txt"].splitlines()
    assert {f"opt/rfo/{name}" for name in listed[2:]} | {"opt/rfo/share/rfo/manifest.txt"} == {
        name for name in found if name.startswith("opt/")
    }
    state = json.loads((host.state / "state.json").read_bytes())
    assert (state["installed"], state["highest_version"]) == (NEW, NEW)
    subprocess.run(["sha256sum", "--quiet", "-c", "rfo-verify.sha256"], cwd=host.state, check=True)


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("riscv64", "riscv64")])
def test_each_architecture_gets_its_own(releases: Releases, host: Host, machine: str, arch: str) -> None:
    on(host, machine)
    host.install(releases.new.dist)
    assert f"linux/{arch}" in (host.prefix / "bin/rfo").read_text()


def test_an_architecture_that_there_is_not(releases: Releases, host: Host) -> None:
    on(host, "s390x")
    done = host.run(ARTIFACT_PATH=str(releases.new.dist))
    assert done.returncode == 3
    assert "not made for s390x" in done.stderr


def test_an_upgrade(releases: Releases, host: Host) -> None:
    host.install(releases.old.dist)
    before = host.files()
    (host.prefix / "share/rfo/own.txt").write_text("mine")
    (host.prefix / "bin/rfo").chmod(0o700)
    done = host.install(releases.new.dist)
    assert [line for line in done.stderr.splitlines() if "ERROR" in line] == []
    assert host.version() == NEW
    assert not (host.prefix / GONE).exists()
    assert f"opt/rfo/{GONE}" in before
    assert (host.prefix / ADDED).exists()
    assert (host.prefix / "share/rfo/own.txt").read_text() == "mine"
    assert json.loads((host.state / "state.json").read_bytes())["installed"] == NEW


def test_an_upgrade_uses_the_verifier_and_the_root_of_the_host(releases: Releases, host: Host, tmp_path: Path) -> None:
    host.install(releases.old.dist)
    other = promoted(tmp_path / "other", stand_in=False)
    host.installer = render_installer(b"raise SystemExit(0)\n", other.root.read_bytes())
    host.install(releases.new.dist)
    assert host.version() == NEW
    host.installer = installer_of(other)
    done = host.run(ARTIFACT_PATH=str(other.dist))
    assert done.returncode == 10, "a release of another trust root"
    assert host.version() == NEW


def test_the_same_version_again_repairs(releases: Releases, host: Host) -> None:
    host.install(releases.new.dist)
    good = host.files()
    (host.prefix / "bin/rfo").write_text("damaged")
    (host.prefix / "lib/systemd/system/rfo-agent.service").unlink()
    host.install(releases.new.dist)
    assert host.files() == good


def test_no_downgrade_unless_told(releases: Releases, host: Host, tmp_path: Path) -> None:
    host.install(releases.new.dist)
    verifier = (host.state / "rfo-verify").stat().st_mtime_ns
    done = host.run(ARTIFACT_PATH=str(releases.old.dist))
    assert done.returncode == 10
    assert "is older than what this host has accepted before" in done.stderr, "its metadata are older as well"
    older = releases.under_newer_metadata(tmp_path / "older")
    done = host.run(ARTIFACT_PATH=str(older))
    assert done.returncode == 10
    assert f"refused: {OLD}: is older than what is installed" in done.stderr
    assert host.version() == NEW
    host.install(older, ALLOW_DOWNGRADE="1")
    assert host.version() == OLD
    assert (host.state / "rfo-verify").stat().st_mtime_ns == verifier, "the verifier stays the newer one"
    state = json.loads((host.state / "state.json").read_bytes())
    assert (state["installed"], state["highest_version"]) == (OLD, NEW)


def test_the_installed_version_counts_without_state(releases: Releases, host: Host) -> None:
    host.install(releases.new.dist)
    subprocess.run(["rm", "-r", host.state], check=True)
    done = host.run(ARTIFACT_PATH=str(releases.old.dist))
    assert done.returncode == 10
    assert f"refused: {OLD}: is older than what is installed" in done.stderr
    host.install(releases.old.dist, ALLOW_DOWNGRADE="1")
    assert host.version() == OLD


def test_looking_only(releases: Releases, host: Host) -> None:
    done = host.run(ARTIFACT_PATH=str(releases.new.dist), VERIFY_ONLY="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"[INFO]  accepted: {NEW} (policy development); nothing was changed"
    assert host.files() == {}
    assert not host.prefix.exists()
    assert not host.state.exists()


def test_a_channel_names_a_version(releases: Releases, host: Host) -> None:
    with serve({OLD: releases.old.dist, NEW: releases.new.dist}) as mirror:
        mirror.extra["channel/stable"] = f"{NEW}\n".encode()
        mirror.extra["channel/old"] = f"{OLD}\n".encode()
        done = host.run(MIRROR=mirror.url)
        assert done.returncode == 0, done.stderr
        assert "is not encrypted" in done.stderr
        assert host.version() == NEW
        back = host.run(MIRROR=mirror.url, CHANNEL="old", ALLOW_DOWNGRADE="1")
        assert back.returncode == 10, "a channel leads forward only"
        none = host.run(MIRROR=mirror.url, CHANNEL="testing")
        assert none.returncode == 1
        assert "channel/testing" in none.stderr
        mirror.extra["channel/bad"] = b"v1.0.0+rfor1; reboot\n"
        assert host.run(MIRROR=mirror.url, CHANNEL="bad").returncode == 2
    assert host.version() == NEW


def test_through_a_proxy(releases: Releases, host: Host) -> None:
    with serve({NEW: releases.new.dist}) as proxy:
        done = host.run(MIRROR="http://releases.example", VERSION=NEW, http_proxy=proxy.url)
        assert done.returncode == 0, done.stderr
        assert all(path.startswith("http://releases.example/v1.0.0%2Brfor10/") for path in proxy.asked)


def test_images_for_hosts_without_a_registry(releases: Releases, host: Host) -> None:
    with serve({NEW: releases.new.dist}) as mirror:
        assert host.run(MIRROR=mirror.url, VERSION=NEW).returncode == 0
    for name in (f"{BUNDLE}.tar.zst", f"{BUNDLE}.txt"):
        assert (host.images / name).read_bytes() == (releases.new.dist / name).read_bytes()


def test_a_stand_in_for_the_base_has_to_be_allowed(host: Host, tmp_path: Path) -> None:
    made = promoted(tmp_path / "made")
    host.installer = installer_of(made)
    done = host.run(ARTIFACT_PATH=str(made.dist))
    assert done.returncode == 10
    assert "made on debian-13, which stands in for its base" in done.stderr
    assert "INSTALL_RFO_ALLOW_BASE=debian-13" in done.stderr
    assert host.files() == {}
    with serve({made.name: made.dist}) as mirror:
        done = host.run(MIRROR=mirror.url, VERSION=made.name, ALLOW_BASE="debian-12 debian-13")
    assert done.returncode == 0, done.stderr
    assert f"/v1.0.0%2Brfor1@debian-13/{SUMS}" in done.stdout


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"TYPE": "master"}, "server or agent"),
        ({"METHOD": "deb"}, "tar or rpm"),
        ({"VERSION": "1.25.4"}, "such as v1.25.4+rfor1"),
        ({"VERSION": "v1.25.4+rfor1/../.."}, "such as v1.25.4+rfor1"),
        ({"TAR_PREFIX": "usr/local"}, "absolute path"),
        ({"TAR_PREFIX": "/usr/local/../.."}, "absolute path"),
        ({"TAR_PREFIX": "/"}, "absolute path"),
        ({"ALLOW_BASE": "$(reboot)"}, "names such as debian-13"),
        ({"MIRROR": "ftp://host/path"}, "https://HOST/PATH"),
        ({"MIRROR": 'https://host/"\nurl="x'}, "no plain address"),
        ({"MIRROR": ""}, "set INSTALL_RFO_MIRROR"),
        ({"ARTIFACT_PATH": "/proc/none"}, "is no folder"),
        ({"CA": "/proc/none"}, "cannot be read"),
    ],
)
def test_wrong_usage(host: Host, settings: dict[str, str], said: str) -> None:
    done = host.run(**settings)
    assert done.returncode == 2
    assert said in done.stderr
    assert host.files() == {}


def test_help(host: Host) -> None:
    assert "INSTALL_RFO_VERSION" in host.call("main", "--help")


@pytest.mark.parametrize("lacking", ["python3", "openssl", "curl"])
def test_a_host_that_lacks_a_program(host: Host, tmp_path: Path, lacking: str) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("sh", "id", "uname", "grep", "sed", "tr", "mktemp", "rm", "python3", "openssl", "curl"):
        if name != lacking:
            write_tool(bare, name, 'exec "$REAL" "$@"')
    host.shell = "/bin/sh"
    done = host.run(PATH=str(bare), MIRROR="https://127.0.0.1:9")
    assert done.returncode == 3, done.stderr
    assert f"dnf install {lacking}" in done.stderr


def test_uninstall_removes_exactly_what_was_installed(releases: Releases, host: Host) -> None:
    own = [host.prefix.parent / "other/x", host.images / "own.tar.zst", host.prefix / "bin/mine"]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    host.install(releases.new.dist)
    (host.folder / "proc/self").mkdir(parents=True)
    (host.folder / "proc/self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    script = host.prefix / "bin/rfo-uninstall.sh"
    images = host.prefix / "share/rfo/images.txt"
    images.write_text(images.read_text().replace(str(host.folder), ""))
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "RFO_ROOT": str(host.folder)}
    subprocess.run(["sh", script], env=environment, check=True)
    assert {p.relative_to(host.folder).as_posix() for p in host.prefix.rglob("*") if p.is_file()} == {
        "opt/rfo/bin/mine"
    }
    assert all(path.read_text() == "mine" for path in own)
    assert sorted(p.name for p in host.images.iterdir()) == ["own.tar.zst"]
    assert (host.state / "root.json").exists(), "without --purge"
    host.install(releases.new.dist)
