"""`rfo-verify --repo`: a repository of two releases, made with rpmbuild, rpmsign, createrepo_c and gpg, and attacks.

The first release was signed with a key that has expired since; the second one brought the key that signs now.
"""

import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from rpm_mirror import Key, make_key, run
from trusted import STATEMENT, Trusted, files, promoted

from pipeline.accept import accept_repository
from pipeline.attest.openpgp import CERTIFICATE, DAY, SIGNATURE, Public, armor, certificate, signature
from pipeline.attest.standalone import render_verifier
from pipeline.errors import HostError, TrustError, UsageError
from pipeline.verifier.encoding import Refused
from pipeline.verifier.openpgp import read_pgp_keys, verify_armored, verify_pgp
from pipeline.verifier.package import read_package, verify_package
from pipeline.verifier.policy import read_policy
from pipeline.verifier.report import ACCEPTED, REFUSED, STALE, Report
from pipeline.verifier.repository import PACKAGES_APART, verify_repository
from pipeline.verifier.rpmmd import DataFile, read_primary, read_repomd
from pipeline.verifier.state import State, read_state
from pipeline.verifier.verify import Options

EARLY, LATE = 1668729600, 1700000000
"""When the packages of the two releases were built and signed."""
BASE = "debian-13"
X86 = f"{BASE}/x86_64"
REPOMD = f"{X86}/repodata/repomd.xml"
KEYS = "RPM-GPG-KEY-rfo"
V1, V2 = "v1.0.0+rfor1", "v1.0.0+rfor2"

SPEC = """
Name: rfo
Version: {version}
Release: 1.deb13
Summary: demo
License: Apache-2.0
AutoReqProv: no
%description
demo
%package server
Summary: demo
%description server
demo
%package release
Summary: demo
BuildArch: noarch
%description release
demo
%install
mkdir -p %{{buildroot}}/etc
seq 1 3000 > %{{buildroot}}/etc/rfo-server
echo key > %{{buildroot}}/etc/rfo-release
%files server
/etc/rfo-server
%files release
/etc/rfo-release
"""


UNKNOWN = "an element that no metadata of ours has"
COMMON = "http://linux.duke.edu/metadata/common"
EVIL = (
    '<package type="rpm" xmlns="{space}"><name>rfo-evil</name><arch>noarch</arch><version epoch="0" ver="9" rel="1"/>'
    '<location href="evil.rpm"/></package>'
)
"""Which dnf takes, whatever its namespace."""


def sign_at(key: Key, time: int, *packages: Path) -> None:
    """rpmsign, as if it were another time."""
    command = (
        f"%{{__gpg}} gpg --no-verbose --no-armor --batch --pinentry-mode loopback --faked-system-time {time}! "
        '-u "%{_gpg_name}" -sbo %{__signature_filename} --digest-algo sha256 %{__plaintext_filename}'
    )
    defines = {"_gpg_name": key.fingerprint, "_gpg_path": key.home, "__gpg": shutil.which("gpg")}
    options = [a for k, v in {**defines, "__gpg_sign_cmd": command}.items() for a in ("--define", f"{k} {v}")]
    run("rpmsign", *options, "--addsign", *packages)


def build(work: Path, version: str, time: int) -> list[Path]:
    """Binary packages and the source package, unsigned."""
    top = work / version
    top.mkdir(parents=True)
    (top / "rfo.spec").write_text(SPEC.format(version=version.removeprefix("v")))
    defines = {
        "_topdir": top, "_build_id_links": "none", "debug_package": "%{nil}", "__os_install_post": "%{nil}",
        "_dbpath": top / "db", "_buildhost": "reproducible", "_binary_payload": "w1.gzdio",
    }  # fmt: skip
    options = [a for k, v in defines.items() for a in ("--define", f"{k} {v}")]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(top), "LC_ALL": "C", "SOURCE_DATE_EPOCH": str(time)}
    run("rpmbuild", "-ba", "--target", "x86_64-linux", *options, top / "rfo.spec", env=environment)
    return sorted(top.rglob("*.rpm"))


def index(folder: Path, key: Key, revision: int, *options: str) -> None:
    """Make a repository's metadata anew, and sign them."""
    run("createrepo_c", "--quiet", "--revision", revision, "--set-timestamp-to-revision", "--no-database",
        "--general-compress-type", "gz", folder)  # fmt: skip
    key.sign(folder / "repodata" / "repomd.xml", *options)


