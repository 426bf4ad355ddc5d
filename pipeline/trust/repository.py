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
from typing import TYPE_CHECKING, Any

from pipeline.attest.keys import Secret, Signing, load_signing, read_public
from pipeline.attest.places import RELEASE_STATEMENT
from pipeline.errors import TrustError
from pipeline.lock import write_atomically
from pipeline.model import Digest
from pipeline.store import store_error
from pipeline.trust.settings import Settings
from pipeline.verifier.encoding import canonical
from pipeline.verifier.tuf import MAX_NAMED, ROOT_HINT

if TYPE_CHECKING:
    from tuf.api.dsse import SimpleEnvelope
    from tuf.api.metadata import MetaFile, Root, Signed, TargetFile, Targets

RELEASE = "release"
"""The delegated role that names releases."""
RELEASE_PATHS = ["releases/*/*"]
NAME_FIELD = "x-rfo-name"
"""Field of the root: whose it is."""
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

    def read(self, role: str) -> "Signed":
        """A role's newest published metadata. Raises TrustError."""
        name = "timestamp.json" if role == "timestamp" else f"{self.version(role)}.{role}.json"
        signed: Signed = read_envelope(self.metadata / name).get_signed()
        return signed

    def read_file(self, role: str) -> "SimpleEnvelope[Any]":
        """The envelope of a role's newest published metadata. Raises TrustError."""
        return read_envelope(self.metadata / f"{self.version(role)}.{role}.json")

    def read_root(self) -> "Root":
        """The newest published root. Raises TrustError."""
        return signed_root(self.read_file("root"))

    def read_targets(self, role: str) -> "Targets":
        """The newest published metadata of a role that names targets. Raises TrustError."""
        from tuf.api.metadata import Targets

        found = self.read(role)
        if not isinstance(found, Targets):
            raise TrustError(f"{self.metadata}: the metadata of {role} are of another role")
        return found

    def staged(self) -> list[Path]:
        """Metadata that wait for signatures, roots first."""
        found = [p for p in self.pending.glob("*.json") if _STAGED.fullmatch(p.name)] if self.pending.is_dir() else []
        return sorted(found, key=lambda p: (not p.name.endswith(".root.json"), p.name))

    def signings(self) -> dict[str, str]:
        """The private keys of this host: keyid to the name of its files."""
        found = {}
        for path in sorted(self.keys.glob("*.pub")) if self.keys.is_dir() else []:
            if path.with_suffix(".key").is_file() or path.with_suffix(".uri").is_file():
                found[str(read_public(path.stem, self.keys).keyid)] = path.stem
        return found

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

    def publish_online(self) -> None:
        """A new snapshot and timestamp of what is published, the timestamp last. Raises TrustError without the keys."""
        from tuf.api.metadata import MetaFile, Snapshot, Timestamp

        root = self.read_root()
        if not self.version(RELEASE) or not self.release_keyids() & set(self.read_file(RELEASE).signatures):
            self.renew_release()  # there is none, or its key was replaced
        meta = {f"{role}.json": self._facts(role) for role in ("targets", RELEASE)}
        snapshot = Snapshot(self.version("snapshot") + 1, expires=self.expiry("snapshot"), meta=meta)
        self._save("snapshot", snapshot, set(root.roles["snapshot"].keyids))
        named: MetaFile = self._facts("snapshot")
        timestamp = Timestamp(self.version("timestamp") + 1, expires=self.expiry("timestamp"), snapshot_meta=named)
        timestamp.unrecognized_fields[ROOT_HINT] = root.version
        self._save("timestamp", timestamp, set(root.roles["timestamp"].keyids))

    def new_targets(self, role: str, targets: "Mapping[str, TargetFile] | None" = None) -> "Targets":
        """The next version of targets metadata, with other targets if given."""
        from tuf.api.metadata import Targets

        old = self.read_targets(role) if self.version(role) else None
        kept = dict(old.targets) if old and targets is None else dict(targets or {})
        delegations = old.delegations if old else None
        return Targets(self.version(role) + 1, expires=self.expiry(role), targets=kept, delegations=delegations)

    def release_keyids(self) -> set[str]:
        """Whom the targets role lets name releases."""
        delegations = self.read_targets("targets").delegations
        if delegations is None or not delegations.roles or RELEASE not in delegations.roles:
            raise TrustError(f"the targets of {self.folder} delegate nothing to {RELEASE}")
        return set(delegations.roles[RELEASE].keyids)

    def renew_release(self) -> None:
        """The next version of the metadata that name releases, which stay. Raises TrustError without its key."""
        self._save(RELEASE, self.new_targets(RELEASE), self.release_keyids())

    def _facts(self, role: str) -> "MetaFile":
        from tuf.api.metadata import MetaFile

        version = self.version(role)
        data = (self.metadata / f"{version}.{role}.json").read_bytes()
        return MetaFile(version, len(data), {"sha256": Digest.of_bytes(data).hex})

    def _save(self, role: str, signed: "Signed", keyids: set[str]) -> None:
        """Sign metadata with one key and publish them."""
        mine = sorted(keyids & set(self.signings()))
        if not mine:
            raise TrustError(
                f"{role} metadata cannot be signed: none of its keys is in {self.keys}",
                "run it where the key is, or name the folder: RFO_KEYS=/path",
            )
        envelope = envelope_of(signed)
        envelope.sign(self.signing(mine[0]).signer)
        self.metadata.mkdir(exist_ok=True)
        name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        write_atomically(self.metadata / name, render(envelope))

    # --- releases

    def publish_release(self, distname: str, version: str, statement_file: Path) -> None:
        """Let the release role name a release statement; the same one again changes nothing."""
        path = f"releases/{distname}/{RELEASE_STATEMENT.rpartition('/')[2]}"
        with self.writing():
            data = statement_file.read_bytes()
            found = self.releases()
            known = found.get(path)
            if known and known.hashes["sha256"] == Digest.of_bytes(data).hex and self._is_visible():
                return
            named = self.keep_target(path, data)
            named.unrecognized_fields["custom"] = {"version": version}
            self._save(RELEASE, self.new_targets(RELEASE, {**found, path: named}), self.release_keyids())
            self.publish_online()

    def yank(self, version: str, reason: str) -> list[str]:
        """Mark every release of a version as taken back; returns their names. Raises TrustError if there is none."""
        with self.writing():
            found = self.releases()
            chosen = [p for p, t in found.items() if t.unrecognized_fields.get("custom", {}).get("version") == version]
            if not chosen:
                raise TrustError(f"the trust root names no release {version}", "see what it names: ./inv trust status")
            for path in chosen:
                found[path].unrecognized_fields["custom"] = {"version": version, "yanked": reason}
            self._save(RELEASE, self.new_targets(RELEASE, found), self.release_keyids())
            self.publish_online()
            return [p.split("/")[1] for p in chosen]

    def releases(self) -> "dict[str, TargetFile]":
        """The release statements that are named, by path."""
        return dict(self.read_targets(RELEASE).targets) if self.version(RELEASE) else {}

    def _is_visible(self) -> bool:
        """Whether the newest metadata are what the timestamp leads to: a run that was killed may have left more."""
        return self._snapshot()[1][f"{RELEASE}.json"].version == self.version(RELEASE)

    def _snapshot(self) -> "tuple[int, dict[str, MetaFile]]":
        """The version and content of the snapshot that the timestamp names. Raises TrustError."""
        from tuf.api.metadata import Snapshot, Timestamp

        timestamp = self.read("timestamp")
        number = timestamp.snapshot_meta.version if isinstance(timestamp, Timestamp) else 0
        snapshot = read_envelope(self.metadata / f"{number}.snapshot.json").get_signed()
        if not isinstance(snapshot, Snapshot):
            raise TrustError(f"{self.metadata}: the timestamp names no snapshot", "restore it from a copy")
        return number, snapshot.meta

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
        targets = read_envelope(self.metadata / f"{meta['targets.json'].version}.targets.json").get_signed()
        files = [f"targets/{t.hashes['sha256']}.{n}" for n, t in sorted(targets.targets.items())]
        roots = [f"metadata/{n}.root.json" for n in range(1, self.version("root") + 1)]
        return [*files, *roots, *named, f"metadata/{number}.snapshot.json", "metadata/timestamp.json"]


