"""Signatures in RPM packages: put there as rpmsign does, judged by rpm, and refused in what nobody should have made."""

import hashlib
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from engine import HOST, inputs
from rpm_mirror import Key, make_key, run
from rpm_packages import built, files, packages

from pipeline.errors import SourceError
from pipeline.rpm.package import add_signature, main_header, signature_of
from pipeline.sandbox import INPUTS, Mount, Sandbox
from pipeline.sandbox.bwrap import Bwrap

LEAD, ENTRY = 96, 16
EDITS: dict[str, Callable[[bytearray], object]] = {}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return make_key(tmp_path_factory.mktemp("g") / "k", "rsa3072")


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rfo-server, which is small and has scriptlets."""
    path = tmp_path_factory.mktemp("unsigned") / "server.rpm"
    shutil.copyfile(next(p for name, p in packages(HOST).items() if name.startswith("rfo-server")), path)
    return path


@pytest.fixture(scope="module")
def by_rpmsign(key: Key, unsigned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("signed") / "server.rpm"
    shutil.copyfile(unsigned, path)
    key.sign_rpm(path)
    return path


@pytest.fixture(scope="module")
def database(key: Key, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An rpm database that trusts the key."""
    folder = tmp_path_factory.mktemp("db")
    (folder / "key").write_bytes(key.public())
    run("rpmkeys", "--dbpath", folder, "--import", folder / "key")
    return folder


def accepted(database: Path, package: Path) -> bool:
    """What rpm says of a package that must be signed."""
    try:
        said = run("rpmkeys", "--dbpath", database, "--define", "_pkgverify_level all", "-Kv", package)
    except AssertionError:
        return False
    return "Header V4 RSA/SHA" in said and said.count("OK") >= 4


def packet(path: Path) -> bytes:
    found = signature_of(path)
    assert found is not None
    return found


