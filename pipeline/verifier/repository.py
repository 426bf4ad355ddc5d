"""A repository of RPM packages: signed metadata, every package signed and named by a release that is accepted.

`verify_repository` looks at the repository that operators keep, with the evidence of its releases below `releases/`, or
at the folder `rpm` of one release. What dnf does not notice is refused as well: metadata older than this host has seen,
a key that has expired, and whatever nobody names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.verifier.clock import DAY, check_clock, render_time
from pipeline.verifier.encoding import Refused
from pipeline.verifier.envelope import read_envelope
from pipeline.verifier.folder import Folder, Hashed, other_content
from pipeline.verifier.metadata import TUF_PAYLOAD, read_signed
from pipeline.verifier.openpgp import MAX_ARMORED, MAX_KEY_FILE, PgpKey, PgpSignature, read_pgp_keys, verify_armored
from pipeline.verifier.package import Nevra, read_package, verify_package
from pipeline.verifier.report import Kept, Report
from pipeline.verifier.rpmmd import MAX_PACKED, MAX_REPOMD, PACKAGE_FILE, Listed, read_primary, read_repomd
from pipeline.verifier.scope import Scope
from pipeline.verifier.sealed import STATEMENT_PATH
from pipeline.verifier.state import State
from pipeline.verifier.tuf import MAX_TIMESTAMP, METADATA, TARGETS, Trust, read_trust
from pipeline.verifier.verify import Options, verify
from pipeline.verifier.versions import Version, read_version

RELEASES = "releases/"
"""Where a repository keeps the evidence of the releases in it, each in a folder that is called as it is in dist/."""
PACKAGES = "rpm/"
"""Where a release has its repositories."""
KEY_FILE = "RPM-GPG-KEY-rfo"
MARK = ".rfo-repository"
"""An empty file in a repository that `inv repo` keeps."""
PACKAGES_APART = Scope(patterns=(f"{PACKAGES}*",), apart=True)
"""What is judged of a release below `releases/`; its `evidence` says which files that takes."""
REPO_NAME = "rfo"
"""What a host calls the repository whose revisions it remembers, unless it is told otherwise."""
REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
_DIRECTORY = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,60}/[A-Za-z0-9_]{1,20})/(.+)", re.DOTALL)
"""BASE/RPM_ARCH, and a file in it."""
_OLD_METADATA = re.compile(r"repodata/([0-9a-f]{64})-(?:filelists|other|primary)\.xml\.gz")
_SNAPSHOT_FILE = re.compile(rf"{METADATA}(?:[0-9]{{1,10}}\.)?[a-z0-9-]{{1,60}}\.json")
_SNAPSHOT_TARGET = re.compile(rf"{TARGETS}([0-9a-f]{{64}})\.[a-z_]{{1,60}}\.json")
"""What a snapshot of the trust root is made of, where it is not read itself."""
_ROOT_FILE = re.compile(rf"{METADATA}([0-9]{{1,6}})\.root\.json")


@dataclass
class _Looked:
    """What is known while the repositories of a folder are looked at."""

    folder: Folder
    options: Options
    name: str
    """What the host calls all of it, in what it remembers."""
    keys: list[PgpKey]
    named: Mapping[str, set[str]]
    """Digests by place below the folder, as accepted releases name them."""
    report: Report
    expected: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Digest and size of each file, as something signed names it."""
    signed: dict[tuple[str, Nevra], Refused | None] = field(default_factory=dict)
    """What is wrong with a package of some name, by digest: the same file may lie in several folders."""
    revisions: dict[str, int] = field(default_factory=dict)

    @property
    def now(self) -> int:
        """The time that counts."""
        return self.options.now if self.options.as_of is None else self.options.as_of


def verify_repository(place: Path, root: bytes, options: Options, name: str = REPO_NAME) -> Report:
    """Judge the repository in a folder. `root` is the metadata of the root that the caller trusts.

    `name` is what the host calls it: the revisions that it has seen are remembered under that. Raises HostLacks where
    openssl is missing; everything else is in the report.
    """
    report = Report(folder=place.name)
    try:
        folder = Folder(Path(os.path.abspath(place)))
        report.refused += folder.odd
        if any(path.startswith(RELEASES) for path in folder.sizes):
            _verify_merged(folder, root, options, name, report)
        elif (folder.root.parent / "release.json").is_file() and is_own_folder(folder.root):
            _verify_released(folder, root, options, report)
        else:
            reason = "holds no evidence of a release: neither releases/ in it, nor release.json one folder up"
            raise Refused(str(place), reason, "a folder that ./inv repo keeps, or rpm of a release")
    except Refused as refused:
        report.refused.append(refused)
    return report


