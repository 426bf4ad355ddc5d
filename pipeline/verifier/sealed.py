"""The release statement: every file of a release by its digest, signed by the release role, named by the trust root."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.verifier.bundle import MAX_BUNDLE, Bundle, read_bundle
from pipeline.verifier.encoding import Refused, parse_canonical
from pipeline.verifier.evidence import Certified, find_signer
from pipeline.verifier.folder import Folder
from pipeline.verifier.metadata import FileFacts
from pipeline.verifier.policy import Policy
from pipeline.verifier.released import PLACE, Item, Released
from pipeline.verifier.statement import IMAGE_SIGNATURE, PROVENANCE, RELEASE
from pipeline.verifier.tuf import Trust, check_named, find_release
from pipeline.verifier.versions import read_version

STATEMENT_PATH = "provenance/release/release.sigstore.json"
IMAGES_PATH = "provenance/release/images.sigstore.json"
PROVENANCE_PATH = "provenance/release/provenance.sigstore.json"
CANONICAL = ("provenance/layout.json", "provenance/release/legacy.json")
"""Files that are written in the canonical form, besides bundles."""
ADDED = ("provenance/", "charts/", "install-rfo.sh", "rfo-verify")
"""Where a promoted release has files that release.json does not name."""
_FACTS = {"version", "folder", "date", "policy", "development"}


@dataclass(frozen=True)
class Sealed:
    """What the release role says of a release."""

    version: str
    folder: str
    date: str
    named: dict[str, str]
    """SHA-256 of every file, by path."""
    target: FileFacts
    """How the trust root names the statement."""


def read_sealed(folder: Folder, trust: Trust, policy: Policy, certified: Certified) -> Sealed:
    """The release statement, once the trust root names it and the release role has signed it. Raises Refused."""
    what = STATEMENT_PATH
    data = folder.read(what, MAX_BUNDLE)
    bundle = read_bundle(data, what)
    predicate = bundle.statement.predicate
    if bundle.statement.predicate_type != RELEASE or set(predicate) != {"purl", "release"}:
        raise Refused(what, "is not a release statement", RELEASE, bundle.statement.predicate_type[:200])
    facts = predicate["release"]
    if (
        not isinstance(facts, dict)
        or set(facts) != _FACTS
        or not all(isinstance(facts[n], str) for n in ("folder", "date"))
    ):
        raise Refused(what, "does not say what release it is about", ", ".join(sorted(_FACTS)))
    read_version(facts["version"], what)
    if predicate["purl"] != f"pkg:generic/rfo@{facts['version'].replace('+', '%2B')}":
        raise Refused(what, "is about another package", facts["version"], str(predicate["purl"])[:200])
    target = find_release(trust, facts["folder"])
    check_named(data, target, what)
    if target.release != facts["version"]:
        raise Refused(what, "is named by the trust root as another version", target.release, facts["version"])
    _released_by(bundle, policy, certified, what)
    if facts["policy"] != policy.name or facts["development"] is not policy.development:
        raise Refused(what, "was promoted under another policy", policy.name, str(facts["policy"])[:100])
    named = bundle.statement.subjects
    for path in named:
        if not PLACE.fullmatch(path) or path.startswith("trust/") or path == STATEMENT_PATH:
            raise Refused(what, "names a file that no release statement can name", "", path[:200])
    return Sealed(facts["version"], facts["folder"], facts["date"], named, target)


def check_added(
    folder: Folder, sealed: Sealed, policy: Policy, items: Iterable[Item], certified: Certified
) -> list[Refused]:
    """What is wrong with the files that promoting a release adds, beyond their digests."""
    found = []
    checks: dict[str, Any] = {IMAGES_PATH: _sealed_images, PROVENANCE_PATH: _sealed_provenance}
    subjects = {i.name: i.digest for i in items}
    for path in sorted(sealed.named):
        try:
            if path in checks:
                bundle = read_bundle(folder.read_named(path, MAX_BUNDLE, sealed.named[path]), path)
                _released_by(bundle, policy, certified, path)
                checks[path](bundle, subjects, path)
            elif path in CANONICAL:
                parse_canonical(folder.read_named(path, MAX_BUNDLE, sealed.named[path]), path, MAX_BUNDLE)
        except Refused as refused:
            found.append(refused)
    if IMAGES_PATH not in sealed.named and any(n.startswith("image/") for n in subjects):
        found.append(Refused(IMAGES_PATH, "is not there: nothing signs the images"))
    return found


def check_manifest(sealed: Sealed, released: Released) -> list[Refused]:
    """Where the release statement and release.json do not say the same."""
    found = []
    if (released.version, released.folder) != (sealed.version, sealed.folder):
        reason = "is of another release than the release statement"
        found.append(Refused("release.json", reason, f"{sealed.version} in {sealed.folder}", released.folder))
    for path, artifact in released.artifacts.items():
        if sealed.named.get(path) != artifact.digest:
            signed = sealed.named.get(path, "nothing")
            found.append(Refused(path, "has another digest in release.json than is signed", signed, artifact.digest))
    for path in sorted(set(sealed.named) - set(released.artifacts) - {"release.json"}):
        if not path.startswith(ADDED):
            found.append(Refused(path, "is signed with the release, and release.json does not name it"))
    return found


def _released_by(bundle: Bundle, policy: Policy, certified: Certified, what: str) -> None:
    signer = find_signer(bundle, policy, certified, what)
    if signer.role != "release":
        raise Refused(what, "is not signed by the release role", "release", f"{signer.role}, {signer.id}")


def _sealed_images(bundle: Bundle, subjects: dict[str, str], what: str) -> None:
    if bundle.statement.predicate_type != IMAGE_SIGNATURE or bundle.statement.predicate:
        raise Refused(what, "is no signature over images", IMAGE_SIGNATURE, bundle.statement.predicate_type[:200])
    expected = {d for n, d in subjects.items() if n.startswith(("image/", "chart/"))}
    if set(bundle.statement.subjects.values()) != expected:
        odd = sorted(set(bundle.statement.subjects.values()) ^ expected)
        raise Refused(what, "signs other images and charts than the release has", "", ", ".join(odd)[:300])


def _sealed_provenance(bundle: Bundle, subjects: dict[str, str], what: str) -> None:
    if bundle.statement.predicate_type != PROVENANCE:
        raise Refused(what, "is no provenance", PROVENANCE, bundle.statement.predicate_type[:200])
    for name, digest in bundle.statement.subjects.items():
        if subjects.get(name) != digest:
            raise Refused(what, f"is about another {name[:200]}", subjects.get(name, ""), digest)
