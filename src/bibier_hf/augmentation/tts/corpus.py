"""Many utterances -> checked audio files, in batches and resumable. What cannot be spoken is listed and left out."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from datasets.utils import tqdm

from ...files import write_bytes
from ...flac import encode_flac
from .base import SynthesisError, TextToSpeech, Utterance
from .checks import SpeechChecks


@dataclass(frozen=True)
class Failure:
    """An utterance that was left out, and why its last attempt failed."""

    utterance: Utterance
    reason: str


def speak_all(
    utterances: Sequence[Utterance],
    tts: TextToSpeech,
    folder: str | os.PathLike,
    checks: SpeechChecks | None = None,
    attempts: int = 3,
    batch_size: int = 32,
    seed: int = 42,
) -> tuple[dict[str, Path], list[Failure]]:
    """Speak utterances into `<id>.flac` files, marked as synthetic.

    The files are in a subfolder named after everything they depend on. An interrupted run continues where it stopped;
    a run with other texts, voices or bounds starts over.

    Args:
        utterances: utterances with unique ids.
        tts: the back end.
        folder: parent of the subfolder.
        checks: what speech must fulfill; None for the default bounds.
        attempts: attempts per utterance, each with another seed.
        batch_size: utterances that the back end gets at a time.
        seed: seed of the first attempt.

    Returns:
        (id -> file of what was spoken, failures), both in the order of the utterances.

    Raises:
        SynthesisError: a language that the back end does not speak, missing or repeated ids, or no utterance that
            could be spoken.
    """
    checks = checks or SpeechChecks()
    _check_utterances(utterances, tts)

    determined_by = [[asdict(utterance) for utterance in utterances], tts.settings, checks.settings, attempts, seed]
    target = Path(folder) / hashlib.sha256(json.dumps(determined_by, sort_keys=True).encode()).hexdigest()[:16]
    target.mkdir(parents=True, exist_ok=True)
    files = {utterance.id: target / f"{utterance.id}.flac" for utterance in utterances}
    reasons: dict[str, str] = {}
    todo = [utterance for utterance in utterances if not files[utterance.id].is_file()]

    with tqdm(total=len(utterances), initial=len(utterances) - len(todo), desc="Speaking", unit="utterance") as bar:
        for start in range(0, len(todo), batch_size):
            waiting = todo[start : start + batch_size]
            for attempt in range(attempts):
                tried = [replace(utterance, seed=seed + attempt) for utterance in waiting]
                failed = []
                for utterance, spoken in zip(waiting, tts.speak_batch(tried), strict=True):
                    if isinstance(spoken, SynthesisError):
                        reason = str(spoken)
                    elif (reason := checks.fault(spoken, utterance)) is None:
                        write_bytes(files[utterance.id], encode_flac(spoken, source="synthetic"))
                        bar.update()
                        continue
                    reasons[utterance.id] = reason
                    failed.append(utterance)
                waiting = failed
                if not waiting:
                    break
            bar.update(len(waiting))

    failures = [
        Failure(utterance, reasons[utterance.id]) for utterance in utterances if not files[utterance.id].is_file()
    ]
    if utterances and len(failures) == len(utterances):
        raise SynthesisError(f"None of {len(failures)} utterances could be spoken. The first: {failures[0].reason}")
    return {name: path for name, path in files.items() if path.is_file()}, failures


def _check_utterances(utterances: Sequence[Utterance], tts: TextToSpeech) -> None:
    if tts.languages is not None and (
        others := sorted({utterance.language for utterance in utterances} - set(tts.languages))
    ):
        raise SynthesisError(f"The back end does not speak {', '.join(others)}; it speaks {', '.join(tts.languages)}.")

    ids = [utterance.id for utterance in utterances]
    if len(set(ids)) < len(ids) or "" in ids:
        raise SynthesisError("Every utterance needs a unique id, as its file is named after it.")
