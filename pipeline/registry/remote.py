"""A registry as a place to copy from and to: manifests, blobs, tags, and what is attached to a manifest.

Format: OCI distribution-spec 1.1; where a registry has no referrers API, the index under the tag `sha256-HEX`.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, Self

from pipeline.errors import NetworkError, SourceError, StoreError
from pipeline.model import Digest
from pipeline.registry.client import Broken, Client, Reply
from pipeline.registry.content import same, write_checked
from pipeline.registry.meter import Track
from pipeline.registry.oci import (
    IMAGE_INDEX,
    INDEXES,
    MANIFESTS,
    MAX_MANIFEST,
    Descriptor,
    Manifest,
    read_index,
    read_manifest,
    render_index,
)
from pipeline.registry.place import Name, Remote, follow, referrers_tag
from pipeline.registry.upload import check_answer, has_blob, mount_blob, send_blob

ACCEPT = {"Accept": ", ".join(INDEXES + MANIFESTS)}
NO_API = (400, 404, 405, 406)
"""How registries without the referrers API answer when asked for it."""
WRITES = 5
"""Attempts to write an index that others write too."""
MAX_PAGES = 100
"""Parts in which a registry may list the referrers of one manifest."""


class Blobs(Protocol):
    """Where blobs can be had as files."""

    def file(self, repository: str, blob: Descriptor) -> AbstractContextManager[Path]:
        """A blob as a file for a while; whoever reads it checks its digest."""


class Registry:
    """Repositories below a prefix of a registry. Safe to use from several threads."""

    def __init__(self, remote: Remote, *, plain_http: bool = False, ca: Path | None = None) -> None:
        self.remote = remote
        self.client = Client(remote, plain_http=plain_http, ca=ca)

    def __str__(self) -> str:
        return str(self.remote)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def place(self, name: Name) -> str:
        """How people write an image that is here."""
        return f"{self.remote}/{name}"

    # --- to copy from

    def resolve(self, name: Name) -> Manifest | None:
        """What a tag points to; None if it is not there. Raises SourceError, NetworkError."""
        return self._manifest(name.repository, name.tag)

    def manifest(self, repository: str, wanted: Descriptor) -> Manifest:
        """A manifest by its digest. Raises SourceError if it is missing or another."""
        found = self._manifest(repository, str(wanted.digest))
        if found is None:
            raise SourceError(f"{self.remote}/{repository} has no {wanted.digest}, which another manifest names")
        if (found.descriptor.media_type, found.descriptor.size) != (wanted.media_type, wanted.size):
            raise SourceError(
                f"{self.remote}/{repository}@{wanted.digest}: expected {wanted.media_type} of {wanted.size} bytes, "
                f"found {found.descriptor.media_type} of {found.descriptor.size}"
            )
        return found

    def attached(self, repository: str, subject: Digest) -> list[Descriptor]:
        """The manifests that name this one as their subject."""
        found = self._referrers(repository, subject)
        return found if found is not None else self._tagged_referrers(repository, subject)

    def save(self, repository: str, blob: Descriptor, target: Path, track: Track) -> None:
        """Write a blob to a file, its digest checked; what the file has already is continued. Raises SourceError."""
        place = f"{self.remote}/{repository}@{blob.digest}"
        continued = target.exists()
        self.client.retry(lambda: self._save_rest(repository, blob, target, place, track))
        if not same(target, blob):
            found = Digest.of_file(target)
            target.unlink()
            if continued:  # the part may have been of another: judge the registry by its own bytes
                return self.save(repository, blob, target, track)
            raise SourceError(f"{place}: the registry holds other bytes under this digest: found {found}")
        return None

    @contextmanager
    def file(self, repository: str, blob: Descriptor) -> Iterator[Path]:
        """A blob as a file for a while, below the folder for temporary files."""
        try:
            folder = tempfile.TemporaryDirectory(prefix="rfo-mirror-")
        except OSError as error:
            raise StoreError(f"{tempfile.gettempdir()}: {error.strerror}", "name another folder: TMPDIR") from error
        with folder as name:
            self.save(repository, blob, Path(name) / "blob", Track())
            yield Path(name) / "blob"

    # --- to copy to

    def lacks(self, blob: Descriptor, repositories: Sequence[str]) -> list[str]:
        """Those of the repositories that have not got a blob."""
        return [r for r in repositories if not has_blob(self.client, self.remote.path(r), blob)]

    def mount_blob(self, repository: str, blob: Descriptor, held_by: str) -> bool:
        """Have a blob from another repository of this registry; False if the registry does not do that."""
        return mount_blob(self.client, self.remote.path(repository), blob, self.remote.path(held_by))

    def put_blob(self, repository: str, blob: Descriptor, source: Blobs, track: Track) -> None:
        """Upload a blob of the source's repository of this name, its digest checked."""
        with source.file(repository, blob) as file:
            send_blob(self.client, self.remote.path(repository), blob, file, track)

    def has_manifest(self, repository: str, manifest: Manifest) -> bool:
        """Whether these bytes are there. Raises SourceError if others are there under their digest."""
        return self._manifest(repository, str(manifest.digest)) is not None

    def put_manifest(self, repository: str, manifest: Manifest) -> None:
        """Write a manifest under its digest."""
        self._put(repository, str(manifest.digest), manifest)

    def tagged(self, name: Name) -> Digest | None:
        """What a tag points to now."""
        path = self.remote.path(name.repository)
        reply = self.client.call("HEAD", f"{path}/manifests/{name.tag}", path, expect=(200, 404), headers=ACCEPT)
        if reply.status == 404:
            return None
        if said := reply.headers.get("Docker-Content-Digest"):
            return Digest.parse(said)
        found = self.resolve(name)
        return found.digest if found else None

    def put_tag(self, name: Name, manifest: Manifest) -> None:
        """Point a tag to a manifest."""
        self._put(name.repository, name.tag, manifest)

    def attach(self, repository: str, subject: Manifest, referrers: Sequence[Manifest]) -> None:
        """Make manifests that are there known as attached to their subject, where the registry does not by itself."""
        if self._referrers(repository, subject.digest) is not None:
            return
        tag = referrers_tag(subject.digest)
        place = f"{self.remote}/{repository}:{tag}"
        for _ in range(WRITES):  # two writers at once would take away each other's: read again what was written
            listed = self._tagged_referrers(repository, subject.digest)
            new = [m.descriptor for m in referrers if m.digest not in {d.digest for d in listed}]
            if not new:
                return
            data = render_index([d.render() for d in listed + new])
            self._put(repository, tag, read_manifest(data, IMAGE_INDEX, place))
        raise NetworkError(f"{place}: somebody else writes it at the same time", "push again later")

    def _save_rest(self, repository: str, blob: Descriptor, target: Path, place: str, track: Track) -> None:
        path = self.remote.path(repository)
        have = target.stat().st_size if target.exists() else 0
        if have >= blob.size:  # more than it should be is found out by its digest
            target.touch()
            return
        headers = {"Range": f"bytes={have}-"} if have else {}
        expect = (200, 206) if have else (200,)
        with self.client.open("GET", f"{path}/blobs/{blob.digest}", path, expect, headers) as response:
            start = have if response.status_code == 206 else 0
            if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise NetworkError(f"{place}: the registry serves another part than it was asked for")
            write_checked(target, blob, self.client.parts(response), place, track, start)
        said_all = response.status_code == 200 and "Content-Length" in response.headers
        if target.stat().st_size < blob.size and not said_all:
            raise Broken("the connection ended early")

    def _manifest(self, repository: str, reference: str) -> Manifest | None:
        path = self.remote.path(repository)
        place = f"{self.remote}/{repository}{'@' if ':' in reference else ':'}{reference}"
        reply = self.client.call(
            "GET", f"{path}/manifests/{reference}", path, expect=(200, 404), headers=ACCEPT, limit=MAX_MANIFEST
        )
        if reply.status == 404:
            return None
        digest = Digest.of_bytes(reply.data)
        check_answer(reply, digest)
        if ":" in reference and reference != str(digest):
            raise SourceError(
                f"{place}: the registry holds other bytes under this digest: found {digest}",
                "something between here and its storage changes content: look at proxies first",
            )
        return read_manifest(reply.data, reply.headers.get("Content-Type", "").partition(";")[0].strip(), place)

    def _put(self, repository: str, reference: str, manifest: Manifest) -> None:
        path = self.remote.path(repository)
        headers = {"Content-Type": manifest.descriptor.media_type}
        address = f"{path}/manifests/{reference}"
        reply = self.client.call("PUT", address, path, expect=(200, 201), headers=headers, data=manifest.data)
        check_answer(reply, manifest.digest)

    def _referrers(self, repository: str, subject: Digest) -> list[Descriptor] | None:
        """What the referrers API lists; None if the registry has none."""
        path = self.remote.path(repository)
        url, found = f"{path}/referrers/{subject}", list[Descriptor]()
        for _ in range(MAX_PAGES):
            reply = self.client.call("GET", url, path, expect=(200, *NO_API), limit=MAX_MANIFEST)
            kind = reply.headers.get("Content-Type", "").partition(";")[0].strip()
            if reply.status != 200 or kind != IMAGE_INDEX:
                return None
            found += read_index(reply.data, reply.url)
            next_page = _next_page(reply)
            if next_page is None:
                return found
            url = next_page
        raise SourceError(f"{self.remote}/{repository}@{subject}: its referrers are listed in over {MAX_PAGES} parts")

    def _tagged_referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        listed = self.resolve(Name(repository, referrers_tag(subject)))
        if listed is None:
            return []
        if listed.descriptor.media_type not in INDEXES:
            raise SourceError(f"{self.remote}/{repository}:{referrers_tag(subject)} is no index of referrers")
        return read_index(listed.data, f"{self.remote}/{repository}:{referrers_tag(subject)}")


def _next_page(reply: Reply) -> str | None:
    """Where a list goes on (RFC 8288)."""
    match = re.search(r'<([^>]{1,2000})>\s*;\s*rel="?next"?', reply.headers.get("Link", ""))
    return follow(reply.url, match[1]) if match else None
