"""SBOMs of a real small release: the official validator, a scanner others wrote, the binaries themselves."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from engine import BASE, HOST, REAL, REPO, make_context, real_checkout, shared_store
from tools import tool

from pipeline.build.check import check_action, parse_build_info
from pipeline.context import Context
from pipeline.graph import Action, Graph, Ref, Work
from pipeline.image.images import image_actions
from pipeline.image.names import ORGANISATION, Image, Reference
from pipeline.model import Digest
from pipeline.plan import COMPILERS
from pipeline.recipes import ImageRecipe, Programs
from pipeline.sandbox.bwrap import Bwrap
from pipeline.sbom.actions import RELEASE, release_sbom_action
from pipeline.scheduler import Result, Scheduler
from pipeline.store import Store

PARTS = {"pause": ("minimal", "pause"), "coredns": ("network", "coredns"), "runc": (None, "runc")}
"""Image to the layer that it stands on and the component in it: C, Go, and Go with C libraries."""


def images(context: Context) -> list[Image]:
    """Images of the small components: one for each kind of content that a document can have."""
    found = []
    for name, (layer, component) in PARTS.items():
        version = str(context.release.components[component].version)
        recipe = ImageRecipe(
            name=name, title=name, component=component, tag="{version}", set="core", layer=layer,
            programs=(Programs(component=component, to="usr/bin"),), budget="100MiB",
        )  # fmt: skip
        found.append(Image(recipe, version, Reference(f"{ORGANISATION}/{name}", version), ()))
    return found


@dataclass
class Made:
    """A release whose images are described."""

    context: Context
    documents: dict[str, bytes]
    result: Result
    described: list[Action]
    """The actions that wrote the documents."""

    def file(self, action: str, name: str) -> Path:
        """An output on disk."""
        path = self.context.store.use(self.result.outputs[action][name].digest)
        assert path is not None
        return path

    def document(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.documents[name])
        return found

    def image(self, name: str) -> dict[str, Any]:
        return self.document(f"{name}.linux-{HOST}.spdx.json")


def make(checkout: Path, store: Store) -> Made:
    """Build the small components and write the documents of images with them, and of the release."""
    context = make_context(checkout, store, version=REAL, base=BASE, components=tuple(PARTS), arches=(HOST,))
    units, inputs = context.units, context.inputs
    inputs[HOST].fetch(units)
    actions = []
    for unit in (u for u in units if HOST in u.arches):
        actions.append(COMPILERS[unit.build.compiler](unit, HOST, context.release.values, inputs[HOST]))
        actions.append(check_action(unit, HOST, context.release.values, inputs[HOST]))
    given = images(context)
    actions += image_actions(given, context.release, units, inputs, {}, [])
    described = [a for a in actions if a.name.startswith("sbom/")]
    refs = [Ref(f"sbom/{image.name}/{HOST}", f"{image.name}.linux-{HOST}.spdx.json") for image in given]
    described.append(release_sbom_action(context.release, units, inputs, refs))
    graph = Graph([*actions, described[-1]]).closure([a.name for a in described])
    result = Scheduler(store, Bwrap(), context.progress, 2, 4 << 30).run(graph)
    assert not result.failures, [f.error.render() for f in result.failures]
    made = Made(context, {}, result, described)
    for action in described:
        made.documents |= {name: made.file(action.name, name).read_bytes() for name in result.outputs[action.name]}
    return made


def layers(image: Image, context: Context) -> list[str]:
    """The actions that make its layers, the lowest first."""
    base = context.bases[HOST]
    system = base.below(image.recipe.layer) if image.recipe.layer else []
    return [f"layer/{n}/{HOST}" for n in [*system, f"{image.name}.{image.recipe.component}"]]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_checkout(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def made(checkout: Path) -> Made:
    return make(checkout, shared_store())


def by_purl(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Packages by their package URL."""
    return {
        r["referenceLocator"]: p
        for p in document["packages"]
        for r in p.get("externalRefs", [])
        if r["referenceType"] == "purl"
    }


def related(document: dict[str, Any], identifier: str, kind: str) -> list[dict[str, Any]]:
    """The elements that one is related to."""
    elements = {e["SPDXID"]: e for e in [*document["packages"], *document.get("files", [])]}
    return [
        elements[r["relatedSpdxElement"]]
        for r in document["relationships"]
        if r["spdxElementId"] == identifier and r["relationshipType"] == kind and r["relatedSpdxElement"] in elements
    ]


