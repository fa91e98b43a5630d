"""LoRA on the backbones: low-rank adapters are trained in place of the backbone's own weights (Hu et al., 2021),
through peft.

backbone (frozen) + adapter (trained) -- training --> merged: one ordinary backbone, stored in the checkpoint
                                                 \\-> adapter: a folder `<modality>_adapter` beside a backbone that is
                                                 named or stored
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
        model: gets adapters in its backbones, in place; the backbones' own weights are frozen.
        arguments: None: no adapters, and [`finish`] does nothing.

    Raises:
        ArgumentError: targets that a backbone does not have.
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
            lora_alpha=options.alpha,  # ty: ignore[invalid-argument-type] - a quotient with r, so any number
            target_modules=options.targets,
            lora_dropout=options.dropout,
        )
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
        """After training: turn the adapters into the form in which `save_pretrained` stores them. The model computes
        the same as before."""
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
                # The base is as it came, so that a checkpoint may name it instead of storing it.
                stream.config.freeze_backbone = True
            # What peft leaves on a backbone says nothing about the one that is there now.
            if merges and hasattr(backbone, "peft_config"):
                del backbone.peft_config
            stream.backbone = backbone
        self._wrapped = {}
