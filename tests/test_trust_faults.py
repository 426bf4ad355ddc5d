"""The trust root when things go wrong: killed runs, keys that are stolen or not at hand, files that were changed."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine import REPO, fails
from standin import StandIn
from test_promote import candidate
from test_trust import SETTINGS, SOURCES, STATEMENT, client, published, read_by_both, split
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import MetaFile, Snapshot, Timestamp

from pipeline.attest.keys import load_signing, new_key, read_public
from pipeline.attest.root import read_root
from pipeline.errors import TrustError, UsageError
from pipeline.model import Digest
from pipeline.trust.ceremony import init, refresh, root_roles, rotate, sign_pending
from pipeline.trust.development import sources_of
from pipeline.trust.envelopes import envelope_of, read_envelope, render
from pipeline.trust.repository import TrustRepository
from pipeline.verifier.encoding import Refused
from pipeline.verifier.folder import Folder
from pipeline.verifier.state import State
from pipeline.verifier.tuf import find_release, read_trust


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- runs that are killed

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import pipeline.attest.keys as keys, pipeline.lock as lock, pipeline.trust.repository as repository
from pipeline.engine import HERE
from pipeline.trust.ceremony import refresh, rotate
from pipeline.trust.development import make_development, sources_of
from pipeline.trust.settings import read_settings
place, role = Path(sys.argv[1]), sys.argv[2]
SOURCES = sources_of(HERE.parent, "development")
write, rename = lock.write_atomically, Path.rename
def opened(folder):
    return repository.TrustRepository(folder / "trust", folder / "keys", read_settings(HERE.parent))
def step(folder):
    rotate(opened(folder), role, SOURCES) if role else make_development(opened(folder), HERE.parent)
count, done = 0, False
while not done:
    folder = place / str(count)
    if role:
        shutil.copytree(place / "start", folder)
    child = os.fork()
    if not child:
        left = [count]
        def tick():
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
        def killed(path, data):
            tick()
            write(path, data)
        def moved(self, target):
            tick()
            return rename(self, target)
        repository.write_atomically, Path.rename = killed, moved
        step(folder)
        os._exit(0)
    done = os.waitpid(child, 0)[1] == 0
    if not done:
        step(folder)
        refresh(opened(folder), SOURCES)
    count += 1
print(count)
"""


OFTEN, SELDOM = ("targets", ""), ("timestamp", "snapshot", "release", "root-2", "builder")


@pytest.mark.parametrize("role", [*OFTEN, *(pytest.param(r, marks=pytest.mark.full) for r in SELDOM)])
def test_a_ceremony_that_is_killed_wherever_it_writes(role: str, repository: TrustRepository, tmp_path: Path) -> None:
    """Of a rotation, or, without a role, of making the trust root: the same command and `refresh` end it."""
    place = tmp_path / "runs"
    for name in ("trust", "keys"):
        shutil.copytree(tmp_path / name, place / "start" / name)
    run = [sys.executable, "-c", KILLED, str(place), role]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=REPO, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    count = int(done.stdout)
    assert count > 6, "it was killed at every write"
    for number in range(count):
        after = TrustRepository(place / f"{number}/trust", place / f"{number}/keys", SETTINGS)
        assert after.is_current() and not after.staged()
        client(after, after.folder, tmp_path / f"state-{number}").refresh()
        if role and role != "builder":
            first, now = (set(r.ring("root" if role == "root-2" else role).keys) for r in (repository, after))
            assert len(first - now) == 1 and len(now - first) == 1, "one key went, one came"
    read_by_both(after, published(after, tmp_path), tmp_path / "state")


