"""The OpenPGP that we write, judged by gpg, rpm, dnf and Sequoia; and what we read of it, which may be hostile."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rpm_mirror import DEBIAN, EPOCH, Key, make_key

from pipeline.attest.openpgp import (
    DAY,
    SIGNATURE,
    Certificate,
    armor,
    armor_certificates,
    certificate,
    checked_packet,
    created,
    dearmor,
    fingerprint,
    read_certificates,
    signature,
)
from pipeline.attest.packages import CERTIFICATES, Packager, known_certificates, load_packager
from pipeline.attest.packets import write_packet
from pipeline.attest.succession import Wanted, new_packages_key, rotate_packages_key
from pipeline.base.openpgp import Keyring
from pipeline.errors import SourceError
from pipeline.process import find_program
from pipeline.rpm.package import add_signature
from pipeline.verifier.encoding import Refused
from pipeline.verifier.openpgp import read_pgp_keys

MESSAGE = b"what is signed\r\n \n"
SPEC = """
Name: %{name}
Version: 1
Release: 1
Summary: demo
License: MIT
BuildArch: noarch
%description
demo
%files
"""


@dataclass(frozen=True)
class Pair:
    """A key that was replaced, and the one in its place."""

    folder: Path
    old: Packager
    new: Packager

    @property
    def file(self) -> Path:
        """With both certificates."""
        return self.folder / CERTIFICATES

    @property
    def time(self) -> int:
        return self.new.certificate.public.created


@dataclass(frozen=True)
class Gpg:
    """GnuPG with a home of its own."""

    home: Path

    def __call__(self, *arguments: object, check: bool = True) -> str:
        """What it says; it has to succeed, or to fail."""
        program = find_program("gpg", packages="apt-get install gnupg")
        command = [program, "--homedir", str(self.home), "--batch", "--status-fd", "1", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    new_packages_key(folder, Wanted("RFO packages (test)", days=400))
    old = load_packager(folder)
    rotate_packages_key(folder, Wanted())
    return Pair(folder, old, load_packager(folder))


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A folder for gpg; its agent's socket needs a short path."""
    folder = Path(tempfile.mkdtemp(prefix="gpg"))
    yield folder
    for child in folder.iterdir():
        subprocess.run(["gpgconf", "--homedir", child, "--kill", "all"], check=False)
    shutil.rmtree(folder, ignore_errors=True)  # agents take their sockets away meanwhile


@pytest.fixture(scope="module")
def gpg(pair: Pair, home: Path) -> Gpg:
    """GnuPG that knows both certificates."""
    (home / "both").mkdir(mode=0o700)
    known = Gpg(home / "both")
    known("--import", pair.file)
    return known


@pytest.fixture(scope="module")
def elsewhere(home: Path) -> Key:
    """A key of GnuPG's own."""
    return make_key(home / "elsewhere", "rsa3072")


def test_gpg_reads_certificates_as_they_are_meant(pair: Pair, gpg: Gpg) -> None:
    listed = gpg("--with-colons", "--list-keys")
    keys = [line.split(":") for line in listed.splitlines() if line.startswith("pub")]
    by_id = {k[4]: k for k in keys}
    for packager, expires in ((pair.old, str(pair.old.certificate.public.created + 400 * DAY)), (pair.new, "")):
        public = packager.certificate.public
        key = by_id[public.fingerprint[-16:]]
        size, algorithm, made, ends, usage = key[2], key[3], key[5], key[6], key[11]
        assert (size, algorithm, made, ends, usage) == ("3072", "1", str(public.created), expires, "scSC")
        assert f"fpr:::::::::{public.fingerprint}:" in listed
    assert "RFO packages (test)" in listed
    packets = gpg("--list-packets", pair.file)
    for told in ("sigclass 0x13", "digest algo 8", "(key flags: 03)", "(pref-hash-algos: 8)", "(primary user ID)"):
        assert packets.count(told) == 2, told


