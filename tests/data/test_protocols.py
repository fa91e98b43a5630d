import math
from collections import Counter
from itertools import chain

import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from bibier_hf.data.protocols import (
    NUM_FOLDS,
    ProtocolError,
    apply_protocol,
    connected_groups,
    stratified_group_split,
    stratified_sample,
)
from bibier_hf.data.schema import COLUMNS, FEATURES, SPLITS


def make_corpus(dialogues: int = 15, clips: int = 8, fold: bool = False, with_dev: bool = False) -> DatasetDict:
    """Text-only RESD in small: two roles a dialogue, one label each, every role in train and in test."""
    rows = []
    for dialogue in range(dialogues):
        for clip in range(clips):
            split = "test" if clip % 4 == 3 else "dev" if with_dev and clip % 4 == 2 else "train"
            row = dict.fromkeys(COLUMNS) | {
                "id": f"c-{dialogue:02d}-{clip}",
                "corpus": "c",
                "split": split,
                "text": "да",
                "language": "ru",
                "label": (dialogue + 3 * (clip % 2)) % 7,
                "speaker": f"c-{dialogue:02d}-{'ab'[clip % 2]}",
                "dialogue": f"c-{dialogue:02d}",
            }
            rows.append(row | ({"fold": (dialogue * 2) % NUM_FOLDS} if fold else {}))
    features = Features({**FEATURES, "fold": Value("int32")}) if fold else FEATURES
    splits = sorted({row["split"] for row in rows})
    return DatasetDict(
        {
            split: Dataset.from_list([row for row in rows if row["split"] == split], features=features)
            for split in splits
        }
    )


def ids(dataset_dict: DatasetDict) -> dict[str, list[str]]:
    return {split: list(dataset["id"]) for split, dataset in dataset_dict.items()}


def test_official_takes_dev_from_train_and_leaves_test_alone():
    corpus = make_corpus()
    arranged = apply_protocol(corpus, "official", dev_share=0.2)
    assert list(arranged) == ["train", "dev", "test"]
    assert list(arranged["test"]["id"]) == list(corpus["test"]["id"])
    assert sorted([*arranged["train"]["id"], *arranged["dev"]["id"]]) == sorted(corpus["train"]["id"])
    # stratified by label: a fifth of each
    in_train, in_dev = Counter(corpus["train"]["label"]), Counter(arranged["dev"]["label"])
    assert in_dev == {label: round(0.2 * count) for label, count in in_train.items()}
    # and no role leaves train, since each also speaks in test
    assert set(arranged["train"]["speaker"]) == set(corpus["train"]["speaker"])
    for split, dataset in arranged.items():
        assert set(dataset["split"]) == {split}
        assert dataset.features == FEATURES
        assert dataset.column_names == list(COLUMNS)


def test_dev_is_twelve_percent_unless_told_otherwise():
    corpus = make_corpus(dialogues=70)
    counts = Counter(corpus["train"]["label"])
    expected = {label: round(0.12 * count) for label, count in counts.items()}
    assert Counter(apply_protocol(corpus)["dev"]["label"]) == expected


def test_official_keeps_an_own_dev_split():
    corpus = make_corpus(with_dev=True)
    assert ids(apply_protocol(corpus, "official")) == ids(corpus) | {"train": list(corpus["train"]["id"])}


@pytest.mark.parametrize("fold", [True, False])
def test_dialogue_grouped_rotates_over_every_clip_and_keeps_dialogues_whole(fold):
    corpus = make_corpus(fold=fold)
    everything = sorted(chain.from_iterable(ids(corpus).values()))
    tested = []
    for number in range(NUM_FOLDS):
        arranged = apply_protocol(corpus, "dialogue_grouped", fold=number)
        assert sorted(chain.from_iterable(ids(arranged).values())) == everything
        dialogues = [set(dataset["dialogue"]) for dataset in arranged.values()]
        assert not dialogues[0] & dialogues[1] | dialogues[0] & dialogues[2] | dialogues[1] & dialogues[2]
        following = apply_protocol(corpus, "dialogue_grouped", fold=(number + 1) % NUM_FOLDS)
        assert set(arranged["dev"]["id"]) == set(following["test"]["id"])
        assert "fold" not in arranged["train"].column_names
        tested += arranged["test"]["id"]
    assert sorted(tested) == everything


@pytest.mark.parametrize("fold", [True, False])
def test_speaker_independent_rotates_over_every_clip_and_keeps_speakers_whole(fold):
    corpus = make_corpus(fold=fold)  # folds by dialogue are not for it
    everything = sorted(chain.from_iterable(ids(corpus).values()))
    tested = []
    for number in range(NUM_FOLDS):
        arranged = apply_protocol(corpus, "speaker_independent", fold=number)
        assert sorted(chain.from_iterable(ids(arranged).values())) == everything
        homes = {(split, speaker) for split, dataset in arranged.items() for speaker in dataset["speaker"]}
        assert len(homes) == 30
        following = apply_protocol(corpus, "speaker_independent", fold=(number + 1) % NUM_FOLDS)
        assert set(arranged["dev"]["id"]) == set(following["test"]["id"])
        assert len(arranged["test"]) == pytest.approx(len(everything) / NUM_FOLDS, abs=4)  # a speaker has four clips
        tested += arranged["test"]["id"]
    assert sorted(tested) == everything


