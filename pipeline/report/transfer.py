"""What a push or a mirror did, for people and for programs."""

import json

from pipeline.registry.transfer import Result
from pipeline.report.progress import Progress, duration, size


def say_transfer(result: Result, progress: Progress, seconds: float, *, dry_run: bool, as_json: bool) -> None:
    """Print a transfer's result: JSON on standard output, or lines."""
    if as_json:
        counts = {k: v for k, v in vars(result).items() if k != "images"}
        images = [
            {"name": i.place, "digest": str(i.digest), "before": str(i.before) if i.before else None}
            for i in result.images
        ]
        print(json.dumps({"dry_run": dry_run, "images": images, **counts}, indent=2))
        return
    for image in result.images:
        state = "new" if image.before is None else "as before" if image.before == image.digest else "MOVED"
        progress.say(f"  {state:9}  {image.place}@{image.digest}")
        if state == "MOVED":
            progress.say(f"             it was {image.before}")
    verb = "would be sent" if dry_run else "sent"
    progress.say(
        f"{len(result.images)} names, {result.attached} attached; "
        f"{result.sent} of {result.blobs} blobs {verb} ({size(result.bytes)}), {result.mounted} mounted; "
        f"{result.manifests} manifests {'would be ' if dry_run else ''}written; {duration(seconds)}"
    )
