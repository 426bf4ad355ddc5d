"""A small openEuler for tests of images: signed, for three architectures, with the layers of the real definition.

What a distribution says of itself is made of small files. Programs and libraries are those of the stand-in's locked
packages, in packages that are called as openEuler calls them; their paths stay Debian's, where its loader searches.
It is built once and kept beside the tests' store, by a digest over everything that goes in.
"""

import atexit
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from engine import ARCHES, BASE, HOST, REPO, inputs, make_context, small, store_root
from rpm_mirror import EPOCH, make_key, publish, run

from images import EMPTY, PLAIN, TOOLS, image_checkout
from pipeline.base import family
from pipeline.context import Context
from pipeline.lock import BaseLock, Package
from pipeline.model import PLATFORMS, Digest

NAME = "rpm-small"
REAL = "openeuler-24.03-lts-sp1"
"""The definition whose layers are taken as they are."""
RELEASE = "1.oe2403sp1"
CERTIFICATES = 14
OS_RELEASE = """NAME="openEuler"
VERSION="24.03 (LTS-SP1)"
ID="openEuler"
VERSION_ID="24.03"
PRETTY_NAME="openEuler 24.03 (LTS-SP1)"
ANSI_COLOR="0;31"
"""

DATA: dict[str, dict[str, str]] = {
    "openEuler-release": {
        "usr/lib/os-release": OS_RELEASE,
        "etc/os-release": "-> ../usr/lib/os-release",
        "etc/openEuler-release": "openEuler release 24.03 (LTS-SP1)\n",
        "etc/system-release": "-> openEuler-release",
        "etc/issue": "Authorized users only.\n",
    },
    "filesystem": {
        **{name: f"-> usr/{name}" for name in ("bin", "lib", "lib64", "sbin")},
        **dict.fromkeys(("home/", "mnt/", "opt/", "srv/", "usr/local/bin/", "var/cache/", "var/log/"), ""),
    },
    "setup": {
        "etc/group": "root:x:0:\nbin:x:1:\n",
        "etc/hosts": "127.0.0.1 localhost\n",
        "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
        "etc/profile": "umask 022\n",
        "etc/protocols": "tcp 6 TCP\n",
        "etc/services": "https 443/tcp\n",
        "etc/shadow": "root:*:::::::\n",
    },
    "ca-certificates": {
        "etc/pki/tls/certs/ca-bundle.crt": "-> /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "usr/bin/update-ca-trust": "#!/bin/sh\nexec trust extract\n",
        "usr/share/licenses/ca-certificates/LICENSE": "MPL-2.0\n",
    },
    "p11-kit": {"usr/bin/trust": "#!/bin/sh\n"},
    "systemd": {"usr/lib/systemd/systemd": "#!/bin/sh\n"},
}
"""Package to its files: text, a link, or a folder."""
FROM_DEBIAN: dict[str, tuple[str, ...]] = {
    "tzdata": ("tzdata:usr/share/zoneinfo/Etc/UTC", "tzdata:usr/share/zoneinfo/*Europe/Berlin"),
    "bash": ("bash",),
    "conntrack-tools": ("conntrack",),
    "glibc": ("libc6",),
    "gmp": ("libgmp10",),
    "gzip": ("gzip",),
    "ipset": ("ipset",),
    "ipset-libs": ("libipset13*",),
    "iptables-libs": ("libxtables12", "libip4tc2", "libip6tc2", "iptables:usr/lib/*/xtables/*"),
    "iptables-nft": ("iptables:usr/sbin/*nft*", "iptables:usr/sbin/xtables-monitor"),
    "iptables": ("iptables",),
    "jansson": ("libjansson4",),
    "kmod": ("kmod",),
    "kmod-libs": ("libkmod2",),
    "libedit": ("libedit2", "libbsd0", "libmd0"),
    "libgcc": ("libgcc-s1",),
    "libmnl": ("libmnl0",),
    "libnetfilter_conntrack": ("libnetfilter-conntrack3",),
    "libnfnetlink": ("libnfnetlink0",),
    "libnftnl": ("libnftnl11",),
    "libstdc++": ("libstdc++6",),
    "lz4": ("liblz4-1",),
    "ncurses-libs": ("libtinfo6",),
    "nftables": ("nftables", "libnftables1"),
    "openssl-libs": ("libssl3*",),
    "qemu-user": ("qemu-user:usr/bin/qemu-aarch64", "qemu-user:usr/bin/qemu-riscv64", "qemu-user:usr/bin/qemu-x86_64"),
    "xxhash": ("libxxhash0",),
    "xz-libs": ("liblzma5",),
    "zlib": ("zlib1g",),
    "pigz": ("pigz",),
    "zstd": ("libzstd1", "zstd"),
}
"""Package to the stand-in's packages (patterns) that it is made of, or to some of their files (first come)."""
REQUIRES = {
    "bash": "glibc ncurses-libs",
    "ca-certificates": "bash p11-kit",
    "gzip": "glibc bash",
    "iptables": "iptables-libs systemd bash",
    "iptables-nft": "iptables",
    "kmod": "kmod-libs systemd",
    "pigz": "glibc zlib",
    "zstd": "glibc libgcc libstdc++ lz4 xxhash xz-libs zlib",
}
HOST_ONLY = ("qemu-user",)
"""Other packages are there on every architecture, empty where the stand-in has no files for them."""
DROP = (
    "etc", "var", "usr/lib/*/gconv", "usr/lib/*/audit", "usr/lib/*/engines-3", "usr/share/doc",
    "!usr/share/doc/*/copyright", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian",
)  # fmt: skip


