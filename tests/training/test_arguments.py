"""Run files and command lines: types, overrides, and messages that name the key."""

from pathlib import Path

import pytest
import yaml

from bibier_cli import run as run_bibier
from bibier_hf import run_files
from bibier_hf.commandline import load_yaml
from bibier_hf.commands.train import TrainArguments
from bibier_hf.errors import ArgumentError
from bibier_hf.training.arguments import TRAINING_FIELDS, RunFile, run_arguments

BASE = """
corpora:
  - name: resd
    data_dir: somewhere
num_train_epochs: 3
learning_rate: 1e-4
model:
  hidden_size: 64
"""


@pytest.fixture
def run_file(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(BASE)
    return path


def parse(run_file, *arguments):
    return RunFile.from_command_line([str(run_file), *arguments]).run


def test_the_file_gives_the_values(run_file):
    run = parse(run_file)
    assert run.corpora[0].name == "resd"
    assert run.corpora[0].protocol == "official"
    assert run.model == {"hidden_size": 64}
    assert run.output_dir == "outputs/small"
    args = run.training_arguments(output_dir="x")
    assert args.num_train_epochs == 3
    assert args.seed == 42


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("3E5", 3e5), ("1.e-3", 1e-3), ("-2e+1", -20.0), ("1.0e-4", 1e-4)]
)
def test_floats_are_floats(tmp_path, text, value):
    path = tmp_path / "run.yaml"
    path.write_text(f"learning_rate: {text}\n")
    assert load_yaml(path) == {"learning_rate": pytest.approx(value)}


