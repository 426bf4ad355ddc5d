"""What a proof varies, as data, and the circumstances that a choice of variations makes. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.sandbox.setting import Setting


@dataclass(frozen=True)
class Variation:
    """One circumstance and its two forms; `setting` and `engine` are the fields that it changes."""

    name: str
    usual: str
    varied: str
    setting: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Circumstances:
    """Under which the engine and its sandboxes run."""

    setting: Setting = field(default_factory=Setting)
    folder: str = "/run/rfo"
    """Where the engine's process sees checkout, store and dist."""
    reversed_order: bool = False
    go_root: str = "builder"
    own_userland: bool = True
    """Whether the engine runs on the Python that started it."""


@lru_cache
def variations() -> tuple[Variation, ...]:
    """All of them, in the order of their file."""
    return tuple(Variation(**entry) for entry in yaml.safe_load(_FILE.read_text(encoding="utf-8")))


_FILE = Path(__file__).with_suffix(".yaml")


def circumstances(chosen: Iterable[Variation]) -> Circumstances:
    """The usual circumstances with `chosen` applied."""
    made = Circumstances()
    for variation in chosen:
        made = replace(made, setting=replace(made.setting, **variation.setting), **variation.engine)
    return made
