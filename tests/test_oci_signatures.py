"""Signatures of a release in registries: with the referrers API and without it, under older tags; signed charts."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from engine import REPO
from registry_server import Fault, Images, disturbed
from tools import tool
from trusted import Trusted, promoted

from pipeline.attest.helm import PUBLIC, SECRET, chart_prov, load_chart_key, new_chart_key
from pipeline.attest.keys import load_signing
from pipeline.attest.oci import legacy_subjects, render_legacy, simple_signing
from pipeline.errors import NetworkError, PipelineError, SourceError, TrustError, UsageError
from pipeline.model import Digest
from pipeline.registry.layout import Layout
from pipeline.registry.share import Asked, mirror, push
from pipeline.registry.transfer import Result
from pipeline.report.progress import Progress
from pipeline.verifier.statement import IMAGE_SIGNATURE, PROVENANCE, SPDX

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE_KEY = "dev.cosignproject.cosign/signature"
LEGACY = "provenance/release/legacy.json"

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Trusted:
    return with_legacy(promoted(tmp_path_factory.mktemp("signed")))


@pytest.fixture
def copy(made: Trusted, tmp_path: Path) -> Path:
    """The release's folder, to be changed."""
    return Path(shutil.copytree(made.dist, tmp_path / made.dist.name))


def with_legacy(made: Trusted) -> Trusted:
    """Sign the images in the older form as well."""
    signing = made.signing("release")
    signed = {s: signing.sign(simple_signing(*s)) for s in legacy_subjects(Layout(made.dist))}
    made.write(LEGACY, render_legacy(signed))
    return made


def pushed(folder: Path, registry: str, said: StringIO | None = None) -> Result:
    return push(folder, registry, Asked(), Progress(stream=said or StringIO()))


def mirrored(origin: object, goal: object, release: Path) -> Result:
    return mirror(str(origin), str(goal), Asked(), Progress(stream=StringIO()), release=release, images=[])


