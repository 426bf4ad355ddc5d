"""What a host remembers of earlier acceptances, so that nobody can lead it back to an older state of things.

`root.json` and `timestamp.json` are metadata as they were accepted; `state.json` has the highest version, the latest
time, the versions of the metadata in between, and what is installed. They are written when a release is accepted.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.verifier.clock import read_time, render_time
from pipeline.verifier.encoding import Refused, canonical, parse_canonical
from pipeline.verifier.folder import open_plain
from pipeline.verifier.versions import read_version

STATE = Path("/var/lib/rfo/trust")
MAX_STATE = 1 << 20
_KEYS = {"highest_version", "last_time", "installed", "metadata"}


@dataclass
class State:
    """What is known; nothing at first."""

    folder: Path | None = None
    root: bytes | None = None
    timestamp: bytes | None = None
    highest_version: str = ""
    installed: str = ""
    last_time: int = 0
    """Seconds since 1970 of the last acceptance."""
    metadata: dict[str, int] = field(default_factory=dict)
    """Highest versions of `targets.json` and `release.json` that were seen, and revisions of repositories of packages
    (`NAME/BASE/RPM_ARCH/repodata/repomd.xml`)."""


def read_state(folder: Path) -> State:
    """The state in a folder; an empty one if there is none. Raises Refused if it was damaged."""
    found = {name: _read(folder, name) for name in ("root.json", "timestamp.json", "state.json")}
    state = State(folder, found["root.json"], found["timestamp.json"])
    data, what = found["state.json"], str(folder / "state.json")
    if data is None:
        return state
    value = parse_canonical(data, what, MAX_STATE)
    if not isinstance(value, dict) or not set(value) <= _KEYS or not isinstance(value.get("metadata", {}), dict):
        raise Refused(what, "is not the state of this program", ", ".join(sorted(_KEYS)))
    for name in ("highest_version", "installed"):
        if value.get(name):
            read_version(value[name], what)
            setattr(state, name, value[name])
    if "last_time" in value:
        state.last_time = read_time(value["last_time"], what)
    state.metadata = {str(k): _whole(v, what) for k, v in value.get("metadata", {}).items()}
    return state


def write_state(state: State) -> None:
    """Write all of it, each file at once, what the others build on first. Raises Refused."""
    if state.folder is None:
        return
    facts = {
        "highest_version": state.highest_version,
        "installed": state.installed,
        "last_time": render_time(state.last_time),
        "metadata": state.metadata,
    }
    files = {"root.json": state.root, "timestamp.json": state.timestamp, "state.json": canonical(facts) + b"\n"}
    try:
        state.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name, data in files.items():
            if data is not None:
                _replace(state.folder / name, data)
    except OSError as error:
        raise Refused(str(state.folder), f"cannot be written, and must remember this: {error.strerror}") from error


def _read(folder: Path, name: str) -> bytes | None:
    path = folder / name
    if not path.exists() and not path.is_symlink():
        return None
    with open_plain(path, str(path)) as descriptor:
        data = os.read(descriptor, MAX_STATE + 1)
    if len(data) > MAX_STATE:
        raise Refused(str(path), "is too large")
    return data


def _replace(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _whole(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Refused(what, "is not the state of this program")
    return value
