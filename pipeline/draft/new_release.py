"""`inv new-release`: the definition of a release made from that of another one, for people to review.

What follows Kubernetes moves with it, other components stay at their version and toolchain unless they are named,
and what is said about versions that are gone is left for review. Nothing here knows a component by name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.context import parse_pairs
from pipeline.definitions import ComponentChoice, Definitions, Deviation, GoVersion, PlatformChoice, Release, Version
from pipeline.draft.toolchains import DEFAULT, Toolchains
from pipeline.draft.yamledit import Document, Plain
from pipeline.errors import DefinitionError, HostError, UsageError
from pipeline.lock import write_atomically
from pipeline.locking import LockedSources, read_sources, write_sources
from pipeline.model import Digest, ReleaseVersion
from pipeline.sources.go import GoSources
from pipeline.units import Unit, lock_subject, units_of
from pipeline.versions import compare


@dataclass(frozen=True)
class Wish:
    """What the user asked for."""

    start: str
    """The release whose definition is taken."""
    version: str
    upstream: str = ""
    """The upstream tag; empty: the old one, or the first of another Kubernetes version."""
    date: datetime | None = None
    """The release's own date; None: today, 00:00 UTC."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Component to the version it shall have."""
    toolchains: Mapping[str, str] = field(default_factory=dict)
    """Component, or `DEFAULT`, to its Go."""


@dataclass(frozen=True)
class Draft:
    """A new definition that is not written yet."""

    release: Release
    path: Path
    text: str
    changes: tuple[str, ...]
    """What is different, a line each."""
    review: tuple[str, ...]
    """What only a person can decide, a line each."""
    locked: LockedSources | None = None
    """The old release's lock under the new name, where the same sources are read."""

    @property
    def commands(self) -> tuple[str, ...]:
        """What to type next."""
        version = self.release.version
        return (f"./inv lock --version {version}", f"./inv release --version {version}")


def make_wish(
    start: str, version: str, versions: Sequence[str], toolchains: Sequence[str], upstream: str, date: str
) -> Wish:
    """What a command line asks for; raises UsageError for what cannot be read."""
    if not start:
        raise UsageError("from which release? --from is missing", "list them with ./inv releases")
    named = parse_pairs(versions, "--set")
    gos = parse_pairs([g if "=" in g else f"{DEFAULT}={g}" for g in toolchains], "--go")
    for flag, kind, values in (("--set", Version, named.values()), ("--go", GoVersion, gos.values())):
        for value in values:
            try:
                TypeAdapter(kind).validate_python(value)
            except ValidationError:
                raise UsageError(f"{flag}: {value[:80]!r} is not a version") from None
    try:
        day = datetime.fromisoformat(date).replace(tzinfo=UTC) if date else None
    except ValueError:
        day = None
    if date and (day is None or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:]{8}Z)?", date)):
        raise UsageError(f"--date {date!r}: expected a day such as 2026-01-15")
    return Wish(start, version, upstream, day, named, gos)


def draft_release(wish: Wish, definitions: Definitions, go: GoSources, host: str) -> Draft:
    """The definition that `wish` asks for; writes nothing. `host` is the architecture that builds.

    Raises UsageError, DefinitionError, and NetworkError if the toolchain that Kubernetes needs cannot be asked for.
    """
    old = definitions.release(wish.start)
    path = definitions.root / "releases" / wish.version / "release.yaml"
    _refuse(wish, old, path)
    review: list[str] = []
    moved = _move(old, wish, review)
    toolchains = Toolchains(old, moved, wish.toolchains, definitions, go, host)
    new = toolchains.choose()
    review += toolchains.notes
    document = Document(_read(definitions, wish.start), f"releases/{wish.start}/release.yaml")
    gone = gone_numbers(old, new)
    stale = {i: reason for i, d in enumerate(old.deviations) if (reason := _outdated(d, gone, new))}
    new = new.model_copy(update={"deviations": tuple(d for i, d in enumerate(old.deviations) if i not in stale)})
    _edit(document, old, new)
    document.comment_out("deviations", {i: f"Review: names {reason}" for i, reason in stale.items()})
    review += [f"deviation {old.deviations[i].what!r} is commented out: it names {r}" for i, r in stale.items()]
    review += [f"comment {c!r} names {_stale(c, gone)}" for _, c in document.comments() if _stale(c, gone)]
    if new.upstream != old.upstream and new.deviations:
        review.append(f"{len(new.deviations)} deviations are carried over: compare them with {new.upstream}")
    text = document.render()
    _check(text, new, definitions, go)
    return Draft(new, path, text, tuple(_changes(old, new)), tuple(review), _carried(old, new, definitions))


