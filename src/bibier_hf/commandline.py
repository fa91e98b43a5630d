"""Typed options, read from YAML files and from command lines.

    class PredictArguments(Section):
        '''Predict the emotions of clips.'''

        checkpoint: Annotated[str, Positional("CHECKPOINT")] = Field(description="folder or Hub id")
        top_k: int | None = Field(None, ge=1, description="emotions to show")

    PredictArguments.from_command_line(["outputs/resd", "--top_k", "3"])

* Options are `--key value`, `--key=value`, or `--flag`.
* Dots lead into sections and lists: `--corpora.0.fold 1`. A list grows by one entry: `--corpora.1.name csv`.
* A list of plain values is `--languages en,ru`, `--languages en ru` (after the arguments without a key),
  `--languages "[en, ru]"`, or the option repeated.
* Values are read as YAML; an option for text takes the text as it is.
* Errors name the dotted key, and the closest known key if it is misspelled.

No library covers all of this (checked in November 2026). jsonargparse 4.53.0 cannot address a list entry and suggests
no key. tyro 1.0.17 suggests keys and addresses list entries, but cannot add one, and prints each pydantic error as a
box of text. OmegaConf 2.4.0 can neither extend a list nor print help, and silently replaces a number with a mapping
(`--seed.low 1`).
"""

import inspect
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from .errors import ArgumentError
from .text import did_you_mean

HELP_FLAGS = ("-h", "--help")


@dataclass(frozen=True)
class Positional:
    """Marks a field that is given without its key: `Annotated[str, Positional("CHECKPOINT")]`. A list takes the rest.

    Attributes:
        name: how the help calls it.
    """

    name: str


