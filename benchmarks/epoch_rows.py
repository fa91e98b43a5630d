"""Rows on how the time of an epoch over stored features is spent: the trainer itself, with timers around its phases.

The ratio is the share of the epoch that goes into forward, backward and the step of the optimizer. The rest is waiting
for batches (reading and padding), logging and bookkeeping. Evaluation and saving come after an epoch; their time is in
the note.
"""

import contextlib
import io
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback

from bibier_hf.data.collator import FeatureCollator
from bibier_hf.data.corpora import load_corpus
from bibier_hf.data.features import InputExtractor
from bibier_hf.training.arguments import read_run
from bibier_hf.training.build import build_model
from bibier_hf.training.rows import RunInputs
from bibier_hf.training.stages import unimodal_model, with_modality
from bibier_hf.training.trainer import BiBiERTrainer
from measuring import Row
from registry import Materials

GOAL = 0.85
WORK = ("forward and backward", "optimizer")

PUBLISHED = {"model": {"fusion": "biformer", "num_attention_heads": 16}, "per_device_train_batch_size": 8}
"""The published fusion over both modalities, at the published width."""


class _Phases(TrainerCallback):
    """Counts the seconds of each phase; the first epoch warms up and is not counted."""

    def __init__(self, trainer: BiBiERTrainer):
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._stepped = self._epoch = 0.0

        for name, phase in (
            ("training_step", "forward and backward"),
            ("get_batch_samples", "batches"),
            ("_maybe_log_save_evaluate", "after"),
        ):
            setattr(trainer, name, self._timed(phase, getattr(trainer, name)))
        trainer.add_callback(self)

    def _timed(self, phase: str, function: Callable) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self._stepped = time.perf_counter()
            self.seconds[phase] += self._stepped - start
            return result

        return timed

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.seconds["optimizer"] += time.perf_counter() - self._stepped  # including gradient clipping

    def on_epoch_begin(self, args, state, control, **kwargs):
        if round(state.epoch or 0) == 1:
            self.seconds.clear()
        self._epoch = time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.seconds["epochs"] += time.perf_counter() - self._epoch


def recipe(materials: Materials) -> Row:
    """The speech stage of the recommended recipe."""
    return _epoch("epoch_recipe", "recipes/resd_whisper_e5.yaml, speech stage", materials, 256, "resd_whisper_e5", {})


def published(materials: Materials) -> Row:
    return _epoch("epoch_biformer", "biformer at the published size", materials, 64, None, PUBLISHED)


def _epoch(
    name: str,
    what: str,
    materials: Materials,
    clips: int,
    file: str | None,
    options: Mapping[str, Any],
    epochs: int = 4,
) -> Row:
    backbones = {
        f"{modality}_backbone": str(materials.folder("backbones", folder))
        for modality, folder in (("audio", "whisper-base"), ("text", "e5-small"))
    }
    corpus = load_corpus("resd", materials.folder("resd"))["train"]
    train, dev = corpus.select(range(clips)), corpus.select(range(clips, clips + 64))

    with tempfile.TemporaryDirectory() as folder:
        overrides = {
            **options,
            **backbones,
            "corpora": [{"name": "resd"}],
            "output_dir": f"{folder}/run",
            "num_train_epochs": epochs,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        run = read_run(file, overrides)
        model, processor, _ = build_model(run)
        extractor = InputExtractor(model, processor, cache_dir=folder)
        found = extractor.inputs({"train": train, "dev": dev})

        if run.stages.plan == "two_stage":
            run, model, specs = run.stage_runs["audio"], unimodal_model(model, "audio", 0), extractor.specs["audio"]
            processor = None  # only the last stage stores it
            rows = [with_modality(found[split], specs.name) for split in ("train", "dev")]
            collator = FeatureCollator({"audio": specs})
        else:
            rows, collator = [found["train"], found["dev"]], FeatureCollator(extractor.specs)

        with contextlib.redirect_stdout(io.StringIO()):
            trainer = BiBiERTrainer(run, model, RunInputs([rows[0]], rows[1], rows[1], collator), processor)
            phases = _Phases(trainer)
            trainer.train()

    seconds = {phase: spent / (epochs - 1) for phase, spent in phases.seconds.items()}
    work = sum(seconds[phase] for phase in WORK)
    parts = {**{phase: seconds[phase] for phase in WORK}, "waiting for batches": seconds["batches"]}
    parts["the rest"] = seconds["epochs"] - sum(parts.values())
    note = (
        f"{what}, {clips} clips, batches of {run.training['per_device_train_batch_size']}: "
        + ", ".join(f"{phase} {spent / seconds['epochs']:.1%}" for phase, spent in parts.items())
        + f"; afterwards evaluation of {len(dev)} clips and saving: {seconds['after']:.2f} s"
    )
    ranges = ((value, value) for value in (seconds["epochs"], work))

    return Row(
        name,
        "its share of forward, backward and optimizer",
        work / seconds["epochs"],
        GOAL,
        seconds["epochs"],
        work,
        *ranges,
        epochs - 1,
        note,
    )


DATA_ROWS = {"epoch_recipe": recipe, "epoch_biformer": published}
