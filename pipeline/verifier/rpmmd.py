"""The metadata of RPM repositories, repomd.xml and primary.xml, as createrepo_c writes them for us.

Read strictly, after their signature or digest was checked: no document types or comments, no more than they say.
Format: http://linux.duke.edu/metadata/repo, .../common (the schema that all tools of RPM share).
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from xml.parsers import expat

from pipeline.verifier.encoding import Refused
from pipeline.verifier.package import Nevra

MAX_REPOMD = 1 << 20
MAX_PACKED = 64 << 20
MAX_PLAIN = 256 << 20
"""Bytes of metadata, compressed and not."""
MAX_PACKAGES = 20_000
KINDS = ("filelists", "other", "primary")
_REPO, _COMMON = "http://linux.duke.edu/metadata/repo", "http://linux.duke.edu/metadata/common"
_RPM_SPACE = "http://linux.duke.edu/metadata/rpm"
_FILE_FACTS = ("checksum", "open-checksum", "location", "timestamp", "size", "open-size")
_IN_REPOMD = frozenset(("repomd", "repomd/revision", "repomd/data", *(f"repomd/data/{n}" for n in _FILE_FACTS)))
_PACKAGE_FACTS = (
    "name", "arch", "version", "checksum", "summary", "description", "packager", "url", "time", "size", "location",
    "format",
)  # fmt: skip
_PACKAGE_FORMAT = ("license", "vendor", "group", "buildhost", "sourcerpm", "header-range")
_PACKAGE_RELATIONS = (
    "provides", "requires", "conflicts", "obsoletes", "suggests", "recommends", "supplements", "enhances",
)  # fmt: skip
_IN_PRIMARY = frozenset(
    (
        "metadata", "metadata/package", "metadata/package/format/file",
        *(f"metadata/package/{n}" for n in _PACKAGE_FACTS),
        *(f"metadata/package/format/rpm:{n}" for n in (*_PACKAGE_FORMAT, *_PACKAGE_RELATIONS)),
        *(f"metadata/package/format/rpm:{n}/rpm:entry" for n in _PACKAGE_RELATIONS),
    )
)  # fmt: skip
"""Paths of all elements. dnf goes by names alone, so that in another namespace or place an element would mean something
to it that was not looked at here."""
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
_WHOLE = re.compile(r"[0-9]{1,15}")
PACKAGE_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,250}\.rpm")
"""Names of packages: none leads out of its folder."""
_Element = Callable[[str, "dict[str, str]", str], None]
"""Called at the end of an element, with its path, attributes and text."""


@dataclass(frozen=True)
class DataFile:
    """A file of metadata as repomd.xml names it."""

    path: str
    """Below the repository's folder."""
    sha256: str
    size: int
    open_sha256: str
    """Of the content when it is unpacked, as is the next."""
    open_size: int


@dataclass(frozen=True)
class Repomd:
    """What repomd.xml says."""

    revision: int
    files: dict[str, DataFile]
    """By kind."""


@dataclass(frozen=True)
class Listed:
    """A package as primary.xml names it."""

    nevra: Nevra
    file: str
    """In the repository's folder."""
    sha256: str
    size: int


def read_repomd(data: bytes, what: str) -> Repomd:
    """The metadata that a repository has: exactly KINDS, each called by its digest. Raises Refused, naming `what`."""
    revision: list[str] = []
    found: dict[str, dict[str, tuple[dict[str, str], str]]] = {}
    current: dict[str, tuple[dict[str, str], str]] = {}

    def end(path: str, attributes: dict[str, str], text: str) -> None:
        if path == "repomd/revision":
            revision.append(text)
        elif path == "repomd/data":
            kind = attributes.get("type", "")[:60]
            if kind not in KINDS or kind in found:
                raise Refused(what, "names other metadata than a repository of ours has", ", ".join(KINDS), kind)
            found[kind] = dict(current)
            current.clear()
        elif path.startswith("repomd/data/"):
            name = path.rpartition("/")[2]
            if current.setdefault(name, (attributes, text)) != (attributes, text):
                raise Refused(what, f"says {name} twice of one file")

    _read_xml(data, _REPO, _IN_REPOMD, what, end)
    if len(revision) != 1 or not _WHOLE.fullmatch(revision[0]) or set(found) != set(KINDS):
        raise Refused(what, "does not have one revision, a number, and metadata of each kind", ", ".join(KINDS))
    return Repomd(int(revision[0]), {k: _data_file(k, v, what) for k, v in found.items()})


def _data_file(kind: str, fields: dict[str, tuple[dict[str, str], str]], what: str) -> DataFile:
    none: tuple[dict[str, str], str] = ({}, "")
    sums = [fields.get(n, none) for n in ("checksum", "open-checksum")]
    sizes = [fields.get(n, none)[1] for n in ("size", "open-size")]
    place = fields.get("location", none)[0]
    if any(a != {"type": "sha256"} or not _HEX_DIGEST.fullmatch(t) for a, t in sums):
        raise Refused(what, f"does not name its {kind} by SHA-256")
    expected = f"repodata/{sums[0][1]}-{kind}.xml.gz"
    if place != {"href": expected}:
        raise Refused(what, f"names its {kind} at another place", expected, str(sorted(place.values()))[:200])
    packed, plain = (int(s) if _WHOLE.fullmatch(s) else 0 for s in sizes)
    if not 0 < packed <= MAX_PACKED or not 0 < plain <= MAX_PLAIN:
        raise Refused(what, f"says no size of its {kind}, or one that is too large", f"up to {MAX_PLAIN} bytes")
    return DataFile(expected, sums[0][1], packed, sums[1][1], plain)


