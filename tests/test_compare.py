"""The comparer: equal means equal bytes, and what differs is found and named in every kind of artifact."""

import gzip
import io
import json
import lzma
import os
import random
import stat
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backports.zstd import compress as zstd

from pipeline.compare import explainer as explain_module
from pipeline.compare import layouts
from pipeline.compare.compare import LIMIT, compare, compare_folders
from pipeline.compare.difference import Difference
from pipeline.errors import SourceError
from pipeline.model import Digest, RootedPath
from pipeline.pack.tar import Entry, write_tar
from pipeline.process import find_program, run

FILES = {
    "bin/rfo": b"\x7f program \x00\x01" * 50,
    "share/rfo/notes.txt": b"one\ntwo\nthree\n",
    "share/a.json": b'{"a": 1}',
}


def differences(tmp_path: Path, expected: bytes, found: bytes, name: str = "artifact") -> list[Difference]:
    """What the comparer says of two contents; nothing may be left in its folder."""
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    (tmp_path / "expected").write_bytes(expected)
    (tmp_path / "found").write_bytes(found)
    result = compare(tmp_path / "expected", tmp_path / "found", name, work=work)
    assert list(work.iterdir()) == []
    assert {d.artifact for d in result} <= {name}
    json.dumps([d.to_json() for d in result])
    return result


def only(tmp_path: Path, expected: bytes, found: bytes, name: str = "artifact") -> Difference:
    (difference,) = differences(tmp_path, expected, found, name)
    return difference


def ustar(tmp_path: Path, files: dict[str, bytes] | None = None, *, time: int = 7, mode: int = 0o644) -> bytes:
    entries = [Entry(RootedPath.parse(n), mode, 7, data) for n, data in (files or FILES).items()]
    write_tar(tmp_path / "made.tar", entries, time=time)
    return (tmp_path / "made.tar").read_bytes()


def pax(files: dict[str, bytes], **headers: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), headers
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(files: dict[str, bytes], *, day: int = 1, level: int = 9) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2022, 11, day, 0, 0, 0)), data, zipfile.ZIP_DEFLATED, level)
    return buffer.getvalue()


def packed(data: bytes, level: int = 9, mtime: int = 0) -> bytes:
    plain = gzip.compress(data, level, mtime=1)  # its first ten bytes vary with Python's version
    return plain[:4] + mtime.to_bytes(4, "little") + b"\0\3" + plain[10:]


def program() -> bytes:
    """A real ELF program of this host: the interpreter."""
    return Path(sys.executable).resolve().read_bytes()


def deb(folder: Path, text: str) -> bytes:
    find_program("dpkg-deb", packages="dpkg")
    root = folder / "deb"
    for name, content in {
        "DEBIAN/control": "Package: demo\nVersion: 1\nArchitecture: all\nMaintainer: a\nDescription: b\n",
        "usr/share/demo/data": text,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    for path in (root, *root.rglob("*")):
        os.utime(path, (7, 7))
        path.chmod(0o755 if path.is_dir() else 0o644)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "7"}
    run(["dpkg-deb", "--root-owner-group", "-b", str(root), str(folder / "demo.deb")], env=environment)
    return (folder / "demo.deb").read_bytes()


def rpm(folder: Path, text: str, payload: str) -> bytes:
    find_program("rpmbuild", packages="rpm")
    spec = folder / "demo.spec"
    spec.write_text(
        "Name: demo\nVersion: 1\nRelease: 1\nSummary: s\nLicense: MIT\nBuildArch: noarch\n%description\nd\n"
        f"%install\nmkdir -p %{{buildroot}}/etc\nprintf '{text}' > %{{buildroot}}/etc/demo\n%files\n/etc/demo\n"
    )
    defines = {
        "_topdir": str(folder / "top"), "_binary_payload": payload, "_buildhost": "host",
        "use_source_date_epoch_as_buildtime": "1", "clamp_mtime_to_source_date_epoch": "1",
    }  # fmt: skip
    options = [o for k, v in defines.items() for o in ("--define", f"{k} {v}")]
    run(["rpmbuild", "-bb", *options, str(spec)], env={**os.environ, "SOURCE_DATE_EPOCH": "7"})
    (made,) = (folder / "top" / "RPMS").rglob("*.rpm")
    return made.read_bytes()