@cache
def repository() -> Path:
    """The repository's folder, as `origin` of the base; built if it is not there yet."""
    locked = [p for p in _locked().packages if p.root in ("minimal", "network", "packer", "emulator", "builder")]
    sources = [Path(__file__), Path(__file__).with_name("rpm_mirror.py")]
    parts = [str(Digest.of_file(s)) for s in sources] + [f"{p.arch} {p.name} {p.digest}" for p in locked]
    digest = Digest.of_bytes("\n".join(parts).encode())
    kept = store_root() / "rpm-base"
    kept.mkdir(parents=True, exist_ok=True)
    folder = kept / digest.hex[:32]
    with (kept / "lock").open("w") as lock:  # test runs at the same time build it once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(prefix="making-", dir=kept) as work:
                _make(Path(work)).rename(folder)
    return folder


def definition(folder: Path | None = None) -> dict[str, Any]:
    """The base on the repository in `folder`: host roots of its own, everything else as the real one has it."""
    real = yaml.safe_load((REPO / f"images/openeuler/bases/{REAL}.yaml").read_text())
    drop = ["usr", "!usr/bin/qemu-x86_64", "!usr/bin/qemu-aarch64", "!usr/bin/qemu-riscv64"]
    return {
        "name": NAME,
        "family": "rpm",
        "floating": True,
        "origin": "https://rpm.invalid/",
        "keys": [(folder or repository()).joinpath("fingerprint").read_text()],
        "key_file": real["key_file"],
        "suites": {arch: ["OS"] for arch in ARCHES},
        "roots": {
            "builder": {"per": "host", "packages": ["filesystem", "bash"]},
            "packer": real["roots"]["packer"],
            "emulator": {"per": "host", "packages": ["qemu-user"], "drop": drop},
        },
        "layers": real["layers"],
        "compilers": {},
    }


def rpm_checkout(folder: Path, *recipes: dict[str, Any], base: dict[str, Any] | None = None) -> Path:
    """A checkout whose release has images (those of tests/images.py, or `recipes`) on the base, and no charts."""
    chosen = base or definition()
    images = [r | {"node": True} for r in recipes or (PLAIN, TOOLS, EMPTY)]
    image_checkout(folder, *images, bases=dict.fromkeys(ARCHES, chosen["name"]))
    path = folder / "images" / "openeuler" / "bases" / f"{chosen['name']}.yaml"
    path.write_text(json.dumps(chosen))
    return folder