def write_release(draft: Draft, definitions: Definitions) -> None:
    """Write the definition, and its lock if that is known. Raises HostError."""
    try:
        write_atomically(draft.path, draft.text.encode())
    except OSError as error:
        raise HostError(f"{error.filename or draft.path} cannot be written: {error.strerror}") from error
    if draft.locked:
        write_sources(definitions, draft.locked)


def gone_numbers(old: Release, new: Release) -> dict[str, str]:
    """Numbers that `old` has and `new` has not in the same place, as `3.5.4` and `3.5`, with what they were of."""
    gone: dict[str, str] = {}
    before, after = _numbers(old), _numbers(new)
    for owner, numbers in before.items():
        for number in numbers - after.get(owner, set()):
            gone.setdefault(number, f"{number} of {owner}")
    return gone


def _outdated(deviation: Deviation, gone: Mapping[str, str], new: Release) -> str:
    """Which numbers a deviation names that are gone; one that its own component still has is not."""
    name = deviation.component
    kept = set().union(*(ns for owner, ns in _numbers(new).items() if name and owner in (name, f"{name}'s Go")))
    return _stale(f"{deviation.what} {deviation.why}", {n: of for n, of in gone.items() if n not in kept})


def _numbers(release: Release) -> dict[str, set[str]]:
    """Every number in a release by what it is of, and the same without its last part."""
    found = {"the upstream release": {release.upstream}, "Go": {release.toolchains.go}}
    for name, choice in release.components.items():
        choices = (choice, *choice.platforms.values())
        found[name] = {c.version for c in choices if c.version}
        found[f"{name}'s Go"] = {c.go or release.toolchains.go for c in choices}
    exact = {owner: {n for v in versions for n in _mentioned(v)} for owner, versions in found.items()}
    return {o: ns | {n.rpartition(".")[0] for n in ns if n.count(".") > 1} for o, ns in exact.items()}


def _mentioned(text: str) -> list[str]:
    """The version numbers in a text, without their v and what follows a - or +."""
    return re.findall(r"(?<![\w.])v?([0-9]+(?:\.[0-9]+)+)(?!\w)", text)


def _stale(text: str, gone: Mapping[str, str]) -> str:
    """Which numbers in `text` are gone; empty if none is."""
    return ", ".join(dict.fromkeys(gone[n] for n in _mentioned(text) if n in gone))


def _refuse(wish: Wish, old: Release, path: Path) -> None:
    """Raise UsageError for what cannot be."""
    ReleaseVersion.parse(wish.version)
    if path.exists() or path.is_symlink():
        raise UsageError(
            f"{path.relative_to(path.parents[2])} exists", f"choose another --version, or remove it: rm '{path}'"
        )
    for flag, names in (("--set", wish.versions), ("--go", [n for n in wish.toolchains if n != DEFAULT])):
        if unknown := sorted(set(names) - set(old.components)):
            raise UsageError(
                f"{flag}: {wish.start} has no component {unknown[0]}", f"it has: {', '.join(sorted(old.components))}"
            )
    if built_here := [n for n in wish.versions if old.components[n].version is None]:
        raise UsageError(f"--set: {built_here[0]} is built from this repository and has the release's own version")
    if wish.date is None or _kubernetes(old.version) != _kubernetes(wish.version):
        return
    if wish.date < old.date and ReleaseVersion.parse(wish.version) > ReleaseVersion.parse(old.version):
        raise UsageError(f"--date {wish.date:%Y-%m-%d}: {wish.start}, which is older, is of {old.date:%Y-%m-%d}")


def _kubernetes(version: str) -> str:
    """`1.25.4` of `v1.25.4+rfor1`."""
    return version.removeprefix("v").partition("+")[0]


def _move(old: Release, wish: Wish, review: list[str]) -> Release:
    """`old` with the new release's name, date and versions; its toolchains are still the old ones."""
    before, after = _kubernetes(old.version), _kubernetes(wish.version)
    components = {}
    for name, choice in old.components.items():
        version = wish.versions.get(name) or choice.version
        if version and name not in wish.versions and version.removeprefix("v") == before:
            version = version.replace(before, after)
        components[name] = choice if version == choice.version else _renewed(name, choice, version, old, review)
    return old.model_copy(
        update={
            "version": wish.version,
            "upstream": wish.upstream or _upstream(old, before, after),
            "date": wish.date or datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0),
            "components": components,
        }
    )


