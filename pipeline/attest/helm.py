"""Helm provenance: `NAME.tgz.prov` beside a chart, clear-signed with an OpenPGP key; all that helm itself verifies.

Format: helm.sh/docs/topics/provenance; the clear-signed text is Chart.yaml, `...`, and the file's SHA-256 by its name.
"""

import io
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import SourceError, TrustError, UsageError
from pipeline.model import Digest

if TYPE_CHECKING:
    from pysequoia import Tsk

ROLE = "charts"
"""What the key is made for; it is of another kind than those of `pipeline.attest.keys`."""
SECRET, PUBLIC = "charts.pgp", "charts.pgp.pub"
"""Files of the keys folder: the secret key, and what operators import (ASCII armor)."""
MAX_CHART = 16 << 20
"""Bytes of a packed chart, and of its Chart.yaml unpacked."""


def chart_prov(tgz: Path, key: "Tsk") -> bytes:
    """The provenance of a packed chart. Raises SourceError for what is no chart, TrustError."""
    from pysequoia import SignatureMode, sign

    with tgz.open("rb") as file:
        data = file.read(MAX_CHART + 1)
    about = _chart_yaml(data, tgz)
    text = f"{about.rstrip()}\n\n...\nfiles:\n  {tgz.name}: sha256:{Digest.of_bytes(data).hex}\n"
    try:
        return bytes(sign(key.signer(), text.encode(), mode=SignatureMode.CLEAR))
    except Exception as error:  # Sequoia has no class of its own for errors
        raise TrustError(f"the key for charts cannot sign: {error}") from error


def new_chart_key(folder: Path, name: str) -> None:
    """Make the key for charts of a name such as `RFO charts (development)`; raises UsageError if there is one."""
    from pysequoia import ArmorKind, CipherSuite, Profile, Tsk, armor

    key = Tsk.generate(name, profile=Profile.RFC4880, cipher_suite=CipherSuite.P256)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / SECRET, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(armor(bytes(key), ArmorKind.SecretKey))
            file.flush()
            os.fsync(file.fileno())
        (folder / PUBLIC).write_text(armor(bytes(key.extract_certificate()), ArmorKind.PublicKey))
    except FileExistsError:
        raise UsageError(f"{folder}/{SECRET} exists; it is not replaced", "move it away first") from None
    except OSError as error:
        raise TrustError(f"{folder}: the key for charts cannot be written: {error.strerror}") from error


def load_chart_key(folder: Path) -> "Tsk":
    """The key for charts. Raises TrustError: there is none, others can read it, it is no key."""
    from pysequoia import Tsk

    path = folder / SECRET
    try:
        if path.stat().st_mode & 0o077:
            raise TrustError(f"{path} can be read by others", f"chmod 600 {path}; consider it lost if they could")
        return Tsk.from_bytes(path.read_bytes())
    except OSError as error:
        raise TrustError(f"{path}: {error.strerror}", "make a key for charts: ./inv keys new --role charts") from error
    except TrustError:
        raise
    except Exception as error:  # Sequoia has no class of its own for errors
        raise TrustError(f"{path} is no OpenPGP key that is accepted: {error}") from error


def _chart_yaml(data: bytes, tgz: Path) -> str:
    """The text of `NAME/Chart.yaml` in a packed chart."""
    if len(data) > MAX_CHART:
        raise SourceError(f"{tgz}: larger than {MAX_CHART} bytes")
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r|gz") as archive:
            for member in archive:
                if member.isreg() and member.name.count("/") == 1 and member.name.endswith("/Chart.yaml"):
                    content = archive.extractfile(member)
                    text = content.read(MAX_CHART).decode() if content else ""
                    break
            else:
                raise SourceError(f"{tgz} is no chart: it has no Chart.yaml")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise SourceError(f"{tgz} is no chart: {error}") from error
    if "\n..." in f"\n{text}":  # what follows would be taken for the list of files
        raise SourceError(f"{tgz}: its Chart.yaml has a line that begins with `...`")
    return text
