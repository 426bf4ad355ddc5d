"""The steps that write SBOMs: what they describe is what was built, and what they lack is an error."""

import gzip
import json
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine import (
    ARCHES,
    BASE,
    HOST,
    REAL,
    REPO,
    digests,
    given,
    hello,
    inputs,
    make_context,
    run_actions,
    shared_store,
    small,
)
from test_base_deb import tar

from pipeline.build.check import parse_build_info
from pipeline.errors import BuildError, SourceError
from pipeline.graph import Action
from pipeline.model import Digest
from pipeline.release import release
from pipeline.sbom.actions import release_sbom_action, tarball_sbom_action
from pipeline.sbom.buildinfo import MAGIC, read_build_info
from pipeline.sbom.gather import linked_modules, static_libraries
from pipeline.scheduler import Result


def tarball() -> dict[str, bytes]:
    """What a node tarball has, more or less."""
    return {"bin/hello": hello(HOST), "share/rfo/LICENSE.txt": b"text"}


def actions(files: dict[str, Any], name: str = "rfo") -> list[Action]:
    """A tarball with `files`, what was built, and the step that describes it."""
    (unit,) = small().units
    archive = gzip.compress(tar(files), mtime=0)
    return [
        given(unit.action("build", HOST), {"hello": hello(HOST)}),
        given(f"tarball/{HOST}", {f"{name}.linux-{HOST}.tar.gz": archive}),
        tarball_sbom_action(unit, HOST, inputs(), small().release),
    ]


def output(result: Result, action: str, name: str) -> dict[str, Any]:
    path = shared_store().use(result.outputs[action][name].digest)
    assert path is not None
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def test_a_tarball_is_described_as_an_image_is() -> None:
    made = actions(tarball())
    result = run_actions(shared_store(), made)
    assert not result.failures
    document = output(result, f"sbom/rfo/{HOST}", f"rfo.linux-{HOST}.spdx.json")
    packages = {p["name"]: p for p in document["packages"]}
    archive = result.outputs[f"tarball/{HOST}"][f"rfo.linux-{HOST}.tar.gz"].digest
    (root,) = [p for p in packages.values() if p["SPDXID"] == "SPDXRef-Root"]
    assert root["checksums"] == [{"algorithm": "SHA256", "checksumValue": archive.hex}]
    assert root["primaryPackagePurpose"] == "ARCHIVE"
    assert root["externalRefs"][0]["referenceLocator"] == (
        f"pkg:generic/rfo@v1.0.0%2Brfor1?arch={HOST}&checksum={archive}"
    )
    assert sorted(f["fileName"] for f in document["files"]) == ["./bin/hello", "./share/rfo/LICENSE.txt"]
    assert (packages["stdlib"]["versionInfo"], packages["stdlib"]["licenseDeclared"]) == ("1.20.14", "BSD-3-Clause")
    assert packages["hello"]["licenseDeclared"] == "Apache-2.0"


@pytest.mark.parametrize(
    ("files", "found"),
    [({"bin/hello": b"other"}, Digest.of_bytes(b"other").hex), ({"bin/other": b"other"}, "no file")],
)
def test_a_program_that_the_build_did_not_make_is_an_error(files: dict[str, bytes], found: str) -> None:
    result = run_actions(shared_store(), actions(files))
    (failure,) = result.failures
    built = Digest.of_bytes(hello(HOST)).hex
    expected = f"expected at bin/hello the hello that hello builds, sha256:{built}; found {found}"
    assert expected in failure.error.reason
    assert f"sbom/rfo/{HOST}" not in result.outputs


def test_the_key_of_a_document_has_all_that_it_says() -> None:
    (unit,) = small().units
    defined = small().release
    first = tarball_sbom_action(unit, HOST, inputs(), defined).parameters
    for other in (
        tarball_sbom_action(replace(unit, license="MIT"), HOST, inputs(), defined),
        tarball_sbom_action(replace(unit, version="v9"), HOST, inputs(), defined),
        tarball_sbom_action(unit, HOST, inputs(), defined.model_copy(update={"version": "v1.0.0+rfor2"})),
        tarball_sbom_action(
            replace(unit, build=unit.build.model_copy(update={"cgo": True, "libraries": ("libseccomp",)})),
            HOST, inputs(), defined,
        ),
    ):  # fmt: skip
        assert other.parameters != first


def test_a_release_without_documents_still_says_what_it_is_made_of() -> None:
    action = release_sbom_action(small().release, small().units, {HOST: inputs()}, [])
    result = run_actions(shared_store(), [action])
    assert not result.failures
    document = output(result, "sbom/release", "release.spdx.json")
    assert {p["name"] for p in document["packages"]} == {"rfo", "hello", "golang.org/toolchain", "debian"}


@pytest.mark.parametrize("arch", ARCHES)
def test_what_c_links_is_found_for_every_architecture(arch: str) -> None:
    context = make_context(REPO, version=REAL, base=BASE, components=("pause", "runc"), arches=(arch,))
    found = {
        unit.component: {p.pin.name for p in static_libraries(unit, arch, context.inputs[arch])}
        for unit in context.units
        if arch in unit.arches
    }
    compiler = {n for n in found["pause"] if n.startswith("libgcc-")}
    assert len(compiler) == 1
    assert found["pause"] == {"libc6-dev"} | compiler
    assert found["runc"] == found["pause"] | {"libseccomp-dev"}


