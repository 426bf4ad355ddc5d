"""Judge every image before it is named: what ships is unpacked as a runtime would, and looked at.

Programs are those that the checks of builds have passed, bit for bit; nothing is setuid, writable for everybody, a
cache, a log or a path of the host; links lead somewhere; every dynamic file finds its libraries in the image; and what
is started there starts, natively or under user-mode emulation.
"""

import json
import os
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from pipeline.base.archives import Decompressed, Gzip
from pipeline.build.check import SMOKE_MEMORY, SMOKE_SECONDS, find_texts
from pipeline.engine import code_digest
from pipeline.errors import BuildError
from pipeline.extract import extract_tar
from pipeline.graph import Action, Ref, Work
from pipeline.image.layer import BLOB, Program
from pipeline.image.libraries import find_elf, missing_libraries, resolve
from pipeline.image.names import Image
from pipeline.inputs import Inputs
from pipeline.model import PLATFORMS, Digest
from pipeline.sandbox import INPUTS, Mount, Sandbox

CODE = ("build/elf.py", "image/inspect.py", "image/libraries.py", "image/layer.py")
LEFTOVERS = ("var/cache", "var/log", "var/lib/apt", "var/lib/dnf", "var/tmp", "tmp", "root", "run")
"""Folders that ship empty."""
MOUNTED = ("dev", "proc", "tmp", "build", "out", "rfo-in")
"""What a sandbox mounts on; an image need not have all of it."""
LIBRARY = re.compile(r"\.so(\.[0-9]+)*$")
"""glibc's libraries name a loader too, since they can be run."""
MAX_TEXT = 8 << 20
"""Bytes up to which files that are no programs are searched for paths of the build."""


@dataclass(frozen=True)
class _Start:
    """A program that must start, and what it must print."""

    path: str
    args: tuple[str, ...]
    prints: str
    exit: int
    environment: Mapping[str, str]


