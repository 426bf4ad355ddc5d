"""Signatures by certificate, against an instance that every test can make lie: each lie is refused for its reason."""

import base64
import copy
import hashlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder
from standin import IDENTITY, ISSUER, ORIGIN, StandIn, b64, new_p256, prove

from pipeline.attest.statement import make_statement
from pipeline.model import Digest
from pipeline.verifier.bundle import BUNDLE, pae, read_bundle
from pipeline.verifier.certificate import verify_certified
from pipeline.verifier.der import SEQUENCE, encode, read_certificate, read_elements
from pipeline.verifier.encoding import Refused, canonical
from pipeline.verifier.instance import read_instance
from pipeline.verifier.logged import merkle_root
from pipeline.verifier.stamped import _read_reply
from pipeline.verifier.statement import PAYLOAD_TYPE

WHAT = "a.sigstore.json"
Tree = dict[str, Any]


@dataclass
class Signed:
    """What an instance made, as it can be changed before it is read."""

    bundle: Tree
    root: Tree
    second: "Signed | None" = None
    """Another one of the same instance."""

    def verify(self, identity: str = IDENTITY, issuer: str = ISSUER) -> None:
        instance = read_instance(json.dumps(self.root).encode(), "trusted_root.json")
        verify_certified(read_bundle(canonical(self.bundle) + b"\n", WHAT), instance, identity, issuer, WHAT)

    @property
    def other(self) -> "Signed":
        assert self.second
        return self.second

    @property
    def material(self) -> Tree:
        found: Tree = self.bundle["verificationMaterial"]
        return found

    @property
    def entry(self) -> Tree:
        found: Tree = self.material["tlogEntries"][0]
        return found

    @property
    def proof(self) -> Tree:
        found: Tree = self.entry["inclusionProof"]
        return found

    @property
    def stamps(self) -> list[Tree]:
        found: list[Tree] = self.material["timestampVerificationData"]["rfc3161Timestamps"]
        return found

    @property
    def signature(self) -> Tree:
        found: Tree = self.bundle["dsseEnvelope"]["signatures"][0]
        return found


