"""Nodes without a network: what they leave behind, and that one starts every image of a release out of its bundle."""

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundles import FOUND, Made, image_name, real
from engine import HOST, REAL, REPO
from kubelet import Kubelet
from node import Node, hierarchies, require_node

from charts import template

# --- what a node leaves behind


def groups(process: int) -> list[Path]:
    """Control groups of the nodes that a process started."""
    return [group for place in hierarchies() for group in Path(place).glob(f"rfo-test-{process}-*")]


def inside(process: int) -> set[Path]:
    """The processes in them, as folders of /proc; waits until `sleep` is one of them."""
    for _ in range(600):
        listed = [(group / "cgroup.procs").read_text().split() for group in groups(process)]
        found = {Path("/proc", pid) for pids in listed for pid in pids}
        with contextlib.suppress(OSError):
            if any((p / "cmdline").read_bytes().startswith(b"sleep\x00600") for p in found):
                return found
        time.sleep(0.1)
    raise AssertionError("nothing was started")


def gone(processes: set[Path]) -> bool:
    """Whether they ended, or do in a moment."""
    for _ in range(600):
        if not any(p.exists() for p in processes):
            return True
        time.sleep(0.1)
    return False


def mounts(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{folder}/" in line]


def test_a_node_leaves_nothing_behind(tmp_path: Path) -> None:
    require_node()
    processes = set()
    with pytest.raises(ZeroDivisionError), Node(tmp_path / "node") as node:
        node.start("stays", "sh", "-c", "mkdir /sys/fs/cgroup/*/inner; setsid sleep 600 & exec sleep 600")
        processes = inside(os.getpid())
        _ = 1 / 0
    assert gone(processes)
    assert (groups(os.getpid()), mounts(tmp_path)) == ([], [])


def test_a_node_that_does_not_start_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_node()
    monkeypatch.setattr("node.INIT", "echo the first process is broken; exit 3")
    with pytest.raises(AssertionError, match="the first process is broken"), Node(tmp_path / "node"):
        pass
    assert groups(os.getpid()) == []


def test_a_node_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Its control groups stay until the next node is started."""
    require_node()
    script = (
        "import sys, time; from pathlib import Path; from node import Node\n"
        "with Node(Path(sys.argv[1])) as node: node.start('stays', 'sleep', '600'); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{REPO}:{REPO}/tests"}
    starter = subprocess.Popen([sys.executable, "-c", script, tmp_path / "killed"], env=environment)
    try:
        processes = inside(starter.pid)
    finally:
        starter.kill()
        starter.wait()
    assert gone(processes)
    with Node(tmp_path / "next"):
        assert groups(starter.pid) == []


# --- what a node starts


@dataclass(frozen=True)
class Pod:
    """A pod of one container, what that has to print, and the digest of its image."""

    container: Mapping[str, Any]
    prints: str
    digest: str
    spec: Mapping[str, Any]
    """What it has besides."""


def of_charts(made: Made, home: Path) -> Iterator[Pod]:
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
                restrictions = {k: spec[k] for k in ("securityContext", "hostNetwork") if k in spec}
                yield Pod(kept | start.container, start.prints, digest, restrictions)


def of_node(made: Made) -> Iterator[Pod]:
    """Each name in the bundle, which the node starts by tag or by digest: static pods, kubeadm's, its own."""
    for (name, digest), pinned in itertools.product(made.names.items(), (False, True)):
        start = made.start(name)
        image = {"image": f"{name}@{digest}" if pinned else name, "imagePullPolicy": "IfNotPresent"}
        yield Pod(image | start.container, start.prints, digest, {})


def kubeadm_images(node: Node, made: Made) -> set[str]:
    """What kubeadm, given the release's version and registry, says that it will start."""
    tags = {image_name(name): name.rpartition(":")[2] for name in made.names}
    configuration = {
        "apiVersion": "kubeadm.k8s.io/v1beta3",
        "kind": "ClusterConfiguration",
        "kubernetesVersion": REAL,
        "imageRepository": next(iter(made.names)).rpartition("/")[0],
        "dns": {"imageTag": tags["coredns"]},
        "etcd": {"local": {"imageTag": tags["etcd"]}},
    }
    (node.folder / "kubeadm.yaml").write_text(yaml.safe_dump(configuration))
    named = node.run("kubeadm", "config", "images", "list", "--config", node.folder / "kubeadm.yaml").split()
    # The pod sandbox is containerd's to choose.
    return {name for name in named if image_name(name) != "pause"}


@pytest.mark.full
@pytest.mark.skipif(not FOUND, reason=f"no release {REAL} with a bundle for linux/{HOST} in dist/")
@pytest.mark.parametrize("dist", FOUND, ids=lambda d: d.name)
def test_every_image_of_a_release_starts_in_a_pod_without_a_network(dist: Path, tmp_path: Path) -> None:
    require_node()
    made = real(dist)
    charted = list(of_charts(made, tmp_path / "helm"))
    pods = {f"pod-{number:03}": pod for number, pod in enumerate([*charted, *of_node(made)])}
    assert charted
    with Node(tmp_path / "node") as node:
        assert node.run("ip", "route") == ""
        kubelet = Kubelet(node, made)
        kubeadm = kubeadm_images(node, made)
        assert len(kubeadm) == 6
        assert kubeadm <= set(made.names)
        for name, pod in pods.items():
            kubelet.put(name, pod.container, pod.spec)
        node.wait(lambda: sum("terminated" in s for s in kubelet.states().values()) == len(pods), kubelet.log, 300)
        codes = {name: state["terminated"]["exitCode"] for name, state in kubelet.states().items()}
        assert codes == dict.fromkeys(pods, 0)
        containers = kubelet.containers()
        assert set(containers) == set(pods)
        for name, container in containers.items():
            status = json.loads(kubelet.crictl("inspect", container))["status"]
            assert status["imageRef"].partition("@")[2] == pods[name].digest
            assert pods[name].prints in kubelet.crictl("logs", container, check=False)
        assert "PullImage" not in kubelet.containerd.read_text()
        assert re.findall(r"inet ([0-9.]+)", node.run("ip", "-o", "-4", "addr")) == ["127.0.0.1", "10.42.0.1"]
        assert "default" not in node.run("ip", "route")
        refuse(kubelet, charted[0])


def refuse(kubelet: Kubelet, pod: Pod) -> None:
    """What needs a network does not start: an image that is asked for each time, one that is not there until it is."""
    waits = ("ErrImagePull", "ImagePullBackOff")
    kubelet.put("always", {**pod.container, "imagePullPolicy": "Always"}, pod.spec)
    kubelet.node.wait(lambda: kubelet.waiting("always") in waits, kubelet.log)
    rows = kubelet.node.run("ctr", "-n", "k8s.io", "images", "ls").splitlines()[1:]
    names = [row.split()[0] for row in rows if pod.digest in row]
    kubelet.node.run("ctr", "-n", "k8s.io", "images", "rm", "--sync", *names)
    kubelet.put("asks", pod.container, pod.spec)
    kubelet.put("never", {**pod.container, "imagePullPolicy": "Never"}, pod.spec)
    kubelet.node.wait(lambda: kubelet.waiting("asks") in waits, kubelet.log)
    kubelet.node.wait(lambda: kubelet.waiting("never") == "ErrImageNeverPull", kubelet.log)
    assert f'PullImage \\"{pod.container["image"]}\\"' in kubelet.containerd.read_text()
    assert not {"always", "asks", "never"} & set(kubelet.containers())
    kubelet.load()
    kubelet.node.wait(lambda: {"asks", "never"} <= set(kubelet.containers()), kubelet.log)
    assert kubelet.waiting("always") in waits
