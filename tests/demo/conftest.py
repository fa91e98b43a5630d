"""The page over the tiny checkpoint, and files that visitors may bring."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("gradio", reason="the extra 'demo' is not installed")

from bibier_hf.commands.checkpoint import load_pipeline


@pytest.fixture(scope="session")
def pipe(checkpoint):
    return load_pipeline(str(checkpoint))


@pytest.fixture(scope="session")
def recordings(tmp_path_factory, clip) -> dict[str, Path]:
    """short (1.5 s), long (16 s), silent, quiet, a cut WAV and a text that is named as one."""
    folder = tmp_path_factory.mktemp("recordings")
    sounds = {"short": clip(1.5), "long": clip(16.0, seed=1), "silent": np.zeros(16_000), "quiet": 0.005 * clip(1.0)}
    files = {name: folder / f"{name}.wav" for name in (*sounds, "cut", "text")}
    for name, samples in sounds.items():
        soundfile.write(files[name], samples, 16_000)
    files["cut"].write_bytes(files["short"].read_bytes()[:20_000])
    files["text"].write_text("This is no recording.")
    return files