def is_own_folder(root: Path) -> bool:
    """Whether a folder is that of a release's packages: files of that name are what verifying the release hashes."""
    return root.name == PACKAGES.rstrip("/") and not root.is_symlink()


def _verify_released(folder: Folder, root: bytes, options: Options, report: Report) -> None:
    """The packages of one release, in its folder: verifying it compares all files of the repository by itself."""
    found = verify(folder.root.parent, root, replace(options, scope=replace(PACKAGES_APART, apart=False)))
    _take(found, report, "../", {*folder.sizes, "../release.json"})
    _carry_on(found, report)
    named = {n[len(PACKAGES) :]: d for n, d in found.named.items() if n.startswith(PACKAGES)}
    if not found.named:
        return  # it has been said why
    looked = _looked(folder, options, found.folder, report, {n: {d} for n, d in named.items()}, found)
    for path in sorted(set(folder.sizes) - set(named)):
        report.refused.append(Refused(path, "was added: nobody signed it"))
    _check_repositories(looked, sorted(set(named) & set(folder.sizes)))
    _compare_expected(looked, named)


def _verify_merged(folder: Folder, root: bytes, options: Options, name: str, report: Report) -> None:
    """The packages of several releases, judged by the newest snapshot of the trust root that came with them."""
    hashed: Hashed = folder.hashing(p for p in folder.sizes if f"/{METADATA}" not in p)
    try:
        releases = {p.split("/")[1] for p in folder.sizes if p.startswith(RELEASES) and "/" in p[len(RELEASES) :]}
        if not releases:
            raise Refused(RELEASES, "holds no evidence of a release", "a folder for each release")
        names = sorted(releases, key=_version_of)
        trust, source = _newest_trust(folder, names, root, options.state)
        found = {n: _judge_release(folder, n, root, trust, options, newest=n == names[-1]) for n in names}
        named: dict[str, set[str]] = {}
        known = {p for p in folder.sizes if p.endswith((".rpm", "/release.json"))}
        for release, judged in found.items():
            _take(judged, report, f"{RELEASES}{release}/", known)
            for place, digest in judged.named.items():
                if place.startswith(PACKAGES):
                    named.setdefault(place[len(PACKAGES) :], set()).add(digest)
        _carry_on(found[names[-1]], report)
        report.releases = [n for n in names if found[n].named]
        latest = found[names[-1]]
        if not latest.named:
            return  # it has been said why
        looked = _looked(folder, options, name, report, named, latest)
        for release, judged in found.items():
            _check_evidence(looked, release, judged, trust if release == source else None)
        evidence = {p for p in folder.sizes if p.startswith(RELEASES) and "/" in p[len(RELEASES) :]}
        _check_repositories(looked, sorted(set(folder.sizes) - evidence))
    finally:
        digests = hashed()
    _compare_expected(looked, digests)


def _version_of(name: str) -> tuple[Version, str]:
    return read_version(name.partition("@")[0], f"{RELEASES}{name}"[:200]), name


def _newest_trust(folder: Folder, names: Iterable[str], root: bytes, state: State) -> tuple[Trust, str]:
    """The newest snapshot of the trust root, and the release that it came with.

    Older ones know nothing of releases that came later, or were taken back since, and nothing rests on them. Which
    one is newest is what they say themselves; then it has to be good. Raises Refused.
    """
    found = []
    for name in names:
        what = f"{RELEASES}{name}/{METADATA}timestamp.json"
        envelope = read_envelope(folder.read(what, MAX_TIMESTAMP), what, MAX_TIMESTAMP, TUF_PAYLOAD)
        start = len(f"{RELEASES}{name}/")
        roots = [
            int(m[1]) for p in folder.sizes if p.startswith(what[:start]) and (m := _ROOT_FILE.fullmatch(p[start:]))
        ]
        found.append((max(roots, default=0), read_signed(envelope, "timestamp", what).version, name))
    name = max(found)[2]
    try:
        return read_trust(Folder(folder.root / RELEASES / name), root, state), name
    except Refused as refused:
        raise _placed(refused, f"{RELEASES}{name}/") from refused


def _judge_release(folder: Folder, name: str, root: bytes, trust: Trust, options: Options, *, newest: bool) -> Report:
    """What speaks for and against one release; that others are newer is no downgrade."""
    asked = replace(options, scope=PACKAGES_APART, trust=trust)
    if not newest:
        state = replace(options.state, highest_version="", installed="")
        asked = replace(asked, state=state, installed_version="")
    report = verify(folder.root / RELEASES / name, root, asked)
    if report.folder and report.folder != name:
        report.refused.append(
            Refused(f"{RELEASES}{name}", "holds the evidence of another release", name, report.folder)
        )
    return report


