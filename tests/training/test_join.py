"""`bibier join`: a speech checkpoint and a text checkpoint become one bimodal checkpoint."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoProcessor, pipeline

from bibier_cli import main
from bibier_hf import BiBiERForEmotionClassification, BiBiERProcessor
from bibier_hf.commands.join import save
from bibier_hf.errors import ArgumentError
from bibier_hf.evaluation.calibration import HIGHEST_TEMPERATURE
from bibier_hf.model.backbones_bibier import load_backbone
from bibier_hf.training.arguments import LoraArguments
from bibier_hf.training.join import fit_weights, join_models, mixed, sharpen
from bibier_hf.training.lora import LoraAdapters

from ..conftest import merged


@pytest.fixture
def pair(tiny_options, backbones, tmp_path) -> dict[str, str]:
    """Folders of a speech and a text checkpoint, the latter with an adapter of its own."""
    folders = {modality: str(tmp_path / modality) for modality in ("audio", "text")}
    for seed, (modality, folder) in enumerate(folders.items()):
        torch.manual_seed(seed)
        sources = {name: backbones[f"{name}_backbone"] for name in folders}
        options = merged(tiny_options, {"modalities": [modality]})
        model = BiBiERForEmotionClassification.from_backbones(**sources, **options)
        if modality == "text":
            adapters = LoraAdapters(model, LoraArguments(backbones=["text"], r=2, save="adapter"))
            adapters.finish()
        model.save_pretrained(folder)
        BiBiERProcessor.from_backbones(**sources).save_pretrained(folder)
    return folders


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ending:
        main(["join", *arguments])
    return int(ending.value.code)


def test_both_answers_are_weighed(pair, corpus_table, tmp_path, capsys):
    out = tmp_path / "joined"
    given = [pair["audio"], pair["text"], "--corpus", "csv", "--data_dir", str(corpus_table)]
    assert exit_code(*given, "--output_dir", str(out), "--dtype", "float16") == 0
    printed = capsys.readouterr().out
    assert all(f"| {condition} " in printed for condition in ("both", "audio", "text"))

    model = BiBiERForEmotionClassification.from_pretrained(out).eval()
    assert model.dtype == torch.float32
    assert model.config.fusion == "late"
    assert 1 / 7 < model.config.least_confidence < 1
    assert (out / "text_adapter" / "adapter_model.safetensors").is_file()
    pipe = pipeline("audio-text-emotion", model=str(out), trust_remote_code=True)
    assert abs(sum(answer["score"] for answer in pipe({"text": "hello there"}, top_k=None)) - 1) < 1e-5

    # The text answers of the joined model are those of the text model, sharper or flatter.
    tokens = {"input_ids": torch.tensor([[40, 50, 60]])}
    with torch.no_grad():
        own = AutoModel.from_pretrained(pair["text"]).eval()(**tokens).logits[0]
        joined = model(**tokens).logits[0]
    torch.testing.assert_close(joined / joined.norm(), own / own.norm(), atol=2e-3, rtol=0)

    assert exit_code(*given, "--output_dir", str(out)) == 2
    assert "holds a model already" in capsys.readouterr().err


def test_a_backbone_is_named_instead_of_stored(pair, corpus_table, backbones, tmp_path):
    out = tmp_path / "joined"
    given = [pair["audio"], pair["text"], "--corpus", "csv", "--data_dir", str(corpus_table)]
    assert exit_code(*given, "--output_dir", str(out), "--backbone_ids", "{audio: some/speech, text: some/text}") == 0
    for kind in (BiBiERForEmotionClassification, BiBiERProcessor):
        with pytest.raises(OSError, match=r"could not be fetched[\s\S]*backbone_dir"):
            kind.from_pretrained(out)
    copies = {"audio": backbones["audio_backbone"], "text": backbones["text_backbone"]}
    model = BiBiERForEmotionClassification.from_pretrained(out, backbone_dir=copies)
    assert model.config.text_config.backbone_id == "some/text"
    assert not (out / "tokenizer_config.json").exists()
    processor = AutoProcessor.from_pretrained(out, backbone_dir=copies, trust_remote_code=True)
    own = BiBiERProcessor.from_pretrained(pair["text"])
    assert processor(text="hello")["input_ids"].tolist() == own(text="hello")["input_ids"].tolist()
    with safe_open(out / "model.safetensors", "pt") as weights:
        assert not [name for name in weights.keys() if ".backbone." in name]  # noqa: SIM118 - not a mapping


def test_models_that_do_not_fit_are_refused(pair):
    speech, text = (AutoModel.from_pretrained(pair[modality]) for modality in ("audio", "text"))
    with pytest.raises(ArgumentError, match=r"speech: this checkpoint reads text.*modalities: \[audio\]"):
        join_models(text, speech)
    text.config.id2label = dict(enumerate("abcdefg"))
    with pytest.raises(ArgumentError, match="text: its labels are a, b"):
        join_models(speech, text)
    speech.config.problem_type = "multi_label_classification"
    with pytest.raises(ArgumentError, match="speech: this checkpoint is for multi_label_classification"):
        join_models(speech, text)


def test_options_that_do_not_fit_are_refused(pair, corpus_table, tmp_path, capsys):
    given = [pair["audio"], pair["text"], "--corpus", "csv", "--data_dir", str(corpus_table)]
    given += ["--output_dir", str(tmp_path / "joined")]
    assert exit_code(*given, "--labels", "a,b") == 2
    assert "labels: the checkpoint has anger," in capsys.readouterr().err
    unknown = ["--adapter_rank", "{text: 4}", "--backbone_ids", "{text: nobody/nothing}"]
    assert exit_code(*given, *unknown) == 2
    assert "backbone_ids: nobody/nothing cannot be loaded" in capsys.readouterr().err


def test_the_context_of_the_text_model_stays(pair):
    speech, text = (AutoModel.from_pretrained(pair[modality]) for modality in ("audio", "text"))
    text.config.text_context = {"utterances": 2, "speakers": True}
    assert join_models(speech, text).config.text_context == {"utterances": 2, "speakers": True}


@pytest.mark.parametrize("informative", [True, False])
def test_the_temperature_has_bounds(pair, informative):
    """Of answers that are all right, any higher confidence would fit better; of those that know nothing, a lower
    one."""
    joined = join_models(*(AutoModel.from_pretrained(pair[modality]) for modality in ("audio", "text")))
    labels = np.arange(70) % 7
    logits = 4 * np.eye(7)[labels if informative else (labels + 1 + np.arange(70) // 7) % 7]
    fit_weights(joined, {"audio": logits, "text": logits}, labels, np.array(["a"] * 70))
    assert joined.config.temperature == (1 if informative else pytest.approx(HIGHEST_TEMPERATURE, rel=1e-3))


def test_the_better_modality_gets_the_weight(pair):
    joined = join_models(*(AutoModel.from_pretrained(pair[modality]) for modality in ("audio", "text")))
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 7, 400)
    noise = generator.normal(size=(2, 400, 7))
    logits = {"audio": 6 * np.eye(7)[labels] + noise[0], "text": 0.2 * np.eye(7)[labels] + noise[1]}
    groups = np.array(["a", "b"] * 200)
    before = joined.text_head.linear.weight.clone()
    sharpen(joined, "text", 2.5)
    torch.testing.assert_close(joined.text_head.linear.weight * 2.5, before)
    fit_weights(joined, logits, labels, groups)
    weights = joined.mixture.weights.softmax(0)
    assert (weights[0] > 0.8).all()
    assert joined.config.temperature > 0
    right = {name: (values.argmax(1) == labels).mean() for name, values in logits.items()}
    assert (mixed(joined, logits).argmax(1) == labels).mean() >= max(right.values())


def test_the_fit_can_read_the_answers_of_twins(pair, corpus_table, tmp_path):
    """With a twin of the text model the weights are other ones, and the heads are still those of the text model."""
    given = [pair["audio"], pair["text"], "--corpus", "csv", "--data_dir", str(corpus_table)]
    twin = BiBiERForEmotionClassification.from_pretrained(pair["text"])
    torch.nn.init.normal_(twin.text_head.linear.weight, generator=torch.Generator().manual_seed(0))
    twin.save_pretrained(tmp_path / "twin")
    BiBiERProcessor.from_pretrained(pair["text"]).save_pretrained(tmp_path / "twin")
    assert exit_code(*given, "--output_dir", str(tmp_path / "one")) == 0
    twins = f"{{text: {tmp_path / 'twin'}}}"
    assert exit_code(*given, "--output_dir", str(tmp_path / "two"), "--fit_with", twins) == 0
    one, two = (BiBiERForEmotionClassification.from_pretrained(tmp_path / name) for name in ("one", "two"))
    assert not torch.equal(one.mixture.weights, two.mixture.weights)
    first, second = (model.text_head.linear.weight / model.text_head.linear.weight.norm() for model in (one, two))
    torch.testing.assert_close(first, second)


def test_a_backbone_trained_whole_is_stored_as_an_adapter(pair, corpus_table, backbones, tmp_path, capsys):
    sources = {name: backbones[f"{name}_backbone"] for name in ("audio", "text")}
    text = BiBiERForEmotionClassification.from_pretrained(pair["text"])
    plain = load_backbone(sources["text"])
    generator = torch.Generator().manual_seed(0)
    for module in plain.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data += 0.1 * torch.randn(module.weight.shape, generator=generator)
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.data *= 1.2
    text.streams["text"].backbone = plain
    text.config.text_config.freeze_backbone = False
    text.save_pretrained(tmp_path / "trained")
    BiBiERProcessor.from_pretrained(pair["text"]).save_pretrained(tmp_path / "trained")

    given = [pair["audio"], str(tmp_path / "trained"), "--corpus", "csv", "--data_dir", str(corpus_table)]
    given += ["--adapter_rank", "{text: 512}", "--output_dir", str(tmp_path / "joined")]
    assert exit_code(*given) == 2
    assert "also name the published text backbone: --backbone_ids" in capsys.readouterr().err

    assert exit_code(*given, "--backbone_ids", f"{{text: {sources['text']}}}") == 0
    joined = BiBiERForEmotionClassification.from_pretrained(tmp_path / "joined").eval()
    assert (tmp_path / "joined" / "text_adapter" / "adapter_model.safetensors").is_file()
    tokens = {"input_ids": torch.tensor([[40, 50, 60]])}
    with torch.no_grad():
        logits = [model.eval()(**tokens).logits[0] for model in (joined, text)]
    torch.testing.assert_close(*(values / values.norm() for values in logits), atol=1e-3, rtol=0)

    plain.get_input_embeddings().weight.data[7] += 1
    text.save_pretrained(tmp_path / "trained")
    again = [tmp_path / "again" if word == str(tmp_path / "joined") else word for word in given]
    assert exit_code(*map(str, again), "--backbone_ids", f"{{text: {sources['text']}}}") == 2
    assert "changed embeddings.word_embeddings.weight, which an adapter does not hold" in capsys.readouterr().err

    joined.config.save_backbones = "always"
    joined.save_pretrained(tmp_path / "whole")
    again = BiBiERForEmotionClassification.from_pretrained(tmp_path / "whole").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**tokens).logits, joined(**tokens).logits)


def test_small_weights_of_a_hidden_layer_keep_their_digits_in_8_bits(tiny_options, backbones, tmp_path):
    options = merged(tiny_options, {"modalities": ["audio"], "audio_config": {"encoder": "statistics"}})
    sources = {name: backbones[f"{name}_backbone"] for name in ("audio", "text")}
    model = BiBiERForEmotionClassification.from_backbones(**sources, **options).eval()
    pooling = model.base_model.audio.encoder.statistics
    linear = pooling.hidden[1]
    torch.manual_seed(0)
    torch.nn.init.normal_(linear.weight, std=0.004)
    statistics = torch.randn(2, 1, linear.in_features)
    with torch.no_grad():
        expected = pooling(statistics, torch.ones(2, 1, dtype=torch.bool))
        rounded = linear.weight.to(torch.float8_e4m3fn).float()
        before = (rounded - linear.weight).norm() / linear.weight.norm()

    save(model, tmp_path, "float8_e4m3fn")
    with torch.no_grad():
        scaled = pooling(statistics, torch.ones(2, 1, dtype=torch.bool))
    torch.testing.assert_close(scaled, expected, atol=3e-2, rtol=0)  # the LayerNorm has an epsilon

    stored = BiBiERForEmotionClassification.from_pretrained(tmp_path).base_model.audio.encoder.statistics.hidden[1]
    after = (stored.weight - linear.weight).norm() / linear.weight.norm()
    assert after < 0.03 < 0.1 < before
    assert torch.equal(stored.bias, linear.bias)
