"""A release defined from another one: what moves, what stays, what is left for review, and what is shipped again."""

import hashlib
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from engine import ARCHES, BASE, HELLO, HOST, REPO, fails, make_context, real_checkout, shared_store
from test_sources_git import GO_MOD, TAG, Repository

from pipeline.definitions import Definitions
from pipeline.draft.new_release import Draft, draft_release, make_wish, write_release
from pipeline.errors import NetworkError, PipelineError, UsageError
from pipeline.locks import make_locks
from pipeline.release import release
from pipeline.sources.go import GoSources
from pipeline.store import Store, remove_tree

OLD, NEW = "v1.0.0+rfor1", "v1.2.3+rfor1"
DEFINITION = """\
# Reviewed with care.
version: v1.0.0+rfor1
upstream: v1.0.0+rke2r3
date: 2022-11-18T00:00:00Z    # that of the tag
bases: {amd64: tiny, arm64: tiny, riscv64: tiny}
toolchains: {go: 1.20.14}
components:
  core: v1.0.0
  tool: {version: v2.1.0, go: 1.18.8, platforms: {riscv64: {version: v2.4.0, go: 1.20.14}}}
  # 2.9.0 of other is not served
  other: v2.9.1                # as upstream
  rfo: {go: 1.26.8}
deviations:
  - what: riscv64 as well
    why: it is asked for
  - what: go 1.20.14 for everything
    why: 1.19 is out of support
  - component: tool
    what: v2.4.0 on riscv64
    why: v2.1.0 does not know it
  - {component: other, what: v2.9.1 instead of v2.9.0, why: it is not served}
"""
DEPENDENCIES = """\
dependencies:
  - name: "golang: upstream version"
    version: 1.24.2
  - name: etcd
    version: 3.10
"""


class Local(GoSources):
    """The host's go, with a folder for the only origin and no checksum database, which knows nothing of it."""

    def __init__(self, store: Store, origin: Path) -> None:
        super().__init__(store)
        self.origin = origin

    def environment(self, **extra: str) -> dict[str, str]:
        return super().environment(**extra) | {"GOPROXY": self.origin.as_uri(), "GOSUMDB": "off"}


@pytest.fixture
def go(tmp_path: Path) -> Iterator[Local]:
    store = Store(tmp_path / "store")
    yield Local(store, tmp_path / "origin")
    remove_tree(store.root)


def serve(go: Local, path: str, version: str, need: str, files: dict[str, str] | None = None) -> None:
    """Let the origin have a module whose go.mod asks for Go `need`."""
    folder = go.origin / path / "@v"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{version}.info").write_text(json.dumps({"Version": version, "Time": "2026-01-01T00:00:00Z"}))
    (folder / f"{version}.mod").write_text(f"module {path}\n\ngo {need}\n")
    with zipfile.ZipFile(folder / f"{version}.zip", "w") as archive:
        for name, text in {"go.mod": f"module {path}\n", **(files or {})}.items():
            archive.writestr(f"{path}@{version}/{name}", text)
    (folder / "list").write_text("".join(f"{p.stem}\n" for p in sorted(folder.glob("*.info"))))


def serve_toolchains(go: Local, *versions: str, listed: tuple[str, ...] = ()) -> None:
    """Let the origin have toolchains, and list others that it refuses."""
    path = "golang.org/toolchain"
    for version in versions:
        serve(go, path, f"v0.0.1-go{version}.linux-{HOST}", "1.2")
    with (go.origin / path / "@v" / "list").open("a") as file:
        file.writelines(f"v0.0.1-go{v}.linux-{HOST}\n" for v in listed)


@pytest.fixture
def definitions(tmp_path: Path) -> Definitions:
    root = tmp_path / "checkout"
    shutil.copytree(REPO / "images" / "openeuler" / "bases", root / "images" / "openeuler" / "bases")
    for name in ("core", "tool", "other", "rfo"):
        source = {"tree": "components/rfo/src"} if name == "rfo" else {"go": f"example.org/{name}"}
        build = [{"binaries": {name: "."}}]
        smoke = {name: {"args": [], "prints": ""}}
        definition = {"name": name, "license": "X", "source": source, "build": build, "smoke": smoke}
        put(root, f"components/{name}/component.yaml", yaml.safe_dump(definition))
    put(root, f"releases/{OLD}/release.yaml", DEFINITION)
    return Definitions(root)


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def draft(
    definitions: Definitions, go: GoSources, version: str = NEW, *sets: str, gos: tuple[str, ...] = (), **more: str
) -> Draft:
    wish = make_wish(OLD, version, sets, gos, more.get("upstream", ""), more.get("date", "2026-01-15"))
    return draft_release(wish, definitions, go, HOST)


