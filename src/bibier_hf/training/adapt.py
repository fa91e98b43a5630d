"""Adapting a trained model to other labels with a few clips of each.

The model stays frozen. What reaches its last linear layers is computed once for every clip, and a logistic regression
over these numbers, on standardized values, becomes the weights of these layers:

    frozen model -> input of the last layers (N, D) -> standardize -> logistic regression
                                                       \\------ folded into the last layers

So the result is an ordinary checkpoint, whose logits are the decision function of the regression.

The cross-validation that scores it is nested. The strength of the regression and the temperature for a fold are chosen
without the fold:

    for each pair of folds: learn from the others with every strength, and answer both
    for each fold: choose by the answers to the other folds of models that have not seen it, learn from them, answer it
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.features import InputDataset
from ..errors import ArgumentError
from ..evaluation.audit.give_away import answer_by_key, score_answers
from ..evaluation.calibration import fit_temperature
from ..model.configuration_bibier import SINGLE_LABEL
from ..model.fusion_bibier import LogitMixture
from ..model.modeling_bibier import BiBiERForEmotionClassification, encoded_labels

STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of C (inverse regularization) to choose from."""

DEFAULT_STRENGTH = 0.01
"""Value of C where there are too few clips to choose it."""

MOST_FOLDS = 5

LEAST_SCALE = 1e-3
"""Lower bound of the deviation of a value, relative to the largest one."""

_TRIES = 20
"""Draws of folds by speaker, until each of them trains on every label."""

Folds = list[tuple[np.ndarray, np.ndarray]]

Answers = Mapping[float, np.ndarray]
"""Strength -> logits (n, K)."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and answers to clips that neither the model nor the choice has seen.

    Attributes:
        strength: C of the model.
        temperature: of the model.
        note: why the temperature may not be the best one, if so.
        logits: (M, K), before temperature scaling: cross-validated ones of the training clips, or those of dev.
        strengths: C for each of their folds, chosen without the fold.
        temperatures: (M,), each fitted without the fold of the clip.
    """

    strength: float
    temperature: float
    note: str | None
    logits: np.ndarray
    strengths: list[float]
    temperatures: np.ndarray


@dataclass(frozen=True)
class Adaptation(Choice):
    """An adapted model, and how good it is.

    Attributes:
        classifier: fitted on all training clips.
        folds: number of folds of the training clips; 0: dev was given.
        by_speaker: whether no speaker is in two folds.
        warnings: what makes the scores doubtful, one line each.
    """

    classifier: Pipeline
    folds: int
    by_speaker: bool
    warnings: list[str]

    def decisions(self, model: BiBiERForEmotionClassification, states: "States") -> np.ndarray:
        """Return the decision function (N, K) for the states of other clips; the logits of the model."""
        return decisions(self.classifier, _joined(model, states))


@dataclass(frozen=True)
class States:
    """What reaches the last linear layers of a model, for N clips.

    Attributes:
        values: name of the layer (`audio`, `text`, `classifier`) -> (N, D).
        present: name -> bool (N,), which clips have the modality.
    """

    values: dict[str, np.ndarray]
    present: dict[str, np.ndarray]

    def select(self, rows: np.ndarray) -> "States":
        """Return the states of some of the clips."""
        values, present = ({name: each[rows] for name, each in part.items()} for part in (self.values, self.present))
        return States(values, present)


