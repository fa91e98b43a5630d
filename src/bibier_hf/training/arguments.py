"""The arguments of a run: a YAML file, overridden by the command line.

    accelerate launch recipes/train.py recipes/resd.yaml --data_dir PATH --model.dropout 0.2 --corpora.0.fold 1

* The first argument is the file, or the name of one of the package.
* `--key value`, `--key=value`, and `--flag` for a switch. Dots lead into nested values and lists.
* `--data_dir` is short for `--corpora.0.data_dir` when there is one corpus.
* An unknown key or a value of the wrong type is an error that names the key. `1e-4` is a number, also in the file.

Keys are the fields of [`RunArguments`] and, on the same level, those of [`~transformers.TrainingArguments`].
"""

import copy
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
from ..data.disturbances import CONDITIONS_HELP, Conditions, DisturbanceSection
from ..data.mixture import LABELS_HELP, PROBLEM_TYPE_HELP, CorpusArguments, FeatureCacheArguments
from ..data.schema import least_labels
from ..data.synthetic import Share
from ..errors import ArgumentError
from ..evaluation.metrics import SELECTION_METRIC
from ..evaluation.problems import PROBLEMS
from ..evaluation.unsure import UnsureSection
from ..labels import LabelSetError, checked_labels
from ..model.configuration_bibier import (
    EMBEDDED,
    MODALITIES,
    MODALITY_CONFIGS,
    PROBLEM_TYPES,
    REGRESSION,
    SINGLE_LABEL,
    BiBiERConfig,
)
from ..run_files import find_run_file
from .optimization import OPTIMIZERS, PLATEAU, SCHEDULERS, scheduler_arguments

RUN_FILE = "run.yaml"
STAGES_FOLDER = "stages"

OUTPUT_FIELDS = tuple("output_dir resume_from_checkpoint overwrite push_to_hub hub_model_id hub_private_repo".split())
"""Where results go. The results themselves do not depend on these."""

_SELECTION = "checkpoints are always selected by " + "; ".join(
    f"the {problem.formula} ({problem.name})" for problem in PROBLEMS.values()
)

RESERVED = {
    "optim": "use `optimizer`",
    "optim_args": "use `optimizer` with `adam_beta1`, `adam_beta2`, `adam_epsilon`, `weight_decay`",
    "lr_scheduler_type": "use `scheduler`",
    "lr_scheduler_kwargs": "use `scheduler`",
    "metric_for_best_model": _SELECTION,
    "greater_is_better": _SELECTION,
    "label_smoothing_factor": "uniform smoothing is not supported; give soft labels (`corpora.0.label_table`) and set "
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
    "enable_jit_checkpoint": "a killed run resumes from its last complete checkpoint anyway; use `save_strategy`",
    "save_on_each_node": "all nodes write into one output folder",
    "ignore_data_skip": "a resumed run reads what an uninterrupted one would have read",
}
"""TrainingArguments that a run does not accept, and what to do instead."""

TRAINING_DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 75.0,
    "learning_rate": 1e-4,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    # Without it, a resume would reset the patience of early stopping.
    "restore_callback_states_from_checkpoint": True,
    "dataloader_pin_memory": False,
}
"""Defaults that differ from those of transformers: the published epochs and learning rate, and selection on dev."""


