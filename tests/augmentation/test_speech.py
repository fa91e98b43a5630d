"""Speech beyond one utterance: other back ends, checks, and corpora of utterances that survive failures and
interruptions."""

import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import VitsConfig, VitsModel, VitsTokenizer

from bibier_hf.asr import SpeechRecognizer
from bibier_hf.augmentation.tts import EMOTION_PROSODY, SynthesisError, TextToSpeech, Utterance, get_tts
from bibier_hf.augmentation.tts.checks import SpeechChecks, word_error_rate
from bibier_hf.augmentation.tts.corpus import speak_all
from bibier_hf.flac import SOURCE_MARKS
from bibier_hf.model.audio_bibier import decode_audio

TONE = (0.3 * np.sin(np.arange(16_000) / 8)).astype(np.float32)
HELLO = Utterance("Hello there, (sighs) you.", "en", id="hello")


class Scripted(TextToSpeech):
    """Speaks a tone as long as the text; fails on texts that say so, as often as they say."""

    languages = ("en",)
    settings = {"backend": "scripted"}

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.spoken: list[tuple[str, int]] = []
        self.interrupt_at = interrupt_at

    def speak(self, utterance: Utterance) -> np.ndarray:
        if len(self.spoken) == self.interrupt_at:
            raise KeyboardInterrupt
        attempt = sum(name == utterance.id for name, _ in self.spoken)
        self.spoken.append((utterance.id, utterance.seed))
        if utterance.text.startswith("error") and attempt < int(utterance.text[-1]):
            raise SynthesisError("the back end stumbled")
        if utterance.text.startswith("silence"):
            return np.zeros(16_000, np.float32)
        return np.tile(TONE, 1 + len(utterance.text) % 2)


def utterances(*texts: str) -> list[Utterance]:
    return [Utterance(text, "en", id=f"u{number}") for number, text in enumerate(texts)]


# Checks


@pytest.mark.parametrize(
    ("samples", "fault"),
    [
        (TONE, None),
        (TONE[:3_000], r"0\.19 s long; 0\.3 to 15\.0 s are allowed"),
        (np.tile(TONE, 16), r"16\.00 s long"),
        (np.zeros(16_000, np.float32), "silence"),
        (TONE * 0.001, "silence"),
        (np.concatenate([TONE, np.zeros(48_000, np.float32), TONE]), r"a pause of 3\.0 s; 2\.0 s are allowed"),
        (np.concatenate([np.zeros(48_000, np.float32), TONE]), None),  # silence before the first word is no pause
        (np.clip(TONE * 10, -1, 1), r"% of the samples clipped; 1\.0% are allowed"),
    ],
)
def test_each_check_names_what_is_wrong(samples, fault):
    found = SpeechChecks().fault(samples, HELLO)
    if fault is None:
        assert found is None
    else:
        assert re.search(fault, found), found


@pytest.mark.parametrize(
    ("reference", "heard", "rate"),
    [
        ("Hello there, you.", "hello there you", 0.0),
        ("Всё хорошо!", "все хорошо", 0.0),
        ("I can't go home now", "I cant go now", 0.2),
        ("one two three four", "one too three for five", 0.75),
        ("one two", "", 1.0),
    ],
)
def test_word_error_rates_by_hand(reference, heard, rate):
    assert word_error_rate(reference, heard) == pytest.approx(rate)


def test_a_recognizer_may_listen(monkeypatch):
    heard = {"en": "hello there you"}
    monkeypatch.setattr(SpeechRecognizer, "__call__", lambda self, clips, language: [heard[language] for _ in clips])
    checks = SpeechChecks(max_wer=0.3)
    assert checks.fault(TONE, HELLO) is None
    heard["en"] = "yellow bear shoe"
    assert "a word error rate of 1.00, heard as 'yellow bear shoe'; 0.3 is allowed" in checks.fault(TONE, HELLO)
    assert checks.recognizer.model == "openai/whisper-base"
    with pytest.raises(ValueError, match="max_wer\n  Input should be greater than or equal to 0"):
        SpeechChecks(max_wer=-1.0)


# Corpora of utterances


def test_what_fails_is_tried_again_then_listed_and_left_out(tmp_path):
    tts = Scripted()
    files, failures = speak_all(
        utterances("fine", "error 1", "error 9", "silence", "good"), tts, tmp_path, batch_size=2, seed=7
    )
    assert list(files) == ["u0", "u1", "u4"]
    assert [(failure.utterance.id, failure.reason.split(":")[0]) for failure in failures] == [
        ("u2", "the back end stumbled"),
        ("u3", "silence"),
    ]
    assert tts.spoken.count(("u0", 7)) == 1
    assert [seed for name, seed in tts.spoken if name == "u2"] == [7, 8, 9]
    for path in files.values():
        with soundfile.SoundFile(path) as file:
            assert file.comment == SOURCE_MARKS["synthetic"]
            assert (file.samplerate, file.channels) == (16_000, 1)
    assert {path.name for path in tmp_path.rglob("*.flac")} == {"u0.flac", "u1.flac", "u4.flac"}


