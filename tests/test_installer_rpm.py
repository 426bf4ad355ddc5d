"""install-rfo.sh with packages: judged like everything else, then installed by the real dnf, or by rpm alone.

dnf and rpm are this machine's; all that they are told is that the host's root is a folder.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import dnf
import pytest
from dnf import BASE, EPOCH, KEY, key_file, made, new_signer, release_folder
from installer import TOOLS, Releases, installer_of, serve, write_tool
from installer import Host as Installing
from trusted import Trusted, promoted

OLD, NEW = f"v{dnf.OLD}", f"v{dnf.NEW}"
PLACE = f"rpm/{BASE}/x86_64"
IMAGES = b"IMAGES=/var/lib/rancher/rfo/agent/images"


@cache
def releases() -> Releases:
    """Two releases with packages, of one trust root."""
    folder = made().folder / "releases"
    old = promoted(folder, version=OLD, stand_in=False, base=BASE, packages=release_folder(folder / "old", dnf.OLD))
    new = promoted(
        folder, version=NEW, stand_in=False, base=BASE, packages=release_folder(folder / "new", dnf.NEW),
        versions=dict(old.versions),
    )  # fmt: skip
    return Releases(old, new)


@dataclass
class Host(Installing):
    """A host whose packages are in a folder."""

    @property
    def system(self) -> dnf.Host:
        return dnf.Host(self.folder / "system")

    def packages(self) -> dict[str, str]:
        """RFO's, without its name, by version."""
        return {name.removeprefix("rfo-"): f"v{version}" for name, version in self.system.installed().items()}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """One with dnf, x86_64, whose own name does not matter since the base is named."""
    made().host.copy(tmp_path / "system")
    tools = tmp_path / "tools"
    images = b"IMAGES=" + bytes(tmp_path / "images")
    host = Host(tmp_path, installer_of(releases().new).replace(IMAGES, images), tools=tools)
    root, home = host.system.root, f"HOME={host.system.folder}/home"
    write_tool(tools, "uname", "echo x86_64")
    for name in ("rpm", "rpmkeys"):
        write_tool(tools, name, f'{home} exec $REAL --root {root} --dbpath /var/lib/rpm "$@"')
    options = f"--config {host.system.folder}/dnf.conf --installroot {root} --releasever 22.03"
    write_tool(tools, "dnf", f'echo "$@" >>{tmp_path}/dnf.log; {home} exec $REAL {options} "$@"')
    yield host
    host.system.stop_agents()


def settings(host: Host, **more: str) -> dict[str, str]:
    return {"METHOD": "rpm", "ALLOW_BASE": BASE, "TYPE": "agent", "AGENT_IMAGES_DIR": "", **more}


def install(host: Host, release: Trusted, **more: str) -> subprocess.CompletedProcess[str]:
    done = host.run(**settings(host, ARTIFACT_PATH=str(release.dist), **more))
    assert done.returncode == 0, done.stderr + done.stdout
    return done


def test_install_upgrade_repair_and_go_back(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "folder"  # what is carried to a host without a network
    shutil.copytree(releases().old.dist, folder)
    for unneeded in ("images", "charts", *(p.name for p in folder.glob("rfo*linux-*")), f"{PLACE}/repodata"):
        path = folder / unneeded
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in folder.glob("sha256sum-*"):
        path.unlink()
    next((folder / PLACE).glob("rfo-images-*")).unlink()
    done = host.run(**settings(host, ARTIFACT_PATH=str(folder)))
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("[INFO]")] == [
        f"[INFO]  using {OLD} as release",
        f"[INFO]  staging packages from {folder}/{PLACE}",
        "[INFO]  verifying packages",
        f"[INFO]  installing packages for {BASE}",
    ]
    assert host.packages() == {"common": OLD, "agent": OLD}
    assert (host.state / "rfo-verify").read_bytes() == (releases().old.dist / "rfo-verify").read_bytes()
    assert not host.prefix.exists()

    # The other type beside it, and with that an upgrade of both, since both are of one version.
    install(host, releases().new, TYPE="server", AGENT_IMAGES_DIR=str(host.images))
    assert host.packages() == {"common": NEW, "agent": NEW, "server": NEW}
    bundle = host.images / "rfo-images.linux-amd64.tar.zst"
    assert bundle.read_bytes() == (releases().new.dist / bundle.name).read_bytes(), "where the operator wants it"
    assert host.system.version() == dnf.NEW

    (host.system.root / "usr/bin/rfo").write_text("damaged")
    done = install(host, releases().new, AGENT_IMAGES_DIR=str(host.images))
    assert "Reinstalling:" in done.stdout
    assert host.system.version() == dnf.NEW

    older = releases().under_newer_metadata(tmp_path / "older")
    back = settings(host, ARTIFACT_PATH=str(older), AGENT_IMAGES_DIR=str(host.images))
    done = host.run(**back)
    assert done.returncode == 10
    assert "is older than what is installed" in done.stderr
    assert set(host.packages().values()) == {NEW}
    done = host.run(**back, ALLOW_DOWNGRADE="1")
    assert done.returncode == 0, done.stderr
    assert host.packages() == {"common": OLD, "agent": OLD, "server": OLD}
    log = (tmp_path / "dnf.log").read_text().splitlines()
    assert all("--disablerepo=* " in line and "--setopt=localpkg_gpgcheck=1" in line for line in log)


