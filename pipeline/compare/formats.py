"""What a container format is: a walk over its parts and a table of their header fields. No I/O but reading spans.

Walks trust nothing: every range is checked to lie inside its container, and what is malformed is an error that makes
the comparison fall back to the container's own bytes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.compare.difference import show_bytes, show_value
from pipeline.compare.span import Span

MAX_NAME = 1 << 16
"""Bytes of a member's name or of a tar header's extension."""

Show = Callable[[bytes], str]


@dataclass(frozen=True)
class Layout:
    """The fields of a fixed header."""

    fields: dict[str, tuple[int, int, Show]]
    """Name to (first byte, end, how its value is shown)."""
    derived: tuple[tuple[int, int], ...] = ()
    """Ranges that only follow from something else: checksums, sizes of compressed data, positions."""

    def differing(self, expected: bytes, found: bytes) -> Iterator[tuple[str, int, str, str]]:
        """Name, offset, and both values of each field that differs; one without name for bytes in no field."""
        named = False
        for name, (start, end, show) in self.fields.items():
            left, right = expected[start:end], found[start:end]
            if left != right:
                named = True
                yield name, start, show(left), show(right)
        if named or (left := self._own(expected)) == (right := self._own(found)):
            return
        offset = next(
            (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(map(len, (left, right)))
        )
        yield "", offset, show_bytes(expected[offset : offset + 16]), show_bytes(found[offset : offset + 16])

    def _own(self, header: bytes) -> bytes:
        data = bytearray(header)
        for start, end in self.derived:
            data[start:end] = bytes(len(data[start:end]))
        return bytes(data)


@dataclass(frozen=True, slots=True)
class Part:
    """A member or section of a container."""

    name: str
    content: Span
    member: bool = True
    """It has a name on the way in; otherwise it is a section of the container itself."""
    header: Span | None = None
    title: str = ""
    """What its header is called, if not `name`."""
    codec: str = ""
    """How the content is compressed, as RPM headers call it, or `deflate`."""

    @property
    def body(self) -> Span:
        """The content without a header that is part of it."""
        if self.header is None or self.header.start != self.content.start:
            return self.content
        return self.content.part(self.header.size, self.content.size - self.header.size)


@dataclass(frozen=True)
class Format:
    """A kind of container."""

    name: str
    magic: bytes
    read: Callable[[Span], Iterator[Part]]
    """Yields the parts in their order; raises SourceError, ValueError or struct.error for what is malformed."""
    at: int = 0
    """Where the magic stands."""
    layout: Layout = field(default_factory=lambda: Layout({}))
    """Of each part's header."""
    leaf: bool = False
    """Its parts are sections, never members."""


def text_of(data: bytes) -> str:
    """A text field, padding removed."""
    return data.rstrip(b" \0").decode("utf-8", "surrogateescape")


def show_text(data: bytes) -> str:
    """A text field as it is shown."""
    return show_value(repr(text_of(data)))


def show_little(data: bytes) -> str:
    """A little-endian number."""
    return str(int.from_bytes(data, "little"))
