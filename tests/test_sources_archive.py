"""Archive sources: download, every format, what is refused, and a program built from one. Loopback and files only."""

import io
import os
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from engine import HELLO, HOST, fails, make_context, write_checkout
from rpm_mirror import Server, serve

from pipeline.base import mirror
from pipeline.definitions import Source
from pipeline.errors import DefinitionError, NetworkError, SourceError, UsageError
from pipeline.lock import SourcesLock
from pipeline.locks import make_locks
from pipeline.model import Digest
from pipeline.release import release
from pipeline.sources import archive
from pipeline.sources.http import download, may_lead
from pipeline.sources.snapshot import Snapshots
from pipeline.store import Store
from pipeline.units import lock_subject

FILES = {"hello-1.0.0/main.go": HELLO, "hello-1.0.0/go.mod": "module example.org/hello\n\ngo 1.20\n"}
TIME = 1_612_325_106
LIMIT = 1 << 20


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "BACKOFF", 0)
    monkeypatch.setattr(mirror, "MAX_PAUSE", 0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "www").mkdir()
    with serve(tmp_path / "www") as running:
        yield running


def member(name: str, kind: bytes = tarfile.REGTYPE, **facts: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mtime = kind, TIME
    for key, value in facts.items():
        setattr(info, key, value)
    return info


def tar_of(files: dict[str, str], *more: tarfile.TarInfo) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, text in files.items():
            tar.addfile(
                member(name, size=len(text), mode=0o755 if name.endswith(".sh") else 0o640), io.BytesIO(text.encode())
            )
        for info in more:
            tar.addfile(info)
    return made.getvalue()


def zip_of(files: dict[str, str], *, mode: int = 0o100644) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in files.items():
            info = zipfile.ZipInfo(name, (2021, 2, 3, 4, 5, 6))
            info.external_attr = mode << 16
            packed.writestr(info, text)
    return made.getvalue()


def compressed(data: bytes, program: str) -> bytes:
    return subprocess.run([program, "-c"], input=data, capture_output=True, check=True).stdout


FORMATS = {
    "tar": lambda: tar_of(FILES),
    "tar.gz": lambda: compressed(tar_of(FILES), "gzip"),
    "tar.xz": lambda: compressed(tar_of(FILES), "xz"),
    "tar.zst": lambda: compressed(tar_of(FILES), "zstd"),
    "zip": lambda: zip_of(FILES),
}


def unpacked(data: bytes, tmp: Path, **options: Any) -> tuple[dict[str, str], int]:
    """Files by path below the folder that is taken, and their time."""
    file, root = tmp / "file", tmp / "root"
    file.write_bytes(data)
    root.mkdir()
    folder, time = archive.unpack(file, root, "it", **options)
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}, time


def archive_checkout(folder: Path, source: dict[str, Any], choice: dict[str, Any]) -> Path:
    definition = {
        "name": "hello",
        "license": "Apache-2.0",
        "source": source,
        "build": [{"binaries": {"hello": "."}, "stamp": {"main.version": "{release}"}}],
        "smoke": {"hello": {"args": [], "prints": "hello {release}"}},
    }
    return write_checkout(folder, {"hello": definition}, {}, {"hello": choice}, lock=False)


class Published:
    """An archive on a server, and a checkout whose release names it."""

    def __init__(self, server: Server, tmp: Path, data: bytes) -> None:
        self.file = server.root / "hello-1.0.0.tar.gz"
        self.file.write_bytes(data)
        self.digest = Digest.of_bytes(data)
        self.url = f"{server.url}{self.file.name}"
        source = {"archive": f"{server.url}hello-{{number}}.tar.gz"}
        self.checkout = archive_checkout(tmp / "c", source, {"version": "v1.0.0", "sha256": self.digest.hex})
        self.units = make_context(self.checkout).all_units


@pytest.fixture
def published(server: Server, tmp_path: Path) -> Published:
    return Published(server, tmp_path, FORMATS["tar.gz"]())


# --- formats


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_files_and_one_folder_around_them_goes(form: str, tmp_path: Path) -> None:
    files, time = unpacked(FORMATS[form](), tmp_path)
    assert files == {n.removeprefix("hello-1.0.0/"): t for n, t in FILES.items()}
    assert time == TIME


