"""dnf on hosts that are folders, and signed repositories with small packages of RFO for it.

Packages are made of the specs in rpm/specs by plain rpmbuild, as a packager would, around a small program. What of a
distribution they ask for are empty packages; the few programs that scriptlets call are this machine's.
"""

import atexit
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from engine import REPO
from rpm_mirror import run

from pipeline.attest.openpgp import SIGNATURE, Certificate, Public, armor, armor_certificates, certificate, signature
from pipeline.attest.openpgp import read_certificates as parse
from pipeline.model import PLATFORMS
from pipeline.pack.tarball import installed_files
from pipeline.rpm.package import add_signature, main_header

EPOCH = 1670803200
"""When packages are made and signed."""
BASE = "openeuler-22.03-lts-sp4"
DIST = ".oe2203sp4"
OLD, NEW = "1.25.4+rfor1", "1.25.4+rfor2"
NODE = ("rfo-common", "rfo-server", "rfo-agent")
NEEDED = ("coreutils", "findutils", "gawk", "grep", "kmod", "sed", "systemd", "util-linux")
"""Packages of a distribution that RFO's require."""
KEY = "RPM-GPG-KEY-rfo"
PROGRAM = '#!/bin/sh\ncase ${1:-} in server | agent) exec sleep infinity ;; *) echo "rfo version %s" ;; esac\n'
STAND_IN = """
Name: filesystem
Version: 1
Release: 1
Summary: What is there by other means
License: Apache-2.0
BuildArch: noarch
Provides: /bin/sh bash
%description
What is there by other means.
%files
"""


# --- packages


def tarball(version: str, program: bytes = b"") -> bytes:
    """A node tarball: what install/ has, and a program that says its version, or sleeps if it is to serve."""
    files = installed_files(REPO / "install") | {
        "bin/rfo": (0o755, program or (PROGRAM % version).encode()),
        "share/rfo/THIRD-PARTY-NOTICES.txt": (0o644, b"Nobody else's.\n"),
    }
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as tar:
        for name, (mode, data) in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size, entry.mtime = mode, len(data), EPOCH
            tar.addfile(entry, BytesIO(data))
    return made.getvalue()


def build(work: Path, spec: str, target: str, sources: Mapping[str, bytes], **defines: str) -> list[Path]:
    """All packages that rpmbuild makes of a spec for an architecture as rpm calls it, unsigned."""
    top = work / f"rpmbuild-{len(list(work.glob('rpmbuild-*')))}"
    (top / "SOURCES").mkdir(parents=True)
    (top / "made.spec").write_text(spec)
    for name, data in sources.items():
        (top / "SOURCES" / name).write_bytes(data)
    macros = {
        "_topdir": top, "_dbpath": top / "db", "_buildhost": "rfo", "dist": DIST, "_build_id_links": "none",
        "_binary_payload": "w1.gzdio", "use_source_date_epoch_as_buildtime": "1", **defines,
    }  # fmt: skip
    options = [a for k, v in macros.items() for a in ("--define", f"{k} {v}")]
    environment = {"PATH": os.environ["PATH"], "HOME": str(top), "LC_ALL": "C", "SOURCE_DATE_EPOCH": str(EPOCH)}
    run("rpmbuild", "-bb", "--nodeps", "--target", f"{target}-linux", *options, top / "made.spec", env=environment)
    return sorted((top / "RPMS").rglob("*.rpm"))


def spec(name: str, version: str = OLD) -> str:
    """One of the specs, for a version. Its configuration files differ from those of other versions."""
    text = (REPO / "rpm/specs" / f"{name}.spec").read_text().replace(OLD, version)
    return re.sub(r"(An upgrade leaves this file as it is\.)$", rf"\1 # {version}", text, flags=re.M)


def node_packages(work: Path, version: str = OLD, arch: str = "amd64", program: bytes = b"") -> list[Path]:
    """rfo-common, rfo-server and rfo-agent."""
    numbered = {f"rfo.linux-{a}.tar.gz": b"" for a in PLATFORMS}
    sources = {**numbered, f"rfo.linux-{arch}.tar.gz": tarball(version, program)}
    return build(work, spec("rfo", version), PLATFORMS[arch].rpm_arch, sources)


def images_package(work: Path, version: str = OLD, arch: str = "amd64") -> list[Path]:
    """rfo-images, around a bundle that nothing can load."""
    numbered = {f"rfo-images.linux-{a}.tar.zst": f"images {version} {a}\n".encode() for a in PLATFORMS}
    return build(work, spec("rfo-images", version), PLATFORMS[arch].rpm_arch, numbered)


def release_package(work: Path, keys: Path, version: str = OLD, mirror: str = "") -> list[Path]:
    """rfo-release, which knows these keys, and where `mirror` is."""
    defines = {"rfo_base": BASE, **({"rfo_mirror": mirror} if mirror else {})}
    return build(work, spec("rfo-release", version), "noarch", {KEY: keys.read_bytes()}, **defines)


