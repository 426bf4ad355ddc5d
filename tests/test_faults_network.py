"""What mirrors do: refuse, cut, stall, serve something else. It is told, nothing is lost, and a sound one mends it.

What our own client does with each status is shown in test_sources_archive.py and test_base_rpm.py.
"""

import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine import REPO, fails, shared_store
from faults import TINY, Hosted, Place, distribution, host, own_mounts
from test_sources_go import TOML, downloaded, serve

from pipeline.base import deb, mirror
from pipeline.errors import NetworkError, PipelineError, SourceError
from pipeline.model import Digest
from pipeline.sources import git
from pipeline.sources import go as go_module
from pipeline.sources.go import GoSources
from pipeline.sources.http import download
from pipeline.store import Store, remove_tree

LIMIT = 1 << 20
DATA = bytes(range(256)) * 400
OTHER = DATA[:-1] + b"?"
"""Of the same size."""


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Hosted]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file").write_bytes(DATA)
    with host(tmp_path / "www") as running:
        yield running


def in_turn(*faults: Any) -> Any:
    """One fault for each request, then none."""
    queue = list(faults)
    return lambda _: queue.pop(0) if queue else None


# --- our own client


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client would have waited between its attempts; it does not."""
    waited: list[float] = []
    monkeypatch.setattr("pipeline.base.mirror.time.sleep", waited.append)
    return waited


def fetch(hosted: Hosted, target: Path) -> bytes:
    download([f"{hosted.url}file"], target, digest=Digest.of_bytes(DATA), limit=LIMIT)
    return target.read_bytes()


def test_what_a_busy_server_asks_for_is_heeded_within_a_bound(
    hosted: Hosted, tmp_path: Path, pauses: list[float]
) -> None:
    hosted.fault = in_turn((429, {"Retry-After": "3"}), (503, {"Retry-After": "86400"}), (429, {"Retry-After": "soon"}))
    assert fetch(hosted, tmp_path / "f") == DATA
    assert pauses == [3.0, mirror.MAX_PAUSE, mirror.BACKOFF * 8]
    assert len(hosted.requests) == mirror.ATTEMPTS


@pytest.mark.usefixtures("pauses")
def test_a_transfer_that_stalls_is_continued(hosted: Hosted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "TIMEOUT", (60, 8))
    hosted.fault = in_turn("stall", "cut")
    assert fetch(hosted, tmp_path / "f") == DATA
    assert len(hosted.requests) == 3


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize("fault", ["stall", "silent", "cut"])
def test_a_server_that_never_gets_further_is_given_up(
    fault: str, hosted: Hosted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "TIMEOUT", (5, 2))
    hosted.fault = lambda _: fault
    error = fails(lambda: fetch(hosted, tmp_path / "f"))
    assert isinstance(error, NetworkError)
    assert f"{hosted.url}file" in error.reason
    assert len(hosted.requests) <= mirror.ATTEMPTS
    assert not (tmp_path / "f").exists()
    monkeypatch.setattr(mirror, "TIMEOUT", (15, 60))
    hosted.fault = lambda _: None
    assert fetch(hosted, tmp_path / "f") == DATA


def test_other_bytes_of_the_same_size_are_refused_and_not_kept(hosted: Hosted, tmp_path: Path) -> None:
    hosted.fault = lambda _: OTHER
    error = fails(lambda: fetch(hosted, tmp_path / "f"))
    assert isinstance(error, SourceError)
    assert all(text in error.reason for text in (hosted.url, Digest.of_bytes(DATA).hex, Digest.of_bytes(OTHER).hex))
    assert not (tmp_path / "f").exists()
    hosted.fault = lambda _: None
    assert fetch(hosted, tmp_path / "f") == DATA


DOWNLOAD = """
import sys
from pathlib import Path
from pipeline.errors import StoreError
from pipeline.model import Digest
from pipeline.sources.http import download
from pipeline.store import Store
file = Path(sys.argv[2])
try:
    with Store(Path(sys.argv[1])).workspace() as work:
        download([file.as_uri()], work / "f", digest=Digest.of_file(file), limit=1 << 20)
