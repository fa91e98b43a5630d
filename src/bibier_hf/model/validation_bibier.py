"""Validation of configurations: bounds, unknown options, labels, and errors for damaged checkpoints."""

import difflib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import CONFIG_NAME, logging

from .labels_bibier import label_key

logger = logging.get_logger(__name__)

_MOST_LAYERS = 1_000
_LARGEST_SIZE = 2**24
"""Beyond these, a configuration is damaged: building the model would never finish, or exceed any memory."""

_COUNTS = re.compile("size|dim|width|rank|heads|kernel|len|tokens|frames|positions|embeddings|experts|bins|d_model")
"""Parts of the names of sizes, in the configurations of all backbones."""

# Keyword arguments that transformers passes to every configuration; any other unknown one is a mistake.
_FOREIGN_KEYS = frozenset(
    """
    auto_map custom_pipelines name_or_path num_labels torch_dtype attn_implementation experts_implementation
    output_attentions quantization_config per_layer_config model_type transformers_weights _name_or_path _commit_hash
    _attn_implementation _attn_implementation_internal _experts_implementation_internal
    """.split()
)


class CheckpointError(RuntimeError, ValueError):
    """An unusable checkpoint. The message says in one line what is wrong with which file."""


class CheckedConfig(PreTrainedConfig):
    """A configuration that refuses unknown options and values out of bounds.

    Options that a user passes must be known. Unknown ones in a file, written by the Trainer, peft or a newer version,
    are kept unchanged.
    """

    at_least_one: ClassVar[str] = ""
    """Names of fields that must be 1 or more, or None where the type allows it."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any):
        """Load as in transformers; new labels (`id2label`, `num_labels`) reset the options of the old ones.

        Raises:
            CheckpointError: `config.json` is unusable.
            OSError: there is no `config.json`.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except CheckpointError as error:
            raise CheckpointError(f"{os.path.join(pretrained_model_name_or_path, CONFIG_NAME)}: {error}") from error

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        try:
            content = super()._dict_from_json_file(json_file)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"This is not valid JSON ({one_line(error)}).") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"This is a JSON {type(content).__name__}; it must be an object of options.")
        if "model_type" not in content:
            raise CheckpointError("This has no model_type, so it is not a complete configuration.")
        return content

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """Create a configuration as in transformers, keeping unknown keys."""
        try:
            options, others = cls._split(config_dict)
            loaded = super().from_dict(_with_labels(options, kwargs), **kwargs)
        except Exception as error:  # damaged values can raise anything
            raise CheckpointError(one_line(error)) from error

        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for path, value in others.items():
            *parents, name = path
            owner = config
            for parent in parents:
                owner = getattr(owner, parent)
            setattr(owner, name, value)
        return loaded

    @classmethod
    def _split(cls, config_dict: dict[str, Any]) -> tuple[dict[str, Any], dict[tuple[str, ...], Any]]:
        """Separate the options of this class from other keys (by path), including those in nested configurations."""
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise CheckpointError(f"This is a configuration of {kind!r}; it must be one of {cls.model_type!r}.")

        known = _names(cls) | _FOREIGN_KEYS
        options, others = {}, {}
        for key, value in config_dict.items():
            spec = cls.sub_configs_defaults.get(key)
            if spec is not None and issubclass(spec.config_class, CheckedConfig) and isinstance(value, dict):
                options[key], inside = spec.config_class._split(value)
                others |= {(key, *path): value for path, value in inside.items()}
            elif key in known:
                options[key] = value
            elif not hasattr(cls, key):
                others[(key,)] = value
        return options, others

    def refuse_unknown(self, kwargs: dict) -> None:
        """Raise ValueError for keyword arguments that are not options."""
        known = _names(self)
        unknown = sorted(key for key in kwargs if key not in _FOREIGN_KEYS and key not in known)
        if unknown:
            allowed = known - _names(PreTrainedConfig)
            if not self.path(""):
                allowed |= {"id2label", "label2id", "num_labels", "problem_type"}
            hints = [f"'{key}'{self._did_you_mean(key, allowed)}" for key in unknown]
            raise ValueError(
                f"{self.path('') or type(self).__name__} has no option {', '.join(hints)}. "
                f"Allowed: {', '.join(sorted(allowed))}."
            )

    def _did_you_mean(self, key: str, allowed: set[str]) -> str:
        """Suggest an option for an unknown one: one of a nested configuration, or the closest name."""
        for path, spec in self.sub_configs_defaults.items():
            name = key.removeprefix(path.removesuffix("config"))  # audio_encoder: that of audio_config
            if name != key and issubclass(spec.config_class, CheckedConfig) and name in _names(spec.config_class):
                return f" (did you mean {path}={{'{name}': ...}}?)"
        close = difflib.get_close_matches(key, allowed, n=1)
        return f" (did you mean '{close[0]}'?)" if close else ""

    def path(self, name: str) -> str:
        """Return the path of a field from the configuration of the model."""
        return name

    def require(self, holds: bool, name: str, allowed: str) -> None:
        """Raise ValueError unless the condition on a field holds."""
        if not holds:
            raise ValueError(
                f"BiBiERConfig: {self.path(name)}={getattr(self, name)!r} is not allowed; it must be {allowed}."
            )

    def check_bounds(self) -> None:
        """Raise ValueError for sizes and rates that no model can have."""
        for name in self.at_least_one.split():
            value = getattr(self, name)
            self.require(value is None or 1 <= value < math.inf, name, "at least 1")
        self.require(self.num_hidden_layers >= 0, "num_hidden_layers", "at least 0")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        self.require(0 < self.mamba_expand <= _MOST_LAYERS, "mamba_expand", f"in (0, {_MOST_LAYERS}]")
        for path, value, limit in _absurd_sizes(self.to_dict()):
            raise ValueError(f"BiBiERConfig: {self.path(path)}={value} is not allowed; it must be at most {limit}.")


