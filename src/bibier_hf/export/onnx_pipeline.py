"""The pipeline `audio-text-emotion` on top of an ONNX graph."""

import os
from pathlib import Path
from typing import Any

import torch

from ..errors import ExportError
from ..extras import require
from ..model.backbones_bibier import kept_first
from ..model.configuration_bibier import MODALITIES, TASK, BiBiERConfig
from ..model.modeling_bibier import BiBiERForEmotionClassification, BiBiEROutput
from ..model.pipeline_bibier import AudioTextEmotionPipeline
from ..model.processing_bibier import BiBiERProcessor
from ..model.validation_bibier import one_line
from .folder import onnx_session, read_manifest

_RAW_INPUTS = {
    "audio": (("input_values", "input_features"), "audio_attention_mask"),
    "text": (("input_ids",), "text_attention_mask"),
}


class OnnxModel:
    """An ONNX graph with the inputs and outputs of [`BiBiERForEmotionClassification`], run by ONNX Runtime on the CPU.

    Args:
        folder: written by `bibier export --format onnx`.
        backbones: for a graph over features (`--part features`): a model whose backbones compute them from raw inputs.

    Raises:
        ExportError: the export is missing or damaged, or has other labels than the graph.
        MissingPackageError: ONNX Runtime is not installed.
    """

    main_input_name = "input_values"
    input_modalities = MODALITIES
    output_modalities = ("text",)
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, folder: str | os.PathLike, backbones: BiBiERForEmotionClassification | None = None):
        self.manifest = read_manifest(folder)
        if self.manifest["format"] != "onnx":
            raise ExportError(
                f"{folder} holds a torch.export graph. Load it with torch.export.load("
                f"{str(Path(folder) / self.manifest['file'])!r}), or export with --format onnx."
            )

        if self.manifest["part"] == "samples":
            raise ExportError(
                f"{folder} holds a graph of raw samples. Run it with its own run.py, or export with --part whole."
            )

        self.config = BiBiERConfig.from_pretrained(folder)
        if (labels := self.config.label_names) != self.manifest["labels"]:
            raise ExportError(
                f"{folder}: config.json has the labels {', '.join(labels)}; the graph has "
                f"{', '.join(map(str, self.manifest['labels']))}. Restore id2label, or export the model again."
            )

        self.backbones = backbones
        self.file = os.path.abspath(Path(folder) / self.manifest["file"])
        self._open()

    def _open(self) -> None:
        require("onnxruntime")

        try:
            self.session = onnx_session(self.file)
        except Exception as error:  # ONNX Runtime's errors share no other base class
            raise ExportError(f"{self.file} cannot be loaded ({one_line(error)}). Export the model again.") from error

        inputs = [entry.name for entry in self.session.get_inputs()]
        outputs = [entry.name for entry in self.session.get_outputs()]
        if (inputs, outputs) != (self.manifest["inputs"], self.manifest["outputs"]):
            raise ExportError(f"{self.file} is not the graph that export.json describes. Export the model again.")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the session, which belongs to its process; unpickling opens the file again."""
        return {name: value for name, value in vars(self).items() if name != "session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def to(self, device: Any) -> "OnnxModel":
        """Do nothing: the graph stays on the CPU.

        Raises:
            ExportError: another device.
        """
        _check_cpu(device)
        return self

    def eval(self) -> "OnnxModel":
        """Do nothing: there is no other mode."""
        return self

    def can_generate(self) -> bool:
        """Return False."""
        return False

    def __call__(self, **inputs: torch.Tensor | None) -> BiBiEROutput:
        """Return `logits` and those of each modality, like the `forward` of the model.

        Raises:
            ValueError: no input, an unknown input, or audio that is too long for the graph.
            ExportError: raw inputs for a graph over features, without backbones.
        """
        given = {name: tensor for name, tensor in inputs.items() if tensor is not None}

        if self.manifest["part"] == "features":
            given = self._features(given)

        names = self.manifest["inputs"]
        pairs = list(zip(self.config.modalities, names[::2], names[1::2], strict=True))
        others = {
            name for modality in MODALITIES if modality not in self.config.modalities for name in _all_names(modality)
        }
        if unknown := sorted(set(given) - set(names) - others):
            raise ValueError(f"The graph has no input {', '.join(unknown)}. It has: {', '.join(names)}.")

        batch = next((len(given[name]) for _, name, _ in pairs if name in given), None)
        if batch is None:
            raise ValueError(
                f"There is no input for this graph. Pass {' and/or '.join(name for _, name, _ in pairs)}."
            )

        fed = {}

        for modality, name, mask_name in pairs:
            values, mask = self._padded(modality, name, given.get(name), given.get(mask_name), batch)
            if len(pairs) == 1 and not bool(mask.any(1).all()):
                raise ValueError(f"This model reads {modality} alone, and a sample of the batch has no {modality}.")
            fed |= {name: values.numpy(), mask_name: mask.long().numpy()}

        values = map(torch.from_numpy, self.session.run(None, fed))
        outputs: dict[str, Any] = dict(zip(self.manifest["outputs"], values, strict=True))

        return BiBiEROutput(**outputs)

    def _features(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run raw inputs through the backbones."""
        inputs = dict(inputs)

        for modality, (raw_names, mask_name) in _RAW_INPUTS.items():
            raw = next((inputs.pop(name) for name in raw_names if name in inputs), None)
            mask = inputs.pop(mask_name, None)

            if raw is None or modality not in self.config.modalities:
                continue

            if self.backbones is None:
                raise ExportError(
                    f"This graph reads {modality}_features, not raw {modality}. Pass backbones=..., a model that "
                    "computes them, or export with --part whole."
                )

            with torch.no_grad():
                encode = getattr(self.backbones, f"encode_{modality}")
                inputs[f"{modality}_features"], inputs[f"{modality}_features_mask"] = encode(raw, mask)

        return inputs

    def _padded(
        self, modality: str, name: str, values: torch.Tensor | None, mask: torch.Tensor | None, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return one input of the graph and its mask, kept steps first. An absent modality is one masked step."""
        ids = name == "input_ids"

        if values is None or values.shape[1] == 0:
            width = next(entry.shape[2:] for entry in self.session.get_inputs() if entry.name == name)
            values = torch.zeros(batch, 1, *width, dtype=torch.long if ids else torch.float32)
            mask = torch.zeros(batch, 1)

        mask = torch.ones(values.shape[:2]) if mask is None else mask
        values, mask = kept_first(values.long() if ids else values.float(), mask.bool())
        longest = self.manifest["longest"][modality]
        if longest is not None and values.shape[1] > longest:
            hint = (
                f"{self.config.modality_configs['audio'].max_window_s} s: cut the recording, or use the torch pipeline"
                if modality == "audio"
                else "tokens"
            )
            raise ValueError(f"{name} has {values.shape[1]} steps; this graph takes up to {longest} ({hint}).")

        return values, mask


def _check_cpu(device: Any) -> None:
    """Refuse devices other than the CPU, in all forms of `pipeline(device=...)`; None and -1 mean the CPU."""
    if device not in (None, -1) and (isinstance(device, int) or torch.device(device).type != "cpu"):
        raise ExportError(
            f"device={device!r}: the graph runs on the CPU. Leave device out, or use the torch pipeline."
        )


def _all_names(modality: str) -> tuple[str, ...]:
    raw_names, mask_name = _RAW_INPUTS[modality]
    return *raw_names, mask_name, f"{modality}_features", f"{modality}_features_mask"


class OnnxPipeline(AudioTextEmotionPipeline):
    """[`AudioTextEmotionPipeline`] over an export: same calls and answers, without a PyTorch forward pass
    (`--part whole`).

    The processor decodes and tokenizes, so PyTorch is still imported for its tensors.

    Examples:
        >>> pipe = OnnxPipeline.from_pretrained("onnx/resd")  # doctest: +SKIP
        >>> pipe({"audio": "clip.wav", "text": "I can't believe it!"}, top_k=1)  # doctest: +SKIP
        [{'label': 'surprise', 'score': 0.71}]

    Raises:
        ExportError: a device other than the CPU.
    """

    def __init__(self, *args: Any, device: Any = None, **kwargs: Any):
        _check_cpu(device)
        super().__init__(*args, device="cpu", **kwargs)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike, backbones: BiBiERForEmotionClassification | None = None, **options: Any
    ) -> "OnnxPipeline":
        """Load the pipeline from the output of `bibier export`.

        Args:
            folder: of the export.
            backbones: as in [`OnnxModel`].
            options: arguments of the pipeline (`top_k`, `batch_size`, ...).

        Raises:
            ExportError: there is no ONNX export, or a device other than the CPU.
            MissingPackageError: ONNX Runtime is not installed.
        """
        model = OnnxModel(folder, backbones)
        return cls(model=model, processor=BiBiERProcessor.from_pretrained(folder), task=TASK, **options)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Refuse: copy the folder of the export instead."""
        raise ExportError("An export is not saved again; copy its folder.")
