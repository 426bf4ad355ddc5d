"""The trust root: made, renewed, each key replaced, and read back by python-tuf's own client and by ours."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from engine import REPO, fails
from tuf.api.exceptions import BadVersionNumberError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig
from tuf.ngclient.config import EnvelopeType

from pipeline.attest.keys import new_key, read_public
from pipeline.attest.root import read_root
from pipeline.errors import TrustError, UsageError
from pipeline.report.progress import Progress
from pipeline.trust.ceremony import (
    Outcome,
    init,
    refresh,
    root_roles,
    rotate,
    sign_file,
    sign_pending,
)
from pipeline.trust.development import ensure_development, sources_of
from pipeline.trust.envelopes import read_envelope, render
from pipeline.trust.repository import TrustRepository
from pipeline.trust.settings import Settings, read_settings
from pipeline.trust.status import read_status
from pipeline.verifier.encoding import Refused
from pipeline.verifier.folder import Folder
from pipeline.verifier.state import State
from pipeline.verifier.tuf import find_release, read_trust

SETTINGS = read_settings(REPO)
SOURCES = sources_of(REPO, "development")
STATEMENT = b'{"a":"statement"}\n'
ROTATED = ("root-1", "root-2", "root-3", "targets", "snapshot", "timestamp", "release", "builder", "rebuilder")


class Files(FetcherInterface):
    """A server's answers, from a folder."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(url.removeprefix("file://"))
        if not path.is_file():
            raise DownloadHTTPError("no such file", 404)
        yield path.read_bytes()


def published(
    repository: TrustRepository, tmp_path: Path, data: bytes = STATEMENT, version: str = "v1.0.0+rfor1"
) -> Path:
    """Name a release; returns the release's folder with a snapshot of the trust root."""
    dist = tmp_path / version
    (dist / "provenance/release").mkdir(parents=True, exist_ok=True)
    (dist / "provenance/release/release.sigstore.json").write_bytes(data)
    repository.publish_release(version, version, dist / "provenance/release/release.sigstore.json")
    repository.snapshot_into(dist)
    return dist


def client(repository: TrustRepository, folder: Path, state: Path) -> Updater:
    """python-tuf's client, which trusts root 1; `folder` is a repository or a release's trust folder."""
    state.mkdir(exist_ok=True)
    return Updater(
        str(state), f"file://{folder}/metadata/", str(state), f"file://{folder}/targets/", fetcher=Files(),
        config=UpdaterConfig(envelope_type=EnvelopeType.SIMPLE),
        bootstrap=(repository.metadata / "1.root.json").read_bytes(),
    )  # fmt: skip


def read_by_both(repository: TrustRepository, dist: Path, state: Path) -> None:
    """The policy and the release, by python-tuf's client and by the verifier."""
    updater = client(repository, repository.folder, state)
    updater.refresh()
    path = f"releases/{dist.name}/release.sigstore.json"
    target = updater.get_targetinfo(path)
    assert target and Path(updater.download_target(target)).read_bytes() == STATEMENT
    policy = updater.get_targetinfo("policy.json")
    assert policy and json.loads(Path(updater.download_target(policy)).read_bytes())["name"] == "development"
    offline = client(repository, dist / "trust", state.with_name(f"{state.name}-offline"))
    offline.refresh()
    assert offline.get_targetinfo(path)
    trust = read_trust(Folder(dist), (repository.metadata / "1.root.json").read_bytes(), State())
    assert find_release(trust, dist.name).length == len(STATEMENT)
    assert trust.root.name == read_status(repository).name


def test_a_development_root_is_read_by_other_clients(repository: TrustRepository, tmp_path: Path) -> None:
    read_by_both(repository, published(repository, tmp_path), tmp_path / "state")


