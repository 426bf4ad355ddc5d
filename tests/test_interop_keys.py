"""Programs that others wrote verify what keys signed, with no way out to any network: cosign, oras, skopeo, helm.

What each of them refuses is tested beside what it accepts; what cosign accepts too much of is written down here.
"""

import base64
import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from registry_server import Images, distribution, referrers_registry
from test_oci_signatures import mirrored, pause, pushed, reference, run, tag, with_legacy
from tools import compiled, tool
from trusted import BUILD, STATEMENT, Trusted, promoted

from pipeline.attest.statement import make_statement
from pipeline.model import Digest
from pipeline.verifier.statement import PROVENANCE, RELEASE, SPDX

pytestmark = pytest.mark.full
"""cosign and skopeo take minutes to build; with them, this takes seconds."""
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
NO_LOG = "--insecure-ignore-tlog=true"
"""Without it, cosign asks for an entry in a public log, which a release signed with keys has not."""
REGISTRY = (NO_LOG, "--allow-http-registry")


CONTAINERS_IMAGE = "github.com/containers/image/v5@v5.36.2"
JUDGE = """package main

import (
	"context"
	"log"
	"os"

	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/image"
	"github.com/containers/image/v5/signature"
	"github.com/containers/image/v5/types"
)

// main judges an image (//HOST/NAME@DIGEST) by a policy.json and a folder registries.d.
func main() {
	policy, err := signature.NewPolicyFromFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	judge, err := signature.NewPolicyContext(policy)
	if err != nil {
		log.Fatal(err)
	}
	reference, err := docker.ParseReference(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	system := &types.SystemContext{RegistriesDirPath: os.Args[2], DockerInsecureSkipTLSVerify: types.OptionalBoolTrue}
	source, err := reference.NewImageSource(context.Background(), system)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := judge.IsRunningImageAllowed(context.Background(), image.UnparsedInstance(source, nil)); err != nil {
		log.Fatal(err)
	}
}
"""
"""Debian's skopeo has this form of signatures turned off: the library of skopeo, podman and cri-o is asked itself."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Trusted:
    return with_legacy(promoted(tmp_path_factory.mktemp("signed")))


@pytest.fixture(scope="module", params=["referrers API", "fallback tag"])
def registry(request: pytest.FixtureRequest, made: Trusted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with the release."""
    folder = tmp_path_factory.mktemp("registry")
    with referrers_registry(folder) if request.param == "referrers API" else distribution(folder) as address:
        pushed(made.dist, address)
        yield address


