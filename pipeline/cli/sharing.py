"""Commands that bring images to registries and folders."""

import time
from typing import Any

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import DEBUG, reporting

PLAIN_HTTP = "Talk to registries without TLS; on loopback that is found out by itself."
CA = "File with the certificates (PEM) of the authorities to trust, in place of the host's."
JOBS = "Connections at once (default: 4)."
DRY_RUN = "Say what would be copied; only read."
JSON = "Print the result as JSON on standard output."


@task(
    positional=[],
    help={
        "registry": "Where to, as HOST[/PREFIX]; images become HOST/PREFIX/rfolabs/NAME:TAG.",
        "from": "Folder of the release, such as dist/v1.25.4+rfor1.",
        "plain-http": PLAIN_HTTP,
        "ca": CA,
        "jobs": JOBS,
        "dry-run": DRY_RUN,
        "json": JSON,
        "debug": DEBUG,
    },
)
def push(
    c: Context,
    registry: str = "",
    from_: str = "",
    plain_http: bool = False,
    ca: str = "",
    jobs: str = "0",
    dry_run: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Push a release's images and charts to a registry; credentials are those of `docker login`."""
    from pathlib import Path

    from pipeline.errors import UsageError
    from pipeline.registry.share import push as send
    from pipeline.report.progress import Progress
    from pipeline.report.transfer import say_transfer

    with reporting(debug):
        if not registry or not from_:
            missing = "--registry" if not registry else "--from"
            raise UsageError(f"{missing} is missing", "./inv push --registry HOST[/PREFIX] --from dist/VERSION")
        started, progress = time.monotonic(), Progress()
        result = send(Path(from_).absolute(), registry, _asked(plain_http, ca, jobs, dry_run), progress)
        say_transfer(result, progress, time.monotonic() - started, dry_run=dry_run, as_json=json)


@task(
    positional=[],
    iterable=["image"],
    help={
        "from": "A registry (HOST[/PREFIX]) or a folder: a release's, or an OCI image layout.",
        "to": "A registry (HOST[/PREFIX]) or a folder, which becomes an OCI image layout.",
        "release": "Copy the images of this release, and refuse others: its folder, such as dist/v1.25.4+rfor1.",
        "image": "Copy this image, as NAME:TAG; may be repeated.",
        "plain-http": PLAIN_HTTP,
        "ca": CA,
        "jobs": JOBS,
        "dry-run": DRY_RUN,
        "json": JSON,
        "debug": DEBUG,
    },
)
def mirror(
    c: Context,
    from_: str = "",
    to: str = "",
    release: str = "",
    image: Any = None,
    plain_http: bool = False,
    ca: str = "",
    jobs: str = "0",
    dry_run: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Copy images with all that is attached to them between registries and folders; digests never change."""
    from pathlib import Path

    from pipeline.errors import UsageError
    from pipeline.registry.share import mirror as copy
    from pipeline.report.progress import Progress
    from pipeline.report.transfer import say_transfer

    with reporting(debug):
        if not from_ or not to:
            raise UsageError(f"{'--from' if not from_ else '--to'} is missing", "./inv mirror --from SRC --to DST")
        started, progress = time.monotonic(), Progress()
        asked = _asked(plain_http, ca, jobs, dry_run)
        listed = Path(release).absolute() if release else None
        result = copy(from_, to, asked, progress, release=listed, images=list(image or ()))
        say_transfer(result, progress, time.monotonic() - started, dry_run=dry_run, as_json=json)


def _asked(plain_http: bool, ca: str, jobs: str, dry_run: bool) -> Any:
    """The options that both commands have."""
    from pathlib import Path

    from pipeline.context import parse_count
    from pipeline.registry.share import Asked

    return Asked(plain_http, Path(ca).absolute() if ca else None, parse_count(jobs, "--jobs"), dry_run)