def edit_primary(folder: Path, key: Key, change: Callable[[str], str], **named: int) -> None:
    """Another primary.xml, named and signed; `named` are sizes that repomd.xml gives in place of the right ones."""
    primary = next(folder.glob("repodata/*-primary.xml.gz"))
    plain = change(gzip.decompress(primary.read_bytes()).decode()).encode()
    packed = gzip.compress(plain, mtime=0)
    primary.unlink()
    sums = {"checksum": hashlib.sha256(packed).hexdigest(), "open-checksum": hashlib.sha256(plain).hexdigest()}
    (folder / "repodata" / f"{sums['checksum']}-primary.xml.gz").write_bytes(packed)
    sizes = {"size": len(packed), "open-size": len(plain), **{k.replace("_", "-"): v for k, v in named.items()}}

    def edit(text: str) -> str:
        start = text.index('<data type="primary">')
        end = text.index("</data>", start)
        entry = text[start:end]
        for name, digest in sums.items():
            entry = re.sub(rf"(<{name} [^>]*>)[0-9a-f]+", rf"\g<1>{digest}", entry)
        for name, size in sizes.items():
            entry = re.sub(rf"<{name}>\d+", f"<{name}>{size}", entry)
        entry = re.sub(r'href="[^"]*"', f'href="repodata/{sums["checksum"]}-primary.xml.gz"', entry)
        return text[:start] + entry + text[end:]

    edit_repomd(folder, key, edit)


def edit_repomd(folder: Path, key: Key, change: Callable[[str], str]) -> None:
    repomd = folder / "repodata" / "repomd.xml"
    repomd.write_text(change(repomd.read_text()))
    key.sign(repomd)


def keep_evidence(repository: Path, made: Trusted) -> None:
    """What a repository has of a release, by what the verifier says that it needs."""
    statement = json.loads((made.dist / STATEMENT).read_bytes())
    assert statement
    policy = read_policy(next(made.dist.glob("trust/targets/*.policy.json")).read_bytes(), "policy.json")
    fixed = [n for n in files(made.dist) if n.startswith(("trust/", "provenance/release/"))]
    needed = PACKAGES_APART.evidence(files(made.dist), policy)
    folder = repository / "releases" / made.name
    shutil.rmtree(folder, ignore_errors=True)
    for name in [*fixed, *needed, "release.json", "provenance/layout.json"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made.dist / name, folder / name)


@dataclass(frozen=True)
class Made:
    """A repository of two releases, and all that made it."""

    repository: Path
    first: Trusted
    second: Trusted
    old: Key
    key: Key
    stranger: Key

    @property
    def root(self) -> bytes:
        return self.second.root.read_bytes()

    def publish(self, **yanked: dict[str, Any]) -> None:
        """Name both releases in the trust root; the second one's snapshot is of that."""
        named = {}
        for made in (self.first, self.second):
            path = f"releases/{made.name}/release.sigstore.json"
            named[path] = made.put(path, (made.dist / STATEMENT).read_bytes())
            facts = {"version": made.version, **yanked.get(made.version[-5:], {})}
            named[path].unrecognized_fields["custom"] = facts
        policy = json.dumps(self.second.policy(), sort_keys=True, separators=(",", ":")).encode() + b"\n"
        targets = {"policy.json": self.second.put("policy.json", policy)}
        self.second.write_metadata(targets, named)
        keep_evidence(self.repository, self.second)

    def judged(self, place: str = "", **options: Any) -> Report:
        return verify_repository(self.repository / place, self.root, Options(**options))


