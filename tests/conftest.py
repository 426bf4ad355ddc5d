"""What the tests of the engine's core share: a store of their own, an executor in memory, a small checkout."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest
import yaml
from tools import build_ahead

from pipeline.baselocks import base_subject
from pipeline.context import CHECKOUT, Context, Options
from pipeline.definitions import Definitions
from pipeline.graph import Action, Ref, Work
from pipeline.lock import BaseLock, Package, SourcesLock, Toolchain
from pipeline.model import Digest
from pipeline.report.progress import Progress
from pipeline.sandbox import Sandbox, Usage
from pipeline.scheduler import Scheduler
from pipeline.store import Store
from pipeline.units import lock_subject, units_of

if TYPE_CHECKING:
    from trusted import Trusted

    from pipeline.trust.repository import TrustRepository

VERSION = "v1.0.0+rfor1"
GO_SUM = f"h1:{'A' * 43}="


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> Iterator[None]:
    """Ctrl-C works as on a terminal: a shell starts what it puts into the background with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def tools_ahead() -> Iterator[None]:
    """Where everything is tested, the programs of others are built meanwhile."""
    if "CI" not in os.environ:
        yield
        return
    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0":
        yield
        return
    process = build_ahead()
    yield
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


@pytest.fixture(autouse=True, scope="session")
def own_keys(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Releases of tests are signed with keys that the first of them makes; nobody's own are touched."""
    os.umask(0o022)
    folder = tmp_path_factory.mktemp("trust")
    os.environ.update(RFO_KEYS=str(folder / "keys"), RFO_TRUST=str(folder / "trust"))


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> "Trusted":
    """A signed release; whoever changes it copies it."""
    from trusted import promoted

    return promoted(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="session")
def development(tmp_path_factory: pytest.TempPathFactory) -> "TrustRepository":
    """A development trust root; whoever changes it copies it."""
    from pipeline.trust.development import make_development
    from pipeline.trust.repository import TrustRepository
    from pipeline.trust.settings import read_settings

    folder = tmp_path_factory.mktemp("development")
    made = TrustRepository(folder / "trust", folder / "keys", read_settings(CHECKOUT))
    make_development(made, CHECKOUT)
    return made


@pytest.fixture
def repository(development: "TrustRepository", tmp_path: Path) -> "TrustRepository":
    """A copy of a development trust root, to be changed."""
    for name in ("trust", "keys"):
        shutil.copytree(development.keys.with_name(name), tmp_path / name)
    return type(development)(tmp_path / "trust", tmp_path / "keys", development.settings)


@pytest.fixture
def cached_toolchain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Packages and toolchain are in the tests' store, and the only module proxy is what that store has downloaded.

    The checksum database can be asked, for Go does so of every toolchain, and that it grows needs new proofs.
    """
    from engine import HOST, hello, shared_store
    from test_sources_go import serve

    hello(HOST)
    with serve(shared_store().gomod / "cache" / "download", lambda _, data: data) as proxy:
        monkeypatch.setenv("GOPROXY", proxy)
        yield


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Registries are asked without pauses, and by nothing of this host's configuration."""
    from pipeline.registry import client

    monkeypatch.setattr(client, "BACKOFF", 0)
    monkeypatch.setattr(client, "MAX_PAUSE", 0)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Servers of a test."""
    with ExitStack() as servers:
        yield servers


@pytest.fixture
def plain(stack: ExitStack, tmp_path: Path) -> str:
    """A registry without the referrers API."""
    from registry_server import distribution

    return stack.enter_context(distribution(tmp_path / "plain"))


@pytest.fixture
def modern(stack: ExitStack, tmp_path: Path) -> str:
    """A registry with the referrers API."""
    from registry_server import referrers_registry

    return stack.enter_context(referrers_registry(tmp_path / "modern"))


class MemoryExecutor:
    """An executor whose sandboxes succeed without doing anything."""

    name = "memory"

    def check(self) -> None:
        """Any host will do."""

    def run(self, sandbox: Sandbox, log: IO[bytes], cancel: threading.Event) -> Usage:
        del sandbox, log, cancel
        return Usage(0, 0.0, 0.0, 0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that no other test and no user has."""
    monkeypatch.setenv("RFO_STORE", str(tmp_path / "store"))
    return Store(tmp_path / "store")


@pytest.fixture
def scheduler(store: Store) -> Scheduler:
    return Scheduler(store, MemoryExecutor(), Progress(stream=StringIO()), jobs=2, memory=1 << 30)


def writes(text: str, name: str = "file") -> Callable[[Work], None]:
    """What an action does that writes one file: its inputs' texts, sorted by name, then `text`."""

    def run(work: Work) -> None:
        (work.out / name).write_text("".join(p.read_text() for _, p in sorted(work.inputs.items())) + text)

    return run


def action(
    name: str,
    run: Callable[[Work], None] | None = None,
    inputs: Mapping[str, Digest | Ref] | None = None,
    *,
    after: tuple[str, ...] = (),
    memory: int = 1 << 20,
    seconds: float = 1.0,
    **parameters: str,
) -> Action:
    """An action that runs in this process."""
    return Action(
        name, {"of": name, **parameters}, run or writes(name), inputs or {}, after, memory=memory, seconds=seconds
    )


class Checkout:
    """A checkout with one component, one release for two architectures and one base."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.release: dict[str, object] = {
            "version": VERSION,
            "upstream": "v1.0.0+rke2r1",
            "date": "2022-11-18T00:00:00Z",
            "toolchains": {"go": "1.20.14"},
            "bases": {"amd64": "tiny", "arm64": "tiny"},
            "components": {"rfo": {}},
        }
        self.component: dict[str, object] = {
            "name": "rfo",
            "license": "Apache-2.0",
            "source": {"tree": "components/rfo/src"},
            "build": [{"binaries": {"rfo": "."}}],
            "smoke": {"rfo": {"args": [], "prints": "rfo"}},
        }
        self.base: dict[str, object] = {
            "name": "tiny",
            "family": "deb",
            "origin": "Nowhere",
            "keys": ["A" * 40],
            "suites": {"amd64": ["stable"], "arm64": ["stable"]},
            "roots": {
                "builder": {"per": "host", "packages": ["sh"]},
                "emulator": {"per": "host", "packages": ["qemu"]},
                "sysroot": {"per": "target", "packages": ["libc"]},
            },
            "compilers": {"amd64": "gcc"},
        }
        self.put("components/rfo/src/main.go", "package main\n")
        self.put("install/bin/rfo-killall.sh", "#!/bin/sh\n")
        self.write()

    def put(self, path: str, text: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def write(self) -> None:
        """The definitions as they are now."""
        self.put(f"releases/{VERSION}/release.yaml", dump(self.release))
        self.put("components/rfo/component.yaml", dump(self.component))
        self.put("images/openeuler/bases/tiny.yaml", dump(self.base))

    @property
    def definitions(self) -> Definitions:
        return Definitions(self.root)

    def lock(self, *arches: str) -> None:
        """Locks of the definitions as they are now; the base for `arches`."""
        release = self.definitions.release(VERSION)
        lock = SourcesLock(VERSION, lock_subject(units_of(release, self.definitions)))
        lock.toolchains["1.20.14"] = Toolchain("1.20.14", "amd64", GO_SUM)
        self.put(f"releases/{VERSION}/sources.lock", lock.render())
        digest = Digest.of_bytes(b"")
        packages = [
            Package(root, arch, name, "1", f"pool/{name}.deb", 1, digest)
            for root, name in (("builder", "sh"), ("emulator", "qemu"))
            for arch in ("amd64", "arm64")
        ]
        packages += [Package("sysroot", a, "libc", "1", "pool/libc.deb", 1, digest) for a in arches]
        base = self.definitions.base("tiny")
        text = BaseLock("tiny", tuple(packages), (), definition=base_subject(base)).render()
        self.put(f"releases/{VERSION}/tiny.lock", text)

    def context(self, *arches: str) -> Context:
        return Context(Options(VERSION, arches=arches, locked=True), Progress(stream=StringIO()), self.root)


def dump(data: object) -> str:
    """As YAML; the date becomes one."""
    return yaml.safe_dump(data).replace("'2022-11-18T00:00:00Z'", "2022-11-18T00:00:00Z")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")