def test_a_speaker_of_several_dialogues_is_kept_whole():
    corpus = make_corpus()
    alone = DatasetDict(
        {
            split: rows.remove_columns("dialogue").add_column("dialogue", list(rows["id"])).cast(rows.features)
            for split, rows in corpus.items()
        }
    )
    arranged = apply_protocol(alone, "speaker_independent")
    homes = {(split, speaker) for split, rows in arranged.items() for speaker in rows["speaker"]}
    assert len(homes) == len({speaker for _, speaker in homes})


def test_folds_of_dialogues_are_no_folds_of_speakers():
    own, without = make_corpus(fold=True), make_corpus()
    assert ids(apply_protocol(own, "speaker_independent")) == ids(apply_protocol(without, "speaker_independent"))
    assert ids(apply_protocol(own, "dialogue_grouped")) != ids(apply_protocol(without, "dialogue_grouped"))


def test_dialogue_grouped_uses_the_folds_of_the_corpus():
    corpus = make_corpus(fold=True)
    arranged = apply_protocol(corpus, "dialogue_grouped", fold=4)
    assert set(arranged["test"]["dialogue"]) == {f"c-{number:02d}" for number in range(15) if number * 2 % 5 == 4}
    assert set(arranged["dev"]["dialogue"]) == {f"c-{number:02d}" for number in range(15) if number * 2 % 5 == 0}


@pytest.mark.parametrize("protocol", ["official", "dialogue_grouped", "speaker_independent"])
def test_the_order_of_rows_does_not_matter_but_the_seed_does(protocol):
    corpus = make_corpus()
    shuffled = DatasetDict({split: dataset.shuffle(seed=1) for split, dataset in corpus.items()})

    def dev(source, seed):
        return set(apply_protocol(source, protocol, seed=seed)["dev"]["id"])

    assert dev(corpus, 42) == dev(shuffled, 42)
    assert any(dev(corpus, 42) != dev(corpus, seed) for seed in range(3))


def test_a_stacked_row_is_not_parted_from_its_clips():
    corpus = make_corpus(with_dev=True)
    names = list(corpus["train"]["id"])
    parts = [[{"id": names[0]}, {"id": names[1]}]] + [None] * (len(names) - 1)
    extended = {
        split: Dataset.from_list(
            [row | {"components": parts[index] if split == "train" else None} for index, row in enumerate(rows)],
            features=Features({**FEATURES, "components": List({"id": Value("string")})}),
        )
        for split, rows in corpus.items()
    }
    assert ids(apply_protocol(DatasetDict(extended))) == ids(apply_protocol(corpus))
    in_dev = corpus["dev"]["id"][0]
    parts[0][1]["id"] = in_dev
    extended["train"] = Dataset.from_list(
        [row | {"components": part} for row, part in zip(corpus["train"], parts, strict=True)],
        features=extended["dev"].features,
    )
    with pytest.raises(ProtocolError, match=f"1 clips, such as .*{in_dev}.* in stacked rows"):
        apply_protocol(DatasetDict(extended))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "oficial"}, "Allowed: official, dialogue_grouped, speaker_independent"),
        ({"fold": 1}, "one split only"),
        ({"protocol": "dialogue_grouped", "fold": 5}, "0 to 4"),
        ({"protocol": "dialogue_grouped", "fold": -1}, "0 to 4"),
        ({"dev_share": 0.0}, "between 0 and 1"),
        ({"dev_share": 12}, "between 0 and 1"),
    ],
)
def test_what_is_not_possible_is_refused(options, message):
    with pytest.raises(ProtocolError, match=message):
        apply_protocol(make_corpus(), **options)


def test_missing_splits_and_dialogues_are_refused():
    corpus = make_corpus()
    with pytest.raises(ProtocolError, match="needs a train and a test split; the corpus has train"):
        apply_protocol(DatasetDict({"train": corpus["train"]}))
    alone = apply_protocol(DatasetDict({"test": corpus["test"]}), needed=["test"])
    assert [len(alone[split]) for split in SPLITS] == [0, 0, len(corpus["test"])]
    nowhere = corpus["train"].map(
        lambda row, index: {"dialogue": None if index < 3 else row["dialogue"]}, with_indices=True
    )
    with pytest.raises(ProtocolError, match=r"needs the dialogue of every clip; 3 of"):
        apply_protocol(DatasetDict({"train": nowhere, "test": corpus["test"]}), "dialogue_grouped")
    nobody = corpus["train"].map(
        lambda row, index: {"speaker": None if index < 2 else row["speaker"]}, with_indices=True
    )
    with pytest.raises(ProtocolError, match=r"'speaker_independent' needs the speaker of every clip; 2 of"):
        apply_protocol(DatasetDict({"train": nobody, "test": corpus["test"]}), "speaker_independent")
    with pytest.raises(ProtocolError, match="3 groups cannot fill 5 splits"):
        apply_protocol(make_corpus(dialogues=3), "dialogue_grouped")


