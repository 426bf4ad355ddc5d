"""YAML changed in place: only what is meant changes, and what people wrote around it stays."""

import pytest
import yaml

from pipeline.draft.yamledit import Document, Plain, render
from pipeline.errors import DefinitionError

TEXT = """\
# why this file is so
version: v1   # the first
toolchains: {go: 1.20.14}    # one for all

components:
  a: v1.0.0        # keep
  b:
    version: v2    # two
    go: 1.18.8
  # about c
  c: {version: v3, platforms: {arm64: {version: v4}}}
list:
  # of x
  - {what: x, why: y}
  -
    what: z
    why: >
      folded,
      lines

  - what: last
end: true
"""


def changed(*changes: tuple[tuple[str, ...], Plain], text: str = TEXT) -> str:
    document = Document(text, "file")
    for keys, value in changes:
        document.replace(keys, value)
    return document.render()


def test_a_value_is_replaced_and_its_comment_stays() -> None:
    found = changed((("version",), "v10"), (("toolchains", "go"), "1.24.13"), (("components", "a"), "v1.1.0"))
    expected = TEXT.replace("v1   #", "v10   #").replace("1.20.14", "1.24.13").replace("v1.0.0 ", "v1.1.0 ")
    assert found == expected


def test_a_mapping_in_lines_becomes_one_line_and_its_neighbours_stay() -> None:
    found = changed((("components", "b"), {"version": "v5", "go": "1.20"}), (("components", "c"), "v6"))
    assert '  b: {version: v5, go: "1.20"}\n  # about c\n  c: v6\nlist:\n' in found
    assert yaml.safe_load(found)["components"] == {"a": "v1.0.0", "b": {"version": "v5", "go": "1.20"}, "c": "v6"}


def test_line_ends_stay() -> None:
    assert changed((("end",), "x"), text=TEXT.replace("\n", "\r\n")) == TEXT.replace("true", "x").replace("\n", "\r\n")


def test_nothing_is_changed_by_no_change() -> None:
    assert changed() == TEXT


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, "  # of x\n  # why\n  # - {what: x, why: y}\n  -\n"),
        (1, "  # why\n  # -\n  #   what: z\n  #   why: >\n  #     folded,\n  #     lines\n\n  - what: last\n"),
        (2, "      lines\n\n  # why\n  # - what: last\nend: true\n"),
    ],
)
def test_an_item_becomes_a_comment_with_its_reason(index: int, expected: str) -> None:
    document = Document(TEXT, "file")
    document.comment_out("list", {index: "why"})
    assert expected in document.render()
    wanted = yaml.safe_load(TEXT)
    del wanted["list"][index]
    assert yaml.safe_load(document.render()) == wanted


def test_a_list_without_items_is_still_a_list() -> None:
    document = Document(TEXT, "file")
    document.comment_out("list", dict.fromkeys(range(3), "why"))
    assert yaml.safe_load(document.render())["list"] == []


def test_items_on_one_line_cannot_become_comments() -> None:
    document = Document("list: [{a: b}]\n", "file")
    document.comment_out("list", {})
    with pytest.raises(DefinitionError, match="file: key list: expected one item per line"):
        document.comment_out("list", {0: "why"})


def test_comments_have_their_lines() -> None:
    assert Document(TEXT, "file").comments() == [(1, "# why this file is so"), (10, "# about c"), (13, "# of x")]


@pytest.mark.parametrize(
    "text", ["1.20", "3.10", "true", "2022-11-18", "a: b", "a, b", "{x", "#x", "", "~", "0x1f", "é"]
)
def test_text_is_read_back_as_that_text(text: str) -> None:
    assert yaml.safe_load(f"[{render(text)}]") == [text]
    assert yaml.safe_load(render({"a": {"b": text}})) == {"a": {"b": text}}


@pytest.mark.parametrize("text", ["v1.34.4", "1.24.13", "v3.5.4-k3s1", "v1.25.4+rke2r1", "h1:abc/d+e="])
def test_plain_text_has_no_quotes(text: str) -> None:
    assert render(text) == text


def test_a_missing_key_is_named() -> None:
    with pytest.raises(DefinitionError, match=r"file: key components\.x is missing"):
        changed((("components", "x"), "v1"))
    with pytest.raises(DefinitionError, match="expected a mapping"):
        Document("- a\n", "file")