@pytest.mark.parametrize("role", ROTATED)
def test_a_key_is_replaced_and_clients_follow(role: str, repository: TrustRepository, tmp_path: Path) -> None:
    dist = published(repository, tmp_path)
    state = tmp_path / "state"
    read_by_both(repository, dist, state)  # the client has seen what the old key signed
    old = str(read_public(role, repository.keys).keyid)
    outcome = rotate(repository, role, SOURCES)
    assert outcome.published and not outcome.waiting
    repository.snapshot_into(dist)
    read_by_both(repository, dist, state)
    keys = {k["keyid"] for r in read_status(repository).roles for k in r["keys"]}
    policy = (read_root(repository.folder).trust.files["policy.json"]).decode()
    assert old not in keys and str(read_public(role, repository.keys).keyval["public"]).replace("\n", "\\n") in (
        policy if role in ("builder", "rebuilder") else json.dumps([k.keyval["public"] for k in all_keys(repository)])
    )


def all_keys(repository: TrustRepository) -> list[Any]:
    delegations = repository.read_targets("targets").delegations
    assert delegations
    return [*repository.read_root().keys.values(), *delegations.keys.values()]


def test_a_replaced_key_signs_nothing_any_more(repository: TrustRepository, tmp_path: Path) -> None:
    dist = published(repository, tmp_path)
    before = (repository.metadata / "timestamp.json").read_bytes()
    rotate(repository, "timestamp", SOURCES)
    repository.snapshot_into(dist)
    (dist / "trust/metadata/timestamp.json").write_bytes(before)
    with pytest.raises(Refused, match="not trusted for it"):
        read_trust(Folder(dist), (repository.metadata / "1.root.json").read_bytes(), State())


def split(repository: TrustRepository, folder: Path, *roles: str) -> TrustRepository:
    """The same repository on a machine that holds the private keys of some roles only."""
    folder.mkdir()
    for path in repository.keys.glob("*.pub"):
        shutil.copy(path, folder)
    for role in roles:
        shutil.copy(repository.keys / f"{role}.key", folder)
    return TrustRepository(repository.folder, folder, SETTINGS)


def test_a_root_is_signed_on_several_machines(tmp_path: Path) -> None:
    whole = TrustRepository(tmp_path / "trust", tmp_path / "keys", SETTINGS)
    for role in (*root_roles(whole), "targets", "snapshot", "timestamp", "builder", "rebuilder", "release"):
        new_key(role, whole.keys)
    online = split(whole, tmp_path / "online", "snapshot", "timestamp", "release", "targets")
    outcome = init(online, "example", SOURCES)
    assert outcome.waiting == {"1.root.json": "2 more of root-1, root-2, root-3"}
    assert not online.exists and "1.root.json" in fails(lambda: read_status(online)).reason
    for role, left in (("root-1", "1 more of root-2, root-3"), ("root-3", "")):
        vault = split(whole, tmp_path / role, role)
        carried = tmp_path / f"{role}.json"  # on a stick: the machine with the key has no repository
        shutil.copy(online.pending / "1.root.json", carried)
        assert sign_file(vault, carried, role) == [role]
        shutil.copy(carried, online.pending / "1.root.json")
        assert sign_pending(online).waiting.get("1.root.json", "") == left
    assert read_status(online).name == "example" and not online.staged()
    read_by_both(online, published(online, tmp_path), tmp_path / "state")


def test_one_signature_is_not_enough_and_a_bad_one_is_named(repository: TrustRepository, tmp_path: Path) -> None:
    one = split(repository, tmp_path / "one", "root-1", "timestamp", "snapshot", "release", "targets")
    outcome = rotate(one, "snapshot", SOURCES)
    assert outcome.waiting == {"2.root.json": "1 more of root-2, root-3"} and one.version("root") == 1
    path = one.pending / "2.root.json"
    envelope = read_envelope(path)
    keyid, signature = next(iter(envelope.signatures.items()))
    signature.signature = signature.signature[:-2] + ("00" if signature.signature[-2:] != "00" else "01")
    path.write_bytes(render(envelope))
    assert f"signature of {keyid[:8]} is not good" in fails(lambda: sign_pending(one)).reason
    assert one.version("root") == 1


