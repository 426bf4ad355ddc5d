"""Where the OpenPGP signatures of packages and of their repositories come from: a key, or a release that has them.

No key enters a build, and nobody who builds a release again has one. A signature is one packet, so that it can be
taken out of a published file and put into the same file made again: if the two are then equal, they are equal in every
byte, and the signature was the only thing that was not made here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipeline.attest.openpgp import MAX_CERTIFICATES, checked_packet, read_certificates
from pipeline.errors import SourceError
from pipeline.rpm.package import main_header

FOLDER = "rpm"
"""Of packages and repositories in a release."""
KEYS = "RPM-GPG-KEY-rfo"
"""The certificates to check them with, in that folder; the first one's key signs."""
PACKAGE = ".rpm"
METADATA_SIGNATURE = "repomd.xml.asc"


class Signatures(Protocol):
    """Gives signatures; never asked while planning."""

    def sign(self, files: Mapping[str, Path]) -> Mapping[str, bytes]:
        """The signature packet of each file, by its place in the release; what is left out stays unsigned.

        `files` are files of the store: of a package the main header is signed, of metadata the whole. Raises
        PipelineError.
        """


@dataclass(frozen=True)
class Given:
    """Signatures that were made before: those of a published release, or none."""

    certificates: bytes = b""
    """The first one's key made them."""
    packets: Mapping[str, bytes] = field(default_factory=dict)
    """By place."""

    def sign(self, files: Mapping[str, Path]) -> Mapping[str, bytes]:
        """See `Signatures`; what is no good signature of just this file, in the form that we write, is left out."""
        return {place: self.packets[place] for place, path in files.items() if self._is_good(place, path)}

    def _is_good(self, place: str, path: Path) -> bool:
        if place not in self.packets:
            return False
        try:
            key = read_certificates(self.certificates)[0].public
            message = main_header(path) if place.endswith(PACKAGE) else path.read_bytes()
            return checked_packet(self.packets[place], key, message)[0] == self.packets[place]
        except (ValueError, IndexError):
            return False


class Release(Protocol):
    """A published release, as far as it is read here (`pipeline.publish.published`)."""

    @property
    def folder(self) -> Path:
        """Where it lies."""

    def content(self, name: str, limit: int) -> bytes:
        """What a small file of it holds."""


def certificates_of(release: Release) -> bytes:
    """RPM-GPG-KEY-rfo of a release; empty if it has none. Raises SourceError."""
    data = release.content(f"{FOLDER}/{KEYS}", MAX_CERTIFICATES)
    try:
        if data:
            read_certificates(data)
    except ValueError as error:
        raise SourceError(f"{release.folder / FOLDER / KEYS} holds no keys for packages: {error}") from error
    return data


@dataclass(frozen=True)
class Signer:
    """Who signs, as far as plans are concerned, and how signatures are had."""

    certificates: bytes = b""
    """What RPM-GPG-KEY-rfo holds; empty where no key is known, as when a plan is only looked at."""
    signatures: Signatures = field(default_factory=Given)
