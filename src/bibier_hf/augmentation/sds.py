"""SDS, stacked data sampling: short clips of one label, one after the other, up to a target length.

    stack = StackedDataSampling(target_s=4.0, share=0.7, seed=42)
    train = stack(train)  # a split in the common schema; `components` says what each stacked row is made of

The published procedure, a row at a time:

    clip shorter than the target -> candidates: the other clips of its corpus and label
      some of them fill what is missing?  yes: one of these;  no: one of the ten longest
      append it whole; go on until the target is reached, no candidate is left, or a clip was drawn a second time

What differs from it: everything is drawn from a generator of its own for each (seed, draw, row id), so that neither
the order of rows nor processes and workers matter; languages are not mixed; only clips that have a partner are
selected, so that the share is reached where that is possible; texts are joined by default, where the published system
transcribes every stacked clip; a gap, a longest length, one speaker only and rows that stand beside the original
instead of in its place are options.
"""

import math
import random
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets
from datasets.fingerprint import Hasher

from ..flac import encode_flac
from ..interrupts import quiet_workers
from ..model.audio_bibier import SAMPLING_RATE, decode_audio
from ..model.labels_bibier import EMOTIONS
from ..sampling import sample_by_hash

COMPONENTS = List({"id": Value("string"), "offset_s": Value("float32"), "duration_s": Value("float32")})
"""Type of the column `components`: the clips of a stacked row in their order, where each starts and how long it is;
null for others."""

CHOICES = {"share_of": ("all", "short"), "text": ("concat", "asr"), "mode": ("replace", "append")}


@dataclass(frozen=True)
class StackingPlan:
    """Which rows are stacked in one draw, and of what.

    Attributes:
        components: row -> the rows it is made of, itself first, in the order of the data set.
        report: counts: `rows`, `text_only` (never touched), `short`, `without_partner` (short ones that nothing can be
            appended to), `wanted` by the share, `stacked`, and how many of these `reached_target`.
    """

    components: Mapping[int, tuple[int, ...]]
    report: Mapping[str, int]


