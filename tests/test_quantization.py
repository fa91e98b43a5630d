"""int8 in torch: near, independent of the batch, and refused with a word where torch cannot."""

import copy

import pytest
import torch

from bibier_hf import BiBiERForEmotionClassification
from bibier_hf.errors import ArgumentError
from bibier_hf.quantization import Int8Linear, int8_copy

needs_fbgemm = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="torch has no FBGEMM here"
)


@needs_fbgemm
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_what_rounding_gives(bias: bool):
    torch.manual_seed(0)
    linear = torch.nn.Linear(48, 20, bias=bias)
    x = torch.randn(2, 5, 48) * torch.logspace(-3, 3, 5)[:, None]
    x[0, 0] = 0
    weight_scale, scale = linear.weight.abs().amax(1, keepdim=True) / 127, x.abs().amax(-1, keepdim=True) / 63
    weight = (linear.weight / weight_scale).round() * weight_scale
    twin = torch.nn.functional.linear(torch.nan_to_num((x / scale).round() * scale), weight, linear.bias)
    torch.testing.assert_close(Int8Linear(linear)(x), twin.detach(), rtol=1e-4, atol=1e-4)
    largest = torch.nn.Linear(4096, 1)
    torch.nn.init.ones_(largest.weight)  # sums of the largest products do not overflow
    assert Int8Linear(largest)(torch.ones(1, 4096)).item() == pytest.approx(
        largest(torch.ones(1, 4096)).item(), rel=1e-4
    )


@needs_fbgemm
def test_near_and_independent_of_the_batch(model: BiBiERForEmotionClassification):
    quantized = copy.deepcopy(int8_copy(model))
    torch.manual_seed(0)
    frames, mask = torch.randn(3, 40, 160), (torch.arange(40) < torch.tensor([[40], [11], [1]])).long()
    with torch.no_grad():
        exact = model(input_features=frames, audio_attention_mask=mask).logits
        together = quantized(input_features=frames, audio_attention_mask=mask).logits
        alone = torch.cat(
            [quantized(input_features=frames[[0]]).logits, quantized(input_features=frames[[1], :11]).logits]
        )
    assert 0 < (together - exact).norm() / exact.norm() < 0.1
    torch.testing.assert_close(together[:2], alone, atol=1e-4, rtol=0)
    assert model.classifier[0].weight.dtype == torch.float32


def test_refused_where_torch_cannot(model: BiBiERForEmotionClassification, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.quantized.__class__, "supported_engines", ["qnnpack"], raising=False)
    with pytest.raises(ArgumentError, match="x86"):
        int8_copy(model)
