"""From a layer, an image, a chart or a bundle, or a file inside one, back to every pin."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import traced
from engine import BASE, SMALL, fails, shared_store
from test_explain import header, tar_of
from traced import ARCHES, DIST

from pipeline.errors import SourceError, UsageError
from pipeline.model import Digest
from pipeline.report.chain import render_chain
from pipeline.trace.explain import explain

REFERENCE = "rfolabs/plain:v1.0.0-rfor1-build20221118"


@pytest.fixture(scope="module")
def made() -> Path:
    return traced.made()


@pytest.fixture
def checkout(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return shutil.copytree(made, tmp_path / "checkout")


def manifest(checkout: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkout / DIST / "release.json").read_bytes())
    return found


def image(checkout: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(i for i in manifest(checkout)["images"] if i["name"] == name)
    return found


def blob(checkout: Path, digest: str) -> Path:
    return checkout / DIST / "images/blobs/sha256" / Digest.parse(digest).hex


def layers(checkout: Path, name: str, arch: str) -> list[str]:
    """Digests of an image's layers."""
    document = json.loads(blob(checkout, image(checkout, name)["platforms"][f"linux/{arch}"]).read_bytes())
    return [la["digest"] for la in document["layers"]]


def held(facts: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(i["name"], i["platform"].removeprefix("linux/"), i["role"]) for i in facts["images"]]


def test_an_image_is_explained_by_its_layers(made: Path) -> None:
    facts = explain(f"{REFERENCE}@riscv64", made)
    assert (facts["made_by"], facts["file"]["digest"]) == (
        "image/plain/riscv64", image(made, "plain")["platforms"]["linux/riscv64"],
    )  # fmt: skip
    (found,) = facts["images"]
    system, program = found["layers"]
    assert [la["digest"] for la in (system, program)] == layers(made, "plain", "riscv64")
    assert (system["made_by"], program["made_by"]) == ("layer/minimal/riscv64", "layer/plain.hello/riscv64")
    assert [(p["path"], p["unit"]) for p in program["programs"]] == [("usr/local/bin/hello", "hello")]
    assert program["programs"][0]["digest"] == next(
        b["digest"] for b in manifest(made)["binaries"] if (b["name"], b["platform"]) == ("hello", "linux/riscv64")
    )
    packages = facts["roots"][system["root"]]["packages"]
    lock = (made / DIST / f"{BASE}.lock").read_text().splitlines()
    for package in packages:
        line = lock[int(package["at"].rpartition(":")[2]) - 1]
        assert line.startswith(f"package minimal riscv64 {package['name']} {package['version']} ")
    assert "tzdata" in [p["name"] for p in packages]
    assert facts["units"]["hello"]["toolchain"]["sum"].startswith("h1:")


@pytest.mark.parametrize(
    "form",
    [
        "plain",
        REFERENCE,
        f"docker.io/{REFERENCE}",
        "rfolabs/other:v1.0.0_rfor1",
        "{reference}@{digest}",
        "{digest}",
        "{blob}",
    ],
)
def test_an_image_is_found_by_every_form(made: Path, form: str) -> None:
    digest = image(made, "plain")["digest"]
    facts = explain(form.format(reference=REFERENCE, digest=digest, blob=blob(made, digest)), made)
    assert (facts["file"]["digest"], facts["made_by"]) == (digest, "index/plain")
    assert held(facts) == [("plain", a, "index") for a in ARCHES]
    assert facts["checkout"] == {"differs": {}, "reason": ""}


def test_what_is_told_of_an_image_is_what_ran(made: Path) -> None:
    told = explain("plain", made)["actions"]
    assert sorted(n for n, a in told.items() if a["key"] is None and not n.startswith("inspect/")) == []
    for name in ("index/plain", "image/plain/amd64", "layer/minimal/amd64", "layer/plain.hello/riscv64"):
        record = shared_store().record(Digest.parse(told[name]["key"]))
        assert record is not None, name
        assert record.parts["parameters"] == json.loads(json.dumps(told[name]["parameters"]))


def test_a_shared_layer_names_every_image_that_holds_it(made: Path) -> None:
    layer = layers(made, "plain", "amd64")[1]
    assert held(explain(layer, made)) == [("empty", "amd64", "layer 1"), ("plain", "amd64", "layer 2")]
    charts = explain(str(blob(made, layers(made, "node", "amd64")[2])), made)
    assert held(charts) == [("node", a, "layer 3") for a in ARCHES], "the same bytes on all architectures"
    assert charts["made_by"] == "layer/node.charts/amd64"
    config = json.loads(blob(made, image(made, "node")["platforms"]["linux/amd64"]).read_bytes())["config"]["digest"]
    assert held(explain(config, made)) == [("node", "amd64", "config")]


