"""Timestamps (RFC 3161) over signatures: when a signature was there at the latest."""

from __future__ import annotations

import calendar
import hashlib
import re
import tempfile
import time
from pathlib import Path

from pipeline.verifier.der import (
    GENERALIZED_TIME,
    INTEGER,
    OBJECT,
    OCTETS,
    SEQUENCE,
    SET,
    Element,
    encode,
    expect_tag,
    read_children,
    read_elements,
    read_one,
)
from pipeline.verifier.encoding import Refused
from pipeline.verifier.instance import Authority
from pipeline.verifier.openssl import find_openssl, pem_of, run_openssl

MAX_TIMESTAMP_REPLY = 64 << 10
_SIGNED_DATA, _TST_INFO = "2a864886f70d010702", "2a864886f70d0109100104"
"""Object identifiers 1.2.840.113549.1.7.2 (RFC 5652) and 1.2.840.113549.1.9.16.1.4 (RFC 3161, section 2.4.2)."""
_SHA256_NAMES = (bytes.fromhex("300d06096086480165030402010500"), bytes.fromhex("300b0609608648016503040201"))
"""AlgorithmIdentifier of SHA-256, with parameters NULL and without (RFC 5754, section 2)."""
_EXPLICIT = 0xA0
_GENERALIZED = re.compile(rb"([0-9]{14})(?:\.[0-9]{1,9})?Z")


def check_timestamp(reply: bytes, signature: bytes, authorities: tuple[Authority, ...], what: str) -> int:
    """When an authority saw a signature, in seconds since 1970. Raises Refused, naming `what`."""
    token, info, sid = _read_reply(reply, what)
    moment = _read_info(info, signature, what)
    for authority in authorities:
        leaf = authority.chain[0]
        if sid == leaf.issuer + leaf.serial and moment in authority.window:
            if not _verifies(token, signature, authority, moment):
                raise Refused(what, "has a timestamp that its authority did not make")
            return moment
    raise Refused(what, "has a timestamp by an authority that was not trusted at that time")


def _read_reply(reply: bytes, what: str) -> tuple[bytes, Element, bytes]:
    """The token in a TimeStampResp, its TSTInfo, and who signed it: issuer and serial number.

    What stands beside the token is not signed, so only the token is used, and openssl gets nothing else to see.
    """
    if len(reply) > MAX_TIMESTAMP_REPLY:
        raise Refused(what, "has a timestamp that is too large", str(MAX_TIMESTAMP_REPLY), str(len(reply)))
    parts = read_children(read_one(reply, SEQUENCE, what), SEQUENCE, what)
    if len(parts) != 2:
        raise Refused(what, "has no timestamp where one is expected")
    kind, wrapped = _pair(parts[1], what)
    data = read_children(read_one(wrapped, SEQUENCE, what), SEQUENCE, what)
    # version, digestAlgorithms, encapContentInfo, certificates and crls that may be missing, signerInfos
    if kind != _SIGNED_DATA or not 4 <= len(data) <= 6:
        raise Refused(what, "has a timestamp that is not signed data (RFC 5652)")
    content, info = _pair(data[2], what)
    signers = read_children(data[-1], SET, what)
    if content != _TST_INFO or len(signers) != 1:
        raise Refused(what, "has a timestamp that is no TSTInfo with one signature")
    signer = read_children(signers[0], SEQUENCE, what)
    inner = read_one(expect_tag(read_one(info, OCTETS, what), OCTETS, what), SEQUENCE, what)
    return parts[1].raw, inner, expect_tag(signer[1], SEQUENCE, what) if len(signer) > 1 else b""


def _pair(element: Element, what: str) -> tuple[str, bytes]:
    """ContentInfo: a type, and the content in [0]."""
    parts = read_children(element, SEQUENCE, what)
    if len(parts) != 2:
        raise Refused(what, "has a malformed timestamp")
    return expect_tag(parts[0], OBJECT, what).hex(), expect_tag(parts[1], _EXPLICIT, what)


def _read_info(info: Element, signature: bytes, what: str) -> int:
    """The time in a TSTInfo, which has to be about a signature."""
    fields = read_elements(info.content, what)  # version, policy, messageImprint, serialNumber, genTime, and others
    if len(fields) < 5 or fields[3].tag != INTEGER:
        raise Refused(what, "has a malformed timestamp")
    imprint = expect_tag(fields[2], SEQUENCE, what)
    if imprint not in [a + encode(OCTETS, hashlib.sha256(signature).digest()) for a in _SHA256_NAMES]:
        raise Refused(what, "has the timestamp of something else")
    match = _GENERALIZED.fullmatch(expect_tag(fields[4], GENERALIZED_TIME, what))
    try:
        if match:
            return calendar.timegm(time.strptime(match[1].decode(), "%Y%m%d%H%M%S"))
    except (ValueError, OverflowError):
        pass
    raise Refused(what, "has a timestamp with a malformed time")


def _verifies(token: bytes, signature: bytes, authority: Authority, moment: int) -> bool:
    """Whether the token was signed by the authority; its certificates are judged at that time, not at the host's."""
    with tempfile.TemporaryDirectory(prefix="rfo-verify-") as name:
        folder = Path(name)
        (folder / "token").write_bytes(token)
        (folder / "data").write_bytes(signature)
        (folder / "root").write_text(pem_of(authority.chain[-1].raw))
        (folder / "others").write_text("".join(pem_of(c.raw) for c in authority.chain[:-1]))
        command = [find_openssl(), "ts", "-verify", "-token_in", "-in", str(folder / "token")]
        command += ["-data", str(folder / "data"), "-CAfile", str(folder / "root")]
        command += ["-untrusted", str(folder / "others"), "-attime", str(moment)]
        return run_openssl(command).returncode == 0
