"""The metadata of one folder of packages: whether they hold, and making them anew with createrepo_c in a sandbox."""

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import BuildError, SourceError
from pipeline.lock import write_atomically, written_beside
from pipeline.model import Digest
from pipeline.repository.kept import REPODATA, Package
from pipeline.rpm.metadata import INDEX, METADATA, createrepo
from pipeline.rpm.signatures import METADATA_SIGNATURE
from pipeline.sandbox import Mount, Sandbox
from pipeline.sandbox.bwrap import Bwrap
from pipeline.store import Store
from pipeline.verifier.encoding import Refused
from pipeline.verifier.openpgp import MAX_ARMORED, PgpKey, read_pgp_keys, verify_armored
from pipeline.verifier.rpmmd import MAX_PACKED, MAX_REPOMD, Listed, Repomd, read_primary, read_repomd

MAX_REVISION = 1 << 32
"""A revision is a time, and signatures say it in 32 bits."""


@dataclass(frozen=True)
class Index:
    """The metadata in a folder, read."""

    repomd: Repomd
    packages: Mapping[str, Listed]
    """By file name."""
    signer: str
    """Fingerprint of the key whose signature is good; empty if none is."""
    problem: Refused | None
    """What is wrong with the signature."""

    def holds(self, packages: Sequence[Package], signer: str) -> bool:
        """Whether they are of exactly these packages, signed by this key."""
        found = {name: (p.sha256, p.size) for name, p in self.packages.items()}
        return self.signer == signer and found == {p.file: (p.digest.hex, p.size) for p in packages}


def read_keys(data: bytes, what: str) -> list[PgpKey]:
    """The keys in RPM-GPG-KEY-rfo. Raises SourceError."""
    try:
        return read_pgp_keys(data, what)
    except Refused as refused:
        raise SourceError(str(refused)) from refused


def read_index(folder: Path, keys: Sequence[PgpKey], what: str) -> Index | None:
    """The metadata in a folder of packages, None if there are none; `what` names it.

    Each file has to be what repomd.xml says; whether that is signed stands in the result. Raises Refused.
    """
    path = folder / REPODATA / INDEX
    if not path.exists():
        return None
    where = f"{what}/{REPODATA}/{INDEX}"
    data = _read(path, MAX_REPOMD, where)
    repomd = read_repomd(data, where)
    signer, problem = "", None
    try:
        armored = _read(path.with_name(METADATA_SIGNATURE), MAX_ARMORED, f"{where}.asc")
        signer = verify_armored(data, armored, keys, where)[0].fingerprint
    except Refused as refused:
        problem = refused
    packed = {}
    for kind, file in repomd.files.items():
        packed[kind] = _read(folder / file.path, MAX_PACKED, f"{what}/{file.path}")
        found = Digest.of_bytes(packed[kind]).hex
        if (found, len(packed[kind])) != (file.sha256, file.size):
            raise Refused(f"{what}/{file.path}", "is not what repomd.xml names", file.sha256, found)
    listed = read_primary(packed["primary"], repomd.files["primary"], f"{what}/{repomd.files['primary'].path}")
    return Index(repomd, {p.file: p for p in listed}, signer, problem)


@dataclass(frozen=True)
class Made:
    """New metadata of a folder."""

    files: Mapping[str, bytes]
    """By name, without repomd.xml."""
    repomd: bytes