# --- bytes decide


@pytest.mark.parametrize("size", [0, 1, 1 << 17, (1 << 17) + 1, (1 << 20) - 3])
def test_equal_bytes_have_no_difference_whatever_their_times(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)  # noqa: S311 - repeatable
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(data)
    os.utime(tmp_path / "b", (1, 1))
    assert compare(tmp_path / "a", tmp_path / "b", "x") == []


@pytest.mark.parametrize("position", [0, 1, (1 << 17) - 1, 1 << 17, (1 << 17) + 1, (3 << 17) + 4])
def test_one_byte_among_equal_size_and_time_is_found(tmp_path: Path, position: int) -> None:
    data = bytes([0, 1, 2, 3, 255] * 100_000)
    other = bytearray(data)
    other[position] ^= 255
    for name, content in (("a", data), ("b", other)):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (1, 1))
    (difference,) = compare(tmp_path / "a", tmp_path / "b", "x")
    assert difference == Difference(
        "x", (), "", position, data[position : position + 16].hex(" "), other[position : position + 16].hex(" ")
    )


@pytest.mark.parametrize("size", [0, 10, 1 << 17])
def test_a_file_that_ends_early_differs_at_its_end(tmp_path: Path, size: int) -> None:
    data = b"\0\1" * (1 << 17)
    difference = only(tmp_path, data, data[:size])
    assert (difference.offset, difference.found) == (size, "the end of the content")
    assert only(tmp_path, data[:size], data).expected == "the end of the content"


