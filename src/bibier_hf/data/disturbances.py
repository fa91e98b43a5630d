"""Disturbances of speech: noise, rooms, levels, phone lines, and codecs.

A disturbance is written as a name and, usually, a strength. The string is the same in run files, on command lines, and
in tables.

| written | what it does | strength |
|---|---|---|
| `white:20` | adds white noise | signal-to-noise ratio, dB |
| `babble:10` | adds six other voices at equal power | signal-to-noise ratio, dB |
| `gain:-20` | changes the level; samples beyond full scale are clipped | dB |
| `clip:10` | clips the loudest samples | percent of the samples |
| `band8k` | removes everything above 4 kHz | |
| `g711` | a phone line: 8 kHz, mu-law | |
| `mp3:32` | an MP3 file | kbit/s, constant |
| `opus:16` | an Opus file | kbit/s, variable |
| `reverb:0.5` | a room | reverberation time (RT60), s |
| `speed:0.9` | plays slower and lower, or faster and higher | factor |

A plus sign applies several in sequence: `reverb:0.3+white:20+g711`. Random draws depend only on a seed and the id of
the clip, not on the strength, so the same noise is scaled at every level.

audiomentations (0.43.1) has most of these, but it needs librosa (and thus numba), and MP3 is its only codec. Here,
libsndfile encodes and soxr resamples; the package needs both anyway.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import soxr
from datasets import Dataset, Features, Value
from pydantic import AfterValidator, Field, field_validator

from ..commandline import Section
from ..errors import ArgumentError
from ..model.audio_bibier import SAMPLING_RATE, decode_audio
from ..sampling import seeded_hash
from ..text import did_you_mean

BABBLE_VOICES = 6

STANDARD_CONDITIONS = tuple(
    "white:20 babble:10 gain:-20 clip:10 band8k g711 mp3:32 opus:16 reverb:0.5 speed:0.9".split()
)
"""What `all` stands for in an evaluation."""

CONDITIONS_HELP = "also score disturbed speech: white:20 babble:10 g711 mp3:32 ...; all: " + " ".join(
    STANDARD_CONDITIONS
)

NARROW_RATE = 8_000
"""Hz, of phone lines."""

MP3_RATES = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
"""kbit/s that MP3 allows at 16 kHz (MPEG-2, layer III)."""

DISTURBANCES_VERSION = 1
"""Increment when a disturbance gives other samples; this invalidates stored features of disturbed clips."""

MP3_DELAY = 1105
"""Samples that encoder and decoder add in front. From 40 kbit/s, the file states the delay, and they are removed."""

OPUS_RATES = (6, 256)
"""kbit/s at libsndfile's compression levels 1 and 0, for one channel."""


@dataclass(frozen=True)
class Kind:
    """A kind of disturbance.

    Attributes:
        apply: (samples, rate, strength, generator, voices) -> samples.
        lowest, highest: limits of the strength; None for a kind without strength.
        drawn: range of strengths to draw from in training, unless the run file gives another.
        values: the allowed strengths; empty: any within the limits.
        random: whether the result depends on the seed and the id of the clip.
    """

    apply: Callable[..., np.ndarray]
    lowest: float | None = None
    highest: float | None = None
    drawn: tuple[float, float] | None = None
    values: tuple[int, ...] = ()
    random: bool = False


@dataclass(frozen=True)
class Step:
    """A disturbance with its strength, or with a range of strengths.

    Attributes:
        name: key of `KINDS`.
        low, high: ends of the range, equal for a single strength; None for a kind without strength.
    """

    name: str
    low: float | None
    high: float | None

    def draw(self, generator: np.random.Generator) -> str:
        """Draw a strength uniformly from the range, and write it out."""
        if self.low is None or self.high is None:
            return self.name
        if self.low == self.high:
            return f"{self.name}:{self.low:g}"

        if values := [value for value in KINDS[self.name].values if self.low <= value <= self.high]:
            return f"{self.name}:{generator.choice(values)}"
        return f"{self.name}:{generator.uniform(self.low, self.high):.2f}"


