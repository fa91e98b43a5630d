"""Typed sections of arguments: read from YAML, overridden by dotted keys of a command line, refused with the key that
is wrong.

Nothing here knows what the sections are about.
"""

import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ..errors import ArgumentError
from ..text import did_you_mean


class Section(BaseModel):
    """A part of the arguments: unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-4` is a number and a key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ArgumentError(
                    f"The key '{key}' stands twice (line {key_node.start_mark.line + 1}). Leave one of them out."
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot and a signed exponent; 1.2, JSON and Python do not.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a run file.

    Raises:
        ArgumentError: no such file, no valid YAML, a key that stands twice, or not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ArgumentError(f"There is no run file {path}. Give the path of a YAML file as the first argument.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{path} is not valid YAML: {error}") from error
    except ArgumentError as error:
        raise ArgumentError(f"{path}: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ArgumentError(f"{path} must hold a mapping of keys to values, not a {type(content).__name__}.")
    return content


def checked_section(section: type[Section], content: dict[str, Any]) -> Any:
    """An instance of `section`, or an [`ArgumentError`] that names every key that is unknown, missing or of the wrong
    type."""
    try:
        return section(**content)
    except ValidationError as error:
        raise ArgumentError(
            "\n".join(_explain(problem, section) for problem in _one_a_value(error.errors()))
        ) from error


def expand_data_dir(content: dict[str, Any]) -> dict[str, Any]:
    """`data_dir` on the upper level is short for that of the only corpus."""
    if "data_dir" not in content:
        return content
    corpora = content.get("corpora")
    if not isinstance(corpora, list) or len(corpora) != 1 or not isinstance(corpora[0], dict):
        raise ArgumentError(
            "data_dir: short for the only corpus' data_dir. With several corpora give --corpora.0.data_dir etc."
        )
    rest = {key: value for key, value in content.items() if key != "data_dir"}
    return rest | {"corpora": [corpora[0] | {"data_dir": content["data_dir"]}]}


def apply_overrides(
    content: dict[str, Any],
    arguments: Sequence[str],
    section: type[Section],
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Put `--key value`, `--key=value` and `--flag` of a command line into `content`.

    Args:
        content: nested values, changed in place.
        arguments: the command line after the run file.
        section: says which type a dotted key has.
        more: types of further keys on the upper level.
    """
    index = 0
    while index < len(arguments):
        argument = arguments[index]
        if not argument.startswith("--") or len(argument) < 3:
            raise ArgumentError(
                f"Cannot read '{argument}'. After the first argument everything is --key value, --key=value or --flag."
            )
        key, equals, text = argument[2:].partition("=")
        if not equals and index + 1 < len(arguments) and not arguments[index + 1].startswith("--"):
            index += 1
            equals, text = " ", arguments[index]
        annotation = more[key] if key in more else str | None if key == "data_dir" else _annotation(key, section)
        _set(content, key, _value(text, annotation) if equals else True)
        index += 1


def _value(text: str, annotation: Any) -> Any:
    """A text of the command line as a value of its type; what fits no reading is left for the check of the whole to
    refuse."""
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text
    if annotation is None:
        return value
    for reading in [text, value] if value is not None and _takes_text_first(annotation) else [value, text]:
        try:
            return validated(annotation, reading)
        except ValidationError:
            continue
    return value


def _takes_text_first(annotation: Any) -> bool:
    """A plain text (run_name 7, folder 2024) stays text; a union with another type (true or a folder) is read as YAML
    first."""
    options = (
        set(typing.get_args(annotation))
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else {annotation}
    )
    return options <= {str, types.NoneType}


def _annotation(key: str, section: type[BaseModel] | None) -> Any:
    """Type of a dotted key; None for what is free in type (an option of the model or of a loader) or unknown."""
    annotation: Any = section
    parts = key.split(".")
    while parts:
        if (
            not (isinstance(annotation, type) and issubclass(annotation, BaseModel))
            or parts[0] not in annotation.model_fields
        ):
            return None
        annotation = annotation.model_fields[parts.pop(0)].annotation
        if typing.get_origin(annotation) is list and parts:
            parts.pop(0)
        annotation = (_inner_section(annotation) if parts else None) or annotation
    return annotation


