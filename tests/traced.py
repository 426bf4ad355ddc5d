"""Two small releases with a tarball, images and a chart, which tests of questions about releases share."""

import atexit
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from engine import HELLO, SMALL, lock_small, make_context, write_checkout

from images import COMPONENT, EMPTY, PLAIN, add_packaging
from images import FILES as COMMON
from pipeline.release import release
from pipeline.store import remove_tree

ARCHES = ("amd64", "riscv64")
DIST = f"dist/{SMALL}"
RFO = {"name": "rfo", "source": {"tree": "components/rfo/src"}, "build": [{"binaries": {"rfo": "."}}]}
NODE: dict[str, Any] = EMPTY | {
    "name": "node",
    "title": "Programs and charts",
    "component": "rfo",
    "set": "more",
    "layer": None,
    "programs": [{"component": "rfo", "to": "bin"}, {"component": "hello", "to": "bin"}],
    "charts": "charts",
    "entrypoint": ["/bin/hello"],
}
CHART = {
    "Chart.yaml": 'apiVersion: v2\nname: demo\ndescription: A chart\ntype: application\nversion: "0"\n'
    'appVersion: "{number}"\nkubeVersion: ">=1.23.0-0"\n',
    "README.md": "# demo\n",
    "packing.yaml": "bootstrap: false\nimages: {image: plain}\n",
    "values.schema.json": "{}\n",
    "values.yaml": 'image:\n  repository: ""\n  tag: ""\n  digest: ""\n  pullPolicy: IfNotPresent\nnumber: 1\n',
    "templates/NOTES.txt": "It runs.\n",
}
FILES = {f"charts/demo/{name}": text for name, text in CHART.items()} | {
    "components/rfo/src/main.go": HELLO,
    "components/rfo/src/go.mod": "module example.org/rfo\n\ngo 1.20\n",
}


def write(folder: Path, *, changed: bool = False) -> Path:
    """A checkout of the first release, or with `changed` of the second, which has the same version.

    In the second, hello is another program, the image `empty` is gone, `more` has come, and the chart says two.
    """
    recipes = [PLAIN, NODE, EMPTY | {"name": "more"} if changed else EMPTY]
    rfo = COMPONENT | RFO | {"smoke": {"rfo": {"args": [], "prints": "hello"}}}
    texts = {f"images/openeuler/{r['name']}.yaml": json.dumps(r) for r in recipes} | COMMON | FILES
    if changed:
        texts["components/hello/src/main.go"] = HELLO.replace('"fail"', '"break"')
        texts["charts/demo/values.yaml"] = CHART["values.yaml"].replace("number: 1", "number: 2")
    write_checkout(folder, {"hello": COMPONENT, "rfo": rfo}, texts, {"hello": {}, "rfo": {}}, lock=False)
    add_packaging(folder)
    path = folder / "releases" / SMALL / "release.yaml"
    more = {"images": [r["name"] for r in recipes], "charts": ["demo"]}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | more))
    lock_small(folder)
    return folder


@cache
def made(*, changed: bool = False) -> Path:
    """The checkout with its release in dist/."""
    folder = Path(tempfile.mkdtemp(prefix="rfo-test-"))
    atexit.register(remove_tree, folder)
    release(make_context(write(folder, changed=changed), arches=ARCHES))
    return folder
