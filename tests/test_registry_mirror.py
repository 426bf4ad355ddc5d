"""Mirror between registries and folders, with what is attached: by the referrers API, its fallback, and older tags."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from registry_server import Disturber, Fault, Images, disturbed
from tools import tool

from pipeline.errors import NetworkError, SourceError, UsageError
from pipeline.registry import remote
from pipeline.registry.share import Asked, mirror, push
from pipeline.registry.transfer import Result
from pipeline.report.progress import Progress

REPO = Path(__file__).parent.parent
SIGNATURE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SBOM = "application/spdx+json"

pytestmark = pytest.mark.usefixtures("alone")


class Signed:
    """A release with one image, signed in new and old form, its platform manifest too, and with a signed SBOM."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = made = Images(folder / "images")
        self.platform = made.image("amd64", os.urandom(1000), b"file")
        self.index = made.index(self.platform, made.image("arm64", b"file"))
        made.name(self.index, "pause:v1", "pause:v1_1")
        self.sbom = made.artifact(SBOM, b"{}", self.index)
        self.attached = {
            made.artifact(SIGNATURE, b"of index", self.index)["digest"]: self.index["digest"],
            made.artifact(SIGNATURE, b"of platform", self.platform)["digest"]: self.platform["digest"],
            made.artifact(SIGNATURE, b"of sbom", self.sbom)["digest"]: self.sbom["digest"],
            self.sbom["digest"]: self.index["digest"],
        }
        for digest in self.attached:
            path = made.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")
            made.list({"mediaType": self.sbom["mediaType"], "digest": digest, "size": path.stat().st_size})
        self.old = made.image("", b"an old signature")
        made.name(self.old, f"pause:{self.index['digest'].replace(':', '-')}.sig")


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    return Signed(tmp_path / "dist")


def mirrored(origin: object, goal: object, *images: str, release: Path | None = None, **options: Any) -> Result:
    progress = Progress(stream=StringIO())
    return mirror(str(origin), str(goal), Asked(**options), progress, release=release, images=list(images))


def oras(*arguments: object) -> str:
    return subprocess.run(
        [tool("oras"), *map(str, arguments)], capture_output=True, text=True, check=True
    ).stdout.strip()


def discovered(place: str, *options: str) -> dict[str, str]:
    """What oras finds attached to a manifest, and below: digest to the digest it is attached to."""
    found = {}
    for entry in json.loads(oras("discover", "--format", "json", *options, place)).get("referrers") or ():
        digest = entry["digest"]
        found[digest] = place.rpartition("@")[2]
        found |= discovered(place.rpartition("@")[0] + "@" + digest, *options)
    return found


def complete(signed: Signed, place: str, *options: str) -> bool:
    """Whether all that is attached is found there by oras; `place` is the repository."""
    found = {
        **discovered(f"{place}@{signed.index['digest']}", *options),
        **discovered(f"{place}@{signed.platform['digest']}", *options),
    }
    return found == signed.attached


def names(folder: Path) -> dict[str, str]:
    entries = json.loads((folder / "index.json").read_bytes())["manifests"]
    return {
        e["annotations"]["io.containerd.image.name"]: e["digest"]
        for e in entries
        if "io.containerd.image.name" in e.get("annotations", {})
    }


def blobs_of(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "blobs" / "sha256"))


# --- every direction


def test_a_folder_goes_to_a_registry_with_the_referrers_api(signed: Signed, modern: str) -> None:
    result = mirrored(signed.folder, f"{modern}/mirror")
    assert result.attached == 5
    assert complete(signed, f"{modern}/mirror/rfolabs/pause", "--plain-http")
    tags = oras("repo", "tags", "--plain-http", f"{modern}/mirror/rfolabs/pause").split()
    assert sorted(tags) == sorted(["v1", "v1_1", f"{signed.index['digest'].replace(':', '-')}.sig"])


