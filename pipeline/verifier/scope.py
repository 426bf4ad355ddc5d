"""How much of a release is looked at: all of it, or what one host installs."""

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
    """All files and both ways; or, with an architecture, what installing on it takes."""

    arch: str = ""
    patterns: tuple[str, ...] = ()
    """Of further files that are installed."""

    @property
    def whole(self) -> bool:
        """Whether it is all of the release."""
        return not self.arch

    def artifacts(self, names: Iterable[str]) -> list[str]:
        """The files that are judged. Raises Refused if the release has nothing for the architecture."""
        names = sorted(names)
        if self.whole:
            return names
        tarball = f"rfo.linux-{self.arch}.tar.gz"
        if tarball not in names:
            raise Refused(tarball, "is not in this release: it was not made for this architecture")
        fixed = {MANIFEST_NAME, tarball, f"sha256sum-{self.arch}.txt", "rfo-verify"}
        return [n for n in names if n in fixed or any(fnmatch.fnmatchcase(n, p) for p in self.patterns)]

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