def packages_of(top: Path, version: str, time: int, key: Key, keys: bytes) -> Path:
    """The folder rpm/ of a release: packages of one architecture, of no architecture, and source."""
    found = build(top / "build", version, time)
    sign_at(key, time, *found)
    for package in found:
        name = f"{BASE}/source" if package.name.endswith(".src.rpm") else X86
        (top / version / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(package, top / version / name)
    (top / version / KEYS).write_bytes(keys)
    return top / version


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    top = tmp_path_factory.mktemp("repository")
    old = make_key(top / "old", "rsa2048", created=EARLY, expires="1y")
    key, stranger = (make_key(top / n, "rsa2048", created=LATE) for n in ("key", "stranger"))
    early = packages_of(top, V1, EARLY, old, old.public())
    late = packages_of(top, V2, LATE, key, key.public() + old.public())
    odd(top, early, old, stranger)
    for name in (X86, f"{BASE}/source"):
        index(late / name, key, LATE)
    first = promoted(top / "made", version=V1, packages=early)
    second = promoted(top / "made", version=V2, packages=late, versions=first.versions)
    repository = top / "kept"
    for folder in (early, late):
        shutil.copytree(folder, repository, dirs_exist_ok=True, ignore=shutil.ignore_patterns("repodata", "odd"))
    (repository / ".rfo-repository").touch()
    made = Made(repository, first, second, old, key, stranger)
    for name in (X86, f"{BASE}/source"):
        index(repository / name, key, LATE + 1)
    keep_evidence(repository, first)
    made.publish()
    return made


def odd(top: Path, early: Path, old: Key, stranger: Key) -> None:
    """Packages of the first release that nobody should accept though it names them."""
    folder = early / BASE / "odd"
    folder.mkdir()
    server = next((top / "build" / V1).rglob("rfo-server-*.rpm"))
    unsigned = build(top / "again", V1, EARLY)
    shutil.copy(next(p for p in unsigned if "server" in p.name), folder / server.name)
    release = next(p for p in unsigned if "release" in p.name)
    sign_at(stranger, LATE, release)
    shutil.copy(release, folder)


@pytest.fixture
def made(whole: Made, tmp_path: Path) -> Made:
    """A copy to be changed."""
    shutil.copytree(whole.repository, tmp_path / "kept")
    return replace(whole, repository=tmp_path / "kept")


def reasons(report: Report) -> list[str]:
    return [str(r) for r in report.reasons]


def refused(report: Report, *texts: str) -> None:
    """It is refused, and one of the reasons has all of `texts`."""
    assert report.exit_code == REFUSED
    assert any(all(t in str(r) for t in texts) for r in report.reasons), (texts, reasons(report))
    assert not any("cannot judge" in r for r in reasons(report))


# --- what is accepted


def test_a_repository_of_two_releases_is_accepted(whole: Made) -> None:
    report = whole.judged()
    assert (report.exit_code, reasons(report)) == (ACCEPTED, [])
    assert [(k.path, k.revision, k.packages) for k in report.kept] == [
        (f"{BASE}/source", LATE + 1, 2),
        (X86, LATE + 1, 4),
    ]
    assert report.releases == [f"{v}@{BASE}" for v in (V1, V2)]
    packages = sorted(p.relative_to(whole.repository).as_posix() for p in whole.repository.rglob("*.rpm"))
    assert sorted(r.item.name for r in report.rows if r.item.kind == "rpm") == packages
    assert all(r.builders and r.rebuilders for r in report.rows)
    assert report.development


def test_the_packages_of_one_release_are_accepted(whole: Made) -> None:
    report = verify_repository(whole.second.dist / "rpm", whole.root, Options())
    assert (report.exit_code, reasons(report)) == (ACCEPTED, [])
    assert report.version == V2
    assert {r.item.kind for r in report.rows} == {"rpm", "document"}


def test_a_copy_with_fewer_architectures_and_older_metadata_beside_the_new_is_accepted(made: Made) -> None:
    shutil.rmtree(made.repository / BASE / "source")
    edit_primary(made.repository / X86, made.key, lambda t: t + "\n")
    data = gzip.compress(b"<old/>\n", mtime=0)
    old = made.repository / X86 / "repodata" / f"{hashlib.sha256(data).hexdigest()}-other.xml.gz"
    old.write_bytes(data)
    assert reasons(made.judged()) == []
    old.write_bytes(data + b"\0")
    refused(made.judged(), old.name, "was changed")


def test_one_flipped_byte_in_any_file_is_refused_by_name(made: Made) -> None:
    older = f"releases/{made.first.name}/trust/"  # an older snapshot, on which nothing rests
    paths = [p for p in files(made.repository) if p != ".rfo-repository" and not p.startswith(older)]
    needed = re.compile(rf".*repomd.*|.*primary.*|{KEYS}|.*/trust/.*|.*/release\.(sigstore\.)?json")
    alone = [[p] for p in paths if needed.fullmatch(p)]
    for group in [*alone, [p for p in paths if not needed.fullmatch(p)]]:
        before = {made.repository / p: (made.repository / p).read_bytes() for p in group}
        for file, data in before.items():
            place = len(data) * 2 // 3
            file.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        report = made.judged()
        for path in group:
            named = path.removesuffix(".asc")
            assert any(named in f"{r.subject} {r.reason}" for r in report.reasons), (path, reasons(report))
        for file, data in before.items():
            file.write_bytes(data)


# --- metadata


def test_an_edited_index(made: Made) -> None:
    file = made.repository / REPOMD
    file.write_text(file.read_text().replace("<revision>1", "<revision>2"))
    refused(made.judged(), REPOMD, "was changed after it was signed, or is signed by somebody else")


def test_an_index_without_a_signature(made: Made) -> None:
    (made.repository / f"{REPOMD}.asc").unlink()
    refused(made.judged(), f"{REPOMD}.asc", "is missing")


def test_an_index_signed_by_another_key(made: Made) -> None:
    made.stranger.sign(made.repository / REPOMD)
    report = made.judged()
    refused(report, REPOMD, "is signed by a key that is not trusted for it")
    (found,) = report.reasons
    assert found.found == made.stranger.fingerprint
    assert made.key.fingerprint in found.expected


def test_an_index_signed_by_a_key_that_has_expired_since(made: Made) -> None:
    made.old.sign(made.repository / REPOMD, "--faked-system-time", f"{EARLY}!")
    report = made.judged()
    assert (report.exit_code, reasons(report)) == (STALE, [])
    assert len(report.stale) == 1
    assert REPOMD in report.stale[0]
    assert made.old.fingerprint in report.stale[0]
    report = made.judged(allow_stale=True)
    assert report.exit_code == ACCEPTED
    assert any(made.old.fingerprint in n for n in report.notes)


def test_an_index_signed_in_the_future(made: Made) -> None:
    made.key.sign(made.repository / REPOMD, "--faked-system-time", "4000000000!")
    refused(made.judged(), "the clock of this host", REPOMD)


def test_a_key_that_no_release_names(made: Made) -> None:
    keys = made.repository / KEYS
    keys.write_bytes(keys.read_bytes() + made.stranger.public())
    made.stranger.sign(made.repository / REPOMD)
    refused(made.judged(), KEYS, "was changed after it was signed")


def test_a_key_that_only_an_older_release_names(made: Made) -> None:
    (made.repository / KEYS).write_bytes(made.old.public())
    made.old.sign(made.repository / REPOMD, "--faked-system-time", f"{EARLY}!")
    refused(made.judged(), KEYS, "was changed after it was signed")


def test_metadata_older_than_the_host_has_seen(made: Made, tmp_path: Path) -> None:
    older = shutil.copytree(made.repository, tmp_path / "older")
    index(made.repository / X86, made.key, LATE + 5)
    seen = made.judged().state
    assert seen is not None
    assert seen.metadata[f"rfo/{REPOMD}"] == LATE + 5
    before = replace(made, repository=older)
    assert before.judged().exit_code == ACCEPTED  # it is signed: whoever has seen nothing cannot know
    report = before.judged(state=seen)
    refused(report, REPOMD, "is older than what this host has seen")
    assert report.reasons[0].expected == f"revision {LATE + 5} or later"
    assert made.judged(state=seen).exit_code == ACCEPTED
    named = verify_repository(older, made.root, Options(state=seen), "rfo-testing")
    assert named.exit_code == ACCEPTED
    allowed = before.judged(state=seen, allow_downgrade=True)
    assert allowed.exit_code == ACCEPTED
    assert allowed.state is not None
    assert allowed.state.metadata[f"rfo/{REPOMD}"] == LATE + 5


def test_an_older_trust_root_than_the_host_has_seen(made: Made) -> None:
    made.publish()
    after = made.judged().state
    assert after is not None
    assert reasons(made.judged(state=after)) == []
    shutil.rmtree(made.repository / "releases" / made.second.name / "trust")
    shutil.copytree(made.first.dist / "trust", made.repository / "releases" / made.second.name / "trust")
    refused(made.judged(state=after), f"releases/{made.second.name}/trust/metadata/timestamp.json", "is older than")


def test_a_repository_without_the_highest_release_that_the_host_has_seen(made: Made) -> None:
    seen = State(highest_version="v1.0.0+rfor3")
    refused(made.judged(state=seen), V2, "is older than what was accepted on this host before")


@pytest.mark.parametrize(
    ("change", "named", "reason"),
    [
        (lambda t: t.replace("<name>", "<!--x--><name>", 1), {}, "document type, entities, comments"),
        (
            lambda t: t.replace("<metadata", '<!DOCTYPE m [<!ENTITY a "aa">]><metadata', 1).replace("demo", "&a;"),
            {},
            "document type, entities, comments",
        ),
        (lambda t: t.replace("<description>demo", "<description>&a;", 1), {}, "is not XML as it should be"),
        (lambda t: t + " " * (8 << 20), {"open_size": 1000}, "unpacks to another size than is signed"),
        (lambda t: t, {"open_size": 1 << 40}, "or one that is too large"),
        (lambda t: t, {"size": 1 << 40}, "or one that is too large"),
        (lambda t: t, {"size": 10}, "is too large"),
        (
            lambda t: re.sub(r'href="rfo-server', 'href="../../x86_64/rfo-server', t, count=1),
            {},
            "no package of ours lies",
        ),
        (lambda t: re.sub(r'href="rfo-server', 'href="/etc/rfo-server', t, count=1), {}, "no package of ours lies"),
        (
            lambda t: t.replace("<location ", '<location xml:base="http://x.test/" ', 1),
            {},
            "no package of ours lies",
        ),
        (lambda t: t.replace('type="sha256"', 'type="sha"', 1), {}, "by SHA-256 and size"),
        (lambda t: t.replace('packages="4"', 'packages="3"', 1), {}, "another number of packages"),
        (lambda _: "<a>" * 1000 + "</a>" * 1000, {}, UNKNOWN),
        (lambda t: t.replace("</metadata>", f"{EVIL.format(space='urn:x')}</metadata>"), {}, UNKNOWN),
        (lambda t: t.replace("</metadata>", f"{EVIL.format(space='')}</metadata>"), {}, UNKNOWN),
        (lambda t: t.replace("</metadata>", f"<more>{EVIL.format(space=COMMON)}</more></metadata>"), {}, UNKNOWN),
        (lambda t: t.replace("</format>", "<location href='x.rpm'/></format>", 1), {}, UNKNOWN),
        (lambda t: t.replace("</package>", "<rpm:location href='x.rpm'/></package>", 1), {}, UNKNOWN),
        (lambda t: t[:-30], {}, "is not XML as it should be"),
    ],
)
def test_signed_metadata_that_mean_harm(
    made: Made, change: Callable[[str], str], named: dict[str, int], reason: str
) -> None:
    edit_primary(made.repository / X86, made.key, change, **named)
    refused(made.judged(), X86, "repodata", reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.replace("<repomd", '<!DOCTYPE m [<!ENTITY a "aa">]><repomd', 1), "document type, entities"),
        (lambda t: t.replace('href="repodata/', 'href="../repodata/', 1), "at another place"),
        (lambda t: t.replace('type="other"', 'type="updateinfo"'), "names other metadata"),
        (lambda t: t.replace('type="other"', 'type="primary"'), "names other metadata"),
        (lambda t: re.sub("<revision>.*</revision>", "", t), "one revision, a number"),
        (lambda t: re.sub("<revision>[0-9]+", "<revision>-1", t), "one revision, a number"),
        (lambda t: t.replace('<checksum type="sha256"', '<checksum type="sha1"', 1), "by SHA-256"),
        (lambda t: t.replace("</repomd>", ""), "is not XML as it should be"),
        (lambda t: t.replace("</repomd>", '<data type="primary" xmlns="urn:x"/></repomd>'), UNKNOWN),
    ],
)
def test_a_signed_index_that_means_harm(made: Made, change: Callable[[str], str], reason: str) -> None:
    edit_repomd(made.repository / X86, made.key, change)
    refused(made.judged(), REPOMD, reason)


