"""The packages of a small release, unsigned: the real specs, units and scripts around a small program."""

import gzip
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path

from engine import ARCHES, REAL, REPO, given, hello, inputs, run_actions, shared_store

from pipeline.definitions import Definitions, Release
from pipeline.graph import Action, Graph, Ref
from pipeline.inputs import Inputs
from pipeline.model import RootedPath
from pipeline.pack.tar import Entry, write_tar
from pipeline.pack.tarball import installed_files
from pipeline.report.progress import Progress
from pipeline.rpm.metadata import metadata_action
from pipeline.rpm.packages import package_actions, packages_for, sources_for
from pipeline.rpm.signatures import KEYS
from pipeline.sandbox.bwrap import Bwrap
from pipeline.sandbox.setting import Setting
from pipeline.scheduler import Result, Scheduler
from pipeline.store import Store

BUNDLE = b"no images\n" * 5000
KEY_FILE = b"no key\n"


@cache
def release(mirror: str = "") -> Release:
    return Definitions(REPO).release(REAL).model_copy(update={"mirror": mirror})


@cache
def inputs_of(arches: Sequence[str] = ARCHES) -> dict[str, Inputs]:
    return dict.fromkeys(arches, replace(inputs(), checkout=REPO, epoch=release().epoch))


@cache
def tarball(arch: str) -> bytes:
    """install/ around a program; others than the real one would be too large."""
    time = release().epoch
    found = {name: (mode, data) for name, (mode, data) in installed_files(REPO / "install").items()}
    found["bin/rfo"] = (0o755, hello(arch))
    found["share/rfo/THIRD-PARTY-NOTICES.txt"] = (0o644, b"none\n")
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "tar")
        write_tar(plain, [Entry(RootedPath.parse(n), m, time, d) for n, (m, d) in found.items()], time=time)
        return gzip.compress(plain.read_bytes(), mtime=0)


@cache
def actions(mirror: str = "") -> Graph:
    """Everything up to the repositories of unsigned packages."""
    made: list[Action] = [given("keys", {KEYS: KEY_FILE})]
    for arch in ARCHES:
        made.append(given(f"tarball/{arch}", {f"rfo.linux-{arch}.tar.gz": tarball(arch)}))
        made.append(given(f"bundle/all/{arch}", {f"rfo-images.linux-{arch}.tar.zst": BUNDLE + arch.encode()}))
    made += package_actions(release(mirror), inputs_of(), Ref("keys", KEYS))
    one = inputs_of()[ARCHES[0]]
    base = one.roots.base
    repositories = {arch: packages_for(release(mirror), base, arch) for arch in ARCHES}
    repositories["source"] = sources_for(release(mirror), base)
    made += [metadata_action(name, f"rpm/x/{name}", refs, one) for name, refs in repositories.items()]
    return Graph(made)


@cache
def built(mirror: str = "", *names: str) -> Result:
    """What running them made in the shared store; of all, or of `names` and what they need."""
    graph = actions(mirror).closure(list(names)) if names else actions(mirror)
    result = run_actions(shared_store(), list(graph.actions.values()))
    assert not result.failures, [f.error.render() for f in result.failures]
    return result


def built_otherwise(store: Store, setting: Setting) -> Result:
    """The same in another store, under other circumstances."""
    scheduler = Scheduler(store, Bwrap(setting), Progress(stream=StringIO()), 2, 4 << 30)
    return scheduler.run(actions())


def files(result: Result, *prefixes: str) -> dict[str, Path]:
    """Packages by file name, of the actions whose names begin so."""
    found = {}
    for name, outputs in result.outputs.items():
        if name.startswith(prefixes or ("rpm/",)):
            for file, output in outputs.items():
                path = shared_store().use(output.digest)
                assert path is not None
                found[file] = path
    return found


def packages(arch: str) -> dict[str, Path]:
    """The unsigned packages of one architecture's repository, by file name."""
    wanted = packages_for(release(), inputs_of()[arch].roots.base, arch)
    made = files(built())
    return {file: made[file] for file in wanted}
