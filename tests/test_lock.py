"""Locks: equal text for equal locks, and no line that is taken for something it is not."""

from pathlib import Path

import pytest
from conftest import GO_SUM, VERSION, Checkout

from pipeline.baselocks import have_base_lock, read_base_lock
from pipeline.context import CHECKOUT
from pipeline.errors import DefinitionError, NetworkError, SourceError
from pipeline.lock import (
    BaseLock,
    MainModule,
    Package,
    Snapshot,
    SourcesLock,
    Suite,
    Toolchain,
    lock_text,
    write_atomically,
)
from pipeline.locking import LockedSources, Overlay, describe_change, read_sources, write_sources
from pipeline.model import Digest, Module
from pipeline.report.progress import Progress
from pipeline.store import Store
from pipeline.units import lock_subject, units_of

D = Digest.of_bytes(b"")
TIME = "2022-11-18T00:00:00Z"
A = Module("a.b/c", "v1.0.0", GO_SUM)
B = Module("a.b/d", "v1.0.0+incompatible", GO_SUM)


def sources_lock() -> SourcesLock:
    lock = SourcesLock(VERSION, D)
    lock.mains["tool"] = MainModule("tool", A, TIME)
    lock.modules.update({B: frozenset({"tool", "other"}), A: frozenset({"other"})})
    lock.toolchains["1.20.14"] = Toolchain("1.20.14", "amd64", GO_SUM)
    lock.snapshots["runc"] = Snapshot("runc", "git", ("https://a.b/c", "v1", "0" * 40), 5, D, TIME)
    return lock


def base_lock(**changes: str) -> BaseLock:
    facts = {"root": "builder", "arch": "amd64", "name": "sh", "version": "1:2-3", "path": "pool/s/sh.deb", **changes}
    packages = (Package(**facts, size=7, digest=D), Package("sysroot", "amd64", "libc", "2", "pool/libc.deb", 9, D))
    return BaseLock("tiny", packages, (Suite("amd64", "stable", TIME, D),), definition=D)


def test_a_sources_lock_is_read_as_it_was_written() -> None:
    text = sources_lock().render()
    assert SourcesLock.parse(text, "here") == sources_lock()
    assert SourcesLock.parse(text, "here").render() == text
    assert text.splitlines()[1:] == sorted(text.splitlines()[1:])


def test_a_base_lock_is_read_as_it_was_written() -> None:
    text = base_lock().render()
    assert BaseLock.parse(text, "here") == base_lock()
    assert BaseLock.parse(text, "here").render() == text
    assert base_lock().root("builder", "amd64")[0].name == "sh"
    assert base_lock().root("builder", "arm64") == ()


def test_equal_locks_have_equal_text() -> None:
    lock = base_lock()
    assert BaseLock("tiny", lock.packages[::-1], lock.suites, definition=D).render() == lock.render()


@pytest.mark.parametrize("path", sorted(CHECKOUT.glob("releases/*/sources.lock")), ids=lambda p: p.parent.name)
def test_every_committed_lock_is_canonical(path: Path) -> None:
    text = path.read_text()
    assert SourcesLock.parse(text, str(path)).render() == text


def test_comments_and_blank_lines_are_allowed() -> None:
    text = "# reviewed\n\n" + sources_lock().render()
    assert SourcesLock.parse(text, "here") == sources_lock()


SHA = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    "line",
    [
        "main",
        "unknown x",
        f"main tool a.b/c v2.0.0 {GO_SUM} {TIME}",
        f"main new ../c v1.0.0 {GO_SUM} {TIME}",
        f"main new a.b/c v1.0.0 {GO_SUM} yesterday",
        f"main new a.b/c v1.0.0 {GO_SUM} 2022-11-18T00:00:00",
        f"main new a.b/c v1.0.0 h1:x {TIME}",
        f"main  new a.b/c v1.0.0 {GO_SUM} {TIME}",
        f"module a.b/c v1.0.0 {GO_SUM} someone",
        f"module a.b/e v1.0.0 {GO_SUM}",
        f"module a.b/e v1.0.0 {GO_SUM} x ",
        f"toolchain go 1.20.14 arm64 {GO_SUM}",
        f"toolchain rust 1.20.14 arm64 {GO_SUM}",
        f"release {VERSION} {SHA}",
        f"git new https://a.b/c v1 {'0' * 40} 05 {SHA} {TIME}",
        f"git new https://a.b/c v1 5 {SHA} {TIME}",
        f"archive new https://a.b/c x -5 {SHA} {TIME}",
        f"archive new https://a.b/c x 5 sha1:x {TIME}",
        f"main new a.b/c v1.0.0 {GO_SUM} {TIME}\r",
    ],
)
def test_a_malformed_line_of_a_sources_lock_is_refused(line: str) -> None:
    with pytest.raises(DefinitionError, match=r"^here: line 7 is not a pin"):
        SourcesLock.parse(sources_lock().render() + line + "\n", "here")


@pytest.mark.parametrize(
    "line",
    [
        "base tiny",
        f"package builder amd64 sh 1 ../sh.deb 7 {SHA}",
        f"package builder amd64 sh 1 /sh.deb 7 {SHA}",
        f"package builder amd64 sh 1 a b.deb 7 {SHA}",
        f"package builder amd64 sh 1 sh.deb seven {SHA}",
        f"package builder amd64 sh 1 sh.deb -7 {SHA}",
        f"package builder amd64 sh 1 sh.deb \u0667 {SHA}",
        "package builder amd64 sh 1 sh.deb 7 md5:abc",
        f"suite amd64 stable {SHA}",
    ],
)
def test_a_malformed_line_of_a_base_lock_is_refused(line: str) -> None:
    with pytest.raises(DefinitionError, match=r"^here: line 5 is not a pin"):
        BaseLock.parse(base_lock().render() + line + "\n", "here")


