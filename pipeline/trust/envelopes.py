"""Metadata in DSSE envelopes, as python-tuf has them: written in one spelling, and whose signatures they carry."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import TrustError
from pipeline.verifier.encoding import canonical
from pipeline.verifier.tuf import MAX_NAMED

if TYPE_CHECKING:
    from securesystemslib.signer import Key
    from tuf.api.dsse import SimpleEnvelope
    from tuf.api.metadata import Root, Signed, Targets

RELEASE = "release"
"""The delegated role that names releases."""
RESTORE = "restore it from a copy; what is published is never written twice"


@dataclass(frozen=True)
class Ring:
    """Keys by keyid, of which as many as `threshold` have to sign."""

    keys: "dict[str, Key]"
    threshold: int

    def signers(self, path: Path) -> set[str]:
        """The keys that signed a file. Raises TrustError for one whose signature is not good."""
        from securesystemslib.exceptions import UnverifiedSignatureError

        envelope = read_envelope(path)
        found = set(envelope.signatures) & set(self.keys)
        for keyid in found:
            try:
                self.keys[keyid].verify_signature(envelope.signatures[keyid], envelope.pae())
            except UnverifiedSignatureError as error:
                reason = f"{path}: the signature of {keyid[:8]} is not good: a byte was changed after it was signed"
                raise TrustError(reason, "do not sign it; stage it again, or restore it from a copy") from error
        return found

    def lacking(self, path: Path) -> int:
        """How many more have to sign. Raises TrustError."""
        return max(0, self.threshold - len(self.signers(path)))


def root_ring(root: "Root", role: str) -> Ring:
    """Who signs a role according to a root."""
    found = root.roles[role]
    return Ring({k: root.keys[k] for k in found.keyids}, found.threshold)


def release_ring(targets: "Targets") -> Ring:
    """Who names releases according to the offline targets. Raises TrustError if nobody does."""
    delegations = targets.delegations
    if delegations is None or not delegations.roles or RELEASE not in delegations.roles:
        raise TrustError(f"version {targets.version} of the targets delegates nothing to {RELEASE}")
    found = delegations.roles[RELEASE]
    return Ring({k: delegations.keys[k] for k in found.keyids}, found.threshold)


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
        raise TrustError(f"{path} is no signed metadata: {error}", RESTORE) from error


def read_signed(path: Path) -> "Signed":
    """The metadata in a file. Raises TrustError."""
    from tuf.api.serialization import DeserializationError

    try:
        signed: Signed = read_envelope(path).get_signed()
    except DeserializationError as error:
        raise TrustError(f"{path} holds malformed metadata: {error}", RESTORE) from error
    return signed


def read_root_file(path: Path) -> "Root":
    """The root in a file. Raises TrustError."""
    from tuf.api.metadata import Root

    signed = read_signed(path)
    if not isinstance(signed, Root):
        raise TrustError(f"{path} holds metadata of another role than root", RESTORE)
    return signed


def read_targets_file(path: Path) -> "Targets":
    """Metadata that name targets. Raises TrustError."""
    from tuf.api.metadata import Targets

    signed = read_signed(path)
    if not isinstance(signed, Targets):
        raise TrustError(f"{path} holds metadata of another role than targets", RESTORE)
    return signed


def describe(path: Path) -> list[str]:
    """What metadata say, in lines for whoever is asked to sign them. Raises TrustError."""
    from tuf.api.metadata import Root, Targets

    signed = read_signed(path)
    head = f"{path.name}: {signed.type} version {signed.version}, until {signed.expires:%Y-%m-%d}"
    lines = [head + "".join(f", {k} {v}" for k, v in sorted(signed.unrecognized_fields.items()))]
    if isinstance(signed, Root):
        for role, found in sorted(signed.roles.items()):
            lines.append(f"  {role}: {found.threshold} of {' '.join(sorted(found.keyids))}")
    if isinstance(signed, Targets):
        lines += [f"  {name}: sha256 {target.hashes['sha256']}" for name, target in sorted(signed.targets.items())]
        if signed.delegations:
            ring = release_ring(signed)
            lines.append(f"  {RELEASE}: {ring.threshold} of {' '.join(sorted(ring.keys))}")
    return lines
