"""SDS, stacked data sampling: short clips with the same label, concatenated up to a target length.

    stack = StackedDataSampling(target_s=4.0, share=0.7, seed=42)
    train = stack(train)  # a split in the common schema; `components` lists what each stacked row is made of

The published procedure for one row:

    clip shorter than the target -> candidates: the other clips of its corpus and label
      if some are long enough to fill the gap, draw one of these, else one of the ten longest
      append it whole; repeat until the target is reached, no candidate is left, or a clip is drawn again

Differences: each (seed, draw, row id) has its own random generator, so the order of rows, processes and workers do not
matter; languages are not mixed; only clips that have a partner are selected, so that the share is reached where
possible; texts are joined by default, where the published system transcribes every stacked clip. A gap, a maximum
length, a single speaker, and appending rows instead of replacing them are options.
"""

import math
import random
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets
from datasets.fingerprint import Hasher
from pydantic import Field, model_validator

from ..asr import WHISPER, SpeechRecognizer
from ..commandline import Section
from ..flac import encode_flac
from ..interrupts import quiet_workers
from ..model.audio_bibier import SAMPLING_RATE, decode_audio
from ..sampling import sample_by_hash

COMPONENTS = List({"id": Value("string"), "offset_s": Value("float32"), "duration_s": Value("float32")})
"""Type of the column `components`: the clips of a stacked row in order, with their start and length; null for other
rows."""


@dataclass(frozen=True)
class StackingPlan:
    """The rows that one draw stacks, and their components.

    Attributes:
        components: row -> the rows it is made of, itself first, in the order of the data set.
        report: counts: `rows`, `text_only` (never touched), `short`, `without_partner` (short ones that nothing can be
            appended to), `wanted` by the share, `stacked`, and how many of these `reached_target`.
    """

    components: Mapping[int, tuple[int, ...]]
    report: Mapping[str, int]


