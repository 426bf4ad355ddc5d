"""From a file back to every pin: what is told is what ran, and what cannot be told is said."""

import gzip
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine import BASE, GO, HELLO, HOST, REPO, SMALL, fails, lock_small, run, shared_store, toolchain, write_checkout

from pipeline.errors import SourceError, UsageError
from pipeline.model import Digest
from pipeline.pack.members import read_members
from pipeline.report.chain import render_chain
from pipeline.store import remove_tree
from pipeline.trace.explain import explain

TARBALL = f"rfo.linux-{HOST}.tar.gz"
DIST = f"dist/{SMALL}"
LOCKED = f"releases/{SMALL}/sources.lock"


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A checkout with a finished release of a program `rfo` for this machine."""
    folder = Path(tempfile.mkdtemp(prefix="rfo-test-"))
    definition = {
        "name": "rfo",
        "license": "Apache-2.0",
        "source": {"tree": "components/rfo/src"},
        "build": [{"binaries": {"rfo": "."}, "stamp": {"main.version": "{release}"}}],
        "smoke": {"rfo": {"args": [], "prints": "hello {release}"}},
    }
    files = {
        "components/rfo/src/main.go": HELLO,
        "components/rfo/src/go.mod": "module example.org/rfo\n\ngo 1.20\n",
        "install/bin/rfo-killall.sh": "#!/bin/sh\n",
    }
    write_checkout(folder, {"rfo": definition}, files, {"rfo": {}}, lock=False)
    path = folder / "releases" / SMALL / "release.yaml"
    release = yaml.safe_load(path.read_text())
    release["deviations"] = [{"component": "rfo", "what": "it says hello", "why": "a test"}, {"what": "a", "why": "b"}]
    path.write_text(yaml.safe_dump(release, sort_keys=False))
    lock_small(folder)
    run(folder, arches=(HOST,))
    yield folder
    remove_tree(folder)


@pytest.fixture
def checkout(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return shutil.copytree(made, tmp_path / "checkout")


@pytest.fixture(autouse=True)
def empty_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Whatever is explained here needs no store, and makes none."""
    monkeypatch.setenv("RFO_STORE", str(tmp_path / "none"))
    yield
    assert not (tmp_path / "none").exists()


def manifest(checkout: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkout / DIST / "release.json").read_bytes())
    return found


def program(checkout: Path) -> str:
    """The digest of the program."""
    return next(str(b["digest"]) for b in manifest(checkout)["binaries"])


def test_the_base_of_small_checkouts_is_the_definitions() -> None:
    assert "@" not in DIST, BASE


def test_a_tarball_is_explained_by_the_actions_that_made_it(made: Path) -> None:
    facts = explain(str(made / DIST / TARBALL), made)
    assert facts["checkout"] == {"differs": {}, "reason": ""}
    assert facts["made_by"] == f"tarball/{HOST}"
    assert sorted(facts["actions"]) == [f"build/rfo/{HOST}", f"check/rfo/{HOST}", "notices/rfo", f"tarball/{HOST}"]
    rfo = facts["actions"][f"tarball/{HOST}"]["inputs"]["rfo"]
    assert rfo == {"action": f"build/rfo/{HOST}", "output": "rfo", "digest": program(made)}


def test_what_is_told_is_what_ran(made: Path) -> None:
    step = explain(f"rfo@{HOST}", made)["actions"][f"build/rfo/{HOST}"]
    record = shared_store().record(Digest.parse(step["key"]))
    assert record is not None
    assert str(record.outputs["rfo"].digest) == program(made)
    ran = record.parts["parameters"]
    assert {k: v for k, v in ran.items() if k != "sources"} == step["parameters"]


@pytest.mark.parametrize("form", ["{dist}/{tarball}:bin/rfo", "{tarball}:./bin/rfo", "{digest}", "rfo@{arch}"])
def test_a_program_is_found_by_every_form(made: Path, form: str) -> None:
    text = form.format(dist=made / DIST, tarball=TARBALL, digest=program(made), arch=HOST)
    facts = explain(text, made)
    assert facts["file"]["digest"] == program(made)
    assert facts["made_by"] == f"build/rfo/{HOST}"


