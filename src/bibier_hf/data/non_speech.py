"""Synthetic sounds that are not speech: noise, machines, signals, music, and more.

They teach a model when not to answer ([`~bibier_hf.evaluation.unsure`]). A *kind* is one generator with random
parameters; similar kinds form a *family*, so that a family can be held out to measure how well unknown sounds are
detected. A clip depends only on its kind, its number, and the seed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import signal

from ..model.audio_bibier import SAMPLING_RATE
from ..sampling import seeded_hash

SHORTEST_S, LONGEST_S = 0.4, 6.0
"""Limits of the length of a clip in seconds; lengths are uniform on a logarithmic scale."""

LOUDEST_DB, QUIETEST_DB = -1.0, -45.0
"""Peak of a clip in dB of full scale, except for `near_silence`."""

Generator = np.random.Generator
Make = Callable[[Generator, int], np.ndarray]


@dataclass(frozen=True)
class NonSpeechClip:
    """A sound.

    Attributes:
        samples: mono float32 (S,) at 16 kHz, within [-1, 1].
        kind: of the sound.
        family: of the kind.
    """

    samples: np.ndarray
    kind: str
    family: str


def non_speech_clips(per_kind: int, seed: int = 0) -> list[NonSpeechClip]:
    """Generate the same number of sounds of each kind.

    Args:
        per_kind: number of clips of each of the `KINDS`.
        seed: of the draws.
    """
    return [non_speech_clip(kind, number, seed) for number in range(per_kind) for kind in KINDS]


def non_speech_clip(kind: str, number: int = 0, seed: int = 0, seconds: float | None = None) -> NonSpeechClip:
    """Generate one sound.

    Args:
        kind: one of the `KINDS`.
        number: of the clip among those of its kind.
        seed: of the draws.
        seconds: length; None: a random one.
    """
    family, make = KINDS[kind]
    rng = np.random.default_rng(int.from_bytes(seeded_hash("non-speech", seed, kind, number)[:8], "little"))
    drawn = float(np.exp(rng.uniform(np.log(SHORTEST_S), np.log(LONGEST_S))))
    count = max(1, round((drawn if seconds is None else seconds) * SAMPLING_RATE))

    samples = make(rng, count)
    samples = samples - samples.mean()
    if kind != "near_silence":
        samples = _with_background(rng, samples)
        samples = _scaled(samples, rng.uniform(QUIETEST_DB, LOUDEST_DB))
    return NonSpeechClip(samples.astype(np.float32), kind, family)


# Building blocks


def _scaled(samples: np.ndarray, peak_db: float) -> np.ndarray:
    return samples * (10 ** (peak_db / 20) / max(np.abs(samples).max(), 1e-9))


def _with_background(rng: Generator, samples: np.ndarray) -> np.ndarray:
    """Add background noise to most sounds and fade some in and out."""
    power = np.sqrt(np.mean(np.square(samples))) + 1e-12
    if rng.random() < 0.7:
        level = power * 10 ** (-rng.uniform(15, 60) / 20)
        samples = samples + level * _colored(rng, len(samples), rng.uniform(0, 2))
    if rng.random() < 0.3:
        fade = min(len(samples), round(rng.uniform(0.01, 0.5) * SAMPLING_RATE))
        samples = samples.copy()
        samples[:fade] *= np.linspace(0, 1, fade)
        samples[len(samples) - fade :] *= np.linspace(1, 0, fade)
    return samples


def _time(count: int) -> np.ndarray:
    return np.arange(count) / SAMPLING_RATE


def _pitch(rng: Generator, low: float, high: float) -> float:
    """Draw a frequency, uniformly on a logarithmic scale."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _sine(frequency: np.ndarray | float, count: int, phase: float = 0.0) -> np.ndarray:
    steps = np.broadcast_to(np.asarray(frequency, dtype=np.float64), (count,))
    return np.sin(phase + 2 * np.pi * np.cumsum(steps) / SAMPLING_RATE)


def _harmonics(rng: Generator, frequency: np.ndarray | float, count: int, slope: float, most: int = 20) -> np.ndarray:
    """A harmonic sound whose partials fall by `slope` dB per octave."""
    highest, total = float(np.max(frequency)), np.zeros(count)
    for number in range(1, max(2, min(most, int(7500 / highest)) + 1)):
        gain = 10 ** (-slope * np.log2(number) / 20) * rng.uniform(0.5, 1.5)
        total += gain * _sine(number * np.asarray(frequency), count, rng.uniform(0, 2 * np.pi))
    return total


