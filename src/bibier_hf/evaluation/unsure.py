"""Fit what makes an answer unsure: a check that audio is speech, and the least confidence.

The check is a logistic regression on statistics of the backbone's features ([`~bibier_hf.model.unsure_bibier`]).
Its speech examples are training clips: each one unchanged, disturbed, and cut to a short part. The other sounds are
synthetic ([`~bibier_hf.data.non_speech`]), and half of them are disturbed, too. All scores are measured on held-out
data: speech by speaker, and sounds by family, so that no check is scored on a family of sounds that it was fitted to.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from datasets import DatasetDict
from pydantic import Field
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from tqdm.auto import tqdm
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from ..commandline import Section
from ..data.disturbances import DisturbanceSection, disturb
from ..data.non_speech import FAMILIES, non_speech_clips
from ..errors import ArgumentError
from ..files import write_atomically, write_json
from ..model.audio_bibier import SAMPLING_RATE, decode_audio
from ..model.configuration_bibier import SINGLE_LABEL, ModalityConfig
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from ..model.unsure_bibier import SpeechCheck, level_db
from ..sampling import sample_by_hash, seeded_hash
from ..tables import markdown_table, percent

VERSIONS = ("clean", "disturbed", "part")
"""The versions of each speech clip."""

STATED_FALSE_ALARMS = 0.05
"""False alarm rate for which the detection rate is always reported, whatever the threshold."""

REGULARIZATION = 0.03
"""Inverse strength of the L2 penalty, on standardized statistics."""

_FOLDS = 5
_LONGEST_S = 6.0
_SHORTEST_PART_S, _LONGEST_PART_S = 0.4, 2.0
_SOUND_DISTURBANCES = ["white:5..30", "gain", "clip", "band8k", "g711", "mp3", "opus", "reverb", "speed"]
"""Without babble, which is speech."""


Coverage = Annotated[
    float | None,
    Field(gt=0, le=1, description="share of the dev answers that should have enough confidence; null: no limit"),
]


class UnsureSection(Section):
    """When answers are unsure. This is fitted after training."""

    clips: int = Field(
        80,
        ge=0,
        description="training clips of each corpus to fit the speech check on; 0: keep the model's check",
    )
    sounds: int = Field(5, ge=2, description="synthetic sounds of each kind")
    false_alarms: float = Field(
        0.05, gt=0, lt=0.5, description="largest share of speech that the check may classify as no speech"
    )
    coverage: Coverage = 0.9
    seed: int = Field(0, ge=0, description="seed of the clips, sounds, and disturbances")


@dataclass(frozen=True)
class Speech:
    """A clip of speech.

    Attributes:
        name: of the clip; the random draws depend on it.
        speaker: all clips of a speaker are held out together.
        samples: mono float32 (S,) at 16 kHz.
    """

    name: str
    speaker: str
    samples: np.ndarray


def read_speech(splits: Mapping[str, DatasetDict], section: UnsureSection, split: str = "train") -> list[Speech]:
    """Read clips of a split of each corpus, drawn by the seed of the section.

    Raises:
        ArgumentError: there is no audio.
    """
    clips = []
    for corpus, rows in splits.items():
        heard = rows[split].select(np.flatnonzero([value is not None for value in rows[split]["duration_s"]]))
        ids, speakers, dialogues = (list(heard[name]) for name in ("id", "speaker", "dialogue"))
        chosen = sample_by_hash(range(len(heard)), section.clips, ids.__getitem__, section.seed, "speech")
        for place in sorted(chosen):
            group = speakers[place] or dialogues[place] or ids[place]
            samples = decode_audio(heard[place]["audio"])[: round(_LONGEST_S * SAMPLING_RATE)]
            clips.append(Speech(ids[place], f"{corpus}/{group}", samples))

    if len({clip.speaker for clip in clips}) < 2:
        raise ArgumentError("unsure: the speech check needs recordings of at least two speakers. Leave it out.")
    return clips


def fit_speech_check(
    model: BiBiERForEmotionClassification, processor: BiBiERProcessor, speech: Sequence[Speech], section: UnsureSection
) -> dict[str, Any]:
    """Fit a [`~bibier_hf.model.unsure_bibier.SpeechCheck`] and add it to the model.

    The threshold leaves at most `false_alarms` of the speech of held-out speakers (clean, disturbed, and short parts
    together) on the wrong side. If speech and other sounds separate better than that, it is in the middle of the gap.

    Args:
        model: with its audio backbone; changed in place.
        processor: its processor.
        speech: any clips, such as those that the model was trained on.
        section: number of sounds, and allowed false alarms.

    Returns:
        measurements on held-out speakers and families: `detected` (the share of the sounds), also `by_family` and
        `at_5_percent`; `false_alarms` for each of the `VERSIONS`; and the numbers of clips.
    """
    if "audio" not in model.config.modalities:
        raise ArgumentError("unsure: the model reads only text, so there is no speech to check. Leave it out.")

    versions, speakers, heard = _versions(speech, section)
    sounds, families = _sounds(section)
    values = clip_statistics(model, processor, [*heard, *sounds])
    audio = model.base_model.audio
    ours, others = np.split(values, [len(heard)])

    groups = np.array(speakers), np.array(families)
    speech_scores, sound_scores = _held_out_scores(audio.config, ours, groups[0], others, groups[1])
    border = _border(speech_scores, sound_scores, section.false_alarms)
    stated = float(np.quantile(speech_scores, 1 - STATED_FALSE_ALARMS))
    detected, names, kinds = sound_scores >= border, np.array(families), np.array(versions)

    check = _fitted(audio.config, ours, others)
    check.bias -= border
    audio.speech_check, audio.config.speech_check = check.to(model.device), True
    return {
        "false_alarms_allowed": section.false_alarms,
        "false_alarms": {name: float((speech_scores[kinds == name] >= border).mean()) for name in VERSIONS},
        "detected": float(detected.mean()),
        "at_5_percent": float((sound_scores >= stated).mean()),
        "by_family": {family: float(detected[names == family].mean()) for family in FAMILIES},
        "speech_clips": len(speech),
        "speakers": len(set(speakers)),
        "sounds": len(sounds),
    }


def _versions(speech: Sequence[Speech], section: UnsureSection) -> tuple[list[str], list[str], list[np.ndarray]]:
    """Return the version, speaker, and samples of all `VERSIONS` of all clips."""
    draws = DisturbanceSection(seed=section.seed)
    versions, speakers, heard = [], [], []

    for place, clip in enumerate(speech):
        voices = [speech[(place + step) % len(speech)].samples for step in range(1, 8)]
        disturbed = disturb(clip.samples, SAMPLING_RATE, draws.draw(clip.name, 0), section.seed, clip.name, voices)
        part = _part(clip, section.seed)
        if int.from_bytes(seeded_hash(section.seed, "half", clip.name)[:1], "big") % 2:
            part = disturb(part, SAMPLING_RATE, draws.draw(clip.name, 1), section.seed, clip.name, voices)

        versions += VERSIONS
        speakers += [clip.speaker] * len(VERSIONS)
        heard += [clip.samples, disturbed, part]

    return versions, speakers, heard


def _part(clip: Speech, seed: int) -> np.ndarray:
    """Cut a short part from a clip, if possible one that is at most 20 dB quieter than the clip."""
    rng = np.random.default_rng(int.from_bytes(seeded_hash(seed, "part", clip.name)[:8], "little"))
    size = min(len(clip.samples), round(rng.uniform(_SHORTEST_PART_S, _LONGEST_PART_S) * SAMPLING_RATE))
    starts = rng.integers(0, len(clip.samples) - size + 1, 8).tolist()
    parts = [clip.samples[start : start + size] for start in starts]
    loud = [part for part in parts if level_db(part) >= level_db(clip.samples) - 20]
    return (loud or parts)[0]


def _sounds(section: UnsureSection) -> tuple[list[np.ndarray], list[str]]:
    """Return synthetic sounds, half of them disturbed, and their families."""
    draws = DisturbanceSection(kinds=_SOUND_DISTURBANCES, seed=section.seed)
    samples, families = [], []
    for place, clip in enumerate(non_speech_clips(section.sounds, section.seed)):
        name = f"sound {place}"
        heard = clip.samples
        if int.from_bytes(seeded_hash(section.seed, "half", name)[:1], "big") % 2:
            heard = disturb(heard, SAMPLING_RATE, draws.draw(name, 0), section.seed, name)
        samples.append(heard)
        families.append(clip.family)

    return samples, families


@torch.inference_mode()
def clip_statistics(
    model: BiBiERForEmotionClassification, processor: BiBiERProcessor, clips: Sequence[np.ndarray]
) -> np.ndarray:
    """Compute the statistics (N, F) that the speech check reads."""
    training = model.training
    model.eval()
    rows, check = [], SpeechCheck(model.base_model.audio.config)
    for clip in tqdm(clips, desc="Speech check", unit="clip", disable=None):
        inputs = processor.encode([clip], None)
        raw, mask = (inputs[name].to(model.device) for name in (processor.audio_input_name, "audio_attention_mask"))
        rows.append(check.statistics(*model.encode_audio(raw, mask))[0].float().cpu().numpy())

    model.train(training)
    return np.stack(rows)


def _fitted(config: ModalityConfig, speech: np.ndarray, sounds: np.ndarray) -> SpeechCheck:
    """Fit the check to statistics (N, F) of speech and (M, F) of sounds; both classes have the same weight."""
    values = np.concatenate([speech, sounds]).astype(np.float64)
    mean, std = values.mean(0), values.std(0)
    # A small deviation around a large mean would be lost in 16 bits.
    std = np.maximum(std, np.maximum(np.abs(mean) / 100, 1e-6))
    standardized = np.clip((values - mean) / std, -10, 10)
    truth = np.repeat([0, 1], [len(speech), len(sounds)])
    regression = LogisticRegression(C=REGULARIZATION, class_weight="balanced", max_iter=500).fit(standardized, truth)

    check = SpeechCheck(config)
    check.mean.copy_(torch.from_numpy(mean))
    check.std.copy_(torch.from_numpy(std))
    check.weight.copy_(torch.from_numpy(regression.coef_[0]))
    check.bias.copy_(torch.from_numpy(regression.intercept_))
    return check


def _held_out_scores(
    config: ModalityConfig, speech: np.ndarray, speakers: np.ndarray, sounds: np.ndarray, families: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Score speech (N, F) by checks fitted without its speaker, and sounds (M, F) by a check fitted without their
    family."""
    by_hash = sorted(set(speakers.tolist()), key=seeded_hash)
    fold_of = {speaker: place % _FOLDS for place, speaker in enumerate(by_hash)}
    folds = np.array([fold_of[speaker] for speaker in speakers.tolist()])
    totals, counts, scores = np.zeros(len(speech)), np.zeros(len(speech)), np.zeros(len(sounds))

    for number, family in enumerate(sorted(set(families.tolist()))):
        own, left_out = families == family, folds == number % min(_FOLDS, len(by_hash))
        check = _fitted(config, speech[~left_out], sounds[~own])
        scores[own] = _score(check, sounds[own])
        totals[left_out] += _score(check, speech[left_out])
        counts[left_out] += 1

    return totals / counts, scores


