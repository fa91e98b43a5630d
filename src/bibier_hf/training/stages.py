"""Training in two stages, as published: each encoder alone with its own classifier, then the fusion over both, frozen.

    stage 1   audio: (backbone ->) encoder -> audio logits     text: (backbone ->) encoder -> text logits
    stage 2   both encoders frozen -> fusion -> classifier (-> mixture with both logits) -> logits

Encoders have seen the labels of their training samples, so their logits are better there than on new samples, and a
mixture trained on them trusts them too much. On the training set, stage 2 therefore reads *out-of-fold* logits: the
training set is split into K parts, and the logits of each part come from an encoder that was trained on the others.
The parts separate what dev separates from train (dialogues, speakers or neither), and clips of different parts are
never stacked together. Frames, and all logits on dev and test, come from encoders trained on everything.

A finished stage leaves `stages/<name>` with its model and `stage.json`, and is not repeated after a restart.
"""

import copy
import json
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from safetensors.torch import load_file
from transformers import set_seed
from transformers.utils import SAFE_WEIGHTS_NAME

from ..data.collator import UNIMODAL_LOGITS, FeatureCollator
from ..data.feature_store import FeatureStore, StoredRows
from ..data.features import InputDataset
from ..data.protocols import connected_groups, stratified_group_split
from ..errors import ArgumentError
from ..evaluation.report import Predictions
from ..files import write_json
from ..model.configuration_bibier import MODALITIES
from ..model.hashing_bibier import weights_hash
from ..model.modeling_bibier import BiBiERForEmotionClassification
from .arguments import RunArguments
from .augmentation import AugmentedCorpus
from .checkpoints import list_checkpoints
from .progress import without_bars
from .rows import RunInputs, fixed_rows
from .trainer import BiBiERTrainer

STAGE_FILE = "stage.json"
_GROUPINGS = (("dialogue", "speaker"), ("dialogue",), ("speaker",))


def train_encoders(
    run: RunArguments, model: BiBiERForEmotionClassification, data: RunInputs, folds: np.ndarray | None = None
) -> tuple[dict[str, Any], dict[str, StoredRows]]:
    """Stage 1: train the encoders and the backbones that are not frozen, and copy them into `model`.

    Args:
        run: with `stages`.
        model: the bimodal model; gets the trained weights.
        data: train, dev and test.
        folds: (N,) fold of each training sample, from [`plan_folds`]; None: no out-of-fold logits.

    Returns:
        facts for `results.json` (for each modality, and `logits`); and with folds the columns `audio_logits` and
        `text_logits` of the training set, else {}.

    Raises:
        ArgumentError: no training sample has a modality, or a stage was finished with other arguments.
    """
    facts: dict[str, Any] = {"logits": run.stages.logits if _mixes_unimodal_logits(model) else "not used"}
    logits = {}
    assert isinstance(data.collator, FeatureCollator)  # two stages read stored features
    train = fixed_rows(data.train)
    for number, modality in enumerate(MODALITIES, 1):
        stage, spec = run.stage_runs[modality], data.collator.specs[modality]
        own, dev, test = (with_modality(rows, spec.name) for rows in (train, data.dev, data.test))
        rows = RunInputs([own], dev, test, FeatureCollator({modality: spec}))
        head = unimodal_model(model, modality, run.seed)
        if folds is not None:
            places = np.flatnonzero(train.columns[spec.name].present)
            logits[UNIMODAL_LOGITS[modality]] = out_of_fold_logits(stage, head, rows, folds, places)

        outcome = train_stage(stage, head, rows, title=f"encoder {modality} (stage {number} of 3)")
        facts[modality] = {key: value for key, value in outcome.items() if key != "arguments"}
        _take_over(model, head, modality)

    return facts, logits