def _colored(rng: Generator, count: int, exponent: float) -> np.ndarray:
    """Noise whose power falls with frequency to the power of `exponent`: 0 white, 1 pink, 2 brown. Unit power."""
    spectrum = np.fft.rfft(rng.standard_normal(max(count, 2)))
    frequency = np.maximum(np.fft.rfftfreq(max(count, 2), 1 / SAMPLING_RATE), 20.0)
    noise = np.fft.irfft(spectrum * frequency ** (-exponent / 2), max(count, 2))[:count]
    return noise / (np.sqrt(np.mean(np.square(noise))) + 1e-12)


def _band(rng: Generator, samples: np.ndarray, low: float, high: float) -> np.ndarray:
    """Keep a band of frequencies."""
    edges = np.clip([low, high], 20, SAMPLING_RATE / 2 - 100)
    filtered = signal.sosfilt(
        signal.butter(int(rng.integers(1, 4)), edges, "band", fs=SAMPLING_RATE, output="sos"), samples
    )
    return np.asarray(filtered)


def _random_band(rng: Generator) -> tuple[float, float]:
    center, octaves = _pitch(rng, 150, 5000), rng.uniform(0.3, 3)
    return center * 2 ** (-octaves / 2), center * 2 ** (octaves / 2)


def _slow(rng: Generator, count: int, rate: float) -> np.ndarray:
    """A random curve around 0 with a deviation of about one that changes about `rate` times per second."""
    points = max(4, int(count / SAMPLING_RATE * rate) + 4)
    return 1.2 * np.interp(np.linspace(0, points - 1, count), np.arange(points), rng.standard_normal(points))


def _events(rng: Generator, count: int, rate: float, make: Make, seconds: float, regular: float = 0.0) -> np.ndarray:
    """Sounds of some seconds at random times, `rate` per second; `regular`: 1 spaces them evenly."""
    total, length = np.zeros(count), max(8, round(seconds * SAMPLING_RATE))
    number = max(1, round(rate * count / SAMPLING_RATE))
    even = (np.arange(number) + rng.random()) / number
    places = np.where(rng.random(number) < regular, even, rng.random(number)) * count
    for place in places.astype(int).tolist():
        size = min(length, count - place)
        total[place : place + size] += rng.uniform(0.4, 1.0) * make(rng, length)[:size]
    return total


def _decay(count: int, seconds: float) -> np.ndarray:
    return np.exp(-_time(count) / seconds)


def _gates(rng: Generator, count: int, on: tuple[float, float], off: tuple[float, float]) -> np.ndarray:
    """Alternate between 1 and 0 for random durations, with edges of 4 ms."""
    gate, place = np.zeros(count), 0
    while place < count:
        length = max(1, round(rng.uniform(*on) * SAMPLING_RATE))
        gate[place : place + length] = 1
        place += length + round(rng.uniform(*off) * SAMPLING_RATE)
    return np.convolve(gate, np.ones(64) / 64, "same")[:count]


def _notes(rng: Generator, count: int, note: Callable[[Generator, float, int], np.ndarray], voices: int) -> np.ndarray:
    """A melody of equally long notes, or chords of several voices."""
    scale = np.array([0, 2, 4, 5, 7, 9, 11]) if rng.random() < 0.6 else np.array([0, 2, 3, 5, 7, 8, 10])
    root, length = _pitch(rng, 80, 400), round(rng.uniform(0.12, 0.8) * SAMPLING_RATE)
    total = np.zeros(count)
    for start in range(0, count, length):
        size = min(count - start, round(length * rng.uniform(1, 2.5)))
        degree = int(rng.integers(0, 10))
        for voice in range(voices):
            octave, step = divmod(degree + 2 * voice, 7)
            frequency = root * 2 ** (octave + scale[step] / 12)
            total[start : start + size] += note(rng, min(frequency, 4000.0), max(size, 32))[:size]
    return total


# Instruments


def _plucked(rng: Generator, frequency: float, count: int) -> np.ndarray:
    """A plucked string (Karplus-Strong)."""
    period = max(2, round(SAMPLING_RATE / frequency))
    excited = np.zeros(count)
    excited[:period] = rng.standard_normal(min(period, count))[: min(period, count)]
    feedback = np.zeros(period + 2)
    feedback[0], feedback[-2:] = 1, -0.498
    return np.asarray(signal.lfilter([1.0], feedback, excited))


