"""Commands that write definitions."""

from typing import Any

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import DEBUG, make_context, reporting


@task(
    name="new-release",
    positional=[],
    iterable=["set_", "go"],
    help={
        "from": "Release whose definition is taken, as vX.Y.Z+rforN.",
        "version": "Release to define, as vX.Y.Z+rforN.",
        "set": "COMPONENT=VERSION: the version that it shall have; may be repeated.",
        "go": "Default Go toolchain, as 1.24.13, or COMPONENT=1.24.13 for one component; may be repeated.",
        "upstream": "Upstream tag (default: the same, or vX.Y.Z+rke2r1 for another Kubernetes version).",
        "date": "The release's date, as 2026-01-15 (default: today, UTC).",
        "offline": "Ask no origin; what has to be asked must be given.",
        "dry-run": "Print the definition, and write nothing.",
        "json": "Print the result as JSON on standard output.",
        "debug": DEBUG,
    },
)
def new_release(
    c: Context,
    from_: str = "",
    version: str = "",
    set_: Any = None,
    go: Any = None,
    upstream: str = "",
    date: str = "",
    offline: bool = False,
    dry_run: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Define a release from another one: write releases/VERSION/release.yaml for review."""
    from pipeline.context import host_arch
    from pipeline.draft.new_release import draft_release, make_wish, write_release
    from pipeline.report.drafting import say_draft

    with reporting(debug):
        context = make_context("", version=version, offline=offline)
        wish = make_wish(from_, version, set_ or (), go or (), upstream, date)
        draft = draft_release(wish, context.definitions, context.go, host_arch())
        if not dry_run:
            write_release(draft, context.definitions)
        say_draft(draft, context, written=not dry_run, as_json=json)