def test_two_first_runs_make_one_root(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom pipeline.engine import HERE\n"
        "from pipeline.report.progress import Progress\nfrom pipeline.trust.development import ensure_development\n"
        "ensure_development(HERE.parent, Progress(stream=sys.stdout))\n"
    )
    environment = {"RFO_TRUST": str(tmp_path / "trust"), "RFO_KEYS": str(tmp_path / "keys"), "PATH": "/usr/bin:/bin"}
    runs = [
        subprocess.Popen([sys.executable, "-c", script], cwd=REPO, env=environment, stdout=-1, stderr=-1, text=True)
        for _ in range(3)
    ]
    said = [run.communicate(timeout=900) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    assert sum("made a DEVELOPMENT trust root" in out for out, _ in said) == 1
    assert read_root(tmp_path / "trust").trust.versions["timestamp"] == 1


# --- several keys, and keys that are elsewhere


def test_two_keys_are_replaced_by_one_root(repository: TrustRepository, tmp_path: Path) -> None:
    online = split(repository, tmp_path / "online", "snapshot", "timestamp", "release", "targets")
    before = set(online.ring("root").keys)
    for role in ("root-1", "root-2"):
        elsewhere = tmp_path / f"{role}-made"
        new_key(role, elsewhere)
        outcome = rotate(online, role, SOURCES, public=elsewhere / f"{role}.pub")
        shutil.copy(elsewhere / f"{role}.key", tmp_path / f"new-{role}.key")
        assert list(outcome.waiting) == ["2.root.json"]
    assert online.version("root") == 1
    old = split(repository, tmp_path / "old", "root-1", "root-2", "snapshot", "timestamp", "release")
    sign_pending(old)
    for role in ("root-1", "root-2"):
        shutil.copy(tmp_path / f"new-{role}.key", online.keys / f"{role}.key")
    assert "2.root.json" in sign_pending(online).published
    after = set(online.ring("root").keys)
    assert len(before & after) == 1 and len(after) == 3
    read_by_both(online, published(online, tmp_path), tmp_path / "state")


def test_without_the_keys_nothing_is_written(repository: TrustRepository, tmp_path: Path) -> None:
    dist = published(repository, tmp_path)
    poor = split(repository, tmp_path / "poor", "release", "snapshot", "root-1", "root-2", "targets")
    before = content(repository.folder)
    for call in (
        lambda: poor.yank(dist.name, "broken"),
        lambda: refresh(poor, SOURCES),
        lambda: published(poor, tmp_path, b"{}\n", "v1.1.0+rfor1"),
    ):
        said = fails(call)
        assert "timestamp metadata cannot be signed: none of its keys is in" in said.reason
        assert content(repository.folder) == before


def test_a_key_that_cannot_come_in_place(repository: TrustRepository, tmp_path: Path) -> None:
    before = content(repository.keys)
    for role in ("targets", "root-1"):
        for other in ("builder", role):
            made = repository.keys / f"{other}.pub"
            said = fails(lambda r=role, m=made: rotate(repository, r, SOURCES, public=m))  # type: ignore[misc]
            assert f"is the key of {other} already" in said.reason
    said = fails(lambda: rotate(repository, "builder", SOURCES, public=REPO / "README.md"))
    assert "is no public key that is accepted" in said.reason
    assert content(repository.keys) == before and repository.version("root") == 1
    assert refresh(repository, SOURCES).published == ["timestamp.json"]


def ceremony(tmp_path: Path) -> tuple[TrustRepository, Any]:
    """A trust root with the default policy, whose keys stand in the checkout."""
    checkout = tmp_path / "checkout"
    shutil.copytree(REPO / "provenance", checkout / "provenance")
    repository = TrustRepository(tmp_path / "acme", tmp_path / "acme-keys", SETTINGS)
    for role in (*root_roles(repository), "targets", "snapshot", "timestamp", "builder", "rebuilder", "release"):
        new_key(role, repository.keys)
    (checkout / "provenance/keys").mkdir(exist_ok=True)
    for role in ("builder", "rebuilder", "release"):
        shutil.copy(repository.keys / f"{role}.pub", checkout / "provenance/keys")
    sources = sources_of(checkout, "default")
    init(repository, "acme", sources)
    return repository, sources


def test_a_rebuilders_key_is_replaced_in_the_default_policy(tmp_path: Path) -> None:
    repository, sources = ceremony(tmp_path)
    root = read_root(repository.folder)
    assert not root.trust.development and not root.policy.development and root.policy.name == "default"
    new_key("rebuilder", tmp_path / "elsewhere")
    made = tmp_path / "elsewhere/rebuilder.pub"
    assert "2.targets.json" in rotate(repository, "rebuilder", sources, public=made).published
    assert (sources.checkout / "provenance/keys/rebuilder.pub").read_text() == made.read_text()
    after = read_root(repository.folder)
    key = next(s.key for s in after.policy.signers if s.role == "rebuilder")
    assert key and key.pem == made.read_text()
    assert after.layout.functionaries["rebuilder"][0].keyval["public"] == made.read_text(), "the layout has the same"


# --- changed files, too few signatures, stolen keys


def test_a_root_with_too_few_signatures_is_refused_by_both(repository: TrustRepository, tmp_path: Path) -> None:
    dist = published(repository, tmp_path)
    root = repository.read_root()
    root.version = 2
    envelope = envelope_of(root)
    envelope.sign(load_signing("root-1", repository.keys).signer)
    for folder in (repository.folder, dist / "trust"):
        (folder / "metadata/2.root.json").write_bytes(render(envelope))
    with pytest.raises(RepositoryError, match="1/2"):
        client(repository, repository.folder, tmp_path / "state").refresh()
    with pytest.raises(Refused, match="too few"):
        read_trust(Folder(dist), (repository.metadata / "1.root.json").read_bytes(), State())
    assert isinstance(fails(lambda: rotate(repository, "timestamp", SOURCES)), TrustError)


def test_a_retired_root_key_counts_no_more(repository: TrustRepository, tmp_path: Path) -> None:
    for role in ("root-1", "root-2"):
        rotate(repository, role, SOURCES)
    dist = published(repository, tmp_path)
    root = repository.read_root()
    root.version = 4
    envelope = envelope_of(root)
    for path in repository.keys.glob("root-[12]-*.pub"):
        envelope.sign(load_signing(path.stem, repository.keys).signer)
    for folder in (repository.folder, dist / "trust"):
        (folder / "metadata/4.root.json").write_bytes(render(envelope))
    with pytest.raises(RepositoryError, match="0/2"):
        client(repository, repository.folder, tmp_path / "state").refresh()
    with pytest.raises(Refused, match="not trusted for it"):
        read_trust(Folder(dist), (repository.metadata / "1.root.json").read_bytes(), State())


def test_signatures_of_others_do_not_reach_hosts(repository: TrustRepository, tmp_path: Path) -> None:
    """A file that was carried around may bring more signatures than were asked for; hosts would refuse those."""
    offline = split(repository, tmp_path / "offline", "snapshot", "timestamp", "release", "root-1")
    assert rotate(offline, "snapshot", SOURCES).waiting
    path = offline.pending / "2.root.json"
    offline.add_signatures(path, {str(read_public("release", offline.keys).keyid)})
    assert len(read_envelope(path).signatures) == 2
    shutil.copy(repository.keys / "root-2.key", offline.keys)
    assert "2.root.json" in sign_pending(offline).published
    named = set(read_envelope(offline.metadata / "2.root.json").signatures)
    assert named == {str(read_public(r, repository.keys).keyid) for r in ("root-1", "root-2")}
    read_by_both(offline, published(offline, tmp_path), tmp_path / "state")


def test_a_staged_file_that_was_changed_is_not_signed(repository: TrustRepository, tmp_path: Path) -> None:
    one = split(repository, tmp_path / "one", "root-1", "timestamp", "snapshot", "release")
    rotate(one, "snapshot", SOURCES)
    path = one.pending / "2.root.json"
    envelope = read_envelope(path)
    value = json.loads(envelope.payload)
    value["roles"]["root"]["threshold"] = 1
    envelope.payload = json.dumps(value).encode()
    path.write_bytes(render(envelope))
    assert "is not good: a byte was changed" in fails(lambda: sign_pending(repository)).reason
    assert repository.version("root") == 1


def stolen(repository: TrustRepository, version: int) -> None:
    """What a thief of the online keys publishes: metadata so new that nobody takes honest ones any more."""
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1000)
    snapshot = envelope_of(Snapshot(version, expires=soon, meta=repository._snapshot()[1]))
    snapshot.sign(load_signing("snapshot", repository.keys).signer)
    data = render(snapshot)
    (repository.metadata / f"{version}.snapshot.json").write_bytes(data)
    named = MetaFile(version, len(data), {"sha256": Digest.of_bytes(data).hex})
    timestamp = envelope_of(Timestamp(version, expires=soon, snapshot_meta=named))
    timestamp.sign(load_signing("timestamp", repository.keys).signer)
    (repository.metadata / "timestamp.json").write_bytes(render(timestamp))