except StoreError as error:
    print(error.reason)
"""


def test_a_full_disk_is_not_blamed_on_a_mirror(hosted: Hosted, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    mounts = own_mounts(f"mount -t tmpfs -o size=64k none {tmp_path}/store")
    command = [sys.executable, "-c", DOWNLOAD, str(tmp_path / "store"), str(hosted.root / "file")]
    done = subprocess.run(
        [*mounts, *command], env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(f"{tmp_path}/store/tmp/"), done.stderr
    assert done.stdout.endswith(": No space left on device\n")


# --- packages of a base, which apt fetches


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A release that is made; each test leaves it as it was."""
    made = Place.make(tmp_path_factory.mktemp("network"))
    made.run()
    return made


@pytest.fixture(scope="module")
def undisturbed(place: Place) -> dict[str, str]:
    return place.made()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """apt that does not try again, and waits for five seconds."""
    settings = deb._CONFIGURATION.replace('Retries "3"', 'Retries "0"').replace('Timeout "30"', 'Timeout "5"')
    monkeypatch.setattr(deb, "_CONFIGURATION", settings)


FAULTS = (403, 404, 429, 500, "cut", "stall", "other")


def attempt(place: Place, hosted: Hosted) -> PipelineError:
    """The error that a run on this mirror ends with; nothing was published."""
    error = fails(lambda: place.run(mirrors={TINY: hosted.url}))
    assert not place.dist.exists()
    return error


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_mirror_that_fails_at_a_package_is_told_and_a_sound_one_mends_it(
    fault: Any, place: Place, undisturbed: dict[str, str]
) -> None:
    place.undo("fetch")
    with host(distribution().folder) as hosted:
        victim = next((hosted.root / "pool").glob("libtiny_*"))
        data = victim.read_bytes()
        wrong = data[:-1] + bytes([data[-1] ^ 1]) if fault == "other" else fault
        hosted.fault = lambda path: wrong if path.endswith(victim.name) else None
        error = attempt(place, hosted)
        assert isinstance(error, SourceError if fault == "other" else NetworkError)
        assert f"pool/{victim.name}" in error.reason
        assert not isinstance(fault, int) or str(fault) in error.reason
        assert "--mirror" in error.hint
    place.run()
    assert place.made() == undisturbed


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_mirror_that_fails_at_its_index_is_told_and_a_sound_one_mends_it(
    fault: Any, place: Place, undisturbed: dict[str, str]
) -> None:
    """`other` is an index that is newer than what was signed, as on a mirror in the middle of an update."""
    place.undo("lock")
    with host(distribution().folder) as hosted:
        index = next((hosted.root / "dists").rglob("Packages"))
        wrong = index.read_bytes().replace(b"1.0", b"1.1") if fault == "other" else fault
        hosted.fault = lambda path: wrong if "Packages" in path or "by-hash" in path else None
        error = attempt(place, hosted)
    assert isinstance(error, NetworkError)
    assert f"base {TINY} cannot be had" in error.reason
    assert not (place.store / "locks-of-bases").exists()
    place.run()
    assert place.made() == undisturbed