@pytest.mark.parametrize("text", ["1e", "e4", "1e-4x", "12-e3"])
def test_what_only_looks_like_a_float_stays_text(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(f"run_name: {text}\n")
    assert load_yaml(path) == {"run_name": text}


def test_the_command_line_overrides(run_file):
    run = parse(
        run_file,
        "--learning_rate=3e-4",
        "--corpora.0.data_dir",
        "2024",
        "--corpora.0.fold",
        "2",
        "--model.fusion",
        "biformer",
        "--model.dropout=0.5",
        "--patience",
        "null",
        "--refit_on_dev",
        "--max_steps",
        "-1",
        "--report_to",
        "none",
        "--run_name",
        "7",
        "--feature_cache.dtype",
        "float16",
    )
    assert run.training["learning_rate"] == 3e-4
    assert run.corpora[0].data_dir == "2024"  # a folder is text even if it looks like a number
    assert run.corpora[0].fold == 2
    assert run.model == {"hidden_size": 64, "fusion": "biformer", "dropout": 0.5}
    assert run.patience is None
    assert run.refit_on_dev is True
    assert run.training["max_steps"] == -1
    assert run.training["run_name"] == "7"
    assert run.feature_cache.dtype == "float16"


def test_data_dir_is_short_for_the_only_corpus(run_file):
    assert parse(run_file, "--data_dir", "elsewhere").corpora[0].data_dir == "elsewhere"
    with pytest.raises(ArgumentError, match=r"--corpora\.0\.data_dir"):
        parse(run_file, "--corpora.1.name", "csv", "--data_dir", "elsewhere")


def test_a_corpus_can_be_added_to_the_list(run_file):
    assert [corpus.name for corpus in parse(run_file, "--corpora.1.name", "csv").corpora] == ["resd", "csv"]


def test_resuming_takes_true_or_a_folder(run_file):
    assert parse(run_file, "--resume_from_checkpoint", "true").resume_from_checkpoint is True
    assert parse(run_file, "--resume_from_checkpoint", "out/checkpoint-3").resume_from_checkpoint == "out/checkpoint-3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning_rat", "1"], r"learning_rat: unknown key\. Did you mean learning_rate\?"),
        (["--corpora.0.data", "x"], r"corpora\.0\.data: unknown key\. Did you mean corpora\.0\.data_dir\?"),
        (["--model.hiden_size", "8"], r"model\.hiden_size: unknown key\. Did you mean model\.hidden_size\?"),
        (
            ["--feature_cache.dtipe", "float16"],
            r"feature_cache\.dtipe: unknown key\. Did you mean feature_cache\.dtype\?",
        ),
        (["--learning_rate", "fast"], r"learning_rate: .*number.*'fast'"),
        (["--max_steps", "2.5"], r"max_steps: .*integer.*2\.5"),
        (["--corpora.0.fold", "first"], r"corpora\.0\.fold: .*integer.*'first'"),
        (["--patience", "0"], r"patience: .*greater than or equal to 1"),
        (
            ["--class_weights", "equal"],
            r"class_weights: .*'balanced', 'sqrt' or 'none', or a valid number, got 'equal'",
        ),
        (
            ["--logit_adjustment", "test"],
            r"^logit_adjustment: Input should be 'dev', or a valid number, got 'test' \(str\)\.$",
        ),
        (["--logit_adjustment", "-2"], r"logit_adjustment.*greater than or equal to -1, got -2"),
        (["--class_weights", "1.5"], r"class_weights.*less than or equal to 1, got 1\.5"),
        (["--refit_on_dev", "maybe"], r"refit_on_dev: .*boolean.*'maybe'"),
        (["--optimizer", "adm"], r"optimizer: .*'adam'"),
        (["--scheduler", "step"], r"scheduler: .*'plateau'"),
        (["--corpora.3.name", "x"], r"'3' is no position in a list of 1"),
        (["--corpora.x.name", "x"], r"'x' is no position"),
        (["--seed.low", "1"], r"seed: |seed is the value|unknown key"),
        (["--optim", "sgd"], r"optim: not an option of a run; use `optimizer`"),
        (["--metric_for_best_model", "uar"], r"always selected by the mean"),
        (["--model.class_weights", "[1]"], r"choose how by `class_weights`"),
        (["--eval_strategy", "no"], r"leaves nothing to select"),
        (["--refit_on_dev", "--scheduler", "plateau"], r"needs a dev set"),
        (["--overwrite", "--resume_from_checkpoint", "true"], r"Give one of them"),
        (["learning_rate", "1"], r"Cannot read 'learning_rate'"),
    ],
)
def test_mistakes_are_named(run_file, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        parse(run_file, *arguments)


def test_a_key_that_stands_twice_is_an_error(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(ArgumentError, match=r"'seed' appears twice \(line 2\)"):
        load_yaml(path)


@pytest.mark.parametrize(
    ("content", "message"), [("a: [1", "not valid YAML"), ("- 1", "must hold a mapping"), ("a: \xff", None)]
)
def test_a_file_that_is_no_run_is_refused(tmp_path, content, message):
    path = tmp_path / "run.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ArgumentError, match=message):
        load_yaml(path)


def test_a_missing_file_and_missing_corpora_are_named(tmp_path):
    with pytest.raises(ArgumentError, match="There is no run file"):
        _ = RunFile.from_command_line([str(tmp_path / "nothing.yaml")]).run
    with pytest.raises(ArgumentError, match="corpora: is missing"):
        run_arguments({"output_dir": "x"})


def test_the_default_file_is_used_without_a_first_argument(run_file, monkeypatch):
    run_file.rename(run_file.with_name("quickstart.yaml"))
    monkeypatch.setattr(run_files, "FOLDER", run_file.parent)
    assert TrainArguments.from_command_line(["--seed", "7", "--corpora.0.name", "csv"]).run.training["seed"] == 7


def test_the_written_run_reads_back_the_same(run_file, tmp_path):
    run = parse(run_file, "--corpora.0.options.enthusiasm", "exclude", "--scheduler", "huggingface_linear")
    (tmp_path / "again.yaml").write_text(run.to_yaml())
    again = RunFile.from_command_line([str(tmp_path / "again.yaml")]).run
    assert again.dump() == run.dump()
    assert again.training_arguments().to_dict().keys() == run.training_arguments().to_dict().keys()


def test_the_public_form_holds_no_path(run_file, tmp_path):
    folder = tmp_path / "e5-small"
    folder.mkdir()
    run = parse(
        run_file,
        "--text_backbone",
        str(folder),
        "--data_dir",
        str(tmp_path),
        "--feature_cache.directory",
        str(tmp_path),
    )
    public = yaml.safe_dump(run.public_dump())
    assert str(tmp_path) not in public
    assert "e5-small" in public


def test_the_published_names_become_training_arguments(run_file):
    args = parse(run_file, "--scheduler", "plateau").training_arguments(output_dir="x")
    assert args.lr_scheduler_type == "reduce_lr_on_plateau"
    assert args.metric_for_best_model == "score"
    assert parse(run_file, "--scheduler", "huggingface_cosine").training_arguments(output_dir="x").warmup_steps == 0.1
    given = parse(run_file, "--scheduler", "huggingface_cosine", "--warmup_steps", "5")
    assert given.training_arguments(output_dir="x").warmup_steps == 5


def test_what_transformers_refuses_is_an_argument_error(run_file):
    with pytest.raises(ArgumentError, match="transformers refuses"):
        parse(run_file, "--eval_strategy", "sometimes", "--save_strategy", "sometimes").training_arguments(
            output_dir="x"
        )


def test_help_lists_every_key(capsys):
    assert run_bibier("train", ["--help"]) == 0
    text = capsys.readouterr().out
    for name in ("corpora.0.protocol", "feature_cache.dtype", "model.hidden_size", "patience", *TRAINING_FIELDS):
        assert f"--{name}" in text
    assert "--learning_rate [0.0001]" in text


@pytest.mark.parametrize("name", ["quickstart.yaml", "resd.yaml"])
def test_the_recipes_are_valid(repository, name):
    run = RunFile.from_command_line([str(repository / "recipes" / name)]).run
    assert run.output_dir == f"outputs/{Path(name).stem}"


def test_a_mistyped_key_in_a_section_that_may_be_left_out_is_named(run_file):
    with pytest.raises(ArgumentError, match=r"lora\.rnk: unknown key"):
        parse(run_file, "--lora.rnk", "4")
    backbones = ["--audio_backbone", "owner/speech", "--text_backbone", "owner/text"]
    assert parse(run_file, "--lora.r", "4", *backbones).lora.r == 4
    with pytest.raises(ArgumentError, match=r"lora\.backbones: the embedded audio backbone is trained from scratch"):
        parse(run_file, "--lora.r", "4", *backbones[2:])
