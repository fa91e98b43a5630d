"""Find the same words, or the same recording, on both sides of a split."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from scipy.ndimage import uniform_filter1d
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from ..acoustics import FRAMES_PER_SECOND, FUNCTIONALS, decoded_clips, log_mel, mfcc_functionals
from .give_away import give_away

TEXT_SIMILARITY = 0.85
"""Cosine of character n-grams from which two texts count as nearly the same."""

MINIMUM_WORDS = 4
"""Shorter texts are only compared exactly: "Oh my God" and "Oh God" are different utterances."""

AUDIO_SIMILARITY = 0.55
"""Correlation of two fingerprints from which two clips count as the same recording.

In RAVDESS, one sentence read by two actors reaches at most 0.30, read twice by one actor 0.52; in RESD, any two clips
reach at most 0.28. Copies in another codec, at telephone bandwidth, cut, shifted or with noise at 20 dB stay above
0.55 (of clips as quiet as those of RAVDESS, in the smallest MP3, 2 of 60 do not), unless a quarter of the clip is
missing."""

MAX_SHIFT_S = 0.5
CANDIDATES = 5
"""Number of train clips, preselected by a coarse search, that each test clip is compared with in full."""

_FINGERPRINT_BANDS = 32
_SMOOTHING_FRAMES = 25
_FLOOR_DB = 50.0
_SEARCH_SECONDS, _SEARCH_STEP = 8, 8  # the coarse search looks at 8 s in steps of 8 frames
_BLOCK_ROWS = 512


@dataclass(frozen=True)
class HeardClip:
    """What the audit keeps of a recording.

    Args:
        digest: hash of its samples.
        functionals: MFCC statistics (560,).
        fingerprint: (31, T) at 100 frames/s ([`fingerprint`]).
    """

    digest: str
    functionals: np.ndarray
    fingerprint: np.ndarray


def hear(rows: Dataset) -> dict[str, HeardClip]:
    """Return id -> [`HeardClip`] of the rows with audio; each is decoded once.

    Raises:
        AudioError: a clip cannot be decoded.
    """
    heard = {}

    for name, samples in zip(rows["id"], decoded_clips(rows), strict=True):
        if samples is not None:
            mel = log_mel(samples)
            digest = hashlib.sha256(samples.tobytes()).hexdigest()
            heard[name] = HeardClip(digest, mfcc_functionals(mel), fingerprint(mel))

    return heard


def hear_corpus(splits: DatasetDict) -> dict[str, HeardClip]:
    """Run [`hear`] on all splits; the result is the same for every protocol."""
    return hear(concatenate_datasets([rows.select_columns(["id", "audio"]) for rows in splits.values()]))


def functionals_of(rows: Dataset, heard: Mapping[str, HeardClip]) -> np.ndarray:
    """Return MFCC statistics (N, 560) of the rows, NaN for rows without audio."""
    missing = np.full(FUNCTIONALS, np.nan, np.float32)
    return np.stack([heard[name].functionals if name in heard else missing for name in rows["id"]])


def normalise_text(text: str) -> str:
    """Return the text in lower case and one Unicode form, with letters and digits only and single spaces."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def audit_texts(splits: DatasetDict, threshold: float = TEXT_SIMILARITY, seed: int = 0) -> dict[str, Any]:
    """Find test texts that also occur in train, exactly or nearly, and measure what they reveal about the label.

    Args:
        splits: train, dev and test in the common schema.
        threshold: see `TEXT_SIMILARITY`.
        seed: of the p-value.

    Returns:
        `exact_rows`, `near_rows`: test rows; `share_of_test_rows`: of both; `pairs`:
            `{test, train, similarity, same_label}` for each of them; `label_from_text`: [`give_away`] by the matching
            train text.
    """
    train, test = ([normalise_text(text) for text in splits[split]["text"]] for split in ("train", "test"))
    first = {text: row for row, text in reversed(list(enumerate(train))) if text}
    found = {row: (first[text], 1.0) for row, text in enumerate(test) if text in first}
    exact = len(found)
    found |= _similar_texts(train, test, [row for row in range(len(test)) if row not in found], threshold)
    keys = [train[found[row][0]] if row in found else None for row in range(len(test))]
    labels = {split: splits[split]["label"] for split in ("train", "test")}
    from_text = give_away([text or None for text in train], labels["train"], keys, labels["test"], seed)
    from_text.pop("known_rows")

    return _facts(splits, found, exact, len(test)) | {"label_from_text": from_text}


def _similar_texts(
    train: list[str], test: list[str], rows: list[int], threshold: float
) -> dict[int, tuple[int, float]]:
    """Return test row -> (most similar train row, cosine) if the cosine reaches the threshold."""
    rows = [row for row in rows if len(test[row].split()) >= MINIMUM_WORDS]
    others = [row for row, text in enumerate(train) if len(text.split()) >= MINIMUM_WORDS]
    if not rows or not others:
        return {}

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, dtype=np.float32)
    there = vectorizer.fit_transform([train[row] for row in others]).T
    here = vectorizer.transform([test[row] for row in rows])
    found = {}

    for start in range(0, len(rows), _BLOCK_ROWS):
        cosines = here[start : start + _BLOCK_ROWS] @ there
        best = np.asarray(cosines.argmax(axis=1)).ravel()
        values = np.asarray(cosines.max(axis=1).todense()).ravel()

        for row, place, value in zip(rows[start : start + _BLOCK_ROWS], best, values, strict=True):
            if value >= threshold:
                found[row] = (others[place], float(value))

    return found


