"""Ranges of open files, read by position: what comparers and format readers look at. Reads files."""

import os
from dataclasses import dataclass

from pipeline.compare.difference import SHOWN
from pipeline.errors import SourceError

BLOCK = 1 << 17
"""Bytes compared at a time: two blocks stay in a core's cache and come from the allocator without a system call."""


@dataclass(frozen=True, slots=True)
class Span:
    """`size` bytes of an open regular file from `start` on; the file stays its opener's."""

    descriptor: int
    start: int
    size: int

    @classmethod
    def of(cls, descriptor: int) -> "Span":
        """A whole open file."""
        return cls(descriptor, 0, os.fstat(descriptor).st_size)

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on; fewer at the end."""
        size = min(size, self.size - offset)
        return os.pread(self.descriptor, size, self.start + offset) if size > 0 else b""

    def exactly(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; raises SourceError if they are not all there."""
        data = self.read(offset, size) if offset >= 0 else b""
        if len(data) != size:
            raise SourceError(f"it ends before offset {offset + size}")
        return data

    def part(self, offset: int, size: int) -> "Span":
        """A range inside this one; raises SourceError if it is not inside."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise SourceError(f"bytes {offset} to {offset + size} lie outside of its {self.size}")
        return Span(self.descriptor, self.start + offset, size)

    def within(self, outer: "Span") -> int:
        """Where it begins in a range that holds it."""
        return self.start - outer.start


class SpanReader:
    """A span as a stream that is read once."""

    def __init__(self, span: Span) -> None:
        self._span, self._position = span, 0

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; nothing at the end."""
        data = self._span.read(self._position, size)
        self._position += len(data)
        return data


def first_difference(expected: Span, found: Span) -> int | None:
    """Offset of the first byte that differs, or at which one of the two ends; None if all bytes are equal.

    Runs at the speed of memory. Raises SourceError if a file shrinks meanwhile.
    """
    common = min(expected.size, found.size)
    position = 0
    while position < common:
        left, right = expected.read(position, BLOCK), found.read(position, BLOCK)
        if left != right:
            left, right = left[: common - position], right[: common - position]
            if left != right:
                return position + _first(left, right)
            break  # one of them ends in this block
        if not left:
            raise SourceError("a file became shorter while it was compared")
        position += len(left)
    return None if expected.size == found.size else common


def around(span: Span, offset: int) -> bytes:
    """What a difference at `offset` shows of one side."""
    return span.read(offset, SHOWN)


def _first(left: bytes, right: bytes) -> int:
    """Where two unlike blocks part, by halving."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high) // 2
        if left[low : middle + 1] == right[low : middle + 1]:
            low = middle + 1
        else:
            high = middle
    return low
