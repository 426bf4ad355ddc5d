"""`NOTES.md`: what a release contains and how it differs from upstream, for people. Made from the manifest alone."""

from collections.abc import Sequence
from typing import Any


def render_notes(manifest: dict[str, Any]) -> str:
    """The text of NOTES.md."""
    lines = [f"# RFO {manifest['version']}", ""]
    lines += [f"Follows RKE2 {manifest['upstream']}. Release date {manifest['date'][:10]}.", ""]
    if manifest["stand_in"]:
        lines += ["**Made on a stand-in base, not on the base of its definition: for development only.**", ""]
    lines += ["| platform | base |", "|---|---|"]
    lines += [f"| {p} | {b} |" for p, b in sorted(manifest["bases"].items())]
    lines += [
        "",
        "## Components",
        "",
        "| component | version | built with | source | licence |",
        "|---|---|---|---|---|",
    ]
    for component in manifest["components"]:
        for source in component["sources"]:
            partial = (
                ""
                if len(source["platforms"]) == len(_all_platforms(manifest))
                else f" ({', '.join(source['platforms'])})"
            )
            made = f"Go {source['go']}" if source["go"] else "C"
            origin = _origin(source)
            unit = source["unit"].partition("@")[0]
            lines.append(f"| {unit} | {source['version']}{partial} | {made} | {origin} | {component['license']} |")
    lines += _images(manifest.get("images", []))
    lines += _packages([a["name"] for a in manifest["artifacts"]])
    lines += ["", "## Deviations from upstream", ""]
    for deviation in manifest["deviations"]:
        subject = f"**{deviation['component']}**: " if deviation.get("component") else ""
        lines.append(f"- {subject}{deviation['what']}. Why: {deviation['why']}.")
    if not manifest["deviations"]:
        lines.append("None.")
    return "\n".join(lines) + "\n"


def _images(images: list[dict[str, Any]]) -> list[str]:
    """The names of each image, and the digest that stands for it on all platforms."""
    if not images:
        return []
    rows = [
        f"| {'<br>'.join(i['references'])} | `{i['digest']}` | {', '.join(sorted(i['platforms']))} |" for i in images
    ]
    return ["", "## Images", "", "| names | digest | platforms |", "|---|---|---|", *rows]


def _packages(names: Sequence[str]) -> list[str]:
    """The repositories of RPM packages, each with what is in it."""
    repositories: dict[str, list[str]] = {}
    for name in sorted(n for n in names if n.endswith(".rpm")):
        folder, _, file = name.rpartition("/")
        repositories.setdefault(folder, []).append(f"`{file}`")
    if not repositories:
        return []
    rows = [f"| `{folder}` | {'<br>'.join(files)} |" for folder, files in repositories.items()]
    return ["", "## Packages", "", "| repository | packages |", "|---|---|", *rows]


def _origin(source: dict[str, Any]) -> str:
    if "git" in source:
        return f"{source['git']}, tag {source['tag']}"
    return str(source.get("module") or source.get("archive") or f"this repository, {source['tree']}")


def _all_platforms(manifest: dict[str, Any]) -> set[str]:
    return {p for c in manifest["components"] for s in c["sources"] for p in s["platforms"]}