def test_an_installed_file_is_found_by_its_bytes(made: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xzf", made / DIST / TARBALL, "-C", tmp_path], check=True)
    installed = tmp_path / "called-otherwise"
    (tmp_path / "bin" / "rfo").rename(installed)
    facts = explain(str(installed), made)
    assert (facts["made_by"], facts["file"]["read"]) == (f"build/rfo/{HOST}", str(installed))
    script = explain(str(tmp_path / "bin" / "rfo-killall.sh"), made)["file"]
    assert (script["archive"], script["name"]) == (TARBALL, "bin/rfo-killall.sh")
    assert script["from"]["path"] == "install/bin/rfo-killall.sh"
    assert script["from"]["same"]


def test_notices_come_from_the_step_that_writes_them(made: Path) -> None:
    facts = explain(f"{TARBALL}:share/rfo/THIRD-PARTY-NOTICES.txt", made)
    assert facts["made_by"] == "notices/rfo"
    assert facts["file"]["packed_by"] == f"tarball/{HOST}"


def test_every_pin_is_told_with_its_place(made: Path) -> None:
    facts = explain(f"rfo@{HOST}", made)
    unit = facts["units"]["rfo"]
    pinned = toolchain()
    assert (unit["toolchain"]["sum"], unit["go"]) == (pinned.sum, GO)
    assert line_at(made, unit["toolchain"]["at"]) == pinned.line()
    assert line_at(made, unit["chosen"]).strip().startswith("rfo:")
    root = facts["roots"][facts["actions"][f"build/rfo/{HOST}"]["parameters"]["root"]]
    assert len(root["packages"]) > 10
    for package in root["packages"]:
        line = line_at(made, package["at"])
        assert line.startswith(f"package builder {HOST} {package['name']} {package['version']} ")
        assert line.endswith(package["digest"])


def line_at(checkout: Path, place: str) -> str:
    """The line that `FILE:LINE` names."""
    name, _, number = place.rpartition(":")
    return (checkout / name).read_text().splitlines()[int(number) - 1]


def test_deviations_stand_where_they_are_written(made: Path) -> None:
    own, general = explain(f"rfo@{HOST}", made)["deviations"]
    assert (own["component"], own["what"], own["why"]) == ("rfo", "it says hello", "a test")
    assert "what: it says hello" in line_at(made, own["at"])
    assert general["component"] is None


def test_people_get_counts_and_in_full_every_pin(made: Path) -> None:
    facts = explain(f"rfo@{HOST}", made)
    brief, full = render_chain(facts, full=False), render_chain(facts, full=True)
    assert "└─ " in brief
    assert f"build/rfo/{HOST}  key sha256:" in brief
    assert "made from the inputs that this checkout has" in brief
    packages = [p["digest"] for r in facts["roots"].values() for p in r["packages"]]
    assert all(p in full and p not in brief for p in packages)


@pytest.mark.parametrize("name", [TARBALL, f"{BASE}.lock"])
def test_a_changed_file_is_refused(checkout: Path, name: str) -> None:
    path = checkout / DIST / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    error = fails(lambda: explain(str(checkout / DIST / TARBALL), checkout))
    assert isinstance(error, SourceError)
    assert str(Digest.of_file(path)) in error.reason
    assert next(a["digest"] for a in manifest(checkout)["artifacts"] if a["name"] == name) in error.reason


def test_a_link_in_place_of_a_published_file_is_refused(checkout: Path) -> None:
    lock = checkout / DIST / f"{BASE}.lock"
    lock.rename(checkout / "elsewhere")
    lock.symlink_to(checkout / "elsewhere")
    assert "no plain file" in fails(lambda: explain(f"rfo@{HOST}", checkout)).reason


def test_a_changed_program_is_told_from_its_release(made: Path, tmp_path: Path) -> None:
    (tmp_path / "rfo").write_bytes(b"something else")
    error = fails(lambda: explain(str(tmp_path / "rfo"), made))
    assert isinstance(error, SourceError)
    assert str(Digest.of_bytes(b"something else")) in error.reason
    assert program(made) in error.hint


def test_another_definition_is_said_and_release_json_still_explains(checkout: Path) -> None:
    path = checkout / "components" / "rfo" / "component.yaml"
    path.write_text(path.read_text().replace("Apache-2.0", "MIT"))
    facts = explain(f"rfo@{HOST}", checkout)
    assert set(facts["checkout"]["differs"]) == {"definition"}
    assert (facts["made_by"], facts["actions"]) == (None, {})
    assert facts["units"]["rfo"] == {
        "component": "rfo", "license": "Apache-2.0", "version": SMALL, "go": GO, "tree": "components/rfo/src",
    }  # fmt: skip
    assert len(facts["roots"][f"builder/{HOST}"]["packages"]) > 10
    assert "NOT made from the inputs that this checkout has" in render_chain(facts, full=False)


def test_a_checkout_without_the_release_explains_from_release_json(checkout: Path) -> None:
    shutil.rmtree(checkout / "releases")
    facts = explain(str(checkout / DIST / TARBALL), checkout)
    assert "is not defined" in facts["checkout"]["reason"]
    assert list(facts["units"]) == ["rfo"]


def test_only_inputs_that_concern_the_file_are_said(checkout: Path) -> None:
    (checkout / "install/bin/rfo-killall.sh").write_text("#!/bin/sh\necho\n")
    assert not explain(f"rfo@{HOST}", checkout)["checkout"]["differs"]
    assert set(explain(TARBALL, checkout)["checkout"]["differs"]) == {"install"}
    script = explain(f"{TARBALL}:bin/rfo-killall.sh", checkout)
    assert not script["file"]["from"]["same"]
    assert "OTHER BYTES" in render_chain(script, full=False)


def test_texts_of_the_release_are_explained_too(made: Path) -> None:
    facts = explain(str(made / DIST / "NOTES.md"), made)
    assert facts["actions"] == {}
    assert "no action makes it" in render_chain(facts, full=False)


def test_the_same_bytes_in_two_releases_are_told_and_others_are_asked_about(checkout: Path) -> None:
    other = checkout / "dist" / f"{SMALL}@other"
    shutil.copytree(checkout / DIST, other)
    facts = explain(f"rfo@{HOST}", checkout)
    assert [facts["release"]["folder"], *facts["release"]["also_in"]] == [f"dist/{SMALL}@other", SMALL]
    text = (other / "release.json").read_text().replace(program(checkout), str(Digest.of_bytes(b"")))
    (other / "release.json").write_text(text)
    error = fails(lambda: explain(f"rfo@{HOST}", checkout))
    assert isinstance(error, UsageError)
    assert "--release" in error.hint
    assert explain(f"rfo@{HOST}", checkout, SMALL)["file"]["digest"] == program(checkout)


def test_a_release_may_lie_anywhere(checkout: Path, tmp_path: Path) -> None:
    folder = (checkout / DIST).rename(tmp_path / "downloaded")
    shutil.rmtree(checkout / "dist")
    error = fails(lambda: explain(f"rfo@{HOST}", checkout))
    assert isinstance(error, UsageError)
    assert "--release" in error.hint
    named = explain(f"rfo@{HOST}", checkout, str(folder))
    assert named["made_by"] == f"build/rfo/{HOST}"
    assert named["release"]["folder"] == str(folder)
    assert named["roots"] != {}
    assert explain(str(folder / TARBALL), checkout)["made_by"] == f"tarball/{HOST}"


def test_a_release_of_an_unknown_base_explains_from_release_json(checkout: Path) -> None:
    (checkout / "images" / "openeuler" / "bases" / f"{BASE}.yaml").unlink()
    facts = explain(f"rfo@{HOST}", checkout)
    assert BASE in facts["checkout"]["reason"]
    assert len(facts["roots"][f"builder/{HOST}"]["packages"]) > 10


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nowhere/kubelet", "there is no file nowhere/kubelet"),
        (f"nope@{HOST}", "no release has a program nope"),
        ("sha256:12", "not a SHA-256 digest"),
        (f"{TARBALL}:bin/nope", "has no member bin/nope"),
        (f"{BASE}.lock:x", "is no archive"),
        (f"{DIST}/release.json", "what the other files are explained from"),
    ],
)
def test_what_is_not_there_is_a_usage_error(
    made: Path, text: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    error = fails(lambda: explain(text, made))
    assert isinstance(error, UsageError)
    assert reason in error.reason
    assert error.hint


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m["artifacts"][0].update(name="../../etc/passwd"),
        lambda m: m["artifacts"][0].update(digest="md5:1"),
        lambda m: m["artifacts"][0].update(size=-1),
        lambda m: m["artifacts"].append(m["artifacts"][0]),
        lambda m: m.update(version="../x"),
        lambda m: m.update(schema="other"),
        lambda m: m.pop("components"),
        lambda m: m.update(binaries=[[]] * 3),
    ],
)
def test_a_malformed_manifest_is_a_clear_error(checkout: Path, damage: Any) -> None:
    data = manifest(checkout)
    damage(data)
    (checkout / DIST / "release.json").write_text(json.dumps(data))
    error = fails(lambda: explain(str(checkout / DIST / TARBALL), checkout))
    assert isinstance(error, SourceError)
    assert "release.json" in error.reason


