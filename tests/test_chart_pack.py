"""Packing charts: the same bytes anywhere, artifacts that Helm and registries take, and charts that are refused."""

import base64
import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from engine import HOST, REAL, REPO, fails, given, inputs, run_actions, shared_store
from registry_server import MANIFEST, distribution

from charts import CHARTS, DIGESTS, IMAGES, INDEXES, helm, images_in, release_images, template
from pipeline.chart.definition import read_chart
from pipeline.chart.images import chart_images, fill_chart, images_for
from pipeline.chart.pack import chart_action, chart_reference, entries
from pipeline.errors import DefinitionError, SourceError
from pipeline.graph import Action
from pipeline.model import Digest
from pipeline.pack.tar import write_tar
from pipeline.store import Store

VERSION = REAL.removeprefix("v")
EPOCH = 1668729600
HELM_TYPES = "application/vnd.cncf.helm"


def action(checkout: Path, name: str) -> Action:
    roots = inputs().roots
    return chart_action(
        read_chart(checkout, name),
        version=VERSION,
        images=release_images(REAL),
        epoch=EPOCH,
        roots=roots,
        root=roots.find("packer", HOST),
    )


def pack(checkout: Path, store: Store, *names: str) -> dict[str, dict[str, bytes]]:
    """The outputs of packing by chart."""
    indexes = [given(f"index/{n}", {"index.json": INDEXES[n]}) for n in IMAGES]
    result = run_actions(store, [*indexes, *(action(checkout, n) for n in names)])
    assert not result.failures, result.failures[0].error.render()
    found = {}
    for name in names:
        paths = {n: store.use(o.digest) for n, o in result.outputs[f"chart/{name}"].items()}
        found[name] = {n: p.read_bytes() for n, p in paths.items() if p}
    return found


@cache
def packed() -> dict[str, dict[str, bytes]]:
    return pack(REPO, shared_store(), *CHARTS)


def tgz(name: str, folder: Path) -> Path:
    file = folder / f"{name}-{VERSION}.tgz"
    file.write_bytes(packed()[name][file.name])
    return file


def copy(folder: Path) -> Path:
    """The charts apart from the repository."""
    shutil.copytree(REPO / "charts", folder / "charts")
    return folder


# --- bytes


def test_the_bytes_are_the_same_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another folder without git, other modes and times of files, another umask, time zone and store."""
    checkout = copy(tmp_path / "elsewhere")
    for path in checkout.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (5, 5))
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    old = os.umask(0o077)
    try:
        second = pack(checkout, Store(tmp_path / "store"), *CHARTS)
    finally:
        os.umask(old)
    assert second == packed()


def test_a_chart_has_the_bytes_that_it_always_had(tmp_path: Path) -> None:
    """Of the archive before compression: the base's gzip may change."""
    chart = read_chart(small_chart(tmp_path), "small")
    used = images_for(chart, release_images(REAL))
    filled = fill_chart(chart, VERSION, used, {path: DIGESTS[i.name] for path, i in used.items()})
    stream = io.BytesIO()
    write_tar(stream, entries(filled, EPOCH), time=EPOCH)
    assert Digest.of_bytes(stream.getvalue()).hex == "ab22e10e6532d2801e1ba22dcbb7742ce5bb22f7feb13bb1cfac35adbb63b8d7"


@pytest.mark.parametrize("name", CHARTS)
def test_an_archive_holds_the_chart_and_nothing_of_the_host(name: str) -> None:
    data = packed()[name][f"{name}-{VERSION}.tgz"]
    assert data[3:8] == bytes(5)  # RFC 1952: no name, no time
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as tar:
        members = tar.getmembers()
        values = tar.extractfile(f"{name}/values.yaml")
        assert values
        text = values.read().decode()
    assert {(m.uid, m.gid, m.mtime) for m in members} == {(0, 0, EPOCH)}
    assert {m.mode for m in members if m.isreg()} == {0o644}
    names = {m.name for m in members}
    assert {f"{name}/Chart.yaml", f"{name}/README.md", f"{name}/templates/NOTES.txt"} <= names
    assert f"{name}/packing.yaml" not in names
    assert "# a mirror's host instead of docker.io" in text  # people read it: comments stay


