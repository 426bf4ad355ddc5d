"""Every failure a user can meet: one hierarchy, divided by whose fault it is. No I/O.

Each class has its own exit code, so that scripts can tell a typing mistake from a mirror that is down.
"""

from pathlib import Path
from typing import ClassVar


class PipelineError(Exception):
    """A failure with its reason and the next thing to do.

    `reason` says what happened, to which thing, what was expected and what was found.
    `hint` is the next command to type or the change to make; it may be empty.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.log: Path | None = None
        """What the failed action printed, where it is kept."""

    def render(self) -> str:
        """The message as a user reads it: the reason, then the hint on its own line."""
        return f"{self.kind}: {self.reason}" + (f"\n  -> {self.hint}" if self.hint else "")


class UsageError(PipelineError):
    """The command line asks for something that cannot be."""

    exit_code = 2
    kind = "usage"


class HostError(PipelineError):
    """The host lacks something: a program, user namespaces, disk space."""

    exit_code = 3
    kind = "host"


class DefinitionError(PipelineError):
    """A definition or lock in the repository is wrong or they do not fit together."""

    exit_code = 4
    kind = "definition"


class SourceError(PipelineError):
    """Foreign content is not what the lock or its signature says, or is malformed."""

    exit_code = 5
    kind = "source"


class NetworkError(PipelineError):
    """An origin could not be reached or refused to serve."""

    exit_code = 6
    kind = "network"


class BuildError(PipelineError):
    """A build step or a check on its output failed."""

    exit_code = 7
    kind = "build"


class StoreError(PipelineError):
    """The store cannot be read or written."""

    exit_code = 8
    kind = "store"


class ProofError(PipelineError):
    """A rebuild came to other bytes than the candidate's, or the candidate is not what it says of itself."""

    exit_code = 9
    kind = "proof"


class TrustError(PipelineError):
    """A signature, statement or policy does not allow what was asked, or a key is not what it should be."""

    exit_code = 10
    kind = "trust"


class Interrupted(PipelineError):
    """The user stopped the run; what was finished is kept."""

    exit_code = 130
    kind = "interrupted"
