"""A trust root for trying things out: all its keys on this host, made by the first run. Everything says DEVELOPMENT."""

from pathlib import Path

from pipeline.attest.keys import keys_folder, new_key
from pipeline.attest.root import read_root, trust_folder
from pipeline.report.progress import Progress
from pipeline.trust.ceremony import POLICY_ROLES, SINGLE, Sources, init, root_roles
from pipeline.trust.policy import DEVELOPMENT
from pipeline.trust.repository import TrustRepository
from pipeline.trust.settings import read_settings

IDS = "https://rfolabs.github.io/rfo/builders/development-"


def open_trust(checkout: Path) -> TrustRepository:
    """This host's trust repository, with the keys of this host. Raises DefinitionError."""
    return TrustRepository(trust_folder(), keys_folder(), read_settings(checkout))


def sources_of(checkout: Path, policy: str, trusted_root: Path | None = None) -> Sources:
    """What offline targets are made from; `policy` is the name of one below provenance/policy, or a path."""
    named = checkout / "provenance" / "policy" / f"{policy}.yaml"
    chosen = named if "/" not in policy and not policy.endswith(".yaml") else Path(policy).absolute()
    return Sources(chosen, checkout / "provenance" / "layout.yaml", checkout, trusted_root)


def ensure_development(checkout: Path, progress: Progress) -> None:
    """Where there is no trust root at all, make one for development, with the keys that are missing, and say so.

    Raises TrustError, StoreError.
    """
    repository = open_trust(checkout)
    if repository.exists or repository.version("root"):
        return
    make_development(repository, checkout)
    progress.say(f"  made a DEVELOPMENT trust root in {repository.folder}, with keys in {repository.keys}")


def make_development(repository: TrustRepository, checkout: Path) -> None:
    """Make all that a development trust root takes. Raises TrustError, UsageError, StoreError."""
    for role in (*root_roles(repository), *SINGLE, *POLICY_ROLES):
        if not (repository.keys / f"{role}.pub").is_file():
            new_key(role, repository.keys, builder=f"{IDS}{role}" if role in POLICY_ROLES else "")
    make_chart_key(repository.keys)
    init(repository, DEVELOPMENT, sources_of(checkout, DEVELOPMENT))


def make_chart_key(folder: Path) -> None:
    """Make the OpenPGP key of charts if there is none."""
    from pipeline.attest.helm import SECRET, new_chart_key

    if not (folder / SECRET).exists():
        new_chart_key(folder, f"RFO charts ({DEVELOPMENT})")


def policy_in_force(repository: TrustRepository) -> str:
    """The name of the policy that the trust root has now. Raises TrustError."""
    return read_root(repository.folder).policy.name if repository.exists else DEVELOPMENT