def test_a_folder_is_kept_if_a_file_stands_beside_it(tmp_path: Path) -> None:
    wanted = {"a/b": "1", "c": "2"}
    assert unpacked(tar_of(wanted), tmp_path)[0] == wanted


def test_only_one_folder_goes(tmp_path: Path) -> None:
    assert unpacked(tar_of({"a/b/c": "1"}), tmp_path)[0] == {"b/c": "1"}


def test_a_time_before_1970_or_beyond_tar_counts_as_none(tmp_path: Path) -> None:
    late = member("late", mtime=1 << 40)
    assert unpacked(tar_of({}, late), tmp_path)[1] == 0


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"PK\3\4broken", b"\x1f\x8bbroken"])
def test_what_is_no_archive_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="it: "):
        unpacked(data, tmp_path)


@pytest.mark.parametrize("form", ["tar.gz", "tar.xz", "tar.zst", "zip"])
def test_a_truncated_archive_is_refused(form: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="it: "):
        unpacked(FORMATS[form]()[:-20], tmp_path)


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out"])
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_a_path_that_leaves_its_root_is_refused(name: str, pack: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"leaves its root|absolute path"):
        unpacked(pack({name: "x"}), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"file", "root"}


@pytest.mark.parametrize("pack", [lambda f: compressed(tar_of(f), "gzip"), zip_of])
def test_a_bomb_is_refused(pack: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="bomb"):
        unpacked(pack({"zeros": "\0" * (2 << 20)}), tmp_path, max_bytes=1 << 20)