def run(name: str, *arguments: object) -> bytes:
    done = subprocess.run([tool(name), *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def discovered(subject: str, *options: str) -> list[str]:
    """Predicate types of the bundles that oras finds attached to a manifest."""
    found = json.loads(run("oras", "discover", "--format", "json", *options, subject)).get("referrers") or []
    manifests = [
        json.loads(run("oras", "manifest", "fetch", *options, f"{subject.partition('@')[0]}@{e['digest']}"))
        for e in found
    ]
    assert {m["artifactType"] for m in manifests} <= {BUNDLE}  # the registry's list has the configuration's type
    return sorted(m["annotations"]["dev.sigstore.bundle.predicateType"] for m in manifests)


def complete(made: Trusted, place: str, *options: str) -> bool:
    """Whether everything is attached that should be; `place` is where `rfolabs/` stands, or a layout's folder."""

    def at(name: str, digest: str) -> str:
        return f"{place}@{digest}" if "--oci-layout" in options else f"{place}/rfolabs/{name}@{digest}"

    for image in made.manifest["images"]:
        assert discovered(at(image["name"], image["digest"]), *options) == sorted([IMAGE_SIGNATURE, *2 * [PROVENANCE]])
        for digest in image["platforms"].values():
            found = discovered(at(image["name"], digest), *options)
            assert found == sorted([IMAGE_SIGNATURE, *2 * [PROVENANCE], SPDX])
    chart = made.subjects()["chart"]["chart/rfo-coredns"]
    assert discovered(at("rfo-coredns", str(chart)), *options) == sorted([IMAGE_SIGNATURE, *2 * [PROVENANCE]])
    return True


def pause(made: Trusted) -> str:
    return str(next(i["digest"] for i in made.manifest["images"] if i["name"] == "pause"))


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The URL of a folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def reference(made: Trusted) -> str:
    return str(next(i["references"][0] for i in made.manifest["images"] if i["name"] == "pause"))


def tag(digest: str, suffix: str) -> str:
    return f"{digest.replace(':', '-')}.{suffix}"


def manifest(registry: str, reference: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("crane", "manifest", "--insecure", f"{registry}/rfolabs/{reference}"))
    return found


# --- what is pushed


@pytest.mark.parametrize("kind", ["plain", "modern"])
def test_a_push_attaches_signatures_provenance_and_sboms(
    made: Trusted, kind: str, request: pytest.FixtureRequest
) -> None:
    registry = request.getfixturevalue(kind)
    result = pushed(made.dist, registry)
    assert complete(made, registry, "--plain-http")
    assert result.attached == 8 * 3 + 6 + 3 + 9 * 2  # three on each, SBOMs of six, three on the chart; older tags
    again = pushed(made.dist, registry)
    assert (again.sent, again.manifests, again.attached) == (0, 0, result.attached)
    for image in made.manifest["images"]:
        name = image["references"][0].partition("/")[2]
        assert run("crane", "digest", "--insecure", f"{registry}/{name}").decode().strip() == image["digest"]


def test_a_referrer_is_as_cosign_writes_it(made: Trusted, plain: str) -> None:
    pushed(made.dist, plain)
    listed = manifest(plain, f"pause:{pause(made).replace(':', '-')}")["manifests"]
    for entry in listed:
        found = manifest(plain, f"pause@{entry['digest']}")
        assert entry["artifactType"] == found["artifactType"] == BUNDLE
        assert entry["annotations"] == found["annotations"]
        assert found["annotations"]["dev.sigstore.bundle.content"] == "dsse-envelope"
        assert found["annotations"]["org.opencontainers.image.created"] == made.manifest["date"]
        assert found["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
        assert (found["config"]["digest"], found["config"]["size"]) == (str(Digest.of_bytes(b"{}")), 2)
        assert [layer["mediaType"] for layer in found["layers"]] == [BUNDLE]
        assert found["subject"]["digest"] == pause(made)
        assert found["subject"]["mediaType"] == "application/vnd.oci.image.index.v1+json"
        blob = run("crane", "blob", "--insecure", f"{plain}/rfolabs/pause@{found['layers'][0]['digest']}")
        files = [p.read_bytes() for p in (made.dist / "provenance").rglob("*.sigstore.json")]
        assert blob in files  # the file itself, not one like it


def test_the_older_form_is_signed_for_the_public_name(made: Trusted, plain: str) -> None:
    pushed(made.dist, f"{plain}/prefix")
    (layer,) = manifest(plain + "/prefix", f"pause:{tag(pause(made), 'sig')}")["layers"]
    payload = run("crane", "blob", "--insecure", f"{plain}/prefix/rfolabs/pause@{layer['digest']}")
    assert json.loads(payload)["critical"] == {
        "identity": {"docker-reference": reference(made)},
        "image": {"docker-manifest-digest": pause(made)},
        "type": "cosign container image signature",
    }
    signature = base64.b64decode(layer["annotations"][SIGNATURE_KEY])
    key = load_signing("release", made.keys).key
    from securesystemslib.signer import Signature

    key.verify_signature(Signature(key.keyid, signature.hex()), payload)
    attested = manifest(plain + "/prefix", f"pause:{tag(pause(made), 'att')}")["layers"]
    assert [layer["annotations"] for layer in attested] == 2 * [{SIGNATURE_KEY: "", "predicateType": PROVENANCE}]


def test_a_folder_and_another_registry_get_everything_too(
    made: Trusted, plain: str, modern: str, tmp_path: Path
) -> None:
    mirrored(made.dist, tmp_path / "copy", made.dist)
    assert complete(made, f"{tmp_path}/copy", "--oci-layout")
    mirrored(tmp_path / "copy", modern, made.dist)
    assert complete(made, modern, "--plain-http")
    mirrored(modern, plain, made.dist)
    assert complete(made, plain, "--plain-http")
    for suffix in ("sig", "att"):
        first, second = (manifest(r, f"pause:{tag(pause(made), suffix)}") for r in (modern, plain))
        assert first == second


def test_a_push_says_that_nothing_is_signed(copy: Path, plain: str) -> None:
    shutil.rmtree(copy / "provenance")
    said = StringIO()
    assert pushed(copy, plain, said).attached == 0
    assert "is signed: what is pushed cannot be verified by anybody" in said.getvalue()


# --- what others wrote stays


@pytest.mark.parametrize("copied", [False, True])
def test_signatures_of_others_under_the_older_tag_stay(
    made: Trusted, plain: str, modern: str, tmp_path: Path, copied: bool
) -> None:
    theirs = Images(tmp_path / "theirs")
    about = {SIGNATURE_KEY: "bXk="}
    payload = simple_signing(reference(made), Digest.parse(pause(made)))  # others may sign the same bytes
    layer = theirs.put(payload, "application/vnd.dev.cosign.simplesigning.v1+json", annotations=about)
    config = theirs.put(b"{}", "application/vnd.oci.image.config.v1+json")
    theirs.name(theirs.manifest({"config": config, "layers": [layer]}), f"pause:{tag(pause(made), 'sig')}")
    goal = plain if not copied else modern
    mirror(
        str(theirs.folder), goal, Asked(), Progress(stream=StringIO()), release=None,
        images=[f"pause:{tag(pause(made), 'sig')}"],
    )  # fmt: skip
    if copied:
        pushed(made.dist, plain)
        mirrored(plain, goal, made.dist)
    else:
        pushed(made.dist, goal)
    found = manifest(goal, f"pause:{tag(pause(made), 'sig')}")
    assert len(found["layers"]) == 2
    assert found["layers"][0] == layer
    pushed(made.dist, goal)
    assert manifest(goal, f"pause:{tag(pause(made), 'sig')}") == found


@pytest.mark.parametrize("which", [r"\.sig", r"sha256-[0-9a-f]{64}"])
def test_what_another_writer_took_away_is_written_again(
    made: Trusted, plain: str, stack: ExitStack, which: str
) -> None:
    front = stack.enter_context(disturbed(plain))
    front.faults = [Fault(f"PUT .*{which}$", status=201, times=3)]  # as if it had been replaced at once
    pushed(made.dist, front.address)
    assert front.faults[0].times == 0
    assert complete(made, plain, "--plain-http")
    pushed(made.dist, plain)  # nothing of it is missing
    front.faults = [Fault(f"PUT .*{which}$", status=201, times=999)]
    with pytest.raises(NetworkError, match="somebody else writes it at the same time"):
        pushed(made.dist, f"{front.address}/other")


# --- bad input


def _nonsense(folder: Path) -> None:
    (folder / "provenance/release/images.sigstore.json").write_text("{}\n")


def _altered(folder: Path) -> None:
    path = folder / "provenance/release/images.sigstore.json"
    path.write_bytes(path.read_bytes() + b"\n")


def _linked(folder: Path) -> None:
    path = folder / "provenance/release/images.sigstore.json"
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def _unsigned(folder: Path) -> None:
    (folder / LEGACY).write_text('{"signatures":[{"digest":"sha256:00"}]}\n')


def _no_base64(folder: Path) -> None:
    entry = {"digest": f"sha256:{'0' * 64}", "reference": "docker.io/rfolabs/x:1", "signature": "!"}
    (folder / LEGACY).write_text(json.dumps({"signatures": [entry]}, separators=(",", ":")) + "\n")


@pytest.mark.parametrize("damage", [_nonsense, _altered, _linked, _unsigned, _no_base64])
def test_malformed_signatures_stop_a_push_before_it_begins(
    copy: Path, plain: str, stack: ExitStack, damage: Callable[[Path], None]
) -> None:
    front = stack.enter_context(disturbed(plain))
    damage(copy)
    with pytest.raises(PipelineError):
        pushed(copy, front.address)
    assert front.asked == []


# --- charts


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pgp")
    new_chart_key(folder, "RFO charts (tests)")
    return folder


def test_helm_verifies_the_provenance_of_a_chart(made: Trusted, keys: Path, tmp_path: Path) -> None:
    (chart,) = (made.dist / "charts").glob("*.tgz")
    (tmp_path / f"{chart.name}.prov").write_bytes(chart_prov(chart, load_chart_key(keys)))
    shutil.copy(chart, tmp_path)
    ring = tmp_path / "ring.gpg"
    ring.write_bytes(run("gpg", "--homedir", tmp_path, "--dearmor", "--output", "-", keys / PUBLIC))

    def verify(keyring: Path) -> "subprocess.CompletedProcess[str]":
        command = [tool("helm"), "verify", "--keyring", str(keyring), str(tmp_path / chart.name)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={"HOME": str(tmp_path)})

    done = verify(ring)
    assert done.returncode == 0, done.stderr
    assert "Signed by: RFO charts (tests)" in done.stdout
    assert f"Chart Hash Verified: {Digest.of_file(chart)}" in done.stdout
    with serving(tmp_path) as url:
        (tmp_path / "pulled").mkdir()
        pull = [tool("helm"), "pull", f"{url}/{chart.name}", "--prov", "--verify", "--keyring", str(ring)]
        environment = {"HOME": str(tmp_path)}
        subprocess.run([*pull, "-d", str(tmp_path / "pulled")], check=True, capture_output=True, env=environment)
    assert {p.name for p in (tmp_path / "pulled").iterdir()} == {chart.name, f"{chart.name}.prov"}
    new_chart_key(tmp_path / "other", "RFO charts (tests)")
    (tmp_path / "other.gpg").write_bytes(bytes(load_chart_key(tmp_path / "other").extract_certificate()))
    assert verify(tmp_path / "other.gpg").returncode != 0
    (tmp_path / chart.name).write_bytes(chart.read_bytes() + b"x")
    assert "sha256 sum does not match" in verify(ring).stderr


def test_the_key_for_charts_is_kept_from_others_and_not_replaced(keys: Path, tmp_path: Path) -> None:
    assert (keys / SECRET).stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in (keys / PUBLIC).read_bytes()
    with pytest.raises(UsageError, match="is not replaced"):
        new_chart_key(keys, "another")
    with pytest.raises(TrustError, match="No such file"):
        load_chart_key(tmp_path)
    (tmp_path / SECRET).write_bytes(b"x")
    os.chmod(tmp_path / SECRET, 0o600)
    with pytest.raises(TrustError, match="no OpenPGP key"):
        load_chart_key(tmp_path)
    shutil.copy(keys / SECRET, tmp_path / SECRET)
    os.chmod(tmp_path / SECRET, 0o640)
    with pytest.raises(TrustError, match="can be read by others"):
        load_chart_key(tmp_path)


def test_the_key_for_charts_is_made_by_a_command(tmp_path: Path) -> None:
    def inv(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "invoke", "keys", *arguments, "--folder", str(tmp_path / "keys")]
        return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)

    done = inv("new", "--role", "charts", "--id", "RFO charts (tests)")
    assert done.returncode == 0, done.stderr
    assert str(load_chart_key(tmp_path / "keys").extract_certificate().user_ids[0]) == "RFO charts (tests)"
    assert inv("new", "--role", "builder").returncode == 0
    shown = json.loads(inv("show", "--json").stdout)
    assert [k["role"] for k in shown] == ["builder"]  # the other is no key of statements


def test_what_is_no_chart_is_not_signed(made: Trusted, keys: Path, tmp_path: Path) -> None:
    import gzip
    import io
    import tarfile

    def chart(path: str, text: bytes) -> Path:
        with tarfile.open(tmp_path / "c.tgz", "w:gz") as archive:
            info = tarfile.TarInfo(path)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
        return tmp_path / "c.tgz"

    key = load_chart_key(keys)
    for bad in (chart("x/values.yaml", b""), chart("x/y/Chart.yaml", b""), chart("x/Chart.yaml", b"\xff")):
        with pytest.raises(SourceError, match="is no chart"):
            chart_prov(bad, key)
    with pytest.raises(SourceError, match=r"begins with `\.\.\.`"):
        chart_prov(chart("x/Chart.yaml", b"name: x\n...\nfiles: {}\n"), key)
    (tmp_path / "c.tgz").write_bytes(gzip.compress(b"no archive"))
    with pytest.raises(SourceError, match="is no chart"):
        chart_prov(tmp_path / "c.tgz", key)
