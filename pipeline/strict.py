"""Strict YAML: a definition file becomes a frozen model, or an error that names file, key and what stands there.

Reads files; knows nothing of what they define.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import DefinitionError, PipelineError
from pipeline.model import RootedPath

MAX_FILE = 1 << 20
"""Bytes of one definition file; more is a mistake."""


class Strict(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


M = TypeVar("M", bound=Strict)


def parsed_by(parse: Callable[[str], object]) -> AfterValidator:
    """For text that `parse` accepts; what it says becomes an error that names the key."""

    def check(text: str) -> str:
        try:
            parse(text)
        except PipelineError as error:
            raise ValueError(error.reason) from error
        return text

    return AfterValidator(check)


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Arch = Annotated[str, Field(pattern=r"^(amd64|arm64|riscv64)$")]
Text = Annotated[str, Field(min_length=1)]
Inside = Annotated[Text, parsed_by(RootedPath.parse)]
"""A path that cannot leave the folder it is relative to."""


def parse_size(text: str) -> int:
    """`6GiB`, `512MiB` to bytes; raises ValueError."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})(MiB|GiB)", text)
    if not match:
        raise ValueError(f"{text!r} is not a size such as 512MiB or 6GiB")
    return int(match[1]) << (20 if match[2] == "MiB" else 30)


class _Loader(yaml.SafeLoader):
    """YAML without duplicate keys, merges, tags, aliases (which can explode) or keys that are no plain values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"aliases and tags are not allowed (line {event.start_mark.line + 1})")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                raise yaml.YAMLError(f"expected a plain key (line {key.start_mark.line + 1})")
            if key.value in seen:
                raise yaml.YAMLError(f"key {key.value!r} stands twice (line {key.start_mark.line + 1})")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises DefinitionError."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE + 1)
        if len(text) > MAX_FILE:
            raise DefinitionError(f"{path}: larger than {MAX_FILE} bytes")
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise DefinitionError(f"{path} does not exist") from None
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise DefinitionError(f"{path}: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise DefinitionError(f"{path}: nested too deeply") from None
    if not isinstance(data, dict) or not all(isinstance(k, str) for k in data):
        raise DefinitionError(f"{path}: expected a mapping with text keys, found {type(data).__name__}")
    return data


def validate(model: type[M], data: dict[str, Any], path: Path) -> M:
    """`data` as `model`; every problem is named by file and key."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = []
        for item in error.errors(include_url=False):
            key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
            found = "" if item["type"] in ("missing", "value_error") else f"; found {item['input']!r:.120}"
            problems.append(f"{path}: key {key}: {item['msg']}{found}")
        raise DefinitionError("\n  ".join(problems), f"mend {path.name} and run the command again") from error
