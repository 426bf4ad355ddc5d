"""Where signatures stand in a release's folder: a closed list, since nothing but signatures may differ between two
makings of a release. No I/O besides listing and removing them.
"""

import fnmatch
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pipeline.strict import read_yaml

BUNDLE = ".sigstore.json"
"""Suffix of a Sigstore bundle."""
LINKS = "provenance/links"
LAYOUT = "provenance/layout.json"
RELEASE_STATEMENT = "provenance/release/release.sigstore.json"
IMAGE_SIGNATURES = "provenance/release/images.sigstore.json"
LEGACY_SIGNATURES = "provenance/release/legacy.json"
RELEASE_PROVENANCE = "provenance/release/provenance.sigstore.json"
INSTALLER, VERIFIER = "install-rfo.sh", "rfo-verify"
"""They carry the first root of trust, so that they come with the signatures."""
UNTRACKED = "layout"
"""The kind of what only the release statement names."""
_SIGNATURES = re.compile(r"(?s:(provenance|trust)/.+|charts/[^/]+\.tgz\.prov|install-rfo\.sh|rfo-verify)")
_FOLDERS = ("provenance", "trust", "charts", INSTALLER, VERIFIER)
_NAME = re.compile(r"[A-Za-z0-9._+@-]{1,120}")


def is_signature(path: str) -> bool:
    """Whether a path below a release's folder is one of those that only signing writes."""
    return _SIGNATURES.fullmatch(path) is not None


def signature_files(folder: Path) -> Iterator[str]:
    """Paths of the signatures in a release's folder; links are not followed."""
    for start in (folder / name for name in _FOLDERS):
        if not start.is_symlink():
            for path in sorted(start.rglob("*")) if start.is_dir() else [start] if start.is_file() else []:
                name = path.relative_to(folder).as_posix()
                if is_signature(name) and (path.is_symlink() or path.is_file()):
                    yield name


def remove_signatures(folder: Path) -> None:
    """Remove all signatures: they are about other content. Raises OSError."""
    for name in ("provenance", "trust"):
        if (folder / name).is_symlink():  # whatever it leads to is not the release's
            (folder / name).unlink()
    for name in list(signature_files(folder)):
        path = folder / name
        path.unlink()
        for parent in list(path.relative_to(folder).parents)[:-1]:
            if not any((folder / parent).iterdir()):
                (folder / parent).rmdir()


def signer_folder(role: str, keyid: str) -> str:
    """Where a builder's or rebuilder's statements stand."""
    return f"provenance/{role}-{keyid[:8]}"


def provenance_place(role: str, keyid: str, kind: str) -> str:
    """Of the SLSA provenance of a kind."""
    return f"{signer_folder(role, keyid)}/{kind}{BUNDLE}"


def sbom_place(role: str, keyid: str, document: str) -> str:
    """Of the attestation of an SBOM, `NAME.spdx.json`."""
    return f"{signer_folder(role, keyid)}/sbom/{document.removesuffix('.spdx.json')}{BUNDLE}"


def rebuild_place(keyid: str) -> str:
    """Of a rebuilder's result."""
    return f"{signer_folder('rebuilder', keyid)}/rebuild{BUNDLE}"


def kind_of(path: str) -> str:
    """The kind of a published file."""
    return next(k for pattern, k in _kinds() if fnmatch.fnmatchcase(path, pattern))


def kinds() -> set[str]:
    """All kinds of published files."""
    return {kind for _, kind in _kinds()}


@cache
def _kinds() -> tuple[tuple[str, str], ...]:
    table = read_yaml(Path(__file__).with_name("kinds.yaml"))
    return tuple((pattern, entry["kind"]) for entry in table["kinds"] for pattern in entry["files"])
