"""A folder of the repository as a source: its digest is its content, and nothing else of the checkout gets in."""

import os
import subprocess
from pathlib import Path

import pytest
from engine import environment

from pipeline.errors import DefinitionError
from pipeline.model import Digest
from pipeline.sources.tree import export_tree, tracked_files, tree_digest


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for name, text in (("src/main.go", "package main\n"), ("src/a/b.go", "package a\n"), ("other", "x")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def git(root: Path, *command: str) -> None:
    subprocess.run(["git", "-C", str(root), *command], check=True, capture_output=True)


@pytest.fixture
def tracked(checkout: Path) -> Path:
    git(checkout, "init", "-q")
    git(checkout, "add", "src")
    return checkout


def test_the_digest_is_that_of_names_modes_and_contents(checkout: Path) -> None:
    first = tree_digest(checkout, "src")
    (checkout / "src" / "main.go").touch()
    (checkout / "src" / "main.go").chmod(0o600)
    assert tree_digest(checkout, "src") == first
    (checkout / "src" / "main.go").chmod(0o744)
    changed = tree_digest(checkout, "src")
    assert changed != first
    (checkout / "src" / "main.go").chmod(0o644)
    (checkout / "src" / "main.go").rename(checkout / "src" / "main2.go")
    assert tree_digest(checkout, "src") not in (first, changed)


def test_with_and_without_git_it_is_the_same(checkout: Path) -> None:
    plain = tree_digest(checkout, "src")
    git(checkout, "init", "-q")
    git(checkout, "add", "src")
    assert tree_digest(checkout, "src") == plain


def test_untracked_files_have_no_part(tracked: Path) -> None:
    before = tree_digest(tracked, "src")
    (tracked / "src" / "stray.go").write_text("x")
    assert tree_digest(tracked, "src") == before
    assert tracked_files(tracked, "src") == ["a/b.go", "main.go"]


def test_what_git_has_changed_counts_as_it_stands(tracked: Path) -> None:
    before = tree_digest(tracked, "src")
    (tracked / "src" / "main.go").write_text("package main // changed\n")
    assert tree_digest(tracked, "src") != before


def test_a_git_hooks_variables_do_not_lead_astray(tracked: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    with environment(
        GIT_DIR=str(other / ".git"), GIT_INDEX_FILE=str(other / ".git" / "index"), GIT_WORK_TREE=str(other)
    ):
        assert tracked_files(tracked, "src") == ["a/b.go", "main.go"]


def test_the_export_holds_the_tracked_files_only(tracked: Path, tmp_path: Path) -> None:
    (tracked / "src" / "stray.go").write_text("x")
    (tracked / "src" / "main.go").chmod(0o755)
    old = os.umask(0o077)
    try:
        export_tree(tracked, "src", tmp_path / "copy", tree_digest(tracked, "src"))
    finally:
        os.umask(old)
    found = {
        p.relative_to(tmp_path / "copy").as_posix(): p.stat().st_mode & 0o777 for p in (tmp_path / "copy").rglob("*.go")
    }
    assert found == {"main.go": 0o755, "a/b.go": 0o644}


def test_an_export_of_changed_files_is_refused(tracked: Path, tmp_path: Path) -> None:
    expected = tree_digest(tracked, "src")
    (tracked / "src" / "main.go").write_text("package main // edited meanwhile\n")
    with pytest.raises(DefinitionError, match="changed while the run went on"):
        export_tree(tracked, "src", tmp_path / "copy", expected)


@pytest.mark.parametrize("target", ["main.go", "a", "/etc", "nowhere"])
@pytest.mark.parametrize("with_git", [True, False])
def test_links_are_refused_whatever_they_lead_to(checkout: Path, target: str, with_git: bool) -> None:
    (checkout / "src" / "link").symlink_to(target)
    if with_git:
        git(checkout, "init", "-q")
        git(checkout, "add", "src")
    with pytest.raises(DefinitionError, match="link is a link"):
        tree_digest(checkout, "src")


def test_a_submodule_is_refused(tracked: Path, tmp_path: Path) -> None:
    inner = tracked / "src" / "inner"
    inner.mkdir()
    git(inner, "init", "-q")
    (inner / "x").write_text("x")
    git(inner, "add", "x")
    git(inner, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "x")
    git(tracked, "-c", "advice.addEmbeddedRepo=false", "add", "src/inner")
    with pytest.raises(DefinitionError, match="inner is not a plain file"):
        tracked_files(tracked, "src")


@pytest.mark.parametrize("name", [b"line\nbreak", b"no\xffutf8", b"tab\there", b"escape\x1b"])
def test_names_that_could_pass_for_others_are_refused(checkout: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(checkout / "src") + b"/" + name)).write_bytes(b"")
    with pytest.raises(DefinitionError, match="printable"):
        tree_digest(checkout, "src")


def test_an_empty_or_missing_tree_says_what_to_do(tracked: Path) -> None:
    with pytest.raises(DefinitionError, match="does not exist"):
        tree_digest(tracked, "nothing")
    (tracked / "new").mkdir()
    (tracked / "new" / "file").write_text("x")
    with pytest.raises(DefinitionError, match="no tracked files") as caught:
        tree_digest(tracked, "new")
    assert "git add" in caught.value.hint


def test_the_form_of_the_digest_stays(checkout: Path) -> None:
    """A change here would make every key of the tree's actions new."""
    parts = [("644", b"package a\n", "a/b.go"), ("644", b"package main\n", "main.go")]
    text = "".join(f"100{m} {Digest.of_bytes(c)} {n}\n".replace("100", "") for m, c, n in parts)
    assert tree_digest(checkout, "src") == Digest.of_bytes(text.encode())