def inspect_action(
    image: Image,
    arch: str,
    layers: Sequence[str],
    programs: Sequence[Program],
    values: Mapping[str, str],
    inputs: Inputs,
) -> Action:
    """The action that judges an image on one architecture; its output is `report.json`."""
    starts = list(_starts(image, arch, programs, values, inputs))
    roles = inputs.roots.base.below(image.recipe.layer) if image.recipe.layer else []
    named = {s.program for r in roles for s in inputs.roots.base.layers[r].starts} | {p.path for p in programs}
    foreign = arch != inputs.roots.host
    emulator = inputs.roots.find("emulator", arch) if foreign else None
    parameters: dict[str, Any] = {
        "code": str(code_digest(*CODE)),
        "programs": [p.path for p in programs],
        "named": sorted(named),
        "starts": [[s.path, *s.args, s.prints, s.exit, dict(s.environment)] for s in starts],
        "host": inputs.roots.host,
        "emulator": str(emulator.key) if emulator else "",
    }

    def run(work: Work) -> None:
        tree = work.folder / "image"
        tree.mkdir()
        problems: list[str] = []
        for number, name in enumerate(layers):
            layer = work.inputs[f"layer/{number:02}"]
            problems += _judge_modes(layer)
            with layer.open("rb") as file:
                extract_tar(Decompressed(file, Gzip(), name), tree, what=name)
        problems += [
            *_judge_programs(tree, programs, work),
            *_judge_files(tree, frozenset(p.path for p in programs), inputs),
        ]
        files = find_elf(tree)
        problems += missing_libraries(tree, files, PLATFORMS[arch])
        problems += [
            f"{path} is a dynamic program that nothing starts: name it in the base's `starts`, or in its `drop`"
            for path, elf in sorted(files.items())
            if elf.interpreter and not LIBRARY.search(path) and path not in named
        ]
        for folder in MOUNTED:
            (tree / folder).mkdir(exist_ok=True)
        said = {}
        for start in starts:
            text, problem = _start(work, tree, start, inputs.roots.path(emulator) if emulator else None, arch)
            said[" ".join((start.path, *start.args))] = text
            problems += [problem] if problem else []
        if problems:
            lines = "\n  ".join(problems)
            raise BuildError(f"image {image.name} for {PLATFORMS[arch]}: {len(problems)} findings:\n  {lines}")
        report = {"dynamic": len([f for f in files.values() if not f.static]), "started": said}
        (work.out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")

    refs = {f"layer/{n:02}": Ref(name, BLOB) for n, name in enumerate(layers)}
    refs |= {f"program/{p.path}": Ref(p.unit.action("build", arch), p.name) for p in programs}
    return Action(
        name=f"inspect/{image.name}/{arch}",
        parameters=parameters,
        run=run,
        inputs=refs,
        after=tuple(sorted({p.unit.action("check", arch) for p in programs})),
        judges=True,
        memory=512 << 20,
        disk=1 << 20,
        seconds=4.0 + len(starts),
    )


def _starts(
    image: Image, arch: str, programs: Sequence[Program], values: Mapping[str, str], inputs: Inputs
) -> Iterator[_Start]:
    """What is started: the base's own programs that the layers name, and the compiled ones with their smoke runs."""
    if not image.recipe.start:
        return
    base = inputs.roots.base
    for role in base.below(image.recipe.layer) if image.recipe.layer else []:
        for start in base.layers[role].starts:
            if start.emulated or arch == inputs.roots.host:
                yield _Start(start.program, start.args, "", 0, {})
    for program in programs:
        unit, smoke = program.unit, program.unit.smoke[program.name]
        args = tuple(unit.fill(a, values) for a in smoke.args)
        yield _Start(program.path, args, unit.fill(smoke.prints, values), smoke.exit, smoke.env)


def _judge_programs(tree: Path, programs: Sequence[Program], work: Work) -> Iterator[str]:
    for program in programs:
        path, built = tree / program.path, Digest.of_file(work.inputs[f"program/{program.path}"])
        if not path.is_file() or path.is_symlink() or Digest.of_file(path) != built:
            yield f"{program.path} is not the {program.name} that was built and checked ({built})"


def _judge_modes(layer: Path) -> Iterator[str]:
    """Modes as they ship; unpacking drops some of them."""
    with layer.open("rb") as file:
        plain = cast(IO[bytes], Decompressed(file, Gzip(), layer.name))
        with tarfile.open(fileobj=plain, mode="r|") as tar:
            for info in tar:
                if info.mode & (stat.S_ISUID | stat.S_ISGID):
                    yield f"{info.name} is set-id (mode {info.mode:o})"
                if info.mode & stat.S_IWOTH and not info.issym() and not (info.isdir() and info.mode & stat.S_ISVTX):
                    yield f"{info.name} is writable for everybody (mode {info.mode:o})"


def _judge_files(tree: Path, ours: frozenset[str], inputs: Inputs) -> Iterator[str]:
    """What every file must keep to; names of packages may differ from each other in case alone, `ours` may not."""
    host = [f"{inputs.store.root}/{n}/" for n in ("gomod", "tmp", "trees", "blobs")]
    names: dict[str, str] = {}
    for parent, folders, files in os.walk(tree):
        for name in sorted([*folders, *files]):
            place = Path(parent, name)
            path, mode = place.relative_to(tree).as_posix(), place.lstat().st_mode
            other = names.setdefault(path.casefold(), path)
            if other != path and not {other, path}.isdisjoint(ours):
                yield f"{other} and {path} differ only in case"
            if stat.S_ISLNK(mode):
                if resolve(tree, path) is None and not path.startswith(("proc/", "dev/")):
                    yield f"the link {path} -> {os.readlink(place)} leads nowhere"
                continue
            if stat.S_ISREG(mode):
                if path.startswith(tuple(f"{f}/" for f in LEFTOVERS)):
                    yield f"{path} is a leftover: {path.rpartition('/')[0]} ships empty"
                if place.stat().st_size <= MAX_TEXT:
                    yield from (f"{path} holds the host's path {text}" for text, _ in find_texts(place, host))


def _start(work: Work, tree: Path, start: _Start, emulator: Path | None, arch: str) -> tuple[str, str]:
    """Run a program with the image as its root; the line that it is known by, and what is wrong with it."""
    scratch = work.folder / f"start-{Digest.of_bytes(repr(start).encode()).hex[:16]}"
    scratch.mkdir()
    command = [f"/{start.path}", *start.args]
    mounts: tuple[Mount, ...] = ()
    if emulator:
        mounts = (Mount(emulator, f"{INPUTS}/emulator"),)
        command = [f"{INPUTS}/emulator/usr/bin/qemu-{PLATFORMS[arch].qemu}", *command]
    sandbox = Sandbox(
        root=tree, command=tuple(command), build=scratch, out=scratch, mounts=mounts, environment=start.environment,
        timeout=SMOKE_SECONDS, memory=SMOKE_MEMORY,
    )  # fmt: skip
    usage, text = work.capture(sandbox)
    line = next((li.strip()[:200] for li in text.splitlines() if li.strip() and start.prints in li), None)
    if usage.stopped or usage.status != start.exit or line is None:
        how = usage.stopped or f"status {usage.status}"
        return "", f"{start.path} {' '.join(start.args)} does not start ({how}): {text[-300:].strip()!r}"
    return line, ""
