"""Charts as Helm renders them: over the Kubernetes range, against each release's API, with a release's images."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine import REAL, REPO
from openapi import problems

from charts import CHARTS, DIGESTS, helm, images_in, packed, template
from pipeline.definitions import Definitions

MINORS = [f"v1.{minor}.0" for minor in range(23, 37)]
"""From the oldest release of RFO to the newest."""
RELEASES = [r for r in Definitions(REPO).releases() if (REPO / "releases" / r / "sources.lock").exists()]
"""Those whose sources are served: the API's schema is in that of Kubernetes."""
COMMON: dict[str, Any] = {
    "imagePullSecrets": [{"name": "mirror"}],
    "tolerations": [],
    "nodeSelector": {},
    "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
}
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]
        }
    }
}
VALUES: dict[str, list[dict[str, Any]]] = {
    "rfo-coredns": [{}, COMMON | {"affinity": AFFINITY, "upstreams": [], "replicas": 1}],
    "rfo-flannel": [
        {},
        COMMON | {"interface": "eth1", "apiServer": {"host": "127.0.0.1", "port": "6444"}},
        {"vxlan": {"vni": 4096, "port": 4789, "directRouting": True}},
    ],
    "rfo-metrics-server": [{}, COMMON | {"affinity": AFFINITY, "replicas": 2, "kubelet": {"insecureTLS": True}}],
}
"""For each chart its own values, and others that together take every branch of its templates."""
CASES = [(name, values) for name, cases in VALUES.items() for values in cases]


def find(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(o for o in objects if o["kind"] == kind)


def container(objects: list[dict[str, Any]]) -> dict[str, Any]:
    workload = next(o for o in objects if o["kind"] in ("Deployment", "DaemonSet"))
    found: dict[str, Any] = workload["spec"]["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize("name", CHARTS)
def test_lint_finds_nothing(name: str, tmp_path: Path) -> None:
    for chart in (REPO / "charts" / name, packed(name, REAL, tmp_path)):
        done = helm("lint", "--strict", chart, "--kube-version", "v1.25.4", home=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout
        assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", CHARTS)
def test_objects_are_what_the_api_of_each_release_accepts(name: str, release: str, tmp_path: Path) -> None:
    kubernetes = Definitions(REPO).release(release).components["kubernetes"].version
    assert kubernetes
    chart = packed(name, release, tmp_path)
    for values in VALUES[name]:
        assert problems(template(chart, values, tmp_path, kubernetes), kubernetes) == []


def test_the_api_schema_finds_mistakes(tmp_path: Path) -> None:
    """A field that does not exist, one of another type, one that is missing, and a kind that is gone."""
    objects = template(packed("rfo-coredns", REAL, tmp_path), {}, tmp_path)
    deployment = find(objects, "Deployment")
    container(objects)["livenessProb"] = {}
    deployment["spec"]["replicas"] = "two"
    del deployment["spec"]["selector"]
    find(objects, "PodDisruptionBudget")["apiVersion"] = "policy/v1alpha1"
    found = "\n".join(problems(objects, "v1.25.4"))
    assert "'livenessProb' was unexpected" in found
    assert "$.spec.replicas: 'two' is not of type 'integer'" in found
    assert "'selector' is a required property" in found
    assert "v1.25.4 has no policy/v1alpha1 PodDisruptionBudget" in found
    assert len(found.splitlines()) == 4


@pytest.mark.parametrize("name", CHARTS)
def test_every_kubernetes_version_of_the_range_gets_the_same_objects(name: str, tmp_path: Path) -> None:
    chart = packed(name, REAL, tmp_path)
    first, *others = [template(chart, {}, tmp_path, version) for version in MINORS]
    assert all(other == first for other in others)
    older = helm("template", chart, "--kube-version", "v1.22.17", home=tmp_path)
    assert "incompatible with Kubernetes v1.22.17" in older.stderr


@pytest.mark.parametrize(("name", "values"), CASES)
@pytest.mark.parametrize("registry", ["", "mirror.example:5000", "mirror.example/team/"])
def test_images_are_those_of_the_release_by_digest(
    name: str, values: dict[str, Any], registry: str, tmp_path: Path
) -> None:
    chart = packed(name, REAL, tmp_path)
    recipe = dict(zip(CHARTS, DIGESTS, strict=True))[name]
    tags = {"rfo-coredns": "v1.9.3", "rfo-flannel": "v0.19.1", "rfo-metrics-server": "v0.6.1"}
    host = registry.rstrip("/") or "docker.io"
    objects = template(chart, values | {"global": {"systemDefaultRegistry": registry}}, tmp_path)
    expected = f"{host}/rfolabs/{recipe}:{tags[name]}-build20221118@{DIGESTS[recipe]}"
    assert set(images_in(objects)) == {expected}


@pytest.mark.parametrize("name", CHARTS)
def test_an_image_of_ones_own_needs_no_digest(name: str, tmp_path: Path) -> None:
    values = {"image": {"repository": "me/mine", "tag": "v2", "digest": "", "pullPolicy": "Never"}}
    objects = template(packed(name, REAL, tmp_path), values, tmp_path)
    assert set(images_in(objects)) == {"docker.io/me/mine:v2"}
    assert container(objects)["imagePullPolicy"] == "Never"


@pytest.mark.parametrize("name", CHARTS)
def test_the_source_of_a_chart_says_why_it_cannot_be_installed(name: str, tmp_path: Path) -> None:
    done = helm("template", REPO / "charts" / name, "--kube-version", "v1.25.4", home=tmp_path)
    assert done.returncode != 0
    assert "image.tag is empty: this is the source of the chart; install the packed chart of a release" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "colour=red") for name in CHARTS),
        *((name, "image.colour=red") for name in CHARTS),
        *((name, "global.colour=red") for name in CHARTS),
        *((name, "image.digest=sha256:1234") for name in CHARTS),
        *((name, "image.pullPolicy=Sometimes") for name in CHARTS),
        *((name, "global.systemDefaultRegistry=https://mirror.example") for name in CHARTS),
        *((name, "resources.requests.cpu=much") for name in CHARTS),
        *((name, "tolerations[0].operator=Maybe") for name in CHARTS),
        ("rfo-coredns", "global.clusterDNS=10.43.0.256"),
        ("rfo-coredns", "global.clusterDNS=null"),
        ("rfo-coredns", "global.clusterDomain=Cluster_Local"),
        ("rfo-coredns", "replicas=0"),
        ("rfo-coredns", "upstreams={9.9.9.9 { }"),
        ("rfo-coredns", "corefile="),
        ("rfo-flannel", "global.clusterCIDR=10.42.0.0"),
        ("rfo-flannel", "global.clusterCIDR=10.42.0.0/33"),
        ("rfo-flannel", "vxlan.port=0"),
        ("rfo-flannel", "vxlan.vni=16777216"),
        ("rfo-flannel", "apiServer.port=6444"),  # a number: variables are text
        ("rfo-flannel", "interface=eth0 --public-ip=1.2.3.4"),
        ("rfo-metrics-server", "securePort=443"),
        ("rfo-metrics-server", "kubelet.insecureTLS=maybe"),
        ("rfo-metrics-server", "kubelet.metricResolution=9s"),  # it takes 10 and more
    ],
)
def test_values_that_the_schema_refuses(name: str, value: str, tmp_path: Path) -> None:
    done = helm(
        "template", packed(name, REAL, tmp_path), "--kube-version", "v1.25.4", "--set", value, home=tmp_path
    )  # fmt: skip
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr


