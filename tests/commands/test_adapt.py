"""`bibier adapt`: from a table with any labels to a checkpoint that the pipeline loads."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bibier_cli import main
from bibier_hf.commands.adapt import AdaptArguments, run_adaptation
from bibier_hf.commands.checkpoint import load_config
from bibier_hf.evaluation.results import RunResults

WORDS = {"Жалоба": "верните деньги немедленно", "вопрос": "подскажите пожалуйста", "Спасибо!": "отлично благодарю"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))


def write_table(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    return str(path)


def text_rows(count: int, speakers: int = 4, **more: str) -> list[dict[str, str]]:
    return [
        {"text": f"{words} {index}", "label": label, "language": "ru", "speaker": f"s{index % speakers}", **more}
        for index in range(count)
        for label, words in WORDS.items()
    ]


def adapt(*arguments: str) -> RunResults:
    return run_adaptation(AdaptArguments.from_command_line(list(arguments)), "bibier adapt")


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ending:
        main(["adapt", *arguments])
    return int(ending.value.code)


def test_a_table_of_texts_with_labels_of_its_own(checkpoint, tmp_path, capsys):
    table, folder = write_table(tmp_path / "calls.jsonl", text_rows(8)), tmp_path / "adapted"
    assert exit_code(str(checkpoint), table, "--output_dir", str(folder)) == 0
    printed = capsys.readouterr().out
    assert "Жалоба" in printed
    assert "over speakers" in printed

    results = RunResults.load(folder / "results.json")
    assert results.model["labels"] == ["вопрос", "Жалоба", "Спасибо!"]
    assert results.adaptation["clips"] == {"вопрос": 8, "Жалоба": 8, "Спасибо!": 8}
    assert results.adaptation["interval_over"] == {"dev": "speakers"}
    assert results.metrics["dev"]["calls"]["uar"] > 0.8
    low, high = results.adaptation["intervals"]["dev"]["uar"]
    assert low <= results.metrics["dev"]["calls"]["uar"] <= high
    assert results.protocol["calls"]["name"] == "cross-validation"

    answers = pq.read_table(folder / "predictions_dev.parquet")
    assert answers.column_names == [
        "id", "corpus", "language", "label", "prediction", "p_вопрос", "p_Жалоба", "p_Спасибо!",
    ]  # fmt: skip
    assert np.allclose(sum(answers[name].to_numpy() for name in answers.column_names[5:]), 1)
    card = (folder / "README.md").read_text(encoding="utf-8")
    for part in (
        "Cross-validated answers (4 folds over speakers)",
        "model with three classes",
        "| Спасибо! |",
        "95 % intervals",
    ):
        assert part in card
    assert str(tmp_path) not in card

    code = f"""
