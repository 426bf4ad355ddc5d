"""Why layers, images, indexes, bundles and charts were made again, told from real records."""

import json
from pathlib import Path
from uuid import uuid4

import pytest
import traced
import yaml
from engine import HELLO, HOST, SMALL, lock_small, make_context, run, shared_store, write_checkout
from test_why import root, step

from images import COMPONENT, PLAIN
from pipeline.graph import Action, Graph
from pipeline.report.reasons import render_reasons
from pipeline.scheduler import Scheduler
from pipeline.store import Store
from pipeline.trace.why import Change, Reasons, why_rebuilt

RECIPE = PLAIN | {
    "name": "why", "component": "why", "set": "why", "also": [], "entrypoint": ["/bin/why"],
    "programs": [{"component": "why", "to": "bin"}],
}  # fmt: skip
"""An image that no other test makes: what ran last for it is known here."""


OWN = f'{HELLO}\nfunc init() {{ os.Setenv("TEST_RUN", "{uuid4()}") }}\n'
"""Built by no other test run, whose engine may have been another: what ran last of it is what this run made."""


def write(folder: Path, *, changed: bool) -> Path:
    """A release with one image and one chart; `changed`, with another program, user, label, and file of the chart."""
    component = COMPONENT | {
        "name": "why", "license": "MIT" if changed else "Apache-2.0", "source": {"tree": "components/why/src"},
        "build": [{"binaries": {"why": "."}}], "smoke": {"why": {"args": [], "prints": "hello"}},
    }  # fmt: skip
    recipe = RECIPE | ({"user": "7:7"} if changed else {})
    files = {f"charts/why/{n}": t.replace("demo", "why").replace("plain", "why") for n, t in traced.CHART.items()}
    files |= {
        "components/why/src/main.go": OWN + ("\nvar Other = 7\n\nfunc init() { Other++ }\n" if changed else ""),
        "components/why/src/go.mod": "module example.org/why\n\ngo 1.20\n",
        "images/openeuler/why.yaml": json.dumps(recipe),
        "install/bin/rfo-killall.sh": "#!/bin/sh\n",
        "charts/why/README.md": "# changed\n" if changed else "# why\n",
    }
    write_checkout(folder, {"why": component}, files, {"why": {}}, lock=False)
    path = folder / "releases" / SMALL / "release.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"images": ["why"], "charts": ["why"]}))
    lock_small(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def both(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The release before and after the change, made in this order."""
    folder = tmp_path_factory.mktemp("why-images")
    for name in ("before", "after"):
        run(write(folder / name, changed=name == "after"), arches=(HOST,))


def changes(name: str) -> dict[str, Change]:
    return {c.path: c for c in why_rebuilt(name, shared_store(), None).changes}


def test_a_layer_is_told_by_its_program() -> None:
    found = changes(f"layer/why.why/{HOST}")
    assert list(found) == ["inputs.bin/why"]
    change = found["inputs.bin/why"]
    assert (change.made_by, change.meaning) == (f"build/why/{HOST}", "the file /bin/why in the layer")


def test_an_image_is_told_by_its_recipes_keys_labels_and_layers() -> None:
    found = changes(f"image/why/{HOST}")
    user = found["parameters.config.User"]
    assert (user.old, user.new, user.meaning) == ("65532:65532", "7:7", "user of images/openeuler/why.yaml")
    licence = found["parameters.facts.org.opencontainers.image.licenses"]
    assert (licence.old, licence.new) == ("Apache-2.0", "MIT")
    assert licence.meaning == "label org.opencontainers.image.licenses"
    assert {p: c.made_by for p, c in found.items() if p.startswith("inputs.")} == {
        "inputs.01": f"layer/why.why/{HOST}",
    }  # fmt: skip
    text = render_reasons(why_rebuilt(f"image/why/{HOST}", shared_store(), None))
    assert "parameters.config.User  65532:65532 -> 7:7  (user of images/openeuler/why.yaml)" in text


def test_what_names_an_image_is_told_by_its_digest() -> None:
    index = changes("index/why")[f"inputs.{HOST}"]
    assert (index.made_by, index.meaning) == (f"image/why/{HOST}", f"the image for {HOST}")
    chart = changes("chart/why")
    assert list(chart) == ["inputs.why", "parameters.files.README.md"]
    assert chart["inputs.why"].made_by == "index/why"
    assert chart["inputs.why"].meaning == "digest of the image why, which is written into its values"
    assert chart["parameters.files.README.md"].meaning == "charts/why/README.md"
    bundle = changes(f"bundle/why/{HOST}")
    assert set(bundle) == {"inputs.why/01", "inputs.why/config", "inputs.why/index", "inputs.why/manifest"}
    assert bundle["inputs.why/01"].made_by == f"layer/why.why/{HOST}"


def test_what_would_run_now_is_told_before_it_runs(tmp_path: Path) -> None:
    checkout = write(tmp_path / "checkout", changed=True)
    path = checkout / "images/openeuler/why.yaml"
    path.write_text(path.read_text().replace("7:7", "8:8").replace("20MiB", "21MiB"))

    def look(name: str) -> Reasons:
        return why_rebuilt(name, shared_store(), make_context(checkout, offline=True, locked=True, arches=(HOST,)))

    now = look(f"image/why/{HOST}").now
    assert now is not None
    assert (now.state, [c.path for c in now.changes]) == ("runs", ["parameters.budget", "parameters.config.User"])
    index = look("index/why").now
    assert index is not None
    assert (index.state, index.waits_for) == ("waits", (f"image/why/{HOST}",))
    kept = look(f"layer/minimal/{HOST}").now
    assert kept is not None
    assert kept.state == "kept"


def test_a_system_layer_is_told_by_packages_and_the_bases_recipe(scheduler: Scheduler, store: Store) -> None:
    def layer(own: str, below: str, drop: str) -> Action:
        parameters = {"root": own, "below": [below], "recipe": {"drop": [drop]}, "packer": below}
        return Action("layer/network/arm64", parameters, step().run)

    keys = {
        "a": root(store, "a", ("iptables", "1"), ("nftables", "1")),
        "b": root(store, "b", ("iptables", "2"), ("nftables", "1")),
        "c": root(store, "c", ("tzdata", "1")),
        "d": root(store, "d", ("tzdata", "2")),
    }
    for action in (layer(keys["a"], keys["c"], "usr/share/man"), layer(keys["b"], keys["d"], "usr/share/info")):
        assert not scheduler.run(Graph([action])).failures
    reasons = why_rebuilt("layer/network/arm64", store, None)
    found = {c.path: c for c in reasons.changes}
    assert [i.name for i in found["parameters.root"].items] == ["iptables"]
    assert [i.name for i in found["parameters.below"].items] == ["tzdata"]
    assert found["parameters.packer"].kind == "root"
    assert found["parameters.recipe.drop"].meaning == "drop of the layer in the base's definition"
    text = render_reasons(reasons)
    assert "parameters.root  1 package  (the layer's own packages)\n    iptables  1 -> 2" in text
    assert "tzdata  1 -> 2" in text and "- usr/share/man" in text
