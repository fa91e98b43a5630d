"""Several labels at once, and values: from the columns of a table to a trained model, its scores, card and
pipeline."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml
from sklearn.metrics import f1_score
from transformers import pipeline

from bibier_hf.commands.adapt import AdaptArguments
from bibier_hf.commands.evaluate import EvaluateArguments, evaluate_checkpoint
from bibier_hf.commands.train import TrainArguments, train
from bibier_hf.data.corpora import load_corpus
from bibier_hf.data.corpora.table import read_csv
from bibier_hf.data.prepare import describe_counts, read_info
from bibier_hf.data.schema import problem_type_of, truth_of
from bibier_hf.data.tables import CorpusError
from bibier_hf.data.targets import chosen_targets
from bibier_hf.errors import ArgumentError
from bibier_hf.evaluation.problems import PROBLEMS, agreement, best_threshold
from bibier_hf.labels import LabelSetError
from bibier_hf.model.modeling_bibier import BiBiERForEmotionClassification
from bibier_hf.training.arguments import run_arguments
from bibier_hf.training.run import run_training

from .test_label_sets import TINY

VALUES, SEVERAL = "regression", "multi_label_classification"


def write_table(path: Path, rows: list[dict]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(columns: dict[str, list], split: str = "train") -> list[dict]:
    count = len(next(iter(columns.values())))
    return [
        {"text": f"text {row}", "language": "en", "split": split}
        | {name: cells[row] for name, cells in columns.items()}
        for row in range(count)
    ]


def targets_of(folder: Path, columns: dict[str, list], **options) -> list[list[float]]:
    return [list(clip.target) for clip in read_csv(write_table(folder / "own.csv", rows_of(columns)), **options)]


def test_values_are_columns(tmp_path):
    columns = {"arousal": ["0,5", "-1", "2e1"], " Valence": [1, 2.5, "3"]}
    options = {"problem_type": VALUES, "labels": ["valence", "arousal"]}
    assert targets_of(tmp_path, columns, **options) == [[1, 0.5], [2.5, -1], [3, 20]]


def test_several_labels_are_columns_or_names(tmp_path):
    options = {"problem_type": SEVERAL, "labels": ["радость", "Гнев", "text 1"]}
    columns = {"радость": [1, 0], "гнев": ["1.0", "0"], "text 1": [0, 0]}
    assert targets_of(tmp_path, columns, **options) == [[1, 1, 0], [0, 0, 0]]

    names = {"tags": ["гнев | РАДОСТЬ", "text 1;", ""]}
    assert targets_of(tmp_path, names, label_column="tags", **options) == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]
    label_map = {"злость": "Гнев", "?": None}
    mapped = {"tags": ["злость;?", "?"]}
    assert targets_of(tmp_path, mapped, label_column="tags", label_map=label_map, **options) == [[0, 1, 0], [0, 0, 0]]

    lines = [{"text": "a", "language": "en", "split": "train", "label": ["гнев"]}]
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert read_csv(tmp_path / "own.jsonl", **options)[0].target == [0, 1, 0]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"valence": [1, "much"]}, {}, r"own.csv line 3, column 'valence': 'much' is not a number"),
        ({"valence": [1, "3,75"]}, {}, r"line 3, column 'valence': '3,75' is not a number"),
        ({"valence": ["", 1]}, {}, r"line 2, column 'valence': no number"),
        ({"valence": ["nan", 1]}, {}, r"line 2, column 'valence': no number"),
        ({"valence": ["inf", 1]}, {}, r"line 2, column 'valence': inf must be a finite number"),
        ({"valence": [8, 1]}, {"ranges": {"Valence": [1, 7]}}, r"line 2, column 'valence': 8 is not from 1 to 7"),
        ({"valence": [1, 1]}, {"ranges": {"pain": [1, 7]}}, r"ranges: there is no target 'pain'"),
        (
            {"valence": [1, 1]},
            {"ranges": {"valence": [7, 1]}},
            r"ranges: valence: \[7, 1\] must be \[lowest, highest\]",
        ),
        ({"valense": [1, 1]}, {}, r"no column 'valence'\. Did you mean valense\?"),
        ({"valence": [1, 1]}, {"label_map": {"a": "valence"}}, r"label_map: for names of labels"),
        ({"joy": [1, 2], "anger": [0, 0]}, {"labels": ["joy", "anger"]}, r"line 3, column 'joy': 2 must be 0 .* or 1"),
        ({"joy": [1, 0]}, {"labels": ["joy", "anger"]}, r"no column 'anger'.*or a column 'label' with their names"),
        ({"label": ["joy|fury"]}, {"labels": ["joy", "anger"]}, r"line 2, column 'label': Unknown label 'fury'"),
        (
            {"label": ["joy"], "joy": [1], "anger": [0]},
            {"labels": ["joy", "anger"]},
            r"given twice: in the column 'label', and in columns called joy, anger",
        ),
        (
            {"joy": [1], "anger": [0]},
            {"labels": ["joy", "anger"], "ranges": {"joy": [0, 1]}},
            r"ranges: for problem_type",
        ),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path, columns, options, message):
    options = {"labels": ["valence"]} | options
    kind = VALUES if options["labels"] == ["valence"] else SEVERAL
    with pytest.raises(CorpusError, match=message):
        read_csv(write_table(tmp_path / "own.csv", rows_of(columns)), problem_type=kind, **options)


def test_a_prepared_corpus_says_what_it_is_for(tmp_path):
    table = [
        row for split in ("train", "dev", "test") for row in rows_of({"valence": [1, 2], "arousal": [3, 4]}, split)
    ]
    path, options = (
        write_table(tmp_path / "own.csv", table),
        {"problem_type": VALUES, "labels": ["valence", "arousal"]},
    )
    rows = load_corpus("csv", path, cache_dir=tmp_path / "cache", **options)["test"]
    assert problem_type_of(rows.features) == VALUES
    assert truth_of(rows).tolist() == [[1, 3], [2, 4]]
    assert rows["label"] == [None, None]

    (folder,) = (tmp_path / "cache" / "corpora").glob("own-*")
    assert "train: valence 1 to 2, arousal 3 to 4" in describe_counts(read_info(folder))
    one = load_corpus("csv", folder, problem_type=VALUES, labels=["Arousal"])["test"]
    assert (truth_of(one).tolist(), one.features["label"].names) == ([[3], [4]], ["Arousal"])
    with pytest.raises(CorpusError, match="have no target pain; they have valence, arousal"):
        chosen_targets(rows, ["pain"])
    with pytest.raises(CorpusError, match="was prepared for problem_type='regression'"):
        load_corpus("csv", folder)
    with pytest.raises(CorpusError, match="the corpus 'quickstart' is for single_label"):
        load_corpus("quickstart", problem_type=SEVERAL)
    with pytest.raises(CorpusError, match="'ordinal' is not allowed"):
        load_corpus("csv", path, problem_type="ordinal", labels=["valence"])
    with pytest.raises(LabelSetError, match="at least two names"):
        load_corpus("csv", path, problem_type=SEVERAL, labels=["valence"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"problem_type": VALUES}, "labels: a regression has no default"),
        ({"calibrate": True}, "calibrate: values of a regression have no temperature"),
        (
            {"class_weights": "balanced"},
            "class_weights: needs one label for each clip, but problem_type is regression",
        ),
        ({"soft_labels": True}, "soft_labels: needs one label"),
        ({"logit_adjustment": 0.5}, "logit_adjustment: needs one label"),
        ({"model": {"label_ranges": [[0, 1]]}}, "model.label_ranges: those of the training rows"),
        ({"augmentation": {"sds": {"share": 0.5}}}, r"corpora\.0\.augmentation\.sds: needs one label"),
        ({"augmentation": {"synthetic": {"path": "x"}}}, r"corpora\.0\.augmentation\.synthetic: needs one label"),
    ],
)
def test_options_for_one_label_are_refused(keys, message):
    corpus = {"name": "csv"} | {name: keys[name] for name in keys if name == "augmentation"}
    run = {"corpora": [corpus], "output_dir": "x", "problem_type": VALUES}
    run |= {} if "problem_type" in keys else {"labels": ["valence"]}
    with pytest.raises(ArgumentError, match=message):
        run_arguments(run | {name: value for name, value in keys.items() if name != "augmentation"})


def test_class_weights_belong_to_classes():
    run = {"corpora": [{"name": "csv"}], "output_dir": "x"}
    assert run_arguments(run).class_weights == "balanced"
    assert run_arguments(run | {"problem_type": SEVERAL}).class_weights == "none"


def test_the_agreement_by_hand():
    truth, values = np.array([[1.0, 5], [2, 5], [3, 5]]), np.array([[2.0, 5], [4, 5], [6, 5]])
    # Means 4 and 2, variances 8/3 and 2/3, covariance 4/3.
    found = agreement(truth, values)
    np.testing.assert_allclose(found["ccc"], [2 * (4 / 3) / (8 / 3 + 2 / 3 + 4), 1])
    np.testing.assert_allclose(found["pearson"], [1, 0])
    np.testing.assert_allclose(found["mae"], [2, 0])


def test_the_best_threshold_is_found():
    generator = np.random.default_rng(0)
    scores = generator.uniform(size=60).round(2)
    truth = (scores + generator.normal(0, 0.2, 60) > 0.6).astype(int)
    best = best_threshold(truth, scores)
    tried = np.linspace(0, 1, 201)
    assert f1_score(truth, scores >= best) == pytest.approx(max(f1_score(truth, scores >= low) for low in tried))
    assert best not in scores
    assert best_threshold(np.zeros(3), np.array([0.1, 0.2, 0.9])) == 0.5


def test_several_labels_by_hand():
    truth, answers = np.array([[1, 0, 0], [1, 1, 0]]), np.array([[0.9, 0.6, 0.1], [0.2, 0.7, 0.3]])
    scores = PROBLEMS[SEVERAL].score(truth, answers, {"thresholds": [0.5, 0.65, 0.5]})
    # Of two present: one found, none false; of one: found. The third label never occurs.
    assert scores == pytest.approx({"macro_f1": (2 / 3 + 1) / 2, "micro_f1": 4 / 5, "map": 1.0})
    assert PROBLEMS[SEVERAL].of_labels(truth, answers, {}, ["a", "b", "c"])["f1_by_label"]["c"] is None


NAMES = {
    1: ("насколько больно",),
    2: ("text", "audio"),  # called like columns
    3: ("очень плохо", "так себе", "Хорошо"),
    8: tuple("abcdefgh"),
    60: tuple(f"class {number}" for number in range(60)),
}
FAST = [(VALUES, 1), (VALUES, 3), (SEVERAL, 2), (SEVERAL, 3), (SEVERAL, 60)]
SLOW = [(VALUES, 8), (VALUES, 60), (SEVERAL, 8)]


@pytest.mark.parametrize(("kind", "size"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)])
def test_targets_go_from_the_table_to_the_pipeline(tmp_path, kind, size):
    names = NAMES[size]
    generator = np.random.default_rng(1)
    table = []
    for split, count in (("train", 12), ("dev", 6), ("test", 6)):
        numbers = generator.integers(0, 2, (count, len(names))).tolist()
        columns = {"tags": ["|".join(name for name, here in zip(names, row, strict=True) if here) for row in numbers]}
        if kind == VALUES:
            columns = {name: [row[place] + 4.5 for row in numbers] for place, name in enumerate(names)}
        table += rows_of(columns, split)

    corpus = {"name": "csv", "data_dir": str(write_table(tmp_path / "own.csv", table))}
    content = {
        "corpora": [corpus | ({} if kind == VALUES else {"label_column": "tags"})],
        "labels": list(names),
        "problem_type": kind,
        "output_dir": str(tmp_path / "out"),
        "model": TINY,
        "num_train_epochs": 1,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    results = run_training(run_arguments(content))
    folder, problem = tmp_path / "out", PROBLEMS[kind]
    assert results.model["problem_type"] == kind
    assert results.selection["metric"] == problem.formula
    assert list(results.metrics_mean["test"]) == list(problem.columns)
    assert yaml.safe_load((folder / "run.yaml").read_text())["problem_type"] == kind

    config = BiBiERForEmotionClassification.from_pretrained(folder).config
    assert (config.problem_type, config.label_names) == (kind, list(names))
    if kind == VALUES:
        assert config.label_ranges == [[4.5, 5.5]] * len(names)
        assert (folder / "values_test_own.png").exists()
    else:
        assert len(config.thresholds) == len(names)
        assert config.temperature == results.calibration["temperature"]

    columns = pq.read_table(folder / "predictions_test.parquet").column_names
    assert columns[-len(names) :] == [problem.prefix + name for name in names]
    again = evaluate_checkpoint(
        EvaluateArguments.from_command_line([str(folder), "--output_dir", str(tmp_path / "s")])
    )
    for name in problem.columns:
        assert again.metrics["test"]["own"][name] == pytest.approx(results.metrics["test"]["own"][name], abs=1e-4)

    card = (folder / "README.md").read_text()
    assert f"| corpus | {' | '.join(names)} |" in card
    assert ("Predicts the" if kind == VALUES else "labels apply to") in card
    assert ("### Calibration" in card) == (kind == SEVERAL)

    answers = pipeline("audio-text-emotion", model=str(folder), trust_remote_code=True)({"text": "хорошо"})
    assert {answer["label"] for answer in answers} == set(names)
    assert ("present" in answers[0]) == (kind == SEVERAL)


def test_adapt_names_the_other_way():
    command = ["outputs/resd", "ratings.csv", "--output_dir", "x", "--problem_type", "regression"]
    with pytest.raises(ArgumentError, match=r"train with init_from: CHECKPOINT and frozen"):
        AdaptArguments.from_command_line(command)


def test_a_known_function_of_the_sound_is_recovered(tmp_path, monkeypatch):
    """Pitches of a low and a high tone, in units of their own. Front ends of speech take the mean of each frequency
    away, so the tones come and go."""
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))
    generator, seconds = np.random.default_rng(0), np.arange(4800) / 16_000
    splits = ["train"] * 256 + ["dev"] * 32 + ["test"] * 32
    table = []
    for number, split in enumerate(splits):
        low, high = generator.uniform(0, 1, 2)
        tones = sum(np.sin(2 * np.pi * hertz * seconds) for hertz in (200 + 600 * low, 1500 * 4**high))
        heard = 0.2 * (np.abs(seconds - 0.15) < 0.06) * tones
        samples = heard + 0.003 * generator.standard_normal(len(seconds))
        soundfile.write(tmp_path / f"{number}.wav", samples.astype(np.float32), 16_000)
        columns = {"audio": f"{number}.wav", "language": "en", "split": split}
        table.append(columns | {"low": round(100 + 400 * low, 1), "high": round(2 * high - 1, 3)})
    write_table(tmp_path / "own.csv", table)

    run = {
        "corpora": [{"name": "csv", "data_dir": str(tmp_path / "own.csv")}],
        "labels": ["low", "high"],
        "problem_type": VALUES,
        "model": {
            "modalities": ["audio"],
            "hidden_size": 32,
            "classifier_size": 32,
            "dropout": 0.0,
            "audio_config": {"encoder": "frame_mlp", "hidden_size": 32, "num_hidden_layers": 1},
        },
        "num_train_epochs": 14,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
        "learning_rate": 5e-3,
        "scheduler": "huggingface_cosine",
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    keys = ["--output_dir", str(tmp_path / "out"), "--use_cpu", "true", "--disable_tqdm", "true"]
    train(TrainArguments.from_command_line([str(tmp_path / "run.yaml"), *keys]))

    scores = json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]["test"]["own"]
    assert scores["ccc_by_label"]["low"] > 0.95
    assert scores["ccc_by_label"]["high"] > 0.95
