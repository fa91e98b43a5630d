"""Register the model with the Auto classes and `pipeline` of transformers. Called by `import bibier_hf`."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForSequenceClassification,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .hub.shipped import DefaultModel
from .model.configuration_bibier import TASK, BiBiERConfig
from .model.modeling_bibier import BiBiERForEmotionClassification
from .model.pipeline_bibier import register_task
from .model.processing_bibier import BiBiERProcessor


def register() -> None:
    """Register the configuration, model, processor and pipeline. Safe to call repeatedly."""
    AutoConfig.register(BiBiERConfig.model_type, BiBiERConfig, exist_ok=True)
    AutoModel.register(BiBiERConfig, BiBiERForEmotionClassification, exist_ok=True)

    for auto_class in (AutoModelForAudioClassification, AutoModelForSequenceClassification):
        auto_class.register(BiBiERConfig, BiBiERForEmotionClassification, exist_ok=True)

    AutoProcessor.register(BiBiERConfig, BiBiERProcessor, exist_ok=True)
    PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)  # that of a checkpoint's own code
    register_task()
    PIPELINE_REGISTRY.supported_tasks[TASK]["default"] = DefaultModel()