def fingerprint(mel: np.ndarray) -> np.ndarray:
    """Return what is particular to a recording in a log-mel spectrogram (64, T): (31, T), in dB.

    Differences of neighboring bands remove loudness and the rhythm of speech and pauses. Subtracting their mean over a
    quarter of a second removes voice and microphone, which many recordings share. A floor below the loudest frame
    hides what codecs do to silence.
    """
    bands = mel.reshape(_FINGERPRINT_BANDS, -1, mel.shape[1]).mean(1)
    slopes = np.diff(np.maximum(bands, bands.max() - _FLOOR_DB), axis=0)

    return (slopes - uniform_filter1d(slopes, _SMOOTHING_FRAMES, axis=1, mode="nearest")).astype(np.float16)


def fingerprint_similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Return the highest correlation of two fingerprints (31, T).

    Shifts are at most half a second, and the overlap must cover three quarters of the longer one.
    """
    one, other = one.astype(np.float32), other.astype(np.float32)
    most = round(MAX_SHIFT_S * FRAMES_PER_SECOND)
    best = 0.0

    for shift in range(-most, most + 1):
        a, b = one[:, max(0, shift) :], other[:, max(0, -shift) :]
        overlap = min(a.shape[1], b.shape[1])
        if overlap < 0.75 * max(one.shape[1], other.shape[1]):
            continue

        a, b = a[:, :overlap], b[:, :overlap]
        norm = np.linalg.norm(a) * np.linalg.norm(b)
        best = max(best, float((a * b).sum() / norm) if norm > 0 else 0.0)

    return best


def audit_audio(
    splits: DatasetDict, heard: Mapping[str, HeardClip], threshold: float = AUDIO_SIMILARITY
) -> dict[str, Any]:
    """Find test recordings that also occur in train: identical, recoded, louder or softer, cut, or shifted by up to
    half a second.

    Args:
        splits: train, dev and test in the common schema.
        heard: returned by [`hear_corpus`].
        threshold: see `AUDIO_SIMILARITY`.

    Returns:
        `exact_rows`, `near_rows`, `share_of_test_rows` (of those with audio), and `pairs` as for texts.
    """
    clips = {
        split: [(row, heard[name]) for row, name in enumerate(splits[split]["id"]) if name in heard]
        for split in ("train", "test")
    }
    digests = {clip.digest: row for row, clip in reversed(clips["train"])}
    found = {row: (digests[clip.digest], 1.0) for row, clip in clips["test"] if clip.digest in digests}
    exact = len(found)
    rest = [(row, clip) for row, clip in clips["test"] if row not in found]
    if rest and clips["train"]:
        train = [clip.fingerprint for _, clip in clips["train"]]
        nearest = _most_similar(train, [clip.fingerprint for _, clip in rest])
        for (row, clip), candidates in zip(rest, nearest, strict=True):
            matches = [(fingerprint_similarity(train[place], clip.fingerprint), place) for place in candidates]
            score, place = max(matches)
            if score >= threshold:
                found[row] = (clips["train"][place][0], score)

    return _facts(splits, found, exact, len(clips["test"]) or 1)


def _most_similar(train: Sequence[np.ndarray], test: Sequence[np.ndarray]) -> np.ndarray:
    """Return positions in train (len(test), at most `CANDIDATES`), from all pairs and shifts at low resolution."""
    most = round(MAX_SHIFT_S * FRAMES_PER_SECOND / _SEARCH_STEP)
    there = _search_vectors(train, 0)
    best = np.full((len(test), len(train)), -1.0, np.float32)

    for shift in range(-most, most + 1):
        here = _search_vectors(test, shift)
        for start in range(0, len(test), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            np.maximum(best[rows], here[rows] @ there.T, out=best[rows])

    return np.argsort(-best, axis=1, kind="stable")[:, :CANDIDATES]


def _search_vectors(prints: Sequence[np.ndarray], shift: int) -> np.ndarray:
    """Return unit vectors (N, bands * steps) of the beginnings of fingerprints, shifted by `shift` steps."""
    steps = _SEARCH_SECONDS * FRAMES_PER_SECOND // _SEARCH_STEP
    vectors = np.zeros((len(prints), _FINGERPRINT_BANDS - 1, steps), np.float32)

    for vector, values in zip(vectors, prints, strict=True):
        count = values.shape[1] // _SEARCH_STEP
        coarse = values[:, : count * _SEARCH_STEP].astype(np.float32).reshape(-1, count, _SEARCH_STEP).mean(2)
        coarse = coarse[:, max(0, -shift) :][:, : steps - max(0, shift)]
        vector[:, max(0, shift) : max(0, shift) + coarse.shape[1]] = coarse

    return normalize(vectors.reshape(len(prints), -1))


def _facts(splits: DatasetDict, found: dict[int, tuple[int, float]], exact: int, tested: int) -> dict[str, Any]:
    """Count the rows that were found, and list the pairs by id, most similar first."""
    train, test = (splits[split].select_columns(["id", "label"]).to_dict() for split in ("train", "test"))
    pairs = [
        {
            "test": test["id"][row],
            "train": train["id"][other],
            "similarity": round(similarity, 4),
            "same_label": test["label"][row] == train["label"][other],
        }
        for row, (other, similarity) in found.items()
    ]

    return {
        "exact_rows": exact,
        "near_rows": len(found) - exact,
        "share_of_test_rows": len(found) / tested,
        "pairs": sorted(pairs, key=lambda pair: (-pair["similarity"], pair["test"])),
    }