def test_hosts_recover_from_a_stolen_timestamp(repository: TrustRepository, tmp_path: Path) -> None:
    """Fast-forward: honest metadata have lower numbers than the thief's, and are taken since the keys were replaced."""
    dist, state = published(repository, tmp_path), tmp_path / "state"
    honest = content(repository.folder)
    stolen(repository, 100000)
    client(repository, repository.folder, state).refresh()
    repository.snapshot_into(dist)
    seen = read_trust(Folder(dist), (repository.metadata / "1.root.json").read_bytes(), State())
    for path in [p for p in content(repository.folder) if p not in honest]:
        (repository.folder / path).unlink()
    for path, data in honest.items():
        (repository.folder / path).write_bytes(data)
    remembered = State(root=seen.root_file, timestamp=seen.timestamp_file)
    repository.snapshot_into(dist)
    with pytest.raises(Refused, match="older than what this host has accepted"):
        read_trust(Folder(dist), (repository.metadata / "1.root.json").read_bytes(), remembered)
    for role in ("snapshot", "timestamp"):
        rotate(repository, role, SOURCES)
    repository.snapshot_into(dist)
    read_by_both(repository, dist, state)
    trust = read_trust(Folder(dist), (repository.metadata / "1.root.json").read_bytes(), remembered)
    assert trust.versions["timestamp"] < 100000 and find_release(trust, dist.name).length == len(STATEMENT)


