"""Rankings of algorithms over problems."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from moofusion.comparison.pairwise import WILCOXON
from moofusion.comparison.ranking import average_ranks, rank_over_problems
from moofusion.errors import ConfigurationError


def test_average_ranks_share_ties():
    scores = {"a": [1, 1, 3], "b": [2, 1, 2], "c": [3, 1, 1]}
    assert average_ranks(scores) == {"a": 2, "b": 2, "c": 2}
    assert average_ranks({"a": [0.1 + 0.2, 1], "b": [0.3, 2]}) == {"b": 1.25, "a": 1.75}
    assert average_ranks({"a": [1, 1], "b": [2, 2]}, larger_is_better=False) == {"a": 1, "b": 2}


def test_friedman_agrees_with_scipy(rng):
    scores = {name: rng.random(9) for name in "abcd"}
    found = rank_over_problems(scores)
    expected = stats.friedmanchisquare(*scores.values())
    assert found.friedman == pytest.approx((expected.statistic, expected.pvalue))
    assert found.tests.effect == "share of problems won"
    for pair in found.tests.pairs:
        assert pair.test == WILCOXON
        assert pair.effect == np.mean(scores[pair.first] > scores[pair.second])


def test_cliques_join_neighbours_that_do_not_differ(rng):
    a, c = 0.001 * rng.random((2, 12)) - [[0], [0.1]]
    # b is better than a on five problems, worse than c on five others, between them on two.
    b = np.repeat([0.02, -0.12, -0.05], [5, 5, 2]) - 0.001 * rng.random(12)
    scores = {"d": a - 0.9 - 0.001 * rng.random(12), "c": c, "b": b, "a": a}
    found = rank_over_problems(scores)
    assert list(found.ranks) == ["a", "b", "c", "d"]
    assert found.tests.differ("a", "c")
    assert found.cliques == (("a", "b"), ("b", "c"))


def test_no_clique_when_all_differ_and_one_when_friedman_sees_nothing(rng):
    base, noise = rng.random(12), 0.01 * rng.random(12)
    apart = rank_over_problems({"a": base, "b": base + 1 + noise, "c": base + 2 - noise})
    assert apart.cliques == ()
    assert apart.friedman[1] < 0.001
    same = rank_over_problems({"a": base, "b": base.copy(), "c": base.copy()})
    assert same.friedman == (0.0, 1.0)
    assert same.cliques == (("a", "b", "c"),)


def test_two_algorithms_need_no_friedman(rng):
    base = rng.random(8)
    found = rank_over_problems({"a": base, "b": base + 0.1})
    assert found.friedman is None
    assert found.ranks == {"b": 1.0, "a": 2.0}
    assert found.tests.pairs[0].p == pytest.approx(2 / 2**8)


def test_fewer_than_six_problems_are_refused():
    with pytest.raises(ConfigurationError, match="at least 6 problems, got 5"):
        rank_over_problems({"a": range(5), "b": range(5)})
    with pytest.raises(ConfigurationError, match="one value per problem each, got a: 6, b: 7"):
        rank_over_problems({"a": range(6), "b": range(7)})
    with pytest.raises(ConfigurationError, match="scores of 'b' hold 1 NaN"):
        rank_over_problems({"a": range(6), "b": [0, 1, 2, 3, 4, np.nan]})


def test_the_caption_and_the_frame_carry_family_and_correction(rng):
    base = rng.random(8)
    found = rank_over_problems({"a": base, "b": base + 0.1, "c": base - rng.random(8)})
    said = "family of 3 comparisons, Holm correction"
    assert said in found.caption
    frame = found.to_frame()
    assert said in frame.attrs["caption"]
    assert frame["algorithm"].tolist() == ["b", "a", "c"]
    assert "Not told apart: " in str(found)