def test_the_official_validator_finds_nothing(made: Made, tmp_path: Path) -> None:
    assert len(made.documents) == len(PARTS) + 1
    for name, data in made.documents.items():
        assert messages(tmp_path / name, data) == []


def test_the_official_validator_would_find_something(made: Made, tmp_path: Path) -> None:
    document = made.image("pause")
    document["packages"][0]["licenseDeclared"] = "LicenseRef-nowhere"
    document["relationships"].append(
        {"spdxElementId": "SPDXRef-Root", "relationshipType": "CONTAINS", "relatedSpdxElement": "SPDXRef-nowhere"}
    )
    assert len(messages(tmp_path / "pause.spdx.json", json.dumps(document).encode())) == 2


def messages(path: Path, data: bytes) -> list[str]:
    """What the SPDX project's own tool says of a document."""
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    path.write_bytes(data)
    return [m.validation_message for m in validate_full_spdx_document(parse_file(str(path)), "SPDX-2.3")]


def test_programs_and_files_have_the_digests_of_their_bytes(made: Made) -> None:
    for name, (_, component) in PARTS.items():
        document = made.image(name)
        unit = next(u for u in made.context.units if u.component == component and HOST in u.arches)
        program = made.file(unit.action("build", HOST), component)
        (package,) = [p for p in document["packages"] if p["SPDXID"].startswith("SPDXRef-Component-")]
        (file,) = related(document, package["SPDXID"], "CONTAINS")
        assert file["fileName"] == f"./usr/bin/{component}"
        sums = {c["algorithm"]: c["checksumValue"] for c in file["checksums"]}
        sha1 = hashlib.sha1(program.read_bytes(), usedforsecurity=False).hexdigest()
        assert sums == {"SHA256": Digest.of_file(program).hex, "SHA1": sha1}
        code = hashlib.sha1(sha1.encode(), usedforsecurity=False).hexdigest()
        assert package["packageVerificationCode"] == {"packageVerificationCodeValue": code}
        manifest = made.file(f"image/{name}/{HOST}", "manifest.json")
        (root,) = [p for p in document["packages"] if p["SPDXID"] == "SPDXRef-Root"]
        assert root["checksums"] == [{"algorithm": "SHA256", "checksumValue": Digest.of_file(manifest).hex}]


def test_every_file_of_the_layers_is_listed_once_with_its_package(made: Made) -> None:
    image = next(i for i in images(made.context) if i.name == "coredns")
    found: dict[str, tarfile.TarInfo] = {}
    for action in layers(image, made.context):
        with tarfile.open(made.file(action, "layer.tar.gz")) as tar:
            found |= {f"./{m.name}": m for m in tar if m.isreg()}
    document = made.image("coredns")
    assert sorted(f["fileName"] for f in document["files"]) == sorted(found)
    owned: list[str] = []
    for package in document["packages"]:
        owned += [f["fileName"] for f in related(document, package["SPDXID"], "CONTAINS") if "fileName" in f]
    assert sorted(owned) == sorted(found)
    (libc,) = [p for p in document["packages"] if p["name"] == "libc6"]
    names = {f["fileName"].rpartition("/")[2] for f in related(document, libc["SPDXID"], "CONTAINS")}
    assert {"libc.so.6", "libm.so.6"} <= names


@pytest.mark.parametrize("component", ["coredns", "runc"])
def test_modules_are_those_that_the_binary_names(made: Made, component: str) -> None:
    unit = next(u for u in made.context.units if u.component == component and HOST in u.arches)
    go = made.context.inputs[HOST].toolchain(unit) / "bin" / "go"
    program = made.file(unit.action("build", HOST), component)
    done = subprocess.run([go, "version", "-m", program], capture_output=True, text=True, check=True)
    ((version, modules),) = parse_build_info(done.stdout).values()
    document = made.image(component)
    (package,) = [p for p in document["packages"] if p["SPDXID"].startswith("SPDXRef-Component-")]
    linked = {p["name"]: p for p in related(document, package["SPDXID"], "STATIC_LINK") if "-Go-" in p["SPDXID"]}
    assert f"go{linked.pop('stdlib')['versionInfo']}" == version
    h1 = {n: next(r["referenceLocator"] for r in p["externalRefs"] if r["referenceType"] == "go-h1")
          for n, p in linked.items()}  # fmt: skip
    assert {(n, p["versionInfo"], h1[n]) for n, p in linked.items()} == set(modules)


