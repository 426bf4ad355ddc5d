"""The engine's own code as an input: a changed packer makes new keys."""

import hashlib
from functools import lru_cache
from pathlib import Path

from pipeline.model import Digest

HERE = Path(__file__).parent


@lru_cache
def code_digest(*names: str) -> Digest:
    """Digest of modules and packages of `pipeline` (paths relative to it) and of requirements.lock."""
    total = hashlib.sha256()
    for name in names:
        path = HERE / name
        files = [path] if path.is_file() else sorted(path.glob("**/*.py"))
        if not files:
            raise FileNotFoundError(f"{path}: no code to make a key of")
        for file in files:
            total.update(f"{file.relative_to(HERE)} {Digest.of_file(file)}\n".encode())
    total.update(str(Digest.of_file(HERE.parent / "requirements.lock")).encode())
    return Digest(total.hexdigest())
