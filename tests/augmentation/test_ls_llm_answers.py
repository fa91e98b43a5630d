"""Reading answers: strictly, and as the published code does (golden vectors); post-processing and blending."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bibier_hf import EMOTIONS
from bibier_hf.augmentation.ls_llm_answers import (
    LS_ORDER,
    AnswerError,
    parse_distribution,
    parse_leniently,
    parse_original,
)
from bibier_hf.llm.reading import UnfinishedAnswerError
from bibier_hf.soft_labels import DistributionError, blend_with_gold, finish_distribution

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "label_smoothing.json").read_text())
GOOD = "0.10000, 0.50000, 0.05000, 0.15000, 0.12000, 0.05000, 0.03000"
NUMBERS = dict(zip(LS_ORDER, map(float, GOOD.split(",")), strict=True))
AS_JSON = json.dumps(NUMBERS)


def in_ls_order(values: np.ndarray) -> list[float]:
    return [float(values[EMOTIONS.index(name)]) for name in LS_ORDER]


@pytest.mark.parametrize("vector", GOLDEN["parse"], ids=lambda vector: vector["response"][:20])
def test_the_original_parser_gives_the_published_numbers(vector):
    assert in_ls_order(parse_original(vector["response"])) == vector["values"]


@pytest.mark.parametrize("vector", GOLDEN["post_no_ties"], ids=lambda vector: str(vector["values"][0]))
def test_post_processing_gives_the_published_numbers(vector):
    values = [vector["values"][LS_ORDER.index(name)] for name in EMOTIONS]
    assert in_ls_order(finish_distribution(values)) == vector["out"]


def test_the_original_parser_is_fooled_where_the_strict_one_refuses():
    answer = "The assistant was wrong: 0.9, 0.1\nanger: 0.5\n-0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1"
    assert in_ls_order(parse_original(answer))[0] == 0.1  # the sign is not seen
    with pytest.raises(AnswerError):
        parse_distribution(answer)
    with pytest.raises(AnswerError, match="no decimal number for each label"):
        parse_leniently("1, 0, 0, 0, 0, 0, 0")


def test_the_strict_parser_reads_what_was_asked_for():
    assert in_ls_order(parse_distribution(GOOD)) == [0.1, 0.5, 0.05, 0.15, 0.12, 0.05, 0.03]
    assert in_ls_order(parse_distribution("1, 0, 0, 0, 0, 0, 0")) == [1, 0, 0, 0, 0, 0, 0]
    assert in_ls_order(parse_distribution(AS_JSON)) == in_ls_order(parse_distribution(GOOD))


@pytest.mark.parametrize(
    "answer",
    [
        f"<think>First 0.9, then {{0.1}}</think>\n\n{GOOD}",
        f"<think>one</think><think>two</think>{AS_JSON}",
        f"<think>a <think>b</think> c</think> {GOOD}",
        f"The template began the thought.</think>{GOOD}",
        f"[THINK]hm[/THINK]{GOOD}",
        f'<think duration="3">First: 0.9</think>{GOOD}',
        f"<seed:think>First: 0.9</seed:think>{GOOD}",
        f"◁think▷First, 0.9◁/think▷{GOOD}",
        f"<|begin_of_thought|>0.9<|end_of_thought|><|begin_of_solution|>{GOOD}<|end_of_solution|>",
        f"<think>0.9</think><answer>{GOOD}</answer>",
        f"<|channel|>analysis<|message|>0.9<|end|><|start|>assistant<|channel|>final<|message|>{GOOD}<|return|>",
        f"analysisWe need seven: 0.9, 0.1assistantfinal{GOOD}",
        f"{GOOD}<|im_end|>",
        f"{GOOD}\n<think>Is that right",
        f"```json\n{AS_JSON}\n```",
        f"```\n{GOOD}\n```",
        f"Here you are:\n```json\n{AS_JSON}\n```\nI hope it helps: ask me.",
        f"```json\n{AS_JSON}",
        f"{AS_JSON}\n\nNote: the speaker sounds {{happy}}.",
        f'{{"emotions": {AS_JSON}, "why": "she laughs: ha"}}',
        AS_JSON.replace('"', "'"),
        AS_JSON.replace('"', ""),
        AS_JSON.replace("happy", "Happiness").replace("anger", "Angry"),
        AS_JSON.replace("}", ",}"),
        f"[{GOOD}]",
        "10%, 50%, 5 %, 15%, 12%, 5%, 3%",
        str({name: f"{100 * value:g}%" for name, value in NUMBERS.items()}),
        "0,1; 0,5; 0,05; 0,15; 0,12; 0,05; 0,03",
        "0,1, 0,5, 0,05, 0,15, 0,12, 0,05, 0,03",
        "\n".join(f"- **{name}**: {str(value).replace('.', ',')}" for name, value in NUMBERS.items()),
    ],
)
def test_what_models_put_around_the_numbers_does_not_matter(answer):
    assert in_ls_order(parse_distribution(answer)) == pytest.approx(list(NUMBERS.values()), abs=1e-12)


def test_an_answer_that_was_cut_off_while_thinking_is_none():
    for parse in (parse_distribution, parse_leniently):
        with pytest.raises(UnfinishedAnswerError, match="cut off"):
            parse(f"<think>Maybe {GOOD}")
        with pytest.raises(UnfinishedAnswerError, match="cut off"):
            parse(f"<|channel|>analysis<|message|>Maybe {GOOD}")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty"),
        ("<think>It is 0.1, 0.2 or</think>", "empty"),
        ("I think she is happy.", "1 parts"),
        (GOOD.rpartition(",")[0], "6 parts"),
        (GOOD + ", 0.0", "8 parts"),
        (GOOD.replace("0.05000", "-0.05000", 1), "outside 0..1"),
        (GOOD.replace("0.05000", "nan", 1), "not a number"),
        ("Here you are: " + GOOD, "not a pair"),
        (GOOD + "\nassistant", "not a number"),
        ("10, 50, 5, 15, 12, 5, 3", "outside 0..1"),
        ("0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1", "add up to 3.1"),
        ('{"neutral": 1.0}', "not the seven emotions"),
        ('{"neutral": ', "not a pair"),
        (json.dumps(dict.fromkeys(LS_ORDER, "much")), "not a number"),
        (json.dumps(dict.fromkeys(LS_ORDER, True)), "not a number"),
        (f"{AS_JSON} or {AS_JSON.replace('0.5', '0.45').replace('0.1,', '0.15,')}", "2 different distributions"),
        ("0,10,0,50,0,05,0,15,0,12,0,05,0,03", "14 parts"),  # decimal commas that could be separators
    ],
)
def test_the_strict_parser_says_what_is_wrong(answer, reason):
    with pytest.raises(AnswerError, match=reason):
        parse_distribution(answer)


@given(
    st.lists(st.floats(-0.01, 1), min_size=7, max_size=7).filter(lambda values: max(values) > 1e-3),
    st.integers(0, 6),
    st.floats(0, 1),
)
def test_a_finished_distribution(values, gold, weight):
    plain = finish_distribution(values)
    blended = finish_distribution(values, gold, weight)
    for probabilities in (plain, blended):
        assert (probabilities >= 0).all()
        units = probabilities * 100_000
        assert np.abs(units - np.rint(units)).max() < 1e-6
        assert int(np.rint(units).sum()) == 100_000
    assert (np.delete(blended, gold) < blended[gold]).all()


def test_rounding_keeps_the_arg_max():
    generator = np.random.default_rng(0)
    for values in [*(1 / 7 + generator.uniform(0, 2e-5, (3000, 7))), np.full(7, 1 / 7)]:
        assert finish_distribution(values).argmax() == values.argmax()


def test_the_gold_weight_is_a_floor():
    probabilities = np.array([0.1, 0.2, 0.1, 0.3, 0.1, 0.1, 0.1])
    np.testing.assert_allclose(blend_with_gold(probabilities, 3, 0.2)[[3, 1]], [0.8 * 0.3 + 0.2, 0.8 * 0.2])
    # Another emotion leads by 0.2: with weight 0.1 it would still lead, so the weight grows to where gold is just
    # ahead.
    np.testing.assert_allclose(blend_with_gold(probabilities, 0, 0.1)[[0, 3]], [0.25, 0.25], atol=5e-5)
    assert blend_with_gold(probabilities, None, None) is probabilities
    with pytest.raises(ValueError, match="give a weight"):
        blend_with_gold(probabilities, None, 0.5)


def test_numbers_that_are_no_distribution():
    for values in ([0] * 7, [-1] * 7, [np.nan] * 7, [[1, 1]]):
        with pytest.raises(DistributionError):
            finish_distribution(values)
