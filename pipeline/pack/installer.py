"""`install-rfo.sh`: the installer's template with the verifier and the root of trust that it carries.

Both stand in here-documents, as plain text, so that whoever reads the script before running it sees all of it.
"""

import re
from pathlib import Path

from pipeline.errors import DefinitionError

TEMPLATE = Path(__file__).parents[2] / "install" / "install-rfo.sh.in"
_MIRROR = re.compile(r"https?://[A-Za-z0-9._~:/@%+,=\[\]-]+")
_ENDS = {"root": b"RFO_ROOT_ENDS_HERE", "verifier": b"RFO_VERIFIER_ENDS_HERE"}
"""Lines that end the here-documents."""


def render_installer(verifier: bytes, root: bytes, mirror: str = "", template: Path = TEMPLATE) -> bytes:
    """The installer of a release: `verifier` is its `rfo-verify`, `root` the first root of the trust repository.

    `mirror` is where it downloads from unless it is told otherwise; without one it has to be told. Raises
    DefinitionError for what cannot stand in the script as it is.
    """
    if mirror and not _MIRROR.fullmatch(mirror):
        raise DefinitionError(f"{mirror!r} is no address to download from", "name one such as https://HOST/PATH")
    parts = {"mirror": mirror.rstrip("/").encode()}
    for name, data in (("root", root), ("verifier", verifier)):
        lines = data.split(b"\n")
        if lines[-1] or b"\0" in data or b"\r" in data or _ENDS[name] in lines:
            raise DefinitionError(f"the {name} cannot stand in install-rfo.sh: it is no text of whole lines")
        parts[name] = data[:-1]
    text = template.read_bytes()
    for name in parts:
        if text.count(f"@{name.upper()}@".encode()) != 1:
            raise DefinitionError(f"{template} has no one place for the {name}")
    pattern = b"|".join(f"@{name.upper()}@".encode() for name in parts)
    return re.sub(pattern, lambda match: parts[match[0].decode().strip("@").lower()], text)