def _take(found: Report, report: Report, prefix: str, known: Container[str]) -> None:
    """Add what was found about a release, whose files have `prefix` in front here; rows only of `known` files."""
    report.refused += [_placed(r, prefix) for r in found.refused]
    for row in found.rows:
        name = row.item.name
        here = name[len(PACKAGES) :] if name.startswith(PACKAGES) else prefix + name
        if here in known or row.refused:
            item, refused = replace(row.item, name=here), tuple(_placed(r, prefix) for r in row.refused)
            report.rows.append(replace(row, item=item, refused=refused))
    for lines, more in ((report.stale, found.stale), (report.notes, found.notes)):
        lines += [line for line in more if line not in lines]
    report.files, report.size = report.files + found.files, report.size + found.size


def _carry_on(found: Report, report: Report) -> None:
    """Take over what is said of the newest release for all of it."""
    report.version, report.policy, report.root, report.state = found.version, found.policy, found.root, found.state
    report.development = found.development


def _placed(refused: Refused, prefix: str) -> Refused:
    """The same, of a file that lies elsewhere than in a release's folder."""
    subject = refused.subject
    if subject.startswith(PACKAGES):
        subject = subject[len(PACKAGES) :]
    elif "/" in subject or subject == "release.json":
        subject = prefix + subject
    return Refused(subject, refused.reason, refused.expected, refused.found)


def _looked(
    folder: Folder, options: Options, name: str, report: Report, named: Mapping[str, set[str]], latest: Report
) -> _Looked:
    """With the keys that the latest release names: one that it has no more is no longer trusted. Raises Refused."""
    digest = latest.named.get(PACKAGES + KEY_FILE)
    if digest is None:
        raise Refused(KEY_FILE, "is named by no release that lies here: nobody says which keys sign packages")
    keys = read_pgp_keys(folder.read_named(KEY_FILE, MAX_KEY_FILE, digest), KEY_FILE)
    looked = _Looked(folder, options, name, keys, named, report)
    looked.expected[KEY_FILE] = digest, folder.sizes[KEY_FILE]
    return looked


def _check_evidence(looked: _Looked, release: str, judged: Report, trust: Trust | None) -> None:
    """Everything that lies with a release's evidence was signed with it; `trust` is what was read there."""
    start = f"{RELEASES}{release}/"
    for path in (p for p in looked.folder.sizes if p.startswith(start)):
        name = path[len(start) :]
        if name.startswith("trust/"):
            target = _SNAPSHOT_TARGET.fullmatch(name)
            if target:
                looked.expected[path] = target[1], looked.folder.sizes[path]
            if name not in trust.known if trust is not None else not (target or _SNAPSHOT_FILE.fullmatch(name)):
                looked.report.refused.append(Refused(path, "is no part of the trust root"))
        elif name in judged.named:
            looked.expected[path] = judged.named[name], looked.folder.sizes[path]
        elif name != STATEMENT_PATH and judged.named:
            looked.report.refused.append(Refused(path, "was added: nobody signed it"))


def _check_repositories(looked: _Looked, paths: Iterable[str]) -> None:
    """Each repository, and that nothing lies beside them."""
    directories: dict[str, set[str]] = {}
    for path in paths:
        match = _DIRECTORY.fullmatch(path)
        if match:
            directories.setdefault(match[1], set()).add(match[2])
        elif path != KEY_FILE and (path != MARK or looked.folder.sizes[path]):
            looked.report.refused.append(Refused(path, "is no part of a repository"))
    if not directories:
        raise Refused(str(looked.folder.root), "holds no packages")
    for directory, files in sorted(directories.items()):
        try:
            _check_directory(looked, directory, files)
        except Refused as refused:
            looked.report.refused.append(refused)
    if looked.report.state is not None:
        seen = looked.report.state.metadata
        looked.report.state = replace(
            looked.report.state,
            metadata={**seen, **{n: max(r, seen.get(n, 0)) for n, r in looked.revisions.items()}},
        )


