"""Judge every compiled binary before anything is made of it; one finding fails the action.

Format, class and machine, static, stripped, no build id, no path of the host or the sandbox, Go version and every
dependency as locked, and the program itself, run natively or under user-mode emulation, says its version.
"""

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.build.elf import read_elf
from pipeline.engine import code_digest
from pipeline.errors import BuildError, SourceError
from pipeline.graph import Action, Ref, Work
from pipeline.inputs import Inputs
from pipeline.model import CHUNK, PLATFORMS
from pipeline.sandbox import INPUTS, Mount, Sandbox
from pipeline.units import Unit

BUILD_IDS = (".note.gnu.build-id", ".note.go.buildid")
SANDBOX_PATHS = (f"{INPUTS}/", "/build/go-build", "/build/cc")
SMOKE_SECONDS = 300
SMOKE_MEMORY = 4 << 30
"""Bytes that a program may take to say its version, emulator included."""


def check_action(unit: Unit, arch: str, values: Mapping[str, str], inputs: Inputs) -> Action:
    """The action that checks what `build/UNIT/ARCH` made; its output is `report.json`."""
    root = inputs.roots.find("builder", arch)
    emulator = None if arch == inputs.roots.host else inputs.roots.find("emulator", arch)
    smoke = {
        name: {
            "args": [unit.fill(a, values) for a in s.args],
            "prints": unit.fill(s.prints, values),
            "exit": s.exit,
            "env": s.env,
        }
        for name, s in sorted(unit.smoke.items())
    }
    sources = inputs.identity(unit)
    parameters: dict[str, Any] = {
        "code": str(code_digest("build/check.py", "build/elf.py")),
        "machine": PLATFORMS[arch].elf_machine,
        "smoke": smoke,
        "go": unit.go if unit.build.compiler == "go" else "",
        "sources": sources,
        "host": inputs.roots.host,
        "root": str(root.key),
        "emulator": str(emulator.key) if emulator else "",
    }

    def run(work: Work) -> None:
        mounts = tuple(Mount(path, f"{INPUTS}/bin/{name}") for name, path in work.inputs.items())
        if emulator:
            mounts += (Mount(inputs.roots.path(emulator), f"{INPUTS}/emulator"),)
        problems: list[str] = []
        report: dict[str, Any] = {}
        for name, path in sorted(work.inputs.items()):
            report[name] = _static_facts(name, path, arch, inputs, problems)
        if unit.build.compiler == "go":
            _build_info(work, unit, inputs, mounts, report, problems)
        for name, wanted in smoke.items():
            report[name]["prints"] = _smoke(
                work, name, wanted, inputs.roots.path(root), mounts, arch if emulator else "", problems
            )
        if problems:
            raise BuildError(f"{unit.action('check', arch)}: {len(problems)} findings:\n  " + "\n  ".join(problems))
        (work.out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")

    return Action(
        name=unit.action("check", arch),
        parameters=parameters,
        run=run,
        inputs={b: Ref(unit.action("build", arch), b) for b in unit.build.binaries},
        judges=True,
        memory=512 << 20,
        seconds=2.0 * len(smoke),
    )


def _static_facts(name: str, path: Path, arch: str, inputs: Inputs, problems: list[str]) -> dict[str, Any]:
    """What the file itself shows."""
    if not path.stat().st_size:  # which cannot be mapped
        raise SourceError(f"{name} is not an ELF file: it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        elf = read_elf(data, name)
    # More than the bare folders: a checkout at /src or a store at /var must not condemn every program.
    host = [f"{inputs.store.root}/{n}/" for n in ("gomod", "tmp", "trees")] + [f"{inputs.checkout}/components/"]
    for text, at in find_texts(path, [*SANDBOX_PATHS, *host]):
        problems.append(f"{name}: holds the build path {text!r} at offset {at}")
    if elf.elf_class != "ELF64" or not elf.little_endian or elf.machine != PLATFORMS[arch].elf_machine:
        wanted = f"a little-endian ELF64 file for machine {PLATFORMS[arch].elf_machine} (linux/{arch})"
        problems.append(f"{name}: expected {wanted}; found {elf.elf_class}, machine {elf.machine}")
    if not elf.static:
        problems.append(f"{name}: expected a static program; it asks for a dynamic loader or library")
    if elf.symbols:
        problems.append(f"{name}: expected a stripped program; it has a symbol table")
    problems += [f"{name}: has a build id ({s})" for s in elf.sections if s in BUILD_IDS]
    return {"size": path.stat().st_size, "machine": elf.machine}


def find_texts(path: Path, texts: list[str]) -> list[tuple[str, int]]:
    """(text, offset) of the first occurrence of each of `texts` in a file, read in pieces: programs are large."""
    wanted = {t: t.encode() for t in texts}
    overlap = max(map(len, wanted.values())) - 1
    found: dict[str, int] = {}
    with path.open("rb", buffering=0) as file:
        position, tail = 0, b""
        while piece := file.read(CHUNK):
            window = tail + piece
            for text, needle in wanted.items():
                if text not in found and (at := window.find(needle)) >= 0:
                    found[text] = position - len(tail) + at
            position += len(piece)
            tail = window[-overlap:]
    return sorted(found.items())


def _build_info(
    work: Work, unit: Unit, inputs: Inputs, mounts: tuple[Mount, ...], report: dict[str, Any], problems: list[str]
) -> None:
    """Compare Go's build information in each binary with the lock."""
    inputs.go.ensure([inputs.locked.lock.toolchains[unit.go].module])
    root = inputs.roots.path(inputs.roots.find("builder", inputs.roots.host))
    sandbox = Sandbox(
        root=root,
        command=(f"{INPUTS}/go/bin/go", "version", "-m", *(f"{INPUTS}/bin/{n}" for n in sorted(work.inputs))),
        build=work.build,
        out=work.build,
        environment={"GOROOT": f"{INPUTS}/go", "GOENV": "off", "GOTOOLCHAIN": "local", "GOTELEMETRY": "off"},
        mounts=(*mounts, Mount(inputs.toolchain(unit), f"{INPUTS}/go")),
    )
    usage, text = work.capture(sandbox)
    if usage.status:
        problems.append(f"go version -m failed: {text[-300:]}")
        return
    locked = {(m.path, m.version): m.sum for m in inputs.locked.lock.modules_of(unit.name)}
    for name, (version, modules) in parse_build_info(text).items():
        if version != f"go{unit.go}":
            problems.append(f"{name}: built with {version}; the release says go{unit.go}")
        for path, module_version, total in modules:
            if path.startswith(("./", "../")) and unit.source.go is None:
                continue  # a folder of the source itself
            expected = locked.get((path, module_version))
            if expected != total:
                problems.append(
                    f"{name}: holds {path} {module_version} {total}; the lock says {expected or 'nothing of it'}"
                )
        report[name] |= {"go": version, "modules": len(modules)}
    if missing := sorted(n for n in work.inputs if "go" not in report[n]):
        problems.append(f"no build information in {', '.join(missing)}")


def parse_build_info(text: str) -> dict[str, tuple[str, list[tuple[str, str, str]]]]:
    """Output of `go version -m`: file name to Go version and the (path, version, h1) of each dependency.

    A replaced dependency counts as what replaced it.
    """
    found: dict[str, tuple[str, list[tuple[str, str, str]]]] = {}
    modules: list[tuple[str, str, str]] = []
    for line in text.splitlines():
        if not line.startswith("\t"):
            file, _, version = line.rpartition(": ")
            modules = []
            if version.startswith("go"):
                found[file.rpartition("/")[2]] = (version, modules)
            continue
        fields = line.strip().split("\t")
        if fields[0] == "dep" and len(fields) >= 3:
            modules.append((fields[1], fields[2], fields[3] if len(fields) > 3 else ""))
        elif fields[0] == "=>" and modules and len(fields) >= 3:
            modules[-1] = (fields[1], fields[2], fields[3] if len(fields) > 3 else "")
    return found


def _smoke(
    work: Work,
    name: str,
    wanted: dict[str, Any],
    root: Path,
    mounts: tuple[Mount, ...],
    emulated: str,
    problems: list[str],
) -> str:
    """Run a program and look for its version; returns the line that has it."""
    scratch = work.folder / f"smoke-{name}"  # what it writes is no output, and nothing the next one sees
    scratch.mkdir()
    command = [f"{INPUTS}/bin/{name}", *wanted["args"]]
    if emulated:
        command = [f"{INPUTS}/emulator/usr/bin/qemu-{PLATFORMS[emulated].qemu}", *command]
    sandbox = Sandbox(
        root=root, command=tuple(command), build=scratch, out=scratch, mounts=mounts,
        environment=wanted["env"], timeout=SMOKE_SECONDS, memory=SMOKE_MEMORY,
    )  # fmt: skip
    usage, text = work.capture(sandbox)
    said = f"{name} {' '.join(wanted['args'])}"
    if usage.stopped:
        problems.append(f"{name}: {usage.stopped}")
    elif usage.status != wanted["exit"]:
        problems.append(f"{said}: expected status {wanted['exit']}, found {usage.status}: {text[-300:].strip()}")
    for line in text.splitlines():
        if wanted["prints"] in line:
            return line.strip()[:200]
    problems.append(f"{said}: expected it to print {wanted['prints']!r}; found {text[:300].strip()!r}")
    return ""
