"""The proof of a candidate: build it again elsewhere and otherwise, from its sources only, and compare every byte."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.attest.signing import refuse_unable, sign_rebuild
from pipeline.context import CHECKOUT, Context, store_folder
from pipeline.errors import ProofError, UsageError
from pipeline.lock import write_atomically
from pipeline.proof.bisect import Cause, find_cause
from pipeline.proof.candidate import context_of, read_candidate, refuse_other_inputs
from pipeline.proof.exceptions import read_exceptions
from pipeline.proof.judge import Judged, judge
from pipeline.proof.prover import Prover
from pipeline.proof.result import Proof
from pipeline.proof.variations import Variation
from pipeline.release import make_graph, refuse_small_disk
from pipeline.report.progress import Progress
from pipeline.store import Store, store_error


@dataclass(frozen=True)
class Asked:
    """What the user wants proved."""

    candidate: Path
    """Folder of the published candidate."""
    sources: Path | None = None
    """Source bundle to build from; None takes the pins from the store, and fetches what it lacks."""
    components: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    jobs: int = 0
    offline: bool = False
    output: Path | None = None
    """Where the result is written; by default beside the candidate's folder."""
    explain: bool = True
    """Whether to search the cause of a difference."""


def rebuild(asked: Asked, progress: Progress, checkout: Path = CHECKOUT) -> Proof:
    """Prove a candidate, and write the result beside it. The caller judges the proof's `failed`.

    Raises UsageError if the result cannot be written where it is wanted, ProofError if the candidate was made from
    something else than this checkout, or cannot be built again; SourceError if one of its files is not what it says.
    """
    progress.step(f"checking the candidate {asked.candidate.name}")
    candidate = read_candidate(asked.candidate)
    refuse_unwritable(result_path(asked))
    exceptions = read_exceptions(checkout, datetime.now(UTC).date())
    context = context_of(
        candidate, progress, checkout, arches=asked.arches, components=asked.components, jobs=asked.jobs,
        offline=asked.offline or asked.sources is not None,
    )  # fmt: skip
    with _sources(context, asked.sources):
        refuse_other_inputs(candidate, context)
        refuse_unable(asked.candidate, context)
        bring_sources(context)
        prover = Prover(context, candidate.locks, candidate.packets)
        chosen, omitted = prover.possible()
        graph = make_graph(context).without_checks()
        refuse_small_disk(graph, graph.order, context, cold=True)
        progress.step(f"building it again, {len(chosen)} circumstances varied")
        with prover.attempt(chosen) as attempt:
            progress.step("comparing")
            judged = judge(candidate, attempt, context, exceptions, Store(store_folder()).use)
            progress.step("signing what came out the same")
            target = signatures_path(asked)
            sign_rebuild(asked.candidate, context, attempt.dist.parent, target, [v.name for v in chosen], omitted)
            progress.say(f"  signed in {target}/provenance")
        causes = find_causes(judged, prover, chosen, context) if asked.explain else []
    limits = {"platforms": [f"linux/{a}" for a in asked.arches], "components": asked.components}
    proof = Proof(candidate, limits, chosen, omitted, judged, causes)
    write_result(proof, asked)
    return proof


@contextlib.contextmanager
def _sources(context: Context, bundle: Path | None) -> Iterator[None]:
    """With a bundle, an empty store that it alone fills; it is gone afterwards."""
    if bundle is None:
        yield
        return
    from pipeline.bundle import import_bundle

    with context.store.workspace() as work:
        context.store = Store(work / "store")
        import_bundle(bundle, context)
        yield


def bring_sources(context: Context) -> None:
    """Have every pin in the store, its content checked. Raises NetworkError, SourceError."""
    for inputs in {i.roots.base.name: i for i in context.inputs.values()}.values():
        inputs.fetch(context.units)
        for unit in context.units:
            inputs.ensure(unit)
            if unit.build.compiler == "go":
                inputs.toolchain(unit)
    for arch, inputs in context.inputs.items():
        for role in inputs.roots.base.recipes:
            inputs.roots.fetch(inputs.roots.find(role, arch).packages)
    if lost := context.unavailable:
        raise ProofError("this host cannot build it again:\n  " + "\n  ".join(f"{a}: {r}" for a, r in lost.items()))


def find_causes(judged: Sequence[Judged], prover: Prover, chosen: Sequence[Variation], context: Context) -> list[Cause]:
    """For each kind that differs, why its quickest artifact does: builds of just that one, under fewer variations."""
    first: dict[str, Judged] = {}
    for item in judged:
        if item.differences and not item.excepted and item.output and item.expected and item.found:
            known = first.get(item.kind)
            if known is None or _seconds(item, context) < _seconds(known, context):
                first[item.kind] = item
    causes = []
    for item in first.values():
        context.progress.step(f"searching what makes {item.name} differ")

        def build(variations: Sequence[Variation], item: Judged = item) -> str:
            names = ", ".join(v.name for v in variations) or "nothing"
            context.progress.say(f"  varied: {names}")
            with prover.attempt(variations, (str(item.action),), ready=True) as attempt:
                return str(attempt.outputs[str(item.action)][str(item.output)].digest)

        causes.append(find_cause(item.name, str(item.expected), str(item.found), chosen, build))
    return causes


def _seconds(item: Judged, context: Context) -> float:
    last = context.store.history(str(item.action))
    return last.seconds if last else 0.0


def result_path(asked: Asked) -> Path:
    """Where the result of a proof is written."""
    return asked.output or asked.candidate.with_name(f"{asked.candidate.name}.proof.json")


def signatures_path(asked: Asked) -> Path:
    """Where the rebuilder's signatures go: into the candidate's folder, or beside the result if that is read-only.

    There they stand in the same places below a folder, to be copied into the candidate's.
    """
    try:
        with tempfile.TemporaryFile(dir=asked.candidate):
            return asked.candidate
    except OSError:
        path = result_path(asked)
        return path.with_name(f"{path.name.removesuffix('.json')}.signed")


def refuse_unwritable(path: Path) -> None:
    """Raise UsageError, before half an hour is spent, if a result could not be written to `path`."""
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(
            f"the result cannot be written to {path}: {error.strerror}", "name another place: --output FILE"
        ) from error


def write_result(proof: Proof, asked: Asked) -> None:
    """Write the machine-readable result. Raises StoreError."""
    path = result_path(asked)
    try:
        write_atomically(path, (json.dumps(proof.to_json(), indent=2, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise store_error(error, path) from error
