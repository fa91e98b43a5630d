"""Find groups (speakers and dialogues) that cross a split, and measure what they reveal about the label."""

from itertools import combinations
from typing import Any

import numpy as np
from datasets import DatasetDict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ...data.schema import SPLITS
from .give_away import give_away, majority_labels, score_answers

GROUPS = ("speaker", "dialogue")
"""Columns of the common schema that name a group."""


def audit_group(splits: DatasetDict, kind: str, seed: int = 0) -> dict[str, Any]:
    """Find the groups of one kind that are in more than one split, and measure what they reveal about test labels.

    Args:
        splits: train, dev and test in the common schema.
        kind: one of `GROUPS`.
        seed: of the p-value.

    Returns:
        `groups`: number per split; `crossing`: names shared by two splits, such as `{"train+test": [...]}`;
            `unnamed_rows`: test rows without a group; `known_rows`, `share_of_test_rows`: test rows whose group is in
                train;
            `label_from_group`: [`give_away`].
    """
    names = {split: splits[split][kind] for split in SPLITS}
    sets = {split: set(values) - {None} for split, values in names.items()}
    from_group = give_away(names["train"], splits["train"]["label"], names["test"], splits["test"]["label"], seed)
    known = from_group.pop("known_rows")

    return {
        "groups": {split: len(values) for split, values in sets.items()},
        "crossing": {f"{one}+{other}": sorted(sets[one] & sets[other]) for one, other in combinations(SPLITS, 2)},
        "unnamed_rows": sum(name is None for name in names["test"]),
        "known_rows": known,
        "share_of_test_rows": known / len(names["test"]),
        "label_from_group": from_group,
    }


def audit_voices(splits: DatasetDict, functionals: dict[str, np.ndarray], seed: int = 0) -> dict[str, Any]:
    """Measure whether one can hear who speaks, and what that reveals about the label.

    A linear support vector machine learns the speakers of train from MFCC statistics. A test clip gets the most common
    label of its predicted speaker. The classifier never sees an emotion.

    Args:
        splits: train, dev and test; train has at least two speakers.
        functionals: MFCC statistics (N, F) per split, NaN for a row without audio.
        seed: of the p-value.

    Returns:
        `speakers`: number of speakers learned; `known_rows`: test clips by one of them; `speaker_accuracy` over these
            (None if there are none); `chance_speaker_accuracy`, that of the most common train speaker;
            `label_from_voice`: [`score_answers`] over all test clips.
    """
    speakers = {split: np.array(splits[split]["speaker"], dtype=object) for split in ("train", "test")}
    labels = {split: np.asarray(splits[split]["label"]) for split in ("train", "test")}
    heard = {split: ~np.isnan(functionals[split][:, 0]) for split in ("train", "test")}
    learned = heard["train"] & np.array([name is not None for name in speakers["train"]])
    names = speakers["train"][learned].astype(str)
    classifier = speaker_classifier().fit(functionals["train"][learned], names)
    taken_for = classifier.predict(functionals["test"][heard["test"]])
    truth = speakers["test"][heard["test"]]
    known = np.isin(truth.astype(str), names) & np.array([name is not None for name in truth])
    label_of = majority_labels(names.tolist(), labels["train"][learned])
    answers = [label_of[name] for name in taken_for.tolist()]
    (commonest,) = np.unique(names)[[np.unique(names, return_counts=True)[1].argmax()]]

    return {
        "speakers": len(label_of),
        "known_rows": int(known.sum()),
        "speaker_accuracy": float((taken_for == truth)[known].mean()) if known.any() else None,
        "chance_speaker_accuracy": float((truth == commonest)[known].mean()) if known.any() else None,
        "label_from_voice": score_answers(labels["test"][heard["test"]], answers, seed),
    }


def speaker_classifier():
    """Return a linear support vector machine on standardized MFCC statistics, for some hundred speakers with few
    clips."""
    return make_pipeline(StandardScaler(), SVC(kernel="linear", C=0.01))
