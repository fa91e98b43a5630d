"""Order of the samples and weights of the classes."""

from collections import Counter

import numpy as np
import pytest

from bibier_hf.training.samplers import EpochSampler, class_weights, corpus_weights


def order(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    first = order(EpochSampler(50, seed=1), 3)
    assert sorted(first) == list(range(50))
    np.random.seed(0)
    assert order(EpochSampler(50, seed=1), 3) == first
    assert order(EpochSampler(50, seed=1), 4) != first
    assert order(EpochSampler(50, seed=2), 3) != first
    # a sum of seed and epoch would make these two equal
    assert order(EpochSampler(50, seed=4), 0) != order(EpochSampler(50, seed=3), 1)


def test_corpora_of_any_size_are_drawn_as_often():
    corpora = ["big"] * 9000 + ["small"] * 1000
    sampler = EpochSampler(10_000, seed=0, corpora=corpora)
    drawn = Counter(corpora[index] for index in order(sampler, 0))
    # 10,000 draws with probability 1/2: standard deviation 50
    assert sum(drawn.values()) == 10_000
    assert abs(drawn["small"] - 5000) < 250


def test_corpus_weights_are_one_over_the_size_of_the_corpus():
    assert corpus_weights(["a", "a", "a", "b"]) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])


def test_batches_are_of_similar_length_and_still_cover_everything():
    lengths = np.random.default_rng(0).uniform(1, 20, 1003)
    sampler = EpochSampler(1003, seed=0, lengths=lengths, group_size=8)
    indices = order(sampler, 0)
    assert sorted(indices) == list(range(1003))

    def padding(order):
        batches = [lengths[order[start : start + 8]] for start in range(0, 1000, 8)]
        return sum(batch.max() * 8 - batch.sum() for batch in batches)

    assert padding(indices) < 0.2 * padding(order(EpochSampler(1003, seed=0), 0))
    assert order(sampler, 1) != indices


def test_a_sampler_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="no training sample"):
        EpochSampler(0, seed=0)
    with pytest.raises(ValueError, match="lengths: 2 values for 3 samples"):
        EpochSampler(3, seed=0, lengths=[1, 2])


def test_balanced_class_weights_by_hand():
    # counts 3 and 1: N / (K n_c) = 4/6 and 4/2
    assert class_weights([0, 0, 0, 2], 3, "balanced") == pytest.approx([2 / 3, 0, 2])


def test_sqrt_class_weights_by_hand():
    # 1/sqrt(4) and 1/sqrt(1), scaled so that (4 w0 + w1) / 5 = 1: (4/2 + 1) / 5 = 3/5
    assert class_weights([0, 0, 0, 0, 1], 2, "sqrt") == pytest.approx([0.5 * 5 / 3, 5 / 3])


@pytest.mark.parametrize(("mode", "exponent"), [("balanced", 1.0), ("sqrt", 0.5)])
def test_a_named_mode_is_an_exponent(mode, exponent):
    labels = [0, 0, 0, 1, 1, 2]
    assert class_weights(labels, 3, mode) == class_weights(labels, 3, exponent)


def test_an_exponent_between_weighs_between():
    balanced, between, none = (class_weights([0] * 9 + [1], 2, exponent) for exponent in (1, 0.25, 0))
    assert balanced[1] > between[1] > none[1] == pytest.approx(1)
    assert between[1] / between[0] == pytest.approx(9**0.25)


@pytest.mark.parametrize("mode", ["balanced", "sqrt", 0.3])
def test_the_mean_weight_of_the_draw_is_one(mode):
    generator = np.random.default_rng(0)
    labels = generator.choice(7, 500, p=np.arange(1, 8) / 28)
    corpora = np.where(np.arange(500) < 400, "a", "b")
    samples = corpus_weights(corpora)
    weights = np.array(class_weights(labels, 7, mode, sample_weights=samples))
    assert (weights[labels] * samples).sum() / samples.sum() == pytest.approx(1)


def test_no_class_weights():
    assert class_weights([0, 1], 2, "none") is None
    with pytest.raises(ValueError, match="Unknown class_weights 'equal'"):
        class_weights([0, 1], 2, "equal")


def test_only_pools_of_batches_are_sorted_by_length():
    """Sorting everything would put the same samples into one batch in every epoch."""
    sampler = EpochSampler(4000, seed=0, lengths=list(range(4000)), group_size=10)
    order = np.array(list(sampler)).reshape(-1, 10)
    assert len(np.unique(np.argwhere(order >= 3990)[:, 0])) > 3  # the ten longest are not together
    assert np.ptp(order, axis=1).mean() < 4000 / 20  # but each batch is of similar length
