"""A prepared corpus on the Hugging Face Hub: its Parquet files as they are, a card, one commit.

The files go up unchanged, so the hashes in `corpus.json` hold for the published corpus too, and a reader sees either the whole old
state or the whole new one. `load_dataset` takes the columns and their types from the files.
"""

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, DatasetCardData, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from .command import describe_remarks
from .prepare import INFO_FILE, load_prepared, read_info
from .schema import COLUMNS
from .tables import CorpusError

LICENSE_IDS = {name: name.lower() for name in ("MIT", "GPL-3.0", "CC-BY-NC-SA-4.0", "CC-BY-4.0", "CC0-1.0", "Apache-2.0", "unknown")}
"""Licence of a row -> what the Hub calls it; any other, or several, are `other` there and stand in the text."""


def publish_corpus(
    folder: str | os.PathLike, repo_id: str, *, private: bool = True, force_audio: bool = False, token: str | None = None
) -> str:
    """Push a prepared corpus to the Hub, with a card; what a former push left there is replaced.

    Args:
        folder: what a script of `dataset_scripts/` (or `Corpus.prepare`) wrote.
        repo_id: `owner/name`; made if it is not there.
        private: who may see it. A repository that is there already must agree.
        force_audio: publish recordings that are not to be published by others (MELD) all the same: for those who have the right to.
        token: of the Hub; None takes that of the login.

    Returns:
        URL of the commit.

    Raises:
        FileNotFoundError: no prepared corpus there.
        CorpusError: recordings that are not to be published; rows of unknown licence that would become public; a repository that is
            more or less visible than asked for; what the Hub refused.
    """
    folder = Path(folder)
    info = read_info(folder)
    columns = load_prepared(folder)
    with_audio = any(duration is not None for rows in columns.values() for duration in rows["duration_s"])
    if with_audio and info["not_to_rehost"] and not force_audio:
        raise CorpusError(
            f"The recordings of '{info['name']}' are not published: {info['not_to_rehost']}. Publish what is yours to give: prepare the "
            "corpus without its audio (text only; its licence still holds), or, if you have the right to, force it (--force_audio)."
        )
    if not private and "unknown" in info["license"]:
        raise CorpusError("Rows of unknown licence are not made public. Prepare the corpus with its licence, or publish it privately.")
    own_columns = [name for name in next(iter(columns.values())).column_names if name not in COLUMNS]
    card = render_dataset_card(info, repo_id, with_audio, own_columns)
    names = [INFO_FILE, *(entry["file"] for entry in info["splits"].values())]
    operations = [CommitOperationAdd("README.md", str(card).encode()), *(CommitOperationAdd(name, folder / name) for name in names)]
    try:
        api = HfApi(token=token)
        if api.repo_exists(repo_id, repo_type="dataset"):
            _check_visibility(api, repo_id, private)
            there = api.list_repo_files(repo_id, repo_type="dataset")
            operations += [CommitOperationDelete(name) for name in there if name.endswith(".parquet") and name not in names]
        else:
            api.create_repo(repo_id, repo_type="dataset", private=private)
        message = f"{info['title']}: {info['rows']} rows"
        return api.create_commit(repo_id, operations, commit_message=message, repo_type="dataset").commit_url
    except (HfHubHTTPError, HFValidationError) as error:
        raise CorpusError(f"The Hub refused '{repo_id}' ({error}). It must be owner/name, and you logged in: hf auth login.") from error


def render_dataset_card(info: dict[str, Any], repo_id: str, with_audio: bool, own_columns: list[str]) -> DatasetCard:
    """The card of a prepared corpus, from its `corpus.json` alone.

    Args:
        info: content of `corpus.json`.
        repo_id: for the example of use.
        with_audio: has any row a recording?
        own_columns: columns beyond the common schema.
    """
    licenses = info["license"]
    data_files = [{"split": split, "path": entry["file"]} for split, entry in info["splits"].items()]
    license_id = LICENSE_IDS.get(licenses[0], "other") if len(licenses) == 1 else "other"
    card_data = DatasetCardData(
        language=info["language"],
        license=license_id,
        license_name=", ".join(licenses) if license_id == "other" else None,
        pretty_name=info["title"],
        task_categories=[*(["audio-classification"] if with_audio else []), "text-classification"],
        tags=["emotion-recognition", "speech-emotion-recognition", "bibier"],
        configs=[{"config_name": "default", "data_files": data_files}],
    )
    return DatasetCard.from_template(
        card_data,
        template_str=(files("bibier_hf.hub") / "templates" / "dataset_card.md").read_text(encoding="utf-8"),
        title=info["title"],
        name=info["reader"],
        homepage=info["homepage"],
        repo_id=repo_id,
        rows=info["rows"],
        languages=info["language"],
        licenses=licenses,
        not_to_rehost=info["not_to_rehost"],
        with_audio=with_audio,
        labels=list(next(iter(info["splits"].values()))["labels"]),
        splits=info["splits"],
        sources=info["source"],
        own_columns=own_columns,
        options=json.dumps(info["options"], ensure_ascii=False),
        remarks=describe_remarks(info),
    )


def _check_visibility(api: HfApi, repo_id: str, private: bool) -> None:
    found = api.dataset_info(repo_id).private
    if bool(found) != private:
        there, wanted = ("private", "public") if found else ("public", "private")
        raise CorpusError(f"{repo_id} is there and {there}, but is to be {wanted}. Change that in its settings, or choose another.")
