"""What `inv new-release` says at its end."""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.context import Context
    from pipeline.draft.new_release import Draft


def say_draft(draft: "Draft", context: "Context", *, written: bool, as_json: bool) -> None:
    """What changed, what needs a person, and the next commands; the text itself if it was not `written`."""
    path = draft.path.relative_to(context.checkout)
    if as_json:
        facts = {
            "version": draft.release.version,
            "file": str(path),
            "written": written,
            "changes": list(draft.changes),
            "review": list(draft.review),
            "locked": draft.locked is not None,
            "next": list(draft.commands),
            "text": draft.text,
        }
        print(json.dumps(facts, indent=2))
        return
    say = context.progress.say
    for line in draft.changes:
        say(f"  {line}")
    if draft.review:
        say("to review:")
        for line in draft.review:
            say(f"  {line}")
    if not written:
        print(draft.text, end="")
        say(f"{path} was not written")
        return
    say(f"wrote {path}" + (" and its sources.lock: the same sources are read" if draft.locked else ""))
    say("next: review it and commit it, then")
    for command in draft.commands:
        say(f"  {command}")
