"""eSpeak NG (GPL-3.0) from the wheel `espeakng-loader`: offline speech in English and Russian.

A formant synthesizer whose rate, pitch, pitch range and loudness express the emotion: a caricature of emotional
speech, good for tests and for trying out a system, not for claims about people.
"""

import atexit
import ctypes
import functools
import os
import shutil
import sys
import threading
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...files import temporary_folder
from ...interrupts import deferred_signals
from ...model.audio_bibier import decode_audio
from ..tug import strip_sound_tags
from .base import Prosody, SynthesisError, TextToSpeech, Utterance


class EspeakTextToSpeech(TextToSpeech):
    """eSpeak NG in this process, through ctypes.

    The library keeps state between utterances (phases, random numbers, voice data) that no function resets, so that
    the same utterance would sound slightly different each time. It is therefore reloaded for every utterance, which
    takes about 5 ms, from a private copy, since another user of the same file in this process would keep it loaded. It
    speaks one utterance at a time.

    Args:
        seed: seed of the library's random numbers (breath, jitter).
    """

    _DEFAULT_VOICES = {"en": "en-us", "ru": "ru"}
    languages = tuple(_DEFAULT_VOICES)
    _lock = threading.Lock()

    def __init__(self, seed: int = 42) -> None:
        self.seed = seed
        _espeak_files()  # so that it fails now and not in the middle of a corpus

    @property
    def variants(self) -> tuple[str, ...]:
        """Voice variants (`f3`, `m1`, `Andrea`, ...) that may follow the "+" of a voice."""
        folder = _espeak_files().data / "voices" / "!v"
        return tuple(sorted(path.name for path in folder.iterdir() if " " not in path.name))

    @property
    def settings(self) -> dict[str, Any]:
        return {"backend": "espeak", "version": metadata.version("espeakng-loader"), "seed": self.seed}

    def speak(self, utterance: Utterance) -> np.ndarray:
        """Speak one utterance; a voice is `<accent>` or `<accent>+<variant>`, such as `en-gb+f2` or `ru+m3`."""
        text, language = utterance.text, utterance.language
        if language not in self._DEFAULT_VOICES:
            raise SynthesisError(f"espeak: unknown language {language!r}. Allowed: {', '.join(self._DEFAULT_VOICES)}.")

        voice = utterance.voice or self._DEFAULT_VOICES[language]
        accent, _, variant = voice.partition("+")
        if accent.split("-")[0] != language:
            raise SynthesisError(f"espeak: the voice {voice!r} does not speak {language!r}.")
        # The library accepts an unknown variant and speaks with the plain voice.
        if variant and variant not in self.variants:
            raise SynthesisError(f"espeak: unknown voice variant {variant!r}. Allowed: {', '.join(self.variants)}.")

        spoken = strip_sound_tags(text)
        if not any(character.isalnum() for character in spoken):
            raise SynthesisError(f"espeak: there is nothing to say in {text!r}.")
        if "\0" in spoken:
            raise SynthesisError(f"espeak: the text {text!r} holds a null character.")

        seed = self.seed if utterance.seed is None else utterance.seed
        with self._lock, deferred_signals():
            pcm, rate = _speak(_espeak_files(), spoken, voice, utterance.prosody, seed)

        samples = np.frombuffer(pcm, dtype=np.int16)
        if not samples.any():
            raise SynthesisError(f"espeak: no sound came out for {text!r} with the voice {voice!r}.")
        return decode_audio(samples, sampling_rate=rate)


class _EspeakFiles(NamedTuple):
    library: Path
    data: Path


@functools.cache
def _espeak_files() -> _EspeakFiles:
    """Return a private copy of the shared library, and the data folder under a path that is short enough for it."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise SynthesisError(
            "Speech synthesis with espeak needs the package espeakng-loader: pip install 'bibier-hf[tts]'"
        ) from error

    library, data = Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())
    folder = temporary_folder("bibier-espeak")
    private = folder.__enter__()
    atexit.register(_remove, folder, os.getpid())
    copy = private / library.name
    shutil.copyfile(library, copy)
    if len(os.fsencode(data)) > 120:  # the library truncates paths to 160 bytes
        link = private / "espeak-ng-data"
        link.symlink_to(data, target_is_directory=True)
        data = link

    return _EspeakFiles(copy, data)


def _remove(folder: AbstractContextManager, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked child that exits
        folder.__exit__(None, None, None)


# Constants of espeak-ng/speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_PARAMETERS = {"rate_wpm": 1, "volume": 2, "pitch": 3, "pitch_range": 4}
_SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def _speak(files: _EspeakFiles, text: str, voice: str, prosody: Prosody, seed: int) -> tuple[bytes, int]:
    """Return 16-bit mono samples and the rate in Hz of one utterance, by a freshly loaded library."""
    chunks: list[bytes] = []
    errors: list[Exception] = []

    def collect(samples: Any, count: int, _events: Any) -> int:
        # ctypes would print an exception and continue, and the clip would lack a part.
        try:
            if samples and count > 0:
                chunks.append(ctypes.string_at(samples, count * 2))
        except Exception as error:
            errors.append(error)
        return len(errors)  # nonzero stops the synthesis

    callback = _SYNTH_CALLBACK(collect)  # must outlive the synthesis
    library = ctypes.CDLL(str(files.library))
    try:
        library.espeak_Synth.argtypes = [
            ctypes.c_char_p,  # text
            ctypes.c_size_t,  # its size with the final null
            ctypes.c_uint,  # position
            ctypes.c_int,  # position type
            ctypes.c_uint,  # end position
            ctypes.c_uint,  # flags
            ctypes.c_void_p,  # unique identifier
            ctypes.c_void_p,  # user data
        ]
        library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(files.data), _INITIALIZE_DONT_EXIT)
        if rate <= 0:
            raise SynthesisError(
                f"espeak: the library could not read its data in {files.data}. Reinstall espeakng-loader."
            )

        try:
            library.espeak_SetSynthCallback(callback)
            library.espeak_ng_SetRandSeed(seed)
            _check(library.espeak_SetVoiceByName(voice.encode()), f"the voice {voice!r} is not known")
            for name, parameter in _PARAMETERS.items():
                _check(library.espeak_SetParameter(parameter, getattr(prosody, name), 0), f"{prosody} was refused")
            encoded = text.encode()
            statuses = [
                library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _CHARS_UTF8, None, None),
                library.espeak_Synchronize(),
            ]
            if errors:
                raise errors[0]
            _check(max(statuses, key=abs), f"{text!r} could not be spoken")
        finally:
            library.espeak_Terminate()
    finally:
        _unload(library)
    return b"".join(chunks), rate


def _check(status: int, problem: str) -> None:
    if status != 0:
        raise SynthesisError(f"espeak: {problem} (status {status}).")


def _unload(library: ctypes.CDLL) -> None:
    import _ctypes  # ctypes itself offers no way to unload

    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)