# --- packages


def server(made: Made, version: str = V2) -> Path:
    return next((made.repository / X86).glob(f"rfo-server-{version[1:]}-*.rpm"))


def test_a_flipped_byte_in_a_package(made: Made) -> None:
    package = server(made)
    data = package.read_bytes()
    package.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    report = made.judged()
    refused(report, f"{X86}/{package.name}", "was changed after it was signed")
    assert report.reasons[0].expected == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_missing_package(made: Made) -> None:
    server(made).unlink()
    refused(made.judged(), f"{X86}/rfo-server-{V2[1:]}", "is missing")


def test_a_package_that_no_metadata_name(made: Made) -> None:
    shutil.copy(server(made), made.repository / X86 / "rfo-server-9-1.x86_64.rpm")
    refused(made.judged(), f"{X86}/rfo-server-9-1.x86_64.rpm", "is a package that no metadata names")
    (made.repository / "rfo-server-9-1.x86_64.rpm").write_bytes(b"")
    refused(made.judged(), "rfo-server-9-1.x86_64.rpm", "is no part of a repository")


def test_a_package_that_no_release_names(made: Made, tmp_path: Path) -> None:
    package = next(p for p in build(tmp_path / "more", "v9.0.0", LATE) if "server" in p.name)
    sign_at(made.key, LATE, package)
    shutil.copy(package, made.repository / X86)
    index(made.repository / X86, made.key, LATE + 2)
    refused(made.judged(), f"{X86}/{package.name}", "is named by no release")


