"""RPM bases against a mirror in openEuler's layout: lock, fetch, unpack, and everything that must be refused."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from backports import zstd
from rpm_mirror import Key, Server, build, make_key, publish, replace_metadata, run, serve

from pipeline.base import family, mirror, rootfs, rpm
from pipeline.base.assemble import assemble, tree_digest
from pipeline.base.cpio import extract_cpio
from pipeline.base.mirror import Mirror
from pipeline.base.openpgp import Keyring
from pipeline.base.rpmfile import PAYLOAD_DIGEST, check_signature, read_rpm, unpack_rpm
from pipeline.bases import Base, RootRecipe
from pipeline.definitions import Definitions
from pipeline.errors import DefinitionError, NetworkError, SourceError
from pipeline.lock import BaseLock, Package
from pipeline.model import PLATFORMS, Digest

REPOSITORY = Path(__file__).parent.parent


@dataclass
class World:
    root: Path
    """The mirror."""
    key: Key
    other: Key
    ed25519: Key
    unsigned: dict[str, Path]
    """x86_64 packages by name."""

    def packages(self, suite: str = "OS", arch: str = "x86_64") -> dict[str, Path]:
        return {p.name.rsplit("-", 2)[0]: p for p in (self.root / suite / arch / "Packages").iterdir()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    work = tmp_path_factory.mktemp("world")
    # Sockets of gpg's agent need a short path.
    homes = Path(tempfile.mkdtemp(prefix="gpg"))
    try:
        key = make_key(homes / "oe", "rsa2048", subkey=True)
        other, ed25519 = make_key(homes / "other", "ed25519"), make_key(homes / "ed", "ed25519")
        native, foreign = build(work, "x86_64"), build(work, "aarch64")
        update = [p for p in build(work, "x86_64", libs="1.1") if "demo-libs" in p.name]
        unsigned = work / "unsigned"
        shutil.copytree(native[0].parent, unsigned)
        key.sign_rpm(*native, *foreign, *update)
        root = work / "mirror"
        publish(root / "OS" / "x86_64", native, key)
        publish(root / "everything" / "x86_64", native, key, compression="xz")
        publish(root / "update" / "x86_64", update, key)
        publish(root / "OS" / "aarch64", foreign, key)
        yield World(root, key, other, ed25519, {p.name.rsplit("-", 2)[0]: p for p in unsigned.iterdir()})
    finally:
        for home in homes.iterdir():
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
        shutil.rmtree(homes, ignore_errors=True)


@pytest.fixture
def copy(world: World, tmp_path: Path) -> World:
    """A mirror that a test may damage."""
    shutil.copytree(world.root, tmp_path / "mirror")
    return World(tmp_path / "mirror", world.key, world.other, world.ed25519, world.unsigned)


@pytest.fixture
def server(world: World) -> Iterator[Server]:
    with serve(world.root) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "BACKOFF", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def make_base(world: World, *packages: str, keys: tuple[str, ...] = (), rootfs: dict[str, str] | None = None) -> Base:
    recipe = {"packages": packages or ("filesystem", "tool"), "per": "host", "drop": ["usr/share/doc"]}
    return Base.model_validate(
        {
            "name": "demo",
            "family": "rpm",
            "origin": "https://demo.invalid/",
            "keys": keys or (world.key.fingerprint,),
            "key_file": "OS/{rpm_arch}/RPM-GPG-KEY-openEuler",
            "suites": {"amd64": ["OS", "everything", "update"], "arm64": ["OS"]},
            "rootfs": rootfs or {},
            "roots": {"builder": recipe, "sysroot": {"packages": ["demo-libs"], "per": "target"}},
            "compilers": {},
        }
    )


def lock(world: World, base: Base, work: Path, arches: tuple[str, ...] = ("amd64", "arm64")) -> BaseLock:
    return rpm.lock(base, arches, "amd64", origin=str(world.root), work=work)


def fetch_all(base: Base, packages: list[Package], origin: str, work: Path) -> dict[Package, Path]:
    got: dict[Package, Path] = {}
    rpm.fetch(base, packages, origin=origin, work=work, deliver=got.__setitem__)
    return got


def pin(world: World, file: Path, name: str = "tool", version: str = "1:2.0-1.oe2203sp4") -> Package:
    data = file.read_bytes()
    path = file.relative_to(world.root).as_posix()
    return Package("builder", "amd64", name, version, path, len(data), Digest.of_bytes(data))


# --- the whole way -----------------------------------------------------------------------------------------------


def test_locks_fetches_and_assembles_over_http(world: World, server: Server, tmp_path: Path) -> None:
    base = make_base(world)
    locked = family("rpm").lock(base, ["amd64", "arm64"], "amd64", origin=server.url, work=tmp_path / "lock")
    assert BaseLock.parse(locked.render(), "lock") == locked
    assert [(p.root, p.arch, p.name, p.version) for p in locked.packages] == [
        ("builder", "amd64", "demo-libs", "1.1-1.oe2203sp4"),
        ("builder", "amd64", "filesystem", "3.16-1.oe2203sp4"),
        ("builder", "amd64", "tool", "1:2.0-1.oe2203sp4"),
        ("sysroot", "amd64", "demo-libs", "1.1-1.oe2203sp4"),
        ("sysroot", "arm64", "demo-libs", "1.0-1.oe2203sp4"),
    ]
    assert locked.packages[0].path == "update/x86_64/Packages/demo-libs-1.1-1.oe2203sp4.x86_64.rpm"
    assert locked.packages[2].path == "OS/x86_64/Packages/tool-2.0-1.oe2203sp4.x86_64.rpm"
    assert [(s.arch, s.name, s.date) for s in locked.suites] == [
        ("amd64", "OS", "2023-11-14T22:13:20Z"),
        ("amd64", "everything", "2023-11-14T22:13:20Z"),
        ("amd64", "update", "2023-11-14T22:13:20Z"),
        ("arm64", "OS", "2023-11-14T22:13:20Z"),
    ]
    repomd = world.root / "OS/x86_64/repodata/repomd.xml"
    assert locked.suites[0].digest == Digest.of_file(repomd)

    files = fetch_all(base, list(locked.packages), server.url, tmp_path / "fetch")
    by_digest = {p.digest: f for p, f in files.items()}
    assert {d: Digest.of_file(f) for d, f in by_digest.items()} == {p.digest: p.digest for p in locked.packages}
    assert len(files) == len(by_digest) == 4, "a file that is in two roots is fetched once"
    roots = []
    for number, umask in enumerate((0o022, 0o077)):
        before = os.umask(umask)
        try:
            place = tmp_path / f"root{number}"
            assemble(
                base, base.roots["builder"], locked.root("builder", "amd64"),
                files=lambda p: by_digest[p.digest], root=place, platform=PLATFORMS["amd64"],
            )  # fmt: skip
        finally:
            os.umask(before)
        roots.append(place)
    assert tree_digest(roots[0]) == tree_digest(roots[1])
    assert subprocess.check_output([roots[0] / "bin/tool"]) == b"tool\n"
    assert not (roots[0] / "etc/weak").exists(), "weak dependencies are left out"
    assert not (roots[0] / "usr/share/doc/tool").exists(), "drop is honoured"


def test_locks_the_same_text_twice(world: World, tmp_path: Path) -> None:
    base = make_base(world)
    assert lock(world, base, tmp_path / "a").render() == lock(world, base, tmp_path / "b").render()


def test_unpacked_files_are_what_rpm_says(world: World, tmp_path: Path) -> None:
    for name, file in world.packages().items():
        root = tmp_path / name
        root.mkdir()
        rpm.unpack(file, root, name, ())
        format_ = r"[%{FILEMODES:octal} %{FILENAMES} %{FILEDIGESTS} %{FILELINKTOS}\n]"
        listed = run("rpm", "-qp", "--nosignature", "--dbpath", tmp_path / "db", "--qf", format_, file)
        expected = [line.split(" ") for line in listed.splitlines() if line and "(none)" not in line]
        for mode, path, digest, link in expected:
            found = root / path.lstrip("/")
            status = found.lstat()
            assert stat.S_IFMT(status.st_mode) == stat.S_IFMT(int(mode, 8))
            if link:
                assert str(found.readlink()) == link
                continue
            assert stat.S_IMODE(status.st_mode) == int(mode, 8) & 0o777
            if digest:
                assert hashlib.sha256(found.read_bytes()).hexdigest() == digest
    tool = tmp_path / "tool" / "usr/bin/tool"
    assert tool.samefile(tool.with_name("tool-hard"))
    assert (tmp_path / "tool/etc/empty1").samefile(tmp_path / "tool/etc/empty2")
    assert stat.S_IMODE(tool.stat().st_mode) == 0o755, "set-id bits are dropped"


@pytest.mark.parametrize("payload", ["w3.zstdio", "w9.gzdio", "w9.bzdio"])
def test_unpacks_every_payload_compressor(world: World, tmp_path: Path, payload: str) -> None:
    file = next(p for p in build(tmp_path, "x86_64", payload=payload) if p.name.startswith("demo-libs"))
    root = tmp_path / "root"
    root.mkdir()
    rpm.unpack(file, root, "demo-libs", ())
    assert (root / "usr/lib64/libdemo.so").read_bytes() == b"".join(b"%d\n" % n for n in range(1, 20001))


def test_loads_file_lists_when_a_path_is_required(world: World, tmp_path: Path) -> None:
    locked = lock(world, make_base(world, "demo-wants-file"), tmp_path, ("amd64",))
    assert [p.name for p in locked.root("builder", "amd64")] == ["demo-data", "demo-wants-file"]


def test_asks_for_what_a_package_provides(world: World, tmp_path: Path) -> None:
    locked = lock(world, make_base(world, "libdemo.so()(64bit)"), tmp_path, ("amd64",))
    assert [p.name for p in locked.root("builder", "amd64")] == ["demo-libs"]


@pytest.mark.parametrize("suffix", [".zst", ".bz2", ""])
def test_reads_every_metadata_compression(copy: World, tmp_path: Path, suffix: str) -> None:
    ways: dict[str, Callable[[bytes], bytes]] = {".zst": zstd.compress, ".bz2": bz2.compress, "": bytes}
    replace_metadata(copy.root / "OS/aarch64", copy.key, primary(copy), suffix, ways[suffix])
    locked = lock(copy, make_base(copy), tmp_path / "w")
    assert [p.version for p in locked.root("sysroot", "arm64")] == ["1.0-1.oe2203sp4"]


def test_accepts_eddsa_signatures(copy: World, tmp_path: Path) -> None:
    file = copy.root / "OS/x86_64/Packages/signed.rpm"
    shutil.copy(copy.unsigned["tool"], file)
    copy.ed25519.sign_rpm(file)
    keys = Keyring.load(copy.ed25519.public(), (copy.ed25519.fingerprint,), "key")
    with file.open("rb") as opened:
        assert check_signature(read_rpm(opened, "tool"), keys, "tool") == copy.ed25519.fingerprint


# --- metadata that must be refused -------------------------------------------------------------------------------


def primary(world: World, suite: str = "OS/aarch64") -> bytes:
    return gzip.decompress(next((world.root / suite / "repodata").glob("*-primary.xml.gz")).read_bytes())


def edit_repomd(world: World) -> None:
    file = world.root / "OS/x86_64/repodata/repomd.xml"
    file.write_text(file.read_text().replace("<revision>17", "<revision>18"))


def remove_signature(world: World) -> None:
    (world.root / "OS/x86_64/repodata/repomd.xml.asc").unlink()


def sign_with_other(world: World) -> None:
    world.other.sign(world.root / "OS/x86_64/repodata/repomd.xml")


def sign_with_sha1(world: World) -> None:
    world.key.sign(world.root / "OS/x86_64/repodata/repomd.xml", "--digest-algo", "SHA1", "--weak-digest", "MD5")


def serve_other_key(world: World) -> None:
    (world.root / "OS/x86_64/RPM-GPG-KEY-openEuler").write_bytes(world.other.public())


def serve_no_key(world: World) -> None:
    (world.root / "OS/x86_64/RPM-GPG-KEY-openEuler").write_bytes(b"<html>moved</html>")


def edit_primary(world: World) -> None:
    file = next((world.root / "OS/x86_64/repodata").glob("*-primary.xml.gz"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def extend_primary(world: World) -> None:
    file = next((world.root / "OS/x86_64/repodata").glob("*-primary.xml.gz"))
    file.write_bytes(file.read_bytes() + b"\0")


def other_primary(old: bytes, new: bytes) -> Callable[[World], None]:
    def change(world: World) -> None:
        plain = primary(world, "OS/x86_64").replace(old, new)
        replace_metadata(world.root / "OS/x86_64", world.key, plain, "", bytes)

    return change


BOMB = b"""<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><metadata"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit_repomd, "did not sign these bytes"),
        (remove_signature, "is not signed"),
        (sign_with_other, "which is not a key of"),
        (sign_with_sha1, "SHA1, which no longer counts"),
        (serve_other_key, "none of its keys is one that the base names"),
        (serve_no_key, "not an OpenPGP key file"),
        (edit_primary, "expected sha256:"),
        (extend_primary, "larger than the expected"),
        (other_primary(b"<metadata", BOMB), "document type, entities"),
        (other_primary(b"UTF-8", b"UTF-16"), "says UTF-8"),
        (other_primary(b"</metadata>", b""), "malformed primary"),
        (other_primary(b'location href="Packages', b'location href="../../../Packages'), "expected a plain path"),
        (other_primary(b"<location ", b'<location xml:base="http://x.invalid/" '), "expected a plain path"),
        (other_primary(b'type="sha256"', b'type="sha512"'), "malformed primary"),
        (other_primary(b"checksum", b"ignored"), "does not name its SHA-256"),
        (other_primary(b'ver="2.0"', b'ver="2.0 x"'), "cannot be a pin"),
    ],
)  # fmt: skip
def test_refuses_metadata(copy: World, tmp_path: Path, change: Callable[[World], None], message: str) -> None:
    change(copy)
    with pytest.raises((SourceError, DefinitionError), match=message):
        lock(copy, make_base(copy, "tool"), tmp_path / "work")


