"""What a package says of itself in its signed header: its files, and what it requires. No I/O.

Tags: https://rpm-software-management.github.io/rpm/manual/tags.html.
"""

import struct
from dataclasses import dataclass

from pipeline.base.rpmfile import STRINGS, Header

_REQUIRE_FLAGS, _REQUIRE_NAMES, _REQUIRE_VERSIONS = 1048, 1049, 1050
_MODES, _FOLDER_OF, _NAMES, _FOLDERS = 1030, 1116, 1117, 1118
_INT16, _INT32 = 3, 4
_NUMBERS = {_INT16: "H", _INT32: "I"}
_RELATIONS = {"<": 2, ">": 4, "=": 8}
"""Flags of a requirement, which may be combined."""
_FILE_TYPE, _FOLDER_TYPE = 0o170000, 0o040000


@dataclass(frozen=True)
class Requirement:
    """One thing that a package requires."""

    name: str
    evr: str
    """Empty without a version."""
    relation: str
    """`=`, `>=` and the like; empty without a version."""

    def __str__(self) -> str:
        return f"{self.name} {self.relation} {self.evr}" if self.relation else self.name


def requirements(header: Header) -> list[Requirement]:
    """What a package requires. Raises ValueError."""
    flags = numbers(header, _REQUIRE_FLAGS)
    facts = zip(texts(header, _REQUIRE_NAMES), texts(header, _REQUIRE_VERSIONS), flags, strict=True)
    return [Requirement(n, v, "".join(r for r, bit in _RELATIONS.items() if f & bit)) for n, v, f in facts]


def files(header: Header) -> list[str]:
    """Paths of what a package owns, without folders, which may have several owners. Raises ValueError."""
    folders, names = texts(header, _FOLDERS), texts(header, _NAMES)
    facts = zip(numbers(header, _FOLDER_OF), names, numbers(header, _MODES), strict=True)
    try:
        return [folders[i] + name for i, name, mode in facts if mode & _FILE_TYPE != _FOLDER_TYPE]
    except IndexError:
        raise ValueError("a file is in a folder that the header does not name") from None


def texts(header: Header, tag: int) -> list[str]:
    """The values of a tag that is a list of strings; none if it is missing. Raises ValueError."""
    if tag not in header.index:
        return []
    kind, offset, count = header.index[tag]
    values = header.store[offset:].split(b"\0", count)[:count]
    if kind != STRINGS or len(values) != count:
        raise ValueError(f"tag {tag} is no list of texts")
    return [v.decode("utf-8") for v in values]


def numbers(header: Header, tag: int) -> list[int]:
    """The values of a tag that is a list of numbers; none if it is missing. Raises ValueError."""
    if tag not in header.index:
        return []
    kind, offset, count = header.index[tag]
    if kind not in _NUMBERS:
        raise ValueError(f"tag {tag} is no list of numbers")
    form = f">{count}{_NUMBERS[kind]}"
    if offset + struct.calcsize(form) > len(header.store):
        raise ValueError(f"tag {tag} is cut off")
    return list(struct.unpack_from(form, header.store, offset))
