"""What people write about images: which programs they hold, on which layers, and their names. Models; no I/O."""

from typing import Annotated

from pydantic import Field, StrictBool, field_validator

from pipeline.strict import Arch, Inside, Name, Strict, Text, parse_size

Template = Annotated[str, Field(pattern=r"^[A-Za-z0-9_{][A-Za-z0-9_.+{}-]{0,127}$")]
"""Of a tag: {release}, {version} (of the image's component) and {build} (the release's day) may stand in it."""


class Programs(Strict):
    """Programs of one component that become one layer."""

    component: Name
    to: Inside
    only: tuple[Name, ...] = ()
    """Which of its programs; all of them if none is named."""


class Also(Strict):
    """Another name of an image, for programs that make it up by themselves."""

    name: Name
    tag: Template
    """`+` becomes `_`, as in kubeadm and Helm."""


class ImagePlatform(Strict):
    """What an image has otherwise on one architecture."""

    environment: dict[str, str] = Field(default_factory=dict)


class ImageRecipe(Strict):
    """One image of the release."""

    name: Name
    title: Text
    component: Name
    """Whose version, licence and source the image is labelled with."""
    tag: Template
    """`+` becomes `-`, as RKE2 does."""
    also: tuple[Also, ...] = ()
    set: Name
    """The offline bundle that it is part of."""
    node: StrictBool = False
    """Whether the node starts it by itself; every other image must be named by a chart."""
    layer: Name | None = None
    """Layer of the base that it starts from; None: from nothing."""
    programs: tuple[Programs, ...] = Field(min_length=1)
    charts: Inside | None = None
    """Folder that gets the release's charts as HelmChart manifests."""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: Annotated[str, Field(pattern=r"^[0-9]{1,5}(:[0-9]{1,5})?$")] = "0:0"
    environment: dict[str, str] = Field(default_factory=dict)
    platforms: dict[Arch, ImagePlatform] = Field(default_factory=dict)
    budget: str
    """What all of its layers, compressed, may take on any architecture."""
    start: StrictBool = True
    """Whether its programs can be started inside of it, which the checks then do."""

    @field_validator("budget")
    @classmethod
    def _budget(cls, value: str) -> str:
        parse_size(value)
        return value