def rpm_context(checkout: Path, origin: Path | None = None, **options: Any) -> Context:
    """A run's context with the repository as the base's mirror."""
    bases = [p.stem for p in (checkout / "images/openeuler/bases").glob("rpm-*.yaml")]
    return make_context(checkout, mirrors=dict.fromkeys(bases, str(origin or repository())), **options)


def p11_kit(certificates: Sequence[str]) -> str:
    """A bundle as distributions make it of Mozilla's list: what each certificate is trusted for, and whether at all.

    In turns: servers and mail, servers, mail, nothing any more, neither trusted nor distrusted.
    """
    server, mail, code = (bytes.fromhex(f"06082b060105050703{n}") for n in ("01", "04", "03"))
    kinds = [("trusted: true", (mail, server)), ("trusted: true", (server,)), ("trusted: true", (mail,)),
             ("x-distrusted: true", (code,)), ("trusted: false", ())]  # fmt: skip
    parts = ["# This is a bundle of X.509 certificates of public Certificate Authorities.\n"]
    for number, text in enumerate(certificates):
        trust, usages = kinds[number % len(kinds)]
        extensions = [("2.5.29.37", _extension("551d25", usages, critical=True))] if usages else []
        if trust == "x-distrusted: true":
            reject = _extension("2b060104019977060a01", (mail, server, code), critical=False)
            extensions.insert(0, ("1.3.6.1.4.1.3319.6.10.1", reject))
        key = subprocess.run(
            ["openssl", "x509", "-noout", "-pubkey"], input=text, capture_output=True, text=True, check=True
        ).stdout
        for identifier, value in extensions:
            parts.append(
                f'[p11-kit-object-v1]\nlabel: "CA {number}"\nclass: x-certificate-extension\n'
                f'object-id: {identifier}\nvalue: "{value}"\nmodifiable: false\n{key}\n'
            )
        parts.append(
            f'[p11-kit-object-v1]\nlabel: "CA {number}"\n{trust}\nnss-mozilla-ca-policy: true\nmodifiable: false\n'
            f"{text}#Certificate:\n#    Data:\n#        Version: 3 (0x2)\n\n"
        )
    return "".join(parts)


def certificates() -> list[str]:
    """Certificates of the stand-in's package, each as PEM."""
    package = next(p for p in _locked().packages if p.name == "ca-certificates" and p.arch == HOST)
    tree = unpacked(package, "certificates")
    files = sorted(tree.glob("usr/share/ca-certificates/mozilla/*.crt"))
    return [f.read_text() for f in files[:CERTIFICATES]]


@cache
def unpacked(package: Package, purpose: str) -> Path:
    """One package of the stand-in in a folder of its own, which `purpose` may take apart."""
    place = _scratch() / f"{purpose}-{package.arch}-{package.name}"
    place.mkdir()
    family("deb").unpack(inputs().roots.file(package), place, package.name, DROP)
    return place


@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rfo-test-rpm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _locked() -> BaseLock:
    return small().base_locks[BASE]


def _extension(identifier: str, usages: Sequence[bytes], *, critical: bool) -> str:
    """An X.509 extension of extended key usages (RFC 5280, 4.2) in DER, as p11-kit writes bytes."""

    def der(tag: int, data: bytes) -> bytes:
        return bytes([tag, len(data)]) + data

    flag = der(1, b"\xff") if critical else b""
    content = der(4, der(0x30, b"".join(usages)))
    return quote(der(0x30, der(6, bytes.fromhex(identifier)) + flag + content), safe=" ").replace("%2B", "%2b")