@dataclass(frozen=True)
class StackedDataSampling:
    """Stacked data sampling as a map over one split.

    Args:
        target_s: clips shorter than this are stacked until they are at least this long.
        share: share of rows to be stacked, 0 to 1 (0.7 was the best published value on dev).
        share_of: of all rows with audio, as published, or of the `"short"` ones.
        same_speaker: stack clips of one speaker only; rows without a speaker then have no partner.
        gap_s: silence between two clips.
        max_s: no stacked clip is longer; None: at most the target and the longest clip together.
        top_k: how many of the longest candidates there is a choice of, where none fills what is missing.
        text: `"concat"`: the components' texts joined by a blank (those without one add nothing); `"asr"`: what
            `transcribe` hears.
        mode: `"replace"` the row, as published, or `"append"` the stacked one and keep it.
        seed: of everything.
        transcribe: `(samples, language) -> text` ([`~bibier_hf.asr.SpeechRecogniser`]), for `text="asr"`.

    Raises:
        ValueError: values that make no sense, or `text="asr"` without `transcribe`.
    """

    target_s: float = 4.0
    share: float = 0.7
    share_of: str = "all"
    same_speaker: bool = False
    gap_s: float = 0.0
    max_s: float | None = None
    top_k: int = 10
    text: str = "concat"
    mode: str = "replace"
    seed: int = 42
    transcribe: Callable[[np.ndarray, str], str] | None = None

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"SDS: {name}={getattr(self, name)!r}; allowed: {', '.join(allowed)}.")
        if not (0 <= self.share <= 1 and self.target_s > 0 and self.gap_s >= 0 and self.top_k >= 1):
            raise ValueError(
                f"SDS: share={self.share}, target_s={self.target_s}, gap_s={self.gap_s}, top_k={self.top_k}; "
                "the share lies between 0 and 1, the target is positive, the gap not negative, and there is a choice "
                "of at least 1."
            )
        if self.max_s is not None and self.max_s < self.target_s:
            raise ValueError(
                f"SDS: max_s={self.max_s} is below target_s={self.target_s}, which could then not be reached."
            )
        if self.text == "asr" and self.transcribe is None:
            raise ValueError("SDS: text='asr' needs transcribe=..., such as SpeechRecogniser('openai/whisper-base').")

    def __call__(
        self,
        dataset: Dataset,
        draw: int = 0,
        num_proc: int | None = None,
        parts: Sequence[int] | np.ndarray | None = None,
    ) -> Dataset:
        """The split with its stacked rows, each in the place of its row or, with `mode="append"`, all behind the
        others.

        Args:
            dataset: rows of one split in the common schema.
            draw: number of the draw: another one selects and stacks anew.
            num_proc: processes of [`~datasets.Dataset.map`]; they change nothing but the time.
            parts: as for [`plan`].

        Returns:
            the same columns and `components`. A stacked row keeps corpus, split, language and label; it has the source
            `"stacked"`, an id of its own, the mean of the soft labels weighted by duration (a component without one
            counts as its hard label; null if none has one), the joined licences, and speaker and dialogue where all
            components share them, else null.

        Raises:
            ValueError: rows of several splits, or ids that are not unique.
            AudioError: a clip that cannot be decoded.
        """
        plan = self.plan(dataset, draw, parts)
        pool = concatenate_datasets([with_components(dataset), self.stacked_rows(dataset, plan, draw, num_proc)])
        return pool.select(self.places(len(dataset), plan))

    def plan(self, dataset: Dataset, draw: int = 0, parts: Sequence[int] | np.ndarray | None = None) -> StackingPlan:
        """Select and draw, without reading any audio: a function of the seed, the draw and the set of rows.

        Args:
            dataset: N rows of one split.
            draw: number of the draw.
            parts: (N,) part of each row; clips of different parts are never stacked together. None: one part.
        """
        stock = _Stock.of(dataset, self.same_speaker, parts)
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
        report = {"rows": len(dataset), "text_only": len(dataset) - len(with_audio), "short": len(short)}
        report |= {
            "without_partner": len(short) - len(stackable),
            "wanted": wanted,
            "stacked": len(components),
            "reached_target": reached,
        }
        return StackingPlan(components, report)

    def stacked_rows(
        self, dataset: Dataset, plan: StackingPlan, draw: int = 0, num_proc: int | None = None
    ) -> Dataset:
        """The stacked rows of a plan alone, in its order, with FLAC audio (arguments: [`__call__`])."""
        bases = list(plan.components)
        features = with_components(dataset).features
        if not bases:
            return with_components(dataset.select([]))
        # The recogniser's weights count too: a folder of the same name may hold others.
        facts = getattr(self.transcribe, "facts", None) if self.text == "asr" else None
        determined_by = ["sds", dataset._fingerprint, self, facts, draw, list(plan.components.values())]
        with quiet_workers():
            stacked = dataset.select(bases).map(
                _StackedRow(self, dataset, list(plan.components.values()), draw),
                with_indices=True,
                # without the type Audio while writing: datasets would want torchcodec for it
                features=Features({**features, "audio": {"bytes": Value("binary"), "path": Value("string")}}),
                num_proc=num_proc,
                new_fingerprint=Hasher.hash(determined_by),
                desc="Stacking clips",
            )
        return stacked.cast_column("audio", features["audio"])

    def places(self, rows: int, plan: StackingPlan) -> list[int]:
        """The order of the result as positions in (all rows, then the stacked ones): replaced in place, or
        appended."""
        order = list(range(rows))
        if self.mode == "append":
            return [*order, *range(rows, rows + len(plan.components))]
        for number, row in enumerate(plan.components):
            order[row] = rows + number
        return order

    def merge(self, rows: Sequence[Mapping[str, Any]], draw: int = 0) -> dict[str, Any]:
        """One row out of its components (the first gives id, label, split, ...), with the audio as samples at 16
        kHz."""
        clips = [decode_audio(row["audio"]) for row in rows]
        gap = np.zeros(round(self.gap_s * SAMPLING_RATE), np.float32)
        samples = np.concatenate([part for clip in clips for part in (gap, clip)][1:])
        starts = np.cumsum([0] + [len(clip) + len(gap) for clip in clips[:-1]])
        if self.text == "asr":
            assert self.transcribe is not None
            text = self.transcribe(samples, rows[0]["language"])
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
    """The data set with an empty column `components`, which says of every row that it is not stacked."""
    if "components" in dataset.column_names:
        return dataset
    # Dataset.add_column takes no nulls of a nested type
    empty = Dataset.from_dict({"components": [None] * len(dataset)}, features=Features({"components": COMPONENTS}))
    return concatenate_datasets([dataset, empty], axis=1)