@pytest.mark.parametrize("which", ["old", "new"])
def test_gpg_verifies_signatures_of_both_keys_and_no_altered_message(
    pair: Pair, gpg: Gpg, which: str, tmp_path: Path
) -> None:
    packager: Packager = getattr(pair, which)
    packet = packager.sign(MESSAGE, pair.time)
    assert packet == packager.sign(MESSAGE, pair.time), "the same bytes each time"
    (tmp_path / "message").write_bytes(MESSAGE)
    (tmp_path / "binary").write_bytes(packet)
    (tmp_path / "armored").write_bytes(armor(packet, SIGNATURE))
    name = packager.certificate.public.fingerprint
    for form in ("binary", "armored"):
        said = gpg("--verify", tmp_path / form, tmp_path / "message")
        assert f"VALIDSIG {name} " in said
        assert f" {pair.time} 0 4 0 1 8 00 {name}" in said, "time, version 4, RSA, SHA-256, binary, the primary key"
    (tmp_path / "message").write_bytes(MESSAGE + b"x")
    assert "BADSIG" in gpg("--verify", tmp_path / "binary", tmp_path / "message", check=False)


def test_sequoia_accepts_them_by_its_standard_policy(pair: Pair) -> None:
    """It judges for rpm 4.20 of Debian 13."""
    names = [c.public.fingerprint for c in known_certificates(pair.folder)]
    ring = Keyring.load(pair.file.read_bytes(), names, "certificates")
    for packager, name in ((pair.new, names[0]), (pair.old, names[1])):
        packet = packager.sign(MESSAGE, pair.time)
        assert ring.verify(MESSAGE, packet, "signed") == name
        with pytest.raises(SourceError, match="did not sign these bytes"):
            ring.verify(MESSAGE + b"x", packet, "signed")
    from pysequoia import Cert

    first, second = (
        c
        for block in pair.file.read_text().split("-----BEGIN")[1:]
        for c in Cert.split_bytes(f"-----BEGIN{block}".encode())
    )
    assert (first.expiration, str(first.user_ids[0])) == (None, "RFO packages")
    assert second.expiration is not None


def test_rpm_accepts_packages_of_both_keys_and_no_others(pair: Pair, elsewhere: Key, tmp_path: Path) -> None:
    unsigned = build(tmp_path, "demo")
    foreign = tmp_path / "foreign.rpm"
    shutil.copy(unsigned, foreign)
    elsewhere.sign_rpm(foreign)
    database = ("--dbpath", tmp_path / "db")
    rpm("rpmkeys", *database, "--import", pair.file)
    known = rpm("rpm", *database, "-q", "gpg-pubkey").split()
    assert len(known) == 2, known
    check = ("rpmkeys", *database, "--define", "_pkgverify_level all", "-Kv")
    for packager in (pair.old, pair.new):
        public = packager.certificate.public
        signed = sign(unsigned, packager, pair.time, tmp_path / f"{public.fingerprint}.rpm")
        assert f"key ID {public.fingerprint[-8:].lower()}: OK" in rpm(*check, signed)
        assert f"gpg-pubkey-{public.fingerprint[-8:].lower()}-{public.created:08x}" in known
        data = bytearray(signed.read_bytes())
        data[data.rindex(b"demo")] ^= 1
        signed.write_bytes(data)
        assert "BAD" in rpm(*check, signed, status=1)
    assert "NOKEY" in rpm(*check, foreign, status=1)
    assert "RSA signature: NOTFOUND" in rpm(*check, unsigned, status=1)


def test_dnf_follows_a_key_that_was_announced_and_no_other(pair: Pair, tmp_path: Path) -> None:
    """A host knows the old key; then a file with both comes; then the new key alone signs packages and metadata."""
    repository, keys = tmp_path / "repository", tmp_path / "keys"
    repository.mkdir()
    lines = ["[main]", "gpgcheck=1", "reposdir=/none", "varsdir=/none", "cachedir=/cache", "persistdir=/lib"]
    lines += ["logdir=/log", "plugins=0", "metadata_expire=0", "[demo]", "name=demo", f"baseurl=file://{repository}"]
    (tmp_path / "dnf.conf").write_text("\n".join([*lines, "repo_gpgcheck=1", f"gpgkey=file://{keys}", ""]))
    (tmp_path / ".rpmmacros").write_text("%_dbpath /var/lib/rpm\n")
    root = tmp_path / "root"

    def published(name: str, packager: Packager) -> None:
        target = repository / f"{name}-1-1.noarch.rpm"
        target.unlink(missing_ok=True)  # dnf keeps sums in extended attributes, and a second is too coarse to tell
        sign(build(tmp_path, name), packager, pair.time, target)
        rpm("createrepo_c", "--quiet", "--general-compress-type", "gz", repository)
        index = repository / "repodata" / "repomd.xml"
        packet = packager.sign(index.read_bytes(), pair.time)
        (index.parent / "repomd.xml.asc").write_bytes(armor(packet, SIGNATURE))

    def install(name: str, status: int = 0) -> str:
        command = (
            "-y",
            "-c",
            tmp_path / "dnf.conf",
            f"--installroot={root}",
            "--releasever=1",
            "--refresh",
            "install",
            name,
        )
        return rpm("dnf", *command, status=status, HOME=str(tmp_path))

    def trusted() -> set[str]:
        found = rpm("rpm", "--root", root, "--dbpath", "/var/lib/rpm", "-q", "gpg-pubkey", "--qf", "%{version}\n")
        return set(found.upper().split())

    old, new = (packager.certificate for packager in (pair.old, pair.new))
    keys.write_bytes(armor_certificates([old]))
    published("demo-first", pair.old)
    install("demo-first")
    assert trusted() == {old.public.fingerprint[-8:]}
    published("demo-third", pair.new)
    assert "GPG" in install("demo-third", status=1)
    keys.write_bytes(armor_certificates([old, new]))
    published("demo-second", pair.old)
    install("demo-second")
    published("demo-third", pair.new)
    install("demo-third")
    assert trusted() == {c.public.fingerprint[-8:] for c in (old, new)}