def disturb(
    samples: np.ndarray,
    rate: int,
    disturbance: str,
    seed: object = 0,
    clip: str = "",
    voices: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Disturb a clip. The same arguments give the same result on every machine with the same libraries.

    Args:
        samples: (S,) floats in [-1, 1].
        rate: Hz.
        disturbance: such as `"white:20"`, or several joined by a plus sign.
        seed: of the draws.
        clip: id of the clip; every clip has different draws.
        voices: other clips at the same rate, for babble; only those that are drawn are read.

    Returns:
        float32 array; `speed` changes its length. Noise may exceed [-1, 1].

    Raises:
        ArgumentError: an unknown disturbance, a strength out of range, or babble without voices.
    """
    samples = np.asarray(samples, dtype=np.float32)
    generator = np.random.default_rng(int.from_bytes(seeded_hash(seed, clip)[:8], "little"))

    for step in parse(disturbance):
        samples = KINDS[step.name].apply(samples, rate, step.low, generator, voices).astype(np.float32)

    return samples


def parse(disturbance: str, ranges: bool = False) -> list[Step]:
    """Read a disturbance.

    Args:
        disturbance: as written.
        ranges: allow a range of strengths, `white:5..30`, and a name alone for its usual range.

    Raises:
        ArgumentError: an unknown name, or a strength that is missing, out of range, or not a number.
    """
    return [_parse_step(part.strip(), ranges) for part in disturbance.split("+")]


def _parse_step(text: str, ranges: bool) -> Step:
    name, colon, strength = text.partition(":")
    kind = KINDS.get(name)
    if kind is None:
        hint = did_you_mean(name, KINDS)
        raise ArgumentError(f"disturbance {text!r}: unknown name. Allowed: {', '.join(KINDS)}.{hint}")

    if kind.lowest is None or kind.highest is None:
        if colon:
            raise ArgumentError(f"disturbance {text!r}: {name} has no strength. Write {name}.")
        return Step(name, None, None)

    if not colon and ranges and kind.drawn is not None:
        return Step(name, *kind.drawn)

    number = r"[-+]?\d+(?:\.\d+)?"
    found = re.fullmatch(rf"({number})(?:\.\.({number}))?", strength)
    if found is None or (found[2] and not ranges):
        example = f", or a range such as {name}:{kind.drawn[0]:g}..{kind.drawn[1]:g}" if ranges and kind.drawn else ""
        raise ArgumentError(f"disturbance {text!r}: give a strength, such as {name}:{_example(name)}{example}.")

    low, high = float(found[1]), float(found[2] or found[1])
    if low > high:
        raise ArgumentError(f"disturbance {text!r}: write the lower end of the range first.")
    if not kind.lowest <= low <= high <= kind.highest:
        raise ArgumentError(
            f"disturbance {text!r}: the strength of {name} is from {kind.lowest:g} to {kind.highest:g}."
        )
    if kind.values and not [value for value in kind.values if low <= value <= high]:
        raise ArgumentError(f"disturbance {text!r}: allowed for {name}: {', '.join(map(str, kind.values))}.")

    return Step(name, low, high)


def _example(name: str) -> str:
    (written,) = (text for text in STANDARD_CONDITIONS if text.partition(":")[0] == name)
    return written.partition(":")[2]


# --- noise ----------------------------------------------------------------------------------------------------------


def mix(clip: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise (S,) to a clip (S,) so that 10 log10(clip power / noise power) = `snr_db`; float32, not clipped.

    If the clip or the noise has no power, the clip is returned unchanged.
    """
    power, noise_power = np.mean(np.square(clip, dtype=np.float64)), np.mean(np.square(noise, dtype=np.float64))
    if power == 0 or noise_power == 0:
        return clip

    return (clip + noise * np.sqrt(power / noise_power / 10 ** (snr_db / 10))).astype(np.float32)


def _white(samples, rate, snr_db, generator, voices) -> np.ndarray:
    return mix(samples, generator.standard_normal(len(samples)), snr_db)


def _babble(samples, rate, snr_db, generator, voices) -> np.ndarray:
    if len(voices) == 0:
        raise ArgumentError("disturbance babble: needs other clips to mix, and there are none. Use white noise.")

    noise = np.zeros(len(samples))
    for place in generator.choice(len(voices), min(BABBLE_VOICES, len(voices)), replace=False):
        voice = np.asarray(voices[place], dtype=np.float64)
        power = np.mean(np.square(voice))
        if power > 0:
            noise += np.resize(np.roll(voice, generator.integers(len(voice))), len(samples)) / np.sqrt(power)

    return mix(samples, noise, snr_db)


# --- level ----------------------------------------------------------------------------------------------------------


def _gain(samples, rate, gain_db, generator, voices) -> np.ndarray:
    return np.clip(samples * 10 ** (gain_db / 20), -1, 1)


def _clip(samples, rate, percent, generator, voices) -> np.ndarray:
    limit = np.quantile(np.abs(samples), 1 - percent / 100)
    return np.clip(samples, -limit, limit)


# --- rooms and speed ------------------------------------------------------------------------------------------------


def _reverb(samples, rate, rt60_s, generator, voices) -> np.ndarray:
    """Convolve with an impulse and a decaying noise, at the same level as before.

    The energy of the noise is proportional to the reverberation time, as in a room. At 0.5 s, it equals that of the
    direct sound, as for a speaker one meter away in a room of 150 cubic meters.
    """
    length = round(rt60_s * rate)
    response = generator.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    response[0] = 0
    energy = np.sum(np.square(response))
    response *= np.sqrt(rt60_s / 0.5 / energy) if energy else 0
    response[0] = 1

    size = len(samples) + length
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]
    before, after = np.mean(np.square(samples, dtype=np.float64)), np.mean(np.square(wet))
    return wet * np.sqrt(before / after) if after else samples