def test_the_bytes_are_those_of_rpmsign(unsigned: Path, by_rpmsign: Path, tmp_path: Path) -> None:
    assert signature_of(unsigned) is None
    assert main_header(unsigned) == main_header(by_rpmsign)
    add_signature(unsigned, packet(by_rpmsign), tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == by_rpmsign.read_bytes()


@pytest.mark.parametrize("kind", [".nosrc.rpm", ".noarch.rpm"])
def test_packages_of_every_kind_are_signed_alike(kind: str, key: Key, database: Path, tmp_path: Path) -> None:
    package, theirs, ours = (
        next(p for n, p in files(built()).items() if n.endswith(kind)),
        tmp_path / "a",
        tmp_path / "b",
    )
    shutil.copyfile(package, theirs)
    key.sign_rpm(theirs)
    add_signature(package, packet(theirs), ours)
    assert ours.read_bytes() == theirs.read_bytes()
    assert accepted(database, ours)


def test_the_rpm_of_the_base_accepts_it(by_rpmsign: Path, key: Key, tmp_path: Path) -> None:
    """It has a newer rpm than the host, with another library for OpenPGP."""
    (tmp_path / "key").write_bytes(key.public())
    damaged = bytearray(by_rpmsign.read_bytes())
    damaged[-30] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    roots = inputs().roots
    judge = "rpmkeys --dbpath /build/db --define '_pkgverify_level all' -K"
    script = f"""rpmkeys --dbpath /build/db --import /rfo-in/key && {judge} /rfo-in/good || exit 7
    ! {judge} /rfo-in/damaged && ! {judge} /rfo-in/unsigned"""
    given = {"key": tmp_path / "key", "good": by_rpmsign, "damaged": tmp_path / "damaged"}
    given["unsigned"] = next(p for n, p in packages(HOST).items() if n.startswith("rfo-agent"))
    (tmp_path / "build").mkdir()
    (tmp_path / "out").mkdir()
    sandbox = Sandbox(
        root=roots.path(roots.find("packages", HOST)), command=("sh", "-c", script), build=tmp_path / "build",
        out=tmp_path / "out", mounts=tuple(Mount(path, f"{INPUTS}/{name}") for name, path in given.items()),
    )  # fmt: skip
    with (tmp_path / "log").open("w+b") as log:
        usage = Bwrap().run(sandbox, log, threading.Event())
    assert usage.status == 0, (tmp_path / "log").read_text()


def test_what_is_signed_is_what_gpg_signs(unsigned: Path, key: Key, database: Path, tmp_path: Path) -> None:
    (tmp_path / "header").write_bytes(main_header(unsigned))
    run("gpg", "--homedir", key.home, "--batch", "--digest-algo", "sha256", "--detach-sign", tmp_path / "header")
    add_signature(unsigned, (tmp_path / "header.sig").read_bytes(), tmp_path / "ours")
    assert accepted(database, tmp_path / "ours")
    assert not accepted(database, unsigned)


def test_a_package_without_reserved_space_grows(
    unsigned: Path, by_rpmsign: Path, database: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    data = bytearray(unsigned.read_bytes())
    main = _main(data)
    place, begin = entry(data, 1008), store(data)
    offset = int.from_bytes(data[place + 8 : place + 12], "big")
    count = int.from_bytes(data[LEAD + 8 : LEAD + 12], "big") - 1
    region = struct.pack(">IIiI", 62, 7, offset, 16)
    trailer = struct.pack(">IIiI", 62, 7, -16 * count, 16)
    intro = bytes(data[LEAD : LEAD + 8]) + struct.pack(">II", count, offset + 16)
    header = intro + region + bytes(data[LEAD + 32 : place] + data[begin : begin + offset]) + trailer
    bare.write_bytes(bytes(data[:LEAD]) + header + bytes(-len(header) % 8) + bytes(data[main.start :]))
    add_signature(bare, packet(by_rpmsign), tmp_path / "ours")
    assert (tmp_path / "ours").stat().st_size > bare.stat().st_size
    assert accepted(database, tmp_path / "ours")


def test_a_flipped_byte_anywhere_is_refused(by_rpmsign: Path, database: Path, tmp_path: Path) -> None:
    good = by_rpmsign.read_bytes()
    start = good.index(main_header(by_rpmsign))
    payload = start + len(main_header(by_rpmsign))
    assert accepted(database, by_rpmsign)
    bad = tmp_path / "bad"
    for place in (start + 20, start + 700, payload - 1, payload + 6, len(good) - 30):
        data = bytearray(good)
        data[place] ^= 1
        bad.write_bytes(data)
        assert not accepted(database, bad)
        with pytest.raises(SourceError):
            main_header(bad)
    data = bytearray(good)
    data[good.index(packet(by_rpmsign)) + 200] ^= 1
    bad.write_bytes(data)
    assert not accepted(database, bad)


def edit(change: Callable[[bytearray], object]) -> Callable[[bytearray], object]:
    EDITS[change.__name__.strip("_").replace("_", " ")] = change
    return change


def entry(data: bytearray, tag: int) -> int:
    """Where the index entry of a tag of the signature header stands."""
    count = struct.unpack(">I", data[LEAD + 8 : LEAD + 12])[0]
    places = [LEAD + ENTRY * (1 + n) for n in range(count)]
    return next(p for p in places if struct.unpack(">I", data[p : p + 4])[0] == tag)


def store(data: bytearray) -> int:
    return LEAD + ENTRY * (1 + int.from_bytes(data[LEAD + 8 : LEAD + 12], "big"))


@edit
def _no_lead(data: bytearray) -> None:
    data[0] = 0


@edit
def _nothing(data: bytearray) -> None:
    data.clear()


@edit
def _cut_in_the_lead(data: bytearray) -> None:
    del data[50:]


@edit
def _cut_in_the_intro(data: bytearray) -> None:
    del data[LEAD + 10 :]


@edit
def _cut_in_the_signature_header(data: bytearray) -> None:
    del data[LEAD + 300 :]


@edit
def _cut_in_the_main_header(data: bytearray) -> None:
    del data[store(data) + 4400 :]


@edit
def _cut_in_the_payload(data: bytearray) -> None:
    del data[-1:]


@edit
def _more_after_the_payload(data: bytearray) -> None:
    data += b"x"


@edit
def _a_header_of_gigabytes(data: bytearray) -> None:
    data[LEAD + 12 : LEAD + 16] = b"\xff\xff\xff\xff"


@edit
def _a_header_of_many_entries(data: bytearray) -> None:
    data[LEAD + 8 : LEAD + 12] = b"\x10\x00\x00\x00"


@edit
def _no_entries(data: bytearray) -> None:
    data[LEAD + 8 : LEAD + 12] = bytes(4)


@edit
def _an_unknown_tag(data: bytearray) -> None:
    place = entry(data, 1004)
    data[place : place + 4] = struct.pack(">I", 1005)


@edit
def _a_tag_twice(data: bytearray) -> None:
    place = entry(data, 1007)
    data[place : place + 16] = data[entry(data, 1000) :][:16]


@edit
def _another_type(data: bytearray) -> None:
    place = entry(data, 1000)
    data[place + 4 : place + 8] = struct.pack(">I", 7)


@edit
def _an_offset_outside(data: bytearray) -> None:
    place = entry(data, 269)
    data[place + 8 : place + 12] = struct.pack(">i", 1 << 30)


@edit
def _a_negative_offset(data: bytearray) -> None:
    place = entry(data, 269)
    data[place + 8 : place + 12] = struct.pack(">i", -20)


@edit
def _something_in_the_reserved_space(data: bytearray) -> None:
    data[store(data) + 1000] = 1


@edit
def _something_in_the_padding(data: bytearray) -> None:
    length = int.from_bytes(data[LEAD + 12 : LEAD + 16], "big")
    assert (store(data) + length) % 8, "there is none"
    data[store(data) + length] = 1


@edit
def _another_region(data: bytearray) -> None:
    data[LEAD + ENTRY + 3] = 63


@edit
def _another_trailer(data: bytearray) -> None:
    data[store(data) + int.from_bytes(data[LEAD + 12 : LEAD + 16], "big") - 5] ^= 1


@edit
def _another_digest_of_the_header(data: bytearray) -> None:
    place = data.index(hashlib.sha256(bytes(data[_main(data)])).hexdigest().encode())
    data[place] ^= 1


@edit
def _another_length(data: bytearray) -> None:
    place = entry(data, 1000)
    offset = int.from_bytes(data[place + 8 : place + 12], "big")
    data[store(data) + offset + 3] ^= 1


def _main(data: bytearray) -> slice:
    end = store(data) + int.from_bytes(data[LEAD + 12 : LEAD + 16], "big")
    start = end + -end % 8
    entries, length = struct.unpack(">II", data[start + 8 : start + 16])
    return slice(start, start + 16 + 16 * entries + length)


@pytest.mark.parametrize("name", EDITS)
def test_no_signature_gets_into_what_is_not_as_rpm_writes_it(unsigned: Path, tmp_path: Path, name: str) -> None:
    data = bytearray(unsigned.read_bytes())
    EDITS[name](data)
    bad = tmp_path / "bad.rpm"
    bad.write_bytes(data)
    with pytest.raises(SourceError, match=r"bad\.rpm"):
        add_signature(bad, b"signature", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_only_one_signature_of_a_reasonable_length(unsigned: Path, by_rpmsign: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="signed already"):
        add_signature(by_rpmsign, packet(by_rpmsign), tmp_path / "target")
    for wrong in (b"", bytes(5000)):
        with pytest.raises(SourceError, match="expected 1 to 4096"):
            add_signature(unsigned, wrong, tmp_path / "target")
    assert not (tmp_path / "target").exists()
