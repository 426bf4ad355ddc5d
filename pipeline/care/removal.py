"""Remove things from a store so that nobody ever meets a part of one. Only for who holds the store alone."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.store import Store, remove_tree, store_error

TRASH = "tmp/gc"
"""Where a folder goes before it is emptied; a killed run leaves it to the next one."""


def sweep_trash(store: Store) -> None:
    """Remove what a removal that was killed had moved away. Raises StoreError."""
    remove(store, [TRASH])


def remove(store: Store, names: Iterable[str]) -> None:
    """Remove files, links and folders, named by their paths below the store, in this order. Raises StoreError.

    Nothing is made for it: it works on a disk that is full.
    """
    trash = path = store.root / TRASH
    try:
        for name in names:
            path = store.root / name
            if path != trash and path.is_dir() and not path.is_symlink():
                path = _move_away(path, trash)
            remove_tree(path)
    except OSError as error:
        raise store_error(error, path) from error


def _move_away(folder: Path, target: Path) -> Path:
    try:
        folder.rename(target)
    except PermissionError:  # a folder that may not be written may not change its parent
        folder.chmod(0o700)
        folder.rename(target)
    return target