def test_a_line_that_stands_twice_is_refused() -> None:
    for lock in (sources_lock(), base_lock()):
        text = lock.render()
        with pytest.raises(DefinitionError, match="stands twice"):
            type(lock).parse(text + text.splitlines()[-1] + "\n", "here")


def test_a_lock_without_its_first_line_is_refused() -> None:
    for lock in (sources_lock(), base_lock()):
        with pytest.raises(DefinitionError, match=r"is missing|is not a pin"):
            type(lock).parse("".join(lock.render().splitlines(keepends=True)[1:]), "here")
        with pytest.raises(DefinitionError, match="is missing"):
            type(lock).parse("", "here")


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "pool/a b.deb"},
        {"version": "1\u20282"},
        {"name": ""},
        {"path": f"x 7 {SHA}\npackage builder amd64 evil 1 evil.deb"},
    ],
)
def test_what_would_not_be_read_back_is_not_written(changes: dict[str, str]) -> None:
    if changes.get("version"):  # other line ends than \n end no line
        assert BaseLock.parse(lock_text(base_lock(**changes)).decode(), "here") == base_lock(**changes)
        return
    with pytest.raises(SourceError, match="cannot be locked"):
        lock_text(base_lock(**changes))


def test_a_change_is_described_line_by_line() -> None:
    new = sources_lock()
    new.mains["tool"] = MainModule("tool", B, TIME)
    lines = describe_change(sources_lock(), new)
    assert [line[:11] for line in lines] == ["- main tool", "+ main tool"]


def test_a_lock_of_another_definition_is_refused(checkout: Checkout) -> None:
    checkout.lock("amd64")
    release = checkout.definitions.release(VERSION)
    units = units_of(release, checkout.definitions)
    assert read_sources(checkout.definitions, release, units) is not None
    checkout.release["toolchains"] = {"go": "1.21.0"}
    checkout.write()
    release = checkout.definitions.release(VERSION)
    with pytest.raises(DefinitionError, match="does not match its definition") as caught:
        read_sources(checkout.definitions, release, units_of(release, checkout.definitions))
    assert caught.value.hint.endswith(f"./inv lock --version {VERSION} --update")


def test_a_missing_lock_is_none_and_an_unreadable_one_is_refused(checkout: Checkout) -> None:
    release = checkout.definitions.release(VERSION)
    units = units_of(release, checkout.definitions)
    assert read_sources(checkout.definitions, release, units) is None
    path = checkout.put(f"releases/{VERSION}/sources.lock", "")
    path.write_bytes(b"\xff")
    with pytest.raises(DefinitionError, match="cannot be read"):
        read_sources(checkout.definitions, release, units)
    path.unlink()
    path.mkdir()
    with pytest.raises(DefinitionError, match="cannot be read"):
        read_sources(checkout.definitions, release, units)


def test_an_overlay_is_two_files(checkout: Checkout) -> None:
    release = checkout.definitions.release(VERSION)
    units = units_of(release, checkout.definitions)
    lock = SourcesLock(VERSION, lock_subject(units))
    write_sources(checkout.definitions, LockedSources(lock, {"rfo": Overlay("module x\n", "")}))
    found = read_sources(checkout.definitions, release, units)
    assert found == LockedSources(lock, {"rfo": Overlay("module x\n", "")})
    (checkout.root / f"releases/{VERSION}/overlay/rfo/go.sum").unlink()
    with pytest.raises(DefinitionError, match=r"go.mod and go.sum belong together"):
        read_sources(checkout.definitions, release, units)
    write_sources(checkout.definitions, LockedSources(lock, {}))
    assert read_sources(checkout.definitions, release, units) == LockedSources(lock, {})


def have(checkout: Checkout, store: Store, *, offline: bool = False) -> BaseLock:
    base = checkout.definitions.base("tiny")
    return have_base_lock(
        base,
        ["amd64"],
        "amd64",
        VERSION,
        checkout.definitions,
        store,
        Progress(),
        origin=None,
        offline=offline,
        locked=True,
    )


def test_a_base_lock_is_of_its_definition(checkout: Checkout, store: Store) -> None:
    checkout.lock("amd64")
    assert have(checkout, store).base == "tiny"
    checkout.base["roots"] = {
        "builder": {"per": "host", "packages": ["sh", "make"]},
        "sysroot": {"per": "target", "packages": ["libc"]},
    }
    checkout.write()
    with pytest.raises(DefinitionError, match="does not match the definition of tiny"):
        have(checkout, store)
    checkout.base["floating"] = True
    checkout.write()
    text = (checkout.root / f"releases/{VERSION}/tiny.lock").read_bytes()
    write_atomically(store.root / "locks-of-bases" / "tiny.lock", text)
    with pytest.raises(NetworkError, match="not locked yet, and --offline forbids it"):
        have(checkout, store, offline=True)


def test_a_missing_base_lock_is_not_made_with_locked(checkout: Checkout, store: Store) -> None:
    with pytest.raises(DefinitionError, match="--locked forbids writing it"):
        have(checkout, store)
    checkout.lock()
    with pytest.raises(DefinitionError, match="missing or incomplete"):
        have(checkout, store)


def test_the_lock_of_another_base_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "x.lock").write_text(base_lock().render().replace("base tiny", "base other"))
    with pytest.raises(DefinitionError, match="is the lock of other, not of tiny"):
        read_base_lock(tmp_path / "x.lock", checkout.definitions.base("tiny"))


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("target")
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", b"new")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "target").read_text() == "target"
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "folder", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "link", "target"]
