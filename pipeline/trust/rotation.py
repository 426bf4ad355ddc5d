"""Files of keys when a role gets another one; done again after having been stopped anywhere, it goes on."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.attest.keys import new_key, parse_public, read_public
from pipeline.errors import TrustError, UsageError
from pipeline.lock import write_atomically

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

MAX_PEM = 1 << 16
"""Bytes of a file with a public key."""


def retire(role: str, folder: Path, current: set[str], *, every: bool) -> set[str]:
    """Move the files of a role's key away, as ROLE-KEYID8, if it is one of `current`; returns which of these go.

    `every`: the role has no other keys, so that all go. Raises TrustError if nobody knows which one is the role's.
    """
    if (folder / f"{role}.pub").is_file():
        keyid = str(read_public(role, folder).keyid)
        if keyid in current:
            for suffix in ("key", "uri", "pub"):  # the public one last: it says that there is more to move
                path = folder / f"{role}.{suffix}"
                if path.exists():
                    path.rename(folder / f"{role}-{keyid[:8]}.{suffix}")
    if every:
        return current
    old = {str(read_public(p.stem, folder).keyid) for p in folder.glob(f"{role}-*.pub")} & current
    if not old:
        raise TrustError(
            f"which of the root's keys is that of {role} is not known: its public key is not in {folder}",
            f"copy it there, as {role}.pub",
        )
    return old


def new_public(role: str, folder: Path, passphrase: str, given: "SSlibKey | None") -> "SSlibKey":
    """The key that comes in place of a retired one: `given` if it was made elsewhere, else one that is made here.

    Raises UsageError, TrustError.
    """
    if given is None:
        if (folder / f"{role}.pub").is_file():  # made by a call that was stopped
            return read_public(role, folder)
        return new_key(role, folder, passphrase)
    write_atomically(folder / f"{role}.pub", str(given.keyval["public"]).encode())
    return given


def read_given(role: str, folder: Path, names: Mapping[str, str], current: set[str], public: Path) -> "SSlibKey":
    """The public key in a file, if it can be a role's; `names` are the known keys. Raises UsageError, TrustError."""
    try:
        with public.open("rb") as file:
            key = parse_public(file.read(MAX_PEM))
    except OSError as error:
        raise UsageError(f"--public {public}: {error.strerror}") from error
    except ValueError as error:
        raise TrustError(f"{public} is no public key that is accepted: {error}") from error
    known = names.get(str(key.keyid), "")
    if known and (known != role or str(key.keyid) in current):
        raise TrustError(f"{public} is the key of {known} already", "give each role a key of its own, and once only")
    unfinished = [k for k, n in names.items() if n == role and k not in current]
    if unfinished and not known and (folder / f"{role}.key").exists():
        raise UsageError(f"{folder}/{role}.key is the key of an earlier call that did not end", "move it away first")
    return key
