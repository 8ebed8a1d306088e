"""Summaries over seeds, effect sizes, and tests of pairs with their correction."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from moofusion.comparison.pairwise import MANN_WHITNEY, WILCOXON, pairwise_tests
from moofusion.comparison.statistics import a12, holm, summarize
from moofusion.errors import ConfigurationError, UnknownNameError


def same_seeds(samples):
    return {name: range(len(values)) for name, values in samples.items()}


def three(n, rng, spread=(0.0, 0.3, 0.9)):
    return {name: rng.normal(shift, 0.5, n) for name, shift in zip("abc", spread, strict=True)}


# Summaries


def test_summary_of_values_computed_by_hand():
    found = summarize([8, 1, 2, 4, 3, 5, 7, 6])
    assert (found.n, found.mean, found.median, found.iqm) == (8, 4.5, 4.5, 4.5)
    assert (found.q1, found.q3, found.iqr) == (2.75, 6.25, 3.5)
    assert found.std == pytest.approx(np.sqrt(6))
    assert summarize([0, 1, 2, 3, 1000]).iqm == 2
    assert 2 <= found.iqm_low < 4.5 < found.iqm_high <= 7


def test_the_bootstrap_interval_depends_on_the_seed_alone(rng):
    x = rng.normal(size=10)
    before = x.copy()
    assert summarize(x, seed=3) == summarize(x[::-1], seed=3)
    assert summarize(x, seed=3) != summarize(x, seed=4)
    assert np.array_equal(x, before)
    wide, narrow = summarize(x, confidence=0.99), summarize(x, confidence=0.5)
    assert wide.iqm_low < narrow.iqm_low < narrow.iqm_high < wide.iqm_high


def test_the_interval_covers_as_often_as_it_says(rng):
    hits = [
        found.iqm_low <= 0 <= found.iqm_high
        for found in (summarize(rng.normal(size=30), resamples=300) for _ in range(200))
    ]
    assert 0.85 <= np.mean(hits) <= 0.99


def test_equal_values_have_an_interval_of_no_width():
    found = summarize([0.3] * 5)
    assert (found.std, found.iqr) == (0, 0)
    assert found.iqm_low == found.iqm == found.iqm_high == pytest.approx(0.3)


def test_a_single_run_has_no_spread():
    found = summarize([0.3])
    assert found.mean == found.median == found.iqm == 0.3
    assert np.isnan([found.std, found.iqm_low, found.iqm_high]).all()


@pytest.mark.parametrize("values", [[], [np.nan, 1], [1, np.inf], [[1, 2]], ["a"], 1.0])
def test_wrong_samples_are_refused(values):
    for call in (summarize, lambda v: a12(v, [1]), lambda v: pairwise_tests({"a": v, "b": [1]})):
        with pytest.raises(ConfigurationError, match="values"):
            call(values)


# Effect size and correction


def test_a12_counts_wins_and_half_ties(rng):
    x, y = rng.integers(0, 6, 9), rng.integers(1, 7, 12)
    wins = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in product(x, y)])
    assert a12(x, y) == pytest.approx(wins)
    assert a12(x, y) == pytest.approx(stats.mannwhitneyu(x, y).statistic / (9 * 12))
    assert a12(y, x) == pytest.approx(1 - wins)
    assert a12(x, y, larger_is_better=False) == pytest.approx(1 - wins)
    assert a12([1, 1], [1, 1]) == 0.5


def test_holm_agrees_with_statsmodels(rng):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for n in (1, 2, 6, 15):
        p = rng.random(n).round(1) * 0.2
        assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


# Pairs


def slow_signed_rank(d):
    """Two-sided p-value over all sign changes."""
    ranks = stats.rankdata(np.abs(d))
    center = ranks.sum() / 2
    sums = [ranks[list(signs)].sum() for signs in product([False, True], repeat=len(d))]
    return np.mean(np.abs(np.array(sums) - center) >= abs(ranks[d > 0].sum() - center) - 1e-9)


def slow_rank_sum(x, y):
    """Two-sided p-value over all ways to split the values."""
    ranks = stats.rankdata(np.concatenate([x, y]))
    center = len(x) * ranks.mean()
    sums = [ranks[list(part)].sum() for part in combinations(range(len(ranks)), len(x))]
    return np.mean(np.abs(np.array(sums) - center) >= abs(ranks[: len(x)].sum() - center) - 1e-9)


@pytest.mark.parametrize("digits", [1, 9])
@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_small_samples_are_tested_exactly_also_with_ties(n, digits, rng):
    x, y = rng.random(n).round(digits), rng.random(n).round(digits) + 0.2
    samples = {"a": x, "b": y}
    paired = pairwise_tests(samples, seeds=same_seeds(samples)).pairs[0]
    d = (x - y).round(9)
    assert paired.test == WILCOXON
    assert paired.p == pytest.approx(slow_signed_rank(d[d != 0]))
    apart = pairwise_tests(samples).pairs[0]
    assert apart.test == MANN_WHITNEY
    assert apart.p == pytest.approx(slow_rank_sum(x.round(9), y.round(9)))


@pytest.mark.parametrize("n", [12, 30, 80])
def test_families_agree_with_scikit_posthocs(n, rng):
    posthocs = pytest.importorskip("scikit_posthocs")
    samples = three(n, rng)
    found = pairwise_tests(samples, seeds=same_seeds(samples))
    table = posthocs.posthoc_wilcoxon(list(samples.values()), p_adjust="holm")
    for pair, (i, j) in zip(found.pairs, combinations((1, 2, 3), 2), strict=True):
        assert pair.p_adjusted == pytest.approx(table.loc[i, j])
    assert found.family_size == 3


def test_against_a_control_the_family_is_that_of_the_others(rng):
    samples = three(10, rng)
    everything = pairwise_tests(samples, seeds=same_seeds(samples))
    found = pairwise_tests(samples, seeds=same_seeds(samples), control="b")
    assert [(pair.first, pair.second) for pair in found.pairs] == [("a", "b"), ("c", "b")]
    assert found.family_size == 2
    p = [everything.pair("a", "b").p, everything.pair("b", "c").p]
    assert [pair.p for pair in found.pairs] == pytest.approx(p)
    assert [pair.p_adjusted for pair in found.pairs] == pytest.approx(holm(p))
    assert found.pairs[1].effect == pytest.approx(1 - everything.pair("b", "c").effect)
    with pytest.raises(UnknownNameError, match="control among the algorithms 'random'"):
        pairwise_tests(samples, control="random")


def test_runs_are_paired_by_seed_whatever_their_order(rng):
    samples = three(10, rng)
    seeds = same_seeds(samples)
    expected = pairwise_tests(samples, seeds=seeds)
    order = rng.permutation(10)
    moved = pairwise_tests(samples | {"b": samples["b"][order]}, seeds=seeds | {"b": order})
    assert moved == expected
    wrong = pairwise_tests(samples | {"b": samples["b"][order]}, seeds=seeds)
    assert wrong.pair("a", "b").p != expected.pair("a", "b").p


def test_other_seeds_are_not_paired(rng):
    samples = three(10, rng)
    seeds = same_seeds(samples) | {"c": range(1, 11)}
    found = pairwise_tests(samples, seeds=seeds)
    assert [pair.test for pair in found.pairs] == [WILCOXON, MANN_WHITNEY, MANN_WHITNEY]
    uneven = pairwise_tests({"a": samples["a"], "b": samples["b"][:7]})
    assert uneven.pairs[0].n == (10, 7)
    assert uneven.to_frame()["n"].tolist() == ["10/7"]


def test_the_direction_turns_the_effect_but_not_the_p(rng):
    samples = three(8, rng)
    up = pairwise_tests(samples, seeds=same_seeds(samples))
    down = pairwise_tests(samples, seeds=same_seeds(samples), larger_is_better=False)
    for a, b in zip(up.pairs, down.pairs, strict=True):
        assert a.effect == pytest.approx(1 - b.effect)
        assert a.effect == a12(samples[a.first], samples[a.second])
        assert (a.p, a.difference) == (b.p, b.difference)


@pytest.mark.parametrize("value", [0.0, 0.7])
@pytest.mark.parametrize("n", [1, 5, 60])
def test_equal_samples_have_p_one(n, value):
    samples = {"a": np.full(n, value), "b": np.full(n, value)}
    for seeds in (None, same_seeds(samples)):
        pair = pairwise_tests(samples, seeds=seeds).pairs[0]
        assert (pair.p, pair.p_adjusted, pair.effect, pair.difference) == (1, 1, 0.5, 0)


def test_values_that_differ_by_rounding_are_equal(rng):
    x = rng.random(6)
    samples = {"a": x, "b": x * (1 + 1e-15)}
    assert pairwise_tests(samples, seeds=same_seeds(samples)).pairs[0].p == 1


def test_differences_within_the_accuracy_are_not_interpreted(rng):
    x = 1 + 0.0001 * rng.random(12)
    noise = 1e-6 * rng.random((2, 12))
    samples = {"a": x, "b": x + 0.0002 + noise[0], "c": x + 0.1 + noise[1]}
    exact = pairwise_tests(samples, seeds=same_seeds(samples))
    rough = pairwise_tests(samples, seeds=same_seeds(samples), resolution=1e-3)
    assert exact.differ("a", "b")
    assert not rough.differ("a", "b")
    assert rough.differ("c", "b")
    assert "differ by less than 0.001" in rough.notes[0]


def test_notes_say_what_few_seeds_cannot_show():
    samples = {"a": [1, 2, 3, 4], "b": [5, 6, 7, 8], "c": [9, 10, 11, 12]}
    paired = pairwise_tests(samples, seeds=same_seeds(samples))
    assert {pair.p for pair in paired.pairs} == {0.125}
    assert paired.notes == (
        "with 4 runs the smallest p that Wilcoxon signed-rank can give is 0.125, or 0.375 after "
        "correction over 3: no difference can be shown at level 0.05 with fewer than 7 runs",
    )
    apart = pairwise_tests(samples)
    assert "0.0286, or 0.0857 after correction over 3" in apart.notes[0]
    assert not pairwise_tests({"a": range(7), "b": range(7)}).notes
    for pair in (*paired.pairs, *apart.pairs):
        assert pair.p == pytest.approx(pair.smallest_p)


def test_significant_never_stands_without_family_and_correction(rng):
    samples = three(12, rng, (0, 0, 5))
    found = pairwise_tests(samples, seeds=same_seeds(samples))
    text = str(found)
    assert text.count("significant") == 2
    assert text.count("significant (family of 3 comparisons, Holm correction)") == 2
    frame = found.to_frame()
    assert "p (family of 3 comparisons, Holm correction)" in frame
    assert frame["A12"].tolist() == [pair.effect for pair in found.pairs]


@pytest.mark.parametrize(
    ("samples", "options", "match"),
    [
        ({"a": [1, 2]}, {}, "at least two algorithms"),
        ({"a": [1, 2], "b": [1]}, {"seeds": {"a": [1, 2]}}, "'b' has 1 values"),
        ({"a": [1, 2], "b": [1]}, {"seeds": {"a": [1, 1], "b": [1]}}, "different seeds"),
        ({"a": [1, 2], "b": [1]}, {"unit": "problem"}, "one value per problem"),
        ({"a": [1, 2], "b": [1]}, {"alpha": 5}, "level"),
        ({"a": [1, 2], "b": [1, np.nan]}, {}, "values of 'b' hold 1 NaN"),
    ],
)
def test_wrong_families_are_refused(samples, options, match):
    with pytest.raises(ConfigurationError, match=match):
        pairwise_tests(samples, **options)


def test_unknown_pairs_are_refused():
    with pytest.raises(ConfigurationError, match="'a' and 'z' were not compared"):
        pairwise_tests({"a": [1], "b": [2]}).pair("a", "z")
