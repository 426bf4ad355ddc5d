"""Values refuse what they cannot be, and errors keep their promise about exit codes."""

from pathlib import Path

import pytest

from pipeline import errors
from pipeline.errors import DefinitionError, PipelineError, SourceError
from pipeline.model import PLATFORMS, Digest, Module, RootedPath, platform

SUM = f"h1:{'A' * 43}="


def test_a_digest_reads_what_it_writes(tmp_path: Path) -> None:
    digest = Digest.of_bytes(b"abc")
    (tmp_path / "file").write_bytes(b"abc")
    assert Digest.parse(str(digest)) == digest == Digest.of_file(tmp_path / "file")
    assert digest.hex == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    "text", ["", "sha256:", "abc", "a" * 64, "md5:" + "a" * 64, "sha256:" + "A" * 64, "sha256:" + "a" * 64 + "\n"]
)
def test_other_texts_are_no_digests(text: str) -> None:
    with pytest.raises(SourceError, match="digest"):
        Digest.parse(text)


@pytest.mark.parametrize(
    ("text", "normal"), [("a/b", "a/b"), ("./a//b/.", "a/b"), ("", ""), (".", ""), ("..a/b..", "..a/b..")]
)
def test_a_rooted_path_is_normalised(text: str, normal: str) -> None:
    assert RootedPath.parse(text).relative == normal


@pytest.mark.parametrize("text", ["/", "/etc", "..", "a/../b", "a/..", "./..", "a\0b", "..\\a"])
def test_a_path_that_could_leave_its_root_is_refused(text: str) -> None:
    with pytest.raises(SourceError):
        RootedPath.parse(text)


def test_the_root_is_its_own_parent() -> None:
    assert RootedPath.parse("a").parent == RootedPath("") == RootedPath("").parent
    assert RootedPath.parse("a/b").parent == RootedPath("a")


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("../../etc", "v1.0.0"),
        ("a/../b", "v1.0.0"),
        ("/etc", "v1.0.0"),
        ("a/.", "v1.0.0"),
        ("a b", "v1.0.0"),
        ("a", "../v1"),
        ("a", "v1/x"),
        ("a", ".."),
        ("", "v1.0.0"),
        ("a@b", "v1.0.0"),
        ("a\nb", "v1.0.0"),
    ],
)
def test_a_module_name_that_could_leave_the_module_cache_is_refused(path: str, version: str) -> None:
    with pytest.raises(DefinitionError, match="is not a Go module"):
        Module(path, version, SUM)


def test_a_module_stands_in_a_cache_with_capitals_escaped() -> None:
    module = Module("github.com/BurntSushi/toml", "v1.2.0+incompatible", SUM)
    assert module.directory == "github.com/!burnt!sushi/toml@v1.2.0+incompatible"


@pytest.mark.parametrize("total", ["", "h1:", "h1:" + "A" * 44, "h2:" + "A" * 43 + "=", SUM + "\n"])
def test_a_module_needs_a_sum(total: str) -> None:
    with pytest.raises(DefinitionError, match="is not an h1 sum"):
        Module("a.b/c", "v1.0.0", total)


def test_platforms_are_known_by_architecture() -> None:
    assert [str(p) for p in PLATFORMS.values()] == ["linux/amd64", "linux/arm64", "linux/riscv64"]
    assert platform("arm64").rpm_arch == "aarch64"
    with pytest.raises(DefinitionError, match="unknown architecture 'mips'"):
        platform("mips")


def test_every_kind_of_error_has_its_own_exit_code() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, PipelineError)]
    codes = [k.exit_code for k in kinds]
    assert len(set(codes)) == len(kinds) > 8
    assert 0 not in codes


def test_an_error_shows_its_reason_and_then_its_hint() -> None:
    assert errors.UsageError("no", "do that").render() == "usage: no\n  -> do that"
    assert errors.UsageError("no").render() == "usage: no"
