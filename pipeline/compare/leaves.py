"""Explain two contents that hold nothing further: JSON by pointer, text by line, anything else by offset."""

import json
from collections.abc import Iterator
from typing import Any

from pipeline.compare.difference import MISSING, show_bytes, show_value
from pipeline.compare.span import BLOCK, Span, around

MAX_JSON = 16 << 20
"""Bytes of a JSON document that is parsed: in memory it takes many times as much."""
WINDOW = 60
"""Bytes of a line shown before and after the place at which it differs."""

Finding = tuple[str, int | None, str, str]
"""Section, offset, expected, found: see `Difference`."""


def explain_leaf(expected: Span, found: Span, offset: int) -> Iterator[Finding]:
    """What differs between two unlike contents whose first difference is at `offset`; at least one finding."""
    documents = _parse(expected), _parse(found)
    if documents[0] is not None and documents[1] is not None:
        yield from _explain_json(documents[0][0], documents[1][0], offset)
    elif _is_text(expected, offset) and _is_text(found, offset):
        yield _explain_text(expected, found, offset)
    else:
        yield "", offset, show_bytes(around(expected, offset)), show_bytes(around(found, offset))


def _parse(span: Span) -> tuple[Any] | None:
    """A JSON object or array, wrapped; None if it is something else or too large to look into."""
    if span.size > MAX_JSON or span.read(0, 64).lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        return (json.loads(span.read(0, span.size)),)
    except (ValueError, RecursionError):
        return None


def _explain_json(expected: Any, found: Any, offset: int) -> Iterator[Finding]:
    """Each value that differs, in the order of `expected`; the offset goes with the first only."""
    place: int | None = offset
    pending: list[tuple[str, Any, Any]] = [("", expected, found)]
    while pending:
        pointer, left, right = pending.pop()
        if isinstance(left, dict) and isinstance(right, dict):
            inner = [(_step(pointer, k), left.get(k, _NONE), right.get(k, _NONE)) for k in {**left, **right}]
            pending += reversed(inner)
            if left.keys() == right.keys() and list(left) != list(right):
                yield f"order of keys at {pointer or '/'}", place, show_value(list(left)), show_value(list(right))
                place = None
        elif isinstance(left, list) and isinstance(right, list):
            longest = range(max(len(left), len(right)))
            inner = [(_step(pointer, i), _item(left, i), _item(right, i)) for i in longest]
            pending += reversed(inner)
        elif type(left) is not type(right) or repr(left) != repr(right):  # NaN and -0.0 have their own spelling
            yield pointer or "/", place, _show_json(left), _show_json(right)
            place = None
    if place is not None:
        yield "white space or spelling of JSON", place, "equal values", "equal values"


_NONE = object()


def _item(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else _NONE


def _step(pointer: str, key: str | int) -> str:
    """The pointer of a member (RFC 6901)."""
    return f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"


def _show_json(value: Any) -> str:
    if value is _NONE:
        return MISSING
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'an array'} of {len(value)}"
    return show_value(json.dumps(value))


def _is_text(span: Span, offset: int) -> bool:
    """Whether the beginning and what is around `offset` are UTF-8 without control characters of binary files."""
    for data in (span.read(0, 4096), span.read(max(offset - 256, 0), 512)):
        text = data.decode("utf-8", "replace")[4:-4]  # a character may be cut at either end
        if "\N{REPLACEMENT CHARACTER}" in text or any(c < " " and c not in "\t\n\r\f\x1b" for c in text):
            return False
    return bool(span.size)


def _explain_text(expected: Span, found: Span, offset: int) -> Finding:
    lines, begin = 1, 0
    for position in range(0, offset, BLOCK):
        block = expected.read(position, min(BLOCK, offset - position))
        lines += block.count(b"\n")
        begin = position + last + 1 if (last := block.rfind(b"\n")) >= 0 else begin
    return f"line {lines}", offset, _line(expected, begin, offset), _line(found, begin, offset)


def _line(span: Span, begin: int, offset: int) -> str:
    """The line that starts at `begin`, cut to what is around `offset`."""
    if offset >= span.size and begin >= span.size:
        return "the end of the content"
    start = max(begin, offset - WINDOW)
    data = span.read(start, offset - start + WINDOW)
    stop = data.find(b"\n", offset - start)
    return repr(data[: stop + 1 if stop >= 0 else None].decode("utf-8", "replace"))