def test_images_are_a_package_in_their_usual_place(host: Host) -> None:
    install(host, releases().old)
    assert host.packages() == {"common": OLD, "agent": OLD, "images": OLD}
    install(host, releases().new, TYPE="server")
    assert host.packages() == dict.fromkeys(("common", "agent", "images", "server"), NEW)


def test_from_a_mirror(host: Host) -> None:
    with serve({OLD: releases().old.dist}) as mirror:
        done = host.run(**settings(host, MIRROR=mirror.url, VERSION=OLD))
    assert done.returncode == 0, done.stderr
    assert f"[INFO]  downloading packages at {mirror.url}/{OLD.replace('+', '%2B')}/{PLACE}" in done.stdout
    assert host.packages() == {"common": OLD, "agent": OLD}
    got = [path.rpartition("/")[2] for path in mirror.asked]
    assert not [name for name in got if name.startswith(("rfo.linux", "sha256sum", "rfo-images", "rfo-server"))]
    assert len(mirror.asked) == len(set(mirror.asked))


def test_what_dnf_has_installed_meanwhile_counts(host: Host) -> None:
    """The host's own record of what is installed is older then."""
    install(host, releases().old, AGENT_IMAGES_DIR=str(host.images))
    host.system.dnf("install", *(p for p in (releases().new.dist / PLACE).glob("*.rpm") if "server" not in p.name))
    done = host.run(**settings(host, ARTIFACT_PATH=str(releases().old.dist)))
    assert done.returncode == 10
    assert "is older than what is installed" in done.stderr
    assert f"found    {OLD}" in done.stderr
    install(host, releases().new, AGENT_IMAGES_DIR=str(host.images))
    assert host.packages() == dict.fromkeys(("common", "agent", "images", "release"), NEW)