def test_what_c_compilers_link_is_named_by_the_packages_that_have_it(made: Made) -> None:
    linked = {}
    for name in PARTS:
        document = made.image(name)
        (package,) = [p for p in document["packages"] if p["SPDXID"].startswith("SPDXRef-Component-")]
        linked[name] = {
            p["name"] for p in related(document, package["SPDXID"], "STATIC_LINK") if "Package" in p["SPDXID"]
        }
    assert linked["coredns"] == set()
    assert linked["pause"] < linked["runc"]
    assert {"libc6-dev"} < linked["pause"]
    assert linked["runc"] - linked["pause"] == {"libseccomp-dev"}


def test_packages_say_where_they_come_from(made: Made) -> None:
    document = made.image("coredns")
    found = by_purl(document)
    locked = {p.name: p for p in made.context.base_locks[BASE].root("network", HOST)}
    (locator,) = [k for k in found if k.startswith("pkg:deb/debian/libc6@")]
    pin = locked["libc6"]
    assert locator == f"pkg:deb/debian/libc6@{pin.version.replace('+', '%2B')}?arch={HOST}&distro={BASE}&upstream=glibc"
    libc = found[locator]
    assert libc["checksums"] == [{"algorithm": "SHA256", "checksumValue": pin.digest.hex}]
    assert (libc["versionInfo"], libc["supplier"]) == (pin.version, "Organization: Debian")
    assert "LGPL-2.1-or-later" in libc["licenseDeclared"]
    assert {p["name"] for k, p in found.items() if k.startswith("pkg:deb/")} == set(locked) | {
        p.name for p in made.context.base_locks[BASE].root("minimal", HOST)
    }
    unknown = [p["name"] for p in found.values() if p["licenseDeclared"] == "NOASSERTION"]
    assert unknown == []


def test_licences_have_their_texts_and_modules_their_own(made: Made) -> None:
    document = made.image("coredns")
    found = by_purl(document)
    assert found["pkg:golang/github.com/coredns/caddy@v1.1.1"]["licenseDeclared"] == "Apache-2.0"
    extended = {p["licenseDeclared"] for k, p in found.items() if k.startswith("pkg:golang/golang.org/x/")}
    assert extended == {"BSD-3-Clause"}
    texts = {t["licenseId"]: t["extractedText"] for t in document["hasExtractedLicensingInfos"]}
    dns = found["pkg:golang/github.com/miekg/dns@v1.1.49"]["licenseDeclared"]
    assert "Extensions of the original work are copyright (c) 2011 Miek Gieben" in texts[dns]
    named = {w for p in document["packages"] for w in re.findall(r"LicenseRef-[A-Za-z0-9.-]+", p["licenseDeclared"])}
    assert named == set(texts)


def test_the_release_refers_to_every_document_and_says_how_it_deviates(made: Made) -> None:
    document = made.document(RELEASE)
    for reference in document["externalDocumentRefs"]:
        name = reference["externalDocumentId"].removeprefix("DocumentRef-") + ".spdx.json"
        data = made.documents[name]
        assert reference["spdxDocument"] == json.loads(data)["documentNamespace"]
        assert reference["checksum"]["checksumValue"] == hashlib.sha1(data, usedforsecurity=False).hexdigest()
    assert len(document["externalDocumentRefs"]) == len(PARTS)
    comments = [a["comment"] for p in document["packages"] for a in p.get("annotations", [])]
    release = made.context.release
    ours = [d for d in release.deviations if d.component is None or d.component in PARTS]
    assert [c for c in sorted(comments) if c.startswith("deviation: ")] == sorted(
        f"deviation: {d.what}: {d.why}" for d in ours
    )
    lock = made.context.base_locks[BASE]
    assert f"lock {Digest.of_bytes(lock.render().encode())}" in comments
    tools = [r for r in document["relationships"] if r["relationshipType"] == "BUILD_TOOL_OF"]
    assert len(tools) == 2
    assert document["creationInfo"]["created"] == "2022-11-18T00:00:00Z"


def test_another_place_process_time_zone_and_locale_give_the_same_bytes(made: Made, tmp_path: Path) -> None:
    elsewhere = tmp_path / "another place"
    elsewhere.mkdir()
    code = "import sys, test_sbom_release as t; t.main(*map(t.Path, sys.argv[1:]))"
    env = {"TZ": "Pacific/Chatham", "LC_ALL": "POSIX", "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(REPO), str(REPO / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", code, str(real_checkout(elsewhere)), str(tmp_path / "work")],
        env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {name: str(Digest.of_bytes(data)) for name, data in made.documents.items()}


