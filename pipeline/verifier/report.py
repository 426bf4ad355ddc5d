"""What came of verifying: a table, one line for each reason to refuse, and the same as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from pipeline.verifier.encoding import Refused
from pipeline.verifier.judge import Row
from pipeline.verifier.state import State

ACCEPTED, USAGE, HOST, REFUSED, STALE = 0, 2, 3, 10, 11
"""Exit codes."""


@dataclass(frozen=True)
class Kept:
    """A repository of packages that was looked at."""

    path: str
    """Below the folder."""
    revision: int
    packages: int


@dataclass
class Report:
    """Everything that was found."""

    version: str = ""
    folder: str = ""
    policy: str = ""
    root: str = ""
    """Whose trust root it is."""
    development: bool = False
    named: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every file that the release statement names, by path."""
    rows: list[Row] = field(default_factory=list)
    files: int = 0
    """How many were hashed and compared."""
    size: int = 0
    """Bytes of them."""
    refused: list[Refused] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    """Metadata that have expired, where that was not allowed."""
    notes: list[str] = field(default_factory=list)
    state: State | None = None
    """What the host remembers once the release is accepted."""
    kept: list[Kept] = field(default_factory=list)
    releases: list[str] = field(default_factory=list)
    """What a repository holds packages of, the highest version last."""

    @property
    def title(self) -> str:
        """What is accepted."""
        return f"a repository with {', '.join(self.releases)}" if self.releases else self.version

    @property
    def exit_code(self) -> int:
        """What the program ends with."""
        if self.reasons:
            return REFUSED
        return STALE if self.stale else ACCEPTED

    @property
    def reasons(self) -> list[Refused]:
        """Why it is refused, each once."""
        found: dict[tuple[str, ...], Refused] = {}
        for refused in [*self.refused, *(r for row in self.rows for r in row.refused)]:
            found.setdefault((refused.subject, refused.reason, refused.expected, refused.found), refused)
        return list(found.values())


def render_table(report: Report) -> str:
    """What was judged, one line for each artifact that the policy asks something for; the others are counted."""
    head = ("KIND", "ARTIFACT", "BUILDERS", "REBUILDERS", "RESULT")
    lines = [head]
    others: dict[str, int] = {}
    for row in report.rows:
        if not row.builders and not row.rebuilders and not row.refused:
            others[row.item.kind] = others.get(row.item.kind, 0) + 1
            continue
        result = "refused" if row.refused else "accepted"
        lines.append((row.item.kind, row.item.name, str(len(row.builders)), str(len(row.rebuilders)), result))
    lines += [(kind, f"{count} files", "-", "-", "by digest") for kind, count in sorted(others.items())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "".join("  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in lines)


def render_reasons(report: Report) -> str:
    """One line for each reason, with what was expected and what was found."""
    return "".join(render_refused(r) for r in report.reasons) + "".join(f"expired: {s}\n" for s in report.stale)


def render_refused(refused: Refused) -> str:
    """A reason not to accept something, without anything that could steer a terminal."""
    lines = [f"refused: {refused.subject}: {refused.reason}"]
    lines += [f"  expected {refused.expected}"] if refused.expected else []
    lines += [f"  found    {refused.found}"] if refused.found else []
    return "".join(plain(line) + "\n" for line in lines)


def plain(text: str) -> str:
    """Text of which every character can be printed."""
    if text.isprintable():
        return text
    return (
        "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
        .encode("utf-8", "backslashreplace")
        .decode()
    )


def render_json(report: Report) -> str:
    """Everything as JSON (docs/verify.md)."""
    value: dict[str, Any] = {
        "accepted": report.exit_code == ACCEPTED,
        "exit": report.exit_code,
        "version": report.version,
        "folder": report.folder,
        "policy": report.policy,
        "root": report.root,
        "development": report.development,
        "files": report.files,
        "bytes": report.size,
        "artifacts": [
            {
                "kind": r.item.kind,
                "name": r.item.name,
                "digest": f"sha256:{r.item.digest}",
                "builders": list(r.builders),
                "rebuilders": list(r.rebuilders),
                "result": "refused" if r.refused else "accepted",
            }
            for r in report.rows
        ],
        "refused": [
            {"subject": r.subject, "reason": r.reason, "expected": r.expected, "found": r.found} for r in report.reasons
        ],
        "expired": report.stale,
        "notes": report.notes,
    }
    if report.kept:
        value["repositories"] = [{"path": k.path, "revision": k.revision, "packages": k.packages} for k in report.kept]
        value["releases"] = report.releases
    return json.dumps(value, indent=2) + "\n"
