"""One index for each image, over its platforms, and one layout for all of them.

Formats: https://github.com/opencontainers/image-spec (v1.1.0: image-index.md, image-layout.md).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.engine import code_digest
from pipeline.graph import Action, Ref, Work, canonical
from pipeline.image.assemble import MANIFEST, describe
from pipeline.image.layer import PUBLISHED
from pipeline.image.names import Image, Reference
from pipeline.model import PLATFORMS

INDEX = "application/vnd.oci.image.index.v1+json"
LAYOUT = canonical({"imageLayoutVersion": "1.0.0"})
NAME = "io.containerd.image.name"
"""Annotation with the whole reference: what containerd calls an image that it imports."""
REF_NAME = "org.opencontainers.image.ref.name"
"""Annotation with the tag alone."""


def index_action(image: Image, arches: Sequence[str], facts: Mapping[str, str]) -> Action:
    """The action that makes `index.json`, the image on all its platforms; each was inspected before."""
    ordered = [a for a in PLATFORMS if a in arches]

    def run(work: Work) -> None:
        manifests = [describe(work.inputs[a], MANIFEST, platform={"architecture": a, "os": "linux"}) for a in ordered]
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": dict(facts)}
        (work.out / "index.json").write_bytes(canonical(index))

    return Action(
        name=f"index/{image.name}",
        parameters={"code": str(code_digest("image/index.py", "image/assemble.py")), "facts": dict(facts)},
        run=run,
        inputs={a: Ref(f"image/{image.name}/{a}", "manifest.json") for a in ordered},
        after=tuple(f"inspect/{image.name}/{a}" for a in ordered),
        publish={"index.json": PUBLISHED},
        disk=1 << 20,
        seconds=0.1,
    )


def layout_action(named: Sequence[tuple[Ref, str, Sequence[Reference]]]) -> Action:
    """The action that makes the layout's `index.json` and `oci-layout`: each index or manifest under all its names.

    `named` are (output, media type, references).
    """

    def run(work: Work) -> None:
        manifests = []
        for number, (_, media_type, references) in enumerate(named):
            for reference in references:
                manifests.append(describe(work.inputs[f"{number:03}"], media_type, annotations=names(reference)))
        (work.out / "index.json").write_bytes(layout_index(manifests))
        (work.out / "oci-layout").write_bytes(LAYOUT)

    return Action(
        name="layout/images",
        parameters={
            "code": str(code_digest("image/index.py", "image/assemble.py")),
            "names": [[media_type, *map(str, references)] for _, media_type, references in named],
        },
        run=run,
        inputs={f"{number:03}": ref for number, (ref, _, _) in enumerate(named)},
        publish={"index.json": "images/index.json", "oci-layout": "images/oci-layout"},
        disk=1 << 20,
        seconds=0.1,
    )


def names(reference: Reference) -> dict[str, str]:
    """The annotations that name an entry of a layout."""
    return {NAME: str(reference), REF_NAME: reference.tag}


def layout_index(manifests: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes of a layout's `index.json`."""
    return canonical({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)})


def read_json(data: bytes) -> dict[str, Any]:
    """A document that an action here wrote."""
    value: dict[str, Any] = json.loads(data)
    return value
