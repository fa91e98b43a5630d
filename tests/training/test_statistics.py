"""Statistics pooling: standardised over the training set, the same alone and in a batch, refused where there is
nothing to take it from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForAudioClassification, WhisperConfig, WhisperFeatureExtractor

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification
from bibier_hf.data.mixture import load_corpora
from bibier_hf.data.reader import InputReader
from bibier_hf.errors import ArgumentError
from bibier_hf.training.build import build_model
from bibier_hf.training.output import STAGES_FOLDER
from bibier_hf.training.run import run_training

from ..conftest import both, features_of, merged


def test_the_statistics_of_the_training_set_are_in_the_checkpoint(small_run, tiny_options, backbones):
    run = small_run(
        **backbones, model=merged(tiny_options, {"audio_config": {"statistics": True}}), num_train_epochs=1
    )
    run_training(run)
    weights = load_file(f"{run.output_dir}/model.safetensors")
    model, processor, _ = build_model(run)
    rows = InputReader(model, processor, run.feature_cache).split(load_corpora(run.corpora), "train")
    clips = [row["audio_features"].double().numpy() for row in (rows[index] for index in range(len(rows)))]
    levels = (0.1, 0.25, 0.5, 0.75, 0.9)
    expected = np.array(
        [np.concatenate([clip.mean(0), clip.std(0), *np.quantile(clip, levels, axis=0)]) for clip in clips]
    )
    np.testing.assert_allclose(weights["bibier.audio.encoder.statistics.mean"], expected.mean(0), atol=1e-4)
    np.testing.assert_allclose(weights["bibier.audio.encoder.statistics.std"], expected.std(0), rtol=1e-3, atol=1e-6)


def test_a_batch_equals_its_samples_and_one_frame_has_finite_gradients():
    torch.manual_seed(0)
    options = merged(features_of(audio=6, text=5), both(hidden_size=8, statistics=True))
    config = BiBiERConfig(**options, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    model = BiBiERForEmotionClassification(config).eval()
    model.bibier.audio.encoder.statistics.fit(torch.randn(42), torch.rand(42) + 0.5)
    lengths = [1, 4, 9]
    audio, text = torch.randn(3, 9, 6), torch.randn(3, 2, 5)
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    together = model(audio_features=audio, audio_features_mask=mask, text_features=text)
    for row, length in enumerate(lengths):
        alone = model(audio_features=audio[row : row + 1, :length], text_features=text[row : row + 1])
        torch.testing.assert_close(alone.audio_logits[0], together.audio_logits[row], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.logits[0], together.logits[row], atol=1e-5, rtol=0)
    features = audio[:1, :1].requires_grad_()
    model(audio_features=features).audio_logits.sum().backward()
    assert features.grad.isfinite().all()


def small_whisper(folder: Path) -> str:
    """A folder with a tiny Whisper of 16 bands and its front end"""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=8, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=8, num_mel_bins=16, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=8, vocab_size=60, pad_token_id=0, max_source_positions=1500,
    )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=16).save_pretrained(folder)
    return str(folder)


def test_the_cepstrum_is_standardised_trained_and_saved(small_run, tiny_options, backbones, tmp_path):
    options = merged(tiny_options, {"audio_config": {"cepstrum": True, "num_hidden_layers": 0}})
    sources = backbones | {"audio_backbone": small_whisper(tmp_path / "whisper")}
    run = small_run(**sources, model=options, num_train_epochs=1)
    run_training(run)
    model = AutoModelForAudioClassification.from_pretrained(run.output_dir).eval()
    assert model.config.audio_config.feature_size == 8 + 16
    assert model.bibier.audio.encoder.statistics is None
    before, processor, _ = build_model(run)
    rows = InputReader(before, processor, run.feature_cache).split(load_corpora(run.corpora), "train")
    means = torch.stack([rows[index]["audio_features"][:, 8:].mean(0) for index in range(len(rows))])
    torch.testing.assert_close(model.bibier.audio.encoder.cepstrum.mean[:16], means.mean(0), atol=1e-4, rtol=1e-4)
    assert not torch.equal(
        model.bibier.audio.encoder.cepstrum.out.weight, before.bibier.audio.encoder.cepstrum.out.weight
    )
    assert model.backbone_key("audio").endswith(
        "+cepstrum"
    )  # other features than without it: never found in its place
    clips = [
        np.random.default_rng(0).standard_normal(samples).astype(np.float32) / 9 for samples in (16_000, 3_000, 400)
    ]
    with torch.no_grad():
        together = model(**processor(audio=clips, text=["да", None, "no"], sampling_rate=16_000)).logits
        alone = [
            model(**processor(audio=clip, text=text, sampling_rate=16_000)).logits
            for clip, text in zip(clips, ["да", None, "no"], strict=True)
        ]
        silent = model(**processor(text="да")).logits
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    assert silent.isfinite().all()


def test_a_cepstrum_needs_the_spectrum_of_whisper(small_run, tiny_options):
    with pytest.raises(ValueError, match=r"audio_config\.cepstrum=True.*'wav2vec2-bert'.*Whisper's log-mel input"):
        BiBiERConfig.from_backbones(**merged(tiny_options, {"audio_config": {"cepstrum": True}}))
    with pytest.raises(ValueError, match=r"audio_config\.cepstrum=True.*encoder='none'"):
        BiBiERConfig.from_backbones(WhisperConfig(), audio_config={"cepstrum": True, "encoder": "none"}, fusion="late")


def test_a_cepstrum_is_trained_in_two_stages(small_run, tiny_options, backbones, tmp_path):
    cepstrum = {"audio_config": {"cepstrum": True, "num_hidden_layers": 0}}
    options = merged(tiny_options, both(freeze_backbone=True), cepstrum, {"fusion": "late"})
    sources = backbones | {"audio_backbone": small_whisper(tmp_path / "whisper")}
    run = small_run(
        **sources,
        model=options,
        num_train_epochs=1,
        stages={"plan": "two_stage", "folds": 2},
    )
    run_training(run)
    model = AutoModelForAudioClassification.from_pretrained(run.output_dir).eval()
    stage = AutoModelForAudioClassification.from_pretrained(Path(run.output_dir) / STAGES_FOLDER / "audio").eval()
    assert stage.bibier.audio.backbone is None  # the width of the cepstrum is not read off a backbone
    features = torch.randn(2, 9, 8 + 16)
    with torch.no_grad():
        torch.testing.assert_close(model(audio_features=features).audio_logits, stage(audio_features=features).logits)


def test_a_cepstrum_without_a_backbone_has_a_size():
    def config(size: int | None) -> BiBiERConfig:
        options = merged(features_of(audio=24), {"audio_config": {"cepstrum": True, "cepstrum_size": size}})
        return BiBiERConfig(modalities=["audio"], **options)

    assert config(16).audio_config.widths == [8, 16]
    for size in (None, 0, 24):
        with pytest.raises(ValueError, match=f"cepstrum_size={size} .* part of feature_size=24"):
            config(size)
    with pytest.raises(ValueError, match=r"cepstrum_size=16 .* the backbone's 80 mel bins"):
        BiBiERConfig.from_backbones(
            WhisperConfig(), None, modalities=["audio"], audio_config={"cepstrum": True, "cepstrum_size": 16}
        )
    unread = features_of(text=8) | {"audio_config": {"backbone": None, "cepstrum": True}}
    assert BiBiERConfig(modalities=["text"], **unread).audio_config.widths == [0, 0]  # nothing reads it


def test_a_backbone_that_is_trained_has_no_statistics(small_run, tiny_options):
    with pytest.raises(
        ArgumentError, match=r"model\.audio_config\.statistics needs stored features of a frozen backbone"
    ):
        run_training(small_run(model=merged(tiny_options, {"audio_config": {"statistics": True}})))


def whisper_model(layer: int | list[int], encoder: str = "statistics", **options) -> BiBiERForEmotionClassification:
    """A model over a tiny Whisper of 16 bands, with statistics of a text backbone's features."""
    whisper = WhisperConfig(
        d_model=16, num_mel_bins=16, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32,
    )  # fmt: skip
    audio = {"backbone": whisper, "layer": layer, "encoder": encoder, "hidden_size": 8, "freeze_backbone": True}
    torch.manual_seed(0)
    return BiBiERForEmotionClassification(BiBiERConfig(audio_config=audio, fusion="late", **options)).eval()


