"""The allow-list of a proof: artifacts that may differ, each with a reason, an owner and a day on which that ends."""

import fnmatch
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from pydantic import Field

from pipeline.errors import DefinitionError
from pipeline.strict import Strict, read_yaml, validate

FILE = "provenance/exceptions.yaml"


class Excepted(Strict):
    """One entry: an artifact's name, or a pattern of names as shells have them."""

    artifact: str = Field(min_length=1)
    reason: str = Field(min_length=10)
    owner: str = Field(min_length=1)
    expires: date


class _Exceptions(Strict):
    exceptions: tuple[Excepted, ...]


def read_exceptions(checkout: Path, today: date) -> tuple[Excepted, ...]:
    """The list of a checkout, empty if it has none. Raises DefinitionError if it is malformed or an entry expired."""
    path = checkout / FILE
    if not path.exists():
        return ()
    found = validate(_Exceptions, read_yaml(path), path).exceptions
    if over := [e for e in found if e.expires < today]:
        raise DefinitionError(
            f"{path}: the exception for {over[0].artifact} expired on {over[0].expires}",
            f"mend what it excuses, or let {over[0].owner} renew it with a new reason",
        )
    return found


def find_exception(name: str, exceptions: Sequence[Excepted]) -> Excepted | None:
    """The entry that excuses the artifact called `name`."""
    return next((e for e in exceptions if fnmatch.fnmatchcase(name, e.artifact)), None)
