"""Push and mirror without a registry: names, credentials, challenges, hostile layouts, what people see."""

import base64
import json
import os
import stat
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from registry_server import INDEX, MANIFEST, Images

from pipeline.errors import HostError, SourceError, UsageError
from pipeline.model import Digest
from pipeline.publish.manifest import SCHEMA
from pipeline.registry import layout, meter, oci, transfer
from pipeline.registry.auth import Challenge, parse_challenge
from pipeline.registry.credentials import Login, find_login
from pipeline.registry.layout import Layout
from pipeline.registry.meter import Meter
from pipeline.registry.place import Name, Remote, parse_place
from pipeline.registry.share import Asked, mirror
from pipeline.report.progress import QUIET, Progress

HOST = "registry.example:5000"


def mirrored(origin: Path, goal: Path) -> None:
    mirror(str(origin), str(goal), Asked(), Progress(stream=StringIO()), images=[])


# --- names and places


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pause:v1", Name("rfolabs/pause", "v1")),
        ("docker.io/rfolabs/pause:v1", Name("rfolabs/pause", "v1")),
        ("localhost/a/b:v1", Name("a/b", "v1")),
        (f"{HOST}/a/b/c:v1_x", Name("a/b/c", "v1_x")),
        ("other/pause:V1.2-3", Name("other/pause", "V1.2-3")),
    ],
)
def test_names_are_read_without_their_host(text: str, name: Name) -> None:
    assert Name.parse(text) == name


NO_NAMES = """: pause :v1 pause: Pause:v1 ../pause:v1 a//b:v1 a/../b:v1 p:v+1 a/b:c:d"""
LONG_NAMES = ("", "p:" + "v" * 129, "p\n:v1", "a" * 300 + ":v", f"{HOST}/pause@sha256:{'0' * 64}")


@pytest.mark.parametrize("text", [*NO_NAMES.split(), *LONG_NAMES])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(SourceError, match="not the name of an image"):
        Name.parse(text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("registry.example", Remote("registry.example")),
        (f"{HOST}/a/b/", Remote(HOST, "a/b")),
        ("localhost/a", Remote("localhost", "a")),
        ("[::1]:5000/a", Remote("[::1]:5000", "a")),
        ("dist/v1.25.4+rfor1", Path.cwd() / "dist/v1.25.4+rfor1"),
        ("./registry.example", Path.cwd() / "registry.example"),
        ("../a", Path.cwd() / "../a"),
        ("/a", Path("/a")),
    ],
)
def test_registries_and_folders_are_told_apart(text: str, place: Remote | Path) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize("text", ["", "https://registry.example", "me:secret@registry.example/a", "host:x/a", ":"])
def test_what_is_meant_as_a_registry_is_taken_for_no_folder(text: str) -> None:
    with pytest.raises(UsageError, match="expected a registry") as error:
        parse_place(text)
    assert "secret" not in error.value.render()


# --- credentials


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where docker's configuration of a test is."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()
    return tmp_path / "docker" / "config.json"


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("entries", "login"),
    [
        ({}, None),
        ({"auths": {}}, None),
        ({"auths": {HOST: {"auth": basic("me:a:b")}}}, Login("me", "a:b")),
        ({"auths": {f"https://{HOST}/v1/": {"auth": basic("me:b")}}}, Login("me", "b")),
        ({"auths": {HOST: {"username": "me", "password": "b"}}}, Login("me", "b")),
        ({"auths": {HOST: {"auth": basic("me:"), "identitytoken": "t"}}}, Login("me", "t", refresh=True)),
        ({"auths": {"registry.example": {"auth": basic("me:b")}}}, None),
        ({"auths": {f"{HOST}.evil.example": {"auth": basic("me:b")}}}, None),
        ({"auths": {HOST: {}}}, None),
        ({"auths": {HOST: []}}, None),
        ({"auths": []}, None),
    ],
)
def test_dockers_configuration_is_read(config: Path, entries: dict[str, Any], login: Login | None) -> None:
    config.write_text(json.dumps(entries))
    assert find_login(HOST) == login


def test_no_configuration_is_no_error(config: Path) -> None:
    assert find_login(HOST) is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no JSON object"),
        ("[]", "no JSON object"),
        ("[" * 100_000, "no JSON object"),
        (" " * (2 << 20), "no JSON object"),
        (json.dumps({"auths": {HOST: {"auth": "me:secret"}}}), "is not base64 of USER:PASSWORD"),
        (json.dumps({"credsStore": "../../bin/sh"}), "which is no program's name"),
    ],
    ids=range(6),
)
def test_a_malformed_configuration_is_said_without_its_secrets(config: Path, text: str, match: str) -> None:
    config.write_text(text)
    with pytest.raises(UsageError, match=match) as error:
        find_login(HOST)
    assert str(config) in error.value.reason
    assert "secret" not in error.value.render()