def _speed(samples, rate, factor, generator, voices) -> np.ndarray:
    return soxr.resample(samples, rate * factor, rate)


# --- bands and codecs -----------------------------------------------------------------------------------------------


def _band8k(samples, rate, strength, generator, voices) -> np.ndarray:
    return _resized(soxr.resample(soxr.resample(samples, rate, NARROW_RATE), NARROW_RATE, rate), len(samples))


def _g711(samples, rate, strength, generator, voices) -> np.ndarray:
    narrow = soxr.resample(samples, rate, NARROW_RATE)
    heard = _recoded(narrow, NARROW_RATE, format="WAV", subtype="ULAW")
    return _resized(soxr.resample(heard, NARROW_RATE, rate), len(samples))


def _mp3(samples, rate, kbit_s, generator, voices) -> np.ndarray:
    wide = soxr.resample(samples, rate, SAMPLING_RATE)
    heard = _recoded(wide, SAMPLING_RATE, **mp3_options(kbit_s))
    start = MP3_DELAY if len(heard) > len(wide) else 0
    return _resized(soxr.resample(_resized(heard[start:], len(wide)), SAMPLING_RATE, rate), len(samples))


def _opus(samples, rate, kbit_s, generator, voices) -> np.ndarray:
    wide = soxr.resample(samples, rate, SAMPLING_RATE)
    heard = _resized(_recoded(wide, SAMPLING_RATE, **opus_options(kbit_s)), len(wide))
    return _resized(soxr.resample(heard, SAMPLING_RATE, rate), len(samples))


def mp3_options(kbit_s: float) -> dict[str, Any]:
    """Return the arguments of `soundfile.write` for MP3 at 16 kHz. Its levels 0 to 1 are 160 to 8 kbit/s, less 1."""
    level = (MP3_RATES[-1] - kbit_s) / (MP3_RATES[-1] - MP3_RATES[0])
    # A little lower, because level 1 is rejected and the encoder rounds the rate down.
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT"}
    return options | {"compression_level": max(0.0, level - 1e-3)}


def opus_options(kbit_s: float) -> dict[str, Any]:
    """Return the arguments of `soundfile.write` for Opus. Its levels 0 to 1 are 256 to 6 kbit/s, of a variable
    rate: pauses need less."""
    lowest, highest = OPUS_RATES
    level = (highest - kbit_s) / (highest - lowest)
    return {"format": "OGG", "subtype": "OPUS", "compression_level": min(level, 0.9999)}  # 1 is refused


