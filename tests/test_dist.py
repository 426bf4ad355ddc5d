"""dist/VERSION: files first, release.json last, and never two releases in one folder."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import VERSION, Checkout, action

from pipeline.context import CHECKOUT, Context
from pipeline.errors import StoreError
from pipeline.graph import Graph
from pipeline.model import Digest
from pipeline.publish.dist import DamagedOutput, write_dist
from pipeline.release import hand_over
from pipeline.scheduler import Result
from pipeline.store import Store

ARCHES = ("amd64", "arm64")


def made(store: Store, *arches: str, content: str = "1", failed: tuple[str, ...] = ()) -> tuple[Graph, Result]:
    """A graph for `arches` and its result, in which those `failed` have no tarball."""
    result = Result()
    for arch in arches:
        result.outputs[f"build/rfo/{arch}"] = {"rfo": store.add_bytes(f"rfo {arch} {content}".encode())}
        if arch not in failed:
            files = (f"rfo.linux-{arch}.tar.gz", f"sha256sum-{arch}.txt")
            result.outputs[f"tarball/{arch}"] = {n: store.add_bytes(f"{n} {content}".encode()) for n in files}
    actions = [action(f"build/rfo/{arch}") for arch in arches]
    for arch in arches:
        files = (f"rfo.linux-{arch}.tar.gz", f"sha256sum-{arch}.txt")
        actions.append(replace(action(f"tarball/{arch}"), publish={n: n for n in files}))
    return Graph(actions), result


def publish(checkout: Checkout, store: Store, *arches: str, **options: Any) -> tuple[list[str], Context]:
    context = checkout.context(*arches)
    graph, result = made(store, *arches, **options)
    return write_dist(context, graph, result), context


def manifest(checkout: Checkout) -> dict[str, Any]:
    data = json.loads((checkout.root / "dist" / VERSION / "release.json").read_bytes())
    assert isinstance(data, dict)
    return data


def listing(checkout: Checkout) -> list[str]:
    return sorted(p.name for p in (checkout.root / "dist" / VERSION).iterdir())


def assert_consistent(checkout: Checkout, *arches: str) -> None:
    """The folder holds what release.json names and nothing else, for these architectures."""
    folder, data = checkout.root / "dist" / VERSION, manifest(checkout)
    platforms = [f"linux/{a}" for a in arches]
    assert listing(checkout) == sorted([a["name"] for a in data["artifacts"]] + ["release.json"])
    for artifact in data["artifacts"]:
        assert str(Digest.of_file(folder / artifact["name"])) == artifact["digest"]
        assert (folder / artifact["name"]).stat().st_size == artifact["size"]
    assert data["platforms"] == sorted(data["bases"]) == sorted(data["inputs"]) == platforms
    assert sorted(b["platform"] for b in data["binaries"]) == platforms
    assert {a["platform"] for a in data["artifacts"] if "platform" in a} == set(platforms)


def messages(context: Context) -> str:
    stream = context.progress.stream
    return str(getattr(stream, "getvalue")())  # noqa: B009 - a StringIO, which the type does not say


@pytest.fixture
def both(checkout: Checkout, store: Store) -> Checkout:
    """A checkout whose dist holds both architectures."""
    checkout.lock(*ARCHES)
    publish(checkout, store, *ARCHES)
    return checkout


def test_a_release_is_files_notes_locks_and_a_manifest(both: Checkout) -> None:
    assert listing(both) == [
        "NOTES.md",
        "release.json",
        "rfo.linux-amd64.tar.gz",
        "rfo.linux-arm64.tar.gz",
        "sha256sum-amd64.txt",
        "sha256sum-arm64.txt",
        "tiny.lock",
    ]
    assert_consistent(both, *ARCHES)
    assert {p.stat().st_mode & 0o777 for p in (both.root / "dist" / VERSION).iterdir()} == {0o644}


def test_the_same_release_is_not_written_again(both: Checkout, store: Store) -> None:
    before = {p.name: p.stat().st_ino for p in (both.root / "dist" / VERSION).iterdir()}
    assert publish(both, store, *ARCHES)[0] == []
    assert {p.name: p.stat().st_ino for p in (both.root / "dist" / VERSION).iterdir()} == before


def test_equal_releases_have_equal_bytes(both: Checkout, store: Store, tmp_path: Path) -> None:
    other = Checkout(tmp_path / "elsewhere")
    other.lock(*ARCHES)
    old = os.umask(0o077)
    try:
        publish(other, store, "amd64")
        publish(other, store, "arm64")
    finally:
        os.umask(old)
    for name in listing(both):
        there = other.root / "dist" / VERSION / name
        assert there.read_bytes() == (both.root / "dist" / VERSION / name).read_bytes(), name
        assert there.stat().st_mode & 0o777 == 0o644


def test_a_run_for_one_architecture_keeps_the_others(both: Checkout, store: Store) -> None:
    changed, context = publish(both, store, "amd64", content="2")
    assert "rfo.linux-amd64.tar.gz" in changed
    assert not any("arm64" in name for name in changed)
    assert "removed" not in messages(context)
    assert_consistent(both, *ARCHES)


def test_locking_another_architecture_keeps_what_is_there(checkout: Checkout, store: Store) -> None:
    checkout.lock("amd64")
    publish(checkout, store, "amd64")
    checkout.lock(*ARCHES)
    _, context = publish(checkout, store, "arm64")
    assert "removed" not in messages(context)
    assert_consistent(checkout, *ARCHES)


def test_an_architecture_on_another_base_is_kept_with_its_lock(checkout: Checkout, store: Store) -> None:
    text = (checkout.root / "images/openeuler/bases/tiny.yaml").read_text()
    checkout.lock(*ARCHES)
    publish(checkout, store, "amd64")
    checkout.put("images/openeuler/bases/other.yaml", text.replace("name: tiny", "name: other"))
    lock = (checkout.root / f"releases/{VERSION}/tiny.lock").read_text()
    checkout.put(f"releases/{VERSION}/other.lock", lock.replace("base tiny", "base other"))
    checkout.release["bases"] = {"amd64": "tiny", "arm64": "other"}
    checkout.write()
    publish(checkout, store, "amd64")
    _, context = publish(checkout, store, "arm64")
    assert "removed" not in messages(context)
    assert_consistent(checkout, *ARCHES)
    assert {"other.lock", "tiny.lock"} <= set(listing(checkout))


def change_source(checkout: Checkout) -> None:
    checkout.put("components/rfo/src/main.go", "package main // changed\n")


def change_flags(checkout: Checkout) -> None:
    checkout.component["build"] = [{"binaries": {"rfo": "."}, "stamp": {"x": "y"}}]
    checkout.write()


def change_install(checkout: Checkout) -> None:
    checkout.put("install/bin/rfo-killall.sh", "#!/bin/sh\n# changed\n")


def change_release(checkout: Checkout) -> None:
    checkout.release["deviations"] = [{"what": "a", "why": "b"}]
    checkout.write()


def change_base_lock(checkout: Checkout) -> None:
    path = checkout.root / f"releases/{VERSION}/tiny.lock"
    path.write_text(path.read_text().replace("builder amd64 sh 1 ", "builder amd64 sh 2 "))


def remove_base_lock_of_arm64(checkout: Checkout) -> None:
    checkout.lock("amd64")


def add_overlay(checkout: Checkout) -> None:
    for name in ("go.mod", "go.sum"):
        checkout.put(f"releases/{VERSION}/overlay/rfo/{name}", "")


@pytest.mark.parametrize(
    "change",
    [
        change_source,
        change_flags,
        change_install,
        change_release,
        change_base_lock,
        remove_base_lock_of_arm64,
        add_overlay,
    ],
)
def test_what_was_made_from_something_else_is_removed_and_said(both: Checkout, store: Store, change: Any) -> None:
    change(both)
    _, context = publish(both, store, "amd64", content="2")
    assert f"removed linux/arm64 from {VERSION}" in messages(context)
    assert_consistent(both, "amd64")


def test_what_is_damaged_is_not_kept(both: Checkout, store: Store) -> None:
    (both.root / "dist" / VERSION / "rfo.linux-arm64.tar.gz").write_bytes(b"damaged")
    publish(both, store, "amd64")
    assert_consistent(both, "amd64")


def test_what_is_damaged_is_written_again(both: Checkout, store: Store) -> None:
    target = both.root / "dist" / VERSION / "rfo.linux-arm64.tar.gz"
    good = target.read_bytes()
    target.unlink()
    target.symlink_to("elsewhere")
    (both.root / "dist" / VERSION / "elsewhere").write_bytes(good)
    assert publish(both, store, *ARCHES)[0] == ["rfo.linux-arm64.tar.gz"]
    assert not target.is_symlink()


def test_an_architecture_that_failed_is_not_published(checkout: Checkout, store: Store) -> None:
    checkout.lock(*ARCHES)
    publish(checkout, store, *ARCHES, failed=("arm64",))
    assert_consistent(checkout, "amd64")


def test_a_failure_keeps_what_an_earlier_run_made_from_the_same(both: Checkout, store: Store) -> None:
    publish(both, store, *ARCHES, failed=("arm64",))
    assert_consistent(both, *ARCHES)


def test_nothing_is_written_if_every_architecture_failed(checkout: Checkout, store: Store) -> None:
    checkout.lock(*ARCHES)
    assert publish(checkout, store, *ARCHES, failed=ARCHES)[0] == []
    assert not (checkout.root / "dist").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"platforms": 5, "artifacts": []}',
        '{"platforms": ["linux/arm64"], "artifacts": [{"name": "../../outside", "digest": "sha256:0", "size": 1}]}',
    ],
)
def test_an_odd_manifest_of_an_earlier_run_harms_nothing(both: Checkout, store: Store, text: str) -> None:
    outside = both.put("outside", "mine")
    (both.root / "dist" / VERSION / "release.json").write_text(text)
    publish(both, store, "amd64")
    assert outside.read_text() == "mine"
    assert manifest(both)["platforms"] == ["linux/amd64"]


def test_a_manifest_that_names_a_file_outside_deletes_nothing(both: Checkout, store: Store) -> None:
    outside = both.put("outside", "mine")
    data = manifest(both)
    data["artifacts"].append({"name": "../../outside", "digest": str(Digest.of_bytes(b"mine")), "size": 4})
    (both.root / "dist" / VERSION / "release.json").write_text(json.dumps(data))
    publish(both, store, "amd64")
    assert outside.read_text() == "mine"


def test_what_a_killed_run_left_is_cleaned_up(both: Checkout, store: Store) -> None:
    (both.root / "dist" / VERSION / ".rfo.linux-amd64.tar.gz.abc12_yz").write_bytes(b"part")
    publish(both, store, *ARCHES)
    assert_consistent(both, *ARCHES)


def test_a_damaged_output_is_not_handed_over(both: Checkout, store: Store) -> None:
    context = both.context("amd64")
    graph, result = made(store, "amd64", content="2")
    path = store.blob(result.outputs["tarball/amd64"]["rfo.linux-amd64.tar.gz"].digest)
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)
    before = (both.root / "dist" / VERSION / "release.json").read_bytes()
    with pytest.raises(DamagedOutput, match=r"rfo.linux-amd64.tar.gz was damaged in the store"):
        write_dist(context, graph, result)
    assert (both.root / "dist" / VERSION / "release.json").read_bytes() == before


def test_a_damaged_binary_of_a_partial_run_is_not_handed_over(both: Checkout, store: Store) -> None:
    graph, result = made(store, "amd64")
    summary = hand_over(both.context("amd64"), graph, result, whole=False)
    assert [name for name, _ in summary.binaries] == ["rfo/amd64/rfo"]
    summary.binaries[0][1].chmod(0o644)
    summary.binaries[0][1].write_bytes(b"damaged")
    with pytest.raises(DamagedOutput):
        hand_over(both.context("amd64"), graph, result, whole=False)


def test_a_place_that_cannot_be_written_is_an_error_with_its_path(checkout: Checkout, store: Store) -> None:
    checkout.lock(*ARCHES)
    checkout.put("dist", "a file")
    with pytest.raises(StoreError, match="dist"):
        publish(checkout, store, "amd64")


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from conftest import Checkout
from pipeline.store import Store
from test_dist import publish
class Existing(Checkout):
    def __init__(self, root):
        self.root = root
for arch in sys.argv[3:]:
    publish(Existing(Path(sys.argv[1])), Store(Path(sys.argv[1]).parent / "store"), arch)
"""


def test_two_runs_at_once_do_not_lose_each_others_architecture(both: Checkout, store: Store) -> None:
    for path in (both.root / "dist" / VERSION).iterdir():
        path.unlink()
    command = [sys.executable, "-c", WRITER, str(both.root), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    runs = [subprocess.Popen([*command, arch], env=environment) for arch in ARCHES]
    assert [run.wait() for run in runs] == [0, 0]
    assert_consistent(both, *ARCHES)


def test_release_json_is_written_last(both: Checkout, store: Store) -> None:
    for path in (both.root / "dist" / VERSION).iterdir():
        path.unlink()
    publish(both, store, *ARCHES)
    times = {p.name: p.stat().st_mtime_ns for p in (both.root / "dist" / VERSION).iterdir()}
    assert max(times.values()) == times["release.json"]


def test_notes_tell_components_and_deviations(both: Checkout, store: Store) -> None:
    change_release(both)
    publish(both, store, "amd64")
    notes = (both.root / "dist" / VERSION / "NOTES.md").read_text()
    assert "| rfo | v1.0.0+rfor1 | Go 1.20.14 | this repository, components/rfo/src | Apache-2.0 |" in notes
    assert "- a. Why: b." in notes
