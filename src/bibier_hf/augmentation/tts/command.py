"""Any program that speaks, by a template of its command line."""

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
    """A program that is started for every utterance, without a shell: a text can hold quotes, dollars and semicolons.

    Args:
        template: command line with `{text}` and `{output}` (path of the audio file that it must write), and as needed
            `{language}`, `{voice}`, `{emotion}`, `{seed}` and the fields of `Prosody`:
            `"mytts --text={text} --rate {rate_wpm} --out {output}"`. Write `--text={text}` in one word where a text
            may begin with a dash.
        suffix: of the file that it writes, which tells many programs the format.
        sound_tags: hand tags such as "(sighs)" over in the text; else they are left out.
        seed: for `{seed}`.
        jobs: programs that run at once.
        timeout_s: after which a program is ended.

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
        found = _PLACEHOLDER.findall(template)
        unknown = sorted(set(found) - set(self.PLACEHOLDERS))
        missing = sorted({"text", "output"} - set(found))
        if unknown or missing:
            fault = f"has the unknown placeholders {unknown}" if unknown else f"lacks {{{'}, {'.join(missing)}}}"
            raise SynthesisError(
                f"command: the template {template!r} {fault}. Allowed: "
                f"{', '.join(f'{{{name}}}' for name in self.PLACEHOLDERS)}; "
                "{text} and {output} are needed."
            )
        self.words = shlex.split(template)  # before anything is filled in, so that no text can add a word
        self.suffix = suffix
        self.sound_tags = sound_tags
        self.seed = seed
        self.jobs = jobs
        self.timeout_s = timeout_s

    @property
    def settings(self) -> dict[str, Any]:
        template = shlex.join(Path(word).name if os.path.isabs(word) else word for word in self.words)
        # Of files that the template names, such as a script or a voice, the content counts.
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
            values = {
                "text": text,
                "output": str(output),
                "language": utterance.language,
                "voice": utterance.voice or "",
            }
            values |= {
                "emotion": utterance.emotion or "",
                "seed": str(self.seed if utterance.seed is None else utterance.seed),
            }
            values |= {name: str(value) for name, value in asdict(utterance.prosody).items()}
            command = [_PLACEHOLDER.sub(lambda match: values[match[1]], word) for word in self.words]
            try:
                done = subprocess.run(command, capture_output=True, timeout=self.timeout_s, check=False)
            except FileNotFoundError as error:
                raise SynthesisError(
                    f"command: there is no program {command[0]!r}. Install it, or give its path."
                ) from error
            except (OSError, subprocess.TimeoutExpired) as error:
                raise SynthesisError(f"command: {error}") from error
            if done.returncode != 0:
                last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
                raise SynthesisError(f"command: {command[0]} ended with code {done.returncode} on {text!r}: {last[0]}")
            try:
                return decode_audio(output)
            except (AudioError, FileNotFoundError) as error:
                raise SynthesisError(
                    f"command: {command[0]} left no audio in {{output}} for {text!r}: {error}"
                ) from error

    def speak_batch(self, utterances: Sequence[Utterance]) -> list[np.ndarray | SynthesisError]:
        """As many at once as there are `jobs`."""
        with ThreadPoolExecutor(self.jobs) as pool:
            return list(pool.map(self.try_to_speak, utterances))


def _short_hash(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