def test_comparing_needs_little_memory(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(64 << 20)
    tracemalloc.start()
    try:
        assert compare(tmp_path / "a", tmp_path / "b", "x") == []
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", ".", "missing"):
        for pair in ((tmp_path / name, tmp_path / "file"), (tmp_path / "file", tmp_path / name)):
            with pytest.raises(SourceError, match="cannot be compared"):
                compare(*pair, "x")


# --- layouts of images


def descriptor(blobs: dict[str, bytes], data: bytes, **more: Any) -> dict[str, Any]:
    """Put a blob into a layout."""
    digest = Digest.of_bytes(data)
    blobs[f"blobs/sha256/{digest.hex}"] = data
    return {"mediaType": "x", "digest": str(digest), "size": len(data), **more}


def layout(
    tmp_path: Path, images: dict[str, list[bytes]], *, user: str = "0", more: dict[str, bytes] | None = None
) -> bytes:
    """An archive with an image of these layers under each name."""
    files: dict[str, bytes] = {}
    entries = []
    for name, layers in images.items():
        config = descriptor(files, json.dumps({"config": {"User": user}}).encode())
        manifest = {"config": config, "layers": [descriptor(files, layer) for layer in layers]}
        platform = {"os": "linux", "architecture": "amd64"}
        index = {"manifests": [descriptor(files, json.dumps(manifest).encode(), platform=platform)]}
        about = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
        entries.append(descriptor(files, json.dumps(index).encode(), annotations=about))
    files["index.json"] = json.dumps({"manifests": entries}).encode()
    return ustar(tmp_path, files | {"oci-layout": b"{}"} | (more or {}))


def layer(tmp_path: Path, text: bytes) -> bytes:
    return packed(ustar(tmp_path, {"etc/motd": text}))


def test_blobs_of_layouts_pair_by_image_platform_and_place(tmp_path: Path) -> None:
    same = layer(tmp_path, b"base\n")
    old = layout(tmp_path, {"docker.io/a/one:v1": [same, layer(tmp_path, b"1\n")], "docker.io/a/two:v1": [same]})
    new = layout(tmp_path, {"docker.io/a/one:v2": [same, layer(tmp_path, b"2\n")], "docker.io/a/two:v1": [same]})
    found = differences(tmp_path, zstd(old), zstd(new), "rfo-images.linux-amd64.tar.zst")
    inside = "rfo-images.linux-amd64.tar"
    assert (found[0].member, found[0].section, found[0].expected) == (
        (inside, "docker.io/a/one linux/amd64 layer 2", "uncompressed", "etc/motd"), "line 1", r"'1\n'",
    )  # fmt: skip
    assert list(dict.fromkeys(d.member[1] for d in found if len(d.member) > 1)) == [
        "docker.io/a/one linux/amd64 layer 2",
        "docker.io/a/one linux/amd64 manifest",
        "docker.io/a/one index",
        "index.json",
    ]
    assert found[1].section == "/layers/1/digest"


def test_a_configuration_and_an_image_that_is_gone_are_named(tmp_path: Path) -> None:
    images = {"docker.io/a/one:v1": [layer(tmp_path, b"1")], "docker.io/a/two:v1": [layer(tmp_path, b"2")]}
    found = differences(tmp_path, layout(tmp_path, images), layout(tmp_path, images, user="1"))
    assert (found[0].member, found[0].section) == (("docker.io/a/one linux/amd64 config",), "/config/User")
    gone = differences(tmp_path, layout(tmp_path, images), layout(tmp_path, dict([*images.items()][:1])))
    assert sum(d.found == "missing" and d.member[-1].startswith("blobs/") for d in gone) == 3


def test_equal_blobs_in_another_order_or_with_other_headers_are_found(tmp_path: Path) -> None:
    images = {"docker.io/a/one:v1": [layer(tmp_path, b"1")]}
    plain = layout(tmp_path, images)
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        members = [(m, tar.extractfile(m).read() if m.isreg() else b"") for m in tar]  # type: ignore[union-attr]
    for change in ("order", "mode"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for member, data in reversed(members) if change == "order" else members:
                member.mode = 0o600 if change == "mode" else member.mode
                tar.addfile(member, io.BytesIO(data))
        (found, *_) = differences(tmp_path, plain, buffer.getvalue())
        assert found.section == "order of members" if change == "order" else found.section.startswith("mode of ")


@pytest.mark.parametrize(
    "index",
    [
        b"", b"[]", b"{", b"[" * 100_000, b'{"manifests": 7}', b'{"manifests": [7, {}, {"annotations": 7}]}',
        b'{"manifests": [{"digest": 7, "annotations": {"io.containerd.image.name": 7}}]}',
        b'{"manifests": [{"digest": "sha256:../../x", "annotations": {"io.containerd.image.name": "x"}}]}',
    ],
)  # fmt: skip
def test_a_malformed_layout_is_compared_by_names(tmp_path: Path, index: bytes) -> None:
    sides = [ustar(tmp_path, {"oci-layout": b"{}", "index.json": index, "blobs/sha256/x": b}) for b in (b"1", b"2")]
    assert only(tmp_path, sides[0], sides[1]).member == ("blobs/sha256/x",)


def test_a_layout_that_names_itself_without_end_costs_little(tmp_path: Path) -> None:
    sides = []
    for text in (b"1", b"2"):
        files: dict[str, bytes] = {}
        leaf = descriptor(files, text)
        manifest = descriptor(files, json.dumps({"config": leaf, "layers": [leaf] * 10_000}).encode())
        index = descriptor(files, json.dumps({"manifests": [manifest] * 10_000}).encode())
        entries = [{**index, "annotations": {"io.containerd.image.name": f"a/{n}"}} for n in range(10_000)]
        files["index.json"] = json.dumps({"manifests": entries}).encode()
        sides.append(ustar(tmp_path, files | {"oci-layout": b"{}"}))
    read = 0
    loads = json.loads

    def count(data: bytes) -> Any:
        nonlocal read
        read += len(data)
        return loads(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json, "loads", count)
        assert differences(tmp_path, sides[0], sides[1])
    assert 0 < read < 6 * layouts.MAX_DOCUMENTS


# --- archives


def test_a_member_of_a_tarball_is_named_with_its_line(tmp_path: Path) -> None:
    other = FILES | {"share/rfo/notes.txt": b"one\nTwo\nthree\n"}
    found = only(tmp_path, packed(ustar(tmp_path)), packed(ustar(tmp_path, other)), "rfo.linux-amd64.tar.gz")
    assert found == Difference(
        "rfo.linux-amd64.tar.gz", ("rfo.linux-amd64.tar", "share/rfo/notes.txt"), "line 2", 4, r"'two\n'", r"'Two\n'"
    )


def test_fields_of_tar_headers_are_named(tmp_path: Path) -> None:
    plain = ustar(tmp_path, {"rfo": b"x"})
    data = bytearray(plain)
    data[136:148], data[148:156] = b"%011o\0" % 8, b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    found = only(tmp_path, plain, bytes(data))
    assert (found.member, found.section, found.offset, found.expected, found.found) == (
        (),
        "mtime of rfo",
        136,
        "7",
        "8",
    )
    found = only(tmp_path, plain, ustar(tmp_path, {"rfo": b"x"}, mode=0o755))
    assert (found.section, found.offset, found.expected, found.found) == ("mode of rfo", 100, "'0000644'", "'0000755'")


def test_the_same_change_of_many_headers_is_one_difference(tmp_path: Path) -> None:
    found = only(tmp_path, ustar(tmp_path), ustar(tmp_path, time=8))
    assert (found.section, found.expected, found.found) == ("mtime of bin/ and 2 more", "7", "8")


def test_missing_added_and_reordered_members_are_told(tmp_path: Path) -> None:
    one, two, three = (pax({n: b"x"}) for n in "abc")
    head = [d[: -len(d) + 1024] for d in (one, two, three)]
    end = bytes(10240)
    found = differences(tmp_path, b"".join(head[:2]) + end, b"".join(head[1:]) + end)
    assert [(d.member, d.expected, d.found) for d in found] == [
        (("a",), "1 bytes", "missing"),
        (("c",), "missing", "1 bytes"),
    ]
    found = differences(tmp_path, head[0] + head[1] + end, head[1] + head[0] + end)
    assert [(d.section, d.expected, d.found) for d in found] == [("order of members", "a", "b")]
    found = differences(tmp_path, head[0] + end, head[0] + head[0] + end)
    assert [(d.member, d.found) for d in found] == [(("a (number 2)",), "1 bytes")]


def test_pax_headers_and_long_names_are_read(tmp_path: Path) -> None:
    long = "d/" * 120 + "file"
    found = only(tmp_path, pax({long: b"x\n"}), pax({long: b"y\n"}))
    assert (found.member, found.section) == ((long,), "line 1")
    found = only(tmp_path, pax({long: b"x"}, comment="a"), pax({long: b"x"}, comment="b"))
    assert (found.member, found.expected) == ((f"pax header of {long}",), r"'13 comment=a\n'")
    gnu = [io.BytesIO(), io.BytesIO()]
    for buffer, data in zip(gnu, (b"x\n", b"y\n"), strict=True):
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
            info = tarfile.TarInfo(long)
            info.size = 2
            tar.addfile(info, io.BytesIO(data))
    assert only(tmp_path, gnu[0].getvalue(), gnu[1].getvalue()).member == (long,)


def test_a_link_has_no_content_whatever_its_size_says(tmp_path: Path) -> None:
    made = []
    for content in (b"x\n", b"y\n"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            link, file = tarfile.TarInfo("link"), tarfile.TarInfo("file")
            link.type, link.linkname, link.size, file.size = tarfile.LNKTYPE, "first", 5000, len(content)
            tar.addfile(link)
            tar.addfile(file, io.BytesIO(content))
        made.append(buffer.getvalue())
    found = only(tmp_path, made[0], made[1])
    assert (found.member, found.section) == (("file",), "line 1")


def test_padding_of_an_archive_counts_too(tmp_path: Path) -> None:
    plain = ustar(tmp_path)
    found = only(tmp_path, plain, plain[:-1] + b"\1")
    assert (found.member, found.section, found.offset) == ((), "", len(plain) - 1)


def test_members_of_zip_archives_are_compared_unpacked(tmp_path: Path) -> None:
    plain = zipped(FILES)
    found = only(tmp_path, plain, zipped(FILES | {"share/a.json": b'{"a": 2}'}))
    assert (found.member, found.section, found.expected, found.found) == (("share/a.json",), "/a", "1", "2")
    found = only(tmp_path, plain, zipped(FILES, day=2))
    assert found.section == "mtime of bin/rfo and 2 more"
    assert (found.expected, found.found) == ("2022-11-01 00:00:00", "2022-11-02 00:00:00")
    found = only(tmp_path, zipped({"a": bytes(range(256)) * 9}), zipped({"a": bytes(range(256)) * 9}, level=1))
    assert found.section == "compressed bytes of a"


def test_a_large_member_of_a_zip_archive_is_unpacked_whole(tmp_path: Path) -> None:
    for size in ((1 << 20) + 5, 3 << 20):  # of the first, plain bytes wait when all that is compressed was read
        data = bytes(size)
        found = only(tmp_path, zipped({"a": data}), zipped({"a": b"\1" + data[1:]}))
        assert (found.member, found.section, found.offset) == (("a",), "", 0)


def test_members_of_debian_packages_are_found(tmp_path: Path) -> None:
    found = differences(tmp_path, deb(tmp_path, "one\n"), deb(tmp_path, "two\n"), "demo.deb")
    chain = ("data.tar.xz", "data.tar", "./usr/share/demo/data")
    assert any((d.member, d.section, d.expected) == (chain, "line 1", r"'one\n'") for d in found)


@pytest.mark.parametrize("payload", ["w0.ufdio", "w9.gzdio"])
def test_members_and_headers_of_rpm_packages_are_found(tmp_path: Path, payload: str) -> None:
    one, two = rpm(tmp_path, "one", payload), rpm(tmp_path, "two", payload)
    found = differences(tmp_path, one, two, "demo.rpm")
    chain = ("payload", "uncompressed", "./etc/demo") if "gz" in payload else ("payload", "./etc/demo")
    assert any((d.member, d.section, d.offset) == (chain, "line 1", 0) for d in found)
    assert {d.section for d in found if not d.member} == {"signature header", "header"}
    lead = bytearray(one)
    lead[20] ^= 1
    assert [(d.section, d.offset) for d in differences(tmp_path, one, bytes(lead))] == [("lead", 20)]


# --- compressed streams


def test_a_field_of_the_gzip_header_is_named(tmp_path: Path) -> None:
    found = only(tmp_path, packed(b"x" * 99), packed(b"x" * 99, mtime=5))
    assert (found.member, found.section, found.offset) == ((), "mtime of the gzip header", 4)
    assert (found.expected, found.found) == ("0", "5")


@pytest.mark.parametrize(
    "compress",
    [
        packed,
        lambda data, level: lzma.compress(data, preset=level),
        zstd,
    ],
)
def test_other_compressed_bytes_of_equal_content_are_told(
    tmp_path: Path, compress: Callable[[bytes, int], bytes]
) -> None:
    data = random.Random(1).randbytes(500) * 40 + b"".join(b"%d " % n for n in range(5000))  # noqa: S311
    one, two = compress(data, 9), compress(data, 1)
    found = only(tmp_path, one, two)
    assert (found.member, found.section) == ((), "compressed bytes")
    assert found.offset == next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", packed), (".xz", lzma.compress), (".zst", zstd)])
def test_every_compressor_is_looked_into(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    one, two = (compress(ustar(tmp_path, FILES | {"z": b"\0" + bytes([n])})) for n in (1, 2))
    found = only(tmp_path, one, two, f"images.tar{suffix}")
    assert (found.member, found.offset) == (("images.tar", "z"), 1)


# --- programs, documents, texts


def test_the_section_of_a_program_is_named(tmp_path: Path) -> None:
    data = bytearray(program())
    at = data.index(b"/lib")
    data[at + 4] ^= 1
    found = only(tmp_path, program(), bytes(data))
    assert (found.section, found.offset) == (".interp", at + 4)
    data = bytearray(program())
    data[16] ^= 1
    assert [(d.section, d.offset) for d in differences(tmp_path, program(), bytes(data))] == [("ELF header", 16)]


@pytest.mark.parametrize(
    ("one", "two", "section", "expected", "found"),
    [
        ({"a": [1, {"b/~": 2}]}, {"a": [1, {"b/~": 3}]}, "/a/1/b~1~0", "2", "3"),
        ({"a": 1}, {"a": 1, "b": {"c": 1}}, "/b", "missing", "an object of 1"),
        ({"a": [1, 2]}, {"a": [1]}, "/a/1", "2", "missing"),
        ({"a": 1}, {"a": True}, "/a", "1", "true"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, "order of keys at /", "['a', 'b']", "['b', 'a']"),
        ({"a": {}}, {"a": []}, "/a", "an object of 0", "an array of 0"),
    ],
)
def test_json_is_told_by_pointer(tmp_path: Path, one: Any, two: Any, section: str, expected: str, found: str) -> None:
    result = only(tmp_path, json.dumps(one).encode(), json.dumps(two).encode())
    assert (result.section, result.expected, result.found) == (section, expected, found)
    assert result.offset is not None


def test_json_that_is_only_spelled_otherwise_is_told(tmp_path: Path) -> None:
    found = only(tmp_path, b'{"a": 1}', b'{"a":1}')
    assert (found.section, found.offset) == ("white space or spelling of JSON", 5)


def test_documents_that_cannot_be_parsed_are_told_by_line(tmp_path: Path) -> None:
    for before in (b"{\n", b"\n".join([b"["] * 100_000)):
        found = only(tmp_path, before + b"one\n", before + b"two\n")
        assert found.section.startswith("line ")


def test_a_line_that_was_cut_off_or_is_long_is_shown_where_it_differs(tmp_path: Path) -> None:
    found = only(tmp_path, b"one\ntwo\n", b"one\n")
    assert (found.section, found.offset, found.found) == ("line 2", 4, "the end of the content")
    found = only(tmp_path, b"a\n" + b"x" * 300_000 + b"1" + b"y" * 300, b"a\n" + b"x" * 300_000 + b"2" + b"y" * 300)
    assert (found.section, found.offset) == ("line 2", 300_002)
    assert found.expected == repr("x" * 60 + "1" + "y" * 59)


# --- limits and hostile input


def test_many_differences_are_counted(tmp_path: Path) -> None:
    one, two = ({f"f{n:03}": bytes([0, side]) for n in range(50)} for side in (1, 2))
    found = differences(tmp_path, ustar(tmp_path, one), ustar(tmp_path, two))
    assert len(found) == LIMIT + 1
    assert found[0].member == ("f000",)
    assert found[-1].section == "30 more differences"
    one, two = ({f"f{n:03}": bytes(n if side else 99 - n) for n in range(50)} for side in (0, 1))
    found = differences(tmp_path, ustar(tmp_path, one), ustar(tmp_path, two))
    assert found[-1].section == "80 more differences"  # content and size of each


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_module, "MIN_SPOOLED", 1 << 20)
    one, two = zstd(bytes(200 << 20)), zstd(bytes(200 << 20) + b"\1")
    assert len(one) * explain_module.MAX_RATIO < 200 << 20
    found = only(tmp_path, one, two)
    assert found.section.startswith("not looked into as zstd stream: it: unpacks to more bytes than allowed")
    assert found.offset is not None


def test_all_that_is_unpacked_counts_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_module, "MAX_SPOOLED", 2 << 20)
    one, two = ({f"f{n}.gz": packed(bytes([side]) * (1 << 20)) for n in range(5)} for side in (1, 2))
    found = differences(tmp_path, ustar(tmp_path, one), ustar(tmp_path, two))
    assert [d.section.partition(":")[0] for d in found] == [
        "",
        *["not looked into as gzip stream"] * 4,
        "size of f0.gz and 4 more",
    ]
    assert [d.member[:1] for d in found] == [*((f"f{n}.gz",) for n in range(5)), ()]


def test_a_full_disk_ends_in_the_offset_of_the_compressed_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain_module, "RESERVE", 1 << 60)
    found = only(tmp_path, packed(b"one"), packed(b"two"))
    assert found.section.startswith("not looked into as gzip stream")


def test_too_many_members_and_too_much_time_end_in_an_offset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = ustar(tmp_path), ustar(tmp_path, FILES | {"bin/rfo": b"other"})
    first = next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    for limit, value, reason in (
        ("MAX_MEMBERS", 3, "more than"),
        ("MAX_NAMES", 9, "more than"),
        ("SECONDS", -1, "too long"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(explain_module, limit, value)
            found = only(tmp_path, one, two)
            assert found.section.startswith("not looked into as tar")
            assert reason in found.section
            assert found.offset == first


def test_containers_inside_each_other_end_at_a_depth(tmp_path: Path) -> None:
    one, two = b"one", b"two"
    for _ in range(20):
        one, two = packed(one), packed(two)
    found = only(tmp_path, one, two, "deep")
    assert len(found.member) == explain_module.MAX_DEPTH
    assert found.offset is not None


def samples(tmp_path: Path) -> dict[str, bytes]:
    plain = ustar(tmp_path)
    return {
        "tar": plain,
        "pax": pax({"d/" * 120 + "x": b"x", "y": b"y"}, comment="c"),
        "tar.gz": packed(plain),
        "tar.xz": lzma.compress(plain),
        "tar.zst": zstd(plain),
        "zip": zipped(FILES),
        "deb": deb(tmp_path, "one\n"),
        "rpm": rpm(tmp_path, "one", "w0.ufdio"),
        "ELF": program()[: 1 << 20],
        "json": json.dumps({"a": [1, 2, {"b": "c"}]}).encode(),
        "text": b"one\ntwo\n" * 20,
    }


def test_whatever_is_damaged_has_a_difference_and_never_fails(tmp_path: Path) -> None:
    chance = random.Random(4)  # noqa: S311
    for name, data in samples(tmp_path).items():
        for _ in range(25):
            other = bytearray(data)
            match chance.randrange(4):
                case 0:
                    for _ in range(chance.randrange(1, 5)):
                        other[chance.randrange(min(len(other), 1024))] = chance.randrange(256)
                case 1:
                    other[chance.randrange(len(other))] ^= 1 << chance.randrange(8)
                case 2:
                    del other[chance.randrange(len(other)) :]
                case _:
                    at = chance.randrange(len(other))
                    other[at:at] = chance.randbytes(chance.randrange(1, 700))
            for pair in ((data, bytes(other)), (bytes(other), data)):
                found = differences(tmp_path, *pair, name)
                assert bool(found) == (data != other), name
                assert len(found) <= LIMIT + 1
                assert all(d.render() for d in found)


def test_what_people_read_has_no_control_characters(tmp_path: Path) -> None:
    name = "a\x1b[31m\nb\udcff"
    found = only(tmp_path, pax({name: b"\0"}), pax({name: b"\1"}))
    lines = found.render().splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert "\\x1b[31m\\nb" in lines[0]
    assert found.to_json()["member"] == [name]


# --- folders


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_folders_are_compared_file_by_file(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", {"same": b"x", "blobs/a": b"one\n", "gone": b"123", "sub/skip/me": b"1"})
    two = folder(tmp_path / "two", {"same": b"x", "blobs/a": b"two\n", "new/b": b"", "sub/skip/other": b"2"})
    found = compare_folders(one, two, ignore=frozenset({"sub/skip"}))
    assert [(d.artifact, d.section, d.expected, d.found) for d in found] == [
        ("blobs/a", "line 1", r"'one\n'", r"'two\n'"),
        ("gone", "", "3 bytes", "missing"),
        ("new/b", "", "missing", "0 bytes"),
    ]
    assert compare_folders(one, one) == []


@pytest.mark.parametrize("make", [lambda p: p.symlink_to("same"), lambda p: p.symlink_to("/tmp"), os.mkfifo])  # noqa: S108
def test_links_and_devices_in_folders_are_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    one = folder(tmp_path / "one", {"same": b"x"})
    two = folder(tmp_path / "two", {"same": b"x"})
    make(two / "odd")
    assert not stat.S_ISREG((two / "odd").lstat().st_mode)
    for pair in ((one, two), (two, one)):
        with pytest.raises(SourceError, match=r"odd cannot be compared: it is a link or a device"):
            compare_folders(*pair)
    assert compare_folders(one, two, ignore=frozenset({"odd"})) == []


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be compared: No such file"):
        compare_folders(tmp_path, tmp_path / "missing")


def test_unlike_layouts_of_images_are_found_below_their_blobs(tmp_path: Path) -> None:
    layers = [packed(ustar(tmp_path, FILES | {"bin/rfo": bytes([0, n])})) for n in (1, 2)]
    one, two = (folder(tmp_path / str(n), {"blobs/sha256/l": layer}) for n, layer in enumerate(layers))
    (found,) = compare_folders(one, two)
    assert (found.artifact, found.member, found.offset) == ("blobs/sha256/l", ("uncompressed", "bin/rfo"), 1)


def test_the_comparer_stands_alone() -> None:
    """A rebuilder's tools need neither a store nor a checkout for it."""
    code = "import sys, pipeline.compare.compare; print('pipeline.store' in sys.modules, 'yaml' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout.split() == ["False", "False"]
