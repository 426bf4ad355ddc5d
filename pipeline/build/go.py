"""Compile one Go unit for one architecture in the sandbox: one `go build` for all of its binaries."""

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import BuildError, DefinitionError
from pipeline.graph import Action, Ref, Work
from pipeline.inputs import Inputs
from pipeline.model import PLATFORMS, Digest
from pipeline.sandbox import INPUTS, Mount, Sandbox
from pipeline.strict import parse_size
from pipeline.units import Unit
from pipeline.versions import Constraint

FLAGS = ("-trimpath", "-mod=readonly", f"-modfile={INPUTS}/overlay/go.mod")
OVERLAY = "-overlay=/build/overlay.json"
"""Generated files in their places, without a copy of the source (https://pkg.go.dev/cmd/go)."""
LINK = ("-s", "-w", "-buildid=")
STATIC_C = ("-linkmode=external", "-extldflags '-static -Wl,--build-id=none'")
CACHE_PER_MODULE = 6 << 20
"""Bytes that a dependency leaves in the compile cache for one architecture, as measured over whole releases."""
FLOOR = 512 << 20
"""Bytes: a compiler process is never asked to live with less."""


def go_action(unit: Unit, arch: str, values: Mapping[str, str], inputs: Inputs) -> Action:
    """The action that compiles `unit` for linux/`arch`; `values` are what templates may name of the release."""
    cgo = unit.build.uses_cgo(arch)
    root = inputs.roots.find("builder" if cgo else inputs.go_root, arch)
    sysroot = inputs.roots.find("sysroot", arch) if cgo else None
    command = _command(unit, cgo, values)
    environment = go_environment(arch) | (_c_environment(arch, inputs) if cgo else {})
    if cgo:
        environment["SOURCE_DATE_EPOCH"] = str(inputs.source_epoch(unit))  # for __DATE__ in C
    parameters: dict[str, Any] = {
        "command": command,
        "environment": environment,
        "host": inputs.roots.host,
        "root": str(root.key),
        "sources": inputs.identity(unit),
    }
    if sysroot:
        parameters["sysroot"] = str(sysroot.key)

    def run(work: Work) -> None:
        inputs.ensure(unit)
        with inputs.source(unit) as source, inputs.modfile(unit, source) as modfile:
            mounts = list(inputs.go_mounts(unit, source, modfile))
            if sysroot:
                mounts.append(Mount(inputs.roots.path(sysroot), f"{INPUTS}/sysroot"))
            mounts.append(cache_mount(unit, inputs, parameters if cgo else None))
            generated = {g.file: f"../generated/{g.writes}" for g in unit.generate}
            mounts += [Mount(path, f"{INPUTS}/generated/{name}") for name, path in work.inputs.items()]
            (work.build / "overlay.json").write_text(json.dumps({"Replace": generated}))
            work.execute(
                Sandbox(
                    root=inputs.roots.path(root),
                    command=tuple(command),
                    build=work.build,
                    out=work.out,
                    directory=f"{INPUTS}/src",
                    environment={**environment, **_tuning(unit.go, work.memory)},
                    mounts=tuple(mounts),
                )
            )
        for name, package in sorted(unit.build.binaries.items()):
            if not (work.out / name).is_file():
                raise BuildError(f"{work.name}: go wrote no program for {package}", "is it a package main?")

    return Action(
        name=unit.action("build", arch),
        parameters=parameters,
        run=run,
        inputs={g.writes: Ref(f"generate/{unit.name}", g.writes) for g in unit.generate},
        memory=parse_size(unit.build.memory),
        disk=CACHE_PER_MODULE * len(inputs.locked.lock.modules_of(unit.name)) + (64 << 20) * len(unit.build.binaries),
        seconds=0.6 * len(inputs.locked.lock.modules_of(unit.name)) + 3.0 * len(unit.build.binaries),
    )


