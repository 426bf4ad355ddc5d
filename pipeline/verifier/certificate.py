"""Signatures by certificate ("keyless"): somebody proved an identity to an issuer, and all that can be checked offline.

A Sigstore instance's authority issued a short-lived certificate for the identity, another stamped the time of the
signature, and two logs keep the certificate and the signature. Formats: sigstore/fulcio
docs/certificate-specification.md, RFC 6962 (certificate transparency).
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from pipeline.verifier.bundle import Bundle
from pipeline.verifier.der import (
    OCTETS,
    SEQUENCE,
    UTF8,
    Certificate,
    Element,
    read_certificate,
    read_children,
    read_one,
)
from pipeline.verifier.encoding import Refused, decode64
from pipeline.verifier.instance import Authority, Instance
from pipeline.verifier.logged import check_logged, read_logged
from pipeline.verifier.openssl import P256, PublicKey, find_openssl, pem_of, run_openssl, verifies
from pipeline.verifier.stamped import check_timestamp

MAX_CERTIFICATE = 16 << 10
_ALT_NAME, _USAGE, _PURPOSES = "551d11", "551d0f", "551d25"
_CODE_SIGNING = "2b06010505070303"
_ISSUER = "2b0601040183bf300108"
"""1.3.6.1.4.1.57264.1.8: the OpenID Connect issuer that knows the identity."""
_SCTS = "2b06010401d679020402"
"""1.3.6.1.4.1.11129.2.4.2: what certificate logs promised."""
_EMAIL, _URI = 0x81, 0x86
"""Tags of rfc822Name and uniformResourceIdentifier in GeneralName (RFC 5280, section 4.2.1.6)."""


def verify_certified(bundle: Bundle, instance: Instance, identity: str, issuer: str, what: str) -> None:
    """Raise Refused, naming `what`, unless an identity that an issuer knows signed, as an instance proves."""
    proof = bundle.proof
    if proof is None:
        raise Refused(what, "is signed by a key where a certificate is expected", identity)
    leaf = read_certificate(_bounded(decode64(proof.certificate, what), what), what)
    _check_identity(leaf, identity, issuer, what)
    key = PublicKey(leaf.spki)
    if leaf.spki[: len(P256)] != P256 or not verifies(key, bundle.message, bundle.signature):
        raise Refused(what, "was changed after it was signed, or is signed by somebody else", identity)
    logged = read_logged(proof.entry, what)
    for stamp in proof.timestamps:
        moment = check_timestamp(decode64(stamp, what), bundle.signature, instance.timestamps, what)
        authority = _find_authority(leaf, instance, moment, what)
        _check_transparency(leaf, authority, instance, what)
        check_logged(logged, bundle, leaf.raw, instance.logs, moment, what)


def _check_identity(leaf: Certificate, identity: str, issuer: str, what: str) -> None:
    """Raise Refused unless a certificate is for signing, and for the one identity."""
    purposes = [e.content.hex() for e in _values(leaf, _PURPOSES, what)]
    usage = leaf.extensions.get(_USAGE, (False, b""))[1]
    if purposes != [_CODE_SIGNING] or usage != b"\x03\x02\x07\x80":
        raise Refused(what, "has a certificate that is not for signing code")
    names = _values(leaf, _ALT_NAME, what)
    kind = _URI if "://" in identity else _EMAIL
    found = [n.content.decode(errors="replace") for n in names if n.tag in (_URI, _EMAIL)]
    if len(names) != 1 or (names[0].tag, names[0].content) != (kind, identity.encode()):
        raise Refused(what, "is signed by another identity", identity, ", ".join(found)[:300])
    value = leaf.extensions.get(_ISSUER, (False, b""))[1]
    known = read_one(value, UTF8, what).content if value else b""
    if known != issuer.encode():
        reason = "is signed by an identity that another issuer knows"
        raise Refused(what, reason, issuer, known.decode(errors="replace")[:300])


def _values(leaf: Certificate, extension: str, what: str) -> list[Element]:
    """The values in the list that an extension is; none without it."""
    value = leaf.extensions.get(extension, (False, b""))[1]
    return read_children(read_one(value, SEQUENCE, what), SEQUENCE, what) if value else []


def _find_authority(leaf: Certificate, instance: Instance, moment: int, what: str) -> Authority:
    """The authority that issued a certificate, which was valid at a time. Raises Refused."""
    for authority in instance.authorities:
        if moment in authority.window and _issued(leaf, authority, moment):
            return authority
    raise Refused(what, "has a certificate that no trusted authority issued, or that was not valid when it was used")


def _issued(leaf: Certificate, authority: Authority, moment: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="rfo-verify-") as name:
        folder = Path(name)
        (folder / "leaf").write_text(pem_of(leaf.raw))
        (folder / "root").write_text(pem_of(authority.chain[-1].raw))
        (folder / "others").write_text("".join(pem_of(c.raw) for c in authority.chain[:-1]))
        # -trusted and not -CAfile: with that the host's own authorities would count as well.
        command = [find_openssl(), "verify", "-x509_strict", "-attime", str(moment), "-trusted", str(folder / "root")]
        if authority.chain[1:]:
            command += ["-untrusted", str(folder / "others")]
        return run_openssl([*command, str(folder / "leaf")]).returncode == 0


def _check_transparency(leaf: Certificate, authority: Authority, instance: Instance, what: str) -> None:
    """Raise Refused unless a trusted log promised to keep the certificate (RFC 6962, sections 3.2 and 3.3)."""
    value = leaf.extensions.get(_SCTS, (False, b""))[1]
    octets = read_one(value, OCTETS, what).content if value else b""
    promise = octets[4:]
    sizes = int.from_bytes(octets[:2], "big"), int.from_bytes(octets[2:4], "big")
    # version, the log's id, milliseconds, extensions, algorithms (SHA-256, ECDSA), signature
    at = 43 + int.from_bytes(promise[41:43], "big")
    signature = promise[at + 4 :]
    well_formed = sizes == (len(promise) + 2, len(promise)) and promise[:1] == b"\0" and promise[at : at + 2] == b"\4\3"
    if not well_formed or int.from_bytes(promise[at + 2 : at + 4], "big") != len(signature):
        raise Refused(what, "has a certificate without the promise of one certificate log")
    moment = int.from_bytes(promise[33:41], "big") // 1000
    log = next((k for k in instance.certificate_logs if k.id == promise[1:33] and moment in k.window), None)
    body = leaf.signed_without(_SCTS)
    issuer = hashlib.sha256(authority.chain[0].spki).digest()
    message = b"\0\0" + promise[33:41] + b"\0\1" + issuer + len(body).to_bytes(3, "big") + body + promise[41:at]
    if log is None or not verifies(log.key, message, signature):
        raise Refused(what, "has a certificate that no trusted certificate log promised to keep")


def _bounded(data: bytes, what: str) -> bytes:
    if len(data) > MAX_CERTIFICATE:
        raise Refused(what, "has a certificate that is too large", str(MAX_CERTIFICATE), str(len(data)))
    return data