def test_refuses_a_repomd_that_expands(copy: World, tmp_path: Path) -> None:
    file = copy.root / "OS/x86_64/repodata/repomd.xml"
    file.write_bytes(file.read_bytes().replace(b"<repomd", b'<!DOCTYPE x [<!ENTITY a "b">]><repomd'))
    copy.key.sign(file)
    with pytest.raises(SourceError, match="document type, entities"):
        lock(copy, make_base(copy), tmp_path / "work")


def test_names_what_cannot_be_resolved(world: World, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nothing provides no-such-thing >= 9 needed by demo-broken"):
        lock(world, make_base(world, "demo-broken"), tmp_path)
    with pytest.raises(DefinitionError, match="no package is called no-such-package"):
        lock(world, make_base(world, "tool", "no-such-package"), tmp_path)


def test_a_target_that_lacks_a_package_is_missing(copy: World, tmp_path: Path) -> None:
    plain = primary(copy).replace(b"demo-libs", b"demo-gone")
    replace_metadata(copy.root / "OS/aarch64", copy.key, plain, "", bytes)
    locked = lock(copy, make_base(copy), tmp_path / "work")
    assert "no package is called demo-libs" in dict(locked.missing)["arm64"]


def test_a_target_that_cannot_be_resolved_is_missing(copy: World, tmp_path: Path) -> None:
    plain = primary(copy).replace(b"libdemo.so()(64bit)", b"x").replace(b"<rpm:provides>", b"""<rpm:requires>
        <rpm:entry name="gone"/></rpm:requires><rpm:provides>""")  # fmt: skip
    replace_metadata(copy.root / "OS/aarch64", copy.key, plain, "", bytes)
    locked = lock(copy, make_base(copy), tmp_path / "work")
    assert not locked.root("sysroot", "arm64")
    assert "gone" in dict(locked.missing)["arm64"]
    assert locked.root("sysroot", "amd64")


def test_riscv64_is_unsupported_on_22_03(tmp_path: Path) -> None:
    definitions = Definitions(REPOSITORY)
    with pytest.raises(DefinitionError, match=r"openeuler-22\.03-lts-sp4: unsupported architecture riscv64"):
        rpm.lock(definitions.base("openeuler-22.03-lts-sp4"), ["riscv64"], "amd64", origin="/nowhere", work=tmp_path)
    assert set(definitions.base("openeuler-24.03-lts-sp1").suites) == {"amd64", "arm64", "riscv64"}


# --- packages that must be refused -------------------------------------------------------------------------------


def flip(position: Callable[[bytes, int, int], int]) -> Callable[[World, Path], None]:
    """Flip a bit at a place that is computed from (data, start of the main header, start of the payload)."""

    def change(world: World, file: Path) -> None:
        data = bytearray(file.read_bytes())
        with file.open("rb") as opened:
            parsed = read_rpm(opened, "x")
        data[position(bytes(data), parsed.payload - len(parsed.header.raw), parsed.payload)] ^= 1
        file.write_bytes(data)

    return change


def put_unsigned(world: World, file: Path) -> None:
    shutil.copy(world.unsigned["tool"], file)


def put_signed_by_other(world: World, file: Path) -> None:
    shutil.copy(world.unsigned["tool"], file)
    world.other.sign_rpm(file)


def put_other_package(world: World, file: Path) -> None:
    shutil.copy(world.packages()["demo-weak"], file)


def put_text(world: World, file: Path) -> None:
    file.write_bytes(b"not found")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put_unsigned, "the package is not signed"),
        (put_signed_by_other, "which is not a key of"),
        (put_other_package, "expected tool 1:2.0-1.oe2203sp4, found demo-weak"),
        (put_text, "malformed RPM package"),
        (flip(lambda _, header, __: header + 600), "SHA-256 of the header|malformed"),
        (flip(lambda _, __, payload: payload + 100), "SHA-256 of the payload"),
        (flip(lambda data, *_: len(data) - 1), "SHA-256 of the payload"),
        (flip(lambda data, *_: data.index(b"\x89\x01")), "refused|malformed|not an OpenPGP"),
        (lambda _, file: file.write_bytes(file.read_bytes()[:-3]), "cut off or extended"),
        (lambda _, file: file.write_bytes(file.read_bytes() + b"x"), "cut off or extended"),
        (lambda _, file: file.write_bytes(file.read_bytes()[:3000]), "malformed"),
    ],
)
def test_refuses_a_package_before_it_is_delivered(
    copy: World, tmp_path: Path, change: Callable[[World, Path], None], message: str
) -> None:
    file = copy.packages()["tool"]
    change(copy, file)
    if change is not put_other_package:
        keys = tmp_path / "keys"
        (tmp_path / "key.asc").write_bytes(copy.key.public())
        run("rpmkeys", "--dbpath", keys, "--import", tmp_path / "key.asc")
        check = ["rpmkeys", "--dbpath", str(keys), "--define", "_pkgverify_level all", "-K", str(file)]
        assert subprocess.run(check, capture_output=True, check=False).returncode, "rpm itself refuses it"
    delivered: list[Package] = []
    with pytest.raises(SourceError, match=message):
        rpm.fetch(
            make_base(copy), [pin(copy, file)], origin=str(copy.root), work=tmp_path / "w",
            deliver=lambda package, _: delivered.append(package),
        )  # fmt: skip
    assert not delivered