class StackedDataSampling(Section):
    """Stacked data sampling of the rows of one split.

    The fields are the options of a run file and of the command line. Values out of range raise a ValueError.
    """

    target_s: float = Field(
        4.0, gt=0, description="shorter clips are stacked until they reach this length, in seconds"
    )
    share: float = Field(0.7, ge=0, le=1, description="share of rows to stack; 0.7 is the best published value")
    share_of: Literal["all", "short"] = Field("all", description="of all rows with audio, or of those below target_s")
    same_speaker: bool = Field(False, description="stack clips of one speaker; rows without a speaker have no partner")
    gap_s: float = Field(0.0, ge=0, description="silence between two clips, in seconds")
    max_s: float | None = Field(
        None, gt=0, description="longest stacked clip; null: at most target_s plus the longest clip"
    )
    top_k: int = Field(10, ge=1, description="how many of the longest clips to choose among if none is long enough")
    text: Literal["concat", "asr"] = Field("concat", description="joined texts, or a transcript of the stacked audio")
    asr_model: str = Field(WHISPER, description="Hub id or folder of the speech recognizer, for text asr")
    mode: Literal["replace", "append"] = Field(
        "replace", description="replace a row by its stacked one, or keep it and append the stacked one"
    )
    seed: int = Field(42, ge=0, description="seed of the draws")

    @model_validator(mode="after")
    def _target_is_reachable(self) -> Self:
        if self.max_s is not None and self.max_s < self.target_s:
            raise ValueError(f"max_s={self.max_s} is below target_s={self.target_s}, which no clip could reach.")
        return self

    @cached_property
    def recognizer(self) -> SpeechRecognizer:
        """What transcribes stacked audio with `text="asr"`."""
        return SpeechRecognizer(self.asr_model)

    def __call__(
        self,
        dataset: Dataset,
        draw: int = 0,
        num_proc: int | None = None,
        parts: Sequence[int] | np.ndarray | None = None,
    ) -> Dataset:
        """Stack a split: each stacked row replaces its row or, with `mode="append"`, follows all others.

        Args:
            dataset: rows of one split in the common schema.
            draw: number of the draw; each selects and stacks differently.
            num_proc: processes of [`~datasets.Dataset.map`]; the result does not depend on them.
            parts: see [`plan`].

        Returns:
            the same columns and `components`. A stacked row keeps corpus, split, language and label. It has the source
            `"stacked"`, a new id, the mean of the soft labels weighted by duration (a component without one counts
            with its hard label; null if none has one), the joined licenses, and speaker and dialogue if all components
            share them, else null.

        Raises:
            ValueError: rows of several splits, or ids that are not unique.
            AudioError: a clip that cannot be decoded.
        """
        plan = self.plan(dataset, draw, parts)
        pool = concatenate_datasets([with_components(dataset), self.stacked_rows(dataset, plan, draw, num_proc)])
        return pool.select(self.places(len(dataset), plan))

    def plan(self, dataset: Dataset, draw: int = 0, parts: Sequence[int] | np.ndarray | None = None) -> StackingPlan:
        """Select rows and draw their components without reading audio. Depends only on seed, draw and the set of rows.

        Args:
            dataset: N rows of one split.
            draw: number of the draw.
            parts: (N,) part of each row; clips of different parts are never stacked together. None: one part.
        """
        stock = _Stock(dataset, self.same_speaker, parts)
        target, gap = round(self.target_s * SAMPLING_RATE), round(self.gap_s * SAMPLING_RATE)
        limit = math.inf if self.max_s is None else round(self.max_s * SAMPLING_RATE)

        with_audio = [row for row, length in enumerate(stock.lengths) if length]
        short = [row for row in with_audio if stock.lengths[row] < target]
        stackable = [row for row in short if stock.has_partner(row, limit - stock.lengths[row] - gap)]
        base = with_audio if self.share_of == "all" else short
        wanted = math.floor(self.share * len(base) + 1e-9)  # 0.29 * 100 is 28.999...
        selected = sample_by_hash(stackable, wanted, stock.ids.__getitem__, self.seed, draw)
        components = {}
        reached = 0
        for row in sorted(selected):
            rng = random.Random(f"{self.seed}/{draw}/{stock.ids[row]}")
            chosen, length = [row], stock.lengths[row]
            while length < target:
                partner = stock.draw_partner(row, target - length - gap, limit - length - gap, self.top_k, rng)
                if partner is None or partner in chosen:
                    break
                chosen.append(partner)
                length += gap + stock.lengths[partner]

            components[row] = tuple(chosen)
            reached += length >= target

        report = {
            "rows": len(dataset),
            "text_only": len(dataset) - len(with_audio),
            "short": len(short),
            "without_partner": len(short) - len(stackable),
            "wanted": wanted,
            "stacked": len(components),
            "reached_target": reached,
        }
        return StackingPlan(components, report)

    def stacked_rows(
        self, dataset: Dataset, plan: StackingPlan, draw: int = 0, num_proc: int | None = None
    ) -> Dataset:
        """Return only the stacked rows of a plan, in its order, with FLAC audio (arguments: [`__call__`])."""
        bases = list(plan.components)
        features = with_components(dataset).features
        if not bases:
            return with_components(dataset.select([]))

        # The weights of the recognizer count too: a folder of the same name may hold others.
        facts = self.recognizer.facts if self.text == "asr" else None
        components = list(plan.components.values())
        determined_by = ["sds", dataset._fingerprint, self.model_dump(), facts, draw, components]
        with quiet_workers():
            stacked = dataset.select(bases).map(
                _StackedRow(self, dataset, components, draw),
                with_indices=True,
                # Not as the type Audio while writing: datasets would need torchcodec for it.
                features=Features({**features, "audio": {"bytes": Value("binary"), "path": Value("string")}}),
                num_proc=num_proc,
                new_fingerprint=Hasher.hash(determined_by),
                desc="Stacking clips",
            )
        return stacked.cast_column("audio", features["audio"])

    def places(self, rows: int, plan: StackingPlan) -> list[int]:
        """Return the order of the result, as positions in (all rows, then the stacked ones)."""
        order = list(range(rows))
        if self.mode == "append":
            return [*order, *range(rows, rows + len(plan.components))]

        for number, row in enumerate(plan.components):
            order[row] = rows + number
        return order

    def merge(self, rows: Sequence[Mapping[str, Any]], draw: int = 0) -> dict[str, Any]:
        """Merge components into one row; the first gives id, label, split and so on. The audio is samples at 16
        kHz."""
        clips = [decode_audio(row["audio"]) for row in rows]
        gap = np.zeros(round(self.gap_s * SAMPLING_RATE), np.float32)
        samples = np.concatenate([part for clip in clips for part in (gap, clip)][1:])
        starts = np.cumsum([0] + [len(clip) + len(gap) for clip in clips[:-1]])

        if self.text == "asr":
            (text,) = self.recognizer([samples], rows[0]["language"])
        else:
            text = " ".join(row["text"].strip() for row in rows if row["text"].strip())

        return dict(rows[0]) | {
            "id": f"{rows[0]['id']}-stacked-{draw}",
            "audio": {"array": samples, "sampling_rate": SAMPLING_RATE},
            "text": text,
            "soft_label": _mean_soft_label(rows, [len(clip) for clip in clips]),
            "speaker": _shared(row["speaker"] for row in rows),
            "dialogue": _shared(row["dialogue"] for row in rows),
            "duration_s": len(samples) / SAMPLING_RATE,
            "source": "stacked",
            "license": " AND ".join(sorted({row["license"] for row in rows})),
            "components": [
                {"id": row["id"], "offset_s": int(start) / SAMPLING_RATE, "duration_s": len(clip) / SAMPLING_RATE}
                for row, start, clip in zip(rows, starts, clips, strict=True)
            ],
        }


