"""Sources of kind git and archive: their files as one tar archive in the store, whose digest is the pin.

The archive is canonical (sorted, mode 644 or 755, time 0), so that whoever fetches the same commit or file has the
same bytes, and a build reads nothing but what the lock names.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import DefinitionError, NetworkError, SourceError
from pipeline.extract import extract_tar
from pipeline.lock import Snapshot
from pipeline.model import Digest, RootedPath
from pipeline.pack.tar import Entry, write_tar
from pipeline.sources.archive import MAX_ARCHIVE, check_given, unpack
from pipeline.sources.git import export_commit
from pipeline.sources.http import download
from pipeline.store import Output, Store, remove_tree
from pipeline.units import Unit
from pipeline.versions import fill

KINDS = ("git", "archive")
Origin = tuple[str, ...]
"""Where files come from, as a lock line says: `Snapshot.origin`."""
Refusal = tuple[Unit, NetworkError]


class Snapshots:
    """Makes, keeps and opens the snapshots of one store."""

    def __init__(self, store: Store, *, offline: bool = False, given: Mapping[str, Path] | None = None) -> None:
        self.store = store
        self.offline = offline
        self.given = dict(given or {})
        """Component to what the user names in place of its origin: an archive, or a git repository on disk."""

    def lock(self, units: Sequence[Unit], epoch: int) -> dict[str, Snapshot]:
        """The pins of those `units` that are of these kinds, by unit, all of them in the store afterwards.

        `epoch` is the time of what has none of its own.
        Raises DefinitionError if the release lacks a hash, SourceError, NetworkError naming all that is not served.
        """
        origins = {u.name: origin_of(u) for u in units if u.source.kind in KINDS}
        made, refused = self._make_all({origins[u.name]: u for u in self._given_last(units) if u.name in origins})
        if refused:
            raise NetworkError(f"{len(refused)} sources cannot be had:\n  {_lines(refused)}", _give(refused))
        pins = {}
        for unit in units:
            if origin := origins.get(unit.name):
                output, seconds = made[origin]
                time = datetime.fromtimestamp(seconds or epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                pins[unit.name] = Snapshot(unit.name, unit.source.kind, origin, output.size, output.digest, time)
        return pins

    def fetch(self, units: Sequence[Unit], pins: Mapping[str, Snapshot]) -> None:
        """Bring what is missing of the `pins` (by unit) of `units`.

        Raises NetworkError naming each that could not be had, SourceError if an origin serves something else.
        """
        wanted = [u for u in self._given_last(units) if u.name in pins]
        missing = {p.origin: u for u in wanted if not self.store.has((p := pins[u.name]).tar, p.size)}
        if missing and self.offline:
            names = "\n  ".join(f"component {u.component}: {describe(pins[u.name])}" for u in missing.values())
            raise NetworkError(
                f"{len(missing)} sources are not in the store, and --offline forbids fetching:\n  {names}",
                "run `./inv fetch` with network first",
            )
        made, refused = self._make_all(missing)
        for origin, (output, _) in made.items():
            unit = missing[origin]
            if output.digest != (pin := pins[unit.name]).tar:
                raise SourceError(
                    f"component {unit.component}: {describe(pin)}: the lock says that its files are {pin.tar}, "
                    f"the origin serves {output.digest}"
                )
        if refused:
            raise NetworkError(
                f"{len(refused)} pins are gone from their origin and not in the store:\n  {_lines(refused)}",
                "if the origin dropped them, renew the lock: `./inv lock --version VERSION --update`; "
                f"or {_give(refused)}",
            )

    def _given_last(self, units: Sequence[Unit]) -> list[Unit]:
        """Where units share an origin, the last one counts: that whose copy the user named."""
        return sorted(units, key=lambda u: u.component in self.given)

    def _make_all(self, wanted: Mapping[Origin, Unit]) -> tuple[dict[Origin, tuple[Output, int]], list[Refusal]]:
        made: dict[Origin, tuple[Output, int]] = {}
        refused: list[Refusal] = []
        for origin, unit in wanted.items():
            try:
                made[origin] = self._make(unit, origin)
            except NetworkError as error:
                refused.append((unit, error))
        return made, refused

    @contextmanager
    def folder(self, unit: Unit, pin: Snapshot) -> Iterator[Path]:
        """The files of a pin, checked and unpacked; a damaged one is fetched again."""
        tar = self.store.use(pin.tar)
        if tar is None:
            self.fetch([unit], {unit.name: pin})
            tar = self.store.use(pin.tar)
        if tar is None:
            raise SourceError(f"{describe(pin)} was damaged in the store and could not be fetched again")
        with self.store.workspace() as work:
            target = work / "src"
            target.mkdir()
            with tar.open("rb") as stream:
                extract_tar(stream, target, what=describe(pin))
            yield target

    def _make(self, unit: Unit, origin: Origin) -> tuple[Output, int]:
        """The canonical archive of an origin and the time of its files (0 if it tells none)."""
        with self.store.workspace() as work:
            files = work / "files"
            files.mkdir()
            given = self.given.get(unit.component)
            if unit.source.kind == "git":
                url, tag, commit = origin
                seconds = export_commit(given.as_uri() if given else url, tag, commit, work=work, target=files)
            else:
                url, digest = origin
                with self._archive(unit, url, Digest.parse(digest), given) as file:
                    files, seconds = unpack(file, files, f"component {unit.component}: {file if given else url}")
            tar = work / "files.tar"
            write_files(files, tar, f"component {unit.component}: {url}")
            return self.store.add(tar), seconds

    @contextmanager
    def _archive(self, unit: Unit, url: str, digest: Digest, given: Path | None) -> Iterator[Path]:
        """The archive as it is served; what was downloaded of it stays for the next run until it was unpacked."""
        if given:
            yield check_given(given, digest)
            return
        folder = self.store.root / "tmp" / f"archive-{digest.hex}"
        with self.store.exclusive(folder.name):
            folder.mkdir(exist_ok=True)
            urls = [url, *(_filled(unit, m) for m in unit.source.mirrors)]
            download(urls, folder / "file", digest=digest, limit=MAX_ARCHIVE)
            yield folder / "file"
            remove_tree(folder)


def origin_of(unit: Unit) -> Origin:
    """Where a unit's files come from, as its lock line says; raises DefinitionError if the release lacks the hash."""
    source, where = unit.source, f"component {unit.component}"
    if source.git:
        if unit.commit is None:
            raise DefinitionError(
                f"{where}: a git source needs the hash of its commit",
                f"name it in the release: {unit.component}: {{version: {unit.version}, commit: HASH}}",
            )
        return _filled(unit, source.git), _filled(unit, source.tag or "{version}"), unit.commit
    if unit.sha256 is None:
        raise DefinitionError(
            f"{where}: an archive needs its sha256",
            f"name it in the release: {unit.component}: {{version: {unit.version}, sha256: HEX}}",
        )
    return _filled(unit, str(source.archive)), f"sha256:{unit.sha256}"