def encode(samples: np.ndarray, rate: int, **options: Any) -> bytes:
    """Encode samples (S,), clipped to [-1, 1]."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), rate, **options)
    return file.getvalue()


def _recoded(samples: np.ndarray, rate: int, **options: Any) -> np.ndarray:
    return soundfile.read(io.BytesIO(encode(samples, rate, **options)), dtype="float32")[0]


def _resized(samples: np.ndarray, length: int) -> np.ndarray:
    """Cut or zero-pad the end, as codecs work in frames."""
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


KINDS: Mapping[str, Kind] = {
    "white": Kind(_white, -10, 100, (5, 30), random=True),
    "babble": Kind(_babble, -10, 100, (5, 30), random=True),
    "gain": Kind(_gain, -60, 40, (-30, 6)),
    "clip": Kind(_clip, 0, 50, (1, 20)),
    "band8k": Kind(_band8k),
    "g711": Kind(_g711),
    "mp3": Kind(_mp3, 8, 160, (16, 64), MP3_RATES),
    "opus": Kind(_opus, *OPUS_RATES, (8, 32)),
    "reverb": Kind(_reverb, 0.01, 10, (0.1, 0.8), random=True),
    "speed": Kind(_speed, 0.5, 2, (0.9, 1.1)),
}
"""Name -> kind, in the order of tables."""


def checked_conditions(conditions: list[str]) -> list[str]:
    """Expand `all`, and reject unknown and repeated conditions.

    Raises:
        ArgumentError: see [`parse`].
    """
    expanded = []
    for condition in conditions:
        expanded += STANDARD_CONDITIONS if condition == "all" else [condition.replace(" ", "")]

    for condition in expanded:
        parse(condition)
        if expanded.count(condition) > 1:
            raise ArgumentError(f"{condition} is given twice. Give each condition once.")
    return expanded


Conditions = Annotated[list[str], AfterValidator(checked_conditions)]
"""Option type: the conditions of an evaluation."""


# --- rows of a data set ---------------------------------------------------------------------------------------------

NOTE = "disturbance"
"""Column that says how to disturb the audio of a row when it is read: `white:20@0` (disturbance and seed), or null."""


class Voices:
    """The recordings of one split of a corpus, which babble is mixed from.

    Args:
        rows: in the common schema.

    Raises:
        ValueError: rows of several splits, or of several corpora.
    """

    def __init__(self, rows: Dataset):
        for name in ("split", "corpus"):
            if len(found := set(rows[name])) > 1:
                raise ValueError(
                    f"Babble is mixed from clips of a single {name}, so that none leak into another; these are from "
                    f"{', '.join(sorted(found))}."
                )

        durations = rows["duration_s"]
        ids = rows["id"]
        # Sorted by id, so that the order of the rows does not matter.
        self.places = sorted((place for place, seconds in enumerate(durations) if seconds), key=ids.__getitem__)
        self.ids = [ids[place] for place in self.places]
        self.rows = rows

    def others(self, clip: str) -> Sequence[np.ndarray]:
        """Return the samples of all other recordings, decoded on access."""
        return _Samples(self.rows, [place for place, own in zip(self.places, self.ids, strict=True) if own != clip])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the ids and the audio."""
        digest = hashlib.sha256()
        for place, clip in zip(self.places, self.ids, strict=True):
            audio = self.rows[place]["audio"]
            content = Path(audio["path"]).read_bytes() if audio["bytes"] is None else audio["bytes"]
            digest.update(clip.encode() + hashlib.sha256(content).digest())
        return digest.hexdigest()


class _Samples(Sequence[np.ndarray]):
    def __init__(self, rows: Dataset, places: Sequence[int]):
        self.rows = rows
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> np.ndarray:  # ty: ignore[incompatible-method-override] - no slices
        return decode_audio(self.rows[self.places[index]]["audio"])


def with_notes(rows: Dataset, notes: Sequence[str | None]) -> Dataset:
    """Return the rows with the column [`NOTE`]."""
    kept = rows.remove_columns(NOTE) if NOTE in rows.column_names else rows
    if not len(kept):  # datasets adds no column to no rows
        return Dataset.from_dict(
            {name: [] for name in (*kept.column_names, NOTE)}, Features({**kept.features, NOTE: Value("string")})
        )
    return kept.add_column(NOTE, list(notes), feature=Value("string"))


def under_condition(rows: Dataset, disturbance: str, seed: int = 0) -> Dataset:
    """Return the rows with notes that disturb all recordings in one way."""
    return with_notes(rows, [f"{disturbance}@{seed}" if seconds else None for seconds in rows["duration_s"]])


