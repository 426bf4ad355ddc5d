"""Go modules as hostile input: what an origin, a host or a damaged disk can do, and what the engine says then."""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests
from engine import (
    HOST,
    REAL,
    SMALL,
    environment,
    fails,
    inputs,
    make_context,
    real_checkout,
    real_lock,
    run,
    shared_store,
    small_checkout,
    toolchain,
)
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from pipeline.errors import DefinitionError, HostError, NetworkError, SourceError, UsageError
from pipeline.model import Module, escape_module
from pipeline.sources import go as module
from pipeline.sources.given import add_given_modules
from pipeline.sources.go import GoSources, hash_tree
from pipeline.sources.gomod import local_replaces, needed_go, read_sums, rewrite_replaces
from pipeline.store import Store, remove_tree

TOML = Module("github.com/BurntSushi/toml", "v0.3.1", "h1:WXkYYl6Yr3qBf1K79EBnL4mak0OimBfB0XUf9Vl28OQ=")
"""Small, without dependencies, and with capital letters in its path."""
FLANNEL = real_lock().mains["cni-plugin-flannel"].module
SETTINGS = ("GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOINSECURE", "GOFLAGS", "GOENV")


def gone(folder: Path) -> str:
    """A proxy that has nothing."""
    folder.mkdir(exist_ok=True)
    return folder.as_uri()


def download_folder(store: Store, wanted: Module) -> Path:
    return store.gomod / "cache" / "download" / escape_module(wanted.path) / "@v"


def downloaded() -> Path:
    """The shared store's download cache, laid out as a proxy, with the modules that tests ask for."""
    go = GoSources(shared_store())
    go.ensure([TOML, FLANNEL])
    if not (download_folder(go.store, TOML) / "v0.3.1.zip").exists():  # only the tree was left
        go._discard(TOML)
        go.ensure([TOML])
    return shared_store().gomod / "cache" / "download"


@pytest.fixture(scope="module")
def cached() -> Path:
    return downloaded()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "store")
    yield made
    remove_tree(made.root)


class Origin(SimpleHTTPRequestHandler):
    """A module proxy on loopback: serves the cache, except that `change` has a say; checksums are the real ones."""

    def __init__(self, *given: Any, change: Callable[[str, bytes], bytes | int], **more: Any) -> None:
        self.change = change
        super().__init__(*given, **more)

    def do_GET(self) -> None:
        if self.path.startswith("/sumdb/") and (upstream := first_proxy()):
            with checksums() as session:
                passed = session.get(upstream + self.path, timeout=60)
            self.send_response(passed.status_code)
            self.end_headers()
            self.wfile.write(passed.content)
            return
        file = Path(self.translate_path(self.path))
        answer = self.change(self.path, file.read_bytes()) if file.is_file() else 404
        self.send_response(answer if isinstance(answer, int) else 200)
        self.end_headers()
        self.wfile.write(answer if isinstance(answer, bytes) else b"this is why")

    def log_message(self, *_: object) -> None:
        pass


def checksums() -> requests.Session:
    """What asks the real checksum database, again if it has a bad moment: these tests are not about that."""
    session = requests.Session()
    session.mount("https://", HTTPAdapter(max_retries=Retry(5, backoff_factor=1, status_forcelist=range(500, 600))))
    return session


def first_proxy() -> str:
    """The host's own, or nothing if it asks origins directly."""
    text = subprocess.run(["go", "env", "GOPROXY"], capture_output=True, text=True, check=True, cwd="/").stdout
    return next((p.rstrip("/") for p in text.strip().replace("|", ",").split(",") if p.startswith("http")), "")


@contextmanager
def serve(folder: Path, change: Callable[[str, bytes], bytes | int]) -> Iterator[str]:
    upstream = first_proxy()
    handler = partial(Origin, directory=str(folder), change=change)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    original = globals()["first_proxy"]
    globals()["first_proxy"] = lambda: upstream  # asked inside, it would be the server itself
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        globals()["first_proxy"] = original
        server.shutdown()
        server.server_close()


