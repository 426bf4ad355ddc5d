"""Signing keys: who can read them, which are accepted, and what `inv keys` says of them."""

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import REPO, environment, fails, make_context, said
from rpm_mirror import Key, make_key

from pipeline.attest import packages, succession
from pipeline.attest.keys import PACKAGES, Signing, load_signing, new_key, read_id, read_public, write_private
from pipeline.attest.openpgp import (
    DAY,
    Public,
    armor_certificates,
    certificate,
    checked_packet,
    read_certificates,
)
from pipeline.attest.packages import CERTIFICATES, have_packages_key, known_certificates, load_packager
from pipeline.attest.succession import (
    Wanted,
    announce_packages_key,
    announced,
    new_packages_key,
    rotate_packages_key,
)
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


# --- the key for packages

MESSAGE = b"what is signed"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key for packages."""
    folder = tmp_path_factory.mktemp("packages")
    new_packages_key(folder, Wanted("RFO packages (test)"))
    return folder


@pytest.fixture
def folder(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder; keys that come there are small, which are found sooner."""
    monkeypatch.setattr(succession, "BITS", 2048)
    return Path(shutil.copytree(first, tmp_path / "keys"))


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Key]:
    """A key that GnuPG holds."""
    place = Path(tempfile.mkdtemp(prefix="gpg"))
    yield make_key(place / "key", "rsa3072")
    subprocess.run(["gpgconf", "--homedir", place / "key", "--kill", "all"], check=False)
    shutil.rmtree(place, ignore_errors=True)  # the agent takes its sockets away meanwhile


def signs(folder: Path, passphrase: str = "") -> str:
    """Whose key signs for packages, after it did; a fingerprint."""
    packager = load_packager(folder, lambda _: passphrase)
    public, now = packager.certificate.public, int(time.time())
    assert checked_packet(packager.sign(MESSAGE, now), public, MESSAGE)[1] == now
    return public.fingerprint


