"""Push to real registries on loopback: TLS, passwords, tokens, proxies, faults on the way, a kill in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from registry_server import (
    PASSWORD,
    REFRESH_TOKEN,
    USER,
    Authority,
    Disturber,
    Fault,
    Images,
    connect_proxy,
    distribution,
    disturbed,
    passwords,
    stranger,
    token_server,
)
from tools import tool

from images import EMPTY, image_checkout
from images import made as make_release
from pipeline.errors import NetworkError, PipelineError, SourceError, UsageError
from pipeline.registry import client
from pipeline.registry.share import Asked, push
from pipeline.registry.transfer import Result
from pipeline.report.progress import Progress

pytestmark = pytest.mark.usefixtures("alone")

REPO = Path(__file__).parent.parent
SHARED = os.urandom(300_000)
"""Content of a layer that all images have; of no use to a compressor."""


def release(folder: Path) -> Images:
    """A release's folder: two images for three architectures with a common layer, one under two names; a chart."""
    made = Images(folder / "images")
    for name in ("pause", "etcd"):
        platforms = [made.image(arch, SHARED, f"{name} {arch}".encode()) for arch in ("amd64", "arm64", "riscv64")]
        index = made.index(*platforms)
        made.name(index, f"{name}:v1-rfor1", *([f"{name}:v1_rfor1"] if name == "pause" else []))
    chart = {
        "config": made.put(b'{"name":"rfo-coredns"}', "application/vnd.cncf.helm.config.v1+json"),
        "layers": [made.put(b"a chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
    }
    made.name(made.manifest(chart), "rfo-coredns:1.0.0")
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that no test changes."""
    made: Path = tmp_path_factory.mktemp("dist")
    release(made)
    return made


def pushed(folder: Path, registry: str, **options: Any) -> Result:
    return push(folder, registry, Asked(**options), Progress(stream=StringIO()))


def crane(*arguments: str) -> str:
    return subprocess.run([tool("crane"), *arguments], capture_output=True, text=True, check=True).stdout.strip()


def digests(folder: Path) -> dict[str, str]:
    """Digest by name, as the layout says."""
    entries = json.loads((folder / "images" / "index.json").read_bytes())["manifests"]
    return {e["annotations"]["io.containerd.image.name"].removeprefix("docker.io/"): e["digest"] for e in entries}


def arrived(folder: Path, registry: str) -> bool:
    """Whether every name stands for its digest there."""
    return all(crane("digest", f"{registry}/{name}") == digest for name, digest in digests(folder).items())


def login(tmp_path: Path, host: str, password: str = PASSWORD) -> None:
    import base64

    (tmp_path / "docker").mkdir()
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))


@pytest.fixture
def front(stack: ExitStack, tmp_path: Path) -> Disturber:
    """A disturber before a plain registry."""
    return stack.enter_context(disturbed(stack.enter_context(distribution(tmp_path / "registry"))))


# --- what is pushed


def test_everything_that_the_layout_names_is_there_and_valid(folder: Path, front: Disturber) -> None:
    result = pushed(folder, f"{front.address}/some/prefix")
    assert arrived(folder, f"{front.address}/some/prefix")
    for name in ("pause:v1-rfor1", "pause:v1_rfor1", "etcd:v1-rfor1"):
        assert crane("validate", "--remote", f"{front.address}/some/prefix/rfolabs/{name}").startswith("PASS")
    assert len(result.images) == 4
    assert {i.before for i in result.images} == {None}
    assert result.manifests == 9
    # 2 x (shared layer, own layers and configs), the chart's two; the shared layer went over the line once
    assert (result.blobs, result.sent, result.mounted) == (16, 15, 1)
    assert front.sent() == result.bytes


def test_what_a_release_made_is_pushed(front: Disturber, tmp_path: Path) -> None:
    dist = make_release(image_checkout(tmp_path / "checkout", EMPTY)).dist
    result = pushed(dist, front.address)
    assert [i.place for i in result.images] == [f"{front.address}/rfolabs/empty:v1.0.0-rfor1-build20221118"]
    assert arrived(dist, front.address)
    assert crane("validate", "--remote", result.images[0].place).startswith("PASS")


def test_content_comes_first_then_manifests_then_tags(folder: Path, front: Disturber) -> None:
    pushed(folder, front.address)
    order = [
        "tag" if "sha256:" not in a.path else "manifest"
        for a in front.asked
        if a.method == "PUT" and "/manifests/" in a.path
    ]
    assert order == sorted(order)
    writes = [a.path for a in front.asked if a.method in ("PUT", "PATCH", "POST")]
    first_manifest = next(i for i, path in enumerate(writes) if "/manifests/" in path)
    assert not any("/blobs/" in path for path in writes[first_manifest:])
    for index in set(digests(folder).values()):
        path = folder / "images" / "blobs" / "sha256" / index.partition(":")[2]
        children = [m["digest"] for m in json.loads(path.read_bytes()).get("manifests", [])]
        put = [path.rpartition("/")[2] for path in writes if "/manifests/sha256:" in path]
        assert all(put.index(child) < put.index(index) for child in children)


def test_a_second_push_sends_nothing(folder: Path, front: Disturber) -> None:
    pushed(folder, front.address)
    front.asked.clear()
    result = pushed(folder, front.address)
    assert (result.sent, result.mounted, result.manifests, result.bytes) == (0, 0, 0, 0)
    assert [i.before for i in result.images] == [i.digest for i in result.images]
    assert front.count("^(POST|PATCH|PUT|DELETE) ") == 0


def test_a_dry_run_writes_nothing_and_says_the_same(folder: Path, front: Disturber) -> None:
    wanted = pushed(folder, front.address, dry_run=True)
    assert front.count("^(POST|PATCH|PUT|DELETE) ") == 0
    assert pushed(folder, front.address) == wanted


def test_a_tag_that_moves_is_said(tmp_path: Path, front: Disturber) -> None:
    made = release(tmp_path / "one")
    pushed(tmp_path / "one", front.address)
    old = digests(tmp_path / "one")["rfolabs/pause:v1-rfor1"]
    made.entries = [e for e in made.entries if "v1-rfor1" not in json.dumps(e) or "etcd" in json.dumps(e)]
    made.name(made.index(made.image("amd64", b"other")), "pause:v1-rfor1")
    result = pushed(tmp_path / "one", front.address)
    assert {str(i.before) for i in result.images if i.before != i.digest} == {old}
    assert arrived(tmp_path / "one", front.address)


# --- who we are, and through what


def test_tls_with_an_authority_of_its_own_and_a_password(folder: Path, stack: ExitStack, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    host = stack.enter_context(distribution(tmp_path / "registry", tls=authority, auth=passwords(tmp_path)))
    with pytest.raises(NetworkError, match="its certificate is not trusted") as untrusted:
        pushed(folder, host)
    assert "--ca FILE" in untrusted.value.hint
    with pytest.raises(NetworkError, match=f"401.*\n.*config.json has no credentials for {host}") as unknown:
        pushed(folder, host, ca=authority.root)
    assert unknown.value.hint == f"docker login {host}"
    login(tmp_path, host)
    proxy, led = stack.enter_context(connect_proxy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTPS_PROXY", proxy)
        result = pushed(folder, host, ca=authority.root)
    assert set(led) == {host}
    assert result.sent == 15
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(authority.root))
        assert pushed(folder, host).sent == 0
        patch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "gone"))
        assert pushed(folder, host, ca=authority.root).sent == 0  # what the command line says comes first
    (tmp_path / "empty").touch()
    for name in ("gone", "empty"):
        with pytest.raises(UsageError, match=f"--ca .*{name}: "):
            pushed(folder, host, ca=tmp_path / name)


def test_a_wrong_password_is_refused_without_being_told(folder: Path, stack: ExitStack, tmp_path: Path) -> None:
    host = stack.enter_context(distribution(tmp_path / "registry", auth=passwords(tmp_path)))
    login(tmp_path, host, "a guess")
    with pytest.raises(
        NetworkError, match=f"401.*\n  the credentials of {USER} from .*config.json were refused"
    ) as error:
        pushed(folder, host)
    assert "a guess" not in error.value.render()


def test_tokens_are_fetched_for_the_scopes_that_the_registry_names(
    folder: Path, stack: ExitStack, tmp_path: Path
) -> None:
    tokens = stack.enter_context(token_server(tmp_path / "tokens"))
    host = stack.enter_context(distribution(tmp_path / "registry", auth=tokens.setting))
    with pytest.raises(NetworkError, match="401"):
        pushed(folder, host)
    login(tmp_path, host)
    assert pushed(folder, host).mounted == 1  # for which both repositories have to be in the token
    scopes = [sorted(a.get("scope", [])) for a in tokens.asked]
    assert ["repository:rfolabs/etcd:pull"] in scopes or ["repository:rfolabs/pause:pull"] in scopes
    assert any(len(s) == 2 for s in scopes)
    entry = {"auths": {host: {"identitytoken": REFRESH_TOKEN}}}
    (tmp_path / "docker" / "config.json").write_text(json.dumps(entry))
    made = release(tmp_path / "more")
    made.name(made.index(made.image("amd64", b"more")), "more:1")
    assert pushed(tmp_path / "more", host).sent == 2


def test_credentials_go_to_nobody_else(folder: Path, stack: ExitStack, tmp_path: Path) -> None:
    host = stack.enter_context(distribution(tmp_path / "registry", auth=passwords(tmp_path)))
    front = stack.enter_context(disturbed(host))
    other, asked = stack.enter_context(stranger(404))
    login(tmp_path, front.address)
    pushed(folder, front.address)
    assert any(a.authorization for a in front.asked)
    front.faults = [Fault("GET .*/manifests/sha256", status=307, headers={"Location": f"{other}/elsewhere"})]
    pushed(folder, front.address)  # not there, so it is written again
    front.faults = [Fault("POST .*/uploads/$", status=202, headers={"Location": f"{other}/upload"})]
    made = release(tmp_path / "two")
    made.name(made.index(made.image("amd64", b"new")), "new:1")
    pushed(tmp_path / "two", front.address)
    assert {a.path.partition("?")[0] for a in asked} == {"/elsewhere", "/upload"}
    assert {a.authorization for a in asked} == {None}


def test_no_way_leads_from_https_to_http(folder: Path, stack: ExitStack, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    config = {
        "token": {
            "realm": "http://tokens.example/token",
            "service": "s",
            "issuer": "i",
            "rootcertbundle": str(authority.root),
        }
    }
    host = stack.enter_context(distribution(tmp_path / "registry", tls=authority, auth=config))
    with pytest.raises(NetworkError, match=r"the registry leads to http://tokens\.example, not to https"):
        pushed(folder, host, ca=authority.root)


def test_plain_http_beyond_loopback_has_to_be_asked_for(
    folder: Path, front: Disturber, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):  # which the disturber is for plain requests, and for no tunnel
        monkeypatch.setenv(name, f"http://{front.address}")
    with pytest.raises(NetworkError, match=r"registry\.example: the proxy of the environment does not lead there"):
        pushed(folder, "registry.example")
    assert front.asked == []
    assert pushed(folder, "registry.example", plain_http=True).sent == 15
    assert front.count("^GET http://registry.example/v2/$") == 1
    monkeypatch.delenv("HTTP_PROXY")
    assert arrived(folder, front.address)


# --- what breaks on the way


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PATCH ", drop_after=100_000, times=2),
        Fault("POST .*uploads", status=500, times=2),
        Fault("PATCH ", status=503, times=2),
        Fault("PATCH ", status=404),
        Fault("HEAD ", status=429, headers={"Retry-After": "1"}, times=3),
        Fault("PUT .*digest=", status=500),
        Fault("PUT .*digest=", cut_after=0),
        Fault("PUT .*manifests", status=502),
        Fault("GET .*manifests", cut_after=10),
        Fault("GET /v2/$", status=500),
    ],
    ids=lambda f: f"{f.match}-{f.status or 'cut'}",
)
def test_what_fails_in_passing_is_tried_again(folder: Path, front: Disturber, fault: Fault) -> None:
    front.faults = [Fault(**vars(fault))]
    pushed(folder, front.address)
    assert front.faults[0].times == 0
    assert arrived(folder, front.address)


def test_a_registry_says_how_long_to_wait_within_limits(
    folder: Path, front: Disturber, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(client, "MAX_PAUSE", 60)
    monkeypatch.setattr("pipeline.registry.client.time.sleep", pauses.append)
    times = ("7", "100000", "Wed, 21 Oct 2015 07:28:00 GMT", "-5")
    front.faults = [Fault("GET /v2/$", status=429, headers={"Retry-After": t}) for t in times]
    pushed(folder, front.address, dry_run=True)
    assert pauses == [7, 60, 0, 0]


def test_a_dropped_upload_goes_on_where_the_registry_says(tmp_path: Path, front: Disturber) -> None:
    made = Images(tmp_path / "images")
    made.name(made.index(made.image("amd64", os.urandom(4_000_000))), "big:1")
    front.faults = [Fault("PATCH ", drop_after=3_000_000), Fault("PATCH ", drop_after=500_000)]
    result = pushed(tmp_path, front.address, jobs=1)
    assert front.count("GET .*/uploads/") == 2
    assert front.sent() < result.bytes + 500_000  # what got lost on the way is at most what was in buffers
    assert front.count("POST ") == 2
    assert arrived(tmp_path, front.address)


def test_a_registry_that_cannot_resume_gets_the_blob_again(tmp_path: Path, front: Disturber) -> None:
    made = Images(tmp_path / "images")
    made.name(made.index(made.image("amd64", os.urandom(2_000_000))), "big:1")
    front.faults = [Fault("PATCH ", drop_after=1_000_000), Fault("GET .*/uploads/", status=404)]
    pushed(tmp_path, front.address, jobs=1)
    assert front.count("POST ") == 3
    assert arrived(tmp_path, front.address)


@pytest.mark.parametrize(
    ("fault", "match", "hint"),
    [
        (Fault("PATCH ", times=99, drop_after=1000), r"tried 5 times", "goes on where it stopped"),
        (Fault("HEAD ", times=99, status=500), r"answered 500 \(tried 5 times\)", "goes on where it stopped"),
        (Fault("POST ", times=99, status=403), r"answered 403", "ask for the right"),
        (Fault("POST ", times=99, status=404), r"answered 404", "check HOST"),
        (Fault("PATCH ", times=99, status=413), r"answered 413", "limits the size"),
        (
            Fault(
                "POST ", times=99, status=400, body=b'{"errors":[{"code":"NAME_INVALID","message":"no \\u001b[31m"}]}'
            ),
            r"answered 400 \(NAME_INVALID no  \[31m\)",
            "",
        ),
        (Fault("POST ", times=99, status=202), "names no Location", "is it a registry"),
        (Fault("POST ", times=99, status=202, headers={"Location": "http://[x"}), "which is no web address", ""),
        (Fault("POST ", times=99, status=202, headers={"Location": "file:///etc/x"}), "which is no web address", ""),
        (Fault("POST ", times=99, status=307, headers={"Location": "/elsewhere"}), "and leads to '/elsewhere'", ""),
        (Fault("GET .*/manifests/", status=307, headers={"Location": "http://x:y/"}), "which is no web address", ""),
        (
            Fault("GET /v2/$", status=401, headers={"WWW-Authenticate": 'Bearer realm="ftp://x"'}),
            "leads to 'ftp://x', which is no web address",
            "",
        ),
        (Fault("GET /v2/$", times=99, status=404), "this is no registry", "check HOST"),
        (Fault("GET .*/manifests/", times=99, body=b'{"schemaVersion":2}'), "other bytes under this digest", "proxies"),
        (
            Fault("HEAD .*/blobs/", headers={"Content-Length": "5"}, status=200),
            "other bytes under this digest",
            "storage",
        ),
        (
            Fault("PUT .*digest=", headers={"Docker-Content-Digest": f"sha256:{'0' * 64}"}),
            r"other bytes under this digest or name:\n  expected sha256:.*\n  found    sha256:000",
            "proxies",
        ),
        (Fault("PUT .*manifests", headers={"Docker-Content-Digest": "x"}), "found    x", "proxies"),
    ],
    ids=lambda f: f.match if isinstance(f, Fault) else "",
)
def test_what_fails_for_good_is_said_and_no_tag_is_written(
    folder: Path, front: Disturber, fault: Fault, match: str, hint: str
) -> None:
    front.faults = [Fault(**vars(fault))]
    with pytest.raises((NetworkError, SourceError), match=match) as error:
        pushed(folder, front.address)
    assert hint in error.value.hint
    assert front.count(r"PUT .*/manifests/v1") == 0
    front.faults.clear()
    pushed(folder, front.address)
    assert arrived(folder, front.address)


@pytest.mark.parametrize("damage", ["flipped", "short", "long", "gone", "link"])
def test_a_damaged_layout_fails_before_a_tag_is_written(tmp_path: Path, front: Disturber, damage: str) -> None:
    made = Images(tmp_path / "images")
    image = made.image("amd64", SHARED)
    layer = json.loads(made.blob(image).read_bytes())["layers"][0]
    made.name(made.index(image), "pause:v1")
    path = made.blob(layer)
    data = path.read_bytes()
    changed = {"flipped": data[:-1] + bytes([data[-1] ^ 1]), "short": data[:-1], "long": data + b"x"}
    path.unlink()
    if damage in changed:
        path.write_bytes(changed[damage])
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match=str(path)):
        pushed(tmp_path, front.address)
    assert front.count("PUT .*/manifests/") == 0
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    pushed(tmp_path, front.address)
    assert arrived(tmp_path, front.address)


def test_a_push_that_was_killed_goes_on(tmp_path: Path, front: Disturber) -> None:
    made = Images(tmp_path / "images")
    for number in range(6):
        made.name(made.index(made.image("amd64", os.urandom(1_000_000))), f"image{number}:1")
    front.slow = 0.01
    command = [
        sys.executable,
        "-m",
        "invoke",
        "push",
        "--registry",
        front.address,
        "--from",
        str(tmp_path),
        "--jobs",
        "1",
    ]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while front.count("PUT .*digest=") < 3 and running.poll() is None:
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    front.slow = 0
    front.settle()
    before = front.count("PUT .*digest=")
    assert front.count("PUT .*/manifests/") == 0
    front.asked.clear()
    result = pushed(tmp_path, front.address)
    assert result.sent <= result.blobs - before + 1  # the answer of the last may not have arrived
    assert front.sent() == result.bytes
    assert arrived(tmp_path, front.address)


# --- the command


def test_the_command_prints_what_it_did(folder: Path, front: Disturber) -> None:
    def inv(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "invoke", "push", "--registry", front.address, "--from", str(folder)]
        return subprocess.run([*command, *arguments], cwd=REPO, capture_output=True, text=True, check=False)

    done = inv("--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {i["name"].partition("/")[2]: i["digest"] for i in found["images"]} == digests(folder)
    done = inv()
    assert f"as before  {front.address}/rfolabs/etcd:v1-rfor1@{digests(folder)['rfolabs/etcd:v1-rfor1']}" in done.stderr
    assert "4 names, 0 attached; 0 of 16 blobs sent (0 B), 0 mounted; 0 manifests written" in done.stderr


@pytest.mark.parametrize(
    ("registry", "match"),
    [
        ("https://registry.example", "without scheme"),
        ("me:secret@registry.example", "without scheme and credentials"),
        ("registry.example/UPPER", "expected a registry as HOST"),
        ("registry.example/a//b", "expected a registry as HOST"),
        ("registry.example/../x", "expected a registry as HOST"),
        ("-x", "expected a registry as HOST"),
    ],
)
def test_what_is_no_registry_is_refused(folder: Path, registry: str, match: str) -> None:
    with pytest.raises(UsageError, match=match) as error:
        pushed(folder, registry)
    assert "secret" not in error.value.render()


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(PipelineError, match="holds no images"):
            pushed(folder, "127.0.0.1:1")
    Images(tmp_path / "images")
    with pytest.raises(UsageError, match="names no image"):
        pushed(tmp_path, "127.0.0.1:1")
