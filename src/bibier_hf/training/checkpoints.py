"""Checkpoints that are whole or not there.

A checkpoint is written into a staging folder and renamed when its last file is in place, so a kill at any moment
leaves the earlier checkpoints and no half one. Damage from elsewhere (a full disk, a lost file) is found before a run
goes on from it.
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
    """Checkpoint folders of a run, the newest first."""
    pattern = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
    found = [
        (int(match.group(1)), path) for path in Path(output_dir).glob("*") if (match := pattern.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True) if path.is_dir()]


def checkpoint_problems(checkpoint: str | Path) -> list[str]:
    """What is wrong with a checkpoint, one line a file; empty for a whole one."""
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        return [f"{checkpoint} is no folder"]
    if any(checkpoint.glob(f"{FSDP_MODEL_NAME}*")):
        return []  # torch's own sharded format, which it checks itself
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
        elif not zipfile.is_zipfile(path):  # the table of contents of a torch file stands at its end
            problems.append(f"{path.name} is cut or damaged")
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
    """The newest checkpoint that is whole; says which ones it passes over and why. None if there is none."""
    for checkpoint in list_checkpoints(output_dir):
        problems = checkpoint_problems(checkpoint)
        if not problems:
            return checkpoint
        logger.warning(f"Passing over {checkpoint}: {'; '.join(problems)}.")
    return None


def remove_staging(output_dir: str | Path) -> None:
    """Remove what a killed run had not finished writing."""
    staging = Path(output_dir) / STAGING_FOLDER
    if staging.exists():
        logger.warning(
            f"Removing {staging}: an earlier run was stopped while it wrote a checkpoint. Its earlier ones are whole."
        )
        shutil.rmtree(staging)
