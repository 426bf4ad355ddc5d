"""What a command prints at its end, for people and as JSON."""

import json
from typing import TYPE_CHECKING

from pipeline.attest.places import is_signature
from pipeline.report.progress import duration, size

BLOBS = "images/blobs/"
"""What is named by digest alone is not listed."""

if TYPE_CHECKING:
    from pipeline.context import Context
    from pipeline.release import Summary


def say_summary(summary: "Summary", context: "Context", seconds: float, *, as_json: bool) -> None:
    """The end of `inv release`."""
    if as_json:
        facts = {
            "version": context.options.version,
            "ran": summary.ran,
            "cached": summary.cached,
            "seconds": round(seconds, 2),
            "dist": str(summary.dist) if summary.dist else None,
            "changed": list(summary.changed),
            "binaries": {n: str(p) for n, p in summary.binaries},
        }
        print(json.dumps(facts, indent=2))
        return
    if context.options.dry_run:
        return  # it said all there is while it looked
    context.progress.say(f"{summary.ran} actions ran, {summary.cached} were in the store; {duration(seconds)}")
    for name, path in summary.binaries:
        context.progress.say(f"  {size(path.stat().st_size):>10}  {name:<40} {path}")
    if summary.dist is None:
        return
    where = summary.dist.relative_to(context.checkout)
    signed = sum(map(is_signature, summary.changed))
    wrote = [n for n in summary.changed if not n.startswith(BLOBS) and not is_signature(n)]
    blobs = len(summary.changed) - len(wrote) - signed
    wrote += [f"{blobs} blobs of images"] if blobs else []
    wrote += [f"{signed} signed statements"] if signed else []
    context.progress.say(f"{where}: " + (f"wrote {', '.join(wrote)}" if wrote else "nothing changed"))
    for file in sorted((*summary.dist.glob("*.tar.gz"), *summary.dist.glob("*.tar.zst"))):
        context.progress.say(f"  {size(file.stat().st_size):>10}  {file.name}")
    context.progress.say(f"check it: (cd '{where}' && sha256sum -c sha256sum-*.txt)")


def say_releases(*, as_json: bool) -> None:
    """The end of `inv releases`."""
    from pipeline.context import CHECKOUT
    from pipeline.definitions import Definitions

    definitions = Definitions(CHECKOUT)
    found = [definitions.release(v) for v in definitions.releases()]
    if as_json:
        facts = [
            {"version": r.version, "upstream": r.upstream, "date": r.values["date"], "bases": r.bases} for r in found
        ]
        print(json.dumps(facts, indent=2))
        return
    for release in found:
        locked = (CHECKOUT / "releases" / release.version / "sources.lock").exists()
        line = (
            f"{release.version:<18} follows {release.upstream:<18} {release.date:%Y-%m-%d}  {', '.join(release.bases)}"
        )
        print(line + ("" if locked else "  (not locked)"))
