"""What the release role signs and publishes, in a process of its own: `python -m pipeline.attest.releasing`.

A request as JSON stands on its input. It believes nobody. It reads the trust repository itself, hashes every file,
judges what builders and rebuilders signed by the policy there, and only then signs: the layout, the images, the older
form of their signatures, the charts, and last the release statement, which names every file. Then the trust root names
that, and the release gets its snapshot of the trust root. What is there and good stays, so that it can be asked again
after having been stopped anywhere. Its answer is JSON: `{"written": […]}`, or `{"reason", "hint", "kind"}`.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.attest.chain import check_layout, check_links, layout_expiry
from pipeline.attest.keyless import ReleaseSigner, read_keyless
from pipeline.attest.keys import Signing, keys_folder, load_signing
from pipeline.attest.layout import make_layout, sign_layout
from pipeline.attest.oci import legacy_subjects, render_legacy, simple_signing
from pipeline.attest.openpgp import read_certificates
from pipeline.attest.places import (
    BUNDLE,
    IMAGE_SIGNATURES,
    INSTALLER,
    LAYOUT,
    LEGACY_SIGNATURES,
    LINKS,
    RELEASE_PROVENANCE,
    RELEASE_STATEMENT,
    VERIFIER,
    is_signature,
)
from pipeline.attest.root import TrustRoot, read_root, trust_folder
from pipeline.attest.standalone import render_verifier
from pipeline.attest.statement import make_statement
from pipeline.attest.talk import serve
from pipeline.engine import HERE
from pipeline.errors import PipelineError, TrustError
from pipeline.lock import write_atomically
from pipeline.model import Digest
from pipeline.pack.installer import render_installer
from pipeline.publish.published import Published, read_published
from pipeline.registry.layout import Layout
from pipeline.rpm.signatures import FOLDER, KEYS, certificates_of
from pipeline.store import store_error
from pipeline.trust.development import open_trust
from pipeline.trust.policy import DEVELOPMENT
from pipeline.trust.repository import TrustRepository
from pipeline.verifier.bundle import MAX_BUNDLE, read_bundle
from pipeline.verifier.encoding import Refused, canonical, decode64, parse_canonical
from pipeline.verifier.evidence import EVIDENCE
from pipeline.verifier.folder import Folder
from pipeline.verifier.released import MANIFEST_NAME
from pipeline.verifier.report import Report
from pipeline.verifier.statement import IMAGE_SIGNATURE, RELEASE, STATEMENT
from pipeline.verifier.verify import judge_candidate

ADDED = (LAYOUT, IMAGE_SIGNATURES, LEGACY_SIGNATURES, RELEASE_PROVENANCE, RELEASE_STATEMENT)
"""Below provenance/, besides what builders and rebuilders sign."""


@dataclass(frozen=True)
class Judged:
    """A candidate, and what the policy says of it."""

    published: Published
    report: Report
    links: list[Refused]
    """What is missing of its links, or wrong."""
    odd: list[Refused]
    """Files that belong to no release."""

    @property
    def reasons(self) -> list[Refused]:
        """Why it cannot be promoted."""
        return [*self.report.reasons, *self.links, *self.odd]


def judge(folder: Path, root: TrustRoot) -> Judged:
    """Judge a candidate by the policy of a trust root, every file hashed.

    Raises UsageError if there is none, SourceError for a malformed one, TrustError for a folder that is none at all.
    """
    published = read_published(folder)
    try:
        report = judge_candidate(folder, root.policy, root.trust.files.get("trusted_root.json"))
        place = Folder(folder)
    except Refused as refused:
        raise TrustError(str(refused)) from refused
    known = {MANIFEST_NAME, *published.artifacts}
    odd = [p for p in place.sizes if p not in known and not _belongs(p)]
    found = [Refused(p, "was added: it is no part of a release") for p in sorted(odd)]
    found += development_keys(published, root)
    return Judged(published, report, check_links(place, published, root.layout), found)


def development_keys(published: Published, root: TrustRoot) -> list[Refused]:
    """Keys for packages that were made for trying things out, where the policy is not: hosts would trust them."""
    data = certificates_of(published) if not root.policy.development else b""
    names = [c.user_id for c in read_certificates(data)] if data else []
    reason = "has a key for development, and the policy is not for that"
    return [Refused(f"{FOLDER}/{KEYS}", reason, "", n) for n in names if n.endswith(f"({DEVELOPMENT})")]


def _belongs(path: str) -> bool:
    """Whether a file stands where signatures do."""
    if path.startswith("provenance/"):
        return bool(EVIDENCE.fullmatch(path)) or path in ADDED or path.startswith(f"{LINKS}/")
    return is_signature(path)


def sign_release(
    folder: Path,
    root: TrustRoot,
    signing: Signing,
    charts: Callable[[Path], bytes] | None = None,
    mirror: str = "",
    statements: ReleaseSigner | None = None,
) -> list[str]:
    """Sign a candidate that meets the policy; returns the paths that were written.

    `statements` signs those of the release if the key `signing` does not: by certificate, of which there are three at
    most, whatever the release has (pipeline/attest/keyless.py). `charts` makes a chart's provenance; the installer
    downloads from `mirror` unless it is told otherwise. Raises TrustError, with every reason, for a candidate that does
    not meet the policy.
    """
    judged = judge(folder, root)
    if judged.reasons:
        lines = "\n  ".join(str(r) for r in judged.reasons[:20])
        raise TrustError(f"{folder.name} is not signed: it does not meet the policy {root.policy.name}\n  {lines}")
    statements = statements or ReleaseSigner(signing)
    refuse_other_signer(root, signing, statements)
    release = _Release(folder, root, signing, statements, judged.published)
    try:
        release.keep(LAYOUT, release.good_layout, release.layout)
        release.keep_bundle(IMAGE_SIGNATURES, release.images())
        if statements.certified and (provenance := release.provenance()):
            release.keep_bundle(RELEASE_PROVENANCE, provenance)
        release.keep(LEGACY_SIGNATURES, release.good_legacy, release.legacy)
        if charts:
            for chart in sorted((folder / "charts").glob("*.tgz")):
                if not release.is_sealed(path := f"charts/{chart.name}.prov"):
                    release.write(path, charts(chart))
        verifier = render_verifier(root.first)
        release.write(VERIFIER, verifier)
        release.write(INSTALLER, render_installer(verifier, root.first, mirror))
        release.keep_bundle(RELEASE_STATEMENT, release.statement())
    except OSError as error:
        raise store_error(error, folder) from error
    return release.written


def refuse_other_signer(root: TrustRoot, signing: Signing, statements: ReleaseSigner) -> None:
    """Raise TrustError if the signer may not sign releases according to the policy, or not name them by TUF."""
    signer = next((s for s in root.policy.signers if statements.is_signer(s)), None)
    if signer is None or signer.role != "release":
        known = "nobody's" if signer is None else f"that of {signer.id}, a {signer.role}"
        raise TrustError(
            f"the signer of release in {keys_folder()} is {known} according to the policy {root.policy.name}",
            "promote with the key or identity that the policy names, or let it name this one (docs/trust.md)",
        )
    if str(signing.key.keyid) not in root.keys:
        raise TrustError(
            f"the trust root does not let the key {str(signing.key.keyid)[:8]} name releases",
            "see who may: ./inv trust status",
        )


def publish(folder: Path, repository: TrustRepository) -> None:
    """Let the trust root name a signed release, and give the release its snapshot. Raises TrustError, StoreError."""
    published = read_published(folder)
    version = published.manifest.version
    repository.publish_release(folder_name(published), version, folder / RELEASE_STATEMENT)
    repository.snapshot_into(folder)


class _Release:
    """A candidate on its way to be a release."""

    def __init__(
        self, folder: Path, root: TrustRoot, signing: Signing, statements: ReleaseSigner, published: Published
    ) -> None:
        self.folder = folder
        self.root = root
        self.signing = signing
        self.statements = statements
        self.published = published
        self.written: list[str] = []

    def keep(self, path: str, good: Callable[[bytes], bool], make: Callable[[], bytes]) -> None:
        """Make a file unless there is a good one."""
        try:
            if good((self.folder / path).read_bytes()):
                return
        except (Refused, FileNotFoundError):
            pass
        self.write(path, make())

    def write(self, path: str, data: bytes) -> None:
        """Write a file unless it is there already."""
        place = self.folder / path
        if place.is_symlink() or not place.is_file() or place.read_bytes() != data:
            write_atomically(place, data)
            self.written.append(path)

    def keep_bundle(self, path: str, payload: bytes) -> None:
        """Sign a statement, unless a signature over it is there: they are random, and this one may be published."""

        def good(data: bytes) -> bool:
            bundle = read_bundle(data[: MAX_BUNDLE + 1], path)
            return bundle.payload == payload and self.statements.made(bundle)

        self.keep(path, good, lambda: self.statements([payload])[0])

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether it is a signature by our key."""
        from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
        from securesystemslib.signer import Signature

        keyid = self.signing.key.keyid
        try:
            self.signing.key.verify_signature(Signature(keyid, signature.hex()), message)
        except (UnverifiedSignatureError, VerificationError):
            return False
        return True

    def is_sealed(self, path: str) -> bool:
        """Whether a release statement of ours, of a call that was stopped after it, names a file as it is."""
        try:
            data = (self.folder / RELEASE_STATEMENT).read_bytes()
            bundle = read_bundle(data[: MAX_BUNDLE + 1], RELEASE_STATEMENT)
            found = Folder(self.folder).digest(path)
        except (Refused, FileNotFoundError):
            return False
        named = bundle.statement.subjects.get(path)
        return named == found and self.statements.made(bundle)

    def layout(self) -> bytes:
        """The layout, which expires so many days from now."""
        expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=self.root.layout.days)
        made = make_layout(self.root.layout, self.published.manifest, expires)
        return sign_layout(made, self.signing)

    def good_layout(self, data: bytes) -> bool:
        """Whether the layout that is there can stay. Raises Refused."""
        del data  # read again by those who judge it
        place, keys = Folder(self.folder), {str(self.signing.key.keyid): self.signing.key}
        good = not check_layout(place, self.published, self.root.layout, keys)
        return good and layout_expiry(place) > datetime.now(UTC).timestamp()

    def images(self) -> bytes:
        """What cosign looks for: a statement of no content about every image and chart, by digest alone."""
        digests = sorted({digest.hex for _, digest in self.manifests()})
        subjects = [{"digest": {"sha256": digest}} for digest in digests]
        return canonical(
            {"_type": STATEMENT, "subject": subjects, "predicateType": IMAGE_SIGNATURE, "predicate": {}}
        )  # fmt: skip

    def provenance(self) -> bytes:
        """The builder's statement about images, for those who know the release's signer only; empty without images."""
        for path in sorted(self.folder.glob(f"provenance/builder-*/image{BUNDLE}")):
            name = path.relative_to(self.folder).as_posix()
            return read_bundle(path.read_bytes()[: MAX_BUNDLE + 1], name).payload
        return b""

    def manifests(self) -> list[tuple[str, Digest]]:
        """Repository and digest of every index and manifest of images and charts."""
        return legacy_subjects(Layout(self.folder))

    def legacy(self) -> bytes:
        """Signatures of images in the older form."""
        return render_legacy({(n, d): self.signing.sign(simple_signing(n, d)) for n, d in self.manifests()})

    def good_legacy(self, data: bytes) -> bool:
        """Whether the signatures that are there are all that are needed, and good. Raises Refused."""
        found = parse_canonical(data, LEGACY_SIGNATURES, MAX_BUNDLE)
        try:
            entries = {
                (e["reference"], Digest.parse(e["digest"])): decode64(e["signature"], LEGACY_SIGNATURES)
                for e in found["signatures"]
            }
        except (KeyError, TypeError, PipelineError):
            return False
        same = render_legacy(entries) == data and sorted(entries) == self.manifests()
        return same and all(self.verifies(simple_signing(n, d), s) for (n, d), s in entries.items())

    def statement(self) -> bytes:
        """The release statement: every file as it is now."""
        place = Folder(self.folder)
        names = [n for n in place.sizes if n != RELEASE_STATEMENT and not n.startswith("trust/")]
        digests = place.hashing(names)()
        if unread := [d for d in digests.values() if isinstance(d, Refused)]:
            raise TrustError(str(unread[0]))
        manifest, policy = self.published.manifest, self.root.policy
        predicate = {
            "purl": f"pkg:generic/rfo@{manifest.version.replace('+', '%2B')}",
            "release": {
                "version": manifest.version,
                "folder": folder_name(self.published),
                "date": manifest.date,
                "policy": policy.name,
                "development": policy.development,
            },
        }
        return make_statement({n: Digest(str(d)) for n, d in digests.items()}, RELEASE, predicate)