def test_another_image_or_version_makes_another_key(tmp_path: Path) -> None:
    checkout = copy(tmp_path)
    outputs = {f"index/{n}": {"index.json": shared_store().add_bytes(INDEXES[n])} for n in IMAGES}
    first = action(checkout, "rfo-coredns").key(outputs)[0]
    assert action(checkout, "rfo-coredns").key(outputs)[0] == first
    other = outputs | {"index/hardened-coredns": {"index.json": shared_store().add_bytes(b"another index")}}
    assert action(checkout, "rfo-coredns").key(other)[0] != first
    with (checkout / "charts/rfo-coredns/values.yaml").open("a") as file:
        file.write("# more\n")
    assert action(checkout, "rfo-coredns").key(outputs)[0] != first


# --- what is made of it


@pytest.mark.parametrize("name", CHARTS)
def test_helm_reads_what_was_packed(name: str, tmp_path: Path) -> None:
    chart = tgz(name, tmp_path)
    shown = helm("show", "chart", chart, home=tmp_path)
    assert shown.returncode == 0, shown.stderr
    facts = yaml.safe_load(shown.stdout)
    app = {"rfo-coredns": "1.9.3", "rfo-flannel": "v0.19.1", "rfo-metrics-server": "0.6.1"}
    assert (facts["name"], facts["version"], facts["appVersion"]) == (name, VERSION, app[name])
    assert facts["kubeVersion"] == ">=1.23.0-0"
    done = helm("lint", "--strict", chart, "--kube-version", "v1.25.4", home=tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", CHARTS)
def test_the_images_found_are_those_that_helm_renders(name: str, tmp_path: Path) -> None:
    chart = tgz(name, tmp_path)
    found = {str(p) for p in chart_images(chart).values()}
    assert found == set(images_in(template(chart, {}, tmp_path)))
    assert [p.split("@")[1] for p in found] == [str(DIGESTS[dict(zip(CHARTS, IMAGES, strict=True))[name]])]


@pytest.mark.parametrize("name", CHARTS)
def test_the_artifact_is_what_helm_would_push(name: str) -> None:
    made = packed()[name]
    manifest = json.loads(made["manifest.json"])
    layer = made[f"{name}-{VERSION}.tgz"]
    assert manifest["schemaVersion"] == 2
    for descriptor, data, kind in (
        (manifest["config"], made["config.json"], f"{HELM_TYPES}.config.v1+json"),
        (manifest["layers"][0], layer, f"{HELM_TYPES}.chart.content.v1.tar+gzip"),
    ):
        assert descriptor == {"mediaType": kind, "digest": str(Digest.of_bytes(data)), "size": len(data)}
    assert len(manifest["layers"]) == 1
    assert made["layer.tgz"] == layer
    annotations = manifest["annotations"]
    assert annotations["org.opencontainers.image.created"] == "2022-11-18T00:00:00Z"
    assert annotations["org.opencontainers.image.version"] == VERSION
    assert annotations["org.opencontainers.image.title"] == name
    config = json.loads(made["config.json"])
    assert (config["apiVersion"], config["name"], config["version"]) == ("v2", name, VERSION)


def put(address: str, path: str, data: bytes, kind: str) -> None:
    """Put one blob or manifest into a registry (distribution-spec, "Pushing")."""
    url = f"http://{address}/v2/rfolabs/{path}"
    if kind == "blob":
        started = requests.post(f"{url}/blobs/uploads/", timeout=600)
        where = started.headers["Location"]
        done = requests.put(where, data=data, params={"digest": str(Digest.of_bytes(data))}, timeout=600)
    else:
        done = requests.put(url, data=data, headers={"Content-Type": kind}, timeout=600)
    assert done.status_code == 201, done.text


def test_helm_pulls_the_artifact_and_pushes_the_same(tmp_path: Path) -> None:
    """Helm's own artifact of the same file differs only in its time and in how the config spells JSON."""
    name, made = "rfo-coredns", packed()["rfo-coredns"]
    reference = chart_reference(name, VERSION)
    with distribution(tmp_path / "registry") as address:
        for blob in ("config.json", "layer.tgz"):
            put(address, name, made[blob], "blob")
        put(address, f"{name}/manifests/{reference.tag}", made["manifest.json"], MANIFEST)
        pull = ("pull", f"oci://{address}/{reference.repository}", "--version", VERSION, "--plain-http", "-d", tmp_path)
        done = helm(*pull, home=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"{name}-{VERSION}.tgz").read_bytes() == made["layer.tgz"]
        done = helm("push", tgz(name, tmp_path), f"oci://{address}/other", "--plain-http", home=tmp_path)
        assert done.returncode == 0, done.stderr
        url = f"http://{address}/v2/other/{name}"
        answer = requests.get(f"{url}/manifests/{reference.tag}", headers={"Accept": MANIFEST}, timeout=600)
        theirs, ours = answer.json(), json.loads(made["manifest.json"])
        config = requests.get(f"{url}/blobs/{theirs['config']['digest']}", timeout=600).json()
    assert config == json.loads(made["config.json"])
    for manifest in (theirs, ours):
        manifest["annotations"].pop("org.opencontainers.image.created")
        assert manifest.pop("config")["mediaType"] == f"{HELM_TYPES}.config.v1+json"
    theirs.setdefault("mediaType", MANIFEST)
    assert ours == theirs


@pytest.mark.parametrize("name", CHARTS)
def test_the_helm_chart_object_carries_the_same_bytes(name: str) -> None:
    made = packed()[name]
    layer = made[f"{name}-{VERSION}.tgz"]
    found = yaml.safe_load(made[f"{name}.yaml"])
    assert (found["apiVersion"], found["kind"]) == ("helm.cattle.io/v1", "HelmChart")
    assert found["metadata"]["namespace"] == "kube-system"
    assert base64.b64decode(found["spec"]["chartContent"], validate=True) == layer
    assert found["metadata"]["annotations"] == {"rfolabs.github.io/chart-digest": str(Digest.of_bytes(layer))}
    assert found["spec"]["bootstrap"] == (name != "rfo-metrics-server")
    assert found["spec"]["valuesContent"] == ""


# --- what is refused


def small_chart(folder: Path, name: str = "small", **files: str) -> Path:
    """A checkout with one chart; `files` replace some of it."""
    written = {
        "Chart.yaml": f"""\
apiVersion: v2
name: {name}
description: A small one
type: application
version: 0.0.0
appVersion: "{{number}}"
kubeVersion: ">=1.23.0-0"
""",
        "README.md": "small\n",
        "packing.yaml": "bootstrap: false\nimages: {image: hardened-coredns}\n",
        "values.schema.json": "{}\n",
        "values.yaml": 'image: {repository: "", tag: "", digest: "", pullPolicy: IfNotPresent}  # comment\n',
        "templates/NOTES.txt": "small\n",
    } | files
    for path, text in written.items():
        target = folder / "charts" / "small" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"packing.yaml": "bootstrap: false\nimages: {image: nginx}\n"},
            "charts/small/packing.yaml: key images.image: the release has no image nginx",
        ),
        (
            {"packing.yaml": "bootstrap: false\nimages: {image: hardened-coredns, job.image: hardened-flannel}\n"},
            "charts/small/packing.yaml: key images.job.image: ",
        ),
        (
            {"values.yaml": "image: {repository: '', tag: '', digest: ''}\njob: {image: {repository: nginx}}\n"},
            "charts/small/values.yaml: key job.image is an image that packing.yaml does not name",
        ),
        (
            {"values.yaml": "image: {repository: '', tag: ''}\n"},
            "charts/small/values.yaml: key image.digest is missing",
        ),
        ({"values.yaml": "image: nginx\n"}, "charts/small/packing.yaml: key images.image: "),
        ({"values.yaml": "image: &a {repository: x}\nb: *a\n"}, "aliases and tags are not allowed"),
        ({"packing.yaml": "bootstrap: false\nimages: {}\n"}, "packing.yaml: key images: "),
        ({"packing.yaml": "bootstrap: maybe\nimages: {image: pause}\n"}, "packing.yaml: key bootstrap: "),
        ({"packing.yaml": "bootstrap: true\nimages: {image: pause}\nmore: 1\n"}, "packing.yaml: key more: "),
        ({"packing.yaml": "bootstrap: true\nimages: {../image: pause}\n"}, "packing.yaml: key images."),
        ({"Chart.yaml": "apiVersion: v1\nname: small\n"}, "charts/small/Chart.yaml: key apiVersion: "),
        ({"values.schema.json": " " * (1 << 21)}, "charts/small/values.schema.json: larger than 1048576 bytes"),
    ],
)
def test_a_chart_that_does_not_fit_the_release_is_refused(files: dict[str, str], says: str, tmp_path: Path) -> None:
    checkout = small_chart(tmp_path, **files)
    error = fails(lambda: action(checkout, "small"))
    assert isinstance(error, DefinitionError)
    assert says in error.reason


