"""Archives that go through a program in the sandbox: whole, or an error that says whose fault it is."""

import gzip
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from engine import HOST, inputs, output, run_actions, shared_store

from pipeline.errors import BuildError, DefinitionError, PipelineError
from pipeline.graph import Action, Work
from pipeline.model import RootedPath
from pipeline.pack.compress import GZIP, compress_tar
from pipeline.pack.tar import Entry

LARGE = 8 << 20


def packed(*entries: Entry, command: tuple[str, ...] = GZIP, what: str) -> bytes | PipelineError:
    """The archive of `entries`, or the error of the action that makes it."""

    def run(work: Work) -> None:
        roots = inputs().roots
        compress_tar(work, roots.path(roots.find("packer", HOST)), entries, "a.tar.gz", command, time=0)

    action = Action(f"pack/{what}", {"of": what, "command": list(command)}, run)
    result = run_actions(shared_store(), [action])
    if result.failures:
        return result.failures[0].error
    return output(str(result.outputs[action.name]["a.tar.gz"].digest))


def entry(name: str, content: bytes | Path = b"x") -> Entry:
    return Entry(RootedPath.parse(name), 0o644, 0, content)


def test_an_archive_arrives_whole(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(range(256)) * (LARGE // 256))
    data = packed(entry("small"), entry("large", tmp_path / "large"), what="whole")
    assert isinstance(data, bytes)
    with tarfile.open(fileobj=BytesIO(gzip.decompress(data))) as tar:
        assert [(m.name, m.size) for m in tar] == [("large", LARGE), ("small", 1)]


@pytest.mark.parametrize("size", [1, LARGE])
def test_a_program_that_fails_is_named_and_not_the_pipe(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    error = packed(entry("file", tmp_path / "file"), command=("sh", "-c", "exit 7"), what=f"fails {size}")
    assert isinstance(error, BuildError) and "ended with status 7" in error.reason


def test_a_collision_is_the_definitions_fault() -> None:
    error = packed(entry("a"), entry("a/b"), what="collision")
    assert isinstance(error, DefinitionError) and "a is a file and a directory" in error.reason


def test_a_file_that_vanishes_is_an_error(tmp_path: Path) -> None:
    error = packed(entry("a", tmp_path / "missing"), what="vanished")
    assert isinstance(error, BuildError) and "missing" in error.reason