def cosign(*arguments: object, offline: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run cosign without configuration; the only way out is a proxy that is not there, or none at all if `offline`."""
    command = [tool("cosign"), *map(str, arguments)]
    if offline:
        command = ["unshare", "--user", "--map-root-user", "--net", *command]
    with tempfile.TemporaryDirectory() as home:  # cosign keeps things there
        environment = {"HOME": home, "PATH": "/usr/bin:/bin", "HTTPS_PROXY": "http://127.0.0.1:1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)


def accepted(*arguments: object, offline: bool = False) -> str:
    done = cosign(*arguments, offline=offline)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*arguments: object, offline: bool = False) -> str:
    done = cosign(*arguments, offline=offline)
    assert done.returncode != 0, done.stdout
    return done.stderr


def public(made: Trusted, role: str) -> tuple[str, str]:
    return ("--key", str(made.keys / f"{role}.pub"))


def places(made: Trusted, registry: str) -> list[str]:
    """Every image of the release by digest: indexes, platforms' manifests, charts."""
    found = [f"{i['name']}@{d}" for i in made.manifest["images"] for d in (i["digest"], *i["platforms"].values())]
    found.append(f"rfo-coredns@{made.subjects()['chart']['chart/rfo-coredns']}")
    return [f"{registry}/rfolabs/{name}" for name in found]


def platform(made: Trusted, registry: str) -> str:
    digest = next(i for i in made.manifest["images"] if i["name"] == "pause")["platforms"]["linux/amd64"]
    return f"{registry}/rfolabs/pause@{digest}"


# --- images


def test_cosign_verifies_every_image_and_chart(made: Trusted, registry: str) -> None:
    for place in places(made, registry):
        accepted("verify", *public(made, "release"), *REGISTRY, place)
        for role in ("builder", "rebuilder"):
            said = accepted(
                "verify-attestation", *public(made, role), "--type", "slsaprovenance1", *REGISTRY, place
            )  # fmt: skip
            statement = json.loads(base64.b64decode(json.loads(said)["payload"]))
            assert statement["predicate"]["buildDefinition"]["buildType"] == BUILD
            assert place.rpartition(":")[2] in {s["digest"]["sha256"] for s in statement["subject"]}
    accepted(
        "verify-attestation", *public(made, "builder"), "--type", "spdxjson", *REGISTRY, platform(made, registry)
    )  # fmt: skip


def test_cosign_refuses_other_keys_and_other_claims(made: Trusted, registry: str) -> None:
    place = platform(made, registry)
    assert "Found: 0, Expected 1" in refused("verify", *public(made, "targets"), *REGISTRY, place)
    attested = ("verify-attestation", "--type", "slsaprovenance1", *REGISTRY, place)
    assert "Found: 0, Expected 1" in refused(*attested, *public(made, "root-1"))
    index = f"{registry}/rfolabs/pause@{pause(made)}"
    of_sbom = ("verify-attestation", *public(made, "builder"), "--type", "spdxjson", *REGISTRY)
    assert "none of the attestations matched the predicate type" in refused(*of_sbom, index)


def test_the_flag_says_that_there_is_no_log(made: Trusted, registry: str) -> None:
    """Without it cosign looks for the public log, and cannot."""
    refused("verify", *public(made, "release"), "--allow-http-registry", platform(made, registry))


def test_what_oras_and_mirror_copied_verifies(made: Trusted, registry: str, stack: ExitStack, tmp_path: Path) -> None:
    other = stack.enter_context(distribution(tmp_path / "other"))
    index = f"rfolabs/pause@{pause(made)}"
    flags = ("--from-plain-http", "--to-plain-http")
    run("oras", "cp", "-r", *flags, f"{registry}/{index}", f"{other}/oras/rfolabs/pause:copy")
    mirrored(f"{registry}", f"{other}/mirror", made.dist)
    for place in (f"{other}/oras/{index}", f"{other}/mirror/{index}", platform(made, f"{other}/mirror")):
        accepted("verify", *public(made, "release"), *REGISTRY, place)
        accepted("verify-attestation", *public(made, "rebuilder"), "--type", "slsaprovenance1", *REGISTRY, place)


def test_the_older_form_alone_verifies(made: Trusted, registry: str) -> None:
    """As clients see it that know no referrers, and in registries that lost them."""
    source, goal = f"{registry}/rfolabs/pause", f"{registry}/older/pause"
    run("crane", "copy", "--insecure", f"{source}@{pause(made)}", f"{goal}:copy")
    place = f"{goal}@{pause(made)}"
    assert "no signatures found" in refused("verify", *public(made, "release"), *REGISTRY, place)
    for suffix in ("sig", "att"):
        name = tag(pause(made), suffix)
        run("crane", "copy", "--insecure", f"{source}:{name}", f"{goal}:{name}")
    found = json.loads(accepted("verify", *public(made, "release"), *REGISTRY, place))
    assert [e["critical"]["identity"]["docker-reference"] for e in found] == [reference(made)]
    attested = ("verify-attestation", "--type", "slsaprovenance1", *REGISTRY, place)
    for role in ("builder", "rebuilder"):
        accepted(*attested, *public(made, role))
    assert "invalid signature" in refused("verify", *public(made, "targets"), *REGISTRY, place)
    refused(*attested, *public(made, "release"))


@pytest.mark.parametrize("change", ["none", "payload", "other image", "no referrer", "SBOM only"])
def test_cosign_judges_what_is_attached(made: Trusted, stack: ExitStack, tmp_path: Path, change: str) -> None:
    """An image with one bundle: good, or not. The good one shows that nothing else makes the others fail."""
    images = Images(tmp_path / "images")
    index = images.index(images.image("amd64", b"file"))
    images.name(index, "pause:v1")
    about = Digest.parse("sha256:" + "0" * 64 if change == "other image" else index["digest"])
    kind = SPDX if change == "SBOM only" else PROVENANCE
    bundle = json.loads(made.sealed(make_statement({"image/pause": about}, kind, {"a": "value"}), "builder"))
    if change == "payload":
        payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b"value", b"VALUE")
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    if change != "no referrer":
        images.list(images.artifact(BUNDLE, json.dumps(bundle).encode(), index))
    registry = stack.enter_context(referrers_registry(tmp_path / "registry"))
    pushed(tmp_path, registry)
    place = f"{registry}/rfolabs/pause@{index['digest']}"
    provenance = ("verify-attestation", *public(made, "builder"), "--type", "slsaprovenance1", *REGISTRY, place)
    verify = ("verify", *public(made, "builder"), *REGISTRY, place)
    if change == "none":
        accepted(*provenance)
        return
    expected = {
        "payload": "Found: 0, Expected 1",
        "other image": "does not match",
        "no referrer": "no ",
        "SBOM only": "none of the attestations matched the predicate type",
    }
    assert expected[change] in refused(*provenance)
    if change == "SBOM only":  # `cosign verify` takes any claim for a signature: here keys have to tell them apart
        accepted(*verify)
        refused("verify", *public(made, "release"), *REGISTRY, place)
    else:
        refused(*verify)


