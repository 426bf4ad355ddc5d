"""`inv rebuild`: the same bytes under all variations, or what differs and why."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from engine import HELLO, HOST, REPO, environment, fails, make_context, run, second_store, shared_store, write_checkout
from faults import own_mounts, poison_compile_cache

from pipeline.errors import DefinitionError, ProofError, SourceError, StoreError, UsageError
from pipeline.model import Digest
from pipeline.proof.bisect import find_cause
from pipeline.proof.prover import Prover
from pipeline.proof.result import Proof
from pipeline.proof.variations import Variation, circumstances, variations
from pipeline.rebuild import Asked, rebuild, result_path
from pipeline.report.progress import Progress
from pipeline.report.proof import percent, say_proof
from pipeline.store import Store
from pipeline.verifier.bundle import read_bundle

GENERATOR = """package main

import (
	"os"
	"runtime"
	"strconv"
	"syscall"
)

func leak() string {
	name, _ := os.Hostname()
	where, _ := os.Getwd()
	_, compiler := os.Stat("/usr/bin/gcc")
	all := map[string]string{
		"none":        "",
		"paths":       strconv.Itoa(len(where)),
		"user":        strconv.Itoa(os.Getuid()),
		"umask":       strconv.Itoa(syscall.Umask(0)),
		"home":        os.Getenv("HOME"),
		"locale":      os.Getenv("LC_ALL"),
		"time zone":   os.Getenv("TZ"),
		"host name":   name,
		"processors":  strconv.Itoa(runtime.NumCPU()),
		"environment": os.Getenv("USER"),
		"base root":   strconv.FormatBool(compiler == nil),
		"two":         strconv.FormatBool(os.Getuid() == 4321 && name == "another-builder"),
	}
	text := ""
	for key, value := range all {
		text += key + "=" + value + ";"
	}
	if "LEAK" == "all" {
		return text
	}
	return all["LEAK"]
}

func main() {
	text := "package main\\n\\nvar leaked = " + strconv.Quote(leak()) + "\\n"
	if err := os.WriteFile(os.Args[1], []byte(text), 0o644); err != nil {
		panic(err)
	}
}
"""


PROGRAM = """package main

var version = "unset"

