"""Verifying as the project itself does it: all that rfo-verify checks, and besides it the in-toto links and layout.

The same code judges as in `rfo-verify`; here alone the engine's dependencies are at hand, such as in-toto's verifier.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.attest.chain import check_chain, say_expired
from pipeline.attest.root import newest_root, read_layout, release_keys, trust_folder
from pipeline.base.mirror import NotServed
from pipeline.errors import HostError, PipelineError, SourceError, TrustError, UsageError
from pipeline.lock import write_atomically
from pipeline.model import Digest, RootedPath
from pipeline.publish.published import read_published
from pipeline.sources.http import Place
from pipeline.verifier.bundle import read_bundle
from pipeline.verifier.clock import read_time
from pipeline.verifier.encoding import Refused
from pipeline.verifier.folder import Folder
from pipeline.verifier.openssl import HostLacks
from pipeline.verifier.report import ACCEPTED, Report
from pipeline.verifier.repository import REPO_ID, verify_repository
from pipeline.verifier.sealed import STATEMENT_PATH
from pipeline.verifier.state import read_state, write_state
from pipeline.verifier.tuf import MAX_ROOT, TARGETS, read_trust
from pipeline.verifier.verify import Options, verify, wanted
from pipeline.verifier.versions import read_version

if TYPE_CHECKING:
    from pipeline.report.progress import Progress

ROUNDS = 4096
"""Times that more files may turn out to be needed; each root that was rotated takes one."""
CONNECTIONS = 4
SEEN = "seen"
"""Folder, beside the trust repository, of what this host remembers of repositories of packages."""


@dataclass(frozen=True)
class Asked:
    """What is to be verified, and against which root."""

    release: str
    """A folder, or the URL of one."""
    root: Path | None = None
    """Metadata of the root that is trusted; None: the newest of this host's trust repository."""
    options: Options = field(default_factory=Options)


def parse_options(
    as_of: str, version: str, bases: tuple[str, ...], *, stale: bool, yanked: bool, downgrade: bool = False
) -> Options:
    """What a command line allows. Raises UsageError."""
    if as_of and stale:
        raise UsageError("--as-of and --allow-stale do not go together", "leave one of them out")
    try:
        if version:
            read_version(version, version)
        time = read_time(as_of if "T" in as_of else f"{as_of}T00:00:00Z", "--as-of") if as_of else None
    except Refused as refused:
        raise UsageError(str(refused), f"expected {refused.expected}" if refused.expected else "") from refused
    return Options(
        as_of=time, allow_stale=stale, allow_bases=frozenset(bases), allow_yanked=yanked, allow_downgrade=downgrade,
        expect_version=version,
    )  # fmt: skip


def accept(asked: Asked, progress: "Progress") -> Report:
    """Judge a release. What is wrong with it stands in the report.

    Raises UsageError if there is nothing there, TrustError for a candidate and without a root, NetworkError, HostError.
    """
    root = _read_root(asked.root) if asked.root else newest_root(trust_folder())
    try:
        with _fetched(asked, root, progress) as folder:
            refuse_candidate(folder)
            return judge(folder, root, asked.options)
    except HostLacks as error:
        raise HostError(str(error)) from error


def judge(folder: Path, root: bytes, options: Options) -> Report:
    """What rfo-verify finds, and what is wrong with links and layout, where it got as far as that. Raises HostLacks."""
    report = verify(folder, root, options)
    try:
        place = Folder(folder)
        trust = read_trust(place, root, options.state)
        now = options.now if options.as_of is None else options.as_of
        published, compiled = read_published(folder), read_layout(trust)
        report.refused += check_chain(place, published, compiled, release_keys(trust), now)
        if expired := say_expired(place, now):
            (report.notes if options.allow_stale else report.stale).append(expired)
    except Refused as refused:
        report.refused.append(refused)
    except PipelineError as error:
        report.refused.append(Refused(folder.name, error.reason))
    return report


