"""A folder of this repository as a source: its tracked files, by sorted path, mode and content."""

import hashlib
import os
import shutil
from pathlib import Path

from pipeline.errors import DefinitionError
from pipeline.model import Digest
from pipeline.process import run

HOOKS = ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
"""What git sets for its hooks: a run started by one would look at another repository or index."""


def tracked_files(root: Path, tree: str) -> list[str]:
    """Paths below `tree`, sorted: those that git tracks, or all of them where there is no git repository.

    Raises DefinitionError for a name or a kind of file that a source cannot hold.
    """
    folder = root / tree
    if not folder.is_dir():
        raise DefinitionError(f"tree {tree} does not exist in {root}")
    if (root / ".git").exists():
        names = [n for n in git_names(folder, ".") if os.path.lexists(folder / n)]
    else:
        found = [(d, n) for d, folders, files in os.walk(folder) for n in [*files, *_links(d, folders)]]
        names = [os.path.relpath(os.path.join(d, n), folder) for d, n in found]
    if not names:
        raise DefinitionError(f"tree {tree} has no tracked files", "commit it (or `git add` it) first")
    for name in names:
        if "\n" in name or not name.isprintable():
            raise DefinitionError(f"tree {tree}: a file is called {name!r}; use printable UTF-8 names")
        if (folder / name).is_symlink():
            raise DefinitionError(f"tree {tree}: {name} is a link; sources hold plain files only")
        if not (folder / name).is_file():
            raise DefinitionError(f"tree {tree}: {name} is not a plain file (a submodule?)")
    return sorted(names)


def git_names(folder: Path, *below: str) -> list[str]:
    """What git tracks below folders of a checkout, relative to `folder`, whether it is still there or not."""
    env = {k: v for k, v in os.environ.items() if k not in HOOKS}
    listed = run(["git", "-C", str(folder), "ls-files", "-z", "--cached", "--", *below], env=env).stdout
    return [n for n in os.fsdecode(listed).split("\0") if n]


def tree_digest(root: Path, tree: str) -> Digest:
    """Digest over sorted paths, modes (executable or not) and contents."""
    total = hashlib.sha256()
    for name in tracked_files(root, tree):
        path = root / tree / name
        total.update(f"{_mode(path):o} {Digest.of_file(path)} {name}\n".encode())
    return Digest(total.hexdigest())


def export_tree(root: Path, tree: str, target: Path, expected: Digest | None = None) -> None:
    """Copy the tracked files to `target`, so that a build sees nothing else of the checkout.

    With `expected` the copy must have that digest: files that were edited since would be built under a wrong key.
    """
    for name in tracked_files(root, tree):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / tree / name, copy)
        copy.chmod(_mode(root / tree / name))
    if expected is not None and (found := tree_digest(target, ".")) != expected:
        raise DefinitionError(
            f"tree {tree} was changed while the run went on: expected {expected}, found {found}",
            "run the same command again",
        )


def _links(folder: str, names: list[str]) -> list[str]:
    return [n for n in names if os.path.islink(os.path.join(folder, n))]


def _mode(path: Path) -> int:
    return 0o755 if path.stat().st_mode & 0o100 else 0o644