def _command(unit: Unit, cgo: bool, values: Mapping[str, str]) -> list[str]:
    stamps = {k: unit.fill(v, values) for k, v in sorted(unit.build.stamp.items())}
    for symbol, value in stamps.items():
        if any(c in symbol + value for c in "'\" \\"):
            raise DefinitionError(f"component {unit.component}: stamp {symbol}: blanks and quotes cannot be stamped")
    link = [*LINK, *(STATIC_C if cgo else ()), *(f"-X {k}={v}" for k, v in stamps.items())]
    binaries = unit.build.binaries
    if len(binaries) == 1:
        output = f"/out/{next(iter(binaries))}"
    else:
        output = "/out/"
        for name, package in binaries.items():
            if package.rstrip("/").rpartition("/")[2] != name:
                raise DefinitionError(
                    f"component {unit.component}: go would call {package} otherwise than {name}",
                    "give it a build entry of its own",
                )
    tags = [f"-tags={','.join(unit.build.tags)}"] if unit.build.tags else []
    generated = [OVERLAY] if unit.generate else []
    flags = [*FLAGS, *generated, *unit.build.flags, *tags, f"-ldflags={' '.join(link)}"]
    return [f"{INPUTS}/go/bin/go", "build", *flags, "-o", output, *sorted(binaries.values())]


def go_environment(arch: str) -> dict[str, str]:
    """What every run of go in a sandbox has in its environment."""
    return {
        "GOROOT": f"{INPUTS}/go",
        "GOMODCACHE": f"{INPUTS}/gomod",
        "GOCACHE": f"{INPUTS}/gocache",
        "GOPROXY": "off",
        "GOSUMDB": "off",
        "GOENV": "off",
        "GOWORK": "off",
        "GOTOOLCHAIN": "local",
        "GOTELEMETRY": "off",
        "GOFLAGS": "",
        "GOOS": "linux",
        "GOARCH": arch,
        "CGO_ENABLED": "0",
    }


def _c_environment(arch: str, inputs: Inputs) -> dict[str, str]:
    sysroot = f"{INPUTS}/sysroot"
    folders = (f"lib/{PLATFORMS[arch].gnu_triplet}", "lib64")
    return {
        "CGO_ENABLED": "1",
        "CC": compiler(arch, inputs),
        "PKG_CONFIG_LIBDIR": ":".join(f"{sysroot}/usr/{folder}/pkgconfig" for folder in folders),
        "PKG_CONFIG_SYSROOT_DIR": sysroot,
    }


def compiler(arch: str, inputs: Inputs) -> str:
    """The base's C compiler command for a target; raises DefinitionError if it has none."""
    base = inputs.roots.base
    command = {str(k): v for k, v in base.compilers.items()}.get(arch)
    if command is None:
        raise DefinitionError(
            f"base {base.name} names no C compiler for linux/{arch}",
            "build on another base, or add one under compilers",
        )
    return command.replace("{sysroot}", f"{INPUTS}/sysroot")


def cache_mount(unit: Unit, inputs: Inputs, cgo: Mapping[str, Any] | None = None) -> Mount:
    """The compile cache: one per toolchain, and per C root where C is compiled, whose headers Go does not track."""
    identity = inputs.locked.lock.toolchains[unit.go].sum
    if cgo:
        identity += f"{cgo['root']}{cgo['sysroot']}"
    path = inputs.store.root / "gocache" / f"go{unit.go}-{Digest.of_bytes(identity.encode()).hex[:16]}"
    path.mkdir(exist_ok=True)
    return Mount(path, f"{INPUTS}/gocache", writable=True)


@lru_cache
def _rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return rules


def _tuning(go: str, memory: int) -> dict[str, str]:
    """Environment that changes how fast a compiler is, never what it writes."""
    share = max(FLOOR, memory // len(os.sched_getaffinity(0)))
    for rule in _rules():
        if Constraint.parse(rule["versions"], where="go.yaml").matches(go):
            return {k: v.replace("{memory}", str(share)) for k, v in rule["environment"].items()}
    return {}
