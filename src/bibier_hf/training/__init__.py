"""Training: arguments, samplers, optimisers, the trainer and the run that puts them together."""

from ..extras import require

require("accelerate", "datasets", "lion_pytorch", "peft", "pydantic", "sklearn")