def accept_repository(folder: Path, root: Path | None, options: Options, name: str) -> Report:
    """Judge a repository of packages, and remember its revisions in the trust repository's folder once it is accepted.

    Raises UsageError for a root or a name that is none, TrustError without a root or for a candidate's, HostError.
    """
    if not REPO_ID.fullmatch(name):
        raise UsageError(f"--repo-name {name[:80]!r} is no word", "name it as this host calls it, such as rfo-testing")
    trusted = _read_root(root) if root else newest_root(trust_folder())
    if (folder.parent / "release.json").is_file():
        refuse_candidate(folder.parent)
    try:
        asked = replace(options, state=read_state(trust_folder() / SEEN))
        report = verify_repository(folder, trusted, asked, name)
        if report.exit_code == ACCEPTED and report.state is not None:
            write_state(report.state)
    except HostLacks as error:
        raise HostError(str(error)) from error
    except Refused as refused:
        raise HostError(str(refused), f"see what is wrong with it: {trust_folder() / SEEN}") from refused
    return report


def refuse_candidate(folder: Path) -> None:
    """Raise TrustError for a release that nobody has promoted, with what to do; UsageError for a folder without any."""
    if (folder / STATEMENT_PATH).is_file():
        return
    if not (folder / "release.json").is_file():
        raise UsageError(f"{folder} holds no release: it has no release.json", "name a folder below dist/")
    rebuilt = any((folder / "provenance").glob("rebuilder-*/rebuild.sigstore.json"))
    step = "promote" if rebuilt else "rebuild"
    what = "made again, and not promoted yet" if rebuilt else "not made again by anybody yet"
    raise TrustError(f"{folder.name} is a candidate and no release: it was {what}", f"./inv {step} --from {folder}")


@contextmanager
def _fetched(asked: Asked, root: bytes, progress: "Progress") -> Iterator[Path]:
    """The folder, or a temporary copy of what is at the URL."""
    if "://" not in asked.release:
        yield Path(asked.release).absolute()
        return
    with TemporaryDirectory(prefix="rfo-verify-") as name, Place(asked.release) as place:
        folder = Path(name, asked.release.rstrip("/").rpartition("/")[2] or "release")
        folder.mkdir()
        _download(place, folder, root, asked, progress)
        yield folder


def _download(place: Place, folder: Path, root: bytes, asked: Asked, progress: "Progress") -> None:
    """Get what judging takes, each file only once what was signed says how large it may be.

    What the server has not is left out: judging says what is missing.
    """
    lost: set[str] = set()
    for _ in range(ROUNDS):
        try:
            needed = [(n, limit) for n, limit in wanted(folder, root, asked.options) if n not in lost]
        except Refused:
            return
        if not needed:
            return
        named = _named(folder)
        progress.step(f"getting {len(needed)} files" if len(needed) > 1 else f"getting {needed[0][0]}")

        def get(item: tuple[str, int], named: Mapping[str, str] = named) -> str:
            path, limit = item
            target = RootedPath.parse(path).under(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = named.get(path) or _target_digest(path)
            try:
                if digest:
                    place.download(path, target, digest=Digest.parse(f"sha256:{digest}"), limit=limit)
                else:
                    write_atomically(target, place.read(path, limit=limit))
            except NotServed:
                return path
            return ""

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            lost |= {path for path in pool.map(get, needed) if path}
        if any(path in lost for path, _ in needed) and len(needed) == 1:
            if STATEMENT_PATH in lost:
                raise TrustError(
                    f"{asked.release} has no release statement: it is no release, or a candidate that nobody promoted",
                    "promote it where it was made: ./inv promote --from FOLDER",
                )
            return
    raise SourceError(f"{asked.release}: more and more files would be needed to judge it")


def _named(folder: Path) -> dict[str, str]:
    """Digests by path, once there is a release statement; what it says is checked by `wanted`."""
    path = folder / STATEMENT_PATH
    return read_bundle(path.read_bytes(), STATEMENT_PATH).statement.subjects if path.is_file() else {}


def _target_digest(path: str) -> str:
    return path.removeprefix(TARGETS).partition(".")[0] if path.startswith(TARGETS) else ""


def _read_root(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_ROOT + 1)
    except OSError as error:
        raise UsageError(f"--root {path}: {error.strerror}") from error
