"""The packages of a release and their repositories: which actions make, sign and index them.

rpm/… (rpmbuild)  ->  signed/…  ->  repository/… (createrepo_c)  ->  signed-metadata/…
"""

from collections.abc import Mapping

from pipeline.definitions import Release
from pipeline.graph import Action, Ref
from pipeline.inputs import Inputs
from pipeline.model import PLATFORMS
from pipeline.rpm.metadata import INDEX, metadata_action
from pipeline.rpm.packages import bases_of, package_actions, packages_for, sources_for
from pipeline.rpm.signatures import FOLDER, KEYS, Signer
from pipeline.rpm.signed import KEYS_ACTION, keys_action, signed_action, signed_metadata_action


def repository_actions(release: Release, inputs: Mapping[str, Inputs], signer: Signer) -> list[Action]:
    """Everything about packages, for each base that has them; `inputs` are those of the release's architectures."""
    bases = bases_of(inputs)
    if not bases:
        return []
    actions = [keys_action(signer), *package_actions(release, inputs, Ref(KEYS_ACTION, KEYS))]
    for name, arches in bases.items():
        given = inputs[arches[0]]
        base = given.roots.base
        for arch in arches:
            folder = f"{FOLDER}/{name}/{PLATFORMS[arch].rpm_arch}"
            actions += _published(arch, folder, packages_for(release, base, arch), given, signer)
        actions += _published(f"source/{name}", f"{FOLDER}/{name}/source", sources_for(release, base), given, signer)
    return actions


def _published(name: str, folder: str, packages: Mapping[str, Ref], given: Inputs, signer: Signer) -> list[Action]:
    """One repository of a release."""
    signed = signed_action(name, folder, packages, signer, given.epoch)
    index = metadata_action(name, folder, {file: Ref(signed.name, file) for file in packages}, given)
    return [signed, index, signed_metadata_action(name, folder, Ref(index.name, INDEX), signer, given.epoch)]
