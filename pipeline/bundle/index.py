"""What a source bundle consists of: the members that locks call for, and `bundle.json`, which lists all of them.

    bundle.json                     the list; always the first member
    licences/MEMBER.txt             the terms of what MEMBER holds, for people
    locks/                          sources.lock, overlays, locks of bases
    modules/PATH/@v/VERSION.zip     Go modules and toolchains, laid out as a module proxy
    modules/PATH/@v/VERSION.mod     go.mod files that resolving the module graph reads
                                    (and zips that it looks into and takes nothing from: go.sum names these)
    packages/BASE/PATH              packages of every root
    snapshots/DIGEST.tar            files of git and archive sources

Pure; no I/O beyond what the context reads.
"""

import json
from typing import Annotated, Literal

from pydantic import Field, StrictInt, ValidationError

from pipeline.context import Context
from pipeline.errors import SourceError
from pipeline.lock import Package, Snapshot, lock_text
from pipeline.model import Digest, Module, escape_module
from pipeline.sources.gocache import GoSums
from pipeline.sources.snapshot import describe as describe_snapshot
from pipeline.strict import Strict, parsed_by

FILE = "rfo-sources.tar.zst"
INDEX = "bundle.json"
SCHEMA = "https://rfolabs.github.io/rfo/sources/v1"
"""Names the format; it is an identifier, not a place."""
MAX_TEXT = 16 << 20
"""Bytes of bundle.json, a lock, a go.mod or a file of licences."""

Pin = Module | Package | Snapshot | bytes
"""What a member has to be: a pin of a lock, or the text of a lock."""


class Member(Strict):
    """One file of a bundle."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    digest: Annotated[str, parsed_by(Digest.parse)]
    size: Annotated[StrictInt, Field(ge=0)]
    pin: str
    """What it serves, for people: the importer goes by the locks."""


class Index(Strict):
    """`bundle.json`."""

    schema_: Literal["https://rfolabs.github.io/rfo/sources/v1"] = Field(alias="schema")
    version: str
    components: tuple[str, ...]
    """Whose sources are inside."""
    bases: dict[str, str]
    """Architecture to the base whose packages are inside."""
    members: tuple[Member, ...]
    """All others, in the order of the archive."""

    def render(self) -> bytes:
        """Its bytes: equal bundles have equal ones."""
        return (json.dumps(self.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, what: str) -> "Index":
        """Read `bundle.json` of the bundle called `what`; raises SourceError."""
        try:
            index = cls.model_validate_json(data)
        except ValidationError as error:
            item = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
            raise SourceError(f"{what}: {INDEX}: key {key}: {item['msg']}") from error
        names = [m.name for m in index.members]
        if twice := next((a for a, b in zip(sorted(names), sorted(names)[1:], strict=False) if a == b), None):
            raise SourceError(f"{what}: {INDEX} lists {twice[:200]!r} twice")
        return index


def pins_of(context: Context) -> dict[str, Pin]:
    """Every member that the locks call for, by name; go.mod files and licences come on top."""
    sources = context.sources
    pins: dict[str, Pin] = {"locks/sources.lock": lock_text(sources.lock)}
    for unit in context.units:
        if overlay := sources.overlays.get(unit.name):
            pins[f"locks/overlay/{unit.name}/go.mod"] = overlay.mod.encode()
            pins[f"locks/overlay/{unit.name}/go.sum"] = overlay.sum.encode()
        if snapshot := sources.lock.snapshots.get(unit.name):
            pins.setdefault(f"snapshots/{snapshot.tar.hex}.tar", snapshot)
    for arch, inputs in context.inputs.items():
        base = inputs.roots.base
        pins[base_lock_name(base.name)] = lock_text(inputs.roots.lock)
        pins |= {module_name(m.path, m.version, "zip"): m for u in context.units for m in inputs.modules(u)}
        for role in base.recipes:
            pins |= {f"packages/{base.name}/{p.path}": p for p in inputs.roots.find(role, arch).packages}
    return pins


def sums_of(context: Context) -> GoSums:
    """What the go.sum files of the chosen components' sources and overlays say; these are in place and checked."""
    inputs = next(iter(context.inputs.values()))  # modules do not depend on the base
    sums = GoSums()
    for unit in context.units:
        if unit.build.compiler == "go":
            with inputs.source(unit) as source, inputs.modfile(unit, source) as modfile:
                sums.add(modfile.with_suffix(".sum").read_text(encoding="utf-8"))
    return sums


def base_lock_name(base: str) -> str:
    """The member that is the lock of a base."""
    return f"locks/bases/{base}.lock"  # before all others: it says which packages there are


def module_name(path: str, version: str, suffix: str) -> str:
    """The member that is a module's `zip` or `mod`."""
    return f"modules/{escape_module(path)}/@v/{escape_module(version)}.{suffix}"


def licence_name(name: str) -> str:
    """The member with the terms of another one."""
    return f"licences/{name}.txt"


def describe(name: str, pin: Pin) -> str:
    """How a bundle and messages name what a member has to be."""
    match pin:
        case Module():
            return f"module {pin} {pin.sum}"
        case Package():
            return f"package {pin.name} {pin.version} {pin.digest}"
        case Snapshot():
            return f"{describe_snapshot(pin)} {pin.tar}"
    return f"lock {name.removeprefix('locks/')}"
