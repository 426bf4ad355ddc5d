"""SBOMs: licences are named or quoted, never guessed; packages tell where they are from; equal facts, equal bytes."""

import gzip
import hashlib
import json
import lzma
import random
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rpm_mirror
from engine import REPO
from test_base_deb import ar, tar, zstd

from pipeline.errors import PipelineError, SourceError
from pipeline.lock import BaseLock, Package, Snapshot, Suite
from pipeline.model import Digest, Module
from pipeline.sbom.document import describe
from pipeline.sbom.facts import Component, File, GoModule, Origin, ReleaseFacts, Subject, SystemPackage, Toolchain
from pipeline.sbom.files import read_files
from pipeline.sbom.gather import folder_licence, origin
from pipeline.sbom.licences import Licence, combine, identify, load_table, named
from pipeline.sbom.overview import describe_release
from pipeline.sbom.packages import owners, parse_copyright, read_packages
from pipeline.sbom.purl import of_image, of_module, of_package
from pipeline.store import Store

MIT = " ".join(next(t.text for t in load_table().texts if t.id == "MIT").replace("*", "the authors").split())
BSD = next(t.text for t in load_table().texts if t.id == "BSD-3-Clause").replace("*", "Acme Inc").replace("#", "1.")
RELEASE = ReleaseFacts("v1.0.0+rfor1", "2022-11-18T00:00:00Z", "rfo-pipeline-0123456789ab")
DIGEST = Digest.of_bytes(b"")


# --- licences


def test_a_known_text_is_known_however_it_is_written() -> None:
    text = MIT.upper().replace(" THE SOFTWARE ", '\n\t/* THE  "SOFTWARE", */\r\n')
    assert identify("x", text) == Licence("MIT")
    assert identify("x", f"The MIT License (MIT)\n\nCopyright (c) 2020 Somebody\n\n{text}") == Licence("MIT")
    assert identify("x", f"Copyright The Authors\n{BSD}\n---\n{MIT}") == Licence("BSD-3-Clause AND MIT")


@pytest.mark.parametrize(
    "text",
    [
        MIT.replace("free of charge", "for a small fee"),
        MIT.replace("and this permission notice", ""),
        f"{MIT}\nThe software shall be used for good, not evil.",
        f"{MIT}\nExcept for the files in third_party, which have other terms.",
        MIT.replace("the authors", "the authors " * 30),
        "",
        "All rights reserved.",
        "This is free software.",
        "Copyright (c) 2020 Somebody",
    ],
)
def test_a_text_with_other_terms_is_quoted_and_not_guessed(text: str) -> None:
    licence = identify("some/module", text)
    (name,) = licence.texts
    assert licence.expression == name
    assert name.startswith("LicenseRef-some-module-")
    assert licence.texts[name] == text.strip() or (not text and licence.texts[name] == "(The text is empty.)")


def test_long_licences_are_known_by_all_their_words() -> None:
    text = (REPO / "install/share/rfo/LICENSE.txt").read_text()
    assert identify("x", text) == Licence("Apache-2.0")
    assert identify("x", text.replace("irrevocable", "revocable", 1)).expression.startswith("LicenseRef-x-")


