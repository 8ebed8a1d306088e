import numpy as np
import pytest
import tiny
from matplotlib.backends.backend_agg import FigureCanvasAgg

import moofusion
from moofusion import FunctionTask, MergeProblem


def _search(experts, **options):
    problem = tiny.net_problem(experts, **options)
    return moofusion.search(problem, "random", evaluations=12, seed=1)


@pytest.fixture(scope="module", params=[1, 2, 3, 4, 5])
def result(request):
    """A finished search with so many objectives."""
    return _search("abcde"[: request.param])


def _points(axes):
    """All coordinates that are drawn as a scatter or as a single mark."""
    drawn = [tuple(p) for c in axes.collections for p in np.asarray(c.get_offsets())]
    return drawn + [tuple(map(float, xy)) for line in axes.lines for xy in line.get_xydata()]


@pytest.mark.parametrize("split", ["search", "test"])
def test_every_pair_shows_front_and_references(result, split):
    figure = result.plot(split=split)
    figure.canvas.draw()
    front, tasks = result.front, result.front.tasks
    if len(tasks) == 1:
        assert len(figure.axes) == 1
        drawn = {x for x, _ in _points(figure.axes[0])}
        assert set(100 * result.references.values(split)[:, 0]) <= drawn
        assert 100 * front.values(split)[0, 0] in drawn
        return
    assert len(figure.axes) == len(tasks) * (len(tasks) - 1) / 2
    panels = iter(figure.axes)
    for row in range(1, len(tasks)):
        for column in range(row):
            drawn = set(_points(next(panels)))
            for points in (front, result.references):
                pair = 100 * points.values(split)[:, [column, row]]
                assert {tuple(p) for p in pair} <= drawn
            if split == "search":
                assert {tuple(p) for p in 100 * result.evaluated[:, [column, row]]} <= drawn


def test_axes_are_named_and_everything_is_inside_of_the_picture(result):
    figure = result.plot()
    FigureCanvasAgg(figure).draw()
    tasks = result.front.tasks
    labels = [axes.get_xlabel() for axes in figure.axes] + [a.get_ylabel() for a in figure.axes]
    for task in tasks:
        assert f"{task} accuracy (%)" in labels
    renderer = figure.canvas.get_renderer()
    width, height = figure.canvas.get_width_height()
    parts = [axes.get_tightbbox(renderer) for axes in figure.axes]
    parts += [legend.get_window_extent(renderer) for legend in figure.legends]
    for box in parts:
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= width + 1
        assert box.y1 <= height + 1
    for legend in figure.legends:
        inside = legend.get_window_extent(renderer)
        assert not any(inside.overlaps(axes.get_window_extent(renderer)) for axes in figure.axes)


def test_the_legend_names_every_mark():
    figure = _search("ab").plot(split="search")
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == [
        "evaluated", "front", "base", "a expert", "b expert", "average", "task arithmetic 0.3",
        "knee",
    ]  # fmt: skip


def test_an_objective_that_shrinks_says_so():
    figure = _search("ab", objective="loss").plot()
    assert figure.axes[0].get_xlabel() == "a loss\n(less is better)"


def test_the_border_of_two_objectives_never_passes_a_better_model():
    result = moofusion.search(tiny.net_problem("ab"), "nsga2", evaluations=100, seed=1)
    for split in ("search", "test"):
        axes = result.plot(split=split).axes[0]
        border = next(line for line in axes.lines if line.get_linestyle() == "-")
        assert len(border.get_xydata()) >= 2
        x, y = border.get_xydata().T
        assert (np.diff(x) < 0).all()
        assert (np.diff(y) > 0).all()
        for a, b in 100 * result.front.values(split):
            assert not ((a > x) & (b > y)).all()


def test_models_that_failed_on_test_are_left_out_of_the_picture():
    pool = tiny.net_pool(("a", "b"))

    def size(module):
        return float(module.embed.weight.detach().norm())

    anchors = {size(m) for m in (tiny.net(), *pool.experts.values())}

    def only_anchors(module):
        return 1.0 if min(abs(size(module) - a) for a in anchors) < 1e-4 else float("nan")

    task = FunctionTask("own", size, test=only_anchors, direction="min", head="base")
    problem = MergeProblem(pool, [task, *tiny.net_tasks(pool, ["b"])])
    with pytest.warns(moofusion.errors.EvaluationWarning):
        result = moofusion.search(problem, "random", evaluations=12, seed=1)
    result.plot(split="test").canvas.draw()


def test_notebooks_show_table_and_picture():
    html = _search("ab")._repr_html_()
    assert "task arithmetic 0.3" in html
    assert "data:image/png;base64," in html


def test_a_plot_shows_itself_in_a_notebook():
    figure = _search("ab").plot()
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_result_is_described_in_one_line():
    result = _search("ab")
    assert repr(result).count("\n") == 0
    assert f"{len(result.front)} models on the front" in repr(result)
    assert f"test {result.hypervolume('test'):.4f}" in repr(result)
