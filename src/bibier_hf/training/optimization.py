"""Optimisers and learning-rate schedules by the names of the published study (its training section and shipped search
grid).

| optimiser | is |
|---|---|
| `adam`, `adamw` | torch's, with `adam_beta1`, `adam_beta2`, `adam_epsilon` |
| `lion` | lion_pytorch's, with its own betas |
| `sgd` | torch's with momentum 0.9 |
| `rmsprop` | torch's |

All of them take `learning_rate` and `weight_decay` (published: 0), which spares biases and normalisation layers.

| schedule | is | step |
|---|---|---|
| `plateau` | halved when the dev score has not risen for more than two evaluations, not below 1e-7 | evaluation |
| `cosine` | cosine annealing from `learning_rate` to 1e-6 over all epochs, without warm-up | epoch |
| `onecycle` | torch's one-cycle policy with `learning_rate` as its maximum | batch |
| `none` | constant | |
| `linear`, `cosine_with_restarts`, `inverse_sqrt`, ... | transformers' of that name, with `warmup_steps` | batch |
| `huggingface_NAME` | the same by its published name; `warmup_steps` is a tenth of the steps unless given | batch |
"""

import math
from functools import partial
from typing import Any

import torch
from lion_pytorch import Lion
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from transformers import SchedulerType, TrainingArguments

OPTIMIZERS = ("adam", "adamw", "lion", "sgd", "rmsprop")

EPOCH_COSINE, ONE_CYCLE, PLATEAU, CONSTANT = "cosine", "onecycle", "plateau", "none"
PUBLISHED_PREFIX = "huggingface_"
PUBLISHED_WARMUP = 0.1
COSINE_FLOOR = 1e-6
PLATEAU_OPTIONS = {"mode": "max", "factor": 0.5, "patience": 2, "min_lr": 1e-7}

_UNDECAYED = ("A_log", "A", "bias")

# The plain name "cosine" is the published epoch-wise annealing; transformers' own is reached as huggingface_cosine.
_LIBRARY_SCHEDULES = tuple(
    kind.value for kind in SchedulerType if kind not in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
)
SCHEDULERS = (
    PLATEAU,
    EPOCH_COSINE,
    ONE_CYCLE,
    CONSTANT,
    *(name for name in _LIBRARY_SCHEDULES if name != EPOCH_COSINE),
    *(PUBLISHED_PREFIX + name for name in _LIBRARY_SCHEDULES),
)


def optimizer_cls_and_kwargs(name: str, args: TrainingArguments) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Class and options of the optimiser, in the form that [`~transformers.Trainer`] takes.

    Raises:
        ValueError: an unknown name.
    """
    options: dict[str, Any] = {"lr": args.learning_rate}
    match name:
        case "adam" | "adamw":
            # One kernel for the whole update, as in transformers' own default: on a CPU several times the speed of
            # torch's loop.
            options |= {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon, "fused": True}
            return (torch.optim.Adam if name == "adam" else torch.optim.AdamW), options
        case "lion":
            return Lion, options
        case "sgd":
            # Its fused kernel fails on a parameter whose first gradient comes later than the others' (a rare modality).
            return torch.optim.SGD, options | {"momentum": 0.9}
        case "rmsprop":
            return torch.optim.RMSprop, options
    raise ValueError(f"Unknown optimizer {name!r}. Use one of: {', '.join(OPTIMIZERS)}.")


def decay_parameter_names(model: torch.nn.Module) -> list[str]:
    """Names of the parameters that weight decay falls on: matrices and filters. Biases, normalisation layers, and the
    rates and skip weights of state-space models (`A_log`, `A`, `D`) are spared."""
    norms = {
        f"{name}.{parameter}"
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for parameter, _ in module.named_parameters(recurse=False)
    }
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and name not in norms and name.rpartition(".")[2] not in _UNDECAYED
    ]


def scheduler_arguments(name: str, warmup_given: bool) -> dict[str, Any]:
    """The part of the schedule that [`~transformers.TrainingArguments`] can express.

    `cosine` and `onecycle` are built by [`create_published_scheduler`]; their entry here is the nearest relative.

    Args:
        name: one of `SCHEDULERS`.
        warmup_given: does the run set `warmup_steps` itself?

    Raises:
        ValueError: an unknown name.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"Unknown scheduler {name!r}. Use one of: {', '.join(SCHEDULERS)}.")
    if name == PLATEAU:
        return {"lr_scheduler_type": SchedulerType.REDUCE_ON_PLATEAU, "lr_scheduler_kwargs": dict(PLATEAU_OPTIONS)}
    if name in (CONSTANT, ONE_CYCLE):
        return {"lr_scheduler_type": SchedulerType.CONSTANT}
    arguments: dict[str, Any] = {"lr_scheduler_type": SchedulerType(name.removeprefix(PUBLISHED_PREFIX))}
    if name.startswith(PUBLISHED_PREFIX) and not warmup_given:
        arguments["warmup_steps"] = PUBLISHED_WARMUP
    return arguments


def create_published_scheduler(
    name: str, optimizer: torch.optim.Optimizer, learning_rate: float, num_training_steps: int, steps_per_epoch: int
) -> LRScheduler | None:
    """`cosine` or `onecycle`, stepped after every batch; None for a name that transformers builds.

    Args:
        name: one of `SCHEDULERS`.
        optimizer: whose learning rate it sets.
        learning_rate: the highest one.
        num_training_steps: optimiser steps of the whole run.
        steps_per_epoch: optimiser steps of one epoch.
    """
    if name == ONE_CYCLE:
        return OneCycleLR(
            optimizer, max_lr=[group["lr"] for group in optimizer.param_groups], total_steps=num_training_steps
        )
    if name == EPOCH_COSINE:
        epochs = math.ceil(num_training_steps / steps_per_epoch)
        floor = COSINE_FLOOR / learning_rate
        return LambdaLR(optimizer, partial(_epoch_cosine, steps_per_epoch=steps_per_epoch, epochs=epochs, floor=floor))
    return None


def _epoch_cosine(step: int, steps_per_epoch: int, epochs: int, floor: float) -> float:
    """Factor of the learning rate: torch's `CosineAnnealingLR` in closed form, constant within an epoch."""
    epoch = min(step // steps_per_epoch, epochs)
    return floor + (1 - floor) * (1 + math.cos(math.pi * epoch / epochs)) / 2
