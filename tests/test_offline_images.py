"""Offline bundles as others import them: containerd, docker, skopeo and crane find every name with its digest."""

import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from bundles import FOUND, Made, image_name, real
from dockerd import socket
from engine import HOST
from node import Node, require_node
from registry_server import distribution
from tools import tool

from images import EMPTY, PLAIN, TOOLS, image_checkout, made
from pipeline.model import Digest
from pipeline.registry.share import Asked, push
from pipeline.report.progress import Progress


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three images of one program."""
    recipes = (PLAIN, TOOLS | {"node": True}, EMPTY)
    context = made(image_checkout(tmp_path_factory.mktemp("pods") / "checkout", *recipes))
    return Made(context.dist, context)


@pytest.fixture(scope="module", params=["small", *(pytest.param(d, marks=pytest.mark.full, id=d.name) for d in FOUND)])
def release(request: pytest.FixtureRequest) -> Made:
    """The small release, and what stands in dist/."""
    if isinstance(request.param, Path):
        return real(request.param)
    found: Made = request.getfixturevalue("small")
    return found


@pytest.fixture(scope="module")
def plain(release: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bundle without zstd around it, which some programs do not read."""
    path = tmp_path_factory.mktemp("plain") / "images.tar"
    subprocess.run([tool("zstd"), "-qd", release.bundle, "-o", path], check=True)
    yield path
    path.unlink()


def test_containerd_imports_and_runs_every_name_without_a_network(release: Made, tmp_path: Path) -> None:
    require_node()
    with Node(tmp_path / "node") as node:
        node.start_containerd()
        node.import_bundle(release.bundle)
        rows = [row.split() for row in node.run("ctr", "-n", "k8s.io", "images", "ls").splitlines()[1:]]
        digests = {row[0]: row[2] for row in rows if not row[0].startswith("sha256:")}
        by_digest = {f"{name.rpartition(':')[0]}@{digest}": digest for name, digest in release.names.items()}
        assert digests == release.names | by_digest
        assert {row[-1] for row in rows} == {"io.cri-containerd.image=managed"}, "a kubelet sees them"
        assert node.run("ip", "route") == ""
        for number, (reference, named) in enumerate(itertools.product(release.names, (False, True))):
            start = release.start(reference)
            image = f"{reference.rpartition(':')[0]}@{digests[reference]}" if named else reference
            run = ["run", "--rm", "--snapshotter=native", image, f"c{number}", start.program, *start.arguments]
            assert start.prints in node.run("ctr", "-n", "k8s.io", *run, check=False)
        gone = next(iter(by_digest))
        node.run("ctr", "-n", "k8s.io", "images", "rm", "--sync", gone)
        refused = node.run("ctr", "-n", "k8s.io", "run", "--rm", "--snapshotter=native", gone, "gone", check=False)
        assert f'image "{gone}": not found' in refused


def test_docker_loads_and_runs_every_name(release: Made, plain: Path) -> None:
    socket()
    loaded = docker("load", stdin=plain)
    short = {name.removeprefix("docker.io/"): name for name in release.names}
    assert set(re.findall("Loaded image: (.*)", loaded)) == set(short)
    for name, reference in short.items():
        config = release.manifest(release.names[reference])["config"]["digest"]
        assert docker("image", "inspect", "--format={{.Id}}", name) == f"{config}\n"
        start = release.start(reference)
        run = ["run", "--rm", "--network=none", f"--entrypoint={start.program}", name, *start.arguments]
        assert start.prints in docker(*run)
    docker("image", "rm", *short)


def docker(*arguments: str, stdin: Path = Path(os.devnull)) -> str:
    """What docker prints, on both streams: some programs tell their version on the other one."""
    with stdin.open("rb") as file:
        done = subprocess.run(
            [tool("docker"), *arguments],
            stdin=file, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_skopeo_finds_every_name_in_both_forms(release: Made, plain: Path) -> None:
    for reference, digest in release.names.items():
        config = release.manifest(digest)["config"]["digest"]
        index = skopeo("inspect", "--raw", f"oci-archive:{plain}:{reference}")
        assert Digest.of_bytes(index) == Digest.parse(digest)
        manifest = json.loads(skopeo("inspect", "--raw", f"docker-archive:{plain}:{reference}"))
        assert manifest["config"]["digest"] == config


def skopeo(*arguments: str) -> bytes:
    done = subprocess.run([tool("skopeo"), "--insecure-policy", *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_skopeo_copies_out_of_a_bundle_is_valid_for_crane(release: Made, plain: Path, tmp_path: Path) -> None:
    """Each image once, whatever its names."""
    with distribution(tmp_path / "registry") as registry:
        for digest, reference in {d: r for r, d in release.names.items()}.items():
            platform = release.manifest(digest)
            for form in ("oci-archive", "docker-archive"):
                place = f"{registry}/{form}/{image_name(reference)}:copied"
                skopeo("copy", "--dest-tls-verify=false", f"{form}:{plain}:{reference}", f"docker://{place}")
                assert crane("validate", "--remote", place).startswith("PASS")
                assert json.loads(crane("manifest", place))["config"]["digest"] == platform["config"]["digest"]
            assert crane("digest", f"{registry}/oci-archive/{image_name(reference)}:copied") == platform["digest"]


def test_every_image_that_is_pushed_is_valid_for_crane(release: Made, tmp_path: Path) -> None:
    """An index is valid if all platforms in it are."""
    with distribution(tmp_path / "registry") as registry:
        push(release.dist, registry, Asked(), Progress(stream=StringIO()))
        places = {f"{registry}/{name.removeprefix('docker.io/')}": digest for name, digest in release.names.items()}
        assert {place: crane("digest", place) for place in places} == places
        for place in {digest: place for place, digest in places.items()}.values():
            assert crane("validate", "--remote", place).startswith("PASS")


def test_crane_pushes_a_bundle_of_one_image(release: Made, tmp_path: Path) -> None:
    """It knows no name inside of an archive, so that other bundles are beyond it."""
    found = release.dist.glob(f"rfo-images-*.linux-{HOST}.tar.zst")
    (bundle,) = (b for b in found if len(set(release.listed(b).values())) == 1)
    (digest,) = set(release.listed(bundle).values())
    plain = tmp_path / "images.tar"
    subprocess.run([tool("zstd"), "-qd", bundle, "-o", plain], check=True)
    with distribution(tmp_path / "registry") as registry:
        crane("push", str(plain), f"{registry}/one")
        assert crane("validate", "--remote", f"{registry}/one").startswith("PASS")
        config = json.loads(crane("manifest", f"{registry}/one"))["config"]["digest"]
        assert config == release.manifest(digest)["config"]["digest"]


def crane(*arguments: str) -> str:
    return subprocess.run([tool("crane"), *arguments], capture_output=True, text=True, check=True).stdout.strip()