class Section(BaseModel):
    """A group of options. Unknown keys and values of the wrong type are errors.

    The docstring of a command's section is its help text.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @classmethod
    def from_command_line(cls, arguments: Sequence[str]) -> Self:
        """Parse a command line.

        Raises:
            ArgumentError: a key or a value that the section does not allow.
        """
        given = read_arguments(arguments, cls)
        content = cls.defaults(given)

        for key, value in given.items():
            set_key(content, key, value)

        return checked_section(cls, cls.complete(content))

    @classmethod
    def for_command_line(cls, arguments: Sequence[str]) -> "type[Section]":
        """The section that parses these arguments; a subclass if its keys depend on them."""
        return cls

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Nested values that the command line overrides.

        Args:
            given: dotted keys and values of the command line.
        """
        return {}

    @classmethod
    def complete(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Expand abbreviations and fill in values that depend on others, before the section is validated."""
        return content

    @classmethod
    def key_type(cls, key: str) -> Any:
        """Type of a dotted key; None if it is unknown or any type will do."""
        return field_type(key, cls)

    @classmethod
    def option_help(cls) -> list[str]:
        """One entry for each option."""
        return section_help(cls)

    def after_interrupt(self) -> str:
        """What the user should know after Ctrl-C, as a sentence."""
        return ""


# --- YAML ----------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-4` is a number and duplicate keys are errors."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise ArgumentError(f"A key is a {type(key).__name__} (line {line}). Give a name.")
            if key in seen:
                raise ArgumentError(f"The key '{key}' appears twice (line {line}). Remove one of them.")
            seen.add(key)

        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot and a signed exponent; 1.2, JSON and Python do not.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ArgumentError: no such file, invalid YAML, a duplicate key, or no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ArgumentError(f"There is no file {path}. Give the path of a YAML file.")

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except ArgumentError as error:
        raise ArgumentError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ArgumentError(f"{path} is not valid YAML: it is nested too deeply.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, an impossible date, a number of many digits
        raise ArgumentError(f"{path} is not valid YAML: {error}") from error

    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ArgumentError(f"{path} must hold a mapping of keys to values, not a {type(content).__name__}.")
    if wrong := [key for key in content if not isinstance(key, str)]:
        raise ArgumentError(f"{path}: the key {wrong[0]!r} is a {type(wrong[0]).__name__}, not a name.")

    return content


# --- command line --------------------------------------------------------------------------------------------------


def read_arguments(arguments: Sequence[str], section: type[Section]) -> dict[str, Any]:
    """Dotted keys and values of a command line, in its order.

    Raises:
        ArgumentError: an argument that is neither an option nor expected, or an option without its value.
    """
    places = positionals(section)
    given: dict[str, Any] = {}
    remaining = list(arguments)
    only_positionals = False

    while remaining:
        argument = remaining.pop(0)

        if argument == "--" and not only_positionals:
            only_positionals = True
            continue

        if only_positionals or argument == "-" or not argument.startswith("-"):
            _take_positional(argument, places, section, given)
            continue

        if not argument.startswith("--"):
            raise ArgumentError(f"Cannot read '{argument}'. Options are --key value, --key=value or --flag.")

        key, equals, text = argument[2:].partition("=")
        annotation = section.key_type(key)
        if not equals and remaining and _is_value(remaining[0], annotation, bool(places)):
            equals, text = "=", remaining.pop(0)

        if equals:
            value = read_value(text, annotation)
        elif annotation is None or _is_flag(annotation):
            value = True
        else:
            raise ArgumentError(f"{key}: needs a value (--{key} VALUE).")

        while isinstance(value, list) and not places and remaining and not remaining[0].startswith("-"):
            value = value + list(read_value(remaining.pop(0), annotation))

        if isinstance(value, list) and isinstance(given.get(key), list):
            value = given[key] + value
        given[key] = value

    return given


def positionals(section: type[BaseModel]) -> dict[str, str]:
    """Keys that are given by position, and how the help calls them."""
    return {
        key: mark.name
        for key, field in fields_by_key(section).items()
        for mark in field.metadata
        if isinstance(mark, Positional)
    }


def fields_by_key(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields by the names that users give; an alias replaces a name that Python or pydantic reserves."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _take_positional(argument: str, places: dict[str, str], section: type[Section], given: dict[str, Any]) -> None:
    """Put an argument into the next place; the place of a list stays open."""
    if not places:
        raise ArgumentError(f"Cannot read '{argument}'. Options are --key value, --key=value or --flag.")

    key = next(iter(places))
    if _list_type(section.key_type(key)) is not None:
        given.setdefault(key, []).append(argument)
    else:
        given[key] = argument
        del places[key]


def _is_value(text: str, annotation: Any, positionals_left: bool) -> bool:
    """Whether the text after an option is its value. After a flag, another word may be a positional argument."""
    if text.startswith("--"):
        return False
    if _is_flag(annotation) and str not in _options(annotation) and positionals_left:
        return text.lower() in ("true", "false", "yes", "no", "on", "off", "null")
    return True


def _options(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; a single type stands alone."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _is_flag(annotation: Any) -> bool:
    return bool in _options(annotation)


def _list_type(annotation: Any) -> Any:
    """`list[...]`, alone or in a union; None if there is none."""
    return next((option for option in _options(annotation) if typing.get_origin(option) is list), None)


def read_value(text: str, annotation: Any) -> Any:
    """A text of the command line as a value of its type. What does not fit is left for the validation to report."""
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        value = text
    if annotation is None:
        return value

    takes_text = set(_options(annotation)) <= {str, types.NoneType}
    readings = [text, value] if takes_text and value is not None else [value, text]
    if _list_type(annotation) is not None and not isinstance(value, list):
        try:
            readings.append(yaml.load(f"[{text}]", _Loader))
        except yaml.YAMLError:
            readings.append([text])

    for reading in readings:
        try:
            return validated(annotation, reading)
        except ValidationError:
            continue
    return value


def field_type(key: str, section: type[BaseModel]) -> Any:
    """Type of a dotted key; None if it is unknown, or within a mapping of any values."""
    field = _find_field(key, section)
    return field.annotation if field else None


def _find_field(key: str, section: type[BaseModel]) -> FieldInfo | None:
    """The field of a dotted key; None if it is unknown, or within a mapping of any values."""
    inner: type[BaseModel] | None = section
    field = None
    parts = key.split(".")

    while parts:
        field = fields_by_key(inner).get(parts.pop(0)) if inner else None
        if field is None:
            return None

        if typing.get_origin(field.annotation) is list and parts:
            parts.pop(0)
        inner = _inner_section(field.annotation)

    return field


def _inner_section(annotation: Any) -> type[Section] | None:
    """The section in `Section`, `list[Section]` or `Section | None`; None for any other type."""
    for inner in typing.get_args(annotation) or (annotation,):
        if isinstance(inner, type) and issubclass(inner, Section):
            return inner
    return None


def set_key(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested mappings and lists. A number is a position in a list, which may grow by one.

    Raises:
        ArgumentError: a position beyond the end, or a key below a plain value.
    """
    parts = key.split(".")
    place: Any = content

    for depth, (part, following) in enumerate(pairwise(parts)):
        if isinstance(place, list):
            part = _position(place, part, key)
            place.extend([None] * (part + 1 - len(place)))
        if (place[part] if isinstance(place, list) else place.get(part)) is None:
            place[part] = [] if following.isdigit() else {}

        place = place[part]
        if not isinstance(place, (dict, list)):
            above = ".".join(parts[: depth + 1])
            raise ArgumentError(f"{key}: {above} is the value {place!r}, which has no keys.")

    if isinstance(place, list):
        position = _position(place, parts[-1], key)
        place[position : position + 1] = [value]
    else:
        place[parts[-1]] = value


def _position(values: list, part: str, key: str) -> int:
    if not part.isdigit() or int(part) > len(values):
        raise ArgumentError(f"{key}: '{part}' is no position in a list of {len(values)}; count from 0.")
    return int(part)


# --- validation ----------------------------------------------------------------------------------------------------


def checked_section(section: type[Section], content: dict[str, Any]) -> Any:
    """Validate nested values.

    Raises:
        ArgumentError: names every key that is unknown, missing or of the wrong type.
    """
    try:
        return section(**content)
    except ValidationError as error:
        # A default that follows from other values is not at fault.
        found = [problem for problem in error.errors() if problem["type"] != "default_factory_not_called"]
        problems = _merge_unions(found)
        raise ArgumentError("\n".join(_explain(problem, section) for problem in problems)) from error


def validated(annotation: Any, value: Any) -> Any:
    """`value` if it has the type (a whole number counts as a float, a text as a choice), as a plain Python value."""
    # pydantic allows no config for a model, which has its own.
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    config = None if is_model else ConfigDict(arbitrary_types_allowed=True)

    checked = TypeAdapter(annotation, config=config).validate_python(value, strict=True)
    return float(checked) if annotation is float else value


def _merge_unions(problems: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """pydantic reports a problem for each type that a value may have; merge those of one value."""
    merged: dict[tuple, dict[str, Any]] = {}
    for problem in problems:
        *place, last = problem["loc"] or (None,)
        key = tuple(place) if place and isinstance(last, str) and _TYPE_NAME.fullmatch(last) else problem["loc"]
        if key in merged:
            message = problem["msg"].removeprefix("Input should be ")
            merged[key] |= {"msg": f"{merged[key]['msg']}, or {message}"}
        else:
            merged[key] = {**problem, "loc": key}
    return list(merged.values())


_TYPE_NAME = re.compile(r"(constrained-)?(str|int|float|bool)|(literal|list|dict)\[.*\]")


def _explain(problem: dict[str, Any], section: type[Section]) -> str:
    """A problem that pydantic found, with the dotted key that it belongs to."""
    place = [str(part) for part in problem["loc"]]
    key = ".".join(place)

    if problem["type"] == "value_error":  # of a validator, which says all that is needed
        return f"{key}: {problem['ctx']['error']}" if key else str(problem["ctx"]["error"])

    if problem["type"] == "extra_forbidden":
        above = field_type(".".join(place[:-1]), section) if len(place) > 1 else section
        inner = _inner_section(above) or section
        return unknown_key(place[-1], fields_by_key(inner), "".join(f"{part}." for part in place[:-1]))

    if problem["type"] == "missing":
        field = _find_field(key, section)
        return f"{key}: is missing ({field.description})." if field and field.description else f"{key}: is missing."

    value = problem["input"]
    return f"{key}: {problem['msg']}, got {value!r} ({type(value).__name__})."


def unknown_key(key: str, known: Iterable[str], prefix: str = "") -> str:
    """The error message for a key that does not exist."""
    hint = did_you_mean(key, known, prefix) or " --help lists all keys."
    return f"{prefix}{key}: unknown key.{hint}"


# --- help ----------------------------------------------------------------------------------------------------------


def help_text(command: str, section: type[Section]) -> str:
    """Usage, docstring, arguments and options of a command."""
    places = positionals(section)
    fields = fields_by_key(section)

    options = section.option_help()
    usage = [f"usage: {command}"]
    for key, name in places.items():
        many = "..." if _list_type(fields[key].annotation) is not None else ""
        usage.append(f"{name}{many}" if fields[key].is_required() else f"[{name}]{many}")
    usage += ["[--key value] ..."] if options else []
    blocks = [" ".join(usage), inspect.cleandoc(section.__doc__ or "")]

    if places:
        arguments = [f"  {name}: {fields[key].description}" for key, name in places.items()]
        blocks.append("\n".join(["Arguments:", *map(_wrapped, arguments)]))
    if options:
        blocks.append("\n".join(["Options:", *map(_wrapped, options)]))
    return "\n\n".join(blocks)


def _wrapped(line: str) -> str:
    if not line.startswith("  "):  # a heading
        return line
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    return textwrap.fill(line, width, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False)


def section_help(section: type[BaseModel], prefix: str = "") -> list[str]:
    """`--key [default]: meaning` of each option."""
    lines = []
    for key, field in fields_by_key(section).items():
        if not prefix and key in positionals(section):
            continue

        if inner := _inner_section(field.annotation):
            position = "0." if typing.get_origin(field.annotation) is list else ""
            lines += section_help(inner, f"{prefix}{key}.{position}")
        elif field.description:
            default = (
                None if field.is_required() else shown(field.get_default(call_default_factory=True, validated_data={}))
            )
            lines.append(f"  --{prefix}{key}{f' [{default}]' if default else ''}: {field.description}")
    return lines


def shown(value: Any) -> str:
    """A value as a command line takes it; "" for an empty list or mapping."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        pairs = ", ".join(f"{key}: {shown(inner)}" for key, inner in value.items())
        return f"{{{pairs}}}" if pairs else ""
    if isinstance(value, (list, tuple)):
        return ",".join(map(shown, value))
    return "null" if value is None else str(getattr(value, "value", value))
