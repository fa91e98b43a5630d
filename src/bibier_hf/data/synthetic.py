"""Corpora that augmentation writes: template utterances with or without speech, and splits with stacked rows."""

import math
import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from datasets import Dataset, DatasetDict, Features
from pydantic import Field

from ..augmentation.sds import COMPONENTS
from ..augmentation.tts import EMOTION_PROSODY, Utterance
from ..augmentation.tug import TemplateUtteranceGeneration
from ..commandline import Section
from ..errors import ArgumentError
from ..model.audio_bibier import decode_audio
from ..sampling import sample_by_hash
from .clips import Clip, neutral_id
from .corpora.quickstart import ACCENTS, VARIANTS, vary_prosody
from .label_maps import LabelReader, relabeled_rows
from .prepare import load_prepared, write_corpus
from .schema import COLUMNS, FEATURES
from .schema import features as schema_features

Share = Annotated[float, Field(ge=0, le=1)]

ESPEAK_VOICES: Mapping[str, tuple[str, ...]] = {
    language: tuple(f"{accent}+{variant}" for accent in accents for variant in VARIANTS["train"][:8])
    for language, accents in ACCENTS.items()
}
"""Language -> voices of eSpeak for synthetic training rows: the first eight of those that the quickstart
corpus uses for train only."""


class SyntheticRows(Section):
    """Synthetic rows to add to the train split of a corpus, such as `bibier augment tug` writes."""

    path: str = Field(description="prepared corpus with synthetic rows")
    ratio: Share | dict[str, Share] = Field(
        1.0, description="share of its rows to take: a number, or {label: number} with no rows of the other labels"
    )
    seed: int = Field(42, ge=0, description="seed of the choice")

    def choose(self, train: Dataset) -> tuple[Dataset, dict[str, Any]]:
        """Choose floor(ratio * available) rows of each class, uniformly without replacement.

        Args:
            train: the rows that they are added to; synthetic rows in other languages are not available.

        Returns:
            the rows, as rows of the corpus of `train`, and how many of each label were available and used.

        Raises:
            CorpusError: labels that the corpus does not have.
            ArgumentError: no synthetic rows at `path`, rows that are not synthetic, or none in the languages of the
                corpus.
            FileNotFoundError: no prepared corpus at `path`.
        """
        prepared = load_prepared(self.path)
        if "train" not in prepared:
            raise ArgumentError(f"augmentation.synthetic.path: {self.path} has no train split.")
        labels = train.features["label"].names
        rows = relabeled_rows(prepared["train"].select_columns(list(COLUMNS)), LabelReader(labels))
        if others := set(rows["source"]) - {"synthetic"}:
            raise ArgumentError(
                f"augmentation.synthetic.path: {self.path} holds rows that are {' and '.join(sorted(others))}, not "
                "synthetic. Give them as a separate corpus, which a protocol then splits."
            )
        languages = set(train["language"])
        available: dict[str, list[int]] = {label: [] for label in labels}
        columns = rows.select_columns(["id", "language", "label"]).to_dict()
        for row, (language, label) in enumerate(zip(columns["language"], columns["label"], strict=True)):
            if language in languages:
                available[labels[label]].append(row)
        if not any(available.values()):
            raise ArgumentError(
                f"augmentation.synthetic.path: {self.path} holds {', '.join(sorted(set(columns['language'])))}, "
                f"but the corpus is in {', '.join(sorted(languages))}."
            )
        ratios = self.ratio if isinstance(self.ratio, dict) else dict.fromkeys(labels, self.ratio)
        if unknown := [name for name in ratios if name not in labels]:
            raise ArgumentError(
                f"augmentation.synthetic.ratio: there is no label {unknown[0]!r}; there are {', '.join(labels)}."
            )
        chosen = []
        for label, members in available.items():
            wanted = math.floor(ratios.get(label, 0.0) * len(members) + 1e-9)
            chosen += sample_by_hash(members, wanted, columns["id"].__getitem__, self.seed)
        selected = rows.select(sorted(chosen))
        used = Counter(labels[label] for label in selected["label"])
        corpus = train["corpus"][0]
        for name, value in (("corpus", corpus), ("split", "train")):
            column = [value] * len(selected)
            selected = selected.remove_columns(name).add_column(name, column, feature=rows.features[name])
        counts = {label: {"available": len(members), "used": used[label]} for label, members in available.items()}
        return selected.select_columns(list(COLUMNS)).cast(train.features), counts


