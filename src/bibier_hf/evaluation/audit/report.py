"""Audit one split of a corpus, judge it in plain words, and render a page of several audits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import DatasetDict

from ...data.schema import SPLITS
from ...tables import markdown_table
from .duplicates import AUDIO_SIMILARITY, TEXT_SIMILARITY, HeardClip, audit_audio, audit_texts, functionals_of
from .groups import GROUPS, audit_group, audit_voices
from .names import audit_names, label_words_in_texts

LISTED_PAIRS = 10
"""Pairs of duplicates shown on the page; the JSON file has all of them."""


def audit_splits(
    splits: DatasetDict,
    heard: Mapping[str, HeardClip],
    file_names: Mapping[str, str] | None = None,
    text_similarity: float = TEXT_SIMILARITY,
    audio_similarity: float = AUDIO_SIMILARITY,
    seed: int = 0,
) -> dict[str, Any]:
    """Audit test against train.

    Args:
        splits: train, dev and test in the common schema, from `apply_protocol`.
        heard: recordings from `hear_corpus`; empty for a corpus of texts.
        file_names: id -> name of the recording in the raw corpus; None if only the prepared corpus is available.
        text_similarity, audio_similarity: thresholds from which two rows count as nearly the same.
        seed: of the p-values.

    Returns:
        always these keys:
        `samples` of each split;
        `verdict`: `{"leaks": bool, "reasons": [...], "notes": [...], "skipped": [...]}`, as sentences;
        `groups`: `{"speaker": ..., "dialogue": ...}` ([`audit_group`]), None if the corpus names none;
        `who_speaks`: [`audit_voices`], or None if it cannot be measured;
        `duplicates`: `{"texts": ... or None, "audio": ... or None}`;
        `label_tokens`: `{"ids": ..., "file_names": ... or None, "texts": ...}`.
    """
    skipped = []
    groups: dict[str, Any] = {}

    for kind in GROUPS:
        named = all(any(name is not None for name in splits[split][kind]) for split in ("train", "test"))
        groups[kind] = audit_group(splits, kind, seed) if named else None
        if not named:
            skipped.append(f"{kind}s: train or test names none")

    who_speaks, audio = None, None

    if not all(any(name in heard for name in splits[split]["id"]) for split in ("train", "test")):
        skipped.append("who speaks and duplicate recordings: train or test has no audio")
    else:
        audio = audit_audio(splits, heard, audio_similarity)
        train = zip(splits["train"]["speaker"], splits["train"]["id"], strict=True)
        speakers = {speaker for speaker, name in train if speaker and name in heard}
        if len(speakers) < 2:
            skipped.append(f"who speaks: {len(speakers)} named speakers with audio in train, at least 2 are needed")
        else:
            functionals = {split: functionals_of(splits[split], heard) for split in ("train", "test")}
            who_speaks = audit_voices(splits, functionals, seed)

    texts = None

    if all(any(splits[split]["text"]) for split in ("train", "test")):
        texts = audit_texts(splits, text_similarity, seed)
    else:
        skipped.append("duplicate texts: train or test has no text")

    if not file_names:
        skipped.append("file names: only the prepared corpus was given, or it has no files")

    audit = {
        "samples": {split: len(splits[split]) for split in SPLITS},
        "groups": groups,
        "who_speaks": who_speaks,
        "duplicates": {"texts": texts, "audio": audio},
        "label_tokens": {
            "ids": audit_names({name: name for split in SPLITS for name in splits[split]["id"]}, splits, seed),
            "file_names": audit_names(file_names, splits, seed) if file_names else None,
            "texts": label_words_in_texts(splits),
        },
    }

    return {"verdict": judge(audit) | {"skipped": skipped}} | audit


def judge(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Judge an audit: what leaks, and what is worth knowing although it does not leak.

    A leak is a group, text or voice that test shares with train and that predicts the label better than chance, a
    recording in both, or an id that contains the label. A group that crosses the split but reveals nothing is a note.
    """
    reasons, notes = [], []
    tests = audit["samples"]["test"]

    def weigh(finding: str, source: str, told: Mapping[str, Any]) -> None:
        """Call a finding a leak if its source of labels beats chance."""
        if told["leaks"]:
            reasons.append(f"{finding}; {source} scores {_score(told)}")
        else:
            notes.append(f"{finding}, but {source} is no better than chance ({_score(told)})")

    for kind, group in audit["groups"].items():
        if group is not None and group["known_rows"]:
            shared = f"{group['known_rows']} of {tests} test rows have a {kind} that is in train too"
            weigh(shared, f"the {kind}'s most common label", group["label_from_group"])

    voices = audit["who_speaks"]
    if voices is not None and voices["known_rows"]:
        accuracy = _percent(voices["speaker_accuracy"])
        recognized = f"a classifier of speakers that sees no emotion recognizes {accuracy} of the known voices"
        weigh(recognized, "naming the speaker's most common label", voices["label_from_voice"])

    for what, key in (("text", "texts"), ("recording", "audio")):
        duplicates = audit["duplicates"][key]
        count = duplicates and duplicates["exact_rows"] + duplicates["near_rows"]
        if not count:
            continue

        shared = (
            f"{count} of {tests} test rows have a {what} that is in train too ({duplicates['exact_rows']} exactly)"
        )
        if what == "text":
            weigh(shared, "its label there", duplicates["label_from_text"])
        else:
            reasons.append(shared)

    for what, key, found in (("ids", "ids", reasons), ("file names of the raw corpus", "file_names", notes)):
        names = audit["label_tokens"][key]
        if names is None or not names["leaks"]:
            continue

        signs = [f"{names['word_rows']} of {names['rows']} spell out their label"] if names["word_rows"] else []
        if names["code_fields"]:
            best = names["code_fields"][0]
            signs.append(f"field {best['field']} alone scores UAR {_percent(best['uar'])}")
        found.append(f"the {what} carry the label: {' and '.join(signs)}")

    spoken = audit["label_tokens"]["texts"]
    if spoken["word_rows"]:
        notes.append(f"{spoken['word_rows']} of {spoken['english_rows']} English test texts name their own label")

    return {"leaks": bool(reasons), "reasons": reasons, "notes": notes}


