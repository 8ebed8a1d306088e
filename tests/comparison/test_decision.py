import numpy as np
import pytest

from moofusion.comparison import choose, meeting
from moofusion.errors import ConfigurationError, UnknownNameError
from moofusion.tasks import Metric
from moofusion.tasks.base import ACCURACY

NAMES = ["a", "b"]
# A quarter circle around the ideal point bulges away from it (hollow for weighted sums), one
# around the nadir bulges towards it.
ANGLES = np.linspace(0, np.pi / 2, 21)
CONCAVE = np.column_stack([np.cos(ANGLES), np.sin(ANGLES)])
CONVEX = 1 - CONCAVE


def test_a_weighted_sum_finds_the_middle_of_a_convex_front_and_an_end_of_a_concave_one():
    assert choose(CONVEX, "a=1,b=1", names=NAMES) == 10
    assert choose(CONCAVE, "a=0.6,b=0.4", names=NAMES) == 20
    assert choose(CONCAVE, "a=0.4,b=0.6", names=NAMES) == 0


def test_the_achievement_function_reaches_into_a_concave_front():
    assert choose(CONCAVE, "a=1,b=1", names=NAMES, by="asf") == 10
    nearer_a = choose(CONCAVE, "a=0.6,b=0.4", names=NAMES, by="asf")
    assert 10 < nearer_a < 20
    assert CONCAVE[nearer_a, 0] < CONCAVE[10, 0]


def test_pseudo_weights_follow_the_preference_along_the_front():
    picked = [choose(CONVEX, [w, 1 - w], names=NAMES, by="pseudo-weights") for w in (0.1, 0.5, 0.9)]
    losses = CONVEX[picked, 0]
    assert losses[0] > losses[1] > losses[2]
    assert picked[1] == 10


def test_the_knee_is_the_point_that_bulges_most():
    assert choose(CONVEX, names=NAMES, by="knee") == 10
    bent = [[0.0, 1.0], [0.1, 0.5], [0.15, 0.1], [0.6, 0.05], [1.0, 0.0]]
    assert choose(bent, names=NAMES, by="knee") == 2


def test_the_knee_does_not_depend_on_the_units_of_an_objective():
    stretched = CONVEX * [1.0, 1000.0] + [5.0, -3.0]
    assert choose(stretched, names=NAMES, by="knee") == 10


@pytest.mark.parametrize("by", ["weighted", "asf", "pseudo-weights"])
def test_a_preference_for_one_objective_takes_its_best_point(by):
    assert choose(CONVEX, {"a": 1.0}, names=NAMES, by=by) == CONVEX[:, 0].argmin()
    assert choose(CONVEX, {"b": 2.0}, names=NAMES, by=by) == CONVEX[:, 1].argmin()


@pytest.mark.parametrize("by", ["weighted", "asf", "pseudo-weights", "knee"])
def test_a_single_point_is_always_chosen(by):
    assert choose([[0.3, 0.7]], names=NAMES, by=by) == 0


@pytest.mark.parametrize("by", ["weighted", "asf", "pseudo-weights", "knee"])
def test_an_objective_that_is_the_same_everywhere_decides_nothing(by):
    front = [[0.5, 0.4, 1.0], [0.2, 0.1, 1.0], [0.9, 0.8, 1.0]]
    assert choose(front, names=["a", "b", "c"], by=by) == 1


@pytest.mark.parametrize("by", ["weighted", "asf"])
def test_points_that_tie_on_the_wanted_objective_are_told_apart_by_the_rest(by):
    assert choose([[0.0, 0.9], [0.0, 0.2]], "a=1", names=NAMES, by=by) == 1


@pytest.mark.parametrize("by", ["weighted", "asf", "pseudo-weights", "knee"])
def test_the_choice_does_not_change_what_it_is_given(by):
    front = CONVEX.copy()
    choose(front, names=NAMES, by=by)
    assert np.array_equal(front, CONVEX)


def test_the_weighted_choice_is_the_best_of_all(rng):
    front = rng.uniform(size=(50, 4))
    for weights in rng.dirichlet(np.ones(4), 20):
        index = choose(front, weights, names=list("abcd"))
        assert (front[index] @ weights) <= min(row @ weights for row in front) + 1e-12


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(UnknownNameError, match=r"unknown way to choose 'wieghted'.*'weighted'"):
        choose(CONVEX, names=NAMES, by="wieghted")
    with pytest.raises(UnknownNameError, match="unknown objective in the preference 'c'"):
        choose(CONVEX, "c=1", names=NAMES)
    with pytest.raises(ConfigurationError, match="without a preference"):
        choose(CONVEX, "a=1", names=NAMES, by="knee")
    with pytest.raises(ConfigurationError, match=r"shape \(P >= 1, 2\)"):
        choose(np.empty((0, 2)), names=NAMES)
    for wish in ("a=-1", "a=0,b=0", "a=nan", "a", "a=1,a=2", [1.0], [1.0, np.nan]):
        with pytest.raises(ConfigurationError, match="preference"):
            choose(CONVEX, wish, names=NAMES)


VALUES = np.array([[0.95, 20.0], [0.9, 12.0], [0.8, 9.0], [0.6, 8.0]])
METRICS = [ACCURACY, Metric("perplexity", "min")]


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ("a>=0.9", [0, 1]),
        ("a >= 90%, b<=15", [1]),
        ("b<=9", [2, 3]),
        ("a<=0.8,b>=8.5", [2]),
        ("b<=1e2", [0, 1, 2, 3]),
    ],
)
def test_conditions_cut_a_front_down(conditions, kept):
    found = meeting(conditions, VALUES, names=NAMES, metrics=METRICS)
    assert np.flatnonzero(found).tolist() == kept


def test_the_best_under_conditions_is_the_best_of_those_that_meet_them():
    F = np.column_stack([1 - VALUES[:, 0], VALUES[:, 1] / 20])
    among = meeting("b<=10", VALUES, names=NAMES, metrics=METRICS)
    assert choose(F, "a=1", names=NAMES) == 0
    assert choose(F, "a=1", names=NAMES, among=among) == 2
    assert choose(F, "b=1", names=NAMES, among=among) == 3
    # The knee of what is left, not the point of it closest to the knee of the whole.
    left = np.flatnonzero(among)
    assert choose(F, names=NAMES, by="knee", among=among) in left


@pytest.mark.parametrize("text", ["a", "a>0.9", "a=0.9", ">=1", "a>=x", "", "a>=0.9,"])
def test_conditions_that_cannot_be_read(text):
    with pytest.raises(ConfigurationError, match=r"expected a form such as a>=0\.9"):
        meeting(text, VALUES, names=NAMES, metrics=METRICS)


def test_conditions_on_unknown_objectives_and_beyond_reach():
    with pytest.raises(UnknownNameError, match="objective in the conditions 'c'"):
        meeting("c>=1", VALUES, names=NAMES, metrics=METRICS)
    with pytest.raises(ConfigurationError) as caught:
        meeting("a>=0.9,b<=9", VALUES, names=NAMES, metrics=METRICS)
    assert str(caught.value) == (
        "no model of the front meets a >= 90.0 % (the front has 60.0 % to 95.0 %) and b <= 9.0000 "
        "(the front has 8.0000 to 20.0000); relax them"
    )
