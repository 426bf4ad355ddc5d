"""The modules that a Go program names in itself, read without Go. Reads files.

Format: `debug/buildinfo` of Go: in the section `.go.buildinfo` a header of 32 bytes, which begins with `MAGIC`, then
the Go version and the module text, each behind its length as a varint. Before Go 1.18 the header names them instead, by
the addresses of two strings. The text lies between two markers of 16 bytes and is what `go version -m` prints.
"""

import mmap
import struct
from pathlib import Path

from pipeline.build.check import parse_build_info
from pipeline.build.elf import MAX_HEADERS, PROGRAM_HEADER, PT_LOAD, read_elf
from pipeline.errors import SourceError

MAGIC = b"\xff Go buildinf:"
SECTION = ".go.buildinfo"
HEADER = 32
BIG_ENDIAN, INLINE = 1, 2
"""Flags of the header. Inline: the texts follow it; else it holds addresses of strings."""
MARKER = 16
MAX_TEXT = 4 << 20
"""Bytes of the module text; kubelet's has 20 KB."""

BuildInfo = tuple[str, list[tuple[str, str, str]]]
"""Go version (`go1.20.14`), and (path, version, h1) of each dependency: of its replacement, where it has one."""


def read_build_info(path: Path, name: str) -> BuildInfo:
    """What the Go program at `path` says of itself; raises SourceError if it is none, or a malformed one."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            sections = read_elf(data, name).sections
            if SECTION not in sections:
                raise SourceError(f"{name} is no Go program: it has no section {SECTION}")
            return _parse(*_texts(data, _section(data, sections.index(SECTION))))
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise SourceError(f"{name}: its build information is malformed ({error})") from error


def _section(data: mmap.mmap, index: int) -> bytes:
    (shoff,) = struct.unpack_from("<Q", data, 40)
    if not 0 <= index < MAX_HEADERS:
        raise ValueError("too many sections")
    offset, size = struct.unpack_from("<QQ", data, shoff + 64 * index + 24)
    return data[offset : offset + min(size, 2 * MAX_TEXT)]


def _texts(data: mmap.mmap, section: bytes) -> tuple[bytes, bytes]:
    """The Go version and the module text."""
    if not section.startswith(MAGIC) or section[14] != 8 or section[15] & BIG_ENDIAN:
        raise ValueError("unknown form")
    if section[15] & INLINE:
        version, position = _text(section, HEADER)
        modules, _ = _text(section, position)
        return version, modules
    first, second = struct.unpack_from("<QQ", section, 16)
    return _string(data, first), _string(data, second)


def _string(data: mmap.mmap, address: int) -> bytes:
    """A string of the running program: at an address in memory stand the address of its bytes and their number."""
    start, length = struct.unpack("<QQ", _memory(data, address, 16))
    if length > MAX_TEXT:
        raise ValueError("a text is too long")
    return _memory(data, start, length)


def _memory(data: mmap.mmap, address: int, size: int) -> bytes:
    """What is loaded to an address (System V gABI, chapter 5)."""
    (headers,), (count,) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<H", data, 56)
    for place in range(headers, headers + count * PROGRAM_HEADER, PROGRAM_HEADER):
        kind, _, offset, start, _, length = struct.unpack_from("<IIQQQQ", data, place)
        if kind == PT_LOAD and start <= address and address + size <= start + length:
            return data[offset + address - start : offset + address - start + size]
    raise ValueError("an address leads nowhere")


def _parse(version: bytes, modules: bytes) -> BuildInfo:
    if len(modules) > 2 * MARKER and modules[-MARKER - 1 : -MARKER] == b"\n":
        modules = modules[MARKER:-MARKER]
    lines = modules.decode("utf-8").splitlines()
    printed = "\n".join([f"x: {version.decode('ascii').split(' ')[0]}", *(f"\t{line}" for line in lines)])
    ((found, dependencies),) = parse_build_info(printed).values()
    return found, dependencies


def _text(data: bytes, position: int) -> tuple[bytes, int]:
    """A text behind its length, and the position after it."""
    length = shift = 0
    while True:
        byte = data[position]
        position += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if length > MAX_TEXT or position + length > len(data):
        raise ValueError("a text is cut off or too long")
    return data[position : position + length], position + length