def test_ids_that_stand_in_two_splits_are_found():
    corpus = make_corpus()
    with pytest.raises(ProtocolError, match="more than one split"):
        apply_protocol(DatasetDict({"train": corpus["train"], "test": corpus["train"]}))


rows = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), min_size=1, max_size=80)


@given(rows, st.floats(0.05, 0.6), st.integers(0, 3))
@settings(deadline=None)
def test_stratified_sample_takes_its_share_and_the_last_of_no_role(pairs, share, seed):
    labels, roles = [label for label, _ in pairs], [(label, role) for label, role in pairs]
    names = [f"r{index}" for index in range(len(pairs))]
    chosen = stratified_sample(names, labels, roles, share, seed)
    assert chosen == sorted(set(chosen))
    taken, sizes = Counter(roles[index] for index in chosen), Counter(roles)
    assert all(taken[role] < size for role, size in sizes.items())
    for label, size in Counter(labels).items():
        own = [count for role, count in sizes.items() if role[0] == label]
        count = sum(labels[index] == label for index in chosen)
        assert sum(math.floor(share * role) for role in own) <= count <= round(share * size)
        if all(math.floor(share * role) < role - 1 for role in own):  # every role has one to spare
            assert count == round(share * size)
    # a shuffled table gives the same choice
    order = sorted(range(len(pairs)), key=lambda index: names[index][::-1])
    again = stratified_sample(
        [names[i] for i in order], [labels[i] for i in order], [roles[i] for i in order], share, seed
    )
    assert {names[order[index]] for index in again} == {names[index] for index in chosen}


@pytest.mark.parametrize(("share", "size", "taken"), [(0.9, 2, 1), (0.5, 2, 1), (0.9, 1, 0), (0.99, 5, 4)])
def test_no_role_gives_up_its_last_row(share, size, taken):
    roles = [f"role {index // size}" for index in range(10 * size)]
    chosen = stratified_sample([str(index) for index in range(10 * size)], [0] * len(roles), roles, share, seed=1)
    assert Counter(roles[index] for index in chosen) == Counter({role: taken for role in set(roles) if taken})


@given(rows, st.integers(0, 3))
@settings(deadline=None)
def test_group_split_keeps_groups_whole_and_fills_every_split(pairs, seed):
    labels, groups = [label for label, _ in pairs], [group for _, group in pairs]
    shares = {"dev": 0.12, "test": 0.2}
    if len(set(groups)) < 3:
        with pytest.raises(ValueError, match="groups cannot fill 3 splits"):
            stratified_group_split(labels, groups, shares, seed)
        return
    splits = stratified_group_split(labels, groups, shares, seed)
    assert set(splits) == {"train", "dev", "test"}
    assert all(
        len({split for split, group in zip(splits, groups, strict=True) if group == name}) == 1 for name in set(groups)
    )


def test_the_largest_remainder_gives_the_next_row():
    roles = ["long"] * 7 + ["short"] * 3  # 30 % of them: 2.1 and 0.9, 3 in all
    for seed in range(5):
        chosen = stratified_sample([str(index) for index in range(10)], [0] * 10, roles, 0.3, seed)
        assert Counter(roles[index] for index in chosen) == {"long": 2, "short": 1}


def test_the_largest_groups_are_placed_first():
    groups = ["large"] * 6 + list("abcdef")
    splits = stratified_group_split([0] * 12, groups, {"dev": 0.5}, seed=0)
    assert Counter(splits) == {"train": 6, "dev": 6}


def test_group_split_of_single_rows_is_stratified():
    labels = [label for label in range(7) for _ in range(50)]
    splits = stratified_group_split(labels, list(range(350)), {"dev": 0.12, "test": 0.2}, seed=42)
    counts = Counter(zip(labels, splits, strict=True))
    for label in range(7):
        assert abs(counts[label, "dev"] - 6) <= 1
        assert abs(counts[label, "test"] - 10) <= 1


@pytest.mark.parametrize("shares", [{"dev": 0.5, "test": 0.5}, {"dev": 0.0, "test": 0.2}, {"dev": -0.1, "test": 0.2}])
def test_group_split_refuses_senseless_shares(shares):
    with pytest.raises(ValueError, match="shares"):
        stratified_group_split([0, 1, 2], [0, 1, 2], shares, 0)


def test_connected_groups_follow_chains():
    keys = [["s:1", "d:1"], ["s:2", "d:1"], ["s:2", "d:2"], ["s:3", "d:3"], []]
    groups = connected_groups(["a", "b", "c", "d", "e"], keys)
    assert groups[0] == groups[1] == groups[2] != groups[3]
    assert groups[4] == "row:e"
    assert connected_groups(["d", "c", "b", "a"], keys[3::-1]) == groups[3::-1]
