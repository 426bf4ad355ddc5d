"""Signing by certificate, against an instance in this process: what is signed, what it takes, and what goes wrong."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standin import IDENTITY, ISSUER, StandIn, new_p256, token
from test_verifier import Host, program  # noqa: F401 - a fixture
from trusted import IDS, Trusted, copied, files, promoted

from pipeline.attest.keyless import release_signer
from pipeline.attest.keys import new_key
from pipeline.attest.statement import make_statement
from pipeline.errors import TrustError
from pipeline.model import Digest
from pipeline.verifier.bundle import read_bundle
from pipeline.verifier.encoding import canonical
from pipeline.verifier.statement import IMAGE_SIGNATURE, STATEMENT

NAMED = make_statement({"a": Digest.of_bytes(b"a")}, "https://example.org/p", {"b": 1})
NAMELESS = canonical(
    {
        "_type": STATEMENT,
        "subject": [{"digest": {"sha256": "0" * 64}}, {"digest": {"sha256": "1" * 64}}],
        "predicateType": IMAGE_SIGNATURE,
        "predicate": {},
    }
)


def configure(
    folder: Path, config: dict[str, Any], identity: str = IDENTITY, issuer: str = ISSUER, **more: str
) -> Path:
    """A folder of keys in which the release role signs by certificate; `more` are keys of its file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trust.json").write_text(json.dumps(config))
    (folder / "token").write_text(token() + "\n")
    token_from = {} if any(k.startswith("token_") for k in more) else {"token_file": "token"}
    settings = {"trust_config": "trust.json", "identity": identity, "issuer": issuer, **token_from, **more}
    (folder / "release.keyless.yaml").write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in settings.items()))
    return folder


def by_certificate(made: Trusted, identity: str, issuer: str) -> None:
    """Let a release's policy name an identity in place of the release role's key."""

    def edit(policy: dict[str, Any]) -> None:
        signers = [s for s in policy["signers"] if s["role"] != "release"]
        release = {"role": "release", "id": f"{IDS}release", "identity": identity, "issuer": issuer}
        policy["signers"] = [*signers, release]

    made.edits = {**made.edits, "policy": edit}


def certified(folder: Path, config: dict[str, Any], keys: Path, identity: str, issuer: str) -> Trusted:
    """A release whose statements are signed by certificate."""
    made = promoted(folder)
    made.certified, made.trusted_root = release_signer(keys), json.dumps(config["trustedRoot"]).encode()
    by_certificate(made, identity, issuer)
    made.promote()
    made.publish()
    return made


@pytest.fixture(scope="module")
def instance() -> Iterator[StandIn]:
    with StandIn().serving() as served:
        yield served


@pytest.fixture
def keys(instance: StandIn, tmp_path: Path) -> Path:
    return configure(tmp_path / "keys", instance.trust_config())


@pytest.fixture(scope="module")
def release(instance: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Trusted:
    folder = tmp_path_factory.mktemp("certified")
    config = instance.trust_config()
    return certified(folder, config, configure(folder / "keyless", config), IDENTITY, ISSUER)


@pytest.fixture
def host(tmp_path: Path, program: Path) -> Host:  # noqa: F811
    return Host(tmp_path, program)


# --- signing


def test_statements_are_signed_as_they_are(keys: Path, instance: StandIn) -> None:
    before = len(instance.leaves), instance.issued
    signer = release_signer(keys)
    files = signer([NAMED, NAMELESS])
    assert [read_bundle(f, "a bundle").payload for f in files] == [NAMED, NAMELESS]
    assert all(signer.made(read_bundle(f, "a bundle")) for f in files)
    assert (len(instance.leaves), instance.issued) == (before[0] + 2, before[1] + 1)


def test_sigstore_python_accepts_them(keys: Path, instance: StandIn) -> None:
    from sigstore.errors import VerificationError
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier, policy

    (keys / "root.json").write_text(json.dumps(instance.trusted_root()))
    verifier = Verifier(trusted_root=TrustedRoot.from_file(str(keys / "root.json")))
    for payload, file in zip([NAMED, NAMELESS], release_signer(keys)([NAMED, NAMELESS]), strict=True):
        bundle = Bundle.from_json(file)
        assert verifier.verify_dsse(bundle, policy.Identity(identity=IDENTITY, issuer=ISSUER))[1] == payload
        with pytest.raises(VerificationError):
            verifier.verify_dsse(bundle, policy.Identity(identity=IDENTITY + "x", issuer=ISSUER))


def test_not_more_than_three_entries(keys: Path, instance: StandIn) -> None:
    before = len(instance.leaves)
    with pytest.raises(TrustError, match="4 statements would be 4 entries"):
        release_signer(keys)([NAMED] * 4)
    assert len(instance.leaves) == before


def test_a_key_signs_where_nothing_is_configured(keys: Path, tmp_path: Path) -> None:
    new_key("release", tmp_path / "plain")
    signer = release_signer(tmp_path / "plain")
    (keyed,), (other,) = signer([NAMED]), release_signer(keys)([NAMED])
    assert signer.made(read_bundle(keyed, "a bundle"))
    assert not signer.made(read_bundle(other, "a bundle"))
    assert not release_signer(keys).made(read_bundle(keyed, "a bundle"))


def test_the_token_comes_from_where_it_is_said(
    instance: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = instance.trust_config()
    monkeypatch.setenv("RFO_TEST_TOKEN", token())
    for number, source in enumerate(({"token_variable": "RFO_TEST_TOKEN"}, {"token_command": "cat token"})):
        assert release_signer(configure(tmp_path / str(number), config, **source))([NAMED])


# --- what goes wrong


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"token_variable": "RFO_NO_SUCH_VARIABLE"}, "token to sign with is empty"),
        ({"token_command": "false"}, "there is no identity token"),
        ({"token_file": "none"}, "none: No such file"),
        ({"token_file": "token", "token_command": "cat token"}, "expected one of token_file"),
        ({"trust_config": "none.json"}, "none.json: No such file"),
        ({"trust_config": "token"}, "is not JSON as it should be"),
        ({"more": "x"}, "key more"),
    ],
)
def test_what_is_configured_wrongly_is_named(
    settings: dict[str, str], reason: str, instance: StandIn, tmp_path: Path
) -> None:
    folder = configure(tmp_path / "keys", instance.trust_config(), **settings)
    with pytest.raises(TrustError, match=reason):
        release_signer(folder)([NAMED])


