"""Check the in-toto links and the layout of a release, each byte of them and then by in-toto itself.

Links and layout follow from release.json and the trust root's layout.json but for what nobody can foresee: signatures,
the digest of the sources' lock, and when the layout expires. So they are made again and compared, and in-toto sees
nothing but what we would have written: no sublayout, no inspection, which it would run.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.attest.layout import MAX_LAYOUT, Compiled, functionaries_of, layout_payload, make_layout
from pipeline.attest.links import PAYLOAD_TYPE, SOURCES, Step, digests_of, link_path, link_payload, steps_of
from pipeline.attest.places import LAYOUT, LINKS
from pipeline.model import Digest
from pipeline.publish.published import Published
from pipeline.verifier.bundle import pae
from pipeline.verifier.clock import DAY, read_time, render_time
from pipeline.verifier.encoding import Refused, parse
from pipeline.verifier.envelope import read_envelope
from pipeline.verifier.folder import Folder

if TYPE_CHECKING:
    from securesystemslib.signer import Key

MAX_LINK = 8 << 20
"""Bytes; the link of a release with 200 files has 40 KiB."""


def check_chain(
    folder: Folder, published: Published, compiled: Compiled, keys: Mapping[str, "Key"], now: int
) -> list[Refused]:
    """Everything that is wrong with links and layout but the layout's age; `keys`, by keyid, may sign the layout.

    `now` is in seconds since 1970. in-toto accepts no expired layout, and is not asked of one: see `say_expired`.
    """
    found = [*check_links(folder, published, compiled), *check_layout(folder, published, compiled, keys)]
    return found if found or layout_expiry(folder) <= now else run_in_toto(folder, keys)


def say_expired(folder: Folder, now: int) -> str:
    """How long ago the layout expired; empty if it has not. Raises Refused."""
    expires = layout_expiry(folder)
    return "" if expires > now else f"{LAYOUT}: expired {(now - expires) // DAY} days ago, at {render_time(expires)}"


def check_links(folder: Folder, published: Published, compiled: Compiled) -> list[Refused]:
    """What is missing of a release's links, what is wrong, and what is no link of it."""
    manifest = published.manifest
    digests = digests_of(manifest, (published.folder / "release.json").read_bytes())
    functionaries, found = functionaries_of(compiled), []
    expected: set[str] = set()
    for step in steps_of(manifest):
        keys = functionaries[step.kind]
        threshold = getattr(compiled.steps, step.kind).threshold
        present = {link_path(step.name, k): key for k, key in keys.items() if link_path(step.name, k) in folder.sizes}
        expected |= set(present)
        good = 0
        for path, key in sorted(present.items()):
            try:
                _check_link(folder, path, step, key, digests)
                good += 1
            except Refused as refused:
                found.append(refused)
        if len(present) < threshold:
            missing = ", ".join(sorted(link_path(step.name, k) for k in keys) - present.keys())
            found.append(Refused(missing, "is missing: too few did this step", str(threshold), str(len(present))))
        elif good < threshold and not found:
            found.append(Refused(step.name, "was done by too few", str(threshold), str(good)))
    odd = [p for p in folder.sizes if p.startswith(f"{LINKS}/") and p not in expected]
    return [*found, *(Refused(p, "is no link of this release by anybody who may make one") for p in sorted(odd))]


def missing_links(folder: Folder, published: Published, compiled: Compiled) -> dict[str, list[str]]:
    """By keyid: steps of which that key may make the link, has made none, and one is still needed."""
    functionaries = functionaries_of(compiled)
    found: dict[str, list[str]] = {}
    for step in steps_of(published.manifest):
        keys = functionaries[step.kind]
        missing = [k for k in keys if link_path(step.name, k) not in folder.sizes]
        if len(keys) - len(missing) < getattr(compiled.steps, step.kind).threshold:
            for keyid in missing:
                found.setdefault(keyid, []).append(step.name)
    return found


def check_layout(folder: Folder, published: Published, compiled: Compiled, keys: Mapping[str, "Key"]) -> list[Refused]:
    """What is wrong with a release's layout, besides its age."""
    try:
        envelope = read_envelope(folder.read(LAYOUT, MAX_LAYOUT), LAYOUT, MAX_LAYOUT, PAYLOAD_TYPE)
        expires = datetime.fromtimestamp(layout_expiry(folder), UTC)
        if layout_payload(make_layout(compiled, published.manifest, expires)) != envelope.payload:
            return [Refused(LAYOUT, "is not what the trust root's layout.json and release.json make of it")]
        _check_signature(LAYOUT, envelope.payload, envelope.signatures, keys)
    except Refused as refused:
        return [refused]
    return []