def adapt_model(
    model: BiBiERForEmotionClassification,
    train: States,
    labels: np.ndarray,
    speakers: Sequence[str | None],
    dev: tuple[States, np.ndarray, Sequence[str | None]] | None = None,
    most_folds: int = MOST_FOLDS,
    seed: int = 42,
) -> Adaptation:
    """Fit the last layers of a model, and its temperature.

    Args:
        model: with these labels ([`replace_labels`]); the weights of its last layers change, the rest does not.
        train: of N clips, from [`pooled_states`].
        labels: (N,) indices of their classes, in the order of the model's labels.
        speakers: (N,) names, None where unknown.
        dev: states, labels and speakers of other clips to choose C and the temperature on; None: cross-validation.
        most_folds: number of folds, if there are enough clips and speakers.
        seed: of folds and solver.

    Raises:
        ArgumentError: too few clips of a label, or a model without classifiers of its own.
    """
    names = model.config.label_names
    _require_clips(labels, names, least=1 if dev else 2)
    warnings = speaker_warnings(labels, speakers, names, seed)
    values = _joined(model, train)

    by_speaker = False
    if dev is None:
        folds, by_speaker, remarks = make_folds(labels, speakers, names, most_folds, seed)
        warnings += remarks
        chosen = cross_validate(values, labels, folds, seed)
    else:
        folds, asked = [], _joined(model, dev[0])
        answers = {strength: decisions(fitted, asked) for strength, fitted in _fit_path(values, labels, seed)}
        chosen = choose_in_parts(answers, dev[1], dev[2])

    classifier = fit_regression(values, labels, chosen.strength, seed)
    _fold_in(model, classifier, train, labels, chosen.strength, seed)
    model.config.temperature = chosen.temperature
    model.config.least_confidence = None  # that of other labels
    return Adaptation(
        **vars(chosen), classifier=classifier, folds=len(folds), by_speaker=by_speaker, warnings=warnings
    )


def cross_validate(values: np.ndarray, labels: np.ndarray, folds: Folds, seed: int) -> Choice:
    """Answer each fold with a strength and a temperature that were chosen without it.

    Args:
        values: (N, D) of the clips.
        labels: (N,).
        folds: (rows to learn from, rows to answer), each of which has every label to learn from.
        seed: of the solver.
    """
    inner: list[list[tuple[np.ndarray, Answers]]] = [[] for _ in folds]
    for learned, asked_of in _inner_splits(labels, folds, seed):
        fitted = list(_fit_path(values[learned], labels[learned], seed))
        for fold, asked in asked_of.items():
            inner[fold].append((asked, {strength: decisions(each, values[asked]) for strength, each in fitted}))

    logits = np.empty((len(labels), int(labels.max()) + 1))
    strengths, temperatures = [], np.ones(len(labels))
    for (learned, asked), answers in zip(folds, inner, strict=True):
        strength, temperature, _ = _choose(*_pooled(answers, labels))
        strengths.append(strength)
        temperatures[asked] = temperature
        logits[asked] = decisions(fit_regression(values[learned], labels[learned], strength, seed), values[asked])

    strength, *_ = _choose(*_pooled([part for answers in inner for part in answers], labels))
    fit = fit_temperature(logits, labels, np.zeros(len(labels)))
    return Choice(strength, fit.temperature, fit.note, logits, strengths, temperatures)


def choose_in_parts(answers: Answers, labels: np.ndarray, speakers: Sequence[str | None]) -> Choice:
    """Choose by answers to dev; report each part of dev with what the other parts chose.

    Args:
        answers: to the N clips, with every strength.
        labels: (N,).
        speakers: (N,), which are in one part; clips where speakers are unknown.
    """
    known = len(set(speakers) - {None}) > 1
    groups = [name if known and name is not None else f"clip {row}" for row, name in enumerate(speakers)]
    parts: Folds = [(np.arange(len(labels)), np.arange(len(labels)))]
    if len(set(groups)) > 1:
        parts = list(GroupKFold(min(MOST_FOLDS, len(set(groups)))).split(labels, labels, groups))

    logits = np.empty_like(answers[STRENGTHS[0]])
    strengths, temperatures = [], np.ones(len(labels))
    for others, part in parts:
        strength, temperature, _ = _choose({each: found[others] for each, found in answers.items()}, labels[others])
        strengths.append(strength)
        temperatures[part] = temperature
        logits[part] = answers[strength][part]

    strength, temperature, note = _choose(answers, labels)
    return Choice(strength, temperature, note, logits, strengths, temperatures)


def _inner_splits(labels: np.ndarray, folds: Folds, seed: int) -> Iterator[tuple[np.ndarray, dict[int, np.ndarray]]]:
    """Yield (rows to learn from, {fold: rows to choose by for this fold}); the fold itself is in neither.

    A model that learned from all folds but two serves both of them.
    """
    everything, classes = np.arange(len(labels)), set(labels)
    for one, other in combinations(range(len(folds)), 2):
        rows = {one: folds[other][1], other: folds[one][1]}
        learned = np.setdiff1d(everything, np.concatenate(list(rows.values())))
        if set(labels[learned]) == classes:
            yield learned, rows

    halves = folds if len(folds) == 2 else []  # they leave nothing to learn from: split each half by clips
    for fold, (half, _) in enumerate(halves):
        count = min(MOST_FOLDS, *Counter(labels[half].tolist()).values())
        if count > 1:
            for learned, asked in StratifiedKFold(count, shuffle=True, random_state=seed).split(half, labels[half]):
                yield half[learned], {fold: half[asked]}


