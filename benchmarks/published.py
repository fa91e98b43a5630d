"""Run a published comparison, keep its answers, and print its tables.

    python benchmarks/published.py published_fusion --data_dir PATH/TO/resd

Options are those of `bibier study`; the study has one corpus. Runs that are not finished are left out, so the tables
can be made of a study that was stopped (`--report`). The answers to test go to `answers/STUDY-PROTOCOL.csv` in the
folder of the study, with a column for each variant and seed.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import concatenate_datasets

from answer_tables import Answers, study_table
from bibier_hf.commands.study import StudyCommand
from bibier_hf.data.mixture import load_corpora
from bibier_hf.evaluation.report import Predictions
from bibier_hf.training.study import StudyRun, plan_runs, read_study, run_study

PREDICTIONS_FILE = "predictions_test.parquet"


def main() -> None:
    options = StudyCommand.from_command_line(sys.argv[1:])
    study = read_study(options.run_file)
    runs = plan_runs(study, options.overrides, options.only)
    if not options.report:
        run_study(runs)

    for protocol in study.protocols:
        answers = stored_answers([run for run in runs if run.protocol == protocol])
        name = f"{Path(options.run_file).stem}-{protocol}"
        answers.write(Path(study.output_dir) / "answers" / f"{name}.csv")
        print(f"\n{name}, {len(answers.labels)} rows\n\n{study_table(study, answers)}")


def stored_answers(runs: Sequence[StudyRun]) -> Answers:
    """Return the answers to test of the finished runs of one protocol. Folds of a seed are one after the other."""
    (splits,) = load_corpora(runs[0].arguments.corpora, runs[0].arguments.labels).values()
    rows = concatenate_datasets(list(splits.values())).select_columns(["id", "dialogue", "speaker"])
    groups = {row["id"]: row["dialogue"] or row["speaker"] for row in rows}

    folders: dict[str, list[Path]] = {}
    for run in runs:
        folders.setdefault(f"{run.variant} {run.seed}", []).append(run.folder)

    found = {
        name: Predictions.concatenate([Predictions.load(folder / PREDICTIONS_FILE) for folder in of_seed])
        for name, of_seed in folders.items()
        if all((folder / PREDICTIONS_FILE).is_file() for folder in of_seed)
    }
    first = next(iter(found.values()))
    columns = {name: each.predictions for name, each in found.items()}
    return Answers(first.ids, [groups[each] for each in first.ids], first.label_names, first.labels, columns)


if __name__ == "__main__":
    main()
