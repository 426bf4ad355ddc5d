"""Entries of transparency logs (Rekor v2): that a signature was logged, proved by the log's signed checkpoint.

Formats: sigstore/protobuf-specs sigstore_rekor.proto, C2SP tlog-checkpoint.md and signed-note.md, RFC 6962.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.verifier.bundle import Bundle
from pipeline.verifier.encoding import Refused, canonical, decode64
from pipeline.verifier.instance import LogKey
from pipeline.verifier.openssl import find_openssl, run_openssl, verifies

KIND = {"kind": "hashedrekord", "version": "0.0.2"}
"""The one type of entry that Rekor v2 keeps."""
MAX_PROOF = 64
"""Hashes; a log of 2^64 entries needs no more."""
MAX_CHECKPOINT = 16 << 10
_ENTRY = {"logIndex", "logId", "kindVersion", "integratedTime", "inclusionProof", "canonicalizedBody"}
_PROOF = {"logIndex", "rootHash", "treeSize", "hashes", "checkpoint"}
_PROTO_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True)
class Logged:
    """An entry of a log, and what proves that it is there."""

    log: bytes
    index: int
    size: int
    """Of the log that the checkpoint is about."""
    root: bytes
    proof: tuple[bytes, ...]
    checkpoint: str
    body: bytes


def read_logged(value: Any, what: str) -> Logged:
    """An entry as bundles hold it, every field written out. Raises Refused, naming `what`."""
    entry = _exactly(value, _ENTRY, what)
    proof = _exactly(entry["inclusionProof"], _PROOF, what)
    checkpoint = _exactly(proof["checkpoint"], {"envelope"}, what)["envelope"]
    hashes = proof["hashes"]
    if entry["kindVersion"] != KIND or entry["integratedTime"] != "0":
        raise Refused(what, "has another type of log entry", "hashedrekord 0.0.2", str(entry["kindVersion"])[:100])
    if not isinstance(checkpoint, str) or len(checkpoint) > MAX_CHECKPOINT:
        raise Refused(what, "has a malformed checkpoint")
    if not isinstance(hashes, list) or len(hashes) > MAX_PROOF:
        raise Refused(what, "has a malformed inclusion proof")
    if entry["logIndex"] != proof["logIndex"]:
        raise Refused(what, "has an inclusion proof of another entry", str(entry["logIndex"]), str(proof["logIndex"]))
    return Logged(
        decode64(_exactly(entry["logId"], {"keyId"}, what)["keyId"], what),
        _number(proof["logIndex"], what),
        _number(proof["treeSize"], what),
        _hash(proof["rootHash"], what),
        tuple(_hash(h, what) for h in hashes),
        checkpoint,
        decode64(entry["canonicalizedBody"], what),
    )


def check_logged(logged: Logged, bundle: Bundle, leaf: bytes, logs: tuple[LogKey, ...], moment: int, what: str) -> None:
    """Raise Refused unless a trusted log holds the bundle's signature, made with the certificate `leaf` (DER)."""
    log = next((k for k in logs if k.id == logged.log and moment in k.window), None)
    if log is None:
        raise Refused(what, "is logged by a log that was not trusted at that time")
    if logged.body != _body(bundle, leaf):
        raise Refused(what, "has the log entry of another signature")
    size, root = _read_checkpoint(logged.checkpoint, log, what)
    if (size, root) != (logged.size, logged.root):
        raise Refused(what, "has an inclusion proof for another checkpoint", str(size), str(logged.size))
    found = merkle_root(logged.index, size, hashlib.sha256(b"\0" + logged.body).digest(), logged.proof)
    if found != root:
        raise Refused(what, "is not in the log: its inclusion proof leads elsewhere")


def _body(bundle: Bundle, leaf: bytes) -> bytes:
    """What the log keeps of a signature; a leaf of its tree. The digest is that of what was signed, DSSE's PAE."""
    verifier = {"keyDetails": "PKIX_ECDSA_P256_SHA_256", "x509Certificate": {"rawBytes": _b64(leaf)}}
    record = {
        "data": {"algorithm": "SHA2_256", "digest": _b64(hashlib.sha256(bundle.message).digest())},
        "signature": {"content": _b64(bundle.signature), "verifier": verifier},
    }
    return canonical({"apiVersion": KIND["version"], "kind": KIND["kind"], "spec": {"hashedRekordV002": record}})


def _read_checkpoint(text: str, log: LogKey, what: str) -> tuple[int, bytes]:
    """Size and root hash of a log. Raises Refused unless the log signed them; signatures of others are ignored."""
    body, separator, signatures = text.partition("\n\n")
    lines = body.split("\n")
    if not separator or len(lines) < 3 or lines[0] != log.origin:
        raise Refused(what, "has the checkpoint of another log", log.origin, lines[0][:100])
    start = f"\u2014 {log.origin} "
    for line in signatures.split("\n"):
        if line.startswith(start):
            named = decode64(line[len(start) :], what)
            if named[:4] == log.id[:4] and _signed(log, f"{body}\n".encode(), named[4:]):
                return _number(lines[1], what), _hash(lines[2], what)
    raise Refused(what, "has a checkpoint that its log did not sign")


def _signed(log: LogKey, message: bytes, signature: bytes) -> bool:
    """Whether a log signed a note."""
    if not log.is_ed25519:
        return verifies(log.key, message, signature)
    with tempfile.TemporaryDirectory(prefix="rfo-verify-") as name:
        folder = Path(name)
        (folder / "key").write_text(log.key.pem)
        (folder / "signature").write_bytes(signature)
        (folder / "message").write_bytes(message)
        command = [find_openssl(), "pkeyutl", "-verify", "-pubin", "-inkey", str(folder / "key"), "-rawin"]
        command += ["-in", str(folder / "message"), "-sigfile", str(folder / "signature")]
        return run_openssl(command).returncode == 0


def merkle_root(index: int, size: int, leaf: bytes, proof: tuple[bytes, ...]) -> bytes | None:
    """The root that a leaf's hash and an inclusion proof lead to (RFC 9162, section 2.1.3.2); None without proof."""
    if not 0 <= index < size:
        return None
    position, last, found = index, size - 1, leaf
    for node in proof:
        if not last:
            return None
        if position & 1 or position == last:
            found = hashlib.sha256(b"\x01" + node + found).digest()
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            found = hashlib.sha256(b"\x01" + found + node).digest()
        position, last = position >> 1, last >> 1
    return None if last else found


def _exactly(value: Any, names: set[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != names:
        found = ", ".join(sorted(value))[:200] if isinstance(value, dict) else type(value).__name__
        raise Refused(what, "has a malformed log entry", ", ".join(sorted(names)), found)
    return value


def _hash(value: Any, what: str) -> bytes:
    found = decode64(value, what)
    if len(found) != hashlib.sha256().digest_size:
        raise Refused(what, "has a malformed hash in its log entry")
    return found


def _number(value: Any, what: str) -> int:
    """64-bit numbers are text in protobuf's JSON."""
    if not isinstance(value, str) or not _PROTO_NUMBER.fullmatch(value):
        raise Refused(what, "has a malformed number in its log entry", "", str(value)[:40])
    return int(value)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
