"""One YAML file describes a run; the command line overrides it.

    accelerate launch recipes/train.py recipes/resd.yaml --data_dir PATH --model.dropout 0.2 --corpora.0.fold 1

* The first argument is the file, or the name of one of the package.
* `--key value`, `--key=value`, and `--flag` for a switch. Dots lead into nested values and lists.
* `--data_dir` is short for `--corpora.0.data_dir` when there is one corpus.
* An unknown key and a value of the wrong type are errors that name the key. `1e-4` is a number, in the file too.

Keys are the fields of [`RunArguments`], and those of [`~transformers.TrainingArguments`] beside them on the same
level.
"""

import dataclasses
import functools
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError
from transformers import PreTrainedConfig, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..commandline import (
    Positional,
    Section,
    checked_section,
    field_type,
    load_yaml,
    read_arguments,
    section_help,
    set_key,
    shown,
    unknown_key,
    validated,
)
from ..data.mixture import CorpusArguments, FeatureCacheArguments
from ..data.synthetic import Share
from ..errors import ArgumentError
from ..evaluation.metrics import SELECTION_FORMULA, SELECTION_METRIC
from ..model.configuration_bibier import EMBEDDED, MODALITIES, MODALITY_CONFIGS, BiBiERConfig
from ..run_files import find_run_file
from .optimization import OPTIMIZERS, PLATEAU, SCHEDULERS, scheduler_arguments

RUN_FILE = "run.yaml"

OUTPUT_FIELDS = (
    "output_dir",
    "resume_from_checkpoint",
    "overwrite",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
)
"""Where the result of a run goes, on which it does not depend."""

_SELECTION = f"checkpoints are always selected by the {SELECTION_FORMULA}"

RESERVED = {
    "optim": "use `optimizer`",
    "optim_args": "use `optimizer` with `adam_beta1`, `adam_beta2`, `adam_epsilon`, `weight_decay`",
    "lr_scheduler_type": "use `scheduler`",
    "lr_scheduler_kwargs": "use `scheduler`",
    "metric_for_best_model": _SELECTION,
    "greater_is_better": _SELECTION,
    "label_smoothing_factor": "uniform smoothing is not supported; give soft labels (`corpora.0.labels`) and set "
    "`soft_labels: true`",
    "label_names": "the labels are always called `labels`",
    "remove_unused_columns": "the collator hands the model what it needs",
    "train_sampling_strategy": "use `group_by_length` and `corpus_balanced_sampling`",
    "length_column_name": "use `group_by_length`",
    "batch_eval_metrics": "metrics are computed over a whole corpus",
    "prediction_loss_only": "metrics need the predictions",
    "include_for_metrics": "metrics need the predictions only",
    "do_train": "use `bibier train`",
    "do_eval": "use `bibier evaluate`",
    "do_predict": "use `bibier evaluate`",
    "average_tokens_across_devices": "the loss is always averaged over the samples of the global batch",
    "local_rank": "it is set by the launcher",
    "hub_token": "log in with `hf auth login`, or set HF_TOKEN",
    "hub_strategy": "the finished model is pushed, once (`push_to_hub`, or `bibier push` later)",
    "hub_always_push": "the finished model is pushed, once (`push_to_hub`, or `bibier push` later)",
    "hub_revision": "the finished model is pushed to the main branch",
    **dict.fromkeys(
        ("fsdp", "fsdp_config", "parallelism_config", "accelerator_config"),
        "use a file of `accelerate launch --config_file`, such as those in recipes/accelerate_configs",
    ),
    "deepspeed": "its checkpoints are not those that a run resumes from; use "
    "`accelerate launch --config_file recipes/accelerate_configs/fsdp.yaml`",
    "neftune_noise_alpha": "its noise is for the embeddings of text generators; use `model.dropout` or "
    "`model.mixup_alpha`",
    "use_cache": "it is for text generators",
    "include_num_input_tokens_seen": "it is for text generators",
    "use_liger_kernel": "it has no kernels for these models",
    "liger_kernel_config": "it has no kernels for these models",
    "optim_target_modules": "use `optimizer`, and `frozen` or `lora` to train a part of the model",
    "debug": "its hooks fail on masks; set `logging_nan_inf_filter: false` to see a loss that is not finite",
    "auto_find_batch_size": "a result depends on the batch size; set `per_device_train_batch_size`",
    "eval_do_concat_batches": "metrics are computed over a whole corpus",
    "eval_use_gather_object": "metrics are computed over a whole corpus",
    "bf16_full_eval": "what is scored is what is saved; use `bf16`",
    "fp16_full_eval": "what is scored is what is saved; use `fp16`",
    "dataloader_in_order": "answers are matched with rows by their order",
    "enable_jit_checkpoint": "a run that is killed resumes from its last whole checkpoint anyway; use `save_strategy`",
    "save_on_each_node": "all nodes write into one output folder",
    "ignore_data_skip": "a resumed run reads what the uninterrupted one would have read",
}
"""TrainingArguments that a run does not take, with what to do instead."""

