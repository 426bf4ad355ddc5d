"""Commits of git repositories: fetched with the host's `git`, exported as the raw bytes that the commit names.

No configuration of the host, its users or the repository has a say in what is exported: no end-of-line conversion,
no filters, no `export-subst`, no hooks. Of the host's git settings only proxy and certificates are kept.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import NetworkError, SourceError
from pipeline.extract import resolve_inside
from pipeline.model import RootedPath
from pipeline.process import CommandFailed, TimedOut, find_program, run

MAX_PACK = 2 << 30
"""Bytes of the pack that a server sends for one commit."""
MAX_BYTES = 2 << 30
"""Bytes of all files of one commit."""
MAX_FILES = 200_000
BATCH = 64 << 20
"""Bytes of file content that are read from git at a time."""
FETCH_SECONDS = 3600
KEPT = ("PATH", "HOME", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
KEPT_SETTINGS = ("http.proxy", "http.sslCAInfo")
"""The settings of the host's git that decide how to reach an origin, and nothing about its content."""
SETTINGS = (
    "transfer.fsckObjects=true",
    "http.lowSpeedLimit=100",  # bytes per second, for so many seconds: a server that stalls is not waited for
    "http.lowSpeedTime=60",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "fetch.recurseSubmodules=false",
    "maintenance.auto=false",
    "gc.auto=0",
)
_OBJECT = re.compile(rb"([0-9a-f]{40}) blob ([0-9]+)")


@dataclass(frozen=True)
class _File:
    """A file of a commit."""

    path: RootedPath
    mode: int
    blob: str
    size: int


def export_commit(url: str, tag: str, commit: str, *, work: Path, target: Path) -> int:
    """Write the files of `commit` below `target`, with mode 644 or 755; returns the committer's time.

    The tag must point at the commit. `work` is a folder for git to work in. Raises HostError without git,
    NetworkError if the origin does not serve the tag, SourceError for all that is not as it should be.
    """
    git = _Git(work / "repository", url)
    git.fetch(tag)
    found = git.ask("rev-parse", "--verify", f"refs/tags/{tag}^{{commit}}").decode().strip()
    if found != commit:
        raise SourceError(
            f"{url}: tag {tag} points at commit {found}; the definition says {commit}",
            "find out why: if the tag was moved on purpose, review the change and put the new commit into the release",
        )
    files = _listed(git.ask("ls-tree", "-r", "-z", "-l", "--full-tree", commit), f"{url} {tag}")
    for batch in _batches(files):
        _write(batch, git.ask("cat-file", "--batch", stdin="".join(f"{f.blob}\n" for f in batch).encode()), target, url)
    return int(git.ask("show", "-s", "--format=%ct", commit))


