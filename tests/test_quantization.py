"""int8 in torch: near, independent of the batch, and refused with a word where torchao is missing."""

import sys

import pytest
import torch

from bibier_hf import BiBiERForEmotionClassification
from bibier_hf.errors import ArgumentError
from bibier_hf.quantization import int8_copy


def test_near_and_independent_of_the_batch(model: BiBiERForEmotionClassification):
    pytest.importorskip("torchao", reason="the extra 'int8' is not installed")
    quantized = int8_copy(model)
    torch.manual_seed(0)
    frames, mask = torch.randn(3, 40, 160), (torch.arange(40) < torch.tensor([[40], [11], [1]])).long()
    with torch.no_grad():
        exact = model(input_features=frames, audio_attention_mask=mask).logits
        together = quantized(input_features=frames, audio_attention_mask=mask).logits
        alone = torch.cat([quantized(input_features=frames[[0]]).logits, quantized(input_features=frames[[1], :11]).logits])
    assert 0 < (together - exact).norm() / exact.norm() < 0.1
    torch.testing.assert_close(together[:2], alone, atol=1e-4, rtol=0)
    assert model.classifier[0].weight.dtype == torch.float32


def test_without_torchao(model: BiBiERForEmotionClassification, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ArgumentError, match=r"bibier-hf\[int8\]"):
        int8_copy(model)