def test_a_library_that_no_package_has_is_an_error() -> None:
    (unit,) = small().units
    odd = replace(unit, build=unit.build.model_copy(update={"cgo": True, "libraries": ("libnowhere",)}))
    with pytest.raises(SourceError, match=r"hello: libnowhere\.a: no locked package of base debian-13 has it"):
        static_libraries(odd, HOST, inputs())


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda _: b"", "malformed"),
        (lambda _: b"#!/bin/sh\n", "not an ELF file"),
        (lambda d: d.replace(b".go.buildinfo", b".no.buildinfo"), "is no Go program"),
        (lambda d: d.replace(MAGIC, b"x" * len(MAGIC)), "unknown form"),
        (lambda d: d.replace(MAGIC + b"\x08\x02", MAGIC + b"\x08\x03"), "unknown form"),
        (lambda d: d.replace(MAGIC + b"\x08\x02", MAGIC + b"\x04\x02"), "unknown form"),
        (lambda d: d.replace(MAGIC + b"\x08\x02", MAGIC + b"\x08\x00"), "leads nowhere"),
        (lambda d: by_address(d, 1 << 40), "too long"),
        (lambda d: by_address(d, 4 << 20), "leads nowhere"),
        (lambda d: header(d, b"\xff" * 9), "cut off or too long"),
        (lambda d: header(d, b"\x03\xff\xff\xff"), "malformed"),
    ],
)
def test_malformed_build_information_is_an_error(tmp_path: Path, spoil: Callable[[bytes], bytes], match: str) -> None:
    (tmp_path / "x").write_bytes(spoil(hello(HOST)))
    with pytest.raises(SourceError, match=match):
        read_build_info(tmp_path / "x", "x")


def by_address(data: bytes, length: int = 0) -> bytes:
    """A program in the form of Go 1.17: two strings, which are put over its code, are where the texts stand."""
    (entry,), (headers,), (count,) = (struct.unpack_from(f, data, at) for f, at in (("<Q", 24), ("<Q", 32), ("<H", 56)))
    loaded = [struct.unpack_from("<IIQQQQ", data, headers + 56 * n) for n in range(count)]
    segments = [(offset, start, size) for kind, _, offset, start, _, size in loaded if kind == 1]
    place = data.index(MAGIC)
    code = next(offset + entry - start for offset, start, size in segments if start <= entry < start + size)
    here = next(start + place - offset for offset, start, size in segments if offset <= place < offset + size)
    version = data[place + 32]
    modules = place + 33 + version
    many = shift = 0
    while True:
        many |= (data[modules] & 0x7F) << shift
        shift, modules = shift + 7, modules + 1
        if data[modules - 1] < 0x80:
            break
    strings = struct.pack("<QQQQ", here + 33, version, here + modules - place, length or many)
    changed = bytearray(data)
    changed[place + 15] = 0
    changed[place + 16 : place + 32] = struct.pack("<QQ", entry, entry + 16)
    changed[code : code + 32] = strings
    return bytes(changed)


@pytest.mark.parametrize("arch", ARCHES)
def test_build_information_by_address_says_the_same(tmp_path: Path, arch: str) -> None:
    (tmp_path / "new").write_bytes(hello(arch))
    (tmp_path / "old").write_bytes(by_address(hello(arch)))
    told = read_build_info(tmp_path / "old", "old")
    assert told == read_build_info(tmp_path / "new", "new")
    printed = subprocess.run(["go", "version", "-m", tmp_path / "old"], capture_output=True, text=True, check=True)
    assert parse_build_info(printed.stdout) == {"old": told}, "Go itself reads it so"


def header(data: bytes, after: bytes) -> bytes:
    """A program with other bytes after the header of its build information."""
    at = data.index(MAGIC + b"\x08\x02") + 32
    return data[:at] + after + data[at + len(after) :]


def test_a_program_that_holds_what_the_lock_does_not_have_is_an_error(tmp_path: Path) -> None:
    (unit,) = small().units
    (tmp_path / "hello").write_bytes(hello(HOST))
    assert linked_modules(unit, {"bin/hello": tmp_path / "hello"}, inputs()) == []
    with pytest.raises(BuildError, match=r"bin/hello: built with go1\.20\.14; the release says go1\.19"):
        linked_modules(replace(unit, go="1.19"), {"bin/hello": tmp_path / "hello"}, inputs())
    context = make_context(REPO, version=REAL, base=BASE, components=("coredns",), arches=(HOST,))
    release(context)
    (real,) = context.units
    made = shared_store().use(Digest.parse(digests(context)[f"build/coredns/{HOST}:coredns"]))
    assert made is not None
    with pytest.raises(BuildError, match=r"x: holds [a-z./A-Z0-9-]+ v\S+ h1:\S+, which the lock does not have"):
        linked_modules(replace(real, name="nothing"), {"x": made}, context.inputs[HOST])
