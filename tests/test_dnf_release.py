"""The real packages of a release with the real dnf. RFO_TEST_DIST names the release's folder."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from dnf import KEY, Host, made
from engine import HOST, inputs
from rpm_mirror import run, serve

from pipeline.model import PLATFORMS

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def release() -> Path:
    named = os.environ.get("RFO_TEST_DIST")
    if not named:
        pytest.skip("RFO_TEST_DIST names no release's folder")
    return Path(named).absolute()


def repository(release: Path, arch: str) -> Path:
    found = sorted(p.parent for p in (release / "rpm").glob(f"*/{PLATFORMS[arch].rpm_arch}/repodata"))
    if f"linux/{arch}" not in json.loads((release / "release.json").read_bytes())["platforms"]:
        pytest.skip(f"{release.name} was not made for {arch}")
    assert len(found) == 1, found
    return found[0]


def on(release: Path, arch: str, folder: Path, url: str = "") -> Host:
    """A host that knows the repository of this release."""
    return made().fresh(folder, url or repository(release, arch), release / "rpm" / KEY)


def works(host: Host, arch: str) -> str:
    """The first line that the installed program prints, under emulation if need be."""
    roots = inputs().roots
    emulator = (
        [] if arch == HOST else [roots.path(roots.find("emulator", arch)) / f"usr/bin/qemu-{PLATFORMS[arch].qemu}"]
    )
    done = subprocess.run(
        [*emulator, host.root / "usr/bin/rfo", "--version"], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[0]


@pytest.mark.parametrize("arch", PLATFORMS)
def test_install_and_remove(release: Path, arch: str, tmp_path: Path) -> None:
    version = release.name.partition("@")[0]
    host = on(release, arch, tmp_path)
    forced = PLATFORMS[arch].rpm_arch if arch != HOST else ""
    before = host.files()
    host.dnf("install", "rfo-server", "rfo-agent", arch=forced)
    assert set(host.installed().values()) == {version.removeprefix("v")}
    assert version in works(host, arch)
    assert host.rpm("--verify", *host.installed()) == []
    with subprocess.Popen(
        ["tar", "-xzO", "-f", release / f"rfo.linux-{arch}.tar.gz", "bin/rfo"], stdout=subprocess.PIPE
    ) as process:
        data = process.communicate()[0]
    assert (host.root / "usr/bin/rfo").read_bytes() == data, "as in the tarball"
    host.dnf("remove", "rfo-server", "rfo-agent", "rfo-common", arch=forced)
    assert host.files() == before


def test_images_and_where_they_come_from(release: Path, tmp_path: Path) -> None:
    with serve(repository(release, HOST)) as server:
        host = on(release, HOST, tmp_path, server.url)
        host.dnf("install", "rfo-images", "rfo-release")
    bundle = host.root / f"var/lib/rancher/rfo/agent/images/rfo-images.linux-{HOST}.tar.zst"
    run("cmp", bundle, release / bundle.name)
    assert (host.root / f"etc/pki/rpm-gpg/{KEY}").read_bytes() == (release / "rpm" / KEY).read_bytes()


def test_refused(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(repository(release, HOST), folder, ignore=shutil.ignore_patterns("rfo-images-*"))
    package = next(folder.glob("rfo-common-*.rpm"))
    data = bytearray(package.read_bytes())
    data[-5] ^= 1
    package.write_bytes(data)
    host = on(release, HOST, tmp_path / "host", folder.as_uri())
    assert "has incorrect checksum" in host.dnf("install", "rfo-server", status=1)
    index = folder / "repodata/repomd.xml"
    index.write_text(index.read_text().replace("<revision>", "<revision>1"))
    assert "Bad GPG signature" in host.dnf("--refresh", "install", "rfo-server", status=1)
    assert host.installed() == {}
