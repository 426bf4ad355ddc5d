"""Promoting: a candidate that others have made again becomes a release, which the trust root names.

Everything is judged before anything is written. The release role's own process (`pipeline.attest.releasing`) judges
again, writes what a release has besides what a candidate has, and lets the trust root name it. Stopped anywhere, the
same command goes on; where all is done, it changes nothing.
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.accept import judge as accept
from pipeline.attest.chain import missing_links
from pipeline.attest.helm import SECRET
from pipeline.attest.keys import keys_folder, parse_public
from pipeline.attest.places import RELEASE_STATEMENT
from pipeline.attest.releasing import Judged, judge
from pipeline.attest.root import TrustRoot, read_root, trust_folder
from pipeline.attest.talk import ask
from pipeline.context import store_folder
from pipeline.errors import HostError, TrustError
from pipeline.model import Digest
from pipeline.publish.dist import TEMPORARY
from pipeline.publish.published import read_published
from pipeline.report.progress import Progress
from pipeline.store import Store, store_error
from pipeline.verifier.encoding import Refused
from pipeline.verifier.folder import Folder
from pipeline.verifier.openssl import HostLacks
from pipeline.verifier.report import ACCEPTED
from pipeline.verifier.verify import Options

RELEASING = "pipeline.attest.releasing"
"""The process of the release role."""
SHOWN = 3
"""Things that are named where many have the same fault."""

UNATTESTED = "has no attestation that the policy asks for"
"""As the verifier says it."""


@dataclass(frozen=True)
class Promoted:
    """A release."""

    folder: Path
    version: str
    policy: str
    development: bool
    written: tuple[str, ...]
    """What promoting it has written, by paths; nothing if it was a release already."""


def promote(folder: Path, progress: Progress, mirror: str = "") -> Promoted:
    """Make a release of a candidate. `mirror` is where its installer downloads from unless it is told otherwise.

    Raises TrustError that says all that is missing, and the next command; UsageError, SourceError, StoreError.
    """
    published = read_published(folder)
    try:
        root = read_root(trust_folder())
        policy = root.policy
        say_development(root, progress)
        with Store(store_folder()).exclusive(f"dist-{Digest.of_bytes(os.fsencode(folder)).hex}"):
            remove_unfinished(folder)
            if is_promoted(folder, root):
                progress.say(f"{folder.name} is promoted already: nothing was changed")
                return Promoted(folder, published.manifest.version, policy.name, policy.development, ())
            progress.step(f"judging the candidate {folder.name} by the policy {policy.name}")
            refuse_unfit(folder, judge(folder, root), root)
            progress.step("signing the release, and naming it in the trust root")
            say_unsigned_charts(folder, progress)
            written = ask(RELEASING, {"folder": str(folder), "mirror": mirror})["written"]
            progress.step("judging the release as its users will")
            refuse_failed(folder, root)
    except HostLacks as error:
        raise HostError(str(error)) from error
    except Refused as refused:
        raise TrustError(str(refused)) from refused
    except OSError as error:
        raise store_error(error, folder) from error
    return Promoted(folder, published.manifest.version, policy.name, policy.development, tuple(written))


def say_development(root: TrustRoot, progress: Progress) -> None:
    """Say so where nobody should rely on what is signed."""
    if root.policy.development or root.trust.development:
        progress.say("DEVELOPMENT: keys and policy of this trust root are for development; nobody should rely on them")


def say_unsigned_charts(folder: Path, progress: Progress) -> None:
    """Say so where charts get no provenance for `helm verify`, for want of a key."""
    if any((folder / "charts").glob("*.tgz")) and not (keys_folder() / SECRET).exists():
        progress.say(f"  charts get no .prov: {keys_folder()} has no key for them (./inv keys new --role charts)")


def remove_unfinished(folder: Path) -> None:
    """Remove files that were on their way when an earlier run was killed. Raises OSError."""
    for path in folder.rglob(".*"):
        if TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink()


def is_promoted(folder: Path, root: TrustRoot) -> bool:
    """Whether it is a release that verifies as it stands."""
    if not (folder / RELEASE_STATEMENT).is_file():
        return False
    return accept(folder, root.first, Options()).exit_code == ACCEPTED


def refuse_unfit(folder: Path, judged: Judged, root: TrustRoot) -> None:
    """Raise TrustError for a candidate that does not meet the policy: what is missing first, and how to get it."""
    if not judged.reasons:
        return
    wrong = [r for r in judged.reasons if not _is_lack(r)]
    lines = [*lacks(judged, root), *grouped(wrong)]
    reason = f"{folder.name} does not meet the policy {root.policy.name}, and was not changed:\n  " + "\n  ".join(lines)
    raise TrustError(reason, _remedy(folder, judged, root, wrong))


def lacks(judged: Judged, root: TrustRoot) -> Iterable[str]:
    """What others still have to sign, in a line each."""
    policy, rows = root.policy, judged.report.rows
    for role in ("builder", "rebuilder"):
        short = [r for r in rows if len(getattr(r, f"{role}s")) < getattr(policy.kind(r.item.kind, ""), f"{role}s")]
        if short:
            kinds = ", ".join(f"{n} of kind {k}" for k, n in sorted(Counter(r.item.kind for r in short).items()))
            done = "signed provenance of" if role == "builder" else "made again, with the same bytes,"
            yield f"missing: too few {role}s have {done} {len(short)} artifacts ({kinds})"
    if unattested := [r for row in rows for r in row.refused if r.reason == UNATTESTED]:
        yield f"missing: attestations of {len(unattested)} artifacts, such as {unattested[0].expected}"
    missing = missing_links(Folder(judged.published.folder), judged.published, root.layout)
    names = {str(parse_public(s.key.pem.encode()).keyid): s.id for s in policy.signers if s.key}
    for keyid, steps in sorted(missing.items()):
        yield f"missing: in-toto links of {len(steps)} steps by {names.get(keyid, f'the key {keyid[:8]}')}"


def grouped(reasons: Iterable[Refused]) -> Iterable[str]:
    """One line for each fault, with the first things that have it."""
    found: dict[str, list[Refused]] = {}
    for refused in reasons:
        found.setdefault(refused.reason, []).append(refused)
    for reason, each in found.items():
        names = ", ".join(r.subject for r in each[:SHOWN])
        more = f" and {len(each) - SHOWN} more" if len(each) > SHOWN else ""
        first = each[0]
        facts = "".join(f"\n    {n} {t}" for n, t in (("expected", first.expected), ("found   ", first.found)) if t)
        yield f"{names}{more}: {reason}{facts}"


def _is_lack(refused: Refused) -> bool:
    return "too few" in refused.reason or refused.reason == UNATTESTED


def _remedy(folder: Path, judged: Judged, root: TrustRoot, wrong: list[Refused]) -> str:
    """The next command."""
    if wrong:
        return "mend what is named, or make the candidate again with ./inv release; what is wrong is not signed"
    rows = judged.report.rows
    short = any(len(r.builders) < root.policy.kind(r.item.kind, "").builders for r in rows)
    if short or any(r.reason == UNATTESTED for row in rows for r in row.refused):
        manifest = judged.published.manifest
        base = f" --base {sorted(set(manifest.bases.values()))[0]}" if manifest.stand_in else ""
        return f"sign it where it was made: ./inv release --version {manifest.version}{base}"
    return f"make it again with another key: ./inv rebuild --from {folder}"


def refuse_failed(folder: Path, root: TrustRoot) -> None:
    """Raise TrustError if what was made does not verify: users would refuse it too."""
    report = accept(folder, root.first, Options())
    if report.exit_code != ACCEPTED:
        lines = [*grouped(report.reasons), *report.stale]
        raise TrustError(
            f"{folder.name} was signed and does not verify:\n  " + "\n  ".join(lines), "./inv trust status"
        )