def folder_name(published: Published) -> str:
    """What the release's folder is called, whatever it is called here: VERSION, or VERSION@BASE on a stand-in."""
    manifest = published.manifest
    bases = "+".join(sorted(set(manifest.bases.values())))
    return f"{manifest.version}@{bases}" if manifest.stand_in else manifest.version


def _charts() -> Callable[[Path], bytes] | None:
    """How charts are signed; None on a host without a key for them."""
    from pipeline.attest.helm import SECRET, chart_prov, load_chart_key

    if not (keys_folder() / SECRET).exists():
        return None
    key = load_chart_key(keys_folder())
    return lambda chart: chart_prov(chart, key)


def answer(request: bytes) -> dict[str, Any]:
    """Sign what a request, `{"folder": PATH, "mirror": URL}`, asks for. Raises TrustError and others."""
    asked = json.loads(request)
    folder, mirror = Path(asked["folder"]), str(asked.get("mirror", ""))
    keys = keys_folder()
    root, signing, keyless = read_root(trust_folder()), load_signing("release", keys), read_keyless(keys)
    written = sign_release(folder, root, signing, _charts(), mirror, ReleaseSigner(keyless or signing))
    publish(folder, open_trust(HERE.parent))
    return {"written": written}


def main() -> int:
    """Answer one request; returns the exit status."""
    return serve(answer)


if __name__ == "__main__":
    sys.exit(main())
