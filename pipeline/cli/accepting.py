"""Commands that make a release of a candidate, and judge releases."""

import sys
from typing import Any

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import DEBUG, reporting


@task(
    positional=[],
    iterable=["allow_base"],
    help={
        "release": "Folder of the release, such as dist/v1.25.4+rfor1, or its URL.",
        "repo": "In place of it a repository of packages (see inv repo), or the folder rpm of a release.",
        "repo-name": "What this host calls the repository in what it remembers.",
        "root": "Metadata of the root to trust (default: the newest of this host's trust repository).",
        "as-of": "Judge expiry at this time (YYYY-MM-DD), not at the clock's.",
        "allow-stale": "Accept metadata and a layout that have expired; says how old they are.",
        "allow-base": "Accept this base besides the policy's; may be repeated.",
        "allow-yanked": "Accept a release that was taken back.",
        "allow-downgrade": "Accept a repository older than what this host has seen of it.",
        "expect-version": "Refuse any other version.",
        "json": "Print everything as JSON on standard output.",
        "debug": DEBUG,
    },
)
def verify(
    c: Context,
    release: str = "",
    repo: str = "",
    repo_name: str = "rfo",
    root: str = "",
    as_of: str = "",
    allow_stale: bool = False,
    allow_base: Any = None,
    allow_yanked: bool = False,
    allow_downgrade: bool = False,
    expect_version: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Judge a release: every byte, signature, link and the layout; or a repository (exit 10: refused, 11: expired)."""
    from io import StringIO
    from pathlib import Path

    from pipeline.accept import Asked, accept, accept_repository, parse_options
    from pipeline.errors import UsageError
    from pipeline.report.progress import Progress
    from pipeline.verifier.command import print_report

    with reporting(debug):
        if not release and not repo:
            raise UsageError(
                "which release? --release is missing", "name its folder: ./inv verify --release dist/VERSION"
            )
        if repo and (release or expect_version):
            raise UsageError("--repo goes with no --release and --expect-version", "a repository holds many releases")
        if release and allow_downgrade:
            raise UsageError("--allow-downgrade goes with --repo", "nothing is remembered of releases here")
        options = parse_options(
            as_of, expect_version, tuple(allow_base or ()),
            stale=allow_stale, yanked=allow_yanked, downgrade=allow_downgrade,
        )  # fmt: skip
        trusted = Path(root).absolute() if root else None
        if repo:
            report = accept_repository(Path(repo).absolute(), trusted, options, repo_name)
        else:
            report = accept(Asked(release, trusted, options), Progress(stream=StringIO()) if json else Progress())
        print_report(report, as_json=json)
        sys.exit(report.exit_code)


@task(
    positional=[],
    help={
        "from": "Folder of the candidate, such as dist/v1.25.4+rfor1.",
        "download-url": "Where the release will be served from: its installer downloads there unless told otherwise.",
        "debug": DEBUG,
    },
)
def promote(c: Context, from_: str = "", download_url: str = "", debug: bool = False) -> None:
    """Make a release of a candidate that others have made again; says what is missing. Can be repeated and resumed."""
    from pathlib import Path

    from pipeline.errors import UsageError
    from pipeline.promote import promote as make
    from pipeline.report.progress import Progress

    with reporting(debug):
        if not from_:
            raise UsageError("which candidate? --from is missing", "name its folder: ./inv promote --from dist/VERSION")
        progress = Progress()
        done = make(Path(from_).absolute(), progress, download_url)
        for path in done.written:
            progress.say(f"  signed {path}")
        trust = "DEVELOPMENT, which nobody should rely on" if done.development else f"policy {done.policy}"
        progress.say(f"release: {done.folder} ({trust})")
        progress.say(f"  -> verify it: ./inv verify --release {done.folder}")
