"""`inv promote`: what is judged before, what is written, and that it can be stopped anywhere and run again."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from engine import REPO
from trusted import STATEMENT, VERSION, Trusted, files, promoted

from pipeline.accept import judge
from pipeline.attest.helm import new_chart_key
from pipeline.attest.keys import ROLES, load_signing, new_key
from pipeline.attest.packages import CERTIFICATES
from pipeline.attest.places import LAYOUT, LINKS
from pipeline.attest.releasing import sign_release
from pipeline.attest.root import read_root
from pipeline.attest.succession import Wanted, new_packages_key
from pipeline.errors import PipelineError, TrustError, UsageError
from pipeline.promote import promote
from pipeline.report.progress import Progress
from pipeline.rpm.signatures import KEYS
from pipeline.trust.development import ensure_development, open_trust
from pipeline.verifier.encoding import canonical
from pipeline.verifier.report import ACCEPTED
from pipeline.verifier.verify import Options


@dataclass
class Bench:
    """A candidate, its trust root, and the keys of who makes a release of it."""

    made: Trusted

    def promote(self, **options: Any) -> tuple[Any, str]:
        said = StringIO()
        done = promote(self.made.dist, Progress(stream=said), **options)
        return done, said.getvalue()

    def refused(self) -> TrustError:
        before = content(self.made.dist)
        with pytest.raises(TrustError) as found:
            self.promote()
        assert content(self.made.dist) == before, "a refused candidate was changed"
        return found.value

    def reasons(self) -> list[str]:
        report = judge(self.made.dist, self.made.root.read_bytes(), Options())
        assert (report.exit_code == ACCEPTED) == (not report.reasons)
        return [str(r) for r in report.reasons]


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


def candidate(folder: Path, monkeypatch: pytest.MonkeyPatch, *, rebuilt: bool = True, **variations: Any) -> Bench:
    version, stand_in = variations.get("version", VERSION), variations.get("stand_in", True)
    dist = folder / "dist" / (f"{version}@debian-13" if stand_in else version)
    dist.mkdir(parents=True)
    made = Trusted(dist, folder / "repository", folder / "keys", **variations)
    for role in ROLES:
        new_key(role, made.keys)
    made.candidate()
    made.build("builder")
    if rebuilt:
        made.build("rebuilder")
    made.write_root()
    policy, layout = canonical(made.policy()) + b"\n", made.layout_target()
    made.write_metadata(
        {"policy.json": made.put("policy.json", policy), "layout.json": made.put("layout.json", layout)}, {}
    )
    shutil.rmtree(made.dist / "trust")
    monkeypatch.setenv("RFO_TRUST", str(made.repository))
    monkeypatch.setenv("RFO_KEYS", str(made.keys))
    monkeypatch.setenv("RFO_STORE", str(folder / "store"))
    return Bench(made)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield candidate(tmp_path, monkeypatch)


def test_a_candidate_becomes_a_release(bench: Bench) -> None:
    done, said = bench.promote()
    assert bench.reasons() == []
    assert "DEVELOPMENT" in said
    assert (done.version, done.policy, done.development) == (VERSION, "development", True)
    assert set(done.written) == {
        LAYOUT,
        STATEMENT,
        "provenance/release/images.sigstore.json",
        "provenance/release/legacy.json",
        "rfo-verify",
        "install-rfo.sh",
    }


def test_promoting_again_changes_nothing(bench: Bench) -> None:
    bench.promote()
    before = content(bench.made.dist), content(bench.made.repository)
    done, said = bench.promote()
    assert "is promoted already: nothing was changed" in said
    assert (content(bench.made.dist), content(bench.made.repository)) == before
    assert done.written == ()


def test_charts_are_signed_where_there_is_a_key(bench: Bench) -> None:
    new_chart_key(bench.made.keys, "charts of tests")
    _, said = bench.promote()
    assert "charts get no .prov" not in said
    found = list((bench.made.dist / "charts").glob("*.prov"))
    assert len(found) == 1
    assert b"BEGIN PGP SIGNATURE" in found[0].read_bytes()
    assert bench.reasons() == []


def test_charts_without_a_key_are_said(bench: Bench) -> None:
    _, said = bench.promote()
    assert "charts get no .prov" in said and "./inv keys new --role charts" in said


def test_the_release_carries_the_first_root(bench: Bench) -> None:
    """Whoever has the program of a release needs no other root to judge it."""
    bench.promote()
    command: list[str | Path] = [sys.executable, bench.made.dist / "rfo-verify", "--release", bench.made.dist]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "DEVELOPMENT" in done.stdout


# --- what a candidate may lack


def test_a_candidate_that_nobody_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = candidate(tmp_path, monkeypatch, rebuilt=False)
    error = bench.refused()
    assert "missing: too few rebuilders have made again" in error.reason
    assert "in-toto links of 8 steps by https://rfolabs.github.io/rfo/builders/development-rebuilder" in error.reason
    assert error.hint == f"make it again with another key: ./inv rebuild --from {bench.made.dist}"


def test_a_candidate_that_nobody_signed(bench: Bench) -> None:
    shutil.rmtree(bench.made.dist / "provenance")
    error = bench.refused()
    assert "missing: too few builders have signed provenance of" in error.reason
    assert error.hint.endswith(f"./inv release --version {VERSION} --base debian-13")


def test_a_link_that_is_missing(bench: Bench) -> None:
    (bench.made.dist / LINKS / f"pack.release.{bench.made.keyid8('rebuilder')}.link").unlink()
    error = bench.refused()
    assert "in-toto links of 1 steps by" in error.reason
    assert error.hint.endswith(f"./inv rebuild --from {bench.made.dist}")


def test_a_file_that_was_changed(bench: Bench) -> None:
    path = bench.made.dist / "rfo.linux-arm64.tar.gz"
    path.write_bytes(path.read_bytes() + b"\0")
    error = bench.refused()
    assert "rfo.linux-arm64.tar.gz: was changed" in error.reason
    assert "expected sha256:" in error.reason
    assert "rebuild" not in error.hint


@pytest.mark.parametrize("path", ["extra.txt", "provenance/notes.txt", "provenance/links/x.link", "images/blobs/x"])
def test_a_file_that_belongs_to_no_release(bench: Bench, path: str) -> None:
    bench.made.write(path, b"{}\n")
    assert path in bench.refused().reason


def test_a_rebuild_that_came_out_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def differ(statement: dict[str, Any]) -> None:
        statement["subjects"].pop("NOTES.md")
        statement["predicate"]["different"] = ["NOTES.md"]

    bench = candidate(tmp_path, monkeypatch, rebuilt=False)
    path = f"provenance/rebuilder-{bench.made.keyid8('rebuilder')}/rebuild.sigstore.json"
    bench.made.edits = {path: differ}
    bench.made.build("rebuilder")
    assert "NOTES.md: came out with other bytes when" in bench.refused().reason


def test_a_policy_that_accepts_no_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def strict(policy: dict[str, Any]) -> None:
        policy.update(name="default", development=False, bases=["openeuler-*"])

    bench = candidate(tmp_path, monkeypatch, edits={"policy": strict})
    error = bench.refused()
    assert "debian-13: is a base that the policy does not accept" in error.reason
    assert "openeuler-*" in error.reason


def test_a_key_for_packages_that_is_for_development(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_packages_key(tmp_path / "keys", Wanted("RFO packages (development)"))
    (tmp_path / "rpm").mkdir()
    shutil.copy(tmp_path / "keys" / CERTIFICATES, tmp_path / "rpm" / KEYS)

    def real(policy: dict[str, Any]) -> None:
        policy.update(name="default", development=False)

    found = candidate(tmp_path / "real", monkeypatch, packages=tmp_path / "rpm", edits={"policy": real}).refused()
    assert f"rpm/{KEYS}: has a key for development" in found.reason
    candidate(tmp_path / "development", monkeypatch, packages=tmp_path / "rpm").promote()


def test_a_release_key_that_the_policy_does_not_name(bench: Bench, tmp_path: Path) -> None:
    for suffix in ("key", "pub"):
        (bench.made.keys / f"release.{suffix}").unlink()
    new_key("release", bench.made.keys)
    assert "is nobody's according to the policy development" in bench.refused().reason


def test_the_builders_key_in_place_of_the_releases(bench: Bench) -> None:
    for suffix in ("key", "pub"):
        (bench.made.keys / f"release.{suffix}").write_bytes((bench.made.keys / f"builder.{suffix}").read_bytes())
    assert "a builder according to the policy" in bench.refused().reason


def test_a_host_without_the_release_key(bench: Bench) -> None:
    (bench.made.keys / "release.key").unlink()
    error = bench.refused()
    assert "release.key" in error.reason
    assert "keys new --role release" in error.hint


def test_no_release_and_no_root(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="holds no release"):
        promote(tmp_path, Progress(stream=StringIO()))
    monkeypatch.setenv("RFO_TRUST", str(tmp_path / "none"))
    with pytest.raises(TrustError, match="holds no trust root"):
        bench.promote()


# --- stopped anywhere

KILL = """
import os, signal, sys
import pipeline.attest.releasing as releasing, pipeline.trust.repository as repository
left, write = int(sys.argv[1]), releasing.write_atomically
def killed(path, data):
    global left
    if left == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / f".{path.name}.abcd1234").write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    write(path, data)