def tar_of(*members: tarfile.TarInfo, pax: bool = False) -> bytes:
    """A gzip-compressed archive of these headers, without content."""
    stream = io.BytesIO()
    form = tarfile.PAX_FORMAT if pax else tarfile.USTAR_FORMAT
    with tarfile.open(fileobj=stream, mode="w:gz", format=form) as tar:
        for member in members:
            tar.addfile(member)
    return stream.getvalue()


def header(name: str, **fields: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize(
    "content",
    [
        tar_of(header("bin/rfo", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        tar_of(header("bin/rfo", type=tarfile.LNKTYPE, linkname="x")),
        tar_of(header("dev", type=tarfile.CHRTYPE)),
        tar_of(header("../rfo")),
        tar_of(header("/etc/passwd")),
        tar_of(header("rfo"), header("rfo")),
        tar_of(header("x", pax_headers={"comment": "y"}), pax=True),
        tar_of(header("rfo"))[:-20],
        tar_of(header("rfo")) + b"more",
        gzip.compress(b"x" * 2000),
        b"no archive",
        b"",
    ],
    ids=[
        "link",
        "hard link",
        "device",
        "above",
        "absolute",
        "twice",
        "pax",
        "short",
        "more",
        "no tar",
        "no gzip",
        "empty",
    ],
)
def test_an_archive_that_no_release_writes_is_refused(checkout: Path, content: bytes) -> None:
    (checkout / DIST / TARBALL).write_bytes(content)
    data = manifest(checkout)
    entry = next(a for a in data["artifacts"] if a["name"] == TARBALL)
    entry.update(digest=str(Digest.of_bytes(content)), size=len(content))
    (checkout / DIST / "release.json").write_text(json.dumps(data))
    error = fails(lambda: explain(f"{TARBALL}:nothing", checkout))
    assert isinstance(error, SourceError)
    assert TARBALL in error.reason


def test_a_bomb_is_refused_before_it_fills_memory(tmp_path: Path) -> None:
    bomb = tmp_path / "a.tar.gz"
    with tarfile.open(bomb, "w:gz", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(header("zeros", size=8 << 20), io.BytesIO(bytes(8 << 20)))
    assert [m.size for m in read_members(bomb)] == [8 << 20]
    assert "bomb" in fails(lambda: list(read_members(bomb, max_bytes=1 << 20))).reason


def test_foreign_text_cannot_steer_a_terminal(checkout: Path) -> None:
    data = manifest(checkout)
    data["deviations"][0]["what"] = "\x1b[2J gone"
    (checkout / DIST / "release.json").write_text(json.dumps(data))
    assert "\x1b" not in render_chain(explain(f"rfo@{HOST}", checkout), full=True)


def test_the_command_prints_json(made: Path) -> None:
    command = [sys.executable, "-m", "invoke", "explain", str(made / DIST / TARBALL), "--json"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["file"]["digest"] == str(Digest.of_file(made / DIST / TARBALL))
    assert "is not defined" in facts["checkout"]["reason"]  # by the checkout that the command stands in


def test_a_reader_who_has_seen_enough_gets_no_error(made: Path) -> None:
    command = [sys.executable, "-m", "invoke", "explain", str(made / DIST / TARBALL)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout and running.stderr
        running.stdout.close()
        said = running.stderr.read()
    assert (running.returncode, said) == (128 + signal.SIGPIPE, b"")
