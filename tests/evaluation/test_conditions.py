"""Disturbed speech in an evaluation: what is disturbed, that it depends on the clip only, and paired losses."""

import numpy as np
import pytest

from bibier_hf.commandline import Section
from bibier_hf.data.disturbances import Conditions, Voices, mix, under_condition
from bibier_hf.data.features import InputDataset, raw_inputs
from bibier_hf.data.mixture import FeatureCacheArguments
from bibier_hf.data.reader import InputReader
from bibier_hf.errors import ArgumentError
from bibier_hf.evaluation.bootstrap import bootstrap_column
from bibier_hf.evaluation.conditions import compared_with_clean, losses_table, score_conditions
from bibier_hf.evaluation.report import Predictions
from bibier_hf.model.audio_bibier import decode_audio


@pytest.fixture(scope="module")
def rows(make_row, make_splits, voice):
    """Eight rows: the third a text alone, the fourth silence."""
    samples = [voice(110 + 20 * number, number, 0.3 + 0.05 * number) for number in range(8)]
    samples[2], samples[3] = None, np.zeros(4000, np.float32)
    return make_splits([make_row(number, "test", number % 7, samples[number]) for number in range(8)])["test"]


@pytest.fixture(scope="module")
def clean(rows) -> InputDataset:
    return raw_inputs({"test": rows})["test"]


def noisy(rows, condition: str, seed: int = 0) -> InputDataset:
    return raw_inputs({"test": under_condition(rows, condition, seed)}, Voices(rows))["test"]


def snr_db(clean: np.ndarray, noisy: np.ndarray) -> float:
    return 10 * np.log10(np.mean(clean.astype(float) ** 2) / np.mean((noisy.astype(float) - clean) ** 2))


@pytest.mark.parametrize("level", [30.0, 5.0, 0.0, -10.0])
def test_the_ratio_is_what_was_asked_for(clip, level):
    samples = clip(1.0)
    noise = np.random.default_rng(0).standard_normal(len(samples))
    assert snr_db(samples, mix(samples, noise, level)) == pytest.approx(level, abs=0.01)


def test_without_power_there_is_no_ratio(clip):
    silence, samples = np.zeros(100, np.float32), clip(1.0)
    assert mix(silence, np.ones(100), 0) is silence
    assert mix(samples, np.zeros(len(samples)), 0) is samples


@pytest.mark.parametrize("kind", ["white", "babble"])
def test_noise_depends_on_clip_and_seed_alone(rows, kind):
    condition = f"{kind}:5"
    expected = [row["audio"] for row in noisy(rows, condition).__getitems__(range(8))]
    order = [5, 0, 7, 2, 1]
    shuffled = [row["audio"] for row in noisy(rows, condition).__getitems__(order)]
    moved = noisy(rows.select([7, 6, 5, 4, 3, 2, 1, 0]), condition)
    for place, index in enumerate(order):
        if index == 2:
            assert shuffled[place] is expected[index] is None
        else:
            np.testing.assert_array_equal(shuffled[place]["array"], expected[index]["array"])
            np.testing.assert_array_equal(moved[7 - index]["audio"]["array"], expected[index]["array"])
    other = noisy(rows, condition, seed=1)
    assert not np.array_equal(other[0]["audio"]["array"], expected[0]["array"])
    assert not np.allclose(expected[0]["array"][:4000], expected[1]["array"][:4000])


@pytest.mark.parametrize("kind", ["white", "babble"])
def test_rows_keep_all_but_their_clean_audio(rows, clean, kind):
    disturbed = noisy(rows, f"{kind}:10")
    for index in range(8):
        row, before = disturbed[index], clean[index]
        assert (row["text"], row["label"]) == (before["text"], before["label"])
        if index == 3:
            np.testing.assert_array_equal(row["audio"]["array"], np.zeros(4000))
        elif index != 2:
            samples = decode_audio(before["audio"])
            assert snr_db(samples, decode_audio(row["audio"])) == pytest.approx(10, abs=0.05)


def test_every_level_scales_the_same_noise(rows, clean):
    samples = decode_audio(clean[0]["audio"]).astype(float)
    loud, quiet = (noisy(rows, f"white:{level}")[0]["audio"]["array"] - samples for level in (0, 20))
    np.testing.assert_allclose(loud, 10 * quiet, atol=1e-5)


