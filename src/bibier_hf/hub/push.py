"""Push trained models, prepared corpora, tables of soft labels and Spaces to the Hugging Face Hub.

Each push is one commit, so a reader sees either the whole old state or the whole new one. Files that are already there
with the same content are not uploaded again. A failed push leaves the local files unchanged and nothing incomplete on
the Hub; large files that had already arrived are not uploaded a second time.

Of a model, only what belongs on the Hub is sent: no checkpoints, no predictions, and not `run.yaml`, which names local
folders.
"""

import os
import shlex
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

from ..data.prepare import INFO_FILE
from ..data.tables import CorpusError
from ..errors import PushError
from ..evaluation.results import RESULTS_FILE, RunResults
from ..files import LOCK_FILE
from .cards import CARD_FILE, PLACEHOLDER_ID, read_results, render_model_card
from .dataset_cards import corpus_facts, label_facts, render_dataset_card, render_labels_card
from .eval_results import EVAL_RESULTS_FOLDER, render_eval_results
from .facts import UNKNOWN_LICENSE

WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "*_adapter/*")
"""Replaced as a set: weights of an earlier push that this one lacks are deleted, since they would be loaded."""

MODEL_FILES = (*WEIGHTS, "*.json", "*.py", "*.txt", "*.model", "*.png", f"{EVAL_RESULTS_FOLDER}/*.yaml", CARD_FILE)
"""Files of a model's folder to push: weights, configuration, processor, code, results, pictures, card."""

ENDPOINT_FILES: dict[str, str] = {
    "handler.py": Path(__file__).with_name("handler.py").read_text(encoding="utf-8"),
    "requirements.txt": "transformers>=5.20,<6\nsoundfile>=0.12\nsoxr>=0.5\n",
}
"""What an Inference Endpoint needs to serve a model."""

_NOT_OF_A_SPACE = ("__pycache__", ".git", ".gitattributes", ".cache", ".gradio", ".DS_Store", LOCK_FILE)


def push_command(kind: str, path: str | os.PathLike, repo_id: str, private: bool) -> str:
    """Return the command line that repeats a push."""
    return shlex.join(["bibier", "push", kind, os.fspath(path), repo_id, *([] if private else ["--public"])])


def open_repository(repo_id: str, *, private: bool = True) -> None:
    """Make sure that a model can be pushed: create its repository if needed, and check its visibility.

    Args:
        repo_id: `owner/name`.
        private: who may see it. An existing repository must match.

    Raises:
        PushError: no token, no permission, an invalid name, an existing repository with a different visibility, or no
            answer.
    """
    with _told_errors(repo_id, ""):
        _open(HfApi(), repo_id, "model", private, None)


def push_model(folder: str | os.PathLike, repo_id: str, *, private: bool = True) -> str:
    """Push a trained model: weights, processor, code, results, pictures, adapters, and the card with its final id.

    `handler.py` and `requirements.txt` for Inference Endpoints are added unless the folder has its own.

    Args:
        folder: the output of a run, or any folder of `save_pretrained` with your own `README.md`. A card that you
            edited is pushed with the id in place of its placeholder; an unedited one is rendered again.
        repo_id, private: see [`open_repository`].

    Returns:
        URL of the commit.

    Raises:
        FileNotFoundError: the folder holds no model, or a model without results and card.
        PushError: see [`open_repository`].
    """
    folder = Path(folder)
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path
        for pattern in MODEL_FILES
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }
    if "config.json" not in files or not any(fnmatchcase(name, WEIGHTS[0]) for name in files):
        raise FileNotFoundError(
            f"'{folder}' holds no trained model: there must be a config.json and a model.safetensors in it."
        )

    files = {name: content.encode() for name, content in ENDPOINT_FILES.items()} | files
    files |= {name: content.encode() for name, content in _model_texts(folder, files, repo_id).items()}
    message = f"Model from {folder.resolve().name}"

    return _push(files, repo_id, "model", private, message, folder, replaced=WEIGHTS)


def push_corpus(folder: str | os.PathLike, repo_id: str, *, private: bool = True, force_audio: bool = False) -> str:
    """Push a prepared corpus with its card. Its Parquet files are uploaded unchanged, so the hashes in `corpus.json`
    hold.

    Args:
        folder: written by `bibier prepare` (or `Corpus.prepare`).
        repo_id, private: see [`open_repository`].
        force_audio: push recordings that others must not publish (MELD) anyway, for those who have the right to.

    Returns:
        URL of the commit.

    Raises:
        FileNotFoundError: the folder holds no prepared corpus.
        CorpusError: recordings that must not be published, or rows of unknown license that would become public.
        PushError: see [`open_repository`].
    """
    folder = Path(folder)
    info = corpus_facts(folder)
    if info["with_audio"] and info["not_to_rehost"] and not force_audio:
        raise CorpusError(
            f"The recordings of '{info['name']}' must not be published: {info['not_to_rehost']}. Prepare the corpus "
            "without audio (its license still applies to the text), or pass --force_audio if you may publish them."
        )

    if not private and UNKNOWN_LICENSE in info["license"]:
        raise CorpusError(
            "Rows of unknown license are not made public. Prepare the corpus with its license, or push it privately."
        )

    names = [INFO_FILE, *(entry["file"] for entry in info["splits"].values())]
    files = {name: folder / name for name in names} | {CARD_FILE: str(render_dataset_card(info, repo_id)).encode()}
    message = f"{info['title']}: {info['rows']} rows"
    flags = " --force_audio" if force_audio else ""

    return _push(files, repo_id, "dataset", private, message, folder, flags, replaced=("*.parquet",))