def components(made: Draft) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(made.text)["components"]
    return found


# --- another Kubernetes version


def test_what_follows_kubernetes_moves_and_the_rest_is_as_it_was_built(definitions: Definitions, go: Local) -> None:
    serve(go, "example.org/core", "v1.2.3", "1.24.0")
    serve_toolchains(go, "1.23.9", "1.24.1", "1.24.11", "1.25.4", listed=("1.24.13",))
    made = draft(definitions, go)
    assert made.text == (
        DEFINITION.replace("version: v1.0.0+rfor1", "version: v1.2.3+rfor1")
        .replace("v1.0.0+rke2r3", "v1.2.3+rke2r1")
        .replace("2022-11-18T00:00:00Z", "2026-01-15T00:00:00Z")
        .replace("toolchains: {go: 1.20.14}", "toolchains: {go: 1.24.11}")
        .replace("core: v1.0.0", "core: v1.2.3")
        .replace("other: v2.9.1 ", "other: {version: v2.9.1, go: 1.20.14} ")
        .replace(
            "  - what: go 1.20.14 for everything\n    why: 1.19 is out of support\n",
            "  # Review: names 1.20.14 of Go\n"
            "  # - what: go 1.20.14 for everything\n  #   why: 1.19 is out of support\n",
        )
    )
    assert [d.what for d in made.release.deviations] == [
        "riscv64 as well",
        "v2.4.0 on riscv64",
        "v2.9.1 instead of v2.9.0",
    ]
    assert "go: 1.20.14 -> 1.24.11" in made.changes
    assert "unchanged, and so still built with Go 1.20.14: other" in made.review


def test_upstreams_own_toolchain_is_preferred_and_its_other_pins_are_said(definitions: Definitions, go: Local) -> None:
    path = definitions.root / f"releases/{OLD}/release.yaml"
    path.write_text(
        path.read_text().replace("other: v2.9.1", "etcd: v3.5.4").replace("component: other", "component: etcd")
    )
    shutil.copytree(definitions.root / "components/other", definitions.root / "components/etcd")
    file = definitions.root / "components/etcd/component.yaml"
    file.write_text(file.read_text().replace("other", "etcd"))
    serve(go, "example.org/core", "v1.2.3", "1.24.0", {"build/dependencies.yaml": DEPENDENCIES})
    serve_toolchains(go, "1.24.1", "1.24.2", "1.24.11")
    made = draft(definitions, go)
    assert made.release.toolchains.go == "1.24.2"
    assert "etcd is v3.5.4; Kubernetes was tested with 3.10 (--set etcd=v3.10)" in made.review


@pytest.mark.parametrize("text", ["dependencies: [1, {name: x}]", "- a", "\0", "a: &a [*a]", "dependencies: {a: b}"])
def test_a_source_that_names_no_pins_leaves_its_go_mod(definitions: Definitions, go: Local, text: str) -> None:
    serve(go, "example.org/core", "v1.2.3", "1.21.0", {"build/dependencies.yaml": text})
    serve_toolchains(go, "1.21.0", "1.21.9")
    assert draft(definitions, go).release.toolchains.go == "1.21.9"


def test_the_old_toolchain_stays_where_it_does(definitions: Definitions, go: Local) -> None:
    serve(go, "example.org/core", "v1.2.3", "1.20")
    made = draft(definitions, go)
    assert made.release.toolchains.go == "1.20.14"
    assert components(made)["other"] == "v2.9.1"


def test_a_refused_source_is_said_with_what_there_is(definitions: Definitions, go: Local) -> None:
    serve(go, "example.org/core", "v1.2.1", "1.24.0")
    serve(go, "example.org/core", "v1.3.0", "1.24.0")
    error = fails(lambda: draft(definitions, go))
    assert isinstance(error, NetworkError)
    assert "component core: origin go module example.org/core@v1.2.3:" in error.reason
    assert error.reason.endswith("its origin lists v1.2.1")
    assert "--go VERSION" in error.hint
    assert not (definitions.root / "releases" / NEW).exists()


