"""What an operating system layer holds: a root's tree without what a sandbox needs, and what scripts would have made.

Reads trees and package files. Owners and times are those of roots: root, and one day for everything, so that a layer
is the same in each release that is made from the same packages.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.base.assemble import MTIME
from pipeline.bases import LayerRecipe
from pipeline.errors import DefinitionError
from pipeline.model import RootedPath
from pipeline.pack.tar import Entry, Folder, Link, Member

SANDBOX_ONLY = ("build", "out", "rfo-in")
"""Mount points of builds; containers have no use for them."""
MAX_CERTIFICATES = 16 << 20
"""Bytes of one file with certificates."""
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n.*?-----END CERTIFICATE-----\n?", re.DOTALL)


def layer_members(tree: Path, below: Sequence[Path], more: Mapping[str, bytes]) -> list[Member]:
    """The entries of `tree` that no tree in `below` has the same, and the files `more`, by path.

    Raises DefinitionError if a file of `more` is in the tree already.
    """
    found: dict[str, Member] = {}
    for path, status in _walk(tree):
        if any(_same(tree, path, status, lower) for lower in below):
            continue
        found[path] = _member(tree, path, status)
    for path, data in more.items():
        if path in found:
            raise DefinitionError(
                f"{path} is made here, but a package ships it too", f"add {path} to the layer's `drop`"
            )
        found[path] = Entry(RootedPath.parse(path), 0o644, MTIME, data)
    for path in list(found):  # a directory that is named again keeps its mode
        for above in map(str, Path(path).parents):
            if above != "." and above not in found:
                owner = next((t for t in (*below, tree) if (t / above).is_dir()), None)
                mode = stat.S_IMODE((owner / above).lstat().st_mode) if owner else 0o755
                found[above] = Folder(RootedPath.parse(above), mode, MTIME)
    return list(found.values())


def _walk(tree: Path) -> Iterator[tuple[str, os.stat_result]]:
    for parent, folders, files in os.walk(tree):
        here = os.path.relpath(parent, tree)
        if here == ".":
            folders[:] = [f for f in folders if f not in SANDBOX_ONLY]
        for name in sorted([*folders, *files]):
            path = os.path.normpath(os.path.join(here, name))
            yield path, os.lstat(os.path.join(parent, name))


def _same(tree: Path, path: str, status: os.stat_result, lower: Path) -> bool:
    """Whether the entry is in the tree below as well."""
    try:
        other = (lower / path).lstat()
    except OSError:
        return False
    if status.st_mode != other.st_mode:
        return False
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(tree / path) == os.readlink(lower / path)
    return stat.S_ISDIR(status.st_mode) or (tree / path).read_bytes() == (lower / path).read_bytes()


def _member(tree: Path, path: str, status: os.stat_result) -> Member:
    where = RootedPath.parse(path)
    if stat.S_ISLNK(status.st_mode):
        return Link(where, os.readlink(tree / path), MTIME)
    mode = stat.S_IMODE(status.st_mode)
    return Folder(where, mode, MTIME) if stat.S_ISDIR(status.st_mode) else Entry(where, mode, MTIME, tree / path)


def certificate_bundle(recipe: LayerRecipe, tree: Path) -> dict[str, bytes]:
    """The bundle of the CA certificates that the layer's packages ship, at its path; empty if it wants none.

    Sorted by file, as `update-ca-certificates` writes it. Raises DefinitionError if there is none.
    """
    if recipe.bundle is None:
        return {}
    files = sorted({p for pattern in recipe.certificates for p in tree.glob(pattern)})
    text = "".join(c for file in files for c in _certificates(file))
    if not text:
        raise DefinitionError(
            f"no package has CA certificates at {', '.join(recipe.certificates)}", "mend `certificates`"
        )
    return {recipe.bundle: text.encode()}


def _certificates(file: Path) -> Iterable[str]:
    """The PEM certificates (RFC 7468) in a file; of p11-kit's format those that it calls trusted."""
    with file.open("rb") as opened:
        text = opened.read(MAX_CERTIFICATES).decode("utf-8", "replace").replace("\r\n", "\n")
    parts = text.split("[p11-kit-object-v1]\n")
    trusted = parts if len(parts) == 1 else [p for p in parts[1:] if re.search(r"^trusted: true$", p, re.MULTILINE)]
    for part in trusted:
        for match in _CERTIFICATE.finditer(part):
            yield match[0] if match[0].endswith("\n") else match[0] + "\n"
