"""Complete checkpoints, or none.

A checkpoint is written into a staging folder and renamed when its last file is in place, so a kill at any moment
leaves the earlier checkpoints intact and no partial one. Other damage (a full disk, a lost file) is found before a run
is resumed.
"""

import json
import re
import shutil
import zipfile
from pathlib import Path

from accelerate.utils.constants import FSDP_MODEL_NAME
from safetensors import SafetensorError, safe_open
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

logger = logging.get_logger(__name__)

STAGING_FOLDER = ".checkpoint-being-written"


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Return the checkpoint folders of a run, newest first."""
    pattern = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
    found = [
        (int(match.group(1)), path) for path in Path(output_dir).glob("*") if (match := pattern.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True) if path.is_dir()]


def checkpoint_problems(checkpoint: str | Path) -> list[str]:
    """Return what is wrong with a checkpoint, by file; nothing if it is complete."""
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        return [f"{checkpoint} is not a folder"]
    if any(checkpoint.glob(f"{FSDP_MODEL_NAME}*")):
        return []  # the sharded format of torch, which checks it
    problems = []
    weights = sorted(checkpoint.glob("*.safetensors"))
    if not weights:
        problems.append(f"{SAFE_WEIGHTS_NAME} is missing")
    index = checkpoint / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file() and (problem := _json_problem(index)):
        problems.append(problem)
    elif index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        problems += [f"{shard} is missing" for shard in sorted(shards - {path.name for path in weights})]
    for path in weights:
        try:
            with safe_open(path, "pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            problems.append(f"{path.name} cannot be read ({error})")
    for name in ("config.json", TRAINER_STATE_NAME):
        if problem := _json_problem(checkpoint / name):
            problems.append(problem)
    pickles = [checkpoint / OPTIMIZER_NAME, checkpoint / SCHEDULER_NAME, *sorted(checkpoint.glob("rng_state*.pth"))]
    for path in pickles:
        if not path.is_file():
            problems.append(f"{path.name} is missing")
        elif not zipfile.is_zipfile(path):  # the table of contents is at the end of a torch file
            problems.append(f"{path.name} is truncated or damaged")
    if not any(checkpoint.glob("rng_state*.pth")):
        problems.append("rng_state.pth is missing")
    return problems


def _json_problem(path: Path) -> str | None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{path.name} is missing"
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return f"{path.name} cannot be read ({error})"
    return None


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the newest complete checkpoint, or None; log which ones are skipped, and why."""
    for checkpoint in list_checkpoints(output_dir):
        problems = checkpoint_problems(checkpoint)
        if not problems:
            return checkpoint
        logger.warning(f"Skipping {checkpoint}: {'; '.join(problems)}.")
    return None


def remove_staging(output_dir: str | Path) -> None:
    """Remove a checkpoint that a killed run did not finish."""
    staging = Path(output_dir) / STAGING_FOLDER
    if staging.exists():
        logger.warning(
            f"Removing {staging}: an earlier run was stopped while writing a checkpoint. Earlier checkpoints are complete."
        )
        shutil.rmtree(staging)
