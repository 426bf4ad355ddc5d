"""A release from its definition to its users, by the engine itself: made, made again, promoted, judged, altered."""

import shutil
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from engine import environment, fails, shared_store

from images import add_chart, add_node, image_checkout, made
from pipeline.accept import judge
from pipeline.attest.root import newest_root, trust_folder
from pipeline.errors import TrustError
from pipeline.promote import promote
from pipeline.rebuild import Asked, rebuild
from pipeline.report.progress import Progress
from pipeline.verifier.report import ACCEPTED
from pipeline.verifier.verify import Options


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A promoted release with images, a chart and packages, on a trust root that the first run made."""
    context = made(add_node(add_chart(image_checkout(tmp_path_factory.mktemp("chain")))))
    early = fails(lambda: promote(context.dist, Progress(stream=StringIO())))
    assert isinstance(early, TrustError) and "./inv rebuild --from" in early.hint
    with environment(RFO_STORE=str(shared_store().root)):
        proof = rebuild(Asked(context.dist), Progress(stream=StringIO()), context.checkout)
    assert not proof.failed
    assert {"package", "repository"} <= {j.kind for j in proof.judged}
    done = promote(context.dist, Progress(stream=StringIO()))
    assert done.development and "provenance/release/release.sigstore.json" in done.written
    return context.dist


def test_what_was_promoted_is_accepted(released: Path) -> None:
    report = judge(released, newest_root(trust_folder()), Options())
    assert report.exit_code == ACCEPTED, report.reasons
    assert all(
        row.builders and row.rebuilders
        for row in report.rows
        if row.item.kind in ("binary", "image", "chart", "bundle", "tarball", "rpm")
    )


def test_the_verifier_that_it_ships_accepts_it_too(released: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--net", "python3", released / "rfo-verify", "--release", released, "--state", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DEVELOPMENT" in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("accepted: v1.0.0+rfor1")


@pytest.mark.full  # a minute: test_accept.py does the same with a release that the tests sign
def test_every_flipped_byte_is_refused_and_named(released: Path, tmp_path: Path) -> None:
    folder = tmp_path / released.name
    shutil.copytree(released, folder)
    root = newest_root(trust_folder())
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert {"release.json", "images/index.json", "rfo-verify", "trust/metadata/timestamp.json"} <= set(names)
    for name in names:
        path = folder / name
        good = path.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        path.write_bytes(bad)
        report = judge(folder, root, Options())
        assert report.exit_code != ACCEPTED, name
        assert any(name in str(reason) for reason in report.reasons), (name, report.reasons)
        path.write_bytes(good)
    assert judge(folder, root, Options()).exit_code == ACCEPTED
