"""Where images are and what they are called: a registry or a folder, repositories and tags. No I/O.

Grammar: OCI distribution-spec 1.1, "Pulling manifests".
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urljoin, urlsplit

from pipeline.errors import NetworkError, SourceError, UsageError
from pipeline.image.names import ORGANISATION
from pipeline.model import Digest

REPOSITORY = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
HOST = re.compile(r"(\[[0-9a-fA-F:]+\]|[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?)(:[0-9]{1,5})?")
MAX_NAME = 255
"""Characters of a host and a repository together that common clients and registries take."""
LEGACY = ("sig", "att", "sbom")
"""Suffixes of the tags `sha256-HEX.SUFFIX` that clients before OCI 1.1 keep signatures and the like under."""


@dataclass(frozen=True, order=True)
class Name:
    """An image by name, below whatever registry it is in."""

    repository: str
    """Such as `rfolabs/pause`."""
    tag: str

    def __post_init__(self) -> None:
        if len(self.repository) > MAX_NAME or not REPOSITORY.fullmatch(self.repository) or not TAG.fullmatch(self.tag):
            raise SourceError(f"not the name of an image: {f'{self.repository}:{self.tag}'[:300]!r}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `[HOST/]REPOSITORY:TAG`; the host goes, and a bare name is one of RFO's. Raises SourceError."""
        path, _, tag = text.rpartition(":")
        first, _, rest = path.partition("/")
        if rest and _is_host(first):
            path = rest
        return cls(path if "/" in path else f"{ORGANISATION}/{path}", tag)

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


def referrers_tag(subject: Digest) -> str:
    """The tag of the index of a manifest's referrers, where a registry has no API for them (distribution-spec)."""
    return f"sha256-{subject.hex}"


@dataclass(frozen=True)
class Remote:
    """A registry, and the path in it that repositories stand below."""

    host: str
    """`NAME[:PORT]`."""
    prefix: str = ""

    def path(self, repository: str) -> str:
        """A repository's path in the registry."""
        return f"{self.prefix}/{repository}" if self.prefix else repository

    def __str__(self) -> str:
        return f"{self.host}/{self.prefix}" if self.prefix else self.host


def parse_remote(text: str) -> Remote:
    """Read `HOST[/PREFIX]`; raises UsageError."""
    host, _, prefix = text.rstrip("/").partition("/")
    if "://" in text or "@" in text:
        raise UsageError(
            f"{re.sub(r'[^/]*@', '…@', text)!r}: expected a registry as HOST[/PREFIX], without scheme and credentials",
            "plain http is --plain-http; log in with `docker login HOST`",
        )
    if not HOST.fullmatch(host) or (prefix and not REPOSITORY.fullmatch(prefix)) or len(text) > MAX_NAME:
        raise UsageError(
            f"{text[:300]!r}: expected a registry as HOST[/PREFIX]; a prefix is of lower-case letters, digits, . _ -"
        )
    return Remote(host, prefix)


def parse_place(text: str) -> Remote | Path:
    """Read a registry (`HOST[/PREFIX]`) or a folder, which are told apart as Docker does: a host has a `.` or `:`.

    `./NAME` is always a folder. Raises UsageError.
    """
    if not text:
        raise UsageError("expected a registry, HOST[/PREFIX], or a folder")
    first = text.partition("/")[0]
    if text.startswith(("/", ".")) or not (_is_host(first) or ":" in first):
        return Path(text).absolute()
    return parse_remote(text)


def follow(origin: str, target: str) -> str:
    """The URL that an answer from `origin` leads to; raises NetworkError if that is no web address."""
    try:
        url = urljoin(origin, target)
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a malformed host or port
        usable = False
    if not usable or parts.username is not None:
        raise NetworkError(f"{origin.partition('?')[0]}: it leads to {target[:200]!r}, which is no web address")
    return url


def _is_host(first: str) -> bool:
    return bool(HOST.fullmatch(first)) and (first == "localhost" or "." in first or ":" in first)
