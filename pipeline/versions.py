"""Component versions: order and ranges. Only numbers and dots are compared; suffixes are refused in ranges. No I/O."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from pipeline.errors import DefinitionError

_OPERATORS: dict[str, Callable[[int], bool]] = {
    "<": lambda c: c < 0,
    "<=": lambda c: c <= 0,
    "==": lambda c: c == 0,
    ">=": lambda c: c >= 0,
    ">": lambda c: c > 0,
}
_NUMBERS = r"v?([0-9]{1,9}(?:\.[0-9]{1,9})*)"


def numbers(version: str) -> tuple[int, ...]:
    """`v1.25.4+rfor1` to (1, 25, 4): the leading numbers, without trailing zeros so that 2.0 equals 2."""
    parts = [int(p) for p in _leading(version)]
    if not parts:
        raise DefinitionError(f"version {version!r} does not start with numbers of at most nine digits")
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _leading(version: str) -> list[str]:
    match = re.match(rf"{_NUMBERS}(?!\.?[0-9])", version)
    return match[1].split(".") if match else []


def compare(left: str, right: str) -> int:
    """-1, 0 or 1 as `left` is older than, equal to or newer than `right`."""
    a, b = numbers(left), numbers(right)
    return (a > b) - (a < b)


@dataclass(frozen=True)
class Constraint:
    """Comparisons that must all hold, such as `>=1.30, <2`."""

    terms: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str, *, where: str) -> Self:
        """Read a comma-separated list; `where` names its place in errors."""
        terms = []
        for part in text.split(","):
            match = re.fullmatch(rf"\s*(<=|>=|==|<|>)\s*({_NUMBERS})\s*", part)
            if not match:
                raise DefinitionError(f"{where}: expected comparisons such as '>=1.30, <2'; found {text!r}")
            terms.append((match[1], match[2]))
        return cls(tuple(terms))

    def matches(self, version: str) -> bool:
        """Whether `version` satisfies every comparison."""
        return all(_OPERATORS[operator](compare(version, bound)) for operator, bound in self.terms)


def template_values(version: str) -> dict[str, str]:
    """What a definition's template may name about a version; missing parts are 0."""
    parts = [*_leading(version), "0", "0", "0"]
    return {
        "version": version,
        "number": version.removeprefix("v"),
        "major": parts[0],
        "minor": parts[1],
        "patch": parts[2],
    }


def fill(template: str, version: str, given: Mapping[str, str]) -> str:
    """A template with the values of a component's version and those `given`; raises DefinitionError for another."""
    values = {**template_values(version), **given}
    try:
        return re.sub(r"\{(\w+)\}", lambda m: values[m[1]], template)
    except KeyError as error:
        known = ", ".join(sorted(values))
        raise DefinitionError(f"template {template!r}: unknown value {error.args[0]!r}; known: {known}") from None