class LoraArguments(Section):
    """Low-rank adapters in the backbones."""

    backbones: list[Literal[MODALITIES]] = Field(
        list(MODALITIES), min_length=1, description="backbones that get adapters: audio, text"
    )
    r: int = Field(8, ge=1, description="rank")
    alpha: float = Field(16.0, gt=0, description="scale: the update is multiplied by alpha / r")
    targets: list[str] | Literal["all-linear"] = Field(
        "all-linear",
        description="linear layers that get adapters, by the end of their names: [q_proj, v_proj, query, value]",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the adapters")
    save: Literal["merged", "adapter"] = Field(
        "merged", description="in the checkpoint: merged into the backbone, or as a separate adapter"
    )


class StagesArguments(Section):
    """Train encoders and fusion together or, as published, one after the other."""

    plan: Literal["joint", "two_stage"] = Field(
        "joint", description="joint, or two_stage: each encoder alone, then the fusion"
    )
    logits: Literal["out_of_fold", "in_sample"] = Field(
        "out_of_fold",
        description="unimodal logits of the training set in stage 2: from encoders that have not seen the sample, or from those that have",
    )
    folds: int = Field(5, ge=2, description="number of parts of the training set for out_of_fold")
    audio: dict[str, Any] = Field(
        default_factory=dict, description="run keys that differ while the audio encoder is trained"
    )
    text: dict[str, Any] = Field(default_factory=dict, description="the same for the text encoder")
    fusion: dict[str, Any] = Field(default_factory=dict, description="the same for the fusion")


STAGES = ("audio", "text", "fusion")


class RunArguments(Section):
    """A run. What goes to [`~transformers.TrainingArguments`] is kept in `training`."""

    corpora: list[CorpusArguments] = Field(min_length=1, description="corpora to train, select and test on")
    labels: list[str] | None = Field(None, description=LABELS_HELP)
    problem_type: Literal[PROBLEM_TYPES] = Field(SINGLE_LABEL, description=PROBLEM_TYPE_HELP)
    output_dir: str = Field(
        description="folder for checkpoints, model and results; default outputs/<name of the YAML>"
    )
    audio_backbone: str = Field(
        EMBEDDED, description="Hub id or folder of a speech model, or embedded (trained from scratch)"
    )
    audio_revision: str | None = Field(None, description="its branch, tag or commit on the Hub")
    text_backbone: str = Field(
        EMBEDDED, description="Hub id or folder of a text model, or embedded (trained from scratch)"
    )
    text_revision: str | None = Field(None, description="its branch, tag or commit on the Hub")
    text_prefix: str | None = Field(
        None, description="prefix of every text; null: the one that the text backbone was trained with"
    )
    init_from: str | None = Field(
        None, description="trained checkpoint to start from, with its backbones and options: folder or Hub id"
    )
    model: dict[str, Any] = Field(default_factory=dict, description="fields of BiBiERConfig, e.g. model.hidden_size")
    frozen: list[str] = Field(
        default_factory=list, description="parameters that are not trained, by the beginning of their names"
    )
    backbone_learning_rate: float | None = Field(
        None, gt=0, description="learning rate of trained backbones; null: learning_rate"
    )
    lora: LoraArguments | None = Field(None, description="low-rank adapters in the backbones; null: none")
    optimizer: Literal[OPTIMIZERS] = Field("adamw", description="one of " + ", ".join(OPTIMIZERS))
    scheduler: Literal[SCHEDULERS] = Field("none", description="one of " + ", ".join(SCHEDULERS))
    class_weights: Literal["balanced", "sqrt", "none"] | Share = Field(
        default_factory=lambda given: (
            "balanced" if given.get("problem_type", SINGLE_LABEL) == SINGLE_LABEL else "none"
        ),
        description="class weights in the loss, 1 / count^e: balanced (e = 1, the default), sqrt (0.5), none (0), or e "
        "itself; none with another problem_type",
    )
    corpus_balanced_sampling: bool = Field(True, description="draw equally often from each of several corpora")
    group_by_length: bool = Field(False, description="batches of clips of similar length")
    soft_labels: bool = Field(False, description="train on soft labels, in rows that have one")
    smoothing_probability: float = Field(
        1.0, ge=0, le=1, description="share of these rows that use their soft label, drawn again in each epoch"
    )
    label_smoothing_mode: Literal["soft", "argmax"] = Field(
        "soft", description="train on the distribution or, as published, on its arg-max"
    )
    gold_weight: float | None = Field(
        None, ge=0, le=1, description="minimum weight of the gold label in soft labels; null: none"
    )
    patience: int | None = Field(
        10, ge=1, description="stop after this many evaluations without a better dev score; null: never"
    )
    refit_on_dev: bool = Field(
        False, description="after selection, train a new model on train + dev for the selected number of epochs"
    )
    refit_on_test: list[str] = Field(
        [],
        description="corpora whose test rows the refit learns from, too, for a model to give away; test is then scored before the refit",
    )
    logit_adjustment: Literal["dev"] | Annotated[float, Field(ge=-1, le=1)] | None = Field(
        None,
        description="after training, subtract this many times the log prior from the logits; dev: choose on dev; null: off",
    )
    calibrate: bool | None = Field(
        None, description="fit the temperature of the pipeline on dev; null: yes, unless model.original_behavior"
    )
    disturbances: DisturbanceSection | None = Field(
        None, description="random noise, rooms, levels and codecs on the training clips; null: none"
    )
    unsure: UnsureSection | None = Field(
        None,
        description="after training, fit when answers are unsure ({}: with the defaults); null: nothing is fitted",
    )
    conditions: Conditions = Field([], description=CONDITIONS_HELP)
    feature_cache: FeatureCacheArguments = Field(default_factory=FeatureCacheArguments)
    stages: StagesArguments = Field(default_factory=StagesArguments)
    keep_freed_memory: bool = Field(
        False, description="keep up to 1 GB that a batch has freed for the next one (glibc): fewer page faults on CPUs"
    )
    resume_from_checkpoint: bool | str = Field(
        False, description="true: continue from the last complete checkpoint; or the folder of a checkpoint"
    )
    overwrite: bool = Field(False, description="replace the results of an earlier run in output_dir")
    push_to_hub: bool = Field(
        False, description="push the finished model to the Hub; permission is checked before training"
    )
    hub_model_id: str | None = Field(None, description="owner/name on the Hub, created if needed")
    hub_private_repo: bool = Field(True, description="false: public")
    training: dict[str, Any] = Field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Seed of the initial weights and of every draw."""
        return self.training.get("seed", TRAINING_FIELDS["seed"].default)

    @functools.cached_property
    def stage_runs(self) -> dict[str, "RunArguments"]:
        """stage -> its arguments: those of the run, overridden by the keys of the stage.

        Raises:
            ArgumentError: a key that a stage cannot change, or an unknown key or wrong value.
        """
        folder = Path(self.output_dir)
        folders = {
            "audio": folder / STAGES_FOLDER / "audio",
            "text": folder / STAGES_FOLDER / "text",
            "fusion": folder,
        }
        return {stage: _stage_run(self, stage, str(folders[stage])) for stage in STAGES}

    def training_arguments(self, **overrides: Any) -> TrainingArguments:
        """Return the arguments of the Trainer.

        Args:
            overrides: fields set by the caller.

        Raises:
            ArgumentError: transformers refuses a value.
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
        """Return the run as a mapping that [`run_arguments`] reads."""
        content = self.model_dump(exclude={"training"})
        return content | TRAINING_DEFAULTS | self.training

    def public_dump(self) -> dict[str, Any]:
        """[`dump`] without paths of this machine: no data, cache or output folder, and only the last name of local
        backbones."""
        content = self.dump()
        for name in OUTPUT_FIELDS:
            content.pop(name)
        content["feature_cache"].pop("directory")
        for corpus, arguments in zip(content["corpora"], self.corpora, strict=True):
            corpus.pop("data_dir")
            hide_folder(corpus["augmentation"]["synthetic"] or {}, "path")
            hide_folder(corpus["augmentation"]["sds"] or {}, "asr_model")
            if isinstance(arguments.label_map, str) and os.path.isfile(arguments.label_map):
                corpus["label_map"] = Path(arguments.label_map).name
            names = [Path(table).name for table in arguments.label_tables]
            corpus["label_table"] = names if isinstance(arguments.label_table, list) else names[0] if names else None
        for name in ("audio_backbone", "text_backbone", "init_from"):
            hide_folder(content, name)
        return content

    def to_yaml(self) -> str:
        """[`dump`] as YAML."""
        return yaml.safe_dump(self.dump(), sort_keys=False, allow_unicode=True)


def hide_folder(content: dict[str, Any], name: str) -> None:
    """Keep only the last name of a local folder. Anything else, such as a Hub id, stays."""
    if content.get(name) and os.path.isdir(content[name]):
        content[name] = Path(content[name]).resolve().name


OWN_FIELDS = tuple(name for name in RunArguments.model_fields if name != "training")
TRAINING_FIELDS = {
    field.name: field
    for field in dataclasses.fields(TrainingArguments)
    if field.init and field.name not in (*RESERVED, *OWN_FIELDS)
}
_BOUNDED = (
    (Field(ge=1), "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps"),
    (Field(gt=0), "num_train_epochs learning_rate adam_epsilon eval_steps save_steps logging_steps"),
    (Field(ge=0), "warmup_steps weight_decay max_grad_norm eval_delay seed data_seed dataloader_num_workers"),
    (Field(ge=0, lt=1), "adam_beta1 adam_beta2"),
)
_BOUNDS: dict[str, Any] = {name: bound for bound, names in _BOUNDED for name in names.split()}
"""Values that the Trainer takes without a word, and fails on later."""

_TRAINING_FIELD_TYPES = {
    name: Annotated[annotation, _BOUNDS[name]] if name in _BOUNDS else annotation
    for name, annotation in typing.get_type_hints(TrainingArguments).items()
    if name in TRAINING_FIELDS
}
_NEW_NAMES = {
    name: new
    for name in TRAINING_FIELDS
    if (new := name.replace("gradient_checkpointing", "activation_checkpointing")) in TRAINING_FIELDS
}
"""Old names of arguments that transformers renamed: still accepted here, without a warning."""

_OF_WORKERS = ("dataloader_persistent_workers", "dataloader_multiprocessing_context", "dataloader_prefetch_factor")
_FITTED = {
    "class_weights": "computed from the training set; choose how by `class_weights`",
    "temperature": "fitted on dev; choose whether by `calibrate`",
    "least_confidence": "fitted on dev; choose how by `unsure`",
    "thresholds": "fitted on dev",
    "label_ranges": "those of the training rows",
}
_FROM_BACKBONES = frozenset(
    "backbone backbone_id backbone_revision backbone_stored adapter_stored speech_check".split()
)
"""Fields of a modality that are set from `audio_backbone` and `text_backbone`, or when saving."""


def _options(config: type[PreTrainedConfig]) -> dict[str, Any]:
    """Return the options that a configuration adds, with their defaults."""
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
"""Dotted keys under `model`, and their defaults."""


class RunFile(Section):
    """A run file, and dotted keys that override it."""

    run_file: Annotated[str | None, Positional("RUN")] = Field(
        None, description="run file (YAML): its path, or the name of one that comes with the package, such as resd"
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
        set_key(content, key, copy.deepcopy(value))  # later keys may lead into it

    return run_arguments(content)


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
    """Check the content of a run file.

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
    if run.stages.plan == "two_stage":
        _ = run.stage_runs  # whose arguments are checked here, too
    return run


def _dotted(model: dict[str, Any]) -> Iterator[str]:
    """Return the keys of `model`, with a dot for those of its modalities."""
    for key, value in model.items():
        if key.removesuffix("_config") in MODALITIES and isinstance(value, dict):
            yield from (f"{key}.{name}" for name in value)
        else:
            yield key


# Stages cannot change data, model or output.
_SHARED_BY_STAGES = frozenset(
    """
    corpora labels problem_type data_dir output_dir audio_backbone audio_revision text_backbone text_revision text_prefix init_from model calibrate
    unsure logit_adjustment disturbances conditions feature_cache refit_on_dev refit_on_test stages resume_from_checkpoint overwrite push_to_hub hub_model_id hub_private_repo
    """.split()
)


def _stage_run(run: RunArguments, stage: str, output_dir: str) -> RunArguments:
    own = getattr(run.stages, stage)
    if shared := sorted(_SHARED_BY_STAGES & own.keys()):
        raise ArgumentError(f"stages.{stage}.{shared[0]}: applies to the whole run; give it on the top level.")
    content = run.dump() | own | {"output_dir": output_dir, "resume_from_checkpoint": False, "overwrite": False}
    content.pop("stages")
    try:
        return run_arguments(content)
    except ArgumentError as error:
        raise ArgumentError(f"stages.{stage}: {error}") from error


def _refuse_unknown_reporting(names: Sequence[str]) -> None:
    """Refuse integrations that would fail in the middle of a run."""
    available = get_available_reporting_integrations()
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ArgumentError(
                f"report_to: {name!r} is unknown. Allowed: none, {', '.join(INTEGRATION_TO_CALLBACK)}."
            )
        if name not in available:
            raise ArgumentError(
                f"report_to: {name} is not installed. Install it (pip install {name}), or leave it out."
            )


def _refuse_contradictions(run: RunArguments) -> None:
    """Refuse values that exclude each other, before anything is computed."""
    problems = [*_trainer_problems(run), *_run_problems(run), *_target_problems(run), *_draw_problems(run)]
    if run.stages.plan == "two_stage":
        problems += _stage_problems(run)
    if problems:
        raise ArgumentError("\n".join(problems))


def _trainer_problems(run: RunArguments) -> Iterator[str]:
    training = TRAINING_DEFAULTS | run.training
    if training.get("max_steps", -1) != -1 and training["max_steps"] < 1:
        yield f"max_steps: {training['max_steps']} is not allowed; it must be at least 1, or -1 for num_train_epochs."
    if training["eval_strategy"] == "no":
        yield "eval_strategy: 'no' leaves nothing to select a checkpoint by. Use epoch or steps."
    if not training["load_best_model_at_end"]:
        yield "load_best_model_at_end: the checkpoint is selected on dev, so it must be true."
    if training["save_strategy"] not in ("best", training["eval_strategy"]):
        yield f"save_strategy: must equal eval_strategy ({training['eval_strategy']}), or be best."
    if run.resume_from_checkpoint and training["save_strategy"] == "best":
        yield "save_strategy: 'best' does not keep the state after the last epoch, so the run cannot be resumed exactly."
    if run.resume_from_checkpoint and training.get("save_only_model"):
        yield "save_only_model: drops the state of the optimizer, so the run cannot be resumed. Leave out one of them."
    for name in _OF_WORKERS:
        if training.get(name) and not training.get("dataloader_num_workers"):
            yield f"{name}: needs worker processes. Set dataloader_num_workers, or leave it out."
    for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        if (training.get(name) or {}).get("use_reentrant"):
            yield f"{name}: use_reentrant loses the gradient of layers behind frozen ones. Set it to false."
    if training.get("ddp_backend") and "RANK" not in os.environ:
        yield "ddp_backend: is for several processes, started by `accelerate launch` or `torchrun`. Leave it out."


def _run_problems(run: RunArguments) -> Iterator[str]:
    try:
        checked_labels(run.labels, least_labels(run.problem_type))
    except LabelSetError as error:
        yield str(error)
    for modality in MODALITIES if run.init_from else ():
        if getattr(run, f"{modality}_backbone") != EMBEDDED:
            yield f"{modality}_backbone: init_from brings its own backbones. Leave out one of them."
    for modality in run.lora.backbones if run.lora and not run.init_from else ():
        if getattr(run, f"{modality}_backbone") == EMBEDDED:
            yield (
                f"lora.backbones: the embedded {modality} backbone is trained from scratch; LoRA adapts a pretrained "
                f"one. Name one with {modality}_backbone, or leave '{modality}' out."
            )
    if run.refit_on_dev and run.scheduler == PLATEAU:
        yield "refit_on_dev: the scheduler 'plateau' needs a dev set, and a refit has none. Choose another one."
    if run.refit_on_test and not run.refit_on_dev:
        yield "refit_on_test: without refit_on_dev, nothing is trained again. Add refit_on_dev: true."
    if run.refit_on_test and run.conditions:
        yield "conditions: not with refit_on_test, as the final model knows these rows. Score a run without the refit."
    if not run.soft_labels and any(corpus.label_table for corpus in run.corpora):
        yield "corpora: `label_table` is given, but soft_labels is false. Set it to true, or leave `label_table` out."
    for name in ("disturbances", "conditions"):
        if getattr(run, name) and "audio" not in (run.model.get("modalities") or MODALITIES):
            yield f"{name}: are for audio, and the model reads only text. Leave them out."
    if run.push_to_hub and run.hub_model_id is None:
        yield "hub_model_id: is missing. Say where to push to: --hub_model_id OWNER/NAME."
    if run.overwrite and run.resume_from_checkpoint:
        yield "overwrite, resume_from_checkpoint: one starts over, the other continues. Give one of them."


def _target_problems(run: RunArguments) -> Iterator[str]:
    """What is for one label in each clip."""
    kind = run.problem_type
    if kind == SINGLE_LABEL:
        return

    if kind == REGRESSION and run.labels is None:
        yield "labels: a regression has no default. Name the targets, such as labels: [valence, arousal]."
    if kind == REGRESSION and run.calibrate:
        yield "calibrate: values of a regression have no temperature. Leave it out."
    given = {
        "class_weights": run.class_weights not in ("none", 0),
        "soft_labels": run.soft_labels,
        "logit_adjustment": run.logit_adjustment is not None,
        "conditions": bool(run.conditions),
    }
    for number, corpus in enumerate(run.corpora):
        key, augmentation = f"corpora.{number}.augmentation", corpus.augmentation
        given[f"{key}.sds"] = augmentation.sds is not None and augmentation.sds.share > 0
        given[f"{key}.synthetic"] = augmentation.synthetic is not None
    for key, wanted in given.items():
        if wanted:
            yield f"{key}: needs one label for each clip, but problem_type is {kind}. Leave it out."


def _draw_problems(run: RunArguments) -> Iterator[str]:
    for number, corpus in enumerate(run.corpora):
        key, sds = f"corpora.{number}.augmentation.sds", corpus.augmentation.sds
        if sds is None or not sds.share or sds.draws == 1:
            continue
        if run.stages.plan == "two_stage":
            yield f"{key}.draws: stage 1 hands one set of logits to stage 2, so there can be one draw. Set it to 1."
        if sds.draws == "every_epoch" and run.feature_cache.enabled:
            yield (
                f"{key}.draws: every_epoch stacks new audio in each epoch, so features cannot be computed ahead. Set "
                "feature_cache.enabled to false, or give a number of draws."
            )
        if sds.draws == "every_epoch" and sds.text == "asr":
            yield f"{key}.text: asr would transcribe in every epoch. Use concat, or give a number of draws."


def _stage_problems(run: RunArguments) -> Iterator[str]:
    if not run.feature_cache.enabled:
        yield "stages.plan: two stages read stored features. Leave feature_cache.enabled out, or train jointly."
    if run.disturbances:
        yield "disturbances: not with two stages, where stage 1 hands one set of logits to stage 2. Train jointly."
    if run.init_from:
        yield "init_from: not with two stages, which train new encoders. Train jointly, or leave it out."
    if run.lora:
        yield "lora: not with two stages, which train the encoders alone. Train jointly, or leave it out."
    if run.refit_on_dev:
        yield "refit_on_dev: not with two stages, whose encoders were selected on dev. Train jointly, or leave it out."
    if len(run.model.get("modalities") or MODALITIES) != len(MODALITIES):
        yield "stages.plan: two stages need both modalities (model.modalities). Train one modality jointly."
    for modality in MODALITIES:
        if run.model.get(f"{modality}_config", {}).get("encoder") == "none":
            yield (
                f"stages.plan: there is no {modality} encoder to train first (model.{modality}_config.encoder: none)."
            )


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
