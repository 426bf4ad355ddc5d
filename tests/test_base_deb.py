"""Debian-like bases, from a signed mirror made here to an assembled root: no network, only apt, gpg and gpgv."""

import contextlib
import gzip
import hashlib
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rpm_mirror import start_agent

from pipeline.base import archives, deb, family
from pipeline.base.archives import open_data
from pipeline.base.assemble import MTIME, assemble, tree_digest
from pipeline.bases import Base, RootRecipe
from pipeline.errors import (
    DefinitionError,
    HostError,
    NetworkError,
    PipelineError,
    SourceError,
    StoreError,
    UsageError,
)
from pipeline.lock import BaseLock, Package
from pipeline.model import PLATFORMS, Digest

ARCHES = ("amd64", "arm64", "riscv64")
FAR_PAST = "Sat, 21 Nov 2020 09:15:44 UTC"


# --- making packages and mirrors


def tar(files: dict[str, Any], *, modes: dict[str, int] | None = None) -> bytes:
    """A data.tar: None is a directory, bytes a file, text the target of a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.type = {type(None): tarfile.DIRTYPE, bytes: tarfile.REGTYPE, str: tarfile.SYMTYPE}[type(content)]
            info.mode = (modes or {}).get(name, 0o755 if content is None else 0o644)
            info.mtime = 1234567890
            info.linkname = content if isinstance(content, str) else ""
            info.size = len(content) if isinstance(content, bytes) else 0
            archive.addfile(info, io.BytesIO(content if isinstance(content, bytes) else b""))
    return buffer.getvalue()


def ar(*members: tuple[str, bytes]) -> bytes:
    """An ar archive as dpkg-deb writes it."""
    parts = [b"!<arch>\n"]
    for name, data in members:
        parts += [
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode(),
            data,
            b"\n" * (len(data) % 2),
        ]
    return b"".join(parts)


def make_deb(data: bytes, suffix: str = ".xz") -> bytes:
    compressors: dict[str, Callable[[bytes], bytes]] = {
        ".xz": lzma.compress,
        ".gz": gzip.compress,
        "": bytes,
        ".zst": zstd,
    }
    packed = compressors[suffix](data)
    return ar(("debian-binary", b"2.0\n"), ("control.tar.xz", lzma.compress(tar({}))), (f"data.tar{suffix}", packed))


def zstd(data: bytes) -> bytes:
    from backports.zstd import compress

    return bytes(compress(data))


@dataclass
class Key:
    """A signing key in a keyring of its own."""

    home: Path
    fingerprint: str
    keyring: Path

    def sign(self, release: Path) -> None:
        signed = release.with_name("InRelease")
        signed.unlink(missing_ok=True)
        gpg(self.home, "--clearsign", "--output", str(signed), str(release))


def gpg(home: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["gpg", "--homedir", str(home), "--batch", "--yes", "--quiet", "--passphrase", "", *arguments],
        capture_output=True,
        check=True,
        text=True,
    )
    return done.stdout


@contextlib.contextmanager
def new_key(name: str) -> Iterator[Key]:
    home = Path(tempfile.mkdtemp(prefix="gpg-"))  # short: the agent's socket lies in it
    try:
        start_agent(home)
        gpg(home, "--quick-gen-key", name, "ed25519", "sign", "never")
        listed = gpg(home, "--with-colons", "--list-keys")
        fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
        gpg(home, "--output", str(home / "ring.gpg"), "--export", fingerprint)
        yield Key(home, fingerprint, home / "ring.gpg")
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=False)
        shutil.rmtree(home, ignore_errors=True)


@dataclass
class Mirror:
    """A mirror in Debian's layout."""

    path: Path
    key: Key
    origin: str = "Mini"
    packages: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return self.path.as_uri()

    def publish(self, suite: str, arches: tuple[str, ...] = ARCHES, *, codename: str = "") -> None:
        folder = self.path / "dists" / suite
        folder.mkdir(parents=True, exist_ok=True)
        sums = []
        for arch in arches:
            stanzas = []
            for name, version, depends in (("tool", "1:2.0+b~1-1", "libtool"), ("libtool", "2.0", "")):
                data = make_deb(tar({"usr": None, f"usr/lib/{name}": f"{name} {arch} {suite}".encode()}))
                path = f"pool/main/{suite}/{name}_{version.partition(':')[2] or version}_{arch}.deb"
                (self.path / path).parent.mkdir(parents=True, exist_ok=True)
                (self.path / path).write_bytes(data)
                stanzas.append(
                    f"Package: {name}\nVersion: {version}\nArchitecture: {arch}\nMaintainer: x <x@example.org>\n"
                    + (f"Depends: {depends}\n" if depends else "")
                    + f"Filename: {path}\nSize: {len(data)}\nSHA256: {Digest.of_bytes(data).hex}\nDescription: x\n"
                )
            index = "\n".join(stanzas).encode()
            file = folder / "main" / f"binary-{arch}" / "Packages"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(index)
            sums.append(f" {hashlib.sha256(index).hexdigest()} {len(index)} main/binary-{arch}/Packages\n")
        (folder / "Release").write_text(
            f"Origin: {self.origin}\nSuite: {suite}-suite\nCodename: {codename or suite}\nDate: {FAR_PAST}\n"
            f"Valid-Until: {FAR_PAST}\nArchitectures: {' '.join(arches)}\nComponents: main\nSHA256:\n{''.join(sums)}"
        )
        self.key.sign(folder / "Release")

    def spoil_index(self, suite: str, arch: str) -> None:
        """The index is newer than what was signed, as on a mirror in the middle of an update."""
        with (self.path / f"dists/{suite}/main/binary-{arch}/Packages").open("a") as file:
            file.write("\n")


