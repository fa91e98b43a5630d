"""How `test_readme.py` treats each command in the documents.

To add one, put the command into `COMMANDS` exactly as the document has it (without its comment), with

* `Run()` if it finishes within seconds, `Run(slow=True)` otherwise; `append` arguments that shorten it, and `replace`
  whatever does not exist in a test;
* `Skip("why")` if it cannot run where tests run.

All documents share this table, so a command that several of them have is run once. A Python block is run as a whole;
its name is the first document that has it and its number there. `workspace.py` creates what the commands refer to:
`clip.wav`, `PATH/TO/resd`, a checkpoint `outputs/quickstart`, and so on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Run:
    """A command that is executed.

    Attributes:
        slow: run it only with the slow tests.
        append: further arguments.
        replace: parts of the command to replace, and their replacements.
        after: another command of the table that creates what this one needs.
        expect: a part of its output.
        exit_code: the expected exit code.
        hub: let it use the stand-in for the Hub (`hub_server.py`).

    `{shared}` and `{backbones}` in `append` and `replace` are the folders of real corpora and of small real backbones.
    Without them, the test is skipped.
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
E5 = "--text_backbone {backbones}/e5-small"

TRAIN_RESD = "bibier train resd --data_dir PATH/TO/resd"
TRAIN_CALLS = (
    "bibier train embedded --corpora.0.name csv --data_dir calls.csv --corpora.0.label_column mood "
    "--labels calm,annoyed,furious --output_dir outputs/calls"
)
TRAIN_RATINGS = (
    "bibier train embedded --corpora.0.name csv --data_dir ratings.csv --problem_type regression "
    "--labels valence,arousal --output_dir outputs/ratings"
)
PREPARE_OWN = "bibier prepare csv --source my_corpus.csv --output_dir data/mine --corpus mine --language en"
PREPARE_SURVEY = (
    "bibier prepare csv --source my_survey.csv --output_dir data/survey --language ru --encoding cp1251 "
    "--label_column emotion --text_column corrected,asr"
)
STACK = "bibier augment sds --corpus resd --data_dir data/resd --output_dir outputs/resd-sds"
WRITE_SPACE = "bibier demo --space outputs/space --model_id OWNER/NAME"
EXPORT_SAMPLES = "bibier export bibier-tiny --output_dir onnx/tiny --part samples"
WRITE_PAGE = "bibier demo bibier-tiny --space outputs/page --sdk static"
LABEL = "bibier label corpus --corpus resd --data_dir data/resd"
SERVES = Skip("serves until it is interrupted; tests/demo/test_browser.py uses the page")
SERVED = Skip("needs a server; tests/serve/test_server.py starts one, and runs what the page shows")
NEEDS_A_LANGUAGE_MODEL = Skip("needs a model of 8 GB; tests/commands/test_label.py labels with other back ends")

PUBLISHED_TABLES = (
    "Qwen3-4B_emotions_resd_1.csv",
    "Phi-4-mini-instruct_emotions_resd_1.csv",
    "Qwen3-4B_emotions_meld_1.csv",
)

