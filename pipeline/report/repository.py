"""What became of a repository, or is wrong with it, for people and for programs."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from pipeline.report.progress import Progress
from pipeline.verifier.report import plain

if TYPE_CHECKING:
    from pipeline.repository.add import Added
    from pipeline.repository.check import Checked

SHOWN = 20
"""Files of a kind that are named."""


def say_changed(done: "Added", progress: Progress, *, as_json: bool) -> None:
    """Print what `inv repo add` or `remove` did: JSON on standard output, or lines."""
    if as_json:
        print(json.dumps({**asdict(done), "repository": str(done.repository)}, indent=2))
        return
    for folder in done.folders:
        state = "would be new" if done.dry_run and folder.written else "new" if folder.written else "as before"
        progress.say(f"  {folder.folder:<40} {folder.packages:>4} packages  revision {folder.revision}  {state}")
    for verb, names in (("added", done.added), ("removed", (*done.removed, *done.gone)), ("unknown", done.unknown)):
        for name in names[:SHOWN]:
            progress.say(plain(f"  {verb:8} {name}"))
        if len(names) > SHOWN:
            progress.say(f"  {verb:8} and {len(names) - SHOWN} more")
    if done.unknown:
        progress.say("  -> files that belong to nothing were left alone; look at them, and remove what is not yours")
    changed = done.added or done.removed or done.gone or done.evidence or any(f.written for f in done.folders)
    if done.dry_run:
        progress.say("nothing was done" if changed else "nothing would be done")
    elif not changed:
        progress.say(f"{done.release} is in {done.repository} already: nothing was changed")
    else:
        progress.say(f"repository: {done.repository}\n  -> check it: ./inv repo check --repo {done.repository}")


def say_checked(found: "Checked", progress: Progress, *, as_json: bool) -> int:
    """Print what `inv repo check` found; returns the exit code."""
    if as_json:
        value = {**asdict(found), "repository": str(found.repository), "ok": found.exit_code == 0}
        print(json.dumps(value, indent=2))
        return found.exit_code
    for folder in found.folders:
        progress.say(
            f"  {folder.folder:<40} {folder.packages:>4} packages  revision {folder.revision}  requirements: "
            f"{folder.requirements}"
        )
    for note in found.notes:
        progress.say(plain(f"  note: {note}"))
    for finding in found.findings:
        progress.say(plain(f"wrong: {finding.subject}: {finding.reason}"))
        if finding.remedy:
            progress.say(plain(f"  -> {finding.remedy}"))
    many = len(found.findings)
    progress.say(f"{found.repository}: {f'{many} findings' if many else 'everything fits together'}")
    return found.exit_code
