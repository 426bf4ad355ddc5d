"""in-toto Statements v1, read strictly (in-toto attestation framework, spec/v1/statement.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pipeline.verifier.encoding import Refused, parse_canonical, spelled

STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
"""Of a DSSE envelope around a statement."""
PROVENANCE = "https://slsa.dev/provenance/v1"
RELEASE = "https://in-toto.io/attestation/release/v0.2"
REBUILD = "https://rfolabs.github.io/rfo/rebuild/v1"
SPDX = "https://spdx.dev/Document"
IMAGE_SIGNATURE = "https://sigstore.dev/cosign/sign/v1"
MAX_STATEMENT = 32 << 20
"""Bytes of a statement."""
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Statement:
    """A claim about subjects, each named by digest."""

    subjects: dict[str, str]
    """Name to SHA-256, 64 hexadecimal digits. A subject without a name has its digest as name."""
    predicate_type: str
    predicate: dict[str, Any]


def read_statement(payload: bytes, what: str, document: dict[str, Any] | None = None) -> Statement:
    """The statement in the bytes that were signed; they have to be canonical. Raises Refused, naming `what`.

    `document` is what the predicate is expected to be. If it is, it is not read again, but becomes the predicate: what
    stands around it is a statement with an empty one.
    """
    if document is not None:
        head, body = b'{"_type":"%s","predicate":' % STATEMENT.encode(), spelled(document, payload)
        if payload.startswith(head) and payload.startswith(body, len(head)):
            around = read_statement(head + b"{}" + payload[len(head) + len(body) :], what)
            return Statement(around.subjects, around.predicate_type, document)
    data = parse_canonical(payload, what, MAX_STATEMENT, end=b"")
    if not isinstance(data, dict) or set(data) != {"_type", "subject", "predicateType", "predicate"}:
        raise Refused(what, "is no statement", "_type, subject, predicateType, predicate", _keys(data))
    if data["_type"] != STATEMENT:
        raise Refused(what, "is of another type", STATEMENT, str(data["_type"])[:200])
    if not isinstance(data["predicateType"], str) or not isinstance(data["predicate"], dict):
        raise Refused(what, "has no predicate with its type")
    if not isinstance(data["subject"], list) or not data["subject"]:
        raise Refused(what, "is about nothing")
    subjects: dict[str, str] = {}
    for subject in data["subject"]:
        name, digest = _read_subject(subject, what)
        if subjects.setdefault(name, digest) != digest:
            raise Refused(what, f"names {name} with two digests")
    if len(subjects) != len(data["subject"]):
        raise Refused(what, "names a subject twice")
    return Statement(subjects, data["predicateType"], data["predicate"])


def _read_subject(subject: Any, what: str) -> tuple[str, str]:
    if not isinstance(subject, dict) or not set(subject) <= {"name", "digest"}:
        raise Refused(what, "has a subject that is not a name and a digest")
    digest = subject.get("digest")
    if not isinstance(digest, dict) or set(digest) != {"sha256"}:
        raise Refused(what, "has a subject without the one digest sha256")
    value = digest["sha256"]
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise Refused(what, "has a malformed digest", "64 lower-case hexadecimal digits", str(value)[:100])
    name = subject.get("name", value)
    if not isinstance(name, str) or not name or len(name) > 1024:
        raise Refused(what, "has a subject with a malformed name")
    return name, value


def _keys(data: Any) -> str:
    return ", ".join(sorted(data))[:200] if isinstance(data, dict) else type(data).__name__