def made_at(folder: Path, created: int, days: int = 0) -> None:
    """Put a key there that was made at some time."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(65537, 2048)
    numbers = private.public_key().public_numbers()
    public = Public(numbers.n, numbers.e, created)
    write_private(folder / "any.key", private, "")
    key = subprocess.run(["openssl", "pkey", "-in", folder / "any.key", "-pubout"], check=True, stdout=subprocess.PIPE)
    (folder / "pem").write_bytes(key.stdout)
    command = ["openssl", "dgst", "-sha256", "-sign", str(folder / "any.key")]

    def sign(message: bytes) -> bytes:
        return subprocess.run(command, input=message, stdout=subprocess.PIPE, check=True).stdout

    found = read_certificates(certificate(public, sign, "Somebody", days))
    (folder / CERTIFICATES).write_bytes(armor_certificates(found))
    (folder / "any.key").rename(folder / "packages.key")


def test_the_key_for_packages_is_kept_as_the_others_are(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    old = os.umask(0)
    try:
        made = new_packages_key(folder, Wanted("RFO packages", 30, "right"))
    finally:
        os.umask(old)
    assert (mode(folder), mode(folder / "packages.key")) == (0o700, 0o600)
    assert b"ENCRYPTED" in (folder / "packages.key").read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == ["packages.asc", "packages.key"]
    assert (made.user_id, made.expires) == ("RFO packages", made.public.created + 30 * DAY)
    assert signs(folder, "right") == made.public.fingerprint
    assert "passphrase" in fails(lambda: signs(folder, "wrong")).hint
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert isinstance(fails(lambda: new_packages_key(folder, Wanted())), UsageError)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert isinstance(fails(lambda: new_key(PACKAGES, folder)), UsageError)
    (folder / "packages.key").chmod(0o640)
    assert "can be read by others" in fails(lambda: signs(folder, "right")).reason


def test_a_private_key_belongs_to_the_first_certificate(folder: Path, tmp_path: Path) -> None:
    new_packages_key(tmp_path / "other", Wanted())
    shutil.copy(tmp_path / "other" / "packages.key", folder)
    assert "does not belong" in fails(lambda: signs(folder)).reason
    (folder / CERTIFICATES).write_bytes(b"nothing")
    for call in (
        lambda: signs(folder),
        lambda: known_certificates(folder),
        lambda: rotate_packages_key(folder, Wanted()),
    ):
        assert "does not hold the certificate of a key" in fails(call).reason
    (folder / CERTIFICATES).unlink()
    assert fails(lambda: signs(folder)).hint == "make one: ./inv keys new --role packages"
    assert isinstance(fails(lambda: rotate_packages_key(folder, Wanted())), UsageError)


def test_an_expired_key_and_one_of_the_future_sign_nothing(tmp_path: Path) -> None:
    now = int(time.time())
    made_at(tmp_path, now - 10 * DAY, 9)
    assert "expired at" in fails(lambda: load_packager(tmp_path).sign(MESSAGE, now - 5 * DAY)).reason
    made_at(tmp_path, now - 10 * DAY, 11)
    packager = load_packager(tmp_path)
    assert checked_packet(packager.sign(MESSAGE, now - 5 * DAY), packager.certificate.public, MESSAGE)
    assert "before the key was made" in fails(lambda: packager.sign(MESSAGE, now - 11 * DAY)).reason
    assert "expired at" in fails(lambda: packager.sign(MESSAGE, now + 2 * DAY)).reason
    made_at(tmp_path, now + DAY)
    assert "set the host's clock" in fails(lambda: load_packager(tmp_path).sign(MESSAGE, now + 2 * DAY)).hint


def test_a_new_key_comes_first_and_the_old_certificate_stays(folder: Path) -> None:
    old = signs(folder)
    packet = load_packager(folder).sign(MESSAGE, int(time.time()))
    private = (folder / "packages.key").read_bytes()
    found = rotate_packages_key(folder, Wanted("", 0, "new"))
    assert found == known_certificates(folder)
    assert [c.public.fingerprint for c in found] == [signs(folder, "new"), old]
    assert checked_packet(packet, found[1].public, MESSAGE)
    assert (folder / f"packages-{old[:8]}.key").read_bytes() == private
    assert mode(folder / f"packages-{old[:8]}.key") == 0o600
    third = rotate_packages_key(folder, Wanted())
    assert [c.public.fingerprint for c in third[1:]] == [c.public.fingerprint for c in found]
    (last,) = rotate_packages_key(folder, Wanted(), keep=False)
    assert signs(folder) == last.public.fingerprint
    assert len(list(folder.glob("packages-*.key"))) == 3


def test_a_key_that_was_announced_is_known_before_it_signs(folder: Path) -> None:
    old = signs(folder)
    current, following = announce_packages_key(folder, Wanted("Next", 20, "next"))
    assert known_certificates(folder) == [current, following]
    assert (signs(folder), announced(folder)) == (old, following)
    assert announce_packages_key(folder, Wanted("Another")) == [current, following], "there is one"
    refused = fails(lambda: rotate_packages_key(folder, Wanted("Another")))
    assert isinstance(refused, UsageError) and "is taken as it was wanted then" in refused.reason
    assert rotate_packages_key(folder, Wanted("", 0, "next")) == [following, current]
    assert signs(folder, "next") == following.public.fingerprint
    assert (following.user_id, announced(folder)) == ("Next", None)
    third = announce_packages_key(folder, Wanted())[1]
    assert [c.public for c in known_certificates(folder)] == [following.public, third.public, current.public]
    (fresh,) = rotate_packages_key(folder, Wanted("Fresh"), keep=False)
    assert fresh.public not in (following.public, third.public, current.public), "the announced one was stolen, too"
    assert (signs(folder), fresh.user_id, announced(folder)) == (fresh.public.fingerprint, "Fresh", None)


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import pipeline.attest.succession as succession
place, action = Path(sys.argv[1]), sys.argv[2]
succession.BITS = 2048  # which are found sooner
write, private, rename, unlink = succession.write_atomically, succession.write_private, Path.rename, Path.unlink
count, done = 0, False
while not done:
    folder = place / str(count)
    if action != "new":
        shutil.copytree(place / "start", folder)
    def step():
        getattr(succession, f"{action}_packages_key")(folder, succession.Wanted())
    child = os.fork()
    if not child:
        left = [count]
        def killing(call):
            def killed(*arguments, **options):
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return call(*arguments, **options)
            return killed
        succession.write_atomically, succession.write_private = killing(write), killing(private)
        Path.rename, Path.unlink = killing(rename), killing(unlink)
        step()
        os._exit(0)
    done = os.waitpid(child, 0)[1] == 0
    shutil.copytree(folder, place / f"{count}-killed")
    if not done:
        step()
    count += 1
print(count)
"""


