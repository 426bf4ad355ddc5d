"""Send one blob to a registry: mount it, or stream it and go on where a dropped connection left it.

Format: OCI distribution-spec 1.1, "Pushing blobs"; the state of an upload is asked as in "Resuming an upload" there.
"""

import re
from pathlib import Path
from urllib.parse import quote

from pipeline.errors import SourceError
from pipeline.model import CHUNK, Digest
from pipeline.registry.client import ATTEMPTS, Broken, Client, Refused, Reply
from pipeline.registry.content import Content
from pipeline.registry.meter import Track
from pipeline.registry.oci import Descriptor

GONE = (400, 404, 405, 416)
"""How registries answer to an upload that they no longer know or cannot continue."""


def has_blob(client: Client, path: str, blob: Descriptor) -> bool:
    """Whether the repository at `path` has a blob. Raises SourceError if it has another under this digest."""
    reply = client.call("HEAD", f"{path}/blobs/{blob.digest}", path, expect=(200, 404))
    if reply.status == 200:
        check_answer(reply, blob.digest)
        if reply.headers.get("Content-Length", str(blob.size)) != str(blob.size):
            raise SourceError(
                f"{reply.url}: the registry holds other bytes under this digest: "
                f"expected {blob.size} bytes, found {reply.headers['Content-Length']}",
                "its storage is damaged: delete the blob there, and run the command again",
            )
    return reply.status == 200


def mount_blob(client: Client, path: str, blob: Descriptor, source: str) -> bool:
    """Have a blob of another repository of this registry without sending it; False if the registry does not."""
    query = f"mount={quote(str(blob.digest))}&from={quote(source, safe='')}"
    reply = client.call("POST", f"{path}/blobs/uploads/?{query}", path, expect=(201, 202, 403, *GONE))
    if reply.status == 202:  # an upload was begun instead
        client.call("DELETE", reply.location, path, expect=(200, 202, 204, *GONE))
    return reply.status == 201


def send_blob(client: Client, path: str, blob: Descriptor, file: Path, track: Track) -> None:
    """Upload a file as a blob, its digest checked on the way; an interrupted connection is taken up.

    Raises SourceError if the file is damaged, NetworkError.
    """
    location, offset, failures, best = "", 0, 0, 0
    while True:
        try:
            if not location:
                location, offset = client.call("POST", f"{path}/blobs/uploads/", path, expect=(202,)).location, 0
            track.at(offset)
            if offset < blob.size:
                location = _send_rest(client, path, blob, location, Content(file, blob, offset, track))
                offset = blob.size
            joint = "&" if "?" in location else "?"
            reply = client.once("PUT", f"{location}{joint}digest={quote(str(blob.digest))}", path, (201, 204))
        except Broken as broken:
            client.wait(broken, failures := failures + 1)
            if has_blob(client, path, blob):  # what broke was the answer
                break
            location, offset = _ask_offset(client, path, location, blob)
            if offset >= best + CHUNK:  # it advances: that it does so in many parts is no failure
                best, failures = offset, 0
        except Refused as refused:
            if refused.status not in GONE or (failures := failures + 1) >= ATTEMPTS:
                raise
            location = ""
        else:
            check_answer(reply, blob.digest)
            break
    track.at(blob.size)


def check_answer(reply: Reply, digest: Digest) -> None:
    """Compare what the registry says that it has with what it was asked for. Raises SourceError."""
    said = reply.headers.get("Docker-Content-Digest", str(digest))
    if said != str(digest):
        raise SourceError(
            f"{reply.url.partition('?')[0]}: the registry holds other bytes under this digest or name:\n"
            f"  expected {digest}\n  found    {said[:80]}",
            "something between here and its storage changes content: look at proxies first",
        )


def _send_rest(client: Client, path: str, blob: Descriptor, location: str, content: Content) -> str:
    """Send what is missing of a blob; returns where to conclude the upload."""
    start = blob.size - len(content)
    headers = {"Content-Type": "application/octet-stream"}
    if start:  # as a plain stream otherwise, which every registry knows
        headers["Content-Range"] = f"{start}-{blob.size - 1}"
    return client.once("PATCH", location, path, (201, 202, 204), headers, content).location


def _ask_offset(client: Client, path: str, location: str, blob: Descriptor) -> tuple[str, int]:
    """Where an upload goes on, and from which byte; no place if the registry cannot say."""
    if not location:
        return "", 0
    try:
        reply = client.call("GET", location, path, expect=(200, 202, 204, *GONE))
    except Refused:
        return "", 0
    match = re.fullmatch(r"(?:bytes=)?0-([0-9]{1,18})", reply.headers.get("Range", ""))
    if reply.status in GONE or match is None:
        return "", 0
    offset = int(match[1]) + 1 if int(match[1]) else 0  # `0-0` is how registries say that they have nothing
    location = reply.location if "Location" in reply.headers else location
    return (location, offset) if offset <= blob.size else ("", 0)
