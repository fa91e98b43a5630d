"""Any label set goes all the way: from a table to a trained model, its scores, its card and the pipeline."""

from itertools import product
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from transformers import pipeline

from bibier_hf.commands.evaluate import EvaluateArguments, evaluate_checkpoint
from bibier_hf.data.corpora import load_corpus
from bibier_hf.data.mixture import label_names
from bibier_hf.data.prepare import read_info
from bibier_hf.data.tables import CorpusError
from bibier_hf.errors import ArgumentError
from bibier_hf.labels import LabelSetError, UnknownLabelError, checked_labels, normalize_label
from bibier_hf.model.modeling_bibier import BiBiERForEmotionClassification
from bibier_hf.training.arguments import run_arguments
from bibier_hf.training.run import run_training

LABEL_SETS = {
    2: ("text", "audio"),  # called like columns
    3: ("очень плохо", "так себе", "Хорошо"),
    8: ("anger", "disgust", "fear", "happy", "neutral", "sad", "surprise", "enthusiasm"),
    60: tuple(f"class {number}" for number in range(60)),
}
TINY = {
    "modalities": ["text"],
    "hidden_size": 16,
    "classifier_size": 16,
    "num_attention_heads": 2,
    "text_config": {"encoder": "transformer", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
}


def write_rows(path: Path, labels: tuple[str, ...], column: str = "label") -> None:
    lines = [f"text,{column},language,split"]
    for split, label in product(("train", "dev", "test"), labels):
        # Case and surrounding spaces do not count.
        lines.append(f"{label} in {split},  {label.upper()} ,ru,{split}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=map(str, LABEL_SETS))
def test_a_label_set_goes_from_the_table_to_the_pipeline(tmp_path, labels):
    write_rows(tmp_path / "own.csv", labels, "mood")
    content = {
        "corpora": [{"name": "csv", "data_dir": str(tmp_path / "own.csv"), "label_column": "mood"}],
        "labels": list(labels),
        "output_dir": str(tmp_path / "out"),
        "model": TINY,
        "num_train_epochs": 1,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    results = run_training(run_arguments(content))
    folder = tmp_path / "out"
    assert results.model["labels"] == list(labels)
    assert list(results.metrics["test"]["own"]["recall"]) == list(labels)
    assert yaml.safe_load((folder / "run.yaml").read_text())["labels"] == list(labels)

    table = pq.read_table(folder / "predictions_test.parquet")
    assert table.column_names[-len(labels) :] == [f"p_{label}" for label in labels]
    assert set(table["label"].to_pylist()) == set(labels)

    model = BiBiERForEmotionClassification.from_pretrained(folder)
    assert model.config.label_names == list(labels)

    command = [str(folder), "--output_dir", str(tmp_path / "scores")]
    again = evaluate_checkpoint(EvaluateArguments.from_command_line(command))
    for name, value in results.metrics["test"]["own"].items():
        assert again.metrics["test"]["own"][name] == (value if name == "recall" else pytest.approx(value, abs=1e-5))

    card = (folder / "README.md").read_text()
    assert f"| corpus | {' | '.join(labels)} |" in card
    assert ", ".join(labels) in card

    answers = pipeline("audio-text-emotion", model=str(folder), trust_remote_code=True)({"text": "хорошо"})
    assert {answer["label"] for answer in answers} == set(labels)
    assert sum(answer["score"] for answer in answers) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["alone"], "too small"),
        ([], "too small"),
        (["a", " "], "name 2 .* is empty"),
        (["Joy", "calm", " joy"], "'Joy' and ' joy' are the same name"),
        (["no", False], "False is not a text"),
    ],
)
def test_names_that_are_no_label_set_are_refused_in_one_line(names, message):
    with pytest.raises(LabelSetError, match=message) as caught:
        checked_labels(names)
    assert "\n" not in str(caught.value)
    content = {"corpora": [{"name": "quickstart"}], "output_dir": "x", "labels": names}
    with pytest.raises(ArgumentError, match="labels"):
        run_arguments(content)


def test_a_label_comes_before_an_alias():
    assert normalize_label("Enthusiasm") == "surprise"
    assert normalize_label("Enthusiasm", LABEL_SETS[8]) == "enthusiasm"
    assert normalize_label("JOY", ("Happy", "sad")) == "Happy"
    with pytest.raises(UnknownLabelError, match=r"Allowed: Happy, sad; also happiness \(= Happy\)"):
        normalize_label("anger", ("Happy", "sad"))


def test_labels_are_merged_and_dropped_by_a_map(tmp_path):
    write_rows(tmp_path / "own.csv", LABEL_SETS[8])
    signs = {"anger": "bad", "fear": "bad", "sad": "bad", "disgust": "bad", "happy": "good", "enthusiasm": "good"}
    mapping = signs | {"neutral": None, "surprise": None}
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(mapping))
    options = {"labels": ["good", "bad"], "label_map": str(tmp_path / "map.yaml")}

    rows = load_corpus("csv", tmp_path / "own.csv", cache_dir=tmp_path / "cache", **options)
    assert label_names(rows) == ("good", "bad")
    assert sorted(rows["test"]["label"]) == [0, 0, 1, 1, 1, 1]
    (folder,) = (tmp_path / "cache" / "corpora").glob("own-*")
    info = read_info(folder)
    assert info["labels"] == ["good", "bad"]
    assert info["remarks"] == {"left out: the label 'NEUTRAL'": 3, "left out: the label 'SURPRISE'": 3}


def test_a_prepared_corpus_serves_a_set_that_has_its_labels(tmp_path):
    write_rows(tmp_path / "own.csv", LABEL_SETS[8][:7])
    cache = {"cache_dir": tmp_path / "cache"}
    load_corpus("csv", tmp_path / "own.csv", **cache)
    (folder,) = (tmp_path / "cache" / "corpora").glob("own-*")

    wider = load_corpus("csv", folder, labels=LABEL_SETS[8][::-1])
    assert label_names(wider) == LABEL_SETS[8][::-1]
    assert sorted(wider["test"]["label"]) == [1, 2, 3, 4, 5, 6, 7]

    label_map = dict.fromkeys(LABEL_SETS[8], "not") | {"neutral": "calm"}
    halves = load_corpus("csv", folder, labels=["calm", "not"], label_map=label_map)
    assert sorted(halves["test"]["label"]) == [0, 1, 1, 1, 1, 1, 1]
    with pytest.raises(CorpusError, match="unknown label 'anger'"):
        load_corpus("csv", folder, labels=["calm", "not"])