def test_delivers_the_good_packages_and_names_the_others(copy: World, tmp_path: Path) -> None:
    good = pin(copy, copy.packages()["tool"])
    bad, gone = (pin(copy, copy.packages()[n], n, "3.16-1.oe2203sp4") for n in ("demo-weak", "demo-data"))
    (copy.root / bad.path).write_bytes(b"x" * bad.size)
    (copy.root / gone.path).unlink()
    got: dict[Package, Path] = {}
    with pytest.raises(SourceError) as caught:
        rpm.fetch(make_base(copy), [bad, gone, good], origin=str(copy.root), work=tmp_path, deliver=got.__setitem__)
    assert list(got) == [good]
    assert "2 of 3 packages" in caught.value.reason
    assert "demo-weak" in caught.value.reason and "demo-data" in caught.value.reason
    assert "--update" in caught.value.hint


def test_refuses_a_plain_http_origin_in_a_definition(world: World, tmp_path: Path) -> None:
    base = make_base(world).model_copy(update={"origin": "http://127.0.0.1:9/"})
    with pytest.raises(DefinitionError, match="expected an https:// URL"):
        rpm.lock(base, ["amd64"], "amd64", origin=None, work=tmp_path)


def test_damaged_signatures_are_refused_with_a_reason(world: World, tmp_path: Path) -> None:
    """Sequoia raises for algorithms that it does not know, also when it is only asked for their name."""
    keys = Keyring.load(world.key.public(), (world.key.fingerprint,), "key")
    with world.packages()["tool"].open("rb") as file:
        package = read_rpm(file, "tool")
    for position in range(len(package.signatures[0])):
        damaged = bytearray(package.signatures[0])
        damaged[position] ^= 0x85
        try:
            keys.verify(package.header.raw, bytes(damaged), "tool")
        except SourceError as error:
            assert "\n" not in error.reason, "no stack trace reaches a user"
        else:
            # Only the part of a signature that is not signed itself (a hint at its issuer) may change.
            assert position > 40


