"""What is drawn in the figures, read back from them."""

import numpy as np
import pytest
from matplotlib.path import Path

from moofusion.comparison.curves import band
from moofusion.comparison.report.fronts import plot_fronts
from moofusion.comparison.report.heatmap import along_front, plot_coefficients
from moofusion.comparison.report.parallel import plot_parallel
from moofusion.comparison.report.progress import plot_progress
from moofusion.comparison.report.style import looks, reference_looks, save, styled
from moofusion.comparison.report.surfaces import compared_pairs, plot_attainment, plot_differences


def lines(axes):
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


@pytest.mark.parametrize("split", ["search", "test"])
def test_fronts_are_metrics_of_the_median_run(parts, split):
    section = parts["pair"]
    (axes,) = plot_fronts(section, split).axes
    found = lines(axes)
    for algorithm, name in section.names.items():
        volumes = section.hypervolumes(algorithm)
        run = section.of(algorithm)[volumes.index(sorted(volumes)[1])]
        assert found[name] == pytest.approx(100 * run.reported_values(split))
    for name in ("base", "average", "TIES 0.3"):
        assert found[name][0] == pytest.approx(100 * section.references(split)[name])
    assert {text.get_text() for text in axes.texts} == {"animals", "objects"}
    assert axes.get_xlabel() == "animals accuracy (%)"


def test_every_pair_of_objectives_has_its_panel(parts):
    figure = plot_fronts(parts["triple"], "test")
    outer = [(a.get_xlabel(), a.get_ylabel()) for a in figure.axes]
    loss = "fashion loss, less is better"
    assert outer == [
        ("", "objects accuracy (%)"),
        ("animals accuracy (%)", loss),
        ("objects accuracy (%)", ""),
    ]
    values = parts["triple"].typical("soup").reported_values("test")
    for axes, pair in zip(figure.axes, [(0, 1), (0, 2), (1, 2)], strict=True):
        scale = np.array([100, 100, 1])
        assert lines(axes)["soup"] == pytest.approx((values * scale)[:, pair])
    five = next(s for s in parts.values() if len(s.problem.tasks) == 5)
    assert len(plot_fronts(five, "search").axes) == 10


def attained_by(runs, point):
    """How many runs have a point at least as good (larger) in both metrics."""
    return sum(any((f >= point - 1e-9).all() for f in run) for run in runs)


def test_what_lies_below_the_median_surface_is_attained_by_half_of_the_runs(parts, rng):
    section = parts["pair"]
    (axes,) = plot_attainment(section).axes
    corners = np.array([[*axes.get_xlim()], [*axes.get_ylim()]]).T
    for name, line in lines(axes).items():
        algorithm = next(a for a, n in section.names.items() if n == name)
        runs = [100 * run.reported_values("test") for run in section.of(algorithm)]
        # The line and the worst corner enclose what half of the runs attained.
        region = Path(np.vstack([line, corners[0]]))
        inside = 0
        for point in rng.uniform(*corners, (300, 2)):
            below = region.contains_point(point)
            assert below == (attained_by(runs, point) >= 2)
            inside += below
        assert 20 < inside < 290


def test_colors_of_a_difference_are_shares_of_runs(parts, rng):
    section = parts["pair"]
    figure = plot_differences(section)
    pairs = compared_pairs(section)
    assert len(pairs) == 3
    for (first, second), axes in zip(pairs, figure.axes, strict=False):
        assert axes.get_title() == f"{section.names[first]} minus {section.names[second]}"
        (patches,) = axes.collections
        shares, boxes = patches.get_array(), [p.get_extents() for p in patches.get_paths()]
        runs = {
            a: [100 * run.reported_values("test") for run in section.of(a)] for a in (first, second)
        }
        corners = np.array([[*axes.get_xlim()], [*axes.get_ylim()]]).T
        seen = set()
        for point in rng.uniform(*corners, (400, 2)):
            expected = (attained_by(runs[first], point) - attained_by(runs[second], point)) / 3
            hit = [s for s, b in zip(shares, boxes, strict=True) if b.contains(*point)]
            assert (hit[0] if hit else 0.0) == pytest.approx(expected)
            seen.add(round(expected, 3))
        assert len(seen) > 1


