"""Programs that others wrote, which tests check our files with: built from Go modules or installed, and kept.

The cache persists between test runs beside the tests' store. Every version is pinned; Go's checksum database says that
the modules are what everybody gets.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from engine import store_root

MODULES = {
    "cosign": "github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3",
    "crane": "github.com/google/go-containerregistry/cmd/crane@v0.22.1",
    "fulcio": "github.com/sigstore/fulcio@v1.8.8",
    "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
    "ko": "github.com/google/ko@v0.18.0",
    "oras": "oras.land/oras/cmd/oras@v1.3.0",
    "rekor-server": "github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix@v2.3.0",
    "registry": "github.com/distribution/distribution/v3/cmd/registry@v3.0.0",
    "syft": "github.com/anchore/syft/cmd/syft@v1.38.0",
    "tesseract": "github.com/transparency-dev/tesseract/cmd/tesseract/posix@v0.1.1",
    "timestamp-server": "github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server@v2.1.2",
}
"""Program to the package and version that it is built from."""
SOON = ("crane", "registry", "helm", "oras")
"""What the usual tests use, in the order in which they come to it."""


def tool(name: str) -> str:
    """The path of a program, built if it is not there yet; on the host's PATH if it is none of MODULES."""
    if name not in MODULES:
        found = shutil.which(name)
        assert found, f"{name} is not installed; .ci/run installs what the tests use"
        return found
    folder = store_root() / "tools" / MODULES[name].rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    with (folder / "lock").open("w") as lock:  # test runs at the same time build it once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _build(MODULES[name], program)
    return str(program)


@cache
def compiled(name: str, module: str, source: str, tags: str = "") -> str:
    """The path of a program of a few lines around a Go module `path@version`, built if it is not there yet."""
    path, _, version = module.rpartition("@")
    folder = store_root() / "tools" / f"{name}@{version}"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = folder / "built.go"  # written last, so that a run which is killed leaves nothing that looks built
        if not program.exists() or not built.exists() or built.read_text() != source:
            (folder / "main.go").write_text(source)
            (folder / "go.mod").write_text(f"module tests\n\ngo 1.23\n\nrequire {path} {version}\n")
            flags = f"-mod=mod -trimpath -tags={tags}"
            environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": flags, "GOTOOLCHAIN": "auto"}
            done = subprocess.run(
                [_go(), "build", "-o", f"{name}.new", "."], cwd=folder, env=environment, capture_output=True, text=True,
                check=False, timeout=3600,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-2000:]
            (folder / f"{name}.new").rename(program)
            (folder / "main.go").rename(built)
    return str(program)


@cache
def module(name: str) -> Path:
    """The folder of a Go module, `path@version`, as the host's go keeps it."""
    done = subprocess.run(
        [_go(), "mod", "download", "-json", name], capture_output=True, text=True, check=False, timeout=600, cwd="/"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Path(json.loads(done.stdout)["Dir"])


def _go() -> str:
    """The host's go, or the one that the bootstrap installs."""
    return shutil.which("go") or str(Path(sys.executable).parent / "go")


def _build(package: str, program: Path) -> None:
    """Build a program."""
    work = program.parent / "work"
    environment = {"GOFLAGS": "-trimpath", **os.environ, "GOBIN": str(work), "CGO_ENABLED": "0", "GOTOOLCHAIN": "auto"}
    done = subprocess.run(
        [_go(), "install", package], env=environment, capture_output=True, text=True, check=False, timeout=3600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = work.iterdir()  # two of them are called posix
    built.rename(program)
    shutil.rmtree(work)


def build_ahead() -> "subprocess.Popen[bytes]":
    """Build what tests will use in a process beside them, on one core: most of a run leaves the others idle."""
    environment = {**os.environ, "GOFLAGS": "-trimpath -p=1", "GOMAXPROCS": "1"}
    return subprocess.Popen(
        [sys.executable, __file__], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


if __name__ == "__main__":
    for wanted in SOON:
        tool(wanted)
