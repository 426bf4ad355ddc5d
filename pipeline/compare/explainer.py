"""Look into two unlike artifacts for what differs: containers by member, down to a section, line or value.

Reads spans, and unpacks compressed content to temporary files without a name. What it costs is bounded; what is
malformed or too large is not looked into, and differs at an offset of its own bytes.
"""

import shutil
import struct
import tempfile
import time
import zlib
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pipeline.base.archives import Decoder, Decompressed, Gzip
from pipeline.compare.archives import ARCHIVES
from pipeline.compare.binaries import BINARIES
from pipeline.compare.difference import MISSING, Differences, show_bytes, show_value
from pipeline.compare.formats import Format, Part
from pipeline.compare.layouts import name_blobs
from pipeline.compare.leaves import explain_leaf
from pipeline.compare.span import Span, SpanReader, around, first_difference
from pipeline.errors import SourceError
from pipeline.model import CHUNK

MAX_DEPTH = 6
"""Containers inside each other that are stepped into."""
MAX_MEMBERS = 200_000
"""Members of all containers of one artifact, both sides together."""
MAX_NAMES = 64 << 20
"""Bytes of all their names."""
MAX_SPOOLED = 8 << 30
"""Bytes unpacked for one artifact, both sides together."""
MAX_RATIO = 2000
"""Unpacked bytes for each compressed one; deflate cannot exceed 1032."""
MIN_SPOOLED = 64 << 20
"""Bytes that any stream may unpack to, whatever its ratio."""
MAX_HEADER = 1 << 18
"""Bytes of a member's header that are looked at; the largest, of zip, has three fields of 64 KiB."""
RESERVE = 1 << 30
"""Bytes of disk that stay free."""
SECONDS = 900.0
"""Time after which an artifact is not looked into any deeper."""

MALFORMED = (SourceError, ValueError, LookupError, struct.error, OverflowError, OSError, EOFError)
"""What readers raise for content that is not what it begins like, and the disk for lack of space."""

_Path = tuple[str, ...]


class Budget:
    """What looking into one artifact may cost."""

    def __init__(self) -> None:
        self._members, self._names, self._bytes = MAX_MEMBERS, MAX_NAMES, MAX_SPOOLED
        self._end = time.monotonic() + SECONDS

    def member(self, name: str) -> None:
        """Take one member into account; raises SourceError when there are too many."""
        self._members -= 1
        self._names -= len(name)
        if self._members < 0 or self._names < 0:
            raise SourceError(f"it has more than {MAX_MEMBERS} members")
        self._refuse_late()

    def allow(self, compressed: int, free: int) -> int:
        """Bytes that a stream of so many compressed bytes may unpack to on a disk with so many free ones."""
        return max(min(self._bytes, free - RESERVE, max(MIN_SPOOLED, MAX_RATIO * compressed)), 0)

    def spool(self, count: int) -> None:
        """Take unpacked bytes into account."""
        self._bytes -= count
        self._refuse_late()

    def _refuse_late(self) -> None:
        if time.monotonic() > self._end:
            raise SourceError("it takes too long")


