"""How much of a release is looked at: all of it, what one host installs, or the packages of a repository."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.verifier.encoding import Refused
from pipeline.verifier.evidence import EVIDENCE
from pipeline.verifier.policy import Policy
from pipeline.verifier.released import MANIFEST_NAME


@dataclass(frozen=True)
class Scope:
    """All files and both ways; or, with an architecture, what installing on it takes; or files by patterns alone."""

    arch: str = ""
    patterns: tuple[str, ...] = ()
    """Of further files that are installed."""
    packages: bool = False
    """Whether packages are installed, which `patterns` name, in place of the tarball."""
    apart: bool = False
    """Whether these lie somewhere else: whoever looks there compares their digests."""

    @property
    def whole(self) -> bool:
        """Whether it is all of the release."""
        return not self.arch and not self.patterns

    def here(self, name: str) -> bool:
        """Whether a file that is judged has to lie in the release's folder."""
        return not self.apart or not self._asked(name)

    def _asked(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, p) for p in self.patterns)

    def artifacts(self, names: Iterable[str]) -> list[str]:
        """The files that are judged. Raises Refused if the release has nothing for the architecture."""
        names = sorted(names)
        if self.whole:
            return names
        fixed = {MANIFEST_NAME}
        if self.packages:
            fixed |= {"rfo-verify"}
        elif self.arch:
            tarball = f"rfo.linux-{self.arch}.tar.gz"
            if tarball not in names:
                raise Refused(tarball, "is not in this release: it was not made for this architecture")
            fixed |= {tarball, f"sha256sum-{self.arch}.txt", "rfo-verify"}
        return [n for n in names if n in fixed or self._asked(n)]

    def evidence(self, names: Iterable[str], policy: Policy) -> list[str]:
        """Of all files the statements by builders and rebuilders that the judged ones need."""
        names = sorted(names)
        if self.whole:
            return [n for n in names if EVIDENCE.fullmatch(n)]
        judged = self.artifacts(names)
        kinds = {n: policy.kind_of(n) for n in judged}
        about = {k.name for k in kinds.values() if k.builders or k.rebuilders} | {"rebuild"}
        described = {_stem(n) for n, k in kinds.items() if k.requires}
        found = []
        for name in names:
            match = EVIDENCE.fullmatch(name)
            if match and match[1] in (described if "/sbom/" in name else about):
                found.append(name)
        return found


def images_of(arch: str) -> tuple[str, ...]:
    """The files with the images for hosts without a registry."""
    return f"rfo-images.linux-{arch}.tar.zst", f"rfo-images.linux-{arch}.txt"


def _stem(name: str) -> str:
    """What a file's SBOM is called."""
    for suffix in (".tar.gz", ".tar.zst", ".tgz", ".rpm"):
        if name.endswith(suffix):
            return name[: -len(suffix)].rpartition("/")[2]
    return name.rpartition("/")[2]