def test_certificates_and_armor_have_one_form(pair: Pair) -> None:
    text = pair.file.read_bytes()
    first, second = known_certificates(pair.folder)
    assert (created(text), fingerprint(text)) == (first.public.created, first.public.fingerprint)
    assert second.expires == second.public.created + 400 * DAY
    packet = pair.new.sign(MESSAGE, pair.time)
    assert dearmor(armor(packet, SIGNATURE)) == packet
    for damaged in (b"", text, armor(packet, SIGNATURE)[:-30], armor(packet, SIGNATURE).replace(b"\n=", b"A\n=", 1)):
        assert dearmor(damaged) == b""
    assert dearmor(armor(packet, SIGNATURE).replace(b"\n=", b"\n=A", 1)) == b""


def test_a_certificate_needs_its_own_signature(pair: Pair) -> None:
    own = known_certificates(pair.folder)[0]

    def sign(message: bytes) -> bytes:
        return bytes(384)

    with pytest.raises(ValueError, match="no user id that it signed"):
        read_certificates(certificate(own.public, sign, "Somebody"))
    with pytest.raises(ValueError, match="not a signature of"):
        checked_packet(signature(own.public, sign, MESSAGE, pair.time), own.public, MESSAGE)


def test_no_byte_of_a_signature_can_be_another(pair: Pair) -> None:
    """One whose form changes but not what it says is written as we write it."""
    public, packet = pair.new.certificate.public, pair.new.sign(MESSAGE, pair.time)
    for position in range(len(packet)):
        changed = bytearray(packet)
        changed[position] ^= 1
        try:
            same = checked_packet(bytes(changed), public, MESSAGE)
        except ValueError:
            continue
        assert same == (packet, pair.time), position


