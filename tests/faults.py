"""What the fault tests share: a tiny distribution and release that go through every stage in seconds, and ways to hurt.

The distribution is a signed mirror made here of two packages, with the shell and gzip of the tests' real base; the
release compiles one program that imports nothing. It runs in this process, or in one of its own that can be killed or
given a full disk: `python tests/faults.py --store S --checkout C --mirror URI`.
"""

import argparse
import atexit
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import SSLContext
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import yaml
from engine import (
    HOST,
    SMALL,
    builder_root,
    environment,
    link,
    lock_small,
    make_context,
    shared_store,
    toolchain,
    write_checkout,
)

import pipeline.release
from pipeline.context import Context
from pipeline.errors import PipelineError
from pipeline.model import PLATFORMS, Digest, escape_module
from pipeline.release import Summary, make_graph, make_scheduler, release
from pipeline.scheduler import Result
from pipeline.store import Store, remove_tree

if TYPE_CHECKING:
    from test_base_deb import Key  # at run time only where it is used: a run in another process has no part in it

TINY = "tiny-1"
"""The base of the release."""
RIGHT, WRONG = b"the right code", b"the wrong code"
"""What the program says, and what it says when it was linked from a poisoned compile cache."""
MAIN = f"""package main

var version = "unset"

//go:noinline
func answer() string {{ return "{RIGHT.decode()}" }}

func main() {{ println("tiny", version, answer()) }}
"""
STAGES = ("lock", "fetch", "assemble", "build", "check", "pack", "publish")


# --- a distribution and a release on it


@dataclass(frozen=True)
class Distribution:
    """A signed mirror of the packages that the tiny base is made of."""

    folder: Path
    key: "Key"

    def sign(self, *, date: str = "Sat, 21 Nov 2020 09:15:44 UTC") -> None:
        """Publish what lies in the pool."""
        suite = self.folder / "dists" / "one"
        index = suite / "main" / f"binary-{HOST}" / "Packages"
        index.parent.mkdir(parents=True, exist_ok=True)
        stanzas = []
        for file in sorted((self.folder / "pool").iterdir()):
            name, version, arch = file.stem.split("_")
            depends = "Depends: libtiny\n" if name == "tiny" else ""
            stanzas.append(
                f"Package: {name}\nVersion: {version}\nArchitecture: {arch}\nMaintainer: x <x@example.org>\n{depends}"
                f"Filename: pool/{file.name}\nSize: {file.stat().st_size}\nSHA256: {Digest.of_file(file).hex}\n"
                "Description: x\n"
            )
        index.write_text("\n".join(stanzas))
        (suite / "Release").write_text(
            f"Origin: Tiny\nSuite: one\nCodename: one\nDate: {date}\nArchitectures: {HOST}\nComponents: main\nSHA256:\n"
            f" {Digest.of_file(index).hex} {index.stat().st_size} main/binary-{HOST}/Packages\n"
        )
        self.key.sign(suite / "Release")


@cache
def distribution() -> Distribution:
    """One for the whole test run."""
    from test_base_deb import make_deb, new_key, tar

    stack = ExitStack()
    atexit.register(stack.close)
    key = stack.enter_context(new_key("tiny"))
    folder = Path(tempfile.mkdtemp(prefix="rfo-tiny-"))
    stack.callback(remove_tree, folder)
    os.environ["RFO_KEYRING_TINY_1"] = str(key.keyring)
    root = builder_root()
    triplet = PLATFORMS[HOST].gnu_triplet
    shared = [root / "usr/lib" / triplet / name for name in ("libc.so.6", "libresolv.so.2", "libpthread.so.0")]
    loaders = [p for p in root.glob("usr/lib*/**/ld-linux-*.so.*") if triplet in str(p.resolve())]
    programs = {"usr/bin/sh": root / "usr/bin/dash", "usr/bin/gzip": root / "usr/bin/gzip"}
    libraries = {str(p.relative_to(root)): p for p in (*shared, *loaders)}
    (folder / "pool").mkdir()
    for name, files in (("tiny", programs), ("libtiny", libraries)):
        contents: dict[str, Any] = {path: file.read_bytes() for path, file in files.items()}
        folders = {str(p) for path in files for p in Path(path).parents if str(p) != "."}
        data = tar({**dict.fromkeys(sorted(folders)), **contents}, modes=dict.fromkeys(contents, 0o755))
        (folder / "pool" / f"{name}_1.0_{HOST}.deb").write_bytes(make_deb(data, ".gz"))
    made = Distribution(folder, key)
    made.sign()
    return made