def balancing_counts(labels: Iterable[str], names: Iterable[str]) -> dict[str, int]:
    """Return how many rows each of the label set lacks to reach the size of the largest class."""
    counts = Counter(labels)
    largest = max(counts.values(), default=0)
    return {name: largest - counts[name] for name in names}


def plan_utterances(
    counts: Mapping[str, Mapping[str, int]],
    tug: TemplateUtteranceGeneration,
    voices: Mapping[str, Sequence[str]] | None = None,
    name: str = "tug",
) -> list[Utterance]:
    """Create template utterances with ids, voices and prosody.

    An utterance depends only on the seed, its language and emotion, and its number, not on other utterances.

    Args:
        counts: language -> emotion -> number.
        tug: source of the texts, and the seed.
        voices: language -> voices to choose from; None for the default of the back end.
        name: name of the corpus.

    Returns:
        the utterances sorted by id, so that emotions and languages are mixed.

    Raises:
        ComponentError: more utterances than the components give.
    """
    utterances = []
    for language, by_emotion in counts.items():
        for emotion, count in by_emotion.items():
            for number, text in enumerate(tug.sample(emotion, language, count)):
                rng = random.Random(f"{tug.seed}/{language}/{emotion}/{number}/voice")
                utterances.append(
                    Utterance(
                        text=text,
                        language=language,
                        id=neutral_id(name, f"{language}/{emotion}/{text}"),
                        voice=rng.choice(voices[language]) if voices else None,
                        prosody=vary_prosody(EMOTION_PROSODY[emotion], rng),
                        emotion=emotion,
                    )
                )

    return sorted(utterances, key=lambda utterance: utterance.id)


def write_utterances(
    utterances: Sequence[Utterance],
    files: Mapping[str, Path | None],
    output_dir: str | os.PathLike,
    *,
    name: str,
    license: str,
    **facts: Any,
) -> dict[str, Any]:
    """Write utterances as the train split of a prepared corpus with the source `synthetic`.

    Args:
        utterances: utterances with ids and emotions ([`plan_utterances`]).
        files: id -> speech ([`~bibier_hf.augmentation.tts.corpus.speak_all`]), or None for a text-only row. Utterances
            that are missing here are left out.
        output_dir: folder of the corpus.
        name: value of the column `corpus`.
        license: license of every row.
        facts: how the utterances were made, for `corpus.json`.

    Returns:
        the content of `corpus.json`.

    Raises:
        CorpusError: a folder with other content.
    """
    clips = [
        Clip(
            id=utterance.id,
            split="train",
            label=utterance.emotion or "",  # "" is refused
            language=utterance.language,
            audio=files[utterance.id],
            text=utterance.text,
            speaker=utterance.voice,
            source="synthetic",
            license=license,
            where=repr(utterance.text),
        )
        for utterance in utterances
        if utterance.id in files
    ]
    facts |= {
        "name": name,
        "reader": "tug",
        "title": "Template utterances",
        "homepage": "made by this package",
        "not_to_rehost": "",
    }
    return write_corpus(clips, facts, FEATURES, output_dir)


def write_stacked(splits: DatasetDict, facts: Mapping[str, Any], output_dir: str | os.PathLike) -> dict[str, Any]:
    """Write splits, whose train rows may be stacked and have `components`, as a prepared corpus.

    Args:
        splits: splits in the common schema; columns other than `components` are not written.
        facts: see [`~bibier_hf.data.prepare.write_corpus`].
        output_dir: folder of the corpus.

    Raises:
        CorpusError: a folder with other content.
    """
    features = Features(
        {**schema_features(next(iter(splits.values())).features["label"].names), "components": COMPONENTS}
    )
    clips = [clip for rows in splits.values() for clip in _clips(rows)]
    return write_corpus(clips, facts, features, output_dir)


def _clips(rows: Dataset) -> list[Clip]:
    """Convert rows to clips, whose audio is not read until it is written."""
    kept = ("id", "split", "language", "text", "speaker", "dialogue", "soft_label", "source", "license")
    clips = []
    for index, row in enumerate(rows.remove_columns("audio")):
        clip = Clip(
            **{name: row[name] for name in kept},
            label=rows.features["label"].names[row["label"]],
            audio=None if row["duration_s"] is None else partial(_samples, rows, index),
            audio_key=row["id"],
            extra={"components": row.get("components")},
            where=row["id"],
        )
        clips.append(clip)

    return clips


def _samples(rows: Dataset, index: int) -> np.ndarray:
    return decode_audio(rows[index]["audio"])
