"""A Sigstore instance in one process, for cheap tests: authority, both logs and timestamps, over HTTP on loopback.

It does what Fulcio, a certificate log, Rekor v2 and a timestamp authority do for one client, and no more: it believes
every token. `tests/sigstack.py` starts the real ones.
"""

import base64
import hashlib
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, ObjectIdentifier

from pipeline.verifier.der import OCTETS, UTF8, encode
from pipeline.verifier.encoding import canonical

ISSUER = "https://issuer.example"
IDENTITY = "https://builds.example/rfo/release"
ORIGIN = "log.example"
TRUST_CONFIG = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
ROOT_TYPE = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
SIGNING_CONFIG = "application/vnd.dev.sigstore.signingconfig.v0.2+json"
Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
TSA_CONFIG = """[tsa]
default_tsa = t
[t]
serial = {0}/serial
signer_cert = {0}/tsa.pem
signer_key = {0}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_alg = sha256
"""


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def spki(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def new_p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def token(identity: str = IDENTITY, issuer: str = ISSUER, seconds: int = 6 * 3600) -> str:
    """An identity token (RFC 7519) whose signature is nothing: only the real authority looks at it."""
    now = int(time.time())
    claims = {"aud": "sigstore", "sub": identity, "iss": issuer, "iat": now, "exp": now + seconds}
    parts = [json.dumps(v).encode() for v in ({"alg": "RS256", "typ": "JWT"}, claims)]
    return ".".join(base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in [*parts, b"none"])


def authority(name: str, signer: "Issuer | None" = None, purpose: ObjectIdentifier | None = None) -> "Issuer":
    """An authority: a root, or an intermediate one for a purpose."""
    key = new_p256()
    builder = _builder(name, key.public_key(), signer, timedelta(days=3650))
    path = None if signer is None else 0
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path), critical=True)
    builder = builder.add_extension(_usage(sign=True), critical=True)
    if purpose:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return Issuer(builder.sign(signer.key if signer else key, SHA256()), key)


@dataclass(frozen=True)
class Issuer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def _builder(
    name: str, public: ec.EllipticCurvePublicKey, signer: Issuer | None, life: timedelta, back: float = 60
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=back)
    above = signer.certificate.public_key() if signer else public
    assert isinstance(above, ec.EllipticCurvePublicKey)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above), critical=False)
    )


def _usage(sign: bool) -> x509.KeyUsage:
    """Of an authority, or of a signer."""
    return x509.KeyUsage(not sign, False, False, False, False, sign, sign, False, False)


