"""Packages and their repositories, against rpmbuild and createrepo_c of this host on the same specs and files."""

import os
import shutil
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.bench.images import Made, remembering, run_graph, used
from pipeline.errors import HostError
from pipeline.graph import Ref
from pipeline.model import PLATFORMS
from pipeline.process import run
from pipeline.rpm.metadata import createrepo
from pipeline.rpm.packages import IMAGES, MACROS, NODE, RELEASE
from pipeline.rpm.spec import SPECS, render_spec
from pipeline.verifier.folder import cores

RUNS = 2
MADE_HERE = ("rpm/", "signed/", "repository/", "signed-metadata/")
"""What names of the actions begin with that are measured."""
PROGRAMS = {"rpmbuild": "rpm", "createrepo_c": "createrepo-c"}
"""Of the host, with Debian's packages."""


def packaging(made: Made) -> tuple[float, float, float]:
    """Seconds of making all packages and repositories, unsigned, and of the plain tools, the least of two each.

    The plain ones run one after the other, as by hand, and then side by side on all cores. All end when what they wrote
    is on disk. Raises HostError where the release has no packages, or a program is missing.
    """
    for program, package in PROGRAMS.items():
        if not shutil.which(program):
            raise HostError(f"there is no {program} to compare with", f"apt-get install {package}")
    graph = made.graph.closure([n for n in made.graph.order if n.startswith(MADE_HERE)])
    if not graph.order:
        raise HostError(f"{made.context.options.version} has no packages on this base")
    ours: list[float] = []
    theirs: dict[int, list[float]] = {1: [], cores(): []}
    for _ in range(RUNS):
        with remembering(made, graph, lambda n: not n.startswith(MADE_HERE)) as scheduler:
            started = time.monotonic()
            run_graph(scheduler, graph)
            ours.append(time.monotonic() - started)
        for jobs, times in theirs.items():
            with made.context.store.workspace() as folder:
                _place_sources(made, folder)
                os.sync()
                started = time.monotonic()
                _by_hand(made, folder, jobs)
                times.append(time.monotonic() - started)
    return min(ours), min(theirs[1]), min(theirs[cores()])


def _place_sources(made: Made, folder: Path) -> None:
    """Specs and SOURCES, as a packager has them."""
    release, arches = made.context.release, list(made.context.inputs)
    for name in ("SOURCES", "RPMS/source"):  # two rpmbuilds at once stumble over each other when they make folders
        (folder / name).mkdir(parents=True)
    for name in (NODE, IMAGES, RELEASE):
        text = (made.context.checkout / SPECS / f"{name}.spec").read_text(encoding="utf-8")
        (folder / f"{name}.spec").write_text(render_spec(text, name, release, arches), encoding="utf-8")
    for action in made.graph.actions.values():
        if action.name.startswith("rpm/"):
            for file, source in action.inputs.items():
                if isinstance(source, Ref) and not (folder / "SOURCES" / file).exists():
                    (folder / "SOURCES" / file).symlink_to(used(made, source.action, source.output))


def _by_hand(made: Made, folder: Path, jobs: int) -> None:
    """What somebody would type, so many commands at a time."""
    base = next(iter(made.context.bases.values()))
    arches = [PLATFORMS[arch].rpm_arch for arch in made.context.inputs]

    def rpmbuild(kind: str, name: str, target: str) -> list[str]:
        macros = {
            "_topdir": folder / f"{name}-{target}{kind}", "_sourcedir": folder / "SOURCES", "_rpmdir": folder / "RPMS",
            "_srcrpmdir": folder / "RPMS/source", "dist": base.dist, "_tmppath": folder,
            "_binary_payload": MACROS["_binary_payload"], "_source_payload": MACROS["_source_payload"],
        }  # fmt: skip
        defines = [word for macro, value in macros.items() for word in ("--define", f"{macro} {value}")]
        return ["rpmbuild", kind, "--nodeps", "--target", f"{target}-linux", *defines, str(folder / f"{name}.spec")]

    _run_all(
        [
            *(rpmbuild("-bb", name, arch) for name in (IMAGES, NODE) for arch in arches),
            *(rpmbuild("-bs", name, arches[0]) for name in (NODE, IMAGES)),
            rpmbuild("-ba", RELEASE, "noarch"),
        ],
        jobs,
    )
    for arch in arches:
        for file in (folder / "RPMS/noarch").iterdir():
            (folder / "RPMS" / arch / file.name).hardlink_to(file)
    repositories = [createrepo(str(folder / "RPMS" / n), made.context.release.epoch) for n in (*arches, "source")]
    _run_all(repositories, jobs)
    run(["sync", *(str(path) for path in (folder / "RPMS").rglob("*") if path.is_file())])


def _run_all(commands: Iterable[Sequence[str]], jobs: int) -> None:
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, commands))
