"""Back ends are found by the names of their modules."""

from pathlib import Path

import pytest

from bibier_hf import llm
from bibier_hf.llm import BACKENDS, LLMError, get_backend


def test_every_module_is_a_back_end():
    modules = {path.name.removesuffix("_backend.py") for path in Path(llm.__file__).parent.glob("*_backend.py")}
    assert set(BACKENDS) == modules == {"openai", "transformers", "vllm"}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_back_end_is_called_like_its_module(name):
    options = {"base_urls": ["http://localhost:1/v1"]} if name == "openai" else {}
    assert get_backend(name, "any", **options).name == name


def test_an_unknown_back_end():
    with pytest.raises(LLMError, match=r"'vlm'.*Allowed: openai, transformers, vllm"):
        get_backend("vlm", "any")
