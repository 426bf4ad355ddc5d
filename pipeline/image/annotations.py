"""What an image says of itself: the standard annotations, which are its labels too. Pure.

https://github.com/opencontainers/image-spec/blob/v1.1.0/annotations.md. An image is made from source, not from
another image: its base is the distribution whose packages are in it, by the name of its definition; the digest is that
of the lowest layer, which the step that has the layer adds.
"""

from collections.abc import Sequence

from pipeline.definitions import Release
from pipeline.image.names import ORGANISATION, Image
from pipeline.inputs import Inputs
from pipeline.units import Unit

PREFIX = "org.opencontainers.image"
OWN = "io.rfolabs"
"""Of annotations that no standard has."""


def annotations(
    image: Image, release: Release, units: Sequence[Unit], inputs: Inputs, arches: Sequence[str]
) -> dict[str, str]:
    """Annotations of an image on one architecture, or with no `arches` of its index."""
    unit = next(u for u in units if u.component == image.recipe.component)
    found = {
        "authors": ORGANISATION,
        "created": release.values["date"],
        "description": image.recipe.title,
        "licenses": unit.license,
        "ref.name": image.reference.tag,
        "revision": _revision(unit, inputs),
        "source": _source(unit),
        "title": image.name,
        "vendor": ORGANISATION,
        "version": image.version,
    }
    base = inputs.roots.base.name
    own = {f"{OWN}.release": release.version}
    if image.recipe.layer and arches:
        found["base.name"] = base
        own[f"{OWN}.stand-in"] = str(base != release.bases[arches[0]]).lower()
    return {f"{PREFIX}.{k}": v for k, v in found.items() if v} | own


def _source(unit: Unit) -> str:
    """Where the source is found: a module's path is a URL without its scheme (https://go.dev/ref/mod#vcs-find)."""
    if unit.source.go:
        return f"https://{unit.source.go}"
    return unit.source.git or unit.source.archive or ""


def _revision(unit: Unit, inputs: Inputs) -> str:
    """What names the source exactly: a commit, else the digest that its lock has."""
    lock = inputs.locked.lock
    if main := lock.mains.get(unit.name):
        return f"{main.module.version} {main.module.sum}"
    pin = lock.snapshots.get(unit.name)
    return "" if pin is None else pin.origin[-1]
