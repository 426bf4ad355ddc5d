"""JSON that has one spelling: what is signed or stands beside a signature is canonical, so that no byte can be changed.

The canonical form is RFC 8785 (JCS) for values of text, whole numbers, true, false, null, lists and mappings.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any


class Refused(Exception):
    """A reason not to accept something: what it is about, what was expected, what was found."""

    def __init__(self, subject: str, reason: str, expected: str = "", found: str = "") -> None:
        super().__init__(f"{subject}: {reason}")
        self.subject = subject
        self.reason = reason
        self.expected = expected
        self.found = found


def canonical(value: Any) -> bytes:
    """The one spelling of a value. Raises TypeError for floats and keys that are not text, ValueError for bad text."""
    _refuse_ambiguous(value)
    return spelled(value)


def spelled(value: Any, expected: bytes = b"") -> bytes:
    """The one spelling of a value that `parse` has let through.

    `expected` are the bytes that it is going to be compared with: where they hold nothing that is spelled in two ways,
    a quicker encoder finds out as well whether they are the same, and makes other bytes only if they are not.
    """
    quick = bool(expected) and expected.isascii() and b"\\u" not in expected and b"\x7f" not in expected
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=quick).encode()


def _refuse_ambiguous(value: Any) -> None:
    if isinstance(value, dict):
        if not all(isinstance(k, str) for k in value):
            raise TypeError("a key that is not text")
        for item in value.values():
            _refuse_ambiguous(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_ambiguous(item)
    elif isinstance(value, float):
        raise TypeError(f"a number with a fraction: {value!r}")


def parse(data: bytes, what: str, limit: int) -> Any:
    """A JSON value from foreign bytes; raises Refused, naming `what`, for more than `limit` bytes and for what JSON
    leaves open: duplicate keys, fractions, special numbers, deep nesting.
    """
    if len(data) > limit:
        raise Refused(what, "is too large", f"at most {limit} bytes", f"{len(data)} bytes")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_float=_no_float, parse_constant=_no_float)
    except (ValueError, RecursionError) as error:
        raise Refused(what, f"is not JSON as it should be: {error}") from error
    return value


def parse_canonical(data: bytes, what: str, limit: int, end: bytes = b"\n") -> Any:
    """A JSON file of ours: the canonical form and a line feed, or another `end`, and nothing else. Raises Refused."""
    if len(data) <= limit:
        try:
            value = json.loads(data.decode(), parse_float=_no_float, parse_constant=_no_float)
            if spelled(value, data) + end == data:  # as nothing is in which a key stands twice
                return value
        except (ValueError, RecursionError):  # also lone surrogates, or nested as deep as nothing of ours
            pass
    parse(data, what, limit)
    raise Refused(what, "is not in the canonical form: some of its bytes were changed")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_float(text: str) -> Any:
    raise ValueError(f"the number {text[:40]}")


def decode64(text: Any, what: str) -> bytes:
    """Bytes in standard base64 with padding (RFC 4648, section 4), in their one spelling. Raises Refused."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
        if base64.b64encode(data).decode() == text:
            return data
    except (AttributeError, ValueError, binascii.Error):
        pass
    raise Refused(what, "is not base64 as it should be")
