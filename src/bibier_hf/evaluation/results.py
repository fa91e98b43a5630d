"""Scores with the facts that they depend on: what `results.json` and `evaluation_<split>.json` hold."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import UserError
from ..files import write_json
from .metrics import mean_over_groups
from .report import Predictions

RESULTS_FILE = "results.json"

Metrics = dict[str, Any]
"""`uar`, `war`, `mf1`, `wf1` and `mean`, or those of another problem ([`~bibier_hf.evaluation.problems`]); for a
corpus also `ece`, `brier`, `nll`, `samples` and `recall` per emotion."""

_ON_REQUEST = (
    "adaptation",
    "calibration",
    "unsure",
    "risk_coverage",
    "modalities",
    "conditions",
    "conditions_audio",
    "conditions_settings",
)
"""Left out of the file where they were not measured."""


class ResultsError(UserError, ValueError):
    """A results file that cannot be read."""


@dataclass(kw_only=True)
class Results:
    """Scores of each split, and the code and the machine that produced them.

    Attributes:
        metrics: split -> corpus -> metrics.
        metrics_by_language: split -> language -> metrics.
        metrics_mean: split -> metrics averaged over the corpora.
        git, versions, hardware: from [`~bibier_hf.evaluation.report.environment`].
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    kind: ClassVar[str] = "a model"

    metrics: dict[str, dict[str, Metrics]] = field(default_factory=dict)
    metrics_by_language: dict[str, dict[str, Metrics]] = field(default_factory=dict)
    metrics_mean: dict[str, Metrics] = field(default_factory=dict)
    git: dict[str, Any] | None
    versions: dict[str, str]
    hardware: dict[str, Any]

    def add_split(self, split: str, predictions: Predictions) -> None:
        """Score the predictions for a split."""
        self.metrics[split] = predictions.metrics_by_corpus()
        self.metrics_by_language[split] = predictions.by_language()
        self.metrics_mean[split] = mean_over_groups(self.metrics[split], predictions.problem.columns)

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {key: value for key, value in asdict(self).items() if value or key not in _ON_REQUEST}

    def write(self, path: str | Path) -> None:
        """Write the file in one step."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what [`write`] wrote.

        Raises:
            FileNotFoundError: no such file.
            ResultsError: a file with other content.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return TypeAdapter(cls).validate_python(content)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ResultsError(f"{path} is not valid JSON: {error}.") from error
        except ValidationError as error:
            problem = error.errors()[0]
            key = "".join(f"{part}: " for part in problem["loc"])
            raise ResultsError(f"{path} does not hold the results of {cls.kind}: {key}{problem['msg']}.") from error


@dataclass(kw_only=True)
class ModelResults(Results):
    """Scores of a model.

    Attributes:
        protocol: corpus -> how it was split ([`~bibier_hf.data.mixture.protocol_facts`]).
        data_hash: hash of the rows; for an evaluation by corpus.
        calibration: `temperature`, what it was `fitted_on`, and ECE, Brier score and NLL without it (`uncalibrated`).
        unsure: what was fitted and measured of when an answer is unsure: `speech_check`
            ([`~bibier_hf.evaluation.unsure.fit_speech_check`]), `least_confidence` and the `coverage` that it leaves.
        risk_coverage: split -> corpus -> points ([`~bibier_hf.evaluation.calibration.risk_coverage`]).
        modalities: split -> corpus -> condition -> metrics, with a modality missing.
        conditions, conditions_audio: split -> corpus -> disturbance -> metrics, with the text and without it
            ([`~bibier_hf.evaluation.conditions.score_conditions`]).
        conditions_settings: split -> seed, and what the bootstrap draws in each corpus.
    """

    protocol: dict[str, dict[str, Any]]
    data_hash: str | dict[str, str] | None = None
    calibration: dict[str, Any] = field(default_factory=dict)
    unsure: dict[str, Any] = field(default_factory=dict)
    risk_coverage: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    modalities: dict[str, dict[str, dict[str, Metrics]]] = field(default_factory=dict)
    conditions: dict[str, dict[str, dict[str, Metrics]]] = field(default_factory=dict)
    conditions_audio: dict[str, dict[str, dict[str, Metrics]]] = field(default_factory=dict)
    conditions_settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add_split(self, split: str, predictions: Predictions) -> None:
        super().add_split(split, predictions)
        self.risk_coverage[split] = predictions.risk_coverage_by_corpus()


@dataclass(kw_only=True)
class RunResults(ModelResults):
    """The results of a training run.

    Attributes:
        model: backbones, how they were trained, encoders, fusion, labels and numbers of parameters.
        selection: which checkpoint was selected, by what, and the history of dev.
        stages: facts of stage 1 of a training in two stages.
        logit_adjustment: strength and shift, if asked for.
        adaptation: of `bibier adapt`: clips of each label, intervals of the scores, and warnings.
        date: of the end of the run.
        command: the command line.
        config: the arguments of the run, without folders of this machine.
        data: corpus -> languages, sources, licenses and hours.
        augmentation, soft_labels: corpus -> what was done to its training rows.
        seconds, seconds_by_stage: wall-clock time.
        resumed: whether the run went on from a checkpoint.
    """

    kind = "a training run"

    model: dict[str, Any]
    selection: dict[str, Any]
    stages: dict[str, Any] | None = None
    logit_adjustment: dict[str, Any] | None = None
    adaptation: dict[str, Any] | None = None
    date: str | None = None
    seed: int
    command: str | None = None
    config: dict[str, Any]
    data: dict[str, dict[str, Any]]
    augmentation: dict[str, dict[str, Any]] = field(default_factory=dict)
    soft_labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float
    seconds_by_stage: dict[str, float] = field(default_factory=dict)
    resumed: bool = False


@dataclass(kw_only=True)
class EvaluationResults(ModelResults):
    """The results of an evaluation.

    Attributes:
        checkpoint: Hub id, or name of the folder.
    """

    kind = "an evaluation"

    checkpoint: str


@dataclass(kw_only=True)
class BaselineResults(Results):
    """The results of a baseline.

    Attributes:
        baseline: its name.
        protocol: corpus -> how it was split.
        seed: of the solver.
        config: the arguments, without folders of this machine.
        data_hash: corpus -> hash of its rows.
        folds: corpus -> `runs` (fold, choice on dev, metrics), and `mean` and `std` of test over them.
        seconds: wall-clock time.
    """

    baseline: str
    protocol: dict[str, dict[str, Any]]
    seed: int
    config: dict[str, Any]
    data_hash: dict[str, str]
    folds: dict[str, dict[str, Any]]
    seconds: float = 0.0


@dataclass(kw_only=True)
class RecognitionResults(Results):
    """The results of an LLM that names the emotions.

    Attributes:
        recognizer: model, prompt and options.
        failed: rows without an answer, scored with equal probabilities.
    """

    recognizer: dict[str, Any]
    failed: int
