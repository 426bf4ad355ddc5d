"""Where the OpenPGP signatures of packages and of their repositories come from: a key, or a release that has them.

No key enters a build, and nobody who builds a release again has one. A signature is one packet, so that it can be
taken out of a published file and put into the same file made again: if the two are then equal, they are equal in every
byte, and the signature was the only thing that was not made here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

FOLDER = "rpm"
"""Of packages and repositories in a release."""
KEYS = "RPM-GPG-KEY-rfo"
"""The certificates to check them with, in that folder; the first one's key signs."""
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

    packets: Mapping[str, bytes] = field(default_factory=dict)
    """By place."""

    def sign(self, files: Mapping[str, Path]) -> Mapping[str, bytes]:
        """See `Signatures`."""
        return {place: self.packets[place] for place in files if place in self.packets}


@dataclass(frozen=True)
class Signer:
    """Who signs, as far as plans are concerned, and how signatures are had."""

    certificates: bytes = b""
    """What RPM-GPG-KEY-rfo holds; empty where no key is known, as when a plan is only looked at."""
    signatures: Signatures = field(default_factory=Given)
