"""The action that makes a repository of signed packages: createrepo_c from a base's locked packages, in the sandbox.

gzip and SHA-256 are what dnf of openEuler 22.03 reads. Metadata tell when each file was changed: at the release's date.
"""

import os
import shutil
from collections.abc import Mapping

from pipeline.engine import code_digest
from pipeline.errors import BuildError
from pipeline.graph import Action, Ref, Work
from pipeline.inputs import Inputs
from pipeline.rpm.packages import ROLE
from pipeline.sandbox import Sandbox

INDEX = "repomd.xml"
METADATA = ("primary.xml.gz", "filelists.xml.gz", "other.xml.gz")
DIGEST = len("-") + 64
"""Letters before such a name in repodata: the file's SHA-256."""


def createrepo(folder: str, revision: int) -> tuple[str, ...]:
    """The command that writes metadata of the packages in `folder`, below it; two runs on equal files are equal."""
    return (
        "createrepo_c", "--quiet", "--revision", str(revision), "--set-timestamp-to-revision", "--no-database",
        "--checksum", "sha256", "--general-compress-type", "gz", "--workers", "1", folder,
    )  # fmt: skip


def metadata_action(name: str, folder: str, packages: Mapping[str, Ref], given: Inputs) -> Action:
    """The action `repository/NAME` that makes repomd.xml and what it names, and publishes them below `folder`.

    `packages` are the files of the repository by name, as they are signed.
    """
    root = given.roots.find(ROLE, given.roots.host)
    command = createrepo("/build/repository", given.epoch)

    def run(work: Work) -> None:
        made = work.build / "repository"
        made.mkdir()
        for file, path in work.inputs.items():
            shutil.copyfile(path, made / file)
            os.utime(made / file, (given.epoch, given.epoch))
        work.execute(Sandbox(given.roots.path(root), command, work.build, work.out))
        for path in (made / "repodata").iterdir():
            path.rename(work.out / (INDEX if path.name == INDEX else path.name[DIGEST:]))
        if (found := {path.name for path in work.out.iterdir()}) != {INDEX, *METADATA}:
            raise BuildError(f"{work.name}: createrepo_c made {', '.join(sorted(found)) or 'nothing'}")

    return Action(
        name=f"repository/{name}",
        parameters={
            "code": str(code_digest("rpm/metadata.py")),
            "command": list(command),
            "root": str(root.key),
            "time": given.epoch,
        },
        run=run,
        inputs=packages,
        publish={INDEX: f"{folder}/repodata/{INDEX}", **{m: f"{folder}/repodata/{{hex}}-{m}" for m in METADATA}},
        disk=400 << 20,
        seconds=4.0,
    )
