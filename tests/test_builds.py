"""Real builds of small components for three architectures, and what has to hold about their bytes."""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from engine import (
    ARCHES,
    BASE,
    HELLO,
    HOST,
    REAL,
    REPO,
    digests,
    fails,
    make_context,
    process,
    real_checkout,
    run,
    run_process,
    said,
    second_store,
    shared_store,
    small_checkout,
)

from pipeline.errors import BuildError, DefinitionError, NetworkError
from pipeline.lock import write_atomically
from pipeline.model import Digest
from pipeline.release import release
from pipeline.store import Store

COMPONENTS = ("pause", "cni-plugin-flannel")
"""Built for all architectures; runc, which takes longest, for the host's and one other."""
RUNC = ("amd64", "riscv64")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_checkout(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def built(checkout: Path) -> dict[str, str]:
    """What the real release's small components come to."""
    found: dict[str, str] = {}
    for components, arches in ((COMPONENTS, ARCHES), (("runc",), RUNC)):
        context = make_context(checkout, version=REAL, base=BASE, components=components, arches=arches)
        release(context)
        found |= digests(context)
    return found


def arguments(components: tuple[str, ...] = COMPONENTS, arches: tuple[str, ...] = ARCHES) -> list[str]:
    named = [part for c in components for part in ("--component", c)] + [part for a in arches for part in ("--arch", a)]
    return ["--version", REAL, "--base", BASE, *named]


def test_small_components_build_for_every_architecture(built: dict[str, str]) -> None:
    expected = {f"{s}/{u}/{a}:{o}" for a in ARCHES for u, b in (("pause", "pause"), ("cni-plugin-flannel", "flannel"))
                for s, o in (("build", b), ("check", "report.json"))}  # fmt: skip
    expected |= {f"build/{u}:runc" for u in ("runc/amd64", "runc@v1.1.12/riscv64")}
    expected |= {f"check/{u}:report.json" for u in ("runc/amd64", "runc@v1.1.12/riscv64")}
    assert set(built) == expected


def test_reports_say_what_each_program_printed(built: dict[str, str]) -> None:
    from pipeline.model import Digest

    wanted = {"pause": "pause.c v3.6", "cni-plugin-flannel": "CNI flannel plugin v0.9.1", "runc": "runc version 1.1.4"}
    for component, line in wanted.items():
        path = shared_store().use(Digest.parse(built[f"check/{component}/amd64:report.json"]))
        assert path is not None
        (report,) = json.loads(path.read_text()).values()
        assert line in report["prints"]
    path = shared_store().use(Digest.parse(built["check/runc@v1.1.12/riscv64:report.json"]))
    assert path is not None
    assert json.loads(path.read_text())["runc"] | {"modules": 0} == {
        "size": json.loads(path.read_text())["runc"]["size"], "machine": 243, "go": "go1.20.14", "modules": 0,
        "prints": "runc version 1.1.12",
    }  # fmt: skip


def test_a_second_run_runs_nothing(checkout: Path, built: dict[str, str]) -> None:
    context = make_context(checkout, version=REAL, base=BASE, components=COMPONENTS, arches=ARCHES)
    started = time.process_time()  # what else this host does is not counted
    summary = release(context)
    assert (summary.ran, summary.cached) == (0, 12)
    assert time.process_time() - started < 10
    assert "actions to run" not in said(context)


def test_another_store_user_environment_and_an_empty_compile_cache_give_the_same_bytes(
    checkout: Path, built: dict[str, str], tmp_path: Path
) -> None:
    """Reproducible: what varies is all that a host may vary."""
    elsewhere = tmp_path / "another place" / "checkout"
    shutil.copytree(checkout, elsewhere)
    home = tmp_path / "home"
    home.mkdir()
    env = {"TZ": "Pacific/Chatham", "HOME": str(home), "LC_ALL": "POSIX", "GOAMD64": "v3", "CGO_CFLAGS": "-O0"}
    env |= {"GOFLAGS": "-race", "SOURCE_DATE_EPOCH": "1", "CC": "false", "PYTHONHASHSEED": "7", "RFO_STORE": "/nowhere"}
    with second_store(modules=True) as store:
        found = run_process(elsewhere, store, *arguments(arches=ARCHES), "--umask", "77", "--offline", env=env)
        found |= run_process(
            elsewhere, store, *arguments(("runc",), ("riscv64",)), "--umask", "0", "--offline", env=env
        )
    assert found == {k: v for k, v in built.items() if "runc/amd64" not in k}


def test_after_fetch_a_build_needs_no_network_at_all(checkout: Path, built: dict[str, str]) -> None:
    if shutil.which("unshare") is None:
        pytest.fail("unshare is not installed: apt-get install util-linux")
    alone = ["unshare", "--user", "--map-root-user", "--net"]
    with second_store(modules=True) as store:
        chosen = arguments(("pause",), ARCHES)
        found = run_process(checkout, store, *chosen, "--offline", prefix=alone)
    assert found == {k: v for k, v in built.items() if "/pause/" in k}


def test_offline_without_a_base_lock_says_what_to_do(checkout: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    error = fails(lambda: run(checkout, store, version=REAL, base=BASE, components=("pause",), offline=True))
    assert isinstance(error, NetworkError)
    assert "is not locked yet" in error.reason
    assert "./inv lock" in error.hint


def test_a_killed_run_is_resumed_and_gives_the_same_bytes(checkout: Path, built: dict[str, str]) -> None:
    flannel = arguments(("cni-plugin-flannel",), ("arm64",))
    with second_store(modules=True) as store:
        # No output is kept in a pipe: what outlives the engine would hold it open.
        with (store / "out").open("w+b") as out:
            engine = subprocess.Popen(process(checkout, store, *flannel), stdout=out, stderr=subprocess.STDOUT)
            wait_for(lambda: compiled(store) > 20, engine)
            engine.send_signal(signal.SIGKILL)
            assert engine.wait() == -signal.SIGKILL
        assert not list((store / "records").iterdir())
        for _ in range(10):
            before = compiled(store)
            time.sleep(1)
            if compiled(store) == before:
                break
        else:
            pytest.fail("the compiler outlived the engine")
        found = run_process(checkout, store, *flannel)
    assert found == {k: v for k, v in built.items() if "flannel/arm64" in k}


def compiled(store: Path) -> int:
    """Entries in compile caches: how far a build has come."""
    return sum(1 for cache in (store / "gocache").glob("go1*") for _ in cache.glob("*/*"))


def wait_for(condition: object, engine: "subprocess.Popen[bytes]") -> None:
    assert callable(condition)
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        if condition():
            return
        assert engine.poll() is None, "it ended too early"
        time.sleep(0.1)
    raise AssertionError("it never came so far")


def test_a_damaged_output_is_made_again(tmp_path: Path) -> None:
    store = shared_store()
    checkout = small_checkout(tmp_path / "c", main=HELLO.replace("Exit(3)", "Exit(4)"))  # no other test has it
    run(checkout, arches=(HOST,), components=("hello",))
    first = digests(make_context(checkout, arches=(HOST,), components=("hello",)))
    from pipeline.model import Digest

    blob = store.blob(Digest.parse(first[f"build/hello/{HOST}:hello"]))
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    fresh = Store(store.root)  # another process: it has not checked the file yet
    for record in (store.root / "records").glob("*.json"):
        text = record.read_text()
        if json.loads(text)["name"] == f"check/hello/{HOST}" and first[f"build/hello/{HOST}:hello"] in text:
            record.unlink()
    run(checkout, fresh, arches=(HOST,), components=("hello",))
    assert digests(make_context(checkout, arches=(HOST,), components=("hello",))) == first
    assert Digest.of_file(blob) == Digest.parse(first[f"build/hello/{HOST}:hello"])


def test_a_tampered_root_is_assembled_again(tmp_path: Path) -> None:
    from engine import inputs

    from pipeline.base.assemble import tree_digest

    with second_store() as place:
        store = Store(place)
        checkout = small_checkout(tmp_path / "c")
        root = inputs().roots.find("sysroot", HOST)
        target = store.root / "trees" / root.key.hex
        sound = tree_digest(target)
        victim = next(p for p in sorted(target.rglob("*.a")) if p.is_file() and not p.is_symlink())
        text = victim.read_bytes()
        victim.unlink()
        victim.write_bytes(text[:-1] + b"?")
        context = make_context(checkout, store)
        context.inputs[HOST].roots.path(root)
        assert "assembling" in said(context)
        assert tree_digest(target) == sound


def test_a_compile_error_shows_the_log_and_the_command_to_repeat(tmp_path: Path) -> None:
    checkout = small_checkout(tmp_path / "c", main="package main\n\nfunc main() { undefined() }\n")
    error = fails(lambda: run(checkout, arches=(HOST,), components=("hello",)))
    assert isinstance(error, BuildError)
    assert f"--action build/hello/{HOST}" in error.reason
    log = Path(next(line for line in error.reason.splitlines() if "log: " in line).partition("log: ")[2])
    assert "undefined: undefined" in log.read_text()


def test_one_failure_does_not_stop_what_does_not_need_it(tmp_path: Path) -> None:
    checkout = small_checkout(tmp_path / "c")
    bad = checkout / "components" / "hello" / "src" / "bad_arm64.go"
    bad.write_text("package main\n\nvar _ = undefined\n")
    error = fails(lambda: run(checkout, arches=("amd64", "arm64"), components=("hello",)))
    assert "build/hello/arm64" in error.reason
    assert "1 more could not run" in error.reason
    made = digests(make_context(checkout, arches=("amd64",), components=("hello",)))
    assert set(made) == {"build/hello/amd64:hello", "check/hello/amd64:report.json"}


def test_a_build_sees_only_tracked_files(tmp_path: Path) -> None:
    checkout = small_checkout(tmp_path / "c")
    source = checkout / "components" / "hello" / "src"
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    subprocess.run(["git", "-C", str(checkout), "add", "components"], check=True)
    (source / "stray.go").write_text("package main\n\nfunc init() { println(undefined) }\n")
    assert run(checkout, arches=(HOST,), components=("hello",)).dist is None


def test_sources_that_change_during_a_run_are_never_kept_under_the_old_key(tmp_path: Path) -> None:
    from pipeline.plan import plan
    from pipeline.release import make_scheduler

    checkout = small_checkout(tmp_path / "c", main=f"{HELLO}\n// never built as it is here\n")
    context = make_context(checkout, arches=(HOST,), components=("hello",), jobs=1)
    graph = plan(context.release, context.units, context.inputs, packs=None)
    main = checkout / "components" / "hello" / "src" / "main.go"
    main.write_text(main.read_text().replace('"hello"', '"hello "'))  # edited after it was planned
    result = make_scheduler(context).run(graph)
    assert [f.name for f in result.failures] == [f"build/hello/{HOST}"]
    assert isinstance(result.failures[0].error, DefinitionError)
    assert "changed while" in result.failures[0].error.reason


def test_tests_never_use_the_users_store() -> None:
    assert shared_store().root != Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rfo"
    assert REPO not in shared_store().root.parents


def test_a_package_that_is_no_program_is_told(tmp_path: Path) -> None:
    programs = {"hello": "./hello", "library": "./library"}
    smoke = {n: {"args": [], "prints": "hello"} for n in programs}
    checkout = small_checkout(tmp_path / "c", binaries=programs, component={"smoke": smoke})
    source = checkout / "components" / "hello" / "src"
    for name, package in (("hello", "main"), ("library", "library")):
        (source / name).mkdir()
        (source / name / "x.go").write_text(f"package {package}\n\nfunc main() {{}}\n")
    error = fails(lambda: run(checkout, arches=(HOST,), components=("hello",)))
    assert f"build/hello/{HOST}: " in error.reason
    assert "go wrote no program for ./library" in error.reason


def test_an_architecture_whose_packages_are_gone_fails_alone(tmp_path: Path) -> None:
    checkout = small_checkout(tmp_path / "c")
    made = make_context(checkout, components=("hello",)).base_locks[BASE]
    gone = next(p for p in made.packages if p.root == "sysroot" and p.arch == "riscv64")
    lost = replace(gone, path="pool/main/g/gone.deb", digest=Digest.of_bytes(b"gone"))
    lock = replace(made, packages=tuple(sorted(lost if p == gone else p for p in made.packages)))
    with second_store() as path:
        write_atomically(path / "locks-of-bases" / f"{BASE}.lock", lock.render().encode())
        context = make_context(checkout, Store(path), components=("hello",))
        with pytest.raises(BuildError, match=r"(?s)linux/riscv64: not built: .*gone\.deb"):
            release(context)
        assert {key.split("/")[2].partition(":")[0] for key in digests(context)} == {"amd64", "arm64"}
