"""Distill a small model that needs nothing but its own folder from Whisper and E5. This is how `bibier-tiny` is made.

    python recipes/distill.py --ravdess PATH/TO/ravdess --resd PATH/TO/resd --meld PATH/TO/meld \\
        --output_dir outputs/bibier-tiny

Speech. The first layers of Whisper's encoder are cut down in closed form: the channels that explain most of the
residual stream, the heads and neurons that matter most, and a least-squares fit of every matrix that writes to the
stream. With `--speech_epochs`, training then pulls the states of the small encoder, which hears disturbed speech,
towards those that Whisper computes of clean speech. A classifier reads statistics of the first and the last layer.

Text. The vocabulary is reduced to the pieces that the texts need and to the most frequent Latin and Cyrillic ones. The
embeddings start as principal components of E5's; two layers learn E5's sentence embeddings and the labels, softened by
a linear classifier of E5's embeddings.

Both. Each classifier is calibrated on its dev rows; the answer to speech with text is the mean of both logits. Matrices
are stored in 8 bits (float8_e4m3fn), convolutions in 16; `from_pretrained` reads them as float32 by itself.

RAVDESS and RESD train the voice; MELD, RESD and the package's templates train the text. The dev rows of RAVDESS and
MELD are never trained on. Finished stages stay in `work_dir` and are not repeated.
"""

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from pydantic import Field
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoFeatureExtractor,
    AutoTokenizer,
    BertConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    set_seed,
)
from transformers.audio_utils import mel_filter_bank
from transformers.utils import CONFIG_NAME, PROCESSOR_NAME, SAFE_WEIGHTS_NAME

from bibier_hf import EMOTIONS, BiBiERConfig, BiBiERForEmotionClassification, BiBiERProcessor
from bibier_hf.augmentation.tug import LANGUAGES, TemplateUtteranceGeneration, strip_sound_tags
from bibier_hf.commandline import Section
from bibier_hf.data.corpora import load_corpus
from bibier_hf.data.disturbances import disturb
from bibier_hf.errors import UserError
from bibier_hf.evaluation.calibration import fit_temperature
from bibier_hf.evaluation.metrics import classification_metrics
from bibier_hf.files import write_json
from bibier_hf.model.audio_bibier import SAMPLING_RATE, decode_audio
from bibier_hf.model.backbones_bibier import load_backbone

NUM_LABELS = len(EMOTIONS)
SMOOTHING = 0.05
KEPT_CHARACTERS = re.compile(r"▁?[ -~А-Яа-яЁё№«»“”‘’…—–€£]?")
FREQUENT = re.compile(r"▁?([а-яё]+|[a-z']+)", re.IGNORECASE)


class DistillArguments(Section):
    """Distill a small all-in-one model from Whisper and E5."""

    ravdess: str = Field(description="folder of RAVDESS, raw or prepared")
    resd: str = Field(description="folder of RESD, raw or prepared")
    meld: str = Field(description="folder of MELD's tables, raw or prepared")
    output_dir: str = Field(description="folder of the checkpoint")
    work_dir: str | None = Field(None, description="folder of the stages; null: OUTPUT_DIR-work")
    audio_teacher: str = Field("openai/whisper-base", description="Hub id or folder of a Whisper model")
    text_teacher: str = Field("intfloat/multilingual-e5-small", description="Hub id or folder of an E5 model")
    sentences: list[str] = Field([], description="text files of further sentences, one a line, to learn E5's view of")
    held_fold: int | None = Field(
        None, ge=0, le=4, description="dialogue fold of RESD to leave out, for an evaluation"
    )
    resd_weight: float = Field(0.5, ge=0, description="weight of RESD's clips in training the voice's classifier")

    speech_layers: int = Field(3, ge=2, description="layers of Whisper's encoder")
    speech_heads: int = Field(8, ge=1, description="attention heads of each, which set the width")
    speech_neurons: int = Field(512, ge=1, description="neurons of each feed-forward layer")
    speech_epochs: int = Field(0, ge=0, description="passes over the voices to imitate Whisper, after the cut")
    classifier_epochs: int = Field(12, ge=0, description="passes over the voices to train their classifier")
    copies: int = Field(1, ge=0, description="disturbed copies of every clip, beside the clean one")
    fit_clips: int = Field(150, ge=1, description="clips for the closed-form part")

    vocabulary: int = Field(7200, ge=300, description="pieces of the tokenizer")
    text_layers: int = Field(2, ge=1, description="layers of the text encoder")
    text_heads: int = Field(3, ge=1, description="attention heads of each, of 64 dimensions")
    max_window_s: float = Field(6.0, gt=0, description="longer audio is read in windows of this length")
    text_epochs: int = Field(10, ge=0, description="passes over the texts")
    templates: int = Field(250, ge=0, description="template utterances of each emotion and language")

    batch_size: int = Field(32, ge=2, description="clips in a batch; twice as many texts")
    seed: int = Field(1, ge=0, description="seed")


def main(arguments: Sequence[str]) -> int:
    """Run the stages and return the exit code."""
    try:
        run = DistillArguments.from_command_line(arguments)
        work = Path(run.work_dir or f"{run.output_dir.rstrip('/')}-work")
        work.mkdir(parents=True, exist_ok=True)
        speech = staged(work / "speech.pt", lambda: distill_speech(run))
        text = staged(work / "text.pt", lambda: distill_text(run, work))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    save(run, speech, text, work)
    return 0