@pytest.mark.parametrize("text", ["no token", "a.b.c", token(seconds=-10)], ids=["text", "dots", "expired"])
def test_a_bad_token_is_not_repeated(text: str, keys: Path) -> None:
    (keys / "token").write_text(text)
    with pytest.raises(TrustError, match="the Sigstore instance did not sign") as caught:
        release_signer(keys)([NAMED])
    assert text not in caught.value.render()


def test_another_identity_than_was_configured(instance: StandIn, tmp_path: Path) -> None:
    folder = configure(tmp_path / "keys", instance.trust_config(), identity="https://builds.example/rfo/other")
    with pytest.raises(TrustError, match=f"signed by another identity.*found {IDENTITY}"):
        release_signer(folder)([NAMED])


def test_an_instance_that_cannot_be_reached(tmp_path: Path) -> None:
    config = StandIn(url="http://127.0.0.1:1").trust_config()
    with pytest.raises(TrustError, match="did not sign"):
        release_signer(configure(tmp_path / "keys", config))([NAMED])


def test_an_instance_without_timestamps(instance: StandIn, tmp_path: Path) -> None:
    config = instance.trust_config()
    config["signingConfig"]["tsaUrls"] = []
    with pytest.raises(TrustError):
        release_signer(configure(tmp_path / "keys", config))([NAMED])


@pytest.mark.parametrize("key", ["log_key", "ct_key"])
def test_an_instance_that_is_not_the_one_that_is_trusted(key: str, instance: StandIn, tmp_path: Path) -> None:
    other = StandIn(url=instance.url)
    honest = instance.trust_config()
    setattr(other, key, new_p256())
    honest["trustedRoot"][{"log_key": "tlogs", "ct_key": "ctlogs"}[key]] = other.trusted_root()[
        {"log_key": "tlogs", "ct_key": "ctlogs"}[key]
    ]
    with pytest.raises(TrustError):
        release_signer(configure(tmp_path / "keys", honest))([NAMED])


# --- a release


def test_a_release_is_three_entries_and_is_accepted(release: Trusted, host: Host, instance: StandIn) -> None:
    done = host.verify(release)
    assert done.returncode == 0, done.stderr
    signed = [p for p in files(release.dist) if p.startswith("provenance/release/") and p.endswith(".sigstore.json")]
    assert len(signed) == 3
    indexes = set()
    for path in signed:
        bundle = json.loads((release.dist / path).read_bytes())
        indexes.add(bundle["verificationMaterial"]["tlogEntries"][0]["logIndex"])
    assert len(indexes) == 3


def test_a_release_by_another_identity_is_refused(release: Trusted, host: Host, tmp_path: Path) -> None:
    made = copied(release, tmp_path)
    by_certificate(made, IDENTITY + "s", ISSUER)
    made.publish()
    done = host.verify(made)
    assert done.returncode == 10
    assert "refused: provenance/release/release.sigstore.json: is signed by another identity" in done.stderr
    assert f"found    {IDENTITY}\n" in done.stderr


def test_a_release_without_the_instance_is_refused(release: Trusted, host: Host, tmp_path: Path) -> None:
    made = copied(release, tmp_path, trusted_root=b"")
    made.publish()
    done = host.verify(made)
    assert done.returncode == 10
    assert "the trust root names no Sigstore instance" in done.stderr


def test_a_release_under_another_instance_is_refused(release: Trusted, host: Host, tmp_path: Path) -> None:
    made = copied(release, tmp_path, trusted_root=json.dumps(StandIn().trusted_root()).encode())
    made.publish()
    done = host.verify(made)
    assert done.returncode == 10
    assert "release.sigstore.json: has a timestamp by an authority that was not trusted" in done.stderr


def test_a_statement_that_was_changed_is_refused(release: Trusted, host: Host, tmp_path: Path) -> None:
    made = copied(release, tmp_path)
    path = "provenance/release/images.sigstore.json"
    bundle = json.loads((made.dist / path).read_bytes())
    envelope = bundle["dsseEnvelope"]
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["subject"].pop()
    envelope["payload"] = base64.b64encode(canonical(payload)).decode()
    made.write(path, canonical(bundle) + b"\n")
    made.seal()
    made.publish()
    done = host.verify(made)
    assert done.returncode == 10
    assert f"refused: {path}: was changed after it was signed" in done.stderr