def helper(folder: Path, script: str) -> None:
    """A credential helper called `test`."""
    path = folder / "docker-credential-test"
    path.write_text(f"#!/bin/sh\nread server\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("setting", [{"credsStore": "test"}, {"credHelpers": {HOST: "test"}}])
def test_a_helper_is_asked(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any]
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    config.write_text(json.dumps({**setting, "auths": {HOST: {"auth": basic("file:x")}}}))
    helper(tmp_path, """[ "$1" = get ] && echo '{"Username": "me", "Secret": "'$server'"}'""")
    assert find_login(HOST) == Login("me", HOST)
    helper(tmp_path, """echo '{"Username": "<token>", "Secret": "t"}'""")
    assert find_login(HOST) == Login("", "t", refresh=True)
    helper(tmp_path, "echo credentials not found in native keychain; exit 1")
    assert find_login(HOST) == Login("file", "x")
    for script, match in (("echo locked >&2; exit 1", "locked"), ("echo '[]'", "gave no credentials")):
        helper(tmp_path, script)
        with pytest.raises(HostError, match=f"docker-credential-test, which .*{match}"):
            find_login(HOST)
    (tmp_path / "docker-credential-test").unlink()
    with pytest.raises(HostError, match="docker-credential-test is needed"):
        find_login(HOST)


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(Login("me", "secret"))


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        ('Basic realm="x"', Challenge("basic", "x", "", "")),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:a:pull,push repository:b:pull"',
            Challenge("bearer", "https://a/t", "s", "repository:a:pull,push repository:b:pull"),
        ),
        ('Basic realm="x", Bearer realm="y" , error="invalid_token"', Challenge("bearer", "y", "", "")),
        ('bearer Realm = "y"', Challenge("bearer", "y", "", "")),
        ("Negotiate", None),
        ("", None),
    ],
)
def test_challenges_are_read(header: str, challenge: Challenge | None) -> None:
    assert parse_challenge(header) == challenge


# --- layouts of others


@pytest.fixture
def images(tmp_path: Path) -> Images:
    made = Images(tmp_path / "images")
    made.name(made.index(made.image("amd64", b"one"), made.image("arm64", b"two")), "pause:v1")
    return made


def test_a_good_layout_is_copied(images: Images, tmp_path: Path) -> None:
    mirrored(tmp_path, tmp_path / "copy")
    assert Layout(tmp_path / "copy").names == Layout(tmp_path).names


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"digest": "sha256:../../../../etc/passwd"}, "not a SHA-256 digest"),
        ({"digest": f"sha512:{'0' * 128}"}, "expected the form sha256:HEX"),
        ({"digest": f"sha256:{'A' * 64}"}, "not a SHA-256 digest"),
        ({"digest": 7}, "manifests.0.digest"),
        ({"size": -1}, "manifests.0.size"),
        ({"size": 1 << 50}, "manifests.0.size"),
        ({"size": "12"}, "manifests.0.size"),
        ({"size": 3}, "does not hold"),
        ({"mediaType": "text/html"}, "is no manifest"),
        ({"mediaType": "a\r\nX: y"}, "manifests.0.mediaType"),
        ({"mediaType": MANIFEST}, "another kind of document"),
        ({"annotations": {"io.containerd.image.name": "docker.io/../x:v1"}}, "not the name of an image"),
        ({"annotations": {"io.containerd.image.name": 5}}, "manifests.0.annotations"),
    ],
    ids=range(13),
)
def test_a_hostile_index_is_refused(images: Images, tmp_path: Path, change: dict[str, Any], match: str) -> None:
    images.entries[0] |= change
    images.write()
    with pytest.raises(SourceError, match=match):
        mirrored(tmp_path, tmp_path / "copy")
    assert not (tmp_path / "copy" / "index.json").exists()


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("oci-layout", "{}", "expected"),
        ("oci-layout", '{"imageLayoutVersion": "2.0.0"}', "expected"),
        ("oci-layout", "[" * 4000, "expected"),
        ("oci-layout", " " * 5000, "larger than 4096"),
        ("index.json", "", "not an OCI manifest or index"),
        ("index.json", "[" * 200_000, "not an OCI manifest or index"),
        ("index.json", '{"schemaVersion": 1, "manifests": []}', "schemaVersion"),
        ("index.json", '{"schemaVersion": 2}', "no image index"),
        ("index.json", None, "no plain file"),
    ],
)
def test_a_malformed_layout_is_refused(images: Images, name: str, text: str | None, match: str) -> None:
    path = images.folder / name
    path.unlink()
    if text is None:
        os.mkfifo(path)
    else:
        path.write_text(text)
    with pytest.raises(SourceError, match=match):
        Layout(images.folder)