def test_the_same_release_again_changes_nothing(repository: TrustRepository, tmp_path: Path) -> None:
    dist = published(repository, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in [*repository.folder.rglob("*.json"), *dist.rglob("*.json")]}
    statement = dist / "provenance/release/release.sigstore.json"
    repository.publish_release(dist.name, dist.name, statement)
    repository.snapshot_into(dist)
    assert {p: p.stat().st_mtime_ns for p in [*repository.folder.rglob("*.json"), *dist.rglob("*.json")]} == before


def test_what_a_killed_run_left_is_made_visible_by_the_next(repository: TrustRepository, tmp_path: Path) -> None:
    dist = published(repository, tmp_path)
    kept = {p.name: p.read_bytes() for p in repository.metadata.iterdir()}
    other = b'{"another":"statement"}\n'
    published(repository, tmp_path, other)
    (repository.metadata / "timestamp.json").write_bytes(kept["timestamp.json"])  # killed before the pointer moved
    repository.snapshot_into(dist)
    trust = read_trust(Folder(dist), (repository.metadata / "1.root.json").read_bytes(), State())
    assert find_release(trust, dist.name).length == len(STATEMENT), "the first one still counts"
    published(repository, tmp_path, other)
    trust = read_trust(Folder(dist), (repository.metadata / "1.root.json").read_bytes(), State())
    assert find_release(trust, dist.name).length == len(other)


def test_a_release_is_taken_back(repository: TrustRepository, tmp_path: Path) -> None:
    dist = published(repository, tmp_path)
    assert isinstance(fails(lambda: repository.yank("v9.9.9+rfor1", "x")), TrustError)
    assert repository.yank(dist.name, "broken: nodes lose their network") == [dist.name]
    repository.snapshot_into(dist)
    trust = read_trust(Folder(dist), (repository.metadata / "1.root.json").read_bytes(), State())
    assert find_release(trust, dist.name).yanked == "broken: nodes lose their network"
    assert read_status(repository).releases[0]["yanked"] == "broken: nodes lose their network"


def test_what_has_expired_is_refused_and_said_before(repository: TrustRepository, tmp_path: Path) -> None:
    short = Settings.model_validate({**SETTINGS.model_dump(), "online": {"days": 1}})
    brief = TrustRepository(repository.folder, repository.keys, short)
    published(brief, tmp_path)
    assert any(w.startswith("timestamp 2 expires in 0 days") for w in read_status(brief).warnings)
    updater = client(brief, brief.folder, tmp_path / "state")
    updater._trusted_set.reference_time = datetime.now(UTC) + timedelta(days=2)
    with pytest.raises(ExpiredMetadataError):
        updater.refresh()
    refresh(repository, SOURCES)
    assert not read_status(repository).warnings
    client(repository, repository.folder, tmp_path / "later").refresh()


@pytest.mark.parametrize(
    "name", ["1.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json", "1.release.json"]
)
def test_an_edited_byte_is_refused_by_other_clients(name: str, repository: TrustRepository, tmp_path: Path) -> None:
    path = repository.metadata / name
    updater = client(repository, repository.folder, tmp_path / "state") if name != "1.root.json" else None
    data = bytearray(path.read_bytes())
    position = data.index(b'"payload":"') + 60
    data[position] = ord("A") if data[position] != ord("A") else ord("B")
    path.write_bytes(data)
    with pytest.raises(RepositoryError):
        late = updater or client(repository, repository.folder, tmp_path / "state")
        late.refresh()
        late.get_targetinfo("releases/x/release.sigstore.json")
    assert isinstance(fails(lambda: read_status(repository)), TrustError)


def test_older_metadata_are_refused_by_other_clients(repository: TrustRepository, tmp_path: Path) -> None:
    before = (repository.metadata / "timestamp.json").read_bytes()
    published(repository, tmp_path)
    state = tmp_path / "state"
    client(repository, repository.folder, state).refresh()
    (repository.metadata / "timestamp.json").write_bytes(before)
    with pytest.raises(BadVersionNumberError):
        client(repository, repository.folder, state).refresh()


