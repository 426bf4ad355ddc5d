"""Download one file by URL, its sha256 known beforehand: bounded, resumable, from the first place that serves it."""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

from pipeline.base.mirror import Mirror
from pipeline.errors import NetworkError, PipelineError, SourceError
from pipeline.model import Digest

if TYPE_CHECKING:
    import requests


class Place(Mirror):
    """A mirror whose redirects are watched: the next request is not even made if it would leave https."""

    def _session(self) -> "requests.Session":
        session = super()._session()
        session.hooks["response"] = [_refuse_downgrade]  # called for each hop, before the next
        return session


def download(urls: Sequence[str], target: Path, *, digest: Digest, limit: int) -> None:
    """Save the file with this digest, at most `limit` bytes, as `target` from the first of `urls` that serves it.

    What an earlier call left in `target`.part is continued. Raises SourceError if every place that answered served
    something else, NetworkError if none answered; both name every place.
    """
    refused: list[PipelineError] = []
    for url in urls:
        folder, _, name = url.rpartition("/")
        try:
            with Place(folder) as place:
                place.download(unquote(name), target, digest=digest, limit=limit)
        except (NetworkError, SourceError) as error:
            refused.append(error)
        else:
            return
    kind = SourceError if any(isinstance(e, SourceError) for e in refused) else NetworkError
    raise kind("; ".join(e.reason for e in refused))


def may_lead(origin: str, target: str) -> bool:
    """Whether a server at `origin` may send us to `target`: https, or http between loopback addresses."""
    before, after = urlsplit(origin), urlsplit(target)
    if after.scheme == "https":
        return True
    return before.scheme == after.scheme == "http" and is_loopback(before.hostname) and is_loopback(after.hostname)


def is_loopback(host: str | None) -> bool:
    """Whether a host's name or address is of this machine itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _refuse_downgrade(response: "requests.Response", *_: Any, **__: Any) -> None:
    if not response.is_redirect:
        return
    target = urljoin(response.url, response.headers["location"])
    if not may_lead(response.url, target):
        response.close()
        raise NetworkError(
            f"{response.url}: the server leads to {urlsplit(target).scheme}://{urlsplit(target).hostname}, not to https"
        )
