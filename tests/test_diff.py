"""`inv diff`: what two releases differ in, from their folders or from definitions and locks."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import GO_SUM, VERSION, Checkout
from engine import fails
from test_compare import packed, ustar
from test_dist import publish

from pipeline.context import CHECKOUT
from pipeline.errors import DefinitionError, SourceError, UsageError
from pipeline.lock import SourcesLock
from pipeline.model import Digest, Module
from pipeline.report.comparison import say_diff
from pipeline.store import Store
from pipeline.trace.diff import ReleaseDiff, diff_releases, find_changes, to_json
from pipeline.trace.facts import Facts, read_side

OLDER, NEWER = "v1.23.14+rfor1", "v1.25.4+rfor1"
"""Real releases that have a sources.lock and no committed base lock."""


@pytest.fixture
def two(checkout: Checkout, store: Store) -> tuple[Path, Path]:
    """Folders of two releases of one definition, made of other programs."""
    checkout.lock("amd64", "arm64")
    publish(checkout, store, "amd64", "arm64")
    made = checkout.root / "dist" / VERSION
    shutil.copytree(made, checkout.root / "before")
    publish(checkout, store, "amd64", "arm64", content="2 longer")
    return checkout.root / "before", made


def diff(checkout: Checkout, before: object, after: object, *, look_inside: bool = False) -> ReleaseDiff:
    return diff_releases(str(before), str(after), checkout.root, look_inside=look_inside)


def edit(folder: Path, **changes: Any) -> None:
    """Change release.json."""
    data = json.loads((folder / "release.json").read_bytes())
    (folder / "release.json").write_text(json.dumps(data | changes))


def put(folder: Path, name: str, content: bytes) -> None:
    """A file of a release with other bytes, named by its release.json."""
    data = json.loads((folder / "release.json").read_bytes())
    for artifact in data["artifacts"]:
        if artifact["name"] == name:
            artifact |= {"digest": str(Digest.of_bytes(content)), "size": len(content)}
    edit(folder, artifacts=data["artifacts"])
    (folder / name).write_bytes(content)


def printed(diff: ReleaseDiff, capsys: pytest.CaptureFixture[str], *, as_json: bool = False) -> str:
    say_diff(diff, as_json=as_json)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    return out


# --- facts


def test_changes_are_found_by_name() -> None:
    before: Facts = {"a": {"v": 1, "w": None}, "b": {"v": 1}, "c": {"v": [1]}, "gone": {"v": 1}}
    after: Facts = {"a": {"v": 1, "w": 2}, "b": {"v": 2}, "c": {"v": [1]}, "new": {}}
    found = find_changes(before, after)
    assert (found.added, found.removed, found.changed, found.same) == (
        {"new": {}},
        {"gone": {"v": 1}},
        {"b": {"v": (1, 2)}},
        2,
    )


def test_a_release_does_not_differ_from_itself(checkout: Checkout, two: tuple[Path, Path]) -> None:
    found = diff(checkout, two[1], VERSION, look_inside=True)
    assert set(found.sections) == {
        "release", "components", "toolchains", "modules", "packages", "deviations", "binaries", "images", "charts",
        "bundles", "artifacts",
    }  # fmt: skip
    assert all(not c.added and not c.removed and not c.changed for c in found.sections.values())
    assert found.sections["binaries"].same == 2
    assert found.files == {}
    assert found.before.notes == found.after.notes == []


def test_programs_and_files_are_told_with_their_sizes(
    checkout: Checkout, two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = diff(checkout, *two)
    assert found.sections["binaries"].changed["rfo/rfo linux/amd64"]["size"] == (11, 18)
    out = printed(found, capsys)
    assert "binaries: 0 of 2 are identical\n" in out
    assert "  ~ rfo/rfo (amd64, arm64)  11 B -> 18 B (+7 bytes, +63.6 %)\n" in out
    assert "artifacts: 2 of 6 are identical\n" in out
    assert "components: 2 of 2 are the same\n" in out


def test_files_are_looked_into(
    checkout: Checkout, two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, text in zip(two, (b"one\n", b"two\n"), strict=True):
        put(folder, "rfo.linux-amd64.tar.gz", packed(ustar(tmp_path, {"bin/rfo": b"", "notes": text})))
        put(folder, "rfo.linux-arm64.tar.gz", b"the same")
    found = diff(checkout, *two, look_inside=True)
    assert found.files
    assert sorted(found.files) == ["rfo.linux-amd64.tar.gz", "sha256sum-amd64.txt", "sha256sum-arm64.txt"]
    (difference,) = found.files["rfo.linux-amd64.tar.gz"]
    assert (difference.member, difference.section) == (("rfo.linux-amd64.tar", "notes"), "line 1")
    out = printed(found, capsys)
    assert "rfo.linux-amd64.tar.gz > rfo.linux-amd64.tar > notes: line 1, offset 0\n" in out
    data = json.loads(printed(found, capsys, as_json=True))
    assert data["bytes"]["rfo.linux-amd64.tar.gz"][0]["offset"] == 0
    assert data["sections"]["artifacts"]["same"] == 3
    assert data == json.loads(json.dumps(to_json(found)))


def test_components_are_told_once_for_architectures_that_change_alike(
    checkout: Checkout, two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads((two[1] / "release.json").read_bytes())
    source = data["components"][0]["sources"][0]
    (platforms, arm) = (source | {"version": "v2", "platforms": ["linux/amd64"]}, source | {"unit": "rfo@v3"})
    data["components"][0]["sources"] = [
        platforms,
        arm | {"version": "v3", "go": "1.21.1", "platforms": ["linux/arm64"]},
    ]
    edit(two[1], components=data["components"], deviations=[{"component": "rfo", "what": "a", "why": "b"}])
    out = printed(diff(checkout, *two), capsys)
    assert "components: 0 of 2 are the same\n" in out
    assert f"  ~ rfo (amd64)  {VERSION} -> v2\n" in out
    assert f"  ~ rfo (arm64)  {VERSION} -> v3; go 1.20.14 -> 1.21.1\n" in out
    assert "toolchains: 1 of 1 is the same, 1 added\n  + go 1.21.1\n" in out
    assert "deviations: 0 of 0 are the same, 1 added\n  + rfo: a\n" in out
    edit(two[1], components=[data["components"][0] | {"sources": [source | {"version": "v2"}]}])
    assert f"  ~ rfo (amd64, arm64)  {VERSION} -> v2\n" in printed(diff(checkout, *two), capsys)


def test_packages_come_from_the_lock_in_the_folder(checkout: Checkout, two: tuple[Path, Path]) -> None:
    text = (two[1] / "tiny.lock").read_text().replace("builder amd64 sh 1 ", "builder amd64 sh 2 ")
    put(two[1], "tiny.lock", text.encode())
    found = diff(checkout, *two).sections["packages"]
    assert found.changed == {"tiny builder sh linux/amd64": {"version": ("1", "2")}}
    assert found.same == 5


# --- definitions and locks


def locked(checkout: Checkout, *modules: Module) -> None:
    path = checkout.root / f"releases/{VERSION}/sources.lock"
    lock = SourcesLock.parse(path.read_text(), "lock")
    lock.modules.clear()
    lock.modules.update({m: frozenset({"rfo"}) for m in modules})
    path.write_text(lock.render())


def test_modules_are_told_by_path(checkout: Checkout, store: Store) -> None:
    checkout.lock("amd64", "arm64")
    other = f"h1:{'B' * 43}="
    sides = []
    for modules in (
        [Module("a.org/x", "v1.0.0", GO_SUM), Module("a.org/y", "v1.0.0", GO_SUM), Module("a.org/z", "v1.0.0", GO_SUM)],
        [Module("a.org/x", "v1.0.0", GO_SUM), Module("a.org/x", "v2.0.0", other), Module("a.org/y", "v1.0.0", other)],
    ):
        locked(checkout, *modules)
        sides.append(read_side(VERSION, checkout.definitions).sections["modules"])
    found = find_changes(*sides)
    assert found.changed["a.org/x"]["versions"] == (["v1.0.0"], ["v1.0.0", "v2.0.0"])
    assert found.changed["a.org/y"] == {"sums": ([GO_SUM], [other])}
    assert list(found.removed) == ["a.org/z"]


def test_a_lock_that_a_release_was_not_made_from_is_not_used_for_it(checkout: Checkout, two: tuple[Path, Path]) -> None:
    locked(checkout, Module("a.org/x", "v1.0.0", GO_SUM))
    found = diff(checkout, *two)
    assert "modules" not in found.sections
    assert to_json(found)["unknown"] == ["modules"]
    assert found.before.notes == [
        f"before: releases/{VERSION}/sources.lock is missing or not the one that it was made from: no modules"
    ]


def test_a_lock_of_another_definition_is_not_used(checkout: Checkout) -> None:
    checkout.lock("amd64", "arm64")
    checkout.release["toolchains"] = {"go": "1.21.1"}
    checkout.write()
    side = read_side(VERSION, checkout.definitions)
    assert "modules" not in side.sections
    assert any("sources.lock was made for another definition" in note for note in side.notes)
    assert side.sections["toolchains"] == {"go 1.21.1": {"sum": None}}


def test_a_release_that_was_not_made_is_known_by_its_definition(checkout: Checkout, two: tuple[Path, Path]) -> None:
    shutil.rmtree(two[1])
    found = diff(checkout, two[0], VERSION)
    assert {"binaries", "artifacts"}.isdisjoint(found.sections)
    assert all(not c.added and not c.changed for c in found.sections.values())
    assert {n for c in found.sections.values() for n in c.removed} == {"stand-in"}
    assert found.after.notes == [f"{VERSION} was not made here (no dist/{VERSION}): definitions and locks are compared"]


def test_packages_are_compared_only_if_all_bases_are_locked(checkout: Checkout) -> None:
    checkout.lock("amd64", "arm64")
    assert len(read_side(VERSION, checkout.definitions).sections["packages"]) == 6
    text = (checkout.root / "images/openeuler/bases/tiny.yaml").read_text()
    checkout.put("images/openeuler/bases/other.yaml", text.replace("name: tiny", "name: other"))
    checkout.release["bases"] = {"amd64": "tiny", "arm64": "other"}
    checkout.write()
    side = read_side(VERSION, checkout.definitions)
    assert "packages" not in side.sections
    assert f"{VERSION}: base other has no committed lock: no packages" in side.notes


def test_real_definitions_differ_in_what_they_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("components", "releases", "images"):
        shutil.copytree(CHECKOUT / name, tmp_path / name)
    found = diff_releases(OLDER, f"{NEWER}@debian-13", tmp_path, look_inside=False)
    components = found.sections["components"].changed
    assert components["kubernetes linux/arm64"]["version"] == ("v1.23.14", "v1.25.4")
    assert found.sections["release"].changed["base linux/amd64"]["value"][1] == "debian-13"
    assert found.sections["modules"].changed
    assert "packages" not in found.sections
    out = printed(found, capsys)
    assert f"{OLDER} -> {NEWER}@debian-13\n" in out
    assert "  ~ kubernetes (amd64, arm64, riscv64)" in out
    assert "more; --json prints all" in out
    assert f"note: {NEWER}@debian-13: base debian-13 has no committed lock: no packages" in out


# --- mistakes and damage


@pytest.mark.parametrize(
    ("before", "kind", "reason"),
    [
        ("nonsense", UsageError, "'nonsense' is neither a release version nor a folder"),
        ("v9.9.9+rfor1", DefinitionError, "release v9.9.9+rfor1 is not defined"),
        (f"{VERSION}@nope", DefinitionError, "unknown base 'nope'"),
        (f"{VERSION}@../x", DefinitionError, "unknown base '../x'"),
    ],
)
def test_what_is_no_release_is_an_error(checkout: Checkout, before: str, kind: type, reason: str) -> None:
    error = fails(lambda: diff(checkout, before, VERSION))
    assert isinstance(error, kind)
    assert reason in error.reason


def test_a_folder_without_release_json_is_an_error(checkout: Checkout) -> None:
    error = fails(lambda: diff(checkout, checkout.root / "releases", VERSION))
    assert "holds no release" in error.reason


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', '{"artifacts": ' + "[" * 100_000])
def test_a_damaged_manifest_is_an_error(checkout: Checkout, two: tuple[Path, Path], text: str) -> None:
    (two[0] / "release.json").write_text(text)
    error = fails(lambda: diff(checkout, *two))
    assert isinstance(error, SourceError)
    assert "release.json is not the manifest of a release" in error.reason


def test_a_file_that_is_not_what_its_release_names_is_not_used(checkout: Checkout, two: tuple[Path, Path]) -> None:
    path = two[0] / "rfo.linux-amd64.tar.gz"
    path.write_bytes(b"x" * path.stat().st_size)
    assert diff(checkout, *two).sections["artifacts"].same == 2  # nothing was read of it
    error = fails(lambda: diff(checkout, *two, look_inside=True))
    assert isinstance(error, SourceError)
    assert "rfo.linux-amd64.tar.gz is not what its release.json names" in error.reason
    (two[1] / "tiny.lock").write_bytes(b"base tiny\n")
    error = fails(lambda: diff(checkout, *two))
    assert "tiny.lock is not what its release.json names" in error.reason


def test_bytes_need_files_of_both(checkout: Checkout, two: tuple[Path, Path]) -> None:
    shutil.rmtree(two[1])
    error = fails(lambda: diff(checkout, two[0], VERSION, look_inside=True))
    assert isinstance(error, UsageError)
    assert error.hint == f"make it: ./inv release --version {VERSION}"


def inv(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "invoke", "diff", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_the_command_prints_for_people_and_programs() -> None:
    people, programs, mistake = inv(OLDER, NEWER), inv(OLDER, NEWER, "--json"), inv(OLDER, "nonsense")
    assert (people.returncode, programs.returncode, mistake.returncode) == (0, 0, 2)
    assert people.stdout.startswith(f"{OLDER} -> {NEWER}\n")
    assert json.loads(programs.stdout)["sections"]["components"]["changed"]
    assert "usage: 'nonsense' is neither" in mistake.stderr
    assert "Traceback" not in people.stderr + programs.stderr + mistake.stderr
