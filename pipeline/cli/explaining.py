"""Commands that tell where files come from and why steps ran."""

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import BASE, DEBUG, VERSION, make_context, reporting


@task(
    positional=["artifact"],
    help={
        "artifact": "A file, a member (FILE.tar.gz:bin/rfo), a digest (sha256:HEX), a program (kubelet@arm64), "
        "an image (rfolabs/pause:3.6, pause@arm64) or a file in one (pause@arm64:pause).",
        "release": "Folder of the release, or its name below dist/ (default: any release there).",
        "full": "List every module, package and file instead of counting them.",
        "json": "Print everything as JSON on standard output.",
        "debug": DEBUG,
    },
)
def explain(
    c: Context, artifact: str, release: str = "", full: bool = False, json: bool = False, debug: bool = False
) -> None:
    """Tell where a file comes from: the chain from it back to every pin. Fetches and writes nothing."""
    from pipeline.context import CHECKOUT
    from pipeline.report.chain import say_chain
    from pipeline.trace.explain import explain as look

    with reporting(debug):
        say_chain(look(artifact, CHECKOUT, release), full=full, as_json=json)


@task(
    positional=["action"],
    help={
        "action": "Name of the action, such as build/coredns/arm64 (names: ./inv release --dry-run).",
        "version": f"{VERSION} With it, also whether the action would run now.",
        "base": BASE,
        "json": "Print everything as JSON on standard output.",
        "debug": DEBUG,
    },
)
def why_rebuilt(
    c: Context, action: str, version: str = "", base: str = "", json: bool = False, debug: bool = False
) -> None:
    """Tell which part of an action's key changed, so that it ran again or would run now."""
    from pipeline.context import store_folder
    from pipeline.report.reasons import say_reasons
    from pipeline.trace.why import existing_store
    from pipeline.trace.why import why_rebuilt as look

    with reporting(debug):
        run = make_context(version=version, base=base or None, offline=True, locked=True) if version else None
        say_reasons(look(action, existing_store(store_folder()), run), as_json=json)
