"""The process that signs: it signs what it made sure of, names what is not right, and gives its keys to nobody."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from engine import HOST, REPO, SMALL, Box, environment, fails, make_context, run, shared_store
from faults import own_mounts
from test_rebuild import candidate_of, leaking

from images import MAIN, add_chart, image_checkout
from pipeline.attest.keys import keys_folder, load_signing, new_key, read_public
from pipeline.attest.places import BUNDLE, signature_files
from pipeline.attest.signer import is_dirty
from pipeline.attest.signing import have_key, refuse_unable
from pipeline.errors import TrustError
from pipeline.model import Digest
from pipeline.rebuild import Asked, signatures_path
from pipeline.release import make_graph, make_scheduler
from pipeline.scheduler import Result
from pipeline.store import Store
from pipeline.verifier.bundle import read_bundle
from pipeline.verifier.statement import REBUILD, Statement

VARIABLE = "RFO_PASSPHRASE"
REBUILDER = "https://rfolabs.github.io/rfo/builders/development-rebuilder"


def signer(
    request: dict[str, Any], engine: Path = REPO, variables: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """The process itself, as it answers a request."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.attest.signer"], cwd=engine, input=json.dumps(request), text=True,
        env={**os.environ, **(variables or {})}, capture_output=True, check=False, start_new_session=True,
    )  # fmt: skip


def asked(checkout: Path, dist: Path, **more: Any) -> dict[str, Any]:
    store = str(shared_store().root)
    return {"role": "builder", "folder": str(dist), "checkout": str(checkout), "store": store, **more}


