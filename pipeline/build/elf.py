"""Just enough of ELF to judge a compiled program (System V gABI, chapters 4 and 5). Reads bytes; no I/O."""

import mmap
import struct
from dataclasses import dataclass

from pipeline.errors import SourceError

CLASSES = {1: "ELF32", 2: "ELF64"}
PT_DYNAMIC, PT_INTERP = 2, 3
SHT_SYMTAB = 2
DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_RPATH, DT_RUNPATH = 1, 5, 10, 15, 29
PT_LOAD = 1
PROGRAM_HEADER, SECTION_HEADER = 56, 64
"""Bytes of each; a file that says otherwise shows its loader other headers than us."""
MAX_HEADERS = 4096
MAX_NAME = 256
"""Bytes of a section's or library's name: without a limit all together could be many times the file."""
MAX_DYNAMIC = 4096
"""Entries of the dynamic section that are looked at."""
DEBUG = (".debug_", ".zdebug_", ".gdb_index", ".stab")


@dataclass(frozen=True)
class Elf:
    """What the checks ask about."""

    elf_class: str
    little_endian: bool
    machine: int
    """`e_machine`."""
    interpreter: bool
    """Asks for a dynamic loader."""
    needed: tuple[str, ...]
    """The shared libraries that it names (`DT_NEEDED`)."""
    search: tuple[str, ...]
    """Where it looks for them first (`DT_RUNPATH`, `DT_RPATH`), `$ORIGIN` as it stands."""
    sections: tuple[str, ...]
    symbols: bool
    """Has a symbol table or debugging information: not stripped."""

    @property
    def static(self) -> bool:
        """Runs without anything from the host."""
        return not self.interpreter and not self.needed


Bytes = bytes | mmap.mmap
"""A whole file, in memory or mapped."""


def read_elf(data: Bytes, name: str) -> Elf:
    """Parse the headers of a little-endian ELF64 file; raises SourceError."""
    if data[:4] != b"\x7fELF" or len(data) < 64:
        raise SourceError(f"{name} is not an ELF file")
    elf_class = CLASSES.get(data[4], f"class {data[4]}")
    if data[4] != 2 or data[5] != 1:
        return Elf(elf_class, data[5] == 1, 0, False, (), (), (), False)
    try:
        return _read(data, elf_class)
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise SourceError(f"{name}: malformed ELF file ({error})") from error


def _read(data: Bytes, elf_class: str) -> Elf:
    machine = struct.unpack_from("<H", data, 18)[0]
    phoff, shoff = struct.unpack_from("<QQ", data, 32)
    phentsize, phnum, shentsize, shnum, shstrndx = struct.unpack_from("<HHHHH", data, 54)
    if phnum > MAX_HEADERS or shnum > MAX_HEADERS:
        raise ValueError("too many headers")
    if not phnum or not shnum:
        raise ValueError("no program or section headers")
    if phentsize != PROGRAM_HEADER or shentsize != SECTION_HEADER:
        raise ValueError(f"headers of {phentsize} and {shentsize} bytes")
    interpreter = False
    dynamic: list[tuple[int, int]] | None = None
    loaded = []
    for index in range(phnum):
        kind, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", data, phoff + index * phentsize)
        interpreter |= kind == PT_INTERP
        if kind in (PT_LOAD, PT_DYNAMIC) and offset + size > len(data):
            raise ValueError("content is cut off")
        if kind == PT_LOAD:
            loaded.append((address, offset, size))
        if kind == PT_DYNAMIC:
            if dynamic is not None:
                raise ValueError("two dynamic sections")
            size = min(size - size % 16, 16 * MAX_DYNAMIC)
            dynamic = list(struct.iter_unpack("<qQ", data[offset : offset + size]))
    headers = [struct.unpack_from("<IIQQQQ", data, shoff + i * shentsize) for i in range(shnum)]
    _, _, _, _, table, length = headers[shstrndx]
    if table + length > len(data):
        raise ValueError("content is cut off")
    strings = data[table : table + length]
    names = [strings[h[0] : strings.index(b"\0", h[0], h[0] + MAX_NAME)].decode("ascii", "replace") for h in headers]
    symbols = any(h[1] == SHT_SYMTAB for h in headers) or any(n.startswith(DEBUG) for n in names)
    needed, search = _libraries(data, dynamic or [], loaded)
    return Elf(elf_class, True, machine, interpreter, needed, search, tuple(names), symbols)


def _libraries(
    data: Bytes, dynamic: list[tuple[int, int]], loaded: list[tuple[int, int, int]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of needed libraries, and search paths; the string table is named by its address in memory."""
    wanted = [(tag, value) for tag, value in dynamic if tag in (DT_NEEDED, DT_RPATH, DT_RUNPATH)]
    if not wanted:
        return (), ()
    tags = dict(dynamic)
    table, length = tags.get(DT_STRTAB, -1), tags.get(DT_STRSZ, 0)
    place = next((table - a + o for a, o, s in loaded if a <= table < a + s), None)
    if place is None or place + length > len(data):
        raise ValueError("its dynamic section has no string table")
    strings = data[place : place + length]

    def text(offset: int) -> str:
        return strings[offset : strings.index(b"\0", offset, offset + MAX_NAME)].decode("utf-8", "replace")

    paths = [text(value) for tag, value in wanted if tag != DT_NEEDED]
    return tuple(text(v) for t, v in wanted if t == DT_NEEDED), tuple(p for t in paths for p in t.split(":") if p)
