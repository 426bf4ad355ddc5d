"""What a comparison finds: differences as values, for people and for programs. No I/O."""

import string
from dataclasses import asdict, dataclass
from typing import Any

SHOWN = 16
"""Bytes of content that a difference shows."""
MAX_SHOWN = 120
"""Characters of a value or line that a difference shows."""
MISSING = "missing"
"""Stands for what one side does not have."""


@dataclass(frozen=True)
class Difference:
    """One place at which two artifacts differ."""

    artifact: str
    """The compared file, as the caller called it."""
    member: tuple[str, ...]
    """Names on the way in, from outer to inner; empty for the file itself."""
    section: str
    """What of the member: an ELF section, a JSON pointer, `line N`, a header field such as `mtime of bin/rfo`."""
    offset: int | None
    """First differing byte inside that member, counted from 0; None if it is no matter of bytes."""
    expected: str
    """What stands there: up to `SHOWN` bytes from `offset` in hexadecimal, or a value."""
    found: str

    def render(self) -> str:
        """Three lines for people: where, what was expected, what was found. Control characters are escaped."""
        place = [] if self.offset is None else [f"offset {self.offset}"]
        where = ", ".join([self.section] * bool(self.section) + place)
        names = " > ".join((self.artifact, *self.member))
        lines = (f"{names}: {where}" if where else names, f"  expected {self.expected}", f"  found    {self.found}")
        return "\n".join(map(printable, lines))

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON has them."""
        return asdict(self) | {"member": list(self.member)}


class Differences:
    """The differences of one artifact: the first `limit` are kept, all are counted."""

    def __init__(self, artifact: str, limit: int) -> None:
        self.artifact, self.limit, self.total = artifact, limit, 0
        self._kept: list[Difference] = []

    @property
    def full(self) -> bool:
        """Whether another difference would only be counted."""
        return self.total >= self.limit

    def count(self, number: int = 1) -> None:
        """Count some that nobody looked into."""
        self.total += number

    def note(self, member: tuple[str, ...], section: str, offset: int | None, expected: str, found: str) -> None:
        """Keep one if there is room, and count it."""
        if not self.full:
            self._kept.append(Difference(self.artifact, member, section, offset, expected, found))
        self.total += 1

    def close(self) -> list[Difference]:
        """Those kept; one more at the end says how many were only counted."""
        if self.total > len(self._kept):
            more = f"{self.total - len(self._kept)} more differences"
            return [*self._kept, Difference(self.artifact, (), more, None, "not shown", "not shown")]
        return self._kept


def printable(text: str) -> str:
    """`text` with everything escaped that could move a cursor or fail to encode."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show_bytes(data: bytes) -> str:
    """Bytes in hexadecimal, with their text beside them where all of it is text."""
    if not data:
        return "the end of the content"
    plain = set(string.ascii_letters + string.digits + string.punctuation + " ")
    text = data.decode("latin-1")
    return data.hex(" ") + (f"  {text!r}" if plain.issuperset(text) else "")


def show_value(value: object) -> str:
    """A value's short form."""
    text = str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
