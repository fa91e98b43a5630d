"""Stacked data sampling: what is stacked, of what, and that nothing but seed, draw and rows decides it."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bibier_hf.asr import SpeechRecognizer
from bibier_hf.augmentation.sds import StackedDataSampling, with_components
from bibier_hf.model.audio_bibier import decode_audio

ALL_SHORT = [4_000, 6_000, 5_000, 7_000, 3_000, 8_000, 2_000, 9_000, 6_500, 4_500, 5_500, 7_500]
STACK = StackedDataSampling(target_s=1.0, share=1.0)

lengths = st.lists(st.none() | st.integers(100, 30_000), min_size=1, max_size=40)
options = st.fixed_dictionaries(
    {
        "target_s": st.sampled_from([0.5, 1.0]),
        "share": st.sampled_from([0.0, 0.29, 0.7, 1.0]),
        "share_of": st.sampled_from(["all", "short"]),
        "same_speaker": st.booleans(),
        "gap_s": st.sampled_from([0.0, 0.1]),
        "max_s": st.sampled_from([None, 1.2]),
        "top_k": st.integers(1, 4),
        "mode": st.sampled_from(["replace", "append"]),
        "seed": st.integers(0, 3),
    }
)


def plain_plan(sds: StackedDataSampling, dataset, draw: int) -> dict[int, tuple[int, ...]]:
    """The procedure as it is told: every list of candidates is written out, nothing is sorted ahead or searched by
    halves."""
    rows = dataset.remove_columns("audio").to_list()
    length = [round((row["duration_s"] or 0) * 16_000) for row in rows]
    target, gap = round(sds.target_s * 16_000), round(sds.gap_s * 16_000)
    limit = float("inf") if sds.max_s is None else round(sds.max_s * 16_000)

    def candidates(base: int, room: float) -> list[int]:
        same = ("corpus", "language", "label", *(["speaker"] if sds.same_speaker else []))
        found = [
            other
            for other in range(len(rows))
            if other != base
            and 0 < length[other] <= room
            and all(rows[other][name] == rows[base][name] for name in same)
        ]
        return sorted(found, key=lambda other: (length[other], rows[other]["id"]))

    def rank(row: int) -> bytes:
        return hashlib.sha256(f"{sds.seed}/{draw}/{rows[row]['id']}".encode()).digest()

    short = [row for row in range(len(rows)) if 0 < length[row] < target]
    base_of_share = short if sds.share_of == "short" else [row for row in range(len(rows)) if length[row]]
    with_partner = [row for row in short if candidates(row, limit - length[row] - gap)]
    plan = {}
    for row in sorted(sorted(with_partner, key=rank)[: int(sds.share * len(base_of_share) + 1e-9)]):
        rng = random.Random(f"{sds.seed}/{draw}/{rows[row]['id']}")
        chosen, current = [row], length[row]
        while current < target:
            possible = candidates(row, limit - current - gap)
            long_enough = [other for other in possible if length[other] >= target - current - gap]
            among = long_enough or possible[-sds.top_k :]
            if not among:
                break
            partner = among[rng.randrange(len(among))]
            if partner in chosen:
                break
            chosen.append(partner)
            current += gap + length[partner]
        plan[row] = tuple(chosen)
    return plan


@settings(max_examples=60, deadline=None)
@given(lengths, options, st.integers(0, 2))
def test_the_plan_is_that_of_the_procedure_as_it_is_told(rows, lengths, options, draw):
    dataset = rows(lengths, with_audio=False)
    sds = StackedDataSampling(**options)
    plan = sds.plan(dataset, draw)
    assert plan.components == plain_plan(sds, dataset, draw)
    report = plan.report
    assert report["rows"] == len(lengths)
    assert report["text_only"] == lengths.count(None)
    assert (
        report["stacked"] == len(plan.components) == min(report["wanted"], report["short"] - report["without_partner"])
    )
    shuffled = dataset.shuffle(seed=draw)
    names = dataset["id"], shuffled["id"]
    assert {
        names[1][row]: [names[1][part] for part in parts] for row, parts in sds.plan(shuffled, draw).components.items()
    } == {names[0][row]: [names[0][part] for part in parts] for row, parts in plan.components.items()}


@settings(max_examples=25, deadline=None)
@given(lengths, options)
def test_what_holds_for_every_result(rows, lengths, options):
    dataset = rows(lengths)
    sds = StackedDataSampling(**options)
    plan = sds.plan(dataset)
    result = sds(dataset)
    originals = {row["id"]: row for row in dataset}
    stacked = [row for row in result if row["source"] == "stacked"]
    untouched = [row for row in result if row["source"] != "stacked"]
    assert len(stacked) == plan.report["stacked"]
    assert len(result) == len(dataset) + (len(stacked) if sds.mode == "append" else 0)
    assert len(set(result["id"])) == len(result)
    assert all(row | {"components": None} == originals[row["id"]] | {"components": None} == row for row in untouched)
    longest = max((length for length in lengths if length), default=0)
    for row in stacked:
        parts = [originals[part["id"]] for part in row["components"]]
        base = parts[0]
        assert len(parts) > 1
        assert len({part["id"] for part in parts}) == len(parts)
        assert all(row[name] == base[name] for name in ("corpus", "split", "language", "label"))
        assert all(part[name] == row[name] for part in parts for name in ("corpus", "split", "language", "label"))
        assert row["speaker"] == (base["speaker"] if len({part["speaker"] for part in parts}) == 1 else None)
        assert not sds.same_speaker or row["speaker"]
        assert row["text"] == " ".join(part["text"] for part in parts)
        # the audio is that of the components, silence between them
        samples = decode_audio(row["audio"])
        assert len(samples) == round(row["duration_s"] * 16_000)
        assert len(samples) < sds.target_s * 16_000 + round(sds.gap_s * 16_000) + longest
        assert sds.max_s is None or len(samples) <= sds.max_s * 16_000
        expected = np.zeros_like(samples)
        for part, component in zip(parts, row["components"], strict=True):
            start = round(component["offset_s"] * 16_000)
            clip = decode_audio(part["audio"])
            assert len(clip) == round(component["duration_s"] * 16_000)
            expected[start : start + len(clip)] = clip
        np.testing.assert_array_equal(samples, expected)


def test_the_example_by_hand(rows):
    # rows 0, 2, 4 are of one group: 0.25 s, 0.6 s, 0.7 s
    dataset = rows([4_000, 4_000, 9_600, 4_000, 11_200], label=[0] * 5)
    sds = StackedDataSampling(target_s=0.9, share=0.2, seed=0, gap_s=0.05)
    plans = [sds.plan(dataset, draw).components for draw in range(40)]
    assert {len(plan) for plan in plans} == {1}
    # 0.25 + 0.05 + 0.6 is exactly the target: row 2 is long enough, and so is row 4
    assert {plan[0] for plan in plans if 0 in plan} == {(0, 2), (0, 4)}
    # 0.6 + 0.05 + 0.25 = 0.9
    assert {plan[2] for plan in plans if 2 in plan} == {(2, 0), (2, 4)}


def test_a_clip_that_is_drawn_again_ends_the_stack(rows):
    # two clips that are too short together: the other one is all there is to draw
    plan = StackedDataSampling(target_s=4.0, share=1.0).plan(rows([8_000, 8_000], language=["en", "en"], label=[1, 1]))
    assert plan.components == {0: (0, 1), 1: (1, 0)}
    assert plan.report["reached_target"] == 0


def test_a_fresh_draw_is_another_one_and_a_row_draws_for_itself(rows):
    dataset = rows(ALL_SHORT * 3)
    first, second = STACK.plan(dataset, 0).components, STACK.plan(dataset, 1).components
    assert first != second
    assert STACK.plan(dataset, 0).components == first
    selected = [
        StackedDataSampling(target_s=1.0, share=0.5).plan(dataset, draw).components.keys() for draw in range(2)
    ]
    assert selected[0] != selected[1]
    # whether another row is stacked as well changes nothing
    for row, parts in StackedDataSampling(target_s=1.0, share=0.5).plan(dataset, 0).components.items():
        assert first[row] == parts


def test_soft_labels_are_averaged_by_duration(rows):
    soft = [[0.5, 0.5, 0, 0, 0, 0, 0], None]
    dataset = rows([12_000, 4_000], language=["en", "en"], label=[0, 0], soft_label=soft)
    for row in STACK(dataset):
        np.testing.assert_allclose(row["soft_label"], [0.5 * 0.75 + 0.25, 0.5 * 0.75, 0, 0, 0, 0, 0], atol=1e-6)
    assert (
        STACK(dataset.select([1, 1]).map(lambda _, index: {"id": str(index)}, with_indices=True))[0]["soft_label"]
        is None
    )


def test_licences_are_joined_and_texts_may_be_missing(rows):
    dataset = rows(
        [8_000, 8_000, 8_000],
        language=["en"] * 3,
        label=[0] * 3,
        license=["MIT", "CC-BY-4.0", "MIT"],
        text=["", " one ", "two"],
    )
    for row in STACK(dataset):
        parts = [int(part["id"][-3:]) for part in row["components"]]
        assert row["license"] == ("CC-BY-4.0 AND MIT" if 1 in parts else "MIT")
        assert row["text"] == " ".join([["", "one", "two"][part] for part in parts if part])


def test_the_merged_audio_may_be_transcribed(rows, monkeypatch):
    heard = []

    def transcribe(recognizer: SpeechRecognizer, clips: list[np.ndarray], language: str) -> list[str]:
        heard.append((recognizer.model, len(clips[0]), language))
        return [f"{len(clip)} samples" for clip in clips]

    monkeypatch.setattr(SpeechRecognizer, "__call__", transcribe)
    monkeypatch.setattr(SpeechRecognizer, "facts", {})
    dataset = rows([8_000, 8_000, None], language=["en", "en", "en"], label=[0, 0, 0])
    result = StackedDataSampling(target_s=1.0, share=1.0, text="asr", asr_model="some/model")(dataset)
    assert result["text"] == ["16000 samples", "16000 samples", "text 2"]
    assert heard == [("some/model", 16_000, "en")] * 2


def test_nothing_to_stack_leaves_everything_alone(rows):
    dataset = rows([20_000, None, 30_000])
    for sds in (STACK, StackedDataSampling(share=0.0)):
        result = sds(dataset)
        assert result.to_list() == with_components(dataset).to_list()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.5}, "share\n  Input should be less than or equal to 1"),
        ({"text": "whisper"}, "text\n  Input should be 'concat' or 'asr'"),
        ({"target_s": 0}, "target_s\n  Input should be greater than 0"),
        ({"max_s": 1.0}, r"max_s=1.0 is below target_s=4.0"),
        ({"mode": "add"}, "mode\n  Input should be 'replace' or 'append'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        StackedDataSampling(**options)


def test_splits_are_never_mixed(rows):
    with pytest.raises(ValueError, match="one split at a time"):
        STACK(rows([4_000, 4_000], split=["train", "test"]))
    with pytest.raises(ValueError, match="same id"):
        STACK(rows([4_000, 4_000], id=["a", "a"]))


def test_the_number_of_processes_changes_nothing(rows):
    dataset = rows(ALL_SHORT * 3)
    assert STACK(dataset, num_proc=4).to_list() == STACK(dataset).to_list()


HASHED = """
import hashlib, json, sys
sys.path.insert(0, sys.argv[1])
from conftest import make_rows
from bibier_hf.asr import SpeechRecognizer
from bibier_hf.augmentation.sds import StackedDataSampling
lengths = [3000 + 997 * (index * 7 % 23) for index in range(60)]
stacked = StackedDataSampling(target_s=1.0, share=0.8, gap_s=0.05, mode="append")(make_rows(lengths), draw=2, num_proc=int(sys.argv[2]))
rows = [row | {"audio": hashlib.sha256(row["audio"]["bytes"]).hexdigest()} for row in stacked]
print(hashlib.sha256(json.dumps(rows).encode()).hexdigest(), sum(row["source"] == "stacked" for row in rows))
"""


@pytest.mark.slow
def test_the_same_bytes_in_every_process_number_of_processes_and_hash_seed():
    answers = set()
    for num_proc, hash_seed in ((1, "0"), (4, "1")):
        answers.add(
            subprocess.run(
                [sys.executable, "-c", HASHED, str(Path(__file__).parent), str(num_proc)],
                env={**os.environ, "PYTHONHASHSEED": hash_seed, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
                capture_output=True,
                text=True,
                check=True,
                timeout=120,
            ).stdout
        )
    (answer,) = answers
    assert int(answer.split()[1]) > 20


def test_the_defaults_are_the_published_ones():
    assert StackedDataSampling().model_dump() == {
        "target_s": 4.0,
        "share": 0.7,
        "share_of": "all",
        "same_speaker": False,
        "gap_s": 0.0,
        "max_s": None,
        "top_k": 10,
        "text": "concat",
        "mode": "replace",
        "seed": 42,
        "asr_model": "openai/whisper-base",
    }


def test_the_gap_counts_for_the_longest_allowed_clip(rows):
    dataset = rows([8_000, 7_200, 3_200], language=["en"] * 3, label=[1] * 3)  # 0.5, 0.45 and 0.2 s
    sds = StackedDataSampling(target_s=0.9, max_s=1.0, gap_s=0.2, share=1.0)
    lengths = [0.5, 0.45, 0.2]
    for draw in range(20):
        assert sds.plan(dataset, draw).components
        for parts in sds.plan(dataset, draw).components.values():
            assert sum(lengths[part] for part in parts) + 0.2 * (len(parts) - 1) <= 1.0


def test_two_draws_have_ids_of_their_own(rows):
    dataset = rows([8_000, 7_200], language=["en"] * 2, label=[1] * 2)
    sds = StackedDataSampling(target_s=0.9, share=1.0)
    names = [set(sds.stacked_rows(dataset, sds.plan(dataset, draw), draw)["id"]) for draw in (0, 1)]
    assert names[0]
    assert not names[0] & names[1]