def test_says_that_a_key_is_too_weak() -> None:
    home = Path(tempfile.mkdtemp(prefix="gpg"))
    try:
        old = make_key(home / "old", "rsa2048", "--cert-digest-algo", "SHA1")
        (home / "data").write_bytes(b"data")
        old.sign(home / "data")
        keys = Keyring.load(old.public(), (old.fingerprint,), "key")
        with pytest.raises(SourceError, match="bound to its certificate with SHA1"):
            keys.verify(b"data", (home / "data.asc").read_bytes(), "data")
    finally:
        subprocess.run(["gpgconf", "--homedir", home / "old", "--kill", "all"], check=False)
        shutil.rmtree(home, ignore_errors=True)  # agents take their sockets away meanwhile


# --- servers -----------------------------------------------------------------------------------------------------


def read_key(server: Server, *faults: int | str) -> bytes:
    server.faults["KEY-openEuler"] = list(faults)
    with Mirror(server.url) as opened:
        return opened.read("OS/x86_64/RPM-GPG-KEY-openEuler", limit=1 << 16)


@pytest.mark.parametrize("faults", [(429, 503), (500, 502, 504), ("cut",)])
def test_tries_again_what_may_pass(world: World, server: Server, faults: tuple[int | str, ...]) -> None:
    assert read_key(server, *faults) == world.key.public()
    assert len(server.requests) == len(faults) + 1


