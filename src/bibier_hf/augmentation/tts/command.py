"""Speech by any program, through a template of its command line."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...files import temporary_folder
from ...model.audio_bibier import AudioError, decode_audio
from ..tug import strip_sound_tags
from .base import Prosody, SynthesisError, TextToSpeech, Utterance

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class CommandTextToSpeech(TextToSpeech):
    """Runs a program for every utterance, without a shell: texts may contain quotes, dollars and semicolons.

    Args:
        template: command line with `{text}` and `{output}` (path of the audio file that it must write), and optionally
            `{language}`, `{voice}`, `{emotion}`, `{seed}` and the fields of `Prosody`:
            `"mytts --text={text} --rate {rate_wpm} --out {output}"`. Write `--text={text}` as one word if a text may
            begin with a dash.
        suffix: suffix of the file that it writes; many programs derive the format from it.
        sound_tags: keep tags such as "(sighs)" in the text; else they are left out.
        seed: value of `{seed}`.
        jobs: number of programs to run at once.
        timeout_s: time after which a program is stopped.

    Raises:
        SynthesisError: a template without `{text}` or `{output}`, or with unknown placeholders.
    """

    PLACEHOLDERS = ("text", "output", "language", "voice", "emotion", "seed", *Prosody.LIMITS)

    def __init__(
        self,
        template: str,
        suffix: str = ".wav",
        sound_tags: bool = False,
        seed: int = 42,
        jobs: int = 1,
        timeout_s: float = 120.0,
    ) -> None:
        found = set(_PLACEHOLDER.findall(template))
        if not {"text", "output"} <= found <= set(self.PLACEHOLDERS):
            allowed = ", ".join(f"{{{name}}}" for name in self.PLACEHOLDERS)
            raise SynthesisError(
                f"command: the template {template!r} has the placeholders {sorted(found)}. Needed: {{text}}, {{output}}; "
                f"allowed: {allowed}."
            )

        self.words = shlex.split(template)  # before filling it in, so that no text can add a word
        self.suffix = suffix
        self.sound_tags = sound_tags
        self.seed = seed
        self.jobs = jobs
        self.timeout_s = timeout_s

    @property
    def settings(self) -> dict[str, Any]:
        template = shlex.join(Path(word).name if os.path.isabs(word) else word for word in self.words)
        # Files in the template, such as a script or a voice, count by their content.
        paths = [shutil.which(self.words[0]), *(word.rpartition("=")[2] for word in self.words[1:])]
        files = {Path(path).name: _short_hash(path) for path in paths if path and os.path.isfile(path)}
        return {
            "backend": "command",
            "template": template,
            "files": files,
            "suffix": self.suffix,
            "sound_tags": self.sound_tags,
            "seed": self.seed,
        }

    def speak(self, utterance: Utterance) -> np.ndarray:
        """See `TextToSpeech.speak`."""
        text = utterance.text if self.sound_tags else strip_sound_tags(utterance.text)
        if "\0" in text:
            raise SynthesisError(f"command: the text {text!r} holds a null character.")
        with temporary_folder("bibier-tts") as folder:
            output = folder / f"speech{self.suffix}"
            values = asdict(utterance.prosody) | {
                "text": text,
                "output": output,
                "language": utterance.language,
                "voice": utterance.voice or "",
                "emotion": utterance.emotion or "",
                "seed": self.seed if utterance.seed is None else utterance.seed,
            }
            command = [_PLACEHOLDER.sub(lambda match: str(values[match[1]]), word) for word in self.words]

            try:
                done = subprocess.run(command, capture_output=True, timeout=self.timeout_s, check=False)
            except FileNotFoundError as error:
                raise SynthesisError(f"command: no program {command[0]!r}. Install it, or give its path.") from error
            except (OSError, subprocess.TimeoutExpired) as error:
                raise SynthesisError(f"command: {error}") from error

            if done.returncode != 0:
                last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
                raise SynthesisError(f"command: {command[0]} ended with code {done.returncode} on {text!r}: {last[0]}")
            try:
                return decode_audio(output)
            except (AudioError, FileNotFoundError) as error:
                raise SynthesisError(
                    f"command: {command[0]} left no audio in {{output}} for {text!r}: {error}"
                ) from error

    def speak_batch(self, utterances: Sequence[Utterance]) -> list[np.ndarray | SynthesisError]:
        """Speak several utterances, `jobs` at a time."""
        with ThreadPoolExecutor(self.jobs) as pool:
            return list(pool.map(self.try_to_speak, utterances))


def _short_hash(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
