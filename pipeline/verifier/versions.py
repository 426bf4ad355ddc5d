"""Versions of releases, `vX.Y.Z+rforN`: compared by number in each field, so that rfor10 is newer than rfor9."""

from __future__ import annotations

import re
from typing import Any

from pipeline.verifier.encoding import Refused

_NUMBER = r"(0|[1-9][0-9]{0,5})"
_VERSION = re.compile(rf"v{_NUMBER}\.{_NUMBER}\.{_NUMBER}\+rfor([1-9][0-9]{{0,5}})")

Version = tuple[int, int, int, int]


def read_version(text: Any, what: str) -> Version:
    """A version's numbers; raises Refused, naming `what`, for what is none."""
    match = _VERSION.fullmatch(text) if isinstance(text, str) else None
    if not match:
        raise Refused(what, "is not the version of a release", "vX.Y.Z+rforN", str(text)[:100])
    major, minor, patch, rfor = map(int, match.groups())
    return major, minor, patch, rfor


def compare_versions(left: str, right: str) -> int:
    """-1, 0 or 1 as `left` is older than, equal to or newer than `right`. Raises Refused."""
    a, b = read_version(left, left[:100]), read_version(right, right[:100])
    return (a > b) - (a < b)
