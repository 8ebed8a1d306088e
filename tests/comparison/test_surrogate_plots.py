"""Pictures of surrogates: what is drawn is what was measured and predicted."""

import re
import warnings

import numpy as np
import pytest
import tiny
from matplotlib.backends.backend_agg import FigureCanvasAgg
from pymoo.optimize import minimize

from moofusion.algorithms.map import MAP, NestedMAP
from moofusion.comparison import plot_calibration, plot_contours, plot_predicted
from moofusion.errors import ConfigurationError, EvaluationWarning, UnknownNameError
from moofusion.surrogates import MergeSurrogate, Target
from moofusion.tasks.base import Metric


def _run(algorithm, n, budget=30, **options):
    problem = tiny.net_problem("abcde"[: max(n, 2)], list("abcde"[:n]), **options)
    with warnings.catch_warnings():
        # Random networks are not what a quadratic predicts well.
        warnings.simplefilter("ignore", EvaluationWarning)
        run = minimize(problem, algorithm, ("n_eval", budget), seed=1).algorithm
        _ = run.surrogate
    return run


@pytest.fixture(scope="module", params=[1, 2, 5])
def run(request):
    """A finished MAP with so many objectives."""
    return _run(MAP(generations=5), request.param)


@pytest.fixture(scope="module")
def three():
    return _run(MAP(generations=5), 3)


def _drawn(axes, label):
    """Coordinates of the scatter of that label."""
    (found,) = (c for c in axes.collections if c.get_label() == label)
    return np.asarray(found.get_offsets())


def _percent(F):
    """Accuracies (%) of errors."""
    return 100 * (1 - F)


def _inside(figure):
    """Draws the figure; whether all of its text is inside of the picture."""
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    width, height = figure.canvas.get_width_height()
    parts = [axes.get_tightbbox(renderer) for axes in figure.axes]
    parts += [legend.get_window_extent(renderer) for legend in figure.legends]
    parts.append(figure._suptitle.get_window_extent(renderer))
    return all(
        p.x0 >= -1 and p.y0 >= -1 and p.x1 <= width + 1 and p.y1 <= height + 1 for p in parts
    )


