"""Walk compressed streams and the archives of text headers: tar, ar and cpio. Reads spans only."""

from collections.abc import Callable, Iterator

from pipeline.compare.difference import show_bytes
from pipeline.compare.formats import MAX_NAME, Format, Layout, Part, show_little, show_text, text_of
from pipeline.compare.span import Span
from pipeline.errors import SourceError


def _stream(codec: str) -> Callable[[Span], Iterator[Part]]:
    def read(span: Span) -> Iterator[Part]:
        yield Part("", span, codec=codec)

    return read


def _read_gzip(span: Span) -> Iterator[Part]:
    """RFC 1952: 10 bytes, then what the flags announce."""
    head = span.exactly(0, 10)
    rest = span.read(10, MAX_NAME)
    end = 0
    if head[3] & 4:
        end = 2 + int.from_bytes(rest[:2], "little")
    for flag in (8, 16):  # name, comment
        if head[3] & flag:
            end = rest.index(b"\0", end) + 1
    end += 2 if head[3] & 2 else 0
    yield Part("", span, header=span.part(0, 10 + end), title="the gzip header", codec="gzip")


_GZIP = Layout(
    {
        "method": (2, 3, show_little),
        "flags": (3, 4, show_little),
        "mtime": (4, 8, show_little),
        "extra flags": (8, 9, show_little),
        "operating system": (9, 10, show_little),
        "name, comment or extra field": (10, MAX_NAME + 10, show_text),
    }
)


# --- tar


def _octal(data: bytes) -> int:
    """A number of a tar header: octal text, or base 256 where the first bit is set."""
    if data[:1] >= b"\x80":
        return int.from_bytes(bytes([data[0] & 0x7F]) + data[1:], "big")
    return int(text_of(data).strip() or "0", 8)


def _show_octal(data: bytes) -> str:
    try:
        return str(_octal(data))
    except ValueError:
        return show_bytes(data)


_TAR = Layout(
    {
        "mode": (100, 108, show_text),
        "owner number": (108, 116, _show_octal),
        "group number": (116, 124, _show_octal),
        "size": (124, 136, _show_octal),
        "mtime": (136, 148, _show_octal),
        "type": (156, 157, show_text),
        "link target": (157, 257, show_text),
        "format": (257, 265, show_text),
        "owner": (265, 297, show_text),
        "group": (297, 329, show_text),
        "device": (329, 345, show_text),
    },
    derived=((0, 100), (148, 156), (345, 500)),  # names, by which members pair, and the checksum
)
_EXTENSIONS = b"xgLK"
"""Members that say more about the next one: pax, pax for all that follow, GNU long name, GNU long link."""

_EMPTY = b"123456"
"""Links, devices, directories and pipes: no content follows, whatever their size says."""


def _read_tar(span: Span) -> Iterator[Part]:
    """POSIX ustar and pax, GNU long names: 512 bytes of header, content, padding."""
    offset, path, size = 0, "", -1
    extensions: list[tuple[str, Span]] = []
    while True:
        header = span.exactly(offset, 512)
        if not header.strip(b"\0"):
            return
        if _octal(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 32:
            raise SourceError(f"the header at offset {offset} has another checksum")
        kind = header[156:157]
        extension = kind in _EXTENSIONS
        length = _octal(header[124:136]) if extension or size < 0 else size
        length = 0 if kind in _EMPTY else length
        content = span.part(offset + 512, length)
        if extension:
            data = content.exactly(0, min(length, MAX_NAME))
            if kind == b"x":
                records = _pax(data)
                path = text_of(records.get(b"path", b"")) or path
                size = int(records.get(b"size", b"-1"))
            elif kind == b"L":
                path = text_of(data)
            extensions.append((f"{'pax' if kind in b'xg' else 'GNU'} header", content))
        else:
            name = path or _tar_name(header)
            for title, data_of in extensions:
                yield Part(f"{title} of {name}", data_of)
            yield Part(name, content, header=span.part(offset, 512))
            path, size, extensions = "", -1, []
        offset += 512 + length + -length % 512


def _tar_name(header: bytes) -> str:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    return text_of(prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name)


def _pax(data: bytes) -> dict[bytes, bytes]:
    """`LENGTH KEY=VALUE\\n` records."""
    records = {}
    position = 0
    while position < len(data):
        space = data.index(b" ", position)
        length = int(data[position:space])
        if length < 5:
            raise ValueError("a pax record of no length")
        key, _, value = data[space + 1 : position + length - 1].partition(b"=")
        records[key] = value
        position += length
    return records


# --- ar (deb) and cpio (payload of rpm)

_AR = Layout(
    {
        "mtime": (16, 28, show_text),
        "owner number": (28, 34, show_text),
        "group number": (34, 40, show_text),
        "mode": (40, 48, show_text),
        "size": (48, 58, show_text),
    }
)


def _read_ar(span: Span) -> Iterator[Part]:
    offset = 8
    while offset < span.size:
        header = span.exactly(offset, 60)
        size = int(header[48:58])
        name = text_of(header[:16]).removesuffix("/") or "symbol table"
        yield Part(name, span.part(offset + 60, size), header=span.part(offset, 60))
        offset += 60 + size + size % 2


def _show_hex(data: bytes) -> str:
    try:
        return str(int(data, 16))
    except ValueError:
        return show_bytes(data)


_CPIO_FIELDS = (
    "inode", "mode", "owner number", "group number", "links", "mtime", "size", "device major", "device minor",
    "node major", "node minor",
)  # fmt: skip
_CPIO = Layout({name: (6 + 8 * i, 14 + 8 * i, _show_hex) for i, name in enumerate(_CPIO_FIELDS)})


def _read_cpio(span: Span) -> Iterator[Part]:
    """The new ASCII format: 110 bytes, the name and the content, each padded to 4 bytes."""
    offset = 0
    while True:
        header = span.exactly(offset, 110)
        size, length = int(header[54:62], 16), int(header[94:102], 16)
        if header[:6] not in (b"070701", b"070702") or length > MAX_NAME:
            raise SourceError(f"no cpio header at offset {offset}")
        name = text_of(span.exactly(offset + 110, length))
        if name == "TRAILER!!!":
            return
        content = offset + 110 + length + -(110 + length) % 4
        yield Part(name, span.part(content, size), header=span.part(offset, 110))
        offset = content + size + -size % 4


ARCHIVES = (
    Format("gzip", b"\x1f\x8b\x08", _read_gzip, layout=_GZIP),
    Format("zstd", b"\x28\xb5\x2f\xfd", _stream("zstd")),
    Format("xz", b"\xfd7zXZ\0", _stream("xz")),
    Format("bzip2", b"BZh", _stream("bzip2")),
    Format("tar", b"ustar", _read_tar, at=257, layout=_TAR),
    Format("ar", b"!<arch>\n", _read_ar, layout=_AR),
    Format("cpio", b"07070", _read_cpio, layout=_CPIO),
)
