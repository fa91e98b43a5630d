"""Cards of data sets: prepared corpora (recorded, stacked or synthetic) and tables of soft labels."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from ..data.label_tables import read_label_table
from ..data.prepare import describe_remarks, load_prepared, read_info
from ..data.schema import COLUMNS, TARGET
from ..data.tables import read_table
from ..evaluation.label_report import describe_labels, report_text
from ..labels import checked_labels
from .facts import Licensing, facts, hub_dataset, license_id, template

PLACEHOLDER_DATASET = "OWNER/NAME"
"""Placeholder in the usage example until a data set has an id on the Hub."""

_PROVENANCE = ("model", "revision", "backend", "way", "prompt", "seed")
"""Columns of a label table that say how it was made, with the same value in every row."""


def corpus_facts(folder: str | os.PathLike) -> dict[str, Any]:
    """Return the facts for the card of a prepared corpus.

    Returns:
        the content of `corpus.json`, `with_audio`, and `own_columns` (beyond the common schema).

    Raises:
        FileNotFoundError: the folder holds no prepared corpus.
        CorpusError: another version's format, or damaged files.
    """
    columns = load_prepared(folder)
    with_audio = any(duration is not None for rows in columns.values() for duration in rows["duration_s"])
    own_columns = [name for name in next(iter(columns.values())).column_names if name not in COLUMNS]

    return read_info(folder) | {"with_audio": with_audio, "own_columns": own_columns}


def render_dataset_card(info: dict[str, Any], repo_id: str | None = None) -> DatasetCard:
    """Render the card of a prepared corpus.

    Args:
        info: from [`corpus_facts`].
        repo_id: id on the Hub, for the usage example. Without it, the card of a corpus that others must not publish
            only says where to get it.
    """
    licensing = Licensing({f"rows ({text})": license_id(text) for text in info["license"]})
    link_only = repo_id is None and bool(info["not_to_rehost"])
    with_audio = info["with_audio"]
    data_files = [{"split": split, "path": entry["file"]} for split, entry in info["splits"].items()]
    synthetic = ["synthetic"] if "synthetic" in info["source"] else []
    card_data = DatasetCardData(
        language=info["language"],
        **licensing.metadata,
        pretty_name=info["title"],
        task_categories=[*(["audio-classification"] if with_audio else []), "text-classification"],
        tags=["emotion-recognition", "speech-emotion-recognition", *synthetic, "bibier"],
        configs=None if link_only else [{"config_name": "default", "data_files": data_files}],
    )

    return DatasetCard.from_template(
        card_data,
        template_str=template("dataset_card"),
        title=info["title"],
        name=info["reader"],
        homepage=info["homepage"],
        hub_id=hub_dataset(info["reader"]),
        repo_id=repo_id or PLACEHOLDER_DATASET,
        link_only=link_only,
        rows=info["rows"],
        languages=info["language"],
        licenses=info["license"],
        non_commercial=bool(licensing.non_commercial),
        not_to_rehost=info["not_to_rehost"],
        with_audio=with_audio,
        labels=list(next(iter(info["splits"].values()))["labels"]),
        names=info["labels"],
        subject=_subject(info),
        splits=info["splits"],
        sources=info["source"],
        synthetic_only=info["source"] == ["synthetic"],
        speech=json.dumps(info["speech"], ensure_ascii=False) if info.get("speech") else None,
        own_columns=info["own_columns"],
        options=json.dumps(info["options"], ensure_ascii=False),
        remarks=describe_remarks(info),
        ai_act=facts()["ai_act"],
    )


def _subject(info: dict[str, Any]) -> str:
    """Say what the utterances are labeled with."""
    if tuple(info["labels"]) == checked_labels(None) and TARGET not in info["own_columns"]:
        return "of seven emotions"
    counted = next(iter(info["splits"].values()))["labels"]
    return f"with {'the labels' if counted else 'values of'} {', '.join(info['labels'])}"


def label_facts(path: str | os.PathLike) -> dict[str, Any]:
    """Return the facts for the card of a table of soft labels: report, columns, languages, and how it was made.

    Raises:
        FileNotFoundError, CorpusError: there is no such table, or it is unusable.
    """
    path = Path(path)
    report = describe_labels(read_label_table(path))
    rows = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else [row.values for row in read_table(path)]
    provenance = {}

    for name in _PROVENANCE:
        values = {row[name] for row in rows if row.get(name) not in (None, "")}
        if len(values) == 1:
            provenance[name] = values.pop()

    languages = sorted({row["language"] for row in rows if row.get("language")})

    return {"report": report, "columns": list(rows[0]), "language": languages, "provenance": provenance}


def render_labels_card(info: dict[str, Any], repo_id: str | None = None) -> DatasetCard:
    """Render the card of a table of soft labels.

    Args:
        info: from [`label_facts`].
        repo_id: id on the Hub, for the usage example.
    """
    report = info["report"]
    card_data = DatasetCardData(
        language=info["language"] or None,
        pretty_name=f"Soft labels: {report['table']}",
        task_categories=["text-classification"],
        tags=["emotion-recognition", "label-smoothing", "bibier"],
    )

    return DatasetCard.from_template(
        card_data,
        template_str=template("labels_card"),
        title=f"Soft labels: {report['table']}",
        file=report["table"],
        repo_id=repo_id or PLACEHOLDER_DATASET,
        provenance=info["provenance"],
        report=report_text(report).partition("\n\n")[2],
        rows=report["rows"],
        columns=info["columns"],
        id_column="id" if "id" in info["columns"] else "video_name",
    )
