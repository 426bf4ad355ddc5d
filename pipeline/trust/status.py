"""What a trust root is like: versions, keys, expiries, what waits and what needs attention."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.attest.root import read_root
from pipeline.errors import TrustError
from pipeline.trust.envelopes import RELEASE
from pipeline.trust.policy import DEVELOPMENT
from pipeline.trust.repository import NAME_FIELD, TrustRepository

ROLES = ("root", "targets", RELEASE, "snapshot", "timestamp")


@dataclass(frozen=True)
class Status:
    """A trust root."""

    name: str
    policy: str
    folder: str
    roles: list[dict[str, Any]]
    """Each with `role`, `version`, `expires`, `days`, `keys` (`keyid`, `here`) and `threshold`."""
    releases: list[dict[str, str]]
    waiting: list[str]
    """Staged metadata without enough signatures."""
    warnings: list[str]

    @property
    def development(self) -> bool:
        """Whether nobody should rely on it."""
        return DEVELOPMENT in (self.name, self.policy)


def read_status(repository: TrustRepository) -> Status:
    """The state of a trust root, judged as verifiers judge it. Raises TrustError if there is none, or it is broken."""
    waiting = [p.name for p in repository.staged()]
    if not repository.exists:
        hint = "./inv trust sign --role ROLE" if waiting else "./inv trust init"
        more = f"; waiting for signatures: {', '.join(waiting)}" if waiting else ""
        raise TrustError(f"{repository.folder} holds no trust root that is complete{more}", hint)
    root = read_root(repository.folder)
    here, now = repository.signings(), datetime.now(UTC)
    roles, warnings = [], []
    newest = repository.read_root()
    for role in ROLES:
        signed = repository.read(role)
        ring = repository.ring(role)
        days = (signed.expires - now).days
        if days < repository.settings.warn.days:
            fate = f"expires in {days} days" if days >= 0 else "has expired"
            warnings.append(f"{role} {signed.version} {fate}: ./inv trust refresh")
        roles.append(
            {
                "role": role,
                "version": signed.version,
                "expires": signed.expires.strftime("%Y-%m-%d"),
                "days": days,
                "threshold": ring.threshold,
                "keys": [{"keyid": k, "here": here.get(k)} for k in sorted(ring.keys)],
            }
        )
    releases = []
    for path, target in sorted(repository.releases().items()):
        custom = target.unrecognized_fields.get("custom", {})
        releases.append({"release": path.split("/")[1], **{k: str(v) for k, v in custom.items()}})
    if waiting:
        warnings.append(f"waiting for signatures: {', '.join(waiting)}: ./inv trust sign --role ROLE")
    name = str(newest.unrecognized_fields.get(NAME_FIELD, ""))
    return Status(name, root.policy.name, str(repository.folder), roles, releases, waiting, warnings)
