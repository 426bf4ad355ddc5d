"""in-toto links: what each step of a release took and what it gave, signed by whoever did the step.

Which steps there are follows from `release.json` alone, so that everybody who has it knows which links there have to
be, and every byte of them but the signature. Formats: in-toto specification 1.0, sections 4.3.3 and 4.4 (links), in
DSSE envelopes (ITE-5); canonical JSON.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.attest.keys import Signing
from pipeline.attest.places import LINKS
from pipeline.model import Digest
from pipeline.publish.published import Manifest
from pipeline.verifier.bundle import pae
from pipeline.verifier.encoding import canonical

if TYPE_CHECKING:
    from in_toto.models.metadata import Envelope

PAYLOAD_TYPE = "application/vnd.in-toto+json"
SOURCES = "sources.lock"
RELEASE_JSON = "release.json"


@dataclass(frozen=True)
class Step:
    """One step of making a release."""

    name: str
    kind: str
    """lock, build or pack: whoever may do it, and how many have to agree, is said by kind."""
    materials: dict[str, str] = field(default_factory=dict)
    """What it takes, by name, each with the step that gave it."""
    products: tuple[str, ...] = ()
    """Names of what it gives."""

    @property
    def arch(self) -> str:
        """The architecture it is for; empty: all."""
        last = self.name.rpartition(".")[2]
        return last if self.kind != "lock" and self.name != PACK_ALL else ""


PACK_ALL = "pack.release"


class Subject(Protocol):
    """Something that a signer found."""

    @property
    def digest(self) -> Digest:
        """Of its bytes."""


class Facts(Protocol):
    """What a signer states, as far as links need it (`pipeline.attest.facts`)."""

    @property
    def manifest(self) -> Manifest:
        """What release.json says."""

    @property
    def subjects(self) -> Mapping[str, Subject]:
        """Everything that the signer found, by name."""

    @property
    def locks(self) -> Mapping[str, Digest]:
        """The files of locks that it was made from, by name: `sources.lock`, `BASE.lock`."""


def steps_of(manifest: Manifest) -> list[Step]:
    """The steps by which a release was made, each after those whose products it takes."""
    locks = (SOURCES, *sorted({f"{base}.lock" for base in manifest.bases.values()}))
    steps = [Step("lock", "lock", {}, locks)]
    packs = []
    for arch in sorted(p.removeprefix("linux/") for p in manifest.platforms):
        taken = {SOURCES: "lock", f"{manifest.bases[f'linux/{arch}']}.lock": "lock"}
        built: dict[str, str] = {}
        for unit in sorted({b.unit for b in manifest.binaries if b.platform == f"linux/{arch}"}):
            mine = [b for b in manifest.binaries if (b.unit, b.platform) == (unit, f"linux/{arch}")]
            names = tuple(sorted(f"binary/{unit}/{arch}/{b.name}" for b in mine))
            step = Step(f"build.{unit}.{arch}", "build", taken, names)
            steps.append(step)
            built |= dict.fromkeys(names, step.name)
        files = tuple(sorted(a.name for a in manifest.artifacts if a.platform == f"linux/{arch}"))
        packs.append(Step(f"pack.{arch}", "pack", built, files))
    packed = {file: pack.name for pack in packs for file in pack.products}
    # A base's lock is shipped as it was taken: it is a product of `lock`, and no other step makes it again.
    files = tuple(sorted({a.name for a in manifest.artifacts if a.platform is None} - set(locks)))
    return [*steps, *packs, Step(PACK_ALL, "pack", packed, (*files, RELEASE_JSON))]


def digests_of(manifest: Manifest, text: bytes) -> dict[str, Digest]:
    """The digests that a release names, by the names that links give to what has them; `text` is its release.json."""
    found = {a.name: Digest.parse(a.digest) for a in manifest.artifacts}
    for b in manifest.binaries:
        found[f"binary/{b.unit}/{b.platform.removeprefix('linux/')}/{b.name}"] = Digest.parse(b.digest)
    return {**found, RELEASE_JSON: Digest.of_bytes(text)}


def link_payload(step: Step, digests: Mapping[str, Digest]) -> bytes:
    """The bytes of a link that are signed, without command, clock, host or environment. Raises KeyError."""
    hashes = {name: {"sha256": digests[name].hex} for name in (*step.materials, *step.products)}
    return canonical(
        {
            "_type": "link",
            "name": step.name,
            "materials": {name: hashes[name] for name in step.materials},
            "products": {name: hashes[name] for name in step.products},
            "byproducts": {},
            "command": [],
            "environment": {},
        }
    )


def make_links(facts: Facts, signing: Signing, *, arches: Collection[str] | None = None) -> dict[str, bytes]:
    """The links of all steps, or of those for `arches`, by their paths in the release's folder.

    A step of which the signer did not find everything, because it came out otherwise or was left out, gets none.
    """
    digests = {**{name: s.digest for name, s in facts.subjects.items()}, **facts.locks}
    found = {}
    for step in steps_of(facts.manifest):
        known = all(name in digests for name in (*step.materials, *step.products))
        if known and (arches is None or step.kind == "lock" or step.arch in arches):
            payload = link_payload(step, digests)
            found[link_path(step.name, signing.key.keyid)] = envelope_file(payload, signing)
    return found


def link_path(step: str, keyid: str) -> str:
    """Where a link lies, as in-toto looks for it."""
    return f"{LINKS}/{step}.{keyid[:8]}.link"


def envelope_file(payload: bytes, signing: Signing) -> bytes:
    """A DSSE envelope with one signature, as a file."""
    from securesystemslib.signer import Signature

    envelope = unsigned(payload)
    signature = signing.sign(pae(PAYLOAD_TYPE, payload))
    envelope.signatures[signing.key.keyid] = Signature(signing.key.keyid, signature.hex())
    value: dict[str, Any] = envelope.to_dict()
    return canonical(value) + b"\n"


def unsigned(payload: bytes) -> "Envelope":
    """in-toto's envelope around a link or layout."""
    from in_toto.models.metadata import Envelope

    return Envelope(payload, PAYLOAD_TYPE, {})
