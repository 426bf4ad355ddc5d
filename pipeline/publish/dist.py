"""Write dist/VERSION from the store: files first, `release.json` last; the same content is not written again.

Signatures of what stood there before are removed. They are the only files of a release that this does not write.

A run for some architectures replaces only what belongs to them. What an earlier run made of the others stays if it
was made from the same inputs, and is removed, and said, if not: a folder never mixes two releases.
"""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pipeline.attest.places import is_signature, remove_signatures
from pipeline.context import Context
from pipeline.errors import PipelineError, StoreError
from pipeline.graph import Graph
from pipeline.lock import write_atomically
from pipeline.model import CHUNK, Digest
from pipeline.publish.manifest import (
    artifacts_of,
    describe_inputs,
    describe_release,
    find_base_lock,
    render_manifest,
)
from pipeline.report.notes import render_notes
from pipeline.scheduler import Result
from pipeline.store import Output, Store, store_error

PUBLISHED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._+@-]{0,127}/){0,4}[A-Za-z0-9][A-Za-z0-9._+@-]{0,127}")
"""Places of the files that release.json names."""
TEMPORARY = re.compile(r"\.[A-Za-z0-9][A-Za-z0-9._+@-]*\.[a-z0-9_]{8}")
"""Names that `tempfile` gives to files on their way."""


class DamagedOutput(StoreError):
    """What is to be handed over was damaged in the store and has been removed; its maker can make it again."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} was damaged in the store and has been removed", "run the same command again")


def write_dist(context: Context, graph: Graph, result: Result) -> list[str]:
    """Publish every architecture whose actions all succeeded; returns the names of files that were written."""
    complete = [a for a in context.inputs if all(n in result.outputs for n in graph.order if n.endswith(f"/{a}"))]
    if not complete:
        return []
    folder = context.dist
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with context.store.exclusive(f"dist-{Digest.of_bytes(os.fsencode(folder)).hex}"):
            return _write(context, folder, graph, result, complete)
    except OSError as error:
        raise store_error(error, folder) from error


def published_platforms(folder: Path) -> set[str]:
    """The architectures that an earlier run published in `folder`."""
    return {str(p).removeprefix("linux/") for p in _read_manifest(folder)["platforms"]}


def _write(context: Context, folder: Path, graph: Graph, result: Result, complete: list[str]) -> list[str]:
    old = _read_manifest(folder)
    manifest = describe_release(context, graph, result, complete)
    for platform in old["platforms"]:
        if platform not in manifest["platforms"]:
            _keep(folder, old, platform, manifest, context)
    texts = write_texts(manifest, context)
    if not _holds(folder / "release.json", texts["release.json"]):
        remove_signatures(folder)  # before anything else: they are about other content
    changed = []
    for name, (output, _) in artifacts_of(graph, result, complete).items():
        if not _same(folder, name, output):
            _place(context.store, output, folder / name)
            changed.append(name)
    for name in {a["name"] for a in old["artifacts"]} - {a["name"] for a in manifest["artifacts"]}:
        _remove(folder, name)
    for name, text in texts.items():
        path = folder / name
        if not _holds(path, text):
            write_atomically(path, text)
            changed.append(name)
    for stale in folder.rglob(".*"):  # of a run that was killed; nobody else writes here now
        if TEMPORARY.fullmatch(stale.name):
            stale.unlink()
    return sorted(changed)


def write_texts(manifest: dict[str, Any], context: Context) -> dict[str, bytes]:
    """What the writer itself makes of a manifest, by name, release.json last; the manifest gets the others' digests."""
    manifest["binaries"].sort(key=lambda b: (b["component"], b["name"], b["platform"]))
    texts = {"NOTES.md": render_notes(manifest).encode()}
    for name in sorted(set(manifest["bases"].values())):
        if lock := find_base_lock(context, context.definitions.base(name)):
            texts[f"{name}.lock"] = lock.render().encode()
    manifest["artifacts"] += [_entry(n, Digest.of_bytes(t), len(t)) for n, t in texts.items()]
    manifest["artifacts"].sort(key=lambda a: a["name"])
    return {**texts, "release.json": render_manifest(manifest)}


def _holds(path: Path, text: bytes) -> bool:
    return path.is_file() and not path.is_symlink() and path.read_bytes() == text


def _entry(name: str, digest: Digest, size: int) -> dict[str, Any]:
    return {"name": name, "digest": str(digest), "size": size}


def _read_manifest(folder: Path) -> dict[str, Any]:
    """What an earlier run wrote, as far as it can be trusted to name files of this folder; else nothing."""
    try:
        old = json.loads((folder / "release.json").read_bytes())
        outputs = [(a["name"], Output(Digest.parse(a["digest"]), int(a["size"]))) for a in old["artifacts"]]
        if all(PUBLISHED.fullmatch(name) and not is_signature(name) for name, _ in outputs):
            return {k: old[k] for k in ("platforms", "artifacts", "bases", "binaries", "inputs")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, PipelineError):
        pass
    return {"platforms": [], "artifacts": []}


def _keep(folder: Path, old: dict[str, Any], platform: str, manifest: dict[str, Any], context: Context) -> None:
    """Take over an architecture of an earlier run, if it comes from the same inputs and is intact."""
    try:
        mine = [a for a in old["artifacts"] if a.get("platform") == platform]
        intact = all(_same(folder, a["name"], Output(Digest.parse(a["digest"]), a["size"])) for a in mine)
        arch = platform.removeprefix("linux/")
        inputs = describe_inputs(context, arch) if arch in context.release.bases else {}
        # Images, charts and bundles name all platforms: what was not made together does not stand together.
        if intact and inputs and old["inputs"][platform] == inputs and not context.images:
            binaries = [b for b in old["binaries"] if b["platform"] == platform]
            manifest["bases"][platform] = old["bases"][platform]
            manifest["inputs"][platform] = inputs
            manifest["platforms"] = sorted([*manifest["platforms"], platform])
            manifest["artifacts"] += mine
            manifest["binaries"] += binaries
            return
    except (KeyError, TypeError, AttributeError):
        pass  # of another engine
    reason = "it was made from other locks, definitions or code, or is damaged"
    context.progress.say(f"  removed {platform} from {folder.name}: {reason}")


def _same(folder: Path, name: str, output: Output) -> bool:
    """Whether the file is there with these bytes, and is reached through no link."""
    path = folder / name
    regular = path.is_file() and not path.is_symlink() and path.parent.resolve() == (folder.resolve() / name).parent
    return regular and path.stat().st_size == output.size and Digest.of_file(path) == output.digest


def _remove(folder: Path, name: str) -> None:
    """Remove a file that an earlier run published, and the folders that are empty without it."""
    path = folder / name
    if path.parent.resolve() != (folder.resolve() / name).parent:  # somebody put a link there
        return
    path.unlink(missing_ok=True)
    for parent in path.relative_to(folder).parents:
        if parent != Path() and (folder / parent).is_dir() and not any((folder / parent).iterdir()):
            (folder / parent).rmdir()


def _place(store: Store, output: Output, target: Path) -> None:
    """Copy a file out of the store beside its place, then move it there."""
    source = store.use(output.digest)
    if source is None:
        raise DamagedOutput(target.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as copy, source.open("rb") as file:
            shutil.copyfileobj(file, copy, CHUNK)
            copy.flush()
            os.fchmod(copy.fileno(), 0o644)
            os.fsync(copy.fileno())  # before the manifest that names it
        Path(name).rename(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