releasing.write_atomically = repository.write_atomically = killed
sys.exit(releasing.main())
"""
WRITES = (0, 2, 2, 2, 1, 2, 3, 5)
"""How many files each call may write before it is killed: six are signed, then the statement is stored and release,
snapshot and timestamp are written, then the snapshot in the release's folder."""


def test_a_signer_that_is_killed_wherever_it_writes(bench: Bench) -> None:
    request = json.dumps({"folder": str(bench.made.dist)}).encode()
    kept: Mapping[str, bytes] = {}
    for count in WRITES:
        run = [sys.executable, "-c", KILL, str(count)]
        done = subprocess.run(run, input=request, capture_output=True, check=False, cwd=REPO, timeout=900)
        assert done.returncode == -signal.SIGKILL, done.stdout
        assert bench.reasons(), "half a release was accepted"
        now = {n: d for n, d in content(bench.made.dist).items() if ".abcd1234" not in n and not n.startswith("trust/")}
        assert {n: now[n] for n in kept} == kept, "what was good was signed again"
        kept = now
        for path in bench.made.dist.rglob(".*.abcd1234"):
            path.unlink()  # as `promote` does before it asks
    assert STATEMENT in kept
    (bench.made.dist / ".release.json.abcd1234").write_bytes(b"half")
    bench.promote()
    assert bench.reasons() == []
    assert {n: d for n, d in content(bench.made.dist).items() if not n.startswith("trust/")} == kept


