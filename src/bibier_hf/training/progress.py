"""What a training shows while it runs: named bars in a terminal, and a table with one line for each evaluation."""

import sys
from collections.abc import Generator
from contextlib import contextmanager

from tqdm.auto import tqdm
from transformers import TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from ..evaluation.metrics import SELECTION_METRIC
from ..evaluation.problems import PROBLEMS, Problem
from ..model.configuration_bibier import SINGLE_LABEL

_WIDTH = 10
_SINGLE = PROBLEMS[SINGLE_LABEL]


def table_head(problem: Problem = _SINGLE) -> str:
    """The head of the table. The score is what checkpoints are selected by; `*` marks the best one so far."""
    scores = (f"dev {problem.title(name)}" for name in _shown(problem))
    return " ".join(f"{name:>{_WIDTH}}" for name in ("epoch", "train loss", "dev loss", *scores, "dev score"))


def _shown(problem: Problem) -> tuple[str, str]:
    return problem.metrics[0], problem.metrics[-1]


class Progress(ProgressCallback):
    """Shows a training in the main process. A log file gets the table alone, without bars.

    Args:
        title: what is trained, such as `encoder audio (stage 1 of 3)`.
        problem: names the scores.

    Attributes:
        split: what answers are computed for, the name of the bar.
    """

    def __init__(self, title: str, problem: Problem = _SINGLE):
        super().__init__()
        self.title = title
        self.problem = problem
        self.split = "dev"
        self._train_loss: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.current_step = state.global_step
        if not state.is_world_process_zero:
            return

        resumed = f", resumed after epoch {state.epoch:g}" if state.global_step else ""
        epochs = "1 epoch" if state.num_train_epochs == 1 else f"{state.num_train_epochs} epochs"
        say(f"{self.title}: up to {epochs} ({state.max_steps} steps){resumed}")
        if args.eval_strategy != IntervalStrategy.NO:
            say(table_head(self.problem))
        self.training_bar = _bar(args, state.max_steps, initial=state.global_step)

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            self.training_bar.set_description(f"epoch {int(state.epoch or 0) + 1}/{state.num_train_epochs}")

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if not state.is_world_process_zero or eval_dataloader is None:
            return

        if self.prediction_bar is None:
            self.prediction_bar = _bar(args, len(eval_dataloader), desc=self.split)
        self.prediction_bar.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self._train_loss = (logs or {}).get("loss", self._train_loss)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        super().on_evaluate(args, state, control)
        if self.training_bar is not None and metrics is not None:  # in the main process, while training
            say(table_line(state, self._train_loss, metrics, self.problem))


def _bar(args: TrainingArguments, total: int, **options) -> tqdm:
    disable = bool(args.disable_tqdm) or not sys.stderr.isatty()
    return tqdm(total=total, leave=False, dynamic_ncols=True, disable=disable, **options)


def table_line(
    state: TrainerState, train_loss: float | None, metrics: dict[str, float], problem: Problem = _SINGLE
) -> str:
    """The line of an evaluation, before the trainer compares its score with the best one."""
    score = metrics[f"eval_{SELECTION_METRIC}"]
    best = state.best_metric is None or score > state.best_metric
    scores = [problem.shown(name, metrics[f"eval_{name}"]) for name in _shown(problem)]
    cells = [
        f"{state.epoch or 0:.4g}",
        "-" if train_loss is None else f"{train_loss:.4f}",
        f"{metrics['eval_loss']:.4f}",
        *(f"{shown}" for shown in (*scores, problem.shown(problem.selection, score))),
    ]
    return " ".join(f"{cell:>{_WIDTH}}" for cell in cells) + (" *" if best else "")


@contextmanager
def without_bars() -> Generator[None]:
    """Hide the bars of transformers within the block, such as one for each file of weights."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def say(line: str) -> None:
    """Print a line above the bars, at once."""
    tqdm.write(line)
    sys.stdout.flush()
