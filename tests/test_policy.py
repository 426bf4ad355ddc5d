"""Policies: written in YAML, compiled to what verifiers read, and refused with file and key when they are wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from engine import REPO, fails

from pipeline.attest.keys import new_key, read_public
from pipeline.attest.places import kind_of
from pipeline.errors import DefinitionError, TrustError
from pipeline.trust.policy import compile_policy, read_source
from pipeline.verifier.policy import Policy, read_policy

FOLDER = REPO / "provenance/policy"
PATHS = ("rfo.linux-amd64.tar.gz", "rfo-images-core.linux-arm64.tar.zst", "charts/rfo-coredns-1.25.4+rfor1.tgz",
         "sbom/release.spdx.json", "release.json", "NOTES.md", "images/index.json", "rpm/x/y.rpm")  # fmt: skip


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "keys"
    for role in ("builder", "rebuilder", "release"):
        new_key(role, folder)
    return folder


def compiled(path: Path, keys: Path, checkout: Path = REPO) -> Policy:
    return read_policy(compile_policy(path, checkout, lambda role: read_public(role, keys)), path.name)


def changed(tmp_path: Path, **changes: Any) -> Path:
    source = yaml.safe_load((FOLDER / "development.yaml").read_text()) | changes
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(source, sort_keys=False))
    return tmp_path / "policy.yaml"


def test_the_development_policy(keys: Path) -> None:
    policy = compiled(FOLDER / "development.yaml", keys)
    assert policy.development and policy.name == "development"
    for path in PATHS:
        assert policy.kind_of(path).name == kind_of(path), "policies and provenance know the same kinds"
    for path in ("install-rfo.sh", "rfo-verify", "provenance/links/a.link", "charts/a-1.tgz.prov"):
        assert policy.kind_of(path).name == "signature"
    assert compile_policy(FOLDER / "development.yaml", REPO, lambda r: read_public(r, keys)) == compile_policy(
        FOLDER / "development.yaml", REPO, lambda r: read_public(r, keys)
    )


def test_the_default_policy_asks_for_an_openeuler_base_and_keys_of_a_ceremony(keys: Path, tmp_path: Path) -> None:
    said = fails(lambda: compiled(FOLDER / "default.yaml", keys, tmp_path))
    assert isinstance(said, DefinitionError) and "provenance/keys/builder.pub" in said.reason
    (tmp_path / "provenance").mkdir()
    (tmp_path / "provenance/keys").symlink_to(keys)
    policy = compiled(FOLDER / "default.yaml", keys, tmp_path)
    assert policy.bases == ("openeuler-*",) and not policy.development
    assert all(policy.kind(k, "").rebuilders == 1 for k in ("binary", "image", "tarball", "bundle", "chart", "rpm"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "default"}, "development"),
        ({"minimum_version": "1.25"}, "minimum_version"),
        ({"bases": []}, "bases"),
        ({"extra": 1}, "extra"),
        ({"signers": [{"role": "root", "id": "https://example.org/a"}]}, "signers.0.role"),
        ({"signers": [{"role": "builder", "id": "a name"}]}, "signers.0.id"),
        ({"signers": [{"role": "builder", "id": "https://example.org/a", "identity": "x"}]}, "issuer"),
        ({"signers": [{"role": "builder", "id": "https://example.org/a", "key": "../../k"}]}, "signers.0.key"),
        ({"signers": [{"role": "builder", "id": "https://example.org/a"}]}, "1 have to agree, and signers has 0"),
        ({"kinds": {"tarball": {"files": ["a"], "builders": 1, "rebuilders": 1}}}, "nothing is said of binary"),
        (
            {"kinds": {"tarbal": {"files": ["a"], "builders": 1, "rebuilders": 1}}},
            "kinds.tarbal: there is no",
        ),
        ({"kinds": {"binary": {"builders": 1.5, "rebuilders": 1}}}, "kinds.binary.builders"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], said: str, keys: Path, tmp_path: Path) -> None:
    path = changed(tmp_path, **changes)
    error = fails(lambda: read_source(path))
    assert isinstance(error, DefinitionError) and str(path) in error.reason and said in error.reason


def test_a_kind_without_patterns(keys: Path, tmp_path: Path) -> None:
    kinds = yaml.safe_load((FOLDER / "development.yaml").read_text())["kinds"]
    del kinds["tarball"]["files"]
    assert "kinds.tarball.files" in fails(lambda: read_source(changed(tmp_path, kinds=kinds))).reason


def test_patterns_for_a_kind_that_has_no_files(keys: Path, tmp_path: Path) -> None:
    kinds = yaml.safe_load((FOLDER / "development.yaml").read_text())["kinds"]
    kinds["image"]["files"] = ["images/*"]
    assert (
        "kinds.image.files: this kind has no files" in fails(lambda: read_source(changed(tmp_path, kinds=kinds))).reason
    )


def test_every_missing_key_is_named(tmp_path: Path) -> None:
    said = fails(lambda: compile_policy(FOLDER / "default.yaml", tmp_path, lambda _: read_public("x", tmp_path)))
    assert all(f"provenance/keys/{role}.pub" in said.reason for role in ("builder", "rebuilder", "release"))


def test_one_key_under_two_ids(keys: Path) -> None:
    said = fails(lambda: compile_policy(FOLDER / "development.yaml", REPO, lambda _: read_public("builder", keys)))
    assert isinstance(said, TrustError) and "they would be one witness" in said.reason


def test_two_signers_under_one_id(keys: Path, tmp_path: Path) -> None:
    source = yaml.safe_load((FOLDER / "development.yaml").read_text())["signers"]
    for signer in source:
        signer["id"] = "https://example.org/same"
    said = fails(lambda: compiled(changed(tmp_path, signers=source), keys))
    assert isinstance(said, TrustError) and "binds one builder id to two signers" in said.reason


def test_an_identity_of_a_sigstore_instance(keys: Path, tmp_path: Path) -> None:
    source = yaml.safe_load((FOLDER / "development.yaml").read_text())["signers"]
    source[2] |= {"identity": "release@example.org", "issuer": "https://issuer.example.org"}
    signer = compiled(changed(tmp_path, signers=source), keys).signers[2]
    assert (signer.key, signer.identity, signer.issuer) == (None, "release@example.org", "https://issuer.example.org")