def test_rpm_alone(host: Host, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for folder in [*map(Path, TOOLS.split(":")), host.tools]:
        assert folder
        for program in folder.iterdir():
            if program.name != "dnf":
                (programs / program.name).unlink(missing_ok=True)
                (programs / program.name).symlink_to(program)
    for release in (releases().old, releases().new, releases().new):
        install(host, release, PATH=str(programs), AGENT_IMAGES_DIR=str(host.images))
        assert host.packages() == {"common": release.version, "agent": release.version}
    folder = releases().under_newer_metadata(tmp_path / "older")
    more = {"PATH": str(programs), "AGENT_IMAGES_DIR": str(host.images), "ARTIFACT_PATH": str(folder)}
    done = host.run(**settings(host, **more, ALLOW_DOWNGRADE="1"))
    assert done.returncode == 0, done.stderr
    assert host.packages() == {"common": OLD, "agent": OLD}
    assert not (tmp_path / "dnf.log").exists()
    host.system.dnf("remove", "kmod", "rfo-common", "rfo-agent")
    done = host.run(**settings(host, **more, ALLOW_DOWNGRADE="1"))
    assert done.returncode == 1
    assert "kmod is needed by rfo-common" in done.stderr
    assert "rpm could not install the packages" in done.stderr


def alter(release: Trusted) -> None:
    path = next((release.dist / PLACE).glob("rfo-agent-*"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def sign_by_another_key(release: Trusted) -> None:
    signer = new_signer("Somebody else", created=EPOCH)
    key_file(release.dist / "rpm" / KEY, signer)


Change = Callable[[Trusted], None]


@pytest.mark.parametrize(("change", "code", "says"), [
    (alter, 10, f"refused: {PLACE}/rfo-agent-{dnf.OLD}-1.oe2203sp4.x86_64.rpm: was changed"),
    (sign_by_another_key, 10, f"refused: rpm/{KEY}: was changed"),
])  # fmt: skip
def test_changed(host: Host, tmp_path: Path, change: Change, code: int, says: str) -> None:
    folder = tmp_path / "dist"
    shutil.copytree(releases().old.dist, folder)
    change(Trusted(folder, tmp_path, tmp_path))
    done = host.run(**settings(host, ARTIFACT_PATH=str(folder)))
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    nothing_done(host)


def nothing_done(host: Host) -> None:
    assert host.packages() == {}
    assert not (host.state / "state.json").exists()
    assert not (host.state / ".rfo-install").exists()
    assert not list((host.folder / "tmp").iterdir())


def test_unsigned_packages_in_a_signed_release(host: Host, tmp_path: Path) -> None:
    rpm = release_folder(tmp_path / "rpm", dnf.OLD, signed=False)
    release = promoted(tmp_path / "made", version=OLD, stand_in=False, base=BASE, packages=rpm)
    host.installer = installer_of(release)
    done = host.run(**settings(host, ARTIFACT_PATH=str(release.dist), AGENT_IMAGES_DIR=str(host.images)))
    assert done.returncode == 10
    assert f"rfo-agent-{dnf.OLD}-1.oe2203sp4.x86_64.rpm: digests SIGNATURES NOT OK" in done.stderr
    nothing_done(host)


def test_what_is_not_there(host: Host, tmp_path: Path) -> None:
    release = promoted(tmp_path / "made", version=OLD, stand_in=False, base=BASE)
    host.installer = installer_of(release)
    none = settings(host, ARTIFACT_PATH=str(release.dist), AGENT_IMAGES_DIR=str(host.images))
    done = host.run(**none)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1, f"[ERROR] {OLD} has no packages for {BASE}; use INSTALL_RFO_METHOD=tar",
    )  # fmt: skip
    done = host.run(**none | {"ALLOW_BASE": ""})
    assert done.returncode == 1
    assert f"[ERROR] the packages of {OLD} are for {BASE}; this host is " in done.stderr
    assert f"or INSTALL_RFO_ALLOW_BASE={BASE} if they will do" in done.stderr
    nothing_done(host)


def test_requirements_are_not_downloaded_behind_the_operators_back(host: Host) -> None:
    host.system.dnf("remove", "kmod")
    more = {"AGENT_IMAGES_DIR": str(host.images)}
    done = host.run(**settings(host, ARTIFACT_PATH=str(releases().old.dist), **more))
    assert done.returncode == 1
    assert "nothing provides kmod needed by rfo-common" in done.stderr
    assert "what they require is not looked for in repositories here" in done.stderr
    nothing_done(host)
    with serve({OLD: releases().old.dist}) as mirror:
        done = host.run(**settings(host, MIRROR=mirror.url, VERSION=OLD))
    assert done.returncode == 0, done.stderr
    assert host.system.rpm("--query", "kmod") == ["kmod-1-1.noarch"]


def test_killed_when_dnf_had_done_its_part(host: Host) -> None:
    assert host.tools
    install(host, releases().old, AGENT_IMAGES_DIR=str(host.images))
    tool = host.tools / "dnf"
    whole = tool.read_text()
    tool.write_text(whole.replace("exec $REAL", "$REAL") + "kill -9 $PPID\n")
    again = settings(host, ARTIFACT_PATH=str(releases().new.dist), AGENT_IMAGES_DIR=str(host.images))
    assert host.run(**again).returncode == -9
    assert host.packages() == {"common": NEW, "agent": NEW}
    assert f'"installed":"{OLD}"' in (host.state / "state.json").read_text()
    tool.write_text(whole)
    install(host, releases().new, AGENT_IMAGES_DIR=str(host.images))
    assert f'"installed":"{NEW}"' in (host.state / "state.json").read_text()
    assert not list(host.images.glob(".*")), "what was prepared beside its place"


def test_only_looking(host: Host) -> None:
    done = install(host, releases().old, VERIFY_ONLY="1", AGENT_IMAGES_DIR=str(host.images))
    assert done.stdout.endswith("nothing was changed\n")
    nothing_done(host)


def test_a_host_without_rpm(tmp_path: Path) -> None:
    host = Host(tmp_path, installer_of(releases().new))
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in (host.shell.split()[0], "id", "uname", "grep", "python3", "openssl", "mktemp"):
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)
    done = host.run(PATH=str(programs), METHOD="rpm", ARTIFACT_PATH=str(releases().new.dist))
    assert (done.returncode, done.stderr) == (3, "[ERROR] rpm is not installed; use INSTALL_RFO_METHOD=tar\n")
