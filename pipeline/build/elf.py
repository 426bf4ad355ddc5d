"""Just enough of ELF to judge a compiled program (System V gABI, chapters 4 and 5). Reads bytes; no I/O."""

import mmap
import struct
from dataclasses import dataclass

from pipeline.errors import SourceError

CLASSES = {1: "ELF32", 2: "ELF64"}
PT_DYNAMIC, PT_INTERP = 2, 3
SHT_SYMTAB = 2
DT_NEEDED = 1
PT_LOAD = 1
PROGRAM_HEADER, SECTION_HEADER = 56, 64
"""Bytes of each; a file that says otherwise shows its loader other headers than us."""
MAX_HEADERS = 4096
MAX_NAME = 256
"""Bytes of a section's name: without a limit all of them together could be many times the file."""
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
    needed: bool
    """Names a shared library."""
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
        return Elf(elf_class, data[5] == 1, 0, False, False, (), False)
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
    interpreter = needed = dynamic = False
    for index in range(phnum):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", data, phoff + index * phentsize)
        interpreter |= kind == PT_INTERP
        if kind in (PT_LOAD, PT_DYNAMIC) and offset + size > len(data):
            raise ValueError("content is cut off")
        if kind == PT_DYNAMIC:
            if dynamic:
                raise ValueError("two dynamic sections")
            dynamic = True
            tags = struct.iter_unpack("<qQ", data[offset : offset + size - size % 16])
            needed = any(tag == DT_NEEDED for tag, _ in tags)
    headers = [struct.unpack_from("<IIQQQQ", data, shoff + i * shentsize) for i in range(shnum)]
    _, _, _, _, table, length = headers[shstrndx]
    if table + length > len(data):
        raise ValueError("content is cut off")
    strings = data[table : table + length]
    names = [strings[h[0] : strings.index(b"\0", h[0], h[0] + MAX_NAME)].decode("ascii", "replace") for h in headers]
    symbols = any(h[1] == SHT_SYMTAB for h in headers) or any(n.startswith(DEBUG) for n in names)
    return Elf(elf_class, True, machine, interpreter, needed, tuple(names), symbols)
