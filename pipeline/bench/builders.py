"""Building one image: by the pipeline, by `ko build`, and by `docker build`; programs that others wrote, if there."""

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path

from pipeline.bench.compiling import on_host
from pipeline.bench.images import RUNS, Made, only, remembering, run_graph, used
from pipeline.context import Context, host_arch
from pipeline.errors import HostError
from pipeline.graph import Graph, Ref, canonical
from pipeline.image.assemble import CONFIG, MANIFEST
from pipeline.image.layer import BLOB, MEDIA_TYPE, layer_roots, read_facts
from pipeline.image.names import Image
from pipeline.inputs import Inputs
from pipeline.model import Digest
from pipeline.pack.compress import GZIP
from pipeline.process import run
from pipeline.release import make_graph, make_scheduler
from pipeline.report.progress import Progress
from pipeline.store import Store
from pipeline.strict import parse_size
from pipeline.units import Unit

SERVED = ("blobs", "gomod", "locks-of-bases")
"""Of the store: what both sides start with."""
DOCKERFILE = """FROM {base} AS packages
COPY packages /packages
RUN for p in /packages/*; do dpkg-deb -x $p /unpacked || exit 1; done
FROM scratch
COPY --from=packages /unpacked /
COPY programs /
"""
UNPACKERS = ("packer", "engine")
"""Roots of the base that together have what unpacks a package in a container: a shell and dpkg."""


def against_ko(made: Made, component: str) -> tuple[float, float]:
    """Seconds of making the image of a pure Go component for this host, and of `ko build`, the least of three each.

    Both have warm compile caches and the image's base, link the program, and end with an image on disk; ours is not
    checked. Raises HostError if ko is not there or no image is like that.
    """
    ko = _find("ko")
    arch, image = host_arch(), _image_of(made, component)
    units = [u for u in made.context.units if u.component in {g.component for g in image.recipe.programs}]
    if len(units) != 1 or units[0].build.compiler != "go" or units[0].build.uses_cgo(arch):
        raise HostError(f"{image.name} is not one program in pure Go")
    (unit,) = units
    graph = only(made, arch).closure([f"index/{image.name}"])
    below = [n for n in graph.order if n.startswith("layer/") and not _holds_programs(graph, n)]

    def ours() -> float:
        with remembering(made, graph, lambda n: n in below) as scheduler:
            started = time.monotonic()
            run_graph(scheduler, graph)
            return time.monotonic() - started

    with made.context.store.workspace() as work, _ko(ko, unit, below, made, work) as theirs:
        ours()
        theirs()  # which fills its compile cache
        return _least(ours, theirs)


def against_docker(made: Made) -> tuple[str, float, float, float]:
    """An image with packages, and seconds: of making it, of `docker build`, and of that and `docker save` through gzip.

    All start with the packages as files and with compiled programs; ours is not checked. What `docker build` leaves is
    not compressed and in the daemon. Raises HostError if there is no daemon, or no such base.
    """
    docker = _find("docker")
    if run([docker, "version"], check=False).returncode:
        raise HostError("no docker daemon answers", "start one, or name it: DOCKER_HOST")
    arch = host_arch()
    inputs = made.context.inputs[arch]
    base = inputs.roots.base
    if base.family != "deb":
        raise HostError(f"the Dockerfile unpacks Debian packages; those of {base.name} are others")
    deep = max(len(base.below(i.recipe.layer)) for i in made.context.images if i.recipe.layer)
    fitting = [i for i in made.context.images if i.recipe.layer and len(base.below(i.recipe.layer)) == deep]
    image = min(fitting, key=lambda i: parse_size(i.recipe.budget))
    with made.context.store.workspace() as work, _docker(docker, image, made, inputs, work) as (theirs, saved):
        ours, plain = _least(lambda: _from_packages(made, image, arch), theirs)
        return image.name, ours, plain, plain + saved()


def _from_packages(made: Made, image: Image, arch: str) -> float:
    """Seconds of the image in a store that has packages and programs, but neither trees nor layers of the image."""
    first = made.context.store
    with first.workspace() as work:
        (work / "trees").mkdir()
        for name in SERVED:
            (work / name).symlink_to(first.root / name)
        roles = made.context.inputs[arch].roots.base.below(image.recipe.layer or "")
        own = {layer_roots(role, arch, made.context.inputs[arch])[0].key.hex for role in roles}
        for tree in (first.root / "trees").iterdir():
            if tree.name.partition(".")[0] not in own:
                (work / "trees" / tree.name).symlink_to(tree)
        options = replace(made.context.options, arches=(arch,))
        context = Context(options, Progress(stream=StringIO()), made.context.checkout)
        context.store = Store(work)
        graph = make_graph(context).without_checks().closure([f"index/{image.name}"])
        for name in graph.order:
            if name.startswith(("build/", "generate/")):
                context.store.remember(graph.actions[name].key(made.result.outputs)[0], made.result.records[name])
        scheduler = make_scheduler(context)
        started = time.monotonic()
        run_graph(scheduler, graph)
        return time.monotonic() - started


