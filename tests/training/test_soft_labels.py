"""Soft targets: loss and gradient by hand, arg-max mode, draws by epoch, label tables joined to a corpus, whole
runs."""

import json

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from torch.utils.data import DataLoader

from bibier_hf import EMOTIONS
from bibier_hf.data.collator import FeatureCollator
from bibier_hf.data.corpora import load_corpus
from bibier_hf.data.label_tables import (
    attach_label_tables,
    attach_soft_labels,
    mean_label_table,
    read_label_table,
)
from bibier_hf.data.tables import CorpusError
from bibier_hf.errors import ArgumentError
from bibier_hf.training.arguments import run_arguments
from bibier_hf.training.rows import SoftTargets, StoredDraws, TrainingRows
from bibier_hf.training.run import run_training
from bibier_hf.training.trainer import BiBiERTrainer

from .conftest import SPECS, run_inputs


def targets(data, epoch=0, **options):
    """Labels of a batch of all rows in an epoch, under the given options of `SoftTargets`."""
    rows = smoothed(data, **options)
    rows.set_epoch(epoch)
    return labels_of(rows)


def smoothed(data, **options):
    return TrainingRows([data], SoftTargets(7, **options))


def labels_of(rows):
    return FeatureCollator(SPECS)(rows.__getitems__(range(len(rows))))["labels"]


def test_loss_and_gradient_equal_a_hand_computation(feature_model, feature_rows):
    """-sum_c w_c q_c log p_c over samples, divided by their number, for the fused and (at its weight) each unimodal
    head."""
    weights = [0.5, 2.0, 1.0, 1.5, 0.25, 1.0, 0.75]
    model = feature_model(class_weights=weights, unimodal_loss_weight=0.0)
    batch = FeatureCollator(SPECS)(smoothed(feature_rows(6)).__getitems__([0, 1, 2, 3]))
    output = model(**batch)
    output.logits.retain_grad()
    output.loss.backward()
    logits, q = output.logits.detach().double().numpy(), batch["labels"].double().numpy()
    loss, gradient = 0.0, np.zeros_like(logits)
    for row in range(4):
        p = np.exp(logits[row]) / np.exp(logits[row]).sum()
        for c in range(7):
            loss -= weights[c] * q[row, c] * np.log(p[c]) / 4
            for k in range(7):
                gradient[row, k] -= weights[c] * q[row, c] * ((c == k) - p[k]) / 4
    assert output.loss.item() == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(output.logits.grad.numpy(), gradient, atol=1e-6)


def test_argmax_mode_is_exactly_a_hard_label(feature_model, feature_rows):
    data = feature_rows()
    soft = [value for value in data.metadata["soft_label"]]
    expected = [
        label if value is None else int(np.argmax(value)) for label, value in zip(data.labels, soft, strict=True)
    ]
    found = targets(data, mode="argmax")
    assert torch.equal(found, torch.nn.functional.one_hot(torch.tensor(expected), 7).float())
    batch = FeatureCollator(SPECS)(data.__getitems__(range(len(data))))
    model = feature_model()
    assert model(**(batch | {"labels": found})).loss == model(**(batch | {"labels": torch.tensor(expected)})).loss


def test_a_row_without_a_soft_label_keeps_its_gold_label(feature_rows):
    data = feature_rows()
    found = targets(data)
    for label, soft, target in zip(data.labels, data.metadata["soft_label"], found, strict=True):
        expected = np.eye(7)[label] if soft is None else soft
        np.testing.assert_allclose(target, expected, atol=1e-6)
    gold = targets(data, probability=0.0)
    assert torch.equal(gold.argmax(1), torch.tensor(data.labels))
    assert torch.equal(gold.max(1).values, torch.ones(len(data)))
    assert torch.equal(labels_of(data), torch.tensor(data.labels))


def test_the_gold_label_is_mixed_in(feature_rows):
    data = feature_rows()
    plain, mixed = targets(data), targets(data, gold_weight=0.5)
    for target, soft in zip(plain, data.metadata["soft_label"], strict=True):
        assert soft is None or target.numpy() == pytest.approx(soft)
    np.testing.assert_allclose(mixed, 0.5 * plain.numpy() + 0.5 * np.eye(7)[data.labels], atol=1e-6)


