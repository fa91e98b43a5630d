"""Copy a trained checkpoint into the package, without the model code, which the package already has.

    python tools/ship.py outputs/both bibier-small

The card (README.md) of the shipped checkpoint is written by hand and not changed.
"""

import json
import shutil
import sys
from pathlib import Path

from transformers.utils import CONFIG_NAME

from bibier_hf.hub.shipped import shipped_checkpoint

KEPT = (".json", ".safetensors")
OF_REMOTE_CODE = ("auto_map", "custom_pipelines")
OF_RUNS = ("results.json",)


def ship(source: Path, name: str) -> Path:
    """Replace the files of a shipped checkpoint with those of a trained one."""
    target = shipped_checkpoint(name)
    if not (source / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{source} holds no checkpoint (no {CONFIG_NAME}). {name} is unchanged.")

    for path in target.rglob("*"):
        if path.suffix in KEPT:
            path.unlink()

    for path in sorted(source.rglob("*")):
        if (
            path.suffix not in KEPT
            or path.name in OF_RUNS
            or path.relative_to(source).parts[0].startswith("checkpoint-")
        ):
            continue
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.name in ("config.json", "processor_config.json"):
            content = json.loads(path.read_text(encoding="utf-8"))
            for key in OF_REMOTE_CODE:
                content.pop(key, None)
            place.write_text(
                json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8"
            )
        elif path.name == "tokenizer.json":  # half as large without indentation
            content = json.loads(path.read_text(encoding="utf-8"))
            place.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
        else:
            shutil.copyfile(path, place)
    return target


if __name__ == "__main__":
    print(ship(Path(sys.argv[1]), sys.argv[2]))