@dataclass(frozen=True)
class _StackedRow:
    """The function of [`~datasets.Dataset.map`]; a class, so that it travels to other processes."""

    sds: StackedDataSampling
    dataset: Dataset
    components: Sequence[tuple[int, ...]]
    draw: int

    def __call__(self, _row: Mapping[str, Any], index: int) -> dict[str, Any]:
        merged = self.sds.merge([self.dataset[row] for row in self.components[index]], self.draw)
        return merged | {
            "audio": {
                "bytes": encode_flac(merged["audio"]["array"], merged["source"]),
                "path": f"{merged['id']}.flac",
            },
        }


@dataclass(frozen=True)
class _Stock:
    """The clips that may be stacked, by group, sorted by length.

    Attributes:
        ids, lengths: (N,) id and length in samples of every row, 0 without audio.
        groups: row -> (rows of its group by ascending length, their lengths); rows that nothing can join have none.
        position: row -> its place in its group.
    """

    ids: Sequence[str]
    lengths: Sequence[int]
    groups: Mapping[int, tuple[list[int], list[int]]]
    position: Mapping[int, int]

    @classmethod
    def of(cls, dataset: Dataset, same_speaker: bool, parts: Sequence[int] | np.ndarray | None = None) -> "_Stock":
        columns = dataset.select_columns(
            ["id", "corpus", "split", "language", "label", "speaker", "duration_s"]
        ).to_dict()
        ids = columns["id"]
        if len(splits := set(columns["split"])) > 1:
            raise ValueError(
                "SDS works on one split at a time, or test clips would get into train; these rows are of "
                f"{sorted(splits)}."
            )
        if len(set(ids)) < len(ids):
            raise ValueError("SDS: two rows have the same id; draws follow the ids, so they must be unique.")
        lengths = [round(duration * SAMPLING_RATE) if duration else 0 for duration in columns["duration_s"]]
        keys = zip(columns["corpus"], columns["language"], columns["label"], columns["speaker"], strict=True)
        members: dict[tuple, list[int]] = defaultdict(list)
        for row, (corpus, language, label, speaker) in enumerate(keys):
            if lengths[row] and not (same_speaker and speaker is None):
                part = None if parts is None else int(parts[row])
                members[part, corpus, language, label, speaker if same_speaker else None].append(row)
        groups, position = {}, {}
        for rows in members.values():
            rows.sort(key=lambda row: (lengths[row], ids[row]))
            group = (rows, [lengths[row] for row in rows])
            for place, row in enumerate(rows):
                groups[row], position[row] = group, place
        return cls(ids, lengths, groups, position)

    def has_partner(self, row: int, longest: float) -> bool:
        """Is there another clip of its group that is no longer than `longest` samples?"""
        if row not in self.groups:
            return False
        end = bisect_right(self.groups[row][1], longest)
        return end > (self.position[row] < end)

    def draw_partner(self, row: int, need: int, longest: float, top_k: int, rng: random.Random) -> int | None:
        """Another clip of the group, of `need` to `longest` samples, else one of the `top_k` longest that are no
        longer than that."""
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
    if all(row["soft_label"] is None for row in rows):
        return None
    hard = np.eye(len(EMOTIONS))
    labels = [
        hard[row["label"]] if row["soft_label"] is None else np.asarray(row["soft_label"], float) for row in rows
    ]
    mean = np.average(labels, axis=0, weights=weights)
    return (mean / mean.sum()).tolist()


def _shared(values: Any) -> str | None:
    found = set(values)
    return found.pop() if len(found) == 1 else None
