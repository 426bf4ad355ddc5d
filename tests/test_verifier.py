"""rfo-verify as a program: one file, the standard library and openssl, no network; what it prints and remembers."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from engine import REPO
from tools import tool
from trusted import IDS, STATEMENT, VERSION, Trusted, copied, files, promoted

from pipeline.attest.keys import new_key
from pipeline.attest.standalone import render_verifier
from pipeline.model import ReleaseVersion
from pipeline.verifier.encoding import Refused, canonical
from pipeline.verifier.folder import Folder, Worker
from pipeline.verifier.policy import read_policy
from pipeline.verifier.report import Report, render_refused
from pipeline.verifier.verify import judge_candidate

TARBALL = "rfo.linux-arm64.tar.gz"
INSTALL = ("--arch", "arm64", "--for", "install")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "rfo-verify"
    path.write_bytes(render_verifier())
    return path


class Host:
    """A host with a state of its own, on which rfo-verify is run."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.state = folder / "state"
        self.program = program

    def run(
        self, *arguments: str | Path, prefix: tuple[str, ...] = (), **environment: str
    ) -> subprocess.CompletedProcess[str]:
        command = [*prefix, sys.executable, "-I", str(self.program), *map(str, arguments)]
        if "--state" not in arguments and "--release" in arguments:
            command += ["--state", str(self.state)]
        return subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=900
        )

    def verify(self, made: Trusted, *arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.run("--release", made.dist, "--root", made.root, *arguments, **more)

    @property
    def remembered(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / "state.json").read_bytes())
        return found


@pytest.fixture
def host(tmp_path: Path, program: Path) -> Host:
    return Host(tmp_path, program)


# --- one file


def test_the_file_is_the_same_each_time_and_needs_the_standard_library_alone() -> None:
    text = render_verifier()
    assert text == render_verifier()
    assert text.startswith(b"#!/usr/bin/env python3\n")
    tree = ast.parse(text)
    used = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    used |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in used} <= set(sys.stdlib_module_names)
    assert not used & {"socket", "ssl", "http", "urllib", "urllib.request", "asyncio"}
    assert max(len(line) for line in text.decode().splitlines()) <= 120


def test_the_oldest_python_reads_it(program: Path) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "vermin"), "-t=3.9-", "--no-tips", str(program)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_root_that_it_carries_is_trusted_at_first(good: Trusted, host: Host, tmp_path: Path) -> None:
    host.program = tmp_path / "rfo-verify"
    host.program.write_bytes(render_verifier(good.root.read_bytes()))
    assert host.run("--release", good.dist).returncode == 0
    other = promoted(tmp_path / "other")
    assert host.run("--release", other.dist, "--state", tmp_path / "fresh").returncode == 10


# --- what it says


def test_an_accepted_release(good: Trusted, host: Host) -> None:
    done = host.verify(good)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["KIND", "ARTIFACT", "BUILDERS", "REBUILDERS", "RESULT"]
    assert ["tarball", TARBALL, "1", "1", "accepted"] in [line.split() for line in lines]
    assert any(line.startswith("DEVELOPMENT: ") for line in lines)
    assert lines[-1] == f"accepted: {VERSION} (policy development)"
    assert not done.stderr


def test_a_refused_release(good: Trusted, host: Host, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    before = made.digest(TARBALL).hex
    (made.dist / TARBALL).write_bytes(b"evil")
    done = host.verify(made)
    assert done.returncode == 10
    assert done.stderr.splitlines() == [
        f"refused: {TARBALL}: was changed after it was signed, or is damaged",
        f"  expected sha256:{before}",
        f"  found    sha256:{made.digest(TARBALL).hex}",
        f"NOT ACCEPTED: {made.name}: 1 reasons",
    ]
    assert "accepted: " not in done.stdout
    assert not host.state.exists()


def test_as_json(good: Trusted, host: Host, tmp_path: Path) -> None:
    done = host.verify(good, "--json")
    found = json.loads(done.stdout)
    assert (found["accepted"], found["exit"], found["version"], found["folder"]) == (True, 0, VERSION, good.name)
    assert (found["policy"], found["root"], found["development"]) == ("development", "development", True)
    rows = {row["name"]: row for row in found["artifacts"]}
    assert set(rows) >= {a["name"] for a in good.manifest["artifacts"]} | {"binary/rfo/amd64/rfo", "image/pause/arm64"}
    assert rows[TARBALL] == {
        "kind": "tarball",
        "name": TARBALL,
        "digest": f"sha256:{good.digest(TARBALL).hex}",
        "builders": [IDS + "builder"],
        "rebuilders": [IDS + "rebuilder"],
        "result": "accepted",
    }
    made = copied(good, tmp_path)
    (made.dist / "NOTES.md").unlink()
    done = host.verify(made, "--json")
    assert done.returncode == 10
    assert [r["subject"] for r in json.loads(done.stdout)["refused"]] == ["NOTES.md"]


def test_names_cannot_steer_a_terminal(good: Trusted, host: Host, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    (made.dist / "\x1b[2Jaccepted: v1").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(made.dist) + b"/\xff")).write_bytes(b"")
    done = host.verify(made, PYTHONUTF8="1")
    assert done.returncode == 10
    assert "\x1b" not in done.stderr
    assert "\\x1b[2Jaccepted: v1: was added" in done.stderr


