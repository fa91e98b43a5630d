"""Measure how much a key reveals about the label: the question behind all parts of the audit.

A key is anything that a test row may share with train rows: its speaker, dialogue, text, or a field of its file name.
Someone who knows only the key answers with the most common label of that key in train. If this beats chance, a model
can score without hearing the emotion.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..metrics import classification_metrics

LEAK_MARGIN = 0.05
"""UAR above chance from which a key counts as revealing the label,"""

LEAK_P_VALUE = 0.01
"""and only if shuffled labels reach this UAR this rarely, which protects small test sets from false alarms."""

PERMUTATIONS = 1000


def majority_labels(keys: Sequence[Hashable | None], labels: ArrayLike) -> dict[Hashable, int]:
    """Return key -> its most common label (the first in label order if tied); rows with the key None are ignored."""
    counts: dict[Hashable, Counter] = defaultdict(Counter)

    for key, label in zip(keys, np.asarray(labels), strict=True):
        if key is not None:
            counts[key][int(label)] += 1

    return {key: max(sorted(counter), key=counter.__getitem__) for key, counter in counts.items()}


def answer_by_key(
    train_keys: Sequence[Hashable | None], train_labels: ArrayLike, test_keys: Sequence[Hashable | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Answer each test row with the most common train label of its key, or of all of train if the key is unknown.

    Returns:
        labels (N,), and whether the key is known (N,).
    """
    table = majority_labels(train_keys, train_labels)
    (fallback,) = majority_labels([0] * len(np.asarray(train_labels)), train_labels).values()
    known = np.array([key is not None and key in table for key in test_keys], dtype=bool)

    return np.array([table.get(key, fallback) for key in test_keys]), known


def score_answers(labels: ArrayLike, answers: ArrayLike, seed: int = 0) -> dict[str, Any]:
    """Score answers that do not come from hearing the emotion, and compare them with chance.

    Args:
        labels: (N,) true classes.
        answers: (N,) answers.
        seed: of the shuffles for `p_value`.

    Returns:
        `uar, war, mf1, wf1, mean`; `chance_uar`, the UAR of any answer that is independent of the label; `p_value`,
            the share of shuffles of the labels that reach this UAR; `leaks`, whether UAR exceeds chance by
            `LEAK_MARGIN` and the p-value is at most `LEAK_P_VALUE`.
    """
    labels, answers = np.asarray(labels), np.asarray(answers)
    metrics = classification_metrics(labels, answers)
    classes, places, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    weights = 1 / (len(classes) * sizes[places])  # UAR is the sum of these over the correct rows
    generator = np.random.default_rng(seed)
    reached = 0

    for _ in range(PERMUTATIONS):
        order = generator.permutation(len(labels))
        reached += weights[order][labels[order] == answers].sum() >= metrics["uar"] - 1e-12

    chance, p_value = 1 / len(classes), (1 + int(reached)) / (1 + PERMUTATIONS)
    leaks = bool(metrics["uar"] - chance >= LEAK_MARGIN and p_value <= LEAK_P_VALUE)

    return metrics | {"chance_uar": chance, "p_value": p_value, "leaks": leaks}


def give_away(
    train_keys: Sequence[Hashable | None],
    train_labels: ArrayLike,
    test_keys: Sequence[Hashable | None],
    test_labels: ArrayLike,
    seed: int = 0,
) -> dict[str, Any]:
    """Return [`score_answers`] of [`answer_by_key`], and `known_rows`, the test rows whose key occurs in train."""
    answers, known = answer_by_key(train_keys, train_labels, test_keys)
    return {"known_rows": int(known.sum())} | score_answers(test_labels, answers, seed)