def _take_over(model: BiBiERForEmotionClassification, trained: BiBiERForEmotionClassification, modality: str) -> None:
    """Copy backbone, encoder and head of a unimodal model into the bimodal one."""
    ours, theirs = model.streams[modality], trained.streams[modality]
    pairs = (
        (ours.backbone, theirs.backbone),
        (ours.encoder, theirs.encoder),
        (model.heads[modality], trained.heads[modality]),
    )
    for target, source in pairs:
        if target is not None and source is not None:
            target.load_state_dict(source.state_dict())


def unimodal_model(model: BiBiERForEmotionClassification, modality: str, seed: int) -> BiBiERForEmotionClassification:
    """Build a new model of one modality with the options of a bimodal one. It reads features if the backbone is
    frozen; otherwise it gets a copy of the backbone.

    Args:
        model: the bimodal model.
        modality: `"audio"` or `"text"`.
        seed: of the initial weights.
    """
    config = copy.deepcopy(model.config)
    config.modalities = [modality]
    with_backbone = not config.modality_configs[modality].freeze_backbone
    for name, part in config.modality_configs.items():
        # In original mode the model pads the output of its text backbone, so it must know that there is one.
        if name != modality or not (with_backbone or config.reproduces("unmasked")):
            part.backbone = None
    set_seed(seed)
    head = BiBiERForEmotionClassification(config, build_backbones=False)
    if with_backbone:
        head.attach_backbone(modality, copy.deepcopy(model.streams[modality].require_backbone()))
    return head.to(model.device)


def with_modality(data: InputDataset, column: str) -> InputDataset:
    """Return the rows that have a modality, with only its inputs."""
    values = data.columns[column]
    return InputDataset(data.rows, {column: values}).select(np.flatnonzero(values.present))


def train_stage(
    stage: RunArguments,
    head: BiBiERForEmotionClassification,
    data: RunInputs,
    title: str = "encoder",
    scored: Sequence[str] = ("dev", "test"),
) -> dict[str, Any]:
    """Train a model of one modality and select it on dev, or load it if it is finished.

    Args:
        stage: arguments; `output_dir` is the folder of the stage.
        head: the model, changed in place.
        data: rows that have the modality.
        title: what is trained, for the progress display.
        scored: splits to score.

    Returns:
        the content of `stage.json`: `arguments`, `samples`, `selection`, and `metrics` of the scored splits.

    Raises:
        ArgumentError: there are no rows, or the stage was finished with other arguments.
    """
    folder, arguments = Path(stage.output_dir), stage.public_dump()
    samples = {"train": len(fixed_rows(data.train)), "dev": len(data.dev), "test": len(data.test)}
    if not all(samples.values()):
        raise ArgumentError(
            f"stages: '{folder.name}' has no samples to train, select or score it on ({samples}). Train jointly."
        )

    if (folder / STAGE_FILE).is_file():
        facts = json.loads((folder / STAGE_FILE).read_text(encoding="utf-8"))
        changed = sorted(key for key, value in arguments.items() if facts["arguments"].get(key) != value)
        if changed or facts["samples"] != samples:
            raise ArgumentError(
                f"{folder} was finished with other values of {', '.join(changed) or 'corpora'}. Continue with those, or "
                "start over (--overwrite true)."
            )
        head.load_state_dict(load_file(folder / SAFE_WEIGHTS_NAME))
        return facts

    trainer = BiBiERTrainer(stage, head, data, title=title)
    trainer.train(resume_from_checkpoint=trainer.last_checkpoint)
    facts = {"arguments": arguments, "samples": samples, "selection": trainer.selection(), "metrics": {}}
    for split in scored:
        rows = getattr(data, split)
        predictions = Predictions.from_logits(rows.metadata, trainer.predict_logits(rows, split))
        facts["metrics"][split] = predictions.metrics_by_corpus()

    if trainer.is_world_process_zero():
        with without_bars():
            trainer.model.save_pretrained(folder)
        write_json(folder / STAGE_FILE, facts)
        for checkpoint in list_checkpoints(folder):
            shutil.rmtree(checkpoint)
    trainer.accelerator.wait_for_everyone()
    return facts