def test_many_algorithms_are_compared_with_the_best_only(parts, monkeypatch):
    monkeypatch.setattr("moofusion.comparison.report.surfaces._MOST_PAIRS", 2)
    section = parts["pair"]
    best = max(section.algorithms, key=lambda a: np.mean(section.hypervolumes(a)))
    others = [a for a in section.algorithms if a != best]
    assert compared_pairs(section) == [(best, other) for other in others]


@pytest.mark.parametrize("axis", ["evaluations", "cost", "seconds"])
def test_progress_is_the_median_over_seeds(parts, axis):
    section = parts["triple"]
    (axes,) = plot_progress(section, [axis]).axes
    found = lines(axes)
    for algorithm, name in section.names.items():
        curves = section.curves(algorithm, axis)
        x, y = found[name].T
        assert y == pytest.approx(band(curves, x=x).median)
        assert y[-1] == pytest.approx(np.median([curve.y[-1] for curve in curves]), abs=0.05)
    assert (
        axes.get_xlabel()
        == {
            "evaluations": "evaluations",
            "cost": "cost units (samples)",
            "seconds": "device seconds",
        }[axis]
    )


def test_heat_map_shows_coefficients_in_order(parts):
    section = parts["pair"]
    front = section.front()
    objectives, variables = plot_coefficients(section, front).axes[:2]
    shown = np.asarray(variables.images[0].get_array())
    good = np.asarray(objectives.images[0].get_array())
    assert len(shown) == len(front)
    assert (np.diff(good[:, 0]) <= 0).all()
    expected = {tuple(row) for row in np.hstack([front.X, 1 - front.normalized()])}
    assert {tuple(row) for row in np.hstack([shown, good])} == expected


def test_long_fronts_are_thinned_in_the_heat_map_only(parts, monkeypatch):
    monkeypatch.setattr("moofusion.comparison.report.heatmap._MOST_ROWS", 5)
    front = parts["triple"].front()
    axes = plot_coefficients(parts["triple"], front).axes
    assert len(axes[1].images[0].get_array()) == 5
    assert f"5 of {len(front)} models" in axes[0].get_ylabel()


def test_order_along_a_front_keeps_groups_together(rng):
    F = rng.random((50, 4))
    order = along_front(F)
    assert sorted(order) == list(range(50))
    assert (np.diff(F[order].argmin(axis=1)) >= 0).all()


def test_parallel_coordinates_have_a_line_for_each_model(parts):
    section = next(s for s in parts.values() if len(s.problem.tasks) == 5)
    for algorithm, axes in zip(
        section.algorithms, plot_parallel(section, "search").axes, strict=True
    ):
        run = section.typical(algorithm)
        drawn = np.array([line.get_ydata() for line in axes.get_lines()])
        assert drawn[: len(run.reported)] == pytest.approx(1 - section.reported(run, "search"))


def test_algorithms_and_references_look_different():
    found = looks([f"a{i}" for i in range(20)]).values()
    assert len({(look.color, look.marker) for look in found}) == 20
    names = ["base", "x", "y", *(f"control {i}" for i in range(6))]
    references = reference_looks(names, ["x", "y"])
    controls = [references[name].marker for name in names[3:]]
    assert len(set(controls)) == 6
    assert references["x"] == references["y"]


def test_figures_ignore_the_settings_of_the_user(parts, tmp_path):
    import matplotlib

    def drawn(name):
        with styled():
            files = save(plot_fronts(parts["pair"], "test"), tmp_path / name)
        return [file.read_bytes() for file in files]

    plain = drawn("a")
    own = {"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 10, "backend": "pdf"}
    backend = matplotlib.rcParams["backend"]
    try:
        with matplotlib.rc_context(own):
            before = dict(matplotlib.rcParams)
            assert drawn("b") == plain
            assert dict(matplotlib.rcParams) == before
    finally:
        matplotlib.rcParams["backend"] = backend
