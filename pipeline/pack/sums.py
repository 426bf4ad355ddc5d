"""`sha256sum-ARCH.txt`: the sums of all that is downloaded for one architecture, as `sha256sum -c` reads them."""

from collections.abc import Sequence

from pipeline.engine import code_digest
from pipeline.graph import Action, Ref, Work


def sums_action(arch: str, files: Sequence[Ref]) -> Action:
    """The action that sums up `files`, which are published under their outputs' names."""
    name = f"sha256sum-{arch}.txt"

    def run(work: Work) -> None:
        lines = [f"{work.digest(file).hex}  {file}\n" for file in sorted(work.inputs)]
        (work.out / name).write_text("".join(lines))

    return Action(
        name=f"sums/{arch}",
        parameters={"code": str(code_digest("pack/sums.py")), "name": name},
        run=run,
        inputs={ref.output: ref for ref in files},
        publish={name: name},
        disk=1 << 20,
        seconds=0.1,
    )
