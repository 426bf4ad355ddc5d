"""Compress in the sandbox with the programs of the base's locked packages: a host's own would write other bytes."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, cast

from pipeline.graph import Work
from pipeline.pack.tar import Member, write_tar
from pipeline.sandbox import INPUTS, Mount, Sandbox

GZIP = ("pigz", "--no-name", "--no-time", "-5", "--processes", "2", "--stdout")
"""Layers and charts, as gzip files: pigz takes half of gzip's time, and its bytes depend on the level, not on how many
threads it has, if there are two or more of them. -6 takes half as long again for 1.7 percent."""
ZSTD = ("zstd", "-T0", "-1", "--quiet", "--stdout")
"""Bundles of layers, which are compressed already. The bytes do not depend on how many threads zstd has."""
PIPE = 1 << 20
"""Bytes that a pipe holds: as many as any user may ask for (pipe(7), pipe-max-size), since each filling is a switch."""


def compress_tar(
    work: Work,
    root: Path,
    entries: Iterable[Member],
    name: str,
    command: tuple[str, ...],
    *,
    time: int,
    fold: bool = True,
    tell: Callable[[bytes], object] | None = None,
) -> None:
    """Write `entries` as a tar archive through `command`, a program of `root`, to the output `name`.

    The plain archive is never on disk: it goes to the program through a pipe, and to `tell`, if given, which costs the
    time of a copy. Raises BuildError, and what `write_tar` raises.
    """
    pipe = work.folder / "plain.tar"
    os.mkfifo(pipe)

    def write(file: IO[bytes]) -> None:
        with contextlib.suppress(OSError):  # a user may have used up what all pipes together may hold
            fcntl.fcntl(file, fcntl.F_SETPIPE_SZ, PIPE)
        write_tar(cast(IO[bytes], _Tee(file, tell)) if tell else file, entries, time=time, fold=fold)

    writer = _Writer(pipe, write)
    writer.start()
    inside = f"{INPUTS}/plain.tar"
    try:
        work.execute(
            Sandbox(
                root=root,
                command=("sh", "-c", 'exec "$0" "$@" < "$INPUT" > "$OUTPUT"', *command),
                build=work.build,
                out=work.out,
                environment={"INPUT": inside, "OUTPUT": f"/out/{name}"},
                mounts=(Mount(pipe, inside),),
            )
        )
    except BaseException:  # what the program says matters more than that nobody read on
        with contextlib.suppress(BrokenPipeError):
            writer.finish()
        raise
    writer.finish()
    pipe.unlink()


class _Tee:
    """What `tarfile` writes to, told to another as well."""

    def __init__(self, file: IO[bytes], tell: Callable[[bytes], object]) -> None:
        self._file, self._tell = file, tell

    def write(self, data: bytes) -> int:
        self._tell(data)
        return self._file.write(data)


class _Writer(threading.Thread):
    """Writes into a pipe while a program reads from it."""

    def __init__(self, pipe: Path, write: Callable[[IO[bytes]], None]) -> None:
        super().__init__(name="writer", daemon=True)
        self._pipe, self._write = pipe, write
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            with self._pipe.open("wb") as file:
                self._write(file)
        except BaseException as error:
            self._error = error

    def finish(self) -> None:
        """Wait for the end; raises what went wrong in writing. A program that ended early does not hold it up."""
        reader = os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK)  # lets it open the pipe if nobody ever did
        try:
            while self.is_alive():
                self.join(0.05)
                with contextlib.suppress(BlockingIOError):
                    while os.read(reader, 1 << 20):
                        pass
        finally:
            os.close(reader)
        if self._error is not None:
            raise self._error
