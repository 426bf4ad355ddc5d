"""`rfo.linux-ARCH.tar.gz` in RKE2's layout under the rfo name.

The compressor is gzip from the base's locked packages, run in the sandbox: what a host's own zlib would write
differs from host to host.
"""

from pathlib import Path

from pipeline.engine import code_digest
from pipeline.errors import DefinitionError
from pipeline.graph import Action, Ref, Work
from pipeline.inputs import Inputs
from pipeline.model import Digest, RootedPath
from pipeline.pack.tar import Entry, write_tar
from pipeline.sandbox import INPUTS, Mount, Sandbox
from pipeline.sources.tree import tracked_files
from pipeline.units import Unit

TREES = ("bin", "lib", "share")
"""Folders of install/ that go into the tarball as they are."""


def tarball_action(unit: Unit, arch: str, inputs: Inputs) -> Action:
    """The action that packs the node tarball around `unit`, the rfo program."""
    root = inputs.roots.find("builder", arch)
    name = f"rfo.linux-{arch}.tar.gz"
    static = installed_files(inputs.checkout / "install")
    command = ("gzip", "--no-name", "-9", "--stdout", f"{INPUTS}/{name[:-3]}")
    parameters = {
        "code": str(code_digest("pack/tar.py", "pack/tarball.py")),
        "command": list(command),
        "files": {p: [f"{mode:o}", str(Digest.of_bytes(data))] for p, (mode, data) in static.items()},
        "time": inputs.epoch,
        "program_time": inputs.source_epoch(unit),
        "root": str(root.key),
        "name": name,
    }

    def run(work: Work) -> None:
        entries = [Entry(RootedPath.parse(p), mode, inputs.epoch, data) for p, (mode, data) in static.items()]
        entries.append(Entry(RootedPath.parse("bin/rfo"), 0o755, inputs.source_epoch(unit), work.inputs["rfo"]))
        entries.append(
            Entry(RootedPath.parse("share/rfo/THIRD-PARTY-NOTICES.txt"), 0o644, inputs.epoch, work.inputs["notices"])
        )
        plain = work.folder / name[:-3]
        write_tar(plain, entries, time=inputs.epoch)
        work.execute(
            Sandbox(
                root=inputs.roots.path(root),
                command=("sh", "-c", 'exec "$0" "$@" > /out/$OUTPUT', *command),
                build=work.build,
                out=work.out,
                environment={"OUTPUT": name},
                mounts=(Mount(plain, f"{INPUTS}/{name[:-3]}"),),
            )
        )

    return Action(
        name=f"tarball/{arch}",
        parameters=parameters,
        run=run,
        inputs={"rfo": Ref(unit.action("build", arch), "rfo"), "notices": Ref(f"notices/{unit.name}", "notices.txt")},
        after=(unit.action("check", arch),),
        publish={name: name},
        seconds=2.0,
    )


def installed_files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Path in the tarball to (mode, content) of what install/ holds; scripts are the files below bin/."""
    found = {}
    for tree in TREES:
        if (folder / tree).is_dir():
            for name in tracked_files(folder.parent, f"{folder.name}/{tree}"):  # no editor's backup gets in
                mode = 0o755 if tree == "bin" else 0o644
                found[f"{tree}/{name}"] = (mode, (folder / tree / name).read_bytes())
    if not found:
        raise DefinitionError(f"{folder} is empty: the tarball would lack its units and scripts")
    return found