def staged(path: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a stage has left, or run it."""
    if not path.exists():
        torch.save(run(), path)
    return torch.load(path, weights_only=True)


# --- Speech --------------------------------------------------------------------------------------------------------


class Voices:
    """Clips as log-mel frames, clean and disturbed, with the states that Whisper computes of the clean ones.

    Args:
        run: the options.
        teacher: Whisper's encoder.
    """

    LONGEST_S = 5.5
    """Longer clips are cut."""

    def __init__(self, run: DistillArguments, teacher: nn.Module):
        self.generator = np.random.default_rng(run.seed)
        corpora = {"ravdess": load_corpus("ravdess", run.ravdess), "resd": load_corpus("resd", run.resd)}
        rows = concatenate_datasets(
            [
                split.select_columns(["id", "corpus", "split", "audio", "label"])
                for splits in corpora.values()
                for split in splits.values()
            ]
        )
        self.labels = torch.tensor(rows["label"])
        self.corpus, splits = np.array(rows["corpus"]), np.array(rows["split"])
        self.is_dev = (self.corpus == "ravdess") & (splits != "train")
        self.has_label = (self.corpus == "ravdess") | (run.resd_weight > 0)
        self.kept_out = self._held_out(run, corpora["resd"], rows)

        front_end = AutoFeatureExtractor.from_pretrained(run.audio_teacher)
        clips = [self._cut(decode_audio(audio), name) for audio, name in zip(rows["audio"], rows["id"], strict=True)]
        self.mels = [[frames_of(front_end, clip) for clip in clips]]
        self.speeds = [np.ones(len(clips))]
        for copy in range(run.copies):
            heard = [self._disturbed(clip, name, clips, copy) for clip, name in zip(clips, rows["id"], strict=True)]
            self.mels.append([frames_of(front_end, samples) for samples, _ in heard])
            self.speeds.append(np.array([speed for _, speed in heard]))

        self.depths = (1, run.speech_layers)
        self.states = [self._teacher_states(teacher, mel) for mel in self.mels[0]] if run.speech_epochs else []

    def _held_out(self, run: DistillArguments, resd: Any, rows: Dataset) -> np.ndarray:
        if run.held_fold is None:
            return np.zeros(len(rows), dtype=bool)
        held = {
            name
            for split in resd.values()
            for name, fold in zip(split["id"], split["fold"], strict=True)
            if fold == run.held_fold
        }
        return np.array([name in held for name in rows["id"]])

    def _cut(self, clip: np.ndarray, name: str) -> np.ndarray:
        length = int(self.LONGEST_S * SAMPLING_RATE)
        start = self.generator.integers(max(1, len(clip) - length))
        return clip[start : start + length]

    def _disturbed(self, clip: np.ndarray, name: str, others: list[np.ndarray], copy: int) -> tuple[np.ndarray, float]:
        """Draw a chain of disturbances: speed, room, noise, level, line."""
        draw = self.generator
        speed = draw.uniform(0.85, 1.15) if draw.random() < 0.35 else 1.0
        steps = [f"speed:{speed:.2f}"] if speed != 1 else []
        if draw.random() < 0.3:
            steps.append(f"reverb:{draw.uniform(0.2, 0.8):.2f}")
        noise = draw.choice(["", "white", "babble"], p=[0.25, 0.5, 0.25])
        if noise:
            steps.append(f"{noise}:{draw.uniform(5, 30):.1f}")
        steps.append(f"gain:{draw.uniform(-12, 6):.1f}")
        line = draw.choice(["", "g711", "mp3:32", "opus:16", "band8k"], p=[0.4, 0.2, 0.25, 0.03, 0.12])
        if line:
            steps.append(str(line))
        return disturb(clip, SAMPLING_RATE, "+".join(steps), seed=copy, clip=name, voices=others), round(speed, 2)

    @torch.no_grad()
    def _teacher_states(self, teacher: nn.Module, mel: Tensor) -> list[Tensor]:
        states = stream_states(teacher, mel.float()[None])
        return [states[depth][0].half() for depth in self.depths]

    def batch(
        self, rows: np.ndarray, channels: Tensor, frames: int = 256
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Draw a window of each clip, clean or disturbed: frames (B, F, M), mask (B, F), first steps (B,), Whisper's
        states."""
        mels, starts, states = [], [], []
        for row in rows:
            copy = 0 if self.generator.random() < 0.4 else self.generator.integers(len(self.mels))
            mel, speed = self.mels[copy][row], self.speeds[copy][row]
            start = int(self.generator.integers(max(1, len(mel) - frames + 1))) // 2 * 2
            mel = mel[start : start + frames].float()
            # A clip at another speed has the states of the clean one at other times.
            steps = ((start / 2 + torch.arange((len(mel) + 1) // 2)) * speed).round().long()
            mels.append(mel)
            starts.append(start // 2)
            states.append([state[steps.clamp(max=len(state) - 1)][:, channels].float() for state in self.states[row]])

        mask = pad_sequence([torch.ones(len(mel)) for mel in mels], batch_first=True).bool()
        targets = [pad_sequence(list(found), batch_first=True) for found in zip(*states, strict=True)]
        return pad_sequence(mels, batch_first=True), mask, torch.tensor(starts), targets


def frames_of(front_end: Any, clip: np.ndarray) -> Tensor:
    """Whisper's log-mel frames of a clip at its own length, (F, M), in 16 bits."""
    out = front_end(clip, sampling_rate=SAMPLING_RATE, padding="longest", truncation=False, return_tensors="np")
    return torch.from_numpy(out["input_features"][0].T).half()


def stream_states(
    encoder: nn.Module, mels: Tensor, mask: Tensor | None = None, starts: Tensor | None = None
) -> list[Tensor]:
    """The residual stream of Whisper's encoder after each layer, without its last norm: layers + 1 of (B, T, D).

    Args:
        encoder: of Whisper.
        mels: log-mel frames, (B, F, M).
        mask: (B, F), the frames that count; None: all.
        starts: (B,), the step in its clip that each row begins with; None: 0.
    """
    keep = 1 if mask is None else mask[:, None]
    x = F.gelu(encoder.conv1(mels.transpose(1, 2) * keep)) * keep
    x = F.gelu(encoder.conv2(x)).transpose(1, 2)
    states = [x + encoder.embed_positions.weight[steps_of(x.shape[1], starts)]]
    bias = None
    if mask is not None and not mask.all():
        bias = torch.zeros(mask[:, ::2].shape).masked_fill(~mask[:, ::2], -1e9)[:, None, None]
        bias = bias.expand(-1, 1, x.shape[1], -1)
    for layer in encoder.layers:
        states.append(layer(states[-1], bias))
    return states


def steps_of(count: int, starts: Tensor | None) -> Tensor:
    """Positions of `count` steps from each start, (B, T), or (T,) from the beginning."""
    return torch.arange(count) if starts is None else starts[:, None] + torch.arange(count)


class Weather:
    """Disturbances of log-mel frames, a new one for every batch: noise, limited bands, level."""

    def __init__(self, bands: int):
        filters = mel_filter_bank(201, bands, 0.0, 8000.0, SAMPLING_RATE, norm="slaney", mel_scale="slaney")
        width = torch.from_numpy(1 / filters.max(0)).float()
        self.width = width / width[0]
        self.center = torch.from_numpy((filters * np.linspace(0, 8000, 201)[:, None]).sum(0) / filters.sum(0)).float()

    def __call__(self, mels: Tensor) -> Tensor:
        count, log = len(mels), mels * 4 - 4

        def drawn(share: float, low: float, high: float, otherwise: float) -> Tensor:
            values = torch.rand(count) * (high - low) + low
            return torch.where(torch.rand(count) < share, values, torch.tensor(otherwise))[:, None, None]

        power = 10**log
        tilt, ratio = drawn(0.5, 0, 1.5, 0.0), drawn(0.5, 3, 33, torch.inf)
        shape = (self.center.clamp(min=60) / 1000) ** -tilt  # (B, 1, M): white, or falling with frequency
        level = (power.mean(1, keepdim=True) * self.width).sum(-1, keepdim=True) / (shape * self.width).sum(
            -1, keepdim=True
        )
        degrees = (1.2 * self.width).clamp(min=1).expand_as(power)  # wider filters average more bins
        noise = torch._standard_gamma(degrees) / degrees * shape * level / 10 ** (ratio / 10)
        log = torch.log10(power + noise)

        outside = (self.center > drawn(0.3, 3300, 7300, 9000.0)) | (self.center < drawn(0.15, 299, 300, 0.0))
        log = log.masked_fill(outside, -10) + drawn(0.5, -1.2, 0.6, 0.0)
        return (torch.maximum(log, log.amax((1, 2), keepdim=True) - 8) + 4) / 4


def distill_speech(run: DistillArguments) -> dict[str, Any]:
    """Cut Whisper down, train the small encoder to compute Whisper's states, then train its classifier."""
    set_seed(run.seed)
    teacher = load_backbone(run.audio_teacher).eval()
    teacher.layers = teacher.layers[: run.speech_layers]
    voices = Voices(run, teacher)
    train = np.flatnonzero(~voices.is_dev & ~voices.kept_out)
    config, encoder, channels = compress_whisper(teacher, *fit_clips(run, voices, train), run)
    del teacher

    if run.speech_epochs:
        imitate(run, voices, train, encoder, channels)

    layers = [1, run.speech_layers]
    model = unimodal(audio_config={"backbone": config, "layer": layers, "hidden_size": 64, "dropout": 0.5})
    model.bibier.audio.require_backbone().load_state_dict(encoder.state_dict())
    train_voice_classifier(run, voices, train, model)

    logits, labels = voice_logits(model, voices)
    print(f"speech: {json.dumps(scores(labels, logits))}", flush=True)
    return part_of(model, config, fit_temperature(logits.numpy(), labels.numpy(), np.zeros(len(labels))).temperature)


def imitate(run: DistillArguments, voices: Voices, train: np.ndarray, encoder: nn.Module, channels: Tensor) -> None:
    """Train the small encoder, which hears disturbed speech, to compute the states that Whisper has of clean speech."""
    sample = voices.generator.choice(train, min(len(train), 100), replace=False)
    # Channels differ in scale by orders of magnitude: half-way between all alike and all as they are.
    scales = []
    for part in range(2):
        spread = torch.cat([voices.states[row][part][:, channels].float() for row in sample]).std(0).clamp(min=1e-3)
        scales.append((spread * spread.square().mean().sqrt()).sqrt())

    encoder.requires_grad_(True)
    encoder.embed_positions.requires_grad_(False)
    weather = Weather(encoder.config.num_mel_bins)
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    steps = run.speech_epochs * (len(train) // run.batch_size)
    optimizer, schedule = optimization([(parameters, 3e-4, 0.01)], steps)

    encoder.train()
    for epoch in range(run.speech_epochs):
        total = 0.0
        for rows in batches(voices.generator.permutation(train), run.batch_size):
            mels, mask, starts, targets = voices.batch(rows, channels)
            with torch.autocast("cpu", torch.bfloat16):
                states = stream_states(encoder, weather(mels) * mask[..., None], mask, starts)
            halfway, last = (
                ((states[depth].float() - target) / scale).square().mean(-1)[mask[:, ::2]].clamp(max=25).mean()
                for depth, target, scale in zip(voices.depths, targets, scales, strict=True)
            )
            loss = last + 0.5 * halfway
            update(encoder, loss, optimizer, schedule)
            total += float(loss.detach())
        print(f"speech, epoch {epoch + 1}: {total / max(1, len(train) // run.batch_size):.3f}", flush=True)
    encoder.eval()


def train_voice_classifier(
    run: DistillArguments, voices: Voices, train: np.ndarray, model: BiBiERForEmotionClassification
) -> None:
    """Train the statistics pooling and the classifier on clean and disturbed clips, with mixup.

    The encoder stays as it is, so the statistics of every clip are computed once. The classifier's other input, the
    mean frame, is switched off.
    """
    encoder, head = model.bibier.audio.encoder, model.audio_head
    nn.init.zeros_(encoder.input_proj.weight)
    nn.init.zeros_(encoder.input_proj.bias)

    rows = train[voices.has_label[train]]
    model.eval()
    with torch.no_grad():
        found = [
            encoder.statistics.statistics(*model.encode_audio(version[row].float()[None]))
            for version in voices.mels
            for row in rows
        ]
    statistics, labels = torch.cat(found), voices.labels[rows].repeat(len(voices.mels))
    encoder.statistics.fit(statistics.mean(0), statistics.std(0))

    corpora = np.tile(voices.corpus[rows], len(voices.mels))
    weights = torch.zeros(len(labels))
    for name, weight in (("ravdess", 1.0), ("resd", run.resd_weight)):
        here = torch.from_numpy(corpora == name)
        weights[here] = weight * torch.from_numpy(balanced(labels[here])).float()[labels[here]]

    standardized = ((statistics - encoder.statistics.mean) / encoder.statistics.std).clamp(-10, 10)
    parameters = [*encoder.statistics.parameters(), *head.parameters()]
    steps = run.classifier_epochs * (len(labels) // run.batch_size)
    optimizer, schedule = optimization([(parameters, 1e-3, 0.05)], steps)
    goals = smoothed(labels)

    model.train()
    for _ in range(steps):
        one = torch.from_numpy(voices.generator.integers(len(labels), size=run.batch_size))
        two = one[torch.randperm(run.batch_size)]
        share = float(voices.generator.beta(0.5, 0.5))
        mixed = share * standardized[one] + (1 - share) * standardized[two]
        pooled = encoder.statistics.out(encoder.statistics.hidden(mixed))
        answer = head.linear(head.dropout(pooled)).log_softmax(-1)
        losses = [-(goals[rows_] * answer).sum(-1) * weights[rows_] for rows_ in (one, two)]
        update(model, (share * losses[0] + (1 - share) * losses[1]).mean(), optimizer, schedule)
    model.eval()


def fit_clips(run: DistillArguments, voices: Voices, train: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Three seconds of some training clips for the closed-form part: clean, as the small encoder hears them (some of
    them disturbed), and the step in its clip that each begins with."""
    frames = min(300, 2 * (int(np.median([len(voices.mels[0][row]) for row in train])) // 2))
    long = [row for row in voices.generator.permutation(train) if len(voices.mels[0][row]) >= frames]
    clean, heard, starts = [], [], []
    for row in long[: run.fit_clips]:
        mel = voices.mels[0][row]
        start = int(voices.generator.integers(len(mel) - frames + 1)) // 2 * 2
        window = slice(start, start + frames)
        versions = [mel]
        if run.copies and voices.speeds[1][row] == 1 and len(clean) < 1.6 * run.fit_clips:
            versions.append(voices.mels[1][row])
        for version in versions:
            if len(version) >= start + frames:
                clean.append(mel[window].float())
                heard.append(version[window].float())
                starts.append(start // 2)
    return torch.stack(clean), torch.stack(heard), torch.tensor(starts)


@torch.no_grad()
def compress_whisper(
    teacher: nn.Module, clean: Tensor, heard: Tensor, starts: Tensor, run: DistillArguments
) -> tuple[WhisperConfig, nn.Module, Tensor]:
    """Cut Whisper's encoder down without training.

    Channels, heads and neurons are kept as they are. Each matrix that writes to the residual stream is fitted by least
    squares, so that the stream of the small encoder, with all the errors of the layers before, comes as close to the
    large one's as it can. Each matrix that reads it sees a linear reconstruction of all channels.

    Args:
        teacher: Whisper's encoder.
        clean: log-mel frames of clips, (B, F, M).
        heard: the same clips as the small encoder gets them.
        starts: the step in its clip that each begins with, (B,).
        run: sizes.

    Returns:
        the configuration of the small encoder, itself, and the channels of the teacher that it has
    """
    large = teacher.config
    head = large.d_model // large.encoder_attention_heads
    width, layers = run.speech_heads * head, run.speech_layers
    config = WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=run.speech_heads,
        encoder_ffn_dim=run.speech_neurons,
        num_mel_bins=large.num_mel_bins,
        max_source_positions=large.max_source_positions,
        **{"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 4, "max_target_positions": 4},
        **{"vocab_size": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    )
    small = unimodal(audio_config={"backbone": config, "hidden_size": 8}).bibier.audio.require_backbone().eval()

    parts = [
        stream_states(teacher, mels, starts=first)
        for mels, first in zip(clean.split(32), starts.split(32), strict=True)
    ]
    original = [torch.cat(states) for states in zip(*parts, strict=True)]
    covariance = torch.zeros(large.d_model, large.d_model)
    for layer, states in zip(teacher.layers, original, strict=False):
        x = flat(F.layer_norm(states, states.shape[-1:])) * layer.self_attn_layer_norm.weight.abs()
        covariance += torch.cov(x.T)
    channels = pivots(covariance + torch.cov(flat(F.layer_norm(original[-1], original[-1].shape[-1:])).T), width)

    first = in_chunks(lambda mels: F.gelu(teacher.conv1(mels.transpose(1, 2))).transpose(1, 2), clean)
    use = teacher.conv2.weight[channels].square().sum((0, 2)).sqrt()
    kept = pivots(torch.cov(flat(first).T) * torch.outer(use, use), width)
    small.conv1.weight.copy_(teacher.conv1.weight[kept])
    small.conv1.bias.copy_(teacher.conv1.bias[kept])

    before = in_chunks(lambda mels: F.gelu(small.conv1(mels.transpose(1, 2))).transpose(1, 2), heard)
    wanted = in_chunks(lambda x: teacher.conv2(x.transpose(1, 2)).transpose(1, 2)[..., channels], first)
    padded, steps = F.pad(before, (0, 0, 1, 1)), wanted.shape[1]
    taps = torch.cat([padded[:, tap : tap + 2 * steps : 2][:, :steps] for tap in range(3)], dim=-1)
    matrix, bias = least_squares(flat(taps), flat(wanted))
    small.conv2.weight.copy_(matrix.T.reshape(width, 3, width).transpose(1, 2))
    small.conv2.bias.copy_(bias)
    small.embed_positions.weight.copy_(teacher.embed_positions.weight[: large.max_source_positions, channels])
    stream = in_chunks(lambda x: F.gelu(small.conv2(x.transpose(1, 2))).transpose(1, 2), before)
    stream = stream + small.embed_positions.weight[steps_of(steps, starts)]

    for layer, cut, states, goal in zip(teacher.layers, small.layers, original, original[1:], strict=False):
        full, part = layer.self_attn, cut.self_attn
        read = layer.self_attn_layer_norm(states)
        back, shift = least_squares(flat(plain_norm(stream)), flat(read))
        outputs = inputs_of(full.out_proj, lambda x, full=full: full(x)[0], read)
        matter = torch.stack(
            [
                (flat(part_) - flat(part_).mean(0))
                .matmul(full.out_proj.weight[channels][:, index * head :][:, :head].T)
                .square()
                .sum()
                for index, part_ in enumerate(outputs.split(head, dim=-1))
            ]
        )
        heads = matter.topk(run.speech_heads).indices.sort().values
        rows = (heads[:, None] * head + torch.arange(head)).flatten()
        for name in ("q_proj", "k_proj", "v_proj"):
            rebase(getattr(full, name), getattr(part, name), rows, back, shift)
        neutral(cut.self_attn_layer_norm)
        middle = states + in_chunks(lambda x, full=full: full(x)[0], read)
        outputs = inputs_of(part.out_proj, lambda x, part=part: part(x)[0], plain_norm(stream))
        stream = stream + fitted(part.out_proj, outputs, middle[..., channels] - stream)

        read = layer.final_layer_norm(middle)
        back, shift = least_squares(flat(plain_norm(stream)), flat(read))
        active = F.gelu(layer.fc1(flat(read)[::4]))
        matter = active.var(0) * layer.fc2.weight[channels].square().sum(0)
        rebase(layer.fc1, cut.fc1, matter.topk(run.speech_neurons).indices.sort().values, back, shift)
        neutral(cut.final_layer_norm)
        hidden = in_chunks(lambda x, cut=cut: F.gelu(cut.fc1(x)), plain_norm(stream))
        stream = stream + fitted(cut.fc2, hidden, goal[..., channels] - stream)

        spread = goal[..., channels] - goal[..., channels].mean((0, 1))
        left = (stream - goal[..., channels]).square().sum() / spread.square().sum()
        print(f"speech, cut: {1 - left:.1%} of a layer's states explained", flush=True)

    neutral(small.layer_norm)
    return config, small, channels


def flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def plain_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def neutral(norm: nn.LayerNorm) -> None:
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)


def in_chunks(function: Callable[[Tensor], Tensor], x: Tensor, size: int = 32) -> Tensor:
    return torch.cat([function(part) for part in x.split(size)])


def inputs_of(module: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What `module` gets while `function` runs on x."""
    found: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    in_chunks(function, x)
    hook.remove()
    return torch.cat(found)


def rebase(source: nn.Linear, target: nn.Linear, rows: Tensor, back: Tensor, shift: Tensor) -> None:
    """Rows of a layer that read a linear reconstruction of its inputs."""
    target.weight.copy_(source.weight[rows] @ back.T)
    if target.bias is not None:
        target.bias.copy_(source.weight[rows] @ shift + (0 if source.bias is None else source.bias[rows]))


def fitted(layer: nn.Linear, inputs: Tensor, goal: Tensor) -> Tensor:
    """Fit a layer by least squares and return its outputs."""
    matrix, bias = least_squares(flat(inputs), flat(goal), 1e-3)
    layer.weight.copy_(matrix.T)
    layer.bias.copy_(bias)
    return inputs @ matrix + bias


def least_squares(x: Tensor, y: Tensor, ridge: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Matrix (P, Q) and bias (Q,) that map x (N, P) to y (N, Q) best."""
    centered = x - x.mean(0)
    gram = centered.T @ centered
    gram += (ridge * gram.diagonal().mean() + 1e-6) * torch.eye(len(gram))
    matrix = torch.linalg.solve(gram, centered.T @ (y - y.mean(0)))
    return matrix, y.mean(0) - x.mean(0) @ matrix


def pivots(covariance: Tensor, count: int) -> Tensor:
    """Choose channels one by one, each the one that explains most of what is left of the covariance."""
    left, chosen = covariance.clone(), []
    for _ in range(count):
        variance = left.diagonal().clamp(min=1e-9)
        gain = left.square().sum(0) / variance
        gain[variance < 1e-6 * variance.max()] = -0.5
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        column = left[:, chosen[-1]].clone()
        left -= torch.outer(column, column) / column[chosen[-1]].clamp(min=1e-9)
    return torch.tensor(sorted(chosen))


@torch.no_grad()
def voice_logits(model: BiBiERForEmotionClassification, voices: Voices) -> tuple[Tensor, Tensor]:
    """Logits and labels of the dev clips, undisturbed."""
    rows = np.flatnonzero(voices.is_dev)
    model.eval()
    logits = [model(input_features=voices.mels[0][row].float()[None]).logits for row in rows]
    model.train()
    return torch.cat(logits), voices.labels[rows]


# --- Text ----------------------------------------------------------------------------------------------------------


class Texts:
    """Sentences with the embeddings that E5 gives them, and labels where there are any (-1: none).

    Args:
        run: the options.
    """

    WEIGHTS = {"meld": 1.0, "resd": 0.4, "en": 0.3, "ru": 0.4, "sentences": 0.5, "ravdess": 2.0}
    """Weight of each source in the loss of the classifier."""

    TRUST = {"meld": 0.35, "resd": 0.3, "en": 0.7, "ru": 0.7, "sentences": 0.0, "ravdess": 1.0}
    """Share of the label in the target; the rest is the answer of a linear classifier of E5's embeddings. The two
    sentences of RAVDESS are said in every emotion, so their target is all of them."""

    def __init__(self, run: DistillArguments):
        meld = load_corpus("meld", run.meld, text_only=True)
        resd = concatenate_datasets(list(load_corpus("resd", run.resd).values()))
        rows = [
            (name, *row)
            for name in ("train", "dev")
            for row in zip(meld[name]["text"], meld[name]["label"], strict=True)
        ]
        found = [("meld-dev" if split == "dev" else "meld", text, label) for split, text, label in rows]
        found += [
            ("resd", text, label)
            for text, label, fold in zip(resd["text"], resd["label"], resd["fold"], strict=True)
            if fold != run.held_fold
        ]
        templates = TemplateUtteranceGeneration(run.seed)
        for language in LANGUAGES:
            for index, emotion in enumerate(EMOTIONS):
                found += [
                    (language, strip_sound_tags(text), index)
                    for text in templates.sample(emotion, language, run.templates)
                ]
        spoken = sorted(set(load_corpus("ravdess", run.ravdess)["train"]["text"]))
        found += [("ravdess", text, -1) for text in spoken]
        for file in run.sentences:
            found += [("sentences", line, -1) for line in Path(file).read_text(encoding="utf-8").splitlines() if line]

        self.source = np.array([source for source, _, _ in found])
        self.texts = [text for _, text, _ in found]
        self.labels = np.array([label for _, _, label in found])
        self.train, self.dev = np.flatnonzero(self.source != "meld-dev"), np.flatnonzero(self.source == "meld-dev")

    @torch.no_grad()
    def teach(self, teacher: str) -> None:
        """Compute E5's sentence embeddings."""
        tokenizer, encoder = AutoTokenizer.from_pretrained(teacher), load_backbone(teacher).eval()
        prefixed = [f"query: {text}" for text in self.texts]
        ids = tokenizer(prefixed, truncation=True, max_length=64)["input_ids"]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        self.embeddings = torch.zeros(len(ids), encoder.config.hidden_size)
        for rows in batches(np.array(order), 64, drop=False):
            given, mask = padded([ids[row] for row in rows], tokenizer.pad_token_id)
            with torch.autocast("cpu", torch.bfloat16):
                states = encoder(input_ids=given, attention_mask=mask.long()).last_hidden_state.float()
            self.embeddings[rows] = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        self.answers = self._linear_answers()
        self.embeddings = (self.embeddings - self.embeddings.mean(0)) / self.embeddings.std()

    def _linear_answers(self) -> Tensor:
        """Probabilities that a linear classifier of E5's embeddings, trained on MELD, gives to all texts, (N, K)."""
        x = (self.embeddings - self.embeddings.mean(0)) / self.embeddings.std(0).clamp(min=1e-6)
        rows = np.flatnonzero(self.source == "meld")
        labels = torch.from_numpy(self.labels[rows])
        logits = 0.0
        for power in (0.6, 1.0):
            weights = torch.from_numpy(balanced(labels, power)).float()[labels]
            layer = nn.Linear(x.shape[1], NUM_LABELS)
            nn.init.zeros_(layer.weight)
            optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

            def closure(layer=layer, weights=weights, optimizer=optimizer):
                optimizer.zero_grad()
                loss = (F.cross_entropy(layer(x[rows]), labels, reduction="none") * weights).mean()
                loss = loss + 0.01 * layer.weight.square().sum()
                loss.backward()
                return loss

            with torch.enable_grad():
                optimizer.step(closure)
            logits = logits + layer(x).detach()
        return (0.65 * logits).softmax(-1)


def distill_text(run: DistillArguments, work: Path) -> dict[str, Any]:
    """Reduce E5's vocabulary, then train a small encoder and its classifier."""
    set_seed(run.seed)
    generator = np.random.default_rng(run.seed)
    texts = Texts(run)
    tokenizer, pieces = reduced_tokenizer(run.text_teacher, [texts.texts[row] for row in texts.train], run.vocabulary)
    tokenizer.save_pretrained(work / "tokenizer")
    texts.teach(run.text_teacher)

    width = 64 * run.text_heads
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=width,
        num_hidden_layers=run.text_layers,
        num_attention_heads=run.text_heads,
        intermediate_size=2 * width,
        max_position_embeddings=130,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = unimodal(text_config={"backbone": config, "hidden_size": 128, "dropout": 0.4})
    embeddings = model.bibier.text.require_backbone().embeddings
    embeddings.word_embeddings.weight.data.copy_(principal_components(run.text_teacher, pieces, width))
    nn.init.zeros_(embeddings.token_type_embeddings.weight)

    ids = tokenizer(texts.texts, truncation=True, max_length=96)["input_ids"]
    weights = np.zeros((len(ids), 1), np.float32)
    for source, weight in texts.WEIGHTS.items():
        rows = texts.source == source
        spread = balanced(torch.from_numpy(texts.labels[rows]), 0.6 if source == "meld" else 1.0)
        weights[rows, 0] = weight * np.where(texts.labels[rows] < 0, 1, spread[texts.labels[rows]])

    projection = nn.Linear(width, texts.embeddings.shape[1])
    words = [embeddings.word_embeddings.weight]
    others = [p for name, p in model.named_parameters() if "word_embeddings" not in name] + list(
        projection.parameters()
    )
    size = 2 * run.batch_size
    steps = run.text_epochs * (len(texts.train) // size)
    optimizer, schedule = optimization([(words, 1e-3, 0.0), (others, 1e-3, 0.02)], steps)

    with torch.no_grad():
        model.eval()
        found = []
        for _ in range(20):
            some = padded([ids[row] for row in generator.choice(texts.train, size)], tokenizer.pad_token_id)
            found.append(model.bibier.text.encoder.statistics.statistics(*model.encode_text(*some)))
        model.bibier.text.encoder.statistics.fit(torch.cat(found).mean(0), torch.cat(found).std(0))

    model.train()
    for epoch in range(run.text_epochs):
        for rows in by_length(generator.permutation(texts.train), ids, size, generator):
            given, mask = padded([ids[row] for row in rows], tokenizer.pad_token_id)
            dropped = (torch.rand(given.shape) < 0.08) & (given > tokenizer.unk_token_id)
            frames, kept = model.encode_text(given.masked_fill(dropped, tokenizer.unk_token_id), mask)
            pooled = (frames * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
            loss = (projection(pooled) - texts.embeddings[rows]).square().mean()

            logits = model(text_features=frames, text_features_mask=kept).logits
            trust = torch.tensor([texts.TRUST[name] for name in texts.source[rows]])[:, None]
            goals = trust * smoothed(torch.from_numpy(texts.labels[rows]), 0.0) + (1 - trust) * texts.answers[rows]
            errors = -(goals * logits.log_softmax(-1)).sum(-1, keepdim=True)
            loss = loss + (errors * torch.from_numpy(weights[rows])).mean()
            update(model, loss, optimizer, schedule)

        print(
            f"text, epoch {epoch + 1}: {json.dumps(scores(texts.labels[texts.dev], text_logits(model, texts, ids)))}",
            flush=True,
        )

    logits, labels = text_logits(model, texts, ids).numpy(), texts.labels[texts.dev]
    return part_of(model, config, fit_temperature(logits, labels, np.zeros(len(labels))).temperature)


def reduced_tokenizer(teacher: str, texts: list[str], size: int) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """Keep `size` pieces of a Unigram tokenizer: special ones, single characters, those that occur twice in the texts,
    then the most frequent Latin and Cyrillic ones. Return it with the ids that they had."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    special = [tokenizer.convert_tokens_to_ids(name) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    counts = Counter(piece for ids in tokenizer(texts, add_special_tokens=False)["input_ids"] for piece in ids)
    ranked = sorted(range(len(vocabulary)), key=lambda piece: -vocabulary[piece][1])

    characters = [piece for piece in ranked if KEPT_CHARACTERS.fullmatch(vocabulary[piece][0])]
    repeated = [piece for piece, count in counts.most_common() if count > 1]
    frequent = [piece for piece in ranked if FREQUENT.fullmatch(vocabulary[piece][0])]
    excluded = {*special, tokenizer.mask_token_id}
    kept = [piece for piece in dict.fromkeys(characters + repeated + frequent) if piece not in excluded]
    pieces = special + sorted(kept[: size - len(special)])

    content["model"]["vocab"] = [vocabulary[piece] for piece in pieces]
    content["model"]["unk_id"] = 3
    content["added_tokens"] = [
        token | {"id": index}
        for index, name in enumerate(("<s>", "<pad>", "</s>", "<unk>"))
        for token in content["added_tokens"]
        if token["content"] == name
    ]
    for name, token in content["post_processor"].get("special_tokens", {}).items():
        token["ids"] = [{"<s>": 0, "</s>": 2}[name]]
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    reduced = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        **names,
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=128,
    )
    return reduced, pieces


def principal_components(teacher: str, pieces: list[int], width: int) -> Tensor:
    """The teacher's embeddings of the kept pieces, reduced to `width` dimensions with a spread of one."""
    table = load_backbone(teacher).get_input_embeddings().weight.detach()[pieces]
    centered = table - table.mean(0)
    directions = torch.linalg.svd(centered, full_matrices=False).Vh[:width]
    reduced = F.pad(centered @ directions.T, (0, width - len(directions)))
    return reduced / reduced.std()


def padded(ids: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    rows = [torch.tensor(row) for row in ids]
    mask = pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True).bool()
    return pad_sequence(rows, batch_first=True, padding_value=padding), mask


def by_length(order: np.ndarray, ids: list[list[int]], size: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Batches of texts of similar length, in random order."""
    groups = [
        sorted(group, key=lambda row: len(ids[row]))
        for group in np.array_split(order, max(1, len(order) // (20 * size)))
    ]
    found = batches(np.concatenate(groups), size)
    return [found[index] for index in generator.permutation(len(found))]


@torch.no_grad()
def text_logits(model: BiBiERForEmotionClassification, texts: Texts, ids: list[list[int]]) -> Tensor:
    model.eval()
    logits = torch.zeros(len(texts.dev), NUM_LABELS)
    for places in batches(np.argsort([len(ids[row]) for row in texts.dev], kind="stable"), 128, drop=False):
        given, mask = padded([ids[texts.dev[place]] for place in places], 1)
        logits[places] = model(input_ids=given, text_attention_mask=mask.long()).logits
    model.train()
    return logits


# --- Both ----------------------------------------------------------------------------------------------------------


def unimodal(**options: Any) -> BiBiERForEmotionClassification:
    """A model of one modality: backbone, statistics over time, classifier."""
    name = next(key for key in options if key.endswith("_config"))
    options[name] = options[name] | {"num_hidden_layers": 0, "statistics": True, "freeze_backbone": False}
    return BiBiERForEmotionClassification(BiBiERConfig(modalities=[name.removesuffix("_config")], **options))


def part_of(model: BiBiERForEmotionClassification, backbone: Any, temperature: float) -> dict[str, Any]:
    """What a stage leaves: the weights, with calibrated logits, and the options of the modality."""
    head = model.output_layers()[0]
    with torch.no_grad():
        head.weight.div_(temperature)
        head.bias.div_(temperature)
    modality = model.config.modality_configs[model.config.modalities[0]]
    options = {name: getattr(modality, name) for name in ("layer", "hidden_size", "dropout")}
    return {"weights": model.state_dict(), "backbone": json.dumps(backbone.to_diff_dict()), "options": options}


def save(run: DistillArguments, speech: dict[str, Any], text: dict[str, Any], work: Path) -> None:
    """Join both parts and write the checkpoint, with matrices in 8 bits."""
    shared = {"num_hidden_layers": 0, "statistics": True}
    whisper = WhisperConfig(**json.loads(speech["backbone"]))
    positions = "bibier.audio.backbone.embed_positions.weight"
    whisper.max_source_positions = min(whisper.max_source_positions, int(50 * run.max_window_s))
    speech["weights"][positions] = speech["weights"][positions][: whisper.max_source_positions]
    config = BiBiERConfig(
        audio_config=speech["options"] | shared | {"backbone": whisper, "max_window_s": run.max_window_s},
        text_config=text["options"]
        | shared
        | {"backbone": BertConfig(**json.loads(text["backbone"])), "max_tokens": 96},
        fusion="late",
    )
    model = BiBiERForEmotionClassification(config)
    weights = model.state_dict() | {
        name: value for part in (speech, text) for name, value in part["weights"].items() if name != "trained_labels"
    }
    weights["mixture.weights"] = torch.zeros_like(weights["mixture.weights"])
    model.load_state_dict(weights)
    model.save_pretrained(run.output_dir)

    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    front_end = AutoFeatureExtractor.from_pretrained(run.audio_teacher)
    BiBiERProcessor(front_end, tokenizer, max_text_tokens=96, max_window_s=run.max_window_s).save_pretrained(
        run.output_dir
    )

    # The installed package reads the folder, so the code that transformers saves with a model is left out.
    for file in Path(run.output_dir).glob("*.py"):
        file.unlink()
    for name in (CONFIG_NAME, PROCESSOR_NAME):
        file = Path(run.output_dir) / name
        content = json.loads(file.read_text(encoding="utf-8"))
        content = {key: value for key, value in content.items() if key not in ("auto_map", "custom_pipelines")}
        write_json(file, content)

    path = Path(run.output_dir) / SAFE_WEIGHTS_NAME
    stored = {name: compact(name, value) for name, value in load_file(path).items()}
    save_file(stored, path, metadata={"format": "pt"})
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def compact(name: str, value: Tensor) -> Tensor:
    """Matrices in 8 bits, the speech encoder's convolutions in 16: all that follows suffers from their rounding."""
    if value.dtype != torch.float32 or value.dim() < 2:
        return value
    return value.half() if ".conv" in name else value.to(torch.float8_e4m3fn)


def smoothed(labels: Tensor, share: float = SMOOTHING) -> Tensor:
    """Targets (B, K); a row without label (-1) is any of them."""
    known = F.one_hot(labels.clamp(min=0), NUM_LABELS) * (1 - share) + share / NUM_LABELS
    return torch.where(labels[:, None] < 0, torch.tensor(1 / NUM_LABELS), known.float())


def balanced(labels: Tensor, power: float = 1.0) -> np.ndarray:
    """Weight of each class, larger for rare ones; on average one over the rows."""
    counts = torch.bincount(labels[labels >= 0], minlength=NUM_LABELS).clamp(min=1).double()
    weights = (1 / counts) ** power
    return (weights / (weights * counts).sum() * counts.sum()).numpy()


def batches(rows: np.ndarray, size: int, drop: bool = True) -> list[np.ndarray]:
    """Consecutive groups of rows; with `drop`, only full ones."""
    end = len(rows) - size + 1 if drop else len(rows)
    return [rows[start : start + size] for start in range(0, end, size)]


def optimization(groups: list[tuple[list, float, float]], steps: int) -> tuple[Any, Any]:
    """AdamW for (parameters, learning rate, weight decay), with a short warmup and a cosine."""
    optimizer = torch.optim.AdamW(
        [{"params": p, "lr": rate, "weight_decay": decay} for p, rate, decay in groups], betas=(0.9, 0.98)
    )

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 50) * max(0.02, 0.5 * (1 + math.cos(math.pi * step / max(1, steps))))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def update(model: nn.Module, loss: Tensor, optimizer: Any, schedule: Any) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def scores(labels: Any, logits: Tensor) -> dict[str, float]:
    found = classification_metrics(np.asarray(labels), logits.argmax(1).numpy())
    return {name: round(value, 1) for name, value in found.items() if isinstance(value, float)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
