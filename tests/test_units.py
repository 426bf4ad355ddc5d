"""Units: one per build entry and per group of architectures that share a version."""

from typing import Any

import pytest
from conftest import VERSION, Checkout, dump

from pipeline.errors import DefinitionError
from pipeline.units import Unit, lock_subject, units_of

H1 = f"h1:{'B' * 43}="


def units(checkout: Checkout) -> dict[str, Unit]:
    checkout.write()
    return {u.name: u for u in units_of(checkout.definitions.release(VERSION), checkout.definitions)}


@pytest.fixture
def tool(checkout: Checkout) -> dict[str, Any]:
    """The choice of a component with two build entries; the release has it."""
    data = {
        "name": "tool",
        "license": "MIT",
        "source": {"go": "a.b/tool", "replace": [{"module": "x", "drop": True}]},
        "build": [
            {"binaries": {"tool": "."}, "cgo": ["amd64"]},
            {"name": "ctl", "source": {"go": "a.b/tool/ctl"}, "binaries": {"ctl": "."}},
        ],
        "smoke": {n: {"args": [], "prints": "{version}"} for n in ("tool", "ctl")},
    }
    checkout.put("components/tool/component.yaml", dump(data))
    choice: dict[str, Any] = {"version": "v1.1.0"}
    components = checkout.release["components"]
    assert isinstance(components, dict)
    components["tool"] = choice
    return choice


def test_a_build_entry_is_a_unit(checkout: Checkout, tool: dict[str, Any]) -> None:
    found = units(checkout)
    assert list(found) == ["rfo", "tool", "tool.ctl"]
    assert found["tool.ctl"].module == "a.b/tool/ctl@v1.1.0"
    assert found["tool.ctl"].source.replace == found["tool"].source.replace != ()
    assert found["tool"].arches == ("amd64", "arm64")
    assert found["rfo"].version == VERSION


def test_an_architecture_with_another_version_is_a_unit_of_its_own(checkout: Checkout, tool: dict[str, Any]) -> None:
    tool["platforms"] = {"arm64": {"version": "v1.2.0", "go": "1.21.0"}}
    found = units(checkout)
    assert list(found) == ["rfo", "tool", "tool.ctl", "tool@v1.2.0", "tool.ctl@v1.2.0"]
    assert (found["tool"].arches, found["tool@v1.2.0"].arches) == (("amd64",), ("arm64",))
    assert found["tool@v1.2.0"].go == "1.21.0"


def test_two_variants_of_one_version_have_two_names(checkout: Checkout, tool: dict[str, Any]) -> None:
    checkout.release["bases"] = {"amd64": "tiny", "arm64": "tiny", "riscv64": "tiny"}
    tool["platforms"] = {
        "arm64": {"version": "v1.2.0"},
        "riscv64": {"version": "v1.2.0", "go": "1.21.0"},
    }
    found = units(checkout)
    assert found["tool@v1.2.0"].arches == ("arm64",)
    assert found["tool@v1.2.0-go1.21.0"].arches == ("riscv64",)


def test_a_sum_is_of_one_module_at_one_version(checkout: Checkout, tool: dict[str, Any]) -> None:
    tool["sum"] = H1
    tool["platforms"] = {"arm64": {"go": "1.21.0"}}
    found = units(checkout)
    assert {n: u.sum for n, u in found.items() if u.component == "tool"} == {
        "tool": H1,
        "tool.ctl": None,
        "tool@v1.1.0": H1,
        "tool.ctl@v1.1.0": None,
    }
    tool["platforms"] = {"arm64": {"version": "v1.2.0"}}
    assert units(checkout)["tool@v1.2.0"].sum is None


def borrower(checkout: Checkout) -> None:
    data = {**checkout.component, "name": "pause", "source": {"component": "tool"}}
    data["build"] = [{"binaries": {"pause": "pause.c"}, "compiler": "c"}]
    data["smoke"] = {"pause": {"args": [], "prints": "x"}}
    checkout.put("components/pause/component.yaml", dump(data))
    components = checkout.release["components"]
    assert isinstance(components, dict)
    components["pause"] = "3.6"


def test_a_borrowed_source_has_its_owners_version(checkout: Checkout, tool: dict[str, Any]) -> None:
    borrower(checkout)
    found = units(checkout)["pause"]
    assert (found.version, found.module) == ("3.6", "a.b/tool@v1.1.0")
    assert found.build.uses_cgo("arm64")


def test_a_borrowed_source_must_be_the_same_everywhere(checkout: Checkout, tool: dict[str, Any]) -> None:
    borrower(checkout)
    tool["platforms"] = {"arm64": {"version": "v1.2.0"}}
    with pytest.raises(DefinitionError, match="pause takes its source from a component that has another version"):
        units(checkout)


def test_a_lock_is_of_what_decides_its_sources(checkout: Checkout, tool: dict[str, Any]) -> None:
    before = lock_subject(list(units(checkout).values()))
    assert lock_subject(list(units(checkout).values())) == before
    path = checkout.root / "components/tool/component.yaml"
    text = path.read_text()
    path.write_text(text.replace("license: MIT", "license: BSD-3-Clause"))
    assert lock_subject(list(units(checkout).values())) == before
    for old, new in [("a.b/tool/ctl", "a.b/ctl"), ("- amd64", "- arm64"), ("drop: true", "version: v1")]:
        assert old in text
        path.write_text(text.replace(old, new))
        assert lock_subject(list(units(checkout).values())) != before
    path.write_text(text)
    tool["version"] = "v1.1.1"
    assert lock_subject(list(units(checkout).values())) != before


def test_facts_name_all_that_definitions_say(checkout: Checkout, tool: dict[str, Any]) -> None:
    before = [u.facts for u in units(checkout).values()]
    path = checkout.root / "components/tool/component.yaml"
    path.write_text(path.read_text().replace("prints: '{version}'", "prints: other"))
    assert [u.facts for u in units(checkout).values()] != before