def render_page(audits: Sequence[Mapping[str, Any]]) -> str:
    """Render a Markdown page of audits that each have a `title` in addition to the keys of [`audit_splits`]."""
    parts = ["# Leakage audit", "", *_overview(audits)]

    for audit in audits:
        verdict = audit["verdict"]
        parts += ["", f"## {audit['title']}: {'leaks' if verdict['leaks'] else 'none found'}", ""]
        parts += [f"- **leak**: {reason}." for reason in verdict["reasons"]]
        parts += [f"- note: {note}." for note in verdict["notes"]]
        parts += [f"- not audited: {reason}." for reason in verdict["skipped"]]
        parts += _crossing(audit)

        for what, duplicates in audit["duplicates"].items():
            parts += _listed(what, duplicates)

    return "\n".join(parts) + "\n"


def _overview(audits: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["What scores on test without hearing the emotion (UAR / WF1 in percent; a dash: not to be had).", ""]
    sources = ["speaker's label", "dialogue's label", "voice (SVM)", "text's label"]
    head = ["split", "test rows", *sources, "chance UAR", "verdict"]
    rows = []

    for audit in audits:
        told = label_sources(audit)
        cells = [f"{100 * entry['uar']:.1f} / {100 * entry['wf1']:.1f}" if entry else None for entry in told.values()]
        chances = {round(100 * entry["chance_uar"], 1) for entry in told.values() if entry}
        chance = ", ".join(f"{value:.1f}" for value in sorted(chances)) or "–"
        verdict = "leaks" if audit["verdict"]["leaks"] else "none found"
        rows.append([audit["title"], audit["samples"]["test"], *cells, chance, verdict])

    return [*lines, markdown_table(head, rows)]


def label_sources(audit: Mapping[str, Any]) -> dict[str, dict[str, Any] | None]:
    """Return `{"speaker", "dialogue", "voice", "text"}` -> how well it predicts test labels, None if not audited."""
    groups, voices, texts = audit["groups"], audit["who_speaks"], audit["duplicates"]["texts"]
    return {
        **{kind: groups[kind] and groups[kind]["label_from_group"] for kind in GROUPS},
        "voice": voices and voices["label_from_voice"],
        "text": texts and texts["label_from_text"],
    }


def shared_rows(audit: Mapping[str, Any]) -> dict[str, float | None]:
    """Return `{"speaker", "dialogue", "text", "recording"}` -> share of test rows that train has as well, None if not
    audited.
    """
    groups, duplicates = audit["groups"], audit["duplicates"]
    found = {kind: groups[kind] for kind in GROUPS} | {"text": duplicates["texts"], "recording": duplicates["audio"]}

    return {what: entry and entry["share_of_test_rows"] for what, entry in found.items()}


def merge_folds(folds: Sequence[Mapping[str, float | None]]) -> dict[str, tuple[float, float, float] | None]:
    """Return mean, minimum and maximum over the folds of each entry; None if no fold has it."""
    merged: dict[str, tuple[float, float, float] | None] = {}

    for name in folds[0]:
        numbers = [value for fold in folds if (value := fold[name]) is not None]
        merged[name] = (float(np.mean(numbers)), min(numbers), max(numbers)) if numbers else None

    return merged


def _crossing(audit: Mapping[str, Any]) -> list[str]:
    rows = []

    for kind, group in audit["groups"].items():
        if group is not None:
            sizes = [f"{count} in {split}" for split, count in group["groups"].items()]
            shared = [f"{len(names)} in {pair.replace('+', ' and ')}" for pair, names in group["crossing"].items()]
            rows.append([f"{kind}s", ", ".join(sizes), ", ".join(shared), _percent(group["share_of_test_rows"])])

    return ["", markdown_table(["groups", "number", "crossing", "test rows touched"], rows)] if rows else []


def _listed(what: str, duplicates: Mapping[str, Any] | None) -> list[str]:
    if not duplicates or not duplicates["pairs"]:
        return []

    pairs = duplicates["pairs"]
    rows = [
        [pair["test"], pair["train"], f"{pair['similarity']:.2f}", "same" if pair["same_label"] else "another"]
        for pair in pairs[:LISTED_PAIRS]
    ]
    parts = ["", markdown_table([f"{what}: test", "train", "similarity", "label"], rows)]

    if len(pairs) > LISTED_PAIRS:
        parts += ["", f"... and {len(pairs) - LISTED_PAIRS} more in the JSON file."]

    return parts


def _score(told: Mapping[str, Any]) -> str:
    return f"UAR {_percent(told['uar'])}, WF1 {_percent(told['wf1'])}; chance UAR {_percent(told['chance_uar'])}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
