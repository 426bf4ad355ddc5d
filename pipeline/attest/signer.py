"""The process that signs: `python -m pipeline.attest.signer`, a request as JSON on its standard input.

It believes nobody. It hashes every file itself, makes release.json again from definitions, locks and the store's
records of what was built, and signs what came out the same. It alone reads private keys, and prints none: its answer is
JSON, `{"written": […]}`, or `{"reason", "hint", "kind"}` with the error's exit code.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from pipeline.attest.facts import WRITER, Facts, facts_of
from pipeline.attest.keys import DEVELOPMENT_ID, Signing, keys_folder, load_signing, read_id, spki_of
from pipeline.attest.links import PAYLOAD_TYPE as LINK_TYPE
from pipeline.attest.links import make_links
from pipeline.attest.places import BUNDLE, UNTRACKED, kind_of, signature_files, signer_folder
from pipeline.attest.provenance import (
    Proved,
    Witness,
    provenance_statements,
    rebuild_statement,
    sbom_statements,
)
from pipeline.attest.statement import keyed_bundle
from pipeline.attest.talk import serve
from pipeline.engine import HERE, code_digest
from pipeline.errors import TrustError
from pipeline.graph import cached
from pipeline.lock import write_atomically
from pipeline.model import Digest
from pipeline.process import run
from pipeline.proof.candidate import Candidate, context_of, refuse_other_inputs
from pipeline.publish.dist import write_texts
from pipeline.publish.manifest import describe_release
from pipeline.publish.published import Published, read_published
from pipeline.report.progress import Progress
from pipeline.scheduler import Result
from pipeline.sources.tree import HOOKS
from pipeline.store import Output, Store, store_error
from pipeline.strict import Strict
from pipeline.verifier.bundle import MAX_BUNDLE, hint_of, pae, read_bundle
from pipeline.verifier.encoding import Refused
from pipeline.verifier.envelope import read_envelope
from pipeline.verifier.folder import begin_hashing, digest_plain
from pipeline.verifier.statement import PAYLOAD_TYPE

REMEDY = "make it here: ./inv release, for all of its architectures"


class Request(Strict):
    """What is asked of the signer."""

    role: Literal["builder", "rebuilder"]
    """The release role signs in `pipeline.promote`."""
    folder: Path
    """Of the release."""
    checkout: Path
    store: Path
    target: Path | None = None
    """Where signatures are written, if not into the release's folder: another one with the same places."""
    only_check: bool = False
    """Whether just the key is judged."""
    attempt: Path | None = None
    """A rebuilder's: folder of the finished attempt, as pipeline/proof/worker.py leaves it."""
    arches: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    """What the rebuild was limited to."""
    variations: tuple[str, ...] = ()
    not_varied: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def read(cls, text: bytes) -> "Request":
        """From JSON. Raises TrustError."""
        try:
            request = cls.model_validate_json(text)
        except ValidationError as error:
            raise TrustError(f"the signer was asked for something it does not understand: {error}") from error
        if not request.only_check and (request.role == "rebuilder") != (request.attempt is not None):
            raise TrustError(f"the signer does not sign this for the role {request.role!r}")
        return request


def sign(request: Request) -> dict[str, Any]:
    """Check everything, sign it, and write what is not there yet. Raises PipelineError, naming what is not right."""
    signing = load_signing(request.role, keys_folder())
    witness = _witness(request.role, signing)
    if request.role == "rebuilder":
        refuse_own_candidate(request.folder, signing)
    if request.only_check:
        return {"written": []}
    store, folder = Store(request.store), os.fsencode(request.folder)
    with store.exclusive(f"sign-{Digest.of_bytes(folder).hex}"):  # another run may sign the same release
        published = read_published(request.folder)
        with hashed(published, store if request.role == "builder" else None):
            facts = _facts(published, request.checkout, store)
            if request.attempt is None:
                refuse_unmade(facts)
                statements = provenance_statements(facts, witness) | sbom_statements(facts, witness)
            else:
                names, different = prove(facts, request.attempt, request.arches, request.components)
                facts = facts.only(names)
                proved = Proved(request.variations, request.not_varied, different)
                statements = provenance_statements(facts, witness) | rebuild_statement(facts, witness, proved)
        links = make_links(facts, signing)
        return {"written": write_signatures(request.target or request.folder, statements, links, signing)}


