"""The metadata of RPM repositories: signature, digests and bounds are checked before anything is parsed.

`repomd.xml` is signed and names every other file by size and SHA-256. Format: createrepo_c's documentation and
http://linux.duke.edu/metadata/repo (the schema that all RPM tools share).
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.base.archives import Decompressed
from pipeline.base.mirror import Mirror, NotServed
from pipeline.base.openpgp import Keyring
from pipeline.base.rpmfile import decoder
from pipeline.errors import SourceError
from pipeline.model import CHUNK, Digest, RootedPath

MAX_KEY_FILE = 1 << 20
MAX_REPOMD = 1 << 20
MAX_SIGNATURE = 64 << 10
MAX_PACKED = 512 << 20
"""Bytes of one compressed metadata file; the largest of openEuler's (filelists of `everything`) have 60 MB."""
MAX_PLAIN = 4 << 30
"""Bytes of one unpacked metadata file."""
_COMPRESSORS = {".gz": "gzip", ".xz": "xz", ".zst": "zstd", ".bz2": "bzip2"}
_REPO = "{http://linux.duke.edu/metadata/repo}"
_PROLOG = re.compile(rb"""\s*<\?xml\s+version=["']1\.[01]["'](\s+encoding=["']([A-Za-z0-9._-]+)["'])?[^>]*\?>""")


@dataclass(frozen=True)
class Data:
    """One file that repomd.xml names."""

    path: str
    """Relative to the repository."""
    digest: Digest
    size: int
    """Bytes, compressed."""


@dataclass(frozen=True)
class Repository:
    """One signed repository, its index read."""

    name: str
    """As the base names it, such as `OS` or `EPOL/main`."""
    path: str
    """Where it lies below the origin, such as `OS/x86_64`."""
    digest: Digest
    """Of repomd.xml."""
    date: str
    """When it was made, RFC 3339."""
    data: dict[str, Data]
    """By type: primary, filelists …"""


def read_keys(mirror: Mirror, path: str, allowed: tuple[str, ...]) -> Keyring:
    """The keys served at `path` whose fingerprints are `allowed`. Raises NetworkError, SourceError."""
    return Keyring.load(mirror.read(path, limit=MAX_KEY_FILE), allowed, mirror.place(path))


def read_repository(mirror: Mirror, name: str, path: str, keys: Keyring) -> Repository:
    """Read and check the index of the repository at `path`.

    Raises SourceError if it is unsigned, signed by a key that is not in `keys`, or malformed; NetworkError.
    """
    file = f"{path}/repodata/repomd.xml"
    where = mirror.place(file)
    data = mirror.read(file, limit=MAX_REPOMD)
    try:
        signature = mirror.read(f"{file}.asc", limit=MAX_SIGNATURE)
    except NotServed as error:
        raise SourceError(
            f"{where} is not signed: {mirror.place(f'{file}.asc')} is not served",
            "unsigned metadata is never used; name a mirror that carries the signatures",
        ) from error
    keys.verify(data, signature, where)
    check_xml(data, where)
    try:
        return parse_repomd(data, name, path)
    except (ET.ParseError, ValueError, KeyError, OverflowError) as error:
        raise SourceError(f"{where}: malformed ({error})") from error
    except SourceError as error:
        raise SourceError(f"{where}: {error.reason}") from error


def fetch_metadata(mirror: Mirror, repository: Repository, kind: str, folder: Path) -> Path:
    """Download one metadata file, check it, and unpack it below `folder`; returns the plain XML file.

    A file that an earlier call left is used again if its digest still fits. Raises NetworkError; SourceError if the
    repository has no such file, or it is not what repomd.xml says, or holds XML that could expand.
    """
    data = repository.data.get(kind)
    if data is None:
        raise SourceError(f"{mirror.place(repository.path)}: repomd.xml names no {kind} metadata with a SHA-256")
    where = mirror.place(f"{repository.path}/{data.path}")
    packed = folder / f"{data.digest.hex}-{Path(data.path).name}"
    mirror.download(f"{repository.path}/{data.path}", packed, digest=data.digest, limit=MAX_PACKED, size=data.size)
    plain = folder / f"{data.digest.hex}.xml"
    with packed.open("rb") as source, plain.open("wb") as target:
        compressor = _COMPRESSORS.get(packed.suffix, packed.suffix)
        stream = source if compressor == ".xml" else Decompressed(source, decoder(compressor, where), where, MAX_PLAIN)
        for part in _checked_parts(iter(lambda: stream.read(CHUNK), b""), where):
            target.write(part)
    return plain


def check_xml(data: bytes, where: str) -> None:
    """Refuse XML that a parser could expand or read in a surprising encoding; raises SourceError.

    Metadata has no document type, so there is no entity to expand. Only UTF-8 is let through, since in another
    encoding the forbidden words would not be seen here.
    """
    for _ in _checked_parts(iter((data,)), where):
        pass


def _checked_parts(parts: Iterator[bytes], where: str) -> Iterator[bytes]:
    """The parts again, each looked at together with the end of the one before it."""
    tail = b""
    for number, part in enumerate(parts):
        if not number:
            prolog = _PROLOG.match(part[:1024])
            if not prolog or (prolog[2] or b"utf-8").lower() not in (b"utf-8", b"us-ascii"):
                raise SourceError(f"{where}: expected an XML declaration that says UTF-8, found {part[:60]!r}")
        window = tail + part
        if b"<!DOCTYPE" in window or b"<!ENTITY" in window or b"\0" in part:
            raise SourceError(f"{where}: XML with a document type, entities or zero bytes is refused")
        tail = part[-16:]
        yield part


def parse_repomd(data: bytes, name: str, path: str) -> Repository:
    """The index in `data`, which `check_xml` accepts. Raises ValueError, KeyError, ET.ParseError, SourceError."""
    root = ET.fromstring(data)  # noqa: S314 - check_xml has refused document types and with them all entities
    if root.tag != f"{_REPO}repomd":
        raise ValueError(f"expected repomd, found {root.tag[:80]}")
    files: dict[str, Data] = {}
    times = [0]
    for element in root.findall(f"{_REPO}data"):
        kind = element.attrib["type"]
        checksum, location = element.find(f"{_REPO}checksum"), element.find(f"{_REPO}location")
        if kind in files:
            raise ValueError(f"data of type {kind} stands twice")
        times.append(int(float(element.findtext(f"{_REPO}timestamp", "0"))))
        if checksum is None or location is None or checksum.get("type") != "sha256":
            continue  # what is not pinned by SHA-256 is as good as absent
        if any(key.endswith("}base") for key in location.attrib):
            raise ValueError(f"data of type {kind} lies in another place (xml:base)")
        size = int(element.findtext(f"{_REPO}size", "-1"))
        if not 0 < size <= MAX_PACKED:
            raise ValueError(f"data of type {kind} has {size} bytes; expected 1 to {MAX_PACKED}")
        href = RootedPath.parse(location.attrib["href"])
        files[kind] = Data(href.relative, Digest((checksum.text or "").strip()), size)
    revision = root.findtext(f"{_REPO}revision", "")
    seconds = int(revision) if re.fullmatch(r"[0-9]{9,11}", revision) else max(times)
    if not seconds:
        raise ValueError("neither a revision nor a timestamp says when it was made")
    date = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Repository(name, path, Digest.of_bytes(data), date, files)
