"""Commands that compare releases."""

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import DEBUG, reporting


@task(
    positional=["before", "after"],
    help={
        "before": "A release: VERSION or VERSION@BASE, or a folder with a release.json.",
        "after": "The release to compare it with.",
        "bytes": "Look into files of both that differ: which member, section or line, and at which offset.",
        "json": "Print everything as JSON on standard output.",
        "debug": DEBUG,
    },
)
def diff(c: Context, before: str, after: str, bytes: bool = False, json: bool = False, debug: bool = False) -> None:
    """Print what two releases differ in: components, modules, packages, images, charts, sizes, bytes."""
    from pipeline.context import CHECKOUT
    from pipeline.report.comparison import say_diff
    from pipeline.trace.diff import diff_releases

    with reporting(debug):
        say_diff(diff_releases(before, after, CHECKOUT, look_inside=bytes), as_json=json)
