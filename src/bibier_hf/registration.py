"""Register the model with the Auto classes and `pipeline` of transformers. Called by `import bibier_hf`."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForSequenceClassification,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .model.configuration_bibier import DEFAULT_MODEL_ID, TASK, BiBiERConfig
from .model.modeling_bibier import BiBiERForEmotionClassification
from .model.pipeline_bibier import register_task
from .model.processing_bibier import BiBiERProcessor


class _NoDefaultModel(dict):
    """Stand-in for the default model of the task as long as none is published; says so when it is used."""

    def __contains__(self, key: object) -> bool:
        raise ValueError(
            f"No checkpoint is published yet, so pipeline({TASK!r}) has no default model. Train one (bibier train) "
            f"and pass its folder, or pass any BiBiER checkpoint: pipeline({TASK!r}, model=...)."
        )


def register() -> None:
    """Register the configuration, model, processor and pipeline. Safe to call repeatedly."""
    AutoConfig.register(BiBiERConfig.model_type, BiBiERConfig, exist_ok=True)
    AutoModel.register(BiBiERConfig, BiBiERForEmotionClassification, exist_ok=True)

    for auto_class in (AutoModelForAudioClassification, AutoModelForSequenceClassification):
        auto_class.register(BiBiERConfig, BiBiERForEmotionClassification, exist_ok=True)

    AutoProcessor.register(BiBiERConfig, BiBiERProcessor, exist_ok=True)
    PIPELINE_REGISTRY.supported_tasks.pop(TASK, None)  # that of a checkpoint's own code
    register_task()
    default = {"model": (DEFAULT_MODEL_ID, "main")} if DEFAULT_MODEL_ID else _NoDefaultModel()
    PIPELINE_REGISTRY.supported_tasks[TASK]["default"] = default
