"""Definitions are read strictly: what is wrong is refused with file and key; what is committed is right."""

from pathlib import Path
from typing import Any

import pytest
from conftest import VERSION, Checkout, dump

from pipeline.context import CHECKOUT
from pipeline.definitions import Definitions
from pipeline.errors import DefinitionError
from pipeline.strict import MAX_FILE, parse_size, read_yaml
from pipeline.units import units_of
from pipeline.versions import fill

COMMITTED = Definitions(CHECKOUT)


@pytest.mark.parametrize("version", COMMITTED.releases())
def test_every_committed_release_expands_to_units(version: str) -> None:
    release = COMMITTED.release(version)
    units = units_of(release, COMMITTED)
    assert {u.component for u in units} == set(release.components)
    for arch in release.bases:
        names = [b for u in units if arch in u.arches for b in u.build.binaries]
        assert len(names) == len(set(names)) > 20
    for unit in units:
        for template in (*unit.build.stamp.values(), *unit.build.flags, *(s.prints for s in unit.smoke.values())):
            assert "{" not in unit.fill(template, release.values)


@pytest.mark.parametrize("name", COMMITTED.bases())
def test_every_committed_base_parses(name: str) -> None:
    assert COMMITTED.base(name).keys


def test_every_committed_component_belongs_to_a_release() -> None:
    folders = {p.parent.name for p in (CHECKOUT / "components").glob("*/component.yaml")}
    assert folders == {c for v in COMMITTED.releases() for c in COMMITTED.release(v).components}


def test_a_small_checkout_is_right(checkout: Checkout) -> None:
    assert checkout.definitions.release(VERSION).epoch == 1668729600
    assert checkout.definitions.releases() == [VERSION]


