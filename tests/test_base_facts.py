"""What packages say of themselves, as their databases hold it: read back by programs that did not write it."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from engine import HOST, fails, inputs
from rpm_mirror import build
from tools import tool

from pipeline.base.facts import RPM_DATABASE, control_of, database
from pipeline.errors import SourceError
from pipeline.lock import Package
from pipeline.model import Digest


@pytest.fixture(scope="module")
def rpms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Packages by name."""
    return {p.name.rsplit("-", 2)[0]: p for p in build(tmp_path_factory.mktemp("rpms"), "riscv64")}


def pin(name: str) -> Package:
    return Package("network", "riscv64", name, "1", f"{name}.rpm", 1, Digest.of_bytes(b""))


def scanned(folder: Path, files: dict[str, bytes]) -> list[dict[str, Any]]:
    """The packages that a scanner finds in a system with `files`."""
    system = files | {"etc/os-release": b'NAME="openEuler"\nID="openEuler"\nVERSION_ID="24.03"\n'}
    for name, data in system.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    environment = os.environ | {"SYFT_CHECK_FOR_APP_UPDATE": "false"}
    command = [tool("syft"), "--quiet", f"dir:{folder}", "--output", "json"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["artifacts"]
    return sorted(found, key=lambda a: str(a["name"]))


@pytest.mark.full  # the scanner takes minutes to build
def test_a_scanner_reads_packages_of_all_layers_from_the_uppermost_database(
    rpms: dict[str, Path], tmp_path: Path
) -> None:
    own, below = [(pin(n), rpms[n]) for n in ("tool", "demo-libs")], [(pin("filesystem"), rpms["filesystem"])]
    files = database("rpm", own, below)
    assert set(files) == {RPM_DATABASE} and files == database("rpm", own[::-1], below)
    libs, filesystem, program = scanned(tmp_path, files | {"usr/bin/tool": b"kept", "usr/bin/else": b""})
    assert [filesystem["version"], libs["version"]] == ["3.16-1.oe2203sp4", "1.0-1.oe2203sp4"]
    assert program["version"] == "1:2.0-1.oe2203sp4"
    assert [x["value"] for x in program["licenses"]] == ["MIT"]
    expected = "pkg:rpm/openEuler/tool@2.0-1.oe2203sp4?arch=riscv64&distro=openEuler-24.03&epoch=1&upstream=filesystem-"
    assert program["purl"].startswith(expected)
    assert [f["path"] for f in program["metadata"]["files"]] == ["/usr/bin/tool"], "of its files, those that are there"


def two_pages(rpms: dict[str, Path]) -> tuple[bytes, bytes]:
    """A database whose only page of slots is full, and one with a package more."""
    many = [(pin(f"p{n:03}"), rpms["demo-data"]) for n in range(254)]
    full, more = (database("rpm", [*many, *extra])[RPM_DATABASE] for extra in ((), [(pin("tool"), rpms["tool"])]))
    return full, more


def test_a_database_of_more_packages_than_a_page_of_slots(rpms: dict[str, Path]) -> None:
    one, two = two_pages(rpms)
    assert [int.from_bytes(d[12:16], "little") for d in (one, two)] == [1, 2], "pages"
    for data in (one, two):  # every blob stands where the last one ended
        assert len(data) % 16 == 0 and data.endswith(b"BlbE")


@pytest.mark.full  # the scanner takes minutes to build
def test_a_scanner_reads_more_than_one_page_of_slots(rpms: dict[str, Path], tmp_path: Path) -> None:
    _, two = two_pages(rpms)
    assert {a["name"] for a in scanned(tmp_path, {RPM_DATABASE: two})} == {"demo-data", "tool"}


@pytest.mark.parametrize("damage", [b"", b"\xed\xab\xee\xdb", b"\0" * 4096])
def test_what_is_no_package_has_no_record(damage: bytes, tmp_path: Path) -> None:
    file = tmp_path / "package"
    file.write_bytes(damage)
    for family in ("rpm", "deb"):
        assert isinstance(fails(lambda f=family: database(f, [(pin("x"), file)])), SourceError)  # type: ignore[misc]


def test_a_control_paragraph_is_the_packages_own(tmp_path: Path) -> None:
    roots = inputs().roots
    package = next(p for p in roots.find("packer", HOST).packages if p.name == "pigz")
    text = control_of(roots.file(package), "pigz").decode()
    assert text.startswith("Package: pigz\n") and f"\nVersion: {package.version}\n" in text
    assert text.endswith("\n") and not text.endswith("\n\n")
    cut = tmp_path / "cut.deb"
    shutil.copy(roots.file(package), cut)
    with cut.open("r+b") as file:
        file.truncate(300)
    assert "pigz: " in fails(lambda: control_of(cut, "pigz")).reason
