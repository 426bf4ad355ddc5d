"""Offline bundles in use: what others import them with, and a node without a network that starts every image."""

import itertools
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerd import socket
from engine import HOST, REAL, REPO, make_context
from node import Node, require_node
from registry_server import distribution
from tools import tool

from charts import template
from images import EMPTY, PLAIN, TOOLS, image_checkout, made
from pipeline.context import Context
from pipeline.model import Digest
from pipeline.registry.share import Asked, push
from pipeline.report.progress import Progress

FOUND = sorted(p.parent for p in REPO.glob(f"dist/{REAL}*/rfo-images.linux-{HOST}.tar.zst"))
KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "address": "127.0.0.1",
    "readOnlyPort": 10255,
    "authentication": {"webhook": {"enabled": False}, "anonymous": {"enabled": True}},
    "authorization": {"mode": "AlwaysAllow"},
    "cgroupDriver": "cgroupfs",
    "failSwapOn": False,
    "enforceNodeAllocatable": [],
    "protectKernelDefaults": True,
    "volumePluginDir": "/var/lib/kubelet/volumeplugins",
    # A disk that is almost full is no reason to remove images here.
    "imageGCHighThresholdPercent": 100,
    "evictionHard": {"imagefs.available": "1%", "nodefs.available": "1%", "memory.available": "50Mi"},
}
NETWORK = {
    "cniVersion": "0.3.1",
    "name": "pods",
    "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": True,
         "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.42.0.0/24"}]]}},
    ],
}  # fmt: skip
ENDPOINT = "unix:///run/containerd/containerd.sock"


@dataclass(frozen=True)
class Start:
    """How to start a program of an image."""

    program: str
    arguments: Sequence[str]
    prints: str
    default: bool
    """Whether the image starts it by itself."""

    @property
    def container(self) -> dict[str, Any]:
        """The same for a pod."""
        return {"args": self.arguments} if self.default else {"command": [self.program, *self.arguments]}


@dataclass(frozen=True)
class Made:
    """A release's folder, and what its definitions say of its images."""

    dist: Path
    context: Context

    @property
    def bundle(self) -> Path:
        return self.dist / f"rfo-images.linux-{HOST}.tar.zst"

    @property
    def names(self) -> dict[str, str]:
        """The names in the bundle, NAME:TAG, with their digests, as its list has them."""
        lines = self.bundle.with_name(f"rfo-images.linux-{HOST}.txt").read_text().splitlines()
        return {name: digest for name, _, digest in (line.partition("@") for line in lines)}

    def manifest(self, index: str) -> dict[str, Any]:
        """The manifest for this host's architecture, of an index by its digest, with its own digest."""
        (digest,) = (m["digest"] for m in self.read(index)["manifests"] if m["platform"]["architecture"] == HOST)
        return {**self.read(digest), "digest": digest}

    def blob(self, digest: str) -> Path:
        return self.dist / "images" / "blobs" / "sha256" / Digest.parse(digest).hex

    def read(self, digest: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.blob(digest).read_bytes())
        return document

    def start(self, reference: str) -> Start:
        """How to start a program of an image so that it ends: the one that it is named after, or its first one."""
        (image,) = (i for i in self.context.images if reference in map(str, i.references))
        units = [u for u in self.context.units if HOST in u.arches]
        found = {
            name: (Path("/", group.to, name), unit)
            for group in image.recipe.programs
            for unit in units
            if unit.component == group.component
            for name in unit.build.binaries
            if name in (group.only or unit.build.binaries)
        }
        path, unit = found.get(image_name(reference)) or next(iter(found.values()))
        smoke, values = unit.smoke[path.name], self.context.release.values
        arguments = [unit.fill(a, values) for a in smoke.args]
        return Start(str(path), arguments, unit.fill(smoke.prints, values), bool(image.recipe.entrypoint))


def image_name(reference: str) -> str:
    return reference.rpartition("/")[2].partition(":")[0]


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


def real(dist: Path) -> Made:
    return Made(dist, make_context(REPO, version=REAL, base=dist.name.partition("@")[2] or None))


