"""One SPDX 2.3 document: an image of one platform, or an archive, with all that is inside of it. Pure.

Equal facts give equal bytes: elements are sorted, identifiers are made from what they name, the time is the release's,
and the namespace holds a digest of the whole content.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.sbom.facts import Component, File, GoModule, Origin, ReleaseFacts, Subject, SystemPackage, Toolchain
from pipeline.sbom.licences import NOASSERTION, Licence, clean_text
from pipeline.sbom.packages import owners
from pipeline.sbom.purl import of_module, of_package, of_stdlib, purl

NAMESPACE = "https://rfolabs.github.io/rfo/spdx"
"""Begins the names of documents; it is an identifier, not a place."""
SUPPLIER = "Organization: rfolabs"
ROOT = "SPDXRef-Root"
"""The package that a document is about; documents of a release refer to each other's."""
H1 = "go-h1"
"""Type of the reference that holds a module's hash: it is over a list of file digests (golang.org/x/mod/sumdb/dirhash),
so that no file has it and SPDX has no algorithm for it."""


class Document:
    """A document that is being put together."""

    def __init__(self, name: str, release: ReleaseFacts) -> None:
        self.name = name
        self.release = release
        self.references: list[dict[str, Any]] = []
        self._elements: dict[str, dict[str, dict[str, Any]]] = {"packages": {}, "files": {}}
        self._relationships: set[tuple[str, str, str]] = set()
        self._texts: dict[str, str] = {}

    def package(self, identifier: str, **fields: Any) -> str:
        """Add a package, once; licence and copyright say that nothing is asserted where `fields` do not say more."""
        known: dict[str, Any] = {
            "licenseConcluded": NOASSERTION,
            "licenseDeclared": NOASSERTION,
            "copyrightText": NOASSERTION,
        }
        known |= {"downloadLocation": NOASSERTION, "filesAnalyzed": False, "supplier": NOASSERTION}
        if isinstance(licence := fields.get("licenseDeclared"), Licence):
            fields["licenseDeclared"] = licence.expression
            fields["licenseComments"] = licence.comment
            self._texts |= licence.texts
        given = {k: v for k, v in fields.items() if v not in ("", None, [], ())}
        self._elements["packages"].setdefault(identifier, {"SPDXID": identifier, **known, **given})
        return identifier

    def file(self, file: File, *, program: bool = False) -> str:
        """Add a file."""
        identifier = spdx_id("File", file.path)
        sums = [("SHA1", file.sha1), ("SHA256", file.sha256)]
        self._elements["files"][identifier] = {
            "SPDXID": identifier,
            "fileName": clean_line(f"./{file.path}"),
            "checksums": [{"algorithm": a, "checksumValue": v} for a, v in sums],
            **({"fileTypes": ["BINARY"]} if program else {}),
        }
        return identifier

    def contain(self, owner: str, files: Sequence[File], programs: Iterable[str] = ()) -> None:
        """Say that a package has these files, and the code that verifies it (SPDX 2.3, 7.9)."""
        executable = set(programs)
        for file in files:
            self.relate(owner, "CONTAINS", self.file(file, program=file.path in executable))
        if files:
            total = hashlib.sha1("".join(sorted(f.sha1 for f in files)).encode(), usedforsecurity=False)
            code = {"packageVerificationCodeValue": total.hexdigest()}
            self._elements["packages"][owner] |= {"filesAnalyzed": True, "packageVerificationCode": code}

    def relate(self, element: str, kind: str, other: str) -> None:
        """Add a relationship."""
        self._relationships.add((element, kind, other))

    def annotate(self, comments: Iterable[str]) -> list[dict[str, str]]:
        """Annotations by this project, of the release date."""
        facts = {"annotationDate": self.release.date, "annotationType": "OTHER", "annotator": SUPPLIER}
        return [{**facts, "comment": clean_line(c)} for c in comments]

    def render(self) -> bytes:
        """The document's bytes."""
        elements = {k: [v for _, v in sorted(found.items())] for k, found in self._elements.items() if found}
        texts = [
            {"licenseId": i, "name": i.removeprefix("LicenseRef-"), "extractedText": t}
            for i, t in sorted(self._texts.items())
        ]
        relationships = [
            {"spdxElementId": a, "relationshipType": kind, "relatedSpdxElement": b}
            for a, kind, b in sorted({("SPDXRef-DOCUMENT", "DESCRIBES", ROOT), *self._relationships})
        ]
        content = {
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": self.name,
            "creationInfo": {
                "created": self.release.date,
                "creators": [f"Tool: {self.release.tool}", SUPPLIER],
            },
            **({"externalDocumentRefs": self.references} if self.references else {}),
            **elements,
            **({"hasExtractedLicensingInfos": texts} if texts else {}),
            "relationships": relationships,
        }
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{self.release.version}-{self.name}")
        digest = hashlib.sha256(canonical_bytes(content)).hexdigest()
        content["documentNamespace"] = f"{NAMESPACE}/{name}-{digest}"
        return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=True) + "\n").encode()