def test_a_program_names_the_images_that_hold_it(made: Path) -> None:
    expected = [("empty", "amd64", "layer 1"), ("node", "amd64", "layer 2"), ("plain", "amd64", "layer 2")]
    assert held(explain("hello@amd64", made)) == expected
    inside = explain("plain@amd64:/usr/local/bin/hello", made)
    assert (inside["made_by"], inside["file"]["packed_by"]) == ("build/hello/amd64", "layer/plain.hello/amd64")
    assert inside["units"]["hello"]["component"] == "hello"
    assert held(inside) == expected


def test_a_file_of_a_package_names_it_with_its_line(made: Path, tmp_path: Path) -> None:
    facts = explain("plain@riscv64:usr/share/zoneinfo/Europe/Berlin", made)
    package = facts["file"]["package"]
    line = (made / DIST / f"{BASE}.lock").read_text().splitlines()[int(package["at"].rpartition(":")[2]) - 1]
    assert line.startswith(f"package minimal riscv64 tzdata {package['version']} ") and line.endswith(package["digest"])
    assert f"tzdata {package['version']} {package['digest']}" in render_chain(facts, full=False)
    subprocess.run(["tar", "-xzf", blob(made, layers(made, "plain", "riscv64")[0]), "-C", tmp_path], check=True)
    found = tmp_path / "called-otherwise"
    (tmp_path / "usr/share/zoneinfo/Europe/Berlin").rename(found)
    by_bytes = explain(str(found), made)["file"]
    assert by_bytes["package"]["name"] == "tzdata" and by_bytes["name"] == "usr/share/zoneinfo/Europe/Berlin"
    assert explain("plain@riscv64:etc/passwd", made)["file"]["package"] is None, "the recipe writes it"


def test_without_sboms_a_file_is_found_by_reading_layers(checkout: Path, tmp_path: Path) -> None:
    data = manifest(checkout)
    data["artifacts"] = [a for a in data["artifacts"] if not a["name"].startswith("sbom/")]
    (checkout / DIST / "release.json").write_text(json.dumps(data))
    subprocess.run(["tar", "-xzf", blob(checkout, layers(checkout, "plain", "amd64")[0]), "-C", tmp_path], check=True)
    facts = explain(str(tmp_path / "etc/passwd"), checkout)
    assert (facts["file"]["name"], facts["made_by"]) == ("etc/passwd", "layer/minimal/amd64")
    assert facts["file"]["package"] is None
    (tmp_path / "other").write_text("nobody has this")
    assert "is in none of the releases" in fails(lambda: explain(str(tmp_path / "other"), checkout)).reason


def test_a_bundle_names_what_is_in_it(made: Path) -> None:
    name = "rfo-images-core.linux-amd64"
    for suffix in (".tar.zst", ".txt"):
        facts = explain(f"{made / DIST / name}{suffix}", made)
        assert facts["made_by"] == "bundle/core/amd64"
        assert [(i["name"], i["platform"]) for i in facts["images"]] == [
            ("empty", "linux/amd64"), ("plain", "linux/amd64"),
        ]  # fmt: skip
    layer = layers(made, "plain", "amd64")[0]
    inside = explain(f"{name}.tar.zst:blobs/sha256/{Digest.parse(layer).hex}", made)
    assert (inside["made_by"], inside["file"]["packed_by"]) == ("layer/minimal/amd64", "bundle/core/amd64")
    assert held(inside) == [("plain", "amd64", "layer 1")]
    assert explain(f"{name}.tar.zst:index.json", made)["made_by"] == "bundle/core/amd64"


def test_a_chart_names_the_images_in_it(made: Path) -> None:
    facts = explain("charts/demo-1.0.0+rfor1.tgz", made)
    assert (facts["made_by"], {i["name"] for i in facts["images"]}) == ("chart/demo", {"plain"})
    readme = explain("charts/demo-1.0.0+rfor1.tgz:demo/README.md", made)["file"]["from"]
    assert (readme["path"], readme["same"]) == ("charts/demo/README.md", True)
    values = explain("charts/demo-1.0.0+rfor1.tgz:demo/values.yaml", made)
    assert not values["file"]["from"]["same"]
    assert "with the release's version and images written into it" in render_chain(values, full=True)
    assert "OTHER BYTES" not in render_chain(values, full=True)
    inside = explain("node@amd64:charts/demo.yaml", made)
    assert (inside["made_by"], inside["file"]["packed_by"]) == ("chart/demo", "layer/node.charts/amd64")


