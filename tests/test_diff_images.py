"""`inv diff` of releases with images, charts and bundles, and the comparer on what they consist of."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import traced
from engine import BASE, SMALL, fails
from test_diff import printed, put
from traced import DIST

from pipeline.errors import SourceError
from pipeline.trace.diff import ReleaseDiff, diff_releases, to_json
from pipeline.trace.facts import read_side


@pytest.fixture(scope="module")
def two() -> tuple[Path, Path]:
    """Folders of two releases."""
    return traced.made() / DIST, traced.made(changed=True) / DIST


def diff(before: Path, after: Path, *, look_inside: bool = False) -> ReleaseDiff:
    return diff_releases(str(before), str(after), traced.made(), look_inside=look_inside)


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "release.json").read_bytes())
    return found


def test_images_are_told_by_their_layers(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = diff(*two)
    images = found.sections["images"]
    assert list(images.added) == ["more linux/amd64", "more linux/riscv64"]
    assert list(images.removed) == ["empty linux/amd64", "empty linux/riscv64"]
    old, new = images.changed["plain linux/amd64"]["layers"]
    assert list(old) == list(new) == ["minimal", "plain.hello"]
    assert old["minimal"] == new["minimal"] and old["plain.hello"] != new["plain.hello"]
    out = printed(found, capsys)
    assert "images: 0 of 4 are identical, 2 added, 2 removed\n" in out
    assert "  ~ plain (amd64)    layers plain.hello; " in out
    assert "  ~ node (amd64)     layers node.hello, node.charts; " in out
    assert "charts: 0 of 1 is identical\n  ~ demo  other content, same version\n" in out
    assert "bundles: 0 of 6 are identical\n" in out and "  ~ rfo-images-core.linux-amd64.tar.zst  " in out
    assert "images/blobs" not in out, "blobs are told as images"
    assert json.loads(json.dumps(to_json(found))) == json.loads(printed(found, capsys, as_json=True))


def test_what_is_shipped_again_is_counted_by_digest(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = diff(*two)
    old, new = ({a["digest"]: a["size"] for a in manifest(f)["artifacts"]} for f in two)
    both = {d: s for d, s in new.items() if d in old}
    assert found.again
    assert (found.again.files, found.again.size) == (len(both), sum(both.values()))
    assert (found.again.all_files, found.again.all_size) == (len(new), sum(new.values()))
    assert 0 < found.again.files < found.again.all_files
    assert f"shipped again: {len(both)} of {len(new)} files are in both, by digest: " in printed(found, capsys)
    same = diff(two[0], two[0]).again
    assert same and same.files == same.all_files


def test_changed_packages_of_a_layer_are_told(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(two[0], tmp_path / "other")
    lines = []
    for line in (other / f"{BASE}.lock").read_text().splitlines():
        words = line.split(" ")
        if words[:2] == ["package", "minimal"] and words[3] == "tzdata":
            words[4] = "2099a-1"
        lines.append(" ".join(words))
    put(other, f"{BASE}.lock", ("\n".join(lines) + "\n").encode())
    found = diff(two[0], other).sections["images"].changed["plain linux/amd64"]
    assert set(found) == {"packages"}
    assert found["packages"][1]["tzdata"] == "2099a-1"
    out = printed(diff(two[0], other), capsys)
    assert f"  ~ plain (amd64, riscv64)  packages tzdata {found['packages'][0]['tzdata']} -> 2099a-1\n" in out


def test_layers_and_charts_are_looked_into(two: tuple[Path, Path]) -> None:
    files = diff(*two, look_inside=True).files
    assert files
    layer = files["plain linux/amd64: layer plain.hello"]
    assert layer[0].member == ("uncompressed", "usr/local/bin/hello") and layer[0].section == "ELF header"
    assert {d.section for d in files["plain linux/amd64: config"]} == {"/rootfs/diff_ids/1"}
    assert files["charts/demo"][0].member == ("uncompressed", "demo/values.yaml")
    assert "plain linux/amd64: layer minimal" not in files
    assert not [name for name in files if name.endswith(".zst") or name.startswith("images/blobs")]


def test_a_release_that_was_not_made_is_known_by_the_names_of_its_images(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    checkout = shutil.copytree(traced.made(changed=True), tmp_path / "checkout")
    shutil.rmtree(checkout / "dist")
    found = diff_releases(str(two[0]), SMALL, checkout, look_inside=False)
    images = found.sections["images"]
    assert {n for n in images.added if not n.endswith("arm64")} == {"more linux/amd64", "more linux/riscv64"}
    assert not images.changed and found.again is None
    assert found.sections["charts"].same == 1
    side = read_side(SMALL, traced_definitions(checkout))
    assert side.sections["images"]["plain linux/arm64"]["references"][1] == "docker.io/rfolabs/other:v1.0.0_rfor1"


def traced_definitions(checkout: Path) -> Any:
    from pipeline.definitions import Definitions

    return Definitions(checkout)


@pytest.mark.parametrize("name", ["manifest", "layout"])
def test_a_damaged_layout_is_an_error(two: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    other = shutil.copytree(two[0], tmp_path / "other")
    path = other / "images/index.json"
    if name == "manifest":
        digest = manifest(other)["images"][0]["platforms"]["linux/amd64"]
        path = other / "images/blobs/sha256" / digest.removeprefix("sha256:")
    path.write_bytes(path.read_bytes() + b" ")
    error = fails(lambda: diff(two[0], other))
    assert isinstance(error, SourceError)
    assert "is not what its release.json names" in error.reason
