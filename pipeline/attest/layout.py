"""The in-toto layout of a release: which steps there are, who may do them, and what they may take and give.

Three stages: `provenance/layout.yaml`, written by people; the target `layout.json`, which adds the keys and is signed
offline; and each release's own layout, generated from the target and release.json and signed by the release role.
Format: in-toto specification 1.0, section 4.3. It has no inspections: verifying a release runs nothing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from pipeline.attest.keys import Signing, parse_public
from pipeline.attest.links import Step, envelope_file, steps_of
from pipeline.errors import DefinitionError, TrustError
from pipeline.publish.published import Manifest
from pipeline.strict import Strict, read_yaml, validate
from pipeline.verifier.encoding import Refused, canonical, parse_canonical

if TYPE_CHECKING:
    from in_toto.models.layout import Layout
    from in_toto.models.layout import Step as LayoutStep
    from securesystemslib.signer import Key

LAYOUT_TARGET = "layout.json"
"""The compiled layout in the trust root."""
FORM = "https://rfolabs.github.io/rfo/layout/v1"
MAX_LAYOUT = 8 << 20
"""Bytes of a layout; one of 130 steps has 0.3 MiB."""
KINDS = ("lock", "build", "pack")
"""Of steps."""
README = "How a release of RFO is made. Products are compared byte by byte between those who made it."
Role = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


class Performed(Strict):
    """Who does the steps of one kind."""

    functionaries: Annotated[tuple[Role, ...], Field(min_length=1)]
    """Roles; each of their keys may do it."""
    threshold: Annotated[int, Field(strict=True, ge=1, le=16)]
    """How many keys have to say the same."""


class Performers(Strict):
    """Who does which steps."""

    lock: Performed
    build: Performed
    pack: Performed


class Source(Strict):
    """What stands in layout.yaml."""

    days: Annotated[int, Field(strict=True, ge=1, le=3650)]
    steps: Performers


class PublicKey(Strict):
    """A public key as trust roots and policies hold it."""

    keytype: Literal["ecdsa"]
    scheme: Literal["ecdsa-sha2-nistp256"]
    keyval: dict[Literal["public"], str]


class Compiled(Source):
    """What stands in the target layout.json."""

    form: Annotated[Literal["https://rfolabs.github.io/rfo/layout/v1"], Field(alias="_type")]
    functionaries: dict[Role, tuple[PublicKey, ...]]


def compile_layout(source: Path, keys: Mapping[str, "Key | Sequence[Key]"]) -> bytes:
    """The target layout.json: layout.yaml with the keys of each role that it names.

    Raises DefinitionError for a malformed file, TrustError for a role without a key and for a key of two roles.
    """
    read = validate(Source, read_yaml(source), source)
    roles = sorted({role for kind in KINDS for role in _performed(read, kind).functionaries})
    found: dict[str, list[Key]] = {}
    for role in roles:
        given = keys.get(role, ())
        found[role] = list(given) if isinstance(given, Sequence) else [given]
        if not found[role]:
            raise TrustError(f"{source} names {role}, of which no key is known", f"add provenance/keys/{role}.pub")
    _refuse_shared(found)
    for kind in KINDS:
        performed = _performed(read, kind)
        count = sum(len(found[role]) for role in performed.functionaries)
        if count < performed.threshold:
            raise DefinitionError(
                f"{source}: key steps.{kind}.threshold: {performed.threshold} have to agree, of {count} keys",
                "name more functionaries, or ask for fewer",
            )
    value = {
        "_type": FORM,
        **read.model_dump(mode="json"),
        "functionaries": {
            role: [
                {"keytype": k.keytype, "scheme": k.scheme, "keyval": {"public": str(k.keyval["public"])}}
                for k in sorted(each, key=lambda k: str(k.keyid))
            ]
            for role, each in found.items()
        },
    }
    return canonical(value) + b"\n"


def read_compiled(data: bytes) -> Compiled:
    """The target layout.json. Raises TrustError."""
    try:
        value = parse_canonical(data, LAYOUT_TARGET, MAX_LAYOUT)
        compiled = Compiled.model_validate_json(json.dumps(value))
        _refuse_shared({role: [_key(k) for k in keys] for role, keys in compiled.functionaries.items()})
        for kind, keys in functionaries_of(compiled).items():
            if len(keys) < _performed(compiled, kind).threshold:
                raise ValueError(f"too few keys may do {kind}")
    except (Refused, ValidationError, ValueError) as error:
        raise TrustError(f"the trust root's {LAYOUT_TARGET} cannot be used: {error}") from error
    return compiled


def make_layout(compiled: Compiled, manifest: Manifest, expires: datetime) -> "Layout":
    """The layout of one release. It says the same for the same arguments."""
    from in_toto.models.layout import Layout

    keys = functionaries_of(compiled)
    known = {keyid: {"keyid": keyid, **key.to_dict()} for each in keys.values() for keyid, key in each.items()}
    steps = [_step(step, _performed(compiled, step.kind), keys[step.kind]) for step in steps_of(manifest)]
    until = expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Layout(steps=steps, inspect=[], keys=known, readme=README, expires=until)


def layout_payload(layout: "Layout") -> bytes:
    """The bytes of a layout that are signed."""
    import attr

    return canonical(attr.asdict(layout))


def sign_layout(layout: "Layout", signing: Signing) -> bytes:
    """The file provenance/layout.json."""
    return envelope_file(layout_payload(layout), signing)


def functionaries_of(compiled: Compiled) -> dict[str, dict[str, "Key"]]:
    """By kind of step: the keys that may do it, by keyid."""
    keys = {role: [_key(k) for k in each] for role, each in compiled.functionaries.items()}
    return {
        kind: {str(k.keyid): k for role in _performed(compiled, kind).functionaries for k in keys.get(role, ())}
        for kind in KINDS
    }


def _performed(compiled: Source, kind: str) -> Performed:
    found: Performed = getattr(compiled.steps, kind)
    return found


def _step(step: Step, performed: Performed, keys: Mapping[str, "Key"]) -> "LayoutStep":
    from in_toto.models.layout import Step as LayoutStep

    return LayoutStep(
        name=step.name,
        pubkeys=sorted(keys),
        threshold=performed.threshold,
        expected_command=[],
        expected_materials=_rules((["MATCH", n, "WITH", "PRODUCTS", "FROM", s] for n, s in step.materials.items())),
        expected_products=_rules(["CREATE", n] for n in step.products),
    )


def _rules(rules: Iterable[list[str]]) -> list[list[str]]:
    """Everything that is named has to be there, as the rule says, and nothing else.

    A MATCH that does not match only consumes nothing: it is the last rule that refuses what is left.
    """
    found = sorted(rules, key=lambda r: r[1])
    return [*(["REQUIRE", r[1]] for r in found), *found, ["DISALLOW", "*"]]


def _key(key: PublicKey) -> "Key":
    return parse_public(key.keyval["public"].encode())


def _refuse_shared(keys: Mapping[str, Sequence["Key"]]) -> None:
    """Raise TrustError for a key that stands under two roles: whoever holds it would count as two."""
    owners: dict[str, str] = {}
    for role, each in keys.items():
        for key in each:
            other = owners.setdefault(str(key.keyid), role)
            if other != role or sum(str(k.keyid) == str(key.keyid) for k in each) > 1:
                raise TrustError(
                    f"{other} and {role} have the same key {str(key.keyid)[:8]}: two keys of one hand are one witness",
                    f"make another: ./inv keys new --role {role}",
                )
