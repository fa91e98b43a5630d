"""Every fusion with every pair of encoders, and the unimodal models: one contract for all."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification, BiBiERProcessor
from bibier_hf.model.configuration_bibier import FUSIONS, ORIGINAL_BEHAVIOR
from bibier_hf.model.encoders_bibier import ENCODER_LAYERS

from ..conftest import both, features_of, merged

TRAINED = list(ENCODER_LAYERS)
BIMODAL = [
    {
        "fusion": fusion,
        "audio_config": {"encoder": audio},
        "text_config": {"encoder": text},
        "add_unimodal_logits": number % 2 == 1,
    }
    for number, (fusion, (audio, text)) in enumerate(itertools.product(FUSIONS, itertools.product(TRAINED, repeat=2)))
]
UNIMODAL = [
    {"modalities": [modality], f"{modality}_config": {"encoder": encoder}}
    for modality in ("audio", "text")
    for encoder in TRAINED
]
SIZES = merged(
    features_of(audio=6, text=5),
    both(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, mamba_state_size=4),
    {
        "mamba_state_size": 4, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "gated_size": 5,
        "seg_len": 7, "classifier_size": 6,
    },
)  # fmt: skip
LENGTHS = {"audio": [1, 5, 11], "text": [4, 1, 2]}


def name_of(options: dict) -> str:
    values = [next(iter(value.values())) if isinstance(value, dict) else value for value in options.values()]
    return "-".join(str(value[0] if isinstance(value, list) else value) for value in values)


def build(options: dict) -> BiBiERForEmotionClassification:
    torch.manual_seed(1)
    return BiBiERForEmotionClassification(BiBiERConfig(**merged(SIZES, options))).eval()


def features(model: BiBiERForEmotionClassification) -> dict[str, torch.Tensor]:
    """Three samples of mixed lengths, 1 frame and 1 token among them, for the modalities that the model reads."""
    torch.manual_seed(1)
    inputs = {}
    for modality in model.config.modalities:
        lengths = torch.tensor(LENGTHS[modality])
        width = model.config.modality_configs[modality].feature_size
        inputs[f"{modality}_features"] = torch.randn(3, int(lengths.max()) + 2, width)
        inputs[f"{modality}_features_mask"] = (torch.arange(int(lengths.max()) + 2) < lengths[:, None]).long()
    return inputs


@pytest.mark.parametrize("options", BIMODAL + UNIMODAL, ids=name_of)
def test_contract(options: dict, tmp_path: Path):
    model = build(options)
    inputs = features(model)
    with torch.no_grad():
        output = model(**inputs)
        assert output.logits.shape == (3, 7)
        assert output.fused_embedding.shape[0] == 3

        # batch = single, padded = unpadded
        for row in range(3):
            alone = {}
            for modality in model.config.modalities:
                length = LENGTHS[modality][row]
                alone[f"{modality}_features"] = inputs[f"{modality}_features"][row : row + 1, :length]
            torch.testing.assert_close(model(**alone).logits[0], output.logits[row], atol=1e-4, rtol=0)

        # save and load
        model.save_pretrained(tmp_path)
        again = AutoModel.from_pretrained(tmp_path)
        torch.testing.assert_close(again(**inputs).logits, output.logits, atol=0, rtol=0)

        # bf16
        low = model.to(torch.bfloat16)(**inputs)
        torch.testing.assert_close(low.logits.float(), output.logits, atol=0.15, rtol=0.1)


@pytest.mark.parametrize("options", BIMODAL + UNIMODAL, ids=name_of)
def test_every_parameter_gets_a_gradient(options: dict):
    model = build(options).train()
    inputs = features(model)
    if len(model.config.modalities) == 2:  # a sample without each modality, for the sequences that stand in
        inputs["audio_features_mask"][0] = 0
        inputs["text_features_mask"][1] = 0
    else:
        model.config.modality_dropout = 0.0
    model(**inputs, labels=torch.tensor([0, 3, 6])).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("encoder", TRAINED)
def test_torch_compile(fusion: str, encoder: str):
    model = build({"fusion": fusion, **both(encoder=encoder)})
    inputs = features(model)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager")(**inputs).logits
        eager = model(**inputs).logits
    torch.testing.assert_close(
        compiled, eager, atol=5e-5, rtol=0
    )  # eager packs the steps: products of other shapes, rounded otherwise


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_missing_modality(fusion: str):
    model = build({"fusion": fusion, "add_unimodal_logits": True})
    inputs = features(model)
    with torch.no_grad():
        only_audio = model(**{key: value for key, value in inputs.items() if key.startswith("audio")})
        masked = model(**{**inputs, "text_features_mask": torch.zeros_like(inputs["text_features_mask"])})
    torch.testing.assert_close(masked.logits, only_audio.logits, atol=1e-5, rtol=0)
    assert only_audio.text_logits is None
    if fusion == "late":
        torch.testing.assert_close(only_audio.logits, only_audio.audio_logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_original_behavior_runs_on_any_length(fusion: str):
    model = build({"fusion": fusion, "original_behavior": True})
    assert model.config.depends_on_batch
    for audio, text in [(1, 1), (1, 9), (9, 1), (3, 4), (40, 30)]:
        inputs = {"audio_features": torch.randn(1, audio, 6), "text_features": torch.randn(1, text, 5)}
        assert model(**inputs).logits.isfinite().all()


def test_original_behavior_has_every_defect_and_any_can_be_left_out():
    base = features_of(audio=4, text=4)
    corrected, original = BiBiERConfig(**base), BiBiERConfig(**base, original_behavior=True)
    for defect in ORIGINAL_BEHAVIOR:
        assert not corrected.reproduces(defect)
        assert original.reproduces(defect)
        assert BiBiERConfig(**base, original_behavior=[defect]).reproduced_defects == [defect]
        others = [name for name in ORIGINAL_BEHAVIOR if name != defect]
        assert not BiBiERConfig(**base, original_behavior=others).reproduces(defect)
    assert corrected.reproduced_defects == []
    without_gate = [name for name in ORIGINAL_BEHAVIOR if name != "softmax_gate"]
    again = BiBiERConfig.from_dict(BiBiERConfig(**base, original_behavior=without_gate).to_dict())
    assert again.original_behavior == without_gate


def test_every_defect_is_explained():
    assert "[`ORIGINAL_BEHAVIOR`]" in BiBiERConfig.__doc__
    for defect, explanation in ORIGINAL_BEHAVIOR.items():
        assert len(explanation.split()) > 3, defect


def test_a_model_that_depends_on_its_batch_is_never_batched_by_the_pipeline():
    torch.manual_seed(0)
    model = BiBiERForEmotionClassification.from_backbones(
        **both(hidden_size=8),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        original_behavior=True,
    )
    pipe = pipeline("audio-text-emotion", model=model.eval(), processor=BiBiERProcessor.from_backbones(), device="cpu")
    inputs = [{"text": "a"}, {"text": "a much longer text than that"}, {"text": "Привет"}]
    assert pipe(inputs, batch_size=3) == [pipe(item) for item in inputs]


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_unimodal_models_over_backbones(modality: str, tmp_path: Path, clip):
    torch.manual_seed(0)
    sources = {"audio": None, "text": None, modality: "embedded"}
    model = BiBiERForEmotionClassification.from_backbones(
        **sources, modalities=[modality], **{f"{modality}_config": {"hidden_size": 8}}
    ).eval()
    processor = BiBiERProcessor.from_backbones()
    inputs = processor(audio=clip(0.5), text="Привет", sampling_rate=16_000)
    with torch.no_grad():
        output = model(**inputs)
    assert output.logits.shape == (1, 7)
    assert getattr(output, f"{modality}_logits") is output.logits
    other = "text" if modality == "audio" else "audio"
    assert getattr(output, f"{other}_logits") is None
    wrong = processor(text="a") if modality == "audio" else processor(audio=clip(0.5), sampling_rate=16_000)
    with pytest.raises(ValueError, match=rf"\({modality}\)"):
        model(**wrong)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pipe = pipeline(
        "audio-text-emotion",
        model=AutoModel.from_pretrained(tmp_path),
        processor=AutoProcessor.from_pretrained(tmp_path),
    )
    assert len(pipe({"audio": {"raw": clip(0.5), "sampling_rate": 16_000}, "text": "Привет"})) == 7
    with pytest.raises(ValueError, match=f"reads only {modality}"):
        pipe({"text": "a"} if modality == "audio" else {"raw": clip(0.5), "sampling_rate": 16_000})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": ["audio", "video"]}, "modalities"),
        ({"modalities": []}, "modalities"),
        (
            {"modalities": ["audio"], "audio_config": {"encoder": "none"}},
            "an encoder, which a model of audio alone needs",
        ),
        (
            {"audio_config": {"encoder": "transformer", "hidden_size": 9}},
            r"audio_config\.hidden_size=9 .*num_attention_heads",
        ),
        ({"text_config": {"encoder": "lstm", "hidden_size": 9}}, "even"),
        ({"text_config": {"input_projection": False}}, "width of the features"),
        ({"mamba_expand": 0}, r"mamba_expand=0 .* in \(0, "),
    ],
)
def test_refusals(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        BiBiERConfig(**merged(SIZES, options))


REMOTE_LOAD = """
import json, sys

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "bibier_hf":
            raise ModuleNotFoundError("No module named 'bibier_hf'")