def out_of_fold_logits(
    stage: RunArguments, head: BiBiERForEmotionClassification, data: RunInputs, folds: np.ndarray, places: np.ndarray
) -> StoredRows:
    """Compute the logits of each training sample with a model that has not seen its fold.

    Args:
        stage: arguments of the stage; fold k is trained in `<output_dir>-fold-<k>`.
        head: a new model of the modality; every fold starts from its weights, which it has again afterwards.
        data: M samples that have the modality, and rows to select the model of each fold on.
        folds: (N,) fold of each sample of the training set.
        places: (M,) places of the samples in the training set.

    Returns:
        (N,) rows of 7 logits, missing for samples without the modality.
    """
    initial, train = copy.deepcopy(head.state_dict()), fixed_rows(data.train)
    (modality,) = head.config.modalities
    own = folds[places]
    numbers = np.unique(own).tolist()
    parts = []
    for number, fold in enumerate(numbers, 1):
        fold_stage = stage.model_copy(update={"output_dir": f"{stage.output_dir}-fold-{fold}"})
        others = replace(data, train=[train.select(np.flatnonzero(own != fold))])
        title = f"encoder {modality}, fold {number} of {len(numbers)}"
        train_stage(fold_stage, head, others, title, scored=["dev"])

        held_out = train.select(np.flatnonzero(own == fold))
        parts.append(_stored_logits(fold_stage, head, data.collator, held_out))
        head.load_state_dict(initial)

    by_fold = places[np.argsort(own, kind="stable")]
    return StoredRows.concatenate(parts).spread(by_fold, len(folds))


def _stored_logits(
    stage: RunArguments, head: BiBiERForEmotionClassification, collator: Callable, data: InputDataset
) -> StoredRows:
    """Compute the logits of every row, or read them from a store that is named after the weights of the model."""
    (modality,) = head.config.modalities
    (inputs,) = data.columns.values()
    recipe, folder = {"head": weights_hash(head)}, Path(stage.output_dir) / "logits"
    store = FeatureStore(folder, f"{modality}_logits", recipe, None, torch.float32, 4096)
    head.eval()

    @torch.inference_mode()
    def compute(positions: list[int]) -> list[torch.Tensor]:
        batch = collator(data.__getitems__(positions))
        del batch["labels"]
        return list(head(**{name: values.to(head.device) for name, values in batch.items()}).logits.float().cpu())

    store.extract(inputs.keys, [len(row) for row in inputs], compute, stage.feature_cache.batch_size)
    return store.rows(inputs.keys)


