"""Offline bundles: all images of a set for one architecture in one archive, which every runtime can load.

The archive is an OCI layout (image-spec, image-layout.md) with docker's `manifest.json` beside it, as `docker save`
writes since version 25. Layers stand in it as they are published, so that every digest is the same everywhere; zstd
around them only makes one file of them. Nothing is compressed again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.engine import code_digest
from pipeline.graph import Action, Ref, Work, canonical
from pipeline.image.assemble import describe
from pipeline.image.index import INDEX, LAYOUT, NAME, REF_NAME, layout_index, names, read_json
from pipeline.image.layer import BLOB
from pipeline.image.names import Image
from pipeline.inputs import Inputs
from pipeline.model import Digest, RootedPath
from pipeline.pack.compress import ZSTD, compress_tar
from pipeline.pack.tar import Entry

ALL = ""
"""The set of all images."""


def bundle_name(set_name: str, arch: str) -> str:
    """What a bundle's files are called, without suffix: RKE2's form under the rfo name."""
    return f"rfo-images{f'-{set_name}' if set_name else ''}.linux-{arch}"


def bundle_action(
    set_name: str, images: Sequence[Image], layers: Mapping[str, Sequence[str]], arch: str, inputs: Inputs
) -> Action:
    """The action that writes `NAME.tar.zst` and `NAME.txt` for `images`; `layers` are the layer actions of each."""
    name = bundle_name(set_name, arch)
    packer = inputs.roots.find("packer", arch)
    files: dict[str, Ref] = {}
    for image in images:
        files[f"{image.name}/index"] = Ref(f"index/{image.name}", "index.json")
        files[f"{image.name}/manifest"] = Ref(f"image/{image.name}/{arch}", "manifest.json")
        files[f"{image.name}/config"] = Ref(f"image/{image.name}/{arch}", "config.json")
        for number, layer in enumerate(layers[image.name]):
            files[f"{image.name}/{number:02}"] = Ref(layer, BLOB)

    def run(work: Work) -> None:
        content: dict[str, bytes | Path] = {
            f"blobs/sha256/{path.name}": path
            for path in work.inputs.values()  # the store calls files by their digests
        }
        described = [_describe(image, work.inputs, len(layers[image.name])) for image in images]
        content["oci-layout"] = LAYOUT
        content["index.json"] = layout_index([d for found in described for d in found[0]])
        content["manifest.json"] = canonical([found[1] for found in described])
        entries = [Entry(RootedPath.parse(n), 0o644, inputs.epoch, c) for n, c in content.items()]
        compress_tar(work, inputs.roots.path(packer), entries, f"{name}.tar.zst", ZSTD, time=inputs.epoch)
        lines = sorted(
            f"{reference}@{Digest.of_file(work.inputs[f'{i.name}/index'])}\n"
            for i in images
            for reference in i.references
        )
        (work.out / f"{name}.txt").write_text("".join(lines))

    return Action(
        name=f"bundle/{set_name or 'all'}/{arch}",
        parameters={
            "code": str(
                code_digest("image/bundle.py", "image/index.py", "image/assemble.py", "pack/compress.py", "pack/tar.py")
            ),
            "names": {i.name: [str(r) for r in i.references] for i in images},
            "packer": str(packer.key),
            "command": list(ZSTD),
            "time": inputs.epoch,
            "name": name,
        },
        run=run,
        inputs=files,
        publish={f"{name}.tar.zst": f"{name}.tar.zst", f"{name}.txt": f"{name}.txt"},
        disk=400 << 20,
        seconds=4.0,
    )


def _describe(image: Image, files: Mapping[str, Path], layers: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The image's entries in the layout's index, and in docker's manifest.

    Runtimes find an image that is named by digest under NAME@DIGEST only, so it gets that name too. skopeo knows
    one annotation, the tag alone, which several images may share; in those entries it is the whole reference.
    """
    index = files[f"{image.name}/index"]
    digest = Digest.of_file(index)
    labels = [names(reference) for reference in image.references]
    labels += [{NAME: f"{r.name}@{digest}", REF_NAME: str(r)} for r in image.references]
    entries = [describe(index, INDEX, annotations=label) for label in labels]
    config = read_json(files[f"{image.name}/manifest"].read_bytes())["config"]["digest"]
    docker = {
        "Config": f"blobs/sha256/{Digest.parse(config).hex}",
        "RepoTags": [f"{r.repository}:{r.tag}" for r in image.references],
        "Layers": [f"blobs/sha256/{files[f'{image.name}/{n:02}'].name}" for n in range(layers)],
    }
    return entries, docker