sys.meta_path.insert(0, NoPackage())
import torch
from transformers import AutoModel

logits = {}
for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    inputs = torch.load(folder + "/inputs.pt", weights_only=True)
    with torch.no_grad():
        logits[folder] = model(**inputs).logits.tolist()
print(json.dumps(logits))
"""


def test_remote_code_loads_all_of_them_in_one_clean_process(tmp_path: Path):
    expected = {}
    for options in BIMODAL + UNIMODAL:
        model, folder = build(options), tmp_path / name_of(options)
        model.save_pretrained(folder)
        inputs = features(model)
        torch.save(inputs, folder / "inputs.pt")
        with torch.no_grad():
            expected[str(folder)] = model(**inputs).logits
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", REMOTE_LOAD, *expected]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for folder, logits in expected.items():
        torch.testing.assert_close(torch.tensor(found[folder]), logits, atol=1e-5, rtol=0)


def test_inner_widths_are_rounded():
    sizes = both(mamba_expand=0.29, hidden_size=100) | {"mamba_expand": 0.29, "hidden_size": 100}
    model = build({"fusion": "bimamba", "num_attention_heads": 2} | sizes)
    assert model.bibier.audio.encoder.layers[0].block.out_proj.in_features == 29
    assert model.bibier.fusion.blocks[0].out_proj.in_features == 29