def test_what_was_signed_before_and_then_changed_is_signed_again(bench: Bench) -> None:
    sign_release(bench.made.dist, read_root(bench.made.repository), load_signing("release", bench.made.keys))
    for path in (LAYOUT, "provenance/release/images.sigstore.json", "provenance/release/legacy.json", "rfo-verify"):
        data = (bench.made.dist / path).read_bytes()
        (bench.made.dist / path).write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    done, _ = bench.promote()
    assert len(done.written) == 5
    assert bench.reasons() == []


def test_the_signer_answers_with_reasons_and_no_traceback(bench: Bench) -> None:
    for request in (b"", b"[]", b'{"folder": "/nonexistent"}'):
        run = [sys.executable, "-m", "pipeline.attest.releasing"]
        done = subprocess.run(
            run, input=request, capture_output=True, check=False, cwd=REPO, env=os.environ, timeout=900
        )
        assert done.returncode
        assert set(json.loads(done.stdout)) == {"reason", "hint", "kind"}
        assert done.stderr == b""


def test_the_signer_judges_for_itself(bench: Bench) -> None:
    """Whoever calls it without the checks of promote gets no signature either."""
    (bench.made.dist / "NOTES.md").write_bytes(b"# other\n")
    with pytest.raises(PipelineError, match=r"NOTES\.md: was changed"):
        sign_release(bench.made.dist, read_root(bench.made.repository), load_signing("release", bench.made.keys))
    assert not (bench.made.dist / STATEMENT).exists()


def test_a_release_made_by_the_tests_themselves_is_promoted_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = promoted(tmp_path)
    monkeypatch.setenv("RFO_TRUST", str(made.repository))
    monkeypatch.setenv("RFO_STORE", str(tmp_path / "store"))
    said = StringIO()
    promote(made.dist, Progress(stream=said))
    assert "promoted already" in said.getvalue()


def test_a_first_run_has_all_that_promoting_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The development root, its keys and its policy, as `inv release` makes them; and what yanking a release does."""
    monkeypatch.setenv("RFO_TRUST", str(tmp_path / "repository"))
    monkeypatch.setenv("RFO_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("RFO_STORE", str(tmp_path / "store"))
    ensure_development(REPO, Progress(stream=StringIO()))
    dist = tmp_path / "dist" / f"{VERSION}@debian-13"
    dist.mkdir(parents=True)
    bench = Bench(Trusted(dist, tmp_path / "repository", tmp_path / "keys"))
    bench.made.candidate()
    bench.made.build("builder")
    bench.made.build("rebuilder")
    bench.promote()
    assert bench.reasons() == []
    assert list((dist / "charts").glob("*.prov"))
    open_trust(REPO).yank(VERSION, "a hole")
    open_trust(REPO).snapshot_into(dist)
    assert bench.reasons() == [f"{VERSION}@debian-13: was taken back"]


def test_the_commands(bench: Bench) -> None:
    def inv(*arguments: str) -> "subprocess.CompletedProcess[str]":
        run = [sys.executable, "-m", "invoke", *arguments]
        return subprocess.run(run, capture_output=True, text=True, check=False, cwd=REPO, timeout=900)

    dist = str(bench.made.dist)
    early = inv("verify", "--release", dist)
    assert early.returncode == TrustError.exit_code
    assert f"./inv promote --from {dist}" in early.stderr
    done = inv("promote", "--from", dist, "--download-url", "https://releases.invalid/rfo")
    assert done.returncode == 0, done.stderr
    assert "DEVELOPMENT" in done.stdout + done.stderr
    assert b"https://releases.invalid/rfo" in (bench.made.dist / "install-rfo.sh").read_bytes()
    assert inv("verify", "--release", dist).returncode == 0
    again = inv("promote", "--from", dist)
    assert (again.returncode, "promoted already" in again.stdout + again.stderr) == (0, True)
    assert inv("promote").returncode == UsageError.exit_code
