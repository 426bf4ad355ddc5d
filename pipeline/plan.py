"""From a release to its graph: which actions there are for which architectures. No I/O beyond reading definitions."""

from collections.abc import Mapping, Sequence

from pipeline.build.c import c_action
from pipeline.build.check import check_action
from pipeline.build.generate import generate_action
from pipeline.build.go import go_action
from pipeline.definitions import Release
from pipeline.graph import Action, Graph
from pipeline.image.images import image_actions
from pipeline.image.names import Image
from pipeline.inputs import Inputs
from pipeline.pack.notices import notices_action
from pipeline.pack.tarball import tarball_action
from pipeline.units import Unit

COMPILERS = {"go": go_action, "c": c_action}
NODE = "rfo"
"""The component whose program the tarball is made around."""


def plan(
    release: Release, units: Sequence[Unit], inputs: Mapping[str, Inputs], images: Sequence[Image] = (), *, packs: bool
) -> Graph:
    """Build and check actions of `units` for each architecture in `inputs`, and with `packs` what is made of them."""
    values = release.values
    actions: list[Action] = []
    for unit in units:
        if unit.generate and any(a in inputs for a in unit.arches):
            actions.append(generate_action(unit, next(inputs[a] for a in unit.arches if a in inputs)))
        for arch in unit.arches:
            if arch in inputs:
                actions.append(COMPILERS[unit.build.compiler](unit, arch, values, inputs[arch]))
                actions.append(check_action(unit, arch, values, inputs[arch]))
    if packs:
        for node in (u for u in units if u.component == NODE):
            arches = [a for a in node.arches if a in inputs]
            actions += [notices_action(node, inputs[a]) for a in arches[:1]]
            actions += [tarball_action(node, arch, inputs[arch]) for arch in arches]
        if images and inputs:
            actions += image_actions(images, release, units, inputs, {}, [])
    return Graph(actions)
