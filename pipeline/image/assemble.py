"""One image for one architecture, from layers that are made: its configuration and its manifest.

Formats: https://github.com/opencontainers/image-spec (v1.1.0: config.md, manifest.md, annotations.md).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.engine import code_digest
from pipeline.errors import BuildError
from pipeline.graph import Action, Ref, Work, canonical
from pipeline.image.layer import FACTS, MEDIA_TYPE, PUBLISHED, read_facts
from pipeline.image.names import Image
from pipeline.model import Digest, platform
from pipeline.report.progress import size
from pipeline.strict import parse_size

CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What every container runtime takes when an image says nothing."""
BASE_DIGEST = "org.opencontainers.image.base.digest"


def image_action(image: Image, arch: str, layers: Sequence[str], facts: Mapping[str, str], date: str) -> Action:
    """The action that makes `config.json` and `manifest.json` of an image from the layers that `layers` actions made.

    `facts` are its annotations, which are its labels too; `date` (RFC 3339) is when it was created.
    """
    recipe = image.recipe
    own = recipe.platforms.get(arch)
    environment = {"PATH": PATHS, **recipe.environment, **(own.environment if own else {})}
    run_as: dict[str, Any] = {"User": recipe.user, "Env": [f"{k}={v}" for k, v in environment.items()]}
    run_as |= {"Entrypoint": list(recipe.entrypoint)} if recipe.entrypoint else {}
    run_as |= {"Cmd": list(recipe.command)} if recipe.command else {}
    steps = [name.split("/")[1] for name in layers]
    parameters = {
        "code": str(code_digest("image/assemble.py")),
        "platform": {"architecture": arch, "os": "linux"},
        "config": run_as,
        "layers": steps,
        "facts": dict(facts),
        "date": date,
        "budget": recipe.budget,
    }

    def run(work: Work) -> None:
        found = [read_facts(work.inputs[f"{n:02}"]) for n in range(len(layers))]
        total = sum(f["size"] for f in found)
        if total > parse_size(recipe.budget):
            largest = sorted(zip((f["size"] for f in found), steps, strict=True), reverse=True)[:3]
            raise BuildError(
                f"image {image.name} takes {size(total)} for {platform(arch)}; its budget is {recipe.budget}. "
                f"The largest layers: {', '.join(f'{step} {size(bytes_)}' for bytes_, step in largest)}",
                f"take something out of images/openeuler/{image.name}.yaml, or raise its budget",
            )
        about = dict(facts) | ({BASE_DIGEST: found[0]["digest"]} if recipe.layer else {})
        config = canonical(
            {
                "architecture": arch,
                "os": "linux",
                "created": date,
                "author": "rfolabs",
                "config": {**run_as, "Labels": about},
                "rootfs": {"type": "layers", "diff_ids": [f["diff_id"] for f in found]},
                "history": [{"created": date, "created_by": f"rfo: {name}"} for name in steps],
            }
        )
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": str(Digest.of_bytes(config)), "size": len(config)},
            "layers": [{"mediaType": MEDIA_TYPE, "digest": f["digest"], "size": f["size"]} for f in found],
            "annotations": about,
        }
        (work.out / "config.json").write_bytes(config)
        (work.out / "manifest.json").write_bytes(canonical(manifest))

    inputs = {f"{n:02}": Ref(name, FACTS) for n, name in enumerate(layers)}
    published = {"config.json": PUBLISHED, "manifest.json": PUBLISHED}
    return Action(f"image/{image.name}/{arch}", parameters, run, inputs, publish=published, disk=1 << 20, seconds=0.1)


def describe(file: Path, media_type: str, **more: Any) -> dict[str, Any]:
    """The descriptor of a file (image-spec, descriptor.md)."""
    return {"mediaType": media_type, "digest": str(Digest.of_file(file)), "size": file.stat().st_size, **more}
