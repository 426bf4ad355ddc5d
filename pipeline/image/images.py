"""The images of a release as actions: layers, images, inspections, indexes, the layout, and offline bundles. Pure."""

from collections.abc import Mapping, Sequence

from pipeline.definitions import Release
from pipeline.errors import DefinitionError
from pipeline.graph import Action, Ref
from pipeline.image.annotations import annotations
from pipeline.image.assemble import image_action
from pipeline.image.bundle import ALL, bundle_action
from pipeline.image.index import INDEX, index_action, layout_action
from pipeline.image.inspect import inspect_action
from pipeline.image.layer import Program, file_layer, program_layer, system_layer
from pipeline.image.names import Image, Reference
from pipeline.inputs import Inputs
from pipeline.model import platform
from pipeline.recipes import Programs
from pipeline.sbom.actions import image_sbom_action
from pipeline.units import Unit

Artifact = tuple[Ref, str, Sequence[Reference]]
"""Of the layout besides images: which output, its media type, and its names."""


def image_actions(
    images: Sequence[Image],
    release: Release,
    units: Sequence[Unit],
    inputs: Mapping[str, Inputs],
    charts: Mapping[str, Ref],
    artifacts: Sequence[Artifact],
) -> list[Action]:
    """Everything that `images` need on each architecture of `inputs`.

    `charts` are the manifests that an image may carry, by file name; `artifacts` stand in the layout as well.
    Raises DefinitionError for a program or layer that an architecture lacks.
    """
    actions: dict[str, Action] = {}
    layers: dict[tuple[str, str], list[str]] = {}
    for arch, given in inputs.items():
        for image in images:
            made, programs = _layers(image, arch, units, given, charts)
            actions |= {a.name: a for a in made}
            layers[image.name, arch] = [a.name for a in made]
            about = annotations(image, release, units, given, [arch])
            for action in (
                image_action(image, arch, layers[image.name, arch], about, release.values["date"]),
                inspect_action(image, arch, layers[image.name, arch], programs, release.values, given),
                image_sbom_action(image, arch, layers[image.name, arch], programs, about, given, release),
            ):
                actions[action.name] = action
    anyone = next(iter(inputs.values()))
    found = list(actions.values())
    for image in images:
        found.append(index_action(image, list(inputs), annotations(image, release, units, anyone, [])))
    named: list[Artifact] = [(Ref(f"index/{i.name}", "index.json"), INDEX, i.references) for i in images]
    found.append(layout_action([*named, *artifacts]))
    for arch, given in inputs.items():
        of = {i.name: layers[i.name, arch] for i in images}
        found += [bundle_action(name, members, of, arch, given) for name, members in sets_of(images).items()]
    return found


def sets_of(images: Sequence[Image]) -> dict[str, list[Image]]:
    """The offline bundles, by name, and what is in each; all images are one of them."""
    names = sorted({i.recipe.set for i in images})
    return {ALL: list(images)} | {name: [i for i in images if i.recipe.set == name] for name in names}


def _layers(
    image: Image, arch: str, units: Sequence[Unit], inputs: Inputs, charts: Mapping[str, Ref]
) -> tuple[list[Action], list[Program]]:
    """The layers of an image, the lowest first, and the programs in them."""
    recipe = image.recipe
    if recipe.layer is not None and recipe.layer not in inputs.roots.base.layers:
        system_layer(recipe.layer, arch, inputs)  # says which there are
    system = inputs.roots.base.below(recipe.layer) if recipe.layer else []
    layers = [system_layer(role, arch, inputs) for role in system]
    programs: list[Program] = []
    for group in recipe.programs:
        members = _programs(image, group, arch, units)
        programs += members
        name = f"{image.name}.{group.component}" + (f".{group.only[0]}" if group.only else "")
        layers.append(program_layer(name, members, arch, inputs))
    if doubled := sorted({p.path for p in programs if [q.path for q in programs].count(p.path) > 1}):
        raise DefinitionError(f"image {image.name} has {doubled[0]} twice", "mend its `programs`")
    if recipe.charts and charts:
        files = {f"{recipe.charts}/{name}": ref for name, ref in charts.items()}
        layers.append(file_layer(f"{image.name}.charts", files, arch, inputs))
    return layers, programs


def _programs(image: Image, group: Programs, arch: str, units: Sequence[Unit]) -> list[Program]:
    """The programs that a group asks for, each with the unit that builds it for `arch`."""
    built = {b: u for u in units if u.component == group.component and arch in u.arches for b in u.build.binaries}
    missing = sorted(set(group.only) - set(built)) or ([] if built else [f"any program of {group.component}"])
    if missing:
        known = ", ".join(sorted(built)) or "none"
        raise DefinitionError(
            f"image {image.name} needs {missing[0]}, which the release does not build for {platform(arch)} "
            f"(of {group.component} it builds: {known})",
            "add the component to the release, or mend the image's `programs`",
        )
    folder = "" if group.to in (".", "./") else f"{group.to.strip('/')}/"
    return [Program(f"{folder}{name}", name, built[name]) for name in sorted(group.only or built)]