def test_a_named_toolchain_is_taken_without_asking(definitions: Definitions, go: Local) -> None:
    made = draft(definitions, go, NEW, gos=("1.24.13", "other=1.25.0"))
    assert made.release.toolchains.go == "1.24.13"
    assert components(made)["other"] == {"version": "v2.9.1", "go": "1.25.0"}
    assert any(line.startswith("core: ") and "example.org/core@v1.2.3: " in line for line in made.review)


def test_a_toolchain_that_nobody_serves_is_said(definitions: Definitions, go: Local) -> None:
    serve(go, "example.org/core", "v1.2.3", "1.24.5")
    serve_toolchains(go, "1.24.4", "1.25.0", listed=("1.24.6",))
    error = fails(lambda: draft(definitions, go))
    assert isinstance(error, NetworkError)
    assert "needs Go 1.24.5 or later of 1.24" in error.reason
    assert "--go VERSION" in error.hint


# --- other components


def test_a_component_with_another_version_loses_what_was_said_of_the_old_one(
    definitions: Definitions, go: Local
) -> None:
    serve(go, "example.org/tool", "v2.5.0", "1.20")
    made = draft(definitions, go, "v1.0.0+rfor2", "tool=v2.5.0")
    assert components(made) == yaml.safe_load(DEFINITION)["components"] | {"tool": "v2.5.0"}
    assert [d.what for d in made.release.deviations if d.component == "tool"] == []
    assert "tool has no version of its own on riscv64 any more (was: v2.4.0, go 1.20.14)" in made.review
    assert made.release.upstream == "v1.0.0+rke2r3"


def test_a_newer_version_of_one_architecture_stays(definitions: Definitions, go: Local) -> None:
    serve(go, "example.org/tool", "v2.3.0", "1.20")
    made = draft(definitions, go, "v1.0.0+rfor2", "tool=v2.3.0")
    assert components(made)["tool"] == {
        "version": "v2.3.0",
        "platforms": {"riscv64": {"version": "v2.4.0", "go": "1.20.14"}},
    }
    assert "tool keeps v2.4.0 on riscv64, which is newer than v2.3.0" in made.review


def test_a_component_that_needs_a_newer_go_gets_one_the_release_has(definitions: Definitions, go: Local) -> None:
    serve(go, "example.org/other", "v3.0.0", "1.25.0\n\ntoolchain go1.26.2")
    made = draft(definitions, go, "v1.0.0+rfor2", "other=v3.0.0")
    assert components(made)["other"] == {"version": "v3.0.0", "go": "1.26.8"}
    assert "comment '# 2.9.0 of other is not served' names" not in "".join(made.review)


def test_a_component_that_needs_a_newer_go_gets_a_served_one(definitions: Definitions, go: Local) -> None:
    serve(go, "example.org/other", "v3.0.0", "1.27.1")
    serve_toolchains(go, "1.27.0", "1.27.3")
    made = draft(definitions, go, "v1.0.0+rfor2", "other=v3.0.0")
    assert components(made)["other"] == {"version": "v3.0.0", "go": "1.27.3"}


def test_comments_that_name_what_is_gone_are_said(definitions: Definitions, go: Local) -> None:
    path = definitions.root / f"releases/{OLD}/release.yaml"
    path.write_text(path.read_text().replace("# 2.9.0 of other is", "# only v2.9.1 of other is"))
    serve(go, "example.org/other", "v2.9.2", "1.20")
    made = draft(definitions, go, "v1.0.0+rfor2", "other=v2.9.2")
    assert "comment '# only v2.9.1 of other is not served' names 2.9.1 of other" in made.review


# --- what is refused