from transformers import AutoModel, pipeline
print(AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True).config.label_names)
pipe = pipeline("audio-text-emotion", model={str(folder)!r}, trust_remote_code=True)
print([pipe({{"text": text}})[0]["label"] for text in {list(WORDS.values())!r}])
"""
    found = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code], capture_output=True, text=True, check=True, encoding="utf-8",
        env=_clean_environment(tmp_path),
    )  # fmt: skip
    assert found.stdout.splitlines() == [str(results.model["labels"]), str(list(WORDS))]


def _clean_environment(folder: Path) -> dict[str, str]:
    """Without this package on the path: the checkpoint brings its code."""
    import os

    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def test_a_table_with_splits_and_two_labels(checkpoint, tmp_path):
    rows = [row for row in text_rows(10) if row["label"] != "вопрос"]
    for index, row in enumerate(rows):
        row["split"] = ("train", "train", "train", "dev", "test")[index // 2 % 5]
        row["label"] = {"Жалоба": "yes", "Спасибо!": "no"}[row["label"]]
    table = write_table(tmp_path / "two.jsonl", rows)
    results = adapt(str(checkpoint), table, "--dev", "--output_dir", str(tmp_path / "with-dev"))
    assert results.adaptation["scored_on"] == "dev"
    assert results.protocol["two"]["samples"] == {"train": 12, "dev": 4, "test": 4}
    assert set(results.metrics) == {"dev", "test"}

    results = adapt(str(checkpoint), table, "--clips_per_label", "5", "--output_dir", str(tmp_path / "drawn"))
    assert results.adaptation["clips"] == {"no": 5, "yes": 5}
    assert results.protocol["two"]["samples"] == {"train": 10, "test": 4}
    assert results.metrics["test"]["two"]["samples"] == 4
    assert (tmp_path / "drawn" / "predictions_test.parquet").is_file()


def test_labels_that_no_row_has_are_left_out(checkpoint, tmp_path):
    table = write_table(tmp_path / "calls.jsonl", text_rows(6))
    label_map = '{"Жалоба": "anger", "Спасибо!": "happy", "вопрос": null}'
    options = ["--corpus", "csv", "--data_dir", table, "--label_map", label_map]
    results = adapt(str(checkpoint), *options, "--output_dir", str(tmp_path / "adapted"))
    assert results.model["labels"] == ["anger", "happy"]
    assert results.adaptation["clips"] == {"anger": 6, "happy": 6}


@pytest.mark.slow
def test_a_corpus_keeps_its_test_split(checkpoint, tmp_path):
    options = ["--corpus", "quickstart", "--clips_per_label", "4", "--output_dir", str(tmp_path / "adapted")]
    results = adapt(str(checkpoint), *options)
    assert len(results.model["labels"]) == 7
    assert set(results.metrics) == {"dev", "test"}
    assert results.data["quickstart"]["source"] == ["synthetic"]


def test_confounded_speakers_are_told(checkpoint, tmp_path, capsys):
    rows = [row | {"speaker": row["label"]} for row in text_rows(8)]
    table = write_table(tmp_path / "calls.jsonl", rows)
    assert exit_code(str(checkpoint), table, "--output_dir", str(tmp_path / "adapted")) == 0
    printed = capsys.readouterr().out
    assert "Warning: Speakers are confounded with labels" in printed
    assert "Warning: The folds share speakers" in printed
    assert "Speakers are confounded" in (tmp_path / "adapted" / "README.md").read_text(encoding="utf-8")


def test_what_cannot_be_adapted_is_told_in_one_line(checkpoint, tmp_path, capsys):
    rows = text_rows(2)
    one = write_table(tmp_path / "one.jsonl", [row for row in rows if row["label"] == "вопрос"])
    few = write_table(tmp_path / "few.jsonl", rows[:4])
    fine = write_table(tmp_path / "fine.jsonl", rows)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "config.json").touch()
    new = ["--output_dir", str(tmp_path / "new")]
    for arguments, message in (
        ([one, *new], "label"),
        ([few, *new], "label: each label needs 2 clips or more; вопрос 1"),
        (
            [fine, "--output_dir", str(taken)],
            f"output_dir: {taken} holds a model already (config.json). Give another output_dir.",
        ),
        ([fine, "--dev", *new], "dev: the table has no column split."),
        ([fine, "--corpus", "resd", *new], "corpus: TABLE is given as well. Leave out one of them."),
        ([str(tmp_path / "none.csv"), *new], "none.csv"),
    ):
        assert exit_code(str(checkpoint), *arguments) == 2
        printed = capsys.readouterr().err.strip().splitlines()[-1]
        assert printed.startswith("error: ")
        assert message in printed
    assert not (tmp_path / "new" / "config.json").exists()


def test_the_pipeline_takes_the_context_that_was_learned_from(checkpoint, tmp_path):
    rows = [row | {"dialogue": row["speaker"], "turn": str(place)} for place, row in enumerate(text_rows(4))]
    given = [str(checkpoint), write_table(tmp_path / "calls.jsonl", rows)]
    for context, name in ((None, "without"), ({"utterances": 2, "speakers": True}, "with")):
        options = ["--context.utterances", "2"] if context else []
        adapt(*given, "--output_dir", str(tmp_path / name), *options)
        assert load_config(str(tmp_path / name)).text_context == context

    adapt(str(tmp_path / "with"), *given[1:], "--output_dir", str(tmp_path / "again"))
    assert load_config(str(tmp_path / "again")).text_context is None
