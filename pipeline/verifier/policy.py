"""The policy that a release has to meet: a target of the trust root, compiled from YAML (provenance/policy)."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any

from pipeline.verifier.encoding import Refused, parse_canonical
from pipeline.verifier.openssl import PublicKey, read_key
from pipeline.verifier.versions import read_version

POLICY = "https://rfolabs.github.io/rfo/policy/v1"
MAX_POLICY = 1 << 20
_FIELDS = {"_type", "name", "development", "minimum_version", "bases", "deviations", "signers", "kinds"}


@dataclass(frozen=True)
class Signer:
    """Who may sign what: a key, or whoever had a certificate for an identity, bound to one id of a builder."""

    role: str
    """builder, rebuilder or release."""
    id: str
    key: PublicKey | None
    identity: str = ""
    issuer: str = ""


@dataclass(frozen=True)
class Kind:
    """What a kind of artifact needs."""

    name: str
    files: tuple[str, ...]
    """Patterns of paths in a release's folder."""
    builders: int
    """How many builders, each another key and id, have to have signed its provenance."""
    rebuilders: int
    """How many have to have made it again with the same bytes."""
    requires: tuple[str, ...]
    """Predicate types of attestations that have to name it."""


@dataclass(frozen=True)
class Policy:
    """What is accepted."""

    name: str
    development: bool
    minimum_version: str
    bases: tuple[str, ...]
    deviations: tuple[str, ...]
    signers: tuple[Signer, ...]
    kinds: dict[str, Kind]
    """In the order in which their patterns are tried."""

    def kind_of(self, path: str) -> Kind:
        """What a file is, by the first pattern that matches. Raises Refused for a file of no kind."""
        for kind in self.kinds.values():
            if any(fnmatch.fnmatchcase(path, pattern) for pattern in kind.files):
                return kind
        raise Refused(path, "is of no kind that the policy knows")

    def kind(self, name: str, what: str) -> Kind:
        """A kind by its name. Raises Refused, naming `what`."""
        if name not in self.kinds:
            raise Refused(what, f"is of the kind {name}, of which the policy says nothing")
        return self.kinds[name]


def read_policy(data: bytes, what: str) -> Policy:
    """The policy in a file. Raises Refused, naming `what`, also for a key that is bound to two ids or roles."""
    value = parse_canonical(data, what, MAX_POLICY)
    if not isinstance(value, dict) or set(value) != _FIELDS or value["_type"] != POLICY:
        raise Refused(what, "is not a policy as it should be", ", ".join(sorted(_FIELDS)))
    if not isinstance(value["development"], bool):
        raise Refused(what, "does not say whether it is for development")
    read_version(value["minimum_version"], what)
    if not isinstance(value["signers"], list) or not isinstance(value["kinds"], list):
        raise Refused(what, "has malformed signers or kinds")
    signers = tuple(_read_signer(s, what) for s in value["signers"])
    _refuse_shared(signers, what)
    kinds = [_read_kind(k, what) for k in value["kinds"]]
    if len({k.name for k in kinds}) != len(kinds):
        raise Refused(what, "names a kind twice")
    return Policy(
        read_text(value["name"], what),
        value["development"],
        value["minimum_version"],
        _texts(value["bases"], what),
        _texts(value["deviations"], what),
        signers,
        {k.name: k for k in kinds},
    )


def read_text(value: Any, what: str) -> str:
    """A text that is not empty. Raises Refused, naming `what`."""
    if not isinstance(value, str) or not value or len(value) > 4096:
        raise Refused(what, "has something else where a text is expected", "", str(value)[:100])
    return value


def _refuse_shared(signers: tuple[Signer, ...], what: str) -> None:
    """One key is one witness: it stands under one role and id, and so does an identity."""
    if len({s.id for s in signers}) != len(signers):
        raise Refused(what, "binds one builder id to two signers")
    seen: dict[Any, Signer] = {}
    for signer in signers:
        other = seen.setdefault(signer.key or (signer.identity, signer.issuer), signer)
        if other is not signer:
            raise Refused(what, f"binds one key to two ids, {other.id} and {signer.id}: they would be one witness")


def _read_signer(value: Any, what: str) -> Signer:
    names = set(value) if isinstance(value, dict) else set()
    if names == {"role", "id", "key"}:
        return Signer(read_text(value["role"], what), read_text(value["id"], what), read_key(value["key"], what))
    if names == {"role", "id", "identity", "issuer"}:
        role, builder, identity, issuer = (read_text(value[n], what) for n in ("role", "id", "identity", "issuer"))
        return Signer(role, builder, None, identity, issuer)
    raise Refused(what, "has a malformed signer", "role, id, and key or identity with issuer", ", ".join(sorted(names)))


def _read_kind(value: Any, what: str) -> Kind:
    if not isinstance(value, dict) or set(value) != {"kind", "files", "builders", "rebuilders", "requires"}:
        raise Refused(what, "has a malformed kind", "kind, files, builders, rebuilders, requires")
    counts = [value["builders"], value["rebuilders"]]
    if not all(isinstance(c, int) and not isinstance(c, bool) and 0 <= c <= 100 for c in counts):
        raise Refused(what, "has a malformed number of builders or rebuilders", "0 to 100", str(counts)[:60])
    files, requires = _texts(value["files"], what), _texts(value["requires"], what)
    return Kind(read_text(value["kind"], what), files, value["builders"], value["rebuilders"], requires)


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Refused(what, "has something else where a list is expected")
    return tuple(read_text(v, what) for v in value)
