"""From a release to its graph: which actions there are for which architectures. No I/O beyond reading definitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.build.c import c_action
from pipeline.build.check import check_action
from pipeline.build.generate import generate_action
from pipeline.build.go import go_action
from pipeline.chart.artifact import MANIFEST
from pipeline.chart.closure import closure_action
from pipeline.chart.definition import Chart
from pipeline.chart.pack import chart_action, chart_reference
from pipeline.definitions import Release
from pipeline.graph import Action, Graph, Ref
from pipeline.image.images import Artifact, image_actions, sets_of
from pipeline.image.names import Image
from pipeline.inputs import Inputs
from pipeline.pack.notices import notices_action
from pipeline.pack.sums import sums_action
from pipeline.pack.tarball import tarball_action
from pipeline.rpm.repository import repository_actions
from pipeline.rpm.signatures import Signer
from pipeline.sbom.actions import release_sbom_action, tarball_sbom_action
from pipeline.units import Unit

COMPILERS = {"go": go_action, "c": c_action}
SUMMED = ("tarball/", "bundle/")
NODE = "rfo"
"""The component whose program the tarball is made around."""


@dataclass(frozen=True)
class Packs:
    """What is made of compiled programs."""

    images: Sequence[Image] = ()
    charts: Sequence[Chart] = ()
    chart_version: str = ""
    """The release's without `v`: charts have it too."""
    signer: Signer = field(default_factory=Signer)
    """Who signs packages."""


def plan(release: Release, units: Sequence[Unit], inputs: Mapping[str, Inputs], packs: Packs | None) -> Graph:
    """Build and check actions of `units` for each architecture in `inputs`, and what `packs` says of them.

    Raises DefinitionError for what an image or chart needs and the release does not have.
    """
    actions: list[Action] = []
    for unit in units:
        if unit.generate and any(a in inputs for a in unit.arches):
            actions.append(generate_action(unit, next(inputs[a] for a in unit.arches if a in inputs)))
        for arch in unit.arches:
            if arch in inputs:
                actions.append(COMPILERS[unit.build.compiler](unit, arch, release.values, inputs[arch]))
                actions.append(check_action(unit, arch, release.values, inputs[arch]))
    if packs is not None and inputs:
        actions += _tarballs(units, inputs)
        charts, manifests, artifacts = _charts(packs, inputs)
        actions += charts
        if packs.images:
            actions += image_actions(packs.images, release, units, inputs, manifests, artifacts)
            actions += _judgements(packs, inputs)
            actions += _documents(actions, release, units, inputs)
            if any(u.component == NODE for u in units):
                actions += repository_actions(release, inputs, packs.signer)
        actions += _sums(actions, inputs)
    return Graph(actions)


def _tarballs(units: Sequence[Unit], inputs: Mapping[str, Inputs]) -> list[Action]:
    actions: list[Action] = []
    for node in (u for u in units if u.component == NODE):
        arches = [a for a in node.arches if a in inputs]
        actions += [notices_action(node, inputs[a]) for a in arches[:1]]
        actions += [tarball_action(node, arch, inputs[arch]) for arch in arches]
    return actions


def _charts(packs: Packs, inputs: Mapping[str, Inputs]) -> tuple[list[Action], dict[str, Ref], list[Artifact]]:
    """The actions of charts, the HelmChart manifests that they make, by file name, and what the layout has of them."""
    arch, given = min(inputs.items())
    images = {i.name: i for i in packs.images}
    actions = [
        chart_action(
            chart, version=packs.chart_version, images=images, epoch=given.epoch,
            roots=given.roots, root=given.roots.find("packer", arch),
        )
        for chart in packs.charts
    ]  # fmt: skip
    manifests = {f"{c.name}.yaml": Ref(f"chart/{c.name}", f"{c.name}.yaml") for c in packs.charts}
    artifacts: list[Artifact] = [
        (Ref(f"chart/{c.name}", "manifest.json"), MANIFEST, [chart_reference(c.name, packs.chart_version)])
        for c in packs.charts
    ]
    return actions, manifests, artifacts


def _judgements(packs: Packs, inputs: Mapping[str, Inputs]) -> list[Action]:
    charts = {c.name: f"{c.name}-{packs.chart_version}.tgz" for c in packs.charts}
    return [closure_action(packs.images, charts, list(sets_of(packs.images)), arch) for arch in inputs]


def _documents(
    actions: Sequence[Action], release: Release, units: Sequence[Unit], inputs: Mapping[str, Inputs]
) -> list[Action]:
    """SBOMs of tarballs and of the release, which refers to all others among `actions`."""
    nodes = [(u, a) for u in units if u.component == NODE for a in u.arches if a in inputs]
    tarballs = [tarball_sbom_action(unit, arch, inputs[arch], release) for unit, arch in nodes]
    documents = [Ref(a.name, o) for a in (*actions, *tarballs) if a.name.startswith("sbom/") for o in a.publish]
    return [*tarballs, release_sbom_action(release, units, inputs, documents)]


def _sums(actions: Sequence[Action], inputs: Mapping[str, Inputs]) -> list[Action]:
    """The sums of each architecture's tarball and bundles, among `actions`."""
    files = {
        arch: [
            Ref(a.name, o)
            for a in actions
            if a.name.startswith(SUMMED) and a.name.endswith(f"/{arch}")
            for o in a.publish
        ]
        for arch in inputs
    }
    return [sums_action(arch, refs) for arch, refs in files.items() if refs]