def test_a_folder_goes_to_a_registry_without_it_under_the_fallback_tag(signed: Signed, plain: str) -> None:
    mirrored(signed.folder, plain)
    assert complete(signed, f"{plain}/rfolabs/pause", "--plain-http")
    tags = set(oras("repo", "tags", "--plain-http", f"{plain}/rfolabs/pause").split())
    fallback = {subject.replace(":", "-") for subject in signed.attached.values()}
    assert tags == {"v1", "v1_1", f"{signed.index['digest'].replace(':', '-')}.sig", *fallback}
    again = mirrored(signed.folder, plain)
    assert (again.sent, again.manifests) == (0, 0)


def test_a_push_takes_what_is_attached_along(signed: Signed, plain: str) -> None:
    assert push(signed.folder, plain, Asked(), Progress(stream=StringIO())).attached == 5
    assert complete(signed, f"{plain}/rfolabs/pause", "--plain-http")


def test_what_others_attached_under_the_fallback_tag_stays(signed: Signed, plain: str, tmp_path: Path) -> None:
    mirrored(signed.folder, plain)
    (tmp_path / "note").write_text("theirs")
    subject = f"{plain}/rfolabs/pause@{signed.index['digest']}"
    oras(
        "attach",
        "--plain-http",
        "--artifact-type",
        "example/note",
        "--disable-path-validation",
        subject,
        tmp_path / "note",
    )
    theirs = set(discovered(subject, "--plain-http")) - set(signed.attached)
    assert len(theirs) == 1
    new = signed.images.artifact(SIGNATURE, b"another", signed.index)
    signed.images.list(new)
    mirrored(signed.folder, plain)
    assert set(discovered(subject, "--plain-http")) >= theirs | {new["digest"]}