class Explainer:
    """Finds the differences of one artifact."""

    def __init__(self, differences: Differences, work: Path | None) -> None:
        self.differences = differences
        self._work = Path(tempfile.gettempdir()) if work is None else work
        self._budget = Budget()

    def explain(self, path: _Path, expected: Span, found: Span, offset: int) -> None:
        """Note at least one difference of two contents that part at `offset`."""
        if self.differences.full:
            self.differences.count()
            return
        before = self.differences.total
        form = _recognise(expected)
        if form and form is _recognise(found) and (len(path) < MAX_DEPTH or form.leaf):
            try:
                self._explain_container(form, path, expected, found)
            except MALFORMED as error:
                self._note_bytes(path, _not_looked_into(form.name, error), expected, found, offset)
        if self.differences.total == before:
            for finding in explain_leaf(expected, found, offset):
                self.differences.note(path, *finding)

    def _explain_container(self, form: Format, path: _Path, expected: Span, found: Span) -> None:
        left, right = self._parts(form, expected), self._parts(form, found)
        if form.name == "tar":
            left, right = _pair_blobs(left, right)
        common = [name for name in left if name in right]
        for name in [*left, *(n for n in right if n not in left)]:
            if name in left and name in right:
                self._explain_part(path, left[name], right[name], expected)
            else:
                sides = [f"{s[name].content.size} bytes" if name in s else MISSING for s in (left, right)]
                member = (left.get(name) or right[name]).member
                self.differences.note((*path, name) if member else path, "" if member else name, None, *sides)
        self._explain_headers(form, path, [(left[n], right[n]) for n in common], expected)
        shared = set(common)
        for one, other in zip(common, (n for n in right if n in shared), strict=True):
            if one != other:
                self.differences.note(path, "order of members", None, one, other)
                break

    def _parts(self, form: Format, span: Span) -> dict[str, Part]:
        """The parts by name; a name that stands again is numbered."""
        parts: dict[str, Part] = {}
        again: dict[str, int] = {}
        for part in form.read(span):
            self._budget.member(part.name)
            name = part.name
            if name in parts:
                again[name] = again.get(name, 1) + 1
                name = f"{name} (number {again[name]})"
            parts[name] = part
        return parts

    def _explain_headers(self, form: Format, path: _Path, pairs: list[tuple[Part, Part]], outer: Span) -> None:
        """Fields of headers; one that differs in the same way in many members is one difference."""
        seen: dict[tuple[str, str, str], tuple[str, int, int]] = {}
        unseen = 0
        for left, right in pairs:
            if left.header is None or right.header is None:
                continue
            heads = [h.read(0, min(h.size, MAX_HEADER)) for h in (left.header, right.header)]
            if heads[0] == heads[1]:
                continue
            for field, offset, one, other in form.layout.differing(*heads):
                key = (field, one, other)
                if key in seen:
                    title, place, others = seen[key]
                    seen[key] = (title, place, others + 1)
                elif len(seen) < self.differences.limit:
                    seen[key] = (left.title or left.name, left.header.within(outer) + offset, 0)
                else:
                    unseen += 1
        for (field, one, other), (title, place, others) in seen.items():
            more = f" and {others} more" if others else ""
            self.differences.note(path, f"{field or 'header'} of {title}{more}", place, one, other)
        self.differences.count(unseen)

    def _explain_part(self, path: _Path, left: Part, right: Part, outer: Span) -> None:
        offset = first_difference(left.content, right.content)
        if offset is None:
            return
        if self.differences.full:
            self.differences.count()
        elif left.codec or right.codec:
            self._explain_compressed(path, left, right, outer)
        elif left.member:
            self.explain((*path, left.name), left.content, right.content, offset)
        else:
            sides = [show_bytes(around(p.content, offset)) for p in (left, right)]
            self.differences.note(path, left.name, left.content.within(outer) + offset, *sides)

    def _explain_compressed(self, path: _Path, left: Part, right: Part, outer: Span) -> None:
        """Differences of the plain content; those of the compressed bytes only if there are none."""
        of = f" of {left.name}" if left.name else ""
        section = f"compressed bytes{of}"
        try:
            with ExitStack() as stack:
                one, other = (self._plain(part, stack) for part in (left, right))
                offset = first_difference(one, other)
                if offset is not None:
                    name = left.name or _plain_name(path[-1] if path else self.differences.artifact)
                    self.explain((*path, name), one, other, offset)
                    return
        except MALFORMED as error:
            section = _not_looked_into(f"{left.codec or right.codec} stream{of}", error)
        if (offset := first_difference(left.body, right.body)) is not None:
            self._note_bytes(path, section, left.body, right.body, offset, left.body.within(outer))

    def _plain(self, part: Part, stack: ExitStack) -> Span:
        """The content, unpacked to a file without name if it is compressed."""
        if not part.codec:
            return part.content
        free = shutil.disk_usage(self._work).free
        limit = self._budget.allow(part.content.size, free)
        stream = Decompressed(SpanReader(part.content), _decoder(part.codec), "it", limit)
        file = stack.enter_context(tempfile.TemporaryFile(dir=self._work))  # noqa: SIM115 - the stack is one
        while data := stream.read(CHUNK):
            self._budget.spool(len(data))
            file.write(data)
        file.flush()
        return Span.of(file.fileno())

    def _note_bytes(self, path: _Path, section: str, expected: Span, found: Span, offset: int, base: int = 0) -> None:
        sides = [show_bytes(around(s, offset)) for s in (expected, found)]
        self.differences.note(path, section, base + offset, *sides)


def _pair_blobs(left: dict[str, Part], right: dict[str, Part]) -> tuple[dict[str, Part], dict[str, Part]]:
    """If both are layouts of images, the same with blobs that only one of them has called by what they are, first."""
    names, others = (name_blobs({n: p.content for n, p in side.items()}) for side in (left, right))
    pairs: dict[str, tuple[str, str]] = {}
    paired: set[str] = set()
    for name, one in names.items():
        other = others.get(name, one)
        if one not in right and other not in left and not {one, other} & paired and name not in {**left, **right}:
            pairs[name] = (one, other)
            paired |= {one, other}
    first = {name: replace(left[one], name=name) for name, (one, _) in pairs.items()}
    second = {name: replace(right[other], name=name) for name, (_, other) in pairs.items()}
    rest = [{n: p for n, p in side.items() if n not in paired} for side in (left, right)]
    return first | rest[0], second | rest[1]


def _recognise(span: Span) -> Format | None:
    """The container format that a span begins like."""
    head = span.read(0, 512)
    return next((f for f in (*ARCHIVES, *BINARIES) if head.startswith(f.magic, f.at)), None)


def _plain_name(name: str) -> str:
    """What unpacked content is called: `rfo.tar` for `rfo.tar.gz`."""
    for suffix, plain in {".tgz": ".tar", ".gz": "", ".xz": "", ".zst": "", ".bz2": ""}.items():
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix) + plain
    return "uncompressed"


def _not_looked_into(what: str, error: BaseException) -> str:
    return show_value(f"not looked into as {what}: {error.reason if isinstance(error, SourceError) else error}")


def _decoder(codec: str) -> Decoder:
    if codec == "deflate":
        return _Deflate()
    from pipeline.base.rpmfile import decoder

    return decoder(codec, "it")


class _Deflate(Gzip):
    """A stream of a zip archive: no header, and no trailer that would stay unread while plain bytes wait."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=-15)
        self._waiting = False

    @property
    def needs_input(self) -> bool:
        """Nothing more comes out until more is put in."""
        return not self._waiting and super().needs_input

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` plain bytes."""
        plain = super().decompress(data, max_length)
        self._waiting = len(plain) == max_length
        return plain
