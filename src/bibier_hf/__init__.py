"""BiBiER: emotion recognition from speech and text, in English and Russian, native to the Hugging Face ecosystem.

`import bibier_hf` registers the configuration, the model, the processor and the pipeline `"audio-text-emotion"` with
the Auto classes of transformers. Training, data and evaluation are imported on first use.

With an older transformers, such as the one that vLLM pins, there is no model. Labeling (`bibier_hf.llm`,
`bibier_hf.augmentation`), corpora and reports work, and using the model says what to install.
"""

import importlib
from typing import TYPE_CHECKING, Any

import transformers
from packaging.version import Version

from .extras import missing_package
from .kernels import load_kernels
from .model.audio_bibier import AudioError, decode_audio
from .model.labels_bibier import EMOTIONS

MINIMUM_TRANSFORMERS = "5.20"
"""Oldest version that the model supports; also required in `pyproject.toml`."""

HAS_MODEL = Version(transformers.__version__) >= Version(MINIMUM_TRANSFORMERS)

if HAS_MODEL:
    from .hub.shipped import shipped_checkpoint
    from .model.configuration_bibier import TASK, BiBiERConfig
    from .model.modeling_bibier import BiBiERForEmotionClassification, BiBiERModel
    from .model.pipeline_bibier import AudioTextEmotionPipeline
    from .model.processing_bibier import BiBiERProcessor
    from .registration import register

    register()
    load_kernels()

if TYPE_CHECKING:
    from .augmentation.ls_llm import LLMLabelSmoothing
    from .augmentation.sds import StackedDataSampling
    from .augmentation.tug import TemplateUtteranceGeneration
    from .data.corpora import load_corpus, register_corpus
    from .data.protocols import apply_protocol
    from .training.trainer import BiBiERTrainer

__version__ = "0.1.0"

_LAZY = {
    "BiBiERTrainer": ".training.trainer",
    "LLMLabelSmoothing": ".augmentation.ls_llm",
    "StackedDataSampling": ".augmentation.sds",
    "TemplateUtteranceGeneration": ".augmentation.tug",
    "apply_protocol": ".data.protocols",
    "load_corpus": ".data.corpora",
    "register_corpus": ".data.corpora",
}

__all__ = [
    "EMOTIONS",
    "TASK",
    "AudioError",
    "AudioTextEmotionPipeline",
    "BiBiERConfig",
    "BiBiERForEmotionClassification",
    "BiBiERModel",
    "BiBiERProcessor",
    "BiBiERTrainer",
    "LLMLabelSmoothing",
    "StackedDataSampling",
    "TemplateUtteranceGeneration",
    "apply_protocol",
    "decode_audio",
    "load_corpus",
    "load_kernels",
    "register_corpus",
    "shipped_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name in __all__ and name not in _LAZY:
        raise ImportError(
            f"bibier_hf.{name} needs transformers {MINIMUM_TRANSFORMERS} or newer; {transformers.__version__} is "
            "installed. Install the newer one, or use this environment only for labeling with vLLM (bibier label)."
        )
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    try:
        value = getattr(importlib.import_module(_LAZY[name], __name__), name)
    except ModuleNotFoundError as error:
        raise missing_package(error.name) or error from error

    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
