"""The modules that a Go program names in itself, read without Go. Reads files.

Format: `debug/buildinfo` of Go 1.18 and later: in the section `.go.buildinfo` a header of 32 bytes, which begins with
`MAGIC`, then the Go version and the module text, each behind its length as a varint. The text lies between two markers
of 16 bytes and is what `go version -m` prints.
"""

import mmap
import struct
from pathlib import Path

from pipeline.build.check import parse_build_info
from pipeline.build.elf import MAX_HEADERS, read_elf
from pipeline.errors import SourceError

MAGIC = b"\xff Go buildinf:"
SECTION = ".go.buildinfo"
INLINE = 2
"""Flag of the header: the texts follow it. Before Go 1.18 it held pointers to them."""
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
            return _read(_section(data, sections.index(SECTION)))
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise SourceError(f"{name}: its build information is malformed ({error})") from error


def _section(data: mmap.mmap, index: int) -> bytes:
    (shoff,) = struct.unpack_from("<Q", data, 40)
    if not 0 <= index < MAX_HEADERS:
        raise ValueError("too many sections")
    offset, size = struct.unpack_from("<QQ", data, shoff + 64 * index + 24)
    return data[offset : offset + min(size, 2 * MAX_TEXT)]


def _read(section: bytes) -> BuildInfo:
    if not section.startswith(MAGIC) or not section[15] & INLINE:
        raise ValueError("unknown form")
    version, position = _text(section, 32)
    modules, _ = _text(section, position)
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
