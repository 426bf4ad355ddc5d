"""Source bundles: the same bytes from the same pins, a build from nothing else, and what a bad one is told."""

import dataclasses
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rpm_mirror
from backports.zstd import ZstdFile
from engine import (
    BASE,
    GO,
    HOST,
    REAL,
    REPO,
    SMALL,
    digests,
    fails,
    make_context,
    real_checkout,
    run,
    run_process,
    said,
)
from test_base_deb import make_deb, tar

from pipeline.baselocks import base_lock_path, base_subject
from pipeline.bundle.licences import package_licence
from pipeline.bundle.read import fetch_from_bundle, import_bundle
from pipeline.bundle.write import make_bundle
from pipeline.context import Context
from pipeline.definitions import Definitions
from pipeline.errors import DefinitionError, NetworkError, SourceError, StoreError, UsageError
from pipeline.lock import BaseLock, MainModule, Package, Snapshot, SourcesLock, Toolchain, write_atomically
from pipeline.model import Digest, Module, RootedPath, escape_module
from pipeline.pack.tar import Entry, write_tar
from pipeline.pack.zstd import compress
from pipeline.sources.go import hash_tree
from pipeline.sources.gocache import hash_mod, pack_module
from pipeline.sources.snapshot import write_files
from pipeline.store import Store, remove_tree
from pipeline.units import lock_subject

MODS = {
    "example.org/Dep": "module example.org/Dep\n\ngo 1.16\n\nrequire (\n\texample.org/only v1.0.0\n"
    "\texample.org/near v1.0.0\n\texample.org/near/sub v1.0.0\n)\n",
    "example.org/only": "module example.org/only\n\ngo 1.16\n",
    "example.org/near": "module example.org/near\n\ngo 1.16\n",
    "example.org/near/sub": "module example.org/near/sub\n\ngo 1.16\n",
}
DEP_GO = 'package dep\n\nimport _ "example.org/near/sub"\n'
HELLO_MOD = "module example.org/hello\n\ngo 1.16\n\nrequire example.org/Dep v1.0.0\n"
HELLO = 'package main\n\nimport _ "example.org/Dep"\n\nfunc main() {}\n'
LICENCE = "May be used by whoever finds it."
FORGED = "sha256:" + "0" * 64


