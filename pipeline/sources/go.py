"""Go modules and toolchains: fetched with the host's own `go`, checked against the checksum database and the lock.

The host's configuration decides about proxies; settings that silence the checksum database are refused. After
`fetch`, builds read extracted module trees, which are checked against their `h1` before they are used.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import HostError, NetworkError, SourceError
from pipeline.model import Module, escape_module
from pipeline.process import TimedOut, run
from pipeline.store import Store, remove_tree

MINIMUM = (1, 21)
"""The oldest host Go: the first that can fetch toolchains as modules."""
_REFUSED = re.compile(r"([^\s()]+@[^\s()]+?)\)?: reading (https?://\S+): ([45][0-9]{2} [A-Z][A-Za-z ]*)")
"""How go says that a module proxy refuses a module."""
KEPT = ("PATH", "HOME", "TMPDIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
KEPT_PREFIXES = ("SSL_CERT_", "GIT_", "NETRC")
NEAR = 8
"""How many other versions an error names."""
DOWNLOAD_SECONDS = 3600
"""How long one call may fetch modules: `go` itself waits for ever for an origin that has stalled."""
PROBE_SECONDS = 60
"""How long an origin may take to say whether it has a module."""


@dataclass(frozen=True)
class Downloaded:
    """A module in the cache."""

    module: Module
    folder: Path
    time: str
    """RFC 3339, from the origin's metadata."""


@dataclass(frozen=True)
class Refusal:
    """A module that its origin would not serve."""

    module: str
    reason: str