def tiny_checkout(folder: Path, *, main: str = MAIN) -> Path:
    """A checkout whose release is one node tarball with one program, on the tiny base."""
    build = {"binaries": {"rfo": "."}, "stamp": {"main.version": "{release}"}, "cgo": False}
    component = {
        "name": "rfo",
        "license": "Apache-2.0",
        "source": {"tree": "components/rfo/src"},
        "build": [build],
        "smoke": {"rfo": {"args": [], "prints": "tiny {release}"}},
    }
    files = {
        "components/rfo/src/main.go": main,
        "components/rfo/src/go.mod": "module example.org/tiny\n\ngo 1.20\n",
        "install/bin/rfo-killall.sh": "#!/bin/sh\n",
    }
    write_checkout(folder, {"rfo": component}, files, {"rfo": {}}, lock=False)
    path = folder / "releases" / SMALL / "release.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"bases": {HOST: TINY}}))
    base = {
        "name": TINY,
        "family": "deb",
        "floating": True,
        "origin": "Tiny",
        "keys": [distribution().key.fingerprint],
        "suites": {HOST: ["one"]},
        "roots": {"builder": {"per": "host", "packages": ["tiny"]}},
        "compilers": {},
    }
    (folder / "images/openeuler/bases" / f"{TINY}.yaml").write_text(yaml.safe_dump(base))
    lock_small(folder)
    return folder


@dataclass(frozen=True)
class Place:
    """A store and a checkout of the tiny release, and what runs on them."""

    store: Path
    checkout: Path
    mirror: str
    """URI of where the base's packages are."""

    @classmethod
    def make(cls, folder: Path) -> "Place":
        """An empty store, except for the Go toolchain, which is linked from the tests' own."""
        folder.mkdir(exist_ok=True)
        place = cls(folder / "store", tiny_checkout(folder / "checkout"), distribution().folder.as_uri())
        place.link_toolchain()
        return place

    def link_toolchain(self) -> None:
        """Have the toolchain as `go mod download` leaves it, without waiting for it."""
        module = toolchain().module
        downloads = Path("cache", "download", escape_module(module.path), "@v")
        for path in (Path(module.directory), downloads, Path("cache", "download", "sumdb")):
            source, target = shared_store().gomod / path, self.store / "gomod" / path
            if source.exists() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                link(source, target)

    @property
    def dist(self) -> Path:
        """Where the release is published."""
        return self.checkout / "dist" / SMALL

    def context(self, **options: Any) -> Context:
        """A run's context; a new one sees the store as another process would."""
        options.setdefault("mirrors", {TINY: self.mirror})
        return make_context(self.checkout, Store(self.store), **options)

    def run(self, **options: Any) -> Summary:
        """Run the release in this process."""
        with environment(GOPROXY=go_proxy()):
            return release(self.context(**options))

    def made(self) -> dict[str, str]:
        """All that the last run made: outputs in the store and published files, by name, to their digests."""
        context = self.context(offline=True)
        graph = make_graph(context)
        result = Result()
        make_scheduler(context).replay(graph, result)
        outputs = {f"{a}:{n}": str(o.digest) for a, made in result.outputs.items() for n, o in made.items()}
        return outputs | {p.name: str(Digest.of_file(p)) for p in self.dist.iterdir() if p.is_file()}

    def command(self, *arguments: str, prefix: Sequence[str] = ()) -> list[str]:
        """The command that runs the release in a process of its own and prints a JSON object."""
        places = ["--store", str(self.store), "--checkout", str(self.checkout), "--mirror", self.mirror]
        return [*prefix, "env", f"GOPROXY={go_proxy()}", sys.executable, __file__, *places, *arguments]

    def undo(self, stage: str) -> None:
        """Make the next run do this stage and all after it."""
        for name in STAGES[STAGES.index(stage) :]:
            for path in self._products(name):
                remove_tree(path)

    def _products(self, stage: str) -> list[Path]:
        records = [(p, json.loads(p.read_bytes())["name"]) for p in (self.store / "records").glob("[!.]*")]
        found = {
            "lock": [self.store / "locks-of-bases", self.checkout / "releases" / SMALL / "sources.lock"],
            "fetch": [self.store / "gomod" / "fetched", *(self.store / "blobs" / "sha256").iterdir()],
            "assemble": list((self.store / "trees").iterdir()),
            "publish": [self.dist],
        }
        names = {"build": ("build/", "notices/"), "check": ("check/",), "pack": ("tarball/", "sums/")}
        return found.get(stage) or [p for p, name in records if name.startswith(names[stage])]

    def sandboxed(self) -> list[int]:
        """Processes of sandboxes on this store."""
        return sandboxed(self.store)


def sandboxed(folder: Path) -> list[int]:
    """Processes of sandboxes that work in a folder: bubblewrap itself, and all that see something of it mounted."""
    tail = "/".join(folder.parts[-4:])  # the start may be a mount of its own
    own = os.readlink("/proc/self/ns/mnt")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            inside = os.readlink(process / "ns/mnt") != own and tail in (process / "mountinfo").read_text(
                errors="replace"
            )
            if inside or (
                "bwrap\0--unshare-user" in (command := (process / "cmdline").read_text(errors="replace"))
                and tail in command
            ):
                found.append(int(process.name))
    return found


