"""Two stages: what is trained in which, which logits the second one reads, and that a kill costs no stage."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file

from bibier_hf import BiBiERForEmotionClassification
from bibier_hf.augmentation.sds import StackedDataSampling
from bibier_hf.commands.adapt import AdaptArguments, run_adaptation
from bibier_hf.data.collator import FeatureCollator
from bibier_hf.data.feature_store import StoredRows
from bibier_hf.data.features import InputDataset, input_specs
from bibier_hf.data.mixture import AugmentationArguments
from bibier_hf.errors import ArgumentError
from bibier_hf.training import stages
from bibier_hf.training.arguments import STAGES, run_arguments
from bibier_hf.training.augmentation import AugmentedCorpus
from bibier_hf.training.output import STAGES_FOLDER
from bibier_hf.training.rows import RunInputs
from bibier_hf.training.run import run_training
from bibier_hf.training.stages import (
    assign_folds,
    frozen_encoders,
    out_of_fold_logits,
    plan_folds,
    train_stage,
    unimodal_model,
    with_modality,
)
from bibier_hf.training.trainer import BiBiERTrainer

from ..conftest import both, merged
from .conftest import SPECS


class Killed(Exception):
    pass


FROZEN = both(freeze_backbone=True)
STAGE_ONE = tuple(
    prefix
    for modality in ("audio", "text")
    for prefix in (f"bibier.{modality}.backbone.", f"bibier.{modality}.encoder.", f"{modality}_head.")
)
"""What the names of parameters that stage 1 trains begin with."""


@pytest.fixture
def staged_run(small_run, tiny_options):
    """`staged_run(stages={...}, model={...}, **run keys)` -> a run in two stages over frozen backbones, a few seconds
    long."""

    def build(stages=None, model=None, **options):
        content = {"plan": "two_stage", "folds": 2} | (stages or {})
        model = merged(tiny_options, FROZEN, model or {})
        return small_run(stages=content, model=model, **({"num_train_epochs": 1} | options))

    return build


def encoders(state: dict[str, torch.Tensor], modality: str) -> dict[str, torch.Tensor]:
    prefixes = f"bibier.{modality}.encoder.", f"{modality}_head."
    return {name: value for name, value in state.items() if name.startswith(prefixes)}


def assert_equal(left, right):
    assert left.keys() == right.keys()
    assert left
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_both_stages_end_in_an_ordinary_model(staged_run):
    run = staged_run(model={"add_unimodal_logits": True}, stages={"audio": {"num_train_epochs": 2}})
    results = run_training(run)
    folder = Path(run.output_dir)
    final = load_file(folder / "model.safetensors")
    for modality in ("audio", "text"):
        assert_equal(
            encoders(final, modality),
            encoders(load_file(folder / STAGES_FOLDER / modality / "model.safetensors"), modality),
        )
        facts = results.stages[modality]
        for split in ("dev", "test"):
            assert 0 <= facts["metrics"][split]["small"]["uar"] <= 1
        assert facts["selection"]["metric"] == results.selection["metric"]
    assert results.stages["audio"]["selection"]["epochs_run"] == 2
    assert results.stages["text"]["selection"]["epochs_run"] == 1
    assert results.stages["text"]["samples"] == {"train": 10, "dev": 5, "test": 5}  # the rows that have a text
    assert results.stages["logits"] == "out_of_fold"
    assert results.stages["folds"] == {
        "count": 2,
        "corpora": {"small": {"grouped_by": ["dialogue", "speaker"], "groups": 3}},
    }
    model = BiBiERForEmotionClassification.from_pretrained(folder)
    assert not model.config.audio_config.freeze_encoder
    assert model.config.unimodal_loss_weight == 0.3
    assert all(parameter.requires_grad for parameter in model.bibier.audio.encoder.parameters())
    assert results.model["trained_parameters"] == sum(
        parameter.numel() for parameter in model.parameters() if parameter.requires_grad
    )
    assert not list((folder / STAGES_FOLDER).rglob("checkpoint-*"))
    assert json.loads((folder / "results.json").read_text()) == results.to_json()

    table, adapted = run.corpora[0].data_dir, folder.with_name("adapted")
    run_adaptation(AdaptArguments.from_command_line([str(folder), str(table), "--output_dir", str(adapted)]))
    again = BiBiERForEmotionClassification.from_pretrained(adapted)
    assert not again.mixture.weights.any()  # equal shares of audio, text and fusion
    assert_equal(
        {name: value for name, value in again.state_dict().items() if ".encoder." in name},
        {name: value for name, value in model.state_dict().items() if ".encoder." in name},
    )


@pytest.mark.slow
def test_backbones_that_are_trained_belong_to_stage_one(staged_run):
    trained = both(freeze_backbone=False)
    run = staged_run(model=trained | {"fusion": "late"})
    results = run_training(run)
    folder = Path(run.output_dir)
    final = load_file(folder / "model.safetensors")
    for modality in ("audio", "text"):
        stage = load_file(folder / STAGES_FOLDER / modality / "model.safetensors")
        assert any(name.startswith(f"bibier.{modality}.backbone.") for name in stage)
        assert_equal({name: final[name] for name in stage}, stage)
    model = BiBiERForEmotionClassification.from_pretrained(folder)
    assert not model.config.audio_config.freeze_backbone
    assert 0 <= results.metrics["test"]["small"]["uar"] <= 1


@pytest.mark.parametrize(
    "fusion", [{"add_unimodal_logits": True}, {"fusion": "late"}, {"fusion": "bigatedgraph"}], ids=str
)
def test_in_stage_two_every_trainable_parameter_has_a_gradient_and_no_other(model, tiny_options, fusion):
    torch.manual_seed(0)
    model = BiBiERForEmotionClassification.from_backbones(**(tiny_options | fusion | {"modality_dropout": 0.0}))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with frozen_encoders(model):
        model.train()
        for stream in model.streams.values():
            for part in (stream.backbone, stream.encoder):
                assert not any(module.training for module in part.modules())
        # each modality is missing once: the stand-ins are trained here
        masks = {
            "audio_features_mask": torch.tensor([[0, 0], [1, 1], [1, 0]]),
            "text_features_mask": torch.tensor([[1, 1], [0, 0], [1, 1]]),
        }
        features = {
            f"{modality}_features": torch.randn(3, 2, config.feature_size)
            for modality, config in model.config.modality_configs.items()
        }
        logits = {"audio_logits": torch.randn(3, 7), "text_logits": torch.randn(3, 7)}
        optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1
        )
        model(**features, **masks, **logits, labels=torch.tensor([0, 1, 2])).loss.backward()
        for name, parameter in model.named_parameters():
            frozen = name.startswith(STAGE_ONE)
            assert parameter.requires_grad != frozen, name
            assert (parameter.grad is None) == frozen, name
        optimizer.step()
    for name, value in model.state_dict().items():
        if name.startswith(STAGE_ONE):
            assert torch.equal(value, before[name]), name
    assert all(parameter.requires_grad for parameter in model.bibier.audio.encoder.parameters())
    assert model.config.audio_config.backbone_id is None


def test_given_logits_count_for_the_samples_that_have_the_modality(model):
    model.config.fusion = "late"
    late = BiBiERForEmotionClassification(model.config, build_backbones=False).eval()
    features = {
        f"{modality}_features": torch.randn(2, 3, config.feature_size)
        for modality, config in late.config.modality_configs.items()
    }
    masks = {"audio_features_mask": torch.tensor([[1, 1, 1], [0, 0, 0]]), "text_features_mask": torch.ones(2, 3)}
    audio_logits, text_logits = torch.randn(2, 7), torch.randn(2, 7)
    mixed = late(**features, **masks, audio_logits=audio_logits, text_logits=text_logits).logits
    torch.testing.assert_close(mixed[1], text_logits[1])
    alone = late(audio_logits=audio_logits, text_logits=text_logits).logits
    torch.testing.assert_close(mixed[0], alone[0])
    assert not torch.allclose(alone[1], text_logits[1])


def test_a_late_fusion_learns_the_same_without_encoding_frames_that_nobody_reads(model):
    torch.manual_seed(0)
    model.config.fusion, model.config.mixup_alpha = "late", 0.5
    late = BiBiERForEmotionClassification(model.config, build_backbones=False)
    inputs = {
        f"{modality}_features": torch.randn(3, 9, config.feature_size)
        for modality, config in late.config.modality_configs.items()
    }
    inputs["audio_features_mask"] = torch.tensor([[1] * 9, [0] * 9, [1] * 5 + [0] * 4])
    inputs |= {"audio_logits": torch.randn(3, 7), "text_logits": torch.randn(3, 7), "labels": torch.arange(3)}
    encoded: list[str] = []
    for name, stream in late.streams.items():
        assert stream.encoder is not None
        stream.encoder.register_forward_hook(lambda *_, name=name: encoded.append(name))

    def step(**kwargs):
        late.zero_grad()
        torch.manual_seed(1)
        output = late(**(inputs | kwargs))
        output.loss.backward()
        return output, [parameter.grad for parameter in late.parameters() if parameter.grad is not None]

    late.train()
    step()
    assert encoded == ["audio", "text"]  # while encoders learn, their frames are an output
    with frozen_encoders(late):
        late.train()
        output, gradients = step()
        assert encoded == ["audio", "text"]
        wanted, wanted_gradients = step(output_hidden_states=True)
        assert encoded == ["audio", "text"] * 2
        torch.testing.assert_close((output.loss, output.logits), (wanted.loss, wanted.logits), rtol=0, atol=0)
        torch.testing.assert_close(gradients, wanted_gradients, rtol=0, atol=0)
        assert output.fused_embedding.shape == wanted.fused_embedding.shape

        late.eval()
        with torch.no_grad():
            late(**inputs)
        assert encoded == ["audio", "text"] * 3  # an answer has the embedding


# Out-of-fold logits


@pytest.fixture
def stage(tmp_path):
    """Arguments of a stage over the feature rows; another folder at every call."""
    count = 0

    def build(**options):
        nonlocal count
        count += 1
        content = {
            "corpora": [{"name": "a"}],
            "output_dir": str(tmp_path / f"stage{count}"),
            "use_cpu": True,
            "disable_tqdm": True,
        }
        content |= {"num_train_epochs": 2, "learning_rate": 1e-2, "model": FROZEN, "corpus_balanced_sampling": False}
        return run_arguments(content | options)

    return build


def audio_inputs(train: InputDataset, dev: InputDataset) -> RunInputs:
    return RunInputs([train], dev, dev, FeatureCollator({"audio": SPECS["audio"]}))


def logits_of(stage, model, train, dev, folds) -> np.ndarray:
    """Out-of-fold logits of the training rows that have audio."""
    head = unimodal_model(model, "audio", seed=0)
    inputs = audio_inputs(with_modality(train, "audio_features"), with_modality(dev, "audio_features"))
    places = np.flatnonzero(train.columns["audio_features"].present)
    logits = out_of_fold_logits(stage, head, inputs, folds, places)
    assert len(logits) == len(train)
    return torch.stack(list(logits.select(places))).numpy()


def relabelled(data: InputDataset, rows: np.ndarray) -> InputDataset:
    """The same rows, some of them with another label."""
    labels = np.where(rows, (data.labels + 1) % 7, data.labels)
    columns = data.metadata.to_dict() | {"label": labels.tolist()}
    return InputDataset(Dataset.from_dict(columns, data.metadata.features), data.columns)


def test_logits_come_from_models_that_did_not_see_the_fold(stage, feature_model, feature_rows):
    model, train, dev = feature_model(), feature_rows(24, 0), feature_rows(14, 1)
    folds = np.arange(24) % 3
    before = logits_of(stage(), model, train, dev, folds)
    after = logits_of(stage(), model, relabelled(train, folds == 1), dev, folds)
    own = folds[train.columns["audio_features"].present]
    np.testing.assert_array_equal(before[own == 1], after[own == 1])  # its own labels change nothing
    for other in (0, 2):
        assert not np.allclose(before[own == other], after[own == other])


def test_out_of_fold_logits_are_those_of_each_fold_model(stage, feature_model, feature_rows):
    model, train, dev = feature_model(), feature_rows(24, 0), feature_rows(14, 1)
    folds, arguments = np.arange(24) % 2, stage()
    logits = logits_of(arguments, model, train, dev, folds)
    rows = with_modality(train, "audio_features")
    own = folds[train.columns["audio_features"].present]
    head = unimodal_model(model, "audio", seed=0)
    for index in range(len(rows)):
        weights = load_file(Path(f"{arguments.output_dir}-fold-{own[index]}") / "model.safetensors")
        head.load_state_dict(weights)
        with torch.no_grad():
            wanted = head.eval()(audio_features=rows[index]["audio_features"][None]).logits[0]
        np.testing.assert_allclose(logits[index], wanted, rtol=1e-4, atol=1e-5)


def metadata(dialogues, speakers, corpus="a") -> Dataset:
    count = len(dialogues)
    columns = {"dialogue": dialogues, "speaker": speakers}
    text = {name: [None if value is None else str(value) for value in values] for name, values in columns.items()}
    names = [f"{corpus}{index}" for index in range(count)]
    return Dataset.from_dict(
        {"id": names, "corpus": [corpus] * count, "label": [index % 2 for index in range(count)]} | text
    )


ELSEWHERE = metadata(["in dev"] * 4, ["of dev"] * 4)
"""A dev set that shares nothing with train."""


@pytest.mark.parametrize(
    ("dialogues", "speakers", "grouped_by"),
    [
        (
            [index // 4 for index in range(40)],
            [f"{index // 4}-{index % 2}" for index in range(40)],
            ["dialogue", "speaker"],
        ),
        ([index // 4 for index in range(40)], ["Ross", "Rachel"] * 20, ["dialogue"]),  # everybody meets everybody
        ([None] * 40, [index // 4 for index in range(40)], ["dialogue", "speaker"]),
        (["one"] * 40, [index // 4 for index in range(40)], ["speaker"]),
        (["one"] * 40, ["one"] * 40, []),
    ],
)
def test_folds_keep_together_what_can_be_kept_together(dialogues, speakers, grouped_by):
    rows = metadata(dialogues, speakers)
    folds, facts = assign_folds(rows, ELSEWHERE, 5, seed=42)
    assert facts["corpora"]["a"]["grouped_by"] == grouped_by
    assert np.bincount(folds).tolist() == [8] * 5
    for column in grouped_by:
        home = {}
        for value, fold in zip(rows[column], folds, strict=True):
            assert value is None or home.setdefault(value, fold) == fold
    assert (assign_folds(rows, ELSEWHERE, 5, seed=42)[0] == folds).all()


@pytest.mark.parametrize(
    ("dev", "grouped_by"),
    [
        (metadata(["3"], ["new"]), ["speaker"]),
        (metadata(["new"], ["3-1"]), ["dialogue"]),
        (metadata(["3"], ["3-1"]), []),  # RESD, official
        (metadata([None], [None]), ["dialogue", "speaker"]),
        (metadata(["3"], ["3-1"], corpus="b"), ["dialogue", "speaker"]),  # another corpus' names
    ],
)
def test_folds_keep_apart_what_dev_keeps_apart(dev, grouped_by):
    rows = metadata([index // 4 for index in range(40)], [f"{index // 4}-{index % 2}" for index in range(40)])
    _, facts = assign_folds(rows, dev, 5, seed=42)
    assert facts["corpora"]["a"] == {
        "grouped_by": grouped_by,
        "groups": {"": 40, "speaker": 20}.get("".join(grouped_by), 10),
    }


def test_too_few_samples_for_the_folds_are_named():
    with pytest.raises(ArgumentError, match=r"stages\.folds: .*Take fewer"):
        assign_folds(metadata(["a", "b"], ["a", "b"]), ELSEWHERE, 5, seed=42)


@pytest.mark.parametrize("mode", ["replace", "append"])
@pytest.mark.parametrize("with_speakers", [True, False])
def test_no_row_gets_logits_from_an_encoder_that_saw_one_of_its_clips(
    staged_run, write_table, tmp_path, monkeypatch, mode, with_speakers
):
    """Counted over a whole run: the clips inside each row, and their speakers."""
    folder = tmp_path / "many"
    folder.mkdir()
    table = write_table(folder, "many", train=84)  # six of each label and language
    speaker_of = {}
    lines = table.read_text(encoding="utf-8").splitlines()
    if not with_speakers:
        lines = [",".join(line.split(",")[:-1]) for line in lines]
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    trained, answered, clips_of = {}, {}, {}
    merge, stored_logits = StackedDataSampling.merge, stages._stored_logits

    def stop(model):
        raise Killed

    def watched_merge(self, rows, draw=0):
        merged = merge(self, rows, draw)
        clips_of[merged["id"]] = [row["id"] for row in rows]
        speaker_of.update((row["id"], row["speaker"]) for row in rows)
        return merged

    def fake_training(stage, head, data, title="", scored=()):
        trained[Path(stage.output_dir).name] = list(data.train[0].metadata["id"])
        return {}

    def watched_logits(stage, head, collator, data):
        answered[Path(stage.output_dir).name] = list(data.metadata["id"])
        return stored_logits(stage, head, collator, data)

    monkeypatch.setattr(StackedDataSampling, "merge", watched_merge)
    monkeypatch.setattr(stages, "train_stage", fake_training)
    monkeypatch.setattr(stages, "_stored_logits", watched_logits)
    monkeypatch.setattr("bibier_hf.training.run.frozen_encoders", stop)
    corpus = {"name": "csv", "data_dir": str(table)}
    corpus["augmentation"] = {"sds": {"share": 0.7, "target_s": 0.6, "mode": mode}}
    run = staged_run(corpora=[corpus], model={"add_unimodal_logits": True}, stages={"folds": 3})
    with pytest.raises(Killed):
        run_training(run)

    stacked = len(clips_of)
    assert stacked >= 40
    assert len(answered) == 6  # three folds of two modalities
    counted = 0
    for fold, rows in answered.items():
        seen = {clip for row in trained[fold] for clip in clips_of.get(row, [row])}
        heard = {clip for row in rows for clip in clips_of.get(row, [row])}
        assert not seen & heard
        voices = [{speaker_of[clip] for clip in clips if speaker_of.get(clip)} for clips in (seen, heard)]
        assert not voices[0] & voices[1]
        counted += sum(row in clips_of for row in rows)
    assert counted >= stacked
    everyone = {row for name, rows in answered.items() if name.startswith("audio") for row in rows}
    assert len(everyone) == 84 + (stacked if mode == "append" else 0)


def test_a_corpus_that_is_stacked_already_has_no_out_of_fold_logits(feature_model, staged_run):
    rows = Dataset.from_dict({"source": ["recorded", "stacked"]})
    run = staged_run()
    corpus = AugmentedCorpus(DatasetDict({"train": rows, "dev": rows}), AugmentationArguments())
    with pytest.raises(ArgumentError, match="'small' holds stacked clips"):
        plan_folds(run, feature_model(add_unimodal_logits=True), {"small": corpus})
    assert plan_folds(run, feature_model(), {"small": corpus}) == ({}, {})


@pytest.mark.slow
def test_in_sample_logits_are_those_of_the_final_encoder(staged_run, monkeypatch):
    columns = []

    def watched(stage, head, data, **options):
        columns.append(list(data.train[0].columns))
        return BiBiERTrainer(stage, head, data, **options)

    monkeypatch.setattr(stages, "BiBiERTrainer", watched)
    results = run_training(staged_run(stages={"logits": "in_sample"}, model={"add_unimodal_logits": True}))
    assert columns == [["audio_features"], ["text_features"]]  # no folds
    assert results.stages["logits"] == "in_sample"
    assert "folds" not in results.stages


@pytest.mark.slow
def test_a_fusion_without_unimodal_logits_needs_no_folds(staged_run):
    results = run_training(staged_run())
    assert results.stages["logits"] == "not used"
    assert sorted(path.name for path in (Path(staged_run().output_dir) / STAGES_FOLDER).iterdir()) == ["audio", "text"]


def test_logits_reach_the_model_with_the_rows(feature_model, feature_rows):
    model, rows = feature_model(), feature_rows(10, 0)
    present = {modality: rows.columns[f"{modality}_features"].present for modality in ("audio", "text")}
    given = [
        row
        | {f"{modality}_logits": torch.full((7 * int(there[index]),), index) for modality, there in present.items()}
        for index, row in enumerate(rows)
    ]
    batch = FeatureCollator(input_specs(model, None))(given)
    for modality, there in present.items():
        assert batch[f"{modality}_logits"].tolist() == [
            [value] * 7 for value in np.where(there, np.arange(10), 0).tolist()
        ]
    assert model(**batch).logits.shape == (10, 7)


# Corpora of one modality, kills, arguments


@pytest.mark.slow
def test_a_corpus_of_text_alone_takes_part(staged_run, corpus_table, write_table, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    table = write_table(folder, "texts", train=21)
    lines = table.read_text(encoding="utf-8").splitlines()
    lines = [
        lines[0],
        *(",".join(["", f"words {number}", *line.split(",")[2:]]) for number, line in enumerate(lines[1:])),
    ]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    corpora = [{"name": "csv", "data_dir": str(corpus_table)}, {"name": "csv", "data_dir": str(table)}]
    results = run_training(staged_run(corpora=corpora, model={"add_unimodal_logits": True}))
    assert set(results.metrics["test"]) == {"small", "texts"}
    assert set(results.stages["audio"]["metrics"]["test"]) == {"small"}
    assert set(results.stages["text"]["metrics"]["test"]) == {"small", "texts"}
    assert results.stages["text"]["samples"]["train"] == 10 + 21


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 3, 6])
def test_a_killed_run_goes_on_where_it_was(staged_run, tmp_path, monkeypatch, after):
    model = both(dropout=0.3) | {"add_unimodal_logits": True, "dropout": 0.3}
    whole = run_training(staged_run(model=model, output_dir=str(tmp_path / "whole")))
    trained, train = [], BiBiERTrainer.train

    def recorded(self, *args, **kwargs):
        trained.append(Path(self.args.output_dir).name)
        return train(self, *args, **kwargs)

    def killed_after(self, *args, **kwargs):
        if len(trained) == after:
            raise Killed
        return recorded(self, *args, **kwargs)

    monkeypatch.setattr(BiBiERTrainer, "train", killed_after)
    with pytest.raises(Killed):
        run_training(staged_run(model=model))
    order = ["audio-fold-0", "audio-fold-1", "audio", "text-fold-0", "text-fold-1", "text", "out"]
    assert trained == order[:after]
    folder = Path(staged_run().output_dir)
    monkeypatch.setattr(BiBiERTrainer, "train", recorded)
    with pytest.raises(ArgumentError, match="checkpoints or stages of an unfinished run"):
        run_training(staged_run(model=model))
    resumed = run_training(staged_run(model=model, resume_from_checkpoint=True))
    assert trained == order
    assert resumed.metrics == whole.metrics
    assert resumed.stages == whole.stages
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_a_stage_of_other_arguments_is_not_taken_over(stage, feature_model, feature_rows):
    arguments, rows = stage(), with_modality(feature_rows(14, 0), "audio_features")
    head = unimodal_model(feature_model(), "audio", seed=0)
    facts = train_stage(arguments, head, audio_inputs(rows, rows))
    weights = {name: value.clone() for name, value in head.state_dict().items()}
    again = unimodal_model(feature_model(), "audio", seed=1)
    assert train_stage(arguments, again, audio_inputs(rows, rows)) == facts
    assert_equal(again.state_dict(), weights)
    other = stage(output_dir=arguments.output_dir, learning_rate=1e-3)
    with pytest.raises(ArgumentError, match="was finished with other values of learning_rate"):
        train_stage(other, again, audio_inputs(rows, rows))
    with pytest.raises(ArgumentError, match="was finished with other values of corpora"):
        train_stage(arguments, again, audio_inputs(rows.select(range(3)), rows))


def test_a_modality_that_nobody_has_is_named(stage, feature_model, feature_rows):
    rows = feature_rows(14, 0)
    empty = StoredRows([], np.full((14, 2), -1), torch.zeros(0, 6))
    nobody = with_modality(InputDataset(rows.metadata, {"audio_features": empty}), "audio_features")
    with pytest.raises(ArgumentError, match="has no samples"):
        train_stage(stage(), unimodal_model(feature_model(), "audio", seed=0), audio_inputs(nobody, rows))


def test_stages_take_their_own_values_of_the_keys_of_a_run(small_run):
    run = small_run(
        learning_rate=1e-3,
        stages={"plan": "two_stage", "audio": {"learning_rate": 1e-2, "optimizer": "adam"}, "fusion": {"patience": 3}},
    )
    audio, text, fusion = (run.stage_runs[stage] for stage in STAGES)
    assert (audio.training["learning_rate"], audio.optimizer, audio.patience) == (1e-2, "adam", 10)
    assert (text.training["learning_rate"], text.optimizer, text.patience) == (1e-3, "adamw", 10)
    assert (fusion.training["learning_rate"], fusion.optimizer, fusion.patience) == (1e-3, "adamw", 3)
    assert (audio.output_dir, fusion.output_dir) == (f"{run.output_dir}/stages/audio", run.output_dir)
    assert run_arguments(run.dump()).stages == run.stages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": {"plan": "two"}}, "stages.plan: "),
        ({"stages": {"plan": "two_stage", "fold": 3}}, r"stages\.fold: unknown key\. Did you mean stages\.folds\?"),
        (
            {"stages": {"plan": "two_stage", "audio": {"learning_rat": 1e-3}}},
            r"stages\.audio: learning_rat: unknown key",
        ),
        (
            {"stages": {"plan": "two_stage", "text": {"corpora": []}}},
            r"stages\.text\.corpora: applies to the whole run",
        ),
        ({"stages": {"plan": "two_stage", "text": {"learning_rate": "fast"}}}, r"stages\.text: learning_rate: "),
        ({"stages": {"plan": "two_stage"}, "refit_on_dev": True}, "refit_on_dev: not with two stages"),
        ({"stages": {"plan": "two_stage"}, "feature_cache": {"enabled": False}}, r"feature_cache\.enabled"),
        (
            {"stages": {"plan": "two_stage"}, "init_from": "outputs/resd"},
            r"init_from: not with two stages, which train new encoders\. Train jointly, or leave it out\.$",
        ),
        ({"stages": {"plan": "two_stage"}, "model": {"modalities": ["text"]}}, "need both modalities"),
        (
            {"stages": {"plan": "two_stage"}, "model": {"audio_config": {"encoder": "none"}}},
            "there is no audio encoder",
        ),
    ],
)
def test_stages_that_cannot_be_followed_are_named(small_run, options, message):
    with pytest.raises(ArgumentError, match=message):
        small_run(**options)