@contextmanager
def hashed(published: Published, store: Store | None) -> Iterator[None]:
    """Hash every file of a release, and its programs in a store, beside what is done meanwhile: nothing is signed yet.

    Raises at the end, naming it, SourceError for a file that is not right, whatever else was found, and TrustError for
    a program.
    """
    files = {str(published.folder / a.name): a for a in published.artifacts.values()}
    programs = {str(store.blob(Digest.parse(b.digest))): b for b in published.manifest.binaries} if store else {}
    named = {p: a.digest for p, a in files.items()} | {p: b.digest for p, b in programs.items()}
    expected = {path: Digest.parse(digest).hex for path, digest in named.items()}
    sizes = {path: os.lstat(path).st_size if os.path.lexists(path) else 0 for path in expected}
    wait = begin_hashing(lambda path: digest_plain(Path(path), path), sizes)
    found: dict[str, str | Refused] = {}
    try:
        yield
    finally:
        found = wait()
        for path, artifact in files.items():
            if found[path] != expected[path]:
                published.file(artifact.name)
    for path, program in programs.items():
        if found[path] != expected[path] and (not store or store.use(Digest.parse(program.digest)) is None):
            name = f"binary/{program.unit}/{program.platform.removeprefix('linux/')}/{program.name}"
            raise TrustError(f"{name} is missing from the store or was damaged there", REMEDY)


def _facts(published: Published, checkout: Path, store: Store) -> Facts:
    """Those of the release, if this checkout would make it. Raises PipelineError."""
    names = {b: f"{b}.lock" for b in published.manifest.bases.values() if f"{b}.lock" in published.artifacts}
    candidate = Candidate(published, {b: published.file(n).read_bytes() for b, n in names.items()})
    silent = Progress(stream=StringIO())
    context = context_of(candidate, silent, checkout, arches=(), components=(), offline=True)
    context.store = store
    refuse_other_inputs(candidate, context)
    return facts_of(published, context)


def refuse_unmade(facts: Facts) -> None:
    """Raise TrustError, naming it, if the store's records do not have something of the release with the same bytes."""
    context, store = facts.context, facts.context.store
    result = Result()
    for name in facts.graph.order:
        action = facts.graph.actions[name]
        if all(d in result.outputs for d in action.dependencies):
            _, _, record = cached(action, result.outputs, store)
            if record:
                result.outputs[name] = dict(record.outputs)
    if missing := [n for n in facts.graph.order if n not in result.outputs]:
        raise TrustError(f"the store has no record of {missing[0]}, which {facts.published.folder} needs", REMEDY)
    for subject in facts.subjects.values():
        if subject.action in facts.graph.actions:
            _refuse_other(subject.name, result.outputs[subject.action].get(subject.output), subject.digest)
    arches = [p.removeprefix("linux/") for p in facts.manifest.platforms]
    texts = write_texts(describe_release(context, facts.graph, result, arches), context)
    for name, text in texts.items():
        if (facts.published.folder / name).read_bytes() != text:
            raise TrustError(f"{facts.published.folder / name} is not what definitions and records make of it", REMEDY)


def _refuse_other(name: str, made: Output | None, digest: Digest) -> None:
    if made is None or made.digest != digest:
        found = made.digest if made else "nothing"
        raise TrustError(f"{name} is not what was built\n  expected {found}\n  found    {digest}", REMEDY)


def refuse_own_candidate(folder: Path, signing: Signing) -> None:
    """Raise TrustError if a builder's statements beside a candidate are signed with the rebuilder's key.

    One key is one witness, whatever it is called.
    """
    own = hint_of(spki_of(signing.key))
    remedy = "make another one on this host: ./inv keys new --role rebuilder"
    builder = keys_folder() / "builder.pub"
    if builder.is_file() and builder.read_bytes() == (keys_folder() / "rebuilder.pub").read_bytes():
        raise TrustError("the rebuilder's key is the builder's: nobody else would have seen the release", remedy)
    for name in signature_files(folder):
        if name.startswith("provenance/builder-") and name.endswith(BUNDLE):
            try:
                hint = read_bundle(_read(folder / name, MAX_BUNDLE), name).hint
            except (Refused, OSError):
                continue  # it proves nothing to anybody
            if hint == own:
                raise TrustError(f"{name} is signed with the rebuilder's key: one key is one witness", remedy)


