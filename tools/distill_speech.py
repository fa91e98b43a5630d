"""Make a small speech encoder from the lower layers of Whisper's encoder.

    python tools/distill_speech.py bibier_tiny_speech --corpora.0.data_dir PATH/TO/ravdess \\
        --corpora.1.data_dir PATH/TO/resd

Each layer keeps its attention and the most important neurons of its feed-forward part, whose output weights are
refitted by least squares. Then the small encoder is trained, on clean and disturbed clips, to compute the states that
Whisper has for the clean ones. Its weights are rounded to 8 bits throughout. No labels are used.

The run file names the corpora (only train splits are used), the disturbances, the layers to learn, and, as
`audio_backbone`, the folder to write. `bibier train` with the same run file trains a classifier on top.
"""

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoFeatureExtractor, WhisperConfig, WhisperModel, set_seed

import bibier_cli
from bibier_hf.data.disturbances import DisturbanceSection, Voices, disturb
from bibier_hf.data.mixture import load_corpora
from bibier_hf.errors import ArgumentError
from bibier_hf.model.audio_bibier import SAMPLING_RATE, decode_audio
from bibier_hf.model.backbones_bibier import load_backbone, whisper_states
from bibier_hf.model.configuration_bibier import EMBEDDED, BiBiERAudioConfig
from bibier_hf.model.validation_bibier import one_line
from bibier_hf.training.arguments import RunArguments, RunFile

