"""A run that finds everything as it was makes no plan, and one that does not makes it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from engine import HOST, make_context, run, shared_store
from test_rebuild import candidate_of, leaking

from pipeline import release as module
from pipeline.context import Context
from pipeline.graph import Graph
from pipeline.release import Summary
from pipeline.store import remove_tree


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = leaking(tmp_path_factory.mktemp("unchanged"), "none")
    candidate_of(checkout)
    run(checkout, arches=(HOST,))  # the first one may have locked the base
    return checkout


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was planned since."""
    plans: list[str] = []
    real = module.make_graph

    def plan(context: Context) -> Graph:
        plans.append("plan")
        return real(context)

    monkeypatch.setattr(module, "make_graph", plan)
    return plans


def again(checkout: Path) -> Summary:
    return run(checkout, arches=(HOST,))


def test_nothing_is_planned_where_nothing_changed(made: Path, planned: list[str]) -> None:
    summary = again(made)
    assert planned == []
    assert (summary.ran, summary.changed) == (0, ())
    assert summary.cached == 6, "generator, build, check, notices, tarball, sums"


def dist(made: Path) -> Path:
    return make_context(made, arches=(HOST,)).dist


CHANGES: dict[str, Callable[[Path], object]] = {
    "a source": lambda c: (c / "components/rfo/src/more.go").write_text("package main\n"),
    "an installed file": lambda c: (c / "install/bin/rfo-killall.sh").write_text("#!/bin/sh\n# another\n"),
    "a mode": lambda c: (c / "components/rfo/src/main.go").chmod(0o755),
    "a published file": lambda c: (dist(c) / "NOTES.md").write_text("other notes"),
    "a published file, missing": lambda c: (dist(c) / "NOTES.md").unlink(),
    "the manifest": lambda c: (dist(c) / "release.json").write_text("{}"),
    "the definition": lambda c: (c / "components/rfo/component.yaml").write_text(
        (c / "components/rfo/component.yaml").read_text() + "# a comment\n"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_planned_for(tmp_path: Path, planned: list[str], change: str) -> None:
    checkout = leaking(tmp_path / "checkout", "none")
    again(checkout)
    again(checkout)
    before = len(planned)
    again(checkout)
    assert len(planned) == before, "nothing was changed yet"
    content = {p.name: p.read_bytes() for p in dist(checkout).iterdir() if p.is_file()}
    CHANGES[change](checkout)
    again(checkout)
    assert len(planned) > before
    if "published" in change or "manifest" in change:
        assert {p.name: p.read_bytes() for p in dist(checkout).iterdir() if p.is_file()} == content


def test_a_dangling_link_in_a_checkout_is_planned_for(tmp_path: Path, planned: list[str]) -> None:
    """As editors leave them: the release judges for itself, every time."""
    checkout = leaking(tmp_path / "checkout", "none")
    (checkout / "images" / ".#notes").symlink_to("user@host.1234")
    again(checkout)
    again(checkout)
    assert len(planned) >= 2


def test_a_lost_output_is_made_again(tmp_path: Path, planned: list[str]) -> None:
    checkout = leaking(tmp_path / "checkout", "none")
    main = checkout / "components/rfo/src/main.go"
    main.write_text(main.read_text().replace("the right code", "lost code"))  # no other test has it
    digest = json.loads((again(checkout).dist or Path()).joinpath("release.json").read_text())["binaries"][0]["digest"]
    again(checkout)
    from pipeline.model import Digest

    remove_tree(shared_store().blob(Digest.parse(digest)))
    before = len(planned)
    assert again(checkout).ran > 0
    assert len(planned) > before


def test_a_note_that_is_damaged_is_no_note(tmp_path: Path, planned: list[str]) -> None:
    checkout = leaking(tmp_path / "checkout", "none")
    again(checkout)
    again(checkout)
    notes = (shared_store().root / "runs").glob("[!.]*.json")
    mine = [p for p in notes if f'"{checkout}/' in p.read_text()]  # the store is other runs' too
    assert mine
    for path in mine:
        path.write_text('{"outputs": 1}')
    before = len(planned)
    assert again(checkout).ran == 0
    assert len(planned) > before


def test_what_changed_during_the_run_is_not_noted(tmp_path: Path, planned: list[str]) -> None:
    from pipeline.scheduler import Result
    from pipeline.unchanged import note, read_all, recall

    checkout = leaking(tmp_path / "checkout", "none")
    context = make_context(checkout, arches=(HOST,))
    subject = read_all(context)
    assert subject is not None
    CHANGES["a source"](checkout)
    note(context, subject, Result())
    assert recall(context, subject) is None
