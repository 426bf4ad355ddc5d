"""Commands for those who work on the pipeline."""

import sys
from typing import Any

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import BASE, VERSION, make_context, reporting


@task(
    positional=[],
    help={
        "k": "Only tests whose name matches (pytest -k).",
        "full": "Also the long tests that compile large components.",
    },
)
def test(c: Context, k: str = "", full: bool = False) -> None:
    """Run the tests: linters, types, unit tests, and real builds of small components for three architectures."""
    from pipeline.development import run_tests

    with reporting(debug=False):
        sys.exit(run_tests(k, full=full))


@task(
    positional=[],
    iterable=["arch", "component"],
    help={
        "version": VERSION,
        "base": BASE,
        "component": "Component to compile; may be repeated (default coredns).",
        "arch": "Architecture; may be repeated (default arm64).",
        "json": "Print as JSON.",
    },
)
def bench(
    c: Context,
    version: str = "v1.25.4+rfor1",
    base: str = "debian-13",
    component: Any = None,
    arch: Any = None,
    json: bool = False,
) -> None:
    """Measure the pipeline against the plain tools, both in this run; prints ratios."""
    from pipeline.bench import run_bench

    with reporting(debug=False):
        run_bench(
            make_context(
                "",
                version=version,
                base=base,
                arches=tuple(arch or ["arm64"]),
                components=tuple(component or ["coredns"]),
            ),
            as_json=json,
        )