def test_what_is_cut_off_or_altered_is_refused_by_a_reason(pair: Pair) -> None:
    public, packet = pair.new.certificate.public, pair.new.sign(MESSAGE, pair.time)
    whole = known_certificates(pair.folder)[0].data
    for end in range(len(packet)):
        with pytest.raises(ValueError):
            checked_packet(packet[:end], public, MESSAGE)
    for end in range(len(whole)):
        with pytest.raises(ValueError):
            read_certificates(whole[:end])
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1
        try:
            (found,) = read_certificates(bytes(changed))
        except ValueError:
            continue
        assert found.public == public, position
    for data in (b"\xff" * 60, b"\x99\x00\x00", os.urandom(300) + whole, whole + whole, whole + b"\xc6\xff"):
        with pytest.raises(ValueError):
            read_certificates(data)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), ""),
        (("--textmode",), "its type is 0x01"),
        (("--digest-algo", "SHA512"), "hash algorithm 10"),
        (("--sig-notation", "a@b=c"), ""),
        (("--sig-notation", "!a@b=c"), "subpackets of the types \\[148\\]"),
        (("--default-sig-expire", "7d"), "subpackets of the types \\[3\\]"),
    ],
)
def test_signatures_made_elsewhere_count_if_they_say_nothing_more(
    elsewhere: Key, options: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    (own,) = read_certificates(elsewhere.public())
    assert (own.public.fingerprint, own.user_id) == (elsewhere.fingerprint, "elsewhere@test")
    packet = by_gpg(elsewhere, *options)
    if reason:
        with pytest.raises(ValueError, match=reason):
            checked_packet(packet, own.public, MESSAGE)
        return
    again, time = checked_packet(packet, own.public, MESSAGE)
    assert time == int(EPOCH)
    assert checked_packet(again, own.public, MESSAGE) == (again, time)
    ring = Keyring.load(elsewhere.public(), [own.public.fingerprint], "certificate")
    assert ring.verify(MESSAGE, again, "signed") == own.public.fingerprint
    for other in (MESSAGE + b"x", b""):
        with pytest.raises(ValueError, match="not a signature of"):
            checked_packet(packet, own.public, other)
    with pytest.raises(ValueError, match="expected one"):
        checked_packet(packet + packet, own.public, MESSAGE)


def test_what_others_added_to_a_certificate_is_left_out(home: Path) -> None:
    key, colleague = make_key(home / "certified", "rsa3072"), make_key(home / "colleague", "ed25519")
    gpg = Gpg(colleague.home)
    gpg("--import", written(home / "certified.asc", key.public().decode()))
    gpg("--yes", "--pinentry-mode", "loopback", "--passphrase", "", "--quick-sign-key", key.fingerprint)
    text = gpg("--armor", "--export", key.fingerprint).encode()
    with pytest.raises(Refused):
        read_pgp_keys(text, "as it was exported")
    (found,) = read_certificates(text)
    assert [k.fingerprint for k in read_pgp_keys(armor_certificates([found]), "as it is published")] == [
        key.fingerprint
    ]
    with pytest.raises(ValueError, match="an OpenPGP packet of 70000 bytes"):
        write_packet(17, bytes(70000))


def test_only_keys_that_rpm_knows_and_that_sign_by_themselves_are_accepted(elsewhere: Key, home: Path) -> None:
    for name, algorithm, subkey, reason in (
        ("curve", "ed25519", False, "version 4 RSA key"),
        ("sub", "rsa2048", True, "not made for signing"),
    ):
        key = make_key(home / name, algorithm, subkey=subkey)
        with pytest.raises(ValueError, match=reason):
            read_certificates(key.public())
    assert expiry(elsewhere) is None
    gpg = Gpg(elsewhere.home)
    later = ("--pinentry-mode", "loopback", "--passphrase", "", "--faked-system-time", f"{int(EPOCH) + 60}!")
    gpg(*later, "--quick-set-expire", elsewhere.fingerprint, "100d")
    assert expiry(elsewhere) == int(EPOCH) + 60 + 100 * DAY
    revocation = elsewhere.home / "openpgp-revocs.d" / f"{elsewhere.fingerprint}.rev"
    gpg("--import", written(home / "revocation", revocation.read_text().replace("\n:-----BEGIN", "\n-----BEGIN")))
    with pytest.raises(ValueError, match="was revoked"):
        read_certificates(elsewhere.public())


def expiry(key: Key) -> int | None:
    (found,) = read_certificates(key.public())
    assert isinstance(found, Certificate)
    return found.expires


def by_gpg(key: Key, *options: str) -> bytes:
    command = [
        "gpg",
        "--homedir",
        str(key.home),
        "--batch",
        "--faked-system-time",
        f"{EPOCH}!",
        "--digest-algo",
        "SHA256",
        *options,
    ]
    return subprocess.run([*command, "--detach-sign"], input=MESSAGE, stdout=subprocess.PIPE, check=True).stdout


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def build(work: Path, name: str) -> Path:
    """A package, unsigned."""
    spec = written(work / f"{name}.spec", SPEC)
    rpm("rpmbuild", "-bb", "--quiet", "--define", f"_topdir {work}", "--define", f"name {name}", spec)
    return work / "RPMS" / "noarch" / f"{name}-1-1.noarch.rpm"


def sign(unsigned: Path, packager: Packager, time: int, target: Path) -> Path:
    from pipeline.rpm.package import main_header

    add_signature(unsigned, packager.sign(main_header(unsigned), time), target)
    return target


def rpm(program: str, *arguments: object, status: int = 0, **variables: str) -> str:
    """What a program of rpm says."""
    path = find_program(program, packages=f"apt-get install {DEBIAN.get(program, program)}")
    env = {"PATH": os.environ["PATH"], "HOME": "/", "LC_ALL": "C.UTF-8", **variables}
    done = subprocess.run([path, *map(str, arguments)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == status, f"{program} {arguments}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr
