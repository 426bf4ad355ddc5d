"""Commands that tell where files come from and why steps ran."""

from invoke.context import Context
from invoke.tasks import task

from pipeline.cli.common import DEBUG, reporting


@task(
    positional=["artifact"],
    help={
        "artifact": "A file, a member (FILE.tar.gz:bin/rfo), a digest (sha256:HEX) or a program (kubelet@arm64).",
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
    from pipeline.explain import explain as look
    from pipeline.report.chain import say_chain

    with reporting(debug):
        say_chain(look(artifact, CHECKOUT, release), full=full, as_json=json)