def sign(instance: StandIn, name: str = "a", identity: str = IDENTITY, issuer: str = ISSUER) -> Signed:
    """A statement, signed by a client that does without HTTP and without looking at what it gets."""

    payload = make_statement({name: Digest.of_bytes(name.encode())}, "https://example.org/p", {})
    message, key = pae(PAYLOAD_TYPE, payload), new_p256()
    leaf = instance.issue(key.public_key(), identity, issuer)
    signature = key.sign(message, ec.ECDSA(SHA256()))
    verifier = {"x509Certificate": {"rawBytes": b64(leaf)}, "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
    asked = {
        "digest": b64(hashlib.sha256(message).digest()),
        "signature": {"content": b64(signature), "verifier": verifier},
    }
    query = TimestampRequestBuilder().hash_algorithm(HashAlgorithm.SHA256).data(signature).build().as_bytes()
    material = {
        "certificate": {"rawBytes": b64(leaf)},
        "tlogEntries": [instance.log({"hashedRekordRequestV002": asked})],
        "timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": b64(instance.stamp(query))}]},
    }
    envelope = {"payload": b64(payload), "payloadType": PAYLOAD_TYPE, "signatures": [{"sig": b64(signature)}]}
    bundle = {"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}
    return Signed(bundle, instance.trusted_root())


@pytest.fixture(scope="module")
def instance() -> StandIn:
    return StandIn()


@pytest.fixture(scope="module")
def signed(instance: StandIn) -> Signed:
    """A bundle, and another one; the log had five entries before."""
    for number in range(5):
        instance.leaves.append(hashlib.sha256(bytes([number])).digest())
    first = sign(instance)
    first.second = sign(instance, "b")
    return first


@pytest.fixture
def good(signed: Signed) -> Signed:
    return copy.deepcopy(signed)


# --- what is accepted


def test_a_good_signature(good: Signed) -> None:
    good.verify()
    good.other.verify()


@pytest.mark.parametrize("key", [new_p256(), ed25519.Ed25519PrivateKey.generate()], ids=["ecdsa", "ed25519"])
def test_the_first_entry_of_a_log_with_either_kind_of_key(key: Any) -> None:
    signed = sign(StandIn(log_key=key))
    assert signed.proof["hashes"] == []
    signed.verify()


def test_an_address_of_email(instance: StandIn) -> None:
    signed = sign(instance, identity="release@example.org")
    signed.verify("release@example.org")
    with pytest.raises(Refused, match="another identity"):
        signed.verify("mailto://release@example.org")


def test_several_authorities_and_logs(good: Signed) -> None:
    former = StandIn().trusted_root()
    for name in ("tlogs", "ctlogs", "certificateAuthorities", "timestampAuthorities"):
        good.root[name] = [*former[name], *good.root[name]]
    good.verify()


def test_certificates_may_have_ended_since() -> None:
    for life in (2, 8, 32):
        started = time.monotonic()
        signed = sign(StandIn(life=life))
        if time.monotonic() - started < life - 1:  # signed while the certificates were valid
            break
    time.sleep(life + 1.1)
    signed.verify()


def test_a_certificate_that_ended_before_it_was_used() -> None:
    instance = StandIn()
    instance.life = -1
    with pytest.raises(Refused, match="not valid when it was used"):
        sign(instance).verify()


def test_a_timestamp_by_a_certificate_that_had_ended() -> None:
    instance = StandIn()
    stamps = StandIn(life=-30)
    instance.tsa, instance.tsa_root = stamps.tsa, stamps.tsa_root
    with pytest.raises(Refused, match="its authority did not make"):
        sign(instance).verify()


# --- what is refused

Change = Callable[[Signed], object]


def _flip(tree: Tree, key: str) -> None:
    """Change one bit in the last byte of base64."""
    data = bytearray(base64.b64decode(tree[key]))
    data[-1] ^= 1
    tree[key] = b64(bytes(data))


def _checkpoint(good: Signed, edit: Callable[[str], str]) -> None:
    good.proof["checkpoint"]["envelope"] = edit(good.proof["checkpoint"]["envelope"])


def _other_payload(good: Signed) -> None:
    good.bundle["dsseEnvelope"]["payload"] = good.other.bundle["dsseEnvelope"]["payload"]


def _other_proof(good: Signed) -> None:
    good.entry.update(inclusionProof=good.other.proof, logIndex=good.other.entry["logIndex"])


def _forged_root(good: Signed) -> None:
    """A proof that fits a tree of its own, whose checkpoint the log never signed."""
    leaf = hashlib.sha256(b"\0" + base64.b64decode(good.entry["canonicalizedBody"])).digest()
    good.entry["logIndex"] = "0"
    good.proof.update(logIndex="0", rootHash=b64(leaf), treeSize="1", hashes=[])


CHANGES: dict[str, tuple[Change, str]] = {
    "payload of another": (_other_payload, "was changed after it was signed"),
    "signature of another": (lambda g: g.signature.update(g.other.signature), "was changed after it was signed"),
    "two signatures": (
        lambda g: g.bundle["dsseEnvelope"]["signatures"].append(g.other.signature),
        "exactly one signature",
    ),
    "keyid": (lambda g: g.signature.update(keyid=""), "is not a signature as it should be"),
    "certificate of another": (
        lambda g: g.material.update(certificate=g.other.material["certificate"]),
        "was changed after it was signed",
    ),
    "certificate with a flipped bit": (
        lambda g: _flip(g.material["certificate"], "rawBytes"),
        "no trusted authority issued",
    ),
    "no certificate": (lambda g: g.material.pop("certificate"), "is not what proves a signature"),
    "key beside the certificate": (
        lambda g: g.material.update(publicKey={"hint": b64(bytes(32))}),
        "is not the material of a signature by key",
    ),
    "no log entry": (lambda g: g.material["tlogEntries"].clear(), "exactly one log entry"),
    "two log entries": (lambda g: g.material["tlogEntries"].append(g.other.entry), "exactly one log entry"),
    "log entry of another": (lambda g: g.entry.update(g.other.entry), "log entry of another signature"),
    "proof of another": (_other_proof, "its inclusion proof leads elsewhere"),
    "promise in place of a proof": (
        lambda g: g.entry.update(inclusionPromise={}),
        "has a malformed log entry",
    ),
    "entry of another type": (lambda g: g.entry["kindVersion"].update(version="0.0.1"), "another type of log entry"),
    "flipped hash of the proof": (
        lambda g: g.proof["hashes"].__setitem__(0, b64(bytes(32))),
        "its inclusion proof leads elsewhere",
    ),
    "longer proof": (lambda g: g.proof["hashes"].append(b64(bytes(32))), "its inclusion proof leads elsewhere"),
    "shorter proof": (lambda g: g.proof["hashes"].pop(), "its inclusion proof leads elsewhere"),
    "endless proof": (lambda g: g.proof.update(hashes=[b64(bytes(32))] * 65), "malformed inclusion proof"),
    "other index": (lambda g: g.entry.update(logIndex="0"), "inclusion proof of another entry"),
    "other index twice": (
        lambda g: (g.entry.update(logIndex="0"), g.proof.update(logIndex="0")),
        "its inclusion proof leads elsewhere",
    ),
    "index outside": (
        lambda g: (g.entry.update(logIndex="99"), g.proof.update(logIndex="99")),
        "its inclusion proof leads elsewhere",
    ),
    "index with a zero": (
        lambda g: (g.entry.update(logIndex="05"), g.proof.update(logIndex="05")),
        "malformed number",
    ),
    "other size": (lambda g: g.proof.update(treeSize="7"), "for another checkpoint"),
    "other root": (lambda g: g.proof.update(rootHash=g.other.proof["rootHash"]), "for another checkpoint"),
    "forged tree": (_forged_root, "for another checkpoint"),
    "checkpoint of another": (
        lambda g: g.proof.update(checkpoint=g.other.proof["checkpoint"]),
        "for another checkpoint",
    ),
    "checkpoint of another size": (
        lambda g: _checkpoint(g, lambda t: t.replace("\n6\n", "\n7\n")),
        "a checkpoint that its log did not sign",
    ),
    "checkpoint of another origin": (
        lambda g: _checkpoint(g, lambda t: t.replace(ORIGIN, "evil.example")),
        "the checkpoint of another log",
    ),
    "checkpoint without signature": (
        lambda g: _checkpoint(g, lambda t: t.partition("\n\n")[0] + "\n\n"),
        "a checkpoint that its log did not sign",
    ),
    "no timestamp": (lambda g: g.stamps.clear(), "has no timestamp"),
    "too many timestamps": (lambda g: g.stamps.extend(g.stamps * 4), "has no timestamp, or too many"),
    "timestamp of another": (lambda g: g.stamps[0].update(g.other.stamps[0]), "the timestamp of something else"),
    "second timestamp of another": (lambda g: g.stamps.append(g.other.stamps[0]), "the timestamp of something else"),
    "timestamp with a flipped bit": (lambda g: _flip(g.stamps[0], "signedTimestamp"), "its authority did not make"),
    "timestamp that is none": (lambda g: g.stamps[0].update(signedTimestamp=b64(b"0")), "not in the encoding DER"),
    "another media type": (lambda g: g.bundle.update(mediaType=BUNDLE[:-5]), "another media type"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused(name: str, good: Signed) -> None:
    change, reason = CHANGES[name]
    change(good)
    with pytest.raises(Refused, match=reason) as caught:
        good.verify()
    assert caught.value.subject == WHAT


def test_another_identity_or_issuer(good: Signed) -> None:
    with pytest.raises(Refused, match="another identity") as caught:
        good.verify(identity=IDENTITY + "x")
    assert caught.value.found == IDENTITY
    with pytest.raises(Refused, match="another issuer") as caught:
        good.verify(issuer=ISSUER + "/")
    assert caught.value.found == ISSUER


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("certificateAuthorities", "no trusted authority issued"),
        ("timestampAuthorities", "an authority that was not trusted at that time"),
        ("tlogs", "a log that was not trusted at that time"),
        ("ctlogs", "no trusted certificate log promised"),
    ],
)
def test_what_the_instance_does_not_trust(name: str, reason: str, good: Signed) -> None:
    """Nor what it trusted until before the signature, or from after it on."""
    honest = good.root[name]
    good.root[name] = StandIn().trusted_root()[name]
    with pytest.raises(Refused, match=reason):
        good.verify()
    for window in ({"start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z"}, {"start": "2990-01-01T00:00:00Z"}):
        good.root[name] = copy.deepcopy(honest)
        holder = good.root[name][0].get("publicKey", good.root[name][0])
        holder["validFor"] = window
        with pytest.raises(Refused, match=reason):
            good.verify()


def test_a_certificate_for_something_else() -> None:
    with pytest.raises(Refused, match="not for signing code"):
        sign(StandIn(purpose=ExtendedKeyUsageOID.SERVER_AUTH)).verify()


def test_a_certificate_that_no_log_promised_to_keep() -> None:
    with pytest.raises(Refused, match="without the promise"):
        sign(StandIn(promises=False)).verify()
    lying = StandIn()
    honest, lying.ct_key = lying.trusted_root(), new_p256()
    signed = sign(lying)
    with pytest.raises(Refused, match="no trusted certificate log promised"):
        Signed(signed.bundle, honest).verify()


def test_a_promise_for_another_certificate() -> None:
    """The promise of one certificate in another: the log never saw that one."""
    instance = StandIn()
    promise = instance._promise
    instance._promise = lambda body: promise(body + b"!")  # type: ignore[method-assign]
    with pytest.raises(Refused, match="no trusted certificate log promised"):
        sign(instance).verify()


def test_the_hosts_own_authorities_do_not_count(good: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """openssl has the authority of a stranger in the host's folder; the instance's name is the same."""
    stranger = StandIn()
    signed = sign(stranger)
    for issuer in (stranger.root, stranger.ca, stranger.tsa_root):
        name = f"{_subject_hash(issuer.certificate.public_bytes(Encoding.PEM), tmp_path)}.{len(os.listdir(tmp_path))}"
        (tmp_path / name).write_bytes(issuer.certificate.public_bytes(Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    signed.verify()
    mixed = {**signed.root, "certificateAuthorities": good.root["certificateAuthorities"]}
    with pytest.raises(Refused, match="no trusted authority issued"):
        Signed(signed.bundle, mixed).verify()


def _subject_hash(pem: bytes, folder: Path) -> str:

    command = ["openssl", "x509", "-subject_hash", "-noout"]
    return subprocess.run(command, input=pem, capture_output=True, check=True).stdout.decode().strip()


def test_what_stands_beside_a_timestamp_is_not_believed(good: Signed) -> None:
    """A status text that says another time: openssl would print it before the time that is signed."""
    text = encode(0x0C, b"x\nTime stamp: Jan  1 00:00:00 2020 GMT\n")
    reply = read_elements(base64.b64decode(good.stamps[0]["signedTimestamp"]), "")[0]
    token = read_elements(reply.content, "")[1].raw
    status = encode(SEQUENCE, encode(0x02, b"\0"), encode(SEQUENCE, text))
    good.stamps[0]["signedTimestamp"] = b64(encode(SEQUENCE, status, token))
    good.root["timestampAuthorities"][0]["validFor"] = {"start": "2020-01-01T00:00:00Z", "end": "2020-02-01T00:00:00Z"}
    with pytest.raises(Refused, match="not trusted at that time"):
        good.verify()


def test_a_log_id_that_is_not_of_its_key(good: Signed) -> None:
    good.root["tlogs"][0]["logId"]["keyId"] = b64(bytes(32))
    with pytest.raises(Refused, match="an id that does not belong to its key") as caught:
        good.verify()
    assert caught.value.subject == "trusted_root.json"


def test_logs_with_other_keys_count_for_nothing(good: Signed) -> None:
    """The public instance has such logs from its past."""
    public = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    former = copy.deepcopy(good.root["ctlogs"][0])
    former["publicKey"]["rawBytes"] = b64(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    good.root["ctlogs"].insert(0, former)
    good.verify()
    good.root["ctlogs"].pop()
    with pytest.raises(Refused, match="only logs in ctlogs whose keys"):
        good.verify()


@pytest.mark.parametrize("name", ["tlogs", "ctlogs", "certificateAuthorities", "timestampAuthorities"])
def test_a_trusted_root_that_lacks_something(name: str, good: Signed) -> None:
    good.root[name] = []
    with pytest.raises(Refused, match=f"no list {name}"):
        good.verify()


def test_no_flipped_bit_passes_or_breaks_the_reader(good: Signed) -> None:
    """Of what is signed by somebody; what stands beside it (status text, other signatures) is not believed."""
    places = [(good.material["certificate"], "rawBytes"), (good.entry, "canonicalizedBody"), (good.signature, "sig")]
    numbers = random.Random(int(os.environ.get("RFO_TEST_SEED", "1")))  # noqa: S311 - names a run
    for tree, key in places:
        before = tree[key]
        for _ in range(8):
            data = bytearray(base64.b64decode(before))
            data[numbers.randrange(len(data))] ^= 1 << numbers.randrange(8)
            tree[key] = b64(bytes(data))
            with pytest.raises(Refused):
                good.verify()
        tree[key] = before
    good.verify()


def test_damaged_certificates_and_timestamps_are_refused_and_nothing_else(good: Signed) -> None:

    numbers = random.Random(int(os.environ.get("RFO_TEST_SEED", "1")))  # noqa: S311 - names a run
    readers: list[tuple[bytes, Callable[[bytes, str], object]]] = [
        (base64.b64decode(good.material["certificate"]["rawBytes"]), read_certificate),
        (base64.b64decode(good.stamps[0]["signedTimestamp"]), _read_reply),
    ]
    refused = 0
    for data, read in readers:
        for _ in range(2000):
            damaged = bytearray(data[: numbers.randrange(len(data))] if numbers.random() < 0.3 else data)
            for _ in range(numbers.randrange(1, 4)):
                if damaged:
                    damaged[numbers.randrange(len(damaged))] = numbers.randrange(256)
            try:
                read(bytes(damaged), WHAT)
            except Refused:
                refused += 1
    assert refused > 1000


# --- proofs


@pytest.fixture
def leaves() -> Iterator[list[bytes]]:
    return iter([[hashlib.sha256(bytes([n])).digest() for n in range(size)] for size in range(1, 18)])


def test_inclusion_proofs_of_every_shape(leaves: Iterator[list[bytes]]) -> None:
    for tree in leaves:
        for index, leaf in enumerate(tree):
            root, proof = prove(tree, index)
            assert merkle_root(index, len(tree), leaf, tuple(proof)) == root
            assert merkle_root(index, len(tree), leaf, (*proof, bytes(32))) != root
            assert merkle_root(index, len(tree), leaf, tuple(proof[:-1])) != root or not proof
            assert merkle_root(index + 1, len(tree), leaf, tuple(proof)) != root
            assert merkle_root(-1, len(tree), leaf, tuple(proof)) is None
