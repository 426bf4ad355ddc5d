"""The regular files of a layer or tarball with their digests, read from the very bytes that are published."""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from pipeline.base.archives import Decompressed, Gzip, open_zstd
from pipeline.errors import SourceError
from pipeline.extract import MAX_MEMBERS, READ, Readable
from pipeline.model import CHUNK, RootedPath
from pipeline.sbom.facts import File

MAGICS = {b"\x1f\x8b": Gzip, b"\x28\xb5\x2f\xfd": open_zstd}


def read_files(archives: Iterable[Path], what: str) -> tuple[File, ...]:
    """The files of layers, lowest first; a later one replaces what an earlier one has. Raises SourceError."""
    files: dict[str, File] = {}
    for path in archives:
        try:
            for file in _members(path, what):
                files[file.path] = file
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise SourceError(f"{what}: {path.name} is not a readable tar archive ({error})") from error
    return tuple(sorted(files.values()))


def _members(path: Path, what: str) -> Iterator[File]:
    hashed: dict[str, File] = {}
    with _plain(path, what) as stream, tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", bufsize=READ) as tar:
        for count, member in enumerate(tar):
            if count >= MAX_MEMBERS:
                raise SourceError(f"{what}: more than {MAX_MEMBERS} members")
            name = RootedPath.parse(member.name).relative
            name.encode()  # JSON has no place for a name that is not UTF-8
            if member.islnk() and (target := hashed.get(RootedPath.parse(member.linkname).relative)):
                hashed[name] = File(name, target.sha1, target.sha256, target.size)
            elif member.isreg() and (content := tar.extractfile(member)):
                sha1, sha256 = hashlib.sha1(usedforsecurity=False), hashlib.sha256()
                while piece := content.read(CHUNK):
                    sha1.update(piece)
                    sha256.update(piece)
                hashed[name] = File(name, sha1.hexdigest(), sha256.hexdigest(), member.size)
        while stream.read(READ):  # padding; only at its end a compressed stream tells that it is whole
            pass
    yield from hashed.values()


@contextmanager
def _plain(path: Path, what: str) -> Iterator[Readable]:
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        decoder = next((make for start, make in MAGICS.items() if magic.startswith(start)), None)
        yield Decompressed(file, decoder(), what) if decoder else file
