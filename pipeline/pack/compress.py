"""Compress in the sandbox with the programs of the base's locked packages: a host's own would write other bytes."""

from pathlib import Path

from pipeline.graph import Work
from pipeline.sandbox import INPUTS, Mount, Sandbox

GZIP = ("gzip", "--no-name", "-6", "--stdout")
"""Layers and charts; -9 takes twice the time for less than one percent."""


def gzip(work: Work, root: Path, plain: Path, name: str, command: tuple[str, ...] = GZIP) -> Path:
    """Compress the file `plain` to the output `name`; `root` has the program. Raises BuildError."""
    inside = f"{INPUTS}/plain"
    work.execute(
        Sandbox(
            root=root,
            command=("sh", "-c", 'exec "$0" "$@" > /out/"$OUTPUT"', *command, inside),
            build=work.build,
            out=work.out,
            environment={"OUTPUT": name},
            mounts=(Mount(plain, inside),),
        )
    )
    return work.out / name