def read_primary(packed: bytes, file: DataFile, what: str) -> list[Listed]:
    """The packages in primary.xml.gz, each once. Raises Refused, naming `what`."""
    count: list[str] = []
    found: list[Listed] = []
    current: dict[str, tuple[dict[str, str], str]] = {}

    def end(path: str, attributes: dict[str, str], text: str) -> None:
        if path == "metadata":
            count.append(attributes.get("packages", ""))
        elif path == "metadata/package":
            found.append(_listed(attributes, current, what))
            current.clear()
        elif path.startswith("metadata/package/") and path.count("/") == 2:
            name = path.rpartition("/")[2]
            if current.setdefault(name, (attributes, text)) != (attributes, text):
                raise Refused(what, f"says {name} twice of one package")
        if len(found) > MAX_PACKAGES:
            raise Refused(what, "names too many packages", f"at most {MAX_PACKAGES}")

    _read_xml(_unpacked(packed, file, what), _COMMON, _IN_PRIMARY, what, end)
    if count != [str(len(found))]:
        raise Refused(what, "names another number of packages than it says", "".join(count)[:20], str(len(found)))
    for names in ([p.file for p in found], [p.nevra for p in found]):
        if len(set(names)) != len(found):
            raise Refused(what, "names a package twice")
    return found


def _listed(kind: dict[str, str], fields: dict[str, tuple[dict[str, str], str]], what: str) -> Listed:
    none: tuple[dict[str, str], str] = ({}, "")
    name, arch = (fields.get(n, none)[1][:250] for n in ("name", "arch"))
    version = fields.get("version", none)[0]
    summed, digest = fields.get("checksum", none)
    place, size = fields.get("location", none)[0], fields.get("size", none)[0].get("package", "")
    href = place.get("href", "")
    if kind != {"type": "rpm"} or set(version) != {"epoch", "ver", "rel"} or not _WHOLE.fullmatch(version["epoch"]):
        raise Refused(what, "names a package without name and version", "", name)
    if set(place) != {"href"} or not PACKAGE_FILE.fullmatch(href):
        raise Refused(
            what, f"names {name} at a place where no package of ours lies", "", str(sorted(place.items()))[:300]
        )
    if summed != {"type": "sha256", "pkgid": "YES"} or not _HEX_DIGEST.fullmatch(digest) or not _WHOLE.fullmatch(size):
        raise Refused(what, f"does not name {href} by SHA-256 and size")
    nevra = Nevra(name, int(version["epoch"]), version["ver"], version["rel"], arch)
    return Listed(nevra, href, digest, int(size))


def _unpacked(packed: bytes, file: DataFile, what: str) -> bytes:
    """What a gzip file (RFC 1952) of one member holds: as much as was said, and nothing behind it. Raises Refused."""
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(packed, file.open_size + 1)
    except zlib.error as error:
        raise Refused(what, f"cannot be unpacked: {error}") from error
    if len(plain) != file.open_size or not stream.eof or stream.unused_data:
        raise Refused(what, "unpacks to another size than is signed", f"{file.open_size} bytes")
    digest = hashlib.sha256(plain).hexdigest()
    if digest != file.open_sha256:
        raise Refused(what, "unpacks to something else than is signed", file.open_sha256, digest)
    return plain


def _read_xml(data: bytes, namespace: str, known: frozenset[str], what: str, end: _Element) -> None:
    """Call `end` for each element; `known` are the paths that there may be. Raises Refused."""
    spaces = {namespace: "", _RPM_SPACE: "rpm:"}
    if b"<!" in data:
        raise Refused(what, "has a document type, entities, comments or sections: no metadata of ours has")
    open_elements: list[tuple[str, dict[str, str], list[str]]] = []

    def start_element(name: str, attributes: dict[str, str]) -> None:
        space, _, local = name.rpartition(" ")
        above = open_elements[-1][0] + "/" if open_elements else ""
        path = f"{above}{spaces[space]}{local}" if space in spaces else ""
        if path not in known:
            raise Refused(what, "holds an element that no metadata of ours has", "", f"{above}{local} of {space}"[:200])
        open_elements.append((path, attributes, []))

    def end_element(name: str) -> None:
        del name
        path, attributes, text = open_elements.pop()
        end(path, attributes, "".join(text).strip())

    def add_text(text: str) -> None:
        open_elements[-1][2].append(text)

    parser = expat.ParserCreate("UTF-8", " ")  # whatever the document says of its encoding
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start_element, end_element
    parser.CharacterDataHandler = add_text
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Refused(what, f"is not XML as it should be: {error}") from error