def rezip(data: bytes, change: Callable[[str, bytes], tuple[str, bytes]]) -> bytes:
    """A module zip with its members changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(*change(info.filename, old.read(info)))
    return buffer.getvalue()


def tamper(name: str, data: bytes) -> tuple[str, bytes]:
    return name, data + b"\n// and more\n" if name.endswith(".go") else data


# --- hashes


def test_the_hash_of_a_tree_is_gos_own(cached: Path, store: Store) -> None:
    go = GoSources(store)
    go.extra_proxies.append(cached.as_uri())
    (got,), refused = go.download([str(TOML)])
    assert not refused
    assert got.module == TOML
    assert got.folder.name == "toml@v0.3.1"
    assert got.folder.parent.name == "!burnt!sushi"
    assert hash_tree(got.folder, str(TOML)) == TOML.sum
    ziphash = (download_folder(store, TOML) / "v0.3.1.ziphash").read_text()
    assert ziphash == TOML.sum


def test_a_hash_is_over_sorted_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, data in (("b/x", b"1"), ("a", b"2"), ("b.txt", b"3"), ("ä", b"4"), ("Z", b"5")):
        (tmp_path / name).write_bytes(data)
    names = sorted(["b/x", "a", "b.txt", "ä", "Z"], key=lambda n: n.encode())
    contents = {"b/x": b"1", "a": b"2", "b.txt": b"3", "ä": b"4", "Z": b"5"}
    lines = "".join(f"{hashlib.sha256(contents[n]).hexdigest()}  m@v1/{n}\n" for n in names)
    expected = "h1:" + base64.b64encode(hashlib.sha256(lines.encode()).digest()).decode()
    assert hash_tree(tmp_path, "m@v1") == expected


def test_what_no_module_zip_can_hold_never_has_the_right_hash(tmp_path: Path) -> None:
    import os

    cases: dict[str, Callable[[Path], object]] = {
        "link": lambda p: (p / "l").symlink_to("/etc/passwd"),
        "folder link": lambda p: (p / "l").symlink_to("/etc"),
        "pipe": lambda p: os.mkfifo(p / "p"),
        "line break": lambda p: (p / "a\nb").write_bytes(b""),
        "no UTF-8": lambda p: Path(os.fsdecode(os.fsencode(p) + b"/\xff")).write_bytes(b""),
    }
    for name, make in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "x").write_bytes(b"x")
        sound = hash_tree(folder, "m@v1")
        make(folder)
        assert hash_tree(folder, "m@v1") != sound, name
    assert hash_tree(tmp_path / "missing", "m@v1") == ""


# --- damage on disk


@pytest.fixture
def fetched(cached: Path, store: Store) -> GoSources:
    go = GoSources(store)
    go.extra_proxies.append(cached.as_uri())
    go.fetch([TOML])
    return go


def flip(go: GoSources) -> Path:
    victim = go.store.gomod / TOML.directory / "decode.go"
    data = bytearray(victim.read_bytes())
    data[100] ^= 1
    victim.write_bytes(data)
    return victim


def test_a_flipped_byte_is_noticed_and_fetched_again(fetched: GoSources) -> None:
    victim = flip(fetched)
    assert fetched.verify([TOML]) == [TOML]
    assert not victim.exists()
    assert not (download_folder(fetched.store, TOML) / "v0.3.1.zip").exists()
    fetched.ensure([TOML])
    assert hash_tree(fetched.store.gomod / TOML.directory, str(TOML)) == TOML.sum


def test_a_flipped_byte_is_mended_in_one_step(fetched: GoSources) -> None:
    flip(fetched)
    fetched.ensure([TOML])
    assert hash_tree(fetched.store.gomod / TOML.directory, str(TOML)) == TOML.sum


def test_a_flipped_byte_offline_is_an_error_that_names_the_module(fetched: GoSources) -> None:
    flip(fetched)
    fetched.offline = True
    error = fails(lambda: fetched.ensure([TOML]))
    assert isinstance(error, NetworkError)
    assert str(TOML) in error.reason
    assert "--offline" in error.reason


def test_an_added_file_is_noticed(fetched: GoSources) -> None:
    (fetched.store.gomod / TOML.directory / "extra.go").write_text("package toml\n")
    assert fetched.verify([TOML]) == [TOML]


def test_a_module_that_was_being_extracted_when_the_engine_died_is_fetched(fetched: GoSources) -> None:
    shutil.rmtree(fetched.store.gomod / TOML.directory)
    (fetched.store.gomod / TOML.directory).mkdir()
    (download_folder(fetched.store, TOML) / "v0.3.1.partial").write_bytes(b"")
    fetched.fetch([TOML])
    assert fetched.verify([TOML]) == []


def test_a_toolchain_that_was_being_extracted_is_fetched_before_it_is_used(tmp_path: Path, store: Store) -> None:
    go = GoSources(store)
    pin = toolchain().module
    (store.gomod / pin.directory).mkdir(parents=True)
    mark = download_folder(store, pin) / f"{pin.version}.partial"
    mark.parent.mkdir(parents=True)
    mark.write_bytes(b"")
    with environment(GOPROXY=gone(tmp_path / "gone")):
        assert str(pin) in fails(lambda: go.fetch([pin])).reason


def test_verification_is_done_once_and_from_many_threads(fetched: GoSources, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    flip(fetched)
    calls = []

    def count(root: Path, prefix: str) -> str:
        calls.append(prefix)
        return hash_tree(root, prefix)

    monkeypatch.setattr(module, "hash_tree", count)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetched.ensure([TOML]), range(8)))
    assert calls == [str(TOML)] * 2  # damaged, then good


# --- settings of the host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GOPRIVATE", "*"),
        ("GONOSUMDB", "github.com/BurntSushi/*"),
        ("GOSUMDB", "off"),
        ("GOFLAGS", "-insecure"),
        ("GOINSECURE", "example.org"),
        ("GONOSUMCHECK", "1"),
    ],
)
def test_settings_that_silence_the_checksum_database_are_refused_by_name(
    name: str, value: str, store: Store, cached: Path
) -> None:
    with environment(**{name: value}):
        error = fails(lambda: GoSources(store).download([str(TOML)]))
    assert isinstance(error, SourceError)
    assert f"{name}={value}" in error.reason
    assert "env -u" in error.hint


def test_settings_of_gos_own_file_are_seen(tmp_path: Path, store: Store) -> None:
    (tmp_path / "env").write_text("GOPRIVATE=corp.example\n")
    with environment(GOENV=str(tmp_path / "env")):
        assert "GOPRIVATE=corp.example" in fails(lambda: GoSources(store).environment()).reason


def test_offline_no_setting_matters(store: Store) -> None:
    with environment(GOPRIVATE="*", GOSUMDB="off"):
        found = GoSources(store, offline=True).environment()
    assert (found["GOPROXY"], found["GOSUMDB"]) == ("off", "off")


def test_nothing_else_of_the_user_reaches_go(store: Store) -> None:
    with environment(GOFLAGS="-mod=vendor", GOWORK="/x/go.work", GOARCH="mips", CGO_CFLAGS="-DX", OTHER="1"):
        found = GoSources(store).environment()
    assert found["GOFLAGS"] == ""
    assert found["GOWORK"] == "off"
    assert not {"GOARCH", "CGO_CFLAGS", "OTHER"} & set(found)


def test_an_old_or_missing_go_is_the_hosts_fault(tmp_path: Path, store: Store) -> None:
    with environment(PATH=str(tmp_path)):
        assert isinstance(fails(lambda: GoSources(store).program), HostError)
    fake = tmp_path / "go"
    fake.write_text("#!/bin/sh\necho go1.20.1\n")
    fake.chmod(0o755)
    with environment(PATH=f"{tmp_path}:/usr/bin:/bin"):
        assert "Go 1.21 or later is needed" in fails(lambda: GoSources(store).program).reason


def test_a_go_that_dies_in_the_middle_of_its_answer_is_an_error(tmp_path: Path, store: Store) -> None:
    go = GoSources(store)
    fake = tmp_path / "go"
    fake.write_text('#!/bin/sh\nprintf \'{"Path": "exam\'; exit 137\n')
    fake.chmod(0o755)
    go.__dict__ |= {"program": str(fake), "settings": {}}
    error = fails(lambda: go.download(["example.org/x@v1.0.0"]))
    assert isinstance(error, NetworkError)
    assert "status 137" in error.reason


# --- origins


@pytest.mark.parametrize("status", [403, 404, 410, 500, 503])
def test_an_origin_that_refuses_is_quoted(status: int, cached: Path, store: Store) -> None:
    with (
        serve(cached, lambda path, data: status if path.endswith(".zip") else data) as proxy,
        environment(GOPROXY=proxy),
    ):
        go = GoSources(store)
        assert go.probe([str(TOML)]) == []
        error = fails(lambda: go.fetch([TOML]))
    assert isinstance(error, NetworkError)
    assert str(TOML) in error.reason
    assert str(status) in error.reason
    assert not (store.gomod / TOML.directory).exists()


def test_a_refusal_is_seen_before_anything_is_fetched(cached: Path, store: Store) -> None:
    with serve(cached, lambda _, __: 403) as proxy, environment(GOPROXY=proxy):
        (refusal,) = GoSources(store).probe([str(TOML)])
    assert refusal.module == str(TOML)
    assert "403" in refusal.reason


def test_an_origin_that_never_answers_is_a_refusal(cached: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(module, "PROBE_SECONDS", 1)

    def linger(_: str, data: bytes) -> bytes:
        time.sleep(3)
        return data

    with serve(cached, linger) as proxy, environment(GOPROXY=proxy):
        (refusal,) = GoSources(store).probe([str(TOML)])
    assert refusal.reason == "no answer within 1 s"


def test_an_origin_that_is_not_there_is_named(store: Store) -> None:
    with environment(GOPROXY="http://127.0.0.1:9"):
        error = fails(lambda: GoSources(store).fetch([TOML]))
    assert isinstance(error, NetworkError)
    assert "127.0.0.1:9" in error.reason


@pytest.mark.parametrize("cut", [0, 100, -100])
def test_a_truncated_zip_is_refused(cut: int, cached: Path, store: Store) -> None:
    def change(path: str, data: bytes) -> bytes:
        return data[:cut] if path.endswith(".zip") else data

    with serve(cached, change) as proxy, environment(GOPROXY=proxy):
        error = fails(lambda: GoSources(store).fetch([TOML]))
    assert isinstance(error, NetworkError | SourceError)
    assert "zip" in error.reason
    assert not (store.gomod / TOML.directory).exists()


def test_other_bytes_are_refused_by_the_checksum_database(cached: Path, store: Store) -> None:
    def change(path: str, data: bytes) -> bytes:
        return rezip(data, tamper) if path.endswith(".zip") else data

    with serve(cached, change) as proxy, environment(GOPROXY=proxy):
        error = fails(lambda: GoSources(store).fetch([TOML]))
    assert isinstance(error, SourceError)
    assert "checksum mismatch" in error.reason
    assert str(TOML) in error.reason
    assert not (store.gomod / TOML.directory).exists()


def test_a_lock_that_says_otherwise_than_the_database_is_an_error(cached: Path, store: Store) -> None:
    go = GoSources(store)
    go.extra_proxies.append(cached.as_uri())
    other = Module(TOML.path, TOML.version, "h1:" + "A" * 43 + "=")
    error = fails(lambda: go.fetch([other]))
    assert isinstance(error, SourceError)
    assert f"the lock says {other.sum}, the origin serves {TOML.sum}" in error.reason
    assert other in go.verify([other])


def test_a_pin_that_is_gone_names_itself_and_the_update(tmp_path: Path, store: Store) -> None:
    with environment(GOPROXY=gone(tmp_path / "gone")):
        error = fails(lambda: GoSources(store).fetch([TOML]))
    assert isinstance(error, NetworkError)
    assert f"{TOML}: " in error.reason
    assert "--update" in error.hint
    assert "--source" in error.hint


def test_a_go_sum_that_does_not_match_is_an_error(tmp_path: Path, cached: Path) -> None:
    main = 'package main\n\nimport _ "github.com/BurntSushi/toml"\n\nfunc main() {}\n'
    checkout = small_checkout(tmp_path / "c", main=main)
    source = checkout / "components" / "hello" / "src"
    (source / "go.mod").write_text(f"module example.org/hello\n\ngo 1.20\n\nrequire {TOML.path} {TOML.version}\n")
    wrong = "h1:" + "A" * 43 + "="
    (source / "go.sum").write_text(f"{TOML.path} {TOML.version} {wrong}\n{TOML.path} {TOML.version}/go.mod {wrong}\n")
    (checkout / "releases" / SMALL / "sources.lock").unlink()
    error = fails(lambda: run(checkout, components=("hello",)))
    assert isinstance(error, SourceError)
    assert "checksum mismatch" in error.reason


def test_a_go_sum_that_lacks_a_line_is_an_error(tmp_path: Path, cached: Path) -> None:
    main = 'package main\n\nimport _ "github.com/BurntSushi/toml"\n\nfunc main() {}\n'
    checkout = small_checkout(tmp_path / "c", main=main)
    source = checkout / "components" / "hello" / "src"
    (source / "go.mod").write_text(f"module example.org/hello\n\ngo 1.20\n\nrequire {TOML.path} {TOML.version}\n")
    (checkout / "releases" / SMALL / "sources.lock").unlink()
    error = fails(lambda: run(checkout, components=("hello",)))
    assert isinstance(error, SourceError)
    assert "missing go.sum entry" in error.reason


# --- files given in place of origins


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_checkout(tmp_path_factory.mktemp("real"))


@pytest.fixture
def flannel_zip(cached: Path) -> Path:
    return cached / escape_module(FLANNEL.path) / "@v" / f"{FLANNEL.version}.zip"


def take(checkout: Path, store: Store, file: Path, component: str = "cni-plugin-flannel") -> GoSources:
    context = make_context(checkout, store, version=REAL)
    go = GoSources(store)
    add_given_modules(go, {component: file}, context.all_units, context.release.date)
    return go


def test_a_given_zip_takes_the_place_of_its_origin(real: Path, store: Store, flannel_zip: Path, tmp_path: Path) -> None:
    copy = tmp_path / "any name"
    shutil.copyfile(flannel_zip, copy)
    with serve(tmp_path, lambda _, __: 404) as proxy, environment(GOPROXY=proxy):
        go = take(real, store, copy)
        assert go.probe([str(FLANNEL)]) == []
        go.ensure([FLANNEL])


def test_a_tampered_zip_is_refused_by_the_checksum_database(
    real: Path, store: Store, flannel_zip: Path, tmp_path: Path
) -> None:
    (tmp_path / "z").write_bytes(rezip(flannel_zip.read_bytes(), tamper))
    with serve(tmp_path, lambda _, __: 404) as proxy, environment(GOPROXY=proxy):
        error = fails(lambda: take(real, store, tmp_path / "z").ensure([FLANNEL]))
    assert isinstance(error, SourceError)
    assert "checksum mismatch" in error.reason


def test_another_modules_zip_is_refused(real: Path, store: Store, cached: Path) -> None:
    file = cached / escape_module(TOML.path) / "@v" / f"{TOML.version}.zip"
    error = fails(lambda: take(real, store, file))
    assert isinstance(error, SourceError)
    assert f"expected the module zip of {FLANNEL}" in error.reason
    assert "BurntSushi/toml" in error.reason


@pytest.mark.parametrize("name", ["../../evil", "a/../../../evil", "..\\evil", "a/.."])
def test_a_zip_with_an_escape_is_refused(
    name: str, real: Path, store: Store, flannel_zip: Path, tmp_path: Path
) -> None:
    file = tmp_path / "z"
    file.write_bytes(flannel_zip.read_bytes())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(f"{FLANNEL}/{name}", b"evil")
    error = fails(lambda: take(real, store, file))
    assert isinstance(error, SourceError)
    assert "leaves its root" in error.reason


def damaged(data: bytes) -> dict[str, bytes]:
    encrypted, method = bytearray(data), bytearray(data)
    name = f"{FLANNEL}/go.mod".encode()
    at = data.rfind(name) - 46  # its entry in the central directory
    encrypted[at + 8] |= 1
    method[at + 10 : at + 12] = (99).to_bytes(2, "little")
    content = bytearray(data)
    local = data.find(name) + len(name)
    content[local + 4 : local + 12] = b"\xff" * 8
    return {"text": b"hello", "empty": b"", "half": data[: len(data) // 2], "encrypted": bytes(encrypted),
            "unknown compression": bytes(method), "content": bytes(content)}  # fmt: skip


@pytest.mark.parametrize("kind", ["text", "empty", "half", "encrypted", "unknown compression", "content"])
def test_a_damaged_zip_is_a_source_error(
    kind: str, real: Path, store: Store, flannel_zip: Path, tmp_path: Path
) -> None:
    (tmp_path / "z").write_bytes(damaged(flannel_zip.read_bytes())[kind])
    error = fails(lambda: take(real, store, tmp_path / "z"))
    assert isinstance(error, SourceError)
    assert "not a readable zip file" in error.reason


def test_a_file_that_cannot_be_read_is_a_mistake_of_the_user(real: Path, store: Store, tmp_path: Path) -> None:
    assert isinstance(fails(lambda: take(real, store, tmp_path / "none")), UsageError)
    assert isinstance(fails(lambda: take(real, store, tmp_path)), UsageError)
    assert "has no component nothing" in fails(lambda: take(real, store, tmp_path, "nothing")).reason


# --- go.mod and go.sum

VECTORS = [
    ("replace a => ./a", [("a", "", True)]),
    ("replace a v1.2.3 => ../a", [("a", "v1.2.3", True)]),
    ("replace\ta\t=>\t.", [("a", "", True)]),
    ("replace a => ..", [("a", "", True)]),
    ("replace a => /abs/a", [("a", "", True)]),
    ('replace "a" => "./with blank"', [("a", "", True)]),
    ("replace `a` v1.0.0 => `./a`", [("a", "v1.0.0", True)]),
    ("replace a => ./a // why", [("a", "", True)]),
    ("replace a => ./a//why", [("a", "", True)]),
    ("\ta => ./a", [("a", "", False)]),
    ("    a/v2 v2.0.0 => ../a", [("a/v2", "v2.0.0", False)]),
    ("replace a => b v1.0.0", []),
    ("replace a v1.0.0 => b v1.0.1", []),
    ("//a => ./a", []),
    ("// replace a => ./a", []),
    ("// a v1.0.0 => ./a", []),
    ("require a v1.0.0 // => ./a", []),
    ("retract [v1.0.0, v1.9.9] // a => ./a", []),
    ("module a", []),
    ("", []),
    ("replace a => ./a\r", [("a", "", True)]),
]


@pytest.mark.parametrize(("line", "expected"), VECTORS)
def test_local_replacements_are_found_in_every_syntax(line: str, expected: list[tuple[str, str, bool]]) -> None:
    found = [(r.path, r.version, r.single) for r in local_replaces(f"module x\n{line}\n")]
    assert found == expected


@pytest.mark.parametrize(
    ("line", "rewritten"),
    [
        ("replace a => ./a", "replace a => a v9"),
        ("replace a v1.2.3 => ./a // c", "replace a v1.2.3 => a v9"),
        ("\ta => ./a", "\ta => a v9"),
        ('replace "a" => "./a"', "replace a => a v9"),
        ("replace b => ./b", ""),
        ("replace c/d => ./d", "replace c/d => c/d v8"),
        ("replace e => f v1.0.0", "replace e => f v1.0.0"),
    ],
)
def test_local_replacements_are_rewritten_by_the_first_rule(line: str, rewritten: str) -> None:
    rules = [("a", "v9"), ("b", None), ("c/*", "v8"), ("a", "v7")]
    assert rewrite_replaces(f"module x\n{line}\n", rules, "w") == f"module x\n{rewritten}\n"


def test_a_rewritten_go_mod_is_one_for_go() -> None:
    text = (
        'module x\n\ngo 1.20\n\nreplace (\n\ta => ./a\n\t"b" v1.0.0 => ../b // c\n\tc => ./c\n)\n\nreplace d => ./d\n'
    )
    rules = [("c", None), ("*", "v0.9.0")]
    made = rewrite_replaces(text, rules, "w")
    folder = shared_store()
    with folder.workspace() as work:
        (work / "go.mod").write_text(made)
        done = subprocess.run(["go", "mod", "edit", "-json"], cwd=work, capture_output=True, text=True, check=True)
    found = [(r["Old"], r["New"]) for r in json.loads(done.stdout)["Replace"]]
    assert found == [
        ({"Path": "a"}, {"Path": "a", "Version": "v0.9.0"}),
        ({"Path": "b", "Version": "v1.0.0"}, {"Path": "b", "Version": "v0.9.0"}),
        ({"Path": "d"}, {"Path": "d", "Version": "v0.9.0"}),
    ]


def test_what_is_dropped_is_not_required_either() -> None:
    text = (
        "module x\n\nrequire a v0.0.0 // indirect\nrequire (\n\tb v0.0.0\n\ta/b v1.0.0\n)\n"
        "replace (\n\ta => ./a\n\tb => ./b\n)\nexclude b v0.0.0\n"
    )
    made = rewrite_replaces(text, [("a", None), ("b", "v1.0.0")], "w")
    assert [line for line in text.splitlines() if line not in made.splitlines()] == [
        "require a v0.0.0 // indirect",
        "\ta => ./a",
        "\tb => ./b",
    ]
    with shared_store().workspace() as work:
        (work / "go.mod").write_text(made)
        subprocess.run(["go", "mod", "edit", "-json"], cwd=work, capture_output=True, check=True)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("module x\n\ngo 1.24.0\n\ntoolchain go1.24.3\n", "1.24.3"),
        ("module x\ngo 1.25\ntoolchain go1.24.3\n", "1.25"),
        ("go 1.24rc1\n", "1.24"),
        ("go 1.22.0 // because\r\ntoolchain default\r\n", "1.22.0"),
        ("module x\n", "1.16"),
        ("//go 1.99\nrequire go 1.98\n", "1.16"),
    ],
)
def test_a_go_mod_says_which_go_it_needs(text: str, asked: str) -> None:
    assert needed_go(text) == asked


def test_a_local_replacement_without_a_rule_is_an_error_that_names_it() -> None:
    with pytest.raises(DefinitionError, match=r"component z: go.mod replaces a/b by the local directory \./b"):
        rewrite_replaces("module x\nreplace a/b => ./b\n", [("a", "v1")], "component z")


def test_sums_of_go_mod_files_are_left_out() -> None:
    text = "a v1 h1:x=\na v1/go.mod h1:y=\nb v2/go.mod h1:z=\n\nmalformed line here and more\n"
    assert read_sums(text) == {("a", "v1"): "h1:x="}


def test_a_toolchains_programs_can_be_run() -> None:
    root = inputs().toolchain(inputs_unit())
    assert root.joinpath("bin", "go").stat().st_mode & 0o111 == 0o111
    assert any(root.glob("pkg/tool/*/compile"))
    assert HOST in root.name


def inputs_unit() -> Any:
    from engine import small

    return small().units[0]
