"""Commands that keep the store small and whole."""

from typing import Any

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import DEBUG, reporting


@task(
    positional=[],
    help={
        "max-size": "Free until the whole store takes no more than this, such as 20GiB or 512MiB.",
        "max-age": "Free what was not used for this long: hours, days or weeks, such as 12h, 30d or 2w (default 30d).",
        "pins": "Also what locks pin; its origin may no longer serve it.",
        "dry-run": "Say what would go, and remove nothing.",
        "json": "Print the result as JSON on standard output.",
        "debug": DEBUG,
    },
)
def gc(
    c: Context,
    max_size: str = "",
    max_age: str = "30d",
    pins: bool = False,
    dry_run: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Free the store by age and size; what costs least to have again goes first, and pins of known releases stay."""
    from pipeline.care.gc import Limits, collect

    with reporting(debug):
        from pipeline.report.care import say_gc

        limits = Limits.parse(max_size, max_age, pins=pins)
        store, checkout, progress = _opened()
        say_gc(collect(store, checkout, limits, progress, dry_run=dry_run), store, progress, dry_run, as_json=json)


@task(
    positional=["action"],
    help={
        "action": "status: what it holds; verify: check every byte; repair: remove what is damaged.",
        "json": "Print the result as JSON on standard output.",
        "debug": DEBUG,
    },
)
def store(c: Context, action: str, json: bool = False, debug: bool = False) -> None:
    """Say what the store holds (status), check every byte of it (verify), or remove what is damaged (repair)."""
    from pipeline.errors import UsageError

    with reporting(debug):
        from pipeline.report.care import say_repair, say_status, say_verify

        says: dict[str, Any] = {"status": say_status, "verify": say_verify, "repair": say_repair}
        if action not in says:
            raise UsageError(f"inv store {action}: expected one of {', '.join(says)}", "./inv store status")
        says[action](*_opened(), as_json=json)


def _opened() -> tuple[Any, Any, Any]:
    """The store of this host, the checkout, and where to say what is done."""
    from pipeline.context import CHECKOUT, store_folder
    from pipeline.report.progress import Progress
    from pipeline.store import Store

    progress = Progress()
    return Store(store_folder(), progress.say), CHECKOUT, progress
