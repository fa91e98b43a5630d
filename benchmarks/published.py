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

import bibier_cli
from answer_tables import Answers, study_table
from bibier_hf.commands.study import StudyCommand
from bibier_hf.data.mixture import load_corpora
from bibier_hf.errors import ArgumentError
from bibier_hf.evaluation.bootstrap import bootstrap_column
from bibier_hf.evaluation.report import Predictions
from bibier_hf.files import locked_by_first_process
from bibier_hf.training.study import StudyRun, plan_runs, read_study, run_study

PREDICTIONS_FILE = "predictions_test.parquet"


def publish(options: StudyCommand) -> None:
    study = read_study(options.run_file)
    runs = plan_runs(study, options.overrides, options.only)
    with locked_by_first_process(study.output_dir, options.after_interrupt()):
        if not options.report:
            run_study(runs, study.keep_models)

        for protocol in dict.fromkeys(run.protocol for run in runs):
            answers = stored_answers([run for run in runs if run.protocol == protocol])
            name = f"{Path(options.run_file).stem}-{protocol}"
            answers.write(Path(study.output_dir) / "answers" / f"{name}.csv")
            print(f"\n{name}, {len(answers.labels)} rows\n\n{study_table(study, answers)}")


def stored_answers(runs: Sequence[StudyRun]) -> Answers:
    """Return the answers to test of the finished runs of one protocol. Folds of a seed are one after the other.

    Raises:
        ArgumentError: no run is finished, or they do not answer the same rows of one corpus.
    """
    folders: dict[str, list[Path]] = {}
    for run in runs:
        folders.setdefault(f"{run.variant} {run.seed}", []).append(run.folder)

    found = {
        name: Predictions.concatenate([Predictions.load(folder / PREDICTIONS_FILE) for folder in of_seed])
        for name, of_seed in folders.items()
        if all((folder / PREDICTIONS_FILE).is_file() for folder in of_seed)
    }
    if not found:
        raise ArgumentError(f"{runs[0].protocol}: no run is finished, such as {runs[0].folder}. Leave --report out.")
    first = next(iter(found.values()))
    if any(each.ids != first.ids for each in found.values()) or len(set(first.corpora)) > 1:
        raise ArgumentError(
            "The variants do not answer the same rows of one corpus. Compare them with `bibier study`."
        )

    (splits,) = load_corpora(runs[0].arguments.corpora, runs[0].arguments.labels).values()
    rows = concatenate_datasets(list(splits.values()))
    groups = dict(zip(rows["id"], rows[bootstrap_column(rows)], strict=True))
    columns = {name: each.predictions for name, each in found.items()}
    return Answers(first.ids, [groups[each] for each in first.ids], first.label_names, first.labels, columns)


if __name__ == "__main__":
    sys.exit(bibier_cli.run("published:publish", sys.argv[1:]))
