"""Evaluation results in the format of the Hub: a YAML file for each corpus, in `.eval_results/` of the model.

Format: https://huggingface.co/docs/hub/eval-results. An entry names a data set on the Hub, a task, a value and a date, so
a corpus that is not on the Hub has none. The Hub shows entries on the leaderboards of data sets that are registered as
benchmarks and define the task in their `eval.yaml`; elsewhere they are a machine-readable record. None is marked as
verified, which takes a token from an evaluation job of the Hub.
"""

from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from ..evaluation.problems import problem_scored
from ..evaluation.results import RESULTS_FILE, RunResults
from ..files import write_text
from .cards import protocol_text
from .facts import hub_dataset

EVAL_RESULTS_FOLDER = ".eval_results"


def render_eval_results(results: RunResults, model_id: str | None = None) -> dict[str, str]:
    """Render `{".eval_results/<corpus>.yaml": content}` for the corpora that are on the Hub.

    Args:
        results: of the run.
        model_id: Hub id, to name its `results.json` as the source.
    """
    source = {}
    if model_id:
        url = f"https://huggingface.co/{model_id}/blob/main/{RESULTS_FILE}"
        source = {"source_url": url, "source_name": RESULTS_FILE}

    rendered = {}
    for corpus, metrics in results.metrics.get("test", {}).items():
        dataset_id = hub_dataset(corpus)
        if dataset_id is None:
            continue
        protocol = results.protocol[corpus]
        problem = problem_scored(metrics)
        first, *rest = problem.metrics
        others = ", ".join(f"{problem.title(name)} {problem.shown(name, metrics[name])}" for name in rest)
        entry = EvalResultEntry(
            dataset_id=dataset_id,
            task_id=protocol["name"] + (f"_fold_{protocol['fold']}" if "fold" in protocol else ""),
            value=float(problem.shown(first, metrics[first]) or 0),
            date=results.date,
            notes=f"{problem.title(first)}{problem.unit}, {protocol_text(protocol)}, test, {metrics['samples']} samples; {others}",
            **source,
        )
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True, width=1000)
        rendered[f"{EVAL_RESULTS_FOLDER}/{corpus}.yaml"] = text
    return rendered


def write_eval_results(results: RunResults, folder: str | Path) -> None:
    """Write the files into the folder of a model."""
    for name, content in render_eval_results(results).items():
        write_text(Path(folder) / name, content)
