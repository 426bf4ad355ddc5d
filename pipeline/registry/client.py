"""HTTP to one registry: credentials, retries, redirects, proxies and certificates; answers bounded, failures explained.

Format: OCI distribution-spec 1.1.
"""

import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from pipeline.base.mirror import reason_of
from pipeline.errors import NetworkError, PipelineError, UsageError
from pipeline.registry.auth import MAX_TOKEN, Authorizer, parse_challenge
from pipeline.registry.place import Remote, follow
from pipeline.sources.http import is_loopback

if TYPE_CHECKING:
    import requests

T = TypeVar("T")
TIMEOUT = (15, 60)
"""Seconds to connect, and between two received parts."""
ATTEMPTS = 5
"""For one request, and for a blob without progress."""
BACKOFF = 0.5
"""Seconds; doubled before every attempt after the first."""
MAX_PAUSE = 60.0
"""Seconds between two attempts at most, whatever the server asks for."""
MAX_TEXT = 64 << 10
"""Bytes that are read of an answer that is no content."""


class Broken(Exception):
    """One attempt failed in a way that another may not."""

    def __init__(self, reason: str, pause: float = 0) -> None:
        super().__init__(reason)
        self.pause = pause
        """Seconds that the server asks to wait."""


class Refused(NetworkError):
    """The registry answered, and would not."""

    def __init__(self, status: int, reason: str, hint: str = "") -> None:
        super().__init__(reason, hint)
        self.status = status


