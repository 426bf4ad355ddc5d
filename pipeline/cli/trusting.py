"""Commands that keep the trust root, and take releases back."""

from typing import TYPE_CHECKING, Any

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import DEBUG, reporting

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.trust.ceremony import Outcome, Sources
    from pipeline.trust.repository import TrustRepository
    from pipeline.trust.status import Status

ACTIONS = ("init", "status", "sign", "rotate", "refresh")


@task(
    positional=["action"],
    iterable=["into"],
    help={
        "action": "init, status, sign, rotate or refresh.",
        "name": "init: whose trust root it is.",
        "development": "init: make every key that is missing, and a trust root that says DEVELOPMENT.",
        "policy": "init, rotate, refresh: name below provenance/policy, or a YAML file (default: the one in force).",
        "trusted-root": "init, rotate, refresh: roots of the Sigstore instance that the policy relies on (JSON).",
        "role": "sign, rotate: root-1, root-2, root-3, targets, snapshot, timestamp, builder, rebuilder, release.",
        "metadata": "sign: only this file, where there is no repository (the machine of an offline key).",
        "public": "rotate: public key (PEM) of the new key, which was made on another machine.",
        "passphrase": "rotate: ask for a passphrase for the new key.",
        "into": "refresh: copy the metadata into this release's folder afterwards; may be repeated.",
        "json": "status: print JSON.",
        "debug": DEBUG,
    },
)
def trust(
    c: Context,
    action: str,
    name: str = "",
    development: bool = False,
    policy: str = "",
    trusted_root: str = "",
    role: str = "",
    metadata: str = "",
    public: str = "",
    passphrase: bool = False,
    into: Any = None,
    json: bool = False,
    debug: bool = False,
) -> None:
    """Keep the trust root: `init`, `status`, `sign`, `rotate --role ROLE`, `refresh`. See docs/trust.md."""
    from pathlib import Path

    from pipeline.context import CHECKOUT
    from pipeline.errors import UsageError
    from pipeline.trust import ceremony
    from pipeline.trust.development import make_development, open_trust, policy_in_force, sources_of
    from pipeline.trust.status import read_status

    with reporting(debug):
        repository = open_trust(CHECKOUT)
        if action not in ACTIONS:
            raise UsageError(f"inv trust {action}: expected one of {', '.join(ACTIONS)}", "./inv trust status")
        if action == "status":
            _say_status(read_status(repository), as_json=json)
            return
        if action == "sign":
            _sign(repository, role, metadata)
            return
        if action == "init" and development:
            _say_outcome(make_development(repository, CHECKOUT))
            return
        chosen = policy or ("default" if action == "init" else policy_in_force(repository))
        sources = sources_of(CHECKOUT, chosen, Path(trusted_root).absolute() if trusted_root else None)
        if action == "init":
            if not name:
                raise UsageError("whose trust root? --name is missing", "./inv trust init --name NAME")
            _say_outcome(ceremony.init(repository, name, sources))
        elif action == "rotate":
            from pipeline.attest.keys import ask

            secret = ask(f"{role} (new)") if passphrase else ""
            made = Path(public).absolute() if public else None
            _say_outcome(ceremony.rotate(repository, role, sources, secret, made))
        else:
            _refresh(repository, sources, [Path(folder).absolute() for folder in into or ()])


@task(
    positional=[],
    help={
        "version": "Release to take back, as vX.Y.Z+rforN.",
        "reason": "Why, as those read it who verify it.",
        "debug": DEBUG,
    },
)
def yank(c: Context, version: str = "", reason: str = "", debug: bool = False) -> None:
    """Take a release back: verifiers that see the new metadata refuse it, and say why."""
    from pipeline.context import CHECKOUT
    from pipeline.errors import UsageError
    from pipeline.model import ReleaseVersion
    from pipeline.trust.development import open_trust

    with reporting(debug):
        if not version or not reason.strip():
            raise UsageError("--version and --reason are needed", "./inv yank --version V --reason 'broken: …'")
        ReleaseVersion.parse(version)
        for name in open_trust(CHECKOUT).yank(version, reason.strip()):
            print(f"{name} is taken back: {reason.strip()}")
        print("hosts learn of it with new metadata: ./inv trust refresh --into dist/RELEASE, and publish that")


def _sign(repository: "TrustRepository", role: str, metadata: str) -> None:
    """Show what waits, or one file of it, and sign it."""
    from pathlib import Path

    from pipeline.errors import UsageError
    from pipeline.trust.ceremony import Outcome, sign_file, sign_pending
    from pipeline.trust.envelopes import describe

    if metadata and not role:
        raise UsageError("with which key? --role is missing", "./inv trust sign --role root-1 --metadata FILE")
    path = Path(metadata).absolute()
    for file in [path] if metadata else repository.staged():
        print("\n".join(describe(file)))
    if metadata:
        _say_outcome(Outcome({path.name: sign_file(repository, path, role)}))
    else:
        _say_outcome(sign_pending(repository, role))


def _refresh(repository: "TrustRepository", sources: "Sources", folders: "list[Path]") -> None:
    """Renew, then copy into releases."""
    from pipeline.errors import UsageError
    from pipeline.trust.ceremony import refresh

    for folder in folders:
        if not (folder / "release.json").is_file():
            raise UsageError(f"--into {folder} holds no release", "name a folder below dist/")
    _say_outcome(refresh(repository, sources))
    for folder in folders:
        repository.snapshot_into(folder)
        print(f"renewed    {folder}/trust")


def _say_outcome(outcome: "Outcome") -> None:
    for name, keys in outcome.signed.items():
        print(f"signed     {name}  by {', '.join(keys) or 'no key that had not signed it'}")
    for name in outcome.published:
        print(f"published  {name}")
    for name, lack in outcome.waiting.items():
        print(f"waiting    {name}  for {lack}: ./inv trust sign, where the keys are")
    if not (outcome.signed or outcome.published or outcome.waiting):
        print("nothing waits for a signature")


def _say_status(status: "Status", *, as_json: bool) -> None:
    import json

    if as_json:
        print(json.dumps({**vars(status), "development": status.development}, indent=2))
        return
    mark: Any = "  DEVELOPMENT: nobody should rely on it" if status.development else ""
    print(f"{status.name}, policy {status.policy}{mark}\n{status.folder}\n")
    print(f"{'role':<10} {'version':>7}  {'expires':<10}  {'in days':>7}  keys (threshold); * on this host")
    for role in status.roles:
        keys = " ".join(k["keyid"][:8] + ("*" if k["here"] else "") for k in role["keys"])
        facts = f"{role['version']:>7}  {role['expires']}  {role['days']:>7}"
        print(f"{role['role']:<10} {facts}  {keys} ({role['threshold']})")
    for release in status.releases:
        yanked = f"  taken back: {release['yanked']}" if "yanked" in release else ""
        print(f"release    {release['release']}{yanked}")
    for warning in status.warnings:
        print(f"warning: {warning}")
