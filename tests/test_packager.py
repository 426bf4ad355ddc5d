"""The process that signs packages and indexes of repositories: what it signs, for rpm and gpg, and what it refuses."""

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine import environment, fails
from test_openpgp import Gpg, rpm, written

from pipeline.attest.openpgp import SIGNATURE, armor
from pipeline.attest.packager import Request, sign
from pipeline.attest.packages import CERTIFICATES, load_packager
from pipeline.attest.succession import Wanted, new_packages_key
from pipeline.attest.talk import ask
from pipeline.errors import PipelineError, SourceError, TrustError
from pipeline.model import Digest
from pipeline.rpm.package import add_signature
from pipeline.rpm.signatures import Given
from pipeline.store import Store

PACKAGER = "pipeline.attest.packager"
VERSION = "v1.0.0+rfor1"
FOLDER = "rpm/debian-13/x86_64"
SPEC = """
Name: %{name}
Version: %{version}
Release: 1.deb13
Summary: demo
License: MIT
Source0: %{name}.spec
%{?nosource:NoSource: 0}
%description
demo
%files
"""
INDEX = """<?xml version="1.0" encoding="UTF-8"?>
<repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>1668729600</revision>
<data type="primary"><checksum type="sha256">{0}</checksum><location href="repodata/{0}-primary.xml.gz"/>
<timestamp>1668729600</timestamp><size>10</size></data></repomd>
""".format("a" * 64)


@dataclass(frozen=True)
class Made:
    """A key for packages, a store, and packages in it."""

    keys: Path
    store: Store
    packages: dict[str, Path]
    """By file name."""
    time: int

    def ask(self, *items: dict[str, str], process: bool = False, **changes: Any) -> dict[str, bytes]:
        """The signatures of items, by place; on request from the process itself. Raises what it does."""
        request = {"store": str(self.store.root), "version": VERSION, "time": self.time, "files": items, **changes}
        with environment(RFO_KEYS=str(self.keys), RFO_PASSPHRASE=None):
            answer = ask(PACKAGER, request) if process else sign(Request.read(json.dumps(request).encode()))
            found = answer["signatures"]
        return {place: base64.b64decode(packet) for place, packet in found.items()}

    def item(self, file: str, folder: str = FOLDER) -> dict[str, str]:
        return {"place": f"{folder}/{file}", "digest": f"sha256:{self.packages[file].name}", "kind": "package"}

    def index(self, text: str, place: str = f"{FOLDER}/repodata/repomd.xml.asc") -> dict[str, str]:
        return {"place": place, "digest": str(self.store.add_bytes(text.encode()).digest), "kind": "metadata"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    work = tmp_path_factory.mktemp("packager")
    store = Store(work / "store")
    packages = {}
    for name, version, kind in (
        ("rfo-server", "1.0.0+rfor1", "-bb"),
        ("rfo-server", "1.0.0+rfor2", "-bb"),
        ("rfo-other", "1.0.0+rfor1", "-bb"),
        ("rfo", "1.0.0+rfor1", "-bs"),
        ("rfo-images", "1.0.0+rfor1", "-bs"),
        ("rfo-server", "1.0.0+rfor1", "-bs"),
    ):
        spec = written(work / f"{name}.spec", SPEC)
        defines = {"_topdir": work, "_sourcedir": work, "name": name, "version": version}
        defines |= {"nosource": "1"} if name == "rfo-images" else {}
        words = (word for k, v in defines.items() for word in ("--define", f"{k} {v}"))
        rpm("rpmbuild", kind, "--quiet", "--target", "x86_64-linux", *words, spec)
    for path in work.rglob("*.rpm"):
        packages[path.name] = store.blob(store.add_bytes(path.read_bytes()).digest)
    new_packages_key(work / "keys", Wanted())
    yield Made(work / "keys", store, packages, load_packager(work / "keys").certificate.public.created)


def test_what_it_signs_is_accepted_by_rpm_and_gpg(made: Made, tmp_path: Path) -> None:
    files = ["rfo-server-1.0.0+rfor1-1.deb13.x86_64.rpm"]
    sources = ["rfo-1.0.0+rfor1-1.deb13.src.rpm", "rfo-images-1.0.0+rfor1-1.deb13.nosrc.rpm"]
    items = [made.item(f) for f in files] + [made.item(f, "rpm/debian-13/source") for f in sources]
    found = made.ask(*items, made.index(INDEX), process=True)
    assert found == made.ask(*items, made.index(INDEX)), "the same bytes each time"
    database = ("--dbpath", tmp_path / "db")
    rpm("rpmkeys", *database, "--import", made.keys / CERTIFICATES)
    for item in items:
        name = Path(item["place"]).name
        add_signature(made.packages[name], found[item["place"]], tmp_path / name)
        said = rpm("rpmkeys", *database, "--define", "_pkgverify_level all", "-K", tmp_path / name)
        assert "digests signatures OK" in said
    with tempfile.TemporaryDirectory(prefix="gpg") as home:
        gpg = Gpg(Path(home))
        gpg("--import", made.keys / CERTIFICATES)
        packet = found[f"{FOLDER}/repodata/repomd.xml.asc"]
        (tmp_path / "repomd.xml.asc").write_bytes(armor(packet, SIGNATURE))
        assert "VALIDSIG" in gpg("--verify", tmp_path / "repomd.xml.asc", written(tmp_path / "repomd.xml", INDEX))
    again = tmp_path / "again"
    again.write_bytes((tmp_path / files[0]).read_bytes())
    signed = made.store.add(again)
    place = {"place": f"{FOLDER}/{files[0]}", "digest": str(signed.digest), "kind": "package"}
    assert "is signed already" in fails(lambda: made.ask(place)).reason


def test_a_rebuild_takes_good_signatures_of_just_its_own_bytes(made: Made, tmp_path: Path) -> None:
    file, index = "rfo-server-1.0.0+rfor1-1.deb13.x86_64.rpm", f"{FOLDER}/repodata/repomd.xml.asc"
    package = f"{FOLDER}/{file}"
    packets = made.ask(made.item(file), made.index(INDEX))
    (tmp_path / "repomd.xml").write_text(INDEX)
    files = {package: made.packages[file], index: tmp_path / "repomd.xml"}
    known = (made.keys / CERTIFICATES).read_bytes()
    assert Given(known, packets).sign(files) == packets
    assert Given(known, {package: packets[index], index: packets[package]}).sign(files) == {}
    other = packets[package][:-1] + bytes([packets[package][-1] ^ 1])
    assert Given(known, {package: other, index: packets[index] + b"\0"}).sign(files) == {}
    new_packages_key(tmp_path / "keys", Wanted())
    assert Given((tmp_path / "keys" / CERTIFICATES).read_bytes(), packets).sign(files) == {}
    assert Given(b"no key", packets).sign(files) == Given().sign(files) == {}


@pytest.mark.parametrize(
    ("file", "place", "reason"),
    [
        ("rfo-server-1.0.0+rfor2-1.deb13.x86_64.rpm", "", "expected a package of v1.0.0+rfor1"),
        ("rfo-other-1.0.0+rfor1-1.deb13.x86_64.rpm", "", "expected a package of v1.0.0+rfor1"),
        ("rfo-server-1.0.0+rfor1-1.deb13.src.rpm", "", "expected a package of v1.0.0+rfor1"),
        (
            "rfo-server-1.0.0+rfor1-1.deb13.x86_64.rpm",
            "rfo-agent-1.0.0+rfor1-1.deb13.x86_64.rpm",
            "which is called otherwise",
        ),
        ("rfo-server-1.0.0+rfor1-1.deb13.x86_64.rpm", "../../x.rpm", "leaves its root"),
    ],
)
def test_packages_that_are_not_of_the_release_are_refused(made: Made, file: str, place: str, reason: str) -> None:
    item = made.item(file)
    item["place"] = f"{FOLDER}/{place or file}"
    error = fails(lambda: made.ask(item))
    assert isinstance(error, TrustError)
    assert reason in error.reason


@pytest.mark.parametrize("position", [-1, -600, 5000])
def test_a_package_that_was_altered_is_refused(made: Made, position: int) -> None:
    name = "rfo-server-1.0.0+rfor1-1.deb13.x86_64.rpm"
    data = bytearray(made.packages[name].read_bytes())
    data[position] ^= 1
    item = {**made.item(name), "digest": str(made.store.add_bytes(bytes(data)).digest)}
    assert isinstance(fails(lambda: made.ask(item)), SourceError)


def test_the_store_is_not_believed(made: Made) -> None:
    damaged = made.store.add_bytes(INDEX.encode() + b"\n").digest
    made.store.blob(damaged).chmod(0o644)
    made.store.blob(damaged).write_bytes(INDEX.encode() + b" ")
    for digest in (damaged, Digest("0" * 64)):
        item = {**made.index(INDEX), "digest": str(digest)}
        assert "missing from the store or was damaged" in fails(lambda i=item: made.ask(i)).reason  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-----BEGIN PGP", "expected an XML declaration"),
        (INDEX.replace("<repomd", "<!DOCTYPE x><repomd"), "document type"),
        (INDEX.replace("repomd", "filelists"), "expected repomd"),
        (INDEX.replace('"primary"', '"other"'), "names no primary metadata"),
        (INDEX.replace('type="sha256"', 'type="sha1"'), "names no primary metadata"),
        (INDEX.replace("</repomd>", ""), "is no repository's index"),
        (INDEX + " " * (1 << 20), "larger than"),
    ],
)
def test_what_is_no_index_of_a_repository_is_refused(made: Made, text: str, reason: str) -> None:
    assert reason in fails(lambda: made.ask(made.index(text))).reason