def test_a_text_that_is_not_utf8_is_quoted_without_control_characters(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_bytes(b"Do what you like.\x00\x1b[31m\xff\xfe\r\nGr\xfc\xdfe\x0c\n")
    licence = folder_licence(tmp_path, "example.org/odd@v1.0.0")
    (text,) = licence.texts.values()
    assert text == "Do what you like.  [31m\ufffd\ufffd\nGr\ufffd\ufffde"


def test_a_module_says_what_its_files_say(tmp_path: Path) -> None:
    def licence(name: str, files: dict[str, str]) -> Licence:
        folder = tmp_path / name
        folder.mkdir()
        for file, text in files.items():
            (folder / file).write_text(text)
        return folder_licence(folder, f"example.org/{name}@v1.0.0")

    assert licence("plain", {"LICENSE": MIT, "main.go": "package main"}) == Licence("MIT")
    assert licence("two", {"LICENSE": MIT, "COPYING.BSD": BSD}) == Licence("BSD-3-Clause AND MIT")
    assert licence("grant", {"LICENSE": MIT, "PATENTS": "a grant", "NOTICE": "hello"}) == Licence("MIT")
    assert licence("tests", {"LICENSE": MIT, "license_test.go": "package x"}) == Licence("MIT")
    none = licence("none", {"main.go": "package main"})
    assert (none.expression, bool(none.comment)) == ("NOASSERTION", True)
    (tmp_path / "huge").mkdir()
    (tmp_path / "huge" / "LICENSE").write_text("x" * (1 << 20) + "x")
    with pytest.raises(SourceError, match=r"example.org/huge@v1: LICENSE is larger than"):
        folder_licence(tmp_path / "huge", "example.org/huge@v1")


@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("Expat", "MIT"),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-2+ or Expat", "GPL-2.0-or-later OR MIT"),
        ("GPLv2+ and LGPLv2.1", "GPL-2.0-or-later AND LGPL-2.1-only"),
        ("(GPL-2+ or Expat) and Zlib", "(GPL-2.0-or-later OR MIT) AND Zlib"),
        ("MIT/Apache-2.0", "MIT OR Apache-2.0"),
        ("Mulan PSL v2", "MulanPSL-2.0"),
        ("MIT, and Zlib", "MIT AND Zlib"),
    ],
)
def test_names_of_distributions_become_expressions(name: str, expression: str) -> None:
    assert named(name, {}, "x") == Licence(expression)


@pytest.mark.parametrize(
    "name",
    ["BSD", "public-domain", "GPL-2+ with odd exception", "MIT or", "and", "(MIT", "MIT)", "()", "MIT Zlib", ")(",
     "MIT or Zlib, and ISC", "Ω", "MIT\u202ezlib"],
)  # fmt: skip
def test_other_names_are_quoted_as_one(name: str) -> None:
    licence = named(name, {name: "its text"}, "pkg")
    (reference,) = licence.texts
    assert licence.expression == reference
    assert reference.startswith("LicenseRef-pkg")
    assert licence.texts[reference] == "its text"


def test_licences_are_combined_in_one_order() -> None:
    parts = [Licence("MIT"), Licence("GPL-2.0-only OR ISC"), Licence(), Licence("Apache-2.0 AND MIT")]
    assert combine(parts) == combine(parts[::-1]) == Licence("(GPL-2.0-only OR ISC) AND Apache-2.0 AND MIT")
    assert combine([Licence("MIT OR ISC")]) == Licence("MIT OR ISC")
    assert combine([]) == Licence()


COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: x

Files: *
Copyright: 2020 Somebody
License: GPL-2+ or Expat

