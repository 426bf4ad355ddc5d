"""Attacks on a release: each is refused, naming the thing and the reason.

Who attacks holds the release's folder, and sometimes a key, or has deceived the release role.
"""

import base64
import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trusted import IDS, STATEMENT, VERSION, Trusted, copied, files, promoted

from pipeline.attest.keys import load_signing, new_key, spki_of
from pipeline.model import Digest
from pipeline.verifier.clock import DAY
from pipeline.verifier.encoding import Refused, canonical
from pipeline.verifier.report import REFUSED, STALE, Report, render_refused
from pipeline.verifier.scope import Scope
from pipeline.verifier.unpack import unpack
from pipeline.verifier.verify import Options, verify

AMD64, ARM64 = "rfo.linux-amd64.tar.gz", "rfo.linux-arm64.tar.gz"
Change = Callable[[Trusted], None]


def judged(made: Trusted, **options: Any) -> Report:
    return verify(made.dist, made.root.read_bytes(), Options(**options))


def accepted(made: Trusted, **options: Any) -> Report:
    report = judged(made, **options)
    assert not report.reasons, "".join(map(render_refused, report.reasons))
    assert report.exit_code == 0, report.stale
    return report


def refused(made: Trusted, subject: str, reason: str, **options: Any) -> Report:
    """It is refused, among others for this reason, which names the thing."""
    report = judged(made, **options)
    assert report.exit_code == REFUSED
    found = "".join(map(render_refused, report.reasons))
    assert any(subject in r.subject and reason in r.reason for r in report.reasons), found or "accepted"
    return report


def bundle(made: Trusted, kind: str, role: str = "builder") -> str:
    """Where a role's provenance of a kind of artifact lies."""
    return f"provenance/{role}-{made.keyid8(role)}/{kind}.sigstore.json"


