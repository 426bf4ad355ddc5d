"""Hostile and ordinary archives: what is refused, that nothing outside the root is touched, and what is kept."""

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SourceError
from pipeline.extract import MAX_HEADER, dropper, extract_tar, resolve_inside
from pipeline.model import RootedPath

FILE, DIR, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def member(
    name: str, kind: bytes = FILE, *, data: bytes = b"", link: str = "", mode: int = 0o644
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(data)
    return info, data


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    buffer.seek(0)
    return buffer


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An empty root; whatever a test does, what lies beside it must stay as it is."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o750)
    (outside / "file").write_text("precious")
    (tmp_path / "root").mkdir()
    yield tmp_path / "root"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outside", "root"]
    assert [p.name for p in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "precious"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o750
    assert (outside / "file").stat().st_nlink == 1


def unpack(root: Path, *members: tuple[tarfile.TarInfo, bytes], **options: Any) -> int:
    return extract_tar(archive(*members), root, what="evil.tar", **options)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("../outside/new")], "leaves its root"),
        ([member("a/../../outside/new")], "leaves its root"),
        ([member("/etc/new")], "absolute path"),
        ([member("d", LINK, link="../outside"), member("d/new")], "d -> ../outside leaves the root"),
        ([member("a/d", LINK, link="../../outside"), member("a/d/new")], "leaves the root"),
        ([member("h", HARD, link="../outside/file")], "leaves its root"),
        ([member("h", HARD, link="/etc/passwd")], "absolute path"),
        ([member("h", HARD, link="missing")], "no earlier file of the archive"),
        ([member("l", LINK, link="x"), member("h", HARD, link="l")], "no earlier file of the archive"),
        ([member("f"), member("f", HARD, link="f")], "in the archive twice"),
        ([member("null", tarfile.CHRTYPE)], "device, pipe or unknown"),
        ([member("disk", tarfile.BLKTYPE)], "device, pipe or unknown"),
        ([member("pipe", tarfile.FIFOTYPE)], "device, pipe or unknown"),
        ([member("f", data=b"1"), member("f", data=b"2")], "in the archive twice"),
        ([member("f"), member("./f", LINK, link="x")], "in the archive twice"),
        ([member("d", DIR), member("d")], "a directory and something else"),
        ([member("f"), member("f", DIR)], "a directory and something else"),
        ([member("f"), member("f/below")], "lies below a file"),
        ([member("a", LINK, link="b"), member("b", LINK, link="a"), member("a/f")], "too many links"),
        ([member("n" * 300)], "name that cannot be written"),
    ],
)
def test_a_hostile_archive_is_refused(root: Path, members: list[tuple[tarfile.TarInfo, bytes]], message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        unpack(root, *members)
    assert caught.value.reason.startswith("evil.tar")


def test_an_absolute_link_means_the_root_itself(root: Path) -> None:
    unpack(root, member("d", LINK, link=str(root.parent / "outside")), member("d/new", data=b"x"))
    assert (root / str(root.parent / "outside")[1:] / "new").read_bytes() == b"x"


def test_a_directory_member_on_a_link_changes_nothing_outside(root: Path) -> None:
    unpack(root, member("d", LINK, link=str(root.parent / "outside")), member("d", DIR, mode=0o777))
    assert stat.S_IMODE((root / str(root.parent / "outside")[1:]).stat().st_mode) == 0o777


def test_a_link_that_stood_in_the_root_cannot_lead_out(root: Path) -> None:
    (root / "d").symlink_to("../outside")
    with pytest.raises(SourceError, match="leaves the root through a link"):
        unpack(root, member("d/new"))
    (root / "f").symlink_to("../outside/file")
    unpack(root, member("f", data=b"mine"))
    assert not (root / "f").is_symlink()


def test_the_unpacked_size_is_bounded(root: Path) -> None:
    with pytest.raises(SourceError, match="bomb"):
        unpack(root, *(member(f"f{n}", data=bytes(600)) for n in range(3)), max_bytes=1500)


def test_a_stream_without_end_is_bounded(root: Path) -> None:
    info, _ = member("f")
    info.size = 1 << 40

    class Endless:
        head = io.BytesIO(info.tobuf())

        def read(self, size: int, /) -> bytes:
            return self.head.read(size) or bytes(size)

    with pytest.raises(SourceError, match="does not end"):  # what is left out must be read as well
        extract_tar(Endless(), root, what="evil.tar", drop=["f"], max_bytes=1 << 20)


def test_a_huge_extended_header_is_refused_before_it_is_read(root: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, MAX_HEADER + 1
    with pytest.raises(SourceError, match="unreasonable size"):
        extract_tar(io.BytesIO(info.tobuf() + bytes(2 * MAX_HEADER)), root, what="evil.tar")


def test_a_sparse_map_without_end_is_refused(root: Path) -> None:
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"}
    info, data = member("f", data=b"9" * 512)
    info.pax_headers = sparse
    whole = archive((info, data)).getvalue()
    with pytest.raises(SourceError, match=r"does not end|not a readable"):
        extract_tar(io.BytesIO(whole[: whole.rindex(b"9") + 1]), root, what="evil.tar")


@pytest.mark.parametrize("data", [b"", b"no tar", b"x" * 2048])
def test_what_is_no_tar_is_refused(root: Path, data: bytes) -> None:
    with pytest.raises(SourceError, match="not a readable tar archive"):
        extract_tar(io.BytesIO(data), root, what="evil.tar")


def test_a_truncated_file_is_refused(root: Path) -> None:
    data = archive(member("f", data=bytes(4000))).getvalue()[:2048]
    with pytest.raises(SourceError, match="not a readable tar archive"):
        extract_tar(io.BytesIO(data), root, what="evil.tar")


def test_contents_modes_and_links_are_kept_whatever_the_umask(root: Path) -> None:
    before = os.umask(0o077)
    try:
        written = unpack(
            root,
            member("./usr/bin", DIR, mode=0o755),
            member("./usr/bin/tool", data=b"tool", mode=0o4755),
            member("./usr/bin/alias", HARD, link="./usr/bin/tool"),
            member("./usr/bin/link", LINK, link="tool"),
            member("./locked", DIR, mode=0o555),
            member("./locked/f", data=b"f", mode=0o600),
            member("./implied/f"),
        )
    finally:
        os.umask(before)
    modes = {
        p.relative_to(root).as_posix(): stat.S_IMODE(p.stat().st_mode) for p in root.rglob("*") if not p.is_symlink()
    }
    assert modes == {
        "usr": 0o755, "usr/bin": 0o755, "usr/bin/tool": 0o755, "usr/bin/alias": 0o755, "locked": 0o755,
        "locked/f": 0o600, "implied": 0o755, "implied/f": 0o644,
    }  # fmt: skip
    assert (root / "usr/bin/alias").samefile(root / "usr/bin/tool")
    assert (root / "usr/bin/link").readlink() == Path("tool")
    assert written == 5


def test_members_follow_directory_links_inside_the_root(root: Path) -> None:
    (root / "usr").mkdir()
    (root / "lib").symlink_to("usr/lib")
    unpack(root, member("lib", DIR), member("lib/x", data=b"x"))
    assert (root / "usr/lib/x").read_bytes() == b"x"


def test_patterns_leave_out_and_keep() -> None:
    left_out = dropper(["usr/share/doc", "usr/lib/*/lib*san.so*", "usr/bin", "!usr/bin/qemu-arm"])
    dropped = [
        "usr/share/doc",
        "usr/share/doc/x/copyright",
        "usr/lib/x86_64/libasan.so.8",
        "usr/bin",
        "usr/bin/qemu-armeb",
    ]
    kept = ["usr/share/docs", "usr/lib/libasan.so", "usr/bin/qemu-arm", "x/usr/bin", "usr/lib/x/y/libasan.so"]
    assert [p for p in dropped + kept if left_out(p)] == dropped
    assert not dropper([])("usr")


def test_dropped_members_are_not_written(root: Path) -> None:
    unpack(root, member("usr/bin", DIR), member("usr/bin/a"), member("usr/bin/b"), drop=["usr", "!usr/bin/b"])
    assert [p.relative_to(root).as_posix() for p in sorted(root.rglob("*"))] == ["usr", "usr/bin", "usr/bin/b"]


def test_a_last_link_is_followed_only_on_request(root: Path) -> None:
    (root / "l").symlink_to("/d")
    assert resolve_inside(root, RootedPath("l"), "x") == root / "l"
    assert resolve_inside(root, RootedPath("l"), "x", last=True) == root / "d"