def _make(work: Path) -> Path:
    """Build, sign and publish; returns the repository's folder below `work`."""
    made = work / "repository"
    home = Path(tempfile.mkdtemp(prefix="gpg"))  # sockets of gpg's agent need a short path
    try:
        key = make_key(home / "oe", "rsa2048", subkey=True)
        for arch in ARCHES:
            packages = _build(work / arch, arch)
            key.sign_rpm(*packages)
            publish(made / "OS" / PLATFORMS[arch].rpm_arch, packages, key)
        (made / "fingerprint").write_text(key.fingerprint)
    finally:
        subprocess.run(["gpgconf", "--homedir", home / "oe", "--kill", "all"], check=False)
        shutil.rmtree(home, ignore_errors=True)
    return made


def _build(work: Path, arch: str) -> list[Path]:
    """All packages for one architecture, unsigned."""
    stage = work / "stage"
    spec = [
        f"Name: rpm-base\nVersion: 1.0\nRelease: {RELEASE}\nSummary: x\nLicense: GPLv2+ and MIT\n%description\nx\n",
        f"%install\ncp -a {stage}/. %{{buildroot}}\n",
    ]
    for name in [*DATA, *(n for n in FROM_DEBIAN if arch == HOST or n not in HOST_ONLY)]:
        files = list(_stage_data(name, stage) if name in DATA else _stage_debian(name, arch, stage))
        head = ["Summary: x", "AutoReqProv: no"]
        head += ["BuildArch: noarch"] if name in DATA or name == "tzdata" else []
        head += [f"Requires: {REQUIRES[name]}"] if name in REQUIRES else []
        lines = [f"%package -n {name}", *head, f"%description -n {name}", "x", f"%files -n {name}", *files]
        spec.append("\n".join([*lines, ""]))
    file = work / "rpm-base.spec"
    file.write_text("".join(spec))
    defines = {
        "_topdir": work / "top", "_binary_payload": "w1.gzdio", "_build_id_links": "none", "debug_package": "%{nil}",
        "__os_install_post": "%{nil}", "_dbpath": work / "db", "_buildhost": "reproducible",
    }  # fmt: skip
    options = [a for k, v in defines.items() for a in ("--define", f"{k} {v}")]
    environment = {"PATH": os.environ["PATH"], "HOME": str(work), "LC_ALL": "C", "SOURCE_DATE_EPOCH": EPOCH}
    run("rpmbuild", "-bb", "--target", f"{PLATFORMS[arch].rpm_arch}-linux", *options, file, env=environment)
    return sorted((work / "top" / "RPMS").rglob("*.rpm"))


def _stage_data(name: str, stage: Path) -> Iterator[str]:
    """Write the files of a package of DATA; yields lines of its list."""
    files = dict(DATA[name])
    if name == "ca-certificates":
        files["usr/share/pki/ca-trust-source/ca-bundle.trust.p11-kit"] = p11_kit(certificates())
    for path, content in files.items():
        place = stage / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            place.mkdir()
            yield f"%dir /{path.rstrip('/')}"
            continue
        if content.startswith("-> "):
            place.symlink_to(content.removeprefix("-> "))
        else:
            place.write_text(content)
            place.chmod(0o755 if "bin/" in path else 0o644)
        yield f"/{path}"


def _stage_debian(name: str, arch: str, stage: Path) -> Iterator[str]:
    """Move a package's files from the stand-in's; yields lines of its list, none if an architecture lacks them."""
    for source in FROM_DEBIAN[name]:
        pattern, _, wanted = source.partition(":")
        found = {p.name: p for p in _locked().packages if p.arch == arch and fnmatch(p.name, pattern)}
        for package in sorted(found.values()):
            tree = unpacked(package, "packages")
            for path in sorted(p for p in tree.rglob("*") if not p.is_dir() or p.is_symlink()):
                relative = path.relative_to(tree).as_posix()
                if wanted and not fnmatch(relative, wanted):
                    continue
                if relative.startswith("usr/share/doc/"):
                    relative = f"usr/share/licenses/{name}/{package.name}"
                (stage / relative).parent.mkdir(parents=True, exist_ok=True)
                path.rename(stage / relative)
                yield f'"/{relative}"'
    if name == "bash":
        (stage / "usr/bin/sh").symlink_to("bash")
        yield "/usr/bin/sh"
