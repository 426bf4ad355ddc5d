"""Programs that others wrote verify a release that is signed by certificate and logged, with no flag that weakens them.

The instance is the Sigstore project's own servers; while anything is verified they are gone, and so is every network.
"""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine import REPO
from registry_server import Images, distribution, referrers_registry
from sigstack import IDENTITY, running
from test_interop_keys import accepted, places, refused
from test_keyless import certified, configure
from test_oci_signatures import pushed
from test_verifier import Host
from trusted import STATEMENT, Trusted

from pipeline.attest.keyless import MAX_ENTRIES, release_signer
from pipeline.attest.standalone import render_verifier
from pipeline.attest.statement import make_statement
from pipeline.model import Digest
from pipeline.verifier.statement import PROVENANCE, RELEASE, SPDX

pytestmark = pytest.mark.full
"""cosign and the servers take minutes to build; with them, this takes seconds."""
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
HTTP = "--allow-http-registry"
TARBALL = "rfo.linux-amd64.tar.gz"


@dataclass
class Logged:
    """A release, and what its instance proved."""

    made: Trusted
    issuer: str
    entries: int
    """That the log got for the release."""
    trusted_root: Path
    claims: dict[str, bytes]
    """More bundles by the same identity: about an image that no test has yet pushed."""
    image: dict[str, Any]

    @property
    def who(self) -> tuple[str, ...]:
        """What cosign has to be told: whom to trust, for whom."""
        return (
            "--trusted-root", str(self.trusted_root),
            "--certificate-identity", IDENTITY, "--certificate-oidc-issuer", self.issuer,
        )  # fmt: skip

    @property
    def bundles(self) -> list[Path]:
        return sorted((self.made.dist / "provenance" / "release").glob("*.sigstore.json"))


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    folder = tmp_path_factory.mktemp("logged")
    (folder / "stack").mkdir()
    images = Images(folder / "images")
    image = images.index(images.image("amd64", b"file"))
    images.name(image, "pause:v1")
    with running(folder / "stack") as stack:
        config = stack.trust_config()
        keys = configure(folder / "keyless", config, IDENTITY, stack.issuer)
        (keys / "token").write_text(stack.tokens.token())
        made = certified(folder / "release", config, keys, IDENTITY, stack.issuer)
        entries = stack.entries
        about = {"image/pause": Digest.parse(image["digest"])}
        other = {"image/pause": Digest.parse("sha256:" + "0" * 64)}
        statements = {
            "provenance": make_statement(about, PROVENANCE, {"a": "value"}),
            "other image": make_statement(other, PROVENANCE, {"a": "value"}),
            "SBOM only": make_statement(about, SPDX, {"a": "value"}),
        }
        signed = dict(zip(statements, release_signer(keys)(list(statements.values())), strict=True))
        issuer = stack.issuer
    (folder / "trusted_root.json").write_bytes(made.trusted_root)
    yield Logged(made, issuer, entries, folder / "trusted_root.json", signed, image)


