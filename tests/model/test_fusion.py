"""Fusion building blocks against torch's own functions and by hand."""

import pytest
import torch
from torch.nn import functional as F

from bibier_hf import BiBiERConfig
from bibier_hf.model.configuration_bibier import ENCODERS
from bibier_hf.model.configuration_bibier import FUSIONS as FUSION_NAMES
from bibier_hf.model.encoders_bibier import ENCODER_BLOCKS, masked_mean
from bibier_hf.model.fusion_bibier import FUSIONS, resample_to_length, sinusoids


@pytest.fixture
def config(tiny_options: dict) -> BiBiERConfig:
    return BiBiERConfig(audio_feature_size=5, text_feature_size=6, **tiny_options)


@pytest.mark.parametrize("length", [1, 2, 12, 95])
def test_resampling_equals_interpolate_of_each_valid_part(length: int):
    torch.manual_seed(0)
    x, lengths = torch.randn(6, 40), torch.tensor([1, 2, 3, 12, 39, 40])
    mask = torch.arange(40) < lengths[:, None]
    result = resample_to_length(x, mask, length)
    for row, n in enumerate(lengths.tolist()):
        expected = F.interpolate(x[row, :n].reshape(1, 1, n), size=length, mode="linear", align_corners=False).flatten()
        torch.testing.assert_close(result[row], expected, atol=1e-5, rtol=1e-5)


def test_masked_mean_by_hand():
    x = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [7.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    torch.testing.assert_close(masked_mean(x, mask), torch.tensor([[2.0], [0.0]]))


def test_sinusoids_by_hand():
    table = sinusoids(3, 4, torch.device("cpu"), torch.float32)
    position = torch.tensor(2.0)
    expected = torch.stack([position.sin(), position.cos(), (position / 100).sin(), (position / 100).cos()])
    torch.testing.assert_close(table[2], expected)


def test_the_names_in_the_config_are_those_that_can_be_built():
    assert tuple(ENCODER_BLOCKS) == ENCODERS
    assert tuple(FUSIONS) == FUSION_NAMES


@pytest.mark.parametrize("positional_encoding", [False, True])
def test_padding_never_changes_the_fusion(config: BiBiERConfig, positional_encoding: bool):
    torch.manual_seed(0)
    config.positional_encoding = positional_encoding
    fusion = FUSIONS[config.fusion](config).eval()
    audio, text = torch.randn(3, 30, config.audio_encoder_size), torch.randn(3, 9, config.text_encoder_size)
    audio_lengths, text_lengths = [1, 14, 30], [9, 1, 4]
    audio_mask = torch.arange(30) < torch.tensor(audio_lengths)[:, None]
    text_mask = torch.arange(9) < torch.tensor(text_lengths)[:, None]
    with torch.no_grad():
        together = fusion(audio, audio_mask, text, text_mask)
        assert together.shape == (3, fusion.output_size)
        for row, (n, m) in enumerate(zip(audio_lengths, text_lengths, strict=True)):
            part = slice(row, row + 1)
            alone = fusion(audio[part, :n], audio_mask[part, :n], text[part, :m], text_mask[part, :m])
            torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)


def test_each_modality_reaches_the_other(config: BiBiERConfig):
    """The value of the attention comes from the other modality: a change of the text changes the audio stream."""
    torch.manual_seed(0)
    fusion = FUSIONS[config.fusion](config).eval()
    audio, text = torch.randn(2, 8, config.audio_encoder_size), torch.randn(2, 5, config.text_encoder_size)
    masks = torch.ones(2, 8, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    changed = text.clone()
    changed[1] += torch.randn(5, config.text_encoder_size)
    with torch.no_grad():
        before, _ = fusion.cross_modal(audio, masks[0], text, masks[1])
        after, _ = fusion.cross_modal(audio, masks[0], changed, masks[1])
    torch.testing.assert_close(before[0], after[0])
    assert (before[1] - after[1]).abs().max() > 1e-3