def test_what_is_too_large_is_refused(images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_INDEX", 100)
    with pytest.raises(SourceError, match=r"index\.json: larger than 100 bytes"):
        Layout(images.folder)
    monkeypatch.undo()
    monkeypatch.setattr(layout, "MAX_MANIFEST", 100)
    with pytest.raises(SourceError, match="larger than 100 bytes"):
        mirrored(tmp_path, tmp_path / "copy")
    monkeypatch.undo()
    monkeypatch.setattr(transfer, "MAX_MANIFESTS", 2)
    with pytest.raises(SourceError, match="over 2 manifests belong"):
        mirrored(tmp_path, tmp_path / "copy")


def test_indexes_do_not_nest_without_end(images: Images, tmp_path: Path) -> None:
    nested = images.entries[0]
    for _ in range(transfer.MAX_DEPTH + 1):
        nested = images.index({k: nested[k] for k in ("mediaType", "digest", "size")})
    images.name(nested, "deep:v1")
    with pytest.raises(SourceError, match="over 8 manifests in each other"):
        mirrored(tmp_path, tmp_path / "copy")


def test_a_name_stands_for_one_image(images: Images, tmp_path: Path) -> None:
    images.name(images.index(images.image("amd64", b"other")), "pause:v1")
    with pytest.raises(SourceError, match="pause:v1 stands for two images"):
        Layout(tmp_path)


def test_a_link_in_the_folder_that_is_written_to_is_not_followed(images: Images, tmp_path: Path) -> None:
    image = json.loads(images.blob(images.entries[0]).read_bytes())["manifests"][0]
    layer = json.loads(images.blob(image).read_bytes())["layers"][0]
    target = tmp_path / "precious"
    target.write_text("precious")
    blobs = tmp_path / "copy" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    name = layer["digest"].partition(":")[2]
    (blobs / f".{name}.part").symlink_to(target)
    (blobs / name).symlink_to(target)
    mirrored(tmp_path, tmp_path / "copy")
    assert target.read_text() == "precious"
    assert (blobs / name).read_bytes() == images.blob(layer).read_bytes()
    assert not (blobs / name).is_symlink()


def test_a_damaged_blob_in_the_target_is_written_again(images: Images, tmp_path: Path) -> None:
    mirrored(tmp_path, tmp_path / "copy")
    for path in (tmp_path / "copy" / "blobs" / "sha256").iterdir():
        data = path.read_bytes()
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    (tmp_path / "copy" / "index.json").unlink()
    mirrored(tmp_path, tmp_path / "copy")
    for path in (tmp_path / "copy" / "blobs" / "sha256").iterdir():
        assert Digest.of_file(path).hex == path.name


@pytest.mark.parametrize("document", [{"config": None}, {"layers": {}}, {"subject": 1}, {"config": {"digest": "x"}}])
def test_a_malformed_manifest_is_refused(document: dict[str, Any]) -> None:
    data = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **document}).encode()
    with pytest.raises(SourceError, match="it: "):
        oci.read_manifest(data, MANIFEST, "it")


def test_an_index_cannot_pass_for_a_manifest() -> None:
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode()
    with pytest.raises(SourceError, match="another kind of document"):
        oci.read_manifest(data, MANIFEST, "it")
    assert oci.read_manifest(data, INDEX, "it").children == ()


def test_images_have_to_be_those_of_the_release(images: Images, tmp_path: Path) -> None:
    index = images.folder / "index.json"
    manifest: dict[str, Any] = {k: [] for k in ("platforms", "components", "deviations", "binaries")}
    manifest |= {
        "schema": SCHEMA,
        "version": "v1.0.0+rfor1",
        "upstream": "",
        "date": "",
        "stand_in": False,
        "bases": {},
    }
    entry = {"name": "images/index.json", "digest": str(Digest.of_file(index)), "size": index.stat().st_size}
    (tmp_path / "release.json").write_text(json.dumps({**manifest, "artifacts": [entry]}))
    mirrored(tmp_path, tmp_path / "copy")
    images.name(images.index(images.image("amd64", b"evil")), "evil:v1")
    with pytest.raises(SourceError, match=r"images/index\.json is not what its release\.json names"):
        mirrored(tmp_path, tmp_path / "other")


# --- what people see


def test_progress_says_bytes_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pipeline.registry.meter.time.monotonic", lambda: now[0])
    stream = StringIO()
    counted = Meter(Progress(stream=stream))
    counted.tick()
    counted.begin(100 << 20)
    counted.skip(20 << 20)
    track = counted.track()
    track.at(30 << 20)
    track.at(20 << 20)  # the registry has less than was sent
    now[0] += 10
    counted.tick()
    assert stream.getvalue() == ""
    assert counted.state() == "40.0 MiB of 100.0 MiB, 2.0 MiB/s, 30s left"
    now[0] += QUIET
    counted.tick()
    counted.end()
    counted.tick()
    assert stream.getvalue() == "  ...   40.0 MiB of 100.0 MiB, 512.0 KiB/s, 2m00s left\n"
    counted.stop()
    with pytest.raises(meter.Stopped):
        track.at(40 << 20)


def test_one_failure_ends_the_other_tasks(tmp_path: Path) -> None:
    counted = Meter(Progress(stream=StringIO()))
    ran = list[int]()

    def task(number: int) -> None:
        ran.append(number)
        if number == 1:
            raise IndexError("its own")

    with pytest.raises(IndexError, match="its own"):
        transfer._all([lambda n=n: task(n) for n in range(9)], 1, counted)  # type: ignore[misc]
    assert ran == [0, 1]


def test_no_command_loads_http_before_it_needs_it() -> None:
    code = "import sys, pipeline.registry.share, pipeline.cli.sharing; sys.exit('requests' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=True)