@pytest.fixture(scope="module")
def plain(release: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bundle without zstd around it, which some programs do not read."""
    path = tmp_path_factory.mktemp("plain") / "images.tar"
    subprocess.run([tool("zstd"), "-qd", release.bundle, "-o", path], check=True)
    yield path
    path.unlink()


# --- what others import


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
    loaded = docker("load", "--input", str(plain))
    short = {name.removeprefix("docker.io/"): name for name in release.names}
    assert set(re.findall("Loaded image: (.*)", loaded)) == set(short)
    for name, reference in short.items():
        config = release.manifest(release.names[reference])["config"]["digest"]
        assert docker("image", "inspect", "--format={{.Id}}", name) == f"{config}\n"
        start = release.start(reference)
        run = ["run", "--rm", "--network=none", f"--entrypoint={start.program}", name, *start.arguments]
        assert start.prints in docker(*run)
    docker("image", "rm", *short)


def docker(*arguments: str) -> str:
    """What docker prints, on both streams: some programs tell their version on the other one."""
    done = subprocess.run(
        [tool("docker"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
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
    with distribution(tmp_path / "registry") as registry:
        push(release.dist, registry, Asked(), Progress(stream=StringIO()))
        for reference, digest in release.names.items():
            place = f"{registry}/{reference.removeprefix('docker.io/')}"
            assert crane("digest", place) == digest
            assert crane("validate", "--remote", place).startswith("PASS")


def crane(*arguments: str) -> str:
    return subprocess.run([tool("crane"), *arguments], capture_output=True, text=True, check=True).stdout.strip()


# --- a release's own programs start its images


@dataclass(frozen=True)
class Started:
    """A container as a pod asks for it, and what it has to print."""

    container: Mapping[str, Any]
    prints: str
    digest: str
    pod: Mapping[str, Any]
    """What its pod has besides."""


def programs(made: Made, folder: Path) -> Path:
    """What a node takes out of the runtime image: its /bin."""
    (index,) = (digest for name, digest in made.names.items() if image_name(name) == "rfo-runtime")
    for layer in made.manifest(index)["layers"]:
        with tarfile.open(made.blob(layer["digest"])) as tar:
            tar.extractall(folder, [m for m in tar if m.name.startswith("bin/")], filter="data")
    return folder / "bin"


def of_charts(made: Made, home: Path) -> Iterator[Started]:
    """Each container of the pods that charts make, with the pod's own restrictions."""
    home.mkdir()
    for chart in sorted((made.dist / "charts").glob("*.tgz")):
        for rendered in template(chart, {}, home):
            spec = rendered.get("spec", {}).get("template", {}).get("spec")
            if spec is None:
                continue
            for container in spec.get("initContainers", []) + spec["containers"]:
                reference, _, digest = container["image"].partition("@")
                assert container["imagePullPolicy"] == "IfNotPresent"
                start = made.start(reference)
                kept = {k: container[k] for k in ("image", "imagePullPolicy", "securityContext", "resources")}
                pod = {k: spec[k] for k in ("securityContext", "hostNetwork") if k in spec}
                yield Started(kept | start.container, start.prints, digest, pod)


def of_node(made: Made) -> Iterator[Started]:
    """Each name in the bundle, which the node starts by tag or by digest: static pods, kubeadm's, its own."""
    for (name, digest), pinned in itertools.product(made.names.items(), (False, True)):
        start = made.start(name)
        image = {"image": f"{name}@{digest}" if pinned else name, "imagePullPolicy": "IfNotPresent"}
        yield Started(image | start.container, start.prints, digest, {})


class Cluster:
    """A node on which a release's containerd and kubelet run, without an API server."""

    def __init__(self, node: Node, made: Made) -> None:
        self.node = node
        self.manifests = node.folder / "manifests"
        self.manifests.mkdir()
        (node.folder / "networks").mkdir()
        (node.folder / "networks" / "10-pods.conflist").write_text(json.dumps(NETWORK))
        (node.folder / "resolv.conf").write_text("nameserver 192.0.2.1\n")  # of documentation: nobody's (RFC 5737)
        settings = KUBELET | {
            "staticPodPath": str(self.manifests),
            "resolvConf": str(node.folder / "resolv.conf"),
        }
        (node.folder / "kubelet.yaml").write_text(yaml.safe_dump(settings))
        runtime = programs(made, node.folder / "runtime")
        pause = next(name for name in made.names if image_name(name) == "pause")
        self.containerd = node.start_containerd(runtime, sandbox=pause, snapshotter="overlayfs")
        node.import_bundle(made.bundle, "overlayfs")
        self.kubelet = node.start(
            "kubelet", "kubelet", f"--config={node.folder}/kubelet.yaml", "--hostname-override=node", "--v=3",
            f"--container-runtime-endpoint={ENDPOINT}",
        )  # fmt: skip

    def put(self, name: str, container: Mapping[str, Any], pod: Mapping[str, Any]) -> None:
        """Let the kubelet start a pod."""
        spec = {"restartPolicy": "Never", **pod, "containers": [{"name": "main", **container}]}
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        written = self.node.folder / "scratch" / name
        written.write_text(json.dumps(manifest))
        written.rename(self.manifests / f"{name}.json")

    def states(self) -> dict[str, dict[str, Any]]:
        """What the kubelet says of each pod's container, by pod."""
        read = "import sys, urllib.request as r; sys.stdout.buffer.write(r.urlopen(sys.argv[1], timeout=30).read())"
        said = self.node.run(sys.executable, "-c", read, "http://127.0.0.1:10255/pods", check=False)
        if not said.startswith("{"):
            return {}
        found = {}
        for pod in json.loads(said)["items"] or []:
            for status in pod["status"].get("containerStatuses", []):
                found[pod["metadata"]["name"].removesuffix("-node")] = status["state"]
        return found

    def crictl(self, *arguments: str, check: bool = True) -> str:
        return self.node.run("crictl", "--runtime-endpoint", ENDPOINT, *arguments, check=check)

    def containers(self) -> dict[str, str]:
        """The identifier of each pod's container."""
        made = json.loads(self.crictl("ps", "--all", "--output=json"))["containers"]
        return {c["labels"]["io.kubernetes.pod.name"].removesuffix("-node"): c["id"] for c in made}


@pytest.mark.full
@pytest.mark.skipif(not FOUND, reason=f"no release {REAL} with a bundle for linux/{HOST} in dist/")
@pytest.mark.parametrize("dist", FOUND, ids=lambda d: d.name)
def test_every_image_of_a_release_starts_in_a_pod_without_a_network(dist: Path, tmp_path: Path) -> None:
    require_node()
    made = real(dist)
    started = [*of_charts(made, tmp_path / "helm"), *of_node(made)]
    wanted = {f"pod-{number:03}": s for number, s in enumerate(started)}
    assert {s.container["image"].partition("@")[0] for s in started} == set(made.names)
    with Node(tmp_path / "node") as node:
        assert node.run("ip", "route") == ""
        cluster = Cluster(node, made)
        for name, asked in wanted.items():
            cluster.put(name, asked.container, asked.pod)

        def ended() -> bool:
            states = cluster.states()
            return all("terminated" in states.get(name, {}) for name in wanted)

        node.wait(ended, cluster.kubelet, 300)
        assert {name: state["terminated"]["exitCode"] for name, state in cluster.states().items()} == dict.fromkeys(
            wanted, 0
        )
        for name, container in cluster.containers().items():
            status = json.loads(cluster.crictl("inspect", container))["status"]
            assert status["imageRef"].partition("@")[2] == wanted[name].digest
            assert wanted[name].prints in cluster.crictl("logs", container, check=False)
        assert "PullImage" not in cluster.containerd.read_text()
        assert "Pulling image" not in cluster.kubelet.read_text()
        assert re.findall(r"inet ([0-9.]+)", node.run("ip", "-o", "-4", "addr")) == ["127.0.0.1", "10.42.0.1"]
        assert "default" not in node.run("ip", "route")
        assert_missing(cluster, next(s for s in started if s.container["image"].endswith(s.digest)))


def assert_missing(cluster: Cluster, gone: Started) -> None:
    """Without its image a pod does not start."""
    rows = cluster.node.run("ctr", "-n", "k8s.io", "images", "ls").splitlines()[1:]
    names = [row.split()[0] for row in rows if gone.digest in row]
    cluster.node.run("ctr", "-n", "k8s.io", "images", "rm", "--sync", *names)
    cluster.put("asks", gone.container, gone.pod)
    cluster.put("never", {**gone.container, "imagePullPolicy": "Never"}, gone.pod)

    def reasons() -> set[str]:
        states = cluster.states()
        return {states.get(name, {}).get("waiting", {}).get("reason", "") for name in ("asks", "never")}

    cluster.node.wait(
        lambda: reasons() in ({"ErrImagePull", "ErrImageNeverPull"}, {"ImagePullBackOff", "ErrImageNeverPull"}),
        cluster.kubelet,
    )
    assert f'PullImage \\"{gone.container["image"]}\\"' in cluster.containerd.read_text()
    assert not {"asks", "never"} & set(cluster.containers())
