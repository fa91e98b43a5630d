"""LoRA on the backbones: train low-rank adapters instead of the weights of the backbone (Hu et al., 2021), with peft.

backbone (frozen) + adapter (trained) -- training --> merged: an ordinary backbone, stored in the checkpoint
                                                 \\-> adapter: a folder `<modality>_adapter`; the backbone is stored, or
                                                     named by its Hub id
"""

import tempfile

from peft import LoraConfig, PeftModel, get_peft_model

from ..errors import ArgumentError
from ..model.backbones_bibier import load_adapter
from ..model.modeling_bibier import BiBiERForEmotionClassification
from .arguments import LoraArguments


class LoraAdapters:
    """The adapters of a model in training.

    Args:
        model: gets adapters in its backbones, whose weights are frozen.
        arguments: None: no adapters.

    Raises:
        ArgumentError: a backbone has no such targets.
    """

    def __init__(self, model: BiBiERForEmotionClassification, arguments: LoraArguments | None):
        self.model = model
        self.arguments = arguments
        self._wrapped: dict[str, PeftModel] = {}
        if arguments is not None:
            self._wrapped = {modality: self._wrap(modality, arguments) for modality in arguments.backbones}

    def _wrap(self, modality: str, options: LoraArguments) -> PeftModel:
        config = LoraConfig(
            r=options.r,
            lora_alpha=options.alpha,  # ty: ignore[invalid-argument-type] - divided by r, so any number
            target_modules=options.targets,
            lora_dropout=options.dropout,
        )
        if modality not in self.model.config.modalities:
            raise ArgumentError(f"lora.backbones: the model does not read {modality}. Leave '{modality}' out.")
        stream = self.model.streams[modality]
        backbone = stream.require_backbone()
        try:
            wrapped = get_peft_model(backbone, config)
        except ValueError as error:
            linear = sorted(
                {name.split(".")[-1] for name, module in backbone.named_modules() if type(module).__name__ == "Linear"}
            )
            raise ArgumentError(
                f"lora.targets: {options.targets} does not fit the {modality} backbone '{backbone.config.model_type}' "
                f"({error}). "
                f"Its linear layers are {', '.join(linear)}; 'all-linear' takes all of them."
            ) from error
        stream.config.freeze_backbone = False  # gradients must pass through it
        return wrapped

    def finish(self) -> None:
        """After training, bring the adapters into the form that `save_pretrained` stores. The outputs do not change."""
        merges = self.arguments is not None and self.arguments.save == "merged"
        for modality, wrapped in self._wrapped.items():
            stream = self.model.streams[modality]
            if merges:
                backbone = wrapped.merge_and_unload()
            else:
                with tempfile.TemporaryDirectory() as folder:
                    wrapped.save_pretrained(folder)
                    backbone = wrapped.unload()
                    load_adapter(backbone, folder)
                # The base is unchanged, so a checkpoint can name it instead of storing it.
                stream.config.freeze_backbone = True
            # A merged backbone has no adapters any more.
            if merges and hasattr(backbone, "peft_config"):
                del backbone.peft_config
            stream.backbone = backbone
        self._wrapped = {}
