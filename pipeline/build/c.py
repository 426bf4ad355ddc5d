"""Compile the C files of a unit for one architecture in the sandbox: static, stripped, without build id."""

import shlex
from collections.abc import Mapping
from typing import Any

from pipeline.build.go import compiler
from pipeline.graph import Action, Work
from pipeline.inputs import Inputs
from pipeline.sandbox import INPUTS, Mount, Sandbox
from pipeline.strict import parse_size
from pipeline.units import Unit

FLAGS = ("-s", "-Wl,--build-id=none", f"-ffile-prefix-map={INPUTS}/src=.")


def c_action(unit: Unit, arch: str, values: Mapping[str, str], inputs: Inputs) -> Action:
    """The action that compiles `unit` for linux/`arch`; `values` are what templates may name of the release."""
    root, sysroot = inputs.roots.find("builder", arch), inputs.roots.find("sysroot", arch)
    flags = [unit.fill(f, values) for f in unit.build.flags]
    commands = [
        [*shlex.split(compiler(arch, inputs)), *flags, *FLAGS, "-o", f"/out/{name}", f"{INPUTS}/src/{file}"]
        for name, file in sorted(unit.build.binaries.items())
    ]
    environment = {"SOURCE_DATE_EPOCH": str(inputs.source_epoch(unit))}
    parameters: dict[str, Any] = {
        "commands": commands,
        "environment": environment,
        "host": inputs.roots.host,
        "root": str(root.key),
        "sysroot": str(sysroot.key),
        "sources": inputs.identity(unit),
    }

    def run(work: Work) -> None:
        inputs.ensure(unit)
        with inputs.source(unit) as source:
            mounts = (Mount(source, f"{INPUTS}/src"), Mount(inputs.roots.path(sysroot), f"{INPUTS}/sysroot"))
            for command in commands:
                work.execute(
                    Sandbox(
                        root=inputs.roots.path(root),
                        command=tuple(command),
                        build=work.build,
                        out=work.out,
                        environment=environment,
                        mounts=mounts,
                    )
                )

    return Action(
        name=unit.action("build", arch),
        parameters=parameters,
        run=run,
        memory=parse_size(unit.build.memory),
        seconds=2.0,
    )