@pytest.mark.parametrize(("status", "requests"), [(403, 1), (404, 1), (410, 1), (429, 4), (500, 4)])
def test_gives_up_and_names_the_url(server: Server, status: int, requests: int) -> None:
    with pytest.raises(NetworkError, match=f"OS/x86_64/RPM-GPG-KEY-openEuler: .*{status}"):
        read_key(server, *[status] * 9)
    assert len(server.requests) == requests


def test_gives_up_on_a_server_that_always_cuts(server: Server) -> None:
    with pytest.raises(NetworkError, match="the connection broke"):
        read_key(server, *["cut"] * 9)


def test_a_closed_port_is_a_network_error() -> None:
    with Mirror("http://user:secret@127.0.0.1:9/") as opened, pytest.raises(NetworkError) as caught:
        opened.read("x", limit=9)
    assert "cannot be reached" in caught.value.reason
    assert "secret" not in caught.value.reason


@pytest.mark.parametrize("fault", ["cut", "ignore-range"])
def test_resumes_a_package(world: World, server: Server, tmp_path: Path, fault: str) -> None:
    file = world.packages()["demo-libs"]
    package = pin(world, file, "demo-libs", "1.0-1.oe2203sp4")
    server.faults[".rpm"] = ["cut", fault]
    assert fetch_all(make_base(world), [package], server.url, tmp_path)[package].read_bytes() == file.read_bytes()
    ranges = [asked for path, asked in server.requests if path.endswith(".rpm")]
    assert ranges[0] == ""
    assert ranges[1] == f"bytes={package.size // 2}-"


