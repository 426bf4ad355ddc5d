"""in-toto links and layouts: in-toto's own verifier accepts them, and each rule of a layout refuses what breaks it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from engine import REPO
from in_toto import exceptions
from in_toto.models.metadata import Metadata
from in_toto.verifylib import in_toto_verify
from trusted import LAYOUT_SOURCE, Trusted, copied

from pipeline.attest.chain import check_chain, missing_links, say_expired
from pipeline.attest.keys import load_signing, new_key
from pipeline.attest.layout import compile_layout, make_layout, read_compiled, sign_layout
from pipeline.attest.links import envelope_file, link_path, link_payload, make_links, steps_of
from pipeline.attest.places import LAYOUT, LINKS
from pipeline.errors import DefinitionError, TrustError
from pipeline.model import Digest
from pipeline.publish.published import read_published
from pipeline.verifier.encoding import canonical
from pipeline.verifier.folder import Folder

OTHER = Digest.of_bytes(b"other")


@pytest.fixture
def made(good: Trusted, tmp_path: Path) -> Trusted:
    return copied(good, tmp_path)


def by_in_toto(made: Trusted) -> None:
    """in-toto's own judgement, as its API gives it."""
    key = made.signing("release").key
    layout = Metadata.load(str(made.dist / LAYOUT))
    in_toto_verify(layout, {key.keyid: {"keyid": key.keyid, **key.to_dict()}}, link_dir_path=str(made.dist / LINKS))


def by_command(made: Trusted) -> "subprocess.CompletedProcess[str]":
    """The same as a user has it."""
    command: list[str | Path] = [Path(sys.executable).with_name("in-toto-verify"), "--layout", made.dist / LAYOUT]
    command += ["--verification-keys", made.keys / "release.pub", "--link-dir", made.dist / LINKS]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)


def ours(made: Trusted) -> list[str]:
    """What our own check says."""
    published, compiled = read_published(made.dist), read_compiled(made.layout_target())
    folder, key = Folder(made.dist), load_signing("release", made.keys).key
    seconds = int(datetime.now(UTC).timestamp())
    found = check_chain(folder, published, compiled, {str(key.keyid): key}, seconds)
    return [f"{r} / {r.expected} / {r.found}" for r in found]


