"""The terms of what a bundle holds, one text for each module, package and snapshot, from the sources themselves."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.base import family
from pipeline.bases import Base
from pipeline.pack.notices import licence_files, read_terms

WHERE = ("*", "!usr/share/doc", "!usr/share/licenses")
"""Patterns of `pipeline.extract.dropper` that leave what has a package's terms: of Debian, and of RPM distributions."""
NONE = "(It has no file with its terms.)"


def source_licence(title: str, folder: Path) -> bytes:
    """The terms at the top of a module or source, unpacked at `folder`; raises SourceError if one is too large."""
    return _render(title, ((f.name, read_terms(f, title)) for f in licence_files(folder)))


def package_licence(title: str, package: Path, base: Base, work: Path) -> bytes:
    """The terms that a package ships, or which package of the same source has them; `work` is a missing directory.

    Raises SourceError for a malformed package.
    """
    work.mkdir()
    family(base.family).unpack(package, work, title, WHERE)
    return _render(title, _package_texts(title, work / "usr" / "share"))


def _package_texts(title: str, share: Path) -> Iterable[tuple[str, str]]:
    for path in sorted([*share.glob("doc/*"), *share.glob("doc/*/copyright"), *share.glob("licenses/**/*")]):
        name = path.relative_to(share).as_posix()
        if path.is_symlink():
            yield name, f"a link to {path.readlink()}"
        elif path.is_file() and (path.name == "copyright" or name.startswith("licenses/")):
            yield name, read_terms(path, title)


def _render(title: str, texts: Iterable[tuple[str, str]]) -> bytes:
    parts = [f"{name}\n\n{text}\n" for name, text in texts] or [f"{NONE}\n"]
    return f"\n{'-' * 78}\n".join([f"{title}\n", *parts]).encode()
