"""Augmentation in a run: train alone is touched, draws follow seed and epoch, synthetic rows are counted."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import DatasetDict, disable_progress_bars
from torch.utils.data import DataLoader

from bibier_hf import EMOTIONS
from bibier_hf.augmentation.sds import StackedDataSampling
from bibier_hf.commandline import checked_section
from bibier_hf.data.clips import Clip
from bibier_hf.data.corpora import load_corpus
from bibier_hf.data.features import InputExtractor, raw_inputs
from bibier_hf.data.mixture import AugmentationArguments
from bibier_hf.data.prepare import write_corpus
from bibier_hf.data.protocols import apply_protocol
from bibier_hf.data.schema import FEATURES
from bibier_hf.errors import ArgumentError
from bibier_hf.model.audio_bibier import decode_audio
from bibier_hf.training.augmentation import AugmentedCorpus
from bibier_hf.training.rows import StoredDraws, TrainingRows
from bibier_hf.training.run import run_training

# the clips of the table are 0.2 to 0.5 s long, two of each language and label in train
SDS = {"share": 0.5, "target_s": 0.6}


@pytest.fixture
def splits(tmp_path, monkeypatch) -> DatasetDict:
    """28 train clips of one language, four of each label, and 7 for dev and test each."""
    disable_progress_bars()
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    lines = ["audio,text,label,split,language"]
    for split, count in (("train", 28), ("dev", 7), ("test", 7)):
        for index in range(count):
            name = f"{split}{index}.wav"
            soundfile.write(
                tmp_path / name, 0.1 * generator.standard_normal(int(generator.uniform(3_000, 8_000))), 16_000
            )
            lines.append(f"{name},word {index},{EMOTIONS[index % 7]},{split},en")
    (tmp_path / "toy.csv").write_text("\n".join(lines))
    return apply_protocol(load_corpus("csv", tmp_path / "toy.csv"))


@pytest.fixture
def synthetic(tmp_path) -> Path:
    """A prepared corpus of 5 synthetic English and 2 Russian texts a label."""
    clips = [
        Clip(f"{language}-{label}-{number}", "train", label, language, text=f"utterance {number}", source="synthetic")
        for label in EMOTIONS
        for language, count in (("en", 5), ("ru", 2))
        for number in range(count)
    ]
    facts = {"name": "tug", "reader": "tug", "title": "", "homepage": "", "options": {}}
    write_corpus(clips, facts, FEATURES, tmp_path / "synthetic")
    return tmp_path / "synthetic"


def augment(splits, **content) -> AugmentedCorpus:
    corpus = AugmentedCorpus(splits, checked_section(AugmentationArguments, content))
    corpus.stack()
    return corpus


def test_nothing_is_done_unless_it_is_asked_for(splits):
    corpus = augment(splits)
    assert corpus.facts == {}
    assert {split: rows.to_list() for split, rows in corpus.splits.items()} == {
        split: rows.to_list() for split, rows in splits.items()
    }


def test_one_draw_stacks_train_and_leaves_dev_and_test_alone(splits):
    corpus = augment(splits, sds=SDS)
    assert corpus.facts["sds"]["stacked"] == Counter(corpus.splits["train"]["source"])["stacked"] == 14
    assert corpus.splits["train"].column_names == splits["train"].column_names
    assert corpus.splits["train"]["label"] == splits["train"]["label"]
    for split in ("dev", "test"):
        assert corpus.splits[split].to_list() == splits[split].to_list()


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_stored_draws_are_what_each_draw_gives_by_itself(splits, synthetic, model, processor, tmp_path, mode):
    make = InputExtractor(model, processor, cache_dir=tmp_path / "features").inputs
    corpus = augment(splits, sds={**SDS, "draws": 3, "mode": mode}, synthetic={"path": str(synthetic), "ratio": 0.4})
    source, _, _ = corpus.inputs(make)
    assert isinstance(source, StoredDraws)
    train = TrainingRows([source])
    assert len(train) == 28 + 14 + (14 if mode == "append" else 0)
    seen = []
    for epoch in range(4):
        train.set_epoch(epoch)
        rows = train.__getitems__(list(range(len(train))))
        expected = StackedDataSampling(share=0.5, target_s=0.6, mode=mode)(splits["train"], draw=epoch % 3)
        recorded = len(expected)
        alone = make(DatasetDict(train=expected.remove_columns("components")))["train"]
        for row, other in zip(rows[:recorded], alone.__getitems__(list(range(recorded))), strict=True):
            np.testing.assert_array_equal(row["input_features"], other["input_features"])
            np.testing.assert_array_equal(row["input_ids"], other["input_ids"])
            assert row["label"] == other["label"]
        assert all(len(row["input_features"]) == 0 and len(row["input_ids"]) for row in rows[recorded:])
        seen.append([row["input_ids"].tolist() for row in rows])
    assert seen[0] == seen[3] != seen[1]


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_fresh_draws_do_not_depend_on_workers(splits, synthetic, mode):
    corpus = augment(splits, sds={**SDS, "draws": "every_epoch", "mode": mode}, synthetic={"path": str(synthetic)})
    train = TrainingRows(corpus.inputs(raw_inputs)[:1])
    sds = StackedDataSampling(share=0.5, target_s=0.6, mode=mode)
    epochs = {}
    for workers in (0, 2):
        # workers that live through the epochs must see which one it is
        loader = DataLoader(train, batch_size=5, num_workers=workers, persistent_workers=workers > 0, collate_fn=list)
        for epoch in (0, 1, 5):
            train.set_epoch(epoch)
            rows = [row for batch in loader for row in batch]
            expected = sds(splits["train"], draw=epoch)
            assert len(rows) == len(expected) + 35
            for row, other in zip(rows, expected, strict=False):
                assert (row["text"], row["label"], row["soft_label"]) == (
                    other["text"],
                    other["label"],
                    other["soft_label"],
                )
                np.testing.assert_array_equal(decode_audio(row["audio"]), decode_audio(other["audio"]))
            epochs.setdefault(workers, []).append([row["text"] for row in rows])
    assert epochs[0] == epochs[2]
    assert epochs[0][0] != epochs[0][1] != epochs[0][2]


def test_sources_are_joined_in_order(splits):
    fresh, _, _ = augment(splits, sds={**SDS, "draws": "every_epoch"}).inputs(raw_inputs)
    train, dev, _ = augment(splits).inputs(raw_inputs)
    joined = TrainingRows([train, fresh, dev])
    assert len(joined) == 28 + 28 + 7
    indices = [60, 3, 30, 3, 55, 27, 28]
    texts = [row["text"] for row in joined.__getitems__(indices)]
    parts = [
        *train.rows["text"],
        *(row["text"] for row in fresh.fetch(range(28), epoch=0)),
        *dev.rows["text"],
    ]
    assert texts == [parts[index] for index in indices]
    assert joined[60]["label"] == joined.labels[60]


def test_synthetic_rows_are_a_share_of_each_class(splits, synthetic):
    ratio = {"anger": 1.0, "sad": 0.5, "happy": 0.19}
    corpus = augment(splits, synthetic={"path": str(synthetic), "ratio": ratio, "seed": 1})
    added = corpus.splits["train"].select(range(28, len(corpus.splits["train"])))
    assert Counter(EMOTIONS[label] for label in added["label"]) == {"anger": 5, "sad": 2}
    assert corpus.facts["synthetic"]["sad"] == {"available": 5, "used": 2}
    assert corpus.facts["synthetic"]["fear"] == {"available": 5, "used": 0}
    assert set(added["language"]) == {"en"}
    assert set(added["source"]) == {"synthetic"}
    assert set(added["corpus"]) == set(splits["train"]["corpus"])
    assert len(set(added["id"])) == 7
    again = augment(splits, synthetic={"path": str(synthetic), "ratio": ratio, "seed": 2}).splits["train"]
    assert {*again["id"]} != {*corpus.splits["train"]["id"]}
    with pytest.raises(ArgumentError, match=r"synthetic\.ratio: there is no label 'joy'; there are anger, "):
        augment(splits, synthetic={"path": str(synthetic), "ratio": {"joy": 0.5}})
    # a higher ratio takes the same rows and more
    more = augment(splits, synthetic={"path": str(synthetic), "ratio": 0.9, "seed": 1}).splits["train"]
    assert {name for name in added["id"] if "sad" in name} < set(more["id"])


def test_synthetic_rows_that_cannot_be_used_are_refused(splits, synthetic, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no prepared corpus"):
        augment(splits, synthetic={"path": str(tmp_path / "nowhere")})
    russian = DatasetDict(splits | {"train": splits["train"].map(lambda row: {"language": "de"})})
    with pytest.raises(ArgumentError, match="holds en, ru, but the corpus is in de"):
        augment(russian, synthetic={"path": str(synthetic)})
    facts = {"name": "real", "reader": "real", "title": "", "homepage": "", "options": {}}
    write_corpus([Clip("a", "train", "sad", "en", text="real")], facts, FEATURES, tmp_path / "real")
    with pytest.raises(ArgumentError, match="rows that are recorded, not synthetic"):
        augment(splits, synthetic={"path": str(tmp_path / "real")})


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (
            {"sds": {"share": 0.5, "draws": "every_epoch"}},
            r"corpora\.0\.augmentation\.sds\.draws: every_epoch.*feature_cache\.enabled",
        ),
        (
            {"sds": {"shore": 0.5}},
            r"corpora\.0\.augmentation\.sds\.shore: unknown key. Did you mean corpora\.0\.augmentation\.sds\.share\?",
        ),
        ({"synthetic": {"ratio": 1.5}}, r"corpora\.0\.augmentation\.synthetic\.ratio"),
        ({"synthetic": {"ratio": {"joy": 1.5}}}, r"corpora\.0\.augmentation\.synthetic\.ratio"),
    ],
)
def test_mistakes_in_the_run_file_name_their_key(small_run, augmentation, message):
    corpora = small_run().model_dump()["corpora"]
    with pytest.raises(ArgumentError, match=message):
        small_run(corpora=[corpora[0] | {"augmentation": augmentation}])


def test_two_stages_take_one_draw(small_run):
    corpora = [small_run().model_dump()["corpora"][0] | {"augmentation": {"sds": {"share": 0.5, "draws": 2}}}]
    with pytest.raises(ArgumentError, match=r"augmentation\.sds\.draws: stage 1 hands one set of logits"):
        small_run(corpora=corpora, stages={"plan": "two_stage"})


def test_options_that_make_no_sense_together_are_refused(splits):
    with pytest.raises(ArgumentError, match=r"sds: .*max_s=1\.0 is below target_s=4\.0"):
        augment(splits, sds={"share": 0.5, "max_s": 1.0})


@pytest.mark.parametrize(
    "sds",
    [
        {"draws": 2},
        pytest.param({"draws": "every_epoch"}, marks=pytest.mark.slow),
        pytest.param({"draws": 1}, marks=pytest.mark.slow),
    ],
)
def test_a_run_with_augmentation_trains_and_says_what_was_done(small_run, synthetic, tmp_path, sds):
    corpora = small_run().model_dump()["corpora"]
    augmentation = {"sds": {"share": 1.0, "target_s": 0.6} | sds, "synthetic": {"path": str(synthetic), "ratio": 0.2}}
    run = small_run(
        corpora=[corpora[0] | {"augmentation": augmentation}],
        feature_cache={"enabled": sds["draws"] != "every_epoch"},
        dataloader_num_workers=1 if sds["draws"] == "every_epoch" else 0,
    )
    results = run_training(run)
    assert results.augmentation["small"]["sds"]["draws"] == sds["draws"]
    assert results.augmentation["small"]["synthetic"]["anger"] == {"available": 7, "used": 1}
    assert results.protocol["small"]["samples"] == {"train": 21, "dev": 7, "test": 7}
    card = (Path(run.output_dir) / "README.md").read_text()
    assert "rows stacked from clips of the same label" in card
    assert "7 synthetic utterances added" in card
    assert str(tmp_path) not in card + json.dumps(results.to_json())