@pytest.mark.parametrize(
    ("version", "sets", "gos", "more", "reason"),
    [
        (OLD, (), (), {}, "exists"),
        ("v1.2.3", (), (), {}, "not a release version"),
        ("../../x", (), (), {}, "not a release version"),
        (NEW, ("nope=v1",), (), {}, "v1.0.0+rfor1 has no component nope"),
        (NEW, ("rfo=v1",), (), {}, "rfo is built from this repository"),
        (NEW, ("tool",), (), {}, "expected NAME=VALUE"),
        (NEW, ("tool=v1", "tool=v2"), (), {}, "given twice"),
        (NEW, ("tool=../x",), (), {}, "'../x' is not a version"),
        (NEW, ("tool=v1\n  evil: v2",), (), {}, "is not a version"),
        (NEW, (), ("latest",), {}, "'latest' is not a version"),
        (NEW, (), ("nope=1.24.1",), {}, "has no component nope"),
        (NEW, (), (), {"date": "yesterday"}, "expected a day"),
        (NEW, (), (), {"date": "2026-01-15T00:00:00+02:00"}, "expected a day"),
        ("v1.0.0+rfor2", (), (), {"date": "2021-01-01"}, "which is older"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    definitions: Definitions, go: Local, version: str, sets: tuple[str, ...], gos: tuple[str, ...],
    more: dict[str, str], reason: str,
) -> None:  # fmt: skip
    before = sorted(definitions.root.rglob("*"))
    error = fails(lambda: draft(definitions, go, version, *sets, gos=gos, **more))
    assert reason in error.reason
    assert sorted(definitions.root.rglob("*")) == before


def test_an_upstream_tag_of_another_form_must_be_named(definitions: Definitions, go: Local) -> None:
    path = definitions.root / f"releases/{OLD}/release.yaml"
    path.write_text(path.read_text().replace("v1.0.0+rke2r3", "something"))
    assert isinstance(fails(lambda: draft(definitions, go, gos=("1.24.1",))), UsageError)
    assert draft(definitions, go, gos=("1.24.1",), upstream="v1.2.3+rke2r2").release.upstream == "v1.2.3+rke2r2"


def test_from_is_needed() -> None:
    error = fails(lambda: make_wish("", NEW, (), (), "", ""))
    assert "--from is missing" in error.reason


def test_every_release_of_the_repository_can_be_taken(tmp_path: Path, go: Local) -> None:
    found = Definitions(real_checkout(tmp_path / "real"))
    for version in found.releases():
        wish = make_wish(version, "v1.99.0+rfor1", (), ("1.99.0",), "", "2099-01-01")
        made = draft_release(wish, found, go, HOST)
        old = found.release(version)
        assert made.release.components.keys() == old.components.keys()
        assert len(made.release.deviations) < len(old.deviations)
        write_release(made, found)
        assert found.release("v1.99.0+rfor1") == made.release
        made.path.unlink()


def test_the_day_is_today_where_none_is_said(definitions: Definitions, go: Local) -> None:
    before = datetime.now(UTC).date()
    made = draft(definitions, go, date="", gos=("1.24.1",))
    assert before <= made.release.date.date() <= datetime.now(UTC).date()
    assert made.release.values["date"].endswith("T00:00:00Z")


# --- what is shipped again


@pytest.fixture
def series(tmp_path: Path, cached_toolchain: None) -> Path:
    """A checkout with a release of four components, locked; nobody can be asked for anything."""
    marked = HELLO.replace("hello", str(uuid4()))  # a program that was never built, whatever the store holds
    program = 'int puts(const char *);\nint main(void) { puts("c " __DATE__); }\n'
    files: dict[str, str | bytes] = {"go.mod": GO_MOD, "main.go": HELLO.replace("hello", "tagged"), "c.c": program}
    origin = Repository(tmp_path / "origin", files)
    root = tmp_path / "series"
    shutil.copytree(REPO / "images" / "openeuler" / "bases", root / "images" / "openeuler" / "bases")
    shutil.copytree(REPO / "install", root / "install")
    put(root, "components/rfo/src/main.go", marked)
    put(root, "components/rfo/src/go.mod", "module example.org/rfo\n\ngo 1.20\n")
    put(root, "components/steady/src/main.go", HELLO.replace("hello", "steady"))
    put(root, "components/steady/src/go.mod", "module example.org/steady\n\ngo 1.20\n")
    git = {"git": origin.url}
    for name, source, build, prints in (
        ("rfo", {"tree": "components/rfo/src"}, {"stamp": {"main.version": "{release}"}}, "{release}"),
        ("steady", {"tree": "components/steady/src"}, {}, "steady unset"),
        ("tagged", git, {"stamp": {"main.version": "{version}"}}, "tagged {version}"),
        ("c", git, {"compiler": "c", "binaries": {"c": "c.c"}, "flags": ["-static"]}, "c "),
    ):
        definition = {"name": name, "license": "X", "source": source, "build": [{"binaries": {name: "."}} | build],
                      "smoke": {name: {"args": [], "prints": prints}}}  # fmt: skip
        put(root, f"components/{name}/component.yaml", yaml.safe_dump(definition))
    pinned = {"version": TAG, "commit": origin.head}
    head = {"version": OLD, "upstream": "v1.0.0+rke2r1", "date": datetime(2022, 11, 18, tzinfo=UTC)}
    chosen = {"bases": dict.fromkeys(ARCHES, BASE), "toolchains": {"go": "1.20.14"},
              "components": {"rfo": {}, "steady": {}, "tagged": pinned, "c": dict(pinned)}}  # fmt: skip
    put(root, f"releases/{OLD}/release.yaml", yaml.safe_dump(head | chosen, sort_keys=False))
    make_locks(make_context(root, version=OLD), update=False)
    return root


def members(file: Path) -> dict[str, tuple[str, int, int]]:
    """Each file of a tarball: digest, mode and time."""
    with tarfile.open(file) as tar:
        files = {m.name: (m, tar.extractfile(m)) for m in tar if m.isfile()}
        return {n: (hashlib.sha256(f.read()).hexdigest(), m.mode, int(m.mtime)) for n, (m, f) in files.items() if f}


@pytest.mark.parametrize("date", ["2022-11-18", "2023-01-01"])
def test_the_next_release_of_the_same_upstream_makes_only_what_names_it(series: Path, date: str) -> None:
    first = make_context(series, version=OLD, arches=(HOST,))
    release(first)
    definitions = Definitions(series)
    wish = make_wish(OLD, "v1.0.0+rfor2", (), (), "", date)
    made = draft_release(wish, definitions, GoSources(shared_store(), offline=True), HOST)
    write_release(made, definitions)

    second = make_context(series, version="v1.0.0+rfor2", arches=(HOST,), offline=True)
    summary = release(second)
    # Of four components only the one that carries the release's name, and what is packed around it.
    assert summary.ran == 4  # build, check, tarball and sums
    assert summary.cached == 2 * 4 + 3 - summary.ran  # build and check of each, notices, tarball, sums
    old, new = (json.loads((c.dist / "release.json").read_text()) for c in (first, second))
    digests = [{(b["component"], b["platform"]): b["digest"] for b in m["binaries"]} for m in (old, new)]
    assert [k for k in digests[0] if digests[0][k] != digests[1][k]] == [("rfo", f"linux/{HOST}")]
    before, after = (members(c.dist / f"rfo.linux-{HOST}.tar.gz") for c in (first, second))
    assert before.keys() == after.keys()
    assert {n for n in before if before[n][:2] != after[n][:2]} == {"bin/rfo"}
    moved = {n for n in before if before[n][2] != after[n][2]}
    assert moved == (set() if date == "2022-11-18" else set(before))  # all of it is made for the release


def test_a_lock_is_carried_over_only_where_the_same_sources_are_read(series: Path) -> None:
    definitions = Definitions(series)
    go = GoSources(shared_store(), offline=True)
    old = (series / f"releases/{OLD}/sources.lock").read_text()
    made = draft_release(make_wish(OLD, "v1.0.0+rfor2", (), (), "", "2023-01-01"), definitions, go, HOST)
    write_release(made, definitions)
    new = (series / "releases/v1.0.0+rfor2/sources.lock").read_text()
    assert new.splitlines()[1:] == old.splitlines()[1:]
    assert make_context(series, version="v1.0.0+rfor2", offline=True).sources.lock.render() == new
    other = draft_release(make_wish(OLD, "v1.0.0+rfor3", (), ("1.18.8",), "", "2023-01-01"), definitions, go, HOST)
    assert other.locked is None
    write_release(other, definitions)
    assert not (series / "releases/v1.0.0+rfor3/sources.lock").exists()


def test_an_unwritable_folder_is_said(series: Path) -> None:
    definitions = Definitions(series)
    go = GoSources(shared_store(), offline=True)
    made = draft_release(make_wish(OLD, "v1.0.0+rfor2", (), (), "", "2023-01-01"), definitions, go, HOST)
    put(series, "releases/v1.0.0+rfor2", "a file in the way")
    error = fails(lambda: write_release(made, definitions))
    assert isinstance(error, PipelineError)
    assert "cannot be written" in error.reason
