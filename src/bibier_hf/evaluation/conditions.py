"""Score a model on disturbed speech: the loss under each condition, with its interval.

Every condition is scored on the same rows as clean speech, so the losses are paired. The bootstrap draws whole
dialogues or speakers. Babble is mixed from other clips of the same split and corpus.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from datasets import DatasetDict

from ..data.disturbances import Voices, under_condition
from ..data.reader import InputReader
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..tables import markdown_table, percent, percent_range
from .bootstrap import bootstrap_column, drawn_scores, paired_difference, percentile_intervals
from .prediction import complete_rows, conditions_of, predict_conditions
from .report import Predictions

CLEAN = "clean"
SCORES = ("uar", "wf1")


def score_conditions(
    model: BiBiERForEmotionClassification,
    reader: InputReader,
    corpora: Mapping[str, DatasetDict],
    split: str,
    conditions: Sequence[str],
    temperature: float,
    batch_size: int = 16,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a model under conditions, on the rows of a split that have every modality of the model.

    With a feature cache, the features of each condition are stored and reused by the next evaluation.

    Args:
        model: in evaluation mode; reads audio.
        reader: how it reads rows.
        corpora: their splits.
        split: to score.
        conditions: disturbances, such as `white:20`.
        temperature: divides the logits.
        batch_size: rows per batch.
        seed: of the disturbances.

    Returns:
        fields of [`~bibier_hf.evaluation.results.ModelResults`]: `conditions.{split}.{corpus}.{condition}`, `clean`
        first: metrics with an `interval` of UAR and WF1 and, except for clean speech, the `loss` relative to it; for a
        bimodal model, the same for speech alone as `conditions_audio`; and `conditions_settings`.

    Raises:
        ArgumentError: a corpus has no such rows, or only one clip to mix babble from.
    """
    given = [name for name in conditions_of(model) if name != "text"]
    fields = ("conditions", "conditions_audio")[: len(given)]
    found: dict[str, Any] = {field: {split: {}} for field in fields}
    drawn_by = {}

    for corpus, splits in corpora.items():
        rows = splits[split].select(complete_rows({corpus: splits}, split, model.config.modalities))
        voices = Voices(splits[split])
        column = bootstrap_column(rows)
        drawn_by[corpus], groups = {"id": "clips"}.get(column, f"{column}s"), list(rows[column])
        answers: dict[str, dict[str, Predictions]] = {field: {} for field in fields}

        for condition in (CLEAN, *conditions):
            heard = rows if condition == CLEAN else under_condition(rows, condition, seed)
            data = reader.inputs({split: heard}, voices)[split]
            logits = predict_conditions(model, data, reader.collator, batch_size, given, f"{corpus}, {condition}")
            for field, name in zip(fields, given, strict=True):
                answers[field][condition] = Predictions.from_logits(rows, logits[name], temperature)

        for field in fields:
            found[field][split][corpus] = compared_with_clean(answers[field], groups)

    return found | {"conditions_settings": {split: {"seed": seed, "intervals_over": drawn_by}}}


def compared_with_clean(answers: Mapping[str, Predictions], groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the metrics of each condition with intervals, and its loss relative to clean speech.

    Args:
        answers: condition -> predictions for the same N rows of one corpus; `clean` is among them.
        groups: (N,) the groups that the bootstrap draws whole.
    """
    draws = {name: drawn_scores(found.labels, found.predictions, groups) for name, found in answers.items()}
    numbers = {}

    for name, found in answers.items():
        (metrics,) = found.metrics_by_corpus().values()
        numbers[name] = metrics | {"interval": percentile_intervals(draws[name])}
        if name == CLEAN:
            continue

        losses = {}
        for score in SCORES:
            loss = numbers[CLEAN][score] - metrics[score]
            losses[score] = asdict(paired_difference(draws[CLEAN], draws[name], loss, score))
        numbers[name]["loss"] = losses

    return numbers


def losses_table(numbers: Mapping[str, Mapping[str, dict[str, Any]]], head: str = "condition") -> str:
    """Return a Markdown table of the losses, in percent.

    Args:
        numbers: corpus -> condition -> metrics of [`score_conditions`].
        head: title of the column of conditions.
    """
    titles = ["corpus", head]
    for score in SCORES:
        titles += [score.upper(), "95 %", "loss", "95 %"]

    rows = []
    for corpus, conditions in numbers.items():
        for condition, values in conditions.items():
            row: list[str | None] = [corpus, condition]
            for score in SCORES:
                row += [percent(values[score], 1), percent_range(*values["interval"][score])]
                loss = values.get("loss", {}).get(score)
                if loss is None:
                    row += ["", ""]
                else:
                    row += [percent(loss["difference"], 1), percent_range(loss["lower"], loss["upper"])]
            rows.append(row)

    return markdown_table(titles, rows)


def uar_points(numbers: Mapping[str, dict[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Return condition -> UAR with the ends of its interval, for the picture."""
    return {name: (values["uar"], *values["interval"]["uar"]) for name, values in numbers.items()}
