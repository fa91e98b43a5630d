"""Text to speech behind one small interface.

    tts = get_tts("espeak")
    samples = tts.synthesize("I can't believe it!", language="en", prosody=EMOTION_PROSODY["surprise"])
    # float32 (samples,) at 16 kHz

| back end | what speaks | emotion |
|---|---|---|
| `espeak` | eSpeak NG, in this process, offline, English and Russian | prosody |
| `transformers` | any model of the pipeline "text-to-audio": Dia, VITS, Bark, ... | what the model makes of text and sound tags |
| `command` | any program: `"mytts --text {text} --out {output}"` | prosody or the emotion's name, as the program takes them |
"""

import importlib
import inspect
from typing import Any

from .base import EMOTION_PROSODY, Prosody, SynthesisError, TextToSpeech, Utterance
from .espeak import EspeakTextToSpeech

__all__ = [
    "EMOTION_PROSODY",
    "TTS_BACKENDS",
    "EspeakTextToSpeech",
    "Prosody",
    "SynthesisError",
    "TextToSpeech",
    "Utterance",
    "get_tts",
]

TTS_BACKENDS = {
    "espeak": (".espeak", "EspeakTextToSpeech"),
    "transformers": (".transformers_tts", "TransformersTextToSpeech"),
    "command": (".command", "CommandTextToSpeech"),
}
"""Name -> module and class of every back end; the module is imported on first use."""


def get_tts(name: str = "espeak", **options: Any) -> TextToSpeech:
    """Create a speech back end.

    Args:
        name: key of `TTS_BACKENDS`.
        options: options of its class, such as `model` for `transformers` and `template` for `command`.

    Raises:
        SynthesisError: an unknown name, or a back end that cannot be used.
    """
    if name not in TTS_BACKENDS:
        raise SynthesisError(f"Unknown speech back end {name!r}. Allowed: {', '.join(TTS_BACKENDS)}.")
    module, attribute = TTS_BACKENDS[name]
    backend = getattr(importlib.import_module(module, __name__), attribute)

    try:
        return backend(**options)
    except TypeError as error:
        allowed = ", ".join(inspect.signature(backend).parameters)
        raise SynthesisError(f"Options of the speech back end {name!r}: {error}. Allowed: {allowed}.") from error
