"""The output folder of a run: who may write into it, and how its final content comes to be there all at once."""

import shutil
from pathlib import Path

from transformers.utils import logging

from ..errors import ArgumentError
from ..evaluation.results import RESULTS_FILE, RunResults
from ..hub.cards import CARD_FILE
from ..hub.eval_results import EVAL_RESULTS_FOLDER
from .arguments import RUN_FILE, RunArguments
from .checkpoints import STAGING_FOLDER, last_whole_checkpoint, list_checkpoints

logger = logging.get_logger(__name__)

REFIT_FOLDER = "refit"
STAGES_FOLDER = "stages"

_WRITTEN_BY_RUNS = (
    RESULTS_FILE,  # first: without it the folder counts as unfinished
    RUN_FILE,
    CARD_FILE,
    EVAL_RESULTS_FOLDER,
    "model*.safetensors*",
    "predictions_*.parquet",
    "confusion_matrix_*.png",
    "reliability_*.png",
    "checkpoint-*",
    REFIT_FOLDER,
    STAGES_FOLDER,
    STAGING_FOLDER,
)


def claim_output(run: RunArguments, main_process: bool = True) -> RunResults | None:
    """Make sure that the output folder holds nothing that would be lost.

    Args:
        run: its `output_dir`, `overwrite` and `resume_from_checkpoint`.
        main_process: is this the process that writes?

    Returns:
        the results of a run that is to be resumed but has finished; else None.

    Raises:
        ArgumentError: a folder that holds another run, or has nothing to resume.
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
                f"{folder} holds a finished run; there is nothing to resume. Give --overwrite true to run it again."
            )
            return RunResults.load(folder / RESULTS_FILE)
        if run.resume_from_checkpoint is True and last_progress(folder) is None:
            raise ArgumentError(
                f"resume_from_checkpoint: {folder} holds no whole checkpoint. Leave it out to start anew."
            )
        return None
    if finished:
        raise ArgumentError(
            f"output_dir: {folder} holds a finished run. Give another output_dir, or --overwrite true to replace it."
        )
    if list_checkpoints(folder) or (folder / STAGES_FOLDER).is_dir():
        raise ArgumentError(
            f"output_dir: {folder} holds checkpoints or stages of a run that did not finish. Give "
            "--resume_from_checkpoint true to go on "
            "with it, --overwrite true to start anew, or another output_dir."
        )
    return None


def last_progress(folder: str | Path) -> Path | None:
    """What a run can go on from: its last whole checkpoint, else its stages; None if there is neither."""
    stages = Path(folder) / STAGES_FOLDER
    return last_whole_checkpoint(folder) or (stages if stages.is_dir() else None)


def _clear(folder: Path) -> None:
    """Remove what runs write, and nothing else."""
    for pattern in _WRITTEN_BY_RUNS:
        for path in folder.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
