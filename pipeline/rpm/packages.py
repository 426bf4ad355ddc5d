"""Actions that make RPM packages: rpmbuild from a base's locked packages, in the sandbox, on the specs of rpm/specs.

What is packaged was built and checked before, so a package for any architecture is made on any host. Nothing is signed
here. What makes equal packages of equal files (docs of rpm, macros; reproducible-builds.org): the time of everything is
the release's, the host has one name, and source packages, which hold their spec expanded, are made at a fixed path.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.bases import Base
from pipeline.definitions import Release
from pipeline.engine import code_digest
from pipeline.errors import DefinitionError
from pipeline.graph import Action, Ref, Work
from pipeline.image.bundle import ALL, bundle_name
from pipeline.inputs import Inputs
from pipeline.model import PLATFORMS, Digest
from pipeline.rpm.signatures import KEYS
from pipeline.rpm.spec import REVISION, SPECS, render_spec, rpm_version
from pipeline.sandbox import INPUTS, Mount, Sandbox

NODE, IMAGES, RELEASE = "rfo", "rfo-images", "rfo-release"
"""Specs."""
NODE_PACKAGES = ("rfo-common", "rfo-server", "rfo-agent")
BUNDLE = ".tar.zst"
ROLE = "packages"
"""The root that has rpmbuild and createrepo_c."""
SOURCES = f"{INPUTS}/sources"
FIXED = "/tmp/rpm"  # noqa: S108 # in the sandbox, where no circumstance moves it
"""Where source packages are made."""
MACROS = {
    "_tmppath": "/tmp",  # noqa: S108
    "_rpmdir": "/out",
    "_srcrpmdir": "/out",
    "_rpmfilename": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
    "_buildhost": "rfo",
    "use_source_date_epoch_as_buildtime": "1",
    "clamp_mtime_to_source_date_epoch": "1",
    "build_mtime_policy": "clamp_to_source_date_epoch",  # the same, since rpm 4.20
    "_build_id_links": "none",
    "_binary_filedigest_algorithm": "8",
    "_source_filedigest_algorithm": "8",
    # openEuler's; with more threads the result would depend on how many there are.
    "_binary_payload": "w2.xzdio",
    # Sources are compressed.
    "_source_payload": "w0.gzdio",
}


@dataclass(frozen=True)
class Spec:
    """One run of rpmbuild."""

    name: str
    text: str
    target: str
    """CPU architecture as rpm calls it, or noarch."""
    macros: Mapping[str, str]
    source: bool = False
    """Whether the source package is made, instead of the others."""

    def command(self) -> tuple[str, ...]:
        """What is run; sources are in SOURCES, the spec in the inputs."""
        top, sources = (FIXED, f"{FIXED}/SOURCES") if self.source else ("/build/rpm", SOURCES)
        macros = {**MACROS, **self.macros, "_topdir": top, "_sourcedir": sources}
        defines = [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]
        build = ("rpmbuild", "-bs" if self.source else "-bb", "--nodeps", "--target", f"{self.target}-linux", *defines)
        link = f'mkdir {FIXED} && ln -s {SOURCES} {FIXED}/SOURCES && exec "$0" "$@"'
        return (*(("sh", "-c", link) if self.source else ()), *build, f"{INPUTS}/{self.name}.spec")


def package_actions(release: Release, inputs: Mapping[str, Inputs], keys: Digest | Ref) -> list[Action]:
    """The actions that make all packages, unsigned, on each base that has them.

    `inputs` are those of the release's architectures, `keys` the file RPM-GPG-KEY-rfo.
    """
    actions: list[Action] = []
    for name, arches in bases_of(inputs).items():
        given = inputs[arches[0]]
        for arch in arches:
            actions += [
                _action(f"rpm/{NODE}/{arch}", given, [_spec(given, release, NODE, [arch])], _tarball(arch)),
                _action(f"rpm/{IMAGES}/{arch}", given, [_spec(given, release, IMAGES, [arch])], _bundle(arch),
                        seconds=5.0, disk=800 << 20),
            ]  # fmt: skip
        sources: dict[str, Digest | Ref] = {KEYS: keys}
        for arch in arches:
            sources |= _tarball(arch) | _bundle(arch)
        actions += [
            _action(f"rpm/{RELEASE}/{name}", given, [_spec(given, release, RELEASE, arches)], {KEYS: keys}),
            _action(f"rpm/source/{name}", given,
                    [_spec(given, release, s, arches, source=True) for s in (NODE, IMAGES, RELEASE)], sources),
        ]  # fmt: skip
    return actions


def _tarball(arch: str) -> dict[str, Digest | Ref]:
    name = f"rfo.linux-{arch}.tar.gz"
    return {name: Ref(f"tarball/{arch}", name)}


def _bundle(arch: str) -> dict[str, Digest | Ref]:
    name = f"{bundle_name(ALL, arch)}{BUNDLE}"
    return {name: Ref(f"bundle/all/{arch}", name)}


def bases_of(inputs: Mapping[str, Inputs]) -> dict[str, list[str]]:
    """The architectures that packages are made for, by base."""
    found: dict[str, list[str]] = {}
    for arch, given in inputs.items():
        if given.roots.base.dist:
            found.setdefault(given.roots.base.name, []).append(arch)
    return found


def packages_for(release: Release, base: Base, arch: str) -> dict[str, Ref]:
    """What is in the repository of one architecture, by file name, unsigned."""
    return {
        **{file: Ref(f"rpm/{NODE}/{arch}", file) for file in _files(release, base, NODE, arch)},
        **{file: Ref(f"rpm/{IMAGES}/{arch}", file) for file in _files(release, base, IMAGES, arch)},
        **{file: Ref(f"rpm/{RELEASE}/{base.name}", file) for file in _files(release, base, RELEASE, arch)},
    }


def sources_for(release: Release, base: Base) -> dict[str, Ref]:
    """The source packages of a base, by file name, unsigned."""
    return {file: Ref(f"rpm/source/{base.name}", file) for s in (NODE, IMAGES, RELEASE) for file in
            _files(release, base, s, "", source=True)}  # fmt: skip


def _files(release: Release, base: Base, spec: str, arch: str, *, source: bool = False) -> tuple[str, ...]:
    """What rpmbuild makes of a spec."""
    if source:
        kind = "nosrc" if spec == IMAGES else "src"
    else:
        kind = "noarch" if spec == RELEASE else PLATFORMS[arch].rpm_arch
    names = NODE_PACKAGES if spec == NODE and not source else (spec,)
    return tuple(f"{name}-{rpm_version(release)}-{REVISION}{base.dist}.{kind}.rpm" for name in names)


def _spec(given: Inputs, release: Release, name: str, arches: Sequence[str], *, source: bool = False) -> Spec:
    """The run for a spec; a package of one architecture knows nothing of the others."""
    base = given.roots.base
    path = given.checkout / SPECS / f"{name}.spec"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DefinitionError(f"{path} cannot be read: {error}") from error
    macros = {"dist": base.dist}
    if name == RELEASE:
        macros["rfo_base"] = base.name
        if release.mirror:
            macros["rfo_mirror"] = release.mirror
    return Spec(
        name=name,
        text=render_spec(text, str(path.relative_to(given.checkout)), release, arches),
        target="noarch" if name == RELEASE else PLATFORMS[arches[0]].rpm_arch,
        macros=macros,
        source=source,
    )


def _action(
    name: str,
    given: Inputs,
    specs: Sequence[Spec],
    files: Mapping[str, Digest | Ref],
    *,
    seconds: float = 2.0,
    disk: int = 64 << 20,
) -> Action:
    """The action that runs rpmbuild on `specs`, whose sources are `files` by the names that they have there."""
    root = given.roots.find(ROLE, given.roots.host)
    environment = {"SOURCE_DATE_EPOCH": str(given.epoch)}

    def run(work: Work) -> None:
        for spec in specs:
            path = work.folder / f"{spec.name}.spec"
            path.write_text(spec.text, encoding="utf-8")
            path.chmod(0o644)
            sources = [Mount(file, f"{SOURCES}/{name}") for name, file in work.inputs.items()]
            if spec.source:
                sources = [Mount(_sources(work), SOURCES)]
            work.execute(
                Sandbox(
                    root=given.roots.path(root),
                    command=spec.command(),
                    build=work.build,
                    out=work.out,
                    environment=environment,
                    mounts=(Mount(path, f"{INPUTS}/{spec.name}.spec"), *sources),
                )
            )

    return Action(
        name=name,
        parameters={
            "code": str(code_digest("rpm/packages.py")),
            "specs": {s.name: str(Digest.of_bytes(s.text.encode())) for s in specs},
            "commands": [list(s.command()) for s in specs],
            "environment": environment,
            "root": str(root.key),
        },
        run=run,
        inputs=files,
        disk=disk,
        seconds=seconds,
    )


def _sources(work: Work) -> Path:
    """A folder with the sources as a source package records them: with a mode. Of bundles it has only the size."""
    folder = work.folder / "sources"
    if not folder.exists():
        folder.mkdir()
        for name, file in work.inputs.items():
            if name.endswith(BUNDLE):
                (folder / name).touch()
                os.truncate(folder / name, file.stat().st_size)
            else:
                shutil.copyfile(file, folder / name)
            (folder / name).chmod(0o644)
    return folder
