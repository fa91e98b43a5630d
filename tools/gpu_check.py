"""Compare the model on a GPU with the model on the CPU in a few minutes, and print the speedup.

python tools/gpu_check.py

Checks the selective scan and the convolution (values and gradients, in float32), a training step in bfloat16, and the
pipeline. Kernels from the Hub are used if the package `kernels` is installed and the Hub can be reached, those of
`mamba-ssm` if that is installed, and plain PyTorch otherwise; the first lines list what is installed. Exit code 0 if
everything agrees or there is no GPU, 1 otherwise.
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification, BiBiERProcessor
from bibier_hf.model.mamba_bibier import causal_conv, selective_scan
from bibier_hf.model.pipeline_bibier import AudioTextEmotionPipeline

REPETITIONS = 5
BATCH, LENGTH, CHANNELS, STATES = 8, 400, 256, 16

Check = tuple[str, float, float, Callable[[], object], Callable[[], object]]
"""(what, largest difference, allowed, a run on the CPU, the same on the GPU)"""


def main() -> int:
    """Run all checks and print a table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU that PyTorch can use here; nothing was compared.")
        return 0

    installed = [name for name in ("kernels", "mamba_ssm", "causal_conv1d") if importlib.util.find_spec(name)]
    print(
        f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, installed: {', '.join(installed) or 'no kernels'}"
    )
    print(f"{'what':<28}{'difference':>12}{'allowed':>10}{'CPU':>11}{'GPU':>11}{'ratio':>8}")
    failed = 0
    for check in (scan_check, convolution_check, training_check, pipeline_check):
        what, difference, allowed, on_cpu, on_gpu = check()
        cpu, gpu = seconds(on_cpu), seconds(on_gpu)
        print(
            f"{what:<28}{difference:>12.1e}{allowed:>10.0e}{1000 * cpu:>8.1f} ms{1000 * gpu:>8.1f} ms{cpu / gpu:>7.1f}x"
        )
        failed += not difference <= allowed
    return 1 if failed else 0


def seconds(run: Callable[[], object]) -> float:
    """Return the median over a few repetitions, after one warm-up."""
    times = []
    for _ in range(REPETITIONS + 1):
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def _on(device: str, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().to(device).requires_grad_(tensor.requires_grad) for tensor in tensors]


def _compare(
    what: str, function: Callable[..., torch.Tensor], inputs: list[torch.Tensor], mask: torch.Tensor
) -> Check:
    """Compare values and gradients of a function of `inputs` and a mask."""
    found = {}
    for device in ("cpu", "cuda"):
        tensors = _on(device, inputs)
        y = function(*tensors, mask=mask.to(device))
        y.square().mean().backward()
        found[device] = [y.detach().cpu(), *(tensor.grad.cpu() for tensor in tensors)]
    scales = [max(1e-3, tensor.abs().max().item()) for tensor in found["cpu"]]
    pairs = zip(*found.values(), scales, strict=True)
    difference = max((one - other).abs().max().item() / scale for one, other, scale in pairs)

    def run(device: str) -> Callable[[], object]:
        tensors = _on(device, inputs)
        return lambda: function(*tensors, mask=mask.to(device)).sum().backward()

    return what, difference, 1e-4, run("cpu"), run("cuda")


def scan_check() -> Check:
    """The selective scan, forward and backward in time."""
    torch.manual_seed(0)
    u, dt = torch.randn(BATCH, LENGTH, CHANNELS), torch.rand(BATCH, LENGTH, CHANNELS) * 0.1
    A = -torch.rand(CHANNELS, STATES) - 0.1
    B, C, D = torch.randn(BATCH, LENGTH, STATES), torch.randn(BATCH, LENGTH, STATES), torch.randn(CHANNELS)
    mask = torch.arange(LENGTH) < torch.linspace(LENGTH // 4, LENGTH, BATCH).long().unsqueeze(1)

    def both_ways(*tensors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return selective_scan(*tensors, mask=mask) + selective_scan(*tensors, mask=mask, reverse=True)

    return _compare("selective scan", both_ways, [x.requires_grad_() for x in (u, dt, A, B, C, D)], mask)


def convolution_check() -> Check:
    """The causal convolution."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(BATCH, LENGTH, CHANNELS), torch.randn(CHANNELS, 4), torch.randn(CHANNELS)
    mask = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    return _compare("causal convolution", causal_conv, [t.requires_grad_() for t in (x, weight, bias)], mask)


def _model() -> BiBiERForEmotionClassification:
    torch.manual_seed(0)
    return BiBiERForEmotionClassification(BiBiERConfig(dropout=0.0, modality_dropout=0.0))


def training_check() -> Check:
    """A training step: the loss in bfloat16 on the GPU compared with float32 on the CPU."""
    torch.manual_seed(1)
    batch = {
        "input_features": torch.randn(BATCH, 200, 160),
        "input_ids": torch.randint(3, 250, (BATCH, 60)),
        "labels": torch.arange(BATCH) % 7,
    }
    losses, runs = {}, []
    for device in ("cpu", "cuda"):
        model = _model().to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}

        def step(model=model, optimizer=optimizer, inputs=inputs, device=device) -> torch.Tensor:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = model(**inputs).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        model.eval()
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            losses[device] = model(**inputs).loss.item()
        model.train()
        runs.append(step)
    return "training step (bf16 on GPU)", abs(losses["cpu"] - losses["cuda"]) / losses["cpu"], 2e-2, runs[0], runs[1]


def pipeline_check() -> Check:
    """Scores of clips with text, in batches."""
    processor, generator = BiBiERProcessor.from_backbones(), np.random.default_rng(0)
    clips = [
        {"audio": {"array": generator.standard_normal(8_000 * n).astype(np.float32) * 0.1, "sampling_rate": 16_000},
         "text": "I cannot believe it!"}
        for n in range(1, 17)
    ]  # fmt: skip
    answers, runs = {}, []
    for device in ("cpu", "cuda"):
        pipe = AudioTextEmotionPipeline(model=_model().eval(), processor=processor, device=device)

        def run(pipe=pipe) -> list:
            return pipe(clips, batch_size=8)

        answers[device] = [{entry["label"]: entry["score"] for entry in answer} for answer in run()]
        runs.append(run)
    difference = max(
        abs(one[label] - other[label])
        for one, other in zip(answers["cpu"], answers["cuda"], strict=True)
        for label in one
    )
    return "pipeline, 16 clips", difference, 1e-3, runs[0], runs[1]


if __name__ == "__main__":
    sys.exit(main())