def _check_directory(looked: _Looked, directory: str, files: set[str]) -> None:
    """One repository: signature, revision, files of metadata, packages. Raises Refused where nothing can follow."""
    folder, what = looked.folder, f"{directory}/repodata/repomd.xml"
    data = folder.read(what, MAX_REPOMD)
    key, signature = verify_armored(data, folder.read(f"{what}.asc", MAX_ARMORED), looked.keys, what)
    check_clock(looked.now, signature.made, f"the time at which {what} was signed")
    _check_expiry(looked, key, signature, what)
    repomd = read_repomd(data, what)
    _check_revision(looked, what, repomd.revision)
    for file in repomd.files.values():
        looked.expected[f"{directory}/{file.path}"] = file.sha256, file.size
    primary = repomd.files["primary"]
    path = f"{directory}/{primary.path}"
    listed = read_primary(folder.read_named(path, min(MAX_PACKED, primary.size), primary.sha256), primary, path)
    for package in listed:
        try:
            _check_package(looked, f"{directory}/{package.file}", package)
        except Refused as refused:
            looked.report.refused.append(refused)
    known = {"repodata/repomd.xml", "repodata/repomd.xml.asc", *(p.file for p in listed)}
    for name in sorted(files - known - {f.path for f in repomd.files.values()}):
        old = _OLD_METADATA.fullmatch(name)
        if old:  # what a client may still ask for that has read the repomd.xml before this one
            looked.expected[f"{directory}/{name}"] = old[1], folder.sizes[f"{directory}/{name}"]
        else:
            kind = "package" if PACKAGE_FILE.fullmatch(name) else "file"
            looked.report.refused.append(Refused(f"{directory}/{name}", f"is a {kind} that no metadata names"))
    looked.report.kept.append(Kept(directory, repomd.revision, len(listed)))


def _check_expiry(looked: _Looked, key: PgpKey, signature: PgpSignature, what: str) -> None:
    """Metadata have to be of today: a key or a signature that has expired since does not speak for them any more."""
    ends = min((e for e in (key.expires, signature.ends) if e is not None), default=None)
    if ends is not None and ends <= looked.now:
        days = (looked.now - ends) // DAY
        whose = f"the key {key.fingerprint} that signed it" if ends == key.expires else "its signature"
        line = f"{what}: {whose} expired {days} days ago, at {render_time(ends)}"
        (looked.report.notes if looked.options.allow_stale else looked.report.stale).append(line)


def _check_revision(looked: _Looked, what: str, revision: int) -> None:
    """Refuse metadata that are older than those that this host has seen: dnf takes them."""
    name = f"{looked.name}/{what}"
    seen = looked.options.state.metadata.get(name, 0)
    looked.revisions[name] = revision
    if revision < seen:
        if not looked.options.allow_downgrade:
            reason = f"is older than what this host has seen of the repository {looked.name}"
            raise Refused(what, reason, f"revision {seen} or later", f"revision {revision}")
        looked.report.notes.append(f"{what}: revision {revision}, and this host has seen {seen}")


def _check_package(looked: _Looked, path: str, listed: Listed) -> None:
    """A package that metadata name: it is one of an accepted release, is called as they say, and is signed."""
    looked.expected[path] = listed.sha256, listed.size
    named = looked.named.get(path, set())
    if not named:
        raise Refused(path, "is named by no release that lies here")
    if listed.sha256 not in named:
        reason = "is named by the metadata with another digest than by the release"
        raise Refused(path, reason, ", ".join(f"sha256:{d}" for d in sorted(named)), f"sha256:{listed.sha256}")
    if path not in looked.folder.sizes:
        return  # comparing says so
    which = listed.sha256, listed.nevra
    if which not in looked.signed:
        try:
            looked.signed[which] = None
            package = read_package(looked.folder.root / path, path)
            if package.nevra != listed.nevra:
                raise Refused(path, "is another package than the metadata say", str(listed.nevra), str(package.nevra))
            verify_package(package, looked.keys, path)
        except Refused as refused:
            looked.signed[which] = refused
    refused_before = looked.signed[which]
    if refused_before is not None:
        raise Refused(path, refused_before.reason, refused_before.expected, refused_before.found)


def _compare_expected(looked: _Looked, digests: Mapping[str, str | Refused]) -> None:
    """Refuse by name what is not there, or is not what something signed says."""
    report, sizes = looked.report, looked.folder.sizes
    for path, (expected, size) in sorted(looked.expected.items()):
        found = digests.get(path)
        if path not in sizes:
            report.refused.append(Refused(path, "is missing", f"sha256:{expected}"))
        elif isinstance(found, Refused):
            report.refused.append(found)
        elif found is not None and found != expected:
            report.refused.append(other_content(path, expected, found))
        elif sizes[path] != size:
            report.refused.append(Refused(path, "has another size than is signed", str(size), str(sizes[path])))
    report.files += len(looked.expected)
    report.size += sum(sizes.get(path, 0) for path in looked.expected)
