"""What people write about bases: roots that builds run in, and layers that images start from. Models; no I/O."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, StrictInt, model_validator

from pipeline.strict import Arch, Inside, Name, Strict, Text


class RootRecipe(Strict):
    """One root assembled from a base's packages: what is asked for and what scripts would have made."""

    packages: tuple[str, ...]
    per: Literal["host", "target"]
    """`host`: for the machine that builds. `target`: one for each architecture of the release."""
    dependencies: StrictBool = True
    """Whether what the packages depend on comes along; without, only scripts would need it."""
    drop: tuple[str, ...] = ()
    """Path prefixes that are left out."""
    directories: dict[str, Annotated[StrictInt, Field(ge=0, le=0o1777)]] = Field(default_factory=dict)
    links: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)


class Start(Strict):
    """How a program of a layer shows that it starts."""

    program: Inside
    args: tuple[str, ...]
    emulated: StrictBool = True
    """Whether user-mode emulation can run it: it knows no netfilter sockets."""


class LayerRecipe(RootRecipe):
    """Operating system content that images start from: a root whose tree becomes a layer."""

    per: Literal["target"] = "target"
    above: Name | None = None
    """The layer that it stands on, whose packages it does not repeat."""
    certificates: tuple[Inside, ...] = ()
    """Files (patterns) of CA certificates that become one bundle, as the distribution's own script would write it."""
    bundle: Inside | None = None
    """Where that bundle stands."""
    starts: tuple[Start, ...] = ()
    """What must start in an image with this layer: its programs, and plugins through them."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if bool(self.certificates) != bool(self.bundle):
            raise ValueError("certificates and bundle need each other")
        return self


class Base(Strict):
    """The operating system content that builds run in and images start from."""

    name: Name
    title: Text | None = None
    """As people call it."""
    dist: Annotated[str, Field(pattern=r"^(\.[a-z][a-z0-9]{0,15})?$")] = ""
    """`%dist` of RPM packages that are made on it; none are made on a base without."""
    family: Literal["deb", "rpm"]
    floating: StrictBool = False
    """A stand-in whose lock is made at first use and never committed."""
    origin: str
    """deb: the distribution (`Origin:` of its Release files) whose mirror the host's apt is configured with.
    rpm: the repository's URL."""
    keys: tuple[Annotated[str, Field(pattern=r"^[0-9A-F]{40}$")], ...] = Field(min_length=1)
    """Fingerprints of the OpenPGP keys that may sign metadata and packages."""
    key_file: str = ""
    """rpm: where the repository serves its key, relative to `origin` (`{rpm_arch}` may stand in it).

    It is used only if its fingerprint is in `keys`.
    """
    suites: dict[Arch, tuple[str, ...]]
    """deb: suites per architecture, the first that resolves is taken. rpm: repositories, all of them are used."""
    rootfs: dict[Arch, str] = Field(default_factory=dict)
    """rpm: path of the official root file system archive, relative to `origin`."""
    roots: dict[Literal["builder", "sysroot", "emulator", "engine", "packer", "packages"], RootRecipe]
    layers: dict[Name, LayerRecipe] = Field(default_factory=dict)
    compilers: dict[Arch, str]
    """The C compiler command for each target, inside the builder root; `{sysroot}` is the target's sysroot."""

    @model_validator(mode="after")
    def _packages_are_named(self) -> Self:
        if bool(self.dist) != ("packages" in self.roots):
            raise ValueError("dist and roots.packages need each other")
        if self.floating and self.dist.startswith(".oe"):
            raise ValueError("dist: .oe is openEuler's; what is made on a stand-in must not pass for it")
        return self

    @model_validator(mode="after")
    def _layers_stand(self) -> Self:
        if both := sorted(set(self.layers) & set(map(str, self.roots))):
            raise ValueError(f"{both[0]} is a root and a layer")
        for name in self.layers:
            seen = [name]
            while (lower := self.layers[seen[-1]].above) is not None:
                if lower not in self.layers or lower in seen:
                    raise ValueError(f"layers.{seen[-1]}.above: {lower} is no other layer that it could stand on")
                seen.append(lower)
        return self

    @property
    def recipes(self) -> Mapping[str, RootRecipe]:
        """Everything that is assembled from packages, by role: roots and layers."""
        return {**{str(k): v for k, v in self.roots.items()}, **self.layers}

    @property
    def targets(self) -> list[str]:
        """The roles that each architecture of a release has for itself."""
        return [role for role, recipe in self.recipes.items() if recipe.per == "target"]

    def below(self, layer: str) -> list[str]:
        """A layer with all that it stands on, the lowest first."""
        found = [layer]
        while (lower := self.layers[found[0]].above) is not None:
            found.insert(0, lower)
        return found