def test_a_package_that_was_signed_again(made: Made) -> None:
    package = server(made)
    sign_at(made.old, EARLY, package)
    index(made.repository / X86, made.key, LATE + 2)
    refused(made.judged(), f"{X86}/{package.name}", "with another digest than by the release")


def test_metadata_that_call_a_package_something_else(made: Made) -> None:
    edit_primary(made.repository / X86, made.key, lambda t: t.replace('ver="1.0.0+rfor1"', 'ver="9.0.0"', 1))
    refused(made.judged(), X86, "is another package than the metadata say")


def test_packages_that_a_release_names_but_no_trusted_key_signed(made: Made) -> None:
    folder = made.repository / BASE / "odd"
    shutil.copytree(made.first.dist / "rpm" / BASE / "odd", folder)
    index(folder, made.key, LATE)
    report = made.judged()
    refused(report, f"{BASE}/odd/rfo-server", "is not signed")
    refused(report, f"{BASE}/odd/rfo-release", "is signed by a key that is not trusted for it")
    assert len(report.reasons) == 2


def test_packages_of_a_release_that_was_taken_back(made: Made, whole: Made) -> None:
    made.publish(rfor1={"yanked": "does not start"})
    report = made.judged()
    refused(report, f"{V1}@{BASE}", "was taken back")
    assert report.reasons[0].found == "does not start"
    assert made.judged(allow_yanked=True).exit_code == ACCEPTED


