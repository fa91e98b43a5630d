"""LoRA with peft: train low-rank adapters instead of the weights of the backbones (Hu et al., 2021).

backbone (frozen) + adapter (trained) -- training --> merged: an ordinary backbone, stored in the checkpoint
                                                 \\-> adapter: a folder `<modality>_adapter`; the backbone is stored,
                                                 or
                                                     named by its Hub id
"""

import tempfile
from collections.abc import Collection

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from ..errors import ArgumentError
from ..model.backbones_bibier import load_adapter
from ..model.modeling_bibier import BiBiERForEmotionClassification
from .arguments import LoraArguments


@torch.no_grad()
def as_adapter(trained: PreTrainedModel, published: PreTrainedModel, rank: int) -> tuple[PreTrainedModel, float]:
    """Express what training changed in a backbone as a LoRA adapter for the published one.

    The change of each matrix is cut to its largest singular values. Biases and normalizations are kept whole.

    Args:
        trained: the backbone after training.
        published: the same backbone before; is changed.
        rank: of every matrix in the adapter.

    Returns:
        `published` with the adapter; the share of the squared change of the matrices that the adapter holds.

    Raises:
        ArgumentError: other architectures, no change, or one of other layers, such as embeddings.
    """
    before = dict(published.named_modules())
    changes, norms = {}, []
    for name, module in trained.named_modules():
        if not isinstance(module, nn.Linear | nn.LayerNorm):
            continue
        twin = before.get(name)
        if not isinstance(twin, type(module)) or twin.weight.shape != module.weight.shape:
            raise ArgumentError(f"adapter_rank: the published backbone has no layer like {name}. Name another one.")
        if torch.equal(twin.weight, module.weight):
            continue

        if isinstance(module, nn.LayerNorm):
            norms.append(name)
        else:
            bias = 0 if module.bias is None else module.bias - twin.bias
            changes[name] = module.weight - twin.weight, bias
    if not changes:
        raise ArgumentError("adapter_rank: training did not change the backbone. Leave it out.")
    _refuse_other_changes(trained, published, {*changes, *norms})

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(changes), modules_to_save=norms, lora_bias=True)
    wrapped = get_peft_model(published, config)
    weights = wrapped.state_dict()
    for name in norms:
        for part, values in trained.get_submodule(name).state_dict().items():
            weights[f"base_model.model.{name}.modules_to_save.default.{part}"].copy_(values)
    whole, kept = 0.0, 0.0
    for name, (matrix, bias) in changes.items():
        prefix = f"base_model.model.{name}.lora_"
        left, strengths, right = torch.linalg.svd(matrix, full_matrices=False)
        used = min(rank, len(strengths))  # rows beyond that are zero
        scale = strengths[:used].sqrt()
        weights[f"{prefix}A.default.weight"].zero_()[:used] = scale[:, None] * right[:used]
        weights[f"{prefix}B.default.weight"].zero_()[:, :used] = left[:, :used] * scale
        weights[f"{prefix}B.default.bias"].zero_().add_(bias)
        whole += strengths.square().sum().item()
        kept += strengths[:used].square().sum().item()

    return _loaded_as_adapter(wrapped), kept / whole


def _refuse_other_changes(trained: PreTrainedModel, published: PreTrainedModel, held: Collection[str]) -> None:
    """Refuse a change outside the layers that an adapter holds, which would be lost."""
    before = dict(published.named_parameters())
    for name, parameter in trained.named_parameters():
        if name.rpartition(".")[0] not in held and name in before and not torch.equal(parameter, before[name]):
            raise ArgumentError(
                f"adapter_rank: training changed {name}, which an adapter does not hold. Leave adapter_rank out, or train "
                "with it among `frozen`."
            )


def _loaded_as_adapter(wrapped: PeftModel) -> PreTrainedModel:
    """Return the backbone of a peft model, with the adapter in the form that transformers uses."""
    with tempfile.TemporaryDirectory() as folder:
        wrapped.save_pretrained(folder)
        backbone = wrapped.unload()
        load_adapter(backbone, folder)
    return backbone


class LoraAdapters:
    """The adapters of a model during training.

    Args:
        model: gets adapters in its backbones, whose weights are frozen.
        arguments: None for no adapters.

    Raises:
        ArgumentError: a backbone does not have these targets.
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
        """After training, convert the adapters to the form that `save_pretrained` stores. The outputs do not
        change."""
        merges = self.arguments is not None and self.arguments.save == "merged"
        for modality, wrapped in self._wrapped.items():
            stream = self.model.streams[modality]
            if merges:
                backbone = wrapped.merge_and_unload()
            else:
                backbone = _loaded_as_adapter(wrapped)
                # The base is unchanged, so a checkpoint can name it instead of storing it.
                stream.config.freeze_backbone = True
            # A merged backbone no longer has adapters.
            if merges and hasattr(backbone, "peft_config"):
                del backbone.peft_config
            stream.backbone = backbone
        self._wrapped = {}
