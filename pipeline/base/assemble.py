"""Make a root file system from packages, without running anything of them, and identify trees by content.

I/O: reads package files, writes below `root`. The result depends on the packages and the recipe only: not on their
order, the user, the umask, the clock or how many cores unpack.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from pipeline.base import family
from pipeline.bases import Base, RootRecipe
from pipeline.errors import DefinitionError, SourceError, StoreError
from pipeline.extract import check_link, make_directory, resolve_inside, write_file
from pipeline.lock import Package
from pipeline.model import Digest, Platform, RootedPath

MOUNT_POINTS = dict.fromkeys(("dev", "proc", "sys", "run", "build", "out", "rfo-in"), 0o755) | {"tmp": 0o1777}
"""Directories that a sandbox mounts on: it cannot make them, as the root is read-only."""
MTIME = 315532800
"""Time of everything in a root, seconds since 1970: 1980-01-01, the first that every archive format can say."""
WORKERS = min(4, os.cpu_count() or 1)
"""Threads that unpack and hash; decompressors and hashes release the interpreter. More would only wait for the disk."""
BATCH = 64
"""Files that a thread hashes at a time: most are small."""


def assemble(
    base: Base,
    recipe: RootRecipe,
    packages: Iterable[Package],
    *,
    files: Callable[[Package], Path],
    root: Path,
    platform: Platform,
) -> None:
    """Build the tree of `recipe` at `root`, an empty or missing directory.

    `files` gives the checked file of a package; it is called from several threads. Packages may share directories
    (which get the strictest of their modes) and identical files; anything else that two of them ship is an error.
    What the recipe declares takes the place of what packages ship. Raises SourceError for what packages do and
    DefinitionError for what the recipe does; `root` is then incomplete.
    """
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise StoreError(f"{root} is not empty", "a root is assembled in a new directory")
    root.chmod(0o755)
    _make_merged_usr(base, root, platform)
    _unpack_all(base, recipe, sorted(packages), files, root)
    _synthesise(recipe, root, where=f"base {base.name}")
    _normalise(root, sticky={d for d, mode in (MOUNT_POINTS | recipe.directories).items() if mode & stat.S_ISVTX})


def tree_digest(root: Path) -> Digest:
    """A digest over the sorted paths, types, permissions, link targets and contents of everything below `root`.

    Owners, times and hard links have no part in it. Raises StoreError if the tree cannot be read or has devices.
    """
    try:
        entries = sorted(_walk(root), key=lambda e: os.fsencode(e[0]))
        regular = [root / path for path, status in entries if stat.S_ISREG(status.st_mode)]
        batches = [regular[i : i + BATCH] for i in range(0, len(regular), BATCH)]
        with ThreadPoolExecutor(WORKERS) as pool:
            contents = (digest for batch in pool.map(_hash_files, batches) for digest in batch)
            total = hashlib.sha256()
            for path, status in entries:
                mode = f"{stat.S_IMODE(status.st_mode):o}"
                if stat.S_ISREG(status.st_mode):
                    fields = ["file", mode, path, next(contents)]
                elif stat.S_ISDIR(status.st_mode):
                    fields = ["directory", mode, path, ""]
                elif stat.S_ISLNK(status.st_mode):
                    fields = ["link", "", path, os.readlink(root / path)]
                else:
                    raise StoreError(f"{root / path} is neither file, directory nor link")
                total.update(b"".join(os.fsencode(f) + b"\0" for f in fields))  # no field can hold a NUL
    except OSError as error:
        raise StoreError(f"the tree {root} cannot be read: {error}") from error
    return Digest(total.hexdigest())


def _walk(root: Path, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Every entry as (path relative to `root`, its status), the root itself as an empty path; links not followed."""
    if not below:
        yield "", root.lstat()
    with os.scandir(root / below) as entries:
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            yield path, entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, path)


def _hash_files(paths: list[Path]) -> list[str]:
    digests = []
    for path in paths:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests


def _make_merged_usr(base: Base, root: Path, platform: Platform) -> None:
    """/bin, /sbin and /lib as links into /usr, before anything is unpacked through them.

    Both families are merged (https://wiki.debian.org/UsrMerge). Debian has lib64 only where its loader lies there.
    """
    names = ["bin", "lib", "sbin"] + (["lib64"] if base.family == "rpm" or platform.arch == "amd64" else [])
    for name in names:
        make_directory(resolve_inside(root, RootedPath(f"usr/{name}"), name), name, RootedPath(f"usr/{name}"))
        (root / name).symlink_to(f"usr/{name}")


