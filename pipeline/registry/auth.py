"""Say who we are to a registry: Basic (RFC 7617), or Bearer with tokens from where the registry's challenge points.

Format: the token authentication of the distribution project (challenge with realm, service, scope; RFC 6750).
"""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlencode

from pipeline.registry.credentials import Login, config_path, find_login
from pipeline.registry.place import follow

MAX_TOKEN = 1 << 20
"""Bytes of a token server's answer."""
_PARAMETER = r'[A-Za-z_]+\s*=\s*"[^"]*"'
_CHALLENGE = re.compile(rf"\b(bearer|basic)\s+({_PARAMETER}(?:\s*,\s*{_PARAMETER})*)", re.IGNORECASE)

AskToken = Callable[[str, Mapping[str, str] | None, str | None], str | None]
"""URL, form to post (or None to get), Authorization: the token, or None if the server refused."""


@dataclass(frozen=True)
class Challenge:
    """What a registry wants to see (WWW-Authenticate)."""

    scheme: str
    """`bearer` or `basic`."""
    realm: str
    service: str
    scope: str


def parse_challenge(header: str) -> Challenge | None:
    """The strongest challenge of a WWW-Authenticate header that we can answer; None: none."""
    found = []
    for match in _CHALLENGE.finditer(header[:8192]):
        fields = {k.lower(): v for k, v in re.findall(r'([A-Za-z_]+)\s*=\s*"([^"]*)"', match[2])}
        found.append(Challenge(match[1].lower(), *(fields.get(key, "") for key in ("realm", "service", "scope"))))
    return max(found, key=lambda c: c.scheme == "bearer", default=None)


class Authorizer:
    """The Authorization headers of one registry. Safe to use from several threads."""

    def __init__(self, host: str, ask_token: AskToken) -> None:
        self.host = host
        self._ask_token = ask_token
        self._lock = threading.Lock()
        self._headers: dict[str, str] = {}
        """By repository; of Basic by nothing, since it holds for all."""

    @cached_property
    def login(self) -> Login | None:
        """Who we are at this registry."""
        return find_login(self.host)

    def header(self, repository: str) -> str | None:
        """What to send for a repository, as far as it is known before the registry asked."""
        return self._headers.get(repository) or self._headers.get("")

    def answer(self, challenge: Challenge, repository: str, sent: str | None) -> bool:
        """Answer a challenge to a request that carried `sent`; whether the request is worth repeating.

        Raises NetworkError if a token server cannot be asked.
        """
        with self._lock:
            if self.header(repository) != sent:
                return True  # another thread was asked the same
            if challenge.scheme == "basic":
                header = self.login.basic() if self.login and not self.login.refresh else None
                self._headers[""] = header or ""
            else:
                header = self._bearer(challenge)
                self._headers[repository] = header or ""
            return header is not None and header != sent

    def explain(self) -> str:
        """What we had to show, for an error."""
        if self.login is None:
            return f"{config_path()} has no credentials for {self.host}"
        return f"the credentials of {self.login.user or 'a token'} from {config_path()} were refused"

    def _bearer(self, challenge: Challenge) -> str | None:
        realm = follow(f"https://{self.host}/", challenge.realm)
        fields = [("service", challenge.service)] if challenge.service else []
        scopes = [("scope", scope) for scope in challenge.scope.split()]
        if self.login and self.login.refresh:
            form = {"grant_type": "refresh_token", "refresh_token": self.login.secret, "client_id": "rfo-pipeline"}
            token = self._ask_token(realm, {**form, **dict(fields), "scope": challenge.scope}, None)
        else:
            url = realm + ("&" if "?" in realm else "?") + urlencode(fields + scopes)
            token = self._ask_token(url, None, self.login.basic() if self.login else None)
        return f"Bearer {token}" if token else None