def _border(speech_scores: np.ndarray, sound_scores: np.ndarray, share: float) -> float:
    """Return the score that this share of the speech exceeds. If the score that this share of the sounds falls below
    is higher, return the middle of the two."""
    lowest, highest = np.quantile(speech_scores, 1 - share), np.quantile(sound_scores, share)
    return float((lowest + max(lowest, highest)) / 2)


def _score(check: SpeechCheck, values: np.ndarray) -> np.ndarray:
    return check.score(torch.from_numpy(values)).numpy()


def fit_unsure(
    model: BiBiERForEmotionClassification,
    processor: BiBiERProcessor,
    splits: Mapping[str, DatasetDict],
    dev: np.ndarray | None,
    section: UnsureSection,
) -> dict[str, Any]:
    """Fit what makes answers unsure: the speech check on the train split, and the least confidence on dev.

    Args:
        model: with its audio backbone; changed in place. One that reads only text gets no speech check.
        processor: its processor.
        splits: corpus -> its splits, with recordings in `train`.
        dev: (N, K), the calibrated probabilities of the model on dev; None: no limit.
        section: options.

    Returns:
        `{"speech_check": see [`fit_speech_check`], "least_confidence": number or None, "coverage": of dev}`
    """
    facts: dict[str, Any] = {}
    if "audio" in model.config.modalities and section.clips:
        facts["speech_check"] = fit_speech_check(model, processor, read_speech(splits, section), section)

    single = model.config.problem_type == SINGLE_LABEL
    least = least_confidence(dev, section.coverage) if single and dev is not None else None
    model.config.least_confidence = least
    return facts | {"least_confidence": least, "coverage": section.coverage if least is not None else None}


