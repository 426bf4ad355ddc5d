"""Offline bundles hold what is needed without a network, and nothing else; each lack is named with its place."""

import pytest

from pipeline.chart.closure import judge

D1, D2, D3 = (f"sha256:{c * 64}" for c in "123")
DNS = f"docker.io/rfolabs/dns:v1@{D1}"
NODE = f"docker.io/rfolabs/node:v1@{D2}"
ALIAS = f"docker.io/rfolabs/kube-node:v1_x@{D2}"
NEEDED = {DNS: "chart rfo-dns, value image"}
OF_NODE = {"docker.io/rfolabs/node:v1", "docker.io/rfolabs/kube-node:v1_x"}


def lists(*lines: str, core: set[str] | None = None) -> dict[str, set[str]]:
    return {"": set(lines), "core": set(lines) if core is None else core}


def test_a_complete_bundle_passes() -> None:
    assert judge(lists(DNS, NODE, ALIAS), NEEDED, OF_NODE, "amd64") == []


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (lists(NODE, ALIAS), "chart rfo-dns, value image names docker.io/rfolabs/dns:v1@sha256:1111"),
        (lists(f"docker.io/rfolabs/dns:v1@{D3}", NODE, ALIAS), "chart rfo-dns, value image names"),
        (
            lists(DNS, NODE),
            "the node starts docker.io/rfolabs/kube-node:v1_x, which rfo-images.linux-amd64 does not hold",
        ),
        (lists(DNS, NODE, ALIAS, f"docker.io/rfolabs/more:v1@{D3}"), "holds docker.io/rfolabs/more:v1@sha256:3333"),
        (lists(DNS, NODE, ALIAS, core={DNS}), "the sets of rfo-images.linux-amd64 are not its parts"),
    ],
)
def test_what_is_missing_or_too_much_is_named(held: dict[str, set[str]], message: str) -> None:
    problems = judge(held, NEEDED, OF_NODE, "amd64")
    assert any(message in p for p in problems), problems