def _inner_section(annotation: Any) -> type[Section] | None:
    """The section in `Section`, `list[Section]` or `Section | None`; None for any other type."""
    for inner in typing.get_args(annotation) or (annotation,):
        if isinstance(inner, type) and issubclass(inner, Section):
            return inner
    return None


def _set(content: dict[str, Any], key: str, value: Any) -> None:
    """Put a value under a dotted key; numbers are positions in a list, which can be extended by one."""
    parts = key.split(".")
    place: Any = content
    for depth, (part, following) in enumerate(pairwise(parts)):
        if isinstance(place, list):
            part = _position(place, part, key, extend=True)
            place.extend([None] * (part + 1 - len(place)))
        if (place[part] if isinstance(place, list) else place.get(part)) is None:
            place[part] = [] if following.isdigit() else {}
        place = place[part]
        if not isinstance(place, (dict, list)):
            raise ArgumentError(
                f"{key}: {'.'.join(parts[: depth + 1])} is the value {place!r} and has no keys of its own."
            )
    if isinstance(place, list):
        position = _position(place, parts[-1], key, extend=True)
        place[position : position + 1] = [value]
    else:
        place[parts[-1]] = value


def _position(values: list, part: str, key: str, extend: bool = False) -> int:
    if not part.isdigit() or int(part) >= len(values) + extend:
        raise ArgumentError(f"{key}: '{part}' is no position in a list of {len(values)}; count from 0.")
    return int(part)


def validated(annotation: Any, value: Any) -> Any:
    """`value` if it has the type (a whole number counts as a float, a text as a choice), as a plain Python value."""
    # pydantic forbids a config beside a model, which carries its own.
    config = (
        None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel)
        else ConfigDict(arbitrary_types_allowed=True)
    )
    checked = TypeAdapter(annotation, config=config).validate_python(value, strict=True)
    return float(checked) if annotation is float else value


def _one_a_value(problems: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """pydantic lists a problem for each type that a value may have, under the value's key and the type: make these
    one."""
    merged: dict[tuple, dict[str, Any]] = {}
    for problem in problems:
        *place, last = problem["loc"]
        key = tuple(place) if place and isinstance(last, str) and _TYPE_NAME.fullmatch(last) else problem["loc"]
        if key in merged:
            message = problem["msg"].removeprefix("Input should be ")
            merged[key] |= {"msg": f"{merged[key]['msg']}, or {message}"}
        else:
            merged[key] = {**problem, "loc": key}
    return list(merged.values())


_TYPE_NAME = re.compile(r"(constrained-)?(str|int|float|bool)|(literal|list|dict)\[.*\]")


def _explain(problem: dict[str, Any], section: type[Section]) -> str:
    """One problem that pydantic found, by the dotted key it belongs to."""
    place = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        annotation = _annotation(".".join(place[:-1]), section) if len(place) > 1 else section
        inner = _inner_section(annotation) or section
        return unknown_key(place[-1], inner.model_fields, "".join(f"{part}." for part in place[:-1]))
    if problem["type"] == "missing":
        return f"{'.'.join(place)}: is missing."
    value = problem["input"]
    return f"{'.'.join(place)}: {problem['msg']}, got {value!r} ({type(value).__name__})."


def unknown_key(key: str, known: Iterable[str], prefix: str = "") -> str:
    hint = did_you_mean(key, known, prefix) or " See --help for all keys."
    return f"{prefix}{key}: unknown key.{hint}"


def section_help(section: type[Section], prefix: str = "") -> list[str]:
    """A line a key."""
    lines = []
    for name, field in section.model_fields.items():
        if inner := _inner_section(field.annotation):
            position = "0." if typing.get_origin(field.annotation) is list else ""
            lines += section_help(inner, f"{prefix}{name}.{position}")
        elif field.description:
            default = "" if field.is_required() else f" [{shown(field.get_default(call_default_factory=True))}]"
            lines.append(f"  --{prefix}{name}{default}: {field.description}")
    return lines


def shown(value: Any) -> str:
    return "null" if value is None else str(getattr(value, "value", value))
