"""What docker's config.json knows of a registry: who we are there. Never printed, never on a command line.

Format: docker's cli/config/configfile; helpers: the docker-credential-helpers protocol (`get`, server on stdin).
"""

import base64
import binascii
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import HostError, UsageError
from pipeline.process import find_program, run

MAX_CONFIG = 1 << 20
"""Bytes of a config.json."""
HELPER_SECONDS = 60
"""A helper may ask for a password of its own."""


@dataclass(frozen=True)
class Login:
    """A user and what proves it."""

    user: str
    secret: str = field(repr=False)
    refresh: bool = False
    """The secret is an OAuth 2 refresh token (docker: identitytoken), which only a token server takes."""

    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def config_path() -> Path:
    """Where docker keeps its configuration on this host."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def find_login(host: str) -> Login | None:
    """What config.json, or the helper it names, knows for a registry; None: nothing.

    Raises UsageError if the file is malformed, HostError if a helper is missing or fails.
    """
    path = config_path()
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG + 1)
        config = json.loads(text) if len(text) <= MAX_CONFIG else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise UsageError(
            f"{path} is not docker's configuration: no JSON object", "mend it, or name another folder: DOCKER_CONFIG"
        )
    if helper := _mapping(config, "credHelpers").get(host) or config.get("credsStore"):
        login = _ask(str(helper), host, path)
        if login:
            return login
    for name, entry in _mapping(config, "auths").items():
        if _host_of(name) == host and isinstance(entry, dict) and (login := _login_of(entry, f"{path}: auths.{name}")):
            return login
    return None


def _mapping(config: dict[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _host_of(name: str) -> str:
    """`https://HOST/v1/`, which old clients wrote, and `HOST` are the same registry."""
    return name.partition("://")[2].partition("/")[0] if "://" in name else name


def _login_of(entry: dict[str, Any], place: str) -> Login | None:
    user, secret, refresh = entry.get("username"), entry.get("password"), entry.get("identitytoken")
    if isinstance(entry.get("auth"), str) and entry["auth"]:
        try:
            user, _, secret = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            raise UsageError(f"{place}.auth is not base64 of USER:PASSWORD", "log in again: docker login") from None
    if isinstance(refresh, str) and refresh:
        return Login(str(user or ""), refresh, refresh=True)
    return Login(str(user), str(secret).rstrip("\0")) if user and secret else None


def _ask(helper: str, host: str, path: Path) -> Login | None:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", helper):
        raise UsageError(f"{path} names the credential helper {helper[:80]!r}, which is no program's name")
    program = find_program(f"docker-credential-{helper}", packages=f"the credential helper that {path} names")
    done = run([program, "get"], stdin=host.encode(), timeout=HELPER_SECONDS, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()[:200]
        if "not found" in said:  # how the protocol says that there are none
            return None
        raise HostError(f"docker-credential-{helper}, which {path} names, failed for {host}: {said}")
    try:
        answer = json.loads(done.stdout[:MAX_CONFIG])
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise HostError(f"docker-credential-{helper}, which {path} names, gave no credentials for {host}") from None
    return Login("" if user == "<token>" else user, secret, refresh=user == "<token>")