@dataclass
class StandIn:
    """The instance. Fields say how it differs from an honest one."""

    log_key: Key = field(default_factory=new_p256)
    life: float = 6 * 3600
    """Seconds until the signer's and the timestamps' certificates end."""
    stamps: bool = True
    purpose: ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING
    promises: bool = True
    """Whether certificates carry what their log promised."""
    leaves: list[bytes] = field(default_factory=list)
    """Hashes of the log's entries."""
    issued: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self.root = authority("root")
        self.ca = authority("intermediate", self.root, ExtendedKeyUsageOID.CODE_SIGNING)
        self.tsa_root = authority("stamps root")
        self.ct_key = new_p256()
        key = new_p256()
        builder = _builder("stamps", key.public_key(), self.tsa_root, timedelta(seconds=self.life + 60))
        builder = builder.add_extension(_usage(sign=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        self.tsa = Issuer(builder.sign(self.tsa_root.key, SHA256()), key)

    # --- what is trusted

    def trusted_root(self) -> dict[str, Any]:
        def chain(*issuers: Issuer) -> dict[str, Any]:
            certificates = [{"rawBytes": b64(i.der)} for i in issuers]
            subject = {"organization": "example", "commonName": "example"}
            return {
                "subject": subject,
                "uri": self.url,
                "certChain": {"certificates": certificates},
                "validFor": dict(since),
            }

        def log(key: Key, origin: str, identifier: bytes) -> dict[str, Any]:
            kind = "PKIX_ED25519" if isinstance(key, ed25519.Ed25519PrivateKey) else "PKIX_ECDSA_P256_SHA_256"
            public = {"rawBytes": b64(spki(key)), "keyDetails": kind, "validFor": dict(since)}
            named = {"keyId": b64(identifier)}
            return {"baseUrl": f"https://{origin}", "hashAlgorithm": "SHA2_256", "publicKey": public, "logId": named}

        since = {"start": "2020-01-01T00:00:00Z"}
        return {
            "mediaType": ROOT_TYPE,
            "tlogs": [log(self.log_key, ORIGIN, self.log_id)],
            "ctlogs": [log(self.ct_key, "ct.example", hashlib.sha256(spki(self.ct_key)).digest())],
            "certificateAuthorities": [chain(self.ca, self.root)],
            "timestampAuthorities": [chain(self.tsa, self.tsa_root)],
        }

    def trust_config(self) -> dict[str, Any]:
        return trust_config(
            self.trusted_root(), self.url, self.url, self.url, self.url + "/api/v1/timestamp" if self.stamps else ""
        )

    @property
    def log_id(self) -> bytes:
        """What the log is named by (C2SP signed-note.md)."""
        if isinstance(self.log_key, ed25519.Ed25519PrivateKey):
            return hashlib.sha256(ORIGIN.encode() + b"\n\x01" + spki(self.log_key)[-32:]).digest()
        return hashlib.sha256(spki(self.log_key)).digest()

    # --- what it does

    def issue(self, public: ec.EllipticCurvePublicKey, identity: str, issuer: str) -> bytes:
        """A signer's certificate, DER."""
        self.issued += 1
        name = x509.UniformResourceIdentifier(identity) if "://" in identity else x509.RFC822Name(identity)
        oid = "1.3.6.1.4.1.57264.1."
        builder = _builder("", public, self.ca, timedelta(seconds=self.life + 1), back=1)
        builder = builder.add_extension(_usage(sign=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([self.purpose]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=True)
        for number, value in ((1, issuer.encode()), (8, encode(UTF8, issuer.encode()))):
            unknown = x509.UnrecognizedExtension(ObjectIdentifier(f"{oid}{number}"), value)
            builder = builder.add_extension(unknown, critical=False)
        if self.promises:
            body = builder.sign(self.ca.key, SHA256()).tbs_certificate_bytes
            listed = encode(OCTETS, self._promise(body))
            promised = ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS
            builder = builder.add_extension(x509.UnrecognizedExtension(promised, listed), critical=False)
        return builder.sign(self.ca.key, SHA256()).public_bytes(Encoding.DER)

    def _promise(self, body: bytes) -> bytes:
        """A list of one signed certificate timestamp (RFC 6962, section 3.3)."""
        moment = (int(time.time()) * 1000).to_bytes(8, "big")
        size = len(body).to_bytes(3, "big")
        message = b"\0\0" + moment + b"\0\1" + hashlib.sha256(spki(self.ca.key)).digest() + size + body + b"\0\0"
        signature = self.ct_key.sign(message, ec.ECDSA(SHA256()))
        sct = b"\0" + hashlib.sha256(spki(self.ct_key)).digest() + moment + b"\0\0" + b"\4\3"
        sct += len(signature).to_bytes(2, "big") + signature
        return (len(sct) + 2).to_bytes(2, "big") + len(sct).to_bytes(2, "big") + sct

    def log(self, request: dict[str, Any]) -> dict[str, Any]:
        """Keep an entry; returns what proves it."""
        asked = request["hashedRekordRequestV002"]
        data = {"algorithm": "SHA2_256", "digest": asked["digest"]}
        record = {"data": data, "signature": asked["signature"]}
        body = {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": record}}
        self.leaves.append(hashlib.sha256(b"\0" + canonical(body)).digest())
        index = len(self.leaves) - 1
        root, proof = prove(self.leaves, index)
        return {
            "logIndex": str(index),
            "logId": {"keyId": b64(self.log_id)},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "integratedTime": "0",
            "inclusionProof": {
                "logIndex": str(index),
                "rootHash": b64(root),
                "treeSize": str(len(self.leaves)),
                "hashes": [b64(h) for h in proof],
                "checkpoint": {"envelope": self.checkpoint(len(self.leaves), root)},
            },
            "canonicalizedBody": b64(canonical(body)),
        }

    def checkpoint(self, size: int, root: bytes) -> str:
        text = f"{ORIGIN}\n{size}\n{b64(root)}\n"
        if isinstance(self.log_key, ed25519.Ed25519PrivateKey):
            signature = self.log_key.sign(text.encode())
        else:
            signature = self.log_key.sign(text.encode(), ec.ECDSA(SHA256()))
        return f"{text}\n\u2014 {ORIGIN} {b64(self.log_id[:4] + signature)}\n"

    def stamp(self, query: bytes) -> bytes:
        """The reply to a query (RFC 3161)."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "query").write_bytes(query)
            (folder / "serial").write_text("01\n")
            (folder / "config").write_text(TSA_CONFIG.format(folder))
            (folder / "tsa.pem").write_bytes(self.tsa.certificate.public_bytes(Encoding.PEM))
            private = self.tsa.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (folder / "tsa.key").write_bytes(private)
            command = ["openssl", "ts", "-reply", "-config", f"{folder}/config", "-queryfile", f"{folder}/query"]
            return subprocess.run([*command, "-out", "/dev/stdout"], check=True, capture_output=True).stdout

    def answer(self, path: str, data: bytes, bearer: str) -> tuple[str, bytes]:
        """The type and the content of what a client gets."""
        if path == "/api/v1/timestamp":
            return "application/timestamp-reply", self.stamp(data)
        request = json.loads(data)
        if path == "/api/v2/log/entries":
            return "application/json", json.dumps(self.log(request)).encode()
        assert path == "/api/v2/signingCert", path
        middle = bearer.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        pem = base64.b64decode(request["certificateSigningRequest"])
        public = x509.load_pem_x509_csr(pem).public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        leaf = self.issue(public, claims["sub"], claims["iss"])
        chain = [x509.load_der_x509_certificate(leaf), self.ca.certificate, self.root.certificate]
        pems = [c.public_bytes(Encoding.PEM).decode() for c in chain]
        return "application/json", json.dumps(
            {"signedCertificateEmbeddedSct": {"chain": {"certificates": pems}}}
        ).encode()

    @contextmanager
    def serving(self) -> Iterator["StandIn"]:
        """It answers at `url`."""
        instance = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                kind, answer = instance.answer(self.path, data, self.headers.get("Authorization", ""))
                self.send_response(200 if kind != "application/json" else 201)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


def trust_config(root: dict[str, Any], ca: str, oidc: str, log: str, tsa: str) -> dict[str, Any]:
    """What a client needs of an instance: the trusted root, and where its services are."""

    def service(url: str, version: int) -> list[dict[str, Any]]:
        since = {"start": "2020-01-01T00:00:00Z"}
        return [{"url": url, "majorApiVersion": version, "validFor": since, "operator": "example"}] if url else []

    config = {
        "mediaType": SIGNING_CONFIG,
        "caUrls": service(ca, 1),
        "oidcUrls": service(oidc, 1),
        "rekorTlogUrls": service(log, 2),
        "tsaUrls": service(tsa, 1),
        "rekorTlogConfig": {"selector": "ANY"},
        "tsaConfig": {"selector": "ANY"},
    }
    return {"mediaType": TRUST_CONFIG, "trustedRoot": root, "signingConfig": config}


def prove(leaves: list[bytes], index: int) -> tuple[bytes, list[bytes]]:
    """Root and inclusion proof of a leaf (RFC 6962, section 2.1.1)."""
    if len(leaves) == 1:
        return leaves[0], []
    half = 1 << (len(leaves) - 1).bit_length() - 1
    left, right = leaves[:half], leaves[half:]
    ours, others = (left, right) if index < half else (right, left)
    found, proof = prove(ours, index if index < half else index - half)
    other = prove(others, 0)[0]
    pair = found + other if index < half else other + found
    return hashlib.sha256(b"\x01" + pair).digest(), [*proof, other]
