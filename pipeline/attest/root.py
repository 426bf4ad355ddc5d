"""The trust repository of this host as those read it who promote and verify: judged by the verifier's own code."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.attest.keys import parse_public
from pipeline.attest.layout import LAYOUT_TARGET, Compiled, read_compiled
from pipeline.errors import HostError, TrustError
from pipeline.verifier.encoding import Refused
from pipeline.verifier.folder import Folder
from pipeline.verifier.openssl import HostLacks
from pipeline.verifier.policy import Policy, read_policy
from pipeline.verifier.state import State
from pipeline.verifier.tuf import MAX_ROOT, POLICY_TARGET, Trust, read_trust

if TYPE_CHECKING:
    from securesystemslib.signer import Key

RELEASE_ROLE = "release"
"""The delegated role that names releases, and signs their layouts."""


@dataclass(frozen=True)
class TrustRoot:
    """What a trust root says, checked."""

    trust: Trust
    first: bytes
    """The root that hosts trust at first: version 1."""

    @property
    def policy(self) -> Policy:
        """What a release has to meet. Raises Refused."""
        return read_policy(self.trust.files[POLICY_TARGET], POLICY_TARGET)

    @property
    def layout(self) -> Compiled:
        """Who does which step of a release. Raises TrustError."""
        return read_layout(self.trust)

    @property
    def keys(self) -> "dict[str, Key]":
        """The keys of the release role, by keyid."""
        return release_keys(self.trust)


def trust_folder() -> Path:
    """RFO_TRUST, else the user's folder for data."""
    named = os.environ.get("RFO_TRUST")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(named).absolute() if named else Path(data) / "rfo" / "trust"


def read_root(folder: Path) -> TrustRoot:
    """The repository in a folder. Raises TrustError if there is none or it cannot be relied on, HostError."""
    remedy = "make one: ./inv trust init; or name another: RFO_TRUST=/path"
    with tempfile.TemporaryDirectory(prefix="rfo-trust-") as name:
        place = Path(name, "trust")  # as a release carries it
        try:
            for part in ("metadata", "targets"):
                shutil.copytree(folder / part, place / part, ignore=shutil.ignore_patterns("releases"))
            first = (folder / "metadata" / "1.root.json").read_bytes()[: MAX_ROOT + 1]
            return TrustRoot(read_trust(Folder(place.parent), first, State()), first)
        except FileNotFoundError as error:
            raise TrustError(f"{folder} holds no trust root: it has no {Path(error.filename).name}", remedy) from None
        except (OSError, shutil.Error) as error:
            raise TrustError(f"{folder}: the trust root cannot be read: {error}", remedy) from error
        except Refused as refused:
            reason = f"the trust root in {folder} cannot be relied on: {refused}"
            raise TrustError(reason, "see what is wrong: ./inv trust status") from refused
        except HostLacks as error:
            raise HostError(str(error)) from error


def newest_root(folder: Path) -> bytes:
    """The root that this host trusts: the newest of its repository. Raises TrustError."""
    return read_root(folder).trust.root_file


def read_layout(trust: Trust) -> Compiled:
    """The compiled layout that a trust root names. Raises TrustError."""
    if LAYOUT_TARGET not in trust.files:
        raise TrustError(f"the trust root has no {LAYOUT_TARGET}: nobody says who makes a release")
    return read_compiled(trust.files[LAYOUT_TARGET])


def release_keys(trust: Trust) -> "dict[str, Key]":
    """The keys of the role that the trust root lets name releases, by keyid."""
    ring = trust.delegated.get(RELEASE_ROLE)
    found = [parse_public(key.pem.encode()) for key in (ring.contents if ring else ())]
    return {str(key.keyid): key for key in found}