@contextlib.contextmanager
def _ko(ko: str, unit: Unit, below: list[str], made: Made, work: Path) -> Iterator[Callable[[], float]]:
    """A function that runs `ko build` once and returns its seconds."""
    arch = host_arch()
    with (
        _base_image(made, below, arch) as base,
        on_host(unit, arch, made.context, made.context.inputs[arch], cache=work / "gocache", out=work) as host,
    ):
        command, environment, source = host
        options = [word for word in command if word.startswith("-")]
        link = next(o.removeprefix("-ldflags=") for o in options if o.startswith("-ldflags="))
        build = {
            "id": unit.name,
            "main": command[-1],
            "flags": [o for o in options if o.startswith("-tags=")],
            "ldflags": [link],
        }
        (work / "ko.yaml").write_text(json.dumps({"defaultBaseImage": base, "builds": [build]}))
        environment = {k: v for k, v in environment.items() if k not in ("GOOS", "GOARCH")}  # ko has --platform
        environment |= {
            "GOFLAGS": " ".join(o for o in options if o.startswith(("-mod=", "-modfile="))),
            "PATH": f"{Path(command[0]).parent}:{os.defpath}",
            "HOME": str(work),
            "KOCACHE": str(work / "kocache"),
            "KO_CONFIG_PATH": str(work / "ko.yaml"),
            "KO_DOCKER_REPO": "localhost/bench",
        }

        def theirs() -> float:
            layout = work / "layout"
            line = [ko, "build", command[-1], "--push=false", f"--oci-layout-path={layout}", "--sbom=none"]
            started = time.monotonic()
            run([*line, f"--platform=linux/{arch}"], env=environment, cwd=source)
            run(["sync", "-f", str(layout)])
            seconds = time.monotonic() - started
            shutil.rmtree(layout)
            return seconds

        yield theirs


@contextlib.contextmanager
def _base_image(made: Made, layers: list[str], arch: str) -> Iterator[str]:
    """An image of some layers in a registry on loopback, as ko takes its base from; the reference."""
    facts = [read_facts(used(made, name, "layer.json")) for name in layers]
    described = [{"mediaType": MEDIA_TYPE, "digest": f["digest"], "size": f["size"]} for f in facts]
    rootfs = {"type": "layers", "diff_ids": [f["diff_id"] for f in facts]}
    config = canonical({"architecture": arch, "os": "linux", "config": {}, "rootfs": rootfs})
    about = {"mediaType": CONFIG, "digest": str(Digest.of_bytes(config)), "size": len(config)}
    manifest = canonical({"schemaVersion": 2, "mediaType": MANIFEST, "config": about, "layers": described})
    digest = str(Digest.of_bytes(manifest))
    content = {
        f"/v2/base/blobs/{f['digest']}": used(made, n, BLOB).read_bytes() for n, f in zip(layers, facts, strict=True)
    }
    content |= {"/v2/": b"{}", f"/v2/base/blobs/{about['digest']}": config, f"/v2/base/manifests/{digest}": manifest}

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = content.get(self.path)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Type", MANIFEST if "/manifests/" in self.path else "application/octet-stream")
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data or b"")

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}/base@{digest}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def _docker(
    docker: str, image: Image, made: Made, inputs: Inputs, work: Path
) -> Iterator[tuple[Callable[[], float], Callable[[], float]]]:
    """Two functions that return seconds: of `docker build`, and of saving what it made, compressed as layers are."""
    arch = host_arch()
    name = f"rfo-bench-{os.getpid()}"
    base = work / "base"
    base.mkdir()
    for role in UNPACKERS:
        run(["tar", "-C", str(inputs.roots.path(inputs.roots.find(role, arch))), "-cf", str(base / f"{role}.tar"), "."])
    (base / "Dockerfile").write_text("FROM scratch\n" + "".join(f"ADD {role}.tar /\n" for role in UNPACKERS))
    run([docker, "build", "--tag", f"{name}:base", str(base)])
    context = work / "context"
    (context / "packages").mkdir(parents=True)
    for role in inputs.roots.base.below(image.recipe.layer or ""):
        for package in inputs.roots.find(role, arch).packages:
            shutil.copyfile(inputs.roots.file(package), context / "packages" / f"{package.name}.deb")
    graph = only(made, arch)
    for layer in graph.actions[f"image/{image.name}/{arch}"].dependencies:
        for path, reference in graph.actions[layer].inputs.items():
            if isinstance(reference, Ref):
                target = context / "programs" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(used(made, reference.action, reference.output), target)
    (context / "Dockerfile").write_text(DOCKERFILE.format(base=f"{name}:base"))

    def build() -> float:
        started = time.monotonic()
        run([docker, "build", "--no-cache", "--network=none", "--tag", f"{name}:made", str(context)])
        return time.monotonic() - started

    def save() -> float:
        line = '"$0" save "$1" | "$2" "$3" > "$4" && sync "$4"'
        started = time.monotonic()
        run(["sh", "-c", line, docker, f"{name}:made", GZIP[0], GZIP[2], str(work / "saved")])
        return time.monotonic() - started

    try:
        yield build, save
    finally:
        run([docker, "rmi", "--force", f"{name}:base", f"{name}:made"], check=False)


def _find(program: str) -> str:
    found = shutil.which(program)
    if not found:
        raise HostError(f"there is no {program} to compare with", "have it on PATH")
    return found


def _image_of(made: Made, component: str) -> Image:
    """The first image that is called after a component and has a layer of the base. Raises HostError."""
    for image in made.context.images:
        if image.recipe.component == component and image.recipe.layer:
            return image
    raise HostError(f"no image is that of {component}")


def _holds_programs(graph: Graph, layer: str) -> bool:
    return any(isinstance(r, Ref) for r in graph.actions[layer].inputs.values())


def _least(ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, float]:
    """The smaller of several times of each, measured in turn."""
    times = [(ours(), theirs()) for _ in range(RUNS)]
    return min(t[0] for t in times), min(t[1] for t in times)
