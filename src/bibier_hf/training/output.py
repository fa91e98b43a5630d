"""The output folder of a run: what may be overwritten, and what a run can continue from."""

import shutil
from pathlib import Path

from transformers.utils import logging

from ..errors import ArgumentError
from ..evaluation.results import RESULTS_FILE, RunResults
from ..hub.cards import CARD_FILE
from ..hub.eval_results import EVAL_RESULTS_FOLDER
from .arguments import RUN_FILE, STAGES_FOLDER, RunArguments
from .checkpoints import STAGING_FOLDER, last_whole_checkpoint, list_checkpoints

logger = logging.get_logger(__name__)

REFIT_FOLDER = "refit"

_WRITTEN_BY_RUNS = (
    RESULTS_FILE,  # first: without it the folder counts as unfinished
    RUN_FILE,
    CARD_FILE,
    EVAL_RESULTS_FOLDER,
    "model*.safetensors*",
    "predictions_*.parquet",
    "confusion_matrix_*.png",
    "reliability_*.png",
    "risk_coverage_*.png",
    "checkpoint-*",
    REFIT_FOLDER,
    STAGES_FOLDER,
    STAGING_FOLDER,
)


def claim_output(run: RunArguments, main_process: bool = True) -> RunResults | None:
    """Make sure that no earlier run is overwritten by mistake.

    Args:
        run: with `output_dir`, `overwrite` and `resume_from_checkpoint`.
        main_process: whether this process writes.

    Returns:
        the results, if the run is resumed but already finished; else None.

    Raises:
        ArgumentError: the folder holds another run, or nothing to resume.
    """
    folder = Path(run.output_dir)
    if run.overwrite:
        if main_process:
            _clear(folder)
        return None
    finished = (folder / RESULTS_FILE).is_file()
    if run.resume_from_checkpoint:
        if finished:
            logger.warning(
                f"{folder} holds a finished run, so there is nothing to resume. Give --overwrite true to run it again."
            )
            return RunResults.load(folder / RESULTS_FILE)
        if run.resume_from_checkpoint is True and last_progress(folder) is None:
            raise ArgumentError(
                f"resume_from_checkpoint: {folder} holds no complete checkpoint. Leave it out to start over."
            )
        return None
    if finished:
        raise ArgumentError(
            f"output_dir: {folder} holds a finished run. Give another output_dir, or --overwrite true to replace it."
        )
    if list_checkpoints(folder) or (folder / STAGES_FOLDER).is_dir():
        raise ArgumentError(
            f"output_dir: {folder} holds checkpoints or stages of an unfinished run. Give --resume_from_checkpoint true "
            "to continue it, --overwrite true to start over, or another output_dir."
        )
    return None


def last_progress(folder: str | Path) -> Path | None:
    """Return what a run can continue from: its last complete checkpoint, else its stages, else None."""
    stages = Path(folder) / STAGES_FOLDER
    return last_whole_checkpoint(folder) or (stages if stages.is_dir() else None)


def _clear(folder: Path) -> None:
    """Remove only what runs write."""
    for pattern in _WRITTEN_BY_RUNS:
        for path in folder.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