def stand_in(work: Path) -> list[Path]:
    """The empty packages of a distribution."""
    others = "".join(
        f"%package -n {n}\nSummary: Likewise\n%description -n {n}\nLikewise.\n%files -n {n}\n" for n in NEEDED
    )
    return build(work, STAND_IN + others, "noarch", {})


# --- signed repositories


@dataclass(frozen=True)
class Signer:
    """A key for packages."""

    certificate: Certificate
    make: Callable[[bytes], bytes]

    def packet(self, message: bytes) -> bytes:
        return signature(self.certificate.public, self.make, message, max(EPOCH, self.certificate.public.created))

    def sign(self, package: Path) -> None:
        """Sign a package in place."""
        target = package.with_suffix(".signed")
        add_signature(package, self.packet(main_header(package)), target)
        target.replace(package)

    def sign_index(self, repository: Path) -> None:
        """Write repomd.xml.asc."""
        index = repository / "repodata" / "repomd.xml"
        index.with_suffix(".xml.asc").write_bytes(armor(self.packet(index.read_bytes()), SIGNATURE))


def new_signer(name: str, *, created: int = EPOCH, days: int = 0) -> Signer:
    """A new key; with `days` it expires so long after it was made."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    private = rsa.generate_private_key(65537, 2048)
    numbers = private.public_key().public_numbers()
    public = Public(numbers.n, numbers.e, created)

    def make(message: bytes) -> bytes:
        return private.sign(message, padding.PKCS1v15(), hashes.SHA256())

    return Signer(parse(certificate(public, make, name, days))[0], make)


def key_file(path: Path, *signers: Signer) -> Path:
    """RPM-GPG-KEY-rfo: the one that signs first, then those that did before."""
    path.write_bytes(armor_certificates([s.certificate for s in signers]))
    return path


def publish(
    folder: Path, packages: Sequence[Path], signer: Signer, *, revision: int = EPOCH, sign: bool = True
) -> Path:
    """A repository of one architecture with these packages, signed if they are not yet and `sign` says so."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        copy = Path(shutil.copy(package, folder))
        if sign:
            signer.sign(copy)
    index(folder, signer, revision)
    return folder


def index(folder: Path, signer: Signer, revision: int = EPOCH) -> None:
    """Make the metadata of a repository, and sign them."""
    shutil.rmtree(folder / "repodata", ignore_errors=True)
    for package in folder.glob("*.rpm"):
        os.utime(package, (EPOCH, EPOCH))
        for name in os.listxattr(
            package
        ):  # where librepo notes checksums, and believes them while the time is the same
            os.removexattr(package, name)
    run(
        "createrepo_c", "--quiet", "--no-database", "--checksum=sha256", "--general-compress-type=gz",
        f"--revision={revision}", "--set-timestamp-to-revision", folder,
    )  # fmt: skip
    signer.sign_index(folder)


# --- hosts


