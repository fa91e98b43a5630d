"""Every family of backbones gives a sample the same features alone, padded, in any batch; windows equal windows cut by
hand."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.fft import dct
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from bibier_hf.model import backbones_bibier
from bibier_hf.model.backbones_bibier import (
    build_backbone,
    encode_audio,
    encode_text,
    find_backbone_folder,
    runs_in_equal_lengths,
)
from bibier_hf.model.hashing_bibier import weights_hash

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONVOLUTIONS = {
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "conv_dim": (16,) * 7,
    "mask_time_prob": 0.0,
}


def speech_config(name: str) -> PreTrainedConfig:
    if name == "whisper":
        return AutoConfig.for_model(
            "whisper", d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32, decoder_layers=1,
            decoder_attention_heads=2, decoder_ffn_dim=32, num_mel_bins=8, max_source_positions=100, vocab_size=60_000,
        )  # fmt: skip
    if name == "wav2vec2-bert":
        return AutoConfig.for_model(
            name, **SMALL, feature_projection_input_dim=16, conv_depthwise_kernel_size=3, apply_spec_augment=False
        )
    model_type, norm = name.split("/")
    stable = norm == "layer"
    return AutoConfig.for_model(
        model_type,
        **SMALL,
        **CONVOLUTIONS,
        feat_extract_norm=norm,
        do_stable_layer_norm=stable,
        apply_spec_augment=False,
    )


# ExHuBERT of the study is a HuBERT with layer norms and more layers: hubert/layer.
SPEECH = [
    "wav2vec2/layer",
    "wav2vec2/group",
    "wavlm/layer",
    "wavlm/group",
    "hubert/layer",
    "hubert/group",
    "wav2vec2-conformer/layer",
    "data2vec-audio/layer",
    "wav2vec2-bert",
    "whisper",
]


def speech(name: str):
    torch.manual_seed(0)
    return build_backbone(speech_config(name)).eval()


def text_model(name: str):
    torch.manual_seed(0)
    if name == "modernbert":
        options = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    else:
        options = {"pad_token_id": 0} if name == "bert" else {"pad_token_id": 1}
    if name == "canine":  # characters, no vocabulary; sequences are shortened fourfold inside
        options = {
            "pad_token_id": 0,
            "max_position_embeddings": 128,
            "downsampling_rate": 4,
            "upsampling_kernel_size": 4,
        }
        return build_backbone(
            AutoConfig.for_model(name, **SMALL, num_hash_functions=2, num_hash_buckets=64, **options)
        ).eval()
    config = AutoConfig.for_model(name, **SMALL, vocab_size=50, max_position_embeddings=64, **options)
    return build_backbone(config).eval()


@pytest.mark.parametrize("name", SPEECH)
@pytest.mark.parametrize("layer", [-1, 1])
def test_speech_batch_equals_single(name: str, layer: int):
    backbone = speech(name)
    spectral = name in ("whisper", "wav2vec2-bert")
    lengths = [1, 2, 7, 40, 75] if spectral else [960, 1300, 16_000, 3_000, 16_000]
    bands = {"whisper": (8,), "wav2vec2-bert": (16,)}.get(name, ())
    inputs = torch.zeros(len(lengths), max(lengths), *bands)
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, n in enumerate(lengths):
        inputs[row, :n], mask[row, :n] = torch.randn(n, *bands), 1
    with torch.no_grad():
        together, frames = encode_audio(backbone, inputs, mask, [layer], 30.0)
        for row, n in enumerate(lengths):
            alone, alone_frames = encode_audio(backbone, inputs[row : row + 1, :n], None, [layer], 30.0)
            assert alone_frames.all()
            assert frames[row].sum() == alone.shape[1] >= 1
            torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [*SPEECH, "bert", "xlm-roberta", "modernbert", "jina_embeddings_v3", "canine"])
def test_a_probe_finds_the_backbones_that_mix_padding_in(name: str):
    backbone = speech(name) if name in SPEECH else text_model(name)
    backbone.train()
    frozen = next(backbone.children()).eval()
    calls = []
    backbone.register_forward_hook(lambda *_: calls.append("hook"))
    before = torch.get_rng_state()
    mixes = name.endswith("/group") or name in ("canine", "wav2vec2-conformer/layer", "data2vec-audio/layer")
    assert runs_in_equal_lengths(backbone) == mixes
    assert torch.equal(torch.get_rng_state(), before)
    assert calls == []
    assert len(backbone._forward_hooks) == 1
    assert backbone.training
    assert not any(module.training for module in frozen.modules())
    with torch.device("meta"):
        assert not runs_in_equal_lengths(build_backbone(backbone.config))


@pytest.mark.parametrize(
    ("name", "layer"), [*product(["bert", "xlm-roberta", "modernbert", "jina_embeddings_v3"], [-1, 1]), ("canine", -1)]
)
def test_text_batch_equals_single(name: str, layer: int):
    backbone = text_model(name)
    lengths = [1, 3, 20]
    ids, mask = torch.full((3, 20), backbone.config.pad_token_id), torch.zeros(3, 20, dtype=torch.long)
    for row, n in enumerate(lengths):
        ids[row, :n], mask[row, :n] = torch.randint(3, 50, (n,)), 1
    with torch.no_grad():
        together, kept = encode_text(backbone, ids, mask, [layer])
        for row, n in enumerate(lengths):
            alone, _ = encode_text(backbone, ids[row : row + 1, :n], None, [layer])
            assert kept[row].sum() == n
            torch.testing.assert_close(together[row, :n], alone[0], atol=1e-5, rtol=1e-4)
        padded_on_the_left = torch.cat([ids[1:2, 3:], ids[1:2, :3]], dim=1)
        left, left_kept = encode_text(backbone, padded_on_the_left, mask[1:2].flip(1), [layer])
        torch.testing.assert_close(left[:, :3], together[1:2, :3], atol=1e-5, rtol=1e-4)
        assert left_kept.sum() == 3


@pytest.mark.parametrize("name", ["wav2vec2/layer", "wav2vec2/group", "wav2vec2-bert", "whisper"])
def test_long_audio_equals_windows_cut_by_hand(name: str):
    backbone = speech(name)
    spectral = name in ("whisper", "wav2vec2-bert")
    per_second = {"whisper": 100, "wav2vec2-bert": 50}.get(name, 16_000)
    bands = {"whisper": (8,), "wav2vec2-bert": (16,)}.get(name, ())
    shortest = 1 if spectral else 400
    for total in (per_second, 2 * per_second, 2 * per_second + shortest - 1, 2 * per_second + 3 * shortest):
        clip = torch.randn(1, total, *bands)
        with torch.no_grad():
            features, mask = encode_audio(backbone, clip, None, [-1], 1.0)
            parts = [piece for piece in clip.split(per_second, dim=1) if piece.shape[1] >= shortest]
            expected = torch.cat([encode_audio(backbone, piece, None, [-1], 1.0)[0] for piece in parts], dim=1)
        torch.testing.assert_close(features[mask], expected[0], atol=1e-5, rtol=1e-4)
        assert mask[0, : expected.shape[1]].all()


@pytest.mark.parametrize("name", ["wav2vec2/layer", "wav2vec2/group", "wav2vec2-bert", "whisper"])
def test_windows_are_encoded_a_few_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch):
    """The same features as of all windows at once; the longest call holds no more windows than it may."""
    backbone = speech(name)
    per_second = {"whisper": 100, "wav2vec2-bert": 50}.get(name, 16_000)
    clips = torch.randn(2, round(5.5 * per_second), *{"whisper": (8,), "wav2vec2-bert": (16,)}.get(name, ()))
    mask = torch.arange(clips.shape[1]) < torch.tensor([[clips.shape[1]], [round(2.3 * per_second)]])
    with torch.no_grad():
        features, kept = encode_audio(backbone, clips, mask, [-1], 0.5)
        rows = []
        run = backbones_bibier._run_present
        monkeypatch.setattr(backbones_bibier, "_run_present", lambda *args: rows.append(len(args[2])) or run(*args))
        encode_audio(backbone, clips, mask, [-1], 0.5)
        monkeypatch.setattr(backbones_bibier, "_WINDOWS_AT_ONCE", 1000)
        expected, expected_kept = encode_audio(backbone, clips, mask, [-1], 0.5)
    assert rows == [4, 4, 4, 4, 4, 2, 22]
    torch.testing.assert_close(features[kept], expected[expected_kept], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(kept.sum(1), expected_kept.sum(1))


@pytest.mark.parametrize("name", ["wav2vec2/layer", "wav2vec2/group", "whisper"])
def test_rows_without_audio_are_masked_and_touch_nothing(name: str):
    backbone = speech(name)
    bands = (8,) if name == "whisper" else ()
    inputs = torch.randn(3, 2_000 if not bands else 50, *bands)
    mask = torch.ones(inputs.shape[:2], dtype=torch.long)
    mask[1] = 0
    with torch.no_grad():
        features, kept = encode_audio(backbone, inputs, mask, [-1], 30.0)
        alone, _ = encode_audio(backbone, inputs[:1], None, [-1], 30.0)
        nothing, none_kept = encode_audio(backbone, inputs, torch.zeros_like(mask), [-1], 30.0)
    assert kept.any(1).tolist() == [True, False, True]
    assert features.isfinite().all()
    torch.testing.assert_close(features[0], alone[0], atol=1e-5, rtol=1e-4)
    assert nothing.shape == (3, 1, 32)
    assert not none_kept.any()


@pytest.mark.parametrize("samples", [1, 399, 400, 401])
def test_less_than_one_frame_of_waveform_is_one_frame(samples: int):
    features, mask = encode_audio(speech("wav2vec2/layer"), torch.randn(1, samples), None, [-1], 30.0)
    assert features.shape[1] == mask.sum() == 1


@pytest.mark.parametrize("name", ["wav2vec2/layer", "wav2vec2/group", "whisper"])
def test_what_stands_in_the_padding_does_not_matter(name: str):
    backbone = speech(name)
    lengths = [1, 7, 40] if name == "whisper" else [240, 399, 3_000]
    noise = torch.randn(3, lengths[-1], *((8,) if name == "whisper" else ()))
    mask = torch.arange(lengths[-1]) < torch.tensor(lengths).unsqueeze(1)
    silence = noise * mask.reshape(*mask.shape, *(1,) * (noise.dim() - 2))
    with torch.no_grad():
        features, kept = encode_audio(backbone, noise, mask.long(), [-1], 30.0)
        expected, _ = encode_audio(backbone, silence, mask.long(), [-1], 30.0)
    torch.testing.assert_close(features[kept], expected[kept], atol=1e-5, rtol=0)


def test_whisper_equals_transformers_on_a_full_window():
    torch.manual_seed(0)
    encoder = AutoModel.from_config(speech_config("whisper")).get_encoder().eval()
    mel = torch.randn(2, 200, 8)
    with torch.no_grad():
        theirs = encoder(mel.transpose(1, 2), output_hidden_states=True)
        for layer, expected in [
            (-1, theirs.last_hidden_state),
            (0, theirs.hidden_states[0]),
            (1, theirs.hidden_states[1]),
        ]:
            ours, _ = encode_audio(encoder, mel, None, [layer], 30.0)
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)


def test_the_cepstrum_is_the_cosine_transform_of_the_bands_averaged_over_pairs_of_frames():
    torch.manual_seed(0)
    encoder, lengths = speech("whisper"), [1, 7, 200, 230, 0]  # 230: one window of 200 frames and one of 30
    mel = torch.randn(len(lengths), max(lengths), 8)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    encoder.requires_grad_(False)
    features, kept = encode_audio(encoder, mel, mask, [1], 30.0, with_cepstrum=True)
    plain, plain_mask = encode_audio(encoder, mel, mask, [1], 30.0)
    assert torch.equal(kept, plain_mask)
    torch.testing.assert_close(features[..., :32], plain)
    for row, length in enumerate(lengths):
        coefficients = dct(mel[row, :length].numpy(), axis=1, norm="ortho")
        expected = [coefficients[start : start + 2].mean(0) for start in range(0, length, 2)]
        np.testing.assert_allclose(features[row, kept[row], 32:], np.reshape(expected, (-1, 8)), atol=1e-5)
    nothing, none_kept = encode_audio(encoder, mel, torch.zeros_like(mask), [1], 30.0, with_cepstrum=True)
    assert nothing.shape[-1] == 40
    assert not none_kept.any()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(batch, samples\)"):
        encode_audio(speech("wav2vec2/layer"), torch.randn(1, 50, 8), None, [-1], 30.0)
    with pytest.raises(ValueError, match="audio_attention_mask"):
        encode_audio(speech("wav2vec2/layer"), torch.randn(1, 2_000), torch.ones(1, 1_999), [-1], 30.0)
    with pytest.raises(ValueError, match="input_ids"):
        encode_text(text_model("bert"), torch.tensor([1, 2]), None, [-1])


def test_weights_hash_names_the_weights():
    backbone = text_model("bert")
    before = weights_hash(backbone)
    assert before == weights_hash(text_model("bert"))
    with torch.no_grad():
        next(backbone.parameters())[0, 0] += 1
    assert before != weights_hash(backbone)


def test_backbone_dir(tmp_path):
    (tmp_path / "e5-small").mkdir()
    assert find_backbone_folder(None, "text", "me/e5-small") is None
    assert find_backbone_folder(tmp_path, "text", "me/e5-small") == str(tmp_path / "e5-small")
    assert find_backbone_folder({"audio": tmp_path}, "text", "me/e5-small") is None
    with pytest.raises(FileNotFoundError, match="me/other"):
        find_backbone_folder(tmp_path, "text", "me/other")
