"""The order of versions, in vectors that every implementation of it has to meet."""

import itertools

import pytest

from pipeline.errors import DefinitionError
from pipeline.model import ReleaseVersion
from pipeline.versions import Constraint, compare, numbers, template_values

RELEASES = [
    "v0.0.1+rfor1",
    "v1.9.12+rfor1",
    "v1.25.4+rfor1",
    "v1.25.4+rfor2",
    "v1.25.4+rfor9",
    "v1.25.4+rfor10",
    "v1.25.4+rfor100",
    "v1.25.5+rfor1",
    "v1.25.10+rfor1",
    "v1.100.0+rfor1",
    "v2.0.0+rfor1",
    "v10.0.0+rfor1",
]
"""Oldest first."""


@pytest.mark.parametrize(("older", "newer"), list(itertools.combinations(RELEASES, 2)))
def test_releases_are_ordered_by_number(older: str, newer: str) -> None:
    old, new = ReleaseVersion.parse(older), ReleaseVersion.parse(newer)
    assert old < new
    assert new > old
    assert old <= new
    assert old != new


@pytest.mark.parametrize("text", RELEASES)
def test_a_release_version_is_written_as_it_was_read(text: str) -> None:
    assert str(ReleaseVersion.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1.25.4",
        "1.25.4+rfor1",
        "v1.25+rfor1",
        "v1.25.4+rfor0",
        "v1.25.4+rfor01",
        "v01.25.4+rfor1",
        "v1.25.4+rke2r1",
        "v1.25.4-rc1+rfor1",
        "v1.25.4+rfor1 ",
        "v1.25.4+rfor1\n",
        "v1.25.4+rfor1/..",
        "v1.25.4+rfor٣",
        "v1.25.4+rfor1234567",
        "V1.25.4+RFOR1",
    ],
)
def test_other_texts_are_no_release_versions(text: str) -> None:
    with pytest.raises(DefinitionError, match="is not a release version"):
        ReleaseVersion.parse(text)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("v1.9.0", "v1.10.0", -1),
        ("1.2", "v1.2.0", 0),
        ("2", "2.0.0.0", 0),
        ("1.2.3", "1.2", 1),
        ("0.9.1", "0.10", -1),
        ("v1.36.3+rfor1", "v1.36.3", 0),
        ("3.10.2", "3.9", 1),
        ("2.999999999", "3", -1),
    ],
)
def test_component_versions_compare_by_number(left: str, right: str, expected: int) -> None:
    assert compare(left, right) == expected
    assert compare(right, left) == -expected


@pytest.mark.parametrize("text", ["", "v", "main", "x1.2", "1234567890", "1.1234567890", "٣.1"])
def test_a_version_without_usable_numbers_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError, match="numbers"):
        numbers(text)


@pytest.mark.parametrize(
    ("constraint", "version", "expected"),
    [
        (">=1.4", "v1.3.9", False),
        (">=1.4", "v1.4.0", True),
        (">=1.4, <2", "v1.36.3", True),
        (">=1.4, <2", "v2.0.0", False),
        ("<2", "v10.0", False),
        ("==1.1.4", "v1.1.4", True),
        ("> v1.1", "1.1.0", False),
        ("<=1.1", "1.1.0", True),
    ],
)
def test_a_range_holds_when_every_comparison_does(constraint: str, version: str, expected: bool) -> None:
    assert Constraint.parse(constraint, where="here").matches(version) is expected


@pytest.mark.parametrize(
    "text", ["", "1.2", ">=", ">=1.2,", "=1.2", "~1.2", ">=1.2-rc1", ">=1.x", ">=1.2 <2", ">=1234567890"]
)
def test_a_malformed_range_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(DefinitionError, match=r"^here: expected comparisons"):
        Constraint.parse(text, where="here")


@pytest.mark.parametrize(
    ("version", "parts"),
    [("v1.25.4", "1 25 4"), ("3.6", "3 6 0"), ("v2", "2 0 0"), ("v3.5.0-rc.1", "3 5 0"), ("trunk", "0 0 0")],
)
def test_templates_know_the_parts_of_a_version(version: str, parts: str) -> None:
    values = template_values(version)
    assert f"{values['major']} {values['minor']} {values['patch']}" == parts
    assert values["version"] == version
    assert values["number"] == version.removeprefix("v")
