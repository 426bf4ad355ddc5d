"""Registries for tests, all on loopback: distribution itself, one with the referrers API, and a proxy that disturbs.

`distribution` serves plain, with TLS, with passwords or with tokens; `Disturber` stands in front of any of them, counts
what is asked and answers as told; `connect_proxy` is an HTTP proxy. `Images` makes small, valid OCI image layouts.
"""

import base64
import gzip
import hashlib
import http.client
import io
import json
import os
import random
import re
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from tools import MODULES, compiled, tool

USER, PASSWORD, REFRESH_TOKEN = "builder", "open sesame", "of the identity"
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
REFERRERS_SERVER = """package main

import (
	"log"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	log.Fatal(http.ListenAndServe(os.Args[1], registry.New(registry.WithReferrersSupport(true))))
}
"""


# --- registries


def free_address() -> str:
    """A loopback address nobody listens on, and that the kernel gives to nobody who asks it for any."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(lowest // 2, lowest)))  # noqa: S311 - a port, not a secret
            return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def _process(command: Sequence[str], address: str, folder: Path) -> Iterator[str]:
    """A server's address while it runs."""
    log = folder / "server.log"
    with log.open("ab") as out:
        server = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        host, port = address.split(":")
        for _ in range(6000):
            assert server.poll() is None, log.read_text()[-2000:]
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    break
            time.sleep(0.05)
        else:
            raise AssertionError(f"nothing listens at {address}: {log.read_text()[-2000:]}")
        yield address
    finally:
        server.kill()
        server.wait()


@contextmanager
def distribution(
    folder: Path, *, tls: "Authority | None" = None, auth: dict[str, Any] | None = None, address: str = ""
) -> Iterator[str]:
    """The address of a registry that keeps its content in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = tool("registry")  # which may have to be built first
    address = address or free_address()
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": address, "secret": "of tests"},
    }
    if tls:
        config["http"]["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
    if auth:
        config["auth"] = auth
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    with _process([program, "serve", str(folder / "config.yml")], address, folder) as running:
        yield running


def passwords(folder: Path) -> dict[str, Any]:
    """distribution's setting for Basic authentication of USER with PASSWORD."""
    (folder / "htpasswd").write_text(HTPASSWD)
    return {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}


@contextmanager
def referrers_registry(folder: Path) -> Iterator[str]:
    """The address of a registry with the referrers API, which distribution has not."""
    folder.mkdir(parents=True, exist_ok=True)
    module = MODULES["crane"].replace("/cmd/crane", "")
    program = compiled("referrers-registry", module, REFERRERS_SERVER)
    address = free_address()
    with _process([program, address], address, folder) as running:
        yield running


