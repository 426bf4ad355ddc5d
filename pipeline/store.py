"""The store: content-addressed files and action records of one host.

Files enter by write, fsync, rename; a reader never sees a part. Content is checked against its digest when it is
used: what does not match is removed and reported as missing, so that it is made again and never served.

    blobs/sha256/ab/abcd…   files, read-only          records/KEY.json    what an action produced
    history/NAME.json       last run of an action     trees/KEY/          roots assembled from packages
    gomod/                  Go module cache           gocache/KEY/        compile caches: accelerators, never inputs
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import Interrupted, PipelineError, StoreError
from pipeline.lock import write_atomically
from pipeline.model import Digest

POLL = 0.05
"""Seconds between attempts at a lock that another process holds."""
ABANDONED = 86400
"""Seconds without a new file after which a workspace that nobody holds is taken for that of a killed run."""


@dataclass(frozen=True)
class Output:
    """One file that an action produced."""

    digest: Digest
    size: int


@dataclass(frozen=True)
class Record:
    """What an action produced and what it cost."""

    name: str
    outputs: Mapping[str, Output]
    seconds: float
    """Wall time."""
    cpu: float
    """User and system seconds of all its processes."""
    peak: int
    """Largest memory of all its processes together, bytes, sampled."""
    log: Digest | None
    parts: Mapping[str, Any] = field(default_factory=dict)
    """The key's parts, so that a later miss can be explained."""

    def to_json(self) -> dict[str, Any]:
        """As it is kept on disk; `check` tells a damaged record."""
        data = {
            "name": self.name,
            "outputs": {k: [str(o.digest), o.size] for k, o in sorted(self.outputs.items())},
            "seconds": round(self.seconds, 3),
            "cpu": round(self.cpu, 3),
            "peak": self.peak,
            "log": str(self.log) if self.log else None,
            "parts": self.parts,
        }
        return {**data, "check": _check(data)}

    @classmethod
    def from_json(cls, data: Any) -> "Record":
        """Read a record; raises KeyError, TypeError, ValueError or SourceError when it is not one."""
        facts = {k: data[k] for k in ("name", "outputs", "seconds", "cpu", "peak", "log", "parts")}
        if set(data) - set(facts) - {"check"} or ("check" in data and data["check"] != _check(facts)):
            raise ValueError("damaged record")
        outputs = {k: Output(Digest.parse(d), int(s)) for k, (d, s) in data["outputs"].items()}
        log = Digest.parse(data["log"]) if data["log"] else None
        cost = float(data["seconds"]), float(data["cpu"]), int(data["peak"])
        return cls(str(data["name"]), outputs, *cost, log, dict(data["parts"]))


