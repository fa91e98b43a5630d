"""Disturbances: each does what it says, and depends on seed, id and clip only."""

import io

import numpy as np
import pytest
import soundfile
import soxr

from bibier_hf.data.disturbances import (
    KINDS,
    MP3_RATES,
    STANDARD_CONDITIONS,
    DisturbanceSection,
    disturb,
    encode,
    mp3_options,
    opus_options,
    parse,
)
from bibier_hf.errors import ArgumentError

RATE = 16_000


def speech_like(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Syllables of noisy harmonics up to 7 kHz, with pauses."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    voice = sum(np.sin(2 * np.pi * (140 + 10 * seed) * number * time) / number**0.5 for number in range(1, 45))
    envelope = np.clip(np.sin(2 * np.pi * 3 * time), 0.02, None)
    return (0.05 * envelope * (voice + 0.5 * generator.standard_normal(len(time)))).astype(np.float32)


VOICES = [speech_like(1.0 + number / 4, number + 1) for number in range(8)]


def disturbed(what: str, samples: np.ndarray | None = None, **options) -> np.ndarray:
    options = {"voices": VOICES} | options
    return disturb(speech_like() if samples is None else samples, RATE, what, **options)


def level_db(samples: np.ndarray) -> float:
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))


def band_db(samples: np.ndarray, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    return 10 * np.log10(power[(frequencies >= low) & (frequencies < high)].mean())


@pytest.mark.parametrize("what", ["white:20", "white:-5", "babble:10", "babble:0"])
def test_noise_has_the_ratio_that_was_asked_for(what):
    clean = speech_like()
    noise = disturbed(what).astype(np.float64) - clean
    assert level_db(clean) - level_db(noise) == pytest.approx(float(what.partition(":")[2]), abs=0.02)


def test_babble_is_made_of_the_voices():
    voices = [np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE) for frequency in (500, 900, 1300)]
    noise = disturbed("babble:0", voices=voices) - speech_like()
    powers = [band_db(noise, frequency - 5, frequency + 5) for frequency in (500, 900, 1300)]
    assert max(powers) - min(powers) < 0.5  # equal powers
    assert min(powers) > band_db(noise, 600, 800) + 30


def test_babble_reads_only_what_it_draws():
    class Pool(list):
        def __getitem__(self, index):
            read.append(int(index))
            return super().__getitem__(index)

    read: list[int] = []
    disturbed("babble:10", voices=Pool(VOICES * 5))
    assert len(read) == len(set(read)) == 6


def test_gain_changes_the_level_and_stops_at_full_scale():
    clean = speech_like()
    np.testing.assert_allclose(disturbed("gain:-20"), clean / 10, atol=1e-7)
    loud = disturbed("gain:30")
    assert np.abs(loud).max() == 1 < np.abs(clean).max() * 10**1.5


def test_clipping_cuts_off_the_share_that_was_asked_for():
    clean, clipped = speech_like(), disturbed("clip:10")
    limit = np.abs(clipped).max()
    assert np.mean(np.abs(clean) >= limit) == pytest.approx(0.1, abs=0.002)
    kept = np.abs(clean) < limit
    np.testing.assert_array_equal(clipped[kept], clean[kept])


@pytest.mark.parametrize("what", ["band8k", "g711"])
def test_a_narrow_band_ends_at_4_khz(what):
    clean, narrow = speech_like(), disturbed(what)
    assert band_db(clean, 4500, 7000) - band_db(narrow, 4500, 7000) > 30
    assert band_db(clean, 300, 3000) - band_db(narrow, 300, 3000) == pytest.approx(0, abs=0.3)


def test_g711_adds_the_noise_of_8_bits():
    band, phone = disturbed("band8k"), disturbed("g711")
    assert 25 < level_db(band) - level_db(phone - band) < 45  # mu-law: about 37 dB


@pytest.mark.parametrize("kbit_s", MP3_RATES)
def test_mp3_has_the_rate_that_was_asked_for(kbit_s):
    file = encode(speech_like(10), RATE, **mp3_options(kbit_s))
    assert soundfile.info(io.BytesIO(file)).subtype == "MPEG_LAYER_III"
    assert len(file) * 8 / 10 / 1000 == pytest.approx(kbit_s, rel=0.05)


@pytest.mark.parametrize("kbit_s", [6, 8, 12, 16, 24, 32, 64])
def test_opus_has_the_rate_that_was_asked_for(kbit_s):
    file = encode(speech_like(10), RATE, **opus_options(kbit_s))
    assert soundfile.info(io.BytesIO(file)).subtype == "OPUS"
    assert len(file) * 8 / 10 / 1000 == pytest.approx(kbit_s, rel=0.3, abs=1.5)  # variable, with the pages of the file


@pytest.mark.parametrize("what", [*(f"mp3:{rate}" for rate in MP3_RATES), "opus:8", "opus:32", "g711"])
def test_codecs_keep_time(what):
    clean, heard = speech_like(), disturbed(what)
    correlation = np.fft.irfft(np.fft.rfft(heard, 4 * RATE) * np.conj(np.fft.rfft(clean, 4 * RATE)))
    shift = int(np.argmax(correlation))
    assert min(shift, 4 * RATE - shift) <= 1
    assert not np.array_equal(heard, clean)


def test_a_lower_rate_is_worse():
    clean = speech_like()
    for codec, rates in (("mp3", (64, 32, 16)), ("opus", (32, 16, 8))):
        ratios = [level_db(clean) - level_db(disturbed(f"{codec}:{rate}") - clean) for rate in rates]
        assert ratios == sorted(ratios, reverse=True), codec