class GoSources:
    """Fetches into one store's module cache."""

    def __init__(self, store: Store, *, offline: bool = False) -> None:
        self.store = store
        self.offline = offline
        self.extra_proxies: list[str] = []
        """`file://` proxies made from files the user named (`--source`), asked first."""
        self._verified: set[str] = set()
        self._lock = threading.RLock()

    @cached_property
    def program(self) -> str:
        """The host's `go`; raises HostError."""
        found = shutil.which("go")
        if not found:
            raise HostError(
                "the Go command was not found",
                "install Go 1.21 or later, or run `./inv` once so that it brings its own",
            )
        version = run([found, "env", "GOVERSION"], env={**os.environ, "GOTOOLCHAIN": "local"}).stdout.decode().strip()
        match = re.match(r"go(\d+)\.(\d+)", version)
        if not match or (int(match[1]), int(match[2])) < MINIMUM:
            raise HostError(
                f"{found} is {version}; Go 1.21 or later is needed",
                "install a current Go, or take it off PATH and delete .venv: `./inv` then brings its own",
            )
        return found

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """The host's Go configuration; raises SourceError if it silences the checksum database."""
        names = ["GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOINSECURE", "GOFLAGS", "GOVCS"]
        names.append("GOAUTH")  # unknown before Go 1.24, and empty then
        env = {**os.environ, "GOTOOLCHAIN": "local"}
        found: dict[str, str] = json.loads(run([self.program, "env", "-json", *names], env=env).stdout)
        silenced = [f"{n}={found[n]}" for n in ("GONOSUMDB", "GOPRIVATE", "GOINSECURE") if found.get(n)]
        silenced += [f"GOSUMDB={found['GOSUMDB']}"] if found.get("GOSUMDB") == "off" else []
        silenced += [f"GOFLAGS={found['GOFLAGS']}"] if "-insecure" in found.get("GOFLAGS", "") else []
        silenced += ["GONOSUMCHECK=" + os.environ["GONOSUMCHECK"]] if os.environ.get("GONOSUMCHECK") else []
        if silenced:
            raise SourceError(
                f"this host's Go settings silence the checksum database: {', '.join(silenced)}",
                "unset them for this command, for instance: `env -u GOPRIVATE GOSUMDB= ./inv ...`, or `go env -u NAME`",
            )
        return found

    def environment(self, **extra: str) -> dict[str, str]:
        """For `go` on the host: its own proxy settings, our module cache, nothing else of the user's."""
        kept = {k: v for k, v in os.environ.items() if k in KEPT or k.startswith(KEPT_PREFIXES)}
        if self.offline:
            network = {"GOPROXY": "off", "GOSUMDB": "off"}
        else:
            wanted = ("GOPROXY", "GOSUMDB", "GONOPROXY", "GOVCS", "GOAUTH")
            network = {k: self.settings[k] for k in wanted if self.settings.get(k)}
            if self.extra_proxies:
                network["GOPROXY"] = ",".join([*self.extra_proxies, network.get("GOPROXY", "")]).rstrip(",")
        fixed = {
            "GOENV": "off",
            "GOFLAGS": "",
            "GOWORK": "off",
            "GOTOOLCHAIN": "local",
            "GOMODCACHE": str(self.store.gomod),
            "GOTELEMETRY": "off",
        }
        return {**kept, **network, **fixed, **extra}

    def download(self, modules: Sequence[str]) -> tuple[list[Downloaded], list[Refusal]]:
        """Fetch `path@version` each, checked against the checksum database.

        Raises SourceError if an origin serves other bytes than the database knows: that is no matter of reaching it;
        NetworkError if `go` gets no answer, or not to its end.
        """
        with self.store.workspace() as empty:
            command = [self.program, "mod", "download", "-json", *modules]
            env = self.environment(GOFLAGS="-modcacherw")
            try:
                done = run(command, env=env, cwd=empty, check=False, timeout=DOWNLOAD_SECONDS)
            except TimedOut as error:
                raise NetworkError(
                    f"{len(modules)} modules ({modules[0]} …) did not come within {DOWNLOAD_SECONDS} s: "
                    "their origin may have stalled",
                    "run the same command again, what came is kept; or use another origin (GOPROXY of this host)",
                ) from error
        try:
            entries = list(_json_stream(done.stdout.decode()))
        except ValueError:
            entries = []  # go was ended in the middle of its answer
        if not entries:
            reason = done.stderr.decode(errors="replace")[-1500:].strip() or f"ended with status {done.returncode}"
            raise NetworkError(f"go mod download: {reason}")
        good, bad = [], []
        for entry in entries:
            name = f"{entry['Path']}@{entry.get('Version', '')}"
            if entry.get("Error"):
                bad.append(Refusal(name, " ".join(entry["Error"].split())))
                continue
            module = Module(entry["Path"], entry["Version"], entry["Sum"])
            good.append(Downloaded(module, Path(entry["Dir"]), _info_time(entry.get("Info"))))
        if forged := [r for r in bad if "checksum mismatch" in r.reason]:
            lines = "\n  ".join(f"{r.module}: {r.reason}" for r in forged)
            raise SourceError(f"{len(forged)} modules are not what the checksum database says:\n  {lines}")
        return good, bad

    def probe(self, modules: Sequence[str]) -> list[Refusal]:
        """Ask whether each `path@version` is served, without fetching its content."""
        return [answer for answer in self.describe(modules) if isinstance(answer, Refusal)]

    def describe(self, modules: Sequence[str], *flags: str) -> list[dict[str, Any] | Refusal]:
        """What `go list -m -json` says of each module, in order: its go.mod is fetched, its content is not.

        With the flag `-versions` and a path alone it has the list `Versions`, which is what the origin names and no
        promise that each is served.
        """
        with self.store.workspace() as empty, ThreadPoolExecutor(8) as pool:
            env = self.environment(GOFLAGS="-mod=mod")

            def ask(module: str) -> dict[str, Any] | Refusal:
                command = [self.program, "list", "-m", "-json", *flags, module]
                try:
                    done = run(command, env=env, cwd=empty, check=False, timeout=PROBE_SECONDS)
                except TimedOut:
                    return Refusal(module, f"no answer within {PROBE_SECONDS} s")
                if done.returncode:
                    return Refusal(module, _answer(done.stderr))
                facts: dict[str, Any] = json.loads(done.stdout)
                return facts

            return list(pool.map(ask, modules))

    def versions(self, path: str) -> list[str]:
        """The versions of a module that its origin lists, oldest first; none if it cannot be asked."""
        answer = self.describe([path], "-versions")[0]
        return [] if isinstance(answer, Refusal) else [str(v) for v in answer.get("Versions", ())]

    def near(self, module: str) -> str:
        """What the origin of `path@version` lists of the same minor version, as a sentence; empty if nothing."""
        path, _, version = module.partition("@")
        minor = version.split(".")[:2]
        found = [v for v in self.versions(path) if v.split(".")[:2] == minor and v != version]
        return f"its origin lists {', '.join(found[-NEAR:])}" if found else ""

    def imported(
        self,
        toolchain: Path,
        source: Path,
        modfile: Path,
        packages: Sequence[str],
        tags: Sequence[str],
        arch: str,
        *,
        cgo: bool,
        update: bool,
    ) -> set[tuple[str, str]]:
        """(path, version) of the modules that compiling `packages` for linux/`arch` reads; fetches them.

        Runs the release's own toolchain, so that its view of the module graph is that of the build. With `update`
        the overlay's go.mod and go.sum are completed; without, anything missing there is an error.
        """
        form = (
            "{{if not .Standard}}{{with .Module}}{{if not .Main}}{{if .Replace}}{{.Replace.Path}} {{.Replace.Version}}"
            "{{else}}{{.Path}} {{.Version}}{{end}}{{end}}{{end}}{{end}}"
        )
        command = [
            str(toolchain / "bin" / "go"), "list", "-deps", f"-mod={'mod' if update else 'readonly'}",
            f"-modfile={modfile}", "-tags", ",".join(tags), "-f", form, *packages,
        ]  # fmt: skip
        env = self.environment(
            GOROOT=str(toolchain), GOOS="linux", GOARCH=arch, CGO_ENABLED="1" if cgo else "0", GOFLAGS="-modcacherw",
            GOCACHE=str(self.store.root / "gocache" / "list"),
        )  # fmt: skip
        done = run(command, env=env, cwd=source, check=False)
        if done.returncode:
            text = done.stderr.decode(errors="replace").strip()
            if refused := sorted(set(_REFUSED.findall(text))):
                lines = "".join(f"\n    {module}: {status} ({url})" for module, url, status in refused)
                raise NetworkError(
                    f"{source.name} needs {len(refused)} modules that their origin refuses:{lines}",
                    "choose another version of it, or another origin (GOPROXY of this host)",
                )
            raise SourceError(f"go list for {source.name} linux/{arch}: {text[-1500:]}")
        pairs = {tuple(line.split(" ", 1)) for line in done.stdout.decode().splitlines() if line.strip()}
        return {(p[0], p[1]) for p in pairs}

    def toolchain(self, module: Module) -> Path:
        """GOROOT of a fetched toolchain, its programs made executable (the module zip has no modes)."""
        root = self.store.gomod / module.directory
        for pattern in ("bin/*", "pkg/tool/*/*"):
            for program in root.glob(pattern):
                if not program.stat().st_mode & 0o100:
                    program.chmod(0o755)
        return root

    def verify(self, modules: Iterable[Module]) -> list[Module]:
        """Those whose extracted tree is not what its `h1` says, or is missing; checked once per process.

        A tree that does not match is removed together with its zip, so that it can only be fetched again.
        """
        with self._lock:  # another thread would read what this one removes
            todo = [m for m in modules if str(m) not in self._verified]
            with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
                sums = list(pool.map(lambda m: hash_tree(self.store.gomod / m.directory, str(m)), todo))
            bad = []
            for module, found in zip(todo, sums, strict=True):
                if found == module.sum:
                    self._verified.add(str(module))
                else:
                    bad.append(module)
                    self._discard(module)
            return bad

    def ensure(self, modules: Sequence[Module]) -> None:
        """Have modules in place and equal to their pins; what was tampered with is fetched again once.

        Raises NetworkError if that cannot be, SourceError if the origin serves something else than the lock says.
        """
        with self._lock:
            self.fetch(modules)
            if bad := self.verify(modules):
                self.fetch(bad)
                if still := self.verify(bad):
                    raise SourceError(
                        f"module {still[0]} is not what the lock says ({still[0].sum}); it was removed from the store",
                        "run `./inv fetch` again; if it stays, the origin serves other bytes",
                    )

    def _present(self, module: Module) -> bool:
        """Whether a module was extracted to its end: go marks one that it is working on, and may have died."""
        started = self._download(module, "partial")
        return (self.store.gomod / module.directory).is_dir() and not started.exists()

    def _download(self, module: Module, suffix: str) -> Path:
        folder = self.store.gomod / "cache" / "download" / escape_module(module.path) / "@v"
        return folder / f"{escape_module(module.version)}.{suffix}"

    def _discard(self, module: Module) -> None:
        remove_tree(self.store.gomod / module.directory)
        for suffix in ("zip", "ziphash"):
            self._download(module, suffix).unlink(missing_ok=True)

    def fetch(self, modules: Sequence[Module]) -> None:
        """Bring modules that are missing; raises NetworkError or SourceError naming each that could not be had."""
        missing = [m for m in modules if not self._present(m)]
        if not missing:
            return
        if self.offline:
            names = "\n  ".join(str(m) for m in missing[:20])
            raise NetworkError(
                f"{len(missing)} modules are not in the store, and --offline forbids fetching:\n  {names}",
                "run `./inv fetch` with network first",
            )
        good, bad = self.download([str(m) for m in missing])
        if bad:
            lines = "\n  ".join(f"{r.module}: {r.reason}" for r in bad)
            raise NetworkError(
                f"{len(bad)} pins are gone from their origin and not in the store:\n  {lines}",
                "if the origin dropped them, renew the lock: `./inv lock --version VERSION --update`; "
                "or give a copy: --source NAME=FILE",
            )
        locked = {str(m): m.sum for m in modules}
        for item in good:
            if item.module.sum != locked[str(item.module)]:
                says = locked[str(item.module)]
                raise SourceError(f"module {item.module}: the lock says {says}, the origin serves {item.module.sum}")


