"""Linters are tests: what they find fails like anything else. A missing program is a failure that names its package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable
CODE = ("pipeline", "tests", "tasks.py")
"""Named, so that a store inside the checkout is not looked at."""


def check(command: list[str], cwd: Path = ROOT, **environment: str) -> None:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=1800
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}{done.stderr[-3000:]}"


def program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed: apt-get install {package}")
    return found


def test_ruff_finds_nothing() -> None:
    check([PYTHON, "-m", "ruff", "check", *CODE])


def test_the_code_is_formatted() -> None:
    check([PYTHON, "-m", "ruff", "format", "--check", *CODE])


def test_mypy_strict_finds_nothing() -> None:
    check([PYTHON, "-m", "mypy"])


def test_shell_scripts_are_clean() -> None:
    check([program("shellcheck", "shellcheck"), "inv", ".ci/run"])


def test_go_code_is_formatted() -> None:
    gofmt = Path(subprocess.check_output(["go", "env", "GOROOT"], text=True).strip()) / "bin" / "gofmt"
    unformatted = subprocess.check_output([str(gofmt), "-l", "components/rfo/src"], cwd=ROOT, text=True)
    assert unformatted == ""


@pytest.mark.parametrize("arch", ["amd64", "arm64", "riscv64"])
def test_go_vet_finds_nothing(arch: str) -> None:
    check(
        ["go", "vet", "./..."], cwd=ROOT / "components/rfo/src", GOARCH=arch, CGO_ENABLED="0", GOFLAGS="-mod=readonly"
    )


def test_go_tests_pass() -> None:
    check(["go", "test", "./..."], cwd=ROOT / "components/rfo/src", CGO_ENABLED="0", GOFLAGS="-mod=readonly")


def test_modules_have_a_size_that_can_be_read() -> None:
    long = {
        p.relative_to(ROOT): n
        for p in (ROOT / "pipeline").rglob("*.py")
        if (n := len(p.read_text().splitlines())) > 400
    }
    assert not long


def test_nothing_lower_imports_anything_higher() -> None:
    """The order of the packages in which data flows; each may import only from those before it, and from itself."""
    order = ["errors", "model", "versions", "process", "extract", "strict", "bases", "recipes", "definitions", "lock"]
    order += ["engine", "units"]
    found = {}
    for index, name in enumerate(order):
        text = (ROOT / "pipeline" / f"{name}.py").read_text()
        used = set(re.findall(r"^from pipeline\.(\w+)", text, re.MULTILINE))
        if higher := used - set(order[:index]) - {name}:
            found[name] = higher
    assert not found


def test_readme_names_every_command() -> None:
    listed = subprocess.check_output([PYTHON, "-m", "invoke", "--list", "--list-format=json"], cwd=ROOT, text=True)
    import json

    names = {t["name"] for t in json.loads(listed)["tasks"]}
    documents = (ROOT / "README.md").read_text()
    assert {n for n in names if f"./inv {n}" not in documents} == set()