def _pooled(parts: Sequence[tuple[np.ndarray, Answers]], labels: np.ndarray) -> tuple[Answers, np.ndarray]:
    """Join answers to some rows."""
    if not parts:
        return {}, labels[:0]
    joined = {strength: np.concatenate([answers[strength] for _, answers in parts]) for strength in STRENGTHS}
    return joined, labels[np.concatenate([rows for rows, _ in parts])]


def _choose(answers: Answers, labels: np.ndarray) -> tuple[float, float, str | None]:
    """Return the strength of the best answers, their temperature, and a note about it; without answers the
    defaults."""
    if not len(labels):
        return DEFAULT_STRENGTH, 1.0, None
    losses = {strength: _balanced_loss(logits, labels) for strength, logits in answers.items()}
    strength = min(losses, key=losses.__getitem__)  # of equal ones the first, which is the most regularized
    fit = fit_temperature(answers[strength], labels, np.zeros(len(labels)))
    return strength, fit.temperature, fit.note


def replace_labels(model: BiBiERForEmotionClassification, names: Sequence[str]) -> None:
    """Give a model other labels, with new last layers, whose weights are random."""
    config = model.config
    config.id2label, config.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}
    config.problem_type = SINGLE_LABEL
    config.class_weights = config.thresholds = config.label_ranges = None

    for head in model.heads.values():
        if head is not None:
            head.linear = nn.Linear(head.linear.in_features, len(names))
    if model.classifier is not None:
        model.classifier[-1] = nn.Linear(model.config.classifier_size, len(names))
    if model.mixture is not None:
        model.mixture = LogitMixture(len(model.mixture.weights), len(names))
    model.trained_labels = encoded_labels(config)
    model.to(model.device)


@torch.inference_mode()
def pooled_states(
    model: BiBiERForEmotionClassification, dataset: InputDataset, collator: Any, batch_size: int = 16
) -> States:
    """Compute what reaches the last linear layers of a model.

    Args:
        model: in evaluation mode.
        dataset: N rows.
        collator: for these rows.
        batch_size: rows per batch, of similar length.

    Raises:
        ArgumentError: a model without classifiers of its own.
    """
    layers = _last_layers(model)
    values = {name: np.zeros((len(dataset), layer.in_features), np.float32) for name, layer in layers.items()}
    present = {name: np.zeros(len(dataset), bool) for name in layers}
    rows: list[int] = []

    def keep_pooled(name: str):
        def hook(module: nn.Module, inputs: tuple) -> None:
            (encoded,) = inputs
            values[name][rows] = encoded.pooled.float().cpu().numpy()
            present[name][rows] = encoded.present.cpu().numpy()

        return hook

    def keep_input(module: nn.Module, inputs: tuple) -> None:
        values["classifier"][rows] = inputs[0].float().cpu().numpy()
        present["classifier"][rows] = True

    hooks = [
        head.register_forward_pre_hook(keep_pooled(name)) for name, head in model.heads.items() if head is not None
    ]
    if "classifier" in layers:
        hooks.append(layers["classifier"].register_forward_pre_hook(keep_input))

    order = np.argsort(-dataset.lengths, kind="stable")
    size = 1 if model.config.depends_on_batch else batch_size
    batches = [part.tolist() for part in np.array_split(order, -(-len(order) // size))]
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=collator)
    try:
        for rows[:], batch in zip(batches, tqdm(loader, desc="Pooled states", unit="batch"), strict=True):
            model(**{name: tensor.to(model.device) for name, tensor in batch.items() if name != "labels"})
    finally:
        for hook in hooks:
            hook.remove()
    return States(values, present)


def draw_clips(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw up to `count` clips of each label; return their rows in order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == label][:count] for label in np.unique(labels)]))