@pytest.mark.parametrize("action", ["new", "rotate", "announce", "rotate what was announced"])
def test_a_change_that_is_killed_wherever_it_writes(action: str, folder: Path, tmp_path: Path) -> None:
    """Signing goes on with the old key, or says that the same command is to be run; then there is the new key."""
    place, verb = tmp_path / "runs", action.split(maxsplit=1)[0]
    place.mkdir()
    old = [] if verb == "new" else [signs(folder)]
    if action != verb:
        announce_packages_key(folder, Wanted())
    folder.rename(place / "start")
    run = [sys.executable, "-c", KILLED, str(place), verb]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=REPO, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    count = int(done.stdout)
    assert count > 4, "it was killed at every write"
    for number in range(count):
        after, killed = place / str(number), place / f"{number}-killed"
        known = [c.public.fingerprint for c in known_certificates(after)]
        assert signs(after) == (old[0] if verb == "announce" else known[0])
        assert (known[0:1] if verb == "announce" else known[1:]) == old
        assert len(known) == len(old) + 1
        assert len(list(after.glob("packages-*"))) == {"new": 0, "rotate": 1, "announce": 2}[verb]
        try:
            assert signs(killed) in {*old, known[0]}
        except TrustError as error:
            assert f"./inv keys {verb} --role packages" in error.hint


def test_a_key_of_a_signer_uri(folder: Path, tmp_path: Path) -> None:
    old = signs(folder)
    made_at(tmp_path, int(time.time()))
    (tmp_path / "packages.key").rename(tmp_path / "module.pem")
    wanted = Wanted("RFO packages", 100, uri=f"file2:{tmp_path}/module.pem", public=tmp_path / "pem")
    new, retired = rotate_packages_key(folder, wanted)
    assert (signs(folder), retired.public.fingerprint) == (new.public.fingerprint, old)
    assert new.expires == new.public.created + 100 * DAY
    assert not (folder / "packages.key").exists()
    other = Wanted(uri=f"file2:{folder}/packages-{old[:8]}.key", public=tmp_path / "pem")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert isinstance(fails(lambda: rotate_packages_key(folder, other)), TrustError)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_signer_with_another_padding_is_found_out(folder: Path) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    private = load_pem_private_key((folder / "packages.key").read_bytes(), None)
    signing = Signing(
        PACKAGES, packages.sslib_key(known_certificates(folder)[0].public), CryptoSigner(private)
    )  # by RSASSA-PSS
    sign = packages.key_signer(signing, known_certificates(folder)[0].public)
    assert "is not a signature of" in fails(lambda: sign(MESSAGE, int(time.time()))).reason


