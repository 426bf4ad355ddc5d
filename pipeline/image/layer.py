"""Layers: operating system content, programs, and charts, each compressed once and named by its content.

A layer's output is `layer.tar.gz` and `layer.json`, which says what the files of images say of it: the digest of the
compressed file, its size, and the diff ID, the digest of the plain one
(https://github.com/opencontainers/image-spec/blob/v1.1.0/config.md, "Layer DiffID").
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.base.assemble import MTIME
from pipeline.base.facts import database
from pipeline.engine import code_digest
from pipeline.errors import DefinitionError
from pipeline.graph import Action, Ref, Work
from pipeline.image.content import certificate_bundle, layer_members
from pipeline.inputs import Inputs
from pipeline.model import Digest, RootedPath
from pipeline.pack.compress import GZIP, compress_tar
from pipeline.pack.tar import Entry, Member
from pipeline.roots import Root
from pipeline.units import Unit

MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
CODE = ("base/facts.py", "image/content.py", "image/layer.py", "pack/compress.py", "pack/tar.py")
BLOB, FACTS = "layer.tar.gz", "layer.json"
PUBLISHED = "images/blobs/sha256/{hex}"
"""Where a file of an image stands in the release's layout (image-layout.md)."""


@dataclass(frozen=True)
class Program:
    """One compiled program in an image."""

    path: str
    """Relative to the image's root."""
    name: str
    unit: Unit


def system_layer(role: str, arch: str, inputs: Inputs) -> Action:
    """The action that makes a layer of the base from its locked packages. Raises DefinitionError for an unknown one."""
    roots = inputs.roots
    recipe = roots.base.layers.get(role)
    if recipe is None:
        known = ", ".join(roots.base.layers) or "none"
        raise DefinitionError(
            f"base {roots.base.name} has no layer {role} (it has: {known})", "mend the image's `layer`"
        )
    own, below = layer_roots(role, arch, inputs)
    parameters = {"root": str(own.key), "below": [str(r.key) for r in below], "recipe": recipe.model_dump(mode="json")}

    def run(work: Work) -> None:
        tree, lower = roots.path(own), [roots.path(r) for r in below]
        files = ((p, roots.file(p)) for p in own.packages)
        more = database(roots.base.family, files, ((p, roots.file(p)) for r in below for p in r.packages))
        more |= certificate_bundle(recipe, tree)
        # Packages have names that differ only in case: iptables' libxt_TTL.so sets what libxt_ttl.so matches.
        _write(work, layer_members(tree, lower, more), inputs, arch, time=MTIME, fold=False)

    return _action(f"layer/{role}/{arch}", parameters, run, arch, inputs, seconds=6.0)


def layer_roots(role: str, arch: str, inputs: Inputs) -> tuple[Root, list[Root]]:
    """A layer's own content, without packages of those below it, and the layers below, the lowest first."""
    *lower, name = inputs.roots.base.below(role)
    below: list[Root] = []
    for step in [*lower, name]:
        root = inputs.roots.find(step, arch)
        taken = {p.name for r in below for p in r.packages}
        below.append(replace(root, packages=tuple(p for p in root.packages if p.name not in taken)))
    return below[-1], below[:-1]


def program_layer(name: str, programs: Sequence[Program], arch: str, inputs: Inputs) -> Action:
    """The action that makes a layer of compiled programs; their times are those of their sources."""
    times = {p.path: inputs.source_epoch(p.unit) for p in programs}
    parameters = {"programs": {p.path: [p.name, times[p.path]] for p in programs}}

    def run(work: Work) -> None:
        entries = [Entry(RootedPath.parse(p.path), 0o755, times[p.path], work.inputs[p.path]) for p in programs]
        _write(work, entries, inputs, arch, time=max(times.values()))

    refs = {p.path: Ref(p.unit.action("build", arch), p.name) for p in programs}
    checks = tuple(sorted({p.unit.action("check", arch) for p in programs}))
    return _action(f"layer/{name}/{arch}", parameters, run, arch, inputs, refs, checks, seconds=2.0 * len(programs))


def file_layer(name: str, files: Mapping[str, Ref], arch: str, inputs: Inputs) -> Action:
    """The action that makes a layer of files that the release made, by path; they have the release's time."""

    def run(work: Work) -> None:
        entries = [Entry(RootedPath.parse(p), 0o644, inputs.epoch, file) for p, file in work.inputs.items()]
        _write(work, entries, inputs, arch, time=inputs.epoch)

    return _action(f"layer/{name}/{arch}", {"time": inputs.epoch}, run, arch, inputs, files, seconds=1.0)


def _action(
    name: str,
    parameters: Mapping[str, Any],
    run: Any,
    arch: str,
    inputs: Inputs,
    refs: Mapping[str, Ref] | None = None,
    after: tuple[str, ...] = (),
    *,
    seconds: float,
) -> Action:
    packer = inputs.roots.find("packer", arch)
    more = {"code": str(code_digest(*CODE)), "packer": str(packer.key), "gzip": list(GZIP)}
    published = {BLOB: PUBLISHED}
    return Action(
        name, {**parameters, **more}, run, refs or {}, after, publish=published, disk=24 << 20, seconds=seconds
    )


def _write(work: Work, entries: Iterable[Member], inputs: Inputs, arch: str, *, time: int, fold: bool = True) -> None:
    packer = inputs.roots.path(inputs.roots.find("packer", arch))
    plain = hashlib.sha256()
    compress_tar(work, packer, entries, BLOB, GZIP, time=time, fold=fold, tell=plain.update)
    blob = work.out / BLOB
    diff_id = Digest(plain.hexdigest())
    facts = {"digest": str(Digest.of_file(blob)), "size": blob.stat().st_size, "diff_id": str(diff_id)}
    (work.out / FACTS).write_text(json.dumps(facts, sort_keys=True) + "\n")


def read_facts(file: Path) -> dict[str, Any]:
    """What `layer.json` says."""
    facts: dict[str, Any] = json.loads(file.read_bytes())
    return facts