func main() { println("hello", version, leaked, "the right code") }
"""
"""It imports nothing, so that a cold build of it is quick."""


def leaking(folder: Path, leak: str) -> Path:
    """A checkout with the component rfo, which holds what its generator saw of `leak`."""
    generator = GENERATOR.replace("LEAK", leak)
    entry = {
        "tool": "example.org/rfo/generator",
        "args": ["/out/leaked.go"],
        "writes": "leaked.go",
        "file": "leaked.go",
    }
    definition = {
        "name": "rfo",
        "license": "Apache-2.0",
        "source": {"tree": "components/rfo/src"},
        "build": [{"binaries": {"rfo": "."}, "stamp": {"main.version": "{release}"}}],
        "generate": {"rfo": [entry]},
        "smoke": {"rfo": {"args": [], "prints": "hello {release}"}},
    }
    files = {
        "components/rfo/src/main.go": PROGRAM,
        "components/rfo/src/generator/main.go": generator,
        "components/rfo/src/go.mod": "module example.org/rfo\n\ngo 1.20\n",
        "install/bin/rfo-killall.sh": "#!/bin/sh\n",
    }
    return write_checkout(folder, {"rfo": definition}, files, {"rfo": {}})


def prove(checkout: Path, candidate: Path, store: Path | None = None, **asked: Any) -> tuple[Proof, str]:
    """The proof, and what was printed; on the tests' own store unless another is named."""
    progress = Progress(stream=StringIO())
    with environment(RFO_STORE=str(store or shared_store().root)):
        proof = rebuild(Asked(candidate, offline=True, **asked), progress, checkout)
    assert isinstance(progress.stream, StringIO)
    return proof, progress.stream.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkout that leaks nothing, and its candidate."""
    checkout = leaking(tmp_path_factory.mktemp("clean"), "none")
    return checkout, candidate_of(checkout)


def candidate_of(checkout: Path) -> Path:
    context = make_context(checkout, arches=(HOST,))
    context.inputs[HOST].fetch(context.units)
    roots = context.inputs[HOST].roots
    roots.fetch(roots.find("engine", HOST).packages)
    dist = run(checkout, arches=(HOST,)).dist
    assert dist is not None
    return dist


def test_a_clean_candidate_is_made_again_under_all_variations(made: tuple[Path, Path]) -> None:
    checkout, candidate = made
    before = {p.name: p.read_bytes() for p in candidate.iterdir() if p.is_file()}
    passing = shared_store().root / "history" / f".another-run-{os.getpid()}"
    passing.symlink_to("gone")  # listed and then not there, as what another run is writing
    try:
        proof, _ = prove(checkout, candidate)
    finally:
        passing.unlink()
    assert not proof.failed
    assert not proof.not_varied or set(proof.not_varied) == {"processors"}
    assert {v.name for v in proof.varied} | set(proof.not_varied) == {v.name for v in variations()}
    names = {j.name for j in proof.judged}
    assert {f"rfo.linux-{HOST}.tar.gz", "release.json", "NOTES.md", "debian-13.lock", f"rfo/{HOST}/rfo"} <= names
    assert all(s.equal == s.compared for s in proof.scores)
    assert {p.name: p.read_bytes() for p in candidate.iterdir() if p.is_file()} == before, (
        "a proof changes nothing in the candidate"
    )
    stated = read_bundle(next(candidate.glob("provenance/rebuilder-*/rebuild.sigstore.json")).read_bytes(), "rebuild")
    assert set(stated.statement.subjects) == {f"binary/{n}" if "/" in n else n for n in names}
    assert set(stated.statement.predicate["variations"]) == {v.name for v in proof.varied}
    result = json.loads(result_path(Asked(candidate)).read_bytes())
    assert result["equal"] is True
    assert len(result["artifacts"]) == len(proof.judged)
    assert result["candidate"]["release.json"] == str(Digest.of_file(candidate / "release.json"))


@pytest.mark.parametrize("leak", ["user", "base root"])
def test_a_leak_is_found_and_its_variation_named(tmp_path: Path, leak: str) -> None:
    checkout = leaking(tmp_path / "checkout", leak)
    candidate = candidate_of(checkout)
    proof, printed = prove(checkout, candidate, components=("rfo",))
    assert [j.name for j in proof.failed] == [f"rfo/{HOST}/rfo"]
    assert [(c.kind, c.variations) for c in proof.causes] == [("variation", (leak,))]
    difference = proof.failed[0].differences[0]
    assert difference.section, "the section of the program is named"
    assert difference.offset is not None
    error = fails(lambda: say_proof(proof, Progress(stream=StringIO()), Path("x"), 1.0, as_json=False))
    assert isinstance(error, ProofError)
    assert "searching" in printed


def test_every_circumstance_reaches_the_sandbox(tmp_path: Path) -> None:
    checkout = leaking(tmp_path / "checkout", "all")
    context = make_context(checkout, arches=(HOST,), offline=True)
    prover = Prover(context, {n: lock.render().encode() for n, lock in context.base_locks.items()})
    seen = []
    for chosen in ((), prover.possible()[0]):
        with prover.attempt(chosen, ("generate/rfo",), ready=True) as attempt:
            written = attempt.store.use(attempt.outputs["generate/rfo"]["leaked.go"].digest)
            assert written is not None
            text = written.read_text().partition('"')[2].rpartition(";")[0]
            seen.append(dict(fact.partition("=")[::2] for fact in text.split(";")))
    usual, varied = seen
    assert usual["umask"] == str(0o022)
    equal = {name for name in usual if usual[name] == varied[name]} - {"none", "two"}
    assert equal <= ({"processors"} if len(os.sched_getaffinity(0)) == 1 else set())


def test_a_cause_of_two_variations_is_named_whole(tmp_path: Path) -> None:
    checkout = leaking(tmp_path / "checkout", "two")
    proof, _ = prove(checkout, candidate_of(checkout), components=("rfo",))
    assert [(c.kind, c.variations) for c in proof.causes] == [("variation", ("user", "host name"))]


def test_a_difference_in_a_tarball_names_its_member(tmp_path: Path) -> None:
    checkout = leaking(tmp_path / "checkout", "host name")
    proof, _ = prove(checkout, candidate_of(checkout), explain=False)
    tarball = next(j for j in proof.failed if j.kind == "tarball")
    assert any("bin/rfo" in d.member for d in tarball.differences)


def test_an_exception_excuses_and_expires(tmp_path: Path) -> None:
    checkout = leaking(tmp_path / "checkout", "host name")
    candidate = candidate_of(checkout)
    listed = checkout / "provenance" / "exceptions.yaml"
    listed.parent.mkdir()
    entry = "{artifact: 'rfo/*/rfo', reason: it holds the host name, owner: nobody, expires: %s}"
    listed.write_text(f"exceptions:\n  - {entry % '2999-01-01'}\n")
    proof, _ = prove(checkout, candidate, components=("rfo",), explain=False)
    assert not proof.failed
    assert proof.scores[0].equal == 0, "an excused artifact is not an equal one"
    assert proof.to_json()["exceptions"][0]["owner"] == "nobody"
    listed.write_text(f"exceptions:\n  - {entry % '2026-01-01'}\n")
    error = fails(lambda: prove(checkout, candidate, components=("rfo",)))
    assert isinstance(error, DefinitionError)
    assert "expired on 2026-01-01" in error.reason


def test_the_projects_own_list_of_exceptions_is_empty() -> None:
    from datetime import date

    from pipeline.proof.exceptions import FILE, read_exceptions

    assert (REPO / FILE).exists()
    assert read_exceptions(REPO, date(2000, 1, 1)) == ()


def copy_of(candidate: Path, target: Path) -> Path:
    shutil.copytree(candidate, target / candidate.name)
    return target / candidate.name


def test_a_tampered_candidate_is_refused_before_anything_is_built(made: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, candidate = made
    copy = copy_of(candidate, tmp_path)
    tarball = copy / f"rfo.linux-{HOST}.tar.gz"
    data = bytearray(tarball.read_bytes())
    data[len(data) // 2] ^= 1
    tarball.write_bytes(data)
    error = fails(lambda: prove(checkout, copy))
    assert isinstance(error, SourceError)
    assert tarball.name in error.reason
    tarball.unlink()
    assert "missing" in fails(lambda: prove(checkout, copy)).reason
    assert isinstance(fails(lambda: prove(checkout, tmp_path / "nothing")), UsageError)


def test_a_forged_candidate_that_agrees_with_itself_is_found(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Somebody changed a file and the manifest that names it: the sources do not give these bytes."""
    checkout, candidate = made
    copy = copy_of(candidate, tmp_path)
    notes, manifest = copy / "NOTES.md", copy / "release.json"
    old = str(Digest.of_file(notes))
    size = notes.stat().st_size
    notes.write_bytes(notes.read_bytes().replace(b"RFO", b"RFQ"))
    assert notes.stat().st_size == size
    manifest.write_text(manifest.read_text().replace(old, str(Digest.of_file(notes))))
    proof, _ = prove(checkout, copy)
    assert {j.name for j in proof.failed} == {"NOTES.md", "release.json"}
    sections = {d.artifact: d.section for j in proof.failed for d in j.differences}
    assert sections["NOTES.md"].startswith("line 1")
    assert "digest" in sections["release.json"]