def refusal(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    assert done.returncode, done.stdout
    assert "Traceback" not in done.stderr
    said: dict[str, str] = json.loads(done.stdout)
    assert set(said) == {"reason", "hint", "kind"}
    return said


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkout and its signed release, with images and a chart; its program is damaged, so no other test has it."""
    own = {"components/hello/src/main.go": MAIN.replace("version)", 'version, "signed")')}
    checkout = add_chart(image_checkout(tmp_path_factory.mktemp("signer"), files=own))
    dist = run(checkout, arches=(HOST,)).dist
    assert dist is not None
    return checkout, dist


@pytest.fixture
def unsigned(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The checkout, and a copy of the release without signatures."""
    checkout, dist = made
    copy = tmp_path / dist.name
    shutil.copytree(dist, copy, ignore=shutil.ignore_patterns("provenance"))
    return checkout, copy


def edit(dist: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (dist / name).write_bytes(change((dist / name).read_bytes()))


def rename_digest(dist: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change a file, and release.json with it: who does that can publish, and cannot build."""
    edit(dist, name, change)
    manifest = json.loads((dist / "release.json").read_bytes())
    entry = next(a for a in manifest["artifacts"] if a["name"] == name)
    entry |= {"digest": str(Digest.of_file(dist / name)), "size": (dist / name).stat().st_size}
    (dist / "release.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def edit_manifest(dist: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((dist / "release.json").read_bytes())
    change(manifest)
    (dist / "release.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def add_file(dist: Path, name: str) -> None:
    (dist / name).write_bytes(b"")
    entry = {"name": name, "digest": str(Digest.of_bytes(b"")), "size": 0}
    edit_manifest(dist, lambda m: m["artifacts"].append(entry))


BUNDLED = f"rfo-images.linux-{HOST}.tar.zst"
ZERO = f"sha256:{'0' * 64}"
TAMPERED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a file": (lambda d: edit(d, BUNDLED, lambda b: b + b"x"), BUNDLED, "source"),
    "a missing file": (lambda d: (d / BUNDLED).unlink(), BUNDLED, "source"),
    "a blob": (lambda d: edit(d, "images/index.json", lambda b: b + b" "), "images/index.json", "source"),
    "a file and its digest": (lambda d: rename_digest(d, BUNDLED, lambda b: b + b"x"), BUNDLED, "trust"),
    "an SBOM and its digest": (
        lambda d: rename_digest(d, f"sbom/plain.linux-{HOST}.spdx.json", lambda b: b.replace(b"plain", b"plaim")),
        f"sbom/plain.linux-{HOST}.spdx.json",
        "trust",
    ),
    "the notes and their digest": (lambda d: rename_digest(d, "NOTES.md", lambda b: b + b"x"), "NOTES.md", "trust"),
    "a binary's digest": (
        lambda d: edit_manifest(d, lambda m: m["binaries"][0].update(digest=ZERO)),
        f"binary/hello/{HOST}/hello",
        "trust",
    ),
    "an image's digest": (
        lambda d: edit_manifest(d, lambda m: m["images"][1]["platforms"].update({f"linux/{HOST}": ZERO})),
        f"image/plain/{HOST}",
        "trust",
    ),
    "a deviation": (
        lambda d: edit_manifest(d, lambda m: m["deviations"].append({"what": "a", "why": "b"})),
        "release.json",
        "trust",
    ),
    "another engine": (
        lambda d: edit_manifest(d, lambda m: m["inputs"][f"linux/{HOST}"].update(engine=ZERO)),
        "another engine",
        "proof",
    ),
    "a file that nothing makes": (
        lambda d: add_file(d, "more.txt"),
        "more.txt",
        "source",
    ),
}


@pytest.mark.parametrize("change", TAMPERED)
def test_what_is_not_as_it_was_built_is_named_and_nothing_is_signed(unsigned: tuple[Path, Path], change: str) -> None:
    checkout, dist = unsigned
    tamper, name, kind = TAMPERED[change]
    tamper(dist)
    said = refusal(signer(asked(checkout, dist)))
    assert name in said["reason"], said
    assert said["kind"] == kind, said
    assert not list(signature_files(dist))


def test_the_store_has_to_know_how_it_was_built(unsigned: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, dist = unsigned
    said = refusal(signer(asked(checkout, dist, store=str(tmp_path / "empty"))))
    assert "has no record of" in said["reason"]
    assert "inv release" in said["hint"]
    assert not list(signature_files(dist))


def test_a_binary_that_was_damaged_in_the_store_is_not_signed(unsigned: tuple[Path, Path]) -> None:
    checkout, dist = unsigned
    digest = json.loads((dist / "release.json").read_bytes())["binaries"][0]["digest"]
    path = shared_store().blob(Digest.parse(digest))
    data = path.read_bytes()
    try:
        path.chmod(0o644)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert f"binary/hello/{HOST}/hello" in refusal(signer(asked(checkout, dist)))["reason"]
    finally:
        path.unlink(missing_ok=True)
        shared_store().add_bytes(data)
    assert not list(signature_files(dist))
    assert signer(asked(checkout, dist)).returncode == 0, "and it is once it is there again"


def test_it_prints_no_key_and_no_passphrase(unsigned: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, dist = unsigned
    phrase, own = "open sesame", {"RFO_KEYS": str(tmp_path / "keys")}
    new_key("builder", tmp_path / "keys", phrase, "https://rfolabs.github.io/rfo/builders/development-builder")
    done = signer(asked(checkout, dist), variables={**own, VARIABLE: phrase})
    assert done.returncode == 0, done.stdout
    wrong = signer(asked(checkout, dist), variables={**own, VARIABLE: "open barley"})
    assert "passphrase" in refusal(wrong)["hint"]
    nobody = signer(asked(checkout, dist), variables=own)
    assert "nobody can be asked" in refusal(nobody)["reason"]
    signing = load_signing("builder", tmp_path / "keys", lambda _: phrase)
    assert json.loads(done.stdout)["written"], signing.key.keyid
    secrets = [phrase, "open barley", *(tmp_path / "keys" / "builder.key").read_text().splitlines()[1:-1]]
    written = "".join((dist / p).read_text() for p in signature_files(dist))
    for secret in secrets:
        assert not any(secret in t for d in (done, wrong, nobody) for t in (d.stdout, d.stderr, written))


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda k: (k / "builder.id").unlink(), "builder.id"),
        (lambda k: (k / "builder.id").write_text("somebody"), "is no id"),
        (lambda k: (k / "builder.key").chmod(0o644), "can be read by others"),
        (lambda k: (k / "builder.key").unlink(), "builder.key"),
        (lambda k: (k / "builder.pub").write_text("x"), "builder.pub"),
    ],
)
def test_a_key_that_is_not_right_signs_nothing(
    unsigned: tuple[Path, Path], tmp_path: Path, break_it: Callable[[Path], object], reason: str
) -> None:
    checkout, dist = unsigned
    keys = tmp_path / "keys"
    new_key("builder", keys, builder="https://rfolabs.github.io/rfo/builders/development-builder")
    break_it(keys)
    said = refusal(signer(asked(checkout, dist), variables={"RFO_KEYS": str(keys)}))
    assert (said["kind"], reason in said["reason"]) == ("trust", True), said
    assert not list(signature_files(dist))


@pytest.mark.parametrize(
    "request_",
    [b"", b"{}", b"[1]", b'{"role": "release"}', b'{"role":"rebuilder","folder":"/","checkout":"/","store":"/"}'],
)
def test_a_request_that_makes_no_sense_is_refused(request_: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.attest.signer"], cwd=REPO, input=request_, capture_output=True, check=False
    )
    assert (done.returncode, json.loads(done.stdout)["kind"]) == (TrustError.exit_code, "trust")


def test_an_engine_that_was_edited_signs_with_development_keys_alone(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(REPO / "pipeline", engine / "pipeline", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(REPO / "requirements.lock", engine)
    ids = {"real": "https://example.org/builders/one", "development": REBUILDER}
    request = {"role": "rebuilder", "only_check": True, "folder": str(tmp_path), "checkout": str(tmp_path)}
    for name, builder in ids.items():
        new_key("rebuilder", tmp_path / name, builder=builder)

    def ask(name: str) -> "subprocess.CompletedProcess[str]":
        return signer({**request, "store": str(tmp_path / "s")}, engine, {"RFO_KEYS": str(tmp_path / name)})

    assert "not as it was committed" in refusal(ask("real"))["reason"], "there is no commit at all"
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(engine), *command], check=True)
    (engine / ".git/info/exclude").write_text("__pycache__\n")
    assert ask("real").returncode == 0
    assert not is_dirty(engine)
    (engine / "notes").write_text("not of the engine")
    assert not is_dirty(engine)
    for path, text in ((engine / "pipeline/more.py", ""), (engine / "pipeline/model.py", "\n# edited\n")):
        old = path.read_text() if path.exists() else None
        path.write_text((old or "") + text)
        assert is_dirty(engine)
        assert "not as it was committed" in refusal(ask("real"))["reason"]
        assert ask("development").returncode == 0
        path.unlink() if old is None else path.write_text(old)


def test_no_key_is_reachable_from_a_build(tmp_path: Path) -> None:
    have_key("builder", make_context(tmp_path))
    box = Box(tmp_path)
    with environment(RFO_PASSPHRASE="x" * 9):
        usage, text = box.sh(f"env; cat {keys_folder()}/builder.key; ls -R {keys_folder().parent.parent} /root /home")
    assert usage.status
    assert "PRIVATE" not in text
    assert "builder.key" not in text.replace(f"cat: {keys_folder()}/builder.key: No such file", "")
    assert "RFO_" not in text
    assert "xxxxxxxxx" not in text


def test_an_error_of_the_signer_is_the_releases_own(tmp_path: Path) -> None:
    checkout = leaking(tmp_path / "checkout", "none")
    candidate_of(checkout)
    keys = tmp_path / "keys"
    new_key("builder", keys)
    with environment(RFO_KEYS=str(keys)):
        error = fails(lambda: run(checkout, arches=(HOST,)))
    assert isinstance(error, TrustError)
    assert "builder.id" in error.reason
    assert run(checkout, arches=(HOST,)).changed == (), "what the first key signed is still there"


# --- rebuilds


@pytest.fixture
def attempt(made: tuple[Path, Path], tmp_path: Path) -> Path:
    """What a prover leaves, as its worker writes it: made of what the first build made."""
    checkout, dist = made
    context, result = make_context(checkout, arches=(HOST,)), Result()
    make_scheduler(context).replay(make_graph(context), result)
    folder = tmp_path / "attempt"
    shutil.copytree(dist, folder / "dist", ignore=shutil.ignore_patterns("provenance"))
    blobs = Store(folder / "store")
    for outputs in result.outputs.values():
        for output in outputs.values():
            path = shared_store().use(output.digest)
            assert path is not None
            assert blobs.add_bytes(path.read_bytes()) == output
    written = {a: {n: [str(o.digest), o.size] for n, o in made.items()} for a, made in result.outputs.items()}
    (folder / "result.json").write_text(json.dumps({"outputs": written}))
    return folder


def rebuilt(checkout: Path, dist: Path, attempt: Path, **more: Any) -> tuple[Path, Statement]:
    """The rebuilder's folder and result."""
    have_key("rebuilder", make_context(checkout))
    more = {"arches": [HOST], "variations": ["user", "clock"], "not_varied": {"processors": "one"}, **more}
    done = signer(asked(checkout, dist, role="rebuilder", attempt=str(attempt), **more))
    assert done.returncode == 0, done.stdout
    keyid = read_public("rebuilder", keys_folder()).keyid
    own = Path(more.get("target", dist)) / "provenance" / f"rebuilder-{keyid[:8]}"
    return own, statement(own / f"rebuild{BUNDLE}")


def statement(path: Path) -> Statement:
    return read_bundle(path.read_bytes(), path.name).statement


def links_of(own: Path) -> set[str]:
    """Steps of which there is a rebuilder's link."""
    keyid = own.name.rpartition("-")[2]
    return {p.name.removesuffix(f".{keyid}.link") for p in (own.parent / "links").glob(f"*.{keyid}.link")}


def test_a_rebuilder_says_with_its_own_key_what_came_out_the_same(
    made: tuple[Path, Path], attempt: Path, tmp_path: Path
) -> None:
    checkout, dist = made
    own, result = rebuilt(checkout, dist, attempt, target=str(tmp_path / "target"))
    assert result.predicate_type == REBUILD
    assert result.predicate == {
        "rebuilder": {"id": REBUILDER},
        "candidate": {"sha256": Digest.of_file(dist / "release.json").hex},
        "release": SMALL,
        "variations": ["clock", "user"],
        "notVaried": {"processors": "one"},
        "different": [],
    }
    theirs = next((dist / "provenance").glob("builder-*"))
    assert theirs.name.rpartition("-")[2] != own.name.rpartition("-")[2]
    signed: dict[str, str] = {}
    for path in theirs.glob(f"*{BUNDLE}"):
        mine, builders = statement(own / path.name), statement(path)
        assert mine.subjects == builders.subjects
        assert mine.predicate["buildDefinition"] == builders.predicate["buildDefinition"], "the same, of the same"
        assert mine.predicate["runDetails"] == {"builder": {"id": REBUILDER}}
        signed |= mine.subjects
    assert signed == result.subjects
    assert {"release.json", f"image/plain/{HOST}", f"binary/hello/{HOST}/hello"} <= set(signed)
    assert links_of(own) == {"lock", f"build.hello.{HOST}", f"pack.{HOST}", "pack.release"}


def test_what_came_out_otherwise_is_not_signed(unsigned: tuple[Path, Path], attempt: Path) -> None:
    checkout, dist = unsigned
    edit(attempt / "dist", BUNDLED, lambda b: b + b"x")
    (attempt / "dist" / "NOTES.md").unlink()
    (attempt / "dist" / "more.txt").write_text("of the attempt alone")
    found = json.loads((attempt / "result.json").read_bytes())
    image = f"image/plain/{HOST}"
    found["outputs"][image]["manifest.json"][0] = ZERO
    (attempt / "result.json").write_text(json.dumps(found))
    binary = json.loads((dist / "release.json").read_bytes())["binaries"][0]["digest"]
    path = Store(attempt / "store").blob(Digest.parse(binary))
    path.unlink()
    path.write_bytes(b"what the worker said of it is not true")
    own, result = rebuilt(checkout, dist, attempt)
    different = {BUNDLED, "NOTES.md", "more.txt", image, f"binary/hello/{HOST}/hello"}
    assert set(result.predicate["different"]) == different
    assert not different & set(result.subjects)
    assert {"release.json", "image/plain"} <= set(result.subjects)
    assert not (own / f"binary{BUNDLE}").exists()
    assert not different & {n for p in own.glob(f"*{BUNDLE}") for n in statement(p).subjects}
    assert links_of(own) == {"lock"}, "no step whose products differ"


def test_a_limited_rebuild_signs_what_it_proved(unsigned: tuple[Path, Path], attempt: Path) -> None:
    checkout, dist = unsigned
    shutil.rmtree(attempt / "dist")
    own, result = rebuilt(checkout, dist, attempt, components=["hello"])
    assert {p.name for p in own.iterdir()} == {f"binary{BUNDLE}", f"rebuild{BUNDLE}"}
    assert (set(result.subjects), result.predicate["different"]) == ({f"binary/hello/{HOST}/hello"}, [])
    assert links_of(own) == {"lock", f"build.hello.{HOST}"}


def test_a_release_leaves_a_rebuilders_signatures_alone(made: tuple[Path, Path], attempt: Path) -> None:
    checkout, dist = made
    own, _ = rebuilt(checkout, dist, attempt)
    before = {p: (dist / p).read_bytes() for p in signature_files(dist)}
    assert run(checkout, arches=(HOST,)).changed == ()
    next((dist / "provenance").glob(f"builder-*/binary{BUNDLE}")).unlink()
    assert len(run(checkout, arches=(HOST,)).changed) == 1
    after = {p: (dist / p).read_bytes() for p in signature_files(dist)}
    assert set(after) == set(before)
    assert [Path(p).name for p in after if after[p] != before[p]] == [f"binary{BUNDLE}"]
    assert own.is_dir()


def test_one_key_is_one_witness(made: tuple[Path, Path], tmp_path: Path) -> None:
    checkout, dist = made
    have_key("rebuilder", make_context(checkout))
    keys = tmp_path / "keys"
    shutil.copytree(keys_folder(), keys)
    for suffix in ("key", "pub"):
        shutil.copy(keys / f"builder.{suffix}", keys / f"rebuilder.{suffix}")
    context = make_context(checkout)
    with environment(RFO_KEYS=str(keys)):
        error = fails(lambda: refuse_unable(dist, context))
        (keys / "builder.pub").unlink()  # on a host of its own, nothing but the candidate tells
        other = fails(lambda: refuse_unable(dist, context))
    refuse_unable(dist, context)
    for found in (error, other):
        assert isinstance(found, TrustError)
        assert "inv keys new --role rebuilder" in found.hint
    assert "one key is one witness" in other.reason


def test_signatures_stand_beside_the_result_where_the_candidate_cannot_be_written(tmp_path: Path) -> None:
    candidate = tmp_path / "candidate"
    candidate.mkdir()
    assert signatures_path(Asked(candidate)) == candidate
    code = (
        "import sys; from pathlib import Path; from pipeline.rebuild import Asked, signatures_path; "
        "print(signatures_path(Asked(Path(sys.argv[1]))))"
    )
    mounts = own_mounts(f"mount --bind {candidate} {candidate}", f"mount -o remount,bind,ro {candidate}")
    done = subprocess.run(
        [*mounts, sys.executable, "-c", code, str(candidate)], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{candidate}.proof.signed"
