"""Language models behind one small interface: structured text, and log-probabilities of given answers.

    backend = get_backend("openai", "Qwen/Qwen3-4B", base_urls=["http://localhost:8000/v1"])
    backend.generate(["Name an emotion."], Sampling(max_new_tokens=8))     # [Answer(text="Joy")]
    backend.score(["Which emotion? 'Oh no!'"], ["happy", "sad"])           # [Answer(log_probabilities=(-4.1, -0.2))]

| back end | where the model runs | structured output | scores |
|---|---|---|---|
| `vllm` | in this process, in a separate environment (`constraints-vllm.txt`) | yes | yes |
| `openai` | behind one or several OpenAI-compatible servers, such as `vllm serve` | yes | with vLLM's server |
| `transformers` | in this process | no | yes |

This package does not import the model, so it also works with the older transformers that vLLM pins.
"""

import importlib
import inspect
from typing import Any

from .base import Answer, LLMBackend, LLMError, Prompt, Sampling, Structure

__all__ = ["BACKENDS", "Answer", "LLMBackend", "LLMError", "Prompt", "Sampling", "Structure", "get_backend"]

BACKENDS = {"openai": "OpenAIBackend", "transformers": "TransformersBackend", "vllm": "VLLMBackend"}
"""Name of each back end -> its class, in the module NAME_backend.py, which is imported on first use."""


def get_backend(name: str, model: str, **options: Any) -> LLMBackend:
    """Return the back end with this name.

    Args:
        name: one of `BACKENDS`.
        model: a folder or Hub id; for `openai`, the server's name for the model.
        options: arguments of the class, such as `revision`.

    Raises:
        LLMError: an unknown name or option, or a missing package.
    """
    if name not in BACKENDS:
        raise LLMError(f"Unknown language model back end {name!r}. Allowed: {', '.join(BACKENDS)}.")

    backend = getattr(importlib.import_module(f".{name}_backend", __name__), BACKENDS[name])

    try:
        return backend(model, **options)
    except TypeError as error:
        # The message shows names only, because a value may be a secret.
        _, *allowed = inspect.signature(backend).parameters
        raise LLMError(f"Options of the back end {name!r}: {error}. Allowed: {', '.join(allowed)}.") from error
