"""Write the Go files that a source needs and does not have, with programs of its own locked modules, in the sandbox.

The files do not depend on the target: there is one action per unit, run for the machine that builds.
"""

from pipeline.build.go import cache_mount, go_environment
from pipeline.graph import Action, Work
from pipeline.inputs import Inputs
from pipeline.sandbox import INPUTS, Sandbox
from pipeline.units import Unit

MODULES = f"-mod=readonly -modfile={INPUTS}/overlay/go.mod"
"""In GOFLAGS, since generators start go themselves."""


def generate_action(unit: Unit, inputs: Inputs) -> Action:
    """The action that writes the files of `unit.generate`; its outputs have the names that they write."""
    root = inputs.roots.find(inputs.go_root, inputs.roots.host)
    environment = {
        **go_environment(inputs.roots.host),
        "GOFLAGS": MODULES,
        "GOPATH": "/build/gopath",
        "PATH": f"{INPUTS}/go/bin:/usr/sbin:/usr/bin",
    }
    commands = []
    for entry in unit.generate:
        args = [a.replace("{inputs}", ",".join(entry.inputs)) for a in entry.args]
        commands += [
            [f"{INPUTS}/go/bin/go", "build", "-trimpath", "-o", "/build/generator", entry.tool],
            ["/build/generator", *args],
        ]

    def run(work: Work) -> None:
        inputs.ensure(unit)
        with inputs.source(unit) as source, inputs.modfile(unit, source) as modfile:
            mounts = (*inputs.go_mounts(unit, source, modfile), cache_mount(unit, inputs))
            for command in commands:
                work.execute(
                    Sandbox(
                        root=inputs.roots.path(root),
                        command=tuple(command),
                        build=work.build,
                        out=work.out,
                        directory=f"{INPUTS}/src",
                        environment=environment,
                        mounts=mounts,
                    )
                )

    return Action(
        name=f"generate/{unit.name}",
        parameters={
            "commands": commands,
            "environment": environment,
            "host": inputs.roots.host,
            "root": str(root.key),
            "sources": inputs.identity(unit),
        },
        run=run,
        memory=2 << 30,
        seconds=60.0 * len(unit.generate),
    )
