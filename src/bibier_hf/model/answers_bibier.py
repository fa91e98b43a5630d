"""From the logits of a model to an answer: which labels it has, their scores, and what is returned of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, stack

from .configuration_bibier import MULTI_LABEL, REGRESSION, SINGLE_LABEL, BiBiERConfig
from .labels_bibier import label_key
from .timeline_bibier import Emotions, mean_emotions

UNSURE = "unsure"
"""Label that comes first if the best score is below the threshold."""


@dataclass(frozen=True)
class AnswerLabels:
    """The labels of an answer, each made of one or more labels of the model.

    Args:
        config: of the model.
        groups: name -> the places of its logits, in the order of the model's labels.
    """

    config: BiBiERConfig
    groups: dict[str, list[int]]

    @classmethod
    def of(cls, config: BiBiERConfig, labels: Any = None, label_map: Any = None) -> "AnswerLabels":
        """Take the labels of a model, or some of them.

        Args:
            config: of the model.
            labels: names of the labels to keep, after `label_map`; None: all.
            label_map: new name -> names of the labels that it merges. Labels that are not listed stay as they are.

        Raises:
            ValueError: a name that the model does not have, or a contradiction.
        """
        groups = {name: [place] for place, name in enumerate(config.label_names)}
        if label_map is not None:
            groups = _merge(groups, label_map, config)
        if labels is not None:
            groups = _keep(groups, labels, config)
        return cls(config, groups)

    def scores(self, logits: Tensor) -> Emotions:
        """Score the logits (K,) of one sample: all labels, best first; values of a regression in label order."""
        logits, kind = logits.float() / self.config.temperature, self.config.problem_type
        merges = any(len(places) > 1 for places in self.groups.values())
        if merges:  # adds probabilities, but as logarithms, so that none of them vanishes
            scores = stack([logits[places].logsumexp(0) for places in self.groups.values()])
        else:
            scores = logits[[place for (place,) in self.groups.values()]]

        if kind == REGRESSION:
            return self._values(scores.tolist())
        scores = scores.softmax(0) if kind == SINGLE_LABEL else scores.sigmoid()

        names, order = list(self.groups), scores.argsort(descending=True, stable=True).tolist()
        return [{"label": names[index], "score": scores[index].item()} for index in order]

    def _values(self, values: Sequence[float]) -> Emotions:
        """Return the values of a regression, clipped to their ranges."""
        entries = []
        for (name, (place,)), value in zip(self.groups.items(), values, strict=True):
            if self.config.label_ranges is not None:
                low, high = self.config.label_ranges[place]
                value = min(max(value, float(low)), float(high))
            entries.append({"label": name, "score": value})
        return entries

    def mean(self, chunks: Sequence[Mapping[str, Any]]) -> Emotions:
        """Average the scores of chunks over time, in the order of an answer."""
        return self.in_order(mean_emotions(chunks))

    def in_order(self, emotions: Emotions) -> Emotions:
        """Sort means as an answer is sorted: best first, or the values of a regression in label order."""
        if self.config.problem_type != REGRESSION:
            return emotions
        places = list(self.groups)
        return sorted(emotions, key=lambda entry: places.index(entry["label"]))

    def named(self, emotions: Emotions, threshold: float | None = None) -> list[str]:
        """Return what the scores of all labels amount to: the best label, or each that is present."""
        if self.config.problem_type == MULTI_LABEL:
            return [entry["label"] for entry in self.choose(emotions, threshold=threshold) if entry["present"]]
        return [self.choose(emotions, threshold=threshold)[0]["label"]]

    def choose(self, emotions: Emotions, top_k: int | None = None, threshold: float | None = None) -> Emotions:
        """Select what to return of the scores of all labels.

        Of several labels at once, each says whether it is `present`: its score reaches the threshold, or else its own
        one in the configuration.
        """
        chosen = emotions[:top_k]
        if self.config.problem_type == MULTI_LABEL:
            return [{**entry, "present": entry["score"] >= self._least(entry["label"], threshold)} for entry in chosen]

        if threshold is not None and chosen and chosen[0]["score"] < threshold:
            chosen = [{"label": UNSURE, "score": chosen[0]["score"]}, *chosen]
        return chosen

    def _least(self, name: str, threshold: float | None) -> float:
        """The score from which a label counts as present."""
        if threshold is not None:
            return threshold
        return 0.5 if self.config.thresholds is None else self.config.thresholds[self.groups[name][0]]


def _merge(groups: dict[str, list[int]], label_map: Any, config: BiBiERConfig) -> dict[str, list[int]]:
    if config.problem_type != SINGLE_LABEL:
        raise ValueError(
            f"label_map adds probabilities of classes; this model ({config.problem_type}) has none to add. Pass "
            "labels=[...] to leave some out."
        )
    if not isinstance(label_map, Mapping):
        raise ValueError(f"label_map={label_map!r} is not allowed; it must be {{new name: [labels to merge], ...}}.")

    owners: dict[str, str] = {}
    for new, members in label_map.items():
        names = [members] if isinstance(members, str) else members
        if not label_key(new) or not isinstance(names, Iterable):
            raise ValueError(
                f"label_map: {new!r}: {members!r} is not allowed; it must be a new name: [labels to merge]."
            )
        for member in find_labels("label_map", names, list(groups)):
            if member in owners:
                raise ValueError(f"label_map: {member!r} belongs to {owners[member]!r} and {new!r}. Leave one out.")
            owners[member] = new

    merged: dict[str, list[int]] = {}
    for name, places in groups.items():
        merged[owners.get(name, name)] = merged.get(owners.get(name, name), []) + places

    taken = {label_key(name): name for name in groups if name not in owners}
    clash = next((new for new in label_map if label_key(new) in taken), None)
    if clash is not None:
        raise ValueError(
            f"label_map: {clash!r} is a label of its own. List it among the labels to merge, or choose another name."
        )
    if len({label_key(name) for name in merged}) < len(merged):
        raise ValueError(f"label_map: two of the names {', '.join(label_map)} are the same. Write them as one.")
    if len(merged) < 2:
        raise ValueError("label_map merges all labels into one. Leave at least two.")
    return merged


def _keep(groups: dict[str, list[int]], labels: Any, config: BiBiERConfig) -> dict[str, list[int]]:
    kept = find_labels("labels", labels, list(groups))
    if len(kept) < 2 and config.problem_type == SINGLE_LABEL:
        raise ValueError(f"labels={kept}: the score of a single label is always 1. Name at least two.")
    return {name: places for name, places in groups.items() if name in kept}


def find_labels(argument: str, names: Any, labels: Sequence[str]) -> list[str]:
    """Find names among labels; case and surrounding spaces do not matter.

    Raises:
        ValueError: a name that is not there or is given twice, or none at all.
    """
    if isinstance(names, (str, Mapping)) or not isinstance(names, Iterable):
        raise ValueError(f"{argument}={names!r} is not allowed; it must be a list of labels: {', '.join(labels)}.")

    known, given = {label_key(label): label for label in labels}, list(names)
    unknown = [repr(name) for name in given if label_key(name) not in known]
    if unknown:
        raise ValueError(f"{argument}: there is no label {', '.join(unknown)}. There are: {', '.join(labels)}.")

    found = [known[label_key(name)] for name in given]
    if not found or len(set(found)) < len(found):
        raise ValueError(f"{argument}={given!r} is not allowed; name at least one label, and each once.")
    return found
