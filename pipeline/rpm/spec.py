"""Specs of a release, from those in rpm/specs, which are valid by themselves. Pure; no I/O.

Only what is the release's own is set: its version, its changelog, and which architectures there are.
"""

import re
from collections.abc import Sequence
from email.utils import format_datetime

from pipeline.definitions import Release
from pipeline.errors import DefinitionError
from pipeline.model import PLATFORMS

SPECS = "rpm/specs"
"""Folder of a checkout that has them."""
REVISION = "1"
"""Of a package (`Release:`, before `%{?dist}`): it is made once for each version."""
_SOURCE = re.compile(r"^Source([0-9]+):\s+\S+\.linux-([a-z0-9]+)\.")
_NO_SOURCE = re.compile(r"^NoSource:\s+([0-9]+)$")
_EXCLUSIVE = re.compile(r"^(ExclusiveArch:\s+)(.+)$")


def rpm_version(release: Release) -> str:
    """`Version:` of the release's packages."""
    return release.version.removeprefix("v")


def render_spec(text: str, name: str, release: Release, arches: Sequence[str]) -> str:
    """The spec `text`, called `name` in errors, for `release` and without what belongs to other architectures.

    Sources keep their numbers. Raises DefinitionError if there is not one place for what is set.
    """
    body, found, _ = text.partition("\n%changelog\n")
    body, versions = re.subn(r"(?m)^(Version:\s+)\S+$", rf"\g<1>{rpm_version(release)}", body)
    if not found or versions != 1:
        raise DefinitionError(f"{name}: expected one Version: line and a %changelog at the end")
    others = {match[1] for line in body.splitlines() if (match := _SOURCE.match(line)) and match[2] not in arches}
    lines = [line for line in (_of(line, arches, others) for line in body.splitlines()) if line is not None]
    return "\n".join([*lines, "", "%changelog", *_changelog(release)]) + "\n"


def _of(line: str, arches: Sequence[str], others: set[str]) -> str | None:
    """A line as it is for `arches`, None if it belongs to a source in `others`."""
    source = _SOURCE.match(line) or _NO_SOURCE.match(line)
    if source and source[1] in others:
        return None
    if exclusive := _EXCLUSIVE.match(line):
        kept = {PLATFORMS[arch].rpm_arch for arch in arches}
        return exclusive[1] + " ".join(a for a in exclusive[2].split() if a in kept)
    return line


def _changelog(release: Release) -> list[str]:
    """One entry in openEuler's form, at the release's date."""
    components = ", ".join(f"{name} {choice.version}" for name, choice in release.components.items() if choice.version)
    weekday, day, month, year, *_ = format_datetime(release.date).replace(",", "").split()  # no locale changes it
    return [
        f"* {weekday} {month} {day} {year} RFO - {rpm_version(release)}-{REVISION}",
        "- Type:feature",
        "- ID:NA",
        "- SUG:NA",
        f"- DESC:RFO {release.version}, which follows {release.upstream}" + (f": {components}" if components else ""),
    ]
