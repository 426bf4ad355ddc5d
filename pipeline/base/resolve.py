"""Resolve package names to exact packages with libsolv, on repository metadata that was checked before. Reads files.

The same metadata and names give the same packages: an empty system, no weak dependencies, no host configuration.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import solv

from pipeline.base.mirror import Mirror
from pipeline.base.repodata import Repository, fetch_metadata
from pipeline.errors import DefinitionError, SourceError
from pipeline.lock import Package
from pipeline.model import Digest, RootedPath

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~^:%-]*")
"""Names, versions and path components; lock lines are separated by spaces."""
MAX_REASONS = 10
"""Lines of a resolver's explanation that an error shows."""


class Unresolvable(SourceError):
    """The repositories do not hold everything that the packages require."""


class Resolver:
    """The repositories of one architecture, loaded once for all roots."""

    def __init__(self, repositories: Sequence[Repository], mirror: Mirror, rpm_arch: str, work: Path) -> None:
        self._mirror, self._work, self._arch = mirror, work, rpm_arch
        self._pool = solv.Pool()
        self._pool.setdisttype(solv.Pool.DISTTYPE_RPM)
        self._pool.setarch(rpm_arch)
        work.mkdir(parents=True, exist_ok=True)
        self._repositories = {self._load(r): r for r in repositories}
        self._has_files = False
        self._prepare()

    def resolve(self, role: str, arch: str, names: Iterable[str]) -> list[Package]:
        """The packages that `names` (packages, or what they provide) need in an empty root, as pins.

        Raises DefinitionError for a name that no package has, Unresolvable with libsolv's explanation, SourceError
        for metadata that cannot be a pin.
        """
        problems, transaction = self._solve(names)
        if not self._has_files and any("nothing provides /" in p for p in problems):
            # Only paths below bin and etc are in the primary metadata; the complete lists are large and seldom needed.
            self._load_file_lists()
            problems, transaction = self._solve(names)
        if problems:
            shown = "\n  ".join(problems[:MAX_REASONS])
            raise Unresolvable(f"{role} root for {arch}: the packages do not fit together:\n  {shown}")
        pins = [self._pin(s, role, arch) for s in transaction.newsolvables()]
        if doubled := sorted(name for name, times in Counter(p.name for p in pins).items() if times > 1):
            raise Unresolvable(f"{role} root for {arch}: several versions of {', '.join(doubled)}")
        return sorted(pins)

    def _solve(self, names: Iterable[str]) -> tuple[list[str], "solv.Transaction"]:
        how = solv.Selection.SELECTION_NAME | solv.Selection.SELECTION_PROVIDES
        jobs, unknown = [], []
        for name in names:
            selection = self._pool.select(name, how)
            if selection.isempty():
                unknown.append(name)
            jobs += selection.jobs(solv.Job.SOLVER_INSTALL)
        if unknown:
            where = ", ".join(self._mirror.place(r.path) for r in self._repositories.values())
            raise DefinitionError(f"no package is called {', '.join(unknown)} or provides it in {where}")
        solver = self._pool.Solver()
        solver.set_flag(solver.SOLVER_FLAG_IGNORE_RECOMMENDED, 1)
        problems = solver.solve(jobs)
        if problems:
            rules = [rule for problem in problems for rule in problem.findallproblemrules()]
            texts = [str(p) for p in problems] + [i.problemstr() for rule in rules for i in rule.allinfos()]
            return list(dict.fromkeys(texts)), None
        return [], solver.transaction()

    def _pin(self, chosen: "solv.XSolvable", role: str, arch: str) -> Package:
        """A chosen package as a pin; of equal ones in several repositories the first repository's is taken."""
        digest = self._digest(chosen)
        named = self._pool.select(chosen.name, solv.Selection.SELECTION_NAME).solvables()
        same = [s for s in named if s.identical(chosen) and self._digest(s) == digest]
        order = list(self._repositories)
        solvable = min([*same, chosen], key=lambda s: order.index(s.repo.name))
        if chosen.arch not in (self._arch, "noarch"):
            raise SourceError(f"{chosen}: is of architecture {chosen.arch}; expected {self._arch} or noarch")
        location, base = solvable.lookup_location()[0], solvable.lookup_str(solv.SOLVABLE_MEDIABASE)
        if base or not location or any(not _WORD.fullmatch(p) for p in location.split("/")):
            raise SourceError(f"{chosen}: lies at {base or ''}{location!r}; expected a plain path in its repository")
        size = solvable.lookup_num(solv.SOLVABLE_DOWNLOADSIZE)
        if not _WORD.fullmatch(chosen.name) or not _WORD.fullmatch(chosen.evr) or size <= 0:
            raise SourceError(f"package {chosen.name!r} {chosen.evr!r} with {size} bytes cannot be a pin")
        path = RootedPath.parse(f"{self._repositories[solvable.repo.name].path}/{location}")
        return Package(role, arch, chosen.name, chosen.evr, path.relative, size, digest)

    def _digest(self, solvable: "solv.XSolvable") -> Digest:
        checksum = solvable.lookup_checksum(solv.SOLVABLE_CHECKSUM)
        if checksum is None or checksum.typestr() != "sha256":
            raise SourceError(f"{solvable}: its repository does not name its SHA-256")
        return Digest(checksum.hex())

    def _load(self, repository: Repository) -> str:
        add_metadata(self._pool.add_repo(repository.name), repository, "primary", self._mirror, self._work)
        return repository.name

    def _load_file_lists(self) -> None:
        for repo in self._pool.repos:
            repository = self._repositories[repo.name]
            if "filelists" in repository.data:
                add_metadata(repo, repository, "filelists", self._mirror, self._work)
        self._has_files = True
        self._prepare()

    def _prepare(self) -> None:
        self._pool.addfileprovides()
        self._pool.createwhatprovides()


def add_metadata(repo: "solv.Repo", repository: Repository, kind: str, mirror: Mirror, work: Path) -> None:
    """Load the `primary` metadata of a repository, or its `filelists` later. Raises SourceError, NetworkError."""
    plain = fetch_metadata(mirror, repository, kind, work)
    file = solv.xfopen(str(plain))
    try:
        if not repo.add_rpmmd(file, None, solv.Repo.REPO_EXTEND_SOLVABLES if kind == "filelists" else 0):
            raise SourceError(f"{mirror.place(repository.path)}: malformed {kind}: {repo.pool.errstr}")
    finally:
        file.close()
        plain.unlink()