def plan_folds(
    run: RunArguments, model: BiBiERForEmotionClassification, corpora: Mapping[str, AugmentedCorpus]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Draw the folds of a run whose fusion reads out-of-fold logits. They are drawn before stacking, because a stacked
    row can be held out only together with all its clips.

    Args:
        run: its `stages` and seed.
        model: tells whether the fusion reads unimodal logits.
        corpora: corpora, before they are stacked.

    Returns:
        corpus -> fold of each train row, and `{"folds": ...}` for the report; both are empty if nothing is held out.

    Raises:
        ArgumentError: the training set has too few groups, or already holds stacked clips.
    """
    if run.stages.plan != "two_stage" or run.stages.logits != "out_of_fold" or not _mixes_unimodal_logits(model):
        return {}, {}
    columns = ["id", "corpus", "label", "dialogue", "speaker"]
    train = {}
    for name, corpus in corpora.items():
        if "stacked" in corpus.splits["train"]["source"]:
            raise ArgumentError(
                f"stages.logits: the corpus '{name}' holds stacked clips, so parts of it cannot be held out. Train on "
                "the recorded corpus with augmentation.sds, or set stages.logits to in_sample."
            )
        train[name] = corpus.splits["train"].select_columns(columns)
    dev = concatenate_datasets([corpus.splits["dev"].select_columns(columns) for corpus in corpora.values()])
    folds, facts = assign_folds(concatenate_datasets(list(train.values())), dev, run.stages.folds, run.seed)
    ends = np.cumsum([len(rows) for rows in train.values()])
    return dict(zip(train, np.split(folds, ends[:-1]), strict=True)), {"folds": facts}


def _mixes_unimodal_logits(model: BiBiERForEmotionClassification) -> bool:
    return model.config.fusion == "late" or model.config.add_unimodal_logits


def assign_folds(train: Dataset, dev: Dataset, count: int, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Split the training set into parts that keep groups together, stratified by corpus and label.

    An encoder must do as well on its held-out part as it will on dev, or the fusion learns to trust the wrong one. So
    the parts separate what dev separates from train: RESD's official split shares voices between train and dev, so
    voices are shared between the parts; a protocol that separates dialogues separates them here, too. In each corpus,
    a group is a dialogue with its speakers, and whatever they connect; if that connects most samples, a dialogue; else
    a speaker; else a single sample.

    Args:
        train: N rows with `id`, `corpus`, `label`, `dialogue` and `speaker`.
        dev: rows with `corpus`, `dialogue` and `speaker`.
        count: number of parts K.
        seed: of the draw.

    Returns:
        (N,) part of each sample, and for each corpus the grouping and the number of groups.

    Raises:
        ArgumentError: there are fewer groups than parts.
    """
    corpora, groups, grouped_by = np.asarray(train["corpus"]), np.empty(len(train), dtype=object), {}
    for corpus in sorted(set(corpora)):
        rows = np.flatnonzero(corpora == corpus)
        own = train.select(rows)
        dev_rows = dev.select(np.flatnonzero(np.asarray(dev["corpus"]) == corpus))
        shared = {column for column in _GROUPINGS[0] if (set(own[column]) & set(dev_rows[column])) - {None}}
        for columns in (*(grouping for grouping in _GROUPINGS if shared.isdisjoint(grouping)), ()):
            values = {column: own[column] for column in columns}
            keys = [
                [f"{column}:{value[row]}" for column, value in values.items() if value[row] is not None]
                for row in range(len(rows))
            ]
            found = connected_groups(own["id"], keys)
            sizes = Counter(found)
            if (any(keys) or not columns) and len(sizes) >= count and max(sizes.values()) <= len(rows) / 2:
                break
        groups[rows] = [f"{corpus}/{group}" for group in found]
        grouped_by[corpus] = {"grouped_by": list(columns), "groups": len(sizes)}
    names = [str(number) for number in range(count)]
    labels = list(zip(corpora.tolist(), train["label"], strict=True))
    try:
        folds = stratified_group_split(
            labels, groups.tolist(), dict.fromkeys(names[1:], 1 / count), seed, remainder=names[0]
        )
    except ValueError as error:
        raise ArgumentError(f"stages.folds: {error} Take fewer, or stages.logits: in_sample.") from error
    return np.array([int(fold) for fold in folds]), {"count": count, "corpora": grouped_by}


@contextmanager
def frozen_encoders(model: BiBiERForEmotionClassification) -> Generator[None]:
    """Stage 2: freeze what stage 1 trained, in evaluation mode. Afterwards the configuration is that of joint
    training."""
    config = model.config
    parts = list(config.modality_configs.values())
    before = [(part.freeze_backbone, part.freeze_encoder) for part in parts]
    weight = config.unimodal_loss_weight
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]

    for part in parts:
        if not part.freeze_backbone:
            # No longer the weights of this id: they are saved in the checkpoint, and their features get another key.
            part.backbone_id = part.backbone_revision = None
        part.freeze_backbone = part.freeze_encoder = True
    config.unimodal_loss_weight = 0.0  # nothing in it can change
    model.freeze()

    yield

    for part, (backbone, encoder) in zip(parts, before, strict=True):
        part.freeze_backbone, part.freeze_encoder = backbone, encoder
    config.unimodal_loss_weight = weight
    for parameter in free:
        parameter.requires_grad_(True)