def _upstream(old: Release, before: str, after: str) -> str:
    """The old upstream tag, or the first one of another Kubernetes version."""
    if before == after:
        return old.upstream
    match = re.fullmatch(r"v[0-9.]+(\+[a-z0-9]*[a-z])[0-9]+", old.upstream)
    if not match:
        raise UsageError(
            f"{old.version} follows {old.upstream!r}, from which no other tag can be made",
            "name it: --upstream vX.Y.Z+rke2rN",
        )
    return f"v{after}{match[1]}1"


def _renewed(
    name: str, choice: ComponentChoice, version: str | None, old: Release, review: list[str]
) -> ComponentChoice:
    """Another version: pins of the old content go, and an architecture's own version stays only if it is newer."""
    platforms = {}
    for arch, own in choice.platforms.items():
        if version and own.version and compare(own.version, version) > 0:
            go = own.go or choice.go or old.toolchains.go
            platforms[arch] = own.model_copy(update={"go": go})
            review.append(f"{name} keeps {own.version} on {arch}, which is newer than {version}")
        else:
            review.append(f"{name} has no version of its own on {arch} any more (was: {_said(own)})")
    if lost := [k for k in ("sum", "commit", "sha256") if getattr(choice, k)]:
        review.append(f"{name}: {', '.join(lost)} of {choice.version} is gone; write that of {version} if it is needed")
    return ComponentChoice(version=version, platforms=platforms)


def _said(choice: PlatformChoice) -> str:
    go = [f"go {choice.go}"] if choice.go else []
    return ", ".join([*([choice.version] if choice.version else []), *go]) or "the default"


def _edit(document: Document, old: Release, new: Release) -> None:
    document.replace(("version",), new.version)
    document.replace(("date",), new.date)
    if new.upstream != old.upstream:
        document.replace(("upstream",), new.upstream)
    if new.toolchains != old.toolchains:
        document.replace(("toolchains", "go"), new.toolchains.go)
    for name, choice in new.components.items():
        if choice != old.components[name]:
            document.replace(("components", name), _plain(choice))


def _plain(choice: ComponentChoice) -> Plain:
    """A choice as people write it: text where the version says all."""
    facts = choice.model_dump(exclude_none=True, exclude_defaults=True)
    return facts["version"] if set(facts) == {"version"} else facts


def _changes(old: Release, new: Release) -> list[str]:
    pairs = [
        ("version", old.version, new.version),
        ("upstream", old.upstream, new.upstream),
        ("date", old.values["date"], new.values["date"]),
        ("go", old.toolchains.go, new.toolchains.go),
    ]
    for name, choice in new.components.items():
        was = old.components[name]
        pairs.append((name, _said(was), _said(choice)) if was != choice else (name, "", ""))
    return [f"{name}: {before} -> {after}" for name, before, after in pairs if before != after]


def _read(definitions: Definitions, version: str) -> str:
    path = definitions.root / "releases" / version / "release.yaml"
    return path.read_bytes().decode("utf-8")  # read_yaml accepted it; line ends stay


def _check(text: str, meant: Release, definitions: Definitions, go: GoSources) -> None:
    """Raise DefinitionError unless the text is read as what was meant, with all that is checked of a definition."""
    with go.store.workspace() as work:
        file = work / "releases" / meant.version / "release.yaml"
        file.parent.mkdir(parents=True)
        file.write_bytes(text.encode())
        for name in ("components", "images"):
            (work / name).symlink_to(definitions.root / name)
        if Definitions(work).release(meant.version) != meant:
            raise DefinitionError(
                f"the layout of {meant.version}'s model cannot be edited without changing what it says",
                "copy release.yaml and edit it by hand",
            )


def _carried(old: Release, new: Release, definitions: Definitions) -> LockedSources | None:
    """The old lock for the new release, if it says all that the new one needs; then nothing has to be asked again."""
    before, after = units_of(old, definitions), units_of(new, definitions)
    try:
        found = read_sources(definitions, old, before)
    except DefinitionError:
        return None
    if found is None or _sources(before) != _sources(after):
        return None
    return LockedSources(replace(found.lock, release=new.version, definition=lock_subject(after)), found.overlays)


def _sources(units: Sequence[Unit]) -> Digest:
    """What a lock would be made from, but for the release's own version, which names no source of a tree."""
    return lock_subject([replace(u, source_version="") if u.source.tree else u for u in units])
