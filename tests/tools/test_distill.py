"""How `bibier-tiny` is made, with toy teachers and toy corpora: every step runs, and the folder needs nothing else."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
    pipeline,
)

import distill_speech
import distill_text
from bibier_hf import EMOTIONS, BiBiERForEmotionClassification
from bibier_hf.commands.join import JoinArguments, join_checkpoints
from bibier_hf.data.corpora import get_corpus
from bibier_hf.training.arguments import read_run
from bibier_hf.training.run import run_training

RAVDESS_CODES = {"neutral": 1, "happy": 3, "sad": 4, "anger": 5, "fear": 6, "disgust": 7, "surprise": 8}
SENTENCES = ("Kids are talking by the door.", "Dogs are sitting by the door.")
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def write_table(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def write_clip(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(seed).standard_normal(9600 + 160 * (seed % 5))
    soundfile.write(path, samples.astype(np.float32), 16_000)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, Path]:
    """Three prepared corpora of a few rows."""
    folder = tmp_path_factory.mktemp("corpora")
    rows = []
    for actor in range(1, 6):
        split = "train" if actor < 5 else "dev"
        for emotion, code in RAVDESS_CODES.items():
            name = f"wavs/03-01-0{code}-01-0{1 + actor % 2}-01-{actor:02d}.flac"
            write_clip(folder / "raw_ravdess" / name, 10 * actor + code)
            text = SENTENCES[actor % 2]
            rows.append(
                {"file_name": name, "text": text, "emotion": emotion, "speaker": f"actor{actor:02d}", "split": split}
            )
    write_table(folder / "raw_ravdess" / "metadata.csv", rows)

    rows = []
    for number, emotion in enumerate(("anger", "disgust", "fear", "happiness", "enthusiasm", "sadness") * 2, start=1):
        name = f"wavs/train/{number:02d}_{emotion}_neutral_{emotion[0]}_120.flac"
        write_clip(folder / "raw_resd" / name, number)
        rows.append({"file_name": name, "text": f"Фраза номер {number}", "emotion": emotion, "split": "train"})
    write_table(folder / "raw_resd" / "metadata.csv", rows)

    for split, count in (("train", 28), ("dev", 7), ("test", 7)):
        rows = [
            {"Sr No.": row, "Utterance": f"{split} says {row}", "Speaker": "Ross", "Emotion": emotion}
            | {"Sentiment": "neutral", "Dialogue_ID": row // 7, "Utterance_ID": row % 7, "Season": 1, "Episode": 1}
            | {"StartTime": "00:00:00,000", "EndTime": "00:00:01,000"}
            for row in range(count)
            for emotion in [("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")[row % 7]]
        ]
        write_table(folder / "raw_meld" / f"{split}_sent_emo.csv", rows)

    options = {"ravdess": {}, "resd": {}, "meld": {"text_only": True}}
    for name, extra in options.items():
        get_corpus(name).prepare(folder / f"raw_{name}", folder / name, strict_counts=False, **extra)
    return {name: folder / name for name in options}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> dict[str, Path]:
    """A Whisper and an E5 of a few thousand weights."""
    folder = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(0)
    sizes = {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 4, "vocab_size": 8}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    WhisperModel(WhisperConfig(**sizes, **decoder, **tokens)).save_pretrained(folder / "whisper")
    WhisperFeatureExtractor().save_pretrained(folder / "whisper")

    sentences = [*SENTENCES, "train says 1", "Фраза номер 7", "so glad to see you", "как я рада"] * 4
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=list(SPECIAL), unk_token="<unk>")
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, SPECIAL, strict=True)))
    fast.save_pretrained(folder / "e5")
    config = BertConfig(
        vocab_size=len(fast), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder / "e5")
    return {"audio": folder / "whisper", "text": folder / "e5"}


@pytest.mark.slow
def test_a_step_of_everything(corpora, teachers, repository, tmp_path):
    folders = {name: tmp_path / name for name in ("speech-encoder", "text-encoder", "speech", "text", "tiny")}
    speech = {
        "--corpora.0.data_dir": corpora["ravdess"],
        "--corpora.1.data_dir": corpora["resd"],
        "--audio_backbone": folders["speech-encoder"],
        "--model.audio_config.layer": "[1, 2]",
        "--disturbances.draws": 1,
    }
    own = {"--teacher": teachers["audio"], "--neurons": 16, "--distill_epochs": 1, "--distill_batch": 8}
    run_file = str(repository / "recipes" / "bibier_tiny_speech.yaml")
    assert distill_speech.main([run_file, *_words(speech | own)]) == 0

    text = {
        "--corpora.0.data_dir": corpora["meld"],
        "--corpora.1.data_dir": corpora["resd"],
        "--text_backbone": folders["text-encoder"],
    }
    own = {"--teacher": teachers["text"], "--vocabulary": 300, "--layers": 1, "--heads": 1, "--templates": 2}
    run_file = str(repository / "recipes" / "bibier_tiny_text.yaml")
    assert distill_text.main([run_file, *_words(text | own | {"--distill_epochs": 1, "--distill_batch": 8})]) == 0

    short = {"num_train_epochs": 1, "eval_delay": 1, "use_cpu": True}
    for name, options in (("speech", speech), ("text", text)):
        overrides = {key.removeprefix("--"): str(value) for key, value in options.items()}
        overrides |= short | {"output_dir": str(folders[name])}
        if name == "speech":
            overrides |= {"model.audio_config.layer": [1, 2], "disturbances.draws": 1, "unsure": None}
        run_training(read_run(repository / "recipes" / f"bibier_tiny_{name}.yaml", overrides))

    tokenizer, teacher = distill_text.load_teacher(str(folders["text"]))
    with safe_open(folders["text"] / "model.safetensors", "pt") as file:
        trained = file.get_tensor("bibier.text.backbone.embeddings.word_embeddings.weight")
    assert torch.equal(teacher.get_input_embeddings().weight, trained)
    assert len(tokenizer) == len(trained)

    names = [{"name": "ravdess", "protocol": "speaker_independent"}, {"name": "resd", "protocol": "dialogue_grouped"}]
    join_checkpoints(
        JoinArguments(
            speech=str(folders["speech"]),
            text=str(folders["text"]),
            corpora=[entry | {"data_dir": str(corpora[entry["name"]])} for entry in names],
            output_dir=str(folders["tiny"]),
            dtype="float8_e4m3fn",
        )
    )
    with safe_open(folders["tiny"] / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name).dtype for name in file.keys() if "backbone" in name}  # noqa: SIM118
    types = {dtype: [name for name in stored if stored[name] == dtype] for dtype in set(stored.values())}
    assert types[torch.float16] == ["bibier.audio.backbone.conv1.weight"]
    assert len(types[torch.float8_e4m3fn]) > 10

    model = BiBiERForEmotionClassification.from_pretrained(folders["tiny"])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}

    pipe = pipeline("audio-text-emotion", model=str(folders["tiny"]), trust_remote_code=True)
    clip = (0.1 * np.random.default_rng(0).standard_normal(16_000 * 8)).astype(np.float32)
    for given in ({"audio": {"array": clip, "sampling_rate": 16_000}}, {"text": "как я рада"}):
        assert {answer["label"] for answer in pipe(given)} == set(EMOTIONS)


def _words(options: dict[str, object]) -> list[str]:
    return [str(part) for pair in options.items() for part in pair]


@pytest.mark.parametrize(
    ("tool", "options", "message"),
    [
        ("speech", ["nowhere"], "There is no run file nowhere"),
        ("speech", ["embedded"], "audio_backbone: give the folder to write the encoder to, got embedded"),
        ("speech", ["{speech}", "--audio_backbone", "teacher", "--teacher", "teacher"], "give the folder to write"),
        ("speech", ["{speech}", "--model.audio_config.layer", "2"], "name the layers to learn, such as [2, 3, 4]"),
        ("speech", ["{speech}", "--teacher", "nowhere"], "teacher: nowhere cannot be loaded"),
        ("text", ["embedded"], "text_backbone: give the folder to write the encoder to"),
        ("text", ["{text}", "--corpora.0.data_dir", "nowhere"], "No corpus at 'nowhere'"),
        ("text", ["{table}", "--text_backbone", "x"], "templates: they exist only for anger, disgust"),
        ("text", ["{table}", "--text_backbone", "x", "--templates", "0", "--teacher", "nowhere"], "teacher: nowhere"),
    ],
)
def test_what_cannot_be_distilled_is_said_in_one_line(
    tmp_path, monkeypatch, repository, capsys, tool, options, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))
    lines = [
        f"I am {name} {row},{name},{split},en"
        for row in range(3)
        for name in "ab"
        for split in ("train", "dev", "test")
    ]
    (tmp_path / "own.csv").write_text("\n".join(["text,label,split,language", *lines]) + "\n", encoding="utf-8")
    content = "corpora: [{name: csv, data_dir: own.csv}]\nlabels: [a, b]\nmodel: {modalities: [text]}\n"
    (tmp_path / "table.yaml").write_text(content, encoding="utf-8")
    recipes = {name: str(repository / "recipes" / f"bibier_tiny_{name}.yaml") for name in ("speech", "text")}

    module = {"speech": distill_speech, "text": distill_text}[tool]
    assert module.main([word.format(table="table.yaml", **recipes) for word in options]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert f"error: {message}" in error or message in error.splitlines()[-1]


def test_the_encoder_learns_rounded_weights():
    weight = torch.linspace(-0.1, 0.1, 7, requires_grad=True)
    rounded = distill_speech.Rounded()(weight)
    assert torch.equal(rounded.detach(), weight.detach().to(torch.float8_e4m3fn).float())
    rounded.sum().backward()
    assert torch.equal(weight.grad, torch.ones(7))


def test_disturbances_keep_the_speed():
    assert distill_speech.without_speed("speed:0.95+white:12") == "white:12"
    assert distill_speech.without_speed("speed:1.1") == ""