def prove(facts: Facts, attempt: Path, arches: Iterable[str], components: Iterable[str]) -> tuple[list[str], list[str]]:
    """The names of what an attempt made with the same bytes, and of what it made otherwise or not at all.

    Every file of the attempt is hashed again. Of a limited one, only what it can prove is named: of some platforms no
    index of images or what names one, of some components their programs. The layout's blobs are no subjects of
    statements, which name the manifests above them; links need those that are the same.
    """
    made_for = [p.removeprefix("linux/") for p in facts.manifest.platforms]
    chosen, units = set(arches) or set(made_for), set()
    platforms = {f"linux/{a}" for a in chosen}
    if wanted := set(components):
        units = {u.name for u in facts.context.all_units if u.component in wanted}
    late, whole = facts.graph.after("index/"), chosen == set(made_for)
    scope = []
    for subject in facts.subjects.values():
        if units:
            if subject.kind == "binary" and subject.platform in platforms and subject.name.split("/")[1] in units:
                scope.append(subject)
        elif whole or (subject.platform in platforms and subject.action not in late):
            scope.append(subject)
    outputs = json.loads((attempt / "result.json").read_bytes())["outputs"]
    store, dist = Store(attempt / "store"), attempt / "dist"

    def same(subject: Any) -> bool:
        if subject.name in facts.published.artifacts or subject.action == WRITER:
            path = dist / subject.name
            return path.is_file() and not path.is_symlink() and Digest.of_file(path) == subject.digest
        made = outputs.get(subject.action, {}).get(subject.output)
        return made is not None and made[0] == str(subject.digest) and store.use(subject.digest) is not None

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        equal = {s.name: found for s, found in zip(scope, pool.map(same, scope), strict=True)}
    different = {s.name for s in scope if not equal[s.name] and s.kind != UNTRACKED}
    if whole and not units:
        made = {p.relative_to(dist).as_posix() for p in dist.rglob("*") if p.is_file()}
        known = {*facts.published.artifacts, "release.json"}
        different |= {name for name in made - known if kind_of(name) != UNTRACKED}
    return [name for name, found in equal.items() if found], sorted(different)


def write_signatures(
    target: Path, statements: Mapping[str, bytes], links: Mapping[str, bytes], signing: Signing
) -> list[str]:
    """Write what is not there yet, or not good, and remove what this key signed before and does not sign now.

    Signatures are random: one that stands there and is good stays. Returns the paths that were written.
    """
    spki = spki_of(signing.key)
    written = []
    try:
        for path in signature_files(target):
            mine = path.startswith(f"{signer_folder(signing.role, signing.key.keyid)}/")
            if (mine or path.endswith(f".{signing.key.keyid[:8]}.link")) and path not in {**statements, **links}:
                (target / path).unlink()
        for path, payload in statements.items():
            if not _is_signed(target / path, payload, signing):
                signature = signing.sign(pae(PAYLOAD_TYPE, payload))
                write_atomically(target / path, keyed_bundle(payload, signature, spki))
                written.append(path)
        for path, data in links.items():
            if not _is_linked(target / path, data, signing):
                write_atomically(target / path, data)
                written.append(path)
    except OSError as error:
        raise store_error(error, target) from error
    return sorted(written)


def _is_signed(path: Path, payload: bytes, signing: Signing) -> bool:
    """Whether a file is a bundle of this statement with a good signature of this key."""
    try:
        bundle = read_bundle(_read(path, MAX_BUNDLE), path.name)
    except (Refused, OSError):
        return False
    own = bundle.hint == hint_of(spki_of(signing.key))
    return own and bundle.payload == payload and _verifies(signing, bundle.message, bundle.signature)


def _is_linked(path: Path, data: bytes, signing: Signing) -> bool:
    """Whether a file is the link in `data`, with a good signature of this key, if with another one."""
    try:
        old, new = (read_envelope(d, path.name, MAX_BUNDLE, LINK_TYPE) for d in (_read(path, MAX_BUNDLE), data))
    except (Refused, OSError):
        return False
    keyid = str(signing.key.keyid)
    same = old.payload == new.payload and list(old.signatures) == [keyid]
    return same and _verifies(signing, pae(LINK_TYPE, old.payload), old.signatures[keyid])


def _verifies(signing: Signing, message: bytes, signature: bytes) -> bool:
    from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
    from securesystemslib.signer import Signature

    try:
        signing.key.verify_signature(Signature(signing.key.keyid, signature.hex()), message)
    except (UnverifiedSignatureError, VerificationError):
        return False
    return True


def _read(path: Path, limit: int) -> bytes:
    """A plain file's content, up to one byte more than `limit`. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit + 1)


def _witness(role: str, signing: Signing) -> Witness:
    """Raises TrustError if the key is bound to no builder id, or to a real one while the engine's files were edited."""
    name = read_id(role, keys_folder())
    dirty = is_dirty(HERE.parent)
    if dirty and not name.startswith(DEVELOPMENT_ID):
        raise TrustError(
            f"{HERE.parent} is not as it was committed, and {name} signs only what a commit names",
            "commit or undo the changes: git status; or sign with a development key",
        )
    return Witness(role, name, str(signing.key.keyid), code_digest("."), dirty)


def is_dirty(checkout: Path) -> bool:
    """Whether tracked files were edited, code was added that is not tracked, or there is no commit to compare with."""
    if not (checkout / ".git").exists():
        return True
    env = {k: v for k, v in os.environ.items() if k not in HOOKS}
    command = ["git", "-C", str(checkout), "status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all"]
    lines = os.fsdecode(run(command, env=env).stdout).split("\0")
    return any(line and (line[:2] != "??" or line[3:].startswith(f"{HERE.name}/")) for line in lines)


def main() -> int:
    """Answer one request; returns the exit status."""
    return serve(lambda data: sign(Request.read(data)))


if __name__ == "__main__":
    sys.exit(main())