@torch.no_grad()
def test_several_hidden_states_are_concatenated():
    one, two, both_states = (whisper_model(layer, "none") for layer in (1, -1, [1, -1]))
    for model in (two, both_states):
        model.load_state_dict(one.state_dict(), strict=False)
    mel = torch.randn(2, 40, 16)
    expected = torch.cat([model.encode_audio(mel)[0] for model in (one, two)], dim=-1)
    torch.testing.assert_close(both_states.encode_audio(mel)[0], expected)
    assert both_states.backbone_key("audio").endswith("#1+-1")


@pytest.mark.parametrize("layer", [[], [1, 1], [1, 4], [-2]])
def test_hidden_states_that_do_not_exist_are_refused(layer: list[int]):
    with pytest.raises(ValueError, match=r"audio_config\.layer=.*0\.\.3.*or a list of different ones"):
        whisper_model(layer)


@torch.no_grad()
@pytest.mark.parametrize("cepstrum", [False, True])
def test_statistics_as_features(cepstrum: bool, tmp_path: Path):
    model = whisper_model([1, 3])
    config = model.config.audio_config
    assert (config.feature_size, config.frame_size, config.widths) == (7 * 32, 32, [7 * 32, 0])
    if cepstrum:
        content = config.to_dict() | {"cepstrum": True, "feature_size": None, "encoder": "statistics"}
        model = BiBiERForEmotionClassification(BiBiERConfig(audio_config=content, fusion="late")).eval()
        assert model.config.audio_config.feature_size == 7 * (32 + 16)
    model.bibier.audio.encoder.statistics.fit(torch.randn(config.feature_size + 7 * 16 * cepstrum), torch.tensor(2.0))

    lengths = [1, 40, 25, 0]
    mel = torch.randn(4, 40, 16)
    mask = (torch.arange(40) < torch.tensor(lengths)[:, None]).long()
    together = model(input_features=mel, audio_attention_mask=mask)
    for row, length in enumerate(lengths[:3]):
        alone = model(input_features=mel[row : row + 1, :length])
        torch.testing.assert_close(alone.audio_logits[0], together.audio_logits[row], atol=1e-5, rtol=0)
    assert together.audio_logits[3].tolist() == [0.0] * 7

    features, kept = model.encode_audio(mel, mask)
    assert features.shape == (4, 1, model.config.audio_config.feature_size)
    assert kept.tolist() == [[True], [True], [True], [False]]
    stored = model(audio_features=features, audio_features_mask=kept)
    torch.testing.assert_close(stored.logits, together.logits)

    model.save_pretrained(tmp_path)
    loaded = BiBiERForEmotionClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(input_features=mel, audio_attention_mask=mask).logits, together.logits)


def test_statistics_as_features_have_no_frames_to_crop():
    with pytest.raises(ValueError, match=r"crop_frames=20 is not allowed; it must be None with encoder='statistics'"):
        BiBiERConfig(audio_config={"encoder": "statistics", "crop_frames": 20})


def test_a_run_over_stored_statistics(small_run, tiny_options, backbones):
    """One vector per clip is stored, standardized over the training set, and learned from with mixup."""
    options = {"audio_config": {"encoder": "statistics", "layer": [0, -1]}, "fusion": "late", "mixup_alpha": 0.4}
    run = small_run(**backbones, model=merged(tiny_options, options), num_train_epochs=1)
    run_training(run)
    model, processor, _ = build_model(run)
    rows = InputReader(model, processor, run.feature_cache).split(load_corpora(run.corpora), "train")
    stored = torch.cat([rows[index]["audio_features"] for index in range(len(rows))])
    assert stored.shape == (len(rows), model.config.audio_config.feature_size)
    weights = load_file(f"{run.output_dir}/model.safetensors")
    torch.testing.assert_close(weights["bibier.audio.encoder.statistics.mean"], stored.mean(0), atol=1e-4, rtol=1e-4)