def test_a_binary_from_elsewhere_is_blamed_on_the_candidate(made: tuple[Path, Path], tmp_path: Path) -> None:
    """As a poisoned compile cache makes it: the claimed digest is one that no build from these sources has."""
    checkout, candidate = made
    copy = copy_of(candidate, tmp_path)
    manifest = copy / "release.json"
    claimed = json.loads(manifest.read_text())["binaries"][0]["digest"]
    other = shared_store().add_bytes(b"another program")
    manifest.write_text(manifest.read_text().replace(claimed, str(other.digest)))
    proof, _ = prove(checkout, copy, components=("rfo",))
    assert [c.kind for c in proof.causes] == ["candidate"]
    assert "poisoned compile cache" in proof.causes[0].text


def test_a_poisoned_compile_cache_is_caught_and_the_store_stays_as_it_was(tmp_path: Path) -> None:
    """Checks pass and nothing in the store tells; only the proof does, which reads no cache."""
    checkout = leaking(tmp_path / "checkout", "none")
    clean = candidate_of(checkout)
    honest = (clean / "release.json").read_bytes()
    with second_store() as path:
        store = Store(path)
        run(checkout, store, arches=(HOST,))
        assert poison_compile_cache(path, b"the right code", b"the wrong code") > 0
        for record in (path / "records").iterdir():
            record.unlink()
        shutil.rmtree(clean)
        dist = run(checkout, store, arches=(HOST,)).dist
        assert dist is not None
        assert (dist / "release.json").read_bytes() != honest, "the poison went into the candidate"
        before = {n: sorted(p.name for p in (path / n).iterdir()) for n in ("records", "gocache", "tmp")}
        proof, _ = prove(checkout, dist, path)
        assert {n: sorted(p.name for p in (path / n).iterdir()) for n in before} == before
        assert {j.name for j in proof.failed} == {
            f"rfo/{HOST}/rfo", f"rfo.linux-{HOST}.tar.gz", f"sha256sum-{HOST}.txt", "release.json",
        }  # fmt: skip
        assert {c.kind for c in proof.causes} == {"candidate"}
        difference = next(j for j in proof.failed if j.kind == "binary").differences[0]
        assert difference.expected.startswith(b"wrong code".hex(" "))
        assert difference.found.startswith(b"right code".hex(" "))


