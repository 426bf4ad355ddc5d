"""Why an action ran again: the part of its key that changed, told from real records."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from conftest import action, writes
from engine import (
    BASE,
    HELLO,
    HOST,
    REPO,
    SMALL,
    fails,
    make_context,
    run,
    shared_store,
    write_checkout,
)

from pipeline.context import Context
from pipeline.errors import UsageError
from pipeline.graph import Action, Graph, Ref
from pipeline.lock import BaseLock, Package
from pipeline.model import Digest
from pipeline.release import make_graph
from pipeline.report.reasons import render_reasons
from pipeline.scheduler import Scheduler
from pipeline.store import Store
from pipeline.trace.why import Change, Item, Reasons, existing_store, why_rebuilt

NAME = f"build/reasons/{HOST}"


# --- records of actions that ran in this process


def ran(scheduler: Scheduler, *actions: Action) -> None:
    result = scheduler.run(Graph(list(actions)))
    assert not result.failures


def step(**parameters: Any) -> Action:
    """An action called `step` with these parameters."""
    made = action("step")
    return Action("step", parameters, made.run)


def twice(scheduler: Scheduler, old: Action, new: Action) -> Change:
    """The one change between two runs."""
    ran(scheduler, old)
    ran(scheduler, new)
    (change,) = why_rebuilt("step", scheduler.store, None).changes
    return change


def test_an_action_that_ran_once_has_nothing_to_compare(scheduler: Scheduler, store: Store) -> None:
    ran(scheduler, step(a="1"))
    reasons = why_rebuilt("step", store, None)
    assert (reasons.runs, reasons.changes, reasons.now) == (1, (), None)
    assert "no run of it with another key is remembered" in render_reasons(reasons)


def test_a_run_with_the_same_key_is_no_change(scheduler: Scheduler, store: Store) -> None:
    ran(scheduler, step(a="1"))
    for file in (store.root / "records").iterdir():
        file.unlink()
    ran(scheduler, step(a="1"))
    assert why_rebuilt("step", store, None).runs == 1


def test_the_last_two_keys_are_compared(scheduler: Scheduler, store: Store) -> None:
    for value in ("1", "2", "3"):
        ran(scheduler, step(a=value, b="same"))
    reasons = why_rebuilt("step", store, None)
    assert reasons.changes == (Change("parameters.a", "value", "2", "3"),)
    assert "parameters.a  2 -> 3" in render_reasons(reasons)


def test_a_hit_leaves_the_reasons_as_they_are(scheduler: Scheduler, store: Store) -> None:
    for value in ("1", "2", "1"):
        ran(scheduler, step(a=value))
    assert why_rebuilt("step", store, None).changes == (Change("parameters.a", "value", "1", "2"),)


def test_a_parameter_that_comes_or_goes_is_told(scheduler: Scheduler) -> None:
    change = twice(scheduler, step(e={"A": "1"}), step(e={"A": "1", "B": "2"}))
    assert (change.path, change.old, change.new) == ("parameters.e.B", None, "2")


def test_the_changed_words_of_a_command_are_told(scheduler: Scheduler) -> None:
    old = ["go", "build", "-ldflags=-s -w -X main.version=v1", "-o", "/out/x"]
    new = ["go", "build", "-tags=a", "-ldflags=-s -w -X main.version=v2", "-o", "/out/x"]
    change = twice(scheduler, step(command=old), step(command=new))
    assert change.items == (Item("", None, "-tags=a"), Item("", "main.version=v1", "main.version=v2"))


def test_the_changed_word_of_several_commands_is_told(scheduler: Scheduler) -> None:
    change = twice(scheduler, step(commands=[["a", "x"], ["b", "y"]]), step(commands=[["a", "x"], ["b", "z"]]))
    assert change.items == (Item("", "y", "z"),)


def test_changed_modules_are_listed(scheduler: Scheduler, store: Store) -> None:
    def modules(*pins: str) -> Action:
        return step(sources={"modules": " ".join(pins)})

    old = modules("a.org/a@v1 h1:a", "b.org/b@v1 h1:b", "c.org/c@v1 h1:c")
    new = modules("a.org/a@v1 h1:a", "b.org/b@v2 h1:bb", "d.org/d@v1 h1:d")
    change = twice(scheduler, old, new)
    assert (change.path, change.kind) == ("parameters.sources.modules", "modules")
    assert change.items == (
        Item("b.org/b", "v1 h1:b", "v2 h1:bb"), Item("c.org/c", "v1 h1:c", None), Item("d.org/d", None, "v1 h1:d"),
    )  # fmt: skip
    text = render_reasons(why_rebuilt("step", store, None))
    assert "3 modules" in text
    assert "b.org/b  v1 -> v2\n" in text
    assert "c.org/c  v1 -> none\n" in text


def test_an_input_is_told_with_the_action_that_makes_it(scheduler: Scheduler, store: Store) -> None:
    def pair(text: str) -> list[Action]:
        reader = action("step", inputs={"program": Ref("maker", "file")})
        return [action("maker", writes(text), text=text), reader]

    ran(scheduler, *pair("1"))
    ran(scheduler, *pair("2"))
    (change,) = why_rebuilt("step", store, None).changes
    assert (change.path, change.made_by) == ("inputs.program", "maker")
    assert (change.old, change.new) == tuple(str(Digest.of_bytes(t)) for t in (b"1", b"2"))
    assert "made by maker" in render_reasons(why_rebuilt("step", store, None))


def test_the_engines_code_is_called_so(scheduler: Scheduler, store: Store) -> None:
    assert twice(scheduler, step(code="sha256:1"), step(code="sha256:2")).kind == "code"
    assert "engine's own code" in render_reasons(why_rebuilt("step", store, None))


def root(store: Store, name: str, *packages: tuple[str, str]) -> str:
    """The key of a root whose packages the store remembers."""
    pins = [Package("builder", HOST, n, v, f"pool/{n}.deb", 1, Digest.of_bytes(v.encode())) for n, v in packages]
    key = Digest.of_bytes(name.encode())
    (store.root / "trees" / f"{key.hex}.lock").write_text("".join(f"{p.line()}\n" for p in pins))
    return str(key)


def test_a_root_is_told_by_its_packages(scheduler: Scheduler, store: Store) -> None:
    old = root(store, "old", ("gcc", "14.1"), ("libc6", "2.41"), ("sed", "4"))
    new = root(store, "new", ("gcc", "14.2"), ("libc6", "2.41"), ("gzip", "1"))
    change = twice(scheduler, step(root=old), step(root=new))
    assert [(i.name, bool(i.old), bool(i.new)) for i in change.items] == [
        ("gcc", True, True), ("gzip", False, True), ("sed", True, False),
    ]  # fmt: skip
    assert "gcc  14.1 -> 14.2\n" in render_reasons(why_rebuilt("step", store, None))


def test_a_root_of_the_same_packages_has_another_recipe(scheduler: Scheduler, store: Store) -> None:
    pair = [root(store, n, ("gcc", "14.1")) for n in ("old", "new")]
    change = twice(scheduler, *(step(sysroot=key) for key in pair))
    assert not change.items
    assert "recipe" in change.note


@pytest.mark.parametrize("text", [None, "package builder\n", "\0", "package builder x gcc 1 ../../etc 1 sha256:0\n"])
def test_a_root_that_is_not_remembered_is_said(scheduler: Scheduler, store: Store, text: str | None) -> None:
    old, new = root(store, "old", ("gcc", "1")), root(store, "new", ("gcc", "2"))
    path = store.root / "trees" / f"{Digest.parse(new).hex}.lock"
    path.unlink() if text is None else path.write_text(text)
    assert "not remembered" in twice(scheduler, step(root=old), step(root=new)).note


def test_an_unknown_action_names_close_ones(scheduler: Scheduler, store: Store) -> None:
    ran(scheduler, action("build/coredns/arm64"), action("check/coredns/arm64"))
    error = fails(lambda: why_rebuilt("build/cordns/arm64", store, None))
    assert isinstance(error, UsageError)
    assert "build/coredns/arm64" in error.hint
    assert "--dry-run" in fails(lambda: why_rebuilt("zzz", store, None)).hint


def test_a_damaged_record_counts_as_none(scheduler: Scheduler, store: Store) -> None:
    for value in ("1", "2"):
        ran(scheduler, step(a=value))
    (store.root / "history" / "step.previous.json").write_text('{"name": "step"}')
    assert why_rebuilt("step", store, None).runs == 1


def test_looking_makes_no_store(tmp_path: Path) -> None:
    error = fails(lambda: existing_store(tmp_path / "none"))
    assert isinstance(error, UsageError)
    assert not (tmp_path / "none").exists()


# --- records of real builds


OWN = f"{HELLO}\n// {uuid4()}\n"
"""Built by no other test run, whose engine may have been another: what ran last of it is what this run made."""


def checkout(folder: Path, version: str, text: str = OWN) -> Path:
    """A program that no other test builds: what ran last of it is known here."""
    definition = {
        "name": "reasons",
        "license": "Apache-2.0",
        "source": {"tree": "components/reasons/src"},
        "build": [{"binaries": {"reasons": "."}, "stamp": {"main.version": version}}],
        "smoke": {"reasons": {"args": [], "prints": f"hello {version}"}},
    }
    files = {
        "components/reasons/src/main.go": text,
        "components/reasons/src/go.mod": "module example.org/reasons\n\ngo 1.20\n",
    }
    return write_checkout(folder, {"reasons": definition}, files, {"reasons": {}})


def look(folder: Path, name: str = NAME) -> Reasons:
    return why_rebuilt(name, shared_store(), make_context(folder, offline=True, locked=True))


def test_a_build_is_explained_before_and_after_it_runs(tmp_path: Path) -> None:
    first, second = checkout(tmp_path / "1", "v1"), checkout(tmp_path / "2", "v2")
    for folder in (first, second):
        run(folder, arches=(HOST,), components=("reasons",))
    (change,) = why_rebuilt(NAME, shared_store(), None).changes
    assert (change.path, change.items) == ("parameters.command", (Item("", "main.version=v1", "main.version=v2"),))
    now = look(first).now
    assert now is not None
    assert now.state == "kept"

    third = checkout(tmp_path / "3", "v2", f"{OWN}\n// changed\n")
    now = look(third).now
    assert now is not None
    assert (now.state, [c.path for c in now.changes]) == ("runs", ["parameters.sources.tree"])
    now = look(third, f"check/reasons/{HOST}").now
    assert now is not None
    assert (now.state, now.waits_for) == ("waits", (NAME,))
    assert [c.path for c in now.changes] == ["parameters.sources.tree"]
    assert f"it would run, after {NAME}," in render_reasons(look(third, f"check/reasons/{HOST}"))


def empty(folder: Path, store: Store) -> Context:
    """A run on a store that knows nothing but the base's lock."""
    context = make_context(folder, store, offline=True, locked=True)
    context.base_locks = {BASE: make_context(folder, offline=True).base_locks[BASE]}
    return context