def test_bad_usage(good: Trusted, host: Host) -> None:
    for arguments in (
        (), ("--release", good.dist), ("--release", good.dist, "--root", "nowhere"),
        ("--release", good.dist, "--root", good.root, "--arch", "amd64"),
        ("--release", good.dist, "--root", good.root, "--as-of", "yesterday"),
        ("--release", good.dist, "--root", good.root, "--as-of", "2030-01-01", "--allow-stale"),
        ("--release", good.dist, "--root", good.root, "--expect-version", "1.2"),
        ("--unpack", good.dist / TARBALL), ("--compare", "v1.0.0+rfor1"), ("--no-such",),
    ):  # fmt: skip
        done = host.run(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert "Traceback" not in done.stderr


def test_what_is_no_release(host: Host, good: Trusted, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, reason in ((empty, "timestamp.json: is missing"), (tmp_path / "none", "is no folder")):
        done = host.run("--release", folder, "--root", good.root)
        assert done.returncode == 10
        assert reason in done.stderr
    assert host.run("--release", good.dist, "--root", good.dist / "NOTES.md").returncode == 10


# --- what it runs on


def test_no_network_is_needed_and_no_socket_is_opened(good: Trusted, host: Host, tmp_path: Path) -> None:
    alone = ("unshare", "--map-root-user", "--net")
    assert host.verify(good, prefix=alone).returncode == 0
    trace = tmp_path / "trace"
    done = host.verify(good, prefix=(tool("strace"), "-f", "-qq", "-e", "trace=%network,execve", "-o", str(trace)))
    assert done.returncode == 0, done.stderr
    calls = trace.read_text()
    assert "/openssl" in calls
    assert "socket(" not in calls
    assert "connect(" not in calls


def test_a_host_without_openssl(good: Trusted, host: Host, tmp_path: Path) -> None:
    done = host.verify(good, PATH=str(tmp_path))
    assert done.returncode == 3
    assert done.stderr.startswith("host: openssl is not installed")


@pytest.mark.parametrize(("code", "failure"), [(0, "accepts an altered message"), (1, "refuses a good signature")])
def test_an_openssl_that_does_not_verify(host: Host, tmp_path: Path, code: int, failure: str) -> None:
    fake = tmp_path / "bin" / "openssl"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\nexec /bin/sh -c 'cat >/dev/null; exit {code}'\n")
    fake.chmod(0o755)
    done = host.run("--self-test", PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert done.returncode == 3
    assert failure in done.stderr


def test_the_self_test(host: Host, tmp_path: Path) -> None:
    hostile = tmp_path / "openssl.cnf"
    hostile.write_text("openssl_conf = x\n[x]\nengines = y\n[y]\nz = w\n[w]\ndynamic_path = /nowhere.so\ninit = 1\n")
    done = host.run("--self-test", OPENSSL_CONF=str(hostile))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("self-test passed: OpenSSL ")


MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Runs a command from a small process: the most memory of one that vfork makes is at least that of its parent."""


def test_memory_does_not_grow_with_the_files(good: Trusted, host: Host, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    with (made.dist / TARBALL).open("ab") as file:
        file.truncate(512 << 20)
    command = [sys.executable, "-I", str(host.program), "--release", str(made.dist), "--root", str(made.root)]
    measured = [sys.executable, "-I", "-c", MEASURE, *command, "--state", str(host.state)]
    done = subprocess.run(measured, capture_output=True, text=True, check=True)
    code, memory = map(int, done.stdout.split())
    assert code == 10
    assert memory < 128 << 10  # KiB


def test_hashing_in_processes_and_in_threads(good: Trusted) -> None:
    folder = Folder(good.dist)
    expected = {name: good.digest(name).hex for name in files(good.dist)}
    assert Worker(folder.digest, list(folder.sizes)).digests() == expected
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        assert folder.hashing(folder.sizes)() == expected
    finally:
        done.set()
        other.join()


def test_a_hashing_process_that_is_killed(tmp_path: Path) -> None:
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(1 << 40)
    folder = Folder(tmp_path)
    worker = Worker(folder.digest, ["endless"])
    os.kill(worker.process, signal.SIGKILL)
    found = worker.digests()["endless"]
    assert isinstance(found, Refused)
    assert found.reason == "cannot be hashed"


# --- what it remembers


def test_what_is_remembered(good: Trusted, host: Host, tmp_path: Path) -> None:
    assert host.verify(good).returncode == 0
    assert (host.state / "root.json").read_bytes() == good.root.read_bytes()
    assert host.remembered["highest_version"] == VERSION
    assert host.remembered["metadata"] == {"release.json": 1, "targets.json": 1}
    made = copied(good, tmp_path)
    made.publish()
    assert host.verify(made).returncode == 0
    assert host.remembered["metadata"] == {"release.json": 2, "targets.json": 2}
    done = host.verify(good)
    assert done.returncode == 10
    assert "is older than what this host has accepted before" in done.stderr
    assert host.remembered["metadata"]["targets.json"] == 2
    assert sorted(p.name for p in host.state.iterdir()) == ["root.json", "state.json", "timestamp.json"]


def test_what_is_installed_is_remembered_when_it_is_said(good: Trusted, host: Host) -> None:
    assert host.run("--record-installed", "v1.0.0+rfor2", "--state", host.state).returncode == 0
    assert host.remembered["installed"] == "v1.0.0+rfor2"
    done = host.verify(good)
    assert done.returncode == 10
    assert "is older than what is installed" in done.stderr
    assert host.verify(good, "--allow-downgrade").returncode == 0
    assert host.remembered["installed"] == "v1.0.0+rfor2"


def test_a_host_that_remembers_needs_no_root(good: Trusted, host: Host) -> None:
    assert host.run("--release", good.dist).returncode == 2
    assert host.verify(good).returncode == 0
    assert host.run("--release", good.dist).returncode == 0


@pytest.mark.parametrize("name", ["root.json", "timestamp.json", "state.json"])
def test_a_damaged_memory_is_refused(good: Trusted, host: Host, name: str) -> None:
    assert host.verify(good).returncode == 0
    path = host.state / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert host.verify(good).returncode == 10
    path.unlink()
    path.symlink_to("/dev/zero")
    assert host.verify(good).returncode == 10


def test_memory_that_cannot_be_written_is_refused(good: Trusted, host: Host) -> None:
    host.state.parent.mkdir(exist_ok=True)
    host.state.write_text("no folder")
    done = host.verify(good)
    assert done.returncode == 10
    assert "cannot be" in done.stderr


def test_expiry_is_said_before_it_comes(host: Host, tmp_path: Path) -> None:
    made = promoted(tmp_path, days=30)
    assert re.search("note: timestamp of the trust root expires in (29|30) days", host.verify(made).stdout)
    stale = promoted(tmp_path / "stale", days=-2)
    host.state = tmp_path / "other"
    done = host.verify(stale)
    assert done.returncode == 11
    assert "expired: timestamp 1 of the trust root: expired 2 days ago" in done.stderr
    assert not host.state.exists()
    done = host.verify(stale, "--allow-stale")
    assert done.returncode == 0
    assert "note: timestamp 1 of the trust root: expired 2 days ago" in done.stdout
    assert host.verify(stale, "--as-of", "2026-01-01").returncode == 0


# --- downloading and installing


def download(host: Host, made: Trusted, folder: Path, *arguments: str) -> list[str]:
    """What a caller does: get what is wanted, within its size, and ask again until nothing is."""
    folder.mkdir()
    got: list[str] = []
    for _ in range(20):
        done = host.run("--wanted", "--release", folder, "--root", made.root, *arguments)
        assert done.returncode == 0, done.stderr
        lines = [line.split("\t") for line in done.stdout.splitlines()]
        if not lines:
            return got
        for name, limit in lines:
            source, target = made.dist / name, folder / name
            assert source.stat().st_size <= int(limit)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
            got.append(name)
    raise AssertionError("it does not end")


def test_what_installing_takes(good: Trusted, host: Host, tmp_path: Path) -> None:
    place = tmp_path / "downloaded"
    got = download(host, good, place, *INSTALL)
    assert len(got) == len(set(got))
    assert {n for n in got if not n.startswith(("trust/", "provenance/"))} == {
        "release.json", TARBALL, "sha256sum-arm64.txt", "rfo-verify",
    }  # fmt: skip
    named = ("--release", place, "--root", good.root)
    assert host.run(*named, *INSTALL).returncode == 0
    assert host.run(*named).returncode == 10
    more = host.run("--wanted", *named, *INSTALL, "--with", "images").stdout.splitlines()
    images = [f"rfo-images.linux-arm64.{end}" for end in ("tar.zst", "txt")]
    assert [line for line in more if "provenance/" not in line] == [
        f"{name}\t{(good.dist / name).stat().st_size}" for name in images
    ]
    signers = [f"{role}-{good.keyid8(role)}" for role in ("builder", "rebuilder")]
    assert [line.split("\t")[0] for line in more if "provenance/" in line] == [
        f"provenance/{signer}/bundle.sigstore.json" for signer in signers
    ]
    (place / TARBALL).write_bytes(b"evil")
    done = host.run(*named, *INSTALL)
    assert done.returncode == 10
    assert TARBALL in done.stderr


def test_everything_can_be_wanted(good: Trusted, host: Host, tmp_path: Path) -> None:
    place = tmp_path / "downloaded"
    assert sorted(download(host, good, place)) == [n for n in files(good.dist) if n != "trust/metadata/1.root.json"]
    assert host.run("--release", place, "--root", good.root).returncode == 0


def test_a_newer_root_is_wanted_when_it_is_needed(good: Trusted, host: Host, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    if not (made.keys / "targets-2.key").exists():
        new_key("targets-2", made.keys)
    made.write_root()
    made.write_root({"targets": ["targets-2"]})
    made.signers = {"targets": "targets-2"}
    made.publish()
    got = download(host, made, tmp_path / "downloaded", *INSTALL)
    assert [n for n in got if ".root." in n] == ["trust/metadata/2.root.json", "trust/metadata/3.root.json"]
    assert host.run("--release", tmp_path / "downloaded", "--root", made.root, *INSTALL).returncode == 0


def test_nothing_more_is_wanted_of_what_is_refused(good: Trusted, host: Host, tmp_path: Path) -> None:
    made = copied(good, tmp_path, signers={STATEMENT: "builder"})
    made.seal()
    made.publish()
    for name in [n for n in files(made.dist) if n.startswith("rfo")]:
        (made.dist / name).unlink()
    done = host.verify(made, "--wanted", *INSTALL)
    assert done.returncode == 10
    assert done.stdout == ""
    assert STATEMENT in done.stderr


def test_unpacking(good: Trusted, host: Host, tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    named = ("--unpack", good.dist / TARBALL, "--to", staging, "--digest")
    before = os.umask(0o077)
    try:
        done = host.run(*named, good.digest(TARBALL).hex)
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    assert subprocess.check_output([staging / "bin/rfo"], text=True) == f"rfo version {VERSION} linux/arm64\n"
    listed = subprocess.check_output(["tar", "-tzf", good.dist / TARBALL], text=True)
    assert [line.rstrip("/") for line in listed.splitlines()] == done.stdout.splitlines()
    modes = {p.relative_to(staging).as_posix(): p.stat().st_mode & 0o777 for p in staging.rglob("*")}
    assert modes["bin"] == modes["bin/rfo"] == 0o755
    assert modes["lib/systemd/system/rfo-server.service"] == 0o644
    assert host.run(*named, good.digest(TARBALL).hex).returncode == 10  # it is there already
    shutil.rmtree(staging)
    assert host.run(*named, "0" * 64).returncode == 10
    assert not staging.exists()


def test_versions_are_compared_as_the_engine_does(host: Host) -> None:
    texts = ["v1.9.0+rfor1", "v1.25.4+rfor1", "v1.25.4+rfor9", "v1.25.4+rfor10", "v1.25.10+rfor1", "v2.0.0+rfor1"]
    for left, right in [*combinations(texts, 2), ("v1.25.4+rfor1", "v1.25.4+rfor1")]:
        a, b = ReleaseVersion.parse(left), ReleaseVersion.parse(right)
        done = host.run("--compare", left, right)
        assert done.stdout == f"{(a > b) - (a < b)}\n"
    assert host.run("--compare", "v1.25.4", "v1.25.4+rfor1").returncode == 10


# --- before promoting


def test_a_candidate_is_judged_by_the_same_policy(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    for name in ("install-rfo.sh", "rfo-verify", "provenance/release", "trust", "provenance/layout.json"):
        path = made.dist / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    policy = read_policy(canonical(made.policy()) + b"\n", "policy.json")
    report = judge_candidate(made.dist, policy)
    assert report.exit_code == 0, reasons(report)
    assert {r.item.name for r in report.rows} >= {a["name"] for a in made.manifest["artifacts"]}
    (made.dist / f"provenance/rebuilder-{made.keyid8('rebuilder')}/rebuild.sigstore.json").unlink()
    (made.dist / "NOTES.md").write_text("other")
    report = judge_candidate(made.dist, policy)
    assert f"refused: {TARBALL}: was made again, with the same bytes, by too few rebuilders" in reasons(report)
    assert "refused: NOTES.md: was changed after it was signed" in reasons(report)


def reasons(report: Report) -> str:
    return "".join(map(render_refused, report.reasons))


def documented(mark: str) -> str:
    """The shell blocks of docs/verify.md for those who have the tools of others alone."""
    text = (REPO / "docs" / "verify.md").read_text().partition("## With tools of others")[2]
    blocks = re.findall(r"^```(.*?)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return "".join(body for kind, body in blocks if kind == mark)


def stock(script: str, made: Trusted, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run what is documented beside a release."""
    shutil.copy(made.root, made.dist.parent / "root.json")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-eu"], input=script, cwd=made.dist, env={**os.environ, "PATH": path, **environment},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip


def test_what_is_documented_for_tools_of_others_works(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    done = stock(documented("sh"), made)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Verified OK") == 3
    assert f"releases/{made.name}/release.sigstore.json" in done.stdout
    (made.dist / TARBALL).write_bytes(b"evil")
    done = stock(documented("sh"), made)
    assert done.returncode != 0
    assert f"{TARBALL}: FAILED" in done.stdout
    other = promoted(tmp_path / "other")
    shutil.rmtree(made.dist)
    shutil.copytree(other.dist, made.dist)
    done = stock(documented("sh"), made)
    assert done.returncode != 0
    assert "Verified OK" not in done.stdout


@pytest.mark.full
def test_what_is_documented_for_cosign_works(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    assert stock(documented("sh"), made).returncode == 0
    path = f"{Path(tool('cosign')).parent}:{os.environ['PATH']}"
    done = stock(documented("sh cosign"), made, PATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Verified OK") == 2
    (made.dist / "rfo.linux-amd64.tar.gz").write_bytes(b"evil")
    assert stock(documented("sh cosign"), made, PATH=path).returncode != 0


def test_metadata_are_read_by_python_tuf_as_well(good: Trusted, tmp_path: Path) -> None:
    """The fixture is what the field's own client accepts, so that the verifier is not tested on a dialect."""
    from tuf.ngclient import Updater, UpdaterConfig
    from tuf.ngclient.config import EnvelopeType
    from tuf.ngclient.fetcher import FetcherInterface

    class Files(FetcherInterface):
        def _fetch(self, url: str) -> Any:
            from tuf.api.exceptions import DownloadHTTPError

            path = Path(url.removeprefix("file://").replace("%40", "@").replace("%2B", "+"))
            if not path.exists():
                raise DownloadHTTPError("none", 404)
            yield path.read_bytes()

    (tmp_path / "metadata").mkdir()
    updater = Updater(
        str(tmp_path / "metadata"), f"file://{good.repository}/metadata/", str(tmp_path),
        f"file://{good.repository}/targets/", fetcher=Files(),
        config=UpdaterConfig(envelope_type=EnvelopeType.SIMPLE), bootstrap=good.root.read_bytes(),
    )  # fmt: skip
    updater.refresh()
    info = updater.get_targetinfo(f"releases/{good.name}/release.sigstore.json")
    assert info is not None
    assert Path(updater.download_target(info)).read_bytes() == (good.dist / STATEMENT).read_bytes()