@pytest.mark.parametrize("kind", ["plain", "modern"])
def test_a_registry_goes_to_a_folder_that_oras_understands(
    signed: Signed, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    registry = request.getfixturevalue(kind)
    mirrored(signed.folder, f"{registry}/a")
    mirrored(f"{registry}/a", tmp_path / "copy", "pause:v1", "rfolabs/pause:v1_1")
    assert names(tmp_path / "copy") == names(signed.folder / "images")
    assert complete(signed, f"{tmp_path}/copy", "--oci-layout")
    assert blobs_of(tmp_path / "copy") == blobs_of(signed.folder / "images")
    before = (tmp_path / "copy" / "index.json").read_bytes()
    assert mirrored(f"{registry}/a", tmp_path / "copy", "pause:v1", "pause:v1_1").sent == 0
    assert (tmp_path / "copy" / "index.json").read_bytes() == before


def test_registry_to_registry_and_back_changes_no_digest(
    signed: Signed, plain: str, modern: str, tmp_path: Path
) -> None:
    mirrored(signed.folder, plain)
    mirrored(plain, f"{modern}/b", release=signed.folder)
    assert complete(signed, f"{modern}/b/rfolabs/pause", "--plain-http")
    mirrored(f"{modern}/b", f"{plain}/c", release=signed.folder)
    assert complete(signed, f"{plain}/c/rfolabs/pause", "--plain-http")
    mirrored(f"{plain}/c", tmp_path / "copy", release=signed.folder)
    mirrored(tmp_path / "copy", tmp_path / "other")
    for folder in (tmp_path / "copy", tmp_path / "other"):
        assert names(folder) == names(signed.folder / "images")
        assert complete(signed, str(folder), "--oci-layout")


def test_what_oras_copied_can_be_copied_on(signed: Signed, plain: str, modern: str, tmp_path: Path) -> None:
    mirrored(signed.folder, plain)
    source = f"{plain}/rfolabs/pause:v1"
    oras("cp", "-r", "--from-plain-http", "--to-plain-http", source, f"{modern}/x/rfolabs/pause:v1")
    mirrored(f"{modern}/x", tmp_path / "copy", "pause:v1")
    found = discovered(f"{tmp_path}/copy@{signed.index['digest']}", "--oci-layout")
    assert found == {d: s for d, s in signed.attached.items() if s != signed.platform["digest"]} or complete(
        signed, f"{tmp_path}/copy", "--oci-layout"
    )


def test_a_folder_keeps_what_it_has(signed: Signed, tmp_path: Path) -> None:
    other = Images(tmp_path / "copy")
    other.name(other.index(other.image("amd64", b"other")), "other:1", "pause:v1")
    result = mirrored(signed.folder, tmp_path / "copy")
    assert set(names(tmp_path / "copy")) == {"docker.io/rfolabs/other:1", *names(signed.folder / "images")}
    assert names(tmp_path / "copy")["docker.io/rfolabs/pause:v1"] == signed.index["digest"]
    assert [str(i.before) for i in result.images if i.before] == [other.entries[1]["digest"]]


def test_a_dry_run_makes_no_folder(signed: Signed, tmp_path: Path) -> None:
    result = mirrored(signed.folder, tmp_path / "copy", dry_run=True)
    assert not (tmp_path / "copy").exists()
    assert result == mirrored(signed.folder, tmp_path / "copy")


# --- bad input


def test_an_image_that_is_not_the_releases_is_refused(signed: Signed, plain: str, tmp_path: Path) -> None:
    mirrored(signed.folder, plain)
    oras("tag", "--plain-http", f"{plain}/rfolabs/pause@{signed.platform['digest']}", "v1")
    with pytest.raises(
        SourceError, match=r"pause:v1 is not the release's:\n  expected sha256.*\n  found    sha256"
    ) as error:
        mirrored(plain, tmp_path / "copy", release=signed.folder)
    assert signed.platform["digest"] in error.value.reason
    assert not (tmp_path / "copy" / "index.json").exists()


def test_names_are_needed_and_have_to_exist(signed: Signed, plain: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which images of"):
        mirrored(plain, tmp_path / "copy")
    with pytest.raises(SourceError, match=f"{plain}/rfolabs/pause:v1 does not exist"):
        mirrored(plain, tmp_path / "copy", "pause:v1")
    with pytest.raises(UsageError, match="--image 'pause'"):
        mirrored(plain, tmp_path / "copy", "pause")
    with pytest.raises(UsageError, match="--from and --to are both"):
        mirrored(signed.folder, signed.folder)


def test_a_folder_of_something_else_is_no_place_to_write_to(signed: Signed, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    with pytest.raises(UsageError, match="holds no images"):
        mirrored(signed.folder, tmp_path / "home")
    assert os.listdir(tmp_path / "home") == ["letter"]


def test_two_runs_do_not_write_to_one_folder(signed: Signed, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "copy").mkdir()
    descriptor = os.open(tmp_path / "copy", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another run writes to"):
            mirrored(signed.folder, tmp_path / "copy")
    finally:
        os.close(descriptor)


def test_a_download_that_breaks_goes_on_and_a_killed_run_too(
    signed: Signed, stack: ExitStack, plain: str, tmp_path: Path
) -> None:
    big = signed.images.image("amd64", os.urandom(3_000_000))
    signed.images.name(signed.images.index(big), "big:1")
    mirrored(signed.folder, plain)
    front = stack.enter_context(disturbed(plain))
    layer = json.loads(signed.images.blob(big).read_bytes())["layers"][0]["digest"]
    front.faults = [Fault(f"GET .*{layer}", cut_after=1_000_000), Fault(f"GET .*{layer}", cut_after=1_000_000)]
    mirrored(front.address, tmp_path / "copy", "big:1")
    assert front.count(f"GET .*{layer}") == 3
    # what a killed run leaves: a part, and no index.json
    blobs = tmp_path / "half" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    data = signed.images.blob({"digest": layer}).read_bytes()
    (blobs / f".{layer[7:]}.part").write_bytes(data[:2_000_000])
    mirrored(front.address, tmp_path / "half", "big:1")
    assert blobs_of(tmp_path / "half") == blobs_of(tmp_path / "copy")
    # a part of something else
    (blobs / layer[7:]).unlink()
    (blobs / f".{layer[7:]}.part").write_bytes(b"x" * 2_000_000)
    mirrored(front.address, tmp_path / "half", "big:1")
    assert (blobs / layer[7:]).read_bytes() == data


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        (Fault("GET .*/blobs/", times=99, body=b"x" * 20), "other bytes under this digest: found sha256:"),
        (
            Fault("GET .*/blobs/", times=99, body=b"x" * 1_000_000),
            "other bytes under this digest|more than the [0-9]+ bytes",
        ),
        (Fault("GET .*/blobs/", times=99, body=b""), "other bytes under this digest: found sha256:"),
        (Fault("GET .*/manifests/v1", body=b"x" * (5 << 20)), "larger than 4194304 bytes"),
        (Fault("GET .*/manifests/v1", body=b"{}", headers={"Content-Type": "application/json"}), "is no manifest"),
        (Fault("GET .*/manifests/sha256:", status=404), "which another manifest names"),
        (Fault("GET .*/blobs/", times=99, status=404), "answered 404"),
    ],
    ids=range(7),
)
def test_a_registry_that_serves_other_bytes_is_refused(
    signed: Signed, stack: ExitStack, plain: str, tmp_path: Path, fault: Fault, match: str
) -> None:
    mirrored(signed.folder, plain)
    front: Disturber = stack.enter_context(disturbed(plain))
    front.faults = [Fault(**vars(fault))]
    with pytest.raises((SourceError, NetworkError), match=match):
        mirrored(front.address, tmp_path / "copy", "pause:v1")
    assert not (tmp_path / "copy" / "index.json").exists()
    front.faults.clear()
    mirrored(front.address, tmp_path / "copy", "pause:v1", "pause:v1_1")
    assert names(tmp_path / "copy") == names(signed.folder / "images")
    assert blobs_of(tmp_path / "copy") == blobs_of(signed.folder / "images")


def test_referrers_may_come_in_pages_but_not_without_end(
    signed: Signed, stack: ExitStack, modern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored(signed.folder, modern)
    front = stack.enter_context(disturbed(modern))
    page = f"/v2/rfolabs/pause/referrers/{signed.platform['digest']}"
    front.faults = [Fault(f"GET {page}", headers={"Link": f'<{page}?n=2>; rel="next"'})]
    mirrored(front.address, tmp_path / "copy", "pause:v1")
    assert front.count(f"GET {page}") == 2
    monkeypatch.setattr(remote, "MAX_PAGES", 3)
    front.faults = [Fault(f"GET {page}", times=99, headers={"Link": f'<{page}?n=2>; rel="next"'})]
    with pytest.raises(SourceError, match="listed in over 3 parts"):
        mirrored(front.address, tmp_path / "other", "pause:v1")


def test_what_is_listed_as_attached_has_to_say_so_itself(signed: Signed, plain: str, tmp_path: Path) -> None:
    liar = signed.images.index(signed.old)
    signed.images.name(liar, f"pause:{signed.index['digest'].replace(':', '-')}")
    with pytest.raises(SourceError, match=r"is listed as attached to .* belongs to nothing"):
        mirrored(signed.folder, plain)


def test_the_command_names_what_it_copied(signed: Signed, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "invoke", "mirror", "--from", str(signed.folder), "--to", str(tmp_path / "copy")]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"new        {tmp_path}/copy:rfolabs/pause:v1@{signed.index['digest']}" in done.stderr
    assert "2 names, 5 attached" in done.stderr
    done = subprocess.run(command[:-2], cwd=REPO, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "usage: --to is missing\n  -> ./inv mirror --from SRC --to DST\n")
