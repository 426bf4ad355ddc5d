"""Which Go toolchains a new release takes: asked of the go.mod files and the source of what it is made of.

Only origins decide what is served: what they list and then confirm is taken, and nothing else is tried.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from pipeline.definitions import ComponentChoice, Definitions, Release
from pipeline.definitions import Toolchains as Defaults
from pipeline.errors import NetworkError
from pipeline.sources.go import GoSources, Refusal
from pipeline.sources.gomod import needed_go
from pipeline.strict import MAX_FILE, read_yaml
from pipeline.units import Unit, units_of
from pipeline.versions import compare, numbers

MODULE = "golang.org/toolchain"
DEFAULT = "*"
"""In place of a component's name: every one that names no toolchain."""
TESTED = Path(__file__).parent / "new_release.yaml"
"""Where a Kubernetes source says what it was tested with."""


class Toolchains:
    """The choice for one new release; `notes` are what a person should know of it."""

    def __init__(
        self, old: Release, moved: Release, given: Mapping[str, str], definitions: Definitions, go: GoSources, host: str
    ) -> None:
        """`moved` has the new versions and still the toolchains of `old`; `given` is what the user named."""
        self.old = old
        self.moved = moved
        self.given = given
        self.go = go
        self.host = host
        self.notes: list[str] = []
        self.units = [u for u in units_of(moved, definitions) if u.build.compiler == "go"]

    def choose(self) -> Release:
        """The release with its toolchains. Raises NetworkError if Kubernetes' own need cannot be asked for."""
        default = self.given.get(DEFAULT) or self._default()
        kept_go = self.old.toolchains.go if default != self.old.toolchains.go and not self.given.get(DEFAULT) else None
        release = self.moved.model_copy(update={"toolchains": Defaults(go=default)})
        components = dict(release.components)
        unchanged = []
        for name, choice in components.items():
            units = [u for u in self.units if u.component == name]
            if name in self.given:
                components[name] = choice.model_copy(update={"go": self.given[name]})
            elif choice != self.old.components[name]:
                components[name] = self._sufficient(name, choice, units, default)
            elif kept_go and units and choice.go is None:
                components[name] = choice.model_copy(update={"go": kept_go})
                unchanged.append(name)
        if unchanged:
            self.notes.append(f"unchanged, and so still built with Go {kept_go}: {', '.join(unchanged)}")
        return release.model_copy(update={"components": components})

    def _default(self) -> str:
        """The toolchain of what follows Kubernetes: the old one if it does, else one like upstream's."""
        current = self.old.toolchains.go
        if self.old.version.partition("+")[0] == self.moved.version.partition("+")[0]:
            return current
        core = [u for u in self.units if self._follows(u)]
        if not core:
            return current
        self._refuse_unknown(core)
        need = max((self.needs[u.module] for u in core), key=numbers)
        tested = self._tested(core)
        if tested and compare(tested, need) < 0:
            tested = ""
        if _minor(current) == _minor(tested or need) and compare(current, need) >= 0:
            return current
        found = self._served(need, tested)
        if not found:
            raise NetworkError(
                f"{self.moved.version} needs Go {need} or later of {_minor(tested or need)}, "
                "and no such toolchain is served",
                "name another one: --go VERSION",
            )
        if tested not in ("", found):
            self.notes.append(
                f"Go {found} in place of {tested}, which upstream's Kubernetes used: record it under deviations"
            )
        return found

    def _follows(self, unit: Unit) -> bool:
        return unit.version.removeprefix("v") == self.moved.version.removeprefix("v").partition("+")[0]

    def _refuse_unknown(self, core: Sequence[Unit]) -> None:
        refused = {u.module: u for u in core if u.module in self.refusals}
        if not refused:
            return
        lines = []
        for module, unit in refused.items():
            lines.append(f"component {unit.component}: origin go module {module}: {self.refusals[module]}")
            lines += [f"  {near}" for near in [self.go.near(module)] if near]
        raise NetworkError(
            f"the Go toolchain that {self.moved.version} needs cannot be asked for:\n  " + "\n  ".join(lines),
            "choose a version that is served, or name the toolchain: --go VERSION",
        )

    @cached_property
    def _answers(self) -> dict[str, dict[str, Any] | Refusal]:
        """What the origins say of each module whose component changed."""
        changed = [u for u in self.units if self.moved.components[u.component] != self.old.components[u.component]]
        modules = sorted({u.module for u in changed if u.source.go})
        return dict(zip(modules, self.go.describe(modules), strict=True))

    @cached_property
    def needs(self) -> dict[str, str]:
        """`path@version` to the Go that its go.mod asks for."""
        found = {}
        for module, answer in self._answers.items():
            if not isinstance(answer, Refusal):
                found[module] = needed_go(Path(answer["GoMod"]).read_text(encoding="utf-8", errors="replace"))
        return found

    @cached_property
    def refusals(self) -> dict[str, str]:
        """`path@version` to why its origin would not answer."""
        return {m: a.reason for m, a in self._answers.items() if isinstance(a, Refusal)}

    def _tested(self, core: Sequence[Unit]) -> str:
        """The toolchain that the source of `core` names; where its other pins differ from the release is noted."""
        names = read_yaml(TESTED)
        good, _ = self.go.download(sorted({u.module for u in core}))
        pins: dict[str, str] = {}
        for got in good:
            pins |= _pinned(got.folder / names["file"])
        for component, name in names["components"].items():
            choice = self.moved.components.get(component)
            pin = pins.get(name, "").removeprefix("v")
            if choice and choice.version and pin and compare(choice.version, pin):
                flag = f"--set {component}={'v' if choice.version.startswith('v') else ''}{pin}"
                self.notes.append(f"{component} is {choice.version}; Kubernetes was tested with {pin} ({flag})")
        go = pins.get(names["go"], "")
        return go if re.fullmatch(r"1\.[0-9]{1,4}(\.[0-9]{1,4})?", go) else ""

    def _sufficient(self, name: str, choice: ComponentChoice, units: Sequence[Unit], default: str) -> ComponentChoice:
        """A changed component with a toolchain of its own where the default is older than its go.mod allows."""
        mine = [u for u in units if choice.platforms.keys().isdisjoint(u.arches) and u.module in self._answers]
        for module in sorted({u.module for u in mine} & set(self.refusals)):
            self.notes.append("; ".join([f"{name}: {self.refusals[module]}", *filter(None, [self.go.near(module)])]))
        need = max((self.needs[u.module] for u in mine if u.module in self.needs), key=numbers, default=default)
        if compare(default, need) >= 0:
            return choice
        others = {c.go for c in self.moved.components.values() if c.go} | {self.old.toolchains.go}
        found = min((g for g in others if compare(g, need) >= 0), key=numbers, default="") or self._served(need)
        if not found:
            self.notes.append(f"{name} needs Go {need}, and no such toolchain is served: choose another version of it")
            return choice
        self.notes.append(f"{name} needs Go {need} and takes {found}; the default is {default}")
        return choice.model_copy(update={"go": found})

    def _served(self, need: str, exact: str = "") -> str:
        """`exact` if it is served for this host, else the newest of its minor version, or of that of `need`, that is.

        Empty if none is; none is older than `need`.
        """
        form = re.compile(rf"v0\.0\.1-go(1\.[0-9]+(?:\.[0-9]+)?)\.linux-{self.host}")
        listed = [match[1] for v in self._listed if (match := form.fullmatch(v))]
        fit = [g for g in listed if _minor(g) == _minor(exact or need) and compare(g, need) >= 0]
        fit.sort(key=lambda g: (g == exact, numbers(g)), reverse=True)
        refused = {r.module for r in self.go.probe([self._module(g) for g in fit])}
        return next((g for g in fit if self._module(g) not in refused), "")

    @cached_property
    def _listed(self) -> list[str]:
        return self.go.versions(MODULE)

    def _module(self, go: str) -> str:
        return f"{MODULE}@v0.0.1-go{go}.linux-{self.host}"


def _pinned(file: Path) -> dict[str, str]:
    """Name to version of a list of dependencies; empty if the file is missing or of another form.

    All of it is read as text: 3.10 is not 3.1.
    """
    try:
        with file.open("rb") as stream:
            data = yaml.load(stream.read(MAX_FILE), Loader=yaml.BaseLoader)  # noqa: S506 - text only
        return {e["name"]: e["version"] for e in data["dependencies"] if isinstance(e.get("version"), str)}
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _minor(go: str) -> str:
    """`1.24` of `1.24.13`."""
    return ".".join(go.split(".")[:2])