def refused(checkout: Checkout, match: str) -> None:
    checkout.write()
    with pytest.raises(DefinitionError, match=match):
        units_of(checkout.definitions.release(VERSION), checkout.definitions)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("colour", "red", r"release.yaml: key colour: Extra inputs"),
        ("version", "v1.0.0+rfor2", r"key version: expected v1.0.0\+rfor1, as its folder is called"),
        ("version", "1.0", r"release.yaml: key version: .*is not a release version"),
        ("upstream", None, r"key upstream: Input should be a valid string; found None"),
        ("upstream", "", r"key upstream: .*at least 1"),
        ("date", 5, r"key date: .*UTC time"),
        ("date", "yesterday", r"key date: .*UTC time"),
        ("bases", {}, r"key bases: .*at least 1"),
        ("bases", {"mips": "tiny"}, r"key bases\.mips"),
        ("bases", ["tiny"], r"key bases: .*dictionary"),
        ("toolchains", {"go": 1.2}, r"key toolchains\.go: .*valid string; found 1.2"),
        ("toolchains", {"go": "1.20rc1"}, r"key toolchains\.go: .*match pattern"),
        ("toolchains", {}, r"key toolchains\.go: Field required"),
        ("components", {}, r"key components: .*at least 1"),
        ("components", {"../x": "v1"}, r"key components\.\.\./x"),
        ("components", {"nothing": "v1"}, r"key components\.nothing: unknown component; components/nothing/component"),
        ("components", {"rfo": "v1"}, r"key components\.rfo: a tree of this repository has the release's version"),
        ("components", {"rfo": {"version": "../1"}}, r"key components\.rfo\.version"),
        (
            "components",
            {"rfo": {"platforms": {"amd64": {"flags": 1}}}},
            r"key components\.rfo\.platforms\.amd64\.flags",
        ),
        ("deviations", [{"component": "x", "what": "a", "why": "b"}], r"key deviations: unknown component x"),
        ("deviations", [{"what": "a"}], r"key deviations\.0\.why: Field required"),
    ],
)
def test_a_wrong_release_is_refused_with_its_key(checkout: Checkout, key: str, value: Any, match: str) -> None:
    checkout.release[key] = value
    refused(checkout, match)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("name", "other", r"key name: expected rfo, as its folder is called; found other"),
        (
            "source",
            {"tree": None},
            r"key source: .*expected exactly one of go, git, archive, tree, component; found none",
        ),
        ("source", {"go": "a.b/c", "tree": "x"}, r"expected exactly one of .*found \['go', 'tree'\]"),
        ("source", "tree", r"key components.rfo: a version is missing"),
        ("source", {"tree": "../x"}, r"component.yaml: key source\.tree: .*leaves its root"),
        ("source", {"tree": ""}, r"component.yaml: key source\.tree: .*at least 1"),
        ("source", {"tree": "x", "tag": "v1"}, r"tag belongs to a git source"),
        ("source", {"tree": "x", "replace": [{"module": "a", "drop": True}]}, r"replace belongs to"),
        ("build", [], r"key build: .*at least 1"),
        ("build", [{"binaries": {}}], r"key build\.0\.binaries: .*at least 1"),
        ("build", [{"binaries": {"rfo": "/etc"}}], r"key build\.0\.binaries\.rfo: .*absolute path"),
        ("build", [{"binaries": {"../rfo": "."}}], r"key build\.0\.binaries\.\.\./rfo"),
        ("build", [{"binaries": {"rfo": "."}, "cgo": "yes"}], r"key build\.0\.cgo"),
        ("build", [{"binaries": {"rfo": "."}, "cgo": ["mips"]}], r"key build\.0\.cgo"),
        ("build", [{"binaries": {"rfo": "."}, "memory": "lots"}], r"key build\.0\.memory: .*is not a size"),
        ("build", [{"binaries": {"rfo": "."}, "compiler": "rust"}], r"key build\.0\.compiler: .*'go' or 'c'"),
        ("build", [{"binaries": {"rfo": "."}}, {"binaries": {"x": "."}}], r"build entries need different names"),
        ("build", [{"binaries": {"rfo": "."}}, {"name": "b", "binaries": {"rfo": "."}}], r"a binary is built twice"),
        ("smoke", {}, r"smoke and binaries must name the same programs; differs: rfo"),
        ("smoke", {"rfo": {"args": [], "prints": "x", "exit": "0"}}, r"key smoke\.rfo\.exit: .*valid integer"),
        ("smoke", {"rfo": {"args": [], "prints": "x", "exit": True}}, r"key smoke\.rfo\.exit: .*valid integer"),
        ("ranges", {"versions": "<2"}, r"key ranges: expected a list of mappings"),
        ("ranges", [{"license": "MIT"}], r"key ranges\.0\.versions: expected text"),
        ("ranges", [{"versions": "new"}], r"key ranges\.0\.versions: expected comparisons"),
        ("ranges", [{"versions": "<9", "colour": 1}], r"key ranges\.0\.colour: unknown key"),
        ("ranges", [{"versions": "<9", 1: 2, "x": 3}], r"key ranges\.0\.1: unknown key"),
    ],
)
def test_a_wrong_component_is_refused_with_its_key(checkout: Checkout, key: str, value: Any, match: str) -> None:
    checkout.component[key] = value
    refused(checkout, match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "expected a mapping"),
        ("- a", "expected a mapping with text keys, found list"),
        ("1: a", "expected a mapping with text keys"),
        ("a: 1\na: 2", r"key 'a' stands twice \(line 2\)"),
        ("a:\n  b: 1\n  b: 2", r"key 'b' stands twice \(line 3\)"),
        ("a: &x 1\nb: *x", r"aliases and tags are not allowed \(line 2\)"),
        ("a: !!python/object:os.system x", "aliases and tags are not allowed"),
        ("a: !!timestamp x", "aliases and tags are not allowed"),
        ("a: !!bool x", "aliases and tags are not allowed"),
        ("<<: {a: 1}", r"expected a plain key \(line 1\)"),
        ("a: {<<: {b: 1}}", "expected a plain key"),
        ("? [a]\n: b", "expected a plain key"),
        ("a: 1\n---\nb: 2", "single document"),
        ("a: [", "expected the node content"),
        ("a: 2022-99-99", "month must be in"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: \x01", "special characters are not allowed"),
        ("#" * MAX_FILE + "\na: 1", "larger than"),
    ],
)
def test_odd_yaml_is_refused_with_its_file(tmp_path: Path, text: str, match: str) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(DefinitionError, match=match) as caught:
        read_yaml(file)
    assert "odd.yaml" in caught.value.reason


def test_a_file_that_is_not_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfa")
    for name in ("binary", "missing", "."):
        with pytest.raises(DefinitionError):
            read_yaml(tmp_path / name)


