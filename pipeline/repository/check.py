"""`inv repo check`: whether a repository holds what its metadata say, and its packages fit together. Reads only.

Who may say what is in it is another question, which `inv verify --repo` answers.
"""

import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.base.mirror import Mirror
from pipeline.base.repodata import check_xml, parse_repomd
from pipeline.base.rpmfile import Rpm
from pipeline.bases import Base
from pipeline.context import Context
from pipeline.errors import PipelineError, SourceError
from pipeline.model import PLATFORMS, Digest
from pipeline.repository.closure import Closure
from pipeline.repository.header import files, requirements
from pipeline.repository.index import Index, read_index, read_keys
from pipeline.repository.kept import REPODATA, SOURCE, Package, Release, Repository, find_repository
from pipeline.repository.merge import newest, newest_keys
from pipeline.rpm.metadata import INDEX
from pipeline.rpm.package import read_package
from pipeline.rpm.signatures import KEYS
from pipeline.strict import read_yaml
from pipeline.verifier.encoding import Refused
from pipeline.verifier.openpgp import PgpKey
from pipeline.verifier.package import read_package as read_signed
from pipeline.verifier.package import verify_package
from pipeline.verifier.rpmmd import Listed

COMMON = "rfo-common"
APART = (COMMON, "rfo-release")
"""Packages that require none of the others; each other one requires rfo-common of its own version."""
UNCHECKED = "not checked"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong."""

    subject: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class Folder:
    """One folder of packages."""

    folder: str
    packages: int
    revision: int
    requirements: str
    """Against what they were solved."""


@dataclass
class Checked:
    """What was found."""

    repository: Path
    folders: list[Folder] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return SourceError.exit_code if self.findings else 0

    def say(self, subject: str, reason: object, remedy: str = "") -> None:
        """Note something that is wrong."""
        self.findings.append(Finding(subject, str(reason), remedy))


@dataclass(frozen=True)
class _Looked:
    """What is known while folders are looked at."""

    repository: Repository
    releases: dict[str, Release]
    keys: Sequence[PgpKey]
    found: Checked

    def named(self, folder: str) -> dict[str, tuple[Package, str]]:
        """The packages of a folder as releases name them, with the release's name, by file name."""
        owned = [(p, name) for name, r in self.releases.items() for p in r.packages if p.folder == folder]
        return {p.file: (p, name) for p, name in owned}

    def again(self, release: str = "") -> str:
        """The command that adds a release again, the newest unless one is named."""
        return _again(self.repository, self.releases, release)


def check(root: Path, base: str, context: Context) -> Checked:
    """Check the repository in a folder; with `base` what packages require is looked for in that base too.

    Raises UsageError for a folder that is none, DefinitionError for an unknown base, NetworkError.
    """
    found = Checked(root)
    against = context.definitions.base(base) if base else None
    try:
        repository = find_repository(root)
        releases = repository.releases()
        looked = _Looked(repository, releases, _check_keys(repository, releases, found), found)
        unknown = repository.unknown({p.place for r in releases.values() for p in r.packages}, releases)
    except SourceError as error:
        found.say(str(root), error.reason, error.hint)
        return found
    for name in unknown:
        found.say(name, "belongs to nothing: no release of this repository names it", "remove it, if it is not yours")
    named = {p.folder for r in releases.values() for p in r.packages if (root / p.folder).is_dir()}
    folders = sorted({*named, *repository.folders()})
    own = {f for f in folders if f.partition("/")[0] == base}
    for folder in folders:
        context.progress.step(f"checking {folder}")
        index = _check_folder(looked, folder)
        if index:
            solved = UNCHECKED
            if index.problem is None:  # nothing of what nobody signed is given to a solver
                solved = _check_closure(root, folder, against if not own or folder in own else None, context, found)
            found.folders.append(Folder(folder, len(index.packages), index.repomd.revision, solved))
    return found


def _again(repository: Repository, releases: dict[str, Release], release: str = "") -> str:
    last = newest(releases.values()).name if releases else "VERSION"
    return f"./inv repo add --from dist/{release or last} --repo {repository.root}"


def _check_keys(repository: Repository, releases: dict[str, Release], found: Checked) -> list[PgpKey]:
    """The keys of the repository. Raises SourceError where nothing can be checked without them."""
    path, again = repository.root / KEYS, _again(repository, releases)
    if not releases or not path.is_file():
        missing = KEYS if releases else "the evidence of any release"
        raise SourceError(f"it has not {missing}: an `inv repo add` was not finished, or it was removed", again)
    data = path.read_bytes()
    if data != newest_keys(releases):
        found.say(KEYS, "is not the file of the newest release", again)
    return read_keys(data, KEYS)


def _check_folder(looked: _Looked, folder: str) -> Index | None:
    """Metadata and packages of one folder; returns the metadata if they can be read."""
    found, root = looked.found, looked.repository.root
    try:
        index = read_index(root / folder, looked.keys, folder)
    except Refused as refused:
        found.say(refused.subject, _because(refused), f"restore it from a copy, or: {looked.again()}")
        return None
    if index is None:
        found.say(folder, f"has no {REPODATA}/{INDEX}: an `inv repo add` was not finished", looked.again())
        return None
    _check_signer(looked, folder, index)
    named = looked.named(folder)
    for name in sorted(set(looked.repository.packages(folder)) - set(index.packages)):
        if name in named:
            reason = "lies there, and the metadata do not name it: an `inv repo add` was not finished"
            found.say(f"{folder}/{name}", reason, looked.again(named[name][1]))
    good: list[Rpm] = []
    for name, listed in sorted(index.packages.items()):
        place = f"{folder}/{name}"
        package, release = named.get(name, (None, ""))
        if package is None or package.digest.hex != listed.sha256:
            found.say(place, "no release of this repository names it with the digest in the metadata", looked.again())
        try:
            good.append(_check_package(root / place, place, listed, looked.keys))
        except Refused as refused:
            found.say(place, _because(refused), looked.again(release))
        except PipelineError as error:
            found.say(place, error.reason, looked.again(release))
    if not folder.endswith(f"/{SOURCE}"):
        _check_together(folder, good, found)
    return index


