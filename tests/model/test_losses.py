"""Problem types: their losses, the labels that they take, and what the configuration says of them."""

import math

import pytest
import torch

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification
from bibier_hf.model.configuration_bibier import MULTI_LABEL, PROBLEM_TYPES, REGRESSION
from bibier_hf.model.losses_bibier import binary_cross_entropy, ccc_loss
from bibier_hf.model.validation_bibier import CheckpointError

from ..conftest import TINY, features_of, merged

VALUES = {"problem_type": REGRESSION, "id2label": {0: "valence", 1: "arousal"}}
SEVERAL = {"problem_type": MULTI_LABEL, "id2label": {0: "гнев и обида", 1: "радость", 2: "text"}}


def make(**options) -> BiBiERForEmotionClassification:
    torch.manual_seed(0)
    return BiBiERForEmotionClassification(BiBiERConfig(**merged(TINY, features_of(audio=6, text=5), options)))


def slow_ccc(x: list[float], y: list[float]) -> float:
    """The coefficient, number by number."""
    n = len(x)
    mean_x, mean_y = sum(x) / n, sum(y) / n
    var_x = sum((a - mean_x) ** 2 for a in x) / n
    var_y = sum((b - mean_y) ** 2 for b in y) / n
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / n
    return 2 * covariance / (var_x + var_y + (mean_x - mean_y) ** 2)


def test_the_concordance_number_by_number():
    torch.manual_seed(1)
    x, y = torch.randn(9, 2), torch.randn(9, 2) + 0.5
    weights, present = torch.tensor([1.0, 3.0]), torch.tensor([True] * 6 + [False] * 3)
    losses = [1 - slow_ccc(x[:6, target].tolist(), y[:6, target].tolist()) for target in (0, 1)]
    assert float(ccc_loss(x, y, weights, present)) == pytest.approx((losses[0] + 3 * losses[1]) / 4, abs=1e-5)


def test_the_concordance_of_edge_cases():
    ones, many = torch.ones(1), torch.ones(4, dtype=torch.bool)
    x = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
    assert float(ccc_loss(x, x, ones, many)) == pytest.approx(0, abs=1e-6)
    assert float(ccc_loss(-x, x, ones, many)) > 1  # the wrong order
    assert float(ccc_loss(torch.ones(4, 1), torch.ones(4, 1), ones, many)) == 1  # no variance, no concordance
    one = torch.tensor([False, True, False, False])
    assert float(ccc_loss(x + 3, x, ones, one)) == 9  # squared error
    assert float(ccc_loss(x + 3, x, ones, ~many)) == 0

    values = torch.zeros(1, 1, requires_grad=True)
    ccc_loss(values, torch.full((1, 1), 2.0), ones, many[:1]).backward()
    assert values.grad.item() == -4


def test_independent_labels_number_by_number():
    torch.manual_seed(2)
    logits, targets, weights = torch.randn(4, 3), torch.rand(4, 3), torch.tensor([1.0, 0.5, 2.0])
    for row, q, loss in zip(logits, targets, binary_cross_entropy(logits, targets, weights), strict=True):
        terms = []
        for logit, share, weight in zip(row.tolist(), q.tolist(), weights.tolist(), strict=True):
            p = 1 / (1 + math.exp(-logit))
            terms.append(-weight * (share * math.log(p) + (1 - share) * math.log(1 - p)))
        assert float(loss) == pytest.approx(sum(terms) / 3, abs=1e-5)


@pytest.mark.parametrize("options", [VALUES, SEVERAL])
@pytest.mark.parametrize("extra", [{}, {"fusion": "late"}, {"add_unimodal_logits": True, "mixup_alpha": 0.3}])
def test_one_step_of_training(options: dict, extra: dict):
    model = make(**options, **extra).train()
    inputs = {"audio_features": torch.randn(4, 7, 6), "text_features": torch.randn(4, 5, 5)}
    inputs["text_features_mask"] = torch.ones(4, 5, dtype=torch.long)
    inputs["text_features_mask"][1] = 0
    labels = torch.randint(0, 2, (4, model.config.num_labels))
    output = model(**inputs, labels=labels)
    assert output.logits.shape == labels.shape
    output.loss.backward()
    gradients = [layer.weight.grad for layer in model.output_layers()]
    assert all(grad is not None and grad.isfinite().all() for grad in gradients)
    if extra.get("fusion") != "late":
        assert all(grad.abs().sum() > 0 for grad in gradients)


