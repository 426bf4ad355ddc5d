"""Signing keys: who can read them, which are accepted, and what `inv keys` says of them."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from engine import REPO, environment, fails

from pipeline.attest.keys import load_signing, new_key, read_id, read_public
from pipeline.errors import TrustError, UsageError
from pipeline.verifier.openssl import PublicKey, read_key, verifies

VARIABLE = "RFO_PASSPHRASE"
ID = "https://example.org/builders/one"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def inv(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    env = {k: v for k, v in os.environ.items() if k != "RFO_PASSPHRASE"} | {"RFO_KEYS": str(folder), **variables}
    return subprocess.run(
        [REPO / "inv", "keys", *arguments], env=env, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def public(folder: Path, role: str) -> PublicKey:
    key = read_public(role, folder)
    return read_key({"keytype": key.keytype, "scheme": key.scheme, "keyval": key.keyval}, role)


def test_a_key_is_its_owners_alone_and_openssl_accepts_its_signatures(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "keys"
    old = os.umask(0)
    try:
        new_key("builder", folder, builder=ID)
    finally:
        os.umask(old)
    assert (mode(folder), mode(folder / "builder.key")) == (0o700, 0o600)
    signing = load_signing("builder", folder)
    assert verifies(public(folder, "builder"), b"a message", signing.sign(b"a message"))
    assert not verifies(public(folder, "builder"), b"another", signing.sign(b"a message"))
    assert read_id("builder", folder) == ID


def test_a_key_is_not_replaced(tmp_path: Path) -> None:
    new_key("builder", tmp_path, builder=ID)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert isinstance(fails(lambda: new_key("builder", tmp_path, builder=f"{ID}/more")), UsageError)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_passphrase_locks_a_key(tmp_path: Path) -> None:
    new_key("builder", tmp_path, "right")
    assert b"ENCRYPTED" in (tmp_path / "builder.key").read_bytes()
    assert load_signing("builder", tmp_path, lambda _: "right").role == "builder"
    error = fails(lambda: load_signing("builder", tmp_path, lambda _: "wrong"))
    assert isinstance(error, TrustError)
    assert "passphrase" in error.hint
    with environment(**{VARIABLE: "right"}):
        assert load_signing("builder", tmp_path).role == "builder"


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    new_key("builder", tmp_path)
    (tmp_path / "builder.key").chmod(0o640)
    assert "can be read by others" in fails(lambda: load_signing("builder", tmp_path)).reason


def test_a_private_key_belongs_to_its_public_one(tmp_path: Path) -> None:
    new_key("builder", tmp_path)
    new_key("release", tmp_path)
    (tmp_path / "builder.pub").write_bytes((tmp_path / "release.pub").read_bytes())
    assert "does not belong" in fails(lambda: load_signing("builder", tmp_path)).reason


@pytest.mark.parametrize("kind", ["ed25519", "rsa:2048", "ec:secp384r1"])
def test_only_one_kind_of_key_is_accepted(tmp_path: Path, kind: str) -> None:
    algorithm, _, option = kind.partition(":")
    name = {"rsa": "rsa_keygen_bits", "ec": "ec_paramgen_curve"}.get(algorithm)
    options = ["-pkeyopt", f"{name}:{option}"] if name else []
    command = ["openssl", "genpkey", "-algorithm", algorithm, *options, "-out", str(tmp_path / "builder.key")]
    subprocess.run(command, check=True, capture_output=True)
    public_part = ["openssl", "pkey", "-in", f"{tmp_path}/builder.key", "-pubout", "-out", f"{tmp_path}/builder.pub"]
    subprocess.run(public_part, check=True, capture_output=True)
    error = fails(lambda: load_signing("builder", tmp_path))
    assert isinstance(error, TrustError)
    assert "P-256" in error.reason


@pytest.mark.parametrize(
    "text", ["", "builder", "http://example.org", f"{ID}\n{ID}\n", f"{ID} x\n", "https://" + "x" * 2000]
)
def test_an_id_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "builder.id").write_text(text)
    assert isinstance(fails(lambda: read_id("builder", tmp_path)), TrustError)


def test_the_command_makes_and_lists_keys_and_prints_no_private_one(tmp_path: Path) -> None:
    made = inv(tmp_path, "new", "--role", "builder", "--id", ID)
    assert made.returncode == 0, made.stderr
    keyid = read_public("builder", tmp_path).keyid
    assert keyid in made.stdout
    shown = inv(tmp_path, "show", "--json")
    assert json.loads(shown.stdout) == [{"role": "builder", "keyid": keyid, "id": ID, "private": True}]
    secret = (tmp_path / "builder.key").read_text().splitlines()[1]
    assert secret not in made.stdout + made.stderr + shown.stdout + shown.stderr
    again = inv(tmp_path, "new", "--role", "builder")
    assert again.returncode == 2
    assert "exists; it is not replaced" in again.stderr


def test_the_command_takes_a_passphrase_from_a_file_or_the_environment_and_prints_none(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("open sesame\n")
    keys = tmp_path / "keys"
    made = inv(keys, "new", "--role", "root-1", "--passphrase-file", str(file))
    other = inv(keys, "new", "--role", "root-2", **{VARIABLE: "abracadabra"})
    for done, role, passphrase in ((made, "root-1", "open sesame"), (other, "root-2", "abracadabra")):
        assert done.returncode == 0, done.stderr
        assert passphrase not in done.stdout + done.stderr
        assert load_signing(role, keys, lambda _, p=passphrase: p).role == role  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["other"], 2, "expected one of new, show"),
        (["new"], 2, "--role is missing"),
        (["new", "--role", "../builder"], 2, "is no name for a key"),
        (["new", "--role", "builder", "--id", "somebody"], 2, "is no id of a builder"),
        (["new", "--role", "builder", "--passphrase-file", "/nowhere"], 2, "No such file"),
        (["new", "--role", "builder", "--passphrase"], 10, "nobody can be asked"),
    ],
)
def test_a_mistake_makes_no_key(tmp_path: Path, arguments: list[str], status: int, reason: str) -> None:
    done = inv(tmp_path, *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (status, False)
    assert reason in done.stderr
    assert not list(tmp_path.iterdir())
