"""Commands about signing keys."""

from typing import Any

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import DEBUG, reporting

ACTIONS = ("new", "show", "announce", "rotate")


@task(
    positional=["action"],
    help={
        "action": "new: make a key; show: list public keys; announce: make the next key for packages; rotate: use it.",
        "role": "Whose: builder, rebuilder, release, root-1 to root-3, targets, snapshot, timestamp, charts, packages.",
        "folder": "Where keys are (default: RFO_KEYS, else ~/.config/rfo/keys).",
        "id": "Builder id to sign under, a URI that the policy binds to the key; of charts and packages: a name.",
        "passphrase": "Ask for a passphrase; RFO_PASSPHRASE is taken if it is set.",
        "passphrase-file": "Take the passphrase from the first line of this file.",
        "days": "Packages: days until the key expires (default: it does not).",
        "uri": "Packages: securesystemslib signer URI of a key that is elsewhere; with --public.",
        "command": "Packages: command line that signs its standard input by OpenPGP; with --public.",
        "public": "Packages: public key of --uri (PEM), or certificate of --command (OpenPGP).",
        "without-old": "rotate: leave the old certificates out; packages that they signed are refused from then on.",
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
    days: int = 0,
    uri: str = "",
    command: str = "",
    public: str = "",
    without_old: bool = False,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Make a signing key (new), list the public ones (show), replace that of packages (announce, rotate)."""
    from pathlib import Path

    from pipeline.attest.keys import PACKAGES, keys_folder
    from pipeline.errors import UsageError

    with reporting(debug):
        place = Path(folder).absolute() if folder else keys_folder()
        if action == "show":
            _show(place, as_json=json)
        elif action not in ACTIONS:
            raise UsageError(f"inv keys {action}: expected one of {', '.join(ACTIONS)}", "./inv keys show")
        elif not role:
            raise UsageError("whose key? --role is missing", f"./inv keys {action} --role packages")
        elif role == PACKAGES:
            given = {"id": id, "days": days, "uri": uri, "command": command, "public": public}
            lock = "" if uri or command else _passphrase(role, passphrase_file, asked=passphrase)
            _packages(action, place, given, lock, keep=not without_old, as_json=json)
        elif days or uri or command or public or without_old:
            raise UsageError("--days, --uri, --command, --public and --without-old are for packages", "--role packages")
        elif action != "new":
            raise UsageError(
                f"the key of {role[:60]} is replaced with the trust root", "./inv trust rotate --role ROLE"
            )
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


def _packages(action: str, folder: Any, given: dict[str, Any], passphrase: str, *, keep: bool, as_json: bool) -> None:
    import json
    from pathlib import Path

    from pipeline.attest.packages import CERTIFICATES, NEXT
    from pipeline.attest.succession import Wanted, announce_packages_key, new_packages_key, rotate_packages_key
    from pipeline.errors import UsageError

    if given["uri"] and given["command"]:
        raise UsageError("either --uri or --command")
    if bool(given["public"]) != bool(given["uri"] or given["command"]):
        raise UsageError("--public goes with --uri or --command, and they with it")
    public = Path(given["public"]).absolute() if given["public"] else None
    wanted = Wanted(given["id"], given["days"], passphrase, given["uri"], given["command"], public)
    if not keep and action != "rotate":
        raise UsageError("--without-old is for rotate", "./inv keys rotate --role packages --without-old")
    if action == "rotate":
        found = rotate_packages_key(folder, wanted, keep=keep)
    elif action == "announce":
        found = announce_packages_key(folder, wanted)
    else:
        found = [new_packages_key(folder, wanted)]
    if as_json:
        print(json.dumps({"role": "packages", "keyids": [c.public.fingerprint for c in found], "folder": str(folder)}))
        return
    print(f"{folder}/{CERTIFICATES}, RPM-GPG-KEY-rfo of releases from now on:")
    for number, known in enumerate(found):
        signs = "signs next" if action == "announce" and number == 1 else "verifies what it signed"
        says = "signs" if not number else signs
        print(f"  {known.public.fingerprint}  {known.user_id}, {_expiry(known.expires)}: {says}")
    private = folder / (f"{NEXT}.key" if action == "announce" else "packages.key")
    if private.is_file() and b"ENCRYPTED" not in private.read_bytes():
        print(f"  {private} has no passphrase: whoever reads the file can sign")


def _show(folder: Any, *, as_json: bool) -> None:
    import json

    from pipeline.attest.helm import PUBLIC
    from pipeline.attest.keys import read_id, read_public

    found: list[dict[str, Any]] = []
    for path in sorted(p for p in folder.glob("*.pub") if p.name != PUBLIC):
        key = read_public(path.stem, folder)
        entry = {"role": path.stem, "keyid": key.keyid, "id": None, "private": (folder / f"{path.stem}.key").is_file()}
        if (folder / f"{path.stem}.id").is_file():
            entry["id"] = read_id(path.stem, folder)
        found.append(entry)
    found += _show_packages(folder)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    width = max([10, *(len(entry["role"]) for entry in found)])
    for entry in found:
        expiry = f", {_expiry(entry['expires'])}" if "expires" in entry else ""
        print(f"{entry['role']:<{width}} {entry['keyid']}  {entry['id'] or ''}".rstrip() + expiry)
    if not found:
        print(f"no keys in {folder}")


def _show_packages(folder: Any) -> list[dict[str, Any]]:
    """The certificates of packages: the one that signs, and those before it."""
    from pipeline.attest.packages import NEXT, PRIVATE, known_certificates
    from pipeline.attest.succession import announced

    shown: list[dict[str, Any]] = []
    following = announced(folder)
    for found in known_certificates(folder):
        behind = NEXT if found == following else f"packages-{found.public.fingerprint[:8]}"
        aside = behind if shown else "packages"
        shown.append(
            {
                "role": aside,
                "keyid": found.public.fingerprint,
                "id": found.user_id,
                "private": any((folder / f"{aside}.{suffix}").is_file() for suffix in PRIVATE),
                "expires": found.expires,
            }
        )
    return shown


def _expiry(expires: int | None) -> str:
    import time

    if expires is None:
        return "does not expire"
    verb = "expires" if expires > time.time() else "EXPIRED"
    return f"{verb} {time.strftime('%Y-%m-%d', time.gmtime(expires))}"


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