def main(checkout: Path, folder: Path) -> None:
    """Write the documents again, whatever the store has, and print their digests."""
    made = make(checkout, shared_store())
    digests: dict[str, str] = {}
    folder.mkdir()
    for action in made.described:
        paths = {n: made.file(r.action, r.output) for n, r in action.inputs.items() if isinstance(r, Ref)}
        (folder / action.name.replace("/", "-")).mkdir()
        work = Work(
            action.name,
            paths,
            folder / action.name.replace("/", "-"),
            io.BytesIO(),
            Bwrap(),
            threading.Event(),
            1 << 30,
        )
        action.run(work)
        digests |= {f.name: str(Digest.of_file(f)) for f in work.out.iterdir()}
    print(json.dumps(digests))


@pytest.mark.full
def test_a_scanner_finds_nothing_that_the_documents_lack(made: Made, tmp_path: Path) -> None:
    syft = tool("syft")
    seen = 0
    for image in images(made.context):
        layout = write_layout(made, image, tmp_path / image.name)
        done = subprocess.run(
            [syft, "scan", "--quiet", "--output", "json", f"oci-dir:{layout}"],
            env={**os.environ, "SYFT_CHECK_FOR_APP_UPDATE": "false"}, capture_output=True, check=True, timeout=900,
        )  # fmt: skip
        scanned = {plain(a["purl"]): a for a in json.loads(done.stdout)["artifacts"] if a["purl"]}
        seen += len(scanned)
        document = made.image(image.name)
        described = {plain(p) for p in by_purl(document)}
        new = {p: a for p, a in scanned.items() if p not in described}
        assert sorted(p for p, a in new.items() if found_because(a, document) is None) == []
        unseen = {plain(p) for p in by_purl(document)} - set(scanned)
        assert {p: why for p in sorted(unseen) if (why := unseen_because(p, document)) is None} == {}
    assert seen > 150


def write_layout(made: Made, image: Image, folder: Path) -> Path:
    """An OCI layout of one image."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    action = f"image/{image.name}/{HOST}"
    files = [made.file(action, n) for n in ("manifest.json", "config.json")]
    for file in [*files, *(made.file(n, "layer.tar.gz") for n in layers(image, made.context))]:
        (blobs / Digest.of_file(file).hex).symlink_to(file)
    manifest = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": str(Digest.of_file(files[0]))}
    index = {"schemaVersion": 2, "manifests": [manifest | {"size": files[0].stat().st_size}]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def plain(purl: str) -> str:
    """Type, name and version of a package URL.

    Of a module below the top of its repository the scanner writes the folder behind `#`; a module's name is its path.
    """
    name, _, folder = purl.partition("#")
    name, _, version = name.partition("?")[0].partition("@")
    return unquote(f"{name}/{folder}@{version}" if folder else f"{name}@{version}")


def found_because(artifact: dict[str, Any], document: dict[str, Any]) -> str | None:
    """Why a scanner finds what the document does not have as a package; None if there is no reason."""
    sources = [p["name"] for p in document["packages"] if is_source(p, document)]
    if artifact["name"] in sources and not artifact["version"].startswith("v"):
        return "the main module, whose version Go does not tell: it was built from its files"
    source = f"built from source package {artifact['name']} {artifact['version']}, "
    if artifact["foundBy"] == "elf-binary-package-cataloger" and any(
        p.get("sourceInfo", "").startswith(source) for p in document["packages"]
    ):
        return "a note in a library names the source package; the document has the binary package, and its source"
    return None


def unseen_because(purl: str, document: dict[str, Any]) -> str | None:
    """Why a scanner does not find a package that is there; None if there is no reason."""
    package = next(p for k, p in by_purl(document).items() if plain(k) == purl)
    kinds = kinds_of(package, document)
    if purl.startswith(("pkg:oci/", "pkg:generic/")):
        return "the image itself, and our name of a component: no package manager has them"
    if purl.startswith("pkg:deb/") and kinds == {"STATIC_LINK"}:
        return "a C compiler linked its archive, and leaves no trace of it in the program"
    if is_source(package, document):
        return "the source of a C program, which holds no build information, or the main module of a Go program"
    return None


def kinds_of(package: dict[str, Any], document: dict[str, Any]) -> set[str]:
    """How others are related to a package."""
    return {r["relationshipType"] for r in document["relationships"] if r["relatedSpdxElement"] == package["SPDXID"]}


def is_source(package: dict[str, Any], document: dict[str, Any]) -> bool:
    """Whether a package is what a component is made from."""
    return "GENERATED_FROM" in kinds_of(package, document)
