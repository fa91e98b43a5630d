"""BiBiER: emotion recognition from speech and text, in English and Russian, native to the Hugging Face ecosystem.

`import bibier_hf` registers the configuration, the model, the processor and the pipeline `"audio-text-emotion"` with the Auto classes of
transformers. Training, data and evaluation load when they are first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .kernels import load_kernels
from .model.audio_bibier import AudioError, decode_audio
from .model.configuration_bibier import DEFAULT_MODEL_ID, EMOTIONS, TASK, BiBiERConfig
from .model.modeling_bibier import BiBiERForEmotionClassification
from .model.pipeline_bibier import AudioTextEmotionPipeline
from .model.processing_bibier import BiBiERProcessor

if TYPE_CHECKING:
    from .data.corpora import load_corpus, load_csv, load_meld, load_quickstart, load_ravdess, load_resd, register_corpus
    from .data.protocols import apply_protocol
    from .training.trainer import BiBiERTrainer

__version__ = "0.1.0"

_LAZY = {
    "BiBiERTrainer": ".training.trainer",
    "apply_protocol": ".data.protocols",
    "load_corpus": ".data.corpora",
    "load_csv": ".data.corpora",
    "load_meld": ".data.corpora",
    "load_quickstart": ".data.corpora",
    "load_ravdess": ".data.corpora",
    "load_resd": ".data.corpora",
    "register_corpus": ".data.corpora",
}

__all__ = [
    "EMOTIONS",
    "TASK",
    "AudioError",
    "AudioTextEmotionPipeline",
    "BiBiERConfig",
    "BiBiERForEmotionClassification",
    "BiBiERProcessor",
    "BiBiERTrainer",
    "apply_protocol",
    "decode_audio",
    "load_corpus",
    "load_csv",
    "load_kernels",
    "load_meld",
    "load_quickstart",
    "load_ravdess",
    "load_resd",
    "register_corpus",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _NoDefaultModel(dict):
    """Stands for the default model of the task as long as none is published: says so when it is asked for."""

    def __contains__(self, key: object) -> bool:
        raise ValueError(
            f"No checkpoint is published yet, so pipeline({TASK!r}) has no default model. Train one (accelerate launch recipes/train.py) "
            f"and pass its folder, or pass any BiBiER checkpoint: pipeline({TASK!r}, model=...)."
        )


def _register() -> None:
    AutoConfig.register(BiBiERConfig.model_type, BiBiERConfig, exist_ok=True)
    AutoModel.register(BiBiERConfig, BiBiERForEmotionClassification, exist_ok=True)
    AutoModelForAudioClassification.register(BiBiERConfig, BiBiERForEmotionClassification, exist_ok=True)
    AutoProcessor.register(BiBiERConfig, BiBiERProcessor, exist_ok=True)
    PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=AudioTextEmotionPipeline, pt_model=AutoModel, type="multimodal")
    default = {"model": (DEFAULT_MODEL_ID, "main")} if DEFAULT_MODEL_ID else _NoDefaultModel()
    PIPELINE_REGISTRY.supported_tasks[TASK]["default"] = default


_register()
load_kernels()