def test_packages_of_a_release_below_the_floor(made: Made) -> None:
    raised = replace(made.second, edits={"policy": lambda p: p.update(minimum_version=V2)})
    replace(made, second=raised).publish()
    refused(made.judged(), V1, "is older than the policy accepts")


# --- what lies around


def test_a_link_in_the_repository(made: Made) -> None:
    package = server(made)
    target = package.rename(made.repository.parent / package.name)
    package.symlink_to(target)
    refused(made.judged(), f"{X86}/{package.name}", "is a link or a special file")


def test_files_that_nobody_signed(made: Made) -> None:
    (made.repository / "releases" / made.first.name / "provenance" / "x.json").write_bytes(b"{}\n")
    (made.repository / "rfo.repo").write_bytes(b"[rfo]\ngpgcheck=0\n")
    (made.repository / X86 / "repodata" / "comps.xml").write_bytes(b"<comps/>\n")
    (made.repository / ".rfo-repository").write_bytes(b"x")
    (made.repository / "releases" / "rfo-9.rpm").write_bytes(b"x")
    older = made.repository / "releases" / made.first.name / "trust"
    (older / "hidden").mkdir()
    (older / "hidden" / "rfo-9.rpm").write_bytes(b"x")
    (older / "targets" / f"{'0' * 64}.policy.json").write_bytes(b"{}")
    report = made.judged()
    refused(report, "releases/rfo-9.rpm", "is no part of a repository")
    refused(report, "hidden/rfo-9.rpm", "is no part of the trust root")
    refused(report, f"{'0' * 64}.policy.json", "was changed after it was signed")
    refused(report, "provenance/x.json", "nobody signed it")
    refused(report, "rfo.repo", "is no part of a repository")
    refused(report, "comps.xml", "is a file that no metadata names")
    refused(report, ".rfo-repository", "is no part of a repository")


@pytest.mark.parametrize("lost", ["release.json", "rpm.sigstore.json", "rebuild.sigstore.json", STATEMENT])
def test_evidence_that_is_missing(made: Made, lost: str) -> None:
    place = made.repository / "releases" / made.second.name
    name = lost if (place / lost).exists() else next(place.glob(f"provenance/rebuilder-*/{lost}")).relative_to(place)
    (place / name).unlink()
    refused(made.judged(), f"releases/{made.second.name}/{name}", "is missing")


def test_evidence_of_another_release(made: Made) -> None:
    place = made.repository / "releases"
    shutil.copytree(place / made.first.name, place / f"v1.0.0+rfor5@{BASE}")
    refused(made.judged(), f"releases/v1.0.0+rfor5@{BASE}", "holds the evidence of another release")


def test_a_folder_that_is_no_repository(tmp_path: Path, whole: Made) -> None:
    report = verify_repository(tmp_path, whole.root, Options())
    refused(report, str(tmp_path), "holds no evidence of a release")


def test_evidence_without_a_release(tmp_path: Path, whole: Made) -> None:
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "README").write_bytes(b"x")
    refused(verify_repository(tmp_path, whole.root, Options()), "releases/", "holds no evidence of a release")


def test_a_folder_beside_the_packages_of_a_release(whole: Made, tmp_path: Path) -> None:
    dist = shutil.copytree(whole.second.dist, tmp_path / whole.second.name)
    beside = shutil.copytree(dist / "rpm", dist / "rpm2")
    refused(verify_repository(beside, whole.root, Options()), str(beside), "holds no evidence of a release")
    shutil.rmtree(dist / "rpm")
    (dist / "rpm").symlink_to(beside)
    assert verify_repository(dist / "rpm", whole.root, Options()).exit_code != ACCEPTED


