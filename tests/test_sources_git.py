"""Git sources: what is exported, what is refused, and a program built from one. Repositories are made by the test."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from engine import HELLO, HOST, REPO, fails, make_context, write_checkout

from pipeline.definitions import Source
from pipeline.errors import DefinitionError, HostError, NetworkError, SourceError
from pipeline.graph import Graph
from pipeline.lock import SourcesLock
from pipeline.locks import make_locks
from pipeline.model import Digest
from pipeline.publish.manifest import describe_release
from pipeline.release import release
from pipeline.scheduler import Result
from pipeline.sources import git
from pipeline.sources.snapshot import Snapshots
from pipeline.store import Store

TAG = "v1.0.0"
TIME = "2021-02-03T04:05:06Z"
GO_MOD = "module example.org/hello\n\ngo 1.20\n"


class Repository:
    """A repository with one commit under a tag, in the way that a person makes one."""

    def __init__(self, folder: Path, files: dict[str, str | bytes] | None = None) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        if files:
            self.commit(files)
            self.git("tag", TAG)

    def git(self, *arguments: str, stdin: bytes | None = None) -> str:
        date = TIME.replace("Z", "+00:00")
        env = {
            "PATH": os.environ["PATH"], "HOME": str(self.folder.parent), "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date,
        }  # fmt: skip
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"]
        command = ["git", "-C", str(self.folder), *who, *arguments]
        return subprocess.run(command, env=env, input=stdin, check=True, capture_output=True).stdout.decode().strip()

    def commit(self, files: dict[str, str | bytes]) -> str:
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change")
        return self.head

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    @property
    def url(self) -> str:
        return self.folder.as_uri()

    def export(self, tmp: Path, *, tag: str = TAG, commit: str = "") -> Path:
        """What the pipeline takes from it."""
        work, target = tmp / "work", tmp / "out"
        work.mkdir()
        target.mkdir()
        git.export_commit(self.url, tag, commit or self.head, work=work, target=target)
        return target


@pytest.fixture
def hello(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "origin", {"main.go": HELLO, "go.mod": GO_MOD})


def checkout_of(folder: Path, source: dict[str, Any], choice: dict[str, Any]) -> Path:
    """A checkout whose component `hello` has a foreign source, without a lock."""
    definition = {
        "name": "hello",
        "license": "Apache-2.0",
        "source": source,
        "build": [{"binaries": {"hello": "."}, "stamp": {"main.version": "{release}"}}],
        "smoke": {"hello": {"args": [], "prints": "hello {release}"}},
    }
    return write_checkout(folder, {"hello": definition}, {}, {"hello": choice}, lock=False)


def git_checkout(folder: Path, origin: Repository, **source: Any) -> Path:
    return checkout_of(folder, {"git": origin.url, **source}, {"version": TAG, "commit": origin.head})


# --- what is exported


def test_files_and_their_modes_are_exported_without_the_repository(hello: Repository, tmp_path: Path) -> None:
    script = hello.folder / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    hello.commit({"deep/er/data": b"\0\xff\n"})
    hello.git("tag", "--force", TAG)
    out = hello.export(tmp_path)
    found = {p.relative_to(out).as_posix(): p.stat().st_mode & 0o777 for p in out.rglob("*") if p.is_file()}
    assert found == {"main.go": 0o644, "go.mod": 0o644, "run.sh": 0o755, "deep/er/data": 0o644}
    assert (out / "deep/er/data").read_bytes() == b"\0\xff\n"


def test_attributes_change_no_byte(tmp_path: Path) -> None:
    attributes = "* text eol=crlf\nv.txt export-subst\nhidden export-ignore\n*.go filter=shout ident\n"
    files: dict[str, str | bytes] = {
        ".gitattributes": attributes, "v.txt": "$Format:%H$\n", "hidden": "x\n", "a.go": "$Id$\n",
    }  # fmt: skip
    out = Repository(tmp_path / "origin", files).export(tmp_path)
    assert {p.name: p.read_text() for p in out.iterdir()} == files
    assert (out / "v.txt").read_bytes() == b"$Format:%H$\n"


def test_an_annotated_tag_counts_as_its_commit(hello: Repository, tmp_path: Path) -> None:
    hello.git("tag", "--annotate", "--message", "release", "v2.0.0")
    assert (hello.export(tmp_path, tag="v2.0.0") / "main.go").exists()


def test_no_setting_of_the_user_is_heeded_and_no_hook_runs(
    hello: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("reference-transaction", "post-checkout", "pre-auto-gc"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (hooks / name).chmod(0o755)
    config = tmp_path / "config"
    config.write_text(
        f"[core]\n\thooksPath = {hooks}\n\tautocrlf = true\n"
        f'[url "file:///nowhere/"]\n\tinsteadOf = file://\n[http]\n\tproxy = http://user:word@192.0.2.1:1\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert (hello.export(tmp_path) / "main.go").read_text() == HELLO
    assert not (tmp_path / "ran").exists()


def test_the_proxy_of_the_hosts_git_is_used_for_urls_it_is_meant_for(
    hello: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text('[http "https://127.0.0.1/"]\n\tproxy = http://127.0.0.1:9\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    with pytest.raises(NetworkError, match=r"(?i)proxy|port 9|127\.0\.0\.1:9"):
        git.export_commit("https://127.0.0.1/x", TAG, "0" * 40, work=tmp_path, target=tmp_path)


# --- what is refused


def test_a_moved_tag_is_refused_with_both_commits(hello: Repository, tmp_path: Path) -> None:
    locked = hello.head
    moved = hello.commit({"main.go": "package main\n"})
    hello.git("tag", "--force", TAG)
    with pytest.raises(SourceError, match=f"{TAG} points at commit {moved}; the definition says {locked}"):
        hello.export(tmp_path, commit=locked)


def test_a_missing_tag_is_the_origins_fault(hello: Repository, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"has no tag v9\.9\.9"):
        hello.export(tmp_path, tag="v9.9.9")


def test_a_missing_repository_is_the_origins_fault(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="cannot be fetched"):
        git.export_commit(f"file://{tmp_path}/none", TAG, "0" * 40, work=tmp_path, target=tmp_path)


def test_a_link_is_refused(hello: Repository, tmp_path: Path) -> None:
    (hello.folder / "link").symlink_to("main.go")
    hello.commit({})
    hello.git("tag", "--force", TAG)
    with pytest.raises(SourceError, match="link is a symbolic link"):
        hello.export(tmp_path)


def test_a_submodule_is_refused(hello: Repository, tmp_path: Path) -> None:
    hello.git("submodule", "add", "--quiet", hello.url, "third/party")
    hello.commit({})
    hello.git("tag", "--force", TAG)
    with pytest.raises(SourceError, match="third/party is a submodule"):
        hello.export(tmp_path)


@pytest.mark.parametrize("name", ["..", ".git", "."])
def test_a_name_that_git_forbids_is_refused_when_it_is_fetched(name: str, tmp_path: Path) -> None:
    origin = Repository(tmp_path / "origin", {"file": "x"})
    blob = origin.git("rev-parse", "HEAD:file")
    entry = f"100644 {name}\0".encode() + bytes.fromhex(blob)
    tree = origin.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=entry)
    commit = origin.git("commit-tree", "-m", "bad", tree)
    origin.git("tag", "--force", TAG, commit)
    with pytest.raises(SourceError, match="git refuses"):
        origin.export(tmp_path, commit=commit)


@pytest.mark.parametrize("name", [b"a\nb", b"\xff", b"\x1b[2J"])
def test_an_unprintable_name_is_refused(name: bytes, tmp_path: Path) -> None:
    origin = Repository(tmp_path / "origin", {"file": "x"})
    (origin.folder / os.fsdecode(name)).write_text("x")
    origin.commit({})
    origin.git("tag", "--force", TAG)
    with pytest.raises(SourceError, match="only printable UTF-8 names"):
        origin.export(tmp_path)


@pytest.mark.parametrize(("limit", "value"), [("MAX_BYTES", 100), ("MAX_FILES", 1)])
def test_a_large_commit_is_refused(
    limit: str, value: int, hello: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git, limit, value)
    with pytest.raises(SourceError, match="at most"):
        hello.export(tmp_path)


def test_a_large_pack_is_refused_while_it_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = Repository(tmp_path / "origin", {"noise": os.urandom(3 << 20)})
    monkeypatch.setattr(git, "MAX_PACK", 1 << 20)
    with pytest.raises(SourceError, match="larger than 1048576 bytes"):
        origin.export(tmp_path)


def test_files_are_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, str | bytes] = {f"f{i}": f"{i}\n" * 50 for i in range(20)}
    monkeypatch.setattr(git, "BATCH", 250)
    out = Repository(tmp_path / "origin", files).export(tmp_path)
    assert {p.name: p.read_text() for p in out.iterdir()} == files


def test_without_git_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *, packages: str) -> str:
        raise HostError(name, packages)

    monkeypatch.setattr(git, "find_program", missing)
    error = fails(lambda: git.export_commit("file:///x", TAG, "0" * 40, work=tmp_path, target=tmp_path))
    assert "apt-get install git" in error.hint


@pytest.mark.parametrize("url", ["ext::sh -c x", "/a/path", "http://a/b", "-upload-pack=x", "https://a/b c"])
def test_other_transports_and_spaces_are_no_definition(url: str) -> None:
    with pytest.raises(ValueError, match="git"):
        Source(git=url)


# --- pins


def test_the_pin_has_origin_tag_commit_and_time_and_is_the_same_for_everyone(hello: Repository, tmp_path: Path) -> None:
    units = make_context(git_checkout(tmp_path / "c", hello)).all_units
    pins = [Snapshots(Store(tmp_path / s)).lock(units, 0)["hello"] for s in ("one", "two")]
    assert pins[0] == pins[1]
    assert pins[0].line() == (
        f"git hello {hello.url} {TAG} {hello.head} {pins[0].size} {pins[0].tar} {TIME}"
    )  # fmt: skip
    assert Digest.of_file(Store(tmp_path / "one").blob(pins[0].tar)) == pins[0].tar
    made = SourcesLock("v1.0.0+rfor1", Digest("0" * 64), snapshots={"hello": pins[0]})
    assert SourcesLock.parse(made.render(), "x") == made


def test_a_tag_template_is_filled(hello: Repository, tmp_path: Path) -> None:
    hello.git("tag", "release/1.0.0")
    units = make_context(git_checkout(tmp_path / "c", hello, tag="release/{number}")).all_units
    assert Snapshots(Store(tmp_path / "s")).lock(units, 0)["hello"].origin[1] == "release/1.0.0"


def test_a_release_without_the_commit_is_refused(hello: Repository, tmp_path: Path) -> None:
    units = make_context(checkout_of(tmp_path / "c", {"git": hello.url}, {"version": TAG})).all_units
    with pytest.raises(DefinitionError, match="component hello: a git source needs the hash of its commit") as error:
        Snapshots(Store(tmp_path / "s")).lock(units, 0)
    assert "commit: HASH" in error.value.hint


def test_a_component_that_takes_anothers_source_takes_its_commit(hello: Repository, tmp_path: Path) -> None:
    folder = git_checkout(tmp_path / "c", hello)
    definition = (folder / "components/hello/component.yaml").read_text()
    (folder / "components/other").mkdir()
    text = definition.replace("name: hello", "name: other").replace(f"git: {hello.url}", "component: hello")
    (folder / "components/other/component.yaml").write_text(text)
    release_file = folder / "releases/v1.0.0+rfor1/release.yaml"
    release_file.write_text(release_file.read_text().replace("components:\n", "components:\n  other: v5.0.0\n"))
    pins = Snapshots(Store(tmp_path / "s")).lock(make_context(folder).all_units, 0)
    assert pins["other"].origin == pins["hello"].origin
    assert pins["other"].tar == pins["hello"].tar


def test_offline_a_missing_pin_is_named_with_the_next_command(hello: Repository, tmp_path: Path) -> None:
    units = make_context(git_checkout(tmp_path / "c", hello)).all_units
    pins = Snapshots(Store(tmp_path / "one")).lock(units, 0)
    with pytest.raises(NetworkError, match=f"(?s)--offline forbids.*component hello: git {hello.url} {TAG}") as error:
        Snapshots(Store(tmp_path / "two"), offline=True).fetch(units, pins)
    assert "./inv fetch" in error.value.hint


def test_a_pin_that_is_gone_is_named_with_the_way_out(hello: Repository, tmp_path: Path) -> None:
    units = make_context(git_checkout(tmp_path / "c", hello)).all_units
    pins = Snapshots(Store(tmp_path / "one")).lock(units, 0)
    hello.git("tag", "--delete", TAG)
    with pytest.raises(NetworkError, match=rf"(?s)gone from their origin.*component hello: .*{TAG}") as error:
        Snapshots(Store(tmp_path / "two")).fetch(units, pins)
    assert "--update" in error.value.hint
    assert "--source hello=" in error.value.hint


def test_a_repository_on_disk_can_be_given_in_place_of_the_origin(hello: Repository, tmp_path: Path) -> None:
    copy = tmp_path / "copy.git"
    hello.git("clone", "--quiet", "--bare", hello.url, str(copy))
    checkout = git_checkout(tmp_path / "c", hello)
    expected = Snapshots(Store(tmp_path / "one")).lock(make_context(checkout).all_units, 0)
    hello.folder.rename(tmp_path / "gone")
    context = make_context(checkout, Store(tmp_path / "two"), sources={"hello": copy})
    assert context.snapshots.lock(context.all_units, 0) == expected


def test_a_damaged_pin_is_fetched_again(hello: Repository, tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    units = make_context(git_checkout(tmp_path / "c", hello)).all_units
    pin = Snapshots(store).lock(units, 0)["hello"]
    blob = store.blob(pin.tar)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with Snapshots(store).folder(units[0], pin) as folder:
        assert (folder / "main.go").read_text() == HELLO


# --- building from one


@pytest.mark.usefixtures("cached_toolchain")
def test_a_program_is_built_from_a_git_source(hello: Repository, tmp_path: Path) -> None:
    checkout = git_checkout(tmp_path / "c", hello)
    make_locks(make_context(checkout), update=False)
    hello.folder.rename(tmp_path / "gone")
    context = make_context(checkout, components=("hello",), arches=(HOST,), offline=True)
    summary = release(context)
    assert subprocess.run([summary.binaries[0][1]], capture_output=True, check=True).stdout == b"hello v1.0.0+rfor1\n"
    unit = context.units[0]
    assert context.inputs[HOST].source_epoch(unit) == 1612325106
    facts = context.inputs[HOST].identity(unit)
    assert facts["files"] == str(context.sources.lock.snapshots["hello"].tar)
    assert set(facts) == {"files", "toolchain", "modules"}
    shutil.copytree(REPO / "install", checkout / "install")
    described = describe_release(context, Graph([]), Result(), [HOST])["components"][0]["sources"][0]
    assert described["commit"] == context.sources.lock.snapshots["hello"].origin[2]
    assert described["files"] == facts["files"]


@pytest.mark.usefixtures("cached_toolchain")
@pytest.mark.parametrize(
    ("target", "there"), [("./sub", True), ("./none", False), ("../origin/sub", False), ("/etc", False)]
)
def test_a_replacement_by_a_directory_stays_if_the_repository_has_it(target: str, there: bool, tmp_path: Path) -> None:
    origin = Repository(
        tmp_path / "origin",
        {
            "go.mod": f"{GO_MOD}\nrequire example.org/sub v0.0.0\n\nreplace example.org/sub => {target}\n",
            "main.go": 'package main\n\nimport "example.org/sub"\n\nfunc main() { sub.Hello() }\n',
            "sub/go.mod": "module example.org/sub\n\ngo 1.20\n",
            "sub/sub.go": "package sub\n\nfunc Hello() {}\n",
        },
    )
    context = make_context(git_checkout(tmp_path / "c", origin))
    if not there:
        with pytest.raises(DefinitionError, match=r"replaces example\.org/sub by the local directory") as error:
            context.sources  # noqa: B018 - making it is the effect
        assert "source.replace" in error.value.hint
        return
    assert not context.sources.overlays
    assert not context.sources.lock.modules
