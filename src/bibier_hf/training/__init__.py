"""Training: arguments, rows, samplers, optimizers, the trainer, and the run that uses them."""

from ..extras import require

require("accelerate", "datasets", "lion_pytorch", "peft", "pydantic", "sklearn")
