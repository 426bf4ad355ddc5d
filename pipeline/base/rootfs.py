"""The official root file system archive of openEuler as a starting layer: locked by digest, unpacked safely.

`openEuler-docker.ARCH.tar.xz` is what `docker save` writes: `manifest.json` names exactly one layer, a tar inside the
tar. The distribution publishes a SHA-256 beside it but signs neither: a base that names one trusts the connection
on which it was locked. Format: https://github.com/moby/docker-image-spec (v1.2, "Combined Image JSON + Filesystem").
"""

import json
import lzma
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

from pipeline.base.archives import Decompressed
from pipeline.base.mirror import Mirror
from pipeline.base.rpmfile import decoder
from pipeline.bases import Base
from pipeline.errors import SourceError
from pipeline.extract import MAX_BYTES, extract_tar
from pipeline.lock import Package
from pipeline.model import CHUNK, Digest, RootedPath

ROLE = "rootfs"
"""In a lock: the archive is not part of a root by itself, images may start from it."""
MAX_ARCHIVE = 1 << 30
MAX_SUMS = 4096
MAX_MANIFEST = 1 << 20
MAX_PARTS = 100
"""Members of the outer archive; docker writes about six."""
DEVICES = ("dev",)
"""Left out: the executor mounts its own /dev, and device nodes are refused."""


def lock(base: Base, arch: str, mirror: Mirror, work: Path) -> Package:
    """Pin the archive that `base.rootfs` names for `arch`, downloaded into `work` and checked against its sum.

    Raises NetworkError; SourceError if the sum file is malformed or names another digest.
    """
    path = RootedPath.parse(base.rootfs[arch]).relative
    name = PurePosixPath(path).name
    text = mirror.read(f"{path}.sha256sum", limit=MAX_SUMS).decode("utf-8", "replace")
    match = re.fullmatch(r"([0-9a-f]{64}) [ *](?:\./)?(\S+)\s*", text)
    if not match or match[2] != name:
        raise SourceError(f"{mirror.place(path)}.sha256sum: expected one line with the SHA-256 of {name}")
    digest = Digest(match[1])
    size = mirror.download(path, work / digest.hex, digest=digest, limit=MAX_ARCHIVE)
    return Package(ROLE, arch, ROLE, base.name, path, size, digest)


def unpack_rootfs(archive: Path, root: Path, what: str, drop: Iterable[str] = (), *, max_bytes: int = MAX_BYTES) -> int:
    """Unpack the one layer of a docker-save archive below `root`; returns the bytes written.

    /dev, set-id bits and owners are dropped. `drop` are the patterns of `pipeline.extract.dropper`. Raises
    SourceError for several layers, whiteouts, and whatever `extract_tar` refuses. The caller has checked its digest.
    """
    try:
        layer = _only_layer(archive, what, max_bytes)
        _refuse_whiteouts(archive, layer, what, max_bytes)
        with _open(archive, what, max_bytes) as tar:
            return extract_tar(_member(tar, layer, what), root, what=what, drop=(*drop, *DEVICES), max_bytes=max_bytes)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, lzma.LZMAError) as error:
        raise SourceError(f"{what}: not a readable docker-save archive ({error})") from error


@contextmanager
def _open(archive: Path, what: str, max_bytes: int) -> Iterator[tarfile.TarFile]:
    with archive.open("rb") as file:
        stream = Decompressed(file, decoder("xz", what), what, 2 * max_bytes)
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as tar:
            yield tar
        while stream.read(CHUNK):  # to its end, which checks that nothing is cut off or follows
            pass


def _only_layer(archive: Path, what: str, max_bytes: int) -> str:
    with _open(archive, what, max_bytes) as tar:
        manifest = json.loads(_member(tar, "manifest.json", what).read(MAX_MANIFEST))
    try:
        (image,) = manifest
        layers = image["Layers"]
        if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
            raise TypeError("Layers is no list of names")
    except (TypeError, ValueError, KeyError) as error:
        raise SourceError(f"{what}: manifest.json does not describe one image ({error})") from error
    if len(layers) != 1:
        raise SourceError(f"{what}: expected exactly one layer, found {len(layers)}")
    return RootedPath.parse(layers[0]).relative


def _refuse_whiteouts(archive: Path, layer: str, what: str, max_bytes: int) -> None:
    """A base layer deletes nothing; a whiteout would become a strange file."""
    with (
        _open(archive, what, max_bytes) as tar,
        tarfile.open(fileobj=_member(tar, layer, what), mode="r|") as inner,
    ):
        for member in inner:
            if PurePosixPath(member.name).name.startswith(".wh."):
                raise SourceError(f"{what}: the layer holds the whiteout {member.name}")


def _member(tar: tarfile.TarFile, name: str, what: str) -> IO[bytes]:
    """The content of one regular file of the outer archive, found by reading on."""
    for number, member in enumerate(tar):
        if number >= MAX_PARTS:
            break
        if member.name.removeprefix("./") == name and member.isreg() and (content := tar.extractfile(member)):
            return content
    raise SourceError(f"{what}: {name} is not in the archive")
