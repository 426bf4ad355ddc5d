"""Whether the dynamic programs, libraries and plugins of a tree find in it all the libraries that they name.

As ld.so(8) searches: the file's own search path, the folders of /etc/ld.so.conf, then the usual ones. Reads files.
"""

import mmap
import os
import stat
from pathlib import Path

from pipeline.build.elf import Elf, read_elf
from pipeline.model import Platform, RootedPath

USUAL = ("lib/{triplet}", "usr/lib/{triplet}", "lib", "usr/lib", "lib64", "usr/lib64")
MAGIC = b"\x7fELF"


def find_elf(tree: Path) -> dict[str, Elf]:
    """Every ELF file below `tree`, by path; links are not followed. Raises SourceError for a malformed one."""
    found = {}
    for parent, _, names in os.walk(tree):
        for name in names:
            path = Path(parent, name)
            if stat.S_ISREG((status := path.lstat()).st_mode) and status.st_size >= 64:
                relative = path.relative_to(tree).as_posix()
                with path.open("rb") as file:
                    if file.read(4) == MAGIC:
                        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                            found[relative] = read_elf(data, relative)
    return found


def missing_libraries(tree: Path, files: dict[str, Elf], platform: Platform) -> list[str]:
    """What `files` need and `tree` does not have, or has for another machine: one line each."""
    usual = [p.format(triplet=platform.gnu_triplet) for p in USUAL] + _configured(tree)
    problems = []
    for path, elf in sorted(files.items()):
        if elf.machine != platform.elf_machine:
            problems.append(f"{path} is for machine {elf.machine}; {platform} is {platform.elf_machine}")
        own = [
            s.replace("$ORIGIN", f"/{os.path.dirname(path)}").replace("${ORIGIN}", f"/{os.path.dirname(path)}")
            for s in elf.search
        ]
        for name in elf.needed:
            places = [name.lstrip("/")] if "/" in name else [f"{f.strip('/')}/{name}" for f in [*own, *usual]]
            if not any(_reaches_file(tree, place) for place in places):
                problems.append(f"{path} needs {name}, which is not in the image")
    return problems


def _configured(tree: Path) -> list[str]:
    """The folders that the loader's configuration names."""
    files = [tree / "etc/ld.so.conf", *sorted((tree / "etc/ld.so.conf.d").glob("*.conf"))]
    lines = [line.strip() for f in files if f.is_file() for line in f.read_text(errors="replace").splitlines()]
    return [line.strip("/") for line in lines if line.startswith("/")]


def _reaches_file(tree: Path, path: str) -> bool:
    return resolve(tree, path) is not None


def resolve(tree: Path, path: str) -> Path | None:
    """Where `path` leads with `tree` as /: a file or folder, or None if a link on the way is broken or endless."""
    pending, place, links = [p for p in path.split("/") if p], RootedPath(""), 0
    while pending:
        part = pending.pop(0)
        if part == "..":
            place = place.parent
            continue
        if part == ".":
            continue
        here = RootedPath(f"{place.relative}/{part}".lstrip("/"))
        target = here.under(tree)
        if target.is_symlink():
            links += 1
            if links > 40:
                return None
            to = os.readlink(target)
            place = RootedPath("") if to.startswith("/") else place
            pending = [p for p in to.split("/") if p] + pending
            continue
        if not target.exists():
            return None
        place = here
    return place.under(tree)
