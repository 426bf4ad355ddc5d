"""A small openEuler for the tests: real packages by rpmbuild, real metadata by createrepo_c, signed by gpg.

Laid out as repo.openeuler.org is: SUITE/ARCH/{Packages,repodata} and SUITE/ARCH/RPM-GPG-KEY-openEuler.
"""

import hashlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from pipeline.errors import HostError
from pipeline.process import find_program

EPOCH = "1700000000"
DEBIAN = {"rpmbuild": "rpm", "rpmsign": "rpm", "rpmkeys": "rpm", "createrepo_c": "createrepo-c", "gpg": "gnupg"}

SPEC = """
Name: filesystem
Version: 3.16
Release: 1.oe2203sp4
Summary: demo
License: MIT
AutoReqProv: no
%description
demo

%package -n tool
Summary: demo
Epoch: 1
Version: 2.0
Requires: demo-libs >= 1.0, filesystem
Recommends: demo-weak
%description -n tool
demo
%package -n demo-libs
Summary: demo
Version: %{libs}
Provides: libdemo.so()(64bit)
%description -n demo-libs
demo
%package -n demo-weak
Summary: demo
%description -n demo-weak
demo
%package -n demo-broken
Summary: demo
Requires: no-such-thing >= 9
%description -n demo-broken
demo
%package -n demo-data
Summary: demo
%description -n demo-data
demo
%package -n demo-wants-file
Summary: demo
Requires: /usr/share/demo/data
%description -n demo-wants-file
demo

%install
mkdir -p %{buildroot}/usr/share/demo %{buildroot}/usr/share/doc/tool %{buildroot}/etc
for d in bin sbin lib lib64; do mkdir %{buildroot}/usr/$d; ln -s usr/$d %{buildroot}/$d; done
printf '#!/bin/sh\\necho tool\\n' > %{buildroot}/usr/bin/tool
ln %{buildroot}/usr/bin/tool %{buildroot}/usr/bin/tool-hard
: > %{buildroot}/etc/empty1
ln %{buildroot}/etc/empty1 %{buildroot}/etc/empty2
ln -s /usr/bin/tool %{buildroot}/usr/bin/tool-link
printf 'docs' > %{buildroot}/usr/share/doc/tool/README
seq 1 20000 > %{buildroot}/usr/lib64/libdemo.so.%{libs}
ln -s libdemo.so.%{libs} %{buildroot}/usr/lib64/libdemo.so
printf 'data+plus' > "%{buildroot}/usr/share/demo/data"
printf 'weak' > %{buildroot}/etc/weak

%files
/bin
/sbin
/lib
/lib64
%dir /usr/bin
%files -n tool
%attr(4755,root,root) /usr/bin/tool
%attr(4755,root,root) /usr/bin/tool-hard
/usr/bin/tool-link
/etc/empty1
/etc/empty2
%attr(0750,root,root) %dir /usr/share/doc/tool
/usr/share/doc/tool/README
%files -n demo-libs
/usr/lib64/libdemo.so*
%files -n demo-weak
/etc/weak
%files -n demo-broken
%files -n demo-data
/usr/share/demo/data
%files -n demo-wants-file
"""


