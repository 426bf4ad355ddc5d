"""The text of go.mod and go.sum files (https://go.dev/ref/mod#go-mod-file). Reads text; no network."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DefinitionError
from pipeline.versions import numbers


def read_sums(go_sum: str) -> dict[tuple[str, str], str]:
    """(path, version) to h1 of a go.sum's module lines; `/go.mod` lines are left out."""
    sums = {}
    for line in go_sum.splitlines():
        fields = line.split()
        if len(fields) == 3 and not fields[1].endswith("/go.mod"):
            sums[fields[0], fields[1]] = fields[2]
    return sums


def needed_go(go_mod: str) -> str:
    """The Go that a go.mod asks for, such as `1.24.0`: the newer of its `go` and `toolchain` lines; 1.16 without any.

    https://go.dev/ref/mod#go-mod-file-go says what a missing line means.
    """
    lines = re.findall(
        r"^(?:go[ \t]+|toolchain[ \t]+go)(1\.[0-9]{1,4}(?:\.[0-9]{1,4})?)(?:\b|rc|beta)", go_mod, re.MULTILINE
    )
    return max(lines, key=numbers, default="1.16")


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|//.*|[(),]|(?:(?!//)[^\s(),"`])+')
"""A token of a go.mod line (https://go.dev/ref/mod#go-mod-file-lexical): string, comment, punctuation or word."""


@dataclass(frozen=True)
class LocalReplace:
    """A replacement by a directory, one line of a go.mod."""

    line: int
    """Index of the line."""
    path: str
    version: str
    """The version that is replaced; empty if all are."""
    target: str
    """The directory that takes its place, relative to the go.mod."""
    single: bool
    """Has the keyword on its own line, in place of standing in a block."""


def local_replaces(go_mod: str) -> list[LocalReplace]:
    """Each replacement by a directory; nothing but a replacement has an arrow."""
    found = []
    for number, line in enumerate(go_mod.splitlines()):
        tokens = [_unquote(t) for t in _TOKEN.findall(line) if not t.startswith("//")]
        single = tokens[:1] == ["replace"] and tokens[1:2] != ["=>"]
        match tokens[1:] if single else tokens:
            case [path, "=>", target] if _is_directory(target):
                found.append(LocalReplace(number, path, "", target, single))
            case [path, version, "=>", target] if _is_directory(target):
                found.append(LocalReplace(number, path, version, target, single))
    return found


def _is_directory(path: str) -> bool:
    """As modfile.IsDirectoryPath of golang.org/x/mod."""
    return path in (".", "..") or path.startswith(("./", "../", "/"))


def _unquote(token: str) -> str:
    if token.startswith("`"):
        return token[1:-1]
    return re.sub(r"\\(.)", r"\1", token[1:-1]) if token.startswith('"') else token


def rewrite_replaces(
    go_mod: str, rules: Sequence[tuple[str, str | None]], where: str, *, tree: Path | None = None
) -> str:
    """go.mod with each local replacement rewritten by the first rule (module pattern, version or None to drop).

    One that no rule speaks of stays if its directory is a module inside `tree`, the whole repository. Otherwise it
    raises DefinitionError: the directory is not in the source (a module zip never has it). What is dropped is no
    longer required either: without its replacement there is no such version.
    """
    lines = go_mod.splitlines()
    dropped: set[str] = set()
    for found in local_replaces(go_mod):
        for pattern, version in rules:
            if found.path == pattern or (pattern.endswith("*") and found.path.startswith(pattern[:-1])):
                left = f"{found.path} {found.version}".rstrip()
                text = f"{left} => {found.path} {version}"
                lines[found.line] = f"{'replace ' if found.single else chr(9)}{text}" if version else ""
                dropped |= set() if version else {found.path}
                break
        else:
            if tree and _has_module(tree, found.target):
                continue
            raise DefinitionError(
                f"{where}: go.mod replaces {found.path} by the local directory {found.target}, "
                "which the source does not have",
                "add a rule under source.replace of its component.yaml, or choose a version without that line",
            )
    return "\n".join("" if _required(line) in dropped else line for line in lines) + "\n"


def _required(line: str) -> str:
    """The module that a line requires, empty if it is another line."""
    tokens = [_unquote(t) for t in _TOKEN.findall(line) if not t.startswith("//")]
    match tokens[1:] if tokens[:1] == ["require"] else tokens:
        case [path, version] if version.startswith("v"):
            return path
    return ""


def _has_module(tree: Path, directory: str) -> bool:
    path = (tree / directory).resolve()
    return path.is_relative_to(tree.resolve()) and (path / "go.mod").is_file()
