"""Find labels spelled out where a model, a prompt or a sort order could read them: file names, ids, texts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import DatasetDict

from ...data.schema import SPLITS
from ...labels import LABEL_ALIASES, label_key
from .give_away import LEAK_P_VALUE, give_away

FIELD_MARGIN = 0.2
"""UAR above chance from which a field of a name counts as a code of the label. Higher than for one key, since many
fields are tried."""

MAXIMUM_FIELDS = 10
"""Number of leading fields to try. The required p-value is divided by the number of fields."""

EXAMPLES = 5


def _spellings(splits: DatasetDict) -> list[set[str]]:
    """The words for each label, in label order."""
    names = map(label_key, splits["test"].features["label"].names)
    return [{name, *(alias for alias, label in LABEL_ALIASES.items() if label == name)} for name in names]


def name_fields(name: str) -> list[str]:
    """Split a file name into lower-case runs of letters and digits: `03-01-Happy_a01.wav` -> 03, 01, happy, a, 01,
    wav."""
    return re.findall(r"[^\W\d_]+|\d+", name.lower())


def audit_names(names: Mapping[str, str], splits: DatasetDict, seed: int = 0) -> dict[str, Any]:
    """Check whether names contain the label, as a word or as a code at a fixed position.

    Args:
        names: id -> name; rows without a name are ignored.
        splits: train, dev and test in the common schema.
        seed: of the p-values.

    Returns:
        `rows`; `word_rows`: names that contain a word for their own label; `examples` of these; `code_fields`:
            positions (from 0) whose content reveals the label on test, each with its `uar`; `leaks`.
    """
    fields, labels = {}, {}

    for split in SPLITS:
        chosen = [
            (names[name], label)
            for name, label in zip(splits[split]["id"], splits[split]["label"], strict=True)
            if name in names
        ]
        fields[split] = [name_fields(name) for name, _ in chosen]
        labels[split] = [label for _, label in chosen]

    spellings = _spellings(splits)
    spelt = [
        "_".join(parts)
        for split in SPLITS
        for parts, label in zip(fields[split], labels[split], strict=True)
        if spellings[label] & set(parts)
    ]
    codes = []
    longest = max((len(parts) for parts in fields["test"]), default=0) if fields["train"] else 0
    places = min(longest, MAXIMUM_FIELDS)

    for place in range(places):
        keys = {
            split: [parts[place] if place < len(parts) else None for parts in fields[split]]
            for split in ("train", "test")
        }
        if len(set(keys["train"])) > 1:
            told = give_away(keys["train"], labels["train"], keys["test"], labels["test"], seed)
            if told["uar"] - told["chance_uar"] >= FIELD_MARGIN and told["p_value"] <= LEAK_P_VALUE / places:
                codes.append({"field": place, "uar": told["uar"]})

    return {
        "rows": sum(map(len, labels.values())),
        "word_rows": len(spelt),
        "examples": spelt[:EXAMPLES],
        "code_fields": sorted(codes, key=lambda code: -code["uar"]),
        "leaks": bool(spelt or codes),
    }


def label_words_in_texts(splits: DatasetDict) -> dict[str, int]:
    """Count English test texts with a word for their own label. The speaker says it, so this is not a leak, but useful
    to know.
    """
    test, spellings = splits["test"], _spellings(splits)
    rows = zip(test["text"], test["language"], test["label"], strict=True)
    english: Sequence[tuple[str, int]] = [(text, label) for text, language, label in rows if language == "en" and text]

    return {
        "english_rows": len(english),
        "word_rows": sum(bool(spellings[label] & set(name_fields(text))) for text, label in english),
    }