def test_a_key_that_a_command_signs_with(folder: Path, elsewhere: Key, tmp_path: Path) -> None:
    old = signs(folder)
    gpg = f"gpg --homedir {elsewhere.home} --batch --faked-system-time {{time}}! --digest-algo SHA256"
    (tmp_path / "cert").write_bytes(elsewhere.public())
    wanted = Wanted(command=f"{gpg} --detach-sign", public=tmp_path / "cert")
    new, retired = rotate_packages_key(folder, wanted)
    assert (new.public.fingerprint, retired.public.fingerprint) == (elsewhere.fingerprint, old)
    assert signs(folder) == elsewhere.fingerprint
    packager, now = load_packager(folder), int(time.time())
    assert packager.sign(MESSAGE, now - DAY) == packager.sign(MESSAGE, now - DAY)
    (folder / "packages.command").write_text(
        "gpg --batch --digest-algo SHA256 --detach-sign --homedir " + str(elsewhere.home)
    )
    untimed = load_packager(folder)
    assert checked_packet(untimed.sign(MESSAGE, now - DAY), new.public, MESSAGE)[1] >= now
    assert "expected" in fails(lambda: untimed.sign(MESSAGE, now + DAY)).reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "{gpg} --faked-system-time 1700000000! --digest-algo SHA256 --comment {time} --detach-sign",
            "signature of 2023-11-14",
        ),
        ("{gpg} --digest-algo SHA512 --detach-sign", "hash algorithm 10"),
        ("{gpg} --digest-algo SHA256 --armor --detach-sign", "expected"),
        ("{gpg} --digest-algo SHA256 --sign", "of indeterminate length"),
        ("{other}", "it is by key"),
        ("cat", "expected"),
        ("sh -c 'head -c 100000 /dev/zero'", "expected"),
        ("sh -c '{gpg} --digest-algo SHA256 --detach-sign < /dev/null'", "not a signature of"),
        ("sh -c 'cat > /dev/null; exit 3'", "ended with status 3"),
        ("true", "expected one OpenPGP signature packet"),
        ("/no/such/program", "cannot be run"),
        ("./sign.sh", "depends on the folder"),
        ("'", "is no command line"),
        (" ", "is empty"),
    ],
)
def test_what_a_command_gives_is_not_believed(
    elsewhere: Key, first: Path, tmp_path: Path, line: str, reason: str
) -> None:
    (tmp_path / CERTIFICATES).write_bytes(elsewhere.public())
    (tmp_path / "cert").write_bytes(elsewhere.public())
    script = f"""
import sys, time; sys.path.insert(0, {str(REPO)!r})
from pathlib import Path
from pipeline.attest.packages import load_packager
packet = load_packager(Path({str(first)!r})).sign(sys.stdin.buffer.read(), int(time.time()))
sys.stdout.buffer.write(packet)
"""
    gpg = f"gpg --homedir {elsewhere.home} --batch"
    text = line.replace("{gpg}", gpg).replace("{other}", shlex.join([sys.executable, "-c", script]))
    (tmp_path / "packages.command").write_text(text)
    error = fails(lambda: load_packager(tmp_path).sign(MESSAGE, int(time.time()) - 60))
    assert isinstance(error, TrustError)
    assert reason in error.reason
    empty, wanted = tmp_path / "empty", Wanted(command=text, public=tmp_path / "cert")
    assert isinstance(fails(lambda: new_packages_key(empty, wanted)), TrustError | UsageError)
    assert not list(empty.iterdir())


def test_a_command_that_others_can_change_is_not_run(elsewhere: Key, tmp_path: Path) -> None:
    (tmp_path / CERTIFICATES).write_bytes(elsewhere.public())
    (tmp_path / "packages.command").write_text(f"touch {tmp_path}/ran")
    (tmp_path / "packages.command").chmod(0o666)
    assert "can be changed by others" in fails(lambda: load_packager(tmp_path)).reason
    assert not (tmp_path / "ran").exists()