@pytest.fixture(scope="module", params=["referrers API", "fallback tag"])
def registry(request: pytest.FixtureRequest, logged: Logged, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with the release."""
    folder = tmp_path_factory.mktemp("registry")
    with referrers_registry(folder) if request.param == "referrers API" else distribution(folder) as address:
        pushed(logged.made.dist, address)
        yield address


# --- rfo-verify


def test_a_release_is_at_most_three_entries_of_the_log(logged: Logged) -> None:
    assert logged.entries == len(logged.bundles) == MAX_ENTRIES


def test_rfo_verify_accepts_it(logged: Logged, tmp_path: Path) -> None:
    (tmp_path / "rfo-verify").write_bytes(render_verifier())
    host = Host(tmp_path, tmp_path / "rfo-verify")
    done = host.verify(logged.made, prefix=("unshare", "--user", "--map-root-user", "--net"))
    assert done.returncode == 0, done.stderr


# --- cosign


def test_cosign_verifies_every_image_and_chart(logged: Logged, registry: str) -> None:
    for place in places(logged.made, registry):
        accepted("verify", *logged.who, HTTP, place)
    for place in places(logged.made, registry)[:-1]:  # the release role repeats the provenance of images
        said = accepted("verify-attestation", *logged.who, "--type", "slsaprovenance1", HTTP, place)
        statement = json.loads(base64.b64decode(json.loads(said)["payload"]))
        assert place.rpartition(":")[2] in {s["digest"]["sha256"] for s in statement["subject"]}


def test_cosign_refuses_somebody_else(logged: Logged, registry: str, tmp_path: Path) -> None:
    place = places(logged.made, registry)[0]
    root, _, issuer = logged.who[1], *logged.who[3:6:2]
    somebody = ("--trusted-root", root, "--certificate-identity", f"x{IDENTITY}", "--certificate-oidc-issuer", issuer)
    assert "no matching CertificateIdentity" in refused("verify", *somebody, HTTP, place)
    elsewhere = (*logged.who[:4], "--certificate-oidc-issuer", f"{issuer}/")
    assert "no matching CertificateIdentity" in refused("verify", *elsewhere, HTTP, place)
    for lost in ("tlogs", "ctlogs", "timestampAuthorities", "certificateAuthorities"):
        less = {**json.loads(logged.trusted_root.read_bytes()), lost: []}
        (tmp_path / "less.json").write_text(json.dumps(less))
        refused("verify", "--trusted-root", tmp_path / "less.json", *logged.who[2:], HTTP, place)


@pytest.mark.parametrize("change", ["none", "payload", "other image", "no referrer", "SBOM only", "no log entry"])
def test_cosign_judges_what_is_attached(logged: Logged, tmp_path: Path, change: str) -> None:
    """An image with one bundle: good, or not."""
    images = Images(tmp_path / "images")
    index = images.index(images.image("amd64", b"file"))
    images.name(index, "pause:v1")
    assert index["digest"] == logged.image["digest"]
    bundle = json.loads(logged.claims.get(change, logged.claims["provenance"]))
    if change == "payload":
        payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b"value", b"VALUE")
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    if change == "no log entry":
        bundle["verificationMaterial"]["tlogEntries"] = []
    if change != "no referrer":
        images.list(images.artifact(BUNDLE, json.dumps(bundle).encode(), index))
    with ExitStack() as servers:
        registry = servers.enter_context(referrers_registry(tmp_path / "registry"))
        pushed(tmp_path, registry)
        place = f"{registry}/rfolabs/pause@{index['digest']}"
        provenance = ("verify-attestation", *logged.who, "--type", "slsaprovenance1", HTTP, place)
        if change == "none":
            accepted(*provenance)
            return
        expected = {
            "payload": "failed to verify log inclusion",
            "other image": "does not match",
            "no referrer": "no ",
            "SBOM only": "none of the attestations matched the predicate type",
            "no log entry": "log entries",
        }
        assert expected[change] in refused(*provenance)
        if change == "SBOM only":  # `cosign verify` takes any claim for a signature
            accepted("verify", *logged.who, HTTP, place)


def test_cosign_verifies_files_without_a_network(logged: Logged, tmp_path: Path) -> None:
    statement = logged.made.dist / STATEMENT
    for file in (TARBALL, "release.json", "install-rfo.sh"):
        about = ("verify-blob-attestation", *logged.who, "--type", RELEASE, "--bundle", statement)
        accepted(*about, logged.made.dist / file, offline=True)
        changed = tmp_path / "changed"
        changed.write_bytes((logged.made.dist / file).read_bytes() + b"x")
        assert "not match digests in statement" in refused(*about, changed, offline=True)
    custom = ("verify-blob-attestation", *logged.who, "--bundle", statement)
    assert "invalid predicate type" in refused(*custom, logged.made.dist / TARBALL, offline=True)


def test_verify_blob_looks_at_no_type(logged: Logged, tmp_path: Path) -> None:
    blob = ("verify-blob", *logged.who, "--bundle", logged.made.dist / STATEMENT)
    accepted(*blob, logged.made.dist / TARBALL, offline=True)
    (tmp_path / "changed").write_bytes(b"x")
    refused(*blob, tmp_path / "changed", offline=True)


# --- the project's libraries


def test_sigstore_python_verifies(logged: Logged) -> None:
    from sigstore.errors import VerificationError
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier, policy

    verifier = Verifier(trusted_root=TrustedRoot.from_file(str(logged.trusted_root)))
    for path in logged.bundles:
        bundle = Bundle.from_json(path.read_bytes())
        verifier.verify_dsse(bundle, policy.Identity(identity=IDENTITY, issuer=logged.issuer))
        with pytest.raises(VerificationError):
            verifier.verify_dsse(bundle, policy.Identity(identity=f"x{IDENTITY}", issuer=logged.issuer))


def test_sigstore_js_verifies(logged: Logged, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(REPO / "tests" / "sigstore-verify", tmp_path / "js"))
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(install, cwd=folder, check=True, capture_output=True, timeout=900)

    def judged(identity: str, *bundles: Path) -> "subprocess.CompletedProcess[str]":
        command = ["unshare", "--user", "--map-root-user", "--net", "node", "verify.js", str(logged.trusted_root)]
        command += [identity, logged.issuer, *map(str, bundles)]
        return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=900)

    done = judged(IDENTITY, *logged.bundles)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(p) for p in logged.bundles]
    assert "certificate identity error" in judged(f"x{IDENTITY}", logged.bundles[0]).stderr
    changed = json.loads(logged.bundles[0].read_bytes())
    changed["dsseEnvelope"]["payload"] = base64.b64encode(b"{}").decode()
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    assert judged(IDENTITY, tmp_path / "changed.json").returncode != 0
