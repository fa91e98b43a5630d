"""The handler of an Inference Endpoint, from the files that a push adds to a checkpoint."""

import base64
import importlib.util
import io
import shutil
from pathlib import Path

import pytest
import soundfile
from packaging.requirements import Requirement

from bibier_hf.hub.push import ENDPOINT_FILES

from ..test_repository import PROJECT


@pytest.fixture(scope="module")
def handler(checkpoint: Path, tmp_path_factory):
    """The handler as an endpoint loads it: from a file of the repository."""
    folder = tmp_path_factory.mktemp("endpoint") / "model"
    shutil.copytree(checkpoint, folder)
    for name, content in ENDPOINT_FILES.items():
        (folder / name).write_text(content)
    spec = importlib.util.spec_from_file_location("endpoint_handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


def test_what_an_endpoint_is_asked(handler, clip, about):
    file = io.BytesIO()
    soundfile.write(file, clip(1.0, 1), 16_000, format="WAV")
    content = file.getvalue()
    encoded = base64.b64encode(content).decode()
    voice = [about(entry) for entry in handler.pipe(content)]
    both = [about(entry) for entry in handler.pipe({"audio": content, "text": "So."})]

    assert handler({"inputs": content}) == voice
    assert handler({"inputs": {"audio": encoded}}) == voice
    assert handler({"inputs": {"audio": f"data:audio/wav;base64,{encoded}", "text": "So."}}) == both
    assert handler({"inputs": "So."}) == [about(entry) for entry in handler.pipe({"text": "So."})]
    several = handler({"inputs": [{"audio": encoded}, "So."], "parameters": {"top_k": 1, "batch_size": 2}})
    assert [len(answer) for answer in several] == [1, 1]
    timeline = handler({"inputs": content, "parameters": {"chunk_length_s": 0.5, "return_timestamps": True}})
    assert [chunk["timestamp"] for chunk in timeline["chunks"]] == [(0.0, 0.5), (0.5, 1.0)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "has no 'inputs'"),
        ({"inputs": {"audio": "/etc/passwd"}}, "audio is not base64"),
        ({"inputs": {"path": "/etc/passwd"}}, "inputs must be"),
        ({"inputs": {"audio": {"path": "/etc/passwd"}}}, "audio must be base64"),
        ({"inputs": b"no audio"}, "cannot be read as audio"),
        ({"inputs": "So.", "parameters": {"asr": "a/b"}}, "There is no parameter asr"),
        ({"inputs": "So.", "parameters": {"labels": ["rage"]}}, "there is no label 'rage'"),
    ],
)
def test_requests_that_are_refused(handler, data, message):
    assert message in handler(data)["error"]


def test_requirements_are_those_of_the_package():
    mine = {each.name: each.specifier for each in map(Requirement, PROJECT["project"]["dependencies"])}
    for line in ENDPOINT_FILES["requirements.txt"].splitlines():
        needed = Requirement(line)
        assert needed.specifier == mine[needed.name]
