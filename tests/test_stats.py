"""Statistics against known answers: scipy's tests, counts done by hand, degenerate cases."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from typer.testing import CliRunner

from asc_lib import stats
from asc_lib.cli import app
from asc_lib.files import REPOSITORY
from asc_lib.runs import false_alarms, readable


def outcome(rng, share, seeds=1, clips=600):
    return (rng.random((seeds, clips)) < share).astype(float)


def compared(one, two, location, beds=None):
    places = stats.Places(location, beds=beds)
    return places.estimate(places.shares(one), places.shares(two))


def interval(values, location, weights=None):
    return stats.Places(location, weights).interval(values)


def test_one_clip_per_place_and_one_seed_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    one, two = outcome(rng, 0.62), outcome(rng, 0.55)
    found = compared(one, two, np.arange(600))
    known = scipy_stats.ttest_rel(one[0], two[0])
    assert found.value == pytest.approx(one.mean() - two.mean())
    assert found.p == pytest.approx(known.pvalue)
    assert found.interval == pytest.approx(tuple(known.confidence_interval()))
    alone = scipy_stats.ttest_1samp(one[0], 0).confidence_interval()
    assert interval(one[0], np.arange(600)) == pytest.approx(tuple(alone))


@pytest.mark.parametrize("seeds", [(5, 5), (3, 6), (5, 2)])
def test_where_only_seeds_differ_it_is_welchs_t_test(seeds):
    """Every clip of a seed is right, or wrong, to the same share."""
    rng = np.random.default_rng(1)
    one, two = (np.repeat(rng.random((count, 1)), 50, 1) for count in seeds)
    found = compared(one, two, np.arange(50))
    known = scipy_stats.ttest_ind(one[:, 0], two[:, 0], equal_var=False)
    assert (found.p, found.df) == pytest.approx((known.pvalue, known.df))
    assert stats.Places(np.arange(50)).interval(one)[0] == one.min()  # within what is possible


def test_components_of_places_and_seeds_by_hand():
    """A balanced table, places crossed with seeds: the mean squares of its analysis of variance."""
    rng = np.random.default_rng(2)
    effects = rng.normal(0, 0.3, (1, 40)), rng.normal(0, 0.1, (4, 1)), rng.normal(0, 0.2, (4, 40))
    table = sum(effects)
    places = stats.Places(np.arange(40))
    found = places.estimate(table)
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    by_place, by_seed = 4 * table.mean(0).var(ddof=1), 40 * table.mean(1).var(ddof=1)
    single = np.square(rest).sum() / (3 * 39)
    assert found.error**2 == pytest.approx((by_place + by_seed - single) / 160)
    noise = by_place**2 / 39 + by_seed**2 / 3 + single**2 / (3 * 39)
    assert found.df == pytest.approx((by_place + by_seed - single) ** 2 / noise)


def test_seeds_that_agree_too_well_leave_the_paired_test_of_means():
    rng = np.random.default_rng(3)
    rest = rng.normal(0, 0.2, (2, 5, 60))
    rest -= rest.mean(2, keepdims=True)  # every seed has the same mean
    found = compared(rest[0] + 0.55, rest[1] + 0.5, np.arange(60))
    known = scipy_stats.ttest_rel(rest[0].mean(0) + 0.55, rest[1].mean(0) + 0.5)
    assert (found.p, found.df) == pytest.approx((known.pvalue, 59))


def test_clips_of_a_place_that_all_agree_count_as_one():
    rng = np.random.default_rng(1)
    by_place = outcome(rng, 0.6, clips=60)
    alone = interval(by_place[0], np.arange(60))
    ten_fold = interval(np.repeat(by_place[0], 10), np.repeat(np.arange(60), 10))
    assert ten_fold == pytest.approx(alone, abs=1e-9)


def test_the_interval_is_that_of_whole_places():
    correct = np.repeat([0.0, 1.0], 500)
    by_clip = interval(correct, np.arange(1000))
    by_place = interval(correct, np.repeat(np.arange(10), 100))
    assert by_clip[1] - by_clip[0] < 0.1 < 0.4 < by_place[1] - by_place[0]


def test_weights_count_as_so_many_clips():
    rng = np.random.default_rng(7)
    values, places, weights = rng.random(900), np.arange(900) // 3, rng.integers(1, 5, 900)
    repeated = [np.repeat(each, weights) for each in (values, places)]
    weighted = interval(values, places, weights)
    assert weighted == pytest.approx(interval(*repeated), abs=1e-9)
    assert weighted == interval(values, places, weights.astype("uint8"))  # as records keep them
    assert weighted != pytest.approx(interval(values, places), abs=1e-3)


def test_places_of_different_sizes_weigh_as_their_clips_do():
    """The variance of a ratio: deviations from the mean, times the clips of their place."""
    rng = np.random.default_rng(8)
    location = np.repeat(np.arange(30), rng.integers(1, 9, 30))
    one, two = (outcome(rng, 0.6, 1, len(location)) for _ in range(2))
    found = compared(one, two, location)
    apart = (one - two)[0]
    assert found.value == pytest.approx(apart.mean())
    sums = np.bincount(location, apart - apart.mean())
    assert found.error**2 == pytest.approx(30 / 29 * np.square(sums).sum() / len(location) ** 2)


def test_places_that_all_share_one_bed_in_groups_count_as_so_many_groups():
    rng = np.random.default_rng(9)
    one, two = (rng.random((1, 12)).repeat(5, 1) for _ in range(2))
    beds = np.char.add("bed", np.repeat(np.arange(12), 5).astype(str))
    found = compared(one, two, np.arange(60), beds)
    known = scipy_stats.ttest_rel(one[0, ::5], two[0, ::5])
    assert (found.p, found.df) == pytest.approx((known.pvalue, 11), rel=1e-4)
    own = np.char.add("bed", np.arange(60).astype(str))
    alone = compared(one, two, np.arange(60))
    assert compared(one, two, np.arange(60), own).p == alone.p < found.p
    assert compared(one, two, np.arange(60), np.full(60, "")).p == alone.p


def test_a_place_with_two_beds_is_close_to_the_places_of_both():
    beds = ["a b", "b c", "c d", "e", "e", "f"]
    shared = stats.Places(np.arange(6), beds=beds).shared
    assert [sorted(np.flatnonzero(row)) for row in shared] == [
        *([0, 1], [0, 1, 2], [1, 2]),
        *([3, 4], [3, 4], [5]),
    ]
    clips = ["a", "b", "b", "c"]  # of two clips in a place, each with a bed of its own
    assert stats.Places([0, 0, 1, 1], beds=clips).shared.all()


def test_nothing_to_tell_apart():
    same = outcome(np.random.default_rng(2), 0.5, seeds=1)
    found = compared(same, same, np.arange(600))
    assert (found.value, found.interval, found.p) == (0, (0, 0), 1.0)
    assert stats.mcnemar(same, same) == 1.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("places, beds", [([0] * 600, None), (range(600), ["one"] * 600)])
def test_one_place_or_one_bed_leaves_no_interval(places, beds):
    rng = np.random.default_rng(3)
    found = compared(outcome(rng, 0.9, 5), outcome(rng, 0.1, 5), np.array(places), beds)
    assert found.value > 0.7
    assert np.isnan([*found.interval, found.p, stats.detectable(found.error, found.df)]).all()


def test_where_all_are_right_the_interval_is_the_exact_one():
    exact = scipy_stats.binomtest(7, 7).proportion_ci()  # Clopper and Pearson
    low, high = interval(np.ones(14, bool), np.repeat(np.arange(7), 2))  # seven places
    assert (low, high) == pytest.approx((exact.low, exact.high))
    low, high = interval(np.zeros(7, bool), np.arange(7))
    assert (low, high) == pytest.approx((0, 1 - exact.low))
    assert interval(np.arange(14) > 0, np.arange(14))[1] == 1


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(2, 40), st.floats(0, 1), st.integers(0, 999)
)
def test_the_interval_excludes_zero_where_p_is_under_5_percent(one, two, clips, share, seed):
    rng = np.random.default_rng(seed)
    pair = outcome(rng, share, one, clips), outcome(rng, 0.5, two, clips)
    location = rng.integers(0, 20, clips)
    beds = rng.choice(["", "a", "b c", "c", "d", "e"], clips)
    found, back = compared(*pair, location, beds), compared(*pair[::-1], location, beds)
    if np.isnan(found.p):
        assert len(set(location)) == 1 or stats.Places(location, beds=beds).free < 1e-6
        return
    assert (back.value, float(back.p)) == pytest.approx((-found.value, float(found.p)))
    assert 0 <= found.p <= 1 and found.error**2 >= 0
    low, high = found.interval
    assert low <= found.value <= high
    if abs(found.p - 0.05) > 1e-9:
        assert (found.p < 0.05) == (low > 0 or high < 0)


def test_detectable_is_found_four_times_in_five():
    """The power of the t test, by the noncentral t distribution."""
    for df, comparisons in ((8, 1), (8, 11), (359, 1), (359, 11)):
        size = stats.detectable(np.array(1.0), np.array(df), comparisons)
        critical = scipy_stats.t.ppf(1 - 0.025 / comparisons, df)
        assert scipy_stats.nct.sf(critical, df, size) == pytest.approx(0.8)
    ratio = stats.detectable(1.0, 1e9, 11) / stats.detectable(1.0, 1e9)
    assert ratio == pytest.approx(1.31, abs=0.005)


def test_a_linear_probe_of_labels_with_few_places():
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1, 2], 4)
    features = rng.normal(size=(12, 3)) + 5 * np.eye(3)[targets]
    train, test = np.arange(0, 12, 2), np.arange(1, 12, 2)
    for places in (np.arange(12), targets, targets * 2 + np.tile([0, 0, 1, 1], 3)):
        assert stats.linear_probe(features, targets, train, test, places).mean() > 0.8


def test_false_alarms_are_as_rare_as_promised():
    """Two equally good systems; the ten clips of each place mostly go right or wrong together."""
    rng = np.random.default_rng(4)
    places = stats.Places(np.repeat(np.arange(30), 10))
    hard = rng.beta(1, 1, (1000, 1, 30))
    chances = np.clip(hard + rng.normal(0, 0.2, (2, 1000, 1, 30)), 0, 1)
    one, two = rng.binomial(10, chances) / 10
    assert 30 <= np.sum(places.estimate(one, two).p < 0.05) <= 70  # 50 expected, deviation 7


@pytest.mark.parametrize("scenario", [24, 26, 30])
def test_simulated_false_alarms_are_those_of_the_committed_table(scenario):
    """Five seeds: 2 points, without beds and with 15 points of them; 10 points."""
    committed = pd.read_csv(REPOSITORY / "results" / "false_alarms.csv")
    row, found = committed.iloc[scenario], false_alarms.simulate(scenario, draws=4000)
    assert row["seeds"] == 5 and str(row["of beds"]) == found["of beds"]
    for column in ("false alarms at 5 %", "at 5 %, without beds", "covered"):
        spread = np.sqrt(row[column] * (100 - row[column]) / 4000)
        assert abs(found[column] - row[column]) < 3.5 * spread, column


def test_the_command_writes_the_table(tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_RESULTS", str(tmp_path))
    monkeypatch.setattr(false_alarms, "SCENARIOS", false_alarms.SCENARIOS[:1])
    done = CliRunner().invoke(app, ["simulate"])
    assert done.exit_code == 0 and "false alarms at 5 %" in done.output
    written = pd.read_csv(tmp_path / "false_alarms.csv")
    committed = pd.read_csv(REPOSITORY / "results" / "false_alarms.csv").iloc[:1]
    figures = ["false alarms at 5 %", "at 0.45 %", "at 5 %, without beds", "covered"]
    assert written[figures].iloc[0].tolist() == pytest.approx(
        committed[figures].iloc[0].tolist(), abs=0.02
    )


def test_the_committed_false_alarms_keep_their_bounds():
    table = pd.read_csv(REPOSITORY / "results" / "false_alarms.csv")
    assert len(table) == len(false_alarms.SCENARIOS)
    five = table[table["seeds"] == 5]
    assert five["false alarms at 5 %"].between(4, 6).all() and len(five) == 12
    equal = five[~five["deviation of seeds"].astype(str).str.contains("and")]
    assert equal["at 0.45 %"].between(0.3, 0.55).all() and len(equal) == 9
    assert five["covered"].between(94, 96).all()
    text = pd.read_csv(REPOSITORY / "results" / "false_alarms.csv", dtype=str).iloc[five.index]
    page = (REPOSITORY / "PAPER.md").read_text(encoding="utf-8")
    assert readable.markdown(text.set_index("seeds")) in page


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
    rng = np.random.default_rng(6)
    hard = rng.normal(0.6, 0.2, (1000, 1, 60))
    chances = np.clip(hard + rng.normal(0, 0.08, (2, 1000, 2, 1)), 0, 1)
    one, two = rng.binomial(2, chances) / 2
    assert 15 <= np.sum(stats.Places(np.arange(60)).estimate(one, two).p < 0.05) <= 60


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
