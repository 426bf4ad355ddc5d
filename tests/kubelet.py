"""A node that runs a release's own containerd and kubelet, without an API server: pods are files."""

import json
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from bundles import Made, image_name
from node import Node

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
    "protectKernelDefaults": True,  # the node has them set
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


def programs(made: Made, folder: Path) -> Path:
    """What a node takes out of the runtime image: its /bin."""
    (index,) = (digest for name, digest in made.names.items() if image_name(name) == "rfo-runtime")
    for layer in made.manifest(index)["layers"]:
        with tarfile.open(made.blob(layer["digest"])) as tar:
            tar.extractall(folder, [m for m in tar if m.name.startswith("bin/")], filter="data")
    return folder / "bin"


class Kubelet:
    """The kubelet of a node, and containerd below it, which has imported the release's bundle."""

    def __init__(self, node: Node, made: Made) -> None:
        self.node = node
        self.manifests = node.folder / "manifests"
        self.manifests.mkdir()
        (node.folder / "networks").mkdir()
        (node.folder / "networks" / "10-pods.conflist").write_text(json.dumps(NETWORK))
        (node.folder / "resolv.conf").write_text("nameserver 192.0.2.1\n")  # of documentation: nobody's (RFC 5737)
        settings = KUBELET | {"staticPodPath": str(self.manifests), "resolvConf": f"{node.folder}/resolv.conf"}
        (node.folder / "kubelet.yaml").write_text(yaml.safe_dump(settings))
        runtime = programs(made, node.folder / "runtime")
        pause = next(name for name in made.names if image_name(name) == "pause")
        self.containerd = node.start_containerd(runtime, sandbox=pause, snapshotter="overlayfs")
        self.made = made
        self.load()
        self.log = node.start(
            "kubelet", "kubelet", f"--config={node.folder}/kubelet.yaml", "--hostname-override=node", "--v=3",
            f"--container-runtime-endpoint={ENDPOINT}",
        )  # fmt: skip

    def load(self) -> None:
        """Import the bundle."""
        self.node.import_bundle(self.made.bundle, "overlayfs")

    def put(self, name: str, container: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        """Let the kubelet start a pod of one container, which ends; `spec` is what it has besides."""
        spec = {"restartPolicy": "Never", **spec, "containers": [{"name": "main", **container}]}
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        written = self.node.folder / "scratch" / name
        written.write_text(json.dumps(manifest))
        written.rename(self.manifests / f"{name}.json")

    def states(self) -> dict[str, dict[str, Any]]:
        """What the kubelet says of each pod's container, by pod."""
        read = "import sys, urllib.request as r; sys.stdout.buffer.write(r.urlopen(sys.argv[1], timeout=30).read())"
        said = self.node.run(sys.executable, "-c", read, "http://127.0.0.1:10255/pods", check=False)
        if not said.startswith("{"):
            return {}  # it does not listen yet
        found = {}
        for pod in json.loads(said)["items"] or []:
            for status in pod["status"].get("containerStatuses", []):
                found[pod["metadata"]["name"].removesuffix("-node")] = status["state"]
        return found

    def waiting(self, name: str) -> str:
        """The reason why a pod's container does not run yet, or nothing."""
        return str(self.states().get(name, {}).get("waiting", {}).get("reason", ""))

    def crictl(self, *arguments: str, check: bool = True) -> str:
        return self.node.run("crictl", "--runtime-endpoint", ENDPOINT, *arguments, check=check)

    def containers(self) -> dict[str, str]:
        """The identifier of each pod's container."""
        made = json.loads(self.crictl("ps", "--all", "--output=json"))["containers"]
        return {c["labels"]["io.kubernetes.pod.name"].removesuffix("-node"): c["id"] for c in made}
