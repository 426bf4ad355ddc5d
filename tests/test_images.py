"""Images: layouts that others accept, layers that are made once, and every kind of mistake that is refused."""

import base64
import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine import (
    ARCHES,
    HELLO,
    HOST,
    SMALL,
    contents,
    environment,
    fails,
    given,
    make_context,
    run_actions,
    run_process,
    second_store,
    shared_store,
)
from jsonschema import Draft4Validator
from referencing import Registry, Resource
from tools import module

from images import CHART, EMPTY, MAIN, PLAIN, TOOLS, add_chart, image_checkout, made
from pipeline.attest.places import is_signature
from pipeline.chart.images import chart_images
from pipeline.context import Context
from pipeline.errors import BuildError, DefinitionError, PipelineError
from pipeline.graph import canonical
from pipeline.image.inspect import inspect_action
from pipeline.image.layer import BLOB
from pipeline.image.names import Reference
from pipeline.model import Digest
from pipeline.proof.result import Proof
from pipeline.rebuild import Asked, rebuild
from pipeline.release import make_graph, release
from pipeline.report.progress import Progress
from pipeline.scheduler import Result, Scheduler


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Three images on three architectures and a chart, in a release's folder."""
    return made(add_chart(image_checkout(tmp_path_factory.mktemp("images") / "checkout")))


def blob(context: Context, digest: str) -> Path:
    return context.dist / "images" / "blobs" / "sha256" / Digest.parse(digest).hex


def read(context: Context, digest: str) -> dict[str, Any]:
    data = json.loads(blob(context, digest).read_bytes())
    assert isinstance(data, dict)
    return data


def layout(context: Context) -> dict[str, Any]:
    data = json.loads((context.dist / "images" / "index.json").read_bytes())
    assert isinstance(data, dict)
    return data


def reached(context: Context) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every descriptor that the layout leads to, with the document that has it."""
    pending = [(d, layout(context)) for d in layout(context)["manifests"]]
    while pending:
        descriptor, owner = pending.pop()
        yield descriptor, owner
        if descriptor["mediaType"].endswith(("index.v1+json", "manifest.v1+json")):
            document = read(context, descriptor["digest"])
            inner = document.get("manifests") or [document["config"], *document["layers"]]
            pending += [(d, document) for d in inner]


def image(context: Context, name: str, arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest and configuration of an image."""
    manifest = json.loads((context.dist / "release.json").read_bytes())
    (entry,) = (i for i in manifest["images"] if i["name"] == name)
    found = read(context, entry["platforms"][f"linux/{arch}"])
    return found, read(context, found["config"]["digest"])


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as tar:
        return {m.name: m for m in tar}


