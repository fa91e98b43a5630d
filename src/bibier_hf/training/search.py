"""Search for the values of a run's keys that score best on dev.

    search.yaml -> trials -> one run each -> score on dev -> trials.parquet

Every trial has its own folder in `output_dir`, named after its values. Finished trials are read, not trained again, so
a stopped search continues where it left off, and a greedy search trains each combination only once.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import Field, model_validator
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import TrainOutput

from ..errors import ArgumentError
from ..evaluation.metrics import METRICS
from ..evaluation.results import RESULTS_FILE, RunResults
from ..extras import require
from ..files import write_atomically
from .arguments import RunArguments
from .study import OFFICIAL, RunPlan, StudyRun, run_study

TRIALS_FILE = "trials.parquet"


class SearchArguments(RunPlan):
    """A search file."""

    kind = "search"
    own_keys = {"seed": "seed", "output_dir": "output_dir"}

    space: dict[str, list[Any]] = Field(min_length=1, description="dotted run key -> values to try, in order")
    method: Literal["greedy", "optuna"] = Field(
        "greedy",
        description="greedy, as published: one key at a time, with the best values so far for the others; optuna: a "
        "tree-structured Parzen estimator (pip install 'bibier-hf[search]')",
    )
    trials: int = Field(20, ge=1, description="number of trials with optuna")
    seed: int = Field(42, ge=0, description="seed of the runs and of optuna")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if empty := [key for key, values in self.space.items() if not values]:
            raise ArgumentError(f"space.{empty[0]}: there are no values to try. Name some, or leave the key out.")
        return self


@dataclass(frozen=True)
class Trial:
    """One combination of values and its scores.

    Attributes:
        values: key -> value.
        metrics: on dev, averaged over the corpora.
        seconds: of training.
    """

    values: Mapping[str, Any]
    metrics: Mapping[str, float]
    seconds: float

    @property
    def score(self) -> float:
        """The mean of the four metrics on dev, which checkpoints are selected by, too."""
        return self.metrics["mean"]


Attempt = Callable[[Mapping[str, Any]], Trial]
"""Values -> a finished trial."""


def trial_arguments(
    search: SearchArguments, values: Mapping[str, Any], overrides: Mapping[str, Any] = MappingProxyType({})
) -> RunArguments:
    """Return the arguments of a trial's run; its folder is named after the values."""
    digest = hashlib.blake2b(_json(dict(values)).encode(), digest_size=6).hexdigest()
    keys = {"seed": search.seed, "output_dir": str(Path(search.output_dir) / f"trial-{digest}")}
    try:
        return search.run_arguments(values, overrides, keys)
    except ArgumentError as error:
        raise ArgumentError(f"space, {dict(values)}: {error}") from error


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)  # YAML has dates