def test_an_interrupted_run_goes_on_and_other_texts_start_anew(tmp_path):
    wanted = utterances("a", "bb", "ccc", "dddd")
    with pytest.raises(KeyboardInterrupt):
        speak_all(wanted, Scripted(interrupt_at=3), tmp_path, batch_size=1)
    again = Scripted()
    files, failures = speak_all(wanted, again, tmp_path, batch_size=1)
    assert [name for name, _ in again.spoken] == ["u3"]
    assert len(files) == 4
    assert failures == []
    whole = speak_all(wanted, Scripted(), tmp_path / "whole")[0]
    assert {name: path.read_bytes() for name, path in files.items()} == {
        name: path.read_bytes() for name, path in whole.items()
    }
    other = Scripted()
    speak_all(utterances("a", "bb", "ccc", "eeee"), other, tmp_path)
    assert len(other.spoken) == 4


def test_nothing_that_can_be_spoken_and_other_mistakes_are_errors(tmp_path):
    with pytest.raises(
        SynthesisError, match=r"None of 2 utterances could be spoken\. The first: the back end stumbled"
    ):
        speak_all(utterances("error 9", "error 8"), Scripted(), tmp_path)
    with pytest.raises(SynthesisError, match="does not speak ru; it speaks en"):
        speak_all([Utterance("а", "ru", id="a")], Scripted(), tmp_path)
    with pytest.raises(SynthesisError, match="unique id"):
        speak_all([HELLO, HELLO], Scripted(), tmp_path)


# The command back end

PROGRAM = """
import sys, numpy, soundfile
text, output, rate, seed = sys.argv[1:]
open(sys.argv[0] + ".log", "a").write(repr((text, rate, seed)) + chr(10))
if "fail" in text:
    sys.exit("no such voice")
if "empty" not in text:
    soundfile.write(output, 0.3 * numpy.sin(numpy.arange(8000 * len(text.split())) / 8), 8000)
"""


@pytest.fixture
def program(tmp_path) -> Path:
    path = tmp_path / "my tts.py"
    path.write_text(PROGRAM)
    return path


def command(program: Path, **options) -> TextToSpeech:
    template = f"{shlex.quote(sys.executable)} {shlex.quote(str(program))} {{text}} {{output}} {{rate_wpm}} {{seed}}"
    return get_tts("command", template=template, **options)


def test_a_command_speaks_and_no_text_can_break_out_of_it(program):
    nasty = 'a\'; touch "/tmp/x" $(id) {output} `b` | & \\ end'
    samples = command(program, seed=3).synthesize(nasty, language="en", prosody=EMOTION_PROSODY["sad"])
    assert len(samples) == 16_000 * len(nasty.split())
    (line,) = Path(f"{program}.log").read_text().splitlines()
    assert line == repr((nasty, "112", "3"))


def test_settings_name_no_folder_of_this_machine(program, tiny_vits):
    settings = command(program).settings, get_tts("transformers", model=str(tiny_vits)).settings
    assert not any(
        str(folder) in json.dumps(settings)
        for folder in (program.parent, tiny_vits.parent, Path(sys.executable).parent)
    )
    assert settings[1]["model"] == tiny_vits.name


def test_what_speech_depends_on_is_in_the_settings(program, tiny_vits, tmp_path):
    """Files of another content under the same name never share clips."""
    before = command(program).settings
    assert command(program, suffix=".flac").settings != before
    assert command(program, jobs=2).settings == before
    program.write_text(PROGRAM + "\n# another version")
    assert command(program).settings != before

    folder = tmp_path / tiny_vits.name
    shutil.copytree(tiny_vits, folder)
    first = get_tts("transformers", model=str(tiny_vits)).settings
    assert get_tts("transformers", model=str(folder)).settings == first
    (folder / "generation_config.json").write_text("{}")
    assert get_tts("transformers", model=str(folder)).settings != first

    def checks():
        return SpeechChecks(max_wer=0.5, asr_model=str(folder)).settings

    heard = checks()
    assert str(tmp_path) not in json.dumps(heard)
    (folder / "generation_config.json").write_text('{"do_sample": false}')
    assert checks() != heard


def test_sound_tags_are_handed_over_or_left_out(program):
    assert len(command(program).speak(HELLO)) == 16_000 * 3
    assert len(command(program, sound_tags=True).speak(HELLO)) == 16_000 * 4


