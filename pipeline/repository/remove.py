"""`inv repo remove`: releases leave a repository, with their packages and evidence. Can be killed at any moment.

Metadata without the packages come first, then packages and evidence go, as when a version falls out in `inv repo add`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.context import Context
from pipeline.repository.add import Added, describe, publish, remove_unfinished, signing_key
from pipeline.repository.incoming import refuse_unaccepted
from pipeline.repository.kept import Repository, find_repository, locked
from pipeline.repository.merge import Merge, plan_removal, refuse_unsigned
from pipeline.store import store_error


@dataclass(frozen=True)
class Unwanted:
    """What is to be done."""

    releases: Sequence[str]
    """By their names below releases/."""
    repository: Path
    candidate: bool = False
    """Whether releases that nobody promoted may stay, for development."""
    root: Path | None = None
    """Metadata of the root that is trusted; None: the newest of this host's trust repository."""


def remove(unwanted: Unwanted, context: Context) -> Added:
    """Take releases out of a repository. Raises PipelineError; the same call goes on where it was stopped.

    What stays is judged as by `inv repo add`, since its metadata are signed anew; what leaves is not.
    """
    repository = find_repository(unwanted.repository)
    try:
        if context.options.dry_run:
            return replace(describe(_decide(unwanted, repository), repository), release="")
        key = signing_key()
        with locked(repository):
            remove_unfinished(repository)
            merge = _decide(unwanted, repository)
            refuse_unsigned(merge, repository, key.fingerprint)
            return replace(publish(merge, repository, key, context), release="")
    except OSError as error:
        raise store_error(error, unwanted.repository) from error


def _decide(unwanted: Unwanted, repository: Repository) -> Merge:
    merge = plan_removal(repository, unwanted.releases)
    if not unwanted.candidate:
        refuse_unaccepted(repository, unwanted.root, leaving=unwanted.releases)
    return merge