class Store:
    """One store directory; safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._checked: dict[Digest, tuple[int, ...]] = {}
        try:
            for name in ("blobs/sha256", "records", "history", "trees", "gomod", "gocache", "locks", "tmp"):
                (root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise store_error(error, root) from error

    @property
    def gomod(self) -> Path:
        """The Go module cache that builds see read-only."""
        return self.root / "gomod"

    def blob(self, digest: Digest) -> Path:
        """Where a file with this content stands, if it is there."""
        return self.root / "blobs" / "sha256" / digest.hex[:2] / digest.hex

    def has(self, digest: Digest, size: int | None = None) -> bool:
        """Whether the content is present, of the right size where one is given; its bytes are checked on use."""
        try:
            found = self.blob(digest).lstat()
        except OSError:
            return False
        regular = (found.st_mode & 0o170000) == 0o100000
        return regular and (size is None or found.st_size == size)

    def use(self, digest: Digest) -> Path | None:
        """The file with this content, its bytes checked (once per process and file); None if it is missing.

        A file that does not match is removed, so that whoever needs it makes it again.
        """
        path = self.blob(digest)
        try:
            found = path.lstat()
            seen = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if self._checked.get(digest) == seen:
                return path
            if path.is_symlink() or not path.is_file() or Digest.of_file(path) != digest:
                remove_tree(path)
                return None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise store_error(error, path) from error
        self._checked[digest] = seen
        return path

    def add(self, path: Path) -> Output:
        """Move a finished file into the store; it must lie on the store's file system."""
        try:
            path.chmod(0o555)  # readable whatever its maker set; executable, so that it can be run where it stands
            size = path.stat().st_size
            digest = Digest.of_file(path)
            target = self.blob(digest)
            if self.use(digest):
                path.unlink()
                return Output(digest, size)
            _sync(path)
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
            _sync(target.parent)
        except OSError as error:
            raise store_error(error, self.root) from error
        return Output(digest, size)

    def add_bytes(self, data: bytes) -> Output:
        """Keep `data`."""
        with self.workspace() as work:
            file = work / "data"
            try:
                file.write_bytes(data)
            except OSError as error:
                raise store_error(error, file) from error
            return self.add(file)

    def record(self, key: Digest) -> Record | None:
        """The record of an action, if all of its outputs are present; a damaged one counts as none."""
        path = self.root / "records" / f"{key.hex}.json"
        record = _read_record(path)
        if record is None or not all(self.has(o.digest, o.size) for o in record.outputs.values()):
            return None
        return record

    def remember(self, key: Digest, record: Record) -> None:
        """Write an action's record, and what it cost under its name, for estimates."""
        data = json.dumps(record.to_json(), sort_keys=True).encode()
        try:
            write_atomically(self.root / "records" / f"{key.hex}.json", data)
            write_atomically(self._history(record.name), data)
        except OSError as error:
            raise store_error(error, self.root) from error

    def history(self, name: str) -> Record | None:
        """The last record of the action called `name`, whatever its key was."""
        return _read_record(self._history(name))

    def _history(self, name: str) -> Path:
        return self.root / "history" / f"{name.replace('/', '_')}.json"

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """An empty folder on the store's file system that is gone afterwards."""
        try:
            path = Path(tempfile.mkdtemp(dir=self.root / "tmp"))
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # held while its user lives: see sweep
        except OSError as error:
            raise store_error(error, self.root) from error
        try:
            yield path
        finally:
            os.close(descriptor)
            remove_tree(path)

    @contextlib.contextmanager
    def exclusive(self, name: str, cancel: threading.Event | None = None) -> Iterator[None]:
        """Hold the lock called `name` against other processes and threads; waits for it until `cancel` is set."""
        path = self.root / "locks" / name.replace("/", "_")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise store_error(error, path) from error
        stop = cancel or threading.Event()
        try:
            while not _try_lock(descriptor, path):
                if stop.wait(POLL):
                    raise Interrupted(f"stopped while another process held {name}")
            yield
        finally:
            os.close(descriptor)

    def sweep(self) -> None:
        """Remove the workspaces of runs that were killed: nobody holds them or has touched them for a day."""
        for path in (self.root / "tmp").iterdir():
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    if time.time() - path.stat().st_mtime > ABANDONED and _try_lock(descriptor, path):
                        remove_tree(path)
                finally:
                    os.close(descriptor)


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise store_error(error, path) from error
    return True


def _check(data: Mapping[str, Any]) -> str:
    return str(Digest.of_bytes(json.dumps(data, sort_keys=True).encode()))


def _read_record(path: Path) -> Record | None:
    try:
        return Record.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, PipelineError):
        return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a folder, folders inside it that nobody may read or write included; a file or a link as well."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        path.chmod(0o700)
        for folder, names, _ in os.walk(path):  # from the top: each is opened before it is entered
            for name in names:
                if not os.path.islink(os.path.join(folder, name)):
                    os.chmod(os.path.join(folder, name), 0o700)
        shutil.rmtree(path)


def store_error(error: OSError, path: Path) -> StoreError:
    """An operating system error at the store, as a user needs it."""
    hints = {
        errno.ENOSPC: "free some space or choose another store: RFO_STORE=/path",
        errno.EDQUOT: "free some space or choose another store: RFO_STORE=/path",
        errno.EROFS: "choose a writable store: RFO_STORE=/path",
        errno.EACCES: "choose a store that you may write: RFO_STORE=/path",
    }
    return StoreError(f"{error.filename or path}: {error.strerror}", hints.get(error.errno or 0, ""))
