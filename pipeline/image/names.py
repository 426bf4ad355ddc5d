"""How the images of a release are called. Pure: definitions in, references out.

A tag holds no `+` (https://github.com/opencontainers/distribution-spec, "Pulling manifests"): RKE2 writes `-` in its
place, kubeadm and Helm `_`. Both forms resolve, so two names that differ in nothing else are a clash.
"""

import re
from dataclasses import dataclass

from pipeline.definitions import Definitions, Release
from pipeline.errors import DefinitionError
from pipeline.recipes import ImageRecipe
from pipeline.versions import fill

REGISTRY = "docker.io"
"""What a reference without a registry means to every container runtime; nothing is ever fetched from it here."""
ORGANISATION = "rfolabs"
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, order=True)
class Reference:
    """A name of an image: repository, such as `rfolabs/pause`, and tag."""

    repository: str
    tag: str

    def __post_init__(self) -> None:
        if not _TAG.fullmatch(self.tag):
            raise DefinitionError(
                f"{self.tag[:140]!r} cannot be a tag of an image", "a tag has up to 128 of A-Za-z0-9_.-"
            )

    @property
    def name(self) -> str:
        """The repository with its registry, as runtimes keep it."""
        return f"{REGISTRY}/{self.repository}"

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"


@dataclass(frozen=True)
class Image:
    """One image of a release, named."""

    recipe: ImageRecipe
    version: str
    """Of its component."""
    reference: Reference
    also: tuple[Reference, ...]
    """Further names: what kubeadm makes up."""

    @property
    def name(self) -> str:
        """As its recipe is called."""
        return self.recipe.name

    @property
    def references(self) -> tuple[Reference, ...]:
        """Every name it has."""
        return (self.reference, *self.also)


def images_of(release: Release, definitions: Definitions, marker: str | None) -> list[Image]:
    """The images of a release, by name; `marker` is the base that stands in for the definition's, and marks tags.

    Names that a program makes up by itself cannot carry it. Raises DefinitionError for an unknown recipe or component,
    and for two images with one name.
    """
    given = {"release": release.version, "build": release.date.strftime("%Y%m%d")}
    images = []
    taken: dict[tuple[str, str], str] = {}
    for name in sorted(set(release.images)):
        recipe = definitions.image(name)
        if recipe.component not in release.components:
            raise DefinitionError(
                f"image {name} is made of {recipe.component}, which release {release.version} does not have",
                "add the component to the release, or take the image out of its `images`",
            )
        version = release.components[recipe.component].version or release.version
        tag = fill(recipe.tag, version, given).replace("+", "-") + (f"-{marker}" if marker else "")
        others = [(a.name, fill(a.tag, version, given).replace("+", "_")) for a in recipe.also]
        references = [Reference(f"{ORGANISATION}/{n}", t) for n, t in [(name, tag), *others]]
        for reference in references:
            key = (reference.repository, reference.tag.replace("_", "-"))
            if (owner := taken.setdefault(key, name)) != name:
                raise DefinitionError(
                    f"images {owner} and {name} are both called {reference}, with + written as - or _",
                    "give one of them another tag",
                )
        images.append(Image(recipe, version, references[0], tuple(references[1:])))
    return images
