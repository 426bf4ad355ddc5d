"""A repository that is kept: releases are merged into it, it is read by dnf, and it is whole whatever happens."""

import dataclasses
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dnf
import pytest
import yaml
from engine import BASE, HOST, REPO, fails, said, shared_store
from faults import own_mounts
from repositories import RPM_ARCH, VERSIONS, Releases, context, make_packages, make_releases
from rpm_mirror import make_key, publish
from trusted import Trusted, files

from pipeline.attest.succession import Wanted as Key
from pipeline.attest.succession import new_packages_key, rotate_packages_key
from pipeline.context import Context, Options
from pipeline.errors import TrustError, UsageError
from pipeline.model import Digest
from pipeline.report.progress import Progress
from pipeline.repository.add import add
from pipeline.repository.check import Checked, check
from pipeline.repository.incoming import Wanted
from pipeline.repository.index import read_index, read_keys
from pipeline.repository.kept import MARK, find_repository
from pipeline.repository.remove import Unwanted, remove
from pipeline.rpm.signatures import KEYS
from pipeline.trust.development import open_trust
from pipeline.verifier.repository import verify_repository
from pipeline.verifier.verify import Options as Verifying

FIRST, SECOND, THIRD = VERSIONS
FOLDER = f"{BASE}/{RPM_ARCH}"
SOURCE = f"{BASE}/source"
INDEX = "repodata/repomd.xml"
NAMES = ("rfo-agent", "rfo-common", "rfo-release", "rfo-server")


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return make_releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture(autouse=True)
def trust(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFO_KEYS", str(releases.keys))
    monkeypatch.setenv("RFO_TRUST", str(releases.trust))


@pytest.fixture(scope="module")
def two(releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the first two releases."""
    folder = tmp_path_factory.mktemp("two") / "kept"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFO_KEYS", str(releases.keys))
        patch.setenv("RFO_TRUST", str(releases.trust))
        for version in (FIRST, SECOND):
            add(Wanted(releases.dist(version), folder), context())
    return folder


@pytest.fixture(scope="module")
def three(releases: Releases, two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the third one, which lets the first fall out."""
    folder = copied(two, tmp_path_factory.mktemp("three") / "kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFO_KEYS", str(releases.keys))
        add(Wanted(releases.dist(THIRD), folder, keep=2, candidate=True), context())
    return folder


@pytest.fixture
def kept(two: Path, tmp_path: Path) -> Path:
    """A repository of the first two releases, to be changed."""
    return copied(two, tmp_path / "kept")


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def content(folder: Path) -> dict[str, str]:
    return {name: Digest.of_file(folder / name).hex for name in files(folder)}


def of(version: str, name: str = "") -> str:
    """A package's file, or the part of it that tells its version."""
    end = "noarch" if name == "rfo-release" else RPM_ARCH
    number = f"{version.removeprefix('v')}-1.deb13"
    return f"{FOLDER}/{name}-{number}.{end}.rpm" if name else number


def subjects(found: Checked) -> set[str]:
    return {f.subject for f in found.findings}


def reasons(found: Checked) -> str:
    return "\n".join(f"{f.subject}: {f.reason} -> {f.remedy}" for f in found.findings)


def index_of(folder: Path, name: str = FOLDER) -> Any:
    return read_index(folder / name, read_keys((folder / KEYS).read_bytes(), KEYS), name)


def judged(folder: Path, releases: Releases) -> list[str]:
    """Why a host refuses it that sees it for the first time."""
    report = verify_repository(folder, releases.made[FIRST].root.read_bytes(), Verifying())
    return [str(reason) for reason in report.reasons]


# --- adding


def test_two_releases_in_one_repository(two: Path) -> None:
    index = index_of(two)
    assert index.problem is None
    assert set(index.packages) == {of(v, n).rpartition("/")[2] for v in (FIRST, SECOND) for n in NAMES}
    assert index.repomd.revision == 1668729601, "one more than before: both releases are of one day"
    assert {p.name for p in (two / "releases").iterdir()} == {f"{v}@{BASE}" for v in (FIRST, SECOND)}
    assert sum(p.stat().st_size for p in (two / "releases").rglob("*") if p.is_file()) < 1 << 20
    assert (two / KEYS).read_bytes() == (two / "releases" / f"{SECOND}@{BASE}" / "rpm" / KEYS).read_bytes()


def test_the_verifier_accepts_it(two: Path, three: Path, releases: Releases) -> None:
    assert judged(two, releases) == judged(three, releases) == []


def test_dnf_reads_it(two: Path, three: Path, tmp_path: Path) -> None:
    for folder, versions in ((two, (FIRST, SECOND)), (three, (SECOND, THIRD))):
        host = dnf.Host(tmp_path / folder.parent.name)
        host.trust("rfo", folder / FOLDER, folder / KEYS)
        listed = host.dnf("repoquery", "--quiet", "--queryformat", "%{name} %{evr}", "rfo*").split("\n")
        assert {f"{n} {of(v)}" for n in NAMES for v in versions} == {line for line in listed if line.startswith("rfo")}
    newest = host.dnf("repoquery", "--quiet", "--latest-limit=1", "--queryformat", "%{evr}", "rfo-server")
    assert of(THIRD) in newest, "rfor10 is newer than rfor2"


def test_the_same_command_again_changes_nothing(kept: Path, releases: Releases) -> None:
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in kept.rglob("*") if p.is_file()}
    done = add(Wanted(releases.dist(SECOND), kept), context())
    assert not any(f.written for f in done.folders)
    assert (done.added, done.removed, done.gone, done.evidence) == ((), (), (), ())
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in kept.rglob("*") if p.is_file()} == before


