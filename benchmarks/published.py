"""Run a published comparison, keep its answers, and print its tables.

    python benchmarks/published.py published_fusion --data_dir PATH/TO/resd

Options are those of `bibier study`. Runs that are not finished are left out, so the tables can be made of a study that
was stopped (`--report`). The answers to test go to `answers/STUDY-PROTOCOL-CORPUS.csv` in the folder of the study,
with a column for each variant and seed.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets

import bibier_cli
from answer_tables import Answers, study_table
from bibier_hf.commands.study import StudyCommand
from bibier_hf.data.mixture import load_corpora
from bibier_hf.errors import ArgumentError
from bibier_hf.evaluation.bootstrap import bootstrap_column
from bibier_hf.evaluation.report import Predictions
from bibier_hf.files import locked_by_first_process
from bibier_hf.training.study import StudyArguments, StudyRun, plan_runs, run_study

PREDICTIONS_FILE = "predictions_test.parquet"


def publish(options: StudyCommand) -> None:
    study = StudyArguments.read(options.run_file)
    runs = plan_runs(study, options.overrides, options.only)
    with locked_by_first_process(study.output_dir, options.after_interrupt()):
        if not options.report:
            run_study(runs, study.keep_models)

        for protocol in dict.fromkeys(run.protocol for run in runs):
            for corpus, answers in stored_answers([run for run in runs if run.protocol == protocol]).items():
                name = f"{Path(options.run_file).stem}-{protocol}-{corpus}"
                answers.write(Path(study.output_dir) / "answers" / f"{name}.csv")
                print(f"\n{name}, {len(answers.labels)} rows\n\n{study_table(study, answers, corpus)}")


def stored_answers(runs: Sequence[StudyRun]) -> dict[str, Answers]:
    """Return the test answers of the finished runs of one protocol, by corpus. Folds of a seed come one after the
    other.

    Raises:
        ArgumentError: no run is finished, or they do not answer the same rows.
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

    corpora = dict.fromkeys(corpus for each in found.values() for corpus in each.corpora)
    rows = {corpus: _same_rows(corpus, found) for corpus in corpora}
    groups = _groups(runs)
    return {corpus: replace(each, groups=[groups[row] for row in each.ids]) for corpus, each in rows.items()}


def _same_rows(corpus: str, found: Mapping[str, Predictions]) -> Answers:
    """Return the answers of each model that was tested on a corpus, without groups."""
    columns: dict[str, np.ndarray] = {}
    ids: list[str] = []
    for name, each in found.items():
        places = [place for place, of_row in enumerate(each.corpora) if of_row == corpus]
        if not places:
            continue

        answered = [each.ids[place] for place in places]
        if answered != (ids or answered):
            raise ArgumentError(
                f"{corpus}: the variants do not answer the same rows. Compare them with `bibier study`."
            )
        ids, labels, names = answered, each.labels[places], each.label_names
        columns[name] = each.predictions[places]

    return Answers(ids, [], names, labels, columns)


def _groups(runs: Sequence[StudyRun]) -> dict[str, str]:
    """Return what the bootstrap draws each clip with, in the corpora of all runs."""
    corpora = {corpus.name: corpus for run in runs for corpus in run.arguments.corpora}
    groups: dict[str, str] = {}
    for splits in load_corpora(list(corpora.values()), runs[0].arguments.labels).values():
        rows = concatenate_datasets(list(splits.values()))
        groups |= zip(rows["id"], rows[bootstrap_column(rows)], strict=True)
    return groups


if __name__ == "__main__":
    sys.exit(bibier_cli.run("published:publish", sys.argv[1:]))