@dataclass
class Host:
    """A host that is a folder, on which this machine's dnf installs."""

    folder: Path
    repositories: dict[str, tuple[str, Path]] = field(default_factory=dict)
    """By name: URL, and the file with the keys that it is trusted by."""

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def __post_init__(self) -> None:
        if not self.root.exists():
            for name in ("bin", "sbin", "lib", "lib64"):
                (self.root / "usr" / name).mkdir(parents=True)
                (self.root / name).symlink_to(f"usr/{name}")
            for name in ("dev", "etc", "proc", "run", "tmp", "var/lib"):
                (self.root / name).mkdir(parents=True)
            (self.root / "dev/null").touch()
            for program in ("sh", "systemctl", "sleep"):
                give_program(self.root, program)
            preset = self.root / "usr/lib/systemd/system-preset/99-default-disable.preset"
            preset.parent.mkdir(parents=True)
            preset.write_text("disable *\n")  # as openEuler has it
        home = self.folder / "home"
        home.mkdir(mode=0o700, exist_ok=True)
        (home / ".rpmmacros").write_text("%_dbpath /var/lib/rpm\n")
        (self.folder / "dnf.conf").write_text(
            "[main]\ngpgcheck=1\nlocalpkg_gpgcheck=1\nplugins=0\nmetadata_expire=0\nretries=1\ninstall_weak_deps=0\n"
            f"reposdir={self.folder}/repos\nvarsdir={self.folder}/vars\n"
            "cachedir=/var/cache/dnf\npersistdir=/var/lib/dnf\nlogdir=/var/log\n"
        )

    def trust(self, name: str, place: Path | str, keys: Path) -> None:
        """Say where a repository is, and by which keys it is trusted."""
        self.repositories[name] = (place if isinstance(place, str) else place.as_uri(), keys)
        (self.folder / "repos").mkdir(exist_ok=True)
        (self.folder / "repos" / f"{name}.repo").write_text(
            f"[{name}]\nname={name}\nbaseurl={self.repositories[name][0]}\nenabled=1\ngpgcheck=1\nrepo_gpgcheck=1\n"
            f"gpgkey={keys.as_uri()}\n"
        )

    def copy(self, folder: Path) -> "Host":
        """The same host elsewhere."""
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", self.root, folder / "root"], check=True)
        made = Host(folder)
        for name, (url, keys) in self.repositories.items():
            made.trust(name, url, keys)
        return made

    def dnf(self, *arguments: object, arch: str = "", status: int = 0) -> str:
        """Run dnf, which has to end with `status`; returns all that it said."""
        forced = [f"--forcearch={arch}"] if arch else []
        command = [
            "dnf", "--assumeyes", "--config", self.folder / "dnf.conf", "--installroot", self.root,
            "--releasever=22.03", *forced, *arguments,
        ]  # fmt: skip
        done = self._run(*command)
        self.stop_agents()
        assert done.returncode == status, f"{arguments}: {done.stdout}"
        return done.stdout

    def stop_agents(self) -> None:
        """End what dnf's gpg has started, and would stay."""
        for home in self.root.glob("var/cache/dnf/*/pubring"):
            run("gpgconf", "--homedir", home, "--kill", "gpg-agent")
            for _ in range(200):  # until it has taken its sockets away, which a copy would trip over
                if not list(home.glob("S.gpg-agent*")):
                    break
                time.sleep(0.05)

    def rpm(self, *arguments: object) -> list[str]:
        """The lines that rpm says of this host."""
        done = self._run("rpm", "--root", self.root, *arguments)
        return done.stdout.splitlines()

    def installed(self) -> dict[str, str]:
        """RFO's packages with their versions."""
        lines = self.rpm("-qa", "--queryformat", "%{NAME} %{VERSION}\n", "rfo*")
        return dict(line.split(" ") for line in lines)

    def version(self) -> str:
        """What the program says that it is."""
        done = subprocess.run([self.root / "usr/bin/rfo"], capture_output=True, text=True, check=True)
        return done.stdout.split()[2]

    def files(self) -> dict[str, str]:
        """What is RFO's below /etc, /usr and /var, in or out of packages."""
        found = {}
        for place in ("etc", "usr", "var"):
            for path in (self.root / place).rglob("*"):
                name = path.relative_to(self.root).as_posix()
                if re.search(r"\b(rfo|rancher)", name) and path.is_file() and not name.startswith("var/cache/"):
                    found[name] = path.read_text(errors="replace")
        return found

    def _run(self, *command: object) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder / "home"), "LC_ALL": "C.UTF-8"}
        return subprocess.run(
            [str(part) for part in command], env=environment, cwd="/", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=900,
        )  # fmt: skip


@dataclass(frozen=True)
class Made:
    """What tests share, and copy before they change it."""

    folder: Path
    old: Path
    """Repository with OLD for x86_64."""
    new: Path
    signer: Signer
    keys: Path
    host: Host
    """It knows the repository of a distribution, and has what RFO requires."""

    def fresh(self, folder: Path, repository: Path | str, keys: Path | None = None) -> Host:
        """A host without RFO that knows a repository of it."""
        host = self.host.copy(folder)
        host.trust("rfo", repository, keys or self.keys)
        return host


@cache
def made() -> Made:
    """Two versions of RFO's packages, and a host; the test is skipped where dnf cannot install."""
    if os.geteuid():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("dnf installs as root only")
    folder = Path(tempfile.mkdtemp(prefix="rfo-test-dnf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    signer, other = new_signer("RFO packages (test)"), new_signer("A distribution")
    keys = key_file(folder / KEY, signer)
    old = publish(folder / "old", node_packages(folder), signer)
    new = publish(folder / "new", node_packages(folder, NEW), signer, revision=EPOCH + 1)
    host = Host(folder / "host")
    base = publish(folder / "base", stand_in(folder), other)
    host.trust("base", base, key_file(folder / "RPM-GPG-KEY-base", other))
    host.dnf("install", "filesystem", *NEEDED)
    return Made(folder, old, new, signer, keys, host)


def release_folder(folder: Path, version: str, *, signed: bool = True) -> Path:
    """A release's folder rpm/, for x86_64."""
    work = folder / "work"
    work.mkdir(parents=True)
    signer = made().signer
    keys = key_file(work / KEY, signer)
    packages = [*node_packages(work, version), *images_package(work, version), *release_package(work, keys, version)]
    publish(folder / "rpm" / BASE / "x86_64", packages, signer, sign=signed)
    shutil.copy(keys, folder / "rpm")
    return folder / "rpm"


def give_program(root: Path, name: str) -> None:
    """Give a host a program of this machine, with the libraries that it loads."""
    found = shutil.which(name)
    assert found
    listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
    program = root / "usr/bin" / name
    shutil.copy(found, program)
    for library in re.findall(r"(/\S+) \(0x", listed):
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(library, target)