def test_roots_of_a_sigstore_instance_that_are_none(repository: TrustRepository, tmp_path: Path) -> None:
    before = content(repository.folder)
    (tmp_path / "roots.json").write_text('{"mediaType":"text/plain"}')
    for name, reason in (("none.json", "No such file"), ("roots.json", "is no trusted root of Sigstore")):
        said = fails(lambda n=name: refresh(repository, sources_of(REPO, "development", tmp_path / n)))  # type: ignore[misc]
        assert reason in said.reason
        assert content(repository.folder) == before


def test_roots_of_a_sigstore_instance_stay(repository: TrustRepository, tmp_path: Path) -> None:
    roots = json.dumps(StandIn().trusted_root()).encode()
    (tmp_path / "roots.json").write_bytes(roots)
    assert "2.targets.json" in refresh(repository, sources_of(REPO, "development", tmp_path / "roots.json")).published
    assert refresh(repository, SOURCES).published == ["timestamp.json"], "not told again, it stays as it is"
    rotate(repository, "builder", SOURCES)
    dist = published(repository, tmp_path)
    trust = read_trust(Folder(dist), (repository.metadata / "1.root.json").read_bytes(), State())
    assert trust.versions["targets"] == 3 and trust.files["trusted_root.json"] == roots


def test_a_release_that_was_taken_back_does_not_return(repository: TrustRepository, tmp_path: Path) -> None:
    dist = published(repository, tmp_path)
    repository.yank(dist.name, "broken")
    assert "was taken back: broken" in fails(lambda: published(repository, tmp_path, b'{"b":1}\n')).reason


@pytest.mark.full
def test_a_release_is_promoted_again_when_the_release_key_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = candidate(tmp_path, monkeypatch)
    bench.promote()
    repository = TrustRepository(bench.made.repository, bench.made.keys, SETTINGS)
    rotate(repository, "release", SOURCES)
    repository.snapshot_into(bench.made.dist)
    assert any("is signed by nobody whom the policy names" in reason for reason in bench.reasons())
    bench.promote()
    assert bench.reasons() == []


def test_a_root_that_waits_is_not_replaced_by_one_for_development(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from io import StringIO

    from pipeline.report.progress import Progress
    from pipeline.trust.development import ensure_development

    monkeypatch.setenv("RFO_TRUST", str(tmp_path / "trust"))
    monkeypatch.setenv("RFO_KEYS", str(tmp_path / "public"))
    whole = TrustRepository(tmp_path / "trust", tmp_path / "keys", SETTINGS)
    for role in (*root_roles(whole), "targets", "snapshot", "timestamp", "builder", "rebuilder", "release"):
        new_key(role, whole.keys)
    init(split(whole, tmp_path / "public"), "acme", SOURCES)
    before = content(tmp_path)
    said = fails(lambda: ensure_development(REPO, Progress(stream=StringIO())))
    assert "waits for signatures" in said.reason
    assert content(tmp_path) == before


def test_the_default_policy_accepts_no_floating_base() -> None:
    from fnmatch import fnmatchcase

    patterns = yaml.safe_load((REPO / "provenance/policy/default.yaml").read_text())["bases"]
    bases = [yaml.safe_load(p.read_text()) for p in (REPO / "images/openeuler/bases").glob("*.yaml")]
    floating = {b["name"]: b.get("floating", False) for b in bases}
    assert any(floating.values()) and not all(floating.values())
    for name, loose in floating.items():
        assert any(fnmatchcase(name, pattern) for pattern in patterns) != loose


def test_a_key_given_and_one_made_here_do_not_mix(repository: TrustRepository, tmp_path: Path) -> None:
    poor = split(repository, tmp_path / "poor", "snapshot", "release", "timestamp")
    rotate(poor, "timestamp", SOURCES)
    new_key("timestamp", tmp_path / "elsewhere")
    said = fails(lambda: rotate(poor, "timestamp", SOURCES, public=tmp_path / "elsewhere/timestamp.pub"))
    assert isinstance(said, UsageError) and "did not end" in said.reason