def test_older_versions_fall_out(three: Path) -> None:
    assert set(index_of(three).packages) == {of(v, n).rpartition("/")[2] for v in (SECOND, THIRD) for n in NAMES}
    assert not [name for name in files(three) if f"-{of(FIRST)}." in name or f"{FIRST}@" in name]
    assert check(three, "", context()).findings == []


def test_metadata_that_others_may_be_reading_stay_for_one_round(two: Path, three: Path) -> None:
    before, after = ({f.path for f in index_of(folder).repomd.files.values()} for folder in (two, three))
    assert {f"repodata/{p.name}" for p in (three / FOLDER / "repodata").glob("*.gz")} == before | after


def test_what_would_be_done(kept: Path, releases: Releases, tmp_path: Path) -> None:
    before = content(kept)
    done = add(Wanted(releases.dist(THIRD), kept, keep=1), context(dry_run=True))
    assert content(kept) == before
    assert set(done.added) >= {of(THIRD, name) for name in NAMES}
    assert set(done.removed) >= {of(v, name) for v in (FIRST, SECOND) for name in NAMES}
    assert done.gone == (f"{FIRST}@{BASE}", f"{SECOND}@{BASE}")
    add(Wanted(releases.dist(THIRD), tmp_path / "new"), context(dry_run=True))
    assert not (tmp_path / "new").exists()


def test_files_of_others_are_said_and_left_alone(kept: Path, releases: Releases) -> None:
    for name in ("index.html", f"{FOLDER}/other-1.noarch.rpm", "releases/notes.txt", f"releases/{FIRST}@{BASE}/x"):
        (kept / name).write_text("not ours\n")
    done = add(Wanted(releases.dist(SECOND), kept), context())
    assert done.unknown == (
        f"{FOLDER}/other-1.noarch.rpm",
        "index.html",
        "releases/notes.txt",
        f"releases/{FIRST}@{BASE}/x",
    )
    assert all((kept / name).is_file() for name in done.unknown)
    assert subjects(check(kept, "", context())) == set(done.unknown)


def test_a_lost_package_comes_back_with_its_release(kept: Path, releases: Releases) -> None:
    before = content(kept)
    (kept / of(SECOND, "rfo-server")).unlink()
    flip(kept / of(SECOND, "rfo-agent"))
    error = fails(lambda: add(Wanted(releases.dist(THIRD), kept), context()))
    assert "rfo-server" in error.reason and "is missing, and the metadata name it" in error.reason
    done = add(Wanted(releases.dist(SECOND), kept), context())
    assert set(done.added) == {of(SECOND, "rfo-server"), of(SECOND, "rfo-agent")}
    assert content(kept) == before