def test_what_is_installed_is_compared_with_the_newest_release(made: Made) -> None:
    assert reasons(made.judged(installed_version=V2)) == []
    refused(made.judged(installed_version="v1.0.0+rfor3"), V2, "is older than what is installed")


def test_an_index_whose_signature_has_expired_since(made: Made) -> None:
    options = ("--faked-system-time", f"{LATE}!", "--default-sig-expire", "1d")
    made.key.sign(made.repository / REPOMD, *options)
    report = made.judged()
    assert any(REPOMD in line and "its signature expired" in line for line in report.stale), report.stale
    assert report.exit_code != ACCEPTED


def test_what_was_changed_in_the_packages_of_one_release(whole: Made, tmp_path: Path) -> None:
    dist = shutil.copytree(whole.second.dist, tmp_path / whole.second.name)
    place = dist / "rpm" / X86
    next(place.glob("rfo-server-*.rpm")).unlink()
    shutil.copy(server(whole, V1), place)
    index(place, whole.key, LATE)
    report = verify_repository(dist / "rpm", whole.root, Options())
    refused(report, f"{X86}/rfo-server-{V2[1:]}", "is missing")
    refused(report, f"{X86}/rfo-server-{V1[1:]}", "was added: nobody signed it")
    refused(report, REPOMD, "was changed after it was signed")


# --- the program


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "rfo-verify"
    path.write_bytes(render_verifier())
    return path


def test_as_a_program(made: Made, program: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    command = [sys.executable, "-I", program, "--repo", made.repository, "--root", made.second.root, "--state", state]

    def verified(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*map(str, command), *more], capture_output=True, text=True, check=False)

    done = verified()
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert f"repository {X86}: revision {LATE + 1}, 4 packages" in lines
    assert lines[-1] == f"accepted: a repository with {V1}@{BASE}, {V2}@{BASE} (policy development)"
    assert read_state(state).metadata[f"rfo/{REPOMD}"] == LATE + 1
    assert read_state(state).highest_version == V2
    index(made.repository / X86, made.key, LATE)
    before = (state / "state.json").read_bytes()
    done = verified()
    assert done.returncode == REFUSED
    assert done.stderr.splitlines() == [
        f"refused: {REPOMD}: is older than what this host has seen of the repository rfo",
        f"  expected revision {LATE + 1} or later",
        f"  found    revision {LATE}",
        "NOT ACCEPTED: kept: 1 reasons",
    ]
    assert (state / "state.json").read_bytes() == before
    found = json.loads(verified("--json", "--allow-downgrade").stdout)
    assert found["accepted"]
    assert {"path": X86, "revision": LATE, "packages": 4} in found["repositories"]
    assert verified("--release", "x").returncode == 2
    assert verified("--repo-name", "a/b").returncode == 2


def test_in_a_checkout(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made.second.repository, tmp_path / "trust")
    monkeypatch.setenv("RFO_TRUST", str(tmp_path / "trust"))
    report = accept_repository(made.repository, made.second.root, Options(), "rfo")
    assert report.exit_code == ACCEPTED
    index(made.repository / X86, made.key, LATE)
    refused(accept_repository(made.repository, None, Options(), "rfo"), REPOMD, "is older than what this host has seen")
    with pytest.raises(UsageError, match="is no word"):
        accept_repository(made.repository, None, Options(), "a/b")
    candidate = tmp_path / made.second.name
    shutil.copytree(made.second.dist, candidate, ignore=shutil.ignore_patterns("release"))
    with pytest.raises(TrustError, match="is a candidate and no release"):
        accept_repository(candidate / "rpm", None, Options(), "rfo")
    (tmp_path / "trust" / "seen" / "state.json").write_bytes(b"{}")
    with pytest.raises(HostError, match=r"state\.json"):
        accept_repository(made.repository, None, Options(), "rfo")


# --- formats


def test_signatures_and_packages_that_were_cut_off_or_altered_are_refused(whole: Made, tmp_path: Path) -> None:
    keys = read_pgp_keys((whole.repository / KEYS).read_bytes(), KEYS)
    package = read_package(server(whole), "package")
    assert verify_package(package, keys, "package")[0].fingerprint == whole.key.fingerprint
    for size in range(len(package.signature)):
        with pytest.raises(Refused):
            verify_pgp(package.header, package.signature[:size], keys, "package")
    data = server(whole).read_bytes()
    cut = tmp_path / "cut.rpm"
    end = data.index(package.header) + len(package.header)
    for size in [*range(0, 300, 7), *range(300, end, 101), end - 1]:
        cut.write_bytes(data[:size])
        with pytest.raises(Refused):
            read_package(cut, "package")