def _absurd_sizes(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, int]]:
    """Yield (path, value, limit) for sizes that no model has, in a configuration and the nested ones."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _absurd_sizes(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            if len(value) > _MOST_LAYERS and any(isinstance(step, int) for step in value):
                yield prefix + name, f"[{len(value)} values]", _MOST_LAYERS
        elif isinstance(value, int):
            limit = _MOST_LAYERS if "layers" in name else _LARGEST_SIZE if _COUNTS.search(name) else None
            if limit is not None and value > limit:
                yield prefix + name, value, limit


def check_labels(config: PreTrainedConfig, label2id: dict | None) -> None:
    """Derive `label2id`, and refuse labels that do not name each output once."""
    id2label = config.id2label or {}
    names = [id2label.get(index) for index in range(len(id2label))]
    named = all(label_key(name) for name in names)
    config.require(
        bool(names) and named and len({label_key(name) for name in names}) == len(names),
        "id2label",
        "a distinct name for each of 0, 1, 2, ... (case and surrounding spaces do not count)",
    )
    config.label2id = {str(name): index for index, name in enumerate(names)}
    if label2id and label2id != config.label2id:
        raise ValueError(f"label2id={label2id} contradicts id2label={config.id2label}. Leave label2id out.")


_OF_THE_LABELS = {"class_weights": None, "temperature": 1.0, "thresholds": None, "label_ranges": None}
"""Options that belong to the labels and the problem type -> their defaults."""


def _with_labels(config_dict: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Move the labels and the problem type of `new` to a copy of `config_dict`.

    If they differ from those before, the options that belong to the old ones are reset.
    """
    new_labels = _changed_labels(config_dict, new)
    if new.get("problem_type") not in (None, config_dict.get("problem_type") or "single_label_classification"):
        new_labels["problem_type"] = new.pop("problem_type")
    if not new_labels:
        return config_dict

    if new_labels.keys() & {"id2label", "num_labels"}:
        config_dict = {key: value for key, value in config_dict.items() if key not in ("id2label", "label2id")}
    reset = [key for key, default in _OF_THE_LABELS.items() if config_dict.get(key) not in (None, default)]
    if reset:
        logger.warning(f"The labels are new, so {' and '.join(reset)} of the old ones are reset.")

    kept = {key: value for key, value in config_dict.items() if key not in _OF_THE_LABELS}
    given = {key: new.pop(key) for key in _OF_THE_LABELS if key in new}
    return kept | given | new_labels


def _changed_labels(config_dict: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Remove the labels from `new`; return them if they differ from those of `config_dict`."""
    labels = {key: new.pop(key) for key in ("id2label", "label2id", "num_labels") if new.get(key) is not None}
    before = config_dict.get("id2label")
    if labels.keys() == {"num_labels"} and before is not None and labels["num_labels"] == len(before):
        return {}
    if labels.keys() == {"label2id"}:
        labels["id2label"] = {index: name for name, index in labels["label2id"].items()}

    after = labels.get("id2label")
    if after is None:
        return labels

    count = labels.pop("num_labels", len(after))
    if count != len(after):
        raise CheckpointError(f"num_labels={count} contradicts id2label={after}. Leave num_labels out.")
    return {} if before is not None and _by_index(after) == _by_index(before) else labels


def _by_index(id2label: dict) -> dict[int, str]:
    return {int(index): name for index, name in id2label.items()}


def one_line(error: BaseException, longest: int = 800) -> str:
    """Return the message of an error without line breaks and truncated if it is very long, or else its type."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= longest else f"{message[:longest]} ..."


def _names(config: PreTrainedConfig | type[PreTrainedConfig]) -> set[str]:
    return {field.name for field in fields(config)}


def check_whole(name: str, value: Any, otherwise: str = "") -> None:
    """Raise ValueError unless an option is None or a whole number from 1."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name}={value!r} is not allowed; it must be a whole number from 1{otherwise}.")


def check_switch(name: str, value: Any) -> None:
    """Raise ValueError unless an option is None, True or False."""
    if value is not None and not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}={value!r} is not allowed; it must be True or False.")
