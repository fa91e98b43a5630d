"""The selective scan and the Mamba block against slow readable twins."""

import pytest
import torch
from torch.nn import functional as F
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from bibier_hf.model import mamba_bibier
from bibier_hf.model.mamba_bibier import MambaBlock, RMSNorm, SelectiveSSM, selective_scan


def naive_scan(u, dt, A, B, C, D):
    """Equation by equation, one step after the other."""
    h = torch.zeros(u.shape[0], *A.shape, dtype=u.dtype)
    outputs = []
    for t in range(u.shape[1]):
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * u[:, t])[..., None] * B[:, t, None, :]
        outputs.append((h * C[:, t, None, :]).sum(-1) + D * u[:, t])
    return torch.stack(outputs, dim=1)


def scan_inputs(batch: int, length: int, size: int, states: int, dtype=torch.float64, seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    u, B, C = (torch.randn(batch, length, n, dtype=dtype) for n in (size, states, states))
    dt, A, D = torch.rand(batch, length, size, dtype=dtype), -torch.rand(size, states, dtype=dtype) - 0.1, torch.randn(size, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (u, dt, A, B, C, D)]


def initialised(module: torch.nn.Module) -> torch.nn.Module:
    for part in module.modules():
        if isinstance(part, SelectiveSSM):
            with torch.no_grad():
                part.init_parameters()
    return module.eval()


@pytest.mark.parametrize("length", [1, 2, 5, 64, 257, 4000])
def test_scan_equals_the_loop(length: int, monkeypatch: pytest.MonkeyPatch):
    inputs = scan_inputs(2, length, 3, 4)
    expected = naive_scan(*inputs)
    torch.testing.assert_close(selective_scan(*inputs), expected, atol=1e-9, rtol=1e-9)
    if length <= 257:  # chunks of every kind of size: one step, some steps with a shorter last one
        for steps in (1, 3, 50):
            monkeypatch.setattr(mamba_bibier, "_CHUNK_ELEMENTS", steps * 2 * 3 * 4)
            torch.testing.assert_close(selective_scan(*inputs), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 3, 100])
def test_scan_gradients(steps: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mamba_bibier, "_CHUNK_ELEMENTS", steps * 2 * 3 * 4)
    assert torch.autograd.gradcheck(selective_scan, scan_inputs(2, 7, 3, 4))


def test_scan_gradients_equal_autograd_through_the_loop():
    inputs = scan_inputs(3, 40, 5, 4, seed=1)
    weight = torch.randn(3, 40, 5, dtype=torch.float64)
    ours = torch.autograd.grad((selective_scan(*inputs) * weight).sum(), inputs)
    theirs = torch.autograd.grad((naive_scan(*inputs) * weight).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_scan_in_lower_precision(dtype: torch.dtype, tolerance: float):
    inputs = [tensor.detach() for tensor in scan_inputs(2, 100, 4, 4)]
    low = [tensor.to(dtype) for tensor in inputs]
    expected = naive_scan(*(tensor.double() for tensor in low))
    result = selective_scan(*low)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, atol=tolerance * expected.abs().max().item(), rtol=0)


def test_a_step_of_size_zero_changes_nothing():
    u, dt, A, B, C, D = (tensor.detach() for tensor in scan_inputs(2, 9, 3, 4))
    dt[:, 4:6] = 0
    kept = [0, 1, 2, 3, 6, 7, 8]
    full = selective_scan(u, dt, A, B, C, D)
    short = selective_scan(u[:, kept], dt[:, kept], A, B[:, kept], C[:, kept], D)
    torch.testing.assert_close(full[:, kept], short)


def test_block_equals_the_mixer_of_transformers():
    torch.manual_seed(0)
    config = MambaConfig(
        hidden_size=12, intermediate_size=24, state_size=4, conv_kernel=3, time_step_rank=2, use_conv_bias=True, use_bias=False
    )
    config.intermediate_size = 24
    mixer = MambaMixer(config, layer_idx=0).eval()
    block = initialised(MambaBlock(12, inner_size=24, state_size=4, conv_kernel=3, dt_rank=2))
    names = {name: name if name.startswith(("in_proj", "out_proj")) else f"forward_ssm.{name}" for name in mixer.state_dict()}
    block.load_state_dict({names[name]: value for name, value in mixer.state_dict().items()})
    x = torch.randn(2, 15, 12)
    with torch.no_grad():
        expected = mixer(x)
        expected = expected[0] if isinstance(expected, tuple) else expected
        torch.testing.assert_close(block(x, torch.ones(2, 15, dtype=torch.bool)), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_never_changes_a_block(bidirectional: bool):
    torch.manual_seed(0)
    block = initialised(MambaBlock(8, inner_size=16, state_size=4, bidirectional=bidirectional))
    lengths = [1, 2, 5, 11]
    x = torch.randn(4, 20, 8)  # whatever stands in the padding
    mask = torch.arange(20) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        together = block(x, mask)
        for row, length in enumerate(lengths):
            alone = block(x[row : row + 1, :length], mask[row : row + 1, :length])
            torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=1e-5)


def test_reverse_is_the_forward_scan_of_the_flipped_sequence():
    torch.manual_seed(0)
    ssm = initialised(SelectiveSSM(6, state_size=4, conv_kernel=4, dt_rank=2))
    x, mask = torch.randn(2, 9, 6), torch.ones(2, 9, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(ssm(x, mask, reverse=True), ssm(x.flip(1), mask).flip(1))


def test_forward_block_is_causal_and_bidirectional_is_not():
    torch.manual_seed(0)
    x = torch.randn(1, 10, 8)
    later = x.clone()
    later[:, 6:] += 1
    mask = torch.ones(1, 10, dtype=torch.bool)
    for bidirectional in (False, True):
        block = initialised(MambaBlock(8, inner_size=16, state_size=4, bidirectional=bidirectional))
        with torch.no_grad():
            before_changed = not torch.allclose(block(x, mask)[:, :6], block(later, mask)[:, :6])
        assert before_changed == bidirectional


def test_initial_decay_and_step_sizes_are_those_of_the_paper():
    ssm = initialised(SelectiveSSM(64, state_size=16, conv_kernel=4, dt_rank=4))
    torch.testing.assert_close(ssm.A_log.exp(), torch.arange(1.0, 17.0).expand(64, 16))
    steps = F.softplus(ssm.dt_proj.bias)
    assert steps.min() >= 1e-3 * 0.999
    assert steps.max() <= 1e-1 * 1.001


def test_rms_norm_by_hand():
    norm = RMSNorm(2)
    norm.weight.data = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(norm(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 8.0]]) / 12.5**0.5)