class _Git:
    """One bare repository in an environment of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self._program = find_program("git", packages="git (apt-get install git, dnf install git)")
        self._folder, self._url = folder, url
        fixed = [part for setting in SETTINGS for part in ("-c", setting)]
        self._command = [self._program, *fixed, "-C", str(folder)]
        self._environment = {
            **{k: v for k, v in os.environ.items() if k in KEPT or k.lower() in PROXIES},
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
            "GIT_ALLOW_PROTOCOL": "https:ssh:file:git",
            **self._kept_settings(folder.parent),
        }

    def _kept_settings(self, folder: Path) -> dict[str, str]:
        """As variables, since a proxy's password must not stand on a command line."""
        env = {k: v for k, v in os.environ.items() if k in (*KEPT, "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL")}
        found: dict[str, str] = {}
        for name in KEPT_SETTINGS:
            asked = run([self._program, "config", "--get-urlmatch", name, self._url], env=env, cwd=folder, check=False)
            if asked.returncode == 0:
                number = len(found) // 2
                found[f"GIT_CONFIG_KEY_{number}"] = name
                found[f"GIT_CONFIG_VALUE_{number}"] = asked.stdout.decode().rstrip("\n")
        return {**found, "GIT_CONFIG_COUNT": str(len(found) // 2)}

    def ask(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        """What git prints; raises SourceError, as only the repository can be the reason."""
        try:
            return run([*self._command, *arguments], env=self._environment, stdin=stdin).stdout
        except CommandFailed as error:
            raise SourceError(f"{self._url}: {error.reason}") from error

    def fetch(self, tag: str) -> None:
        """Bring the tag and the one commit that it points at."""
        self._folder.mkdir()
        self.ask("init", "--quiet", "--bare", "--template=", ".")
        # The pack is one file, and the limit of the shell is on files: its unit is 512 or 1024 bytes.
        limited = ["sh", "-c", f'ulimit -f {MAX_PACK // 512} && exec "$@"', "sh", *self._command]
        fetch = ["fetch", "--quiet", "--depth=1", "--no-tags", "--", self._url, f"refs/tags/{tag}:refs/tags/{tag}"]
        try:
            done = run([*limited, *fetch], env=self._environment, check=False, timeout=FETCH_SECONDS)
        except TimedOut as error:
            raise NetworkError(f"{self._url}: tag {tag} did not come within {FETCH_SECONDS} s") from error
        if done.returncode == 0:
            return
        said = " ".join(done.stderr.decode(errors="replace").split())[-600:] or f"status {done.returncode}"
        if "signal 25" in said or "File too large" in said:
            raise SourceError(f"{self._url}: the pack of tag {tag} is larger than {MAX_PACK} bytes")
        if "fsck error" in said:
            raise SourceError(f"{self._url}: tag {tag} holds objects that git refuses: {said}")
        if "find remote ref" in said:
            raise NetworkError(f"{self._url} has no tag {tag}")
        raise NetworkError(f"{self._url}: tag {tag} cannot be fetched: {said}")


def _listed(listing: bytes, what: str) -> list[_File]:
    """The entries of `git ls-tree -r -z -l`: mode, type, object, size, path."""
    files: list[_File] = []
    total = 0
    for entry in listing.split(b"\0")[:-1]:
        facts, _, name = entry.partition(b"\t")
        mode, kind, blob, size = facts.decode().split()
        path = RootedPath.parse(_name(name, what))
        if mode == "120000":
            raise SourceError(f"{what}: {path} is a symbolic link; sources hold plain files only")
        if kind == "commit":
            raise SourceError(f"{what}: {path} is a submodule; make a component of it, or use an archive that holds it")
        files.append(_File(path, 0o755 if int(mode, 8) & 0o100 else 0o644, blob, int(size)))
        total += int(size)
    if not files:
        raise SourceError(f"{what}: the commit has no files")
    if len(files) > MAX_FILES or total > MAX_BYTES:
        raise SourceError(f"{what}: {len(files)} files of {total} bytes; at most {MAX_FILES} of {MAX_BYTES} are taken")
    return files


def _name(name: bytes, what: str) -> str:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or not text:
        raise SourceError(f"{what}: a file is called {name[:200]!r}; only printable UTF-8 names are taken")
    return text


def _batches(files: Sequence[_File]) -> Iterator[list[_File]]:
    batch: list[_File] = []
    size = 0
    for file in files:
        if batch and size + file.size > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    yield batch


def _write(batch: Sequence[_File], objects: bytes, target: Path, what: str) -> None:
    """Write files from the answer of `git cat-file --batch`: for each a line with its size, its bytes, a line break."""
    position = 0
    for file in batch:
        end = objects.index(b"\n", position)
        header = _OBJECT.fullmatch(objects, position, end)
        if not header or header[1].decode() != file.blob or int(header[2]) != file.size:
            raise SourceError(f"{what}: git serves {objects[position:end][:100]!r} for {file.path}")
        position = end + 1 + file.size
        path = resolve_inside(target, file.path, what)
        path.write_bytes(memoryview(objects)[end + 1 : position])
        path.chmod(file.mode)
        position += 1
