"""How those who hold no key talk to the processes that sign: a request on standard input, JSON on standard output.

The answer is what was asked for, or `{"reason", "hint", "kind"}` of the error that it ended with.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.engine import HERE
from pipeline.errors import PipelineError, TrustError
from pipeline.verifier.encoding import Refused
from pipeline.verifier.openssl import HostLacks

MAX_REQUEST = 1 << 20


def ask(module: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a signer, a module of ours that calls `serve`. Raises the error that it ended with."""
    command = [sys.executable, "-m", module]
    given = json.dumps(request).encode()
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, cwd=HERE.parent, check=False)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
        if done.returncode == 0:
            return answer
        kinds: dict[str, type[PipelineError]] = {c.kind: c for c in PipelineError.__subclasses__() if "kind" in vars(c)}
        error = kinds.get(answer["kind"], PipelineError)(str(answer["reason"]), str(answer["hint"]))
    except (ValueError, KeyError, TypeError) as fault:
        raise TrustError(
            f"the process that signs ended with status {done.returncode} and without an answer",
            "nothing is lost: run the same command again",
        ) from fault
    raise error


def serve(handle: Callable[[bytes], dict[str, Any]]) -> int:
    """Answer the request on standard input by what `handle` makes of it; returns the exit status."""
    try:
        answer = handle(sys.stdin.buffer.read(MAX_REQUEST))
    except PipelineError as error:
        fault = error
    except (HostLacks, Refused) as error:
        fault = TrustError(str(error))
    except Exception as error:  # no traceback reaches a user
        fault = PipelineError(f"the signer failed: {type(error).__name__}: {error}")
    else:
        print(json.dumps(answer))
        return 0
    print(json.dumps({"reason": fault.reason, "hint": fault.hint, "kind": fault.kind}))
    return fault.exit_code