def test_a_request_without_files_is_about_the_key(made: Made) -> None:
    assert made.ask() == {}


def test_a_request_is_taken_whole_or_not_at_all(made: Made) -> None:
    good = made.index(INDEX)
    for items, changes, reason in (
        ([good, made.index(INDEX, "rpm/other.xml")], {}, "is no place for a repository's index"),
        ([good, good], {}, "twice"),
        ([good], {"time": made.time - 1}, "is before the key was made"),
        ([good], {"time": 0}, "does not understand"),
        ([{**good, "digest": "sha256:x"}], {}, "does not understand"),
        ([{**good, "kind": "file"}], {}, "does not understand"),
        ([], {"time": made.time - 1}, "is before the key was made"),
        ([good], {"more": 1}, "does not understand"),
    ):
        error = fails(lambda i=items, c=changes: made.ask(*i, **c))  # type: ignore[misc]
        assert isinstance(error, PipelineError)
        assert reason in error.reason
    command = [sys.executable, "-m", PACKAGER]
    done = subprocess.run(command, input=b"no JSON", capture_output=True, env=os.environ, check=False)
    assert (done.returncode, b"Traceback" in done.stderr, b"does not understand" in done.stdout) == (10, False, True)


def test_a_host_without_a_key_is_told_how_to_make_one(made: Made, tmp_path: Path) -> None:
    other = Made(tmp_path, made.store, made.packages, made.time)
    error = fails(lambda: other.ask(made.index(INDEX), process=True))
    assert (isinstance(error, TrustError), error.hint) == (True, "make one: ./inv keys new --role packages")
