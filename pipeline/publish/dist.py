"""Write dist/VERSION from the store: files first, `release.json` last; the same content is not written again.

A run for some architectures replaces only what belongs to them. What an earlier run made of the others stays if it
was made from the same locks, and is removed, and said, if not: a folder never mixes two releases.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pipeline.context import Context
from pipeline.errors import StoreError
from pipeline.graph import Graph
from pipeline.lock import write_atomically
from pipeline.model import Digest
from pipeline.publish.manifest import artifacts_of, describe_release, render_manifest
from pipeline.report.notes import render_notes
from pipeline.scheduler import Result
from pipeline.store import Output, Store, store_error


def write_dist(context: Context, graph: Graph, result: Result) -> list[str]:
    """Publish every architecture whose actions all succeeded; returns the names of files that were written."""
    complete = [a for a in context.inputs if all(n in result.outputs for n in graph.order if n.endswith(f"/{a}"))]
    if not complete:
        return []
    manifest = describe_release(context, result, complete)
    folder = context.dist
    files = {name: output for arch in complete for name, output in artifacts_of(result, arch).items()}
    texts = {f"{name}.lock": lock.render().encode() for name, lock in context.base_locks.items()}
    changed = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest = _keep_others(folder, manifest, context)
        texts["NOTES.md"] = render_notes(manifest).encode()
        manifest["artifacts"] += [_entry(n, Digest.of_bytes(t), len(t)) for n, t in texts.items()]
        manifest["artifacts"].sort(key=lambda a: a["name"])
        for name, output in sorted(files.items()):
            if not _same(folder / name, output):
                _place(context.store, output, folder / name)
                changed.append(name)
        for name, text in {**texts, "release.json": render_manifest(manifest)}.items():
            path = folder / name
            if not path.is_file() or path.read_bytes() != text:
                write_atomically(path, text)
                changed.append(name)
    except OSError as error:
        raise store_error(error, folder) from error
    return changed


def _entry(name: str, digest: Digest, size: int) -> dict[str, Any]:
    return {"name": name, "digest": str(digest), "size": size}


def _keep_others(folder: Path, manifest: dict[str, Any], context: Context) -> dict[str, Any]:
    """Take over the architectures of an earlier run, if they come from the same inputs and are intact."""
    try:
        old = json.loads((folder / "release.json").read_bytes())
        others = [p for p in old["platforms"] if p not in manifest["platforms"]]
    except (OSError, ValueError, KeyError, TypeError):
        return manifest
    for platform in others:
        mine = [a for a in old["artifacts"] if a.get("platform") == platform]
        intact = all(_same(folder / a["name"], Output(Digest.parse(a["digest"]), a["size"])) for a in mine)
        if old.get("inputs") == manifest["inputs"] and intact:
            manifest["platforms"] = sorted([*manifest["platforms"], platform])
            manifest["bases"][platform] = old["bases"][platform]
            manifest["artifacts"] += mine
            manifest["binaries"] += [b for b in old["binaries"] if b["platform"] == platform]
        else:
            for artifact in mine:
                (folder / Path(artifact["name"]).name).unlink(missing_ok=True)
            context.progress.say(f"  removed {platform} from {folder.name}: it was made from other locks or definitions")
    manifest["binaries"].sort(key=lambda b: (b["component"], b["name"], b["platform"]))
    return manifest


def _same(path: Path, output: Output) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == output.size and Digest.of_file(path) == output.digest


def _place(store: Store, output: Output, target: Path) -> None:
    """Copy a file out of the store beside its place, then move it there."""
    source = store.use(output.digest)
    if source is None:
        raise StoreError(f"{target.name} was damaged in the store and has been removed", "run the same command again: it is made anew")
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(descriptor)
    try:
        shutil.copyfile(source, name)
        Path(name).chmod(0o644)
        Path(name).rename(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
