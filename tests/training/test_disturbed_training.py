"""Training on disturbed clips: the same for any workers and processes, from raw audio and from the store, and no
voices of other splits."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import DatasetDict, concatenate_datasets, disable_progress_bars
from torch.utils.data import DataLoader

from bibier_hf import EMOTIONS
from bibier_hf.commandline import checked_section
from bibier_hf.commands.extract import ExtractArguments, extract
from bibier_hf.data import disturbances as module
from bibier_hf.data.corpora import load_corpus
from bibier_hf.data.disturbances import DisturbanceSection, Disturber, Voices, disturb, under_condition
from bibier_hf.data.features import InputExtractor, raw_inputs
from bibier_hf.data.mixture import AugmentationArguments
from bibier_hf.data.protocols import apply_protocol
from bibier_hf.errors import ArgumentError
from bibier_hf.model.audio_bibier import decode_audio
from bibier_hf.training.augmentation import AugmentedCorpus
from bibier_hf.training.rows import DisturbedDraws, TrainingRows
from bibier_hf.training.run import run_training

SECTION = DisturbanceSection(kinds=["white:5..20", "babble:5..20", "g711", "gain:-12", "speed:0.9..1.1"], draws=2)


@pytest.fixture
def splits(tmp_path, monkeypatch) -> DatasetDict:
    """28 train rows, one of them a text alone, and 7 for dev and test each."""
    disable_progress_bars()
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    lines = ["audio,text,label,split,language"]
    for split, count in (("train", 28), ("dev", 7), ("test", 7)):
        for index in range(count):
            name = f"{split}{index}.wav" if (split, index) != ("train", 4) else ""
            if name:
                samples = 0.1 * generator.standard_normal(int(generator.uniform(3_000, 8_000)))
                soundfile.write(tmp_path / name, samples, 16_000)
            lines.append(f"{name},word {index},{EMOTIONS[index % 7]},{split},en")
    (tmp_path / "toy.csv").write_text("\n".join(lines))
    return apply_protocol(load_corpus("csv", tmp_path / "toy.csv"))


def augment(splits, **content) -> AugmentedCorpus:
    corpus = AugmentedCorpus(splits, checked_section(AugmentationArguments, content))
    corpus.stack()
    return corpus


@pytest.mark.parametrize("stacking", [{}, {"sds": {"share": 0.5, "target_s": 0.6, "draws": "every_epoch"}}])
def test_raw_rows_do_not_depend_on_workers_or_order(splits, stacking):
    corpus = augment(splits, **stacking)
    train = TrainingRows(corpus.inputs(raw_inputs)[:1], disturber=Disturber(SECTION, {"toy": corpus.voices}))
    clean = TrainingRows(corpus.inputs(raw_inputs)[:1])
    epochs = {}
    for workers in (0, 2):
        loader = DataLoader(train, batch_size=5, num_workers=workers, persistent_workers=workers > 0, collate_fn=list)
        for epoch in (0, 1, 5):
            train.set_epoch(epoch)
            heard = [None if row["audio"] is None else decode_audio(row["audio"]) for batch in loader for row in batch]
            epochs[workers, epoch] = heard

    for epoch in (0, 1, 5):
        for first, second in zip(epochs[0, epoch], epochs[2, epoch], strict=True):
            assert (first is None) == (second is None)
            assert first is None or first.tobytes() == second.tobytes()

    train.set_epoch(5)
    order = np.random.default_rng(0).permutation(len(train)).tolist()
    for index, row in zip(order, train.__getitems__(order), strict=True):
        if row["audio"] is not None:
            np.testing.assert_array_equal(decode_audio(row["audio"]), epochs[0, 5][index])

    clean.set_epoch(5)
    changed = [
        not np.array_equal(decode_audio(row["audio"]), heard)
        for row, heard in zip(clean.__getitems__(range(len(clean))), epochs[0, 5], strict=True)
        if heard is not None
    ]
    assert 0.5 < np.mean(changed) < 1


def test_a_raw_row_is_what_its_draw_says(splits):
    corpus = augment(splits)
    train = TrainingRows(corpus.inputs(raw_inputs)[:1], disturber=Disturber(SECTION, {"toy": corpus.voices}))
    train.set_epoch(3)
    rows = splits["train"]
    for index in range(28):
        clip, audio = rows[index]["id"], rows[index]["audio"]
        if audio is None or not SECTION.is_disturbed(clip, 3):
            continue

        expected = disturb(
            decode_audio(audio), 16_000, SECTION.draw(clip, 3), "42/3", clip, corpus.voices.others(clip)
        )
        np.testing.assert_array_equal(train[index]["audio"]["array"], expected)


@pytest.mark.parametrize("stacking", [{}, {"sds": {"share": 0.5, "target_s": 0.6, "draws": 2}}])
def test_stored_versions_are_drawn_in_each_epoch(splits, model, processor, tmp_path, stacking):
    extractor = InputExtractor(model, processor, cache_dir=tmp_path / "features")
    corpus = augment(splits, **stacking)
    noise = DisturbanceSection(kinds=["white:5..20", "babble:5..20", "reverb"], draws=2)
    source, dev, _ = corpus.inputs(extractor.inputs, noise)
    clean, clean_dev, _ = augment(splits, **stacking).inputs(extractor.inputs)
    assert isinstance(source, DisturbedDraws)
    train = TrainingRows([source])
    assert len(train) == len(clean.metadata) == 28

    seen, ids = {index: set() for index in range(28)}, list(source.metadata["id"])
    for epoch in range(0, 120, 2):
        train.set_epoch(epoch)
        rows = train.__getitems__(range(28))
        undisturbed = clean.fetch(range(28), epoch)
        for index, (row, other) in enumerate(zip(rows, undisturbed, strict=True)):
            assert torch.equal(row["input_ids"], other["input_ids"])
            assert row["label"] == other["label"]
            same = torch.equal(row["input_features"], other["input_features"])
            assert same == (noise.version(ids[index], epoch) == 0 or not len(other["input_features"]))
            seen[index].add(row["input_features"].numpy().tobytes())

    assert {len(versions) for index, versions in seen.items() if index != 4} == {3}  # clean and two draws
    assert len(seen[4]) == 1
    for row, other in zip(dev.__getitems__(range(7)), clean_dev.__getitems__(range(7)), strict=True):
        assert torch.equal(row["input_features"], other["input_features"])


def test_the_store_keeps_disturbances_apart_and_finds_them_again(splits, model, processor, tmp_path, monkeypatch):
    extractor = InputExtractor(model, processor, cache_dir=tmp_path / "features")
    calls = []
    monkeypatch.setattr(module, "disturb", lambda *arguments: calls.append(arguments[2:5]) or disturb(*arguments))
    noise = DisturbanceSection(kinds=["white:5..20", "babble:5..20"], draws=2)
    for section, computed in (
        (noise, 27 * 2),
        (noise, 0),
        (noise.model_copy(update={"draws": 3}), 27),
        (DisturbanceSection(kinds=["g711"], draws=1), None),
    ):
        calls.clear()
        augment(splits).inputs(extractor.inputs, section)
        assert computed is None or len(calls) == len(set(calls)) == computed

    # With the same disturbance of both draws, the same clip is stored once.
    calls.clear()
    augment(splits).inputs(extractor.inputs, DisturbanceSection(kinds=["g711"], draws=2))
    assert calls == []


def test_a_split_may_be_empty(splits):
    rows = under_condition(splits["train"].select([]), "white:20")
    assert rows.column_names[-1] == module.NOTE
    assert len(rows) == 0


def test_voices_are_of_one_split_and_never_the_clip_itself(splits):
    train = splits["train"]
    voices = Voices(train)
    assert len(voices.ids) == 27
    assert set(voices.ids) < set(train["id"])
    assert len(voices.others(voices.ids[3])) == 26
    with pytest.raises(ValueError, match="of a single split"):
        Voices(concatenate_datasets([train, splits["dev"]]))


def test_babble_in_training_is_made_of_training_clips(splits, monkeypatch):
    asked = []
    original = Voices.others
    monkeypatch.setattr(Voices, "others", lambda self, clip: asked.append(self) or original(self, clip))
    corpus = augment(splits)
    babble = DisturbanceSection(kinds=["babble:10"], probability=1.0)
    TrainingRows(corpus.inputs(raw_inputs)[:1], disturber=Disturber(babble, {"toy": corpus.voices})).__getitems__(
        range(28)
    )
    assert len(asked) == 27
    for voices in asked:
        assert set(voices.rows["split"]) == {"train"}
        assert not set(voices.ids) & {*splits["dev"]["id"], *splits["test"]["id"]}


def metrics_of(small_run, **options) -> dict:
    return run_training(small_run(overwrite=True, **options)).metrics


DISTURBED = {"disturbances": {"kinds": ["white:5..20", "babble:5..20", "reverb"], "draws": 2}}


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_is_the_same_with_workers(small_run, cached):
    options = DISTURBED | {"feature_cache": {"enabled": cached}}
    alone = metrics_of(small_run, **options)
    assert alone == metrics_of(small_run, **options, dataloader_num_workers=2)
    assert alone != metrics_of(small_run, feature_cache={"enabled": cached})


def test_disturbances_go_with_mixup_statistics_and_a_refit(small_run, tiny_options):
    frozen = {"audio_config": {"freeze_backbone": True}, "text_config": {"freeze_backbone": True}}
    model = {**tiny_options, "mixup_alpha": 0.3, "fusion": "late"}
    for name, part in frozen.items():
        model[name] = tiny_options[name] | part
    results = run_training(small_run(**DISTURBED, model=model, refit_on_dev=True))
    assert results.config["disturbances"]["draws"] == 2


def test_a_run_scores_test_on_disturbed_speech(small_run):
    run = small_run(conditions=["white:10", "g711"], num_train_epochs=1)
    results = run_training(run)
    for scores in (results.conditions["test"]["small"], results.conditions_audio["test"]["small"]):
        assert list(scores) == ["clean", "white:10", "g711"]
        assert scores["white:10"]["loss"]["uar"].keys() == {"difference", "lower", "upper", "detectable"}
    assert results.conditions_settings["test"]["intervals_over"] == {"small": "speakers"}
    assert "| small | white:10 |" in (Path(run.output_dir) / "README.md").read_text()


def test_extraction_computes_what_training_reads(small_run, tiny_options, tmp_path, capsys, monkeypatch):
    frozen = {"freeze_backbone": True}
    model = tiny_options | {name: tiny_options[name] | frozen for name in ("audio_config", "text_config")}
    run = small_run(**DISTURBED, model=model, num_train_epochs=1)
    (tmp_path / "run.yaml").write_text(run.to_yaml())
    extract(ExtractArguments.from_command_line([str(tmp_path / "run.yaml")]))
    assert f"{14 + 7 + 7 + 2 * 14} rows computed" in capsys.readouterr().out

    monkeypatch.setattr(module, "disturb", None)  # nothing is left to disturb
    run_training(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": {"plan": "two_stage"}}, "disturbances: not with two stages"),
        ({"model": {"modalities": ["text"]}}, "reads only text"),
        ({"disturbances": {"kinds": ["wite"]}}, "Did you mean white"),
    ],
)
def test_what_cannot_be_is_refused(small_run, options, message):
    with pytest.raises(ArgumentError, match=message):
        small_run(**DISTURBED | options)