def test_several_commands_at_once_keep_the_order(program):
    spoken = command(program, jobs=3).speak_batch(utterances("one", "please fail", "one two three"))
    assert [len(samples) if not isinstance(samples, SynthesisError) else None for samples in spoken] == [
        16_000,
        None,
        48_000,
    ]
    assert "ended with code 1" in str(spoken[1])
    assert "no such voice" in str(spoken[1])


def test_what_a_command_does_wrong_is_said(program):
    with pytest.raises(SynthesisError, match="left no audio"):
        command(program).synthesize("empty", language="en")
    with pytest.raises(SynthesisError, match="no program 'no-such-tts'"):
        get_tts("command", template="no-such-tts {text} {output}").synthesize("a", language="en")
    with pytest.raises(SynthesisError, match=r"Needed: \{text\}, \{output\}"):
        get_tts("command", template="mytts {text}")
    with pytest.raises(SynthesisError, match=r"placeholders \['output', 'speed', 'text'\].*allowed: \{text\}"):
        get_tts("command", template="mytts {text} {output} {speed}")
    with pytest.raises(SynthesisError, match="unexpected keyword argument 'model'"):
        get_tts("command", template="mytts {text} {output}", model="x")
    with pytest.raises(SynthesisError, match="missing 1 required positional argument: 'template'"):
        get_tts("command")


# Models of transformers


@pytest.fixture(scope="module")
def tiny_vits(tmp_path_factory) -> Path:
    """A random VITS of a few thousand parameters, as a folder that the pipeline loads."""

    folder = tmp_path_factory.mktemp("vits")
    letters = "_ abcdefghijklmnopqrstuvwxyz'-"
    (folder / "letters.json").write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
    tokenizer = VitsTokenizer(
        str(folder / "letters.json"), pad_token="_", normalize=True, phonemize=False, is_uroman=False
    )
    torch.manual_seed(0)
    config = VitsConfig(
        vocab_size=len(letters),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=16,
        flow_size=16,
        spectrogram_bins=9,
        upsample_initial_channel=16,
        upsample_rates=[8, 8],
        upsample_kernel_sizes=[16, 16],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
        prior_encoder_num_flows=1,
        prior_encoder_num_wavenet_layers=1,
        posterior_encoder_num_wavenet_layers=1,
        duration_predictor_num_flows=1,
        duration_predictor_filter_channels=16,
        wavenet_dilation_rate=1,
        depth_separable_num_layers=1,
        sampling_rate=8_000,
    )
    VitsModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_model_of_the_pipeline_speaks_the_same_for_the_same_seed(tiny_vits):
    tts = get_tts("transformers", model=str(tiny_vits))
    before = np.random.get_state()[1][0], torch.random.get_rng_state()
    first = tts.speak(HELLO)
    assert first.dtype == np.float32
    assert first.ndim == 1
    assert len(first) > 100
    tts.synthesize("something else", language="en")
    assert tts.speak(HELLO).tobytes() == first.tobytes()
    assert tts.synthesize(HELLO.text, language="en", seed=1).tobytes() != first.tobytes()
    assert torch.equal(before[1], torch.random.get_rng_state())
    with pytest.raises(SynthesisError, match="nothing to say"):
        tts.synthesize("(sighs)...", language="en")


def test_sound_tags_are_spelled_as_the_model_knows_them(tiny_vits):
    tts = get_tts("transformers", model=str(tiny_vits))
    text = "(sighs) Well, (laughs)sure (I mean it)."
    assert tts.prompt(text) == "Well, sure (I mean it)."
    tts.sound_tags, tts.speaker = {"sighs": "[sighs]"}, ""
    assert tts.prompt(text) == "[sighs] Well, sure (I mean it)."
    from bibier_hf.augmentation.tts.transformers_tts import SOUND_TAG_SPELLINGS

    tts.sound_tags, tts.speaker = SOUND_TAG_SPELLINGS["dia"], "[S1]"
    assert tts.prompt(text) == "[S1] (sighs) Well, (laughs) sure (I mean it)."


def test_a_model_that_is_not_there_or_does_not_speak_is_refused(tmp_path):
    with pytest.raises(SynthesisError, match="cannot be loaded for text-to-audio"):
        get_tts("transformers", model=str(tmp_path / "nowhere"))
    with pytest.raises(SynthesisError, match="unexpected keyword argument 'voice'"):
        get_tts("transformers", voice="x")


def test_speech_of_a_model_becomes_a_corpus(tiny_vits, tmp_path):
    tts = get_tts("transformers", model=str(tiny_vits))
    checks = SpeechChecks(min_s=0.0, min_level_db=-120.0, max_clipped=1.0)  # a random model hums softly
    files, failures = speak_all(utterances("good morning", "(sighs)", "well then"), tts, tmp_path, checks)
    assert list(files) == ["u0", "u2"]
    assert "nothing to say" in failures[0].reason
    assert len(decode_audio(io.BytesIO(files["u0"].read_bytes()).getvalue())) > 100