def _bell(rng: Generator, frequency: float, count: int) -> np.ndarray:
    total = np.zeros(count)
    for ratio in (0.5, 1.0, 1.19, 1.5, 2.0, 2.52, 2.66, 4.1)[: int(rng.integers(3, 9))]:
        total += _sine(frequency * ratio, count) * _decay(count, rng.uniform(0.1, 1.2)) / ratio
    return total


def _organ(rng: Generator, frequency: float, count: int) -> np.ndarray:
    edge = np.minimum(1, np.minimum(np.arange(count), np.arange(count)[::-1]) / 400)
    return _harmonics(rng, frequency, count, rng.uniform(3, 12), 8) * edge


def _bowed(rng: Generator, frequency: float, count: int) -> np.ndarray:
    time = _time(count)
    bent = frequency * (1 + 0.008 * np.sin(2 * np.pi * rng.uniform(4, 7) * time))
    swell = np.minimum(1, time / rng.uniform(0.03, 0.15)) * np.minimum(1, time[::-1] / 0.05)
    return _harmonics(rng, bent, count, rng.uniform(4, 9)) * swell


def _piano(rng: Generator, frequency: float, count: int) -> np.ndarray:
    return _harmonics(rng, frequency, count, rng.uniform(6, 14), 12) * _decay(count, rng.uniform(0.15, 0.8))


def _drum(rng: Generator, count: int) -> np.ndarray:
    kind = rng.integers(0, 3)
    if kind == 0:  # bass drum
        return _sine(40 + 120 * _decay(count, 0.03), count) * _decay(count, 0.12)
    if kind == 1:  # snare
        noise = rng.standard_normal(count) * _decay(count, 0.08)
        return 0.6 * noise + _sine(190.0, count) * _decay(count, 0.05)
    return np.diff(rng.standard_normal(count + 1)) * _decay(count, rng.uniform(0.02, 0.15))  # cymbal


# Kinds


def _white(rng: Generator, count: int) -> np.ndarray:
    return rng.standard_normal(count) if rng.random() < 0.7 else rng.uniform(-1, 1, count)


def _pink(rng: Generator, count: int) -> np.ndarray:
    return _colored(rng, count, rng.uniform(0.7, 1.3))


def _brown(rng: Generator, count: int) -> np.ndarray:
    return _colored(rng, count, rng.uniform(1.6, 2.4))


def _blue(rng: Generator, count: int) -> np.ndarray:
    return _colored(rng, count, rng.uniform(-2, -0.5))


def _band_noise(rng: Generator, count: int) -> np.ndarray:
    return _band(rng, rng.standard_normal(count), *_random_band(rng))


def _swelling_noise(rng: Generator, count: int) -> np.ndarray:
    """Noise whose loudness changes at the rate of syllables."""
    envelope = np.exp(rng.uniform(0.5, 1.2) * _slow(rng, count, rng.uniform(1, 12)))
    return _colored(rng, count, rng.uniform(0, 2)) * envelope


def _noise_bursts(rng: Generator, count: int) -> np.ndarray:
    noise = _band(rng, rng.standard_normal(count), *_random_band(rng))
    return noise * _gates(rng, count, (0.03, 0.6), (0.03, 0.6))


def _hum(rng: Generator, count: int) -> np.ndarray:
    mains = float(rng.choice([50.0, 60.0])) * (1 + 0.001 * rng.standard_normal())
    return _harmonics(rng, mains, count, rng.uniform(0, 9), int(rng.integers(2, 40)))


def _engine(rng: Generator, count: int) -> np.ndarray:
    speed = _pitch(rng, 15, 150) * np.exp(rng.uniform(0.01, 0.15) * _slow(rng, count, 1.5))
    sound = _harmonics(rng, speed, count, rng.uniform(0, 6), 40) * (1 + 0.3 * _slow(rng, count, 30))
    return sound / (sound.std() + 1e-9) + rng.uniform(0.1, 0.8) * _colored(rng, count, 1.5)


def _drill(rng: Generator, count: int) -> np.ndarray:
    frequency = _pitch(rng, 80, 500) * (1 + 0.01 * _slow(rng, count, 20))
    sound = signal.sawtooth(2 * np.pi * np.cumsum(frequency) / SAMPLING_RATE)
    return sound * (1 + 0.5 * _slow(rng, count, 25)) + 0.3 * rng.standard_normal(count)


