"""Commands about signing keys."""

from typing import Any

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import DEBUG, reporting


@task(
    positional=["action"],
    help={
        "action": "new: make a key; show: list the public keys there are, with their keyids.",
        "role": "Whose: builder, rebuilder, release, root-1, root-2, root-3, targets, snapshot, timestamp, charts.",
        "folder": "Where keys are (default: RFO_KEYS, else ~/.config/rfo/keys).",
        "id": "Builder id to sign under: the URI that the policy binds to the key.",
        "passphrase": "Ask for a passphrase; RFO_PASSPHRASE is taken if it is set.",
        "passphrase-file": "Take the passphrase from the first line of this file.",
        "json": "Print the result as JSON on standard output.",
        "debug": DEBUG,
    },
)
def keys(
    c: Context,
    action: str,
    role: str = "",
    folder: str = "",
    id: str = "",
    passphrase: bool = False,
    passphrase_file: str = "",
    json: bool = False,
    debug: bool = False,
) -> None:
    """Make a signing key (new), or list the public ones (show)."""
    from pathlib import Path

    from pipeline.attest.keys import keys_folder
    from pipeline.errors import UsageError

    with reporting(debug):
        place = Path(folder).absolute() if folder else keys_folder()
        if action == "show":
            _show(place, as_json=json)
        elif action != "new":
            raise UsageError(f"inv keys {action}: expected one of new, show", "./inv keys show")
        elif not role:
            raise UsageError("whose key? --role is missing", "./inv keys new --role builder")
        else:
            _make(role, place, id, _passphrase(role, passphrase_file, asked=passphrase), as_json=json)


def _make(role: str, folder: Any, name: str, passphrase: str, *, as_json: bool) -> None:
    import json

    from pipeline.attest.helm import PUBLIC, ROLE, SECRET, new_chart_key
    from pipeline.attest.keys import new_key
    from pipeline.errors import UsageError

    if role == ROLE:
        if passphrase:
            raise UsageError("the key for charts cannot have a passphrase", "keep its folder on an encrypted disk")
        new_chart_key(folder, name or "RFO charts")
        print(json.dumps({"role": role, "folder": str(folder)}) if as_json else f"{folder}/{SECRET}, {folder}/{PUBLIC}")
        return
    key = new_key(role, folder, passphrase, name)
    if as_json:
        print(json.dumps({"role": role, "keyid": key.keyid, "folder": str(folder)}))
        return
    print(f"{role}  {key.keyid}\n  private  {folder}/{role}.key\n  public   {folder}/{role}.pub")
    if not passphrase:
        print("  it has no passphrase: whoever reads the file can sign")
    if not name and role in ("builder", "rebuilder"):
        print(f"  before it signs, write its builder id to {folder}/{role}.id")


def _show(folder: Any, *, as_json: bool) -> None:
    import json

    from pipeline.attest.helm import PUBLIC
    from pipeline.attest.keys import read_id, read_public

    found = []
    for path in sorted(p for p in folder.glob("*.pub") if p.name != PUBLIC):
        key = read_public(path.stem, folder)
        entry = {"role": path.stem, "keyid": key.keyid, "id": None, "private": (folder / f"{path.stem}.key").is_file()}
        if (folder / f"{path.stem}.id").is_file():
            entry["id"] = read_id(path.stem, folder)
        found.append(entry)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for entry in found:
        print(f"{entry['role']:<10} {entry['keyid']}  {entry['id'] or ''}".rstrip())
    if not found:
        print(f"no keys in {folder}")


def _passphrase(role: str, file: str, *, asked: bool) -> str:
    """What locks a new key. Raises UsageError for a file that cannot be read, or for two that differ."""
    import os
    from getpass import getpass
    from pathlib import Path

    from pipeline.attest.keys import ask
    from pipeline.errors import UsageError

    if file:
        try:
            found = Path(file).read_text().partition("\n")[0]
        except (OSError, ValueError) as error:
            raise UsageError(f"--passphrase-file {file}: {error}") from error
        if not found:
            raise UsageError(f"--passphrase-file {file}: its first line is empty")
        return found
    first = ask(role) if asked or "RFO_PASSPHRASE" in os.environ else ""
    if asked and "RFO_PASSPHRASE" not in os.environ and getpass(f"passphrase of {role}, again: ") != first:
        raise UsageError("the two passphrases differ; no key was made")
    return first