def describe(pin: Snapshot) -> str:
    """How messages name a pin."""
    return " ".join([pin.kind, *pin.origin])


def write_files(folder: Path, target: Path, what: str) -> None:
    """Write the files below `folder` as a canonical archive; raises SourceError for what one cannot hold."""
    entries = []
    for parent, folders, files in os.walk(folder):
        for name in [*files, *(f for f in folders if os.path.islink(os.path.join(parent, f)))]:
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink():
                raise SourceError(f"{what}: {relative} is a symbolic link; sources hold plain files only")
            if not relative.isprintable():
                raise SourceError(f"{what}: a file is called {relative[:200]!r}; only printable UTF-8 names are taken")
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            path.chmod(mode)  # an archive may forbid to read it
            entries.append(Entry(RootedPath.parse(relative), mode, 0, path))
    if not entries:
        raise SourceError(f"{what}: holds no files")
    try:
        write_tar(target, entries, time=0)
    except (DefinitionError, ValueError) as error:  # names that differ only in case, or are too long
        raise SourceError(f"{what}: {error}") from error


def _filled(unit: Unit, template: str) -> str:
    return fill(template, unit.source_version, {})


def _lines(refused: Sequence[Refusal]) -> str:
    return "\n  ".join(f"component {u.component}: origin {u.source.kind}: {e.reason}" for u, e in refused)


def _give(refused: Sequence[Refusal]) -> str:
    return "give a copy: " + ", ".join(dict.fromkeys(f"--source {u.component}=PATH" for u, _ in refused))
