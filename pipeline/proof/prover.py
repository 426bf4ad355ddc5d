"""Make a candidate again in a process of its own: another store, checkout, user, root and clock, and no network.

The engine itself is started inside bubblewrap, on the userland that the circumstances choose. It finds the locked
sources and nothing that was ever built: no compile cache, no action record.
"""

import base64
import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.chart.definition import FOLDER as CHARTS
from pipeline.context import Context
from pipeline.errors import HostError, PipelineError, ProofError, StoreError
from pipeline.image.layer import layer_roots
from pipeline.model import Digest
from pipeline.proof.variations import Circumstances, Variation, circumstances, variations
from pipeline.rpm.spec import SPECS
from pipeline.sandbox.bwrap import find_bwrap
from pipeline.sources.tree import export_tree
from pipeline.store import Output, Store, store_error

ENGINE = Path(__file__).parent.parent
"""The code that runs here and is to run there."""
DEFINITIONS = ("components", "releases", "images")
"""Folders of a checkout that the engine reads as they stand; of the others it takes what git tracks."""
ROOTS = ("builder", "sysroot", "engine", "packer", "packages")
"""Roots that a proof builds with; it runs no program that it made, so it needs no emulator."""
CLOCK = "libfaketime.so.1"
FULL_DISK = 1 << 20
"""Bytes free below which a process that died without a word is taken for a victim of a full disk."""


@dataclass(frozen=True)
class Attempt:
    """What one run of the prover made; it is gone when the run's folder is."""

    dist: Path
    """The release, as it would be published; missing if only some actions were asked for."""
    outputs: Mapping[str, Mapping[str, Output]]
    """By action."""
    store: Store
    cpu: float
    """Seconds, of all sandboxes."""


@dataclass(frozen=True)
class Prover:
    """Runs attempts at one candidate; all of its sources are in the store of `context`."""

    context: Context
    locks: Mapping[str, bytes]
    """The base locks that the candidate was made with, by base."""
    packets: Mapping[str, bytes] = field(default_factory=dict)
    """The signatures of its packages, which nobody can make again, by place."""

    def possible(self) -> tuple[list[Variation], dict[str, str]]:
        """The variations that this host and the bases allow, and why the others are left out, by name."""
        inputs = self.context.inputs.values()
        without = sorted({i.roots.base.name for i in inputs if "engine" not in i.roots.base.roots})
        reasons = {}
        if without:
            reason = f"base {without[0]} names no root for the engine"
            reasons = dict.fromkeys(("base root", "userland", "clock"), reason)
        if len(os.sched_getaffinity(0)) < 2:
            reasons["processors"] = "the host has one processor"
        return [v for v in variations() if v.name not in reasons], reasons

    @contextlib.contextmanager
    def attempt(
        self, chosen: Sequence[Variation], actions: Sequence[str] = (), *, ready: bool = False
    ) -> Iterator[Attempt]:
        """Build under `chosen` variations: everything that the options ask for, or just `actions`.

        With `ready` it finds the roots as they were assembled before; without, it assembles them itself.
        Raises ProofError if the build fails, HostError if the process cannot be started.
        """
        with self.context.store.workspace() as folder:
            made = circumstances(chosen)
            self._lay_out(folder)
            userland = None if made.own_userland else self._userland()
            if made.setting.clock:
                shutil.copyfile(_clock_library(self._userland()), folder / CLOCK)
            _write_spec(folder / "spec.json", self, made, actions)
            self._run(folder, made, userland, ready=ready)
            result = json.loads((folder / "result.json").read_bytes())
            outputs = {
                action: {name: Output(Digest.parse(digest), size) for name, (digest, size) in files.items()}
                for action, files in result["outputs"].items()
            }
            yield Attempt(folder / "dist", outputs, Store(folder / "store"), result["cpu"])

    def _lay_out(self, folder: Path) -> None:
        """A checkout without what is not tracked, and a store that holds pins only."""
        context, checkout, store = self.context, folder / "checkout", folder / "store"
        (folder / "dist").mkdir()
        trees = {"install", *(u.source.tree for u in context.all_units if u.source.tree)}
        trees |= {SPECS} if context.packaged else set()
        trees |= {f"{CHARTS}/{chart.name}" for chart in context.packs.charts}
        for copied in (ENGINE, *(context.checkout / name for name in DEFINITIONS)):
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(copied, checkout / copied.name, ignore=ignored, symlinks=True)
        for tree in sorted(trees):
            shutil.rmtree(checkout / tree, ignore_errors=True)
            export_tree(context.checkout, tree, checkout / tree)
        shutil.copy(ENGINE.parent / "requirements.lock", checkout)
        blobs = Store(store)
        for pin in sorted(self._pins()):
            source = context.store.use(pin)
            if source is None:
                raise HostError(f"{pin} vanished from the store", "run the same command again")
            target = blobs.blob(pin)
            target.parent.mkdir(exist_ok=True)
            _link(source, target)
        for name, text in self.locks.items():
            base = context.definitions.base(name)
            where = store / "locks-of-bases" if base.floating else checkout / "releases" / context.options.version
            where.mkdir(exist_ok=True)
            (where / f"{name}.lock").write_bytes(text)
        if (context.store.root / "history").is_dir():  # how long things take: for the order and the time left
            passing = shutil.ignore_patterns(".*")  # what another run is writing there
            shutil.copytree(context.store.root / "history", store / "history", dirs_exist_ok=True, ignore=passing)

    def _pins(self) -> set[Digest]:
        """Of every package and snapshot that the build reads."""
        context = self.context
        found = {s.tar for s in context.sources.lock.snapshots.values()}
        for arch, inputs in context.inputs.items():
            for role in (*ROOTS, *inputs.roots.base.layers):
                if role in inputs.roots.base.recipes:
                    found |= {p.digest for p in inputs.roots.find(role, arch).packages}
        return {d for d in found if context.store.has(d)}

    def _userland(self) -> Path:
        """The root that the engine runs in when it is not the host's."""
        roots = next(i.roots for i in self.context.inputs.values() if "engine" in i.roots.base.roots)
        return roots.path(roots.find("engine", roots.host))

    def _run(self, folder: Path, made: Circumstances, userland: Path | None, *, ready: bool) -> None:
        names = ["gomod"]
        if ready:
            names.append("trees")
            for arch, inputs in self.context.inputs.items():
                for role in (r for r in ROOTS if r in inputs.roots.base.roots):
                    inputs.roots.path(inputs.roots.find(role, arch))
                for layer in inputs.roots.base.layers:
                    inputs.roots.path(layer_roots(layer, arch, inputs)[0])
        shared = {name: self.context.store.root / name for name in names}
        command = [find_bwrap(), *_arguments(folder, made, userland, shared)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sys.stderr, umask=made.setting.umask, env={}
        )
        try:
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if status or not (folder / "result.json").exists():
            raise self._failure(folder, made, status)

    def _failure(self, folder: Path, made: Circumstances, status: int) -> PipelineError:
        """Why the process ended without a result; the logs that it names are kept in the store."""
        try:
            said = json.loads((folder / "failure.json").read_bytes())
            reason, hint, kind = str(said["reason"]), str(said["hint"]), str(said["kind"])
        except (OSError, ValueError, KeyError, TypeError):
            if shutil.disk_usage(folder).free < FULL_DISK:  # it could not even say so
                return store_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), folder)
            return ProofError(f"the engine ended with status {status} while it built the candidate again; see above")
        logs, kept = folder / "store" / "logs", self.context.store.root / "logs" / "proof"
        if logs.is_dir():
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(logs, kept)
        reason = reason.replace(f"{made.folder}/store/logs/", f"{kept}/")
        if kind == StoreError.kind:
            return StoreError(reason.replace(made.folder, str(folder)), hint)
        return ProofError(f"the candidate could not be built again: {reason}", hint)


