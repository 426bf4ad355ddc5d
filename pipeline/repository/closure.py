"""Whether all that packages require can be had: solved by libsolv, on metadata that were checked before."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import solv

from pipeline.base.mirror import Mirror
from pipeline.base.repodata import Repository
from pipeline.base.resolve import add_metadata

MAX_REASONS = 5
"""Lines of a resolver's explanation that are kept of each package."""


class Closure:
    """The repositories that a host of one architecture has."""

    def __init__(self, rpm_arch: str, work: Path) -> None:
        self._work = work
        self._pool = solv.Pool()
        self._pool.setdisttype(solv.Pool.DISTTYPE_RPM)
        self._pool.setarch(rpm_arch)
        self._lists: list[tuple[solv.Repo, Mirror, Repository]] = []
        """Repositories whose complete lists of files were not read yet: they are large and seldom needed."""

    def add(self, repository: Repository, mirror: Mirror) -> None:
        """Have a repository. Raises SourceError, NetworkError."""
        repo = self._pool.add_repo(repository.path)
        add_metadata(repo, repository, "primary", mirror, self._work)
        self._lists.append((repo, mirror, repository))

    def add_host(self, provided: Iterable[str]) -> None:
        """Have something installed that provides these."""
        host = self._pool.add_repo("host").add_solvable()
        host.name, host.evr, host.arch = "host", "1-1", "noarch"
        for name in provided:
            host.add_deparray(solv.SOLVABLE_PROVIDES, self._pool.Dep(name))

    def required(self, path: str) -> set[str]:
        """Names of what the packages of a repository require."""
        whenever = 0  # also what only scriptlets need, which stands behind a marker
        deps = [d for s in self._solvables(path) for d in s.lookup_deparray(solv.SOLVABLE_REQUIRES, whenever)]
        return {name for d in deps if not (name := str(d).partition(" ")[0]).startswith("solvable:")}

    def lacks(self, path: str) -> dict[str, list[str]]:
        """What keeps packages of the repository at `path` from being installed, by file name. Raises SourceError."""
        self._prepare()
        found = self._solve_all(path)
        if self._lists and any("nothing provides /" in reason for reasons in found.values() for reason in reasons):
            for repo, mirror, repository in self._lists:
                if "filelists" in repository.data:
                    add_metadata(repo, repository, "filelists", mirror, self._work)
            self._lists = []
            self._prepare()
            found = self._solve_all(path)
        return found

    def _solve_all(self, path: str) -> dict[str, list[str]]:
        solved = {s.lookup_location()[0]: self._solve(s) for s in self._solvables(path)}
        return {name: reasons for name, reasons in sorted(solved.items()) if reasons}

    def _solve(self, wanted: "solv.XSolvable") -> list[str]:
        """Why a package cannot be installed in an empty root; nothing if it can."""
        solver = self._pool.Solver()
        solver.set_flag(solver.SOLVER_FLAG_IGNORE_RECOMMENDED, 1)
        job = self._pool.Job(solv.Job.SOLVER_INSTALL | solv.Job.SOLVER_SOLVABLE, wanted.id)
        problems = solver.solve([job])
        rules = [rule for problem in problems for rule in problem.findallproblemrules()]
        texts = [i.problemstr() for rule in rules for i in rule.allinfos()] or [str(p) for p in problems]
        return list(dict.fromkeys(texts))[:MAX_REASONS]

    def _solvables(self, path: str) -> "Sequence[solv.XSolvable]":
        return [s for repo in self._pool.repos if repo.name == path for s in repo.solvables]

    def _prepare(self) -> None:
        self._pool.addfileprovides()
        self._pool.createwhatprovides()