def with_components(dataset: Dataset) -> Dataset:
    """Add a column `components` of nulls, which marks every row as not stacked."""
    if "components" in dataset.column_names:
        return dataset

    # Dataset.add_column does not take nulls of a nested type.
    empty = Dataset.from_dict({"components": [None] * len(dataset)}, features=Features({"components": COMPONENTS}))
    return concatenate_datasets([dataset, empty], axis=1)


@dataclass(frozen=True)
class _StackedRow:
    """The function of [`~datasets.Dataset.map`]; a class, so that it can be sent to other processes."""

    sds: StackedDataSampling
    dataset: Dataset
    components: Sequence[tuple[int, ...]]
    draw: int

    def __call__(self, _row: Mapping[str, Any], index: int) -> dict[str, Any]:
        merged = self.sds.merge([self.dataset[row] for row in self.components[index]], self.draw)
        return merged | {
            "audio": {"bytes": encode_flac(merged["audio"]["array"], merged["source"]), "path": f"{merged['id']}.flac"}
        }


class _Stock:
    """The clips that may be stacked, by group, sorted by length.

    Attributes:
        ids, lengths: (N,) id and length in samples of every row, 0 without audio.
        groups: row -> (rows of its group by ascending length, their lengths); missing for rows without partners.
        position: row -> its place in its group.
    """

    def __init__(self, dataset: Dataset, same_speaker: bool, parts: Sequence[int] | np.ndarray | None) -> None:
        names = ["id", "corpus", "split", "language", "label", "speaker", "duration_s"]
        columns = dataset.select_columns(names).to_dict()
        self.ids = ids = columns["id"]
        if len(splits := set(columns["split"])) > 1:
            raise ValueError(
                f"SDS stacks one split at a time, or test clips would leak into train; these are from {sorted(splits)}."
            )
        if len(set(ids)) < len(ids):
            raise ValueError("SDS: two rows have the same id. Draws depend on the ids, so they must be unique.")

        durations = columns["duration_s"]
        self.lengths = lengths = [round(duration * SAMPLING_RATE) if duration else 0 for duration in durations]
        keys = zip(columns["corpus"], columns["language"], columns["label"], columns["speaker"], strict=True)
        members: dict[tuple, list[int]] = defaultdict(list)
        for row, (corpus, language, label, speaker) in enumerate(keys):
            if lengths[row] and not (same_speaker and speaker is None):
                part = None if parts is None else int(parts[row])
                members[part, corpus, language, label, speaker if same_speaker else None].append(row)

        self.groups: dict[int, tuple[list[int], list[int]]] = {}
        self.position: dict[int, int] = {}
        for rows in members.values():
            rows.sort(key=lambda row: (lengths[row], ids[row]))
            group = (rows, [lengths[row] for row in rows])
            for place, row in enumerate(rows):
                self.groups[row], self.position[row] = group, place

    def has_partner(self, row: int, longest: float) -> bool:
        """Tell whether its group has another clip of at most `longest` samples."""
        if row not in self.groups:
            return False
        end = bisect_right(self.groups[row][1], longest)
        return end > (self.position[row] < end)

    def draw_partner(self, row: int, need: int, longest: float, top_k: int, rng: random.Random) -> int | None:
        """Draw another clip of the group with `need` to `longest` samples, or else one of the `top_k` longest below
        that; None if there is none."""
        rows, lengths = self.groups[row]
        own = self.position[row]
        end = bisect_right(lengths, longest)
        start = bisect_left(lengths, need, 0, end)
        if end - start - (start <= own < end) < 1:
            start = max(0, end - top_k - (end - top_k <= own < end))

        count = end - start - (start <= own < end)
        if count < 1:
            return None

        place = start + rng.randrange(count)
        return rows[place + (start <= own <= place)]


def _mean_soft_label(rows: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> list[float] | None:
    soft = [row["soft_label"] for row in rows if row["soft_label"] is not None]
    if not soft:
        return None

    hard = np.eye(len(soft[0]))
    labels = [
        hard[row["label"]] if row["soft_label"] is None else np.asarray(row["soft_label"], float) for row in rows
    ]
    mean = np.average(labels, axis=0, weights=weights)
    return (mean / mean.sum()).tolist()


def _shared(values: Any) -> str | None:
    found = set(values)
    return found.pop() if len(found) == 1 else None