def _arguments(folder: Path, made: Circumstances, userland: Path | None, shared: Mapping[str, Path]) -> list[str]:
    """What bubblewrap gets to start the engine; `shared` are folders of its store that it may only read.

    It keeps the host's /proc and process namespace, since the kernel lets nobody mount another /proc, as its
    sandboxes do, where parts of the first are hidden.
    """
    setting, place = made.setting, made.folder
    line = ["--unshare-user", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--clearenv"]
    line += ["--uid", str(setting.uid), "--gid", str(setting.gid), "--hostname", setting.host, "--cap-drop", "ALL"]
    line += ["--ro-bind", str(userland or "/"), "/", "--dev", "/dev", "--bind", "/proc", "/proc", "--tmpfs", "/run"]
    line += ["--tmpfs", "/tmp"] if userland else []  # noqa: S108
    line += ["--bind", str(folder), place]
    for name, source in shared.items():
        line += ["--ro-bind", str(source), f"{place}/store/{name}"]
    python = sys.executable if userland is None else "/usr/bin/python3"
    environment = {
        **setting.noise,
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": setting.home,
        "TZ": setting.zone,
        "LC_ALL": setting.locale,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if setting.clock and userland:
        shifted = {"LD_PRELOAD": f"{place}/{CLOCK}", "FAKETIME": setting.clock}
        environment |= {**shifted, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
    for name, value in sorted(environment.items()):
        line += ["--setenv", name, value]
    return [*line, "--chdir", f"{place}/checkout", "--", python, "-m", "pipeline.proof.worker", f"{place}/spec.json"]


def _write_spec(path: Path, prover: Prover, made: Circumstances, actions: Sequence[str]) -> None:
    """What the process is to do, for pipeline/proof/worker.py."""
    context = prover.context
    library = Path(made.folder, CLOCK) if made.setting.clock else None
    setting = {k: v for k, v in vars(made.setting).items() if k != "clock_library"}
    options = context.options
    asked = {
        "version": options.version,
        "base": options.base,
        "arches": list(context.arches),
        "components": list(options.components),
        "actions": list(actions),
        "jobs": options.jobs,
    }
    spec = {
        "options": asked,
        "setting": setting,
        "clock_library": str(library) if library else None,
        "folder": made.folder,
        "go_root": made.go_root,
        "reversed_order": made.reversed_order,
        "certificates": base64.b64encode(context.signer.certificates).decode(),
        "packets": {place: base64.b64encode(packet).decode() for place, packet in prover.packets.items()},
    }
    path.write_text(json.dumps(spec))


def _clock_library(root: Path) -> Path:
    found = next(root.glob(f"usr/lib/*/faketime/{CLOCK}"), None) or next(root.glob(f"usr/lib*/faketime/{CLOCK}"), None)
    if found is None:
        raise HostError("the base's root for the engine has no libfaketime", "add it to the packages of `engine`")
    return found


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
