"""The steps that write a release's SBOMs: one for each image and architecture, each tarball, and the release."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.definitions import Release
from pipeline.engine import code_digest
from pipeline.errors import BuildError
from pipeline.graph import Action, Ref, Work
from pipeline.image.layer import BLOB, Program, layer_roots
from pipeline.image.names import Image
from pipeline.inputs import Inputs
from pipeline.lock import BaseLock, Package
from pipeline.model import Digest
from pipeline.sbom.document import describe
from pipeline.sbom.facts import File, ReleaseFacts, Subject
from pipeline.sbom.files import read_files
from pipeline.sbom.gather import component, deviations
from pipeline.sbom.overview import describe_release
from pipeline.sbom.packages import system_packages
from pipeline.sbom.purl import of_archive, of_image
from pipeline.units import Unit

FOLDER, RELEASE = "sbom", "release.spdx.json"
CODE = (
    *("sbom", "sbom/licences.yaml", "build/check.py", "build/elf.py", "pack/notices.py"),
    *("base/archives.py", "base/deb.py", "base/facts.py", "base/rpmfile.py", "extract.py"),
)


@dataclass(frozen=True)
class Contents:
    """An image on one architecture, or an archive, as its maker knows it."""

    name: str
    """`hardened-coredns`, `rfo`: the document is `NAME.linux-ARCH.spdx.json`."""
    version: str
    arch: str
    licence: str
    """SPDX expression of what the project itself adds."""
    programs: tuple[Program, ...]
    repository: str = ""
    """`rfolabs/hardened-coredns`; empty for an archive."""
    tag: str = ""
    packages: tuple[Package, ...] = ()
    """Distribution packages whose files are inside."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def document(self) -> str:
        """The name of its document's file."""
        return f"{self.name}.linux-{self.arch}.spdx.json"

    @property
    def facts(self) -> dict[str, Any]:
        """All of it as plain values."""
        programs = [[p.path, p.unit.name, p.name] for p in self.programs]
        return {**vars(self), "programs": programs, "packages": [p.line() for p in self.packages]}


def sbom_action(contents: Contents, subject: Ref, layers: Sequence[Ref], inputs: Inputs, release: Release) -> Action:
    """The action that describes an image or archive.

    `subject` is the image's manifest, or the archive; `layers` are the image's layers from the lowest, or the archive
    again: tar archives, plain or compressed. Their files are what the document lists, and each program among them must
    be the one that its build made.
    """
    facts = release_facts(release)
    units = {p.unit.name: p.unit for p in contents.programs}

    def run(work: Work) -> None:
        files = read_files([work.inputs[f"layer {i}"] for i in range(len(layers))], contents.name)
        _refuse_others(contents, files, work)
        digest = Digest.of_file(work.inputs["subject"])
        of = of_image if contents.repository else of_archive
        name, version = contents.repository or contents.name, contents.tag or contents.version
        components = []
        for unit in (units[name] for name in sorted(units)):
            own = {p.path: work.inputs[f"program {p.path}"] for p in contents.programs if p.unit.name == unit.name}
            components.append(component(unit, contents.arch, own, inputs, release))
        described = Subject(
            name=f"{contents.name}.linux-{contents.arch}",
            version=contents.version,
            purl=of(name, version, digest, contents.arch),
            purpose="CONTAINER" if contents.repository else "ARCHIVE",
            digest=digest,
            licence=contents.licence,
            files=files,
            packages=tuple(system_packages(contents.packages, inputs)),
            components=tuple(components),
            base=inputs.roots.base.name,
            labels=contents.labels,
        )
        (work.out / contents.document).write_bytes(describe(described, facts))

    return Action(
        name=f"sbom/{contents.name}/{contents.arch}",
        publish={contents.document: f"{FOLDER}/{contents.document}"},
        parameters={
            "code": str(code_digest(*CODE)),
            "contents": contents.facts,
            "release": _release_parameters(release),
            "base": [inputs.roots.base.name, inputs.roots.base.family, inputs.roots.base.origin],
            "sources": {name: _unit_parameters(unit, inputs) for name, unit in units.items()},
            "linked": {name: _linked(unit, contents.arch, inputs) for name, unit in units.items()},
        },
        run=run,
        inputs={
            "subject": subject,
            **{f"layer {i}": ref for i, ref in enumerate(layers)},
            **{f"program {p.path}": Ref(p.unit.action("build", contents.arch), p.name) for p in contents.programs},
        },
        disk=4 << 20,
        seconds=2.0,
    )


