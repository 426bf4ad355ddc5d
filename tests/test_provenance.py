"""What builders state of a release: every kind, every pin, and nothing that two builders would say differently."""

import base64
import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
import yaml
from engine import BASE, GO, HOST, SMALL, environment, fails, make_context, real_lock, run, shared_store

from images import CHART, add_chart, image_checkout
from pipeline.attest.facts import Facts, facts_of
from pipeline.attest.keys import keys_folder, read_public, spki_of
from pipeline.attest.places import BUNDLE, UNTRACKED, is_signature, kind_of, remove_signatures, signature_files
from pipeline.engine import code_digest
from pipeline.errors import SourceError
from pipeline.model import Digest
from pipeline.proof.candidate import context_of, read_candidate
from pipeline.publish.published import read_published
from pipeline.report.progress import Progress
from pipeline.verifier.bundle import Bundle, read_bundle
from pipeline.verifier.encoding import canonical
from pipeline.verifier.openssl import PublicKey, verifies
from pipeline.verifier.statement import PROVENANCE, SPDX

DEVELOPMENT = "https://rfolabs.github.io/rfo/builders/development-builder"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with programs, images and a chart, published in its dist/."""
    folder = add_chart(image_checkout(tmp_path_factory.mktemp("signed")))
    run(folder, arches=(HOST,))
    return folder


@pytest.fixture(scope="module")
def dist(checkout: Path) -> Path:
    return make_context(checkout, arches=(HOST,)).dist


@pytest.fixture(scope="module")
def facts(checkout: Path, dist: Path) -> Facts:
    candidate = read_candidate(dist)
    context = context_of(candidate, Progress(stream=StringIO()), checkout, arches=(), components=(), offline=True)
    context.store = shared_store()
    return facts_of(candidate.published, context)


def own_folder(dist: Path) -> Path:
    return dist / "provenance" / f"builder-{read_public('builder', keys_folder()).keyid[:8]}"


def statement(dist: Path, name: str) -> Bundle:
    path = own_folder(dist) / f"{name}{BUNDLE}"
    return read_bundle(path.read_bytes(), name)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_everything_is_signed_once_under_its_kind_with_its_digest(dist: Path, facts: Facts) -> None:
    key = PublicKey(spki_of(read_public("builder", keys_folder())))
    seen: dict[str, str] = {}
    for path in own_folder(dist).glob(f"*{BUNDLE}"):
        bundle = read_bundle(path.read_bytes(), path.name)
        assert verifies(key, bundle.message, bundle.signature)
        assert bundle.statement.predicate_type == PROVENANCE
        kind = path.name.removesuffix(BUNDLE)
        assert bundle.statement.predicate["buildDefinition"]["externalParameters"]["kind"] == kind
        for name, digest in bundle.statement.subjects.items():
            assert name not in seen
            seen[name] = digest
            if (dist / name).is_file():
                assert (Digest.of_file(dist / name).hex, kind_of(name)) == (digest, kind)
    manifest = read_published(dist).manifest
    files = {a.name for a in manifest.artifacts if kind_of(a.name) != UNTRACKED} | {"release.json"}
    images = {f"image/{i.name}" for i in manifest.images} | {f"image/{i.name}/{HOST}" for i in manifest.images}
    assert set(seen) == files | images | {f"binary/hello/{HOST}/hello", f"chart/{CHART}"}
    layout = json.loads((dist / "images/index.json").read_bytes())["manifests"]
    assert {d["digest"].partition(":")[2] for d in layout} <= set(seen.values()), (
        "images and charts, as registries see them"
    )
    assert (dist / "images/blobs/sha256" / seen[f"image/plain/{HOST}"]).is_file()


def test_a_statement_says_what_was_built_by_whom_and_with_what(dist: Path, facts: Facts) -> None:
    manifest = json.loads((dist / "release.json").read_bytes())
    predicate = statement(dist, "image").statement.predicate
    assert predicate["runDetails"] == {"builder": {"id": DEVELOPMENT}}
    made = predicate["buildDefinition"]
    assert made["externalParameters"] == {
        "release": SMALL,
        "kind": "image",
        "platforms": [f"linux/{HOST}"],
        "bases": {f"linux/{HOST}": BASE},
        "deviations": manifest["deviations"],
    }
    inside = made["internalParameters"]
    assert inside["engine"] == code_digest(".").hex
    assert inside["actions"]["image/plain"] == "index/plain"
    assert inside["actions"][f"image/plain/{HOST}"] == f"image/plain/{HOST}"
    for kind in facts.kinds():
        stated = statement(dist, kind).statement.predicate["buildDefinition"]["internalParameters"]["actions"]
        assert set(stated.values()) <= {*facts.graph.actions, "writer"}
        assert {n for n, a in stated.items() if a == "writer"} <= {"release.json", "NOTES.md", f"{BASE}.lock"}


def test_dependencies_are_the_pins_that_a_kind_is_made_from(dist: Path, facts: Facts) -> None:
    def of(kind: str) -> dict[str, dict[str, str]]:
        found = statement(dist, kind).statement.predicate["buildDefinition"]["resolvedDependencies"]
        assert len({(d["uri"], canonical(d["digest"])) for d in found}) == len(found)
        return {d["uri"]: d["digest"] for d in found}

    toolchain = real_lock().toolchains[GO]
    total = base64.b64decode(toolchain.sum.removeprefix("h1:")).hex()
    uri = f"pkg:golang/golang.org/toolchain@v0.0.1-go{GO}.linux-{HOST}"
    for kind in ("binary", "image", "bundle", "document"):
        assert of(kind)[uri] == {"dirHash1": total}
        lock = of(kind)[f"https://rfolabs.github.io/rfo/lock/v1/{BASE}.lock"]
        assert lock == {"sha256": Digest.of_file(dist / f"{BASE}.lock").hex}
        assert "https://rfolabs.github.io/rfo/tree/v1/components/hello/src" in of(kind)
    lines = [line.split() for line in (dist / f"{BASE}.lock").read_text().splitlines() if line.startswith("package ")]
    by_root: dict[str, set[str]] = {}
    for _, root, arch, *_, digest in lines:
        if arch == HOST:
            by_root.setdefault(root, set()).add(digest.partition(":")[2])
    of_binaries, of_images = ({d.get("sha256", "") for d in of(k).values()} for k in ("binary", "image"))
    assert by_root["builder"] <= of_binaries
    assert by_root["network"] <= of_images, "the packages inside of layers"
    assert by_root["network"] - by_root["builder"] - of_binaries, "which no program is made from"
    used = set().union(*(sums for root, sums in by_root.items() if root != "engine"))
    assert not (by_root["engine"] - used) & of_images, "the userland of a proof"


def test_an_sbom_is_attested_about_what_it_describes(dist: Path) -> None:
    found = sorted((own_folder(dist) / "sbom").iterdir())
    assert [p.name.removesuffix(BUNDLE) for p in found] == sorted(
        p.name.removesuffix(".spdx.json") for p in (dist / "sbom").iterdir()
    )
    images = statement(dist, "image").statement.subjects
    for name, subject in ((f"plain.linux-{HOST}", f"image/plain/{HOST}"), ("release", "release.json")):
        attested = statement(dist, f"sbom/{name}").statement
        assert attested.predicate_type == SPDX
        assert attested.predicate == json.loads((dist / f"sbom/{name}.spdx.json").read_bytes())
        digest = images.get(subject) or Digest.of_file(dist / subject).hex
        assert attested.subjects == {subject: digest}
    packages = statement(dist, f"sbom/plain.linux-{HOST}").statement.predicate["packages"]
    sums = [c["checksumValue"] for p in packages for c in p.get("checksums", ()) if c["algorithm"] == "SHA256"]
    assert images[f"image/plain/{HOST}"] in sums, "the document is about that very image"


def test_a_second_run_signs_nothing_and_mends_what_is_damaged(checkout: Path, dist: Path) -> None:
    before = files_of(dist)
    assert run(checkout, arches=(HOST,)).changed == ()
    image, tarball = (own_folder(dist) / f"{k}{BUNDLE}" for k in ("image", "binary"))
    link = next((dist / "provenance/links").iterdir())
    image.write_bytes(image.read_bytes().replace(b"A", b"B", 1))
    tarball.unlink()
    link.write_bytes(link.read_bytes()[:-9])
    (own_folder(dist) / f"other{BUNDLE}").write_bytes(b"{}\n")
    changed = run(checkout, arches=(HOST,)).changed
    names = {p.relative_to(dist).as_posix() for p in (image, tarball, link)}
    assert set(changed) == names
    after = files_of(dist)
    assert {n for n in before if after[n] != before[n]} <= names
    assert set(after) == set(before)
    payload = read_bundle(before[image.relative_to(dist).as_posix()], "image").payload
    assert statement(dist, "image").payload == payload


def test_two_releases_of_the_same_locks_differ_in_signatures_alone(checkout: Path, dist: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkout, other, ignore=shutil.ignore_patterns("dist"))
    with environment(RFO_KEYS=str(tmp_path / "keys")):
        run(other, arches=(HOST,))
        mine, theirs = files_of(dist), files_of(make_context(other, arches=(HOST,)).dist)
        assert {n: d for n, d in mine.items() if not is_signature(n)} == {
            n: d for n, d in theirs.items() if not is_signature(n)
        }
        again = statement(make_context(other, arches=(HOST,)).dist, "image")
    assert again.payload == statement(dist, "image").payload, "no clock, no host, no path"
    assert again.signature != statement(dist, "image").signature


def test_signatures_of_other_content_are_removed(tmp_path: Path) -> None:
    checkout = add_chart(image_checkout(tmp_path / "checkout"))
    run(checkout, arches=(HOST,))
    dist = make_context(checkout, arches=(HOST,)).dist
    old = statement(dist, "document").statement.subjects
    planted = ["trust/metadata/1.root.json", "provenance/rebuilder-01234567/binary.sigstore.json", "install-rfo.sh"]
    for name in [*planted, "provenance/release/release.sigstore.json", "charts/x.tgz.prov", "rfo-verify"]:
        (dist / name).parent.mkdir(parents=True, exist_ok=True)
        (dist / name).write_text("of the first release")
    (dist / "trust/more").symlink_to(tmp_path)
    path = checkout / "releases" / SMALL / "release.yaml"
    said = {"what": "the small release", "why": "tests need one"}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"deviations": [said]}))
    run(checkout, arches=(HOST,))
    new = statement(dist, "document").statement.subjects
    assert new["release.json"] != old["release.json"]
    own = own_folder(dist).relative_to(dist).as_posix()
    assert all(n.startswith((own, "provenance/links/")) for n in signature_files(dist))
    assert not (dist / "trust").exists()
    assert path.is_file(), "no link was followed"


def test_what_a_link_leads_to_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept.sigstore.json").write_text("{}")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "provenance").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "dist" / "charts").symlink_to(tmp_path / "elsewhere")
    remove_signatures(tmp_path / "dist")
    assert (tmp_path / "elsewhere" / "kept.sigstore.json").is_file()
    assert not (tmp_path / "dist" / "provenance").is_symlink()


@pytest.mark.parametrize("name", ["provenance/x.json", "trust/metadata/1.root.json", "charts/a.tgz.prov", "rfo-verify"])
def test_no_release_names_what_only_signing_writes(dist: Path, tmp_path: Path, name: str) -> None:
    data = json.loads((dist / "release.json").read_bytes())
    data["artifacts"].append({"name": name, "digest": f"sha256:{'0' * 64}", "size": 0})
    (tmp_path / "release.json").write_text(json.dumps(data))
    error = fails(lambda: read_published(tmp_path))
    assert isinstance(error, SourceError)
    assert name in error.reason