def test_a_damaged_part_of_an_earlier_run_does_no_harm(world: World, server: Server, tmp_path: Path) -> None:
    package = pin(world, world.packages()["tool"])
    (tmp_path / f"{package.digest.hex}.part").write_bytes(b"rubbish")
    assert fetch_all(make_base(world), [package], server.url, tmp_path)


def test_limits_what_is_read(server: Server) -> None:
    with Mirror(server.url) as opened, pytest.raises(SourceError, match="larger than 100 bytes"):
        opened.read("OS/x86_64/RPM-GPG-KEY-openEuler", limit=100)


# --- cpio --------------------------------------------------------------------------------------------------------


def member(name: str, mode: int, data: bytes = b"", *, inode: int = 1, links: int = 1) -> bytes:
    fields = [inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08x" % f for f in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


FILE, LINK, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755
END = member("TRAILER!!!", 0)


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (member("../evil", FILE, b"x") + END, "leaves its root"),
        (member("./a/../../evil", FILE, b"x") + END, "leaves its root"),
        (member("/etc/evil", FILE, b"x") + END, "absolute path"),
        (member("a", LINK, b"../../etc") + END, "leaves the root"),
        (member("a", LINK, b"x\0y") + END, "zero byte"),
        (member("a", FILE, b"x") + member("a", FILE, b"y") + END, "twice"),
        (
            member("d", DIRECTORY) + member("l", LINK, b"d") + member("d/f", FILE, b"1") + member("l/f", FILE, b"2"),
            "twice",
        ),
        (member("a", FILE, b"x") + member("a/b", FILE, b"y") + END, "below a file"),
        (member("d", DIRECTORY) + member("d", FILE, b"x") + END, "twice"),
        (member("dev/null", stat.S_IFCHR | 0o666) + END, "device"),
        (member("pipe", stat.S_IFIFO | 0o666) + END, "device"),
        (member("a", FILE, b"x")[:-2], "ends too early"),
        (member("a", FILE, b"x"), "ends too early"),
        (member("a", FILE, b"x" * 2000) + END, "decompression bomb"),
        (END + b"more", "data follows"),
        (b"070707" + bytes(200), "not a cpio archive"),
        (b"07070X" + bytes(200), "over 4 GiB"),
        (b"070701" + b"zz" * 52 + bytes(9), "malformed cpio header"),
        (member("a" * 5000, FILE) + END, "name has 5001 bytes"),
        (member("a" * 256, FILE) + END, "more than 255 bytes"),
    ],
)
def test_refuses_a_cpio_archive(tmp_path: Path, archive: bytes, message: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(SourceError, match=message):
        extract_cpio(io.BytesIO(archive), root, what="demo", max_bytes=1000)
    assert not (tmp_path / "evil").exists()


def test_links_cannot_lead_outside(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir(mode=0o755)
    root.mkdir()
    archive = member("l", LINK, str(outside).encode()) + member("l/f", FILE, b"x") + member("l/.", DIRECTORY | 0o777)
    with pytest.raises(SourceError, match="twice"):
        extract_cpio(io.BytesIO(archive + END), root, what="demo")
    assert not list(outside.iterdir())
    assert (root / outside.relative_to("/") / "f").read_bytes() == b"x"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755


def test_dropped_hard_links_do_not_take_the_content_with_them(tmp_path: Path) -> None:
    archive = member("keep", FILE, inode=7, links=2) + member("doc/x", FILE, b"content", inode=7, links=2) + END
    assert extract_cpio(io.BytesIO(archive), tmp_path, what="demo", drop=["doc"]) == 7
    assert (tmp_path / "keep").read_bytes() == b"content"
    assert not (tmp_path / "doc").exists()


def with_payload(package: bytes, payload: bytes) -> bytes:
    """A package with another payload and fitting digests (its signature no longer fits)."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(package)
        file.flush()
        with Path(file.name).open("rb") as opened:
            parsed = read_rpm(opened, "x")
    old = parsed.header.text(PAYLOAD_DIGEST).encode()
    header = parsed.header.raw.replace(old, hashlib.sha256(payload).hexdigest().encode(), 1)
    start = parsed.payload - len(parsed.header.raw)
    front = package[:start].replace(
        hashlib.sha256(parsed.header.raw).hexdigest().encode(), hashlib.sha256(header).hexdigest().encode()
    )
    size = struct.pack(">I", len(package) - start)
    assert front.count(size) == 1
    return front.replace(size, struct.pack(">I", len(header) + len(payload))) + header + payload


def test_a_package_cannot_write_outside(world: World, tmp_path: Path) -> None:
    payload = lzma.compress(member("./../evil", FILE, b"x") + END)
    (tmp_path / "evil.rpm").write_bytes(with_payload(world.packages()["tool"].read_bytes(), payload))
    (tmp_path / "root").mkdir()
    with pytest.raises(SourceError, match=r"evil\.rpm: path '\./\.\./evil' leaves its root"):
        unpack_rpm(tmp_path / "evil.rpm", tmp_path / "root", "evil.rpm", ())
    assert not (tmp_path / "evil").exists()


def test_a_payload_cannot_be_a_bomb(world: World, tmp_path: Path) -> None:
    payload = lzma.compress(member("zeros", FILE, bytes(4 << 20)) + END)
    (tmp_path / "bomb.rpm").write_bytes(with_payload(world.packages()["tool"].read_bytes(), payload))
    with pytest.raises(SourceError, match="decompression bomb"):
        unpack_rpm(tmp_path / "bomb.rpm", tmp_path, "bomb.rpm", (), max_bytes=1 << 20)


# --- the official root file system -------------------------------------------------------------------------------


def tar_of(members: dict[str, bytes | str]) -> bytes:
    """Files (bytes) and symbolic links (text)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


ROOTFS = "docker_img/x86_64/openEuler-docker.x86_64.tar.xz"


def docker_save(*layers: dict[str, bytes | str]) -> bytes:
    names = [f"{number:064x}/layer.tar" for number, _ in enumerate(layers)]
    manifest = [{"Config": "c.json", "RepoTags": ["openeuler:22.03"], "Layers": names}]
    parts: dict[str, bytes | str] = {name: tar_of(layer) for name, layer in zip(names, layers, strict=True)}
    return lzma.compress(tar_of(parts | {"c.json": b"{}", "manifest.json": json.dumps(manifest).encode()}))


def put_rootfs(world: World, archive: bytes, *, sums: str | None = None) -> Base:
    file = world.root / ROOTFS
    file.parent.mkdir(parents=True)
    file.write_bytes(archive)
    line = f"{hashlib.sha256(archive).hexdigest()}  {file.name}\n"
    (world.root / f"{ROOTFS}.sha256sum").write_text(line if sums is None else sums)
    return make_base(world, rootfs={"amd64": ROOTFS})


def test_a_root_file_system_is_locked_fetched_and_unpacked(copy: World, tmp_path: Path) -> None:
    archive = docker_save({"usr/bin/bash": b"#!", "bin": "usr/bin", "dev/x": b"", "etc/doc/y": b""})
    base = put_rootfs(copy, archive)
    locked = lock(copy, base, tmp_path / "lock")
    assert BaseLock.parse(locked.render(), "lock") == locked
    (package,) = locked.root(rootfs.ROLE, "amd64")
    assert (package.path, package.size, package.digest) == (ROOTFS, len(archive), Digest.of_bytes(archive))
    files = fetch_all(base, [package], str(copy.root), tmp_path / "fetch")
    root = tmp_path / "root"
    root.mkdir()
    rpm.unpack(files[package], root, "rootfs", ["etc/doc"])
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir()) == ["usr/bin/bash"]
    assert (root / "bin").is_symlink()
    assert not (root / "dev").exists()


@pytest.mark.parametrize("sums", ["0" * 64 + "  openEuler-docker.x86_64.tar.xz\n", "0" * 64 + "  other.tar.xz\n", ""])
def test_refuses_a_root_file_system_whose_sum_differs(copy: World, tmp_path: Path, sums: str) -> None:
    base = put_rootfs(copy, docker_save({"a": b"b"}), sums=sums)
    with pytest.raises(SourceError, match="expected"):
        lock(copy, base, tmp_path / "work")


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (docker_save({"a": b"1"}, {"b": b"2"}), "expected exactly one layer, found 2"),
        (docker_save(), "expected exactly one layer, found 0"),
        (docker_save({"a": "../../outside"}), "leaves the root"),
        (docker_save({"../evil": b"1"}), "leaves its root"),
        (docker_save({"etc/.wh.passwd": b""}), "holds the whiteout"),
        (lzma.compress(tar_of({"etc/passwd": b"a plain root file system"})), "manifest.json is not in the archive"),
        (lzma.compress(tar_of({"manifest.json": b"[[]]"})), "does not describe one image"),
        (lzma.compress(tar_of({"manifest.json": b"no json"})), "not a readable docker-save archive"),
        (lzma.compress(tar_of({"manifest.json": b'[{"Layers": ["../x"]}]'})), "leaves its root"),
        (docker_save({"a": b"1"})[:-40], "ends too early|damaged"),
        (b"neither xz nor anything else", "damaged"),
    ],
)
def test_refuses_a_root_file_system(tmp_path: Path, archive: bytes, message: str) -> None:
    file, root = tmp_path / "archive", tmp_path / "root"
    file.write_bytes(archive)
    root.mkdir()
    with pytest.raises(SourceError, match=message):
        rootfs.unpack_rootfs(file, root, "rootfs")
    assert not (tmp_path / "evil").exists()


def test_the_bases_ask_for_what_openeuler_needs() -> None:
    """Roles that the pipeline uses exist, and links stand where a script would have made them."""
    for name in ("openeuler-22.03-lts-sp4", "openeuler-24.03-lts-sp1"):
        base = Definitions(REPOSITORY).base(name)
        roots: dict[str, RootRecipe] = {str(k): v for k, v in base.roots.items()}
        assert base.family == "rpm" and not base.floating
        assert roots["builder"].per == "host" and roots["sysroot"].per == "target"
        assert {"gcc", "glibc-static", "libseccomp-static", "rpm-build"} <= set(roots["builder"].packages)