def least_confidence(probabilities: np.ndarray, coverage: float | None) -> float | None:
    """Return the confidence that this share of the answers (N, K) reaches, or None for no limit."""
    if coverage is None or coverage == 1:
        return None
    return min(float(np.quantile(probabilities.max(1), 1 - coverage)), math.nextafter(1, 0))  # 1 would refuse all


def store_unsure(folder: str | Path, model: BiBiERForEmotionClassification) -> None:
    """Write a model's speech check and limits into its checkpoint, without changing anything else.

    Raises:
        ArgumentError: the folder holds no weights in one file.
    """
    folder = Path(folder)
    weights, config = folder / SAFE_WEIGHTS_NAME, folder / CONFIG_NAME
    if not weights.is_file():
        raise ArgumentError(f"unsure: {folder} has no {SAFE_WEIGHTS_NAME} to add the speech check to.")

    content = json.loads(config.read_text(encoding="utf-8")) | {"least_confidence": model.config.least_confidence}
    check = model.base_model.audio.speech_check
    if check is not None:
        content["audio_config"] = content["audio_config"] | {"speech_check": True}
        tensors = load_file(weights)
        tensors |= {f"bibier.audio.speech_check.{name}": value.float().cpu() for name, value in check.named_buffers()}
        write_atomically(weights, lambda new: save_file(tensors, new, metadata={"format": "pt"}))
    write_json(config, content)


def unsure_text(facts: Mapping[str, Any]) -> str:
    """Describe in Markdown what [`fit_unsure`] fitted and measured."""
    parts = []
    if check := facts.get("speech_check"):
        alarms = ", ".join(f"{name} {percent(share, 1)} %" for name, share in check["false_alarms"].items())
        rows = [[family.replace("_", " "), percent(share, 1)] for family, share in check["by_family"].items()]
        parts.append(
            f"Classified as no speech: {percent(check['detected'], 1)} % of {check['sounds']} sounds, all from families that the "
            f"speech check was not fitted on, and of speech by held-out speakers: {alarms}. With 5 % false alarms, it would "
            f"be {percent(check['at_5_percent'], 1)} % of the sounds."
        )
        parts.append(markdown_table(["sounds", "classified as no speech, %"], rows))
    if facts.get("least_confidence") is not None:
        parts.append(
            f"Answers with a score below {facts['least_confidence']:.3f} have low confidence: "
            f"{100 * (1 - facts['coverage']):.0f} % of those on dev."
        )
    return "\n\n".join(parts)
