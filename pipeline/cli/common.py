"""What all commands share: help texts, the options of a run, and how a failure is said."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

VERSION = "Release to work on, as vX.Y.Z+rforN; defined under releases/."
BASE = "Use this base instead of the definition's, for all architectures (debian-13 needs no openEuler mirror)."
ARCH = "Only this architecture (amd64, arm64, riscv64); may be repeated."
COMPONENT = "Only this component: compile and check it, write no dist/; may be repeated."
MIRROR = "BASE=URI: fetch the base's packages from this mirror; may be repeated."
SOURCE = (
    "COMPONENT=PATH: take its module zip, archive or git clone from here, checked like a download; may be repeated."
)
OFFLINE = "Fetch nothing; fail if anything is missing."
DEBUG = "Show the traceback of a failure."


@contextmanager
def reporting(debug: bool) -> Iterator[None]:
    """Turn failures into a message and an exit code; a traceback only when asked for."""
    from pipeline.errors import Interrupted, PipelineError

    try:
        yield
    except PipelineError as error:
        if debug:
            raise
        print(error.render(), file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader has seen enough: `./inv explain … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor may the end of the process complain
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if debug:
            raise
        fault = PipelineError(f"the engine failed: {type(error).__name__}: {error}", "see where: add --debug")
        print(fault.render(), file=sys.stderr)
        sys.exit(fault.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(Interrupted.exit_code)


def make_context(log_json: str = "", sources: Any = None, mirrors: Any = None, **options: Any) -> Any:
    """The run that the options of a command ask for; raises UsageError."""
    from pathlib import Path

    from pipeline.context import Context as Run
    from pipeline.context import Options, parse_pairs
    from pipeline.errors import UsageError
    from pipeline.report.progress import Progress, open_events

    if not options["version"]:
        raise UsageError("which release? --version is missing", "list them with ./inv releases")
    given = {k: Path(v).absolute() for k, v in parse_pairs(sources or (), "--source").items()}
    chosen = Options(sources=given, mirrors=parse_pairs(mirrors or (), "--mirror"), **options)
    return Run(chosen, Progress(events=open_events(log_json) if log_json else None))