def image_sbom_action(
    image: Image,
    arch: str,
    layers: Sequence[str],
    programs: Sequence[Program],
    labels: Mapping[str, str],
    inputs: Inputs,
    release: Release,
) -> Action:
    """The action that describes an image; `layers` are the actions that made its layers, the lowest first."""
    packages: list[Package] = []
    if image.recipe.layer:
        own, below = layer_roots(image.recipe.layer, arch, inputs)
        packages = [p for root in (*below, own) for p in root.packages]
    contents = Contents(
        name=image.name,
        version=image.version,
        arch=arch,
        licence=next(p.unit.license for p in programs if p.unit.component == image.recipe.component),
        programs=tuple(programs),
        repository=image.reference.repository,
        tag=image.reference.tag,
        packages=tuple(packages),
        labels=labels,
    )
    manifest = Ref(f"image/{image.name}/{arch}", "manifest.json")
    return sbom_action(contents, manifest, [Ref(name, BLOB) for name in layers], inputs, release)


def tarball_sbom_action(unit: Unit, arch: str, inputs: Inputs, release: Release) -> Action:
    """The action that describes the node tarball around `unit`."""
    archive = Ref(f"tarball/{arch}", f"rfo.linux-{arch}.tar.gz")
    programs = tuple(Program(f"bin/{name}", name, unit) for name in unit.build.binaries)
    contents = Contents(name="rfo", version=release.version, arch=arch, licence=unit.license, programs=programs)
    return sbom_action(contents, archive, [archive], inputs, release)


def release_sbom_action(
    release: Release, units: Sequence[Unit], inputs: Mapping[str, Inputs], documents: Sequence[Ref]
) -> Action:
    """The action that describes the release as a whole; `inputs` are by architecture."""
    facts = release_facts(release)
    locks: dict[str, BaseLock] = {f"linux/{arch}": found.roots.lock for arch, found in sorted(inputs.items())}
    anyone = next(iter(inputs.values()))
    made = sorted((u for u in units if set(u.arches) & set(inputs)), key=lambda u: u.name)

    def run(work: Work) -> None:
        texts = {name: path.read_bytes() for name, path in work.inputs.items()}
        components = [component(u, next(a for a in u.arches if a in inputs), {}, anyone, release) for u in made]
        data = describe_release(facts, components, locks, deviations(release, None), texts)
        (work.out / RELEASE).write_bytes(data)

    return Action(
        name="sbom/release",
        publish={RELEASE: f"{FOLDER}/{RELEASE}"},
        parameters={
            "code": str(code_digest(*CODE)),
            "release": _release_parameters(release),
            "sources": {u.name: _unit_parameters(u, anyone) for u in made},
            "bases": {p: str(Digest.of_bytes(lock.render().encode())) for p, lock in locks.items()},
        },
        run=run,
        inputs={ref.output: ref for ref in documents},
        disk=1 << 20,
        seconds=1.0,
    )


def release_facts(release: Release) -> ReleaseFacts:
    """What all documents of a release have in common."""
    return ReleaseFacts(release.version, release.values["date"], f"rfo-pipeline-{code_digest(*CODE).hex[:12]}")


def _refuse_others(contents: Contents, files: Sequence[File], work: Work) -> None:
    """A document that says of another file that the build made it would be worse than none."""
    found = {f.path: f.sha256 for f in files}
    for program in contents.programs:
        built = Digest.of_file(work.inputs[f"program {program.path}"]).hex
        if found.get(program.path) != built:
            raise BuildError(
                f"{work.name}: expected at {program.path} the {program.name} that {program.unit.name} builds, "
                f"sha256:{built}; found {found.get(program.path, 'no file')}"
            )


def _release_parameters(release: Release) -> dict[str, Any]:
    noted = [d.model_dump(mode="json") for d in release.deviations]
    return {"version": release.version, "date": release.values["date"], "deviations": noted}


def _unit_parameters(unit: Unit, inputs: Inputs) -> list[Any]:
    lock = inputs.locked.lock
    pin = lock.mains.get(unit.name) or lock.snapshots.get(unit.name)
    named = [unit.component, unit.version, unit.license, unit.source_version, pin.line() if pin else ""]
    return [named, inputs.identity(unit)]


def _linked(unit: Unit, arch: str, inputs: Inputs) -> list[str]:
    """Of C libraries what decides which packages are found."""
    if not unit.build.uses_cgo(arch):
        return []
    roots = [inputs.roots.find(role, arch) for role in ("sysroot", "builder")]
    return [*unit.build.libraries, *(p.line() for root in roots for p in root.packages)]
