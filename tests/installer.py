"""What tests of the installer share: hosts that are folders, a mirror that can misbehave, two releases."""

import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

import trusted
from trusted import Trusted, copied, promoted

from pipeline.pack.installer import render_installer
from pipeline.pack.tarball import installed_files

OLD, NEW = "v1.0.0+rfor9", "v1.0.0+rfor10"
GONE, ADDED = "share/rfo/rfo-cis-sysctl.conf", "share/rfo/notes.txt"
"""What NEW does not have any more, and what OLD did not have yet."""
SHELLS = [shell for shell in ("dash", "bash", "busybox sh") if shutil.which(shell.split()[0])] or ["sh"]
TOOLS = "/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Releases:
    """Two releases of one trust root, and the installer that comes with the newer one."""

    old: Trusted
    new: Trusted

    @property
    def installer(self) -> bytes:
        return installer_of(self.new)

    def under_newer_metadata(self, folder: Path) -> Path:
        """OLD once more, named by metadata that are newer than NEW's."""
        made = copied(self.old, folder)
        made.versions.update(self.new.versions)
        made.publish()
        return made.dist


def installer_of(made: Trusted, mirror: str = "") -> bytes:
    """What promoting writes as install-rfo.sh."""
    return render_installer((made.dist / "rfo-verify").read_bytes(), made.root.read_bytes(), mirror)


def two_releases(folder: Path) -> Releases:
    """Make OLD, then NEW, on the base that the definition asks for."""
    old = promoted(folder, version=OLD, stand_in=False, base="openeuler-22.03-lts-sp4")

    def other_files(install: Path) -> dict[str, tuple[int, bytes]]:
        found = installed_files(install)
        del found[GONE]
        return {**found, ADDED: (0o644, b"notes\n")}

    with patch.object(trusted, "installed_files", other_files):
        new = promoted(folder, version=NEW, stand_in=False, base=old.base, versions=dict(old.versions))
    return Releases(old, new)