@cache
def go_proxy() -> str:
    """What the tests' store has downloaded, as a module proxy; behind it the host's own.

    That one has the checksum database's proofs. Go needs new ones whenever any go of this user has seen a newer tree.
    """
    hosts = subprocess.check_output(["go", "env", "GOPROXY"], text=True, cwd="/").strip()
    return f"{(shared_store().gomod / 'cache' / 'download').as_uri()},{hosts}"


# --- a mirror that misbehaves


@dataclass
class Hosted:
    """A folder on loopback, served as `fault` says."""

    root: Path
    fault: Callable[[str], Any] = lambda _: None
    """From a path: None to serve it, a status (with headers, as a pair), `cut` (the connection breaks in the middle),
    `stall` (nothing more comes from the middle on), `silent` (nothing comes at all), or other bytes."""
    url: str = ""
    requests: list[str] = field(default_factory=list)
    over: Event = field(default_factory=Event)


@contextmanager
def host(root: Path, *, tls: SSLContext | None = None) -> Iterator[Hosted]:
    """Serve a folder until the end of the block; what stalls then ends."""
    hosted = Hosted(root)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            hosted.requests.append(path)
            fault, file = hosted.fault(path), hosted.root / path.lstrip("/")
            if fault == "silent":
                hosted.over.wait()
                return
            known = fault if isinstance(fault, bytes) else file.read_bytes() if file.is_file() else b""
            status, headers = fault if isinstance(fault, tuple) else (fault if isinstance(fault, int) else 0, {})
            self.send_response(status or (200 if known or file.is_file() else 404))
            body = b"" if status else known
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if fault in ("cut", "stall") else body)
            if fault == "stall":
                hosted.over.wait()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that gave up is what the tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    hosted.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}/"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hosted
    finally:
        hosted.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


# --- a poisoned compile cache


def poison_compile_cache(store: Path, old: bytes = RIGHT, new: bytes = WRONG) -> int:
    """Replace a text by another of its length in all that Go's compile caches of a store hold; returns in how many.

    Each changed object has its own name and size in its entry, as if the compiler had written it: nothing that
    cmd/go looks at tells. Format: https://go.googlesource.com/go/+/refs/tags/go1.20.14/src/cmd/go/internal/cache/
    """
    assert len(old) == len(new)
    poisoned = 0
    for entry in (store / "gocache").glob("go1*/??/*-a"):
        version, action, output, _, when = entry.read_text().split()
        cache = entry.parent.parent
        data = (cache / output[:2] / f"{output}-d").read_bytes()
        if old not in data:
            continue
        data = data.replace(old, new)
        name = Digest.of_bytes(data).hex
        (cache / name[:2] / f"{name}-d").write_bytes(data)
        entry.write_text(f"{version} {action} {name} {len(data):20} {when:>20}\n")
        poisoned += 1
    return poisoned


# --- a full disk


def own_mounts(*commands: str) -> list[str]:
    """The start of a command line that runs the rest in a mount namespace of its own, after shell `commands`."""
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", " && ".join([*commands, 'exec "$@"']), "sh"]


def fill(folder: Path, *, free: int) -> Path:
    """Fill the file system of `folder` but for `free` bytes; returns the file that does it."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - free)
    return filler


def run_full(place: Place, stage: str, free: int) -> dict[str, Any]:
    """Run a stage with `free` bytes left on its disk, and once more with enough; what came of it."""
    before = place.made()
    place.undo(stage)
    filler = fill(place.dist.parent if stage == "publish" else place.store, free=free)
    error: BaseException | None = None
    try:
        place.run()
    except Exception as fault:
        error = fault
    filler.unlink()
    published = (place.dist / "release.json").exists()
    place.run()
    text = {"reason": getattr(error, "reason", repr(error)), "hint": getattr(error, "hint", "")}
    kind = {"kind": type(error).__name__, "published": published, "same": place.made() == before}
    return {"stage": stage, "free": free, **kind, **text}


def main() -> None:
    """Run the release and print what it did."""
    parser = argparse.ArgumentParser()
    for name in ("store", "checkout", "mirror"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--component", action="append", default=[])
    parser.add_argument("--full", action="append", help="STAGE=BYTES: a stage that meets a disk with so much free")
    asked = parser.parse_args()
    place = Place(Path(asked.store), Path(asked.checkout), asked.mirror)
    if asked.full:
        pipeline.release.refuse_small_disk = lambda *_: None  # it would say so before anything runs
        place.run()
        met = [run_full(place, stage, int(free)) for stage, _, free in (f.partition("=") for f in asked.full)]
        json.dump({"expected": place.made(), "met": met}, sys.stdout)
        return
    context = place.context(components=tuple(asked.component))
    context.progress.stream = sys.stderr
    try:
        summary = release(context)
    except PipelineError as error:
        print(error.render(), file=sys.stderr)
        sys.exit(error.exit_code)
    json.dump({"ran": summary.ran, "cached": summary.cached, "changed": summary.changed}, sys.stdout)


if __name__ == "__main__":
    main()
