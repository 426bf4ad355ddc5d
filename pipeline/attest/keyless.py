"""Sign by certificate ("keyless"), against any Sigstore instance, in place of a key.

`release.keyless.yaml` in the folder of keys says where the instance's trust configuration is, and who signs. Each
statement is one entry of the instance's log, and is checked as any verifier would check it before it is returned.
"""

import base64
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import model_validator

from pipeline.attest.keys import Signing, load_signing, spki_of
from pipeline.attest.statement import keyed_bundle
from pipeline.errors import PipelineError, TrustError
from pipeline.process import run
from pipeline.strict import Strict, Text, read_yaml, validate
from pipeline.verifier.bundle import BUNDLE, Bundle, hint_of, pae, read_bundle
from pipeline.verifier.certificate import verify_certified
from pipeline.verifier.encoding import Refused, canonical, parse
from pipeline.verifier.instance import MAX_INSTANCE, Instance, read_instance
from pipeline.verifier.openssl import HostLacks, PublicKey, verifies
from pipeline.verifier.policy import Signer
from pipeline.verifier.statement import PAYLOAD_TYPE

NAME = "{}.keyless.yaml"
"""The file in the folder of keys, by role."""
MAX_ENTRIES = 3
"""Of a log, for one release: release statement, images, provenance of images."""
MAX_TOKEN = 64 << 10
TOKEN_SECONDS = 120
"""How long the command that gets a token may take."""


class KeylessFile(Strict):
    """`ROLE.keyless.yaml`. Paths are relative to its folder."""

    trust_config: Text
    """File with Sigstore's ClientTrustConfig v0.1: the trusted root, and where the services are."""
    token_file: Text | None = None
    """File with an identity token (OpenID Connect), or one of the next two in its place."""
    token_variable: Text | None = None
    """Variable of the environment."""
    token_command: Text | None = None
    """Command that prints it."""
    identity: Text
    """What the certificate will name: a URI, or an address of e-mail."""
    issuer: Text
    """Who issues the tokens: a URL."""

    @model_validator(mode="after")
    def _one_token(self) -> "KeylessFile":
        if sum(t is not None for t in (self.token_file, self.token_variable, self.token_command)) != 1:
            raise ValueError("expected one of token_file, token_variable and token_command")
        return self


@dataclass(frozen=True)
class Keyless:
    """An instance of Sigstore, and who signs there."""

    config: str
    """ClientTrustConfig, JSON."""
    instance: Instance
    file: KeylessFile
    folder: Path

    def token(self) -> str:
        """A new identity token; it is secret and lives for minutes. Raises TrustError."""
        file = self.file
        try:
            if file.token_command is not None:
                text = run(shlex.split(file.token_command), cwd=self.folder, timeout=TOKEN_SECONDS).stdout
            elif file.token_variable is not None:
                text = os.environ.get(file.token_variable, "").encode()
            else:
                text = _read(self.folder / str(file.token_file), MAX_TOKEN)
            token = text.decode("ascii").strip()
        except (PipelineError, ValueError) as error:
            reason = error.reason if isinstance(error, PipelineError) else str(error)
            raise TrustError(f"there is no identity token to sign with: {reason}") from error
        if not token:
            raise TrustError("the identity token to sign with is empty", "see docs/keyless.md")
        return token


class ReleaseSigner:
    """Signs statements for a role, with its key or by certificate; which of them makes no difference to the caller."""

    def __init__(self, signer: Signing | Keyless) -> None:
        self.signer = signer

    def __call__(self, payloads: Sequence[bytes]) -> list[bytes]:
        """A bundle's file for each statement. Raises TrustError."""
        signer = self.signer
        if isinstance(signer, Keyless):
            return sign_keyless(payloads, signer)
        return [keyed_bundle(p, signer.sign(pae(PAYLOAD_TYPE, p)), spki_of(signer.key)) for p in payloads]

    @property
    def certified(self) -> bool:
        """Whether it signs by certificate."""
        return isinstance(self.signer, Keyless)

    def is_signer(self, signer: Signer) -> bool:
        """Whether it is the one that a policy means."""
        mine = self.signer
        if isinstance(mine, Keyless):
            return signer.key is None and (signer.identity, signer.issuer) == (mine.file.identity, mine.file.issuer)
        return signer.key is not None and signer.key.spki == spki_of(mine.key)

    def made(self, bundle: Bundle) -> bool:
        """Whether a bundle is signed by this signer, and good."""
        signer = self.signer
        if isinstance(signer, Keyless):
            try:
                verify_certified(bundle, signer.instance, signer.file.identity, signer.file.issuer, "a bundle")
            except Refused:
                return False
            return True
        spki = spki_of(signer.key)
        return bundle.hint == hint_of(spki) and verifies(PublicKey(spki), bundle.message, bundle.signature)