@dataclass(frozen=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    url: str

    @property
    def location(self) -> str:
        """Where the answer leads; raises NetworkError if nowhere."""
        if "Location" not in self.headers:
            raise NetworkError(f"{self.url}: the registry names no Location", "is it a registry (OCI distribution)?")
        return follow(self.url, self.headers["Location"])


class Client:
    """Requests to a registry. Safe to use from several threads."""

    def __init__(self, remote: Remote, *, plain_http: bool = False, ca: Path | None = None) -> None:
        self.remote = remote
        self.ca = ca
        self.origin = f"{'http' if plain_http else 'https'}://{remote.host}"
        self.auth = Authorizer(remote.host, self._ask_token)
        self._threads = threading.local()
        self._sessions: list[requests.Session] = []
        try:
            if ca is not None:
                ssl.create_default_context(cafile=ca)
        except OSError as error:  # which SSLError is, too
            raise UsageError(f"--ca {ca}: {error.strerror or error}", "name a file of certificates, PEM") from error
        try:
            self._greet(may_fall_back=not plain_http and is_loopback(urlsplit(self.origin).hostname))
        except BaseException:
            self.close()
            raise

    def call(
        self,
        method: str,
        path: str,
        repository: str = "",
        *,
        expect: tuple[int, ...] = (200,),
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        limit: int = MAX_TEXT,
    ) -> Reply:
        """Make a request, again if it failed in passing. `path` is below the registry's /v2/, or a whole URL.

        Raises Refused for a status that is not in `expect`; NetworkError.
        """
        return self.retry(lambda: self.once(method, path, repository, expect, headers, data, limit))

    def once(
        self,
        method: str,
        path: str,
        repository: str = "",
        expect: tuple[int, ...] = (200,),
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        limit: int = MAX_TEXT,
    ) -> Reply:
        """Like `call`, but raises Broken where another attempt may succeed."""
        with self.open(method, path, repository, expect, headers, data) as response:
            content = bytearray()
            for part in self.parts(response):
                content += part
                if len(content) > limit:
                    raise NetworkError(f"{response.url}: the answer is larger than {limit} bytes")
            return Reply(response.status_code, response.headers, bytes(content), response.url)

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        repository: str = "",
        expect: tuple[int, ...] = (200,),
        headers: Mapping[str, str] | None = None,
        data: Any = None,
    ) -> "Iterator[requests.Response]":
        """Make one request and yield the answer, its content unread. Raises Broken, Refused, NetworkError."""
        url = path if "://" in path else f"{self.origin}/v2/{path}"
        self._refuse_downgrade(url)
        response = self._authorized(method, url, repository, headers or {}, data)
        with response:
            status = response.status_code
            if status not in expect:
                after = response.headers.get("Retry-After", "")
                if status in (408, 429) or status >= 500:
                    pause = float(after) if re.fullmatch("[0-9]{1,6}", after) else 0
                    raise Broken(f"the registry answered {status}{self._said(response)}", pause)
                raise self._refusal(method, response)
            yield response

    @staticmethod
    def parts(response: "requests.Response") -> Iterator[bytes]:
        """The content as it lies there; raises Broken if the connection breaks."""
        from urllib3.exceptions import HTTPError

        try:
            yield from response.raw.stream(1 << 20, decode_content=False)
        except (HTTPError, OSError) as error:
            raise Broken(f"the connection broke ({reason_of(error)})") from error

    def retry(self, attempt: Callable[[], T]) -> T:
        """What `attempt` returns, which may fail in passing."""
        for number in range(1, ATTEMPTS + 1):
            try:
                return attempt()
            except Broken as broken:
                self.wait(broken, number)
        raise AssertionError("the last attempt returns or raises")

    def wait(self, broken: Broken, failures: int) -> None:
        """Pause before the next attempt; raises NetworkError if there were enough."""
        if failures >= ATTEMPTS:
            raise NetworkError(
                f"{self.remote.host}: {broken} (tried {ATTEMPTS} times)",
                "run the same command again later; it goes on where it stopped",
            ) from broken
        time.sleep(min(max(broken.pause, BACKOFF * 2**failures), MAX_PAUSE))

    def close(self) -> None:
        """Close the connections that are kept open."""
        while self._sessions:
            self._sessions.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _greet(self, *, may_fall_back: bool) -> None:
        """Ask whether this is a registry. On loopback it may be one without TLS, as everywhere in this trade."""
        try:
            reply = self.call("GET", "", expect=(200, 401, 403, 404))
        except _NoTls:
            if not may_fall_back:
                raise
            self.origin = f"http://{self.remote.host}"
            reply = self.call("GET", "", expect=(200, 401, 403, 404))
        if reply.status == 404:
            raise NetworkError(f"{self.origin}: this is no registry: it has no /v2/", "check HOST of HOST[/PREFIX]")

    def _authorized(
        self, method: str, url: str, repository: str, headers: Mapping[str, str], data: Any
    ) -> "requests.Response":
        ours = _origin(url) == _origin(self.origin)  # nobody else learns who we are
        response = self._send(method, url, headers, data, sent := self.auth.header(repository) if ours else None)
        for _ in range(3):  # other threads may have renewed a token meanwhile, for what they needed
            challenge = parse_challenge(response.headers.get("WWW-Authenticate", ""))
            if response.status_code != 401 or challenge is None or _origin(response.url) != _origin(self.origin):
                break
            if not self.auth.answer(challenge, repository, sent):
                break
            response.close()
            response = self._send(method, url, headers, data, sent := self.auth.header(repository))
        return response

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], data: Any, authorization: str | None
    ) -> "requests.Response":
        import requests

        try:
            return self._session().request(
                method,
                url,
                headers={"Accept-Encoding": "identity", "User-Agent": "rfo-pipeline", **headers},
                data=data,
                auth=_Header(authorization),
                stream=True,
                timeout=TIMEOUT,
                allow_redirects=method in ("GET", "HEAD"),
                # Said with each request: requests lets REQUESTS_CA_BUNDLE go before what a session says.
                verify=str(self.ca) if self.ca else True,
            )
        except requests.exceptions.SSLError as error:
            raise self._tls_failure(url, error) from error
        except requests.exceptions.ProxyError as error:
            raise Broken(f"the proxy of the environment does not lead there ({reason_of(error)})") from error
        except OSError as error:  # which requests' own errors are, too
            raise Broken(f"cannot be reached, or the connection broke ({reason_of(error)})") from error

    def _tls_failure(self, url: str, error: Exception) -> NetworkError:
        host, reason = urlsplit(url).netloc, reason_of(error)
        if re.search("wrong version number|record layer failure|http request|packet length too long", reason, re.I):
            return _NoTls(f"{host}: it does not speak TLS ({reason})", "if that is meant: --plain-http")
        if "certificate verify failed" in reason or "CERTIFICATE" in reason:
            return NetworkError(
                f"{host}: its certificate is not trusted ({reason})",
                "name the certificate of its authority: --ca FILE (or REQUESTS_CA_BUNDLE)",
            )
        raise Broken(f"the TLS connection broke ({reason})") from error

    def _refusal(self, method: str, response: "requests.Response") -> PipelineError:
        url, status = response.url.partition("?")[0], response.status_code
        what = f"{method} {url}: the registry answered {status}{self._said(response)}"
        if status == 401:
            return Refused(status, f"{what}\n  {self.auth.explain()}", f"docker login {self.remote.host}")
        if status == 403:
            return Refused(status, f"{what}\n  {self.auth.explain()}", "ask for the right, or name another prefix")
        if status == 404:
            return Refused(status, what, "check HOST[/PREFIX]; some registries want a repository to be made first")
        if status == 413:
            return Refused(status, what, "a proxy in front of the registry limits the size of uploads: raise it")
        if response.is_redirect:
            return Refused(status, f"{what}, and leads to {response.headers['Location'][:200]!r}")
        return Refused(status, what)

    def _said(self, response: "requests.Response") -> str:
        """The reason that an error document of the distribution-spec gives, printable and short."""
        try:
            errors = json.loads(next(self.parts(response), b"")[:MAX_TEXT])["errors"]
            said = "; ".join(f"{e.get('code', '')} {e.get('message', '')}" for e in errors)
        except (Broken, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return ""
        return f" ({''.join(c if c.isprintable() else ' ' for c in said)[:300].strip()})" if said else ""

    def _ask_token(self, url: str, form: Mapping[str, str] | None, authorization: str | None) -> str | None:
        self._refuse_downgrade(url)

        def attempt() -> str | None:
            response = self._send("POST" if form else "GET", url, {}, form, authorization)
            with response:
                if response.status_code == 429 or response.status_code >= 500:
                    raise Broken(f"the token server {urlsplit(url).netloc} answered {response.status_code}")
                if response.status_code != 200:
                    return None
                text = b""
                for part in self.parts(response):
                    text += part
                    if len(text) > MAX_TOKEN:
                        raise NetworkError(f"{urlsplit(url).netloc}: a token of more than {MAX_TOKEN} bytes")
            try:
                answer = json.loads(text)
                token = answer.get("token") or answer.get("access_token")
            except (ValueError, AttributeError, RecursionError):
                token = None
            if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
                raise NetworkError(f"{urlsplit(url).netloc}: the token server's answer holds no token")
            return token

        return self.retry(attempt)

    def _refuse_downgrade(self, url: str) -> None:
        """No way leads from https to http, neither by Location nor by redirect or realm."""
        if self.origin.startswith("https://") and not url.startswith("https://"):
            goal = urlsplit(url)
            raise NetworkError(
                f"{self.remote.host}: the registry leads to {goal.scheme}://{goal.hostname}, not to https",
                "a proxy in front of it may have to send X-Forwarded-Proto",
            )

    def _session(self) -> "requests.Session":
        import requests

        session: requests.Session | None = getattr(self._threads, "session", None)
        if session is None:
            session = self._threads.session = requests.Session()
            session.hooks["response"] = [self._watch_redirect]  # called for each hop, before the next
            self._sessions.append(session)
        return session

    def _watch_redirect(self, response: "requests.Response", *_: Any, **__: Any) -> None:
        if response.is_redirect:
            self._refuse_downgrade(follow(response.url, response.headers["location"]))


class _NoTls(NetworkError):
    """The other side answered in the clear."""


class _Header:
    """Sets Authorization; given as `auth`, so that requests takes nothing from a netrc in its place."""

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __call__(self, request: "requests.PreparedRequest") -> "requests.PreparedRequest":
        if self._value:
            request.headers["Authorization"] = self._value
        return request


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
