"""Model cards, rendered from `results.json` and `facts.yaml` only. Unknown facts are left out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..evaluation.conditions import losses_table
from ..evaluation.problems import PROBLEMS
from ..evaluation.report import metrics_table, recall_table, risk_table
from ..evaluation.results import RESULTS_FILE, EvaluationResults, RunResults
from ..evaluation.unsure import unsure_text
from ..files import write_atomically
from ..labels import checked_labels
from ..model.configuration_bibier import EMBEDDED, MODALITIES, MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASK
from ..model.modeling_bibier import ADAPTER_FOLDER
from ..tables import markdown_table, percent
from ..text import LANGUAGE_NAMES
from .facts import facts, hub_dataset, model_licensing, template

CARD_FILE = "README.md"
PLACEHOLDER_ID = "PATH/TO/THIS/FOLDER"
"""Used in the example of a card until the model has an id on the Hub."""

METRIC_TITLES = {
    "uar": "UAR (unweighted average recall)",
    "war": "WAR (weighted average recall, accuracy)",
    "mf1": "MF1 (macro F1)",
    "wf1": "WF1 (weighted F1)",
    "macro_f1": "macro F1 (mean over the labels)",
    "micro_f1": "micro F1 (of all labels together)",
    "map": "mAP (mean average precision over the labels)",
    "ccc": "CCC (concordance correlation coefficient, mean over the targets)",
    "pearson": "Pearson (correlation, mean over the targets)",
    "mae": "MAE (mean absolute error)",
}

ANSWERS = {
    SINGLE_LABEL: '[{"label": ..., "score": ...}, ...], best first',
    MULTI_LABEL: '[{"label": ..., "score": ..., "present": ...}, ...], best first',
    REGRESSION: '[{"label": ..., "score": value}, ...]',
}
"""What the pipeline returns."""

RESEMBLES = {
    SINGLE_LABEL: "which class an utterance resembles",
    MULTI_LABEL: "which labels an utterance resembles",
    REGRESSION: "how listeners would rate an utterance",
}
"""What the model says."""

_HUB_METRICS = {SINGLE_LABEL: ("recall", "accuracy", "f1"), MULTI_LABEL: ("f1",), REGRESSION: ("mae", "pearsonr")}


MODALITY_NAMES = {"audio": "speech", "text": "text"}

PROTOCOLS = {
    "official": "the corpus's own test set",
    "dialogue_grouped": "no dialogue of the test set occurs in training",
    "speaker_independent": "no speaker of the test set occurs in training",
}
"""What each protocol separates, in a few words."""

COUNT_WORDS = dict(enumerate("one two three four five six seven eight nine ten eleven twelve".split(), start=1))
"""Numbers that are written as words."""

LATER_EVALUATION = "evaluation/evaluation_test.json"

PICTURES = {
    "confusion_matrix_test_{}.png": "Confusion matrix, {}",
    "values_test_{}.png": "Predicted over true values, {}",
    "reliability_test_{}.png": "Reliability, {}",
    "risk_coverage_test_{}.png": "Errors among the most confident answers, {}",
}
"""File of a report, by corpus -> its caption."""


def read_results(folder: str | Path) -> RunResults:
    """Read the results of a run, with later measurements on the same test sets (`evaluation/evaluation_test.json`).

    Raises:
        FileNotFoundError: there are no results.
        ResultsError: a file has other content.
    """
    folder = Path(folder)
    results = RunResults.load(folder / RESULTS_FILE)
    if not (folder / LATER_EVALUATION).is_file():
        return results

    later = EvaluationResults.load(folder / LATER_EVALUATION)
    same = [name for name, protocol in later.protocol.items() if protocol == results.protocol.get(name)]
    for measured, known in ((later.modalities, results.modalities), (later.conditions, results.conditions)):
        if found := {name: entry for name, entry in measured.get("test", {}).items() if name in same}:
            known["test"] = found

    return results


def render_model_card(results: RunResults, model_id: str = PLACEHOLDER_ID, pictures: Sequence[str] = ()) -> ModelCard:
    """Render the card of a trained model.

    Args:
        results: of the run.
        model_id: Hub id, for the example.
        pictures: files in the folder of the card; those of `PICTURES` are shown.
    """
    languages = sorted({language for data in results.data.values() for language in data["language"]})
    modalities = results.model.get("modalities") or results.config["model"].get("modalities") or list(MODALITIES)
    backbones = {modality: results.model[f"{modality}_backbone"] for modality in modalities}
    licensing = model_licensing(
        results.data, {modality: name for modality, name in backbones.items() if name != EMBEDDED}
    )
    licenses = {source: licensing.describe(source) for source in licensing.sources}
    problem = PROBLEMS[results.model.get("problem_type", SINGLE_LABEL)]
    title = f"BiBiER {results.model['fusion'] if len(modalities) > 1 else modalities[0]} ({', '.join(results.data)})"
    tags = ["speech-emotion-recognition" if "audio" in modalities else "emotion-recognition"]
    if len(modalities) > 1:
        tags.append("multimodal")

    card_data = ModelCardData(
        language=languages,
        **licensing.metadata,
        library_name="transformers",
        pipeline_tag=_hub_task(modalities),
        tags=[TASK, *tags, "bibier"],
        base_model=[name for name in backbones.values() if "/" in name] or None,
        datasets=list(filter(None, map(hub_dataset, results.data))) or None,
        metrics=list(_HUB_METRICS[problem.name]),
        model_name=title,
        eval_results=_eval_results(results, modalities),
    )
    scored = "test" if "test" in results.metrics else "dev"
    test = results.metrics[scored]
    labels = results.model["labels"]
    return ModelCard.from_template(
        card_data,
        template_str=template("model_card"),
        title=title,
        model_id=model_id,
        task=TASK,
        results=results,
        languages=[LANGUAGE_NAMES.get(language, language) for language in languages],
        modalities=modalities,
        modality_names=[MODALITY_NAMES[modality] for modality in modalities],
        backbones={modality: _backbone_facts(name, results, modality) for modality, name in backbones.items()},
        adapters=_adapters(results, modalities),
        protocols={name: protocol_text(protocol) for name, protocol in results.protocol.items()},
        protocol_meanings={name: PROTOCOLS.get(protocol["name"]) for name, protocol in results.protocol.items()},
        augmentation={name: _augmentation_text(entry) for name, entry in results.augmentation.items()},
        synthetic=sorted(name for name, data in results.data.items() if "synthetic" in data["source"]),
        emotions=tuple(labels) == checked_labels(None) and problem.name == SINGLE_LABEL,
        problem=problem,
        answer=ANSWERS[problem.name],
        metric_titles=[METRIC_TITLES[name] for name in problem.metrics],
        purpose=_purpose(labels, problem.name),
        outputs=_outputs(labels, problem.name),
        resembles=RESEMBLES[problem.name],
        resd_official=results.protocol.get("resd", {}).get("name") == "official",
        calibration_table=_calibration_table(test),
        metrics_tables={
            split: metrics_table(results.metrics[split], mean=results.metrics_mean[split]) for split in results.metrics
        },
        language_table=metrics_table(results.metrics_by_language[scored], head="language"),
        scored=scored,
        recall_table=recall_table(test),
        input_tables={
            name: metrics_table(table, head="input") for name, table in results.modalities.get("test", {}).items()
        },
        risk_tables={name: risk_table(points) for name, points in results.risk_coverage.get(scored, {}).items()},
        unsure=unsure_text(results.unsure),
        losses_table=losses_table(results.conditions["test"]) if "test" in results.conditions else None,
        disturbances=_disturbances_text(results.config.get("disturbances")),
        pictures={
            file.format(name): caption.format(name)
            for name in test
            for file, caption in PICTURES.items()
            if file.format(name) in pictures
        },
        licenses=licenses,
        non_commercial=licensing.non_commercial,
        ai_act=facts()["ai_act"],
    )


def _purpose(labels: Sequence[str], problem_type: str) -> str:
    """Say what the model does, up to "an utterance"."""
    if problem_type == REGRESSION:
        return f"Predicts the {' and '.join(labels[:3])}{' and other values' if len(labels) > 3 else ''} of"
    if problem_type == MULTI_LABEL:
        return f"Says which of {COUNT_WORDS.get(len(labels), len(labels))} labels apply to"
    if tuple(labels) == checked_labels(None):
        return "Recognizes the emotion of"
    return f"Assigns one of {COUNT_WORDS.get(len(labels), len(labels))} labels to"


def _outputs(labels: Sequence[str], problem_type: str) -> str:
    """Say how many outputs the model has, such as `seven classes`."""
    one, more = {SINGLE_LABEL: ("class", "classes"), REGRESSION: ("value", "values")}.get(
        problem_type, ("label", "labels")
    )
    return f"{COUNT_WORDS.get(len(labels), len(labels))} {one if len(labels) == 1 else more}"


def write_model_card(results: RunResults, path: str | Path, model_id: str = PLACEHOLDER_ID) -> None:
    """Render the card into a file, in one step, with the pictures in its folder."""
    pictures = [picture.name for picture in Path(path).parent.glob("*.png")]
    write_atomically(path, render_model_card(results, model_id, pictures).save)


def protocol_text(protocol: dict[str, Any]) -> str:
    """Describe a protocol of `results.json`, with its fold."""
    return f"{protocol['name']} protocol" + (f", fold {protocol['fold']}" if "fold" in protocol else "")


def _hub_task(modalities: Sequence[str]) -> str:
    """Return the closest task of the Hub."""
    return "audio-classification" if "audio" in modalities else "text-classification"


def _eval_results(results: RunResults, modalities: Sequence[str]) -> list[EvalResult]:
    """Return an entry for each corpus and metric, for the model index of the Hub, shares in percent."""
    problem = PROBLEMS[results.model.get("problem_type", SINGLE_LABEL)]
    return [
        EvalResult(
            task_type=_hub_task(modalities),
            task_name=f"Emotion recognition from {' and '.join(MODALITY_NAMES[modality] for modality in modalities)}",
            dataset_type=hub_dataset(corpus) or corpus,
            dataset_name=f"{corpus}, {protocol_text(results.protocol[corpus])}",
            dataset_split="test",
            metric_type=name,
            metric_name=METRIC_TITLES[name],
            metric_value=float(problem.shown(name, metrics[name]) or 0),
        )
        for corpus, metrics in results.metrics.get("test", {}).items()
        for name in problem.metrics
    ]


def _calibration_table(metrics: dict[str, dict[str, Any]]) -> str | None:
    """Return a Markdown table with one row per corpus, or None if calibration was not measured."""
    rows = [
        [corpus, percent(values["ece"]), f"{values['brier']:.4f}", f"{values['nll']:.4f}"]
        for corpus, values in metrics.items()
        if "ece" in values
    ]

    return markdown_table(["corpus", "ECE, %", "Brier", "NLL"], rows) if rows else None


def _adapters(results: RunResults, modalities: Sequence[str]) -> list[str]:
    """Return the folders of LoRA adapters of the model; none if they were merged."""
    lora = results.config["lora"]
    if lora is None or lora["save"] != "adapter":
        return []
    return [ADAPTER_FOLDER.format(modality) for modality in modalities if modality in lora["backbones"]]


def _augmentation_text(entry: dict[str, Any]) -> str:
    """Describe the augmentation of a train split in one sentence."""
    parts = []
    if "sds" in entry:
        sds = entry["sds"]
        known = {1: "drawn once", "every_epoch": "a new draw in every epoch"}
        draws = known.get(sds["draws"], f"{sds['draws']} draws in turn")
        parts.append(f"{sds['stacked']} of {sds['rows']} rows stacked from clips of the same label ({draws})")
    if "synthetic" in entry:
        parts.append(f"{sum(counts['used'] for counts in entry['synthetic'].values())} synthetic utterances added")
    return "; ".join(parts)


def _disturbances_text(section: dict[str, Any] | None) -> str | None:
    """Describe the disturbances of training in one sentence."""
    if not section:
        return None
    share, kinds = f"{100 * section['probability']:.0f} %", ", ".join(f"`{kind}`" for kind in section["kinds"])
    return f"{share} of the recordings in an epoch were disturbed at random: {kinds}"


def _backbone_facts(name: str, results: RunResults, modality: str) -> dict[str, Any]:
    """Describe a backbone and its encoder, which has no blocks if its number of layers is 0."""
    model = results.model
    shown = f"[`{name}`](https://huggingface.co/{name})" if "/" in name else f"`{name}`"
    if name == EMBEDDED:
        shown = "a small one, trained from scratch with the rest"
    encoder = model.get(f"{modality}_encoder")
    if results.config.get("model", {}).get(f"{modality}_config", {}).get("num_hidden_layers") == 0:
        encoder = "pooled over time"
    elif encoder is not None:
        encoder = f"`{encoder}`"
    training = model[f"{modality}_backbone_training"]
    inside = f"bibier.{modality}.backbone."
    frozen = [name.rstrip(".") for name in results.config.get("frozen", ()) if name.startswith(inside)]
    if frozen and training == "trained":
        training += ", but for " + ", ".join(f"`{name.removeprefix(inside)}`" for name in frozen)
    return {"name": shown, "encoder": encoder, "training": training}