@pytest.fixture(scope="session")
def key() -> Iterator[Key]:
    with new_key("mini") as made:
        yield made


@pytest.fixture(scope="session")
def other_key() -> Iterator[Key]:
    with new_key("other") as made:
        yield made


@pytest.fixture(scope="session")
def pristine(key: Key, tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    mirror = Mirror(tmp_path_factory.mktemp("mirror"), key)
    mirror.publish("one")
    mirror.publish("two")
    return mirror


@pytest.fixture
def mirror(pristine: Mirror, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """A mirror of this test's own."""
    monkeypatch.setenv("RFO_KEYRING_MINI_1", str(key.keyring))
    shutil.copytree(pristine.path, tmp_path / "mirror")
    return Mirror(tmp_path / "mirror", key)


def mini_base(key: Key, **changes: Any) -> Base:
    fields: dict[str, Any] = {
        "name": "mini-1",
        "family": "deb",
        "origin": "Mini",
        "keys": (key.fingerprint,),
        "suites": {"amd64": ("one",), "arm64": ("one",), "riscv64": ("one", "two")},
        "roots": {
            "builder": {"packages": ("tool",), "per": "host"},
            "sysroot": {"packages": ("libtool",), "per": "target"},
        },
        "compilers": {},
    }
    return Base.model_validate(fields | changes)


def lock_mini(base: Base, mirror: Mirror, tmp_path: Path, arches: tuple[str, ...] = ARCHES) -> BaseLock:
    return family("deb").lock(base, arches, "amd64", origin=mirror.uri, work=tmp_path / "work")


# --- locking


def test_each_root_is_locked_by_path_size_and_digest(mirror: Mirror, key: Key, tmp_path: Path) -> None:
    lock = lock_mini(mini_base(key), mirror, tmp_path)
    assert [(p.root, p.arch, p.name, p.version) for p in lock.packages] == [
        ("builder", "amd64", "libtool", "2.0"),
        ("builder", "amd64", "tool", "1:2.0+b~1-1"),
        ("sysroot", "amd64", "libtool", "2.0"),
        ("sysroot", "arm64", "libtool", "2.0"),
        ("sysroot", "riscv64", "libtool", "2.0"),
    ]
    tool = lock.packages[1]
    assert tool.path == "pool/main/one/tool_2.0+b~1-1_amd64.deb"
    assert Digest.of_file(mirror.path / tool.path) == tool.digest
    assert (mirror.path / tool.path).stat().st_size == tool.size
    signed = Digest.of_file(mirror.path / "dists/one/InRelease")
    assert {(s.arch, s.name, s.date, s.digest) for s in lock.suites} == {
        (arch, "one", "2020-11-21T09:15:44Z", signed) for arch in ARCHES
    }
    assert BaseLock.parse(lock.render(), "text") == lock
    assert list((tmp_path / "work").iterdir()) == []


def test_a_suite_whose_index_is_out_of_step_gives_way_to_the_next(mirror: Mirror, key: Key, tmp_path: Path) -> None:
    mirror.spoil_index("one", "riscv64")
    lock = lock_mini(mini_base(key), mirror, tmp_path)
    assert {s.arch: s.name for s in lock.suites} == {"amd64": "one", "arm64": "one", "riscv64": "two"}
    assert [p.path for p in lock.root("sysroot", "riscv64")] == ["pool/main/two/libtool_2.0_riscv64.deb"]


def test_a_suite_that_lacks_a_package_gives_way_to_the_next(mirror: Mirror, key: Key, tmp_path: Path) -> None:
    mirror.publish("empty", arches=())
    lock = lock_mini(mini_base(key, suites={"amd64": ("empty", "two")}), mirror, tmp_path, ("amd64",))
    assert [s.name for s in lock.suites] == ["two"]


def test_an_architecture_without_a_usable_suite_is_missing_with_what_was_tried(
    mirror: Mirror, key: Key, tmp_path: Path
) -> None:
    mirror.spoil_index("one", "riscv64")
    mirror.spoil_index("two", "riscv64")
    lock = lock_mini(mini_base(key), mirror, tmp_path)
    assert {p.arch for p in lock.packages} == {s.arch for s in lock.suites} == {"amd64", "arm64"}
    [(arch, reason)] = lock.missing
    assert arch == "riscv64"
    assert "suite one" in reason
    assert "suite two" in reason


def test_a_host_whose_roots_cannot_be_had_is_an_error(mirror: Mirror, key: Key, tmp_path: Path) -> None:
    mirror.spoil_index("one", "amd64")
    with pytest.raises(NetworkError, match="mini-1 cannot be had for amd64: suite one") as caught:
        lock_mini(mini_base(key), mirror, tmp_path, ("amd64",))
    assert "--mirror mini-1=URI" in caught.value.hint


def test_unsigned_metadata_is_refused(mirror: Mirror, key: Key, tmp_path: Path) -> None:
    for suite in ("one", "two"):
        (mirror.path / f"dists/{suite}/InRelease").unlink()
    with pytest.raises(SourceError, match="signature was refused"):
        lock_mini(mini_base(key), mirror, tmp_path, ("amd64",))


def test_metadata_changed_after_signing_is_refused(mirror: Mirror, key: Key, tmp_path: Path) -> None:
    file = mirror.path / "dists/one/InRelease"
    file.write_text(file.read_text().replace("Suite: one-suite", "Suite: one-sweet"))
    with pytest.raises(SourceError, match="signature was refused"):
        lock_mini(mini_base(key), mirror, tmp_path, ("amd64",))


def test_a_key_outside_the_keyring_is_refused(mirror: Mirror, key: Key, other_key: Key, tmp_path: Path) -> None:
    other_key.sign(mirror.path / "dists/one/Release")
    with pytest.raises(SourceError, match="signature was refused"):
        lock_mini(mini_base(key), mirror, tmp_path, ("amd64",))


def test_a_key_in_the_keyring_that_the_base_does_not_name_is_refused(
    mirror: Mirror, key: Key, other_key: Key, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=f"not signed by a key that the base names; signed by {key.fingerprint}"):
        lock_mini(mini_base(other_key), mirror, tmp_path, ("amd64",))


def test_a_signed_suite_under_the_name_of_another_is_refused(mirror: Mirror, key: Key, tmp_path: Path) -> None:
    mirror.publish("one", codename="older")
    with pytest.raises(SourceError, match="expected one of Mini, found older of Mini"):
        lock_mini(mini_base(key), mirror, tmp_path, ("amd64",))


def test_another_distribution_signed_by_the_same_key_is_refused(mirror: Mirror, key: Key, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected one of Maxi, found one of Mini"):
        lock_mini(mini_base(key, origin="Maxi"), mirror, tmp_path, ("amd64",))


def test_a_missing_keyring_says_what_to_install(mirror: Mirror, key: Key, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("RFO_KEYRING_MINI_1")
    monkeypatch.setattr(deb, "KEYRINGS", (tmp_path / "none.gpg",))
    with pytest.raises(HostError, match=r"none\.gpg") as caught:
        lock_mini(mini_base(key), mirror, tmp_path, ("amd64",))
    assert "debian-archive-keyring" in caught.value.hint
    monkeypatch.setenv("RFO_KEYRING_MINI_1", str(tmp_path / "gone.gpg"))
    with pytest.raises(HostError, match=r"RFO_KEYRING_MINI_1: .*gone\.gpg"):
        lock_mini(mini_base(key), mirror, tmp_path, ("amd64",))


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("http://a/x/|bookworm|Other\nhttp://b/debian|trixie|Mini\n", "http://b/debian/"),
        (
            "http://s/sec/|one-security|Mini\nhttp://b/debian/|one-updates|Mini\nhttp://b/debian/|one|Mini\n",
            "http://b/debian/",
        ),
        ("http://b/debian/|one|\n", "http://b/debian/"),
        ("http://a/x/|one|\nfile:///srv/debian|one|Mini\n", "file:/srv/debian/"),
        ("cdrom:[x]/|one|Mini\nhttp://s/sec/|one-security|Mini\n", None),
        ("", None),
    ],
)
def test_the_mirror_of_the_host_is_found(key: Key, monkeypatch: Any, listed: str, found: str | None) -> None:
    monkeypatch.setattr(deb, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, listed.encode(), b""))
    if found:
        assert deb._find_mirror(mini_base(key), None) == found
        return
    with pytest.raises(HostError, match="no mirror of Mini") as caught:
        deb._find_mirror(mini_base(key), None)
    assert caught.value.hint == "name one: --mirror mini-1=URI"


@pytest.mark.parametrize("origin", ["nonsense", "http://a/ [trusted=yes] b", 'http://a/"', "ftp://a/b", "http:///x"])
def test_an_origin_that_is_no_uri_is_refused(mirror: Mirror, key: Key, tmp_path: Path, origin: str) -> None:
    with pytest.raises(UsageError, match="is no URI of a mirror"):
        family("deb").lock(mini_base(key), ["amd64"], "amd64", origin=origin, work=tmp_path)


# --- fetching


class Store:
    """Takes delivered files as the real one does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def deliver(self, package: Package, file: Path) -> None:
        file.rename(self.folder / package.digest.hex)

    def file(self, package: Package) -> Path:
        return self.folder / package.digest.hex

    def names(self) -> set[str]:
        return {p.name for p in self.folder.iterdir()}


@pytest.fixture
def http(mirror: Mirror) -> Iterator[str]:
    """The mirror, served on the loopback interface."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(mirror.path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("over_http", [False, True])
def test_packages_are_delivered_once_checked(
    mirror: Mirror, key: Key, tmp_path: Path, http: str, over_http: bool
) -> None:
    base, store = mini_base(key), Store(tmp_path / "store")
    lock = lock_mini(base, mirror, tmp_path)
    origin = http if over_http else mirror.uri
    family("deb").fetch(base, lock.packages, origin=origin, work=tmp_path / "work", deliver=store.deliver)
    assert store.names() == {p.digest.hex for p in lock.packages}
    assert all(Digest.of_file(store.file(p)) == p.digest and not store.file(p).is_symlink() for p in lock.packages)
    assert all((mirror.path / p.path).exists() for p in lock.packages)


def test_every_package_that_is_gone_is_named_and_the_others_come(
    mirror: Mirror, key: Key, tmp_path: Path, http: str
) -> None:
    base, store = mini_base(key), Store(tmp_path / "store")
    lock = lock_mini(base, mirror, tmp_path)
    gone = [p for p in lock.packages if p.arch != "amd64"]
    for package in gone:
        (mirror.path / package.path).unlink()
    with pytest.raises(NetworkError, match="2 of 4 packages") as caught:
        family("deb").fetch(base, lock.packages, origin=http, work=tmp_path / "work", deliver=store.deliver)
    assert all(f"{p.path} (" in caught.value.reason for p in gone)
    assert "404" in caught.value.reason
    assert "inv lock --base mini-1 --update" in caught.value.hint
    assert store.names() == {p.digest.hex for p in lock.packages if p.arch == "amd64"}


@pytest.mark.parametrize("over_http", [False, True])
def test_a_package_with_other_bytes_is_not_delivered(
    mirror: Mirror, key: Key, tmp_path: Path, http: str, over_http: bool
) -> None:
    base, store = mini_base(key), Store(tmp_path / "store")
    package = lock_mini(base, mirror, tmp_path, ("amd64",)).packages[0]
    data = bytearray((mirror.path / package.path).read_bytes())
    data[-1] ^= 1
    (mirror.path / package.path).write_bytes(data)
    origin = http if over_http else mirror.uri
    with pytest.raises(SourceError, match=r"libtool_2\.0_amd64\.deb \(.*[Mm]ismatch"):
        family("deb").fetch(base, [package], origin=origin, work=tmp_path / "work", deliver=store.deliver)
    assert store.names() == set()


def test_a_package_of_another_size_is_not_delivered(mirror: Mirror, key: Key, tmp_path: Path) -> None:
    base, store = mini_base(key), Store(tmp_path / "store")
    package = replace(lock_mini(base, mirror, tmp_path, ("amd64",)).packages[0], size=7)
    with pytest.raises(SourceError, match=r"size mismatch: expected sha256:.*7 bytes"):
        family("deb").fetch(base, [package], origin=mirror.uri, work=tmp_path / "work", deliver=store.deliver)
    assert store.names() == set()


# --- reading packages


def unpack(data: bytes, tmp_path: Path) -> Path:
    (tmp_path / "x.deb").write_bytes(data)
    root = tmp_path / "unpacked"
    root.mkdir()
    family("deb").unpack(tmp_path / "x.deb", root, "package x", ())
    return root


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_every_compression_is_read(tmp_path: Path, suffix: str) -> None:
    content = os.urandom(300_000) + bytes(3_000_000)
    root = unpack(make_deb(tar({"usr": None, "usr/f": content}), suffix), tmp_path)
    assert (root / "usr/f").read_bytes() == content


GOOD = make_deb(tar({"f": b"content"}))
XZ = lzma.compress(tar({"f": b"content"}))
START = (("debian-binary", b"2.0\n"), ("control.tar.xz", b""))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no ar archive"),
        (b"PK\3\4" * 40, "no ar archive"),
        (GOOD[:-20], "is cut off"),
        (GOOD[:100], "member 2 of the ar archive has no valid header"),
        (GOOD + b"more", "data follows the last ar member"),
        (GOOD.replace(b"2.0\n", b"3.0\n"), "unknown version"),
        (GOOD.replace(b"debian-binary", b"debian-binery"), "expected the ar member debian-binary"),
        (ar(START[0], ("data.tar.xz", XZ), START[1]), "expected the ar member control.tar"),
        (ar(*START, ("data.tar.bz2", b"")), "unknown compression"),
        (ar(*START, ("data.tar.xz", XZ[:-30])), "ends too early"),
        (ar(*START, ("data.tar.xz", XZ[:40] + b"\0\0" + XZ[42:])), "damaged compressed data"),
        (ar(*START, ("data.tar.xz", XZ + XZ)), "data follows the compressed stream"),
        (ar(*START, ("data.tar.gz", b"no gzip")), "damaged compressed data"),
        (ar(*START, ("data.tar.zst", b"no zstd.")), "damaged compressed data"),
        (ar(*START, ("data.tar", b"no tar")), "not a readable tar archive"),
        (make_deb(tar({"../f": b"x"})), "leaves its root"),
        (make_deb(tar({"d": "/../../x"})), "leaves the root"),
    ],
)
def test_a_malformed_package_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        unpack(data, tmp_path)
    assert caught.value.reason.startswith("package x: ")