def layout_expiry(folder: Folder) -> int:
    """When a layout expires, which is decided when it is signed. Raises Refused."""
    envelope = read_envelope(folder.read(LAYOUT, MAX_LAYOUT), LAYOUT, MAX_LAYOUT, PAYLOAD_TYPE)
    value = parse(envelope.payload, LAYOUT, MAX_LAYOUT)
    return read_time(value.get("expires") if isinstance(value, dict) else None, LAYOUT)


def run_in_toto(folder: Folder, keys: Mapping[str, "Key"]) -> list[Refused]:
    """What in-toto's own verification says. It runs what sublayouts tell it to: call it only for what was accepted."""
    from in_toto.exceptions import (
        LayoutExpiredError,
        LinkNotFoundError,
        RuleVerificationError,
        SignatureVerificationError,
        ThresholdVerificationError,
    )
    from in_toto.models.metadata import Metadata
    from in_toto.verifylib import in_toto_verify

    trusted = {keyid: {"keyid": keyid, **key.to_dict()} for keyid, key in keys.items()}
    try:
        in_toto_verify(Metadata.load(str(folder.root / LAYOUT)), trusted, link_dir_path=str(folder.root / LINKS))
    except (
        LayoutExpiredError, LinkNotFoundError, RuleVerificationError, SignatureVerificationError,
        ThresholdVerificationError, ValueError, OSError,
    ) as error:  # fmt: skip
        return [Refused(LAYOUT, f"is refused by in-toto: {error or type(error).__name__}")]
    return []


def _check_link(folder: Folder, path: str, step: Step, key: "Key", digests: dict[str, Digest]) -> None:
    """Raise Refused for a link with other bytes than it has to have; the first one decides what sources were locked."""
    envelope = read_envelope(folder.read(path, MAX_LINK), path, MAX_LINK, PAYLOAD_TYPE)
    _check_signature(path, envelope.payload, envelope.signatures, {str(key.keyid): key})
    names = {*step.materials, *step.products}
    if SOURCES in names and SOURCES not in digests:
        digests[SOURCES] = _locked(envelope.payload, path)
    if unknown := sorted(names - set(digests)):
        raise Refused(unknown[0], "is not in release.json, and the release was made from it")
    expected = link_payload(step, digests)
    if envelope.payload != expected:
        raise _difference(path, expected, envelope.payload)


def _locked(payload: bytes, path: str) -> Digest:
    value = parse(payload, path, MAX_LINK)
    try:
        return Digest.parse(f"sha256:{({**value['materials'], **value['products']})[SOURCES]['sha256']}")
    except Exception as error:
        raise Refused(path, f"does not say which {SOURCES} was used") from error


def _difference(path: str, expected: bytes, found: bytes) -> Refused:
    """The first thing in which a link differs from what it has to be."""
    wanted, given = parse(expected, path, MAX_LINK), parse(found, path, MAX_LINK)
    for part in ("materials", "products"):
        ours, theirs = wanted[part], given.get(part) if isinstance(given, dict) else None
        for name in sorted({*ours, *(theirs if isinstance(theirs, dict) else ())}):
            other = theirs.get(name) if isinstance(theirs, dict) else None
            if other != ours.get(name):
                return Refused(
                    path, f"states another digest of {name[:200]}", _digest(ours.get(name)), _digest(other)
                )  # fmt: skip
    return Refused(path, "states something else than this step does")


def _digest(value: object) -> str:
    return f"sha256:{value['sha256']}"[:100] if isinstance(value, dict) and "sha256" in value else "nothing"


def _check_signature(what: str, payload: bytes, signatures: Mapping[str, bytes], keys: Mapping[str, "Key"]) -> None:
    """Raise Refused unless there is one signature, by one of the keys, and it is good."""
    from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
    from securesystemslib.signer import Signature

    names: Sequence[str] = list(signatures)
    if len(names) != 1 or names[0] not in keys:
        raise Refused(what, "is signed by somebody else", ", ".join(sorted(keys)), ", ".join(names)[:500])
    try:
        keys[names[0]].verify_signature(
            Signature(names[0], signatures[names[0]].hex()), pae(PAYLOAD_TYPE, payload)
        )  # fmt: skip
    except (UnverifiedSignatureError, VerificationError) as error:
        raise Refused(what, "was changed after it was signed, or is signed by somebody else", names[0]) from error
