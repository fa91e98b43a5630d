"""Many utterances -> checked audio files, in batches, resumable; what cannot be spoken is listed and left out."""

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
    """An utterance that was left out, with the reason of its last attempt."""

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

    The files lie in a sub-folder that is named after everything they depend on. A run that was interrupted goes on
    where it was, and one with other texts, voices or bounds starts anew.

    Args:
        utterances: with ids, each another one.
        tts: who speaks.
        folder: where the sub-folder is.
        checks: what speech must fulfil; None for the default bounds.
        attempts: how often an utterance is tried, each time with another seed.
        batch_size: utterances that are handed to the back end together.
        seed: of the first attempt.

    Returns:
        (id -> file of what was spoken, failures), both in the order of the utterances.

    Raises:
        SynthesisError: a language that the back end does not speak, ids that are missing or not unique, or nothing
            that succeeded.
    """
    checks = checks or SpeechChecks()
    _check_utterances(utterances, tts)
    target = Path(folder) / _fingerprint(utterances, tts, checks, attempts, seed)
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
        raise SynthesisError("Every utterance needs an id of its own: files are named by it.")


def _fingerprint(
    utterances: Sequence[Utterance], tts: TextToSpeech, checks: SpeechChecks, attempts: int, seed: int
) -> str:
    content = [[asdict(utterance) for utterance in utterances], tts.settings, checks.settings, attempts, seed]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