DECODER = {
    "decoder_layers": 1,
    "decoder_attention_heads": 1,
    "decoder_ffn_dim": 4,
    "max_target_positions": 4,
    "vocab_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
"""A Whisper model must have a decoder; this one is as small as possible and never used."""


class DistillSpeechArguments(RunFile):
    """Make a small speech encoder from the lower layers of Whisper's encoder."""

    teacher: str = Field("openai/whisper-base", description="Hub id or folder of a Whisper model")
    neurons: int = Field(256, ge=1, description="neurons of each feed-forward part")
    distill_epochs: int = Field(5, ge=0, description="passes over the clips")
    distill_batch: int = Field(16, ge=1, description="clips per step")
    distill_rate: float = Field(3e-4, gt=0, description="highest learning rate")


class Rounded(nn.Module):
    """Round a weight to the precision that it will be stored in; gradients pass through unchanged."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (weight.to(torch.float8_e4m3fn).to(weight.dtype) - weight).detach()


class Clips:
    """Log-mel frames of the training clips, clean and in disturbed versions.

    Args:
        run: corpora, disturbances, and the length of a window, to which clips are cut.
        front_end: of the teacher.
    """

    def __init__(self, run: RunArguments, front_end: AutoFeatureExtractor, window_s: float):
        corpora = load_corpora(run.corpora, run.labels, run.problem_type, ["train"])
        train = [with_audio(splits["train"]) for splits in corpora.values()]
        if not any(map(len, train)):
            raise ArgumentError("corpora: no row of train has audio. Add a corpus that has.")
        train = [rows for rows in train if len(rows)]
        voices = {rows["corpus"][0]: Voices(rows) for rows in train}
        rows = concatenate_datasets([part.select_columns(["id", "corpus", "audio"]) for part in train])
        self.generator = np.random.default_rng(run.seed)
        self.longest, self.front_end = int(window_s * SAMPLING_RATE), front_end

        section = run.disturbances or DisturbanceSection()
        self.versions: list[list[Tensor]] = []
        for row in rows:
            clip, own = decode_audio(row["audio"]), voices[row["corpus"]]
            start = self.generator.integers(max(1, len(clip) - self.longest))
            clip = clip[start : start + self.longest]
            others = own.others(row["id"])
            heard = [
                disturb(clip, SAMPLING_RATE, drawn, number, row["id"], others)
                for number in range(1, section.draws + 1)
                if (drawn := without_speed(section.draw(row["id"], number)))
            ]
            self.versions.append([self._frames(samples) for samples in (clip, *heard)])

    def _frames(self, samples: np.ndarray) -> Tensor:
        options = {"sampling_rate": SAMPLING_RATE, "padding": "longest", "truncation": False, "return_tensors": "pt"}
        return self.front_end(samples, **options)["input_features"][0].T.half()

    def __len__(self) -> int:
        return len(self.versions)

    def draw(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Draw a version of each clip, half of the time the clean one: frames (B, F, M) and lengths (B,)."""
        chosen = []
        for place in places:
            clean, *others = self.versions[place]
            disturbed = others and self.generator.random() < 0.5
            chosen.append(others[self.generator.integers(len(others))] if disturbed else clean)
        return padded(chosen)


def grouped_batches(
    lengths: Sequence[int], size: int, count: int, together: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Return batches of clips or texts of similar length, in random order.

    Args:
        lengths: of all clips or texts.
        size: number of clips or texts in a batch.
        count: number of batches.
        together: number of batches that are sorted by length together.
        generator: of the order.
    """
    order = generator.permutation(len(lengths))
    groups = np.array_split(order, max(1, len(order) // (together * size)))
    order = np.concatenate([sorted(group, key=lambda place: lengths[place]) for group in groups])
    return [order[start : start + size] for start in generator.permutation(count) * size]


def with_audio(rows: Dataset) -> Dataset:
    return rows.select([place for place, seconds in enumerate(rows["duration_s"]) if seconds])


def without_speed(disturbance: str) -> str:
    """Remove changes of speed, because they would shift the states in time."""
    return "+".join(step for step in disturbance.split("+") if not step.startswith("speed"))


def padded(clips: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return pad_sequence(list(clips), batch_first=True).float(), torch.tensor([len(clip) for clip in clips])


def lower_part(teacher: str, layers: int) -> nn.Module:
    """Return the lower layers of Whisper's encoder. The final norm is reset, because it was trained for the last
    layer."""
    encoder = load_backbone(teacher).eval().requires_grad_(False)
    encoder.layers = encoder.layers[:layers]
    nn.init.ones_(encoder.layer_norm.weight)
    nn.init.zeros_(encoder.layer_norm.bias)
    return encoder


@torch.no_grad()
def pruned(teacher: nn.Module, mels: Tensor, neurons: int, positions: int) -> WhisperModel:
    """Return a Whisper model whose encoder keeps the most important neurons of each layer.

    Args:
        teacher: the encoder.
        mels: frames of some clips, (B, F, M).
        neurons: of each layer.
        positions: length of the longest input, in steps.
    """
    large = teacher.config
    config = WhisperConfig(
        d_model=large.d_model,
        encoder_layers=len(teacher.layers),
        encoder_attention_heads=large.encoder_attention_heads,
        encoder_ffn_dim=neurons,
        num_mel_bins=large.num_mel_bins,
        max_source_positions=positions,
        **DECODER,
    )
    model = WhisperModel(config).eval()
    encoder = model.get_encoder()
    for name in ("conv1", "conv2", "layer_norm"):
        getattr(encoder, name).load_state_dict(getattr(teacher, name).state_dict())
    encoder.embed_positions.weight.copy_(teacher.embed_positions.weight[:positions])

    x = F.gelu(teacher.conv2(F.gelu(teacher.conv1(mels.transpose(1, 2))))).transpose(1, 2)
    goal = stream = x + teacher.embed_positions.weight[: x.shape[1]]
    for full, small in zip(teacher.layers, encoder.layers, strict=True):
        goal = full(goal, None)
        for name in ("self_attn", "self_attn_layer_norm", "final_layer_norm"):
            getattr(small, name).load_state_dict(getattr(full, name).state_dict())
        middle = stream + full.self_attn(full.self_attn_layer_norm(stream))[0]
        read = full.final_layer_norm(middle)

        active = F.gelu(full.fc1(read)).flatten(0, 1)
        matter = active.var(0) * full.fc2.weight.square().sum(0)
        kept = matter.topk(neurons).indices.sort().values
        small.fc1.weight.copy_(full.fc1.weight[kept])
        small.fc1.bias.copy_(full.fc1.bias[kept])
        fit(small.fc2, active[:, kept], (goal - middle).flatten(0, 1))
        stream = middle + small.fc2(F.gelu(small.fc1(read)))
        left = (stream - goal).square().sum() / (goal - goal.mean((0, 1))).square().sum()
        print(f"cut: {1 - left:.1%} of a layer's states explained", flush=True)
    return model


def fit(layer: nn.Linear, x: Tensor, y: Tensor, ridge: float = 1e-3) -> None:
    """Fit a linear layer that maps x (N, P) to y (N, Q)."""
    centered = x - x.mean(0)
    gram = centered.T @ centered
    gram += (ridge * gram.diagonal().mean() + 1e-6) * torch.eye(len(gram))
    weight = torch.linalg.solve(gram, centered.T @ (y - y.mean(0))).T
    layer.weight.copy_(weight)
    layer.bias.copy_(y.mean(0) - weight @ x.mean(0))


def distill(run: RunArguments, options: DistillSpeechArguments, teacher: nn.Module, clips: Clips) -> WhisperModel:
    """Prune the teacher, then train the small encoder to compute the teacher's states."""
    layers = run.model["audio_config"]["layer"]
    states = []
    for versions in clips.versions:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            states.append(whisper_states(teacher, *padded(versions[:1]), layers)[0][0].half())

    steady = [versions[0] for versions in clips.versions if len(versions[0]) >= 300][:150] or [clips.versions[0][0]]
    mels = torch.stack([mel[: min(map(len, steady))].float() for mel in steady])
    model = pruned(teacher, mels[:, :300], options.neurons, clips.longest * 50 // SAMPLING_RATE)
    encoder = model.get_encoder()

    # Channels differ in scale by orders of magnitude: halfway between equal weights and no scaling.
    spread = torch.cat(states[::10]).float().std(0).clamp(min=1e-3)
    overall = (
        spread.unflatten(0, (len(layers), -1)).square().mean(1).sqrt().repeat_interleave(len(spread) // len(layers))
    )
    scale = (spread * overall).sqrt()

    matrices = [module for module in encoder.layers.modules() if isinstance(module, nn.Linear)]
    for module in (encoder.conv2, *matrices):
        parametrize.register_parametrization(module, "weight", Rounded())
    encoder.embed_positions.requires_grad_(False)
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.distill_rate, betas=(0.9, 0.98), weight_decay=0.01)
    size, lengths = options.distill_batch, [len(versions[0]) for versions in clips.versions]
    batches = -(-len(clips) // size)
    steps = options.distill_epochs * batches
    if steps:
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, options.distill_rate, total_steps=steps, pct_start=0.05, cycle_momentum=False
        )

    encoder.train()
    for epoch in range(options.distill_epochs):
        losses = []
        for places in grouped_batches(lengths, size, batches, 10, clips.generator):
            with torch.autocast("cpu", torch.bfloat16):
                found, mask = whisper_states(encoder, *clips.draw(places), layers)
            goal = pad_sequence([states[place] for place in places], batch_first=True).float()
            errors = ((found.float() - goal) / scale).square().unflatten(-1, (len(layers), -1)).mean(-1)
            loss = errors[mask].clamp(max=25).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(
            f"epoch {epoch + 1}: error {np.mean(losses):.3f}, of the last batches {np.mean(losses[-20:]):.3f}",
            flush=True,
        )

    encoder.eval()
    for module in (encoder.conv2, *matrices):
        parametrize.remove_parametrizations(module, "weight")
    return model


def make_encoder(options: DistillSpeechArguments) -> None:
    """Distill the encoder and save it with its front end."""
    run = options.run
    folder = folder_to_write(run, "audio", options.teacher)
    audio = run.model.get("audio_config") or {}
    layers = audio.get("layer")
    if not isinstance(layers, list):
        raise ArgumentError("model.audio_config.layer: name the layers to learn, such as [2, 3, 4].")

    set_seed(run.seed)
    with teacher_errors(options.teacher):
        front_end = AutoFeatureExtractor.from_pretrained(options.teacher)
        teacher = lower_part(options.teacher, max(layers))
    if len(teacher.layers) < max(layers):
        raise ArgumentError(f"model.audio_config.layer: {options.teacher} has {len(teacher.layers)} layers.")

    clips = Clips(run, front_end, audio.get("max_window_s", BiBiERAudioConfig.max_window_s))
    model = distill(run, options, teacher, clips)
    model.save_pretrained(folder)
    front_end.save_pretrained(folder)
    print(f"The encoder is in {folder}: {model.get_encoder().num_parameters() / 1e6:.1f} million weights.")


def folder_to_write(run: RunArguments, modality: str, teacher: str) -> Path:
    """Return the folder of the new encoder, which the run file names as its backbone."""
    name = getattr(run, f"{modality}_backbone")
    folder = Path(name)
    if name == EMBEDDED or folder.resolve() == Path(teacher).resolve():
        raise ArgumentError(f"{modality}_backbone: give the folder to write the encoder to, got {name}.")
    return folder


@contextmanager
def teacher_errors(name: str) -> Generator[None]:
    """Report errors in loading the teacher."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ArgumentError(f"teacher: {name} cannot be loaded: {one_line(error)}") from error


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    return bibier_cli.run("distill_speech:make_encoder", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