def test_a_first_run_makes_a_key_for_development(tmp_path: Path) -> None:
    context = make_context(REPO)
    keys, other = tmp_path / "keys", tmp_path / "other"
    new_key("builder", other)
    with environment(RFO_KEYS=str(keys), RFO_TRUST=str(tmp_path / "trust")):
        have_packages_key(context)
        assert "made a DEVELOPMENT trust root" in said(context)
        assert (keys / "builder.pub").is_file()
        assert [c.user_id for c in known_certificates(keys)] == ["RFO packages (development)"]
        before = (keys / CERTIFICATES).read_bytes()
        have_packages_key(context)
        assert (keys / CERTIFICATES).read_bytes() == before
    with environment(RFO_KEYS=str(other), RFO_TRUST=str(tmp_path / "none")):
        have_packages_key(context)
        assert f"made a DEVELOPMENT key for packages in {other}" in said(context)
        assert sorted(p.name for p in other.iterdir()) == ["builder.key", "builder.pub", "packages.asc", "packages.key"]
    assert not (tmp_path / "none").exists()
    assert "warning" not in said(context)
    new_key("builder", tmp_path / "real", builder="https://example.org/builders/ours")
    with environment(RFO_KEYS=str(tmp_path / "real")):
        error = fails(lambda: have_packages_key(context))
        assert isinstance(error, TrustError) and "./inv keys new --role packages" in error.hint
        assert not (tmp_path / "real" / CERTIFICATES).exists()
    (other / "packages.key").unlink()
    made_at(other, int(time.time()), 59)
    with environment(RFO_KEYS=str(other)):
        have_packages_key(context)
    assert "warning: the key for packages expires at 20" in said(context)


def test_commands_about_the_key_for_packages(tmp_path: Path) -> None:
    new_key("builder", tmp_path)
    made = inv(tmp_path, "new", "--role", "packages", "--days", "100")
    assert made.returncode == 0, made.stderr
    (first,) = known_certificates(tmp_path)
    assert f"{first.public.fingerprint}  RFO packages, expires" in made.stdout
    nexts = inv(tmp_path, "announce", "--role", "packages", "--id", "Somebody", **{VARIABLE: "right"})
    second = known_certificates(tmp_path)[1]
    assert f"{second.public.fingerprint}  Somebody, does not expire: signs next" in nexts.stdout
    assert "packages-next" in inv(tmp_path, "show").stdout
    rotated = inv(tmp_path, "rotate", "--role", "packages", "--json")
    assert rotated.returncode == 0, rotated.stderr
    both = [second.public.fingerprint, first.public.fingerprint]
    assert json.loads(rotated.stdout) == {"role": "packages", "keyids": both, "folder": str(tmp_path)}
    assert signs(tmp_path, "right") == both[0]
    shown = json.loads(inv(tmp_path, "show", "--json").stdout)
    old = f"packages-{both[1][:8]}"
    assert [entry["role"] for entry in shown] == ["builder", "packages", old]
    assert shown[1] == {"role": "packages", "keyid": both[0], "id": "Somebody", "private": True, "expires": None}
    listed = inv(tmp_path, "show").stdout
    assert f"{both[0]}  Somebody, does not expire" in listed
    assert f"{both[1]}  RFO packages, expires 20" in listed


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["rotate", "--role", "packages"], 2, "there is no key for packages"),
        (["rotate", "--role", "builder"], 2, "is replaced with the trust root"),
        (["new", "--role", "builder", "--days", "3"], 2, "are for packages"),
        (["new", "--role", "packages", "--days", "-3"], 2, "expected 1 to 36500"),
        (["new", "--role", "packages", "--id", "a\x1b[2Jb"], 2, "is no name for a key"),
        (["new", "--role", "packages", "--public", "x"], 2, "--public goes with"),
        (["new", "--role", "packages", "--command", "x"], 2, "--public goes with"),
        (["new", "--role", "packages", "--uri", "x", "--public", "/nowhere"], 10, "No such file"),
        (["new", "--role", "packages", "--uri", "x", "--public", __file__], 10, "is no public key in PEM"),
        (["new", "--role", "packages", "--command", "x", "--public", __file__], 10, "does not hold the certificate"),
        (["new", "--role", "packages", "--without-old"], 2, "is for rotate"),
    ],
)
def test_a_mistake_makes_no_key_for_packages(tmp_path: Path, arguments: list[str], status: int, reason: str) -> None:
    done = inv(tmp_path, *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    assert reason in done.stderr
    assert not list(tmp_path.iterdir())
