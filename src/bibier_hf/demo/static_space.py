"""The demo without a server: a folder of static files that runs the model in the visitor's browser.

The page is in `page/`. The graph comes from `bibier export --part samples`; ONNX Runtime and the tokenizers for
browsers come from npm, as pinned here, when the folder is written. The page itself loads nothing from other sites.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData

from ..errors import ArgumentError, UserError
from ..export import export_model
from ..export.folder import RUNNER
from ..files import is_vacant, replaced_folder, write_json
from ..model.configuration_bibier import SINGLE_LABEL
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from ..palette import ACCENT, emotion_color
from .texts import TEXTS

VENDOR, MODEL = "vendor", "model"
"""Folders of the page."""

_PAGE = Path(__file__).with_name("page")
_FILES = ("index.html", "style.css", "app.js", "worker.js", "recorder.js", "icon.svg")


@dataclass(frozen=True)
class NpmPackage:
    """A package of npm: its exact version, the hash of its archive, and the files to take from it.

    Attributes:
        files: path in the archive -> name in the page's folder.
        license: its SPDX name.
        copyright: the notice that has to accompany it.
    """

    name: str
    version: str
    integrity: str
    files: Mapping[str, str]
    license: str
    copyright: str


PACKAGES = (
    NpmPackage(
        "onnxruntime-web",
        "1.30.0",
        "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        {
            "dist/ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.mjs",
            "dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
        },
        "MIT",
        "Copyright (c) Microsoft Corporation. What it contains of others: "
        "https://github.com/microsoft/onnxruntime/blob/main/ThirdPartyNotices.txt",
    ),
    NpmPackage(
        "@huggingface/tokenizers",
        "0.2.0",
        "sha512-LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        {"dist/tokenizers.min.mjs": "tokenizers.min.mjs", "LICENSE": "tokenizers.LICENSE.txt"},
        "Apache-2.0",
        "Copyright The Hugging Face team. The license is in tokenizers.LICENSE.txt.",
    ),
)


class NpmError(UserError, OSError):
    """A package that npm cannot fetch, or that is not the pinned one."""


def write_static_space(
    output_dir: str | os.PathLike,
    model: BiBiERForEmotionClassification,
    processor: BiBiERProcessor,
    name: str,
    model_id: str | None = None,
    int8: bool = False,
) -> Path:
    """Write the folder of a static Space, or of any other static host.

    Args:
        output_dir: created, or replaced as a whole if it is empty or an earlier page of this function.
        model: chooses one label, and hears audio.
        processor: of the model.
        name: what the page calls the model.
        model_id: its Hub id, for the card.
        int8: whether to quantize the model.

    Returns:
        the folder, with `index.html`, the other files of the page, `model/`, `vendor/`, and the card.

    Raises:
        ArgumentError: a folder with other content, or a model that the page cannot show.
        ExportError: a model whose front end no graph has.
        NpmError: npm is not installed, or cannot fetch a package.
    """
    folder, config = Path(output_dir), model.config

    if folder.exists() and not (folder / VENDOR).is_dir() and not is_vacant(folder):
        raise ArgumentError(
            f"space: {folder} holds something other than a page of this command. Name another folder, or empty it."
        )

    if config.problem_type != SINGLE_LABEL or "audio" not in config.modalities:
        raise ArgumentError(
            "sdk: a static page shows models that hear audio and choose one label. Use --sdk gradio for others."
        )

    with replaced_folder(folder) as new:
        for file in _FILES:
            shutil.copyfile(_PAGE / file, new / file)

        fetch_packages(new / VENDOR)
        export_model(model, processor, new / MODEL, part="samples", int8=int8)
        (new / MODEL / RUNNER).unlink()

        facts = page_facts(config.label_names, name)
        facts["reads_text"] = "text" in config.modalities
        facts["longest_s"] = config.modality_configs["audio"].max_window_s
        facts["megabytes"] = round((new / MODEL / "model.onnx").stat().st_size / 1e6, 1)
        write_json(new / "page.json", facts)
        (new / "colors.css").write_text(_colors(), encoding="utf-8")
        _write_card(new, name, model_id)

    return folder


def page_facts(labels: list[str], name: str) -> dict:
    """Texts in both languages, and names and colors of the labels in the order of the logits."""
    own: Mapping[str, Mapping[str, str]] = json.loads((_PAGE / "texts.json").read_text(encoding="utf-8"))
    texts = {
        language: {**own[language], "emotions": list(shared.names(labels).values()), "unsure": shared.unsure}
        for language, shared in TEXTS.items()
    }
    return {"model": name, "labels": labels, "colors": [emotion_color(label) for label in labels], "texts": texts}


def fetch_packages(folder: Path) -> None:
    """Fetch the pinned packages with npm, check them, and put their files into a new folder.

    Raises:
        NpmError: npm is not installed, cannot fetch a package, or fetches another one than was pinned.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise NpmError("The page needs files from npm, which is not installed (Debian: apt install npm).")

    folder.mkdir()
    notice = []

    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as temporary:
            wanted = f"{package.name}@{package.version}"
            command = [npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", temporary, wanted]
            result = subprocess.run(command, capture_output=True, text=True, cwd=temporary, check=False)
            archives = list(Path(temporary).glob("*.tgz"))

            if result.returncode or len(archives) != 1:
                reason = (result.stderr.strip() or "no archive").splitlines()[-1]
                raise NpmError(f"npm cannot fetch {wanted} ({reason}). Check the network or npm's registry setting.")

            unpack(archives[0], package, folder)

        notice.append(f"{package.name} {package.version}\nLicense: {package.license}\n{package.copyright}\n")

    (folder / "NOTICE.txt").write_text(
        "\n".join([*notice, (_PAGE / "licenses.txt").read_text(encoding="utf-8")]), encoding="utf-8"
    )


def unpack(archive: Path, package: NpmPackage, folder: Path) -> None:
    """Check an archive against its pinned hash, and put the wanted files into a folder.

    Raises:
        NpmError: another archive.
    """
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != package.integrity:
        raise NpmError(
            f"{package.name}@{package.version} has the hash {found}, not the pinned {package.integrity}; not used."
        )

    with tarfile.open(archive) as contents:
        for path, name in package.files.items():
            member = contents.extractfile(f"package/{path}")
            assert member is not None  # a file, as its archive is the pinned one
            (folder / name).write_bytes(member.read())


def _colors() -> str:
    return (
        f":root {{ --accent: {ACCENT}; --accent-text: {ACCENT}; --accent-soft: {ACCENT}44; }}\n"
        "@media (prefers-color-scheme: dark) { :root { --accent-text: #5fc7bd; } }\n"
    )


def _write_card(folder: Path, name: str, model_id: str | None) -> None:
    card_data = SpaceCardData(
        title="BiBiER in the browser",
        emoji="\N{STUDIO MICROPHONE}",
        colorFrom="green",
        colorTo="blue",
        sdk="static",
        app_file="index.html",
        models=None if model_id is None else [model_id],
        tags=["speech-emotion-recognition", "audio", "english", "russian"],
        short_description="Emotions of speech and text, in your browser alone",
    )
    card = SpaceCard.from_template(
        card_data,
        template_str=(files("bibier_hf.demo") / "templates" / "static_space_card.md").read_text(encoding="utf-8"),
        model=name if model_id is None else f"[`{model_id}`](https://huggingface.co/{model_id})",
        packages=", ".join(f"`{package.name}` {package.version} ({package.license})" for package in PACKAGES),
    )
    card.save(folder / "README.md")