def describe(subject: Subject, release: ReleaseFacts) -> bytes:
    """The document of an image or archive."""
    document = Document(subject.name, release)
    document.package(
        ROOT,
        name=subject.name,
        versionInfo=subject.version,
        primaryPackagePurpose=subject.purpose,
        supplier=SUPPLIER,
        licenseDeclared=subject.licence,
        checksums=[sha256(subject.digest.hex)],
        externalRefs=[purl_reference(subject.purl)],
        annotations=document.annotate(f"{k}={v}" for k, v in sorted(subject.labels.items())),
    )
    programs = {path for c in subject.components for path in c.programs}
    owner = owners(subject.packages)
    by_package: dict[str, list[File]] = {}
    for file in subject.files:
        if file.path not in programs:
            package = owner.get(file.path)
            by_package.setdefault(package.pin.name if package else "", []).append(file)
    for package in subject.packages:
        identifier = add_system_package(document, package)
        document.relate(ROOT, "CONTAINS", identifier)
        document.contain(identifier, by_package.get(package.pin.name, []))
    document.contain(ROOT, by_package.get("", []))
    if subject.base and subject.packages:
        document.relate(ROOT, "DESCENDANT_OF", add_base(document, subject.base))
    files = {f.path: f for f in subject.files}
    for component in subject.components:
        identifier = add_component(document, component)
        add_linked(document, component, identifier)
        document.relate(ROOT, "CONTAINS", identifier)
        document.contain(identifier, [files[p] for p in component.programs], component.programs)
    return document.render()


def add_component(document: Document, component: Component) -> str:
    """A component and what it is made from."""
    identifier = document.package(
        spdx_id("Component", component.unit),
        name=component.name,
        versionInfo=component.version,
        primaryPackagePurpose="APPLICATION",
        supplier=SUPPLIER,
        licenseDeclared=component.licence,
        externalRefs=[purl_reference(purl("generic", component.name, component.version))],
        annotations=document.annotate(f"deviation: {d}" for d in component.deviations),
    )
    if isinstance(component.source, GoModule):
        document.relate(identifier, "GENERATED_FROM", add_module(document, component.source))
    elif component.source:
        document.relate(identifier, "GENERATED_FROM", add_origin(document, component.source))
    return identifier


def add_linked(document: Document, component: Component, identifier: str) -> None:
    """All that is linked into a component's programs."""
    for module in component.modules:
        document.relate(identifier, "STATIC_LINK", add_module(document, module))
    if component.toolchain:
        document.relate(identifier, "STATIC_LINK", add_stdlib(document, component.toolchain))
    for package in component.libraries:
        document.relate(identifier, "STATIC_LINK", add_system_package(document, package))