class Authority:
    """A certificate authority of its own, and a server's certificate for loopback by it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.root, self.certificate, self.key = folder / "ca.pem", folder / "server.pem", folder / "server.key"
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
        _openssl("req", "-x509", *key, "-keyout", folder / "ca.key", "-out", self.root, "-subj", "/CN=tests")
        _openssl("req", *key[:-2], "-keyout", self.key, "-out", folder / "server.csr", "-subj", "/CN=registry")
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        signing = ("-CA", self.root, "-CAkey", folder / "ca.key", "-CAcreateserial", "-days", "2")
        _openssl(
            "x509",
            "-req",
            "-in",
            folder / "server.csr",
            *signing,
            "-extfile",
            folder / "names",
            "-out",
            self.certificate,
        )


def _openssl(*arguments: object) -> bytes:
    return subprocess.run([tool("openssl"), *map(str, arguments)], capture_output=True, check=True).stdout


# --- tokens


@dataclass
class TokenServer:
    """What a registry with token authentication points to: gives USER signed tokens for the scopes asked for."""

    url: str
    asked: list[dict[str, list[str]]]
    """Service and scopes of each token."""
    setting: dict[str, Any]
    """For distribution."""


@contextmanager
def token_server(folder: Path) -> Iterator[TokenServer]:
    folder.mkdir(parents=True, exist_ok=True)
    key, certificate = folder / "token.key", folder / "token.pem"
    subject = ("-subj", "/CN=tokens", "-days", "2")
    _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, *subject)
    der = base64.b64encode(_openssl("x509", "-in", certificate, "-outform", "DER")).decode()
    asked: list[dict[str, list[str]]] = []

    class Handler(_Quiet):
        def do_GET(self) -> None:
            wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            self.give("token", parse_qs(urlsplit(self.path).query), self.headers.get("Authorization") == wanted)

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            known = form.get("grant_type") == ["refresh_token"] and form.get("refresh_token") == [REFRESH_TOKEN]
            self.give("access_token", form, known)

        def give(self, name: str, query: dict[str, list[str]], known: bool) -> None:
            asked.append(query)
            if not known:
                self.reply(401, b"{}")
                return
            scopes = " ".join(query.get("scope", [])).split()
            access = [
                {"type": kind, "name": repository, "actions": actions.split(",")}
                for kind, repository, actions in (scope.split(":") for scope in scopes)
            ]
            now = int(time.time())
            claims = {
                "iss": "tests",
                "sub": USER,
                "aud": query["service"][0],
                "exp": now + 60,
                "nbf": now - 5,
                "iat": now,
            }
            head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
            signed = ".".join(
                _base64url(json.dumps(p).encode()) for p in (head, {**claims, "jti": "1", "access": access})
            )
            signature = subprocess.run(
                [tool("openssl"), "dgst", "-sha256", "-sign", key],
                input=signed.encode(),
                capture_output=True,
                check=True,
            ).stdout
            self.reply(200, json.dumps({name: f"{signed}.{_base64url(signature)}"}).encode())

    with _serving(Handler) as url:
        fields = {"realm": f"{url}/token", "service": "tests", "issuer": "tests", "rootcertbundle": str(certificate)}
        yield TokenServer(url, asked, {"token": fields})


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# --- servers of this process


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are written apart: each answer would wait 40 ms

    def log_message(self, format: str, *args: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # connections break on purpose


@contextmanager
def _serving(handler: type[_Quiet]) -> Iterator[str]:
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Asked:
    """One request that reached the disturber."""

    method: str
    path: str
    authorization: str | None
    body: int
    """Bytes of it that were sent."""


@dataclass
class Fault:
    """What happens to requests whose `METHOD PATH` matches, `times` times."""

    match: str
    times: int = 1
    drop_after: int | None = None
    """Bytes of the request's body that reach the registry before both connections break."""
    cut_after: int | None = None
    """Bytes of the answer's body that arrive before the connection breaks."""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    """Of the answer; without status and body: in place of the registry's own ones."""
    body: bytes | None = None


class Disturber:
    """A proxy before a registry (`address`), with faults to come and the requests that were."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.address = ""
        self.slow = 0.0
        """Seconds before each part of a body is passed on."""
        self._lock = threading.Lock()
        self._busy = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While a request is passed on."""
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def settle(self) -> None:
        """Wait until no request is under way: those of a killed client end later than it."""
        end = time.monotonic() + 60
        while self._busy:
            assert time.monotonic() < end, "a request does not end"
            time.sleep(0.01)

    def count(self, pattern: str) -> int:
        """How many requests there were whose `METHOD PATH` matches."""
        return sum(bool(re.search(pattern, f"{a.method} {a.path}")) for a in self.asked)

    def sent(self) -> int:
        """Bytes of all blobs that reached the proxy."""
        return sum(a.body for a in self.asked if a.method == "PATCH")

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times and re.search(fault.match, f"{method} {path}"):
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def disturbed(upstream: str) -> Iterator[Disturber]:
    """A disturber before a registry without TLS."""
    disturber = Disturber(upstream)

    class Handler(_Quiet):
        def handle_any(self) -> None:
            with disturber.at_work():
                self.answer()

        def answer(self) -> None:
            fault = disturber.fault_for(self.command, self.path) or Fault("")
            length = int(self.headers.get("Content-Length") or 0)
            if fault.status or fault.body is not None:
                self.rfile.read(length)
                self.note(length)
                self.reply(fault.status or 200, fault.body or b"", fault.headers)
                return
            with closing(http.client.HTTPConnection(disturber.upstream, timeout=30)) as connection:
                self.pass_on(connection, fault, length)

        def pass_on(self, connection: http.client.HTTPConnection, fault: Fault, length: int) -> None:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            passed = 0
            allowed = length if fault.drop_after is None else min(length, fault.drop_after)
            while passed < allowed and (part := self.rfile.read1(min(1 << 16, allowed - passed))):
                connection.send(part)
                passed += len(part)
                time.sleep(disturber.slow)
            self.note(passed)
            if passed < length:
                assert connection.sock
                connection.sock.shutdown(socket.SHUT_WR)
                with suppress(OSError):  # until the registry has ended this request, and kept what it got
                    while connection.sock.recv(1 << 16):
                        pass
                self.break_off()
                return
            answer = connection.getresponse()
            body = answer.read()
            headers = {k: v for k, v in answer.getheaders() if k.lower() != "transfer-encoding"}
            headers = {"Content-Length": str(len(body)), **headers, **fault.headers}
            if fault.cut_after is None:
                self.reply(answer.status, body, headers)
                return
            self.send_response(answer.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: fault.cut_after])
            self.break_off()

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def note(self, body: int) -> None:
            disturber.asked.append(Asked(self.command, self.path, self.headers.get("Authorization"), body))

        def break_off(self) -> None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    with _serving(Handler) as url:
        disturber.address = url.removeprefix("http://")
        yield disturber


