"""A model over precomputed features without dropout, and rows for it: what a trainer test needs, and nothing that is
slow."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import ClassLabel, Dataset
from transformers import AutoConfig, AutoModel, ByT5Tokenizer, Wav2Vec2FeatureExtractor

from bibier_hf import EMOTIONS, BiBiERConfig, BiBiERForEmotionClassification
from bibier_hf.data.collator import FeatureCollator
from bibier_hf.data.feature_store import FeatureStore, StoredRows, row_key
from bibier_hf.data.features import InputDataset, InputSpec
from bibier_hf.training.arguments import run_arguments
from bibier_hf.training.rows import RunInputs
from bibier_hf.training.trainer import BiBiERTrainer

from ..conftest import both, features_of, merged

WIDTH = 6
SPECS = {
    "audio": InputSpec("audio_features", "audio_features_mask", WIDTH, "float32", from_backbone=True),
    "text": InputSpec("text_features", "text_features_mask", WIDTH, "float32", from_backbone=True),
}


def run_inputs(train: InputDataset, dev: InputDataset) -> RunInputs:
    """Rows of features; dev is also test."""
    return RunInputs([train], dev, dev, FeatureCollator(SPECS))


@pytest.fixture
def feature_model(tiny_options):
    """`feature_model(**options)` -> a tiny model that takes features of width 6; the same weights at every call."""

    def build(**options) -> BiBiERForEmotionClassification:
        torch.manual_seed(0)
        still = both(dropout=0.0) | {"dropout": 0.0, "modality_dropout": 0.0}
        widths = features_of(audio=WIDTH, text=WIDTH)
        return BiBiERForEmotionClassification(BiBiERConfig(**merged(tiny_options, widths, still, options)))

    return build


@pytest.fixture
def feature_rows(tmp_path):
    """`feature_rows(count, seed)` -> rows whose features tell their label; two corpora, two languages, some soft
    labels."""

    def build(count: int = 24, seed: int = 0) -> InputDataset:
        generator = np.random.default_rng(seed)
        labels = generator.permutation(np.arange(count) % len(EMOTIONS))
        values_of = {name: [] for name in ("audio_features", "text_features")}
        for index, label in enumerate(labels):
            for name, longest in (("audio_features", 9), ("text_features", 5)):
                values = generator.standard_normal((generator.integers(1, longest), WIDTH)).astype(np.float32)
                values[:, label % WIDTH] += 2 + label
                values_of[name].append(torch.from_numpy(values) if index % 5 else None)
            if index % 5 == 0:  # one modality missing, the other there
                values_of[("audio_features", "text_features")[index % 2]][-1] = torch.from_numpy(values)
        soft = [np.eye(7)[label] * 0.7 + 0.3 / 7 if index % 2 else None for index, label in enumerate(labels)]
        metadata = Dataset.from_dict(
            {
                "id": [f"{seed}-{index}" for index in range(count)],
                "corpus": ["a" if index % 3 else "b" for index in range(count)],
                "language": ["en" if index % 2 else "ru" for index in range(count)],
                "label": labels,
                "soft_label": [None if values is None else values.tolist() for values in soft],
                "duration_s": [0.0 if values is None else len(values) for values in values_of["audio_features"]],
            }
        ).cast_column("label", ClassLabel(names=list(EMOTIONS)))
        return InputDataset(metadata, {name: stored(name, seed, values) for name, values in values_of.items()})

    def stored(name: str, seed: int, values: list[torch.Tensor | None]) -> StoredRows:
        store = FeatureStore(tmp_path / "features", name, {"seed": seed, "rows": len(values)}, WIDTH, torch.float32)
        keys = [None if row is None else row_key(row.numpy().tobytes()) for row in values]
        store.extract(
            keys,
            [0 if row is None else len(row) for row in values],
            lambda positions: [values[index] for index in positions],
        )
        return store.rows(keys)

    return build


@pytest.fixture
def make_trainer(feature_model, feature_rows, processor, tmp_path):
    """`make_trainer(soft_labels=..., model=..., **run keys)` -> a trainer over 24 training and 14 dev rows."""

    def build(model=None, soft_labels: bool = False, rows: int = 24, **options) -> BiBiERTrainer:
        content = {
            "output_dir": str(tmp_path / "run"),
            "corpora": [{"name": "a"}],
            "use_cpu": True,
            "disable_tqdm": True,
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "class_weights": "none",
            "corpus_balanced_sampling": False,
            "soft_labels": soft_labels,
        }
        run = run_arguments(content | options)
        data = run_inputs(feature_rows(rows, 0), feature_rows(14, 1))
        return BiBiERTrainer(run, model if model is not None else feature_model(), data, processor)

    return build


def write_corpus_table(folder: Path, name: str = "small", train: int = 14) -> Path:
    """A table of short clips in seven classes and two languages, with splits; the pitch tells the label, and so does
    the text."""
    generator = np.random.default_rng(0)
    lines = ["audio,text,label,split,language,speaker"]
    for split, count in (("train", train), ("dev", 7), ("test", 7)):
        for index in range(count):
            label = index % len(EMOTIONS)
            language = "en" if index % 2 else "ru"
            time = np.arange(int(16_000 * generator.uniform(0.2, 0.5))) / 16_000
            clip = 0.3 * np.sin(2 * np.pi * (200 + 150 * label) * time) + 0.01 * generator.standard_normal(len(time))
            file = f"{split}{index:02d}.wav"
            soundfile.write(folder / file, clip.astype(np.float32), 16_000)
            text = (
                (f"sample {index} of {label}" if language == "en" else f"пример {index} из {label}")
                if index % 4
                else ""
            )
            lines.append(f"{file},{text},{EMOTIONS[label]},{split},{language},{split}{index % 3}")
    table = folder / f"{name}.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


@pytest.fixture(scope="session")
def write_table():
    """`write_table(folder, name, train)` -> a table of short clips in the folder ([`write_corpus_table`])"""
    return write_corpus_table


@pytest.fixture
def corpus_table(tmp_path, monkeypatch) -> Path:
    """The table, with caches of its own."""
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "corpus"
    folder.mkdir()
    return write_corpus_table(folder)


@pytest.fixture
def small_run(corpus_table, tmp_path, tiny_options):
    """`small_run(**run keys)` -> a run over the table that takes a few seconds."""

    def build(**options):
        content = {
            "corpora": [{"name": "csv", "data_dir": str(corpus_table)}],
            "output_dir": str(tmp_path / "out"),
            "model": dict(tiny_options),
            "num_train_epochs": 2,
            "learning_rate": 1e-3,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        return run_arguments(content | options)

    return build


_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> dict[str, str]:
    """Folders of a tiny wav2vec2 and a tiny BERT with random weights."""
    folder = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(0)
    speech = AutoConfig.for_model(
        "wav2vec2", **_SMALL, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, conv_dim=(16,) * 7, feat_extract_norm="layer",
        do_stable_layer_norm=True, apply_spec_augment=False,
    )  # fmt: skip
    AutoModel.from_config(speech).save_pretrained(folder / "speech")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder / "speech")
    text = AutoConfig.for_model("bert", **_SMALL, vocab_size=384, max_position_embeddings=128, pad_token_id=0)
    AutoModel.from_config(text).save_pretrained(folder / "text")
    ByT5Tokenizer().save_pretrained(folder / "text")
    return {"audio_backbone": str(folder / "speech"), "text_backbone": str(folder / "text")}