def test_contours_show_every_evaluated_point_and_the_front(run):
    figure = plot_contours(run, "b", "a", predicted=[np.full(run.problem.n_var, 0.25)])
    assert _inside(figure)
    panels = figure.axes[: run.problem.n_obj]
    assert [p.get_title() for p in panels] == [f"{t} accuracy (%)" for t in run.problem.task_names]
    for axes in panels:
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("b", "a")
        verified = _drawn(axes, "verified")
        assert (verified == run.predicted.X[:, [1, 0]]).all()
        both = np.vstack([_drawn(axes, "design"), verified])
        X = run.evaluated.get("X").astype(float)[:, [1, 0]]
        assert sorted(map(tuple, both)) == sorted(map(tuple, X))
        assert _drawn(axes, "predicted").tolist() == [[0.25, 0.25]]
        assert (_drawn(axes, "real front") == run.opt.get("X")[:, [1, 0]]).all()
        (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert low <= X[:, 0].min() <= X[:, 0].max() <= high
        assert bottom <= X[:, 1].min() <= X[:, 1].max() <= top


def test_contours_are_the_predicted_metrics_at_the_given_point(three):
    at = np.array([0.1, 0.2, 0.7])
    figure = plot_contours(three, "a", "c", at=at)
    assert "with b = 0.2" in figure.get_suptitle()
    for j, axes in enumerate(figure.axes[:3]):
        filled = axes.collections[0]
        # Along each border between two colors the surrogate predicts its level.
        checked = 0
        for level, path in zip(filled.levels, filled.get_paths(), strict=False):
            vertices = path.vertices
            inner = (
                (vertices > [axes.get_xlim()[0] + 1e-9, axes.get_ylim()[0] + 1e-9])
                & (vertices < [axes.get_xlim()[1] - 1e-9, axes.get_ylim()[1] - 1e-9])
            ).all(axis=1)
            if not inner.any():
                continue
            X = np.tile(at, (inner.sum(), 1))
            X[:, [0, 2]] = vertices[inner]
            values = 100 * three.surrogate.metrics(X)[:, j]
            step = np.diff(filled.levels)[0]
            off = np.abs(values[:, None] - [level, level + step]).min(axis=1)
            assert off.max() < 0.1 * step
            checked += 1
        assert checked > 3


def test_a_surrogate_alone_shows_what_it_was_fitted_to(three):
    figure = plot_contours(three.surrogate, "a", "b")
    assert (_drawn(figure.axes[0], "sampled") == three.surrogate.support.X[:, :2]).all()
    held = re.search(r"c = ([\d.]+)", figure.get_suptitle()).group(1)
    X = three.surrogate.support.X
    assert np.isclose(X[:, 2], float(held), atol=5e-3).any()


def test_a_constant_metric_and_one_without_a_space_can_be_drawn(rng):
    X = rng.uniform(size=(12, 2))
    values = np.stack([np.full(12, 0.5), X[:, 0]], axis=1)
    surrogate = MergeSurrogate.fit(X, values, [Target.of(n, Metric("y", "min")) for n in "fg"])
    figure = plot_contours(surrogate, "x1", "x2")
    assert _inside(figure)
    assert figure.axes[0].get_title() == "f y, less is better"
    assert _inside(plot_calibration(surrogate))


def test_contours_refuse_what_they_cannot_draw(three):
    with pytest.raises(UnknownNameError, match=r"unknown coefficient 'd'.*Known: a, b, c"):
        plot_contours(three, "a", "d")
    with pytest.raises(ConfigurationError, match="x and y are both 'a'"):
        plot_contours(three, "a", "a")
    with pytest.raises(ConfigurationError, match=r"at: expected shape \(3,\), got \(2,\)"):
        plot_contours(three, "a", "b", at=[0.1, 0.2])
    with pytest.raises(ConfigurationError, match=r"at: expected shape \(3,\), got \(2, 3\)"):
        plot_contours(three, "a", "b", at=np.zeros((2, 3)))
    with pytest.raises(ConfigurationError, match=r"predicted: expected shape \(N, 3\)"):
        plot_contours(three, "a", "b", predicted=np.zeros((4, 2)))


def test_predicted_and_real_are_those_of_the_run(run):
    figure = plot_predicted(run)
    assert _inside(figure)
    assert len(figure.axes) == run.problem.n_obj
    predicted, gap = run.predicted, run.gap()
    real = run.measured(predicted.X)
    for j, axes in enumerate(figure.axes):
        points = _drawn(axes, "verified")
        assert np.allclose(points, _percent(np.stack([predicted.F[:, j], real[:, j]], axis=1)))
        shown = [float(x) for x in re.findall(r"[+-]?\d+\.\d", axes.get_title())]
        assert shown == pytest.approx(100 * gap.iloc[j, :3].to_numpy(float), abs=0.051)
        (line,) = axes.lines
        assert (line.get_xdata() == line.get_ydata()).all()
        for label, worse in (("worse than predicted", True), ("better than predicted", False)):
            (bars,) = (c for c in axes.collections if c.get_label() == label)
            ends = np.array(bars.get_segments()).reshape(-1, 2, 2)
            assert np.allclose(ends[:, 0, 0], ends[:, 0, 1])
            assert ((ends[:, 1, 1] < ends[:, 0, 1]) == worse).all()
            assert len(ends) == ((real[:, j] > predicted.F[:, j]) == worse).sum()


def test_less_is_better_is_drawn_the_other_way_up():
    run = _run(MAP(generations=5), 2, objective="loss")
    axes = plot_predicted(run).axes[0]
    real = run.measured(run.predicted.X)
    assert np.allclose(_drawn(axes, "verified")[:, 1], real[:, 0])
    (bars,) = (c for c in axes.collections if c.get_label() == "worse than predicted")
    ends = np.array(bars.get_segments())
    assert len(ends)
    assert (ends[:, 1, 1] > ends[:, 0, 1]).all()


def test_without_verified_points_there_is_nothing_to_compare():
    run = _run(MAP(n_samples=12), 2, budget=12)
    with pytest.raises(ConfigurationError, match="no predicted point was verified"):
        plot_predicted(run)
    assert len(plot_contours(run, "a", "b").axes) == 4


def test_nested_map_shows_what_each_merge_predicted():
    run = _run(NestedMAP(), 3)
    figure = plot_predicted(run)
    assert _inside(figure)
    for j, axes in enumerate(figure.axes):
        assert len(_drawn(axes, "verified")) == np.isfinite(run.predicted.F[:, j]).sum()
    assert _inside(plot_contours(run, "x1", "x2"))


def test_calibration_is_the_leave_one_out_of_the_fit(run):
    figure = plot_calibration(run.surrogate)
    assert _inside(figure)
    for axes, model in zip(figure.axes, run.surrogate.models, strict=True):
        loo = model.loo
        assert np.allclose(
            _drawn(axes, "left out"), np.stack([loo.predicted, loo.observed], axis=1)
        )
        numbers = [float(x) for x in re.findall(r"-?\d+\.\d+", axes.get_title())]
        assert numbers == pytest.approx([loo.r2, loo.rmse, loo.noise], abs=0.0051)
        (band,) = (c for c in axes.collections if c.get_label() == "noise floor")
        x, y = band.get_paths()[0].vertices.T
        assert np.abs(y - x).max() == pytest.approx(loo.noise)


def test_calibration_says_when_the_noise_is_not_known(rng):
    X = rng.uniform(size=(12, 2))
    surrogate = MergeSurrogate.fit(X, X**2, [Target.of(n, Metric("y", "min")) for n in "fg"])
    figure = plot_calibration(surrogate)
    assert "noise floor not known" in figure.axes[0].get_title()
    assert "noise floor" not in [c.get_label() for c in figure.axes[0].collections]
