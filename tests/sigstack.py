"""The private Sigstore stack: Fulcio, TesseraCT, Rekor v2, timestamp authority and token issuer, on loopback.

The programs are those of the Sigstore project, with keys and certificates made here. `tests/standin.py` is the cheap
one. Every server is started by `running` and ended by it.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from registry_server import free_address
from standin import StandIn, trust_config
from tools import tool

IDENTITY = "release@rfo.example"
LOG, CERTIFICATE_LOG = "log.rfo.example", "ct.rfo.example"
"""Names of the two logs; nothing resolves them."""
PASSWORD = "of the authority"  # noqa: S105 - of a key that lives as long as a test
SECONDS = 60
"""How long a server may take until it answers."""


class Tokens:
    """An OpenID Connect issuer: it says who somebody is, and where its key is."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.url = ""

    def token(self, identity: str = IDENTITY, seconds: int = 600) -> str:
        """An identity token (RFC 7519, RS256)."""
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": "sigstore", "sub": identity, "email": identity, "email_verified": True,
            "iat": now, "nbf": now, "exp": now + seconds,
        }  # fmt: skip
        text = ".".join(_url64(json.dumps(v).encode()) for v in ({"alg": "RS256", "typ": "JWT", "kid": "1"}, claims))
        return f"{text}.{_url64(self.key.sign(text.encode(), padding.PKCS1v15(), SHA256()))}"

    def answer(self, path: str) -> Any:
        if path == "/.well-known/openid-configuration":
            return {
                "issuer": self.url, "jwks_uri": f"{self.url}/keys", "authorization_endpoint": f"{self.url}/auth",
                "token_endpoint": f"{self.url}/token", "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"],
            }  # fmt: skip
        numbers = self.key.public_key().public_numbers()
        key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "n": _number(numbers.n), "e": _number(numbers.e)}
        return {"keys": [key]}

    @contextmanager
    def serving(self) -> Iterator[None]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = json.dumps(issuer.answer(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()


class SigStack:
    """The instance. What it is trusted by is what the stand-in would say, with its own keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens = Tokens()
        self.made = StandIn()
        for name in ("tesseract", "fulcio", "rekor-server", "timestamp-server"):
            tool(name)  # built before the ports are chosen, if it must be
        self.ports = _free_ports(8)

    @property
    def issuer(self) -> str:
        return self.tokens.url

    def trusted_root(self) -> dict[str, Any]:
        root = self.made.trusted_root()
        root["tlogs"][0]["baseUrl"] = f"https://{LOG}"
        root["ctlogs"][0]["baseUrl"] = f"https://{CERTIFICATE_LOG}"
        return root

    def trust_config(self) -> dict[str, Any]:
        ca, log, tsa = (f"http://127.0.0.1:{self.ports[n]}" for n in (0, 3, 6))
        return trust_config(self.trusted_root(), ca, self.issuer, log, f"{tsa}/api/v1/timestamp")

    @property
    def entries(self) -> int:
        """How many the log has (C2SP tlog-checkpoint.md)."""
        lines = (self.folder / "rekor" / "checkpoint").read_text().split("\n")
        return int(lines[1])

    def commands(self) -> dict[str, list[str]]:
        """How each server is started, in the order in which they need each other."""
        ca, ca_grpc, ca_metrics, log, log_grpc, log_metrics, tsa, ct = map(str, self.ports)
        folder, made = self.folder, self.made
        for name, key in (("ct", made.ct_key), ("rekor", made.log_key), ("tsa", made.tsa.key)):
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            _write_key(folder / f"{name}.key", key, NoEncryption())
        _write_key(folder / "ca.key", made.ca.key, BestAvailableEncryption(PASSWORD.encode()))
        public = made.ct_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / "ct.pub").write_bytes(public)
        chains = {"ca": (made.ca, made.root), "roots": (made.root,), "tsa": (made.tsa, made.tsa_root)}
        for name, chain in chains.items():
            text = b"".join(i.certificate.public_bytes(Encoding.PEM) for i in chain)
            (folder / f"{name}.pem").write_bytes(text)
        known = {"IssuerURL": self.issuer, "ClientID": "sigstore", "Type": "email"}
        (folder / "fulcio.json").write_text(json.dumps({"OIDCIssuers": {self.issuer: known}}))
        return {
            "tesseract": [
                f"--http_endpoint=127.0.0.1:{ct}", f"--origin={CERTIFICATE_LOG}", f"--storage_dir={folder}/ct",
                f"--roots_pem_file={folder}/roots.pem", f"--private_key={folder}/ct.key",
                "--checkpoint_interval=200ms", "--batch_max_age=50ms",
            ],
            "fulcio": [
                "serve", "--host=127.0.0.1", f"--port={ca}", "--grpc-host=127.0.0.1", f"--grpc-port={ca_grpc}",
                f"--metrics-port={ca_metrics}", f"--legacy-unix-domain-socket={folder}/socket", "--ca=fileca",
                f"--fileca-cert={folder}/ca.pem", f"--fileca-key={folder}/ca.key", f"--fileca-key-passwd={PASSWORD}",
                "--fileca-watch=false", f"--config-path={folder}/fulcio.json", f"--ct-log-url=http://127.0.0.1:{ct}",
                f"--ct-log-origin={CERTIFICATE_LOG}", f"--ct-log-public-key-path={folder}/ct.pub",
            ],
            "rekor-server": [
                "serve", f"--hostname={LOG}", f"--storage-dir={folder}/rekor", f"--signer-filepath={folder}/rekor.key",
                f"--http-port={log}", f"--grpc-port={log_grpc}", f"--http-metrics-port={log_metrics}",
                "--checkpoint-interval=200ms", "--batch-max-age=50ms",
            ],
            "timestamp-server": [
                "serve", "--host=127.0.0.1", f"--port={tsa}", "--scheme=http", "--timestamp-signer=file",
                f"--file-signer-key-path={folder}/tsa.key", f"--certificate-chain-path={folder}/tsa.pem",
                "--disable-ntp-monitoring",
            ],
        }  # fmt: skip


@contextmanager
def running(folder: Path) -> Iterator[SigStack]:
    """All servers, with their files in `folder`; they are ended afterwards."""
    stack = SigStack(folder)
    with ExitStack() as servers:
        servers.enter_context(stack.tokens.serving())
        ports = {"tesseract": stack.ports[7], "fulcio": stack.ports[0], "rekor-server": stack.ports[3]}
        for name, arguments in stack.commands().items():
            servers.enter_context(_server(name, arguments, ports.get(name, stack.ports[6]), folder))
        yield stack


@contextmanager
def _server(name: str, arguments: list[str], port: int, folder: Path) -> Iterator[None]:
    log = folder / f"{name}.log"
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GOMEMLIMIT": "256MiB"}
    with log.open("wb") as file:
        process = subprocess.Popen([tool(name), *arguments], cwd=folder, env=environment, stdout=file, stderr=file)
    try:
        limit = time.monotonic() + SECONDS
        while not _answers(port):
            failed = process.poll() is not None or time.monotonic() > limit
            assert not failed, f"{name} does not answer: {log.read_text()[-3000:]}"
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    found: set[int] = set()
    while len(found) < count:
        found.add(int(free_address().split(":")[1]))
    return sorted(found)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey, lock: KeySerializationEncryption) -> None:
    path.touch(0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, lock))


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int) -> str:
    return _url64(value.to_bytes((value.bit_length() + 7) // 8, "big"))