def envelope_of(signed: "Signed") -> "SimpleEnvelope[Any]":
    """Metadata in an envelope without signatures; the payload has one spelling."""
    from tuf.api.dsse import SimpleEnvelope

    envelope: SimpleEnvelope[Any] = SimpleEnvelope.from_signed(signed)
    envelope.payload = canonical(signed.to_dict())
    return envelope


def render(envelope: "SimpleEnvelope[Any]") -> bytes:
    """The file of an envelope."""
    return canonical(envelope.to_dict()) + b"\n"


def read_envelope(path: Path) -> "SimpleEnvelope[Any]":
    """An envelope of metadata. Raises TrustError."""
    from tuf.api.dsse import SimpleEnvelope
    from tuf.api.serialization import DeserializationError

    try:
        with path.open("rb") as file:
            return SimpleEnvelope.from_bytes(file.read(MAX_NAMED))
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror}", "./inv trust status") from error
    except DeserializationError as error:
        raise TrustError(f"{path} is no signed metadata: {error}", "restore it from a copy") from error


def signed_root(envelope: "SimpleEnvelope[Any]") -> "Root":
    """The root in an envelope. Raises TrustError."""
    from tuf.api.metadata import Root
    from tuf.api.serialization import DeserializationError

    try:
        signed = envelope.get_signed()
    except DeserializationError as error:
        raise TrustError(f"metadata of a root are malformed: {error}") from error
    if not isinstance(signed, Root):
        raise TrustError("metadata that are named as a root are of another role")
    return signed