def component(checkout: Checkout, name: str, source: dict[str, Any], build: dict[str, Any] | None = None) -> None:
    """Another component of the release."""
    data = {**checkout.component, "name": name, "source": source}
    data["build"] = [{"binaries": {name: "."}, **(build or {})}]
    data["smoke"] = {name: {"args": [], "prints": "x"}}
    checkout.put(f"components/{name}/component.yaml", dump(data))
    components = checkout.release["components"]
    assert isinstance(components, dict)
    components[name] = "v1.0.0"


def test_components_that_take_their_source_from_each_other_are_refused(checkout: Checkout) -> None:
    component(checkout, "a", {"component": "b"})
    component(checkout, "b", {"component": "a"})
    refused(checkout, r"components take their source from each other: a -> b -> a")


def test_a_component_that_takes_its_own_source_is_refused(checkout: Checkout) -> None:
    component(checkout, "a", {"component": "a"})
    refused(checkout, r"from each other: a -> a")


@pytest.mark.parametrize("build", [None, {"source": {"component": "gone"}}])
def test_the_source_of_an_unknown_component_is_refused(checkout: Checkout, build: dict[str, Any] | None) -> None:
    component(checkout, "a", {"go": "a.b/c"} if build else {"component": "gone"}, build)
    refused(checkout, r"component a takes the source of gone, which the release does not have")


def test_ranges_merge_in_order(checkout: Checkout) -> None:
    component(checkout, "a", {"go": "a.b/c"})
    path = checkout.root / "components/a/component.yaml"
    path.write_text(
        path.read_text()
        + """
ranges:
  - versions: "<2"
    smoke: {a: {prints: old}}
  - versions: ">=1.5"
    license: MIT
    smoke: {a: {args: [-v]}}
  - versions: ">=3"
    source: {go: null, tree: components/rfo/src}
"""
    )

    def at(version: str) -> tuple[str, str, tuple[str, ...], str]:
        found = Definitions(checkout.root).component("a", version)
        return found.license, found.smoke["a"].prints, found.smoke["a"].args, found.source.kind

    assert at("v1.0.0") == ("Apache-2.0", "old", (), "go")
    assert at("v1.5.0") == ("MIT", "old", ("-v",), "go")
    assert at("v2.0.0") == ("MIT", "x", ("-v",), "go")
    assert at("v3.0.0") == ("MIT", "x", ("-v",), "tree")


@pytest.mark.parametrize("version", ["v9.9.9+rfor9", "v1", "../../etc", ""])
def test_an_unknown_release_is_refused(checkout: Checkout, version: str) -> None:
    with pytest.raises(DefinitionError, match=r"is not defined|is not a release version"):
        checkout.definitions.release(version)


@pytest.mark.parametrize("name", ["nope", "../tiny", "", "tiny.yaml"])
def test_an_unknown_base_is_refused_with_those_there_are(checkout: Checkout, name: str) -> None:
    with pytest.raises(DefinitionError, match="unknown base") as caught:
        checkout.definitions.base(name)
    assert caught.value.hint == "choose one of: tiny"


def test_releases_are_listed_oldest_first(checkout: Checkout) -> None:
    for name in ("v1.0.0+rfor10", "v1.0.0+rfor9", "v0.9.0+rfor1"):
        checkout.put(f"releases/{name}/release.yaml", "")
    assert checkout.definitions.releases() == ["v0.9.0+rfor1", VERSION, "v1.0.0+rfor9", "v1.0.0+rfor10"]


def test_templates_refuse_values_that_there_are_not() -> None:
    assert fill("{version} {number} {minor} {release} {{.X}}", "v1.2.3", {"release": "r"}) == "v1.2.3 1.2.3 2 r {{.X}}"
    for template in ("{Version}", "{commit}", "{a_b}"):
        with pytest.raises(DefinitionError, match="unknown value"):
            fill(template, "v1.2.3", {})


def test_sizes_have_a_unit() -> None:
    assert parse_size("512MiB") == 512 << 20
    assert parse_size("6GiB") == 6 << 30
    for text in ("", "6", "6GB", "0GiB", "-1GiB", "1.5GiB"):
        with pytest.raises(ValueError, match="is not a size"):
            parse_size(text)