def _fan(rng: Generator, count: int) -> np.ndarray:
    blades = _pitch(rng, 8, 120)
    noise = _band(rng, _colored(rng, count, rng.uniform(0.5, 2)), 40, _pitch(rng, 400, 6000))
    turning = 1 + rng.uniform(0.05, 0.8) * _sine(blades, count)
    return noise / (noise.std() + 1e-9) * turning + rng.uniform(0, 0.7) * _harmonics(rng, blades, count, 6, 8)


def _wind(rng: Generator, count: int) -> np.ndarray:
    gusts = np.exp(0.7 * _slow(rng, count, rng.uniform(0.5, 3)))
    return _band(rng, _colored(rng, count, 1.2), 60, _pitch(rng, 300, 2500)) * gusts


def _rain(rng: Generator, count: int) -> np.ndarray:
    drops = _events(rng, count, rng.uniform(20, 120), lambda r, n: r.standard_normal(n) * _decay(n, 0.002), 0.01)
    return drops + rng.uniform(0.02, 0.2) * _colored(rng, count, 0.3)


def _waves(rng: Generator, count: int) -> np.ndarray:
    swell = 1.1 + _sine(rng.uniform(0.1, 0.6), count, rng.uniform(0, 6))
    return _colored(rng, count, rng.uniform(0.5, 1.5)) * swell


def _tone(rng: Generator, count: int) -> np.ndarray:
    return _sine(_pitch(rng, 40, 7500), count)


def _tones(rng: Generator, count: int) -> np.ndarray:
    return sum((_sine(_pitch(rng, 80, 6000), count) for _ in range(int(rng.integers(2, 6)))), np.zeros(count))


def _square_tone(rng: Generator, count: int) -> np.ndarray:
    phase = 2 * np.pi * _pitch(rng, 60, 2500) * _time(count)
    return signal.square(phase, rng.uniform(0.1, 0.9)) if rng.random() < 0.5 else signal.sawtooth(phase)


def _vibrato(rng: Generator, count: int) -> np.ndarray:
    wobble = 1 + rng.uniform(0.005, 0.1) * _sine(rng.uniform(3, 12), count)
    return _harmonics(rng, _pitch(rng, 80, 1500) * wobble, count, rng.uniform(3, 20), int(rng.integers(1, 20)))


def _pulsing_tone(rng: Generator, count: int) -> np.ndarray:
    sound = _harmonics(rng, _pitch(rng, 80, 2500), count, rng.uniform(3, 20), int(rng.integers(1, 12)))
    return sound * (1 + rng.uniform(0.2, 1) * _sine(_pitch(rng, 1, 40), count))


def _sweep(rng: Generator, count: int) -> np.ndarray:
    low, high = _pitch(rng, 40, 600), _pitch(rng, 1000, 7800)
    track = np.geomspace(low, high, count) if rng.random() < 0.6 else np.linspace(low, high, count)
    return _sine(track if rng.random() < 0.6 else track[::-1], count)


def _siren(rng: Generator, count: int) -> np.ndarray:
    center, rate = _pitch(rng, 400, 1500), rng.uniform(0.2, 5)
    move = _sine(rate, count) if rng.random() < 0.6 else signal.square(2 * np.pi * rate * _time(count))
    return _harmonics(rng, center * 2 ** (rng.uniform(0.2, 1) * move), count, rng.uniform(4, 15), 6)


def _glides(rng: Generator, count: int) -> np.ndarray:
    track = _pitch(rng, 80, 600) * np.exp(rng.uniform(0.1, 0.5) * _slow(rng, count, rng.uniform(1, 8)))
    return _harmonics(rng, np.clip(track, 40, 2000), count, rng.uniform(3, 15), int(rng.integers(1, 25)))


def _clicks(rng: Generator, count: int) -> np.ndarray:
    length = rng.uniform(0.0003, 0.004)
    return _events(
        rng, count, _pitch(rng, 1, 40), lambda r, n: r.standard_normal(n) * _decay(n, length), 0.02, rng.random()
    )


def _crackle(rng: Generator, count: int) -> np.ndarray:
    sparks = (rng.random(count) < _pitch(rng, 5, 500) / SAMPLING_RATE) * rng.standard_normal(count)
    return sparks + 0.003 * rng.standard_normal(count)