def test_a_decompression_bomb_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO(make_deb(bytes(8 << 20)))  # 1 KB
    monkeypatch.setattr(archives.Decompressed.__init__, "__defaults__", (1 << 20,))
    stream = open_data(file, "package x")
    with pytest.raises(SourceError, match="bomb"):
        while stream.read(1 << 16):
            pass


# --- assembling


def package(name: str, size: int = 1) -> Package:
    return Package("builder", "amd64", name, "1", f"pool/{name}.deb", size, Digest.of_bytes(name.encode()))


@dataclass
class Assembly:
    """Packages that a test makes, and the root made of them."""

    folder: Path
    base: Base

    def add(self, name: str, files: dict[str, Any], **options: Any) -> Package:
        (self.folder / name).write_bytes(make_deb(tar(files, **options)))
        return package(name, len(name))

    def make(self, *packages: Package, arch: str = "amd64", root: str = "root", **recipe: Any) -> Path:
        assemble(
            self.base,
            RootRecipe.model_validate({"packages": (), "per": "host"} | recipe),
            packages,
            files=lambda p: self.folder / p.name,
            root=self.folder / root,
            platform=PLATFORMS[arch],
        )
        return self.folder / root


@pytest.fixture
def assembly(tmp_path: Path) -> Assembly:
    return Assembly(tmp_path, mini_base(Key(tmp_path, "A" * 40, tmp_path)))


