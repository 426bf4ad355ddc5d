"""A folder of this repository as a source: its tracked files, by sorted path, mode and content."""

import hashlib
import os
import shutil
from pathlib import Path

from pipeline.errors import DefinitionError
from pipeline.model import Digest
from pipeline.process import run


def tracked_files(root: Path, tree: str) -> list[str]:
    """Paths below `tree`, sorted: those that git tracks, or all of them where there is no git repository."""
    folder = root / tree
    if not folder.is_dir():
        raise DefinitionError(f"tree {tree} does not exist in {root}")
    if (root / ".git").exists():
        listed = run(["git", "-C", str(folder), "ls-files", "-z", "--cached", "--", "."]).stdout.decode().split("\0")
        names = [n for n in listed if n and (folder / n).is_file()]
    else:
        names = [os.path.relpath(os.path.join(d, f), folder) for d, _, files in os.walk(folder) for f in files]
    if not names:
        raise DefinitionError(f"tree {tree} has no tracked files", "commit it (or `git add` it) first")
    if links := [n for n in names if (folder / n).is_symlink()]:
        raise DefinitionError(f"tree {tree}: {links[0]} is a link; sources hold plain files only")
    return sorted(names)


def tree_digest(root: Path, tree: str) -> Digest:
    """Digest over sorted paths, modes (executable or not) and contents."""
    total = hashlib.sha256()
    for name in tracked_files(root, tree):
        path = root / tree / name
        total.update(f"{_mode(path):o} {Digest.of_file(path)} {name}\n".encode())
    return Digest(total.hexdigest())


def export_tree(root: Path, tree: str, target: Path) -> None:
    """Copy the tracked files to `target`, so that a build sees nothing else of the checkout."""
    for name in tracked_files(root, tree):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / tree / name, copy)
        copy.chmod(_mode(root / tree / name))


def _mode(path: Path) -> int:
    return 0o755 if path.stat().st_mode & 0o100 else 0o644
