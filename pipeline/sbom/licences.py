"""Licences as SPDX expressions, from texts and from the names that distributions give them; never guessed.

A text counts as a known licence if nothing is left of it but copyright lines, titles and words that set no terms.
Everything else keeps its own text under a `LicenseRef`. Texts and names are data: `licences.yaml`.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

from pipeline.strict import Strict, read_yaml, validate

TABLE = Path(__file__).parent / "licences.yaml"
NOASSERTION = "NOASSERTION"
_COPYRIGHT = re.compile(
    r"^[^\w\n]*(?:(?:some |all )?(?:parts|portions)(?: are)? )?(?:copyright|\(c\)|©)"
    r"(?:.*\b(?:19|20)[0-9]{2}\b|\s*(?:\(c\)|©)"
    r"|.*\b(?:authors?|inc|llc|ltd|corp|corporation|foundation|project|contributors|developers)\b[^\w\n]*$).*$",
    re.IGNORECASE | re.MULTILINE,
)
_GAP = r"(?:[^ ]+ ){0,24}?"
"""What `*` stands for in a text of the table: the name of whoever grants the licence."""
_ITEM = r"(?:[1-9a-c] )?"
"""What `#` stands for: the number of a list's item."""


class Known(Strict):
    """A licence by its words: the whole text, or for a long one its first and last words and a digest."""

    id: str
    text: str = ""
    start: str = ""
    end: str = ""
    sha256: tuple[str, ...] = ()
    """Of the words from `start` to `end`; more than one where copies with other spellings are about."""


class Table(Strict):
    """The file `licences.yaml`."""

    texts: tuple[Known, ...]
    titles: tuple[str, ...]
    """Words around a licence that set no terms."""
    legal: tuple[str, ...]
    """Words that may set terms: where one is left, the text is not known."""
    names: Mapping[str, str]
    """Names that distributions use, in lower case, to SPDX expressions."""


@dataclass(frozen=True)
class Licence:
    """An SPDX licence expression, with the texts of the `LicenseRef`s in it."""

    expression: str = NOASSERTION
    texts: Mapping[str, str] = field(default_factory=dict)
    """`LicenseRef-…` to its text."""
    comment: str = ""


def combine(licences: Iterable[Licence]) -> Licence:
    """All of them apply, each to some part."""
    found = {item.expression: item for item in licences if item.expression != NOASSERTION}
    if not found:
        return Licence()
    # AND of single licences stays flat; an OR keeps its parentheses.
    atoms = {p for e in found for p in ([e] if " OR " in e else e.split(" AND "))}
    parts = sorted(atoms) if len(atoms) == 1 else sorted(f"({a})" if " OR " in a else a for a in atoms)
    return Licence(" AND ".join(parts), {k: v for item in found.values() for k, v in item.texts.items()})


def reference(name: str, text: str) -> Licence:
    """A licence that has no SPDX identifier, by its text; equal texts get equal identifiers."""
    words = clean_text(text).strip() or "(The text is empty.)"
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:40] or "text"
    identifier = f"LicenseRef-{slug}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
    return Licence(identifier, {identifier: words})


def clean_text(text: str) -> str:
    """`text` without control characters, and with the line ends of Unix."""
    return re.sub(r"[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f-\x9f]", " ", text.replace("\r\n", "\n"))


def identify(name: str, text: str) -> Licence:
    """The licence of a text: by SPDX identifier if every word of it is accounted for, else a `LicenseRef` to it."""
    found = _identify(text)
    return Licence(found) if found else reference(name, text)


def named(name: str, texts: Mapping[str, str], prefix: str) -> Licence:
    """The expression that a distribution writes as `name`: `GPL-2+ or Expat`, `LGPLv2+ and MIT`.

    A name that the table does not have becomes a `LicenseRef-PREFIX-NAME` to its text in `texts`, or to itself.
    """
    words = " ".join(re.sub(r"[/|]", " or ", name).split())
    if "," in words and {"and", "or"} <= set(words.lower().split()):  # a comma changes what binds tighter
        return reference(f"{prefix}-{name}", texts.get(name) or name)
    words = words.replace(",", "")
    split = re.split(r"\s+(and|or)\s+|([()])", words, flags=re.IGNORECASE)
    refs: dict[str, str] = {}
    parts: list[str] = []
    for word in (t.strip() for t in split if t and t.strip()):
        if word in "()":
            parts.append(word)
        elif word.lower() in ("and", "or"):
            parts.append(word.upper())
        else:
            licence = _one(word, texts, prefix)
            refs |= licence.texts
            parts.append(licence.expression)
    if not _well_formed(parts):
        return reference(f"{prefix}-{name}", texts.get(name) or name)
    expression = " ".join(parts).replace("( ", "(").replace(" )", ")")
    return Licence(expression, refs)


def _one(name: str, texts: Mapping[str, str], prefix: str) -> Licence:
    known = load_table().names.get(name.lower())
    if known:
        return Licence(known)
    return reference(f"{prefix}-{name}", texts.get(name) or f"The package names this licence {name!r}.")


def _well_formed(parts: list[str]) -> bool:
    """Whether operators stand between operands and parentheses fit: foreign text can be anything."""
    depth, operand = 0, False
    for part in parts:
        if part in ("(", ")"):
            depth += 1 if part == "(" else -1
            if depth < 0 or operand == (part == "("):
                return False
        elif part in ("AND", "OR"):
            if not operand:
                return False
            operand = False
        elif operand:
            return False
        else:
            operand = True
    return operand and not depth


@lru_cache(maxsize=4096)
def _identify(text: str) -> str:
    table = load_table()
    plain = _COPYRIGHT.sub("", text).lower().replace("https://", "http://")
    left = " ".join(re.findall(r"[a-z0-9]+", plain)) + " "
    found = set()
    for known, pattern in _patterns():
        while match := pattern.search(left):
            if known.sha256 and hashlib.sha256(match.group().strip().encode()).hexdigest() not in known.sha256:
                return ""
            found.add(known.id)
            left = f"{left[: match.start()]}{left[match.end() :]}"
    for title in table.titles:
        left = re.sub(rf"(?:^|(?<= )){title} ", "", left)
    if not found or set(left.split()) & set(table.legal):
        return ""
    return " AND ".join(sorted(found))


@cache
def _patterns() -> list[tuple[Known, re.Pattern[str]]]:
    """Longest first: shorter texts are parts of longer ones."""
    patterns = []
    for known in load_table().texts:
        start, end = (_words(known.start), _words(known.end)) if known.sha256 else ("", "")
        words = f"{start}.*?{end}" if known.sha256 else _words(known.text)
        patterns.append((known, re.compile(rf"(?:^|(?<= )){words}")))
    return sorted(patterns, key=lambda p: -len(p[1].pattern) - (1 << 20) * bool(p[0].sha256))


def _words(text: str) -> str:
    holes = {"*": _GAP, "#": _ITEM}
    return "".join(holes.get(word, f"{word} ") for word in text.split())


@cache
def load_table() -> Table:
    """The table of known licences."""
    return validate(Table, read_yaml(TABLE), TABLE)