def test_containers_image_enforces_a_policy(made: Trusted, registry: str, tmp_path: Path) -> None:
    """What podman, skopeo and cri-o ask for: a signature of the older form, for the repository by its public name."""
    mirror = f"{registry}/prefix"
    pushed(made.dist, mirror)
    judge = compiled("containers-image-policy", CONTAINERS_IMAGE, JUDGE, tags="containers_image_openpgp")
    (tmp_path / "registries.d").mkdir()
    (tmp_path / "registries.d/rfo.yaml").write_text(
        json.dumps({"docker": {mirror: {"use-sigstore-attachments": True}}})
    )

    def judged(role: str, identity: dict[str, str], place: str) -> "subprocess.CompletedProcess[str]":
        required = {"type": "sigstoreSigned", "keyPath": public(made, role)[1], "signedIdentity": identity}
        policy = {"default": [{"type": "reject"}], "transports": {"docker": {mirror: [required]}}}
        (tmp_path / "policy.json").write_text(json.dumps(policy))
        command = [judge, str(tmp_path / "policy.json"), str(tmp_path / "registries.d"), f"//{place}"]
        environment = {"HOME": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)

    mirrored_from = {"type": "remapIdentity", "prefix": mirror, "signedPrefix": "docker.io"}
    tagged = f"{mirror}/" + reference(made).partition("/")[2]
    for place in [*places(made, mirror), tagged]:
        done = judged("release", mirrored_from, place)
        assert done.returncode == 0, done.stderr
    assert "invalid signature" in judged("builder", mirrored_from, tagged).stderr
    repository = {"type": "exactRepository", "dockerRepository": "docker.io/rfolabs/pause"}
    run("crane", "tag", "--insecure", tagged, "other")
    renamed = f"{mirror}/rfolabs/pause:other"
    assert judged("release", repository, renamed).returncode == 0
    assert "not accepted" in judged("release", mirrored_from, renamed).stderr  # the tag is signed as well
    repository["dockerRepository"] = "docker.io/rfolabs/another"
    assert "not accepted" in judged("release", repository, tagged).stderr


def test_helm_verifies_no_chart_in_a_registry(made: Trusted, registry: str, tmp_path: Path) -> None:
    """A chart there has no provenance of Helm's: signing must not change the manifest that was built twice."""
    version = made.version.removeprefix("v")
    pull = [tool("helm"), "pull", f"oci://{registry}/rfolabs/rfo-coredns", "--version", version, "-d", str(tmp_path)]
    environment = {"HOME": str(tmp_path)}
    subprocess.run([*pull, "--plain-http"], env=environment, check=True, capture_output=True)
    chart = f"rfo-coredns-{version}.tgz"
    assert (tmp_path / chart).read_bytes() == (made.dist / "charts" / chart).read_bytes()
    (tmp_path / chart).unlink()
    done = subprocess.run(
        [*pull, "--plain-http", "--verify"], env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "provenance" in done.stderr


# --- files, without any network


def claims(made: Trusted) -> list[tuple[str, str, str, str]]:
    """Role, type as cosign calls it, bundle, and the file that it is about."""
    tarball = "rfo.linux-amd64.tar.gz"
    builder, rebuilder = (f"provenance/{r}-{made.keyid8(r)}" for r in ("builder", "rebuilder"))
    return [
        ("builder", "slsaprovenance1", f"{builder}/tarball.sigstore.json", tarball),
        ("rebuilder", "slsaprovenance1", f"{rebuilder}/tarball.sigstore.json", tarball),
        ("builder", "spdxjson", f"{builder}/sbom/rfo.linux-amd64.sigstore.json", tarball),
        ("release", RELEASE, STATEMENT, tarball),
        ("release", RELEASE, STATEMENT, "release.json"),
        ("builder", "slsaprovenance1", f"{builder}/chart.sigstore.json", "charts/rfo-coredns-1.0.0+rfor1.tgz"),
    ]


def test_cosign_verifies_files_without_a_network(made: Trusted, tmp_path: Path) -> None:
    for role, kind, bundle, file in claims(made):

        def about(role: str, kind: str, bundle: Path, file: Path) -> list[Any]:
            return [
                "verify-blob-attestation", *public(made, role), "--type", kind, "--bundle", bundle, NO_LOG, file,
            ]  # fmt: skip

        place, subject = made.dist / bundle, made.dist / file
        accepted(*about(role, kind, place, subject), offline=True)
        assert "Found: 0, Expected 1" in refused(*about("targets", kind, place, subject), offline=True)
        assert "invalid predicate type" in refused(*about(role, "custom", place, subject), offline=True)
        changed = tmp_path / "changed"
        changed.write_bytes(subject.read_bytes() + b"x")
        assert "not match digests in statement" in refused(*about(role, kind, place, changed), offline=True)
        altered = json.loads(place.read_bytes())
        payload = json.loads(base64.b64decode(altered["dsseEnvelope"]["payload"]))
        payload["predicate"]["more"] = True
        altered["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
        (tmp_path / "altered.json").write_text(json.dumps(altered))
        assert "Found: 0, Expected 1" in refused(*about(role, kind, tmp_path / "altered.json", subject), offline=True)


def test_verify_blob_looks_at_no_type(made: Trusted) -> None:
    """`cosign verify-blob` accepts any claim about a file: docs name verify-blob-attestation."""
    _, _, bundle, file = claims(made)[2]
    accepted(
        "verify-blob", *public(made, "builder"), "--bundle", made.dist / bundle, NO_LOG, made.dist / file, offline=True
    )
