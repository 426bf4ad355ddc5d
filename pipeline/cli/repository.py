"""The command for a repository of packages."""

import sys
from typing import Any

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import DEBUG, MIRROR, OFFLINE, reporting

TAKES = {
    "add": {"from", "keep", "candidate", "root", "dry-run"},
    "remove": {"release", "candidate", "root", "dry-run"},
    "check": {"base"},
}
"""What each action takes of the options that not all of them take."""


@task(
    positional=["action"],
    iterable=["mirror", "release"],
    help={
        "action": "add: merge a release's packages into it; remove: take them out; check: whether all fits together.",
        "repo": "Folder of the repository; `add` makes one in a folder that is empty or not there.",
        "from": "add: folder of the release, such as dist/v1.25.4+rfor1.",
        "keep": "add: versions that each folder of packages keeps; older ones are removed (default: all).",
        "release": "remove: a release by its name below releases/, such as v1.25.4+rfor1. Can be given more than once.",
        "candidate": "add, remove: take releases that nobody promoted. For development: hosts refuse them.",
        "root": "add, remove: metadata of the root to trust (default: the newest of this host's trust repository).",
        "dry-run": "add, remove: judge the releases, and say what would be done.",
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
    release: Any = None,
    candidate: bool = False,
    root: str = "",
    dry_run: bool = False,
    base: str = "",
    mirror: Any = None,
    offline: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Keep a signed repository of packages: merge a release into it, take one out, check it (exit 5: it is wrong)."""
    from io import StringIO
    from pathlib import Path

    from pipeline.context import Context as Run
    from pipeline.context import Options, parse_count, parse_pairs
    from pipeline.errors import UsageError
    from pipeline.report.progress import Progress
    from pipeline.report.repository import say_changed, say_checked

    with reporting(debug):
        if action not in TAKES:
            raise UsageError(f"inv repo {action}: expected add, remove or check", "./inv repo check --repo DIR")
        given = {"from": from_, "keep": keep, "release": release, "candidate": candidate, "root": root, "base": base}
        for name, value in {**given, "dry-run": dry_run}.items():
            if value and name not in TAKES[action]:
                raise UsageError(f"inv repo {action} takes no --{name}", "./inv --help repo")
        if not repo:
            raise UsageError("which repository? --repo is missing", f"./inv repo {action} --repo DIR")
        if action == "add" and not from_:
            raise UsageError("which release? --from is missing", "./inv repo add --from dist/VERSION --repo DIR")
        if action == "remove" and not release:
            raise UsageError("which release? --release is missing", "./inv repo remove --release VERSION --repo DIR")
        if keep and not parse_count(keep, "--keep"):
            raise UsageError("--keep 0: a repository keeps one version at least")
        options = Options("", dry_run=dry_run, offline=offline, mirrors=parse_pairs(mirror or (), "--mirror"))
        run, place = Run(options, Progress(stream=StringIO()) if json else Progress()), Path(repo).resolve()
        trusted = Path(root).absolute() if root else None
        if action == "check":
            from pipeline.repository.check import check

            sys.exit(say_checked(check(place, base, run), run.progress, as_json=json))
        elif action == "remove":
            from pipeline.repository.remove import Unwanted, remove

            done = remove(Unwanted(tuple(release), place, candidate, trusted), run)
        else:
            from pipeline.repository.add import add
            from pipeline.repository.incoming import Wanted

            done = add(Wanted(Path(from_).absolute(), place, int(keep) if keep else None, candidate, trusted), run)
        say_changed(done, run.progress, as_json=json)
