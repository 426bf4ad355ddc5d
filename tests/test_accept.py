"""`inv verify`: what rfo-verify checks, links and layout besides, from a folder and from a URL."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from engine import REPO
from trusted import STATEMENT, Trusted, copied, files, promoted

from pipeline.accept import Asked, accept, parse_options
from pipeline.attest.places import LINKS
from pipeline.errors import NetworkError, TrustError, UsageError
from pipeline.report.progress import Progress
from pipeline.verifier.report import ACCEPTED, REFUSED, STALE, Report
from pipeline.verifier.verify import Options


@pytest.fixture
def made(good: Trusted, tmp_path: Path) -> Trusted:
    return copied(good, tmp_path)


def judged(made: Trusted, release: str = "", **options: Any) -> Report:
    asked = Asked(release or str(made.dist), made.root, Options(**options))
    return accept(asked, Progress(stream=StringIO()))


def reasons(report: Report) -> list[str]:
    return [str(r) for r in report.reasons]


def test_a_release_is_accepted(made: Trusted) -> None:
    report = judged(made)
    assert (report.exit_code, reasons(report)) == (ACCEPTED, [])
    assert report.development
    assert {(len(r.builders), len(r.rebuilders)) for r in report.rows if r.item.kind == "tarball"} == {(1, 1)}


def test_one_flipped_byte_in_any_file_is_refused_by_name(made: Trusted) -> None:
    for path in files(made.dist):
        file = made.dist / path
        data = file.read_bytes()
        place = len(data) * 2 // 3
        file.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        report = judged(made)
        assert report.exit_code == REFUSED, path
        assert any(path in f"{r.subject} {r.reason}" for r in report.reasons), (path, reasons(report))
        file.write_bytes(data)
    assert judged(made).exit_code == ACCEPTED


def test_links_are_judged_though_the_release_role_signed_them(made: Trusted) -> None:
    """rfo-verify leaves links to the release statement; here they have to be right as well."""
    path = f"{LINKS}/pack.release.{made.keyid8('rebuilder')}.link"
    (made.dist / path).unlink()
    made.seal()
    made.publish()
    report = judged(made)
    assert reasons(report) == [f"{path}: is missing: too few did this step"]
    assert report.exit_code == REFUSED


def test_a_layout_that_the_release_key_made_laxer(made: Trusted) -> None:
    from pipeline.attest.layout import make_layout, read_compiled, sign_layout
    from pipeline.publish.published import read_published

    compiled = read_compiled(made.layout_target())
    laxer = compiled.model_copy(
        update={
            "steps": compiled.steps.model_copy(update={"pack": compiled.steps.pack.model_copy(update={"threshold": 1})})
        }
    )
    from datetime import UTC, datetime, timedelta

    layout = make_layout(laxer, read_published(made.dist).manifest, datetime.now(UTC) + timedelta(days=9))
    made.write("provenance/layout.json", sign_layout(layout, made.signing("release")))
    made.seal()
    made.publish()
    assert reasons(judged(made)) == [
        "provenance/layout.json: is not what the trust root's layout.json and release.json make of it"
    ]


def test_what_has_expired_has_its_own_exit_code(tmp_path: Path) -> None:
    made = promoted(tmp_path, days=-2)
    report = judged(made)
    assert (report.exit_code, reasons(report)) == (STALE, [])
    layout = [line for line in report.stale if line.startswith("provenance/layout.json: expired 2 days ago")]
    assert len(layout) == 1
    assert len(report.stale) > 1
    assert judged(made, allow_stale=True).exit_code == ACCEPTED


def test_another_root_than_the_releases(made: Trusted, tmp_path: Path) -> None:
    other = promoted(tmp_path / "other")
    report = accept(Asked(str(made.dist), other.root), Progress(stream=StringIO()))
    assert report.exit_code == REFUSED


# --- what is no release


def test_a_candidate_is_told_what_to_do_next(made: Trusted) -> None:
    (made.dist / STATEMENT).unlink()
    with pytest.raises(TrustError, match="is a candidate and no release: it was made again, and not promoted") as found:
        judged(made)
    assert found.value.hint == f"./inv promote --from {made.dist}"
    (made.dist / f"provenance/rebuilder-{made.keyid8('rebuilder')}/rebuild.sigstore.json").unlink()
    with pytest.raises(TrustError, match="not made again by anybody") as found:
        judged(made)
    assert found.value.hint == f"./inv rebuild --from {made.dist}"


def test_a_folder_without_a_release(made: Trusted, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no release"):
        judged(made, str(tmp_path))


def test_a_host_without_a_trust_root(made: Trusted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFO_TRUST", str(tmp_path / "none"))
    with pytest.raises(TrustError, match="holds no trust root"):
        accept(Asked(str(made.dist)), Progress(stream=StringIO()))


def test_the_root_of_this_host_is_used(made: Trusted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFO_TRUST", str(made.repository))
    assert accept(Asked(str(made.dist)), Progress(stream=StringIO())).exit_code == ACCEPTED


def test_options_that_cannot_be(made: Trusted) -> None:
    with pytest.raises(UsageError, match="do not go together"):
        parse_options("2026-01-01", "", (), stale=True, yanked=False)
    with pytest.raises(UsageError, match="malformed time"):
        parse_options("tomorrow", "", (), stale=False, yanked=False)
    with pytest.raises(UsageError, match="is not the version of a release"):
        parse_options("", "1.25", (), stale=False, yanked=False)


# --- from a URL


class Quiet(SimpleHTTPRequestHandler):
    """A web server as people have it."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url(made: Trusted) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(made.dist)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_release_at_a_url(made: Trusted, url: str) -> None:
    report = judged(made, url)
    assert reasons(report) == []
    assert report.files == judged(made).files


