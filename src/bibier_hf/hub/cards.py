"""Model cards, rendered from the facts in `results.json` alone: what is not known is left out."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..evaluation.metrics import METRICS
from ..evaluation.report import metrics_table, recall_table, write_atomically
from ..model.configuration_bibier import EMBEDDED, TASK

METRIC_TITLES = {
    "uar": "UAR (unweighted average recall)",
    "war": "WAR (weighted average recall, accuracy)",
    "mf1": "MF1 (macro F1)",
    "wf1": "WF1 (weighted F1)",
}

LANGUAGE_NAMES = {"en": "English", "ru": "Russian"}

BACKBONE_LICENSES = {
    "facebook/w2v-bert-2.0": "MIT",
    "intfloat/multilingual-e5-small": "MIT",
    "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim": "CC BY-NC-SA 4.0, not for commercial use",
    "jinaai/jina-embeddings-v3": "CC BY-NC 4.0, not for commercial use",
    "jinaai/jina-embeddings-v3-hf": "CC BY-NC 4.0, not for commercial use",
}
"""Licences of backbones by Hub id, as their own cards state them."""


def render_model_card(results: dict[str, Any], model_id: str = "PATH/TO/THIS/FOLDER") -> ModelCard:
    """The card of a trained model.

    Args:
        results: content of `results.json` ([`~bibier_hf.training.run.run_training`]).
        model_id: Hub id, or what stands for it in the usage example.
    """
    languages = sorted({language for data in results["data"].values() for language in data["language"]})
    backbones = {modality: results["model"][f"{modality}_backbone"] for modality in ("audio", "text")}
    card_data = ModelCardData(
        language=languages,
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=[TASK, "speech-emotion-recognition", "multimodal", "bibier"],
        base_model=[name for name in backbones.values() if "/" in name] or None,
        model_name=f"BiBiER {results['model']['fusion']} ({', '.join(results['data'])})",
        eval_results=_eval_results(results),
    )
    return ModelCard.from_template(
        card_data,
        template_str=(files(__package__) / "templates" / "model_card.md").read_text(encoding="utf-8"),
        title=f"BiBiER {results['model']['fusion']} ({', '.join(results['data'])})",
        model_id=model_id,
        task=TASK,
        labels=results["model"]["labels"],
        languages=[LANGUAGE_NAMES.get(language, language) for language in languages],
        model=results["model"],
        backbones={modality: _backbone_facts(name, results["model"], modality) for modality, name in backbones.items()},
        protocols={name: _protocol_text(protocol) for name, protocol in results["protocol"].items()},
        data=results["data"],
        augmentation={name: _augmentation_text(facts) for name, facts in results.get("augmentation", {}).items()},
        synthetic=sorted(name for name, data in results["data"].items() if "synthetic" in data["source"]),
        grouped=any(protocol["name"] != "official" for protocol in results["protocol"].values()),
        resd_official=results["protocol"].get("resd", {}).get("name") == "official",
        metrics_tables={split: metrics_table(_with_mean(results, split)) for split in ("test", "dev")},
        language_table=metrics_table(results["metrics_by_language"]["test"], head="language"),
        recall_table=recall_table(results["metrics"]["test"]),
        pictures=[f"confusion_matrix_test_{name}.png" for name in results["metrics"]["test"]],
        selection=results["selection"],
        seed=results["seed"],
        command=results["command"],
        hardware=results["hardware"],
        minutes=results["seconds"] / 60,
        versions=results["versions"],
        git=results["git"],
    )


def write_model_card(results: dict[str, Any], path: str | Path) -> None:
    """Render the card into a file, in one step."""
    write_atomically(path, render_model_card(results).save)


def _with_mean(results: dict[str, Any], split: str) -> dict[str, dict[str, float]]:
    metrics = results["metrics"][split]
    return metrics if len(metrics) == 1 else metrics | {"mean": results["metrics_mean"][split]}


def _eval_results(results: dict[str, Any]) -> list[EvalResult]:
    """One entry a corpus and metric, in the form of the Hub's model-index; in percent."""
    return [
        EvalResult(
            task_type="audio-classification",
            task_name="Speech and text emotion recognition",
            dataset_type=corpus,
            dataset_name=f"{corpus}, {_protocol_text(results['protocol'][corpus])}",
            dataset_split="test",
            metric_type=name,
            metric_name=METRIC_TITLES[name],
            metric_value=round(100 * metrics[name], 2),
        )
        for corpus, metrics in results["metrics"]["test"].items()
        for name in METRICS
    ]


def _protocol_text(protocol: dict[str, Any]) -> str:
    return f"{protocol['name']} protocol" + (f", fold {protocol['fold']}" if "fold" in protocol else "")


def _augmentation_text(facts: dict[str, Any]) -> str:
    """What was done to the train split of a corpus, in one sentence."""
    parts = []
    if "sds" in facts:
        sds = facts["sds"]
        draws = {1: "drawn once", "every_epoch": "drawn anew in every epoch"}.get(sds["draws"], f"{sds['draws']} draws in turn")
        parts.append(f"{sds['stacked']} of {sds['rows']} rows stacked from clips of the same label ({draws})")
    if "synthetic" in facts:
        parts.append(f"{sum(counts['used'] for counts in facts['synthetic'].values())} synthetic utterances added")
    return "; ".join(parts)


def _backbone_facts(name: str, model: dict[str, Any], modality: str) -> dict[str, Any]:
    return {
        "name": "a small one, trained from scratch with the rest" if name == EMBEDDED else f"`{name}`",
        "training": model[f"{modality}_backbone_training"],
        "embedded": name == EMBEDDED,
        "license": BACKBONE_LICENSES.get(name),
        "url": f"https://huggingface.co/{name}" if "/" in name else None,
    }