@dataclass
class Host:
    """A host on which the installer runs: a prefix, what it remembers, and nothing of the machine it really is."""

    folder: Path
    installer: bytes
    shell: str = SHELLS[0]
    tools: Path | None = None
    """Programs that go before the machine's."""

    def __post_init__(self) -> None:
        for name in ("tmp", "home"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def prefix(self) -> Path:
        return self.folder / "opt/rfo"

    @property
    def state(self) -> Path:
        return self.folder / "var/lib/rfo/trust"

    @property
    def images(self) -> Path:
        return self.folder / "srv/images"

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Lower-case names are variables of other programs, such as `https_proxy`."""
        others = ("PATH", "CURL_CA_BUNDLE")
        own = {name if name.islower() or name in others else f"INSTALL_RFO_{name}": v for name, v in settings.items()}
        return {
            "PATH": f"{self.tools}:{TOOLS}" if self.tools else TOOLS,
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "INSTALL_RFO_TAR_PREFIX": str(self.prefix),
            "INSTALL_RFO_STATE": str(self.state),
            "INSTALL_RFO_AGENT_IMAGES_DIR": str(self.images),
            "INSTALL_RFO_SKIP_RELOAD": "1",
            **own,
        }

    def run(self, *, before: Sequence[str] = (), **settings: str) -> subprocess.CompletedProcess[str]:
        """`curl … | VARIABLES sh -`, in a process group of its own."""
        done = subprocess.run(
            [*before, *self.shell.split(), "-"],
            input=self.installer, env=self.environment(settings), cwd=self.folder,
            capture_output=True, check=False, timeout=900, start_new_session=True,
        )  # fmt: skip
        text = [part.decode() for part in (done.stdout, done.stderr)]
        return subprocess.CompletedProcess(done.args, done.returncode, *text)

    def install(self, folder: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Install from a folder; it has to succeed."""
        done = self.run(ARTIFACT_PATH=str(folder), **settings)
        assert done.returncode == 0, done.stderr
        return done

    def call(self, function: str, *arguments: str) -> str:
        """What a function of the script prints."""
        body = self.installer.decode().rpartition('main "$@"')[0]
        done = subprocess.run(
            [*self.shell.split(), "-s", "--", *arguments], input=f'{body}\n{function} "$@"\n',
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    def version(self) -> str:
        """What the installed program says that it is."""
        done = subprocess.run([self.prefix / "bin/rfo"], capture_output=True, text=True, check=True)
        return done.stdout.split()[2]

    def checked(self) -> str:
        """`version`, after looking that it is all of that version."""
        version = self.version()
        assert (self.prefix / GONE).exists() == (version == OLD)
        assert (self.prefix / ADDED).exists() == (version == NEW)
        return version

    def files(self) -> dict[str, str]:
        """All that is installed, remembered and left over; `@` stands for where the host is."""
        found = {}
        for place in (self.prefix, self.state, self.images, self.folder / "tmp"):
            for path in sorted(place.rglob("*")):
                name = path.relative_to(self.folder).as_posix()
                if path.is_symlink():
                    found[name] = f"link to {path.readlink()}"
                elif path.is_file():
                    text = path.read_bytes().decode(errors="backslashreplace").replace(str(self.folder), "@")
                    found[name] = f"{path.stat().st_mode:o} {text}"
        found.pop("var/lib/rfo/trust/state.json", None)  # has the time of the installation
        return found

    def copy(self, folder: Path) -> "Host":
        """The same host elsewhere."""
        for name in ("opt", "var", "srv"):
            if (self.folder / name).exists():
                shutil.copytree(self.folder / name, folder / name, symlinks=True)
        for unit in (folder / "opt/rfo/lib/systemd/system").glob("rfo-*"):
            unit.write_text(unit.read_text().replace(str(self.folder), str(folder)))
        return Host(folder, self.installer, self.shell)


Misdeed = Callable[[BaseHTTPRequestHandler, bytes], None]
"""Answers a request for a file in another way."""


@dataclass
class Mirror:
    """Releases behind HTTP or HTTPS; also a proxy for whatever host is asked for."""

    releases: Mapping[str, Path]
    url: str = ""
    extra: dict[str, bytes] = field(default_factory=dict)
    """Other files by path."""
    misdeeds: dict[str, Misdeed] = field(default_factory=dict)
    """By the name of a file."""
    asked: list[str] = field(default_factory=list)

    def content(self, target: str) -> bytes | None:
        path = urlsplit(target).path.lstrip("/")
        version, _, name = unquote(path).partition("/")
        if path in self.extra:
            return self.extra[path]
        file = self.releases[version] / name if version in self.releases and "%2B" in path else None
        return file.read_bytes() if file and file.is_file() else None


class _Handler(BaseHTTPRequestHandler):
    mirror: ClassVar[Mirror]

    def do_GET(self) -> None:
        self.mirror.asked.append(self.path)
        data = self.mirror.content(self.path)
        name = self.path.rpartition("/")[2]
        if data is None:
            self.send_error(404)
        elif name in self.mirror.misdeeds:
            self.mirror.misdeeds[name](self, data)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what is tested."""


@contextmanager
def serve(
    releases: Mapping[str, Path], certificate: Path | None = None, key: Path | None = None, address: str = "127.0.0.1"
) -> Iterator[Mirror]:
    """A mirror on loopback while the block runs."""
    mirror = Mirror(releases)
    server = _Server((address, 0), type("Handler", (_Handler,), {"mirror": mirror}))
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    mirror.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield mirror
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_tool(folder: Path, name: str, script: str) -> None:
    """A program of the host's; `$REAL` is the machine's own of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    real = shutil.which(name, path=TOOLS) or "/nonexistent"
    (folder / name).write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
    (folder / name).chmod(0o755)


def is_root() -> bool:
    return os.getuid() == 0