def test_the_dev_loss_knows_gold_labels_alone(feature_model, feature_rows, tmp_path):
    content = {"corpora": [{"name": "a"}], "output_dir": str(tmp_path / "run"), "use_cpu": True, "disable_tqdm": True}
    run = run_arguments(content | {"soft_labels": True, "class_weights": "none"})
    dev = feature_rows(14, 1)
    assert any(soft is not None for soft in dev.metadata["soft_label"])
    model = feature_model(unimodal_loss_weight=0.0)
    trainer = BiBiERTrainer(run, model, run_inputs(feature_rows(24, 0), dev))
    found = trainer.evaluate()["eval_loss"]
    batch = FeatureCollator(SPECS)(dev.__getitems__(range(14)))
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    gold = torch.nn.functional.cross_entropy(logits, torch.tensor(dev.labels)).item()
    soft = torch.nn.functional.cross_entropy(logits, targets(dev)).item()
    assert found == pytest.approx(gold, rel=1e-5)
    assert found != pytest.approx(soft, rel=1e-2)
    assert trainer.train_corpora == list(feature_rows(24, 0).metadata["corpus"])  # two, drawn from alike
    # while training does read them
    assert trainer.train_dataset.__getitems__([1])[0]["target"] == pytest.approx(
        feature_rows(24, 0).metadata["soft_label"][1]
    )


def test_several_tables_of_a_corpus_count_as_their_mean(labelled_corpus):
    splits, path = labelled_corpus
    other = path.with_name("other.csv")
    lines = [line.split(",") for line in path.read_text().splitlines()[:-1]]
    uniform = [[*line[:2], "", *[str(1 / 7)] * 7] for line in lines[1:]]
    other.write_text("\n".join(map(",".join, [lines[0], *uniform])) + "\n")
    attached, facts = attach_label_tables({"small": splits}, [[str(path), str(other)]])
    first, _ = attach_label_tables({"small": splits}, [[str(path)]])
    for mean, one in zip(attached["small"]["train"]["soft_label"], first["small"]["train"]["soft_label"], strict=True):
        assert (mean is None) == (one is None)
        if one is not None:
            np.testing.assert_allclose(mean, (np.array(one) + 1 / 7) / 2, atol=2e-5)  # five decimals
    assert facts["small"]["table"] == "labels.csv, other.csv"


@pytest.mark.parametrize(
    ("options", "attribute", "value"),
    [
        ({"smoothing_probability": 0.25}, "probability", 0.25),
        ({"label_smoothing_mode": "argmax"}, "mode", "argmax"),
        ({"gold_weight": 0.3}, "gold_weight", 0.3),
        ({"seed": 7}, "seed", 7),
    ],
    ids=str,
)
def test_options_of_soft_labels_reach_the_training_set(
    feature_model, feature_rows, tmp_path, options, attribute, value
):
    content = {"corpora": [{"name": "a"}], "output_dir": str(tmp_path), "use_cpu": True, "soft_labels": True}
    trainer = BiBiERTrainer(
        run_arguments(content | options), feature_model(), run_inputs(feature_rows(), feature_rows(14, 1))
    )
    assert getattr(trainer.train_dataset.soft_targets, attribute) == value
    assert "target" not in trainer.eval_dataset[0]


def test_draws_follow_from_seed_epoch_and_id_alone(feature_rows):
    data = feature_rows(70)
    epochs = [targets(data, epoch, probability=0.5, seed=1) for epoch in (0, 1, 0)]
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], targets(data, probability=0.5, seed=2))
    # The order of the rows does not matter.
    order = np.random.default_rng(0).permutation(len(data))
    assert torch.equal(targets(data.select(order), probability=0.5, seed=1), epochs[0][order])
    rarely = SoftTargets(7, probability=0.3, seed=7)
    shares = [np.mean([rarely.draws_soft(f"row{row}", epoch) for row in range(2000)]) for epoch in range(3)]
    assert all(abs(share - 0.3) < 0.05 for share in shares)
    assert not any(SoftTargets(7, probability=0.0).draws_soft(str(row), 0) for row in range(100))
    assert all(SoftTargets(7, probability=1.0).draws_soft(str(row), 0) for row in range(100))


def test_workers_that_live_on_see_the_next_epoch(feature_rows):
    data = feature_rows(30)
    expected = [targets(data, epoch, probability=0.5) for epoch in range(2)]
    rows = smoothed(data, probability=0.5)
    loader = DataLoader(rows, batch_size=10, num_workers=1, persistent_workers=True, collate_fn=FeatureCollator(SPECS))
    for epoch in range(2):
        rows.set_epoch(epoch)
        assert torch.equal(torch.cat([batch["labels"] for batch in loader]), expected[epoch])


def test_rows_that_change_with_the_epoch_do_so_under_their_targets(feature_rows):
    pool = feature_rows(8)
    rows = TrainingRows([StoredDraws(pool, [[0, 1, 2, 3], [4, 5, 6, 7]])], SoftTargets(7))
    for epoch in range(3):
        rows.set_epoch(epoch)
        own = range(4 * (epoch % 2), 4 * (epoch % 2) + 4)
        assert torch.equal(labels_of(rows), targets(pool)[list(own)])


