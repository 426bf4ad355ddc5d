"""The command for a repository of packages."""

import sys
from typing import Any

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import DEBUG, MIRROR, OFFLINE, reporting

ACTIONS = ("add", "check")


@task(
    positional=["action"],
    iterable=["mirror"],
    help={
        "action": "add: merge a release's packages into it; check: whether everything in it fits together.",
        "repo": "Folder of the repository; `add` makes one in a folder that is empty or not there.",
        "from": "add: folder of the release, such as dist/v1.25.4+rfor1.",
        "keep": "add: versions that each folder of packages keeps; older ones are removed (default: all).",
        "candidate": "add: take a release that nobody promoted. For development: hosts refuse it.",
        "root": "add: metadata of the root to trust (default: the newest of this host's trust repository).",
        "dry-run": "add: judge the release, and say what would be done.",
        "base": "check: look for what packages require in the repositories of this base too.",
        "mirror": MIRROR,
        "offline": OFFLINE,
        "json": "Print the result as JSON on standard output.",
        "debug": DEBUG,
    },
)
def repo(
    c: Context,
    action: str,
    repo: str = "",
    from_: str = "",
    keep: str = "",
    candidate: bool = False,
    root: str = "",
    dry_run: bool = False,
    base: str = "",
    mirror: Any = None,
    offline: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Keep a signed repository of packages: merge a release into it (add), or check it (check; exit 5: it is wrong)."""
    from io import StringIO
    from pathlib import Path

    from pipeline.context import Context as Run
    from pipeline.context import Options, parse_count, parse_pairs
    from pipeline.errors import UsageError
    from pipeline.report.progress import Progress
    from pipeline.report.repository import say_added, say_checked

    with reporting(debug):
        if action not in ACTIONS:
            raise UsageError(f"inv repo {action}: expected add or check", "./inv repo check --repo DIR")
        if not repo:
            raise UsageError("which repository? --repo is missing", f"./inv repo {action} --repo DIR")
        options = Options("", dry_run=dry_run, offline=offline, mirrors=parse_pairs(mirror or (), "--mirror"))
        run, place = Run(options, Progress(stream=StringIO()) if json else Progress()), Path(repo).resolve()
        if action == "check":
            if from_ or keep or candidate or root or dry_run:
                raise UsageError("--from, --keep, --candidate, --root and --dry-run are for `inv repo add`")
            from pipeline.repository.check import check

            sys.exit(say_checked(check(place, base, run), run.progress, as_json=json))
        if base or not from_:
            reason = "--base is for `inv repo check`" if base else "which release? --from is missing"
            raise UsageError(reason, "./inv repo add --from dist/VERSION --repo DIR")
        if keep and not parse_count(keep, "--keep"):
            raise UsageError("--keep 0: a repository keeps one version at least")
        from pipeline.repository.add import add
        from pipeline.repository.incoming import Wanted

        trusted = Path(root).absolute() if root else None
        wanted = Wanted(Path(from_).absolute(), place, int(keep) if keep else None, candidate, trusted)
        say_added(add(wanted, run), run.progress, as_json=json)
