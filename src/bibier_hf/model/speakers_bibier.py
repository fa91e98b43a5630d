"""How each speaker of a conversation feels, over all and minute by minute."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .timeline_bibier import Emotions, mean_emotions, time_shares

MINUTE_S = 60.0

Chunks = Sequence[Mapping[str, Any]]


def summarize_speakers(chunks: Chunks, names: Callable[[Emotions], list[str]] | None = None) -> list[dict[str, Any]]:
    """Summarize the chunks of each speaker, in the order in which they first speak.

    Every figure weighs the chunks by their duration; where chunks of the same speaker overlap, they share the time.

    Args:
        chunks: of a timeline, with speakers and the scores of all labels.
        names: what a chunk with these emotions is called: its best label, or each that is present. None: the emotions
            are values, which have no `shares` and no `confidence`.

    Returns:
        For each speaker:

        * `speaker`: the name, None for turns without one;
        * `seconds` (speech, without silence between turns) and `turns` (number of chunks);
        * `emotions`: mean scores, as [`mean_emotions`];
        * `shares`: label -> the part of the time with this answer (0 to 1; `{}` without any answer);
        * `confidence`: mean score of the best label; None without any answer;
        * `trend`: label -> change of its score per minute (least squares over the middles of the chunks); None with
          fewer than two chunks;
        * `minutes`: the same without `trend` for each minute in which the speaker speaks, with its `timestamp`. A turn
          over several minutes counts in each with its time in it.
    """
    by_speaker: dict[str | None, list[Mapping[str, Any]]] = {}
    for chunk in chunks:
        by_speaker.setdefault(chunk.get("speaker"), []).append(chunk)

    summaries = []
    for speaker, own in by_speaker.items():
        minutes = [{"timestamp": span} | _figures(within, names) for span, within in _by_minute(own)]
        summaries.append({"speaker": speaker} | _figures(own, names) | {"trend": trend(own), "minutes": minutes})
    return summaries


def trend(chunks: Chunks) -> dict[str, float] | None:
    """Change of each score per minute: the slope of the line through the chunks, weighted by their time; None for
    fewer than two places in time."""
    chunks = [chunk for chunk in chunks if chunk["emotions"]]
    spans = [chunk["timestamp"] for chunk in chunks]
    weights, middles = time_shares(spans), np.array([sum(span) / 2 for span in spans]) / MINUTE_S
    if not weights.any():
        return None

    offsets = middles - np.average(middles, weights=weights)
    spread = float(weights @ offsets**2)
    if spread <= 1e-12:
        return None

    labels = [entry["label"] for entry in mean_emotions(chunks)]
    scores = [{entry["label"]: entry["score"] for entry in chunk["emotions"]} for chunk in chunks]
    return {
        label: float(weights @ (offsets * np.array([score[label] for score in scores]))) / spread for label in labels
    }


def _figures(chunks: Chunks, names: Callable[[Emotions], list[str]] | None) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "seconds": float(time_shares([chunk["timestamp"] for chunk in chunks]).sum()),
        "turns": len(chunks),
        "emotions": mean_emotions(chunks),
    }
    if names is None:
        return figures

    answered = [chunk for chunk in chunks if chunk["emotions"]]
    weights = time_shares([chunk["timestamp"] for chunk in answered])
    weights = weights if weights.any() else np.ones(len(answered))
    shares: dict[str, float] = {}
    for chunk, weight in zip(answered, weights / max(weights.sum(), 1e-12), strict=True):
        for name in names(chunk["emotions"]):
            shares[name] = shares.get(name, 0.0) + float(weight)

    best = [chunk["emotions"][0]["score"] for chunk in answered]
    figures["shares"] = dict(sorted(shares.items(), key=lambda item: -item[1]))
    figures["confidence"] = float(np.average(best, weights=weights)) if best else None
    return figures


def _by_minute(chunks: Chunks) -> list[tuple[tuple[float, float], list[dict[str, Any]]]]:
    """The parts of chunks within each minute, for the minutes that have any."""
    minutes: dict[int, list[dict[str, Any]]] = {}
    for chunk in chunks:
        start, end = chunk["timestamp"]
        first, last = int(start // MINUTE_S), max(int(start // MINUTE_S), int(np.ceil(end / MINUTE_S)) - 1)
        for minute in range(first, last + 1):
            span = (max(start, minute * MINUTE_S), min(end, (minute + 1) * MINUTE_S))
            minutes.setdefault(minute, []).append({**chunk, "timestamp": span})
    return [((minute * MINUTE_S, (minute + 1) * MINUTE_S), minutes[minute]) for minute in sorted(minutes)]