def hash_tree(root: Path, prefix: str) -> str:
    """The `h1` of an extracted module: Hash1 of golang.org/x/mod/sumdb/dirhash. Empty if the tree is missing."""
    if not root.is_dir():
        return ""
    names: list[tuple[bytes, str]] = []
    for folder, folders, files in os.walk(root):
        if any(Path(folder, d).is_symlink() for d in folders):
            return "a directory link"
        for file in files:
            path = os.path.join(folder, file)
            if not stat.S_ISREG(os.lstat(path).st_mode):
                return "a link or device"
            if "\n" in path:  # it could pass for two files
                return "a name with a line break"
            names.append((os.fsencode(f"{prefix}/{os.path.relpath(path, root)}"), path))
    total = hashlib.sha256()
    for name, path in sorted(names):
        with open(path, "rb", buffering=0) as content:
            total.update(hashlib.file_digest(content, "sha256").hexdigest().encode() + b"  " + name + b"\n")
    return "h1:" + base64.b64encode(total.digest()).decode()


def _json_stream(text: str) -> Iterable[dict[str, Any]]:
    decoder, position = json.JSONDecoder(), 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        value, position = decoder.raw_decode(text, position)
        yield value


def _info_time(info: str | None) -> str:
    try:
        return str(json.loads(Path(info or "").read_bytes())["Time"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _answer(output: bytes) -> str:
    return " ".join(output.decode(errors="replace").split())[-400:] or "no answer"