def test_metadata_from_the_future_is_told(place: Place, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """So it looks where the clock was set back: what was signed since then is not valid yet."""
    place.undo("lock")
    shutil.copytree(distribution().folder, tmp_path / "mirror")
    later = replace(distribution(), folder=tmp_path / "mirror")
    later.sign(date="Sat, 21 Nov 2099 09:15:44 UTC")
    error = fails(lambda: place.run(mirrors={TINY: later.folder.as_uri()}))
    assert isinstance(error, NetworkError)
    assert "not valid yet" in error.reason
    place.run()
    assert place.made() == undisturbed


# --- Go modules, which go fetches


@pytest.fixture
def modules(tmp_path: Path) -> Iterator[GoSources]:
    store = Store(tmp_path / "store")
    downloaded()
    yield GoSources(store)
    remove_tree(store.root)


@pytest.mark.parametrize("fault", [429, "stall", "other"])
def test_a_module_proxy_that_fails_is_told_and_a_sound_one_mends_it(
    fault: Any, modules: GoSources, hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "stall":
        monkeypatch.setattr(go_module, "DOWNLOAD_SECONDS", 3)

    def change(path: str, data: bytes) -> bytes | int:
        if not path.endswith(".zip"):
            return data
        if fault == "stall":
            hosted.over.wait(20)
        if fault == "other":
            at = data.index(b"PK\1\2") - 200  # in what is packed, of the same size
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return fault if isinstance(fault, int) else data

    folder = shared_store().gomod / "cache" / "download"
    with serve(folder, change) as proxy:
        monkeypatch.setenv("GOPROXY", proxy)
        error = fails(lambda: modules.fetch([TOML]))
        hosted.over.set()
    assert isinstance(error, NetworkError | SourceError)
    assert TOML.path in error.reason
    assert fault != 429 or "429" in error.reason
    assert not (modules.store.gomod / TOML.directory).exists()
    monkeypatch.setattr(go_module, "DOWNLOAD_SECONDS", 600)
    with serve(folder, lambda _, data: data) as proxy:
        monkeypatch.setenv("GOPROXY", proxy)
        again = GoSources(modules.store)
        again.ensure([TOML])
        assert again.verify([TOML]) == []


FETCH = """
import sys
from pathlib import Path
from pipeline.errors import StoreError
from pipeline.model import Module
from pipeline.sources.go import GoSources
from pipeline.store import Store
try:
    GoSources(Store(Path(sys.argv[1]))).fetch([Module(*sys.argv[2:])])
except StoreError as error:
    print(error.reason)
"""


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("size", [16, 100, 300])
def test_a_full_disk_is_not_blamed_on_a_module_proxy(size: int, tmp_path: Path) -> None:
    """`size` in KiB: without room for metadata, for the zip, or for what is in it."""
    store = tmp_path / "small"
    store.mkdir()
    mounts = own_mounts(f"mount -t tmpfs -o size={size}k none {store}")
    command = [sys.executable, "-c", FETCH, str(store), TOML.path, TOML.version, TOML.sum]
    with serve(shared_store().gomod / "cache" / "download", lambda _, data: data) as proxy:
        env = {**os.environ, "PYTHONPATH": str(REPO), "GOPROXY": proxy}
        done = subprocess.run([*mounts, *command], env=env, capture_output=True, text=True, check=False)
    assert str(store) in done.stdout, done.stderr
    assert "no space left on device" in done.stdout


# --- git


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and its certificate for loopback, in one file."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "-", "-out", str(file)]
    key = subprocess.run(command, capture_output=True, check=True).stdout
    file.write_bytes(file.read_bytes() + key)
    return file


@pytest.mark.parametrize("fault", [403, 404, 429, 500, "cut", "stall", "silent", b"001e# service=other\n0000"])
def test_a_git_server_that_fails_is_told(
    fault: Any, certificate: Path, hosted: Hosted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault in ("stall", "silent"):
        monkeypatch.setattr(git, "SETTINGS", tuple(s.replace("Time=60", "Time=1") for s in git.SETTINGS))
    monkeypatch.setenv("GIT_SSL_CAINFO", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    (hosted.root / "info").mkdir()
    (hosted.root / "info" / "refs").write_bytes(b"001e# service=git-upload-pack\n0000" + b"00" * 200)
    (tmp_path / "work").mkdir()
    (tmp_path / "files").mkdir()
    with host(hosted.root, tls=context) as server:
        server.fault = lambda _: fault
        url = server.url.rstrip("/")
        error = fails(lambda: git.export_commit(url, "v1", "0" * 40, work=tmp_path / "work", target=tmp_path / "files"))
        assert server.requests
    assert isinstance(error, NetworkError)
    assert url in error.reason
    assert fault not in (403, 429, 500) or str(fault) in error.reason
    assert not list((tmp_path / "files").iterdir())