# --- what is refused


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_candidate_is_refused_unless_it_is_asked_for(releases: Releases, tmp_path: Path) -> None:
    source = copied(releases.dist(FIRST), tmp_path / "candidate")
    shutil.rmtree(source / "provenance" / "release")
    error = fails(lambda: add(Wanted(source, tmp_path / "kept"), context()))
    assert isinstance(error, TrustError) and "is a candidate and no release" in error.reason
    assert not (tmp_path / "kept").exists()
    run = context()
    add(Wanted(source, tmp_path / "kept", candidate=True), run)
    assert "rfo-verify refuses a repository with it" in said(run)
    assert judged(tmp_path / "kept", releases)
    done = add(Wanted(releases.dist(FIRST), tmp_path / "kept"), context())
    assert not done.added and not any(f.written for f in done.folders), "only the evidence came"
    assert judged(tmp_path / "kept", releases) == []


def test_evidence_that_is_not_accepted_keeps_others_out(kept: Path, releases: Releases) -> None:
    before = content(kept)
    flip(kept / "releases" / f"{FIRST}@{BASE}" / "provenance" / "release" / "release.sigstore.json")
    for dry_run in (True, False):
        error = fails(lambda d=dry_run: add(Wanted(releases.dist(THIRD), kept), context(dry_run=d)))  # type: ignore[misc]
        assert isinstance(error, TrustError) and f"{FIRST}@{BASE} is in {kept}, and is not accepted" in error.reason
    add(Wanted(releases.dist(FIRST), kept), context())
    assert content(kept) == before, "the release itself brings its evidence"


def test_a_release_that_is_not_as_it_was_signed(releases: Releases, tmp_path: Path) -> None:
    source = copied(releases.dist(FIRST), tmp_path / releases.dist(FIRST).name)
    flip(source / "rpm" / of(FIRST, "rfo-server"))
    for candidate in (False, True):
        error = fails(lambda c=candidate: add(Wanted(source, tmp_path / "kept", candidate=c), context()))  # type: ignore[misc]
        assert of(FIRST, "rfo-server") in error.reason
    assert not (tmp_path / "kept").exists()


def test_a_package_is_never_replaced_by_another_of_its_name(odd: Path, kept: Path) -> None:
    before = content(kept)
    error = fails(lambda: add(Wanted(odd, kept, candidate=True), context()))
    assert isinstance(error, TrustError)
    assert "would be replaced by another package of the same name and version" in error.reason
    assert content(kept) == before
    shutil.rmtree(kept / "releases" / f"{SECOND}@{BASE}")
    error = fails(lambda: add(Wanted(odd, kept, candidate=True), context()))
    assert "would be replaced" in error.reason, "nothing says that the file that is there is damaged"


def test_an_older_release_that_would_not_be_kept(three: Path, releases: Releases) -> None:
    error = fails(lambda: add(Wanted(releases.dist(FIRST), three, keep=2), context()))
    assert isinstance(error, UsageError) and "is older than the newest 2" in error.reason


