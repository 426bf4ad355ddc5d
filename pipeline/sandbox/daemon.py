"""Talk to a Docker Engine: reach it, give it trees as images, and move folders in and out of its containers.

Its API: https://docs.docker.com/reference/api/engine/version/v1.41/. Which daemon, is said as to Docker's own client:
DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH.
"""

import contextlib
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import BuildError, HostError, SourceError
from pipeline.extract import extract_tar
from pipeline.model import CHUNK
from pipeline.store import remove_tree

OLDEST = "1.41"
"""API of Docker Engine 20.10 (2020), the first that gives a container a control group namespace of its own."""
ANSWER = 600.0
"""Seconds that the daemon gets to answer: it does so for a large image only when it has all of it."""
LARGEST = 64 << 30
"""Bytes that a command may leave in /build or /out."""
BLOCK = tarfile.BLOCKSIZE


@contextlib.contextmanager
def daemon() -> Iterator[Any]:
    """A connection to the daemon (`docker.APIClient`), for one thread; what fails on it becomes a HostError."""
    import docker
    from docker.errors import APIError, DockerException
    from docker.utils import kwargs_from_env
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    client = None
    try:
        client = docker.APIClient(version="auto", timeout=ANSWER, **kwargs_from_env())
        refuse_old(client.api_version)
        yield client
    except APIError as error:
        raise HostError(
            f"the Docker daemon refused: {explanation(error)}", "see its log: `journalctl -u docker`"
        ) from error
    except (DockerException, RequestException, HTTPError) as error:
        raise unreachable(str(error)) from error
    finally:
        if client:
            client.close()


def explanation(error: Any) -> str:
    """What the daemon says of an `APIError`, on one line of bounded length."""
    return " ".join(str(error.explanation or error).split())[:500]


def refuse_old(version: str) -> None:
    """Raise HostError if a daemon's newest API is older than what is asked of it here."""
    if tuple(map(int, version.split("."))) < tuple(map(int, OLDEST.split("."))):
        raise HostError(
            f"the Docker daemon's API is {version}; expected {OLDEST} or later",
            "install Docker Engine 20.10 or later, or use the default: --executor bwrap",
        )


def unreachable(reason: str) -> HostError:
    """The error for a daemon that cannot be asked, with the remedy for the reason."""
    where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if "Permission denied" in reason:
        return HostError(
            f"you may not use the Docker daemon at {where}",
            "join its group, `sudo usermod -aG docker $USER`, and log in again; or run a daemon of your own: "
            "`dockerd-rootless-setuptool.sh install`",
        )
    return HostError(
        f"no Docker daemon answers at {where}: {reason[:300]}",
        "start it, `sudo systemctl start docker`; or say where it is: `export "
        "DOCKER_HOST=$(docker context inspect -f '{{.Endpoints.docker.Host}}')`; or use the default: --executor bwrap",
    )


def import_image(client: Any, tree: Iterable[bytes], repository: str, tag: str, labels: Mapping[str, str]) -> None:
    """Make an image of a tar stream, as `docker import` does. Raises HostError."""
    changes = [f"LABEL {name}={json.dumps(value).replace('$', chr(92) + '$')}" for name, value in labels.items()]
    said = client.import_image_from_data(tree, repository=repository, tag=tag, changes=changes)
    for line in said.splitlines():  # JSON messages; a failure is one of them, after a good status
        with contextlib.suppress(ValueError, AttributeError):
            if problem := json.loads(line).get("error"):
                raise HostError(f"the Docker daemon took no image: {problem}", "look at its disk: `docker system df`")


def send(client: Any, container: str, folder: Path, target: str, owner: tuple[int, int]) -> None:
    """Copy what is in a folder of this host to one in a container, owned by `owner` there."""
    if any(folder.iterdir()):
        client.put_archive(container, target, tar_stream(folder, owner))


def receive(client: Any, container: str, source: str, folder: Path) -> None:
    """Replace what is in a folder of this host by that of one in a container.

    Raises BuildError for what is there and can stand in no folder of the host, such as a link that leads out of it.
    """
    pieces, _ = client.get_archive(container, f"{source}/.", chunk_size=CHUNK)
    for path in folder.iterdir():
        remove_tree(path)
    try:
        extract_tar(_Joined(pieces), folder, what=source, max_bytes=LARGEST)
    except SourceError as error:  # an archive of the daemon's, with content of the command's
        raise BuildError(error.reason) from error


def tar_stream(tree: Path | None, owner: tuple[int, int], folders: Iterable[str] = ()) -> Iterator[bytes]:
    """A tar archive, in pieces, of a tree, if any, and the `folders` it lacks; everything is owned by `owner`.

    What is no file, folder or link is left out. Nothing reads this archive but a daemon: it reaches no release.
    """
    for name in (f for f in folders if not tree or not (tree / f).is_dir()):
        yield _header(name, stat.S_IFDIR | 0o755, owner)
    for name, path in _walk(tree) if tree else ():
        status = path.lstat()
        mode, time = status.st_mode, int(status.st_mtime)
        if stat.S_ISLNK(mode):
            yield _header(name, mode, owner, time=time, link=os.readlink(path))
        elif stat.S_ISDIR(mode):
            yield _header(name, mode, owner, time=time)
        elif stat.S_ISREG(mode):
            yield _header(name, mode, owner, time=time, size=status.st_size)
            with path.open("rb") as file:
                while piece := file.read(CHUNK):
                    yield piece
            yield bytes(-status.st_size % BLOCK)
    yield bytes(2 * BLOCK)


def _walk(tree: Path) -> Iterator[tuple[str, Path]]:
    """Everything below a tree by its path in it, folders before what is in them; links are not followed."""
    for parent, folders, files in os.walk(tree):
        folders.sort()
        for path in (Path(parent, name) for name in sorted([*folders, *files])):
            yield path.relative_to(tree).as_posix(), path


def _header(name: str, mode: int, owner: tuple[int, int], *, time: int = 0, size: int = 0, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    kinds = {stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE}
    info.type, info.mode = kinds.get(stat.S_IFMT(mode), tarfile.REGTYPE), stat.S_IMODE(mode)
    info.uid, info.gid = owner
    info.mtime, info.size, info.linkname = time, size, link
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


class _Joined:
    """Pieces of bytes as one stream."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._rest = iter(pieces), memoryview(b"")

    def read(self, size: int) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        part, self._rest = self._rest[:size], self._rest[size:]
        return bytes(part)
