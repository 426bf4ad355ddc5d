"""A trust root for trying things out: all its keys on this host, made by the first run. Everything says DEVELOPMENT."""

from pathlib import Path

from pipeline.attest.keys import DEVELOPMENT_ID, keys_folder, new_key
from pipeline.attest.root import trust_folder
from pipeline.errors import TrustError
from pipeline.report.progress import Progress
from pipeline.trust.ceremony import POLICY_ROLES, SINGLE, Outcome, Sources, init_held, root_roles, sign_held
from pipeline.trust.envelopes import read_root_file
from pipeline.trust.policy import DEVELOPMENT, published_policy
from pipeline.trust.repository import NAME_FIELD, TrustRepository
from pipeline.trust.settings import read_settings


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

    One that a killed run left unfinished is finished. Raises TrustError, also for a root that waits for signatures.
    """
    repository = open_trust(checkout)
    if repository.exists:
        return
    with repository.writing():
        if repository.version("timestamp"):  # another run was faster
            return
        for path in repository.staged():
            if path.name.endswith(".root.json") and _name(path) != DEVELOPMENT:
                raise TrustError(f"the trust root in {repository.folder} waits for signatures", "./inv trust sign")
        _make(repository, checkout)
    progress.say(f"  made a DEVELOPMENT trust root in {repository.folder}, with keys in {repository.keys}")


def make_development(repository: TrustRepository, checkout: Path) -> Outcome:
    """Make all that a development trust root takes. Raises TrustError, UsageError if there is one, StoreError."""
    with repository.writing():
        return _make(repository, checkout)


def _make(repository: TrustRepository, checkout: Path) -> Outcome:
    if repository.version("root") and not repository.exists:  # a run was killed between the two
        return sign_held(repository)
    for role in (*root_roles(repository), *SINGLE, *POLICY_ROLES):
        if not (repository.keys / f"{role}.pub").is_file():
            new_key(role, repository.keys, builder=f"{DEVELOPMENT_ID}{role}" if role in POLICY_ROLES else "")
    make_chart_key(repository.keys)
    make_packages_key(repository.keys)
    return init_held(repository, DEVELOPMENT, sources_of(checkout, DEVELOPMENT))


def _name(path: Path) -> str:
    """Whose root a file is."""
    return str(read_root_file(path).unrecognized_fields.get(NAME_FIELD, ""))


def make_chart_key(folder: Path) -> None:
    """Make the OpenPGP key of charts if there is none."""
    from pipeline.attest.helm import SECRET, new_chart_key

    if not (folder / SECRET).exists():
        new_chart_key(folder, f"RFO charts ({DEVELOPMENT})")


def make_packages_key(folder: Path) -> bool:
    """Make the key for packages if there is none; returns whether it did."""
    from pipeline.attest.packages import CERTIFICATES
    from pipeline.attest.succession import USER_ID, Wanted, new_packages_key

    if (folder / CERTIFICATES).exists():
        return False
    new_packages_key(folder, Wanted(f"{USER_ID} ({DEVELOPMENT})"))
    return True


def policy_in_force(repository: TrustRepository) -> str:
    """The name of the policy that the trust root has now. Raises TrustError."""
    return published_policy(repository).name if repository.version("targets") else DEVELOPMENT