def start(checkout: Path, candidate: Path, *prefix: str, store: Path | None = None) -> "subprocess.Popen[str]":
    """`inv rebuild` as a process of its own."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path\nfrom pipeline.cli.common import reporting\nfrom pipeline.rebuild import *\n"
        "with reporting(debug=False): rebuild(Asked(Path(sys.argv[3]), offline=True), Progress(), Path(sys.argv[4]))\n"
    )
    command = [*prefix, sys.executable, "-c", code, str(REPO), str(REPO / "tests"), str(candidate), str(checkout)]
    env = {**os.environ, "RFO_STORE": str(store or shared_store().root)}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def below(pid: int) -> list[int]:
    """A process's children, and theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *below(child)]
    return found


def alive(text: str, pids: Sequence[int]) -> list[str]:
    """Command lines of those processes that hold `text`; another worker may be proving something, too."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found += [line] if text in line else []
    return found


def test_a_killed_proof_leaves_no_process_and_the_next_one_succeeds(made: tuple[Path, Path]) -> None:
    checkout, candidate = made
    with start(checkout, candidate) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "start build/rfo" in line:
                break
        mine = below(process.pid)
        assert alive("of-another-builder", mine)
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 120
        while (left := alive("of-another-builder", mine)) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert left == []
    proof, _ = prove(checkout, candidate, components=("rfo",))
    assert not proof.failed


def test_a_small_disk_ends_a_proof_before_it_builds(made: tuple[Path, Path], tmp_path: Path) -> None:
    """A store whose own disk has 64 MiB, with the pins of the tests' store mounted into it."""
    checkout, candidate = made
    small, full = tmp_path / "store", shared_store().root
    small.mkdir()
    commands = [f"mount -t tmpfs -o size=64m none '{small}'"]
    for name in ("blobs", "trees", "gomod", "locks-of-bases"):
        commands += [f"mkdir '{small}/{name}'", f"mount --bind '{full}/{name}' '{small}/{name}'"]
    with start(checkout, candidate, *own_mounts(*commands), store=small) as process:
        _, said = process.communicate(timeout=600)
    assert process.returncode == StoreError.exit_code
    assert f"{small}: about" in said
    assert "are free" in said
    assert "building it again" not in said


def test_a_result_that_has_no_place_is_said_first(made: tuple[Path, Path], tmp_path: Path) -> None:
    error = fails(lambda: prove(*made, output=tmp_path / "gone" / "proof.json"))
    assert isinstance(error, UsageError)
    assert "--output" in error.hint


