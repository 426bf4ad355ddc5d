"""A base's lock: committed with the release, or, for a floating stand-in, made at first use and kept in the store."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.base import family
from pipeline.bases import Base
from pipeline.definitions import Definitions
from pipeline.errors import DefinitionError, HostError, NetworkError
from pipeline.graph import canonical
from pipeline.lock import BaseLock, lock_text, read_lock, write_atomically
from pipeline.locking import lock_folder
from pipeline.model import Digest
from pipeline.report.progress import Progress
from pipeline.store import Store


def base_lock_path(base: Base, version: str, definitions: Definitions, store: Store) -> Path:
    """Where the lock of `base` stands for a release."""
    folder = store.root / "locks-of-bases" if base.floating else lock_folder(definitions, version)
    return folder / f"{base.name}.lock"


def base_subject(base: Base) -> Digest:
    """What a base's lock is made from: another one needs another lock."""
    roots = {role: [recipe.per, recipe.dependencies, sorted(recipe.packages)] for role, recipe in base.recipes.items()}
    suites = {arch: list(names) for arch, names in base.suites.items()}
    return Digest.of_bytes(canonical([base.family, base.origin, sorted(base.keys), suites, roots]))


def read_base_lock(path: Path, base: Base) -> BaseLock | None:
    """The lock at `path`, or None; raises DefinitionError if it is of another base."""
    text = read_lock(path)
    if text is None:
        return None
    lock = BaseLock.parse(text, str(path))
    if lock.base != base.name:
        raise DefinitionError(f"{path} is the lock of {lock.base}, not of {base.name}")
    return lock


def resolve_base(
    base: Base, arches: Sequence[str], host: str, store: Store, progress: Progress, *, origin: str | None
) -> BaseLock:
    """A new lock of `base`; architectures that fail are said and stand in `missing`."""
    progress.step(f"locking base {base.name} for {', '.join(arches)}")
    with store.workspace() as work:
        lock = family(base.family).lock(base, arches, host, origin=origin, work=work)
    for arch, reason in lock.missing:
        progress.say(f"  {base.name} has no {arch}: {reason}")
    for suite in lock.suites:
        progress.say(f"  {base.name} {suite.arch}: {suite.name} of {suite.date}")
    return replace(lock, definition=base_subject(base))


def write_base_lock(path: Path, lock: BaseLock, progress: Progress) -> BaseLock:
    """Write `lock` if it is new, say so, and return it."""
    text = lock_text(lock)
    try:
        if not path.is_file() or path.read_bytes() != text:
            write_atomically(path, text)
            progress.say(f"  wrote {path}")
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}") from error
    return lock


def have_base_lock(
    base: Base,
    arches: Sequence[str],
    host: str,
    version: str,
    definitions: Definitions,
    store: Store,
    progress: Progress,
    *,
    origin: str | None,
    offline: bool,
    locked: bool,
) -> BaseLock:
    """The lock of `base`, made if it is missing or lacks an architecture that is wanted now.

    A floating base's lock is made again when the base's definition changed; a committed one is renewed by a person.
    """
    path = base_lock_path(base, version, definitions, store)
    lock = read_base_lock(path, base)
    hint = f"./inv lock --version {version} --base {base.name}"
    if lock and lock.definition != base_subject(base):
        if not base.floating:
            raise DefinitionError(f"{path} does not match the definition of {base.name}", f"{hint} --update")
        progress.say(f"  the definition of {base.name} was changed after it was locked")
        lock = None
    if lock and all(lock.root(role, arch) for role in base.targets for arch in arches):
        return lock
    if offline:
        if lock:
            return lock
        raise NetworkError(f"base {base.name} is not locked yet, and --offline forbids it", f"with network: {hint}")
    if locked and not base.floating:
        raise DefinitionError(f"{path} is missing or incomplete, and --locked forbids writing it", hint)
    if lock is None:
        # For every architecture of the base: one that is built later must not change the lock of what is built now.
        whole = resolve_base(base, list(base.suites), host, store, progress, origin=origin)
        return write_base_lock(path, whole, progress)
    missing = [a for a in arches if not all(lock.root(role, a) for role in base.targets)]
    found = resolve_base(base, missing, host, store, progress, origin=origin)
    return write_base_lock(path, _extend(lock, found), progress)


def _extend(old: BaseLock, new: BaseLock) -> BaseLock:
    """What was locked before stays as it was; only new architectures come in."""
    known = {(p.root, p.arch) for p in old.packages}
    packages = (*old.packages, *(p for p in new.packages if (p.root, p.arch) not in known))
    suites = (*old.suites, *(s for s in new.suites if s.arch not in {o.arch for o in old.suites}))
    return BaseLock(old.base, tuple(sorted(packages)), tuple(sorted(suites)), new.missing, old.definition)