def make_folds(
    labels: np.ndarray, speakers: Sequence[str | None], names: Sequence[str], most: int = MOST_FOLDS, seed: int = 42
) -> tuple[Folds, bool, list[str]]:
    """Draw folds, stratified by label and by speaker where speakers are known. Every fold trains on every label.

    Args:
        labels: (N,) indices of the classes.
        speakers: (N,) names, None where unknown; a clip of an unknown speaker is a group of its own.
        names: of the classes.
        most: number of folds, if there are enough clips and speakers.
        seed: of the draw.

    Returns:
        the folds, whether they separate speakers, and what was given up, one line each.
    """
    counts = Counter(labels.tolist())
    rarest = min(counts, key=counts.__getitem__)
    remarks = []
    known = any(name is not None for name in speakers)
    groups = np.array([f"speaker {name}" if name is not None else f"clip {row}" for row, name in enumerate(speakers)])
    per_label = {label: len(set(groups[labels == label])) for label in counts}
    fewest = min(per_label, key=per_label.__getitem__)

    count = min(most, counts[rarest], per_label[fewest] if known else most)
    for attempt in range(_TRIES if known and count > 1 else 0):
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed + attempt)
        folds = list(splitter.split(labels, labels, groups))
        if all(len(asked) and set(labels[learned]) == set(counts) for learned, asked in folds):
            if count < most:
                limits = {
                    f"{names[fewest]} has {per_label[fewest]} speakers": per_label[fewest],
                    f"{names[rarest]} has {counts[rarest]} clips": counts[rarest],
                }
                remarks.append(f"{count} folds instead of {most}: {min(limits, key=limits.__getitem__)}.")
            return folds, True, remarks

    if known:
        remarks.append(
            f"The folds share speakers, because {names[fewest]} has {per_label[fewest]} of them: the scores do not show "
            "how well the model does on new speakers."
        )
    count = min(most, counts[rarest])
    if count < most:
        remarks.append(f"{count} folds instead of {most}: {names[rarest]} has {counts[rarest]} clips.")
    folds = list(StratifiedKFold(count, shuffle=True, random_state=seed).split(labels, labels))
    return folds, False, remarks


def speaker_warnings(
    labels: np.ndarray, speakers: Sequence[str | None], names: Sequence[str], seed: int = 42
) -> list[str]:
    """Return a warning if the speaker of a clip gives its label away, as the audit of a corpus finds it: by the most
    frequent label of the same speaker's other clips."""
    keys = np.array(speakers, dtype=object)
    if len(set(speakers) - {None}) < 2:
        return []

    answers = np.empty_like(labels)
    folds = min(MOST_FOLDS, *Counter(labels.tolist()).values())
    if folds < 2:
        return []
    for learned, asked in StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels):
        answers[asked], _ = answer_by_key(keys[learned].tolist(), labels[learned], keys[asked].tolist())

    found = score_answers(labels, answers, seed)
    if not found["leaks"]:
        return []
    return [
        f"Speakers are confounded with labels: the speaker alone predicts the label with UAR {100 * found['uar']:.1f} % "
        f"(chance {100 * found['chance_uar']:.1f} %), so the model may learn who speaks instead of {', '.join(names)}."
    ]


def decisions(classifier: Pipeline, values: np.ndarray) -> np.ndarray:
    """Return the decision function (N, K); of two classes, half of it for one and against the other."""
    found = classifier.decision_function(values)
    return np.stack([-found / 2, found / 2], axis=1) if found.ndim == 1 else found


def _require_clips(labels: np.ndarray, names: Sequence[str], least: int) -> None:
    counts = Counter(labels.tolist())
    few = {name: counts[index] for index, name in enumerate(names) if counts[index] < least}
    if few:
        shown = ", ".join(f"{name} {count}" for name, count in few.items())
        raise ArgumentError(f"label: each label needs {least} clips or more; {shown}. Add clips, or leave it out.")


def fit_regression(values: np.ndarray, labels: np.ndarray, strength: float, seed: int) -> Pipeline:
    """Fit a logistic regression on standardized values, with equal weights for the classes."""
    (fitted,) = _fit_path(values, labels, seed, [strength])
    return fitted[1]