def test_a_build_that_fails_is_said_with_its_log(tmp_path: Path) -> None:
    """It compiles only on a base with a compiler, which the proof takes away."""
    checkout = leaking(tmp_path / "checkout", "none")
    generator = checkout / "components/rfo/src/generator/main.go"
    text = generator.read_text().replace(
        "text := ", 'if _, err := os.Stat("/usr/bin/gcc"); err != nil { panic("no gcc") }\n\ttext := '
    )
    generator.write_text(text)
    candidate = candidate_of(checkout)
    error = fails(lambda: prove(checkout, candidate))
    assert isinstance(error, ProofError)
    assert "generate/rfo" in error.reason
    log = next(word for word in error.reason.split() if word.endswith("generate_rfo.log"))
    assert "no gcc" in Path(log).read_text()


def test_another_checkout_is_refused_by_the_name_of_what_differs(made: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, candidate = made
    other = tmp_path / "other"
    shutil.copytree(checkout, other)
    (other / "components/rfo/src/main.go").write_text(HELLO)
    error = fails(lambda: prove(other, candidate))
    assert isinstance(error, ProofError)
    assert "another tree" in error.reason


def test_an_architecture_that_the_candidate_lacks_is_a_mistake(made: tuple[Path, Path]) -> None:
    error = fails(lambda: prove(*made, arches=("s390x",)))
    assert isinstance(error, UsageError)
    assert "s390x" in error.reason


# --- variations and the search, as values


def test_all_variations_together_change_every_field() -> None:
    usual, varied = circumstances(()), circumstances(variations())
    kept = {"clock_library"}
    for name, value in vars(usual.setting).items():
        assert name in kept or getattr(varied.setting, name) != value, name
    for name, value in vars(usual).items():
        assert getattr(varied, name) != value, name


@pytest.mark.parametrize(
    "guilty",
    [{"a"}, {"h"}, {"d"}, {"a", "b"}, {"a", "h"}, {"d", "e"}, {"b", "d", "g"}],
    ids=lambda g: "".join(sorted(g)),
)
def test_the_search_finds_the_smallest_set(guilty: set[str]) -> None:
    possible = [Variation(n, "", "") for n in "abcdefgh"]
    tried = []

    def build(chosen: Sequence[Variation]) -> str:
        tried.append(chosen)
        return "bad" if guilty <= {v.name for v in chosen} else "good"

    cause = find_cause("x", "good", "bad", possible, build)
    assert (cause.kind, set(cause.variations)) == ("variation", guilty)
    assert len(tried) <= 1 + 2 * 3 * len(guilty) + 3


def test_the_search_tells_chance_from_a_wrong_candidate() -> None:
    possible = [Variation("a", "", "")]
    assert find_cause("x", "1", "2", possible, lambda _: "2").kind == "candidate"
    assert find_cause("x", "1", "2", possible, lambda _: "3").kind == "chance"


def test_a_score_is_never_rounded_up() -> None:
    assert percent(9999, 10000) == "99.9 %"
    assert percent(120, 120) == "100 %"
    assert percent(0, 0) == "nothing was compared"


def test_the_clock_of_programs_is_ahead(tmp_path: Path) -> None:
    """A dynamically linked program in a varied sandbox sees another day, and its files do not."""
    import threading

    from engine import builder_root

    from pipeline.sandbox import Sandbox
    from pipeline.sandbox.bwrap import Bwrap

    context = make_context(leaking(tmp_path / "checkout", "none"), arches=(HOST,))
    roots = context.inputs[HOST].roots
    library = next(roots.path(roots.find("engine", HOST)).glob("usr/lib/*/faketime/libfaketime.so.1"))
    setting = replace(circumstances(variations()).setting, clock_library=library)
    build, out = tmp_path / "build", tmp_path / "out"
    build.mkdir()
    out.mkdir()
    sandbox = Sandbox(builder_root(), ("sh", "-c", "date +%s; : > /out/x; stat -c %Y /out/x"), build, out)
    with (tmp_path / "log").open("w+b") as log:
        usage = Bwrap(setting).run(sandbox, log, threading.Event())
        log.seek(0)
        shown, touched = (int(n) for n in log.read().decode().splitlines()[1:])
    assert usage.status == 0
    now = int(subprocess.run(["date", "+%s"], capture_output=True, check=True).stdout)
    assert 399 * 86400 < shown - now < 401 * 86400
    assert abs(touched - now) < 3600
    assert (out / "x").stat().st_mode & 0o077 == 0, "umask 077"
