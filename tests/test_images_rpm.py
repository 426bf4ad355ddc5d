"""Images on a base of RPMs in openEuler's layout: the same assertions as on the stand-in, and what differs."""

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from backports import zstd
from engine import ARCHES, HOST, SMALL, contents, fails, output, run_process, second_store
from rpm_base import NAME, OS_RELEASE, certificates, definition, p11_kit, repository, rpm_checkout, rpm_context
from test_images import (
    blob,
    image,
    members,
    replayed,
    test_every_document_fits_the_schema_of_the_image_format,
    test_the_layout_holds_what_it_names_and_nothing_else,
)
from tools import tool

from images import EMPTY, PLAIN, TOOLS
from pipeline.base.assemble import MTIME
from pipeline.base.facts import RPM_DATABASE
from pipeline.bases import LayerRecipe
from pipeline.context import Context
from pipeline.errors import BuildError, DefinitionError, SourceError
from pipeline.image.content import certificate_bundle
from pipeline.release import make_graph, release
from pipeline.sandbox.bwrap import find_bwrap
from pipeline.store import Store

SHARED = (
    test_every_document_fits_the_schema_of_the_image_format,
    test_the_layout_holds_what_it_names_and_nothing_else,
)
"""Tests of other bases that are collected here as well, with the images of this one."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Three images on three architectures, in a release's folder."""
    context = rpm_context(rpm_checkout(tmp_path_factory.mktemp("images") / "checkout"), arches=ARCHES)
    release(context)
    return context


def layers(context: Context, name: str, arch: str) -> list[Path]:
    """The files of an image's layers, the lowest first."""
    return [blob(context, la["digest"]) for la in image(context, name, arch)[0]["layers"]]


def content(layer: Path, name: str) -> bytes:
    with tarfile.open(layer) as tar:
        file = tar.extractfile(name)
        assert file
        return file.read()


def test_layers_are_made_once_and_shared(published: Context) -> None:
    for arch in ARCHES:
        plain, tools, empty = (layers(published, name, arch) for name in ("plain", "tools", "empty"))
        assert [len(x) for x in (plain, tools, empty)] == [2, 3, 1]
        assert plain[0] == tools[0] and plain[1] == tools[2] == empty[0]


def test_system_layers_have_what_programs_need_and_no_more(published: Context) -> None:
    for arch in ARCHES:
        minimal, network, _ = layers(published, "tools", arch)
        base, tools = members(minimal), members(network)
        assert content(minimal, "usr/lib/os-release").decode() == OS_RELEASE
        assert b"nonroot:x:65532:65532:" in content(minimal, "etc/passwd")
        for name in ("etc/os-release", "etc/openEuler-release", "etc/services", "usr/share/zoneinfo/Europe/Berlin",
                     "usr/share/licenses/ca-certificates/LICENSE", "etc/localtime"):  # fmt: skip
            assert name in base
        assert base["etc/pki/tls/certs/ca-bundle.crt"].linkname == "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"
        assert base["tmp"].mode == 0o1777 and base["root"].mode == 0o700
        for name in ("iptables", "ip6tables-save", "nft", "conntrack", "ipset", "modprobe", "xtables-legacy-multi"):
            assert f"usr/sbin/{name}" in tools
        assert "usr/share/licenses/iptables/iptables" in tools, "licences of packages"
        everything = {**base, **tools}
        refused = ("etc/shadow", "etc/profile", "home", "mnt", "var/cache", "var/log", "usr/bin/sh", "usr/bin/bash",
                   "usr/bin/update-ca-trust", "usr/bin/trust", "usr/lib/systemd", "usr/bin/rpm")  # fmt: skip
        assert not {n for n in everything if n.startswith(refused) and n != "home/nonroot"} - {"home"}
        assert not any(m.mode & 0o6000 or (m.mode & 0o002 and m.isreg()) for m in everything.values())
        assert {m.mtime for m in everything.values()} == {MTIME}
        both = {n for n in set(base) & set(tools) if not base[n].isdir()}
        assert both == {RPM_DATABASE}, "rpm has one database, and the upper one has everything"


def test_programs_start_on_every_architecture(published: Context) -> None:
    outputs = replayed(published).outputs
    for arch in ARCHES:
        report = json.loads(output(str(outputs[f"inspect/tools/{arch}"]["report.json"].digest)))
        said = report["started"]
        assert said["usr/local/bin/hello"] == f"hello {SMALL}"
        assert said["usr/sbin/xtables-legacy-multi iptables --version"].startswith("iptables v1.")
        assert said["usr/bin/kmod --version"].startswith("kmod version")
        assert "usr/sbin/xtables-legacy-multi iptables -m statistic -h" in said, "a plugin that needs libm"
        assert ("usr/sbin/nft --version" in said) == (arch == HOST)
        assert report["dynamic"] > 100