def push_labels(path: str | os.PathLike, repo_id: str, *, private: bool = True) -> str:
    """Push a table of soft labels with its card.

    Args:
        path: written by `bibier label corpus`.
        repo_id, private: see [`open_repository`].

    Returns:
        URL of the commit.

    Raises:
        FileNotFoundError, CorpusError: there is no such table, or it is unusable.
        PushError: see [`open_repository`].
    """
    path = Path(path)
    info = label_facts(path)
    files = {path.name: path, CARD_FILE: str(render_labels_card(info, repo_id)).encode()}

    return _push(files, repo_id, "dataset", private, f"Soft labels: {info['report']['rows']} rows", path)


def push_space(folder: str | os.PathLike, repo_id: str, *, private: bool = True) -> str:
    """Push a prepared folder as a Space.

    Args:
        folder: contains the application and a `README.md` whose metadata names the `sdk`.
        repo_id, private: see [`open_repository`].

    Returns:
        URL of the commit.

    Raises:
        FileNotFoundError: the folder holds no Space.
        PushError: see [`open_repository`].
    """
    folder = Path(folder)
    card = folder / CARD_FILE
    sdk = RepoCard.load(card, ignore_metadata_errors=True).data.get("sdk") if card.is_file() else None
    if sdk is None:
        raise FileNotFoundError(
            f"'{folder}' holds no Space: there must be a {CARD_FILE} in it whose metadata names the sdk (sdk: gradio)."
        )

    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not set(path.relative_to(folder).parts) & set(_NOT_OF_A_SPACE)
    }

    return _push(files, repo_id, "space", private, f"Space from {folder.resolve().name}", folder, sdk=sdk)


def _model_texts(folder: Path, names: Mapping[str, object], repo_id: str) -> dict[str, str]:
    """Return the files of a model that contain its id: card and evaluation results."""
    card = (folder / CARD_FILE).read_text(encoding="utf-8") if CARD_FILE in names else None

    if RESULTS_FILE not in names:
        if card is None:
            raise FileNotFoundError(
                f"'{folder}' holds neither {RESULTS_FILE} nor {CARD_FILE}: a model is not pushed without a card. "
                "Write one."
            )
        return {CARD_FILE: card.replace(PLACEHOLDER_ID, repo_id)}

    results = read_results(folder)
    pictures = [name for name in names if name.endswith(".png")]
    as_trained = RunResults.load(folder / RESULTS_FILE)
    rendered = [str(render_model_card(known, pictures=pictures)) for known in (results, as_trained)]
    if card is None or card in rendered:
        card = str(render_model_card(results, repo_id, pictures))

    return {CARD_FILE: card.replace(PLACEHOLDER_ID, repo_id)} | render_eval_results(results, repo_id)


def _push(
    files: Mapping[str, Path | bytes],
    repo_id: str,
    repo_type: str,
    private: bool,
    message: str,
    path: Path,
    flags: str = "",
    replaced: Sequence[str] = (),
    sdk: str | None = None,
) -> str:
    """Commit `files`, and delete files of an earlier push that match `replaced`."""
    api = HfApi()
    command = push_command(repo_type, path, repo_id, private) + flags

    with _told_errors(repo_id, f" Local files are unchanged. To continue: {command}"):
        _open(api, repo_id, repo_type, private, sdk)
        there = api.list_repo_files(repo_id, repo_type=repo_type)
        stale = [name for name in there if name not in files and any(_fits(name, pattern) for pattern in replaced)]
        operations = [
            *(CommitOperationAdd(name, content) for name, content in files.items()),
            *map(CommitOperationDelete, stale),
        ]
        return api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type).commit_url


def _fits(name: str, pattern: str) -> bool:
    """Match a name as a shell does; the `*` of fnmatch would match slashes too."""
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _open(api: HfApi, repo_id: str, repo_type: str, private: bool, sdk: str | None) -> None:
    if not (api.token or get_token()):
        raise PushError(
            f"'{repo_id}' cannot be pushed: there is no token for the Hub. Run `hf auth login`, or set HF_TOKEN."
        )

    if not api.repo_exists(repo_id, repo_type=repo_type):
        api.create_repo(repo_id, repo_type=repo_type, private=private, space_sdk=sdk)
        return

    found = bool(api.repo_info(repo_id, repo_type=repo_type).private)
    if found != private:
        there, wanted = ("private", "public") if found else ("public", "private")
        raise PushError(
            f"'{repo_id}' exists and is {there}, but {wanted} was requested. Change its settings, or the name."
        )


@contextmanager
def _told_errors(repo_id: str, how_to_go_on: str) -> Generator[None]:
    """Turn errors of the Hub client into a [`PushError`] that says what they mean."""
    try:
        yield
    except PushError as error:
        raise PushError(f"{error}{how_to_go_on}") from error
    except HFValidationError as error:
        raise PushError(f"'{repo_id}' is not a valid name on the Hub; it must be owner/name ({error}).") from error
    except OfflineModeIsEnabled as error:
        raise PushError(
            f"The Hub is turned off: unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE).{how_to_go_on}"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        meaning = {
            401: "it does not recognize the token: log in again with `hf auth login`, or set HF_TOKEN",
            403: "the token may not write there: it needs the right to write to this owner's repositories",
        }.get(status, "try again later" if status >= 500 else "see its message")
        raise PushError(
            f"The Hub refused '{repo_id}' with status {status} ({meaning}): {_in_one_line(error)}.{how_to_go_on}"
        ) from error
    except (HTTPError, RuntimeError) as error:  # RuntimeError: an upload of a large file, whose cause it carries
        cause = _in_one_line(error.__cause__ or type(error).__name__)
        raise PushError(
            f"The push to '{repo_id}' broke off: {_in_one_line(error)} ({cause}).{how_to_go_on}"
        ) from error


def _in_one_line(text: object) -> str:
    return " ".join(str(text).split()).rstrip(".")
