"""Commands that prove a release."""

import time
from typing import Any

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import ARCH, DEBUG, OFFLINE, reporting


@task(
    positional=[],
    iterable=["arch", "component"],
    help={
        "from": "Folder of the published candidate, such as dist/v1.25.4+rfor1.",
        "sources": "Source bundle to build from, with nothing else and no network (made by inv fetch --bundle).",
        "component": "Only the binaries of this component; may be repeated.",
        "arch": ARCH,
        "output": "Where to write the result (default: beside the candidate, as NAME.proof.json).",
        "jobs": "Actions at once (default: half the cores, at least 2; memory is watched besides).",
        "offline": OFFLINE,
        "bisect": "Search which variation makes an artifact differ (default).",
        "json": "Print the result as JSON on standard output.",
        "debug": DEBUG,
    },
)
def rebuild(
    c: Context,
    from_: str = "",
    sources: str = "",
    component: Any = None,
    arch: Any = None,
    output: str = "",
    jobs: str = "0",
    offline: bool = False,
    bisect: bool = True,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Prove a candidate: build it again from its sources under other circumstances and compare every byte."""
    from pathlib import Path

    from pipeline.context import parse_count
    from pipeline.errors import UsageError
    from pipeline.rebuild import Asked, result_path
    from pipeline.rebuild import rebuild as prove
    from pipeline.report.progress import Progress
    from pipeline.report.proof import say_proof

    with reporting(debug):
        if not from_:
            raise UsageError("which candidate? --from is missing", "name its folder: ./inv rebuild --from dist/VERSION")
        started = time.monotonic()
        asked = Asked(
            candidate=Path(from_).absolute(),
            sources=Path(sources).absolute() if sources else None,
            components=tuple(component or ()),
            arches=tuple(arch or ()),
            jobs=parse_count(jobs, "--jobs"),
            offline=offline,
            output=Path(output).absolute() if output else None,
            explain=bisect,
        )
        progress = Progress()
        proof = prove(asked, progress)
        say_proof(proof, progress, result_path(asked), time.monotonic() - started, as_json=json)