def _unpack_all(
    base: Base, recipe: RootRecipe, packages: list[Package], files: Callable[[Package], Path], root: Path
) -> None:
    """Unpack each package into a directory of its own, in parallel, and move the results together in order."""
    unpack = family(base.family).unpack
    staging = root / ".unpack"
    staging.mkdir()

    def unpack_one(number: int) -> Path:
        package, place = packages[number], staging / str(number)
        place.mkdir()
        unpack(files(package), place, f"package {package.name} {package.version}", recipe.drop)
        return place

    with ThreadPoolExecutor(WORKERS) as pool:
        # The largest first, so that no thread is left with one at the end.
        order = sorted(range(len(packages)), key=lambda n: -packages[n].size)
        jobs = {n: pool.submit(unpack_one, n) for n in order}
        try:
            for number, package in enumerate(packages):
                _merge(root, "", jobs.pop(number).result(), what=f"package {package.name} {package.version}")
        finally:
            for job in jobs.values():
                job.cancel()
    shutil.rmtree(staging)


def _merge(root: Path, below: str, source: Path, *, what: str) -> None:
    """Move what lies in `source` to the directory `below` of the root."""
    with os.scandir(source) as entries:
        found = sorted(entries, key=lambda e: e.name)
    for entry in found:
        path = f"{below}/{entry.name}" if below else entry.name
        target = root / path
        if not os.path.lexists(target):
            Path(entry).rename(target)
        elif entry.is_dir(follow_symlinks=False):
            target = resolve_inside(root, RootedPath(path), what, last=True)
            make_directory(target, what, RootedPath(path))
            # An order of packages must not matter, so a directory's mode is what all of them allow.
            target.chmod(stat.S_IMODE(target.stat().st_mode) & entry.stat().st_mode)
            _merge(root, target.relative_to(root).as_posix(), Path(entry), what=what)
        elif not _identical(Path(entry), target):
            raise SourceError(f"{what}: it ships {path}, which another package ships with other content")


def _identical(one: Path, other: Path) -> bool:
    first, second = one.lstat(), other.lstat()
    if first.st_mode != second.st_mode:
        return False
    if stat.S_ISLNK(first.st_mode):
        return os.readlink(one) == os.readlink(other)
    return first.st_size == second.st_size and Digest.of_file(one) == Digest.of_file(other)


def _synthesise(recipe: RootRecipe, root: Path, where: str) -> None:
    """What maintainer scripts would have made, and where a sandbox mounts."""
    try:
        for path, mode in sorted((MOUNT_POINTS | recipe.directories).items()):
            target = resolve_inside(root, RootedPath.parse(path), where, last=True)
            make_directory(target, where, RootedPath.parse(path))
            target.chmod(mode)
        for path, content in sorted(recipe.files.items()):
            target = _free(root, path, where)
            write_file(target, BytesIO(content.encode()), 0o644)
        for path, link in sorted(recipe.links.items()):
            check_link(RootedPath.parse(path), link, where)
            target = _free(root, path, where)
            target.symlink_to(link)
            if not link.startswith("/") and not target.exists():  # an absolute one may be meant for a mounted place
                raise DefinitionError(f"{where}: the link {path} -> {link} leads nowhere: no package has its target")
    except SourceError as error:
        raise DefinitionError(error.reason, "mend the roots of the base's definition") from error


def _free(root: Path, path: str, where: str) -> Path:
    """The place of a declared file or link, with what packages have there removed."""
    target = resolve_inside(root, RootedPath.parse(path), where)
    if target.is_dir() and not target.is_symlink():
        raise DefinitionError(f"{where}: {path} is declared as a file or link, but packages have a directory there")
    target.unlink(missing_ok=True)
    return target


def _normalise(root: Path, sticky: set[str]) -> None:
    """One time for everything, and no set-id bits, whatever unpacked it."""
    for path, status in list(_walk(root)):
        place = root / path
        if not stat.S_ISLNK(status.st_mode):
            mode = stat.S_IMODE(status.st_mode) & (0o1777 if path in sticky else 0o777)
            if mode != stat.S_IMODE(status.st_mode):
                place.chmod(mode)
        os.utime(place, (MTIME, MTIME), follow_symlinks=False)