@pytest.fixture
def labelled_corpus(corpus_table):
    """(corpus, table of soft labels for half of its training rows)"""
    splits = load_corpus("csv", corpus_table)
    rows = list(zip(splits["train"]["id"], splits["train"]["label"], strict=True))[::2]
    table = corpus_table.with_name("labels.csv")
    lines = [",".join(["id", "label", "prediction", *EMOTIONS])]
    for row_id, label in rows:
        values = [0.05 + 0.65 * (index == label) for index in range(7)]
        lines.append(",".join([row_id, EMOTIONS[label], EMOTIONS[label], *(f"{value:.5f}" for value in values)]))
    lines += [f"unknown,happy,,{',' * 6}"]
    table.write_text("\n".join(lines) + "\n")
    return splits, table


def test_labels_are_joined_by_id(labelled_corpus):
    splits, path = labelled_corpus
    joined, facts = attach_soft_labels(splits, read_label_table(path))
    train = joined["train"]
    assert train.features == splits["train"].features
    assert [soft is not None for soft in train["soft_label"]] == [index % 2 == 0 for index in range(len(train))]
    assert int(np.argmax(train["soft_label"][2])) == train["label"][2]
    assert {name: facts[name] for name in ("rows", "soft", "hard", "unused", "other_gold")} == {
        "rows": 14,
        "soft": 7,
        "hard": 7,
        "unused": 0,
        "other_gold": 0,
    }
    assert joined["dev"]["soft_label"] == splits["dev"]["soft_label"]
    with open(path, "a") as file:
        file.write(
            f"of another corpus,happy,happy,0,0,0,1,0,0,0\n{splits['train']['id'][1]},surprise,,0,0,0,0,0,0,1\n"
        )
    _, facts = attach_soft_labels(splits, read_label_table(path))
    assert (facts["soft"], facts["unused"], facts["other_gold"]) == (8, 1, 1)
    with pytest.raises(CorpusError, match="none of the 9 ids"):
        attach_soft_labels(DatasetDict(train=splits["dev"]), read_label_table(path))


def test_of_several_tables_the_mean_counts(labelled_corpus, tmp_path):
    splits, path = labelled_corpus
    other = tmp_path / "others.csv"
    rows = list(zip(splits["train"]["id"], splits["train"]["label"], strict=True))
    flat = ",".join(["0.1", "0.4"] + ["0.1"] * 5)
    other.write_text(
        "\n".join(
            ["id,label," + ",".join(EMOTIONS), *(f"{row_id},{EMOTIONS[label]},{flat}" for row_id, label in rows)]
        )
    )
    table = mean_label_table([read_label_table(path), read_label_table(other)])
    found = table.soft_labels()
    for index, (row_id, label) in enumerate(rows):  # every second row stands in the second table alone
        first = np.full(7, 0.05) + 0.65 * np.eye(7)[label]
        second = np.array([float(value) for value in flat.split(",")])
        np.testing.assert_allclose(found[row_id], (first + second) / 2 if index % 2 == 0 else second, atol=1e-5)
    assert len(found) == len(rows)
    assert set(table.ids) == {"unknown", *(row_id for row_id, _ in rows)}
    assert table.labels[table.ids.index("unknown")] == EMOTIONS.index("happy")
    assert table.predictions[table.ids.index("unknown")] == -1
    assert table.predictions[table.ids.index(rows[1][0])] == 1
    _, facts = attach_soft_labels(splits, table)
    assert (facts["table"], facts["soft"], facts["other_gold"]) == ("labels.csv, others.csv", 14, 0)


@pytest.mark.parametrize(
    "augmentation", [{}, {"sds": {"share": 1.0, "target_s": 0.6, "draws": 2}}], ids=["plain", "stacked"]
)
def test_a_run_trains_on_a_table(labelled_corpus, corpus_table, tmp_path, tiny_options, augmentation):
    _, path = labelled_corpus
    content = {
        "output_dir": str(tmp_path / "soft"),
        "corpora": [
            {"name": "csv", "data_dir": str(corpus_table), "label_table": str(path), "augmentation": augmentation}
        ],
        "soft_labels": True,
        "smoothing_probability": 0.5,
        "gold_weight": 0.2,
        "model": tiny_options,
        "num_train_epochs": 2,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    results = run_training(run_arguments(content))
    (facts,) = results.soft_labels.values()
    assert (facts["soft"], facts["hard"]) == (7, 7)
    text = json.dumps(json.loads((tmp_path / "soft" / "results.json").read_text()))
    assert results.config["corpora"][0]["label_table"] == "labels.csv"
    assert str(tmp_path) not in text
    run = run_arguments(content)
    run.corpora[0].label_table = [str(path), str(tmp_path / "others.csv")]
    assert run.corpora[0].label_tables == run.corpora[0].label_table
    assert run.public_dump()["corpora"][0]["label_table"] == ["labels.csv", "others.csv"]
    with pytest.raises(ArgumentError, match="soft_labels is false"):
        run_arguments(content | {"soft_labels": False})
    with pytest.raises(ArgumentError, match="label_smoothing_mode"):
        run_arguments(content | {"label_smoothing_mode": "hard"})
