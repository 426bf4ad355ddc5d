"""Package URLs: https://github.com/package-url/purl-spec. Pure."""

from collections.abc import Mapping
from urllib.parse import quote

from pipeline.model import Digest, Module


def purl(kind: str, path: str, version: str, qualifiers: Mapping[str, str] | None = None) -> str:
    """`pkg:KIND/PATH@VERSION?KEY=VALUE&…`, parts percent-encoded, qualifiers sorted, empty ones left out."""
    name = "/".join(quote(part, safe=".-_~") for part in path.split("/"))
    text = f"pkg:{kind}/{name}@{quote(version, safe=':.-_~')}"
    given = [f"{k}={quote(v, safe=':/.-_~')}" for k, v in sorted((qualifiers or {}).items()) if v]
    return text + ("?" + "&".join(given) if given else "")


def of_module(module: Module) -> str:
    """Of a Go module; letters keep their case, as vulnerability databases have them."""
    return purl("golang", module.path, module.version)


def of_stdlib(version: str) -> str:
    """Of Go's standard library, under the name that scanners know it by."""
    return purl("golang", "stdlib", version)


def of_image(repository: str, tag: str, digest: Digest, arch: str) -> str:
    """Of one platform's manifest; no registry, since an image may lie in any."""
    return purl("oci", repository.rpartition("/")[2].lower(), str(digest), {"arch": arch, "tag": tag})


def of_archive(name: str, version: str, digest: Digest, arch: str) -> str:
    """Of a file that is published."""
    return purl("generic", name, version, {"arch": arch, "checksum": str(digest)})


def of_package(
    family: str, distribution: str, name: str, version: str, architecture: str, source: str, source_version: str
) -> str:
    """Of a distribution's package: `upstream` names the source package, that advisories are about, if it differs."""
    vendor = distribution.partition("-")[0]
    qualifiers = {"arch": architecture, "distro": distribution}
    if family == "deb":
        differs = source_version and source_version != version
        upstream = f"{source}@{source_version}" if differs else source
        return purl("deb", f"{vendor}/{name}", version, qualifiers | {"upstream": upstream if upstream != name else ""})
    epoch, found, rest = version.rpartition(":")
    return purl("rpm", f"{vendor}/{name}", rest, qualifiers | {"epoch": epoch if found else "", "upstream": source})
