"""What `inv bench` measures of images is what it says: the right actions run, and others' programs make images too."""

import os
from pathlib import Path

import dockerd
import pytest
from engine import ARCHES, HOST, environment, fails, make_context
from tools import tool

from images import MAIN, PLAIN, add_chart, image_checkout, made
from pipeline.bench.builders import against_docker, against_ko
from pipeline.bench.images import Made, assembling, bundling, doubled, made_before, remembering, repacking, run_graph
from pipeline.errors import HostError
from pipeline.image.layer import BLOB


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three images on three architectures, made by a release."""
    return made_before(made(add_chart(image_checkout(tmp_path_factory.mktemp("bench") / "checkout"))))


def test_images_are_assembled_from_layers_that_are_there(before: Made) -> None:
    graph = before.graph.closure(["layout/images"])
    with remembering(before, graph, lambda n: n.startswith(("build/", "layer/"))) as scheduler:
        result = run_graph(scheduler, graph)
    assert {n for n in result.ran if not n.startswith("chart/")} == {
        n for n in graph.order if n.startswith(("image/", "index/", "layout/"))
    }
    assert result.outputs["layout/images"] == before.result.outputs["layout/images"]
    assert assembling(before) > 0


def test_one_changed_program_is_one_layer_again(before: Made) -> None:
    names = [n for n in before.graph.order if n.startswith("layer/") and n.endswith(f".hello/{HOST}")]
    assert len(names) == 3 and len({before.result.outputs[n][BLOB].digest for n in names}) == 1
    again = repacking(before, f"build/hello/{HOST}")
    assert (again.layers, again.expected) == (1, 1)
    assert doubled(before) == 0


def test_a_bundle_is_compared_with_zstd_where_there_is_one(before: Made) -> None:
    tool("zstd")
    assert all(seconds > 0 for seconds in bundling(before, HOST))
    with environment(PATH=""):
        assert "no zstd" in fails(lambda: bundling(before, HOST)).reason


def test_what_was_not_compiled_is_said(tmp_path: Path) -> None:
    other = image_checkout(tmp_path / "checkout", PLAIN, files={"components/hello/src/main.go": f"{MAIN}\n// other\n"})
    error = fails(lambda: made_before(make_context(other, arches=ARCHES)))
    assert isinstance(error, HostError)
    assert error.reason.startswith("3 programs are not compiled") and "inv release --version" in error.hint


def test_builders_that_are_not_there_are_said(before: Made) -> None:
    with environment(PATH="/nonexistent"):
        assert "no ko" in fails(lambda: against_ko(before, "hello")).reason
        assert "no docker" in fails(lambda: against_docker(before)).reason


@pytest.mark.full
def test_ko_makes_the_same_image(before: Made) -> None:
    with environment(PATH=f"{Path(tool('ko')).parent}:{os.environ['PATH']}"):
        assert all(seconds > 0 for seconds in against_ko(before, "hello"))
        assert "no image" in fails(lambda: against_ko(before, "another")).reason


@pytest.mark.full
def test_docker_makes_an_image_of_packages_too(before: Made) -> None:
    dockerd.socket()
    name, ours, plain, saved = against_docker(before)
    assert name == "tools" and ours > 0 and 0 < plain < saved
