"""What `datasets` hashes of a pipeline, to find what it has computed with it before."""

import hashlib
import io
import sys
from typing import Any

import torch
from torch import nn
from transformers import Pipeline, PreTrainedModel


def is_hashed() -> bool:
    """Is it `datasets` that asks for the state of an object, to hash it? To be called in `__reduce_ex__`.

    It hashes what it pickles, so that this is the only place to learn of it; another pickler needs the whole state.
    """
    dill = sys.modules.get("datasets.utils._dill")
    return dill is not None and isinstance(sys._getframe(2).f_locals.get("self"), dill.Pickler)


def hashed_state(pipe: Pipeline) -> dict[str, Any]:
    """What the answers of a pipeline follow from: its state, with a digest in place of each model, and without the
    number of its calls."""
    parameters = {
        name: hashed_state(value) if isinstance(value, Pipeline) else value
        for name, value in pipe._preprocess_params.items()
    }
    model = model_digest(pipe.model) if isinstance(pipe.model, nn.Module) else pipe.model
    return {**vars(pipe), "model": model, "_preprocess_params": parameters, "call_count": 0}


def model_digest(model: PreTrainedModel) -> tuple[str, dict[str, Any], str]:
    """The class, the configuration and a hash of the weights: about a second for 1 GB."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, torch.Tensor) and not value.is_quantized:
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        else:  # packed weights of a quantized layer
            buffer = io.BytesIO()
            torch.save(value, buffer)
            digest.update(buffer.getvalue())
    return type(model).__qualname__, model.config.to_dict(), digest.hexdigest()