@pytest.mark.parametrize("rt60", [0.2, 0.5, 1.0])
def test_reverberation_decays_by_60_db_in_its_time(rt60):
    impulse = np.zeros(2 * RATE, np.float32)
    impulse[0] = 1
    response = disturbed(f"reverb:{rt60}", impulse)[1:].astype(np.float64)
    energy = 10 * np.log10(np.cumsum(response[::-1] ** 2)[::-1] + 1e-30)
    places = np.flatnonzero((energy < energy[0] - 5) & (energy > energy[0] - 25))
    slope = np.polyfit(places / RATE, energy[places], 1)[0]
    assert -60 / slope == pytest.approx(rt60, rel=0.05)
    assert level_db(disturbed(f"reverb:{rt60}")) == pytest.approx(level_db(speech_like()), abs=0.01)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_changes_length_and_pitch(factor):
    time = np.arange(2 * RATE) / RATE
    heard = disturbed(f"speed:{factor}", np.sin(2 * np.pi * 1000 * time))
    assert len(heard) == pytest.approx(2 * RATE / factor, abs=2)
    peak = np.abs(np.fft.rfft(heard)).argmax() * RATE / len(heard)
    assert peak == pytest.approx(1000 * factor, abs=1)


def test_several_follow_each_other():
    chain = disturbed("gain:-6+g711")
    np.testing.assert_array_equal(chain, disturbed("g711", disturbed("gain:-6")))


@pytest.mark.parametrize("what", STANDARD_CONDITIONS)
def test_the_same_seed_and_id_give_the_same_clip(what):
    first, again = disturbed(what, seed=3, clip="a"), disturbed(what, seed=3, clip="a")
    assert first.dtype == np.float32
    assert first.tobytes() == again.tobytes()
    drawn = what.partition(":")[0] in ("white", "babble", "reverb")
    for options in ({"seed": 4, "clip": "a"}, {"seed": 3, "clip": "b"}):
        assert np.array_equal(first, disturbed(what, **options)) != drawn


def test_every_level_adds_the_same_noise():
    clean = speech_like().astype(np.float64)
    loud, quiet = (disturbed(what) - clean for what in ("white:0", "white:20"))
    np.testing.assert_allclose(loud, 10 * quiet, atol=1e-5)


@pytest.mark.parametrize("what", STANDARD_CONDITIONS)
@pytest.mark.parametrize("length", [1, 7, 400])
def test_short_and_silent_clips_stay_usable(what, length):
    for clip in (np.zeros(length, np.float32), speech_like()[:length]):
        heard = disturbed(what, clip)
        assert heard.ndim == 1
        assert len(heard) >= 1
        assert np.isfinite(heard).all()


@pytest.mark.parametrize("what", STANDARD_CONDITIONS)
def test_other_rates_are_kept(what):
    clean = soxr.resample(speech_like(), RATE, 48_000)
    heard = disturb(clean, 48_000, what, voices=VOICES)
    assert len(heard) == pytest.approx(len(clean) / (0.9 if what.startswith("speed") else 1), abs=2)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("whit:20", "Did you mean white"),
        ("white", "give a strength, such as white:20"),
        ("white:loud", "give a strength"),
        ("white:500", "from -10 to 100"),
        ("g711:3", "has no strength. Write g711"),
        ("mp3:33", "8, 16, 24, 32"),
        ("white:20+", "unknown name"),
        ("white:5..30", "give a strength"),
    ],
)
def test_what_cannot_be_read_is_refused(what, message):
    with pytest.raises(ArgumentError, match=message):
        disturbed(what)


def test_babble_needs_voices():
    with pytest.raises(ArgumentError, match="needs other clips"):
        disturbed("babble:10", voices=[])


def test_every_kind_has_a_standard_condition():
    assert {condition.partition(":")[0] for condition in STANDARD_CONDITIONS} == set(KINDS)
    assert len(STANDARD_CONDITIONS) == len(KINDS)


# --- random draws ---------------------------------------------------------------------------------------------------


def test_draws_stay_in_their_range_and_cover_all_kinds():
    section = DisturbanceSection(
        kinds=["white:10..20", "mp3:16..40", "reverb", "g711", "gain:-6", "speed:0.9..1.1+g711"]
    )
    names = [f"clip-{number}" for number in range(400)]
    drawn = [section.draw(name, 1) for name in names]
    for text in drawn:
        step = parse(text)[0]
        low, high = {
            "white": (10, 20),
            "mp3": (16, 40),
            "reverb": (0.1, 0.8),
            "gain": (-6, -6),
            "speed": (0.9, 1.1),
        }.get(step.name, (None, None))
        assert low is None or low <= step.low <= high
    assert {text for text in drawn if text.startswith("mp3")} == {"mp3:16", "mp3:24", "mp3:32", "mp3:40"}
    assert {parse(text)[0].name for text in drawn} == {"white", "mp3", "reverb", "g711", "gain", "speed"}
    assert drawn == [section.draw(name, 1) for name in names]
    assert drawn != [section.draw(name, 2) for name in names]


def test_the_probability_is_the_share_of_disturbed_clips():
    section = DisturbanceSection(probability=0.3)
    share = np.mean([section.is_disturbed(f"clip-{number}", 5) for number in range(4000)])
    assert share == pytest.approx(0.3, abs=0.03)
    assert all(DisturbanceSection(probability=1.0).is_disturbed(f"{number}", 0) for number in range(50))


@pytest.mark.parametrize(
    ("kinds", "message"),
    [(["pink:3"], "unknown name"), (["white:30..5"], "the lower end of the range first"), (["mp3:33..39"], "allowed")],
)
def test_a_section_with_unknown_kinds_is_refused(kinds, message):
    with pytest.raises(ValueError, match=message):
        DisturbanceSection(kinds=kinds)
