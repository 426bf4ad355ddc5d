"""What a distribution's package says of itself: source, supplier, files, terms. Reads package files.

deb: control archive (deb-control(5), md5sums, conffiles) and the machine-readable copyright file
(https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/). rpm: the header's tags
(https://rpm-software-management.github.io/rpm/manual/tags.html).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from pipeline.base.deb import unpack
from pipeline.base.facts import control_files
from pipeline.base.rpmfile import STRINGS, Header, Rpm, read_rpm
from pipeline.errors import SourceError
from pipeline.inputs import Inputs
from pipeline.lock import Package
from pipeline.pack.notices import MAX_TEXT
from pipeline.sbom.facts import SystemPackage
from pipeline.sbom.licences import Licence, combine, named, reference
from pipeline.store import Store

MAX_NAMES = 1 << 20
"""Entries of one list in an rpm header."""
DOCUMENTS = ("*", "!usr/share/doc/*", "usr/share/doc/*/*", "!usr/share/doc/*/copyright")
"""Patterns of `pipeline.extract.dropper` that leave the terms, and the links of packages that share them."""
LICENSE, VENDOR, URL, SOURCE_RPM = 1014, 1011, 1020, 1044
PACKAGER, DIR_INDEXES, BASE_NAMES, DIR_NAMES = 1015, 1116, 1117, 1118
_NO_TERMS = Licence(comment="The package has no file with its terms.")


@dataclass(frozen=True)
class _Said:
    """What one package file says."""

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    supplier: str
    maintainer: str
    homepage: str
    licence: str
    """rpm: the License tag."""
    files: frozenset[str]
    terms: Mapping[str, str] = field(default_factory=dict)
    """deb: folder below usr/share/doc to the text of its copyright file."""
    shared: Mapping[str, str] = field(default_factory=dict)
    """deb: folder that is a link, to the folder it leads to."""


def system_packages(
    packages: Sequence[Package], inputs: Inputs, *, others: Sequence[Package] = (), terms: bool = True
) -> list[SystemPackage]:
    """What the files of locked `packages` say, fetched if need be; see `read_packages`."""
    inputs.roots.fetch([*packages, *others])
    files = [(p, inputs.roots.file(p)) for p in packages]
    more = {p.name: inputs.roots.file(p) for p in others}
    base = inputs.roots.base
    vendor = base.origin if base.family == "deb" else base.name.partition("-")[0]
    return read_packages(files, base.family, base.name, vendor, inputs.store, others=more, terms=terms)


def read_packages(
    packages: Sequence[tuple[Package, Path]],
    family: str,
    distribution: str,
    vendor: str,
    store: Store,
    *,
    others: Mapping[str, Path] | None = None,
    terms: bool = True,
) -> list[SystemPackage]:
    """What package files say, in their order; licences only with `terms`. `vendor` supplies those that name nobody.

    Packages that share their terms with another one find it among `packages` and, by name, among `others`. Raises
    SourceError for a malformed one, one that is not what its pin says, and one whose fields hold control characters.
    """
    said = [_read(family, package, path, store, terms=terms) for package, path in packages]
    texts = {folder: text for s in said for folder, text in s.terms.items()}
    links = {folder: target for s in said for folder, target in s.shared.items()}
    for name in sorted({t for t in links.values() if t not in texts} & set(others or {})):
        texts |= _documents((others or {})[name], f"package {name}", store)[0]
    return [
        SystemPackage(
            pin=package,
            family=family,
            distribution=distribution,
            architecture=s.architecture,
            source=s.source,
            source_version=s.source_version,
            supplier=s.supplier or vendor,
            maintainer=s.maintainer,
            homepage=s.homepage,
            licence=_licence(s, texts, links) if terms else Licence(),
            files=s.files,
        )
        for (package, _), s in zip(packages, said, strict=True)
    ]


def owners(packages: Iterable[SystemPackage]) -> dict[str, SystemPackage]:
    """Path to the package that lists it. A path of a merged /usr may be listed without `usr/`."""
    found: dict[str, SystemPackage] = {}
    for package in sorted(packages, key=lambda p: p.pin):
        for path in package.files:
            found.setdefault(path, package)
            if path.split("/")[0] in ("bin", "sbin", "lib", "lib64"):
                found.setdefault(f"usr/{path}", package)
    return found


def parse_copyright(name: str, text: str) -> Licence:
    """The licence that a Debian copyright file tells: all that it names; one that is not machine-readable is a text."""
    paragraphs = [_fields(p) for p in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n"))]
    if not paragraphs or "format" not in paragraphs[0]:
        return reference(name, text)
    texts: dict[str, str] = {}
    used: set[str] = set()
    for index, fields in enumerate(paragraphs):
        title, _, body = fields.get("license", "").partition("\n")
        title = " ".join(title.split())
        if body.strip():
            texts.setdefault(title, re.sub(r"(?m)^ \.?$|^ ", "", body))
        if title and (index == 0 or "files" in fields):
            used.add(title)
    return combine(named(t, texts, name) for t in sorted(used)) if used else reference(name, text)


def _read(family: str, package: Package, path: Path, store: Store, *, terms: bool) -> _Said:
    what = f"package {package.name} {package.version}"
    said = _read_rpm(path, what) if family == "rpm" else _read_deb(path, what, package.name)
    if (said.name, said.version) != (package.name, package.version):
        raise SourceError(f"{what}: its file says that it is {said.name[:80]!r} {said.version[:80]!r}")
    for key, value in vars(said).items():
        if isinstance(value, str) and re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", value):
            raise SourceError(f"{what}: its field {key} holds control characters: {value[:80]!r}")
    if family == "deb" and terms:
        texts, links = _documents(path, what, store)
        return _Said(**(vars(said) | {"terms": texts, "shared": links}))
    return said


def _licence(said: _Said, texts: Mapping[str, str], links: Mapping[str, str]) -> Licence:
    if said.licence:
        return named(said.licence, {}, said.name)
    folder = said.name
    if folder not in texts:
        folder = links.get(folder, folder)
    return parse_copyright(said.source, texts[folder]) if folder in texts else _NO_TERMS


@lru_cache(maxsize=1024)  # a builder's packages are asked for once per image
def _read_deb(path: Path, what: str, name: str) -> _Said:
    control = control_files(path, what)
    fields = _fields(control.get("control", b"").decode("utf-8", errors="replace"))
    source, _, version = fields.get("source", name).partition(" ")
    sums = control.get("md5sums", b"").decode("utf-8", errors="replace").splitlines()
    settings = control.get("conffiles", b"").decode("utf-8", errors="replace").splitlines()
    files = [line.partition(" ")[2].strip() for line in sums] + [line.strip().rpartition(" ")[2] for line in settings]
    return _Said(
        name=fields.get("package", ""),
        version=fields.get("version", ""),
        architecture=fields.get("architecture", ""),
        source=source,
        source_version=version.strip("() ") or fields.get("version", ""),
        supplier="",
        maintainer=fields.get("maintainer", ""),
        homepage=fields.get("homepage", ""),
        licence="",
        files=frozenset(f.removeprefix("/").removeprefix("./") for f in files if f),
    )


def _documents(path: Path, what: str, store: Store) -> tuple[dict[str, str], dict[str, str]]:
    """Copyright texts by folder, and folders that are links to others."""
    texts, links = {}, {}
    with store.workspace() as work:
        root = work / "documents"
        root.mkdir()
        unpack(path, root, what, DOCUMENTS)
        for folder in sorted((root / "usr/share/doc").glob("*")):
            file = folder / "copyright"
            if folder.is_symlink():
                links[folder.name] = folder.readlink().name
            elif file.is_symlink():
                links[folder.name] = file.readlink().parent.name
            elif file.is_file():
                if file.stat().st_size > MAX_TEXT:
                    raise SourceError(f"{what}: its copyright file is larger than {MAX_TEXT} bytes")
                texts[folder.name] = file.read_text(encoding="utf-8", errors="replace")
    return texts, links


def _fields(paragraph: str) -> dict[str, str]:
    """A paragraph of `Name: value` lines; names in lower case, continuation lines kept with their line breaks."""
    fields: dict[str, str] = {}
    last = ""
    for line in paragraph.split("\n"):
        if line.startswith((" ", "\t")) and last:
            fields[last] += f"\n{line}"
        elif (found := line.partition(":"))[1] and not line.startswith("#"):
            last = found[0].strip().lower()
            fields[last] = found[2].strip()
    return fields


@lru_cache(maxsize=1024)
def _read_rpm(path: Path, what: str) -> _Said:
    with path.open("rb") as file:
        rpm = read_rpm(file, what)
    try:
        return _rpm_facts(rpm)
    except (ValueError, IndexError) as error:
        raise SourceError(f"{what}: malformed RPM header ({error})") from error


def _rpm_facts(rpm: Rpm) -> _Said:
    header = rpm.header
    folders, names = _strings(header, DIR_NAMES), _strings(header, BASE_NAMES)
    form, offset, count = header.index.get(DIR_INDEXES, (4, 0, 0))
    if form != 4 or count != len(names) or offset + 4 * count > len(header.store):
        raise ValueError("its list of files is not well formed")
    which = [int.from_bytes(header.store[offset + 4 * i : offset + 4 * i + 4], "big") for i in range(count)]
    return _Said(
        name=rpm.name,
        version=rpm.evr,
        architecture=rpm.arch,
        source=header.text(SOURCE_RPM),
        source_version="",
        supplier=header.text(VENDOR),
        maintainer=header.text(PACKAGER),
        homepage=header.text(URL),
        licence=header.text(LICENSE),
        files=frozenset(f"{folders[i]}{n}".removeprefix("/") for i, n in zip(which, names, strict=True)),
    )


def _strings(header: Header, tag: int) -> list[str]:
    form, offset, count = header.index.get(tag, (STRINGS, 0, 0))
    if form != STRINGS or count > MAX_NAMES:
        raise ValueError(f"tag {tag} is no list of texts")
    parts = header.store[offset:].split(b"\0", count)[:count]
    if len(parts) != count:
        raise ValueError(f"tag {tag} is cut off")
    return [p.decode("utf-8", errors="replace") for p in parts]
