"""What an operating system layer holds: a root's tree without what a sandbox needs, and what scripts would have made.

Reads trees and package files. Owners and times are those of roots: root, and one day for everything, so that a layer
is the same in each release that is made from the same packages.
"""

import os
import re
import stat
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote_to_bytes

from pipeline.base.assemble import MTIME
from pipeline.bases import LayerRecipe
from pipeline.errors import DefinitionError, SourceError
from pipeline.model import RootedPath
from pipeline.pack.tar import Entry, Folder, Link, Member

SANDBOX_ONLY = ("build", "out", "rfo-in")
"""Mount points of builds; containers have no use for them."""
MAX_CERTIFICATES = 16 << 20
"""Bytes of one file with certificates."""
EXTENDED_KEY_USAGE, REJECTED_USAGE = "2.5.29.37", "1.3.6.1.4.1.3319.6.10.1"
"""Extensions (the second is p11-kit's own) that say what a certificate is good for, and what it is not good for."""
SERVER_AUTH = bytes.fromhex("06082b06010505070301")
"""id-kp-serverAuth (RFC 5280, 4.2.1.12) as DER."""
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n.*?-----END CERTIFICATE-----\n?", re.DOTALL)
_PUBLIC_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----\n.*?-----END PUBLIC KEY-----", re.DOTALL)
_OBJECT = re.compile(r"^\[p11-kit-object-v1\]\n", re.MULTILINE)


def layer_members(tree: Path, below: Sequence[Path], more: Mapping[str, bytes]) -> list[Member]:
    """The entries of `tree` that no tree in `below` has the same, and the files `more`, by path.

    Raises DefinitionError if a file of `more` is in the tree already.
    """
    found: dict[str, Member] = {}
    for path, status in _walk(tree):
        if any(_same(tree, path, status, lower) for lower in below):
            continue
        found[path] = _member(tree, path, status)
    for path, data in more.items():
        if path in found:
            raise DefinitionError(
                f"{path} is made here, but a package ships it too", f"add {path} to the layer's `drop`"
            )
        found[path] = Entry(RootedPath.parse(path), 0o644, MTIME, data)
    for path in list(found):  # a directory that is named again keeps its mode
        for above in map(str, Path(path).parents):
            if above != "." and above not in found:
                owner = next((t for t in (*below, tree) if (t / above).is_dir()), None)
                mode = stat.S_IMODE((owner / above).lstat().st_mode) if owner else 0o755
                found[above] = Folder(RootedPath.parse(above), mode, MTIME)
    return list(found.values())


def _walk(tree: Path) -> Iterator[tuple[str, os.stat_result]]:
    for parent, folders, files in os.walk(tree):
        here = os.path.relpath(parent, tree)
        if here == ".":
            folders[:] = [f for f in folders if f not in SANDBOX_ONLY]
        for name in sorted([*folders, *files]):
            path = os.path.normpath(os.path.join(here, name))
            yield path, os.lstat(os.path.join(parent, name))


def _same(tree: Path, path: str, status: os.stat_result, lower: Path) -> bool:
    """Whether the entry is in the tree below as well."""
    try:
        other = (lower / path).lstat()
    except OSError:
        return False
    if status.st_mode != other.st_mode:
        return False
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(tree / path) == os.readlink(lower / path)
    return stat.S_ISDIR(status.st_mode) or (tree / path).read_bytes() == (lower / path).read_bytes()


def _member(tree: Path, path: str, status: os.stat_result) -> Member:
    where = RootedPath.parse(path)
    if stat.S_ISLNK(status.st_mode):
        return Link(where, os.readlink(tree / path), MTIME)
    mode = stat.S_IMODE(status.st_mode)
    return Folder(where, mode, MTIME) if stat.S_ISDIR(status.st_mode) else Entry(where, mode, MTIME, tree / path)


def certificate_bundle(recipe: LayerRecipe, tree: Path) -> dict[str, bytes]:
    """The bundle of the CA certificates that the layer's packages ship, at its path; empty if it wants none.

    Sorted by file, as `update-ca-certificates` writes it. Raises DefinitionError if there is none, SourceError for a
    file that cannot be understood.
    """
    if recipe.bundle is None:
        return {}
    files = sorted({p for pattern in recipe.certificates for p in tree.glob(pattern)})
    text = "".join(c for file in files for c in _certificates(file))
    if not text:
        raise DefinitionError(
            f"no package has CA certificates at {', '.join(recipe.certificates)}", "mend `certificates`"
        )
    return {recipe.bundle: text.encode()}


def _certificates(file: Path) -> Iterable[str]:
    """The PEM certificates (RFC 7468) in a file; of p11-kit's format those that servers may be authenticated with."""
    with file.open("rb") as opened:
        data = opened.read(MAX_CERTIFICATES + 1)
    if len(data) > MAX_CERTIFICATES:
        raise SourceError(f"{file.name}: more than {MAX_CERTIFICATES} bytes of certificates")
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    _, *objects = re.split(_OBJECT, text)
    return _anchors(objects, file.name) if objects else (_closed(m[0]) for m in _CERTIFICATE.finditer(text))


def _anchors(objects: Sequence[str], what: str) -> Iterable[str]:
    """What `trust extract --filter=ca-anchors --purpose=server-auth` takes of p11-kit's objects, in their order.

    An object is a few lines `name: value` and a PEM block (p11-kit's doc/manual, "persist" format). What a certificate
    is trusted for stands in an object of its own, an extension that names the certificate by its public key: without
    one it is good for everything. Raises SourceError for an extension that names none.
    """
    usages = [usage for item in objects if (usage := _usage(item, what))]
    certificates = [(item, _closed(found[0])) for item in objects if (found := _CERTIFICATE.search(item))]
    distrusted = {text for item, text in certificates if _fields(item).get("x-distrusted") == "true"}
    for item, text in certificates:
        if _fields(item).get("trusted") == "true" and text not in distrusted:
            # The key stands in a certificate as the same bytes (RFC 5280, SubjectPublicKeyInfo).
            data = _content(text)
            if all(server for key, server in usages if key in data):
                yield text


def _usage(item: str, what: str) -> tuple[bytes, bool] | None:
    """If an object says what a certificate is for: the public key, and whether that is authenticating servers."""
    fields = _fields(item)
    extension = fields.get("object-id")
    if fields.get("class") != "x-certificate-extension" or extension not in (EXTENDED_KEY_USAGE, REJECTED_USAGE):
        return None
    key = _PUBLIC_KEY.search(item)
    if not key:
        raise SourceError(f"{what}: what {fields.get('label')} is trusted for does not name a public key")
    named = SERVER_AUTH in unquote_to_bytes(fields.get("value", ""))
    return _content(key[0]), named == (extension == EXTENDED_KEY_USAGE)


def _fields(item: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in item.partition("-----BEGIN")[0].splitlines() if ": " in line)


def _content(block: str) -> bytes:
    """The bytes of a PEM block. Raises SourceError."""
    try:
        return b64decode("".join(block.split("\n")[1:]).partition("-----END")[0], validate=True)
    except ValueError as error:
        raise SourceError(f"not a PEM block: {block[:80]!r} ({error})") from error


def _closed(block: str) -> str:
    return block if block.endswith("\n") else block + "\n"
