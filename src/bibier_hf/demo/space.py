"""The demo as a Space: a folder that the Hub runs on its own, with the checkpoint's remote code and without this
package."""

import os
import shutil
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from packaging.version import Version

from ..errors import ArgumentError
from ..files import is_vacant, replaced_folder
from .examples import write_examples

PAGE_FILES = (
    "palette.py",
    "timeline/formats.py",
    "demo/__init__.py",
    "demo/analysis.py",
    "demo/app.py",
    "demo/explanation_view.py",
    "demo/texts.py",
    "demo/texts_en.json",
    "demo/texts_ru.json",
    "demo/timeline_view.py",
)
"""Files of this package that go into the Space, as its package `bibier_demo`."""

REQUIREMENTS = ("torch", "transformers", "huggingface_hub", "numpy", "safetensors", "soundfile", "soxr")
"""What the page and the remote code import. The Hub installs Gradio, by the `sdk_version` of the card."""

PYTHON_VERSION = "3.11"

_APP = '''"""The demo of {model_id}."""

import os
from pathlib import Path

from bibier_demo.demo.analysis import Limits
from bibier_demo.demo.app import build_app, load_remote_pipeline, serve

MODEL = os.environ.get("BIBIER_MODEL", "{model_id}")
LIMITS = Limits()

app = build_app(load_remote_pipeline(MODEL), Path(__file__).parent / "examples", LIMITS)

if __name__ == "__main__":
    serve(app, LIMITS)
'''


def write_space(output_dir: str | os.PathLike, model_id: str) -> Path:
    """Write the folder of a Space that shows a checkpoint.

    Args:
        output_dir: created, or replaced as a whole if it is empty or an earlier Space of this function.
        model_id: `owner/name` of the checkpoint on the Hub.

    Returns:
        the folder, with `app.py`, `bibier_demo/`, `examples/`, `requirements.txt` (the versions installed here) and
        the card.

    Raises:
        ArgumentError: not a Hub id, or a folder with other content.
        SynthesisError: eSpeak, which speaks the examples, is not installed.
    """
    folder = Path(output_dir)
    _check_id(model_id)
    if folder.exists() and not _is_replaceable(folder):
        raise ArgumentError(
            f"space: {folder} holds something other than a Space of this command. Name another folder, or empty it."
        )

    with replaced_folder(folder) as new:
        _write_files(new, model_id)
    return folder


def _write_files(folder: Path, model_id: str) -> None:
    package, page = Path(__file__).parents[1], folder / "bibier_demo"
    for name in PAGE_FILES:
        target = page / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / name, target)
    for subfolder in (page, page / "timeline"):  # what is in the package's own `__init__.py` is not needed here
        (subfolder / "__init__.py").touch()

    (folder / "app.py").write_text(_APP.format(model_id=model_id), encoding="utf-8")
    # Without the local build: "2.13.0+cpu" is only what happens to be installed here.
    pins = "".join(f"{name}=={Version(version(name)).public}\n" for name in REQUIREMENTS)
    (folder / "requirements.txt").write_text(pins, encoding="utf-8")
    write_examples(folder / "examples")

    card_data = SpaceCardData(
        title="BiBiER",
        emoji="\N{STUDIO MICROPHONE}",
        colorFrom="green",
        colorTo="blue",
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=PYTHON_VERSION,
        app_file="app.py",
        license="mit",
        models=[model_id],
        tags=["speech-emotion-recognition", "audio", "english", "russian"],
        short_description="Emotions of speech and text, in English and Russian",
    )
    card = SpaceCard.from_template(
        card_data,
        template_str=(files("bibier_hf.demo") / "templates" / "space_card.md").read_text(encoding="utf-8"),
        model_id=model_id,
        gradio_version=version("gradio"),
    )
    card.save(folder / "README.md")


def _check_id(model_id: str) -> None:
    try:
        validate_repo_id(model_id)
    except HFValidationError as error:
        raise ArgumentError(f"model_id: {model_id!r} is not a Hub id such as owner/name ({error}).") from error
    if model_id.count("/") != 1:
        raise ArgumentError(f"model_id: {model_id!r} has no owner; write owner/name.")


def _is_replaceable(folder: Path) -> bool:
    """Whether it is empty, or a Space that this function wrote."""
    return folder.is_dir() and (is_vacant(folder) or (folder / "bibier_demo").is_dir())
