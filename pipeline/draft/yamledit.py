"""Change values of a YAML file in place: comments, order and layout stay as people wrote them. No I/O.

The parser says where each value stands; only those characters are replaced. For files that `strict.read_yaml` has
accepted: no aliases, tags or duplicate keys.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

import yaml

from pipeline.errors import DefinitionError

Plain: TypeAlias = "str | datetime | Mapping[str, Plain]"
"""What can be written: text, a UTC time, or mappings of them."""


class Document:
    """The text of one file with changes that are applied together."""

    def __init__(self, text: str, where: str) -> None:
        """`where` names the file in errors; raises DefinitionError if it is not a mapping."""
        self.text = text
        self.where = where
        self._edits: list[tuple[int, int, str]] = []
        """(start, end, replacement), in characters of `text`."""
        self._root = self._mapping(yaml.compose(text, Loader=yaml.SafeLoader), "(whole file)")

    def replace(self, keys: tuple[str, ...], value: Plain) -> None:
        """Put `value` in place of the one that stands at `keys`; the line's comment stays."""
        key, node = self._find(keys)
        if isinstance(node, yaml.CollectionNode) and not node.flow_style:
            self._edits.append((key.end_mark.index, _end(node), f": {render(value)}"))
        else:
            self._edits.append((node.start_mark.index, _end(node), render(value)))

    def comment_out(self, key: str, reasons: Mapping[int, str]) -> None:
        """Turn items of the list at `key` into comments, each under its reason; raises DefinitionError."""
        if not reasons:
            return
        name, node = self._find((key,))
        if not isinstance(node, yaml.SequenceNode) or node.flow_style:
            raise DefinitionError(
                f"{self.where}: key {key}: expected one item per line",
                "write the list with '- ' at the start of each item",
            )
        for index, reason in reasons.items():
            self._comment(node.value[index], reason)
        if len(reasons) == len(node.value):
            colon = self.text.index(":", name.end_mark.index)
            self._edits.append((colon, colon + 1, ": []"))

    def comments(self) -> list[tuple[int, str]]:
        """Lines that are nothing but a comment, with their numbers."""
        lines = enumerate(self.text.splitlines(), 1)
        return [(n, line.strip()) for n, line in lines if line.lstrip().startswith("#")]

    def render(self) -> str:
        """The text with all changes."""
        text = self.text
        for start, end, new in sorted(self._edits, reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def _comment(self, item: yaml.Node, reason: str) -> None:
        start = self.text.rindex("\n", 0, item.start_mark.index) + 1
        while not (found := re.match(r"[ \t]*(?=-\s)", self.text[start:])):  # the dash may stand on a line before
            start = self.text.rindex("\n", 0, start - 1) + 1
        end = len(self.text[: _end(item)].rstrip())
        indent = found.group()
        lines = self.text[start:end].split("\n")
        body = "\n".join(f"{indent}# {line[len(indent) :]}".rstrip(" ") for line in lines)
        self._edits.append((start, end, f"{indent}# {reason}\n{body}"))

    def _find(self, keys: tuple[str, ...]) -> tuple[yaml.Node, yaml.Node]:
        key: yaml.Node = self._root
        node: yaml.Node = self._root
        for name in keys:
            for key, value in self._mapping(node, name).value:
                if key.value == name:
                    node = value
                    break
            else:
                raise DefinitionError(f"{self.where}: key {'.'.join(keys)} is missing")
        return key, node

    def _mapping(self, node: yaml.Node | None, name: str) -> yaml.MappingNode:
        if not isinstance(node, yaml.MappingNode):
            raise DefinitionError(f"{self.where}: key {name}: expected a mapping")
        return node


def _end(node: yaml.Node) -> int:
    """Where a node's own text ends: the mark of a block collection stands after the space below it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    index: int = node.end_mark.index
    return index


def render(value: Plain) -> str:
    """A value on one line; text is quoted only where YAML would read something else."""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    if not isinstance(value, str):
        return "{" + ", ".join(f"{render(k)}: {render(v)}" for k, v in value.items()) + "}"
    try:
        plain = yaml.load(f"{{a: {value}}}", Loader=yaml.BaseLoader) == {"a": value}  # noqa: S506 - text only
        kept = plain and yaml.safe_load(value) == value
    except yaml.YAMLError:
        kept = False
    return value if kept else json.dumps(value)