def check_space(search: SearchArguments, overrides: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Check each value once before the first trial starts.

    Raises:
        ArgumentError: an unknown key, or a value that a run does not accept.
    """
    for keys in (search.common, search.space, overrides):
        search.refuse_own_keys(keys)
    for key in overrides:
        if any(f"{searched}.".startswith(f"{key}.") for searched in search.space):
            raise ArgumentError(f"{key}: the search tries values of its own. Leave it out.")

    first = {key: values[0] for key, values in search.space.items()}
    for key, values in search.space.items():
        for value in values:
            trial_arguments(search, first | {key: value}, overrides)


def run_search(
    search: SearchArguments, overrides: Mapping[str, Any] = MappingProxyType({}), say: Callable[[str], None] = print
) -> list[Trial]:
    """Run the trials that are not finished, and write `trials.parquet` after each one.

    Returns:
        the trials in the order in which they were run, each combination once.

    Raises:
        ArgumentError: the space or a trial is invalid.
    """
    check_space(search, overrides)
    done: dict[str, Trial] = {}

    def attempt(values: Mapping[str, Any]) -> Trial:
        arguments = trial_arguments(search, values, overrides)
        folder = Path(arguments.output_dir)
        if folder.name not in done:
            say(f"trial {len(done) + 1}: {', '.join(f'{key}={value}' for key, value in values.items())}")
            run = StudyRun(folder.name, OFFICIAL, search.seed, None, arguments)
            run_study([run], search.keep_models, say=lambda line: None)
            results = RunResults.load(folder / RESULTS_FILE)
            done[folder.name] = Trial(dict(values), results.metrics_mean["dev"], results.seconds)
            write_trials(list(done.values()), Path(search.output_dir) / TRIALS_FILE)
            say(f"  dev {100 * done[folder.name].score:.2f}, best {100 * max(t.score for t in done.values()):.2f}")
        return done[folder.name]

    if search.method == "greedy":
        greedy(search.space, attempt)
    else:
        with_optuna(search.space, attempt, search.trials, search.seed, search.output_dir)
    return list(done.values())


def greedy(space: Mapping[str, Sequence[Any]], attempt: Attempt) -> Trial:
    """Tune one key at a time, as the published search does: try its values with the best ones so far and the first
    value of each later key. If scores are equal, the earlier trial wins.

    Returns:
        the best trial.
    """
    chosen = {key: values[0] for key, values in space.items()}
    best = attempt(chosen)
    for key, values in space.items():
        for value in values:
            trial = attempt({**best.values, key: value})
            if trial.score > best.score:
                best = trial
    return best


def with_optuna(
    space: Mapping[str, Sequence[Any]], attempt: Attempt, trials: int, seed: int, output_dir: str | Path
) -> None:
    """Let Optuna propose values through the hyperparameter search of transformers. After a restart, it gets the same
    scores in the same order, so it proposes the same values."""
    require("optuna")
    import optuna

    def values_of(trial: Any) -> dict[str, Any]:
        places = {key: trial.suggest_categorical(key, range(len(values))) for key, values in space.items()}
        return {key: space[key][place] for key, place in places.items()}

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    TrialTrainer(attempt, output_dir).hyperparameter_search(
        hp_space=values_of,
        n_trials=trials,
        direction="maximize",
        backend="optuna",
        sampler=optuna.samplers.TPESampler(seed=seed),
    )


class TrialTrainer(Trainer):
    """A Trainer that trains a complete run for each trial, so that its hyperparameter search can tune any key of a
    run."""

    def __init__(self, attempt: Attempt, output_dir: str | Path):
        args = TrainingArguments(str(output_dir), report_to="none")
        # Each run builds its own model.
        super().__init__(args=args, model_init=lambda: torch.nn.Linear(1, 1))  # ty: ignore[invalid-argument-type]
        self.attempt = attempt

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None) -> TrainOutput:
        """Train the run of a trial and store its score on dev."""
        assert trial is not None  # given by the search
        self.objective = self.attempt(self.hp_space(trial)).score
        return TrainOutput(0, 0.0, {})


def write_trials(trials: Sequence[Trial], path: str | Path) -> None:
    """Write a Parquet table with a row for each trial: its values as JSON, its metrics on dev, and its seconds."""
    keys = list(trials[0].values)
    columns: dict[str, list[Any]] = {"trial": list(range(1, len(trials) + 1))}
    columns |= {key: [_json(trial.values[key]) for trial in trials] for key in keys}
    columns |= {f"dev_{name}": [trial.metrics[name] for trial in trials] for name in (*METRICS, "mean")}
    columns["seconds"] = [trial.seconds for trial in trials]
    write_atomically(path, lambda temporary: pq.write_table(pa.table(columns), temporary))


def best_rows(trials: Sequence[Trial], count: int = 10) -> Iterator[list[str]]:
    """Yield the best trials as rows of a table: their number, score, and values."""
    places = sorted(range(len(trials)), key=lambda place: -trials[place].score)
    for place in places[:count]:
        values = ", ".join(f"{key}={value}" for key, value in trials[place].values.items())
        yield [str(place + 1), f"{100 * trials[place].score:.2f}", values]
