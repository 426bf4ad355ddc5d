"""Pack a chart: the action that makes NAME-VERSION.tgz, its OCI artifact and its HelmChart manifest."""

import os
from collections.abc import Mapping

from pipeline.chart.artifact import chart_config, chart_manifest, helm_chart
from pipeline.chart.definition import Chart
from pipeline.chart.images import fill_chart, images_for
from pipeline.engine import code_digest
from pipeline.graph import Action, Ref, Work
from pipeline.image.layer import PUBLISHED
from pipeline.image.names import ORGANISATION, Image, Reference
from pipeline.model import Digest, RootedPath
from pipeline.pack.compress import GZIP, compress_tar
from pipeline.pack.tar import Entry
from pipeline.roots import Root, Roots

LAYER, CONFIG, MANIFEST = "layer.tgz", "config.json", "manifest.json"
"""Outputs that make up the OCI artifact; the manifest stands in a layout under `chart_reference`."""


def chart_reference(name: str, version: str) -> Reference:
    """What the OCI artifact of a chart is called: Helm writes `_` for the `+` of a version, and back."""
    return Reference(f"{ORGANISATION}/{name}", version.replace("+", "_"))


def chart_action(
    chart: Chart, *, version: str, images: Mapping[str, Image], epoch: int, roots: Roots, root: Root
) -> Action:
    """The action `chart/NAME`: NAME-VERSION.tgz, its OCI artifact (whose layer.tgz is that file), and its NAME.yaml.

    `version` is the release's without `v`; `images` are those of the release by recipe, whose `index/NAME` actions
    make an index.json; `epoch` is the time of all files; `root` has pigz. Raises DefinitionError for an image that
    the release does not have.
    """
    used = images_for(chart, images)
    name = f"{chart.name}-{version}.tgz"
    parameters = {
        "code": str(code_digest("chart", "draft/yamledit.py", "pack/compress.py", "pack/tar.py")),
        "command": list(GZIP),
        "files": {path: str(Digest.of_bytes(data)) for path, data in chart.files.items()},
        "packing": chart.packing.model_dump(mode="json"),
        "images": {path: [str(image.reference), image.version] for path, image in used.items()},
        "version": version,
        "time": epoch,
        "root": str(root.key),
    }

    def run(work: Work) -> None:
        digests = {path: Digest.of_file(work.inputs[image.name]) for path, image in used.items()}
        filled = fill_chart(chart, version, used, digests)
        compress_tar(work, roots.path(root), entries(filled, epoch), name, GZIP, time=epoch)
        os.link(work.out / name, work.out / LAYER)
        tgz = (work.out / name).read_bytes()
        config = chart_config(filled.file)
        (work.out / CONFIG).write_bytes(config)
        (work.out / MANIFEST).write_bytes(chart_manifest(filled.file, config, tgz, epoch))
        (work.out / f"{chart.name}.yaml").write_bytes(helm_chart(chart.name, tgz, bootstrap=chart.packing.bootstrap))

    return Action(
        name=f"chart/{chart.name}",
        parameters=parameters,
        run=run,
        inputs={image.name: Ref(f"index/{image.name}", "index.json") for image in used.values()},
        publish={name: f"charts/{name}", **dict.fromkeys((LAYER, CONFIG, MANIFEST), PUBLISHED)},
        disk=1 << 20,
        seconds=0.2,
    )


def entries(chart: Chart, epoch: int) -> list[Entry]:
    """The members of a packed chart: all below a folder of its name, none executable."""
    return [Entry(RootedPath.parse(f"{chart.name}/{p}"), 0o644, epoch, data) for p, data in chart.files.items()]