def _knocks(rng: Generator, count: int) -> np.ndarray:
    frequency, length = _pitch(rng, 60, 1200), rng.uniform(0.01, 0.08)

    def knock(rng: Generator, count: int) -> np.ndarray:
        return (_sine(frequency, count) + 0.3 * rng.standard_normal(count)) * _decay(count, length)

    return _events(rng, count, rng.uniform(0.8, 8), knock, 0.3, rng.random())


def _typing(rng: Generator, count: int) -> np.ndarray:
    def key(rng: Generator, count: int) -> np.ndarray:
        return _band(rng, rng.standard_normal(count), 800, 6000) * _decay(count, rng.uniform(0.004, 0.02))

    return _events(rng, count, rng.uniform(3, 14), key, 0.06)


def _drums(rng: Generator, count: int) -> np.ndarray:
    return _events(rng, count, rng.uniform(2, 10), _drum, 0.4, rng.uniform(0.5, 1))


def _chord(rng: Generator, count: int) -> np.ndarray:
    note = (_organ, _bowed, _piano, _plucked)[int(rng.integers(0, 4))]
    root, thirds = _pitch(rng, 80, 500), (1, 2 ** (4 / 12), 2 ** (7 / 12), 2, 2 ** (16 / 12))
    return sum((note(rng, root * ratio, count) for ratio in thirds[: int(rng.integers(2, 6))]), np.zeros(count))


def _melody(note: Callable[[Generator, float, int], np.ndarray]) -> Make:
    return lambda rng, count: _notes(rng, count, note, int(rng.integers(1, 4)))


def _band_music(rng: Generator, count: int) -> np.ndarray:
    lead = (_piano, _plucked, _bowed, _organ)[int(rng.integers(0, 4))]
    parts = [_notes(rng, count, lead, int(rng.integers(1, 4))), _drums(rng, count), _notes(rng, count, _bowed, 1)]
    return sum((rng.uniform(0.2, 1) * part / (part.std() + 1e-9) for part in parts), np.zeros(count))


def _beeps(rng: Generator, count: int) -> np.ndarray:
    low = rng.uniform(0.02, 0.3)
    sound = _harmonics(rng, _pitch(rng, 300, 4000), count, rng.uniform(6, 30), 4)
    return sound * _gates(rng, count, (low, 1.5 * low), (low, 2 * low))


def _dtmf(rng: Generator, count: int) -> np.ndarray:
    length, pause = round(rng.uniform(0.05, 0.3) * SAMPLING_RATE), round(rng.uniform(0.03, 0.2) * SAMPLING_RATE)
    total = np.zeros(count)
    for start in range(0, count, length + pause):
        size = min(length, count - start)
        row, column = rng.choice([697, 770, 852, 941]), rng.choice([1209, 1336, 1477, 1633])
        total[start : start + size] = _sine(float(row), size) + _sine(float(column), size)
    return total


def _call_tone(rng: Generator, count: int) -> np.ndarray:
    pair = ((350, 440), (440, 480), (480, 620), (425, 425), (400, 450))[int(rng.integers(0, 5))]
    on, off = ((0.2, 0.5), (0.2, 0.5)) if rng.random() < 0.6 else ((1, 2), (0.5, 2))
    gate = np.ones(count) if rng.random() < 0.3 else _gates(rng, count, on, off)
    return (_sine(float(pair[0]), count) + _sine(float(pair[1]), count)) * gate


def _morse(rng: Generator, count: int) -> np.ndarray:
    dot = rng.uniform(0.04, 0.12)
    return _sine(_pitch(rng, 400, 1200), count) * _gates(rng, count, (dot, 3 * dot), (dot, 3 * dot))


