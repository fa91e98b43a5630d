"""Optimizers and learning-rate schedules, under the names of the published study and its search grid.

| optimizer | is |
|---|---|
| `adam`, `adamw` | torch's, with `adam_beta1`, `adam_beta2`, `adam_epsilon` |
| `lion` | lion_pytorch's, with its own betas |
| `sgd` | torch's with momentum 0.9 |
| `rmsprop` | torch's |

All of them take `learning_rate` and `weight_decay` (published: 0). Biases and normalization layers do not decay.

| schedule | is | step |
|---|---|---|
| `plateau` | halved after more than two evaluations without a better dev score, down to 1e-7 | evaluation |
| `cosine` | cosine annealing from `learning_rate` to 1e-6 over all epochs, without warmup | epoch |
| `onecycle` | torch's one-cycle policy with `learning_rate` as its maximum | batch |
| `none` | constant | |
| `linear`, `cosine_with_restarts`, `inverse_sqrt`, ... | transformers' of that name, with `warmup_steps` | batch |
| `huggingface_NAME` | the same under its published name; `warmup_steps` defaults to a tenth of the steps | batch |
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

# "cosine" is the published annealing by epoch; that of transformers is "huggingface_cosine".
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
    """Return class and options of an optimizer, as [`~transformers.Trainer`] takes them.

    Raises:
        ValueError: an unknown name.
    """
    options: dict[str, Any] = {"lr": args.learning_rate}
    match name:
        case "adam" | "adamw":
            # One kernel for the whole update, the default of transformers: several times faster on a CPU.
            options |= {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon, "fused": True}
            return (torch.optim.Adam if name == "adam" else torch.optim.AdamW), options
        case "lion":
            return Lion, options
        case "sgd":
            # The fused kernel fails on a parameter whose first gradient comes later (of a rare modality).
            return torch.optim.SGD, options | {"momentum": 0.9}
        case "rmsprop":
            return torch.optim.RMSprop, options
    raise ValueError(f"Unknown optimizer {name!r}. Use one of: {', '.join(OPTIMIZERS)}.")


def decay_parameter_names(model: torch.nn.Module) -> list[str]:
    """Return the names of the parameters with weight decay: matrices and filters, but not biases, normalization
    layers, or the rates and skip weights of state-space models (`A_log`, `A`, `D`)."""
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
    """Return the arguments of [`~transformers.TrainingArguments`] for a schedule.

    `cosine` and `onecycle` are built by [`create_published_scheduler`]; here they get the closest equivalent.

    Args:
        name: one of `SCHEDULERS`.
        warmup_given: whether the run sets `warmup_steps`.

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
    """Build `cosine` or `onecycle`, stepped after every batch; return None for a schedule of transformers.

    Args:
        name: one of `SCHEDULERS`.
        optimizer: the optimizer.
        learning_rate: the maximum.
        num_training_steps: optimizer steps of the run.
        steps_per_epoch: optimizer steps of one epoch.
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
    """Return the factor of the learning rate: `CosineAnnealingLR` in closed form, constant within an epoch."""
    epoch = min(step // steps_per_epoch, epochs)
    return floor + (1 - floor) * (1 + math.cos(math.pi * epoch / epochs)) / 2