@pytest.mark.parametrize("name", CHARTS)
def test_what_a_node_tells_every_chart_is_accepted_by_each(name: str, tmp_path: Path) -> None:
    told = {
        "systemDefaultRegistry": "mirror.example",
        "clusterCIDR": "10.52.0.0/16",
        "serviceCIDR": "10.53.0.0/16",
        "clusterDNS": "10.53.0.10",
        "clusterDomain": "example.org",
    }
    objects = template(packed(name, REAL, tmp_path), {"global": told}, tmp_path)
    text = json.dumps(objects)
    used = {"rfo-coredns": ["10.53.0.10", "kubernetes example.org "], "rfo-flannel": ["10.52.0.0/16"]}
    assert all(value in text for value in used.get(name, []))


def test_coredns_serves_where_programs_look_for_it(tmp_path: Path) -> None:
    objects = template(packed("rfo-coredns", REAL, tmp_path), {}, tmp_path)
    service = find(objects, "Service")
    assert (service["metadata"]["name"], service["spec"]["clusterIP"]) == ("kube-dns", "10.43.0.10")
    assert service["metadata"]["labels"]["k8s-app"] == "kube-dns"
    pod = find(objects, "Deployment")["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert {p["targetPort"] for p in service["spec"]["ports"]} == {p["name"] for p in container(objects)["ports"]}
    assert pod["spec"]["dnsPolicy"] == "Default"


@pytest.mark.parametrize(
    ("upstreams", "forwards"),
    [
        (["/etc/resolv.conf"], "forward . /etc/resolv.conf {"),
        (["9.9.9.9", "[2620:fe::fe]:53"], "forward . 9.9.9.9 ["),
        ([], None),
    ],
)
def test_coredns_forwards_only_where_there_are_servers(
    upstreams: list[str], forwards: str | None, tmp_path: Path
) -> None:
    """`loop` probes the upstream, and ends CoreDNS where it answers itself; without an upstream it has no work."""
    objects = template(packed("rfo-coredns", REAL, tmp_path), {"upstreams": upstreams}, tmp_path)
    corefile = find(objects, "ConfigMap")["data"]["Corefile"]
    assert (forwards is None) == ("forward" not in corefile) == ("loop" not in corefile)
    assert forwards is None or forwards in corefile
    for plugin in (
        "errors",
        "health",
        "ready",
        "kubernetes cluster.local",
        "prometheus",
        "cache",
        "reload",
        "loadbalance",
    ):
        assert f"    {plugin}" in corefile


def test_flannel_reads_a_configuration_that_is_json(tmp_path: Path) -> None:
    values = {"global": {"clusterCIDR": "10.52.0.0/16"}, "vxlan": {"port": 4789}}
    objects = template(packed("rfo-flannel", REAL, tmp_path), values, tmp_path)
    assert json.loads(find(objects, "ConfigMap")["data"]["net-conf.json"]) == {
        "Network": "10.52.0.0/16",
        "Backend": {"Type": "vxlan", "VNI": 1, "Port": 4789, "DirectRouting": False},
    }
    assert {"--ip-masq", "--kube-subnet-mgr"} <= set(container(objects)["args"])
    assert "initContainers" not in find(objects, "DaemonSet")["spec"]["template"]["spec"]


@pytest.mark.parametrize(("host", "port"), [("", ""), ("127.0.0.1", "6444")])
def test_flannel_can_reach_the_api_before_kube_proxy_runs(host: str, port: str, tmp_path: Path) -> None:
    values = {"apiServer": {"host": host, "port": port}}
    environment = container(template(packed("rfo-flannel", REAL, tmp_path), values, tmp_path))["env"]
    found = {e["name"]: e["value"] for e in environment if e["name"].startswith("KUBERNETES_")}
    assert found == ({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port} if host else {})


@pytest.mark.parametrize("insecure", [False, True])
def test_metrics_server_trusts_kubelets_only_if_it_is_told_to(insecure: bool, tmp_path: Path) -> None:
    values = {"kubelet": {"insecureTLS": insecure}}
    arguments = container(template(packed("rfo-metrics-server", REAL, tmp_path), values, tmp_path))["args"]
    assert ("--kubelet-insecure-tls" in arguments) == insecure


@pytest.mark.parametrize(("name", "values"), CASES)
def test_programs_have_no_more_rights_than_they_need(name: str, values: dict[str, Any], tmp_path: Path) -> None:
    objects = template(packed(name, REAL, tmp_path), values, tmp_path)
    program = container(objects)
    rights = program["securityContext"]
    assert rights["readOnlyRootFilesystem"]
    assert not rights["allowPrivilegeEscalation"]
    assert rights["capabilities"]["drop"] == ["ALL"]
    assert rights["capabilities"].get("add", []) == (["NET_ADMIN", "NET_RAW"] if name == "rfo-flannel" else [])
    pod = next(o for o in objects if o["kind"] in ("Deployment", "DaemonSet"))["spec"]["template"]["spec"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"].get("runAsNonRoot", False) == (name != "rfo-flannel")
    assert {"livenessProbe", "readinessProbe", "resources"} <= program.keys()
    roles = [o for o in objects if o["kind"] in ("Role", "ClusterRole")]
    assert not any("*" in v for role in roles for rule in role["rules"] for v in rule.values())
    assert not any(r == "secrets" for role in roles for rule in role["rules"] for r in rule["resources"])


def test_charts_share_what_they_have_in_common() -> None:
    folders = [REPO / "charts" / name for name in CHARTS]
    assert len({(f / "templates/_rfo.tpl").read_bytes() for f in folders}) == 1
    schemas = [json.loads((f / "values.schema.json").read_text()) for f in folders]
    for shared in ("global", "image", "imagePullSecrets", "resources", "tolerations"):
        assert len({json.dumps(s["definitions"][shared]) for s in schemas}) == 1
    assert len({(f / "values.yaml").read_text().partition("\nimage:")[0] for f in folders}) == 1


@pytest.mark.parametrize("name", CHARTS)
def test_every_value_is_in_the_schema_and_every_key_of_the_schema_has_a_value(name: str) -> None:
    values = yaml.safe_load((REPO / "charts" / name / "values.yaml").read_text())
    schema = json.loads((REPO / "charts" / name / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    assert set(values) == set(schema["properties"]) == set(schema["required"])
