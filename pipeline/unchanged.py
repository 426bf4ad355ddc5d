"""A run with nothing to do, told by the content of everything that a run reads: no plan is made for it.

What a finished run read is one digest, over the bytes of definitions, locks, sources and code; what it made is a list
of digests. If the first is the same and the second is still there, so is the result.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.attest.places import signature_files
from pipeline.attest.signing import keys_digest
from pipeline.context import Context, store_folder
from pipeline.engine import code_digest
from pipeline.errors import PipelineError
from pipeline.graph import canonical
from pipeline.lock import write_atomically
from pipeline.model import Digest, ReleaseVersion, RootedPath
from pipeline.sources.tree import git_names
from pipeline.store import Output, Store, store_error, touch

if TYPE_CHECKING:
    from pipeline.scheduler import Result

READ = ("charts", "components", "images", "install", "rpm")
"""Folders of a checkout that every release reads, besides its own below releases/."""
SIGNED = ("provenance/builder-", "provenance/links/")
"""What paths of signatures begin with that a run makes; others come and go without it."""


def recall(context: Context, subject: Digest) -> tuple[int, Path] | None:
    """How many actions have their results in the store, and the folder that they are published in; None if not all are.

    `subject` is what `read_all` gave for the run. No definition is parsed: that takes longer the more there are.
    """
    try:
        seen = json.loads(_path(context.store, subject).read_bytes())
        outputs = [Output(Digest.parse(d), int(s)) for d, s in seen["outputs"]]
        records = [context.store.root / "records" / f"{Digest(key).hex}.json" for key in seen["records"]]
        folder = Path(seen["folder"])
        published = {RootedPath.parse(name).under(folder): digest for name, digest in seen["dist"].items()}
        if seen["keys"] != keys_digest():
            return None
        if not all(context.store.has(o.digest, o.size) for o in outputs) or not all(p.exists() for p in records):
            return None
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # gigabytes; hashing releases the interpreter
            found = pool.map(lambda p: "" if p.is_symlink() else str(Digest.of_file(p)), published)
            if list(found) != list(published.values()):
                return None
        for path in records:  # they were used, as if each had been looked at
            touch(path)
        return len(records), folder
    except (OSError, ValueError, KeyError, TypeError, AttributeError, PipelineError):
        return None


def note(context: Context, subject: Digest, result: "Result") -> None:
    """Remember that a run of everything the options ask for has succeeded. Raises StoreError.

    Nothing is noted if what the run read was changed meanwhile, by somebody or by the run itself, which may lock.
    """
    if read_all(context) != subject:
        return
    made = {(str(o.digest), o.size) for outputs in result.outputs.values() for o in outputs.values()}
    manifest, path = context.dist / "release.json", _path(context.store, subject)
    try:
        text = manifest.read_bytes()
        published = {a["name"]: a["digest"] for a in json.loads(text)["artifacts"]}
        signed = [n for n in signature_files(context.dist) if n.startswith(SIGNED)]
        published |= {name: str(Digest.of_file(context.dist / name)) for name in signed}
        facts = {
            "outputs": sorted(made),
            "folder": str(context.dist),
            "dist": {**published, manifest.name: str(Digest.of_bytes(text))},
            "keys": keys_digest(),
            "records": sorted(Digest.of_bytes(canonical(r.parts)).hex for r in result.records.values()),
        }
        write_atomically(path, json.dumps(facts).encode())
    except OSError as error:
        raise store_error(error, path) from error


def _path(store: Store, subject: Digest) -> Path:
    return store.root / "runs" / f"{subject.hex}.json"


def read_all(context: Context) -> Digest | None:
    """Over everything that decides what a run makes and where; None where that is not asked or cannot be known.

    A store is not made for it: whoever mistyped an option is told so before anything is written. What cannot be read
    (an editor's dangling link) says nothing of the release, which judges by itself. Raises DefinitionError for what is
    no version, as it names a folder.
    """
    options = context.options
    ReleaseVersion.parse(options.version)
    if options.dry_run or options.sources or options.mirrors:
        return None
    if "store" not in vars(context) and not store_folder().is_dir():
        return None
    asked: Mapping[str, Any] = {
        "version": options.version,
        "base": options.base,
        "arches": list(options.arches),
        "output": str(context.output),
        "machine": os.uname().machine,
    }
    total = hashlib.sha256(canonical(asked) + str(code_digest(".")).encode())
    try:
        for path in _files(context):
            total.update(f"{Digest.of_file(path)} {os.stat(path).st_mode & 0o100} {path}\n".encode())
    except (OSError, UnicodeEncodeError):
        return None
    if (context.checkout / ".git").exists():  # which files count as sources, besides what is in them
        total.update(canonical(git_names(context.checkout, *READ)))
    return Digest(total.hexdigest())


def _files(context: Context) -> Iterator[Path]:
    folders = [context.checkout / name for name in (*READ, f"releases/{context.options.version}")]
    for folder in folders:
        for parent, names, files in os.walk(folder):
            names.sort()
            yield from (Path(parent, name) for name in sorted(files))
    bases = context.checkout / "images" / "openeuler" / "bases"  # other checkouts have others, in the same store
    for lock in sorted((context.store.root / "locks-of-bases").glob("*.lock")):
        if (bases / f"{lock.stem}.yaml").exists():
            yield lock
