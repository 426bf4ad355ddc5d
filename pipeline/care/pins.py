"""What locks pin: the content that costs most to lose, because an origin may no longer serve it."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.lock import BaseLock, SourcesLock, read_lock
from pipeline.model import Digest, Module
from pipeline.store import Store


@dataclass(frozen=True)
class Pins:
    """What every lock that is known here names."""

    modules: frozenset[Module]
    blobs: frozenset[Digest]
    """Packages, and the files of git and archive sources."""


def read_pins(checkout: Path, store: Store) -> Pins:
    """The pins of each defined release of a checkout, of what is in its dist/, and of the bases that the store locked.

    Raises DefinitionError for a lock that cannot be read, StoreError if one of the store's is no file: without it
    nobody knows what to keep.
    """
    sources = read_sources_pins(checkout)
    committed = [p for p in checkout.glob("releases/*/*.lock") if p.name != "sources.lock"]
    own = sorted((store.root / "locks-of-bases").glob("[!.]*.lock"))
    for path in own:
        if path.is_symlink() or not path.is_file():
            raise StoreError(f"{path} is not a file: what it pins is not known", "./inv store repair")
    packages: set[Digest] = set()
    for path in sorted([*committed, *checkout.glob("dist/*/*.lock"), *own]):
        packages |= {p.digest for p in BaseLock.parse(read_lock(path) or "", str(path)).packages}
    return Pins(sources.modules, sources.blobs | packages)


def read_sources_pins(checkout: Path) -> Pins:
    """The modules, toolchains, and files of git and archive sources of each defined release. Raises DefinitionError."""
    modules: set[Module] = set()
    blobs: set[Digest] = set()
    for path in sorted(checkout.glob("releases/*/sources.lock")):
        lock = SourcesLock.parse(read_lock(path) or "", str(path))
        modules |= {*lock.modules, *(m.module for m in lock.mains.values())}
        modules |= {t.module for t in lock.toolchains.values()}
        blobs |= {s.tar for s in lock.snapshots.values()}
    return Pins(frozenset(modules), frozenset(blobs))