def test_sboms_sums_and_texts_are_explained(made: Path) -> None:
    sbom = explain("sbom/plain.linux-amd64.spdx.json", made)
    assert (sbom["made_by"], [(i["name"], i["platform"]) for i in sbom["images"]]) == (
        "sbom/plain/amd64", [("plain", "linux/amd64")],
    )  # fmt: skip
    assert explain("images/index.json", made)["made_by"] == "layout/images"
    notes = (made / DIST / "NOTES.md").read_text()
    assert f"docker.io/{REFERENCE}<br>" in notes and f"`{image(made, 'plain')['digest']}`" in notes
    for name in ("NOTES.md", f"{BASE}.lock"):
        facts = explain(str(made / DIST / name), made)
        assert (facts["made_by"], facts["actions"]) == (None, {})
        assert "no action makes it" in facts["checkout"]["reason"]


def test_people_read_layers_and_see_what_is_theirs(made: Path) -> None:
    text = render_chain(explain(layers(made, "plain", "amd64")[0], made), full=False)
    assert "(this is its layer 1)" in text
    assert "layer 2  layer/plain.hello/amd64" in text and "usr/local/bin/hello of hello" in text
    brief, full = (render_chain(explain("rfo-images.linux-amd64.tar.zst", made), full=f) for f in (False, True))
    assert "of another platform" in brief and "of another platform" not in full
    assert len(brief.splitlines()) < 150 and "tzdata" in full


def test_without_the_definition_images_tell_of_themselves(checkout: Path) -> None:
    shutil.rmtree(checkout / "releases")
    facts = explain("plain@amd64", checkout)
    assert "is not defined" in facts["checkout"]["reason"]
    assert list(facts["units"]) == ["hello"]
    assert [la["step"] for la in facts["images"][0]["layers"]] == ["minimal", "plain.hello"]
    assert "tzdata" in [p["name"] for p in facts["roots"]["minimal/amd64"]["packages"]]
    assert "layer 2  plain.hello" in render_chain(facts, full=False)


# --- mistakes and damage


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("plain:usr/local/bin/hello", "plain is an image for amd64 and riscv64", "plain@amd64:usr/local/bin/hello"),
        ("plain@arm64", "has no plain for arm64", "amd64, riscv64"),
        ("plain@amd64:bin/sh", "plain for linux/amd64 has no file bin/sh", ""),
        ("plain@amd64:usr/local/bin/hallo", "has no file", "did you mean usr/local/bin/hello"),
        (f"{REFERENCE}x", "there is no file", "rfolabs/pause:3.6"),
        ("images/oci-layout:x", "images/oci-layout is no archive", ""),
        ("charts/demo-1.0.0+rfor1.tgz:x", "has no member x", "demo/Chart.yaml"),
    ],
)
def test_what_no_image_has_is_a_usage_error(made: Path, text: str, reason: str, hint: str) -> None:
    error = fails(lambda: explain(text, made))
    assert isinstance(error, UsageError)
    assert reason in error.reason and hint in error.hint


def forge(checkout: Path, digest: str, content: bytes) -> str:
    """Put another blob in the place of one, in all that names it; returns its digest."""
    made = Digest.of_bytes(content)
    blob(checkout, digest).rename(blob(checkout, str(made)))
    blob(checkout, str(made)).write_bytes(content)
    path = checkout / DIST / "release.json"
    path.write_text(path.read_text().replace(Digest.parse(digest).hex, made.hex))
    return str(made)


def forge_inner(checkout: Path, name: str, digest: str, content: bytes) -> str:
    """The same for what the manifest of an image for amd64 names."""
    above = image(checkout, name)["platforms"]["linux/amd64"]
    made = forge(checkout, digest, content)
    forge(checkout, above, blob(checkout, above).read_bytes().replace(digest.encode(), made.encode()))
    return made


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"schemaVersion": 2}', b"[" * 100_000, b"x" * (5 << 20)])
@pytest.mark.parametrize("what", ["manifest", "config"])
def test_a_malformed_document_is_a_clear_error(checkout: Path, what: str, content: bytes) -> None:
    digest = image(checkout, "plain")["platforms"]["linux/amd64"]
    if what == "manifest":
        digest = forge(checkout, digest, content)
    else:
        config = json.loads(blob(checkout, digest).read_bytes())["config"]["digest"]
        digest = forge_inner(checkout, "plain", config, content)
    error = fails(lambda: explain("hello@amd64", checkout))
    assert isinstance(error, SourceError)
    assert digest.removeprefix("sha256:") in error.reason