def add_stdlib(document: Document, toolchain: Toolchain) -> str:
    """Go's standard library and runtime, which every Go program holds."""
    return document.package(
        spdx_id("Go", f"stdlib@{toolchain.version}"),
        name="stdlib",
        versionInfo=toolchain.version,
        primaryPackagePurpose="LIBRARY",
        licenseDeclared=toolchain.module.licence,
        sourceInfo=f"Go's standard library and runtime, from the module {toolchain.module.module}",
        externalRefs=[h1_reference(toolchain.module.module.sum), purl_reference(of_stdlib(toolchain.version))],
    )


def add_module(document: Document, found: GoModule) -> str:
    """A Go module."""
    module = found.module
    return document.package(
        spdx_id("Go", str(module)),
        name=module.path,
        versionInfo=module.version,
        primaryPackagePurpose="LIBRARY",
        licenseDeclared=found.licence,
        sourceInfo=f"Go module {module}, its files checked against its h1 hash",
        externalRefs=[h1_reference(module.sum), purl_reference(of_module(module))],
    )


def add_origin(document: Document, origin: Origin) -> str:
    """A source that is no Go module."""
    return document.package(
        spdx_id("Source", origin.purl),
        name=clean_line(origin.name),
        versionInfo=clean_line(origin.version),
        primaryPackagePurpose="SOURCE",
        downloadLocation=origin.download,
        licenseDeclared=origin.licence,
        checksums=[sha256(origin.digest.hex)],
        externalRefs=[purl_reference(origin.purl)],
    )


def add_system_package(document: Document, package: SystemPackage) -> str:
    """A package of a distribution."""
    pin = package.pin
    source = f"{package.source} {package.source_version}".strip()
    maintained = f", maintained by {package.maintainer}" if package.maintainer else ""
    locator = of_package(
        package.family, package.distribution, pin.name, pin.version, package.architecture, package.source,
        package.source_version,
    )  # fmt: skip
    return document.package(
        spdx_id("Package", f"{pin.name} {pin.version} {package.architecture}"),
        name=clean_line(pin.name),
        versionInfo=clean_line(pin.version),
        packageFileName=clean_line(pin.path.rpartition("/")[2]),
        supplier=f"Organization: {re.sub(r'[()]', ' ', package.supplier).strip()}",
        homepage=package.homepage
        if re.fullmatch(r"https?://[A-Za-z0-9._~:/?#@!$&'*+,;=%-]+", package.homepage)
        else "",
        licenseDeclared=package.licence,
        checksums=[sha256(pin.digest.hex)],
        sourceInfo=clean_line(f"built from source package {source}{maintained}; {pin.path} of {package.distribution}"),
        externalRefs=[purl_reference(locator)],
    )


def add_base(document: Document, name: str, comments: Iterable[str] = ()) -> str:
    """The distribution that packages come from."""
    vendor, _, version = name.partition("-")
    return document.package(
        spdx_id("Base", name),
        name=vendor,
        versionInfo=version,
        primaryPackagePurpose="OPERATING-SYSTEM",
        annotations=document.annotate(comments),
    )


def spdx_id(kind: str, text: str) -> str:
    """An identifier for `text`: readable, and unique by a part of its digest."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")[:60]
    return f"SPDXRef-{kind}-{slug}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def sha256(value: str) -> dict[str, str]:
    """A checksum."""
    return {"algorithm": "SHA256", "checksumValue": value}


def purl_reference(locator: str) -> dict[str, str]:
    """A reference by package URL."""
    return {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator}


def h1_reference(total: str) -> dict[str, str]:
    """A module's hash."""
    return {"referenceCategory": "OTHER", "referenceType": H1, "referenceLocator": total}


def clean_line(text: str) -> str:
    """`text` as one line without control characters."""
    return " ".join(clean_text(text).split())


def canonical_bytes(content: Mapping[str, Any]) -> bytes:
    """What a document's namespace is a digest of."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