class World:
    """A release with everything a bundle can hold, all of it tiny, and a store that has it.

    hello is Go with dependencies: near/sub gives a package, near could by its path and does not, so go opens it to
    see; of only nothing but the go.mod is read. Its toolchain hands over to the host's Go. conv is C from an archive,
    plain is C from a Go module. The base is floating.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkout = folder / "checkout"
        self.store = Store(folder / "store")
        self._define()
        self.dep = self._dependency("example.org/Dep", DEP_GO)
        self.near = self._dependency("example.org/near", "package near\n")
        self.sub = self._dependency("example.org/near/sub", "package sub\n")
        for path, text in MODS.items():
            write_atomically(self.cached(path), text.encode())
        pack_module(self.near, self.store.gomod / self.near.directory, self.cached("example.org/near", "zip"))
        self.plain = self._module("example.org/plain", "v1.0.0", {"plain.c": "int main(void) { return 0; }\n"})
        host = f'#!/bin/sh\nunset GOROOT\nexec {shutil.which("go")} "$@"\n'
        self.toolchain = self._module("golang.org/toolchain", f"v0.0.1-go{GO}.linux-{HOST}", {"bin/go": host})
        self._lock_sources(self._snapshot())
        self.lock_base(["sh", "libc"])

    def _define(self) -> None:
        def component(name: str, source: dict[str, str], build: dict[str, Any]) -> dict[str, Any]:
            smoke = {name: {"args": [], "prints": name}}
            return {"name": name, "license": "MIT", "source": source, "build": [build], "smoke": smoke}

        c = {"compiler": "c", "flags": ["-Wall"]}
        components = [
            component("hello", {"tree": "components/hello/src"}, {"binaries": {"hello": "."}}),
            component("conv", {"archive": "https://example.org/conv-{version}.tar"}, c | {"binaries": {"conv": "c.c"}}),
            component("plain", {"go": "example.org/plain"}, c | {"binaries": {"plain": "plain.c"}}),
        ]
        for one in components:
            self.put(f"components/{one['name']}/component.yaml", json.dumps(one))
        self.put("components/hello/src/go.mod", HELLO_MOD)
        self.put("components/hello/src/main.go", HELLO)
        sums = {"conv": {"version": "v1.0.0", "sha256": "c" * 64}, "plain": {"version": "v1.0.0"}, "hello": {}}
        head = {"version": SMALL, "upstream": "v1.0.0+rke2r1", "bases": {HOST: "tiny"}, "toolchains": {"go": GO}}
        release = json.dumps(head | {"date": 0, "components": sums})
        self.put(f"releases/{SMALL}/release.yaml", release.replace('"date": 0', '"date": 2022-11-18T00:00:00Z'))
        roots = {"builder": {"per": "host", "packages": ["sh"]}, "sysroot": {"per": "target", "packages": ["libc"]}}
        base = {"name": "tiny", "family": "deb", "floating": True, "origin": "Nowhere", "keys": ["A" * 40]}
        suites = {HOST: ["stable"]}
        self.put(
            "images/openeuler/bases/tiny.yaml",
            json.dumps(base | {"suites": suites, "roots": roots, "compilers": {HOST: "gcc"}}),
        )

    def put(self, name: str, text: str) -> None:
        write_atomically(self.checkout / name, text.encode())

    def _module(self, path: str, version: str, files: dict[str, str]) -> Module:
        place = self.store.gomod / Module(path, version, f"h1:{'A' * 43}=").directory
        for name, text in {**files, "LICENSE": LICENCE}.items():
            write_atomically(place / name, text.encode())
        module = Module(path, version, hash_tree(place, f"{path}@{version}"))
        mark = f"cache/download/{escape_module(path)}/@v/{version}.ziphash"
        write_atomically(self.store.gomod / mark, module.sum.encode())
        return module

    def _dependency(self, path: str, text: str) -> Module:
        return self._module(path, "v1.0.0", {"go.mod": MODS[path], "dep.go": text})

    def cached(self, path: str, suffix: str = "mod") -> Path:
        return self.store.gomod / "cache" / "download" / escape_module(path) / "@v" / f"v1.0.0.{suffix}"

    def _snapshot(self) -> Snapshot:
        with self.store.workspace() as work:
            files = work / "files"
            write_atomically(files / "c.c", b"int main(void) { return 0; }\n")
            write_files(files, work / "tar", "conv")
            made = self.store.add(work / "tar")
        origin = ("https://example.org/conv-v1.0.0.tar", "sha256:" + "c" * 64)
        return Snapshot("conv", "archive", origin, made.size, made.digest, "2022-01-01T00:00:00Z")

    def _lock_sources(self, snapshot: Snapshot) -> None:
        lock = SourcesLock(SMALL, lock_subject(self.context().all_units), snapshots={"conv": snapshot})
        lock.toolchains[GO] = Toolchain(GO, HOST, self.toolchain.sum)
        lock.mains["plain"] = MainModule("plain", self.plain, "2022-01-01T00:00:00Z")
        lock.modules.update(dict.fromkeys((self.dep, self.sub), frozenset({"hello"})))
        sums = "".join(f"{m.path} {m.version} {m.sum}\n" for m in (self.dep, self.near, self.sub))
        sums += "".join(f"{path} v1.0.0/go.mod {hash_mod(text.encode())}\n" for path, text in MODS.items())
        self.put(f"releases/{SMALL}/overlay/hello/go.mod", HELLO_MOD)
        self.put(f"releases/{SMALL}/overlay/hello/go.sum", sums)
        self.put(f"releases/{SMALL}/sources.lock", lock.render())

    def lock_base(self, names: list[str]) -> None:
        base = Definitions(self.checkout).base("tiny")
        packages = []
        for name, root in zip(names, ("builder", "sysroot"), strict=True):
            files: dict[str, Any] = dict.fromkeys(("usr", "usr/share", "usr/share/doc"))
            files |= {f"usr/share/doc/{name}": None, f"usr/share/doc/{name}/copyright": f"{name}: {LICENCE}".encode()}
            made = self.store.add_bytes(make_deb(tar(files)))
            packages.append(Package(root, HOST, name, "1", f"pool/{name}_1.deb", made.size, made.digest))
        text = BaseLock("tiny", tuple(packages), (), definition=base_subject(base)).render()
        write_atomically(self.base_lock(self.store), text.encode())

    def base_lock(self, store: Store) -> Path:
        return base_lock_path(Definitions(self.checkout).base("tiny"), SMALL, Definitions(self.checkout), store)

    def context(self, store: Store | None = None, **options: Any) -> Context:
        return make_context(self.checkout, store or self.store, offline=True, **options)

    def bundle(self, name: str = "bundle.tar.zst", **options: Any) -> Path:
        return make_bundle(self.context(**options), self.folder / name)


DEP = "modules/example.org/!dep/@v/v1.0.0.zip"
NEAR = "modules/example.org/near/@v/v1.0.0.zip"
ONLY = "modules/example.org/only/@v/v1.0.0.mod"
PACKAGE = "packages/tiny/pool/sh_1.deb"
BASE_LOCK = "locks/bases/tiny.lock"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def bundle(world: World) -> Path:
    return world.bundle()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "empty")
    yield made
    remove_tree(made.root)


Files = dict[str, bytes]


def members(bundle: Path) -> Files:
    with ZstdFile(bundle) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
        return {m.name: file.read() for m in archive if (file := archive.extractfile(m))}


def write_again(target: Path, files: Files, *, listed: bool = True) -> Path:
    """A bundle of other members; with `listed` bundle.json tells of them as they are."""
    if listed:
        index = json.loads(files["bundle.json"])
        known = {m["name"]: m for m in index["members"]}
        index["members"] = [
            known.get(name, {"pin": "?"}) | {"name": name, "digest": str(Digest.of_bytes(data)), "size": len(data)}
            for name, data in sorted(files.items())
            if name != "bundle.json"
        ]
        files = files | {"bundle.json": json.dumps(index).encode()}
    with target.open("wb") as file, compress(file) as stream:
        write_tar(stream, [Entry(RootedPath(n), 0o644, 0, d) for n, d in files.items()], time=0)
    return target


def content(store: Store) -> set[tuple[str, Digest]]:
    """What a store has that somebody could use."""
    places = [store.root / "blobs", store.gomod, store.root / "locks-of-bases"]
    files = [p for place in places for p in place.rglob("*") if p.is_file()]
    return {(str(p.relative_to(store.root)), Digest.of_file(p)) for p in files}


# --- making one


def test_it_holds_every_pin_with_its_digest_and_terms(world: World, bundle: Path) -> None:
    files = members(bundle)
    assert next(iter(files)) == "bundle.json"
    index = json.loads(files["bundle.json"])
    assert (index["version"], index["bases"]) == (SMALL, {HOST: "tiny"})
    assert {m["name"]: (m["digest"], m["size"]) for m in index["members"]} == {
        name: (str(Digest.of_bytes(data)), len(data)) for name, data in files.items() if name != "bundle.json"
    }
    pinned = {n for n in files if not n.startswith("licences/")} - {"bundle.json"}
    assert {
        DEP,
        NEAR,
        ONLY,
        PACKAGE,
        BASE_LOCK,
        "modules/example.org/!dep/@v/v1.0.0.mod",
        "locks/sources.lock",
    } <= pinned
    assert len([n for n in pinned if n.startswith("snapshots/")]) == 1
    assert len(pinned) == 16
    with_terms = {n for n in pinned if not n.startswith("locks/") and not n.endswith(".mod")}
    assert {n for n in files if n.startswith("licences/")} == {f"licences/{n}.txt" for n in with_terms}
    assert LICENCE in files[f"licences/{DEP}.txt"].decode()
    assert f"sh: {LICENCE}" in files[f"licences/{PACKAGE}.txt"].decode()
    assert world.dep.sum in next(m["pin"] for m in index["members"] if m["name"] == DEP)


def test_equal_pins_give_equal_bytes_wherever_they_are_packed(world: World, bundle: Path, tmp_path: Path) -> None:
    before, umask = Path.cwd(), os.umask(0o077)
    try:
        os.chdir(tmp_path)
        (world.store.gomod / world.dep.directory / "dep.go").touch()
        (world.store.gomod / world.dep.directory / "dep.go").chmod(0o755)
        again = world.bundle("again.tar.zst")
    finally:
        os.chdir(before)
        os.umask(umask)
    assert again.read_bytes() == bundle.read_bytes()
    assert not list(world.folder.glob(".*"))


def test_one_made_from_an_imported_store_is_the_same(world: World, bundle: Path, empty: Store) -> None:
    fetch_from_bundle(bundle, world.context(empty))
    again = make_bundle(world.context(empty), world.folder / "imported.tar.zst")
    assert again.read_bytes() == bundle.read_bytes()


def test_its_default_place_is_the_folder_of_the_release(world: World) -> None:
    made = make_bundle(world.context(), None)
    assert made == world.checkout / "dist" / SMALL / "rfo-sources.tar.zst"


def test_go_reads_its_modules_as_a_proxy(bundle: Path, tmp_path: Path) -> None:
    for name, data in members(bundle).items():
        if name.startswith("modules/"):
            write_atomically(tmp_path / name, data)
    write_atomically(tmp_path / "src" / "go.mod", HELLO_MOD.encode())
    write_atomically(tmp_path / "src" / "go.sum", members(bundle)["locks/overlay/hello/go.sum"])
    write_atomically(tmp_path / "src" / "main.go", HELLO.encode())
    proxy = {"GOPROXY": (tmp_path / "modules").as_uri(), "GOSUMDB": "off", "GOMODCACHE": str(tmp_path / "cache")}
    env = {**os.environ, **proxy, "GOFLAGS": "-modcacherw", "GOTOOLCHAIN": "local"}
    subprocess.run(["go", "build", "."], cwd=tmp_path / "src", env=env, check=True, capture_output=True)


def test_a_module_that_a_build_reads_and_nothing_pins_is_told(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    sums = world.checkout / "releases" / SMALL / "overlay/hello/go.sum"
    sums.write_text(sums.read_text().replace(f"example.org/near v1.0.0 {world.near.sum}\n", ""))
    error = fails(world.bundle)
    assert "example.org/near" in error.reason
    assert not (world.folder / "bundle.tar.zst").exists()


def test_a_pin_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    tree = world.store.gomod / world.dep.directory
    (tree / "dep.go").write_text("package evil\n")
    error = fails(world.bundle)
    assert isinstance(error, NetworkError)
    assert str(world.dep) in error.reason
    assert not list(world.folder.glob("*.zst"))


def test_a_full_disk_is_told_before_anything_is_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(world.folder)._replace(free=1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    error = fails(lambda: world.bundle("full.tar.zst"))
    assert isinstance(error, StoreError)
    assert "--bundle PATH" in error.hint
    assert not (world.folder / "full.tar.zst").exists()


def test_the_terms_of_an_rpm_are_found(tmp_path: Path) -> None:
    spec = tmp_path / "tiny.spec"
    spec.write_text(
        "Name: tiny\nVersion: 1\nRelease: 1\nSummary: tiny\nLicense: MIT\n%description\ntiny\n%install\n"
        "mkdir -p %{buildroot}/usr/share/licenses/tiny %{buildroot}/usr/share/doc/tiny\n"
        f"echo '{LICENCE}' > %{{buildroot}}/usr/share/licenses/tiny/COPYING\n"
        "echo other > %{buildroot}/usr/share/doc/tiny/README\n"
        "%files\n/usr/share/licenses/tiny\n/usr/share/doc/tiny\n"
    )
    rpm_mirror.run("rpmbuild", "-bb", "--define", f"_topdir {tmp_path}", "--define", "_binary_payload w2.xzdio", spec)
    (package,) = (tmp_path / "RPMS").rglob("*.rpm")
    base = Definitions(REPO).base("openeuler-22.03-lts-sp4")
    terms = package_licence("package tiny", package, base, tmp_path / "work").decode()
    assert "licenses/tiny/COPYING" in terms
    assert LICENCE in terms
    assert "other" not in terms


def test_a_deb_without_terms_says_which_package_has_them(tmp_path: Path) -> None:
    files = {"usr": None, "usr/share": None, "usr/share/doc": None, "usr/share/doc/gcc": "gcc-base"}
    (tmp_path / "deb").write_bytes(make_deb(tar(files)))
    terms = package_licence("package gcc", tmp_path / "deb", Definitions(REPO).base(BASE), tmp_path / "work").decode()
    assert "doc/gcc" in terms
    assert "a link to gcc-base" in terms


# --- importing one


def test_an_empty_store_gets_every_pin(world: World, bundle: Path, empty: Store) -> None:
    context = world.context(empty)
    fetch_from_bundle(bundle, context)
    assert f"every pin of {SMALL}" in said(context)
    assert world.base_lock(empty).read_bytes() == world.base_lock(world.store).read_bytes()
    inputs = context.inputs[HOST]
    for unit in context.units:
        inputs.ensure(unit)


def test_a_second_import_changes_nothing(world: World, bundle: Path, empty: Store) -> None:
    import_bundle(bundle, world.context(empty))
    before = {p: p.stat().st_mtime_ns for p in empty.root.rglob("*") if p.is_file()}
    import_bundle(bundle, world.context(empty))
    after = {p: p.stat().st_mtime_ns for p in empty.root.rglob("*") if p.is_file() and "locks" not in p.parts}
    assert after == {p: t for p, t in before.items() if "locks" not in p.parts}


def test_what_is_damaged_in_the_store_is_mended(world: World, bundle: Path, empty: Store) -> None:
    import_bundle(bundle, world.context(empty))
    tree = empty.gomod / world.dep.directory
    (tree / "dep.go").chmod(0o644)
    (tree / "dep.go").write_text("package evil\n")
    blob = empty.blob(Digest.of_bytes(members(bundle)[PACKAGE]))
    blob.chmod(0o644)
    blob.write_bytes(b"evil")
    (empty.gomod / "cache/download/example.org/only/@v/v1.0.0.mod").write_text("module evil\n")
    (empty.gomod / "cache/download/example.org/near/@v/v1.0.0.zip").unlink()
    fetch_from_bundle(bundle, world.context(Store(empty.root)))
    assert make_bundle(world.context(Store(empty.root)), empty.root / "again").read_bytes() == bundle.read_bytes()
    assert (tree / "dep.go").read_text() == DEP_GO
    assert blob.read_bytes() == members(bundle)[PACKAGE]


def test_a_full_store_is_told_before_anything_is_imported(
    world: World, bundle: Path, empty: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(world.folder)._replace(free=1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    error = fails(lambda: import_bundle(bundle, world.context(empty)))
    assert isinstance(error, StoreError)
    assert "RFO_STORE" in error.hint
    assert not content(empty)


@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_killed_import_is_finished_by_the_next(world: World, bundle: Path, empty: Store, share: float) -> None:
    """The process dies when it has read a share of the bundle."""
    program = (
        f"import os, signal, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path\n"
        "from engine import make_context; from pipeline.store import Store; import pipeline.bundle.read as read\n"
        "calls, take = [], read._Import._take\n"
        "def dying(self, member, content):\n"
        "    calls.append(1); share = len(calls) / len(self.index.members)\n"
        f"    os.kill(os.getpid(), signal.SIGKILL) if share > {share} else take(self, member, content)\n"
        "read._Import._take = dying\n"
        f"context = make_context(Path({str(world.checkout)!r}), Store(Path({str(empty.root)!r})), offline=True)\n"
        f"read.import_bundle(Path({str(bundle)!r}), context)\n"
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    fetch_from_bundle(bundle, world.context(empty))
    assert make_bundle(world.context(empty), empty.root / "again").read_bytes() == bundle.read_bytes()


def refused(world: World, bundle: Path, store: Store, **options: Any) -> str:
    """What the import of a bad bundle says. Whatever it left in the store is what the good one has, too."""
    error = fails(lambda: import_bundle(bundle, world.context(store, **options)))
    assert isinstance(error, SourceError), error
    assert error.hint
    assert not world.base_lock(store).exists()
    assert content(store) <= content(world.store)
    assert not list((store.root / "tmp").iterdir())
    return error.reason


def test_a_missing_member_is_named(world: World, bundle: Path, tmp_path: Path) -> None:
    for number, name in enumerate((DEP, PACKAGE, BASE_LOCK, "locks/sources.lock", f"licences/{DEP}.txt", ONLY)):
        files = {n: d for n, d in members(bundle).items() if n != name}
        bad = write_again(tmp_path / "bad", files, listed=False)
        assert name in refused(world, bad, Store(tmp_path / f"s{number}"))


def test_a_missing_member_is_named_if_the_list_lacks_it_as_well(world: World, bundle: Path, tmp_path: Path) -> None:
    for number, name in enumerate((DEP, PACKAGE, BASE_LOCK, "locks/sources.lock")):
        bad = write_again(tmp_path / "bad", {n: d for n, d in members(bundle).items() if n != name})
        assert name in refused(world, bad, Store(tmp_path / f"s{number}"))


@pytest.mark.parametrize("name", [ONLY, NEAR])
def test_what_only_go_knows_to_be_missing_is_told_after_the_import(
    world: World, bundle: Path, empty: Store, tmp_path: Path, name: str
) -> None:
    files = {n: d for n, d in members(bundle).items() if n not in (name, f"licences/{name}.txt")}
    error = fails(lambda: fetch_from_bundle(write_again(tmp_path / "bad", files), world.context(empty)))
    assert name.removeprefix("modules/").partition("/@v")[0] in error.reason


def test_an_altered_member_is_named_whatever_the_list_says(world: World, bundle: Path, tmp_path: Path) -> None:
    good = members(bundle)
    altered = {
        DEP: good[DEP].replace(b"package dep\n", b"package bad\n"),
        NEAR: good[NEAR].replace(b"package near\n", b"package evil\n"),
        ONLY: good[ONLY] + b"// more\n",
        PACKAGE: good[PACKAGE][:-1] + b"x",
        "locks/sources.lock": good["locks/sources.lock"] + b"# more\n",
        "locks/overlay/hello/go.sum": b"",
        next(n for n in good if n.startswith("snapshots/")): b"other",
    }
    for number, (name, data) in enumerate(altered.items()):
        assert data != good[name]
        for listed in (True, False):
            bad = write_again(tmp_path / "bad", good | {name: data}, listed=listed)
            assert name in refused(world, bad, Store(tmp_path / f"s{number}{listed}"))


def test_an_extra_member_is_named(world: World, bundle: Path, tmp_path: Path) -> None:
    extras = ("modules/example.org/evil/@v/v1.0.0.zip", "modules/example.org/evil/@v/v1.0.0.mod", "evil", "zzz/evil",
              "licences/evil.txt", "locks/bases/evil.lock", "packages/tiny/pool/evil.deb")  # fmt: skip
    for number, name in enumerate(extras):
        for listed in (True, False):
            bad = write_again(tmp_path / "bad", members(bundle) | {name: b"evil"}, listed=listed)
            reason = refused(world, bad, Store(tmp_path / f"s{number}{listed}"))
            assert name in reason or any(repr(str(folder)) in reason for folder in Path(name).parents)


def raw(bundle: Path, target: Path, add: Callable[[tarfile.TarFile], None]) -> Path:
    """The bundle with whatever `add` writes at its end."""
    with ZstdFile(target, "w") as plain, tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members(bundle).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        add(archive)
    return target


def hostile(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type = kind
        for field, value in fields.items():
            setattr(info, field, value)
        archive.addfile(info)

    return add


@pytest.mark.parametrize(
    "add",
    [
        hostile("../escape"),
        hostile("/etc/escape"),
        hostile("modules/../../escape"),
        hostile("escape", tarfile.SYMTYPE, linkname="/etc/passwd"),
        hostile(DEP, tarfile.SYMTYPE, linkname="/etc/passwd"),
        hostile("escape", tarfile.LNKTYPE, linkname=DEP),
        hostile("escape", tarfile.CHRTYPE),
        hostile("escape", tarfile.FIFOTYPE),
        hostile("escape/", tarfile.DIRTYPE),
        hostile("../escape/", tarfile.DIRTYPE),
        hostile("escape" * 60),
        hostile("escape", pax_headers={"comment": "x" * (1 << 20)}),
        hostile(DEP),
        hostile("bundle.json"),
    ],
)
def test_a_hostile_member_is_refused(
    world: World, bundle: Path, tmp_path: Path, empty: Store, add: Callable[[tarfile.TarFile], None]
) -> None:
    refused(world, raw(bundle, tmp_path / "bad", add), empty)
    assert not list(tmp_path.rglob("escape*"))


def test_flipped_bytes_are_told(world: World, bundle: Path, tmp_path: Path) -> None:
    good = bundle.read_bytes()
    chosen = random.Random(4)  # noqa: S311 - a test that can be repeated
    for number in range(60):
        place = number if number < 20 else chosen.randrange(len(good))
        bad = tmp_path / "bad"
        bad.write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        refused(world, bad, Store(tmp_path / f"s{number}"))
        remove_tree(tmp_path / f"s{number}")


def test_a_bundle_cut_short_or_lengthened_is_told(world: World, bundle: Path, tmp_path: Path) -> None:
    good = bundle.read_bytes()
    lengths = [0, 1, 3, 4, 17, *(len(good) * k // 12 for k in range(1, 12)), len(good) - 1]
    for number, data in enumerate([*(good[:n] for n in lengths), good + b"\0", good + good]):
        bad = tmp_path / "bad"
        bad.write_bytes(data)
        refused(world, bad, Store(tmp_path / f"s{number}"))


@pytest.mark.parametrize("data", [b"PK\3\4" + b"x" * 500, b"\0" * 4096, b"text\n", bytes(range(1, 250)) * 20])
def test_another_kind_of_file_is_told(world: World, tmp_path: Path, empty: Store, data: bytes) -> None:
    (tmp_path / "bad").write_bytes(data)
    refused(world, tmp_path / "bad", empty)


def test_bombs_are_refused_without_being_unpacked(world: World, bundle: Path, tmp_path: Path) -> None:
    good = members(bundle)
    huge = bytes(64 << 20)
    for number, name in enumerate((DEP, NEAR, ONLY, PACKAGE, "bundle.json", f"licences/{DEP}.txt", BASE_LOCK)):
        for listed in (False, True)[: 1 if name == "bundle.json" else 2]:
            bad = write_again(tmp_path / "bad", good | {name: huge}, listed=listed)
            assert name in refused(world, bad, Store(tmp_path / f"s{number}{listed}"))
    with ZstdFile(tmp_path / "bad", "w") as plain:
        plain.write(huge)
    refused(world, tmp_path / "bad", Store(tmp_path / "zeros"))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "https://example.org/other"},
        {"members": "none"},
        {"more": 1},
        {"bases": {HOST: "tiny", "arm64": "tiny"}},
        {"components": ["conv", "evil", "hello", "plain"]},
        {"members": [{"name": "a" * 300, "digest": FORGED, "size": 0, "pin": ""}]},
        {"members": [{"name": "a", "digest": "md5:0", "size": 0, "pin": ""}]},
        {"members": [{"name": "a", "digest": FORGED, "size": -1, "pin": ""}]},
        {"members": [{"name": "a", "digest": FORGED, "size": 0, "pin": ""}] * 2},
        {"members": []},
    ],
)
def test_a_list_that_is_none_is_told(
    world: World, bundle: Path, tmp_path: Path, empty: Store, change: dict[str, Any]
) -> None:
    good = members(bundle)
    index = json.dumps(json.loads(good["bundle.json"]) | change).encode()
    refused(world, write_again(tmp_path / "bad", good | {"bundle.json": index}, listed=False), empty)


@pytest.mark.parametrize("text", [b"", b"null", b"[" * 100000, b"\xff", b'{"schema": NaN}'])
def test_a_list_that_is_no_json_is_told(world: World, bundle: Path, tmp_path: Path, empty: Store, text: bytes) -> None:
    refused(world, write_again(tmp_path / "bad", members(bundle) | {"bundle.json": text}, listed=False), empty)


# --- locks


def test_another_lock_of_the_base_in_the_store_says_what_to_do(world: World, bundle: Path, empty: Store) -> None:
    text = world.base_lock(world.store).read_text().replace("libc 1 ", "libc 2 ")
    write_atomically(world.base_lock(empty), text.encode())
    error = fails(lambda: import_bundle(bundle, world.context(empty)))
    assert isinstance(error, StoreError)
    assert "RFO_STORE" in error.hint
    assert world.base_lock(empty).read_text() == text


def test_a_committed_base_lock_has_to_be_the_same(tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    base = world.checkout / "images/openeuler/bases/tiny.yaml"
    base.write_text(base.read_text().replace('"floating": true', '"floating": false'))
    world.lock_base(["sh", "libc"])
    bundle = world.bundle()
    import_bundle(bundle, world.context(Store(tmp_path / "same")))
    world.lock_base(["bash", "libc"])
    error = fails(lambda: import_bundle(bundle, world.context(Store(tmp_path / "other"))))
    assert isinstance(error, StoreError)
    world.base_lock(world.store).unlink()
    error = fails(lambda: import_bundle(bundle, world.context(Store(tmp_path / "none"))))
    assert isinstance(error, DefinitionError)


def test_a_checkout_with_other_pins_is_told(bundle: Path, tmp_path: Path) -> None:
    world = World(tmp_path / "w")
    lock = world.checkout / "releases" / SMALL / "sources.lock"
    lock.write_text(lock.read_text().replace("2022-01-01", "2022-01-02"))
    assert "locks/sources.lock" in refused(world, bundle, Store(tmp_path / "s"))


def test_a_bundle_of_something_else_says_how_to_name_it(world: World, bundle: Path, tmp_path: Path) -> None:
    context = world.context(Store(tmp_path / "s"))
    context.options = dataclasses.replace(context.options, version="v1.0.1+rfor1")
    error = fails(lambda: import_bundle(bundle, context))
    assert isinstance(error, UsageError)
    assert f"--version {SMALL}" in error.hint
    part = world.bundle("part.tar.zst", components=("hello",))
    error = fails(lambda: import_bundle(part, world.context(Store(tmp_path / "s"))))
    assert isinstance(error, UsageError)
    assert "--component hello" in error.hint
    fetch_from_bundle(part, world.context(Store(tmp_path / "s"), components=("hello",)))


def test_a_path_that_is_no_file_is_told(world: World, empty: Store, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        error = fails(lambda path=path: import_bundle(path, world.context(empty)))  # type: ignore[misc]
        assert isinstance(error, UsageError)
        assert str(path) in error.reason


# --- the command


def inv_fetch(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "invoke", "fetch", "--version", REAL, "--base", BASE, *arguments]
    env = {**os.environ, "RFO_STORE": str(tmp_path / "store")}
    return subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=False)


def test_the_command_says_what_is_wrong_and_ends_with_its_exit_code(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(100))
    for arguments, code, text in (
        (["--bundle", "--from-bundle", "x"], UsageError.exit_code, "exclude each other"),
        (["--from-bundle", str(tmp_path / "none")], UsageError.exit_code, "does not exist"),
        (["--from-bundle", str(bundle)], UsageError.exit_code, f"--version {SMALL}"),
        (["--from-bundle", str(tmp_path / "zeros")], SourceError.exit_code, "zeros"),
    ):
        done = inv_fetch(tmp_path, *arguments)
        assert done.returncode == code
        assert text in done.stderr
        assert "Traceback" not in done.stderr


# --- the real thing


def test_a_store_made_from_a_bundle_without_network_builds_the_same_bytes(tmp_path: Path) -> None:
    """A Go component with modules and a C component of the real release, in a store that only the bundle filled."""
    checkout = real_checkout(tmp_path / "c")
    chosen: dict[str, Any] = {
        "version": REAL, "base": BASE, "arches": (HOST,), "components": ("cni-plugin-flannel", "pause"),
    }  # fmt: skip
    run(checkout, **chosen)
    expected = digests(make_context(checkout, **chosen))
    bundle = make_bundle(make_context(checkout, **chosen), tmp_path / "bundle.tar.zst")
    store = Store(tmp_path / "store")
    alone = ["unshare", "--user", "--map-root-user", "--net"]
    named = ["--version", REAL, "--base", BASE, "--arch", HOST]
    named += [part for c in chosen["components"] for part in ("--component", c)]
    importing = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path\n"
        "from engine import make_context; from pipeline.store import Store\n"
        "from pipeline.bundle.read import fetch_from_bundle\n"
        f"store = Store(Path({str(store.root)!r}))\n"
        f"context = make_context(Path({str(checkout)!r}), store, offline=True, **{chosen!r})\n"
        f"fetch_from_bundle(Path({str(bundle)!r}), context)\n"
    )
    without = {"PATH": str(tmp_path)}  # neither go nor git nor apt
    command = [*alone, "env", f"PATH={tmp_path}", sys.executable, "-c", importing]
    subprocess.run(command, check=True, capture_output=True)
    assert run_process(checkout, store.root, *named, "--offline", prefix=alone, env=without) == expected
    remove_tree(store.root)