def release_signer(folder: Path, role: str = "release") -> ReleaseSigner:
    """Who signs a release's statements, by the keys in a folder: by certificate if it has ROLE.keyless.yaml.

    Raises TrustError.
    """
    return ReleaseSigner(read_keyless(folder, role) or load_signing(role, folder))


def read_keyless(folder: Path, role: str = "release") -> Keyless | None:
    """What a role signs with in place of a key; None if there is no such file. Raises TrustError."""
    path = folder / NAME.format(role)
    if not path.exists():
        return None
    try:
        file = validate(KeylessFile, read_yaml(path), path)
        text = _read(folder / file.trust_config, 2 * MAX_INSTANCE)
        config = parse(text, file.trust_config, 2 * MAX_INSTANCE)
        root = config.get("trustedRoot") if isinstance(config, dict) else None
        instance = read_instance(canonical(root), file.trust_config)
    except PipelineError as error:
        raise TrustError(error.reason, error.hint or "see docs/keyless.md") from error
    except Refused as refused:
        raise TrustError(_explained(refused), "see docs/keyless.md") from refused
    return Keyless(text.decode(), instance, file, folder)


def sign_keyless(payloads: Sequence[bytes], keyless: Keyless) -> list[bytes]:
    """A bundle's file for each statement, each an entry of the instance's log. Raises TrustError."""
    if len(payloads) > MAX_ENTRIES:
        raise TrustError(f"{len(payloads)} statements would be {len(payloads)} entries of a log, of {MAX_ENTRIES}")
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

    token = keyless.token()
    try:
        context = SigningContext.from_trust_config(ClientTrustConfig.from_json(keyless.config))
        with context.signer(IdentityToken(token, client_id="sigstore")) as signer:
            # Envelope and log entry of a statement are made of the signature over its PAE. The library's own way to
            # them refuses statements whose subjects have no names, which cosign's signatures of images are.
            return [
                _bundle(p, json.loads(signer.sign_artifact(pae(PAYLOAD_TYPE, p)).to_json()), keyless) for p in payloads
            ]
    except TrustError:
        raise
    except Exception as error:  # of the library, of its HTTP client, of those below
        reason = f"{type(error).__name__}: {error}".replace(token, "TOKEN")
        raise TrustError(f"the Sigstore instance did not sign: {reason[:600]}", "see docs/keyless.md") from None


def _bundle(payload: bytes, signed: dict[str, Any], keyless: Keyless) -> bytes:
    """The file of a bundle around a statement. Raises TrustError if it would not be accepted."""
    material = signed["verificationMaterial"]
    stamps = material.get("timestampVerificationData", {}).get("rfc3161Timestamps", [])
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": signed["messageSignature"]["signature"]}],
    }
    bundle = {
        "mediaType": BUNDLE,
        "verificationMaterial": {
            "certificate": {"rawBytes": material["certificate"]["rawBytes"]},
            "tlogEntries": [_entry(e) for e in material["tlogEntries"]],
            "timestampVerificationData": {
                "rfc3161Timestamps": [{"signedTimestamp": s["signedTimestamp"]} for s in stamps]
            },
        },
        "dsseEnvelope": envelope,
    }
    data = canonical(bundle) + b"\n"
    try:
        file = keyless.file
        verify_certified(read_bundle(data, "the new signature"), keyless.instance, file.identity, file.issuer, "it")
    except (Refused, HostLacks) as error:
        reason = _explained(error) if isinstance(error, Refused) else str(error)
        raise TrustError(f"the Sigstore instance signed what nobody would accept: {reason}") from error
    return data


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """A log entry with every field written out; protobuf's JSON leaves out those that are zero or empty."""
    proof = entry["inclusionProof"]
    return {
        "logIndex": str(entry.get("logIndex", 0)),
        "logId": {"keyId": entry["logId"]["keyId"]},
        "kindVersion": {"kind": entry["kindVersion"]["kind"], "version": entry["kindVersion"]["version"]},
        "integratedTime": str(entry.get("integratedTime", 0)),
        "inclusionProof": {
            "logIndex": str(proof.get("logIndex", 0)),
            "rootHash": proof["rootHash"],
            "treeSize": str(proof["treeSize"]),
            "hashes": list(proof.get("hashes", [])),
            "checkpoint": {"envelope": proof["checkpoint"]["envelope"]},
        },
        "canonicalizedBody": entry["canonicalizedBody"],
    }


def _explained(refused: Refused) -> str:
    facts = [f"{n} {v}" for n, v in (("expected", refused.expected), ("found", refused.found)) if v]
    return f"{refused}" + (f" ({', '.join(facts)})" if facts else "")


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror}") from error
    if len(data) > limit:
        raise TrustError(f"{path}: larger than {limit} bytes")
    return data