def sign_again(made: Trusted, path: str, role: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a link or layout says, and sign it, with whatever key."""
    import base64

    value = json.loads(base64.b64decode(json.loads((made.dist / path).read_bytes())["payload"]))
    change(value)
    (made.dist / path).write_bytes(envelope_file(canonical(value), load_signing(role, made.keys)))


def link_of(made: Trusted, step: str, role: str) -> str:
    return link_path(step, str(load_signing(role, made.keys).key.keyid))


def test_a_release_has_one_step_for_each_unit_and_architecture(made: Trusted) -> None:
    names = [s.name for s in steps_of(read_published(made.dist).manifest)]
    arches = ("amd64", "arm64", "riscv64")
    assert names == ["lock", *(f"build.rfo.{a}" for a in arches), *(f"pack.{a}" for a in arches), "pack.release"]


def test_every_file_is_the_product_of_one_step(made: Trusted) -> None:
    published = read_published(made.dist)
    products = [p for s in steps_of(published.manifest) for p in s.products]
    assert len(products) == len(set(products))
    files = {*published.artifacts, "release.json", "sources.lock"}
    assert {p for p in products if not p.startswith("binary/")} == files


def test_links_hold_no_clock_host_or_environment(made: Trusted) -> None:
    first = make_links(made.facts(), made.signing("builder"))
    again = make_links(made.facts(), made.signing("builder"))
    assert {p: json.loads(d)["payload"] for p, d in first.items()} == {
        p: json.loads(d)["payload"] for p, d in again.items()
    }
    assert set(first) == {p for p in made_links(made) if f".{made.keyid8('builder')}." in p}
    envelope = Metadata.from_dict(json.loads(first[link_of(made, "lock", "builder")]))
    link = envelope.get_payload()
    assert (link.command, link.environment, link.byproducts) == ([], {}, {})


def made_links(made: Trusted) -> list[str]:
    return [f"{LINKS}/{p.name}" for p in (made.dist / LINKS).iterdir()]


def test_in_toto_accepts_a_release(made: Trusted) -> None:
    by_in_toto(made)
    assert ours(made) == []


def test_the_command_of_in_toto_accepts_a_release(made: Trusted) -> None:
    accepted = by_command(made)
    assert accepted.returncode == 0, accepted.stderr
    (made.dist / link_of(made, "pack.amd64", "rebuilder")).unlink()
    refused = by_command(made)
    assert refused.returncode == 1
    assert "pack.amd64" in refused.stderr


def test_the_documented_command(made: Trusted) -> None:
    block = (REPO / "docs" / "verify.md").read_text().partition("```sh in-toto\n")[2].partition("```")[0]
    shutil.copy(made.keys / "release.pub", made.dist.parent)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-euc", block], cwd=made.dist, env=environment, capture_output=True, check=False)
    assert block
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("step", ["lock", "build.rfo.arm64", "pack.amd64", "pack.release"])
def test_a_link_that_is_missing(made: Trusted, step: str) -> None:
    (made.dist / link_of(made, step, "rebuilder")).unlink()
    with pytest.raises(exceptions.LinkNotFoundError):
        by_in_toto(made)
    assert f"{link_of(made, step, 'rebuilder')}: is missing: too few did this step / 2 / 1" in ours(made)
    compiled = read_compiled(made.layout_target())
    keyid = str(load_signing("rebuilder", made.keys).key.keyid)
    assert missing_links(Folder(made.dist), read_published(made.dist), compiled) == {keyid: [step]}


@pytest.mark.parametrize("part", ["products", "materials"])
def test_a_functionary_who_states_another_digest(made: Trusted, part: str) -> None:
    path = link_of(made, "pack.amd64", "rebuilder")
    name = {"products": "rfo.linux-amd64.tar.gz", "materials": "binary/rfo/amd64/rfo"}[part]
    sign_again(made, path, "rebuilder", lambda link: link[part][name].update(sha256=OTHER.hex))
    with pytest.raises(exceptions.ThresholdVerificationError):
        by_in_toto(made)
    assert any(line.startswith(f"{path}: states another digest of {name}") and OTHER.hex in line for line in ours(made))


def test_both_functionaries_state_another_digest_than_the_step_before(made: Trusted) -> None:
    for role in ("builder", "rebuilder"):
        path = link_of(made, "pack.amd64", role)
        sign_again(made, path, role, lambda link: link["materials"]["binary/rfo/amd64/rfo"].update(sha256=OTHER.hex))
    with pytest.raises(exceptions.RuleVerificationError):
        by_in_toto(made)
    assert len([line for line in ours(made) if "states another digest of binary/rfo/amd64/rfo" in line]) == 2


def test_both_functionaries_state_another_digest_than_release_json(made: Trusted) -> None:
    """in-toto has nothing to compare the last products with; we have release.json."""
    for role in ("builder", "rebuilder"):
        path = link_of(made, "pack.release", role)
        sign_again(made, path, role, lambda link: link["products"]["NOTES.md"].update(sha256=OTHER.hex))
    by_in_toto(made)
    assert len([line for line in ours(made) if "states another digest of NOTES.md" in line]) == 2


def test_a_product_that_nobody_expects(made: Trusted) -> None:
    for role in ("builder", "rebuilder"):
        path = link_of(made, "pack.arm64", role)
        sign_again(made, path, role, lambda link: link["products"].update({"bin/extra": {"sha256": OTHER.hex}}))
    with pytest.raises(exceptions.RuleVerificationError, match="DISALLOW"):
        by_in_toto(made)
    assert any("states another digest of bin/extra" in line for line in ours(made))


def test_a_product_that_both_leave_out(made: Trusted) -> None:
    for role in ("builder", "rebuilder"):
        path = link_of(made, "pack.arm64", role)
        sign_again(made, path, role, lambda link: link["products"].pop("rfo.linux-arm64.tar.gz"))
    with pytest.raises(exceptions.RuleVerificationError, match="REQUIRE"):
        by_in_toto(made)
    assert any("rfo.linux-arm64.tar.gz" in line for line in ours(made))


def test_a_link_by_another_key(made: Trusted) -> None:
    path = link_of(made, "build.rfo.amd64", "rebuilder")
    payload = link_payload(steps_of(read_published(made.dist).manifest)[1], digests(made))
    (made.dist / path).write_bytes(envelope_file(payload, load_signing("targets", made.keys)))
    with pytest.raises((exceptions.ThresholdVerificationError, exceptions.LinkNotFoundError)):
        by_in_toto(made)
    assert any(line.startswith(f"{path}: is signed by somebody else") for line in ours(made))


def digests(made: Trusted) -> dict[str, Digest]:
    facts = made.facts()
    return {**{n: s.digest for n, s in facts.subjects.items()}, **facts.locks}


def test_a_link_of_the_builder_under_the_rebuilders_name(made: Trusted) -> None:
    builder, rebuilder = (link_of(made, "pack.release", r) for r in ("builder", "rebuilder"))
    shutil.copy(made.dist / builder, made.dist / rebuilder)
    with pytest.raises((exceptions.ThresholdVerificationError, exceptions.LinkNotFoundError)):
        by_in_toto(made)
    assert any(line.startswith(f"{rebuilder}: is signed by somebody else") for line in ours(made))


def test_a_layout_in_place_of_a_link_is_never_followed(made: Trusted, tmp_path: Path) -> None:
    """in-toto runs what a sublayout tells it to inspect."""
    import attr
    from in_toto.models.layout import Inspection, Layout

    proof = tmp_path / "ran"
    layout = Layout(inspect=[Inspection(name="x", run=["touch", str(proof)])], expires="2999-01-01T00:00:00Z")
    path = link_of(made, "pack.release", "rebuilder")
    (made.dist / path).write_bytes(envelope_file(canonical(attr.asdict(layout)), made.signing("rebuilder")))
    assert any(line.startswith(path) for line in ours(made))
    assert not proof.exists()


def test_a_file_that_is_no_link_of_this_release(made: Trusted) -> None:
    path = f"{LINKS}/build.etcd.amd64.{made.keyid8('builder')}.link"
    (made.dist / path).write_bytes(b"{}\n")
    assert ours(made) == [f"{path}: is no link of this release by anybody who may make one /  / "]


def test_a_layout_that_has_expired(made: Trusted) -> None:
    past = datetime.now(UTC) - timedelta(days=3, hours=1)
    layout = make_layout(read_compiled(made.layout_target()), read_published(made.dist).manifest, past)
    (made.dist / LAYOUT).write_bytes(sign_layout(layout, made.signing("release")))
    with pytest.raises(exceptions.LayoutExpiredError):
        by_in_toto(made)
    assert ours(made) == []
    assert "expired 3 days ago" in say_expired(Folder(made.dist), int(datetime.now(UTC).timestamp()))


def test_a_layout_by_another_key(made: Trusted) -> None:
    sign_again(made, LAYOUT, "targets", lambda _: None)
    with pytest.raises(exceptions.SignatureVerificationError):
        by_in_toto(made)
    assert any(line.startswith(f"{LAYOUT}: is signed by somebody else") for line in ours(made))


def test_a_layout_that_says_something_else(made: Trusted) -> None:
    """The release key alone cannot make a laxer one: what it has to say is decided offline."""
    sign_again(made, LAYOUT, "release", lambda layout: layout["steps"][0].update(threshold=1))
    by_in_toto(made)
    assert any("is not what the trust root's layout.json and release.json make of it" in line for line in ours(made))


def test_every_changed_byte_of_links_and_layout_is_refused(made: Trusted) -> None:
    for path in [LAYOUT, *made_links(made)]:
        data = (made.dist / path).read_bytes()
        for place in (0, len(data) // 3, len(data) - 12, len(data) - 1):
            (made.dist / path).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            assert any(path in line for line in ours(made)), (path, place)
        (made.dist / path).write_bytes(data)
    assert ours(made) == []


def test_a_step_that_came_out_otherwise_gets_no_link(made: Trusted) -> None:
    facts = made.facts()
    known = {n: s for n, s in facts.subjects.items() if n != "rfo.linux-amd64.tar.gz"}
    links = make_links(replace(facts, subjects=known), made.signing("rebuilder"))
    missing = {link_of(made, s, "rebuilder") for s in ("pack.amd64", "pack.release")}
    everything = {p for p in made_links(made) if made.keyid8("rebuilder") in p}
    assert set(links) == everything - missing


def test_links_of_one_architecture(made: Trusted) -> None:
    links = make_links(made.facts(), made.signing("rebuilder"), arches=["arm64"])
    assert set(links) == {link_of(made, s, "rebuilder") for s in ("lock", "build.rfo.arm64", "pack.arm64")}


# --- compiling


def keys_of(folder: Path, *roles: str) -> dict[str, Any]:
    return {r: new_key(r, folder) for r in roles}


def test_builder_and_rebuilder_with_the_same_key(tmp_path: Path) -> None:
    key = new_key("builder", tmp_path)
    with pytest.raises(TrustError, match="builder and rebuilder have the same key"):
        compile_layout(LAYOUT_SOURCE, {"builder": key, "rebuilder": key})
    keys = keys_of(tmp_path, "rebuilder") | {"builder": key}
    value = json.loads(compile_layout(LAYOUT_SOURCE, keys))
    value["functionaries"]["rebuilder"] = value["functionaries"]["builder"]
    with pytest.raises(TrustError, match="same key"):
        read_compiled(canonical(value) + b"\n")


def test_a_role_without_a_key(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="names rebuilder, of which no key is known"):
        compile_layout(LAYOUT_SOURCE, keys_of(tmp_path, "builder"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("days: 400", "days: 0", "key days"),
        ("threshold: 2", "threshold: 3", "3 have to agree, of 2 keys"),
        ("  lock:", "  look:", "key steps.look"),
        ("[builder, rebuilder]", "[]", "key steps.lock.functionaries"),
    ],
)
def test_a_malformed_source_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    source = tmp_path / "layout.yaml"
    source.write_text(LAYOUT_SOURCE.read_text().replace(old, new, 1))
    with pytest.raises(DefinitionError, match=message):
        compile_layout(source, keys_of(tmp_path / "keys", "builder", "rebuilder"))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(days="400"),
        lambda v: v["steps"].pop("pack"),
        lambda v: v["functionaries"].pop("rebuilder"),
        lambda v: v["functionaries"]["builder"][0]["keyval"].update(public="none"),
        lambda v: v.update(more=1),
    ],
)
def test_a_malformed_target_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(compile_layout(LAYOUT_SOURCE, keys_of(tmp_path, "builder", "rebuilder")))
    change(value)
    with pytest.raises(TrustError, match=r"the trust root's layout\.json cannot be used"):
        read_compiled(canonical(value) + b"\n")


def test_several_keys_of_a_role(tmp_path: Path) -> None:
    keys = [new_key("rebuilder", tmp_path / str(i)) for i in range(2)]
    data = compile_layout(LAYOUT_SOURCE, {"builder": new_key("builder", tmp_path), "rebuilder": keys})
    assert len(read_compiled(data).functionaries["rebuilder"]) == 2
    assert compile_layout(LAYOUT_SOURCE, {"builder": [*load(tmp_path)], "rebuilder": keys[::-1]}) == data


def load(folder: Path) -> list[Any]:
    return [load_signing("builder", folder).key]