def test_a_dependency_or_another_name_is_refused(tmp_path: Path) -> None:
    path = small_chart(tmp_path) / "charts/small/Chart.yaml"
    text = path.read_text()
    path.write_text(text + "dependencies: [{name: other, repository: 'https://charts.example'}]\n")
    assert "Chart.yaml: key dependencies: " in fails(lambda: action(tmp_path, "small")).reason
    path.write_text(text.replace("name: small", "name: large"))
    assert (
        "key name: expected small, as its folder is called; found large"
        in fails(lambda: action(tmp_path, "small")).reason
    )
    path.write_text(text.replace("{number}", "{colour}"))
    assert "Chart.yaml: key appVersion: " in fails(lambda: action(tmp_path, "small")).reason


@pytest.mark.parametrize("name", ["README.md", "packing.yaml", "values.schema.json", "values.yaml", "Chart.yaml"])
def test_a_chart_without_one_of_its_files_is_refused(name: str, tmp_path: Path) -> None:
    (small_chart(tmp_path) / "charts/small" / name).unlink()
    assert f"charts/small/{name} is missing" in fails(lambda: action(tmp_path, "small")).reason


def test_a_chart_that_is_not_there_or_holds_a_link_is_refused(tmp_path: Path) -> None:
    small_chart(tmp_path)
    assert "charts/none does not exist" in fails(lambda: action(tmp_path, "none")).reason
    (tmp_path / "charts/small/templates/passwd").symlink_to("/etc/passwd")
    assert "templates/passwd is a link" in fails(lambda: action(tmp_path, "small")).reason