def test_an_action_that_never_ran_would_run(tmp_path: Path, store: Store) -> None:
    context = empty(checkout(tmp_path / "1", "v1"), store)
    reasons = why_rebuilt(NAME, store, context)
    assert reasons.now is not None
    assert (reasons.runs, reasons.now.state, reasons.now.changes) == (0, "runs", ())
    assert "never ran" in render_reasons(reasons)
    assert isinstance(fails(lambda: why_rebuilt("build/reason/x", store, context)), UsageError)


def test_an_action_that_the_release_has_not_is_told_from_its_records(
    tmp_path: Path, scheduler: Scheduler, store: Store
) -> None:
    for value in ("1", "2"):
        ran(scheduler, step(a=value))
    reasons = why_rebuilt("step", store, empty(checkout(tmp_path / "1", "v1"), store))
    assert reasons.now is not None
    assert (reasons.now.state, len(reasons.changes)) == ("gone", 1)
    assert f"{SMALL} as they are there is no such action" in render_reasons(reasons)


def test_a_lost_output_is_said(tmp_path: Path, store: Store) -> None:
    folder = checkout(tmp_path / "1", "v1")
    context = empty(folder, store)
    run(folder, arches=(HOST,), components=("reasons",))
    record = shared_store().record(context_key(make_context(folder)))
    assert record is not None
    store.remember(context_key(context), record)  # of a build whose output this store has not
    now = why_rebuilt(NAME, store, context).now
    assert now is not None
    assert (now.state, now.lost) == ("runs", ("reasons",))


def context_key(context: Context) -> Digest:
    key: Digest = make_graph(context).actions[NAME].key({})[0]
    return key


def test_a_root_on_disk_says_its_packages(tmp_path: Path) -> None:
    context = make_context(checkout(tmp_path / "1", "v1"))
    roots = context.inputs[HOST].roots
    made = roots.find("builder", HOST)
    text = roots.path(made).with_suffix(".lock").read_text()
    assert BaseLock.parse(f"base {BASE}\n{text}", "trees").packages == tuple(sorted(made.packages))


def test_the_command_prints_json_and_an_exit_code(tmp_path: Path, scheduler: Scheduler, store: Store) -> None:
    for value in ("1", "2"):
        ran(scheduler, step(a=value))

    def inv(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "invoke", "why-rebuilt", *arguments]
        environment = {**os.environ, "RFO_STORE": str(store.root)}
        return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)

    done = inv("step", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["changes"][0]["path"] == "parameters.a"
    unknown = inv("stop")
    assert (unknown.returncode, "did you mean step?" in unknown.stderr) == (UsageError.exit_code, True)