def test_the_layout_holds_what_it_names_and_nothing_else(published: Context) -> None:
    names = set()
    for descriptor, _ in reached(published):
        path = blob(published, descriptor["digest"])
        assert str(Digest.of_file(path)) == descriptor["digest"] and path.stat().st_size == descriptor["size"]
        names.add(path.name)
    assert {p.name for p in (published.dist / "images/blobs/sha256").iterdir()} == names
    assert json.loads((published.dist / "images/oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}


@cache
def schemas() -> Registry[Any]:
    """The image format's own schemas, as their project ships them."""
    folder = module("github.com/opencontainers/image-spec@v1.1.0") / "schema"

    def retrieve(uri: str) -> Resource[Any]:
        return Resource.opaque(json.loads((folder / uri.rpartition("/")[2]).read_bytes()))

    return Registry(retrieve=retrieve)  # type: ignore[call-arg]


SCHEMAS = {
    "application/vnd.oci.image.index.v1+json": "image-index-schema.json",
    "application/vnd.oci.image.manifest.v1+json": "image-manifest-schema.json",
    "application/vnd.oci.image.config.v1+json": "config-schema.json",
}


def test_every_document_fits_the_schema_of_the_image_format(published: Context) -> None:
    folder = module("github.com/opencontainers/image-spec@v1.1.0") / "schema"

    def problems(document: Any, name: str) -> list[str]:
        schema = json.loads((folder / name).read_bytes())
        return [e.message for e in Draft4Validator(schema, registry=schemas()).iter_errors(document)]

    checked = 0
    assert problems(layout(published), "image-index-schema.json") == []
    for descriptor, _ in reached(published):
        if name := SCHEMAS.get(descriptor["mediaType"]):
            document = read(published, descriptor["digest"])
            assert problems(document, name) == []
            assert problems({**document, "schemaVersion": 7, "os": 7, "rootfs": 7}, name), "a check that can fail"
            checked += 1
    assert checked >= 3 * (1 + 3 + 3)


def test_layers_are_made_once_and_shared(published: Context) -> None:
    for arch in ARCHES:
        plain, tools, empty = (image(published, n, arch)[0]["layers"] for n in ("plain", "tools", "empty"))
        assert [len(x) for x in (plain, tools, empty)] == [2, 3, 2]
        assert plain[0] == tools[0] and plain[1] == tools[2] == empty[0]
        for manifest, config in (image(published, n, arch) for n in ("plain", "tools", "empty")):
            plains = [
                str(Digest.of_bytes(gzip.decompress(blob(published, la["digest"]).read_bytes())))
                for la in manifest["layers"]
            ]
            assert config["rootfs"]["diff_ids"] == plains
            assert config["architecture"] == arch and config["created"] == "2022-11-18T00:00:00Z"


def test_an_image_says_what_it_is(published: Context) -> None:
    manifest, config = image(published, "plain", "riscv64")
    labels = config["config"]["Labels"]
    assert labels == manifest["annotations"]
    standard = {k.removeprefix("org.opencontainers.image."): v for k, v in labels.items()}
    assert standard["version"] == SMALL and standard["licenses"] == "Apache-2.0"
    assert standard["base.name"] == "debian-13" and standard["base.digest"] == manifest["layers"][0]["digest"]
    assert config["config"]["User"] == "65532:65532" and config["config"]["Entrypoint"] == ["/usr/local/bin/hello"]
    assert "base.name" not in "".join(image(published, "empty", "riscv64")[0]["annotations"])


def test_system_layers_have_what_programs_need_and_no_more(published: Context) -> None:
    manifest, _ = image(published, "tools", "arm64")
    base, tools, _ = (members(blob(published, la["digest"])) for la in manifest["layers"])
    for name in ("usr/lib/os-release", "etc/ssl/certs/ca-certificates.crt", "usr/share/zoneinfo/Europe/Berlin",
                 "etc/passwd", "var/lib/dpkg/status.d/tzdata", "usr/share/doc/tzdata/copyright"):  # fmt: skip
        assert name in base
    assert base["tmp"].mode == 0o1777 and base["root"].mode == 0o700
    for name in ("usr/sbin/iptables", "usr/sbin/nft", "usr/sbin/conntrack", "var/lib/dpkg/status.d/iptables"):
        assert name in tools
    shells = ("bin/sh", "usr/bin/sh", "usr/bin/bash", "usr/bin/dpkg", "usr/bin/apt-get", "usr/bin/perl")
    assert not {*base, *tools} & set(shells)
    assert not any(m.mode & 0o6000 or (m.mode & 0o002 and m.isreg()) for m in (*base.values(), *tools.values()))
    both = [n for n in set(base) & set(tools) if not base[n].isdir()]
    assert both == [], "what a layer has, the next one does not repeat"


def test_the_package_database_is_the_packages_own_words(published: Context) -> None:
    manifest, _ = image(published, "tools", "arm64")
    with tarfile.open(blob(published, manifest["layers"][1]["digest"])) as tar:
        record = tar.extractfile("var/lib/dpkg/status.d/iptables")
        assert record
        text = record.read().decode()
    lock = {(p.root, p.arch, p.name): p for p in published.base_locks["debian-13"].packages}
    assert f"Version: {lock['network', 'arm64', 'iptables'].version}\n" in text
    assert text.startswith("Package: iptables\n") and "Architecture: arm64\n" in text and text.endswith("\n")


def test_the_same_bytes_in_another_store_folder_and_umask(published: Context, tmp_path: Path) -> None:
    again = add_chart(image_checkout(tmp_path / "a folder with blanks"))
    with second_store() as store:
        named = [argument for arch in ARCHES for argument in ("--arch", arch)]
        run_process(again, store, *named, "--umask", "77")
    first, second = published.dist, again / "dist" / SMALL
    assert contents(first) == contents(second)


def replayed(context: Context) -> Result:
    """What the store has of a run, without running anything."""
    graph, result = make_graph(context), Result()
    Scheduler(context.store, None, context.progress, 1, 1 << 30).replay(graph, result)  # type: ignore[arg-type]
    return result


def test_a_changed_program_makes_its_layer_again_and_no_other(published: Context, tmp_path: Path) -> None:
    changed = add_chart(image_checkout(tmp_path / "changed"))
    (changed / "components/hello/src/main.go").write_text(MAIN.replace("version)", 'version, "changed")'))
    context = make_context(changed, arches=("amd64",))
    release(context)
    before, after = replayed(published), replayed(context)
    names = [n for n in before.outputs if n.startswith("layer/") and n.endswith("/amd64")]
    remade = {n.split("/")[1] for n in names if before.outputs[n] != after.outputs[n]}
    # A chart names the index of its image, which is another one, so that the layer with charts is too.
    assert remade == {"plain.hello", "tools.hello", "empty.hello", "empty.charts"}
    assert len(names) == len(remade) + 2


def test_a_run_for_one_architecture_takes_the_others_along(tmp_path: Path) -> None:
    checkout = image_checkout(tmp_path / "checkout", PLAIN)
    for arch in ("amd64", "riscv64"):
        context = make_context(checkout, arches=(arch,))
        release(context)
    manifest = json.loads((context.dist / "release.json").read_bytes())
    assert manifest["platforms"] == ["linux/amd64", "linux/riscv64"]
    (entry,) = manifest["images"]
    index = read(context, entry["digest"])
    assert [m["platform"]["architecture"] for m in index["manifests"]] == ["amd64", "riscv64"]
    names = {a["name"] for a in manifest["artifacts"]}
    on_disk = {p.relative_to(context.dist).as_posix() for p in context.dist.rglob("*") if p.is_file()}
    assert {n for n in on_disk if not is_signature(n)} == names | {"release.json"}


def test_an_architecture_that_fails_does_not_keep_the_others_back(tmp_path: Path) -> None:
    broken = HELLO.replace("fmt.Println", 'if runtime.GOARCH == "arm64" { os.Exit(9) }\n\tfmt.Println', 1)
    checkout = image_checkout(tmp_path / "checkout", PLAIN, files={
        "components/hello/src/main.go": broken.replace('"os"', '"os"\n\t"runtime"'),
    })  # fmt: skip
    context = make_context(checkout, arches=ARCHES)
    error = fails(lambda: release(context))
    assert isinstance(error, BuildError) and "check/hello/arm64" in error.reason
    manifest = json.loads((context.dist / "release.json").read_bytes())
    assert manifest["platforms"] == ["linux/amd64", "linux/riscv64"]
    assert set(manifest["images"][0]["platforms"]) == {"linux/amd64", "linux/riscv64"}
    again = make_context(checkout, arches=ARCHES, actions=("check/hello/arm64",))
    assert "check/hello/arm64" in fails(lambda: release(again)).reason, "what the error says to type"


# --- what belongs to images


def test_an_image_carries_the_charts_of_the_release(published: Context) -> None:
    manifest, _ = image(published, "empty", "riscv64")
    with tarfile.open(blob(published, manifest["layers"][1]["digest"])) as tar:
        file = tar.extractfile(f"charts/{CHART}.yaml")
        assert file
        chart = yaml.safe_load(file.read())
    packed = published.dist / "charts" / f"{CHART}-1.0.0+rfor1.tgz"
    assert base64.b64decode(chart["spec"]["chartContent"]) == packed.read_bytes()
    assert chart_images(packed)["image"].digest == Digest.parse(index_digest(published, "tools"))


def index_digest(context: Context, name: str) -> str:
    manifest = json.loads((context.dist / "release.json").read_bytes())
    return str(next(i["digest"] for i in manifest["images"] if i["name"] == name))


def test_every_image_and_the_release_have_a_document(published: Context) -> None:
    found = {p.name for p in (published.dist / "sbom").iterdir()}
    assert found == {f"{n}.linux-{a}.spdx.json" for n in ("plain", "tools", "empty") for a in ARCHES} | {
        "release.spdx.json"
    }
    document = json.loads((published.dist / "sbom" / "tools.linux-arm64.spdx.json").read_bytes())
    lock = {p.name: p.version for p in published.base_locks["debian-13"].packages if p.root == "network"}
    assert lock["iptables"] in {p.get("versionInfo") for p in document["packages"] if p["name"] == "iptables"}


def test_bundles_hold_what_their_lists_say(published: Context) -> None:
    for arch in ARCHES:
        lines = (published.dist / f"rfo-images.linux-{arch}.txt").read_text().splitlines()
        parts = [
            line
            for name in ("core", "more")
            for line in (published.dist / f"rfo-images-{name}.linux-{arch}.txt").read_text().splitlines()
        ]
        assert sorted(parts) == lines and len(lines) == 4
        sums = (published.dist / f"sha256sum-{arch}.txt").read_text()
        assert sums.count("\n") == 6


# --- proof


def prove(context: Context, folder: Path, **asked: Any) -> Proof:
    with environment(RFO_STORE=str(shared_store().root)):
        return rebuild(Asked(folder, **asked), Progress(stream=StringIO()), context.checkout)


def test_a_proof_makes_every_image_again(published: Context) -> None:
    proof = prove(published, published.dist)
    assert [j.name for j in proof.judged if not j.equal] == []
    compared = {(s.kind, s.platform): s.compared for s in proof.scores}
    assert all(compared["image", f"linux/{a}"] == 3 for a in ARCHES)
    assert compared["bundle", "linux/arm64"] == 3 and compared["layout", "all"] == 2


def test_a_proof_of_one_architecture_leaves_out_what_names_all(published: Context) -> None:
    proof = prove(published, published.dist, arches=("riscv64",))
    assert [j.name for j in proof.judged if not j.equal] == []
    assert {s.kind for s in proof.scores} == {"binary", "image", "sbom"}


def test_a_layer_that_was_swapped_in_the_candidate_is_told_as_such(published: Context, tmp_path: Path) -> None:
    """The whole chain is forged, so that every digest fits."""
    forged = tmp_path / SMALL
    shutil.copytree(published.dist, forged)
    release_json = json.loads((forged / "release.json").read_bytes())
    (entry,) = (i for i in release_json["images"] if i["name"] == "plain")
    blobs = forged / "images/blobs/sha256"

    def put(data: bytes) -> dict[str, Any]:
        digest = Digest.of_bytes(data)
        (blobs / digest.hex).write_bytes(data)
        release_json["artifacts"].append(
            {"name": f"images/blobs/sha256/{digest.hex}", "digest": str(digest), "size": len(data)}
        )
        return {"digest": str(digest), "size": len(data)}

    manifest = json.loads((blobs / Digest.parse(entry["platforms"]["linux/amd64"]).hex).read_bytes())
    manifest["layers"][1] |= put(archive(("usr/local/bin/hello", 0o755, b"a back door")))
    entry["platforms"]["linux/amd64"] = put(canonical(manifest))["digest"]
    (forged / "release.json").write_bytes(json.dumps(release_json).encode())
    proof = prove(published, forged, arches=("amd64",), output=tmp_path / "result.json")
    (bad,) = [j for j in proof.judged if not j.equal]
    assert bad.name == "image/plain/amd64"
    told = "\n".join(str(d) for d in bad.differences)
    assert "layer1.tar.gz" in told and "usr/local/bin/hello" in told
    assert [c.kind for c in proof.causes] == ["candidate"]


# --- names


def test_tags_follow_rke2_and_both_forms_resolve(published: Context) -> None:
    names = {d["annotations"]["io.containerd.image.name"]: d["digest"] for d in layout(published)["manifests"]}
    plain = names["docker.io/rfolabs/plain:v1.0.0-rfor1-build20221118"]
    assert plain == names["docker.io/rfolabs/other:v1.0.0_rfor1"]
    assert len(names) == 5, "three images, one of them with two names, and a chart"


def test_a_base_that_stands_in_marks_tags_and_labels(tmp_path: Path) -> None:
    checkout = image_checkout(tmp_path / "checkout", PLAIN)
    path = checkout / "releases" / SMALL / "release.yaml"
    data = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(data | {"bases": {"amd64": "openeuler-22.03-lts-sp4"}}))
    context = make_context(checkout, base="debian-13")
    assert context.images[0].reference == Reference("rfolabs/plain", "v1.0.0-rfor1-build20221118-debian-13")
    assert context.images[0].also[0].tag == "v1.0.0_rfor1", "kubeadm makes it up and knows of no base"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"also": [{"name": "plain", "tag": "{release}-build{build}"}]}, "both called docker.io/rfolabs/plain:"),
        ({"tag": "a b"}, "tag"),
        ({"tag": "{commit}"}, "unknown value 'commit'"),
        ({"component": "nothing"}, "made of nothing, which release"),
        ({"layer": "kitchen"}, "has no layer kitchen (it has: minimal, network)"),
        ({"programs": [{"component": "nothing", "to": "bin"}]}, "needs any program of nothing"),
        ({"programs": [{"component": "hello", "to": "bin", "only": ["bye"]}]}, "needs bye"),
        ({"programs": [PLAIN["programs"][0], PLAIN["programs"][0]]}, "has usr/local/bin/hello twice"),
        ({"programs": [{"component": "hello", "to": "../bin"}]}, "leaves its root"),
        ({"budget": "much"}, "is not a size"),
        ({"colour": "red"}, "Extra inputs are not permitted"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    checkout = image_checkout(tmp_path / "checkout", PLAIN, EMPTY | {"name": "wrong"} | other)
    context = make_context(checkout, arches=("amd64",))
    error = fails(lambda: make_graph(context))
    assert isinstance(error, DefinitionError)
    assert message in error.render()


def test_a_program_that_an_architecture_lacks_is_named(tmp_path: Path) -> None:
    checkout = image_checkout(tmp_path / "checkout", PLAIN)
    context = make_context(checkout, arches=("amd64", "arm64"))
    context.units[:] = [replace(u, arches=("amd64",)) for u in context.units]
    error = fails(lambda: make_graph(context))
    assert "needs any program of hello, which the release does not build for linux/arm64" in error.reason


def test_an_image_over_its_budget_is_not_made(tmp_path: Path) -> None:
    context = make_context(image_checkout(tmp_path / "checkout", TOOLS | {"budget": "1MiB"}), arches=("amd64",))
    error = fails(lambda: release(context))
    assert "image tools takes" in error.reason and "its budget is 1MiB" in error.reason
    assert "layer" in error.reason and not (context.dist / "images").exists()


# --- what is found inside


def archive(*files: tuple[str, int, bytes]) -> bytes:
    """A layer with files of any mode; a mode of 0 makes a link to the content."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, mode, data in files:
            info = tarfile.TarInfo(name)
            info.mode, info.size = mode or 0o777, len(data) if mode else 0
            if not mode:
                info.type, info.linkname = tarfile.SYMTYPE, data.decode()
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), mtime=0)


def inspected(*files: tuple[str, int, bytes]) -> PipelineError | None:
    """What the inspection says of an image with one layer of these files."""
    layer = given("layer/bad/amd64", {BLOB: archive(*files)})
    context = make_context(image_checkout_for_inspection(), arches=(HOST,))
    judge = inspect_action(context.images[0], HOST, [layer.name], [], {}, context.inputs[HOST])
    result = run_actions(shared_store(), [layer, judge])
    return result.failures[0].error if result.failures else None


@cache
def image_checkout_for_inspection() -> Path:
    import tempfile

    return image_checkout(Path(tempfile.mkdtemp(prefix="rfo-test-inspect-")) / "checkout", EMPTY)


def test_an_innocent_layer_passes() -> None:
    assert inspected(("etc/hosts", 0o644, b"127.0.0.1 localhost\n"), ("etc/link", 0, b"hosts")) is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("bin/su", 0o4755, b"x")], "bin/su is set-id (mode 4755)"),
        ([("etc/free", 0o666, b"x")], "etc/free is writable for everybody (mode 666)"),
        ([("var/log/apt.log", 0o644, b"x")], "var/log/apt.log is a leftover"),
        ([("var/cache/x/y", 0o644, b"x")], "var/cache/x/y is a leftover"),
        ([("etc/link", 0, b"/nowhere")], "the link etc/link -> /nowhere leads nowhere"),
        ([("etc/loop", 0, b"loop")], "the link etc/loop -> loop leads nowhere"),
        ([("etc/conf", 0o644, f"dir={shared_store().root}/trees/x".encode())], "etc/conf holds the host's path"),
        ([("../etc/x", 0o644, b"x")], "leaves its root"),
    ],
)
def test_what_must_not_ship_is_found(files: list[tuple[str, int, bytes]], message: str) -> None:
    error = inspected(*files)
    assert error and message in error.reason


def test_a_library_that_is_not_in_the_image_is_named(published: Context) -> None:
    manifest, _ = image(published, "tools", HOST)
    with tarfile.open(blob(published, manifest["layers"][1]["digest"])) as tar:
        (plugin,) = (m for m in tar if m.name.endswith("/libxt_statistic.so"))
        content = tar.extractfile(plugin)
        assert content
        error = inspected(("usr/lib/xtables/libxt_statistic.so", 0o644, content.read()))
    assert error and "libxt_statistic.so needs libm.so.6, which is not in the image" in error.reason


def test_a_dynamic_program_that_nothing_starts_is_named(published: Context) -> None:
    manifest, _ = image(published, "tools", HOST)
    with tarfile.open(blob(published, manifest["layers"][1]["digest"])) as tar:
        content = tar.extractfile("usr/bin/kmod")
        assert content
        error = inspected(("usr/bin/odd", 0o755, content.read()))
    assert error and "usr/bin/odd is a dynamic program that nothing starts" in error.reason


def test_a_program_other_than_the_one_that_was_built_is_found(published: Context) -> None:
    context = make_context(published.checkout, arches=(HOST,))
    name = next(i for i in context.images if i.name == "empty")
    layer = given("layer/swapped/amd64", {BLOB: archive(("usr/local/bin/hello", 0o755, b"\x7fELF something else"))})
    graph = make_graph(context)
    from pipeline.image.layer import Program

    program = Program("usr/local/bin/hello", "hello", context.units[0])
    judge = inspect_action(name, HOST, [layer.name], [program], context.release.values, context.inputs[HOST])
    build = [graph.actions[n] for n in ("build/hello/amd64", "check/hello/amd64")]
    result = run_actions(shared_store(), [layer, judge, *build])
    assert "usr/local/bin/hello is not the hello that was built" in result.failures[0].error.reason
