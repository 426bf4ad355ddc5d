"""Small signed releases with packages, of the specs in rpm/specs, for tests of a repository that is kept."""

import argparse
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import dnf
from engine import BASE, HOST, REPO, shared_store
from faults import fill
from rpm_mirror import run
from trusted import STATEMENT, Trusted, promoted

from pipeline.attest.packages import Packager, load_packager, read_certificates
from pipeline.attest.succession import Wanted as Key
from pipeline.attest.succession import new_packages_key
from pipeline.context import Context, Options
from pipeline.errors import PipelineError
from pipeline.model import PLATFORMS
from pipeline.report.progress import Progress
from pipeline.repository.add import add
from pipeline.repository.incoming import Wanted
from pipeline.repository.remove import Unwanted, remove
from pipeline.rpm.package import add_signature, main_header
from pipeline.rpm.signatures import KEYS

DIST = ".deb13"
EPOCH = 1668729600
"""The date of these releases."""
RPM_ARCH = PLATFORMS[HOST].rpm_arch
VERSIONS = ("v1.25.4+rfor1", "v1.25.4+rfor2", "v1.25.4+rfor10")


@dataclass
class Releases:
    """Promoted releases of one trust root, and its keys."""

    folder: Path
    made: dict[str, Trusted]

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def trust(self) -> Path:
        return self.folder / "repository"

    def dist(self, version: str) -> Path:
        return self.made[version].dist


def make_releases(folder: Path, versions: tuple[str, ...] = VERSIONS) -> Releases:
    """One after the other, each with a snapshot of the trust root that names it and those before."""
    keys = folder / "keys"
    new_packages_key(keys, Key(user_id="RFO packages (test)"))
    found = Releases(folder, {})
    known: dict[str, int] = {}
    for version in versions:
        packages = make_packages(folder / "packages" / version, version, keys)
        made = promoted(folder, version=version, packages=packages, versions=known)
        found.made[version] = made
        name_all(found)
        known = made.versions
    return found


def name_all(releases: Releases) -> None:
    """Let the trust root name every release, and the last one carry its snapshot."""
    *_, last = releases.made.values()
    named = {}
    for made in releases.made.values():
        path = f"releases/{made.name}/release.sigstore.json"
        named[path] = made.put(path, (made.dist / STATEMENT).read_bytes())
        named[path].unrecognized_fields["custom"] = {"version": made.version}
    policy = next((last.dist / "trust" / "targets").glob("*.policy.json")).read_bytes()
    targets = {
        "policy.json": last.put("policy.json", policy),
        "layout.json": last.put("layout.json", last.layout_target()),
    }
    last.write_metadata(targets, named)


def make_packages(folder: Path, version: str, keys: Path, change: Mapping[str, str] | None = None) -> Path:
    """What a release has below rpm/: packages for this machine, one of no architecture, and a source package.

    `change` replaces texts in the spec of the node.
    """
    number, packager, certificates = version.removeprefix("v"), load_packager(keys), read_certificates(keys)
    folder.mkdir(parents=True)
    work = folder.parent / f"{version}.work"
    work.mkdir()
    (folder / KEYS).write_bytes(certificates)
    text = dnf.spec("rfo", number)
    for old, new in (change or {}).items():
        assert old in text
        text = text.replace(old, new)
    sources = {f"rfo.linux-{a}.tar.gz": b"" for a in PLATFORMS} | {f"rfo.linux-{HOST}.tar.gz": dnf.tarball(number)}
    node = dnf.build(work, text, RPM_ARCH, sources, dist=DIST)
    release = dnf.build(work, dnf.spec("rfo-release", number), "noarch", {KEYS: certificates}, dist=DIST, rfo_base=BASE)
    for package in [*node, *release]:
        sign(package, folder / BASE / RPM_ARCH, packager)
    sign(source_package(work, number, certificates), folder / BASE / "source", packager)
    shutil.rmtree(work)
    return folder


def source_package(work: Path, number: str, certificates: bytes) -> Path:
    """That of rfo-release."""
    top = work / "source"
    (top / "SOURCES").mkdir(parents=True)
    (top / "SOURCES" / KEYS).write_bytes(certificates)
    (top / "made.spec").write_text(dnf.spec("rfo-release", number))
    macros = {"_topdir": str(top), "_dbpath": str(top / "db"), "dist": DIST, "_buildhost": "rfo"}
    options = [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]
    environment = {"PATH": os.environ["PATH"], "HOME": str(top), "LC_ALL": "C", "SOURCE_DATE_EPOCH": str(EPOCH)}
    run("rpmbuild", "-bs", "--nodeps", *options, top / "made.spec", env=environment)
    return next(top.rglob("*.src.rpm"))


def sign(package: Path, target: Path, packager: Packager) -> Path:
    """A signed copy in a folder."""
    target.mkdir(parents=True, exist_ok=True)
    time = max(EPOCH, packager.certificate.public.created)
    add_signature(package, packager.sign(main_header(package), time), target / package.name)
    return target / package.name


def context(**options: Any) -> Context:
    """A run of `inv repo` on the tests' store, silent."""
    made = Context(Options("", **options), Progress(stream=StringIO()), checkout=REPO)
    made.store = shared_store()
    return made


# --- runs that something happens to


def events(root: Path, act: Callable[[int, str], None]) -> None:
    """Call `act` before each renaming and removing below a folder, with its number and what it is about."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in ("os.rename", "os.remove", "os.rmdir"):
            return
        path = os.fspath(arguments[1 if event == "os.rename" else 0])
        if not str(path).startswith(f"{root}/"):
            return
        count += 1
        act(count, f"{event.removeprefix('os.')} {Path(path).relative_to(root)}")

    sys.addaudithook(hook)


def main() -> None:
    """Add or remove a release, and be killed, or meet a full disk, before the first event that a pattern matches."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path)
    parser.add_argument("--remove", default="")
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--keep", type=int)
    parser.add_argument("--kill", default="")
    parser.add_argument("--fill", action="append", default=[])
    parser.add_argument("--copy", type=Path)
    asked = parser.parse_args()
    wanted = Wanted(asked.source or Path(), asked.repository, asked.keep, candidate=True)
    if asked.kill:
        kill = re.compile(asked.kill)
        events(asked.repository, lambda _, what: os.kill(os.getpid(), signal.SIGKILL) if kill.match(what) else None)
    filler = asked.repository / "filler"
    pending = [re.compile(pattern) for pattern in asked.fill]

    def exhaust(_: int, what: str) -> None:
        if pending and not filler.exists() and pending[0].match(what):
            fill(asked.repository, free=0)

    if pending:
        events(asked.repository, exhaust)
    while pending:
        print(json.dumps(failure(wanted)))
        pending.pop(0)
        filler.unlink(missing_ok=True)
    if asked.remove:
        remove(Unwanted([asked.remove], asked.repository), context())
    else:
        add(wanted, context())
    if asked.copy:
        shutil.copytree(asked.repository, asked.copy)


def failure(wanted: Wanted) -> list[str]:
    """What a run ends with."""
    try:
        add(wanted, context())
    except PipelineError as error:
        return [type(error).__name__, error.reason, error.hint]
    return ["none", "", ""]


if __name__ == "__main__":
    main()
