"""The commands of `./inv`; they stand in pipeline/cli/, grouped by what they are for."""

from collections.abc import Callable
from typing import Any

from invoke.collection import Collection

from pipeline.cli import (
    accepting,
    comparing,
    defining,
    developing,
    explaining,
    keeping,
    keying,
    making,
    proving,
    repository,
    sharing,
    trusting,
)

_TASKS: list[Callable[..., Any]] = [
    making.release,
    making.lock,
    making.fetch,
    making.releases,
    proving.rebuild,
    accepting.promote,
    accepting.verify,
    trusting.trust,
    trusting.yank,
    keying.keys,
    sharing.push,
    sharing.mirror,
    repository.repo,
    defining.new_release,
    keeping.gc,
    keeping.store,
    explaining.explain,
    explaining.why_rebuilt,
    comparing.diff,
    developing.test,
    developing.bench,
]
ns = Collection(*_TASKS)
