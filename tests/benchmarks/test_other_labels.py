"""Tables of other labels: from stored answers, and equal to those in docs/results.md."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from answer_tables import TARGETS, Answers, few_shot_table, study_table, target_table
from bibier_hf.data.mixture import CorpusArguments
from bibier_hf.errors import ArgumentError
from bibier_hf.evaluation.bootstrap import drawn_scores, percentile_interval
from bibier_hf.evaluation.report import Predictions
from bibier_hf.run_files import find_run_file
from bibier_hf.training.arguments import RunArguments
from bibier_hf.training.study import Published, StudyArguments, StudyRun
from published import stored_answers

REPOSITORY = Path(__file__).resolve().parents[2]
STORED = REPOSITORY / "benchmarks" / "answers"


@pytest.fixture
def answers() -> Answers:
    labels = np.arange(40) % 2
    wrong = np.where(np.arange(40) < 10, 1 - labels, labels)
    ids, groups = [f"c-{row}" for row in range(40)], [f"s{row // 5}" for row in range(40)]
    columns = {"adapt 8 1": labels, "adapt 8 2": wrong, "scratch 8 1": np.zeros(40, int), "adapt 16 1": labels}
    return Answers(ids, groups, ["нет", "да"], labels, columns)


def test_answers_are_read_as_they_were_written(answers, tmp_path):
    answers.write(tmp_path / "answers" / "few_shot.csv")
    again = Answers.read(tmp_path / "answers" / "few_shot.csv")
    assert list(again.ids) == list(answers.ids)
    assert again.names == answers.names
    assert again.columns.keys() == answers.columns.keys()
    assert again.scores(["adapt 8 1", "adapt 8 2"]) == answers.scores(["adapt 8 1", "adapt 8 2"])


def test_draws_are_averaged(answers, tmp_path):
    (scores, (low, high)) = answers.scores(["adapt 8 1", "adapt 8 2"])["uar"]
    assert scores == [1.0, 0.75]
    assert low < 0.875 < high
    (_, interval) = answers.scores(["adapt 8 2", "adapt 8 2"])["uar"]
    drawn = drawn_scores(answers.labels, answers.columns["adapt 8 2"], answers.groups)
    assert interval == percentile_interval(drawn["uar"])

    answers.write(tmp_path / "few_shot.csv")
    lines = few_shot_table(tmp_path).splitlines()
    assert [line.split(" | ")[2] for line in lines[2:]] == ["87.5", "50.0", "100.0"]
    assert "| 75.0 to 100.0 |" in lines[2]


def test_variants_are_compared_with_the_first_and_with_published_scores(answers):
    published = Published(differs="other data", scores={"late": {"resd": {"uar": 50.44}}})
    study = StudyArguments(run="x", output_dir="x", variants={"base": {}, "late": {}, "none": {}}, published=published)
    right, wrong = answers.columns["adapt 8 1"], answers.columns["adapt 8 2"]
    columns = {"base 1": right, "base 2": wrong, "late 1": wrong, "late 2": wrong}
    head, _, base, late = study_table(study, replace(answers, columns=columns), "resd").splitlines()
    assert "| UAR, difference from `base` |" in head
    assert base.startswith("| base | 2 | 87.5 | 75.0 to 100.0 |")
    assert base.endswith("| – | – | – |")
    assert late.startswith("| late | 2 | 75.0 | 75.0 to 75.0 |")
    assert "| -12.5 [" in late
    assert late.endswith("| UAR 50.4 | other data |")


def test_the_studies_come_with_the_package():
    for name in TARGETS:
        find_run_file(name.rpartition("-")[0], "study")


def test_the_tables_of_the_documents_are_those_of_the_stored_answers():
    page = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    assert few_shot_table(STORED) in page
    assert target_table(STORED) in page
    for path in sorted([*STORED.glob("published_*.csv"), *STORED.glob("resd_context-*.csv")]):
        name, _, corpus = path.stem.split("-")
        study = StudyArguments.read(find_run_file(name, "study"))
        assert study_table(study, Answers.read(path), corpus) in page, path.name
    assert sum(path.stat().st_size for path in STORED.iterdir()) < 1_000_000


def test_answers_of_unfinished_or_different_runs_are_refused(tmp_path):
    def run(name: str, ids: list[str] | None) -> StudyRun:
        arguments = RunArguments(output_dir=str(tmp_path / name), corpora=[CorpusArguments(name="quickstart")])
        if ids:
            rows = len(ids)
            answers = np.eye(2)[[0] * rows]
            found = Predictions(ids, ["q"] * rows, ["en"] * rows, np.zeros(rows, int), answers, ["a", "b"])
            found.save(tmp_path / name / "predictions_test.parquet")
        return StudyRun(name, "official", 1, None, arguments)

    with pytest.raises(ArgumentError, match=r"official: no run is finished"):
        stored_answers([run("none", None)])
    with pytest.raises(ArgumentError, match=r"do not answer the same rows"):
        stored_answers([run("one", ["x", "y"]), run("other", ["y", "x"])])