def heard(audio: Any, note: str | None, clip: str, voices: Voices | None = None) -> Any:
    """Return the audio of a row, disturbed as its note says; without a note, it is unchanged.

    Args:
        audio: in any form.
        note: value of [`NOTE`].
        clip: id of the row.
        voices: for babble.
    """
    if audio is None or note is None:
        return audio

    disturbance, _, seed = note.partition("@")
    others = () if voices is None else voices.others(clip)
    samples = disturb(decode_audio(audio), SAMPLING_RATE, disturbance, seed, clip, others)
    return {"array": samples, "sampling_rate": SAMPLING_RATE}


def note_key(note: str, clip: str, voices: Voices | None = None) -> bytes:
    """Return what the disturbed audio depends on, apart from the audio of the row."""
    disturbance, _, seed = note.partition("@")
    names = [step.name for step in parse(disturbance)]
    parts = [DISTURBANCES_VERSION, disturbance]
    if any(KINDS[name].random for name in names):
        parts += [seed, clip]
    if "babble" in names and voices is not None:
        parts.append(voices.fingerprint)
    return json.dumps(parts).encode()


# --- random draws ---------------------------------------------------------------------------------------------------


class DisturbanceSection(Section):
    """Random disturbances of the training audio, different for each clip and epoch."""

    kinds: list[str] = Field(
        list(KINDS),
        min_length=1,
        description="disturbances to draw from, with a range of strengths (white:5..30), one strength, or the usual range",
    )
    probability: float = Field(0.8, gt=0, le=1, description="share of clips that are disturbed, drawn in each epoch")
    draws: int = Field(
        4,
        ge=1,
        description="with stored features: disturbed versions of each clip in the store, in addition to the clean one",
    )
    seed: int = Field(42, ge=0, description="seed of the draws")

    @field_validator("kinds")
    @classmethod
    def _kinds_are_known(cls, kinds: list[str]) -> list[str]:
        for kind in kinds:
            parse(kind, ranges=True)
        return kinds

    @cached_property
    def _steps(self) -> list[list[Step]]:
        return [parse(kind, ranges=True) for kind in self.kinds]

    @property
    def needs_voices(self) -> bool:
        """Whether babble can be drawn."""
        return any(step.name == "babble" for steps in self._steps for step in steps)

    def draw(self, clip: str, number: int) -> str:
        """Draw a disturbance for a clip, regardless of the probability.

        Args:
            clip: its id.
            number: of the epoch or of the stored draw.
        """
        generator = np.random.default_rng(int.from_bytes(seeded_hash("kind", self.seed, number, clip)[:8], "little"))
        steps = self._steps[generator.integers(len(self._steps))]
        return "+".join(step.draw(generator) for step in steps)

    def is_disturbed(self, clip: str, epoch: int) -> bool:
        """Decide whether a clip is disturbed in an epoch."""
        digest = seeded_hash("disturbed", self.seed, epoch, clip)
        return int.from_bytes(digest[:8], "big") < self.probability * 2**64

    def note(self, clip: str, number: int) -> str:
        """Return the note ([`NOTE`]) of an epoch or a stored draw."""
        return f"{self.draw(clip, number)}@{self.seed}/{number}"

    def version(self, clip: str, epoch: int) -> int:
        """Choose among the stored versions of a clip in an epoch: 0 is the clean one."""
        if not self.is_disturbed(clip, epoch):
            return 0
        digest = seeded_hash("version", self.seed, epoch, clip)
        return 1 + int.from_bytes(digest[:8], "big") % self.draws

    def stored_versions(self, rows: Dataset) -> list[Dataset]:
        """Return the rows once for each stored draw, with their notes; text-only rows have none."""
        ids, durations = rows["id"], rows["duration_s"]
        rows = rows.flatten_indices()  # once; otherwise, every added column would do it again
        return [
            with_notes(
                rows,
                [self.note(clip, number) if seconds else None for clip, seconds in zip(ids, durations, strict=True)],
            )
            for number in range(1, self.draws + 1)
        ]


@dataclass(frozen=True)
class Disturber:
    """Disturbs training rows as they are read.

    Attributes:
        section: what to draw.
        voices: corpus -> its training recordings.
    """

    section: DisturbanceSection
    voices: Mapping[str, Voices]

    def __call__(self, audio: Any, clip: str, corpus: str, epoch: int) -> Any:
        """Return the audio of a row in an epoch."""
        if audio is None or not self.section.is_disturbed(clip, epoch):
            return audio
        return heard(audio, self.section.note(clip, epoch), clip, self.voices.get(corpus))
