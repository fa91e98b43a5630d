import ctypes
import pickle
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from bibier_hf.augmentation.tts import EMOTION_PROSODY, EspeakTextToSpeech, Prosody, SynthesisError, get_tts
from bibier_hf.augmentation.tts import espeak as espeak_module
from bibier_hf.model.labels_bibier import EMOTIONS

TEXT = "I can't believe you did this to me!"
RUSSIAN = "Не могу поверить, что это случилось!"


@pytest.fixture(scope="module")
def espeak() -> EspeakTextToSpeech:
    return get_tts("espeak")


@pytest.mark.parametrize(
    ("language", "text", "voice"),
    [("en", TEXT, None), ("ru", RUSSIAN, None), ("en", TEXT, "en+m3"), ("ru", RUSSIAN, "ru+f2")],
)
def test_speech_is_16_khz_mono_float(espeak, language, text, voice):
    samples = espeak.synthesize(text, language=language, voice=voice)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert 1.0 < len(samples) / 16_000 < 4.0
    assert 0.05 < np.abs(samples).max() <= 1.1


def test_an_utterance_is_the_same_whatever_was_spoken_before_and_at_once(espeak):
    def speak() -> bytes:
        return espeak.synthesize(RUSSIAN, language="ru", voice="ru+f1").tobytes()

    first = speak()
    for number in range(3):
        espeak.synthesize("Something else entirely. " * (number + 1), language="en", voice="en+croak")
        assert speak() == first
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(speak())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(results) == {first}


def test_the_seed_of_the_library_is_set():
    voices = [EspeakTextToSpeech(seed).synthesize(TEXT, language="en", voice="en+f3").tobytes() for seed in (1, 1, 2)]
    assert voices[0] == voices[1] != voices[2]


def test_prosody_is_heard(espeak):
    def speak(**values) -> np.ndarray:
        return espeak.synthesize(TEXT, language="en", prosody=Prosody(**values))

    assert len(speak(rate_wpm=120)) > 1.3 * len(speak(rate_wpm=220))
    assert np.std(speak(volume=30)) < 0.6 * np.std(speak(volume=80))
    assert voice_pitch(speak(pitch=80, pitch_range=10)) > 1.2 * voice_pitch(speak(pitch=20, pitch_range=10))


def voice_pitch(samples: np.ndarray) -> float:
    """Hz, median over frames of 64 ms of the highest peak of the autocorrelation between 60 and 400 Hz"""
    pitches = []
    for start in range(0, len(samples) - 1024, 512):
        frame = samples[start : start + 1024]
        if np.std(frame) > 0.02:
            correlation = np.correlate(frame, frame, "full")[1023:]
            pitches.append(16_000 / (40 + np.argmax(correlation[40:266])))
    return float(np.median(pitches))


def test_every_emotion_has_a_prosody_of_its_own():
    assert tuple(EMOTION_PROSODY) == EMOTIONS
    assert len(set(EMOTION_PROSODY.values())) == len(EMOTIONS)


def test_prosody_refuses_or_clips_what_is_out_of_range():
    with pytest.raises(ValueError, match=r"pitch=120 is outside 0\.\.99"):
        Prosody(pitch=120)
    assert Prosody.clipped(rate_wpm=1000, pitch=-3.2, pitch_range=49.6, volume=1) == Prosody(450, 0, 50, 10)


def test_sound_tags_are_not_read_aloud(espeak):
    plain = espeak.synthesize("I know.", language="en")
    tagged = espeak.synthesize("(clears throat) I know.", language="en")
    assert tagged.tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {"language": "en"}, "nothing to say"),
        ("...!", {"language": "en"}, "nothing to say"),
        ("(sighs)", {"language": "en"}, "nothing to say"),
        ("a\0b", {"language": "en"}, "null character"),
        (TEXT, {"language": "de"}, "Allowed: en, ru"),
        (TEXT, {"language": "en", "voice": "ru+f1"}, "does not speak 'en'"),
        (TEXT, {"language": "en", "voice": "en+nobody"}, "unknown voice variant 'nobody'"),
        (TEXT, {"language": "en", "voice": "en-mars"}, "'en-mars' is not known"),
    ],
)
def test_what_cannot_be_spoken_is_an_error(espeak, text, options, message):
    with pytest.raises(SynthesisError, match=message):
        espeak.synthesize(text, **options)


def test_silence_is_an_error(espeak, monkeypatch):
    monkeypatch.setattr(espeak_module, "_speak", lambda *arguments: (bytes(4000), 22_050))
    with pytest.raises(SynthesisError, match="no sound came out"):
        espeak.synthesize(TEXT, language="en")


@pytest.mark.parametrize(
    ("what_happens", "error"),
    [(lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt), (lambda: [][0], IndexError)],
)
def test_nothing_that_happens_in_the_callback_shortens_a_clip(espeak, monkeypatch, what_happens, error):
    whole = espeak.synthesize(TEXT, language="en")
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    copy, calls = ctypes.string_at, []

    def copies_and_more(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            what_happens()
        return copy(*arguments)

    monkeypatch.setattr(espeak_module.ctypes, "string_at", copies_and_more)
    try:
        with pytest.raises(error):
            espeak.synthesize(TEXT, language="en")
    finally:
        signal.signal(signal.SIGINT, previous)
        monkeypatch.undo()
    assert len(calls) >= 2
    assert np.array_equal(espeak.synthesize(TEXT, language="en"), whole)


def test_an_unknown_back_end_is_refused():
    with pytest.raises(SynthesisError, match="Allowed: espeak, transformers, command"):
        get_tts("espeek")


def test_a_back_end_travels_to_other_processes(espeak):
    copy = pickle.loads(pickle.dumps(espeak))
    assert copy.synthesize(TEXT, language="en").tobytes() == espeak.synthesize(TEXT, language="en").tobytes()


def test_a_long_path_of_the_installation_does_no_harm(espeak, tmp_path, monkeypatch):
    espeakng_loader = pytest.importorskip("espeakng_loader")
    usual = espeak.synthesize(TEXT, language="en").tobytes()
    long = tmp_path / ("x" * 100) / ("y" * 100) / "espeak-ng-data"
    long.parent.mkdir(parents=True)
    long.symlink_to(Path(espeakng_loader.get_data_path()), target_is_directory=True)
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(long))
    files = espeak_module._espeak_files.__wrapped__()
    assert len(str(files.data)) < 160
    monkeypatch.setattr(espeak_module, "_espeak_files", lambda: files)
    assert espeak.synthesize(TEXT, language="en").tobytes() == usual