def test_a_host_without_a_key_makes_none(kept: Path, releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFO_KEYS", str(kept.parent / "none"))
    error = fails(lambda: add(Wanted(releases.dist(SECOND), kept), context()))
    assert isinstance(error, TrustError) and "there is no key for packages" in error.reason
    assert not (kept.parent / "none").exists()


def test_folders_that_are_no_repository(releases: Releases, tmp_path: Path, kept: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    error = fails(lambda: add(Wanted(releases.dist(FIRST), tmp_path / "other"), context()))
    assert "is no repository, and not empty" in error.reason
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["file"]
    assert "is no folder" in fails(lambda: find_repository(tmp_path / "none")).reason
    (kept / MARK).unlink()  # as after copying it without hidden files
    find_repository(kept)
    (kept / BASE / "aarch64").symlink_to(kept / FOLDER)
    assert "is a link" in fails(lambda: add(Wanted(releases.dist(FIRST), kept), context())).reason


def test_a_release_without_packages(releases: Releases, tmp_path: Path) -> None:
    made = Trusted(tmp_path / "dist", tmp_path, releases.keys)
    made.dist.mkdir()
    made.candidate()
    assert "has no packages" in fails(lambda: add(Wanted(made.dist, tmp_path / "kept"), context())).reason


def test_two_at_once(kept: Path, releases: Releases) -> None:
    with (kept / MARK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        error = fails(lambda: add(Wanted(releases.dist(SECOND), kept), context()))
    assert isinstance(error, UsageError) and "is at work" in error.reason


def test_a_key_that_readers_do_not_know(
    kept: Path, releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(kept)
    monkeypatch.setenv("RFO_KEYS", str(tmp_path / "keys"))
    new_packages_key(tmp_path / "keys", Key())
    error = fails(lambda: add(Wanted(releases.dist(THIRD), kept), context()))
    assert isinstance(error, TrustError) and f"is not in {KEYS} of {THIRD}" in error.reason
    assert content(kept) == before


def test_another_key_signs_for_releases_that_name_it(
    kept: Path, releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = copied(releases.keys, tmp_path / "keys")
    monkeypatch.setenv("RFO_KEYS", str(keys))
    new = rotate_packages_key(keys, Key())[0].public.fingerprint
    source = candidate(releases, tmp_path, THIRD, keys)
    add(Wanted(source, kept, candidate=True), context())
    assert {index_of(kept, f).signer for f in (FOLDER, SOURCE)} == {new}
    assert check(kept, "", context()).findings == [], "the old key's packages can be checked as before"
    alone = copied(keys, tmp_path / "withdrawn")
    monkeypatch.setenv("RFO_KEYS", str(alone))
    rotate_packages_key(alone, Key(), keep=False)
    without = candidate(releases, tmp_path / "again", "v1.25.4+rfor11", alone)
    error = fails(lambda: add(Wanted(without, kept, candidate=True), context()))
    assert "is signed by a key that is not trusted" in error.reason and "--keep" in error.hint
    add(Wanted(without, kept, keep=1, candidate=True), context())
    assert check(kept, "", context()).findings == []


def candidate(releases: Releases, folder: Path, version: str, keys: Path, **spec: Any) -> Path:
    """A release that nobody promoted."""
    packages = make_packages(folder / "packages" / version, version, keys, **spec)
    made = Trusted(folder / f"{version}.candidate", releases.trust, releases.keys, version=version, packages=packages)
    made.dist.mkdir()
    made.candidate()
    return made.dist


# --- removing


def unwanted(folder: Path, *versions: str, **more: Any) -> Unwanted:
    return Unwanted([f"{v}@{BASE}" for v in versions], folder, **more)


@pytest.mark.parametrize("leaving", [FIRST, SECOND])
def test_a_release_is_taken_out(kept: Path, releases: Releases, tmp_path: Path, leaving: str) -> None:
    (stays,) = {FIRST, SECOND} - {leaving}
    host, before, revision = dnf.Host(tmp_path / "host"), content(kept), index_of(kept).repomd.revision
    host.trust("rfo", kept / FOLDER, kept / KEYS)
    query = ("repoquery", "--quiet", "--queryformat", "%{name} %{evr}", "rfo*")
    assert f"rfo-server {of(leaving)}" in host.dnf(*query).splitlines()
    planned = remove(unwanted(kept, leaving), context(dry_run=True))
    assert content(kept) == before, "nothing was done yet"
    done = remove(unwanted(kept, leaving), context())
    assert {of(leaving, name) for name in NAMES} < set(done.removed)
    assert (done.release, done.gone, done.added, done.unknown) == ("", (f"{leaving}@{BASE}",), (), ())
    assert dataclasses.replace(planned, dry_run=False) == done
    assert not [name for name in files(kept) if of(leaving) in name or f"{leaving}@" in name]
    assert index_of(kept).repomd.revision == revision + 1, "what hosts have seen is older"
    assert (kept / KEYS).read_bytes() == (kept / "releases" / f"{stays}@{BASE}" / "rpm" / KEYS).read_bytes()
    assert check(kept, "", context()).findings == []
    assert judged(kept, releases) == []
    listed = [line for line in host.dnf(*query).splitlines() if line.startswith("rfo")]
    assert sorted(listed) == [f"{name} {of(stays)}" for name in NAMES]


def test_what_is_not_accepted_any_more_is_taken_out(kept: Path, releases: Releases) -> None:
    for version in (FIRST, SECOND):
        flip(kept / "releases" / f"{version}@{BASE}" / "provenance" / "release" / "release.sigstore.json")
    error = fails(lambda: remove(unwanted(kept, FIRST), context()))
    assert isinstance(error, TrustError)
    assert f"./inv repo remove --release {FIRST}@{BASE} --release {SECOND}@{BASE} --repo {kept}" in error.hint
    add(Wanted(releases.dist(SECOND), kept, candidate=True), context())
    (kept / of(FIRST, "rfo-server")).unlink()  # nor must it be whole
    remove(unwanted(kept, FIRST, candidate=True), context())
    assert {p.name for p in (kept / "releases").iterdir()} == {f"{SECOND}@{BASE}"}
    assert check(kept, "", context()).findings == []


def test_a_release_that_was_taken_back_keeps_others_out_until_it_is_taken_out(
    kept: Path, releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFO_TRUST", str(copied(releases.trust, tmp_path / "trust")))
    open_trust(REPO).yank(FIRST, "loses data")
    error = fails(lambda: add(Wanted(releases.dist(SECOND), kept), context()))
    assert isinstance(error, TrustError)
    assert "was taken back" in error.reason and "loses data" in error.reason
    assert f"./inv repo remove --release {FIRST}@{BASE}" in error.hint
    remove(unwanted(kept, FIRST), context())
    add(Wanted(releases.dist(THIRD), kept), context())
    assert {p.name for p in (kept / "releases").iterdir()} == {f"{v}@{BASE}" for v in (SECOND, THIRD)}


def test_what_cannot_be_taken_out(kept: Path) -> None:
    before = content(kept)
    for dry_run in (True, False):
        run = context(dry_run=dry_run)
        error = fails(lambda r=run: remove(Unwanted(["v1.25.4+rfor1"], kept), r))  # type: ignore[misc]
        assert isinstance(error, UsageError)
        assert f"has no release v1.25.4+rfor1\n  -> it has {FIRST}@{BASE}, {SECOND}@{BASE}" in error.render()
        error = fails(lambda r=run: remove(unwanted(kept, FIRST, SECOND), r))  # type: ignore[misc]
        assert isinstance(error, UsageError) and "has no other release" in error.reason
    assert content(kept) == before
    flip(kept / of(SECOND, "rfo-server"))
    error = fails(lambda: remove(unwanted(kept, FIRST), context()))
    assert f"{of(SECOND, 'rfo-server')} is damaged" in error.reason
    assert error.hint == f"add {SECOND}@{BASE} again"


def test_a_folder_is_not_left_empty(kept: Path) -> None:
    for path in (kept / SOURCE).glob(f"*{of(SECOND)}*"):
        path.unlink()
    shutil.rmtree(kept / SOURCE / "repodata")
    before = content(kept)
    error = fails(lambda: remove(unwanted(kept, FIRST), context()))
    assert isinstance(error, UsageError) and f"{kept / SOURCE} has nothing else" in error.reason
    assert content(kept) == before
    shutil.rmtree(kept / SOURCE)  # as its hint says
    remove(unwanted(kept, FIRST), context())
    assert {p.name for p in (kept / "releases").iterdir()} == {f"{SECOND}@{BASE}"}


REMOVAL = (
    rf"rename {FOLDER}/repodata/[0-9a-f]+-primary",
    rf"rename {FOLDER}/repodata/repomd\.xml$",
    rf"remove {FOLDER}/rfo-common-",
    r"rename releases/\.removed-",
)


def test_a_removal_that_was_killed_goes_on(kept: Path, two: Path, tmp_path: Path) -> None:
    asked = ("--remove", f"{FIRST}@{BASE}", "--repository", kept)
    for event in REMOVAL:
        done = run(*asked, "--kill", event)
        assert done.returncode == -9, f"{event}: {done.stderr}"
    done = run(*asked)
    assert done.returncode == 0, done.stderr
    whole = copied(two, tmp_path / "whole")
    remove(unwanted(whole, FIRST), context())
    assert content(kept) == content(whole)


# --- accidents


STAGES = {
    "packages": rf"rename {FOLDER}/rfo-common-",
    "evidence": r"rename releases/\.new-.*/release\.json",
    "all evidence": rf"rename releases/{THIRD.replace('+', '.')}@{BASE}$",
    "metadata": rf"rename {FOLDER}/repodata/[0-9a-f]+-primary",
    "signature": rf"rename {FOLDER}/repodata/repomd\.xml\.asc",
    "index": rf"rename {FOLDER}/repodata/repomd\.xml$",
    "removal": rf"remove {FOLDER}/rfo-common-",
    "removal of evidence": r"remove release\.json|rmdir",
}


def run(*arguments: object, prefix: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    command = [*prefix, sys.executable, REPO / "tests" / "repositories.py", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "RFO_TEST_STORE": str(shared_store().root)}
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, env=environment, cwd=REPO
    )


def test_killed_in_each_stage_the_same_command_goes_on(releases: Releases, kept: Path, three: Path) -> None:
    asked = ("--source", releases.dist(THIRD), "--repository", kept, "--keep", 2)
    for stage, event in STAGES.items():
        done = run(*asked, "--kill", event)
        assert done.returncode == -9, f"{stage}: {done.stderr}"
        for folder in (FOLDER, SOURCE):
            index = index_of(kept, folder)
            assert (index.problem is None) == (stage != "index" or folder != FOLDER), stage
            for name, package in index.packages.items():
                assert Digest.of_file(kept / folder / name).hex == package.sha256, stage
    done = run(*asked)
    assert done.returncode == 0, done.stderr
    assert content(kept) == content(three)


def test_on_a_full_disk_nothing_is_half_there(releases: Releases, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    asked = ["--source", releases.dist(THIRD), "--repository", disk / "kept", "--copy", tmp_path / "result"]
    for stage in ("packages", "all evidence", "metadata"):
        asked += ["--fill", STAGES[stage]]
    done = run(*asked, prefix=own_mounts(f"mount -t tmpfs -o size=24m none {disk}"))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    for line in done.stdout.splitlines():
        kind, reason, hint = json.loads(line)
        assert kind == "StoreError" and str(disk) in reason and "free some space" in hint, line
    assert check(tmp_path / "result", "", context()).findings == []


# --- checking


@pytest.fixture(scope="module")
def odd(releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A candidate of the second release's version whose packages do not fit together."""
    folder = tmp_path_factory.mktemp("odd")
    exact, systemd = "Requires:       rfo-common = %{version}-%{release}", "\nRequires(post): systemd"
    server, agent = (f"Service of an RFO {role} node\n" for role in ("server", "agent"))
    change = {
        f"{server}{exact}{systemd}": f"{server}Requires: rfo-common >= 1{systemd}",
        f"{agent}{exact}{systemd}": f"{agent}Requires: no-such-thing >= 9{systemd}",
        "%files          agent": "%files          agent\n%{_bindir}/rfo",
    }
    return candidate(releases, folder, SECOND, releases.keys, change=change)


@pytest.fixture(scope="module")
def misfit(releases: Releases, odd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("misfit") / "kept"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFO_KEYS", str(releases.keys))
        add(Wanted(odd, folder, candidate=True), context())
    return folder


def test_packages_that_do_not_fit_together(misfit: Path) -> None:
    found = reasons(check(misfit, BASE, context()))
    assert f"rfo-common-{of(SECOND)}: owns /usr/bin/rfo, and so does rfo-agent" in found
    assert f"rfo-agent-{of(SECOND)}: does not require rfo-common = {of(SECOND)}" in found
    assert f"rfo-server-{of(SECOND)}: requires rfo-common >= 1; expected rfo-common = " in found
    assert f"{of(SECOND, 'rfo-agent')}: cannot be installed: nothing provides no-such-thing >= 9" in found
    assert "pipeline/repository/hosts.yaml" in found


def test_each_thing_that_is_wrong_is_named(kept: Path) -> None:
    flip(kept / of(FIRST, "rfo-server"))
    (kept / of(FIRST, "rfo-agent")).unlink()
    shutil.copy(kept / of(FIRST, "rfo-common"), kept / FOLDER / "rfo-stray.rpm")
    (kept / SOURCE / INDEX).write_bytes((kept / SOURCE / INDEX).read_bytes().replace(b"<repomd", b"<repomd "))
    found = check(kept, "", context())
    text = reasons(found)
    assert f"{of(FIRST, 'rfo-server')}: is not what the metadata name" in text
    assert f"{of(FIRST, 'rfo-agent')}: is missing, and the metadata name it" in text
    assert f"{FOLDER}/rfo-stray.rpm: belongs to nothing" in text
    assert f"{SOURCE}/{INDEX}: was changed after it was signed" in text
    assert "./inv repo add --from" in text
    assert found.exit_code == 5


def test_a_key_that_has_expired_speaks_for_no_metadata(kept: Path) -> None:
    signer = dnf.new_signer("expired", days=30)
    (kept / KEYS).write_bytes(dnf.key_file(kept.parent / KEYS, signer).read_bytes() + (kept / KEYS).read_bytes())
    signer.sign_index(kept / FOLDER)
    text = reasons(check(kept, "", context()))
    assert f"{FOLDER}/{INDEX}: is signed by {signer.certificate.public.fingerprint}, which has expired" in text
    assert f"{KEYS}: is not the file of the newest release" in text


@pytest.mark.parametrize("lost", [KEYS, f"{FOLDER}/{INDEX}", f"{FOLDER}/{INDEX}.asc", "releases"])
def test_what_is_lost(kept: Path, lost: str) -> None:
    shutil.rmtree(kept / lost) if (kept / lost).is_dir() else (kept / lost).unlink()
    found = check(kept, "", context())
    assert found.findings and all(f.remedy for f in found.findings)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A checkout with a base, and its mirror: packages that RFO's require, in the layout of openEuler's."""
    folder = tmp_path_factory.mktemp("mirror")
    key = make_key(folder / "key", "rsa2048")
    made = dnf.stand_in(folder)
    publish(folder / "OS" / RPM_ARCH, made, key)
    publish(folder / "lacking" / RPM_ARCH, [p for p in made if not p.name.startswith("kmod-")], key)
    for name in ("OS", "lacking"):
        base = {
            "name": f"small-{name.lower()}",
            "family": "rpm",
            "origin": "https://mirror.example",
            "keys": [key.fingerprint],
            "key_file": f"{name}/{{rpm_arch}}/RPM-GPG-KEY-openEuler",
            "suites": {HOST: [name]},
            "roots": {"builder": {"per": "host", "packages": ["filesystem"]}},
            "compilers": {},
        }
        path = folder / "checkout" / "images" / "openeuler" / "bases" / f"{base['name']}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(base))
    yield folder / "checkout", folder


def solve(kept: Path, mirror: tuple[Path, Path], base: str) -> Checked:
    checkout, origin = mirror
    run = Context(Options("", mirrors={base: str(origin)}), Progress(stream=sys.stderr), checkout=checkout)
    return check(kept, base, run)


def test_what_packages_require_is_in_the_base(two: Path, mirror: tuple[Path, Path]) -> None:
    found = solve(two, mirror, "small-os")
    assert found.findings == []
    assert {f.folder: f.requirements for f in found.folders}[FOLDER] == "base small-os"


def test_what_the_base_has_not_is_named_with_who_needs_it(two: Path, mirror: tuple[Path, Path]) -> None:
    text = reasons(solve(two, mirror, "small-lacking"))
    assert f"nothing provides kmod needed by rfo-common-{of(FIRST)}" in text
    assert f"{of(SECOND, 'rfo-common')}: cannot be installed" in text


def test_without_a_base_it_says_what_was_not_looked_for(two: Path) -> None:
    found = check(two, "", context())
    assert found.findings == []
    (note,) = found.notes
    assert "without a base: /bin/sh, coreutils" in note and "systemd" in note
    assert {f.requirements for f in found.folders} == {"of each other alone", "none, sources"}
    assert check(two, BASE, context()).notes == []


# --- the command


def command(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "invoke", "repo", *map(str, arguments)],
        cwd=REPO, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_as_json(kept: Path, releases: Releases) -> None:
    done = command("add", "--from", releases.dist(SECOND), "--repo", kept, "--keep", 1, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["dry_run"], found["release"], found["added"]) == (True, f"{SECOND}@{BASE}", [])
    assert of(FIRST, "rfo-server") in found["removed"]
    done = command("remove", "--release", f"{FIRST}@{BASE}", "--repo", kept, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["dry_run"], found["release"], found["gone"]) == (True, "", [f"{FIRST}@{BASE}"])
    (kept / of(FIRST, "rfo-server")).unlink()
    done = command("check", "--repo", kept, "--json")
    assert done.returncode == 5, done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert of(FIRST, "rfo-server") in {f["subject"] for f in found["findings"]}


def test_what_the_command_refuses(kept: Path) -> None:
    for arguments in (
        ("mend",), ("add",), ("add", "--repo", kept), ("add", "--repo", kept, "--from", "x", "--keep=0"),
        ("remove", "--repo", kept), ("remove", "--repo", kept, "--release", "v1", "--keep=1"),
        ("check", "--repo", kept, "--release", "v1"), ("add", "--repo", kept, "--from", "x", "--base", BASE),
    ):  # fmt: skip
        done = command(*arguments)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("usage: ") and "Traceback" not in done.stderr