def again(made: Trusted) -> None:
    """The release role, deceived or in league, seals and publishes the folder as it is now."""
    made.seal()
    made.publish()


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file and write it in the canonical form again."""
    value = json.loads(path.read_bytes())
    change(value)
    path.write_bytes(canonical(value) + b"\n")


def flip(path: Path, position: float) -> None:
    data = bytearray(path.read_bytes())
    data[min(int(len(data) * position), len(data) - 1)] ^= 1
    path.write_bytes(data)


# --- one flipped byte


@pytest.mark.parametrize("position", [0.0, 0.5, 1.0])
def test_a_flipped_byte_in_any_file_is_refused_naming_the_file(good: Trusted, tmp_path: Path, position: float) -> None:
    made = copied(good, tmp_path)
    signed = [n for n in files(made.dist) if not n.startswith("trust/") and n != STATEMENT]
    for name in signed:
        flip(made.dist / name, position)
    report = judged(made)
    assert {r.subject for r in report.reasons} >= set(signed)
    shutil.rmtree(tmp_path / "dist")
    shutil.copytree(good.dist, made.dist)
    for name in sorted(set(files(made.dist)) - set(signed)):
        before = (made.dist / name).read_bytes()
        flip(made.dist / name, position)
        report = judged(made)
        assert report.exit_code == REFUSED
        assert name in {r.subject for r in report.reasons}, (name, report.reasons)
        (made.dist / name).write_bytes(before)
    accepted(made)


# --- files


def swap_architectures(made: Trusted) -> None:
    shutil.copy(made.dist / ARM64, made.dist / AMD64)


def edit_sums(made: Trusted) -> None:
    (made.dist / AMD64).write_bytes(gzip.compress(b"evil"))
    path = made.dist / "sha256sum-amd64.txt"
    lines = [n for n in path.read_text().splitlines() if AMD64 not in n]
    path.write_text("\n".join([*lines, f"{made.digest(AMD64).hex}  {AMD64}"]) + "\n")


def truncate(made: Trusted) -> None:
    path = made.dist / AMD64
    path.write_bytes(path.read_bytes()[:-1])


def nest(made: Trusted) -> None:
    (made.dist / "/".join(["d"] * 40)).mkdir(parents=True)


def rename(made: Trusted) -> None:
    (made.dist / AMD64).rename(made.dist / "rfo.linux-s390x.tar.gz")


def link(made: Trusted) -> None:
    (made.dist / AMD64).rename(made.dist.parent / "elsewhere")
    (made.dist / AMD64).symlink_to("../elsewhere")


@pytest.mark.parametrize(
    ("change", "subject", "reason"),
    [
        (swap_architectures, AMD64, "was changed after it was signed"),
        (edit_sums, "sha256sum-amd64.txt", "was changed after it was signed"),
        (edit_sums, AMD64, "was changed after it was signed"),
        (truncate, AMD64, "was changed after it was signed"),
        (rename, AMD64, "is missing"),
        (rename, "rfo.linux-s390x.tar.gz", "was added: nobody signed it"),
        (nest, "d/d/d/d", "is nested deeper than anything in a release"),
        (link, AMD64, "is a link or a special file"),
        (lambda m: m.write("trust/metadata/9.targets.json", b"{}\n"), "9.targets.json", "no part of the trust root"),
        (lambda m: m.write("provenance/extra.sigstore.json", b"{}\n"), "provenance/extra", "was added"),
        (lambda m: (m.dist / "release.json").unlink(), "release.json", "is missing"),
        (lambda m: (m.dist / STATEMENT).unlink(), STATEMENT, "is missing"),
    ],
)
def test_files_that_are_not_what_was_signed_are_refused(
    good: Trusted, tmp_path: Path, change: Change, subject: str, reason: str
) -> None:
    made = copied(good, tmp_path)
    change(made)
    refused(made, subject, reason)


@pytest.mark.parametrize("change", [swap_architectures, edit_sums, truncate, link])
def test_an_installer_refuses_the_same(good: Trusted, tmp_path: Path, change: Change) -> None:
    made = copied(good, tmp_path)
    change(made)
    refused(made, AMD64, "", scope=Scope("amd64"))


def test_lists_have_to_agree_with_what_is_signed_even_if_they_are_signed_themselves(tmp_path: Path) -> None:
    made = promoted(tmp_path)
    path = made.dist / "sha256sum-amd64.txt"
    path.write_text(path.read_text().replace(made.digest(AMD64).hex, "0" * 64))
    listed = made.dist / "rfo-images.linux-arm64.txt"
    listed.write_text(listed.read_text().replace("@sha256:", "@sha256:" + "0" * 8, 1)[:-9] + "\n")
    again(made)
    refused(made, "sha256sum-amd64.txt", f"gives another sum for {AMD64}")
    refused(made, "rfo-images.linux-arm64.txt", "lists an image that the release has not")


def test_an_architecture_that_a_release_has_not(good: Trusted) -> None:
    refused(good, "rfo.linux-s390x.tar.gz", "was not made for this architecture", scope=Scope("s390x"))


# --- statements


def test_a_release_statement_by_another_key(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, signers={STATEMENT: "builder"})
    again(made)
    refused(made, STATEMENT, "is not signed by the release role")


def test_a_release_statement_that_the_trust_root_does_not_name(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    made.seal()  # ECDSA signatures differ each time
    refused(made, STATEMENT, "is not the file that the trust root names")


def test_a_release_statement_under_another_name(good: Trusted, tmp_path: Path) -> None:
    def other(statement: dict[str, Any]) -> None:
        statement["predicate"]["release"]["folder"] = "v9.9.9+rfor1"

    made = copied(good, tmp_path, edits={STATEMENT: other})
    again(made)
    refused(made, "releases/v9.9.9+rfor1/release.sigstore.json", "is not named by the trust root")


def test_another_statement_in_place_of_the_release_statement(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, edits={STATEMENT: lambda s: s.update(type="https://slsa.dev/provenance/v1")})
    again(made)
    refused(made, STATEMENT, "is not a release statement")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("purl", "pkg:generic/other@1", "is about another package"), ("release", {}, "does not say what release")],
)
def test_a_release_statement_about_something_else(
    good: Trusted, tmp_path: Path, name: str, value: Any, reason: str
) -> None:
    made = copied(good, tmp_path, edits={STATEMENT: lambda s: s["predicate"].update({name: value})})
    again(made)
    refused(made, STATEMENT, reason)


def test_a_release_statement_without_a_version(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, edits={STATEMENT: lambda s: s["predicate"]["release"].update(version="1.0")})
    again(made)
    refused(made, STATEMENT, "is not the version of a release")


def test_a_release_that_the_trust_root_calls_otherwise(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    made.publish({"version": "v1.0.1+rfor1"})
    refused(made, STATEMENT, "is named by the trust root as another version")


@pytest.mark.parametrize("name", ["../etc/passwd", "trust/metadata/1.root.json", STATEMENT])
def test_a_release_statement_that_names_what_it_cannot(good: Trusted, tmp_path: Path, name: str) -> None:
    made = copied(good, tmp_path, edits={STATEMENT: lambda s: s["subjects"].update({name: Digest("0" * 64)})})
    again(made)
    refused(made, STATEMENT, "names a file that no release statement can name")


def test_a_release_json_that_says_something_else(tmp_path: Path) -> None:
    def other(manifest: dict[str, Any]) -> None:
        manifest["artifacts"] = [a for a in manifest["artifacts"] if a["name"] != "NOTES.md"]
        manifest["version"] = "v1.0.1+rfor1"

    made = promoted(tmp_path, edits={"manifest": other})
    refused(made, "release.json", "is of another release than the release statement")
    refused(made, "NOTES.md", "is signed with the release, and release.json does not name it")


def test_a_promotion_under_another_policy(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, edits={"policy": lambda p: p.update(name="production", development=False)})
    made.publish()
    refused(made, STATEMENT, "was promoted under another policy")


def test_wrong_media_type(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    path = bundle(made, "tarball")
    kind = "application/vnd.dev.sigstore.bundle+json;version=0.2"
    rewrite(made.dist / path, lambda b: b.update(mediaType=kind))
    again(made)
    refused(made, path, "is of another media type")
    refused(made, AMD64, "has provenance of too few builders")


@pytest.mark.parametrize("times", [1, 2])
def test_more_than_one_signature_in_a_bundle(good: Trusted, tmp_path: Path, times: int) -> None:
    made = copied(good, tmp_path)
    path = bundle(made, "tarball")
    rewrite(made.dist / path, lambda b: b["dsseEnvelope"]["signatures"].extend([{"sig": "AAAA"}] * times))
    again(made)
    refused(made, path, "does not have exactly one signature")


def test_a_payload_under_the_signature_of_another(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    path, other = bundle(made, "tarball"), json.loads((made.dist / bundle(made, "bundle")).read_bytes())
    rewrite(made.dist / path, lambda b: b["dsseEnvelope"].update(payload=other["dsseEnvelope"]["payload"]))
    again(made)
    refused(made, path, "is signed by somebody else")


def test_a_bundle_in_another_spelling(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    path = bundle(made, "tarball")
    text = (made.dist / path).read_bytes()
    (made.dist / path).write_bytes(text.replace(b'{"dsse', b'{ "dsse', 1))
    again(made)
    refused(made, path, "is not in the canonical form")
    (made.dist / path).write_bytes(text.replace(b'"mediaType":', b'"mediaType":"x","mediaType":', 1))
    again(made)
    refused(made, path, "a key stands twice")


def test_an_unknown_key(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    if not (made.keys / "stranger.key").exists():
        new_key("stranger", made.keys)
    path = bundle(made, "tarball")
    made.signers = {path: "stranger"}
    made.build("builder")
    again(made)
    refused(made, path, "is signed by nobody whom the policy names")
    refused(made, AMD64, "has provenance of too few builders")


def test_a_key_under_the_hint_of_another(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    path = bundle(made, "tarball")
    rewrite(
        made.dist / path,
        lambda b: b["verificationMaterial"]["publicKey"].update(
            hint=base64.b64encode(Digest.of_bytes(spki_of(made.signing("rebuilder").key)).hex.encode()[:32]).decode()
        ),
    )
    again(made)
    refused(made, path, "is signed by nobody whom the policy names")


def test_the_right_key_with_the_wrong_builder_id(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, ids={"builder": IDS + "somebody"})
    made.build("builder")
    again(made)
    refused(made, bundle(made, "tarball"), "states another builder id")
    refused(made, AMD64, "has provenance of too few builders")


def test_builder_and_rebuilder_with_one_key(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, signers={"rebuilder": "builder"})
    shutil.rmtree(made.dist / bundle(good, "tarball", "rebuilder").rpartition("/")[0])
    made.build("rebuilder")
    again(made)
    refused(made, AMD64, "was made again, with the same bytes, by too few rebuilders")


def test_one_key_under_two_ids_in_the_policy(good: Trusted, tmp_path: Path) -> None:
    def shared(policy: dict[str, Any]) -> None:
        policy["signers"][1]["key"] = policy["signers"][0]["key"]

    made = copied(good, tmp_path, edits={"policy": shared})
    made.publish()
    refused(made, "policy.json", "binds one key to two ids")


def test_one_builder_twice_is_one_builder(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, edits={"policy": lambda p: p["kinds"][2].update(builders=2)})
    shutil.copytree(
        made.dist / f"provenance/builder-{made.keyid8('builder')}", made.dist / "provenance/builder-00000000"
    )
    again(made)
    report = refused(made, AMD64, "has provenance of too few builders")
    assert any(r.found == f"1: {IDS}builder" for r in report.reasons)


def test_a_key_that_was_taken_out_of_the_policy(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, edits={"policy": lambda p: p["signers"].pop(1)})
    made.publish()
    refused(made, bundle(made, "tarball", "rebuilder"), "is signed by nobody whom the policy names")
    refused(made, AMD64, "by too few rebuilders")


# --- attestations


def remove_rebuild(made: Trusted) -> None:
    (made.dist / bundle(made, "rebuild", "rebuilder")).unlink()


def remove_rebuilders_provenance(made: Trusted) -> None:
    (made.dist / bundle(made, "tarball", "rebuilder")).unlink()


def remove_provenance(made: Trusted) -> None:
    (made.dist / bundle(made, "tarball")).unlink()


def remove_sbom(made: Trusted) -> None:
    (made.dist / f"provenance/builder-{made.keyid8('builder')}/sbom/rfo.linux-amd64.sigstore.json").unlink()


@pytest.mark.parametrize("promoted_so", [False, True])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (remove_rebuild, "by too few rebuilders"),
        (remove_rebuilders_provenance, "by too few rebuilders"),
        (remove_provenance, "has provenance of too few builders"),
        (remove_sbom, "has no attestation that the policy asks for"),
    ],
)
def test_a_removed_attestation(good: Trusted, tmp_path: Path, change: Change, reason: str, promoted_so: bool) -> None:
    made = copied(good, tmp_path)
    change(made)
    if promoted_so:
        again(made)
    else:
        refused(made, "provenance/", "is missing")
    refused(made, AMD64, reason)
    refused(made, AMD64, reason, scope=Scope("amd64"))


def test_attestations_of_another_release(good: Trusted, tmp_path: Path) -> None:
    other = promoted(tmp_path / "other", version="v1.0.1+rfor1")
    shutil.rmtree(other.keys)
    shutil.copytree(good.keys, other.keys)
    shutil.rmtree(other.dist / "provenance")
    other.build("builder")
    other.build("rebuilder")
    made = copied(good, tmp_path)
    for role in ("builder", "rebuilder"):
        for kind in ("tarball", "rebuild") if role == "rebuilder" else ("tarball",):
            path = bundle(made, kind, role)
            shutil.copy(other.dist / path, made.dist / path)
    again(made)
    refused(made, bundle(made, "tarball"), "states another release")
    refused(made, bundle(made, "rebuild", "rebuilder"), "states another release")
    refused(made, AMD64, "has provenance of too few builders")


def test_a_rebuild_of_another_candidate(good: Trusted, tmp_path: Path) -> None:
    path = bundle(good, "rebuild", "rebuilder")
    made = copied(good, tmp_path, edits={path: lambda s: s["predicate"]["candidate"].update(sha256="0" * 64)})
    made.build("rebuilder")
    again(made)
    refused(made, path, "states another candidate")


def test_a_rebuild_by_the_builder(good: Trusted, tmp_path: Path) -> None:
    path = bundle(good, "rebuild", "rebuilder")
    made = copied(good, tmp_path, signers={path: "builder"})
    made.build("rebuilder")
    again(made)
    refused(made, path, "is the result of a rebuild by somebody else")


def test_a_rebuilder_who_found_a_difference(good: Trusted, tmp_path: Path) -> None:
    path = bundle(good, "rebuild", "rebuilder")

    def differs(statement: dict[str, Any]) -> None:
        del statement["subjects"][AMD64]
        statement["predicate"]["different"] = [AMD64]

    made = copied(good, tmp_path, edits={path: differs})
    made.build("rebuilder")
    again(made)
    refused(made, AMD64, "came out with other bytes when")
    refused(made, AMD64, "by too few rebuilders")


def test_a_rebuilder_who_found_something_else(good: Trusted, tmp_path: Path) -> None:
    path = bundle(good, "rebuild", "rebuilder")
    made = copied(good, tmp_path, edits={path: lambda s: s["predicate"].update(different=["bin/extra"])})
    made.build("rebuilder")
    again(made)
    refused(made, path, "found a difference in bin/extra, which this release has not")


@pytest.mark.parametrize("kind", ["tarball", "rebuild"])
def test_a_rebuilder_with_other_bytes(good: Trusted, tmp_path: Path, kind: str) -> None:
    path = bundle(good, kind, "rebuilder")
    other = {AMD64: Digest("0" * 64)}
    made = copied(good, tmp_path, edits={path: lambda s: s["subjects"].update(other)})
    made.build("rebuilder")
    again(made)
    refused(made, AMD64, "has another digest according to")


def test_two_rebuilders_where_one_is_there(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, edits={"policy": lambda p: p["kinds"][0].update(rebuilders=2)})
    made.publish()
    refused(made, "binary/rfo/amd64/rfo", "by too few rebuilders")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p["buildDefinition"]["externalParameters"].update(release="v2.0.0+rfor1"), "states another release"),
        (lambda p: p["buildDefinition"]["externalParameters"].update(bases={}), "states another bases"),
        (lambda p: p["buildDefinition"]["externalParameters"].update(deviations=[]), "states another deviations"),
        (lambda p: p["buildDefinition"]["externalParameters"].update(platforms=["linux/s390x"]), "other platforms"),
        (lambda p: p["buildDefinition"]["externalParameters"].update(kind="chart"), "of another kind"),
        (lambda p: p["buildDefinition"]["externalParameters"].update(fast=True), "built with other parameters"),
        (lambda p: p["buildDefinition"].update(buildType="https://example.org/x"), "states another build type"),
        (lambda p: p["buildDefinition"].update(resolvedDependencies=[]), "names nothing that its subjects were made"),
        (lambda p: p["buildDefinition"]["internalParameters"].update(actions={}), "which step made it"),
    ],
)
def test_provenance_that_says_something_else(
    good: Trusted, tmp_path: Path, change: Callable[[Any], None], reason: str
) -> None:
    path = bundle(good, "tarball")
    made = copied(good, tmp_path, edits={path: lambda s: change(s["predicate"])})
    made.build("builder")
    again(made)
    refused(made, path, reason)


def test_provenance_of_what_the_release_has_not(good: Trusted, tmp_path: Path) -> None:
    path = bundle(good, "tarball")
    extra = {"rfo.linux-s390x.tar.gz": Digest("0" * 64)}

    def add(statement: dict[str, Any]) -> None:
        statement["subjects"].update(extra)
        statement["predicate"]["buildDefinition"]["internalParameters"]["actions"]["rfo.linux-s390x.tar.gz"] = "x"

    made = copied(good, tmp_path, edits={path: add})
    made.build("builder")
    again(made)
    refused(made, path, "is about rfo.linux-s390x.tar.gz, which this release has not")


def test_an_sbom_that_is_not_the_one_beside_it(good: Trusted, tmp_path: Path) -> None:
    path = f"provenance/builder-{good.keyid8('builder')}/sbom/rfo.linux-amd64.sigstore.json"
    made = copied(good, tmp_path, edits={path: lambda s: s["predicate"].update(name="other")})
    made.build("builder")
    again(made)
    refused(made, path, "holds another document than the one in sbom/")


def test_an_image_signature_over_other_images(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    images = "provenance/release/images.sigstore.json"
    made.write(images, (made.dist / bundle(made, "image")).read_bytes())
    again(made)
    refused(made, images, "is not signed by the release role")
    (made.dist / images).unlink()
    again(made)
    refused(made, images, "nothing signs the images")


# --- policy


def test_a_base_outside_the_policy(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, edits={"policy": lambda p: p.update(bases=["openeuler-*"])})
    made.publish()
    refused(made, "debian-13", "is a base that the policy does not accept")
    refused(made, "debian-13", "is a base that the policy does not accept", scope=Scope("arm64"))
    accepted(made, allow_bases=frozenset({"debian-13"}))


def test_a_deviation_outside_the_policy(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, edits={"policy": lambda p: p.update(deviations=["no ingress-nginx"])})
    made.publish()
    refused(made, "go 1.20.14", "is a deviation from upstream that the policy does not allow")


def test_a_version_below_the_policys_floor(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, edits={"policy": lambda p: p.update(minimum_version="v1.0.0+rfor10")})
    made.publish()
    refused(made, VERSION, "is older than the policy accepts")
    refused(made, VERSION, "is older than the policy accepts", allow_downgrade=True)


def test_a_kind_that_the_policy_does_not_know(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, edits={"policy": lambda p: p["kinds"].pop()})
    made.publish()
    refused(made, "NOTES.md", "is of no kind that the policy knows")


# --- versions and time


def older(good: Trusted, tmp_path: Path) -> tuple[Trusted, Any]:
    """What a host remembers that accepted a newer release of the same trust root."""
    newer = promoted(tmp_path / "newer", version="v1.0.0+rfor10")
    made = promoted(tmp_path / "older", version="v1.0.0+rfor9")
    state = accepted(newer).state
    assert state is not None
    return made, replace(state, root=None, timestamp=None, metadata={})


def test_an_older_version_again(good: Trusted, tmp_path: Path) -> None:
    made, state = older(good, tmp_path)
    refused(made, "v1.0.0+rfor9", "is older than what was accepted on this host before", state=state)
    report = accepted(made, state=state, allow_downgrade=True)
    assert report.state is not None
    assert report.state.highest_version == "v1.0.0+rfor10"
    assert any("a downgrade" in note for note in report.notes)


def test_an_older_version_than_is_installed(good: Trusted) -> None:
    refused(good, VERSION, "is older than what is installed", installed_version="v1.0.0+rfor2")
    accepted(good, installed_version="v1.0.0+rfor2", allow_downgrade=True)
    accepted(good, installed_version=VERSION)


def test_another_version_than_was_asked_for(good: Trusted) -> None:
    refused(good, good.name, "is another release than was asked for", expect_version="v1.0.1+rfor1")


def test_a_release_that_was_taken_back(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    made.publish({"yanked": "it loses data"})
    report = refused(made, made.name, "was taken back")
    assert any(r.found == "it loses data" for r in report.reasons)
    assert any("it loses data" in n for n in accepted(made, allow_yanked=True).notes)


def test_frozen_metadata_expire(tmp_path: Path) -> None:
    made = promoted(tmp_path, days=-1)
    report = judged(made)
    assert report.exit_code == STALE
    assert not report.reasons
    assert all("expired 1 days ago" in s for s in report.stale)
    assert len(report.stale) == 5
    noted = accepted(made, allow_stale=True)
    assert sum("expired 1 days ago" in n for n in noted.notes) == 5
    assert noted.state is not None
    assert noted.state.last_time < Options().now - DAY
    as_of = accepted(made, as_of=Options().now - 2 * DAY)
    assert any("2 days before this host's clock" in n for n in as_of.notes)


def test_stale_and_altered_is_altered(tmp_path: Path) -> None:
    made = promoted(tmp_path, days=-1)
    truncate(made)
    refused(made, AMD64, "was changed", allow_stale=True)
    refused(made, AMD64, "was changed")


def test_a_clock_that_was_set_back(good: Trusted) -> None:
    refused(good, "the clock of this host", "stands before the date of this release", now=1000)
    state = accepted(good).state
    assert state is not None
    refused(good, "the clock of this host", "at which this host accepted", state=state, now=state.last_time - DAY)


def test_a_clock_that_was_set_forward(good: Trusted) -> None:
    assert judged(good, now=Options().now + 500 * DAY).exit_code == STALE


# --- the trust root


def test_metadata_that_lead_back(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    made.publish()
    state = accepted(made).state
    assert state is not None
    made.dist = good.dist
    refused(made, "timestamp.json", "is older than what this host has accepted before", state=state)


def test_a_newer_timestamp_over_older_targets(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    made.publish()
    state = accepted(made).state
    made.versions |= {"targets": 0, "release": 0}
    made.publish()
    refused(made, "snapshot.json", "leads back to an older", state=state)


def test_another_timestamp_of_the_same_version(good: Trusted, tmp_path: Path) -> None:
    state = accepted(good).state
    made = copied(good, tmp_path)
    made.versions |= {"timestamp": 0}
    made.publish()
    refused(made, "timestamp.json", "under the same version", state=state)


def test_mixed_metadata(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    made.versions |= {"targets": 0, "release": 0, "snapshot": 0, "timestamp": 0}
    before = {n: (made.dist / "trust/metadata" / n).read_bytes() for n in ("1.targets.json", "1.snapshot.json")}
    made.publish({"note": "other"})
    for name, data in before.items():
        (made.dist / "trust/metadata" / name).write_bytes(data)
        refused(made, name, "is not the file that the trust root names")


def envelope(made: Trusted, name: str) -> Path:
    return made.dist / "trust/metadata" / name


def test_an_extra_signature_by_an_unknown_key(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    extra = {"keyid": "0" * 64, "sig": "AAAA"}
    rewrite(envelope(made, "timestamp.json"), lambda e: e["signatures"].append(extra))
    refused(made, "timestamp.json", "has a signature by a key that is not trusted for it")


def test_an_extra_signature_on_the_first_root(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    extra = {"keyid": "0" * 64, "sig": "AAAA"}
    rewrite(envelope(made, "1.root.json"), lambda e: e["signatures"].append(extra))
    refused(made, "1.root.json", "has a signature by a key that is not trusted for it")


def test_a_signature_that_stands_twice(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    rewrite(envelope(made, "timestamp.json"), lambda e: e["signatures"].append(e["signatures"][0]))
    refused(made, "timestamp.json", "has a signature that stands twice")


def test_a_keyid_is_only_a_name(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    snapshot = load_signing("snapshot", made.keys).key.keyid
    rewrite(envelope(made, "timestamp.json"), lambda e: e["signatures"][0].update(keyid=snapshot))
    refused(made, "timestamp.json", "is not trusted for it")


def test_one_key_under_two_names_does_not_count_twice(tmp_path: Path) -> None:
    def doubled(root: dict[str, Any]) -> None:
        first = root["roles"]["root"]["keyids"][0]
        root["keys"]["0" * 64] = root["keys"][first]
        root["roles"]["root"]["keyids"].append("0" * 64)

    refused(promoted(tmp_path, edits={"root": doubled}), "root", "one key under two names")


@pytest.mark.parametrize(
    ("signers", "reason"),
    [
        (["root-1"], "too few"),
        (["root-1", "root-2", "targets"], "not trusted for it"),
        (["targets", "snapshot"], "not trusted for it"),
    ],
)
def test_the_next_root_needs_the_keys_of_the_last(
    good: Trusted, tmp_path: Path, signers: list[str], reason: str
) -> None:
    made = copied(good, tmp_path)
    made.write_root(signers=signers)
    made.publish()
    refused(made, "2.root.json", reason)


def test_a_root_with_new_keys_needs_old_and_new(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    for name in ("root-4", "root-5"):
        if not (made.keys / f"{name}.key").exists():
            new_key(name, made.keys)
    new = {"root": ["root-3", "root-4", "root-5"]}
    for signers in (["root-4", "root-5"], ["root-1", "root-2"], ["root-1", "root-3"], ["root-3", "root-4"]):
        made.versions["root"] = 1
        made.write_root(new, signers)
        made.publish()
        refused(made, "2.root.json", "is signed by too few of the keys")
    made.versions["root"] = 1
    made.write_root(new, ["root-1", "root-3", "root-4"])
    made.publish()
    accepted(made)


def test_a_trust_root_without_a_policy(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, edits={"targets": lambda b: b["targets"].pop("policy.json")})
    made.publish()
    refused(made, "targets.json", "does not name policy.json")


def test_metadata_under_another_version(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, edits={"targets": lambda b: b.update(version=7)})
    made.publish()
    refused(made, "2.targets.json", "has another version than it is named by")


def test_a_root_that_is_skipped(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    made.versions["root"] = 2
    made.write_root()
    made.snapshot()
    refused(made, "3.root.json", "is no part of the trust root")


def test_a_timestamp_key_that_was_replaced(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    if not (made.keys / "timestamp-2.key").exists():
        new_key("timestamp-2", made.keys)
    made.write_root({"timestamp": ["timestamp-2"]})
    made.snapshot()  # the old timestamp under the new root
    refused(made, "timestamp.json", "is not trusted for it")
    made.signers = {"timestamp": "timestamp-2"}
    made.versions["timestamp"] = 0  # begins again: what the old key signed no longer counts
    made.publish()
    state = accepted(good).state
    accepted(made, state=state)


def test_a_host_goes_on_from_its_own_root(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    made.write_root()
    made.publish()
    state = accepted(made).state
    assert state is not None
    accepted(made, state=state)
    path = made.dist / "trust/metadata/1.root.json"
    flip(path, 0.5)
    refused(made, "1.root.json", "", state=state)


def test_another_root_than_is_trusted(good: Trusted, tmp_path: Path) -> None:
    other = promoted(tmp_path)
    report = verify(good.dist, other.root.read_bytes(), Options())
    assert [(r.subject, r.reason) for r in report.reasons] == [
        ("trust/metadata/1.root.json", "is another root than the one that this host trusts")
    ]
    refused(good, "trust/metadata/1.root.json", "is another root", state=accepted(other).state)


def test_the_release_role_may_name_releases_only(good: Trusted, tmp_path: Path) -> None:
    def policy(body: dict[str, Any]) -> None:
        body["targets"]["policy.json"] = next(iter(body["targets"].values()))

    made = copied(good, tmp_path, edits={"release": policy})
    made.publish()
    refused(made, "release.json", "names policy.json, which it may not")


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp", "release"])
def test_each_role_needs_its_own_key(good: Trusted, tmp_path: Path, role: str) -> None:
    made = copied(good, tmp_path, signers={role: "builder"})
    made.publish()
    refused(made, f"{role}.json", "is not trusted for it")


def test_metadata_of_another_role(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, edits={"timestamp": lambda b: b.update(_type="snapshot")})
    made.publish()
    refused(made, "timestamp.json", "is metadata of another role")


def test_a_root_that_the_timestamp_knows_and_the_release_lacks(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path, edits={"timestamp": lambda b: b.update({"x-rfo-root": 2})})
    made.publish()
    refused(made, "trust/metadata/2.root.json", "is missing")


def test_endless_metadata(good: Trusted, tmp_path: Path) -> None:
    made = copied(good, tmp_path)
    with envelope(made, "timestamp.json").open("ab") as file:
        file.truncate(1 << 30)
    refused(made, "timestamp.json", "is too large")


# --- archives


def archive(path: Path, *members: tarfile.TarInfo) -> str:
    """A compressed archive of empty members; returns its digest."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    path.write_bytes(gzip.compress(data.getvalue()))
    return Digest.of_file(path).hex