Files: odd/*
Copyright: 2021 Somebody
License: odd
 You may look at it.
 .
 But not for long.

License: unused
 Nobody uses this.
"""


def test_a_machine_readable_copyright_file_is_read() -> None:
    licence = parse_copyright("x", COPYRIGHT)
    (reference,) = licence.texts
    assert licence.expression == f"(GPL-2.0-or-later OR MIT) AND {reference}"
    assert licence.texts[reference] == "You may look at it.\n\nBut not for long."


@pytest.mark.parametrize("text", ["It is free.", "", "License: MIT\n", "Format: x\n", ":\n:\n\n :"])
def test_any_other_copyright_file_is_quoted(text: str) -> None:
    licence = parse_copyright("x", text)
    assert list(licence.texts) == [licence.expression]


# --- package URLs


def test_package_urls_are_those_of_the_specification() -> None:
    assert of_module(Module("github.com/BurntSushi/toml", "v1.0.0+incompatible", f"h1:{'A' * 43}=")) == (
        "pkg:golang/github.com/BurntSushi/toml@v1.0.0%2Bincompatible"
    )
    assert of_image("rfolabs/Pause", "3.6", DIGEST, "arm64") == f"pkg:oci/pause@{DIGEST}?arch=arm64&tag=3.6"
    deb = ("deb", "debian-13", "zlib1g", "1:1.3+x~1", "amd64")
    assert of_package(*deb, "zlib1g", "1:1.3+x~1") == "pkg:deb/debian/zlib1g@1:1.3%2Bx~1?arch=amd64&distro=debian-13"
    assert of_package(*deb, "zlib", "1:1.2") == (
        "pkg:deb/debian/zlib1g@1:1.3%2Bx~1?arch=amd64&distro=debian-13&upstream=zlib%401:1.2"
    )
    assert of_package("rpm", "openeuler-22.03-lts-sp4", "tool", "1:2.0-1", "x86_64", "demo-1.0-1.src.rpm", "") == (
        "pkg:rpm/openeuler/tool@2.0-1?arch=x86_64&distro=openeuler-22.03-lts-sp4&epoch=1&upstream=demo-1.0-1.src.rpm"
    )


def test_sources_that_are_no_modules_are_named_by_where_they_are_from() -> None:
    commit, time = "0123456789" * 4, "2020-01-01T00:00:00Z"
    git = Snapshot("c", "git", ("https://example.org/c.git", "v1+2", commit), 1, DIGEST, time)
    made = origin("c", "v1+2", git, Licence("MIT"))
    assert made.download == f"git+https://example.org/c.git@{commit}"
    assert made.purl == f"pkg:generic/c@v1%2B2?vcs_url=git%2Bhttps://example.org/c.git%40{commit}"
    assert made.digest == DIGEST
    served = Digest.of_bytes(b"archive")
    archive = Snapshot("c", "archive", ("https://example.org/c.tar.gz", str(served)), 1, DIGEST, time)
    made = origin("c", "v1", archive, Licence())
    assert (made.download, made.digest) == ("https://example.org/c.tar.gz", served)
    assert made.purl == f"pkg:generic/c@v1?checksum={served}&download_url=https://example.org/c.tar.gz"


# --- packages

CONTROL = """Package: demo
Version: 1:2.0-1
Architecture: amd64
Source: demo-source (2.0)
Maintainer: Some Body <some@example.org>
Homepage: https://example.org/demo
Description: a demo
 with more lines
"""


def deb(
    folder: Path, control: str = CONTROL, *, data: dict[str, Any] | None = None, name: str = "demo",
    version: str = "1:2.0-1", pack: Callable[[bytes], bytes] = lzma.compress, suffix: str = ".xz",
) -> tuple[Package, Path]:  # fmt: skip
    sums = b"0123  usr/bin/demo\n4567  lib/libdemo.so.1\n"
    inner = tar({"control": control.encode(), "md5sums": sums, "conffiles": b"/etc/demo.conf\n"})
    path = folder / f"{name}{suffix}.deb"
    files = data or {"usr/share/doc/demo/copyright": COPYRIGHT.encode()}
    path.write_bytes(
        ar(
            ("debian-binary", b"2.0\n"),
            (f"control.tar{suffix}", pack(inner)),
            ("data.tar.xz", lzma.compress(tar(files))),
        )
    )
    digest = Digest.of_file(path)
    return Package("minimal", "amd64", name, version, f"pool/{path.name}", path.stat().st_size, digest), path


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".xz", lzma.compress), (".gz", gzip.compress), ("", bytes), (".zst", zstd)]
)
def test_a_debian_package_tells_what_it_is(
    tmp_path: Path, store: Store, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    (found,) = read_packages([deb(tmp_path, suffix=suffix, pack=pack)], "deb", "debian-13", "Debian", store)
    assert (found.source, found.source_version, found.architecture) == ("demo-source", "2.0", "amd64")
    assert (found.supplier, found.maintainer) == ("Debian", "Some Body <some@example.org>")
    assert found.files == {"usr/bin/demo", "lib/libdemo.so.1", "etc/demo.conf"}
    assert found.licence.expression.startswith("(GPL-2.0-or-later OR MIT) AND LicenseRef-demo-source-odd-")
    assert set(owners([found])) == {*found.files, "usr/lib/libdemo.so.1"}


def test_packages_that_share_their_terms_find_them(tmp_path: Path, store: Store) -> None:
    linked = deb(tmp_path, CONTROL.replace(": demo\n", ": other\n"), name="other", data={"usr/share/doc/other": "demo"})
    first, second = read_packages([linked, deb(tmp_path)], "deb", "debian-13", "Debian", store)
    assert first.licence == second.licence
    (again,) = read_packages([linked], "deb", "debian-13", "Debian", store, others={"demo": deb(tmp_path)[1]})
    assert again.licence == second.licence
    (alone,) = read_packages([linked], "deb", "debian-13", "Debian", store)
    assert (alone.licence.expression, bool(alone.licence.comment)) == ("NOASSERTION", True)


@pytest.mark.parametrize(
    ("control", "match"),
    [
        (CONTROL.replace("Some Body", "Some\x1b[2JBody"), "field maintainer holds control characters"),
        (
            CONTROL.replace("Architecture: amd64", "Architecture: amd64\n second line"),
            "field architecture holds control",
        ),
        (CONTROL.replace("demo-source", "demo\x85source"), "field source holds control characters"),
        (CONTROL.replace("1:2.0-1", "1:2.0-2"), "its file says that it is 'demo' '1:2.0-2'"),
        (CONTROL.replace("Package: demo", "Package: other"), "its file says that it is 'other'"),
        ("", "its file says that it is '' ''"),
    ],
)
def test_a_package_that_says_odd_things_is_refused(tmp_path: Path, store: Store, control: str, match: str) -> None:
    with pytest.raises(SourceError, match=match):
        read_packages([deb(tmp_path, control)], "deb", "debian-13", "Debian", store)


@pytest.mark.parametrize(
    "pack", [lambda _: b"no archive", lambda d: lzma.compress(d)[:-20], lambda _: lzma.compress(b"x" * 999)]
)
def test_a_damaged_control_archive_is_refused(tmp_path: Path, store: Store, pack: Callable[[bytes], bytes]) -> None:
    with pytest.raises(SourceError, match=r"package demo 1:2\.0-1: "):
        read_packages([deb(tmp_path, pack=pack)], "deb", "debian-13", "Debian", store)


def test_a_control_archive_that_unpacks_without_end_is_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(SourceError, match="decompression bomb"):
        read_packages([deb(tmp_path, CONTROL + "X: " + "x" * (17 << 20))], "deb", "debian-13", "Debian", store)


def test_an_rpm_package_tells_what_it_is(tmp_path: Path, store: Store) -> None:
    path = next(p for p in rpm_mirror.build(tmp_path, "x86_64") if p.name.startswith("tool-"))
    pin = Package("minimal", "amd64", "tool", "1:2.0-1.oe2203sp4", f"Packages/{path.name}", 1, Digest.of_file(path))
    (found,) = read_packages([(pin, path)], "rpm", "openeuler-22.03-lts-sp4", "openeuler", store)
    assert (found.architecture, found.source, found.licence) == (
        "x86_64",
        "filesystem-3.16-1.oe2203sp4.src.rpm",
        Licence("MIT"),
    )
    assert found.supplier == "openeuler"
    assert {"usr/bin/tool", "usr/bin/tool-link", "etc/empty1", "usr/share/doc/tool/README"} <= found.files
    assert "LicenseRef" not in json.dumps(document(packages=(found,), components=()))
    with pytest.raises(SourceError, match=r"its file says that it is 'tool' '1:2\.0-1\."):
        read_packages([(replace(pin, version="2.0-1"), path)], "rpm", "openeuler-22.03-lts-sp4", "openeuler", store)


# --- files


def test_layers_are_read_whatever_they_are_compressed_with(tmp_path: Path) -> None:
    lower = tar({"etc": None, "etc/a": b"old", "etc/link": "a", "usr/b": b"b"})
    (tmp_path / "lower").write_bytes(gzip.compress(lower))
    (tmp_path / "plain").write_bytes(lower)
    (tmp_path / "zstd").write_bytes(zstd(lower))
    (tmp_path / "upper").write_bytes(gzip.compress(tar({"etc/a": b"new"})))
    found = read_files([tmp_path / "lower", tmp_path / "upper"], "x")
    assert [(f.path, f.size) for f in found] == [("etc/a", 3), ("usr/b", 1)]
    assert found[0].sha256 == Digest.of_bytes(b"new").hex
    assert found[0].sha1 == hashlib.sha1(b"new", usedforsecurity=False).hexdigest()
    assert (
        read_files([tmp_path / "plain"], "x")
        == read_files([tmp_path / "zstd"], "x")
        == read_files([tmp_path / "lower"], "x")
    )


def test_a_file_under_two_names_has_one_content(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tar", "w") as archive:
        (tmp_path / "a").write_bytes(b"content")
        archive.add(tmp_path / "a", "a")
        info = tarfile.TarInfo("b")
        info.type, info.linkname = tarfile.LNKTYPE, "a"
        archive.addfile(info)
    first, second = read_files([tmp_path / "tar"], "x")
    assert (first.path, second.path) == ("a", "b")
    assert first.sha256 == second.sha256


@pytest.mark.parametrize(
    "data",
    [b"", b"no tar", gzip.compress(b"x" * 2000), gzip.compress(tar({"a": b"x" * 9000}))[:-3]],
    ids=["nothing", "no archive", "no tar", "cut"],  # the others hold the time, and workers have to find the same tests
)
def test_a_layer_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "layer").write_bytes(data)
    with pytest.raises(SourceError, match=r"^image x: "):
        read_files([tmp_path / "layer"], "image x")


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "layer", "w", errors="surrogateescape") as archive:
        archive.addfile(tarfile.TarInfo("na\udcffe"))
    with pytest.raises(SourceError, match=r"^x: layer is not a readable tar archive"):
        read_files([tmp_path / "layer"], "x")


def test_a_layer_that_leaves_its_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(tar({"../etc/passwd": b"x"}))
    with pytest.raises(PipelineError, match="leaves its root"):
        read_files([tmp_path / "layer"], "x")


# --- documents


def module(path: str, version: str = "v1.0.0", licence: Licence | None = None) -> GoModule:
    return GoModule(Module(path, version, f"h1:{'A' * 43}="), licence or Licence("MIT"))


def file(path: str, data: bytes = b"") -> File:
    return File(path, hashlib.sha1(data, usedforsecurity=False).hexdigest(), Digest.of_bytes(data).hex, len(data))


def system_package(name: str, *files: str) -> SystemPackage:
    pin = Package("minimal", "amd64", name, "1.0", f"pool/{name}.deb", 1, Digest.of_bytes(name.encode()))
    return SystemPackage(
        pin=pin, family="deb", distribution="debian-13", architecture="amd64", source=name, source_version="1.0",
        supplier="Debian", maintainer="", homepage="javascript:alert(1)", licence=identify(name, "do as you like"),
        files=frozenset(files),
    )  # fmt: skip


def components() -> tuple[Component, ...]:
    toolchain = Toolchain("1.20.14", module("golang.org/toolchain", "v0.0.1-go1.20.14.linux-amd64"))
    git = Origin("c", "v1", "pkg:generic/c@v1", "git+https://example.org/c@" + "0" * 40, DIGEST, Licence("ISC"))
    return (
        Component(
            "a", "a", "v1.0.0", "MIT", module("example.org/a"), (module("example.org/b"), module("example.org/B")),
            toolchain, programs=("usr/bin/a",), deviations=("it is\x07 older\nthan it was: because",),
        ),
        Component(
            "c.tool", "c", "v1", "ISC OR MIT", git, libraries=(system_package("libc6-dev"),), programs=("usr/bin/c",)
        ),
        Component("own", "own", "v2", "Apache-2.0", None),
    )  # fmt: skip


def subject(**more: Any) -> Subject:
    given: dict[str, Any] = {
        "name": "image.linux-amd64",
        "version": "v1",
        "purl": of_image("rfolabs/image", "v1", DIGEST, "amd64"),
        "purpose": "CONTAINER",
        "digest": DIGEST,
        "licence": "Apache-2.0",
        "files": (file("etc/own"), file("usr/bin/a", b"a"), file("usr/bin/c", b"c"), file("usr/lib/libx.so", b"x")),
        "packages": (system_package("libx", "lib/libx.so"), system_package("empty")),
        "components": components(),
        "base": "debian-13",
        "labels": {"b": "2", "a": "1"},
    }
    return Subject(**(given | more))


def document(**more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(describe(subject(**more), RELEASE))
    return found


def test_documents_are_valid_and_their_namespace_is_of_their_content(tmp_path: Path) -> None:
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    data = describe(subject(), RELEASE)
    suites = (Suite("amd64", "trixie", "2026-11-21T09:15:44Z", DIGEST),)
    lock = BaseLock("debian-13", (), suites)
    whole = describe_release(RELEASE, components(), {"linux/amd64": lock}, ["more: why"], {"image.spdx.json": data})
    for name, text in (("image.spdx.json", data), ("release.spdx.json", whole)):
        (tmp_path / name).write_bytes(text)
        assert validate_full_spdx_document(parse_file(str(tmp_path / name)), "SPDX-2.3") == []
    namespaces = {json.loads(d)["documentNamespace"] for d in (data, whole, describe(subject(version="v2"), RELEASE))}
    assert len(namespaces) == 3
    assert not any("+" in n or " " in n for n in namespaces)


def test_equal_facts_give_equal_bytes_in_whatever_order_they_come() -> None:
    first = describe(subject(), RELEASE)
    given = subject()
    for seed in range(5):
        order = random.Random(seed)  # noqa: S311 - an order, not a secret

        def shuffled(values: Any, order: random.Random = order) -> tuple[Any, ...]:
            return tuple(order.sample(list(values), len(values)))

        mixed = replace(
            given, files=shuffled(given.files), packages=shuffled(given.packages),
            components=tuple(replace(c, modules=shuffled(c.modules)) for c in shuffled(given.components)),
            labels=dict(shuffled(given.labels.items())),
        )  # fmt: skip
        assert describe(mixed, RELEASE) == first
    assert Digest.of_bytes(first).hex == "842c73d315b9052e45fb757fb8870f15ef4859dc3d0e469adecd97384bb4dd25"


def test_files_belong_to_the_package_that_lists_them_else_to_the_image() -> None:
    found = document()
    names = {e["SPDXID"]: e.get("fileName") or e["name"] for e in [*found["packages"], *found["files"]]}
    contains = {
        (names[r["spdxElementId"]], names[r["relatedSpdxElement"]])
        for r in found["relationships"]
        if r["relationshipType"] == "CONTAINS" and r["relatedSpdxElement"].startswith("SPDXRef-File-")
    }
    assert contains == {
        ("image.linux-amd64", "./etc/own"), ("libx", "./usr/lib/libx.so"), ("a", "./usr/bin/a"), ("c", "./usr/bin/c"),
    }  # fmt: skip
    analyzed = {p["name"]: p["filesAnalyzed"] for p in found["packages"]}
    assert (analyzed["libx"], analyzed["empty"]) == (True, False)
    assert [f["fileName"] for f in found["files"] if f.get("fileTypes") == ["BINARY"]] == ["./usr/bin/a", "./usr/bin/c"]


def test_a_package_that_is_installed_and_linked_keeps_its_files() -> None:
    both = system_package("libx", "lib/libx.so")
    linked = tuple(replace(c, libraries=(both,)) for c in components())
    found = document(components=linked)
    (package,) = [p for p in found["packages"] if p["name"] == "libx"]
    assert package["filesAnalyzed"]
    kinds = {r["relationshipType"] for r in found["relationships"] if r["relatedSpdxElement"] == package["SPDXID"]}
    assert kinds == {"CONTAINS", "STATIC_LINK"}


def test_what_differs_only_in_case_or_punctuation_stays_apart() -> None:
    found = document()
    ids = [p["SPDXID"] for p in found["packages"] if p["name"].lower() == "example.org/b"]
    assert len(set(ids)) == 2


def test_text_of_others_is_one_line_and_links_are_web_pages() -> None:
    found = document()
    comments = [a["comment"] for p in found["packages"] for a in p.get("annotations", [])]
    assert "deviation: it is older than it was: because" in comments
    assert not any("homepage" in p for p in found["packages"])