def test_the_same_bytes_in_another_store_folder_and_umask(published: Context, tmp_path: Path) -> None:
    again = rpm_checkout(tmp_path / "a folder with blanks")
    with second_store() as store:
        shutil.rmtree(store / "trees")
        named = [argument for arch in ARCHES for argument in ("--arch", arch)]
        run_process(again, store, *named, "--umask", "77", "--offline")
    first, second = published.dist, again / "dist" / SMALL
    assert len(contents(first)) > 30 and contents(first) == contents(second)


@pytest.mark.full  # the scanner takes minutes to build
def test_a_scanner_finds_the_packages_of_all_layers_with_licences(published: Context, tmp_path: Path) -> None:
    manifest, _ = image(published, "tools", "riscv64")
    digest = json.loads((published.dist / "release.json").read_bytes())["images"]
    (chosen,) = (i["platforms"]["linux/riscv64"] for i in digest if i["name"] == "tools")
    alone = tmp_path / "layout"
    (alone / "blobs").mkdir(parents=True)
    (alone / "blobs" / "sha256").symlink_to(published.dist / "images/blobs/sha256")
    (alone / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entry = {"mediaType": manifest["mediaType"], "digest": chosen, "size": blob(published, chosen).stat().st_size}
    (alone / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    done = subprocess.run(
        [tool("syft"), "--quiet", f"oci-dir:{alone}", "--platform", "linux/riscv64", "--output", "json"],
        env=os.environ | {"SYFT_CHECK_FOR_APP_UPDATE": "false"}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scan = json.loads(done.stdout)
    assert scan["distro"]["id"] == "openEuler" and scan["distro"]["versionID"] == "24.03"
    found = {a["name"]: a for a in scan["artifacts"] if a["type"] == "rpm"}
    lock = published.base_locks[NAME].packages
    assert {n: a["version"] for n, a in found.items()} == {
        p.name: p.version for p in lock if p.arch == "riscv64" and p.root in ("minimal", "network")
    }
    assert {a["licenses"][0]["value"] for a in found.values()} == {"GPLv2+ and MIT"}
    assert "pkg:rpm/openEuler/iptables-nft@1.0-1.oe2403sp1?arch=riscv64" in found["iptables-nft"]["purl"]


def test_a_bundle_is_what_others_take_for_an_image(published: Context, tmp_path: Path) -> None:
    for arch in ARCHES:
        plain = tmp_path / f"{arch}.tar"
        with zstd.open(published.dist / f"rfo-images-more.linux-{arch}.tar.zst") as packed, plain.open("wb") as file:
            shutil.copyfileobj(packed, file)
        done = subprocess.run(
            [tool("crane"), "validate", "--tarball", plain], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and "PASS" in done.stdout + done.stderr, done.stderr
        (entry,) = json.loads(content(plain, "manifest.json"))
        assert json.loads(content(plain, entry["Config"]))["architecture"] == arch
        assert [Path(name).name for name in entry["Layers"]] == [p.name for p in layers(published, "tools", arch)]


def test_labels_name_the_base(published: Context) -> None:
    manifest, config = image(published, "plain", "riscv64")
    labels = config["config"]["Labels"]
    assert labels["org.opencontainers.image.base.name"] == NAME
    assert labels["org.opencontainers.image.base.digest"] == manifest["layers"][0]["digest"]


def test_scripts_dependencies_are_not_in_the_lock(published: Context) -> None:
    """iptables requires systemd, kmod too: the layer's names are what counts."""
    lock = published.base_locks[NAME]
    assert {p.name for p in lock.root("network", "arm64")} == set(definition()["layers"]["network"]["packages"])
    assert {"glibc", "ncurses-libs"} <= {p.name for p in lock.root("packer", "amd64")}, "others have theirs"


# --- certificates


def test_the_bundle_has_what_the_distributions_own_program_trusts_servers_with(tmp_path: Path) -> None:
    source = tmp_path / "tree/usr/share/pki/ca-trust-source/ca-bundle.trust.p11-kit"
    source.parent.mkdir(parents=True)
    source.write_text(p11_kit(certificates()))
    recipe = LayerRecipe.model_validate(definition()["layers"]["minimal"])
    (ours,) = certificate_bundle(recipe, tmp_path / "tree").values()
    theirs = tmp_path / "tls.pem"
    # The module looks for sources at a path that it was built with: Debian's is that of its bundle.
    subprocess.run(
        [find_bwrap(), "--bind", "/", "/", "--dev", "/dev", "--tmpfs", "/etc/ssl/certs",
         "--ro-bind", source, "/etc/ssl/certs/ca-certificates.crt/source.p11-kit", tool("trust"), "extract",
         "--format=pem-bundle", "--filter=ca-anchors", "--purpose=server-auth", theirs],
        check=True,
    )  # fmt: skip
    assert sorted(pem(ours.decode())) == sorted(pem(theirs.read_text()))
    wanted = [c for n, c in enumerate(certificates()) if n % 5 in (0, 1)]
    assert pem(ours.decode()) == pem("".join(wanted)), "in their order"


def pem(text: str) -> list[str]:
    """Certificates without line breaks."""
    return ["".join(part.partition("-----END")[0].split()) for part in text.split("BEGIN CERTIFICATE-----")[1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("-----BEGIN PUBLIC KEY-----\n", ""), "does not name a public key"),
        (("-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n?"), "not a PEM block"),
        (("trusted: true", "trusted: false"), "no package has CA certificates at usr/share/pki"),
        (("# This", "#" * (16 << 20) + "\n# This"), "more than 16777216 bytes of certificates"),
    ],
)
def test_a_bundle_that_cannot_be_understood_is_refused(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    source = tmp_path / "usr/share/pki/ca-trust-source/ca-bundle.trust.p11-kit"
    source.parent.mkdir(parents=True)
    source.write_text(p11_kit(certificates()[:3]).replace(*change))
    recipe = LayerRecipe.model_validate(definition()["layers"]["minimal"])
    error = fails(lambda: certificate_bundle(recipe, tmp_path))
    assert isinstance(error, SourceError | DefinitionError) and message in error.reason


# --- mistakes


def test_an_unknown_layer_is_named_with_those_there_are(tmp_path: Path) -> None:
    checkout = rpm_checkout(tmp_path / "checkout", PLAIN, EMPTY | {"name": "wrong", "layer": "kitchen"})
    error = fails(lambda: make_graph(rpm_context(checkout, arches=("amd64",))))
    assert isinstance(error, DefinitionError)
    assert f"base {NAME} has no layer kitchen (it has: minimal, network)" in error.reason


def test_a_package_that_one_architecture_lacks_keeps_the_others_going(tmp_path: Path) -> None:
    base = definition() | {"name": "rpm-lacking"}
    base["layers"]["network"]["packages"].append("qemu-user")  # which only the host has here
    context = rpm_context(rpm_checkout(tmp_path / "checkout", PLAIN, base=base), arches=("amd64", "riscv64"))
    error = fails(lambda: release(context))
    assert "linux/riscv64: not built: " in error.reason and "no package is called qemu-user" in error.reason
    assert json.loads((context.dist / "release.json").read_bytes())["platforms"] == ["linux/amd64"]


def test_a_library_that_no_package_brings_is_named(tmp_path: Path) -> None:
    base = definition() | {"name": "rpm-lacking-library"}
    base["layers"]["network"]["packages"].remove("jansson")
    context = rpm_context(rpm_checkout(tmp_path / "checkout", TOOLS, base=base), arches=("amd64",))
    error = fails(lambda: release(context))
    assert isinstance(error, BuildError) and "needs libjansson.so.4, which is not in the image" in error.reason
    assert not (context.dist / "images").exists()


def test_a_tampered_package_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    subprocess.run(["cp", "-al", repository(), mirror], check=True)
    (package,) = (mirror / "OS/riscv64/Packages").glob("kmod-1*")
    data = bytearray(package.read_bytes())
    data[-40] ^= 1
    package.unlink()
    package.write_bytes(data)
    checkout = rpm_checkout(tmp_path / "checkout", TOOLS)

    def assemble(origin: Path) -> Path:
        context = rpm_context(checkout, origin, store=Store(tmp_path / "store"), arches=("riscv64",))
        roots = context.inputs["riscv64"].roots
        return roots.path(roots.find("network", "riscv64"))

    error = fails(lambda: assemble(mirror))
    assert isinstance(error, SourceError) and package.name in error.reason and "expected sha256:" in error.reason
    assert not [p for p in (tmp_path / "store/trees").glob("*") if p.is_dir()]
    assert (assemble(repository()) / "usr/bin/kmod").is_file()
