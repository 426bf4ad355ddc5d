"""Compile one Go unit for one architecture in the sandbox: one `go build` for all of its binaries."""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.definitions import parse_size
from pipeline.errors import DefinitionError
from pipeline.graph import Action, Work
from pipeline.inputs import Inputs
from pipeline.model import PLATFORMS, Digest
from pipeline.sandbox import INPUTS, Mount, Sandbox
from pipeline.units import Unit
from pipeline.versions import Constraint

FLAGS = ("-trimpath", "-mod=readonly", f"-modfile={INPUTS}/overlay/go.mod")
LINK = ("-s", "-w", "-buildid=")
STATIC_C = ("-linkmode=external", "-extldflags '-static -Wl,--build-id=none'")
CACHE_PER_MODULE = 6 << 20
"""Bytes that a dependency leaves in the compile cache for one architecture, as measured over whole releases."""
FLOOR = 512 << 20
"""Bytes: a compiler process is never asked to live with less."""


def go_action(unit: Unit, arch: str, values: Mapping[str, str], inputs: Inputs) -> Action:
    """The action that compiles `unit` for linux/`arch`; `values` are what templates may name of the release."""
    cgo = unit.build.uses_cgo(arch)
    root = inputs.roots.find("builder", arch)
    sysroot = inputs.roots.find("sysroot", arch) if cgo else None
    command = _command(unit, cgo, values)
    environment = _environment(arch, cgo, inputs)
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
            mounts = [*inputs.go_mounts(unit, source, modfile)]
            if sysroot:
                mounts.append(Mount(inputs.roots.path(sysroot), f"{INPUTS}/sysroot"))
            mounts.append(Mount(_cache(unit, inputs, parameters if cgo else None), f"{INPUTS}/gocache", writable=True))
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

    return Action(
        name=unit.action("build", arch),
        parameters=parameters,
        run=run,
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
                raise DefinitionError(f"component {unit.component}: go would call {package} otherwise than {name}", "give it a build entry of its own")
    tags = [f"-tags={','.join(unit.build.tags)}"] if unit.build.tags else []
    return [
        f"{INPUTS}/go/bin/go", "build", *FLAGS, *unit.build.flags, *tags, f"-ldflags={' '.join(link)}", "-o", output,
        *sorted(binaries.values()),
    ]  # fmt: skip


def _environment(arch: str, cgo: bool, inputs: Inputs) -> dict[str, str]:
    environment = {
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
        "CGO_ENABLED": "1" if cgo else "0",
    }
    if cgo:
        sysroot = f"{INPUTS}/sysroot"
        environment["CC"] = compiler(arch, inputs)
        environment["PKG_CONFIG_LIBDIR"] = f"{sysroot}/usr/lib/{PLATFORMS[arch].gnu_triplet}/pkgconfig:{sysroot}/usr/lib64/pkgconfig"
        environment["PKG_CONFIG_SYSROOT_DIR"] = sysroot
    return environment


def compiler(arch: str, inputs: Inputs) -> str:
    """The base's C compiler command for a target; raises DefinitionError if it has none."""
    base = inputs.roots.base
    command = {str(k): v for k, v in base.compilers.items()}.get(arch)
    if command is None:
        raise DefinitionError(f"base {base.name} names no C compiler for linux/{arch}", "build on another base, or add one under compilers")
    return command.replace("{sysroot}", f"{INPUTS}/sysroot")


def _cache(unit: Unit, inputs: Inputs, cgo: dict[str, Any] | None) -> Path:
    """The compile cache: one per toolchain, and per C root where C is compiled, whose headers Go does not track."""
    identity = inputs.locked.lock.toolchains[unit.go].sum
    if cgo:
        identity += f"{cgo['root']}{cgo['sysroot']}"
    path = inputs.store.root / "gocache" / f"go{unit.go}-{Digest.of_bytes(identity.encode()).hex[:16]}"
    path.mkdir(exist_ok=True)
    return path


@lru_cache
def _rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    return rules


def _tuning(go: str, memory: int) -> dict[str, str]:
    """Environment that changes how fast a compiler is, never what it writes."""
    share = max(FLOOR, memory // len(os.sched_getaffinity(0)))
    for rule in _rules():
        if Constraint.parse(rule["versions"], where="go.yaml").matches(go):
            return {k: v.replace("{memory}", str(share)) for k, v in rule["environment"].items()}
    return {}