def archive(files: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


PINNED = f"image: {{repository: a/b, tag: v1, digest: sha256:{'a' * 64}, pullPolicy: Never}}\n"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda: b"no archive", "x.tgz"),
        (lambda: archive({"a/values.yaml": PINNED})[:-9], "x.tgz: the compressed data ends too early"),
        (lambda: archive({"../a/values.yaml": PINNED}), "leaves its root"),
        (lambda: archive({"a/Chart.yaml": ""}), "x.tgz: expected one folder with a values.yaml, found 0"),
        (lambda: archive({"a/values.yaml": PINNED, "b/values.yaml": PINNED}), "found 2"),
        (
            lambda: archive({"a/values.yaml": PINNED.replace("sha256:", "md5:")}),
            "x.tgz: a/values.yaml: image: key digest: ",
        ),
        (lambda: archive({"a/values.yaml": PINNED.replace("v1", "''")}), "x.tgz: a/values.yaml: image: key tag: "),
        (lambda: archive({"a/values.yaml": PINNED.replace("v1", "v+1")}), "cannot be a tag"),
        (lambda: archive({"a/values.yaml": "image: {repository: x}"}), "x.tgz: a/values.yaml: image: key tag: "),
        (lambda: archive({"a/values.yaml": "[1]"}), "x.tgz: a/values.yaml: expected a mapping"),
        (lambda: archive({"a/values.yaml": PINNED, "a/bomb": "0" * (9 << 20)}), "x.tgz: "),
    ],
)
def test_what_is_no_packed_chart_is_refused(data: Callable[[], bytes], says: str, tmp_path: Path) -> None:
    (tmp_path / "x.tgz").write_bytes(data())
    error = fails(lambda: chart_images(tmp_path / "x.tgz"))
    assert isinstance(error, SourceError)
    assert says in error.reason
    assert str(tmp_path.parent) not in error.reason.replace(str(tmp_path / "x.tgz"), "")


def test_every_image_below_the_values_is_found(tmp_path: Path) -> None:
    nested = f"a:\n  b:\n    {PINNED}  {PINNED.replace('a/b', 'c/d').replace('image:', 'other:')}"
    (tmp_path / "x.tgz").write_bytes(archive({"a/values.yaml": nested}))
    found: dict[str, Any] = {p: i.reference.repository for p, i in chart_images(tmp_path / "x.tgz").items()}
    assert found == {"a.b.image": "a/b", "a.other": "c/d"}
