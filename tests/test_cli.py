"""The command line as a user types it: help, usage errors with their exit codes, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import VERSION, Checkout

from pipeline.context import CHECKOUT, Context, Options, parse_count, parse_pairs
from pipeline.errors import DefinitionError, UsageError
from pipeline.report.progress import Progress

REAL = "v1.25.4+rfor1"


def inv(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "invoke", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "RFO_STORE": str(tmp_path / "store")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_commands_are_listed(tmp_path: Path) -> None:
    done = inv(tmp_path, "--list")
    assert done.returncode == 0
    for name in (
        "release", "lock", "fetch", "releases", "new-release", "rebuild", "push", "mirror", "explain", "why-rebuilt",
        "diff", "gc", "store", "test", "bench", "keys",
    ):  # fmt: skip
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("task", ["explain", "store", "diff", "why-rebuilt", "rebuild", "gc"])
def test_help_may_stand_behind_a_task(task: str) -> None:
    done = subprocess.run([CHECKOUT / "inv", task, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ")
    assert f" {task} " in done.stdout.splitlines()[0]


def test_releases_are_listed_for_people_and_programs(tmp_path: Path) -> None:
    people, programs = inv(tmp_path, "releases"), inv(tmp_path, "releases", "--json")
    assert (people.returncode, programs.returncode) == (0, 0)
    found = json.loads(programs.stdout)
    assert [r["version"] for r in found] == [line.split()[0] for line in people.stdout.splitlines()]
    assert {"version": REAL, "upstream": "v1.25.4+rke2r1", "date": "2022-11-18T00:00:00Z"}.items() <= next(
        r.items() for r in found if r["version"] == REAL
    )


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["release"], 2, "usage: which release? --version is missing"),
        (["lock"], 2, "usage: which release? --version is missing"),
        (["fetch"], 2, "usage: which release? --version is missing"),
        (["release", "--version", "1.25"], 4, "'1.25' is not a release version"),
        (["release", "--version", "v9.9.9+rfor1"], 4, "release v9.9.9+rfor1 is not defined (defined: v1"),
        (["release", "--version", REAL, "--base", "nope"], 2, "--base: there is no base nope"),
        (["release", "--version", REAL, "--mirror", "nope=file:///"], 2, "--mirror: there is no base nope"),
        (["release", "--version", REAL, "--mirror", "nope"], 2, "--mirror 'nope': expected NAME=VALUE"),
        (["release", "--version", REAL, "--arch", "mips"], 2, f"{REAL} is not made for mips"),
        (["release", "--version", REAL, "--component", "nope"], 2, f"{REAL} has no component nope"),
        (["release", "--version", REAL, "--jobs", "abc"], 2, "--jobs 'abc': expected a number"),
        (["release", "--version", REAL, "--jobs=-1"], 2, "--jobs '-1': expected a number"),
        (["release", "--version", REAL, "--log-json", "/gone/x"], 2, "--log-json /gone/x: No such file"),
        (["fetch", "--version", REAL, "--component", "nope", "--base", "nope"], 2, "there is no base nope"),
    ],
)
def test_a_mistake_ends_with_its_reason_and_exit_code(
    tmp_path: Path, arguments: list[str], status: int, reason: str
) -> None:
    done = inv(tmp_path, *arguments)
    assert done.returncode == status
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "store").exists()


def test_a_store_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    done = inv(tmp_path, "release", "--version", REAL, "--base", "debian-13", "--offline", "--dry-run")
    assert done.returncode == 8
    assert done.stderr.startswith(f"store: {tmp_path}/store")
    assert "Traceback" not in done.stderr


def test_offline_without_a_lock_says_what_to_type(tmp_path: Path) -> None:
    done = inv(tmp_path, "release", "--version", REAL, "--base", "debian-13", "--offline")
    assert done.returncode == 6
    assert done.stderr == (
        "network: base debian-13 is not locked yet, and --offline forbids it\n"
        f"  -> with network: ./inv lock --version {REAL} --base debian-13\n"
    )


def test_a_traceback_is_shown_when_asked_for(tmp_path: Path) -> None:
    done = inv(tmp_path, "release", "--version", "x", "--debug")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


FAULT = """
import sys
sys.path.insert(0, sys.argv[1])
from pipeline.cli.common import reporting
with reporting(debug=False):
    {}
"""


@pytest.mark.parametrize(
    ("raises", "status", "reason"),
    [
        ("raise ZeroDivisionError('x')", 1, "error: the engine failed: ZeroDivisionError: x\n  -> see where"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("open('/gone/x')", 1, "error: the engine failed: FileNotFoundError"),
    ],
)
def test_no_fault_shows_a_traceback(tmp_path: Path, raises: str, status: int, reason: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULT.format(raises), str(CHECKOUT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert done.stderr.startswith(reason)
    assert "Traceback" not in done.stderr


def test_pairs_have_a_name_and_a_value() -> None:
    assert parse_pairs(["a=b=c", "d=e"], "--x") == {"a": "b=c", "d": "e"}
    for values in (["a"], ["=b"], ["a="], ["a=1", "a=2"]):
        with pytest.raises(UsageError, match=r"^--x"):
            parse_pairs(values, "--x")


def test_counts_are_numbers() -> None:
    assert parse_count("12", "--jobs") == 12
    for text in ("", "-1", "1.5", "99999", "\u0661"):
        with pytest.raises(UsageError, match="expected a number"):
            parse_count(text, "--jobs")


def test_another_base_is_marked_in_the_folders_name(checkout: Checkout) -> None:
    text = (checkout.root / "images/openeuler/bases/tiny.yaml").read_text()
    checkout.put("images/openeuler/bases/other.yaml", text.replace("name: tiny", "name: other"))
    assert checkout.context("amd64").dist.name == VERSION
    for base, name in (("tiny", VERSION), ("other", f"{VERSION}@other")):
        context = Context(Options(VERSION, base=base), Progress(), checkout.root)
        assert (context.dist.name, context.stand_in) == (name, base == "other")


def test_a_base_that_does_not_exist_for_an_architecture_is_refused(checkout: Checkout) -> None:
    checkout.base["suites"] = {"amd64": ["stable"]}
    checkout.write()
    with pytest.raises(DefinitionError, match="base tiny does not exist for arm64: unsupported"):
        _ = checkout.context().bases