COMMANDS: dict[str, Run | Skip] = {
    # README: quickstart, install, use
    "make quickstart": Skip("installs an environment and trains for minutes; run on a fresh clone before a release"),
    "pip install -c constraints.txt -e '.[train,tts]'": Skip(
        "installs; .ci/run does so on a machine with nothing but Python"
    ),
    "README.md, Python block 1": Run(),
    "README.md, Python block 2": Run(slow=True),
    'bibier predict outputs/quickstart clip.wav --text "I can\'t believe it!"': Run(
        slow=True, expect='clip.wav: "I can\'t believe it!"'
    ),
    "bibier predict outputs/quickstart talk.wav --chunk_length_s 4 --hop_length_s 2 --output talk.srt": Run(slow=True),
    "bibier demo outputs/quickstart": SERVES,
    # README: train, own data
    TRAIN_RESD: Run(slow=True, append=ONE_EPOCH, expect="| resd |"),
    "bibier train my_run.yaml --learning_rate 5e-4 --output_dir outputs/resd-slow": Run(
        slow=True,
        replace={"my_run.yaml": "recipes/resd.yaml --data_dir PATH/TO/resd"},
        append=ONE_EPOCH,
        expect="| resd |",
    ),
    "bibier evaluate outputs/resd --data_dir PATH/TO/resd": Run(slow=True, after=TRAIN_RESD, expect="| resd |"),
    (
        "accelerate launch recipes/train.py recipes/resd.yaml --data_dir PATH/TO/resd --output_dir outputs/resd-launched"
    ): Run(slow=True, append=ONE_EPOCH, expect="| resd |"),
    PREPARE_SURVEY: Run(expect="70 x read as CP1251, separated by ';'"),
    PREPARE_OWN: Run(slow=True, expect="Written to data/mine"),
    "bibier train resd --corpora.0.name csv --data_dir data/mine --output_dir outputs/mine": Run(
        slow=True, append=ONE_EPOCH, after=PREPARE_OWN, expect="| mine |"
    ),
    # docs/adding_a_corpus.md
    "docs/adding_a_corpus.md, Python block 1": Skip("tests/test_docs.py reads a corpus with it"),
    ("bibier prepare my_corpus.py --source PATH/TO/recordings --output_dir data/mine-too --language en"): Run(
        slow=True, expect="Written to data/mine-too"
    ),
    (
        "bibier train resd --corpora.0.name my_corpus.py --data_dir PATH/TO/recordings --output_dir outputs/mine-too"
    ): Run(slow=True, append=ONE_EPOCH, expect="| mine |"),
    "bibier audit --corpus my_corpus.py --data_dir PATH/TO/recordings --protocol speaker_independent": Run(
        slow=True, expect="## mine, speaker_independent"
    ),
    # docs/your_labels.md
    TRAIN_CALLS: Run(slow=True, append=ONE_EPOCH, expect="| calls |"),
    "bibier evaluate outputs/calls": Run(slow=True, after=TRAIN_CALLS, expect="| corpus | calm | annoyed | furious |"),
    "docs/your_labels.md, Python block 1": Run(slow=True, after=TRAIN_CALLS, expect="furious"),
    TRAIN_RATINGS: Run(slow=True, append=ONE_EPOCH, expect="| corpus | CCC | Pearson | MAE |"),
    "bibier evaluate outputs/ratings": Run(slow=True, after=TRAIN_RATINGS, expect="| corpus | valence | arousal |"),
    "docs/your_labels.md, Python block 2": Run(slow=True, after=TRAIN_RATINGS, expect="arousal"),
    "bibier study resd_enthusiasm --data_dir PATH/TO/resd": Run(
        slow=True, append=f"{WHISPER_E5} {ONE_EPOCH}", expect="| base | dialogue_grouped |"
    ),
    "bibier study ravdess_intensity --data_dir PATH/TO/ravdess": Skip(
        "trains five folds; tests/benchmarks/test_other_labels.py checks the study"
    ),
    "python benchmarks/other_labels.py --resd PATH/TO/resd --ravdess PATH/TO/ravdess --only few_shot": Skip(
        "trains 16 models on real corpora; tests/benchmarks/test_other_labels.py compares the table with its answers"
    ),
    "bibier study meld_sentiment --data_dir PATH/TO/meld": Run(
        slow=True, append=f"{E5} {ONE_EPOCH}", expect="| base | official |"
    ),
    # docs/adding_a_fusion.md
    "docs/adding_a_fusion.md, Python block 1": Skip("tests/test_docs.py builds a model with it"),
    "python -m pytest -q tests/model/test_fusion.py tests/model/test_family.py": Skip("tests of this suite"),
    "bibier train embedded --model.fusion biformer --output_dir outputs/yours": Skip(
        "the run of make quickstart, under another name"
    ),
    # docs/adding_an_llm.md
    f"{LABEL} --backend transformers --model Qwen/Qwen3-4B --output outputs/resd_labels.parquet": (
        NEEDS_A_LANGUAGE_MODEL
    ),
    # docs/augmentation.md
    f"{LABEL} --model Qwen/Qwen3-4B --output outputs/resd_labels.parquet": NEEDS_A_LANGUAGE_MODEL,
    "bibier label report outputs/resd_labels.parquet --json outputs/resd_labels.json": Run(slow=True, expect="UAR"),
    STACK: Run(slow=True),
    "bibier augment preview --augmented outputs/resd-sds --data_dir data/resd --output outputs/preview.html": Run(
        slow=True, after=STACK
    ),
    "bibier augment tug --corpus resd --data_dir data/resd --output_dir outputs/tug-ru": Run(slow=True),
    # docs/conformance.md
    "python tools/conformance.py": Skip("downloads tests of transformers; tests/tools/test_conformance.py runs it"),
    # docs/corpora.md
    "bibier prepare resd --source PATH/TO/resd --output_dir data/resd": Run(
        slow=True,
        replace={"PATH/TO/resd": "{shared}/data/resd", "--output_dir data/resd": "--output_dir data/resd-whole"},
        expect="1116",
    ),
    "bibier prepare ravdess --source PATH/TO/ravdess --output_dir data/ravdess": Run(
        slow=True, replace={"PATH/TO/ravdess": "{shared}/data/ravdess"}, expect="Written to data/ravdess"
    ),
    "bibier prepare meld --source MELD.Raw.tar.gz --output_dir data/meld": Skip("needs an archive of 10.9 GB"),
    "bibier prepare meld --text_only --source PATH/TO/meld_csvs --output_dir data/meld-text": Run(
        slow=True, replace={"PATH/TO/meld_csvs": "{shared}/data/meld_text"}, expect="9989"
    ),
    "bibier prepare quickstart --output_dir data/quickstart": Run(slow=True, expect="Written to data/quickstart"),
    # docs/demo.md
    "bibier demo outputs/quickstart --port 7860": SERVES,
    "docker build -t bibier-demo .": Skip("needs Docker; tests/test_repository.py reads the Dockerfile"),
    'docker run --rm -p 7860:7860 -v "$PWD/outputs/quickstart:/model:ro" bibier-demo': Skip(
        "needs Docker; tests/test_repository.py reads the Dockerfile"
    ),
    WRITE_SPACE: Run(slow=True, expect="shows OWNER/NAME"),
    "bibier push space outputs/space OWNER/NAME": Run(
        slow=True, after=WRITE_SPACE, hub=True, expect="Pushed privately"
    ),
    WRITE_PAGE: Skip("needs npm; tests/demo/test_static_space.py writes the page and uses it"),
    "bibier push space outputs/page OWNER/NAME": Skip(
        "needs npm for the page; tests/hub/test_push.py pushes Spaces, whatever their sdk"
    ),
    # docs/export.md
    "bibier export outputs/quickstart --output_dir outputs/quickstart-onnx --part whole": Run(slow=True),
    EXPORT_SAMPLES: Run(slow=True, expect="samples of bibier-tiny"),
    """python onnx/tiny/run.py clip.wav --text "I can't believe it!\"""": Run(
        slow=True, after=EXPORT_SAMPLES, expect="neutral"
    ),
    "docs/export.md, Python block 1": Run(slow=True, after=EXPORT_SAMPLES),
    # docs/inference.md
    **{f"docs/inference.md, Python block {number}": Run() for number in (1, 2, 3, 4)},
    "docs/long_recordings.md, Python block 1": Run(),
    # docs/checkpoints.md
    "docs/checkpoints.md, Python block 1": Run(),
    "bibier predict bibier-tiny clip.wav": Run(),
    "bibier predict bibier-small clip.wav --backbone_dir PATH/TO/backbones": Skip(
        "needs the backbones; tests/hub/test_shipped.py finds what it names"
    ),
    **dict.fromkeys(
        (
            "bibier train bibier_small_speech --corpora.0.data_dir PATH/TO/ravdess --corpora.1.data_dir PATH/TO/resd "
            "--output_dir outputs/twin",
            "bibier train bibier_small_speech --corpora.0.data_dir PATH/TO/ravdess --corpora.1.data_dir PATH/TO/resd "
            "--refit_on_dev true --refit_on_test '[ravdess]'",
            "bibier train bibier_small_text --corpora.0.data_dir PATH/TO/meld --corpora.1.data_dir PATH/TO/resd "
            "--bf16 true --use_cpu true",
        ),
        Skip("takes half an hour with the real backbones; tests/training/test_statistics.py has its parts"),
    ),
    **dict.fromkeys(
        (
            "python tools/distill_speech.py bibier_tiny_speech --corpora.0.data_dir PATH/TO/ravdess --corpora.1.data_dir PATH/TO/resd",
            "python tools/distill_text.py bibier_tiny_text --corpora.0.data_dir PATH/TO/meld --corpora.1.data_dir PATH/TO/resd "
            "--teacher outputs/text-twin",
            "bibier train bibier_tiny_speech --corpora.0.data_dir PATH/TO/ravdess --corpora.1.data_dir PATH/TO/resd --output_dir outputs/twin",
            "bibier train bibier_tiny_speech --corpora.0.data_dir PATH/TO/ravdess --corpora.1.data_dir PATH/TO/resd --refit_on_dev true "
            '--refit_on_test "[ravdess]"',
            "bibier train bibier_tiny_text --corpora.0.data_dir PATH/TO/meld --corpora.1.data_dir PATH/TO/resd",
        ),
        Skip("takes an hour with the real backbones; tests/tools/test_distill.py runs it on toys"),
    ),
    "bibier evaluate outputs/resd --data_dir PATH/TO/resd --split dev --fit_unsure": Run(
        slow=True,
        append="--unsure.clips 10 --unsure.sounds 2",
        after=TRAIN_RESD,
        expect="Classified as no speech:",
    ),
    "bibier predict outputs/resd clip.wav --labels anger,neutral": Run(expect="neutral"),
    (
        'bibier predict outputs/resd clip.wav --label_map "{positive: [happy, surprise], negative: [anger, disgust, fear, '
        'sad]}"'
    ): Run(expect="negative"),
    "bibier evaluate outputs/resd --data_dir PATH/TO/resd --split dev --calibrate true": Run(
        slow=True, after=TRAIN_RESD, expect="| resd |"
    ),
    "find recordings -name '*.wav' | bibier predict outputs/resd - --json": Run(
        slow=True, expect='{"input": "recordings/'
    ),
    "bibier predict outputs/resd recordings/ --output answers.parquet": Run(
        slow=True, expect="answers.parquet: 70 rows."
    ),
    "torchrun --nproc_per_node 2 -m bibier_cli predict outputs/resd recordings/ --output answers.csv": Run(
        slow=True, expect="answers.csv: 70 rows."
    ),
    "python benchmarks/folder_test.py bibier-tiny PATH/TO/ravdess/wavs --clips 1000": Run(
        slow=True,
        replace={"PATH/TO/ravdess": "{shared}/data/ravdess", "--clips 1000": "--clips 8"},
        expect="by processor time",
    ),
    # docs/conversations.md
    "bibier predict outputs/resd talk.wav --segments talk.rttm --output answers.json --summary minutes.csv": Run(
        slow=True, expect="Anna, 2 turns"
    ),
    "bibier predict outputs/resd talk.wav --granularity sentence --transcript said.srt": Run(
        slow=True, expect="'Really?'"
    ),
    'bibier predict outputs/resd clip.wav --text "I can\'t believe it!" --explain': Run(
        slow=True, expect="carried by"
    ),
    "python tools/check_explanations.py bibier-tiny --corpus resd --data_dir PATH/TO/resd --clips 60 --fold 0": Run(
        slow=True,
        replace={"PATH/TO/resd": "{shared}/data/resd", "--clips 60": "--clips 2"},
        expect="more than a random fifth",
    ),
    "docs/conversations.md, Python block 1": Run(slow=True),
    "docs/conversations.md, Python block 2": Run(slow=True),
    # docs/install.md
    "pip install torch transformers soundfile soxr": Skip(
        "installs; tests/commands/test_remote_code.py needs no more"
    ),
    "bibier kernels": Run(),
    # docs/model.md
    "bibier adapt outputs/resd my_corpus.csv --options.language en --output_dir outputs/adapted": Run(
        expect="cross-validated answers (5 folds over speakers)"
    ),
    "bibier adapt outputs/resd --corpus resd --data_dir PATH/TO/resd --clips_per_label 16 --output_dir outputs/sixteen": Run(
        slow=True, expect="cross-validated"
    ),
    ("bibier join outputs/speech outputs/text --corpus resd --data_dir PATH/TO/resd --output_dir outputs/both"): Skip(
        "needs two more checkpoints; tests/training/test_join.py joins two"
    ),
    "bibier describe outputs/resd": Run(expect="biformer"),
    (
        "bibier convert --fusion F.pt --variant BiGraphFormer --num_transformer_heads 4 --output_dir outputs/converted"
    ): Skip("needs published weights; tests/hub/test_convert_original.py converts every variant"),
    # docs/protocols.md
    "bibier audit --corpus resd --data_dir PATH/TO/resd --protocol official,dialogue_grouped --fold all": Run(
        slow=True, expect="## resd, official"
    ),
    "bibier baseline late_fusion --corpus resd --data_dir data/resd": Run(slow=True, expect="| resd |"),
    "bibier baseline who_speaks --corpus resd --data_dir data/resd --protocol dialogue_grouped --fold all": Run(
        slow=True, expect="| resd |"
    ),
    # docs/publishing.md
    "bibier push model outputs/resd OWNER/NAME": Run(slow=True, after=TRAIN_RESD, hub=True, expect="Pushed privately"),
    "bibier push dataset data/resd OWNER/NAME": Run(slow=True, hub=True, expect="Pushed privately"),
    "docs/publishing.md, Python block 1": Run(slow=True),
    # docs/scaling.md
    f"accelerate launch {MULTI_GPU} recipes/train.py recipes/resd.yaml --data_dir PATH/TO/resd": Skip(
        "needs several GPUs; tests/recipes/test_distributed.py trains in two processes on a CPU"
    ),
    (
        "torchrun --nproc_per_node 2 recipes/train.py recipes/resd.yaml --data_dir PATH/TO/resd --use_cpu true "
        "--ddp_backend gloo"
    ): Run(slow=True, append=f"{ONE_EPOCH} --output_dir outputs/resd-two", expect="| resd |"),
    (
        f"accelerate launch {MULTI_GPU} -m bibier_cli extract recipes/resd_whisper_e5.yaml --data_dir PATH/TO/resd "
        "--feature_cache.compute_dtype bfloat16 --feature_cache.dtype bfloat16"
    ): Run(slow=True, replace={"multi_gpu": "cpu"}, append=WHISPER_E5),
    "python benchmarks/run.py --only extraction_fp32_buckets extraction_bf16_buckets extraction_gemm_share": Run(
        slow=True, expect="extraction_gemm_share"
    ),
    # docs/serving.md
    "pip install -c constraints.txt -e '.[serve]'": Skip(
        "installs; .ci/run does so on a machine with nothing but Python"
    ),
    "bibier serve outputs/quickstart": SERVED,
    **dict.fromkeys(
        (
            ('curl http://127.0.0.1:8000/v1/emotion -F file=@clip.wav -F text="I can\'t believe it!" -F top_k=2'),
            """curl http://127.0.0.1:8000/v1/emotion --json '{"text": "What a day."}'""",
            "curl http://127.0.0.1:8000/v1/emotion -F file=@talk.wav -F chunk_length_s=4 -F hop_length_s=2",
            "docs/serving.md, Python block 1",
            "docs/serving.md, Python block 2",
        ),
        SERVED,
    ),
    "python benchmarks/load_test.py bibier-tiny --requests 500 --clients 8 --seconds 4 --json outputs/load.json": Run(
        slow=True,
        replace={"--requests 500 --clients 8": "--requests 24 --clients 4 --live 1"},
        expect="failed requests",
    ),
    "docker build -t bibier-serve --target serve .": Skip(
        "needs Docker; tests/test_repository.py reads the Dockerfile"
    ),
    'docker run --rm -p 8000:8000 -e BIBIER_API_KEY -v "$PWD/outputs/quickstart:/model:ro" bibier-serve': Skip(
        "needs Docker; tests/test_repository.py reads the Dockerfile"
    ),
    # docs/speed.md
    "python benchmarks/run.py --only scan_forward limit_forward": Run(slow=True, expect="limit_forward"),
    (
        "python benchmarks/run.py --full --profile --resd PATH/TO/resd --backbones PATH/TO/backbones "
        "--markdown outputs/benchmark.md"
    ): Skip("measures for half an hour; tests/benchmarks/test_benchmarks.py has its parts"),
    # docs/studies.md
    "bibier study resd_grouped --data_dir PATH/TO/resd": Run(
        slow=True, append=f"--only late {WHISPER_E5} {ONE_EPOCH}", expect="| late | dialogue_grouped |"
    ),
    (
        "bibier study meld_labels --data_dir PATH/TO/meld --corpora.0.label_table PATH/TO/Qwen3-4B_emotions_meld_1.csv"
    ): Run(slow=True, append=f"{E5} {ONE_EPOCH}", expect="| soft | official |"),
    "bibier study resd_augmentation --data_dir PATH/TO/resd": Run(
        slow=True, append=f"--only base {WHISPER_E5} {ONE_EPOCH}", expect="| base | official |"
    ),
    "bibier study published_fusion --data_dir PATH/TO/resd": Run(
        slow=True, append=f"--only late {WHISPER_E5} {ONE_EPOCH}", expect="| late | official |"
    ),
    "bibier search resd_greedy --data_dir PATH/TO/resd": Run(
        slow=True, append=f"{WHISPER_E5} {ONE_EPOCH}", expect="All 7 trials are in"
    ),
    (
        "bibier transfer --corpora.0.data_dir PATH/TO/resd --corpora.1.data_dir PATH/TO/ravdess "
        "--corpora.2.data_dir PATH/TO/meld"
    ): Skip("computes features for minutes; tests/commands/test_transfer.py runs it on small tables"),
    # docs/training.md
    f"{TRAIN_RESD} --corpora.0.protocol dialogue_grouped --corpora.0.fold 0 --output_dir outputs/resd-grouped-0": Run(
        slow=True, append=ONE_EPOCH, expect="| resd |"
    ),
    "bibier train resd_whisper_e5 --data_dir PATH/TO/resd": Run(
        slow=True, append=f"{WHISPER_E5} {ONE_EPOCH}", expect="| resd |"
    ),
    "bibier train meld_text --data_dir PATH/TO/meld": Run(slow=True, append=f"{E5} {ONE_EPOCH}", expect="| meld |"),
    "bibier train meld_text_finetuned --data_dir PATH/TO/meld": Run(
        slow=True, append=f"{E5} {ONE_EPOCH}", expect="| meld |"
    ),
    ("bibier train meld_resd --corpora.0.data_dir PATH/TO/meld --corpora.1.data_dir PATH/TO/resd"): Skip(
        "its backbones are 3 GB from the Hub; tests/recipes/test_stages.py runs the same plan over small ones"
    ),
    "bibier train --help": Run(slow=True, expect="--corpora.0.data_dir"),
    "bibier extract resd_whisper_e5 --data_dir PATH/TO/resd": Run(slow=True, append=WHISPER_E5),
    "bibier evaluate outputs/resd --data_dir PATH/TO/resd --conditions all": Run(
        slow=True, after=TRAIN_RESD, expect="| resd |"
    ),
    # docs/robustness.md
    "docs/robustness.md, Python block 1": Run(),
    "bibier evaluate outputs/resd --data_dir PATH/TO/resd --conditions white:20 babble:10 g711 mp3:32": Run(
        slow=True, after=TRAIN_RESD, expect="| resd | mp3:32 |"
    ),
    **dict.fromkeys(
        (
            "bibier train ravdess_robust --data_dir PATH/TO/ravdess",
            "bibier train ravdess_robust --data_dir PATH/TO/ravdess --disturbances null --output_dir outputs/ravdess_fragile",
            "bibier evaluate outputs/ravdess_robust --data_dir PATH/TO/ravdess --split dev --conditions all",
            "bibier evaluate outputs/ravdess_fragile --data_dir PATH/TO/ravdess --split dev --conditions all",
        ),
        Skip(
            "computes features for minutes; tests/training/test_disturbed_training.py trains and scores on a small table"
        ),
    ),
    (
        "accelerate launch --quiet --config_file recipes/accelerate_configs/cpu.yaml recipes/train.py "
        "recipes/resd.yaml --data_dir PATH/TO/resd"
    ): Run(slow=True, append=f"{ONE_EPOCH} --output_dir outputs/resd-quiet", expect="| resd |"),
    # docs/commands.md
    'bibier predict outputs/resd clip.wav --text "I can\'t believe it!" --top_k 3 --json': Run(
        slow=True, expect='{"input": "clip.wav"'
    ),
    "bibier evaluate outputs/resd --corpus resd --data_dir PATH/TO/resd --json": Run(
        slow=True, after=TRAIN_RESD, expect='"uar"'
    ),
    "bibier predict outputs/resd recordings/ --json > answers.jsonl": Run(slow=True),
    "bibier predict outputs/resd talk.wav --chunk_length_s 4 --hop_length_s 2 --output talk.srt": Run(slow=True),
    "accelerate launch recipes/train.py recipes/resd.yaml --data_dir PATH/TO/resd": Run(
        slow=True, append=ONE_EPOCH, expect="| resd |"
    ),
    "bibier convert --fusion F.pt --num_transformer_heads 4 --output_dir outputs/converted": Skip(
        "needs published weights; tests/hub/test_convert_original.py converts every variant"
    ),
    "bibier audit --corpus resd --data_dir data/resd --protocol official,dialogue_grouped --fold all": Run(
        slow=True, expect="## resd, official"
    ),
    "bibier augment components --corpus resd --data_dir data/resd --languages ru --model MODEL --output_dir outputs/components": Skip(
        "needs a large language model; tests/commands/test_augment.py writes components with a stand-in"
    ),
    "bibier label recognize --corpus resd --data_dir data/resd --shots 2 --output_dir outputs/resd_llm": Skip(
        "needs vLLM with a GPU; tests/commands/test_label.py recognizes with other back ends"
    ),
    "bibier completion bash": Run(expect="complete -o default -F _bibier bibier"),
    # model_cards
    "python tools/reliability.py --faults": Skip("takes long; runs tests/faults"),
    "python tools/reliability.py --inputs": Skip("takes long; runs tests/test_bad_inputs.py"),
    "python tools/reliability.py --load bibier-tiny --requests 500 --clients 8 --seconds 4": Skip(
        "takes minutes: eight clients send 500 requests"
    ),
    "python tools/reliability.py": Skip("takes long; tests/tools/test_reliability.py runs it"),
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
    "bibier prepare meld --source PATH/TO/IT --output_dir data/meld": Run(
        slow=True, replace={"PATH/TO/IT": "{shared}/data/meld_text"}, append="--text_only", expect="9989"
    ),
}

for _table in PUBLISHED_TABLES:
    _run_file, _folder = ("meld_text", "PATH/TO/meld") if "meld" in _table else ("resd", "PATH/TO/resd")
    COMMANDS |= {
        f"hf download OWNER/NAME {_table} --repo-type dataset --local-dir outputs/labels": Skip(
            "fetches what has been pushed to the Hub; tests/hub/test_push.py pushes such a table"
        ),
        f"bibier label report outputs/labels/{_table}": Run(
            slow=True, replace={"outputs/labels": "{shared}/data/llm_labels"}, expect="UAR"
        ),
        (
            "bibier train RUN.yaml --data_dir PATH/TO/CORPUS --soft_labels true "
            f"--corpora.0.label_table outputs/labels/{_table}"
        ): Run(
            slow=True,
            replace={"RUN.yaml": f"recipes/{_run_file}.yaml", "PATH/TO/CORPUS": _folder},
            append=f"{ONE_EPOCH} --output_dir outputs/labelled-{_table.split('_')[0]}-{_run_file}"
            + (" --text_backbone {backbones}/e5-small" if _run_file == "meld_text" else ""),
            expect=f"| {_run_file.split('_')[0]} |",
        ),
    }