def test_babble_needs_others(make_row, make_splits, voice):
    alone = make_splits([make_row(0, "test", 0, voice(100, 0))])["test"]
    with pytest.raises(ValueError, match="needs other clips"):
        noisy(alone, "babble:5")[0]


@pytest.mark.parametrize("cached", [True, False])
def test_conditions_are_scored_on_the_same_rows(rows, model, processor, tmp_path, cached):
    reader = InputReader(model, processor, FeatureCacheArguments(enabled=cached, directory=str(tmp_path)))
    corpora = {"planted": {"test": rows}}
    found = score_conditions(model, reader, corpora, "test", ["white:5", "speed:0.9"], 1.0)
    for key in ("conditions", "conditions_audio"):
        scores = found[key]["test"]["planted"]
        assert list(scores) == ["clean", "white:5", "speed:0.9"]
        assert all(values["samples"] == 7 for values in scores.values())  # without the text alone
        assert scores["clean"]["nll"] != scores["white:5"]["nll"] != scores["speed:0.9"]["nll"]
    assert found["conditions_settings"]["test"] == {"seed": 0, "intervals_over": {"planted": "clips"}}

    again = score_conditions(model, reader, corpora, "test", ["speed:0.9"], 1.0)
    assert again["conditions"]["test"]["planted"]["speed:0.9"] == found["conditions"]["test"]["planted"]["speed:0.9"]
    if cached:
        folder = next(path for path in tmp_path.iterdir() if path.name.startswith("input_features"))
        assert len(list(folder.glob("*.safetensors"))) == 3  # clean and two conditions, each computed once


def test_losses_are_paired(rows):
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 7
    clean = np.eye(7)[labels] * 0.9 + 0.1 / 7
    worse = clean.copy()
    worse[:60] = np.eye(7)[(labels[:60] + 1) % 7]
    ids, corpora, languages = [f"{number}" for number in range(300)], ["x"] * 300, ["en"] * 300
    names = tuple("abcdefg")
    answers = {
        name: Predictions(ids, corpora, languages, labels, probabilities, names)
        for name, probabilities in (("clean", clean), ("same", clean), ("worse", worse))
    }
    groups = [str(number) for number in generator.integers(0, 30, 300)]
    scores = compared_with_clean(answers, groups)
    assert "loss" not in scores["clean"]
    same, loss = scores["same"]["loss"]["uar"], scores["worse"]["loss"]["uar"]
    assert (same["difference"], same["lower"], same["upper"]) == (0, 0, 0)
    assert loss["difference"] == pytest.approx(0.2, abs=0.005)
    assert 0.1 < loss["lower"] < 0.2 < loss["upper"] < 0.3
    table = losses_table({"x": scores})
    assert "| x | clean | 100.0 | 100.0 to 100.0 |  |  |" in table
    assert "| x | worse | 80.0 |" in table


def test_what_the_bootstrap_draws(rows):
    assert bootstrap_column(rows) == "id"
    spoken = rows.remove_columns("speaker").add_column("speaker", list("aabbccdd"))
    assert bootstrap_column(spoken) == "speaker"
    said = spoken.remove_columns("dialogue").add_column("dialogue", list("aaaabbbb"))
    assert bootstrap_column(said) == "dialogue"
    single = said.remove_columns("dialogue").add_column("dialogue", list("aaaaaaaa"))
    assert bootstrap_column(single) == "speaker"  # every draw of a single dialogue would be the same


class Options(Section):
    conditions: Conditions = []


@pytest.mark.parametrize(
    "words", [["white:20", "g711", "gain:-20"], ["white:20,g711,gain:-20"], ["[white:20, g711, gain:-20]"]]
)
def test_conditions_on_a_command_line(words):
    assert Options.from_command_line(["--conditions", *words]).conditions == ["white:20", "g711", "gain:-20"]


def test_all_is_ten_conditions():
    assert len(Options.from_command_line(["--conditions", "all"]).conditions) == 10
    assert Options.from_command_line(["--conditions", "white:0", "all"]).conditions[0] == "white:0"
    with pytest.raises(ArgumentError, match="given twice"):
        Options.from_command_line(["--conditions", "all", "g711"])
    with pytest.raises(ArgumentError, match="given twice"):
        Options.from_command_line(["--conditions", "[gain:-6+g711, gain:-6 + g711]"])
