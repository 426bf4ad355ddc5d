"""What `inv push` and `inv mirror` do: find the two places and the names, and copy."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError, UsageError
from pipeline.model import Digest
from pipeline.publish.published import read_published
from pipeline.registry.layout import Layout
from pipeline.registry.meter import Meter
from pipeline.registry.place import Name, Remote, parse_place, parse_remote
from pipeline.registry.remote import Registry
from pipeline.registry.signed import SignedLayout
from pipeline.registry.transfer import Result, transfer
from pipeline.report.progress import Progress

DEFAULT_JOBS = 4
"""Connections at once: more is not faster from one host, and registries limit the rate."""


@dataclass(frozen=True)
class Asked:
    """How to reach registries, and whether to change anything."""

    plain_http: bool = False
    ca: Path | None = None
    jobs: int = 0
    """0: as many as are good."""
    dry_run: bool = False


def push(folder: Path, registry: str, asked: Asked, progress: Progress) -> Result:
    """Copy every image and chart of a release's folder to a registry, `HOST[/PREFIX]`.

    Raises UsageError, SourceError (the folder is damaged, or the registry holds other bytes), NetworkError.
    """
    remote = parse_remote(registry)
    layout = _open_folder(folder)
    names = _named(layout)
    if isinstance(layout, SignedLayout) and not layout.signatures:
        progress.say(f"  nothing in {folder} is signed: what is pushed cannot be verified by anybody")
    with Registry(remote, plain_http=asked.plain_http, ca=asked.ca) as target:
        return _transfer(layout, target, dict(names), asked, progress)


def mirror(
    origin: str, goal: str, asked: Asked, progress: Progress, *, release: Path | None = None, images: list[str]
) -> Result:
    """Copy images between registries and folders: those of a release, those named, or all of a folder.

    The images of a `release` must have its digests. Raises UsageError, SourceError, NetworkError, StoreError.
    """
    start, end = parse_place(origin), parse_place(goal)
    if start == end:
        raise UsageError(f"--from and --to are both {origin}")
    names: dict[Name, Digest | None] = dict.fromkeys(map(_parse_image, images))
    if release is not None:
        names |= _named(_open_folder(release))
    if not names and isinstance(start, Remote):
        raise UsageError(
            f"which images of {origin}? A registry is not asked for what it has",
            "name them: --release dist/VERSION, or --image NAME:TAG",
        )
    with ExitStack() as stack:
        stack.enter_context(source := _open(start, asked))
        if isinstance(source, Layout) and not names:
            names |= _named(source)
        stack.enter_context(target := _open(end, asked, make=True))
        if isinstance(target, Layout) and not asked.dry_run:
            target.hold()
        result = _transfer(source, target, names, asked, progress)
        if isinstance(target, Layout) and not asked.dry_run:
            target.finish()
        return result


def _open(place: Remote | Path, asked: Asked, *, make: bool = False) -> Registry | Layout:
    if isinstance(place, Path):
        return Layout(place, make=True) if make else _open_folder(place)
    return Registry(place, plain_http=asked.plain_http, ca=asked.ca)


def _open_folder(folder: Path) -> Layout:
    """The images in a folder; those of a release have to be what its release.json names, and bring its signatures."""
    if (folder / "release.json").exists():
        published = read_published(folder)
        published.file("images/index.json")
        return SignedLayout(published)
    return Layout(folder)


def _parse_image(text: str) -> Name:
    try:
        return Name.parse(text)
    except PipelineError as error:
        raise UsageError(f"--image {text[:300]!r}: {error.reason}", "write it as NAME:TAG, as in index.json") from error


def _named(layout: Layout) -> dict[Name, Digest]:
    if not layout.names:
        raise UsageError(f"{layout} names no image", "an entry of index.json needs io.containerd.image.name")
    return layout.names


def _transfer(
    source: Registry | Layout,
    target: Registry | Layout,
    names: dict[Name, Digest | None],
    asked: Asked,
    progress: Progress,
) -> Result:
    jobs = asked.jobs or DEFAULT_JOBS
    return transfer(source, target, names, jobs=jobs, meter=Meter(progress), dry_run=asked.dry_run)
