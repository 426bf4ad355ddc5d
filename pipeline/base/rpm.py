"""openEuler and other RPM distributions: lock from signed repositories, fetch signed packages, unpack. Network, files.

Dependencies are resolved by libsolv on the repositories' own metadata; the host needs neither rpm nor dnf. Trust:
a key file counts only if its fingerprint stands in the base; that key signs each repository's index, which pins the
metadata by SHA-256, which pins each package; and each package is signed itself, which is checked when it is fetched.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.base import Deliver, rootfs
from pipeline.base.mirror import Mirror
from pipeline.base.openpgp import Keyring
from pipeline.base.repodata import Repository, read_keys, read_repository
from pipeline.base.resolve import Resolver, Unresolvable
from pipeline.base.rpmfile import LEAD, check_signature, read_rpm, unpack_rpm
from pipeline.bases import Base, RootRecipe
from pipeline.errors import DefinitionError, NetworkError, PipelineError, SourceError
from pipeline.lock import BaseLock, Package, Suite
from pipeline.model import RootedPath, platform

MAX_PACKAGE = 2 << 30
"""Bytes of one package; the largest that a builder needs have 40 MB."""
CONNECTIONS = 4
"""Packages downloaded at a time: enough to hide a mirror's latency, few enough not to be a burden to it."""


def lock(base: Base, arches: Sequence[str], host: str, *, origin: str | None, work: Path) -> BaseLock:
    """Resolve every root of `base`; see `Family.lock`.

    Raises DefinitionError for an architecture that the base does not have, or a package name it does not know.
    """
    _refuse_unsupported(base, arches, host)
    wanted: dict[str, list[tuple[str, RootRecipe]]] = {}
    for role, root in base.recipes.items():
        for arch in (host,) if root.per == "host" else arches:
            wanted.setdefault(arch, []).append((role, root))
    packages: list[Package] = []
    suites: list[Suite] = []
    missing: list[tuple[str, str]] = []
    with open_mirror(base, origin) as mirror:
        for arch, roots in sorted(wanted.items()):
            repositories = repositories_of(base, arch, mirror)
            resolver = Resolver(repositories, mirror, platform(arch).rpm_arch, work / arch)
            try:
                resolved = [p for name, recipe in roots for p in _resolve(resolver, name, recipe, arch)]
            except (Unresolvable, DefinitionError) as error:
                if arch == host:
                    raise
                missing.append((arch, error.reason))
                continue
            packages += resolved
            if arch in base.rootfs:
                packages.append(rootfs.lock(base, arch, mirror, work))
            suites += [Suite(arch, r.name, r.date, r.digest) for r in repositories]
    return BaseLock(base.name, tuple(sorted(packages)), tuple(sorted(suites)), tuple(missing))


def fetch(base: Base, packages: Iterable[Package], *, origin: str | None, work: Path, deliver: Deliver) -> None:
    """Download packages and check size, digest and signature of each before it is delivered; see `Family.fetch`."""
    # The same file may be in several roots.
    wanted = list({(p.digest, p.root == rootfs.ROLE): p for p in packages}.values())
    problems: list[PipelineError] = []
    with open_mirror(base, origin) as mirror:
        keys = {arch: _keys(base, arch, mirror) for arch in sorted({p.arch for p in wanted})}

        def get(package: Package) -> Path | PipelineError:
            try:
                return _get(package, keys[package.arch], mirror, work)
            except PipelineError as error:
                return error

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            try:
                for package, result in zip(wanted, pool.map(get, wanted), strict=True):
                    if isinstance(result, PipelineError):
                        problems.append(result)
                    else:
                        deliver(package, result)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    if problems:
        kind = SourceError if any(isinstance(p, SourceError) for p in problems) else NetworkError
        lines = "\n  ".join(p.reason for p in problems)
        raise kind(
            f"{len(problems)} of {len(wanted)} packages of base {base.name} cannot be used:\n  {lines}",
            "name another mirror; if the distribution dropped them, renew the lock: inv lock --update",
        )


def unpack(package_file: Path, root: Path, what: str, drop: Iterable[str]) -> None:
    """Unpack one package, or a root file system archive, below `root`; see `Family.unpack`."""
    with package_file.open("rb") as file:
        magic = file.read(len(LEAD))
    if magic == LEAD:
        unpack_rpm(package_file, root, what, drop)
    else:
        rootfs.unpack_rootfs(package_file, root, what, drop)


def _resolve(resolver: Resolver, role: str, recipe: RootRecipe, arch: str) -> list[Package]:
    found = resolver.resolve(role, arch, recipe.packages)
    return found if recipe.dependencies else [p for p in found if p.name in recipe.packages]


def _refuse_unsupported(base: Base, arches: Sequence[str], host: str) -> None:
    """There is no fallback to another release: what a base lacks is an error."""
    needed = [*arches] + [host for recipe in base.recipes.values() if recipe.per == "host"]
    if lacking := sorted(set(needed) - set(base.suites)):
        raise DefinitionError(
            f"base {base.name}: unsupported architecture {', '.join(lacking)}; it has {', '.join(sorted(base.suites))}",
            "choose a base that has it in the release's `bases`",
        )


def open_mirror(base: Base, origin: str | None) -> Mirror:
    """The mirror of a base, or the one at `origin`. Raises DefinitionError, UsageError."""
    if origin is None and not base.origin.startswith("https://"):
        raise DefinitionError(f"base {base.name}: key origin: expected an https:// URL, found {base.origin!r}")
    return Mirror(origin or base.origin)


def _keys(base: Base, arch: str, mirror: Mirror) -> Keyring:
    if not base.key_file:
        raise DefinitionError(f"base {base.name}: key key_file is missing: without a key nothing can be verified")
    path = base.key_file.replace("{rpm_arch}", platform(arch).rpm_arch)
    return read_keys(mirror, RootedPath.parse(path).relative, base.keys)


def repositories_of(base: Base, arch: str, mirror: Mirror) -> list[Repository]:
    """The repositories of a base for an architecture, their signatures checked. Raises SourceError, NetworkError."""
    keys = _keys(base, arch, mirror)
    rpm_arch = platform(arch).rpm_arch
    names = base.suites[arch]
    return [read_repository(mirror, name, f"{RootedPath.parse(name)}/{rpm_arch}", keys) for name in names]


def _get(package: Package, keys: Keyring, mirror: Mirror, work: Path) -> Path:
    """Download one package and check it; the file in `work` is named by digest."""
    target = work / package.digest.hex
    mirror.download(package.path, target, digest=package.digest, limit=MAX_PACKAGE, size=package.size)
    if package.root == rootfs.ROLE:
        return target  # not signed by its distribution: the lock's digest is all there is
    what = Path(package.path).name
    try:
        with target.open("rb") as file:
            rpm = read_rpm(file, what)
        check_signature(rpm, keys, what)
        if (rpm.name, rpm.evr) != (package.name, package.version):
            raise SourceError(
                f"{what}: expected {package.name} {package.version}, found {rpm.name} {rpm.evr} in its signed header"
            )
    except SourceError:
        target.unlink()
        raise
    return target
