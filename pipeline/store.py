"""The store: content-addressed files and action records of one host.

Files enter by write, fsync, rename; a reader never sees a part. Content is checked against its digest when it is used:
what does not match is removed and reported as missing, so that it is made again and never served.

    blobs/sha256/ab/abcd…   files, read-only          records/KEY.json    what an action produced
    history/NAME.json       last run of an action     trees/KEY/          roots assembled from packages
    history/NAME.previous.json  the last run of it with another key
    gomod/                  Go module cache           gocache/KEY/        compile caches: accelerators, never inputs

Whoever opens a store holds it while it is used; what others may rely on is removed only by who holds it alone.
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
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import Interrupted, PipelineError, StoreError
from pipeline.lock import write_atomically
from pipeline.model import Digest

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the operating system says of a disk, or of a user's share of it, that is full."""
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
    """One store directory; safe for several processes at once.

    While another process cleans it, opening waits; `waiting` is then told why, once.
    """

    def __init__(self, root: Path, waiting: Callable[[str], None] | None = None) -> None:
        self.root = root
        self._checked: dict[Digest, tuple[int, ...]] = {}
        try:
            for name in ("blobs/sha256", "records", "history", "trees", "gomod", "gocache", "locks", "runs", "tmp"):
                (root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise store_error(error, root) from error
        self._held = _hold(root / "locks" / "in-use", waiting)

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
            if self._checked.get(digest) == (seen := _seen(path)):
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
            made = Output(Digest.of_file(path), path.stat().st_size)
            target = self.blob(made.digest)
            if self.use(made.digest):
                path.unlink()
                return made
            _sync(path)
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
            _sync(target.parent)
            self._checked[made.digest] = _seen(target)  # it was hashed just now
            return made
        except OSError as error:
            raise store_error(error, self.root) from error

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
        record = read_record(path)
        if record is None or not all(self.has(o.digest, o.size) for o in record.outputs.values()):
            return None
        touch(path)
        return record

    def remember(self, key: Digest, record: Record) -> None:
        """Write an action's record, and what it cost under its name, for estimates.

        The last record with another key stays as the previous one: it tells why the action ran again.
        """
        data = _render(record)
        last = self.history(record.name)
        try:
            write_atomically(self.root / "records" / f"{key.hex}.json", data)
            if last and _check(last.parts) != _check(record.parts):
                write_atomically(self._history(record.name, "previous"), _render(last))
            write_atomically(self._history(record.name), data)
        except OSError as error:
            raise store_error(error, self.root) from error

    def history(self, name: str) -> Record | None:
        """The last record of the action called `name`, whatever its key was."""
        return read_record(self._history(name))

    def previous(self, name: str) -> Record | None:
        """The last record of the action called `name` whose key had other parts than that of `history`."""
        return read_record(self._history(name, "previous"))

    def histories(self) -> list[Record]:
        """The last record of every action that ever ran here, by name."""
        files = [p for p in (self.root / "history").glob("*.json") if not p.name.endswith(".previous.json")]
        return sorted(filter(None, map(read_record, files)), key=lambda r: r.name)

    def _history(self, name: str, *which: str) -> Path:
        return self.root / "history" / ".".join([name.replace("/", "_"), *which, "json"])

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """An empty folder on the store's file system that is gone afterwards.

        Raises StoreError also for what its user does in it, or beside it, when the disk is full.
        """
        try:
            path = Path(tempfile.mkdtemp(dir=self.root / "tmp"))
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # held while its user lives: see sweep
        except OSError as error:
            raise store_error(error, self.root) from error
        try:
            yield path
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise store_error(error, path) from error
        except StoreError as error:
            if isinstance(error.__cause__, OSError):  # said by a module that knows no store
                error.hint = error.hint or store_error(error.__cause__, path).hint
            raise
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

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only user of the store: for removing what a run may rely on. New users wait until the end.

        Raises StoreError if the store is in use, or cannot be written.
        """
        if not os.access(self.root, os.W_OK):
            code = errno.EROFS if os.statvfs(self.root).f_flag & os.ST_RDONLY else errno.EACCES
            raise store_error(OSError(code, os.strerror(code)), self.root)
        if not _try_lock(self._held.descriptor, self.root):
            self._held.share()  # an attempt gives up what was held
            raise StoreError(
                f"{self.root} is in use by {', '.join(_holders(self._held.descriptor)) or 'another process'}",
                "run the same command again when that has ended",
            )
        try:
            yield
        finally:
            self._held.share()

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


class _Hold:
    """A shared lock on a file, for as long as this lives."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def share(self) -> None:
        """Take the lock, or go back to it; waits."""
        fcntl.flock(self.descriptor, fcntl.LOCK_SH)


def _hold(path: Path, waiting: Callable[[str], None] | None) -> _Hold:
    """Hold the lock at `path` with others; where nothing can be written, a missing one is held by the folder's."""
    try:
        try:
            hold = _Hold(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644))
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
            hold = _Hold(os.open(path if path.exists() else path.parent, os.O_RDONLY | os.O_NOFOLLOW))
        try:
            fcntl.flock(hold.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                by = ", ".join(_holders(hold.descriptor)) or "another process"
                waiting(f"waiting until {by} has cleaned {path.parent.parent}")
            hold.share()
    except OSError as error:
        raise store_error(error, path) from error
    return hold


def _holders(descriptor: int) -> list[str]:
    """Which other processes hold a lock on an open file, as `process 123`, as far as the host tells."""
    try:
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        inode = os.fstat(descriptor).st_ino
        found = {f[4] for f in lines if f[1] == "FLOCK" and f[5].endswith(f":{inode}")}
    except (OSError, IndexError):
        return []
    return [f"process {pid}" for pid in sorted(found - {str(os.getpid()), "0", "-1"})]


def _seen(path: Path) -> tuple[int, int, int, int]:
    found = path.lstat()  # what tells that a file was not touched since it was looked at
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def touch(path: Path) -> None:
    """Note that something is used now: what was not used for long is removed first. A read-only store takes no note."""
    with contextlib.suppress(OSError):
        os.utime(path)


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


def _render(record: Record) -> bytes:
    return json.dumps(record.to_json(), sort_keys=True).encode()


def read_record(path: Path) -> Record | None:
    """The record in a file; None if there is none or it is damaged. A link is not followed."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
            return Record.from_json(json.loads(file.read()))
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
        **dict.fromkeys(FULL, "free some space or choose another store: RFO_STORE=/path"),
        errno.EROFS: "choose a writable store: RFO_STORE=/path",
        errno.EACCES: "choose a store that you may write: RFO_STORE=/path",
    }
    place = error.filename2 or error.filename or path  # of a copy the target, which is what could not be written
    return StoreError(f"{place}: {error.strerror}", hints.get(error.errno or 0, ""))
