"""Statistics against known answers: scipy's tests, counts done by hand, degenerate cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from asc_lib import stats


def outcome(rng, share, seeds=1, clips=600):
    return (rng.random((seeds, clips)) < share).astype(float)


def compared(one, two, places):
    return stats.compare(one, two, *stats.bootstrap([one, two], places))


def test_one_clip_per_place_is_the_textbook_case():
    rng = np.random.default_rng(0)
    one, two = outcome(rng, 0.62), outcome(rng, 0.55)
    found = compared(one, two, np.arange(600))
    known = scipy_stats.ttest_rel(one[0], two[0])
    assert found.difference == pytest.approx(one.mean() - two.mean())
    assert found.p == pytest.approx(known.pvalue, rel=0.25)
    assert found.interval == pytest.approx(tuple(known.confidence_interval()), abs=0.006)
    error = (one[0] - two[0]).std(ddof=1) / np.sqrt(600)
    assert found.detectable == pytest.approx(2.8 * error, rel=0.03)
    low, high = stats.middle(stats.bootstrap([one], np.arange(600))[0])
    assert (low + high) / 2 == pytest.approx(one.mean(), abs=0.003)
    assert high - low == pytest.approx(2 * 1.96 * one[0].std() / np.sqrt(600), rel=0.04)


def test_clips_of_a_place_that_all_agree_count_as_one():
    rng = np.random.default_rng(1)
    by_place = outcome(rng, 0.6, clips=60)
    alone = stats.interval(by_place[0], np.arange(60))
    ten_fold = stats.interval(np.repeat(by_place[0], 10), np.repeat(np.arange(60), 10))
    assert ten_fold == pytest.approx(alone, abs=1e-9)


def test_the_interval_draws_whole_places():
    correct = np.repeat([0.0, 1.0], 500)
    by_clip = stats.interval(correct, np.arange(1000))
    by_place = stats.interval(correct, np.repeat(np.arange(10), 100))
    assert by_clip[1] - by_clip[0] < 0.1 < 0.4 < by_place[1] - by_place[0]


def test_weights_count_as_so_many_clips():
    rng = np.random.default_rng(7)
    values, places, weights = rng.random(90), np.arange(90) // 3, rng.integers(1, 5, 90)
    repeated = [np.repeat(each, weights) for each in (values, places)]
    weighted = stats.interval(values, places, weights)
    assert weighted == pytest.approx(stats.interval(*repeated), abs=1e-9)
    assert weighted != pytest.approx(stats.interval(values, places), abs=1e-3)


def test_seeds_are_drawn_too():
    """Every clip of a seed is right, or wrong: all that varies is the seed."""
    shares = np.array([0, 1, 1, 0, 1, 1.0])
    draws = stats.bootstrap([np.repeat(shares[:, None], 50, 1)], np.arange(50))[0]
    assert draws.std() == pytest.approx(shares.std(ddof=1) / np.sqrt(6), rel=0.03)
    one_seed = stats.bootstrap([np.ones((1, 50))], np.arange(50))[0]
    assert (one_seed == 1).all()


def test_places_of_different_sizes_weigh_as_their_clips_do():
    correct, places = np.array([[1, 1, 1, 0]]), np.array(["a", "a", "a", "b"])
    draws = stats.bootstrap([correct], places)[0]
    assert set(draws) == {0.0, 0.75, 1.0}  # twice b, each once, twice a
    assert [(draws == value).mean() for value in (0.0, 0.75, 1.0)] == pytest.approx(
        [0.25, 0.5, 0.25], abs=0.02
    )


def test_nothing_to_tell_apart():
    same = outcome(np.random.default_rng(2), 0.5, seeds=1)
    found = compared(same, same, np.arange(600))
    assert (found.difference, found.interval, found.p, found.mcnemar) == (0, (0, 0), 1.0, 1.0)


def test_one_place_leaves_no_interval():
    rng = np.random.default_rng(3)
    found = compared(outcome(rng, 0.9), outcome(rng, 0.1), np.zeros(600))
    assert found.difference > 0.7
    assert np.isnan([*found.interval, found.p, found.detectable]).all()


def test_where_all_are_right_the_interval_is_the_exact_one():
    exact = scipy_stats.binomtest(7, 7).proportion_ci()  # Clopper and Pearson
    low, high = stats.interval(np.ones(14, bool), np.repeat(np.arange(7), 2))  # seven places
    assert (low, high) == pytest.approx((exact.low, exact.high))
    low, high = stats.interval(np.zeros(7, bool), np.arange(7))
    assert (low, high) == pytest.approx((0, 1 - exact.low))


def test_a_linear_probe_of_labels_with_few_places():
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1, 2], 4)
    features = rng.normal(size=(12, 3)) + 5 * np.eye(3)[targets]
    train, test = np.arange(0, 12, 2), np.arange(1, 12, 2)
    for places in (np.arange(12), targets, targets * 2 + np.tile([0, 0, 1, 1], 3)):
        assert stats.linear_probe(features, targets, train, test, places).mean() > 0.8


def test_false_alarms_are_as_rare_as_promised():
    """Two equally good systems; the ten clips of each place mostly go right or wrong together."""
    rng, alarms = np.random.default_rng(4), 0
    places = np.repeat(np.arange(30), 10)
    for _ in range(200):
        hard = rng.beta(1, 1, 30)[places]
        one, two = (
            (rng.random((1, 300)) < np.clip(hard + rng.normal(0, 0.2, 30)[places], 0, 1)) * 1.0
            for _ in range(2)
        )
        alarms += compared(one, two, places).p < 0.05
    assert 2 <= alarms <= 22  # 10 expected; this test would raise one in a hundred times at 20


def test_mcnemar_by_hand():
    one = np.array([[1] * 9 + [0] * 2 + [1] * 20 + [0] * 5])
    two = np.array(
        [[0] * 9 + [1] * 2 + [1] * 20 + [0] * 5]
    )  # 9 and 2 clips that only one of them gets right
    assert stats.mcnemar(one, two) == pytest.approx(2 * sum([1, 11, 55]) / 2**11)
    assert stats.mcnemar(two, one) == stats.mcnemar(one, two)
    assert stats.mcnemar(one, one) == 1.0


def test_mcnemar_goes_by_the_majority_of_seeds_and_a_tie_is_not_right():
    one, two = np.repeat([[1], [1]], 12, 1), np.repeat([[0], [1]], 12, 1)
    assert stats.mcnemar(one, two) == pytest.approx(2 / 2**12)  # 2 of 2 against 1 of 2
    assert stats.mcnemar(np.vstack([two, one]), np.vstack([two, two])) == pytest.approx(
        2 / 2**12
    )  # 3 of 4, 2 of 4


def test_mcnemar_does_not_compare_a_majority_with_a_single_training():
    rng = np.random.default_rng(5)
    assert np.isnan(stats.mcnemar(outcome(rng, 0.6, 1), outcome(rng, 0.6, 5)))


def test_with_two_seeds_false_alarms_are_not_many():
    """Two equally good systems, whose trainings differ by 8 points, at 60 places of two clips."""
    rng, alarms = np.random.default_rng(6), 0
    places = np.repeat(np.arange(60), 2)
    for _ in range(100):
        hard = rng.normal(0.6, 0.2, 60)[places]
        one, two = (
            (rng.random((2, 120)) < hard + rng.normal(0, 0.08, (2, 1))) * 1.0 for _ in range(2)
        )
        alarms += compared(one, two, places).p < 0.05
    assert alarms <= 5  # 5 are promised; drawing two of two seeds gives 8


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.01, np.nan, 0.04]) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert stats.holm([0.7, 0.6]) == [1.0, 1.0]
    assert stats.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_order_and_lies_between_one_and_bonferroni(p):
    corrected = stats.holm(p)
    for value, raw in zip(corrected, p):
        assert raw <= value <= min(1, len(p) * raw) + 1e-12
    order = np.argsort(p)
    assert (np.diff(np.array(corrected)[order]) >= 0).all()
