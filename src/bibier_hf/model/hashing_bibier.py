"""What `datasets` hashes of a pipeline or a model, to recognize its cached results."""

import hashlib
import io
import sys
from typing import Any

import torch
from torch import nn
from transformers import Pipeline, PreTrainedModel


def weights_hash(module: nn.Module) -> str:
    """Hash the names, shapes, dtypes and values of all weights; takes about a second for 1 GB."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        if isinstance(value, torch.Tensor) and not value.is_quantized:
            digest.update(f"{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        else:  # packed weights of a quantized layer
            buffer = io.BytesIO()
            torch.save(value, buffer)
            digest.update(buffer.getvalue())
    return digest.hexdigest()


def model_digest(model: PreTrainedModel) -> tuple[str, dict[str, Any], str]:
    """Return the class, the configuration and a hash of the weights."""
    return type(model).__qualname__, model.config.to_dict(), weights_hash(model)


def is_hashed() -> bool:
    """Whether `datasets` is asking for the state of an object in order to hash it. Call it in `__reduce_ex__`.

    `datasets` hashes what it pickles, so this is the only place to find out; other picklers need the whole state.
    """
    dill = sys.modules.get("datasets.utils._dill")
    return dill is not None and isinstance(sys._getframe(2).f_locals.get("self"), dill.Pickler)


def hashed_state(pipe: Pipeline) -> dict[str, Any]:
    """Return what determines the answers of a pipeline: its state, with a digest instead of each model."""
    parameters = {
        name: hashed_state(value) if isinstance(value, Pipeline) else value
        for name, value in pipe._preprocess_params.items()
    }
    model = model_digest(pipe.model) if isinstance(pipe.model, nn.Module) else pipe.model
    return {**vars(pipe), "model": model, "_preprocess_params": parameters, "call_count": 0}