def test_batches_accumulate_by_their_sizes():
    model = make(**VALUES).eval()
    inputs, labels = {"audio_features": torch.randn(6, 7, 6)}, torch.randn(6, 2)
    parts = [slice(0, 4), slice(4, 6)]

    def loss(part: slice, **options) -> float:
        return model(audio_features=inputs["audio_features"][part], labels=labels[part], **options).loss.item()

    expected = (4 * loss(parts[0]) + 2 * loss(parts[1])) / 6
    assert sum(loss(part, num_items_in_batch=6) for part in parts) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "labels", "message"),
    [
        (
            VALUES,
            torch.zeros(3),
            r"shape \(3,\); regression takes \(3, 2\), with a column for each of valence, arousal",
        ),
        (VALUES, torch.full((3, 2), math.nan), "finite numbers"),
        (SEVERAL, torch.full((3, 3), 2.0), r"from 0 \(absent\) to 1"),
        (SEVERAL, torch.zeros(3, dtype=torch.long), r"takes \(3, 3\)"),
        (SEVERAL, torch.full((3, 3), math.nan), r"from 0 \(absent\) to 1"),
    ],
)
def test_labels_that_do_not_fit(options: dict, labels: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        make(**options)(audio_features=torch.randn(3, 7, 6), labels=labels)


def test_one_target_takes_a_plain_column():
    model = make(problem_type=REGRESSION, id2label={0: "valence"}).eval()
    audio, labels = torch.randn(3, 7, 6), torch.randn(3)
    assert model(audio_features=audio, labels=labels).loss == model(audio_features=audio, labels=labels[:, None]).loss


def test_outputs_start_in_the_middle_of_their_ranges(tmp_path):
    model = make(**VALUES, label_ranges=[[1, 7], [-1, 1]])
    assert all(layer.bias.tolist() == [4, 0] for layer in model.output_layers())

    with torch.no_grad():
        model.output_layers()[0].bias.fill_(2.5)
    model.save_pretrained(tmp_path)
    again = BiBiERForEmotionClassification.from_pretrained(tmp_path)
    assert again.output_layers()[0].bias.tolist() == [2.5, 2.5]  # trained values stay
    assert (again.config.problem_type, again.config.label_ranges) == (REGRESSION, [[1, 7], [-1, 1]])

    other = BiBiERForEmotionClassification.from_pretrained(
        tmp_path, id2label={0: "a", 1: "b", 2: "c"}, problem_type=MULTI_LABEL, ignore_mismatched_sizes=True
    )
    assert other.config.label_ranges is None
    assert all(layer.bias.tolist() == [0, 0, 0] for layer in other.output_layers())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problem_type": "ordinal"}, "ordinal"),
        ({"thresholds": [0.5] * 7}, "thresholds.*multi_label_classification"),
        ({**SEVERAL, "thresholds": [0.5]}, "3 numbers from 0 to 1"),
        ({**SEVERAL, "thresholds": [0.5, 0.5, 1.5]}, "3 numbers from 0 to 1"),
        ({**SEVERAL, "label_ranges": [[0, 1]] * 3}, "label_ranges.*regression"),
        ({**VALUES, "label_ranges": [[0, 1]]}, r"2 pairs \[low, high\]"),
        ({**VALUES, "label_ranges": [[0, 1], [1, 1]]}, r"2 pairs \[low, high\]"),
        ({**VALUES, "temperature": 2.0}, "temperature.*regression"),
        ({"id2label": {0: "calm", 1: " Calm "}}, "distinct name"),
        ({"id2label": {0: "calm", 1: "  "}}, "distinct name"),
        ({"id2label": {0: "calm"}}, "num_labels > 1"),
    ],
)
def test_what_the_configuration_refuses(options: dict, message: str):
    with pytest.raises(Exception, match=message):
        BiBiERConfig(**options)


def test_the_default_and_what_a_new_type_resets(tmp_path):
    assert BiBiERConfig().problem_type == BiBiERConfig(problem_type=None).problem_type == PROBLEM_TYPES[0]
    BiBiERConfig(id2label={0: "a", 1: "b"}, temperature=1.5, class_weights=[1, 2]).save_pretrained(tmp_path)
    same = BiBiERConfig.from_pretrained(tmp_path, problem_type=PROBLEM_TYPES[0])
    assert (same.temperature, same.class_weights) == (1.5, [1, 2])

    new = BiBiERConfig.from_pretrained(tmp_path, problem_type=REGRESSION, label_ranges=[[0, 1], [1, 5]])
    assert (new.problem_type, new.temperature, new.class_weights) == (REGRESSION, 1.0, None)
    assert (new.label_names, new.label_ranges) == (["a", "b"], [[0, 1], [1, 5]])
    with pytest.raises(CheckpointError, match="2 pairs"):
        BiBiERConfig.from_pretrained(tmp_path, problem_type=REGRESSION, label_ranges=[[0, 1]])


def test_a_regression_recovers_a_known_function():
    """Valence from 1 to 7 is a curve over the mean of one feature, arousal a product of two."""
    torch.manual_seed(0)

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        audio = torch.randn(count, 1, 48) + 0.1 * torch.randn(count, 4, 48)
        x = audio.mean(1)
        return audio, torch.stack([4 + 3 * torch.tanh(x[:, 0]), torch.sigmoid(x[:, 1]) * x[:, 2]], 1)

    # Wide frames: the encoder normalizes each, which of a few values would leave little.
    encoder = {"audio_config": {"encoder": "transformer", "hidden_size": 32, "dropout": 0.0, "feature_size": 48}}
    model = make(**VALUES, **encoder, modalities=["audio"], label_ranges=[[1, 7], [-4, 4]]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(400):
        audio, targets = draw(64)
        optimizer.zero_grad()
        model(audio_features=audio, labels=targets).loss.backward()
        optimizer.step()

    audio, targets = draw(500)
    with torch.no_grad():
        found = model.eval()(audio_features=audio).logits
    for target in (0, 1):
        assert slow_ccc(found[:, target].tolist(), targets[:, target].tolist()) > 0.95
