"""The accelerate configurations are ones that the installed Accelerate reads."""

import pytest
from accelerate.commands.config.config_args import load_config_from_file


@pytest.mark.parametrize("name", ["cpu", "multi_gpu", "multi_node", "fsdp"])
def test_the_file_is_read_whole(repository, name):
    path = repository / "recipes" / "accelerate_configs" / f"{name}.yaml"
    config = load_config_from_file(str(path))  # an unknown key is an error there
    assert config.num_processes >= config.num_machines
    assert config.use_cpu == (name == "cpu")


@pytest.mark.parametrize("name", ["multi_gpu", "multi_node", "fsdp"])
def test_what_was_not_run_says_so(repository, name):
    text = (repository / "recipes" / "accelerate_configs" / f"{name}.yaml").read_text()
    assert "Not run on the authors' machine" in text
