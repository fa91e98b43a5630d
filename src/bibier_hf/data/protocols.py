"""Evaluation protocols: how to split a corpus into train, dev and test, the same in every process and on every
machine.

* `official`: the test split of the corpus. If there is no dev split, it is a share `dev_share` of train, stratified by
  label and speaker: if test shares its speakers with train (RESD), a grouped dev split would select for a different
  task than the one that is scored.
* `dialogue_grouped`: all clips are pooled and divided into five folds that keep dialogues together. Test is fold `i`,
  dev is fold `i + 1`, train the rest. A corpus's own folds (column `fold`) are used if it has them; otherwise folds
  are stratified by label.
* `speaker_independent`: the same with speakers kept together; the folds are always computed here.

Choices depend on hashes of ids and seeds, so the order of rows does not matter.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import DatasetDict, concatenate_datasets

from ..errors import UserError
from ..sampling import seeded_hash
from .schema import SPLITS, common_columns

NUM_FOLDS = 5


class ProtocolError(UserError, ValueError):
    """A protocol that is unknown or that the corpus does not support."""


def apply_protocol(
    dataset_dict: DatasetDict,
    protocol: str = "official",
    fold: int = 0,
    seed: int = 42,
    dev_share: float = 0.12,
    needed: Sequence[str] = SPLITS,
) -> DatasetDict:
    """Arrange a corpus in the common schema into train, dev and test.

    Args:
        dataset_dict: returned by `load_corpus`.
        protocol: one of `PROTOCOLS`.
        fold: of a grouped protocol: which fold is test, 0 to 4. Must be 0 for `official`.
        seed: seeds all choices that the corpus leaves open.
        dev_share: share of train that becomes dev if the corpus has no dev split (`official`).
        needed: splits that must not be empty.

    Returns:
        train, dev and test with the columns of the common schema; `split` is the new split. No clip is in two of them,
        alone or stacked, and with a grouped protocol, no dialogue or speaker is. Both are checked.

    Raises:
        ProtocolError: an unknown name, fold or share, or a corpus that lacks what the protocol needs.
    """
    if protocol not in PROTOCOLS:
        raise ProtocolError(f"Unknown protocol {protocol!r}. Allowed: {', '.join(PROTOCOLS)}.")

    if unknown := set(dataset_dict) - set(SPLITS):
        raise ProtocolError(f"Unknown splits {sorted(unknown)}. Allowed: {', '.join(SPLITS)}.")

    present = [split for split in SPLITS if split in dataset_dict]
    pooled = concatenate_datasets([dataset_dict[split] for split in present])
    optional = [name for name in ("fold", "components") if name in pooled.column_names]
    wanted = ["id", "label", "speaker", "dialogue", *optional]
    rows = pooled.select_columns(wanted).to_dict()
    rows["split"] = [split for split in present for _ in range(len(dataset_dict[split]))]
    splits = PROTOCOLS[protocol](rows, fold, seed, dev_share)
    _check_disjoint(splits, rows["id"], "id")
    _check_stacked(splits, rows)

    if protocol in GROUPED_BY:
        _check_disjoint(splits, rows[GROUPED_BY[protocol]], GROUPED_BY[protocol])

    if empty := [split for split in needed if split not in splits]:
        own = [split for split in needed if split != "dev"] or ["train"]
        if protocol == "official" and not set(own) <= set(present):
            raise ProtocolError(
                f"The official protocol needs a {' and a '.join(own)} split; the corpus has {', '.join(present)}. "
                f"Use a protocol that makes its own: {' or '.join(GROUPED_BY)}. (A table without a column 'split' is "
                "split when it is prepared.)"
            )
        raise ProtocolError(
            f"The protocol '{protocol}' leaves no clips for {', '.join(empty)}: the corpus is too small "
            f"({len(splits)} clips)."
        )

    feature = pooled.features["split"]
    pooled = pooled.remove_columns("split").add_column("split", splits, feature=feature)
    pooled = pooled.select_columns(common_columns(pooled))
    assigned = np.array(splits)

    return DatasetDict({split: pooled.select(np.flatnonzero(assigned == split)) for split in SPLITS})


def _official(rows: Mapping[str, list], fold: int, seed: int, dev_share: float) -> list[str]:
    if fold != 0:
        raise ProtocolError(
            f"fold={fold}, but the official protocol has one split only. Leave fold out, or use {' or '.join(GROUPED_BY)}."
        )

    splits = list(rows["split"])

    if "dev" not in splits:
        train = [index for index, split in enumerate(splits) if split == "train"]
        chosen = stratified_sample(
            [rows["id"][index] for index in train],
            [rows["label"][index] for index in train],
            [rows["speaker"][index] for index in train],
            dev_share,
            seed,
        )
        for index in chosen:
            splits[train[index]] = "dev"

    return splits


def _grouped(protocol: str, rows: Mapping[str, list], fold: int, seed: int, dev_share: float) -> list[str]:
    kind = GROUPED_BY[protocol]

    if fold not in range(NUM_FOLDS):
        raise ProtocolError(f"fold={fold!r}; allowed: 0 to {NUM_FOLDS - 1}.")

    if missing := sum(group is None for group in rows[kind]):
        raise ProtocolError(
            f"The protocol '{protocol}' needs the {kind} of every clip; {missing} of {len(rows['id'])} have none."
        )

    # The folds of a corpus are grouped by dialogue.
    folds = rows.get("fold", [None]) if kind == "dialogue" else [None]
    if None in folds:
        names = [str(number) for number in range(NUM_FOLDS)]
        shares = {name: 1 / NUM_FOLDS for name in names[1:]}

        try:
            assigned = stratified_group_split(rows["label"], rows[kind], shares, seed, remainder=names[0])
        except ValueError as error:
            raise ProtocolError(f"The protocol '{protocol}' is not possible: {error}") from error

        folds = [int(name) for name in assigned]

    named = {fold: "test", (fold + 1) % NUM_FOLDS: "dev"}

    return [named.get(number, "train") for number in folds]


GROUPED_BY: Mapping[str, str] = {"dialogue_grouped": "dialogue", "speaker_independent": "speaker"}
"""Protocol with folds -> the column whose values it keeps whole."""

PROTOCOLS: Mapping[str, Callable[[Mapping[str, list], int, int, float], list[str]]] = {
    "official": _official,
    **{protocol: partial(_grouped, protocol) for protocol in GROUPED_BY},
}
"""Name -> function of (columns, fold, seed, dev_share) that names the split of every row."""


def stratified_sample(
    ids: Sequence[str], labels: Sequence[Any], roles: Sequence[Any], share: float, seed: int
) -> list[int]:
    """Indices of about `share` of the rows, in proportion from every label and, within it, from every role.

    Each label gives `round(share * its rows)`, handed out to its roles by largest remainder; no role gives its last
    row. Which row of a role is taken depends on its id and the seed alone.
    """
    if not 0 < share < 1:
        raise ProtocolError(f"dev_share={share}; it must lie between 0 and 1.")

    strata: dict[Any, dict[Any, list[int]]] = defaultdict(lambda: defaultdict(list))

    for index, (label, role) in enumerate(zip(labels, roles, strict=True)):
        strata[label][role].append(index)

    chosen = []

    for by_role in strata.values():
        members = [sorted(indices, key=lambda index: _draw(seed, ids[index])) for indices in by_role.values()]
        sizes = [len(indices) for indices in members]
        quotas = [share * size for size in sizes]
        taken = [min(math.floor(quota), size - 1) for quota, size in zip(quotas, sizes, strict=True)]
        # largest remainder first; equal ones by the hash of their first row
        order = sorted(
            range(len(members)), key=lambda role: (taken[role] - quotas[role], _draw(seed, ids[members[role][0]]))
        )
        missing = round(share * sum(sizes)) - sum(taken)

        for role in [role for role in order if taken[role] < sizes[role] - 1][:missing]:
            taken[role] += 1

        chosen += [index for indices, count in zip(members, taken, strict=True) for index in indices[:count]]

    return sorted(chosen)


def stratified_group_split(
    labels: Sequence[Any], groups: Sequence[Hashable], shares: Mapping[str, float], seed: int, remainder: str = "train"
) -> list[str]:
    """Name the split of every row such that groups stay whole and every label is divided as `shares` says, as well as
    that is possible.

    Greedy: the largest groups first (equal ones in the order of their hashes), each to the split that it brings
        closest to its goal.

    Args:
        shares: split -> share of the rows, between 0 and 1; `remainder` gets what is left.

    Returns:
        one split name a row. Every split gets at least one group.

    Raises:
        ValueError: shares that leave nothing for the remainder, or fewer groups than splits.
    """
    left = 1 - math.fsum(shares.values())
    if left <= 1e-9 or any(not 0 < share < 1 for share in shares.values()):
        raise ValueError(f"the shares {dict(shares)} must lie between 0 and 1 and leave something for '{remainder}'.")

    shares = {remainder: left, **shares}
    counts: dict[Hashable, Counter] = defaultdict(Counter)

    for label, group in zip(labels, groups, strict=True):
        counts[group][label] += 1

    if len(counts) < len(shares):
        raise ValueError(f"{len(counts)} groups cannot fill {len(shares)} splits ({', '.join(shares)}).")

    totals = Counter(labels)
    have = {split: Counter() for split in shares}
    assigned: dict[Hashable, str] = {}
    order = sorted(counts, key=lambda group: (-counts[group].total(), _draw(seed, str(group))))

    for position, group in enumerate(order):
        empty = [split for split in shares if not have[split]]
        # The last groups go to splits that are still empty.
        candidates = empty if len(empty) >= len(order) - position else list(shares)
        best = min(candidates, key=lambda split: _distance_change(have[split], counts[group], totals, shares[split]))
        have[best] += counts[group]
        assigned[group] = best

    return [assigned[group] for group in groups]


def _distance_change(have: Counter, group: Counter, totals: Counter, share: float) -> float:
    """Return how much the group changes the split's squared distance from its target, over labels and in total,
    relative to the target.
    """
    change = 0.0

    for label, count in group.items():
        goal = share * totals[label]
        change += ((have[label] + count - goal) ** 2 - (have[label] - goal) ** 2) / goal

    goal = share * totals.total()

    return change + ((have.total() + group.total() - goal) ** 2 - (have.total() - goal) ** 2) / goal


def connected_groups(names: Sequence[str], keys: Sequence[Sequence[str]]) -> list[str]:
    """Group rows that share a key, directly or through other rows. A row without keys is its own group
    `row:<name>`."""
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]

        return key

    for row in keys:
        for key in row[1:]:
            one, other = sorted((find(row[0]), find(key)))
            parent[other] = one  # the smaller name leads, so the order of rows does not matter

    return [find(row[0]) if row else f"row:{name}" for name, row in zip(names, keys, strict=True)]


def _draw(seed: int, name: str) -> bytes:
    return seeded_hash(f"{seed}:{name}")


def _check_disjoint(splits: Sequence[str], values: Sequence[Any], kind: str) -> None:
    home: dict[Any, str] = {}
    crossing = {value for split, value in zip(splits, values, strict=True) if home.setdefault(value, split) != split}
    if crossing:
        raise ProtocolError(
            f"{len(crossing)} values of '{kind}' are in more than one split, such as {sorted(crossing)[:3]}."
        )


def _check_stacked(splits: Sequence[str], rows: Mapping[str, list]) -> None:
    """A stacked row must be in the split of all its clips."""
    clips = [
        [row_id] if not parts else [part["id"] for part in parts]
        for row_id, parts in zip(rows["id"], rows.get("components") or [None] * len(splits), strict=True)
    ]
    home: dict[str, set[str]] = defaultdict(set)

    for split, names in zip(splits, clips, strict=True):
        for name in names:
            home[name].add(split)

    if crossing := sorted(name for name, found in home.items() if len(found) > 1):
        raise ProtocolError(
            f"{len(crossing)} clips, such as {crossing[:3]}, are in more than one split, by themselves or in stacked "
            "rows. Split the recorded corpus first, and then stack its train split (augmentation.sds of a run)."
        )
