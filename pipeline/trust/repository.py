"""The TUF repository of a trust root, written with python-tuf (TUF specification 1.0; metadata are DSSE envelopes).

Metadata are staged below `pending/`, signed there by whoever holds a key, and published once as many keys have signed
as have to. What is published is never changed: a new version stands beside it, and `timestamp.json`, which makes it
visible, is replaced last.
"""

import contextlib
import fcntl
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.attest.keys import Secret, Signing, load_signing, read_public
from pipeline.attest.places import RELEASE_STATEMENT
from pipeline.errors import TrustError
from pipeline.lock import write_atomically
from pipeline.model import Digest
from pipeline.store import store_error
from pipeline.trust.envelopes import (
    RELEASE,
    RESTORE,
    Ring,
    envelope_of,
    read_envelope,
    read_root_file,
    read_signed,
    read_targets_file,
    release_ring,
    render,
    root_ring,
)
from pipeline.trust.settings import Settings
from pipeline.verifier.tuf import ROOT_HINT

if TYPE_CHECKING:
    from tuf.api.metadata import MetaFile, Root, Signed, TargetFile, Targets

RELEASE_PATHS = ["releases/*/*"]
NAME_FIELD = "x-rfo-name"
"""Field of the root: whose it is."""
ONLINE = ("snapshot", "timestamp")
"""Roles of the root that sign on the host that publishes."""
NAMED = ("targets", RELEASE)
"""Roles whose metadata the snapshot names."""
_STAGED = re.compile(r"([1-9][0-9]{0,8})\.(root|targets)\.json")