def _check_signer(looked: _Looked, folder: str, index: Index) -> None:
    if index.problem:
        looked.found.say(f"{folder}/{REPODATA}/{INDEX}", _because(index.problem), looked.again())
        return
    key = next(k for k in looked.keys if k.fingerprint == index.signer)
    if key.expires is not None and key.expires <= time.time():
        remedy = "./inv keys rotate --role packages, then add a release that was made with the new key"
        looked.found.say(f"{folder}/{REPODATA}/{INDEX}", f"is signed by {key.fingerprint}, which has expired", remedy)


def _check_package(path: Path, place: str, listed: Listed, keys: Sequence[PgpKey]) -> Rpm:
    """A package that is what metadata say, and signed. Raises Refused, SourceError."""
    if path.is_symlink() or not path.is_file():
        raise Refused(place, "is missing, and the metadata name it")
    digest = Digest.of_file(path)
    if (digest.hex, path.stat().st_size) != (listed.sha256, listed.size):
        raise Refused(place, "is not what the metadata name", listed.sha256, digest.hex)
    rpm, signed = read_package(path, place), read_signed(path, place)
    verify_package(signed, keys, place)
    if signed.nevra != listed.nevra:
        raise Refused(place, "is called otherwise than in the metadata", str(listed.nevra), str(signed.nevra))
    return rpm


def _check_together(folder: str, packages: Sequence[Rpm], found: Checked) -> None:
    """What packages of one version, which may all be installed on one host, say of each other."""
    ours = {p.name for p in packages}
    for evr in sorted({p.evr for p in packages}):
        owners: dict[str, str] = {}
        for package in (p for p in packages if p.evr == evr):
            called = f"{folder}/{package.name}-{package.evr}"
            try:
                owned, required = files(package.header), requirements(package.header)
            except ValueError as error:
                found.say(called, f"its header cannot be read: {error}")
                continue
            for path in owned:
                if owners.setdefault(path, package.name) != package.name:
                    found.say(called, f"owns {path}, and so does {owners[path]}-{evr}", "let one of the specs drop it")
            for need in required:
                if need.name in ours and (need.relation, need.evr) != ("=", evr):
                    found.say(called, f"requires {need}; expected {need.name} = {evr}", "mend its spec in rpm/specs")
            if package.name not in APART and COMMON not in {n.name for n in required}:
                found.say(called, f"does not require {COMMON} = {evr}", "mend its spec in rpm/specs")


def _check_closure(root: Path, folder: str, base: Base | None, context: Context, found: Checked) -> str:
    """Whether all that packages require can be had; returns against what that was looked for."""
    if folder.endswith(f"/{SOURCE}"):
        return "none, sources"
    rpm_arch = folder.rpartition("/")[2]
    arch = next(a for a, p in PLATFORMS.items() if p.rpm_arch == rpm_arch)
    if base and arch not in base.suites:
        found.notes.append(f"{folder}: what its packages require is not checked: base {base.name} has no {arch}")
        return UNCHECKED
    with TemporaryDirectory(prefix="rfo-closure-") as name, Mirror(str(root)) as local:
        closure = Closure(rpm_arch, Path(name))
        index = (root / folder / REPODATA / INDEX).read_bytes()
        try:
            check_xml(index, folder)
            closure.add(parse_repomd(index, folder, folder), local)
        except (ET.ParseError, ValueError, KeyError, OverflowError, SourceError) as error:
            found.say(f"{folder}/{REPODATA}/{INDEX}", f"cannot be solved with: {error}", "add a release again")
            return UNCHECKED
        said = _provide(closure, folder, base, arch, context, found)
        for file, reasons in closure.lacks(folder).items():
            found.say(f"{folder}/{file}", f"cannot be installed: {'; '.join(reasons)}", _next(said, base))
    return said


def _provide(closure: Closure, folder: str, base: Base | None, arch: str, context: Context, found: Checked) -> str:
    """Add what a host has; returns how it is called."""
    if base and base.family == "rpm":
        from pipeline.base.rpm import open_mirror, repositories_of

        with open_mirror(base, context.options.mirrors.get(base.name)) as mirror:
            for repository in repositories_of(base, arch, mirror):
                closure.add(repository, mirror)
        return f"base {base.name}"
    if base:
        declared = read_yaml(Path(__file__).with_name("hosts.yaml")).get(base.name)
        if declared is not None:
            closure.add_host(declared)
            return f"what hosts of {base.name} are declared to have"
    others = sorted(n for n in closure.required(folder) if not n.startswith("rfo"))
    closure.add_host(others)
    if others:
        found.notes.append(f"{folder}: not looked for, without a base: {', '.join(others)} (--base NAME)")
    return "of each other alone"


def _next(said: str, base: Base | None) -> str:
    if base is None:
        return "add the release that has what is missing, or let this one fall out: ./inv repo add … --keep N"
    if base.family == "rpm":
        return f"let a spec in rpm/specs require what {said} has, or name another base"
    return "let a spec in rpm/specs require less, or say in pipeline/repository/hosts.yaml that hosts have it"


def _because(refused: Refused) -> str:
    facts = [f"{n} {t}" for n, t in (("expected", refused.expected), ("found", refused.found)) if t]
    return f"{refused.reason} ({', '.join(facts)})" if facts else refused.reason
