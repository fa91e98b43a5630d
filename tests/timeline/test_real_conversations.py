"""Dialogues of RESD, joined into recordings whose turns are known."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers import AutoModel, AutoProcessor

from bibier_hf import AudioTextEmotionPipeline, decode_audio
from bibier_hf.timeline import Turn, read_turns, save_timeline

DIALOGUES, LONGEST = 3, 12
GAPS_S = (0.3, 0.0, 1.1)


@pytest.fixture(scope="module")
def pipe(checkpoint: Path) -> AudioTextEmotionPipeline:
    model, processor = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    return AudioTextEmotionPipeline(model=model, processor=processor, device="cpu")


def dialogues(shared: Path) -> list[list[dict]]:
    """The clips of some dialogues, in the order in which they were spoken."""
    folder, found = shared / "data" / "resd", defaultdict(list)
    with open(folder / "metadata.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["dialog"]].append({**row, "path": folder / row["file_name"]})
    kept = [found[name] for name in sorted(found) if len({row["speaker"] for row in found[name]}) == 2]
    return [sorted(rows, key=lambda row: row["orig_name"][-3:])[:LONGEST] for rows in kept[:DIALOGUES]]


def scores(emotions: list[dict]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in emotions}


def test_turns_are_answered_like_their_clips_and_speakers_like_their_pool(
    pipe: AudioTextEmotionPipeline, shared: Path, tmp_path: Path
):
    for number, rows in enumerate(dialogues(shared)):
        pieces, turns, position = [], [], 0
        for index, row in enumerate(rows):
            samples = decode_audio(row["path"])
            turns.append(Turn(position / 16_000, (position + len(samples)) / 16_000, row["speaker"], row["text"]))
            gap = np.zeros(round(16_000 * GAPS_S[index % 3]), np.float32)
            pieces += [samples, gap]
            position += len(samples) + len(gap)
        soundfile.write(tmp_path / "talk.wav", np.concatenate(pieces), 16_000, subtype="FLOAT")

        result = pipe(str(tmp_path / "talk.wav"), segments=turns, return_timestamps=True, batch_size=8)
        alone = pipe([{"audio": str(row["path"]), "text": row["text"]} for row in rows], batch_size=8)
        for chunk, clip, turn in zip(result["chunks"], alone, turns, strict=True):
            assert (chunk["speaker"], chunk["text"]) == (turn.speaker, turn.text)
            assert scores(chunk["emotions"]) == pytest.approx(scores(clip), abs=1e-4)

        assert {summary["speaker"] for summary in result["speakers"]} == {row["speaker"] for row in rows}
        for summary in result["speakers"]:
            own = [
                (turn, scores(clip))
                for turn, clip in zip(turns, alone, strict=True)
                if turn.speaker == summary["speaker"]
            ]
            lengths = [turn.end - turn.start for turn, _ in own]
            pooled = {
                label: float(np.average([clip[label] for _, clip in own], weights=lengths)) for label in own[0][1]
            }
            assert scores(summary["emotions"]) == pytest.approx(pooled, abs=1e-4)
            assert (summary["turns"], summary["seconds"]) == (len(own), pytest.approx(sum(lengths)))
            assert sum(minute["seconds"] for minute in summary["minutes"]) == pytest.approx(sum(lengths))

        again = read_turns(save_timeline(result, tmp_path / f"{number}.csv"))
        assert again == turns


def test_turns_may_overlap(pipe: AudioTextEmotionPipeline, shared: Path, tmp_path: Path):
    """Two speakers of a dialogue at once: each turn is answered with what is heard in it, also of the other."""
    first, second, *_ = (decode_audio(row["path"]) for row in dialogues(shared)[0])
    start = len(first) // 2
    samples = np.zeros(max(len(first), start + len(second)), np.float32)
    samples[: len(first)] += first
    samples[start : start + len(second)] += second
    soundfile.write(tmp_path / "talk.wav", samples, 16_000, subtype="FLOAT")
    spans = [(0, len(first)), (start, start + len(second))]
    turns = [Turn(from_ / 16_000, to / 16_000, name) for (from_, to), name in zip(spans, "AB", strict=True)]
    result = pipe(str(tmp_path / "talk.wav"), segments=turns, return_timestamps=True)
    for chunk, (from_, to) in zip(result["chunks"], spans, strict=True):
        alone = pipe({"array": samples[from_:to], "sampling_rate": 16_000})
        assert scores(chunk["emotions"]) == pytest.approx(scores(alone), abs=1e-4)
    assert [summary["speaker"] for summary in result["speakers"]] == ["A", "B"]
