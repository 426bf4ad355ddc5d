"""Walk zip archives, ELF programs and RPM packages. Reads spans only."""

import struct
from collections.abc import Iterator

from pipeline.compare.difference import show_bytes
from pipeline.compare.formats import Format, Layout, Part, show_little, text_of
from pipeline.compare.span import Span
from pipeline.errors import SourceError

MAX_SECTIONS = 4096
MAX_STRINGS = 1 << 20
"""Bytes of an ELF file's table of section names."""
MAX_TITLE = 256
"""Bytes of one section's name: without a limit all of them together could be many times the file."""
MAX_ENTRIES = 1 << 16
"""Index entries of an RPM header."""
NOBITS = 8
"""Type of an ELF section without content in the file."""


def _show_dos_time(data: bytes) -> str:
    time, day = struct.unpack("<HH", data)
    date = f"{(day >> 9) + 1980}-{day >> 5 & 15:02d}-{day & 31:02d}"
    return f"{date} {time >> 11:02d}:{time >> 5 & 63:02d}:{2 * (time & 31):02d}"


_ZIP = Layout(
    {
        "made by": (4, 6, show_little),
        "needed version": (6, 8, show_little),
        "flags": (8, 10, show_little),
        "method": (10, 12, show_little),
        "mtime": (12, 16, _show_dos_time),
        "size": (24, 28, show_little),
        "internal attributes": (36, 38, show_bytes),
        "external attributes": (38, 42, show_bytes),
    },
    derived=((16, 24), (42, 46)),
)
_METHODS = {0: "", 8: "deflate"}


def _read_zip(span: Span) -> Iterator[Part]:
    """APPNOTE.TXT 4.3: the directory at the end counts; zip64 and encryption are not looked into."""
    tail = span.read(max(span.size - 65557, 0), 65557)
    at = tail.rindex(b"PK\5\6")
    count, size, offset = struct.unpack_from("<HII", tail, at + 10)
    directory = span.part(offset, size)
    position = 0
    for _ in range(count):
        entry = directory.exactly(position, 46)
        flags, method = struct.unpack_from("<HH", entry, 8)
        packed, _ = struct.unpack_from("<II", entry, 20)
        name_length, extra, comment = struct.unpack_from("<HHH", entry, 28)
        (start,) = struct.unpack_from("<I", entry, 42)
        local = span.exactly(start, 30)
        if entry[:4] != b"PK\1\2" or local[:4] != b"PK\3\4" or flags & 1 or method not in _METHODS:
            raise SourceError("an entry that is encrypted, compressed in an unknown way or no entry")
        start += 30 + sum(struct.unpack_from("<HH", local, 26))
        length = 46 + name_length + extra + comment
        name = text_of(directory.exactly(position + 46, name_length))
        header = directory.part(position, length)
        yield Part(name, span.part(start, packed), header=header, codec=_METHODS[method])
        position += length


def _read_elf(span: Span) -> Iterator[Part]:
    """System V gABI, chapter 4: sections in the order of the file, and the tables that describe them."""
    header = span.exactly(0, 64)
    phoff, shoff = struct.unpack_from("<QQ", header, 32)
    phentsize, phnum, shentsize, shnum, shstrndx = struct.unpack_from("<HHHHH", header, 54)
    if shnum > MAX_SECTIONS or shentsize != 64:
        raise SourceError("a section table of unreasonable size")
    table = span.part(shoff, shnum * 64)
    sections = list(struct.iter_unpack("<IIQQQQIIQQ", table.exactly(0, table.size)))
    strings = span.part(sections[shstrndx][4], sections[shstrndx][5])
    names = strings.exactly(0, min(strings.size, MAX_STRINGS))
    yield Part("ELF header", span.part(0, 64), member=False)
    yield Part("program headers", span.part(phoff, phnum * phentsize), member=False)
    for name, kind, _, _, offset, size, *_ in sorted(sections, key=lambda s: s[4]):
        if kind not in (0, NOBITS):
            title = names[name : names.index(b"\0", name, name + MAX_TITLE)].decode("ascii", "backslashreplace")
            yield Part(title, span.part(offset, size), member=False)
    yield Part("section headers", table, member=False)


def _read_rpm(span: Span) -> Iterator[Part]:
    """Lead, signature header (padded to 8 bytes), header, and the compressed payload."""
    yield Part("lead", span.part(0, 96), member=False)
    offset = 96
    for name in ("signature header", "header"):
        entries, length = struct.unpack(">8xII", span.exactly(offset, 16))
        if entries > MAX_ENTRIES:
            raise SourceError(f"a {name} of {entries} entries")
        size = 16 + 16 * entries + length
        yield Part(name, span.part(offset, size), member=False)
        offset += size + (-size % 8 if name == "signature header" else 0)
    yield Part("payload", span.part(offset, span.size - offset))


BINARIES = (
    Format("zip", b"PK\3\4", _read_zip, layout=_ZIP),
    Format("ELF", b"\x7fELF\x02\x01", _read_elf, leaf=True),
    Format("RPM", b"\xed\xab\xee\xdb", _read_rpm),
)