def _modem(rng: Generator, count: int) -> np.ndarray:
    symbol = max(8, round(SAMPLING_RATE / rng.uniform(30, 1200)))
    levels = rng.choice([1070.0, 1270.0, 2025.0, 2225.0][: int(rng.integers(2, 5))], count // symbol + 1)
    return _sine(np.repeat(levels, symbol)[:count], count)


def _birds(rng: Generator, count: int) -> np.ndarray:
    base, length = _pitch(rng, 1500, 5500), rng.uniform(0.04, 0.3)

    def chirp(rng: Generator, count: int) -> np.ndarray:
        track = base * 2 ** (0.4 * _slow(rng, count, rng.uniform(4, 30)))
        return _sine(np.clip(track, 800, 7500), count) * np.hanning(count)

    return _events(rng, count, rng.uniform(1.5, 8), chirp, length)


def _insects(rng: Generator, count: int) -> np.ndarray:
    carrier, rate = _pitch(rng, 2500, 7000), _pitch(rng, 8, 80)
    pulses = np.maximum(0, _sine(rate, count)) ** 2
    gate = _gates(rng, count, (0.1, 1.0), (0.05, 0.6))
    return _band(rng, _sine(carrier * (1 + 0.01 * _slow(rng, count, 50)), count), 2000, 7800) * pulses * gate


def _barks(rng: Generator, count: int) -> np.ndarray:
    pitch, resonance, length = _pitch(rng, 120, 700), _pitch(rng, 500, 1800), rng.uniform(0.08, 0.35)

    def bark(rng: Generator, count: int) -> np.ndarray:
        track = (
            pitch * (1 + 0.5 * np.sin(np.pi * np.linspace(0, 1, count) ** 0.7)) * (1 + 0.04 * _slow(rng, count, 60))
        )
        source = _harmonics(rng, track, count, rng.uniform(2, 6), 25) + 0.8 * rng.standard_normal(count)
        return (
            _band(rng, source, resonance / 1.8, resonance * 1.8)
            * np.hanning(2 * count)[count // 2 : count // 2 + count]
        )

    return _events(rng, count, rng.uniform(1, 4), bark, length, 0.5)


def _purr(rng: Generator, count: int) -> np.ndarray:
    rate = _pitch(rng, 18, 60) * (1 + 0.03 * _slow(rng, count, 3))
    pulses = np.maximum(0, _sine(rate, count)) ** 4
    return _band(rng, _colored(rng, count, 1), 60, 1500) * (0.1 + pulses) * (1.2 + _sine(rng.uniform(0.3, 1.2), count))


def _breaths(rng: Generator, count: int) -> np.ndarray:
    envelope = np.maximum(0.02, _sine(rng.uniform(0.3, 1.2), count, rng.uniform(0, 6))) ** 1.5
    return _band(rng, _colored(rng, count, 0.5), 300, _pitch(rng, 1500, 5000)) * envelope


def _near_silence(rng: Generator, count: int) -> np.ndarray:
    noise = _colored(rng, count, rng.uniform(0, 2)) + rng.uniform(0, 2) * _hum(rng, count)
    noise = _scaled(noise, rng.uniform(-78, -45))
    return np.round(noise * 32768) / 32768 if rng.random() < 0.5 else noise


KINDS: dict[str, tuple[str, Make]] = {
    "white": ("noise", _white),
    "pink": ("noise", _pink),
    "brown": ("noise", _brown),
    "blue": ("noise", _blue),
    "band_noise": ("noise", _band_noise),
    "swelling_noise": ("noise", _swelling_noise),
    "noise_bursts": ("noise", _noise_bursts),
    "hum": ("machine", _hum),
    "engine": ("machine", _engine),
    "drill": ("machine", _drill),
    "fan": ("machine", _fan),
    "wind": ("weather", _wind),
    "rain": ("weather", _rain),
    "waves": ("weather", _waves),
    "tone": ("tone", _tone),
    "tones": ("tone", _tones),
    "square_tone": ("tone", _square_tone),
    "vibrato": ("tone", _vibrato),
    "pulsing_tone": ("tone", _pulsing_tone),
    "sweep": ("glide", _sweep),
    "siren": ("glide", _siren),
    "glides": ("glide", _glides),
    "clicks": ("impact", _clicks),
    "crackle": ("impact", _crackle),
    "knocks": ("impact", _knocks),
    "typing": ("impact", _typing),
    "drums": ("impact", _drums),
    "chord": ("music", _chord),
    "piano": ("music", _melody(_piano)),
    "plucked": ("music", _melody(_plucked)),
    "bells": ("music", _melody(_bell)),
    "bowed": ("music", _melody(_bowed)),
    "organ": ("music", _melody(_organ)),
    "band_music": ("music", _band_music),
    "beeps": ("signal", _beeps),
    "dtmf": ("signal", _dtmf),
    "call_tone": ("signal", _call_tone),
    "morse": ("signal", _morse),
    "modem": ("signal", _modem),
    "birds": ("animal", _birds),
    "insects": ("animal", _insects),
    "barks": ("animal", _barks),
    "purr": ("animal", _purr),
    "breaths": ("breath", _breaths),
    "near_silence": ("near_silence", _near_silence),
}
"""Kind -> its family, and the function (random generator, number of samples) -> samples."""

FAMILIES = tuple(dict.fromkeys(family for family, _ in KINDS.values()))
