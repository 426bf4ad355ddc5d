"""How the time of a run with nothing to do grows with the number of components: a synthetic checkout, many times over.

Its components are the release's own under other names, so that definitions, locks and keys have their real sizes; its
results are invented, since nobody compiles them.
"""

import os
import re
import shutil
import sys
import time
from collections import defaultdict
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from pipeline.context import CHECKOUT, Context, Options
from pipeline.graph import Ref
from pipeline.lock import MainModule, SourcesLock, lock_text
from pipeline.locking import lock_folder
from pipeline.plan import NODE
from pipeline.process import run
from pipeline.release import make_graph
from pipeline.report.progress import Progress
from pipeline.store import Output, Record, Store, remove_tree
from pipeline.units import lock_subject

COPIED = ("charts", "components", "images", "install", "pipeline", "tasks.py", "requirements.lock")
RUNS = 5


def growth(context: Context, times: int) -> tuple[float, float]:
    """Seconds of a run with nothing to do for the release's components, and for `times` as many; least of five each."""
    found = []
    with context.store.workspace() as work:
        for count in (1, times):
            checkout = work / f"checkout-{count}"
            _write_checkout(checkout, count, context)
            store = Store(work / f"store-{count}")
            _invent_results(checkout, store, context)
            found.append(_least(checkout, store, context.options))
            remove_tree(store.root)
    return found[0], found[1]


def _write_checkout(folder: Path, count: int, context: Context) -> None:
    """The checkout's engine and one release with `count` copies of each component but the node's."""
    version = context.options.version
    for name in COPIED:
        source = CHECKOUT / name
        ignored = shutil.ignore_patterns("__pycache__")
        folder.mkdir(exist_ok=True)
        shutil.copytree(source, folder / name, ignore=ignored) if source.is_dir() else shutil.copy(source, folder)
    locks = folder / "releases" / version
    shutil.copytree(lock_folder(context.definitions, version), locks)
    release: dict[str, Any] = yaml.safe_load((locks / "release.yaml").read_text(encoding="utf-8"))
    for name in [n for n in release["components"] if n != NODE]:
        definition = yaml.safe_load((folder / "components" / name / "component.yaml").read_text(encoding="utf-8"))
        for copy in range(2, count + 1):
            target = folder / "components" / f"{name}-x{copy}" / "component.yaml"
            target.parent.mkdir()
            target.write_text(_dump({**definition, "name": target.parent.name}), encoding="utf-8")
            release["components"][target.parent.name] = release["components"][name]
    (locks / "release.yaml").write_text(_dump(release), encoding="utf-8")
    _write_lock(folder, locks, context)


def _write_lock(folder: Path, locks: Path, context: Context) -> None:
    """The release's lock with every copy of a unit pinned as the unit is."""
    old = context.sources.lock
    units = Context(replace(context.options, components=()), context.progress, folder).all_units
    copies: dict[str, list[str]] = defaultdict(list)
    for unit in units:
        copies[re.sub(r"-x[0-9]+", "", unit.name)].append(unit.name)
    lock = SourcesLock(context.options.version, lock_subject(units), toolchains=dict(old.toolchains))
    for name, names in copies.items():
        for copy in names:
            if main := old.mains.get(name):
                lock.mains[copy] = MainModule(copy, main.module, main.time)
            if copy != name and (locks / "overlay" / name).exists():
                shutil.copytree(locks / "overlay" / name, locks / "overlay" / copy)
    for module, owners in old.modules.items():
        lock.modules[module] = frozenset(copy for owner in owners for copy in copies[owner])
    (locks / "sources.lock").write_bytes(lock_text(lock))


def _invent_results(checkout: Path, store: Store, context: Context) -> None:
    """A record for every action, with files that nobody compiled."""
    shutil.copytree(context.store.root / "locks-of-bases", store.root / "locks-of-bases")
    options = Options(context.options.version, context.options.base, offline=True)
    synthetic = Context(options, Progress(stream=StringIO()), checkout)
    synthetic.store = store
    graph = make_graph(synthetic)
    files: dict[str, set[str]] = defaultdict(set)
    for action in graph.actions.values():
        files[action.name] |= set(action.publish)
        for reference in action.inputs.values():
            if isinstance(reference, Ref):
                files[reference.action].add(reference.output)
    for unit in synthetic.units:
        for arch in unit.arches:
            files[unit.action("build", arch)] |= set(unit.build.binaries)
    outputs: dict[str, dict[str, Output]] = {}
    for name in graph.order:
        key, parts = graph.actions[name].key(outputs)
        outputs[name] = {f: store.add_bytes(f"{key} {f}".encode()) for f in sorted(files[name])}
        store.remember(key, Record(name, outputs[name], 1.0, 1.0, 1 << 20, None, parts))


def _least(checkout: Path, store: Store, options: Options) -> float:
    command = [sys.executable, "-m", "invoke", "release", "--version", options.version, "--base", str(options.base)]
    environment = {**os.environ, "RFO_STORE": str(store.root)}
    times = []
    for _ in range(RUNS + 2):  # the first two publish, and note that all is done
        started = time.monotonic()
        run(command, cwd=checkout, env=environment)
        times.append(time.monotonic() - started)
    return min(times[2:])


def _dump(data: dict[str, Any]) -> str:
    """YAML without aliases, which definitions may not have."""

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - its base names it so
            return True

    return yaml.dump(data, Dumper=Plain)
