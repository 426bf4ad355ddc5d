"""Ask the process that signs. Whoever asks holds no private key and loads no library for signatures."""

import base64
import contextlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.attest.keys import DEVELOPMENT_ID, keys_folder, new_key
from pipeline.attest.packages import have_packages_key, read_certificates
from pipeline.attest.talk import ask
from pipeline.context import Context
from pipeline.engine import HERE
from pipeline.graph import canonical
from pipeline.model import Digest
from pipeline.rpm.signatures import PACKAGE, Signer
from pipeline.rpm.signed import signature_time

SIGNER = "pipeline.attest.signer"
PACKAGER = "pipeline.attest.packager"


def sign_release(context: Context) -> tuple[str, ...]:
    """Have the builder's signatures beside what was published; returns what was written. Raises PipelineError."""
    have_key("builder", context)
    return tuple(ask(SIGNER, {**_places(context), "role": "builder", "folder": str(context.dist)})["written"])


def refuse_unable(candidate: Path, context: Context) -> None:
    """Raise TrustError, before half an hour is spent, if the rebuilder could not sign what it finds of a candidate."""
    have_key("rebuilder", context)
    ask(SIGNER, {**_places(context), "role": "rebuilder", "folder": str(candidate), "only_check": True})


def sign_rebuild(
    candidate: Path, context: Context, attempt: Path, target: Path, varied: Sequence[str], not_varied: Mapping[str, str]
) -> tuple[str, ...]:
    """Have the rebuilder's signatures of what an attempt made, below `target`; returns what was written.

    `attempt` is the folder of pipeline/proof/worker.py. What was limited is said by the options of `context`.
    """
    options = context.options
    asked = {
        "role": "rebuilder",
        "folder": str(candidate),
        "target": str(target),
        "attempt": str(attempt),
        "arches": list(context.arches),
        "components": list(options.components),
        "variations": list(varied),
        "not_varied": dict(not_varied),
    }
    return tuple(ask(SIGNER, {**_places(context), **asked})["written"])


def have_key(role: str, context: Context) -> None:
    """Make a development key if there is none at all for a role, and say so. Raises UsageError, TrustError.

    A host without any key gets a whole trust root for development.
    """
    folder = keys_folder()
    if (folder / f"{role}.pub").is_file():
        return
    with context.store.exclusive("keys"):
        if not any(folder.glob("*.pub")):
            from pipeline.trust.development import ensure_development

            ensure_development(HERE.parent, context.progress)
        if not (folder / f"{role}.pub").is_file():
            new_key(role, folder, builder=f"{DEVELOPMENT_ID}{role}")
            context.progress.say(f"  made a DEVELOPMENT key for the {role} in {folder}: it proves nothing to others")


_ASKING = threading.Lock()
"""Actions sign side by side, and a passphrase is typed for one process at a time."""


@dataclass(frozen=True)
class PackagesKey:
    """The key for packages of this host, which a process of its own reads."""

    store: Path
    version: str
    time: int
    """What signatures say of when they were made."""

    def sign(self, files: Mapping[str, Path]) -> Mapping[str, bytes]:
        """See `pipeline.rpm.signatures.Signatures`."""
        asked = [
            {
                "place": place,
                "digest": f"sha256:{path.name}",
                "kind": "package" if place.endswith(PACKAGE) else "metadata",
            }
            for place, path in files.items()
        ]
        request = {"store": str(self.store), "version": self.version, "time": self.time, "files": asked}
        with _ASKING:
            found = ask(PACKAGER, request)["signatures"]
        return {place: base64.b64decode(packet) for place, packet in found.items()}


def packages_signer(context: Context) -> Signer:
    """Who signs the packages of a run: this host's key, made for development if there is none. Raises PipelineError.

    A run that only looks makes none.
    """
    if not context.options.dry_run:
        have_packages_key(context)
    known = Signer(read_certificates(keys_folder()))
    key = PackagesKey(context.store.root, context.release.version, signature_time(known, context.release.epoch))
    if not context.options.dry_run:
        key.sign({})  # a key that cannot sign costs no build time
    return Signer(known.certificates, key)


def keys_digest() -> str:
    """Of the public keys that a run of `inv release` signs with; there may be none."""
    found = {}
    for name in ("builder.pub", "packages.asc"):
        with contextlib.suppress(OSError):
            found[name] = str(Digest.of_file(keys_folder() / name))
    return str(Digest.of_bytes(canonical(found)))


def _places(context: Context) -> dict[str, Any]:
    return {"checkout": str(context.checkout), "store": str(context.store.root)}
