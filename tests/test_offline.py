"""With --offline nothing is fetched, and what is missing is named; with everything there, no client is needed."""

import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from engine import (
    HOST,
    SMALL,
    digests,
    fails,
    inputs,
    make_context,
    process,
    run,
    run_process,
    second_store,
    shared_store,
    small,
    small_checkout,
    toolchain,
)

from pipeline.errors import DefinitionError, NetworkError
from pipeline.model import Digest
from pipeline.release import release
from pipeline.store import Store, remove_tree


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    checkout = small_checkout(tmp_path_factory.mktemp("offline") / "c")
    run(checkout, components=("hello",))
    return checkout, digests(make_context(checkout, components=("hello",)))


def test_without_go_apt_git_or_network_the_same_bytes_are_made(
    built: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    checkout, expected = built
    alone = ["unshare", "--user", "--map-root-user", "--net"]
    with second_store() as store:
        chosen = ["--component", "hello", "--offline"]
        found = run_process(checkout, store, *chosen, prefix=alone, env={"PATH": str(tmp_path)})
    assert found == expected


def test_a_missing_toolchain_is_named(built: tuple[Path, dict[str, str]]) -> None:
    checkout, _ = built
    with second_store() as store:
        remove_tree(store / "gomod" / toolchain().module.directory)
        error = fails(lambda: run(checkout, Store(store), components=("hello",), arches=(HOST,), offline=True))
    assert isinstance(error, NetworkError)
    assert str(toolchain().module) in error.reason
    assert "./inv fetch" in error.hint


def test_a_missing_package_is_named(built: tuple[Path, dict[str, str]]) -> None:
    checkout, _ = built
    with second_store() as place:
        store = Store(place)
        root = inputs().roots.find("sysroot", HOST)
        remove_tree(place / "trees" / root.key.hex)
        lost = root.packages[0]
        store.blob(lost.digest).unlink()
        error = fails(lambda: run(checkout, store, components=("hello",), arches=(HOST,), offline=True))
    assert isinstance(error, NetworkError)
    assert f"{lost.name} {lost.version}" in error.reason
    assert "--offline" in error.reason


def test_a_root_is_assembled_from_packages_alone(built: tuple[Path, dict[str, str]]) -> None:
    checkout, expected = built
    with second_store() as place:
        root = inputs().roots.find("sysroot", HOST)
        remove_tree(place / "trees" / root.key.hex)
        context = make_context(checkout, Store(place), components=("hello",), arches=(HOST,), offline=True)
        context.inputs[HOST].roots.path(root)
        assert (place / "trees" / root.key.hex).is_dir()
        assert digests(context) == {}
    assert expected


def test_a_missing_lock_is_not_made(built: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    checkout = small_checkout(tmp_path / "c")
    (checkout / "releases" / SMALL / "sources.lock").unlink()
    for option in ("offline", "locked"):
        chosen: dict[str, Any] = {"components": ("hello",), option: True}
        context = make_context(checkout, **chosen)
        error = fails(partial(release, context))
        assert isinstance(error, DefinitionError)
        assert f"--{option}" in error.reason
        assert "./inv lock" in error.hint


def test_a_damaged_package_offline_is_named_and_removed(built: tuple[Path, dict[str, str]]) -> None:
    checkout, _ = built
    with second_store() as place:
        store = Store(place)
        root = inputs().roots.find("sysroot", HOST)
        remove_tree(place / "trees" / root.key.hex)
        lost = root.packages[0]
        blob = store.blob(lost.digest)
        data = blob.read_bytes()
        blob.unlink()  # it is linked with the shared store's
        blob.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        error = fails(lambda: run(checkout, store, components=("hello",), arches=(HOST,), offline=True))
        assert not blob.exists()
    assert isinstance(error, NetworkError)
    assert lost.name in error.reason
    path = shared_store().use(lost.digest)
    assert path is not None
    assert Digest.of_file(path) == lost.digest


def test_an_error_of_another_process_has_its_exit_code(built: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    checkout, _ = built
    command = process(checkout, tmp_path / "store", "--component", "hello", "--offline")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == NetworkError.exit_code
    assert "Traceback" not in done.stderr
    assert small().options.version in done.stderr or "is not locked yet" in done.stderr