def test_a_root_does_not_depend_on_order_or_umask_or_place(assembly: Assembly) -> None:
    made = [assembly.add(f"p{n}", {"usr": None, "usr/bin": None, f"usr/bin/p{n}": b"x" * n}) for n in range(9)]
    made.append(assembly.add("q", {"lib": None, "lib/q": b"q", "usr/lib/q2": "q"}))
    first = assembly.make(*made, root="first")
    before = os.umask(0o077)
    try:
        second = assembly.make(*made[::-1], root="deep/second")
    finally:
        os.umask(before)
    assert tree_digest(first) == tree_digest(second)
    for path in (first, *first.rglob("*")):
        assert path.lstat().st_mtime == MTIME, path
    assert (first / "usr/lib/q").read_bytes() == b"q"


def test_every_root_has_merged_usr_and_mount_points(assembly: Assembly) -> None:
    root = assembly.make()
    assert {n: (root / n).readlink().as_posix() for n in ("bin", "sbin", "lib", "lib64")} == {
        n: f"usr/{n}" for n in ("bin", "sbin", "lib", "lib64")
    }
    assert {p.name for p in root.iterdir()} == {
        "bin", "sbin", "lib", "lib64", "usr", "dev", "proc", "sys", "run", "tmp", "build", "out", "rfo-in",
    }  # fmt: skip
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (root / "out").stat().st_mode & 0o7777 == 0o755


