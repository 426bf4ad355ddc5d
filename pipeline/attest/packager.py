"""The process that signs packages: `python -m pipeline.attest.packager`, a request as JSON on its standard input.

It alone reads the key for packages. It signs what it looked at: packages of RFO with the version that is asked for, and
indexes of repositories, which it finds in the store by digest. Its answer is `{"signatures": {place: packet}}` with
packets in base64, or `{"reason", "hint", "kind"}` with the error's exit code.
"""

import base64
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from pipeline.attest.keys import keys_folder
from pipeline.attest.packages import load_packager
from pipeline.attest.talk import serve
from pipeline.base.repodata import check_xml, parse_repomd
from pipeline.errors import SourceError, TrustError
from pipeline.model import Digest
from pipeline.rpm.package import is_source, read_package
from pipeline.rpm.packages import IMAGES, NODE, NODE_PACKAGES, RELEASE
from pipeline.rpm.spec import REVISION
from pipeline.store import Store
from pipeline.strict import Inside, Strict, parsed_by

NAMES = {False: (*NODE_PACKAGES, IMAGES, RELEASE), True: (NODE, IMAGES, RELEASE)}
"""Of packages, and of source packages."""
NO_SOURCE = 1051
"""A tag of the main header: not all sources are in the package."""
MAX_METADATA = 1 << 20
"""Bytes of an index, which names four files."""
MAX_FILES = 4096


class Item(Strict):
    """What is to be signed."""

    place: Inside
    """In the release or repository: of a package its file; of an index repomd.xml, or the signature beside it."""
    digest: Annotated[str, parsed_by(Digest.parse)]
    kind: Literal["package", "metadata"]


class Request(Strict):
    """What is asked of the signer."""

    store: Path
    time: int = Field(gt=0, lt=1 << 32)
    """Seconds since 1970, that signatures say."""
    files: tuple[Item, ...] = Field(max_length=MAX_FILES)
    """Without any, just the key is judged."""
    version: str = ""
    """Of the packages; there may be none."""

    @classmethod
    def read(cls, text: bytes) -> "Request":
        """From JSON. Raises TrustError."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise TrustError(f"the signer was asked for something it does not understand: {error}") from error


def sign(request: Request) -> dict[str, Any]:
    """The signatures of what was asked for, if all of it can be signed. Raises PipelineError."""
    packager = load_packager(keys_folder())
    packager.refuse_unable(request.time)
    store = Store(request.store)
    found = {item.place: _message(item, store, request.version) for item in request.files}
    if len(found) != len(request.files):
        raise TrustError("the signer was asked to sign something twice")
    packets = {place: packager.sign(message, request.time) for place, message in found.items()}
    return {"signatures": {place: base64.b64encode(packet).decode() for place, packet in packets.items()}}


def _message(item: Item, store: Store, version: str) -> bytes:
    """What a signature is over. Raises TrustError, SourceError for what is not signed."""
    digest = Digest.parse(item.digest)
    path = store.use(digest)
    if path is None:
        raise TrustError(f"{item.place} is missing from the store or was damaged there", "make it again: ./inv release")
    return _package(item.place, path, version) if item.kind == "package" else _index(item.place, path)


def _package(place: str, path: Path, version: str) -> bytes:
    """The main header of a package of RFO."""
    rpm = read_package(path, place)
    if rpm.signatures:
        raise TrustError(f"{place} is signed already")
    arch = ("nosrc" if NO_SOURCE in rpm.header.index else "src") if is_source(rpm) else rpm.arch
    expected = rf"{re.escape(version.removeprefix('v'))}-{REVISION}(\.[a-z0-9]{{1,20}})?"
    if rpm.name not in NAMES[is_source(rpm)] or not version or not re.fullmatch(expected, rpm.evr):
        found = f"{rpm.name[:60]}-{rpm.evr[:60]}.{arch[:20]}"
        raise TrustError(f"{place} holds {found}; expected a package of {version or 'a release'}")
    if place.rpartition("/")[2] != f"{rpm.name}-{rpm.evr}.{arch}.rpm":
        raise TrustError(f"{place} holds {rpm.name}-{rpm.evr}.{arch[:20]}, which is called otherwise")
    return rpm.header.raw


def _index(place: str, path: Path) -> bytes:
    """The bytes of a repository's index."""
    if not place.endswith(("/repodata/repomd.xml", "/repodata/repomd.xml.asc")):
        raise TrustError(f"{place} is no place for a repository's index, repodata/repomd.xml")
    with path.open("rb") as file:
        data = file.read(MAX_METADATA + 1)
    if len(data) > MAX_METADATA:
        raise SourceError(f"{place}: larger than {MAX_METADATA} bytes")
    check_xml(data, place)
    try:
        index = parse_repomd(data, place, place)
    except (ET.ParseError, ValueError, KeyError, OverflowError) as error:
        raise SourceError(f"{place} is no repository's index: {error}") from error
    if "primary" not in index.data:
        raise SourceError(f"{place} is no repository's index: it names no primary metadata with a SHA-256")
    return data


def main() -> int:
    """Answer one request; returns the exit status."""
    return serve(lambda data: sign(Request.read(data)))


if __name__ == "__main__":
    sys.exit(main())