def test_a_file_that_the_server_has_not(made: Trusted, url: str) -> None:
    (made.dist / "NOTES.md").unlink()
    report = judged(made, url)
    assert report.exit_code == REFUSED
    assert any(r.startswith("NOTES.md: is missing") for r in reasons(report))


def test_a_file_that_the_server_changed(made: Trusted, url: str) -> None:
    from pipeline.errors import SourceError

    (made.dist / "NOTES.md").write_bytes(b"# other\n")
    with pytest.raises(SourceError, match=r"NOTES\.md"):
        judged(made, url)


def test_a_file_that_is_larger_than_was_signed(made: Trusted, url: str) -> None:
    from pipeline.errors import SourceError

    with (made.dist / "NOTES.md").open("ab") as file:
        file.truncate(64 << 20)
    with pytest.raises(SourceError, match="larger than"):
        judged(made, url)


def test_a_candidate_at_a_url(made: Trusted, url: str) -> None:
    (made.dist / STATEMENT).unlink()
    with pytest.raises(TrustError, match="has no release statement"):
        judged(made, url)


def test_a_server_that_is_not_there(made: Trusted) -> None:
    with pytest.raises(NetworkError):
        judged(made, "http://127.0.0.1:9")


# --- the command


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    run = [sys.executable, "-m", "invoke", "verify", *arguments]
    return subprocess.run(run, capture_output=True, text=True, check=False, cwd=REPO, timeout=900)


def test_the_command_says_everything(made: Trusted) -> None:
    accepted = command("--release", str(made.dist), "--root", str(made.root))
    assert accepted.returncode == 0, accepted.stderr
    assert "rfo.linux-amd64.tar.gz" in accepted.stdout
    assert "DEVELOPMENT" in accepted.stdout
    assert accepted.stdout.splitlines()[-1] == "accepted: v1.0.0+rfor1 (policy development)"
    with (made.dist / "NOTES.md").open("ab") as file:
        file.write(b"!")
    refused = command("--release", str(made.dist), "--root", str(made.root))
    assert refused.returncode == REFUSED
    line, expected, found = refused.stderr.splitlines()[:3]
    assert line.startswith("refused: NOTES.md: ")
    assert expected.startswith("  expected sha256:")
    assert found.startswith("  found    sha256:")


def test_the_command_as_json(made: Trusted) -> None:
    said = json.loads(command("--release", str(made.dist), "--root", str(made.root), "--json").stdout)
    assert (said["accepted"], said["exit"], said["development"]) == (True, 0, True)