def member(
    name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, size: int = 0, link: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, size, link
    return info


FOLDER = member("bin", tarfile.DIRTYPE, 0o755)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([member("../evil")], "leads out of it"),
        ([member("/etc/evil")], "leads out of it"),
        ([FOLDER, member("bin/../../evil")], "leads out of it"),
        ([member(".hidden")], "leads out of it, or is hidden"),
        ([member("bin", tarfile.SYMTYPE, 0o777, link="/etc"), member("bin/evil")], "neither a file nor a folder"),
        ([member("bin", tarfile.LNKTYPE, link="/etc/passwd")], "neither a file nor a folder"),
        ([member("null", tarfile.CHRTYPE)], "neither a file nor a folder"),
        ([member("pipe", tarfile.FIFOTYPE)], "neither a file nor a folder"),
        ([FOLDER, member("bin/rfo"), member("bin/rfo")], "holds a member twice"),
        ([member("bin/rfo")], "before the folder that it is in"),
        ([FOLDER, member("bin/rfo", mode=0o4755)], "with a mode that no file of ours has"),
        ([FOLDER, member("bin/rfo", mode=0o666)], "with a mode that no file of ours has"),
    ],
)
def test_what_an_archive_must_not_hold(tmp_path: Path, members: list[tarfile.TarInfo], reason: str) -> None:
    path, target = tmp_path / "rfo.tar.gz", tmp_path / "staging"
    digest = archive(path, *members)
    with pytest.raises(Refused, match=reason):
        unpack(path, target, digest)
    assert not target.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rfo.tar.gz"]


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    path, target = tmp_path / "rfo.tar.gz", tmp_path / "staging"
    digest = archive(path, FOLDER, member("bin/rfo", size=4000))
    with pytest.raises(Refused, match="was changed after it was signed"):
        unpack(path, target, "0" * 64)
    for data in (path.read_bytes()[:-20], b"no gzip", path.read_bytes() + b"more", gzip.compress(b"no tar" * 1000)):
        path.write_bytes(data)
        with pytest.raises(Refused, match="is not an archive as it should be"):
            unpack(path, target, Digest.of_bytes(data).hex)
        assert not target.exists()
    digest = archive(path, FOLDER)
    target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="cannot be made"):
        unpack(path, target, digest)


def test_an_archive_of_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, target = tmp_path / "rfo.tar.gz", tmp_path / "staging"
    digest = archive(path, FOLDER, member("bin/a", size=3000), member("bin/b", size=3000))
    for name, limit in (("MAX_UNPACKED", 5000), ("MAX_MEMBERS", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(f"pipeline.verifier.unpack.{name}", limit)
            with pytest.raises(Refused, match="holds too much"):
                unpack(path, target, digest)
    assert not target.exists()


def test_a_bundle_that_is_signed_anew_by_its_own_key_is_accepted(good: Trusted, tmp_path: Path) -> None:
    """The attacks fail for their reason, not because sealing again would."""
    made = copied(good, tmp_path)
    made.build("builder")
    again(made)
    accepted(made)
