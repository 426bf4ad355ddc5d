"""Actions that sign: packages get a signature header, a repository's metadata a file beside it. They hold no key.

What comes out depends on the certificate, not on who gives the signature: an RSA signature over the same bytes with the
same time is always the same (RFC 8017, 8.2; RFC 4880, 5.2.3).
"""

import shutil
from collections.abc import Mapping
from typing import Any

from pipeline.attest.openpgp import SIGNATURE, armor, created
from pipeline.engine import code_digest
from pipeline.graph import Action, Ref, Work
from pipeline.model import Digest
from pipeline.rpm.package import add_signature
from pipeline.rpm.signatures import FOLDER, KEYS, METADATA_SIGNATURE, Signer

KEYS_ACTION = "rpm/keys"


def keys_action(signer: Signer) -> Action:
    """The action that publishes the certificates."""

    def run(work: Work) -> None:
        (work.out / KEYS).write_bytes(signer.certificates)

    return Action(
        name=KEYS_ACTION,
        parameters={"certificates": str(Digest.of_bytes(signer.certificates))},
        run=run,
        publish={KEYS: f"{FOLDER}/{KEYS}"},
        seconds=0.1,
    )


def signed_action(name: str, folder: str, packages: Mapping[str, Ref], signer: Signer, epoch: int) -> Action:
    """The action `signed/NAME` that signs packages, by file name, and publishes them in a folder of the release."""

    def run(work: Work) -> None:
        packets = signer.signatures.sign({f"{folder}/{n}": path for n, path in work.inputs.items()})
        for file, path in work.inputs.items():
            if packet := packets.get(f"{folder}/{file}"):
                add_signature(path, packet, work.out / file)
            else:
                shutil.copyfile(path, work.out / file)

    return Action(
        name=f"signed/{name}",
        parameters=_parameters(folder, signer, epoch),
        run=run,
        inputs=packages,
        publish={file: f"{folder}/{file}" for file in packages},
        disk=400 << 20,
        seconds=2.0,
    )


def signed_metadata_action(name: str, folder: str, repomd: Ref, signer: Signer, epoch: int) -> Action:
    """The action `signed-metadata/NAME` that signs a repository's repomd.xml."""
    place = f"{folder}/repodata/{METADATA_SIGNATURE}"

    def run(work: Work) -> None:
        packets = signer.signatures.sign({place: work.inputs["repomd.xml"]})
        (work.out / METADATA_SIGNATURE).write_bytes(armor(packets[place], SIGNATURE) if place in packets else b"")

    return Action(
        name=f"signed-metadata/{name}",
        parameters=_parameters(folder, signer, epoch),
        run=run,
        inputs={"repomd.xml": repomd},
        publish={METADATA_SIGNATURE: place},
        seconds=0.5,
    )


def signature_time(signer: Signer, epoch: int) -> int:
    """When signatures say they were made: at the release's date, or with the key if that is younger."""
    return max(epoch, created(signer.certificates)) if signer.certificates else epoch


def _parameters(folder: str, signer: Signer, epoch: int) -> dict[str, Any]:
    return {
        "code": str(code_digest("attest/openpgp.py", "attest/packets.py", "rpm/package.py", "rpm/signed.py")),
        "certificates": str(Digest.of_bytes(signer.certificates)),
        "folder": folder,
        "time": signature_time(signer, epoch),
    }
