"""Examples for the page, spoken on the spot by eSpeak NG: short clips in both languages, and a longer one for the
timeline."""

import json
import os
from pathlib import Path

import numpy as np

from ..augmentation.tts import EMOTION_PROSODY, EspeakTextToSpeech
from ..flac import encode_flac
from ..model.audio_bibier import SAMPLING_RATE
from ..timeline.formats import clock
from .app import EXAMPLES_FILE

# (language, emotion of the prosody, voice, text)
SHORT = (
    ("en", "happy", "en-us+f4", "I got the job! I can't believe how lucky I am!"),
    ("en", "sad", "en-us+m4", "She left this morning, and she is not coming back."),
    ("ru", "anger", "ru+m4", "Сколько раз тебе повторять, прекрати немедленно!"),
    ("ru", "surprise", "ru+f4", "Не может быть! Ты правда приехал?"),
)

LONG = (
    ("en", "neutral", "en+Andrea", "The train leaves at nine, and we have the tickets in the blue folder."),
    ("en", "neutral", "en+Alex", "My brother called the office an hour ago and asked about the boxes."),
    (
        "en",
        "fear",
        "en+Andrea",
        "Wait, did you hear that? Somebody is at the door. I am scared, please don't open it!",
    ),
    ("en", "anger", "en+Alex", "How dare you come here again! Get out of my house right now!"),
    ("en", "anger", "en+Alex", "You promised, and you lied to me. I will not listen to this any longer!"),
    ("en", "sad", "en+Andrea", "I miss him so much. Nothing is the way it was before, and the house is so empty."),
    ("en", "happy", "en+Alex", "Look at this! They said yes! We are going to the sea, all of us, on Friday!"),
)
"""A made-up scene that changes its mood."""

SCENE = LONG[0][3].partition(",")[0]
"""Start of the scene, which is its name on the page."""

_PAUSE_S = 0.4


def write_examples(folder: str | os.PathLike) -> Path:
    """Speak the examples into a folder and list them in [`EXAMPLES_FILE`].

    Returns:
        the folder.

    Raises:
        SynthesisError: eSpeak is not installed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tts = EspeakTextToSpeech()

    def speak(language: str, emotion: str, voice: str, text: str) -> np.ndarray:
        return tts.synthesize(text, language=language, voice=voice, prosody=EMOTION_PROSODY[emotion])

    entries: list[dict[str, str]] = []
    for language, emotion, voice, text in SHORT:
        name = f"{language}_{emotion}.flac"
        (folder / name).write_bytes(encode_flac(speak(language, emotion, voice, text), "synthetic"))
        entries.append({"audio": name, "text": text, "name": f"{language}: {text}"})

    pause = np.zeros(round(_PAUSE_S * SAMPLING_RATE), np.float32)
    scene = np.concatenate([part for line in LONG for part in (speak(*line), pause)])
    (folder / "en_scene.flac").write_bytes(encode_flac(scene, "synthetic"))
    duration = clock(round(len(scene) / SAMPLING_RATE))
    entries.append({"audio": "en_scene.flac", "text": "", "name": f"en, {duration}: {SCENE} ..."})

    (folder / EXAMPLES_FILE).write_text(json.dumps(entries, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return folder