def make_index(
    folder: Path, packages: Sequence[Package], epoch: Mapping[str, int], revision: int, root: Path, store: Store
) -> Made:
    """Metadata of `packages`, which lie in a folder; `root` has createrepo_c.

    `epoch` are the times that they say files were changed at, by file name. Raises SourceError if a package is not what
    its release names, BuildError, HostError.
    """
    for package in packages:  # whoever copied the folder may have lost them
        os.utime(folder / package.file, (epoch[package.file], epoch[package.file]))
    with store.workspace() as work:
        for name in ("build", "out"):
            (work / name).mkdir()
        (work / "build" / "repository").mkdir()
        mounts = tuple(Mount(folder / p.file, f"/build/repository/{p.file}") for p in packages)
        command = createrepo("/build/repository", revision)
        _run(Sandbox(root, command, work / "build", work / "out", mounts=mounts), work / "log")
        made = work / "build" / "repository" / REPODATA
        files = {p.name: p.read_bytes() for p in sorted(made.iterdir())}
    repomd = files.pop(INDEX)
    if sorted(n.partition("-")[2] for n in files) != sorted(METADATA):
        raise BuildError(f"createrepo_c made {', '.join(files)}; expected {', '.join(METADATA)}")
    _refuse_other(files, repomd, packages)
    return Made(files, repomd)


def _run(sandbox: Sandbox, log: Path) -> None:
    executor = Bwrap()
    executor.check()
    with log.open("w+b") as file:
        usage = executor.run(sandbox, file, threading.Event())
        file.seek(0)
        said = file.read().decode(errors="replace").partition("\n")[2]
    if usage.status or usage.stopped:
        raise BuildError(f"createrepo_c ended with status {usage.status}: {usage.stopped or said[-2000:].strip()}")


def _refuse_other(files: Mapping[str, bytes], repomd: bytes, packages: Sequence[Package]) -> None:
    """Raise SourceError if createrepo_c read other packages than the releases name, or they are called otherwise."""
    try:
        primary = read_repomd(repomd, INDEX).files["primary"]
        listed = {p.file: p for p in read_primary(files[primary.path.rpartition("/")[2]], primary, "primary.xml.gz")}
    except (Refused, KeyError) as error:
        raise BuildError(f"createrepo_c made what cannot be read: {error}") from error
    for package in packages:
        found = listed.pop(package.file, None)
        if found is None or (found.sha256, found.size) != (package.digest.hex, package.size):
            raise SourceError(
                f"{package.place} is not the package that its release names: it was changed, or damaged\n"
                f"  expected {package.digest}\n  found    {f'sha256:{found.sha256}' if found else 'no package'}",
                "remove it, and add that release again: ./inv repo add --from dist/VERSION --repo DIR",
            )
        name = f"{found.nevra.name}-{found.nevra.version}-{found.nevra.release}"
        if not package.file.startswith(f"{name}.") or found.nevra.epoch:
            raise SourceError(f"{package.place} holds {found.nevra}, which is called otherwise")
    if listed:
        raise BuildError(f"createrepo_c read {', '.join(listed)} besides what it was given")


def write_index(folder: Path, made: Made, signature: bytes) -> None:
    """Publish metadata: what repomd.xml names first, its signature, then itself. Raises OSError.

    What the metadata before named stays for who reads them now; what those before these named goes.
    """
    repodata = folder / REPODATA
    repodata.mkdir(exist_ok=True)
    _remove_unnamed(repodata)
    for name, data in made.files.items():
        if not (repodata / name).is_file() or (repodata / name).read_bytes() != data:
            write_atomically(repodata / name, data)
    with (
        written_beside(repodata / METADATA_SIGNATURE, signature) as asc,
        written_beside(repodata / INDEX, made.repomd) as xml,
    ):
        asc.rename(repodata / METADATA_SIGNATURE)
        xml.rename(repodata / INDEX)
    sync(repodata)


def sync(folder: Path) -> None:
    """Have the names in a folder on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_unnamed(repodata: Path) -> None:
    try:
        named = read_repomd(_read(repodata / INDEX, MAX_REPOMD, INDEX), INDEX)
        keep = {f.path.rpartition("/")[2] for f in named.files.values()}
    except Refused:
        return
    for path in repodata.glob("*.xml.gz"):
        if path.name not in keep:
            path.unlink()


def _read(path: Path, limit: int, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Refused(
            what, "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        ) from error
    if len(data) > limit:
        raise Refused(what, "is too large", f"at most {limit} bytes")
    return data
