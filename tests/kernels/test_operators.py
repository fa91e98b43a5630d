"""The compiled operators by themselves: what they refuse, threads, `torch.library`'s own checks."""

import pytest
import torch

from bibier_hf.kernels import load_kernels


@pytest.fixture(autouse=True)
def compiled() -> None:
    if not load_kernels(build_missing=True):
        pytest.skip("the kernels cannot be compiled here")


def scan_inputs(batch: int = 2, length: int = 20, size: int = 5, states: int = 16) -> list[torch.Tensor]:
    torch.manual_seed(0)
    u, dt = torch.randn(batch, length, size), torch.rand(batch, length, size)
    B, C = (torch.randn(batch, length, states) for _ in range(2))
    return [u, dt, -torch.rand(size, states), B, C, torch.randn(size)]


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_operators_keep_the_rules_of_torch_library(masked: bool):
    """Schema, aliasing, shapes without data, registration of the gradients, tracing with dynamic shapes."""
    inputs = [tensor.requires_grad_() for tensor in scan_inputs()]
    mask = torch.rand(2, 20) < 0.5 if masked else None
    torch.library.opcheck(torch.ops.bibier_hf.selective_scan.default, (*inputs, mask, True, True, True))
    x, weight, bias = inputs[0], torch.randn(5, 3, requires_grad=True), torch.randn(5)
    torch.library.opcheck(torch.ops.bibier_hf.causal_conv.default, (x, weight, bias, mask, False))


def test_results_do_not_depend_on_the_number_of_threads():
    inputs = [tensor.requires_grad_() for tensor in scan_inputs(3, 50, 300)]
    threads, results = torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        y, _ = torch.ops.bibier_hf.selective_scan(*inputs, None, True, False, True)
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    torch.set_num_threads(threads)
    for one, three in zip(*results, strict=True):
        torch.testing.assert_close(one, three, atol=1e-4, rtol=1e-5)
    assert torch.equal(results[0][0], results[1][0])


def test_a_step_of_size_zero_is_exact():
    u, dt, A, B, C, D = scan_inputs()
    dt[:, 5:9] = 0
    y, _ = torch.ops.bibier_hf.selective_scan(u, dt, A, B, C, D, None, True, False, False)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[:, 5:9] = False
    skipped, _ = torch.ops.bibier_hf.selective_scan(u, dt, A, B, C, D, mask, True, False, False)
    assert torch.equal(y[:, 9:], skipped[:, 9:])
    assert skipped[:, 5:9].abs().max() == 0


def test_decays_over_the_whole_range_of_exponents():
    """One step after a state of one: y is the decay itself, from 1 down to nothing."""
    rates = torch.linspace(-90, 0, 4001)
    u, dt = torch.tensor([1.0, 0.0]).expand(4001, 2).T[None].clone(), torch.ones(1, 2, 4001)
    one = torch.ones(1, 2, 1)
    y, _ = torch.ops.bibier_hf.selective_scan(
        u, dt, rates[:, None].clone(), one, one, torch.zeros(4001), None, True, False, False
    )
    expected = rates.double().exp()
    assert ((y[0, 1].double() - expected).abs() / expected)[
        rates > -80
    ].max() < 6e-6  # of which 80 * 2^-24 by rounding dt A itself
    assert ((y[0, 1].double() - expected).abs() / expected)[rates > -1].max() < 2e-7
    assert y[0, 1, 0] < 1e-37


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda inputs: inputs.__setitem__(3, inputs[3][:, :4]), "do not fit together"),
        (lambda inputs: inputs.__setitem__(1, inputs[1].double()), "float32 or all float64"),
        (lambda inputs: inputs.__setitem__(0, inputs[0].half()), "float32 or all float64"),
    ],
)
def test_wrong_inputs_are_refused(change, message: str):
    inputs = scan_inputs()
    change(inputs)
    with pytest.raises(ValueError, match=message):
        torch.ops.bibier_hf.selective_scan(*inputs, None, True, False, False)


def test_gradients_without_saved_states_are_refused():
    inputs = [tensor.requires_grad_() for tensor in scan_inputs()]
    with pytest.raises(RuntimeError, match="save_states=False"):
        torch.ops.bibier_hf.selective_scan(*inputs, None, True, False, False)
