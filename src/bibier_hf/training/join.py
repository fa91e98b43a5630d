"""Join a speech model and a text model, trained separately, into one bimodal model.

    speech checkpoint -- logits / T_audio --+
                                            +-- weights by label (late fusion), fitted on dev
    text checkpoint ---- logits / T_text ---+

Each temperature is folded into the last layer of its model, so both give calibrated logits before they are weighted.
The weights must be fitted on rows that are new to both models: a classifier that has memorized them would get all the
weight.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import ArgumentError
from ..evaluation.calibration import fit_temperature
from ..model.configuration_bibier import MODALITIES, SINGLE_LABEL, BiBiERConfig
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor

_SHRINKAGE = 0.02
"""Penalty on the squared difference between a label's weights and their mean, so that rare labels follow the
others."""


def join_models(
    speech: BiBiERForEmotionClassification, text: BiBiERForEmotionClassification
) -> BiBiERForEmotionClassification:
    """Return one model with the backbones, encoders and heads of both, and equal weights.

    Args:
        speech, text: models of one modality each, with the same labels.

    Raises:
        ArgumentError: the models have other modalities, different labels, or another problem type.
    """
    for modality, model in zip(MODALITIES, (speech, text), strict=True):
        if model.config.modalities != [modality]:
            raise ArgumentError(
                f"{'speech' if modality == 'audio' else 'text'}: this checkpoint reads "
                f"{' and '.join(model.config.modalities)}. Train one with model.modalities: [{modality}]."
            )
        if model.config.problem_type != SINGLE_LABEL:
            raise ArgumentError(
                f"{'speech' if modality == 'audio' else 'text'}: this checkpoint is for {model.config.problem_type}. "
                "Only those with one label for each clip can be joined."
            )
    if speech.config.label_names != text.config.label_names:
        raise ArgumentError(
            f"text: its labels are {', '.join(text.config.label_names)}, those of the speech checkpoint "
            f"{', '.join(speech.config.label_names)}. Train both with the same labels."
        )

    config = BiBiERConfig(
        audio_config=speech.config.audio_config,
        text_config=text.config.text_config,
        fusion="late",
        id2label=speech.config.id2label,
        problem_type=SINGLE_LABEL,
        text_context=text.config.text_context,
    )
    joined = BiBiERForEmotionClassification(config, build_backbones=False)
    for modality, model in zip(MODALITIES, (speech, text), strict=True):
        stream, source = joined.streams[modality], model.streams[modality]
        stream.encoder = source.encoder
        stream.backbone = source.backbone
        setattr(joined, f"{modality}_head", model.heads[modality])
    joined.base_model.audio.speech_check = speech.base_model.audio.speech_check
    assert joined.mixture is not None  # a late fusion
    torch.nn.init.zeros_(joined.mixture.weights)
    return joined.eval()


def join_processors(speech: BiBiERProcessor, text: BiBiERProcessor) -> BiBiERProcessor:
    """Return a processor with the front end of one and the tokenizer of the other."""
    return BiBiERProcessor(
        speech.feature_extractor, text.tokenizer, text.max_text_tokens, text.text_prefix, speech.max_window_s
    )


@torch.no_grad()
def sharpen(model: BiBiERForEmotionClassification, modality: str, temperature: float) -> None:
    """Divide the logits of one modality by a temperature, in its last layer."""
    head = model.heads[modality]
    assert head is not None  # both modalities are read
    head.linear.weight.div_(temperature)
    head.linear.bias.div_(temperature)


@torch.no_grad()
def mixed(model: BiBiERForEmotionClassification, logits: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mix the logits (N, K) of both modalities as the model does."""
    assert model.mixture is not None
    values = [torch.as_tensor(logits[modality], dtype=torch.float32) for modality in MODALITIES]
    present = [torch.ones(len(values[0]), dtype=torch.bool)] * len(values)
    return model.mixture(values, present).numpy()


def fit_weights(
    model: BiBiERForEmotionClassification, logits: Mapping[str, np.ndarray], labels: np.ndarray, groups: np.ndarray
) -> None:
    """Fit the weights of the late fusion and the temperature of a joined model.

    The loss is the cross-entropy, with equal weight for each corpus, plus a penalty that pulls the labels' weights
    together.

    Args:
        model: joined.
        logits: modality -> (N, K) of rows with both modalities.
        labels: (N,).
        groups: (N,) names of the corpora.
    """
    assert model.mixture is not None
    stacked = torch.stack([torch.as_tensor(logits[modality], dtype=torch.float64) for modality in MODALITIES])
    truth = torch.as_tensor(labels)
    _, place, counts = np.unique(groups, return_inverse=True, return_counts=True)
    share = torch.as_tensor(1 / counts[place] / len(counts))
    weights = torch.zeros(2, stacked.shape[2], dtype=torch.float64, requires_grad=True)
    sharpness = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, sharpness], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        weighed = (weights.softmax(0).unsqueeze(1) * stacked).sum(0) * sharpness.exp()
        value = (share * F.cross_entropy(weighed, truth, reduction="none")).sum()
        value = value + _SHRINKAGE * (weights - weights.mean(1, keepdim=True)).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        model.mixture.weights.copy_(weights - weights.mean(0, keepdim=True))
    # The sharpness has no bounds and grows forever if every answer is correct.
    model.config.temperature = fit_temperature(mixed(model, logits), labels, groups).temperature