@contextmanager
def stranger(status: int) -> Iterator[tuple[str, list[Asked]]]:
    """The URL of another server that answers everything with a status, and what it was asked."""
    asked: list[Asked] = []

    class Handler(_Quiet):
        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            asked.append(Asked(self.command, self.path, self.headers.get("Authorization"), length))
            self.reply(status)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    with _serving(Handler) as url:
        yield url, asked


@contextmanager
def connect_proxy() -> Iterator[tuple[str, list[str]]]:
    """The URL of an HTTP proxy that tunnels to loopback, and where it was asked to lead."""
    led: list[str] = []

    class Handler(_Quiet):
        def do_CONNECT(self) -> None:
            led.append(self.path)
            host, port = self.path.rsplit(":", 1)
            with socket.create_connection((host, int(port)), timeout=30) as remote:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_pump, args=(remote, self.connection), daemon=True)
                back.start()
                _pump(self.connection, remote)
                back.join()
            self.close_connection = True

    with _serving(Handler) as url:
        yield url, led


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


# --- content


class Images:
    """An OCI image layout in `folder`, made without the engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[dict[str, Any]] = []
        (folder / "blobs" / "sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.write()

    def put(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Store bytes; returns their descriptor."""
        hex_digest = hashlib.sha256(data).hexdigest()
        (self.folder / "blobs" / "sha256" / hex_digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{hex_digest}", "size": len(data), **more}

    def manifest(self, content: dict[str, Any], media_type: str = MANIFEST, **more: Any) -> dict[str, Any]:
        document = {"schemaVersion": 2, "mediaType": media_type, **content}
        return self.put(json.dumps(document).encode(), media_type, **more)

    def image(self, arch: str, *files: bytes) -> dict[str, Any]:
        """An image for one architecture with a layer for each file."""
        layers, diff_ids = [], []
        for data in files:
            tar = io.BytesIO()
            with tarfile.open(fileobj=tar, mode="w") as archive:
                info = tarfile.TarInfo("file")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            diff_ids.append(f"sha256:{hashlib.sha256(tar.getvalue()).hexdigest()}")
            layers.append(self.put(gzip.compress(tar.getvalue(), 1, mtime=0), LAYER))
        config = {"os": "linux", "architecture": arch, "rootfs": {"type": "layers", "diff_ids": diff_ids}, "config": {}}
        described = self.put(json.dumps(config).encode(), CONFIG)
        platform = {"os": "linux", "architecture": arch}
        return self.manifest({"config": described, "layers": layers}, platform=platform)

    def index(self, *manifests: dict[str, Any]) -> dict[str, Any]:
        return self.manifest({"manifests": list(manifests)}, INDEX)

    def artifact(self, kind: str, data: bytes, subject: dict[str, Any] | None = None) -> dict[str, Any]:
        """An artifact, attached to a manifest if one is given."""
        content: dict[str, Any] = {
            "artifactType": kind,
            "config": self.put(b"{}", "application/vnd.oci.empty.v1+json"),
            "layers": [self.put(data, kind)],
        }
        if subject:
            content["subject"] = {k: subject[k] for k in ("mediaType", "digest", "size")}
        return self.manifest(content)

    def name(self, descriptor: dict[str, Any], *names: str) -> None:
        """Let names of rfolabs stand for a manifest."""
        for name in names:
            annotations = {
                "io.containerd.image.name": f"docker.io/rfolabs/{name}",
                "org.opencontainers.image.ref.name": name.rpartition(":")[2],
            }
            self.entries.append({**descriptor, "annotations": annotations})
        self.write()

    def list(self, descriptor: dict[str, Any]) -> None:
        """Put a manifest into index.json without a name."""
        self.entries.append(descriptor)
        self.write()

    def write(self) -> None:
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self.entries}
        (self.folder / "index.json").write_text(json.dumps(index))

    def blob(self, descriptor: dict[str, Any]) -> Path:
        name: str = descriptor["digest"].partition(":")[2]
        return self.folder / "blobs" / "sha256" / name