@pytest.mark.parametrize("mode", [0o120777, 0o010644, 0o060644])
def test_a_link_or_device_in_a_zip_is_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="plain files only"):
        unpacked(zip_of({"link": "/etc/passwd"}, mode=mode), tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_in_a_zip_is_refused(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        packed.writestr("a/b", "1")
        packed.writestr("a//b", "2")
    with pytest.raises(SourceError, match="twice"):
        unpacked(made.getvalue(), tmp_path)


# --- download


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    (server.root / "file").write_bytes(data)
    server.faults["file"] = ["cut"]
    download([f"{server.url}file"], tmp_path / "f", digest=Digest.of_bytes(data), limit=LIMIT)
    assert [r for _, r in server.requests] == ["", "bytes=50000-"]
    assert (tmp_path / "f").read_bytes() == data


def test_another_run_goes_on_with_what_the_last_one_left(published: Published, server: Server, tmp_path: Path) -> None:
    server.faults["gz"] = ["cut", 404]
    store = Store(tmp_path / "s")
    with pytest.raises(NetworkError):
        Snapshots(store).lock(published.units, 0)
    server.requests.clear()
    Snapshots(store).lock(published.units, 0)
    half = published.file.stat().st_size // 2
    assert server.requests == [("/hello-1.0.0.tar.gz", f"bytes={half}-")]
    assert not list((store.root / "tmp").iterdir())


@pytest.mark.parametrize(("status", "requests"), [(403, 1), (404, 1), (429, 4), (500, 4), (503, 4)])
def test_only_a_busy_server_is_asked_again(status: int, requests: int, server: Server, tmp_path: Path) -> None:
    server.faults["file"] = [status] * 9
    with pytest.raises(NetworkError, match=f"{server.url}file: .*{status}"):
        download([f"{server.url}file"], tmp_path / "f", digest=Digest.of_bytes(b""), limit=LIMIT)
    assert len(server.requests) == requests


def test_a_file_that_is_too_large_is_refused(server: Server, tmp_path: Path) -> None:
    (server.root / "file").write_bytes(b"x" * 1000)
    with pytest.raises(SourceError, match="larger than"):
        download([f"{server.url}file"], tmp_path / "f", digest=Digest.of_bytes(b"x" * 1000), limit=999)


def test_other_content_is_refused_with_both_digests(published: Published, tmp_path: Path) -> None:
    published.file.write_bytes(b"other")
    found = Digest.of_bytes(b"other")
    with pytest.raises(SourceError, match=f"{published.url}: expected {published.digest}.*found {found}"):
        Snapshots(Store(tmp_path / "s")).lock(published.units, 0)


def test_a_mirror_is_asked_when_an_origin_fails_or_serves_something_else(server: Server, tmp_path: Path) -> None:
    (server.root / "other").write_bytes(b"other")
    (server.root / "good").write_bytes(b"good")
    urls = [f"{server.url}{name}" for name in ("missing", "other", "good")]
    download(urls, tmp_path / "f", digest=Digest.of_bytes(b"good"), limit=LIMIT)
    assert (tmp_path / "f").read_bytes() == b"good"


def test_every_place_that_failed_is_named(server: Server, tmp_path: Path) -> None:
    urls = [f"{server.url}{name}" for name in ("one", "two")]
    with pytest.raises(NetworkError, match=r"one: .*; .*two: "):
        download(urls, tmp_path / "f", digest=Digest.of_bytes(b"good"), limit=LIMIT)


@pytest.mark.parametrize(
    ("origin", "target", "allowed"),
    [
        ("https://a/x", "https://b/x", True),
        ("http://a/x", "https://b/x", True),
        ("https://a/x", "http://a/x", False),
        ("http://a/x", "http://a/y", False),
        ("http://127.0.0.1:1/x", "http://localhost:2/y", True),
        ("http://127.0.0.1/x", "http://192.0.2.1/y", False),
        ("https://127.0.0.1/x", "http://127.0.0.1/y", False),
        ("https://a/x", "file:///etc/passwd", False),
    ],
)
def test_redirects_lead_to_https_only(origin: str, target: str, allowed: bool) -> None:
    assert may_lead(origin, target) is allowed


@contextmanager
def redirecting(target: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{listener.server_port}/file"
        listener.shutdown()
        thread.join()


def test_a_forbidden_redirect_is_not_followed(tmp_path: Path) -> None:
    with redirecting("http://origin.invalid/file") as url:
        error = fails(lambda: download([url], tmp_path / "f", digest=Digest.of_bytes(b""), limit=LIMIT))
    assert isinstance(error, NetworkError)
    assert "leads to http://origin.invalid, not to https" in error.reason


def test_an_allowed_redirect_is_followed(server: Server, tmp_path: Path) -> None:
    (server.root / "file").write_bytes(b"good")
    with redirecting(f"{server.url}file") as url:
        download([url], tmp_path / "f", digest=Digest.of_bytes(b"good"), limit=LIMIT)


@pytest.mark.parametrize("url", ["ftp://a/b.tar", "https://a/b c.tar", "https://a/b?c=d", "https://a/", "/a.tar"])
def test_other_urls_are_no_definition(url: str) -> None:
    with pytest.raises(ValueError, match="archive"):
        Source(archive=url)


# --- pins


def test_the_pin_names_url_file_and_time_and_not_how_it_was_packed(server: Server, tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    pins = []
    for form in ("tar.gz", "tar.zst"):
        (tmp_path / form).mkdir()
        made = Published(server, tmp_path / form, FORMATS[form]())
        pins.append(Snapshots(store).lock(made.units, 0)["hello"])
        assert pins[-1].line() == (
            f"archive hello {made.url} {made.digest} {pins[-1].size} {pins[-1].tar} 2021-02-03T04:05:06Z"
        )
    assert pins[0].tar == pins[1].tar
    lock = SourcesLock("v1.0.0+rfor1", Digest("0" * 64), snapshots={"hello": pins[0]})
    assert SourcesLock.parse(lock.render(), "x") == lock
    with tarfile.open(store.blob(pins[0].tar)) as tar:
        assert [(m.name, m.mode, m.mtime) for m in tar] == [("go.mod", 0o644, 0), ("main.go", 0o644, 0)]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (member("x/link", tarfile.SYMTYPE, linkname="a"), "x/link is a symbolic link|link is a symbolic link"),
        (member("x/out", tarfile.SYMTYPE, linkname="../../../etc"), "leaves the root"),
        (member("x/pipe", tarfile.FIFOTYPE), "device, pipe"),
        (member("x/a\nb"), "printable"),
        (member("x/A"), "differ only in case"),
    ],
    ids=["link", "outer-link", "pipe", "unprintable", "case"],
)
def test_what_no_source_can_hold_is_refused(
    extra: tarfile.TarInfo, message: str, server: Server, tmp_path: Path
) -> None:
    made = Published(server, tmp_path, tar_of({"x/a": "1"}, extra))
    with pytest.raises(SourceError, match=message):
        Snapshots(Store(tmp_path / "s")).lock(made.units, 0)


def test_an_archive_without_a_time_has_the_release_date(server: Server, tmp_path: Path) -> None:
    made = Published(server, tmp_path, tar_of({}, member("x/a", mtime=0)))
    assert Snapshots(Store(tmp_path / "s")).lock(made.units, TIME)["hello"].time == "2021-02-03T04:05:06Z"


def test_a_release_without_the_digest_is_refused(server: Server, tmp_path: Path) -> None:
    checkout = archive_checkout(tmp_path / "c", {"archive": f"{server.url}x.tar"}, {"version": "v1.0.0"})
    with pytest.raises(DefinitionError, match="an archive needs its sha256") as error:
        Snapshots(Store(tmp_path / "s")).lock(make_context(checkout).all_units, 0)
    assert "sha256: HEX" in error.value.hint


def test_offline_a_missing_pin_is_named_with_the_next_command(published: Published, tmp_path: Path) -> None:
    pins = Snapshots(Store(tmp_path / "one")).lock(published.units, 0)
    with pytest.raises(NetworkError, match=f"(?s)--offline forbids.*archive {published.url}") as error:
        Snapshots(Store(tmp_path / "two"), offline=True).fetch(published.units, pins)
    assert "./inv fetch" in error.value.hint


def test_a_pin_that_is_gone_is_named_with_the_way_out(published: Published, tmp_path: Path) -> None:
    pins = Snapshots(Store(tmp_path / "one")).lock(published.units, 0)
    published.file.unlink()
    with pytest.raises(NetworkError, match=f"(?s)gone from their origin.*{published.url}") as error:
        Snapshots(Store(tmp_path / "two")).fetch(published.units, pins)
    assert "--update" in error.value.hint
    assert "--source hello=" in error.value.hint


def test_a_file_can_be_given_in_place_of_the_origin(published: Published, server: Server, tmp_path: Path) -> None:
    expected = Snapshots(Store(tmp_path / "one")).lock(published.units, 0)
    copy = published.file.rename(tmp_path / "copy")
    server.requests.clear()
    context = make_context(published.checkout, Store(tmp_path / "two"), sources={"hello": copy})
    assert context.snapshots.lock(context.all_units, 0) == expected
    assert context.go.extra_proxies == []
    assert not server.requests


def test_a_given_file_must_be_the_one_of_the_definition(published: Published, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    with pytest.raises(SourceError, match=f"the definition says {published.digest}"):
        Snapshots(Store(tmp_path / "s"), given={"hello": other}).lock(published.units, 0)
    with pytest.raises(UsageError, match="cannot be read"):
        Snapshots(Store(tmp_path / "s"), given={"hello": tmp_path / "none"}).lock(published.units, 0)


def test_a_mirror_can_be_added_without_a_new_lock(published: Published, server: Server, tmp_path: Path) -> None:
    before = lock_subject(published.units)
    file = published.checkout / "components/hello/component.yaml"
    file.write_text(
        file.read_text().replace("source:\n", f"source:\n  mirrors: ['{server.url}copy/{{number}}.tar.gz']\n")
    )
    units = make_context(published.checkout).all_units
    assert lock_subject(units) == before
    (server.root / "copy").mkdir()
    published.file.rename(server.root / "copy" / "1.0.0.tar.gz")
    assert Snapshots(Store(tmp_path / "s")).lock(units, 0)["hello"].origin[0] == published.url


# --- building from one


@pytest.mark.usefixtures("cached_toolchain")
def test_a_program_is_built_from_an_archive(published: Published, server: Server) -> None:
    make_locks(make_context(published.checkout), update=False)
    published.file.unlink()
    context = make_context(published.checkout, components=("hello",), arches=(HOST,), offline=True)
    summary = release(context)
    assert subprocess.run([summary.binaries[0][1]], capture_output=True, check=True).stdout == b"hello v1.0.0+rfor1\n"
    assert context.inputs[HOST].source_epoch(context.units[0]) == TIME
