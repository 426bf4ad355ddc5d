"""The commands of `./inv`; they stand in pipeline/cli/, grouped by what they are for."""

from collections.abc import Callable
from typing import Any

from invoke.collection import Collection

from pipeline.cli import developing, making

_TASKS: list[Callable[..., Any]] = [
    making.release,
    making.lock,
    making.fetch,
    making.releases,
    developing.test,
    developing.bench,
]
ns = Collection(*_TASKS)