def test_damage_and_links_are_refused(checkout: Path) -> None:
    path = blob(checkout, image(checkout, "plain")["platforms"]["linux/amd64"])
    original = path.read_bytes()
    path.write_bytes(original + b" ")
    assert "is not what its release.json names" in fails(lambda: explain("plain@amd64", checkout)).reason
    path.unlink()
    assert "missing or no plain file" in fails(lambda: explain("plain@amd64", checkout)).reason
    (checkout / "elsewhere").write_bytes(original)
    path.symlink_to(checkout / "elsewhere")
    assert "missing or no plain file" in fails(lambda: explain("plain@amd64", checkout)).reason


def test_an_image_that_release_json_has_no_file_for_is_refused(checkout: Path) -> None:
    data = manifest(checkout)
    wrong = str(Digest.of_bytes(b"nothing"))
    data["images"][0] |= {"digest": wrong, "platforms": {"linux/amd64": wrong}}
    (checkout / DIST / "release.json").write_text(json.dumps(data))
    error = fails(lambda: explain(data["images"][0]["name"], checkout))
    assert isinstance(error, SourceError) and wrong in error.reason


@pytest.mark.parametrize("platforms", [[], ["linux/amd64"], ["linux/nope"]])
def test_platforms_that_do_not_fit_are_a_clear_error(checkout: Path, platforms: list[str]) -> None:
    data = manifest(checkout) | {"platforms": platforms}
    (checkout / DIST / "release.json").write_text(json.dumps(data))
    for name in ("plain", "images/index.json"):
        if platforms == ["linux/amd64"]:
            explain(name, checkout)  # the index is told by what it names
        else:
            assert "release.json" in fails(lambda name=name: explain(name, checkout)).reason  # type: ignore[misc]


def test_a_layer_that_leaves_its_root_is_refused(checkout: Path) -> None:
    forge_inner(checkout, "plain", layers(checkout, "plain", "amd64")[0], tar_of(header("../etc/passwd")))
    error = fails(lambda: explain("plain@amd64:etc/passwd", checkout))
    assert isinstance(error, SourceError) and "leaves its root" in error.reason


def test_a_blob_that_is_another_than_images_name_is_refused(checkout: Path) -> None:
    data = manifest(checkout)
    digest = image(checkout, "plain")["platforms"]["linux/amd64"]
    other = image(checkout, "empty")["platforms"]["linux/amd64"]
    content = blob(checkout, other).read_bytes()
    blob(checkout, digest).write_bytes(content)
    for artifact in data["artifacts"]:
        if artifact["digest"] == digest:
            artifact |= {"digest": other, "size": len(content)}
    (checkout / DIST / "release.json").write_text(json.dumps(data))
    assert f"expected {digest}" in fails(lambda: explain("hello@amd64", checkout)).reason
    assert f"names no file with {digest}" in fails(lambda: explain("plain@amd64", checkout)).reason


def test_foreign_names_of_images_cannot_steer_a_terminal(checkout: Path) -> None:
    data = manifest(checkout)
    data["images"][0]["references"] = ["\x1b[2J gone"]
    (checkout / DIST / "release.json").write_text(json.dumps(data))
    assert "\x1b" not in render_chain(explain(data["images"][0]["name"], checkout), full=True)


def test_a_release_may_lie_anywhere(checkout: Path, tmp_path: Path) -> None:
    folder = (checkout / DIST).rename(tmp_path / "downloaded")
    digest = layers_of(folder, "plain")
    path = folder / "images/blobs/sha256" / Digest.parse(digest).hex
    assert explain(str(path), checkout)["made_by"] == "layer/minimal/amd64"
    assert explain("plain", checkout, str(folder))["release"]["version"] == SMALL


def layers_of(folder: Path, name: str) -> str:
    """Digest of an image's lowest layer in a release's folder."""
    data = json.loads((folder / "release.json").read_bytes())
    digest = next(i for i in data["images"] if i["name"] == name)["platforms"]["linux/amd64"]
    path = folder / "images/blobs/sha256" / Digest.parse(digest).hex
    return str(json.loads(path.read_bytes())["layers"][0]["digest"])
