"""Signatures: ECDSA on the curve P-256, and RSA (PKCS#1 v1.5), checked by the host's `openssl` (1.1.1 and 3 alike)."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.verifier.encoding import Refused

P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
"""What the DER form of every such key begins with (RFC 5480, section 2): algorithm and curve. A point follows."""
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----\n([A-Za-z0-9+/=\n]{1,400})\n-----END PUBLIC KEY-----\n?")
MAX_SIGNATURE = 1024
"""Bytes; as many as an RSA key of 8192 bits makes. Two numbers of 32 bytes in DER have at most 72."""
SECONDS = 60
"""How long one call of openssl may take."""


class HostLacks(Exception):
    """The host has not what verifying needs."""


@dataclass(frozen=True)
class PublicKey:
    """A key, known by its content alone: what it is called elsewhere decides nothing."""

    spki: bytes
    """SubjectPublicKeyInfo in DER."""

    @property
    def pem(self) -> str:
        """As openssl reads it."""
        return pem_of(self.spki, "PUBLIC KEY")


def pem_of(data: bytes, label: str = "CERTIFICATE") -> str:
    """DER in PEM (RFC 7468)."""
    text = base64.b64encode(data).decode()
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def read_key(value: Any, what: str) -> PublicKey:
    """A key as TUF metadata and policies hold it. Raises Refused for any other kind, naming `what`."""
    if not isinstance(value, dict) or not isinstance(value.get("keyval"), dict):
        raise Refused(what, "holds no public key where one is expected")
    found = str(value.get("keytype"))[:40], str(value.get("scheme"))[:40]
    if found != ("ecdsa", "ecdsa-sha2-nistp256"):
        raise Refused(what, "holds a key of another kind", "ecdsa, ecdsa-sha2-nistp256", ", ".join(found))
    pem = value["keyval"].get("public")
    match = _PEM.fullmatch(pem) if isinstance(pem, str) else None
    try:
        key = PublicKey(base64.b64decode(match[1].replace("\n", ""), validate=True) if match else b"")
    except ValueError:
        key = PublicKey(b"")
    if key.pem.strip() != str(pem).strip() or key.spki[: len(P256)] != P256 or len(key.spki) != len(P256) + 64:
        raise Refused(what, "holds a key that is malformed", "a point of P-256 in PEM", str(pem)[:200])
    return key


def verifies(key: PublicKey, message: bytes, signature: bytes, digest: str = "sha256") -> bool:
    """Whether a signature (of ECDSA in DER) over the digest of a message was made with a key.

    Raises HostLacks without openssl.
    """
    program = find_openssl()
    if len(signature) > MAX_SIGNATURE:
        return False
    return _verifies_digest(program, key, hashlib.new(digest, message).digest(), signature, digest)


@functools.lru_cache(maxsize=256)  # roots are met several times: as trusted, as given, and in the release
def _verifies_digest(program: str, key: PublicKey, value: bytes, signature: bytes, digest: str) -> bool:
    """The same for a message of which the digest is known: openssl need not read megabytes through a pipe."""
    with tempfile.TemporaryDirectory(prefix="rfo-verify-") as name:
        folder = Path(name)
        (folder / "key").write_text(key.pem)
        (folder / "signature").write_bytes(signature)
        command = [program, "pkeyutl", "-verify", "-pubin", "-inkey", str(folder / "key")]
        command += ["-sigfile", str(folder / "signature"), "-pkeyopt", f"digest:{digest}"]
        return run_openssl(command, value).returncode == 0


def run_openssl(command: list[str], data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A call of openssl with `data` on its standard input; nothing of the host's configuration reaches it."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "OPENSSL_CONF": os.devnull}
    try:
        return subprocess.run(command, input=data, capture_output=True, check=False, timeout=SECONDS, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostLacks(f"openssl cannot be run: {error}") from error


def find_openssl() -> str:
    """The path of openssl. Raises HostLacks."""
    found = shutil.which("openssl")
    if not found:
        raise HostLacks("openssl is not installed, and nothing can be checked without it: dnf install openssl")
    return found