class TrustRepository:
    """The repository in a folder, with the keys of this host."""

    def __init__(self, folder: Path, keys: Path, settings: Settings, secret: Secret | None = None) -> None:
        self.folder, self.keys, self.settings, self.secret = folder, keys, settings, secret
        self.metadata, self.targets, self.pending = (folder / n for n in ("metadata", "targets", "pending"))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the repository against other writers. Raises StoreError, also for what goes wrong on disk inside."""
        try:
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            with (self.folder / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise store_error(error, self.folder) from error

    # --- reading

    @property
    def exists(self) -> bool:
        """Whether there is a trust root that was published."""
        return (self.metadata / "timestamp.json").is_file()

    def version(self, role: str) -> int:
        """The newest version that was published of a role's metadata; 0 if there is none."""
        if role == "timestamp":
            return int(self.read(role).version) if self.exists else 0
        found = [int(p.name.partition(".")[0]) for p in self.metadata.glob(f"*.{role}.json")]
        return max(found, default=0)

    def place(self, role: str) -> Path:
        """The file of a role's newest published metadata."""
        return self.metadata / ("timestamp.json" if role == "timestamp" else f"{self.version(role)}.{role}.json")

    def read(self, role: str) -> "Signed":
        """A role's newest published metadata. Raises TrustError."""
        return read_signed(self.place(role))

    def read_root(self) -> "Root":
        """The newest published root. Raises TrustError."""
        return read_root_file(self.place("root"))

    def read_targets(self, role: str) -> "Targets":
        """The newest published metadata of a role that names targets. Raises TrustError."""
        return read_targets_file(self.place(role))

    def ring(self, role: str) -> Ring:
        """Who signs a role, according to what is published. Raises TrustError."""
        return release_ring(self.read_targets("targets")) if role == RELEASE else root_ring(self.read_root(), role)

    def is_current(self) -> bool:
        """Whether the timestamp leads to the newest of everything: a run that was killed may have left more.

        Raises TrustError for metadata that were changed.
        """
        if not self.exists or not self.version(RELEASE):
            return False
        number, meta = self._snapshot()
        if {name: m.version for name, m in meta.items()} != {f"{r}.json": self.version(r) for r in NAMED}:
            return False
        places = {role: self.place(role) for role in (*NAMED, "timestamp")}
        places["snapshot"] = self.metadata / f"{number}.snapshot.json"
        signed = not any(self.ring(role).lacking(place) for role, place in places.items())
        return signed and self.read("timestamp").unrecognized_fields.get(ROOT_HINT) == self.version("root")

    def staged(self) -> list[Path]:
        """Metadata that wait for signatures, roots first."""
        found = [p for p in self.pending.glob("*.json") if _STAGED.fullmatch(p.name)] if self.pending.is_dir() else []
        return sorted(found, key=lambda p: (not p.name.endswith(".root.json"), int(p.name.partition(".")[0])))

    def names(self) -> dict[str, str]:
        """The public keys of this host: keyid to the name of its file."""
        paths = [p for p in sorted(self.keys.glob("*.pub")) if "." not in p.stem] if self.keys.is_dir() else []
        return {str(read_public(p.stem, self.keys).keyid): p.stem for p in paths}

    def signings(self) -> dict[str, str]:
        """The private keys of this host: keyid to the name of its files."""
        suffixes = (".key", ".uri")
        return {k: n for k, n in self.names().items() if any((self.keys / (n + s)).is_file() for s in suffixes)}

    def signing(self, keyid: str) -> Signing:
        """One of this host's keys. Raises TrustError."""
        name = self.signings().get(keyid)
        if name is None:
            raise TrustError(f"the key {keyid[:8]} is not in {self.keys}", "name another folder: RFO_KEYS=/path")
        return load_signing(name, self.keys, self.secret)

    # --- writing

    def expiry(self, role: str) -> datetime:
        """When new metadata of a role expire."""
        return datetime.now(UTC).replace(microsecond=0) + timedelta(days=self.settings.days(role))

    def stage(self, role: str, signed: "Signed") -> Path:
        """Write metadata that have yet to be signed; the ones of the same version that waited are replaced."""
        path = self.pending / f"{signed.version}.{role}.json"
        self.pending.mkdir(exist_ok=True)
        write_atomically(path, render(envelope_of(signed)))
        return path

    def keep_target(self, path: str, data: bytes) -> "TargetFile":
        """Store a target's content; returns how metadata name it."""
        from tuf.api.metadata import TargetFile

        folder, _, name = path.rpartition("/")
        place = self.targets / folder / f"{Digest.of_bytes(data).hex}.{name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_file() or place.read_bytes() != data:
            write_atomically(place, data)
        return TargetFile.from_data(path, data, ["sha256"])

    def add_signatures(self, path: Path, keyids: set[str]) -> list[str]:
        """Sign staged metadata with the keys of this host that may; returns the names of the keys that did."""
        envelope, mine = read_envelope(path), self.signings()
        signed = []
        for keyid in sorted(keyids & set(mine)):
            if keyid not in envelope.signatures:
                envelope.sign(self.signing(keyid).signer)
                signed.append(mine[keyid])
        if signed:
            write_atomically(path, render(envelope))
        return signed

    def publish_staged(self, path: Path, allowed: set[str]) -> None:
        """Publish metadata that have enough signatures; those by other keys are left out, which hosts would refuse."""
        envelope = read_envelope(path)
        for keyid in set(envelope.signatures) - allowed:
            del envelope.signatures[keyid]
        self.metadata.mkdir(exist_ok=True)
        write_atomically(self.metadata / path.name, render(envelope))
        path.unlink()

    def require_online(self, rings: "Mapping[str, Ring]") -> None:
        """Raise TrustError unless this host can sign all that goes with every release: before anything is written."""
        mine = set(self.signings())
        for role, ring in rings.items():
            if not mine & set(ring.keys):
                raise TrustError(
                    f"{role} metadata cannot be signed: none of its keys is in {self.keys}",
                    "run it where the key is, or name the folder: RFO_KEYS=/path",
                )

    def online_rings(self) -> dict[str, Ring]:
        """Who signs what is published with every release. Raises TrustError."""
        return {role: self.ring(role) for role in (RELEASE, *ONLINE)}

    def publish_online(self) -> None:
        """A new snapshot and timestamp of what is published, the timestamp last. Raises TrustError without the keys."""
        from tuf.api.metadata import Snapshot, Timestamp

        self.require_online(self.online_rings())
        if self.ring("targets").lacking(self.place("targets")):
            raise TrustError(f"{self.place('targets')} is not signed by the keys that the root names", RESTORE)
        if not self.version(RELEASE) or self.ring(RELEASE).lacking(self.place(RELEASE)):
            self.renew_release()  # there is none, or its key was replaced
        meta = {f"{role}.json": self._facts(role) for role in NAMED}
        self._save("snapshot", Snapshot(self.version("snapshot") + 1, expires=self.expiry("snapshot"), meta=meta))
        named = self._facts("snapshot")
        timestamp = Timestamp(self.version("timestamp") + 1, expires=self.expiry("timestamp"), snapshot_meta=named)
        timestamp.unrecognized_fields[ROOT_HINT] = self.version("root")
        self._save("timestamp", timestamp)

    def new_targets(self, role: str, targets: "Mapping[str, TargetFile] | None" = None) -> "Targets":
        """The next version of targets metadata, with other targets if given."""
        from tuf.api.metadata import Targets

        old = self.read_targets(role) if self.version(role) else None
        kept = dict(old.targets) if old and targets is None else dict(targets or {})
        delegations = old.delegations if old else None
        return Targets(self.version(role) + 1, expires=self.expiry(role), targets=kept, delegations=delegations)

    def renew_release(self) -> None:
        """The next version of the metadata that name releases, which stay. Raises TrustError without its key."""
        self._save(RELEASE, self.new_targets(RELEASE))

    def _facts(self, role: str) -> "MetaFile":
        from tuf.api.metadata import MetaFile

        data = self.place(role).read_bytes()
        return MetaFile(self.version(role), len(data), {"sha256": Digest.of_bytes(data).hex})

    def _save(self, role: str, signed: "Signed") -> None:
        """Sign metadata with one key of this host and publish them."""
        ring = self.ring(role)
        self.require_online({role: ring})
        envelope = envelope_of(signed)
        envelope.sign(self.signing(min(set(ring.keys) & set(self.signings()))).signer)
        name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        write_atomically(self.metadata / name, render(envelope))

    # --- releases

    def publish_release(self, distname: str, version: str, statement_file: Path) -> None:
        """Let the release role name a release statement; the same one again changes nothing.

        Raises TrustError for a release that was taken back, and without the keys.
        """
        path = f"releases/{distname}/{RELEASE_STATEMENT.rpartition('/')[2]}"
        with self.writing():
            data = statement_file.read_bytes()
            found = self.releases()
            known = found.get(path)
            if known and (reason := yanked(known)):
                raise TrustError(f"{distname} was taken back: {reason}", "make a release with another version")
            if known and known.hashes["sha256"] == Digest.of_bytes(data).hex and self.is_current():
                return
            self.require_online(self.online_rings())
            named = self.keep_target(path, data)
            named.unrecognized_fields["custom"] = {"version": version}
            self._save(RELEASE, self.new_targets(RELEASE, {**found, path: named}))
            self.publish_online()

    def yank(self, version: str, reason: str) -> list[str]:
        """Mark every release of a version as taken back; returns their names. Raises TrustError if there is none."""
        with self.writing():
            found = self.releases()
            chosen = [p for p, t in found.items() if t.unrecognized_fields.get("custom", {}).get("version") == version]
            if not chosen:
                raise TrustError(f"the trust root names no release {version}", "see what it names: ./inv trust status")
            self.require_online(self.online_rings())
            for path in chosen:
                found[path].unrecognized_fields["custom"] = {"version": version, "yanked": reason}
            self._save(RELEASE, self.new_targets(RELEASE, found))
            self.publish_online()
            return [p.split("/")[1] for p in chosen]

    def releases(self) -> "dict[str, TargetFile]":
        """The release statements that are named, by path."""
        return dict(self.read_targets(RELEASE).targets) if self.version(RELEASE) else {}

    def snapshot_into(self, dist: Path) -> None:
        """Copy the newest metadata and the offline role's targets into a release, the timestamp last."""
        with self.writing():
            files = {path: (self.folder / path).read_bytes() for path in self._current()}
            trust = dist / "trust"
            for path, data in files.items():
                place = trust / path
                place.parent.mkdir(parents=True, exist_ok=True)
                if not place.is_file() or place.read_bytes() != data:
                    write_atomically(place, data)
            for stale in [p for p in trust.rglob("*") if p.is_file() and p.relative_to(trust).as_posix() not in files]:
                stale.unlink()

    def _current(self) -> list[str]:
        """Paths of what a release carries, in the order in which they are written."""
        number, meta = self._snapshot()
        named = [f"metadata/{m.version}.{n}" for n, m in sorted(meta.items())]
        targets = read_targets_file(self.metadata / f"{meta['targets.json'].version}.targets.json")
        files = [f"targets/{t.hashes['sha256']}.{n}" for n, t in sorted(targets.targets.items())]
        roots = [f"metadata/{n}.root.json" for n in range(1, self.version("root") + 1)]
        return [*files, *roots, *named, f"metadata/{number}.snapshot.json", "metadata/timestamp.json"]

    def _snapshot(self) -> "tuple[int, dict[str, MetaFile]]":
        """The version and content of the snapshot that the timestamp names. Raises TrustError."""
        from tuf.api.metadata import Snapshot, Timestamp

        timestamp = self.read("timestamp")
        number = timestamp.snapshot_meta.version if isinstance(timestamp, Timestamp) else 0
        snapshot = read_signed(self.metadata / f"{number}.snapshot.json")
        if not isinstance(snapshot, Snapshot):
            raise TrustError(f"{self.metadata}: the timestamp names no snapshot", RESTORE)
        return number, snapshot.meta


def yanked(target: "TargetFile") -> str:
    """Why a release was taken back; empty if it was not."""
    return str(target.unrecognized_fields.get("custom", {}).get("yanked", ""))
