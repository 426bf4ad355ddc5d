"""Compile a policy: YAML written by people, with the public keys that it names, into the target policy.json.

Its kinds are those that provenance is signed for (pipeline/attest/kinds.yaml), binaries and images, and signatures.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from pipeline.attest.keys import parse_public
from pipeline.attest.places import kinds
from pipeline.errors import DefinitionError, TrustError
from pipeline.model import ReleaseVersion
from pipeline.strict import Inside, Name, Strict, Text, parsed_by, read_yaml, validate
from pipeline.verifier.encoding import Refused, canonical
from pipeline.verifier.policy import POLICY, Policy, read_policy
from pipeline.verifier.tuf import POLICY_TARGET

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

    from pipeline.trust.repository import TrustRepository

DEVELOPMENT = "development"
"""The name of policies and roots that nobody should rely on."""
SIGNATURE = "signature"
"""The kind of what signing adds to a release."""
FILELESS = ("binary", "image")
"""Kinds that have no files of their own."""
Count = Annotated[int, Field(strict=True, ge=0, le=16)]


class Signer(Strict):
    """Who may sign in a role, under one builder id: a key, or an identity that a Sigstore instance certifies."""

    role: Annotated[str, Field(pattern="^(builder|rebuilder|release)$")]
    id: Annotated[str, Field(pattern=r"^https://[\x21-\x7e]{1,200}$")]
    key: Inside | None = None
    """Public key in PEM, below the repository; without one it is ROLE.pub of the folder of keys."""
    identity: Text | None = None
    issuer: Text | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Signer":
        if (self.identity is None) != (self.issuer is None) or (self.identity and self.key):
            raise ValueError("a signer has a key, or an identity with its issuer")
        return self


class Kind(Strict):
    """What artifacts of a kind need."""

    files: tuple[Text, ...] = ()
    builders: Count
    rebuilders: Count
    requires: tuple[Text, ...] = ()


class Source(Strict):
    """A policy as people write it."""

    name: Name
    development: bool
    minimum_version: Annotated[str, parsed_by(ReleaseVersion.parse)]
    bases: Annotated[tuple[Text, ...], Field(min_length=1)]
    deviations: tuple[Text, ...]
    signers: Annotated[tuple[Signer, ...], Field(min_length=1)]
    kinds: dict[Name, Kind]

    @model_validator(mode="after")
    def _consistent(self) -> "Source":
        if self.development != (self.name == DEVELOPMENT):
            raise ValueError(f"a policy is for development if, and only if, its name is {DEVELOPMENT}")
        known = {*FILELESS, SIGNATURE, *kinds()}
        if unknown := sorted(set(self.kinds) - known):
            raise ValueError(f"kinds.{unknown[0]}: there is no such kind; there are {', '.join(sorted(known))}")
        if missing := sorted(known - set(self.kinds)):
            raise ValueError(f"kinds: nothing is said of {', '.join(missing)}")
        for name, kind in self.kinds.items():
            if bool(kind.files) == (name in FILELESS):
                why = "has no files of its own" if kind.files else "matches nothing without patterns"
                raise ValueError(f"kinds.{name}.files: this kind {why}")
        for role in ("builder", "rebuilder"):
            count = sum(s.role == role for s in self.signers)
            for name, kind in self.kinds.items():
                if (asked := getattr(kind, f"{role}s")) > count:
                    raise ValueError(f"kinds.{name}.{role}s: {asked} have to agree, and signers has {count}")
        return self


def read_source(path: Path) -> Source:
    """A policy's source. Raises DefinitionError that names file and key."""
    return validate(Source, read_yaml(path), path)


def compile_policy(path: Path, checkout: Path, keys: Callable[[str], "SSlibKey"]) -> bytes:
    """The target policy.json; `keys` gives the public key of a role for signers that name none.

    Raises DefinitionError, TrustError for a key that is missing or stands under two ids.
    """
    source = read_source(path)
    signers = _signers(source, path, checkout, keys)
    value = {
        "_type": POLICY,
        **source.model_dump(mode="json", exclude={"signers", "kinds"}),
        "signers": signers,
        "kinds": [{"kind": name, **kind.model_dump(mode="json")} for name, kind in source.kinds.items()],
    }
    data = canonical(value) + b"\n"
    try:
        read_policy(data, path.name)
    except Refused as refused:
        raise TrustError(f"{path}: {refused.reason}", "give each role a key of its own") from refused
    return data


def published_policy(repository: "TrustRepository") -> Policy:
    """The policy of the newest published targets, also of a repository that a killed run left. Raises TrustError."""
    named = repository.read_targets("targets").targets.get(POLICY_TARGET)
    if named is None:
        raise TrustError(f"the targets of {repository.folder} name no {POLICY_TARGET}")
    path = repository.targets / f"{named.hashes['sha256']}.{POLICY_TARGET}"
    try:
        return read_policy(path.read_bytes(), str(path))
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror}", "restore it from a copy") from error
    except Refused as refused:
        raise TrustError(str(refused), "restore it from a copy") from refused


def _signers(source: Source, path: Path, checkout: Path, keys: Callable[[str], "SSlibKey"]) -> list[dict[str, Any]]:
    """The signers with their keys. Raises DefinitionError that names every key that is missing."""
    absent = [str(s.key) for s in source.signers if s.key and not (checkout / s.key).is_file()]
    if absent:
        raise DefinitionError(
            f"{path} names keys that are not there: {', '.join(absent)}", "the key ceremony adds them: docs/trust.md"
        )
    signers = []
    for signer in source.signers:
        bound: dict[str, Any] = {"role": signer.role, "id": signer.id}
        if signer.identity and signer.issuer:
            signers.append({**bound, "identity": signer.identity, "issuer": signer.issuer})
            continue
        key = _read_key(checkout / signer.key) if signer.key else keys(signer.role)
        public = {"keytype": key.keytype, "scheme": key.scheme, "keyval": {"public": str(key.keyval["public"])}}
        signers.append({**bound, "key": public})
    return signers


def _read_key(path: Path) -> "SSlibKey":
    try:
        return parse_public(path.read_bytes())
    except OSError as error:
        raise DefinitionError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DefinitionError(f"{path} is no public key that is accepted: {error}") from error