def test_only_debian_amd64_has_lib64(assembly: Assembly) -> None:
    assert not (assembly.make(arch="arm64") / "lib64").exists()


def test_packages_may_share_directories_and_identical_files(assembly: Assembly) -> None:
    one = assembly.add("one", {"d": None, "d/f": b"same", "d/l": "f"}, modes={"d": 0o750})
    two = assembly.add("two", {"d": None, "d/f": b"same", "d/l": "f", "d/g": b""}, modes={"d": 0o755})
    root = assembly.make(one, two)
    assert (root / "d").stat().st_mode & 0o7777 == 0o750
    assert sorted(p.name for p in (root / "d").iterdir()) == ["f", "g", "l"]
    assert not (root / ".unpack").exists()


@pytest.mark.parametrize(
    "other", [{"usr/lib/f": b"other"}, {"lib/f": b"other"}, {"usr/lib/f": "one"}, {"usr/lib/f": None}]
)
def test_packages_that_differ_about_a_path_are_refused(assembly: Assembly, other: dict[str, Any]) -> None:
    one, two = assembly.add("one", {"usr/lib/f": b"one"}), assembly.add("two", other)
    with pytest.raises(SourceError, match=r"package two 1: .*lib/f"):
        assembly.make(one, two)


def test_the_recipe_takes_the_place_of_what_packages_ship(assembly: Assembly) -> None:
    shipped = assembly.add("p", {"etc/passwd": b"old", "usr/bin/mawk": b"", "usr/bin/awk": b"", "usr/doc/x": b""})
    root = assembly.make(
        shipped,
        files={"etc/passwd": "root\n"},
        links={"usr/bin/awk": "mawk", "etc/mtab": "/proc/mounts"},
        directories={"var/tmp": 0o1777, "usr/bin": 0o755},
        drop=("usr/doc",),
    )
    assert (root / "etc/passwd").read_text() == "root\n"
    assert (root / "usr/bin/awk").readlink() == Path("mawk")
    assert (root / "var/tmp").stat().st_mode & 0o7777 == 0o1777
    assert not (root / "usr/doc").exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"links": {"usr/bin/cc": "gcc"}}, "usr/bin/cc -> gcc leads nowhere"),
        ({"links": {"usr/bin/cc": "../../../x"}}, "leaves the root"),
        ({"files": {"../x": ""}}, "leaves its root"),
        ({"files": {"usr": ""}}, "packages have a directory there"),
        ({"directories": {"/etc": 0o755}}, "absolute path"),
    ],
)
def test_a_recipe_that_cannot_be_is_a_definition_error(assembly: Assembly, recipe: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        assembly.make(**recipe)


def test_no_set_id_bit_reaches_a_root(assembly: Assembly) -> None:
    shipped = assembly.add("p", {"d": None, "d/su": b""}, modes={"d": 0o2775, "d/su": 0o4755})
    root = assembly.make(shipped)
    assert [(root / p).stat().st_mode & 0o7777 for p in ("d", "d/su")] == [0o775, 0o755]


def test_a_damaged_package_ends_the_assembly(assembly: Assembly) -> None:
    made = [assembly.add(f"p{n}", {f"f{n}": b""}) for n in range(20)]
    (assembly.folder / "p3").write_bytes(GOOD[:-10])
    with pytest.raises(SourceError, match="package p3 1: "):
        assembly.make(*made)


def test_a_root_is_never_assembled_into_something(assembly: Assembly) -> None:
    (assembly.folder / "root/x").mkdir(parents=True)
    with pytest.raises(StoreError, match="is not empty"):
        assembly.make()


# --- digests of trees


def plain_tree(folder: Path) -> Path:
    (folder / "d").mkdir(parents=True)
    (folder / "d/f").write_text("content")
    (folder / "l").symlink_to("d")
    for path, mode in ((folder, 0o755), (folder / "d", 0o755), (folder / "d/f", 0o644)):
        path.chmod(mode)
    return folder


def rename_file(tree: Path) -> None:
    (tree / "d/f").rename(tree / "d/g")


def relink(tree: Path) -> None:
    (tree / "l").unlink()
    (tree / "l").symlink_to("d/")


def turn_link_into_file(tree: Path) -> None:
    (tree / "l").unlink()
    (tree / "l").write_text("d")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: (t / "d/f").write_text("c0ntent"),
        lambda t: (t / "d/f").chmod(0o755),
        lambda t: (t / "d").chmod(0o700),
        lambda t: t.chmod(0o700),
        lambda t: (t / "new").mkdir(),
        rename_file,
        relink,
        turn_link_into_file,
    ],
)
def test_a_tree_digest_sees_every_change_of_content(tmp_path: Path, change: Any) -> None:
    tree, same = plain_tree(tmp_path / "a"), plain_tree(tmp_path / "b")
    os.utime(same / "d/f", (1, 1))
    before = tree_digest(tree)
    assert before == tree_digest(same)
    change(tree)
    assert tree_digest(tree) != before


def test_a_tree_with_a_device_or_pipe_has_no_digest(tmp_path: Path) -> None:
    os.mkfifo(plain_tree(tmp_path / "a") / "pipe")
    with pytest.raises(StoreError, match="neither file, directory nor link"):
        tree_digest(tmp_path / "a")


def test_a_tree_that_is_gone_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="gone cannot be read"):
        tree_digest(tmp_path / "gone")


def test_the_family_of_a_base_is_known() -> None:
    with pytest.raises(ValueError, match="unknown package family 'apk'"):
        family("apk")
