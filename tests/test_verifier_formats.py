"""Malformed documents: each is refused with a reason, none is guessed at."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trusted import STATEMENT, Trusted

from pipeline.model import Digest
from pipeline.publish.manifest import render_manifest
from pipeline.verifier.bundle import read_bundle
from pipeline.verifier.encoding import Refused, canonical, parse_canonical
from pipeline.verifier.envelope import Envelope, read_envelope
from pipeline.verifier.folder import Folder
from pipeline.verifier.lists import LAYOUT_INDEX, read_layout
from pipeline.verifier.metadata import TUF_PAYLOAD, read_delegations, read_meta, read_root, read_signed, read_targets
from pipeline.verifier.policy import read_policy
from pipeline.verifier.released import read_released
from pipeline.verifier.statement import read_statement

Change = Callable[[Any], Any]


def refuses(call: Callable[[], object], reason: str) -> None:
    with pytest.raises(Refused) as caught:
        call()
    assert reason in caught.value.reason


def changed(value: Any, change: Change) -> Any:
    """A copy of a JSON value that `change` has changed."""
    copy = json.loads(json.dumps(value))
    change(copy)
    return copy


def line(value: Any) -> bytes:
    return canonical(value) + b"\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a":1,"a":1}\n', "a key stands twice"),
        (b'{"a":1.5}\n', "the number 1.5"),
        (b'{"a":NaN}\n', "the number NaN"),
        (b'{"a":1}', "is not in the canonical form"),
        (b'{"a": 1}\n', "is not in the canonical form"),
        (b'{"b":1,"a":1}\n', "is not in the canonical form"),
        (b'{"a":"\\u00e9"}\n', "is not in the canonical form"),
        (b'{"a":"\\u007f"}\n', "is not in the canonical form"),
        (b'{"a":"\\u0041"}\n', "is not in the canonical form"),
        (b'{"a":-0}\n', "is not in the canonical form"),
        (b'{"a":"\\ud800"}\n', "is not in the canonical form"),
        (b'{"a":"\xff"}\n', "is not JSON as it should be"),
        (b"[" * 100_000 + b"]" * 100_000 + b"\n", "is not JSON as it should be"),
        (b" " * 300_000, "is too large"),
        (b'"%s"\n' % (b"a" * 250_000), "is too large"),
        (b"", "is not JSON as it should be"),
    ],
)
def test_json(data: bytes, reason: str) -> None:
    refuses(lambda: parse_canonical(data, "x", 250_000), reason)


@pytest.mark.parametrize("text", ["a", "\x7f", "\x1f", "é", '\\u00e9"', "\u2028", "\U0001f600", "/\t\n"])
def test_text_has_one_spelling(text: str) -> None:
    """Also where it could be spelled in two ways, of which the quick one is never taken for the other."""
    value = {"a": text, text: [1, None, True]}
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    escaped = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    assert canonical(value) == plain
    assert parse_canonical(plain + b"\n", "x", 1000) == value
    if escaped != plain:
        refuses(lambda: parse_canonical(escaped + b"\n", "x", 1000), "is not in the canonical form")


def statement_of(made: Trusted) -> Any:
    return json.loads(base64.b64decode(json.loads((made.dist / STATEMENT).read_bytes())["dsseEnvelope"]["payload"]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.update(extra=1), "is no statement"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "is of another type"),
        (lambda s: s.update(predicate=[]), "has no predicate with its type"),
        (lambda s: s.update(subject=[]), "is about nothing"),
        (lambda s: s["subject"].append(s["subject"][0]), "names a subject twice"),
        (lambda s: s["subject"].append({**s["subject"][0], "digest": {"sha256": "0" * 64}}), "with two digests"),
        (lambda s: s["subject"][0].update(uri="x"), "that is not a name and a digest"),
        (lambda s: s["subject"][0]["digest"].update(sha512="0"), "without the one digest sha256"),
        (lambda s: s["subject"][0]["digest"].update(sha256="A" * 64), "has a malformed digest"),
        (lambda s: s["subject"][0].update(name=""), "with a malformed name"),
        (lambda s: s.clear(), "is no statement"),
    ],
)
def test_statements(good: Trusted, change: Change, reason: str) -> None:
    payload = canonical(changed(statement_of(good), change))
    refuses(lambda: read_statement(payload, "x"), reason)


def proof(entries: int, stamps: int) -> dict[str, Any]:
    """What proves a signature by certificate, with so many log entries and timestamps."""
    times = [{"signedTimestamp": ""}] * stamps
    return {
        "certificate": {"rawBytes": ""},
        "tlogEntries": [{}] * entries,
        "timestampVerificationData": {"rfc3161Timestamps": times},
    }


def test_a_statement_around_a_known_document(good: Trusted) -> None:
    value = statement_of(good)
    payload, document = canonical(value), value["predicate"]
    assert read_statement(payload, "x", document) == read_statement(payload, "x")
    other = {**document, "purl": "other"}
    assert read_statement(payload, "x", other).predicate == document
    for altered in (
        payload.replace(b'"predicateType"', b'"predicate":{},"predicateType"'),
        payload.replace(b"/Statement/v1", b"/Statement/v2"),
        payload + b" ",
    ):
        refuses(lambda data=altered: read_statement(data, "x", document), "")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: b.update(extra=1), "is not a bundle as it should be"),
        (lambda b: b["dsseEnvelope"].update(payloadType="text/plain"), "holds another type of payload"),
        (lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="x"), "is not a signature as it should be"),
        (lambda b: b["dsseEnvelope"]["signatures"].append({"sig": "e30="}), "does not have exactly one signature"),
        (lambda b: b["dsseEnvelope"]["signatures"].clear(), "does not have exactly one signature"),
        (lambda b: b.update(verificationMaterial=proof(entries=2, stamps=1)), "does not have exactly one log entry"),
        (lambda b: b.update(verificationMaterial=proof(entries=0, stamps=1)), "does not have exactly one log entry"),
        (lambda b: b.update(verificationMaterial=proof(entries=1, stamps=0)), "has no timestamp, or too many"),
        (lambda b: b.update(verificationMaterial=proof(entries=1, stamps=5)), "has no timestamp, or too many"),
        (lambda b: b["dsseEnvelope"].update(payload="e30"), "is not base64"),
        (lambda b: b["dsseEnvelope"].update(payload="e31="), "is not base64"),
        (lambda b: b["verificationMaterial"]["publicKey"].update(hint="AAAA"), "names its key in another way"),
        (lambda b: b["verificationMaterial"].update(tlogEntries=[]), "is not the material of a signature by key"),
        (lambda b: b.update(verificationMaterial=[]), "nothing that its signature could be checked with"),
    ],
)
def test_bundles(good: Trusted, change: Change, reason: str) -> None:
    data = line(changed(json.loads((good.dist / STATEMENT).read_bytes()), change))
    refuses(lambda: read_bundle(data, "x"), reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: e.update(extra=1), "is not an envelope as it should be"),
        (lambda e: e.update(payloadType="text/plain"), "holds another type of payload"),
        (lambda e: e.update(signatures=[]), "has no signatures, or too many"),
        (lambda e: e.update(signatures=[{"keyid": str(n), "sig": ""} for n in range(40)]), "has no signatures, or too"),
        (lambda e: e["signatures"][0].pop("keyid"), "that is not a keyid and a signature"),
    ],
)
def test_envelopes(good: Trusted, change: Change, reason: str) -> None:
    data = line(changed(json.loads(good.root.read_bytes()), change))
    refuses(lambda: read_envelope(data, "x", 1 << 20, TUF_PAYLOAD), reason)


def body(made: Trusted, name: str) -> Any:
    """The payload of metadata."""
    return json.loads(base64.b64decode(json.loads((made.repository / "metadata" / name).read_bytes())["payload"]))


def sealed(value: Any) -> Envelope:
    return Envelope(canonical(value), TUF_PAYLOAD, {})


def first_role(value: Any) -> Any:
    return value["roles"]["timestamp"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.update(_type="targets"), "is metadata of another role"),
        (lambda r: r.update(spec_version="2.0.0"), "follows another specification"),
        (lambda r: r.update(version=0), "has a malformed number"),
        (lambda r: r.update(version=True), "has a malformed number"),
        (lambda r: r.update(expires="tomorrow"), "has a malformed time"),
        (lambda r: r.update(expires="2026-13-01T00:00:00Z"), "has a malformed time"),
        (lambda r: r.update(consistent_snapshot=False), "is not of a repository with consistent snapshots"),
        (lambda r: r["roles"].update(mirrors=r["roles"]["root"]), "does not have the four roles"),
        (lambda r: r.update(keys=[]), "has no keys"),
        (lambda r: first_role(r).update(keyids=[]), "has a role without keys"),
        (lambda r: first_role(r).update(keyids=["0" * 64]), "has a role without keys, or with one that it does not"),
        (lambda r: first_role(r).update(keyids=first_role(r)["keyids"] * 2), "names a key twice"),
        (lambda r: first_role(r).update(threshold=2), "needs more signatures than it has keys"),
        (lambda r: first_role(r).update(threshold=0), "has a malformed number"),
        (lambda r: next(iter(r["keys"].values())).update(scheme="ed25519"), "holds a key of another kind"),
        (lambda r: next(iter(r["keys"].values())).update(keyval=[]), "holds no public key"),
        (lambda r: next(iter(r["keys"].values()))["keyval"].update(public="x"), "holds a key that is malformed"),
    ],
)
def test_roots(good: Trusted, change: Change, reason: str) -> None:
    value = changed(body(good, "1.root.json"), change)
    refuses(lambda: read_root(sealed(value), "x"), reason)


@pytest.mark.parametrize("curve", ["secp384r1", "ed25519"])
def test_keys_of_other_kinds(good: Trusted, curve: str) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ed25519.Ed25519PrivateKey.generate() if curve == "ed25519" else ec.generate_private_key(ec.SECP384R1())
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    value = body(good, "1.root.json")
    next(iter(value["keys"].values()))["keyval"]["public"] = pem
    refuses(lambda: read_root(sealed(value), "x"), "holds a key that is malformed")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t["meta"].clear(), "does not name the metadata that it should"),
        (lambda t: t["meta"].update({"evil.json": {}}), "does not name the metadata that it should"),
        (lambda t: t["meta"]["snapshot.json"].pop("hashes"), "names a file without its SHA-256"),
        (lambda t: t["meta"]["snapshot.json"].pop("length"), "has a malformed number"),
        (lambda t: t["meta"]["snapshot.json"].update(version=-1), "has a malformed number"),
    ],
)
def test_timestamps(good: Trusted, change: Change, reason: str) -> None:
    value = changed(body(good, "timestamp.json"), change)
    refuses(lambda: read_meta(read_signed(sealed(value), "timestamp", "x"), ("snapshot.json",), "x"), reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.update(targets=[]), "names no targets"),
        (lambda t: t["targets"]["policy.json"].update(custom=[]), "has malformed facts about a target"),
        (lambda t: t["targets"]["policy.json"].update(custom={"yanked": ""}), "has malformed facts about a target"),
        (lambda t: t["targets"]["policy.json"].update(custom={"yanked": True}), "has malformed facts about a target"),
        (lambda t: t.update(delegations=[]), "has malformed delegations"),
        (lambda t: t["delegations"]["roles"][0].pop("paths"), "has a delegation without a name or paths"),
        (lambda t: t["delegations"]["roles"].append(t["delegations"]["roles"][0]), "delegates to one role twice"),
    ],
)
def test_targets(good: Trusted, change: Change, reason: str) -> None:
    signed = read_signed(sealed(changed(body(good, "1.targets.json"), change)), "targets", "x")
    refuses(lambda: (read_targets(signed, "x"), read_delegations(signed, "x")), reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p.update(extra=1), "is not a policy as it should be"),
        (lambda p: p.update(_type="x"), "is not a policy as it should be"),
        (lambda p: p.update(development="no"), "does not say whether it is for development"),
        (lambda p: p.update(minimum_version="1.0"), "is not the version of a release"),
        (lambda p: p.update(signers={}), "has malformed signers or kinds"),
        (lambda p: p["signers"][0].update(extra=1), "has a malformed signer"),
        (lambda p: p["signers"][0].update(id=p["signers"][1]["id"]), "binds one builder id to two signers"),
        (lambda p: p["kinds"].append(p["kinds"][0]), "names a kind twice"),
        (lambda p: p["kinds"][0].update(extra=1), "has a malformed kind"),
        (lambda p: p["kinds"][0].update(builders=-1), "has a malformed number of builders"),
        (lambda p: p["kinds"][0].update(rebuilders=True), "has a malformed number of builders"),
        (lambda p: p.update(bases="*"), "where a list is expected"),
        (lambda p: p.update(bases=[1]), "where a text is expected"),
    ],
)
def test_policies(good: Trusted, change: Change, reason: str) -> None:
    data = line(changed(good.policy(), change))
    refuses(lambda: read_policy(data, "x"), reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(schema="x"), "is not the manifest of a release"),
        (lambda m: m.update(version="1"), "is not the version of a release"),
        (lambda m: m["bases"].pop("linux/amd64"), "does not name one base for each platform"),
        (lambda m: m.update(stand_in="no"), "does not say whether its base stands in"),
        (lambda m: m["artifacts"].append(m["artifacts"][0]), "names a file twice"),
        (lambda m: m["artifacts"][0].update(name="../x"), "names a file outside of the release"),
        (lambda m: m["artifacts"][0].update(platform="windows"), "has a malformed platform"),
        (lambda m: m["artifacts"][0].update(digest="sha1:0"), "has a malformed digest"),
        (lambda m: m["artifacts"][0].update(size=-1), "has a malformed size"),
        (lambda m: m["binaries"][0].update(platform="x"), "has a binary for no platform"),
        (lambda m: m["images"][0].update(platforms=[]), "has no platforms"),
        (lambda m: m["images"][0]["platforms"].update(x="sha256:" + "0" * 64), "for no platform"),
        (lambda m: m["images"][1].update(references=m["images"][0]["references"]), "gives two images the name"),
        (lambda m: m["images"].append({**m["images"][0]}), "names an image twice"),
        (lambda m: m.update(deviations=[1]), "where what is expected"),
        (lambda m: m.pop("images"), "has no list of images"),
        (lambda m: m.update(date="now"), "has a malformed time"),
    ],
)
def test_manifests(good: Trusted, change: Change, reason: str) -> None:
    data = render_manifest(changed(good.manifest, change))
    refuses(lambda: read_released(data), reason)


def test_a_manifest_in_another_form(good: Trusted) -> None:
    refuses(lambda: read_released(line(good.manifest)), "is not in the form that it is written in")
    newer = {**good.manifest, "invented": {"later": True}}
    assert read_released(render_manifest(newer)).version == good.version


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda i: i.pop("manifests"), "is no index of a layout"),
        (lambda i: i["manifests"].pop(0), "has other images than release.json"),
        (lambda i: i["manifests"][0].pop("annotations"), "that is neither an image nor a chart with a name"),
        (lambda i: i["manifests"][0].update(mediaType="x"), "that is neither an image nor a chart with a name"),
        (lambda i: i["manifests"][0].update(digest="x"), "has a malformed digest"),
        (lambda i: i["manifests"][0].update(digest="sha256:" + "0" * 64), "whose content the release has not"),
        (lambda i: i["manifests"].append({**i["manifests"][-1], "digest": i["manifests"][0]["digest"]}), "two digests"),
    ],
)
def test_layouts(good: Trusted, tmp_path: Path, change: Change, reason: str) -> None:
    index = changed(json.loads((good.dist / LAYOUT_INDEX).read_bytes()), change)
    (tmp_path / "images").mkdir()
    (tmp_path / LAYOUT_INDEX).write_bytes(canonical(index))
    named = {a["name"]: a["digest"].removeprefix("sha256:") for a in good.manifest["artifacts"]}
    named[LAYOUT_INDEX] = Digest.of_bytes(canonical(index)).hex
    released = read_released((good.dist / "release.json").read_bytes())
    refuses(lambda: read_layout(Folder(tmp_path), named, released), reason)