def test_a_second_first_root_is_refused(repository: TrustRepository) -> None:
    assert isinstance(fails(lambda: init(repository, "other", SOURCES)), UsageError)


def test_a_key_of_two_roles_is_refused(tmp_path: Path) -> None:
    repository = TrustRepository(tmp_path / "trust", tmp_path / "keys", SETTINGS)
    for role in (*root_roles(repository), "targets", "snapshot", "builder", "rebuilder", "release"):
        new_key(role, repository.keys)
    for suffix in ("key", "pub"):
        shutil.copy(repository.keys / f"targets.{suffix}", repository.keys / f"timestamp.{suffix}")
    assert "targets and timestamp have one key" in fails(lambda: init(repository, "x", SOURCES)).reason


def test_refresh_takes_up_a_changed_policy(repository: TrustRepository, tmp_path: Path) -> None:
    text = SOURCES.policy.read_text().replace("v1.0.0+rfor1", "v1.2.0+rfor3")
    (tmp_path / "policy.yaml").write_text(text)
    outcome = refresh(repository, sources_of(REPO, str(tmp_path / "policy.yaml")))
    assert "2.targets.json" in outcome.published
    assert read_root(repository.folder).policy.minimum_version == "v1.2.0+rfor3"
    again = refresh(repository, sources_of(REPO, str(tmp_path / "policy.yaml")))
    assert again == Outcome(published=["timestamp.json"])


def test_the_first_run_makes_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFO_TRUST", str(tmp_path / "trust"))
    monkeypatch.setenv("RFO_KEYS", str(tmp_path / "keys"))
    said = StringIO()
    ensure_development(REPO, Progress(stream=said))
    ensure_development(REPO, Progress(stream=said))
    assert said.getvalue().count("made a DEVELOPMENT trust root") == 1
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "keys").glob("*.key")} == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def inv(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "RFO_TRUST": str(tmp_path / "trust"), "RFO_KEYS": str(tmp_path / "keys")}
    command = [sys.executable, "-m", "invoke", "--search-root", str(REPO), *arguments]
    return subprocess.run(command, env=environment, cwd=REPO, capture_output=True, text=True, check=False)


def test_commands(tmp_path: Path) -> None:
    done = inv(tmp_path, "trust", "status")
    assert done.returncode == 10 and "./inv trust init" in done.stderr
    done = inv(tmp_path, "trust", "init")
    assert done.returncode == 2 and "--name is missing" in done.stderr
    assert inv(tmp_path, "trust", "init", "--development").returncode == 0
    status = inv(tmp_path, "trust", "status")
    assert "DEVELOPMENT" in status.stdout and not status.returncode
    assert json.loads(inv(tmp_path, "trust", "status", "--json").stdout)["development"] is True
    assert "published  2.root.json" in inv(tmp_path, "trust", "rotate", "--role", "timestamp").stdout
    assert "expected one of" in inv(tmp_path, "trust", "rotate", "--role", "root-9").stderr
    assert inv(tmp_path, "trust", "frobnicate").returncode == 2
    dist = tmp_path / "dist"
    dist.mkdir()
    done = inv(tmp_path, "trust", "refresh", "--into", str(dist))
    assert done.returncode == 2 and "holds no release" in done.stderr
    (dist / "release.json").write_text("{}")
    assert "renewed" in inv(tmp_path, "trust", "refresh", "--into", str(dist)).stdout
    newest = (tmp_path / "trust/metadata/timestamp.json").read_bytes()
    assert (dist / "trust/metadata/timestamp.json").read_bytes() == newest
    done = inv(tmp_path, "yank", "--version", "v1.0.0+rfor1", "--reason", "broken")
    assert done.returncode == 10 and "names no release v1.0.0+rfor1" in done.stderr