def _fit_path(
    values: np.ndarray, labels: np.ndarray, seed: int, strengths: Sequence[float] = STRENGTHS
) -> Iterator[tuple[float, Pipeline]]:
    """Yield (strength, regression) for each strength; each starts from the weights of the one before."""
    scaler = StandardScaler().fit(values)
    # Of a value that hardly varies, only noise would be left.
    scaler.scale_ = np.maximum(scaler.scale_, LEAST_SCALE * scaler.scale_.max())
    steps: list[Any] = [scaler]
    states = scaler.transform(values)
    if states.shape[1] > len(states):  # a rotation into the space of the clips: the same regression, solved faster
        steps.append(PCA().fit(states))
        states = steps[1].transform(states)

    weights = None
    for strength in strengths:
        regression = LogisticRegression(
            C=strength, class_weight="balanced", max_iter=5000, random_state=seed, warm_start=True
        )
        if weights is not None:
            regression.coef_, regression.intercept_ = weights
        regression.fit(states, labels)
        weights = regression.coef_, regression.intercept_
        yield strength, make_pipeline(*steps, regression)


def _balanced_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the negative log-likelihood, averaged within each class and then over the classes."""
    losses = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    return float(np.mean([losses[labels == label].mean() for label in np.unique(labels)]))


def _last_layers(model: BiBiERForEmotionClassification) -> dict[str, nn.Linear]:
    """Return the last linear layers by name; those of the modalities first."""
    layers = {name: head.linear for name, head in model.heads.items() if head is not None}
    if model.classifier is not None:
        layers["classifier"] = model.output_layers()[-1]
    lacking = [name for name in model.config.modalities if model.mixture is not None and name not in layers]
    if lacking or not layers:
        raise ArgumentError(
            f"checkpoint: it has no classifier of its own for {' and '.join(lacking or model.config.modalities)} "
            "(encoder: none), so there is nothing to adapt. Adapt another checkpoint."
        )
    return layers


def _counted_layers(model: BiBiERForEmotionClassification) -> list[str]:
    """Return the layers whose outputs make the logits of the model."""
    names = list(_last_layers(model))
    return ["classifier"] if model.mixture is None and "classifier" in names else names


def _joined(model: BiBiERForEmotionClassification, states: States) -> np.ndarray:
    """Return (N, D), in which the logits of the model are linear.

    A mixture with equal weights averages over the layers of the present modalities; absent ones count nothing.
    """
    names = _counted_layers(model)
    present = np.stack([states.present[name] for name in names], axis=1)  # (N, M)
    shares = present / present.sum(1, keepdims=True)
    return np.concatenate([states.values[name] * shares[:, [place]] for place, name in enumerate(names)], axis=1)


@torch.no_grad()
def _fold_in(
    model: BiBiERForEmotionClassification,
    classifier: Pipeline,
    train: States,
    labels: np.ndarray,
    strength: float,
    seed: int,
) -> None:
    """Write the regression into the last layers. Classifiers of one modality that do not count for the logits get a
    regression of their own, over the clips that have the modality."""
    layers, counted = _last_layers(model), _counted_layers(model)
    weight, bias = _as_linear(classifier)
    sizes = [layers[name].in_features for name in counted]
    for name, part in zip(counted, np.split(weight, np.cumsum(sizes)[:-1], axis=1), strict=True):
        _set_layer(layers[name], part, bias)
    if model.mixture is not None:
        model.mixture.weights.zero_()  # equal shares

    for name in layers.keys() - set(counted):
        has = train.present[name]
        if set(labels[has]) == set(labels):
            own = fit_regression(train.values[name][has], labels[has], strength, seed)
            _set_layer(layers[name], *_as_linear(own))
        else:
            _set_layer(layers[name], np.zeros_like(layers[name].weight.cpu()), np.zeros(len(bias)))


def _as_linear(classifier: Pipeline) -> tuple[np.ndarray, np.ndarray]:
    """Return weight (K, D) and bias (K,) of scaler, rotation and regression in one."""
    scaler, *rotation, regression = (step for _, step in classifier.steps)
    weight, bias = regression.coef_, regression.intercept_
    for pca in rotation:
        weight = weight @ pca.components_
        bias = bias - weight @ pca.mean_
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    weight = weight / scaler.scale_
    return weight, bias - weight @ scaler.mean_


def _set_layer(layer: nn.Linear, weight: np.ndarray, bias: np.ndarray) -> None:
    layer.weight.copy_(torch.from_numpy(np.asarray(weight)))
    layer.bias.copy_(torch.from_numpy(np.asarray(bias)))
