"""The engine as a proof runs it: `python -m pipeline.proof.worker SPEC`, started by pipeline/proof/prover.py.

Everything it needs stands beside the specification. It writes `dist`, and `result.json` or `failure.json`.
"""

import base64
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def reverse_listings() -> None:
    """Let everything that lists a folder see its entries in reversed order. Call it before anything else is loaded."""
    listdir, scandir = os.listdir, os.scandir

    class Reversed:
        """`os.scandir` with its entries sorted backwards."""

        def __init__(self, path: Any) -> None:
            with scandir(path) as entries:
                self._entries = iter(sorted(entries, key=lambda e: e.name, reverse=True))

        def __iter__(self) -> Any:
            return self._entries

        def __next__(self) -> Any:
            return next(self._entries)

        def __enter__(self) -> "Reversed":
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

        def close(self) -> None:
            """Nothing is held open."""

    replace: Callable[[str, Any], None] = lambda name, value: setattr(os, name, value)  # noqa: E731 - typed as os
    replace("listdir", lambda path=".": sorted(listdir(path), reverse=True))
    replace("scandir", lambda path=".": Reversed(path))


def main(path: Path) -> int:
    """Build what the specification asks for; returns the exit status."""
    spec = json.loads(path.read_bytes())
    if spec["reversed_order"]:
        reverse_listings()
    from pipeline.errors import PipelineError

    try:
        (path.parent / "result.json").write_text(json.dumps(build(spec)))
    except PipelineError as error:
        fault = error
    except Exception as error:
        fault = PipelineError(f"the engine failed: {type(error).__name__}: {error}")
    else:
        return 0
    said = {"reason": fault.reason, "hint": fault.hint, "kind": fault.kind}
    (path.parent / "failure.json").write_text(json.dumps(said))
    return fault.exit_code


def build(spec: dict[str, Any]) -> dict[str, Any]:
    """Run the specification; returns the outputs of each action and the CPU time of all sandboxes."""
    from pipeline.context import Context, Options
    from pipeline.publish.dist import write_dist
    from pipeline.release import make_graph, make_scheduler, refuse_failures
    from pipeline.report.progress import Progress
    from pipeline.rpm.signatures import Given, Signer
    from pipeline.sandbox.bwrap import Bwrap
    from pipeline.sandbox.setting import Setting
    from pipeline.store import Store

    folder = Path(spec["folder"])
    asked: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in spec["options"].items()}
    known = base64.b64decode(spec["certificates"])
    packets = {place: base64.b64decode(packet) for place, packet in spec["packets"].items()}
    context = Context(
        Options(**asked, offline=True, locked=True),
        Progress(),
        folder / "checkout",
        output=folder / "dist",
        go_root=spec["go_root"],
        signer=Signer(known, Given(known, packets)),
    )
    context.store = Store(folder / "store")
    library = Path(spec["clock_library"]) if spec["clock_library"] else None
    graph = make_graph(context).without_checks()
    scheduler = make_scheduler(context, Bwrap(Setting(**spec["setting"], clock_library=library)))
    result = scheduler.run(graph)
    refuse_failures(result, context)
    if not context.options.components and not context.options.actions:
        write_dist(context, graph, result)
    return {
        "outputs": {a: {n: [str(o.digest), o.size] for n, o in made.items()} for a, made in result.outputs.items()},
        "cpu": sum(r.cpu for r in result.records.values()),
    }


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
