"""Archives: equal entries give equal bytes on any host; entries that collide are refused."""

import io
import os
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DefinitionError
from pipeline.model import Digest, RootedPath
from pipeline.pack.tar import Entry, write_tar

EPOCH = 1668729600


def entry(path: str, content: Path | bytes = b"x", mode: int = 0o644, when: int = EPOCH) -> Entry:
    return Entry(RootedPath.parse(path), mode, when, content)


def entries(tmp_path: Path) -> list[Entry]:
    file = tmp_path / "content"
    file.write_bytes(b"from a file")
    return [
        entry("bin/rfo", file, 0o755, 1),
        entry("share/rfo/é.txt"),
        entry("share/rfo/b", b""),
        entry("lib/" + "d" * 90 + "/" + "f" * 90),
        entry("a-b"),
        entry("a/b"),
    ]


def write(tmp_path: Path, name: str = "x.tar", given: list[Entry] | None = None) -> bytes:
    target = tmp_path / name
    write_tar(target, given or entries(tmp_path), time=EPOCH)
    return target.read_bytes()


def test_the_bytes_are_the_same_under_other_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path)
    shuffled = entries(tmp_path)[::-1]
    (tmp_path / "content").chmod(0o600)
    os.utime(tmp_path / "content", (5, 5))
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    time.tzset()
    monkeypatch.setattr(tarfile, "ENCODING", "iso-8859-1")
    old = os.umask(0o077)
    try:
        second = write(tmp_path, "other.tar", shuffled)
    finally:
        os.umask(old)
        monkeypatch.undo()
        time.tzset()
    assert first == second
    assert Digest.of_bytes(first).hex == "4268aba7a7a701d7030f5e4017bbd87a4f5566e3842f76e4d63a1ecdc0d1c918"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_bytes_are_the_same_for_another_user(tmp_path: Path) -> None:
    first = write(tmp_path)
    os.chown(tmp_path / "content", 12345, 54321)
    assert write(tmp_path, "other.tar", [*entries(tmp_path)]) == first


def test_members_are_sorted_plain_and_owned_by_root(tmp_path: Path) -> None:
    write(tmp_path)
    with tarfile.open(tmp_path / "x.tar") as tar:
        members = tar.getmembers()
        content = tar.extractfile("bin/rfo")
        assert content is not None
        assert content.read() == b"from a file"
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, "", "")}
    assert not any(m.pax_headers for m in members)
    facts = {m.name: (m.isdir(), m.mode, m.mtime) for m in members}
    assert facts["bin"] == (True, 0o755, EPOCH)
    assert facts["bin/rfo"] == (False, 0o755, 1)


@pytest.mark.parametrize(
    ("paths", "match"),
    [
        (["a", "a"], "archive entry a stands twice"),
        (["a", "./a"], "archive entry a stands twice"),
        (["README", "readme"], "README and readme differ only in case"),
        (["A/x", "a/y"], "A and a differ only in case"),
        (["x/A", "x/a/b"], "x/A and x/a differ only in case"),
        (["straße", "STRASSE"], "differ only in case"),
        (["a", "a/b"], "archive entry a is a file and a directory"),
        (["a/b/c", "a/b"], "archive entry a/b is a file and a directory"),
        (["."], "expected a named, plain file"),
        (["x" * 300], "does not fit into ustar"),
        (["d" * 200 + "/" + "f"], "does not fit into ustar"),
    ],
)
def test_entries_that_collide_or_do_not_fit_are_refused(tmp_path: Path, paths: list[str], match: str) -> None:
    with pytest.raises(DefinitionError, match=match):
        write(tmp_path, given=[entry(p) for p in paths])


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1777, 0o100644, -1])
def test_odd_modes_are_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(DefinitionError, match="expected a named, plain file"):
        write(tmp_path, given=[entry("a", mode=mode)])


@pytest.mark.parametrize("when", [-(1 << 80), 1 << 80])
def test_a_time_without_room_is_refused(tmp_path: Path, when: int) -> None:
    with pytest.raises(DefinitionError, match="does not fit into ustar"):
        write(tmp_path, given=[entry("a", when=when)])


def test_a_stream_gets_the_bytes_that_a_file_gets_whatever_the_content_comes_from(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 30000)

    @contextmanager
    def made() -> Iterator[Path]:
        copy = tmp_path / "made"
        copy.write_bytes(source.read_bytes())
        yield copy
        copy.unlink()

    def two(content: Any) -> list[Entry]:
        return [entry("d/a", content), entry("d/b", content)]

    write_tar(tmp_path / "tar", two(source), time=9)
    for content in (source, source.read_bytes(), made):
        stream = io.BytesIO()
        write_tar(stream, two(content), time=9)
        assert stream.getvalue() == (tmp_path / "tar").read_bytes()
    assert not (tmp_path / "made").exists()


def test_a_file_that_becomes_shorter_while_it_is_packed_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "source"

    def cut() -> None:  # after the header was made
        os.truncate(source, 2_000_000)

    class CuttingFile(io.BufferedWriter):
        def write(self, data: Any) -> int:
            cut()
            return super().write(data)

    class CuttingStream(io.BytesIO):
        def write(self, data: Any) -> int:
            cut()
            return super().write(data)

    for out in (CuttingFile(io.FileIO(tmp_path / "tar", "w")), CuttingStream()):
        source.write_bytes(b"x" * 3_000_000)
        with out, pytest.raises(OSError, match="became shorter by 1000000 bytes"):
            write_tar(out, [entry("a", source)], time=EPOCH)
