"""Bases: the operating system content that builds run in, from its distribution's signed packages. No I/O here.

A base is locked package by package, fetched by digest, and unpacked without running maintainer scripts. What differs
between Debian-like and RPM distributions stands behind `Family`; everything after it is one code path.
"""

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from pipeline.bases import Base
from pipeline.lock import BaseLock, Package

Deliver = Callable[[Package, Path], None]
"""Takes over a downloaded package whose size and digest were checked; the file may be moved away."""


class Family(Protocol):
    """One packaging world; a module (`deb`, `rpm`) implements it with functions.

    `origin` is where the packages lie, said by the user; None: what the definition or the host's configuration says.
    `work` is a private directory, made if missing; what stands in it may speed up a later call, never change it.
    """

    def lock(self, base: Base, arches: Sequence[str], host: str, *, origin: str | None, work: Path) -> BaseLock:
        """Resolve every root of `base` from signed metadata: `per: host` roots for `host`, the others for `arches`.

        An architecture that cannot be resolved is left out of the packages and stands in `missing` with the reason.
        Raises NetworkError, SourceError (signatures), HostError (a program, key or mirror is missing), all of them
        also when a root of the host fails: nothing can be built without it.
        """

    def fetch(
        self, base: Base, packages: Iterable[Package], *, origin: str | None, work: Path, deliver: Deliver
    ) -> None:
        """Download `packages` and hand each to `deliver`, once its size and digest are those of the pin.

        Packages that can be had are delivered even if others cannot; then a NetworkError or SourceError names every
        one that is missing or differs, and how to renew the lock.
        """

    def unpack(self, package_file: Path, root: Path, what: str, drop: Iterable[str]) -> None:
        """Unpack one package into the empty directory `root`, as `pipeline.extract` does: no scripts, nothing outside.

        `what` names the package in errors; `drop` are the patterns of `pipeline.extract.dropper`.
        Raises SourceError for a malformed package. Called from several threads at once.
        """


def family(name: str) -> Family:
    """The implementation for `Base.family`; imported only when used, as resolvers are heavy."""
    if name not in ("deb", "rpm"):
        raise ValueError(f"unknown package family {name!r}")
    return cast(Family, import_module(f"pipeline.base.{name}"))
