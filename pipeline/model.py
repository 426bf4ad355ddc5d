"""The values that everything else is made of: digests, platforms, versions, pins. Frozen; no I/O."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from pipeline.errors import DefinitionError, SourceError

CHUNK = 1 << 20
"""Bytes per read when hashing or copying: at 1 MiB `hashlib` runs at the speed of OpenSSL."""


@dataclass(frozen=True, order=True)
class Digest:
    """A SHA-256 digest; the only kind that identifies content here."""

    hex: str
    """64 lower-case hexadecimal digits."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.hex):
            raise SourceError(f"not a SHA-256 digest: {self.hex[:80]!r}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sha256:HEX`."""
        algorithm, _, value = text.partition(":")
        if algorithm != "sha256":
            raise SourceError(f"digest {text[:80]!r}: expected the form sha256:HEX")
        return cls(value)

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """The digest of `data`."""
        return cls(hashlib.sha256(data).hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """The digest of a file's content; raises OSError."""
        with path.open("rb", buffering=0) as file:
            return cls(hashlib.file_digest(file, "sha256").hexdigest())

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


@dataclass(frozen=True, order=True)
class Platform:
    """A target: linux on one CPU architecture, with the names that each packaging world gives it."""

    arch: str
    """Go's GOARCH, also used in file names."""
    rpm_arch: str
    gnu_triplet: str
    elf_machine: int
    """`e_machine` of the ELF specification."""
    qemu: str
    """Suffix of the user-mode emulator's name."""

    @property
    def deb_arch(self) -> str:
        """Debian names these architectures as Go does."""
        return self.arch

    def __str__(self) -> str:
        return f"linux/{self.arch}"


PLATFORMS = {
    p.arch: p
    for p in (
        Platform("amd64", "x86_64", "x86_64-linux-gnu", 62, "x86_64"),
        Platform("arm64", "aarch64", "aarch64-linux-gnu", 183, "aarch64"),
        Platform("riscv64", "riscv64", "riscv64-linux-gnu", 243, "riscv64"),
    )
}
"""Every platform RFO is made for, by `arch`."""


def platform(arch: str) -> Platform:
    """The platform called `arch`; raises DefinitionError."""
    try:
        return PLATFORMS[arch]
    except KeyError:
        raise DefinitionError(f"unknown architecture {arch!r}: expected one of {', '.join(PLATFORMS)}") from None


@dataclass(frozen=True, order=True)
class ReleaseVersion:
    """`vX.Y.Z+rforN`: a Kubernetes version and the number of RFO's release of it.

    Ordered by number in each field (rfor10 is newer than rfor9); SemVer would ignore what follows `+` and
    PEP 440 would compare it as text.
    """

    major: int
    minor: int
    patch: int
    rfor: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `vX.Y.Z+rforN`, without leading zeros; raises DefinitionError."""
        number = r"(0|[1-9][0-9]{0,5})"
        match = re.fullmatch(rf"v{number}\.{number}\.{number}\+rfor([1-9][0-9]{{0,5}})", text)
        if not match:
            raise DefinitionError(
                f"{text!r} is not a release version", "write it as vX.Y.Z+rforN, such as v1.25.4+rfor1"
            )
        return cls(*map(int, match.groups()))

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}.{self.patch}+rfor{self.rfor}"


@dataclass(frozen=True)
class RootedPath:
    """A path inside a root that it cannot leave: relative, without `..`, without NUL."""

    relative: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Normalise `text` (a leading `./` and doubled slashes go); raises SourceError if it could leave its root."""
        if "\0" in text or ("\\" in text and ".." in text):
            raise SourceError(f"unsafe path {text[:120]!r}")
        if text.startswith("/"):
            raise SourceError(f"absolute path {text[:120]!r} where a relative one was expected")
        parts = [p for p in text.split("/") if p not in ("", ".")]
        if ".." in parts:
            raise SourceError(f"path {text[:120]!r} leaves its root")
        return cls("/".join(parts))

    def under(self, root: Path) -> Path:
        """The path below `root`, by name only: links on the way are the caller's concern."""
        return root / self.relative if self.relative else root

    @property
    def parent(self) -> "RootedPath":
        """The directory that holds it; the root's parent is the root."""
        parent = PurePosixPath(self.relative).parent.as_posix()
        return RootedPath("" if parent == "." else parent)

    def __str__(self) -> str:
        return self.relative or "."


GO_SUM = re.compile(r"h1:[A-Za-z0-9+/]{43}=")
"""Go's `h1` directory hash: base64 of SHA-256 (golang.org/x/mod/sumdb/dirhash)."""
MODULE = re.compile(r"(?!.*(^|/)\.{1,2}(/|$))[A-Za-z0-9_~][A-Za-z0-9._~+/-]*")
"""What a module's path or version may be made of: it becomes a path in a module cache."""


@dataclass(frozen=True, order=True)
class Module:
    """A Go module at one version with the hash of its zip: a pin."""

    path: str
    version: str
    sum: str
    """`h1:` hash over the files of the module zip."""

    def __post_init__(self) -> None:
        if not MODULE.fullmatch(self.path) or not MODULE.fullmatch(self.version) or "/" in self.version:
            raise DefinitionError(f"{self.path[:120]!r} {self.version[:80]!r} is not a Go module and its version")
        if not GO_SUM.fullmatch(self.sum):
            raise DefinitionError(f"module {self.path} {self.version}: {self.sum!r} is not an h1 sum")

    @property
    def directory(self) -> str:
        """Its folder inside a module cache, upper-case letters escaped (golang.org/x/mod/module.EscapePath)."""
        return f"{escape_module(self.path)}@{escape_module(self.version)}"

    def __str__(self) -> str:
        return f"{self.path}@{self.version}"


def escape_module(text: str) -> str:
    """Each upper-case letter as `!` and its lower case, as module caches and proxies name files."""
    return re.sub(r"[A-Z]", lambda m: "!" + m.group().lower(), text)
