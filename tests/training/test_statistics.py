"""Statistics pooling: standardised over the training set, the same alone and in a batch, refused where there is nothing to take it from."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification
from bibier_hf.training.arguments import ArgumentError
from bibier_hf.training.fit import build_model, make_inputs
from bibier_hf.training.run import load_corpora, run_training


def test_the_statistics_of_the_training_set_are_in_the_checkpoint(small_run, tiny_options, backbones):
    run = small_run(**backbones, model=tiny_options | {"audio_statistics": True}, num_train_epochs=1)
    run_training(run)
    weights = load_file(f"{run.output_dir}/model.safetensors")
    model, processor = build_model(run, 42)
    rows = make_inputs(load_corpora(run.corpora), model, processor, run.feature_cache)["train"]
    clips = [row["audio_features"].double().numpy() for row in (rows[index] for index in range(len(rows)))]
    levels = (0.1, 0.25, 0.5, 0.75, 0.9)
    expected = np.array([np.concatenate([clip.mean(0), clip.std(0), *np.quantile(clip, levels, axis=0)]) for clip in clips])
    np.testing.assert_allclose(weights["audio_encoder.statistics.mean"], expected.mean(0), atol=1e-4)
    np.testing.assert_allclose(weights["audio_encoder.statistics.std"], expected.std(0), rtol=1e-3, atol=1e-6)


def test_a_batch_equals_its_samples_and_one_frame_has_finite_gradients():
    torch.manual_seed(0)
    options = {"audio_encoder_size": 8, "text_encoder_size": 8, "hidden_size": 8, "num_attention_heads": 2, "num_fusion_layers": 1}
    config = BiBiERConfig(audio_feature_size=6, text_feature_size=5, audio_statistics=True, text_statistics=True, **options)
    model = BiBiERForEmotionClassification(config).eval()
    model.audio_encoder.statistics.fit(torch.randn(42), torch.rand(42) + 0.5)
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


def test_a_backbone_that_is_trained_has_no_statistics(small_run, tiny_options):
    with pytest.raises(ArgumentError, match=r"model\.audio_statistics: needs stored features of a frozen backbone"):
        run_training(small_run(model=tiny_options | {"audio_statistics": True}))