TRAINING_DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 75.0,
    "learning_rate": 1e-4,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    # Without it the patience of early stopping would start anew after a resume.
    "restore_callback_states_from_checkpoint": True,
    "dataloader_pin_memory": False,
}
"""Where a run departs from the defaults of transformers: the published epochs and learning rate, and selection on
dev."""


class LoraArguments(Section):
    """Low-rank adapters in the backbones."""

    backbones: list[Literal[MODALITIES]] = Field(
        list(MODALITIES), min_length=1, description="which backbones get one: audio, text"
    )
    r: int = Field(8, ge=1, description="rank")
    alpha: float = Field(16.0, gt=0, description="scale: the update counts alpha / r times")
    targets: list[str] | Literal["all-linear"] = Field(
        "all-linear",
        description="linear layers that get one, by the end of their names: [q_proj, v_proj, query, value]",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout in front of the adapters")
    save: Literal["merged", "adapter"] = Field(
        "merged", description="in the checkpoint: merged into the backbone, or beside it"
    )


class StagesArguments(Section):
    """Whether encoders and fusion are trained together or, as published, one after the other."""

    plan: Literal["joint", "two_stage"] = Field(
        "joint", description="joint; or two_stage: each encoder by itself, then the fusion"
    )
    logits: Literal["out_of_fold", "in_sample"] = Field(
        "out_of_fold",
        description="unimodal logits of the training set in stage 2: from encoders that had not seen it, or that had",
    )
    folds: int = Field(5, ge=2, description="parts of the training set for out_of_fold")
    audio: dict[str, Any] = Field(
        default_factory=dict, description="keys of the run that differ while the audio encoder is trained"
    )
    text: dict[str, Any] = Field(default_factory=dict, description="likewise for the text encoder")
    fusion: dict[str, Any] = Field(default_factory=dict, description="likewise for the fusion")


STAGES = ("audio", "text", "fusion")


class RunArguments(Section):
    """A run, apart from what goes to [`~transformers.TrainingArguments`] (kept in `training`)."""

    corpora: list[CorpusArguments] = Field(min_length=1, description="corpora that train, dev and test are made of")
    output_dir: str = Field(description="folder of checkpoints, model and results; default outputs/<name of the YAML>")
    audio_backbone: str = Field(
        EMBEDDED, description="Hub id or folder of a speech model, or embedded (trained from scratch)"
    )
    audio_revision: str | None = Field(None, description="its branch, tag or commit on the Hub")
    text_backbone: str = Field(
        EMBEDDED, description="Hub id or folder of a text model, or embedded (trained from scratch)"
    )
    text_revision: str | None = Field(None, description="its branch, tag or commit on the Hub")
    text_prefix: str | None = Field(
        None, description="put before every text; null: what the text backbone was trained with"
    )
    model: dict[str, Any] = Field(default_factory=dict, description="fields of BiBiERConfig, e.g. model.hidden_size")
    frozen: list[str] = Field(
        default_factory=list, description="parameters that stay as they are, by how their names begin"
    )
    backbone_learning_rate: float | None = Field(
        None, gt=0, description="of backbones that are trained; null: learning_rate"
    )
    lora: LoraArguments | None = Field(None, description="train low-rank adapters in the backbones; null: none")
    optimizer: Literal[OPTIMIZERS] = Field("adamw", description="one of " + ", ".join(OPTIMIZERS))
    scheduler: Literal[SCHEDULERS] = Field("none", description="one of " + ", ".join(SCHEDULERS))
    class_weights: Literal["balanced", "sqrt", "none"] | Share = Field(
        "balanced",
        description="weights of the classes in the loss, 1 / count^e: balanced (e = 1), sqrt (0.5), none (0), or e itself",
    )
    corpus_balanced_sampling: bool = Field(True, description="with several corpora: draw as often from each")
    group_by_length: bool = Field(False, description="batches of clips of similar length")
    soft_labels: bool = Field(False, description="train on the soft labels of the rows that have one")
    smoothing_probability: float = Field(
        1.0, ge=0, le=1, description="share of these rows that do, drawn anew in each epoch"
    )
    label_smoothing_mode: Literal["soft", "argmax"] = Field(
        "soft", description="train on the distribution, or on its arg-max as published"
    )
    gold_weight: float | None = Field(
        None, ge=0, le=1, description="mix at least so much of the gold label into soft labels; null: none"
    )
    patience: int | None = Field(
        10, ge=1, description="stop after so many evaluations without a better dev score; null: never"
    )
    refit_on_dev: bool = Field(
        False, description="after selection train anew on train + dev, as long as the selected checkpoint was"
    )
    logit_adjustment: Literal["dev"] | Annotated[float, Field(ge=-1, le=1)] | None = Field(
        None,
        description="after training take so many times the log share of a class off its logits; dev: what is best there; null: nothing",
    )
    calibrate: bool | None = Field(
        None, description="fit the temperature of the pipeline on dev; null: unless model.original_behavior"
    )
    feature_cache: FeatureCacheArguments = Field(default_factory=FeatureCacheArguments)
    stages: StagesArguments = Field(default_factory=StagesArguments)
    keep_freed_memory: bool = Field(
        False, description="keep up to 1 GB that a batch has freed for the next one (glibc): fewer page faults on CPUs"
    )
    resume_from_checkpoint: bool | str = Field(
        False, description="true: go on from the last whole checkpoint; or a checkpoint folder"
    )
    overwrite: bool = Field(False, description="replace what an earlier run left in output_dir")
    push_to_hub: bool = Field(
        False, description="push the finished model to the Hub; the right to is checked before training"
    )
    hub_model_id: str | None = Field(None, description="where: owner/name, made if it is not there")
    hub_private_repo: bool = Field(True, description="false: for all to see")
    training: dict[str, Any] = Field(default_factory=dict)

    def training_arguments(self, **overrides: Any) -> TrainingArguments:
        """The arguments of the Trainer.

        Args:
            overrides: fields that the caller decides.

        Raises:
            ArgumentError: values that transformers refuses.
        """
        fields: dict[str, Any] = {
            "output_dir": self.output_dir,
            "metric_for_best_model": SELECTION_METRIC,
            "greater_is_better": True,
            "remove_unused_columns": False,
            **TRAINING_DEFAULTS,
            **scheduler_arguments(self.scheduler, warmup_given="warmup_steps" in self.training),
            **{_NEW_NAMES.get(name, name): value for name, value in self.training.items()},
            **overrides,
        }
        try:
            args = TrainingArguments(**fields)
        except (ValueError, ImportError) as error:
            raise ArgumentError(f"transformers refuses the training arguments: {error}") from error
        _refuse_unknown_reporting(args.report_to or [])
        return args

    def dump(self) -> dict[str, Any]:
        """The whole run as one flat mapping, ready to be written as YAML and read again."""
        content = self.model_dump(exclude={"training"})
        return content | TRAINING_DEFAULTS | self.training

    def public_dump(self) -> dict[str, Any]:
        """[`dump`] without anything of this machine or its user: no folder of data, cache or output, local backbones
        by their last name."""
        content = self.dump()
        for name in OUTPUT_FIELDS:
            content.pop(name)
        content["feature_cache"].pop("directory")
        for corpus, arguments in zip(content["corpora"], self.corpora, strict=True):
            corpus.pop("data_dir")
            hide_folder(corpus["augmentation"]["synthetic"] or {}, "path")
            hide_folder(corpus["augmentation"]["sds"] or {}, "asr_model")
            names = [Path(table).name for table in arguments.label_tables]
            corpus["labels"] = names if isinstance(arguments.labels, list) else names[0] if names else None
        for name in ("audio_backbone", "text_backbone"):
            hide_folder(content, name)
        return content

    def to_yaml(self) -> str:
        """[`dump`] as YAML."""
        return yaml.safe_dump(self.dump(), sort_keys=False, allow_unicode=True)


def hide_folder(content: dict[str, Any], name: str) -> None:
    """Leave only the last name of a folder of this machine; anything else, such as a Hub id, stays."""
    if content.get(name) and os.path.isdir(content[name]):
        content[name] = Path(content[name]).resolve().name


OWN_FIELDS = tuple(name for name in RunArguments.model_fields if name != "training")
TRAINING_FIELDS = {
    field.name: field
    for field in dataclasses.fields(TrainingArguments)
    if field.init and field.name not in (*RESERVED, *OWN_FIELDS)
}
_TRAINING_FIELD_TYPES = {
    name: annotation
    for name, annotation in typing.get_type_hints(TrainingArguments).items()
    if name in TRAINING_FIELDS
}
_NEW_NAMES = {
    name: new
    for name in TRAINING_FIELDS
    if (new := name.replace("gradient_checkpointing", "activation_checkpointing")) in TRAINING_FIELDS
}
"""transformers has renamed some arguments, and warns of the old names, which everybody knows."""

_AT_LEAST_ONE = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
_ABOVE_ZERO = ("num_train_epochs", "learning_rate", "adam_epsilon", "eval_steps", "save_steps", "logging_steps")
_NOT_NEGATIVE = (
    *("warmup_steps", "weight_decay", "max_grad_norm", "eval_delay", "seed", "data_seed", "dataloader_num_workers"),
)
_OF_WORKERS = ("dataloader_persistent_workers", "dataloader_multiprocessing_context", "dataloader_prefetch_factor")
_FITTED = {
    "class_weights": "computed from the training set; choose how by `class_weights`",
    "temperature": "fitted on dev; choose whether by `calibrate`",
}
_FROM_BACKBONES = frozenset("backbone backbone_id backbone_revision backbone_stored adapter_stored".split())
"""Fields of a modality that follow from `audio_backbone` and `text_backbone`, or that saving writes."""


def _options(config: type[PreTrainedConfig]) -> dict[str, Any]:
    """Own options of a configuration and their defaults."""
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return {field.name: field.default for field in dataclasses.fields(config) if field.name not in inherited}


MODEL_FIELDS = {name: default for name, default in _options(BiBiERConfig).items() if name not in _FITTED}
for _modality, _config in MODALITY_CONFIGS.items():
    del MODEL_FIELDS[f"{_modality}_config"]
    MODEL_FIELDS |= {
        f"{_modality}_config.{name}": default
        for name, default in _options(_config).items()
        if name not in _FROM_BACKBONES
    }
"""Keys under `model`, dots inside, and their defaults."""


class RunFile(Section):
    """A run file, and dotted keys that override it."""

    run_file: Annotated[str | None, Positional("RUN")] = Field(
        None, description="run file (YAML): its path, or the name of one of the package, such as resd"
    )
    overrides: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def from_command_line(cls, arguments: Sequence[str]) -> Self:
        given = read_arguments(arguments, cls)
        own = {key: given.pop(key) for key in list(given) if key in cls.model_fields}
        return checked_section(cls, own | {"overrides": given})

    @classmethod
    def key_type(cls, key: str) -> Any:
        if key == "data_dir":
            return str
        return field_type(key, cls) or _TRAINING_FIELD_TYPES.get(key) or field_type(key, RunArguments)

    @classmethod
    def option_help(cls) -> list[str]:
        return [*section_help(cls), *run_help()]

    @functools.cached_property
    def run(self) -> "RunArguments":
        """The run that results."""
        return read_run(self.run_file, self.overrides)


def read_run(file: str | Path | None, overrides: Mapping[str, Any] = MappingProxyType({})) -> RunArguments:
    """Read a run file.

    Args:
        file: path, or the name of a run file of the package; None: the overrides are the whole run, which has no output.
        overrides: dotted keys and their values.

    Raises:
        ArgumentError: no such file, an unknown key, a value of the wrong type, or a contradiction.
    """
    content: dict[str, Any] = {"output_dir": ""}
    if file is not None:
        path = find_run_file(file)
        content = {"output_dir": f"outputs/{path.stem}"} | load_yaml(path)
    for key, value in overrides.items():
        set_key(content, key, value)

    return run_arguments(content)


def parse_run_arguments(arguments: Sequence[str]) -> RunArguments:
    """Read the run of a command line: `RUN [--key value] ...`.

    Raises:
        ArgumentError: see [`read_run`].
    """
    return RunFile.from_command_line(arguments).run


def expand_data_dir(content: dict[str, Any]) -> dict[str, Any]:
    """Move a `data_dir` on the top level, which is short for that of the only corpus."""
    if "data_dir" not in content:
        return content

    corpora = content.get("corpora")
    if not isinstance(corpora, list) or len(corpora) != 1 or not isinstance(corpora[0], dict):
        raise ArgumentError(
            "data_dir: short for the data_dir of the only corpus. With several corpora give --corpora.0.data_dir etc."
        )
    rest = {key: value for key, value in content.items() if key != "data_dir"}
    return rest | {"corpora": [corpora[0] | {"data_dir": content["data_dir"]}]}


def run_arguments(content: dict[str, Any]) -> RunArguments:
    """Check a mapping of keys to values, as a run file holds it.

    Raises:
        ArgumentError: an unknown key, a value of the wrong type, or a contradiction.
    """
    content = expand_data_dir(content)
    for key in content:
        if key in RESERVED:
            raise ArgumentError(f"{key}: not an option of a run; {RESERVED[key]}.")
        if key not in OWN_FIELDS and key not in TRAINING_FIELDS:
            raise ArgumentError(unknown_key(key, [*OWN_FIELDS, *TRAINING_FIELDS, "data_dir"]))
    if isinstance(content.get("model"), dict):
        for key in _dotted(content["model"]):
            if key in _FITTED:
                raise ArgumentError(f"model.{key}: {_FITTED[key]}.")
            if key not in MODEL_FIELDS:
                raise ArgumentError(unknown_key(key, MODEL_FIELDS, "model."))
    training = {key: _checked_training(key, value) for key, value in content.items() if key in TRAINING_FIELDS}
    own = {key: value for key, value in content.items() if key in OWN_FIELDS}
    run = checked_section(RunArguments, own | {"training": training})
    _refuse_contradictions(run)
    return run


def _dotted(model: dict[str, Any]) -> Iterator[str]:
    """The keys of `model`, those of its modalities with a dot."""
    for key, value in model.items():
        if key.removesuffix("_config") in MODALITIES and isinstance(value, dict):
            yield from (f"{key}.{name}" for name in value)
        else:
            yield key


# Data, model and output are those of the whole run.
_SHARED_BY_STAGES = frozenset(
    """
    corpora data_dir output_dir audio_backbone audio_revision text_backbone text_revision text_prefix model calibrate
    logit_adjustment feature_cache refit_on_dev stages resume_from_checkpoint overwrite push_to_hub hub_model_id hub_private_repo
    """.split()
)


def stage_run(run: RunArguments, stage: str, output_dir: str | Path) -> RunArguments:
    """The arguments of one stage of a run: those of the run with the stage's own keys in their place.

    Args:
        run: with `stages`.
        stage: one of `STAGES`.
        output_dir: folder of the stage.

    Raises:
        ArgumentError: a key that a stage cannot change, or that is unknown or wrong.
    """
    own = getattr(run.stages, stage)
    if shared := sorted(_SHARED_BY_STAGES & own.keys()):
        raise ArgumentError(f"stages.{stage}.{shared[0]}: holds for the whole run; give it on the upper level.")
    content = run.dump() | own | {"output_dir": str(output_dir), "resume_from_checkpoint": False, "overwrite": False}
    content.pop("stages")
    try:
        return run_arguments(content)
    except ArgumentError as error:
        raise ArgumentError(f"stages.{stage}: {error}") from error


def _refuse_values(training: Mapping[str, Any]) -> None:
    """What the Trainer takes without a word, and then fails on."""
    for names, fits, allowed in (
        (_AT_LEAST_ONE, lambda value: value >= 1, "at least 1"),
        (_ABOVE_ZERO, lambda value: value > 0, "above 0"),
        (_NOT_NEGATIVE, lambda value: value >= 0, "at least 0"),
        (("adam_beta1", "adam_beta2"), lambda value: 0 <= value < 1, "from 0 to below 1"),
        (("max_steps",), lambda value: value == -1 or value >= 1, "at least 1, or -1 for num_train_epochs"),
    ):
        for name in names:
            if training.get(name) is not None and not fits(training[name]):
                raise ArgumentError(f"{name}: {training[name]} is not allowed; it must be {allowed}.")
    for name in _OF_WORKERS:
        if training.get(name) and not training.get("dataloader_num_workers"):
            raise ArgumentError(f"{name}: needs worker processes. Set dataloader_num_workers, or leave it out.")
    for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        if isinstance(training.get(name), dict) and training[name].get("use_reentrant"):
            raise ArgumentError(
                f"{name}: use_reentrant loses the gradient of layers behind frozen ones. Set it to false, or leave it "
                "out."
            )
    if training.get("ddp_backend") and "RANK" not in os.environ:
        raise ArgumentError(
            "ddp_backend: is for several processes, started by `accelerate launch` or `torchrun`. Leave it out."
        )


def _refuse_unknown_reporting(names: Sequence[str]) -> None:
    """Each of them brings its own traceback in the middle of a run."""
    there = get_available_reporting_integrations()
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ArgumentError(
                f"report_to: {name!r} is unknown. Allowed: none, {', '.join(INTEGRATION_TO_CALLBACK)}."
            )
        if name not in there:
            raise ArgumentError(
                f"report_to: {name} is not installed. Install it (pip install {name}), or leave it out."
            )


def _refuse_contradictions(run: RunArguments) -> None:
    training = TRAINING_DEFAULTS | run.training
    _refuse_values(training)
    if training["eval_strategy"] == "no":
        raise ArgumentError("eval_strategy: 'no' leaves nothing to select a checkpoint by. Use epoch or steps.")
    if not training["load_best_model_at_end"]:
        raise ArgumentError("load_best_model_at_end: the checkpoint is selected on dev, so it must be true.")
    if training["save_strategy"] not in ("best", training["eval_strategy"]):
        raise ArgumentError(f"save_strategy: must equal eval_strategy ({training['eval_strategy']}), or be best.")
    if training["save_strategy"] == "best" and run.resume_from_checkpoint:
        raise ArgumentError(
            "save_strategy: with 'best' the state after the last epoch is not kept, so the run cannot be resumed "
            "exactly."
        )
    if training.get("save_only_model") and run.resume_from_checkpoint:
        raise ArgumentError(
            "save_only_model: the state of the optimizer is not kept, so the run cannot be resumed. Leave out one of "
            "them."
        )
    for modality in run.lora.backbones if run.lora else ():
        if getattr(run, f"{modality}_backbone") == EMBEDDED:
            raise ArgumentError(
                f"lora.backbones: the embedded {modality} backbone is trained from scratch; LoRA adapts a pretrained "
                f"one. Name one with {modality}_backbone, or leave '{modality}' out."
            )
    if run.refit_on_dev and run.scheduler == PLATEAU:
        raise ArgumentError(
            "refit_on_dev: the schedule 'plateau' needs a dev set, which a refit has not. Choose another scheduler."
        )
    if run.stages.plan == "two_stage":
        _refuse_stages(run)
    if not run.soft_labels and any(corpus.labels for corpus in run.corpora):
        raise ArgumentError(
            "corpora: `labels` is given, but soft_labels is false. Set it to true, or leave `labels` out."
        )
    for number, corpus in enumerate(run.corpora):
        sds = corpus.augmentation.sds
        if sds is None or not sds.share:
            continue
        if sds.draws != 1 and run.stages.plan == "two_stage":
            raise ArgumentError(
                f"corpora.{number}.augmentation.sds.draws: two stages hand one set of logits from the first to the "
                "second. Set it to 1."
            )
        if sds.draws == "every_epoch":
            key = f"corpora.{number}.augmentation.sds"
            if run.feature_cache.enabled:
                raise ArgumentError(
                    f"{key}.draws: every_epoch stacks audio anew, so nothing can be computed ahead. "
                    "Set feature_cache.enabled to false, or give a number of draws."
                )
            if sds.text == "asr":
                raise ArgumentError(
                    f"{key}.text: asr would transcribe anew in every epoch. Use concat, or give a number of draws."
                )
    if run.push_to_hub and run.hub_model_id is None:
        raise ArgumentError("hub_model_id: is missing. Say where to push to: --hub_model_id OWNER/NAME.")
    if run.overwrite and run.resume_from_checkpoint:
        raise ArgumentError(
            "overwrite, resume_from_checkpoint: the one starts anew, the other goes on. Give one of them."
        )


def _refuse_stages(run: RunArguments) -> None:
    if not run.feature_cache.enabled:
        raise ArgumentError(
            "stages.plan: two stages read stored features. Leave feature_cache.enabled out, or train jointly."
        )
    if run.lora:
        raise ArgumentError(
            "lora: not with two stages, whose encoders are trained on their own. Train jointly, or leave it out."
        )
    if run.refit_on_dev:
        raise ArgumentError(
            "refit_on_dev: not with two stages, whose encoders have been selected on dev. Train jointly, or leave it "
            "out."
        )
    if len(run.model.get("modalities") or MODALITIES) != len(MODALITIES):
        raise ArgumentError(
            "stages.plan: two stages need both modalities (model.modalities). Train a model of one modality jointly."
        )
    for modality in MODALITIES:
        if run.model.get(f"{modality}_config", {}).get("encoder") == "none":
            raise ArgumentError(
                f"stages.plan: there is no {modality} encoder to train first (model.{modality}_config.encoder: none)."
            )
    for stage in STAGES:
        stage_run(run, stage, run.output_dir)


def _checked_training(key: str, value: Any) -> Any:
    try:
        return validated(_TRAINING_FIELD_TYPES[key], value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ArgumentError(f"{key}: {problem['msg']}, got {value!r} ({type(value).__name__}).") from error


def run_help() -> list[str]:
    """`--key [default]: meaning` of every key of a run."""
    lines = ["", "Run:", "  --data_dir: short for --corpora.0.data_dir when there is one corpus"]
    lines += section_help(RunArguments)

    lines += ["", "Model (BiBiERConfig; some defaults follow from the backbones):"]
    lines += [f"  --model.{name} [{shown(default)}]" for name, default in MODEL_FIELDS.items()]

    lines += ["", "Training (transformers.TrainingArguments):"]
    for name, field in TRAINING_FIELDS.items():
        default = TRAINING_DEFAULTS.get(name, None if field.default is dataclasses.MISSING else field.default)
        text = " ".join(str(field.metadata.get("help", "")).split())
        lines.append(f"  --{name} [{shown(default)}]: {text}")
    return lines
