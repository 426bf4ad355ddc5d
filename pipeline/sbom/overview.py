"""The SPDX document of a whole release: what it consists of, and which document describes each part. Pure."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.lock import BaseLock
from pipeline.model import Digest
from pipeline.sbom.document import (
    ROOT,
    SUPPLIER,
    Document,
    add_base,
    add_component,
    add_module,
    purl_reference,
)
from pipeline.sbom.facts import Component, ReleaseFacts
from pipeline.sbom.purl import purl


def describe_release(
    release: ReleaseFacts,
    components: Sequence[Component],
    bases: Mapping[str, BaseLock],
    deviations: Sequence[str],
    documents: Mapping[str, bytes],
) -> bytes:
    """The release's document.

    `bases` are by platform (`linux/amd64`), `deviations` those that are of no single component, `documents` the other
    documents by file name. Of `components` the modules are left to the documents of what they are linked into.
    """
    document = Document("release", release)
    document.package(
        ROOT,
        name="rfo",
        versionInfo=release.version,
        supplier=SUPPLIER,
        externalRefs=[purl_reference(purl("generic", "rfo", release.version))],
        annotations=document.annotate(f"deviation: {d}" for d in deviations),
    )
    for component in components:
        identifier = add_component(document, component)
        document.relate(ROOT, "CONTAINS", identifier)
        if component.toolchain:
            document.relate(add_module(document, component.toolchain.module), "BUILD_TOOL_OF", identifier)
    for name in sorted({b.base for b in bases.values()}):
        used = {p: b for p, b in bases.items() if b.base == name}
        lock = next(iter(used.values()))
        comments = [f"base of {p}" for p in sorted(used)]
        comments += [f"suite {s.name} for {s.arch} of {s.date}, metadata {s.digest}" for s in sorted(lock.suites)]
        comments += [f"lock {Digest.of_bytes(lock.render().encode())}"]
        document.relate(ROOT, "DEPENDS_ON", add_base(document, name, comments))
    document.references = [_reference(name, data) for name, data in sorted(documents.items())]
    for reference in document.references:
        document.relate(ROOT, "CONTAINS", f"{reference['externalDocumentId']}:{ROOT}")
    return document.render()


def _reference(name: str, data: bytes) -> dict[str, Any]:
    """SPDX 2.3, 6.6: another document by the SHA-1 of its bytes. Its SHA-256 is in the release's manifest."""
    total = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    return {
        "externalDocumentId": "DocumentRef-" + re.sub(r"[^A-Za-z0-9.-]+", "-", name.removesuffix(".spdx.json")),
        "spdxDocument": json.loads(data)["documentNamespace"],
        "checksum": {"algorithm": "SHA1", "checksumValue": total},
    }