def test_certificates_that_cannot_be_relied_on(
    whole: Made, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    homes = tmp_path_factory.mktemp("g")  # agents' sockets need short paths
    good = whole.key.public()
    assert read_pgp_keys(good, KEYS)[0].expires is None
    assert read_pgp_keys(whole.old.public(), KEYS)[0].expires == EARLY + 365 * 86400
    certifies = make_key(homes / "c", "rsa2048", subkey=True)
    edwards = make_key(homes / "e", "ed25519")
    revoked = shutil.copytree(whole.key.home, homes / "r", ignore=shutil.ignore_patterns("S.*"))
    text = next(revoked.glob("openpgp-revocs.d/*.rev")).read_text().replace(":-----BEGIN", "-----BEGIN")
    (tmp_path / "rev").write_text(text)
    run("gpg", "--homedir", revoked, "--batch", "--import", tmp_path / "rev")
    for data, reason in (
        (certifies.public(), "does not say itself that it may sign"),
        (edwards.public(), "holds a key of another kind"),
        (Key(revoked, "").public(), "was revoked"),
        (good + good, "holds a certificate twice"),
        (good[:-100], "has no OpenPGP armor as it should be"),
        (good + b"x", "has no OpenPGP armor as it should be"),
        (b"", "has no OpenPGP armor as it should be"),
        ((whole.repository / f"{REPOMD}.asc").read_bytes(), "has no OpenPGP armor as it should be"),
        (b"a" * (1 << 20), "has no OpenPGP armor as it should be"),
    ):
        with pytest.raises(Refused, match=reason):
            read_pgp_keys(data, KEYS)


def test_a_signature_of_text_or_by_a_weak_hash_does_not_count(whole: Made, tmp_path: Path) -> None:
    keys = read_pgp_keys(whole.key.public(), KEYS)
    file = tmp_path / "message"
    file.write_bytes(b"message\n")
    for options, reason in (
        (("--digest-algo", "SHA1"), "has a signature that does not count"),
        (("--textmode",), "was changed after it was signed"),
        (("--default-sig-expire", "1d", "--faked-system-time", f"{LATE}!"), ""),
    ):
        whole.key.sign(file, *options)
        data = Path(f"{file}.asc").read_bytes()
        if reason:
            with pytest.raises(Refused, match=reason):
                verify_armored(file.read_bytes(), data, keys, "message")
        else:
            assert verify_armored(file.read_bytes(), data, keys, "message")[1].ends == LATE + 86400


def test_what_the_engine_signs_counts_as_long_as_its_key_is_valid() -> None:
    private = rsa.generate_private_key(65537, 2048)
    numbers = private.public_key().public_numbers()
    public = Public(numbers.n, numbers.e, LATE)

    def sign(message: bytes) -> bytes:
        return private.sign(message, padding.PKCS1v15(), hashes.SHA256())

    keys = read_pgp_keys(armor(certificate(public, sign, "RFO packages", days=30), CERTIFICATE), KEYS)
    assert [(k.fingerprint, k.created, k.expires) for k in keys] == [(public.fingerprint, LATE, LATE + 30 * DAY)]
    for time, good in ((LATE - 1, False), (LATE, True), (LATE + 30 * DAY - 1, True), (LATE + 30 * DAY, False)):
        packet = signature(public, sign, b"message", time)
        if good:
            assert verify_armored(b"message", armor(packet, SIGNATURE), keys, "message")[1].made == time
            with pytest.raises(Refused, match="was changed after it was signed"):
                verify_pgp(b"message!", packet, keys, "message")
        else:
            with pytest.raises(Refused, match="at a time at which the key"):
                verify_pgp(b"message", packet, keys, "message")


def test_the_reader_takes_metadata_as_they_stand(whole: Made) -> None:
    repomd = read_repomd((whole.repository / REPOMD).read_bytes(), REPOMD)
    primary: DataFile = repomd.files["primary"]
    packed = (whole.repository / X86 / primary.path).read_bytes()
    assert {p.nevra.arch for p in read_primary(packed, primary, "primary")} == {"x86_64", "noarch"}
    with pytest.raises(Refused, match="cannot be unpacked"):
        read_primary(b"x" + packed, primary, "primary")
    with pytest.raises(Refused, match="another size"):
        read_primary(packed + packed, primary, "primary")
