"""The selective scan and the Mamba block against slow readable twins."""

import pytest
import torch
from torch.nn import functional as F
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from bibier_hf.kernels import load_kernels
from bibier_hf.model import mamba_bibier
from bibier_hf.model.mamba_bibier import MambaBlock, RMSNorm, SelectiveSSM, causal_conv, selective_scan


@pytest.fixture(params=["torch", "compiled"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs on both paths of the scan and the convolution."""
    if request.param == "torch":
        monkeypatch.setattr(mamba_bibier, "_compiled", lambda name, x: None)
    elif not load_kernels(build_missing=True):
        pytest.skip("the kernels cannot be compiled here, or BIBIER_KERNEL=torch")
    return request.param


def naive_scan(u, dt, A, B, C, D, decay="exponential", mask=None, reverse=False):
    """Equation by equation, one step after the other."""
    h = torch.zeros(u.shape[0], *A.shape, dtype=u.dtype)
    mask = torch.ones(u.shape[:2], dtype=torch.bool) if mask is None else mask
    outputs = {}
    for t in reversed(range(u.shape[1])) if reverse else range(u.shape[1]):
        rate = torch.exp(dt[:, t, :, None] * A) if decay == "exponential" else dt[:, t, :, None] * torch.exp(A)
        after = rate * h + (dt[:, t] * u[:, t])[..., None] * B[:, t, None, :]
        h = torch.where(mask[:, t, None, None], after, h)
        outputs[t] = ((h * C[:, t, None, :]).sum(-1) + D * u[:, t]) * mask[:, t, None]
    return torch.stack([outputs[t] for t in range(u.shape[1])], dim=1)


def naive_conv(x, weight, bias, mask=None, reverse=False):
    """The sum over taps, one step after the other."""
    length, taps = x.shape[1], weight.shape[1]
    x = x if mask is None else x * mask[..., None]
    outputs = []
    for t in range(length):
        places = [t + taps - 1 - tap if reverse else t - (taps - 1) + tap for tap in range(taps)]
        outputs.append(
            bias + sum(weight[:, tap] * x[:, place] for tap, place in enumerate(places) if 0 <= place < length)
        )
    return F.silu(torch.stack(outputs, dim=1))


def scan_inputs(
    batch: int, length: int, size: int, states: int, dtype=torch.float64, seed: int = 0
) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    u, B, C = (torch.randn(batch, length, n, dtype=dtype) for n in (size, states, states))
    dt, A, D = (
        torch.rand(batch, length, size, dtype=dtype),
        -torch.rand(size, states, dtype=dtype) - 0.1,
        torch.randn(size, dtype=dtype),
    )
    return [tensor.requires_grad_() for tensor in (u, dt, A, B, C, D)]


def initialized(module: torch.nn.Module) -> torch.nn.Module:
    for part in module.modules():
        if isinstance(part, SelectiveSSM):
            with torch.no_grad():
                part.init_parameters()
    return module.eval()


WAYS = [
    {},
    {"reverse": True},
    {"decay": "product"},
    {"mask": "middle"},
    {"mask": "middle", "reverse": True},
    {"mask": "middle", "reverse": True, "decay": "product"},
]
"""Options of the scan; "middle": padding on the left, on the right and in the middle."""


def options(way: dict, batch: int, length: int) -> dict:
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(7)) < 0.7
    return {**way, "mask": mask} if "mask" in way else way


@pytest.mark.parametrize("length", [1, 2, 16, 17, 257, 4000])
def test_scan_equals_the_loop(length: int, path: str, monkeypatch: pytest.MonkeyPatch):
    inputs = scan_inputs(2, length, 3, 4)
    expected = naive_scan(*inputs)
    torch.testing.assert_close(selective_scan(*inputs), expected, atol=1e-9, rtol=1e-9)
    if path == "torch" and length <= 257:  # chunks of every kind of size: one step, some steps with a shorter last one
        for steps in (1, 3, 50):
            monkeypatch.setattr(mamba_bibier, "_CHUNK_ELEMENTS", steps * 2 * 3 * 4)
            torch.testing.assert_close(selective_scan(*inputs), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize(
    ("size", "states"), [(5, 3), (21, 16), (200, 16)]
)  # vectors with a rest, more than a group of channels
def test_scan_and_its_gradients_equal_autograd_through_the_loop(way: dict, size: int, states: int):
    inputs = scan_inputs(3, 40, size, states, seed=1)
    way = options(way, 3, 40)
    weight = torch.randn(3, 40, size, dtype=torch.float64)
    ours, theirs = selective_scan(*inputs, **way), naive_scan(*inputs, **way)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
    for a, b in zip(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_scan_gradients(way: dict, path: str, monkeypatch: pytest.MonkeyPatch):
    # More than a chunk: the torch path takes chunks of any size, the compiled kernel always of 16 steps.
    length, chunks = (7, (1, 3, 100)) if path == "torch" else (18, (16,))
    inputs = scan_inputs(2, length, 3, 4)
    for steps in chunks:
        monkeypatch.setattr(mamba_bibier, "_CHUNK_ELEMENTS", steps * 2 * 3 * 4)
        assert torch.autograd.gradcheck(lambda *inputs: selective_scan(*inputs, **options(way, 2, length)), inputs)


@pytest.mark.parametrize("length", [1, 95, 4000])
def test_scan_in_single_precision_over_any_length(length: int):
    """States that decay slowly and fast, steps from none at all to large ones, as in a trained model."""
    torch.manual_seed(0)
    u, B, C = (torch.randn(2, length, n) for n in (24, 16, 16))
    dt, A, D = torch.rand(2, length, 24).pow(4) * 3, -torch.arange(1.0, 17.0).repeat(24, 1), torch.randn(24)
    expected = selective_scan(*(tensor.double() for tensor in (u, dt, A, B, C, D)))
    torch.testing.assert_close(
        selective_scan(u, dt, A, B, C, D).double(), expected, atol=2e-6 * expected.abs().max().item(), rtol=0
    )


def test_scan_takes_views_as_they_are():
    """Slices of a projection, as the model passes them."""
    inputs = [tensor.detach() for tensor in scan_inputs(2, 20, 6, 4)]
    u, dt, _, B, C, _ = inputs
    joint = torch.cat([u, dt, B, C], dim=-1)
    views = joint.split([6, 6, 4, 4], dim=-1)
    again = selective_scan(views[0], views[1], inputs[2].T.contiguous().T, views[2], views[3], inputs[5])
    torch.testing.assert_close(again, selective_scan(*inputs), atol=0, rtol=0)


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


@pytest.mark.parametrize("taps", [1, 4, 6])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_convolution_and_its_gradients(taps: int, reverse: bool, masked: bool):
    torch.manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 9, 11), (11, taps), (11,))
    )
    mask = options({"mask": "middle"}, 2, 9)["mask"] if masked else torch.ones(2, 9, dtype=torch.bool)

    def kept(function):
        return lambda *inputs: function(*inputs, mask, reverse) * mask[..., None]

    torch.testing.assert_close(kept(causal_conv)(x, weight, bias), kept(naive_conv)(x, weight, bias))
    assert torch.autograd.gradcheck(kept(causal_conv), (x, weight, bias))
    low = causal_conv(*(tensor.bfloat16() for tensor in (x, weight, bias)), mask, reverse)
    assert low.dtype == torch.bfloat16
    assert causal_conv(x.detach() * 300, weight, bias, mask, reverse).isfinite().all()


def test_block_compiles():
    torch.manual_seed(0)
    block = initialized(MambaBlock(8, inner_size=16, state_size=4, bidirectional=True))
    x, mask = torch.randn(2, 9, 8), torch.arange(9) < torch.tensor([[9], [4]])
    compiled = torch.compile(block, backend="eager")
    torch.testing.assert_close(compiled(x, mask), block(x, mask))
    compiled(x, mask).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


def test_block_equals_the_mixer_of_transformers():
    torch.manual_seed(0)
    config = MambaConfig(
        hidden_size=12,
        intermediate_size=24,
        state_size=4,
        conv_kernel=3,
        time_step_rank=2,
        use_conv_bias=True,
        use_bias=False,
    )
    config.intermediate_size = 24
    mixer = MambaMixer(config, layer_idx=0).eval()
    block = initialized(MambaBlock(12, inner_size=24, state_size=4, conv_kernel=3, dt_rank=2))
    names = {
        name: name if name.startswith(("in_proj", "out_proj")) else f"forward_ssm.{name}"
        for name in mixer.state_dict()
    }
    block.load_state_dict({names[name]: value for name, value in mixer.state_dict().items()})
    x = torch.randn(2, 15, 12)
    with torch.no_grad():
        expected = mixer(x)
        expected = expected[0] if isinstance(expected, tuple) else expected
        torch.testing.assert_close(block(x, torch.ones(2, 15, dtype=torch.bool)), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("decay", ["exponential", "product"])
def test_padding_never_changes_a_block(bidirectional: bool, decay: str):
    torch.manual_seed(0)
    block = initialized(MambaBlock(8, inner_size=16, state_size=4, bidirectional=bidirectional, decay=decay))
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
    ssm = initialized(SelectiveSSM(6, state_size=4, conv_kernel=4, dt_rank=2))
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
        block = initialized(MambaBlock(8, inner_size=16, state_size=4, bidirectional=bidirectional))
        with torch.no_grad():
            before_changed = not torch.allclose(block(x, mask)[:, :6], block(later, mask)[:, :6])
        assert before_changed == bidirectional


def test_initial_decay_and_step_sizes_are_those_of_the_paper():
    ssm = initialized(SelectiveSSM(64, state_size=16, conv_kernel=4, dt_rank=4))
    torch.testing.assert_close(ssm.A_log.exp(), torch.arange(1.0, 17.0).expand(64, 16))
    steps = F.softplus(ssm.dt_proj.bias)
    assert steps.min() >= 1e-3 * 0.999
    assert steps.max() <= 1e-1 * 1.001


def test_rms_norm_by_hand():
    norm = RMSNorm(2)
    norm.weight.data = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(norm(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 8.0]]) / 12.5**0.5)
