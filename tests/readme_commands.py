"""How `test_readme.py` treats each command of the documents.

To add one: put the command, as it stands in the document (without its comment), into `COMMANDS`, with

* `Run()` if it is done within seconds, `Run(slow=True)` else; `append` arguments that shorten it, `replace` what is
  not there in a test;
* `Skip("why")` if it cannot be run where tests run.

Every document shares the table, so a command or a block that stands in several is run once. A Python block is run as a
whole under the name of the first document that has it, and its number there. What the commands find beside them
(`clip.wav`, `PATH/TO/resd`, a checkpoint `outputs/quickstart`, ...) is made by `workspace.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Run:
    """A command that is executed.

    Attributes:
        slow: only with the slow tests.
        append: further arguments.
        replace: parts of the command and what stands in their place.
        after: a command of the table that leaves what this one needs.
        expect: a part of its output.
        exit_code: what it ends with.
        hub: it finds the stand-in of `hub_server.py` where the Hub is.

    `{shared}` and `{backbones}` in `append` and `replace` are the folders of real corpora and of small real backbones;
    the test is skipped where there is none.
    """

    slow: bool = False
    append: str = ""
    replace: Mapping[str, str] = field(default_factory=dict)
    after: str | None = None
    expect: str = ""
    exit_code: int = 0
    hub: bool = False


@dataclass(frozen=True)
class Skip:
    """A command that is not executed, and why."""

    reason: str


ONE_EPOCH = "--num_train_epochs 1"
MULTI_GPU = "--config_file recipes/accelerate_configs/multi_gpu.yaml"
WHISPER_E5 = "--audio_backbone {backbones}/whisper-base --text_backbone {backbones}/e5-small"

TRAIN_RESD = "accelerate launch recipes/train.py recipes/resd.yaml --data_dir PATH/TO/resd"
PREPARE_OWN = (
    "python dataset_scripts/prepare_csv.py --source my_corpus.csv --output_dir data/mine --corpus mine --language en"
)
CONVERT = (
    "python -m bibier_hf.hub.convert_original --fusion F.pt --variant BiGraphFormer --num_transformer_heads 4 "
    "--output_dir outputs/converted"
)
STACK = "python recipes/augment.py sds --corpus resd --data_dir data/resd --output_dir outputs/resd-sds"
WRITE_SPACE = "bibier demo --space outputs/space --model_id OWNER/NAME"

PUBLISHED_TABLES = (
    "Qwen3-4B_emotions_resd_1.csv",
    "Phi-4-mini-instruct_emotions_resd_1.csv",
    "Qwen3-4B_emotions_meld_1.csv",
)

COMMANDS: dict[str, Run | Skip] = {
    # README: install, try
    "pip install -c constraints.txt -e '.[train,tts]'": Skip(
        "installs; .ci/run does so on a machine with nothing but Python"
    ),
    "make quickstart": Skip("installs an environment and trains for minutes; run on a fresh clone before a release"),
    "make demo": Skip(
        "installs an environment, and serves until it is interrupted; tests/demo/test_browser.py uses the page"
    ),
    "README.md, Python block 1": Run(),
    "README.md, Python block 2": Run(slow=True),
    "README.md, Python block 3": Run(),
    "bibier predict outputs/quickstart talk.wav --chunk_length_s 4 --hop_length_s 2 --output talk.srt": Run(slow=True),
    "bibier demo outputs/quickstart --port 7860": Skip(
        "serves until it is interrupted; tests/demo/test_browser.py uses the page"
    ),
    "bibier export outputs/quickstart --output_dir outputs/quickstart-onnx --part whole": Run(slow=True),
    # README: train
    TRAIN_RESD: Run(slow=True, append=ONE_EPOCH, expect="| resd |"),
    f"{TRAIN_RESD} --corpora.0.protocol dialogue_grouped --corpora.0.fold 0 --output_dir outputs/resd-grouped-0": Run(
        slow=True, append=ONE_EPOCH, expect="| resd |"
    ),
    "accelerate launch recipes/train.py recipes/resd_whisper_e5.yaml --data_dir PATH/TO/resd": Run(
        slow=True, append=f"{WHISPER_E5} {ONE_EPOCH}", expect="| resd |"
    ),
    "accelerate launch recipes/train.py recipes/meld_text.yaml --data_dir PATH/TO/meld": Run(
        slow=True, append=f"--text_backbone {{backbones}}/e5-small {ONE_EPOCH}", expect="| meld |"
    ),
    "accelerate launch recipes/train.py recipes/meld_text_finetuned.yaml --data_dir PATH/TO/meld": Run(
        slow=True, append=f"--text_backbone {{backbones}}/e5-small {ONE_EPOCH}", expect="| meld |"
    ),
    "accelerate launch recipes/train.py recipes/meld_resd.yaml --corpora.0.data_dir PATH/TO/meld --corpora.1.data_dir PATH/TO/resd": Skip(
        "its backbones are 3 GB from the Hub; tests/recipes/test_stages.py runs the same plan over small ones"
    ),
    "accelerate launch recipes/train.py --help": Run(slow=True, expect="--corpora.0.data_dir"),
    "python recipes/evaluate.py outputs/resd --data_dir PATH/TO/resd": Run(
        slow=True, after=TRAIN_RESD, expect="| resd |"
    ),
    'python recipes/evaluate.py outputs/resd --data_dir PATH/TO/resd --noise_snr_db "[20, 10, 5, 0]"': Run(
        slow=True, after=TRAIN_RESD, expect="| resd |"
    ),
    'python recipes/predict.py outputs/resd clip.wav --text "I can\'t believe it!"': Run(
        slow=True, expect='clip.wav: "I can\'t believe it!"'
    ),
    "bibier describe outputs/resd": Run(expect="biformer"),
    # README: corpora
    "python dataset_scripts/prepare_resd.py --source PATH/TO/resd --output_dir data/resd": Run(
        slow=True,
        replace={"PATH/TO/resd": "{shared}/data/resd", "--output_dir data/resd": "--output_dir data/resd-whole"},
        expect="1116",
    ),
    "python dataset_scripts/prepare_ravdess.py --source PATH/TO/ravdess --output_dir data/ravdess": Run(
        slow=True, replace={"PATH/TO/ravdess": "{shared}/data/ravdess"}, expect="Written to data/ravdess"
    ),
    "python dataset_scripts/prepare_meld.py --source MELD.Raw.tar.gz --output_dir data/meld": Skip(
        "needs an archive of 10.9 GB"
    ),
    "python dataset_scripts/prepare_meld.py --text_only --source PATH/TO/meld_csvs --output_dir data/meld-text": Run(
        slow=True, replace={"PATH/TO/meld_csvs": "{shared}/data/meld_text"}, expect="9989"
    ),
    "python recipes/audit.py --corpus resd --data_dir data/resd --protocol official,dialogue_grouped --fold all": Run(
        slow=True, expect="## resd, official"
    ),
    "python recipes/baseline.py late_fusion --corpus resd --data_dir data/resd": Run(slow=True, expect="| resd |"),
    "python recipes/push.py model outputs/resd OWNER/NAME": Run(
        slow=True, after=TRAIN_RESD, hub=True, expect="Pushed privately"
    ),
    "python recipes/push.py dataset data/resd OWNER/NAME": Run(slow=True, hub=True, expect="Pushed privately"),
    WRITE_SPACE: Run(slow=True, expect="shows OWNER/NAME"),
    "python recipes/push.py space outputs/space OWNER/NAME": Run(
        slow=True, after=WRITE_SPACE, hub=True, expect="Pushed privately"
    ),
    # README: augmentation
    "python recipes/label.py label --corpus resd --data_dir data/resd --model Qwen/Qwen3-4B --output outputs/resd_labels.parquet": Skip(
        "needs vLLM with a GPU, and a model of 8 GB; tests/recipes/test_label.py runs it with other back ends"
    ),
    "python recipes/label.py report outputs/resd_labels.parquet --json outputs/resd_labels.json": Run(
        slow=True, expect="UAR"
    ),
    "python recipes/augment.py tug --corpus resd --data_dir data/resd --output_dir outputs/tug-ru": Run(slow=True),
    STACK: Run(slow=True),
    "python recipes/augment.py preview --augmented outputs/resd-sds --data_dir data/resd --output outputs/preview.html": Run(
        slow=True, after=STACK
    ),
    # README: your own data
    PREPARE_OWN: Run(slow=True, expect="Written to data/mine"),
    "accelerate launch recipes/train.py recipes/resd.yaml --corpora.0.name csv --data_dir data/mine --output_dir outputs/mine": Run(
        slow=True, append=ONE_EPOCH, after=PREPARE_OWN, expect="| mine |"
    ),
    # README: results, model
    "python recipes/audit.py --corpus resd --data_dir PATH/TO/resd --protocol official,dialogue_grouped --fold all": Run(
        slow=True, expect="## resd, official"
    ),
    CONVERT: Skip("needs published weights; tests/hub/test_convert_original.py converts every variant"),
    # docs/commands.md
    'bibier predict outputs/resd clip.wav --text "I can\'t believe it!" --top_k 3 --json': Run(
        slow=True, expect='{"input": "clip.wav"'
    ),
    "bibier evaluate outputs/resd --corpus resd --data_dir PATH/TO/resd --json": Run(
        slow=True, after=TRAIN_RESD, expect='"uar"'
    ),
    "bibier predict outputs/resd recordings/ --json > answers.jsonl": Run(slow=True),
    "find recordings -name '*.wav' | bibier predict outputs/resd - --json": Run(
        slow=True, expect='{"input": "recordings/'
    ),
    "bibier predict outputs/resd talk.wav --chunk_length_s 4 --hop_length_s 2 --output talk.srt": Run(slow=True),
    "python recipes/extract_features.py recipes/resd_whisper_e5.yaml --data_dir PATH/TO/resd": Run(
        slow=True, append=WHISPER_E5
    ),
    "python recipes/study.py recipes/studies/resd_grouped.yaml --data_dir PATH/TO/resd": Run(
        slow=True, append=f"--only late {WHISPER_E5} {ONE_EPOCH}", expect="| late | dialogue_grouped |"
    ),
    "python recipes/study.py recipes/studies/resd_augmentation.yaml --data_dir PATH/TO/resd": Run(
        slow=True, append=f"--only base {WHISPER_E5} {ONE_EPOCH}", expect="| base | official |"
    ),
    (
        "python recipes/study.py recipes/studies/meld_labels.yaml --data_dir PATH/TO/meld "
        "--corpora.0.labels PATH/TO/Qwen3-4B_emotions_meld_1.csv"
    ): Run(slow=True, append=f"--text_backbone {{backbones}}/e5-small {ONE_EPOCH}", expect="| soft | official |"),
    (
        "python benchmarks/run.py --only extraction_fp32_buckets_64 extraction_bf16_buckets_64 "
        "extraction_int8_buckets_64 "
        "extraction_gemm_share"
    ): Skip("takes six minutes with bfloat16, more without; docs/scaling.md has the rows of 12 clips, which are run"),
    "python tools/conformance.py": Skip("downloads tests of transformers; tests/tools/test_conformance.py runs it"),
    "python benchmarks/run.py --full": Skip(
        "measures for the better part of an hour; tests/benchmarks/test_benchmarks.py has its parts"
    ),
    "python dataset_scripts/prepare_corpus.py my_corpus.py --source PATH/TO/recordings --output_dir data/mine-too --language en": Run(
        slow=True, expect="Written to data/mine-too"
    ),
    "python dataset_scripts/prepare_quickstart.py --output_dir data/quickstart": Run(
        slow=True, expect="Written to data/quickstart"
    ),
    # docs/scaling.md
    f"accelerate launch {MULTI_GPU} recipes/train.py recipes/resd.yaml --data_dir PATH/TO/resd": Skip(
        "needs several GPUs; tests/recipes/test_distributed.py trains in two processes on a CPU"
    ),
    (
        f"accelerate launch {MULTI_GPU} recipes/extract_features.py recipes/resd_whisper_e5.yaml --data_dir "
        "PATH/TO/resd "
        "--feature_cache.compute_dtype bfloat16 --feature_cache.dtype bfloat16"
    ): Run(slow=True, replace={"multi_gpu": "cpu"}, append=WHISPER_E5),
    "torchrun --nproc_per_node 2 recipes/train.py recipes/resd.yaml --data_dir PATH/TO/resd --use_cpu true --ddp_backend gloo": Run(
        slow=True, append=f"{ONE_EPOCH} --output_dir outputs/resd-two", expect="| resd |"
    ),
    "python benchmarks/run.py --only extraction_fp32_buckets extraction_bf16_buckets extraction_gemm_share": Run(
        slow=True, expect="extraction_gemm_share"
    ),
    # docs/adding_a_corpus.md
    "docs/adding_a_corpus.md, Python block 1": Skip("tests/test_docs.py reads a corpus with it"),
    (
        "accelerate launch recipes/train.py recipes/resd.yaml --corpora.0.name my_corpus.py --data_dir "
        "PATH/TO/recordings "
        "--output_dir outputs/mine-too"
    ): Run(slow=True, append=ONE_EPOCH, expect="| mine |"),
    "python recipes/audit.py --corpus my_corpus.py --data_dir PATH/TO/recordings --protocol speaker_independent": Run(
        slow=True, expect="## mine, speaker_independent"
    ),
    # docs/adding_a_fusion.md
    "docs/adding_a_fusion.md, Python block 1": Skip("tests/test_docs.py builds a model with it"),
    "python -m pytest -q tests/model/test_fusion.py tests/model/test_family.py": Skip("tests of this suite"),
    # model_cards
    "python tools/render_cards.py": Run(slow=True, expect="Written: "),
    "python tools/render_cards.py take outputs/resd model_cards/models/resd": Run(
        slow=True, after=TRAIN_RESD, expect="Written: "
    ),
    "python tools/render_cards.py take data/resd model_cards/datasets/resd": Run(slow=True, expect="Written: "),
    "python tools/render_cards.py take outputs/resd_labels.parquet model_cards/datasets/resd-labels": Run(
        slow=True, expect="Written: "
    ),
    "model_cards/models/meld-text/README.md, Python block 1": Run(
        slow=True, replace={"PATH/TO/THIS/FOLDER": "outputs/quickstart"}
    ),
    "model_cards/models/resd/README.md, Python block 1": Run(
        slow=True, replace={"PATH/TO/THIS/FOLDER": "outputs/quickstart"}
    ),
    "model_cards/datasets/ravdess/README.md, Python block 1": Run(slow=True, replace={"OWNER/NAME": "data/resd"}),
    "python dataset_scripts/prepare_corpus.py meld --source PATH/TO/IT --output_dir data/meld": Run(
        slow=True, replace={"PATH/TO/IT": "{shared}/data/meld_text"}, append="--text_only", expect="9989"
    ),
}

for _table in PUBLISHED_TABLES:
    _run_file, _folder = ("meld_text", "PATH/TO/meld") if "meld" in _table else ("resd", "PATH/TO/resd")
    COMMANDS |= {
        f"hf download OWNER/NAME {_table} --repo-type dataset --local-dir outputs/labels": Skip(
            "fetches what has been pushed to the Hub; tests/hub/test_push.py pushes such a table"
        ),
        f"python recipes/label.py report outputs/labels/{_table}": Run(
            slow=True, replace={"outputs/labels": "{shared}/data/llm_labels"}, expect="UAR"
        ),
        (
            "accelerate launch recipes/train.py RUN.yaml --data_dir PATH/TO/CORPUS --soft_labels true "
            f"--corpora.0.labels outputs/labels/{_table}"
        ): Run(
            slow=True,
            replace={"RUN.yaml": f"recipes/{_run_file}.yaml", "PATH/TO/CORPUS": _folder},
            append=f"{ONE_EPOCH} --output_dir outputs/labelled-{_table.split('_')[0]}-{_run_file}"
            + (" --text_backbone {backbones}/e5-small" if _run_file == "meld_text" else ""),
            expect=f"| {_run_file.split('_')[0]} |",
        ),
    }
