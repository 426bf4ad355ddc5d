"""Read files below a mirror's URL or a local folder: bounded, with retries, resumable. Content is judged elsewhere.

A mirror is never trusted: what is read here is either signed or pinned by digest, and checked before it is parsed.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import quote, unquote, urlsplit

from pipeline.errors import NetworkError, SourceError, UsageError
from pipeline.model import CHUNK, Digest, RootedPath

if TYPE_CHECKING:
    import requests

T = TypeVar("T")
TIMEOUT = (15, 60)
"""Seconds to connect, and between two received parts."""
ATTEMPTS = 4
"""Requests for one file at most: a mirror that is down is reported, not waited for."""
BACKOFF = 0.5
"""Seconds; doubled before every attempt after the first."""
MAX_PAUSE = 10.0
"""Seconds between two attempts at most, whatever the server asks for."""


class NotServed(NetworkError):
    """The mirror answered, and does not have the file."""


class _Broken(Exception):
    """One attempt failed in a way that another may not."""

    def __init__(self, reason: str, pause: float = 0) -> None:
        super().__init__(reason)
        self.pause = pause


class Mirror:
    """Files below one place: an `https://`, `http://` or `file://` URL, or a path.

    Safe to use from several threads.
    """

    def __init__(self, origin: str) -> None:
        parts = urlsplit(origin)
        self.local: Path | None = None
        self.url = origin.rstrip("/") + "/"
        self.secure = parts.scheme == "https"
        self._threads = threading.local()
        self._sessions: list[requests.Session] = []
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            self.local = Path(unquote(parts.path))
        elif not parts.scheme:
            self.local = Path(origin).absolute()
        elif parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"origin {self.url!r}: expected an https://, http:// or file:// URL, or a path")
        elif parts.query or parts.fragment:
            raise UsageError("an origin is a URL without query and fragment: paths are put behind it")

    def place(self, path: str) -> str:
        """How errors name a file: the full URL without credentials, or its path."""
        if self.local is not None:
            return str(self.local / path)
        return re.sub(r"(?<=://)[^/@]*@", "", self.url) + path

    def read(self, path: str, *, limit: int) -> bytes:
        """The file at `path`, which has at most `limit` bytes. Raises NotServed, NetworkError, SourceError."""

        def attempt() -> bytes:
            data = bytearray()
            with self._open(path) as (_, parts):
                for part in parts:
                    data += part
                    if len(data) > limit:
                        raise SourceError(f"{self.place(path)}: larger than {limit} bytes")
            return bytes(data)

        return self._retry(path, attempt)

    def download(self, path: str, target: Path, *, digest: Digest, limit: int, size: int | None = None) -> int:
        """Save the file at `path` as `target`, its digest checked; returns its size in bytes.

        `size` is its exact size if known; it has at most `limit` bytes. What an interrupted call left in
        `target`.part is continued, and a `target` with the right content is kept. Raises NotServed, NetworkError;
        SourceError if the content is another.
        """
        if target.exists() and Digest.of_file(target) == digest:
            return target.stat().st_size
        part = target.with_name(target.name + ".part")
        continued = part.exists()
        part.parent.mkdir(parents=True, exist_ok=True)
        most = limit if size is None else min(size, limit)

        def attempt() -> None:
            with part.open("ab") as file:
                have = file.tell() if file.tell() < most else 0
                with self._open(path, start=have) as (start, parts):
                    file.truncate(start)
                    file.seek(start)
                    for chunk in parts:
                        if file.tell() + len(chunk) > most:
                            file.truncate(0)
                            raise SourceError(f"{self.place(path)}: larger than the expected {most} bytes")
                        file.write(chunk)

        self._retry(path, attempt)
        found, total = Digest.of_file(part), part.stat().st_size
        if found != digest or size not in (None, total):
            part.unlink()
            if continued:  # the part may have been of another origin: judge this mirror by its own bytes
                return self.download(path, target, digest=digest, limit=limit, size=size)
            expected = f"{digest}" + (f" ({size} bytes)" if size is not None else "")
            raise SourceError(f"{self.place(path)}: expected {expected}, found {found} ({total} bytes)")
        part.replace(target)
        return total

    def close(self) -> None:
        """Close the connections that are kept open."""
        while self._sessions:
            self._sessions.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _retry(self, path: str, attempt: Callable[[], T]) -> T:
        for number in range(1, ATTEMPTS + 1):
            try:
                return attempt()
            except _Broken as broken:
                if number == ATTEMPTS:
                    raise NetworkError(
                        f"{self.place(path)}: {broken} (tried {ATTEMPTS} times)", "try later, or name another mirror"
                    ) from broken
                time.sleep(min(max(broken.pause, BACKOFF * 2**number), MAX_PAUSE))
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def _open(self, path: str, start: int = 0) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Yield where the content starts (`start`, or 0 if the server serves whole files only) and its parts."""
        RootedPath.parse(path)
        if self.local is not None:
            try:
                file = (self.local / path).open("rb")
            except FileNotFoundError as error:
                raise NotServed(f"{self.place(path)} does not exist") from error
            except OSError as error:
                raise NetworkError(f"{self.place(path)}: {error.strerror}") from error
            with file:  # not within the above: a full disk at the reader's is no fault of the mirror
                file.seek(start)
                yield start, iter(lambda: file.read(CHUNK), b"")
            return
        response = self._request(path, start)
        if start and (
            response.status_code == 416
            or (
                response.status_code == 206
                and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            )
        ):
            response.close()
            start, response = 0, self._request(path, 0)
        with response:
            self._judge(path, response, ranged=bool(start))
            yield start if response.status_code == 206 else 0, self._parts(response)

    def _request(self, path: str, start: int) -> "requests.Response":
        # The bytes as they lie on the server: a transfer encoding would change size and digest. `+` is escaped, as
        # object stores read it as a space.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            return self._session().get(self.url + quote(path), headers=headers, stream=True, timeout=TIMEOUT)
        except OSError as error:  # which requests' own errors are, too
            raise NetworkError(
                f"{self.place(path)}: cannot be reached ({reason_of(error)})",
                "check the network, or name another mirror",
            ) from error

    def _judge(self, path: str, response: "requests.Response", *, ranged: bool) -> None:
        status = response.status_code
        if self.secure and not response.url.startswith("https://"):
            raise NetworkError(f"{self.place(path)}: the server leads away from https")
        if status == 429 or status >= 500:
            after = response.headers.get("Retry-After", "")
            raise _Broken(f"the server answered {status}", float(after) if after.isdecimal() else 0)
        if status in (404, 410):
            raise NotServed(f"{self.place(path)}: the server does not have it (status {status})")
        if status != 200 and not (ranged and status == 206):
            raise NetworkError(f"{self.place(path)}: the server answered {status}", "name another mirror")

    @staticmethod
    def _parts(response: "requests.Response") -> Iterator[bytes]:
        from urllib3.exceptions import HTTPError

        try:
            yield from response.raw.stream(CHUNK, decode_content=False)
        except (HTTPError, OSError) as error:
            raise _Broken(f"the connection broke ({reason_of(error)})") from error

    def _session(self) -> "requests.Session":
        import requests

        session: requests.Session | None = getattr(self._threads, "session", None)
        if session is None:
            session = self._threads.session = requests.Session()
            self._sessions.append(session)
        return session


def reason_of(error: BaseException) -> str:
    """The innermost reason, without the addresses of objects that client libraries put into their messages."""
    while isinstance(error.args[0] if error.args else None, BaseException) or getattr(error, "reason", None):
        inner = getattr(error, "reason", None) or error.args[0]
        if not isinstance(inner, BaseException):
            break
        error = inner
    return re.sub(r"<[^>]*>:?\s*|HTTPS?Connection\w*\([^)]*\):?\s*", "", str(error))[:200] or type(error).__name__
