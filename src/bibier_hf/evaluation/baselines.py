"""Scikit-learn baselines: each learns from train, chooses C on dev, and scores test once.

| name | features -> classifier |
|---|---|
| `mfcc_svm` | statistics of MFCC -> support vector machine (RBF) |
| `tfidf_logreg` | TF-IDF of words and of characters -> logistic regression |
| `pooled_audio_logreg`, `pooled_text_logreg` | mean and deviation over time of backbone features -> logistic regression |
| `who_speaks` | statistics of MFCC -> speaker (linear SVM) -> most frequent emotion of that speaker in train; it never learns an emotion from audio |

Late fusion is the weighted mean of the probabilities of two of them ([`fuse`]).
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from numpy.typing import ArrayLike
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ..data.features import InputExtractor
from ..data.schema import SPLITS
from ..errors import UserError
from ..model.configuration_bibier import NUM_STATISTICS
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from ..model.validation_bibier import one_line
from .acoustics import corpus_functionals
from .audit.give_away import majority_labels
from .audit.groups import speaker_classifier
from .metrics import classification_metrics

MODALITY: Mapping[str, str] = {
    "mfcc_svm": "audio",
    "tfidf_logreg": "text",
    "pooled_audio_logreg": "audio",
    "pooled_text_logreg": "text",
    "who_speaks": "audio",
}
"""Baseline -> modality that it needs."""

STRENGTHS: Mapping[str, Sequence[float]] = {
    "mfcc_svm": (0.3, 1.0, 3.0, 10.0, 30.0),
    "tfidf_logreg": (0.3, 1.0, 3.0, 10.0, 30.0),
    "pooled_audio_logreg": (0.001, 0.01, 0.1, 1.0),
    "pooled_text_logreg": (0.001, 0.01, 0.1, 1.0),
    "who_speaks": (0.01,),
}
"""Baseline -> values of C (inverse regularization) to choose from on dev."""

FUSION_WEIGHTS = tuple(round(0.1 * step, 1) for step in range(11))


class BaselineError(UserError, ValueError):
    """A corpus lacks what a baseline needs."""


@dataclass(frozen=True)
class Outcome:
    """Predictions of a baseline on dev and test.

    Args:
        probabilities: `{"dev": (N, 7), "test": (N, 7)}` in label order; for dev, trained on train only.
        chosen: what was chosen on dev, with its score.
    """

    probabilities: Mapping[str, np.ndarray]
    chosen: Mapping[str, Any]


def corpus_features(
    name: str, corpus: DatasetDict, pooled: Callable[[DatasetDict], dict[str, np.ndarray]] | None
) -> dict[str, Any]:
    """Compute the features of all rows of a corpus, by id.

    Args:
        name: key of `MODALITY`.
        corpus: splits in the common schema.
        pooled: for the two baselines with a backbone: computes [`pooled_features`] of a corpus.

    Raises:
        BaselineError: a row lacks the modality.
    """
    modality = MODALITY[name]
    for split, rows in corpus.items():
        values = rows["text"] if modality == "text" else [value is not None for value in rows["duration_s"]]
        if missing := sum(not value for value in values):
            raise BaselineError(
                f"{name} needs {modality} in every row; {missing} of {len(rows)} rows of {split} have none."
            )

    if pooled is not None:
        return pooled(corpus)
    rows = concatenate_datasets(list(corpus.values()))
    values = rows["text"] if name == "tfidf_logreg" else corpus_functionals(rows)
    return dict(zip(rows["id"], values, strict=True))


def pooled_features(
    corpus: DatasetDict,
    modality: str,
    backbone: str,
    revision: str | None = None,
    layer: int | Sequence[int] = -1,
    **cache: Any,
) -> dict[str, np.ndarray]:
    """Compute mean and standard deviation over time of the features of a frozen backbone: id -> (2 D,).

    The store holds statistics, not frames, as for a model with the encoder `statistics`.

    Args:
        corpus: splits in the common schema.
        modality: `"audio"` or `"text"`.
        backbone, revision: Hub id or folder, and its revision.
        layer: hidden state to pool, or several; -1: the output.
        cache: `dtype`, `compute_dtype`, `batch_size`, `cache_dir` of [`~bibier_hf.data.features.InputExtractor`].

    Raises:
        BaselineError: a backbone that cannot be loaded, or without such a layer.
    """
    other = {"audio": "text", "text": "audio"}[modality]
    sources: dict[str, Any] = {modality: backbone, f"{modality}_revision": revision}
    options = {f"{modality}_config": {"layer": layer, "encoder": "statistics", "freeze_backbone": True}}
    read: dict[str, Any] = {other: None, "modalities": [modality]}
    try:
        model = BiBiERForEmotionClassification.from_backbones(**sources, **read, **options)
        max_tokens = model.config.modality_configs["text"].max_tokens
        processor = BiBiERProcessor.from_backbones(**sources, max_text_tokens=max_tokens)
    except (OSError, ValueError) as error:
        raise BaselineError(
            f"{modality}_backbone: {backbone} cannot be used as asked for: {one_line(error)}"
        ) from error

    pooled = {}
    for inputs in InputExtractor(model, processor, **cache).inputs(corpus).values():
        for row, identity in enumerate(inputs.metadata["id"]):
            (statistics,) = inputs[row][f"{modality}_features"].float().numpy()  # (7 D,): mean, deviation, quantiles
            pooled[identity] = statistics[: 2 * len(statistics) // NUM_STATISTICS]
    return pooled


def run_baseline(
    name: str,
    splits: DatasetDict,
    features: Mapping[str, Any],
    class_weights: str = "balanced",
    strengths: Sequence[float] | None = None,
    refit_on_dev: bool = True,
    seed: int = 42,
) -> Outcome:
    """Train on train, choose C on dev by the mean of UAR, WAR, MF1 and WF1, then predict test.

    Args:
        name: key of `MODALITY`.
        splits: train, dev and test.
        features: from [`corpus_features`].
        class_weights: `"balanced"` or `"none"`.
        strengths: values of C; None: those of `STRENGTHS`.
        refit_on_dev: train again on train + dev with the chosen C, before predicting test.
        seed: of the solver.

    Raises:
        BaselineError: `who_speaks` needs named speakers.
    """
    rows = {split: [features[identity] for identity in splits[split]["id"]] for split in SPLITS}
    values = {split: np.array(found, object if name == "tfidf_logreg" else None) for split, found in rows.items()}
    labels = {split: np.asarray(splits[split]["label"]) for split in SPLITS}
    num_labels = len(splits["train"].features["label"].names)
    speakers = {split: _speakers(splits[split]) for split in ("train", "dev")} if name == "who_speaks" else None

    def fitted(strength: float, parts: Sequence[str]) -> Callable[[Any], np.ndarray]:
        """Train on some of the splits."""
        inputs, classes = (np.concatenate([column[split] for split in parts]) for column in (values, labels))
        named = None if speakers is None else np.concatenate([speakers[split] for split in parts])
        return _fit(_new_model(name, strength, class_weights, seed), inputs, classes, named, num_labels)

    tried = []
    for strength in strengths or STRENGTHS[name]:
        answers = fitted(strength, ["train"])
        dev = answers(values["dev"])
        tried.append((classification_metrics(labels["dev"], dev.argmax(1))["mean"], strength, answers, dev))

    # Of equal ones the first, which is the most regularized.
    score, strength, answers, dev = max(tried, key=lambda entry: entry[0])
    if refit_on_dev:
        answers = fitted(strength, ["train", "dev"])

    return Outcome({"dev": dev, "test": answers(values["test"])}, {"C": strength, "dev_score": score})


def fuse(one: Outcome, other: Outcome, dev_labels: ArrayLike, weight: float | None = 0.5) -> Outcome:
    """Late fusion: the weighted mean of the probabilities of two baselines.

    Args:
        one, other: outcomes over the same rows.
        dev_labels: (N,) true classes of dev.
        weight: of `one`, 0 to 1; None: chosen on dev in steps of 0.1 (of equal ones, the closest to 0.5).
    """

    def mix(split: str, share: float) -> np.ndarray:
        return share * one.probabilities[split] + (1 - share) * other.probabilities[split]

    scores = {
        share: classification_metrics(dev_labels, mix("dev", share).argmax(1))["mean"]
        for share in (FUSION_WEIGHTS if weight is None else (weight,))
    }
    share = max(sorted(scores, key=lambda share: abs(share - 0.5)), key=scores.__getitem__)
    chosen = {"weight": share, "dev_score": scores[share], "parts": [dict(one.chosen), dict(other.chosen)]}
    return Outcome({split: mix(split, share) for split in ("dev", "test")}, chosen)


def _new_model(name: str, strength: float, class_weights: str, seed: int) -> Pipeline:
    weights = None if class_weights == "none" else "balanced"
    regression = LogisticRegression(C=strength, class_weight=weights, max_iter=2000, random_state=seed)
    if name == "who_speaks":
        return speaker_classifier().set_params(svc__C=strength)
    if name == "mfcc_svm":
        machine = SVC(C=strength, class_weight=weights, break_ties=True, random_state=seed)
        return make_pipeline(StandardScaler(), machine)
    if name == "tfidf_logreg":
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
        return make_pipeline(make_union(words, characters), regression)
    return make_pipeline(StandardScaler(), regression)


def _fit(
    model: Pipeline, values: Any, labels: np.ndarray, speakers: np.ndarray | None, num_labels: int
) -> Callable[[Any], np.ndarray]:
    """Fit the model; return a function from N rows to probabilities (N, num_labels)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)  # an unconverged model is not a baseline
        if speakers is not None:
            model.fit(values, speakers)
            label_of = majority_labels(speakers.tolist(), labels)
            return lambda rows: np.eye(num_labels)[[label_of[name] for name in model.predict(rows).tolist()]]
        model.fit(values, labels)

    def answer(rows: Any) -> np.ndarray:
        known = (
            model.predict_proba(rows)
            if hasattr(model, "predict_proba")
            else _from_margins(model.decision_function(rows))
        )
        probabilities = np.zeros((len(known), num_labels))
        probabilities[:, model.classes_] = known
        return probabilities

    return answer


def _from_margins(margins: np.ndarray) -> np.ndarray:
    """Turn the margins of a support vector machine into probabilities (N, K) with the same ranking. With K = 2 there
    is only one margin."""
    return softmax(np.stack([-margins, margins], axis=1) if margins.ndim == 1 else margins, axis=1)


def _speakers(rows: Dataset) -> np.ndarray:
    names = rows["speaker"]
    if missing := sum(name is None for name in names):
        raise BaselineError(f"who_speaks needs the speaker of every row; {missing} of {len(names)} have none.")
    if len(set(names)) < 2:
        raise BaselineError("who_speaks needs at least two speakers in train.")
    return np.array(names, dtype=str)
