"""Groups that cross a split, and what they give away: speakers and dialogues."""

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
    """Which groups of a kind stand in more than one split, and what knowing the group of a test row tells about its
    label.

    Args:
        splits: train, dev and test in the common schema.
        kind: one of `GROUPS`.
        seed: of the p-value.

    Returns:
        `groups`: number in each split; `crossing`: names in both of two splits, such as `{"train+test": [...]}`;
            `unnamed_rows`: rows of
        test without a group; `known_rows`, `share_of_test_rows`: rows of test whose group is in train;
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
    """Can it be heard who speaks, and what does that tell about the label?

    A linear support vector machine learns the speakers of train from MFCC statistics; a clip of test gets the
    commonest label of the speaker that it is taken for. It never sees an emotion.

    Args:
        splits: train, dev and test, whose train split has at least two speakers.
        functionals: MFCC statistics (N, F) of each split, NaN for a row without audio.
        seed: of the p-value.

    Returns:
        `speakers`: number learnt; `known_rows`: clips of test by one of them; `speaker_accuracy` over these (None if
            there are none) and
        `chance_speaker_accuracy`, that of the commonest speaker of train; `label_from_voice`: [`score_answers`] over
        all clips of test.
    """
    speakers = {split: np.array(splits[split]["speaker"], dtype=object) for split in ("train", "test")}
    labels = {split: np.asarray(splits[split]["label"]) for split in ("train", "test")}
    heard = {split: ~np.isnan(functionals[split][:, 0]) for split in ("train", "test")}
    learnt = heard["train"] & np.array([name is not None for name in speakers["train"]])
    names = speakers["train"][learnt].astype(str)
    classifier = speaker_classifier().fit(functionals["train"][learnt], names)
    taken_for = classifier.predict(functionals["test"][heard["test"]])
    truth = speakers["test"][heard["test"]]
    known = np.isin(truth.astype(str), names) & np.array([name is not None for name in truth])
    label_of = majority_labels(names.tolist(), labels["train"][learnt])
    (commonest,) = np.unique(names)[[np.unique(names, return_counts=True)[1].argmax()]]

    return {
        "speakers": len(label_of),
        "known_rows": int(known.sum()),
        "speaker_accuracy": float((taken_for == truth)[known].mean()) if known.any() else None,
        "chance_speaker_accuracy": float((truth == commonest)[known].mean()) if known.any() else None,
        "label_from_voice": score_answers(
            labels["test"][heard["test"]], [label_of[name] for name in taken_for.tolist()], seed
        ),
    }


def speaker_classifier():
    """Linear support vector machine on standardised MFCC statistics, for some hundred speakers with few clips each."""
    return make_pipeline(StandardScaler(), SVC(kernel="linear", C=0.01))