def run(*command: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    program, *rest = map(str, command)
    try:
        path = find_program(program, packages=f"apt-get install {DEBIAN.get(program, program)}")
    except HostError as error:
        raise AssertionError(error.render()) from None
    done = subprocess.run([path, *rest], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class Key:
    """A key pair: primary for certification and, as openEuler has it, a subkey that signs."""

    home: Path
    fingerprint: str

    def sign(self, file: Path, *options: str) -> None:
        file.with_name(f"{file.name}.asc").unlink(missing_ok=True)
        run("gpg", "--homedir", self.home, "--batch", "--yes", "--armor", *options, "--detach-sign", file)

    def sign_rpm(self, *files: Path) -> None:
        defines = {"_gpg_name": self.fingerprint, "_gpg_path": self.home, "__gpg": shutil.which("gpg")}
        run("rpmsign", *(a for k, v in defines.items() for a in ("--define", f"{k} {v}")), "--addsign", *files)

    def public(self) -> bytes:
        return run("gpg", "--homedir", self.home, "--armor", "--export").encode()


def start_agent(home: Path) -> None:
    """Start the agent of a GnuPG home: gpg itself gives it few seconds, which a busy host may not keep."""
    quiet = subprocess.DEVNULL
    subprocess.run(["gpg-agent", "--homedir", home, "--daemon"], check=True, stdin=quiet, stdout=quiet, stderr=quiet)


def make_key(
    home: Path, algorithm: str, *options: str, subkey: bool = False, created: object = EPOCH, expires: str = "0"
) -> Key:
    home.mkdir(mode=0o700)
    start_agent(home)
    gpg = ("gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase", "", *options)
    usage = "cert" if subkey else "cert,sign"
    new = ("--quick-generate-key", f"{home.name}@test", algorithm, usage, expires)
    run(*gpg, "--faked-system-time", f"{created}!", *new)
    listed = run(*gpg, "--with-colons", "--list-keys")
    fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
    if subkey:
        run(*gpg, "--faked-system-time", f"{EPOCH}!", "--quick-add-key", fingerprint, algorithm, "sign", "0")
    return Key(home, fingerprint)


def build(work: Path, arch: str, *, libs: str = "1.0", payload: str = "w2.xzdio") -> list[Path]:
    """All packages of the specification, unsigned."""
    top = work / f"{arch}-{libs}-{payload}"
    top.mkdir(parents=True)
    (top / "demo.spec").write_text(SPEC)
    defines = {
        "_topdir": top, "libs": libs, "_binary_payload": payload, "_build_id_links": "none", "debug_package": "%{nil}",
        "__os_install_post": "%{nil}", "_dbpath": top / "db", "_buildhost": "reproducible",
    }  # fmt: skip
    options = [a for k, v in defines.items() for a in ("--define", f"{k} {v}")]
    environment = {"PATH": os.environ["PATH"], "HOME": str(top), "LC_ALL": "C", "SOURCE_DATE_EPOCH": EPOCH}
    run("rpmbuild", "-bb", "--target", f"{arch}-linux", *options, top / "demo.spec", env=environment)
    return sorted((top / "RPMS").rglob("*.rpm"))


def publish(folder: Path, packages: list[Path], key: Key, *, compression: str = "gz") -> None:
    """A repository as openEuler's: `folder` is SUITE/ARCH."""
    (folder / "Packages").mkdir(parents=True)
    for package in packages:
        shutil.copy(package, folder / "Packages")
    run("createrepo_c", "--revision", EPOCH, "--no-database", f"--general-compress-type={compression}", folder)
    (folder / "RPM-GPG-KEY-openEuler").write_bytes(key.public())
    key.sign(folder / "repodata" / "repomd.xml")


def replace_metadata(folder: Path, key: Key, plain: bytes, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    """Another primary.xml, properly named in repomd.xml and signed."""
    packed = compress(plain)
    name = f"repodata/changed-primary.xml{suffix}"
    (folder / name).write_bytes(packed)
    repomd = folder / "repodata" / "repomd.xml"
    text = repomd.read_text()
    start, end = text.index('<data type="primary">'), text.index("</data>", text.index('<data type="primary">'))
    entry = re.sub(r'href="[^"]*"', f'href="{name}"', text[start:end])
    entry = re.sub(r"(<checksum[^>]*>)[0-9a-f]+", rf"\g<1>{hashlib.sha256(packed).hexdigest()}", entry)
    entry = re.sub(r"<size>\d+", f"<size>{len(packed)}", entry)
    repomd.write_text(text[:start] + entry + text[end:])
    key.sign(repomd)


@dataclass
class Server:
    """Serves a folder over loopback, and misbehaves as told."""

    root: Path
    url: str = ""
    faults: dict[str, list[int | str]] = field(default_factory=dict)
    """By the end of a path, one for each request: a status, `cut` (half of the content), `ignore-range`."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """(path, Range header)."""


@contextmanager
def serve(root: Path) -> Iterator[Server]:
    server = Server(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted, asked = unquote(self.path), self.headers.get("Range", "")
            server.requests.append((wanted, asked))
            queue = next((q for end, q in server.faults.items() if wanted.endswith(end)), [])
            fault = queue.pop(0) if queue else 0
            file = root / wanted.lstrip("/")
            status = fault if isinstance(fault, int) and fault else 200 if file.is_file() else 404
            if status != 200:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = file.read_bytes()
            start = int(asked.removeprefix("bytes=").rstrip("-") or 0) if fault != "ignore-range" else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            body = data[start:]
            if fault == "cut":
                body, self.close_connection = body[: len(body) // 2], True
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{listener.server_port}/"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
